//! Answers that come before a request's body has been read, to clients that look for them only when they have sent it all.

use tokio::{
    io::{ReadHalf, WriteHalf, split},
    time::timeout,
};
use tradewind_api::route::{Action, Direct, Match, To};

use super::{
    rules::{self, rule, segments},
    *,
};
use crate::outbound::arriving::MAX_DISCARDED;

/// What the proxy answers by itself: more than fits into a packet, so that a reset could take away a part of it.
const ANSWER: usize = 100_000;
/// An upload that fits into no socket's buffers.
const UPLOAD: usize = 8 << 20;
/// What the kernel may hold of a connection on both of its sides, sent and not read: `tcp_wmem` and `tcp_rmem` as they usually are.
const BUFFERS: usize = 32 << 20;

/// A client that writes and reads bytes.
struct Raw {
    from: ReadHalf<TcpStream>,
    to: WriteHalf<TcpStream>,
}

impl Raw {
    async fn connect(at: SocketAddr) -> Self {
        let stream = TcpStream::connect(at).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (from, to) = split(stream);
        Self { from, to }
    }

    async fn head(&mut self, method: &str, path: &str, fields: &str) {
        let head = format!("{method} {path} HTTP/1.1\r\nhost: x\r\n{fields}\r\n");
        self.to.write_all(head.as_bytes()).await.unwrap();
    }

    /// All of a body, before anything is read.
    async fn upload(&mut self, chunked: bool) {
        let piece = vec![b'u'; 64 << 10];
        for _ in 0..UPLOAD / piece.len() {
            if chunked {
                self.to.write_all(b"10000\r\n").await.unwrap();
            }
            self.to.write_all(&piece).await.unwrap();
            if chunked {
                self.to.write_all(b"\r\n").await.unwrap();
            }
        }
        if chunked {
            self.to.write_all(b"0\r\n\r\n").await.unwrap();
        }
    }

