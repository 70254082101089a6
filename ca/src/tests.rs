//! Whole chains, from root to handshake, over real sockets.

use std::{
    io,
    os::unix::fs::PermissionsExt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use rustls::{ClientConfig, ServerConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tradewind_api::{ClusterName, Domain, SpiffeId, TrustDomain, snapshot::Trust};
use tradewind_transport::{
    keys::WorkloadKey,
    svid::{Svid, SvidCell, SvidError},
    tls::{self, ClientAuth, Expect},
    trust::{PeerIdentity, Refused, TrustCell, TrustMap, Usage},
};

use crate::{
    AuthorityKey, DEFAULT_LIFETIME_S, IssueError, Issuer, Root, StoredError,
    root::{AUTHORITY_LIFETIME_S, ROOT_LIFETIME_S},
};

// rustls asks the system for the time, so these tests live in the present.
#[expect(
    clippy::disallowed_methods,
    reason = "rustls' own clock is the system's"
)]
fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    u64::try_from(since.unwrap().as_millis()).unwrap()
}

fn cluster(name: &str) -> ClusterName {
    ClusterName::new(name).unwrap()
}

fn domain_of(name: &str) -> TrustDomain {
    Domain::default().trust_domain(&cluster(name))
}

fn id(cluster: &str, path: &str) -> SpiffeId {
    SpiffeId::from_path(&domain_of(cluster), path).unwrap()
}

const PAYMENTS: &str = "/ns/shop/sa/payments";
const CONTROLLER: &str = "/tradewind/controller/c0";

fn authority(root: &Root, name: &str) -> Issuer {
    let domain = Domain::default();
    let key = AuthorityKey::generate(&cluster(name), &domain).unwrap();
    let csr = key.csr_der().unwrap();
    let der = root.sign_authority(&csr, &cluster(name), &domain, now_ms());
    Issuer::new(key, der.unwrap(), root.cert_der().to_vec()).unwrap()
}

fn issue(issuer: &Issuer, id: &SpiffeId) -> Svid {
    let key = WorkloadKey::generate().unwrap();
    let csr = key.csr_der().unwrap();
    let issued = issuer
        .issue(&csr, id, now_ms(), DEFAULT_LIFETIME_S)
        .unwrap();
    let svid = Svid::new(&key, &issued.chain_der).unwrap();
    assert_eq!(svid.id, *id);
    assert_eq!(svid.not_before_unix_s, issued.not_before_unix_s);
    assert_eq!(svid.not_after_unix_s, issued.not_after_unix_s);
    svid
}

fn trust(root: &Root, issuers: &[&Issuer]) -> Trust {
    let mut trust = Trust {
        roots: [root.cert_der().to_vec()].into(),
        ..Trust::default()
    };
    for issuer in issuers {
        let all = trust.authorities.entry(issuer.trust_domain().clone());
        all.or_default().insert(issuer.authority_der().to_vec());
    }
    trust
}

fn holding(svid: Svid) -> SvidCell {
    let cell = SvidCell::empty();
    cell.set(svid);
    cell
}

/// Two members of one federation, a service of east and a caller of west.
struct World {
    root: Root,
    west: Issuer,
    east: Issuer,
    trust: TrustCell,
    caller: SvidCell,
    service: SvidCell,
}

fn world() -> World {
    let root = Root::generate(&Domain::default(), now_ms()).unwrap();
    let (west, east) = (authority(&root, "west"), authority(&root, "east"));
    World {
        trust: TrustCell::new(&trust(&root, &[&west, &east])).unwrap(),
        caller: holding(issue(&west, &id("west", "/ns/shop/sa/checkout"))),
        service: holding(issue(&east, &id("east", PAYMENTS))),
        root,
        west,
        east,
    }
}

impl World {
    fn client(&self, expect: Expect) -> Arc<ClientConfig> {
        tls::client_config(&self.caller, &self.trust, expect)
    }

    fn server(&self, auth: ClientAuth) -> Arc<ServerConfig> {
        tls::server_config(&self.service, &self.trust, auth)
    }
}

