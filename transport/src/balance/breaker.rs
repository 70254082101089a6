//! Circuit breaking: whether one more request may start, or be tried again, by what a rule allows at once.
//!
//! Decides by numbers that it is given and holds none itself: whoever counts them must count what was admitted before he asks again.
//! Without a rule there is no bound here.

use tradewind_api::{
    route::MILLION,
    traffic::{Pool, RetryBudget},
};

/// What is going on with a service, or a subset of one, in this proxy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections that carry one call each and are in use.
    pub connections: u32,
    /// Requests that wait for one of those.
    pub pending: u32,
    /// Requests that were sent and are not answered yet.
    pub requests: u32,
    /// Of those, the ones that are tried again.
    pub retries: u32,
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admit {
    /// It is sent now.
    Now,
    /// It waits for a connection.
    Wait,
    /// It is refused; the word says by which bound.
    Overflow(&'static str),
}

/// Whether one more of `used` is too many.
const fn is_full(used: u32, most: Option<u32>) -> bool {
    matches!(most, Some(most) if used >= most)
}

/// Whether a request, or a stream of bytes, may start. `own_connection` says that it takes a whole one: streams of bytes, and requests
/// that came as HTTP/1. One that waited asks again when a connection is free, and is not among `pending` then.
pub const fn may_start(pool: &Pool, counts: &Counts, own_connection: bool) -> Admit {
    if is_full(counts.requests, pool.requests) {
        return Admit::Overflow("requests");
    }
    if !own_connection || !is_full(counts.connections, pool.connections) {
        return Admit::Now;
    }
    if matches!(pool.connections, Some(0)) {
        // None will ever be free.
        return Admit::Overflow("connections");
    }
    if is_full(counts.pending, pool.pending) {
        return Admit::Overflow("pending");
    }
    Admit::Wait
}

/// Whether a request may be tried again while others are. `budget` is the rule's; who has none asks `budget::Budget` besides.
pub fn may_retry(pool: &Pool, budget: Option<&RetryBudget>, counts: &Counts) -> bool {
    let within = |budget: &RetryBudget| {
        let active = u64::from(counts.requests) + u64::from(counts.pending);
        let share = active * u64::from(budget.share) / u64::from(MILLION);
        u64::from(counts.retries) < share.max(u64::from(budget.min_concurrency))
    };
    !is_full(counts.retries, pool.retries) && budget.is_none_or(within)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(connections: u32, pending: u32, requests: u32, retries: u32) -> Counts {
        Counts {
            connections,
            pending,
            requests,
            retries,
        }
    }

    fn pool(connections: u32, pending: u32, requests: u32) -> Pool {
        Pool {
            connections: Some(connections),
            pending: Some(pending),
            requests: Some(requests),
            ..Pool::default()
        }
    }

    #[test]
    fn without_a_rule_everything_starts() {
        let many = counts(u32::MAX, u32::MAX, u32::MAX, u32::MAX);
        for own in [false, true] {
            assert_eq!(may_start(&Pool::default(), &many, own), Admit::Now);
        }
        assert!(may_retry(&Pool::default(), None, &many));
    }

    #[test]
    fn each_bound_refuses_what_is_one_too_many() {
        use Admit::{Now, Overflow, Wait};
        let usual = pool(2, 3, 10);
        let waiting_without_end = Pool {
            pending: None,
            ..usual
        };
        for (pool, counts, own, want) in [
            (usual, counts(0, 0, 9, 0), false, Now),
            (usual, counts(0, 0, 10, 0), false, Overflow("requests")),
            (usual, counts(0, 0, 10, 0), true, Overflow("requests")),
            (usual, counts(1, 0, 9, 0), true, Now),
            (usual, counts(2, 0, 2, 0), true, Wait),
            (usual, counts(2, 2, 2, 0), true, Wait),
            (usual, counts(2, 3, 2, 0), true, Overflow("pending")),
            (usual, counts(9, 9, 2, 0), true, Overflow("pending")),
            // Many share a connection: how many there are does not matter.
            (usual, counts(2, 3, 2, 0), false, Now),
            (waiting_without_end, counts(2, 999, 2, 0), true, Wait),
            (
                pool(1, 0, 10),
                counts(1, 0, 1, 0),
                true,
                Overflow("pending"),
            ),
            (
                pool(0, 5, 9),
                counts(0, 0, 0, 0),
                true,
                Overflow("connections"),
            ),
            (pool(0, 5, 9), counts(0, 0, 0, 0), false, Now),
        ] {
            assert_eq!(may_start(&pool, &counts, own), want, "{counts:?}");
        }
    }

    #[test]
    fn retries_are_bounded_by_number_and_by_share() {
        let three = Pool {
            retries: Some(3),
            ..Pool::default()
        };
        let budget = |share, min_concurrency| {
            Some(RetryBudget {
                share,
                min_concurrency,
            })
        };
        for (pool, budget, counts, may) in [
            (three, None, counts(0, 0, 99, 2), true),
            (three, None, counts(0, 0, 99, 3), false),
            (
                Pool::default(),
                budget(200_000, 3),
                counts(0, 0, 0, 2),
                true,
            ),
            (
                Pool::default(),
                budget(200_000, 3),
                counts(0, 0, 0, 3),
                false,
            ),
            (
                Pool::default(),
                budget(200_000, 3),
                counts(0, 0, 50, 9),
                true,
            ),
            (
                Pool::default(),
                budget(200_000, 3),
                counts(0, 0, 50, 10),
                false,
            ),
            (
                Pool::default(),
                budget(200_000, 3),
                counts(0, 5, 50, 10),
                true,
            ),
            (Pool::default(), budget(0, 0), counts(0, 0, 1000, 0), false),
            (
                Pool::default(),
                budget(MILLION, 0),
                counts(0, 0, u32::MAX, 7),
                true,
            ),
            // Both hold.
            (three, budget(MILLION, 0), counts(0, 0, 50, 3), false),
        ] {
            let got = may_retry(&pool, budget.as_ref(), &counts);
            assert_eq!(got, may, "{budget:?} {counts:?}");
        }
    }
}
