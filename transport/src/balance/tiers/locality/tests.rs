//! What rules for localities must do, by example and by property.

use proptest::prelude::*;
use tradewind_api::{
    id::{Region, Zone},
    model::Health,
};

use super::{
    super::{
        Choice, Rung, Verdict,
        tests::{Spec, any_spec, choose_as, serving, spec},
    },
    *,
};

fn zoned(cluster: &str, region: &str, zone: &str) -> Spec {
    Spec {
        zone: Some(Zone::new(zone).unwrap()),
        ..spec(cluster, region)
    }
}

fn caller() -> Spec {
    zoned("west", "us-west", "a")
}

fn sick(s: Spec) -> Spec {
    Spec {
        health: Health::Unhealthy,
        ..s
    }
}

fn failover(pairs: &[(&str, &str)]) -> Locality {
    let region = |r: &str| Region::new(r).unwrap();
    let of = |(from, to): &(&str, &str)| Failover {
        from: region(from),
        to: region(to),
    };
    Locality::Failover(pairs.iter().map(of).collect())
}

/// `*` for all, `eu` or `eu/*` for a region, `eu/a` for a zone of it.
fn pattern(text: &str) -> LocalityPattern {
    let part = |p: &str| (p != "*").then(|| p.to_owned());
    let (region, zone) = text.split_once('/').unwrap_or((text, "*"));
    LocalityPattern {
        region: part(region),
        zone: part(zone),
    }
}

fn distribute(lists: &[(&str, &[(&str, u32)])]) -> Locality {
    let of = |(from, to): &(&str, &[(&str, u32)])| Distribute {
        from: pattern(from),
        to: to.iter().map(|(p, w)| (pattern(p), *w)).collect(),
    };
    Locality::Distribute(lists.iter().map(of).collect())
}

fn labels(list: &[(&str, Option<&str>)]) -> Locality {
    let of = |(key, value): &(&str, Option<&str>)| PriorityLabel {
        key: (*key).to_owned(),
        value: value.map(str::to_owned),
    };
    Locality::Labels(list.iter().map(of).collect())
}

fn labelled(s: Spec, all: &[(&str, &str)]) -> Spec {
    let labels = all
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect();
    Spec { labels, ..s }
}

/// Each tier's name, members and share in hundredths.
fn told(choice: &Choice, locality: &Locality) -> Vec<(String, Vec<usize>, u32)> {
    let tell = |t: &Tier| {
        let share = (t.share * 100.0).round() as u32;
        (
            t.distance.named(locality).to_string(),
            t.members.clone(),
            share,
        )
    };
    choice.tiers.iter().map(tell).collect()
}

fn check(specs: &[Spec], locality: &Locality, want: &[(&str, &[usize], u32)]) {
    let got = told(&choose_as(&caller(), specs, locality), locality);
    let want: Vec<_> = want
        .iter()
        .map(|(name, members, share)| ((*name).to_owned(), members.to_vec(), *share))
        .collect();
    assert_eq!(got, want);
}

#[test]
fn where_distance_does_not_matter_all_that_are_fit_are_one_tier() {
    let specs = [
        spec("east", "eu-west"),
        spec("west", "us-west"),
        sick(spec("west", "us-west")),
    ];
    check(&specs, &Locality::Ignored, &[("all alike", &[0, 1], 100)]);
    // Nobody works: as ever.
    let specs = specs.map(sick);
    check(&specs, &Locality::Ignored, &[("anywhere", &[0, 1, 2], 100)]);
}

#[test]
fn the_failover_region_comes_before_all_other_regions() {
    let specs = [
        spec("central", "us-central"),
        spec("east", "eu-west"),
        spec("south", "ap-south"),
    ];
    let rule = failover(&[("eu-west", "us-central"), ("us-west", "ap-south")]);
    check(
        &specs,
        &rule,
        &[
            ("failover region ap-south", &[2], 100),
            ("related region, round trip unknown", &[0], 0),
            ("other region, round trip unknown", &[1], 0),
        ],
    );
    // In the order in which they are listed.
    let rule = failover(&[("us-west", "eu-west"), ("us-west", "ap-south")]);
    check(
        &specs,
        &rule,
        &[
            ("failover region eu-west", &[1], 100),
            ("failover region ap-south", &[2], 0),
            ("related region, round trip unknown", &[0], 0),
        ],
    );
}

