//! What protocol a client speaks, from its first bytes, where nobody said.
//!
//! Owns nothing. Pure but for [`detect`], which reads until it knows, the client is silent too long, or the bound is
//! reached. It must never keep a server-first protocol waiting beyond the deadline, and never panic.

use std::io;

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    time::{Instant, timeout_at},
};

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Detected {
    /// An HTTP/1.0 or HTTP/1.1 request.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// Anything else, TLS included.
    Opaque,
}

impl Detected {
    /// The metric label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http1 => "http1",
            Self::Http2 => "http2",
            Self::Opaque => "opaque",
        }
    }
}

/// Most bytes looked at: the longest request line that common servers take.
pub const MAX_DETECT_BYTES: usize = 8 << 10;

/// Longest method: registered ones have up to 17 characters.
const MAX_METHOD_BYTES: usize = 24;

const H2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Decides from the first bytes of a connection. `None`: more are needed.
pub fn classify(first: &[u8]) -> Option<Detected> {
    if first.is_empty() {
        return None;
    }
    if first.starts_with(H2_PREFACE) {
        return Some(Detected::Http2);
    }
    if H2_PREFACE.starts_with(first) {
        return None;
    }
    request_line(first)
}

/// `METHOD target HTTP/1.x`, with nothing that could be another line protocol: the version must be seen.
fn request_line(first: &[u8]) -> Option<Detected> {
    let opaque = Some(Detected::Opaque);
    let seen = first.get(..MAX_DETECT_BYTES).unwrap_or(first);
    let method = seen.iter().take_while(|b| is_method_byte(**b)).count();
    if method > MAX_METHOD_BYTES {
        return opaque;
    }
    match seen.get(method) {
        None => return None,
        Some(b' ') if method > 0 => {}
        Some(_) => return opaque,
    }
    let Some(end) = seen.iter().position(|b| *b == b'\n') else {
        // A request line holds no control character; a binary protocol soon does.
        let text = seen.iter().all(|b| *b >= b' ' || *b == b'\r');
        return if text && seen.len() < MAX_DETECT_BYTES {
            None
        } else {
            opaque
        };
    };
    let line = seen.get(..end).unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let version = line.get(line.len().saturating_sub(9)..).unwrap_or_default();
    // As above: however the bytes were cut on their way, they are the same.
    let text = line.iter().all(|b| *b >= b' ');
    if text && matches!(version, b" HTTP/1.1" | b" HTTP/1.0") && line.len() > method + 9 {
        Some(Detected::Http1)
    } else {
        opaque
    }
}

fn is_method_byte(b: u8) -> bool {
    b.is_ascii_uppercase() || matches!(b, b'-' | b'_')
}

/// Reads until the protocol is known. A client that is silent until `deadline`, or closes, is opaque. What was read is
/// returned, to be put back with [`crate::prefixed::Prefixed`].
pub async fn detect<IO: AsyncRead + Unpin>(
    io: &mut IO,
    deadline: Instant,
) -> io::Result<(Detected, Bytes)> {
    let mut first = BytesMut::new();
    loop {
        first.reserve(1 << 10);
        match timeout_at(deadline, io.read_buf(&mut first)).await {
            Err(_) | Ok(Ok(0)) => return Ok((Detected::Opaque, first.freeze())),
            Ok(Err(e)) => return Err(e),
            Ok(Ok(_)) => {}
        }
        if let Some(found) = classify(&first) {
            return Ok((found, first.freeze()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;
    use tokio::io::AsyncWriteExt;

    #[test]
    fn protocols_are_told_apart() {
        let cases: &[(&[u8], Option<Detected>)] = &[
            (b"", None),
            (b"P", None),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r", None),
            (H2_PREFACE, Some(Detected::Http2)),
            (b"PRI * HTTP/1.1\r\n", Some(Detected::Http1)),
            (b"GET", None),
            (b"GET / HTTP/1.1", None),
            (b"GET / HTTP/1.1\r\nhost: a\r\n", Some(Detected::Http1)),
            (b"M-SEARCH * HTTP/1.0\n", Some(Detected::Http1)),
            (b"GET / HTTP/1.7\r\n", Some(Detected::Opaque)),
            (b"GET HTTP/1.1\r\n", Some(Detected::Opaque)),
            (b"GET key\r\n", Some(Detected::Opaque)),
            (b"SSH-2.0-x\r\n", Some(Detected::Opaque)),
            (b"\x16\x03\x01\x02\x00", Some(Detected::Opaque)),
            (b" / HTTP/1.1\r\n", Some(Detected::Opaque)),
            (b"GET \x00\x01", Some(Detected::Opaque)),
            (b"GET \x00\x01 HTTP/1.1\r\n", Some(Detected::Opaque)),
            (b"GET /\r HTTP/1.1\r\n", Some(Detected::Opaque)),
        ];
        for (bytes, expected) in cases {
            assert_eq!(
                classify(bytes),
                *expected,
                "{:?}",
                bytes.escape_ascii().to_string()
            );
        }
        let long = [b"GET /".as_slice(), &[b'a'; MAX_DETECT_BYTES]].concat();
        assert_eq!(classify(&long), Some(Detected::Opaque));
    }

    proptest! {
        #[test]
        fn a_decision_never_changes_with_more_bytes(
            b in prop::collection::vec(any::<u8>(), 0..200),
            method in "(GET|POST|PRI|) ",
            version in "(| HTTP/1.1\r\n| HTTP/1.0\n)",
        ) {
            let b = [method.as_bytes(), &b, version.as_bytes()].concat();
            let mut decided = None;
            for n in 0..=b.len() {
                let now = classify(&b[..n]);
                if decided.is_some() {
                    prop_assert_eq!(now, decided);
                }
                decided = now;
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_client_is_opaque_at_the_deadline() {
        let (mut near, mut far) = tokio::io::duplex(64);
        let deadline = Instant::now() + Duration::from_secs(1);
        let (found, read) = detect(&mut near, deadline).await.unwrap();
        assert_eq!((found, read.len()), (Detected::Opaque, 0));
        far.write_all(b"GE").await.unwrap();
        let deadline = Instant::now() + Duration::from_secs(1);
        let (found, read) = detect(&mut near, deadline).await.unwrap();
        assert_eq!((found, &read[..]), (Detected::Opaque, &b"GE"[..]));
    }

    #[tokio::test]
    async fn pieces_are_put_together() {
        let (mut near, mut far) = tokio::io::duplex(4);
        let write = async { far.write_all(b"POST /x HTTP/1.1\r\n").await.unwrap() };
        let deadline = Instant::now() + Duration::from_secs(5);
        let (got, ()) = tokio::join!(detect(&mut near, deadline), write);
        let (found, read) = got.unwrap();
        assert_eq!(
            (found, &read[..]),
            (Detected::Http1, &b"POST /x HTTP/1.1\r\n"[..])
        );
    }
}
