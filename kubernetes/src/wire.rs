//! Objects as the API server writes them, with those fields alone that are read, and what becomes of them. Pure.
//!
//! Whatever is missing or of another form than expected is taken as absent where Kubernetes has a default for it; an object
//! that cannot be read whole is left out by its watcher, which says so.

use std::{collections::BTreeMap, net::IpAddr};

use kube::api::ObjectMeta;
use serde::Deserialize;
use serde_json::Value;
use tradewind_api::mcs::{IpFamily, Protocol, SpecPort};

use crate::objects::{
    Condition, Export, Key, Namespace, Object, Pod, Rule, Service, Slice, SliceEndpoint, SlicePort,
    Type,
};

/// The label by which a slice names its Service.
pub(crate) const SERVICE_LABEL: &str = "kubernetes.io/service-name";

/// A kind whose objects are read from the wire.
pub(crate) trait Wire {
    /// What is kept; none where nothing is to be.
    fn object(self) -> Option<Object>;
}

/// Declares a kind for `kube`.
macro_rules! kind {
    ($name:ident, $group:literal, $version:literal, $kind:literal, $plural:literal, $scope:ty) => {
        impl kube::Resource for $name {
            type DynamicType = ();
            type Scope = $scope;
            fn kind((): &()) -> std::borrow::Cow<'_, str> {
                $kind.into()
            }
            fn group((): &()) -> std::borrow::Cow<'_, str> {
                $group.into()
            }
            fn version((): &()) -> std::borrow::Cow<'_, str> {
                $version.into()
            }
            fn plural((): &()) -> std::borrow::Cow<'_, str> {
                $plural.into()
            }
            fn meta(&self) -> &ObjectMeta {
                &self.metadata
            }
            fn meta_mut(&mut self) -> &mut ObjectMeta {
                &mut self.metadata
            }
        }
    };
}

