//! Limits in words, for whoever asks what holds. Pure.
//!
//! What is left out here would be a lie, so a limit is taken apart whole: a new field does not compile until it has words.

use super::{Answer, HeaderEdit, HeaderEditHow, LocalLimit, Place, TokenBucket};
use crate::route::{MILLION, Millionths};

fn percent(share: Millionths) -> String {
    format!("{} %", f64::from(share) * 100.0 / f64::from(MILLION))
}

impl TokenBucket {
    /// How much it gives.
    fn words(self) -> String {
        let Self {
            max_tokens,
            tokens_per_fill,
            fill_interval_ms,
        } = self;
        let every = match fill_interval_ms {
            ms if ms % 1000 == 0 => format!("{} s", ms / 1000),
            ms => format!("{ms} ms"),
        };
        format!("{max_tokens} requests at once, {tokens_per_fill} more every {every}")
    }
}

impl HeaderEdit {
    fn words(&self) -> String {
        let Self { name, value, how } = self;
        let how = match how {
            HeaderEditHow::Append => "",
            HeaderEditHow::IfAbsent => " unless there is one",
            HeaderEditHow::Set => " instead of others",
            HeaderEditHow::IfPresent => " instead of others, where there are any",
        };
        format!("{name}: {value:?}{how}")
    }
}

impl Answer {
    fn words(&self) -> String {
        let Self {
            status,
            headers,
            resource_exhausted,
        } = self;
        let mut words = format!("the others are answered {status}");
        if *resource_exhausted {
            words.push_str(", gRPC calls RESOURCE_EXHAUSTED");
        }
        for header in headers {
            words.push_str(", with ");
            words.push_str(&header.words());
        }
        words
    }
}

impl LocalLimit {
    /// What it does, a sentence each.
    pub fn words(&self) -> Vec<String> {
        let Self {
            place,
            bucket,
            per_connection,
            enabled,
            enforced,
            answer,
            passed_headers,
            tells,
        } = self;
        let whose = if *per_connection {
            "of each caller's connection"
        } else {
            "of all callers together"
        };
        let mut words = vec![match bucket {
            Some(bucket) => format!("{} {whose}", bucket.words()),
            None => "all requests".to_owned(),
        }];
        let instead = matches!(place, Place::Route { .. });
        if instead {
            words.push("instead of what holds before every request".to_owned());
        }
        if *enabled < MILLION {
            words.push(format!("asked about {} of requests", percent(*enabled)));
        }
        if *enforced > 0 {
            words.push(answer.words());
        }
        if *enforced < MILLION {
            let passing = percent(MILLION.saturating_sub(*enforced));
            words.push(format!("{passing} of the others pass, and are counted"));
        }
        for header in passed_headers {
            words.push(format!("requests that pass get {}", header.words()));
        }
        if *tells {
            words.push("responses say what is left".to_owned());
        }
        words
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_told_whole() {
        let bucket = TokenBucket {
            max_tokens: 10,
            tokens_per_fill: 5,
            fill_interval_ms: 60_000,
        };
        let plain = LocalLimit {
            place: Place::Filter { port: None },
            bucket: Some(bucket),
            per_connection: false,
            enabled: MILLION,
            enforced: MILLION,
            answer: Answer::default(),
            passed_headers: Vec::new(),
            tells: false,
        };
        assert_eq!(
            plain.words(),
            [
                "10 requests at once, 5 more every 60 s of all callers together",
                "the others are answered 429"
            ]
        );
        let edit = |how| HeaderEdit {
            name: "x-a".to_owned(),
            value: "1".to_owned(),
            how,
        };
        let all = LocalLimit {
            place: Place::Route { port: Some(80) },
            bucket: Some(TokenBucket {
                fill_interval_ms: 50,
                ..bucket
            }),
            per_connection: true,
            enabled: MILLION / 2,
            enforced: MILLION / 4,
            answer: Answer {
                status: 503,
                headers: vec![edit(HeaderEditHow::Set)],
                resource_exhausted: true,
            },
            passed_headers: vec![edit(HeaderEditHow::Append)],
            tells: true,
        };
        assert_eq!(
            all.words(),
            [
                "10 requests at once, 5 more every 50 ms of each caller's connection",
                "instead of what holds before every request",
                "asked about 50 % of requests",
                "the others are answered 503, gRPC calls RESOURCE_EXHAUSTED, with x-a: \"1\" instead of others",
                "75 % of the others pass, and are counted",
                "requests that pass get x-a: \"1\"",
                "responses say what is left",
            ]
        );
        let observed = LocalLimit {
            enforced: 0,
            ..plain
        };
        assert_eq!(
            observed.words()[1],
            "100 % of the others pass, and are counted"
        );
    }
}
