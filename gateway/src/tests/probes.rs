//! Gateways that ask each other whether they are there, through real sockets: who answers, who does not and why, and that
//! nothing else of a gateway depends on it.

use super::*;
use tokio::net::TcpSocket;

/// Two probes that are missed, each waited for, and a slow machine.
const SETTLES: Duration = Duration::from_secs(20);

/// A snapshot whose own cluster is `local`, and where the other one announces these.
fn seen_from(local: &str, others: &[SocketAddr]) -> Snapshot {
    let mut s = snapshot(&[]);
    for name in ["west", "east"] {
        let cluster = cluster(&mut s, name);
        cluster.local = name == local;
        if name != local {
            cluster.gateways = others.iter().map(ToString::to_string).collect();
        }
    }
    s
}

/// All that a gateway says to a probe of a cluster before it closes.
async fn answer(gateway: SocketAddr, name: &str) -> Vec<u8> {
    let cluster = ClusterName::new(name).unwrap();
    let name = encode(&Target::Gateway { cluster }, &Domain::default());
    let config = tls::anonymous_client_config(&TrustCell::empty(), Expect::AnyMember);
    let hello = tls::hello(&config, ServerName::try_from(name).unwrap()).unwrap();
    let mut stream = TcpStream::connect(gateway).await.unwrap();
    stream.write_all(&hello).await.unwrap();
    let mut all = Vec::new();
    stream.read_to_end(&mut all).await.unwrap();
    all
}

/// What a gateway's admin page says of the other cluster.
async fn page(g: &Running) -> serde_json::Value {
    g.state().await["peers"][0].clone()
}

