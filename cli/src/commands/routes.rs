//! `tradewind routes`: what rules hold for the calls to each service here, and whose they are; with a service named, all that
//! they say, and how many requests its endpoints here take.

use serde_json::{Value, json};
use tradewind_api::{
    ClusterName, Namespace, ServiceName,
    proto::v1,
    route::{Origin, Routes, Rule, StreamRule, StreamTable, Table},
    traffic::{Labels, PerPort, TrafficPolicy},
};

use super::{Context, limits};
use crate::{
    admin::{Admin, Where},
    exit::{Exit, Failure, Outcome},
    output::{Format, Listing, Output},
    table::{self, or_dash},
};

/// `tradewind routes shop/cart`
#[derive(Debug, clap::Args)]
pub struct Show {
    /// The service whose rules are shown one by one [default: a line for each service that has some]
    #[arg(value_name = "NAMESPACE/NAME")]
    service: Option<ServiceName>,
    #[command(flatten)]
    place: Where,
    #[command(flatten)]
    output: Output,
}

/// What holds for the calls to a service.
#[derive(Debug)]
struct Held {
    said: v1::ServiceRoutes,
    routes: Routes,
}

/// Shows it.
pub async fn run(context: Context, args: Show) -> Outcome {
    let admin = Admin::connect(&args.place).await?;
    let service = args.service.as_ref().map(ToString::to_string);
    let request = v1::RoutesRequest {
        service: service.unwrap_or_default(),
    };
    let found = admin
        .all(request, async |mut c, r| c.list_routes(r).await)
        .await?;
    let found: Vec<Held> = found.into_iter().map(read).collect::<Result<_, _>>()?;
    if args.service.is_some() && args.output.format == Format::Table {
        for held in &found {
            context.printer.data(described(held));
        }
        return Ok(Exit::Good);
    }
    Listing {
        schema: "tradewind.routes/v1",
        table: table(&found),
        names: found.iter().map(|h| h.said.service.clone()).collect(),
        json: json!({
            "revision": found.first().map(|h| h.said.revision),
            "services": found.iter().map(as_json).collect::<Vec<_>>(),
        }),
        empty: "no rules hold: calls go to the services themselves",
    }
    .show(context.printer, args.output);
    Ok(Exit::Good)
}

fn read(said: v1::ServiceRoutes) -> Result<Held, Failure> {
    match serde_json::from_str(&said.json) {
        Ok(routes) => Ok(Held { said, routes }),
        Err(error) => Err(Failure::problem(format!(
            "the rules for {} are not understood: {error}",
            said.service
        ))
        .hint("use the `tradewind` of the controller's own version")),
    }
}

/// Whose calls a line is about: a namespace's, or everybody else's.
type Callers<'a> = Option<&'a Namespace>;

/// All that something is said for, everybody else last.
fn callers(routes: &Routes) -> Vec<Callers<'_>> {
    let by_policy = routes.traffic.iter().filter_map(|p| p.namespace.as_ref());
    let by_rules = routes
        .of_callers
        .keys()
        .chain(routes.streams.of_callers.keys());
    let mut named: Vec<&Namespace> = by_rules.chain(by_policy).collect();
    named.sort_unstable();
    named.dedup();
    let for_all = routes.of_all.is_some()
        || routes.streams.of_all.is_some()
        || routes.traffic.iter().any(|p| p.namespace.is_none());
    let named = named.into_iter().map(Some);
    named.chain(for_all.then_some(None)).collect()
}

/// One rule in words.
#[derive(Debug)]
struct Said<'a> {
    origin: &'a Origin,
    when: Vec<String>,
    then: Vec<String>,
}

/// Rules in order, and what becomes of what none of them is for.
#[derive(Debug)]
struct Rules<'a> {
    what: &'static str,
    every: &'static str,
    rules: Vec<Said<'a>>,
    otherwise: &'static str,
}

