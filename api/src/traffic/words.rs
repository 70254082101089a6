//! Settings in words, for whoever asks how a service is called: a line for each that says something.

use super::{Balance, HashKey, HashTable, Locality, LocalityPattern, Outlier, Pool, Settings};
use crate::route::MILLION;

impl Settings {
    /// What differs from what proxies do by themselves, a sentence each.
    pub fn words(&self) -> Vec<String> {
        let mut words = Vec::new();
        words.extend(balance(&self.balance));
        pool(&self.pool, &mut words);
        if let Some(o) = &self.outlier {
            words.push(outlier(o));
        }
        words.extend(locality(&self.locality));
        if let Some(w) = &self.warmup {
            let percent = f64::from(w.minimum) * 100.0 / f64::from(MILLION);
            words.push(format!(
                "new endpoints warm up for {} from {percent} %",
                time(w.duration_ms)
            ));
        }
        if let Some(b) = &self.retry_budget {
            let percent = f64::from(b.share) * 100.0 / f64::from(MILLION);
            let least = b.min_concurrency;
            words.push(format!(
                "{percent} % of the requests may be tried again at once, and {least} always"
            ));
        }
        words
    }
}

fn time(ms: u64) -> String {
    match ms {
        ms if ms % 1_000 == 0 => format!("{} s", ms / 1_000),
        ms => format!("{ms} ms"),
    }
}

fn balance(balance: &Balance) -> Option<String> {
    let hash = match balance {
        Balance::LeastRequest => return None,
        Balance::RoundRobin => return Some("endpoints take turns".to_owned()),
        Balance::Random => return Some("endpoints are drawn by weight alone".to_owned()),
        Balance::Hash(hash) => hash,
    };
    let by = match &hash.by {
        HashKey::Header(name) => format!("header {name}"),
        HashKey::Cookie(cookie) => format!("cookie {}", cookie.name),
        HashKey::SourceAddress => "source address".to_owned(),
        HashKey::Query(name) => format!("query parameter {name}"),
    };
    let table = match hash.table {
        HashTable::Ring(points) => format!("a ring of {points} points or more"),
        HashTable::Maglev(places) => format!("a Maglev table of {places} places"),
    };
    Some(format!(
        "calls with the same {by} go to the same endpoint, by {table}"
    ))
}

fn pool(pool: &Pool, words: &mut Vec<String>) {
    let bounds = [
        (pool.connections, "connections"),
        (pool.pending, "requests wait for one"),
        (pool.requests, "requests at once"),
        (pool.retries, "retries at once"),
        (pool.requests_per_connection, "requests a connection"),
    ];
    for (bound, what) in bounds {
        words.extend(bound.map(|n| format!("at most {n} {what}")));
    }
    let connect = pool.connect_timeout_ms.map(time);
    words.extend(connect.map(|t| format!("a connection is given {t} to be made")));
}

fn outlier(o: &Outlier) -> String {
    let mut after = Vec::new();
    let of = match o.codes.as_slice() {
        [] => "500 to 599".to_owned(),
        codes => codes
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(", "),
    };
    after.extend(o.errors.map(|n| format!("{n} answers of {of}")));
    after.extend(
        o.gateway_errors
            .map(|n| format!("{n} answers of 502, 503 or 504")),
    );
    after.extend(o.local_failures.map(|n| format!("{n} failures to get any")));
    if after.is_empty() {
        return "endpoints are never ejected for their answers".to_owned();
    }
    format!(
        "an endpoint is ejected after {} in a row, for {} and longer each time, and no more than {} % of them",
        after.join(" or "),
        time(o.base_ejection_ms),
        o.max_ejection_percent
    )
}

