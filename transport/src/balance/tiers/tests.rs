//! What tiers must do, by example and by property.

use proptest::prelude::*;
use tradewind_api::traffic::Labels;

use super::*;

#[derive(Clone, Debug)]
pub(super) struct Spec {
    pub(super) id: EndpointId,
    pub(super) cluster: ClusterName,
    pub(super) region: Region,
    pub(super) zone: Option<Zone>,
    pub(super) weight: u32,
    pub(super) health: Health,
    pub(super) ejected: bool,
    pub(super) proven: bool,
    pub(super) ramp: f64,
    pub(super) state: ClusterState,
    pub(super) lease_expired: bool,
    pub(super) rtt_us: Option<u64>,
    pub(super) labels: Labels,
    pub(super) network: Option<&'static str>,
}

pub(super) fn spec(cluster: &str, region: &str) -> Spec {
    Spec {
        id: EndpointId::new("e").unwrap(),
        cluster: ClusterName::new(cluster).unwrap(),
        region: Region::new(region).unwrap(),
        zone: None,
        weight: 100,
        health: Health::Healthy,
        ejected: false,
        proven: false,
        ramp: 1.0,
        state: ClusterState::Active,
        lease_expired: false,
        rtt_us: None,
        labels: Labels::new(),
        network: None,
    }
}

fn choose_from(specs: &[Spec], zone: Option<&str>) -> Choice {
    let caller = Spec {
        zone: zone.map(|z| Zone::new(z).unwrap()),
        ..spec("west", "us-west")
    };
    let choice = choose_as(&caller, specs, &Locality::Nearest);
    let candidates: Vec<_> = specs.iter().map(candidate).collect();
    assert_eq!(choose(&candidates, &here(&caller)), choice);
    choice
}

fn here(caller: &Spec) -> Here<'_> {
    Here {
        cluster: &caller.cluster,
        region: &caller.region,
        zone: caller.zone.as_ref(),
    }
}

fn candidate(s: &Spec) -> Candidate<'_> {
    Candidate {
        id: &s.id,
        cluster: &s.cluster,
        region: &s.region,
        zone: s.zone.as_ref(),
        weight: s.weight,
        health: s.health,
        ejected: s.ejected,
        proven: s.proven,
        ramp: s.ramp,
        cluster_state: s.state,
        lease_expired: s.lease_expired,
        rtt_us: s.rtt_us,
    }
}

/// By a rule, for a caller that is described as endpoints are.
pub(super) fn choose_as(caller: &Spec, specs: &[Spec], locality: &Locality) -> Choice {
    fn extra(s: &Spec) -> Extra<'_> {
        Extra {
            labels: &s.labels,
            network: s.network,
        }
    }
    let candidates: Vec<_> = specs.iter().map(candidate).collect();
    let extras: Vec<_> = specs.iter().map(extra).collect();
    let choice = choose_by(
        &candidates,
        &here(caller),
        locality,
        Extras {
            own: extra(caller),
            candidates: &extras,
        },
    );
    choice.validate().unwrap();
    choice
}

/// Share of each candidate's tier split evenly by weight is not needed here: who serves at all, in order.
pub(super) fn serving(choice: &Choice) -> Vec<usize> {
    choice
        .tiers
        .iter()
        .filter(|t| t.share > 0.0)
        .flat_map(|t| t.members.clone())
        .collect()
}

#[test]
fn the_local_cluster_serves_alone_while_it_can() {
    let c = choose_from(
        &[
            spec("east", "eu-west"),
            spec("west", "us-west"),
            spec("central", "us-central"),
        ],
        None,
    );
    assert_eq!(serving(&c), [1]);
    assert_eq!(c.verdicts[1].to_string(), "serves in tier 0");
    assert!(matches!(c.verdicts[0], Verdict::Farther { tier: 2 }));
}

#[test]
fn related_regions_come_before_others_whatever_the_noise() {
    let mut east = spec("east", "eu-west");
    let mut central = spec("central", "us-central");
    (east.rtt_us, central.rtt_us) = (Some(90), Some(70_000));
    assert_eq!(serving(&choose_from(&[east, central], None)), [1]);
}

#[test]
fn inside_a_kind_of_region_the_round_trip_decides_and_noise_does_not() {
    let mut a = spec("a", "eu-west");
    let mut b = spec("b", "ap-south");
    (a.rtt_us, b.rtt_us) = (Some(90_000), Some(20_000));
    assert_eq!(serving(&choose_from(&[a.clone(), b.clone()], None)), [1]);
    (a.rtt_us, b.rtt_us) = (Some(1_900), Some(40));
    assert_eq!(serving(&choose_from(&[a, b], None)), [0, 1]);
}

#[test]
fn the_same_region_comes_before_another() {
    let c = choose_from(
        &[spec("central", "us-central"), spec("west2", "us-west")],
        None,
    );
    assert_eq!(serving(&c), [1]);
}

