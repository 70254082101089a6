//! A stranger's label: never a panic, one way to write each, and nothing opens that was not minted.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tradewind_api::{ClusterName, Domain};
use tradewind_transport::seal::{Opener, Pair, Seal};

fuzz_target!(|label: &str| {
    let Some(seal) = Seal::parse(label) else {
        return;
    };
    assert_eq!(seal.label(), label.to_ascii_lowercase());
    let domain = Domain::default();
    let (Ok(caller), Ok(target)) = (ClusterName::new("west"), ClusterName::new("east")) else {
        return;
    };
    let pair = Pair {
        domain: &domain,
        caller: &caller,
        target: &target,
    };
    // Its own id, so that the tag is what refuses it.
    if let Ok(opener) = Opener::new(&pair, seal.key_id(), &[7; 32]) {
        assert!(opener.open(&seal, 0).is_err());
    }
});
