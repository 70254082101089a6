//! A connection's first bytes: never a panic, and a decision stands whatever comes after.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tradewind_transport::detect::classify;

fuzz_target!(|data: &[u8]| {
    let whole = classify(data);
    for cut in 0..data.len().min(64) {
        if let Some(early) = data.get(..cut).and_then(classify) {
            assert_eq!(Some(early), whole);
        }
    }
});
