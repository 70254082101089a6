//! The tables of fields are what happens: a field that is said to be honoured changes what is compiled when it is dropped, and
//! one that is said to be reported is.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::{corpus, *};
use crate::fields::{Field, Is, Standing, paths};

/// Where a document has fields that are acted on: path in the table, and JSON pointer.
fn honoured(
    value: &Value,
    fields: &[Field],
    at: &str,
    pointer: &str,
    all: &mut Vec<(String, String)>,
) {
    let Value::Object(map) = value else { return };
    for (key, value) in map {
        let field = fields.iter().find(|f| f.name == key);
        let field = field.unwrap_or_else(|| panic!("{at}.{key} is in no table"));
        let at = if at.is_empty() {
            key.clone()
        } else {
            format!("{at}.{key}")
        };
        let pointer = format!("{pointer}/{key}");
        match field.is {
            Is::Honoured => all.push((at, pointer)),
            Is::Reported(_) | Is::ReportedBut(..) | Is::Inert => {}
            Is::Object(fields) => honoured(value, fields, &at, &pointer, all),
            Is::List(fields) | Is::ListOf(_, fields) => {
                for (i, item) in value.as_array().unwrap().iter().enumerate() {
                    honoured(
                        item,
                        fields,
                        &format!("{at}[]"),
                        &format!("{pointer}/{i}"),
                        all,
                    );
                }
            }
            Is::Map(fields) => {
                for (name, item) in value.as_object().unwrap() {
                    honoured(
                        item,
                        fields,
                        &format!("{at}{{}}"),
                        &format!("{pointer}/{name}"),
                        all,
                    );
                }
            }
        }
    }
}

fn without(object: &Object, pointer: &str) -> Object {
    let mut object = object.clone();
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    let parent = Arc::make_mut(&mut object.value)
        .pointer_mut(parent)
        .unwrap();
    parent.as_object_mut().unwrap().remove(key).unwrap();
    object
}

#[test]
fn each_honoured_field_changes_what_is_compiled() {
    for kind in Known::ALL {
        let mut works = BTreeSet::new();
        for text in corpus::of(kind) {
            let objects = objects(&text);
            let whole = compile(&objects, &world());
            let mut fields = Vec::new();
            let spec = objects[0].value.get("spec").unwrap();
            honoured(spec, kind.fields(), "", "/spec", &mut fields);
            for (path, pointer) in fields {
                let mut less = objects.clone();
                less[0] = without(&objects[0], &pointer);
                let less = compile(&less, &world());
                if (less.routes, less.limits) != (whole.routes.clone(), whole.limits.clone()) {
                    works.insert(path);
                }
            }
        }
        let all: BTreeSet<String> = paths(kind.fields())
            .into_iter()
            .filter(|(_, s)| *s == Standing::Honoured)
            .map(|(p, _)| p)
            .collect();
        let idle: Vec<_> = all.difference(&works).collect();
        let kind = kind.kind();
        assert!(
            idle.is_empty(),
            "{kind}: nothing shows that these are honoured: {idle:#?}"
        );
    }
}

/// A value with nothing but what the path leads to.
fn nested(path: &str, leaf: Value) -> Value {
    let (first, rest) = match path.split_once('.') {
        Some((first, rest)) => (first, nested(rest, leaf)),
        None => (path, leaf),
    };
    let (name, value) = if let Some(name) = first.strip_suffix("[]") {
        (name, json!([rest]))
    } else if let Some(name) = first.strip_suffix("{}") {
        (name, json!({ "x": rest }))
    } else {
        (first, rest)
    };
    Value::Object(Map::from_iter([(name.to_owned(), value)]))
}

/// Beside what it has what its kind is looked into for.
fn with_what_is_read(kind: Known, spec: Value) -> Value {
    fn into(all: &mut Value, more: Value) {
        match (all, more) {
            (Value::Object(all), Value::Object(more)) => {
                for (key, value) in more {
                    into(all.entry(key).or_insert(Value::Null), value);
                }
            }
            (Value::Array(all), Value::Array(more)) if all.len() == more.len() => {
                all.iter_mut().zip(more).for_each(|(a, m)| into(a, m));
            }
            (all, more) => *all = more,
        }
    }
    let mut all = match kind {
        Known::EnvoyFilter => json!({ "configPatches": [{
            "applyTo": "HTTP_FILTER",
            "patch": { "value": { "name": "envoy.filters.http.local_ratelimit" } },
        }] }),
        _ => json!({}),
    };
    into(&mut all, spec);
    all
}

#[test]
fn each_reported_field_is_reported_by_its_path() {
    for kind in Known::ALL {
        let say = |path: &str| {
            let value = json!({
                "apiVersion": format!("{}/{}", kind.group(), kind.versions()[0]),
                "kind": kind.kind(),
                "metadata": { "name": "x", "namespace": "shop" },
                "spec": with_what_is_read(kind, nested(path, json!({ "some": "thing" }))),
            });
            let object = Object::new("t.yaml:1", value).unwrap();
            compile(&[object], &world())
        };
        for (path, standing) in paths(kind.fields()) {
            let shown = path.replace("[]", "[0]").replace("{}", ".x");
            let shown = format!("spec.{shown}");
            let policy = say(&path);
            let reported = found(&policy).contains(&(Code::UnsupportedField, &shown));
            let expected = matches!(standing, Standing::Reported(_));
            assert_eq!(reported, expected, "{path}: {:?}", policy.findings);
        }
        assert!(found(&say("noSuchField")).contains(&(Code::UnknownField, "spec.noSuchField")));
    }
}

#[test]
fn every_version_is_read_and_no_other() {
    for kind in Known::ALL {
        for version in kind.versions() {
            let api_version = format!("{}/{version}", kind.group());
            assert!(is_known(&api_version, kind.kind()), "{api_version}");
        }
        assert!(!is_known(&format!("{}/v7", kind.group()), kind.kind()));
        assert!(!is_known("v1", kind.kind()));
    }
}
