//! Names and ids, each a type of its own, checked where it enters.
//!
//! Every name here ends up in a DNS name or a SPIFFE id, so all are RFC 1123 labels: what is accepted here never has to
//! be escaped later. Cloning is a reference count.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

/// A Raft node id. Never reused: a node that lost its disk comes back under a new one.
pub type NodeId = u64;

/// Why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} {value:?} is not valid: expected {expected}")]
pub struct InvalidName {
    /// What was being parsed.
    pub kind: &'static str,
    /// What stood there (cut to 80 characters).
    pub value: String,
    /// What was expected instead.
    pub expected: &'static str,
}

impl InvalidName {
    fn new(kind: &'static str, value: &str, expected: &'static str) -> Self {
        Self {
            kind,
            value: value.chars().take(80).collect(),
            expected,
        }
    }
}

const LABEL: &str =
    "1 to 63 lower-case letters, digits or '-', starting and ending with a letter or digit";

/// True for an RFC 1123 label.
pub fn is_label(s: &str) -> bool {
    let b = s.as_bytes();
    let edge = |c: Option<&u8>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    b.len() <= 63
        && edge(b.first())
        && edge(b.last())
        && b.iter()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || *c == b'-')
}

/// True for a name that a pod may have: an RFC 1123 subdomain as Kubernetes checks it, whose parts may be as long as the whole.
pub fn is_subdomain(s: &str) -> bool {
    let part = |part: &str| {
        let edge = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
        let b = part.as_bytes();
        b.first().is_some_and(|c| edge(*c))
            && b.last().is_some_and(|c| edge(*c))
            && b.iter().all(|c| edge(*c) || *c == b'-')
    };
    s.len() <= 253 && s.split('.').all(part)
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $check:expr, $expected:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks and wraps.
            pub fn new(s: &str) -> Result<Self, InvalidName> {
                let check: fn(&str) -> bool = $check;
                if check(s) { Ok(Self(s.into())) } else { Err(InvalidName::new($kind, s, $expected)) }
            }
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl FromStr for $name {
            type Err = InvalidName;
            fn from_str(s: &str) -> Result<Self, InvalidName> {
                Self::new(s)
            }
        }
        impl TryFrom<String> for $name {
            type Error = InvalidName;
            fn try_from(s: String) -> Result<Self, InvalidName> {
                Self::new(&s)
            }
        }
        impl From<$name> for String {
            fn from(n: $name) -> Self {
                n.0.as_ref().to_owned()
            }
        }
        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name!(
    /// A member cluster's name.
    ClusterName, "cluster name", is_label, LABEL
);
name!(
    /// A Kubernetes namespace, or a host's stand-in for one.
    Namespace, "namespace", is_label, LABEL
);
name!(
    /// A region, such as `us-west`.
    Region, "region", is_label, LABEL
);
name!(
    /// A zone inside a region.
    Zone, "zone", is_label, LABEL
);
name!(
    /// A network: clusters that name the same one reach each other's workloads without gateways.
    Network, "network", is_label, LABEL
);
name!(
    /// The federation's DNS and trust suffix, `mesh.internal` by default.
    Domain, "domain", is_domain, "dot-separated labels, at most 128 characters"
);
name!(
    /// `<cluster>.<domain>`: one cluster's SPIFFE trust domain.
    TrustDomain, "trust domain", is_trust_domain, "1 to 255 lower-case letters, digits, '.', '-' or '_'"
);
name!(
    /// An endpoint's id: 13 characters of base32, the same for the same workload after a restart.
    EndpointId, "endpoint id", is_label, LABEL
);

fn is_domain(s: &str) -> bool {
    !s.is_empty() && s.len() <= 128 && s.split('.').all(is_label)
}

// SPIFFE-ID section 2.1.
fn is_trust_domain(s: &str) -> bool {
    !s.is_empty()
        && s.len() <= 255
        && s.bytes().all(|c| {
            c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, b'.' | b'-' | b'_')
        })
}

impl Domain {
    /// The trust domain of `cluster`.
    #[expect(
        clippy::expect_used,
        reason = "a label and a checked domain make at most 192 valid characters"
    )]
    pub fn trust_domain(&self, cluster: &ClusterName) -> TrustDomain {
        TrustDomain::new(&format!("{cluster}.{self}")).expect("a label, a dot and a domain")
    }
}

impl Default for Domain {
    fn default() -> Self {
        Self("mesh.internal".into())
    }
}

impl TrustDomain {
    /// The cluster this trust domain stands for, if it lies directly below `domain`.
    pub fn cluster(&self, domain: &Domain) -> Option<ClusterName> {
        let label = self.0.strip_suffix(domain.as_str())?.strip_suffix('.')?;
        ClusterName::new(label).ok()
    }
}

