//! Which service an address or a host name stands for. Pure; built once for a snapshot, read for each captured connection.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use tradewind_api::{
    id::{EndpointId, ServiceName, ServicePortRef},
    model::{Endpoint, ServiceKind},
    snapshot::Snapshot,
};

use crate::called::Called;

/// What service names end in (MCS API). Names of one cluster alone (`svc.cluster.local`) are not looked at: where such a service is
/// dialled at its own address that says whose it is, and whoever asks for it at another has chosen that one himself, as who calls a
/// headless service's Pod does, or an ingress.
const SUFFIX: &str = ".svc.clusterset.local";
/// Largest request head that is searched for a host: what common servers take.
pub const MAX_HEAD: usize = 16 << 10;

/// What a captured connection was meant for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Meant {
    /// This service.
    Service(Called),
    /// This very endpoint of it.
    Endpoint(ServicePortRef, EndpointId),
}

/// The services of one snapshot by their addresses and names.
#[derive(Debug, Default)]
pub(crate) struct Index {
    snapshot: Arc<Snapshot>,
    /// By the address in the whole clusterset.
    by_clusterset_ip: HashMap<IpAddr, ServiceName>,
    /// By the address in the own cluster alone.
    by_cluster_ip: HashMap<IpAddr, ServiceName>,
    /// By what stands for an endpoint elsewhere.
    by_mesh_ip: HashMap<IpAddr, (ServiceName, EndpointId)>,
    /// By where an endpoint's application listens.
    by_application: HashMap<SocketAddr, (ServicePortRef, EndpointId)>,
}

impl Index {
    /// Of this snapshot.
    pub(crate) fn new(snapshot: Arc<Snapshot>) -> Self {
        let mut index = Self::default();
        let local = snapshot.local().map(|c| &c.name);
        for service in snapshot.services.values() {
            let named = |ip: &IpAddr| (*ip, service.name.clone());
            let ips = service.clusterset_ips.iter().map(named);
            index.by_clusterset_ip.extend(ips);
            // What nobody in the mesh serves is left to whoever served it before.
            if !service.endpoints.is_empty() || !service.exported_by.is_empty() {
                let ips = service.cluster_ips.iter().map(named);
                index.by_cluster_ip.extend(ips);
            }
            for endpoint in &service.endpoints {
                if Some(&endpoint.cluster) == local {
                    let targets = endpoint.targets.iter().map(|(port, at)| (*port, *at));
                    index.add_application(&service.name, endpoint, targets);
                } else if local.is_some() && service.kind == ServiceKind::Headless {
                    index.add_elsewhere(&service.name, endpoint);
                }
            }
        }
        index.snapshot = snapshot;
        index
    }

    /// An endpoint of a headless service in another cluster, which is told by DNS: at its own address where both clusters share a network.
    /// There its application listens at the service's ports, as is usual behind headless services, since nothing would translate them.
    fn add_elsewhere(&mut self, service: &ServiceName, endpoint: &Endpoint) {
        for ip in &endpoint.mesh_ips {
            self.by_mesh_ip
                .entry(*ip)
                .or_insert_with(|| (service.clone(), endpoint.id.clone()));
        }
        let ports = endpoint.ports.iter().map(|port| (*port, *port));
        self.add_application(service, endpoint, ports);
    }

    /// `ports`: of the service, and where the application listens.
    fn add_application(
        &mut self,
        service: &ServiceName,
        endpoint: &Endpoint,
        ports: impl Iterator<Item = (u16, u16)>,
    ) {
        let address = endpoint.address.as_deref();
        let Some(Ok(hbone)) = address.map(str::parse::<SocketAddr>) else {
            return;
        };
        for (port, target) in ports {
            // Of several services that lead to one port the first by name: they lead to the same application.
            let at = SocketAddr::new(hbone.ip(), target);
            self.by_application.entry(at).or_insert_with(|| {
                let service = service.clone();
                (ServicePortRef { service, port }, endpoint.id.clone())
            });
        }
    }

