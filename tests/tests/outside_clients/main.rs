//! Programs that people use and that are not ours, across a cluster border: curl, nghttp2's load generator, h2spec, the public
//! gRPC and WebSocket libraries, and Envoy as a standard HBONE peer on either side. What is not installed is said to be skipped.
//!
//! `TRADEWIND_H2SPEC`, `TRADEWIND_PYTHON` (with grpcio and websockets) and `TRADEWIND_ENVOY` name programs off the path.

#![expect(clippy::unwrap_used, reason = "a test's helpers fail by panicking")]

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{process::Command, sync::Barrier, time::timeout};
use tradewind_tests::{
    Process, apps,
    border::{Before, Border, EAST},
    namespaces::skipped,
    outside::{self, Identity, hbone},
    peer,
    process::{self, Output},
    wait::{USUAL, until},
};

/// Longest that one program may take.
const LIMIT: Duration = Duration::from_secs(90);
/// Bytes of the upload.
const UPLOAD: usize = 3_000_000;
/// The account of the service.
const SERVES: &str = "spiffe://east.mesh.internal/ns/shop/sa/payments";
/// What the tests' server that speaks first says.
const GREETING: &str = "220 payments ready\r\n";

fn named(variable: &str, usual: &str) -> PathBuf {
    std::env::var_os(variable).map_or_else(|| usual.into(), PathBuf::from)
}

/// True where `program` runs; else it is said that `what` was skipped.
async fn has(program: &Path, arguments: &[&str], what: &str) -> bool {
    let mut command = Command::new(program);
    command.args(arguments);
    command.kill_on_drop(true);
    let why = match command.output().await {
        Ok(output) if output.status.success() => return true,
        Ok(output) => String::from_utf8_lossy(&output.stderr)
            .lines()
            .last()
            .unwrap_or_default()
            .to_owned(),
        Err(error) => error.to_string(),
    };
    skipped(&format!("{what}: {}: {why}", program.display()));
    false
}

async fn run(program: &Path, arguments: &[OsString]) -> Output {
    let mut command = Command::new(program);
    command.args(arguments);
    timeout(LIMIT, process::finish(command)).await.unwrap()
}

async fn http_border() -> Border {
    let before = Before::start().await;
    let app = apps::bind(before.app).await;
    apps::http1(app, "payments from east", Arc::new(Barrier::new(1)));
    before.open(",protocol=http1").await
}

#[tokio::test]
async fn curl_and_nghttp2_and_h2spec_are_content() {
    let border = http_border().await;
    let (curl, h2load) = (Path::new("curl"), Path::new("h2load"));
    if has(curl, &["--version"], "curl").await {
        curl_asks(curl, &border).await;
    }
    if has(h2load, &["--version"], "nghttp2's h2load").await {
        for protocol in ["h2c", "http/1.1"] {
            h2load_asks(h2load, protocol, &border).await;
        }
    }
    let h2spec = named("TRADEWIND_H2SPEC", "h2spec");
    if has(&h2spec, &["--version"], "h2spec").await {
        let ip = border.address.ip().to_string();
        let port = border.address.port().to_string();
        let flags = ["--strict", "-h", &ip, "-p", &port].map(OsString::from);
        let said = run(&h2spec, &flags).await;
        let failures = said.stdout.rsplit_once("Failures:").map_or("", |(_, f)| f);
        let failed: Vec<_> = failures.lines().filter(|l| l.contains('\u{d7}')).collect();
        // A port that speaks both versions answers what is no preface of HTTP/2 as HTTP/1.1 has it, and closes.
        let others = failed
            .iter()
            .filter(|l| !l.ends_with(" Sends invalid connection preface"));
        assert_eq!(others.count(), 0, "{}", said.stdout);
        assert!(
            said.stdout.contains("146 tests, 145 passed, 0 skipped"),
            "{}\n{}",
            said.stdout,
            said.stderr
        );
    }
}

