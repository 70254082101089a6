//! What a stranger shows as a service account's token: never a panic, the same claims twice, and never a name that is empty.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tradewind_transport::control::service_account::Claims;

fuzz_target!(|text: &str| {
    let claims = Claims::unverified(text);
    assert_eq!(claims, Claims::unverified(text));
    if let Ok(claims) = claims {
        assert!(!claims.namespace.is_empty() && !claims.account.is_empty());
    }
});
