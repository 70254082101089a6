//! Compiles the benchmark's own protobufs, without `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = protox::compile(["bench.proto", "etcd.proto"], ["proto"])?;
    tonic_prost_build::configure()
        .include_file("protos.rs")
        .compile_fds(files)?;
    Ok(())
}
