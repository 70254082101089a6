//! What a controller pushes, and what is kept of it on disk: never a panic, and what is taken over is written as it is read.
#![no_main]

use libfuzzer_sys::fuzz_target;
use prost::Message;
use tradewind_api::{
    convert,
    model::{Cluster, Service},
    proto::v1,
    snapshot::{Snapshot, Trust},
};

fuzz_target!(|data: &[u8]| {
    if let Ok(service) = v1::Service::decode(data) {
        drop(Service::try_from(service));
    }
    if let Ok(cluster) = v1::Cluster::decode(data) {
        drop(Cluster::try_from(cluster));
    }
    if let Ok(trust) = v1::Trust::decode(data) {
        drop(Trust::try_from(trust));
    }
    if let Ok(openings) = v1::Openings::decode(data) {
        drop(convert::read_openings(openings));
    }
    if let Ok(snapshot) = serde_json::from_slice::<Snapshot>(data) {
        let written = serde_json::to_vec(&snapshot).expect("a snapshot is written");
        let again: Snapshot = serde_json::from_slice(&written).expect("and read again");
        assert_eq!(again, snapshot);
    }
});
