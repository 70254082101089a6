//! Who is refused: certificates of another root, other services' identities, strangers, and whoever asks for what is not
//! exported. Every refusal stands beside the same attempt by somebody who may, so that it is not refused for another reason.

#![expect(clippy::expect_used, reason = "a test's helpers fail by panicking")]

use std::{os::unix::fs::PermissionsExt as _, sync::Arc, time::Duration};

use tokio::sync::Barrier;
use tradewind_tests::{
    Federation, apps,
    federation::{GATEWAY, ONE, TWO, host},
    http, metrics, peer,
    seals::{self, Sealer},
    wait::{USUAL, until},
};
use tradewind_transport::{
    svid::SvidCell,
    tls::{self, ClientAuth, Expect},
};

const WEST: usize = 0;
const EAST: usize = 1;
const WEB: &str = "/ns/shop/sa/web";
const PAYMENTS: &str = "/ns/shop/sa/payments";

fn expecting(id: &str) -> Expect {
    Expect::OneOf(Arc::new([id.parse().expect("an identity")].into()))
}

/// A federation of the same names under another root: founded, never run.
async fn other_root(federation: &Federation) -> tradewind_ca::Issuer {
    let dir = federation.dir().join("other");
    let args = [
        "init",
        "--cluster",
        "west",
        "--region",
        "us-west",
        "--gateway",
        "127.0.0.1:1",
        "--data-dir",
        dir.to_str().expect("a plain path"),
    ];
    tradewind_tests::process::run(&args).await.good();
    peer::authority(&dir)
}

/// Waits until nobody listens on an address any more.
async fn free(address: std::net::SocketAddr) {
    until(&format!("{address} to be free"), USUAL, || async {
        tokio::net::TcpListener::bind(address).await.map(drop)
    })
    .await;
}

#[tokio::test]
async fn callers_of_another_root_and_strangers_are_refused() {
    let federation = Federation::start(&ONE).await;
    let workload = federation.workload(WEST, 1, "shop/payments:80").await;
    let ours = peer::authority(&federation.clusters[WEST].data_dir);
    let theirs = other_root(&federation).await;
    let trust = peer::trust(&[&ours]);
    let expect = || expecting("spiffe://west.mesh.internal/ns/shop/sa/payments");
    let name = || peer::name("west", "shop/payments:80");
    let dropped = "tradewind_inbound_connections_dropped";

    // Ours is served.
    let certificate = peer::certificate(&ours, WEB);
    let config = tls::client_config(&certificate, &trust, expect());
    let session = peer::dial(workload.hbone, config, name()).await.unwrap();
    let answer = session.get("shop/payments:80").await.unwrap();
    assert_eq!(answer, (200, "payments from west/1".to_owned()));
    let before = metrics::total(workload.admin, dropped, &[]).await.unwrap();
    assert_eq!(before, 0.0, "nobody was refused yet");

    // The same name, signed below another root, is refused although it believes us.
    let certificate = peer::certificate(&theirs, WEB);
    let config = tls::client_config(&certificate, &trust, expect());
    let refused = peer::dial(workload.hbone, config, name()).await;
    refused.expect_err("a certificate of another root");
    let reason = ["reason=\"unknown_authority\""];
    metrics::reaches(workload.admin, dropped, &reason, 1.0).await;

    // Nobody at all is refused.
    let config = tls::anonymous_client_config(&trust, expect());
    let refused = peer::dial(workload.hbone, config, name()).await;
    refused.expect_err("no certificate");
    let reason = ["reason=\"handshake\""];
    metrics::reaches(workload.admin, dropped, &reason, 1.0).await;

    // A controller's door is as closed to another root: its listener takes strangers, and believes none of them.
    let controller = federation.addr(WEST, host::CONTROLLER, 15012);
    let admin = federation.addr(WEST, host::CONTROLLER, 15020);
    let certificate = peer::certificate(&theirs, "/tradewind/controller/1");
    let config = tls::client_config(&certificate, &trust, Expect::AnyController);
    let refused = peer::dial(controller, config, name()).await;
    refused.expect_err("a controller of another root");
    let dropped = "tradewind_controller_connections_dropped";
    metrics::reaches(admin, dropped, &[], 1.0).await;
}