    /// Whose address this is. A clusterset IP is the mesh's alone, and so is what stands for an endpoint: its port need not be one that the
    /// service has, and the answer to that is the mesh's. A cluster IP is the cluster's, too: what the mesh knows no port of goes where it went before.
    pub(crate) fn at(&self, address: SocketAddr) -> Option<Meant> {
        let (ip, port) = (address.ip(), address.port());
        let service_port = |service: &ServiceName| ServicePortRef {
            service: service.clone(),
            port,
        };
        if let Some(service) = self.by_clusterset_ip.get(&ip) {
            return Some(Meant::Service(Called::in_clusterset(service_port(service))));
        }
        if let Some((service, endpoint)) = self.by_mesh_ip.get(&ip) {
            return Some(Meant::Endpoint(service_port(service), endpoint.clone()));
        }
        if let Some(service) = self.by_cluster_ip.get(&ip) {
            self.snapshot.services.get(service)?.port(port)?;
            return Some(Meant::Service(service_port(service).into()));
        }
        let (service, endpoint) = self.by_application.get(&address)?;
        Some(Meant::Endpoint(service.clone(), endpoint.clone()))
    }

    /// The service that a request's host names, if it is known and has this port.
    pub(crate) fn named(&self, host: &str, port: u16) -> Option<Called> {
        let service = service_of(host)?;
        self.snapshot.services.get(&service)?.port(port)?;
        Some(Called::in_clusterset(ServicePortRef { service, port }))
    }
}

/// `payments.shop.svc.clusterset.local`, in any case, with a port or a final dot or without.
fn service_of(host: &str) -> Option<ServiceName> {
    let host = match host.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => host,
    };
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    let (service, namespace) = host.strip_suffix(SUFFIX)?.split_once('.')?;
    ServiceName::new(namespace, service).ok()
}

/// Where a request's head says that it is going.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Host<'a> {
    /// There.
    Named(&'a str),
    /// It does not say, or says several.
    Unnamed,
    /// The head has not come far enough.
    Incomplete,
}

/// The host of an HTTP/1 request that begins with these bytes.
pub fn host_of(head: &[u8]) -> Host<'_> {
    let mut found = None;
    let mut rest = head;
    let mut first = true;
    loop {
        let Some(end) = rest.iter().position(|b| *b == b'\n') else {
            return if head.len() < MAX_HEAD {
                Host::Incomplete
            } else {
                Host::Unnamed
            };
        };
        let (line, after) = rest.split_at(end);
        rest = after.get(1..).unwrap_or_default();
        let Ok(line) = std::str::from_utf8(line) else {
            // Field values may be anything; a host's may not.
            continue;
        };
        let line = line.trim_end_matches('\r');
        if std::mem::take(&mut first) {
            // The target goes before the field, where it is a whole URI.
            let target = line.split(' ').nth(1).unwrap_or_default();
            if let Some((_, after)) = target.split_once("://") {
                return Host::Named(after.split(['/', '?']).next().unwrap_or_default());
            }
            continue;
        }
        if line.is_empty() {
            return found.map_or(Host::Unnamed, Host::Named);
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("host")
            && found.replace(value.trim()).is_some()
        {
            return Host::Unnamed;
        }
    }
}

#[cfg(test)]
mod tests {
    use tradewind_api::model::Service;

    use super::*;
    use crate::called::Scope;
    use crate::fixture::{change, endpoint, export_only_from, snapshot};

    fn service(text: &str) -> Meant {
        let service: ServicePortRef = text.parse().unwrap();
        Meant::Service(service.into())
    }

    fn at(s: &Snapshot, address: &str) -> Option<Meant> {
        Index::new(Arc::new(s.clone())).at(address.parse().unwrap())
    }

