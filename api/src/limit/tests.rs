//! What a bucket gives by the clock, never more than it may, and which limits hold for whom.

use proptest::{collection::vec, prelude::*};

use super::*;

const BUCKET: TokenBucket = TokenBucket {
    max_tokens: 10,
    tokens_per_fill: 4,
    fill_interval_ms: 1_000,
};

/// Takes tokens of one bucket.
struct Taking(TokenBucket, Level);

impl Taking {
    fn new(bucket: TokenBucket) -> Self {
        Self(bucket, bucket.full())
    }

    fn take(&mut self, at_ms: u64) -> bool {
        let taken = self.0.take(self.1, at_ms);
        self.1 = taken.unwrap_or(self.1);
        taken.is_some()
    }

    fn take_all(&mut self, at_ms: u64) -> u32 {
        let mut all = 0;
        while self.take(at_ms) {
            all += 1;
        }
        all
    }
}

#[test]
fn a_bucket_is_full_at_first_and_filled_at_the_end_of_each_interval() {
    let mut taking = Taking::new(BUCKET);
    assert_eq!(taking.take_all(0), 10);
    assert_eq!(taking.take_all(999), 0);
    assert_eq!(taking.take_all(1_000), 4);
    assert_eq!(taking.take_all(1_999), 0);
    // Two intervals, and then more than it holds.
    assert_eq!(taking.take_all(3_500), 8);
    assert_eq!(taking.take_all(4_000), 4);
    assert_eq!(taking.take_all(1_000_000), 10);
}

#[test]
fn intervals_end_by_the_clock_and_not_by_the_requests() {
    let mut taking = Taking::new(BUCKET);
    taking.take_all(0);
    // Asked just before each end and just behind it: nothing of an interval is lost or counted twice.
    for end in (1_000..100_000).step_by(1_000) {
        assert_eq!(taking.take_all(end - 1), 0, "{end}");
        assert_eq!(taking.take_all(end + 1), 4, "{end}");
    }
    assert_eq!(BUCKET.until_fill_ms(0), 1_000);
    assert_eq!(BUCKET.until_fill_ms(999), 1);
    assert_eq!(BUCKET.until_fill_ms(1_000), 1_000);
}

#[test]
fn a_thread_whose_time_is_behind_changes_nothing() {
    let level = BUCKET.at(
        Level {
            fills: 0,
            tokens: 0,
        },
        5_000,
    );
    assert_eq!(
        level,
        Level {
            fills: 5,
            tokens: 10
        }
    );
    let taken = BUCKET.take(level, 4_000).unwrap();
    assert_eq!(
        taken,
        Level {
            fills: 5,
            tokens: 9
        }
    );
}

#[test]
fn intervals_are_counted_beyond_what_the_number_holds() {
    let bucket = TokenBucket {
        fill_interval_ms: 50,
        ..BUCKET
    };
    let last = u64::from(u32::MAX) * 50;
    let level = bucket.at(
        Level {
            fills: u32::MAX - 1,
            tokens: 0,
        },
        last,
    );
    assert_eq!(level.tokens, 4);
    assert_eq!(
        bucket.at(level, last + 50),
        Level {
            fills: 0,
            tokens: 8
        }
    );
}

fn some_bucket() -> impl Strategy<Value = TokenBucket> {
    let tokens = || prop_oneof![1..20u32, Just(u32::MAX)];
    (tokens(), tokens(), 50..5_000u64).prop_map(
        |(max_tokens, tokens_per_fill, fill_interval_ms)| TokenBucket {
            max_tokens,
            tokens_per_fill,
            fill_interval_ms,
        },
    )
}

proptest! {
    #[test]
    fn no_window_takes_more_than_what_it_holds_and_what_is_added(
        bucket in some_bucket(),
        gaps in vec(0..3_000u64, 1..200),
    ) {
        let mut taking = Taking::new(bucket);
        let mut at = 0;
        let mut taken = Vec::new();
        for gap in gaps {
            at += gap;
            if taking.take(at) {
                taken.push(at);
            }
        }
        for (i, from) in taken.iter().enumerate() {
            for (more, to) in taken.iter().skip(i).enumerate() {
                let ended = to / bucket.fill_interval_ms - from / bucket.fill_interval_ms;
                let most = u64::from(bucket.max_tokens) + ended * u64::from(bucket.tokens_per_fill);
                prop_assert!((more as u64) < most, "{more} more within {from}..={to}");
            }
        }
    }

    #[test]
    fn whoever_asks_less_often_than_tokens_come_is_never_refused(
        bucket in some_bucket(),
        asked in 1..200u64,
    ) {
        let mut taking = Taking::new(bucket);
        for i in 0..asked {
            prop_assert!(taking.take(i * bucket.fill_interval_ms), "{i}");
        }
    }

    #[test]
    fn it_never_holds_more_than_it_may(bucket in some_bucket(), bits: u64, at: u64) {
        let level = Level::of_bits(bits);
        prop_assert_eq!(level.bits(), bits);
        let level = Level { tokens: level.tokens.min(bucket.max_tokens), ..level };
        let now = bucket.at(level, at);
        prop_assert!(now.tokens <= bucket.max_tokens);
        prop_assert!(now.tokens >= level.tokens);
        prop_assert_eq!(bucket.at(now, at), now);
    }
}

