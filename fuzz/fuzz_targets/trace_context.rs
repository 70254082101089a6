//! A stranger's traceparent and tracestate: never a panic, one way to write each context, and a valid one is never lost.
#![no_main]

use http::{HeaderMap, HeaderValue};
use libfuzzer_sys::fuzz_target;
use tradewind_transport::trace_context::{
    self, Context, Ratio, Rule, TRACEPARENT, TRACESTATE, follow,
};

fuzz_target!(|input: (&[u8], &[u8])| {
    let (parent, state) = input;
    let context = Context::parse(parent);
    if let Some(context) = context {
        assert_eq!(Context::parse(context.value().as_bytes()), Some(context));
    }
    let mut fields = HeaderMap::new();
    for (name, value) in [(TRACEPARENT, parent), (TRACESTATE, state)] {
        if let Ok(value) = HeaderValue::from_bytes(value) {
            fields.insert(name, value);
        }
    }
    let came = Context::of(&fields);
    let rule = Rule {
        begin: Some(Ratio::DEFAULT),
        records: true,
    };
    let followed = follow(&mut fields, rule, || 7);
    assert_eq!(followed.map(|f| f.context), Context::of(&fields));
    assert!(trace_context::state_is_valid(&fields));
    if let (Some(came), Some(followed)) = (came, followed) {
        assert_eq!(came.trace, followed.context.trace);
        assert_eq!(came.is_sampled(), followed.recorded);
    }
});
