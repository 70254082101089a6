//! Where a captured connection was meant to go, as the kernel remembers it. Owns nothing.

use std::net::{IpAddr, SocketAddr};

use socket2::SockRef;
use tokio::net::TcpStream;

/// Nobody captured it: it was dialled at the listener itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotCaptured;

/// The original destination of `stream`, accepted from `peer`.
pub(crate) fn of(stream: &TcpStream, peer: SocketAddr) -> Result<SocketAddr, NotCaptured> {
    let local = stream.local_addr().map_err(|_| NotCaptured)?;
    let socket = SockRef::from(stream);
    // A listener of both families gets the old one's callers under mapped addresses.
    let found = match local.ip().to_canonical() {
        IpAddr::V4(_) => socket.original_dst_v4(),
        IpAddr::V6(_) => socket.original_dst_v6(),
    };
    // Without connection tracking there is no record, and with it one that says the same as the socket.
    let meant = found.ok().and_then(|a| a.as_socket()).ok_or(NotCaptured)?;
    judge(meant, local, peer)
}

/// What was meant for ourselves is no capture: passing it on would come back.
fn judge(
    meant: SocketAddr,
    local: SocketAddr,
    peer: SocketAddr,
) -> Result<SocketAddr, NotCaptured> {
    let canonical = |a: SocketAddr| SocketAddr::new(a.ip().to_canonical(), a.port());
    let (meant, local, peer) = (canonical(meant), canonical(local), canonical(peer));
    // A process that dials its own host does so from the address that it dials.
    let here = meant.ip().is_loopback() || meant.ip() == local.ip() || meant.ip() == peer.ip();
    if meant.port() == local.port() && here {
        return Err(NotCaptured);
    }
    Ok(meant)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn what_was_meant_for_the_listener_is_refused() {
        let a = |s: &str| s.parse::<SocketAddr>().unwrap();
        let local = a("127.0.0.1:15001");
        let peer = a("10.0.0.1:40000");
        for own in [
            "127.0.0.1:15001",
            "10.0.0.1:15001",
            "127.9.9.9:15001",
            "[::ffff:10.0.0.1]:15001",
        ] {
            assert_eq!(judge(a(own), local, peer), Err(NotCaptured), "{own}");
        }
        for other in ["10.0.0.1:80", "10.0.0.2:15001", "240.240.0.1:15001"] {
            assert_eq!(judge(a(other), local, peer), Ok(a(other)));
        }
        let mapped = a("[::ffff:192.0.2.7]:15006");
        assert_eq!(judge(a("192.0.2.7:15006"), mapped, peer), Err(NotCaptured));
        assert_eq!(
            judge(a("192.0.2.7:8080"), mapped, peer),
            Ok(a("192.0.2.7:8080"))
        );
    }

    #[tokio::test]
    async fn a_connection_that_nobody_captured_is_none() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let there = listener.local_addr().unwrap();
        let (_client, accepted) = tokio::join!(TcpStream::connect(there), listener.accept());
        let (stream, peer) = accepted.unwrap();
        assert_eq!(of(&stream, peer), Err(NotCaptured));
    }
}
