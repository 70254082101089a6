//! What a name below `clusterset.local` means: a pure function of the snapshot. It follows the MCS API's DNS
//! specification 1.0.0. It must never invent a name: what no cluster exports does not exist.

use std::{borrow::Cow, collections::BTreeSet, net::IpAddr, sync::Arc};

use hickory_proto::rr::{
    Name, RData, Record, RecordType,
    rdata::{A, AAAA, SOA, SRV, TXT},
};
use tradewind_api::{
    ServiceName,
    model::{Endpoint, Health, Service, ServiceKind},
    snapshot::Snapshot,
};

/// The specification's zone.
pub const ZONE: &str = "clusterset.local.";
/// The version of the specification, which `dns-version.clusterset.local` tells.
const DNS_VERSION: &str = "1.0.0";
/// How long an answer may be kept, in seconds: failover must not wait for caches.
pub const TTL_S: u32 = 5;
/// Most addresses in one answer: more would only be cut to fit, and a caller tries a few.
const MAX_ADDRESSES: usize = 256;

/// What a name and type are answered.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// These records.
    Records(Vec<Record>),
    /// The name exists, but not with that type; the SOA goes with it.
    Empty(Box<Record>),
    /// The name does not exist; the SOA goes with it.
    NoName(Box<Record>),
    /// Not below our zone.
    Foreign,
    /// Ours, but no snapshot has arrived yet: nothing may be said of what exists.
    NotReady,
}

/// Answers one question. Case does not matter in `name`.
pub fn answer(snapshot: &Snapshot, name: &Name, kind: RecordType) -> Answer {
    let labels: Option<Vec<String>> = name
        .iter()
        .map(|label| std::str::from_utf8(label).ok().map(str::to_ascii_lowercase))
        .collect();
    let Some(labels) = labels else {
        // No name of ours has other characters; an upstream may know one.
        return if in_zone(name) {
            no_name(snapshot)
        } else {
            Answer::Foreign
        };
    };
    let mut labels: Vec<&str> = labels.iter().map(String::as_str).collect();
    if !labels.ends_with(&["clusterset", "local"]) {
        return Answer::Foreign;
    }
    labels.truncate(labels.len() - 2);
    if snapshot.clusters.is_empty() && !matches!(labels.as_slice(), [] | ["dns-version"]) {
        return Answer::NotReady;
    }
    match below(snapshot, name, &labels, kind) {
        None => no_name(snapshot),
        Some(data) if data.is_empty() => Answer::Empty(Box::new(soa(snapshot))),
        Some(data) => Answer::Records(
            data.into_iter()
                .map(|d| Record::from_rdata(name.clone(), TTL_S, d))
                .collect(),
        ),
    }
}

/// True for the zone itself and everything below it.
pub fn in_zone(name: &Name) -> bool {
    let mut labels = name.iter().rev();
    let mut is = |expected: &str| {
        labels
            .next()
            .is_some_and(|l| l.eq_ignore_ascii_case(expected.as_bytes()))
    };
    is("local") && is("clusterset")
}

fn no_name(snapshot: &Snapshot) -> Answer {
    Answer::NoName(Box::new(soa(snapshot)))
}

/// The zone's start of authority; its serial is the snapshot's revision.
fn soa(snapshot: &Snapshot) -> Record {
    Record::from_rdata(zone(), TTL_S, soa_data(snapshot))
}

fn soa_data(snapshot: &Snapshot) -> RData {
    let below = |label: &str| zone().prepend_label(label).unwrap_or_else(|_| zone());
    // Only the low half of the revision fits; serials compare modulo 2^32.
    let serial = u32::try_from(snapshot.revision.0 & u64::from(u32::MAX)).unwrap_or_default();
    let (mname, rname) = (below("ns"), below("hostmaster"));
    RData::SOA(SOA::new(mname, rname, serial, 7200, 1800, 86_400, TTL_S))
}

fn zone() -> Name {
    Name::from_ascii(ZONE).unwrap_or_default()
}

/// The data of a name in the zone. `None`: no such name; empty: no such type.
fn below(
    snapshot: &Snapshot,
    asked: &Name,
    labels: &[&str],
    kind: RecordType,
) -> Option<Vec<RData>> {
    match labels {
        [] => Some(match kind {
            RecordType::SOA => vec![soa_data(snapshot)],
            _ => Vec::new(),
        }),
        ["dns-version"] => Some(match kind {
            RecordType::TXT => vec![RData::TXT(TXT::new(vec![DNS_VERSION.to_owned()]))],
            _ => Vec::new(),
        }),
        ["svc"] => Some(Vec::new()),
        [namespace, "svc"] => snapshot
            .services
            .values()
            .any(|s| !s.exported_by.is_empty() && s.name.namespace.as_str() == *namespace)
            .then(Vec::new),
        [name, namespace, "svc"] => of_service(exported(snapshot, namespace, name)?, asked, kind),
        // A name between the service and its ports exists, without data. `<cluster>.<svc>…` must not.
        [protocol, name, namespace, "svc"] => {
            let service = exported(snapshot, namespace, name)?;
            let named = *protocol == "_tcp" && service.ports.iter().any(|p| !p.name.is_empty());
            named.then(Vec::new)
        }
        [port, protocol, name, namespace, "svc"] => {
            let service = exported(snapshot, namespace, name)?;
            match port.strip_prefix('_') {
                Some(port) => of_port(service, asked, port, protocol, kind),
                None => of_endpoint(service, port, protocol, kind),
            }
        }
        _ => None,
    }
}

