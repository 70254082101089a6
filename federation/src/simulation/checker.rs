//! Is a history of reads and writes linearizable? Pure. One register a key: a set of operations is good when each can be
//! given an instant between its call and its return so that every read sees the write before it. A write without an
//! answer may take effect at any time after its call, or never.
//!
//! The search is Wing and Gong's, with states that were tried and failed remembered, and a bound on the work.

use std::collections::{BTreeMap, BTreeSet};

/// States one key's search may visit. Ordinary histories take a few thousand.
const MAX_STATES: usize = 400_000;

/// What a register holds; `None` where there is nothing.
pub(crate) type Value = Option<u64>;

/// What was asked and, of a read, answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Write(Value),
    Read(Value),
}

/// One operation. Calls and returns are numbered in the order in which they happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Operation {
    pub(crate) action: Action,
    pub(crate) called: u64,
    /// `None`: no answer ever came.
    pub(crate) returned: Option<u64>,
}

/// What the search found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Linearizable,
    /// Not linearizable; how many of the answered operations fit at most.
    Broken {
        fit: usize,
        of: usize,
    },
    /// The bound was met first.
    Undecided,
}

/// Judges the operations on one register, which is empty at first.
pub(crate) fn check(operations: &[Operation]) -> Verdict {
    let mut ops = relevant(operations);
    ops.sort_by_key(|op| op.called);
    let answered = ops.iter().filter(|op| op.returned.is_some()).count();
    let mut search = Search {
        ops: &ops,
        failed: BTreeMap::new(),
        states: 0,
        best: 0,
    };
    match search.extend(&mut Done::new(ops.len()), None, 0) {
        Some(true) => Verdict::Linearizable,
        Some(false) => Verdict::Broken {
            fit: search.best,
            of: answered,
        },
        None => Verdict::Undecided,
    }
}

/// The last answered write, if nothing later may have overwritten it: what must stand in the register at the end. Good
/// where one client writes a register, one operation after another.
pub(crate) fn must_hold(operations: &[Operation]) -> Option<Value> {
    let writes = || {
        operations.iter().filter_map(|op| match op.action {
            Action::Write(value) => Some((op, value)),
            Action::Read(_) => None,
        })
    };
    let (last, value) = writes()
        .filter(|(op, _)| op.returned.is_some())
        .max_by_key(|(op, _)| op.called)?;
    // A write without an answer may come true at any time, even if it was asked earlier.
    let open = writes().any(|(op, _)| op.returned.is_none());
    let overlaps = writes().any(|(op, _)| op != last && op.returned > Some(last.called));
    (!open && !overlaps).then_some(value)
}

/// Without the writes that got no answer and that nobody ever saw: leaving them out is always allowed.
fn relevant(operations: &[Operation]) -> Vec<Operation> {
    let seen: BTreeSet<Value> = operations
        .iter()
        .filter_map(|op| match op.action {
            Action::Read(value) => Some(value),
            Action::Write(_) => None,
        })
        .collect();
    let counts = |op: &&Operation| match op.action {
        Action::Write(value) => op.returned.is_some() || seen.contains(&value),
        Action::Read(_) => op.returned.is_some(),
    };
    operations.iter().filter(counts).copied().collect()
}

/// Which operations have their instant already.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Done(Vec<u64>);

impl Done {
    fn new(len: usize) -> Self {
        Self(vec![0; len.div_ceil(64)])
    }
    fn has(&self, at: usize) -> bool {
        let word = self.0.get(at / 64).copied().unwrap_or(0);
        word & (1 << (at % 64)) != 0
    }
    fn flip(&mut self, at: usize) {
        if let Some(word) = self.0.get_mut(at / 64) {
            *word ^= 1 << (at % 64);
        }
    }
}

struct Search<'a> {
    /// By the time of their call.
    ops: &'a [Operation],
    /// What led nowhere: these done, with this in the register.
    failed: BTreeMap<Done, BTreeSet<Value>>,
    states: usize,
    best: usize,
}

