//! The server names that gateways route by: which endpoint of which service of which cluster a TLS connection is for.
//!
//! Owns the form of the name, and is the only place that knows it. A name says endpoint and cluster in clear, and the
//! service in a seal ([`crate::seal`]); the form with the service in clear is read until every member seals. Names come
//! from peers; parsing is pure and never panics.

use rustls::pki_types::ServerName;
use tradewind_api::{ClusterName, Domain, EndpointId, NodeId, ServiceName};

use crate::seal::Seal;

/// Where a connection wants to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A service of a cluster that only its gateways read.
    Sealed {
        /// Whose gateway opens it.
        cluster: ClusterName,
        /// One endpoint, or any.
        endpoint: Option<EndpointId>,
        /// Service, port and caller. Nothing of it is known before it is opened.
        seal: Seal,
    },
    /// A service of a cluster, in clear. Anybody can write it.
    Endpoint {
        /// Whose gateway opens it.
        cluster: ClusterName,
        /// The service.
        service: ServiceName,
        /// The service's port.
        port: u16,
        /// One endpoint, or any.
        endpoint: Option<EndpointId>,
    },
    /// A cluster's controller.
    Controller {
        /// Whose.
        cluster: ClusterName,
    },
    /// One of a cluster's controllers, where it has several.
    ControllerNode {
        /// Whose.
        cluster: ClusterName,
        /// Its node of the store.
        node: NodeId,
    },
    /// A cluster's gateway itself, which says that it is there and closes.
    Gateway {
        /// Whose.
        cluster: ClusterName,
    },
}

impl Target {
    /// The cluster that is asked.
    pub fn cluster(&self) -> &ClusterName {
        match self {
            Self::Sealed { cluster, .. }
            | Self::Endpoint { cluster, .. }
            | Self::Controller { cluster }
            | Self::ControllerNode { cluster, .. }
            | Self::Gateway { cluster } => cluster,
        }
    }
}

/// Why a server name is not one of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Another suffix than the federation's: the caller is no member, or mistook the port.
    #[error("the server name is not below gw.<the federation's domain>")]
    OtherDomain,
    /// Ours by its suffix, but not of a known form.
    #[error("the server name does not have the form of a gateway's name")]
    Form,
    /// DNS names end at 253 characters; only names near the length limits reach that.
    #[error(
        "the names of service, namespace, cluster and domain make a server name of more than 253 characters"
    )]
    TooLong,
}

/// DNS's bound on a whole name.
const MAX_NAME_BYTES: usize = 253;

const ANY: &str = "any";
const CONTROLLER: &str = "controller";
const ITSELF: &str = "gateway";
const GATEWAY: &str = "gw";
const DIRECT: &str = "direct";

/// The name to send for `target`. See [`server_name`] for the form that rustls takes.
pub fn encode(target: &Target, domain: &Domain) -> String {
    match target {
        Target::Sealed {
            cluster,
            endpoint,
            seal,
        } => {
            let endpoint = endpoint.as_ref().map_or(ANY, EndpointId::as_str);
            format!("{endpoint}.{}.{cluster}.{GATEWAY}.{domain}", seal.label())
        }
        Target::Endpoint {
            cluster,
            service,
            port,
            endpoint,
        } => {
            let endpoint = endpoint.as_ref().map_or(ANY, EndpointId::as_str);
            let (name, namespace) = (service.name(), &service.namespace);
            format!("{endpoint}.{port}.{name}.{namespace}.{cluster}.{GATEWAY}.{domain}")
        }
        Target::Controller { cluster } => format!("{CONTROLLER}.{cluster}.{GATEWAY}.{domain}"),
        Target::ControllerNode { cluster, node } => {
            format!("n{node}.{CONTROLLER}.{cluster}.{GATEWAY}.{domain}")
        }
        Target::Gateway { cluster } => format!("{ITSELF}.{cluster}.{GATEWAY}.{domain}"),
    }
}

/// [`encode`], as rustls takes it.
pub fn server_name(target: &Target, domain: &Domain) -> Result<ServerName<'static>, NameError> {
    checked(encode(target, domain))
}

/// The name for an endpoint that is dialled at its own address. Nobody routes by it: it only keeps one endpoint's TLS
/// sessions apart from another's, and no gateway takes it.
pub fn direct(
    endpoint: &EndpointId,
    cluster: &ClusterName,
    domain: &Domain,
) -> Result<ServerName<'static>, NameError> {
    checked(format!("{endpoint}.{DIRECT}.{cluster}.{GATEWAY}.{domain}"))
}

