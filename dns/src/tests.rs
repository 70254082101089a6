//! The DNS server through real sockets, with no controller anywhere.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use hickory_proto::{
    op::{Edns, Message, OpCode, Query, ResponseCode},
    rr::{Name, RData, RecordType},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, UdpSocket},
    sync::watch,
    time,
};
use tradewind_api::{
    ClusterName, EndpointId, Network, Region, Revision, ServiceName,
    model::{
        AppProtocol, Cluster, ClusterState, Endpoint, Health, Service, ServiceKind, ServicePort,
    },
    snapshot::Snapshot,
};
use tradewind_runtime::{clock, drain, metrics::MetricsRegistry, rng::Rng, task, task::TaskSet};
use tradewind_transport::{
    control::{Control, ControlStatus},
    svid::SvidCell,
    trust::TrustCell,
};

use crate::{Dns, DnsConfig, Upstreams};

fn service(
    name: &str,
    kind: ServiceKind,
    exported: bool,
    ips: &[&str],
    ports: &[(&str, u16)],
) -> Service {
    Service {
        name: name.parse().unwrap(),
        kind,
        clusterset_ips: ips.iter().map(|ip| ip.parse().unwrap()).collect(),
        cluster_ips: Vec::new(),
        ports: ports
            .iter()
            .map(|(name, port)| ServicePort {
                name: (*name).to_owned(),
                port: *port,
                app_protocol: AppProtocol::Detect,
            })
            .collect(),
        exported_by: exported
            .then(|| ClusterName::new("west").unwrap())
            .into_iter()
            .collect(),
        endpoints: vec![],
        seals: vec![],
    }
}

fn endpoint(id: &str, host: Option<&str>, address: Option<&str>, health: Health) -> Endpoint {
    Endpoint {
        id: EndpointId::new(id).unwrap(),
        cluster: ClusterName::new("west").unwrap(),
        region: Region::new("r").unwrap(),
        zone: None,
        weight: 100,
        health,
        identity: "spiffe://west.mesh.internal/ns/shop/sa/db".parse().unwrap(),
        address: address.map(str::to_owned),
        mesh_ips: vec![],
        hostname: host.map(str::to_owned),
        labels: tradewind_api::traffic::Labels::new(),
        ports: vec![5432],
        targets: Default::default(),
    }
}

fn snapshot() -> Snapshot {
    let mut s = Snapshot {
        revision: Revision(7),
        ..Snapshot::default()
    };
    let west = ClusterName::new("west").unwrap();
    let cluster = Cluster {
        name: west.clone(),
        region: Region::new("r").unwrap(),
        network: Network::new("n").unwrap(),
        state: ClusterState::Active,
        gateways: vec![],
        lease_expired: false,
        sealed_only: false,
        controllers: std::collections::BTreeMap::new(),
        round_trip_us: None,
        local: true,
    };
    s.clusters.insert(west, Arc::new(cluster));
    let mut db = service(
        "shop/db",
        ServiceKind::Headless,
        true,
        &[],
        &[("sql", 5432)],
    );
    db.endpoints = vec![
        endpoint("aaa", Some("db-0"), Some("10.0.0.1:15008"), Health::Healthy),
        endpoint("bbb", None, Some("10.0.0.2:15008"), Health::Healthy),
        endpoint(
            "ccc",
            Some("db-2"),
            Some("10.0.0.3:15008"),
            Health::Unhealthy,
        ),
        endpoint("ddd", Some("db-3"), None, Health::Healthy),
    ];
    for service in [
        service(
            "shop/payments",
            ServiceKind::ClusterSetIp,
            true,
            &["240.1.0.1"],
            &[("http", 80), ("http-too", 80), ("grpc", 81)],
        ),
        service(
            "shop/dual",
            ServiceKind::ClusterSetIp,
            true,
            &["240.1.0.2", "fd00::2"],
            &[("", 1)],
        ),
        service(
            "shop/secret",
            ServiceKind::ClusterSetIp,
            false,
            &["240.1.0.9"],
            &[("http", 80)],
        ),
        service(
            "shop/empty",
            ServiceKind::Headless,
            true,
            &[],
            &[("sql", 1)],
        ),
        db,
    ] {
        s.services.insert(service.name.clone(), Arc::new(service));
    }
    s
}

