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
    use crate::{listen, rng::Rng, task};

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

    /// The three phases as a server lives them: the connection that is open goes on, a new one is refused, and what is
    /// still open at the deadline is cut.
    #[tokio::test]
    async fn a_draining_server_serves_what_it_has_and_refuses_what_is_new() {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        use tokio::net::TcpStream;

        let listener = listen::bind_tcp((std::net::Ipv4Addr::LOCALHOST, 0).into(), false).unwrap();
        let address = listener.local_addr().unwrap();
        let (trigger, mut watch) = channel();
        let server = task::spawn("server", async move {
            let mut rng = Rng::seeded(1);
            let mut connections = task::TaskSet::new();
            loop {
                tokio::select! {
                    () = watch.triggered() => break,
                    (mut stream, _) = listen::accept(&listener, &mut rng) => {
                        let work = watch.clone();
                        connections.spawn("echo", work.until_forced(async move {
                            let mut byte = [0];
                            while stream.read_exact(&mut byte).await.is_ok() {
                                stream.write_all(&byte).await.unwrap();
                            }
                        }));
                    }
                }
            }
            drop((listener, watch));
            connections.join_all().await;
        });
        let echo = async |stream: &mut TcpStream| {
            let mut byte = [0];
            stream.write_all(b"x").await.unwrap();
            stream.read_exact(&mut byte).await.map(|_| byte)
        };

        let mut open = TcpStream::connect(address).await.unwrap();
        assert_eq!(echo(&mut open).await.unwrap(), *b"x");
        let draining = task::spawn("drain", trigger.drain(Duration::from_secs(2)));
        while TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
        assert_eq!(
            echo(&mut open).await.unwrap(),
            *b"x",
            "cut before the deadline"
        );
        assert!(
            !draining.await.unwrap(),
            "the open connection was not counted"
        );
        server.await.unwrap();
        assert!(
            echo(&mut open).await.is_err(),
            "still served after the deadline"
        );
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
