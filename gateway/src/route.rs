//! Where a connection goes: a pure function of the snapshot, the name it asks for, the time and one random number.
//! It must never choose an endpoint of a service that the local cluster does not export.

use tradewind_api::{
    ClusterName, EndpointId, ServicePortRef,
    model::{Cluster, ClusterState, Endpoint, Health, Service},
    snapshot::Snapshot,
};
use tradewind_transport::server_name::Target;

use crate::{
    names::Names,
    refusal::{Refusal, Refused},
};

/// Most endpoints tried for one connection: each costs up to a dial timeout, and the caller waits.
pub const MAX_TRIES: usize = 4;

/// One address to try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Whose it is.
    pub id: EndpointId,
    /// `host:port` of its HBONE listener.
    pub address: String,
}

/// Where a connection goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// To a workload of this cluster: the first candidate that answers, at most [`MAX_TRIES`] of them.
    Local {
        /// The service and port, which the connection lives and dies with.
        service: ServicePortRef,
        /// The member that calls; unknown for a name in clear.
        caller: Option<ClusterName>,
        /// Best first; never empty. One that is asked for by its id and known here is the only one.
        candidates: Vec<Candidate>,
    },
    /// To this cluster's controller; where it has several, to any of these.
    Controller(Vec<String>),
    /// To one of this cluster's controllers.
    ControllerNode(String),
    /// No further: the gateway itself is asked whether it is there.
    Here,
    /// To a gateway of another cluster, best first; never empty.
    PassOn(Vec<String>),
}

/// What else a decision takes.
#[derive(Clone, Copy, Debug)]
pub struct Circumstances {
    /// Uniform over u64; spreads `any` over the endpoints by weight.
    pub pick: u64,
    /// Now, Unix seconds.
    pub now_unix_s: u64,
}

/// Decides. `names` are those of this snapshot.
pub fn route(
    snapshot: &Snapshot,
    names: &Names,
    target: &Target,
    now: Circumstances,
) -> Result<Route, Refused> {
    let Circumstances { pick, now_unix_s } = now;
    let local = snapshot.local().ok_or(Refusal::NotReady)?;
    let named = target.cluster();
    if *named != local.name {
        return match target {
            Target::Sealed { seal, .. } => {
                names.exit(named, seal, now_unix_s)?;
                Ok(exit(snapshot, local, named, pick)?)
            }
            // Anybody can write these: whoever passed them on would lend his network to strangers.
            Target::Endpoint { .. }
            | Target::Controller { .. }
            | Target::ControllerNode { .. }
            | Target::Gateway { .. } => Err(Refusal::OtherCluster.into()),
        };
    }
    let (asked, caller, endpoint) = match target {
        Target::Controller { .. } => {
            return Ok(Route::Controller(
                local.controllers.values().cloned().collect(),
            ));
        }
        Target::ControllerNode { node, .. } => {
            let known = local.controllers.get(node).cloned();
            return Ok(Route::ControllerNode(known.ok_or(Refusal::NoEndpoint)?));
        }
        Target::Gateway { .. } => return Ok(Route::Here),
        Target::Sealed { seal, endpoint, .. } => {
            let opened = names.open(snapshot, seal, now_unix_s)?;
            (opened.service, Some(opened.caller), endpoint)
        }
        Target::Endpoint { .. } if local.sealed_only => return Err(Refusal::NoSeal.into()),
        Target::Endpoint {
            service,
            port,
            endpoint,
            ..
        } => {
            let asked = ServicePortRef {
                service: service.clone(),
                port: *port,
            };
            (asked, None, endpoint)
        }
    };
    let Some(found) = snapshot.exported_here(&asked) else {
        return Err(Refusal::NotExported.of(caller));
    };
    let candidates = candidates(found, local, asked.port, endpoint.as_ref(), pick);
    if candidates.is_empty() {
        return Err(Refused {
            reason: Refusal::NoEndpoint,
            peer: caller,
            to: Some(asked),
        });
    }
    Ok(Route::Local {
        service: asked,
        caller,
        candidates,
    })
}

/// The order in which endpoints are worth a try.
const fn rank(endpoint: &Endpoint) -> u8 {
    match endpoint.health {
        Health::Healthy => 0,
        Health::Unknown => 1,
        // Both still beat refusing: a set is never treated as empty while something exists.
        Health::Draining => 2,
        Health::Unhealthy => 3,
    }
}

