//! Delta ADS, client side, as a pure state machine: responses in, answers and snapshots out.
//!
//! Owns the last accepted state of every resource and its version. A resource that cannot be read is rejected by name
//! and its last good state stays; the rest of the response counts. Never publishes a state of which a type is missing, or told in part.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use prost::Message;
use tradewind_api::{
    convert::{read_limits, read_openings, read_routes},
    id::{ClusterName, Revision, ServiceName},
    model::{Cluster, Service},
    proto::{
        CLUSTER_TYPE, LIMITS_TYPE, OPENINGS_TYPE, ROUTES_TYPE, SERVICE_TYPE, TRUST_NAME,
        TRUST_TYPE,
        discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node, Resource},
        rpc, v1,
    },
    shared::SharedMap,
    snapshot::{Snapshot, Trust},
};

/// The types asked for, in the order in which they are: whom to believe and where clusters are, then who serves.
pub const TYPES: [&str; 3] = [TRUST_TYPE, CLUSTER_TYPE, SERVICE_TYPE];

/// Most resources of one type: a federation of 100,000 services is beyond what is designed for, and memory is finite.
const MAX_RESOURCES: usize = 100_000;
/// Rejected resources named in one answer; more are counted, not named.
const MAX_NAMED: usize = 20;
/// gRPC's INVALID_ARGUMENT, which a rejection carries.
const INVALID_ARGUMENT: i32 = 3;

/// One resource that was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// Its name, as the controller gave it.
    pub name: String,
    /// Why.
    pub why: String,
}

/// What follows from one response.
#[derive(Debug)]
pub struct Step {
    /// The answer to send.
    pub reply: DeltaDiscoveryRequest,
    /// The new state, if there is a complete one and it changed.
    pub snapshot: Option<Arc<Snapshot>>,
    /// What was not taken.
    pub rejected: Vec<Rejected>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Trust,
    Cluster,
    Service,
    Openings,
    Routes,
    Limits,
}

impl Kind {
    fn of(type_url: &str) -> Option<Self> {
        match type_url {
            TRUST_TYPE => Some(Self::Trust),
            CLUSTER_TYPE => Some(Self::Cluster),
            SERVICE_TYPE => Some(Self::Service),
            OPENINGS_TYPE => Some(Self::Openings),
            ROUTES_TYPE => Some(Self::Routes),
            LIMITS_TYPE => Some(Self::Limits),
            _ => None,
        }
    }
}

#[derive(Default)]
struct PerType {
    // Accepted resources and their versions, told to the next controller.
    versions: BTreeMap<String, String>,
    // Answered at least once, ever.
    seen: bool,
    // Answered at least once on this stream.
    answered: bool,
    // The last response told a part, and the rest is on its way.
    partial: bool,
}

/// The protocol's state, over all streams of one process.
#[derive(Default)]
pub struct Client {
    state: Snapshot,
    trust: PerType,
    clusters: PerType,
    services: PerType,
    // Of gateways alone.
    openings: Option<PerType>,
    // Of proxies alone.
    routes: Option<PerType>,
    limits: Option<PerType>,
    published: Option<Arc<Snapshot>>,
    // Something changed that was not published, since the rest of it was on its way.
    withheld: bool,
    // The newest revision that any controller told of.
    newest: u64,
    // The response at hand is of a controller that is behind it.
    behind: bool,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client")
            .field("revision", &self.state.revision)
            .finish_non_exhaustive()
    }
}

impl Client {
    /// One that knows nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// One that asks for what opens sealed names too, as gateways do.
    pub fn with_openings() -> Self {
        Self {
            openings: Some(PerType::default()),
            ..Self::default()
        }
    }

    /// One that asks for what to do with requests and how many to take too, as proxies do.
    pub fn with_routes() -> Self {
        Self {
            routes: Some(PerType::default()),
            limits: Some(PerType::default()),
            ..Self::default()
        }
    }

    /// The first requests of a new stream: everything of each type, less what is already held.
    pub fn open(&mut self, node: &Node) -> Vec<DeltaDiscoveryRequest> {
        // Before services: whoever hears of an export is met by a gateway that opens its names.
        let [trust, clusters, services] = TYPES;
        // Behind them: rules speak of services.
        let rules = [ROUTES_TYPE, LIMITS_TYPE];
        [trust, clusters, OPENINGS_TYPE, services]
            .iter()
            .chain(&rules)
            .filter_map(|url| {
                let per_type = self.per_type(Kind::of(url)?)?;
                per_type.answered = false;
                Some(DeltaDiscoveryRequest {
                    node: Some(node.clone()),
                    type_url: (*url).to_owned(),
                    resource_names_subscribe: vec!["*".to_owned()],
                    initial_resource_versions: per_type.versions.clone().into_iter().collect(),
                    ..DeltaDiscoveryRequest::default()
                })
            })
            .collect()
    }

