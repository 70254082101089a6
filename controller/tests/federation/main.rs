//! Controllers in one process, from `init` over `join` to an export that the others see. Each controller's own listener
//! stands in for its gateway: the server name does not matter to it.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::too_many_lines,
    reason = "the helpers of a test fail the test, and a test tells one story from its beginning to its end"
)]

mod world;

use std::{net::TcpListener, path::Path};

use tonic::{
    Code,
    transport::{Channel, Endpoint},
};
use tradewind_api::{
    SpiffeId,
    proto::v1::{
        ClusterStatus, DrainRequest, Empty, ExportRequest, IntroduceRequest, JoinRequest,
        ListRequest, RaftMessage, RevokeTokenRequest, SnapshotChunk, admin_client::AdminClient,
        federation_client::FederationClient, raft_client::RaftClient,
    },
    snapshot::Trust,
};
use tradewind_ca::{AuthorityKey, JoinToken};
use tradewind_controller::{
    Controller, ControllerConfig, DataDir, DataDirError, InitError, JoinLayer, JoinOptions,
};
use tradewind_runtime::{Rng, clock, task};
use tradewind_transport::{
    keys::WorkloadKey,
    svid::{Svid, SvidCell},
    tls::{Expect, client_config, pinned_client_config},
    trust::TrustCell,
};

use world::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clusters_join_and_see_each_others_exports() {
    let tmp = tempfile::tempdir().unwrap();
    let (at_west, at_east, at_south) = (free_address(), free_address(), free_address());
    let token = found(&tmp, "west", &at_west).await.unwrap();
    let west = Node::start(&tmp, "west", &at_west).await;
    manifest(&tmp, "west", "payments.yaml", PAYMENTS);

    // A dry run passes every check and changes nothing.
    let mut trial = joining(&tmp, "east", &at_west, &token, &at_east);
    trial.dry_run = true;
    let (joined, passed) = enter(trial).await;
    assert_eq!(joined.unwrap().node_id, None);
    assert_eq!(passed.last(), Some(&JoinLayer::WayBack));
    assert!(!tmp.path().join("east").exists());
    assert_eq!(west.clusters().await.clusters.len(), 1);

    let (joined, passed) = enter(joining(&tmp, "east", &at_west, &token, &at_east)).await;
    let joined = joined.unwrap();
    assert_eq!(
        (joined.node_id, joined.members),
        (Some(2), vec![name("west")])
    );
    assert_eq!(passed.last(), Some(&JoinLayer::Write));
    let east = Node::start(&tmp, "east", &at_east).await;
    until(|| async {
        let status = east.status().await;
        let voters = status.peers.iter().filter(|p| p.voter).count();
        (voters == 2 && status.clusters.len() == 2)
            .then_some(())
            .ok_or_else(|| format!("{status:?}"))
    })
    .await;

    until(|| async {
        west.export("shop/payments")
            .await
            .map(drop)
            .map_err(|e| e.to_string())
    })
    .await;
    assert!(
        !west.export("shop/payments").await.unwrap(),
        "exported already"
    );
    until(|| async {
        let (exporters, addresses) = east.exporters("shop/payments").await;
        (exporters == ["west"] && addresses == [""])
            .then_some(())
            .ok_or_else(|| format!("{exporters:?} {addresses:?}"))
    })
    .await;

    // A token made in east leads through east, whose controller hands the join on to the founder's.
    let (_, token) = east.token("south", 0).await;
    let (joined, _) = enter(joining(&tmp, "south", &at_east, &token, &at_south)).await;
    assert_eq!(joined.unwrap().node_id, Some(3));
    let south = Node::start(&tmp, "south", &at_south).await;
    until(|| async {
        let (exporters, _) = south.exporters("shop/payments").await;
        (exporters == ["west"])
            .then_some(())
            .ok_or_else(|| format!("{exporters:?}"))
    })
    .await;

    // By file, from the other side.
    manifest(
        &tmp,
        "south",
        "payments.yaml",
        &format!(
            "{PAYMENTS}---\napiVersion: multicluster.x-k8s.io/v1beta1\nkind: ServiceExport\nmetadata: {{name: payments, namespace: shop}}\n"
        ),
    );
    until(|| async {
        let (exporters, addresses) = west.exporters("shop/payments").await;
        let local = addresses.iter().filter(|a| !a.is_empty()).count();
        (exporters == ["south", "west"] && addresses.len() == 2 && local == 1)
            .then_some(())
            .ok_or_else(|| format!("{exporters:?} {addresses:?}"))
    })
    .await;

    // South leaves: its process ends, its directory is history, its export is gone.
    south.admin().await.leave(Empty {}).await.unwrap();
    tokio::time::timeout(PATIENCE, south.running)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    assert!(matches!(
        DataDir::open(&south.dir),
        Err(DataDirError::Left { .. })
    ));
    until(|| async {
        let (exporters, _) = east.exporters("shop/payments").await;
        (exporters == ["west"])
            .then_some(())
            .ok_or_else(|| format!("{exporters:?}"))
    })
    .await;

    // Both restart and know everything at once; east without anybody else.
    west.stop().await;
    east.stop().await;
    let east = Node::start(&tmp, "east", &at_east).await;
    assert_eq!(east.exporters("shop/payments").await.0, ["west"]);
    until(|| async {
        let problems = east.status().await.problems;
        let seen = problems.iter().any(|p| p.contains("takes no writes"));
        seen.then_some(()).ok_or_else(|| format!("{problems:?}"))
    })
    .await;
    assert_eq!(east.exporters("shop/payments").await.0, ["west"]);
    let west = Node::start(&tmp, "west", &at_west).await;
    let unexport = || async {
        let request = ExportRequest {
            service: "shop/payments".into(),
        };
        west.admin()
            .await
            .unexport(request)
            .await
            .map(drop)
            .map_err(|e| e.to_string())
    };
    until(unexport).await;
    until(|| async {
        let (exporters, _) = east.exporters("shop/payments").await;
        exporters
            .is_empty()
            .then_some(())
            .ok_or_else(|| format!("{exporters:?}"))
    })
    .await;
    east.stop().await;
    west.stop().await;
}