struct Server {
    address: SocketAddr,
    metrics: MetricsRegistry,
    snapshot: watch::Sender<Arc<Snapshot>>,
    trigger: drain::Trigger,
    running: tokio::task::JoinHandle<Result<(), crate::DnsError>>,
}

fn start(snapshot: Snapshot, upstreams: Upstreams) -> Server {
    let mut config = DnsConfig::new("dns-1", "unix:/nowhere".parse().unwrap());
    config.listen = "127.0.0.1:0".parse().unwrap();
    config.admin_listen = "127.0.0.1:0".parse().unwrap();
    config.upstreams = upstreams;
    let bound = Dns::build(config, clock::system(), Rng::seeded(1), None).unwrap();
    let (address, metrics) = (bound.local_addr(), bound.metrics());
    let (tx, rx) = watch::channel(Arc::new(snapshot));
    let control = Control::from_parts(
        SvidCell::empty(),
        TrustCell::empty(),
        rx,
        ControlStatus::default(),
    );
    let (trigger, watch) = drain::channel();
    let running = task::spawn("dns", bound.run_with(control, TaskSet::new(), watch));
    Server {
        address,
        metrics,
        snapshot: tx,
        trigger,
        running,
    }
}

fn question(name: &str, kind: RecordType) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    let mut name = Name::from_ascii(name).unwrap();
    name.set_fqdn(true);
    message.add_query(Query::query(name, kind));
    message
}

async fn udp(server: SocketAddr, message: &Message) -> (Message, usize) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(server).await.unwrap();
    socket.send(&message.to_vec().unwrap()).await.unwrap();
    let mut buffer = vec![0u8; 65_535];
    let n = time::timeout(Duration::from_secs(10), socket.recv(&mut buffer))
        .await
        .unwrap()
        .unwrap();
    let answer = Message::from_vec(&buffer[..n]).unwrap();
    assert_eq!(answer.metadata.id, message.metadata.id);
    (answer, n)
}

async fn tcp(stream: &mut TcpStream, message: &Message) -> Message {
    let bytes = message.to_vec().unwrap();
    stream
        .write_all(&u16::try_from(bytes.len()).unwrap().to_be_bytes())
        .await
        .unwrap();
    stream.write_all(&bytes).await.unwrap();
    let length = stream.read_u16().await.unwrap();
    let mut answer = vec![0u8; usize::from(length)];
    stream.read_exact(&mut answer).await.unwrap();
    Message::from_vec(&answer).unwrap()
}

fn ips(answer: &Message) -> Vec<IpAddr> {
    answer
        .answers
        .iter()
        .filter_map(|r| r.data.ip_addr())
        .collect()
}

fn srv(answer: &Message) -> Vec<(u16, String)> {
    let mut all: Vec<_> = answer
        .answers
        .iter()
        .map(|r| match &r.data {
            RData::SRV(s) => (s.port, s.target.to_string()),
            other => panic!("{other:?}"),
        })
        .collect();
    all.sort();
    all
}

async fn ask(server: SocketAddr, name: &str, kind: RecordType) -> Message {
    let (answer, _) = udp(server, &question(name, kind)).await;
    assert!(answer.answers.iter().all(|r| r.ttl == 5));
    answer
}

/// The code, and whether an SOA goes with it.
fn negative(answer: &Message) -> (ResponseCode, bool) {
    assert!(answer.answers.is_empty(), "{answer:?}");
    let soa = matches!(answer.authorities.as_slice(), [r] if r.record_type() == RecordType::SOA);
    (answer.metadata.response_code, soa)
}