#[test]
fn a_zone_counts_only_where_both_know_one() {
    let mut near = spec("west", "us-west");
    near.zone = Some(Zone::new("a").unwrap());
    let far = spec("west", "us-west");
    assert_eq!(
        serving(&choose_from(&[near.clone(), far.clone()], Some("a"))),
        [0]
    );
    assert_eq!(serving(&choose_from(&[near, far], None)), [0, 1]);
}

#[test]
fn what_a_degraded_tier_cannot_carry_spills() {
    let mut sick = spec("west", "us-west");
    sick.health = Health::Unhealthy;
    let c = choose_from(
        &[
            spec("west", "us-west"),
            sick.clone(),
            spec("east", "eu-west"),
        ],
        None,
    );
    assert!((c.tiers[0].share - 0.7).abs() < 1e-9, "{c:?}");
    assert!((c.tiers[1].share - 0.3).abs() < 1e-9, "{c:?}");
    // One of four lost: the headroom carries it.
    let mut four = vec![spec("west", "us-west"); 3];
    four.push(sick.clone());
    four.push(spec("east", "eu-west"));
    assert_eq!(serving(&choose_from(&four, None)), [0, 1, 2]);
    // Nobody else: everything stays.
    assert_eq!(
        choose_from(&[spec("west", "us-west"), sick], None).tiers[0].share,
        1.0
    );
}

#[test]
fn what_drains_is_not_missed_and_serves_last() {
    let mut leaving = spec("west", "us-west");
    leaving.health = Health::Draining;
    let c = choose_from(
        &[
            leaving.clone(),
            spec("west", "us-west"),
            spec("east", "eu-west"),
        ],
        None,
    );
    assert_eq!(serving(&c), [1]);
    assert_eq!(
        serving(&choose_from(
            &[leaving.clone(), spec("east", "eu-west")],
            None
        )),
        [1]
    );
    assert_eq!(serving(&choose_from(&[leaving.clone()], None)), [0]);
    let mut sick = spec("west", "us-west");
    sick.health = Health::Unhealthy;
    assert_eq!(
        serving(&choose_from(&[sick, leaving], None)),
        [1],
        "working before failing"
    );
}

#[test]
fn a_draining_cluster_is_left_alone() {
    let mut west = spec("west", "us-west");
    west.state = ClusterState::Draining;
    let c = choose_from(&[west, spec("east", "eu-west")], None);
    assert_eq!(serving(&c), [1]);
    assert_eq!(c.verdicts[0].to_string(), "not used: its cluster drains");
}

#[test]
fn unknown_is_demoted_and_not_dead() {
    let mut unknown = spec("west", "us-west");
    unknown.health = Health::Unknown;
    assert_eq!(
        serving(&choose_from(
            &[unknown.clone(), spec("east", "eu-west")],
            None
        )),
        [1]
    );
    assert_eq!(serving(&choose_from(&[unknown.clone()], None)), [0]);
    unknown.proven = true;
    assert_eq!(
        serving(&choose_from(&[unknown, spec("east", "eu-west")], None)),
        [0]
    );
}

#[test]
fn an_overdue_lease_demotes_others_but_not_oneself() {
    let mut east = spec("east", "us-central");
    east.lease_expired = true;
    assert_eq!(
        serving(&choose_from(&[east.clone(), spec("far", "eu-west")], None)),
        [1]
    );
    assert_eq!(serving(&choose_from(&[east], None)), [0]);
    let mut west = spec("west", "us-west");
    west.lease_expired = true;
    assert_eq!(
        serving(&choose_from(&[west, spec("far", "eu-west")], None)),
        [0]
    );
}

#[test]
fn when_everybody_failed_everybody_is_tried() {
    let mut a = spec("west", "us-west");
    let mut b = spec("east", "eu-west");
    (a.ejected, b.ejected) = (true, true);
    let c = choose_from(&[a, b], None);
    assert_eq!(
        (c.tiers[0].distance, serving(&c)),
        (Distance::Anywhere, vec![0, 1])
    );
}

#[test]
fn failback_is_ramped_across_tiers() {
    let mut back = spec("west", "us-west");
    let far = spec("east", "eu-west");
    let mut last = 0.0;
    for step in 1..=10 {
        back.ramp = f64::from(step) / 10.0;
        let share = choose_from(&[back.clone(), far.clone()], None).tiers[0].share;
        assert!(
            share >= last && (step > 7 || share < 1.0),
            "{step}: {share}"
        );
        last = share;
    }
    assert_eq!(last, 1.0);
}

