//! A small federation measured like a large one: everything arrives, once, and takes what lines and disks take.

use super::{line::Kind, *};

#[test]
fn a_dozen_clusters_hold_every_change_within_a_few_round_trips() {
    let root = tempfile::tempdir().unwrap();
    let wish = Wish {
        seed: 3,
        clusters: 12,
        exports: 2,
        endpoints: 2,
        changes: 12,
    };
    let found = run(&wish, root.path()).unwrap();
    assert_eq!(found.voters.iter().sum::<usize>(), 5, "{found}");
    assert_eq!(found.changes.len(), wish.changes);
    let entries = found.count(Kind::Entries).calls;
    assert_eq!(
        entries,
        12 * 11,
        "each follower gets each change once: {found}"
    );
    assert_eq!(found.count(Kind::Other).calls, 0, "no elections: {found}");
    for change in &found.changes {
        assert_eq!(change.held.len(), wish.clusters);
        let last = change.held.iter().max().unwrap();
        // The far region learns of the commit after it was asked once, and at worst a heartbeat is just on its way.
        let bounds = Duration::from_millis(75)..Duration::from_millis(600);
        assert!(bounds.contains(last), "{change:?}");
    }
    assert!(found.longest_ms() >= 150, "{found}");
}
