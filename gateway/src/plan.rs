//! What a decided connection goes on with: whom to dial and for how long, what it goes on by, and its place among those that
//! are carried. It must never dial anybody for a connection that has no place.

use std::{future, net::IpAddr, rc::Rc, time::Duration};

use tokio::time;
use tradewind_api::ClusterName;
use tradewind_runtime::drain;
use tradewind_transport::permits::{Permit, Permits};

use crate::{
    circles::{Circles, Entered},
    limits::{Full, Holder, Limits, Place},
    metrics::ToLabels,
    refusal::{Refusal, Refused},
    route::Route,
};

/// How long one dial may take. Workloads are near; a caller waits meanwhile, and another candidate may answer at once.
const DIAL_TIMEOUT: Duration = Duration::from_secs(1);
/// How long all dials to another cluster's gateways may take together: whoever is behind this gateway waits two seconds
/// for everything, and should hear which part of the way is broken.
const PASS_ON_WITHIN: Duration = Duration::from_millis(1_500);
/// How long connections between controllers go on once a drain closed the listener. They last for ever by themselves, and
/// their ends dial again, through another gateway, without anybody noticing.
const CONTROLLER_GRACE: Duration = Duration::from_secs(2);

/// What a decided connection needs.
pub(crate) struct Plan {
    pub to: ToLabels,
    /// Whom to dial, best first.
    pub addresses: Vec<String>,
    /// For each of them.
    pub timeout: Duration,
    pub stands_by: StandsBy,
    pub place: Held,
}

/// The place of a connection that goes on.
pub(crate) enum Held {
    Carried { _place: Place<Holder> },
    Controller { _place: Place<IpAddr> },
}

/// Why one does not, and whose it is.
pub(crate) struct No {
    pub reason: Refusal,
    pub to: ToLabels,
}

impl From<Refusal> for No {
    fn from(reason: Refusal) -> Self {
        let to = ToLabels::default();
        Self { reason, to }
    }
}

impl From<Refused> for No {
    fn from(refused: Refused) -> Self {
        let Refused { reason, peer, to } = refused;
        let to = ToLabels {
            to: to.map(|t| t.to_string()).unwrap_or_default(),
            peer: peer.map(String::from).unwrap_or_default(),
        };
        Self { reason, to }
    }
}

impl No {
    /// There is no place for it.
    fn full(full: Full, to: ToLabels) -> Self {
        let reason = match full {
            Full::All => Refusal::TooMany,
            Full::Share => Refusal::OverShare,
        };
        Self { reason, to }
    }
}

impl Plan {
    /// Why nobody could be dialled.
    pub(crate) const fn unreached(&self) -> Refusal {
        match self.stands_by {
            StandsBy::Itself { .. } => Refusal::ClusterUnreached,
            StandsBy::Export(_) | StandsBy::Controller => Refusal::DialFailed,
        }
    }
}

/// What a connection goes on by.
pub(crate) enum StandsBy {
    /// Until the export is withdrawn.
    Export(Permit),
    /// Until shortly after the drain has begun.
    Controller,
    /// Nothing here ends it; it holds off its own copies.
    Itself { _entered: Entered },
}

impl StandsBy {
    pub(crate) async fn withdrawn(&self) {
        match self {
            Self::Export(permit) => permit.withdrawn().cancelled().await,
            Self::Controller | Self::Itself { .. } => future::pending().await,
        }
    }

    /// Boxed where it can happen: most connections should not carry the room for it.
    pub(crate) async fn outlived(&self, drain: &mut drain::Watch) {
        match self {
            Self::Controller => {
                Box::pin(async {
                    drain.triggered().await;
                    time::sleep(CONTROLLER_GRACE).await;
                })
                .await;
            }
            Self::Export(_) | Self::Itself { .. } => future::pending().await,
        }
    }
}

/// What plans are made with.
pub(crate) struct Planner<'a> {
    pub limits: &'a Limits,
    pub circles: &'a Circles,
    pub permits: &'a Rc<Permits>,
    /// `host:port` of this cluster's controller.
    pub controller: &'a str,
}

/// Who asks for what.
pub(crate) struct Asked<'a> {
    pub source: IpAddr,
    pub hello: &'a [u8],
    /// The cluster that it names.
    pub named: &'a ClusterName,
    /// This one.
    pub own: &'a ClusterName,
}

impl Planner<'_> {
    /// For a route; none where the gateway itself is asked.
    pub(crate) fn plan(&self, route: Route, asked: &Asked<'_>) -> Result<Option<Plan>, No> {
        Ok(Some(match route {
            Route::Here => return Ok(None),
            Route::Local {
                service,
                caller,
                candidates,
            } => {
                let to = ToLabels {
                    to: service.to_string(),
                    peer: caller.as_ref().map(ToString::to_string).unwrap_or_default(),
                };
                let holder = caller.map_or(Holder::Source(asked.source), Holder::Member);
                let (to, place) = self.carried(holder, to)?;
                Plan {
                    to,
                    place,
                    addresses: candidates.into_iter().map(|c| c.address).collect(),
                    timeout: DIAL_TIMEOUT,
                    // Registered with no wait since the decision, so that an export withdrawn from now on is not missed.
                    stands_by: StandsBy::Export(self.permits.take(service)),
                }
            }
            Route::Controller(mut addresses) => {
                // What the operator said stands first.
                addresses.retain(|a| a != self.controller);
                addresses.insert(0, self.controller.to_owned());
                self.to_controller(addresses, asked.source)?
            }
            Route::ControllerNode(address) => self.to_controller(vec![address], asked.source)?,
            Route::PassOn(addresses) => {
                let to = ToLabels {
                    to: "gateway".to_owned(),
                    peer: asked.named.to_string(),
                };
                let Some(_entered) = self.circles.enter(asked.hello) else {
                    let reason = Refusal::Circle;
                    return Err(No { reason, to });
                };
                let (to, place) = self.carried(Holder::Member(asked.own.clone()), to)?;
                Plan {
                    to,
                    place,
                    timeout: PASS_ON_WITHIN / u32::try_from(addresses.len()).unwrap_or(1).max(1),
                    addresses,
                    stands_by: StandsBy::Itself { _entered },
                }
            }
        }))
    }

    fn to_controller(&self, addresses: Vec<String>, source: IpAddr) -> Result<Plan, No> {
        let to = ToLabels {
            to: "controller".to_owned(),
            peer: String::new(),
        };
        let place = match self.limits.controller(source) {
            Ok(_place) => Held::Controller { _place },
            Err(full) => return Err(No::full(full, to)),
        };
        Ok(Plan {
            to,
            place,
            addresses,
            timeout: DIAL_TIMEOUT,
            stands_by: StandsBy::Controller,
        })
    }

    fn carried(&self, holder: Holder, to: ToLabels) -> Result<(ToLabels, Held), No> {
        match self.limits.carried(holder) {
            Ok(_place) => Ok((to, Held::Carried { _place })),
            Err(full) => Err(No::full(full, to)),
        }
    }
}
