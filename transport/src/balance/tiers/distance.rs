//! How far a tier is: by zone, cluster, region and round trip, or by what a rule says instead.
//!
//! Small and `Copy`, because every attempt's record carries one: it holds numbers, and names what a rule's lists say only together
//! with the rule. The order is that of tiers, nearest first.

use std::{cmp::Reverse, fmt};

use tradewind_api::{
    id::Region,
    traffic::{Locality, LocalityPattern},
};

use super::{Candidate, Here};

/// Round trips below this are alike, in microseconds.
const RTT_FLOOR_US: u64 = 2_000;
/// Not measured yet.
const RTT_UNKNOWN: u8 = u8::MAX;

/// How far away a tier is; nearest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Distance {
    /// A locality to which a rule gives a share of the calls. These stand beside each other: none is nearer.
    Share {
        /// Which of the rule's lists holds.
        rule: u16,
        /// Which entry of it.
        to: u16,
    },
    /// By labels.
    Labels {
        /// How many of them are not met.
        missing: u16,
        /// How many there are.
        of: u16,
    },
    /// The caller's zone.
    Zone,
    /// The caller's cluster.
    Cluster,
    /// Another cluster in the caller's region.
    Region,
    /// The region that a rule names for the case that the caller's own cannot serve.
    Failover {
        /// Which entry of the rule.
        listed: u16,
    },
    /// Another region.
    Remote {
        /// How many leading parts of the region's name are the caller's too: `us-east` is nearer to `us-west` than `eu-west`.
        shared: Reverse<u8>,
        /// The round trip in steps of a factor of two; the last step stands for "not measured".
        rtt_step: u8,
    },
    /// A rule has it that distance does not matter.
    Alike,
    /// Nobody is usable: everybody is tried, wherever it is.
    Anywhere,
}

impl Distance {
    /// Whether a rule's list gives it its share.
    pub const fn is_listed(self) -> bool {
        matches!(self, Self::Share { .. })
    }

    /// With the names that the rule uses.
    pub const fn named(self, rule: &Locality) -> Named<'_> {
        Named {
            distance: self,
            rule,
        }
    }

    /// Where no rule says anything.
    pub(super) fn nearest(c: &Candidate<'_>, here: &Here<'_>) -> Self {
        if c.cluster == here.cluster {
            return if here.zone.is_some() && here.zone == c.zone {
                Self::Zone
            } else {
                Self::Cluster
            };
        }
        if c.region == here.region {
            return Self::Region;
        }
        let parts = |r: &Region| r.as_str().split('-').map(str::to_owned).collect::<Vec<_>>();
        let shared = parts(c.region)
            .iter()
            .zip(&parts(here.region))
            .take_while(|(a, b)| a == b)
            .count();
        let rtt_step = c.rtt_us.map_or(RTT_UNKNOWN, |rtt| {
            // Steps of two, so that jitter does not move a cluster between tiers. At most 64.
            (rtt / RTT_FLOOR_US)
                .checked_ilog2()
                .map_or(0, |l| l as u8 + 1)
        });
        Self::Remote {
            shared: Reverse(shared.min(u8::MAX as usize) as u8),
            rtt_step,
        }
    }
}

impl fmt::Display for Distance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Share { to, .. } => write!(f, "share {}", u32::from(*to) + 1),
            Self::Labels { missing, of } => {
                write!(f, "{} of {of} labels", of.saturating_sub(*missing))
            }
            Self::Zone => f.write_str("same zone"),
            Self::Cluster => f.write_str("same cluster"),
            Self::Region => f.write_str("same region"),
            Self::Failover { .. } => f.write_str("failover region"),
            Self::Remote { shared, rtt_step } => {
                f.write_str(if shared.0 > 0 {
                    "related region"
                } else {
                    "other region"
                })?;
                match *rtt_step {
                    RTT_UNKNOWN => f.write_str(", round trip unknown"),
                    step => write!(f, ", round trip under {} ms", (RTT_FLOOR_US / 1000) << step),
                }
            }
            Self::Alike => f.write_str("all alike"),
            Self::Anywhere => f.write_str("anywhere"),
        }
    }
}

/// See [`Distance::named`].
#[derive(Clone, Copy, Debug)]
pub struct Named<'a> {
    distance: Distance,
    rule: &'a Locality,
}

impl fmt::Display for Named<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.distance, self.rule) {
            (Distance::Share { rule, to }, Locality::Distribute(all)) => {
                let listed = all.get(usize::from(rule));
                match listed.and_then(|d| d.to.get(usize::from(to))) {
                    Some((
                        LocalityPattern {
                            region: None,
                            zone: None,
                        },
                        _,
                    )) => f.write_str("share of *"),
                    Some((pattern, _)) => {
                        let region = pattern.region.as_deref().unwrap_or("*");
                        let zone = pattern.zone.as_deref().unwrap_or("*");
                        write!(f, "share of {region}/{zone}")
                    }
                    None => self.distance.fmt(f),
                }
            }
            (Distance::Failover { listed }, Locality::Failover(all)) => {
                match all.get(usize::from(listed)) {
                    Some(failover) => write!(f, "failover region {}", failover.to),
                    None => self.distance.fmt(f),
                }
            }
            _ => self.distance.fmt(f),
        }
    }
}
