//! The bytes of a TLS session after its handshake, moved in few and large system calls.
//!
//! Owns the socket, the session, what was read of ciphertext and not yet opened, and what was written and not yet sent. Reads take
//! as much as the socket has into a buffer of the thread, lent to a connection only while bytes of its lie there; what is written
//! together is sealed and sent together. Rustls by itself is given 4 KiB a read and writes every record on its own, which makes
//! bulk twice as dear as it has to be. It never reads ahead of who reads from it, so whoever stops reading holds its peer back.

use std::{
    cell::{Cell, RefCell},
    fmt,
    io::{self, BufRead as _, IoSlice, Write as _},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use rustls::Connection;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Most ciphertext taken from the socket by one read: four records. More is hardly cheaper, and a peer that makes us stop in the
/// middle (by not reading what we send) makes one connection keep as much.
const READ_BYTES: usize = 64 << 10;

/// Ciphertext that may wait to be sent: beyond it nothing more is sealed before the socket takes some. A few frames of HTTP/2 at
/// their largest; also the most that a peer who reads nothing makes one connection keep.
const WRITE_BYTES: usize = 256 << 10;

/// Writes that are small together wait for each other in one record of this size: sealing and opening it costs about as much as
/// one of theirs would.
const SMALL_BYTES: usize = 4 << 10;

/// Parts of one write that are looked at: HTTP/2 makes two, its own bytes and a body's.
const PARTS: usize = 7;

/// Plaintext after which whoever reads has to let others run: what was read is used while it is still in the processor's cache.
const TURN_BYTES: usize = 256 << 10;

thread_local! {
    // Taken out while a connection has bytes in it; a second connection that does meanwhile makes its own.
    static BUFFER: Cell<Option<Box<[u8]>>> = const { Cell::new(None) };
}

/// Ciphertext that was read and not opened yet.
struct Unread {
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Unread {
    fn left(&self) -> &[u8] {
        self.buffer.get(self.start..self.end).unwrap_or_default()
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        let buffer = std::mem::take(&mut self.buffer);
        // On a thread that ends there is nothing to keep it for.
        let _kept = BUFFER.try_with(|kept| kept.set(Some(buffer)));
    }
}

/// A TLS session whose handshake is over.
pub struct Stream<IO>(Rc<RefCell<Core<IO>>>);

struct Core<IO> {
    io: IO,
    session: Connection,
    unread: Option<Unread>,
    /// Plaintext handed out since others could run.
    turn: usize,
    /// Plaintext that waits for more of its kind.
    small: Vec<u8>,
    /// A flush does nothing: the holder of the [`Cork`] does it.
    corked: bool,
    /// Sending failed where nobody could be told.
    failed: Option<io::ErrorKind>,
}

impl<IO> fmt::Debug for Stream<IO> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").finish_non_exhaustive()
    }
}

impl<IO> From<tokio_rustls::client::TlsStream<IO>> for Stream<IO> {
    fn from(stream: tokio_rustls::client::TlsStream<IO>) -> Self {
        let (io, session) = stream.into_inner();
        Self::new(io, session.into())
    }
}

impl<IO> From<tokio_rustls::server::TlsStream<IO>> for Stream<IO> {
    fn from(stream: tokio_rustls::server::TlsStream<IO>) -> Self {
        let (io, session) = stream.into_inner();
        Self::new(io, session.into())
    }
}

impl<IO> Stream<IO> {
    fn new(io: IO, mut session: Connection) -> Self {
        session.set_buffer_limit(Some(WRITE_BYTES));
        Self(Rc::new(RefCell::new(Core {
            io,
            session,
            unread: None,
            turn: 0,
            small: Vec::new(),
            corked: false,
            failed: None,
        })))
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin + 'static> Stream<IO> {
    /// What can take the sending out of a flush's hands.
    pub fn cork(&self) -> Cork {
        Cork(Rc::clone(&self.0) as Rc<dyn Sending>)
    }
}

/// Sends for a [`Stream`] that somebody else writes to, such as h2, which flushes after every frame of a body. Once it was begun
/// with, a flush of the stream does nothing, and whoever polls the writer has to call [`Cork::send`] after each poll that is pending.
#[derive(Clone)]
pub struct Cork(Rc<dyn Sending>);

impl fmt::Debug for Cork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cork").finish_non_exhaustive()
    }
}

impl Cork {
    /// From now on flushes do nothing.
    pub fn begin(&self) {
        self.0.begin();
    }

    /// Sends what waits, as far as the socket takes it; `cx` is woken when it takes the rest, and when sending fails, which the
    /// stream's next read or write tells.
    pub fn send(&self, cx: &mut Context<'_>) {
        self.0.send(cx);
    }
}

