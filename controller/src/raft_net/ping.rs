//! One question to another cluster's controller, and the layer that it failed in when no answer came.

use std::{fmt, sync::Arc, time::Duration};

use tonic::{Code, Status};
use tradewind_api::{
    ClusterName,
    proto::v1::{self, PingRequest},
};
use tradewind_federation::{PeerError, Vitals};

use crate::reach::{Sight, read_row};

use super::{
    Peers,
    dial::{self, DialError, DialStep},
};

/// How far a ping came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Layer {
    /// There is no address to dial.
    Address,
    /// TCP to a gateway.
    Connect,
    /// TLS with the controller behind it.
    Tls,
    /// The controller's answer.
    Answer,
    /// It answered that it will not.
    Refused,
}

impl Layer {
    /// The word that listings show.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Address => "address",
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Answer => "answer",
            Self::Refused => "refused",
        }
    }
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a cluster gave no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreached {
    /// Where it failed.
    pub layer: Layer,
    /// A few words for a table's cell.
    pub short: &'static str,
    /// The whole, with addresses.
    pub text: String,
}

/// What a controller answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// Its store's revision.
    pub revision: u64,
    /// What its store says of itself; nothing from a version that did not say it.
    pub vitals: Option<Vitals>,
    /// Whom it reaches, where that was asked and said.
    pub sights: Option<Arc<Vec<Sight>>>,
}

/// A node's vitals on the wire.
pub(crate) fn vitals(vitals: Vitals) -> v1::Vitals {
    v1::Vitals {
        node_id: vitals.node_id,
        term: vitals.term,
        leader: vitals.leader,
        last_log: vitals.last_log,
        applied: vitals.applied,
        fsync_p99_us: vitals.fsync_p99_us,
        level: vitals.level.into(),
    }
}

/// A node's vitals from the wire.
pub(crate) fn read(vitals: v1::Vitals) -> Vitals {
    Vitals {
        node_id: vitals.node_id,
        term: vitals.term,
        leader: vitals.leader,
        last_log: vitals.last_log,
        applied: vitals.applied,
        fsync_p99_us: vitals.fsync_p99_us,
        level: u16::try_from(vitals.level).unwrap_or(u16::MAX),
    }
}

impl Peers {
    /// Asks the controller of `cluster` for a sign of life, and whom it reaches if that is wanted, within `deadline`.
    pub async fn ping(
        &self,
        cluster: &ClusterName,
        with_reach: bool,
        deadline: Duration,
    ) -> Result<Answer, Unreached> {
        let mut client = self.federation(cluster).map_err(|e| nowhere(&e))?;
        let request = PingRequest { with_reach };
        match tokio::time::timeout(deadline, client.ping(request)).await {
            Ok(Ok(response)) => {
                let response = response.into_inner();
                Ok(Answer {
                    revision: response.revision,
                    vitals: response.vitals.map(read),
                    // One that knows of rows knows its caller at least.
                    sights: (with_reach && !response.reached.is_empty())
                        .then(|| Arc::new(read_row(response.reached))),
                })
            }
            Ok(Err(status)) => Err(unreached(&status)),
            Err(_) => {
                let up = self.0.streams.borrow().get(cluster).is_some_and(|s| s.up);
                Err(silent(up, deadline))
            }
        }
    }
}

fn nowhere(error: &PeerError) -> Unreached {
    let text = match error {
        PeerError::Unreachable { cause, .. }
        | PeerError::NoAnswer { cause, .. }
        | PeerError::Refused { cause, .. } => cause.clone(),
    };
    Unreached {
        layer: Layer::Address,
        short: "no address known",
        text,
    }
}

fn silent(stream_up: bool, deadline: Duration) -> Unreached {
    let ms = deadline.as_millis();
    if stream_up {
        return Unreached {
            layer: Layer::Answer,
            short: "controller gives no answer",
            text: format!("its controller gave no answer within {ms} ms"),
        };
    }
    Unreached {
        layer: Layer::Connect,
        short: "gateway gives no answer",
        text: format!("no gateway led to its controller within {ms} ms"),
    }
}

fn unreached(status: &Status) -> Unreached {
    if let Some(dial) = dial::dial_error(status) {
        let text = dial.to_string();
        let (layer, short) = match &dial {
            DialError::NoGateway(_) => (Layer::Address, "no gateway announced"),
            DialError::Name { .. } | DialError::Sibling { .. } => {
                (Layer::Address, "no address known")
            }
            DialError::AllFailed(failures) => {
                // The furthest that any of them came says most.
                let furthest = failures.iter().max_by_key(|f| (f.step, f.refused));
                match furthest.map(|f| (f.step, f.refused)) {
                    Some((DialStep::Tls, _)) => (Layer::Tls, "gateway leads to no controller"),
                    Some((DialStep::Connect, true)) => {
                        (Layer::Connect, "gateway refused the connection")
                    }
                    Some((DialStep::Connect, false)) | None => {
                        (Layer::Connect, "gateway gives no answer")
                    }
                }
            }
        };
        return Unreached { layer, short, text };
    }
    let text = status.message().to_owned();
    let denied = matches!(
        status.code(),
        Code::PermissionDenied | Code::Unauthenticated | Code::Unimplemented
    );
    if denied {
        return Unreached {
            layer: Layer::Refused,
            short: "controller refused us",
            text,
        };
    }
    Unreached {
        layer: Layer::Answer,
        short: "connection broke",
        text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vitals_travel_whole() {
        let all = Vitals {
            node_id: 7,
            term: 3,
            leader: Some(1),
            last_log: Some(900),
            applied: None,
            fsync_p99_us: Some(1_200),
            level: 2,
        };
        assert_eq!(read(vitals(all.clone())), all);
    }

    #[test]
    fn the_layer_tells_who_did_not_answer() {
        let silent_gateway = silent(false, Duration::from_millis(1500));
        assert_eq!(silent_gateway.layer, Layer::Connect);
        let silent_controller = silent(true, Duration::from_millis(1500));
        assert_eq!(silent_controller.layer, Layer::Answer);
        assert!(silent_controller.text.contains("1500 ms"));
        assert_eq!(
            unreached(&Status::permission_denied("no")).layer,
            Layer::Refused
        );
        assert_eq!(
            unreached(&Status::unavailable("broken pipe")).layer,
            Layer::Answer
        );
        assert!(Layer::Connect < Layer::Tls && Layer::Tls < Layer::Answer);
    }
}
