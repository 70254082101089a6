//! Anti-entropy: when this cluster says what its exports add up to, and what they should add up to. Pure.
//!
//! The publisher works from its own copy of the catalog. Should the store's copy have come to differ from it, by a defect or
//! a damaged disk, no difference would ever be seen and none repaired; so now and then the two are compared by digest.

use std::{collections::BTreeSet, time::Duration};

use tokio::time::Instant;
use tradewind_api::{NodeId, ServiceName};

use super::Desired;

/// From which level of the store on a digest can be attested.
pub(super) const ATTEST_LEVEL: u16 = 2;
/// Between two attestations while nothing changes: a copy that is wrong is found within a minute, and a hundred clusters
/// write less than two small entries a second for it.
pub(super) const ATTEST_EVERY: Duration = Duration::from_secs(60);
/// By what part of itself that is shortened or lengthened, so that clusters do not attest in step.
const JITTER: f64 = 0.1;
/// After one that was not taken.
const AGAIN: Duration = Duration::from_secs(5);

/// When to attest. See the module.
#[derive(Debug)]
pub(super) struct Schedule {
    every: Duration,
    due: Instant,
    /// The leader that took writes when last looked at.
    leader: Option<NodeId>,
}

impl Schedule {
    /// The first one is due as soon as a leader takes writes.
    pub(super) const fn new(every: Duration, now: Instant) -> Self {
        Self {
            every,
            due: now,
            leader: None,
        }
    }

    /// Takes a look at who leads now, none while nobody takes writes. After a reconnect, or under another leader, the two
    /// are compared at once.
    pub(super) fn look(&mut self, leader: Option<NodeId>, now: Instant) {
        if leader.is_some() && leader != self.leader {
            self.due = now;
        }
        self.leader = leader;
    }

    /// True when it is time and somebody could take it.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.leader.is_some() && now >= self.due
    }

    /// It was taken, whatever it gave. `unit` is random, from 0 to 1.
    pub(super) fn done(&mut self, now: Instant, unit: f64) {
        self.due = now + self.every.mul_f64(1.0 - JITTER + 2.0 * JITTER * unit);
    }

    /// It was not taken.
    pub(super) fn failed(&mut self, now: Instant) {
        self.due = now + AGAIN;
    }
}

/// What the store should hold: what is wanted, but for the services whose newest form it refused, of which it should
/// hold what it took last.
pub(super) fn expected(
    published: &Desired,
    mut wanted: Desired,
    refused: &BTreeSet<ServiceName>,
) -> Desired {
    for service in refused {
        match published.get(service) {
            Some(before) => wanted.insert(service.clone(), before.clone()),
            None => wanted.remove(service),
        };
    }
    wanted
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use tradewind_api::{model::ServiceKind, store::Export};

    use super::*;

    #[test]
    fn it_is_due_every_minute_and_after_each_reconnect() {
        let start = Instant::now();
        let mut schedule = Schedule::new(ATTEST_EVERY, start);
        assert!(!schedule.is_due(start), "nobody could take it");
        schedule.look(Some(1), start);
        assert!(schedule.is_due(start));
        schedule.done(start, 0.0);
        schedule.look(Some(1), start + Duration::from_secs(53));
        assert!(!schedule.is_due(start + Duration::from_secs(53)));
        assert!(schedule.is_due(start + Duration::from_secs(54)));
        schedule.done(start, 1.0);
        assert!(!schedule.is_due(start + Duration::from_secs(65)));

        // The leader was away; another takes over.
        let now = start + Duration::from_secs(2);
        schedule.look(None, now);
        assert!(!schedule.is_due(now));
        schedule.look(Some(1), now);
        assert!(schedule.is_due(now), "a reconnect");
        schedule.done(now, 0.5);
        schedule.look(Some(2), now);
        assert!(schedule.is_due(now), "another leader");
        schedule.failed(now);
        assert!(!schedule.is_due(now + Duration::from_secs(4)));
        assert!(schedule.is_due(now + Duration::from_secs(5)));
    }

    #[test]
    fn what_was_refused_counts_as_it_was_taken_last() {
        let export = |name: &str, created_at_ms| Export {
            service: name.parse().unwrap(),
            created_at_ms,
            kind: ServiceKind::ClusterSetIp,
            ports: vec![],
            endpoints: BTreeMap::new(),
            rules: None,
            spec: None,
        };
        let all = |exports: &[Export]| -> Desired {
            let named = exports.iter().map(|e| (e.service.clone(), e.clone()));
            named.collect()
        };
        let published = all(&[export("shop/a", 1), export("shop/b", 1)]);
        let wanted = all(&[
            export("shop/a", 2),
            export("shop/b", 1),
            export("shop/c", 1),
        ]);
        let refused = ["shop/a", "shop/c"].map(|s| s.parse().unwrap());
        let refused = BTreeSet::from(refused);
        assert_eq!(expected(&published, wanted.clone(), &refused), published);
        assert_eq!(
            expected(&published, wanted.clone(), &BTreeSet::new()),
            wanted
        );
    }
}
