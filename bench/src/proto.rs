//! The generated protobufs: the benchmark's own service, and the little of etcd's API that it calls.

#![expect(
    unused_qualifications,
    clippy::too_many_lines,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    reason = "generated code"
)]

include!(concat!(env!("OUT_DIR"), "/protos.rs"));
