//! Where the values of a YAML document stand, as the parser tells it: block and flow style, JSON, anchors and merges alike. Pure.
//!
//! The text is read a second time for it, so it is asked for objects that findings may be about, and for no others.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};
use serde_json::Value;
use serde_saphyr::Spanned;
use tradewind_policy::Spot;

/// Values inside of values that are read for their lines. No kind has half as many, and each takes tens of kilobytes of stack in a build
/// for tests, where the parser's own bound of 64 is past what a thread has.
const MAX_DEPTH: usize = 24;

/// Those of one document, which has been read as `value`; lines count from its first. None where they cannot be told: then findings
/// stand where the object does.
pub(super) fn spots(document: &str, value: &Value) -> Option<Spot> {
    if is_deeper(value, MAX_DEPTH) {
        return None;
    }
    serde_saphyr::from_str::<Placed>(document).ok().map(|p| p.0)
}

fn is_deeper(value: &Value, than: usize) -> bool {
    let is = |inner: &Value| match than.checked_sub(1) {
        Some(than) => is_deeper(inner, than),
        None => true,
    };
    match value {
        Value::Array(items) => items.iter().any(is),
        Value::Object(fields) => fields.values().any(is),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

/// A value with its line.
struct Placed(Spot);

impl<'de> Deserialize<'de> for Placed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Spanned {
            value: Inside(spot),
            referenced,
            ..
        } = Spanned::deserialize(deserializer)?;
        Ok(Self(Spot {
            line: referenced.line(),
            ..spot
        }))
    }
}

/// What is inside of a value; its own line is not known yet.
struct Inside(Spot);

impl<'de> Deserialize<'de> for Inside {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Look).map(Self)
    }
}

struct Look;

impl<'de> Visitor<'de> for Look {
    type Value = Spot;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Spot, E> {
        Ok(Spot::default())
    }

    fn visit_none<E>(self) -> Result<Spot, E> {
        Ok(Spot::default())
    }

    fn visit_some<D: Deserializer<'de>>(self, inner: D) -> Result<Spot, D::Error> {
        inner.deserialize_any(self)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Spot, E> {
        Ok(Spot::default())
    }

    fn visit_i64<E>(self, _: i64) -> Result<Spot, E> {
        Ok(Spot::default())
    }

    fn visit_u64<E>(self, _: u64) -> Result<Spot, E> {
        Ok(Spot::default())
    }

    fn visit_f64<E>(self, _: f64) -> Result<Spot, E> {
        Ok(Spot::default())
    }

    fn visit_str<E>(self, _: &str) -> Result<Spot, E> {
        Ok(Spot::default())
    }

