//! `tradewind explain`: where a call would go, and of each endpoint why it takes calls or does not. By the controller for a
//! caller anywhere, or by a proxy for itself, with what it learnt of each endpoint.

#![expect(
    clippy::indexing_slicing,
    reason = "JSON gives null for what is not there"
)]

use std::{net::SocketAddr, str::FromStr, time::Duration};

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use tradewind_api::{ClusterName, Namespace, ServicePortRef, Zone, proto::v1};
use tradewind_proxy::labels::Label;

use super::{Context, limits};
use crate::{
    admin::{Admin, Where},
    exit::{Exit, Failure, Outcome},
    http,
    output::{Format, Listing, Output},
    table::{Table, or_dash},
    view::round_trip,
};

/// A proxy's page shows a call after this long at the latest: its threads write theirs once a second.
const FRESH_WITHIN: Duration = Duration::from_millis(1_500);
/// Between two looks at it.
const LOOK: Duration = Duration::from_millis(200);

/// `west`, `west/zone-a`, `/zone-a`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    cluster: Option<ClusterName>,
    zone: Option<Zone>,
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (cluster, zone) = text.split_once('/').unwrap_or((text, ""));
        let some = |part: &str| (!part.is_empty()).then(|| part.to_owned());
        let cluster = some(cluster).map(|c| ClusterName::new(&c)).transpose();
        let zone = some(zone).map(|z| z.parse::<Zone>()).transpose();
        Ok(Self {
            cluster: cluster.map_err(|e| e.to_string())?,
            zone: zone.map_err(|e| e.to_string())?,
        })
    }
}

/// `tradewind explain --to shop/payments:80`
#[derive(Debug, clap::Args)]
pub struct Explain {
    /// The service and port that is called
    #[arg(long, value_name = "NAMESPACE/NAME:PORT")]
    to: ServicePortRef,
    /// Where the caller runs, such as west/zone-a [default: this cluster, no zone]
    #[arg(long, value_name = "CLUSTER[/ZONE]", default_value = "")]
    from: Place,
    /// Some of its endpoints alone, by the name that a DestinationRule gives them
    #[arg(long, value_name = "NAME")]
    subset: Option<String>,
    /// Ask a proxy by its admin address instead: it knows who failed it
    #[arg(long, value_name = "IP:PORT", conflicts_with = "from")]
    proxy: Option<SocketAddr>,
    #[command(flatten)]
    request: RequestArgs,
    #[command(flatten)]
    place: Where,
    #[command(flatten)]
    output: Output,
}

/// What the request is like, for the rules there may be.
#[derive(Debug, clap::Args)]
struct RequestArgs {
    /// The caller's namespace
    #[arg(
        long,
        value_name = "NAMESPACE",
        default_value = "default",
        conflicts_with = "proxy"
    )]
    caller: Namespace,
    /// One of the caller's labels; may be repeated
    #[arg(
        long = "caller-label",
        value_name = "KEY=VALUE",
        conflicts_with = "proxy"
    )]
    labels: Vec<Label>,
    /// The request's method
    #[arg(long, default_value = "GET", conflicts_with = "proxy")]
    method: String,
    /// The request's path, with its query
    #[arg(long, default_value = "/", conflicts_with = "proxy")]
    path: String,
    /// The host it asks for [default: the service's name]
    #[arg(long, conflicts_with = "proxy")]
    host: Option<String>,
    /// One of its header fields; may be repeated
    #[arg(long = "header", value_name = "NAME: VALUE", conflicts_with = "proxy")]
    headers: Vec<Field>,
    /// The server name that its TLS asks for, of a connection whose bytes are no HTTP [default: none]
    #[arg(long, value_name = "NAME", conflicts_with = "proxy")]
    sni: Option<String>,
}

/// `x-canary: yes`
#[derive(Clone, Debug, PartialEq, Eq)]
struct Field(String, String);

impl FromStr for Field {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some((name, value)) => Ok(Self(name.trim().to_owned(), value.trim().to_owned())),
            None => Err("expected a name, a colon and a value, such as 'x-canary: yes'".to_owned()),
        }
    }
}