fn limit(place: Place) -> LocalLimit {
    LocalLimit {
        place,
        bucket: Some(BUCKET),
        per_connection: false,
        enabled: 1_000_000,
        enforced: 1_000_000,
        answer: Answer::default(),
        passed_headers: Vec::new(),
        tells: false,
    }
}

/// Objects by name, each with its namespace, a label and its limits.
fn limits(of: Vec<(&str, Option<&str>, &str, Vec<LocalLimit>)>) -> Limits<Box<LocalLimits>> {
    let one = |(name, namespace, app, limits): (&str, Option<&str>, &str, Vec<LocalLimit>)| {
        let all = LocalLimits {
            namespace: namespace.map(|n| Namespace::new(n).unwrap()),
            labels: [("app".to_owned(), app.to_owned())].into(),
            limits,
        };
        (name.parse().unwrap(), Box::new(all))
    };
    of.into_iter().map(one).collect()
}

/// What holds for a workload `app=cart` of `shop` at port 80, which is 8080 of the application.
fn held(limits: &Limits<Box<LocalLimits>>) -> Vec<String> {
    let labels = [("app", "cart"), ("version", "v1")].map(|(k, v)| (k.to_owned(), v.to_owned()));
    let shop = Namespace::new("shop").unwrap();
    let all = in_force(limits, (&shop, &labels.into()), (80, Some(8080)));
    let shown = all.iter().map(|(name, i, _)| format!("{name} {i}"));
    shown.collect()
}

#[test]
fn limits_hold_for_workloads_by_namespace_labels_and_port() {
    let filter = |port| vec![limit(Place::Filter { port })];
    for (namespace, app, port, holds) in [
        (Some("shop"), "cart", None, true),
        (None, "cart", None, true),
        (Some("front"), "cart", None, false),
        (Some("shop"), "other", None, false),
        (Some("shop"), "cart", Some(80), true),
        (Some("shop"), "cart", Some(8080), true),
        (Some("shop"), "cart", Some(81), false),
    ] {
        let limits = limits(vec![("shop/a", namespace, app, filter(port))]);
        assert_eq!(
            !held(&limits).is_empty(),
            holds,
            "{namespace:?} {app} {port:?}"
        );
    }
}

#[test]
fn all_filters_hold_and_a_route_takes_the_place_of_all() {
    let filter = limit(Place::Filter { port: None });
    let empty = LocalLimit {
        bucket: None,
        ..filter.clone()
    };
    let off = LocalLimit {
        enabled: 0,
        ..filter.clone()
    };
    let route = |port| limit(Place::Route { port });
    let of = |a: Vec<LocalLimit>, b: Vec<LocalLimit>| {
        held(&limits(vec![
            ("shop/a", None, "cart", a),
            ("shop/b", None, "cart", b),
        ]))
    };
    let both = of(vec![filter.clone()], vec![off, filter.clone()]);
    assert_eq!(both, ["shop/a 0", "shop/b 1"]);
    let route_of_port = of(vec![empty.clone(), route(Some(80))], vec![filter.clone()]);
    assert_eq!(route_of_port, ["shop/a 1"]);
    let last = of(vec![empty.clone(), route(None)], vec![route(Some(80))]);
    assert_eq!(last, ["shop/b 0"]);
    // Routes are Envoy's, by the service's port alone, and mean nothing where there is no filter.
    assert_eq!(
        of(vec![filter.clone()], vec![route(Some(8080))]),
        ["shop/a 0"]
    );
    assert!(of(vec![route(Some(80))], vec![]).is_empty());
    let elsewhere = LocalLimit {
        place: Place::Filter { port: Some(81) },
        ..filter
    };
    assert!(of(vec![elsewhere], vec![route(Some(80))]).is_empty());
    assert!(of(vec![empty], vec![]).is_empty());
}

#[test]
fn they_survive_the_wire_and_what_is_not_known_is_refused() {
    let edit = HeaderEdit {
        name: "x-limit".into(),
        value: "true".into(),
        how: HeaderEditHow::Set,
    };
    let whole = LocalLimits {
        namespace: Some(Namespace::new("shop").unwrap()),
        labels: [("app".to_owned(), "cart".to_owned())].into(),
        limits: vec![LocalLimit {
            per_connection: true,
            answer: Answer {
                status: 503,
                headers: vec![edit.clone()],
                resource_exhausted: true,
            },
            passed_headers: vec![edit],
            tells: true,
            ..limit(Place::Route { port: Some(80) })
        }],
    };
    let json = serde_json::to_string(&whole).unwrap();
    assert_eq!(serde_json::from_str::<LocalLimits>(&json).unwrap(), whole);
    let newer = json.replacen("\"tells\"", "\"shouts\"", 1);
    assert!(serde_json::from_str::<LocalLimits>(&newer).is_err());
}
