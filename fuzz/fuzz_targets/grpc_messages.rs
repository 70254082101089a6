//! A gRPC stream: never a panic, the same count however the bytes were cut, and never more messages than prefixes fit.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tradewind_transport::grpc::MessageCounter;

fuzz_target!(|data: &[u8]| {
    let mut whole = MessageCounter::default();
    whole.pass(data);
    let mut single = MessageCounter::default();
    data.iter().for_each(|b| single.pass(std::slice::from_ref(b)));
    assert_eq!(whole, single);
    assert!(whole.whole() <= data.len() as u64 / 5);
});