/// Says it.
pub async fn run(context: Context, args: Explain) -> Outcome {
    let explained = match args.proxy {
        Some(proxy) => of_proxy(proxy, &args.to, args.subset.as_deref()).await?,
        None => of_controller(&args).await?,
    };
    let json = explained["explained"].clone();
    if args.output.format == Format::Table {
        for (field, of) in [("rules", OF_REQUESTS), ("streams", OF_STREAMS)] {
            if let Some(rules) = rules((&args.to, of), &explained[field]) {
                context.printer.data(rules);
            }
        }
        context.printer.data(head(&args.to, &json));
        if let Some(limits) = limits::lines(&explained["limits"]) {
            context.printer.data(limits);
        }
    }
    Listing {
        schema: "tradewind.explain/v1",
        table: endpoints(&json),
        names: texts(&json["endpoints"], "id"),
        json: explained,
        empty: "it has no endpoint anywhere",
    }
    .show(context.printer, args.output);
    let serves = json["tiers"].as_array().is_some_and(|t| !t.is_empty());
    Ok(if serves { Exit::Good } else { Exit::Problems })
}

async fn of_controller(args: &Explain) -> Result<Value, Failure> {
    let admin = Admin::connect(&args.place).await?;
    let part = |p: Option<String>| p.unwrap_or_default();
    let request = v1::ExplainRequest {
        service: args.to.to_string(),
        from_cluster: part(args.from.cluster.as_ref().map(ToString::to_string)),
        from_zone: part(args.from.zone.as_ref().map(ToString::to_string)),
        caller_namespace: args.request.caller.to_string(),
        caller_labels: args
            .request
            .labels
            .iter()
            .map(|l| (l.key.clone(), l.value.clone()))
            .collect(),
        method: args.request.method.clone(),
        host: part(args.request.host.clone()),
        path: args.request.path.clone(),
        headers: args
            .request
            .headers
            .iter()
            .map(|Field(name, value)| v1::ExplainedHeader {
                name: name.clone(),
                value: value.clone(),
            })
            .collect(),
        subset: part(args.subset.clone()),
        server_name: part(args.request.sni.clone()),
    };
    let found = admin
        .call(request, async |mut c, r| c.explain(r).await)
        .await?;
    Ok(json!({
        "source": "controller",
        "revision": found.revision,
        "from": {
            "cluster": found.from_cluster,
            "region": found.from_region,
            "zone": (!found.from_zone.is_empty()).then_some(&found.from_zone),
        },
        "rules": as_json(&found.rules),
        "streams": as_json(&found.streams),
        "limits": limits::as_json(&found.limits),
        "explained": {
            "service": args.to.to_string(),
            "subset": args.subset,
            "policy": (!found.policy.is_empty()).then_some(&found.policy),
            "settings": found.settings,
            "tiers": found.tiers.iter().map(|t| json!({
                "distance": t.distance, "share": t.share, "members": t.members,
            })).collect::<Vec<_>>(),
            "endpoints": found.endpoints.iter().map(|e| json!({
                "id": e.id,
                "cluster": e.cluster,
                "region": e.region,
                "zone": (!e.zone.is_empty()).then_some(&e.zone),
                "weight": e.weight,
                "health": e.health,
                "verdict": e.verdict,
                "round_trip_us": e.round_trip_us,
                "way": {"kind": e.way, "addresses": e.addresses},
            })).collect::<Vec<_>>(),
        },
    }))
}

fn as_json(rules: &[v1::ExplainedRule]) -> Vec<Value> {
    let rule = |r: &v1::ExplainedRule| {
        json!({
            "origin": (!r.origin.is_empty()).then_some(&r.origin),
            "decides": r.decides,
            "verdict": r.verdict,
            "backends": r.backends.iter().map(|b| json!({
                "service": b.service,
                "subset": (!b.subset.is_empty()).then_some(&b.subset),
                "share": b.share,
            })).collect::<Vec<_>>(),
        })
    };
    rules.iter().map(rule).collect()
}

