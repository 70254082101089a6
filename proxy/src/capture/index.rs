//! Which service an address or a host name stands for. Pure; built once for a snapshot, read for each captured connection.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use tradewind_api::{
    id::{ServiceName, ServicePortRef},
    snapshot::Snapshot,
};

/// What service names end in (MCS API).
const SUFFIX: &str = ".svc.clusterset.local";
/// Largest request head that is searched for a host: what common servers take.
pub const MAX_HEAD: usize = 16 << 10;

/// The services of one snapshot by their addresses and names.
#[derive(Debug, Default)]
pub(crate) struct Index {
    snapshot: Arc<Snapshot>,
    by_address: HashMap<IpAddr, ServiceName>,
}

impl Index {
    /// Of this snapshot.
    pub(crate) fn new(snapshot: Arc<Snapshot>) -> Self {
        let by_address = snapshot
            .services
            .values()
            .flat_map(|s| s.clusterset_ips.iter().map(|ip| (*ip, s.name.clone())))
            .collect();
        Self {
            snapshot,
            by_address,
        }
    }

    /// The service whose address this is. Its port need not be one that the service has: the answer to that is the mesh's.
    pub(crate) fn at(&self, address: IpAddr, port: u16) -> Option<ServicePortRef> {
        let service = self.by_address.get(&address)?.clone();
        Some(ServicePortRef { service, port })
    }

    /// The service that a request's host names, if it is known and has this port.
    pub(crate) fn named(&self, host: &str, port: u16) -> Option<ServicePortRef> {
        let service = service_of(host)?;
        self.snapshot.services.get(&service)?.port(port)?;
        Some(ServicePortRef { service, port })
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
    use super::*;
    use crate::fixture::snapshot;

    #[test]
    fn services_are_found_by_address_and_by_name() {
        let mut s = snapshot(&[("shop/payments", true, 80), ("shop/web", true, 8080)]);
        let name = "shop/payments".parse().unwrap();
        let payments = Arc::make_mut(s.services.get_mut(&name).unwrap());
        let ips = ["240.240.0.1", "fd74::1"].map(|ip| ip.parse::<IpAddr>().unwrap());
        payments.clusterset_ips = ips.to_vec();
        let index = Index::new(Arc::new(s));
        for ip in ips {
            let found = index.at(ip, 80).unwrap();
            assert_eq!(found.to_string(), "shop/payments:80");
            assert!(
                index.at(ip, 81).is_some(),
                "the mesh says that it has no such port"
            );
        }
        assert_eq!(index.at("240.240.0.2".parse().unwrap(), 80), None);
        let named = |host: &str, port| index.named(host, port).map(|s| s.to_string());
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
