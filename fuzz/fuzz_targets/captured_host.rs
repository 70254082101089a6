//! The head of a captured request: never a panic, never more awaited than the bound, and a decision stands whatever comes after.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tradewind_proxy::capture::index::{Host, MAX_HEAD, host_of};

fuzz_target!(|data: &[u8]| {
    let whole = host_of(data);
    assert!(whole != Host::Incomplete || data.len() < MAX_HEAD);
    for cut in 0..data.len().min(64) {
        let early = data.get(..cut).map_or(Host::Incomplete, host_of);
        assert!(early == Host::Incomplete || early == whole);
    }
});
