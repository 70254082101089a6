//! The proxy's data threads: each takes its share of the listeners and serves it until the drain is over.
//!
//! A thread owns its connections and what it learns; it shares counters, and reads the snapshot.

use std::{
    rc::Rc,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::net::TcpListener;
use tradewind_api::ServicePortRef;
use tradewind_runtime::{drain, rng::Rng, task::TaskSet, workers::Workers};
use tradewind_transport::control::Control;

use super::{
    Bound,
    doors::{Deciding, Doors, Share},
};
use crate::{
    capture,
    error::ProxyError,
    inbound::{self, InboundContext},
    outbound::{Breakers, Outbound, OutboundContext, OutboundMetrics, StateCell},
};

/// One thread's share: its listeners, its random numbers, its hold on the drain.
struct Seat {
    inbound: Option<std::net::TcpListener>,
    outbound: Vec<(std::net::TcpListener, ServicePortRef)>,
    captured: Share,
    rng: Rng,
    drain: drain::Watch,
}

impl Bound {
    pub(super) fn start_workers(
        &mut self,
        control: &Control,
        inbound: &InboundContext,
        cells: &Arc<Mutex<Vec<StateCell>>>,
        deciding: Option<Deciding>,
        watch: drain::Watch,
    ) -> Result<Workers, ProxyError> {
        let seats: Vec<_> = (0..self.threads)
            .map(|_| {
                let outbound = self
                    .outbound
                    .iter_mut()
                    .filter_map(|g| g.listeners.pop().map(|l| (l, g.target.clone())))
                    .collect();
                // Taken once by its thread, so that no hold on the drain stays behind.
                Some(Seat {
                    inbound: self.inbound.pop(),
                    outbound,
                    captured: self.doors.as_mut().map(Doors::share).unwrap_or_default(),
                    rng: self.rng.fork(),
                    drain: watch.clone(),
                })
            })
            .collect();
        drop(watch);
        let seats = Mutex::new(seats);
        let outbound_metrics = OutboundMetrics::register(&self.metrics);
        let (control, inbound, cells) = (control.clone(), inbound.clone(), Arc::clone(cells));
        let labels = Arc::clone(&self.config.labels);
        let (clock, zone, exit, name) = (
            Arc::clone(&self.clock),
            self.config.zone.clone(),
            self.config.exit,
            self.config.name.clone(),
        );
        let mark = self.mark();
        let breakers = Breakers::default();
        Workers::spawn("proxy", self.threads, move |index| {
            let mut seats = seats.lock().unwrap_or_else(PoisonError::into_inner);
            let seat = seats.get_mut(index).and_then(Option::take);
            let context = OutboundContext {
                control: control.clone(),
                metrics: outbound_metrics.clone(),
                standard: inbound.standard.clone(),
                clock: Arc::clone(&clock),
                rng: Rng::seeded(0),
                zone: zone.clone(),
                labels: Arc::clone(&labels),
                exit,
                mark,
                breakers: breakers.clone(),
                name: name.clone(),
            };
            let (inbound, cells) = (inbound.clone(), Arc::clone(&cells));
            let deciding = deciding.clone();
            async move {
                if let Some(seat) = seat {
                    serve(seat, context, inbound, deciding, &cells).await;
                }
            }
        })
        .map_err(|source| ProxyError::Io {
            action: "start a data thread",
            source,
        })
    }
}

/// One data thread: its inbound listener and its outbound ones, until the drain is over.
async fn serve(
    mut seat: Seat,
    context: OutboundContext,
    inbound: InboundContext,
    deciding: Option<Deciding>,
    cells: &Mutex<Vec<StateCell>>,
) {
    let mut tasks = TaskSet::new();
    let outbound = Outbound::new(OutboundContext {
        rng: seat.rng.fork(),
        ..context
    });
    cells
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(outbound.state_cell());
    for (listener, target) in std::mem::take(&mut seat.outbound) {
        match TcpListener::from_std(listener) {
            Ok(listener) => {
                let serving = Rc::clone(&outbound).serve(listener, target, seat.drain.clone());
                tasks.spawn_local("outbound", serving);
            }
            Err(error) => tracing::error!(%error, %target, "a listener cannot be used"),
        }
    }
    if let Some(deciding) = deciding {
        serve_captured(&mut tasks, &outbound, deciding, &mut seat);
    }
    match seat.inbound.map(TcpListener::from_std) {
        Some(Ok(listener)) => {
            let serving = inbound::serve(listener, inbound, seat.rng, seat.drain.clone());
            tasks.spawn_local("inbound", serving);
        }
        Some(Err(error)) => tracing::error!(%error, "the inbound listener cannot be used"),
        None => {}
    }
    let mut observer = seat.drain.observer();
    drop(seat.drain);
    observer.forced().await;
}

/// One data thread's captured connections, in both directions.
fn serve_captured(
    tasks: &mut TaskSet,
    outbound: &Rc<Outbound>,
    deciding: Deciding,
    seat: &mut Seat,
) {
    let Share {
        outbound: out,
        inbound: callers,
    } = std::mem::take(&mut seat.captured);
    for listener in out {
        match TcpListener::from_std(listener) {
            Ok(listener) => {
                let captured = deciding.captured.clone();
                let serving =
                    Rc::clone(outbound).serve_captured(listener, captured, seat.drain.clone());
                tasks.spawn_local("captured", serving);
            }
            Err(error) => tracing::error!(%error, "a listener cannot be used"),
        }
    }
    for listener in callers {
        match TcpListener::from_std(listener) {
            Ok(listener) => {
                let (guard, rng) = (deciding.guard.clone(), seat.rng.fork());
                let serving = capture::inbound::serve(listener, guard, rng, seat.drain.clone());
                tasks.spawn_local("plaintext callers", serving);
            }
            Err(error) => tracing::error!(%error, "a listener cannot be used"),
        }
    }
}
