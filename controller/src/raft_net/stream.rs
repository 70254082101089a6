//! The stream to another cluster: the one HTTP/2 connection from this controller to that cluster's controller, through
//! that cluster's gateway. Replication, writes and pings all travel in it, so it says first whether the two are joined.
//!
//! Owns the record of which streams are up. A stream comes up with its TLS handshake and falls when its socket is let go
//! of, however that comes about; nothing here dials or closes anything.

use std::{
    collections::BTreeMap,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::watch,
};
use tradewind_api::ClusterName;

use super::Known;

/// One stream, as of now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerStream {
    /// True while it is open.
    pub up: bool,
    /// How often it was opened; two values that differ tell a stream that fell in between.
    pub opened: u64,
    /// The gateway that it goes through, or last went through.
    pub gateway: String,
}

/// The streams to all known clusters.
pub type Streams = BTreeMap<ClusterName, PeerStream>;

/// Takes up what is newly known, and forgets the rest.
pub(super) fn keep(streams: &watch::Sender<Arc<Streams>>, known: &Known) {
    streams.send_if_modified(|streams| {
        if streams.keys().eq(known.keys()) {
            return false;
        }
        let streams = Arc::make_mut(streams);
        streams.retain(|cluster, _| known.contains_key(cluster));
        for cluster in known.keys() {
            streams.entry(cluster.clone()).or_default();
        }
        true
    });
}

/// A socket whose end is seen.
#[derive(Debug)]
pub(super) struct Watched<S> {
    io: S,
    streams: watch::Sender<Arc<Streams>>,
    cluster: ClusterName,
    number: u64,
}

impl<S> Watched<S> {
    /// Records that the stream to `cluster` is up.
    pub(super) fn new(
        streams: &watch::Sender<Arc<Streams>>,
        cluster: ClusterName,
        gateway: String,
        io: S,
    ) -> Self {
        let mut number = 0;
        streams.send_if_modified(|streams| {
            // One that is no longer known has no record to keep.
            if !streams.contains_key(&cluster) {
                return false;
            }
            if let Some(stream) = Arc::make_mut(streams).get_mut(&cluster) {
                number = stream.opened + 1;
                *stream = PeerStream {
                    up: true,
                    opened: number,
                    gateway,
                };
            }
            true
        });
        Self {
            io,
            streams: streams.clone(),
            cluster,
            number,
        }
    }
}

impl<S> Drop for Watched<S> {
    fn drop(&mut self) {
        self.streams.send_if_modified(|streams| {
            let current = streams.get(&self.cluster);
            // A newer stream has taken its place: that one counts.
            if !current.is_some_and(|s| s.up && s.opened == self.number) {
                return false;
            }
            if let Some(stream) = Arc::make_mut(streams).get_mut(&self.cluster) {
                stream.up = false;
            }
            true
        });
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datadir::KnownCluster;

    #[test]
    fn a_stream_is_up_from_its_handshake_to_its_end() {
        let east = ClusterName::new("east").unwrap();
        let streams = watch::Sender::new(Arc::new(Streams::new()));
        let open = |gateway: &str| Watched::new(&streams, east.clone(), gateway.into(), ());
        let now = || streams.borrow().get(&east).cloned();
        drop(open("a:1"));
        assert_eq!(now(), None, "not known: no record");

        keep(
            &streams,
            &Known::from([(east.clone(), KnownCluster::default())]),
        );
        assert!(!now().unwrap().up);
        let first = open("a:1");
        assert!(now().is_some_and(|s| s.up && s.gateway == "a:1"));
        let second = open("b:1");
        drop(first);
        assert!(
            now().is_some_and(|s| s.up && s.gateway == "b:1"),
            "the newer one counts"
        );
        drop(second);
        assert_eq!(now().map(|s| (s.up, s.opened)), Some((false, 2)));
        keep(&streams, &Known::new());
        assert_eq!(now(), None);
    }
}
