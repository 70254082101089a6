//! Relays over real sockets: bytes, half-close, reset and idle connections arrive as they were sent.

use super::{pipe::tests::pooled, *};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    time::timeout,
};

const PATIENCE: Duration = Duration::from_secs(20);

/// Pipes are counted in the whole process: who counts them, or splices, does it alone.
pub(super) static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

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
    let _alone = ALONE.lock().await;
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

/// Sends until the flow is spliced, while the other side reads all of it.
async fn until_spliced(from: &mut TcpStream, to: &mut TcpStream) -> u64 {
    let chunk = vec![7; 1 << 20];
    let mut got = vec![0; 1 << 20];
    let mut moved = 0;
    while pooled() == 0 {
        assert!(moved < 256 << 20, "a large flow is spliced some time");
        let both = async { tokio::join!(from.write_all(&chunk), to.read_exact(&mut got)) };
        let (written, read) = both.await;
        written.unwrap();
        read.unwrap();
        moved += chunk.len() as u64;
    }
    moved
}

/// Sends until nothing moves any more: some of it lies in a pipe then.
async fn until_stuck(from: &mut TcpStream) -> u64 {
    let chunk = vec![7; 1 << 16];
    let mut sent = 0;
    while let Ok(n) = timeout(Duration::from_millis(300), from.write(&chunk)).await {
        sent += n.unwrap() as u64;
    }
    sent
}

#[tokio::test]
async fn a_half_close_while_spliced_is_passed_on_and_the_other_half_works_on() {
    let (relayed, moved) = through_relay(|mut client, mut server| async move {
        let moved = until_spliced(&mut client, &mut server).await;
        // An odd rest, right before the end.
        client.write_all(&pattern(12_345, 3)).await.unwrap();
        client.shutdown().await.unwrap();
        let mut got = Vec::new();
        server.read_to_end(&mut got).await.unwrap();
        assert!(got == pattern(12_345, 3));
        server.write_all(&pattern(5_000_000, 4)).await.unwrap();
        drop(server);
        got.clear();
        client.read_to_end(&mut got).await.unwrap();
        assert!(got == pattern(5_000_000, 4));
        moved
    })
    .await;
    let expected = Relayed {
        a_to_b: moved + 12_345,
        b_to_a: 5_000_000,
        end: End::Closed,
    };
    assert_eq!(relayed, expected);
}

#[tokio::test]
async fn a_reset_while_spliced_is_passed_on_as_a_reset() {
    let (relayed, ()) = through_relay(|mut client, mut server| async move {
        until_spliced(&mut client, &mut server).await;
        reset(client);
        let ended = server.read(&mut [0; 1]).await;
        assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    })
    .await;
    assert_eq!(
        relayed.end,
        End::Failed(Side::A, io::ErrorKind::ConnectionReset)
    );

    // With bytes in the pipe: they go with it.
    let (relayed, ()) = through_relay(|mut client, mut server| async move {
        until_spliced(&mut server, &mut client).await;
        until_stuck(&mut server).await;
        assert_eq!(pooled(), 0, "bytes lie in the pipe");
        reset(client);
        let ended = async {
            while server.write(&[0; 1]).await.is_ok() {
                tokio::task::yield_now().await;
            }
        };
        ended.await;
    })
    .await;
    assert!(
        matches!(relayed.end, End::Failed(Side::A, _)),
        "{relayed:?}"
    );
    assert_eq!(pooled(), 0, "the pipe that held bytes is closed");
}

#[tokio::test]
async fn an_early_answer_reaches_a_client_whose_flow_is_spliced() {
    let (relayed, ()) = through_relay(|mut client, mut server| async move {
        until_spliced(&mut client, &mut server).await;
        client.write_all(&[0; 1000]).await.unwrap();
        server.readable().await.unwrap();
        server.write_all(b"413").await.unwrap();
        drop(server);
        let mut answer = [0; 3];
        client.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"413");
    })
    .await;
    assert_eq!(relayed.b_to_a, 3);
}

#[tokio::test]
async fn a_slow_reader_of_a_spliced_flow_loses_nothing() {
    let (relayed, sent) = through_relay(|mut client, mut server| async move {
        let mut sent = until_spliced(&mut client, &mut server).await;
        let stuck = until_stuck(&mut client).await;
        assert!(stuck < 64 << 20, "the relay buffers without a bound");
        sent += stuck;
        client.shutdown().await.unwrap();
        let mut got = Vec::new();
        server.read_to_end(&mut got).await.unwrap();
        assert_eq!(got.len() as u64, stuck);
        assert!(got.iter().all(|b| *b == 7));
        sent
    })
    .await;
    assert_eq!((relayed.a_to_b, relayed.end), (sent, End::Closed));
}

