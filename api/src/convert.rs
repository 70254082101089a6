//! Between the wire's types and the domain's. Bytes from a peer are checked here and nowhere later.

use std::{collections::BTreeSet, net::IpAddr};

use zeroize::Zeroize as _;

use crate::{
    id::{
        ClusterName, Domain, EndpointId, InvalidName, Network, Region, ServiceName, SpiffeId,
        TrustDomain, Zone, is_label,
    },
    limit::LocalLimits,
    model::{
        AppProtocol, Cluster, ClusterState, Endpoint, Health, Service, ServiceKind, ServicePort,
    },
    proto::v1,
    route::Routes,
    seal::{OpeningKey, SealedPort},
    snapshot::Trust,
};

/// Why a resource was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConvertError {
    /// A name in it is not one.
    #[error(transparent)]
    Name(#[from] InvalidName),
    /// A number is out of its range.
    #[error("{field} {value} is out of range")]
    Range {
        /// Which field.
        field: &'static str,
        /// What it held.
        value: u64,
    },
    /// A run of bytes has another length.
    #[error("{field} has {found} bytes, expected {expected}")]
    Length {
        /// Which field.
        field: &'static str,
        /// How many there are.
        found: usize,
        /// How many there should be.
        expected: usize,
    },
    /// Rules hold something that this version does not know.
    #[error("its rules are not understood: {0}")]
    Rules(String),
    /// A label is none.
    #[error("{0:?} is not a DNS label")]
    Label(String),
    /// An IP address does not parse.
    #[error("{0:?} is not an IP address")]
    Ip(String),
    /// An enum's value is unknown or unset.
    #[error("{field} has the unknown value {value}")]
    Enum {
        /// Which field.
        field: &'static str,
        /// The number.
        value: i32,
    },
}

fn port(field: &'static str, value: u32) -> Result<u16, ConvertError> {
    u16::try_from(value)
        .ok()
        .filter(|p| *p != 0)
        .ok_or(ConvertError::Range {
            field,
            value: value.into(),
        })
}

fn some(s: &str) -> Option<String> {
    (!s.is_empty()).then(|| s.to_owned())
}

/// A service's routes for the wire. The same routes are the same bytes.
pub fn routes(service: &ServiceName, routes: &Routes) -> v1::Routes {
    v1::Routes {
        namespace: service.namespace.to_string(),
        name: service.name().to_owned(),
        // Maps with text for keys, and nothing else that JSON cannot say.
        rules: serde_json::to_vec(routes).unwrap_or_default(),
    }
}

/// A service's routes off the wire.
pub fn read_routes(wire: &v1::Routes) -> Result<(ServiceName, Routes), ConvertError> {
    let service = ServiceName::new(&wire.namespace, &wire.name)?;
    match serde_json::from_slice(&wire.rules) {
        Ok(routes) => Ok((service, routes)),
        Err(error) => Err(ConvertError::Rules(error.to_string())),
    }
}

/// An object's limits for the wire. The same limits are the same bytes.
pub fn limits(object: &ServiceName, limits: &LocalLimits) -> v1::LocalLimits {
    v1::LocalLimits {
        namespace: object.namespace.to_string(),
        name: object.name().to_owned(),
        // Maps with text for keys, and nothing else that JSON cannot say.
        limits: serde_json::to_vec(limits).unwrap_or_default(),
    }
}

/// An object's limits off the wire.
pub fn read_limits(wire: &v1::LocalLimits) -> Result<(ServiceName, LocalLimits), ConvertError> {
    let object = ServiceName::new(&wire.namespace, &wire.name)?;
    match serde_json::from_slice(&wire.limits) {
        Ok(limits) => Ok((object, limits)),
        Err(error) => Err(ConvertError::Rules(error.to_string())),
    }
}

impl From<Health> for v1::Health {
    fn from(h: Health) -> Self {
        match h {
            Health::Healthy => Self::Healthy,
            Health::Unhealthy => Self::Unhealthy,
            Health::Unknown => Self::Unknown,
            Health::Draining => Self::Draining,
        }
    }
}

