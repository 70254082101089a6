//! Whether one rule takes every request that another one would.

use tradewind_api::route::{FieldMatch, Match, PathIs, PathMatch, Text};

/// Whether every request that meets `b` meets `a` too, as far as can be told by looking.
pub(super) fn covers(a: &Match, b: &Match) -> bool {
    fn same_or_any<T: PartialEq>(a: &Option<T>, b: &Option<T>) -> bool {
        a.is_none() || a == b
    }
    let text = |a: &Option<Text>, b: &Option<Text>| match (a, b) {
        (None, _) => true,
        (Some(a), Some(b)) => covers_text(a, b),
        (Some(_), None) => false,
    };
    let fields = |a: &[FieldMatch], b: &[FieldMatch]| {
        a.iter().all(|a| {
            b.iter().any(|b| {
                a == b || (!a.not && !b.not && a.name == b.name && covers_text(&a.is, &b.is))
            })
        })
    };
    let path = match (&a.path, &b.path) {
        (None, _) => true,
        (Some(a), Some(b)) => covers_path(a, b),
        (Some(_), None) => false,
    };
    path && same_or_any(&a.port, &b.port)
        && same_or_any(&a.caller_namespace, &b.caller_namespace)
        && text(&a.method, &b.method)
        && text(&a.scheme, &b.scheme)
        && text(&a.authority, &b.authority)
        && fields(&a.headers, &b.headers)
        && fields(&a.query, &b.query)
        && a.caller_labels
            .iter()
            .all(|(k, v)| b.caller_labels.get(k) == Some(v))
}

fn covers_text(a: &Text, b: &Text) -> bool {
    match (a, b) {
        (Text::Present, _) => true,
        (Text::Prefix(a), Text::Exact(b) | Text::Prefix(b)) => b.starts_with(a.as_str()),
        (a, b) => a == b,
    }
}

fn covers_path(a: &PathMatch, b: &PathMatch) -> bool {
    if a == b {
        return true;
    }
    if a.ignores_case || b.ignores_case {
        return false;
    }
    match (&a.is, &b.is) {
        (PathIs::Prefix(a), PathIs::Exact(b) | PathIs::Prefix(b) | PathIs::Segments(b)) => {
            b.starts_with(a.as_str())
        }
        (PathIs::Segments(a), PathIs::Exact(b) | PathIs::Segments(b)) => b
            .strip_prefix(a.as_str())
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
        _ => false,
    }
}
