//! The chart's values: the defaults, what files say over them, and what is set one by one.
//!
//! Only what the defaults know can be set, and only to something of the same kind: a mistyped value is an error, never ignored.

use serde_json::{Map, Value};

use super::DEFAULT_VALUES;

/// Maps whose members are not ours to know.
const OPEN: [&str; 5] = [
    "controller.resources",
    "gateway.resources",
    "gateway.service.annotations",
    "dns.resources",
    "injection.resources",
];

/// Why a value was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ValuesError {
    /// No YAML.
    #[error("the values are no valid YAML: {0}")]
    Yaml(String),
    /// There is no such value.
    #[error("there is no value {path}; there {} {near}", if near.contains(',') { "are" } else { "is" })]
    Unknown {
        /// What was set.
        path: String,
        /// Those beside it.
        near: String,
    },
    /// Of another kind.
    #[error("{path} is {found}: expected {expected}")]
    Kind {
        /// The value.
        path: String,
        /// What it was set to.
        found: String,
        /// What is expected.
        expected: &'static str,
    },
    /// Not `key=value`.
    #[error("{0:?} is not valid: expected KEY=VALUE, such as cluster.name=west")]
    NoAssignment(String),
}

/// See the module.
#[derive(Clone, Debug, PartialEq)]
pub struct Values(Value);

impl Default for Values {
    fn default() -> Self {
        // A test holds that it can be read.
        Self(serde_saphyr::from_str(DEFAULT_VALUES).unwrap_or_default())
    }
}

impl Values {
    /// As the templates see them.
    pub const fn as_json(&self) -> &Value {
        &self.0
    }

    /// A value by its path, such as `cluster.name`.
    pub fn text(&self, path: &str) -> Option<&str> {
        let found = path.split('.').try_fold(&self.0, |v, step| v.get(step));
        found?.as_str()
    }

    /// Puts a file's values over these.
    pub fn merge(&mut self, yaml: &str) -> Result<(), ValuesError> {
        let file: Value =
            serde_saphyr::from_str(yaml).map_err(|e| ValuesError::Yaml(e.to_string()))?;
        match file {
            Value::Null => Ok(()),
            Value::Object(map) => merge(&mut self.0, map, ""),
            other => Err(ValuesError::Kind {
                path: "the file".to_owned(),
                found: other.to_string(),
                expected: "a map",
            }),
        }
    }

    /// Sets one: `cluster.name=west`.
    pub fn set(&mut self, assignment: &str) -> Result<(), ValuesError> {
        let bad = || ValuesError::NoAssignment(assignment.to_owned());
        let (path, text) = assignment.split_once('=').ok_or_else(bad)?;
        if path.is_empty() || path.split('.').any(str::is_empty) {
            return Err(bad());
        }
        let now = path.split('.').try_fold(&self.0, |v, step| v.get(step));
        // What is a text stays one: a tag of 1 is no number.
        let value = match now {
            Some(Value::String(_)) => Value::String(text.to_owned()),
            _ => typed(text),
        };
        let nested = path.rsplit('.').fold(value, |value, step| {
            Value::Object(Map::from_iter([(step.to_owned(), value)]))
        });
        match nested {
            Value::Object(map) => merge(&mut self.0, map, ""),
            _ => Err(bad()),
        }
    }
}

fn typed(text: &str) -> Value {
    match text {
        "true" => Value::Bool(true),
        "false" => Value::Bool(false),
        "null" => Value::Null,
        number => match number.parse::<i64>() {
            Ok(number) => Value::from(number),
            Err(_) => Value::String(text.to_owned()),
        },
    }
}

fn merge(into: &mut Value, from: Map<String, Value>, at: &str) -> Result<(), ValuesError> {
    let Some(known) = into.as_object_mut() else {
        return Ok(());
    };
    for (key, value) in from {
        let path = if at.is_empty() {
            key.clone()
        } else {
            format!("{at}.{key}")
        };
        let inside_open = OPEN
            .iter()
            .any(|open| at == *open || at.starts_with(&format!("{open}.")));
        let Some(now) = known.get_mut(&key) else {
            if inside_open {
                known.insert(key, value);
                continue;
            }
            let near: Vec<&str> = known.keys().map(String::as_str).collect();
            let near = near.join(", ");
            return Err(ValuesError::Unknown { path, near });
        };
        match (now.is_object(), value) {
            (true, Value::Object(map)) => merge(now, map, &path)?,
            (_, value) => {
                check_kind(&path, now, &value)?;
                *now = value;
            }
        }
    }
    Ok(())
}

fn check_kind(path: &str, now: &Value, new: &Value) -> Result<(), ValuesError> {
    let (fits, expected) = match now {
        Value::Bool(_) => (new.is_boolean(), "true or false"),
        Value::Number(_) => (new.is_u64(), "a whole number"),
        Value::String(_) => (new.is_string(), "a text"),
        Value::Object(_) => (new.is_object(), "a map"),
        Value::Array(_) => (new.is_array(), "a list"),
        Value::Null => (true, ""),
    };
    if fits {
        return Ok(());
    }
    Err(ValuesError::Kind {
        path: path.to_owned(),
        found: new.to_string(),
        expected,
    })
}
