//! Peers that are not ours: OpenSSL's command and Envoy, with a member's certificate over a key that OpenSSL made. Owns the
//! files they read; processes end with whoever started them.
//!
//! HTTP/2 for OpenSSL is written here by hand, so that none of our own code is on that side of the wire.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use data_encoding::BASE64;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    process::{Child, Command},
    time::{Instant, timeout_at},
};
use tradewind_api::SpiffeId;
use tradewind_ca::Issuer;
use tradewind_runtime::clock;

use crate::process;

pub mod hbone;

/// Longest that an outside peer may take for its one call.
const LIMIT: Duration = Duration::from_secs(10);
/// The certificate's life, seconds.
const LIFETIME_S: u64 = 3600;

/// Whether a program runs here; an error says why not.
pub async fn runs(program: &Path, version: &str) -> Result<(), String> {
    let mut command = Command::new(program);
    command.arg(version).stdin(Stdio::null()).kill_on_drop(true);
    match command.output().await {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!(
            "{} {version}: {}",
            program.display(),
            output.status
        )),
        Err(e) => Err(format!("{}: {e}", program.display())),
    }
}

/// Envoy's program: `TRADEWIND_ENVOY`, else the one on the path.
pub fn envoy_program() -> PathBuf {
    std::env::var_os("TRADEWIND_ENVOY").map_or_else(|| "envoy".into(), PathBuf::from)
}

/// A workload's identity as files.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The private key, which OpenSSL made.
    pub key: PathBuf,
    /// The certificate and its authority's.
    pub chain: PathBuf,
    /// The root's certificate.
    pub root: PathBuf,
}

impl Identity {
    /// An identity of `authority`'s for a path such as `/ns/shop/sa/web`, in files of `dir`.
    pub async fn make(dir: &Path, authority: &Issuer, path: &str) -> Self {
        let file = |name: &str| dir.join(name);
        let (key, chain, root) = (file("key.pem"), file("chain.pem"), file("root.pem"));
        let request = file("request.der");
        let mut openssl = Command::new("openssl");
        openssl
            .args(["req", "-new", "-newkey", "ec", "-pkeyopt"])
            .args(["ec_paramgen_curve:prime256v1", "-nodes", "-subj", "/CN=x"])
            .args(["-outform", "DER", "-keyout"])
            .arg(&key)
            .arg("-out")
            .arg(&request);
        process::finish(openssl).await.good();
        let request = std::fs::read(&request).expect("a request");
        let id = SpiffeId::from_path(authority.trust_domain(), path).expect("an identity");
        let now = clock::system().unix_ms();
        let issued = authority
            .issue(&request, &id, now, LIFETIME_S)
            .expect("a certificate");
        let [leaf, authority_der, root_der] = issued.chain_der.as_slice() else {
            panic!("a chain of three");
        };
        for (path, certificates) in [(&chain, vec![leaf, authority_der]), (&root, vec![root_der])] {
            let pem: Vec<_> = certificates.iter().map(|c| certificate_pem(c)).collect();
            std::fs::write(path, pem.concat()).expect("a new file");
        }
        Self { key, chain, root }
    }
}

fn certificate_pem(der: &[u8]) -> String {
    let text = BASE64.encode(der);
    let lines: Vec<_> = text
        .as_bytes()
        .chunks(64)
        .map(String::from_utf8_lossy)
        .collect();
    format!(
        "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n",
        lines.join("\n")
    )
}

/// What OpenSSL's client saw.
#[derive(Clone, Debug)]
pub struct Seen {
    /// What it says of the connection, and every byte that came over it.
    pub stdout: String,
    /// Its errors, alerts among them.
    pub stderr: String,
}

impl Seen {
    /// Whether all of these stand in either.
    pub fn has(&self, words: &[&str]) -> bool {
        let has = |w: &&str| self.stdout.contains(*w) || self.stderr.contains(*w);
        words.iter().all(has)
    }
}

/// `openssl`, which is the command, asks a gateway for `name` and sends one GET for `service`, until `text` comes back or
/// it ends.
pub async fn openssl_get(
    mut openssl: Command,
    gateway: SocketAddr,
    name: &str,
    identity: (&Identity, bool),
    (service, text): (&str, &str),
) -> Seen {
    let (files, with_certificate) = identity;
    openssl
        .args(["s_client", "-connect", &gateway.to_string()])
        .args(["-servername", name, "-tls1_3", "-alpn", "h2"])
        .args(["-nocommands", "-ign_eof", "-verify_return_error", "-CAfile"])
        .arg(&files.root);
    if with_certificate {
        openssl.arg("-cert").arg(&files.chain);
        openssl.arg("-cert_chain").arg(&files.chain);
        openssl.arg("-key").arg(&files.key);
    }
    let mut child = openssl
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("openssl runs");
    let (mut input, mut output) = (child.stdin.take(), child.stdout.take().expect("a pipe"));
    let request = request(service);
    let sent = input.as_mut().expect("a pipe").write_all(&request);
    // It may have been refused, and be gone.
    drop(sent.await);
    let end = Instant::now() + LIMIT;
    let mut all = Vec::new();
    let mut stdout = String::new();
    while !stdout.contains(text) {
        match timeout_at(end, output.read_buf(&mut all)).await {
            Ok(Ok(0)) => break,
            Ok(read) => drop(read.expect("a pipe")),
            Err(_) => panic!("openssl neither got {text:?} nor ended: {stdout}"),
        }
        stdout = String::from_utf8_lossy(&all).into_owned();
    }
    drop(child.start_kill());
    let said = child.wait_with_output().await.expect("it ends");
    Seen {
        stdout,
        stderr: String::from_utf8_lossy(&said.stderr).into_owned(),
    }
}

