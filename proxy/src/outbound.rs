//! Outbound: from an application's connection to the nearest healthy endpoint anywhere in the federation.
//!
//! One `Outbound` per data thread. It owns that thread's sessions and what was learnt about endpoints; both sides of a
//! connection live on the thread. It never sends a request twice that a peer may have processed, except an idempotent
//! one whose body can be replayed, and it never lets an application's own `tradewind-*` headers through.

mod affinity;
mod arriving;
mod attempts;
mod balancer;
mod body;
mod breaker;
pub(crate) mod captured;
mod connection;
mod convert;
mod exchange;
mod failure;
mod metrics;
mod mirror;
mod opaque;
mod parties;
mod patience;
mod persistence;
mod route;
mod rules;
mod status;
mod streams;
mod taker;
mod upgrade;

#[cfg(test)]
mod tests;

use std::{net::SocketAddr, rc::Rc, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use tokio::net::{TcpListener, TcpStream};
use tradewind_api::id::{ServicePortRef, Zone};
use tradewind_runtime::{
    clock::SharedClock,
    drain, listen,
    rng::Rng,
    task::{self, TaskSet},
};
use tradewind_transport::{control::Control, svid::SvidCell};

pub use crate::standard::StandardMetrics;
use balancer::{Balancer, Place};
pub use breaker::Breakers;
use captured::Captured;
pub use metrics::OutboundMetrics;
use mirror::Mirrors;
use rules::Rules;

use crate::{called::Called, config::Exit, labels::Labels};

/// Connections that one listener serves at a time on one thread. Beyond it a connection is closed at once and counted:
/// better than running out of memory under everybody.
const MAX_CONNECTIONS: usize = 16_384;
/// How often a thread looks after those that failed, calls or none: a quarter of the shortest ejection.
const TEND_INTERVAL: Duration = Duration::from_millis(250);
/// What `/debug/state` shows is at most this old.
const STATE_INTERVAL: Duration = Duration::from_secs(1);

/// What an [`Outbound`] works with.
#[derive(Clone, Debug)]
pub struct OutboundContext {
    /// Identity, trust and snapshot.
    pub control: Control,
    /// Where it counts.
    pub metrics: OutboundMetrics,
    /// Where it counts under Istio's names.
    pub standard: StandardMetrics,
    /// The time.
    pub clock: SharedClock,
    /// Dice for picking.
    pub rng: Rng,
    /// This host's zone, if it has one.
    pub zone: Option<Zone>,
    /// What this workload is labelled with.
    pub labels: Labels,
    /// How calls leave the cluster.
    pub exit: Exit,
    /// What its own sockets carry, where a capture tells them by it.
    pub mark: Option<u32>,
    /// What all threads have under way of services whose policies bound that.
    pub breakers: Breakers,
    /// This proxy's name, for logs.
    pub name: String,
}

/// A thread's view of its services, endpoints and sessions as JSON, readable from any thread.
pub type StateCell = Arc<ArcSwap<serde_json::Value>>;

/// One data thread's outbound side.
#[derive(Debug)]
pub struct Outbound {
    balancer: Rc<Balancer>,
    rules: Rules,
    labels: Labels,
    mirrors: Rc<Mirrors>,
    metrics: OutboundMetrics,
    standard: StandardMetrics,
    svid: SvidCell,
    name: String,
    state: StateCell,
}

impl Outbound {
    /// For the current thread, which must run a `LocalSet`.
    pub fn new(context: OutboundContext) -> Rc<Self> {
        let OutboundContext {
            control,
            metrics,
            standard,
            clock,
            rng,
            zone,
            labels,
            exit,
            mark,
            breakers,
            name,
        } = context;
        let svid = control.svid.clone();
        let place = Place {
            zone,
            labels: Arc::clone(&labels),
            exit,
        };
        let balancer = Balancer::new(control, metrics.clone(), clock, rng, (place, breakers));
        balancer.pool.set_mark(mark);
        Rc::new(Self {
            balancer,
            rules: Rules::default(),
            labels,
            mirrors: Rc::default(),
            metrics,
            standard,
            svid,
            name,
            state: StateCell::default(),
        })
    }

    /// What this thread knows, as of now.
    pub fn state_json(&self) -> serde_json::Value {
        self.balancer.state_json()
    }

    /// What this thread knew at most a second ago, for readers on other threads. Kept up while a listener is served.
    pub fn state_cell(&self) -> StateCell {
        Arc::clone(&self.state)
    }

    /// Serves one listener whose connections are all for `target`. On drain it accepts no more, lets what is under way
    /// finish, and returns when that is done or the drain is forced.
    pub async fn serve(
        self: Rc<Self>,
        listener: TcpListener,
        target: ServicePortRef,
        drain: drain::Watch,
    ) {
        let what = target.to_string();
        let (own, target) = (Rc::clone(&self), Rc::new(Called::from(target)));
        let serve = move |stream, _, watch| {
            connection::serve(Rc::clone(&own), stream, Rc::clone(&target), watch)
        };
        self.accept(listener, &what, serve, drain).await;
    }

    /// Serves one listener whose connections were captured on their way to anybody, likewise.
    pub(crate) async fn serve_captured(
        self: Rc<Self>,
        listener: TcpListener,
        captured: Captured,
        drain: drain::Watch,
    ) {
        let (own, captured) = (Rc::clone(&self), Rc::new(captured));
        let serve = move |stream, peer, watch| {
            captured::serve(Rc::clone(&own), Rc::clone(&captured), stream, peer, watch)
        };
        self.accept(listener, "captured", serve, drain).await;
    }

    async fn accept<F: Future<Output = ()> + 'static>(
        &self,
        listener: TcpListener,
        what: &str,
        serve: impl Fn(TcpStream, SocketAddr, drain::Watch) -> F,
        mut drain: drain::Watch,
    ) {
        let mut rng = self.balancer.fork_rng();
        let mut connections = TaskSet::new();
        let mut state = tokio::time::interval(STATE_INTERVAL);
        state.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut tend = tokio::time::interval(TEND_INTERVAL);
        tend.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        tracing::info!(proxy = %self.name, service = %what, address = ?listener.local_addr().ok(), "outbound listener serves");
        loop {
            tokio::select! {
                biased;
                () = drain.triggered() => break,
                Some(_) = connections.join_next(), if !connections.is_empty() => {}
                _ = tend.tick() => self.balancer.tend(),
                _ = state.tick() => self.state.store(Arc::new(self.state_json())),
                (stream, peer) = listen::accept(&listener, &mut rng) => {
                    if connections.len() >= MAX_CONNECTIONS {
                        self.metrics.refused_connections.inc();
                        continue;
                    }
                    connections.spawn_local("outbound_connection", serve(stream, peer, drain.clone()));
                }
            }
        }
        drop(listener);
        tracing::info!(proxy = %self.name, service = %what, open = connections.len(), "outbound listener drains");
        tokio::select! {
            () = connections.join_all() => {}
            () = drain.forced() => connections.abort_all().await,
        }
    }
}

/// Starts a task that nobody waits for: it ends by itself, or with the thread.
fn detach(name: &'static str, future: impl Future<Output = ()> + 'static) {
    drop(task::spawn_local(name, future));
}
