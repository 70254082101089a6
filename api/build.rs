//! Compiles the protobufs without `protoc`: protox is pure Rust.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = protox::compile(
        [
            "envoy/service/discovery/v3/ads.proto",
            "google/rpc/status.proto",
            "opentelemetry/proto/collector/trace/v1/trace_service.proto",
            "tradewind/v1/resources.proto",
            "tradewind/v1/workload.proto",
            "tradewind/v1/federation.proto",
            "tradewind/v1/admin.proto",
        ],
        ["proto"],
    )?;
    tonic_prost_build::configure()
        // The same message is the same bytes, so that what did not change is not pushed.
        .btree_map(".tradewind")
        .include_file("protos.rs")
        .compile_fds(files)?;
    Ok(())
}
