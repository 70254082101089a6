//! `tradewind store watch`: every change of the store, once and in order, from any revision that is still kept.

use std::collections::HashMap;

use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};
use tradewind_api::proto::v1;

use super::super::Context;
use crate::{
    admin::{Admin, Where},
    exit::{Exit, Failure, Outcome},
    output::{Format, Output},
    table::count,
};

/// `tradewind store watch`
#[derive(Debug, clap::Args)]
pub struct Watch {
    /// Everything after this revision [default: from now on]
    #[arg(long, value_name = "REVISION")]
    from: Option<u64>,
    /// End once this revision was reached
    #[arg(long, value_name = "REVISION")]
    until: Option<u64>,
    #[command(flatten)]
    place: Where,
    #[command(flatten)]
    output: Output,
}

/// Shows them until it is interrupted.
pub async fn run(context: Context, args: Watch) -> Outcome {
    let admin = Admin::connect(&args.place).await?;
    let request = v1::WatchRequest { from: args.from };
    let mut steps = admin
        .stream(request, async |mut c, r| c.watch(r).await)
        .await?;
    let printer = context.printer;
    let (mut interrupted, mut told) = signals()?;
    let mut seen = args.from;
    let mut clusters = HashMap::new();
    let ended = loop {
        let next = tokio::select! {
            _ = interrupted.recv() => break Ok(Exit::Good),
            _ = told.recv() => break Ok(Exit::Good),
            next = steps.message() => next,
        };
        let step = match next {
            Ok(Some(step)) => step,
            Ok(None) => {
                break Err(Failure::new(
                    Exit::Unreachable,
                    "the controller ended the watch",
                ));
            }
            Err(status) => break Err(Failure::from(status)),
        };
        for event in &step.events {
            match args.output.format {
                Format::Json => printer.data(one_line(step.revision, event)),
                Format::Name => printer.data(format_args!("{}/{}", event.kind, event.name)),
                Format::Table => {
                    if let Some(line) = readable(event, &mut clusters) {
                        printer.data(format_args!("{:>12}  {line}", count(step.revision)));
                    }
                }
            }
        }
        seen = Some(step.revision);
        if args.until.is_some_and(|until| step.revision >= until) {
            break Ok(Exit::Good);
        }
    };
    if let Some(revision) = seen {
        printer.say(format_args!(
            "go on with: tradewind store watch --from {revision}"
        ));
    }
    ended
}

type Signal = tokio::signal::unix::Signal;

fn signals() -> Result<(Signal, Signal), Failure> {
    let of = |kind| signal(kind).map_err(|e| Failure::of(Exit::Problems, &e));
    Ok((of(SignalKind::interrupt())?, of(SignalKind::terminate())?))
}

fn value(event: &v1::WatchEvent) -> Value {
    let text = event.value_json.as_deref().unwrap_or("null");
    serde_json::from_str(text).unwrap_or(Value::Null)
}

fn one_line(revision: u64, event: &v1::WatchEvent) -> Value {
    json!({
        "schema": "tradewind.store-change/v1",
        "revision": revision,
        "kind": event.kind,
        "name": event.name,
        "gone": event.value_json.is_none(),
        "value": value(event),
    })
}

/// A line for people; nothing where only a cluster's sign of life is new.
fn readable(event: &v1::WatchEvent, clusters: &mut HashMap<String, Value>) -> Option<String> {
    let (kind, name) = (event.kind.as_str(), event.name.as_str());
    if event.value_json.is_none() {
        return Some(format!("- {kind} {name}"));
    }
    let mut value = value(event);
    let text = |value: &Value, key: &str| {
        let found = value.get(key);
        found.map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned))
    };
    let said = match kind {
        "cluster" => {
            if let Some(fields) = value.as_object_mut() {
                fields.remove("lease_at_unix_ms");
            }
            let before = clusters.insert(name.to_owned(), value.clone());
            if before.as_ref() == Some(&value) {
                return None;
            }
            let of = |key| text(&value, key).unwrap_or_default();
            format!(
                "{}, nodes {}, gateways {}",
                of("state"),
                of("nodes"),
                of("gateways")
            )
        }
        "export" => {
            let endpoints = value.get("endpoints").and_then(Value::as_object);
            format!("{} endpoints", endpoints.map_or(0, serde_json::Map::len))
        }
        "token" => match value.get("used") {
            None | Some(Value::Null) => "unused".to_owned(),
            Some(_) => "used".to_owned(),
        },
        _ => value.as_str().unwrap_or_default().to_owned(),
    };
    Some(format!("~ {kind} {name}  {said}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: &str, name: &str, value: Option<&str>) -> v1::WatchEvent {
        v1::WatchEvent {
            kind: kind.into(),
            name: name.into(),
            value_json: value.map(str::to_owned),
        }
    }

    #[test]
    fn signs_of_life_are_left_out_for_people_and_shown_to_programs() {
        let mut clusters = HashMap::new();
        let at = |ms: u64| {
            let value = json!({ "state": "active", "nodes": [1], "gateways": ["a:1"], "lease_at_unix_ms": ms });
            event("cluster", "west", Some(&value.to_string()))
        };
        let first = readable(&at(1), &mut clusters).unwrap();
        assert!(
            first.contains("west") && first.contains("active"),
            "{first}"
        );
        assert_eq!(readable(&at(2), &mut clusters), None);
        assert_eq!(one_line(7, &at(2))["value"]["lease_at_unix_ms"], 2);
        let gone = event("export", "shop/a@west", None);
        assert_eq!(
            readable(&gone, &mut clusters).unwrap(),
            "- export shop/a@west"
        );
        assert_eq!(one_line(7, &gone)["gone"], true);
    }
}
