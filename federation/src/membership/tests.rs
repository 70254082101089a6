//! The plan, one view of a federation after another.

use std::sync::Arc;

use tradewind_api::{
    Domain,
    store::{Blob, Command, Stamped, TokenRecord},
};

use super::*;
use crate::catalog::tests::{name, record};

fn catalog(clusters: &[&str]) -> Catalog {
    let mut catalog = Catalog::default();
    let mut revision = 0;
    let mut apply = |command| {
        revision += 1;
        let at_ms = 1_000 + revision;
        let proposer = name(clusters[0]);
        let outcome = catalog.apply(
            revision,
            &Stamped {
                proposer,
                at_ms,
                command,
                actor: None,
            },
        );
        assert!(
            !matches!(outcome, tradewind_api::store::Outcome::Refused(_)),
            "{outcome:?}"
        );
    };
    let mut founder = record(clusters[0]);
    founder.nodes.insert(1);
    apply(Command::Found {
        domain: Domain::default(),
        root: Blob(vec![1]),
        cluster: founder,
    });
    for cluster in &clusters[1..] {
        apply(Command::PutToken(TokenRecord {
            id: (*cluster).to_owned(),
            secret_sha256: Blob(vec![0; 32]),
            cluster: None,
            expires_at_ms: 1_000_000,
            used: None,
        }));
        apply(Command::Join {
            token_id: (*cluster).to_owned(),
            cluster: record(cluster),
        });
    }
    catalog
}

fn view(voters: &[NodeId], nodes: &[NodeId]) -> View {
    View {
        me: 1,
        voters: vec![voters.iter().copied().collect()],
        nodes: nodes.iter().copied().collect(),
        trails: nodes.iter().map(|n| (*n, Some(3))).collect(),
        answering: nodes.iter().copied().collect(),
        away: BTreeMap::new(),
        replace_after: Duration::from_secs(60),
        leaving: BTreeSet::new(),
    }
}

#[test]
fn a_new_member_listens_then_votes() {
    let catalog = catalog(&["west", "central", "east"]);
    let change = plan(&catalog, &view(&[1], &[1]));
    assert_eq!(
        change,
        Some(Change::AddLearner(2, RaftNode::new(name("central"))))
    );
    let listening = view(&[1], &[1, 2, 3]);
    assert_eq!(plan(&catalog, &listening), Some(Change::Promote(2)));
    let mut behind = listening.clone();
    behind.trails.insert(2, Some(CAUGHT_UP + 1));
    assert_eq!(plan(&catalog, &behind), Some(Change::Promote(3)));
    behind.trails.insert(3, None);
    assert_eq!(plan(&catalog, &behind), None);
    let mut silent = listening;
    silent.answering = BTreeSet::from([1]);
    assert_eq!(
        plan(&catalog, &silent),
        None,
        "a silent node would halve the votes"
    );
    assert_eq!(plan(&catalog, &view(&[1, 2, 3], &[1, 2, 3])), None);
}

#[test]
fn a_voter_that_stays_away_is_replaced_by_one_who_is_there() {
    let catalog = catalog(&["a", "b", "c", "d"]);
    let mut all = view(&[1, 2, 3], &[1, 2, 3, 4]);
    assert_eq!(plan(&catalog, &all), None, "a fourth would only listen in");
    all.answering.remove(&3);
    all.away.insert(3, Duration::from_secs(59));
    assert_eq!(plan(&catalog, &all), None, "it may still come back");
    all.away.insert(3, Duration::from_secs(60));
    let replaced = Change::Replace {
        old: 3,
        new: 4,
        voters: BTreeSet::from([1, 2, 4]),
    };
    assert_eq!(plan(&catalog, &all), Some(replaced));
    all.answering.remove(&2);
    assert_eq!(plan(&catalog, &all), None, "no majority could agree");
    let mut nobody = view(&[1, 2, 3], &[1, 2, 3, 4]);
    nobody.answering = BTreeSet::from([1, 2]);
    nobody.away.insert(3, Duration::from_secs(600));
    nobody.away.insert(4, Duration::from_secs(600));
    assert_eq!(
        plan(&catalog, &nobody),
        None,
        "nobody is there to vote instead"
    );
}

