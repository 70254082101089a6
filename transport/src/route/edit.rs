//! What a rule changes: header fields, paths, and where a redirect leads. Pure.

use http::{HeaderMap, HeaderName, HeaderValue};
use tradewind_api::{
    expression::Expression,
    route::{Edits, HeaderEdits, PathEdit, PathIs, PathMatch, Redirect, RedirectPort},
};

use super::Call;

/// Changes of both messages' header fields, ready to be made.
#[derive(Clone, Debug, Default)]
pub struct CompiledEdits {
    /// Of the request.
    pub request: CompiledHeaderEdits,
    /// Of the response.
    pub response: CompiledHeaderEdits,
}

/// Changes of one message's.
#[derive(Clone, Debug, Default)]
pub struct CompiledHeaderEdits {
    set: Vec<(HeaderName, HeaderValue)>,
    add: Vec<(HeaderName, HeaderValue)>,
    remove: Vec<HeaderName>,
}

impl CompiledEdits {
    /// What is no header field is left out; whoever made the rule reports it.
    pub fn new(edits: &Edits) -> Self {
        Self {
            request: CompiledHeaderEdits::new(&edits.request),
            response: CompiledHeaderEdits::new(&edits.response),
        }
    }
}

impl CompiledHeaderEdits {
    fn new(edits: &HeaderEdits) -> Self {
        let name = |n: &String| HeaderName::from_bytes(n.as_bytes()).ok();
        let fields = |fields: &[(String, String)]| {
            let field =
                |(n, v): &(String, String)| Some((name(n)?, HeaderValue::from_str(v).ok()?));
            fields.iter().filter_map(field).collect()
        };
        Self {
            set: fields(&edits.set),
            add: fields(&edits.add),
            remove: edits.remove.iter().filter_map(name).collect(),
        }
    }

    /// Makes them.
    pub fn apply(&self, headers: &mut HeaderMap) {
        for (name, value) in &self.set {
            headers.insert(name, value.clone());
        }
        for (name, value) in &self.add {
            headers.append(name, value.clone());
        }
        for name in &self.remove {
            headers.remove(name);
        }
    }
}

/// A change of paths, with its expression compiled, for the requests of one rule.
#[derive(Clone, Debug)]
pub struct PathEditor {
    edit: PathEdit,
    matched: Option<PathIs>,
    expression: Option<Expression>,
}

impl PathEditor {
    /// `matched` is what the rule matches paths by.
    pub fn new(edit: &PathEdit, matched: Option<&PathMatch>) -> Self {
        let expression = match edit {
            PathEdit::Regex { find, .. } => Expression::anywhere(find).ok(),
            PathEdit::Whole(_) | PathEdit::Matched(_) => None,
        };
        Self {
            edit: edit.clone(),
            matched: matched.map(|m| m.is.clone()),
            expression,
        }
    }

    /// A path of a request that the rule matched, changed.
    pub fn edit(&self, path: &str) -> String {
        let edited = match &self.edit {
            PathEdit::Whole(with) => with.clone(),
            PathEdit::Matched(with) => self.instead_of_matched(with, path),
            PathEdit::Regex { with, .. } => match &self.expression {
                Some(expression) => expression.replace(path, with),
                None => path.to_owned(),
            },
        };
        if edited.starts_with('/') {
            edited
        } else {
            format!("/{edited}")
        }
    }

    fn instead_of_matched(&self, with: &str, path: &str) -> String {
        // By segments there is one slash between what is new and what stays, whoever brings it.
        let segments = |rest: &str| format!("{}{rest}", with.trim_end_matches('/'));
        match &self.matched {
            Some(PathIs::Prefix(prefix)) => {
                format!("{with}{}", path.get(prefix.len()..).unwrap_or_default())
            }
            Some(PathIs::Segments(prefix)) => {
                segments(path.get(prefix.len()..).unwrap_or_default())
            }
            Some(PathIs::Exact(_) | PathIs::Regex(_)) => with.to_owned(),
            // A rule for all paths has the prefix `/`.
            None => segments(path),
        }
    }
}

/// The value of a redirect's `location`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location(pub String);

/// Where a redirect leads; `path` is its change of the path.
pub fn location(redirect: &Redirect, path: Option<&PathEditor>, call: &Call<'_>) -> Location {
    let (host, sent_port) = host_and_port(call.authority);
    let scheme = redirect.scheme.as_deref().unwrap_or(call.scheme);
    let host = redirect.host.as_deref().unwrap_or(host);
    let usual = match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    };
    let port = match redirect.port {
        RedirectPort::OfScheme => None,
        RedirectPort::OfRequest => sent_port.or(Some(call.port)),
        RedirectPort::Number(number) => Some(number),
    };
    let mut text = format!("{scheme}://{host}");
    if let Some(port) = port.filter(|p| Some(*p) != usual) {
        text.push_str(&format!(":{port}"));
    }
    match path {
        Some(editor) => text.push_str(&editor.edit(call.path)),
        None => text.push_str(call.path),
    }
    if let Some(query) = call.query {
        text.push('?');
        text.push_str(query);
    }
    Location(text)
}

/// An authority's two halves; an IPv6 address keeps its brackets.
fn host_and_port(authority: &str) -> (&str, Option<u16>) {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => match port.parse() {
            Ok(port) => (host, Some(port)),
            Err(_) => (authority, None),
        },
        _ => (authority, None),
    }
}
