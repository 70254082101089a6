//! What a ServiceExport is told of itself: the conditions Valid, Ready and Conflict with the API's reasons. Pure; it knows no time, so
//! whoever writes it keeps or sets the moments of change.

use tradewind_api::ClusterName;
use tradewind_kubernetes::objects::{Condition, Type};

use super::merge::Import;
use crate::source::kubernetes::Exported;

/// What is known of one export in the federation.
#[derive(Clone, Copy, Debug)]
pub struct Standing<'a> {
    /// The merge of all exports, if anybody's is in the store.
    pub import: Option<&'a Import>,
    /// This cluster's own is in the store.
    pub published: bool,
    /// Why it is not, where that was said.
    pub trouble: Option<&'a str>,
    /// This cluster.
    pub own: &'a ClusterName,
}

/// Its conditions, each without the moment of its last change.
pub fn conditions(exported: &Exported, standing: Standing<'_>) -> Vec<Condition> {
    let generation = exported.export.generation;
    let say = |kind: &str, status: &str, reason: &str, message: String| Condition {
        kind: kind.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message,
        observed_generation: Some(generation),
        last_transition_time: String::new(),
    };
    let invalid = match exported.service.as_ref().map(|s| s.kind) {
        None => Some(("NoService", "there is no Service of this name here")),
        Some(Type::ExternalName) => Some((
            "InvalidServiceType",
            "a Service of type ExternalName has no endpoints that could be exported",
        )),
        Some(Type::ClusterIp | Type::Headless) => None,
    };
    if let Some((reason, message)) = invalid {
        return vec![
            say("Valid", "False", reason, message.to_owned()),
            say(
                "Ready",
                "False",
                "Pending",
                format!("not exported: {message}"),
            ),
        ];
    }
    let valid = say(
        "Valid",
        "True",
        "Valid",
        "the Service can be exported".to_owned(),
    );
    let ready = match (standing.published, standing.trouble) {
        (true, _) => say(
            "Ready",
            "True",
            "Exported",
            "published to the federation".to_owned(),
        ),
        (false, Some(trouble)) => say("Ready", "False", "Failed", trouble.to_owned()),
        (false, None) => {
            let message = "waits for the federation's store to take it";
            say("Ready", "False", "Pending", message.to_owned())
        }
    };
    let shared = standing
        .import
        .filter(|i| i.clusters.contains(standing.own));
    let conflicts = shared.map_or(&[][..], |import| &import.conflicts);
    let conflict = if conflicts.is_empty() {
        let message = "all exporters agree".to_owned();
        say("Conflict", "False", "NoConflicts", message)
    } else {
        let reasons: Vec<_> = conflicts.iter().map(|c| c.reason.as_str()).collect();
        let texts: Vec<_> = conflicts.iter().map(ToString::to_string).collect();
        say("Conflict", "True", &reasons.join(","), texts.join("; "))
    };
    vec![valid, ready, conflict]
}

/// Gives each condition the moment of its last change: what it was if its status is the same, else `now`.
pub fn with_times(
    mut conditions: Vec<Condition>,
    before: &[Condition],
    now: &str,
) -> Vec<Condition> {
    for condition in &mut conditions {
        let same = before
            .iter()
            .find(|b| b.kind == condition.kind && b.status == condition.status)
            .filter(|b| !b.last_transition_time.is_empty());
        condition.last_transition_time = same.map_or(now, |b| &b.last_transition_time).to_owned();
    }
    conditions
}