fn checked(name: String) -> Result<ServerName<'static>, NameError> {
    if name.len() > MAX_NAME_BYTES {
        return Err(NameError::TooLong);
    }
    ServerName::try_from(name).map_err(|_| NameError::Form)
}

/// Reads a name that a peer sent. Case does not matter, as in DNS.
pub fn parse(name: &str, domain: &Domain) -> Result<Target, NameError> {
    if name.len() > MAX_NAME_BYTES {
        return Err(NameError::Form);
    }
    let name = name.to_ascii_lowercase();
    let labels = name
        .strip_suffix(domain.as_str())
        .and_then(|rest| rest.strip_suffix('.'))
        .and_then(|rest| rest.strip_suffix(GATEWAY))
        .and_then(|rest| rest.strip_suffix('.'))
        .ok_or(NameError::OtherDomain)?;
    // One more than any form has, so that a longer name is seen as such without being split whole.
    let mut parts = [""; 6];
    let mut count = 0;
    for (slot, label) in parts.iter_mut().zip(labels.split('.')) {
        *slot = label;
        count += 1;
    }
    match (parts, count) {
        ([CONTROLLER, cluster, ..], 2) => Ok(Target::Controller {
            cluster: ClusterName::new(cluster).map_err(|_| NameError::Form)?,
        }),
        ([ITSELF, cluster, ..], 2) => Ok(Target::Gateway {
            cluster: ClusterName::new(cluster).map_err(|_| NameError::Form)?,
        }),
        // No seal is as short as this word.
        ([node, CONTROLLER, cluster, ..], 3) => Ok(Target::ControllerNode {
            cluster: ClusterName::new(cluster).map_err(|_| NameError::Form)?,
            node: node
                .strip_prefix('n')
                .and_then(parse_number)
                .ok_or(NameError::Form)?,
        }),
        ([endpoint, seal, cluster, ..], 3) => Ok(Target::Sealed {
            cluster: ClusterName::new(cluster).map_err(|_| NameError::Form)?,
            endpoint: parse_endpoint(endpoint)?,
            seal: Seal::parse(seal).ok_or(NameError::Form)?,
        }),
        ([endpoint, port, service, namespace, cluster, _], 5) => Ok(Target::Endpoint {
            cluster: ClusterName::new(cluster).map_err(|_| NameError::Form)?,
            service: ServiceName::new(namespace, service).map_err(|_| NameError::Form)?,
            port: parse_port(port)?,
            endpoint: parse_endpoint(endpoint)?,
        }),
        _ => Err(NameError::Form),
    }
}

fn parse_endpoint(label: &str) -> Result<Option<EndpointId>, NameError> {
    match label {
        ANY => Ok(None),
        id => EndpointId::new(id).map(Some).map_err(|_| NameError::Form),
    }
}

/// Digits only, no sign, no leading zero: one number has one name.
fn parse_number<N: std::str::FromStr>(text: &str) -> Option<N> {
    let plain = !text.starts_with('0') && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|_| plain)
}

