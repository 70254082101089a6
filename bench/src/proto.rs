//! The generated protobufs: the benchmark's own service, and the little of etcd's API that it calls.

#![expect(
    unused_qualifications,
    clippy::all,
    clippy::allow_attributes,
    reason = "generated code"
)]

include!(concat!(env!("OUT_DIR"), "/protos.rs"));
