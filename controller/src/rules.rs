//! Rules for calls: what the files say of them, with the services that this cluster knows, and what other clusters publish for callers
//! everywhere, as they are pushed to proxies. Pure but for what it remembers.
//!
//! Owns the last that was compiled, so that what did not change keeps its allocation. It compiles when objects or services' ports change, and
//! not when endpoints come and go.

pub mod producers;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde::Serialize;
use tradewind_api::{
    ClusterName, ServiceName,
    limit::{Limits, LocalLimits},
    model::{Cluster, Service},
    route::Routes,
    shared::SharedMap,
    store::PublishedRules,
};
use tradewind_policy::{Compiled, Compiler, Edits, Object, RouteStatus, World};

use producers::{Offer, Offers};

/// Most bytes that one service's rules may take as they travel: a few thousand rules. Sixteen times as much is what a proxy
/// takes in one message, and one that it does not take would hold up everything else that it is to know.
const MAX_BYTES: usize = 4 << 20;

type Objects = Arc<Vec<Arc<Object>>>;
type Services = SharedMap<ServiceName, Arc<Service>>;
type Clusters = BTreeMap<ClusterName, Arc<Cluster>>;

/// See the module.
#[derive(Debug, Default)]
pub struct Rules {
    objects: Objects,
    /// What the world was made of.
    seen: (Services, Clusters),
    world: Arc<World>,
    compiler: Compiler,
    /// What the own cluster's objects say, and what is wrong in them.
    own: BTreeMap<ServiceName, Arc<Routes>>,
    findings: Vec<String>,
    /// Services whose rules are not those that their objects say, and why.
    too_large: BTreeMap<ServiceName, String>,
    /// What Gateway API's routes among the objects are told of themselves.
    statuses: Arc<Vec<Arc<RouteStatus>>>,
    /// How much workloads take, by the object that says it.
    limits: Limits<Arc<LocalLimits>>,
    offers: Offers,
    published: SharedMap<ServiceName, Arc<PublishedRules>>,
    /// What was made of each service's, so that only what changed is made again.
    told: BTreeMap<ServiceName, Told>,
    merged: BTreeMap<ServiceName, Merged>,
    routes: SharedMap<ServiceName, Arc<Routes>>,
    problems: Arc<Vec<String>>,
}

/// What is published of a service's own rules.
#[derive(Clone, Debug)]
struct Told {
    own: Arc<Routes>,
    problems: Vec<String>,
}

/// What its own and the others' rules for a service make together.
#[derive(Clone, Debug)]
struct Merged {
    own: Option<Arc<Routes>>,
    offered: Vec<Offer>,
    problems: Vec<String>,
}

/// Which services' rules may be others than before.
#[derive(Debug)]
enum Anew {
    All,
    These(BTreeSet<ServiceName>),
}

impl Rules {
    /// Looks at what there is now: objects, services and clusters, and what other clusters publish.
    pub fn look(
        &mut self,
        objects: &Objects,
        (services, clusters): (&Services, &Clusters),
        offers: Offers,
    ) {
        if objects.is_empty() && offers.is_empty() {
            *self = Self::default();
            return;
        }
        let (mut same, mut services_changed) = (true, false);
        if !self.seen.0.differing(services).is_empty() || !are_same(&self.seen.1, clusters) {
            let world = world(services, clusters);
            services_changed = !world.services.keys().eq(self.world.services.keys());
            same = world == *self.world;
            if !same {
                self.world = Arc::new(world);
            }
        }
        self.seen = (services.clone(), clusters.clone());
        if !Arc::ptr_eq(objects, &self.objects) {
            same &= **objects == *self.objects;
            self.objects = Arc::clone(objects);
        }
        let offers_changed = offers != self.offers;
        if same && !offers_changed {
            return;
        }
        let mut anew = match same {
            true => Anew::These(BTreeSet::new()),
            false => self.compile(),
        };
        if services_changed || offers_changed {
            anew = Anew::All;
        }
        self.offers = offers;
        self.merge(anew, services_changed);
    }

