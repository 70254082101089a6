//! One intent, written in each of the three languages, makes the same rules.

use std::sync::Arc;

use proptest::prelude::*;
use tradewind_api::route::{Kind, Origin, Otherwise};

use super::*;

/// A split, for all requests or for those with a header.
#[derive(Clone, Debug)]
struct Intent {
    weights: [u32; 2],
    header: Option<(String, String)>,
}

fn intents() -> impl Strategy<Value = Intent> {
    let weights = prop::array::uniform2(1_u32..1_000);
    // Quoted or not, no word of YAML's own comes out of it.
    let header = prop::option::of(("x-[a-z]{1,8}", "x[a-z]{1,5}(\\.\\*)?"));
    (weights, header).prop_map(|(weights, header)| Intent { weights, header })
}

impl Intent {
    fn gateway_api(&self) -> String {
        let [a, b] = self.weights;
        let matches = self.header.as_ref().map_or(String::new(), |(n, v)| {
            format!(
                "    matches: [{{headers: [{{type: RegularExpression, name: {n}, value: '{v}'}}]}}]"
            )
        });
        format!(
            "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: x, namespace: shop}}
spec:
  parentRefs: [{{group: '', kind: Service, name: cart}}]
  rules:
  - backendRefs:
    - {{name: v1, port: 80, weight: {a}}}
    - {{name: v2, port: 80, weight: {b}}}
{matches}"
        )
    }

    fn istio(&self) -> String {
        let [a, b] = self.weights;
        let matches = self.header.as_ref().map_or(String::new(), |(n, v)| {
            format!("    match: [{{headers: {{{n}: {{regex: '{v}'}}}}}}]")
        });
        format!(
            "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: x, namespace: shop}}
spec:
  hosts: [cart.shop.svc.cluster.local]
  http:
  - route:
    - {{destination: {{host: v1}}, weight: {a}}}
    - {{destination: {{host: v2, port: {{number: 80}}}}, weight: {b}}}
{matches}"
        )
    }

    fn smi(&self) -> String {
        let [a, b] = self.weights;
        let split = format!(
            "
apiVersion: split.smi-spec.io/v1alpha4
kind: TrafficSplit
metadata: {{name: x, namespace: shop}}
spec:
  service: cart
  backends:
  - {{service: v1, weight: {a}}}
  - {{service: v2, weight: {b}}}
"
        );
        match &self.header {
            None => split,
            Some((n, v)) => format!(
                "{split}  matches: [{{kind: HTTPRouteGroup, name: g}}]
---
apiVersion: specs.smi-spec.io/v1alpha4
kind: HTTPRouteGroup
metadata: {{name: g, namespace: shop}}
spec: {{matches: [{{headers: {{{n}: '{v}'}}}}]}}"
            ),
        }
    }
}

/// What is left when it does not matter who wrote it. What becomes of other requests is each language's own affair.
fn bare(yaml: &str) -> Table {
    let policy = compiled(yaml);
    let mut wrong = policy
        .findings
        .iter()
        .filter(|f| f.code != Code::UnsupportedField);
    assert!(wrong.next().is_none(), "{:?}\n{yaml}", policy.findings);
    let mut table = table_of(&policy, "shop/cart").clone();
    for rule in &mut table.rules {
        rule.origin = Origin {
            kind: Kind::HttpRoute,
            object: "any/any".parse().unwrap(),
            rule: String::new(),
            cluster: None,
        };
        rule.then = Arc::new(rule.then.as_ref().clone());
    }
    table.otherwise = Otherwise::NotFound;
    table
}

proptest! {
    #[test]
    fn three_languages_make_the_same_rules(intent in intents()) {
        let by_gateway_api = bare(&intent.gateway_api());
        prop_assert_eq!(by_gateway_api.rules.len(), 1);
        prop_assert_eq!(&by_gateway_api, &bare(&intent.istio()));
        prop_assert_eq!(&by_gateway_api, &bare(&intent.smi()));
    }
}

/// What the first two can say and the third cannot.
#[test]
fn two_languages_make_the_same_of_more() {
    let gateway_api = "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: x, namespace: shop}
spec:
  parentRefs: [{group: '', kind: Service, name: cart}]
  rules:
  - matches:
    - path: {type: Exact, value: /a}
      method: POST
      headers: [{name: X-User, value: ann}]
      queryParams: [{name: q, value: '1'}]
    filters:
    - type: RequestHeaderModifier
      requestHeaderModifier: {set: [{name: A, value: '1'}], remove: [B]}
    - type: URLRewrite
      urlRewrite: {hostname: other.example, path: {type: ReplacePrefixMatch, replacePrefixMatch: /z}}
    - type: RequestMirror
      requestMirror: {backendRef: {name: v2, port: 80}, percent: 5}
    timeouts: {request: 3s}
    backendRefs: [{name: v1, port: 80, weight: 7}]
  - backendRefs: [{name: v2, port: 80}]
";
    let istio = "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: x, namespace: shop}
spec:
  hosts: [cart]
  http:
  - match:
    - uri: {exact: /a}
      method: {exact: POST}
      headers: {x-user: {exact: ann}}
      queryParams: {q: {exact: '1'}}
    headers: {request: {set: {a: '1'}, remove: [b]}}
    rewrite: {authority: other.example, uri: /z}
    mirror: {host: v2}
    mirrorPercentage: {value: 5.0}
    timeout: 3000ms
    route: [{destination: {host: v1}}]
  - route: [{destination: {host: v2}}]
";
    assert_eq!(bare(gateway_api), bare(istio));
}
