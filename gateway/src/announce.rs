//! Tells the controller that this gateway exists, where others dial it, and that it drains: at start, on change, and
//! every five seconds as a sign of life. Lives on the control thread; a controller that is away costs retries only.

use std::time::Duration;

use futures::StreamExt as _;
use tokio::{sync::watch, time};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tradewind_api::proto::v1::{GatewayHello, gateway_registry_client::GatewayRegistryClient};
use tradewind_runtime::{backoff::Backoff, rng::Rng};
use tradewind_transport::control::Control;

use crate::metrics::GatewayMetrics;

/// The sign of life's interval; the controller calls a gateway gone after several of these.
const INTERVAL: Duration = Duration::from_secs(5);
/// How long the controller may take to answer the first message of a stream.
const OPEN_DEADLINE: Duration = Duration::from_secs(5);
/// Hellos that may wait for a slow stream; a further one replaces nothing and breaks the stream.
const QUEUE: usize = 4;

/// What is announced.
#[derive(Clone, Debug)]
pub(crate) struct Announcement {
    pub name: String,
    pub address: String,
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
    let hello = |draining| GatewayHello {
        name: what.name.clone(),
        advertised_address: what.address.clone(),
        draining,
    };
    if hellos
        .try_send(hello(*draining.borrow_and_update()))
        .is_err()
    {
        return "the stream took no message".to_owned();
    }
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
            _ = tick.tick() => {}
        }
        if hellos
            .try_send(hello(*draining.borrow_and_update()))
            .is_err()
        {
            return "the controller takes no more messages".to_owned();
        }
    }
}
