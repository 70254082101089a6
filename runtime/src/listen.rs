//! Opening sockets: addresses that cannot be used give an error that names the address, the cause and the flag to
//! change; accepting never gives up and never spins.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use thiserror::Error;
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use crate::backoff::Backoff;
use crate::rng::Rng;

/// Connections that may wait to be accepted: room for a burst of reconnects after a failover; the kernel cuts it to
/// its own `somaxconn`.
const BACKLOG: i32 = 4096;

/// The first wait when the process has run out of file descriptors or memory: long enough for a connection to end.
const ACCEPT_BACKOFF_MIN: Duration = Duration::from_millis(10);

/// The longest such wait: a drained process must come back within a second.
const ACCEPT_BACKOFF_MAX: Duration = Duration::from_secs(1);

/// An address that could not be listened on.
#[derive(Debug, Error)]
#[error("cannot listen on {address} ({protocol}): {cause}{hint}", cause = self.cause(), hint = self.hint())]
pub struct BindError {
    /// The address asked for.
    pub address: SocketAddr,
    /// `tcp` or `udp`.
    pub protocol: &'static str,
    /// The flag that sets this address, where known.
    pub flag: Option<&'static str>,
    /// What the kernel said.
    #[source]
    pub source: io::Error,
}

impl BindError {
    fn new(address: SocketAddr, protocol: &'static str, source: io::Error) -> Self {
        Self {
            address,
            protocol,
            flag: None,
            source,
        }
    }

    /// Names the flag that sets this address, such as `--listen`, for the hint.
    #[must_use]
    pub fn flag(mut self, flag: &'static str) -> Self {
        self.flag = Some(flag);
        self
    }

    /// Whether somebody else holds the port.
    #[must_use]
    pub fn in_use(&self) -> bool {
        self.source.kind() == io::ErrorKind::AddrInUse
    }

    fn cause(&self) -> String {
        match self.source.kind() {
            io::ErrorKind::AddrInUse => {
                format!("port {} is in use by another process", self.address.port())
            }
            io::ErrorKind::AddrNotAvailable => {
                format!("{} is no address of this machine", self.address.ip())
            }
            io::ErrorKind::PermissionDenied => {
                format!(
                    "port {} needs a permission this process lacks",
                    self.address.port()
                )
            }
            _ => self.source.to_string(),
        }
    }

    fn hint(&self) -> String {
        let change = match self.source.kind() {
            io::ErrorKind::AddrInUse => "another port",
            io::ErrorKind::AddrNotAvailable => "one of this machine's addresses",
            io::ErrorKind::PermissionDenied => "a port above 1023",
            _ => return String::new(),
        };
        match self.flag {
            Some(flag) => format!("; choose {change} with {flag}"),
            None => format!("; choose {change}"),
        }
    }
}

/// Listens on `address` for TCP. With `reuse_port` several listeners, one a thread, share the port.
pub fn bind_tcp(address: SocketAddr, reuse_port: bool) -> Result<TcpListener, BindError> {
    let listener = bind_tcp_std(address, reuse_port)?;
    TcpListener::from_std(listener).map_err(|error| BindError::new(address, "tcp", error))
}

/// Like [`bind_tcp`], outside of a runtime: the listener is nonblocking and may be moved to the thread that uses it.
pub fn bind_tcp_std(
    address: SocketAddr,
    reuse_port: bool,
) -> Result<std::net::TcpListener, BindError> {
    let bind = || {
        let socket = open(address, Type::STREAM, Protocol::TCP, reuse_port)?;
        socket.listen(BACKLOG)?;
        Ok(socket.into())
    };
    bind().map_err(|error| BindError::new(address, "tcp", error))
}

/// `count` listeners (at least one) that share one port, for one worker thread each. Port 0 becomes one free port for
/// all of them. A port that another process listens on is refused, even if that process would share it.
pub fn bind_tcp_group(
    address: SocketAddr,
    count: usize,
) -> Result<Vec<std::net::TcpListener>, BindError> {
    if address.port() != 0 {
        drop(bind_tcp_std(address, false)?);
    }
    let first = bind_tcp_std(address, true)?;
    let shared = first
        .local_addr()
        .map_err(|error| BindError::new(address, "tcp", error))?;
    let mut group = vec![first];
    for _ in 1..count {
        group.push(bind_tcp_std(shared, true)?);
    }
    Ok(group)
}

