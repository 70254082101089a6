//! Tells the controller what this proxy fronts and how it is: at once on every change, and every five seconds as a sign
//! of life. On a graceful stop it says that it leaves, and waits until that was heard. A controller that is away costs
//! retries only: traffic goes on.

use std::{collections::BTreeMap, time::Duration};

use futures::StreamExt as _;
use tokio::{sync::watch, time};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tradewind_api::{
    SpiffeId, Zone,
    model::{AppProtocol, Health},
    proto::v1::{self, RegisterRequest, Registration, registry_client::RegistryClient},
    snapshot::Snapshot,
};
use tradewind_runtime::{backoff::Backoff, ready::Blocker, rng::Rng};
use tradewind_transport::svid::SvidCell;

use crate::{config::ServeSpec, labels::Labels};

/// The sign of life's interval; the controller doubts a proxy after a broken stream, not after a late one.
const INTERVAL: Duration = Duration::from_secs(5);
/// How long the controller may take to open a stream.
const OPEN_DEADLINE: Duration = Duration::from_secs(5);
/// Messages that may wait for a slow stream; one more breaks it, and the next stream starts with the newest state.
const QUEUE: usize = 8;

/// What never changes while a proxy lives.
#[derive(Clone, Debug)]
pub(crate) struct Fronted {
    pub proxy: String,
    pub serves: Vec<ServeSpec>,
    /// `host:port` of its HBONE listener, as others dial it.
    pub address: String,
    pub zone: Option<Zone>,
    pub labels: Labels,
}

/// What does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    /// In the order of the serves.
    pub health: Vec<Health>,
    pub leaving: bool,
}

/// What the controller is known to have heard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Heard {
    pub endpoint_ids: Vec<String>,
    pub connected: bool,
    /// It answered the message that said we leave.
    pub left: bool,
}

/// The message for a standing. Pure.
pub(crate) fn message(fronted: &Fronted, identity: &SpiffeId, now: &Standing) -> RegisterRequest {
    let names = port_names(&fronted.serves);
    let health = now
        .health
        .iter()
        .copied()
        .chain(std::iter::repeat(Health::Unknown));
    let registrations = fronted
        .serves
        .iter()
        .zip(names)
        .zip(health)
        .map(|((serve, port_name), health)| Registration {
            service: serve.target.service.to_string(),
            port: serve.target.port.into(),
            app_protocol: v1::AppProtocol::from(serve.protocol).into(),
            port_name,
            hbone_address: fronted.address.clone(),
            zone: fronted
                .zone
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default(),
            weight: serve.weight,
            health: v1::Health::from(health).into(),
            hostname: fronted.proxy.clone(),
        })
        .collect();
    RegisterRequest {
        proxy: fronted.proxy.clone(),
        identity: identity.to_string(),
        registrations,
        leaving: now.leaving,
        labels: BTreeMap::clone(&fronted.labels),
    }
}

/// True when a snapshot names all of it at its address: callers find it without another word, so a proxy that starts
/// while no controller answers is as ready as it was before.
pub(crate) fn known(snapshot: &Snapshot, fronted: &Fronted) -> bool {
    fronted.serves.iter().all(|serve| {
        let service = snapshot.services.get(&serve.target.service);
        service.is_some_and(|service| {
            service.endpoints.iter().any(|e| {
                e.address.as_deref() == Some(&fronted.address)
                    && e.ports.contains(&serve.target.port)
            })
        })
    })
}

/// A port's name says its protocol, as is usual; a second one of the same service gets its number too.
fn port_names(serves: &[ServeSpec]) -> Vec<String> {
    let mut names: Vec<String> = Vec::with_capacity(serves.len());
    for (i, serve) in serves.iter().enumerate() {
        let base = match serve.protocol {
            AppProtocol::Detect => "",
            AppProtocol::Http1 => "http",
            AppProtocol::Http2 => "http2",
            AppProtocol::Tcp => "tcp",
        };
        let taken = serves
            .iter()
            .zip(&names)
            .take(i)
            .any(|(s, n)| s.target.service == serve.target.service && n == base);
        names.push(match (taken, base) {
            (false, base) => base.to_owned(),
            (true, "") => format!("port-{}", serve.target.port),
            (true, base) => format!("{base}-{}", serve.target.port),
        });
    }
    names
}

/// Registers until the controller has heard that we leave; `ready` is held until the first answer.
pub(crate) async fn register(
    channel: Channel,
    fronted: Fronted,
    svid: SvidCell,
    mut standing: watch::Receiver<Standing>,
    heard: watch::Sender<Heard>,
    mut ready: Option<Blocker>,
    mut rng: Rng,
) {
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
    let mut certificates = svid.watch();
    // The message names the identity, so there is none before the first certificate.
    if certificates.wait_for(Option::is_some).await.is_err() {
        return;
    }
    loop {
        let stream = stream(
            &channel,
            &fronted,
            &svid,
            &mut standing,
            &heard,
            &mut ready,
            &mut backoff,
        );
        let reason = stream.await;
        heard.send_modify(|h| h.connected = false);
        if heard.borrow().left {
            tracing::info!("the controller knows that this proxy leaves");
            return;
        }
        let wait = backoff.next(&mut rng);
        tracing::debug!(%reason, wait_ms = wait.as_millis(), "the registration stream ended; will retry");
        time::sleep(wait).await;
    }
}

