//! Drawing one endpoint of those that serve: of a tier by its share, and inside it as the service's settings say.
//!
//! Owns the tables of consistent hashing. They are made when a call with a key first meets the members they are of, and kept while
//! snapshots come and go.

use std::{cell::RefCell, rc::Rc};

use tradewind_api::{
    id::EndpointId,
    traffic::{Balance, HashTable},
};
use tradewind_transport::balance::{
    Micros,
    hash::{self, Table},
    pick::{self, Member},
    round_robin::round_robin,
    tiers::{self, Rung},
};

use super::{Balancer, Callee, Picked, Route, Target};
use crate::telemetry::Tier;

/// Tables kept for one callee: a few tiers', as they are and as they were before an endpoint left or came back. The largest takes
/// some 20 MB, the usual one 256 KiB.
const MAX_TABLES: usize = 4;

/// Hashes and weights of a table's members.
type Members = Vec<(u64, f64)>;

/// The tables of one callee, the one used last at the end.
#[derive(Debug, Default)]
pub(in crate::outbound) struct Tables(RefCell<Vec<(HashTable, Members, Rc<Table>)>>);

impl Tables {
    fn of(&self, kind: HashTable, members: Members) -> Rc<Table> {
        let mut all = self.0.borrow_mut();
        let known = all.iter().position(|(k, m, _)| *k == kind && *m == members);
        let entry = match known {
            Some(at) => all.remove(at),
            None => {
                let table = Rc::new(Table::new(&members, kind));
                (kind, members, table)
            }
        };
        let table = Rc::clone(&entry.2);
        if all.len() >= MAX_TABLES {
            all.remove(0);
        }
        all.push(entry);
        table
    }
}

impl Balancer {
    /// Whether a persistent session with that endpoint can go on: it is there, and has not failed. One that drains, or was not heard of
    /// lately, is asked before others are; whoever is farther, too.
    pub(in crate::outbound) fn keeps(&self, to: Callee<'_>, id: &EndpointId) -> bool {
        let route = self.route(to);
        route.is_ok_and(|route| self.stays(&route, id).is_some())
    }

    /// The endpoint that a persistent session is with, where it can go on there.
    pub(in crate::outbound) fn home(&self, route: &Route, id: &EndpointId) -> Option<Picked> {
        let (index, target) = self.stays(route, id)?;
        let made = route.made.borrow();
        let tier = made.as_ref().and_then(|m| {
            let mut tiers = m.choice.tiers.iter().enumerate();
            tiers.find(|(_, tier)| tier.members.contains(&index))
        });
        Some(Picked {
            target,
            tier: tier.map(|(number, tier)| Tier {
                number,
                distance: tier.distance,
            }),
        })
    }

    fn stays(&self, route: &Route, id: &EndpointId) -> Option<(usize, Rc<Target>)> {
        let now = self.now();
        // So that whoever failed is probed though nobody asks for others.
        self.make(route, now);
        let mut targets = route.targets.iter().enumerate();
        let (index, target) = targets.find(|(_, t)| t.endpoint.id == *id)?;
        let snapshot = self.snapshot.borrow();
        let candidate = target.candidate(now, route.heeds_answers(now));
        let rung = tiers::rung_of(&candidate, &self.here(&snapshot, target));
        (rung != Rung::Failing).then(|| (index, Rc::clone(target)))
    }

    /// Picks a target, leaving out those in `except`. Calls with the same key get the same one, where the service's settings say so. `None`
    /// only when nobody is left.
    pub(in crate::outbound) fn pick(
        &self,
        route: &Route,
        except: &[EndpointId],
        key: Option<u64>,
    ) -> Option<Picked> {
        let now = self.now();
        self.make(route, now);
        let made = route.made.borrow();
        let whole = &made.as_ref()?.choice;
        if except.is_empty() {
            return self.draw(route, (whole, &route.targets), key, now);
        }
        // A second attempt: rare, and the choice is another one without those that failed.
        let left: Vec<_> = route
            .targets
            .iter()
            .filter(|t| !except.contains(&t.endpoint.id))
            .cloned()
            .collect();
        let choice = self.choose(route, &left, now)?;
        if let (Balance::Hash(by), Some(key)) = (&route.settings.balance, key) {
            // Whoever the key prefers next, by the table that the first attempt went by.
            let tier = choice.tier(hash::unit(key))?;
            let same = whole.tiers.iter().find(|t| t.distance == tier.distance);
            let next = same.and_then(|same| {
                let table = route
                    .kept
                    .tables
                    .of(by.table, members(same, &route.targets));
                let preferred = table.members(key).filter_map(|i| same.members.get(i));
                let mut preferred = preferred.filter_map(|i| route.targets.get(*i));
                preferred
                    .find(|t| !except.contains(&t.endpoint.id))
                    .cloned()
            });
            if let Some(target) = next {
                return Some(picked(&choice, tier, target));
            }
        }
        self.draw(route, (&choice, &left), key, now)
    }

    fn draw(
        &self,
        route: &Route,
        (choice, targets): (&tiers::Choice, &[Rc<Target>]),
        key: Option<u64>,
        now: Micros,
    ) -> Option<Picked> {
        let balance = &route.settings.balance;
        let mut rng = self.rng.borrow_mut();
        let held = key.filter(|_| matches!(balance, Balance::Hash(_)));
        let tier = choice.tier(held.map_or_else(|| rng.unit(), hash::unit))?;
        let target = |index: usize| targets.get(index).map(Rc::clone);
        if let [only] = tier.members.as_slice() {
            return Some(picked(choice, tier, target(*only)?));
        }
        let weighed = || -> Vec<Member> {
            let of = tier.members.iter().filter_map(|i| targets.get(*i));
            of.map(|t| Member {
                weight: f64::from(t.endpoint.weight) * t.peer.ramp.get().value(now),
                latency_us: t.peer.latency.get().value(now),
                in_flight: t.peer.in_flight.get(),
            })
            .collect()
        };
        let drawn = match (balance, held) {
            (Balance::Hash(by), Some(key)) => {
                let table = route.kept.tables.of(by.table, members(tier, targets));
                table.members(key).next()
            }
            (Balance::RoundRobin, _) => {
                let mut turns = members(tier, targets);
                for (turn, member) in turns.iter_mut().zip(weighed()) {
                    turn.1 = member.weight;
                }
                round_robin(&turns, &mut route.kept.turns.borrow_mut())
            }
            (Balance::Random, _) => pick::random(&weighed(), rng.unit()),
            (Balance::LeastRequest | Balance::Hash(_), _) => {
                pick::pick(&weighed(), [rng.unit(), rng.unit()])
            }
        };
        Some(picked(choice, tier, target(*tier.members.get(drawn?)?)?))
    }
}

/// A tier's members, as tables and turns know them. Ramps are left out: a table would be another one all the time.
fn members(tier: &tiers::Tier, targets: &[Rc<Target>]) -> Members {
    let of = tier.members.iter().filter_map(|i| targets.get(*i));
    of.map(|t| (t.hash, f64::from(t.endpoint.weight))).collect()
}

fn picked(choice: &tiers::Choice, tier: &tiers::Tier, target: Rc<Target>) -> Picked {
    let distance = tier.distance;
    // There is one tier a distance.
    let number = choice.tiers.iter().position(|t| t.distance == distance);
    let number = number.unwrap_or_default();
    Picked {
        target,
        tier: Some(Tier { number, distance }),
    }
}