impl EndpointId {
    /// Derives the id from what makes the endpoint itself: its cluster, its service and port, and where it listens.
    #[expect(clippy::expect_used, reason = "base32 text of eight bytes is a label")]
    pub fn derive(cluster: &ClusterName, service: &ServiceName, port: u16, address: &str) -> Self {
        let text = format!("{cluster}\n{service}\n{port}\n{address}");
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
        let mut spec = data_encoding::BASE32_NOPAD.specification();
        spec.symbols = "abcdefghijklmnopqrstuvwxyz234567".into();
        let encoding = spec.encoding().expect("a constant specification");
        let short = digest.as_ref().get(..8).expect("SHA-256 has 32 bytes");
        Self::new(&encoding.encode(short)).expect("base32 is a label")
    }
}

/// `namespace/name`: the same service in every cluster (namespace sameness, MCS API).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ServiceName {
    /// Its namespace.
    pub namespace: Namespace,
    name: Namespace,
}

impl ServiceName {
    /// Checks and wraps both halves.
    pub fn new(namespace: &str, name: &str) -> Result<Self, InvalidName> {
        let name =
            Namespace::new(name).map_err(|_| InvalidName::new("service name", name, LABEL))?;
        Ok(Self {
            namespace: Namespace::new(namespace)?,
            name,
        })
    }
    /// The part after the slash.
    pub fn name(&self) -> &str {
        self.name.as_str()
    }
}

impl FromStr for ServiceName {
    type Err = InvalidName;
    fn from_str(s: &str) -> Result<Self, InvalidName> {
        let (ns, name) = s.split_once('/').ok_or_else(|| {
            InvalidName::new("service", s, "namespace/name, such as shop/payments")
        })?;
        Self::new(ns, name)
    }
}
impl TryFrom<String> for ServiceName {
    type Error = InvalidName;
    fn try_from(s: String) -> Result<Self, InvalidName> {
        s.parse()
    }
}
impl From<ServiceName> for String {
    fn from(s: ServiceName) -> Self {
        s.to_string()
    }
}
impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}
impl fmt::Debug for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// `namespace/name:port`, as flags write it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ServicePortRef {
    /// The service.
    pub service: ServiceName,
    /// The service's port, as callers name it.
    pub port: u16,
}

impl FromStr for ServicePortRef {
    type Err = InvalidName;
    fn from_str(s: &str) -> Result<Self, InvalidName> {
        const EXPECTED: &str = "namespace/name:port, such as shop/payments:80";
        let (service, port) = s
            .rsplit_once(':')
            .ok_or_else(|| InvalidName::new("service port", s, EXPECTED))?;
        let port = port.parse().ok().filter(|p| *p != 0);
        Ok(Self {
            service: service.parse()?,
            port: port.ok_or_else(|| InvalidName::new("service port", s, EXPECTED))?,
        })
    }
}
impl TryFrom<String> for ServicePortRef {
    type Error = InvalidName;
    fn try_from(s: String) -> Result<Self, InvalidName> {
        s.parse()
    }
}
impl From<ServicePortRef> for String {
    fn from(s: ServicePortRef) -> Self {
        s.to_string()
    }
}
impl fmt::Display for ServicePortRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.service, self.port)
    }
}

/// The store's applied index: which state an answer speaks of.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Revision(pub u64);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A SPIFFE id: `spiffe://<trust domain>/<path>`, parsed strictly (SPIFFE-ID sections 2.1 to 2.3).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SpiffeId {
    text: Arc<str>,
    domain_len: usize,
}

const SCHEME: &str = "spiffe://";

impl SpiffeId {
    /// A workload's id: `/ns/<namespace>/sa/<account>`.
    #[expect(clippy::expect_used, reason = "made of checked labels")]
    pub fn workload(domain: &TrustDomain, namespace: &Namespace, account: &Namespace) -> Self {
        Self::from_path(domain, &format!("/ns/{namespace}/sa/{account}")).expect("checked parts")
    }
    /// A controller's id: `/tradewind/controller/<name>`.
    #[expect(clippy::expect_used, reason = "made of checked labels")]
    pub fn controller(domain: &TrustDomain, name: &Namespace) -> Self {
        Self::from_path(domain, &format!("/tradewind/controller/{name}")).expect("checked parts")
    }
    /// An id from a trust domain and a path that starts with '/'.
    pub fn from_path(domain: &TrustDomain, path: &str) -> Result<Self, InvalidName> {
        // Without its slash the path would become a part of the trust domain.
        if !path.starts_with('/') {
            return Err(InvalidName::new("SPIFFE path", path, "a leading '/'"));
        }
        format!("{SCHEME}{domain}{path}").parse()
    }
    /// The whole id as text.
    pub fn as_str(&self) -> &str {
        &self.text
    }
    /// The trust domain.
    #[expect(clippy::expect_used, reason = "checked when parsed")]
    pub fn trust_domain(&self) -> TrustDomain {
        TrustDomain::new(self.trust_domain_str()).expect("checked when parsed")
    }
    /// The trust domain as text, without an allocation.
    pub fn trust_domain_str(&self) -> &str {
        self.text
            .get(SCHEME.len()..SCHEME.len() + self.domain_len)
            .unwrap_or_default()
    }
    /// The path, with its leading slash.
    pub fn path(&self) -> &str {
        self.text
            .get(SCHEME.len() + self.domain_len..)
            .unwrap_or_default()
    }
    /// Namespace and account, when this is a workload's id.
    pub fn account(&self) -> Option<(&str, &str)> {
        let mut parts = self.path().strip_prefix("/ns/")?.split('/');
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(ns), Some("sa"), Some(sa), None) => Some((ns, sa)),
            _ => None,
        }
    }
    /// True for a controller of any cluster.
    pub fn is_controller(&self) -> bool {
        self.path().starts_with("/tradewind/controller/")
    }
    /// True for a gateway of any cluster.
    pub fn is_gateway(&self) -> bool {
        self.path().starts_with("/tradewind/gateway/")
    }
}

