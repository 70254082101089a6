//! What a running controller has: its objects with where they stand, and the world that they speak of.

use tradewind_api::{ServiceName, proto::v1};
use tradewind_controller::source::{Problem, SourceModel};
use tradewind_policy::{Object, World};

use crate::{
    admin::{Admin, Where},
    exit::Failure,
};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Live {
    pub(super) objects: Vec<Object>,
    pub(super) world: World,
    /// What the controller could not read.
    pub(super) problems: Vec<Problem>,
}

impl Live {
    /// Asks for it.
    pub(super) async fn ask(place: &Where) -> Result<Self, Failure> {
        let admin = Admin::connect(place).await?;
        let parts = admin
            .all(v1::Empty {}, async |mut c, r| {
                c.list_policy_objects(r).await
            })
            .await?;
        let mut live = Self::default();
        for part in parts.into_iter().filter_map(|p| p.part) {
            live.take(part).map_err(|why| {
                Failure::problem(format!(
                    "the controller's objects are not understood: {why}"
                ))
                .hint("use the `tradewind` of the controller's own version")
            })?;
        }
        Ok(live)
    }

    fn take(&mut self, part: v1::policy_part::Part) -> Result<(), String> {
        use v1::policy_part::Part;
        match part {
            Part::World(world) => self.world.regions = Some(world.regions.into_iter().collect()),
            Part::Service(service) => self.service(service)?,
            Part::Object(object) => self.objects.push(read(object)?),
            Part::Problem(v1::PolicyProblem { place, text }) => {
                self.problems.push(Problem { place, text });
            }
        }
        Ok(())
    }

    fn service(&mut self, service: v1::PolicyService) -> Result<(), String> {
        let name: ServiceName = service.name.parse().map_err(|e| format!("{e}"))?;
        let port = |p: v1::PolicyPort| Some((p.name, u16::try_from(p.port).ok()?));
        let ports = service.ports.into_iter().filter_map(port).collect();
        if service.labels_known {
            let labels = service.labels.into_iter().map(|l| l.labels).collect();
            self.world.labels.insert(name.clone(), labels);
        }
        self.world.services.insert(name, ports);
        Ok(())
    }

    /// The same with what files say: an object of a file takes the place of the live one of its kind and name, and so does a
    /// service with its ports.
    pub(super) fn with(&self, files: &SourceModel) -> (Vec<Object>, World) {
        let replaced = |live: &&Object| {
            let mut files = files.policy.iter();
            !files.any(|o| o.kind == live.kind && o.name == live.name)
        };
        let mut objects: Vec<_> = self.objects.iter().filter(replaced).cloned().collect();
        objects.extend(files.policy.iter().map(|o| Object::clone(o)));
        let mut world = self.world.clone();
        world.services.extend(super::of_files(files).services);
        (objects, world)
    }
}

fn read(object: v1::PolicyObject) -> Result<Object, String> {
    let value = serde_json::from_str(&object.json).map_err(|e| e.to_string())?;
    let lines = object.lines.into_iter().map(|l| (l.path, l.line)).collect();
    let read = Object::new(&object.place, value)?.with_lines(lines);
    Ok(read)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use serde_json::json;
    use v1::policy_part::Part;

    fn object(kind: &str, name: &str, place: &str) -> serde_json::Value {
        json!({"apiVersion": "split.smi-spec.io/v1alpha4", "kind": kind, "place": place,
               "metadata": {"name": name, "namespace": "shop"}})
    }

    fn told(kind: &str, name: &str) -> Part {
        Part::Object(v1::PolicyObject {
            place: "live.yaml:1".to_owned(),
            json: object(kind, name, "live").to_string(),
            lines: vec![v1::PolicyLine {
                path: "spec".to_owned(),
                line: 4,
            }],
            ..v1::PolicyObject::default()
        })
    }

    fn live() -> Live {
        let mut live = Live::default();
        let labels = [("version".to_owned(), "v1".to_owned())].into();
        for part in [
            Part::World(v1::PolicyWorld {
                revision: 1,
                regions: vec!["eu".to_owned()],
            }),
            Part::Service(v1::PolicyService {
                name: "shop/cart".to_owned(),
                ports: vec![v1::PolicyPort {
                    name: "http".to_owned(),
                    port: 80,
                }],
                labels_known: true,
                labels: vec![v1::PolicyLabels { labels }],
            }),
            told("TrafficSplit", "a"),
            told("TrafficSplit", "b"),
            told("HTTPRouteGroup", "a"),
        ] {
            live.take(part).unwrap();
        }
        live
    }

    #[test]
    fn what_is_told_is_what_the_controller_has() {
        let live = live();
        let cart: ServiceName = "shop/cart".parse().unwrap();
        assert_eq!(live.world.services[&cart], [("http".to_owned(), 80)]);
        assert_eq!(live.world.labels[&cart].len(), 1);
        assert_eq!(live.world.regions, Some(["eu".to_owned()].into()));
        assert_eq!(live.objects[0].lines.line("spec.service"), Some(4));
        let mut other = Live::default();
        let broken = v1::PolicyObject {
            json: "[".to_owned(),
            ..v1::PolicyObject::default()
        };
        assert!(other.take(Part::Object(broken)).is_err());
    }

    #[test]
    fn a_file_takes_the_place_of_what_has_its_kind_and_name_and_of_nothing_else() {
        let file = Object::new("f.yaml:1", object("TrafficSplit", "a", "file")).unwrap();
        let files = SourceModel {
            policy: Arc::new(vec![Arc::new(file)]),
            ..SourceModel::default()
        };
        let (objects, world) = live().with(&files);
        let all: Vec<_> = objects
            .iter()
            .map(|o| format!("{} {} {}", o.kind, o.name.name(), o.place))
            .collect();
        let expected = [
            "TrafficSplit b live.yaml:1",
            "HTTPRouteGroup a live.yaml:1",
            "TrafficSplit a f.yaml:1",
        ];
        assert_eq!(all, expected);
        assert_eq!(world, live().world);
    }
}