/// What each side saw: whom, and the first byte from the other side, or the error.
struct Met {
    client: io::Result<Option<PeerIdentity>>,
    server: io::Result<Option<PeerIdentity>>,
}

impl Met {
    fn both_refused(&self) {
        assert!(self.client.is_err(), "{:?}", self.client);
        assert!(self.server.is_err(), "{:?}", self.server);
    }
}

async fn meet(client: Arc<ClientConfig>, server: Arc<ServerConfig>, trust: &TrustCell) -> Met {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let now = now_ms() / 1000;
    let serve = async {
        let tcp = listener.accept().await?.0;
        let mut s = TlsAcceptor::from(server).accept(tcp).await?;
        s.write_all(b"s").await?;
        s.read_exact(&mut [0; 1]).await?;
        let certs = s.get_ref().1.peer_certificates().unwrap_or_default();
        Ok(tls::peer_of(certs, trust, now, Usage::Client))
    };
    let dial = async {
        let tcp = TcpStream::connect(address).await?;
        let name = ServerName::try_from("any.80.payments.shop.east.gw.mesh.internal").unwrap();
        let mut s = TlsConnector::from(client).connect(name, tcp).await?;
        // In TLS 1.3 the client is done before the server has looked at its certificate.
        s.read_exact(&mut [0; 1]).await?;
        s.write_all(b"c").await?;
        let c = s.get_ref().1;
        assert_eq!(c.alpn_protocol(), Some(tls::ALPN));
        assert_eq!(c.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
        let group = c.negotiated_key_exchange_group().unwrap().name();
        assert_eq!(group, rustls::NamedGroup::X25519MLKEM768);
        let suite = c.negotiated_cipher_suite().unwrap().suite();
        assert_eq!(suite, rustls::CipherSuite::TLS13_AES_128_GCM_SHA256);
        Ok(tls::peer_of(
            c.peer_certificates().unwrap(),
            trust,
            now,
            Usage::Server,
        ))
    };
    let both = async { tokio::join!(dial, serve) };
    let (client, server) = tokio::time::timeout(Duration::from_secs(20), both)
        .await
        .expect("ends in time");
    Met { client, server }
}

#[tokio::test]
async fn members_meet_and_know_each_other() {
    let w = world();
    let expected = [id("east", PAYMENTS), id("west", PAYMENTS)].into();
    let client = w.client(Expect::OneOf(Arc::new(expected)));
    let met = meet(client, w.server(ClientAuth::Required), &w.trust).await;
    let seen = met.client.unwrap().unwrap();
    assert_eq!(seen.id, id("east", PAYMENTS));
    assert!(w.trust.load().accepts(&seen));
    let caller = met.server.unwrap().unwrap();
    assert_eq!(caller.id, id("west", "/ns/shop/sa/checkout"));
}

#[tokio::test]
async fn another_federations_members_are_refused_by_both_sides() {
    let (w, other) = (world(), world());
    let met = meet(
        other.client(Expect::AnyMember),
        w.server(ClientAuth::Required),
        &w.trust,
    )
    .await;
    met.both_refused();
    let refused = tls::refused_in(&met.client.unwrap_err());
    assert_eq!(refused, Some(Refused::UnknownAuthority));
    // The client trusts everybody of its own, but carries another's certificate: the server says no.
    let client = tls::client_config(&other.caller, &w.trust, Expect::AnyMember);
    let met = meet(client, w.server(ClientAuth::Optional), &w.trust).await;
    met.both_refused();
    let refused = tls::refused_in(&met.server.unwrap_err());
    assert_eq!(refused, Some(Refused::UnknownAuthority));
}

#[tokio::test]
async fn a_removed_cluster_is_refused_at_once_by_the_same_configurations() {
    let w = world();
    let client = w.client(Expect::AnyMember);
    let server = w.server(ClientAuth::Required);
    let met = meet(Arc::clone(&client), Arc::clone(&server), &w.trust).await;
    let live = met.server.unwrap().unwrap();
    w.trust.set(&trust(&w.root, &[&w.east])).unwrap();
    assert!(!w.trust.load().accepts(&live));
    let met = meet(client, server, &w.trust).await;
    met.both_refused();
    let refused = tls::refused_in(&met.server.unwrap_err());
    assert_eq!(refused, Some(Refused::UnknownTrustDomain));
}

#[tokio::test]
async fn a_member_with_another_identity_is_refused() {
    let w = world();
    for expect in [
        Expect::OneOf(Arc::new([id("east", "/ns/shop/sa/cart")].into())),
        Expect::OneOf(Arc::default()),
        Expect::ControllerOf(domain_of("east")),
        Expect::AnyController,
    ] {
        let met = meet(
            w.client(expect.clone()),
            w.server(ClientAuth::Required),
            &w.trust,
        )
        .await;
        met.both_refused();
        let refused = tls::refused_in(&met.client.unwrap_err());
        assert_eq!(refused, Some(Refused::UnexpectedIdentity), "{expect:?}");
    }
    w.service.set(issue(&w.east, &id("east", CONTROLLER)));
    for (expect, admitted) in [
        (Expect::ControllerOf(domain_of("east")), true),
        (Expect::AnyController, true),
        (Expect::ControllerOf(domain_of("west")), false),
    ] {
        let met = meet(w.client(expect), w.server(ClientAuth::Required), &w.trust).await;
        assert_eq!(met.client.is_ok(), admitted);
    }
}

#[tokio::test]
async fn a_caller_without_a_certificate_is_nobody_and_only_where_that_is_allowed() {
    let w = world();
    let client = tls::anonymous_client_config(&w.trust, Expect::AnyMember);
    let met = meet(
        Arc::clone(&client),
        w.server(ClientAuth::Optional),
        &w.trust,
    )
    .await;
    assert_eq!(met.client.unwrap().unwrap().id, id("east", PAYMENTS));
    assert_eq!(met.server.unwrap(), None);
    let met = meet(client, w.server(ClientAuth::Required), &w.trust).await;
    met.both_refused();
    // A cell that is still empty presents nothing either.
    let client = tls::client_config(&SvidCell::empty(), &w.trust, Expect::AnyMember);
    let met = meet(client, w.server(ClientAuth::Required), &w.trust).await;
    met.both_refused();
    // Nor does a server without one get anywhere, and who trusts nobody yet refuses all.
    let server = tls::server_config(&SvidCell::empty(), &w.trust, ClientAuth::Optional);
    let met = meet(w.client(Expect::AnyMember), server, &w.trust).await;
    met.both_refused();
    let client = tls::client_config(&w.caller, &TrustCell::empty(), Expect::AnyMember);
    let met = meet(client, w.server(ClientAuth::Optional), &w.trust).await;
    met.both_refused();
}

#[tokio::test]
async fn a_pinned_root_is_enough_and_nothing_else_is() {
    let w = world();
    w.service.set(issue(&w.east, &id("east", CONTROLLER)));
    let pinned = |root: [u8; 32], name: &str| {
        tls::pinned_client_config(root, &Domain::default(), &cluster(name))
    };
    let serve = || w.server(ClientAuth::Optional);
    let met = meet(pinned(w.root.sha256(), "east"), serve(), &w.trust).await;
    assert_eq!(met.client.unwrap().unwrap().id, id("east", CONTROLLER));
    assert_eq!(met.server.unwrap(), None);

    let other = Root::generate(&Domain::default(), now_ms()).unwrap();
    let met = meet(pinned(other.sha256(), "east"), serve(), &w.trust).await;
    met.both_refused();
    let refused = tls::refused_in(&met.client.unwrap_err());
    assert_eq!(refused, Some(Refused::WrongRoot));
    // Another cluster's controller, and a workload of the right one.
    let met = meet(pinned(w.root.sha256(), "west"), serve(), &w.trust).await;
    met.both_refused();
    w.service.set(issue(&w.east, &id("east", PAYMENTS)));
    let met = meet(pinned(w.root.sha256(), "east"), serve(), &w.trust).await;
    let refused = tls::refused_in(&met.client.unwrap_err());
    assert_eq!(refused, Some(Refused::UnexpectedIdentity));
}

#[tokio::test]
async fn a_true_root_beside_a_forged_authority_does_not_help() {
    // The attacker knows the real root's certificate, as everybody does, and serves it behind a chain of its own.
    let w = world();
    let forged_root = Root::generate(&Domain::default(), now_ms()).unwrap();
    let forged = authority(&forged_root, "east");
    let key = WorkloadKey::generate().unwrap();
    let csr = key.csr_der().unwrap();
    let issued = forged.issue(&csr, &id("east", CONTROLLER), now_ms(), 3600);
    let mut chain = issued.unwrap().chain_der;
    chain[2] = w.root.cert_der().to_vec();
    w.service.set(Svid::new(&key, &chain).unwrap());
    let client = tls::pinned_client_config(w.root.sha256(), &Domain::default(), &cluster("east"));
    let met = meet(client, w.server(ClientAuth::Optional), &w.trust).await;
    let refused = tls::refused_in(&met.client.unwrap_err());
    assert_eq!(refused, Some(Refused::UnknownAuthority));
}

#[tokio::test]
async fn tls_1_2_is_refused() {
    let w = world();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let old = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let met = meet(Arc::new(old), w.server(ClientAuth::Optional), &w.trust).await;
    met.both_refused();
    let error = met.server.unwrap_err().to_string();
    assert!(
        error.contains("Tls13") || error.contains("peer is incompatible"),
        "{error}"
    );
}

#[test]
fn lifetimes_nest_and_chains_are_complete() {
    let now = now_ms();
    let w = world();
    let key = WorkloadKey::generate().unwrap();
    let csr = key.csr_der().unwrap();
    let who = id("west", PAYMENTS);
    let day = w.west.issue(&csr, &who, now, DEFAULT_LIFETIME_S).unwrap();
    let s = i64::try_from(now / 1000).unwrap();
    assert!(day.not_before_unix_s <= s && day.not_before_unix_s >= s - 60);
    assert_eq!(day.not_after_unix_s, s + 24 * 3600);
    assert_eq!(day.chain_der.len(), 3);
    assert_eq!(day.chain_der[1], w.west.authority_der());
    assert_eq!(day.chain_der[2], w.root.cert_der());
    // As long as it likes, but not beyond the authority, nor the authority beyond the root.
    let long = w.west.issue(&csr, &who, now, u64::MAX).unwrap();
    let authority_end = w.west.not_after_unix_s();
    assert_eq!(long.not_after_unix_s, i64::try_from(authority_end).unwrap());
    assert!(authority_end <= now_ms() / 1000 + AUTHORITY_LIFETIME_S);
    let late = now + (ROOT_LIFETIME_S - 100) * 1000;
    let key = AuthorityKey::generate(&cluster("north"), &Domain::default()).unwrap();
    let request = key.csr_der().unwrap();
    let der = w
        .root
        .sign_authority(&request, &cluster("north"), &Domain::default(), late)
        .unwrap();
    let north = Issuer::new(key, der, w.root.cert_der().to_vec()).unwrap();
    assert!(north.not_after_unix_s() <= now_ms() / 1000 + ROOT_LIFETIME_S);
    // Just as the authority begins, a leaf is not backdated before it.
    let early = north.issue(&csr, &id("north", PAYMENTS), late - 60_000, 3600);
    assert_eq!(
        early.unwrap().not_before_unix_s,
        i64::try_from(late / 1000 - 60).unwrap()
    );
    let map = TrustMap::compile(&trust(&w.root, &[&north])).unwrap();
    let leaf = north.issue(&csr, &id("north", PAYMENTS), late, 10).unwrap();
    let at = |s: u64| map.verify(&leaf.chain_der[0], late / 1000 + s, Usage::Client);
    assert!(at(10).is_ok());
    assert_eq!(at(11), Err(Refused::Expired));
}

#[test]
fn what_must_not_be_signed_is_not() {
    let w = world();
    let now = now_ms();
    let key = WorkloadKey::generate().unwrap();
    let csr = key.csr_der().unwrap();
    let who = id("west", PAYMENTS);
    let refused = |csr: &[u8], who: &SpiffeId, now, life| {
        let error = w.west.issue(csr, who, now, life).unwrap_err();
        (error.is_askers_fault(), error)
    };
    let (askers, e) = refused(&csr, &id("east", PAYMENTS), now, 60);
    assert!(
        askers && matches!(e, IssueError::OtherTrustDomain { .. }),
        "{e}"
    );
    let (askers, e) = refused(&csr, &who, now, 0);
    assert!(!askers && matches!(e, IssueError::NoLifetime), "{e}");
    let end = w.west.not_after_unix_s() * 1000;
    let (_, e) = refused(&csr, &who, end, 60);
    assert!(matches!(e, IssueError::IssuerExpired(_)), "{e}");
    let (_, e) = refused(&csr, &who, 1_000_000_000_000, 60);
    assert!(matches!(e, IssueError::IssuerNotYetValid(_)), "{e}");
    let (_, e) = refused(&vec![0; 10_000], &who, now, 60);
    assert!(matches!(e, IssueError::RequestTooLong(10_000)), "{e}");
    // A request whose signed part was changed, its key above all. It follows the outer header of three bytes.
    assert_eq!((csr[0], csr[1], csr[3]), (0x30, 0x81, 0x30));
    for at in 3..5 + usize::from(csr[4]) {
        let mut bent = csr.clone();
        bent[at] ^= 1;
        let (askers, e) = refused(&bent, &who, now, 60);
        assert!(askers, "byte {at}: {e}");
    }
    let p384 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    let csr = rcgen::CertificateParams::default();
    let csr = csr.serialize_request(&p384).unwrap();
    let (_, e) = refused(csr.der(), &who, now, 60);
    assert!(matches!(e, IssueError::KeyKind), "{e}");
}

#[test]
fn a_request_cannot_wish_for_more() {
    let w = world();
    let key = rcgen::KeyPair::generate().unwrap();
    let mut wish = rcgen::CertificateParams::default();
    wish.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    wish.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
    wish.subject_alt_names = vec![rcgen::SanType::URI(
        "spiffe://east.mesh.internal/tradewind/controller/c0"
            .try_into()
            .unwrap(),
    )];
    let csr = wish.serialize_request(&key).unwrap();
    let who = id("west", PAYMENTS);
    let issued = w.west.issue(csr.der(), &who, now_ms(), 60).unwrap();
    let peer = w
        .trust
        .load()
        .verify(&issued.chain_der[0], now_ms() / 1000, Usage::Client);
    assert_eq!(peer.unwrap().id, who);
}

#[test]
fn a_chain_for_another_key_is_not_taken() {
    let w = world();
    let (mine, other) = (
        WorkloadKey::generate().unwrap(),
        WorkloadKey::generate().unwrap(),
    );
    let csr = other.csr_der().unwrap();
    let issued = w
        .west
        .issue(&csr, &id("west", PAYMENTS), now_ms(), 60)
        .unwrap();
    let taken = Svid::new(&mine, &issued.chain_der);
    assert!(matches!(taken, Err(SvidError::Key(_))), "{taken:?}");
    let taken = Svid::new(&mine, &[]);
    assert!(matches!(taken, Err(SvidError::ChainLength(0))), "{taken:?}");
    let taken = Svid::new(&mine, &issued.chain_der[1..]);
    assert!(matches!(taken, Err(SvidError::Leaf(_))), "{taken:?}");
    let key = AuthorityKey::generate(&cluster("west"), &Domain::default()).unwrap();
    let wrong = Issuer::new(
        key,
        w.west.authority_der().to_vec(),
        w.root.cert_der().to_vec(),
    );
    assert!(matches!(
        wrong,
        Err(IssueError::Authority("it is for another key"))
    ));
}

#[test]
fn keys_and_certificates_survive_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    assert!(Root::load(dir.path()).unwrap().is_none());
    assert!(Issuer::load(dir.path()).unwrap().is_none());
    let w = world();
    w.root.save(dir.path()).unwrap();
    w.west.save(dir.path()).unwrap();
    for name in ["root.key", "authority.key"] {
        let mode = std::fs::metadata(dir.path().join(name)).unwrap();
        assert_eq!(mode.permissions().mode() & 0o7777, 0o600, "{name}");
    }
    let root = Root::load(dir.path()).unwrap().unwrap();
    assert_eq!(root.cert_der(), w.root.cert_der());
    let west = Issuer::load(dir.path()).unwrap().unwrap();
    assert_eq!(west.trust_domain(), w.west.trust_domain());
    assert_eq!(west.authority_der(), w.west.authority_der());
    // What the loaded ones sign is accepted by who trusts the first ones.
    let svid = issue(&west, &id("west", PAYMENTS));
    let leaf = svid.certified.end_entity_cert().unwrap();
    let now = now_ms() / 1000;
    assert!(w.trust.load().verify(leaf, now, Usage::Server).is_ok());
    let south = authority(&root, "south");
    assert!(
        TrustMap::compile(&trust(&w.root, &[&south]))
            .unwrap()
            .left_out()
            .is_empty()
    );
}

