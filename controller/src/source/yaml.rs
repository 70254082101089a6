//! Kubernetes YAML into the local model's terms: one file's text into objects and problems, and all files' objects into
//! one model. Pure: no file is read here and no state is kept.
//!
//! A field that is not supported is reported by its path and never ignored silently.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use serde::de::DeserializeOwned;
use serde_json::Value;
use tradewind_api::{
    ServiceName, Zone,
    model::{AppProtocol, Health, Targets},
    shared::SharedMap,
    traffic::Labels,
};
use tradewind_policy::{Lines, Spot, is_known};

use super::{
    model::{Asked, Problem, SourceEndpoint, SourceModel, SourceService},
    yaml_lines::spots,
    yaml_objects::{self as objects, Unsupported},
};

/// Documents in one file: a file has 1 MiB at most, so this only stops a file of nothing but separators.
const MAX_DOCUMENTS: usize = 10_000;
/// Problems kept of one file. Whoever has a hundred fixes the first ones first.
const MAX_PROBLEMS: usize = 100;
/// The annotation that names a workload's identity.
pub const IDENTITY_ANNOTATION: &str = "tradewind.io/identity";
/// Where a pod's proxy takes HBONE.
pub const HBONE_PORT: u16 = 15008;

/// One object that was understood, with where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// `file:line`.
    pub place: String,
    /// The object.
    pub object: Object,
}

/// What is understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object {
    /// A Service.
    Service(Arc<SourceService>),
    /// An EndpointSlice.
    Slice(Slice),
    /// A ServiceExport.
    Export(ServiceName),
    /// Routes and what belongs to them.
    Policy(Arc<tradewind_policy::Object>),
}

/// An EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    /// The service it belongs to.
    pub service: ServiceName,
    /// The ports that it serves by name, a Service's port of the same name leads to them; with the number, if it says one.
    pub ports: BTreeMap<String, Option<u16>>,
    /// The identity its annotation names.
    pub identity: Option<String>,
    /// Its endpoints.
    pub endpoints: Vec<SliceEndpoint>,
}

/// One endpoint of a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SliceEndpoint {
    /// The pod's address.
    pub ip: IpAddr,
    /// What its conditions say.
    pub health: Health,
    /// Its name in a headless service.
    pub hostname: Option<String>,
    /// Its zone.
    pub zone: Option<Zone>,
}

/// What one file holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parsed {
    /// What was understood.
    pub objects: Vec<Placed>,
    /// What was not.
    pub problems: Vec<Problem>,
}

impl Parsed {
    /// Takes rules of `before`, which the same file said, where they are the same and stand in the same place.
    pub fn keep(&mut self, before: &Self) {
        for (now, before) in self.objects.iter_mut().zip(&before.objects) {
            if now == before {
                now.object = before.object.clone();
            }
        }
    }

    /// Whether it says anything of services; all else are rules.
    pub fn serves(&self) -> bool {
        let is_rule = |placed: &Placed| matches!(placed.object, Object::Policy(_));
        !self.objects.iter().all(is_rule)
    }
}

/// Reads one file's text. An error means that the file is not YAML, or a known kind in it is malformed: nothing of it
/// may be taken, so that half a file never counts.
pub fn parse(file: &str, text: &str) -> Result<Parsed, Problem> {
    let mut parsed = Parsed::default();
    for (line, document) in documents(text) {
        let place = format!("{file}:{line}");
        let value: Value =
            serde_saphyr::from_str(document).map_err(|error| broken(file, line, &error))?;
        if value.is_null() {
            continue;
        }
        let spot = holds_policy(&value)
            .then(|| spots(document, &value))
            .flatten();
        let spot = spot.as_ref().map(|spot| (spot, file, line - 1));
        one(&place, value, spot, &mut parsed)?;
        if parsed.objects.len() > MAX_DOCUMENTS {
            let text = format!("more than {MAX_DOCUMENTS} objects in one file; split it");
            return Err(Problem { place, text });
        }
    }
    parsed.problems.truncate(MAX_PROBLEMS);
    Ok(parsed)
}

