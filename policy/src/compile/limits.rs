//! How much workloads take: what each EnvoyFilter says stands beside what the others say, and all of it holds.

use std::sync::Arc;

use tradewind_api::limit::{Limits, LocalLimits, Place};

use super::Read;
use crate::{
    finding::{Code, Finding},
    object::{At, Object, Report},
};

/// By the object that says it; what cannot act is told.
pub(super) fn of_all(
    objects: &[&Object],
    reads: &[(usize, Arc<Read>)],
    findings: &mut Vec<Finding>,
) -> Limits<Arc<LocalLimits>> {
    let said = |(index, read): &(usize, Arc<Read>)| {
        let limits = read.drafts.limits.as_ref()?;
        Some((*objects.get(*index)?, Arc::clone(limits)))
    };
    let all: Vec<_> = reads.iter().filter_map(said).collect();
    for (object, limits) in &all {
        if has(limits, true) && !all.iter().any(|(_, other)| stands_before(other, limits)) {
            let text = "a limit of a route holds where a patch of HTTP_FILTER puts envoy.filters.http.local_ratelimit before the application, and none does for these workloads";
            let at = At::spec().field("configPatches");
            Report::new(object, findings).say(Code::IdleSetting, &at, text);
        }
    }
    let of_object = |(object, limits): (&Object, _)| (object.name.clone(), limits);
    all.into_iter().map(of_object).collect()
}

fn has(limits: &LocalLimits, of_routes: bool) -> bool {
    let is = |place| matches!(place, Place::Route { .. }) == of_routes;
    limits.limits.iter().any(|limit| is(limit.place))
}

/// Whether some workload may have both, and `other` has a filter.
fn stands_before(other: &LocalLimits, routes: &LocalLimits) -> bool {
    let meet = match (&other.namespace, &routes.namespace) {
        (Some(a), Some(b)) => a == b,
        (None, _) | (_, None) => true,
    };
    let contradict = |(key, value): (&String, &String)| {
        routes.labels.get(key).is_some_and(|wanted| wanted != value)
    };
    meet && has(other, false) && !other.labels.iter().any(contradict)
}