/// Whether they say the same, whenever each began to.
pub fn same(a: &[Condition], b: &[Condition]) -> bool {
    let plain = |all: &[Condition]| {
        let mut all: Vec<_> = all.to_vec();
        all.iter_mut().for_each(|c| c.last_transition_time.clear());
        all.sort_by(|a, b| a.kind.cmp(&b.kind));
        all
    };
    plain(a) == plain(b)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::Arc};

    use tradewind_api::{mcs::ExportSpec, model::ServiceKind};
    use tradewind_kubernetes::objects::{Export, Service};

    use super::*;
    use crate::mcs::merge::{Conflict, Reason};

    fn exported(kind: Option<Type>) -> Exported {
        let service = kind.map(|kind| Service {
            kind,
            ..Service::default()
        });
        Exported {
            export: Arc::new(Export {
                generation: 3,
                ..Export::default()
            }),
            service: service.map(Arc::new),
            slices: BTreeMap::new(),
        }
    }

    fn told(all: &[Condition]) -> Vec<String> {
        let one = |c: &Condition| format!("{}={} {}", c.kind, c.status, c.reason);
        all.iter().map(one).collect()
    }

    #[test]
    fn what_cannot_be_exported_says_why() {
        let own = ClusterName::new("west").unwrap();
        let standing = Standing {
            import: None,
            published: false,
            trouble: None,
            own: &own,
        };
        let of = |kind| told(&conditions(&exported(kind), standing));
        assert_eq!(of(None), ["Valid=False NoService", "Ready=False Pending"]);
        assert_eq!(
            of(Some(Type::ExternalName)),
            ["Valid=False InvalidServiceType", "Ready=False Pending"]
        );
        assert_eq!(
            of(Some(Type::Headless)),
            [
                "Valid=True Valid",
                "Ready=False Pending",
                "Conflict=False NoConflicts"
            ]
        );
        let failed = Standing {
            trouble: Some("too many"),
            ..standing
        };
        let ready = &conditions(&exported(Some(Type::ClusterIp)), failed)[1];
        assert_eq!(
            (ready.reason.as_str(), ready.message.as_str()),
            ("Failed", "too many")
        );
    }

    #[test]
    fn conflicts_stand_on_every_exporter_and_on_nobody_else() {
        let (west, east) = (
            ClusterName::new("west").unwrap(),
            ClusterName::new("east").unwrap(),
        );
        let conflict = |reason| Conflict {
            reason,
            holds: west.clone(),
            differ: [east.clone()].into(),
        };
        let import = Import {
            kind: ServiceKind::ClusterSetIp,
            spec: ExportSpec::default(),
            clusters: vec![east.clone(), west.clone()],
            conflicts: vec![conflict(Reason::Port), conflict(Reason::IpFamily)],
        };
        let central = ClusterName::new("central").unwrap();
        for (own, status, reason) in [
            (&west, "True", "PortConflict,IPFamilyConflict"),
            (&east, "True", "PortConflict,IPFamilyConflict"),
            (&central, "False", "NoConflicts"),
        ] {
            let standing = Standing {
                import: Some(&import),
                published: true,
                trouble: None,
                own,
            };
            let all = conditions(&exported(Some(Type::ClusterIp)), standing);
            assert_eq!(told(&all)[1], "Ready=True Exported");
            assert_eq!(
                (all[2].status.as_str(), all[2].reason.as_str()),
                (status, reason),
                "{own}"
            );
            assert!(all.iter().all(|c| c.observed_generation == Some(3)));
        }
    }

    #[test]
    fn a_condition_keeps_its_moment_until_its_status_changes() {
        let own = ClusterName::new("west").unwrap();
        let standing = |published| Standing {
            import: None,
            published,
            trouble: None,
            own: &own,
        };
        let one = exported(Some(Type::ClusterIp));
        let first = with_times(conditions(&one, standing(false)), &[], "t1");
        assert!(first.iter().all(|c| c.last_transition_time == "t1"));
        let second = with_times(conditions(&one, standing(true)), &first, "t2");
        let times: Vec<_> = second
            .iter()
            .map(|c| c.last_transition_time.as_str())
            .collect();
        assert_eq!(times, ["t1", "t2", "t1"]);
        assert!(!same(&first, &second));
        assert!(same(
            &second,
            &with_times(conditions(&one, standing(true)), &[], "t3")
        ));
    }
}
