//! Tells the controller that this gateway exists, where others dial it, that it drains, and which clusters it reaches: at
//! start, on change, and every five seconds as a sign of life. Lives on the control thread; a controller that is away costs
//! retries only.

use std::{sync::Arc, time::Duration};

use futures::StreamExt as _;
use tokio::{sync::watch, time};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tradewind_api::proto::v1::{GatewayHello, gateway_registry_client::GatewayRegistryClient};
use tradewind_runtime::{backoff::Backoff, clock::SharedClock, rng::Rng};
use tradewind_transport::control::Control;

use crate::{
    metrics::GatewayMetrics,
    probe::{facts::Peers, report},
};

/// The sign of life's interval; the controller calls a gateway gone after several of these.
const INTERVAL: Duration = Duration::from_secs(5);
/// How long the controller may take to answer the first message of a stream.
const OPEN_DEADLINE: Duration = Duration::from_secs(5);
/// Hellos that may wait for a slow stream; a further one replaces nothing and breaks the stream.
const QUEUE: usize = 4;
/// Least time from one hello to the next that only says who has become reachable or is no longer: many may turn at once.
const TURNS_EVERY: Duration = Duration::from_millis(500);

/// What is announced.
#[derive(Clone, Debug)]
pub(crate) struct Announcement {
    pub name: String,
    pub address: String,
    /// What probes of the other clusters' gateways found.
    pub peers: watch::Receiver<Arc<Peers>>,
    pub clock: SharedClock,
}

impl Announcement {
    /// The hello of this moment, and how often a cluster's reachability had turned by then.
    fn hello(&self, draining: bool) -> (GatewayHello, u64) {
        let peers = Arc::clone(&self.peers.borrow());
        let hello = GatewayHello {
            name: self.name.clone(),
            advertised_address: self.address.clone(),
            draining,
            peers: report::for_controller(&peers, self.clock.unix_ms()),
        };
        (hello, peers.turns)
    }

    /// Returns once one has turned since, `spaced` at the earliest.
    async fn turned(&self, since: u64, spaced: time::Instant) {
        let mut peers = self.peers.clone();
        if peers.wait_for(|p| p.turns != since).await.is_err() {
            // Nobody probes any more.
            return std::future::pending().await;
        }
        time::sleep_until(spaced).await;
    }
}

/// Announces until the owner drops it, from the first snapshot on: before it every caller would be refused. `draining`
/// turns true once.
pub(crate) async fn announce(
    control: Control,
    what: Announcement,
    mut draining: watch::Receiver<bool>,
    metrics: GatewayMetrics,
    mut rng: Rng,
) {
    let mut snapshots = control.snapshot.clone();
    if snapshots.wait_for(|s| s.local().is_some()).await.is_err() {
        return;
    }
    let channel = control.channel();
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
    loop {
        let reason = stream(&channel, &what, &mut draining, &metrics, &mut backoff).await;
        metrics.announced.set(0);
        let wait = backoff.next(&mut rng);
        tracing::debug!(%reason, wait_ms = wait.as_millis(), "the announcement stream ended; will retry");
        time::sleep(wait).await;
    }
}

async fn stream(
    channel: &Channel,
    what: &Announcement,
    draining: &mut watch::Receiver<bool>,
    metrics: &GatewayMetrics,
    backoff: &mut Backoff,
) -> String {
    let (hellos, outgoing) = tokio::sync::mpsc::channel(QUEUE);
    let (hello, mut turns) = what.hello(*draining.borrow_and_update());
    if hellos.try_send(hello).is_err() {
        return "the stream took no message".to_owned();
    }
    let mut spaced = what.clock.now() + TURNS_EVERY;
    let mut client = GatewayRegistryClient::new(channel.clone());
    let opened = time::timeout(
        OPEN_DEADLINE,
        client.announce(ReceiverStream::new(outgoing)),
    );
    let mut welcomes = match opened.await {
        Ok(Ok(response)) => response.into_inner(),
        Ok(Err(status)) => return status.to_string(),
        Err(_) => return "the controller did not answer in time".to_owned(),
    };
    let mut tick = time::interval_at(time::Instant::now() + INTERVAL, INTERVAL);
    loop {
        tokio::select! {
            welcome = welcomes.next() => match welcome {
                Some(Ok(_)) => {
                    metrics.announced.set(1);
                    backoff.reset();
                    continue;
                }
                Some(Err(status)) => return status.to_string(),
                None => return "the controller closed the stream".to_owned(),
            },
            changed = draining.changed() => if changed.is_err() {
                return "this gateway is stopping".to_owned();
            },
            () = what.turned(turns, spaced) => {}
            _ = tick.tick() => {}
        }
        let (hello, told) = what.hello(*draining.borrow_and_update());
        (turns, spaced) = (told, what.clock.now() + TURNS_EVERY);
        if hellos.try_send(hello).is_err() {
            return "the controller takes no more messages".to_owned();
        }
    }
}

#[cfg(test)]
mod tests {
    use tradewind_api::ClusterName;
    use tradewind_runtime::clock;

    use super::*;
    use crate::probe::facts::{Facts, Why};

    #[tokio::test(start_paused = true)]
    async fn who_turned_is_told_at_once_and_then_not_too_often() {
        let east = ClusterName::new("east").unwrap();
        let mut facts = Facts::default();
        let addresses = ["g:1".to_owned()].into();
        facts.follow(&[(east.clone(), addresses)].into(), 0);
        let (published, peers) = watch::channel(Arc::new(facts.peers().clone()));
        let what = Announcement {
            name: "gw-1".into(),
            address: "h:1".into(),
            peers,
            clock: clock::system(),
        };
        let (hello, turns) = what.hello(false);
        assert_eq!((hello.peers.len(), hello.peers[0].reachable), (1, None));
        let begun = time::Instant::now();
        let mut turned = std::pin::pin!(what.turned(turns, begun + TURNS_EVERY));
        let mut observe = |found, turns| {
            facts.observe((&east, "g:1"), found, 7);
            published.send_replace(Arc::new(facts.peers().clone()));
            assert_eq!(facts.peers().turns, turns);
        };
        observe(Err(Why::Refused), 0);
        let early = time::timeout(3 * TURNS_EVERY, turned.as_mut()).await;
        assert!(early.is_err(), "one miss is no turn");
        observe(Ok(Duration::from_millis(3)), 1);
        turned.await;
        assert_eq!(begun.elapsed(), 3 * TURNS_EVERY, "at once");
        let (hello, turns) = what.hello(true);
        assert_eq!(hello.peers[0].reachable, Some(true));
        assert_eq!(hello.peers[0].round_trip_us, Some(3_000));
        let spaced = time::Instant::now() + TURNS_EVERY;
        observe(Err(Why::Silent), 1);
        observe(Err(Why::Silent), 2);
        observe(Ok(Duration::from_millis(3)), 3);
        what.turned(turns, spaced).await;
        assert_eq!(time::Instant::now(), spaced, "and then in its time");
    }
}
