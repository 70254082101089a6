//! The server name in a TLS ClientHello, read without any TLS state: what a gateway routes by.
//!
//! Owns nothing. Pure, bounded by [`MAX_HELLO`], and the first code that strangers' bytes meet: it never panics, and its
//! answer does not depend on how the bytes were cut, into packets or into TLS records.

use std::{borrow::Cow, io};

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    time::{Instant, timeout_at},
};

/// Most bytes of a connection looked at. A hello with the hybrid key exchange has about 1.5 kB; one TLS record may have
/// 16 KiB.
pub const MAX_HELLO: usize = 16 << 10;

/// Longest DNS name.
const MAX_NAME_BYTES: usize = 253;

/// What the first bytes of a connection are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hello {
    /// So far a ClientHello; more bytes are needed.
    Incomplete,
    /// A whole one, with this server name (as sent: case is not changed).
    Name(String),
    /// A whole one without a server name.
    NoName,
    /// Not a ClientHello, or a broken one.
    NotTls,
    /// Not whole within [`MAX_HELLO`].
    TooLarge,
}

/// Marks bytes that break the format.
struct Broken;

/// What a cursor ran into: `Err` needs no more, `Ok(None)` needs more bytes.
type Assembled<'a> = Result<Option<Cow<'a, [u8]>>, Hello>;

const CONTENT_HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const EXTENSION_SERVER_NAME: u16 = 0;
const NAME_TYPE_HOST: u8 = 0;
/// RFC 8446 section 5.1: a plaintext record's bound.
const MAX_RECORD: usize = 1 << 14;
const RECORD_HEADER: usize = 5;
const HANDSHAKE_HEADER: usize = 4;

/// Reads the first bytes of a connection.
pub fn parse(first: &[u8]) -> Hello {
    let whole = first.len() >= MAX_HELLO;
    let seen = first.get(..MAX_HELLO).unwrap_or(first);
    match assemble(seen) {
        Err(hello) => hello,
        Ok(None) if whole => Hello::TooLarge,
        Ok(None) => Hello::Incomplete,
        Ok(Some(message)) => match name_in(&message) {
            Ok(Some(name)) => Hello::Name(name),
            Ok(None) => Hello::NoName,
            Err(Broken) => Hello::NotTls,
        },
    }
}

/// The body of the first handshake message, put together from as many records as it was cut into. Borrowed when it lies
/// in one.
fn assemble(mut rest: &[u8]) -> Assembled<'_> {
    let mut message: Cow<'_, [u8]> = Cow::Borrowed(&[]);
    loop {
        let Some((fragment, after)) = record(rest)? else {
            return Ok(None);
        };
        if message.is_empty() {
            message = Cow::Borrowed(fragment);
        } else {
            message.to_mut().extend_from_slice(fragment);
        }
        if let Some(length) = message_length(&message)? {
            let end = HANDSHAKE_HEADER + length;
            if message.len() >= end {
                return Ok(Some(match message {
                    Cow::Borrowed(m) => {
                        Cow::Borrowed(m.get(HANDSHAKE_HEADER..end).unwrap_or_default())
                    }
                    Cow::Owned(m) => {
                        Cow::Owned(m.get(HANDSHAKE_HEADER..end).unwrap_or_default().to_vec())
                    }
                }));
            }
        }
        rest = match after {
            Some(after) => after,
            None => return Ok(None),
        };
    }
}

/// One record's bytes as far as they are there, and what follows once it is whole.
#[expect(clippy::type_complexity, reason = "used once, just above")]
fn record(rest: &[u8]) -> Result<Option<(&[u8], Option<&[u8]>)>, Hello> {
    // Each byte is judged as soon as it is there, so that another protocol is refused at its first byte.
    if rest.first().is_some_and(|t| *t != CONTENT_HANDSHAKE)
        || rest.get(1).is_some_and(|major| *major != 3)
    {
        return Err(Hello::NotTls);
    }
    let [_, _, _, high, low, body @ ..] = rest else {
        return Ok(None);
    };
    let length = usize::from(u16::from_be_bytes([*high, *low]));
    if length == 0 || length > MAX_RECORD {
        return Err(Hello::NotTls);
    }
    debug_assert_eq!(rest.len(), RECORD_HEADER + body.len());
    Ok(Some(match body.split_at_checked(length) {
        Some((fragment, after)) => (fragment, Some(after)),
        None => (body, None),
    }))
}