#[test]
fn an_operators_wish_counts_as_long_as_it_is_safe() {
    let mut catalog = catalog(&["a", "b", "c", "d"]);
    let mut wish = |node, voting| {
        let command = Command::SetVoting { node, voting };
        let proposer = name("a");
        let stamped = Stamped {
            proposer,
            at_ms: 9_000,
            command,
            actor: None,
        };
        catalog.apply(100, &stamped);
        catalog.clone()
    };
    let all = view(&[1, 2, 3], &[1, 2, 3, 4]);
    let swapped = |old, new, voters: &[NodeId]| {
        Some(Change::Replace {
            old,
            new,
            voters: voters.iter().copied().collect(),
        })
    };
    let preferred = wish(4, Voting::Preferred);
    assert_eq!(plan(&preferred, &all), swapped(3, 4, &[1, 2, 4]));
    let without = wish(2, Voting::Never);
    let now = view(&[1, 2, 4], &[1, 2, 3, 4]);
    assert_eq!(plan(&without, &now), swapped(2, 3, &[1, 3, 4]));
    let mut alone = view(&[1, 2], &[1, 2, 3, 4]);
    alone.answering = BTreeSet::from([1, 2]);
    assert_eq!(plan(&without, &alone), Some(Change::Demote(2)));
    alone.answering = BTreeSet::from([1]);
    assert_eq!(plan(&without, &alone), None, "two could not agree");
    let mut leader = wish(2, Voting::Auto);
    assert_eq!(plan(&leader, &view(&[1, 2, 4], &[1, 2, 3, 4])), None);
    leader = wish(1, Voting::Never);
    let mut last = view(&[1, 2, 4], &[1, 2, 3, 4]);
    assert_eq!(plan(&leader, &last), Some(Change::StepBack));
    last.me = 2;
    assert_eq!(plan(&leader, &last), swapped(1, 3, &[2, 3, 4]));
}

#[test]
fn voters_come_in_odd_numbers() {
    let catalog = catalog(&["a", "b", "c", "d", "e"]);
    let four = view(&[1, 2, 3], &[1, 2, 3, 4]);
    let mut five = view(&[1, 2, 3], &[1, 2, 3, 4, 5]);
    assert_eq!(plan(&catalog, &five), Some(Change::Promote(4)));
    five.voters = vec![BTreeSet::from([1, 2, 3, 4])];
    assert_eq!(plan(&catalog, &five), Some(Change::Promote(5)));
    assert_eq!(
        plan(&catalog, &four),
        Some(Change::AddLearner(5, RaftNode::new(name("e"))))
    );
}

#[test]
fn at_most_five_vote() {
    let clusters = ["a", "b", "c", "d", "e", "f"];
    let catalog = catalog(&clusters);
    let five = view(&[1, 2, 3, 4, 5], &[1, 2, 3, 4, 5, 6]);
    assert_eq!(plan(&catalog, &five), None);
}

#[test]
fn who_left_goes_when_a_majority_remains() {
    let mut catalog = catalog(&["west", "central", "east"]);
    catalog.apply(
        50,
        &Stamped {
            proposer: name("east"),
            at_ms: 5_000,
            command: Command::Leave,
            actor: None,
        },
    );
    let all = view(&[1, 2, 3], &[1, 2, 3]);
    assert_eq!(plan(&catalog, &all), Some(Change::RemoveVoter(3)));
    let mut central_silent = all;
    central_silent.answering.remove(&2);
    assert_eq!(
        plan(&catalog, &central_silent),
        None,
        "one of two is no majority"
    );
    let listening = view(&[1, 2], &[1, 2, 3]);
    let change = plan(&catalog, &listening);
    assert_eq!(change, Some(Change::RemoveLearners(BTreeSet::from([3]))));
}

#[test]
fn who_is_about_to_leave_stops_voting_first() {
    let catalog = catalog(&["west", "east"]);
    let mut two = view(&[1, 2], &[1, 2]);
    two.leaving.insert(name("east"));
    assert_eq!(plan(&catalog, &two), Some(Change::Demote(2)));
    let mut listening = view(&[1], &[1, 2]);
    listening.leaving.insert(name("east"));
    assert_eq!(plan(&catalog, &listening), None, "nor does it vote again");
    listening.leaving.clear();
    assert_eq!(plan(&catalog, &listening), Some(Change::Promote(2)));
    // The leader itself, as long as somebody remains.
    two.leaving = BTreeSet::from([name("west")]);
    assert_eq!(plan(&catalog, &two), Some(Change::StepBack));
    two.me = 2;
    assert_eq!(plan(&catalog, &two), Some(Change::Demote(1)));
    let mut alone = view(&[1], &[1]);
    alone.nodes.insert(2);
    alone.leaving.insert(name("west"));
    assert_eq!(plan(&catalog, &alone), None, "nobody would be left to vote");
}

