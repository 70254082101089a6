//! Between the wire's types and the domain's. Bytes from a peer are checked here and nowhere later.

use std::{collections::BTreeSet, net::IpAddr};

use crate::{
    id::{
        ClusterName, Domain, EndpointId, InvalidName, Network, Region, ServiceName, SpiffeId,
        TrustDomain, Zone,
    },
    model::{
        AppProtocol, Cluster, ClusterState, Endpoint, Health, Service, ServiceKind, ServicePort,
    },
    proto::v1,
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
            ports: s.ports.iter().map(Into::into).collect(),
            exported_by: s.exported_by.iter().map(ToString::to_string).collect(),
            endpoints: s.endpoints.iter().map(Into::into).collect(),
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
            clusterset_ips: s
                .clusterset_ips
                .into_iter()
                .map(|ip| ip.parse::<IpAddr>().map_err(|_| ConvertError::Ip(ip)))
                .collect::<Result<_, _>>()?,
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
        })
    }
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
                hostname: None,
                ports: vec![80],
            }],
        }
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