    fn visit_bytes<E>(self, _: &[u8]) -> Result<Spot, E> {
        Ok(Spot::default())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Spot, A::Error> {
        let mut spot = Spot::default();
        while let Some(Placed(item)) = list.next_element()? {
            spot.items.push(item);
        }
        Ok(spot)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Spot, A::Error> {
        let mut spot = Spot::default();
        // A field is looked for where its name stands. What an anchor or a merge brings in is mended where it was written.
        while let Some(name) = map.next_key::<Spanned<String>>()? {
            let Placed(value) = map.next_value()?;
            let line = name.defined.line();
            spot.fields.push((name.value, Spot { line, ..value }));
        }
        Ok(spot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tradewind_policy::Lines;

    /// What a document shows, its text, and on which line each path is.
    type Text = (&'static str, &'static str, &'static [(&'static str, u64)]);

    const TEXTS: [Text; 7] = [
        (
            "block style, lists and comments",
            "# about it\nspec:\n  rules:  # all of them\n  - a: 1\n\n    # a word\n    b:\n      c: 2\n  -\n    a: |\n      text: of\n      lines: many\n    d: 3\n",
            &[
                ("spec", 2),
                ("spec.rules", 3),
                ("spec.rules[0]", 4),
                ("spec.rules[0].a", 4),
                ("spec.rules[0].b", 7),
                ("spec.rules[0].b.c", 8),
                ("spec.rules[1].a", 10),
                ("spec.rules[1].d", 13),
                ("spec.rules[1].d.nothing", 13),
            ],
        ),
        (
            "flow style over several lines",
            "spec: {rules: [{a: 1},\n  {a: 2,\n   b: {c: 3}}],\n  last: 4}\n",
            &[
                ("spec.rules[0].a", 1),
                ("spec.rules[1]", 2),
                ("spec.rules[1].a", 2),
                ("spec.rules[1].b.c", 3),
                ("spec.last", 4),
            ],
        ),
        (
            "JSON",
            "{\n  \"spec\": {\n    \"rules\": [\n      {\n        \"a\": null\n      }\n    ]\n  }\n}\n",
            &[
                ("spec", 2),
                ("spec.rules", 3),
                ("spec.rules[0]", 4),
                ("spec.rules[0].a", 5),
            ],
        ),
        (
            "quoted keys, numbers and words as keys",
            "spec:\n  'single': 1\n  \"dou\\x62le\": 2\n  'app.kubernetes.io/name': 3\n  5: x\n  true: y\n  long text: z\n",
            &[
                ("spec.single", 2),
                ("spec.double", 3),
                ("spec[app.kubernetes.io/name]", 4),
                ("spec.5", 5),
                ("spec.true", 6),
                ("spec.long text", 7),
            ],
        ),
        (
            "line ends of other systems",
            "spec:\r\n  rules:\r\n  - a: 1\r\n  - b: 2\r\n",
            &[("spec.rules[0].a", 3), ("spec.rules[1].b", 4)],
        ),
        (
            "anchors, aliases and merges",
            "spec:\n  first: &it\n    a: 1\n    b: 2\n  second: *it\n  list:\n  - x: 1\n  - *it\n  third:\n    <<: *it\n    c: 3\n",
            &[
                ("spec.first.b", 4),
                ("spec.second", 5),
                ("spec.second.b", 4),
                ("spec.list[1]", 8),
                ("spec.list[1].a", 3),
                ("spec.third.c", 11),
                ("spec.third.a", 3),
            ],
        ),
        (
            "values of every sort",
            "spec:\n  a: ~\n  b: 1.5\n  c: -3\n  d: 'x'\n  e: !!binary aGk=\n  f:\n  g: []\n  h: {}\n  i: on\n",
            &[
                ("spec.a", 2),
                ("spec.e", 6),
                ("spec.f", 7),
                ("spec.g", 8),
                ("spec.h", 9),
                ("spec.i", 10),
            ],
        ),
    ];

    #[test]
    fn fields_are_found_on_their_lines_in_every_style() {
        for (what, text, expected) in TEXTS {
            let lines = Lines::of(&read(text).expect(what), 0);
            for (path, line) in expected {
                assert_eq!(lines.line(path), Some(*line), "{what}: {path}");
            }
        }
    }

    fn read(text: &str) -> Option<Spot> {
        spots(text, &serde_saphyr::from_str(text).ok()?)
    }

    #[test]
    fn what_is_nested_deeper_than_anybody_writes_has_no_spots_and_does_not_end_the_process() {
        let nested = |inner: &str, depth| {
            let (open, close) = ("[".repeat(depth), "]".repeat(depth));
            format!("{open}{inner}{close}")
        };
        let last = Spot {
            line: 1,
            ..Spot::default()
        };
        let deepest = read(&nested("1", MAX_DEPTH)).unwrap();
        let inner = (0..MAX_DEPTH).fold(&deepest, |spot, _| &spot.items[0]);
        assert_eq!(*inner, last);
        assert_eq!(read(&nested("1", MAX_DEPTH + 1)), None);
        // As deep as the parser goes, by itself and through anchors.
        assert_eq!(read(&format!("a: {}", nested("1", 60))), None);
        let (anchor, alias) = (nested("1", 20), nested("*a", 20));
        assert_eq!(read(&format!("a: &a {anchor}\nb: {alias}\n")), None);
    }

    #[test]
    fn what_does_not_parse_has_no_spots() {
        assert_eq!(spots("a: [", &Value::Null), None);
    }
}