    #[test]
    fn cluster_ips_are_the_meshs_where_somebody_in_the_mesh_serves() {
        let mut s = snapshot(&[("shop/payments", false, 80)]);
        change(&mut s, "shop/payments", |s| {
            s.cluster_ips = ["10.96.0.7", "fd00::7"]
                .map(|ip| ip.parse().unwrap())
                .to_vec();
        });
        assert_eq!(at(&s, "10.96.0.7:80"), None, "nobody has a proxy");
        let meshed = Some(service("shop/payments:80"));
        // Exported elsewhere it is reached there, without one endpoint here.
        let mut exported = s.clone();
        export_only_from(&mut exported, "shop/payments", "east");
        assert_eq!(at(&exported, "10.96.0.7:80"), meshed);
        change(&mut s, "shop/payments", |s| {
            s.endpoints = vec![endpoint("a", "west", "10.0.0.1:15008", &[(80, 8080)])];
        });
        for ip in ["10.96.0.7:80", "[fd00::7]:80"] {
            assert_eq!(at(&s, ip), meshed, "{ip}");
        }
        for other in ["10.96.0.7:81", "10.96.0.8:80"] {
            assert_eq!(at(&s, other), None, "{other}: as without the mesh");
        }
    }

    #[test]
    fn an_endpoint_is_found_where_its_application_listens() {
        let mut s = snapshot(&[("shop/web", false, 80), ("shop/db", false, 5432)]);
        change(&mut s, "shop/db", |s| {
            let mut silent = endpoint("c", "west", "10.0.0.3:15008", &[(5432, 5433)]);
            silent.targets.clear();
            s.endpoints = vec![
                endpoint("a", "west", "10.0.0.1:15008", &[(5432, 5433)]),
                endpoint("b", "west", "[fd00::2]:15008", &[(5432, 5433)]),
                silent,
                endpoint("d", "east", "10.0.0.4:15008", &[(5432, 5433)]),
            ];
        });
        change(&mut s, "shop/web", |s| {
            s.endpoints = vec![endpoint("e", "west", "10.0.0.1:15008", &[(80, 5433)])];
        });
        let one = |id: &str| {
            let service = "shop/db:5432".parse().unwrap();
            Some(Meant::Endpoint(service, id.parse().unwrap()))
        };
        assert_eq!(at(&s, "10.0.0.1:5433"), one("a"), "the first by name");
        assert_eq!(at(&s, "[fd00::2]:5433"), one("b"));
        for (other, why) in [
            ("10.0.0.1:5432", "it does not listen there"),
            ("10.0.0.1:15008", "that is its proxy"),
            ("10.0.0.3:5433", "its ports are not told"),
            ("10.0.0.4:5433", "another cluster's network may be another"),
        ] {
            assert_eq!(at(&s, other), None, "{why}");
        }
        s.clusters.clear();
        assert_eq!(at(&s, "10.0.0.1:5433"), None);
    }

    #[test]
    fn a_headless_services_endpoint_elsewhere_is_found_by_what_stands_for_it() {
        let mut s = snapshot(&[("shop/db", true, 5432)]);
        let endpoints = |s: &mut Service, kind| {
            let mut apart = endpoint("a", "east", "10.0.0.1:15008", &[(5432, 5432)]);
            (apart.address, apart.mesh_ips) = (None, vec!["241.0.0.1".parse().unwrap()]);
            let near = endpoint("b", "east", "10.0.0.2:15008", &[(5432, 5432)]);
            (s.kind, s.endpoints) = (kind, vec![apart, near]);
        };
        change(&mut s, "shop/db", |s| endpoints(s, ServiceKind::Headless));
        let one = |port: u16, id: &str| {
            let service = format!("shop/db:{port}").parse().unwrap();
            Some(Meant::Endpoint(service, id.parse().unwrap()))
        };
        assert_eq!(at(&s, "241.0.0.1:5432"), one(5432, "a"));
        assert_eq!(
            at(&s, "241.0.0.1:22"),
            one(22, "a"),
            "nobody else answers there"
        );
        assert_eq!(at(&s, "241.0.0.2:5432"), None);
        assert_eq!(at(&s, "10.0.0.2:5432"), one(5432, "b"), "of one network");
        assert_eq!(at(&s, "10.0.0.2:22"), None, "it is the machine's own");
        change(&mut s, "shop/db", |s| {
            endpoints(s, ServiceKind::ClusterSetIp)
        });
        assert_eq!(at(&s, "10.0.0.2:5432"), None, "nobody is told of it");
    }

