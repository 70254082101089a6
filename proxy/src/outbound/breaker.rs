//! Circuit breaking: how much of a service this proxy has under way on all of its threads, and who may start, waits, or is turned
//! away. The decision is `tradewind_transport::balance::breaker`; here are the counts, and the waiting.
//!
//! Services without a policy that bounds them are not counted at all. Nothing is held across a wait, and whoever leaves gives
//! his place back.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{Instant, timeout_at},
};
use tradewind_api::traffic::{Pool, RetryBudget, Settings};
use tradewind_transport::balance::breaker::{Admit, Counts, may_retry, may_start};

use super::route::CalleeKey;

/// Longest that a request waits for a connection where no rule gives it less time: whoever waits longer has left.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// The counts of a process. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Breakers(Arc<Mutex<BTreeMap<CalleeKey, Weak<Shared>>>>);

/// What all threads have under way of one callee.
#[derive(Debug, Default)]
struct Shared {
    in_use: Mutex<Counts>,
    /// Told when a connection becomes free.
    freed: Notify,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Counts> {
        // Nothing that could panic is done under it.
        self.in_use.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One callee's bounds, with what is under way.
#[derive(Clone, Debug)]
pub(super) struct Breaker {
    shared: Arc<Shared>,
    pool: Pool,
    retry_budget: Option<RetryBudget>,
}

/// What a call takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Takes {
    /// A request that shares a connection with others.
    Request,
    /// A request that came over a connection of its own, and takes one.
    OwnConnection,
    /// A stream of bytes.
    Stream,
}

/// Turned away: which bound was met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Overflow(pub(super) &'static str);

impl Breakers {
    /// The breaker of a callee, where its settings have bounds.
    pub(super) fn of(&self, callee: &CalleeKey, settings: &Settings) -> Option<Breaker> {
        let counted = Pool {
            connect_timeout_ms: None,
            requests_per_connection: None,
            ..settings.pool
        };
        if counted == Pool::default() && settings.retry_budget.is_none() {
            return None;
        }
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, shared| shared.strong_count() > 0);
        let known = all.get(callee).and_then(Weak::upgrade);
        let shared = known.unwrap_or_else(|| {
            let new = Arc::default();
            all.insert(callee.clone(), Arc::downgrade(&new));
            new
        });
        Some(Breaker {
            shared,
            pool: settings.pool,
            retry_budget: settings.retry_budget,
        })
    }
}

impl Breaker {
    /// Lets a call start, perhaps after others have ended.
    pub(super) async fn admit(
        &self,
        takes: Takes,
        until: Option<Instant>,
    ) -> Result<Permit, Overflow> {
        let latest = Instant::now() + MAX_WAIT;
        let until = until.map_or(latest, |until| until.min(latest));
        let mut waiting: Option<Pending> = None;
        loop {
            let freed = self.shared.freed.notified();
            tokio::pin!(freed);
            // Before the look at the counts: what becomes free after it is not missed.
            freed.as_mut().enable();
            match self.decide(takes, waiting.is_some()) {
                Admit::Now => {
                    return Ok(Permit {
                        shared: Arc::clone(&self.shared),
                        takes,
                    });
                }
                Admit::Overflow(bound) => return Err(Overflow(bound)),
                Admit::Wait if waiting.is_none() => {
                    waiting = Some(Pending(Arc::clone(&self.shared)));
                }
                Admit::Wait => {}
            }
            if timeout_at(until, freed).await.is_err() {
                return Err(Overflow("connections"));
            }
        }
    }