async fn curl_asks(curl: &Path, border: &Border) {
    let url = |path: &str| OsString::from(format!("http://{}{path}", border.address));
    let ask = async |flags: &[&str], path: &str| {
        let quiet = ["-sS", "--fail", "--max-time", "60"];
        let mut words: Vec<OsString> = quiet.iter().chain(flags).map(OsString::from).collect();
        words.push(url(path));
        run(curl, &words).await.good().stdout
    };
    let file = border.federation.dir().join("upload");
    let body = apps::pattern(UPLOAD);
    std::fs::write(&file, &body).unwrap();
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &body);
    let hex = data_encoding::HEXLOWER.encode(digest.as_ref());
    let (expected, upload) = (format!("{UPLOAD} {hex}"), file.display().to_string());
    let from_file = format!("@{upload}");

    for version in ["--http1.1", "--http2-prior-knowledge", "--http2"] {
        assert_eq!(
            ask(&[version], "/").await,
            "payments from east",
            "{version}"
        );
        // curl asks for 100 Continue before a body of this size.
        let answer = ask(&[version, "--data-binary", &from_file], "/digest").await;
        assert_eq!(answer, expected, "{version}");
        let counted = [version, "-o", "/dev/null", "-w", "%{size_download}"];
        let large = ask(&counted, "/large?5000000").await;
        assert_eq!(large, "5000000", "{version}");
        let head = ask(&[version, "--head"], "/large?70000").await;
        assert!(
            head.to_ascii_lowercase().contains("content-length: 70000"),
            "{version}: {head}"
        );
    }
    // In chunks, since curl does not know how much there will be.
    let chunked = [
        "-H",
        "Transfer-Encoding: chunked",
        "--data-binary",
        &from_file,
    ];
    assert_eq!(ask(&chunked, "/digest").await, expected);
    // The application says goodbye to nobody: each of these is asked over the same connection.
    let (again, first) = (border.address, url("/host"));
    let same = run(curl, &["-sS".into(), first.clone(), first])
        .await
        .good()
        .stdout;
    assert_eq!(same, format!("{again}{again}"));
    let headers: Vec<String> = (0..30)
        .map(|n| format!("x-large-{n}: {}", "v".repeat(1000)))
        .collect();
    let flags: Vec<&str> = headers.iter().flat_map(|h| ["-H", h]).collect();
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        let flags = [&[version][..], &flags].concat();
        assert_eq!(ask(&flags, "/").await, "payments from east", "{version}");
    }
}

async fn h2load_asks(h2load: &Path, protocol: &str, border: &Border) {
    let url = format!("http://{}/large?1000", border.address);
    let flags = ["-n", "2000", "-c", "20", "-m", "10", "-p", protocol, &url].map(OsString::from);
    // HTTP/1.1 is asked for in a way of its own.
    let plain = ["-n", "2000", "-c", "20", "--h1", &url].map(OsString::from);
    let flags = if protocol == "h2c" {
        &flags[..]
    } else {
        &plain[..]
    };
    let said = run(h2load, flags).await.good().stdout;
    assert!(
        said.contains("2000 succeeded, 0 failed, 0 errored, 0 timeout"),
        "{said}"
    );
    assert!(said.contains("2000 2xx"), "{said}");
}

/// A Python program of this directory.
fn script(name: &str) -> String {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/outside_clients");
    tests.join(name).display().to_string()
}

/// The program `name` as the application in the east and as the caller in the west; every one of `good` must be said.
async fn library(module: &str, name: &str, protocol: &str, good: &[&str]) {
    let python = named("TRADEWIND_PYTHON", "python3");
    let imports = format!("import {module}");
    if !has(&python, &["-c", &imports], &format!("{module} for Python")).await {
        return;
    }
    let before = Before::start().await;
    let (path, app) = (script(name), before.app.to_string());
    let dir = before.federation.dir().to_owned();
    let arguments = [&*path, "serve", &app];
    let _app = Process::start_behind(name, &dir, Command::new(&python), &arguments, &[]);
    let border = before.open(protocol).await;
    let call = [path, "call".to_owned(), border.address.to_string()].map(OsString::from);
    let said = run(&python, &call).await.good().stdout;
    for word in good {
        assert!(said.contains(&format!("{word}: good")), "{word}: {said}");
    }
}

