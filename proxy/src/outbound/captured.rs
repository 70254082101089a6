//! A captured connection: finds the service that it was meant for, by its address or by the host that its request names, and
//! serves it as any other; what is meant for nobody known goes on to where it was going, or is refused. Of a connection that
//! speaks HTTP/2 each request is found a way by itself.
//!
//! Owns the way there while bytes move. Nothing of a client's is sent anywhere before it is decided where it goes.

mod http2;

use std::{net::SocketAddr, rc::Rc, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, timeout, timeout_at},
};
use tradewind_runtime::drain;
use tradewind_transport::{
    detect::{Detected, detect},
    marked,
    prefixed::Prefixed,
    relay,
};

use super::{
    Outbound, connection,
    metrics::{Dropped, Open},
    opaque::pinned,
};
use crate::{
    called::Called,
    capture::{
        Unknown,
        index::{Host, Index, MAX_HEAD, Meant, host_of},
        metrics::{CaptureMetrics, Fate},
        original,
    },
};

/// How long a destination outside of the mesh may take to accept: what clients themselves wait is longer, and they may try again.
const DIAL_DEADLINE: Duration = Duration::from_secs(10);
/// A client that began to speak has this long to say enough; one whose destination is refused or not reached has it to begin.
const DETECT_DEADLINE: Duration = Duration::from_millis(200);
/// And this long for the rest of its first request's head.
const HEAD_DEADLINE: Duration = Duration::from_secs(2);

/// What all captured connections of a process are decided by.
#[derive(Clone, Debug)]
pub(crate) struct Captured {
    /// The services by address and name; replaced with each snapshot.
    pub(crate) index: Arc<ArcSwap<Index>>,
    /// What becomes of connections to nobody known.
    pub(crate) unknown: Unknown,
    /// What this process's own sockets carry.
    pub(crate) mark: Option<u32>,
    /// Where they are counted.
    pub(crate) metrics: CaptureMetrics,
}

/// Serves one connection.
pub(super) async fn serve(
    outbound: Rc<Outbound>,
    captured: Rc<Captured>,
    stream: TcpStream,
    peer: SocketAddr,
    drain: drain::Watch,
) {
    let Ok(meant) = original::of(&stream, peer) else {
        // Passed on it would come back here.
        tracing::debug!(%peer, "a connection that nobody captured is refused");
        captured.metrics.outbound(Fate::direct);
        return reset(&stream);
    };
    serve_to(outbound, captured, stream, meant, drain).await;
}

/// The same where the destination is known.
pub(super) async fn serve_to(
    outbound: Rc<Outbound>,
    captured: Rc<Captured>,
    stream: TcpStream,
    meant: SocketAddr,
    drain: drain::Watch,
) {
    let found = captured.index.load().at(meant);
    match found {
        Some(Meant::Service(target)) => {
            captured.metrics.outbound(Fate::service);
            return connection::serve(outbound, stream, Rc::new(target), drain).await;
        }
        Some(Meant::Endpoint(target, endpoint)) => {
            captured.metrics.outbound(Fate::endpoint);
            return pinned::serve(&outbound, stream, &target, &endpoint, drain).await;
        }
        None => {}
    }
    let (stopping, forced) = (drain.clone(), drain.clone());
    match captured.judge(stream, meant, stopping).await {
        Judged::Service(target, first, stream) => {
            captured.metrics.outbound(Fate::host);
            let client = Prefixed::new(first, stream);
            let _open = Open::new(&outbound.metrics.connections);
            connection::http1(outbound, client, Rc::new(target), drain).await;
        }
        Judged::Http2(client, onward) => {
            let mixed = http2::Mixed::new(outbound, captured, meant, onward);
            http2::serve(mixed, client, drain).await;
        }
        Judged::Onward(first, stream, onward) => {
            captured.metrics.outbound(Fate::passed);
            captured.metrics.passing.inc();
            pass(stream, onward, &first, forced).await;
            captured.metrics.passing.dec();
        }
        Judged::Refused(fate, stream) => {
            captured.metrics.outbound(fate);
            tracing::debug!(%meant, ?fate, "a captured connection goes nowhere");
            reset(&stream);
        }
        Judged::Gone => {
            captured.metrics.outbound(Fate::ended);
            outbound.metrics.dropped(Dropped::cut);
        }
    }
}

/// What becomes of a connection to an address that is no service's, with what was read of it.
enum Judged {
    /// Its request names this service.
    Service(Called, Bytes, TcpStream),
    /// It speaks HTTP/2: each of its requests names somebody. With the way on, or why there is none.
    Http2(connection::Client, Result<TcpStream, Fate>),
    /// It goes on.
    Onward(Bytes, TcpStream, TcpStream),
    /// It does not.
    Refused(Fate, TcpStream),
    /// The client left, or the drain began, before anything was said.
    Gone,
}

