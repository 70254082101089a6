//! Sealed names as controllers, proxies and gateways know them: when which key is used, and what is pushed. Pure.
//!
//! The format itself is `transport::seal`. Times here are the leaders', as the store stamps them: every controller
//! draws the same conclusion from the same catalog, and no clock of its own matters.

use std::fmt;

use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

use crate::{
    id::ClusterName,
    store::{SealKeyRecord, SealRecord},
};

/// How long a name is good, seconds: as long as a workload's certificate.
pub const LIFE_S: u64 = 24 * 3600;
/// How often names are made anew, seconds. One that is lost at any time had three quarters of its life left.
pub const REMINT_S: u64 = LIFE_S / 4;
/// How often a cluster makes a new key, ms.
pub const ROTATE_MS: u64 = 24 * 3600 * 1000;
/// How long before its first use a key is published, ms: a gateway cut off from its controller for less than this opens
/// everything.
pub const AHEAD_MS: u64 = 12 * 3600 * 1000;
/// The same for a cluster's very first key, before which it can make no names at all: time enough to reach its gateways
/// and the others', many times what replicating and pushing take.
pub const FIRST_AHEAD_MS: u64 = 300;
/// What clocks may differ by, ms, before a key goes whose names are still good somewhere.
pub const SLACK_MS: u64 = 3600 * 1000;
/// Keys of one cluster at a time: one in use, the one before it, and the next.
pub const MAX_KEYS: usize = 3;
/// How long after the last member learnt of sealed names they are not used yet, ms: its gateways are upgraded in it.
pub const PREPARE_MS: u64 = LIFE_S * 1000;
/// For how long after that names in clear are still taken, ms: the proxies are upgraded in it.
pub const TRANSITION_MS: u64 = LIFE_S * 1000;

/// How far the federation is on the way to sealed names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Some member does not know them. All names are in clear.
    Clear,
    /// Keys are published and gateways open sealed names; nobody sends one yet.
    Prepare,
    /// Callers send sealed names; gateways take both.
    Both,
    /// A name in clear is refused.
    Sealed,
}

/// The phase at `at_ms` of a federation that stands at `level` since `since_ms`; 0 where it was founded there.
pub const fn phase(level: u16, since_ms: u64, at_ms: u64) -> Phase {
    if level < SEALS_LEVEL {
        return Phase::Clear;
    }
    if since_ms == 0 {
        return Phase::Sealed;
    }
    match at_ms.saturating_sub(since_ms) {
        passed if passed < PREPARE_MS => Phase::Prepare,
        passed if passed < PREPARE_MS + TRANSITION_MS => Phase::Both,
        _ => Phase::Sealed,
    }
}

/// From which level of the store on there are keys for sealed names.
pub const SEALS_LEVEL: u16 = 3;

/// The key that names are made with at `at_ms`: the newest that everybody has had time to hear of.
pub fn in_use(record: &SealRecord, at_ms: u64) -> Option<&SealKeyRecord> {
    let ripe = |ahead_ms| {
        move |key: &&SealKeyRecord| key.published_at_ms.saturating_add(ahead_ms) <= at_ms
    };
    let newest = record.keys.iter().rev().find(ripe(AHEAD_MS));
    newest.or_else(|| record.keys.first().filter(ripe(FIRST_AHEAD_MS)))
}

/// True when no name made with this key is good any more: a newer one has been in use for a name's whole life.
pub fn is_spent(key: &SealKeyRecord, keys: &[SealKeyRecord], at_ms: u64) -> bool {
    const AFTER_MS: u64 = AHEAD_MS + LIFE_S * 1000 + SLACK_MS;
    keys.iter().any(|newer| {
        newer.number > key.number && newer.published_at_ms.saturating_add(AFTER_MS) <= at_ms
    })
}

/// True when it is time for the next key.
pub fn is_rotation_due(record: &SealRecord, at_ms: u64) -> bool {
    record
        .keys
        .last()
        .is_none_or(|newest| newest.published_at_ms.saturating_add(ROTATE_MS) <= at_ms)
}

/// Until when a name that is made now is good, Unix seconds. The same for all who make it within a quarter of its life;
/// `spread` moves the moment of change, so that not all names change at once.
pub const fn expiry(now_unix_s: u64, spread: u64) -> u64 {
    let moved = spread % REMINT_S;
    let turn = now_unix_s.saturating_sub(moved) / REMINT_S;
    turn * REMINT_S + moved + LIFE_S
}

/// The sealed part of the names for one service port of one cluster, as its callers are given it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SealedPort {
    /// Whose gateways open it.
    pub cluster: ClusterName,
    /// The service's port.
    pub port: u16,
    /// Which key it was made with.
    pub key_id: u32,
    /// Until when it is good, Unix seconds.
    pub expires_unix_s: u64,
    /// The label.
    pub label: String,
}