#[tokio::test]
async fn the_public_grpc_library_talks_to_itself() {
    let good = ["unary", "50 at once", "error", "streams", "deadline"];
    library("grpc", "grpc_peer.py", ",protocol=http2", &good).await;
}

#[tokio::test]
async fn a_public_websocket_library_talks_to_itself() {
    let good = ["messages", "close"];
    library("websockets", "websocket_peer.py", "", &good).await;
}

async fn has_envoy() -> bool {
    let envoy = outside::envoy_program();
    has(&envoy, &["--version"], "Envoy as an HBONE peer").await
        && has(Path::new("openssl"), &["version"], "Envoy's keys").await
}

/// Envoy's identity, and a folder for its files.
async fn identity(border_dir: &Path, data_dir: &Path, path: &str) -> (PathBuf, Identity) {
    let dir = border_dir.join("envoy");
    std::fs::create_dir_all(&dir).unwrap();
    let files = Identity::make(&dir, &peer::authority(data_dir), path).await;
    (dir, files)
}

#[tokio::test]
async fn envoy_is_served_as_a_standard_hbone_client() {
    if !has_envoy().await {
        return;
    }
    let border = http_border().await;
    let federation = &border.federation;
    let data_dir = &federation.clusters[EAST].data_dir;
    let (dir, files) = identity(federation.dir(), data_dir, "/ns/shop/sa/web").await;
    let app = federation.addr(EAST, 11, 8080).to_string();
    // By the service's name in the mesh or in its cluster, or by the application's own address, as ztunnel and Envoy have it.
    let by_name = "payments.shop.svc.clusterset.local:80";
    let inside = "payments.shop.svc.cluster.local:80";
    for (n, authority) in [by_name, inside, &app].into_iter().enumerate() {
        let listen = federation.addr(EAST, 150 + u8::try_from(n).unwrap(), 9090);
        let config = hbone::client_config(listen, border.workload.hbone, authority, &files, SERVES);
        let program = Command::new(outside::envoy_program());
        let _envoy = outside::start_envoy(program, &dir, &config);
        let what = format!("Envoy's call to {authority}");
        let answer = until(&what, USUAL, || async {
            tradewind_tests::http::get(listen, "/").await?.ok()
        })
        .await;
        assert_eq!(answer.text(), "payments from east");
        let large = tradewind_tests::http::get(listen, "/large?3000000")
            .await
            .unwrap();
        assert!(large.body == apps::pattern(3_000_000), "{authority}");
    }
}

#[tokio::test]
async fn envoy_serves_as_a_standard_hbone_server() {
    if !has_envoy().await {
        return;
    }
    let before = Before::start().await;
    apps::server_first(apps::bind(before.app).await, GREETING);
    let data_dir = &before.federation.clusters[EAST].data_dir;
    let (dir, files) = identity(before.federation.dir(), data_dir, "/ns/shop/sa/payments").await;
    let listen = before.federation.addr(EAST, 150, 15008);
    let config = hbone::server_config(listen, before.app, &files);
    let _envoy = outside::start_envoy(Command::new(outside::envoy_program()), &dir, &config);
    // The proxy beside the application registers it, at Envoy's address.
    let advertise = listen.to_string();
    let border = before
        .open_with(",protocol=tcp", &["--advertise", &advertise])
        .await;
    let said = until("a greeting through Envoy", USUAL, || async {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let mut stream = tokio::net::TcpStream::connect(border.address).await?;
        stream.write_all(b"hello").await?;
        stream.shutdown().await?;
        let mut all = String::new();
        stream.read_to_string(&mut all).await?;
        std::io::Result::Ok(all)
    });
    let said = said.await;
    assert!(said.starts_with(&format!("{GREETING}hello")), "{said:?}");
    // It went that way: the proxy beside the application saw no connection.
    let name = "tradewind_inbound_connections";
    let seen = tradewind_tests::metrics::total(border.workload.admin, name, &[]).await;
    assert!(seen.unwrap() < 1.0);
}