/// Writes `bytes` in pieces of every size, small ones in rows and large ones in rows.
async fn send(mut w: impl AsyncWrite + Unpin, bytes: &[u8], mut rng: fastrand::Rng) {
    let mut rest = bytes;
    let mut largest = 1;
    while !rest.is_empty() {
        if rng.u8(..) < 10 {
            largest = 1 << rng.u32(0..21);
        }
        let (now, later) = rest.split_at(rng.usize(1..=largest).min(rest.len()));
        w.write_all(now).await.unwrap();
        if rng.u8(..) < 30 {
            tokio::task::yield_now().await;
        }
        rest = later;
    }
    w.shutdown().await.unwrap();
}

/// Reads to the end, in pieces of every size, and leaves others their turns in between.
async fn receive(mut r: impl AsyncRead + Unpin, mut rng: fastrand::Rng) -> Vec<u8> {
    let mut got = Vec::new();
    let mut piece = vec![0; 1 << 18];
    let mut largest = piece.len();
    loop {
        if rng.u8(..) < 5 {
            largest = 1 << rng.u32(8..19);
        }
        let n = r.read(&mut piece[..largest]).await.unwrap();
        if n == 0 {
            return got;
        }
        got.extend_from_slice(&piece[..n]);
        for _ in 0..rng.u8(..8) {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn bytes_are_equal_whatever_their_sizes_and_however_slow_they_are_read() {
    for seed in 0..4 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let lengths = [rng.usize(0..16 << 20), rng.usize(0..16 << 20)];
        let (relayed, counted) = through_relay(|client, server| async move {
            let [a, b] = lengths.map(|n| pattern(n, seed as u8));
            let fork = |n| fastrand::Rng::with_seed(seed * 10 + n);
            let ((cr, cw), (sr, sw)) = (client.into_split(), server.into_split());
            let (to_server, to_client, (), ()) = tokio::join!(
                receive(sr, fork(1)),
                receive(cr, fork(2)),
                send(cw, &a, fork(3)),
                send(sw, &b, fork(4)),
            );
            assert!(to_server == a && to_client == b, "seed {seed}");
            [a.len(), b.len()]
        })
        .await;
        let [a_to_b, b_to_a] = counted.map(|n| n as u64);
        let expected = Relayed {
            a_to_b,
            b_to_a,
            end: End::Closed,
        };
        assert_eq!(relayed, expected, "seed {seed}");
    }
    assert!(pooled() > 0, "some of it was spliced");
}

#[tokio::test]
async fn no_pipe_leaks_and_readers_that_keep_up_need_one() {
    for round in 0..MAX_PIPES + 2 {
        let (_, ()) = through_relay(|mut client, mut server| async move {
            until_spliced(&mut client, &mut server).await;
            let chunk = vec![7; 1 << 20];
            let mut got = vec![0; 1 << 20];
            for _ in 0..2 {
                let both =
                    async { tokio::join!(client.write_all(&chunk), server.read_exact(&mut got)) };
                let (written, read) = both.await;
                written.unwrap();
                read.unwrap();
            }
            if round % 2 == 0 {
                reset(client);
            }
        })
        .await;
        assert_eq!(pooled(), 1);
    }
}

#[tokio::test]
async fn bytes_are_counted_while_the_relay_goes_on() {
    let _alone = ALONE.lock().await;
    let (mut client, mut a) = pair().await;
    let (mut b, mut server) = pair().await;
    let counts = [const { Cell::new(0) }; 2];
    let run = relay_counted(&mut a, &mut b, |side, n| {
        let count = &counts[usize::from(side == Side::B)];
        count.set(count.get() + n);
    });
    let talk = async {
        let moved = until_spliced(&mut client, &mut server).await;
        server.write_all(b"answer").await.unwrap();
        client.read_exact(&mut [0; 6]).await.unwrap();
        moved
    };
    let moved = tokio::select! {
        _ = run => panic!("nobody closed"),
        moved = timeout(PATIENCE, talk) => moved.unwrap(),
    };
    assert_eq!(counts.map(|c| c.get()), [moved, 6]);
}
