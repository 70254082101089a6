//! A server name from a stranger: never a panic, and what is read writes back to the same name.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tradewind_api::Domain;
use tradewind_transport::server_name::{encode, parse};

fuzz_target!(|name: &str| {
    let domain = Domain::default();
    if let Ok(target) = parse(name, &domain) {
        assert_eq!(encode(&target, &domain), name.to_ascii_lowercase());
    }
});