    fn compile(&mut self) -> Anew {
        let policy = match self.compiler.look(&self.objects, &self.world) {
            Compiled::All(policy) => policy,
            Compiled::Edits(edits) => return self.edit(edits),
        };
        self.statuses = Arc::new(policy.statuses);
        self.findings = policy.findings.iter().map(ToString::to_string).collect();
        self.too_large.clear();
        let routes = policy.routes;
        if !self.own.keys().eq(routes.keys()) {
            self.own.retain(|name, _| routes.contains_key(name));
            self.told.retain(|name, _| routes.contains_key(name));
            self.published.retain(|name, _| routes.contains_key(name));
        }
        let names: Vec<_> = routes.keys().cloned().collect();
        for (name, routes) in routes {
            self.own(name, routes);
        }
        self.limit(policy.limits);
        names.iter().for_each(|name| self.publish(name));
        Anew::All
    }

    fn edit(&mut self, edits: Edits) -> Anew {
        let statuses = Arc::make_mut(&mut self.statuses);
        for status in edits.statuses {
            if let Ok(at) = statuses.binary_search_by(|s| s.key().cmp(&status.key()))
                && let Some(known) = statuses.get_mut(at)
            {
                *known = status;
            }
        }
        let names = edits.routes.keys().cloned().collect();
        for (name, routes) in edits.routes {
            self.too_large.remove(&name);
            match routes {
                Some(routes) => {
                    self.own(name.clone(), routes);
                    self.publish(&name);
                }
                None => {
                    self.own.remove(&name);
                    self.told.remove(&name);
                    if self.published.contains_key(&name) {
                        self.published.remove(&name);
                    }
                }
            }
        }
        Anew::These(names)
    }

    /// What the own cluster's objects say of one service. What is the same keeps its allocation.
    fn own(&mut self, name: ServiceName, routes: Routes) {
        match self.own.get(&name) {
            Some(same) if **same == routes => {}
            _ if is_too_large(&routes) => {
                let text = format!(
                    "the rules for {name} take more than {MAX_BYTES} bytes; those before them stay in force: split the service, or its rules"
                );
                self.too_large.insert(name, text);
            }
            _ => drop(self.own.insert(name, Arc::new(routes))),
        }
    }

    /// Limits that are the same keep their allocation.
    fn limit(&mut self, limits: Limits<Arc<LocalLimits>>) {
        let before = std::mem::take(&mut self.limits);
        for (name, limits) in limits {
            let known = before.get(&name);
            let kept = match known.filter(|k| **k == limits) {
                Some(same) => Some(Arc::clone(same)),
                None if is_too_large(&limits) => {
                    self.findings.push(format!(
                        "the limits of {name} take more than {MAX_BYTES} bytes; those before them stay in force: split the object"
                    ));
                    known.cloned()
                }
                None => Some(limits),
            };
            self.limits.extend(kept.map(|limits| (name, limits)));
        }
    }

    /// Only what changed is written out again: most rules do not, when one does.
    fn publish(&mut self, name: &ServiceName) {
        let Some(own) = self.own.get(name) else {
            return;
        };
        let told = self.told.get(name);
        if told.is_some_and(|told| Arc::ptr_eq(&told.own, own)) {
            return;
        }
        let mut problems = Vec::new();
        let before = self.published.get(name);
        match producers::published(name, own, before, &mut problems) {
            Some(rules) if before == Some(&rules) => {}
            Some(rules) => drop(self.published.insert(name.clone(), rules)),
            None if before.is_some() => drop(self.published.remove(name)),
            None => {}
        }
        let own = Arc::clone(own);
        self.told.insert(name.clone(), Told { own, problems });
    }