    #[test]
    fn services_are_found_by_address_and_by_name() {
        let mut s = snapshot(&[("shop/payments", true, 80), ("shop/web", true, 8080)]);
        let name = "shop/payments".parse().unwrap();
        let payments = Arc::make_mut(s.services.get_mut(&name).unwrap());
        let ips = ["240.240.0.1", "fd74::1"].map(|ip| ip.parse::<IpAddr>().unwrap());
        payments.clusterset_ips = ips.to_vec();
        let index = Index::new(Arc::new(s));
        for ip in ips {
            for port in [80, 81] {
                // That it has no such port is for the mesh to say.
                let found = index.at(SocketAddr::new(ip, port));
                let to = format!("shop/payments:{port}").parse().unwrap();
                assert_eq!(found, Some(Meant::Service(Called::in_clusterset(to))));
            }
        }
        assert_eq!(index.at("240.240.0.2:80".parse().unwrap()), None);
        let named = |host: &str, port| {
            let found = index.named(host, port)?;
            assert_eq!(found.scope, Scope::Exporters);
            Some(found.to.to_string())
        };
        for host in [
            "web.shop.svc.clusterset.local",
            "Web.Shop.svc.clusterset.LOCAL.",
            "web.shop.svc.clusterset.local:8080",
        ] {
            assert_eq!(
                named(host, 8080).as_deref(),
                Some("shop/web:8080"),
                "{host}"
            );
        }
        for host in [
            "web.shop.svc.cluster.local",
            "nobody.shop.svc.clusterset.local",
            "east.web.shop.svc.clusterset.local",
            "web.svc.clusterset.local",
            ".svc.clusterset.local",
            "web.shop",
            "",
        ] {
            assert_eq!(named(host, 8080), None, "{host}");
        }
        assert_eq!(
            named("web.shop.svc.clusterset.local", 80),
            None,
            "no such port"
        );
    }

    #[test]
    fn a_request_says_where_it_goes() {
        let cases: &[(&str, Host<'_>)] = &[
            ("GET / HTTP/1.1\r\nHost: a.b\r\n\r\n", Host::Named("a.b")),
            (
                "GET / HTTP/1.1\r\nx: y\r\nHOST:a.b:80 \r\n\r\nbody",
                Host::Named("a.b:80"),
            ),
            ("GET / HTTP/1.0\nhost: a\n\n", Host::Named("a")),
            (
                "GET http://c.d/x HTTP/1.1\r\nHost: a.b\r\n\r\n",
                Host::Named("c.d"),
            ),
            ("GET http://c.d?x HTTP/1.1\r\n", Host::Named("c.d")),
            ("GET / HTTP/1.0\r\n\r\n", Host::Unnamed),
            (
                "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
                Host::Unnamed,
            ),
            ("GET / HTTP/1.1\r\nHost: a.b\r\n", Host::Incomplete),
            ("GET / HT", Host::Incomplete),
            ("", Host::Incomplete),
        ];
        for (head, expected) in cases {
            assert_eq!(host_of(head.as_bytes()), *expected, "{head:?}");
        }
        let strange = b"GET / HTTP/1.1\r\nx: \xff\r\nHost: a.b\r\n\r\n";
        assert_eq!(host_of(strange), Host::Named("a.b"));
        let long = [b"GET / HTTP/1.1\r\nx: ".as_slice(), &[b'a'; MAX_HEAD]].concat();
        assert_eq!(host_of(&long), Host::Unnamed, "a bound");
    }
}