/// The preface of HTTP/2, empty settings, and one GET (RFC 9113; field lines without indexing, RFC 7541 section 6.2.2).
fn request(service: &str) -> Vec<u8> {
    // `:method: GET`, `:scheme: https`, `:path: /` of the static table; `:authority` by its name there.
    let mut block = vec![0x82, 0x87, 0x84, 0x01];
    let text = |block: &mut Vec<u8>, text: &str| {
        block.push(u8::try_from(text.len()).expect("short text"));
        block.extend_from_slice(text.as_bytes());
    };
    text(&mut block, "payments.shop");
    for (field, value) in [
        ("tradewind-service", service),
        ("tradewind-version", "HTTP/1.1"),
    ] {
        block.push(0);
        text(&mut block, field);
        text(&mut block, value);
    }
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend_from_slice(&[0, 0, 0, 4, 0, 0, 0, 0, 0]);
    // HEADERS on stream 1 with END_STREAM and END_HEADERS.
    bytes.extend_from_slice(&[
        0,
        0,
        u8::try_from(block.len()).expect("a short block"),
        1,
        5,
    ]);
    bytes.extend_from_slice(&[0, 0, 0, 1]);
    bytes.extend_from_slice(&block);
    bytes
}

/// A configuration of Envoy's: what comes as plain HTTP on `listen` goes to the gateway over TLS, under the name that belongs
/// to its path's first word, for one service of one identity.
pub fn envoy_config(
    listen: SocketAddr,
    gateway: SocketAddr,
    names: &[(&str, &str)],
    files: &Identity,
    (service, serves): (&str, &str),
) -> String {
    let clusters: Vec<_> = names
        .iter()
        .map(|(word, name)| {
            let tls = envoy_tls(Some(name), files, serves);
            envoy_cluster(word, gateway, Some(&tls))
        })
        .collect();
    let words: Vec<_> = names.iter().map(|(word, _)| *word).collect();
    let listener = envoy_listener(listen, &words, service);
    json!({"static_resources": {"listeners": [listener], "clusters": clusters}}).to_string()
}

fn envoy_address(address: SocketAddr) -> Value {
    json!({"socket_address": {"address": address.ip().to_string(), "port_value": address.port()}})
}

fn envoy_listener(listen: SocketAddr, words: &[&str], service: &str) -> Value {
    let routes: Vec<_> = words
        .iter()
        .map(|word| json!({"match": {"prefix": format!("/{word}")}, "route": {"cluster": word}}))
        .collect();
    let manager = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "t",
        "route_config": {
            "request_headers_to_add": [
                {"header": {"key": "tradewind-service", "value": service}},
            ],
            "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}],
        },
        "http_filters": [{
            "name": "envoy.filters.http.router",
            "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
        }],
    });
    json!({
        "address": envoy_address(listen),
        "filter_chains": [{"filters": [{
            "name": "envoy.filters.network.http_connection_manager", "typed_config": manager,
        }]}],
    })
}

/// HTTP/2 over TLS, or bytes where there is no TLS.
fn envoy_cluster(word: &str, peer: SocketAddr, tls: Option<&Value>) -> Value {
    let mut cluster = json!({
        "name": word, "type": "STATIC", "connect_timeout": "5s",
        "load_assignment": {"cluster_name": word, "endpoints": [{
            "lb_endpoints": [{"endpoint": {"address": envoy_address(peer)}}],
        }]},
    });
    if let Some(tls) = tls {
        cluster["transport_socket"] =
            json!({"name": "envoy.transport_sockets.tls", "typed_config": tls});
        cluster["typed_extension_protocol_options"] = json!({"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http2_protocol_options": {}},
        }});
    }
    cluster
}

fn envoy_tls(name: Option<&str>, files: &Identity, serves: &str) -> Value {
    let mut common = common_tls(files);
    common["validation_context"]["match_typed_subject_alt_names"] =
        json!([{"san_type": "URI", "matcher": {"exact": serves}}]);
    let mut tls = json!({
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        "common_tls_context": common,
    });
    if let Some(name) = name {
        tls["sni"] = json!(name);
    }
    tls
}

fn server_tls(files: &Identity) -> Value {
    json!({
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        "require_client_certificate": true,
        "common_tls_context": common_tls(files),
    })
}

/// TLS 1.3 alone, HTTP/2, a member's certificate, and nobody but members.
fn common_tls(files: &Identity) -> Value {
    json!({
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
        "alpn_protocols": ["h2"],
        "tls_certificates": [{
            "certificate_chain": {"filename": files.chain}, "private_key": {"filename": files.key},
        }],
        "validation_context": {"trusted_ca": {"filename": files.root}},
    })
}

/// Envoy with `config`, which becomes a file of `dir`, as is what it says.
pub fn start_envoy(mut program: Command, dir: &Path, config: &str) -> Child {
    let path = dir.join("envoy.json");
    std::fs::write(&path, config).expect("a file");
    let log = std::fs::File::create(dir.join("envoy.log")).expect("a log file");
    let quiet = ["-l", "warn", "--concurrency", "1", "--disable-hot-restart"];
    program
        .args(quiet)
        .arg("-c")
        .arg(&path)
        .stdout(log.try_clone().expect("a second handle"))
        .stderr(log)
        .kill_on_drop(true);
    program.spawn().expect("Envoy starts")
}
