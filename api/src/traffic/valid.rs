//! What a policy that somebody else made must be like before it is acted on. What this build compiles itself is like that; what comes
//! from another cluster is looked at again.

use super::{Balance, HashTable, Settings, TrafficPolicy};
use crate::route::MILLION;

/// Most places of a table that another cluster may have this one's proxies make: the usual size twice. Each takes some ten milliseconds of
/// a thread that calls wait for.
const MAX_PLACES: u32 = 1 << 17;

impl TrafficPolicy {
    /// Whether it may be acted on; why not.
    pub fn validate(&self) -> Result<(), &'static str> {
        let own = std::iter::once(&self.settings);
        let all = own.chain(self.subsets.values().map(|s| &s.settings));
        let mut settings = all.flat_map(|p| std::iter::once(&p.all).chain(p.ports.values()));
        settings.try_for_each(|s| s.validate())
    }
}

impl Settings {
    fn validate(&self) -> Result<(), &'static str> {
        if let Balance::Hash(hash) = &self.balance {
            let (HashTable::Ring(places) | HashTable::Maglev(places)) = hash.table;
            if !(1..=MAX_PLACES).contains(&places) {
                return Err("a table of hashes has no places, or too many");
            }
        }
        if self.pool.requests_per_connection == Some(0) {
            return Err("a connection that takes no request");
        }
        if self.pool.connect_timeout_ms == Some(0) {
            return Err("no time to connect");
        }
        let percent = |o: &super::Outlier| o.max_ejection_percent.max(o.min_health_percent);
        if self.outlier.as_ref().is_some_and(|o| percent(o) > 100) {
            return Err("more than 100 % of the endpoints");
        }
        let share = self.retry_budget.map(|b| b.share);
        let minimum = self.warmup.map(|w| w.minimum);
        if share.max(minimum).is_some_and(|s| s > MILLION) {
            return Err("a share of more than all");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(settings: &str, subset: &str) -> TrafficPolicy {
        let text = format!(
            r#"{{
                "origin": {{"kind": "DestinationRule", "object": "shop/cart", "rule": "", "cluster": null}},
                "settings": {{"all": {settings}}},
                "subsets": {{"v2": {{"labels": {{}}, "settings": {{"ports": {{"80": {subset}}}}}}}}}
            }}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn what_would_hurt_whoever_acts_on_it_is_refused_wherever_it_stands() {
        assert_eq!(policy("{}", "{}").validate(), Ok(()));
        let hash = |table: &str| {
            format!(r#"{{"balance": {{"hash": {{"by": "source-address", "table": {table}}}}}}}"#)
        };
        let good = hash(r#"{"maglev": 65537}"#);
        assert_eq!(policy(&good, &good).validate(), Ok(()));
        for bad in [
            hash(r#"{"maglev": 5000011}"#),
            hash(r#"{"ring": 0}"#),
            r#"{"pool": {"requests_per_connection": 0}}"#.to_owned(),
            r#"{"pool": {"connect_timeout_ms": 0}}"#.to_owned(),
            r#"{"retry_budget": {"share": 1000001, "min_concurrency": 1}}"#.to_owned(),
            r#"{"outlier": {"errors": 1, "gateway_errors": null, "interval_ms": 1, "base_ejection_ms": 1, "max_ejection_percent": 101, "min_health_percent": 0}}"#.to_owned(),
        ] {
            assert!(policy(&bad, "{}").validate().is_err(), "{bad}");
            assert!(policy("{}", &bad).validate().is_err(), "{bad}");
        }
    }
}
