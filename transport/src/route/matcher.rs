//! One rule's conditions, with its expressions compiled. Pure.

use std::{borrow::Cow, collections::BTreeMap, fmt};

use http::{HeaderMap, HeaderName};
use tradewind_api::{
    Namespace,
    expression::Expression,
    route::{FieldMatch, Match, PathIs, PathMatch, Text},
};

use super::Call;

/// The part of a request, or of a stream, that a rule is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// The service's port.
    Port,
    /// The path.
    Path,
    /// The method.
    Method,
    /// The scheme.
    Scheme,
    /// The authority.
    Authority,
    /// A header field.
    Header(String),
    /// A query parameter.
    Query(String),
    /// The server name that a TLS client asks for.
    ServerName,
    /// The caller's namespace.
    CallerNamespace,
    /// One of the caller's labels.
    CallerLabel(String),
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port => f.write_str("port"),
            Self::Path => f.write_str("path"),
            Self::Method => f.write_str("method"),
            Self::Scheme => f.write_str("scheme"),
            Self::Authority => f.write_str("authority"),
            Self::Header(name) => write!(f, "header {name}"),
            Self::Query(name) => write!(f, "query parameter {name}"),
            Self::ServerName => f.write_str("server name"),
            Self::CallerNamespace => f.write_str("caller's namespace"),
            Self::CallerLabel(name) => write!(f, "caller's label {name}"),
        }
    }
}

/// Why a rule does not match: the first of its conditions that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mismatch {
    /// This part is not what the rule wants.
    Is(Part),
    /// One of the rule's own expressions is none, so it never matches.
    Broken,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Is(part) => write!(f, "the {part} does not match"),
            Self::Broken => f.write_str("one of its expressions is broken"),
        }
    }
}

/// How a text is compared, with its expression compiled.
#[derive(Clone, Debug)]
pub(super) enum Is {
    Exact(String),
    Prefix(String),
    Regex(Expression),
    Present,
}

impl Is {
    /// None where its expression is none.
    pub(super) fn new(text: &Text) -> Option<Self> {
        Some(match text {
            Text::Exact(t) => Self::Exact(t.clone()),
            Text::Prefix(t) => Self::Prefix(t.clone()),
            Text::Regex(t) => Self::Regex(Expression::whole(t, false).ok()?),
            Text::Present => Self::Present,
        })
    }

    pub(super) fn holds(&self, text: &str) -> bool {
        match self {
            Self::Exact(t) => text == t,
            Self::Prefix(t) => text.starts_with(t.as_str()),
            Self::Regex(e) => e.is_match(text),
            Self::Present => true,
        }
    }
}

#[derive(Clone, Debug)]
struct Path {
    is: PathIs,
    ignores_case: bool,
    expression: Option<Expression>,
}

impl Path {
    fn new(path: &PathMatch) -> Option<Self> {
        let expression = match &path.is {
            PathIs::Regex(text) => Some(Expression::whole(text, path.ignores_case).ok()?),
            PathIs::Exact(_) | PathIs::Segments(_) | PathIs::Prefix(_) => None,
        };
        Some(Self {
            is: path.is.clone(),
            ignores_case: path.ignores_case,
            expression,
        })
    }

    /// Bytes, so that a prefix may end inside of nothing.
    fn begins(&self, text: &str, with: &str) -> bool {
        let begin = text.as_bytes().get(..with.len());
        begin.is_some_and(|b| {
            if self.ignores_case {
                b.eq_ignore_ascii_case(with.as_bytes())
            } else {
                b == with.as_bytes()
            }
        })
    }

    fn holds(&self, path: &str) -> bool {
        match &self.is {
            PathIs::Exact(t) => t.len() == path.len() && self.begins(path, t),
            PathIs::Prefix(t) => self.begins(path, t),
            PathIs::Segments(t) => {
                let rest = path.as_bytes().get(t.len());
                self.begins(path, t) && matches!(rest, None | Some(b'/'))
            }
            PathIs::Regex(_) => self.expression.as_ref().is_some_and(|e| e.is_match(path)),
        }
    }
}

#[derive(Clone, Debug)]
struct Field<N> {
    name: N,
    is: Is,
    not: bool,
}

impl<N> Field<N> {
    fn new(field: &FieldMatch, name: N) -> Option<Self> {
        Some(Self {
            name,
            is: Is::new(&field.is)?,
            not: field.not,
        })
    }