/// The domain's health for a wire value; an unset or newer one is unknown, which is not dead.
pub fn health(value: i32) -> Health {
    match v1::Health::try_from(value) {
        Ok(v1::Health::Healthy) => Health::Healthy,
        Ok(v1::Health::Unhealthy) => Health::Unhealthy,
        Ok(v1::Health::Draining) => Health::Draining,
        Ok(v1::Health::Unknown | v1::Health::Unspecified) | Err(_) => Health::Unknown,
    }
}

impl From<AppProtocol> for v1::AppProtocol {
    fn from(p: AppProtocol) -> Self {
        match p {
            AppProtocol::Detect => Self::Unspecified,
            AppProtocol::Http1 => Self::Http1,
            AppProtocol::Http2 => Self::Http2,
            AppProtocol::Tcp => Self::Tcp,
        }
    }
}

/// The domain's protocol for a wire value; an unset or newer one is found out from the bytes.
pub fn app_protocol(value: i32) -> AppProtocol {
    match v1::AppProtocol::try_from(value) {
        Ok(v1::AppProtocol::Http1) => AppProtocol::Http1,
        Ok(v1::AppProtocol::Http2) => AppProtocol::Http2,
        Ok(v1::AppProtocol::Tcp) => AppProtocol::Tcp,
        Ok(v1::AppProtocol::Unspecified) | Err(_) => AppProtocol::Detect,
    }
}

impl From<&ServicePort> for v1::ServicePort {
    fn from(p: &ServicePort) -> Self {
        Self {
            name: p.name.clone(),
            port: p.port.into(),
            app_protocol: v1::AppProtocol::from(p.app_protocol).into(),
        }
    }
}

impl TryFrom<v1::ServicePort> for ServicePort {
    type Error = ConvertError;
    fn try_from(p: v1::ServicePort) -> Result<Self, ConvertError> {
        Ok(Self {
            port: port("port", p.port)?,
            app_protocol: app_protocol(p.app_protocol),
            name: p.name,
        })
    }
}

impl From<&Endpoint> for v1::Endpoint {
    fn from(e: &Endpoint) -> Self {
        Self {
            id: e.id.to_string(),
            cluster: e.cluster.to_string(),
            region: e.region.to_string(),
            zone: e.zone.as_ref().map(ToString::to_string).unwrap_or_default(),
            weight: e.weight,
            health: v1::Health::from(e.health).into(),
            identity: e.identity.to_string(),
            address: e.address.clone().unwrap_or_default(),
            hostname: e.hostname.clone().unwrap_or_default(),
            ports: e.ports.iter().map(|p| u32::from(*p)).collect(),
            labels: e.labels.clone(),
            targets: e
                .targets
                .iter()
                .map(|(from, to)| (u32::from(*from), u32::from(*to)))
                .collect(),
            mesh_ips: e.mesh_ips.iter().map(ToString::to_string).collect(),
        }
    }
}

impl TryFrom<v1::Endpoint> for Endpoint {
    type Error = ConvertError;
    fn try_from(e: v1::Endpoint) -> Result<Self, ConvertError> {
        Ok(Self {
            id: EndpointId::new(&e.id)?,
            cluster: ClusterName::new(&e.cluster)?,
            region: Region::new(&e.region)?,
            zone: some(&e.zone).map(|z| Zone::new(&z)).transpose()?,
            weight: e.weight.clamp(1, 65_535),
            health: health(e.health),
            identity: e.identity.parse::<SpiffeId>()?,
            address: some(&e.address),
            hostname: some(&e.hostname),
            ports: e
                .ports
                .into_iter()
                .map(|p| port("endpoint port", p))
                .collect::<Result<_, _>>()?,
            labels: e.labels,
            targets: e
                .targets
                .into_iter()
                .map(|(from, to)| Ok((port("endpoint port", from)?, port("application port", to)?)))
                .collect::<Result<_, ConvertError>>()?,
            mesh_ips: ips(e.mesh_ips)?,
        })
    }
}