/// The handshake header: `None` until it is there.
fn message_length(message: &[u8]) -> Result<Option<usize>, Hello> {
    match message {
        [kind, ..] if *kind != CLIENT_HELLO => Err(Hello::NotTls),
        [_, a, b, c, ..] => {
            let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
            if length + HANDSHAKE_HEADER + RECORD_HEADER > MAX_HELLO {
                return Err(Hello::TooLarge);
            }
            Ok(Some(length))
        }
        _ => Ok(None),
    }
}

/// A reader over a message that is whole.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], Broken> {
        let (taken, rest) = self.0.split_at_checked(n).ok_or(Broken)?;
        self.0 = rest;
        Ok(taken)
    }

    fn u8(&mut self) -> Result<u8, Broken> {
        self.take(1)?.first().copied().ok_or(Broken)
    }

    fn u16(&mut self) -> Result<u16, Broken> {
        match self.take(2)? {
            [high, low] => Ok(u16::from_be_bytes([*high, *low])),
            _ => Err(Broken),
        }
    }

    fn vec8(&mut self) -> Result<&'a [u8], Broken> {
        let n = usize::from(self.u8()?);
        self.take(n)
    }

    fn vec16(&mut self) -> Result<&'a [u8], Broken> {
        let n = usize::from(self.u16()?);
        self.take(n)
    }

    fn done(&self) -> bool {
        self.0.is_empty()
    }
}

/// RFC 8446 section 4.1.2, as far as the way to the extensions goes.
fn name_in(body: &[u8]) -> Result<Option<String>, Broken> {
    let mut hello = Fields(body);
    let _version = hello.u16()?;
    let _random = hello.take(32)?;
    let session_id = hello.vec8()?;
    let suites = hello.vec16()?;
    let compressions = hello.vec8()?;
    if session_id.len() > 32 || suites.len() < 2 || suites.len() % 2 != 0 || compressions.is_empty()
    {
        return Err(Broken);
    }
    if hello.done() {
        return Ok(None);
    }
    let mut extensions = Fields(hello.vec16()?);
    if !hello.done() {
        return Err(Broken);
    }
    let mut found = None;
    while !extensions.done() {
        let kind = extensions.u16()?;
        let content = extensions.vec16()?;
        if kind == EXTENSION_SERVER_NAME {
            // Twice the same extension would let two readers see two names.
            if found.is_some() {
                return Err(Broken);
            }
            found = Some(host_name(content)?);
        }
    }
    Ok(found)
}

/// RFC 6066 section 3: one host name, in ASCII.
fn host_name(content: &[u8]) -> Result<String, Broken> {
    let mut content = Fields(content);
    let mut list = Fields(content.vec16()?);
    let kind = list.u8()?;
    let name = list.vec16()?;
    if kind != NAME_TYPE_HOST || !list.done() || !content.done() {
        return Err(Broken);
    }
    let printable = name.iter().all(u8::is_ascii_graphic);
    if name.is_empty() || name.len() > MAX_NAME_BYTES || !printable {
        return Err(Broken);
    }
    String::from_utf8(name.to_vec()).map_err(|_| Broken)
}

/// Reads from a new connection until its hello is whole or known to be none. The bytes are returned with the answer, to
/// be sent on. A client that closes early has an [`io::ErrorKind::UnexpectedEof`], one that is slower than `deadline` an
/// [`io::ErrorKind::TimedOut`].
pub async fn read_hello<IO: AsyncRead + Unpin>(
    io: &mut IO,
    deadline: Instant,
) -> io::Result<(Bytes, Hello)> {
    let mut first = BytesMut::new();
    loop {
        // Room for the ordinary hello at once; whoever sends more gets more, up to the bound.
        first.reserve(2 << 10);
        let read = timeout_at(deadline, io.read_buf(&mut first)).await;
        match read {
            Err(_) => return Err(io::ErrorKind::TimedOut.into()),
            Ok(Ok(0)) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(Err(e)) => return Err(e),
            Ok(Ok(_)) => {}
        }
        match parse(&first) {
            Hello::Incomplete => {}
            hello => return Ok((first.freeze(), hello)),
        }
    }
}

#[cfg(test)]
mod tests;