    /// True once every type was answered on the stream opened last.
    pub fn in_sync(&self) -> bool {
        self.all().all(|t| t.answered)
    }

    fn all(&self) -> impl Iterator<Item = &PerType> {
        [&self.trust, &self.clusters, &self.services]
            .into_iter()
            .chain(&self.openings)
            .chain(&self.routes)
            .chain(&self.limits)
    }

    /// Takes one response.
    pub fn receive(&mut self, response: DeltaDiscoveryResponse) -> Step {
        let mut reply = DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce,
            ..DeltaDiscoveryRequest::default()
        };
        let kind = Kind::of(&response.type_url).filter(|k| self.per_type(*k).is_some());
        let Some(kind) = kind else {
            let rejected = vec![Rejected {
                name: response.type_url,
                why: "this type was not asked for".to_owned(),
            }];
            reply.error_detail = Some(detail(&rejected));
            return Step {
                reply,
                snapshot: None,
                rejected,
            };
        };
        let revision = response.system_version_info.parse::<u64>().ok();
        self.behind = revision.is_some_and(|r| r < self.newest);
        let mut changed = false;
        let mut rejected = Vec::new();
        let mut names = BTreeSet::new();
        for resource in response.resources {
            let name = resource.name.clone();
            let taken = if names.insert(name.clone()) {
                self.take(kind, resource)
            } else {
                Err("it stands twice in one response".to_owned())
            };
            match taken {
                Ok(c) => changed |= c,
                Err(why) => rejected.push(Rejected { name, why }),
            }
        }
        for name in &response.removed_resources {
            changed |= self.remove(kind, name);
        }
        // Of a state that is told in several responses only the last has a version.
        let partial = response.system_version_info.is_empty();
        if let Some(per_type) = self.per_type(kind) {
            per_type.partial = partial;
            per_type.seen |= !partial;
            per_type.answered |= !partial;
        }
        if let Some(revision) = revision {
            self.state.revision = Revision(revision);
            self.newest = self.newest.max(revision);
        }
        if !rejected.is_empty() {
            reply.error_detail = Some(detail(&rejected));
        }
        self.withheld |= changed;
        let complete = self.all().all(|t| t.seen && !t.partial);
        let snapshot = match &self.published {
            Some(last) if !complete => {
                // Whom to believe waits for nothing: somebody may have been revoked.
                let trust = Arc::clone(&self.state.trust);
                let revoked = kind == Kind::Trust && changed;
                revoked.then(|| Snapshot {
                    trust,
                    ..Snapshot::clone(last)
                })
            }
            Some(_) if !self.withheld => None,
            None if !complete => None,
            Some(_) | None => {
                self.withheld = false;
                Some(self.state.clone())
            }
        };
        let snapshot = snapshot.map(Arc::new);
        if snapshot.is_some() {
            self.published.clone_from(&snapshot);
        }
        Step {
            reply,
            snapshot,
            rejected,
        }
    }

    /// None for a type that this client did not ask for.
    fn per_type(&mut self, kind: Kind) -> Option<&mut PerType> {
        match kind {
            Kind::Trust => Some(&mut self.trust),
            Kind::Cluster => Some(&mut self.clusters),
            Kind::Service => Some(&mut self.services),
            Kind::Openings => self.openings.as_mut(),
            Kind::Routes => self.routes.as_mut(),
            Kind::Limits => self.limits.as_mut(),
        }
    }

    // True when the state changed.
    fn take(&mut self, kind: Kind, resource: Resource) -> Result<bool, String> {
        let Some(body) = resource.resource else {
            // A heartbeat: the same version without a body.
            return Ok(false);
        };
        let Some(known) = self.per_type(kind) else {
            return Ok(false);
        };
        if known.versions.len() >= MAX_RESOURCES && !known.versions.contains_key(&resource.name) {
            return Err(format!("there are {MAX_RESOURCES} of its type already"));
        }
        let bytes = body.value.as_slice();
        let changed = match kind {
            Kind::Trust => {
                let trust = v1::Trust::decode(bytes).map_err(text)?;
                named(&resource.name, TRUST_NAME)?;
                let trust = Trust::try_from(trust).map_err(text)?;
                let held = &self.state.trust;
                // Another controller of the cluster may have heard of a revocation later than this process did.
                if self.behind && (&trust.domain, &trust.roots) == (&held.domain, &held.roots) {
                    return Ok(false);
                }
                let changed = *self.state.trust != trust;
                if changed {
                    self.state.trust = Arc::new(trust);
                }
                changed
            }
            Kind::Cluster => {
                let cluster =
                    Cluster::try_from(v1::Cluster::decode(bytes).map_err(text)?).map_err(text)?;
                named(&resource.name, cluster.name.as_str())?;
                put(&mut self.state.clusters, cluster.name.clone(), cluster)
            }
            Kind::Service => {
                let service =
                    Service::try_from(v1::Service::decode(bytes).map_err(text)?).map_err(text)?;
                named(&resource.name, &service.name.to_string())?;
                put_shared(&mut self.state.services, service.name.clone(), service)
            }
            Kind::Openings => {
                let openings = v1::Openings::decode(bytes).map_err(text)?;
                let (caller, keys) = read_openings(openings).map_err(text)?;
                named(&resource.name, caller.as_str())?;
                put(&mut self.state.openings, caller, keys)
            }
            Kind::Routes => {
                let routes = v1::Routes::decode(bytes).map_err(text)?;
                let (service, routes) = read_routes(&routes).map_err(text)?;
                named(&resource.name, &service.to_string())?;
                put_shared(&mut self.state.routes, service, routes)
            }
            Kind::Limits => {
                let limits = v1::LocalLimits::decode(bytes).map_err(text)?;
                let (object, limits) = read_limits(&limits).map_err(text)?;
                named(&resource.name, &object.to_string())?;
                put(&mut self.state.limits, object, limits)
            }
        };
        if let Some(per_type) = self.per_type(kind) {
            per_type.versions.insert(resource.name, resource.version);
        }
        Ok(changed)
    }

    fn remove(&mut self, kind: Kind, name: &str) -> bool {
        let versions = self.per_type(kind).map(|t| &mut t.versions);
        if versions.is_none_or(|v| v.remove(name).is_none()) {
            return false;
        }
        match kind {
            // A federation without trust is one nobody can speak in: the last good one stays until a new one comes.
            Kind::Trust => false,
            Kind::Cluster => {
                ClusterName::new(name).is_ok_and(|name| self.state.clusters.remove(&name).is_some())
            }
            Kind::Service => name
                .parse::<ServiceName>()
                .is_ok_and(|name| self.state.services.remove(&name).is_some()),
            Kind::Openings => {
                ClusterName::new(name).is_ok_and(|name| self.state.openings.remove(&name).is_some())
            }
            Kind::Routes => name
                .parse::<ServiceName>()
                .is_ok_and(|name| self.state.routes.remove(&name).is_some()),
            Kind::Limits => name
                .parse::<ServiceName>()
                .is_ok_and(|name| self.state.limits.remove(&name).is_some()),
        }
    }
}