#[test]
fn a_choice_that_cannot_be_is_refused() {
    let tier = |distance, share| Tier {
        distance,
        members: vec![0],
        share,
    };
    let listed = |to, share| tier(Distance::Share { rule: 0, to }, share);
    let of = |tiers: &[Tier], verdicts: usize| {
        let serves = Verdict::Serves {
            tier: 0,
            rung: Rung::Fit,
        };
        let choice = Choice {
            tiers: tiers.to_vec(),
            verdicts: vec![serves; verdicts],
        };
        choice.validate()
    };
    let (near, far) = (Distance::Cluster, Distance::Region);
    let two = |a, b| of(&[tier(near, a), tier(far, b)], 2);
    assert_eq!(two(0.7, 0.3), Ok(()));
    let shares = Err("shares do not sum to one");
    assert_eq!(two(0.7, 0.2), shares);
    assert_eq!(two(1.5, -0.5), shares);
    assert_eq!(two(1.0, f64::NAN), shares);
    let order = Err("tiers out of order");
    assert_eq!(of(&[tier(far, 0.5), tier(near, 0.5)], 2), order);
    assert_eq!(of(&[tier(near, 0.5), tier(near, 0.5)], 2), order);
    let empty = Tier {
        members: Vec::new(),
        ..tier(far, 0.0)
    };
    assert_eq!(of(&[tier(near, 1.0), empty], 1), Err("an empty tier"));
    assert_eq!(of(&[], 1), Err("candidates, but no tier"));
    let differ = Err("tiers and verdicts differ");
    assert_eq!(of(&[tier(near, 1.0)], 2), differ);
    // Shares of a list need not go by order, but nobody beside the list has one.
    let spread = [listed(0, 0.0), listed(1, 0.4), listed(2, 0.6)];
    assert_eq!(of(&spread, 3), Ok(()));
    assert_eq!(
        of(&[listed(0, 0.5), tier(near, 0.5)], 2),
        Err("calls leave the listed localities")
    );
    assert_eq!(of(&[listed(0, 0.0), tier(near, 1.0)], 2), Ok(()));
}

#[test]
fn no_candidates_no_tiers() {
    assert!(choose_from(&[], None).tiers.is_empty());
    assert!(choose_from(&[], None).tier(0.5).is_none());
}

pub(super) fn any_spec() -> impl Strategy<Value = Spec> {
    let place = (
        0usize..4,
        proptest::option::of(0usize..2),
        proptest::option::of(0u64..400_000),
    );
    let state = (
        0usize..4,
        any::<bool>(),
        any::<bool>(),
        0usize..3,
        any::<bool>(),
    );
    (place, state, 1u32..500, 0.0f64..=1.0).prop_map(
        |((cluster, zone, rtt_us), (health, ejected, proven, st, lease_expired), weight, ramp)| {
            let places = [
                ("west", "us-west"),
                ("west2", "us-west"),
                ("central", "us-central"),
                ("east", "eu-west"),
            ];
            let (c, r) = places[cluster];
            Spec {
                zone: zone.map(|z| Zone::new(["a", "b"][z]).unwrap()),
                weight,
                health: [
                    Health::Healthy,
                    Health::Unhealthy,
                    Health::Unknown,
                    Health::Draining,
                ][health],
                ejected,
                proven,
                ramp,
                state: [
                    ClusterState::Active,
                    ClusterState::Draining,
                    ClusterState::Left,
                ][st],
                lease_expired,
                rtt_us,
                ..spec(c, r)
            }
        },
    )
}

proptest! {
    /// Whatever is known of them, somebody serves, shares sum to one, and the dice always fall on a tier.
    #[test]
    fn somebody_always_serves(specs in proptest::collection::vec(any_spec(), 1..30), dice in 0.0f64..1.0) {
        let c = choose_from(&specs, Some("a"));
        prop_assert!(c.tier(dice).is_some_and(|t| !t.members.is_empty()));
    }

    /// Where a healthy endpoint exists, nobody ejected, unhealthy, unknown or draining serves.
    #[test]
    fn the_healthy_are_never_passed_over(mut specs in proptest::collection::vec(any_spec(), 1..30), at in any::<proptest::sample::Index>()) {
        let i = at.index(specs.len());
        specs[i] = Spec { ramp: 0.5, ..spec("east", "eu-west") };
        let c = choose_from(&specs, None);
        for m in serving(&c) {
            let s = &specs[m];
            prop_assert!(!s.ejected && s.state == ClusterState::Active);
            prop_assert!(s.health == Health::Healthy || (s.health == Health::Unknown && s.proven));
        }
    }

    /// A nearer tier that gets worse never takes calls away from a farther one.
    #[test]
    fn spilling_is_monotone(near in 1usize..12, far in 1usize..12, lost in 0usize..12, farther_lost in 0usize..11) {
        let build = |lost: usize| {
            let mut all: Vec<_> = (0..near).map(|i| Spec { ejected: i < lost, ..spec("west", "us-west") }).collect();
            all.extend((0..far).map(|i| Spec { ejected: i < farther_lost.min(far - 1), ..spec("east", "eu-west") }));
            choose_from(&all, None)
        };
        let share = |c: &Choice| c.tiers.iter().filter(|t| t.distance > Distance::Cluster).map(|t| t.share).sum::<f64>();
        let lost = lost.min(near);
        let more = (lost + 1).min(near);
        prop_assert!(share(&build(lost)) <= share(&build(more)) + 1e-9);
    }
}