#[tokio::test]
async fn names_are_answered_as_the_specification_says() {
    let s = start(snapshot(), Upstreams::Servers(vec![]));
    let base = "payments.shop.svc.clusterset.local";
    let a = ask(s.address, base, RecordType::A).await;
    assert_eq!(ips(&a), ["240.1.0.1".parse::<IpAddr>().unwrap()]);
    assert!(a.metadata.authoritative && a.metadata.recursion_available);
    assert_eq!(
        negative(&ask(s.address, base, RecordType::AAAA).await),
        (ResponseCode::NoError, true)
    );
    let dual = ask(
        s.address,
        "dual.shop.svc.clusterset.local",
        RecordType::AAAA,
    )
    .await;
    assert_eq!(ips(&dual), ["fd00::2".parse::<IpAddr>().unwrap()]);

    let one = ask(s.address, &format!("_http._tcp.{base}"), RecordType::SRV).await;
    assert_eq!(srv(&one), [(80, format!("{base}."))]);
    // Two ports of one number are one record.
    let bare = ask(s.address, base, RecordType::SRV).await;
    assert_eq!(
        srv(&bare),
        [(80, format!("{base}.")), (81, format!("{base}."))]
    );

    let version = ask(s.address, "dns-version.clusterset.local", RecordType::TXT).await;
    assert_eq!(version.answers[0].data.to_string(), "1.0.0");
    let soa = ask(s.address, "clusterset.local", RecordType::SOA).await;
    assert_eq!(soa.answers[0].record_type(), RecordType::SOA);
}

#[tokio::test]
async fn case_does_not_matter_and_is_kept() {
    let s = start(snapshot(), Upstreams::Servers(vec![]));
    let (answer, _) = udp(
        s.address,
        &question("PayMents.shop.SVC.ClusterSet.local", RecordType::A),
    )
    .await;
    assert_eq!(ips(&answer).len(), 1);
    assert_eq!(
        answer.answers[0].name.to_string(),
        "PayMents.shop.SVC.ClusterSet.local."
    );
}

#[tokio::test]
async fn nothing_is_invented() {
    let s = start(snapshot(), Upstreams::Servers(vec![]));
    for name in [
        "nothing.shop.svc.clusterset.local",
        "secret.shop.svc.clusterset.local",
        "payments.other.svc.clusterset.local",
        "other.svc.clusterset.local",
        // Reserved for both kinds.
        "west.payments.shop.svc.clusterset.local",
        "west.db.shop.svc.clusterset.local",
        "_udp.payments.shop.svc.clusterset.local",
        "_nope._tcp.payments.shop.svc.clusterset.local",
        "_http._udp.payments.shop.svc.clusterset.local",
        "db-0.west.payments.shop.svc.clusterset.local",
        "db-0.east.db.shop.svc.clusterset.local",
        "db-9.west.db.shop.svc.clusterset.local",
        "empty.shop.svc.clusterset.local",
        "a.b.c.d.e.f.svc.clusterset.local",
        "pod.clusterset.local",
    ] {
        for kind in [RecordType::A, RecordType::SRV, RecordType::TXT] {
            let answer = ask(s.address, name, kind).await;
            assert_eq!(
                negative(&answer),
                (ResponseCode::NXDomain, true),
                "{name} {kind}"
            );
        }
    }
    // Between a name that exists and the zone, names exist without data.
    for name in [
        "clusterset.local",
        "svc.clusterset.local",
        "shop.svc.clusterset.local",
        "_tcp.payments.shop.svc.clusterset.local",
    ] {
        let answer = ask(s.address, name, RecordType::A).await;
        assert_eq!(negative(&answer), (ResponseCode::NoError, true), "{name}");
    }
}

