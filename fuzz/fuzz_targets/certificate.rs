//! Certificates, as a peer's leaf and as what a snapshot brings to trust: never a panic, and nobody is accepted on them alone.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tradewind_api::snapshot::Trust;
use tradewind_transport::trust::{TrustMap, Usage};

fuzz_target!(|data: &[u8]| {
    let now_unix_s = 1_795_000_000;
    let nobody = TrustMap::default();
    for usage in [Usage::Client, Usage::Server] {
        assert!(nobody.verify(data, now_unix_s, usage).is_err());
    }
    let mut trust = Trust {
        roots: [data.to_vec()].into(),
        ..Trust::default()
    };
    let east = "east".parse().expect("a name");
    let domain = trust.domain.trust_domain(&east);
    trust.authorities.insert(domain, [data.to_vec()].into());
    if let Ok(map) = TrustMap::compile(&trust) {
        drop(map.verify(data, now_unix_s, Usage::Client));
    }
});
