//! The three Kubernetes kinds as they are written, field by field, and what becomes of each field. Pure.
//!
//! Every map keeps what it does not know in `rest`, so that nothing is dropped without a word.

use std::{collections::BTreeMap, net::IpAddr};

use serde::Deserialize;
use serde_json::Value;
use tradewind_api::{
    ServiceName, Zone,
    id::is_label,
    model::{Health, ServiceKind, ServicePort},
};

use super::{
    model::SourceService,
    yaml::{IDENTITY_ANNOTATION, Slice, SliceEndpoint, app_protocol},
};

type Rest = BTreeMap<String, Value>;

/// Fields that were met and are not supported.
#[derive(Debug, Default)]
pub(super) struct Unsupported {
    /// One sentence each, with the field's path.
    pub(super) paths: Vec<String>,
}

impl Unsupported {
    fn field(&mut self, path: &str, value: &Value) {
        let shown: String = value.to_string().chars().take(60).collect();
        self.paths.push(format!(
            "{path} ({shown}) is not supported and has no effect"
        ));
    }

    /// Reports all of `rest` but the fields whose given value is what happens anyway.
    fn rest(&mut self, at: &str, rest: &Rest, harmless: &[(&str, Option<&str>)]) {
        for (key, value) in rest {
            let fine = harmless.iter().any(|(name, only)| {
                name == key && only.is_none_or(|only| value.as_str() == Some(only))
            });
            if !fine && !value.is_null() {
                let path = if at.is_empty() {
                    key.clone()
                } else {
                    format!("{at}.{key}")
                };
                self.field(&path, value);
            }
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Metadata {
    name: String,
    #[serde(default)]
    namespace: Option<String>,
    #[serde(default)]
    labels: Option<BTreeMap<String, String>>,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

impl Metadata {
    fn namespace(&self) -> &str {
        self.namespace.as_deref().unwrap_or("default")
    }

    fn service_name(&self) -> Result<ServiceName, String> {
        ServiceName::new(self.namespace(), &self.name).map_err(|e| format!("metadata: {e}"))
    }

    /// Annotations below our own prefix are ours to understand; all others are other people's.
    fn identity(&self, found: &mut Unsupported) -> Result<Option<String>, String> {
        let mut identity = None;
        for (key, value) in self.annotations.iter().flatten() {
            if key == IDENTITY_ANNOTATION {
                identity = Some(value.clone());
            } else if key.starts_with("tradewind.io/") {
                found.field(
                    &format!("metadata.annotations[{key}]"),
                    &Value::from(value.as_str()),
                );
            }
        }
        match identity {
            Some(id) if !id.starts_with("spiffe://") && !id.starts_with('/') => Err(format!(
                "metadata.annotations[{IDENTITY_ANNOTATION}] {id:?} is not valid: expected /ns/<namespace>/sa/<account> or a SPIFFE id"
            )),
            other => Ok(other),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ServiceDoc {
    metadata: Metadata,
    #[serde(default)]
    spec: ServiceSpec,
    #[serde(flatten)]
    rest: Rest,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ServiceSpec {
    #[serde(default, rename = "type")]
    kind: Option<String>,
    #[serde(default, rename = "clusterIP")]
    cluster_ip: Option<String>,
    #[serde(default, rename = "clusterIPs")]
    cluster_ips: Option<Vec<String>>,
    #[serde(default)]
    ports: Option<Vec<PortDoc>>,
    #[serde(flatten)]
    rest: Rest,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PortDoc {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    protocol: Option<String>,
    #[serde(default)]
    port: Option<u16>,
    #[serde(default)]
    app_protocol: Option<String>,
    #[serde(flatten)]
    rest: Rest,
}

/// What every kind carries at its top beside what it is for.
const TOP: &[(&str, Option<&str>)] = &[("apiVersion", None), ("kind", None), ("status", None)];

/// A Service; nothing for one that no mesh can serve, which is reported.
pub(super) fn service(
    doc: ServiceDoc,
    found: &mut Unsupported,
) -> Result<Option<SourceService>, String> {
    let name = doc.metadata.service_name()?;
    found.rest("", &doc.rest, TOP);
    // The selector is the cluster's own affair: endpoints come from slices.
    found.rest(
        "spec",
        &doc.spec.rest,
        &[
            ("ipFamilies", None),
            ("ipFamilyPolicy", None),
            ("selector", None),
            ("sessionAffinity", Some("None")),
            ("internalTrafficPolicy", Some("Cluster")),
        ],
    );
    if doc.spec.kind.as_deref() == Some("ExternalName") {
        found.field("spec.type", &Value::from("ExternalName"));
        return Ok(None);
    }
    let mut ports: Vec<ServicePort> = Vec::new();
    for (index, port) in doc.spec.ports.iter().flatten().enumerate() {
        let at = format!("spec.ports[{index}]");
        found.rest(&at, &port.rest, &[("targetPort", None), ("nodePort", None)]);
        let number = port
            .port
            .filter(|p| *p != 0)
            .ok_or_else(|| format!("{at}.port: a number from 1 to 65535 is expected"))?;
        if !is_tcp(&at, port, found) {
            continue;
        }
        let port_name = port.name.clone().unwrap_or_default();
        if !port_name.is_empty() && !is_label(&port_name) {
            return Err(format!(
                "{at}.name {port_name:?} is not valid: expected an RFC 1123 label"
            ));
        }
        if ports
            .iter()
            .any(|p| p.port == number || p.name == port_name)
        {
            return Err(format!("{at}: its number or name is taken by another port"));
        }
        let app_protocol = match (
            app_protocol(port.app_protocol.as_deref(), &port_name),
            &port.app_protocol,
        ) {
            (Some(known), _) => known,
            (None, Some(word)) => {
                found.field(&format!("{at}.appProtocol"), &Value::from(word.as_str()));
                tradewind_api::model::AppProtocol::Detect
            }
            (None, None) => tradewind_api::model::AppProtocol::Detect,
        };
        ports.push(ServicePort {
            name: port_name,
            port: number,
            app_protocol,
        });
    }
    ports.sort_by_key(|p| p.port);
    let kind = match doc.spec.cluster_ip.as_deref() {
        Some("None") => ServiceKind::Headless,
        _ => ServiceKind::ClusterSetIp,
    };
    let cluster_ips = cluster_ips(&doc.spec)?;
    let identity = doc.metadata.identity(found)?;
    Ok(Some(SourceService {
        name,
        kind,
        ports,
        identity,
        endpoints: Vec::new(),
        cluster_ips,
        spec: None,
        asked: None,
    }))
}

/// The addresses that the cluster gave it: the first stands in both fields.
fn cluster_ips(spec: &ServiceSpec) -> Result<Vec<IpAddr>, String> {
    let all = match &spec.cluster_ips {
        Some(all) => all.as_slice(),
        None => spec.cluster_ip.as_slice(),
    };
    let given = all.iter().filter(|ip| !ip.is_empty() && *ip != "None");
    given
        .map(|ip| {
            let wrong = |_| format!("spec.clusterIPs: {ip:?} is not an IP address");
            ip.parse().map_err(wrong)
        })
        .collect()
}

fn is_tcp(at: &str, port: &PortDoc, found: &mut Unsupported) -> bool {
    match port.protocol.as_deref() {
        None | Some("TCP") => true,
        Some(other) => {
            found.field(&format!("{at}.protocol"), &Value::from(other));
            false
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct SliceDoc {
    metadata: Metadata,
    address_type: String,
    #[serde(default)]
    endpoints: Option<Vec<EndpointDoc>>,
    #[serde(default)]
    ports: Option<Vec<PortDoc>>,
    #[serde(flatten)]
    rest: Rest,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct EndpointDoc {
    #[serde(default)]
    addresses: Vec<String>,
    #[serde(default)]
    conditions: Option<Conditions>,
    #[serde(default)]
    hostname: Option<String>,
    #[serde(default)]
    zone: Option<String>,
    #[serde(flatten)]
    rest: Rest,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Conditions {
    #[serde(default)]
    ready: Option<bool>,
    #[serde(default)]
    serving: Option<bool>,
    #[serde(default)]
    terminating: Option<bool>,
    #[serde(flatten)]
    rest: Rest,
}

impl Conditions {
    fn health(&self) -> Health {
        Health::of_conditions(self.ready, self.serving, self.terminating)
    }
}

/// An EndpointSlice; nothing for one of an address type that is not IP.
pub(super) fn slice(doc: SliceDoc, found: &mut Unsupported) -> Result<Option<Slice>, String> {
    const SERVICE_LABEL: &str = "kubernetes.io/service-name";
    let label = doc
        .metadata
        .labels
        .as_ref()
        .and_then(|l| l.get(SERVICE_LABEL));
    let name = label.ok_or_else(|| {
        format!("metadata.labels[{SERVICE_LABEL}] is missing: it names the Service")
    })?;
    let service =
        ServiceName::new(doc.metadata.namespace(), name).map_err(|e| format!("metadata: {e}"))?;
    found.rest("", &doc.rest, TOP);
    if !matches!(doc.address_type.as_str(), "IPv4" | "IPv6") {
        found.field("addressType", &Value::from(doc.address_type));
        return Ok(None);
    }
    let mut ports = BTreeMap::new();
    for (index, port) in doc.ports.iter().flatten().enumerate() {
        let at = format!("ports[{index}]");
        found.rest(&at, &port.rest, &[]);
        if is_tcp(&at, port, found) {
            let name = port.name.clone().unwrap_or_default();
            ports.insert(name, port.port.filter(|p| *p != 0));
        }
    }
    let mut endpoints = Vec::new();
    for (index, endpoint) in doc.endpoints.iter().flatten().enumerate() {
        let at = format!("endpoints[{index}]");
        found.rest(
            &at,
            &endpoint.rest,
            &[
                ("nodeName", None),
                ("targetRef", None),
                ("hints", None),
                ("deprecatedTopology", None),
            ],
        );
        let conditions = endpoint.conditions.as_ref();
        if let Some(conditions) = conditions {
            found.rest(&format!("{at}.conditions"), &conditions.rest, &[]);
        }
        // The addresses of one endpoint are interchangeable by definition; the first is enough.
        let first = endpoint
            .addresses
            .first()
            .ok_or_else(|| format!("{at}.addresses is empty"))?;
        let ip: IpAddr = first
            .parse()
            .map_err(|_| format!("{at}.addresses[0] {first:?} is not an IP address"))?;
        let zone = endpoint
            .zone
            .as_deref()
            .filter(|z| !z.is_empty())
            .map(Zone::new)
            .transpose();
        if let Some(hostname) = endpoint.hostname.as_deref().filter(|h| !is_label(h)) {
            return Err(format!(
                "{at}.hostname {hostname:?} is not valid: expected an RFC 1123 label"
            ));
        }
        endpoints.push(SliceEndpoint {
            ip,
            health: conditions.map_or(Health::Healthy, Conditions::health),
            hostname: endpoint.hostname.clone(),
            zone: zone.map_err(|e| format!("{at}.zone: {e}"))?,
        });
    }
    let identity = doc.metadata.identity(found)?;
    Ok(Some(Slice {
        service,
        ports,
        identity,
        endpoints,
    }))
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ExportDoc {
    metadata: Metadata,
    #[serde(default)]
    spec: Option<Rest>,
    #[serde(flatten)]
    rest: Rest,
}

/// A ServiceExport.
pub(super) fn export(
    doc: ExportDoc,
    found: &mut Unsupported,
) -> Result<Option<ServiceName>, String> {
    let name = doc.metadata.service_name()?;
    found.rest("", &doc.rest, TOP);
    found.rest("spec", &doc.spec.unwrap_or_default(), &[]);
    Ok(Some(name))
}
