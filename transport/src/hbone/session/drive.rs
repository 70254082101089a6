//! The task under a session: moves its bytes, and ends it when the peer is silent, revoked or no longer needed.
//!
//! Owns the connection. Dropping it ends every stream at once, which is how a revocation reaches live requests.

use std::{
    cell::Cell,
    future::{pending, poll_fn},
    io::{self, IoSlice},
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use h2::{Ping, PingPong};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::{Notify, watch},
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{Closed, Conn, Inner};
use crate::{tls::Cork, trust::TrustMap};

/// A silent peer is asked this often.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(1);
/// One that is silent while calls wait for it is asked this early: a black hole should cost them one deadline, not several
/// intervals before it. Above what most answers take, so that busy sessions need no pings.
const KEEPALIVE_FIRST: Duration = Duration::from_millis(100);
/// And has this long to answer, or to send anything else.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(1);
/// A session without streams is given up after this.
const IDLE: Duration = Duration::from_secs(300);
/// New requests leave a session this long before the peer's certificate ends, so that those under way can finish.
const EXPIRY_MARGIN: Duration = Duration::from_secs(300);

/// Notes that the peer sent something, so that a busy connection needs no pings.
#[derive(Debug)]
pub(in crate::hbone) struct Active<T> {
    io: T,
    heard: Rc<Cell<bool>>,
}

impl<T> Active<T> {
    pub(in crate::hbone) fn new(io: T) -> Self {
        Self {
            io,
            heard: Rc::new(Cell::new(false)),
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Active<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.io).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.heard.set(true);
        }
        polled
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Active<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }
    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// An established connection before its task is started.
pub(in crate::hbone) struct Driver<T: AsyncRead + AsyncWrite + Unpin> {
    conn: Conn<T>,
    /// Sends what the connection writes, where it does not send by itself.
    cork: Option<Cork>,
    pings: PingPong,
    heard: Rc<Cell<bool>>,
    /// The first measured round trip.
    pub(in crate::hbone) rtt: Duration,
    /// When the peer's certificate ends.
    pub(in crate::hbone) until: Option<Instant>,
}

/// Shakes hands and waits for one pong: only then is it certain that the peer accepted our certificate and speaks h2, and
/// that whatever failed so far was never processed.
pub(in crate::hbone) async fn prove<T>(
    io: T,
    cork: Option<Cork>,
) -> Result<(h2::client::SendRequest<bytes::Bytes>, Driver<T>), h2::Error>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let io = Active::new(io);
    let heard = Rc::clone(&io.heard);
    let (send, mut conn) = super::h2_builder().handshake(io).await?;
    let Some(mut pings) = conn.ping_pong() else {
        return Err(h2::Reason::INTERNAL_ERROR.into());
    };
    let asked = Instant::now();
    pings.send_ping(Ping::opaque())?;
    poll_fn(|cx| {
        if let Poll::Ready(ended) = Pin::new(&mut conn).poll(cx) {
            let gone = io::Error::new(io::ErrorKind::UnexpectedEof, "the peer closed the session");
            return Poll::Ready(Err(ended.err().unwrap_or_else(|| h2_io(gone))));
        }
        pings.poll_pong(cx).map_ok(drop)
    })
    .await?;
    if let Some(cork) = &cork {
        cork.begin();
    }
    let driver = Driver {
        conn,
        cork,
        pings,
        heard,
        rtt: asked.elapsed(),
        until: None,
    };
    Ok((send, driver))
}

/// h2 has no public way from an I/O error; a reason that says as much stands in for it.
fn h2_io(error: io::Error) -> h2::Error {
    tracing::trace!(%error, "session ended before it began");
    h2::Reason::CONNECT_ERROR.into()
}

impl<T: AsyncRead + AsyncWrite + Unpin> Driver<T> {
    /// Runs until the session is over and everybody on it knows.
    pub(super) async fn run(
        self,
        inner: &Rc<Inner>,
        mut trust: watch::Receiver<Arc<TrustMap>>,
    ) -> Closed {
        let Self {
            mut conn,
            cork,
            pings,
            heard,
            until,
            ..
        } = self;
        let mut moved = poll_fn(|cx| {
            let polled = Pin::new(&mut conn).poll(cx);
            if let (Poll::Pending, Some(cork)) = (&polled, &cork) {
                cork.send(cx);
            }
            polled
        });
        let mut silent = std::pin::pin!(silent(pings, &heard, inner));
        let mut expired = std::pin::pin!(expired(until, inner));
        let closed = tokio::select! {
            // The connection first: after a stall of this process, what the peer said in the meantime counts.
            biased;
            ended = &mut moved => match ended {
                Ok(()) => Closed::Ended,
                Err(e) => Closed::Lost(e.to_string()),
            },
            () = revoked(&mut trust, inner) => Closed::Revoked,
            () = &mut expired => Closed::Revoked,
            () = &mut silent => Closed::Keepalive,
        };
        // First the reason, then the streams' end: who sees the end finds the reason.
        inner.closed.send_replace(Some(closed.clone()));
        inner.send.borrow_mut().take();
        drop(conn);
        closed
    }
}