#[test]
fn the_own_region_comes_before_the_failover_region_and_spills_into_it() {
    let specs = [
        spec("south", "ap-south"),
        spec("west2", "us-west"),
        spec("west", "us-west"),
        sick(spec("west", "us-west")),
        sick(spec("west2", "us-west")),
    ];
    check(
        &specs,
        &failover(&[("us-west", "ap-south"), ("us-west", "us-west")]),
        &[
            ("same cluster", &[2], 70),
            ("same region", &[1], 30),
            ("failover region ap-south", &[0], 0),
        ],
    );
    check(
        &[specs[0].clone(), specs[2].clone(), specs[3].clone()],
        &failover(&[("us-west", "ap-south")]),
        &[
            ("same cluster", &[1], 70),
            ("failover region ap-south", &[0], 30),
        ],
    );
}

fn four() -> [Spec; 4] {
    [
        zoned("west", "us-west", "a"),
        zoned("west", "us-west", "b"),
        zoned("east", "eu-west", "a"),
        zoned("south", "ap-south", "a"),
    ]
}

#[test]
fn calls_are_spread_by_weight_whatever_the_distance() {
    let rule = distribute(&[
        ("eu-west", &[("eu-west", 1)]),
        ("us-west/a", &[("eu-west", 80), ("us-west/*", 20)]),
        ("us-west", &[("ap-south", 1)]),
    ]);
    check(
        &four(),
        &rule,
        &[
            ("share of eu-west/*", &[2], 80),
            ("share of us-west/*", &[0, 1], 20),
            ("other region, round trip unknown", &[3], 0),
        ],
    );
    let choice = choose_as(&caller(), &four(), &rule);
    assert_eq!(choice.verdicts[3], Verdict::Farther { tier: 2 });
}

#[test]
fn a_caller_that_no_list_is_for_goes_to_the_nearest() {
    for rule in [
        distribute(&[("us-west/b", &[("eu-west", 1)]), ("eu-west", &[("*", 1)])]),
        distribute(&[]),
    ] {
        let choice = choose_as(&caller(), &four(), &rule);
        let nearest = choose_as(&caller(), &four(), &Locality::Nearest);
        assert_eq!(choice, nearest);
    }
}

#[test]
fn an_endpoint_belongs_to_the_most_exact_locality() {
    check(
        &four(),
        &distribute(&[(
            "*",
            &[
                ("*", 10),
                ("us-west", 30),
                ("us-west/b", 60),
                ("us-west/b", 900),
            ],
        )]),
        &[
            ("share of *", &[2, 3], 10),
            ("share of us-west/*", &[0], 30),
            ("share of us-west/b", &[1], 60),
        ],
    );
}

#[test]
fn a_locality_that_carries_less_gets_less_and_one_without_anybody_nothing() {
    let rule = distribute(&[("*", &[("us-west", 50), ("eu-west", 30), ("ap-south", 20)])]);
    let mut specs = four();
    // Half of it: seven tenths of its share.
    specs[1].ejected = true;
    check(
        &specs,
        &rule,
        &[
            ("share of us-west/*", &[0], 41),
            ("share of eu-west/*", &[2], 35),
            ("share of ap-south/*", &[3], 24),
        ],
    );
    specs[0].ejected = true;
    check(
        &specs,
        &rule,
        &[
            ("share of eu-west/*", &[2], 60),
            ("share of ap-south/*", &[3], 40),
        ],
    );
}

#[test]
fn others_serve_when_nobody_of_the_listed_can() {
    let rule = distribute(&[("*", &[("eu-west", 50), ("ap-south", 0)])]);
    let mut specs = four();
    specs[2].ejected = true;
    check(
        &specs,
        &rule,
        &[
            ("share of ap-south/*", &[3], 0),
            ("same zone", &[0], 100),
            ("same cluster", &[1], 0),
        ],
    );
    // Doubtful ones of the list do not keep fit ones from serving.
    specs[2] = Spec {
        health: Health::Unknown,
        ejected: false,
        ..specs[2].clone()
    };
    let choice = choose_as(&caller(), &specs, &rule);
    assert_eq!(serving(&choice), [0]);
    // Nobody but those whom the rule gives nothing.
    check(&specs[3..], &rule, &[("share of ap-south/*", &[0], 100)]);
}

