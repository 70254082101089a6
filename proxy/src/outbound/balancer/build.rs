//! From a snapshot to routes: takes a newer snapshot over, keeps what was learnt about those who are still in it, and builds
//! the route of a service when it is first asked for.

use std::{
    cell::{Cell, OnceCell, RefCell},
    collections::BTreeMap,
    rc::Rc,
    sync::Arc,
};

use http::HeaderValue;
use rustls::pki_types::ServerName;
use tradewind_api::{
    id::{ClusterName, EndpointId, Namespace, ServicePortRef},
    model::{Cluster, ClusterState, Endpoint, Health, Service},
    snapshot::Snapshot,
    traffic::{self, Settings, TrafficPolicy, has_labels},
};
use tradewind_transport::{
    balance::{Micros, budget::Budget, hash, round_robin::RoundRobin},
    hbone::{Destination, Path, headers},
    seal::Seal,
    server_name::{self, NameError},
};

use super::{Balancer, Callee, Exit, Kept, Link, NoRoute, Route, Served, Tables, Target};
use crate::called::Scope;

impl Balancer {
    /// Takes over a newer snapshot, if there is one.
    pub(super) fn refresh(&self) {
        if !self.snapshots.borrow().has_changed().unwrap_or(false) {
            if self.caller.borrow().is_none() {
                self.learn_caller();
            }
            return;
        }
        let snapshot = Arc::clone(&self.snapshots.borrow_mut().borrow_and_update());
        let before = self.snapshot.replace(Arc::clone(&snapshot));
        self.routes.borrow_mut().clear();
        let now = self.now();
        let services = &snapshot.services;
        self.kept
            .borrow_mut()
            .retain(|c, _| services.contains_key(&c.service.service));
        let returned = self.returned(&before, &snapshot, now);
        // Only services that are called: a federation may have many more.
        let kept = self.kept.borrow();
        let alive: BTreeMap<&EndpointId, &Endpoint> = kept
            .keys()
            .filter_map(|c| services.get(&c.service.service))
            .flat_map(|s| &s.endpoints)
            .map(|e| (&e.id, e))
            .collect();
        self.peers.borrow_mut().retain(|id, peer| {
            let Some(endpoint) = alive.get(id) else {
                return false;
            };
            let before = peer.health.replace(Some(endpoint.health));
            let healed =
                endpoint.health == Health::Healthy && before.is_some_and(|b| b != Health::Healthy);
            if healed || returned.contains(&&endpoint.cluster) {
                // Its own cluster says that it is back: no need to sit out the ejection.
                peer.detector.borrow_mut().hint_back(now);
            }
            if healed && let Some(link) = self.links.borrow().get(&endpoint.cluster) {
                link.detector.borrow_mut().hint_back(now);
            }
            true
        });
        self.pool.retain(|id, via| {
            alive
                .get(id)
                .is_some_and(|endpoint| self.way(&snapshot, endpoint).still_leads_by(via))
        });
        drop(kept);
        self.improved();
    }