/// Opens a UDP socket on `address`.
pub fn bind_udp(address: SocketAddr, reuse_port: bool) -> Result<UdpSocket, BindError> {
    let bind = || {
        let socket = open(address, Type::DGRAM, Protocol::UDP, reuse_port)?;
        UdpSocket::from_std(socket.into())
    };
    bind().map_err(|error| BindError::new(address, "udp", error))
}

fn open(
    address: SocketAddr,
    kind: Type,
    protocol: Protocol,
    reuse_port: bool,
) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    if kind == Type::STREAM {
        // A restart must not wait for the old connections' TIME_WAIT. On UDP this would let two processes share.
        socket.set_reuse_address(true)?;
        // Every accepted connection inherits it: one call here saves one for each of them.
        socket.set_tcp_nodelay(true)?;
    }
    socket.set_reuse_port(reuse_port)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// The next connection; Nagle's delay is off as the listener's is. Connections that died in the queue are skipped; when the process has
/// run out of file descriptors or memory it waits, longer each time, instead of spinning.
pub async fn accept(listener: &TcpListener, rng: &mut Rng) -> (TcpStream, SocketAddr) {
    let mut backoff = Backoff::new(ACCEPT_BACKOFF_MIN, ACCEPT_BACKOFF_MAX);
    loop {
        match listener.accept().await {
            Ok(accepted) => return accepted,
            Err(error) if is_about_one_connection(&error) => {
                tracing::debug!(%error, "a connection ended before it was accepted");
            }
            Err(error) => {
                let wait = backoff.next(rng);
                let wait_ms = wait.as_millis();
                tracing::warn!(%error, wait_ms, "cannot accept connections");
                tokio::time::sleep(wait).await;
            }
        }
    }
}

fn is_about_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    fn any_port() -> SocketAddr {
        (Ipv4Addr::LOCALHOST, 0).into()
    }

    #[tokio::test]
    async fn a_port_in_use_names_address_and_flag() {
        let held = bind_tcp(any_port(), false).unwrap();
        let address = held.local_addr().unwrap();
        let error = bind_tcp(address, false).unwrap_err().flag("--admin-listen");
        assert!(error.in_use());
        assert_eq!(
            error.to_string(),
            format!(
                "cannot listen on {address} (tcp): port {} is in use by another process; choose another port with \
                 --admin-listen",
                address.port()
            )
        );
        let held = bind_udp(any_port(), false).unwrap();
        assert!(
            bind_udp(held.local_addr().unwrap(), false)
                .unwrap_err()
                .in_use()
        );
    }

    #[test]
    fn a_foreign_address_is_named() {
        let error = bind_tcp_std("192.0.2.1:0".parse().unwrap(), false)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("192.0.2.1 is no address of this machine"),
            "{error}"
        );
    }

    #[test]
    fn a_group_shares_one_port_but_not_with_strangers() {
        let group = bind_tcp_group(any_port(), 3).unwrap();
        let address = group[0].local_addr().unwrap();
        assert_eq!(group.len(), 3);
        assert!(
            group
                .iter()
                .all(|listener| listener.local_addr().unwrap() == address)
        );
        assert!(bind_tcp_group(address, 2).unwrap_err().in_use());
    }

    #[tokio::test]
    async fn accepts_and_passes_bytes() {
        let listener = bind_tcp(any_port(), true).unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        let (mut server, peer) = accept(&listener, &mut Rng::seeded(1)).await;
        assert_eq!(peer, client.local_addr().unwrap());
        assert!(server.nodelay().unwrap());
        client.write_all(b"over").await.unwrap();
        let mut bytes = [0; 4];
        server.read_exact(&mut bytes).await.unwrap();
        assert_eq!(&bytes, b"over");
    }
}
