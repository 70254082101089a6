//! Rules for calls: what the files say of them, with the services that this cluster knows, as they are pushed to proxies. Pure but for
//! what it remembers.
//!
//! Owns the last that was compiled, so that what did not change keeps its allocation. It compiles when objects or services' ports change, and
//! not when endpoints come and go.

use std::{collections::BTreeMap, sync::Arc};

use tradewind_api::{ServiceName, model::Service, route::Routes};
use tradewind_policy::{Finding, Object, Policy, World, compile};

/// See the module.
#[derive(Debug, Default)]
pub struct Rules {
    objects: Vec<Object>,
    world: World,
    routes: BTreeMap<ServiceName, Arc<Routes>>,
    findings: Vec<Finding>,
}

impl Rules {
    /// Looks at what there is now.
    pub fn look(&mut self, objects: &[Object], services: &BTreeMap<ServiceName, Arc<Service>>) {
        if objects.is_empty() {
            *self = Self::default();
            return;
        }
        let mut world = World::default();
        for service in services.values() {
            let ports = service.ports.iter().map(|p| (p.name.clone(), p.port));
            world.services.insert(service.name.clone(), ports.collect());
        }
        if objects == self.objects && world == self.world {
            return;
        }
        let Policy { routes, findings } = compile(objects, &world);
        let before = std::mem::take(&mut self.routes);
        let reuse = |(name, routes): (ServiceName, Routes)| {
            let same = before.get(&name).filter(|b| ***b == routes).cloned();
            (name, same.unwrap_or_else(|| Arc::new(routes)))
        };
        self.routes = routes.into_iter().map(reuse).collect();
        (self.findings, self.objects, self.world) = (findings, objects.to_vec(), world);
    }

    /// By the service that is called.
    pub fn routes(&self) -> &BTreeMap<ServiceName, Arc<Routes>> {
        &self.routes
    }

    /// What is wrong or without effect.
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tradewind_api::model::{AppProtocol, ServiceKind, ServicePort};

    fn service(name: &str, port: u16) -> (ServiceName, Arc<Service>) {
        let name: ServiceName = name.parse().unwrap();
        let service = Service {
            name: name.clone(),
            kind: ServiceKind::ClusterSetIp,
            clusterset_ips: vec![],
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

    fn split(name: &str, root: &str) -> Object {
        let value = serde_json::json!({
            "apiVersion": "split.smi-spec.io/v1alpha4",
            "kind": "TrafficSplit",
            "metadata": { "name": name, "namespace": "shop" },
            "spec": { "service": root, "backends": [{ "service": "pay", "weight": 1 }] },
        });
        Object::new("a.yaml:1", value).unwrap()
    }

    #[test]
    fn rules_follow_objects_and_services_and_keep_what_did_not_change() {
        let mut rules = Rules::default();
        let cart: ServiceName = "shop/cart".parse().unwrap();
        let mut services: BTreeMap<_, _> = [service("shop/cart", 80)].into();
        let one = [split("one", "cart")];
        rules.look(&one, &services);
        assert_eq!(rules.routes().len(), 1);
        assert_eq!(rules.findings().len(), 1, "nobody knows the backend yet");
        let before = Arc::clone(&rules.routes()[&cart]);

        services.extend([service("shop/pay", 80)]);
        rules.look(&one, &services);
        assert!(rules.findings().is_empty(), "{:?}", rules.findings());
        let known = Arc::clone(&rules.routes()[&cart]);
        assert_ne!(before, known);

        services.extend([service("shop/other", 80)]);
        rules.look(&[split("one", "cart"), split("two", "other")], &services);
        assert!(Arc::ptr_eq(&known, &rules.routes()[&cart]));
        assert_eq!(rules.routes().len(), 2);
        rules.look(&[], &services);
        assert!(rules.routes().is_empty());
    }
}