/// Whether findings may be about fields of it.
fn holds_policy(value: &Value) -> bool {
    let word = |v: &Value, key: &str| {
        v.get(key)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let is = |v: &Value| is_known(&word(v, "apiVersion"), &word(v, "kind"));
    let items = value.get("items").and_then(Value::as_array);
    is(value) || items.is_some_and(|items| items.iter().any(is))
}

/// Where an object's values stand, in which file, and how many of its lines are before those that are counted.
type Stands<'a> = (&'a Spot, &'a str, usize);

fn one(
    place: &str,
    value: Value,
    stands: Option<Stands<'_>>,
    parsed: &mut Parsed,
) -> Result<(), Problem> {
    let problem = |text: String| Problem {
        place: place.to_owned(),
        text,
    };
    let word = |key: &str| {
        value
            .get(key)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let (version, kind) = (word("apiVersion"), word("kind"));
    let mut found = Unsupported::default();
    let object = match (version.as_str(), kind.as_str()) {
        ("v1", "Service") => objects::service(typed(place, &kind, value)?, &mut found)
            .map(|o| o.map(|service| Object::Service(Arc::new(service)))),
        ("discovery.k8s.io/v1", "EndpointSlice") => {
            objects::slice(typed(place, &kind, value)?, &mut found).map(|o| o.map(Object::Slice))
        }
        ("multicluster.x-k8s.io/v1alpha1" | "multicluster.x-k8s.io/v1beta1", "ServiceExport") => {
            objects::export(typed(place, &kind, value)?, &mut found).map(|o| o.map(Object::Export))
        }
        (version, kind) if is_known(version, kind) => {
            let lines = stands.map(|(spot, _, before)| Lines::of(spot, before as u64));
            let object = tradewind_policy::Object::new(place, value);
            object.map(|object| {
                let object = object.with_lines(lines.unwrap_or_default());
                Some(Object::Policy(Arc::new(object)))
            })
        }
        ("v1", "List") => {
            let Some(Value::Array(items)) = value.get("items").cloned() else {
                return Err(problem("a List without items".into()));
            };
            // A list in a list is nothing that any tool writes; refusing it bounds the depth.
            let spots = stands.and_then(|(list, ..)| list.field("items"));
            for (index, item) in items.into_iter().enumerate() {
                if item.get("kind").and_then(Value::as_str) == Some("List") {
                    return Err(problem("a List inside of a List".into()));
                }
                let spot = spots.and_then(|list| list.items.get(index));
                let stands = stands.and_then(|(_, file, before)| Some((spot?, file, before)));
                let own = stands.map(|(spot, file, before)| {
                    format!("{file}:{}", spot.line.saturating_add(before as u64))
                });
                one(own.as_deref().unwrap_or(place), item, stands, parsed)?;
            }
            return Ok(());
        }
        ("", _) | (_, "") => {
            return Err(problem(
                "not a Kubernetes object: apiVersion and kind are expected".into(),
            ));
        }
        _ => {
            parsed.problems.push(problem(format!(
                "kind {kind} of {version} is not supported; Service (v1), EndpointSlice (discovery.k8s.io/v1), ServiceExport (multicluster.x-k8s.io/v1beta1) and the kinds that `tradewind analyze --fields` lists are"
            )));
            return Ok(());
        }
    };
    let object = object.map_err(|text| problem(format!("{kind}: {text}")))?;
    parsed.problems.extend(
        found
            .paths
            .into_iter()
            .map(|path| problem(format!("{kind}: {path}"))),
    );
    if let Some(object) = object {
        parsed.objects.push(Placed {
            place: place.to_owned(),
            object,
        });
    }
    Ok(())
}

fn typed<T: DeserializeOwned>(place: &str, kind: &str, value: Value) -> Result<T, Problem> {
    serde_json::from_value(value).map_err(|error| Problem {
        place: place.to_owned(),
        text: format!("{kind}: {error}"),
    })
}

fn broken(file: &str, first_line: usize, error: &serde_saphyr::Error) -> Problem {
    let line = error
        .location()
        .and_then(|l| usize::try_from(l.line()).ok())
        .map_or(first_line, |line| first_line + line.saturating_sub(1));
    let whole = error.to_string();
    let text = whole
        .lines()
        .next()
        .unwrap_or("it does not parse")
        .chars()
        .take(300)
        .collect::<String>();
    Problem {
        place: format!("{file}:{line}"),
        text: format!("broken YAML: {text}"),
    }
}

/// The documents of a stream with the line each begins on. A line of `---` at column 0 separates documents wherever it
/// stands: YAML allows it nowhere inside of one.
fn documents(text: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    let (mut start, mut start_line, mut offset) = (0, 1, 0);
    for (index, line) in text.split_inclusive('\n').enumerate() {
        let bare = line.trim_end();
        if bare == "---" || bare.starts_with("--- ") {
            found.push((start_line, text.get(start..offset).unwrap_or_default()));
            start = offset + line.len();
            start_line = index + 2;
        }
        offset += line.len();
    }
    found.push((start_line, text.get(start..).unwrap_or_default()));
    found.retain(|(_, document)| !document.trim().is_empty());
    found
}

/// What all files say of services, and what is wrong between them.
#[derive(Clone, Debug, Default)]
pub struct Serving {
    services: SharedMap<ServiceName, Arc<SourceService>>,
    exports: BTreeMap<ServiceName, Asked>,
    problems: Vec<Problem>,
}

impl Serving {
    /// The same, with the allocations of `before` for what is what it was.
    #[must_use]
    pub fn keeping(mut self, before: &Self) -> Self {
        self.services.keep(&before.services);
        self
    }

    /// Takes the allocation of the model that it was handed out in, which may be an older one that says the same: so the next model is known
    /// to say the same by looking at where it lies.
    pub fn take(&mut self, model: &SourceModel) {
        self.services.clone_from(&model.services);
    }
}

/// What all files say together.
pub fn assemble<'a>(files: impl IntoIterator<Item = &'a Parsed> + Clone) -> SourceModel {
    let serving = serving(files.clone());
    with_rules(files, serving)
}

/// The same of the same files, where what they say of services was found out already.
pub fn with_rules<'a>(
    files: impl IntoIterator<Item = &'a Parsed>,
    serving: Serving,
) -> SourceModel {
    let (mut policy, mut problems) = (Vec::new(), serving.problems);
    for parsed in files {
        problems.extend(parsed.problems.iter().cloned());
        for Placed { object, .. } in &parsed.objects {
            if let Object::Policy(object) = object {
                policy.push(Arc::clone(object));
            }
        }
    }
    problems.sort();
    problems.dedup();
    SourceModel {
        read: true,
        services: serving.services,
        exports: serving.exports,
        policy: Arc::new(policy),
        problems,
        refused: Vec::new(),
    }
}