/// Takes what is news.
fn put<K: Ord, V: PartialEq>(map: &mut BTreeMap<K, Arc<V>>, key: K, value: V) -> bool {
    if map.get(&key).is_some_and(|old| **old == value) {
        return false;
    }
    map.insert(key, Arc::new(value));
    true
}

/// The same for a map that is shared, which is copied in part, for news alone.
fn put_shared<K: Clone + Ord, V: PartialEq>(
    map: &mut SharedMap<K, Arc<V>>,
    key: K,
    value: V,
) -> bool {
    if map.get(&key).is_some_and(|old| **old == value) {
        return false;
    }
    map.insert(key, Arc::new(value));
    true
}

fn named(given: &str, inside: &str) -> Result<(), String> {
    if given == inside {
        Ok(())
    } else {
        Err(format!("inside it is named {inside:?}"))
    }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

fn detail(rejected: &[Rejected]) -> rpc::Status {
    let mut message: String = rejected
        .iter()
        .take(MAX_NAMED)
        .map(|r| format!("{}: {}", r.name, r.why))
        .collect::<Vec<_>>()
        .join("; ");
    if rejected.len() > MAX_NAMED {
        message.push_str(&format!("; and {} more", rejected.len() - MAX_NAMED));
    }
    rpc::Status {
        code: INVALID_ARGUMENT,
        message,
        details: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost_types::Any;

    use super::*;

    fn resource(name: &str, version: &str, url: &str, message: &impl Message) -> Resource {
        Resource {
            name: name.into(),
            version: version.into(),
            resource: Some(Any {
                type_url: url.into(),
                value: message.encode_to_vec(),
            }),
            aliases: vec![],
        }
    }

    fn service(name: &str, version: &str) -> Resource {
        let (namespace, short) = name.split_once('/').unwrap();
        let message = v1::Service {
            namespace: namespace.into(),
            name: short.into(),
            kind: v1::ServiceKind::ClusterSetIp.into(),
            ..v1::Service::default()
        };
        resource(name, version, SERVICE_TYPE, &message)
    }

    fn response(url: &str, revision: u64, resources: Vec<Resource>) -> DeltaDiscoveryResponse {
        DeltaDiscoveryResponse {
            system_version_info: revision.to_string(),
            resources,
            type_url: url.into(),
            nonce: format!("n{revision}"),
            removed_resources: vec![],
        }
    }

    fn trust() -> Resource {
        let message = v1::Trust {
            domain: "mesh.internal".into(),
            ..v1::Trust::default()
        };
        resource(TRUST_NAME, "t1", TRUST_TYPE, &message)
    }

    fn synced() -> Client {
        let mut client = Client::new();
        client.open(&Node::default());
        assert!(
            client
                .receive(response(TRUST_TYPE, 1, vec![trust()]))
                .snapshot
                .is_none()
        );
        assert!(
            client
                .receive(response(CLUSTER_TYPE, 1, vec![]))
                .snapshot
                .is_none()
        );
        assert!(!client.in_sync());
        let step = client.receive(response(
            SERVICE_TYPE,
            1,
            vec![service("shop/a", "1"), service("shop/b", "1")],
        ));
        assert_eq!(step.snapshot.unwrap().services.len(), 2);
        assert!(client.in_sync());
        client
    }

    #[test]
    fn the_first_snapshot_waits_for_every_type() {
        synced();
    }

    #[test]
    fn a_state_told_in_parts_is_published_once_it_is_whole() {
        let part = |url: &str, resources| DeltaDiscoveryResponse {
            system_version_info: String::new(),
            ..response(url, 2, resources)
        };
        let mut client = synced();
        let one = client.receive(part(SERVICE_TYPE, vec![service("shop/c", "1")]));
        assert!(one.snapshot.is_none() && one.reply.error_detail.is_none());
        // What comes between belongs to it, but for whom to believe.
        let between = client.receive(response(CLUSTER_TYPE, 2, vec![]));
        assert!(between.snapshot.is_none());
        let message = v1::Trust {
            domain: "other.internal".into(),
            ..v1::Trust::default()
        };
        let revoked = resource(TRUST_NAME, "t2", TRUST_TYPE, &message);
        let believed = client.receive(response(TRUST_TYPE, 2, vec![revoked]));
        let believed = believed.snapshot.unwrap();
        assert_eq!(believed.trust.domain.as_str(), "other.internal");
        assert_eq!(believed.services.len(), 2, "the rest is as it was");
        // Its controller ends in the middle of it; the next one tells the rest.
        let told = client.open(&Node::default());
        assert!(told[2].initial_resource_versions.contains_key("shop/c"));
        assert!(
            client
                .receive(response(TRUST_TYPE, 3, vec![]))
                .snapshot
                .is_none()
        );
        let rest = client.receive(response(SERVICE_TYPE, 3, vec![]));
        let whole = rest.snapshot.unwrap();
        assert_eq!((whole.services.len(), whole.revision), (3, Revision(3)));

        let mut new = Client::new();
        new.open(&Node::default());
        new.receive(response(TRUST_TYPE, 1, vec![trust()]));
        new.receive(response(CLUSTER_TYPE, 1, vec![]));
        let first = new.receive(part(SERVICE_TYPE, vec![service("shop/a", "1")]));
        assert!(first.snapshot.is_none() && !new.in_sync());
        let last = new.receive(response(SERVICE_TYPE, 1, vec![service("shop/b", "1")]));
        assert_eq!(last.snapshot.unwrap().services.len(), 2);
    }

    #[test]
    fn another_controller_that_is_behind_brings_back_nobody_who_was_revoked() {
        let trust = |authorities: &[&str], version: &str| {
            let of = |a: &&str| {
                let certificates_der = vec![a.as_bytes().to_vec()];
                let authorities = v1::TrustDomainAuthorities { certificates_der };
                (format!("{a}.mesh.internal"), authorities)
            };
            let message = v1::Trust {
                domain: "mesh.internal".into(),
                roots_der: vec![vec![1]],
                authorities: authorities.iter().map(of).collect(),
            };
            resource(TRUST_NAME, version, TRUST_TYPE, &message)
        };
        let mut client = synced();
        let believed = |client: &Client| client.state.trust.authorities.len();
        client.receive(response(TRUST_TYPE, 5, vec![trust(&["west"], "t5")]));
        client.receive(response(SERVICE_TYPE, 9, vec![]));
        assert_eq!(believed(&client), 1);
        // The next controller has not heard yet that east was revoked at 5.
        client.open(&Node::default());
        let stale = response(TRUST_TYPE, 4, vec![trust(&["west", "east"], "t4")]);
        let step = client.receive(stale);
        assert!(step.rejected.is_empty() && step.snapshot.is_none());
        assert_eq!(believed(&client), 1);
        let told = client.open(&Node::default());
        assert_eq!(told[0].initial_resource_versions[TRUST_NAME], "t5");
        // It catches up, and is believed again.
        let both = response(TRUST_TYPE, 10, vec![trust(&["west", "south"], "t10")]);
        client.receive(both);
        assert_eq!(believed(&client), 2);
    }

    #[test]
    fn openings_come_to_gateways_alone_and_before_their_first_snapshot() {
        let message = v1::Openings {
            caller: "west".into(),
            keys: vec![v1::OpeningKey {
                id: 5,
                secret: vec![1; 32],
            }],
        };
        let openings = || vec![resource("west", "1", OPENINGS_TYPE, &message)];
        let mut gateway = Client::with_openings();
        let asked = gateway.open(&Node::default());
        let types: Vec<_> = asked.iter().map(|r| r.type_url.as_str()).collect();
        assert_eq!(
            types,
            [TRUST_TYPE, CLUSTER_TYPE, OPENINGS_TYPE, SERVICE_TYPE]
        );
        for (url, resources) in [
            (TRUST_TYPE, vec![trust()]),
            (CLUSTER_TYPE, vec![]),
            (SERVICE_TYPE, vec![]),
        ] {
            assert!(
                gateway
                    .receive(response(url, 1, resources))
                    .snapshot
                    .is_none()
            );
        }
        let step = gateway.receive(response(OPENINGS_TYPE, 1, openings()));
        let west = ClusterName::new("west").unwrap();
        assert_eq!(step.snapshot.unwrap().openings[&west][0].id, 5);
        let mut gone = response(OPENINGS_TYPE, 2, vec![]);
        gone.removed_resources = vec!["west".into()];
        assert!(gateway.receive(gone).snapshot.unwrap().openings.is_empty());
        // A proxy did not ask.
        let step = synced().receive(response(OPENINGS_TYPE, 1, openings()));
        assert!(step.reply.error_detail.is_some() && step.snapshot.is_none());
    }

    #[test]
    fn limits_come_to_proxies_and_what_is_not_understood_leaves_the_last_in_force() {
        let limits = |json: &str| v1::LocalLimits {
            namespace: "shop".into(),
            name: "cart".into(),
            limits: json.as_bytes().to_vec(),
        };
        let sent = |revision: u64, json: &str| {
            let version = revision.to_string();
            let one = resource("shop/cart", &version, LIMITS_TYPE, &limits(json));
            response(LIMITS_TYPE, revision, vec![one])
        };
        let mut proxy = Client::with_routes();
        let asked = proxy.open(&Node::default());
        let types: Vec<_> = asked.iter().map(|r| r.type_url.as_str()).collect();
        let [trusted, clusters, services] = TYPES;
        let all = [trusted, clusters, services, ROUTES_TYPE, LIMITS_TYPE];
        assert_eq!(types, all);
        proxy.receive(response(TRUST_TYPE, 1, vec![trust()]));
        for url in [CLUSTER_TYPE, SERVICE_TYPE, ROUTES_TYPE] {
            assert!(proxy.receive(response(url, 1, vec![])).snapshot.is_none());
        }
        let cart: ServiceName = "shop/cart".parse().unwrap();
        let step = proxy.receive(sent(1, r#"{"labels":{"app":"cart"},"limits":[]}"#));
        let first = Arc::clone(&step.snapshot.unwrap().limits[&cart]);
        assert_eq!(first.labels["app"], "cart");
        let newer = proxy.receive(sent(2, r#"{"limits":[],"weather":1}"#));
        assert!(newer.rejected[0].why.contains("weather"), "{newer:?}");
        assert!(newer.snapshot.is_none());
        let mut gone = response(LIMITS_TYPE, 3, vec![]);
        gone.removed_resources = vec!["shop/cart".into()];
        assert!(proxy.receive(gone).snapshot.unwrap().limits.is_empty());
    }

    #[test]
    fn a_bad_resource_is_rejected_by_name_and_the_rest_is_taken() {
        let mut client = synced();
        let mut bad = service("shop/a", "2");
        bad.resource.as_mut().unwrap().value = vec![0xff; 9];
        let step = client.receive(response(SERVICE_TYPE, 2, vec![bad, service("shop/c", "1")]));
        let detail = step.reply.error_detail.unwrap();
        assert!(detail.message.starts_with("shop/a: "), "{}", detail.message);
        assert_eq!(step.reply.response_nonce, "n2");
        let snapshot = step.snapshot.unwrap();
        assert_eq!(
            snapshot.services.len(),
            3,
            "the last good shop/a stays, shop/c is new"
        );
        let again = client.open(&Node::default());
        let services = again.iter().find(|r| r.type_url == SERVICE_TYPE).unwrap();
        assert_eq!(
            services.initial_resource_versions["shop/a"], "1",
            "the rejected version is not claimed"
        );
    }

    #[test]
    fn a_name_that_stands_twice_or_lies_is_rejected() {
        let mut client = synced();
        let twice = client.receive(response(
            SERVICE_TYPE,
            2,
            vec![service("shop/d", "1"), service("shop/d", "2")],
        ));
        assert_eq!(twice.rejected.len(), 1);
        let mut lying = service("shop/e", "1");
        lying.name = "shop/f".into();
        assert_eq!(
            client
                .receive(response(SERVICE_TYPE, 3, vec![lying]))
                .rejected[0]
                .name,
            "shop/f"
        );
    }

    #[test]
    fn removals_of_unknown_names_change_nothing() {
        let mut client = synced();
        let mut removal = response(SERVICE_TYPE, 2, vec![]);
        removal.removed_resources = vec!["shop/nobody".into(), "///".into()];
        assert!(client.receive(removal.clone()).snapshot.is_none());
        removal.removed_resources.push("shop/a".into());
        let snapshot = client.receive(removal).snapshot.unwrap();
        assert_eq!(
            snapshot
                .services
                .keys()
                .map(ToString::to_string)
                .collect::<Vec<_>>(),
            ["shop/b"]
        );
    }

    #[test]
    fn what_did_not_change_is_shared_between_snapshots() {
        let mut client = synced();
        let one = client
            .receive(response(SERVICE_TYPE, 2, vec![service("shop/c", "1")]))
            .snapshot
            .unwrap();
        let two = client
            .receive(response(SERVICE_TYPE, 3, vec![service("shop/d", "1")]))
            .snapshot
            .unwrap();
        let a = "shop/a".parse().unwrap();
        assert!(Arc::ptr_eq(&one.services[&a], &two.services[&a]));
        assert_eq!(two.revision, Revision(3));
    }

    #[test]
    fn a_reconnect_tells_versions_and_needs_a_new_round_to_be_in_sync() {
        let mut client = synced();
        let requests = client.open(&Node::default());
        assert!(!client.in_sync());
        assert_eq!(requests.len(), 3);
        assert!(
            requests
                .iter()
                .all(|r| r.resource_names_subscribe == ["*"] && r.response_nonce.is_empty())
        );
        for url in TYPES {
            assert!(
                client.receive(response(url, 1, vec![])).snapshot.is_none(),
                "nothing changed"
            );
        }
        assert!(client.in_sync());
    }

    #[test]
    fn a_type_that_was_not_asked_for_is_refused() {
        let step = Client::new().receive(response("type.googleapis.com/other", 1, vec![]));
        assert!(step.reply.error_detail.is_some());
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered(names in proptest::collection::vec(".{0,20}", 0..4), bytes in any::<Vec<u8>>(), kind in 0usize..3) {
            let mut client = synced();
            let url = TYPES[kind];
            let resources = names.iter().map(|name| Resource {
                name: name.clone(), version: "1".into(), aliases: vec![],
                resource: Some(Any { type_url: url.into(), value: bytes.clone() }),
            }).collect();
            let mut r = response(url, 9, resources);
            r.removed_resources = names;
            let step = client.receive(r);
            prop_assert_eq!(step.reply.response_nonce, "n9");
        }
    }
}