#[tokio::test]
async fn impostors_at_a_services_address_get_no_call() {
    let federation = Federation::start(&ONE).await;
    let mut workload = federation.workload(WEST, 1, "shop/payments:80").await;
    let ours = peer::authority(&federation.clusters[WEST].data_dir);
    let theirs = other_root(&federation).await;
    let trust = peer::trust(&[&ours]);
    let (_caller, address) = federation.caller(WEST, 0, "shop/payments:80").await;
    let answer = http::get(address, "/").await.unwrap().ok().unwrap();
    assert_eq!(answer.text(), "payments from west/1");
    workload.kill().await;

    // Below another root, under the very name.
    let certificate = peer::certificate(&theirs, PAYMENTS);
    let config = tls::server_config(&certificate, &trust, ClientAuth::Optional);
    let impostor = apps::bind(workload.hbone).await;
    let (seen, listening) = peer::answer(impostor, config, "impostor");
    let answer = http::get(address, "/").await.unwrap();
    assert_eq!(answer.status, 503, "{}", answer.text());
    until("the caller to look at the impostor", USUAL, || async {
        drop(http::get(address, "/").await);
        if seen.connections() > 0 {
            Ok(())
        } else {
            Err(0)
        }
    })
    .await;
    assert_eq!(seen.requests(), 0, "a call reached the impostor");
    drop(listening);

    // Of our root, under another service's name: a proxy of shop/other where payments was.
    let app = federation.addr(WEST, 12, 8080);
    apps::http1(apps::bind(app).await, "other", Arc::new(Barrier::new(1)));
    let spec = format!("shop/other:80={app}");
    free(workload.hbone).await;
    let other = federation.start_serving_as(WEST, 1, &spec, "shop/other", &[]);
    federation.ready(other.admin).await;
    let (_second, fresh) = federation.caller(WEST, 1, "shop/payments:80").await;
    for caller in [address, fresh] {
        let answer = http::get(caller, "/").await.unwrap();
        assert_eq!(answer.status, 503, "{}", answer.text());
    }
    let (_third, itself) = federation.caller(WEST, 2, "shop/other:80").await;
    let answer = http::get(itself, "/").await.unwrap().ok().unwrap();
    assert_eq!(answer.text(), "other", "under its own name it is served");
    let accepted = "tradewind_inbound_responses";
    let answered = metrics::total(other.admin, accepted, &[]).await.unwrap();
    assert_eq!(answered, 1.0, "it answered its own caller and nobody else");

    // The right root and the right name is no impostor: the same server is believed.
    drop(other);
    let certificate = peer::certificate(&ours, PAYMENTS);
    let config = tls::server_config(&certificate, &trust, ClientAuth::Required);
    free(workload.hbone).await;
    let again = apps::bind(workload.hbone).await;
    let (_seen, _listening) = peer::answer(again, config, "believed");
    let (_fourth, address) = federation.caller(WEST, 3, "shop/payments:80").await;
    let answer = until("the believed server's answer", USUAL, || async {
        http::get(address, "/").await?.ok()
    })
    .await;
    assert_eq!(answer.text(), "believed");
}