fn locality(locality: &Locality) -> Option<String> {
    let place = |p: &LocalityPattern| match (&p.region, &p.zone) {
        (None, _) => "anywhere".to_owned(),
        (Some(region), None) => region.clone(),
        (Some(region), Some(zone)) => format!("{region}/{zone}"),
    };
    Some(match locality {
        Locality::Nearest => return None,
        Locality::Ignored => "endpoints near and far are alike".to_owned(),
        Locality::Failover(list) => {
            let one = |f: &super::Failover| format!("{} to {}", f.from, f.to);
            let all: Vec<_> = list.iter().map(one).collect();
            format!("what a region cannot serve goes from {}", all.join(", "))
        }
        Locality::Distribute(list) => {
            let one = |d: &super::Distribute| {
                let to = d.to.iter().map(|(p, w)| format!("{w} to {}", place(p)));
                format!(
                    "from {}: {}",
                    place(&d.from),
                    to.collect::<Vec<_>>().join(", ")
                )
            };
            let all: Vec<_> = list.iter().map(one).collect();
            format!("calls are spread {}", all.join("; "))
        }
        Locality::Labels(list) => {
            let one = |l: &super::PriorityLabel| match &l.value {
                Some(value) => format!("{}={value}", l.key),
                None => l.key.clone(),
            };
            let all: Vec<_> = list.iter().map(one).collect();
            format!("endpoints that have {} go first", all.join(", then "))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::super::{Cookie, Distribute, Failover, Hash, PriorityLabel, RetryBudget, Warmup};
    use super::*;

    #[test]
    fn each_setting_that_says_something_is_told() {
        assert!(Settings::default().words().is_empty());
        let pattern = |region: &str| LocalityPattern {
            region: Some(region.to_owned()),
            zone: None,
        };
        let base = Settings {
            balance: Balance::Hash(Hash {
                by: HashKey::Cookie(Cookie {
                    name: "cart".to_owned(),
                    path: None,
                    ttl_s: None,
                    attributes: Vec::new(),
                }),
                table: HashTable::MAGLEV,
            }),
            pool: Pool {
                connections: Some(1),
                pending: Some(2),
                requests: Some(3),
                retries: Some(4),
                requests_per_connection: Some(5),
                connect_timeout_ms: Some(1_500),
            },
            outlier: Some(Outlier {
                gateway_errors: Some(3),
                ..Outlier::default()
            }),
            locality: Locality::Distribute(vec![Distribute {
                from: LocalityPattern::default(),
                to: vec![(pattern("eu"), 80), (pattern("us"), 20)],
            }]),
            warmup: Some(Warmup {
                duration_ms: 60_000,
                minimum: MILLION / 10,
                aggression_milli: 1_000,
            }),
            retry_budget: Some(RetryBudget {
                share: MILLION / 4,
                min_concurrency: 3,
            }),
        };
        let expected = [
            "calls with the same cookie cart go to the same endpoint, by a Maglev table of 65537 places",
            "at most 1 connections",
            "at most 2 requests wait for one",
            "at most 3 requests at once",
            "at most 4 retries at once",
            "at most 5 requests a connection",
            "a connection is given 1500 ms to be made",
            "an endpoint is ejected after 5 answers of 500 to 599 or 3 answers of 502, 503 or 504 in a row, for 30 s and longer each time, and no more than 10 % of them",
            "calls are spread from anywhere: 80 to eu, 20 to us",
            "new endpoints warm up for 60 s from 10 %",
            "25 % of the requests may be tried again at once, and 3 always",
        ];
        assert_eq!(base.words(), expected);
        let of = |locality| {
            let settings = Settings {
                locality,
                ..Settings::default()
            };
            settings.words().join("")
        };
        let failover = Locality::Failover(vec![Failover {
            from: "eu".parse().unwrap(),
            to: "us".parse().unwrap(),
        }]);
        assert_eq!(
            of(failover),
            "what a region cannot serve goes from eu to us"
        );
        let labels = Locality::Labels(vec![PriorityLabel {
            key: "version".to_owned(),
            value: Some("v1".to_owned()),
        }]);
        assert_eq!(of(labels), "endpoints that have version=v1 go first");
        assert_eq!(of(Locality::Ignored), "endpoints near and far are alike");
    }
}
