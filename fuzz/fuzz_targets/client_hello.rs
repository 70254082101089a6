//! A connection's first bytes: never a panic, and once there is an answer, more bytes do not change it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tradewind_transport::client_hello::{Hello, MAX_HELLO, parse};

fuzz_target!(|data: &[u8]| {
    let whole = parse(data);
    if data.len() >= MAX_HELLO {
        assert_ne!(whole, Hello::Incomplete);
    }
    if let Hello::Name(name) = &whole {
        assert!(!name.is_empty() && name.len() <= 253);
    }
    // Any cut is either undecided, or decided as the whole is.
    let middle = data.get(..data.len() / 2).unwrap_or_default();
    let early = parse(middle);
    assert!(early == Hello::Incomplete || early == whole);
});