    /// Decides, and counts what was decided.
    fn decide(&self, takes: Takes, waits: bool) -> Admit {
        let own_connection = takes != Takes::Request;
        let mut in_use = self.shared.lock();
        let mut seen = *in_use;
        // Whoever waits is not in his own way.
        seen.pending = seen.pending.saturating_sub(waits.into());
        if own_connection && !waits && seen.pending > 0 {
            // Those who wait go first: what is free is theirs.
            seen.connections = u32::MAX;
        }
        if takes == Takes::Stream {
            // It is no request.
            seen.requests = 0;
        }
        let decided = may_start(&self.pool, &seen, own_connection);
        match decided {
            Admit::Now => {
                if takes != Takes::Stream {
                    in_use.requests = in_use.requests.saturating_add(1);
                }
                if own_connection {
                    in_use.connections = in_use.connections.saturating_add(1);
                }
            }
            Admit::Wait if !waits => in_use.pending = in_use.pending.saturating_add(1),
            Admit::Wait | Admit::Overflow(_) => {}
        }
        decided
    }

    /// Lets a request be tried again, unless too many are. `None` where it may not.
    pub(super) fn retry(&self) -> Option<Retrying> {
        let mut in_use = self.shared.lock();
        may_retry(&self.pool, self.retry_budget.as_ref(), &in_use).then(|| {
            in_use.retries = in_use.retries.saturating_add(1);
            Retrying(Arc::clone(&self.shared))
        })
    }

    /// Whether retries are counted by a rule's own budget.
    pub(super) const fn has_budget(&self) -> bool {
        self.retry_budget.is_some()
    }

    /// What is under way now.
    pub(super) fn in_use(&self) -> Counts {
        *self.shared.lock()
    }
}

/// A place in the queue.
#[derive(Debug)]
struct Pending(Arc<Shared>);

impl Drop for Pending {
    fn drop(&mut self) {
        let mut in_use = self.0.lock();
        in_use.pending = in_use.pending.saturating_sub(1);
    }
}

/// A call that was let start.
#[derive(Debug)]
pub(super) struct Permit {
    shared: Arc<Shared>,
    takes: Takes,
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut in_use = self.shared.lock();
        if self.takes != Takes::Stream {
            in_use.requests = in_use.requests.saturating_sub(1);
        }
        if self.takes != Takes::Request {
            in_use.connections = in_use.connections.saturating_sub(1);
        }
        drop(in_use);
        self.shared.freed.notify_one();
    }
}

/// A request that is tried again.
#[derive(Debug)]
pub(super) struct Retrying(Arc<Shared>);

impl Drop for Retrying {
    fn drop(&mut self) {
        let mut in_use = self.0.lock();
        in_use.retries = in_use.retries.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt as _, poll};
    use tradewind_api::route::MILLION;

    use super::*;

    fn breaker(pool: Pool, retry_budget: Option<RetryBudget>) -> Breaker {
        let settings = Settings {
            pool,
            retry_budget,
            ..Settings::default()
        };
        let callee = CalleeKey {
            service: "shop/cart:80".parse().unwrap(),
            scope: Default::default(),
            subset: None,
        };
        Breakers::default().of(&callee, &settings).unwrap()
    }

    fn connections(connections: u32, pending: Option<u32>) -> Pool {
        Pool {
            connections: Some(connections),
            pending,
            ..Pool::default()
        }
    }

