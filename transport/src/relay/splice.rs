//! One direction between two sockets: copied while it is small, spliced through a pipe while it is large, so that its bytes
//! never come to user space. Holds a pipe only while bytes lie in it: they are carried on before anything else moves, and a
//! direction that ends early closes the pipe with them.

use std::{
    io,
    task::{Context, Poll, ready},
};

use nix::fcntl::{SpliceFFlags, splice};
use tokio::{io::Interest, net::TcpStream};

use super::{
    Direction, Failed, Flow, Side, State, Stop, TURN_BYTES,
    pipe::{PIPE_BYTES, Pipe},
};

/// What counts as a small move: below it, copying costs less than the second system call.
const SMALL_BYTES: usize = 16 << 10;

/// Small moves in a row before a flow is copied again.
const SMALL_MOVES: u8 = 8;

/// A direction between sockets.
#[derive(Debug)]
pub(super) struct SocketDirection {
    copy: Direction,
    splicing: bool,
    small_moves: u8,
    /// Only while bytes lie in it.
    held: Option<Pipe>,
}

/// Why splicing stopped. Nothing is in hand then.
enum Unspliced {
    Ended,
    /// The flow has become small, or there is no pipe.
    Copy,
}

impl SocketDirection {
    pub(super) const fn new(from: Side) -> Self {
        Self {
            copy: Direction::new(from),
            splicing: false,
            small_moves: 0,
            held: None,
        }
    }

    /// Bytes written so far.
    pub(super) const fn moved(&self) -> u64 {
        self.copy.moved
    }

    fn poll_splice(
        &mut self,
        cx: &mut Context<'_>,
        from: &TcpStream,
        to: &TcpStream,
    ) -> Poll<Result<Unspliced, Failed>> {
        let turn_ends_at = self.copy.moved.saturating_add(TURN_BYTES);
        loop {
            if let Err(e) = ready!(self.poll_held(cx, to)) {
                return Poll::Ready(Err(Failed(self.copy.to(), e.kind())));
            }
            if self.small_moves >= SMALL_MOVES {
                return Poll::Ready(Ok(Unspliced::Copy));
            }
            if self.copy.moved >= turn_ends_at {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let Some(mut pipe) = Pipe::take() else {
                return Poll::Ready(Ok(Unspliced::Copy));
            };
            // The pipe is empty: only the socket can make this wait.
            match ready!(poll_in(cx, from, &mut pipe)) {
                Ok(0) => return Poll::Ready(Ok(Unspliced::Ended)),
                Ok(n) if n < SMALL_BYTES => self.small_moves += 1,
                Ok(_) => self.small_moves = 0,
                Err(e) => return Poll::Ready(Err(Failed(self.copy.from, e.kind()))),
            }
            self.held = Some(pipe);
        }
    }

    /// Ready when no bytes are held.
    fn poll_held(&mut self, cx: &mut Context<'_>, to: &TcpStream) -> Poll<io::Result<()>> {
        while let Some(pipe) = &mut self.held {
            if pipe.filled() == 0 {
                self.held = None;
                break;
            }
            let n = ready!(poll_out(cx, pipe, to))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.copy.moved = self.copy.moved.saturating_add(n as u64);
        }
        Poll::Ready(Ok(()))
    }
}

impl Flow<TcpStream, TcpStream> for SocketDirection {
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut TcpStream,
        to: &mut TcpStream,
    ) -> Poll<Result<(), Failed>> {
        loop {
            if !self.splicing {
                match ready!(self.copy.poll_copied(cx, from, to, true)) {
                    Ok(Stop::Ended) => return Poll::Ready(Ok(())),
                    Ok(Stop::Large) => self.splicing = true,
                    Err(failed) => return Poll::Ready(Err(failed)),
                }
            }
            let unspliced = ready!(self.poll_splice(cx, from, to));
            self.splicing = false;
            self.small_moves = 0;
            self.copy.large_reads = 0;
            match unspliced {
                Ok(Unspliced::Copy) => {}
                Ok(Unspliced::Ended) => self.copy.state = State::Ending,
                Err(failed) => {
                    self.held = None;
                    return Poll::Ready(self.copy.finish(Err(failed)));
                }
            }
        }
    }

    fn moved(&self) -> u64 {
        self.copy.moved
    }

    fn other_ended(&mut self) {
        self.copy.closes = true;
    }
}

/// From a socket into an empty pipe.
fn poll_in(cx: &mut Context<'_>, from: &TcpStream, pipe: &mut Pipe) -> Poll<io::Result<usize>> {
    loop {
        ready!(from.poll_read_ready(cx))?;
        let moved = from.try_io(Interest::READABLE, || {
            pipe.fill(|into| Ok(splice(from, None, into, None, PIPE_BYTES, flags())?))
        });
        match moved {
            Err(e) if is_passing(&e) => {}
            moved => return Poll::Ready(moved),
        }
    }
}

/// From a pipe that is not empty into a socket: only the socket can make this wait.
fn poll_out(cx: &mut Context<'_>, pipe: &mut Pipe, to: &TcpStream) -> Poll<io::Result<usize>> {
    loop {
        ready!(to.poll_write_ready(cx))?;
        let moved = to.try_io(Interest::WRITABLE, || {
            pipe.empty(|out, filled| Ok(splice(out, None, to, None, filled, flags())?))
        });
        match moved {
            Err(e) if is_passing(&e) => {}
            moved => return Poll::Ready(moved),
        }
    }
}

fn is_passing(e: &io::Error) -> bool {
    matches!(
        e.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}

fn flags() -> SpliceFFlags {
    SpliceFFlags::SPLICE_F_MOVE | SpliceFFlags::SPLICE_F_NONBLOCK
}
