//! A pod as the API server sends it, read no further than the injection needs.
//!
//! A view: it owns nothing, and keeps what it does not know. Kubernetes' types are not used, since a field that they lack would be
//! lost, and one that has another shape would refuse the whole pod.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// Something in a pod has a shape that no API server lets through.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("tradewind: {path} is not {expected}; this is no pod of an API server")]
pub struct Malformed {
    /// Where.
    pub path: String,
    /// What should stand there.
    pub expected: &'static str,
}

fn malformed(path: &str, expected: &'static str) -> Malformed {
    Malformed {
        path: path.to_owned(),
        expected,
    }
}

/// See the module.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pod<'a> {
    annotations: Option<&'a Map<String, Value>>,
    labels: Option<&'a Map<String, Value>>,
    spec: &'a Map<String, Value>,
    init_containers: Option<&'a [Value]>,
    containers: Option<&'a [Value]>,
    volumes: Option<&'a [Value]>,
}

/// A container of a pod.
#[derive(Clone, Copy, Debug)]
pub(super) struct Container<'a>(&'a Value);

/// What asks a container's port from outside, by plaintext, and comes from the node.
const PROBES: [&str; 3] = ["livenessProbe", "readinessProbe", "startupProbe"];
const HOOKS: [&str; 2] = ["postStart", "preStop"];
const WAYS: [&str; 3] = ["httpGet", "tcpSocket", "grpc"];

impl<'a> Pod<'a> {
    pub(super) fn read(pod: &'a Value) -> Result<Self, Malformed> {
        let top = pod
            .as_object()
            .ok_or_else(|| malformed("the object", "a map"))?;
        let metadata =
            map(top, "metadata", "metadata")?.ok_or_else(|| malformed("metadata", "a map"))?;
        let spec = map(top, "spec", "spec")?.ok_or_else(|| malformed("spec", "a map"))?;
        Ok(Self {
            annotations: map(metadata, "annotations", "metadata.annotations")?,
            labels: map(metadata, "labels", "metadata.labels")?,
            spec,
            init_containers: list(spec, "initContainers", "spec.initContainers")?,
            containers: list(spec, "containers", "spec.containers")?,
            volumes: list(spec, "volumes", "spec.volumes")?,
        })
    }

    pub(super) fn annotation(&self, key: &str) -> Option<&'a str> {
        self.annotations?.get(key)?.as_str()
    }

    pub(super) fn label(&self, key: &str) -> Option<&'a str> {
        self.labels?.get(key)?.as_str()
    }

    /// Its labels, by their keys.
    pub(super) fn labels(&self) -> BTreeMap<&'a str, &'a str> {
        let all = self.labels.into_iter().flatten();
        all.filter_map(|(key, value)| Some((key.as_str(), value.as_str()?)))
            .collect()
    }

    pub(super) fn annotation_keys(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        let keys = self.annotations.into_iter().flat_map(Map::keys);
        keys.map(String::as_str)
    }

    pub(super) const fn has_annotations(&self) -> bool {
        self.annotations.is_some()
    }

    pub(super) const fn has_labels(&self) -> bool {
        self.labels.is_some()
    }

    pub(super) const fn has_init_containers(&self) -> bool {
        self.init_containers.is_some()
    }

    pub(super) const fn has_volumes(&self) -> bool {
        self.volumes.is_some()
    }

    pub(super) fn host_network(&self) -> bool {
        self.spec.get("hostNetwork").and_then(Value::as_bool) == Some(true)
    }

    pub(super) fn is_windows(&self) -> bool {
        const WINDOWS: &str = "windows";
        let os = self.spec.get("os").and_then(|os| os.get("name"));
        let node = self
            .spec
            .get("nodeSelector")
            .and_then(|selector| selector.get("kubernetes.io/os"));
        [os, node]
            .into_iter()
            .flatten()
            .any(|name| name.as_str() == Some(WINDOWS))
    }

    /// The user that its containers run as unless they say otherwise.
    pub(super) fn user(&self) -> Option<u64> {
        user_of(self.spec.get("securityContext"))
    }

    /// Init containers, then the others.
    pub(super) fn all_containers(&self) -> impl Iterator<Item = Container<'a>> + use<'a> {
        let all = self.init_containers.into_iter().chain(self.containers);
        all.flatten().map(Container)
    }

    pub(super) fn volume_names(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        let volumes = self.volumes.into_iter().flatten();
        volumes.filter_map(|volume| volume.get("name")?.as_str())
    }

    /// TCP ports at which its containers say that they listen, sorted.
    pub(super) fn tcp_ports(&self) -> Vec<u16> {
        sorted(self.all_containers().flat_map(Container::tcp_ports))
    }

    /// Ports that the kubelet asks itself, sorted.
    pub(super) fn probed_ports(&self) -> Vec<u16> {
        sorted(self.all_containers().flat_map(Container::probed_ports))
    }
}

