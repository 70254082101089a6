//! VirtualService's `corsPolicy`.

use tradewind_api::route::{Cors, Text};

use super::{http::text, types::CorsPolicy};
use crate::{
    object::{At, Report},
    values::{duration, header_names, methods},
};

/// The model's words for it.
pub(super) fn policy(doc: &CorsPolicy, at: &At, report: &mut Report<'_>) -> Cors {
    let of_old = doc.allow_origin.iter().map(|o| match o.as_str() {
        "*" => Text::Present,
        origin => Text::Exact(origin.to_owned()),
    });
    let mut origins: Vec<_> = of_old.collect();
    for (i, t) in doc.allow_origins.iter().enumerate() {
        let at = at.field("allowOrigins").index(i);
        origins.extend(text(t, &at, report).map(|t| match t {
            Text::Exact(any) if any == "*" => Text::Present,
            other => other,
        }));
    }
    let unmatched = doc.unmatched_preflights.as_deref();
    if !matches!(unmatched, None | Some("UNSPECIFIED" | "FORWARD" | "IGNORE")) {
        report.invalid(
            &at.field("unmatchedPreflights"),
            unmatched.unwrap_or_default(),
            "FORWARD or IGNORE",
        );
    }
    Cors {
        origins,
        methods: methods(&doc.allow_methods, &at.field("allowMethods"), report),
        headers: header_names(&doc.allow_headers, &at.field("allowHeaders"), report),
        expose: header_names(&doc.expose_headers, &at.field("exposeHeaders"), report),
        max_age_s: duration(doc.max_age.as_deref(), &at.field("maxAge"), report)
            .map(|ms| ms / 1_000),
        credentials: doc.allow_credentials.unwrap_or(false),
        forwards_unmatched: unmatched != Some("IGNORE"),
    }
}