trait Sending {
    fn begin(&self);
    fn send(&self, cx: &mut Context<'_>);
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Sending for RefCell<Core<IO>> {
    fn begin(&self) {
        self.borrow_mut().corked = true;
    }

    fn send(&self, cx: &mut Context<'_>) {
        let mut core = self.borrow_mut();
        if core.failed.is_some() {
            return;
        }
        if let Poll::Ready(Err(error)) = core.poll_send(cx) {
            core.failed = Some(error.kind());
            cx.waker().wake_by_ref();
        }
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Core<IO> {
    /// Opens what was read: one step of it, which may or may not make plaintext.
    fn open(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let Some(unread) = &mut self.unread else {
            return Ok(());
        };
        let mut left = unread.left();
        let taken = self.session.read_tls(&mut left)?;
        unread.start += taken;
        if unread.left().is_empty() {
            self.unread = None;
        }
        if let Err(error) = self.session.process_new_packets() {
            // The peer is told why, if the socket takes it: the error itself counts for more.
            drop(self.write_records(cx));
            return Err(io::Error::new(io::ErrorKind::InvalidData, error));
        }
        Ok(())
    }

    /// Takes what the socket has.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let buffer = BUFFER
            .take()
            .unwrap_or_else(|| vec![0; READ_BYTES].into_boxed_slice());
        // Goes back by being dropped, whatever comes.
        let mut unread = Unread {
            buffer,
            start: 0,
            end: 0,
        };
        let mut room = ReadBuf::new(&mut unread.buffer);
        ready!(Pin::new(&mut self.io).poll_read(cx, &mut room))?;
        let read = room.filled().len();
        if read == 0 {
            // So that the session knows: an end without a farewell is no end.
            self.session.read_tls(&mut io::empty())?;
        } else {
            unread.end = read;
            self.unread = Some(unread);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Some(kind) = self.failed {
            return Poll::Ready(Err(kind.into()));
        }
        if self.turn >= TURN_BYTES {
            self.turn = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        loop {
            match self.session.reader().into_first_chunk() {
                // Nothing: the peer has said farewell.
                Ok(chunk) => {
                    let n = chunk.len().min(out.remaining());
                    out.put_slice(chunk.get(..n).unwrap_or_default());
                    self.session.reader().consume(n);
                    self.turn += n;
                    return Poll::Ready(Ok(()));
                }
                Err(e) if e.kind() != io::ErrorKind::WouldBlock => return Poll::Ready(Err(e)),
                Err(_) if self.unread.is_some() => self.open(cx)?,
                Err(_) => match self.poll_fill(cx) {
                    Poll::Ready(filled) => filled?,
                    Poll::Pending => {
                        self.turn = 0;
                        return Poll::Pending;
                    }
                },
            }
        }
    }

    /// Writes all records that wait.
    fn write_records(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.session.wants_write() {
            let mut socket = Socket {
                io: &mut self.io,
                cx,
            };
            match self.session.write_tls(&mut socket) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
                Err(e) => return Poll::Ready(Err(e)),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Takes from `parts` what there is room for, and makes room where there is none.
    fn poll_take(
        &mut self,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let Some(kind) = self.failed {
            return Poll::Ready(Err(kind.into()));
        }
        let parts = parts.get(..PARTS).unwrap_or(parts);
        let bytes: usize = parts.iter().map(|part| part.len()).sum();
        if bytes == 0 {
            return Poll::Ready(Ok(0));
        }
        if self.small.len() + bytes <= SMALL_BYTES {
            self.small.reserve_exact(SMALL_BYTES - self.small.len());
            for part in parts {
                self.small.extend_from_slice(part);
            }
            return Poll::Ready(Ok(bytes));
        }
        loop {
            match self.seal(parts)? {
                0 => ready!(self.write_records(cx))?,
                taken => return Poll::Ready(Ok(taken)),
            }
        }
    }

    /// Seals what was small, and `parts` behind it; says how much of those it took.
    fn seal(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        let small = std::mem::take(&mut self.small);
        let mut all = [IoSlice::new(&[]); PARTS + 1];
        for (place, part) in all
            .iter_mut()
            .zip(std::iter::once(&*small).chain(parts.iter().map(|part| &**part)))
        {
            *place = IoSlice::new(part);
        }
        let sealed = self.session.writer().write_vectored(&all)?;
        if let Some(left @ [_, ..]) = small.get(sealed..) {
            self.small = left.to_vec();
            return Ok(0);
        }
        Ok(sealed - small.len())
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.small.is_empty() {
            self.seal(&[])?;
            if !self.small.is_empty() {
                ready!(self.write_records(cx))?;
            }
        }
        ready!(self.write_records(cx))?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(cx))?;
        // Said once, however often this is polled.
        self.session.send_close_notify();
        ready!(self.write_records(cx))?;
        match ready!(Pin::new(&mut self.io).poll_shutdown(cx)) {
            // Closed from the other side already.
            Err(e) if e.kind() == io::ErrorKind::NotConnected => Poll::Ready(Ok(())),
            done => Poll::Ready(done),
        }
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncRead for Stream<IO> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.0.borrow_mut().poll_read(cx, out)
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Stream<IO> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.0.borrow_mut().poll_take(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.0.borrow_mut().poll_take(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut core = self.0.borrow_mut();
        if core.corked {
            return Poll::Ready(Ok(()));
        }
        core.poll_send(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.borrow_mut().poll_shutdown(cx)
    }
}

/// A socket as the session's writer wants it: pending is an error there.
struct Socket<'a, 'b, IO> {
    io: &'a mut IO,
    cx: &'a mut Context<'b>,
}

impl<IO: AsyncWrite + Unpin> Socket<'_, '_, IO> {
    fn now<T>(
        &mut self,
        poll: impl FnOnce(Pin<&mut IO>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> io::Result<T> {
        match poll(Pin::new(self.io), self.cx) {
            Poll::Ready(done) => done,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}

impl<IO: AsyncWrite + Unpin> io::Write for Socket<'_, '_, IO> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.now(|io, cx| io.poll_write(cx, bytes))
    }

    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        self.now(|io, cx| io.poll_write_vectored(cx, parts))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.now(|io, cx| io.poll_flush(cx))
    }
}

#[cfg(test)]
mod tests;