/// What all files say of services. Files are taken in the order of their names; the first to define a service wins and the others are
/// problems.
pub fn serving<'a>(files: impl IntoIterator<Item = &'a Parsed>) -> Serving {
    let mut services: BTreeMap<ServiceName, Arc<SourceService>> = BTreeMap::new();
    let mut model = Serving::default();
    let mut slices = Vec::new();
    let mut places: BTreeMap<&ServiceName, &str> = BTreeMap::new();
    for parsed in files {
        for Placed { place, object } in &parsed.objects {
            match object {
                Object::Service(service) => {
                    if let Some(first) = places.get(&service.name) {
                        model.problems.push(Problem {
                            place: place.clone(),
                            text: format!(
                                "Service {} is defined already, at {first}",
                                service.name
                            ),
                        });
                        continue;
                    }
                    places.insert(&service.name, place);
                    let service = Arc::clone(service);
                    services.insert(service.name.clone(), service);
                }
                Object::Slice(slice) => slices.push((place, slice)),
                Object::Export(name) => {
                    model.exports.entry(name.clone()).or_insert_with(|| Asked {
                        place: place.clone(),
                        created_at_ms: None,
                    });
                }
                Object::Policy(_) => {}
            }
        }
    }
    for (place, slice) in slices {
        match services.get_mut(&slice.service) {
            Some(service) => add_slice(Arc::make_mut(service), slice),
            None => model.problems.push(Problem {
                place: place.clone(),
                text: format!(
                    "EndpointSlice for Service {}, which no file defines",
                    slice.service
                ),
            }),
        }
    }
    model.services = services.into();
    model
}

fn add_slice(service: &mut SourceService, slice: &Slice) {
    let served = || {
        let ports = service.ports.iter();
        ports.filter_map(|p| Some((p.port, *slice.ports.get(&p.name)?)))
    };
    let ports: Vec<u16> = served().map(|(port, _)| port).collect();
    let targets: Targets = served()
        .filter_map(|(port, target)| Some((port, target?)))
        .collect();
    for endpoint in &slice.endpoints {
        let address = std::net::SocketAddr::new(endpoint.ip, HBONE_PORT).to_string();
        let entry = SourceEndpoint {
            address,
            health: endpoint.health,
            hostname: endpoint.hostname.clone(),
            zone: endpoint.zone.clone(),
            identity: slice.identity.clone(),
            ports: ports.clone(),
            labels: Labels::new(),
            targets: targets.clone(),
        };
        // Several slices may carry one pod, each with ports of its own.
        match service
            .endpoints
            .iter_mut()
            .find(|e| e.address == entry.address)
        {
            Some(known) => {
                known.targets.extend(entry.targets);
                known.ports.extend(entry.ports);
                known.ports.sort_unstable();
                known.ports.dedup();
            }
            None => service.endpoints.push(entry),
        }
    }
}

/// What a port's `appProtocol` or else its name says of it; `None` where neither does.
pub fn app_protocol(declared: Option<&str>, name: &str) -> Option<AppProtocol> {
    let by_word = |word: &str| match word {
        "http" | "http1" | "http/1.1" | "kubernetes.io/ws" | "ws" => Some(AppProtocol::Http1),
        "http2" | "h2c" | "grpc" | "grpc-web" | "kubernetes.io/h2c" => Some(AppProtocol::Http2),
        "tcp" | "tls" | "https" | "mysql" | "postgres" | "postgresql" | "mongo" | "redis"
        | "kubernetes.io/wss" => Some(AppProtocol::Tcp),
        _ => None,
    };
    match declared {
        Some(word) => by_word(&word.to_ascii_lowercase()),
        None => by_word(name.split('-').next().unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests;