impl From<&Service> for v1::Service {
    fn from(s: &Service) -> Self {
        Self {
            namespace: s.name.namespace.to_string(),
            name: s.name.name().to_owned(),
            kind: match s.kind {
                ServiceKind::ClusterSetIp => v1::ServiceKind::ClusterSetIp,
                ServiceKind::Headless => v1::ServiceKind::Headless,
            }
            .into(),
            clusterset_ips: s.clusterset_ips.iter().map(ToString::to_string).collect(),
            cluster_ips: s.cluster_ips.iter().map(ToString::to_string).collect(),
            ports: s.ports.iter().map(Into::into).collect(),
            exported_by: s.exported_by.iter().map(ToString::to_string).collect(),
            endpoints: s.endpoints.iter().map(Into::into).collect(),
            seals: s.seals.iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<v1::Service> for Service {
    type Error = ConvertError;
    fn try_from(s: v1::Service) -> Result<Self, ConvertError> {
        Ok(Self {
            name: ServiceName::new(&s.namespace, &s.name)?,
            kind: match v1::ServiceKind::try_from(s.kind) {
                Ok(v1::ServiceKind::Headless) => ServiceKind::Headless,
                Ok(v1::ServiceKind::ClusterSetIp) => ServiceKind::ClusterSetIp,
                Ok(v1::ServiceKind::Unspecified) | Err(_) => {
                    return Err(ConvertError::Enum {
                        field: "service kind",
                        value: s.kind,
                    });
                }
            },
            clusterset_ips: ips(s.clusterset_ips)?,
            cluster_ips: ips(s.cluster_ips)?,
            ports: s
                .ports
                .into_iter()
                .map(TryInto::try_into)
                .collect::<Result<_, _>>()?,
            exported_by: s
                .exported_by
                .iter()
                .map(|c| ClusterName::new(c))
                .collect::<Result<BTreeSet<_>, _>>()?,
            endpoints: s
                .endpoints
                .into_iter()
                .map(TryInto::try_into)
                .collect::<Result<_, _>>()?,
            seals: s
                .seals
                .into_iter()
                .map(TryInto::try_into)
                .collect::<Result<_, _>>()?,
        })
    }
}

fn ips(texts: Vec<String>) -> Result<Vec<IpAddr>, ConvertError> {
    let parsed = texts
        .into_iter()
        .map(|ip| ip.parse().map_err(|_| ConvertError::Ip(ip)));
    parsed.collect()
}

impl From<&SealedPort> for v1::SealedPort {
    fn from(s: &SealedPort) -> Self {
        Self {
            cluster: s.cluster.to_string(),
            port: s.port.into(),
            key_id: s.key_id,
            expires_unix_s: s.expires_unix_s,
            label: s.label.clone(),
        }
    }
}

impl TryFrom<v1::SealedPort> for SealedPort {
    type Error = ConvertError;
    fn try_from(s: v1::SealedPort) -> Result<Self, ConvertError> {
        if !is_label(&s.label) {
            return Err(ConvertError::Label(s.label));
        }
        Ok(Self {
            cluster: ClusterName::new(&s.cluster)?,
            port: port("sealed port", s.port)?,
            key_id: s.key_id,
            expires_unix_s: s.expires_unix_s,
            label: s.label,
        })
    }
}

/// What opens one caller's names, as it is sent to gateways.
pub fn openings(caller: &ClusterName, keys: &[OpeningKey]) -> v1::Openings {
    let key = |k: &OpeningKey| v1::OpeningKey {
        id: k.id,
        secret: k.secret.to_vec(),
    };
    v1::Openings {
        caller: caller.to_string(),
        keys: keys.iter().map(key).collect(),
    }
}

/// The other way round.
pub fn read_openings(o: v1::Openings) -> Result<(ClusterName, Vec<OpeningKey>), ConvertError> {
    let mut keys = Vec::with_capacity(o.keys.len());
    for mut k in o.keys {
        let secret = k.secret.as_slice().try_into();
        let found = k.secret.len();
        k.secret.zeroize();
        keys.push(OpeningKey {
            id: k.id,
            secret: secret.map_err(|_| ConvertError::Length {
                field: "an opening key",
                found,
                expected: 32,
            })?,
        });
    }
    Ok((ClusterName::new(&o.caller)?, keys))
}

impl From<ClusterState> for v1::ClusterState {
    fn from(s: ClusterState) -> Self {
        match s {
            ClusterState::Active => Self::Active,
            ClusterState::Draining => Self::Draining,
            ClusterState::Left => Self::Left,
        }
    }
}

impl From<&Cluster> for v1::Cluster {
    fn from(c: &Cluster) -> Self {
        Self {
            name: c.name.to_string(),
            region: c.region.to_string(),
            network: c.network.to_string(),
            state: v1::ClusterState::from(c.state).into(),
            gateways: c.gateways.clone(),
            lease_expired: c.lease_expired,
            local: c.local,
            sealed_only: c.sealed_only,
            round_trip_us: c.round_trip_us,
            controllers: c.controllers.clone().into_iter().collect(),
        }
    }
}

impl TryFrom<v1::Cluster> for Cluster {
    type Error = ConvertError;
    fn try_from(c: v1::Cluster) -> Result<Self, ConvertError> {
        Ok(Self {
            name: ClusterName::new(&c.name)?,
            region: Region::new(&c.region)?,
            network: Network::new(&c.network)?,
            state: match v1::ClusterState::try_from(c.state) {
                Ok(v1::ClusterState::Active) => ClusterState::Active,
                Ok(v1::ClusterState::Draining) => ClusterState::Draining,
                Ok(v1::ClusterState::Left) => ClusterState::Left,
                Ok(v1::ClusterState::Unspecified) | Err(_) => {
                    return Err(ConvertError::Enum {
                        field: "cluster state",
                        value: c.state,
                    });
                }
            },
            gateways: c.gateways,
            lease_expired: c.lease_expired,
            local: c.local,
            sealed_only: c.sealed_only,
            round_trip_us: c.round_trip_us,
            controllers: c.controllers.into_iter().collect(),
        })
    }
}

impl From<&Trust> for v1::Trust {
    fn from(t: &Trust) -> Self {
        Self {
            domain: t.domain.to_string(),
            roots_der: t.roots.iter().cloned().collect(),
            authorities: t
                .authorities
                .iter()
                .map(|(td, certs)| {
                    let certificates_der = certs.iter().cloned().collect();
                    (
                        td.to_string(),
                        v1::TrustDomainAuthorities { certificates_der },
                    )
                })
                .collect(),
        }
    }
}

impl TryFrom<v1::Trust> for Trust {
    type Error = ConvertError;
    fn try_from(t: v1::Trust) -> Result<Self, ConvertError> {
        Ok(Self {
            domain: Domain::new(&t.domain)?,
            roots: t.roots_der.into_iter().collect(),
            authorities: t
                .authorities
                .into_iter()
                .map(|(td, a)| {
                    Ok((
                        TrustDomain::new(&td)?,
                        a.certificates_der.into_iter().collect(),
                    ))
                })
                .collect::<Result<_, InvalidName>>()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service() -> Service {
        Service {
            name: "shop/payments".parse().unwrap(),
            kind: ServiceKind::ClusterSetIp,
            clusterset_ips: vec!["240.1.0.1".parse().unwrap()],
            cluster_ips: vec!["10.96.0.1".parse().unwrap()],
            ports: vec![ServicePort {
                name: "http".into(),
                port: 80,
                app_protocol: AppProtocol::Http1,
            }],
            exported_by: [ClusterName::new("west").unwrap()].into(),
            endpoints: vec![Endpoint {
                id: EndpointId::new("abc").unwrap(),
                cluster: ClusterName::new("west").unwrap(),
                region: Region::new("us-west").unwrap(),
                zone: Some(Zone::new("a").unwrap()),
                weight: 100,
                health: Health::Draining,
                identity: "spiffe://west.mesh.internal/ns/shop/sa/payments"
                    .parse()
                    .unwrap(),
                address: Some("127.1.0.11:15008".into()),
                mesh_ips: vec!["241.0.0.1".parse().unwrap()],
                hostname: None,
                labels: [("version".to_owned(), "v2".to_owned())].into(),
                ports: vec![80],
                targets: Default::default(),
            }],
            seals: vec![SealedPort {
                cluster: ClusterName::new("east").unwrap(),
                port: 80,
                key_id: 0xffff_fff0,
                expires_unix_s: 1_800_000_000,
                label: "a".repeat(63),
            }],
        }
    }

    #[test]
    fn openings_survive_the_wire_and_no_snapshot_shows_them() {
        let west = ClusterName::new("west").unwrap();
        let keys = vec![OpeningKey {
            id: 7,
            secret: [0x5a; 32],
        }];
        let mut wire = openings(&west, &keys);
        let snapshot = crate::snapshot::Snapshot {
            openings: [(west.clone(), keys.clone().into())].into(),
            ..Default::default()
        };
        assert_eq!(read_openings(wire.clone()).unwrap(), (west, keys));
        let shown = format!("{snapshot:?}{}", serde_json::to_string(&snapshot).unwrap());
        assert!(
            !shown.contains("90, 90") && !shown.contains("5a5a"),
            "{shown}"
        );
        wire.keys[0].secret.pop();
        let error = read_openings(wire).unwrap_err().to_string();
        assert_eq!(error, "an opening key has 31 bytes, expected 32");
    }

    #[test]
    fn routes_survive_the_wire_and_what_is_not_understood_is_refused() {
        use crate::route::{Action, Match, Origin, Otherwise, Rule, Table, To};
        let service: ServiceName = "shop/cart".parse().unwrap();
        let rule = Rule {
            origin: Origin {
                kind: crate::route::Kind::HttpRoute,
                object: service.clone(),
                rule: "rules[0]".into(),
                cluster: None,
            },
            when: Match {
                port: Some(80),
                ..Match::default()
            },
            then: std::sync::Arc::new(Action::new(To::Backends(Vec::new()))),
        };
        let table = Table {
            rules: vec![rule],
            otherwise: Otherwise::NotFound,
        };
        let whole = Routes {
            of_all: Some(table.into()),
            ..Routes::default()
        };
        let wire = routes(&service, &whole);
        assert_eq!(read_routes(&wire).unwrap(), (service, whole));
        let text = String::from_utf8(wire.rules.clone()).unwrap();
        let newer = v1::Routes {
            rules: text
                .replace("\"port\":80", "\"port\":80,\"weather\":1")
                .into(),
            ..wire
        };
        let error = read_routes(&newer).unwrap_err().to_string();
        assert!(error.contains("weather"), "{error}");
    }

    #[test]
    fn a_service_survives_the_wire() {
        let s = service();
        assert_eq!(Service::try_from(v1::Service::from(&s)).unwrap(), s);
    }

    #[test]
    fn bad_resources_are_refused_by_name() {
        let mut wire = v1::Service::from(&service());
        wire.ports[0].port = 70_000;
        let error = Service::try_from(wire).unwrap_err().to_string();
        assert_eq!(error, "port 70000 is out of range");
        let mut wire = v1::Service::from(&service());
        wire.endpoints[0].identity = "spiffe://x".into();
        assert!(
            Service::try_from(wire)
                .unwrap_err()
                .to_string()
                .contains("SPIFFE id")
        );
    }

    #[test]
    fn trust_survives_wire_and_disk() {
        let t = Trust {
            domain: Domain::default(),
            roots: [vec![1, 2, 3]].into(),
            authorities: [(
                TrustDomain::new("west.mesh.internal").unwrap(),
                [vec![4, 5]].into(),
            )]
            .into(),
        };
        assert_eq!(Trust::try_from(v1::Trust::from(&t)).unwrap(), t);
        let json = serde_json::to_string(&t).unwrap();
        assert_eq!(serde_json::from_str::<Trust>(&json).unwrap(), t);
    }
}