/// Three controllers; the one that leads the store goes. The other two elect, write, and the third catches up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn losing_the_leader_stops_nothing_for_long() {
    let tmp = tempfile::tempdir().unwrap();
    let names = ["west", "central", "east"];
    let at: Vec<String> = names.iter().map(|_| free_address()).collect();
    let mut token = found(&tmp, "west", &at[0]).await.unwrap();
    let mut nodes = vec![Some(Node::start(&tmp, "west", &at[0]).await)];
    for (cluster, gateway) in names.iter().zip(&at).skip(1) {
        enter(joining(&tmp, cluster, &at[0], &token, gateway))
            .await
            .0
            .unwrap();
        nodes.push(Some(Node::start(&tmp, cluster, gateway).await));
        token = nodes[0].as_ref().unwrap().token("", 0).await.1;
    }
    for (cluster, node) in names.iter().zip(&nodes) {
        manifest(&tmp, cluster, "payments.yaml", PAYMENTS);
        until(|| async {
            let status = node.as_ref().unwrap().status().await;
            let voters = status.peers.iter().filter(|p| p.voter).count();
            (voters == 3 && status.services == 1)
                .then_some(())
                .ok_or_else(|| format!("{status:?}"))
        })
        .await;
    }
    let status = nodes[0].as_ref().unwrap().status().await;
    let leader = status
        .peers
        .iter()
        .find(|p| p.leader)
        .unwrap()
        .cluster
        .clone();
    let lost = names.iter().position(|n| *n == leader).unwrap();
    nodes[lost].take().unwrap().stop().await;

    let left: Vec<usize> = (0..3).filter(|i| *i != lost).collect();
    let (writer, reader) = (
        nodes[left[0]].as_ref().unwrap(),
        nodes[left[1]].as_ref().unwrap(),
    );
    until(|| async {
        writer
            .export("shop/payments")
            .await
            .map(drop)
            .map_err(|e| e.to_string())
    })
    .await;
    until(|| async {
        let (exporters, _) = reader.exporters("shop/payments").await;
        (exporters == [names[left[0]]])
            .then_some(())
            .ok_or_else(|| format!("{exporters:?}"))
    })
    .await;
    let back = Node::start(&tmp, names[lost], &at[lost]).await;
    until(|| async {
        let (exporters, _) = back.exporters("shop/payments").await;
        (exporters == [names[left[0]]])
            .then_some(())
            .ok_or_else(|| format!("{exporters:?}"))
    })
    .await;
    back.stop().await;
    for node in nodes.into_iter().flatten() {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_dies_shows_in_its_facts_and_not_in_our_readiness() {
    let tmp = tempfile::tempdir().unwrap();
    let (at_west, at_east) = (free_address(), free_address());
    let token = found(&tmp, "west", &at_west).await.unwrap();
    let west = Node::start(&tmp, "west", &at_west).await;
    let joining = joining(&tmp, "east", &at_west, &token, &at_east);
    enter(joining).await.0.unwrap();
    let facts = |of: &'static str| {
        let west = &west;
        async move {
            let clusters = west.clusters().await.clusters;
            let named = |c: &&ClusterStatus| c.cluster.as_ref().is_some_and(|c| c.name == of);
            clusters.iter().find(named).and_then(|c| c.facts.clone())
        }
    };
    // A member that was never there: nothing is claimed but that it does not answer.
    until(|| async {
        let seen = facts("east").await;
        let told = seen.as_ref().is_some_and(|f| {
            f.reachable == Some(false) && !f.stream_up && f.error_layer == "connect"
        });
        told.then_some(()).ok_or_else(|| format!("{seen:?}"))
    })
    .await;
    assert_eq!(facts("west").await, None, "one's own cluster is no other");

    let east = Node::start(&tmp, "east", &at_east).await;
    until(|| async {
        let seen = facts("east").await;
        let well = seen.as_ref().is_some_and(|f| {
            f.reachable == Some(true) && f.stream_up && !f.data_stale && f.gateway == at_east
        });
        well.then_some(()).ok_or_else(|| format!("{seen:?}"))
    })
    .await;
    east.stop().await;
    until(|| async {
        let seen = facts("east").await;
        let told = seen.as_ref().is_some_and(|f| {
            f.reachable == Some(false) && !f.stream_up && f.round_trip_us.is_some()
        });
        told.then_some(()).ok_or_else(|| format!("{seen:?}"))
    })
    .await;
    assert!(west.readiness.is_ready(), "{:?}", west.readiness.pending());
    let problems = west.status().await.problems;
    let told = |p: &String| p.starts_with("cluster east is unreachable for ");
    assert!(problems.iter().any(told), "{problems:?}");
    west.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn joins_that_cannot_be_say_why_and_change_nothing() {
    let tmp = tempfile::tempdir().unwrap();
    let (at_west, at_east) = (free_address(), free_address());
    let token = found(&tmp, "west", &at_west).await.unwrap();
    let west = Node::start(&tmp, "west", &at_west).await;
    let east = |token: &str| joining(&tmp, "east", &at_west, token, &at_east);

    let occupied = JoinOptions {
        data_dir: tmp.path().join("west"),
        ..east(&token)
    };
    fails(occupied, JoinLayer::Local, "already holds the cluster west").await;
    fails(
        JoinOptions {
            gateway_addresses: vec![],
            ..east(&token)
        },
        JoinLayer::Local,
        "no gateway address",
    )
    .await;
    let held = TcpListener::bind(&at_east).unwrap();
    fails(east(&token), JoinLayer::Local, &at_east).await;
    drop(held);
    fails(east("tw1.nonsense"), JoinLayer::Token, "damaged").await;
    fails(east(token.get(..80).unwrap()), JoinLayer::Token, "damaged").await;
    let unresolved = JoinOptions {
        address: "no.such.host.invalid:1".into(),
        ..east(&token)
    };
    fails(unresolved, JoinLayer::Resolve, "no.such.host.invalid").await;
    fails(
        JoinOptions {
            address: free_address(),
            ..east(&token)
        },
        JoinLayer::Connect,
        "refused",
    )
    .await;
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let dead_end = JoinOptions {
        address: silent.local_addr().unwrap().to_string(),
        ..east(&token)
    };
    fails(dead_end, JoinLayer::Tls, "no trusted controller of west").await;
    // The same names below another root.
    let other = tempfile::tempdir().unwrap();
    let foreign = found(&other, "west", &at_west).await.unwrap();
    fails(
        east(&foreign),
        JoinLayer::Tls,
        "no trusted controller of west",
    )
    .await;

    fails(
        JoinOptions {
            cluster: name("west"),
            ..east(&token)
        },
        JoinLayer::Admission,
        "taken",
    )
    .await;
    let (_, bound) = west.token("north", 0).await;
    fails(east(&bound), JoinLayer::Admission, "cluster north only").await;
    let (id, revoked) = west.token("", 0).await;
    west.admin()
        .await
        .revoke_token(RevokeTokenRequest { id })
        .await
        .unwrap();
    fails(east(&revoked), JoinLayer::Admission, "no such token").await;
    let (id, brief) = west.token("", 1).await;
    until(|| async {
        let tokens = west
            .admin()
            .await
            .list_tokens(ListRequest::default())
            .await
            .unwrap()
            .into_inner()
            .tokens;
        let state = tokens.iter().find(|t| t.id == id).unwrap().state.clone();
        (state == "expired").then_some(()).ok_or(state)
    })
    .await;
    fails(east(&brief), JoinLayer::Admission, "expired").await;

    // Advertised is one address, bound another: the way back ends in nothing, or at somebody else's.
    let elsewhere = vec![free_address()];
    fails(
        JoinOptions {
            bind_addresses: elsewhere.clone(),
            ..east(&token)
        },
        JoinLayer::WayBack,
        "connect",
    )
    .await;
    let (stranger, at_stranger) = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .map(|l| {
            let address = l.local_addr().unwrap().to_string();
            (l, address)
        })
        .unwrap();
    let answering = task::spawn("stranger", async move {
        while let Ok((stream, _)) = stranger.accept().await {
            drop(stream);
        }
    });
    let wrong = JoinOptions {
        gateway_addresses: vec![at_stranger],
        bind_addresses: elsewhere,
        ..east(&token)
    };
    fails(wrong, JoinLayer::WayBack, "somebody else answers").await;
    answering.abort();
    assert_eq!(
        west.clusters().await.clusters.len(),
        1,
        "nobody joined so far"
    );

    // After all these failures the token is still good, once.
    enter(east(&token)).await.0.unwrap();
    fails(
        joining(&tmp, "south", &at_west, &token, &free_address()),
        JoinLayer::Admission,
        "used already, by cluster east",
    )
    .await;
    let again = found(&tmp, "west", &at_west).await.unwrap_err();
    assert!(
        matches!(&again, InitError::DataDir(DataDirError::Occupied { .. })),
        "{again}"
    );
    west.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_operator_asks_wrongly_is_answered_in_sentences() {
    let tmp = tempfile::tempdir().unwrap();
    let at_west = free_address();
    found(&tmp, "west", &at_west).await.unwrap();
    let west = Node::start(&tmp, "west", &at_west).await;
    manifest(&tmp, "west", "payments.yaml", PAYMENTS);
    manifest(&tmp, "west", "broken.yaml", "a: [");
    until(|| async {
        let problems = west.status().await.problems;
        let seen = problems
            .iter()
            .any(|p| p.starts_with("broken.yaml:") && p.contains("broken YAML"));
        seen.then_some(()).ok_or_else(|| format!("{problems:?}"))
    })
    .await;
    let mut admin = west.admin().await;
    let sentence = |status: tonic::Status| {
        let (sentence, hint) = status
            .message()
            .split_once("\nhint: ")
            .expect("a hint in the second line");
        (sentence.to_owned(), hint.to_owned())
    };
    let (what, hint) = sentence(west.export("shop/paymnets").await.unwrap_err());
    assert_eq!(what, "there is no service shop/paymnets in cluster west");
    assert_eq!(hint, "did you mean shop/payments?");
    let (what, _) = sentence(west.export("payments").await.unwrap_err());
    assert!(
        what.contains("\"payments\"") && what.contains("namespace/name"),
        "{what}"
    );
    let request = ExportRequest {
        service: "shop/payments".into(),
    };
    let (what, _) = sentence(admin.unexport(request).await.unwrap_err());
    assert_eq!(what, "cluster west does not export shop/payments");
    let drain = |cluster: &str| DrainRequest {
        cluster: cluster.into(),
        undo: false,
    };
    let (what, _) = sentence(admin.drain(drain("atlantis")).await.unwrap_err());
    assert!(what.contains("atlantis"), "{what}");
    let (what, _) = sentence(admin.drain(drain("west")).await.unwrap_err());
    assert!(what.contains("last cluster that serves"), "{what}");
    let (what, _) = sentence(
        admin
            .revoke_token(RevokeTokenRequest { id: "x".into() })
            .await
            .unwrap_err(),
    );
    assert_eq!(what, "there is no token x");

    // A second controller on the same directory.
    let config = ControllerConfig {
        admin_listen: "127.0.0.1:0".parse().unwrap(),
        ..ControllerConfig::new(west.dir.clone())
    };
    let second = Controller::build(config, clock::system(), Rng::from_entropy(), None)
        .await
        .unwrap_err();
    assert!(
        second.to_string().contains("in use by another process"),
        "{second}"
    );
    let dir = west.stop().await;
    // A port in use.
    let held = TcpListener::bind("127.0.0.1:0").unwrap();
    let config = ControllerConfig {
        listen: held.local_addr().unwrap(),
        admin_listen: "127.0.0.1:0".parse().unwrap(),
        ..ControllerConfig::new(dir.clone())
    };
    let in_use = Controller::build(config, clock::system(), Rng::from_entropy(), None)
        .await
        .unwrap_err();
    assert!(
        in_use
            .to_string()
            .contains(&held.local_addr().unwrap().to_string()),
        "{in_use}"
    );
    corrupt(&dir).await;
}

/// A controller on a damaged directory names what is damaged and changes nothing.
async fn corrupt(dir: &Path) {
    for file in ["node.json", "exports.json", "trust.json", "authority.pem"] {
        let path = dir.join(file);
        let good = std::fs::read(&path).ok();
        std::fs::write(&path, "{ nonsense").unwrap();
        let config = ControllerConfig {
            listen: "127.0.0.1:0".parse().unwrap(),
            admin_listen: "127.0.0.1:0".parse().unwrap(),
            ..ControllerConfig::new(dir.to_owned())
        };
        let error = Controller::build(config, clock::system(), Rng::from_entropy(), None)
            .await
            .unwrap_err();
        assert!(error.to_string().contains(file), "{file}: {error}");
        assert!(!error.hint().is_empty());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{ nonsense");
        match good {
            Some(good) => std::fs::write(&path, good).unwrap(),
            None => std::fs::remove_file(&path).unwrap(),
        }
    }
}

/// A client that dials `address` as the controller `<cluster>-<node>` of a cluster whose keys lie in `dir`.
async fn impostor(dir: &Path, address: &str) -> Channel {
    let node = DataDir::read_node(dir).unwrap().unwrap();
    let issuer = AuthorityKey::load(dir).unwrap().unwrap();
    let key = WorkloadKey::generate().unwrap();
    let path = format!("/tradewind/controller/{}-{}", node.cluster, node.node_id);
    let id = SpiffeId::from_path(issuer.trust_domain(), &path).unwrap();
    let now_ms = clock::system().unix_ms();
    let issued = issuer
        .issue(&key.csr_der().unwrap(), &id, now_ms, 600)
        .unwrap();
    let svid = SvidCell::empty();
    svid.set(Svid::new(&key, &issued.chain_der).unwrap());
    let trust: Trust =
        serde_json::from_slice(&std::fs::read(dir.join("trust.json")).unwrap()).unwrap();
    let config = client_config(
        &svid,
        &TrustCell::new(&trust).unwrap(),
        Expect::AnyController,
    );
    dialled(address, config).await
}

async fn dialled(address: &str, config: std::sync::Arc<rustls::ClientConfig>) -> Channel {
    let address = address.to_owned();
    let connector = tower::service_fn(move |_: http::Uri| {
        let (address, tls) = (
            address.clone(),
            tokio_rustls::TlsConnector::from(config.clone()),
        );
        async move {
            let tcp = tokio::net::TcpStream::connect(address).await?;
            let name = rustls::pki_types::ServerName::try_from("controller.test").unwrap();
            tls.connect(name, tcp)
                .await
                .map(hyper_util::rt::TokioIo::new)
        }
    });
    Endpoint::from_static("http://controller")
        .connect_with_connector(connector)
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_speaks_for_another_and_a_lost_answer_is_given_again() {
    let tmp = tempfile::tempdir().unwrap();
    let (at_west, at_east) = (free_address(), free_address());
    let token = found(&tmp, "west", &at_west).await.unwrap();
    let west = Node::start(&tmp, "west", &at_west).await;
    enter(joining(&tmp, "east", &at_west, &token, &at_east))
        .await
        .0
        .unwrap();

    let channel = impostor(&tmp.path().join("east"), &at_west).await;
    let mut raft = RaftClient::new(channel.clone());
    let frame = |from, to| RaftMessage {
        from,
        to,
        payload: vec![1, 2, 3],
    };
    let spoofed = raft.append_entries(frame(1, 1)).await.unwrap_err();
    assert_eq!(spoofed.code(), Code::PermissionDenied, "{spoofed}");
    assert!(
        spoofed.message().contains("node 1 belongs to cluster west"),
        "{spoofed}"
    );
    let stray = raft.vote(frame(2, 7)).await.unwrap_err();
    assert!(
        stray.message().contains("this is node 1, not node 7"),
        "{stray}"
    );
    let garbage = raft.pre_vote(frame(2, 1)).await.unwrap_err();
    assert_eq!(garbage.code(), Code::InvalidArgument, "{garbage}");
    let mut federation = FederationClient::new(channel);
    let spoofed = federation
        .introduce(IntroduceRequest { node_id: 1 })
        .await
        .unwrap_err();
    assert_eq!(spoofed.code(), Code::PermissionDenied, "{spoofed}");
    // A snapshot that is cut, or longer than it said, never reaches the store.
    let header = SnapshotChunk {
        from: 2,
        to: 1,
        total_bytes: 10,
        ..SnapshotChunk::default()
    };
    for (bytes, expected) in [
        (4, "6 bytes before its announced length"),
        (11, "longer than announced"),
    ] {
        let data = SnapshotChunk {
            data: vec![0; bytes],
            ..SnapshotChunk::default()
        };
        let refused = raft
            .install_snapshot(tokio_stream::iter([header.clone(), data]))
            .await
            .unwrap_err();
        assert!(refused.message().contains(expected), "{refused}");
    }
    let left = std::fs::read_dir(&west.dir)
        .unwrap()
        .map(|e| e.unwrap().file_name());
    assert!(
        left.into_iter()
            .all(|n| !n.to_string_lossy().contains("incoming"))
    );

    // Without a certificate there is nothing but joining.
    let (_, token) = west.token("", 0).await;
    let parsed: JoinToken = token.parse().unwrap();
    let pinned = pinned_client_config(parsed.root_sha256, &parsed.domain, &parsed.cluster);
    let channel = dialled(&at_west, pinned).await;
    let nobody = RaftClient::new(channel.clone())
        .vote(frame(2, 1))
        .await
        .unwrap_err();
    assert_eq!(nobody.code(), Code::Unauthenticated, "{nobody}");
    let nobody = AdminClient::new(channel.clone())
        .status(Empty {})
        .await
        .unwrap_err();
    assert_eq!(nobody.code(), Code::PermissionDenied, "{nobody}");
    let mut federation = FederationClient::new(channel);
    let key = AuthorityKey::generate(&name("south"), &parsed.domain).unwrap();
    let request = JoinRequest {
        token,
        cluster: "south".into(),
        region: "eu-west".into(),
        network: "south".into(),
        gateways: vec![free_address()],
        version: tradewind_controller::VERSION.into(),
        way_back_nonce: vec![],
        authority_csr_der: key.csr_der().unwrap(),
        level: u32::from(tradewind_api::store::LEVEL),
        witness: false,
    };
    let first = federation.join(request.clone()).await.unwrap().into_inner();
    let again = federation.join(request.clone()).await.unwrap().into_inner();
    assert_eq!(first, again);
    let other = AuthorityKey::generate(&name("south"), &parsed.domain).unwrap();
    let thief = JoinRequest {
        authority_csr_der: other.csr_der().unwrap(),
        ..request
    };
    let refused = federation.join(thief).await.unwrap_err();
    assert!(refused.message().contains("used already"), "{refused}");
    west.stop().await;
}