    fn merge(&mut self, anew: Anew, known_services_changed: bool) {
        match anew {
            Anew::All => {
                let known = self.merged.keys().chain(self.own.keys());
                let names: BTreeSet<_> = known.chain(self.offers.keys()).cloned().collect();
                for name in &names {
                    self.merge_one(name, known_services_changed);
                }
            }
            Anew::These(names) => {
                for name in &names {
                    self.merge_one(name, known_services_changed);
                }
            }
        }
        let told = self.told.values().flat_map(|told| &told.problems);
        let merged = self.merged.values().flat_map(|merged| &merged.problems);
        let findings = self.findings.iter().chain(self.too_large.values());
        let problems = || findings.clone().chain(told.clone()).chain(merged.clone());
        if !problems().eq(self.problems.iter()) {
            self.problems = Arc::new(problems().cloned().collect());
        }
    }

    fn merge_one(&mut self, name: &ServiceName, known_services_changed: bool) {
        let is_known = |name: &ServiceName| self.world.services.contains_key(name);
        let own = self.own.get(name);
        let offered = self.offers.get(name).map_or(&[][..], Vec::as_slice);
        let last = self.routes.get(name);
        if own.is_none() && offered.is_empty() {
            self.merged.remove(name);
            if last.is_some() {
                self.routes.remove(name);
            }
            return;
        }
        let same = self.merged.get(name).is_some_and(|m| {
            let own_is = match (&m.own, own) {
                (Some(a), Some(b)) => Arc::ptr_eq(a, b),
                (a, b) => a.is_none() && b.is_none(),
            };
            own_is && m.offered == offered && !known_services_changed
        });
        if same {
            return;
        }
        let mut problems = Vec::new();
        let now = producers::merged(name, own, offered, is_known, &mut problems);
        let merged = Merged {
            own: own.cloned(),
            offered: offered.to_vec(),
            problems,
        };
        match (now, last) {
            (Some(now), Some(last)) if *last == now => {}
            (Some(now), _) => drop(self.routes.insert(name.clone(), now)),
            (None, Some(_)) => drop(self.routes.remove(name)),
            (None, None) => {}
        }
        self.merged.insert(name.clone(), merged);
    }

    /// By the service that is called.
    pub fn routes(&self) -> &SharedMap<ServiceName, Arc<Routes>> {
        &self.routes
    }

    /// How much workloads take, by the object that says it.
    pub fn limits(&self) -> &Limits<Arc<LocalLimits>> {
        &self.limits
    }

    /// What callers elsewhere are told, by the service.
    pub fn published(&self) -> &SharedMap<ServiceName, Arc<PublishedRules>> {
        &self.published
    }

    /// What Gateway API's routes among the objects are told of themselves, by kind, namespace and name, as their rules were compiled; for
    /// whoever writes it into them.
    pub fn statuses(&self) -> &Arc<Vec<Arc<RouteStatus>>> {
        &self.statuses
    }

    /// What is wrong or without effect.
    pub fn problems(&self) -> &Arc<Vec<String>> {
        &self.problems
    }
}

/// Whether nothing was replaced: what did not change keeps its allocation, so that nothing else needs to be looked at.
fn are_same<K: PartialEq, V>(a: &BTreeMap<K, Arc<V>>, b: &BTreeMap<K, Arc<V>>) -> bool {
    let values = || a.values().zip(b.values());
    a.len() == b.len() && values().all(|(a, b)| Arc::ptr_eq(a, b)) && a.keys().eq(b.keys())
}

/// What rules refer to: services with their ports, which labels their endpoints have, and regions. Endpoints that come and go change
/// it only with the last one, or the first one, that has some labels.
pub fn world(services: &Services, clusters: &Clusters) -> World {
    let mut world = World::default();
    for service in services.values() {
        let ports = service.ports.iter().map(|p| (p.name.clone(), p.port));
        world.services.insert(service.name.clone(), ports.collect());
        let labels = service.endpoints.iter().map(|e| e.labels.clone());
        world.labels.insert(service.name.clone(), labels.collect());
    }
    let regions = clusters.values().map(|c| c.region.to_string());
    world.regions = Some(regions.collect());
    world
}

