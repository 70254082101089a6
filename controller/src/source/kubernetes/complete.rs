//! Whether enough of an API server was listed to conclude anything from what is missing. Pure.
//!
//! Services, their endpoints and wishes to export are waited for without end: without them services would be taken away that are there. A kind
//! of rules that the API server does not list, for want of a right or since what serves it is broken, is waited for a while: nothing else should
//! stand still for it, and what was kept of it from before stands.

use std::time::Duration;

use tokio::time::Instant;
use tradewind_kubernetes::{Kind, Objects};

/// How long a kind that is refused is waited for, from when all others are there: longer than a watch waits between two attempts, so that it was
/// refused again by an API server that serves the others.
const REFUSED: Duration = Duration::from_secs(5);
/// The same of one that is neither listed nor refused: its list is long, or whoever is to answer hangs.
const UNHEARD: Duration = Duration::from_secs(60);

/// What must be listed before anything is concluded.
pub(super) const NEEDED: [Kind; 6] = [
    Kind::Namespace,
    Kind::Service,
    Kind::Slice,
    Kind::Pod,
    Kind::Bare,
    Kind::Export,
];

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// Enough was listed. It stays so.
    Complete,
    /// Not yet; when to look again, should no list come before.
    Waiting(Option<Instant>),
}

/// See the module.
#[derive(Debug)]
pub(super) struct Complete {
    rules: Vec<Kind>,
    /// Since when all that is needed is there.
    since: Option<Instant>,
    done: bool,
}

impl Complete {
    /// With these kinds of rules.
    pub(super) fn of(rules: Vec<Kind>) -> Self {
        Self {
            rules,
            since: None,
            done: false,
        }
    }

    /// Takes a look.
    pub(super) fn look(&mut self, objects: &Objects, now: Instant) -> Look {
        if self.done {
            return Look::Complete;
        }
        if !NEEDED.iter().all(|kind| objects.has_listed(kind)) {
            return Look::Waiting(None);
        }
        let since = *self.since.get_or_insert(now);
        let patience = |kind: &Kind| {
            let refused = objects.refused.contains_key(kind);
            if refused { REFUSED } else { UNHEARD }
        };
        let missing = self.rules.iter().filter(|kind| !objects.has_listed(kind));
        // The last one's time, or the next one's that is refused meanwhile: each change is a look.
        let until = missing.map(patience).max().map(|wait| since + wait);
        match until.filter(|until| *until > now) {
            Some(until) => Look::Waiting(Some(until)),
            None => {
                self.done = true;
                Look::Complete
            }
        }
    }

    /// Kinds of which nothing was heard, neither objects nor a refusal, with a word on that.
    pub(super) fn unheard(&self, objects: &Objects) -> Vec<(Kind, String)> {
        let unheard = self
            .rules
            .iter()
            .filter(|kind| !objects.has_listed(kind) && !objects.refused.contains_key(kind));
        let why = format!("no list of it came within {} s", UNHEARD.as_secs());
        unheard.map(|kind| (kind.clone(), why.clone())).collect()
    }
}

#[cfg(test)]
mod tests {
    use tradewind_kubernetes::objects::Change;

    use super::*;

    fn route() -> Kind {
        Kind::Rule("HTTPRoute.gateway.networking.k8s.io".into())
    }

    fn split() -> Kind {
        Kind::Rule("TrafficSplit.split.smi-spec.io".into())
    }

    fn listed(objects: &mut Objects, kinds: &[Kind]) {
        for kind in kinds {
            objects.take(Change::All(kind.clone(), Vec::new()));
        }
    }

    fn after(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_kind_of_rules_that_is_refused_is_waited_for_five_seconds() {
        let (mut complete, mut objects) =
            (Complete::of(vec![route(), split()]), Objects::default());
        let start = Instant::now();
        objects.take(Change::Refused(route(), "no".into()));
        assert_eq!(complete.look(&objects, start), Look::Waiting(None));
        listed(&mut objects, &NEEDED);
        // A minute later all that is needed is there: from then on it counts.
        let there = start + after(60);
        let look = complete.look(&objects, there);
        assert_eq!(look, Look::Waiting(Some(there + after(60))));
        listed(&mut objects, &[split()]);
        let look = complete.look(&objects, there + after(1));
        assert_eq!(look, Look::Waiting(Some(there + after(5))));
        assert_eq!(complete.look(&objects, there + after(5)), Look::Complete);
        assert!(complete.unheard(&objects).is_empty());
    }

    #[test]
    fn one_that_says_nothing_is_waited_for_a_minute_and_named() {
        let (mut complete, mut objects) =
            (Complete::of(vec![route(), split()]), Objects::default());
        listed(&mut objects, &NEEDED);
        listed(&mut objects, &[split()]);
        let start = Instant::now();
        let look = complete.look(&objects, start);
        assert_eq!(look, Look::Waiting(Some(start + after(60))));
        let look = complete.look(&objects, start + after(59));
        assert_eq!(look, Look::Waiting(Some(start + after(60))));
        assert_eq!(complete.look(&objects, start + after(60)), Look::Complete);
        let unheard = complete.unheard(&objects);
        assert_eq!(unheard.len(), 1);
        assert_eq!(unheard[0].0, route());
    }

    #[test]
    fn what_services_are_made_from_is_waited_for_without_end() {
        for lacking in NEEDED {
            let (mut complete, mut objects) = (Complete::of(vec![route()]), Objects::default());
            listed(&mut objects, &[route()]);
            listed(
                &mut objects,
                &NEEDED.map(|k| if k == lacking { route() } else { k }),
            );
            objects.take(Change::Refused(lacking.clone(), "no".into()));
            let late = Instant::now() + after(100_000);
            assert_eq!(
                complete.look(&objects, late),
                Look::Waiting(None),
                "{lacking}"
            );
            listed(&mut objects, std::slice::from_ref(&lacking));
            assert_eq!(complete.look(&objects, late), Look::Complete, "{lacking}");
        }
    }
}
