//! The objects that rules are made of, as this controller holds them, and the world that they speak of: with both, whoever asks can
//! compile them again, alone or with others. Reads only.
//!
//! Each object and each service is a message of its own, so that however many there are none is too long.

use std::sync::Arc;

use futures::{Stream, stream};
use tonic::Status;
use tradewind_api::{
    ServiceName,
    proto::v1::{
        PolicyLabels, PolicyLine, PolicyObject, PolicyPart, PolicyPort, PolicyProblem,
        PolicyService, PolicyWorld, policy_part::Part,
    },
    snapshot::Snapshot,
    traffic::Labels,
};
use tradewind_policy::{Object, World};

use super::AdminInput;
use crate::{rules, source::SourceModel};

/// Longest object that is handed out, as JSON: a file has 1 MiB, but anchors may make more of it. Half of what `tradewind` takes in one
/// message; lines take less than the rest.
const MAX_OBJECT_BYTES: usize = 8 << 20;

/// Everything: the world first, then services, objects, and what could not be read.
pub(super) fn parts(
    input: &AdminInput,
) -> impl Stream<Item = Result<PolicyPart, Status>> + Send + use<> {
    let snapshot = Arc::clone(&input.snapshots.borrow());
    let yaml = Arc::clone(&input.yaml.borrow());
    let held = Held::new(&snapshot, yaml);
    // One at a time, as the reader takes them.
    let parts = (0..).map_while(move |index| held.part(index));
    stream::iter(parts.map(|part| Ok(PolicyPart { part: Some(part) })))
}

struct Held {
    revision: u64,
    world: World,
    /// Of the world, by place.
    names: Vec<ServiceName>,
    yaml: Arc<SourceModel>,
}

impl Held {
    fn new(snapshot: &Snapshot, yaml: Arc<SourceModel>) -> Self {
        let world = rules::world(&snapshot.services, &snapshot.clusters);
        Self {
            revision: snapshot.revision.0,
            names: world.services.keys().cloned().collect(),
            world,
            yaml,
        }
    }

    /// None behind the last.
    fn part(&self, index: usize) -> Option<Part> {
        let Some(index) = index.checked_sub(1) else {
            let regions = self.world.regions.iter().flatten().cloned();
            return Some(Part::World(PolicyWorld {
                revision: self.revision,
                regions: regions.collect(),
            }));
        };
        if let Some(name) = self.names.get(index) {
            return Some(Part::Service(self.service(name)));
        }
        let index = index.checked_sub(self.names.len())?;
        if let Some(held) = self.yaml.policy.get(index) {
            return Some(object(held));
        }
        let index = index.checked_sub(self.yaml.policy.len())?;
        let problem = self.yaml.problems.get(index)?;
        Some(Part::Problem(PolicyProblem {
            place: problem.place.clone(),
            text: problem.text.clone(),
        }))
    }

    fn service(&self, name: &ServiceName) -> PolicyService {
        let ports = self.world.services.get(name).into_iter().flatten();
        let labels = self.world.labels.get(name);
        let set = |labels: &Labels| PolicyLabels {
            labels: labels.clone(),
        };
        PolicyService {
            name: name.to_string(),
            ports: ports
                .map(|(name, port)| PolicyPort {
                    name: name.clone(),
                    port: (*port).into(),
                })
                .collect(),
            labels_known: labels.is_some(),
            labels: labels.into_iter().flatten().map(set).collect(),
        }
    }
}

fn object(object: &Object) -> Part {
    let json = object.value.to_string();
    if json.len() > MAX_OBJECT_BYTES {
        return Part::Problem(PolicyProblem {
            place: object.place.clone(),
            text: format!(
                "{object} takes more than {MAX_OBJECT_BYTES} bytes as JSON, so it is not looked at here; split it"
            ),
        });
    }
    let line = |(path, line): (&str, u64)| PolicyLine {
        path: path.to_owned(),
        line,
    };
    Part::Object(PolicyObject {
        place: object.place.clone(),
        api_version: object.api_version.clone(),
        kind: object.kind.clone(),
        name: object.name.to_string(),
        json,
        lines: object.lines.iter().map(line).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::Problem;
    use tradewind_api::model::{Service, ServiceKind};

    #[test]
    fn the_world_comes_first_and_nothing_is_left_out() {
        let mut snapshot = Snapshot::default();
        let name: ServiceName = "shop/cart".parse().unwrap();
        let known = Service {
            name: name.clone(),
            kind: ServiceKind::ClusterSetIp,
            clusterset_ips: Vec::new(),
            cluster_ips: Vec::new(),
            ports: vec![tradewind_api::model::ServicePort {
                name: "http".to_owned(),
                port: 80,
                app_protocol: tradewind_api::model::AppProtocol::Http1,
            }],
            exported_by: [].into(),
            endpoints: Vec::new(),
            seals: Vec::new(),
        };
        snapshot.services.insert(name, Arc::new(known));
        let value = serde_json::json!({
            "apiVersion": "split.smi-spec.io/v1alpha4",
            "kind": "TrafficSplit",
            "metadata": {"name": "a", "namespace": "shop"},
        });
        let yaml = SourceModel {
            policy: Arc::new(vec![Arc::new(
                Object::new("a.yaml:3", value.clone()).unwrap(),
            )]),
            problems: vec![Problem {
                place: "b.yaml:1".to_owned(),
                text: "broken".to_owned(),
            }],
            ..SourceModel::default()
        };
        let held = Held::new(&snapshot, Arc::new(yaml));
        let parts: Vec<_> = (0..4).map(|i| held.part(i).unwrap()).collect();
        let [
            Part::World(_),
            Part::Service(service),
            Part::Object(object),
            Part::Problem(problem),
        ] = parts.as_slice()
        else {
            panic!("{parts:?}");
        };
        assert_eq!(
            (service.name.as_str(), service.ports[0].port),
            ("shop/cart", 80)
        );
        assert!(service.labels_known && service.labels.is_empty());
        assert_eq!(object.place, "a.yaml:3");
        let read: serde_json::Value = serde_json::from_str(&object.json).unwrap();
        assert_eq!(read, value);
        assert_eq!(problem.text, "broken");
        assert_eq!(held.part(4), None);
    }

    #[test]
    fn an_object_that_no_message_holds_is_told_of_instead() {
        let value = serde_json::json!({
            "apiVersion": "split.smi-spec.io/v1alpha4",
            "kind": "TrafficSplit",
            "metadata": {"name": "a", "namespace": "shop"},
            "spec": "x".repeat(MAX_OBJECT_BYTES),
        });
        let Part::Problem(problem) = object(&Object::new("a.yaml:3", value).unwrap()) else {
            panic!("it is handed out");
        };
        assert_eq!(problem.place, "a.yaml:3");
        assert!(
            problem
                .text
                .starts_with("TrafficSplit shop/a takes more than")
        );
    }
}
