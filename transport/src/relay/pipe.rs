//! Pipes for splicing, pooled per thread. Owns every pipe that nobody uses; a pipe comes back by being dropped, and only
//! an empty one comes back: one with bytes in it is closed, so no byte of one connection ever reaches another.

use std::{
    cell::RefCell,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::atomic::{AtomicUsize, Ordering},
};

use nix::{
    fcntl::{FcntlArg, OFlag, fcntl},
    unistd::pipe2,
};

/// Most pipes in this process, used and pooled: two descriptors each. A pipe is in use only while bytes lie in it, which is
/// while a reader is slow; beyond this many slow readers of large flows, others are served by copying.
pub const MAX_PIPES: usize = 128;

/// Most unused pipes that one thread keeps. Readers that keep up need one in all.
const POOLED_PIPES: usize = 16;

/// What a pipe is asked to hold, and so what one splice moves at most. Where the kernel grants less, less is moved.
pub(super) const PIPE_BYTES: usize = 256 << 10;

static LIVE: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static POOL: RefCell<Vec<Ends>> = const { RefCell::new(Vec::new()) };
}

/// Both ends; counts as live until it is dropped.
#[derive(Debug)]
struct Ends {
    read: OwnedFd,
    write: OwnedFd,
}

impl Ends {
    fn open() -> Option<Self> {
        if LIVE.fetch_add(1, Ordering::Relaxed) >= MAX_PIPES {
            LIVE.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        let Ok((read, write)) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK) else {
            LIVE.fetch_sub(1, Ordering::Relaxed);
            return None;
        };
        let bytes = i32::try_from(PIPE_BYTES).unwrap_or(i32::MAX);
        if let Err(error) = fcntl(&write, FcntlArg::F_SETPIPE_SZ(bytes)) {
            tracing::debug!(%error, "a pipe keeps its size");
        }
        Some(Self { read, write })
    }
}

impl Drop for Ends {
    fn drop(&mut self) {
        LIVE.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A pipe that one direction uses. It is empty when it is taken.
#[derive(Debug)]
pub(super) struct Pipe {
    ends: Option<Ends>,
    filled: usize,
}

impl Pipe {
    /// From the pool, or a new one; none when there are too many, or no descriptors.
    pub(super) fn take() -> Option<Self> {
        let pooled = POOL.try_with(|pool| pool.borrow_mut().pop()).ok().flatten();
        pooled.or_else(Ends::open).map(|ends| Self {
            ends: Some(ends),
            filled: 0,
        })
    }

    /// Bytes that lie in it.
    pub(super) const fn filled(&self) -> usize {
        self.filled
    }

    /// Lets `put` write into the pipe, and believes what it says it wrote.
    pub(super) fn fill<E>(
        &mut self,
        put: impl FnOnce(BorrowedFd<'_>) -> Result<usize, E>,
    ) -> Result<usize, E> {
        let n = self.ends.as_ref().map_or(Ok(0), |e| put(e.write.as_fd()))?;
        self.filled += n;
        Ok(n)
    }

    /// Lets `get` read from the pipe, and believes what it says it read.
    pub(super) fn empty<E>(
        &mut self,
        get: impl FnOnce(BorrowedFd<'_>, usize) -> Result<usize, E>,
    ) -> Result<usize, E> {
        let filled = self.filled;
        let got = self.ends.as_ref().map(|e| get(e.read.as_fd(), filled));
        let n = got.unwrap_or(Ok(0))?;
        self.filled = self.filled.saturating_sub(n);
        Ok(n)
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        let Some(ends) = self.ends.take().filter(|_| self.filled == 0) else {
            return;
        };
        let back = POOL.try_with(|pool| {
            let mut pool = pool.borrow_mut();
            if pool.len() < POOLED_PIPES {
                pool.push(ends);
            }
        });
        if back.is_err() {
            tracing::trace!("a thread that ends pools no pipes");
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::io::{Read, Write};

    pub(in super::super) fn pooled() -> usize {
        POOL.with(|pool| pool.borrow().len())
    }

    fn put(pipe: &mut Pipe, bytes: &[u8]) {
        let written =
            pipe.fill(|fd| std::fs::File::from(fd.try_clone_to_owned().unwrap()).write(bytes));
        assert_eq!(written.unwrap(), bytes.len());
    }

    #[test]
    fn only_empty_pipes_come_back_and_their_number_is_bounded() {
        let _alone = super::super::tests::ALONE.blocking_lock();
        let mut pipe = Pipe::take().unwrap();
        put(&mut pipe, b"not for others");
        drop(pipe);
        assert_eq!(pooled(), 0, "closed with what lay in it");
        let mut pipe = Pipe::take().unwrap();
        put(&mut pipe, b"carried on");
        let read = pipe.empty(|fd, n| {
            let mut got = vec![0; n];
            std::fs::File::from(fd.try_clone_to_owned().unwrap()).read(&mut got)
        });
        assert_eq!(read.unwrap(), 10);
        drop(pipe);
        assert_eq!(pooled(), 1);
        let all: Vec<_> = std::iter::from_fn(Pipe::take).take(2 * MAX_PIPES).collect();
        assert!(
            all.len() > POOLED_PIPES && all.len() <= MAX_PIPES,
            "{}",
            all.len()
        );
        drop(all);
        assert_eq!(pooled(), POOLED_PIPES);
        assert!(LIVE.load(Ordering::Relaxed) < MAX_PIPES);
    }
}
