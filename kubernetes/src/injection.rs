//! Whether a pod gets a proxy, and what it looks like then: a JSON Patch (RFC 6902) for the admission webhook.
//!
//! Pure and without state: the same pod and the same settings give the same patch, and a pod that has its proxy already is left
//! alone, so that the webhook may be asked again (reinvocation) and by several controllers. It must never panic, whatever stands in
//! a pod, and never change what it did not add itself. Which namespaces are asked about is decided by the API server, from the
//! selectors of the MutatingWebhookConfiguration.

pub mod bundle;
mod containers;
mod patch;
mod pod;
pub mod quantity;
pub mod review;
pub mod settings;
mod wishes;

#[cfg(test)]
mod tests;

use serde_json::{Value, json};

pub use patch::Operation;
pub use pod::Malformed;
pub use review::{Answer, Kind, Unreadable, answer};
pub use settings::{Inbound, Resources, Settings, Tool};
pub use wishes::BadWish;

use pod::Pod;
use wishes::Wishes;

use crate::watch::PROXY_LABEL;

/// The proxy's container. A native sidecar: an init container that goes on running.
pub const PROXY: &str = "tradewind-proxy";
/// The container before it, which sets the rules of the capture and ends.
pub const CAPTURE: &str = "tradewind-capture";
/// The volume with the service-account token and the federation's root.
pub const IDENTITY_VOLUME: &str = "tradewind-identity";
/// The volume where the proxy keeps its last good snapshot.
pub const STATE_VOLUME: &str = "tradewind-state";
/// The user that the proxy runs as: its connections are told from the application's by it.
pub const PROXY_USER: u32 = 1337;
/// Where other proxies and gateways reach it.
pub const HBONE_PORT: u16 = 15008;
/// Its health, metrics and debug pages.
pub const ADMIN_PORT: u16 = 15020;
/// Ports inside the pod that are the proxy's.
pub const PROXY_PORTS: [u16; 4] = [15001, 15006, HBONE_PORT, ADMIN_PORT];
/// Annotation or label by which a pod asks for a proxy, or for none. The label goes first, because selectors see it.
pub const INJECT: &str = "tradewind.io/inject";
/// Annotation that says what was added.
pub const STATUS: &str = "tradewind.io/status";
/// How the kubelet marks what it only shows: such a pod runs from a file of the node and cannot be changed.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// What becomes of a pod.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// It gets a proxy.
    Inject {
        /// In the order in which they are to be applied.
        patch: Vec<Operation>,
        /// What its owner should know.
        warnings: Vec<String>,
    },
    /// It stays as it is.
    Leave(Why),
    /// It is refused, because it asks for something that cannot be read: without a proxy as it was meant it would run unprotected.
    Deny(Vec<String>),
}

/// Why a pod stays as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// It said so.
    OptedOut,
    /// It has its proxy.
    Already,
    /// The rules would capture the whole node.
    HostNetwork,
    /// The rules and the proxy are for Linux.
    Windows,
    /// The kubelet runs it from a file.
    Mirror,
    /// Something in it runs as the proxy's user, and would be taken for the proxy.
    ProxyUser {
        /// `the pod`, or the container's name.
        what: String,
    },
    /// Something in it has a name that the injection needs.
    NameTaken {
        /// `container` or `volume`.
        what: &'static str,
        /// The name.
        name: &'static str,
    },
}

impl Why {
    /// What is said to whoever made the pod; nothing where this is what they want.
    pub fn warning(&self) -> Option<String> {
        let why = match self {
            Self::OptedOut | Self::Already => return None,
            Self::HostNetwork => {
                "it uses the node's network (hostNetwork: true), where the capture would catch every other pod's connections too"
                    .to_owned()
            }
            Self::Windows => "it runs on Windows, and the capture needs Linux".to_owned(),
            Self::Mirror => "it is a static pod of its node's kubelet".to_owned(),
            Self::ProxyUser { what } => format!(
                "{what} runs as user {PROXY_USER}, which is the proxy's: its connections would not be captured; choose another runAsUser"
            ),
            Self::NameTaken { what, name } => {
                format!("it has a {what} of its own named {name}; choose another name for it")
            }
        };
        Some(format!("tradewind: no proxy was added, because {why}"))
    }