impl<'a> Rules<'a> {
    fn of_calls(table: &'a Table) -> Self {
        let said = |rule: &'a Rule| Said {
            origin: &rule.origin,
            when: rule.when.words(),
            then: rule.then.words(),
        };
        Self {
            what: "calls",
            every: "every request",
            rules: table.rules.iter().map(said).collect(),
            otherwise: table.otherwise.words(),
        }
    }

    fn of_streams(table: &'a StreamTable) -> Self {
        let said = |rule: &'a StreamRule| Said {
            origin: &rule.origin,
            when: rule.when.words(),
            then: rule.words(),
        };
        Self {
            what: "connections",
            every: "every connection",
            rules: table.rules.iter().map(said).collect(),
            otherwise: table.otherwise.words(),
        }
    }
}

/// The rules that hold for them: for their requests, and for connections whose bytes are no HTTP.
fn rules<'a>(routes: &'a Routes, callers: Callers<'_>) -> [Option<Rules<'a>>; 2] {
    let streams = &routes.streams;
    let (calls, streams) = match callers {
        Some(namespace) => (routes.for_caller(namespace), streams.for_caller(namespace)),
        None => (routes.of_all.as_ref(), streams.of_all.as_ref()),
    };
    [
        calls.map(|t| Rules::of_calls(t)),
        streams.map(|t| Rules::of_streams(t)),
    ]
}

/// The policies that may hold for them, strongest first: up to the first that asks for no label.
fn policies<'a>(routes: &'a Routes, callers: Callers<'_>) -> Vec<&'a TrafficPolicy> {
    let all = routes.traffic.iter().map(|p| &**p);
    let theirs = all.filter(|p| p.namespace.is_none() || p.namespace.as_ref() == callers);
    let mut found = Vec::new();
    for policy in theirs {
        found.push(policy);
        if policy.caller_labels.is_empty() {
            break;
        }
    }
    found
}

/// The object, without the rule in it.
fn object(origin: &Origin) -> String {
    let of = origin.cluster.as_ref().map(|c| format!(" of {c}"));
    format!(
        "{} {}{}",
        origin.kind.as_str(),
        origin.object,
        of.unwrap_or_default()
    )
}

/// Each once, in order.
fn objects(rules: &[Option<Rules<'_>>; 2]) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for rule in rules.iter().flatten().flat_map(|r| &r.rules) {
        let object = object(rule.origin);
        if !found.contains(&object) {
            found.push(object);
        }
    }
    found
}

fn labels(labels: &Labels) -> String {
    let pairs: Vec<_> = labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
    pairs.join(",")
}

/// A policy, and which of the callers it asks for.
fn policy_words(policy: &TrafficPolicy) -> String {
    let with = if policy.caller_labels.is_empty() {
        String::new()
    } else {
        format!(" ({})", labels(&policy.caller_labels))
    };
    format!("{}{with}", object(&policy.origin))
}

/// What of these callers' rules travels with exports: that is only said for everybody.
fn published(held: &Held, callers: Callers<'_>) -> Vec<String> {
    if callers.is_some() {
        return Vec::new();
    }
    let own = held.said.published.map(|format| format!("format {format}"));
    let from = |(cluster, format): (&String, &u32)| format!("from {cluster}, format {format}");
    own.into_iter()
        .chain(held.said.received.iter().map(from))
        .collect()
}

fn table(found: &[Held]) -> table::Table {
    let mut table = table::Table::new(&[
        "SERVICE",
        "CALLERS",
        "FROM",
        ">RULES",
        "POLICY",
        "PUBLISHED",
        "LIMITS",
    ]);
    for held in found {
        let mut whose = callers(&held.routes);
        if whose.is_empty() {
            // It has limits alone.
            whose.push(None);
        }
        for callers in whose {
            let rules = rules(&held.routes, callers);
            let count: usize = rules.iter().flatten().map(|r| r.rules.len()).sum();
            let policies = policies(&held.routes, callers);
            let policies: Vec<_> = policies.into_iter().map(policy_words).collect();
            table.row([
                held.said.service.clone(),
                callers.map_or("all", Namespace::as_str).to_owned(),
                or_dash(objects(&rules).join(", ")),
                count.to_string(),
                or_dash(policies.join(", ")),
                or_dash(published(held, callers).join("; ")),
                or_dash(limits::objects(&held.said.limits).join(", ")),
            ]);
        }
    }
    table
}

