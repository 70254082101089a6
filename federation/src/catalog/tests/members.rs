//! What members are beside what they export: their level, their nodes, witnesses, what they attest, what was noted.

use super::*;

#[test]
fn the_level_rises_with_the_slowest_member_and_never_falls() {
    let old = |s: &str| ClusterRecord {
        level: 1,
        ..record(s)
    };
    let mut log = Log {
        catalog: Catalog::default(),
        at_ms: 1_000,
    };
    let mut founder = old("west");
    founder.nodes.insert(1);
    log.done(
        "west",
        Command::Found {
            domain: Domain::default(),
            root: Blob(vec![1]),
            cluster: founder,
        },
    );
    assert_eq!(log.catalog.level, 1);
    let wish = || Command::SetVoting {
        node: 1,
        voting: Voting::Never,
    };
    let early = log.refused("west", wish());
    assert_eq!(early, Refusal::NotYet { needs: 2, has: 1 });
    // A newer member does not raise it while an older one is there.
    log.done("west", Command::PutToken(token("a", u64::MAX, None)));
    assert!(matches!(
        log.put("west", join("a", "east")),
        Outcome::Joined { .. }
    ));
    assert_eq!(log.catalog.level, 1);
    assert!(
        log.catalog.audit.is_empty(),
        "not every member would keep it"
    );
    let upgraded = Command::Announce {
        gateways: vec!["g:1".to_owned()],
        version: "2".to_owned(),
        level: 2,
    };
    log.done("west", upgraded.clone());
    assert_eq!(log.catalog.level, 2);
    assert!(log.done("west", wish()));
    // From here on nobody may know less.
    log.done("west", Command::PutToken(token("b", u64::MAX, None)));
    let late = Command::Join {
        token_id: "b".to_owned(),
        cluster: old("north"),
    };
    let refused = log.refused("west", late);
    assert!(matches!(
        refused,
        Refusal::TooOld {
            has: 1,
            needs: 2,
            ..
        }
    ));
    let Command::Announce {
        gateways, version, ..
    } = upgraded
    else {
        panic!();
    };
    let downgraded = Command::Announce {
        gateways,
        version,
        level: 1,
    };
    assert!(matches!(
        log.refused("west", downgraded),
        Refusal::TooOld { .. }
    ));
}

#[test]
fn nodes_go_and_come_under_new_ids() {
    let mut log = Log::with(&["east"]);
    let wish = |node, voting| Command::SetVoting { node, voting };
    assert_eq!(
        log.refused("west", wish(9, Voting::Never)),
        Refusal::UnknownNode(9)
    );
    assert!(log.done("west", wish(2, Voting::Never)));
    assert!(!log.done("east", wish(2, Voting::Never)));
    let add = |replaces| Command::AddNode { replaces };
    assert_eq!(log.refused("west", add(Some(2))), Refusal::UnknownNode(2));
    let added = log.put("east", add(Some(2)));
    assert!(matches!(added, Outcome::Joined { node_id: 3, .. }));
    assert_eq!(log.catalog.voting_of(2), Voting::Auto, "it is gone");
    assert_eq!(log.catalog.cluster_of(3), Some(&name("east")));
    assert_eq!(log.catalog.cluster_of(2), None);
    // An answer was lost: the same again gives another id, and the one before goes.
    let again = log.put("east", add(Some(3)));
    assert!(matches!(again, Outcome::Joined { node_id: 4, .. }));
    assert!(log.done("west", Command::RemoveNode { node: 4 }));
    assert!(
        log.catalog.member(&name("east")).is_some(),
        "still a member"
    );
    let last = log.refused("west", Command::RemoveNode { node: 1 });
    assert!(matches!(last, Refusal::Invalid { .. }));
    for node_id in 5..9 {
        let more = log.put("east", add(None));
        assert!(matches!(more, Outcome::Joined { node_id: id, .. } if id == node_id));
    }
    assert!(matches!(
        log.refused("east", add(None)),
        Refusal::TooMuch { limit: 4, .. }
    ));
}

#[test]
fn a_witness_votes_and_exports_nothing() {
    let mut log = Log::with(&[]);
    log.done("west", Command::PutToken(token("w", u64::MAX, None)));
    let command = Command::Join {
        token_id: "w".to_owned(),
        cluster: ClusterRecord {
            witness: true,
            ..record("third")
        },
    };
    assert!(matches!(log.put("west", command), Outcome::Joined { .. }));
    let put = Command::PutExport(export("a", 1, vec![port("", 80)]));
    assert_eq!(log.refused("third", put), Refusal::IsWitness(name("third")));
    let drain = Command::SetDraining {
        cluster: name("west"),
        draining: true,
    };
    let last = log.refused("west", drain);
    assert_eq!(
        last,
        Refusal::LastActive(name("west")),
        "nobody else serves"
    );
}

#[test]
fn an_attested_digest_is_that_of_the_exports() {
    let mut log = Log::with(&["east"]);
    for s in ["b", "a"] {
        log.done("west", Command::PutExport(export(s, 1, vec![port("", 80)])));
    }
    log.done(
        "east",
        Command::PutExport(export("a", 2, vec![port("", 80)])),
    );
    let own = [
        export("a", 1, vec![port("", 80)]),
        export("b", 1, vec![port("", 80)]),
    ];
    let (digest, count) = crate::catalog::digest_exports(&own);
    let attest = |digest: &Blob, count| Command::AttestExports {
        digest: digest.clone(),
        count,
    };
    assert!(!log.done("west", attest(&digest, count)));
    let mismatch = log.refused("east", attest(&digest, count));
    let expected = Refusal::DigestMismatch {
        cluster: name("east"),
        found: 1,
        attested: 2,
    };
    assert_eq!(mismatch, expected);
    let (other, _) = crate::catalog::digest_exports(&own[..1]);
    assert_ne!(other, digest);
}

#[test]
fn the_log_of_changes_says_who_did_what_and_a_busy_cluster_pushes_out_only_its_own() {
    let mut log = Log::with(&["east"]);
    let stamped = Stamped {
        proposer: name("west"),
        at_ms: 7_000,
        command: Command::SetDraining {
            cluster: name("east"),
            draining: true,
        },
        actor: Some("uid 0 (root)".to_owned()),
    };
    log.catalog.apply(50, &stamped);
    let last = log.catalog.audit.back().unwrap();
    assert_eq!(
        (
            &*last.action,
            &*last.subject,
            last.actor.as_deref(),
            last.revision
        ),
        ("drain", "east", Some("uid 0 (root)"), 50)
    );
    let actions: Vec<&str> = log.catalog.audit.iter().map(|e| &*e.action).collect();
    assert_eq!(actions, ["found", "create-token", "join", "drain"]);
    log.at_ms = 8_000;
    for _ in 0..MAX_AUDIT {
        log.done(
            "east",
            Command::PutExport(export("a", 1, vec![port("", 80)])),
        );
        log.done("east", Command::RenewLease);
        log.done("east", Command::RemoveExport(service("a")));
    }
    let audit = &log.catalog.audit;
    assert_eq!(audit.len(), MAX_AUDIT);
    assert_eq!(audit[0].action, "found", "what west did is still there");
    assert!(audit.iter().all(|e| e.action != "renew-lease"));
    let refused = Stamped {
        actor: Some("x".repeat(MAX_TEXT + 1)),
        ..stamped
    };
    assert!(matches!(
        log.catalog.apply(9_000, &refused),
        Outcome::Refused(Refusal::TooMuch { .. })
    ));
}