#[test]
fn a_locality_that_comes_back_is_ramped() {
    let rule = distribute(&[("*", &[("us-west", 50), ("eu-west", 50)])]);
    let mut specs = four();
    let mut last = -1.0;
    for step in 0..=10 {
        specs[2].ramp = f64::from(step) / 10.0;
        let choice = choose_as(&caller(), &specs[..3], &rule);
        let share = choice.tiers[1].share;
        assert!(share >= last, "{step}: {share}");
        last = share;
    }
    assert!((last - 0.5).abs() < 1e-9);
    // All at their very start: by weight.
    specs.iter_mut().for_each(|s| s.ramp = 0.0);
    let choice = choose_as(&caller(), &specs[..3], &rule);
    assert!((choice.tiers[0].share - 0.5).abs() < 1e-9);
}

#[test]
fn more_labels_in_a_row_are_nearer() {
    let v = |version: &'static str, tier: &'static str| [("version", version), ("tier", tier)];
    let base = || spec("east", "eu-west");
    let specs = [
        labelled(base(), &v("v1", "gold")),
        labelled(base(), &v("v2", "gold")),
        labelled(base(), &v("v1", "iron")),
        labelled(base(), &[]),
    ];
    let own = labelled(caller(), &v("v1", "gold"));
    let rule = labels(&[("version", None), ("tier", None)]);
    let by = |own: &Spec, rule: &Locality| told(&choose_as(own, &specs, rule), rule);
    let tier = |name: &str, members: &[usize], share| (name.to_owned(), members.to_vec(), share);
    assert_eq!(
        by(&own, &rule),
        [
            tier("2 of 2 labels", &[0], 100),
            tier("1 of 2 labels", &[2], 0),
            tier("0 of 2 labels", &[1, 3], 0),
        ]
    );
    // A value is the endpoint's, whatever the caller's.
    let rule = labels(&[("version", Some("v2")), ("tier", None)]);
    assert_eq!(
        by(&own, &rule),
        [
            tier("2 of 2 labels", &[1], 100),
            tier("0 of 2 labels", &[0, 2, 3], 0),
        ]
    );
    // What nobody says tells nobody apart.
    let rule = labels(&[("version", None), ("shoe-size", None)]);
    assert_eq!(by(&own, &rule)[0], tier("2 of 2 labels", &[0, 2], 100));
    assert_eq!(
        by(&caller(), &rule),
        [
            tier("2 of 2 labels", &[3], 100),
            tier("0 of 2 labels", &[0, 1, 2], 0),
        ]
    );
}

#[test]
fn labels_of_topology_mean_what_is_known() {
    let lies = |s: Spec| {
        let all = [
            PriorityLabel::REGION,
            PriorityLabel::ZONE,
            PriorityLabel::CLUSTER,
            PriorityLabel::NETWORK,
        ];
        labelled(s, &all.map(|key| (key, "moon")))
    };
    let network = |s: Spec, network| Spec {
        network: Some(network),
        ..s
    };
    let specs = [
        lies(network(zoned("east", "eu-west", "a"), "n1")),
        lies(network(zoned("west2", "us-west", "b"), "n1")),
        lies(network(zoned("west", "us-west", "a"), "n2")),
        lies(zoned("west", "us-west", "b")),
    ];
    let own = lies(network(caller(), "n1"));
    for (key, value, nearest) in [
        (PriorityLabel::REGION, None, vec![1, 2, 3]),
        (PriorityLabel::REGION, Some("eu-west"), vec![0]),
        (PriorityLabel::ZONE, None, vec![0, 2]),
        (PriorityLabel::CLUSTER, None, vec![2, 3]),
        (PriorityLabel::CLUSTER, Some("west2"), vec![1]),
        (PriorityLabel::NETWORK, None, vec![0, 1]),
        (PriorityLabel::NETWORK, Some("n2"), vec![2]),
    ] {
        let choice = choose_as(&own, &specs, &labels(&[(key, value)]));
        assert_eq!(choice.tiers[0].members, nearest, "{key} {value:?}");
        assert_eq!(choice.tiers.len(), 2, "{key} {value:?}");
    }
    // Of extras that are missing nothing is known.
    assert!(Extras::NONE.candidates.is_empty() && Extra::NONE.labels.is_empty());
}

#[test]
fn tiers_by_labels_spill_as_others_do() {
    let gold = |s: Spec| labelled(s, &[("tier", "gold")]);
    let specs = [
        spec("west", "us-west"),
        gold(spec("east", "eu-west")),
        sick(gold(spec("east", "eu-west"))),
    ];
    check(
        &specs,
        &labels(&[("tier", Some("gold"))]),
        &[("1 of 1 labels", &[1], 70), ("0 of 1 labels", &[0], 30)],
    );
    // Without any label all are alike.
    check(&specs, &labels(&[]), &[("0 of 0 labels", &[0, 1], 100)]);
}

