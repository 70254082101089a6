//! Files and frames as earlier versions wrote them, byte by byte: read here as they were meant, and written the same way
//! where the other side may be such a version. `golden/level-1` comes from the last version that knew level 1 alone.
//!
//! A new level gets a directory of its own, written once: `TRADEWIND_WRITE_GOLDEN=1 cargo test -p tradewind-federation golden`.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use openraft::{
    CommittedLeaderId, EntryPayload,
    raft::{AppendEntriesRequest, VoteRequest},
    storage::RaftLogStorageExt,
};
use tradewind_api::{
    EndpointId, ServiceName,
    mcs::{ExportSpec, IpFamily, Protocol, SpecPort},
    model::ClusterState,
    store::{
        AuditEntry, Blob, ClusterRecord, Command, ControllerRecord, EndpointSummary, Export, LEVEL,
        Outcome, PublishedRules, Stamped, Voting,
    },
};

use super::harness::{Federation, Hub, open, token, until};
use crate::{
    Batch, ProposeError,
    catalog::tests::{endpoint, export, name, port, record},
    codec,
    election::PreVote,
    engine::frame,
    log_store::LogStore,
    meters::Meters,
    propose::{Ask, Forwarded, One, Told},
    types::{Entry, LogId, TypeConfig, Vote},
};

const WRITE: &str = "TRADEWIND_WRITE_GOLDEN";

fn golden(level: u16) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("golden/level-{level}"))
}

