//! What the rules for streams to a service say of one connection whose bytes are no HTTP, each of them, by the function that proxies decide
//! with.

use tonic::Status;
use tradewind_api::{
    ServicePortRef,
    proto::v1::{ExplainRequest, ExplainedBackend, ExplainedRule},
    route::{BackendRef, StreamRule},
    snapshot::Snapshot,
};
use tradewind_transport::route::{
    Caller, Mismatch, Part,
    stream::{self, StreamCall, StreamVerdict},
};

use super::{caller_namespace, rules::shares};

/// In the order in which they are asked; none where there are no rules.
pub(super) fn explain(
    snapshot: &Snapshot,
    called: &ServicePortRef,
    asked: &ExplainRequest,
) -> Result<Vec<ExplainedRule>, Status> {
    let namespace = caller_namespace(asked)?;
    let routes = snapshot.routes.get(&called.service);
    let Some(table) = routes.and_then(|r| r.streams.for_caller(&namespace)) else {
        return Ok(Vec::new());
    };
    let sni = Some(asked.server_name.as_str()).filter(|name| !name.is_empty());
    let call = StreamCall {
        port: called.port,
        sni,
        caller: Caller {
            namespace: &namespace,
            labels: &asked.caller_labels,
        },
    };
    let mut decided = false;
    let mut rules = Vec::new();
    for answer in stream::explain(table, &call) {
        let decides = answer.mismatch.is_none() && !decided;
        let verdict = match answer.mismatch {
            _ if decides => what(answer.rule),
            _ if decided => "not asked: one before it decides".to_owned(),
            Some(Mismatch::Is(Part::ServerName)) if sni.is_none() => {
                "the client asks for no server name".to_owned()
            }
            Some(mismatch) => mismatch.to_string(),
            None => String::new(),
        };
        rules.push(ExplainedRule {
            origin: answer.rule.origin.to_string(),
            decides,
            verdict,
            backends: if decides {
                backends(answer.rule, called)
            } else {
                Vec::new()
            },
        });
        decided |= decides;
    }
    let otherwise = match stream::decide(table, &call) {
        StreamVerdict::Rule(_) => return Ok(rules),
        StreamVerdict::Closed => "no rule is for this connection: it is closed",
        StreamVerdict::Service => "no rule is for this connection: it goes to the service",
    };
    rules.push(ExplainedRule {
        origin: String::new(),
        decides: true,
        verdict: otherwise.to_owned(),
        backends: Vec::new(),
    });
    Ok(rules)
}

/// What becomes of a connection, without the shares of those who take it.
fn what(rule: &StreamRule) -> String {
    let mut weighed = rule.to.iter().filter(|b| b.weight > 0).peekable();
    if weighed.peek().is_none() {
        return "closes it: no backend has a weight".to_owned();
    }
    let broken = weighed.filter_map(|b| match &b.to {
        BackendRef::Broken(why) => Some(why.as_str()),
        BackendRef::Service { .. } => None,
    });
    let broken: Vec<&str> = broken.collect();
    if broken.is_empty() {
        "sends on".to_owned()
    } else {
        format!("sends on, and closes the share of: {}", broken.join("; "))
    }
}

