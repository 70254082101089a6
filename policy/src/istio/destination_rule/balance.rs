//! DestinationRule's `loadBalancer`: how an endpoint is picked among those that are equally near, and what a new one gets.

use std::collections::BTreeSet;

use tradewind_api::traffic::{Balance, Cookie, Hash, HashKey, HashTable, Locality, Warmup};

use super::{locality, types};
use crate::{
    finding::Code,
    object::{At, Report},
    traffic::Balancer,
    values::{count, duration, header_name, is_token, percent, span},
};

/// What a new endpoint begins with where nothing is said, in millionths: a tenth.
const USUAL_MINIMUM: u32 = 100_000;
/// Evenly, in thousandths.
const USUAL_AGGRESSION: u32 = 1_000;
/// Beyond this an endpoint has nearly all of its part at once.
const MAX_AGGRESSION: f64 = 1_000.0;

/// Its words for whom to pick; `regions` are those that there are.
pub(super) fn balancer(
    doc: &types::LoadBalancer,
    regions: Option<&BTreeSet<String>>,
    at: &At,
    report: &mut Report<'_>,
) -> Balancer {
    let balance = balance(doc, at, report);
    let in_locality = at.field("localityLbSetting");
    let locality = doc
        .locality_lb_setting
        .as_ref()
        .map_or(Locality::Nearest, |l| {
            locality::locality(l, regions, &in_locality, report)
        });
    let warmup = warmup(doc, &balance, at, report);
    Balancer {
        balance,
        locality,
        warmup,
    }
}

fn balance(doc: &types::LoadBalancer, at: &At, report: &mut Report<'_>) -> Balance {
    let simple = match doc.simple.as_deref() {
        None | Some("UNSPECIFIED") => None,
        Some("LEAST_REQUEST" | "LEAST_CONN") => Some(Balance::LeastRequest),
        Some("RANDOM") => Some(Balance::Random),
        Some("ROUND_ROBIN") => Some(Balance::RoundRobin),
        Some("PASSTHROUGH") => {
            let text = "is not acted on: endpoints are picked as by LEAST_REQUEST, whatever address the caller asked for";
            report.say(Code::UnsupportedField, &at.field("simple"), text);
            Some(Balance::LeastRequest)
        }
        Some(other) => {
            let expected = "LEAST_REQUEST, ROUND_ROBIN or RANDOM";
            report.invalid(&at.field("simple"), other, expected);
            None
        }
    };
    let in_hash = at.field("consistentHash");
    let hash = doc.consistent_hash.as_ref();
    let hash = hash.and_then(|h| self::hash(h, &in_hash, report));
    if simple.is_some() && doc.consistent_hash.is_some() {
        let text = "one of simple and consistentHash is expected, not both; consistentHash holds";
        report.say(Code::InvalidValue, at, text);
    }
    hash.map(Balance::Hash).or(simple).unwrap_or_default()
}

/// None where there is nothing to hash.
fn hash(doc: &types::ConsistentHash, at: &At, report: &mut Report<'_>) -> Option<Hash> {
    let keys = [
        doc.http_header_name.is_some(),
        doc.http_cookie.is_some(),
        doc.use_source_ip,
        doc.http_query_parameter_name.is_some(),
    ];
    match keys.into_iter().filter(|is_there| *is_there).count() {
        0 => {
            let text = "there is no key, so calls are balanced as if it were not here";
            report.say(Code::IdleSetting, at, text);
        }
        1 => {}
        _ => {
            let text = "one of httpHeaderName, httpCookie, useSourceIp and httpQueryParameterName is expected; the first of these that is there holds";
            report.say(Code::InvalidValue, at, text);
        }
    }
    let table = table(doc, at, report);
    let by = key(doc, at, report)?;
    Some(Hash { by, table })
}

fn key(doc: &types::ConsistentHash, at: &At, report: &mut Report<'_>) -> Option<HashKey> {
    if let Some(name) = &doc.http_header_name {
        let at = at.field("httpHeaderName");
        return header_name(name, &at, report).map(HashKey::Header);
    }
    if let Some(doc) = &doc.http_cookie {
        return cookie(doc, &at.field("httpCookie"), report).map(HashKey::Cookie);
    }
    if doc.use_source_ip {
        return Some(HashKey::SourceAddress);
    }
    let name = doc.http_query_parameter_name.as_ref()?;
    if name.is_empty() {
        let at = at.field("httpQueryParameterName");
        report.invalid(&at, name, "the name of a parameter");
        return None;
    }
    Some(HashKey::Query(name.clone()))
}

fn cookie(doc: &types::HttpCookie, at: &At, report: &mut Report<'_>) -> Option<Cookie> {
    // What a cookie's header field would be cut at (RFC 6265 section 4.1.1).
    let is_value = |text: &str| text.bytes().all(|c| c >= b' ' && c != 0x7f && c != b';');
    if !is_token(&doc.name) {
        report.invalid(&at.field("name"), &doc.name, "the name of a cookie");
        return None;
    }
    let ttl = duration(doc.ttl.as_deref(), &at.field("ttl"), report);
    let path = doc.path.clone().filter(|p| {
        let is = is_value(p);
        if !is {
            report.invalid(&at.field("path"), p, "a path, without ;");
        }
        is && !p.is_empty()
    });
    let mut attributes = Vec::new();
    for (i, attribute) in doc.attributes.iter().enumerate() {
        let at = at.field("attributes").index(i);
        let value = attribute.value.clone().filter(|v| !v.is_empty());
        if !is_token(&attribute.name) {
            report.invalid(&at.field("name"), &attribute.name, "a cookie's attribute");
        } else if let Some(value) = value.as_ref().filter(|v| !is_value(v)) {
            report.invalid(&at.field("value"), value, "an attribute's value, without ;");
        } else {
            attributes.push((attribute.name.clone(), value));
        }
    }
    Some(Cookie {
        name: doc.name.clone(),
        path,
        // Less than a second is not the browser's session.
        ttl_s: ttl.map(|ms| ms.div_ceil(1_000)),
        attributes,
    })
}

