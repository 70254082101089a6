//! Which endpoints may be called, in which order of distance, and with which share of the calls.
//!
//! Pure. Two questions are answered apart: how good a candidate is (its rung) and how far it is (its tier). Only the best
//! rung that has anybody serves; inside it the nearest tier takes what its capacity carries and the rest spills to the
//! next. A rule may say what near means, or give localities shares (see `locality`). A set with a healthy endpoint is never treated as
//! empty, and neither is a set without one: then the next rung serves, down to those that failed.

use std::{collections::BTreeMap, fmt};

use tradewind_api::{
    id::{ClusterName, EndpointId, Region, Zone},
    model::{ClusterState, Health},
    traffic::Locality,
};

mod distance;
mod locality;

pub use distance::{Distance, Named};
pub use locality::{Extra, Extras};

use locality::Plan;

/// A tier is taken to carry this much more than its healthy part: endpoints have headroom, and a single lost one of many
/// should not send calls far away.
pub const OVERPROVISION: f64 = 1.4;

/// Where the caller is.
#[derive(Clone, Copy, Debug)]
pub struct Here<'a> {
    /// Its cluster.
    pub cluster: &'a ClusterName,
    /// Its region.
    pub region: &'a Region,
    /// Its zone, if it knows one.
    pub zone: Option<&'a Zone>,
}

/// One endpoint, as the choice sees it.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    /// Its id.
    pub id: &'a EndpointId,
    /// Its cluster.
    pub cluster: &'a ClusterName,
    /// Its region.
    pub region: &'a Region,
    /// Its zone, if it told one.
    pub zone: Option<&'a Zone>,
    /// Its relative capacity, 1 to 65535.
    pub weight: u32,
    /// What its own cluster says of it.
    pub health: Health,
    /// The caller's detector keeps it out.
    pub ejected: bool,
    /// It answered this very caller moments ago: first-hand knowledge, which outweighs second-hand silence.
    pub proven: bool,
    /// The part of its weight that counts while it comes back, 0 to 1.
    pub ramp: f64,
    /// Its cluster's standing.
    pub cluster_state: ClusterState,
    /// Its cluster's lease is overdue.
    pub lease_expired: bool,
    /// Measured round trip to its cluster in microseconds.
    pub rtt_us: Option<u64>,
}

/// How good a candidate is; the best rung with anybody on it serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rung {
    /// Nothing against it.
    Fit,
    /// Nothing is known against it, but its signs of life are old.
    Doubtful,
    /// It works and asked to be left alone.
    Leaving,
    /// It failed; used when there is nobody else at all.
    Failing,
}

/// What became of one candidate, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It takes calls.
    Serves {
        /// Index of its tier.
        tier: usize,
        /// Its rung.
        rung: Rung,
    },
    /// It could, but nearer tiers carry everything.
    Farther {
        /// Index of its tier.
        tier: usize,
    },
    /// Something better exists; this stands against it.
    Passed(Reason),
}

/// What stands against a candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Its signs of life are old.
    Unknown,
    /// Its cluster's lease is overdue.
    LeaseExpired,
    /// It drains.
    Draining,
    /// Its cluster drains.
    ClusterDraining,
    /// Its own check fails.
    Unhealthy,
    /// Its cluster has left.
    ClusterLeft,
    /// The caller's detector keeps it out.
    Ejected,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unknown => "no recent sign of life",
            Self::LeaseExpired => "its cluster's lease is overdue",
            Self::Draining => "draining",
            Self::ClusterDraining => "its cluster drains",
            Self::Unhealthy => "its own health check fails",
            Self::ClusterLeft => "its cluster has left",
            Self::Ejected => "ejected after failures",
        })
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Serves {
                tier,
                rung: Rung::Fit,
            } => write!(f, "serves in tier {tier}"),
            Self::Serves { tier, rung } => {
                let why = match rung {
                    Rung::Doubtful => "nobody has a recent sign of life",
                    Rung::Leaving => "all others are gone",
                    Rung::Failing | Rung::Fit => "nobody works",
                };
                write!(f, "serves in tier {tier}, because {why}")
            }
            Self::Farther { tier } => {
                write!(f, "stands by in tier {tier}: nearer tiers carry everything")
            }
            Self::Passed(reason) => write!(f, "not used: {reason}"),
        }
    }
}

