//! Both ends of a session over a pipe in memory: whole bytes, ends and cuts told apart, few calls, bounded waiting.

use std::{rc::Rc, sync::Arc};

use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    pki_types::{PrivateKeyDer, ServerName},
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;

/// What the pipe below holds.
const PIPE: usize = 256 << 10;

/// A pipe's end that counts how often it is written to.
struct Counted {
    io: DuplexStream,
    writes: Rc<Cell<usize>>,
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, out)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.writes.set(self.writes.get() + 1);
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // As a socket does: all parts in one call.
        let all: Vec<u8> = parts.iter().flat_map(|part| part.to_vec()).collect();
        self.writes.set(self.writes.get() + 1);
        Pin::new(&mut self.io).poll_write(cx, &all)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

struct Pair {
    client: Stream<Counted>,
    server: Stream<Counted>,
    /// Writes of the client's since the handshake.
    writes: Rc<Cell<usize>>,
}

async fn pair() -> Pair {
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["x".into()]).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(cert.der().clone()).unwrap();
    let client = ClientConfig::builder_with_provider(super::super::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
    let server = ServerConfig::builder_with_provider(super::super::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    let (near, far) = duplex(PIPE);
    let counted = |io| Counted {
        io,
        writes: Rc::default(),
    };
    let (near, far) = (counted(near), counted(far));
    let writes = Rc::clone(&near.writes);
    let (client, server) = tokio::try_join!(
        TlsConnector::from(Arc::new(client)).connect(ServerName::try_from("x").unwrap(), near),
        TlsAcceptor::from(Arc::new(server)).accept(far),
    )
    .unwrap();
    writes.set(0);
    Pair {
        client: client.into(),
        server: server.into(),
        writes,
    }
}

/// Bytes that no shift or loss leaves equal.
fn pattern(count: usize) -> Vec<u8> {
    let mut state = 7_u32;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    std::iter::repeat_with(next).take(count).collect()
}

#[tokio::test]
async fn bytes_arrive_whole_both_ways_at_once() {
    let Pair { client, server, .. } = pair().await;
    let sent = pattern(3_000_000);
    let (mut client_reads, mut client_writes) = tokio::io::split(client);
    let (mut server_reads, mut server_writes) = tokio::io::split(server);
    let send = async |to: &mut tokio::io::WriteHalf<Stream<Counted>>| {
        // Odd sizes, so that records and reads never match.
        for part in sent.chunks(70_001) {
            to.write_all(part).await.unwrap();
            to.flush().await.unwrap();
        }
        to.shutdown().await.unwrap();
    };
    let receive = async |from: &mut tokio::io::ReadHalf<Stream<Counted>>| {
        let mut all = Vec::new();
        let mut room = vec![0; 33_333];
        loop {
            match from.read(&mut room).await.unwrap() {
                0 => return all,
                n => all.extend_from_slice(&room[..n]),
            }
        }
    };
    let ((), (), down, up) = tokio::join!(
        send(&mut client_writes),
        send(&mut server_writes),
        receive(&mut client_reads),
        receive(&mut server_reads),
    );
    assert!(down == sent && up == sent);
}

#[tokio::test]
async fn what_is_written_together_leaves_together() {
    let Pair {
        mut client,
        mut server,
        writes,
    } = pair().await;
    for n in 0..20_u8 {
        client.write_all(&[n; 300]).await.unwrap();
    }
    assert_eq!(writes.get(), 0, "nothing leaves before the flush");
    client.flush().await.unwrap();
    assert_eq!(writes.get(), 1);
    let mut got = [0; 20 * 300];
    server.read_exact(&mut got).await.unwrap();
    assert_eq!((got[0], got[5_999]), (0, 19));
}

#[tokio::test]
async fn a_farewell_is_an_end_and_a_cut_is_none() {
    let Pair {
        mut client,
        mut server,
        ..
    } = pair().await;
    client.write_all(b"last words").await.unwrap();
    client.shutdown().await.unwrap();
    let mut got = Vec::new();
    server.read_to_end(&mut got).await.unwrap();
    assert_eq!(got, b"last words");

    let Pair {
        mut client,
        mut server,
        ..
    } = pair().await;
    client.write_all(b"half a").await.unwrap();
    client.flush().await.unwrap();
    drop(client);
    let mut got = [0; 6];
    server.read_exact(&mut got).await.unwrap();
    for _ in 0..2 {
        let cut = server.read(&mut got).await.unwrap_err();
        assert_eq!(cut.kind(), io::ErrorKind::UnexpectedEof);
    }
}

#[tokio::test]
async fn bytes_that_are_no_records_are_refused_and_the_peer_is_told() {
    let Pair {
        mut client,
        mut server,
        ..
    } = pair().await;
    client.write_all(b"good").await.unwrap();
    client.flush().await.unwrap();
    let mut got = [0; 64];
    assert_eq!(server.read(&mut got).await.unwrap(), 4);
    // A record of 32 bytes that nobody sealed.
    let mut forged = vec![23, 3, 3, 0, 32];
    forged.extend([0x5a; 32]);
    // By hand, around the session.
    let mut left = &forged[..];
    std::future::poll_fn(|cx| Pin::new(&mut client.0.borrow_mut().io.io).poll_write(cx, left))
        .await
        .map(|n| left = &left[n..])
        .unwrap();
    assert!(left.is_empty());
    let refused = server.read(&mut got).await.unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::InvalidData);
    let told = client.read(&mut got).await.unwrap_err();
    assert!(told.to_string().contains("BadRecordMac"), "{told}");
}

