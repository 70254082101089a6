//! Leaving a cluster through its own gateway, with real sockets: who may, what a caller hears when the way is broken, and
//! that nothing goes round in a circle.

use super::*;
use crate::exits::tests::made;

/// West's own callers' name for east's `shop/payments`, as the snapshot has it.
fn leaving(s: &mut Snapshot) -> String {
    let expires = clock::system().unix_ms() / 1000 + 60;
    let target = Target::Sealed {
        cluster: ClusterName::new("east").unwrap(),
        endpoint: Some(EndpointId::new("b").unwrap()),
        seal: made(s, 1, expires),
    };
    encode(&target, &Domain::default())
}

/// A gateway of east that opens what west's callers send.
async fn far(pki: &Pki, tasks: &mut TaskSet) -> Running {
    let mut s = snapshot(&[("shop/payments", true, 80)]);
    for name in ["a", "b"] {
        let at = workload(pki, name, tasks).await.to_string();
        endpoint(
            &mut s,
            "shop/payments",
            "east",
            name,
            Health::Healthy,
            &at,
            80,
        );
    }
    cluster(&mut s, "west").local = false;
    cluster(&mut s, "east").local = true;
    cluster(&mut s, "east").sealed_only = true;
    crate::names::tests::opens(&mut s, "west", &[1]);
    start(s, |_| {})
}

/// A gateway of west that passes on to `gateways` of east, and the name that its callers use.
fn near(gateways: &[SocketAddr]) -> (Running, String) {
    let mut s = snapshot(&[("shop/payments", true, 80)]);
    cluster(&mut s, "east").gateways = gateways.iter().map(ToString::to_string).collect();
    let name = leaving(&mut s);
    (start(s, |c| c.pass_on = true), name)
}

#[tokio::test]
async fn a_call_leaves_through_its_own_gateway_and_is_counted_at_both() {
    let (pki, mut tasks) = (Pki::new(), TaskSet::new());
    let far = far(&pki, &mut tasks).await;
    let (gone, _held) = dead();
    let (near, name) = near(&[gone, far.address]);
    let mut stream = call(&pki, near.address, &name).await.unwrap();
    assert_eq!(served_by(&mut stream).await, "b");
    assert!(echoes(&mut stream, "through both").await);
    near.metric(r#"tradewind_gateway_connections_active{to="gateway",peer="east"} 1"#)
        .await;
    far.metric(r#"tradewind_gateway_connections_active{to="shop/payments:80",peer="west"} 1"#)
        .await;
}

#[tokio::test]
async fn nobody_else_leaves_through_it() {
    let (pki, mut tasks) = (Pki::new(), TaskSet::new());
    let far = far(&pki, &mut tasks).await;
    let (near, good) = near(&[far.address]);
    drop(call(&pki, near.address, &good).await.unwrap());
    let controller = Target::Controller {
        cluster: ClusterName::new("east").unwrap(),
    };
    // Good under the same key, but none of those that this cluster's controller made.
    let own = Target::Sealed {
        cluster: ClusterName::new("east").unwrap(),
        endpoint: None,
        seal: crate::names::tests::sealed(
            &crate::names::tests::minter("west", "east", 1),
            "shop/payments",
            clock::system().unix_ms() / 1000 + 50,
        ),
    };
    for name in [
        to("east", "shop/payments", None),
        encode(&controller, &Domain::default()),
        encode(&own, &Domain::default()),
    ] {
        let error = call(&pki, near.address, &name).await.unwrap_err();
        assert!(
            alert_of(&error).contains("AccessDenied"),
            "{name}: {error:?}"
        );
    }
    near.metric(
        r#"tradewind_gateway_connections_refused_total{reason="other_cluster",to="",peer=""} 2"#,
    )
    .await;
    near.metric(
        r#"tradewind_gateway_connections_refused_total{reason="seal_unknown",to="",peer=""} 1"#,
    )
    .await;
    near.metric(r#"tradewind_gateway_connections_opened_total{to="gateway",peer="east"} 1"#)
        .await;
    // Told not to: not even a good one.
    let mut s = snapshot(&[("shop/payments", true, 80)]);
    cluster(&mut s, "east").gateways = vec![far.address.to_string()];
    let name = leaving(&mut s);
    let closed = start(s, |_| {});
    let error = call(&pki, closed.address, &name).await.unwrap_err();
    assert!(alert_of(&error).contains("AccessDenied"), "{error:?}");
}

#[tokio::test]
async fn a_broken_way_is_told_apart_from_a_broken_endpoint_and_a_circle_ends_at_once() {
    let pki = Pki::new();
    let ((gone, _held), (lost, _kept)) = (dead(), dead());
    let (near, name) = near(&[gone, lost]);
    let error = call(&pki, near.address, &name).await.unwrap_err();
    assert!(
        alert_of(&error).contains("CertificateUnobtainable"),
        "{error:?}"
    );
    near.metric(r#"tradewind_gateway_connections_refused_total{reason="cluster_unreached",to="gateway",peer="east"} 1"#)
        .await;
    // East announces, of all gateways, this one.
    let mut s = Snapshot::clone(&near.snapshot.borrow());
    cluster(&mut s, "east").gateways = vec![near.address.to_string()];
    near.snapshot.send_replace(Arc::new(s));
    let error = call(&pki, near.address, &name).await.unwrap_err();
    assert!(
        alert_of(&error).contains("CertificateUnobtainable"),
        "{error:?}"
    );
    near.metric(r#"tradewind_gateway_connections_refused_total{reason="circle",to="gateway",peer="east"} 1"#)
        .await;
    near.metric(r#"tradewind_gateway_connections_active{to="gateway",peer="east"} 0"#)
        .await;
}