/// One tier.
#[derive(Clone, Debug, PartialEq)]
pub struct Tier {
    /// How far it is.
    pub distance: Distance,
    /// Indices of its usable candidates.
    pub members: Vec<usize>,
    /// Its part of the calls, 0 to 1.
    pub share: f64,
}

/// The whole answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// Nearest first; empty only without candidates. Tiers that only stand by have share 0.
    pub tiers: Vec<Tier>,
    /// One per candidate, in their order.
    pub verdicts: Vec<Verdict>,
}

impl Choice {
    /// The tier that `dice`, in 0..1, falls on. `None` only without candidates.
    pub fn tier(&self, dice: f64) -> Option<&Tier> {
        let mut left = dice;
        let mut last = None;
        for tier in self.tiers.iter().filter(|t| t.share > 0.0) {
            last = Some(tier);
            if left < tier.share {
                break;
            }
            left -= tier.share;
        }
        last
    }

    /// Checks what must hold of every choice, whatever the candidates.
    pub fn validate(&self) -> Result<(), &'static str> {
        if self.tiers.is_empty() {
            return self
                .verdicts
                .is_empty()
                .then_some(())
                .ok_or("candidates, but no tier");
        }
        let sum: f64 = self.tiers.iter().map(|t| t.share).sum();
        if (sum - 1.0).abs() > 1e-9 || self.tiers.iter().any(|t| t.share.is_nan() || t.share < 0.0)
        {
            return Err("shares do not sum to one");
        }
        if self.tiers.iter().any(|t| t.members.is_empty()) {
            return Err("an empty tier");
        }
        if !self.tiers.is_sorted_by(|a, b| a.distance < b.distance) {
            return Err("tiers out of order");
        }
        let listed = |t: &&Tier| t.share > 0.0 && t.distance.is_listed();
        let served = self.tiers.iter().filter(|t| t.share > 0.0);
        let by_list = self.tiers.iter().filter(listed).count();
        if by_list > 0 && by_list < served.count() {
            return Err("calls leave the listed localities");
        }
        let placed = |v: &&Verdict| !matches!(v, Verdict::Passed(_));
        if self.tiers.iter().map(|t| t.members.len()).sum::<usize>()
            != self.verdicts.iter().filter(placed).count()
        {
            return Err("tiers and verdicts differ");
        }
        Ok(())
    }
}

fn against(c: &Candidate<'_>, here: &Here<'_>) -> Option<Reason> {
    // The worst first: it decides the rung.
    if c.ejected {
        return Some(Reason::Ejected);
    }
    if c.cluster_state == ClusterState::Left {
        return Some(Reason::ClusterLeft);
    }
    if c.health == Health::Unhealthy {
        return Some(Reason::Unhealthy);
    }
    if c.cluster_state == ClusterState::Draining {
        return Some(Reason::ClusterDraining);
    }
    if c.health == Health::Draining {
        return Some(Reason::Draining);
    }
    // The caller sees its own cluster at first hand; a lease speaks of the way to the store.
    if c.lease_expired && c.cluster != here.cluster {
        return Some(Reason::LeaseExpired);
    }
    (c.health == Health::Unknown && !c.proven).then_some(Reason::Unknown)
}

/// The rung of one candidate, whoever else there is.
pub fn rung_of(candidate: &Candidate<'_>, here: &Here<'_>) -> Rung {
    rung(against(candidate, here))
}

const fn rung(reason: Option<Reason>) -> Rung {
    match reason {
        None => Rung::Fit,
        Some(Reason::Unknown | Reason::LeaseExpired) => Rung::Doubtful,
        Some(Reason::Draining | Reason::ClusterDraining) => Rung::Leaving,
        Some(Reason::Unhealthy | Reason::ClusterLeft | Reason::Ejected) => Rung::Failing,
    }
}

/// What there is at one distance.
#[derive(Default)]
struct Group {
    /// Those that serve.
    members: Vec<usize>,
    /// Their weight that counts now.
    usable: f64,
    /// The weight of all that could be expected to serve.
    total: f64,
}

