//! What a proxy in a pod serves: what the cluster says of the endpoints at its address. Pure.

use std::{collections::BTreeMap, fmt, net::SocketAddr};

use tradewind_api::{ServicePortRef, model::AppProtocol, snapshot::Snapshot};

use crate::config::ServeSpec;

/// One service port that is served, and the application behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Serving {
    pub target: ServicePortRef,
    /// `host:port` of the application.
    pub app: String,
    /// What it speaks.
    pub protocol: AppProtocol,
}

impl fmt::Display for Serving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.target, self.app)
    }
}

impl From<&ServeSpec> for Serving {
    fn from(spec: &ServeSpec) -> Self {
        Self {
            target: spec.target.clone(),
            app: spec.app.clone(),
            protocol: spec.protocol,
        }
    }
}

/// What `snapshot` says is served at the advertised address `at`, sorted by service and port. The application is dialled at the same
/// host, as kube-proxy would; what the cluster does not say the application's port of is not served.
pub(crate) fn served(snapshot: &Snapshot, at: SocketAddr) -> Vec<Serving> {
    let Some(local) = snapshot.local() else {
        return Vec::new();
    };
    let address = at.to_string();
    let mut found = BTreeMap::new();
    for service in snapshot.services.values() {
        let here = service
            .endpoints
            .iter()
            .filter(|e| e.cluster == local.name && e.address.as_deref() == Some(address.as_str()));
        for endpoint in here {
            for (port, target) in &endpoint.targets {
                let Some(known) = service.port(*port) else {
                    continue;
                };
                if endpoint.ports.contains(port) {
                    // One address is one pod: a second word on the same port is an echo of an older one.
                    found
                        .entry((service.name.clone(), *port))
                        .or_insert((*target, known.app_protocol));
                }
            }
        }
    }
    let serving = |((service, port), (target, protocol))| Serving {
        target: ServicePortRef { service, port },
        app: SocketAddr::new(at.ip(), target).to_string(),
        protocol,
    };
    found.into_iter().map(serving).collect()
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};
    use tradewind_api::model::{Endpoint, Health, ServicePort};

    use super::*;
    use crate::fixture::{change, endpoint, snapshot};

    const AT: &str = "10.0.0.1:15008";

    fn serves(s: &Snapshot, at: &str) -> Vec<String> {
        let served = served(s, at.parse().unwrap());
        served.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_pod_serves_what_selects_it_at_the_ports_of_its_own() {
        let mut s = snapshot(&[
            ("shop/payments", true, 80),
            ("shop/admin", false, 9000),
            ("shop/others", true, 80),
        ]);
        change(&mut s, "shop/payments", |s| {
            s.endpoints = vec![
                endpoint("a", "west", AT, &[(80, 8080)]),
                endpoint("b", "west", "10.0.0.2:15008", &[(80, 8081)]),
            ];
        });
        change(&mut s, "shop/admin", |s| {
            s.endpoints = vec![endpoint("c", "west", AT, &[(9000, 8080)])];
            s.ports[0].app_protocol = AppProtocol::Http2;
        });
        change(&mut s, "shop/others", |s| {
            // The same address in another cluster's network is another pod.
            s.endpoints = vec![endpoint("d", "east", AT, &[(80, 8080)])];
        });
        let both = [
            "shop/admin:9000=10.0.0.1:8080",
            "shop/payments:80=10.0.0.1:8080",
        ];
        assert_eq!(serves(&s, AT), both);
        let first = served(&s, AT.parse().unwrap()).remove(0);
        assert_eq!(first.protocol, AppProtocol::Http2);
        let other = ["shop/payments:80=10.0.0.2:8081"];
        assert_eq!(serves(&s, "10.0.0.2:15008"), other);
        assert!(serves(&s, "10.0.0.1:15009").is_empty(), "a proxy elsewhere");
        // A pod that is not ready, or is about to end, serves whoever still calls.
        change(&mut s, "shop/payments", |s| {
            s.endpoints[0].health = Health::Unhealthy;
        });
        assert_eq!(serves(&s, AT), both);
        let mut unknown = s.clone();
        unknown.clusters.clear();
        assert!(serves(&unknown, AT).is_empty(), "which cluster is this?");
    }

    #[test]
    fn an_ipv6_pod_is_dialled_in_brackets() {
        let mut s = snapshot(&[("shop/payments", true, 80)]);
        change(&mut s, "shop/payments", |s| {
            s.endpoints = vec![endpoint("a", "west", "[fd00::1]:15008", &[(80, 8080)])];
        });
        let served = serves(&s, "[fd00:0::1]:15008");
        assert_eq!(served, ["shop/payments:80=[fd00::1]:8080"]);
    }

    #[test]
    fn ports_without_a_target_or_a_service_are_not_served() {
        let mut s = snapshot(&[("shop/payments", true, 80)]);
        change(&mut s, "shop/payments", |s| {
            let mut one = endpoint("a", "west", AT, &[(80, 8080), (81, 8081)]);
            one.targets.remove(&80);
            s.endpoints = vec![one];
        });
        assert!(serves(&s, AT).is_empty());
    }

    fn some_endpoint() -> impl Strategy<Value = Endpoint> {
        let cluster = prop_oneof![Just("west"), Just("east")];
        let address = prop_oneof![Just(Some(AT)), Just(Some("10.0.0.2:15008")), Just(None)];
        let targets = vec((80..84u16, 8080..8084u16), 0..4);
        (cluster, address, targets, vec(80..84u16, 0..3)).prop_map(
            |(cluster, address, targets, more)| {
                let mut e = endpoint("a", cluster, "", &targets);
                e.address = address.map(str::to_owned);
                e.ports.extend(more);
                e
            },
        )
    }

    fn some_snapshot() -> impl Strategy<Value = Snapshot> {
        let services = vec((vec(some_endpoint(), 0..4), vec(80..84u16, 0..4)), 3);
        services.prop_map(|services| {
            let names = ["shop/a", "shop/b", "other/a"];
            let mut s = snapshot(&names.map(|n| (n, true, 1)));
            for (name, (endpoints, ports)) in names.into_iter().zip(services) {
                change(&mut s, name, |service| {
                    service.endpoints = endpoints;
                    let port = |port| ServicePort {
                        port,
                        ..service.ports[0].clone()
                    };
                    service.ports = ports.into_iter().map(port).collect();
                });
            }
            s
        })
    }

    proptest! {
        #[test]
        fn exactly_what_the_cluster_has_at_this_address_is_served(s in some_snapshot()) {
            let found = served(&s, AT.parse().unwrap());
            prop_assert!(found.is_sorted_by_key(|f| &f.target));
            for (name, service) in &s.services {
                for port in 80..84 {
                    let here = service.endpoints.iter().filter(|e| {
                        e.cluster.as_str() == "west" && e.address.as_deref() == Some(AT) && e.ports.contains(&port)
                    });
                    let targets: Vec<_> = here.filter_map(|e| e.targets.get(&port)).collect();
                    let target = ServicePortRef { service: name.clone(), port };
                    let mut ours = found.iter().filter(|f| f.target == target);
                    let one = ours.next();
                    prop_assert!(ours.next().is_none(), "once");
                    let expected = !targets.is_empty() && service.port(port).is_some();
                    prop_assert_eq!(one.is_some(), expected, "{}", target);
                    if let Some(one) = one {
                        let apps: Vec<_> = targets.iter().map(|t| format!("10.0.0.1:{t}")).collect();
                        prop_assert!(apps.contains(&one.app), "{}", one);
                    }
                }
            }
        }

        #[test]
        fn what_is_elsewhere_changes_nothing(s in some_snapshot()) {
            let all = served(&s, AT.parse().unwrap());
            let mut own = s;
            for name in ["shop/a", "shop/b", "other/a"] {
                change(&mut own, name, |s| {
                    s.endpoints.retain(|e| e.cluster.as_str() == "west" && e.address.as_deref() == Some(AT));
                });
            }
            prop_assert_eq!(served(&own, AT.parse().unwrap()), all);
        }
    }
}
