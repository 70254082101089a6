//! What peers say in headers and in the authority of a CONNECT: never a panic, and what is read comes back the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tradewind_transport::hbone::headers;

fuzz_target!(|data: &[u8]| {
    if let Ok(text) = std::str::from_utf8(data)
        && let Some(target) = headers::parse_connect_authority(text)
    {
        let again = headers::connect_authority(&target);
        assert_eq!(headers::parse_connect_authority(&again), Some(target));
    }
    let Ok(value) = http::HeaderValue::from_bytes(data) else {
        return;
    };
    if let Some(target) = headers::parse_service(&value) {
        let again = headers::service_value(&target);
        assert_eq!(headers::parse_service(&again), Some(target));
    }
    if let Some(endpoint) = headers::parse_endpoint(&value) {
        assert_eq!(headers::endpoint_value(&endpoint), value);
    }
    if let Some(version) = headers::parse_version(&value) {
        assert_eq!(headers::version_value(version), value);
    }
});
