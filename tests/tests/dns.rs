//! Names of the clusterset over UDP and TCP, also while the controller is dead, and everything else forwarded.

#![expect(clippy::expect_used, reason = "a test's helpers fail by panicking")]

use std::net::Ipv4Addr;

use hickory_proto::{
    op::{Message, ResponseCode},
    rr::{Name, RData, RecordType, rdata::A},
};
use tradewind_tests::{
    Federation,
    dns::{self, Over, ask, data},
    federation::{ONE, TWO, host},
    metrics,
    wait::{USUAL, until},
};

const WEST: usize = 0;
const EAST: usize = 1;
const PAYMENTS: &str = "payments.shop.svc.clusterset.local.";
const BOTH: [Over; 2] = [Over::Udp, Over::Tcp];

/// The service of the YAML half: its ports have names, as Kubernetes wants them.
const LEDGER: &str = "\
apiVersion: v1
kind: Service
metadata: {name: ledger, namespace: shop}
spec:
  ports:
  - {name: http, port: 80, protocol: TCP}
  - {name: admin, port: 8080, protocol: TCP}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: ledger-1
  namespace: shop
  labels: {kubernetes.io/service-name: ledger}
addressType: IPv4
ports:
- {name: http, port: 80, protocol: TCP}
- {name: admin, port: 8080, protocol: TCP}
endpoints:
- addresses: [127.0.0.1]
  conditions: {ready: true}
---
apiVersion: multicluster.x-k8s.io/v1alpha1
kind: ServiceExport
metadata: {name: ledger, namespace: shop}
";

fn addresses(answer: &Message) -> Vec<RData> {
    assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
    assert!(answer.metadata.authoritative, "the zone is ours");
    data(answer)
}

/// No data, and the SOA of the zone that says for how long.
#[track_caller]
fn negative(answer: &Message, code: ResponseCode) {
    assert_eq!(answer.metadata.response_code, code, "{answer}");
    assert!(answer.answers.is_empty(), "{answer}");
    let soa = answer
        .authorities
        .first()
        .expect("an SOA in a negative answer");
    assert_eq!(soa.record_type(), RecordType::SOA);
    assert_eq!(
        soa.name,
        Name::from_ascii("clusterset.local.").expect("a name")
    );
}