    #[test]
    fn what_has_no_bounds_is_not_counted_and_all_threads_count_together() {
        let all = Breakers::default();
        let key = |subset: Option<&str>| CalleeKey {
            service: "shop/cart:80".parse().unwrap(),
            scope: Default::default(),
            subset: subset.map(str::to_owned),
        };
        let bounded = |requests| Settings {
            pool: Pool {
                requests: Some(requests),
                ..Pool::default()
            },
            ..Settings::default()
        };
        let mut timeout = Settings::default();
        timeout.pool.connect_timeout_ms = Some(1);
        timeout.pool.requests_per_connection = Some(1);
        assert!(all.of(&key(None), &timeout).is_none());
        let one = all.of(&key(None), &bounded(1)).unwrap();
        let other = all.of(&key(None), &bounded(2)).unwrap();
        assert!(
            Arc::ptr_eq(&one.shared, &other.shared),
            "whatever the bounds"
        );
        let subset = all.of(&key(Some("v2")), &bounded(1)).unwrap();
        assert!(!Arc::ptr_eq(&one.shared, &subset.shared));
        drop((one, other));
        drop(all.of(&key(Some("v3")), &bounded(1)));
        assert_eq!(
            all.0.lock().unwrap().len(),
            2,
            "v2's, and the one made last"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_waits_for_a_connection_and_one_too_many_is_turned_away() {
        let breaker = breaker(connections(1, Some(1)), None);
        let take = || breaker.admit(Takes::OwnConnection, None);
        let first = take().now_or_never().unwrap().unwrap();
        let mut second = Box::pin(take());
        assert!(poll!(&mut second).is_pending());
        let third = take().now_or_never().unwrap();
        assert_eq!(third.unwrap_err(), Overflow("pending"));
        assert!(
            breaker.admit(Takes::Request, None).now_or_never().is_some(),
            "one that shares a connection needs none"
        );
        drop(first);
        let third = Box::pin(take());
        let mut third = third;
        let turned = poll!(&mut third);
        assert!(
            matches!(turned, std::task::Poll::Ready(Err(Overflow("pending")))),
            "what became free is the second one's"
        );
        let second = second.await.unwrap();
        assert_eq!(
            (breaker.in_use().connections, breaker.in_use().pending),
            (1, 0)
        );
        drop(second);
        assert_eq!(breaker.in_use(), Counts::default());
    }

    #[tokio::test(start_paused = true)]
    async fn everybody_who_waits_goes_in_turn_and_whoever_leaves_gives_his_place_back() {
        let breaker = breaker(connections(2, None), None);
        let take = || Box::pin(breaker.admit(Takes::Stream, None));
        let (a, b) = (take().await.unwrap(), take().await.unwrap());
        let (mut c, mut d, mut e) = (take(), take(), take());
        for waiting in [&mut c, &mut d, &mut e] {
            assert!(poll!(waiting).is_pending());
        }
        assert_eq!(breaker.in_use().pending, 3);
        // Both at once, before anybody looks.
        drop((a, b));
        drop(c);
        let (d, e) = (d.await.unwrap(), e.await.unwrap());
        assert_eq!(
            (breaker.in_use().connections, breaker.in_use().pending),
            (2, 0)
        );
        assert_eq!(breaker.in_use().requests, 0, "bytes are no requests");
        drop((d, e));
        assert_eq!(breaker.in_use(), Counts::default());
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_ever() {
        let breaker = breaker(connections(1, None), None);
        let _held = breaker.admit(Takes::OwnConnection, None).await.unwrap();
        let started = Instant::now();
        let soon = started + Duration::from_secs(2);
        let late = breaker.admit(Takes::OwnConnection, Some(soon)).await;
        assert_eq!(late.unwrap_err(), Overflow("connections"));
        assert_eq!(started.elapsed().as_secs(), 2);
        let late = breaker.admit(Takes::OwnConnection, None).await;
        assert_eq!(late.unwrap_err(), Overflow("connections"));
        assert_eq!(started.elapsed().as_secs(), 62);
        assert_eq!(breaker.in_use().pending, 0);
    }

    #[tokio::test]
    async fn requests_and_retries_are_bounded() {
        let pool = Pool {
            requests: Some(2),
            retries: Some(3),
            ..Pool::default()
        };
        let budget = RetryBudget {
            share: MILLION / 2,
            min_concurrency: 0,
        };
        let breaker = breaker(pool, Some(budget));
        let one = breaker.admit(Takes::Request, None).await.unwrap();
        assert!(breaker.retry().is_none(), "half of one is none");
        let two = breaker.admit(Takes::OwnConnection, None).await.unwrap();
        let third = breaker.admit(Takes::Request, None).await;
        assert_eq!(third.unwrap_err(), Overflow("requests"));
        let retrying = breaker.retry().unwrap();
        assert!(breaker.retry().is_none());
        drop(retrying);
        assert!(breaker.retry().is_some());
        drop((one, two));
        assert_eq!(breaker.in_use(), Counts::default());
    }
}
