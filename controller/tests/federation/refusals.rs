//! What must not be: joins that cannot, operators who ask wrongly, and peers that speak for others. Each refusal says why,
//! and changes nothing.

use std::{net::TcpListener, path::Path};

use tonic::{
    Code,
    transport::{Channel, Endpoint},
};
use tradewind_api::{
    SpiffeId,
    proto::v1::{
        DrainRequest, Empty, ExportRequest, IntroduceRequest, JoinRequest, ListRequest,
        RaftMessage, RevokeTokenRequest, SnapshotChunk, admin_client::AdminClient,
        federation_client::FederationClient, raft_client::RaftClient,
    },
    snapshot::Trust,
};
use tradewind_ca::{AuthorityKey, JoinToken};
use tradewind_controller::{
    Controller, ControllerConfig, DataDir, DataDirError, InitError, JoinLayer, JoinOptions,
    webhook::WebhookConfig,
};
use tradewind_runtime::{Rng, clock, task};
use tradewind_transport::{
    keys::WorkloadKey,
    svid::{Svid, SvidCell},
    tls::{Expect, client_config, pinned_client_config},
    trust::TrustCell,
};

use crate::world::*;

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
    // What a file says is known a moment before what is made of it.
    until(|| async {
        let (what, hint) = sentence(west.export("shop/paymnets").await.unwrap_err());
        assert_eq!(what, "there is no service shop/paymnets in cluster west");
        (hint == "did you mean shop/payments?")
            .then_some(())
            .ok_or(hint)
    })
    .await;
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
    no_webhook(&dir).await;
    corrupt(&dir).await;
}

/// A webhook that cannot be is found out at the start, with the flag that is wrong.
async fn no_webhook(dir: &Path) {
    let settings = dir.join("injection.yaml");
    std::fs::write(
        &settings,
        "image: registry.example/tradewind:1\naudience: tradewind.west\n",
    )
    .unwrap();
    let held = TcpListener::bind("127.0.0.1:0").unwrap();
    let told = WebhookConfig {
        listen: held.local_addr().unwrap(),
        settings,
        names: vec!["localhost".to_owned()],
    };
    let absent = WebhookConfig {
        settings: dir.join("absent.yaml"),
        ..told.clone()
    };
    for (webhook, word, flag) in [
        (
            told.clone(),
            held.local_addr().unwrap().to_string(),
            "--webhook-listen",
        ),
        (absent, "absent.yaml".to_owned(), "--injection-file"),
    ] {
        let config = ControllerConfig {
            listen: "127.0.0.1:0".parse().unwrap(),
            admin_listen: "127.0.0.1:0".parse().unwrap(),
            webhook: Some(webhook),
            ..ControllerConfig::new(dir.to_owned())
        };
        let error = Controller::build(config, clock::system(), Rng::from_entropy(), None)
            .await
            .unwrap_err();
        assert!(error.to_string().contains(&word), "{error}");
        assert!(error.hint().contains(flag), "{}", error.hint());
    }
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