#[test]
fn keys_that_others_may_read_and_broken_files_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let w = world();
    w.root.save(dir.path()).unwrap();
    let key = dir.path().join("root.key");
    let good = std::fs::read(&key).unwrap();
    for mode in [0o640, 0o604, 0o644, 0o660] {
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(mode)).unwrap();
        let error = Root::load(dir.path()).unwrap_err();
        assert!(matches!(error, StoredError::KeyIsReadable { .. }));
        let text = error.to_string();
        assert!(
            text.contains("root.key") && text.contains("chmod 600"),
            "{text}"
        );
    }
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    assert!(Root::load(dir.path()).unwrap().is_some());
    std::fs::write(&key, &good[..40]).unwrap();
    let error = Root::load(dir.path()).unwrap_err();
    assert!(matches!(error, StoredError::Key { .. }), "{error}");
    std::fs::write(&key, rcgen::KeyPair::generate().unwrap().serialize_pem()).unwrap();
    let error = Root::load(dir.path()).unwrap_err().to_string();
    assert!(error.contains("root.pem: it is for another key"), "{error}");
    std::fs::write(&key, &good).unwrap();
    std::fs::write(dir.path().join("root.pem"), b"nothing").unwrap();
    assert!(Root::load(dir.path()).is_err());
    std::fs::remove_file(dir.path().join("root.pem")).unwrap();
    let error = Root::load(dir.path()).unwrap_err();
    assert!(matches!(error, StoredError::Half { .. }), "{error}");
}