#[tokio::test]
async fn who_does_not_read_holds_the_writer_back() {
    let Pair {
        mut client,
        mut server,
        ..
    } = pair().await;
    let sent = pattern(4 << 20);
    let mut taken = 0;
    // What the pipe holds and one buffer of records, not more.
    let held = std::future::poll_fn(|cx| {
        loop {
            match Pin::new(&mut client).poll_write(cx, &sent[taken..]) {
                Poll::Ready(n) => taken += n.unwrap(),
                Poll::Pending => return Poll::Ready(taken),
            }
        }
    })
    .await;
    assert!(held <= PIPE + 2 * WRITE_BYTES, "{held} bytes were taken");
    let rest = async {
        client.write_all(&sent[held..]).await.unwrap();
        client.shutdown().await.unwrap();
    };
    let mut got = Vec::new();
    let (read, ()) = tokio::join!(server.read_to_end(&mut got), rest);
    read.unwrap();
    assert!(got == sent);
}

#[tokio::test]
async fn no_buffer_is_kept_by_who_has_nothing_unread() {
    let Pair {
        mut client,
        mut server,
        ..
    } = pair().await;
    client.write_all(b"x").await.unwrap();
    client.flush().await.unwrap();
    server.read_u8().await.unwrap();
    assert!(server.0.borrow().unread.is_none());
    client.write_all(&pattern(60_000)).await.unwrap();
    client.flush().await.unwrap();
    server.read_u8().await.unwrap();
    let kept = server.0.borrow().unread.as_ref().map(|u| u.left().len());
    assert!(kept.is_some_and(|n| n <= READ_BYTES), "{kept:?}");
    let mut rest = vec![0; 59_999];
    server.read_exact(&mut rest).await.unwrap();
    assert!(server.0.borrow().unread.is_none());
    assert!(rest == pattern(60_000)[1..]);
}

#[tokio::test]
async fn a_corked_stream_sends_when_it_is_told_and_large_and_small_keep_their_order() {
    let Pair {
        mut client,
        mut server,
        writes,
    } = pair().await;
    let cork = client.cork();
    cork.begin();
    let mut sent = Vec::new();
    for n in 0..30 {
        // Below and above what waits for company, and beyond a record.
        let part = pattern([9, 300, 5_000, 40, 20_000, 1][n % 6]);
        let (head, body) = part.split_at(part.len() / 3);
        let parts = [IoSlice::new(head), IoSlice::new(body)];
        let taken = client.write_vectored(&parts).await.unwrap();
        client.write_all(&part[taken..]).await.unwrap();
        client.flush().await.unwrap();
        sent.extend_from_slice(&part);
    }
    assert_eq!(writes.get(), 0, "nothing leaves before it is told");
    std::future::poll_fn(|cx| {
        cork.send(cx);
        Poll::Ready(())
    })
    .await;
    assert_eq!(writes.get(), 1);
    let mut got = vec![0; sent.len()];
    server.read_exact(&mut got).await.unwrap();
    assert!(got == sent);
}

#[tokio::test]
async fn who_writes_corked_to_a_dead_socket_is_told() {
    let Pair {
        mut client, server, ..
    } = pair().await;
    let cork = client.cork();
    cork.begin();
    drop(server);
    client.write_all(b"x").await.unwrap();
    std::future::poll_fn(|cx| {
        cork.send(cx);
        Poll::Ready(())
    })
    .await;
    let told = client.write_all(b"y").await.unwrap_err();
    assert_eq!(told.kind(), io::ErrorKind::BrokenPipe);
    let told = client.read_u8().await.unwrap_err();
    assert_eq!(told.kind(), io::ErrorKind::BrokenPipe);
}

#[tokio::test]
async fn who_reads_much_lets_others_run() {
    let Pair {
        mut client,
        mut server,
        ..
    } = pair().await;
    let sent = pattern(3 * TURN_BYTES);
    let mut turns = 0;
    let read = async {
        let mut got = Vec::new();
        let mut room = vec![0; 64 << 10];
        while got.len() < sent.len() {
            let mut out = ReadBuf::new(&mut room);
            let polled = std::future::poll_fn(|cx| {
                let polled = Pin::new(&mut server).poll_read(cx, &mut out);
                Poll::Ready(polled)
            });
            match polled.await {
                Poll::Ready(read) => {
                    read.unwrap();
                    got.extend_from_slice(out.filled());
                }
                Poll::Pending => {
                    turns += 1;
                    tokio::task::yield_now().await;
                }
            }
        }
        got
    };
    let write = async {
        client.write_all(&sent).await.unwrap();
        client.flush().await.unwrap();
    };
    let (got, ()) = tokio::join!(read, write);
    assert!(got == sent);
    assert!(turns >= 2, "{turns}");
}
