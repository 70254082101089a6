//! How far each other cluster is, as this cluster's proxies are told. Pure.
//!
//! A measurement moves with every packet, a distance hardly ever: what is told follows a measurement that has gone away
//! from it for good, and stays when nobody measures any more. So it is no reason to push snapshots.

use std::collections::BTreeMap;

use tradewind_api::ClusterName;

use super::Reach;
use crate::registry::Reports;

/// Between two looks: proxies that call measure for themselves, so nobody waits for this.
const LOOK_EVERY_MS: u64 = 10_000;
/// What is told has steps of this: below it is noise on any way.
const STEP_US: u64 = 100;
/// What is told moves only by more than this: less changes nobody's choice.
const LEAST_US: u64 = 1_000;
/// And only by more than this part of itself: a tier is twice as far as the one before.
const LEAST_PART: u64 = 4;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Distances {
    told: BTreeMap<ClusterName, u64>,
    looked_at_ms: u64,
}

impl Distances {
    /// What proxies are told of a cluster, µs.
    pub fn of(&self, cluster: &ClusterName) -> Option<u64> {
        self.told.get(cluster).copied()
    }

    /// Takes a look at what is measured, if it is time to.
    pub fn look(&mut self, reach: &Reach, reports: &Reports, now_ms: u64) {
        if now_ms.saturating_sub(self.looked_at_ms) < LOOK_EVERY_MS {
            return;
        }
        self.looked_at_ms = now_ms;
        self.told
            .retain(|cluster, _| reach.clusters.contains_key(cluster));
        for (cluster, seen) in &reach.clusters {
            // Gateways measure one round trip between them; the own ping has the controllers' part in it.
            let own = seen.round_trip.filter(|_| seen.reachable == Some(true));
            let own = own.map(|d| u64::try_from(d.as_micros()).unwrap_or(u64::MAX));
            let measured = reports.together(cluster, now_ms).round_trip_us.or(own);
            let Some(measured) = measured else {
                continue;
            };
            let told = self.told.entry(cluster.clone()).or_insert(0);
            if has_moved(*told, measured) {
                *told = measured.div_ceil(STEP_US).max(1).saturating_mul(STEP_US);
            }
        }
    }
}

/// Whether what is told is no longer true of what is measured. 0 is told of nobody.
const fn has_moved(told: u64, measured: u64) -> bool {
    let by = told.abs_diff(measured);
    told == 0 || (by > LEAST_US && by > told / LEAST_PART)
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use super::*;
    use crate::{reach::ClusterReach, registry::reports::tests::reports};

    fn east() -> ClusterName {
        ClusterName::new("east").unwrap()
    }

    fn pinged(reachable: bool, us: u64) -> Reach {
        let east_reach = ClusterReach {
            reachable: Some(reachable),
            round_trip: Some(Duration::from_micros(us)),
            ..ClusterReach::default()
        };
        Reach {
            clusters: [(east(), Arc::new(east_reach))].into(),
        }
    }

    /// What is told after these measurements of the own ping, each looked at in its turn.
    fn told(measured: &[u64]) -> Vec<u64> {
        let (mut distances, mut now_ms) = (Distances::default(), 1_800_000_000_000);
        let one = |us: &u64| {
            distances.look(&pinged(true, *us), &Reports::default(), now_ms);
            now_ms += LOOK_EVERY_MS;
            distances.of(&east()).unwrap()
        };
        measured.iter().map(one).collect()
    }

    #[test]
    fn noise_changes_nothing_and_another_way_does() {
        assert_eq!(
            told(&[80_010, 90_000, 71_000, 99_900, 101_000, 80_000]),
            [80_100, 80_100, 80_100, 80_100, 101_000, 101_000]
        );
        // Near by, a quarter is nothing.
        assert_eq!(
            told(&[0, 40, 1_100, 1_101, 300]),
            [100, 100, 100, 1_200, 1_200]
        );
        assert_eq!(told(&[2_000, 900, 3_100]), [2_000, 900, 3_100]);
    }

    #[test]
    fn gateways_go_before_the_own_ping_and_looks_are_far_apart() {
        let start = 1_800_000_000_000;
        let mut distances = Distances::default();
        distances.look(&pinged(true, 30_000), &Reports::default(), start);
        assert_eq!(distances.of(&east()), Some(30_000));
        let seen = reports(&[(Some(true), 14), (Some(false), 1)], start);
        distances.look(&pinged(true, 30_000), &seen, start + LOOK_EVERY_MS - 1);
        assert_eq!(distances.of(&east()), Some(30_000), "not yet");
        distances.look(&pinged(true, 30_000), &seen, start + LOOK_EVERY_MS);
        assert_eq!(distances.of(&east()), Some(14_000));
        // Nobody reaches it: it is as far as it was.
        let later = start + 9 * LOOK_EVERY_MS;
        distances.look(&pinged(false, 90_000), &Reports::default(), later);
        assert_eq!(distances.of(&east()), Some(14_000));
        let left = Reach::default();
        distances.look(&left, &Reports::default(), later + LOOK_EVERY_MS);
        assert_eq!(distances.of(&east()), None, "it is no member any more");
    }
}