fn read(level: u16, file: &str) -> Vec<u8> {
    let path = golden(level).join(file);
    fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn entries_of_level_1() -> Vec<Entry> {
    (0..=12)
        .map(|index| frame::decode(index, &read(1, &format!("entry-{index:02}"))).unwrap())
        .collect()
}

fn id(term: u64, index: u64) -> LogId {
    LogId::new(CommittedLeaderId::new(term, 1), index)
}

/// What the entries up to and without the last one add up to.
fn check(catalog: &crate::Catalog) {
    let east = catalog.member(&name("east")).unwrap();
    assert_eq!((east.level, east.witness), (1, false));
    assert_eq!(east.state, ClusterState::Draining);
    assert_eq!(east.nodes, BTreeSet::from([2]));
    let service: ServiceName = "shop/payments".parse().unwrap();
    let export = catalog.export(&service, &name("west")).unwrap();
    let ids: Vec<String> = export.endpoints.keys().map(ToString::to_string).collect();
    assert_eq!(ids, ["ep-2"]);
    assert_eq!(catalog.clusterset_ips.get(&service).map(Vec::len), Some(2));
    assert_eq!(catalog.tokens["t1"].used.as_ref().unwrap().0, name("east"));
    assert!(!catalog.tokens.contains_key("t2"));
    assert_eq!(catalog.next_node_id, 3);
    assert!(catalog.audit.is_empty() && catalog.voting.is_empty());
    assert_eq!(catalog.validate(), Ok(()));
}

/// A store's directory as that version left it, with the first `count` entries.
async fn with_log(store: &Path, count: usize) -> PathBuf {
    fs::create_dir(store).unwrap();
    let (mut log, disk) = LogStore::open(store, Meters::default()).await.unwrap();
    let entries = entries_of_level_1().drain(..count).collect::<Vec<_>>();
    log.blocking_append(entries).await.unwrap();
    log.close();
    drop(log);
    tokio::task::spawn_blocking(|| disk.join().unwrap())
        .await
        .unwrap();
    for file in ["identity", "vote", "high-water", "committed"] {
        fs::write(store.join(file), read(1, file)).unwrap();
    }
    store.to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_of_level_1_opens_and_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let whole = with_log(&dir.path().join("whole"), 13).await;
    let opened = open(&Hub::default(), whole, 1, &name("west")).await;
    let opened = opened.unwrap();
    until("the log is applied", || opened.catalog().revision >= 12).await;
    assert!(opened.catalog().member(&name("east")).is_none(), "it left");
    opened.shutdown().await;
    // The marks of that version say that entry 12 was confirmed: without it the node must not vote.
    let short = with_log(&dir.path().join("short"), 12).await;
    let refused = open(&Hub::default(), short, 1, &name("west")).await;
    let text = refused.unwrap_err().to_string();
    assert!(text.contains("confirmed entries up to 12"), "{text}");
    // Its snapshot alone holds what its log held.
    let snapshots = dir.path().join("other/snapshots");
    fs::create_dir_all(&snapshots).unwrap();
    let file = "00000000000000000011-1-1.snapshot";
    fs::write(snapshots.join(file), read(1, "snapshot")).unwrap();
    let other = dir.path().join("other");
    let opened = open(&Hub::default(), other, 1, &name("west"))
        .await
        .unwrap();
    check(&opened.catalog());
    assert_eq!(opened.catalog().revision, 11);
    opened.shutdown().await;
}

#[test]
fn entries_of_level_1_apply_as_they_did() {
    let mut catalog = crate::Catalog::default();
    let entries = entries_of_level_1();
    for entry in &entries[..12] {
        if let EntryPayload::Normal(batch) = &entry.payload {
            for command in batch.commands.iter() {
                let outcome = catalog.apply(entry.log_id.index, command);
                assert!(!matches!(outcome, Outcome::Refused(_)), "{outcome:?}");
            }
        }
    }
    check(&catalog);
    assert_eq!(catalog.level, 1, "nobody said that it knows more");
    let EntryPayload::Normal(last) = &entries[12].payload else {
        panic!("{:?}", entries[12]);
    };
    for command in last.commands.iter() {
        let outcome = catalog.apply(12, command);
        assert!(matches!(outcome, Outcome::Done { changed: true, .. }));
    }
    assert!(catalog.exports.is_empty() && catalog.member(&name("east")).is_none());
}

#[test]
fn frames_between_nodes_are_written_as_level_1_reads_them() {
    let frame = |file: &str| read(1, file);
    let same = |written: Result<Vec<u8>, codec::CodecError>, file: &str| {
        let (written, golden) = (written.unwrap(), frame(file));
        assert_eq!(
            String::from_utf8_lossy(&written),
            String::from_utf8_lossy(&golden),
            "{file}"
        );
    };
    let append: AppendEntriesRequest<TypeConfig> =
        codec::decode(&frame("wire-append"), "entries").unwrap();
    assert_eq!(append.entries, entries_of_level_1()[12..]);
    same(codec::encode(&append, "entries"), "wire-append");
    let last_log_id = Some(id(2, 12));
    let vote = Vote::new(3, 2);
    same(
        codec::encode(&VoteRequest { vote, last_log_id }, "a vote"),
        "wire-vote",
    );
    let pre_vote = PreVote {
        candidate: 2,
        term: 3,
        last_log: last_log_id,
    };
    same(codec::encode(&pre_vote, "a pre-vote"), "wire-pre-vote");
    let asked = |ask| Forwarded {
        proposer: name("east"),
        deadline_ms: 5_000,
        ask,
        actor: None,
    };
    let renew = asked(Ask::Write(Box::new(Command::RenewLease)));
    same(codec::encode(&renew, "a proposal"), "wire-proposal");
    same(
        codec::encode(&asked(Ask::ReadIndex), "a read"),
        "wire-read-index",
    );
    let told = Told::Outcome(Outcome::Done {
        revision: 7,
        changed: true,
    });
    same(codec::encode(&told, "an outcome"), "wire-outcome");
}

/// One of each command that level 2 brought, and what else it writes.
fn level_2() -> Vec<Command> {
    vec![
        Command::SetVoting {
            node: 2,
            voting: Voting::Preferred,
        },
        Command::RemoveNode { node: 2 },
        Command::AddNode { replaces: Some(2) },
        Command::AddNode { replaces: None },
        Command::AttestExports {
            digest: Blob(vec![9; 32]),
            count: 3,
        },
        Command::Announce {
            gateways: vec!["west.example:15443".to_owned()],
            version: "0.1.0".to_owned(),
            level: 2,
        },
        Command::Join {
            token_id: "t".to_owned(),
            cluster: ClusterRecord {
                witness: true,
                level: 2,
                ..record("third")
            },
        },
    ]
}

#[test]
fn entries_of_level_2_are_written_as_ever() {
    let commands = level_2().into_iter().map(|command| Stamped {
        proposer: name("west"),
        at_ms: 1_800_000_000_000,
        command,
        actor: Some("uid 0 (root)".to_owned()),
    });
    let audit = AuditEntry {
        revision: 5,
        at_ms: 1_800_000_000_000,
        proposer: name("west"),
        actor: None,
        action: "drain".to_owned(),
        subject: "east".to_owned(),
    };
    let audit = serde_json::to_vec(&audit).unwrap();
    let mut written = vec![("audit-entry.json".to_owned(), audit)];
    written.extend(entries(commands));
    compare(2, written);
}

/// One of each command that level 3 brought.
fn level_3() -> Vec<Command> {
    let boxes = || [(1, Blob(vec![4; 80]))].into();
    vec![
        Command::PutNodeKey {
            node: 1,
            public: Blob(vec![7; 32]),
        },
        Command::PutSealKey {
            number: 1,
            public: Blob(vec![8; 32]),
            boxes: boxes(),
            alone: false,
        },
        Command::PutSealKey {
            number: 2,
            public: Blob(vec![9; 32]),
            boxes: boxes(),
            alone: true,
        },
    ]
}

fn asked(command: Command, actor: Option<&str>) -> Stamped {
    Stamped {
        proposer: name("west"),
        at_ms: 1_800_000_000_000,
        command,
        actor: actor.map(ToOwned::to_owned),
    }
}

/// A founded federation in which each of them changed something.
fn applied(commands: &[Stamped]) -> crate::Catalog {
    let mut catalog = crate::Catalog::default();
    let found = Command::Found {
        domain: tradewind_api::Domain::default(),
        root: Blob(vec![1]),
        cluster: ClusterRecord {
            nodes: [1].into(),
            ..record("west")
        },
    };
    catalog.apply(1, &asked(found, None));
    for command in commands {
        let outcome = catalog.apply(catalog.revision + 1, command);
        assert!(
            matches!(outcome, Outcome::Done { changed: true, .. }),
            "{outcome:?}"
        );
    }
    catalog
}

#[test]
fn entries_of_level_4_are_written_as_ever_and_apply() {
    let transfer = asked(Command::NoteTransfer { to: 1 }, Some("uid 0 (root)"));
    let catalog = applied(std::slice::from_ref(&transfer));
    let note = catalog.audit.back().unwrap();
    assert_eq!((&*note.action, &*note.subject), ("transfer-lead", "node 1"));
    compare(4, entries([transfer]));
}

/// One of each command that level 5 changed.
fn level_5() -> Vec<Command> {
    let labels = |version: &str| [("version".to_owned(), version.to_owned())].into();
    let endpoint = |version| EndpointSummary {
        labels: labels(version),
        ..endpoint(100)
    };
    let id = |id: &str| EndpointId::new(id).unwrap();
    let mut export = export("payments", 1, vec![port("http", 80)]);
    export.endpoints = [(id("ep-1"), endpoint("v1"))].into();
    let mut with_rules = export.clone();
    with_rules.rules = Some(Arc::new(PublishedRules {
        format: 1,
        json: r#"{"of_callers":{},"of_all":null}"#.to_owned(),
    }));
    vec![
        Command::PutExport(export.clone()),
        Command::PutExport(with_rules),
        Command::PatchExport {
            service: export.service,
            upsert: [(id("ep-2"), endpoint("v2"))].into(),
            remove: [id("ep-1")].into(),
        },
    ]
}

#[test]
fn entries_of_level_5_are_written_as_ever_and_apply() {
    let commands: Vec<Stamped> = level_5().into_iter().map(|c| asked(c, None)).collect();
    let catalog = applied(&commands);
    let service: ServiceName = "shop/payments".parse().unwrap();
    let export = catalog.export(&service, &name("west")).unwrap();
    let labels = export.endpoints.values().map(|e| &e.labels["version"]);
    let versions: Vec<_> = labels.collect();
    assert_eq!(versions, ["v2"]);
    assert_eq!(
        export.rules.as_ref().unwrap().format,
        1,
        "a patch leaves them"
    );
    for command in level_5() {
        assert_eq!(command.level(), 5, "an older member would lose some of it");
    }
    compare(5, entries(commands));
}

/// What level 6 brought: what imports say of a service.
fn level_6() -> Command {
    let port = |name: &str, protocol, port| SpecPort {
        name: name.to_owned(),
        protocol,
        app_protocol: Some("http".to_owned()),
        port,
    };
    let spec = ExportSpec {
        ports: vec![
            port("http", Protocol::Tcp, 80),
            port("dns", Protocol::Udp, 53),
        ],
        client_ip_affinity_s: Some(10),
        internal_traffic_policy: Some("Cluster".to_owned()),
        traffic_distribution: Some("PreferClose".to_owned()),
        ip_families: vec![IpFamily::V4, IpFamily::V6],
        labels: [("a".to_owned(), "b".to_owned())].into(),
        annotations: [("c".to_owned(), "d".to_owned())].into(),
    };
    let Some(Command::PutExport(export)) = level_5().into_iter().next() else {
        panic!("the first of level 5 is an export");
    };
    Command::PutExport(Export {
        spec: Some(Arc::new(spec)),
        ..export
    })
}

/// One of each command that level 7 brought.
fn level_7() -> Vec<Command> {
    let address = "c2.west.example:15012".to_owned();
    vec![
        Command::AddController {
            controller: ControllerRecord {
                address: address.clone(),
                level: 7,
                authority: Some(Blob(vec![5; 9])),
            },
        },
        Command::PutController {
            node: 1,
            address,
            level: 7,
        },
        Command::Speak { node: 1 },
    ]
}

#[test]
fn entries_of_level_7_are_written_as_ever_and_apply() {
    assert_eq!(LEVEL, 7, "a new level needs golden files of its own");
    let commands: Vec<Stamped> = level_7().into_iter().map(|c| asked(c, None)).collect();
    let mut catalog = applied(&[]);
    for command in &commands {
        let outcome = catalog.apply(catalog.revision + 1, command);
        assert!(!matches!(outcome, Outcome::Refused(_)), "{outcome:?}");
    }
    for command in level_7() {
        assert_eq!(command.level(), 7);
    }
    catalog.apply(
        catalog.revision + 1,
        &asked(Command::RemoveNode { node: 2 }, None),
    );
    let record = serde_json::to_vec(catalog.controllers_of(&name("west")).unwrap()).unwrap();
    let mut written = vec![("controllers.json".to_owned(), record)];
    written.extend(entries(commands));
    compare(7, written);
}

#[test]
fn entries_of_level_6_are_written_as_ever_and_apply() {
    let commands = vec![asked(level_6(), None)];
    let catalog = applied(&commands);
    let service: ServiceName = "shop/payments".parse().unwrap();
    let export = catalog.export(&service, &name("west")).unwrap();
    assert_eq!(export.spec.as_ref().unwrap().ports.len(), 2);
    assert_eq!(
        level_6().level(),
        6,
        "an older member would lose some of it"
    );
    compare(6, entries(commands));
}

#[test]
fn entries_of_level_3_are_written_as_ever_and_apply() {
    let commands: Vec<Stamped> = level_3().into_iter().map(|c| asked(c, None)).collect();
    let catalog = applied(&commands);
    let record = serde_json::to_vec(catalog.seals_of(&name("west")).unwrap()).unwrap();
    let mut written = vec![("seals.json".to_owned(), record)];
    written.extend(entries(commands));
    compare(3, written);
}

/// One log entry for each command, as the log writes it.
fn entries(commands: impl IntoIterator<Item = Stamped>) -> Vec<(String, Vec<u8>)> {
    let mut written = Vec::new();
    for (index, command) in (0..).zip(commands) {
        let entry = Entry {
            log_id: id(3, index),
            payload: EntryPayload::Normal(Batch {
                commands: Arc::new(vec![command]),
            }),
        };
        let mut bytes = Vec::new();
        frame::encode_into(&entry, &mut bytes).unwrap();
        assert_eq!(frame::decode(index, &bytes).unwrap(), entry);
        written.push((format!("entry-{index:02}"), bytes));
    }
    written
}

/// Compares what is written now with what the first version of the level wrote.
fn compare(level: u16, written: Vec<(String, Vec<u8>)>) {
    let dir = golden(level);
    for (file, bytes) in written {
        if std::env::var_os(WRITE).is_some() {
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join(&file), &bytes).unwrap();
        }
        let golden = read(level, &file);
        assert_eq!(
            String::from_utf8_lossy(&bytes),
            String::from_utf8_lossy(&golden),
            "{file}"
        );
    }
}

