//! Edits of objects: what a look tells of them, put onto what was known, is what compiling all of it anew gives.

use super::*;

/// Looks again and again, and knows what somebody knows who is told of it.
#[derive(Default)]
struct Onlooker {
    compiler: Compiler,
    known: Policy,
}

impl Onlooker {
    /// Whether the look told edits alone.
    fn look(&mut self, objects: &[Arc<Object>], world: &Arc<World>) -> bool {
        let told = self.compiler.look(&Arc::new(objects.to_vec()), world);
        let is_edit = matches!(told, Compiled::Edits(_));
        match told {
            Compiled::All(policy) => self.known = policy,
            Compiled::Edits(edits) => {
                for (name, routes) in edits.routes {
                    match routes {
                        Some(routes) => drop(self.known.routes.insert(name, routes)),
                        None => drop(self.known.routes.remove(&name)),
                    }
                }
                for status in edits.statuses {
                    let mut known = self.known.statuses.iter_mut();
                    let known = known.find(|s| s.key() == status.key()).unwrap();
                    *known = status;
                }
            }
        }
        assert_eq!(self.known, compile(objects, world));
        is_edit
    }
}

fn shared(yaml: &str) -> Vec<Arc<Object>> {
    objects(yaml).into_iter().map(Arc::new).collect()
}

/// One for each kind whose objects others refer to, and for each that stands by itself.
#[test]
fn edits_of_any_object_make_what_compiling_anew_makes() {
    let mut all = Vec::new();
    for kind in Known::ALL {
        for (n, text) in corpus::of(kind).iter().enumerate() {
            for mut object in objects(text) {
                object.place = format!("{}-{n}.yaml:1", object.kind);
                if stands_alone(&object) {
                    // Of one name it could not be told which goes first.
                    let name = format!("{}-{}", object.name.name(), all.len());
                    object.name = ServiceName::new("shop", &name).unwrap();
                }
                all.push(Arc::new(object));
            }
        }
    }
    let world = Arc::new(world());
    let mut onlooker = Onlooker::default();
    assert!(!onlooker.look(&all, &world), "nothing was known");
    assert!(onlooker.look(&all, &world), "nothing is another");
    for index in 0..all.len() {
        let own = Arc::clone(&all[index]);
        // The same of another generation, which its status tells.
        let mut object = Object::clone(&own);
        Arc::make_mut(&mut object.value)["metadata"]["generation"] = 7.into();
        all[index] = Arc::new(object);
        let is_edit = onlooker.look(&all, &world);
        assert_eq!(is_edit, stands_alone(&own), "{own}");
        // What others of its kind say, and nothing: some of it changes what is found.
        let spec = |o: &Arc<Object>| o.value.get("spec").cloned().unwrap_or_default();
        let after = all.iter().cycle().skip(index + 1).take(all.len() - 1);
        let others = after.filter(|o| o.kind == own.kind && spec(o) != spec(&own));
        let mut specs: Vec<_> = others.take(1).map(spec).collect();
        specs.push(Value::Null);
        for spec in specs {
            let mut object = Object::clone(&own);
            Arc::make_mut(&mut object.value)["spec"] = spec;
            all[index] = Arc::new(object);
            let is_edit = onlooker.look(&all, &world);
            assert!(!is_edit || stands_alone(&own), "others go by it: {own}");
        }
        all[index] = own;
        onlooker.look(&all, &world);
    }
}

/// Whether rules of other objects never go by it: all but what others refer to, or limit the same workloads as.
fn stands_alone(object: &Object) -> bool {
    match object.kind.as_str() {
        "VirtualService" => object.value.pointer("/spec/hosts").is_some(),
        kind => kind.ends_with("Route") || kind == "TrafficSplit",
    }
}

const ROUTE: &str = "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: NAME, namespace: shop, creationTimestamp: AGE}
spec:
  parentRefs: [{group: '', kind: Service, name: PARENT}]
  rules:
  - name: NAME
    matches: [{path: {type: Exact, value: /PATH}}]
    backendRefs: [{name: v1, port: 80}]
";

fn route(name: &str, age: u8, parent: &str, path: &str) -> Arc<Object> {
    let text = ROUTE.replace("NAME", name).replace("PARENT", parent);
    let age = format!("'2026-01-0{age}T00:00:00Z'");
    let text = text.replace("AGE", &age).replace("PATH", path);
    shared(&text).remove(0)
}

#[test]
fn an_edited_object_keeps_its_place_among_those_of_other_ages() {
    let world = Arc::new(world());
    let mut objects = [
        route("c", 1, "cart", "one"),
        route("b", 2, "two", "two"),
        route("a", 3, "cart", "six"),
    ];
    let mut onlooker = Onlooker::default();
    onlooker.look(&objects, &world);
    let mut edit = |at: usize, with: Arc<Object>| {
        objects[at] = with;
        let is_edit = onlooker.look(&objects, &world);
        let cart = onlooker.known.routes.get(&"shop/cart".parse().unwrap());
        let table = cart.and_then(|routes| routes.of_all.clone());
        let rules = table.iter().flat_map(|table| &table.rules);
        let names: Vec<_> = rules.map(|r| r.origin.rule.clone()).collect();
        (is_edit, names.join(" "))
    };
    // Paths of one length: the oldest goes first. It comes between the others, and back.
    let between = edit(1, route("b", 2, "cart", "two"));
    assert!(between.0);
    assert!(between.1.find('c') < between.1.find('b'), "{between:?}");
    assert!(between.1.find('b') < between.1.find('a'), "{between:?}");
    assert!(edit(1, route("b", 2, "two", "two")).0);
    // The same request as an older route's: that is told, and with it everything.
    assert!(!edit(2, route("a", 3, "cart", "one")).0);
    assert!(!edit(2, route("a", 3, "cart", "six")).0);
    // Another age, or another name, is another object.
    assert!(!edit(2, route("a", 4, "cart", "six")).0);
    assert!(!edit(2, route("z", 4, "cart", "six")).0);
    // The last one of its service goes.
    assert!(edit(0, route("c", 1, "two", "one")).0);
    assert_eq!(edit(2, route("z", 4, "two", "six")), (true, String::new()));
}

/// Roots are made of their delegates, and delegates of one name of each other.
#[test]
fn delegates_and_whom_they_are_of_are_no_edits() {
    let text = |to: &str, status: u16| {
        format!(
            "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: root, namespace: shop}}
spec: {{hosts: [cart], http: [{{delegate: {{name: {to}}}}}]}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: leaf, namespace: shop}}
spec: {{http: [{{directResponse: {{status: {status}}}}}]}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: other, namespace: shop}}
spec: {{http: [{{directResponse: {{status: 204}}}}]}}"
        )
    };
    let world = Arc::new(world());
    let mut onlooker = Onlooker::default();
    for (to, status) in [("leaf", 200), ("leaf", 201), ("other", 201), ("leaf", 201)] {
        assert!(!onlooker.look(&shared(&text(to, status)), &world));
    }
}
