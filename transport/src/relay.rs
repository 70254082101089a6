//! Copying between two streams, both ways, until both are done.
//!
//! Owns one large buffer per thread, lent to a connection only while bytes are in hand: an idle connection costs none,
//! and a peer that reads slowly costs what it left of one read. An end of stream is passed on as one, an abort as an
//! abort. Nothing bounds the time but the peers: whoever calls sets keepalive and cuts what must not live on.

use std::{
    cell::Cell,
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

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

/// Copies between two sockets. When one side aborts, both are set to abort when the caller drops them (a reset instead of
/// an orderly end), so that nobody takes half a message for a whole one.
pub async fn relay(a: &mut TcpStream, b: &mut TcpStream) -> Relayed {
    let relayed = relay_io(a, b).await;
    if let End::Failed(..) = relayed.end {
        for stream in [&*a, &*b] {
            // The side that failed may be gone already: then there is nothing to set.
            drop(SockRef::from(stream).set_linger(Some(Duration::ZERO)));
        }
    }
    relayed
}

/// Copies between any two streams, such as TLS or a tunnel. An abort cannot be expressed on every stream: the caller
/// reads [`Relayed::end`] and drops the streams without a shutdown.
pub async fn relay_io<A, B>(a: &mut A, b: &mut B) -> Relayed
where
    A: AsyncRead + AsyncWrite + Unpin + ?Sized,
    B: AsyncRead + AsyncWrite + Unpin + ?Sized,
{
    let mut a_to_b = Direction::new(Side::A);
    let mut b_to_a = Direction::new(Side::B);
    let end = poll_fn(|cx| poll_both(cx, (&mut *a, &mut *b), &mut a_to_b, &mut b_to_a)).await;
    Relayed {
        a_to_b: a_to_b.moved,
        b_to_a: b_to_a.moved,
        end,
    }
}

fn poll_both<A, B>(
    cx: &mut Context<'_>,
    (a, b): (&mut A, &mut B),
    a_to_b: &mut Direction,
    b_to_a: &mut Direction,
) -> Poll<End>
where
    A: AsyncRead + AsyncWrite + Unpin + ?Sized,
    B: AsyncRead + AsyncWrite + Unpin + ?Sized,
{
    let forth = a_to_b.poll(cx, a, b);
    let back = b_to_a.poll(cx, b, a);
    match (forth, back) {
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
    }
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
    read_bytes: usize,
    moved: u64,
}

impl Direction {
    const fn new(from: Side) -> Self {
        Self {
            from,
            state: State::Open,
            left: Vec::new(),
            left_at: 0,
            unflushed: false,
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

    fn poll<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut R,
        to: &mut W,
    ) -> Poll<Result<(), Failed>>
    where
        R: AsyncRead + Unpin + ?Sized,
        W: AsyncWrite + Unpin + ?Sized,
    {
        let result = loop {
            match &self.state {
                State::Open => match ready!(self.poll_copy(cx, from, to)) {
                    Ok(()) => self.state = State::Ending,
                    Err(failed) => break Err(failed),
                },
                State::Ending => {
                    break ready!(Pin::new(&mut *to).poll_shutdown(cx))
                        .or_else(already_gone)
                        .map_err(|e| Failed(self.to(), e.kind()));
                }
                State::Done(result) => return Poll::Ready(*result),
            }
        };
        self.left = Vec::new();
        self.state = State::Done(result);
        Poll::Ready(result)
    }

    /// Ready at the source's end with everything written, or at a failure.
    fn poll_copy<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut R,
        to: &mut W,
    ) -> Poll<Result<(), Failed>>
    where
        R: AsyncRead + Unpin + ?Sized,
        W: AsyncWrite + Unpin + ?Sized,
    {
        let turn_ends_at = self.moved.saturating_add(TURN_BYTES);
        loop {
            if let Err(failed) = ready!(self.poll_left(cx, to)) {
                return Poll::Ready(Err(failed));
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
            let got = room.filled();
            if got.is_empty() {
                return Poll::Ready(Ok(()));
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
