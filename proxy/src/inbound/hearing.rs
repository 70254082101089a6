//! A connection to an application that is read on when nothing more can be written to it. One that answers before it has read a request
//! and closes has the kernel reset the connection; what it had sent by then is still there to be read, and is the answer.
//!
//! Owns the connection. What can no longer be written is dropped, as it would be on its way.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

/// The connection.
#[derive(Debug)]
pub(super) struct Hearing {
    stream: TcpStream,
    /// Nobody takes what is written any more. Whether there is an answer is for reading to find out: that ends with the connection's
    /// error where there is none.
    lost: bool,
}

impl Hearing {
    pub(super) const fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            lost: false,
        }
    }

    /// What a write of so many bytes comes to.
    fn written(&mut self, wrote: Poll<io::Result<usize>>, all: usize) -> Poll<io::Result<usize>> {
        match wrote {
            Poll::Ready(Err(error)) => {
                tracing::trace!(%error, "an application takes no more");
                self.lost = true;
                Poll::Ready(Ok(all))
            }
            other => other,
        }
    }
}

impl AsyncRead for Hearing {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Hearing {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.lost {
            return Poll::Ready(Ok(buf.len()));
        }
        let wrote = Pin::new(&mut this.stream).poll_write(cx, buf);
        this.written(wrote, buf.len())
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let all = bufs.iter().map(|b| b.len()).sum();
        if this.lost {
            return Poll::Ready(Ok(all));
        }
        let wrote = Pin::new(&mut this.stream).poll_write_vectored(cx, bufs);
        this.written(wrote, all)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
