//! What a rule says of distance: that it does not matter, where to go next, how to spread, or which labels decide.
//!
//! Pure. It says how far each candidate is and which share a listed locality wants; who is good enough to serve, and what a tier
//! carries, is decided in `tiers` all the same, so that no rule can leave a healthy endpoint unused while calls fail.

use std::collections::BTreeMap;

use tradewind_api::traffic::{
    Distribute, Failover, Labels, Locality, LocalityPattern, PriorityLabel,
};

use super::{Candidate, Distance, Here, Tier};

static NO_LABELS: Labels = BTreeMap::new();

/// What labels are compared by, of the caller or of an endpoint.
#[derive(Clone, Copy, Debug)]
pub struct Extra<'a> {
    /// Its labels.
    pub labels: &'a Labels,
    /// Its network, if it is known.
    pub network: Option<&'a str>,
}

impl Extra<'_> {
    /// Nothing is known.
    pub const NONE: Extra<'static> = Extra {
        labels: &NO_LABELS,
        network: None,
    };
}

/// What labels are compared by, of all.
#[derive(Clone, Copy, Debug)]
pub struct Extras<'a> {
    /// The caller's.
    pub own: Extra<'a>,
    /// The candidates', in their order. Of those that are missing here nothing is known.
    pub candidates: &'a [Extra<'a>],
}

impl Extras<'_> {
    /// Nothing is known.
    pub const NONE: Extras<'static> = Extras {
        own: Extra::NONE,
        candidates: &[],
    };
}

/// What holds for this caller.
pub(super) struct Plan<'a> {
    here: Here<'a>,
    extras: Extras<'a>,
    way: Way<'a>,
}

enum Way<'a> {
    Nearest,
    Alike,
    Failover(&'a [Failover]),
    Spread {
        rule: u16,
        to: &'a [(LocalityPattern, u32)],
    },
    Labels(&'a [PriorityLabel]),
}

/// Lists are short. Entries beyond this would be the last one's equals.
fn number(index: usize) -> u16 {
    u16::try_from(index).unwrap_or(u16::MAX)
}

impl<'a> Plan<'a> {
    pub(super) fn new(locality: &'a Locality, here: &Here<'a>, extras: Extras<'a>) -> Self {
        let way = match locality {
            Locality::Nearest => Way::Nearest,
            Locality::Ignored => Way::Alike,
            Locality::Failover(list) => Way::Failover(list),
            Locality::Distribute(list) => {
                let zone = here.zone.map(AsRef::as_ref);
                let mut all = list.iter().enumerate();
                let holds = |d: &Distribute| d.from.matches(here.region.as_str(), zone);
                match all.find(|(_, d)| holds(d)) {
                    Some((i, d)) => Way::Spread {
                        rule: number(i),
                        to: &d.to,
                    },
                    None => Way::Nearest,
                }
            }
            Locality::Labels(list) => Way::Labels(list),
        };
        Self {
            here: *here,
            extras,
            way,
        }
    }

    /// How far a candidate is, which is the `index`th.
    pub(super) fn distance(&self, index: usize, c: &Candidate<'_>) -> Distance {
        let nearest = || Distance::nearest(c, &self.here);
        match &self.way {
            Way::Nearest => nearest(),
            Way::Alike => Distance::Alike,
            Way::Failover(list) => match nearest() {
                remote @ Distance::Remote { .. } => list
                    .iter()
                    .position(|f| f.from == *self.here.region && f.to == *c.region)
                    .map_or(remote, |i| Distance::Failover { listed: number(i) }),
                near => near,
            },
            Way::Spread { rule, to } => {
                most_exact(to, c).map_or_else(nearest, |i| Distance::Share {
                    rule: *rule,
                    to: number(i),
                })
            }
            Way::Labels(list) => {
                let extra = self.extras.candidates.get(index).unwrap_or(&Extra::NONE);
                let met = list
                    .iter()
                    .take_while(|label| self.meets(label, c, extra))
                    .count();
                Distance::Labels {
                    missing: number(list.len().saturating_sub(met)),
                    of: number(list.len()),
                }
            }
        }
    }

    /// Whether an endpoint has what a label wants. What is not there is as if it were empty: where neither side says anything, a
    /// label tells nobody apart.
    fn meets(&self, label: &PriorityLabel, c: &Candidate<'_>, extra: &Extra<'_>) -> bool {
        let (here, own) = (&self.here, &self.extras.own);
        let (theirs, ours) = match label.key.as_str() {
            PriorityLabel::REGION => (Some(c.region.as_str()), Some(here.region.as_str())),
            PriorityLabel::ZONE => (c.zone.map(AsRef::as_ref), here.zone.map(AsRef::as_ref)),
            PriorityLabel::CLUSTER => (Some(c.cluster.as_str()), Some(here.cluster.as_str())),
            PriorityLabel::NETWORK => (extra.network, own.network),
            key => (
                extra.labels.get(key).map(String::as_str),
                own.labels.get(key).map(String::as_str),
            ),
        };
        let wanted = label.value.as_deref().or(ours);
        theirs.unwrap_or_default() == wanted.unwrap_or_default()
    }

    /// Gives the localities among which a rule spreads calls their shares, in proportion; they come with what each carries. False when
    /// none of them is to have any.
    pub(super) fn spread(&self, listed: &mut [Tier]) -> bool {
        let weight = |t: &Tier| match (&self.way, t.distance) {
            (Way::Spread { to, .. }, Distance::Share { to: i, .. }) => {
                to.get(usize::from(i)).map_or(0.0, |(_, w)| f64::from(*w))
            }
            _ => 0.0,
        };
        // At the very start of ramps of zero weights alone count.
        let nothing_carries = listed.iter().all(|t| weight(t) * t.share <= 0.0);
        for tier in &mut *listed {
            let carries = if nothing_carries { 1.0 } else { tier.share };
            tier.share = weight(tier) * carries;
        }
        listed.iter().any(|t| t.share > 0.0)
    }
}

/// The pattern that a candidate belongs to: of those that it fits the most exact one, and the first of these.
fn most_exact(to: &[(LocalityPattern, u32)], c: &Candidate<'_>) -> Option<usize> {
    let zone = c.zone.map(AsRef::as_ref);
    let fits = to
        .iter()
        .enumerate()
        .filter(|(_, (pattern, _))| pattern.matches(c.region.as_str(), zone));
    // The last of several greatest is taken, so they are turned round.
    fits.rev()
        .max_by_key(|(_, (pattern, _))| pattern.exactness())
        .map(|(i, _)| i)
}

#[cfg(test)]
mod tests;