impl FromStr for SpiffeId {
    type Err = InvalidName;
    fn from_str(s: &str) -> Result<Self, InvalidName> {
        let bad = |expected| InvalidName::new("SPIFFE id", s, expected);
        if s.len() > 2048 {
            return Err(bad("at most 2048 bytes"));
        }
        let rest = s
            .strip_prefix(SCHEME)
            .ok_or_else(|| bad("spiffe://<trust domain>/<path>"))?;
        let (domain, path) = rest
            .split_once('/')
            .ok_or_else(|| bad("a path after the trust domain"))?;
        if !is_trust_domain(domain) {
            return Err(bad(
                "a trust domain of lower-case letters, digits, '.', '-' and '_'",
            ));
        }
        let segment = |p: &str| {
            !p.is_empty()
                && p != "."
                && p != ".."
                && p.bytes()
                    .all(|c| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'-' | b'_'))
        };
        if !path.split('/').all(segment) {
            return Err(bad(
                "path segments of letters, digits, '.', '-' and '_', none empty",
            ));
        }
        Ok(Self {
            text: s.into(),
            domain_len: domain.len(),
        })
    }
}
impl TryFrom<String> for SpiffeId {
    type Error = InvalidName;
    fn try_from(s: String) -> Result<Self, InvalidName> {
        s.parse()
    }
}
impl From<SpiffeId> for String {
    fn from(s: SpiffeId) -> Self {
        s.text.as_ref().to_owned()
    }
}
impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_of_pods_have_dots_and_long_parts() {
        let whole = ["x".repeat(100), "y".repeat(100), "z".repeat(51)].join(".");
        for good in ["a", "web-0", "web.example", "3scale.x", &whole] {
            assert!(is_subdomain(good), "{good}");
        }
        let too_long = format!("{whole}z");
        for bad in [
            "", ".", "a.", ".a", "a..b", "-a.b", "a-.b", "A", "a_b", &too_long,
        ] {
            assert!(!is_subdomain(bad), "{bad}");
        }
    }

    #[test]
    fn names_are_labels() {
        for good in ["a", "us-west", "3scale", &"x".repeat(63)] {
            assert!(ClusterName::new(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a.b", "a_b", "ä", &"x".repeat(64)] {
            assert!(ClusterName::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn service_ports_parse_and_print() {
        let s: ServicePortRef = "shop/payments:80".parse().unwrap();
        assert_eq!((s.service.name(), s.port), ("payments", 80));
        assert_eq!(s.to_string(), "shop/payments:80");
        for bad in [
            "shop/payments",
            "shop:80",
            "shop/payments:0",
            "shop/payments:65536",
            "/x:1",
        ] {
            assert!(bad.parse::<ServicePortRef>().is_err(), "{bad}");
        }
    }

    #[test]
    fn spiffe_ids_are_strict() {
        let id: SpiffeId = "spiffe://west.mesh.internal/ns/shop/sa/payments"
            .parse()
            .unwrap();
        assert_eq!(id.account(), Some(("shop", "payments")));
        assert_eq!(
            id.trust_domain()
                .cluster(&Domain::default())
                .unwrap()
                .as_str(),
            "west"
        );
        for bad in [
            "spiffe://west",
            "spiffe://west/",
            "spiffe://West/a",
            "http://west/a",
            "spiffe://w/a//b",
            "spiffe://w/a/../b",
            "spiffe://w/a/",
            "spiffe://w/a%20b",
            "spiffe://w:1/a",
            "spiffe:///a",
        ] {
            assert!(bad.parse::<SpiffeId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn endpoint_ids_are_stable() {
        let id = EndpointId::derive(
            &ClusterName::new("west").unwrap(),
            &"shop/payments".parse().unwrap(),
            80,
            "127.1.0.11:15008",
        );
        assert_eq!(id.as_str().len(), 13);
        let again = EndpointId::derive(
            &ClusterName::new("west").unwrap(),
            &"shop/payments".parse().unwrap(),
            80,
            "127.1.0.11:15008",
        );
        assert_eq!(id, again);
    }

    proptest! {
        #[test]
        fn parsing_never_panics_and_prints_back(s in ".{0,80}") {
            if let Ok(id) = s.parse::<SpiffeId>() {
                prop_assert_eq!(id.to_string(), s.clone());
                prop_assert_eq!(format!("spiffe://{}{}", id.trust_domain_str(), id.path()), s.clone());
            }
            let _ = s.parse::<ServicePortRef>();
        }
    }
}
