//! Several controllers of one cluster: who may say what of them, who speaks, and how long an authority outlives its owner.

use tradewind_api::store::{
    Blob, Command, ControllerRecord, LEVEL, Outcome, Refusal, SPEAKER_MS, Stamped,
};

use super::{Log, name};

pub(super) fn record(n: u8) -> ControllerRecord {
    ControllerRecord {
        address: format!("c{n}.example:15012"),
        level: LEVEL,
        authority: Some(Blob(vec![100 + n; 4])),
    }
}

fn add(n: u8) -> Command {
    Command::AddController {
        controller: record(n),
    }
}

fn at(log: &mut Log, proposer: &str, at_ms: u64, command: Command) -> Outcome {
    let stamped = Stamped {
        proposer: name(proposer),
        at_ms,
        command,
        actor: None,
    };
    let outcome = log.catalog.apply(log.catalog.revision + 1, &stamped);
    assert_eq!(log.catalog.validate(), Ok(()));
    outcome
}

#[test]
fn one_speaks_until_it_is_silent_and_the_other_keeps_the_floor() {
    let mut log = Log::with(&["east"]);
    let west = name("west");
    assert_eq!(log.catalog.speaker_of(&west), Some(1), "it is alone");
    let start = log.catalog.at_ms;
    let added = at(&mut log, "west", start, add(1));
    assert!(matches!(added, Outcome::Joined { node_id: 3, .. }));
    assert_eq!(log.catalog.speaker_of(&west), Some(1), "who was there");
    let speak = |node| Command::Speak { node };
    let soon = start + SPEAKER_MS - 1;
    at(&mut log, "west", soon, speak(3));
    assert_eq!(log.catalog.speaker_of(&west), Some(1));
    at(&mut log, "west", soon, speak(1));
    at(&mut log, "west", start + SPEAKER_MS, speak(3));
    assert_eq!(log.catalog.speaker_of(&west), Some(1), "it had spoken");
    let late = soon + SPEAKER_MS;
    at(&mut log, "west", late, speak(3));
    assert_eq!(log.catalog.speaker_of(&west), Some(3));
    // The first one comes back: nothing is taken from the second.
    at(&mut log, "west", late + 1, speak(1));
    assert_eq!(log.catalog.speaker_of(&west), Some(3));
    let lease = log.catalog.member(&west).unwrap().lease_at_ms;
    assert_eq!(lease, late + 1, "it lives all the same");
    assert_eq!(
        log.refused("west", speak(2)),
        Refusal::UnknownNode(2),
        "east's"
    );
    // Removed for good: nobody waits for it.
    assert!(log.done("west", Command::RemoveNode { node: 3 }));
    assert_eq!(log.catalog.speaker_of(&west), Some(1));
    at(&mut log, "west", late + 2, speak(1));
    assert_eq!(log.catalog.speaker_of(&west), Some(1));
}

#[test]
fn an_authority_outlives_its_controller_by_what_it_signed() {
    let mut log = Log::with(&["east"]);
    let west = name("west");
    at(&mut log, "west", 10, add(1));
    let trusts = |log: &Log| {
        let authorities = &log.catalog.member(&west).unwrap().authorities;
        authorities.contains(&Blob(vec![101; 4]))
    };
    assert!(trusts(&log));
    // Back without its store: the authority is the same, under the new node.
    at(&mut log, "west", 20, Command::AddNode { replaces: Some(3) });
    let record = log.catalog.controllers_of(&west).unwrap();
    assert_eq!(record.nodes.keys().collect::<Vec<_>>(), [&4]);
    let gone_at = log.catalog.at_ms;
    at(&mut log, "east", gone_at, Command::RemoveNode { node: 4 });
    let day = 25 * 3_600_000;
    at(&mut log, "west", gone_at + day - 1, Command::RenewLease);
    assert!(trusts(&log), "certificates below it may still live");
    at(&mut log, "west", gone_at + day, Command::RenewLease);
    assert!(!trusts(&log));
}

#[test]
fn nobody_speaks_of_controllers_elsewhere_and_bounds_hold() {
    let mut log = Log::with(&["east"]);
    let put = |node, address: &str, level| Command::PutController {
        node,
        address: address.to_owned(),
        level,
    };
    assert_eq!(
        log.refused("east", put(1, "e:1", LEVEL)),
        Refusal::UnknownNode(1)
    );
    assert!(log.done("west", put(1, "w:1", LEVEL)));
    assert!(!log.done("west", put(1, "w:1", LEVEL)));
    for bad in [
        put(1, "", LEVEL),
        put(1, &"x".repeat(301), LEVEL),
        put(1, "a\nb", LEVEL),
        put(1, "w:1", LEVEL - 1),
    ] {
        let before = log.catalog.controllers.clone();
        log.refused("west", bad);
        assert_eq!(before, log.catalog.controllers);
    }
    for n in 0..3 {
        assert!(matches!(log.put("west", add(n)), Outcome::Joined { .. }));
    }
    assert!(matches!(
        log.refused("west", add(4)),
        Refusal::TooMuch { limit: 4, .. }
    ));
    log.done("east", Command::Leave);
    log.done("west", Command::Leave);
    assert!(log.catalog.controllers.is_empty(), "it took them along");
}
