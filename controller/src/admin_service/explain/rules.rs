//! What the rules for a service say of one request, each of them, by the function that proxies decide with.

use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use tonic::{Code, Status};
use tradewind_api::{
    ServicePortRef,
    model::{Endpoint, Health},
    proto::v1::{ExplainRequest, ExplainedBackend, ExplainedRule},
    route::{BackendRef, Otherwise, Persistence},
    snapshot::Snapshot,
};
use tradewind_transport::route::{
    Call, Caller, Compiled, CompiledRule, CorsAnswer, persistence::Brought,
};

use super::caller_namespace;
use crate::answer::refuse;

/// A request's method and the rest where nothing is said of them.
const USUAL: (Method, &str) = (Method::GET, "/");

/// In the order in which they are asked; none where there are no rules.
pub(super) fn explain(
    snapshot: &Snapshot,
    called: &ServicePortRef,
    asked: &ExplainRequest,
    now_ms: u64,
) -> Result<Vec<ExplainedRule>, Status> {
    let Some(routes) = snapshot.routes.get(&called.service) else {
        return Ok(Vec::new());
    };
    let namespace = caller_namespace(asked)?;
    let Some(table) = routes.for_caller(&namespace) else {
        return Ok(Vec::new());
    };
    let bad = |what: &str, value: &str, hint: &str| {
        refuse(
            Code::InvalidArgument,
            format!("{value:?} is no {what}"),
            hint,
        )
    };
    let method = match asked.method.as_str() {
        "" => USUAL.0,
        method => Method::from_bytes(method.as_bytes())
            .map_err(|_| bad("method", method, "write --method GET"))?,
    };
    let path = or(&asked.path, USUAL.1);
    let uri: Uri = path
        .parse()
        .map_err(|_| bad("path", path, "write --path /with?a=query"))?;
    let mut headers = HeaderMap::new();
    for header in &asked.headers {
        let (name, value) = (
            HeaderName::from_bytes(header.name.as_bytes()),
            HeaderValue::from_str(&header.value),
        );
        let (Ok(name), Ok(value)) = (name, value) else {
            let text = format!("{}: {}", header.name, header.value);
            return Err(bad("header field", &text, "write --header 'name: value'"));
        };
        headers.append(name, value);
    }
    let usual_host = format!("{}.{}", called.service.name(), called.service.namespace);
    let call = Call {
        port: called.port,
        method: &method,
        scheme: "http",
        authority: or(&asked.host, &usual_host),
        path: uri.path(),
        query: uri.query(),
        headers: &headers,
        caller: Caller {
            namespace: &namespace,
            labels: &asked.caller_labels,
        },
    };
    let compiled = Compiled::new(table);
    let mut decided = false;
    let mut rules = Vec::new();
    for answer in compiled.explain(&call) {
        let decides = answer.mismatch.is_none() && !decided;
        let session = if decides && !answers_itself(answer.rule, &call) {
            Session::of(snapshot, called, answer.rule, (&headers, now_ms))
        } else {
            Session::None
        };
        let verdict = match answer.mismatch {
            _ if decides => what(answer.rule, &call, &session),
            _ if decided => "not asked: one before it decides".to_owned(),
            Some(mismatch) => mismatch.to_string(),
            None => String::new(),
        };
        rules.push(ExplainedRule {
            origin: answer.rule.origin.to_string(),
            decides,
            verdict,
            backends: if decides && !answers_itself(answer.rule, &call) {
                backends(answer.rule, called, &session)
            } else {
                Vec::new()
            },
        });
        decided |= decides;
    }
    if !decided {
        let verdict = match table.otherwise {
            Otherwise::NotFound => "no rule is for this request: 404",
            Otherwise::Service => "no rule is for this request: it goes to the service",
        };
        rules.push(ExplainedRule {
            origin: String::new(),
            decides: true,
            verdict: verdict.to_owned(),
            backends: Vec::new(),
        });
    }
    Ok(rules)
}

fn or<'a>(text: &'a str, usual: &'a str) -> &'a str {
    if text.is_empty() { usual } else { text }
}

/// Whether the caller's proxy answers a browser's preflight by the rule.
fn answers_itself(rule: &CompiledRule, call: &Call<'_>) -> bool {
    let asked = rule.cors.as_ref().map(|cors| cors.ask(call));
    matches!(asked, Some(CorsAnswer::Preflight(_)))
}

/// What the request's persistent session makes of the choice.
enum Session {
    /// The rule has none.
    None,
    /// It goes where one without a session does, and why.
    Begins(String),
    /// It goes to that backend of the rule's, and to that endpoint.
    Leads(usize, String),
}

