//! Copying between two streams, both ways, until both are done.
//!
//! Owns one large buffer per thread, lent to a connection only while bytes are in hand: an idle connection costs none,
//! and a peer that reads slowly costs what it left of one read. Between sockets, large flows are spliced and never seen.
//! An end of stream is passed on as one, an abort as an abort. Nothing bounds the time but the peers: whoever calls sets
//! keepalive and cuts what must not live on.

mod pipe;
mod splice;

use std::{
    cell::Cell,
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

pub use pipe::MAX_PIPES;
use splice::SocketDirection;

use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

/// The per-thread buffer. Large reads are what makes a relay cheap: 256 KiB costs half of what 16 KiB does per byte,
/// most of it saved in TCP.
const BUFFER_BYTES: usize = 256 << 10;

/// What a direction whose reader is slow takes per read: this is the most it can leave lying.
const SLOW_READ_BYTES: usize = 16 << 10;

/// Most that one direction moves before others on its thread get their turn.
const TURN_BYTES: u64 = 1 << 20;

/// What counts as a large read, besides one that filled its room: a sender that is not quite as fast as we are shows
/// itself so.
const LARGE_READ_BYTES: usize = 64 << 10;

/// Large reads in a row before a flow between sockets is spliced. A single large answer is cheaper to copy.
const LARGE_READS: u8 = 4;

thread_local! {
    // Taken out while in use, so that a relay inside of a relay gets a second one instead of a panic.
    static BUFFER: Cell<Option<Box<[u8]>>> = const { Cell::new(None) };
}

/// One of the two streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// The first.
    A,
    /// The second.
    B,
}

/// How a relay ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum End {
    /// Both directions ended in order.
    Closed,
    /// This side failed or aborted; [`relay`] then aborts the other.
    Failed(Side, io::ErrorKind),
}

/// What a relay did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Relayed {
    /// Bytes that were read from A and written to B.
    pub a_to_b: u64,
    /// Bytes that were read from B and written to A.
    pub b_to_a: u64,
    /// How it ended.
    pub end: End,
}

/// Copies between two sockets, which the caller drops when it is done: that tells the last end, at no call of its own. When
/// one side aborts, both are set to abort when they are dropped (a reset instead of an orderly end), so that nobody takes
/// half a message for a whole one.
pub async fn relay(a: &mut TcpStream, b: &mut TcpStream) -> Relayed {
    relay_counted(a, b, |_, _| {}).await
}

/// As [`relay`], and tells `count` as bytes are passed on: which side they came from, and how many. A connection may live
/// for weeks.
pub async fn relay_counted(
    a: &mut TcpStream,
    b: &mut TcpStream,
    count: impl Fn(Side, u64),
) -> Relayed {
    let mut a_to_b = SocketDirection::new(Side::A);
    let mut b_to_a = SocketDirection::new(Side::B);
    let end = poll_fn(|cx| poll_both(cx, (&mut *a, &mut *b), (&mut a_to_b, &mut b_to_a), &count));
    let end = end.await;
    if let End::Failed(..) = end {
        for stream in [&*a, &*b] {
            // The side that failed may be gone already: then there is nothing to set.
            drop(SockRef::from(stream).set_linger(Some(Duration::ZERO)));
        }
    }
    Relayed {
        a_to_b: a_to_b.moved(),
        b_to_a: b_to_a.moved(),
        end,
    }
}

/// Copies between any two streams, such as TLS or a tunnel. An abort cannot be expressed on every stream: the caller
/// reads [`Relayed::end`] and drops the streams without a shutdown.
pub async fn relay_io<A, B>(a: &mut A, b: &mut B) -> Relayed
where
    A: AsyncRead + AsyncWrite + Unpin + ?Sized,
    B: AsyncRead + AsyncWrite + Unpin + ?Sized,
{
    relay_io_counted(a, b, |_, _| {}).await
}

/// As [`relay_io`], and tells `count` as bytes are passed on: which side they came from, and how many.
pub async fn relay_io_counted<A, B>(a: &mut A, b: &mut B, count: impl Fn(Side, u64)) -> Relayed
where
    A: AsyncRead + AsyncWrite + Unpin + ?Sized,
    B: AsyncRead + AsyncWrite + Unpin + ?Sized,
{
    let mut a_to_b = Direction::new(Side::A);
    let mut b_to_a = Direction::new(Side::B);
    let end = poll_fn(|cx| poll_both(cx, (&mut *a, &mut *b), (&mut a_to_b, &mut b_to_a), &count));
    let end = end.await;
    Relayed {
        a_to_b: a_to_b.moved,
        b_to_a: b_to_a.moved,
        end,
    }
}

