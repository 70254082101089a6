//! From the store of one survivor, or from a snapshot file, to a federation that works.

use std::{fs, path::Path, time::Duration};

use tradewind_api::NodeId;

use super::harness::{Federation, until};
use crate::{
    catalog::tests::name,
    disaster::{self, DisasterError, Why},
    rejoin::{NewNode, RejoinError},
};

fn entries(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

fn why(used: NodeId) -> Why {
    Why {
        action: "recover",
        actor: Some("uid 0 (root)".to_owned()),
        used,
        written: 0,
        now_ms: 1_000,
    }
}

/// Makes a survivor of `node` and starts it under its new id.
async fn recover(federation: &mut Federation, node: NodeId) -> NodeId {
    let held = disaster::read_store(&federation.path(node)).await.unwrap();
    let alone = held.alone(&federation.cluster(node), &why(node)).unwrap();
    alone
        .write(&federation.path(alone.node_id()))
        .await
        .unwrap();
    federation.adopt(alone.node_id(), federation.cluster(node));
    federation.boot(alone.node_id()).await;
    alone.node_id()
}

#[tokio::test]
async fn one_survivor_of_three_keeps_what_it_held_and_takes_writes() {
    let mut federation = Federation::start(&["west", "central", "east"]).await;
    for n in 0..20 {
        federation.put(1 + n % 3, &format!("s{n}")).await;
    }
    federation.agree().await;
    let before = federation.store(3).catalog();
    for node in 1..=3 {
        federation.kill(node).await;
    }
    let there = entries(&federation.path(3));
    let held = disaster::read_store(&federation.path(3)).await.unwrap();
    assert_eq!(entries(&federation.path(3)), there, "it only reads");
    let summary = held.summary();
    assert_eq!(summary.voters, [1, 2, 3].into());
    assert!(summary.revision >= before.revision, "{summary:?}");
    assert_eq!(held.catalog().exports, before.exports);

    let new = recover(&mut federation, 3).await;
    assert!(new > 1_000, "an id nobody can have given away: {new}");
    assert_eq!(federation.leader().await, new);
    let after = federation.store(new).catalog();
    assert_eq!(
        (&after.exports, &after.tokens),
        (&before.exports, &before.tokens)
    );
    assert!(after.revision > before.revision + 1_000);
    let trusted = |c: &crate::Catalog| c.trust();
    assert_eq!(trusted(&after), trusted(&before), "members stay members");
    assert_eq!(after.cluster_of(new), Some(&name("east")));
    assert_eq!((after.cluster_of(1), after.cluster_of(3)), (None, None));
    let noted = after.audit.back().unwrap();
    assert_eq!(
        (noted.action.as_str(), noted.proposer.as_str()),
        ("recover", "east")
    );
    federation.put(new, "later").await;

    // Another comes back: a new id from the leader, an empty store, and the rest by itself.
    let asked = NewNode {
        own: name("west"),
        replaces: 1,
        actor: None,
    };
    let known = [(name("central"), [2].into()), (name("east"), [new].into())].into();
    let line = federation.line("west");
    let back = asked
        .ask(&line, &known, Duration::from_secs(10))
        .await
        .unwrap();
    assert!(back > new, "{back}");
    disaster::write_empty(&federation.path(back), back, &name("west")).unwrap();
    federation.adopt(back, name("west"));
    federation.boot(back).await;
    until("both vote", || {
        federation.store(new).settled_voters() == Some([new, back].into())
    })
    .await;
    federation.agree().await;
    federation.put(back, "together").await;

    let dead = [(name("central"), [2].into())].into();
    let nobody = asked.ask(&line, &dead, Duration::from_millis(600)).await;
    let nobody = nobody.unwrap_err();
    assert!(matches!(nobody, RejoinError::Unreachable(_)), "{nobody}");
    federation.kill(back).await;
    federation.boot(back).await;
    federation.leader().await;

    // It is a store like any other: killed, it comes back with all of it, and it can be compacted.
    let written = federation.store(new).catalog();
    federation.kill(new).await;
    federation.boot(new).await;
    federation.leader().await;
    until("what was written", || {
        federation.store(new).catalog().exports == written.exports
    })
    .await;
    federation.store(new).compact().await;
    federation.put(new, "after-compaction").await;
}

#[tokio::test]
async fn what_the_old_majority_decides_stays_with_it() {
    let mut federation = Federation::start(&["west", "central", "east"]).await;
    federation.put(1, "first").await;
    federation.agree().await;
    federation.kill(3).await;
    let new = recover(&mut federation, 3).await;
    // The other two live on: two federations, and neither touches the other.
    until("both lead", || {
        federation.store(new).status().leader == Some(new)
            && federation.store(1).status().leader.is_some_and(|l| l < 3)
    })
    .await;
    federation.put(1, "old").await;
    federation.put(new, "new").await;
    let (old, alone) = (
        federation.store(1).catalog(),
        federation.store(new).catalog(),
    );
    let exports = |c: &crate::Catalog, s: &str| {
        c.exports
            .contains_key(&format!("shop/{s}").parse().unwrap())
    };
    assert!(exports(&old, "old") && !exports(&old, "new"));
    assert!(exports(&alone, "new") && !exports(&alone, "old"));
}

#[tokio::test]
async fn a_snapshot_file_is_enough() {
    let mut federation = Federation::start(&["west", "east"]).await;
    federation.put(1, "first").await;
    federation.agree().await;
    let snapshots = federation.path(1).join("snapshots");
    // Until none is taken while the second one's vote is still on its way.
    let (file, held, before) = loop {
        federation.store(1).compact().await;
        let before = federation.store(1).catalog();
        let newest = entries(&snapshots).pop().unwrap();
        let file = snapshots.join(newest);
        let held = disaster::read_snapshot(&file).unwrap();
        assert!(held.summary().revision <= before.revision);
        if held.summary().revision == before.revision {
            break (file, held, before);
        }
    };
    federation.kill(1).await;
    federation.kill(2).await;
    assert_eq!(disaster::snapshot_facts(&file).unwrap().format, 1);
    let stranger = held.clone().alone(&name("nowhere"), &why(1)).unwrap_err();
    assert!(
        matches!(stranger, DisasterError::NotMember { .. }),
        "{stranger}"
    );
    let later = Why {
        written: 5_000_000,
        ..why(1)
    };
    let later = held.clone().alone(&name("east"), &later).unwrap();
    assert!(later.revision() > 6_000_000 - 1, "beyond what was written");
    let alone = held.alone(&name("east"), &why(7_000)).unwrap();
    assert!(alone.node_id() > 7_000, "beyond what the caller knows of");
    let dir = federation.path(alone.node_id());
    alone.write(&dir).await.unwrap();
    let again = alone.write(&dir).await.unwrap_err();
    assert!(again.to_string().contains("there already"), "{again}");
    federation.adopt(alone.node_id(), name("east"));
    federation.boot(alone.node_id()).await;
    assert_eq!(federation.leader().await, alone.node_id());
    assert_eq!(
        federation.store(alone.node_id()).catalog().exports,
        before.exports
    );
    federation.put(alone.node_id(), "second").await;

    // One bit of it changed.
    let mut bytes = fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&file, bytes).unwrap();
    let damaged = disaster::read_snapshot(&file).unwrap_err();
    assert!(
        matches!(damaged, DisasterError::File(ref e) if e.is_corrupt()),
        "{damaged}"
    );
}

#[tokio::test]
async fn what_holds_nothing_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let none = disaster::read_store(dir.path()).await.unwrap_err();
    assert!(matches!(none, DisasterError::NoStore(_)), "{none}");
    assert!(entries(dir.path()).is_empty());
    let path = dir.path().join("store");
    disaster::write_empty(&path, 9, &name("west")).unwrap();
    assert_eq!(disaster::store_of(&path).unwrap(), Some((9, name("west"))));
    let empty = disaster::read_store(&path).await.unwrap_err();
    assert!(matches!(empty, DisasterError::Empty(_)), "{empty}");
    let federation = Federation::start(&["west"]).await;
    let used = disaster::read_store(&federation.path(1)).await.unwrap_err();
    assert!(matches!(used, DisasterError::Dir(_)), "{used}");
}