    /// As metrics and logs say it.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::OptedOut => "opted-out",
            Self::Already => "already",
            Self::HostNetwork => "host-network",
            Self::Windows => "windows",
            Self::Mirror => "mirror",
            Self::ProxyUser { .. } => "proxy-user",
            Self::NameTaken { .. } => "name-taken",
        }
    }
}

/// Decides about a pod as the API server sent it.
pub fn decide(pod: &Value, settings: &Settings) -> Decision {
    match decide_or_why_not(pod, settings) {
        Ok(decision) => decision,
        Err(malformed) => Decision::Deny(vec![malformed.to_string()]),
    }
}

fn decide_or_why_not(pod: &Value, settings: &Settings) -> Result<Decision, Malformed> {
    let pod = Pod::read(pod)?;
    // First of all, so that nobody who wants no proxy is told why there is none, or refused for another wish.
    match wishes::inject(&pod) {
        Ok(Some(false)) => return Ok(Decision::Leave(Why::OptedOut)),
        Ok(_) => {}
        Err(bad) => return Ok(Decision::Deny(vec![bad.to_string()])),
    }
    if let Some(why) = unfit(&pod) {
        return Ok(Decision::Leave(why));
    }
    let wishes = match Wishes::read(&pod, settings) {
        Ok(wishes) => wishes,
        Err(bad) => {
            return Ok(Decision::Deny(
                bad.iter().map(ToString::to_string).collect(),
            ));
        }
    };
    Ok(Decision::Inject {
        patch: patch_of(&pod, &wishes, settings),
        warnings: wishes.warnings.clone(),
    })
}

/// Why this pod cannot have a proxy, or has one.
fn unfit(pod: &Pod<'_>) -> Option<Why> {
    let is_there = pod.all_containers().any(|c| c.name() == PROXY);
    if is_there && pod.annotation(STATUS).is_some() {
        return Some(Why::Already);
    }
    if pod.annotation(MIRROR).is_some() {
        return Some(Why::Mirror);
    }
    if pod.host_network() {
        return Some(Why::HostNetwork);
    }
    if pod.is_windows() {
        return Some(Why::Windows);
    }
    for name in [PROXY, CAPTURE] {
        if pod.all_containers().any(|c| c.name() == name) {
            return Some(Why::NameTaken {
                what: "container",
                name,
            });
        }
    }
    for name in [IDENTITY_VOLUME, STATE_VOLUME] {
        if pod.volume_names().any(|volume| volume == name) {
            return Some(Why::NameTaken {
                what: "volume",
                name,
            });
        }
    }
    if pod.user() == Some(PROXY_USER.into()) {
        return Some(Why::ProxyUser {
            what: "the pod".to_owned(),
        });
    }
    pod.all_containers()
        .find(|c| c.user() == Some(PROXY_USER.into()))
        .map(|c| Why::ProxyUser {
            what: format!("its container {}", c.name()),
        })
}

fn patch_of(pod: &Pod<'_>, wishes: &Wishes, settings: &Settings) -> Vec<Operation> {
    let mut patch = Vec::new();
    patch::append(
        &mut patch,
        "/spec/volumes",
        pod.has_volumes(),
        containers::volumes(settings),
    );
    // Before the pod's own: they run one after the other, and the next one starts when the proxy is ready. So what the pod's own init
    // containers call goes through the mesh as well.
    patch::prepend(
        &mut patch,
        "/spec/initContainers",
        pod.has_init_containers(),
        vec![
            containers::capture(wishes, settings),
            containers::proxy(wishes, settings),
        ],
    );
    let status = json!({
        "version": settings.version,
        "initContainers": [CAPTURE, PROXY],
        "volumes": [IDENTITY_VOLUME, STATE_VOLUME],
    });
    patch::put(
        &mut patch,
        "/metadata/annotations",
        pod.has_annotations(),
        STATUS,
        &status.to_string(),
    );
    // By this the controller finds, among all pods, those that have a proxy.
    patch::put(
        &mut patch,
        "/metadata/labels",
        pod.has_labels(),
        PROXY_LABEL,
        "sidecar",
    );
    patch
}