    /// The clusters that the newer snapshot shows alive again or reachable in another way; their links may be tried now.
    fn returned<'a>(
        &self,
        before: &Snapshot,
        after: &'a Snapshot,
        now: Micros,
    ) -> Vec<&'a ClusterName> {
        let mut links = self.links.borrow_mut();
        let own = |s: &Snapshot| s.local().map(|c| c.gateways.clone());
        let exit_moved = self.place.exit == Exit::Gateway && own(before) != own(after);
        links.retain(|c, _| after.clusters.contains_key(c));
        let returned = |(name, link): (&ClusterName, &Rc<Link>)| {
            let (old, new) = (before.clusters.get(name)?, after.clusters.get(name)?);
            let back = (old.lease_expired && !new.lease_expired)
                || old.gateways != new.gateways
                || exit_moved;
            back.then(|| link.detector.borrow_mut().hint_back(now))?;
            Some(&new.name)
        };
        links.iter().filter_map(returned).collect()
    }

    /// Whose calls these are is known with the first certificate; policies may be for some callers alone.
    fn learn_caller(&self) {
        let own = self.svid.current();
        let namespace = own.and_then(|own| Namespace::new(own.id.account()?.0).ok());
        if namespace.is_some() {
            self.caller.replace(namespace);
            self.routes.borrow_mut().clear();
        }
    }

    /// What a policy says of calls to it, and of which of its endpoints alone.
    fn policy(&self, snapshot: &Snapshot, to: Callee<'_>) -> Result<Policed, NoRoute> {
        let caller = self.caller.borrow();
        let policy = snapshot
            .routes
            .get(&to.service.service)
            .zip(caller.as_ref())
            .and_then(|(routes, caller)| routes.traffic_for(caller, &self.place.labels));
        let Some(name) = to.subset else {
            let settings = policy.map(|p| Arc::clone(p.settings.of(to.service.port)));
            return Ok(Policed {
                policy: policy.cloned(),
                settings: settings.unwrap_or_default(),
                labels: None,
            });
        };
        let subset = policy.and_then(|p| p.subsets.get(name));
        let subset = subset.ok_or_else(|| NoRoute::UnknownSubset {
            service: to.service.clone(),
            subset: name.to_owned(),
        })?;
        Ok(Policed {
            policy: policy.cloned(),
            settings: Arc::clone(subset.settings.of(to.service.port)),
            labels: Some(subset.labels.clone()),
        })
    }

    /// The same endpoints, asked for in one way alone: nobody is told apart where the own cluster, too, exports the service, or no cluster
    /// does.
    pub(super) fn widened<'a>(&self, to: Callee<'a>) -> Callee<'a> {
        let snapshot = self.snapshot.borrow();
        let service = snapshot.services.get(&to.service.service);
        let own = snapshot.local().map(|c| &c.name);
        let told_apart = service
            .zip(own)
            .is_some_and(|(s, own)| !s.exported_by.is_empty() && !s.exported_by.contains(own));
        match told_apart {
            true => to,
            false => Callee {
                scope: Scope::Everybody,
                ..to
            },
        }
    }

    pub(super) fn build(&self, to: Callee<'_>) -> Result<Route, NoRoute> {
        let target = to.service;
        if self.caller.borrow().is_none() {
            self.learn_caller();
        }
        let snapshot = self.snapshot.borrow();
        if snapshot.clusters.is_empty() && snapshot.services.is_empty() {
            return Err(NoRoute::NoSnapshot);
        }
        let service = snapshot
            .services
            .get(&target.service)
            .ok_or_else(|| NoRoute::UnknownService(target.clone()))?;
        let port = service
            .port(target.port)
            .ok_or_else(|| no_port(target, service))?;
        let policed = self.policy(&snapshot, to)?;
        let wanted = policed.labels.as_ref();
        let mut served: BTreeMap<&ClusterName, Served> = BTreeMap::new();
        let targets: Vec<_> = service
            .endpoints
            .iter()
            .filter(|e| e.ports.contains(&target.port))
            .filter(|e| match to.scope {
                Scope::Everybody => true,
                Scope::Exporters => service.exported_by.contains(&e.cluster),
            })
            .filter(|e| wanted.is_none_or(|w| has_labels(&e.labels, w)))
            .filter_map(|e| {
                let served = served
                    .entry(&e.cluster)
                    .or_insert_with(|| self.metrics.served(target, &e.cluster));
                self.target(&snapshot, (service, target, e), &policed.settings, served)
            })
            .map(Rc::new)
            .collect();
        if targets.is_empty() {
            return Err(NoRoute::NoEndpoint(target.clone()));
        }
        let now = self.now();
        let key = to.key();
        let breaker = self.breakers.of(&key, &policed.settings);
        let kept = Rc::clone(self.kept.borrow_mut().entry(key).or_insert_with(|| {
            Rc::new(Kept {
                budget: RefCell::new(Budget::new(now)),
                turns: RefCell::new(RoundRobin::new(self.random())),
                tables: Tables::default(),
            })
        }));
        Ok(Route {
            service: target.clone(),
            scope: to.scope,
            subset: to.subset.map(str::to_owned),
            policy: policed.policy,
            settings: policed.settings,
            service_value: headers::service_value(target),
            protocol: port.app_protocol,
            targets,
            made: RefCell::new(None),
            stood_by_at: Cell::new(None),
            kept,
            breaker,
        })
    }

    fn target(
        &self,
        snapshot: &Snapshot,
        (service, to, e): (&Service, &ServicePortRef, &Endpoint),
        settings: &Arc<Settings>,
        served: &Served,
    ) -> Option<Target> {
        let cluster = snapshot.clusters.get(&e.cluster);
        let way = self.way(snapshot, e);
        let server_name = match name(snapshot, service, to, (e, &way)) {
            Ok(name) => name,
            Err(Unnamed::NotYet) => {
                tracing::debug!(endpoint = %e.id, service = %to, cluster = %e.cluster, "endpoint left out: the controller has made no sealed name for its cluster yet");
                return None;
            }
            Err(Unnamed::Form(error)) => {
                tracing::warn!(endpoint = %e.id, service = %to, %error, "endpoint left out");
                return None;
            }
        };
        let (path, link) = match way {
            Way::Direct(address) => (Path::Direct(address.to_owned()), None),
            Way::Gateways(through) => {
                let gateways = self.shuffled(through);
                let link = Rc::clone(
                    self.links
                        .borrow_mut()
                        .entry(e.cluster.clone())
                        .or_default(),
                );
                (Path::Gateways(gateways), Some(link))
            }
        };
        let peer = Rc::clone(self.peers.borrow_mut().entry(e.id.clone()).or_default());
        peer.health.set(Some(e.health));
        let served_by = HeaderValue::try_from(format!("{}/{}", e.cluster, e.id)).ok()?;
        Some(Target {
            cluster_state: cluster.map_or(ClusterState::Active, |c| c.state),
            lease_expired: cluster.is_some_and(|c| c.lease_expired),
            told_rtt_us: cluster.and_then(|c| c.round_trip_us),
            destination: Destination {
                endpoint: e.id.clone(),
                identity: e.identity.clone(),
                path,
                server_name,
            },
            hash: hash::key(e.id.as_str().as_bytes()),
            settings: Arc::clone(settings),
            peer,
            link,
            served: served.clone(),
            pair: OnceCell::new(),
            served_by,
            endpoint: e.clone(),
        })
    }

    /// How an endpoint is reached.
    pub(super) fn way<'a>(&self, snapshot: &'a Snapshot, e: &'a Endpoint) -> Way<'a> {
        let local = snapshot.local();
        let near = local.is_some_and(|c| c.name == e.cluster);
        match (&e.address, self.place.exit) {
            (Some(address), exit) if near || exit == Exit::Direct => Way::Direct(address),
            (_, Exit::Direct) => Way::Gateways(snapshot.clusters.get(&e.cluster)),
            (_, Exit::Gateway) => Way::Gateways(local),
        }
    }

    /// A cluster's gateways, beginning with another one each time: sessions spread over them.
    fn shuffled(&self, cluster: Option<&Arc<Cluster>>) -> Vec<String> {
        let mut gateways = cluster.map(|c| c.gateways.clone()).unwrap_or_default();
        if let Some(first) = self.rng.borrow_mut().index(gateways.len()) {
            gateways.rotate_left(first);
        }
        gateways
    }
}

