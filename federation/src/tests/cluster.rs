//! Several nodes: replication, loss of the leader, return, partition, forwarding, membership.

use std::{collections::BTreeSet, time::Duration};

use tokio::time::Instant;
use tradewind_api::store::{Command, Outcome, Refusal};

use super::harness::{Federation, export, token, until};
use crate::{ProposeError, catalog::tests::name};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_reach_every_node_and_can_be_read_at_once() {
    let federation = Federation::start(&["west", "central", "east"]).await;
    for (node, service) in [(1, "a"), (2, "b"), (3, "c")] {
        federation.put(node, service).await;
        let seen = federation.store(node).catalog();
        let key = format!("shop/{service}").parse().unwrap();
        assert!(
            seen.exports.contains_key(&key),
            "node {node} reads its own write"
        );
    }
    federation.agree().await;
    let fresh = federation.store(3).linearizable().await.unwrap();
    assert_eq!(fresh.exports.len(), 3);
    assert_eq!(fresh.export_counts.len(), 3);
    let status = federation.store(1).status();
    assert_eq!(status.voters, BTreeSet::from([1, 2, 3]));
    assert_eq!(status.trails.len(), 2, "{status:?}");
    assert!(status.can_write);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_leader_writes_within_two_seconds_and_the_old_one_catches_up() {
    let federation = Federation::start(&["west", "central", "east"]).await;
    federation.put(1, "before").await;
    let leader = federation.leader().await;
    federation.kill(leader).await;
    let killed = Instant::now();
    let writer = federation.living()[0];
    let outcome = federation.put(writer, "after").await;
    let gap = killed.elapsed();
    println!("first write after the leader's death: {gap:?}");
    assert!(matches!(outcome, Outcome::Done { changed: true, .. }));
    assert!(gap < Duration::from_secs(2), "{gap:?}");
    assert_ne!(federation.leader().await, leader);
    federation.boot(leader).await;
    federation.agree().await;
    let seen = federation.store(leader).catalog();
    assert!(seen.exports.contains_key(&"shop/after".parse().unwrap()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_cut_off_disturbs_nobody_when_it_returns() {
    let federation = Federation::start(&["west", "central", "east"]).await;
    let leader = federation.leader().await;
    let term = federation.store(leader).status().term;
    let away = federation
        .living()
        .into_iter()
        .find(|n| *n != leader)
        .unwrap();
    federation.hub.cut(away);
    // Long enough for it to have wanted an election several times.
    let alone = federation.store(away);
    let asked = || alone.pre_votes() >= 3;
    until("the cut-off node asks for votes", asked).await;
    assert_eq!(alone.status().term, term, "it asked, but elected nobody");
    assert!(!alone.status().can_write);
    federation.put(leader, "meanwhile").await;
    federation.hub.heal(away);
    federation.agree().await;
    let now = federation.store(leader).status();
    assert_eq!((now.term, now.leader), (term, Some(leader)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_majority_writes_end_and_reads_go_on() {
    let federation = Federation::start(&["west", "central", "east"]).await;
    federation.put(1, "kept").await;
    federation.agree().await;
    let leader = federation.leader().await;
    federation.hub.cut(leader);
    let started = Instant::now();
    let proposed = federation.store(leader);
    let written = proposed
        .propose(&federation.cluster(leader), export("lost", 80))
        .await;
    let error = written.unwrap_err();
    let open = matches!(
        error,
        ProposeError::Timeout { .. } | ProposeError::NoLeader { .. }
    );
    assert!(open, "{error}");
    assert!(started.elapsed() < Duration::from_secs(7));
    assert!(!proposed.status().can_write);
    let seen = proposed.catalog();
    assert!(seen.exports.contains_key(&"shop/kept".parse().unwrap()));
    federation.hub.heal(leader);
    federation.leader().await;
    federation.agree().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_writes_only_in_its_own_name() {
    let federation = Federation::start(&["west", "central"]).await;
    federation.put(1, "mine").await;
    let central = federation.store(2);
    let as_west = central.propose(&name("west"), export("x", 80)).await;
    assert!(matches!(as_west, Err(ProposeError::NotOwn { .. })));
    let remove = Command::RemoveExport("shop/mine".parse().unwrap());
    let refused = central.propose(&name("central"), remove).await.unwrap();
    assert!(
        matches!(refused, Outcome::Refused(Refusal::NotExported { .. })),
        "{refused:?}"
    );
    // A frame that claims another cluster than the certificate's.
    let claim = crate::codec::encode(
        &crate::propose::Forwarded {
            proposer: name("west"),
            deadline_ms: 1_000,
            ask: crate::propose::Ask::Write(Box::new(Command::Leave)),
            actor: None,
        },
        "a proposal",
    );
    let leader = federation.store(federation.leader().await);
    let answer = leader
        .handle_propose(&name("central"), claim.unwrap())
        .await;
    assert!(matches!(answer, Err(crate::HandleError::NotOwn { .. })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_good_once_even_for_two_at_the_same_time() {
    let federation = Federation::start(&["west", "central"]).await;
    let host = federation.store(2);
    let own = name("central");
    host.propose(&own, Command::PutToken(token("t")))
        .await
        .unwrap();
    let join = |joiner: &str| Command::Join {
        token_id: "t".to_owned(),
        cluster: crate::catalog::tests::record(joiner),
    };
    let (a, b) = tokio::join!(
        host.propose(&own, join("south")),
        host.propose(&own, join("north"))
    );
    let outcomes = [a.unwrap(), b.unwrap()];
    let joined = |o: &&Outcome| matches!(o, Outcome::Joined { .. });
    assert_eq!(outcomes.iter().filter(joined).count(), 1, "{outcomes:?}");
    let used = |o: &Outcome| matches!(o, Outcome::Refused(Refusal::TokenUsed(_)));
    assert!(outcomes.iter().any(used), "{outcomes:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_answer_is_asked_for_again_only_where_that_is_harmless() {
    let federation = Federation::start(&["west", "central"]).await;
    let leader = federation.leader().await;
    let follower = if leader == 1 { 2 } else { 1 };
    federation.hub.lose_next_answer();
    let outcome = federation.put(follower, "twice").await;
    assert!(
        matches!(outcome, Outcome::Done { changed: false, .. }),
        "written at first: {outcome:?}"
    );
    federation.hub.lose_next_answer();
    let (store, own) = (federation.store(follower), federation.cluster(follower));
    let put = store.propose(&own, Command::PutToken(token("once"))).await;
    let error = put.unwrap_err();
    assert!(error.is_unknown(), "{error}");
    federation.agree().await;
    assert!(
        store.catalog().tokens.contains_key("once"),
        "it had been written"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_leaves_stops_voting_and_may_come_again() {
    let mut federation = Federation::start(&["west", "central", "east"]).await;
    federation.put(3, "gone").await;
    let left = federation
        .store(3)
        .propose(&name("east"), Command::Leave)
        .await
        .unwrap();
    assert!(matches!(left, Outcome::Done { changed: true, .. }));
    let leader = federation.leader().await;
    let west = federation.store(if leader == 3 { 1 } else { leader });
    until("it votes no more", || {
        let status = west.status();
        status.voters == BTreeSet::from([1, 2]) && status.learners.is_empty()
    })
    .await;
    assert!(west.catalog().exports.is_empty());
    federation.kill(3).await;
    let again = federation.join("east").await;
    assert_eq!(again, 4, "node ids are never reused");
    let all = BTreeSet::from([1, 2, 4]);
    until("it votes again", || {
        federation.store(1).status().voters == all
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_two_leaves_and_the_other_writes_on_alone() {
    let federation = Federation::start(&["west", "central"]).await;
    let east = federation.store(2);
    // From either seat: whoever leads.
    let left = east
        .propose(&name("central"), Command::Leave)
        .await
        .unwrap();
    assert!(matches!(left, Outcome::Done { changed: true, .. }));
    // Gone at once and for good, and nobody would believe it any more.
    federation.kill(2).await;
    federation.put(1, "alone").await;
    let west = federation.store(1);
    until("the other is forgotten", || {
        let status = west.status();
        status.voters == BTreeSet::from([1]) && status.learners.is_empty()
    })
    .await;
    assert!(west.status().can_write);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_can_leave_too() {
    let federation = Federation::start(&["west", "central", "east"]).await;
    let all = BTreeSet::from([1, 2, 3]);
    let votes = |n: &u64| federation.store(*n).settled_voters().as_ref() == Some(&all);
    until("all know that all vote", || all.iter().all(votes)).await;
    // Another's turn to lead: the founder falls silent for a while.
    while federation.leader().await == 1 {
        federation.hub.cut(1);
        until("another leads", || {
            [2, 3].into_iter().any(|n| {
                let status = federation.store(n).status();
                status.leader == Some(n) && status.can_write
            })
        })
        .await;
        federation.hub.heal(1);
        federation.agree().await;
    }
    let leader = federation.leader().await;
    let own = federation.cluster(leader);
    let left = federation.store(leader).propose(&own, Command::Leave).await;
    assert!(
        matches!(left, Ok(Outcome::Done { changed: true, .. })),
        "{left:?}"
    );
    federation.kill(leader).await;
    let rest: BTreeSet<_> = all.iter().copied().filter(|n| *n != leader).collect();
    federation.put(1, "after").await;
    until("the rest votes", || {
        federation.store(1).status().voters == rest
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_far_behind_is_brought_up_by_a_snapshot() {
    let federation = Federation::start(&["west", "central", "east"]).await;
    let leader = federation.leader().await;
    let away = federation
        .living()
        .into_iter()
        .find(|n| *n != leader)
        .unwrap();
    federation.kill(away).await;
    for n in 0..20 {
        federation.put(leader, &format!("s{n}")).await;
    }
    federation.store(leader).compact().await;
    federation.boot(away).await;
    federation.agree().await;
    let seen = federation.store(away).catalog();
    assert_eq!(seen.exports.len(), 20);
    // And it survives a restart from that snapshot.
    federation.kill(away).await;
    federation.boot(away).await;
    federation.agree().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn how_many_writes_a_second() {
    for nodes in [&["a"][..], &["a", "b", "c"][..]] {
        let federation = Federation::start(nodes).await;
        let leader = federation.leader().await;
        for clients in [1_u64, 16, 256] {
            let started = Instant::now();
            let tasks: Vec<_> = (0..clients)
                .map(|client| {
                    let store = federation.store(leader);
                    let cluster = federation.cluster(leader);
                    tradewind_runtime::task::spawn("client", async move {
                        let mut written = 0_u64;
                        while started.elapsed() < Duration::from_secs(3) {
                            let port = u16::try_from(written % 60_000 + 1).unwrap();
                            let command = export(&format!("s{client}"), port);
                            store.propose(&cluster, command).await.unwrap();
                            written += 1;
                        }
                        written
                    })
                })
                .collect();
            let mut total = 0;
            for task in tasks {
                total += task.await.unwrap();
            }
            let seconds = started.elapsed().as_secs_f64();
            println!(
                "{} nodes, {clients} clients: {} writes/s",
                nodes.len(),
                total as f64 / seconds
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_is_handed_over_by_name_and_nothing_is_lost() {
    let federation = Federation::start(&["west", "central", "east"]).await;
    let leader = federation.leader().await;
    let heir = federation
        .living()
        .into_iter()
        .rfind(|n| *n != leader)
        .unwrap();
    let writing = federation.store(heir);
    let own = federation.cluster(heir);
    // Asked of a follower that is neither: it is the leader's to do.
    let asked = federation.store(heir);
    let (led, written) = tokio::join!(
        asked.transfer(Some(heir)),
        writing.propose(&own, export("meanwhile", 80))
    );
    assert_eq!(led.unwrap(), heir);
    assert!(matches!(
        written.unwrap(),
        Outcome::Done { changed: true, .. }
    ));
    assert_eq!(federation.leader().await, heir);
    federation.agree().await;
    let nobody = asked.transfer(Some(99)).await.unwrap_err().to_string();
    assert!(nobody.contains("does not vote"), "{nobody}");
    // And to whoever comes next.
    let next = asked.transfer(None).await.unwrap();
    assert_ne!(next, heir);
    federation.put(heir, "after").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_voter_that_stays_away_is_replaced_and_comes_back_to_listen() {
    let names = ["a", "b", "c", "d"];
    let federation = Federation::start_with(&names, |timing| {
        timing.replace_after = Duration::from_secs(3);
    })
    .await;
    let leader = federation.leader().await;
    // Half way from two voters to three, both of the two are needed still.
    let settled = || federation.store(leader).settled_voters();
    until("three vote", || settled().is_some_and(|v| v.len() > 2)).await;
    let voters = settled().unwrap();
    assert_eq!(voters.len(), 3, "a fourth protects nothing more");
    let away = *voters.iter().find(|n| **n != leader).unwrap();
    let spare = (1..=4).find(|n| !voters.contains(n)).unwrap();
    federation.kill(away).await;
    let mut after = voters;
    after.remove(&away);
    after.insert(spare);
    let settled = || federation.store(leader).settled_voters() == Some(after.clone());
    until("the spare votes", settled).await;
    federation.boot(away).await;
    federation.agree().await;
    let status = federation.store(leader).status();
    assert!(status.learners.contains(&away), "{status:?}");
    assert_eq!(status.voters, after);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operators_wish_moves_a_vote() {
    use tradewind_api::store::Voting;
    let federation = Federation::start(&["a", "b", "c", "d"]).await;
    let leader = federation.leader().await;
    let voters = federation.store(leader).status().voters;
    let spare = (1..=4).find(|n| !voters.contains(n)).unwrap();
    let own = federation.cluster(leader);
    let wish = |node, voting| {
        let (store, own) = (federation.store(leader), own.clone());
        let actor = Some("uid 7 (op)".to_owned());
        async move {
            store
                .propose_as(&own, actor, Command::SetVoting { node, voting })
                .await
        }
    };
    wish(spare, Voting::Preferred).await.unwrap();
    let votes = |n: u64| {
        let settled = federation.store(leader).settled_voters();
        settled.is_some_and(|v| v.len() == 3 && v.contains(&n))
    };
    until("the preferred votes", || votes(spare)).await;
    wish(spare, Voting::Never).await.unwrap();
    until("it votes no more", || {
        let settled = federation.store(leader).settled_voters();
        settled.is_some_and(|v| v.len() == 3 && !v.contains(&spare))
    })
    .await;
    let audit = federation.store(leader).catalog().audit.clone();
    let last = audit.back().unwrap();
    assert_eq!(
        (&*last.action, last.actor.as_deref()),
        ("demote", Some("uid 7 (op)"))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_from_one_cluster_is_refused_and_the_others_write_on() {
    let budget = crate::Budget {
        commands_per_s: 5.0,
        command_burst: 20.0,
        ..crate::Budget::default()
    };
    let federation = Federation::start_budgeted(&["west", "central", "east"], budget).await;
    let (flooding, own) = (federation.store(2), federation.cluster(2));
    let mut refused = 0;
    for n in 0..60_u16 {
        match flooding.propose(&own, export("flap", n + 1)).await {
            Ok(_) => {}
            Err(ProposeError::OverBudget { retry_after }) => {
                assert!(retry_after <= Duration::from_millis(250), "{retry_after:?}");
                refused += 1;
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert!(refused > 20, "{refused}");
    let quiet = federation.put(3, "quiet").await;
    assert!(matches!(quiet, Outcome::Done { changed: true, .. }));
    let alive = flooding.propose(&own, Command::RenewLease).await;
    assert!(alive.is_ok(), "a sign of life is always taken");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watchers_see_every_change_once_and_resume_on_any_node() {
    let federation = Federation::start(&["west", "central", "east"]).await;
    let from = federation.store(1).catalog().revision;
    federation.agree().await;
    let mut watches: Vec<_> = (1..=3)
        .map(|n| federation.store(n).watch_from(from).unwrap())
        .collect();
    for n in 0..20 {
        federation.put(1 + n % 3, &format!("s{n}")).await;
    }
    federation.agree().await;
    let mut told = Vec::new();
    for watch in &mut watches {
        let mut seen = Vec::new();
        while seen.len() < 20 {
            let step = watch.next().await.unwrap().unwrap();
            seen.extend(step.events.iter().map(|e| (step.revision, e.clone())));
        }
        told.push(seen);
    }
    assert_eq!(told[0], told[1]);
    assert_eq!(told[0], told[2]);
    // A watcher that saw half resumes elsewhere with the other half.
    let half = told[0][9].0;
    let mut resumed = federation.store(2).watch_from(half).unwrap();
    let next = resumed.next().await.unwrap().unwrap();
    assert_eq!(next.revision, told[0][10].0);
    // One that was restarted from its snapshot no longer knows what was before.
    federation.store(2).compact().await;
    federation.kill(2).await;
    federation.boot(2).await;
    let gone = federation.store(2).watch_from(from).unwrap_err();
    assert!(gone.oldest > from, "{gone}");
}