fn rules_json(rules: Option<&Rules<'_>>) -> Value {
    let Some(rules) = rules else {
        return Value::Null;
    };
    let rule = |rule: &Said<'_>| {
        json!({
            "origin": rule.origin.to_string(),
            "cluster": rule.origin.cluster.as_ref().map(ClusterName::as_str),
            "when": rule.when,
            "then": rule.then,
        })
    };
    json!({
        "rules": rules.rules.iter().map(rule).collect::<Vec<_>>(),
        "otherwise": rules.otherwise,
    })
}

fn as_json(held: &Held) -> Value {
    let line = |callers: Callers<'_>| {
        let rules = rules(&held.routes, callers);
        let from = objects(&rules);
        let [calls, streams] = &rules;
        let policies = policies(&held.routes, callers);
        json!({
            "callers": callers.map(Namespace::as_str),
            "from": from,
            "calls": rules_json(calls.as_ref()),
            "connections": rules_json(streams.as_ref()),
            "policies": policies.into_iter().map(policy_words).collect::<Vec<_>>(),
        })
    };
    json!({
        "service": held.said.service,
        "published_format": held.said.published,
        "received_formats": held.said.received,
        "callers": callers(&held.routes).into_iter().map(line).collect::<Vec<_>>(),
        "routes": held.routes,
        "limits": limits::as_json(&held.said.limits),
    })
}

/// Every rule in order, then how the endpoints are called.
fn described(held: &Held) -> String {
    let service = &held.said.service;
    let mut lines = Vec::new();
    let routes = &held.routes;
    let calls = routes.of_callers.iter().map(|(n, t)| (Some(n), t));
    let calls = calls.chain(routes.of_all.iter().map(|t| (None, t)));
    for (callers, table) in calls {
        let others = !routes.of_callers.is_empty();
        rules_lines(
            service,
            (callers, others),
            &Rules::of_calls(table),
            &mut lines,
        );
    }
    let streams = &routes.streams;
    let tables = streams.of_callers.iter().map(|(n, t)| (Some(n), t));
    for (callers, table) in tables.chain(streams.of_all.iter().map(|t| (None, t))) {
        let others = !streams.of_callers.is_empty();
        rules_lines(
            service,
            (callers, others),
            &Rules::of_streams(table),
            &mut lines,
        );
    }
    if !routes.traffic.is_empty() {
        lines.push("how its endpoints are called: the first that is for a caller holds".to_owned());
        for policy in &routes.traffic {
            policy_lines(policy, &mut lines);
        }
        lines.push(String::new());
    }
    lines.extend(limits::lines(&limits::as_json(&held.said.limits).into()));
    lines.push(match published(held, None).as_slice() {
        [] => "not published".to_owned(),
        said => format!("published: {}", said.join("; ")),
    });
    lines.join("\n")
}