#[tokio::test]
async fn what_is_not_exported_is_reached_by_no_way() {
    let federation = Federation::start(&TWO).await;
    // One proxy in the east fronts an exported service and one that is not.
    let app = federation.addr(EAST, 11, 8080);
    apps::http1(apps::bind(app).await, "payments", Arc::new(Barrier::new(1)));
    let (open, secret) = (
        format!("shop/payments:80={app}"),
        format!("shop/secret:80={app}"),
    );
    let workload = federation
        .serve(EAST, 1, &open, &["--serve", &secret])
        .await;
    federation.export(EAST, "shop/payments").await;
    federation.sees(WEST, "shop/payments", 1).await;
    federation.sees(EAST, "shop/secret", 1).await;
    let (west, east) = (
        peer::authority(&federation.clusters[WEST].data_dir),
        peer::authority(&federation.clusters[EAST].data_dir),
    );
    let trust = peer::trust(&[&west, &east]);
    let member = peer::certificate(&west, WEB);
    let local = peer::certificate(&east, WEB);
    let config = |c: &SvidCell| tls::client_config(c, &trust, Expect::AnyMember);
    let gateway = federation.addr(EAST, host::GATEWAY, GATEWAY);
    let admin = federation.addr(EAST, host::GATEWAY, 15020);
    // A member's name for anything, also for what no controller would make one for.
    let sealer = &Sealer::of(&federation, WEST).await;
    let through = |service: &'static str| {
        let config = config(&member);
        async move { peer::dial(gateway, config, sealer.name("east", service)).await }
    };

    // By the gateway: the exported one is carried, the other ends before any TLS.
    let session = through("shop/payments:80").await.unwrap();
    assert_eq!(session.get("shop/payments:80").await.unwrap().0, 200);
    let refused = "tradewind_gateway_connections_refused";
    let labels = ["reason=\"not_exported\""];
    let before = metrics::total(admin, refused, &labels).await.unwrap();
    for (n, name) in ["shop/secret:80", "shop/payments:81", "shop/nothing:80"]
        .into_iter()
        .enumerate()
    {
        let error = through(name).await.expect_err("it is not exported");
        assert!(error.contains("UnrecognisedName"), "{name}: {error}");
        metrics::reaches(admin, refused, &labels, before + 1.0 + n as f64).await;
    }

    // By the exported one's session: asked for inside of it, as a request and as a tunnel.
    assert_eq!(session.get("shop/secret:80").await.unwrap().0, 403);
    assert_eq!(session.connect("shop/secret:80").await.unwrap(), 403);
    assert_eq!(session.connect("shop/payments:80").await.unwrap(), 200);
    assert_eq!(session.get("shop/nothing:80").await.unwrap().0, 404);

    // Without the gateway: a foreign member at the proxy's own door.
    let name = || peer::name("east", "shop/secret:80");
    let direct = peer::dial(workload.hbone, config(&member), name()).await;
    let direct = direct.unwrap();
    assert_eq!(direct.get("shop/secret:80").await.unwrap().0, 403);
    assert_eq!(direct.connect("shop/secret:80").await.unwrap(), 403);
    // The cluster's own callers reach it, so the door works.
    let own = peer::dial(workload.hbone, config(&local), name()).await;
    assert_eq!(own.unwrap().get("shop/secret:80").await.unwrap().0, 200);

    // By a member's proxy: it has never heard of it.
    let (_caller, address) = federation.caller(WEST, 0, "shop/secret:80").await;
    let answer = http::get(address, "/").await.unwrap();
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert!(answer.text().contains("shop/secret"), "{}", answer.text());

    // What is exported no more is cut off, live sessions included.
    let tunnel = session.open("shop/payments:80").await.unwrap();
    federation
        .cli(EAST, &["unexport", "shop/payments"])
        .await
        .good();
    tunnel.ended(Duration::from_secs(10)).await.unwrap();
    until("the gateway to refuse it", USUAL, || async {
        match through("shop/payments:80").await {
            Err(error) if error.contains("UnrecognisedName") => Ok(()),
            other => Err(other.map(|_| "carried")),
        }
    })
    .await;
    until("the proxy to refuse it", USUAL, || async {
        match direct.get("shop/payments:80").await? {
            (403, _) => Ok(()),
            (status, text) => Err(format!("{status} {text}")),
        }
    })
    .await;
}

