//! How it stands with the stream of one proxy or gateway, and what time makes of it. Pure.

use super::{FORGET_MS, SILENCE_MS, StreamId};

// How it stands with the link to a proxy or gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Link {
    Up(StreamId),
    // Broken; what was last said still counts until then.
    Waiting { until_ms: u64 },
    // Nothing is known any more.
    Silent,
}

impl Link {
    pub(super) const fn is_up(self) -> bool {
        matches!(self, Self::Up(_))
    }

    // What time makes of it.
    pub(super) const fn at(self, now_ms: u64, last_seen_ms: u64) -> Self {
        match self {
            Self::Up(_) if now_ms >= last_seen_ms.saturating_add(SILENCE_MS) => Self::Silent,
            Self::Waiting { until_ms } if now_ms >= until_ms => Self::Silent,
            Self::Up(_) | Self::Waiting { .. } | Self::Silent => self,
        }
    }

    pub(super) fn is_forgotten(self, now_ms: u64, last_seen_ms: u64) -> bool {
        self == Self::Silent && now_ms >= last_seen_ms.saturating_add(FORGET_MS)
    }
}