/// Whom to try. An endpoint that the caller names is tried alone, well or not: were another one connected in its place, the caller would
/// take the answers for its own, and believe that a dead one is back; who is refused knows, and asks another by itself. Only where nobody
/// here has that name may anybody serve: a caller that heard nothing for long still names those of before.
fn candidates(
    service: &Service,
    local: &Cluster,
    port: u16,
    asked: Option<&EndpointId>,
    pick: u64,
) -> Vec<Candidate> {
    let mut usable: Vec<(u8, &Endpoint, &String)> = service
        .endpoints
        .iter()
        .filter(|e| e.cluster == local.name && e.ports.contains(&port))
        .filter_map(|e| e.address.as_ref().map(|a| (e, a)))
        .map(|(e, a)| (rank(e), e, a))
        .collect();
    if usable.iter().any(|(_, e, _)| asked == Some(&e.id)) {
        usable.retain(|(_, e, _)| asked == Some(&e.id));
    }
    usable.sort_by_key(|(rank, ..)| *rank);
    let mut ordered = Vec::with_capacity(usable.len().min(MAX_TRIES));
    for class in usable.chunk_by(|a, b| a.0 == b.0) {
        let start = weighted(class.iter().map(|(_, e, _)| e.weight), pick);
        let rotated = class.iter().cycle().skip(start).take(class.len());
        for (_, endpoint, address) in rotated {
            if ordered.len() == MAX_TRIES {
                return ordered;
            }
            ordered.push(Candidate {
                id: endpoint.id.clone(),
                address: (*address).clone(),
            });
        }
    }
    ordered
}

/// The index that `pick` falls on when each weight takes its share of the whole; 0 for no weights at all.
fn weighted(weights: impl Iterator<Item = u32> + Clone, pick: u64) -> usize {
    let total: u64 = weights.clone().map(u64::from).sum();
    let Some(mut left) = pick.checked_rem(total) else {
        return 0;
    };
    for (i, weight) in weights.enumerate() {
        match left.checked_sub(u64::from(weight)) {
            None => return i,
            Some(rest) => left = rest,
        }
    }
    0
}

