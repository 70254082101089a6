//! Every field of every kind, and what becomes of it: honoured, or reported. One table a kind is what objects are checked
//! against, what the list in the documentation is printed from, and what the tests hold the front ends to.

use serde_json::Value;

use crate::{
    finding::Code,
    object::{At, Report},
};

/// One field of a kind.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// As objects spell it.
    pub name: &'static str,
    /// What becomes of it.
    pub is: Is,
}

/// What becomes of a field.
#[derive(Clone, Copy, Debug)]
pub enum Is {
    /// It is acted on.
    Honoured,
    /// It is known and not acted on; this happens instead.
    Reported(&'static str),
    /// The same, but for values that say what happens anyway.
    ReportedBut(&'static [&'static str], &'static str),
    /// It changes nothing, and nobody expects it to: names for people and statistics.
    Inert,
    /// Fields.
    Object(&'static [Field]),
    /// Objects of these fields.
    List(&'static [Field]),
    /// Objects of these fields, by names that people choose.
    Map(&'static [Field]),
    /// Objects of these fields, where this says that they are acted on; what is said of the others says whoever reads the kind.
    ListOf(fn(&Value) -> bool, &'static [Field]),
}

/// One that is acted on.
pub(crate) const fn honoured(name: &'static str) -> Field {
    Field {
        name,
        is: Is::Honoured,
    }
}

/// One that is not, and what happens instead.
pub(crate) const fn reported(name: &'static str, instead: &'static str) -> Field {
    Field {
        name,
        is: Is::Reported(instead),
    }
}

/// One that is not, but for the values that say what happens anyway.
pub(crate) const fn reported_but(
    usual: &'static [&'static str],
    name: &'static str,
    instead: &'static str,
) -> Field {
    Field {
        name,
        is: Is::ReportedBut(usual, instead),
    }
}

pub(crate) const fn inert(name: &'static str) -> Field {
    Field {
        name,
        is: Is::Inert,
    }
}

pub(crate) const fn object(name: &'static str, fields: &'static [Field]) -> Field {
    Field {
        name,
        is: Is::Object(fields),
    }
}

pub(crate) const fn list(name: &'static str, fields: &'static [Field]) -> Field {
    Field {
        name,
        is: Is::List(fields),
    }
}

pub(crate) const fn map(name: &'static str, fields: &'static [Field]) -> Field {
    Field {
        name,
        is: Is::Map(fields),
    }
}

pub(crate) const fn list_of(
    name: &'static str,
    acted_on: fn(&Value) -> bool,
    fields: &'static [Field],
) -> Field {
    Field {
        name,
        is: Is::ListOf(acted_on, fields),
    }
}

impl Field {
    /// Whether an object means this one: fields of protobuf messages may be written as they stand in the message, or as its JSON has
    /// them (`max_tokens`, `maxTokens`).
    fn is_called(&self, key: &str) -> bool {
        let mut parts = self.name.split('_');
        let first = parts.next().unwrap_or_default();
        let Some(mut rest) = key.strip_prefix(first) else {
            return false;
        };
        let in_json = |part: &str| {
            let (head, tail) = part.split_at_checked(1)?;
            rest = rest
                .strip_prefix(head.to_ascii_uppercase().as_str())?
                .strip_prefix(tail)?;
            Some(())
        };
        self.name == key || (parts.map(in_json).all(|p| p.is_some()) && rest.is_empty())
    }
}

/// Reports every field of `value` that its kind does not have, or that is not acted on. Nothing that is null is there.
pub(crate) fn check(value: &Value, fields: &[Field], at: &At, report: &mut Report<'_>) {
    let Value::Object(map) = value else {
        return;
    };
    for (key, value) in map.iter().filter(|(_, v)| !v.is_null()) {
        let at = at.field(key);
        let Some(field) = fields.iter().find(|f| f.is_called(key)) else {
            report.say(
                Code::UnknownField,
                &at,
                "there is no such field; it has no effect",
            );
            continue;
        };
        match field.is {
            Is::Honoured | Is::Inert => {}
            Is::ReportedBut(usual, _) if usual.iter().any(|u| value == u) => {}
            Is::Reported(instead) | Is::ReportedBut(_, instead) => {
                report.say(
                    Code::UnsupportedField,
                    &at,
                    format!("is not acted on: {instead}"),
                );
            }
            Is::Object(fields) => check(value, fields, &at, report),
            Is::List(fields) => {
                for (index, item) in value.as_array().into_iter().flatten().enumerate() {
                    check(item, fields, &at.index(index), report);
                }
            }
            Is::ListOf(acted_on, fields) => {
                let all = value.as_array().into_iter().flatten().enumerate();
                for (index, item) in all.filter(|(_, item)| acted_on(item)) {
                    check(item, fields, &at.index(index), report);
                }
            }
            Is::Map(fields) => {
                for (name, item) in value.as_object().into_iter().flatten() {
                    check(item, fields, &at.field(name), report);
                }
            }
        }
    }
}

/// A field as the documentation lists it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is acted on.
    Honoured,
    /// It is reported, and this happens instead.
    Reported(&'static str),
    /// It changes nothing by its nature.
    Inert,
}

/// Every field of a kind by its path, with `[]` for a list's items and `{}` for a map's.
pub fn paths(fields: &[Field]) -> Vec<(String, Standing)> {
    let mut all = Vec::new();
    gather(fields, "", &mut all);
    all
}

fn gather(fields: &[Field], at: &str, all: &mut Vec<(String, Standing)>) {
    for field in fields {
        let path = if at.is_empty() {
            field.name.to_owned()
        } else {
            format!("{at}.{}", field.name)
        };
        match field.is {
            Is::Honoured => all.push((path, Standing::Honoured)),
            Is::Reported(instead) | Is::ReportedBut(_, instead) => {
                all.push((path, Standing::Reported(instead)));
            }
            Is::Inert => all.push((path, Standing::Inert)),
            Is::Object(fields) => gather(fields, &path, all),
            Is::List(fields) | Is::ListOf(_, fields) => gather(fields, &format!("{path}[]"), all),
            Is::Map(fields) => gather(fields, &format!("{path}{{}}"), all),
        }
    }
}