#[test]
fn distances_without_their_rule_have_names_too() {
    for (distance, name) in [
        (Distance::Share { rule: 3, to: 1 }, "share 2"),
        (Distance::Failover { listed: 3 }, "failover region"),
        (Distance::Labels { missing: 1, of: 3 }, "2 of 3 labels"),
        (Distance::Alike, "all alike"),
    ] {
        assert_eq!(distance.to_string(), name);
        for other in [Locality::Nearest, failover(&[]), distribute(&[("*", &[])])] {
            assert_eq!(distance.named(&other).to_string(), name);
        }
    }
}

fn any_pattern() -> impl Strategy<Value = LocalityPattern> {
    let texts = [
        "*",
        "us-west",
        "us-west/a",
        "us-west/b",
        "us-central",
        "eu-west/a",
        "mars",
        "*/a",
    ];
    (0..texts.len()).prop_map(move |i| pattern(texts[i]))
}

fn any_locality() -> impl Strategy<Value = Locality> {
    let regions = ["us-west", "us-central", "eu-west", "mars"];
    let pair = (0usize..4, 0usize..4).prop_map(move |(from, to)| (regions[from], regions[to]));
    let keys = [
        PriorityLabel::REGION,
        PriorityLabel::ZONE,
        PriorityLabel::CLUSTER,
        PriorityLabel::NETWORK,
        "app",
    ];
    let label = (0usize..5, proptest::option::of(0usize..2))
        .prop_map(move |(key, value)| (keys[key], value.map(|v| ["eu-west", "x"][v])));
    let list = (
        any_pattern(),
        proptest::collection::vec((any_pattern(), 0u32..100), 0..6),
    );
    prop_oneof![
        Just(Locality::Nearest),
        Just(Locality::Ignored),
        proptest::collection::vec(pair, 0..4).prop_map(|p| failover(&p)),
        proptest::collection::vec(list.prop_map(|(from, to)| Distribute { from, to }), 0..4)
            .prop_map(Locality::Distribute),
        proptest::collection::vec(label, 0..5).prop_map(|l| labels(&l)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    /// Whatever a rule says, somebody serves, and the dice always fall on a tier. `choose_as` has every choice validated.
    #[test]
    fn somebody_always_serves(
        specs in proptest::collection::vec(any_spec(), 1..20),
        locality in any_locality(),
        dice in 0.0f64..1.0,
    ) {
        let choice = choose_as(&caller(), &specs, &locality);
        prop_assert!(choice.tier(dice).is_some_and(|t| t.share > 0.0 && !t.members.is_empty()));
    }

    /// No rule keeps fit endpoints from serving while any is there: whoever serves is one of them.
    #[test]
    fn the_fit_are_never_passed_over(
        mut specs in proptest::collection::vec(any_spec(), 1..20),
        locality in any_locality(),
        at in any::<proptest::sample::Index>(),
    ) {
        let i = at.index(specs.len());
        specs[i] = Spec { ramp: 0.5, ..zoned("east", "eu-west", "b") };
        let choice = choose_as(&caller(), &specs, &locality);
        let not_passed = !matches!(choice.verdicts[i], Verdict::Passed(_));
        prop_assert!(not_passed);
        for verdict in &choice.verdicts {
            if let Verdict::Serves { rung, .. } = verdict {
                prop_assert_eq!(*rung, Rung::Fit);
            }
        }
    }

    /// Which candidates are good enough is the same question under every rule.
    #[test]
    fn a_rule_moves_candidates_between_tiers_alone(
        specs in proptest::collection::vec(any_spec(), 1..20),
        locality in any_locality(),
    ) {
        let passed = |c: &Choice| -> Vec<_> {
            c.verdicts.iter().map(|v| match v {
                Verdict::Passed(reason) => Some(*reason),
                Verdict::Serves { .. } | Verdict::Farther { .. } => None,
            }).collect()
        };
        let by_rule = choose_as(&caller(), &specs, &locality);
        let nearest = choose_as(&caller(), &specs, &Locality::Nearest);
        prop_assert_eq!(passed(&by_rule), passed(&nearest));
    }
}