#[test]
fn calls_of_level_3_are_written_as_ever() {
    let one = |command, actor: Option<&str>| One {
        command: Box::new(command),
        actor: actor.map(ToOwned::to_owned),
    };
    let asked = Forwarded {
        proposer: name("east"),
        deadline_ms: 5_000,
        ask: Ask::Writes(vec![
            one(Command::RenewLease, None),
            one(Command::RevokeToken("t1".to_owned()), Some("uid 0 (root)")),
        ]),
        actor: None,
    };
    let done = Outcome::Done {
        revision: 7,
        changed: true,
    };
    let told = Told::Each(vec![
        Told::Outcome(done),
        Told::OverBudget { retry_ms: 20 },
        Told::NotLeader(Some(2)),
    ]);
    let asked = codec::encode(&asked, "proposals").unwrap();
    let told = codec::encode(&told, "answers").unwrap();
    codec::decode::<Forwarded>(&asked, "proposals").unwrap();
    codec::decode::<Told>(&told, "answers").unwrap();
    let written = [("wire-writes", asked), ("wire-each", told)];
    compare(
        3,
        written.map(|(file, bytes)| (file.to_owned(), bytes)).into(),
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_one_version_behind_works_with_one_ahead_until_it_is_upgraded() {
    let mut federation = Federation::start_at(&["west"], 1).await;
    let own = name("west");
    let newer = federation.join_at("east", 2).await;
    until("both vote", || {
        federation.store(1).status().voters.len() == 2
    })
    .await;
    for (node, service) in [(1, "a"), (newer, "b")] {
        federation.put(node, service).await;
    }
    let wish = || Command::SetVoting {
        node: newer,
        voting: Voting::Preferred,
    };
    // Whoever leads: nothing that the older one cannot read enters the log.
    for node in [1, newer] {
        let (store, own) = (federation.store(node), federation.cluster(node));
        let refused = store.propose(&own, wish()).await.unwrap_err();
        assert!(matches!(refused, ProposeError::TooNew { needs: 2, has: 1 }));
        let moved = store.transfer(None).await.unwrap_err();
        assert!(matches!(moved, ProposeError::TooNew { .. }), "{moved}");
    }
    assert!(federation.store(1).status().stopped.is_none());
    federation.agree().await;
    // The older one is upgraded: restarted at the newer level, which it announces.
    federation.kill(1).await;
    federation.boot_at(1, 2).await;
    let announce = Command::Announce {
        gateways: vec!["west.example:15443".to_owned()],
        version: "0.2.0".to_owned(),
        level: 2,
    };
    federation.store(1).propose(&own, announce).await.unwrap();
    let done = federation.store(1).propose(&own, wish()).await.unwrap();
    assert!(matches!(done, Outcome::Done { changed: true, .. }));
    // Nobody may fall behind again.
    let put = Command::PutToken(token("late"));
    federation.store(1).propose(&own, put).await.unwrap();
    let late = Command::Join {
        token_id: "late".to_owned(),
        cluster: ClusterRecord {
            level: 1,
            ..record("north")
        },
    };
    let refused = federation.store(1).propose(&own, late).await.unwrap();
    let text = match refused {
        Outcome::Refused(refusal) => refusal.to_string(),
        other => panic!("{other:?}"),
    };
    assert!(text.contains("upgrade it first"), "{text}");
}