/// What the proxy's threads say of the service. They learn apart; where they differ, the first one's word is shown and how
/// many others say something else.
async fn of_proxy(
    proxy: SocketAddr,
    to: &ServicePortRef,
    subset: Option<&str>,
) -> Result<Value, Failure> {
    let unreachable = |why: String| {
        Failure::new(
            Exit::Unreachable,
            format!("no proxy answers at {proxy}: {why}"),
        )
        .hint("name the proxy's --admin-listen address with --proxy")
    };
    let name = to.to_string();
    let until = Instant::now() + FRESH_WITHIN;
    let state = loop {
        let answer = http::get(proxy, "/debug/state").await;
        let answer = answer.map_err(|e| unreachable(e.why))?;
        let state: Value = serde_json::from_str(&answer.body)
            .map_err(|e| unreachable(format!("its /debug/state is not understood: {e}")))?;
        let threads = state["outbound_threads"].as_array();
        let mut called = threads.into_iter().flatten().flat_map(services);
        if called.any(|s| s == name) || Instant::now() >= until {
            break state;
        }
        sleep(LOOK).await;
    };
    let Some(threads) = state["outbound_threads"].as_array() else {
        return Err(unreachable("what answers is no proxy".to_owned()));
    };
    let said: Vec<&Value> = threads
        .iter()
        .filter_map(|t| {
            t["services"]
                .as_array()?
                .iter()
                .find(|s| s["service"] == *name && s["subset"].as_str() == subset)
        })
        .collect();
    let Some(first) = said.first() else {
        let known: Vec<String> = threads.iter().flat_map(services).collect();
        let hint = match crate::suggest::nearest(&name, known.iter().map(String::as_str)) {
            Some(near) => format!("did you mean {near}?"),
            None => "call it once through this proxy, or leave --proxy out".to_owned(),
        };
        let sentence = format!("the proxy at {proxy} has not called {name} yet");
        return Err(Failure::new(Exit::Problems, sentence).hint(hint));
    };
    let words = |s: &Value| texts(&s["endpoints"], "verdict");
    let differing = said.iter().filter(|s| words(s) != words(first)).count();
    Ok(json!({
        "source": "proxy",
        "revision": state["revision"],
        "from": {"cluster": state["cluster"], "identity": state["identity"]},
        "threads": said.len(),
        "threads_that_differ": differing,
        "explained": (*first).clone(),
    }))
}

/// Those that a thread has called.
fn services(thread: &Value) -> Vec<String> {
    texts(&thread["services"], "service")
}

fn texts(list: &Value, field: &str) -> Vec<String> {
    let text = |v: &Value| v[field].as_str().map(ToOwned::to_owned);
    list.as_array()
        .into_iter()
        .flatten()
        .filter_map(text)
        .collect()
}

fn texts_of(list: &Value) -> impl Iterator<Item = &str> {
    list.as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
}

/// What rules are for, where they are shown.
const OF_REQUESTS: &str = "rules for";
/// The same of what is no HTTP.
const OF_STREAMS: &str = "rules for connections whose bytes are no HTTP, to";

/// What each rule says of the request or the connection, in order; none where there are no rules.
fn rules((to, of): (&ServicePortRef, &str), rules: &Value) -> Option<String> {
    let rules = rules.as_array().filter(|r| !r.is_empty())?;
    let mut lines = vec![format!("{of} {to}, in order")];
    for rule in rules {
        let text = |field: &str| rule[field].as_str().unwrap_or_default();
        let origin = match text("origin") {
            "" => "otherwise",
            origin => origin,
        };
        let mark = if rule["decides"] == true { "=>" } else { "  " };
        lines.push(format!("  {mark} {origin}: {}", text("verdict")));
        for backend in rule["backends"].as_array().into_iter().flatten() {
            let share = backend["share"].as_f64().unwrap_or_default() * 100.0;
            let service = backend["service"].as_str().unwrap_or("?");
            let subset = backend["subset"].as_str();
            let of = subset.map(|s| format!("subset {s} of "));
            let of = of.unwrap_or_default();
            lines.push(format!("       {share:>5.1} % to {of}{service}"));
        }
    }
    lines.push(String::new());
    Some(lines.join("\n"))
}

/// The tiers, nearest first.
fn head(to: &ServicePortRef, explained: &Value) -> String {
    let tiers = explained["tiers"].as_array().map_or(&[][..], Vec::as_slice);
    let line = |(n, tier): (usize, &Value)| {
        let members = tier["members"].as_array().map_or(0, Vec::len);
        let share = tier["share"].as_f64().unwrap_or_default() * 100.0;
        let distance = tier["distance"].as_str().unwrap_or("?");
        format!("  tier {n}  {share:>3.0} % of the calls  {distance} ({members} endpoints)")
    };
    let lines: Vec<String> = tiers.iter().enumerate().map(line).collect();
    let subset = explained["subset"].as_str();
    let of = subset
        .map(|s| format!("subset {s} of "))
        .unwrap_or_default();
    if lines.is_empty() {
        return format!("{of}{to} goes nowhere");
    }
    let mut text = format!("{of}{to} goes to\n{}\n", lines.join("\n"));
    if let Some(policy) = explained["policy"].as_str() {
        text.push_str(&format!("as {policy} says\n"));
        for setting in texts_of(&explained["settings"]) {
            text.push_str(&format!("  {setting}\n"));
        }
    }
    text
}

