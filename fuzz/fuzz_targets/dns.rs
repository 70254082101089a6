//! A stranger's DNS message: never a panic, never an answer to an answer, and never more by UDP than the asker said it takes.
#![no_main]

use std::sync::LazyLock;

use hickory_proto::{
    op::{Message, MessageType},
    serialize::binary::BinDecodable as _,
};
use libfuzzer_sys::fuzz_target;
use tradewind_api::{
    ClusterName, Network, Region, Revision,
    model::{AppProtocol, Cluster, ClusterState, Service, ServiceKind, ServicePort},
    snapshot::Snapshot,
};
use tradewind_dns::respond::{Triage, encode, triage, udp_limit};

/// One service with an address, so that there is something to find.
static SNAPSHOT: LazyLock<Snapshot> = LazyLock::new(|| {
    let mut snapshot = Snapshot {
        revision: Revision(1),
        ..Snapshot::default()
    };
    let (Ok(west), Ok(region), Ok(network), Ok(name)) = (
        ClusterName::new("west"),
        Region::new("r"),
        Network::new("n"),
        "shop/payments".parse(),
    ) else {
        return snapshot;
    };
    let cluster = Cluster {
        name: west.clone(),
        region,
        network,
        state: ClusterState::Active,
        gateways: vec![],
        lease_expired: false,
        sealed_only: false,
        controllers: std::collections::BTreeMap::new(),
        round_trip_us: None,
        local: true,
    };
    snapshot.clusters.insert(west.clone(), cluster.into());
    let service = Service {
        name,
        kind: ServiceKind::ClusterSetIp,
        clusterset_ips: vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()],
        cluster_ips: Vec::new(),
        ports: vec![ServicePort {
            name: "http".into(),
            port: 80,
            app_protocol: AppProtocol::Http1,
        }],
        exported_by: [west].into(),
        endpoints: vec![],
        seals: vec![],
    };
    snapshot.services.insert(service.name.clone(), service.into());
    snapshot
});

fuzz_target!(|bytes: &[u8]| {
    let limit = udp_limit(bytes);
    assert!((512..=1232).contains(&limit));
    let (Triage::Reply(response, _) | Triage::Forward(_, response)) = triage(bytes, &SNAPSHOT) else {
        return;
    };
    if let Ok(asked) = Message::from_bytes(bytes) {
        assert_eq!(asked.metadata.message_type, MessageType::Query);
    }
    if let Some(sent) = encode(&response, limit) {
        assert!(sent.len() <= usize::from(limit));
        let told = Message::from_bytes(&sent).expect("what is sent is a message");
        assert_eq!(told.metadata.message_type, MessageType::Response);
        assert_eq!(told.metadata.id, u16::from_be_bytes([bytes[0], bytes[1]]));
    }
});