/// The other cluster's gateways. One that announces this cluster's own would have connections go round in a circle.
fn exit(
    snapshot: &Snapshot,
    local: &Cluster,
    named: &ClusterName,
    pick: u64,
) -> Result<Route, Refusal> {
    let cluster = snapshot
        .clusters
        .get(named)
        .filter(|c| c.state != ClusterState::Left)
        .ok_or(Refusal::OtherCluster)?;
    let gateways: Vec<&String> = cluster
        .gateways
        .iter()
        .filter(|g| !local.gateways.contains(g))
        .collect();
    if gateways.is_empty() {
        return Err(Refusal::ClusterUnreached);
    }
    let start = weighted(gateways.iter().map(|_| 1), pick);
    let rotated = gateways.iter().cycle().skip(start);
    Ok(Route::PassOn(
        rotated
            .take(gateways.len().min(MAX_TRIES))
            .map(|g| (*g).clone())
            .collect(),
    ))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::fixture::{cluster, endpoint, snapshot};
    use proptest::prelude::*;

    fn ask(cluster: &str, service: &str, port: u16, id: Option<&str>) -> Target {
        Target::Endpoint {
            cluster: ClusterName::new(cluster).unwrap(),
            service: service.parse().unwrap(),
            port,
            endpoint: id.map(|i| EndpointId::new(i).unwrap()),
        }
    }

    /// A decision without sealed names, at any time.
    fn route(s: &Snapshot, target: &Target, pick: u64) -> Result<Route, Refusal> {
        let now = Circumstances {
            pick,
            now_unix_s: 1_800_000_000,
        };
        super::route(s, &Names::default(), target, now).map_err(|refused| refused.reason)
    }

    fn ids(r: Route) -> Vec<String> {
        match r {
            Route::Local { candidates, .. } => {
                candidates.into_iter().map(|c| c.id.to_string()).collect()
            }
            r => panic!("{r:?}"),
        }
    }

    #[test]
    fn an_endpoint_that_is_known_here_is_not_replaced_by_another() {
        let mut s = snapshot(&[("shop/payments", true, 80)]);
        for (id, health) in [
            ("a", Health::Healthy),
            ("b", Health::Healthy),
            ("c", Health::Unhealthy),
        ] {
            endpoint(
                &mut s,
                "shop/payments",
                "west",
                id,
                health,
                "127.0.0.1:1",
                80,
            );
        }
        endpoint(
            &mut s,
            "shop/payments",
            "east",
            "z",
            Health::Healthy,
            "127.0.0.1:2",
            80,
        );
        for pick in 0..20 {
            for asked in ["b", "c"] {
                let r = route(&s, &ask("west", "shop/payments", 80, Some(asked)), pick).unwrap();
                assert_eq!(ids(r), [asked]);
            }
            // One that nobody here has heard of: any, the best first.
            for asked in [Some("gone"), None] {
                let r = route(&s, &ask("west", "shop/payments", 80, asked), pick).unwrap();
                let ids = ids(r);
                assert_eq!((ids.len(), &*ids[2]), (3, "c"));
            }
        }
    }

    #[test]
    fn any_follows_weights_and_never_leaves_the_cluster() {
        let mut s = snapshot(&[("shop/payments", true, 80)]);
        endpoint(
            &mut s,
            "shop/payments",
            "west",
            "a",
            Health::Healthy,
            "127.0.0.1:1",
            80,
        );
        endpoint(
            &mut s,
            "shop/payments",
            "west",
            "b",
            Health::Healthy,
            "127.0.0.1:1",
            80,
        );
        endpoint(
            &mut s,
            "shop/payments",
            "east",
            "z",
            Health::Healthy,
            "127.0.0.1:2",
            80,
        );
        let service = Arc::make_mut(
            s.services
                .get_mut(&"shop/payments".parse().unwrap())
                .unwrap(),
        );
        service.endpoints[0].weight = 300;
        let first = (0..400)
            .filter(|p| {
                let r = route(&s, &ask("west", "shop/payments", 80, None), *p).unwrap();
                let ids = ids(r);
                assert!(!ids.contains(&"z".to_owned()));
                ids[0] == "a"
            })
            .count();
        assert_eq!(first, 300);
    }

    #[test]
    fn refusals_name_their_reason() {
        let mut s = snapshot(&[("shop/payments", true, 80), ("shop/secret", false, 80)]);
        endpoint(
            &mut s,
            "shop/secret",
            "west",
            "a",
            Health::Healthy,
            "127.0.0.1:1",
            80,
        );
        let r = |t: &Target| route(&s, t, 0).unwrap_err();
        assert_eq!(
            r(&ask("west", "shop/secret", 80, None)),
            Refusal::NotExported
        );
        assert_eq!(
            r(&ask("west", "shop/secret", 80, Some("a"))),
            Refusal::NotExported
        );
        assert_eq!(
            r(&ask("west", "shop/nothing", 80, None)),
            Refusal::NotExported
        );
        assert_eq!(
            r(&ask("west", "shop/payments", 81, None)),
            Refusal::NotExported
        );
        assert_eq!(
            r(&ask("west", "shop/payments", 80, None)),
            Refusal::NoEndpoint
        );
        assert_eq!(
            r(&ask("east", "shop/payments", 80, None)),
            Refusal::OtherCluster
        );
        assert_eq!(
            route(
                &Snapshot::default(),
                &ask("west", "shop/payments", 80, None),
                0
            ),
            Err(Refusal::NotReady)
        );
    }

    #[test]
    fn a_service_that_only_others_export_is_not_ours_to_serve() {
        let mut s = snapshot(&[("shop/payments", true, 80)]);
        endpoint(
            &mut s,
            "shop/payments",
            "west",
            "a",
            Health::Healthy,
            "127.0.0.1:1",
            80,
        );
        let service = Arc::make_mut(
            s.services
                .get_mut(&"shop/payments".parse().unwrap())
                .unwrap(),
        );
        service.exported_by = [ClusterName::new("east").unwrap()].into();
        let t = ask("west", "shop/payments", 80, None);
        assert_eq!(route(&s, &t, 0), Err(Refusal::NotExported));
        assert!(
            s.exported_here(&"shop/payments:80".parse().unwrap())
                .is_none()
        );
    }

    #[test]
    fn a_draining_cluster_still_serves() {
        let mut s = snapshot(&[("shop/payments", true, 80)]);
        endpoint(
            &mut s,
            "shop/payments",
            "west",
            "a",
            Health::Draining,
            "127.0.0.1:1",
            80,
        );
        cluster(&mut s, "west").state = ClusterState::Draining;
        assert!(route(&s, &ask("west", "shop/payments", 80, None), 0).is_ok());
    }

    #[test]
    fn only_what_the_own_controller_named_is_passed_on_and_only_where_that_is_allowed() {
        use crate::{
            exits::tests::made,
            names::{
                NameTable,
                tests::{minter, sealed},
            },
        };
        const NOW: u64 = 1_800_000_000;
        let mut s = snapshot(&[("shop/payments", true, 80)]);
        let own = "10.0.0.9:1".to_owned();
        cluster(&mut s, "west").gateways = vec![own.clone()];
        cluster(&mut s, "east").gateways = vec!["10.0.0.1:1".into(), own, "10.0.0.2:1".into()];
        let seal = made(&mut s, 1, NOW + 60);
        let to = |seal| Target::Sealed {
            cluster: ClusterName::new("east").unwrap(),
            endpoint: None,
            seal,
        };
        let decide = |s: &Snapshot, pass_on, target: &Target, now_unix_s| {
            let s = Arc::new(s.clone());
            let names = NameTable::new(pass_on).of(&s);
            let now = Circumstances {
                pick: 1,
                now_unix_s,
            };
            super::route(&s, &names, target, now).map_err(|refused| refused.reason)
        };
        let passed = Route::PassOn(vec!["10.0.0.2:1".into(), "10.0.0.1:1".into()]);
        assert_eq!(
            decide(&s, true, &to(seal), NOW),
            Ok(passed),
            "and never to itself"
        );
        for (pass_on, target, now, refused) in [
            (false, to(seal), NOW, Refusal::OtherCluster),
            (true, to(seal), NOW + 60, Refusal::SealExpired),
            // Another cluster's name, or one made up under a key that was overheard.
            (
                true,
                to(sealed(
                    &minter("south", "east", 1),
                    "shop/payments",
                    NOW + 60,
                )),
                NOW,
                Refusal::SealUnknown,
            ),
            (
                true,
                ask("east", "shop/payments", 80, None),
                NOW,
                Refusal::OtherCluster,
            ),
            (
                true,
                Target::Controller {
                    cluster: ClusterName::new("east").unwrap(),
                },
                NOW,
                Refusal::OtherCluster,
            ),
        ] {
            assert_eq!(
                decide(&s, pass_on, &target, now),
                Err(refused),
                "{target:?}"
            );
        }
        cluster(&mut s, "east").gateways.clear();
        assert_eq!(
            decide(&s, true, &to(seal), NOW),
            Err(Refusal::ClusterUnreached)
        );
        cluster(&mut s, "east").state = ClusterState::Left;
        assert_eq!(decide(&s, true, &to(seal), NOW), Err(Refusal::OtherCluster));
    }

    #[test]
    fn a_name_in_clear_is_taken_until_all_seal_and_a_sealed_one_names_its_caller() {
        use crate::names::{
            NameTable,
            tests::{minter, opens, sealed},
        };
        let mut s = snapshot(&[("shop/payments", true, 80), ("shop/secret", false, 80)]);
        for service in ["shop/payments", "shop/secret"] {
            endpoint(
                &mut s,
                service,
                "west",
                "a",
                Health::Healthy,
                "127.0.0.1:1",
                80,
            );
        }
        opens(&mut s, "east", &[1]);
        let clear = ask("west", "shop/payments", 80, None);
        assert!(matches!(
            route(&s, &clear, 0),
            Ok(Route::Local { caller: None, .. })
        ));
        cluster(&mut s, "west").sealed_only = true;
        assert_eq!(route(&s, &clear, 0), Err(Refusal::NoSeal));
        let controller = Target::Controller {
            cluster: ClusterName::new("west").unwrap(),
        };
        assert_eq!(route(&s, &controller, 0), Ok(Route::Controller(Vec::new())));
        let s = Arc::new(s);
        let names = NameTable::default().of(&s);
        let ask_sealed = |service: &str, now_unix_s| {
            let target = Target::Sealed {
                cluster: ClusterName::new("west").unwrap(),
                endpoint: None,
                seal: sealed(&minter("east", "west", 1), service, 1_800_000_000),
            };
            let now = Circumstances {
                pick: 0,
                now_unix_s,
            };
            super::route(&s, &names, &target, now).map_err(|refused| refused.reason)
        };
        let Ok(Route::Local {
            caller, service, ..
        }) = ask_sealed("shop/payments", 1_799_999_999)
        else {
            panic!("it is good")
        };
        assert_eq!(
            (caller.unwrap().as_str(), service.to_string()),
            ("east", "shop/payments:80".into())
        );
        assert_eq!(
            ask_sealed("shop/payments", 1_800_000_000),
            Err(Refusal::SealExpired)
        );
        assert_eq!(
            ask_sealed("shop/secret", 1_799_999_999),
            Err(Refusal::NotExported)
        );
    }

    proptest! {
        /// Whatever the endpoints' states and the number drawn: something that exists is never treated as nothing, nobody takes
        /// the place of one that is named, and nothing unhealthy goes before something healthy.
        #[test]
        fn never_empty_never_worst_first(states in prop::collection::vec(0u8..4, 1..12), pick: u64, asked in 0usize..12) {
            let mut s = snapshot(&[("shop/payments", true, 80)]);
            for (i, state) in states.iter().enumerate() {
                let health = [Health::Healthy, Health::Unhealthy, Health::Unknown, Health::Draining][usize::from(*state)];
                endpoint(&mut s, "shop/payments", "west", &format!("e{i}"), health, "127.0.0.1:1", 80);
            }
            let t = ask("west", "shop/payments", 80, Some(&format!("e{asked}")));
            let ids = ids(route(&s, &t, pick).unwrap());
            prop_assert!(!ids.is_empty() && ids.len() <= MAX_TRIES);
            let first: usize = ids[0].trim_start_matches('e').parse().unwrap();
            if asked < states.len() {
                prop_assert_eq!((first, ids.len()), (asked, 1));
            } else if states.contains(&0) {
                prop_assert_eq!(states[first], 0);
            }
        }
    }
}