/// What moves the bytes of one direction.
trait Flow<R: ?Sized, W: ?Sized> {
    /// Ready at the end, which was passed on, or at a failure.
    fn poll(&mut self, cx: &mut Context<'_>, from: &mut R, to: &mut W) -> Poll<Result<(), Failed>>;

    /// Bytes written so far.
    fn moved(&self) -> u64;

    /// Tells that the other direction has ended: this one's end may be told by closing the sink.
    fn other_ended(&mut self) {}
}

fn poll_both<A: ?Sized, B: ?Sized>(
    cx: &mut Context<'_>,
    (a, b): (&mut A, &mut B),
    (a_to_b, b_to_a): (&mut impl Flow<A, B>, &mut impl Flow<B, A>),
    count: &impl Fn(Side, u64),
) -> Poll<End> {
    let before = (a_to_b.moved(), b_to_a.moved());
    let forth = a_to_b.poll(cx, a, b);
    if forth.is_ready() {
        b_to_a.other_ended();
    }
    let back = b_to_a.poll(cx, b, a);
    if back.is_ready() {
        a_to_b.other_ended();
    }
    let polled = match (forth, back) {
        (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Poll::Ready(End::Closed),
        (Poll::Ready(Err(failed)), _) => {
            // B may have answered before it closed: what already came is passed on. `back` was polled after the failure.
            Poll::Ready(failed.into())
        }
        (_, Poll::Ready(Err(failed))) => {
            // The same the other way round: the first direction was polled before the failure, so once more.
            let _last = a_to_b.poll(cx, a, b);
            Poll::Ready(failed.into())
        }
        _ => Poll::Pending,
    };
    for (side, moved) in [
        (Side::A, a_to_b.moved().saturating_sub(before.0)),
        (Side::B, b_to_a.moved().saturating_sub(before.1)),
    ] {
        if moved > 0 {
            count(side, moved);
        }
    }
    polled
}

/// Which side failed, and how.
#[derive(Clone, Copy, Debug)]
struct Failed(Side, io::ErrorKind);

impl From<Failed> for End {
    fn from(f: Failed) -> Self {
        Self::Failed(f.0, f.1)
    }
}

#[derive(Debug)]
enum State {
    /// Bytes are copied.
    Open,
    /// The source ended; the sink is being told.
    Ending,
    /// Done, well or not.
    Done(Result<(), Failed>),
}

/// One direction's state: what was read and could not be written yet, and counts.
#[derive(Debug)]
struct Direction {
    from: Side,
    state: State,
    /// Empty, and without an allocation, but while the sink is full.
    left: Vec<u8>,
    left_at: usize,
    /// Something was written since the last flush.
    unflushed: bool,
    /// The caller closes the sink right after the end: it need not be told before.
    closes: bool,
    /// Reads in a row that were large; the flow is spliced after some, where it can be.
    large_reads: u8,
    read_bytes: usize,
    moved: u64,
}

impl<R, W> Flow<R, W> for Direction
where
    R: AsyncRead + Unpin + ?Sized,
    W: AsyncWrite + Unpin + ?Sized,
{
    fn poll(&mut self, cx: &mut Context<'_>, from: &mut R, to: &mut W) -> Poll<Result<(), Failed>> {
        self.poll_copied(cx, from, to, false).map_ok(|_| ())
    }

    fn moved(&self) -> u64 {
        self.moved
    }
}

/// Why copying stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    /// The source ended, and the sink was told.
    Ended,
    /// The flow is large and nothing of it is in hand.
    Large,
}

impl Direction {
    const fn new(from: Side) -> Self {
        Self {
            from,
            state: State::Open,
            left: Vec::new(),
            left_at: 0,
            unflushed: false,
            closes: false,
            large_reads: 0,
            read_bytes: BUFFER_BYTES,
            moved: 0,
        }
    }

    const fn to(&self) -> Side {
        match self.from {
            Side::A => Side::B,
            Side::B => Side::A,
        }
    }

    /// Ready at the end, or where `stop_large` holds and the flow has become large.
    fn poll_copied<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut R,
        to: &mut W,
        stop_large: bool,
    ) -> Poll<Result<Stop, Failed>>
    where
        R: AsyncRead + Unpin + ?Sized,
        W: AsyncWrite + Unpin + ?Sized,
    {
        let result = loop {
            match &self.state {
                State::Open => match ready!(self.poll_open(cx, from, to, stop_large)) {
                    Ok(Stop::Ended) => self.state = State::Ending,
                    Ok(Stop::Large) => return Poll::Ready(Ok(Stop::Large)),
                    Err(failed) => break Err(failed),
                },
                State::Ending if self.closes => break Ok(()),
                State::Ending => {
                    break ready!(Pin::new(&mut *to).poll_shutdown(cx))
                        .or_else(already_gone)
                        .map_err(|e| Failed(self.to(), e.kind()));
                }
                State::Done(result) => return Poll::Ready(result.map(|()| Stop::Ended)),
            }
        };
        Poll::Ready(self.finish(result).map(|()| Stop::Ended))
    }

    fn finish(&mut self, result: Result<(), Failed>) -> Result<(), Failed> {
        self.left = Vec::new();
        self.state = State::Done(result);
        result
    }

