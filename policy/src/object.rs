//! An object as it was written, before its kind is looked into: its name, where it stands, and whom to tell what is wrong
//! with it.

use std::{fmt, sync::Arc};

use serde::de::DeserializeOwned;
use serde_json::Value;
use tradewind_api::ServiceName;

use crate::{
    finding::{Code, Finding},
    lines::Lines,
    status::{Facts, Reason},
};

/// Findings kept of one object: whoever has a hundred mends the first ones first.
const MAX_FINDINGS: usize = 100;
/// Most characters of a value that are shown.
const MAX_SHOWN: usize = 60;

/// One object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// `file:line`.
    pub place: String,
    /// Where its fields stand, as far as that is known.
    pub lines: Lines,
    /// `group/version`.
    pub api_version: String,
    /// Its kind.
    pub kind: String,
    /// Its namespace and name. Objects of any kind are named as services are: by two labels.
    pub name: ServiceName,
    /// RFC 3339, where it came from an API server; those compare as text.
    pub created: Option<String>,
    /// All of it. Objects are handed around and compared a lot, and change seldom.
    pub value: Arc<Value>,
}

impl Object {
    /// Reads what all kinds have. The error says what is missing.
    pub fn new(place: &str, value: Value) -> Result<Self, String> {
        let text = |at: &Value, key: &str| at.get(key).and_then(Value::as_str).map(str::to_owned);
        let metadata = value.get("metadata").cloned().unwrap_or_default();
        let name = text(&metadata, "name").ok_or("metadata.name is missing")?;
        let namespace = text(&metadata, "namespace").unwrap_or_else(|| "default".to_owned());
        Ok(Self {
            place: place.to_owned(),
            lines: Lines::default(),
            api_version: text(&value, "apiVersion").ok_or("apiVersion is missing")?,
            kind: text(&value, "kind").ok_or("kind is missing")?,
            name: ServiceName::new(&namespace, &name).map_err(|e| format!("metadata: {e}"))?,
            created: text(&metadata, "creationTimestamp"),
            value: Arc::new(value),
        })
    }

    /// With where its fields stand.
    #[must_use]
    pub fn with_lines(self, lines: Lines) -> Self {
        Self { lines, ..self }
    }

    /// `file:line` of a field, or of the nearest that it is in.
    fn place_of(&self, at: &At) -> String {
        let file = self.place.rsplit_once(':').map(|(file, _)| file);
        match (file, self.lines.line(&at.0)) {
            (Some(file), Some(line)) => format!("{file}:{line}"),
            _ => self.place.clone(),
        }
    }

    /// Its `spec` as a type, or what is wrong with it.
    pub(crate) fn spec<T: DeserializeOwned>(&self, report: &mut Report<'_>) -> Option<T> {
        let spec = self.value.get("spec").cloned().unwrap_or_default();
        match serde_json::from_value(spec) {
            Ok(spec) => Some(spec),
            Err(error) => {
                let text = error.to_string();
                report.facts.unread(format!("spec: {text}"));
                report.say(Code::Malformed, &At::spec(), text);
                None
            }
        }
    }
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.name)
    }
}

/// A field's path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct At(String);

impl At {
    pub(crate) fn spec() -> Self {
        Self("spec".to_owned())
    }

    /// A field of what is here. A name that people chose may hold dots.
    pub(crate) fn field(&self, name: &str) -> Self {
        if self.0.is_empty() {
            Self(name.to_owned())
        } else if name.contains('.') {
            Self(format!("{}[{name}]", self.0))
        } else {
            Self(format!("{}.{name}", self.0))
        }
    }

    /// An item of the list that is here.
    pub(crate) fn index(&self, index: usize) -> Self {
        Self(format!("{}[{index}]", self.0))
    }
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What is found in one object.
#[derive(Debug)]
pub(crate) struct Report<'a> {
    object: &'a Object,
    findings: &'a mut Vec<Finding>,
    said: usize,
    /// What a route is told of itself.
    pub(crate) facts: Facts,
}

impl<'a> Report<'a> {
    pub(crate) fn new(object: &'a Object, findings: &'a mut Vec<Finding>) -> Self {
        Self {
            object,
            findings,
            said: 0,
            facts: Facts::default(),
        }
    }

    /// For what is found in another object that this one refers to.
    pub(crate) fn on<'b>(&'b mut self, object: &'b Object) -> Report<'b> {
        Report::new(object, self.findings)
    }

    /// Adds a finding.
    pub(crate) fn say(&mut self, code: Code, at: &At, text: impl Into<String>) {
        let text = text.into();
        if matches!(code, Code::InvalidValue | Code::BrokenExpression) {
            self.facts.bad_value(at, &text);
        }
        self.add(code, at, text);
    }

    /// Says that a filter of a rule is not served.
    pub(crate) fn unserved(&mut self, at: &At, text: String) {
        self.facts.bad_filter(at, &text);
        self.add(Code::InvalidValue, at, text);
    }

    /// Says that what a rule refers to cannot be called.
    pub(crate) fn unresolved(&mut self, (code, reason): (Code, Reason), at: &At, text: &str) {
        self.facts.bad_ref(reason, at, text);
        self.add(code, at, text.to_owned());
    }

    fn add(&mut self, code: Code, at: &At, text: String) {
        if self.said == MAX_FINDINGS {
            return;
        }
        self.said += 1;
        self.findings.push(Finding {
            place: self.object.place_of(at),
            code,
            object: self.object.to_string(),
            path: at.0.clone(),
            text,
        });
    }

    /// A value that is none for its field.
    pub(crate) fn invalid(&mut self, at: &At, value: &str, expected: &str) {
        let shown: String = value.chars().take(MAX_SHOWN).collect();
        self.say(
            Code::InvalidValue,
            at,
            format!("{shown:?} is not valid: expected {expected}"),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lines::Spot;

    #[test]
    fn a_finding_stands_where_its_field_does() {
        let value = serde_json::json!({
            "apiVersion": "v1", "kind": "Test", "metadata": {"name": "x"}, "spec": {"a": 1},
        });
        let spot = |line, fields: Vec<(&str, Spot)>| Spot {
            line,
            fields: fields.into_iter().map(|(n, s)| (n.to_owned(), s)).collect(),
            items: Vec::new(),
        };
        let spec = spot(4, vec![("a", spot(5, vec![]))]);
        let lines = Lines::of(&spot(1, vec![("spec", spec)]), 6);
        let object = Object::new("dir:1/f.yaml:7", value).unwrap();
        let places = |object: &Object| {
            let mut findings = Vec::new();
            let mut report = Report::new(object, &mut findings);
            for at in [At::spec().field("a"), At::spec().field("b"), At::default()] {
                report.say(Code::InvalidValue, &at, "wrong");
            }
            findings.into_iter().map(|f| f.place).collect::<Vec<_>>()
        };
        assert_eq!(places(&object), ["dir:1/f.yaml:7"; 3]);
        let object = object.with_lines(lines);
        let expected = ["dir:1/f.yaml:11", "dir:1/f.yaml:10", "dir:1/f.yaml:7"];
        assert_eq!(places(&object), expected);
    }
}