/// Lays candidates into tiers and gives each its share.
pub fn choose(candidates: &[Candidate<'_>], here: &Here<'_>) -> Choice {
    choose_by(candidates, here, &Locality::Nearest, Extras::NONE)
}

/// The same where a rule says which endpoints are near. Only labels need the `extras`.
pub fn choose_by(
    candidates: &[Candidate<'_>],
    here: &Here<'_>,
    locality: &Locality,
    extras: Extras<'_>,
) -> Choice {
    let reasons: Vec<_> = candidates.iter().map(|c| against(c, here)).collect();
    let Some(serving) = reasons.iter().map(|r| rung(*r)).min() else {
        return Choice {
            tiers: Vec::new(),
            verdicts: Vec::new(),
        };
    };
    let plan = Plan::new(locality, here, extras);
    let mut groups: BTreeMap<Distance, Group> = BTreeMap::new();
    for (i, (c, reason)) in candidates.iter().zip(&reasons).enumerate() {
        let own = rung(*reason);
        let at = match serving {
            Rung::Failing => Distance::Anywhere,
            _ => plan.distance(i, c),
        };
        let group = groups.entry(at).or_default();
        let weight = f64::from(c.weight.max(1));
        if own == serving {
            group.members.push(i);
            group.usable += weight * c.ramp.clamp(0.0, 1.0);
            group.total += weight;
        } else if serving == Rung::Fit && own != Rung::Leaving {
            // Capacity that was lost. What leaves by its own will is not missed: its cluster has planned for that.
            group.total += weight;
        }
    }
    let mut tiers: Vec<Tier> = groups
        .into_iter()
        .filter(|(_, group)| !group.members.is_empty())
        .map(|(distance, group)| Tier {
            distance,
            // What it could carry; what it gets is shared out below.
            share: f64::min(1.0, OVERPROVISION * group.usable / group.total),
            members: group.members,
        })
        .collect();
    share_out(&mut tiers, &plan);
    let choice = Choice {
        verdicts: verdicts(&reasons, &tiers, serving),
        tiers,
    };
    debug_assert_eq!(choice.validate(), Ok(()));
    choice
}

fn verdicts(reasons: &[Option<Reason>], tiers: &[Tier], serving: Rung) -> Vec<Verdict> {
    let mut verdicts: Vec<_> = reasons
        .iter()
        .map(|r| Verdict::Passed(r.unwrap_or(Reason::Unknown)))
        .collect();
    for (tier, t) in tiers.iter().enumerate() {
        for m in &t.members {
            if let Some(v) = verdicts.get_mut(*m) {
                *v = if t.share > 0.0 {
                    Verdict::Serves {
                        tier,
                        rung: serving,
                    }
                } else {
                    Verdict::Farther { tier }
                };
            }
        }
    }
    verdicts
}

/// Makes shares of what each tier carries.
fn share_out(tiers: &mut [Tier], plan: &Plan<'_>) {
    let listed = tiers.partition_point(|t| t.distance.is_listed());
    let (listed, others) = tiers.split_at_mut(listed);
    if plan.spread(listed) {
        others.iter_mut().for_each(|t| t.share = 0.0);
        normalise(listed);
    } else if others.is_empty() {
        // A rule wants nobody of those that there are: rather than nobody, the first.
        normalise(listed);
    } else {
        spill(others);
    }
}

/// The nearest takes what it carries, and the rest goes on.
fn spill(tiers: &mut [Tier]) {
    let mut remaining = 1.0;
    for tier in &mut *tiers {
        tier.share = f64::min(remaining, tier.share);
        remaining -= tier.share;
    }
    normalise(tiers);
}

/// What no tier can carry is carried by all of them in proportion.
fn normalise(tiers: &mut [Tier]) {
    let sum: f64 = tiers.iter().map(|t| t.share).sum();
    if sum > 0.0 {
        tiers.iter_mut().for_each(|t| t.share /= sum);
    } else if let Some(first) = tiers.first_mut() {
        // Everybody is at the very start of a ramp of zero.
        first.share = 1.0;
    }
}

#[cfg(test)]
mod tests;
