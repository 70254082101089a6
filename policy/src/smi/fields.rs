//! What becomes of each field of SMI's TrafficSplit and HTTPRouteGroup, in any of their versions.

use crate::fields::{Field, honoured, inert, list};

/// TrafficSplit's `spec`.
pub(crate) const TRAFFIC_SPLIT: &[Field] = &[
    honoured("service"),
    list("backends", &[honoured("service"), honoured("weight")]),
    list(
        "matches",
        &[inert("kind"), honoured("name"), inert("apiGroup")],
    ),
];

/// HTTPRouteGroup's `spec`.
pub(crate) const HTTP_ROUTE_GROUP: &[Field] = &[list(
    "matches",
    &[
        inert("name"),
        honoured("pathRegex"),
        honoured("methods"),
        honoured("headers"),
    ],
)];