/// What a client's first words say.
enum Heard {
    /// An HTTP/1 request to this service.
    Service(Called),
    /// HTTP/2: its requests say more.
    Http2,
    /// Nothing that names a service.
    Nobody,
}

impl Captured {
    /// Whoever speaks first decides: a server of a server-first protocol is heard at once, and a client that speaks HTTP may
    /// name a service.
    async fn judge(
        &self,
        mut client: TcpStream,
        meant: SocketAddr,
        mut stopping: drain::Watch,
    ) -> Judged {
        if client.set_nodelay(true).is_err() {
            return Judged::Gone;
        }
        let onward = match self.unknown {
            Unknown::Refuse => Err(Fate::refused),
            Unknown::Pass => tokio::select! {
                biased;
                dialled = self.dial(meant) => dialled,
                () = stopping.triggered() => return Judged::Gone,
            },
        };
        let spoke = async {
            match &onward {
                Ok(onward) => tokio::select! {
                    biased;
                    readable = client.readable() => readable.map(|()| true),
                    readable = onward.readable() => readable.map(|()| false),
                },
                // Only a request that names a service is any use now.
                Err(_) => match timeout(DETECT_DEADLINE, client.readable()).await {
                    Ok(readable) => readable.map(|()| true),
                    Err(_) => Ok(false),
                },
            }
        };
        let mut client_spoke = tokio::select! {
            biased;
            spoke = spoke => spoke,
            () = stopping.triggered() => return Judged::Gone,
        };
        drop(stopping);
        if let (Ok(false), Ok(server)) = (&client_spoke, &onward)
            && http2::greets(server).await
        {
            // Its client speaks without waiting for that.
            let heard = timeout(DETECT_DEADLINE, client.readable()).await;
            client_spoke = heard.map_or(Ok(false), |readable| readable.map(|()| true));
        }
        let first = match client_spoke {
            Ok(false) => Bytes::new(),
            Ok(true) => match self.listen(&mut client, meant.port()).await {
                Ok((Heard::Service(target), first)) => {
                    return Judged::Service(target, first, client);
                }
                Ok((Heard::Http2, first)) => {
                    return Judged::Http2(Prefixed::new(first, client), onward);
                }
                Ok((Heard::Nobody, first)) => first,
                Err(_) => return Judged::Gone,
            },
            Err(_) => return Judged::Gone,
        };
        match onward {
            Ok(onward) => Judged::Onward(first, client, onward),
            Err(fate) => Judged::Refused(fate, client),
        }
    }

    async fn dial(&self, meant: SocketAddr) -> Result<TcpStream, Fate> {
        let dialled = timeout(DIAL_DEADLINE, marked::connect_to(meant, self.mark)).await;
        let stream = match dialled {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                tracing::debug!(%error, %meant, "a destination outside of the mesh is not reached");
                return Err(Fate::unreached);
            }
            Err(_) => return Err(Fate::unreached),
        };
        stream.set_nodelay(true).map_err(|_| Fate::unreached)?;
        Ok(stream)
    }

    /// What the client says first, and the service that it names if it speaks HTTP/1.
    async fn listen(&self, client: &mut TcpStream, port: u16) -> std::io::Result<(Heard, Bytes)> {
        let (detected, first) = detect(client, Instant::now() + DETECT_DEADLINE).await?;
        match detected {
            Detected::Http1 => {}
            Detected::Http2 => return Ok((Heard::Http2, first)),
            Detected::Opaque => return Ok((Heard::Nobody, first)),
        }
        let deadline = Instant::now() + HEAD_DEADLINE;
        let mut head = BytesMut::from(first);
        loop {
            match host_of(&head) {
                Host::Named(host) => {
                    let target = self.index.load().named(host, port);
                    let heard = target.map_or(Heard::Nobody, Heard::Service);
                    return Ok((heard, head.freeze()));
                }
                Host::Incomplete if head.len() < MAX_HEAD => {}
                Host::Incomplete | Host::Unnamed => return Ok((Heard::Nobody, head.freeze())),
            }
            match timeout_at(deadline, client.read_buf(&mut head)).await {
                Ok(Ok(n)) if n > 0 => {}
                Ok(Err(error)) => return Err(error),
                // What there is goes on as it is.
                Ok(Ok(_)) | Err(_) => return Ok((Heard::Nobody, head.freeze())),
            }
        }
    }
}

/// Moves bytes between the client and where it was going, beginning with what was read of it.
async fn pass(mut client: TcpStream, mut onward: TcpStream, first: &[u8], drain: drain::Watch) {
    let whole = async {
        onward.write_all(first).await?;
        relay::relay(&mut client, &mut onward).await;
        std::io::Result::Ok(())
    };
    // In order, or told to both by the relay: only a cut has to be told here.
    if !matches!(drain.until_forced(whole).await, Some(Ok(()))) {
        reset(&client);
        reset(&onward);
    }
}

/// Makes the socket's close a reset.
fn reset(stream: &TcpStream) {
    // A socket that is gone already needs none.
    drop(stream.set_zero_linger());
}