fn parse_port(text: &str) -> Result<u16, NameError> {
    parse_number(text).ok_or(NameError::Form)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seal::LABEL_CHARS;
    use proptest::prelude::*;

    fn endpoint(id: Option<&str>) -> Target {
        Target::Endpoint {
            cluster: ClusterName::new("west").unwrap(),
            service: "shop/payments".parse().unwrap(),
            port: 80,
            endpoint: id.map(|id| EndpointId::new(id).unwrap()),
        }
    }

    #[test]
    fn names_have_the_documented_form() {
        let domain = Domain::default();
        assert_eq!(
            encode(&endpoint(None), &domain),
            "any.80.payments.shop.west.gw.mesh.internal"
        );
        let controller = Target::Controller {
            cluster: ClusterName::new("west").unwrap(),
        };
        assert_eq!(
            encode(&controller, &domain),
            "controller.west.gw.mesh.internal"
        );
        assert_eq!(
            parse("Controller.WEST.gw.mesh.internal", &domain),
            Ok(controller)
        );
        let node = Target::ControllerNode {
            cluster: ClusterName::new("west").unwrap(),
            node: 12,
        };
        let name = encode(&node, &domain);
        assert_eq!(name, "n12.controller.west.gw.mesh.internal");
        assert_eq!(parse(&name, &domain), Ok(node));
        for bad in [
            "12",
            "n",
            "n0",
            "n012",
            "n+1",
            "n99999999999999999999",
            "m1",
        ] {
            let name = format!("{bad}.controller.west.gw.mesh.internal");
            assert_eq!(parse(&name, &domain), Err(NameError::Form), "{bad}");
        }
        let gateway = Target::Gateway {
            cluster: ClusterName::new("west").unwrap(),
        };
        assert_eq!(encode(&gateway, &domain), "gateway.west.gw.mesh.internal");
        assert_eq!(parse("gateway.west.GW.mesh.internal", &domain), Ok(gateway));
        assert!(server_name(&endpoint(Some("abcdefghijklm")), &domain).is_ok());
        let label = "a".repeat(LABEL_CHARS);
        let sealed = Target::Sealed {
            cluster: ClusterName::new("west").unwrap(),
            endpoint: None,
            seal: Seal::parse(&label).unwrap(),
        };
        let name = format!("any.{label}.west.gw.mesh.internal");
        assert_eq!(encode(&sealed, &domain), name);
        assert_eq!(parse(&name.to_uppercase(), &domain), Ok(sealed));
    }

    #[test]
    fn no_gateway_takes_a_direct_name() {
        let (west, domain) = (ClusterName::new("west").unwrap(), Domain::default());
        let id = EndpointId::new("abcdefghijklm").unwrap();
        let name = direct(&id, &west, &domain).unwrap().to_str().into_owned();
        assert_eq!(name, "abcdefghijklm.direct.west.gw.mesh.internal");
        assert_eq!(parse(&name, &domain), Err(NameError::Form));
    }

    #[test]
    fn other_names_are_refused() {
        let domain = Domain::default();
        for (name, why) in [
            ("", NameError::OtherDomain),
            ("example.com", NameError::OtherDomain),
            ("gw.mesh.internal", NameError::OtherDomain),
            (
                "any.80.payments.shop.west.mesh.internal",
                NameError::OtherDomain,
            ),
            ("xgw.mesh.internal", NameError::OtherDomain),
            (".gw.mesh.internal", NameError::Form),
            ("west.gw.mesh.internal", NameError::Form),
            ("witness.west.gw.mesh.internal", NameError::Form),
            ("any.gateway.west.gw.mesh.internal", NameError::Form),
            (
                "any.080.payments.shop.west.gw.mesh.internal",
                NameError::Form,
            ),
            ("any.0.payments.shop.west.gw.mesh.internal", NameError::Form),
            (
                "any.+80.payments.shop.west.gw.mesh.internal",
                NameError::Form,
            ),
            (
                "any.65536.payments.shop.west.gw.mesh.internal",
                NameError::Form,
            ),
            (
                "a.any.80.payments.shop.west.gw.mesh.internal",
                NameError::Form,
            ),
            ("any.80.-x.shop.west.gw.mesh.internal", NameError::Form),
            ("controller.west.gw.mesh.internal.", NameError::OtherDomain),
        ] {
            assert_eq!(parse(name, &domain), Err(why), "{name}");
        }
    }

    #[test]
    fn a_name_beyond_dns_is_said_to_be() {
        let long = "x".repeat(63);
        let target = Target::Endpoint {
            cluster: ClusterName::new(&long).unwrap(),
            service: ServiceName::new(&long, &long).unwrap(),
            port: 8080,
            endpoint: None,
        };
        let domain = Domain::new(&long).unwrap();
        assert_eq!(server_name(&target, &domain), Err(NameError::TooLong));
    }

    proptest! {
        #[test]
        fn parsing_never_panics(name in ".{0,300}") {
            let _ = parse(&name, &Domain::default());
        }

        #[test]
        fn what_is_written_reads_back(
            ns in "[a-z0-9]{1,20}", svc in "[a-z]([a-z0-9-]{0,20}[a-z0-9])?", cluster in "[a-z0-9]{1,20}",
            port in 1u16.., id in prop::option::of("[a-z2-7]{13}"),
        ) {
            let target = Target::Endpoint {
                cluster: ClusterName::new(&cluster).unwrap(),
                service: ServiceName::new(&ns, &svc).unwrap(),
                port,
                endpoint: id.map(|id| EndpointId::new(&id).unwrap()),
            };
            let domain = Domain::new("fed.example").unwrap();
            prop_assert_eq!(parse(&encode(&target, &domain), &domain), Ok(target));
        }
    }
}