impl Search<'_> {
    /// Tries every operation that may come next; `None` when the bound is met. `fit` counts the answered ones done.
    fn extend(&mut self, done: &mut Done, value: Value, fit: usize) -> Option<bool> {
        self.best = self.best.max(fit);
        let open: Vec<usize> = self.next_ones(done);
        let all = open
            .iter()
            .filter_map(|at| self.ops.get(*at))
            .all(|op| op.returned.is_none());
        if all {
            return Some(true);
        }
        if self.failed.get(done).is_some_and(|v| v.contains(&value)) {
            return Some(false);
        }
        self.states += 1;
        if self.states > MAX_STATES {
            return None;
        }
        for at in open {
            let Some(op) = self.ops.get(at) else { continue };
            let after = match op.action {
                Action::Write(written) => written,
                Action::Read(read) if read == value => value,
                Action::Read(_) => continue,
            };
            let counted = usize::from(op.returned.is_some());
            done.flip(at);
            let fits = self.extend(done, after, fit + counted);
            done.flip(at);
            if fits != Some(false) {
                return fits;
            }
        }
        self.failed.entry(done.clone()).or_default().insert(value);
        Some(false)
    }

    /// Operations whose call came before every return that is still missing its instant.
    fn next_ones(&self, done: &Done) -> Vec<usize> {
        let mut first_return = u64::MAX;
        let mut open = Vec::new();
        for (at, op) in self.ops.iter().enumerate() {
            if done.has(at) {
                continue;
            }
            if op.called > first_return {
                break;
            }
            first_return = first_return.min(op.returned.unwrap_or(u64::MAX));
            open.push(at);
        }
        open
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(value: u64, called: u64, returned: u64) -> Operation {
        Operation {
            action: Action::Write(Some(value)),
            called,
            returned: Some(returned),
        }
    }
    fn read(value: Value, called: u64, returned: u64) -> Operation {
        Operation {
            action: Action::Read(value),
            called,
            returned: Some(returned),
        }
    }
    fn lost(value: u64, called: u64) -> Operation {
        Operation {
            returned: None,
            ..write(value, called, 0)
        }
    }
    fn good(operations: &[Operation]) -> bool {
        check(operations) == Verdict::Linearizable
    }

    #[test]
    fn one_after_another() {
        assert!(good(&[]));
        assert!(good(&[
            read(None, 1, 2),
            write(1, 3, 4),
            read(Some(1), 5, 6)
        ]));
        assert!(!good(&[write(1, 1, 2), read(None, 3, 4)]), "a stale read");
        assert!(!good(&[read(Some(1), 1, 2), write(1, 3, 4)]), "too early");
        assert!(!good(&[read(Some(9), 1, 2)]), "never written");
        let overwritten = [write(1, 1, 2), write(2, 3, 4), read(Some(1), 5, 6)];
        assert_eq!(check(&overwritten), Verdict::Broken { fit: 2, of: 3 });
    }

    #[test]
    fn at_the_same_time_either_order_is_good_but_one_only() {
        let both = [write(1, 1, 10), write(2, 2, 9)];
        for last in [1, 2] {
            let seen = [both[0], both[1], read(Some(last), 11, 12)];
            assert!(good(&seen));
        }
        let back_and_forth = [
            write(1, 1, 20),
            write(2, 2, 19),
            read(Some(1), 3, 4),
            read(Some(2), 5, 6),
            read(Some(1), 7, 8),
        ];
        assert!(!good(&back_and_forth));
        // Two readers that see two writes in different orders.
        let disagree = [
            write(1, 1, 30),
            write(2, 2, 29),
            read(Some(1), 3, 5),
            read(Some(2), 6, 8),
            read(Some(2), 4, 5),
            read(Some(1), 7, 9),
        ];
        assert!(!good(&disagree));
    }

    #[test]
    fn without_an_answer_anything_after_the_call_is_good() {
        let first = [lost(1, 1), write(2, 2, 3)];
        for seen in [1, 2] {
            assert!(good(&[first[0], first[1], read(Some(seen), 4, 5)]));
        }
        let late = [lost(1, 1), read(None, 2, 3), read(Some(1), 4, 5)];
        assert!(good(&late));
        let undone = [lost(1, 1), read(Some(1), 2, 3), read(None, 4, 5)];
        assert!(!good(&undone), "it cannot come and go");
        assert!(!good(&[read(Some(1), 1, 2), lost(1, 3)]));
    }

    #[test]
    fn many_at_once_stay_within_the_bound() {
        let mut all: Vec<Operation> = (0..40).map(|n| write(n, n, 1_000)).collect();
        all.extend((0..40).map(|n| read(Some(n % 7), 2_000 + 2 * n, 2_001 + 2 * n)));
        assert_eq!(check(&all[..40]), Verdict::Linearizable);
        assert_ne!(check(&all), Verdict::Linearizable);
    }

    #[test]
    fn what_must_stand_at_the_end() {
        let two = [write(1, 1, 2), write(2, 3, 4)];
        assert_eq!(must_hold(&two), Some(Some(2)));
        assert_eq!(must_hold(&[two[0], two[1], lost(3, 5)]), None);
        assert_eq!(must_hold(&[read(None, 1, 2)]), None);
        assert_eq!(must_hold(&[write(1, 1, 9), write(2, 3, 4)]), None);
    }
}
