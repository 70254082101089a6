//! What may be registered: the shape of names, addresses and registrations, and every reason for a refusal. Pure.
//!
//! Owns nothing. What passed here is never checked again.

use serde::{Deserialize, Serialize};
use tradewind_api::{
    convert,
    id::{ClusterName, EndpointId, Namespace, ServiceName, SpiffeId, Zone, is_label},
    model::{AppProtocol, Health},
    proto::v1,
    traffic::{Labels, MAX_LABELS, is_label as is_pair},
};

/// Bytes of a `host:port`: a DNS name, a colon and a port.
const MAX_ADDRESS_BYTES: usize = 260;

/// One endpoint as a proxy registers it, checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fronted {
    pub(super) service: ServiceName,
    pub(super) port: u16,
    pub(super) app_protocol: AppProtocol,
    pub(super) port_name: String,
    pub(super) address: String,
    pub(super) zone: Option<Zone>,
    pub(super) weight: u32,
    pub(super) health: Health,
    pub(super) hostname: Option<String>,
    #[serde(default)]
    pub(super) labels: Labels,
}

/// Why an event was refused. Nothing has changed then.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// A field cannot be read.
    #[error("{field} {value:?} is not valid: expected {expected}")]
    Field {
        /// Which.
        field: &'static str,
        /// What stood there, cut.
        value: String,
        /// What was expected.
        expected: &'static str,
    },
    /// One proxy may front services of its own namespace alone.
    #[error("{identity} may not serve {service}: its namespace is another")]
    Namespace {
        /// The proxy's identity.
        identity: SpiffeId,
        /// The service.
        service: ServiceName,
    },
    /// A connected proxy holds the same endpoint.
    #[error("{service} port {port} at {address} is served by the connected proxy {holder}")]
    Held {
        /// The service.
        service: ServiceName,
        /// Its port.
        port: u16,
        /// The address.
        address: String,
        /// Who holds it.
        holder: String,
    },
    /// The same endpoint stands twice in one message.
    #[error("{service} port {port} at {address} stands twice in one registration")]
    Twice {
        /// The service.
        service: ServiceName,
        /// Its port.
        port: u16,
        /// The address.
        address: String,
    },
    /// A bound was met.
    #[error("{what} would pass the limit of {limit}")]
    TooMuch {
        /// What is bounded.
        what: &'static str,
        /// The bound.
        limit: usize,
    },
}

fn bad(field: &'static str, value: &str, expected: &'static str) -> Refused {
    Refused::Field {
        field,
        value: value.chars().take(80).collect(),
        expected,
    }
}

/// Checks a `host:port`.
pub fn check_address(field: &'static str, address: &str) -> Result<(), Refused> {
    let good = address.len() <= MAX_ADDRESS_BYTES
        && address.rsplit_once(':').is_some_and(|(host, port)| {
            !host.is_empty()
                && !host.contains(|c: char| c.is_whitespace() || c.is_control() || c == '/')
                && port.parse::<u16>().is_ok_and(|p| p != 0)
        });
    if good {
        Ok(())
    } else {
        Err(bad(field, address, "host:port"))
    }
}

/// Checks the name of a proxy or gateway.
pub fn check_name(field: &'static str, name: &str) -> Result<(), Refused> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if !name.is_empty() && name.len() <= 253 && name.chars().all(plain) {
        Ok(())
    } else {
        Err(bad(
            field,
            name,
            "1 to 253 letters, digits, '-', '_' or '.'",
        ))
    }
}

/// Checks a workload's labels.
pub fn check_labels(labels: &Labels) -> Result<(), Refused> {
    let wrong = labels.iter().find(|(k, v)| !is_pair(k, v));
    if let Some((key, value)) = wrong {
        return Err(bad(
            "label",
            &format!("{key}={value}"),
            "KEY=VALUE as Kubernetes has it",
        ));
    }
    if labels.len() > MAX_LABELS {
        return Err(bad("labels", &labels.len().to_string(), "at most 64"));
    }
    Ok(())
}

impl Fronted {
    /// Checks one registration of a proxy with `identity`, whose workload has these labels.
    pub fn check(
        r: v1::Registration,
        identity: &SpiffeId,
        labels: &Labels,
    ) -> Result<Self, Refused> {
        let service: ServiceName = r
            .service
            .parse()
            .map_err(|_| bad("service", &r.service, "namespace/name"))?;
        let port = u16::try_from(r.port)
            .ok()
            .filter(|p| *p != 0)
            .ok_or_else(|| bad("port", &r.port.to_string(), "1 to 65535"))?;
        if identity.account().map(|(namespace, _)| namespace) != Some(service.namespace.as_str()) {
            return Err(Refused::Namespace {
                identity: identity.clone(),
                service,
            });
        }
        check_address("hbone address", &r.hbone_address)?;
        if !r.port_name.is_empty() && Namespace::new(&r.port_name).is_err() {
            return Err(bad("port name", &r.port_name, "a label or nothing"));
        }
        if !r.hostname.is_empty() && !is_label(&r.hostname) {
            return Err(bad("hostname", &r.hostname, "a label or nothing"));
        }
        let zone = (!r.zone.is_empty())
            .then(|| Zone::new(&r.zone).map_err(|_| bad("zone", &r.zone, "a label or nothing")))
            .transpose()?;
        Ok(Self {
            service,
            port,
            app_protocol: convert::app_protocol(r.app_protocol),
            port_name: r.port_name,
            address: r.hbone_address,
            zone,
            weight: if r.weight == 0 {
                100
            } else {
                r.weight.min(65_535)
            },
            health: convert::health(r.health),
            hostname: (!r.hostname.is_empty()).then_some(r.hostname),
            labels: labels.clone(),
        })
    }

    /// As its proxy told it.
    pub(crate) fn wire(&self) -> v1::Registration {
        v1::Registration {
            service: self.service.to_string(),
            port: self.port.into(),
            app_protocol: v1::AppProtocol::from(self.app_protocol).into(),
            port_name: self.port_name.clone(),
            hbone_address: self.address.clone(),
            zone: self
                .zone
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default(),
            weight: self.weight,
            health: v1::Health::from(self.health).into(),
            hostname: self.hostname.clone().unwrap_or_default(),
        }
    }

    /// Its workload's labels.
    pub(crate) const fn labels(&self) -> &Labels {
        &self.labels
    }

    pub(super) fn id(&self, cluster: &ClusterName) -> EndpointId {
        EndpointId::derive(cluster, &self.service, self.port, &self.address)
    }
}