    /// A response's head, and its body read to the end.
    async fn answer(&mut self) -> String {
        let (mut head, mut byte) = (Vec::new(), [0]);
        while !head.ends_with(b"\r\n\r\n") {
            self.from.read_exact(&mut byte).await.unwrap();
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap();
        let length = head
            .lines()
            .find_map(|l| l.strip_prefix("content-length: "))
            .map_or(0, |l| l.parse().unwrap());
        let mut body = vec![0; length];
        self.from.read_exact(&mut body).await.unwrap();
        head
    }

    /// That nothing more comes, however the connection ends.
    async fn ends(&mut self) {
        let mut rest = Vec::new();
        drop(self.from.read_to_end(&mut rest).await);
        assert!(rest.is_empty(), "{}", String::from_utf8_lossy(&rest));
    }
}

/// A proxy that answers `/no` itself, and has the rest answered by a peer.
async fn world() -> (World, Peer) {
    let world = World::new();
    let peer = Peer::start(&world, "w", "west").await;
    world.endpoint("w", "west", peer.address);
    let no = Direct {
        status: 429,
        body: Some(vec![b'n'; ANSWER]),
    };
    let on = rules::to(&[(world::SERVICE.trim_end_matches(":80"), 1)]);
    world.rules(vec![
        rule(segments("/no"), Action::new(To::Direct(no))),
        rule(Match::default(), on),
    ]);
    (world, peer)
}

#[tokio::test]
async fn an_upload_hears_the_answer_that_came_before_it_was_read() {
    on_one_thread(async {
        let (world, peer) = world().await;
        let proxy = world.proxy().await;
        for round in 0..12 {
            let chunked = round % 2 == 0;
            let mut client = Raw::connect(proxy.address).await;
            let length = format!("content-length: {UPLOAD}\r\n");
            let fields = if chunked {
                "transfer-encoding: chunked\r\n"
            } else {
                &length
            };
            client.head("POST", "/no", fields).await;
            client.upload(chunked).await;
            assert!(client.answer().await.starts_with("HTTP/1.1 429"));
            // By an endpoint that answers early, over the same connection.
            peer.then([Act::Status(413)]);
            client.head("POST", "/", fields).await;
            client.upload(chunked).await;
            assert!(client.answer().await.starts_with("HTTP/1.1 413"));
            client.head("GET", "/no", "connection: close\r\n").await;
            assert!(client.answer().await.starts_with("HTTP/1.1 429"));
            client.ends().await;
        }
    })
    .await;
}

#[tokio::test]
async fn nobody_to_ask_is_heard_of_as_well() {
    on_one_thread(async {
        let proxy = World::new().proxy().await;
        let mut client = Raw::connect(proxy.address).await;
        let fields = format!("content-length: {UPLOAD}\r\nconnection: close\r\n");
        client.head("POST", "/", &fields).await;
        client.upload(false).await;
        let answer = client.answer().await;
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
        client.ends().await;
    })
    .await;
}

#[tokio::test]
async fn a_client_that_never_ends_is_cut_off_behind_its_answer() {
    on_one_thread(async {
        let (world, _peer) = world().await;
        let proxy = world.proxy().await;
        let mut client = Raw::connect(proxy.address).await;
        let fields = "transfer-encoding: chunked\r\n";
        client.head("POST", "/no", fields).await;
        assert!(client.answer().await.starts_with("HTTP/1.1 429"));
        let piece = [b"10000\r\n".as_slice(), &[b'u'; 64 << 10], b"\r\n"].concat();
        let mut sent = 0;
        while client.to.write_all(&piece).await.is_ok() {
            sent += 64 << 10;
            assert!(sent <= MAX_DISCARDED + BUFFERS, "it is not cut off");
        }
        assert!(sent >= MAX_DISCARDED, "{sent} bytes were all");
        // Others are served as before.
        let mut other = Raw::connect(proxy.address).await;
        other.head("GET", "/no", "").await;
        assert!(other.answer().await.starts_with("HTTP/1.1 429"));
    })
    .await;
}

#[tokio::test]
async fn a_body_that_was_never_asked_for_is_not_waited_for() {
    on_one_thread(async {
        let (world, peer) = world().await;
        let proxy = world.proxy().await;
        let fields = "content-length: 5\r\nexpect: 100-continue\r\n";
        let mut client = Raw::connect(proxy.address).await;
        client.head("POST", "/no", fields).await;
        let answer = client.answer().await;
        assert!(answer.starts_with("HTTP/1.1 429"), "{answer}");
        assert!(answer.contains("connection: close\r\n"), "{answer}");
        let soon = Duration::from_secs(2);
        timeout(soon, client.ends()).await.unwrap();
        // Where somebody reads it, it is asked for.
        let mut client = Raw::connect(proxy.address).await;
        client.head("POST", "/", fields).await;
        assert!(client.answer().await.starts_with("HTTP/1.1 100"));
        client.to.write_all(b"hello").await.unwrap();
        let answer = client.answer().await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(!answer.contains("connection: close\r\n"), "{answer}");
        assert_eq!(peer.seen.get(), 1);
    })
    .await;
}

#[tokio::test]
async fn a_drain_waits_for_the_answer_of_an_upload_and_no_longer() {
    on_one_thread(async {
        let (world, _peer) = world().await;
        let mut proxy = world.proxy().await;
        let mut client = Raw::connect(proxy.address).await;
        let fields = format!("content-length: {UPLOAD}\r\n");
        client.head("POST", "/no", &fields).await;
        client.to.write_all(b"u").await.unwrap();
        assert!(client.answer().await.starts_with("HTTP/1.1 429"));
        let drained = proxy.trigger.take().unwrap().drain(Duration::from_secs(10));
        let sending = async {
            // The first byte of it is there already.
            client.to.write_all(&vec![b'u'; UPLOAD - 1]).await.unwrap();
            client.ends().await;
        };
        tokio::join!(drained, sending);
    })
    .await;
}
