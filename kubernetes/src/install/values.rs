//! The chart's values: the defaults, what files say over them, and what is set one by one.
//!
//! Only what the chart's schema knows can be set, and only to what it allows: a mistyped value is an error, never ignored.

use serde_json::{Map, Value};

use super::{DEFAULT_VALUES, VALUES_SCHEMA, schema::Schema};

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
        expected: String,
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
            Value::Object(map) => self.put(map),
            other => Err(ValuesError::Kind {
                path: "the file".to_owned(),
                found: other.to_string(),
                expected: "a map".to_owned(),
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
        let root = schema();
        let said = path.split('.').try_fold(Schema::new(&root), Schema::member);
        // What is a text stays one: a tag of 1 is no number.
        let value = if said.is_some_and(Schema::is_text) {
            Value::String(text.to_owned())
        } else {
            typed(text)
        };
        let nested = path.rsplit('.').fold(value, |value, step| {
            Value::Object(Map::from_iter([(step.to_owned(), value)]))
        });
        match nested {
            Value::Object(map) => self.put(map),
            _ => Err(bad()),
        }
    }

    fn put(&mut self, map: Map<String, Value>) -> Result<(), ValuesError> {
        let root = schema();
        let Some(known) = self.0.as_object_mut() else {
            return Ok(());
        };
        merge(known, map, Schema::new(&root), "")
    }
}

/// The chart's. What Helm gives to charts within charts nobody sets here.
fn schema() -> Value {
    // A test holds that it can be read.
    let mut root: Value = serde_json::from_str(VALUES_SCHEMA).unwrap_or_default();
    if let Some(named) = root.get_mut("properties").and_then(Value::as_object_mut) {
        named.remove("global");
    }
    root
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

fn merge(
    into: &mut Map<String, Value>,
    from: Map<String, Value>,
    schema: Schema<'_>,
    at: &str,
) -> Result<(), ValuesError> {
    for (key, value) in from {
        let path = match at {
            "" => key.clone(),
            _ => format!("{at}.{key}"),
        };
        let Some(said) = schema.member(&key) else {
            return Err(schema.unknown(path));
        };
        // As Helm has it, null takes a default away.
        if value.is_null() && into.contains_key(&key) && schema.may_lack(&key) {
            into.remove(&key);
            continue;
        }
        said.check(&path, &value)?;
        match value {
            Value::Object(map) if said.is_map() => {
                let inner = into.entry(key).or_insert_with(|| Map::new().into());
                if let Some(inner) = inner.as_object_mut() {
                    merge(inner, map, said, &path)?;
                }
            }
            value => {
                into.insert(key, value);
            }
        }
    }
    Ok(())
}
