//! A SPIFFE id from a certificate: never a panic, and what is read prints back as it was.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tradewind_api::SpiffeId;

fuzz_target!(|text: &str| {
    if let Ok(id) = text.parse::<SpiffeId>() {
        assert_eq!(id.as_str(), text);
        assert_eq!(format!("spiffe://{}{}", id.trust_domain(), id.path()), text);
    }
});
