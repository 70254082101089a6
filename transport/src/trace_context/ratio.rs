//! Which part of the traces that begin at a proxy is sampled. Decided by the trace's own id, so that whoever decides by the
//! same ratio decides alike.

use std::{fmt, str::FromStr};

use super::TraceId;

/// The bits of an id that are random in every trace, also in those of systems that put a time in front (level 2 of the
/// standard, OpenTelemetry's consistent sampling).
const RANDOM_BITS: u32 = 56;

/// A part, 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ratio(f64);

/// Why it is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "sampling ratio {found:?} is not valid: expected a number from 0 (none) to 1 (all), such as 0.01 for one trace in a hundred"
)]
pub struct InvalidRatio {
    /// What stood there.
    pub found: String,
}

impl Ratio {
    /// One trace in a hundred.
    pub const DEFAULT: Self = Self(0.01);

    /// `None` unless it is a number from 0 to 1.
    pub fn new(part: f64) -> Option<Self> {
        (0.0..=1.0).contains(&part).then_some(Self(part))
    }

    /// The number.
    pub const fn get(self) -> f64 {
        self.0
    }

    /// Whether a trace belongs to the sampled part.
    pub fn samples(self, trace: TraceId) -> bool {
        let all = (1u64 << RANDOM_BITS) as f64;
        let [.., a, b, c, d, e, f, g] = trace.bytes();
        let random = u64::from_be_bytes([0, a, b, c, d, e, f, g]);
        // Below, so that 0 takes none; and 1 takes all, for random is always less than all of them.
        (random as f64) < self.0 * all
    }
}

impl Default for Ratio {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Ratio {
    type Err = InvalidRatio;

    fn from_str(s: &str) -> Result<Self, InvalidRatio> {
        s.trim()
            .parse()
            .ok()
            .and_then(Self::new)
            .ok_or_else(|| InvalidRatio {
                found: s.chars().take(100).collect(),
            })
    }
}