#[tokio::test]
async fn names_are_answered_with_and_without_a_controller() {
    let mut federation = Federation::start(&TWO).await;
    let _workload = federation.workload(EAST, 1, "shop/payments:80").await;
    federation.export(EAST, "shop/payments").await;
    federation.sees(WEST, "shop/payments", 1).await;
    let mut ips = Vec::new();
    for cluster in [WEST, EAST] {
        let services = federation.json(cluster, &["services"]).await;
        let ip = services["services"][0]["clusterset_ips"][0].as_str();
        ips.push(ip.expect("a clusterset IP").to_owned());
    }
    assert_eq!(ips[0], ips[1], "one address in the whole federation");
    let ip = &ips[0];
    let ip: Ipv4Addr = ip.parse().expect("IPv4 comes first");
    let (_dns, server) = federation.start_dns(WEST, &["--no-forwarding"]).await;

    for alive in [true, false] {
        if !alive {
            // Every controller there is.
            for cluster in [WEST, EAST] {
                federation.kill_cluster(cluster).await;
            }
        }
        for over in BOTH {
            // Case does not matter, and the clusterset IP is the same everywhere and stays.
            for name in [PAYMENTS, "Payments.SHOP.svc.clusterset.local."] {
                let a = ask(server, over, name, RecordType::A).await.unwrap();
                assert_eq!(addresses(&a), [RData::A(A(ip))], "{over:?} {name} {alive}");
                assert!(a.answers[0].ttl <= 30, "failover does not wait for caches");
            }
            let aaaa = ask(server, over, PAYMENTS, RecordType::AAAA).await.unwrap();
            match addresses(&aaaa).as_slice() {
                [] => negative(&aaaa, ResponseCode::NoError),
                all => assert!(all.iter().all(|d| matches!(d, RData::AAAA(_))), "{all:?}"),
            }
            let srv = ask(server, over, PAYMENTS, RecordType::SRV).await.unwrap();
            let all = addresses(&srv);
            let [RData::SRV(srv)] = all.as_slice() else {
                panic!("one SRV record: {all:?}");
            };
            assert_eq!(
                (srv.port, &srv.target),
                (80, &Name::from_ascii(PAYMENTS).unwrap())
            );
            let version = "dns-version.clusterset.local.";
            let txt = ask(server, over, version, RecordType::TXT).await.unwrap();
            let all = addresses(&txt);
            let [RData::TXT(txt)] = all.as_slice() else {
                panic!("one TXT record: {all:?}");
            };
            assert_eq!(txt.txt_data[0].as_ref(), b"1.0.0");

            // Nothing is invented: other names, other clusters' words, ports nobody named.
            for name in [
                "refunds.shop.svc.clusterset.local.",
                "payments.other.svc.clusterset.local.",
                "_http._tcp.payments.shop.svc.clusterset.local.",
                "x.payments.shop.svc.clusterset.local.",
                "clusterset.clusterset.local.",
            ] {
                let none = ask(server, over, name, RecordType::A).await.unwrap();
                negative(&none, ResponseCode::NXDomain);
            }
            let text = ask(server, over, PAYMENTS, RecordType::TXT).await.unwrap();
            negative(&text, ResponseCode::NoError);
            // What is not ours is not ours to deny.
            let foreign = ask(server, over, "example.com.", RecordType::A)
                .await
                .unwrap();
            assert_eq!(foreign.metadata.response_code, ResponseCode::ServFail);
        }
    }
}

#[tokio::test]
async fn named_ports_have_srv_records_and_the_rest_is_forwarded() {
    let mut federation = Federation::start(&ONE).await;
    let manifests = federation.dir().join("manifests");
    std::fs::create_dir(&manifests).unwrap();
    std::fs::write(manifests.join("ledger.yaml"), LEDGER).unwrap();
    federation.kill_cluster(WEST).await;
    federation.start_controller_with(WEST, &["--manifests", manifests.to_str().unwrap()]);
    federation.start_gateway(WEST);
    federation.is_well(WEST).await;
    let there = RData::A(A(Ipv4Addr::new(192, 0, 2, 7)));
    let upstream = federation.addr(WEST, 9, 53);
    let upstream = dns::upstream(upstream, there.clone()).await.to_string();
    let (_dns, server) = federation.start_dns(WEST, &["--upstream", &upstream]).await;

    let name = "_admin._tcp.ledger.shop.svc.clusterset.local.";
    for over in BOTH {
        let srv = until("the exported service's SRV record", USUAL, || async {
            let answer = ask(server, over, name, RecordType::SRV).await?;
            match answer.metadata.response_code {
                ResponseCode::NoError => Ok(answer),
                code => Err(code.to_string()),
            }
        })
        .await;
        let all = addresses(&srv);
        let [RData::SRV(srv)] = all.as_slice() else {
            panic!("one SRV record: {all:?}");
        };
        let target = Name::from_ascii("ledger.shop.svc.clusterset.local.").unwrap();
        assert_eq!((srv.port, &srv.target), (8080, &target));

        let answer = ask(server, over, "example.com.", RecordType::A)
            .await
            .unwrap();
        assert_eq!(data(&answer), std::slice::from_ref(&there), "{over:?}");
        assert!(!answer.metadata.authoritative, "it is not ours");
    }
    let admin = federation.addr(WEST, host::DNS, 15020);
    let forwarded = ["outcome=\"forwarded\""];
    metrics::reaches(admin, "tradewind_dns_queries", &forwarded, 2.0).await;
}
