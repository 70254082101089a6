//! Relays over real sockets: bytes, half-close, reset and idle connections arrive as they were sent.

use super::*;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    time::timeout,
};

const PATIENCE: Duration = Duration::from_secs(20);

/// Two connected sockets.
async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dial = TcpStream::connect(listener.local_addr().unwrap());
    let (near, far) = tokio::join!(dial, listener.accept());
    (near.unwrap(), far.unwrap().0)
}

/// A client and a server with a relay between them, which is dropped when it ended, as a caller does.
async fn through_relay<F, T>(test: impl FnOnce(TcpStream, TcpStream) -> F) -> (Relayed, T)
where
    F: Future<Output = T>,
{
    let (client, mut a) = pair().await;
    let (mut b, server) = pair().await;
    let run = async move {
        let relayed = relay(&mut a, &mut b).await;
        drop((a, b));
        relayed
    };
    let both = async { tokio::join!(run, test(client, server)) };
    timeout(PATIENCE, both).await.expect("ends in time")
}

fn pattern(n: usize, seed: u8) -> Vec<u8> {
    (0..n)
        .map(|i| (i as u8).wrapping_mul(31).wrapping_add((i >> 8) as u8) ^ seed)
        .collect()
}

#[tokio::test]
async fn large_transfers_both_ways_arrive_whole() {
    const N: usize = 24 << 20;
    let (relayed, ()) = through_relay(|client, server| async {
        let exchange = |mut s: TcpStream, seed: u8| async move {
            let (mut r, mut w) = s.split();
            let send = async {
                w.write_all(&pattern(N, seed)).await.unwrap();
                w.shutdown().await.unwrap();
            };
            let mut got = Vec::new();
            let (read, ()) = tokio::join!(r.read_to_end(&mut got), send);
            read.unwrap();
            assert!(got == pattern(N, seed ^ 1), "the other's bytes, in order");
        };
        tokio::join!(exchange(client, 0), exchange(server, 1));
    })
    .await;
    let n = N as u64;
    let expected = Relayed {
        a_to_b: n,
        b_to_a: n,
        end: End::Closed,
    };
    assert_eq!(relayed, expected);
}

#[tokio::test]
async fn a_half_close_is_passed_on_and_the_other_half_works_on() {
    let (relayed, ()) = through_relay(|mut client, mut server| async move {
        client.write_all(b"question").await.unwrap();
        client.shutdown().await.unwrap();
        let mut got = Vec::new();
        server.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, b"question");
        // The client's end has arrived; the answer still gets back.
        server.write_all(b"the answer").await.unwrap();
        drop(server);
        got.clear();
        client.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, b"the answer");
    })
    .await;
    let expected = Relayed {
        a_to_b: 8,
        b_to_a: 10,
        end: End::Closed,
    };
    assert_eq!(relayed, expected);
}

fn reset(stream: TcpStream) {
    SockRef::from(&stream)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    drop(stream);
}

#[tokio::test]
async fn a_reset_is_passed_on_as_a_reset() {
    let (relayed, ()) = through_relay(|mut client, mut server| async move {
        client.write_all(b"half a mess").await.unwrap();
        let mut got = [0; 11];
        server.read_exact(&mut got).await.unwrap();
        reset(client);
        let ended = server.read(&mut got).await;
        assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    })
    .await;
    assert_eq!(relayed.a_to_b, 11);
    assert_eq!(
        relayed.end,
        End::Failed(Side::A, io::ErrorKind::ConnectionReset)
    );

    let (relayed, ()) = through_relay(|mut client, server| async move {
        reset(server);
        let ended = client.read(&mut [0; 1]).await;
        assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    })
    .await;
    assert_eq!(
        relayed.end,
        End::Failed(Side::B, io::ErrorKind::ConnectionReset)
    );
}

#[tokio::test]
async fn an_early_answer_reaches_a_client_that_is_still_sending() {
    // The server answers and closes without reading: its kernel resets, but the answer came first.
    let (relayed, answer) = through_relay(|mut client, mut server| async move {
        client.write_all(&[0; 1000]).await.unwrap();
        server.readable().await.unwrap();
        server.write_all(b"413").await.unwrap();
        drop(server);
        let mut answer = [0; 3];
        client.read_exact(&mut answer).await.unwrap();
        answer
    })
    .await;
    assert_eq!(&answer, b"413");
    assert_eq!(relayed.b_to_a, 3);
}

#[tokio::test]
async fn a_slow_reader_holds_the_sender_back_and_loses_nothing() {
    const N: usize = 64 << 20;
    let (relayed, ()) = through_relay(|mut client, mut server| async move {
        let mut sent = 0;
        // Until nothing moves any more: the buffers of four sockets and what is left of one read.
        let chunk = pattern(1 << 16, 0);
        while let Ok(n) = timeout(
            Duration::from_millis(300),
            client.write(&chunk[sent % (1 << 16)..]),
        )
        .await
        {
            sent += n.unwrap();
            assert!(sent < N, "the relay buffers without a bound");
        }
        assert!(sent > 0);
        client.shutdown().await.unwrap();
        let mut got = Vec::new();
        server.read_to_end(&mut got).await.unwrap();
        assert_eq!(got.len(), sent);
        assert!(got.chunks(1 << 16).all(|part| *part == chunk[..part.len()]));
    })
    .await;
    assert_eq!(relayed.end, End::Closed);
}

#[tokio::test]
async fn any_stream_is_relayed_and_flushed() {
    let (mut client, mut a) = tokio::io::duplex(10);
    let (b, mut server) = tokio::io::duplex(10);
    // Holds writes back until it is flushed, as TLS may.
    let mut b = tokio::io::BufWriter::new(b);
    let talk = async {
        client.write_all(b"hello").await.unwrap();
        let mut got = [0; 5];
        server.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"hello");
        drop(server);
        let mut rest = Vec::new();
        client.read_to_end(&mut rest).await.unwrap();
        drop(client);
    };
    let both = async { tokio::join!(relay_io(&mut a, &mut b), talk) };
    let (relayed, ()) = timeout(PATIENCE, both).await.unwrap();
    assert_eq!((relayed.a_to_b, relayed.b_to_a), (5, 0));
    assert_eq!(relayed.end, End::Closed);
}

#[tokio::test]
async fn an_idle_relay_holds_no_buffer() {
    let (mut client, mut a) = pair().await;
    let (mut b, mut server) = pair().await;
    let relay = relay(&mut a, &mut b);
    assert!(size_of_val(&relay) < 512, "{}", size_of_val(&relay));
    tokio::pin!(relay);
    let echo = async {
        client.write_all(b"x").await.unwrap();
        server.read_exact(&mut [0; 1]).await.unwrap();
    };
    tokio::select! {
        _ = &mut relay => panic!("nobody closed"),
        () = echo => {}
    }
    // The one buffer is back with the thread.
    let held = BUFFER.take();
    assert_eq!(held.as_ref().map(|b| b.len()), Some(BUFFER_BYTES));
}