#[test]
fn a_leader_that_removed_itself_changes_nothing_more() {
    let catalog = catalog(&["west", "central", "east"]);
    let mut removed = view(&[2], &[2, 3]);
    assert_eq!(plan(&catalog, &removed), None);
    removed.nodes.insert(removed.me);
    assert!(plan(&catalog, &removed).is_some());
}

#[test]
fn a_leader_without_a_vote_takes_none_away() {
    let mut catalog = catalog(&["west", "central", "east", "north"]);
    catalog.level = STEP_BACK_LEVEL;
    let listens = |voters: &[NodeId]| view(voters, &[1, 2, 3, 4]);
    assert_eq!(plan(&catalog, &listens(&[2])), Some(Change::Promote(1)));
    assert_eq!(
        plan(&catalog, &listens(&[2, 3, 4])),
        Some(Change::StepBack),
        "it is not needed"
    );
    let mut east_leaves = listens(&[2, 3, 4]);
    east_leaves.leaving.insert(name("east"));
    assert_eq!(plan(&catalog, &east_leaves), Some(Change::StepBack));
    let mut both_leave = east_leaves;
    both_leave.leaving.insert(name("west"));
    assert_eq!(plan(&catalog, &both_leave), None, "it goes by itself");
    catalog.level = 1;
    assert_eq!(
        plan(&catalog, &listens(&[2, 3, 4])),
        None,
        "nobody would understand"
    );
}

#[test]
fn a_leader_never_takes_its_own_vote() {
    let mut catalog = catalog(&["west", "central", "east"]);
    catalog.level = STEP_BACK_LEVEL;
    let mut half = view(&[1, 2], &[1, 2, 3]);
    half.voters.push(BTreeSet::from([2]));
    assert_eq!(plan(&catalog, &half), Some(Change::StepBack));
    half.answering = BTreeSet::from([1, 3]);
    assert_eq!(plan(&catalog, &half), None, "who could agree is away");
    let mut leaves = view(&[1, 2, 3], &[1, 2, 3]);
    leaves.leaving.insert(name("west"));
    assert_eq!(plan(&catalog, &leaves), Some(Change::StepBack));
    leaves.me = 2;
    assert_eq!(plan(&catalog, &leaves), Some(Change::Demote(1)));
}

#[test]
fn the_only_voter_gives_its_place_by_way_of_two() {
    let mut catalog = catalog(&["west"]);
    catalog.level = STEP_BACK_LEVEL;
    let clusters = Arc::make_mut(&mut catalog.clusters);
    clusters.get_mut(&name("west")).unwrap().nodes.insert(2);
    Arc::make_mut(&mut catalog.voting).insert(2, Voting::Preferred);
    let mut seen = view(&[1], &[1, 2]);
    assert_eq!(plan(&catalog, &seen), Some(Change::Promote(2)));
    seen.voters = vec![BTreeSet::from([1, 2])];
    assert_eq!(plan(&catalog, &seen), Some(Change::StepBack));
    seen.me = 2;
    assert_eq!(plan(&catalog, &seen), Some(Change::Demote(1)));
    seen.voters = vec![BTreeSet::from([2])];
    assert_eq!(plan(&catalog, &seen), None);
}

#[test]
fn a_region_that_came_late_gets_its_voter() {
    let mut catalog = catalog(&["a", "b", "c", "d", "e", "f"]);
    let far = |catalog: &mut Catalog, cluster| {
        let clusters = Arc::make_mut(&mut catalog.clusters);
        clusters.get_mut(&name(cluster)).unwrap().region = "far".parse().unwrap();
    };
    let all = view(&[1, 2, 3, 4, 5], &[1, 2, 3, 4, 5, 6]);
    assert_eq!(plan(&catalog, &all), None);
    far(&mut catalog, "f");
    let spread = plan(&catalog, &all);
    let voters = BTreeSet::from([1, 2, 3, 4, 6]);
    let (old, new) = (5, 6);
    assert_eq!(spread, Some(Change::Replace { old, new, voters }));
    let mut done = view(&[1, 2, 3, 4, 6], &[1, 2, 3, 4, 5, 6]);
    assert_eq!(plan(&catalog, &done), None, "and then it is quiet");
    far(&mut catalog, "e");
    done.me = 4;
    let next = plan(&catalog, &done);
    assert!(
        matches!(next, Some(Change::Replace { old: 3, new: 5, .. })),
        "{next:?}"
    );
    done.voters = vec![BTreeSet::from([1, 2, 4, 5, 6])];
    assert_eq!(plan(&catalog, &done), None);
}