fn backends(rule: &StreamRule, called: &ServicePortRef) -> Vec<ExplainedBackend> {
    let weighed = rule.to.iter().filter(|b| b.weight > 0);
    shares(weighed.map(|b| (&b.to, b.weight)), called)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;
    use tradewind_api::route::Routes;

    use super::*;

    /// A rule that wants this, for everybody.
    fn rule(name: &str, when: serde_json::Value, to: &[(&str, u32)]) -> serde_json::Value {
        let backend = |(service, weight): &(&str, u32)| {
            let to = match service.strip_prefix('!') {
                Some(why) => json!({"broken": why}),
                None => json!({"service": {"service": service, "port": null, "subset": null}}),
            };
            json!({"to": to, "weight": weight})
        };
        json!({
            "origin": {"kind": "TLSRoute", "object": "shop/db", "rule": name, "cluster": null},
            "when": when,
            "to": to.iter().map(backend).collect::<Vec<_>>(),
        })
    }

    fn snapshot(rules: &[serde_json::Value], otherwise: &str) -> Snapshot {
        let table = json!({"rules": rules, "otherwise": otherwise});
        let routes = json!({"of_callers": {}, "of_all": null, "streams": {"of_all": table}});
        let routes: Routes = serde_json::from_value(routes).unwrap();
        let mut snapshot = Snapshot::default();
        let db = "shop/db".parse().unwrap();
        snapshot.routes.insert(db, Arc::new(routes));
        snapshot
    }

    /// Each rule's name, a mark where it decides, and its verdict; and the shares of the one that does.
    fn said(snapshot: &Snapshot, port: u16, sni: &str, label: Option<&str>) -> Vec<String> {
        let called: ServicePortRef = format!("shop/db:{port}").parse().unwrap();
        let asked = ExplainRequest {
            server_name: sni.to_owned(),
            caller_namespace: "front".to_owned(),
            caller_labels: label
                .iter()
                .map(|v| ("app".to_owned(), (*v).to_owned()))
                .collect(),
            ..ExplainRequest::default()
        };
        let rules = explain(snapshot, &called, &asked).unwrap();
        let line = |r: &ExplainedRule| {
            let share = |b: &ExplainedBackend| format!(" {:.2} {}", b.share, b.service);
            let shares: String = r.backends.iter().map(share).collect();
            let name = r.origin.rsplit(' ').next().unwrap_or_default();
            let mark = if r.decides { "=> " } else { "" };
            format!("{mark}{name}: {}{shares}", r.verdict)
        };
        rules.iter().map(line).collect()
    }

    #[test]
    fn each_rule_says_why_it_takes_a_connection_or_not() {
        let rules = [
            rule(
                "named",
                json!({"sni": ["a.example"]}),
                &[("shop/a", 3), ("shop/b", 1)],
            ),
            rule(
                "labelled",
                json!({"caller_labels": {"app": "web"}}),
                &[("shop/c", 1)],
            ),
            rule("ported", json!({"port": 5432}), &[("shop/d", 1)]),
        ];
        let snapshot = snapshot(&rules, "closed");
        assert_eq!(
            said(&snapshot, 5432, "A.example.", None),
            [
                "=> named: sends on 0.75 shop/a:5432 0.25 shop/b:5432",
                "labelled: not asked: one before it decides",
                "ported: not asked: one before it decides",
            ]
        );
        assert_eq!(
            said(&snapshot, 5432, "", None),
            [
                "named: the client asks for no server name",
                "labelled: the caller's label app does not match",
                "=> ported: sends on 1.00 shop/d:5432",
            ]
        );
        assert_eq!(
            said(&snapshot, 1, "b.example", Some("web")),
            [
                "named: the server name does not match",
                "=> labelled: sends on 1.00 shop/c:1",
                "ported: not asked: one before it decides",
            ]
        );
        assert_eq!(
            said(&snapshot, 1, "", None)[3],
            "=> : no rule is for this connection: it is closed"
        );
    }

    #[test]
    fn what_nobody_takes_is_closed_or_goes_on() {
        let idle = [rule("idle", json!({}), &[("shop/a", 0)])];
        assert_eq!(
            said(&snapshot(&idle, "closed"), 80, "", None),
            ["=> idle: closes it: no backend has a weight"]
        );
        let broken = [rule(
            "half",
            json!({}),
            &[("shop/a", 1), ("!no such service", 1)],
        )];
        assert_eq!(
            said(&snapshot(&broken, "closed"), 80, "", None),
            ["=> half: sends on, and closes the share of: no such service 0.50 shop/a:80"]
        );
        let other = [rule("other", json!({"port": 81}), &[("shop/a", 1)])];
        for otherwise in ["closed", "service"] {
            let said = said(&snapshot(&other, otherwise), 80, "", None);
            assert_eq!(
                said[1], "=> : no rule is for this connection: it goes to the service",
                "a route says nothing of other ports"
            );
        }
        assert!(said(&Snapshot::default(), 80, "", None).is_empty());
    }
}
