//! The processes that the benchmark starts of this very program: Tradewind's gateway, and the TLS server behind all
//! proxies. Each serves until it is killed; neither measures anything.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::TlsAcceptor;
use tradewind_gateway::{Gateway, GatewayConfig};
use tradewind_runtime::{
    clock, drain,
    rng::Rng,
    task::{self, TaskSet},
};

use super::mesh;

/// A connection's first byte: send back what comes.
pub(super) const ECHO: u8 = b'E';
/// Send as much as the peer takes.
pub(super) const DOWN: u8 = b'D';
/// Take as much as the peer sends.
pub(super) const UP: u8 = b'U';

/// What is written at a time in bulk: a large object, as applications hand it to their TLS.
pub(super) const CHUNK_BYTES: usize = 128 << 10;

/// Tradewind's gateway, one data thread.
#[derive(Debug, clap::Args)]
pub(crate) struct ProxyArguments {
    #[arg(long)]
    listen: SocketAddr,
    #[arg(long)]
    backend: SocketAddr,
    #[arg(long)]
    connections: usize,
}

/// The server behind the proxies.
#[derive(Debug, clap::Args)]
pub(crate) struct BackendArguments {
    #[arg(long)]
    listen: SocketAddr,
    /// Holds `cert.der` and `key.der`.
    #[arg(long)]
    dir: PathBuf,
}

/// Runs the gateway as the `gateway` role does, but with a snapshot of its own making.
pub(crate) async fn proxy(arguments: ProxyArguments) -> Result<(), String> {
    let nowhere = "unix:/nonexistent".parse().map_err(|e| format!("{e}"))?;
    let mut config = GatewayConfig::new("bench", nowhere);
    config.listen = arguments.listen;
    config.admin_listen = SocketAddr::from(([127, 0, 0, 1], 0));
    config.threads = 1;
    // All callers here have one address, and one address may hold half of all places.
    config.max_connections = Some(arguments.connections * 2);
    let bound =
        Gateway::build(config, clock::system(), Rng::seeded(1), None).map_err(|e| e.to_string())?;
    let (_trigger, watch) = drain::channel();
    bound
        .run_with(mesh::control(arguments.backend)?, TaskSet::new(), watch)
        .await
        .map_err(|e| e.to_string())
}

/// Serves TLS.
pub(crate) async fn backend(arguments: BackendArguments) -> Result<(), String> {
    let read = |name: &str| {
        let path = arguments.dir.join(name);
        std::fs::read(&path).map_err(|e| format!("{}: {e}", path.display()))
    };
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(read("key.der")?));
    let certificate = CertificateDer::from(read("cert.der")?);
    let mut config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .map_err(|e| e.to_string())?;
    // Every handshake is a whole one.
    config.send_tls13_tickets = 0;
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let failed = |e: std::io::Error| format!("{}: {e}", arguments.listen);
    let listener =
        tradewind_runtime::listen::bind_tcp(arguments.listen, false).map_err(|e| e.to_string())?;
    loop {
        let (stream, _) = listener.accept().await.map_err(failed)?;
        let acceptor = acceptor.clone();
        // Detached: they end with this process.
        drop(task::spawn("connection", async move {
            // A peer that goes away in the middle is no news here: the load generator sees what matters.
            drop(serve(acceptor, stream).await);
        }));
    }
}

async fn serve(acceptor: TlsAcceptor, stream: TcpStream) -> std::io::Result<()> {
    let mut stream = acceptor.accept(stream).await?;
    match stream.read_u8().await? {
        DOWN => {
            let chunk = vec![7; CHUNK_BYTES];
            loop {
                stream.write_all(&chunk).await?;
            }
        }
        UP => discard(&mut stream).await,
        _ => echo(&mut stream).await,
    }
}

async fn discard(stream: &mut (impl AsyncRead + Unpin)) -> std::io::Result<()> {
    let mut chunk = vec![0; CHUNK_BYTES];
    while stream.read(&mut chunk).await? > 0 {}
    Ok(())
}

async fn echo(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> std::io::Result<()> {
    let mut message = [0; 1024];
    loop {
        let n = stream.read(&mut message).await?;
        if n == 0 {
            return stream.shutdown().await;
        }
        stream
            .write_all(message.get(..n).unwrap_or_default())
            .await?;
    }
}

/// Makes the server's key and certificate for `name` in `dir`; gives the certificate.
pub(super) fn certificate(dir: &Path, name: &str) -> Result<CertificateDer<'static>, String> {
    let made = rcgen::generate_simple_self_signed(vec![name.to_owned()])
        .map_err(|e| format!("no certificate: {e}"))?;
    let write = |name: &str, bytes: &[u8]| {
        let path = dir.join(name);
        std::fs::write(&path, bytes).map_err(|e| format!("{}: {e}", path.display()))
    };
    write("key.der", &made.signing_key.serialize_der())?;
    write("cert.der", made.cert.der())?;
    Ok(made.cert.der().clone())
}
