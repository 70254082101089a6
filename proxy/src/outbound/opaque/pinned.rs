//! A connection for one endpoint and no other: the client has dialled it by its own address, as callers of headless services do.
//!
//! It goes there as a tunnel, whatever it speaks, and nowhere else when that fails.

use std::rc::Rc;

use bytes::Bytes;
use tokio::net::TcpStream;
use tradewind_api::id::{EndpointId, ServicePortRef};
use tradewind_runtime::drain;
use tradewind_transport::prefixed::Prefixed;

use super::{NoTunnel, Opened, give_up, gone, join};
use crate::{
    called::Scope,
    outbound::{
        Outbound,
        attempts::Safe,
        breaker::Takes,
        failure::Tries,
        metrics::Open,
        route::{Callee, InFlight},
    },
    standard::Flags,
    telemetry::Notes,
};

/// Sessions that are tried: one may have ended just now without anybody's fault, and then there is another.
const MAX_TRIES: usize = 2;

/// Serves one connection.
pub(in crate::outbound) async fn serve(
    outbound: &Rc<Outbound>,
    stream: TcpStream,
    service: &ServicePortRef,
    endpoint: &EndpointId,
    drain: drain::Watch,
) {
    let _open = Open::new(&outbound.metrics.connections);
    if let Err(error) = stream.set_nodelay(true) {
        return gone(outbound, &error);
    }
    let mut notes = outbound.connection_notes(service, &stream);
    match outbound.tunnel_to(service, endpoint, &mut notes).await {
        Ok(opened) => {
            let live = opened.pair.tunnel(Flags::None).noting(notes);
            let client = Prefixed::new(Bytes::new(), stream);
            join(outbound, client, (opened, live), service, drain).await;
        }
        Err(error) => give_up(outbound, &stream, service, (&error, notes)),
    }
}

impl Outbound {
    /// Opens a tunnel to this endpoint, well or not.
    async fn tunnel_to(
        &self,
        service: &ServicePortRef,
        endpoint: &EndpointId,
        notes: &mut Notes,
    ) -> Result<Opened, NoTunnel> {
        let whoever = Callee {
            service,
            scope: Scope::Everybody,
            subset: None,
        };
        let (route, mut permit) = self.enter(whoever, Takes::Stream).await?;
        let mut tries = Tries::default();
        let target = route.targets.iter().find(|t| t.endpoint.id == *endpoint);
        let Some(target) = target else {
            return Err(NoTunnel {
                reason: "no-endpoint",
                what: "the endpoint that was dialled is gone".into(),
                tries,
                pair: self.pair_with_nobody(service),
                flags: Flags::NoHealthyUpstream,
            });
        };
        let pair = self.pair(&route, target);
        for _ in 0..MAX_TRIES {
            // No tier: nobody was chosen among others.
            notes.attempt((endpoint, target.cluster()), None, target.link.is_some());
            let in_flight = InFlight::new(&target.peer);
            match self.connect(&route, (target, Some(endpoint)), notes).await {
                Ok((tunnel, taker)) => {
                    notes.connected();
                    return Ok(Opened {
                        tunnel,
                        target: taker.target,
                        served_by: taker.served_by,
                        pair,
                        in_flight,
                        permit: permit.take(),
                    });
                }
                Err(failed) => {
                    tries.add(target, &failed.why);
                    notes.failed(failed.cause, &failed.why);
                    if failed.safe != Safe::SameEndpoint {
                        break;
                    }
                }
            }
        }
        Err(NoTunnel {
            reason: "no-endpoint-answered",
            what: "the endpoint that was dialled took no connection".into(),
            tries,
            pair,
            flags: Flags::UpstreamConnect,
        })
    }
}
