//! Sealed names through real sockets: who has a good one is carried, everybody else is refused before anybody is dialled,
//! and a name that was copied off the wire is worth nothing at the endpoint.

use super::*;
use crate::names::tests::{minter, opens, sealed};

/// A name for west's gateways, made as `caller`'s controller does for `target` under a key.
pub(super) fn name(caller: &str, target: &str, key: u32, service: &str, valid_s: i64) -> String {
    let now = clock::system().unix_ms() / 1000;
    let expires = now.saturating_add_signed(valid_s);
    let target = Target::Sealed {
        cluster: ClusterName::new("west").unwrap(),
        endpoint: None,
        seal: sealed(&minter(caller, target, key), service, expires),
    };
    encode(&target, &Domain::default())
}

/// West's gateway, which takes sealed names alone and has east's key 1.
async fn strict(pki: &Pki, tasks: &mut TaskSet) -> Running {
    let mut s = mesh(pki, tasks).await;
    cluster(&mut s, "west").sealed_only = true;
    opens(&mut s, "east", &[1]);
    let g = start(s, |_| {});
    g.readiness.wait_ready().await;
    g
}

#[tokio::test]
async fn a_member_is_carried_and_counted_by_its_name() {
    let (pki, mut tasks) = (Pki::new(), TaskSet::new());
    let g = strict(&pki, &mut tasks).await;
    let good = name("east", "west", 1, "shop/payments", 60);
    let mut stream = call(&pki, g.address, &good).await.unwrap();
    served_by(&mut stream).await;
    assert!(echoes(&mut stream, "sealed").await);
    let labels = r#"{to="shop/payments:80",peer="east"}"#;
    g.metric(&format!("tradewind_gateway_connections_active{labels} 1"))
        .await;
    // One connection has one first byte, whatever follows.
    assert!(echoes(&mut stream, "and more").await);
    assert_eq!(
        counted(
            &g,
            &format!("tradewind_gateway_first_byte_seconds_count{labels}")
        ),
        1
    );
    drop(stream);
    g.metric(&format!(
        "tradewind_gateway_connections_closed_total{labels} 1"
    ))
    .await;
    assert!(counted(&g, &format!("tradewind_gateway_bytes_sent_total{labels}")) > 0);
}

#[tokio::test]
async fn everybody_else_is_refused_before_anybody_is_dialled() {
    let (pki, mut tasks) = (Pki::new(), TaskSet::new());
    let g = strict(&pki, &mut tasks).await;
    let bent = {
        let good = name("east", "west", 1, "shop/payments", 60);
        // One character of the sealed part.
        let at = good.find('.').unwrap() + 30;
        let other = if good.as_bytes()[at] == b'a' {
            "b"
        } else {
            "a"
        };
        let mut bent = good;
        bent.replace_range(at..=at, other);
        bent
    };
    for (name, reason, alert) in [
        (to("west", "shop/payments", None), "no_seal", "AccessDenied"),
        (
            name("south", "west", 9, "shop/payments", 60),
            "seal_unknown",
            "AccessDenied",
        ),
        (
            name("west", "east", 1, "shop/payments", 60),
            "seal_broken",
            "AccessDenied",
        ),
        (
            name("east", "south", 1, "shop/payments", 60),
            "seal_broken",
            "AccessDenied",
        ),
        (bent, "seal_broken", "AccessDenied"),
        (
            name("east", "west", 1, "shop/payments", -1),
            "seal_expired",
            "CertificateExpired",
        ),
        (
            name("east", "west", 1, "shop/secret", 60),
            "not_exported",
            "UnrecognisedName",
        ),
        (
            name("east", "west", 1, "shop/none", 60),
            "not_exported",
            "UnrecognisedName",
        ),
    ] {
        let line = format!(r#"tradewind_gateway_connections_refused_total{{reason="{reason}","#);
        let before = counted(&g, &line);
        let error = call(&pki, g.address, &name).await.unwrap_err();
        assert!(alert_of(&error).contains(alert), "{name}: {error:?}");
        assert_eq!(counted(&g, &line), before + 1, "{reason} {name}");
    }
    assert_eq!(counted(&g, "tradewind_gateway_dials"), 0);
    assert_eq!(counted(&g, "tradewind_gateway_connections_opened"), 0);
}

#[tokio::test]
async fn a_name_copied_off_the_wire_ends_at_the_endpoints_own_door() {
    let (pki, mut tasks) = (Pki::new(), TaskSet::new());
    let g = strict(&pki, &mut tasks).await;
    let overheard = name("east", "west", 1, "shop/payments", 60);
    let mut member = call(&pki, g.address, &overheard).await.unwrap();
    served_by(&mut member).await;
    // A stranger with the name of a member and a certificate of his own root: he is passed on, and the endpoint's TLS
    // refuses him. Nothing of his reaches the application.
    let stranger = Pki::new();
    let config = tls::client_config(&stranger.svid("east"), &pki.cell(), Expect::AnyMember);
    let stream = TcpStream::connect(g.address).await.unwrap();
    let server = ServerName::try_from(overheard).unwrap();
    let refused = async {
        let mut stream = TlsConnector::from(config).connect(server, stream).await?;
        let mut said = [0_u8; 1];
        stream.read_exact(&mut said).await
    };
    let error = time::timeout(Duration::from_secs(10), refused)
        .await
        .unwrap()
        .unwrap_err();
    assert!(alert_of(&error).contains("AlertReceived"), "{error:?}");
    g.metric(r#"tradewind_gateway_dials_total{to="shop/payments:80",peer="east",result="ok"} 2"#)
        .await;
    assert!(echoes(&mut member, "undisturbed").await);
}

#[tokio::test]
async fn both_forms_are_taken_while_a_federation_is_on_its_way() {
    let (pki, mut tasks) = (Pki::new(), TaskSet::new());
    let mut s = mesh(&pki, &mut tasks).await;
    opens(&mut s, "east", &[1]);
    let g = start(s.clone(), |_| {});
    let good = name("east", "west", 1, "shop/payments", 60);
    for name in [to("west", "shop/payments", None), good.clone()] {
        let mut stream = call(&pki, g.address, &name).await.unwrap();
        served_by(&mut stream).await;
    }
    // The keys are exchanged for others: what was made with the old ones is a stranger's.
    opens(&mut s, "east", &[2]);
    g.snapshot.send_replace(Arc::new(s));
    let error = call(&pki, g.address, &good).await.unwrap_err();
    assert!(alert_of(&error).contains("AccessDenied"), "{error:?}");
}