#[test]
fn a_half_done_change_is_finished_first() {
    let catalog = catalog(&["west", "central"]);
    let mut joint = view(&[1], &[1, 2]);
    joint.voters.push(BTreeSet::from([1, 2]));
    assert_eq!(
        plan(&catalog, &joint),
        Some(Change::Finish(BTreeSet::from([1, 2])))
    );
    assert_eq!(plan(&Catalog::default(), &joint), None);
}

/// The same, where a cluster has one controller more for each time that it is named.
fn with_controllers(clusters: &[&str], more: &[&str]) -> Catalog {
    let mut catalog = catalog(clusters);
    for cluster in more {
        let stamped = Stamped {
            proposer: name(cluster),
            at_ms: 2_000,
            command: Command::AddController {
                controller: tradewind_api::store::ControllerRecord {
                    address: "c:1".to_owned(),
                    level: tradewind_api::store::LEVEL,
                    authority: None,
                },
            },
            actor: None,
        };
        catalog.apply(catalog.revision + 1, &stamped);
    }
    catalog
}

#[test]
fn a_clusters_second_controller_listens_and_takes_the_vote_of_one_that_stays_away() {
    // Nodes 1 to 3, and a second one of west: 4.
    let catalog = with_controllers(&["west", "central", "east"], &["west"]);
    let mut all = view(&[1, 2, 3], &[1, 2, 3, 4]);
    all.me = 2;
    assert_eq!(plan(&catalog, &all), None, "west votes");
    all.answering.remove(&1);
    all.away.insert(1, Duration::from_secs(60));
    let replaced = Change::Replace {
        old: 1,
        new: 4,
        voters: BTreeSet::from([2, 3, 4]),
    };
    assert_eq!(plan(&catalog, &all), Some(replaced));
    // The first one is back, and listens.
    let mut back = view(&[2, 3, 4], &[1, 2, 3, 4]);
    back.me = 2;
    assert_eq!(plan(&catalog, &back), None);
}

#[test]
fn fewer_than_three_clusters_take_further_controllers_to_survive_a_loss() {
    let alone = with_controllers(&["west"], &["west"]);
    let two = view(&[1], &[1, 2]);
    assert_eq!(plan(&alone, &two), None, "two voters survive no loss");
    let alone = with_controllers(&["west"], &["west", "west"]);
    let three = |voters: &[NodeId]| view(voters, &[1, 2, 3]);
    assert_eq!(plan(&alone, &three(&[1])), Some(Change::Promote(2)));
    assert_eq!(plan(&alone, &three(&[1, 2])), Some(Change::Promote(3)));
    assert_eq!(plan(&alone, &three(&[1, 2, 3])), None);

    // Nodes 1 and 2, and a second one of each: 3 and 4.
    let pair = with_controllers(&["west", "east"], &["west", "east"]);
    let four = |voters: &[NodeId]| view(voters, &[1, 2, 3, 4]);
    assert_eq!(plan(&pair, &four(&[1])), Some(Change::Promote(2)));
    assert!(matches!(
        plan(&pair, &four(&[1, 2])),
        Some(Change::Promote(_))
    ));
    assert_eq!(plan(&pair, &four(&[1, 2, 3])), None, "not a fourth");
    // A third cluster joins: it votes, and then a second vote goes.
    let third = with_controllers(&["west", "east", "south"], &["west"]);
    let joined = view(&[1, 2, 4], &[1, 2, 3, 4]);
    let mut voters = vec![1, 2, 4];
    let mut seen = Vec::new();
    let mut now = joined;
    while let Some(change) = plan(&third, &now) {
        match &change {
            Change::Promote(node) => voters.push(*node),
            Change::Demote(node) => voters.retain(|v| v != node),
            other => panic!("{other:?}"),
        }
        seen.push(change);
        assert!(seen.len() < 5, "{seen:?}");
        now = view(&voters, &[1, 2, 3, 4]);
    }
    voters.sort_unstable();
    assert_eq!(voters, [1, 2, 3], "{seen:?}");
}