fn exported<'a>(snapshot: &'a Snapshot, namespace: &str, name: &str) -> Option<&'a Arc<Service>> {
    let name = ServiceName::new(namespace, name).ok()?;
    snapshot
        .services
        .get(&name)
        .filter(|s| !s.exported_by.is_empty())
}

/// `<svc>.<ns>.svc…`
fn of_service(service: &Service, asked: &Name, kind: RecordType) -> Option<Vec<RData>> {
    let addresses = match service.kind {
        ServiceKind::ClusterSetIp => service.clusterset_ips.clone(),
        ServiceKind::Headless => {
            let ready = ready(service);
            if ready.is_empty() {
                // The specification: a headless service without a ready endpoint has no name.
                return None;
            }
            let distinct: BTreeSet<IpAddr> = ready.into_iter().flat_map(|(_, ips)| ips).collect();
            distinct.into_iter().take(MAX_ADDRESSES).collect()
        }
    };
    Some(match kind {
        RecordType::SRV => {
            let numbers: BTreeSet<u16> = service.ports.iter().map(|p| p.port).collect();
            srv(service, asked, &numbers)
        }
        kind => of_type(&addresses, kind),
    })
}

/// `_<port>._<protocol>.<svc>.<ns>.svc…`; every port here is TCP.
fn of_port(
    service: &Service,
    asked: &Name,
    port: &str,
    protocol: &str,
    kind: RecordType,
) -> Option<Vec<RData>> {
    if protocol != "_tcp" || port.is_empty() {
        return None;
    }
    let numbers: BTreeSet<u16> = service
        .ports
        .iter()
        .filter(|p| p.name == port)
        .map(|p| p.port)
        .collect();
    if numbers.is_empty() {
        return None;
    }
    let base = asked.trim_to(usize::from(asked.num_labels()).saturating_sub(2));
    let records = srv(service, &base, &numbers);
    if records.is_empty() {
        return None;
    }
    Some(if matches!(kind, RecordType::SRV | RecordType::ANY) {
        records
    } else {
        Vec::new()
    })
}

/// `<hostname>.<cluster>.<svc>.<ns>.svc…`, of headless services alone.
fn of_endpoint(
    service: &Service,
    hostname: &str,
    cluster: &str,
    kind: RecordType,
) -> Option<Vec<RData>> {
    if service.kind != ServiceKind::Headless {
        return None;
    }
    let addresses: Vec<IpAddr> = ready(service)
        .into_iter()
        .filter(|(e, ips)| e.cluster.as_str() == cluster && host(e, ips) == hostname)
        .flat_map(|(_, ips)| ips)
        .collect();
    (!addresses.is_empty()).then(|| of_type(&addresses, kind))
}

/// SRV records of these ports, without duplicates. `base` is the service's own name.
fn srv(service: &Service, base: &Name, ports: &BTreeSet<u16>) -> Vec<RData> {
    let record = |port, target| RData::SRV(SRV::new(0, 100, port, target));
    match service.kind {
        ServiceKind::ClusterSetIp => ports.iter().map(|p| record(*p, base.clone())).collect(),
        ServiceKind::Headless => {
            let distinct: BTreeSet<(Name, u16)> = ready(service)
                .into_iter()
                .take(MAX_ADDRESSES)
                .filter_map(|(e, ips)| {
                    let name = base.prepend_label(e.cluster.as_str()).ok()?;
                    Some((e, name.prepend_label(host(e, &ips).as_bytes()).ok()?))
                })
                .flat_map(|(e, target)| {
                    ports
                        .iter()
                        .filter(|p| e.ports.contains(p))
                        .map(move |p| (target.clone(), *p))
                })
                .collect();
            distinct.into_iter().map(|(t, p)| record(p, t)).collect()
        }
    }
}

fn of_type(addresses: &[IpAddr], kind: RecordType) -> Vec<RData> {
    addresses
        .iter()
        .filter_map(|ip| match (ip, kind) {
            (IpAddr::V4(ip), RecordType::A | RecordType::ANY) => Some(RData::A(A(*ip))),
            (IpAddr::V6(ip), RecordType::AAAA | RecordType::ANY) => Some(RData::AAAA(AAAA(*ip))),
            _ => None,
        })
        .collect()
}

/// The endpoint's hostname, or its first address with dashes, which may be the name of several: the specification's suite expects what CoreDNS
/// does.
fn host<'a>(endpoint: &'a Endpoint, addresses: &[IpAddr]) -> Cow<'a, str> {
    match (&endpoint.hostname, addresses) {
        (Some(hostname), _) => hostname.into(),
        (None, [first, ..]) => first.to_string().replace(['.', ':'], "-").into(),
        // Nobody without an address is named.
        (None, []) => endpoint.id.as_str().into(),
    }
}

/// The endpoints worth naming: those that pass their check, else those of which nothing is known (unknown is not
/// dead), and of either only those with an address that leads to them here: their own, or what stands for it.
fn ready(service: &Service) -> Vec<(&Endpoint, Vec<IpAddr>)> {
    let with = |health: Health| -> Vec<_> {
        let of = service.endpoints.iter().filter(|e| e.health == health);
        of.map(|e| (e, e.ips()))
            .filter(|(_, ips)| !ips.is_empty())
            .collect()
    };
    let healthy = with(Health::Healthy);
    if healthy.is_empty() {
        with(Health::Unknown)
    } else {
        healthy
    }
}
