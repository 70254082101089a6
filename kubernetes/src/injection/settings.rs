//! What all pods of a cluster are given: the injection's settings, as the chart writes them into a file of the controller.

use serde::{Deserialize, Serialize};

use super::quantity::Quantity;

/// Settings of the injection. Unknown fields are refused: a mistyped one must not be taken for its default.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Settings {
    /// The image of capture and proxy: one that has `tradewind` as its entry point.
    pub image: String,
    /// When nodes look for it anew: `Always`, `IfNotPresent` or `Never`.
    #[serde(default = "if_not_present")]
    pub image_pull_policy: String,
    /// `host:port` of the controller.
    #[serde(default = "controller")]
    pub controller: String,
    /// Whom the token is for: the controller of this cluster, and nobody else who would be shown it.
    pub audience: String,
    /// The ConfigMap with the root, under `root.pem`, in every namespace with pods that have a proxy.
    #[serde(default = "root_config_map")]
    pub root_config_map: String,
    /// What becomes of callers without a proxy, unless a pod says otherwise.
    #[serde(default)]
    pub inbound: Inbound,
    /// What sets the rules.
    #[serde(default)]
    pub capture_tool: Tool,
    /// What the proxy may use, unless a pod says otherwise.
    #[serde(default)]
    pub resources: Resources,
    /// What the proxy logs.
    #[serde(default = "log")]
    pub log: String,
    /// The program's version, for the status annotation. Not a setting: whoever reads the file fills it in.
    #[serde(skip)]
    pub version: String,
}

/// What becomes of callers without a proxy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Inbound {
    /// They are not captured, and reach the application as before. So do the kubelet's probes.
    #[default]
    Off,
    /// They are captured at the ports that the pod declares, counted, and passed on.
    Permissive,
    /// They are captured there and refused. Ports that the kubelet probes are left out.
    Strict,
}

impl Inbound {
    /// As annotation, file and flag say it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Permissive => "permissive",
            Self::Strict => "strict",
        }
    }

    pub(super) fn read(text: &str) -> Option<Self> {
        [Self::Off, Self::Permissive, Self::Strict]
            .into_iter()
            .find(|known| known.as_str() == text)
    }
}

/// What sets the rules of the capture.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tool {
    /// nftables: `CAP_NET_ADMIN` is enough.
    #[default]
    Nft,
    /// iptables, for kernels without nftables: it opens a raw socket, which needs `CAP_NET_RAW`.
    Iptables,
}

impl Tool {
    /// As the flag says it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Nft => "nft",
            Self::Iptables => "iptables",
        }
    }
}

/// What the proxy asks for and may use. No limit of CPU by default: a proxy that is throttled delays every call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Resources {
    /// Requested CPU.
    pub cpu: Option<String>,
    /// Requested memory. A proxy of a large mesh with rules was measured at 76 MiB.
    pub memory: Option<String>,
    /// Most CPU.
    pub cpu_limit: Option<String>,
    /// Most memory.
    pub memory_limit: Option<String>,
}

impl Default for Resources {
    fn default() -> Self {
        Self {
            cpu: Some("50m".to_owned()),
            memory: Some("64Mi".to_owned()),
            cpu_limit: None,
            memory_limit: Some("512Mi".to_owned()),
        }
    }
}

impl Settings {
    /// The defaults around what has none.
    pub fn new(image: impl Into<String>, audience: impl Into<String>) -> Self {
        Self {
            image: image.into(),
            image_pull_policy: if_not_present(),
            controller: controller(),
            audience: audience.into(),
            root_config_map: root_config_map(),
            inbound: Inbound::Off,
            capture_tool: Tool::Nft,
            resources: Resources::default(),
            log: log(),
            version: String::new(),
        }
    }

    /// What is wrong with them, if anything: asked once, when they are read, so that no pod has to be refused for it.
    pub fn problem(&self) -> Option<String> {
        for (field, text) in [
            ("image", &self.image),
            ("audience", &self.audience),
            ("controller", &self.controller),
            ("rootConfigMap", &self.root_config_map),
        ] {
            if text.trim().is_empty() {
                return Some(format!("{field} is empty"));
            }
        }
        let policy = self.image_pull_policy.as_str();
        if !["Always", "IfNotPresent", "Never"].contains(&policy) {
            return Some(format!(
                "imagePullPolicy {policy:?} is none of Always, IfNotPresent, Never"
            ));
        }
        let of = &self.resources;
        [
            ("cpu", &of.cpu),
            ("memory", &of.memory),
            ("cpuLimit", &of.cpu_limit),
            ("memoryLimit", &of.memory_limit),
        ]
        .into_iter()
        .filter_map(|(field, text)| Some((field, text.as_deref()?)))
        .find_map(|(field, text)| {
            let why = text.parse::<Quantity>().err()?;
            Some(format!("resources.{field} is {text:?}: {why}"))
        })
    }
}

fn if_not_present() -> String {
    "IfNotPresent".to_owned()
}

fn controller() -> String {
    "tradewind-controller.tradewind-system.svc:15012".to_owned()
}

fn root_config_map() -> String {
    crate::managed::ROOTS.to_owned()
}

fn log() -> String {
    "info".to_owned()
}