impl<'a> Container<'a> {
    pub(super) fn name(self) -> &'a str {
        self.0.get("name").and_then(Value::as_str).unwrap_or("")
    }

    pub(super) fn user(self) -> Option<u64> {
        user_of(self.0.get("securityContext"))
    }

    fn ports(self) -> impl Iterator<Item = &'a Value> {
        let ports = self.0.get("ports").and_then(Value::as_array);
        ports.into_iter().flatten()
    }

    fn tcp_ports(self) -> impl Iterator<Item = u16> {
        // No protocol means TCP.
        let tcp = |port: &&Value| {
            port.get("protocol").and_then(Value::as_str) != Some("UDP")
                && port.get("protocol").and_then(Value::as_str) != Some("SCTP")
        };
        self.ports()
            .filter(tcp)
            .filter_map(|port| number(port.get("containerPort")?))
    }

    fn probed_ports(self) -> impl Iterator<Item = u16> {
        let probes = PROBES.iter().filter_map(move |probe| self.0.get(*probe));
        let lifecycle = self.0.get("lifecycle");
        let hooks = HOOKS
            .iter()
            .filter_map(move |hook| lifecycle.and_then(|all| all.get(*hook)));
        let handlers = probes.chain(hooks);
        let asked = handlers.flat_map(|handler| WAYS.iter().filter_map(|way| handler.get(*way)));
        asked.filter_map(move |way| self.port_number(way.get("port")?))
    }

    /// A port by number, or by the name that one of this container's ports has.
    fn port_number(self, port: &Value) -> Option<u16> {
        number(port).or_else(|| {
            let name = port.as_str()?;
            let named = |p: &&Value| p.get("name").and_then(Value::as_str) == Some(name);
            number(self.ports().find(named)?.get("containerPort")?)
        })
    }
}

fn sorted(ports: impl Iterator<Item = u16>) -> Vec<u16> {
    let mut ports: Vec<u16> = ports.collect();
    ports.sort_unstable();
    ports.dedup();
    ports
}

fn number(port: &Value) -> Option<u16> {
    let number = u16::try_from(port.as_u64()?).ok()?;
    (number != 0).then_some(number)
}

fn user_of(context: Option<&Value>) -> Option<u64> {
    context?.get("runAsUser")?.as_u64()
}

// `null` is what an absent field may look like.
fn map<'a>(
    of: &'a Map<String, Value>,
    key: &str,
    path: &str,
) -> Result<Option<&'a Map<String, Value>>, Malformed> {
    match of.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Object(map)) => Ok(Some(map)),
        Some(_) => Err(malformed(path, "a map")),
    }
}

fn list<'a>(
    of: &'a Map<String, Value>,
    key: &str,
    path: &str,
) -> Result<Option<&'a [Value]>, Malformed> {
    match of.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Array(list)) => Ok(Some(list)),
        Some(_) => Err(malformed(path, "a list")),
    }
}