    /// Ready at the source's end with everything written, at a failure, or with a large flow where that is asked for.
    fn poll_open<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut R,
        to: &mut W,
        stop_large: bool,
    ) -> Poll<Result<Stop, Failed>>
    where
        R: AsyncRead + Unpin + ?Sized,
        W: AsyncWrite + Unpin + ?Sized,
    {
        let turn_ends_at = self.moved.saturating_add(TURN_BYTES);
        loop {
            if let Err(failed) = ready!(self.poll_left(cx, to)) {
                return Poll::Ready(Err(failed));
            }
            if stop_large && self.large_reads >= LARGE_READS {
                return Poll::Ready(Ok(Stop::Large));
            }
            if self.moved >= turn_ends_at {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let mut buffer = Lent::take();
            let room = buffer.bytes.get_mut(..self.read_bytes).unwrap_or_default();
            let mut room = ReadBuf::new(room);
            match Pin::new(&mut *from).poll_read(cx, &mut room) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(e)) => return Poll::Ready(Err(Failed(self.from, e.kind()))),
                Poll::Pending => {
                    drop(buffer);
                    // Before it waits for the source, everything must be on its way.
                    return match self.poll_flush(cx, to) {
                        Poll::Ready(Err(failed)) => Poll::Ready(Err(failed)),
                        Poll::Ready(Ok(())) | Poll::Pending => Poll::Pending,
                    };
                }
            }
            let large = room.remaining() == 0 || room.filled().len() >= LARGE_READ_BYTES;
            self.large_reads = if large {
                self.large_reads.saturating_add(1)
            } else {
                0
            };
            let got = room.filled();
            if got.is_empty() {
                return Poll::Ready(Ok(Stop::Ended));
            }
            if let Err(failed) = self.write(cx, got, to) {
                return Poll::Ready(Err(failed));
            }
        }
    }

    /// Writes what it can of `bytes` and keeps the rest.
    fn write<W>(&mut self, cx: &mut Context<'_>, bytes: &[u8], to: &mut W) -> Result<(), Failed>
    where
        W: AsyncWrite + Unpin + ?Sized,
    {
        let mut rest = bytes;
        while !rest.is_empty() {
            match Pin::new(&mut *to).poll_write(cx, rest) {
                Poll::Ready(Ok(0)) => return Err(Failed(self.to(), io::ErrorKind::WriteZero)),
                Poll::Ready(Ok(n)) => {
                    self.moved = self.moved.saturating_add(n as u64);
                    self.unflushed = true;
                    rest = rest.get(n..).unwrap_or_default();
                }
                Poll::Ready(Err(e)) => return Err(Failed(self.to(), e.kind())),
                Poll::Pending => {
                    self.left = rest.to_vec();
                    self.left_at = 0;
                    self.read_bytes = SLOW_READ_BYTES;
                    return Ok(());
                }
            }
        }
        // The sink took it all: read more at a time, up to the whole buffer.
        self.read_bytes = (self.read_bytes * 2).min(BUFFER_BYTES);
        Ok(())
    }

    fn poll_left<W>(&mut self, cx: &mut Context<'_>, to: &mut W) -> Poll<Result<(), Failed>>
    where
        W: AsyncWrite + Unpin + ?Sized,
    {
        while let Some(rest @ [_, ..]) = self.left.get(self.left_at..) {
            match ready!(Pin::new(&mut *to).poll_write(cx, rest)) {
                Ok(0) => return Poll::Ready(Err(Failed(self.to(), io::ErrorKind::WriteZero))),
                Ok(n) => {
                    self.left_at += n;
                    self.moved = self.moved.saturating_add(n as u64);
                    self.unflushed = true;
                }
                Err(e) => return Poll::Ready(Err(Failed(self.to(), e.kind()))),
            }
        }
        self.left = Vec::new();
        self.left_at = 0;
        Poll::Ready(Ok(()))
    }

    fn poll_flush<W>(&mut self, cx: &mut Context<'_>, to: &mut W) -> Poll<Result<(), Failed>>
    where
        W: AsyncWrite + Unpin + ?Sized,
    {
        if self.unflushed {
            match ready!(Pin::new(to).poll_flush(cx)) {
                Ok(()) => self.unflushed = false,
                Err(e) => return Poll::Ready(Err(Failed(self.to(), e.kind()))),
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// Shutting down a socket that its peer reset already: the end was reached all the same.
fn already_gone(e: io::Error) -> io::Result<()> {
    if e.kind() == io::ErrorKind::NotConnected {
        Ok(())
    } else {
        Err(e)
    }
}

/// The thread's buffer while one poll uses it.
struct Lent {
    bytes: Box<[u8]>,
}

impl Lent {
    fn take() -> Self {
        let bytes = BUFFER
            .take()
            .unwrap_or_else(|| vec![0; BUFFER_BYTES].into_boxed_slice());
        Self { bytes }
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        BUFFER.set(Some(std::mem::take(&mut self.bytes)));
    }
}

#[cfg(test)]
mod tests;