#[test]
fn nothing_secret_is_shown() {
    let dir = tempfile::tempdir().unwrap();
    let w = world();
    w.west.save(dir.path()).unwrap();
    let pem = std::fs::read_to_string(dir.path().join("authority.key")).unwrap();
    let line = pem.lines().nth(1).unwrap();
    assert_eq!(line.len(), 64);
    let key = WorkloadKey::generate().unwrap();
    let shown = format!("{:?} {:?} {:?} {:?}", w.root, w.west, w.service, key);
    assert!(!shown.contains(line));
    assert!(
        shown.contains("WorkloadKey(..)") && shown.len() < 2000,
        "{shown}"
    );
}

#[test]
fn every_ca_has_a_name_of_its_own() {
    let subject = |der: &[u8]| {
        let (_, c) = x509_parser::parse_x509_certificate(der).unwrap();
        c.subject().to_string()
    };
    let w = world();
    let again = authority(&w.root, "west");
    let names = [
        subject(w.root.cert_der()),
        subject(w.west.authority_der()),
        subject(again.authority_der()),
    ];
    assert!(
        names[1].contains("west") && names[1] != names[2],
        "{names:?}"
    );
    assert!(names[0] != world_root_subject(&subject), "{names:?}");
}

fn world_root_subject(subject: &impl Fn(&[u8]) -> String) -> String {
    subject(
        Root::generate(&Domain::default(), now_ms())
            .unwrap()
            .cert_der(),
    )
}