#[tokio::test]
async fn names_without_a_good_seal_end_at_the_gateway_and_a_copied_one_at_the_endpoint() {
    let federation = Federation::start(&TWO).await;
    let workload = federation.workload(EAST, 1, "shop/payments:80").await;
    federation.export(EAST, "shop/payments").await;
    federation.sees(WEST, "shop/payments", 1).await;
    let (west, east) = (
        peer::authority(&federation.clusters[WEST].data_dir),
        peer::authority(&federation.clusters[EAST].data_dir),
    );
    let trust = peer::trust(&[&west, &east]);
    let member = peer::certificate(&west, WEB);
    let config = || tls::client_config(&member, &trust, Expect::AnyMember);
    let gateway = federation.addr(EAST, host::GATEWAY, GATEWAY);
    let admin = federation.addr(EAST, host::GATEWAY, 15020);
    let (sealer, other) = (
        Sealer::of(&federation, WEST).await,
        Sealer::of(&federation, EAST).await,
    );
    const SERVICE: &str = "shop/payments:80";
    let dials = metrics::total(admin, "tradewind_gateway_dials", &[])
        .await
        .unwrap();
    for (name, reason, alert) in [
        (peer::name("east", SERVICE), "no_seal", "AccessDenied"),
        // East's own names for west, sent to east.
        (
            seals::named("east", other.seal("west", SERVICE, 60), None),
            "seal_unknown",
            "AccessDenied",
        ),
        (
            seals::named("east", sealer.seal("east", SERVICE, -5), None),
            "seal_expired",
            "CertificateExpired",
        ),
    ] {
        let refused = peer::dial(gateway, config(), name).await;
        let error = refused.expect_err(reason);
        assert!(error.contains(alert), "{reason}: {error}");
        let labels = format!("reason=\"{reason}\"");
        let counted = "tradewind_gateway_connections_refused";
        metrics::reaches(admin, counted, &[&labels], 1.0).await;
    }
    let after = metrics::total(admin, "tradewind_gateway_dials", &[])
        .await
        .unwrap();
    assert_eq!(after, dials, "nobody was dialled for them");

    // A good one is carried, and counted as its cluster's.
    let overheard = || sealer.name("east", SERVICE);
    let session = peer::dial(gateway, config(), overheard()).await.unwrap();
    assert_eq!(session.get(SERVICE).await.unwrap().0, 200);
    let opened = "tradewind_gateway_connections_opened";
    metrics::reaches(
        admin,
        opened,
        &["to=\"shop/payments:80\"", "peer=\"west\""],
        1.0,
    )
    .await;
    // Replayed by who has no certificate of the federation's, it leads to the endpoint's own refusal.
    let stranger = peer::certificate(&other_root(&federation).await, WEB);
    let dropped = "tradewind_inbound_connections_dropped";
    for config in [
        tls::client_config(&stranger, &trust, Expect::AnyMember),
        tls::anonymous_client_config(&trust, Expect::AnyMember),
    ] {
        let before = metrics::total(workload.admin, dropped, &[]).await.unwrap();
        let refused = peer::dial(gateway, config, overheard()).await;
        refused.expect_err("no certificate of this federation");
        metrics::reaches(workload.admin, dropped, &[], before + 1.0).await;
    }
    assert_eq!(session.get(SERVICE).await.unwrap().0, 200, "undisturbed");

    // What a proxy itself sends says neither service nor caller.
    let (_caller, address) = federation.caller(WEST, 0, SERVICE).await;
    let answer = http::get(address, "/").await.unwrap().ok().unwrap();
    assert_eq!(answer.text(), "payments from east/1");
    metrics::reaches(admin, opened, &["peer=\"west\""], 2.0).await;
    let clear = metrics::total(admin, opened, &["to=\"shop/payments:80\"", "peer=\"\""]).await;
    assert_eq!(clear.unwrap(), 0.0);
}

/// How every private key of an elliptic curve starts in PKCS#8: version, and the algorithm's name.
const PKCS8: &[u8] = &[
    2, 1, 0, 0x30, 0x13, 6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1,
];

#[tokio::test]
async fn no_private_key_is_on_disk_but_the_authorities_and_the_sealed_names() {
    let federation = Federation::start(&TWO).await;
    let _workload = federation.workload(EAST, 1, "shop/payments:80").await;
    federation.export(EAST, "shop/payments").await;
    federation.sees(WEST, "shop/payments", 1).await;
    let (_caller, address) = federation.caller(WEST, 0, "shop/payments:80").await;
    http::get(address, "/").await.unwrap().ok().unwrap();
    let (_dns, _) = federation.start_dns(WEST, &["--no-forwarding"]).await;

    let mut keys = Vec::new();
    let mut left = vec![federation.dir().to_owned()];
    let mut seen = 0;
    while let Some(dir) = left.pop() {
        for entry in std::fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let Ok(bytes) = std::fs::read(&path) else {
                if path.is_dir() {
                    left.push(path);
                }
                continue;
            };
            seen += 1;
            let holds = |what: &[u8]| bytes.windows(what.len()).any(|w| w == what);
            let seals = bytes.starts_with(b"TWSK") || bytes.starts_with(b"TWOP");
            if seals || holds(b"PRIVATE KEY") || holds(PKCS8) {
                let mode = path.metadata().unwrap().permissions().mode();
                let relative = path.strip_prefix(federation.dir()).unwrap();
                keys.push(format!("{} {:o}", relative.display(), mode & 0o777));
            }
        }
    }
    keys.sort();
    // The root's key is the founder's alone, and every cluster's authority its own. For sealed names a controller keeps what
    // opens its boxes and a gateway what opens names; no proxy has any of it.
    let expected = [
        "east/authority.key 600",
        "east/seal.key 600",
        "east/state/gateway/openings.sealed 600",
        "west/authority.key 600",
        "west/root.key 600",
        "west/seal.key 600",
        "west/state/gateway/openings.sealed 600",
    ];
    assert_eq!(keys, expected, "of {seen} files");
    assert!(seen > 20, "the logs, stores and snapshots are among them");
}