fn rules_lines(
    service: &str,
    (callers, has_others): (Callers<'_>, bool),
    rules: &Rules<'_>,
    lines: &mut Vec<String>,
) {
    let whose = match callers {
        Some(namespace) => format!("callers in namespace {namespace}"),
        None if has_others => "all other callers".to_owned(),
        None => "all callers".to_owned(),
    };
    let (what, every) = (rules.what, rules.every);
    lines.push(format!(
        "rules for {what} to {service}, for {whose}, in order"
    ));
    for rule in &rules.rules {
        lines.push(format!("  {}", rule.origin));
        let when = match rule.when.as_slice() {
            [] => every.to_owned(),
            when => when.join("; "),
        };
        lines.push(format!("    when  {when}"));
        let word = |i: usize| if i == 0 { "then" } else { "    " };
        let said = rule.then.iter().enumerate();
        lines.extend(said.map(|(i, words)| format!("    {}  {words}", word(i))));
    }
    lines.push(format!("  otherwise {}", rules.otherwise));
    lines.push(String::new());
}

fn policy_lines(policy: &TrafficPolicy, lines: &mut Vec<String>) {
    let namespace = policy.namespace.as_ref();
    let whose = match (namespace, policy.caller_labels.is_empty()) {
        (None, true) => "all callers".to_owned(),
        (None, false) => format!("callers with {}", labels(&policy.caller_labels)),
        (Some(n), true) => format!("callers in namespace {n}"),
        (Some(n), false) => {
            let with = labels(&policy.caller_labels);
            format!("callers in namespace {n} with {with}")
        }
    };
    lines.push(format!("  {}, for {whose}", object(&policy.origin)));
    settings_lines(&policy.settings, "    ", lines);
    for (name, subset) in &policy.subsets {
        let of = or_dash(labels(&subset.labels));
        lines.push(format!("    subset {name}: {of}"));
        settings_lines(&subset.settings, "      ", lines);
    }
}

fn settings_lines(settings: &PerPort, indent: &str, lines: &mut Vec<String>) {
    let all = settings.all.words();
    lines.extend(all.into_iter().map(|words| format!("{indent}{words}")));
    for (port, settings) in &settings.ports {
        let words = settings.words();
        let words = match words.as_slice() {
            [] => "as proxies do by themselves".to_owned(),
            [..] => words.join("; "),
        };
        lines.push(format!("{indent}port {port}: {words}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(routes: &Value, published: Option<u32>) -> Held {
        read(v1::ServiceRoutes {
            revision: 3,
            service: "shop/cart".to_owned(),
            json: routes.to_string(),
            published,
            received: [("east".to_owned(), 1)].into(),
            limits: Vec::new(),
        })
        .unwrap()
    }

    fn origin(kind: &str, rule: &str, cluster: Option<&str>) -> Value {
        json!({"kind": kind, "object": "shop/cart", "rule": rule, "cluster": cluster})
    }

    fn example() -> Value {
        let backend = |name: &str, weight: u32| {
            json!({"weight": weight, "to": {"service": {
                "service": format!("shop/{name}"), "port": 80, "subset": null}}})
        };
        let split = json!({"to": {"backends": [backend("cart", 9), backend("canary", 1)]}});
        let closed = json!({"to": {"direct": {"status": 503, "body": null}}});
        json!({
            "of_callers": {"web": {"otherwise": "not-found", "rules": [
                {"origin": origin("VirtualService", "http[0]", None), "when": {"method": {"exact": "GET"}}, "then": split},
                {"origin": origin("VirtualService", "http[1]", None), "when": {}, "then": closed},
            ]}},
            "of_all": {"otherwise": "service", "rules": [
                {"origin": origin("HTTPRoute", "rules[0]", Some("east")), "when": {}, "then": split},
            ]},
            "traffic": [
                {"origin": origin("DestinationRule", "", None), "namespace": "web", "caller_labels": {"app": "batch"},
                 "settings": {"all": {"balance": "random"}}},
                {"origin": origin("DestinationRule", "", Some("east")),
                 "settings": {"all": {"balance": "round-robin"}, "ports": {"81": {}}},
                 "subsets": {"v2": {"labels": {"version": "v2"}, "settings": {"all": {"balance": "random"}}}}},
            ],
        })
    }

    #[test]
    fn each_service_and_callers_have_a_line_with_whose_the_rules_are() {
        let shown = table(&[held(&example(), None)]).render();
        let expected = "\
SERVICE    CALLERS  FROM                         RULES  POLICY                                                                            PUBLISHED            LIMITS
shop/cart  web      VirtualService shop/cart         2  DestinationRule shop/cart (app=batch), DestinationRule shop/cart of east          -                    -
shop/cart  all      HTTPRoute shop/cart of east      1  DestinationRule shop/cart of east                                                 from east, format 1  -";
        let squeeze = |text: &str| {
            let line = |l: &str| l.split_whitespace().collect::<Vec<_>>().join(" ");
            text.lines().map(line).collect::<Vec<_>>()
        };
        assert_eq!(squeeze(&shown), squeeze(expected));
        let own = table(&[held(&example(), Some(1))]).render();
        assert!(own.contains("format 1; from east, format 1"), "{own}");
    }

    #[test]
    fn a_named_service_is_told_rule_by_rule() {
        let expected = "\
rules for calls to shop/cart, for callers in namespace web, in order
  VirtualService shop/cart http[0]
    when  the method is \"GET\"
    then  sends on
          90.0 % to shop/cart:80
          10.0 % to shop/canary:80
  VirtualService shop/cart http[1]
    when  every request
    then  answers 503
  otherwise 404

rules for calls to shop/cart, for all other callers, in order
  HTTPRoute shop/cart rules[0] of east
    when  every request
    then  sends on
          90.0 % to shop/cart:80
          10.0 % to shop/canary:80
  otherwise it goes to the service

how its endpoints are called: the first that is for a caller holds
  DestinationRule shop/cart, for callers in namespace web with app=batch
    endpoints are drawn by weight alone
  DestinationRule shop/cart of east, for all callers
    endpoints take turns
    port 81: as proxies do by themselves
    subset v2: version=v2
      endpoints are drawn by weight alone

published: from east, format 1";
        assert_eq!(described(&held(&example(), None)), expected);
        let json = as_json(&held(&example(), None));
        assert_eq!(
            json["callers"][0]["calls"]["rules"][0]["when"][0],
            "the method is \"GET\""
        );
        assert_eq!(json["callers"][1]["calls"]["rules"][0]["cluster"], "east");
        assert_eq!(
            json["routes"]["of_all"]["rules"][0]["origin"]["kind"],
            "HTTPRoute"
        );
    }

    #[test]
    fn rules_for_connections_alone_have_a_line_and_words() {
        let streams = json!({"of_callers": {}, "of_all": null, "streams": {"of_all": {
            "otherwise": "closed",
            "rules": [{"origin": origin("TCPRoute", "rules[0]", Some("east")), "when": {"port": 80},
                "to": [{"weight": 1, "to": {"service": {"service": "shop/v2", "port": 81, "subset": null}}}]}],
        }}});
        let held = held(&streams, None);
        let shown = table(std::slice::from_ref(&held)).render();
        assert!(shown.contains("TCPRoute shop/cart of east"), "{shown}");
        let expected = "\
rules for connections to shop/cart, for all callers, in order
  TCPRoute shop/cart rules[0] of east
    when  the port is 80
    then  sends on
          100.0 % to shop/v2:81
  otherwise closed, if a rule is for its port; else it goes to the service

published: from east, format 1";
        assert_eq!(described(&held), expected);
        let json = as_json(&held);
        assert_eq!(json["callers"][0]["calls"], Value::Null);
        let rules = &json["callers"][0]["connections"]["rules"];
        assert_eq!(rules[0]["when"][0], "the port is 80");
    }

    #[test]
    fn a_service_with_a_policy_alone_has_a_line_too() {
        let policy = json!({"of_callers": {}, "of_all": null, "traffic": [
            {"origin": origin("DestinationRule", "", None), "settings": {"all": {}}}]});
        let mut held = held(&policy, None);
        held.said.received.clear();
        let shown = table(std::slice::from_ref(&held)).render();
        let last: Vec<_> = shown.lines().last().unwrap().split_whitespace().collect();
        assert_eq!(
            last,
            [
                "shop/cart",
                "all",
                "-",
                "0",
                "DestinationRule",
                "shop/cart",
                "-",
                "-"
            ]
        );
        assert!(described(&held).ends_with("not published"));
    }

    #[test]
    fn a_service_with_a_limit_alone_has_a_line_too() {
        let mut held = held(&json!({"of_callers": {}, "of_all": null}), None);
        held.said.received.clear();
        held.said.limits = vec![v1::HeldLimit {
            object: "shop/limit".to_owned(),
            port: 80,
            endpoints: vec!["one".to_owned()],
            words: vec!["10 requests at once".to_owned()],
            ..v1::HeldLimit::default()
        }];
        let shown = table(std::slice::from_ref(&held)).render();
        assert!(shown.ends_with("EnvoyFilter shop/limit"), "{shown}");
        let expected = "\
how many requests its endpoints in this cluster take
  EnvoyFilter shop/limit, port 80, at one
    10 requests at once

not published";
        assert_eq!(described(&held), expected);
        assert_eq!(as_json(&held)["limits"][0]["port"], 80);
    }
}