async fn settles(g: &Running, is: impl Fn(&serde_json::Value) -> bool) -> serde_json::Value {
    let end = time::Instant::now() + SETTLES;
    loop {
        let peer = page(g).await;
        if is(&peer) {
            return peer;
        }
        assert!(time::Instant::now() < end, "{peer}");
        time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn gateways_of_two_clusters_find_each_other_and_how_far_they_are() {
    let far = start(seen_from("east", &[]), |c| {
        c.announce_grace = Duration::from_secs(1);
    });
    let near = start(seen_from("west", &[far.address]), |_| {});
    near.metric(r#"tradewind_gateway_peer_reachable{peer="east"} 1.0"#)
        .await;
    near.metric(r#"tradewind_gateway_peer_round_trip_seconds{peer="east"} 0.0"#)
        .await;
    assert!(counted(&far, "tradewind_gateway_probes_answered_total") >= 1);
    assert_eq!(counted(&far, "tradewind_gateway_connections_refused"), 0);
    assert_eq!(counted(&far, "tradewind_gateway_connections_opened"), 0);
    let peer = page(&near).await;
    assert_eq!(
        (&peer["cluster"], &peer["reachable"]),
        (&"east".into(), &true.into())
    );
    let address = &peer["addresses"][0];
    assert_eq!(address["address"], far.address.to_string());
    assert!(
        address["round_trip_us"].as_u64() < Some(1_000_000),
        "{peer}"
    );
    assert!(address["why"].is_null() && address["answered_ms_ago"].is_u64());

    // One that drains is there for as long as it takes callers.
    let draining = task::spawn("drain", far.trigger.drain(Duration::from_secs(30)));
    until("draining", || far.readiness.pending() == ["draining"]).await;
    assert_eq!(answer(far.address, "east").await, [21, 3, 3, 0, 2, 1, 0]);
    draining.await.unwrap();
    let peer = settles(&near, |p| p["reachable"] == false).await;
    assert_eq!(peer["addresses"][0]["why"], "refuses the connection");
    assert!(near.readiness.is_ready(), "another's death is not ours");
    near.metric(r#"tradewind_gateway_peer_reachable{peer="east"} 0.0"#)
        .await;

    // Who has left is asked no more, and has no series.
    let mut s = Snapshot::clone(&near.snapshot.borrow());
    cluster(&mut s, "east").state = ClusterState::Left;
    near.snapshot.send_replace(Arc::new(s));
    until("no series", || {
        !near.metrics.encode().contains(r#"{peer="east"}"#)
    })
    .await;
}

#[tokio::test]
async fn an_address_that_leads_elsewhere_is_told_apart_from_one_that_is_not_ready() {
    let own = start(seen_from("west", &[]), |_| {});
    let unready = start(Snapshot::default(), |_| {});
    let near = start(seen_from("west", &[own.address, unready.address]), |_| {});
    let peer = settles(&near, |p| p["reachable"] == false).await;
    let why = |address: SocketAddr, peer: &serde_json::Value| {
        let all = peer["addresses"].as_array().unwrap();
        let found = all.iter().find(|a| a["address"] == address.to_string());
        found.unwrap()["why"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    assert_eq!(why(own.address, &peer), "is another cluster's gateway");
    assert_eq!(
        why(unready.address, &peer),
        "is a gateway that is not ready or has no room"
    );
    assert!(
        counted(
            &own,
            r#"tradewind_gateway_connections_refused_total{reason="other_cluster","#
        ) >= 2
    );
    assert_eq!(counted(&own, "tradewind_gateway_probes_answered_total"), 0);
    // It becomes ready, and the cluster is reached though its other address still leads elsewhere.
    unready
        .snapshot
        .send_replace(Arc::new(seen_from("east", &[])));
    let peer = settles(&near, |p| p["reachable"] == true).await;
    assert_eq!(why(own.address, &peer), "is another cluster's gateway");
}

/// An address that takes no more connections: its queue is full, and the kernel drops who comes.
async fn black_hole() -> (TcpListener, SocketAddr, Vec<TcpStream>) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut queued = Vec::new();
    while let Ok(stream) =
        time::timeout(Duration::from_millis(300), TcpStream::connect(address)).await
    {
        queued.push(stream.unwrap());
        assert!(queued.len() < 64, "the queue has no end");
    }
    (listener, address, queued)
}

/// Somebody who takes connections and says this, or nothing.
async fn says(what: Option<&'static [u8]>, tasks: &mut TaskSet) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tasks.spawn("says", async move {
        let mut held = Vec::new();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            if let Some(what) = what {
                stream.write_all(what).await.unwrap();
                stream.shutdown().await.unwrap();
            }
            held.push(stream);
        }
    });
    address
}

#[tokio::test]
async fn each_way_of_giving_no_answer_has_its_own_word() {
    let mut tasks = TaskSet::new();
    let (_listener, hole, _queued) = black_hole().await;
    let (nobody, _held) = dead();
    let places = [
        (nobody, "refuses the connection"),
        (hole, "takes no connection in time"),
        (
            says(None, &mut tasks).await,
            "takes the connection and says nothing",
        ),
        (
            says(Some(b""), &mut tasks).await,
            "closes the connection without a word",
        ),
        (
            says(Some(b"HTTP/1.1 400 Bad Request\r\n"), &mut tasks).await,
            "is no gateway of this federation",
        ),
    ];
    let all: Vec<_> = places.iter().map(|(address, _)| *address).collect();
    let near = start(seen_from("west", &all), |_| {});
    let peer = settles(&near, |p| p["reachable"] == false).await;
    for (address, why) in places {
        let shown = peer["addresses"].as_array().unwrap().iter();
        let mut shown = shown.filter(|a| a["address"] == address.to_string());
        assert_eq!(shown.next().unwrap()["why"], why, "{peer}");
    }
    assert!(near.readiness.is_ready());
}

#[tokio::test]
async fn what_answers_of_an_older_version_is_neither_there_nor_away() {
    let mut tasks = TaskSet::new();
    let older = says(Some(&[21, 3, 3, 0, 2, 2, 112]), &mut tasks).await;
    let near = start(seen_from("west", &[older]), |_| {});
    let knows_no_probes = "is a gateway of a version that knows no probes";
    let peer = settles(&near, |p| p["addresses"][0]["why"] == knows_no_probes).await;
    assert!(peer["reachable"].is_null(), "{peer}");
    assert!(
        !near
            .metrics
            .encode()
            .contains(r#"tradewind_gateway_peer_reachable{"#)
    );
}