/// What names an object.
pub(crate) fn key(meta: &ObjectMeta) -> Option<Key> {
    let namespace = meta.namespace.clone().unwrap_or_default();
    Some(Key::new(namespace, meta.name.clone()?))
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct WireService {
    metadata: ObjectMeta,
    #[serde(default)]
    spec: ServiceSpec,
}
kind!(
    WireService,
    "",
    "v1",
    "Service",
    "services",
    kube::core::NamespaceResourceScope
);

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ServiceSpec {
    r#type: Option<String>,
    #[serde(rename = "clusterIPs")]
    cluster_ips: Vec<String>,
    #[serde(rename = "clusterIP")]
    cluster_ip: Option<String>,
    ip_families: Vec<IpFamily>,
    ports: Vec<ServicePort>,
    session_affinity: Option<String>,
    session_affinity_config: Option<AffinityConfig>,
    internal_traffic_policy: Option<String>,
    traffic_distribution: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ServicePort {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    protocol: Protocol,
    #[serde(default)]
    app_protocol: Option<String>,
    port: u16,
}

#[derive(Clone, Debug, Deserialize)]
struct AffinityConfig {
    #[serde(rename = "clientIP", default)]
    client_ip: Option<ClientIp>,
}

#[derive(Clone, Debug, Deserialize)]
struct ClientIp {
    #[serde(rename = "timeoutSeconds", default)]
    timeout_seconds: Option<u32>,
}

/// What Kubernetes takes where a Service with `ClientIP` says no time: three hours.
const DEFAULT_AFFINITY_S: u32 = 10_800;

impl Wire for WireService {
    fn object(self) -> Option<Object> {
        let spec = self.spec;
        let headless = |ip: &str| ip == "None";
        let kind = if spec.r#type.as_deref() == Some("ExternalName") {
            Type::ExternalName
        } else if spec.cluster_ip.as_deref().is_some_and(headless) {
            Type::Headless
        } else {
            Type::ClusterIp
        };
        let affinity = (spec.session_affinity.as_deref() == Some("ClientIP")).then(|| {
            let config = spec.session_affinity_config.and_then(|c| c.client_ip);
            config
                .and_then(|c| c.timeout_seconds)
                .unwrap_or(DEFAULT_AFFINITY_S)
        });
        let ports = spec.ports.into_iter().map(|port| SpecPort {
            name: port.name.unwrap_or_default(),
            protocol: port.protocol,
            app_protocol: port.app_protocol,
            port: port.port,
        });
        Some(Object::Service(Service {
            kind,
            cluster_ips: spec
                .cluster_ips
                .iter()
                .filter_map(|ip| ip.parse().ok())
                .collect(),
            ip_families: spec.ip_families,
            ports: ports.collect(),
            client_ip_affinity_s: affinity,
            internal_traffic_policy: spec.internal_traffic_policy,
            traffic_distribution: spec.traffic_distribution,
        }))
    }
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct WireSlice {
    metadata: ObjectMeta,
    #[serde(rename = "addressType", default)]
    address_type: String,
    #[serde(default)]
    endpoints: Option<Vec<Endpoint>>,
    #[serde(default)]
    ports: Option<Vec<Port>>,
}
kind!(
    WireSlice,
    "discovery.k8s.io",
    "v1",
    "EndpointSlice",
    "endpointslices",
    kube::core::NamespaceResourceScope
);

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Endpoint {
    #[serde(default)]
    addresses: Vec<String>,
    #[serde(default)]
    conditions: Option<Conditions>,
    #[serde(default)]
    hostname: Option<String>,
    #[serde(default)]
    zone: Option<String>,
    #[serde(default)]
    target_ref: Option<Target>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
struct Conditions {
    #[serde(default)]
    ready: Option<bool>,
    #[serde(default)]
    serving: Option<bool>,
    #[serde(default)]
    terminating: Option<bool>,
}

#[derive(Clone, Debug, Deserialize)]
struct Target {
    #[serde(default)]
    kind: Option<String>,
    #[serde(default)]
    name: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
struct Port {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    protocol: Option<Protocol>,
    #[serde(default)]
    port: Option<u16>,
}

impl Endpoint {
    fn into_object(self) -> Option<SliceEndpoint> {
        // The addresses of one endpoint are interchangeable by definition; the first is enough.
        let ip: IpAddr = self.addresses.first()?.parse().ok()?;
        let conditions = self.conditions.unwrap_or_default();
        let ready = conditions.ready.unwrap_or(true);
        let pod = self.target_ref.filter(|t| t.kind.as_deref() == Some("Pod"));
        Some(SliceEndpoint {
            ip,
            ready,
            serving: conditions.serving.unwrap_or(ready),
            terminating: conditions.terminating.unwrap_or(false),
            hostname: self.hostname.filter(|h| !h.is_empty()),
            zone: self.zone.filter(|z| !z.is_empty()),
            pod: pod.and_then(|t| t.name),
        })
    }
}

impl Wire for WireSlice {
    fn object(self) -> Option<Object> {
        let namespace = self.metadata.namespace?;
        let service = self.metadata.labels?.remove(SERVICE_LABEL)?;
        if !matches!(self.address_type.as_str(), "IPv4" | "IPv6") {
            return None;
        }
        let ports = self.ports.into_iter().flatten().filter_map(|p| {
            let tcp = p.protocol.unwrap_or_default() == Protocol::Tcp;
            let port = p.port.filter(|_| tcp)?;
            Some(SlicePort {
                name: p.name.unwrap_or_default(),
                port,
            })
        });
        let endpoints = self.endpoints.into_iter().flatten();
        Some(Object::Slice(Slice {
            service: Key::new(namespace, service),
            ports: ports.collect(),
            endpoints: endpoints.filter_map(Endpoint::into_object).collect(),
        }))
    }
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct WirePod {
    metadata: ObjectMeta,
    #[serde(default)]
    spec: PodSpec,
    #[serde(default)]
    status: PodStatus,
}
kind!(
    WirePod,
    "",
    "v1",
    "Pod",
    "pods",
    kube::core::NamespaceResourceScope
);

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PodSpec {
    #[serde(default)]
    service_account_name: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct PodStatus {
    #[serde(rename = "podIPs", default)]
    pod_ips: Vec<PodIp>,
}

#[derive(Clone, Debug, Deserialize)]
struct PodIp {
    #[serde(default)]
    ip: String,
}

impl Wire for WirePod {
    fn object(self) -> Option<Object> {
        let ips = self.status.pod_ips.iter().filter_map(|p| p.ip.parse().ok());
        let account = self.spec.service_account_name.filter(|a| !a.is_empty());
        Some(Object::Pod(Pod {
            ips: ips.collect(),
            account: account.unwrap_or_else(|| "default".to_owned()),
            labels: self.metadata.labels.unwrap_or_default(),
        }))
    }
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct WireNamespace {
    metadata: ObjectMeta,
}
kind!(
    WireNamespace,
    "",
    "v1",
    "Namespace",
    "namespaces",
    kube::core::ClusterResourceScope
);

impl Wire for WireNamespace {
    fn object(self) -> Option<Object> {
        Some(Object::Namespace(Namespace {
            terminating: self.metadata.deletion_timestamp.is_some(),
            labels: self.metadata.labels.unwrap_or_default(),
        }))
    }
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct WireExport {
    metadata: ObjectMeta,
    #[serde(default)]
    spec: Option<ExportSpec>,
    #[serde(default)]
    status: Option<ExportStatus>,
}
kind!(
    WireExport,
    "multicluster.x-k8s.io",
    "v1beta1",
    "ServiceExport",
    "serviceexports",
    kube::core::NamespaceResourceScope
);

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ExportSpec {
    exported_labels: BTreeMap<String, String>,
    exported_annotations: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct ExportStatus {
    conditions: Vec<Condition>,
}

impl Wire for WireExport {
    fn object(self) -> Option<Object> {
        // On its way out it exports no more, whatever holds it.
        if self.metadata.deletion_timestamp.is_some() {
            return None;
        }
        let created = self
            .metadata
            .creation_timestamp
            .map_or(0, |t| t.0.as_millisecond());
        let spec = self.spec.unwrap_or_default();
        Some(Object::Export(Export {
            uid: self.metadata.uid.unwrap_or_default(),
            created_at_ms: u64::try_from(created).unwrap_or(0),
            generation: self.metadata.generation.unwrap_or(0),
            labels: spec.exported_labels,
            annotations: spec.exported_annotations,
            conditions: self.status.unwrap_or_default().conditions,
        }))
    }
}

/// A rule's object without what the API server adds, so that a change of its status is no change of it.
pub(crate) fn rule(object: Value) -> Rule {
    let mut object = owned(object);
    let status = object.as_object_mut().and_then(|f| f.remove("status"));
    let parents = match status.and_then(|mut s| s.get_mut("parents").map(Value::take)) {
        Some(Value::Array(parents)) => parents,
        _ => Vec::new(),
    };
    if let Some(meta) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        meta.remove("uid");
    }
    Rule { object, parents }
}

/// An object without what changes with every write.
pub(crate) fn owned(mut object: Value) -> Value {
    if let Some(meta) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        for added in ["managedFields", "resourceVersion", "selfLink"] {
            meta.remove(added);
        }
        if let Some(notes) = meta.get_mut("annotations").and_then(Value::as_object_mut) {
            // The same object once more, and as much of it again.
            notes.remove("kubectl.kubernetes.io/last-applied-configuration");
        }
    }
    object
}

#[cfg(test)]
mod tests;