/// A key that opens sealed names, as a gateway is given it. Wiped when dropped and never shown or serialised.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct OpeningKey {
    /// Its id, which names carry in clear.
    pub id: u32,
    /// What opens them.
    pub secret: [u8; 32],
}

impl fmt::Debug for OpeningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OpeningKey({:08x})", self.id)
    }
}

impl Drop for OpeningKey {
    fn drop(&mut self) {
        self.secret.zeroize();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::store::Blob;

    const HOUR_MS: u64 = 3600 * 1000;

    fn record(published_h: &[u64]) -> SealRecord {
        let key = |(number, hour): (u64, &u64)| SealKeyRecord {
            number,
            public: Blob(vec![0; 32]),
            published_at_ms: hour * HOUR_MS,
            boxes: BTreeMap::new(),
        };
        SealRecord {
            node_keys: BTreeMap::new(),
            keys: (1..).zip(published_h).map(key).collect(),
        }
    }

    fn used(record: &SealRecord, hour: u64) -> Option<u64> {
        in_use(record, hour * HOUR_MS).map(|k| k.number)
    }

    #[test]
    fn a_key_is_published_before_it_is_used_and_kept_after() {
        let first = record(&[100]);
        assert_eq!(in_use(&first, 100 * HOUR_MS), None);
        assert_eq!(
            in_use(&first, 100 * HOUR_MS + FIRST_AHEAD_MS).map(|k| k.number),
            Some(1)
        );
        assert_eq!(used(&record(&[]), 100), None);
        let two = record(&[100, 124]);
        assert_eq!(used(&two, 124), Some(1));
        assert_eq!(used(&two, 135), Some(1));
        assert_eq!(used(&two, 136), Some(2));
        // The first key's last names end at hour 160.
        let spent = |hour| is_spent(&two.keys[0], &two.keys, hour * HOUR_MS);
        assert!(!spent(160) && spent(161));
        assert!(
            !is_spent(&two.keys[1], &two.keys, u64::MAX),
            "the newest never is"
        );
    }

    #[test]
    fn daily_keys_are_three_at_most_and_one_is_always_in_use() {
        let mut keys: Vec<SealKeyRecord> = Vec::new();
        let mut names: Vec<(u64, u64)> = Vec::new();
        for hour in 1..24 * 30 {
            let mut now = record(&[]);
            now.keys.clone_from(&keys);
            if is_rotation_due(&now, hour * HOUR_MS) {
                let number = keys.last().map_or(1, |k| k.number + 1);
                let all = keys.clone();
                keys.retain(|k| !is_spent(k, &all, hour * HOUR_MS));
                let mut new = record(&[hour]).keys.remove(0);
                new.number = number;
                keys.push(new);
            }
            assert!(keys.len() <= MAX_KEYS, "hour {hour}");
            now.keys.clone_from(&keys);
            // A name made this hour, with what is in use now.
            if let Some(key) = in_use(&now, hour * HOUR_MS) {
                names.push((hour + LIFE_S / 3600, key.number));
            }
            names.retain(|(end, _)| *end > hour);
            for (_, number) in &names {
                assert!(keys.iter().any(|k| k.number == *number), "hour {hour}");
            }
        }
        assert!(names.len() > 20);
    }

    #[test]
    fn a_name_has_three_quarters_of_its_life_left_whenever_it_is_looked_at() {
        for spread in [0, 1, 5_000, u64::MAX] {
            for now in (1_800_000_000..1_800_100_000).step_by(977) {
                let end = expiry(now, spread);
                assert!(
                    end > now + LIFE_S - REMINT_S && end <= now + LIFE_S,
                    "{now} {spread}"
                );
            }
        }
        assert_eq!(expiry(1_800_000_000, 7), expiry(1_800_000_100, 7));
        assert_ne!(
            expiry(1_800_000_000, 7),
            expiry(1_800_000_000 + REMINT_S, 7)
        );
    }

    #[test]
    fn an_upgraded_federation_has_a_day_for_gateways_and_a_day_for_proxies() {
        assert_eq!(phase(2, 0, u64::MAX), Phase::Clear);
        assert_eq!(phase(3, 0, 0), Phase::Sealed, "founded there");
        let since = 100 * HOUR_MS;
        for (hour, expected) in [
            (100, Phase::Prepare),
            (123, Phase::Prepare),
            (124, Phase::Both),
            (147, Phase::Both),
            (148, Phase::Sealed),
        ] {
            assert_eq!(phase(3, since, hour * HOUR_MS), expected, "hour {hour}");
        }
    }

    #[test]
    fn an_opening_key_is_never_shown() {
        let key = OpeningKey {
            id: 0xab,
            secret: [0x77; 32],
        };
        assert_eq!(format!("{key:?}"), "OpeningKey(000000ab)");
    }
}
