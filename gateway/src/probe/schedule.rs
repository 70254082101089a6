//! When each address is probed next: in its turn, a little apart from the others, never more than a few at once. Owns the
//! turns and no probe. It must never forget an address, nor ask one twice at a time.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tokio::time::Instant;
use tradewind_api::ClusterName;
use tradewind_runtime::rng::Rng;

/// Between two probes of one address: a person who looks sees what is true now, and it costs each gateway one connection
/// a caller.
const EVERY: Duration = Duration::from_secs(5);
/// What each address adds where there are many: a hundred probes a second are what one gateway may spend on asking.
const EACH: Duration = Duration::from_millis(10);
/// After a first miss the next probe comes sooner: whether it was chance should be known soon.
const AGAIN: Duration = Duration::from_secs(1);
/// A new address is asked within this: those of one snapshot are not asked in step.
const FIRST_WITHIN: Duration = Duration::from_millis(500);
/// By what part of itself each wait is shortened or lengthened, so that gateways do not ask in step.
const JITTER: f64 = 0.1;
/// Probes under way at once: each holds a descriptor, and all of them fit what is kept aside for the control side.
const MAX_AT_ONCE: usize = 32;

/// Whom, and where.
pub(super) type Place = (ClusterName, String);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    due: BTreeMap<Place, Instant>,
    asking: BTreeSet<Place>,
}

impl Schedule {
    /// Takes up new addresses and drops those gone.
    pub(super) fn follow(
        &mut self,
        wanted: &BTreeMap<ClusterName, BTreeSet<String>>,
        now: Instant,
        rng: &mut Rng,
    ) {
        let is_wanted = |(c, a): &Place| wanted.get(c).is_some_and(|all| all.contains(a));
        self.due.retain(|place, _| is_wanted(place));
        for (cluster, addresses) in wanted {
            for address in addresses {
                let first = now + FIRST_WITHIN.mul_f64(rng.unit());
                self.due
                    .entry((cluster.clone(), address.clone()))
                    .or_insert(first);
            }
        }
    }

    /// The addresses to ask now, as many as there is room for.
    pub(super) fn take_due(&mut self, now: Instant) -> Vec<Place> {
        let room = MAX_AT_ONCE.saturating_sub(self.asking.len());
        let due = self.waiting().filter(|(_, at)| **at <= now);
        let mut due: Vec<(Instant, Place)> = due.map(|(p, at)| (*at, p.clone())).collect();
        // The longest overdue first: nobody waits for ever behind others that do not answer.
        due.sort();
        due.truncate(room);
        let due: Vec<Place> = due.into_iter().map(|(_, place)| place).collect();
        self.asking.extend(due.iter().cloned());
        due
    }

    fn waiting(&self) -> impl Iterator<Item = (&Place, &Instant)> {
        let waits = |(place, _): &(&Place, &Instant)| !self.asking.contains(*place);
        self.due.iter().filter(waits)
    }

    /// When to look again; none while all room is taken, or there is nobody.
    pub(super) fn next(&self) -> Option<Instant> {
        if self.asking.len() >= MAX_AT_ONCE {
            return None;
        }
        self.waiting().map(|(_, at)| *at).min()
    }

    /// A probe that began at `sent` is over.
    pub(super) fn asked(&mut self, place: &Place, sent: Instant, misses: u32, rng: &mut Rng) {
        self.asking.remove(place);
        let all = u32::try_from(self.due.len()).unwrap_or(u32::MAX);
        let every = if misses == 1 {
            AGAIN
        } else {
            EVERY.max(EACH.saturating_mul(all))
        };
        if let Some(due) = self.due.get_mut(place) {
            let jitter = 1.0 - JITTER + 2.0 * JITTER * rng.unit();
            *due = sent + every.mul_f64(jitter);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(clusters: usize, addresses: usize) -> BTreeMap<ClusterName, BTreeSet<String>> {
        let name = |n| ClusterName::new(&format!("c{n}")).unwrap();
        let all = || (0..addresses).map(|n| format!("g{n}:1")).collect();
        (0..clusters).map(|n| (name(n), all())).collect()
    }

    #[test]
    fn probes_are_bounded_spread_and_nobody_is_forgotten() {
        let (mut rng, start) = (Rng::seeded(7), Instant::now());
        let mut schedule = Schedule::default();
        schedule.follow(&wanted(50, 2), start, &mut rng);
        let mut now = start + FIRST_WITHIN;
        let mut seen = BTreeSet::new();
        while seen.len() < 100 {
            let taken = schedule.take_due(now);
            assert!(!taken.is_empty() && taken.len() <= MAX_AT_ONCE);
            assert!(schedule.take_due(now).is_empty(), "nobody twice at a time");
            for place in &taken {
                schedule.asked(place, now, 0, &mut rng);
                assert!(seen.insert(place.clone()), "{place:?} out of turn");
            }
            now += Duration::from_millis(1);
        }
        let soonest = schedule.next().unwrap();
        assert!(soonest >= start + FIRST_WITHIN + EVERY.mul_f64(0.89));
        let apart: BTreeSet<_> = schedule.due.values().collect();
        assert!(apart.len() > 90, "not in step");
        schedule.follow(&wanted(1, 1), now, &mut rng);
        assert_eq!(schedule.due.len(), 1);
        schedule.follow(&wanted(0, 0), now, &mut rng);
        assert_eq!(schedule.next(), None);
    }

    #[test]
    fn a_first_miss_is_followed_soon_and_many_addresses_take_their_time() {
        let (mut rng, now) = (Rng::seeded(7), Instant::now());
        let due_after = |count: usize, misses: u32, rng: &mut Rng| {
            let mut schedule = Schedule::default();
            schedule.follow(&wanted(count, 1), now, rng);
            let place = schedule.due.keys().next().unwrap().clone();
            schedule.asked(&place, now, misses, rng);
            schedule.due[&place] - now
        };
        let soon = due_after(1, 1, &mut rng);
        assert!(
            soon >= AGAIN.mul_f64(0.89) && soon <= AGAIN.mul_f64(1.11),
            "{soon:?}"
        );
        let later = due_after(1, 2, &mut rng);
        assert!(
            later >= EVERY.mul_f64(0.89) && later <= EVERY.mul_f64(1.11),
            "{later:?}"
        );
        let many = due_after(1_000, 0, &mut rng);
        assert!(many >= Duration::from_millis(8_900), "{many:?}");
    }
}