impl Session {
    fn of(
        snapshot: &Snapshot,
        called: &ServicePortRef,
        rule: &CompiledRule,
        (request, now_ms): (&HeaderMap, u64),
    ) -> Self {
        let Some(persistence) = &rule.persistence else {
            return Self::None;
        };
        let held = match persistence.ask(request, rule.backends(), now_ms) {
            Brought::Held(held) => held,
            Brought::Nothing => return Self::Begins("begins a session".to_owned()),
            Brought::Refused(why) => return Self::Begins(format!("begins a session: {why}")),
        };
        let to = rule.backends().get(held.backend).map(|b| &b.to);
        let endpoint = match to {
            Some(BackendRef::Service { service, port, .. }) => {
                let all = snapshot.services.get(service).map(|s| &s.endpoints);
                let port = port.unwrap_or(called.port);
                let its = |e: &&Endpoint| e.id == held.endpoint && e.ports.contains(&port);
                all.into_iter().flatten().find(its)
            }
            Some(BackendRef::Broken(_)) | None => None,
        };
        match endpoint {
            Some(e) if e.health == Health::Unhealthy => {
                Self::Begins(format!("begins a session: endpoint {} is unhealthy", e.id))
            }
            Some(e) => {
                let words = format!("its session is with endpoint {} in {}", e.id, e.cluster);
                Self::Leads(held.backend, words)
            }
            None => Self::Begins(format!(
                "begins a session: endpoint {} is gone",
                held.endpoint
            )),
        }
    }
}

/// What a rule makes of a request, in words.
fn what(rule: &CompiledRule, call: &Call<'_>, session: &Session) -> String {
    let action = &rule.then;
    let mut words = Vec::new();
    match rule.cors.as_ref().map(|cors| cors.ask(call)) {
        Some(CorsAnswer::Preflight(_)) => return "answers the preflight itself".to_owned(),
        Some(CorsAnswer::Told(permit)) if permit.is_given() => {
            words.push("permits the origin".to_owned());
        }
        Some(CorsAnswer::Told(_)) | None => {}
    }
    words.extend(action.fault.words());
    words.push(action.to.words());
    words.extend(action.persistence.iter().map(Persistence::words));
    match session {
        Session::None => {}
        Session::Begins(why) | Session::Leads(_, why) => words.push(why.clone()),
    }
    let mirrors = action.mirrors.iter();
    words.extend(mirrors.map(|mirror| mirror.words(Some(call.port))));
    if let Some(ms) = action.timeouts.whole_ms {
        words.push(format!("within {ms} ms"));
    }
    words.join(", ")
}

/// The rule's backends with their shares; where a session leads to one, that one alone.
fn backends(
    rule: &CompiledRule,
    called: &ServicePortRef,
    session: &Session,
) -> Vec<ExplainedBackend> {
    let all = rule.backends();
    match session {
        Session::Leads(index, _) => {
            let led = all.get(*index).map(|b| (&b.to, 1));
            shares(led.into_iter(), called)
        }
        Session::None | Session::Begins(_) => shares(all.iter().map(|b| (&b.to, b.weight)), called),
    }
}