async fn stream(
    channel: &Channel,
    fronted: &Fronted,
    svid: &SvidCell,
    standing: &mut watch::Receiver<Standing>,
    heard: &watch::Sender<Heard>,
    ready: &mut Option<Blocker>,
    backoff: &mut Backoff,
) -> String {
    let (messages, outgoing) = tokio::sync::mpsc::channel(QUEUE);
    let mut sent: u64 = 0;
    let mut leaving_as: Option<u64> = None;
    let mut answered: u64 = 0;
    let Some(own) = svid.current() else {
        return "there is no certificate yet".to_owned();
    };
    let say = |standing: &Standing, sent: &mut u64, leaving_as: &mut Option<u64>| {
        *sent += 1;
        if standing.leaving {
            leaving_as.get_or_insert(*sent);
        }
        messages
            .try_send(message(fronted, &own.id, standing))
            .is_ok()
    };
    let first = standing.borrow_and_update().clone();
    if !say(&first, &mut sent, &mut leaving_as) {
        return "the stream took no message".to_owned();
    }
    let mut client = RegistryClient::new(channel.clone());
    let opened = time::timeout(
        OPEN_DEADLINE,
        client.register(ReceiverStream::new(outgoing)),
    );
    let mut answers = match opened.await {
        Ok(Ok(response)) => response.into_inner(),
        Ok(Err(status)) => return status.to_string(),
        Err(_) => return "the controller did not answer in time".to_owned(),
    };
    let mut tick = time::interval_at(time::Instant::now() + INTERVAL, INTERVAL);
    loop {
        tokio::select! {
            answer = answers.next() => match answer {
                Some(Ok(answer)) => {
                    answered += 1;
                    backoff.reset();
                    drop(ready.take());
                    let left = leaving_as.is_some_and(|n| answered >= n);
                    heard.send_replace(Heard {
                        endpoint_ids: answer.endpoint_ids,
                        connected: true,
                        left,
                    });
                    if left {
                        return "this proxy leaves".to_owned();
                    }
                    continue;
                }
                Some(Err(status)) => return status.to_string(),
                None => {
                    // Ending the stream is an answer to the last message, too.
                    if leaving_as.is_some() {
                        heard.send_modify(|h| h.left = true);
                    }
                    return "the controller closed the stream".to_owned();
                }
            },
            changed = standing.changed() => if changed.is_err() {
                return "this proxy is stopping".to_owned();
            },
            _ = tick.tick() => {}
        }
        let now = standing.borrow_and_update().clone();
        if !say(&now, &mut sent, &mut leaving_as) {
            return "the controller takes no more messages".to_owned();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tradewind_api::model::Endpoint;

    use super::*;
    use crate::fixture;

    #[test]
    fn a_snapshot_that_names_all_of_it_is_as_good_as_an_answer() {
        let fronted = |serves: &[&str]| Fronted {
            proxy: "payments-1".into(),
            serves: serves.iter().map(|s| s.parse().unwrap()).collect(),
            address: "127.0.0.1:15008".into(),
            zone: None,
            labels: Labels::default(),
        };
        let one = fronted(&["shop/payments:80=127.0.0.1:1"]);
        let mut snapshot = fixture::snapshot(&[("shop/payments", false, 80)]);
        assert!(!known(&snapshot, &one), "nobody is at our address");
        assert!(known(&snapshot, &fronted(&[])), "a caller fronts nothing");
        let service = snapshot.services.values_mut().next().unwrap();
        Arc::make_mut(service).endpoints.push(Endpoint {
            id: "abcdefghijklm".parse().unwrap(),
            cluster: "west".parse().unwrap(),
            region: "r".parse().unwrap(),
            zone: None,
            weight: 100,
            health: Health::Unknown,
            identity: "spiffe://west.mesh.internal/ns/shop/sa/payments"
                .parse()
                .unwrap(),
            address: Some("127.0.0.1:15008".into()),
            mesh_ips: vec![],
            hostname: None,
            labels: BTreeMap::new(),
            ports: vec![80],
            targets: Default::default(),
        });
        assert!(known(&snapshot, &one));
        let more = fronted(&[
            "shop/payments:80=127.0.0.1:1",
            "shop/payments:81=127.0.0.1:2",
        ]);
        assert!(!known(&snapshot, &more), "one of its ports is unknown");
    }
}
