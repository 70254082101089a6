//! What is done to every socket of a gateway: options, and closing with an alert that arrives. Owns none of them.

use std::{io, os::fd::AsFd, time::Duration};

use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time,
};
use tradewind_transport::accept;

/// Idle time before the kernel asks a silent peer for a sign of life.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
/// Between two such questions.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// Unanswered questions until the connection counts as dead: gone peers free their places within a minute.
const KEEPALIVE_TRIES: u32 = 3;
/// How long the kernel keeps a connection that is silent to itself: the hello's own deadline begins afterwards.
const SILENT_S: u16 = 1;
/// How long a refused peer may take to close; the alert is lost if we close on unread bytes of its.
const LINGER: Duration = Duration::from_millis(500);

/// Sends small writes at once and notices dead peers. A failure costs only that, so it is logged and passed over. What a
/// listener is given, its connections inherit, at no call of their own.
pub(crate) fn tune(socket: &impl AsFd) {
    let socket = SockRef::from(socket);
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_TRIES);
    let set = socket
        .set_tcp_nodelay(true)
        .and_then(|()| socket.set_tcp_keepalive(&keepalive));
    if let Err(error) = set {
        tracing::debug!(%error, "socket options were not taken");
    }
}

/// What every connection of a listener has in common.
pub(crate) fn listens(listener: &std::net::TcpListener) {
    tune(listener);
    if let Err(error) = accept::with_first_bytes(listener, SILENT_S) {
        tracing::debug!(%error, "connections come without their first bytes");
    }
}

/// Makes closing the socket a reset, so that the peer cannot take a cut for an end.
pub(crate) fn reset_on_close(stream: &TcpStream) {
    if let Err(error) = SockRef::from(stream).set_linger(Some(Duration::ZERO)) {
        tracing::debug!(%error, "linger was not taken");
    }
}

/// Sends `alert`, ends our side, and waits a moment for the peer's end so that the alert is not lost to a reset.
pub(crate) async fn alert_and_close(stream: &mut TcpStream, alert: &[u8]) {
    let goodbye = async {
        stream.write_all(alert).await?;
        stream.shutdown().await?;
        let mut sink = [0u8; 2048];
        while stream.read(&mut sink).await? > 0 {}
        Ok::<_, io::Error>(())
    };
    drop(time::timeout(LINGER, goodbye).await);
}