    fn holds(&self, value: Option<&str>) -> bool {
        value.is_some_and(|v| self.is.holds(v)) != self.not
    }
}

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Matcher {
    port: Option<u16>,
    path: Option<Path>,
    method: Option<Is>,
    scheme: Option<Is>,
    authority: Option<Is>,
    headers: Vec<Field<HeaderName>>,
    query: Vec<Field<String>>,
    namespace: Option<Namespace>,
    labels: BTreeMap<String, String>,
}

impl Matcher {
    /// None where one of the expressions, or a header's name, is none.
    pub(super) fn new(when: &Match) -> Option<Self> {
        let text = |t: &Option<Text>| t.as_ref().map(Is::new);
        let header =
            |f: &FieldMatch| Field::new(f, HeaderName::from_bytes(f.name.as_bytes()).ok()?);
        Some(Self {
            port: when.port,
            path: match &when.path {
                Some(path) => Some(Path::new(path)?),
                None => None,
            },
            method: flatten(text(&when.method))?,
            scheme: flatten(text(&when.scheme))?,
            authority: flatten(text(&when.authority))?,
            headers: when.headers.iter().map(header).collect::<Option<_>>()?,
            query: when
                .query
                .iter()
                .map(|f| Field::new(f, f.name.clone()))
                .collect::<Option<_>>()?,
            namespace: when.caller_namespace.clone(),
            labels: when.caller_labels.clone(),
        })
    }

    /// The first condition that does not hold; the cheap ones are asked first.
    pub(super) fn mismatch(&self, call: &Call<'_>) -> Option<Mismatch> {
        let no = |part| Some(Mismatch::Is(part));
        let holds = |is: &Option<Is>, text: &str| is.as_ref().is_none_or(|is| is.holds(text));
        if self.port.is_some_and(|p| p != call.port) {
            return no(Part::Port);
        }
        if self
            .namespace
            .as_ref()
            .is_some_and(|n| n != call.caller.namespace)
        {
            return no(Part::CallerNamespace);
        }
        for (name, value) in &self.labels {
            if call.caller.labels.get(name) != Some(value) {
                return no(Part::CallerLabel(name.clone()));
            }
        }
        if self.path.as_ref().is_some_and(|p| !p.holds(call.path)) {
            return no(Part::Path);
        }
        if !holds(&self.method, call.method.as_str()) {
            return no(Part::Method);
        }
        if !holds(&self.scheme, call.scheme) {
            return no(Part::Scheme);
        }
        if !holds(&self.authority, call.authority) {
            return no(Part::Authority);
        }
        for field in &self.headers {
            if !field.holds(header(call.headers, &field.name).as_deref()) {
                return no(Part::Header(field.name.to_string()));
            }
        }
        for field in &self.query {
            if !field.holds(parameter(call.query, &field.name).as_deref()) {
                return no(Part::Query(field.name.clone()));
            }
        }
        None
    }
}

/// Turns "set, and broken" into "broken".
fn flatten<T>(set: Option<Option<T>>) -> Option<Option<T>> {
    match set {
        None => Some(None),
        Some(None) => None,
        Some(Some(is)) => Some(Some(is)),
    }
}

/// A field's value; several are one with commas between (RFC 9110 section 5.3). One that is no text is not there.
fn header<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<Cow<'a, str>> {
    let mut all = headers.get_all(name).iter();
    let first = all.next()?.to_str().ok()?;
    let mut value = Cow::Borrowed(first);
    for next in all {
        let joined = value.to_mut();
        joined.push(',');
        joined.push_str(next.to_str().ok()?);
    }
    Some(value)
}

/// The first value of a query parameter, with `%41` as `A`.
pub fn parameter<'a>(query: Option<&'a str>, name: &str) -> Option<Cow<'a, str>> {
    query?.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decoded(key)? == name).then(|| decoded(value))?
    })
}

/// Percent-decoded; none where that is no text. What is no code stays as it is.
fn decoded(text: &str) -> Option<Cow<'_, str>> {
    if !text.contains('%') {
        return Some(Cow::Borrowed(text));
    }
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let code = bytes
            .get(at + 1..at + 3)
            .filter(|_| byte == b'%')
            .and_then(|hex| std::str::from_utf8(hex).ok())
            .filter(|hex| hex.bytes().all(|c| c.is_ascii_hexdigit()))
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match code {
            Some(code) => {
                out.push(code);
                at += 3;
            }
            None => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8(out).ok().map(Cow::Owned)
}