/// What holds for calls to somebody.
struct Policed {
    policy: Option<Arc<TrafficPolicy>>,
    settings: Arc<Settings>,
    /// What the endpoints must have.
    labels: Option<traffic::Labels>,
}

/// How an endpoint is reached.
#[derive(Debug)]
pub(super) enum Way<'a> {
    /// At its own address.
    Direct(&'a str),
    /// Through this cluster's gateways; none where the cluster is not known.
    Gateways(Option<&'a Arc<Cluster>>),
}

impl Way<'_> {
    /// Whether a session dialled at `via` is on a way that is still announced. A gateway that leaves is left before it has
    /// to cut anybody; where a cluster announces none at all, what is open stays.
    fn still_leads_by(&self, via: &str) -> bool {
        match self {
            Self::Direct(_) | Self::Gateways(None) => true,
            Self::Gateways(Some(c)) => c.gateways.is_empty() || c.gateways.iter().any(|g| g == via),
        }
    }
}

/// Why an endpoint cannot be named.
enum Unnamed {
    /// Its gateways take sealed names alone, and there is none: the two clusters have not heard of each other's keys.
    NotYet,
    /// The name would be none.
    Form(NameError),
}

/// What an endpoint is called when it is dialled: by nothing that matters at its own address, sealed at a gateway, and in
/// clear while its cluster still takes that and there is no sealed one.
fn name(
    snapshot: &Snapshot,
    service: &Service,
    to: &ServicePortRef,
    (e, way): (&Endpoint, &Way<'_>),
) -> Result<ServerName<'static>, Unnamed> {
    let domain = &snapshot.trust.domain;
    if matches!(way, Way::Direct(_)) {
        return server_name::direct(&e.id, &e.cluster, domain).map_err(Unnamed::Form);
    }
    let sealed = service.seal(&e.cluster, to.port);
    let target = match sealed.and_then(|s| Seal::parse(&s.label)) {
        Some(seal) => server_name::Target::Sealed {
            cluster: e.cluster.clone(),
            endpoint: Some(e.id.clone()),
            seal,
        },
        None if snapshot
            .clusters
            .get(&e.cluster)
            .is_some_and(|c| c.sealed_only) =>
        {
            return Err(Unnamed::NotYet);
        }
        None => server_name::Target::Endpoint {
            cluster: e.cluster.clone(),
            service: to.service.clone(),
            port: to.port,
            endpoint: Some(e.id.clone()),
        },
    };
    server_name::server_name(&target, domain).map_err(Unnamed::Form)
}

