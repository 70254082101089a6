//! The store's changes as they come, for a reader who wants every one of them once. Holds no change itself.

use futures::{Stream, stream};
use serde_json::json;
use tonic::{Code, Status};
use tradewind_api::{
    proto::v1::{WatchEvent, WatchStep},
    store::{ControllerRecord, SealKeyRecord},
};
use tradewind_federation::{
    Compacted, Watch,
    catalog::{Event, Key, Value},
};
use tradewind_runtime::drain;

use crate::answer::refuse;

/// What is kept no more.
pub(super) fn compacted(error: Compacted) -> Status {
    refuse(
        Code::OutOfRange,
        format!(
            "the changes after revision {} are kept no more; the oldest that are kept come after revision {}",
            error.asked, error.oldest
        ),
        format!(
            "read the lists again, then go on with --from {}",
            error.oldest
        ),
    )
}

/// Every step, until the drain.
pub(super) fn steps(
    watch: Watch,
    drain: drain::Observer,
) -> impl Stream<Item = Result<WatchStep, Status>> + Send {
    stream::unfold(Some((watch, drain)), |state| async move {
        let (mut watch, mut drain) = state?;
        let next = tokio::select! {
            biased;
            () = drain.triggered() => return None,
            next = watch.next() => next?,
        };
        match next {
            Ok(step) => {
                let told = WatchStep {
                    revision: step.revision,
                    events: step.events.iter().map(event).collect(),
                };
                Some((Ok(told), Some((watch, drain))))
            }
            Err(error) => Some((Err(compacted(error)), None)),
        }
    })
}

fn event(event: &Event) -> WatchEvent {
    let (kind, name) = match &event.key {
        Key::Cluster(cluster) => ("cluster", cluster.to_string()),
        Key::Export { service, cluster } => ("export", format!("{service}@{cluster}")),
        Key::Token(id) => ("token", id.clone()),
        Key::Voting(node) => ("voting", node.to_string()),
        Key::Seals(cluster) => ("seals", cluster.to_string()),
        Key::Controllers(cluster) => ("controllers", cluster.to_string()),
    };
    WatchEvent {
        kind: kind.to_owned(),
        name,
        value_json: event.value.as_ref().map(|v| value(v).to_string()),
    }
}

/// What a reader may see of it: certificates are long and tell nobody anything, and a token's hash is nobody's business.
fn value(value: &Value) -> serde_json::Value {
    match value {
        Value::Cluster(c) => json!({
            "name": c.name,
            "region": c.region,
            "network": c.network,
            "state": c.state,
            "gateways": c.gateways,
            "nodes": c.nodes,
            "version": c.version,
            "level": c.level,
            "witness": c.witness,
            "lease_at_unix_ms": c.lease_at_ms,
        }),
        Value::Export(export) => json!(export),
        Value::Token(t) => json!({
            "id": t.id,
            "cluster": t.cluster,
            "expires_at_unix_ms": t.expires_at_ms,
            "used": t.used,
        }),
        Value::Voting(voting) => json!(voting),
        Value::Seals(seals) => {
            let key = |k: &SealKeyRecord| {
                json!({
                    "number": k.number,
                    "published_at_unix_ms": k.published_at_ms,
                    "boxes": k.boxes.keys().collect::<Vec<_>>(),
                })
            };
            json!({ "keys": seals.keys.iter().map(key).collect::<Vec<_>>() })
        }
        Value::Controllers(record) => {
            let node = |(node, c): (&u64, &ControllerRecord)| json!({ "node": node, "address": c.address, "level": c.level });
            json!({
                "nodes": record.nodes.iter().map(node).collect::<Vec<_>>(),
                "speaker": record.speaker.map(|s| s.node),
                "retiring": record.retiring.len(),
            })
        }
    }
}
