//! What may be set: as much of JSON Schema as the chart's `values.schema.json` uses. Helm holds values to the same file, so that both
//! refuse the same.
//!
//! Of `pattern` nothing is known here: the amounts that have one are read by the injection's own settings.

use serde_json::{Map, Value};

use super::ValuesError;

/// Of values in a map that stands at `path`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Schema<'a>(&'a Value);

impl<'a> Schema<'a> {
    /// That of all values.
    pub(super) const fn new(root: &'a Value) -> Self {
        Self(root)
    }

    /// What is said of a member; nothing of one that nobody knows.
    pub(super) fn member(self, key: &str) -> Option<Self> {
        let named = self.0.get("properties").and_then(|all| all.get(key));
        named.or_else(|| self.others()).map(Self)
    }

    /// What is said of members without a name: those of a map that is somebody else's, such as annotations.
    fn others(self) -> Option<&'a Value> {
        let others = self.0.get("additionalProperties");
        others.filter(|schema| schema.is_object())
    }

    /// Whether a member that is there by default may be taken away.
    pub(super) fn may_lack(self, key: &str) -> bool {
        let required = self.0.get("required").and_then(Value::as_array);
        required.is_none_or(|all| all.iter().all(|name| name != key))
    }

    /// What is written there is a text, whatever it looks like.
    pub(super) fn is_text(self) -> bool {
        self.types() == ["string"]
    }

    /// A map, whose members have schemas of their own.
    pub(super) fn is_map(self) -> bool {
        self.types() == ["object"]
    }

    fn types(self) -> Vec<&'a str> {
        match self.0.get("type") {
            Some(Value::String(one)) => vec![one],
            Some(Value::Array(some)) => some.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        }
    }

    fn names(self) -> Vec<&'a str> {
        let named = self.0.get("properties").and_then(Value::as_object);
        named
            .into_iter()
            .flat_map(Map::keys)
            .map(String::as_str)
            .collect()
    }

    /// Refuses a member that nobody knows.
    pub(super) fn unknown(self, path: String) -> ValuesError {
        let near = self.names().join(", ");
        ValuesError::Unknown { path, near }
    }

    /// Refuses what is of another kind, or out of bounds. Members of maps are not looked at.
    pub(super) fn check(self, path: &str, value: &Value) -> Result<(), ValuesError> {
        let fits = self.types().iter().any(|name| is(name, value))
            && self.in_bounds(value)
            && self.words().is_none_or(|words| words.contains(value));
        if fits {
            return Ok(());
        }
        Err(ValuesError::Kind {
            path: path.to_owned(),
            found: value.to_string(),
            expected: self.expected(),
        })
    }

    fn words(self) -> Option<&'a Vec<Value>> {
        self.0.get("enum").and_then(Value::as_array)
    }

    fn bound(self, keyword: &str) -> Option<f64> {
        self.0.get(keyword).and_then(Value::as_f64)
    }

    fn in_bounds(self, value: &Value) -> bool {
        let Some(number) = value.as_f64() else {
            return true;
        };
        self.bound("minimum").is_none_or(|least| number >= least)
            && self.bound("maximum").is_none_or(|most| number <= most)
    }

    fn expected(self) -> String {
        if let Some(words) = self.words() {
            let words = words.iter().filter_map(Value::as_str);
            return format!("one of {}", words.collect::<Vec<_>>().join(", "));
        }
        let kinds = self.types().into_iter().map(|name| match name {
            "string" => "a text",
            "boolean" => "true or false",
            "integer" => "a whole number",
            "number" => "a number",
            _ => "a map",
        });
        let kinds = kinds.collect::<Vec<_>>().join(" or ");
        match (self.bound("minimum"), self.bound("maximum")) {
            (Some(least), Some(most)) => format!("{kinds}, {least} to {most}"),
            (Some(least), None) => format!("{kinds}, {least} or more"),
            (None, Some(most)) => format!("{kinds}, {most} or less"),
            (None, None) => kinds,
        }
    }
}

fn is(name: &str, value: &Value) -> bool {
    match name {
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        "object" => value.is_object(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::{super::VALUES_SCHEMA, *};

    /// A word that only Helm understands would be refused by one way of installing and not by the other.
    #[test]
    fn every_word_of_the_schema_is_understood() {
        fn look(schema: &Value) {
            for (word, value) in schema.as_object().unwrap() {
                match word.as_str() {
                    "properties" => value.as_object().unwrap().values().for_each(look),
                    "additionalProperties" if value.is_object() => look(value),
                    "additionalProperties" => assert_eq!(value, &Value::Bool(false)),
                    "$schema" | "title" | "description" | "pattern" | "type" | "required"
                    | "enum" | "minimum" | "maximum" => {}
                    other => panic!("{other}"),
                }
            }
            assert!(!Schema(schema).types().is_empty(), "{schema}");
        }
        look(&serde_json::from_str(VALUES_SCHEMA).unwrap());
    }

    #[test]
    fn what_is_expected_is_said() {
        let said = |schema: Value, value: Value| {
            let error = Schema(&schema).check("here", &value).unwrap_err();
            error.to_string()
        };
        use serde_json::json;
        assert_eq!(
            said(
                json!({"type": "integer", "minimum": 0, "maximum": 9}),
                json!(10)
            ),
            "here is 10: expected a whole number, 0 to 9"
        );
        assert_eq!(
            said(
                json!({"type": ["string", "number"], "minimum": 0}),
                json!(-1)
            ),
            "here is -1: expected a text or a number, 0 or more"
        );
        assert_eq!(
            said(json!({"type": "string", "enum": ["a", "b"]}), json!("c")),
            r#"here is "c": expected one of a, b"#
        );
        assert_eq!(
            said(json!({"type": "object", "maximum": 1}), json!(true)),
            "here is true: expected a map, 1 or less"
        );
    }
}