fn endpoints(explained: &Value) -> Table {
    let mut table = Table::new(&[
        "ENDPOINT",
        "CLUSTER",
        "HEALTH",
        ">WEIGHT",
        ">ROUND TRIP",
        "VERDICT",
        "BY",
    ]);
    for e in explained["endpoints"].as_array().into_iter().flatten() {
        let text = |field: &str| e[field].as_str().unwrap_or_default().to_owned();
        let way = &e["way"];
        let addresses: Vec<&str> = way["addresses"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        let by = way["kind"].as_str().unwrap_or_default();
        table.row([
            text("id"),
            text("cluster"),
            text("health"),
            e["weight"].to_string(),
            or_dash(
                e["round_trip_us"]
                    .as_u64()
                    .map(round_trip)
                    .unwrap_or_default(),
            ),
            text("verdict"),
            format!("{by}: {}", or_dash(addresses.join(","))),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_cluster_a_zone_or_both() {
        let place = |text: &str| {
            let place: Place = text.parse().unwrap();
            let shown = |p: Option<String>| p.unwrap_or_default();
            (
                shown(place.cluster.map(|c| c.to_string())),
                shown(place.zone.map(|z| z.to_string())),
            )
        };
        assert_eq!(place("west/a"), ("west".into(), "a".into()));
        assert_eq!(place("/a"), (String::new(), "a".into()));
        assert_eq!(place("west"), ("west".into(), String::new()));
        assert_eq!(place(""), (String::new(), String::new()));
        assert!("We st".parse::<Place>().is_err());
    }

    #[test]
    fn rules_stand_in_order_with_the_one_that_decides() {
        let to = "shop/payments:80".parse().unwrap();
        let said = json!([
            {"origin": "HTTPRoute shop/a rules[0]", "decides": false, "verdict": "the path does not match", "backends": []},
            {"origin": "HTTPRoute shop/a rules[1]", "decides": true, "verdict": "sends on", "backends": [
                {"service": "shop/payments:80", "share": 0.9}, {"service": "shop/canary:80", "share": 0.1}]},
        ]);
        let shown = rules((&to, OF_REQUESTS), &said).unwrap();
        let expected = "rules for shop/payments:80, in order
     HTTPRoute shop/a rules[0]: the path does not match
  => HTTPRoute shop/a rules[1]: sends on
        90.0 % to shop/payments:80
        10.0 % to shop/canary:80
";
        assert_eq!(shown, expected);
        let of_streams = rules((&to, OF_STREAMS), &said).unwrap();
        let expected =
            "rules for connections whose bytes are no HTTP, to shop/payments:80, in order\n";
        assert!(of_streams.starts_with(expected), "{of_streams}");
        assert!(rules((&to, OF_REQUESTS), &json!([])).is_none());
        let field = |text: &str| text.parse::<Field>();
        assert_eq!(field("x-a: b:c"), Ok(Field("x-a".into(), "b:c".into())));
        assert!(field("x-a").is_err());
    }

    #[test]
    fn tiers_come_first_and_every_endpoint_has_its_reason() {
        let explained = json!({
            "tiers": [
                {"distance": "same cluster", "share": 0.7, "members": ["a"]},
                {"distance": "same region", "share": 0.3, "members": ["b"]},
            ],
            "endpoints": [
                {"id": "a", "cluster": "west", "health": "healthy", "weight": 100,
                 "verdict": "serves in tier 0", "way": {"kind": "direct", "addresses": ["10.0.0.1:15008"]}},
                {"id": "b", "cluster": "east", "health": "healthy", "weight": 100, "round_trip_us": 12_000,
                 "verdict": "serves in tier 1", "way": {"kind": "gateways of its cluster", "addresses": []}},
            ],
        });
        let to = "shop/payments:80".parse().unwrap();
        let head = head(&to, &explained);
        assert!(
            head.contains("tier 0   70 % of the calls  same cluster (1 endpoints)"),
            "{head}"
        );
        let shown = endpoints(&explained).render();
        assert!(
            shown.contains("12 ms") && shown.contains("direct: 10.0.0.1:15008"),
            "{shown}"
        );
        assert!(super::head(&to, &json!({})).contains("goes nowhere"));
    }
}