/// Backends with their shares; those that cannot be called are left out, and their share with them.
pub(super) fn shares<'a>(
    backends: impl Iterator<Item = (&'a BackendRef, u32)> + Clone,
    called: &ServicePortRef,
) -> Vec<ExplainedBackend> {
    let all: u64 = backends.clone().map(|(_, weight)| u64::from(weight)).sum();
    let share = |weight: u32| f64::from(weight) / (all.max(1) as f64);
    let found = backends.filter_map(|(to, weight)| match to {
        BackendRef::Service {
            service,
            port,
            subset,
        } => Some(ExplainedBackend {
            service: ServicePortRef {
                service: service.clone(),
                port: port.unwrap_or(called.port),
            }
            .to_string(),
            share: share(weight),
            subset: subset.clone().unwrap_or_default(),
        }),
        BackendRef::Broken(_) => None,
    });
    found.collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http::header::SET_COOKIE;
    use serde_json::json;
    use tradewind_api::{
        id::EndpointId,
        model::{Service, ServiceKind},
        proto::v1::ExplainedHeader,
        route::Routes,
        traffic::Labels,
    };

    use super::*;

    const NOW_MS: u64 = 1_800_000_000_000;

    /// A rule for a cart's calls that keeps clients for an hour, with all new ones going to its second version.
    fn snapshot() -> Snapshot {
        let to = |name: &str, weight: u32| {
            let service = json!({"service": name, "port": 80, "subset": null});
            json!({"to": {"service": service}, "weight": weight})
        };
        let cookie = json!({"cookie": {"name": "cart", "path": "/", "permanent": false}});
        let rule = json!({
            "origin": {"kind": "HTTPRoute", "object": "shop/cart", "rule": "r", "cluster": null},
            "when": {},
            "then": {
                "to": {"backends": [to("shop/v1", 0), to("shop/v2", 1)]},
                "persistence": {"by": cookie, "absolute_ms": 3_600_000},
            },
        });
        let table = json!({"rules": [rule], "otherwise": "not-found"});
        let routes: Routes =
            serde_json::from_value(json!({"of_callers": {}, "of_all": table})).unwrap();
        let mut snapshot = Snapshot::default();
        let cart = "shop/cart".parse().unwrap();
        snapshot.routes.insert(cart, Arc::new(routes));
        snapshot
    }

    /// The first version's endpoint, as well as it is.
    fn with_endpoint(snapshot: &mut Snapshot, health: Health) {
        let endpoint = Endpoint {
            id: EndpointId::new("e1").unwrap(),
            cluster: "east".parse().unwrap(),
            region: "eu".parse().unwrap(),
            zone: None,
            weight: 100,
            health,
            identity: "spiffe://east.mesh.internal/ns/shop/sa/v1".parse().unwrap(),
            address: None,
            mesh_ips: vec![],
            hostname: None,
            labels: Labels::new(),
            ports: vec![80],
            targets: Default::default(),
        };
        let service = Service {
            name: "shop/v1".parse().unwrap(),
            kind: ServiceKind::ClusterSetIp,
            clusterset_ips: Vec::new(),
            cluster_ips: Vec::new(),
            ports: Vec::new(),
            exported_by: [].into(),
            endpoints: vec![endpoint],
            seals: Vec::new(),
        };
        let name = service.name.clone();
        snapshot.services.insert(name, Arc::new(service));
    }

    /// The verdict and the backends with their shares.
    fn said(snapshot: &Snapshot, cookie: Option<&str>, now_ms: u64) -> (String, Vec<String>) {
        let header = |value: &str| ExplainedHeader {
            name: "cookie".to_owned(),
            value: value.to_owned(),
        };
        let asked = ExplainRequest {
            headers: cookie.map(header).into_iter().collect(),
            ..ExplainRequest::default()
        };
        let called = "shop/cart:80".parse().unwrap();
        let rules = explain(snapshot, &called, &asked, now_ms).unwrap();
        let share = |b: &ExplainedBackend| format!("{} {}", b.share, b.service);
        let backends = rules[0].backends.iter().map(share).collect();
        (rules[0].verdict.clone(), backends)
    }

    #[test]
    fn where_a_session_leads_is_said_and_why_one_begins() {
        let mut snapshot = snapshot();
        with_endpoint(&mut snapshot, Health::Healthy);
        let routes = &snapshot.routes[&"shop/cart".parse().unwrap()];
        let compiled = Compiled::new(routes.of_all.as_ref().unwrap());
        let empty = HeaderMap::new();
        let call = Call {
            port: 80,
            method: &Method::GET,
            scheme: "http",
            authority: "",
            path: "/",
            query: None,
            headers: &empty,
            caller: Caller {
                namespace: &"shop".parse().unwrap(),
                labels: &Labels::new(),
            },
        };
        let rule = compiled.explain(&call)[0].rule;
        let mut told = HeaderMap::new();
        let endpoint = EndpointId::new("e1").unwrap();
        let persistence = rule.persistence.as_ref().unwrap();
        persistence.begin(&rule.backends()[0].to, &endpoint, NOW_MS, &mut told);
        let cookie = told[SET_COOKIE].to_str().unwrap().to_owned();
        let by_weight = ["0 shop/v1:80", "1 shop/v2:80"].map(str::to_owned).to_vec();

        let (verdict, to) = said(&snapshot, Some(&cookie), NOW_MS);
        assert!(
            verdict.ends_with("its session is with endpoint e1 in east"),
            "{verdict}"
        );
        assert_eq!(to, ["1 shop/v1:80"]);
        let over = NOW_MS + 3_600_000;
        for (cookie, now_ms, why) in [
            (None, NOW_MS, "begins a session"),
            (
                Some("cart=x"),
                NOW_MS,
                "begins a session: it is no token of a session",
            ),
            (
                Some(cookie.as_str()),
                over,
                "begins a session: its session has lasted as long as the rule allows",
            ),
        ] {
            let (verdict, to) = said(&snapshot, cookie, now_ms);
            assert!(verdict.contains("keeps a client"), "{verdict}");
            assert!(verdict.ends_with(why), "{verdict}");
            assert_eq!(to, by_weight);
        }
        with_endpoint(&mut snapshot, Health::Unhealthy);
        let (verdict, to) = said(&snapshot, Some(&cookie), NOW_MS);
        assert!(verdict.ends_with("endpoint e1 is unhealthy"), "{verdict}");
        assert_eq!(to, by_weight);
        snapshot.services.clear();
        let (verdict, _) = said(&snapshot, Some(&cookie), NOW_MS);
        assert!(verdict.ends_with("endpoint e1 is gone"), "{verdict}");
    }
}
