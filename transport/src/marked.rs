//! Connecting from sockets that carry a firewall mark, so that rules which capture an application's connections leave this
//! process's own alone.
//!
//! Owns nothing. A mark that cannot be set is an error: a connection without it would be captured, and come back to whoever made it.

use std::{io, net::SocketAddr};

use socket2::{Domain, Socket};
pub use socket2::{Protocol, Type};
use tokio::net::{TcpSocket, TcpStream, lookup_host};

/// Connects to `host:port`, from a socket with `mark` where there is one.
pub async fn connect(address: &str, mark: Option<u32>) -> io::Result<TcpStream> {
    // Without the resolver's thread where there is nothing to resolve.
    if let Ok(address) = address.parse() {
        return connect_to(address, mark).await;
    }
    if mark.is_none() {
        return TcpStream::connect(address).await;
    }
    let mut last = None;
    for address in lookup_host(address).await? {
        match connect_to(address, mark).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the name has no address")))
}

/// The same where the address is known.
pub async fn connect_to(address: SocketAddr, mark: Option<u32>) -> io::Result<TcpStream> {
    let Some(mark) = mark else {
        return TcpStream::connect(address).await;
    };
    let socket = socket(address, Type::STREAM, Protocol::TCP, mark)?;
    TcpSocket::from_std_stream(socket.into())
        .connect(address)
        .await
}

/// A socket of the address's family that carries `mark`, for use with tokio.
pub fn socket(
    address: SocketAddr,
    kind: Type,
    protocol: Protocol,
    mark: u32,
) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    socket.set_nonblocking(true)?;
    socket.set_mark(mark)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use socket2::SockRef;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn the_mark_is_on_the_socket_or_there_is_no_connection() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let there = listener.local_addr().unwrap();
        let plain = connect(&there.to_string(), None).await.unwrap();
        assert_eq!(SockRef::from(&plain).mark().unwrap(), 0);
        match connect(&there.to_string(), Some(7)).await {
            Ok(marked) => assert_eq!(SockRef::from(&marked).mark().unwrap(), 7),
            Err(e) => assert_eq!(e.kind(), io::ErrorKind::PermissionDenied, "{e}"),
        }
    }

    #[tokio::test]
    async fn names_are_resolved() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(connect(&format!("localhost:{port}"), None).await.is_ok());
    }
}
