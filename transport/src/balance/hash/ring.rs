//! A hash ring: every member has points on a circle, in proportion to its weight, and a key belongs to the next one.
//!
//! A member's points depend on its own hash and weight alone while there is room for that, so that one member more or less moves no keys
//! but its own. Where a ring would become too great for it, or would be too small, all share a scale that follows the sum of the
//! weights, as Ketama and Envoy have it always: then a change moves a few keys of the others too.

use tradewind_api::traffic::HashTable;

use super::{Entry, STEP, mix};

/// The weight of an endpoint of which nothing is said. It alone has as many points as the whole ring must have at least.
const USUAL_WEIGHT: f64 = 100.0;
/// Least points of such an endpoint, whatever the ring must have: with fewer, weights are lost in rounding and chance.
const LEAST_EACH: f64 = 128.0;
/// A ring that need not be greater is not: half a mebibyte, eight bytes a point, and a few milliseconds to sort.
const ROOMY: f64 = (1 << 16) as f64;

/// Points for a weight of one.
fn scale(entries: &[Entry], min: u32) -> f64 {
    let sum: f64 = entries.iter().map(|e| e.weight).sum();
    let min = f64::from(min);
    // Rounding up adds at most a point a member.
    let most = f64::from(HashTable::MAX) - entries.len() as f64;
    let own = min.max(LEAST_EACH) / USUAL_WEIGHT;
    own.max(min / sum)
        .min(ROOMY.max(min).min(most.max(1.0)) / sum)
}

/// The points of all members, by position. Entries come sorted and have weights.
pub(super) fn points(entries: &[Entry], min: u32) -> Vec<(u32, u32)> {
    let scale = scale(entries, min);
    let mut points: Vec<_> = entries
        .iter()
        .flat_map(|e| {
            let n = (e.weight * scale).ceil().max(1.0) as u64;
            (0..n).map(|i| {
                let at = mix(e.hash.wrapping_add(i.wrapping_mul(STEP)));
                (super::position(at), e.index)
            })
        })
        .take(HashTable::MAX as usize)
        .collect();
    // Stable: of two at the same position the one with the lower hash stays first.
    points.sort_by_key(|(at, _)| *at);
    points
}