/// Endpoints in another network, which have no address here but what stands for them.
#[tokio::test]
async fn headless_endpoints_elsewhere_are_named_by_what_stands_for_them() {
    let mut snapshot = snapshot();
    let name: ServiceName = "shop/db".parse().unwrap();
    let db = Arc::make_mut(snapshot.services.get_mut(&name).unwrap());
    for (id, hostname, ips) in [
        ("eee", Some("db-0"), ["241.0.0.1", "fd74::1"]),
        ("fff", None, ["241.0.0.2", "fd74::2"]),
    ] {
        let mut apart = endpoint(id, hostname, None, Health::Healthy);
        apart.cluster = ClusterName::new("east").unwrap();
        apart.mesh_ips = ips.map(|ip| ip.parse().unwrap()).to_vec();
        db.endpoints.push(apart);
    }
    let s = start(snapshot, Upstreams::Servers(vec![]));
    let base = "db.shop.svc.clusterset.local";
    let asked = async |name: &str, kind| {
        let mut all = ips(&ask(s.address, name, kind).await);
        all.sort();
        all.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let all = ["10.0.0.1", "10.0.0.2", "241.0.0.1", "241.0.0.2"];
    assert_eq!(asked(base, RecordType::A).await, all);
    assert_eq!(asked(base, RecordType::AAAA).await, ["fd74::1", "fd74::2"]);
    // The same hostname in two clusters is two endpoints.
    for (cluster, ip) in [("west", "10.0.0.1"), ("east", "241.0.0.1")] {
        let one = format!("db-0.{cluster}.{base}");
        assert_eq!(asked(&one, RecordType::A).await, [ip]);
    }
    // One name for one endpoint, whatever its families.
    let unnamed = format!("241-0-0-2.east.{base}");
    assert_eq!(asked(&unnamed, RecordType::AAAA).await, ["fd74::2"]);
    let targets = ["10-0-0-2.west", "241-0-0-2.east", "db-0.east", "db-0.west"];
    let mut expected = targets.map(|t| (5432, format!("{t}.{base}.")));
    expected.sort();
    let mut records = srv(&ask(s.address, base, RecordType::SRV).await);
    records.sort();
    assert_eq!(records, expected);
}

#[tokio::test]
async fn headless_endpoints_have_names_while_they_are_well() {
    let s = start(snapshot(), Upstreams::Servers(vec![]));
    let base = "db.shop.svc.clusterset.local";
    let mut all = ips(&ask(s.address, base, RecordType::A).await);
    all.sort();
    assert_eq!(
        all,
        [
            "10.0.0.1".parse::<IpAddr>().unwrap(),
            "10.0.0.2".parse().unwrap()
        ]
    );
    let one = ask(s.address, &format!("db-0.west.{base}"), RecordType::A).await;
    assert_eq!(ips(&one), ["10.0.0.1".parse::<IpAddr>().unwrap()]);
    // Without a hostname, its address with dashes is the endpoint's name.
    let two = ask(s.address, &format!("10-0-0-2.west.{base}"), RecordType::A).await;
    assert_eq!(ips(&two), ["10.0.0.2".parse::<IpAddr>().unwrap()]);
    let expected = [
        (5432, format!("10-0-0-2.west.{base}.")),
        (5432, format!("db-0.west.{base}.")),
    ];
    assert_eq!(
        srv(&ask(s.address, &format!("_sql._tcp.{base}"), RecordType::SRV).await),
        expected
    );
    assert_eq!(srv(&ask(s.address, base, RecordType::SRV).await), expected);
    let ill = ask(s.address, &format!("db-2.west.{base}"), RecordType::A).await;
    assert_eq!(negative(&ill).0, ResponseCode::NXDomain);

    // Two of one address, which share its name, are one record.
    let name: ServiceName = "shop/db".parse().unwrap();
    let mut shared = snapshot();
    let db = Arc::make_mut(shared.services.get_mut(&name).unwrap());
    db.endpoints
        .push(endpoint("ccc", None, Some("10.0.0.2:9"), Health::Healthy));
    s.snapshot.send_replace(Arc::new(shared));
    assert_eq!(srv(&ask(s.address, base, RecordType::SRV).await), expected);

    // Unknown is not dead: with nothing better, those are named.
    let mut next = snapshot();
    for e in &mut Arc::make_mut(next.services.get_mut(&name).unwrap()).endpoints {
        e.health = Health::Unknown;
    }
    s.snapshot.send_replace(Arc::new(next));
    assert_eq!(ips(&ask(s.address, base, RecordType::A).await).len(), 3);
}

#[tokio::test]
async fn without_a_snapshot_nothing_is_denied() {
    let s = start(Snapshot::default(), Upstreams::Servers(vec![]));
    let answer = ask(
        s.address,
        "payments.shop.svc.clusterset.local",
        RecordType::A,
    )
    .await;
    assert_eq!(negative(&answer), (ResponseCode::ServFail, false));
    s.snapshot.send_replace(Arc::new(snapshot()));
    let answer = ask(
        s.address,
        "payments.shop.svc.clusterset.local",
        RecordType::A,
    )
    .await;
    assert_eq!(ips(&answer).len(), 1);
}

#[tokio::test]
async fn tcp_takes_many_questions_and_udp_answers_are_cut_to_fit() {
    let mut big = snapshot();
    let name: ServiceName = "shop/db".parse().unwrap();
    let db = Arc::make_mut(big.services.get_mut(&name).unwrap());
    db.endpoints = (0..200)
        .map(|i| {
            endpoint(
                &format!("e{i}"),
                None,
                Some(&format!("10.0.1.{i}:1")),
                Health::Healthy,
            )
        })
        .collect();
    let s = start(big, Upstreams::Servers(vec![]));
    let asked = question("db.shop.svc.clusterset.local", RecordType::A);
    let (cut, bytes) = udp(s.address, &asked).await;
    assert!(cut.metadata.truncation && bytes <= 512, "{bytes}");
    let mut with_edns = asked.clone();
    let mut edns = Edns::new();
    edns.set_max_payload(4096);
    with_edns.set_edns(edns);
    let (cut, bytes) = udp(s.address, &with_edns).await;
    assert!(
        cut.metadata.truncation && (513..=1232).contains(&bytes),
        "{bytes}"
    );
    let mut stream = TcpStream::connect(s.address).await.unwrap();
    for _ in 0..3 {
        let whole = tcp(&mut stream, &asked).await;
        assert!(!whole.metadata.truncation);
        assert_eq!(whole.answers.len(), 200);
    }
}

#[tokio::test]
async fn other_names_are_forwarded_and_ours_never_are() {
    // The upstream is a second server of ours that knows another name under a zone it takes for its own: what it says
    // of clusterset.local would show if we ever asked it.
    let upstream = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let at = upstream.local_addr().unwrap();
    let (seen, mut asked) = watch::channel(Vec::new());
    let mut tasks = TaskSet::new();
    tasks.spawn("upstream", async move {
        let mut buffer = [0u8; 4096];
        loop {
            let (n, peer) = upstream.recv_from(&mut buffer).await.unwrap();
            let request = Message::from_vec(&buffer[..n]).unwrap();
            let query = request.queries[0].clone();
            seen.send_modify(|s: &mut Vec<String>| s.push(query.name().to_string()));
            let mut response = Message::response(request.metadata.id, OpCode::Query);
            response.add_query(query.clone());
            if query.name().to_string().starts_with("known") {
                response.add_answer(hickory_proto::rr::Record::from_rdata(
                    query.name().clone(),
                    60,
                    RData::A("192.0.2.7".parse().unwrap()),
                ));
            } else {
                response.metadata.response_code = ResponseCode::NXDomain;
            }
            upstream
                .send_to(&response.to_vec().unwrap(), peer)
                .await
                .unwrap();
        }
    });
    let s = start(snapshot(), Upstreams::Servers(vec![at]));
    for _ in 0..3 {
        let (answer, _) = udp(s.address, &question("known.example.com", RecordType::A)).await;
        assert_eq!(ips(&answer), ["192.0.2.7".parse::<IpAddr>().unwrap()]);
        assert!(!answer.metadata.authoritative);
    }
    let (answer, _) = udp(s.address, &question("unknown.example.com", RecordType::A)).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
    let ours = ask(s.address, "known.svc.clusterset.local", RecordType::A).await;
    assert_eq!(negative(&ours).0, ResponseCode::NXDomain);
    let names = asked.borrow_and_update().clone();
    // Cached after the first: one question for the known name.
    assert_eq!(
        names.iter().filter(|n| n.starts_with("known")).count(),
        1,
        "{names:?}"
    );
    assert!(
        names
            .iter()
            .all(|n| !n.to_lowercase().contains("clusterset")),
        "{names:?}"
    );
}

#[tokio::test]
async fn without_an_upstream_foreign_names_fail_and_are_counted() {
    let s = start(snapshot(), Upstreams::Servers(vec![]));
    let (answer, _) = udp(s.address, &question("example.com", RecordType::A)).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    let line = r#"tradewind_dns_queries_total{over="udp",outcome="no_upstream"} 1"#;
    assert!(s.metrics.encode().contains(line), "{}", s.metrics.encode());
}

#[tokio::test]
async fn garbage_is_dropped_or_told_so_and_answers_are_never_answered() {
    let s = start(snapshot(), Upstreams::Servers(vec![]));
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(s.address).await.unwrap();
    socket.send(b"hello").await.unwrap();
    let mut answer = question("payments.shop.svc.clusterset.local", RecordType::A);
    answer.metadata.message_type = hickory_proto::op::MessageType::Response;
    socket.send(&answer.to_vec().unwrap()).await.unwrap();
    // Twelve bytes that claim a question which is not there.
    socket
        .send(&[0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0])
        .await
        .unwrap();
    let mut buffer = [0u8; 512];
    let n = time::timeout(Duration::from_secs(10), socket.recv(&mut buffer))
        .await
        .unwrap()
        .unwrap();
    let told = Message::from_vec(&buffer[..n]).unwrap();
    assert_eq!(
        (told.metadata.id, told.metadata.response_code),
        (0x1234, ResponseCode::FormErr)
    );
    let line = r#"tradewind_dns_dropped_total{reason="no_question"} 2"#;
    assert!(s.metrics.encode().contains(line), "{}", s.metrics.encode());
    let mut stream = TcpStream::connect(s.address).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    stream.shutdown().await.unwrap();
    assert_eq!(stream.read(&mut buffer).await.unwrap(), 0);
    assert_eq!(
        ips(&ask(
            s.address,
            "payments.shop.svc.clusterset.local",
            RecordType::A
        )
        .await)
        .len(),
        1
    );
}

#[tokio::test]
async fn a_drain_ends_it_and_frees_the_port() {
    let s = start(snapshot(), Upstreams::Servers(vec![]));
    let mut idle = TcpStream::connect(s.address).await.unwrap();
    let answer = tcp(
        &mut idle,
        &question("payments.shop.svc.clusterset.local", RecordType::A),
    )
    .await;
    assert_eq!(ips(&answer).len(), 1);
    assert!(s.trigger.drain(Duration::from_secs(10)).await);
    s.running.await.unwrap().unwrap();
    assert!(TcpStream::connect(s.address).await.is_err());
}

mod pure {
    use super::*;
    use crate::respond::{Triage, encode, triage, udp_limit};
    use crate::zone::{Answer, answer, in_zone};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_bytes_panic_and_no_answer_outgrows_its_limit(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let s = snapshot();
            if let Triage::Reply(response, _) = triage(&bytes, &s) {
                let limit = udp_limit(&bytes);
                prop_assert!(encode(&response, limit).is_none_or(|b| b.len() <= usize::from(limit)));
            }
        }

        #[test]
        fn every_name_gets_one_kind_of_answer(labels in prop::collection::vec("[a-z0-9_-]{1,8}", 0..7), ours: bool) {
            let mut name = labels.join(".");
            if ours {
                name = if name.is_empty() { "clusterset.local".into() } else { format!("{name}.clusterset.local") };
            }
            let Ok(name) = Name::from_ascii(&name) else { return Ok(()); };
            let answered = answer(&snapshot(), &name, RecordType::A);
            prop_assert_eq!(answered == Answer::Foreign, !in_zone(&name));
        }
    }
}