/// As they travel: as JSON, in which each rule has its action for itself.
fn is_too_large(rules: &impl Serialize) -> bool {
    serde_json::to_vec(rules).is_ok_and(|json| json.len() > MAX_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tradewind_api::model::{AppProtocol, ServiceKind, ServicePort};
    use tradewind_policy::Reason;

    fn service(name: &str, port: u16) -> (ServiceName, Arc<Service>) {
        let name: ServiceName = name.parse().unwrap();
        let service = Service {
            name: name.clone(),
            kind: ServiceKind::ClusterSetIp,
            clusterset_ips: vec![],
            cluster_ips: Vec::new(),
            ports: vec![ServicePort {
                name: "http".into(),
                port,
                app_protocol: AppProtocol::Http1,
            }],
            exported_by: [].into(),
            endpoints: vec![],
            seals: vec![],
        };
        (name, Arc::new(service))
    }

    fn split(name: &str, root: &str) -> Arc<Object> {
        let value = serde_json::json!({
            "apiVersion": "split.smi-spec.io/v1alpha4",
            "kind": "TrafficSplit",
            "metadata": { "name": name, "namespace": "shop" },
            "spec": { "service": root, "backends": [{ "service": "pay", "weight": 1 }] },
        });
        Arc::new(Object::new("a.yaml:1", value).unwrap())
    }

    #[test]
    fn rules_follow_objects_and_services_and_keep_what_did_not_change() {
        let mut rules = Rules::default();
        let cart: ServiceName = "shop/cart".parse().unwrap();
        let mut services = Services::from([service("shop/cart", 80)]);
        let one = Arc::new(vec![split("one", "cart")]);
        rules.look(&one, (&services, &BTreeMap::new()), Offers::new());
        assert_eq!(rules.routes().len(), 1);
        assert_eq!(rules.problems().len(), 1, "nobody knows the backend yet");
        let before = Arc::clone(&rules.routes()[&cart]);

        services.extend([service("shop/pay", 80)]);
        rules.look(&one, (&services, &BTreeMap::new()), Offers::new());
        assert!(rules.problems().is_empty(), "{:?}", rules.problems());
        let known = Arc::clone(&rules.routes()[&cart]);
        assert_ne!(before, known);

        services.extend([service("shop/other", 80)]);
        rules.look(
            &Arc::new(vec![split("one", "cart"), split("two", "other")]),
            (&services, &BTreeMap::new()),
            Offers::new(),
        );
        assert!(Arc::ptr_eq(&known, &rules.routes()[&cart]));
        assert_eq!(rules.routes().len(), 2);
        rules.look(
            &Arc::default(),
            (&services, &BTreeMap::new()),
            Offers::new(),
        );
        assert!(rules.routes().is_empty());
    }

    #[test]
    fn routes_are_told_of_themselves_as_their_rules_change() {
        let value = serde_json::json!({
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "HTTPRoute",
            "metadata": { "name": "r", "namespace": "shop", "generation": 3 },
            "spec": {
                "parentRefs": [{ "group": "", "kind": "Service", "name": "cart" }],
                "rules": [{ "backendRefs": [{ "name": "pay", "port": 80 }] }],
            },
        });
        let objects = Arc::new(vec![Arc::new(Object::new("a.yaml:1", value).unwrap())]);
        let mut rules = Rules::default();
        let mut services = Services::from([service("shop/cart", 80)]);
        let mut reasons = |services: &Services, objects: &Objects| {
            rules.look(objects, (services, &BTreeMap::new()), Offers::new());
            let all = rules.statuses().iter().flat_map(|s| s.parents.clone());
            let conditions = all.flat_map(|p| p.conditions);
            conditions.map(|c| c.reason).collect::<Vec<_>>()
        };
        assert_eq!(
            reasons(&services, &objects),
            [Reason::Accepted, Reason::BackendNotFound]
        );
        services.extend([service("shop/pay", 80)]);
        assert_eq!(
            reasons(&services, &objects),
            [Reason::Accepted, Reason::ResolvedRefs]
        );
        assert!(reasons(&services, &Arc::default()).is_empty());
    }

    /// One object of many is edited: only its service is looked at, and what is found is what looking at all of it anew finds.
    #[test]
    fn an_edit_is_what_making_all_anew_would_be() {
        let route = |name: &str, service: &str, path: &str, backend: &str| {
            let value = serde_json::json!({
                "apiVersion": "gateway.networking.k8s.io/v1",
                "kind": "HTTPRoute",
                "metadata": { "name": name, "namespace": "shop" },
                "spec": {
                    "parentRefs": [{ "group": "", "kind": "Service", "name": service }],
                    "rules": [{
                        "matches": [{ "path": { "type": "PathPrefix", "value": path } }],
                        "backendRefs": [{ "name": backend, "port": 80 }],
                    }],
                },
            });
            Arc::new(Object::new("a.yaml:1", value).unwrap())
        };
        let services: Services = ["shop/cart", "shop/pay", "shop/stock"]
            .map(|name| service(name, 80))
            .into();
        let mut objects = vec![
            route("a", "cart", "/a", "pay"),
            route("b", "pay", "/b", "cart"),
            split("c", "stock"),
        ];
        let mut rules = Rules::default();
        let mut look = |objects: &[Arc<Object>]| {
            let objects = Arc::new(objects.to_vec());
            let known = (&services, &BTreeMap::new());
            rules.look(&objects, known, Offers::new());
            let mut anew = Rules::default();
            anew.look(&objects, known, Offers::new());
            assert_eq!(rules.routes(), anew.routes());
            assert_eq!(rules.published(), anew.published());
            assert_eq!(rules.problems(), anew.problems());
            assert_eq!(rules.statuses(), anew.statuses());
            rules.routes().clone()
        };
        let mut last = look(&objects);
        let mut edit = |at: usize, with: Arc<Object>, changed: &[&str]| {
            objects[at] = with;
            let now = look(&objects);
            let names = now.differing(&last).into_iter().map(ToString::to_string);
            assert_eq!(names.collect::<Vec<_>>(), changed);
            last = now;
        };
        edit(0, route("a", "cart", "/other", "pay"), &["shop/cart"]);
        // Another service, which has rules of somebody else.
        edit(
            0,
            route("a", "pay", "/a", "pay"),
            &["shop/cart", "shop/pay"],
        );
        // One that nobody knows: a problem more, and one less again.
        edit(0, route("a", "pay", "/a", "gone"), &["shop/pay"]);
        edit(
            0,
            route("a", "cart", "/a", "pay"),
            &["shop/cart", "shop/pay"],
        );
        edit(2, split("c", "cart"), &["shop/stock"]);
        edit(2, split("d", "stock"), &["shop/stock"]);
    }

    #[test]
    fn limits_follow_objects_and_keep_what_did_not_change() {
        let limit = |name: &str, tokens: u32| {
            let all = serde_json::json!({ "default_value": { "numerator": 100 } });
            let value = serde_json::json!({
                "apiVersion": "networking.istio.io/v1alpha3",
                "kind": "EnvoyFilter",
                "metadata": { "name": name, "namespace": "shop" },
                "spec": { "configPatches": [{
                    "applyTo": "HTTP_FILTER",
                    "match": { "context": "SIDECAR_INBOUND" },
                    "patch": { "operation": "INSERT_BEFORE", "value": {
                        "name": "envoy.filters.http.local_ratelimit",
                        "typed_config": {
                            "@type": "type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit",
                            "token_bucket": { "max_tokens": tokens, "fill_interval": "1s" },
                            "filter_enabled": all, "filter_enforced": all,
                        },
                    } },
                }] },
            });
            Arc::new(Object::new("a.yaml:1", value).unwrap())
        };
        let mut rules = Rules::default();
        let mut services = Services::from([service("shop/cart", 80)]);
        let mut look = |objects: &[Arc<Object>], services: &Services| {
            let objects = Arc::new(objects.to_vec());
            rules.look(&objects, (services, &BTreeMap::new()), Offers::new());
            (rules.limits().clone(), rules.problems().to_vec())
        };
        let (first, problems) = look(&[limit("a", 1), limit("b", 2)], &services);
        assert!(
            problems[0].contains("TW0231"),
            "nobody is there yet: {problems:?}"
        );
        let [a, b] = ["shop/a", "shop/b"].map(|n| n.parse::<ServiceName>().unwrap());
        services.extend([service("shop/other", 80)]);
        let (now, _) = look(&[limit("a", 1), limit("b", 3)], &services);
        assert!(Arc::ptr_eq(&first[&a], &now[&a]));
        assert_eq!(now[&b].limits[0].bucket.unwrap().max_tokens, 3);
        let (now, _) = look(&[limit("a", 1)], &services);
        assert!(now.keys().eq([&a]));
        assert!(look(&[], &services).0.is_empty());
    }

    #[test]
    fn a_subset_nobody_is_in_is_told_until_somebody_is() {
        let value = serde_json::json!({
            "apiVersion": "networking.istio.io/v1",
            "kind": "DestinationRule",
            "metadata": { "name": "cart", "namespace": "shop" },
            "spec": {
                "host": "cart",
                "subsets": [{ "name": "v2", "labels": { "version": "v2" } }],
            },
        });
        let objects = Arc::new(vec![Arc::new(Object::new("a.yaml:1", value).unwrap())]);
        let (name, cart) = service("shop/cart", 80);
        let mut rules = Rules::default();
        let mut look = |cart: Service| {
            let services = Services::from([(name.clone(), Arc::new(cart))]);
            rules.look(&objects, (&services, &BTreeMap::new()), Offers::new());
            (
                rules.problems().to_vec(),
                rules.routes()[&name].traffic.len(),
            )
        };
        let (problems, policies) = look(Service::clone(&cart));
        assert_eq!((problems.len(), policies), (1, 1));
        assert!(problems[0].contains("TW0226"), "{problems:?}");
        let endpoint = serde_json::json!({
            "id": "abcdefghijklm", "cluster": "west", "region": "r", "weight": 100,
            "health": "healthy", "identity": "spiffe://west.mesh.internal/ns/shop/sa/cart",
            "ports": [80], "labels": { "version": "v2" },
        });
        let mut with = Service::clone(&cart);
        with.endpoints = vec![serde_json::from_value(endpoint).unwrap()];
        assert_eq!(look(with), (vec![], 1));
    }

    #[test]
    fn rules_that_would_not_fit_a_message_leave_those_before_them_in_force() {
        let object = |matches: usize| {
            let one = serde_json::json!({ "uri": { "exact": "/a" } });
            let value = serde_json::json!({
                "apiVersion": "networking.istio.io/v1",
                "kind": "VirtualService",
                "metadata": { "name": "large", "namespace": "shop" },
                "spec": { "hosts": ["cart"], "http": [{
                    "match": vec![one; matches],
                    "directResponse": { "status": 200, "body": { "string": "x".repeat(10_000) } },
                }] },
            });
            Arc::new(vec![Arc::new(Object::new("a.yaml:1", value).unwrap())])
        };
        let services = Services::from([service("shop/cart", 80)]);
        let cart: ServiceName = "shop/cart".parse().unwrap();
        let mut rules = Rules::default();
        rules.look(&object(1), (&services, &BTreeMap::new()), Offers::new());
        let before = Arc::clone(&rules.routes()[&cart]);
        rules.look(&object(300), (&services, &BTreeMap::new()), Offers::new());
        assert!(Arc::ptr_eq(&before, &rules.routes()[&cart]));
        let last = rules.problems().last().unwrap();
        assert!(
            last.contains("the rules for shop/cart take more than"),
            "{last}"
        );
        let mut new = Rules::default();
        new.look(&object(300), (&services, &BTreeMap::new()), Offers::new());
        assert!(new.routes().is_empty());
    }
}