fn table(doc: &types::ConsistentHash, at: &At, report: &mut Report<'_>) -> HashTable {
    let mut size =
        |value: Option<i64>, at: &At| count(value, HashTable::MAX, at, report).filter(|n| *n > 0);
    let of_old = size(doc.minimum_ring_size, &at.field("minimumRingSize"));
    let ring = doc.ring_hash.as_ref();
    let in_ring = at.field("ringHash").field("minimumRingSize");
    let ring_size = ring.and_then(|r| size(r.minimum_ring_size, &in_ring));
    let Some(maglev) = &doc.maglev else {
        let size = if ring.is_some() { ring_size } else { of_old };
        return size.map_or(HashTable::RING, HashTable::Ring);
    };
    if ring.is_some() {
        let text = "one of ringHash and maglev is expected, not both; maglev holds";
        report.say(Code::InvalidValue, at, text);
    }
    match maglev.table_size {
        None | Some(0) => HashTable::MAGLEV,
        Some(value) => match u32::try_from(value) {
            Ok(size) if size < HashTable::MAX_MAGLEV && is_prime(size) => HashTable::Maglev(size),
            _ => {
                let at = at.field("maglev").field("tableSize");
                let expected = format!("a prime number less than {}", HashTable::MAX_MAGLEV);
                report.invalid(&at, &value.to_string(), &expected);
                HashTable::MAGLEV
            }
        },
    }
}

/// By trial: what is asked is less than [`HashTable::MAX_MAGLEV`], so that it is some thousand divisions at most.
fn is_prime(n: u32) -> bool {
    let mut divisors = (2..).take_while(|d: &u32| d.saturating_mul(*d) <= n);
    n >= 2 && divisors.all(|d| !n.is_multiple_of(d))
}

/// Of those that are picked by their part.
fn warmup(
    doc: &types::LoadBalancer,
    balance: &Balance,
    at: &At,
    report: &mut Report<'_>,
) -> Option<Warmup> {
    let of_old = doc.warmup_duration_secs.as_deref();
    let in_old = at.field("warmupDurationSecs");
    let (warmup, at) = match &doc.warmup {
        Some(doc) => {
            if of_old.is_some() {
                let text = "one of warmup and warmupDurationSecs is expected; warmup holds";
                report.say(Code::InvalidValue, &in_old, text);
            }
            let at = at.field("warmup");
            (whole_warmup(doc, &at, report), at)
        }
        None => {
            let duration_ms = span(of_old, &in_old, report);
            let even = |duration_ms| Warmup {
                duration_ms,
                minimum: USUAL_MINIMUM,
                aggression_milli: USUAL_AGGRESSION,
            };
            (duration_ms.map(even), in_old)
        }
    };
    let acts = matches!(balance, Balance::LeastRequest | Balance::RoundRobin);
    if warmup.is_some() && !acts {
        let text = "it acts with LEAST_REQUEST and ROUND_ROBIN alone";
        report.say(Code::IdleSetting, &at, text);
    }
    warmup.filter(|_| acts)
}

fn whole_warmup(doc: &types::Warmup, at: &At, report: &mut Report<'_>) -> Option<Warmup> {
    let in_duration = at.field("duration");
    if doc.duration.is_none() {
        report.invalid(&in_duration, "", "a duration of at least 1ms");
    }
    let duration_ms = span(doc.duration.as_deref(), &in_duration, report);
    let minimum = percent(doc.minimum_percent, &at.field("minimumPercent"), report);
    let aggression = doc.aggression.filter(|value| {
        let is = (1.0..=MAX_AGGRESSION).contains(value);
        if !is {
            let expected = format!("a number from 1 to {MAX_AGGRESSION}");
            report.invalid(&at.field("aggression"), &value.to_string(), &expected);
        }
        is
    });
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "at most a million"
    )]
    let aggression_milli = aggression.map(|a| (a * 1_000.0).round() as u32);
    Some(Warmup {
        duration_ms: duration_ms?,
        minimum: minimum.unwrap_or(USUAL_MINIMUM),
        aggression_milli: aggression_milli.unwrap_or(USUAL_AGGRESSION),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn primes_are_told_from_others() {
        let primes: Vec<u32> = (0..32).filter(|n| is_prime(*n)).collect();
        assert_eq!(primes, [2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31]);
        assert!(is_prime(65_537) && is_prime(4_999_999) && is_prime(HashTable::MAX_MAGLEV));
        assert!(!is_prime(65_536) && !is_prime(2_231 * 2_231) && !is_prime(2_221 * 2_237));
        assert!(is_prime(4_294_967_291) && !is_prime(u32::MAX));
    }
}
