//! What files would change about what is wrong: which findings are new, which stay, and which would be gone. Pure.

use tradewind_policy::Finding;

/// What files make of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// It is not there now.
    New,
    /// It is there now, too.
    Stays,
    /// It is there now and would be no more.
    Gone,
}

impl Change {
    /// As tables and JSON have it.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Stays => "as it was",
            Self::Gone => "gone",
        }
    }
}

/// The findings of `after` in their order, then those of `before` that are gone.
///
/// Where something stands does not count: a file that takes an object's place is another file. The same code at the same field counts
/// as the same where there is no better match, for texts name places too.
pub(super) fn compare(before: &[Finding], after: Vec<Finding>) -> Vec<(Change, Finding)> {
    let mut left: Vec<&Finding> = before.iter().collect();
    let mut marked: Vec<(Change, Finding)> = after.into_iter().map(|f| (Change::New, f)).collect();
    let same_field =
        |a: &Finding, b: &Finding| a.code == b.code && a.object == b.object && a.path == b.path;
    for exactly in [true, false] {
        let new = marked
            .iter_mut()
            .filter(|(change, _)| *change == Change::New);
        for (change, finding) in new {
            let is = |b: &&Finding| same_field(b, finding) && (!exactly || b.text == finding.text);
            if let Some(index) = left.iter().position(is) {
                left.remove(index);
                *change = Change::Stays;
            }
        }
    }
    marked.extend(left.into_iter().map(|f| (Change::Gone, f.clone())));
    marked
}

#[cfg(test)]
mod tests {
    use super::*;
    use tradewind_policy::Code;

    fn finding(place: &str, object: &str, path: &str, text: &str) -> Finding {
        Finding {
            place: place.to_owned(),
            code: Code::BackendNotFound,
            object: object.to_owned(),
            path: path.to_owned(),
            text: text.to_owned(),
        }
    }

    fn marks(before: &[Finding], after: &[Finding]) -> Vec<(Change, String)> {
        let marked = compare(before, after.to_vec());
        marked.into_iter().map(|(c, f)| (c, f.text)).collect()
    }

    #[test]
    fn findings_are_new_stay_or_go_wherever_they_stand() {
        let was = [
            finding("live.yaml:3", "R shop/a", "spec.x", "no shop/p"),
            finding("live.yaml:4", "R shop/a", "spec.y", "no shop/q"),
        ];
        let is = [
            finding("f.yaml:8", "R shop/a", "spec.x", "no shop/p"),
            finding("f.yaml:9", "R shop/b", "spec.y", "no shop/q"),
        ];
        assert_eq!(
            marks(&was, &is),
            [
                (Change::Stays, "no shop/p".to_owned()),
                (Change::New, "no shop/q".to_owned()),
                (Change::Gone, "no shop/q".to_owned()),
            ]
        );
        assert!(marks(&[], &[]).is_empty());
        let same = marks(&was, &was);
        assert!(same.iter().all(|(change, _)| *change == Change::Stays));
    }

    #[test]
    fn a_text_that_names_another_place_is_the_same_finding_unless_a_better_one_is_there() {
        let at = |text: &str| finding("f.yaml:1", "R shop/a", "", text);
        let was = [at("R shop/b (live.yaml:1) goes before it")];
        let is = [at("R shop/b (f.yaml:7) goes before it")];
        assert_eq!(marks(&was, &is), [(Change::Stays, is[0].text.clone())]);
        // Two of one field: each is matched once.
        let is = [is[0].clone(), was[0].clone()];
        assert_eq!(
            marks(&was, &is),
            [
                (Change::New, is[0].text.clone()),
                (Change::Stays, is[1].text.clone()),
            ]
        );
    }
}
