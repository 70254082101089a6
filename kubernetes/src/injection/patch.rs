//! JSON Patch (RFC 6902), as far as the injection needs it: operations that add.

use serde::Serialize;
use serde_json::{Value, json};

/// `add`: a member of an object, or an element of a list before the one at that place.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Operation {
    op: &'static str,
    /// A JSON Pointer (RFC 6901).
    pub path: String,
    /// What is added.
    pub value: Value,
}

impl Operation {
    fn add(path: impl Into<String>, value: Value) -> Self {
        Self {
            op: "add",
            path: path.into(),
            value,
        }
    }
}

/// Adds elements at the end of a list, which is made where there is none.
pub(super) fn append(into: &mut Vec<Operation>, list: &str, is_there: bool, values: Vec<Value>) {
    if is_there {
        let path = format!("{list}/-");
        into.extend(values.into_iter().map(|v| Operation::add(path.clone(), v)));
    } else {
        into.push(Operation::add(list, Value::Array(values)));
    }
}

/// Adds elements at the start of a list, in their order; the list is made where there is none.
pub(super) fn prepend(into: &mut Vec<Operation>, list: &str, is_there: bool, values: Vec<Value>) {
    if is_there {
        let at = |(place, value)| Operation::add(format!("{list}/{place}"), value);
        into.extend(values.into_iter().enumerate().map(at));
    } else {
        into.push(Operation::add(list, Value::Array(values)));
    }
}

/// Adds a key to a map, and the map where there is none.
pub(super) fn put(into: &mut Vec<Operation>, map: &str, is_there: bool, key: &str, value: &str) {
    into.push(if is_there {
        Operation::add(format!("{map}/{}", escape(key)), json!(value))
    } else {
        Operation::add(map, json!({ key: value }))
    });
}

/// A key as a step of a JSON Pointer.
fn escape(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}
