//! What a leader's end of a line sends, and what it keeps back: entries reach the line as openraft hands them over.

use std::{
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use openraft::{
    EntryPayload, Membership, RaftNetwork as _, RaftNetworkFactory as _,
    network::RPCOption,
    raft::{AppendEntriesRequest, AppendEntriesResponse},
    storage::{RaftLogStorage as _, RaftLogStorageExt as _},
    testing::{blank_ent, log_id},
};
use tokio::time::Instant;
use tradewind_api::{ClusterName, NodeId};

use crate::{
    PeerError, PeerTransport,
    catalog::tests::name,
    codec,
    contacts::Contacts,
    log_store::LogStore,
    meters::Meters,
    net::Net,
    peer::Call,
    snapshot::SnapshotDir,
    types::{Entry, RaftNode, TypeConfig, Vote},
};

type Append = AppendEntriesRequest<TypeConfig>;

/// Takes everything, and notes how many entries came each time.
#[derive(Debug, Default)]
struct Taking(Mutex<Vec<usize>>);

#[async_trait]
impl PeerTransport for Taking {
    async fn call(
        &self,
        _: NodeId,
        _: &ClusterName,
        _: Call,
        payload: Vec<u8>,
        _: Duration,
    ) -> Result<Vec<u8>, PeerError> {
        let rpc: Append = codec::decode(&payload, "entries").unwrap();
        self.0.lock().unwrap().push(rpc.entries.len());
        let taken = AppendEntriesResponse::<NodeId>::Success;
        Ok(codec::encode(&taken, "an answer").unwrap())
    }

    async fn install_snapshot(
        &self,
        _: NodeId,
        _: &ClusterName,
        _: Vec<u8>,
        _: &Path,
        _: Duration,
    ) -> Result<Vec<u8>, PeerError> {
        unreachable!("no test here sends one")
    }
}

struct Leader {
    _dir: tempfile::TempDir,
    log: LogStore,
    line: Arc<Taking>,
    net: Net,
}

impl Leader {
    async fn with(entries: Vec<Entry>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        std::fs::create_dir(&path).unwrap();
        let (mut log, _disk) = LogStore::open(&path, Meters::default()).await.unwrap();
        log.save_vote(&Vote::new_committed(1, 1)).await.unwrap();
        log.blocking_append(entries).await.unwrap();
        let (snapshots, _) = SnapshotDir::open(&dir.path().join("snapshots"), None).unwrap();
        let line = Arc::new(Taking::default());
        let net = Net {
            transport: Arc::clone(&line) as Arc<dyn PeerTransport>,
            snapshots,
            contacts: Arc::new(Contacts::new(Instant::now())),
            log: log.clone(),
        };
        Self {
            _dir: dir,
            log,
            line,
            net,
        }
    }
}

fn option() -> RPCOption {
    RPCOption::new(Duration::from_secs(5))
}

fn append(entries: Vec<Entry>, certain: u64) -> Append {
    Append {
        vote: Vote::new_committed(1, 1),
        prev_log_id: Some(log_id(1, 1, 0)),
        entries,
        leader_commit: Some(log_id(1, 1, certain)),
    }
}

#[tokio::test]
async fn a_line_of_a_term_that_is_over_sends_nothing() {
    let old = vec![blank_ent(1, 1, 0), blank_ent(1, 1, 1)];
    let mut leader = Leader::with(old.clone()).await;
    let home = RaftNode::new(name("east"));
    let mut line = leader.net.new_client(2, &home).await;
    let sent = line.append_entries(append(old[1..].to_vec(), 0), option());
    assert_eq!(sent.await.unwrap(), AppendEntriesResponse::Success);
    // A new leader's entry takes the place of this one's, while openraft was about to send.
    leader.log.truncate(log_id(1, 1, 1)).await.unwrap();
    leader
        .log
        .blocking_append(vec![blank_ent(2, 2, 1)])
        .await
        .unwrap();
    let late = append(vec![blank_ent(2, 2, 1)], 0);
    line.append_entries(late.clone(), option())
        .await
        .unwrap_err();
    assert_eq!(
        *leader.line.0.lock().unwrap(),
        [1],
        "nothing of it went out"
    );
    let mut next = leader.net.new_client(2, &home).await;
    next.append_entries(late, option()).await.unwrap();
}

#[tokio::test]
async fn nobody_is_sent_that_it_votes_no_more_before_that_is_certain() {
    let voters = |voters: &[NodeId]| {
        let voters = vec![voters.iter().copied().collect()];
        let nodes: std::collections::BTreeSet<NodeId> = [1, 2, 3].into();
        EntryPayload::Membership(Membership::new(voters, nodes))
    };
    let entries = vec![
        blank_ent(1, 1, 0),
        blank_ent(1, 1, 1),
        Entry {
            log_id: log_id(1, 1, 2),
            payload: voters(&[1, 2]),
        },
        blank_ent(1, 1, 3),
    ];
    let mut leader = Leader::with(entries.clone()).await;
    let home = RaftNode::new(name("east"));
    let mut gone = leader.net.new_client(3, &home).await;
    let mut stays = leader.net.new_client(2, &home).await;
    let tail = |from: usize, certain| Append {
        prev_log_id: Some(entries[from - 1].log_id),
        ..append(entries[from..].to_vec(), certain)
    };
    let all = stays.append_entries(tail(1, 0), option()).await.unwrap();
    assert_eq!(all, AppendEntriesResponse::Success);
    let some = gone.append_entries(tail(1, 0), option()).await.unwrap();
    let upto = |index| AppendEntriesResponse::PartialSuccess(Some(log_id(1, 1, index)));
    assert_eq!(some, upto(1));
    let none = gone.append_entries(tail(2, 1), option()).await.unwrap();
    assert_eq!(none, upto(1), "a sign of life, and no more");
    let rest = gone.append_entries(tail(2, 2), option()).await.unwrap();
    assert_eq!(rest, AppendEntriesResponse::Success);
    assert_eq!(*leader.line.0.lock().unwrap(), [3, 1, 0, 2]);
}