fn no_port(target: &ServicePortRef, service: &Service) -> NoRoute {
    let has: Vec<_> = service.ports.iter().map(|p| p.port.to_string()).collect();
    NoRoute::UnknownPort {
        service: target.clone(),
        has: if has.is_empty() {
            "none".into()
        } else {
            has.join(", ")
        },
    }
}

#[cfg(test)]
mod tests {
    use tradewind_api::seal::SealedPort;
    use tradewind_transport::seal::LABEL_CHARS;

    use super::*;
    use crate::fixture::snapshot;

    fn endpoint(address: Option<&str>) -> Endpoint {
        Endpoint {
            id: EndpointId::new("abcdefghijklm").unwrap(),
            cluster: ClusterName::new("east").unwrap(),
            region: "r".parse().unwrap(),
            zone: None,
            weight: 100,
            health: Health::Healthy,
            identity: "spiffe://east.mesh.internal/ns/shop/sa/payments"
                .parse()
                .unwrap(),
            address: address.map(str::to_owned),
            mesh_ips: vec![],
            hostname: None,
            labels: traffic::Labels::new(),
            ports: vec![80],
            targets: Default::default(),
        }
    }

    #[test]
    fn a_gateway_is_asked_under_a_seal_and_in_clear_only_while_it_takes_that() {
        let to: ServicePortRef = "shop/payments:80".parse().unwrap();
        let mut s = snapshot(&[("shop/payments", true, 80)]);
        let mut service = Service::clone(&s.services[&to.service]);
        let east = ClusterName::new("east").unwrap();
        let named = |s: &Snapshot, service: &Service, address: Option<&'static str>| {
            let way = address.map_or(Way::Gateways(None), Way::Direct);
            let name = name(s, service, &to, (&endpoint(address), &way)).ok()?;
            Some(name.to_str().into_owned())
        };
        let clear = "abcdefghijklm.80.payments.shop.east.gw.mesh.internal";
        assert_eq!(named(&s, &service, None).as_deref(), Some(clear));
        Arc::make_mut(s.clusters.get_mut(&east).unwrap()).sealed_only = true;
        assert_eq!(named(&s, &service, None), None, "it would be refused");
        let label = "a".repeat(LABEL_CHARS);
        service.seals = vec![SealedPort {
            cluster: east,
            port: 80,
            key_id: 0,
            expires_unix_s: 0,
            label: label.clone(),
        }];
        let sealed = format!("abcdefghijklm.{label}.east.gw.mesh.internal");
        assert_eq!(named(&s, &service, None), Some(sealed));
        let direct = "abcdefghijklm.direct.east.gw.mesh.internal";
        let there = Some("127.0.0.1:1");
        assert_eq!(named(&s, &service, there).as_deref(), Some(direct));
    }
}