/// Returns when the peer's authority is no longer accepted.
async fn revoked(trust: &mut watch::Receiver<Arc<TrustMap>>, inner: &Inner) {
    loop {
        if !trust.borrow_and_update().accepts(&inner.peer) {
            return;
        }
        if trust.changed().await.is_err() {
            // Nobody can change the map any more: the process is ending.
            return pending().await;
        }
    }
}

/// Returns when the peer's certificate has ended. New requests leave it some time before.
async fn expired(until: Option<Instant>, inner: &Inner) {
    let Some(until) = until else {
        return pending().await;
    };
    sleep_until(until.checked_sub(EXPIRY_MARGIN).unwrap_or(until)).await;
    inner.send.borrow_mut().take();
    sleep_until(until).await;
}

/// Returns when the peer has said nothing for an interval and then nothing to a ping either. Also retires a session that
/// nobody uses, since it wakes up anyway.
async fn silent(mut pings: PingPong, heard: &Cell<bool>, inner: &Inner) {
    let mut interval = KEEPALIVE_FIRST;
    loop {
        let hurried = inner.calls.nothing_new_for(interval).await;
        let waited_for = inner.streams.get() > 0;
        if !waited_for && inner.used_at.get().elapsed() > IDLE {
            inner.send.borrow_mut().take();
        }
        if hurried || heard.replace(false) {
            interval = KEEPALIVE_FIRST;
            continue;
        }
        if !waited_for && interval < KEEPALIVE_INTERVAL {
            interval = KEEPALIVE_INTERVAL;
            continue;
        }
        if pings.send_ping(Ping::opaque()).is_err() {
            return pending().await;
        }
        let asked = Instant::now();
        loop {
            match timeout(KEEPALIVE_TIMEOUT, poll_fn(|cx| pings.poll_pong(cx))).await {
                Ok(Ok(_)) => {
                    inner.rtt.set(asked.elapsed());
                    // The answer itself is no reason to ask again soon: what waits may wait for long.
                    heard.set(false);
                    interval = interval.saturating_mul(2).min(KEEPALIVE_INTERVAL);
                    break;
                }
                // The connection has ended; whoever drives it says why.
                Ok(Err(_)) => return pending().await,
                Err(_) if heard.replace(false) => {}
                Err(_) => return,
            }
        }
    }
}

/// Tells whoever watches a calm session that a call was made on it. Busy sessions are looked at often enough: their calls wake
/// nobody.
#[derive(Debug, Default)]
pub(super) struct Calls {
    calm: Cell<bool>,
    made: Notify,
}

impl Calls {
    /// A call was made.
    pub(super) fn made(&self) {
        if self.calm.replace(false) {
            self.made.notify_one();
        }
    }

    /// Waits so long, or, where that is longer than the first interval, until a call is made: true then.
    async fn nothing_new_for(&self, interval: Duration) -> bool {
        if interval <= KEEPALIVE_FIRST {
            sleep(interval).await;
            return false;
        }
        self.calm.set(true);
        let hurried = timeout(interval, self.made.notified()).await.is_ok();
        self.calm.set(false);
        hurried
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_call_ends_a_long_wait_and_none_is_told_in_a_short_one() {
        let calls = Calls::default();
        let start = Instant::now();
        let long = async {
            let hurried = calls.nothing_new_for(KEEPALIVE_INTERVAL).await;
            (hurried, start.elapsed())
        };
        let made = async {
            sleep(Duration::from_millis(300)).await;
            calls.made();
            calls.made();
        };
        let (long, ()) = tokio::join!(long, made);
        assert_eq!(long, (true, Duration::from_millis(300)));
        calls.made();
        assert!(!calls.nothing_new_for(KEEPALIVE_FIRST).await);
        let start = Instant::now();
        assert!(!calls.nothing_new_for(KEEPALIVE_INTERVAL).await);
        assert_eq!(start.elapsed(), KEEPALIVE_INTERVAL);
    }
}
