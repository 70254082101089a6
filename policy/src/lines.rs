//! On which line each field of an object stands, so that a finding leads to the field and not only to the object.
//!
//! Whoever reads files tells it as a tree of spots. Kept is only what stands on another line than what it is in: what is not
//! kept, or not there at all, is on the line of its nearest known surrounding. No state, no text, nothing of the format.

use std::{collections::BTreeMap, sync::Arc};

use crate::object::At;

/// Lines kept of one object: a file has 1 MiB at most, and nobody writes objects of so many lines.
const MAX_LINES: usize = 10_000;
/// Longest path that is kept: the names of no kind's fields come near, and a name may be as long as a file.
const MAX_PATH: usize = 512;
/// Fields inside of fields that are looked into: no kind has half as many.
const MAX_DEPTH: usize = 64;

/// A value in a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spot {
    /// Where it begins; of a field, where its name does.
    pub line: u64,
    /// Its fields.
    pub fields: Vec<(String, Self)>,
    /// Its items.
    pub items: Vec<Self>,
}

impl Spot {
    /// One of its fields.
    pub fn field(&self, name: &str) -> Option<&Self> {
        let found = self.fields.iter().find(|(n, _)| n == name);
        found.map(|(_, spot)| spot)
    }
}

/// See the module. Cheap to clone: objects are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lines(Arc<BTreeMap<String, u64>>);

impl Lines {
    /// Those of an object. `before` is how many lines of the file stand before the text that the spots count from.
    pub fn of(object: &Spot, before: u64) -> Self {
        let mut found = BTreeMap::new();
        // Findings about the object as a whole keep its place.
        for (name, spot) in &object.fields {
            let at = At::default().field(name);
            gather(&at, spot, (0, before), MAX_DEPTH, &mut found);
        }
        Self(Arc::new(found))
    }

    /// All that are kept.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        self.0.iter().map(|(path, line)| (path.as_str(), *line))
    }

    /// The line of a field, or of the nearest that it is in; none where nothing is known.
    pub fn line(&self, path: &str) -> Option<u64> {
        let mut rest = path;
        loop {
            if let Some(line) = self.0.get(rest) {
                return Some(*line);
            }
            // A name in brackets may hold dots: what is cut there is no path, and so is not found either.
            let cut = rest.rfind(['.', '['])?;
            rest = rest.get(..cut)?;
        }
    }
}

impl FromIterator<(String, u64)> for Lines {
    fn from_iter<T: IntoIterator<Item = (String, u64)>>(lines: T) -> Self {
        Self(Arc::new(lines.into_iter().take(MAX_LINES).collect()))
    }
}

fn gather(
    at: &At,
    spot: &Spot,
    (around, before): (u64, u64),
    depth: usize,
    found: &mut BTreeMap<String, u64>,
) {
    let path = at.to_string();
    if found.len() >= MAX_LINES || depth == 0 || path.len() > MAX_PATH {
        return;
    }
    let line = spot.line;
    if line != around {
        found.insert(path, before.saturating_add(line));
    }
    let (around, depth) = ((line, before), depth - 1);
    for (name, spot) in &spot.fields {
        gather(&at.field(name), spot, around, depth, found);
    }
    for (index, spot) in spot.items.iter().enumerate() {
        gather(&at.index(index), spot, around, depth, found);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spot(line: u64, fields: Vec<(&str, Spot)>, items: Vec<Spot>) -> Spot {
        let fields = fields.into_iter().map(|(n, s)| (n.to_owned(), s)).collect();
        Spot {
            line,
            fields,
            items,
        }
    }

    fn leaf(line: u64) -> Spot {
        spot(line, vec![], vec![])
    }

    #[test]
    fn a_field_is_on_its_line_or_on_that_of_what_it_is_in() {
        let item = spot(4, vec![("host", leaf(4)), ("port", leaf(5))], vec![]);
        let labels = spot(7, vec![("example.com/app", leaf(8))], vec![]);
        let rules = spot(3, vec![], vec![item, leaf(6)]);
        let spec = spot(2, vec![("rules", rules), ("labels", labels)], vec![]);
        let lines = Lines::of(&spot(1, vec![("spec", spec)], vec![]), 10);
        for (path, line) in [
            ("spec", 12),
            ("spec.rules", 13),
            ("spec.rules[0]", 14),
            ("spec.rules[0].host", 14),
            ("spec.rules[0].port", 15),
            ("spec.rules[0].port.number", 15),
            ("spec.rules[1]", 16),
            ("spec.rules[7].port", 13),
            ("spec.labels[example.com/app]", 18),
            ("spec.labels[example.com/other]", 17),
            ("spec.ruler", 12),
        ] {
            assert_eq!(lines.line(path), Some(line), "{path}");
        }
        assert_eq!(lines.line("metadata.name"), None);
        assert_eq!(lines.line(""), None);
        assert_eq!(Lines::default().line("spec"), None);
        let told = lines.iter().map(|(path, line)| (path.to_owned(), line));
        assert_eq!(told.collect::<Lines>(), lines);
    }

    #[test]
    fn what_stands_on_one_line_takes_one_entry_and_nothing_grows_without_bound() {
        let flow = spot(3, vec![("a", leaf(3)), ("b", leaf(3))], vec![leaf(3)]);
        let lines = Lines::of(&spot(3, vec![("spec", flow)], vec![]), 0);
        assert_eq!(lines.0.len(), 1);
        let many = (0..30_000).map(leaf).collect();
        let lines = Lines::of(&spot(1, vec![("spec", spot(1, vec![], many))], vec![]), 0);
        assert_eq!(lines.0.len(), MAX_LINES);
        assert_eq!(lines.line("spec[29999]"), Some(1));
        let name = "x".repeat(MAX_PATH);
        let long = spot(
            2,
            vec![(&name, spot(3, vec![("a", leaf(4))], vec![]))],
            vec![],
        );
        let lines = Lines::of(&spot(1, vec![("spec", long)], vec![]), 0);
        assert_eq!(lines.line(&format!("spec.{name}.a")), Some(2));
        let deep = (1..1_000).fold(leaf(1_000), |inner, n| {
            spot(1_000 - n, vec![("a", inner)], vec![])
        });
        assert_eq!(Lines::of(&deep, 0).0.len(), MAX_DEPTH);
    }
}
