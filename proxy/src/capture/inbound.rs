//! Callers that come to an application's own port, without a proxy of theirs: they are let through or refused, and counted by
//! port and source, so that somebody can find them before the door is shut.
//!
//! Owns their connections. No byte of theirs is looked at.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tradewind_runtime::{drain, listen, rng::Rng, task::TaskSet};
use tradewind_transport::{marked, relay};

use super::{
    metrics::{CaptureMetrics, Verdict},
    original,
    settings::Inbound,
};

/// Connections at once on one thread; each is two descriptors.
const MAX_CONNECTIONS: usize = 8192;
/// How long the application may take to accept: it is on this host.
const DIAL_DEADLINE: Duration = Duration::from_secs(5);

/// What the listeners of all threads share.
#[derive(Clone, Debug)]
pub(crate) struct Guard {
    /// What becomes of callers.
    pub(crate) inbound: Inbound,
    /// What this process's own sockets carry.
    pub(crate) mark: Option<u32>,
    /// Where they are counted.
    pub(crate) metrics: CaptureMetrics,
}

/// Serves on the current thread, which must run a `LocalSet`, until the drain is over.
pub(crate) async fn serve(
    listener: TcpListener,
    guard: Guard,
    mut rng: Rng,
    mut drain: drain::Watch,
) {
    let mut connections = TaskSet::new();
    loop {
        tokio::select! {
            biased;
            () = drain.triggered() => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            (stream, peer) = listen::accept(&listener, &mut rng) => {
                if connections.len() >= MAX_CONNECTIONS {
                    reset(&stream);
                    continue;
                }
                let (guard, watch) = (guard.clone(), drain.clone());
                connections.spawn_local("plaintext_caller", async move {
                    one(&guard, stream, peer, watch).await;
                });
            }
        }
    }
    drop(listener);
    tokio::select! {
        () = connections.join_all() => {}
        () = drain.forced() => connections.abort_all().await,
    }
}

async fn one(guard: &Guard, mut caller: TcpStream, peer: SocketAddr, drain: drain::Watch) {
    let Ok(meant) = original::of(&caller, peer) else {
        guard.metrics.direct.inc();
        return reset(&caller);
    };
    let source = peer.ip().to_canonical();
    let count = |verdict| guard.metrics.caller(meant.port(), source, verdict);
    if guard.inbound == Inbound::Strict {
        count(Verdict::refused);
        return reset(&caller);
    }
    let dialled = timeout(DIAL_DEADLINE, marked::connect_to(meant, guard.mark)).await;
    let mut app = match dialled {
        Ok(Ok(app)) => app,
        Ok(Err(error)) => {
            tracing::debug!(%error, %meant, "the application takes no caller");
            count(Verdict::unreached);
            return reset(&caller);
        }
        Err(_) => {
            count(Verdict::unreached);
            return reset(&caller);
        }
    };
    if app.set_nodelay(true).is_err() {
        return reset(&caller);
    }
    count(Verdict::passed);
    guard.metrics.active.inc();
    let relayed = drain
        .until_forced(relay::relay(&mut caller, &mut app))
        .await;
    guard.metrics.active.dec();
    if relayed.is_none() {
        reset(&caller);
    }
}

/// Makes the socket's close a reset: no protocol mistakes that for an answer.
fn reset(stream: &TcpStream) {
    // A socket that is gone already needs none.
    drop(stream.set_zero_linger());
}
