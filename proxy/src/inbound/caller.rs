//! Who calls: the identity behind a connection, what its calls count under, and what is written down of each.

use std::{cell::RefCell, rc::Rc, sync::Arc};

use h2::RecvStream;
use http::{Method, Request};
use tokio_util::sync::CancellationToken;
use tradewind_api::{ServiceName, SpiffeId};
use tradewind_transport::request_id;

use super::{Served, Thread, limits::OfConnection};
use crate::{
    standard::{Account, Pair, PairKey, Party, Reporter, Security, is_grpc},
    telemetry::Ends,
};

/// The caller behind a connection.
#[derive(Debug)]
pub(crate) struct Caller {
    pub id: SpiffeId,
    pub revoked: CancellationToken,
    /// Its connection's addresses and the name in its handshake, where anybody writes them down.
    pub ends: Option<Ends>,
    pub server_name: Option<Arc<str>>,
    /// What its calls count under: at most one for each service that was served here meanwhile.
    pub pairs: RefCell<Vec<(ServiceName, Rc<Pair>)>>,
    /// What limits allow this connection alone.
    pub(super) buckets: OfConnection,
}

impl Caller {
    /// What its calls to `served` count under.
    pub(super) fn pair(&self, thread: &Thread, served: &Served) -> Rc<Pair> {
        let service = &served.target.service;
        let mut pairs = self.pairs.borrow_mut();
        if let Some((_, pair)) = pairs.iter().find(|(s, _)| s == service) {
            return Rc::clone(pair);
        }
        let key = self.key(thread, Some(service.clone()));
        let pair = thread.standard.pair(key);
        pairs.push((service.clone(), Rc::clone(&pair)));
        pair
    }

    /// The caller and this proxy, and the service if one is known.
    pub(super) fn key(&self, thread: &Thread, service: Option<ServiceName>) -> PairKey {
        let domain = thread.control.snapshot.borrow().trust.domain.clone();
        let own = thread.control.svid.current();
        PairKey {
            reporter: Reporter::Destination,
            source: Party::of(&self.id, &domain),
            destination: own.map_or_else(Party::unknown, |own| Party::of(&own.id, &domain)),
            service,
            security: Security::MutualTls,
        }
    }

    /// The account of one stream. A request has an id from now on, and a trace if it is to have one.
    pub(super) fn account(&self, thread: &Thread, request: &mut Request<RecvStream>) -> Account {
        let (now, grpc) = (thread.clock.now(), is_grpc(request.headers()));
        let telemetry = thread.standard.telemetry();
        let mut notes = if *request.method() == Method::CONNECT {
            telemetry.connection(Reporter::Destination)
        } else {
            let random = || thread.rng.borrow_mut().next_u64();
            // Ours brings one; a standard peer's may not.
            request_id::ensure(request.headers_mut(), random);
            let (method, uri) = (request.method().clone(), request.uri().clone());
            let line = (&method, &uri, request.version());
            telemetry.request(Reporter::Destination, line, request.headers_mut(), random)
        };
        notes.by_peer(self.ends, self.server_name.as_ref());
        Account::new(now, grpc).noting(notes)
    }
}
