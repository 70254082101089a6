//! Graceful end in three phases: the [`Trigger`] signals, every [`Watch`] holder stops taking new work and finishes
//! what it has, and what is left at the deadline is forced.
//!
//! A `Watch` is signal and guard in one: as long as a clone lives, work is in flight. It works across threads and
//! runtimes. An [`Observer`] sees the signal without holding the drain up. A trigger that is dropped without a drain
//! counts as forced: an owner that vanished must not leave listeners behind.

use std::convert::Infallible;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

/// How far a drain has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Business as usual.
    Running,
    /// Take nothing new, finish what is there.
    Draining,
    /// The deadline passed, or the trigger's owner is gone: stop now.
    Forced,
}

/// A connected trigger and watch.
#[must_use]
pub fn channel() -> (Trigger, Watch) {
    let (phase_tx, phase) = watch::channel(Phase::Running);
    // Nothing is ever sent: the channel counts its senders, that is all.
    let (guard, guards) = mpsc::channel(1);
    (
        Trigger {
            phase: phase_tx,
            guards,
        },
        Watch {
            observer: Observer { phase },
            _guard: guard,
        },
    )
}

/// Starts the drain; held by whoever decides that the process ends.
#[derive(Debug)]
pub struct Trigger {
    phase: watch::Sender<Phase>,
    guards: mpsc::Receiver<Infallible>,
}

impl Trigger {
    /// Signals every watch, then waits until all of them are dropped. False when `deadline` passed first; those that
    /// remain see [`Phase::Forced`].
    pub async fn drain(mut self, deadline: Duration) -> bool {
        self.phase.send_replace(Phase::Draining);
        let finished = tokio::time::timeout(deadline, self.guards.recv())
            .await
            .is_ok();
        if !finished {
            self.phase.send_replace(Phase::Forced);
        }
        finished
    }
}

/// Sees the drain coming and holds it up while it, or a clone, lives.
#[derive(Debug, Clone)]
pub struct Watch {
    observer: Observer,
    _guard: mpsc::Sender<Infallible>,
}

impl Watch {
    /// Returns once the drain has begun; at once when it has already.
    pub async fn triggered(&mut self) {
        self.observer.triggered().await;
    }

    /// Returns once the deadline has passed; whoever still works stops now.
    pub async fn forced(&mut self) {
        self.observer.forced().await;
    }

    /// Waits for the drain and gives the guard back, to be held until the work is finished.
    pub async fn signaled(mut self) -> Self {
        self.triggered().await;
        self
    }

    /// Whether the drain has begun.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.observer.is_draining()
    }

    /// How far the drain has come.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.observer.phase()
    }

    /// An observer of the same drain, which does not hold it up.
    #[must_use]
    pub fn observer(&self) -> Observer {
        self.observer.clone()
    }

    /// Runs `work` to its end, or until the drain is forced: then `None`.
    pub async fn until_forced<F: Future>(mut self, work: F) -> Option<F::Output> {
        tokio::select! {
            biased;
            done = work => Some(done),
            () = self.forced() => None,
        }
    }
}

/// Sees the drain without holding it up: for what serves until the very end, such as the admin server.
#[derive(Debug, Clone)]
pub struct Observer {
    phase: watch::Receiver<Phase>,
}

impl Observer {
    /// Returns once the drain has begun.
    pub async fn triggered(&mut self) {
        self.reached(Phase::Draining).await;
    }

    /// Returns once the drain is over, by its deadline or because nothing was left.
    pub async fn forced(&mut self) {
        self.reached(Phase::Forced).await;
    }

    /// Whether the drain has begun.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.phase() >= Phase::Draining
    }

    /// How far the drain has come.
    #[must_use]
    pub fn phase(&self) -> Phase {
        // A trigger that is gone has either finished its drain or lost its owner.
        if self.phase.has_changed().is_err() {
            Phase::Forced
        } else {
            *self.phase.borrow()
        }
    }

    async fn reached(&mut self, phase: Phase) {
        // An error means the trigger is gone, which is as far as a drain can come.
        if self.phase.wait_for(|now| *now >= phase).await.is_err() {
            tracing::trace!("the drain trigger is gone");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::task;

    #[tokio::test(start_paused = true)]
    async fn in_flight_work_survives_the_signal() {
        let (trigger, mut watch) = channel();
        assert!(!watch.is_draining());
        let finished = Arc::new(AtomicBool::new(false));
        let done = Arc::clone(&finished);
        let in_flight = task::spawn("in flight", async move {
            watch.triggered().await;
            assert!(watch.is_draining());
            tokio::time::sleep(Duration::from_secs(5)).await;
            done.store(true, Ordering::SeqCst);
        });
        assert!(trigger.drain(Duration::from_secs(30)).await);
        assert!(finished.load(Ordering::SeqCst));
        in_flight.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn the_deadline_forces_what_is_left() {
        let (trigger, watch) = channel();
        let mut late = watch.clone();
        let forced = task::spawn("stuck", async move {
            late.forced().await;
            late.phase()
        });
        let stuck = task::spawn("runs to the force", async move {
            watch.until_forced(std::future::pending::<()>()).await
        });
        assert!(!trigger.drain(Duration::from_secs(10)).await);
        assert_eq!(forced.await.unwrap(), Phase::Forced);
        assert_eq!(stuck.await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_drain_reaches_other_threads_and_runtimes() {
        let (trigger, watch) = channel();
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let mut watch = watch.clone();
                std::thread::spawn(move || {
                    tokio::runtime::Builder::new_current_thread()
                        .enable_all()
                        .build()
                        .unwrap()
                        .block_on(async move { watch.triggered().await });
                })
            })
            .collect();
        drop(watch);
        assert!(trigger.drain(Duration::from_secs(30)).await);
        for thread in threads {
            thread.join().unwrap();
        }
    }

    #[tokio::test]
    async fn a_dropped_trigger_ends_everything() {
        let (trigger, mut watch) = channel();
        drop(trigger);
        watch.triggered().await;
        watch.forced().await;
        assert_eq!(watch.phase(), Phase::Forced);
    }

    #[tokio::test]
    async fn an_observer_does_not_hold_the_drain_up() {
        let (trigger, watch) = channel();
        let mut observer = watch.observer();
        drop(watch);
        assert!(trigger.drain(Duration::from_secs(30)).await);
        observer.triggered().await;
        observer.forced().await;
    }
}
