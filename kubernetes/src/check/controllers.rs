//! What is concluded from the word of a controller: whether the cluster's controllers hear each other and follow the store, which of them
//! publishes, and which kinds of objects it may not list. Pure; the same on hosts and in Kubernetes.

use super::{Facts, Verdict, bad, listed, unknown, warning};

/// A controller that was lost is heard again within this long where only its stream broke, ms.
const AWAY_TOLD_MS: u64 = 5_000;
/// Revisions behind that are worth a word: entries on their way are far fewer.
const TRAILS_TOLD: u64 = 1_000;

/// What became of asking a controller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// It answered.
    Told(Told),
    /// Whoever asks may not.
    Forbidden(String),
    /// It did not answer.
    Silent(String),
}

/// What a controller says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// The cluster's name.
    pub cluster: String,
    /// Its own store's revision.
    pub revision: u64,
    /// The cluster's controllers, itself among them; none where it is the only one and says nothing of itself.
    pub controllers: Vec<Controller>,
    /// Kinds that the API server does not list, each with the reason.
    pub refused: Vec<(String, String)>,
}

/// One of a cluster's controllers, as the one that was asked knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Controller {
    /// Its node.
    pub node: u64,
    /// Where it is dialled.
    pub address: String,
    /// It was asked itself.
    pub asked: bool,
    /// It is heard; of the one that was asked, always.
    pub up: bool,
    /// Since when that is so, ms.
    pub since_ms: u64,
    /// Time since it was last heard, ms; none before the first time.
    pub heard_ms: Option<u64>,
    /// Why it is not heard.
    pub error: String,
    /// Its store's revision when it was last heard.
    pub revision: u64,
    /// The store's leader that it hears of.
    pub leader: Option<u64>,
    /// It publishes for its cluster.
    pub speaks: bool,
}

impl Controller {
    fn name(&self) -> String {
        match self.address.as_str() {
            "" => format!("node {}", self.node),
            address => format!("node {} at {address}", self.node),
        }
    }

    fn heard(&self) -> String {
        match (self.asked, self.heard_ms) {
            (true, _) => format!("{} was asked", self.name()),
            (false, None) => format!("{} was never heard", self.name()),
            (false, Some(ms)) => format!("{} heard {} ago", self.name(), seconds(ms)),
        }
    }

    fn away(&self) -> String {
        let name = self.name();
        let for_ms = seconds(self.since_ms);
        let last = self.heard_ms.map_or("never heard".to_owned(), |ms| {
            format!("last heard {} ago", seconds(ms))
        });
        format!("{name} is away for {for_ms}, {last}: {}", self.error)
    }
}

fn seconds(ms: u64) -> String {
    format!("{}.{} s", ms / 1000, ms % 1000 / 100)
}

/// The controller's word, or why there is none.
fn told(facts: &Facts) -> Result<&Told, super::Fault> {
    match &facts.controller {
        Some(Asked::Told(told)) => Ok(told),
        Some(Asked::Forbidden(_) | Asked::Silent(_)) => Err(super::Fault::Unknown(
            "controller-answers must pass first".to_owned(),
        )),
        None => Err(super::Fault::Unknown("no controller is ready".to_owned())),
    }
}

pub(super) fn answers(facts: &Facts) -> Verdict {
    match &facts.controller {
        Some(Asked::Told(told)) => {
            let node = told.controllers.iter().find(|one| one.asked);
            let node = node.map(|one| format!("{}, ", one.name()));
            Ok(format!(
                "{}cluster {}, revision {}",
                node.unwrap_or_default(),
                told.cluster,
                told.revision
            ))
        }
        Some(Asked::Forbidden(why)) => warning(format!("you may not ask it: {why}")),
        Some(Asked::Silent(why)) => bad(why),
        None => unknown("no controller is ready"),
    }
}

pub(super) fn hear_each_other(facts: &Facts) -> Verdict {
    let all = &told(facts)?.controllers;
    if all.len() < 2 {
        return Ok("the cluster has one".to_owned());
    }
    let (up, away): (Vec<_>, Vec<_>) = all.iter().partition(|one| one.up);
    let heard: Vec<String> = up.iter().map(|one| one.heard()).collect();
    let heard = heard.join(", ");
    if away.is_empty() {
        return Ok(heard);
    }
    let told: Vec<String> = away.iter().map(|one| one.away()).collect();
    let told = told.join("; ");
    let lasts = away.iter().all(|one| one.since_ms >= AWAY_TOLD_MS);
    if up.len() == 1 && lasts {
        return bad(format!("{told}. None is left beside it: {heard}"));
    }
    warning(format!("{told}. Left: {heard}"))
}

pub(super) fn follow_the_store(facts: &Facts) -> Verdict {
    let all = &told(facts)?.controllers;
    let newest = all.iter().map(|one| one.revision).max().unwrap_or(0);
    let behind = |revision: u64| match newest.saturating_sub(revision) {
        0 => "up to date".to_owned(),
        behind => format!("{behind} behind"),
    };
    let (mut well, mut wrong) = (Vec::new(), Vec::new());
    for one in all.iter().filter(|one| one.up) {
        let (node, trails) = (one.node, newest.saturating_sub(one.revision));
        match one.leader {
            None => wrong.push(format!(
                "node {node} hears no leader of the store, at revision {}, {}",
                one.revision,
                behind(one.revision)
            )),
            Some(leader) if trails > TRAILS_TOLD => wrong.push(format!(
                "node {node} is {trails} revisions behind, with leader {leader}"
            )),
            Some(leader) => well.push(format!(
                "node {node} {}, with leader {leader}",
                behind(one.revision)
            )),
        }
    }
    // One that says nothing of itself, since it is the only one and was never told where it is.
    if all.is_empty() {
        return Ok("the cluster has one".to_owned());
    }
    if wrong.is_empty() {
        Ok(listed(&well))
    } else {
        bad(listed(&wrong))
    }
}

pub(super) fn one_publishes(facts: &Facts) -> Verdict {
    let all = &told(facts)?.controllers;
    if all.len() < 2 {
        return Ok("the cluster has one".to_owned());
    }
    match all.iter().find(|one| one.speaks) {
        Some(one) if one.up => Ok(one.name()),
        Some(one) => warning(format!(
            "{} publishes and is away for {}: another one takes over as soon as the store takes writes",
            one.name(),
            seconds(one.since_ms)
        )),
        None => bad("none does: neither exports nor gateways are announced"),
    }
}

pub(super) fn kinds_are_listed(facts: &Facts) -> Verdict {
    let refused = &told(facts)?.refused;
    if refused.is_empty() {
        return Ok("none is refused".to_owned());
    }
    let told: Vec<String> = refused
        .iter()
        .map(|(kind, why)| format!("{kind}: {why}"))
        .collect();
    bad(format!(
        "{}; what was known of these objects stands, and changes of them are not seen",
        listed(&told)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{CHECKS, Look, Outcome, judge};

    fn three() -> Told {
        let controller = |node: u64| Controller {
            node,
            address: format!("c{node}.example:15012"),
            asked: node == 1,
            up: true,
            since_ms: 60_000,
            heard_ms: (node != 1).then_some(400),
            revision: 48_391,
            leader: Some(9),
            speaks: node == 1,
            ..Controller::default()
        };
        Told {
            cluster: "west".to_owned(),
            revision: 48_391,
            controllers: [1, 4, 5].map(controller).into(),
            refused: Vec::new(),
        }
    }

    fn found(told: Told, id: &str) -> (Outcome, String) {
        of(Some(Asked::Told(told)), id)
    }

    fn of(controller: Option<Asked>, id: &str) -> (Outcome, String) {
        let facts = Facts {
            controller,
            ..Facts::default()
        };
        let all = judge(&facts, Look::Host);
        let one = all.into_iter().find(|f| f.check.id == id).unwrap();
        (one.outcome, one.message)
    }

    fn lose(told: &mut Told, at: usize, for_ms: u64) {
        let one = &mut told.controllers[at];
        one.up = false;
        one.since_ms = for_ms;
        one.heard_ms = Some(for_ms + 2_000);
        one.error = "connection refused".to_owned();
    }

    #[test]
    fn all_are_named_with_when_they_were_heard() {
        let (outcome, message) = found(three(), "controllers-heard");
        assert_eq!(outcome, Outcome::Ok);
        assert_eq!(
            message,
            "node 1 at c1.example:15012 was asked, node 4 at c4.example:15012 heard 0.4 s ago, node 5 at c5.example:15012 heard 0.4 s ago"
        );
        let (_, message) = found(three(), "controllers-follow");
        assert!(
            message.starts_with("node 1 up to date, with leader 9, "),
            "{message}"
        );
        assert_eq!(
            found(three(), "controllers-speaker"),
            (Outcome::Ok, "node 1 at c1.example:15012".to_owned())
        );
        let (_, message) = found(three(), "controller-answers");
        assert_eq!(
            message,
            "node 1 at c1.example:15012, cluster west, revision 48391"
        );
    }

    #[test]
    fn one_away_is_a_warning_and_the_last_one_left_a_failure() {
        let mut told = three();
        lose(&mut told, 1, 35_000);
        let (outcome, message) = found(told.clone(), "controllers-heard");
        assert_eq!(outcome, Outcome::Warning);
        assert!(
            message.starts_with("node 4 at c4.example:15012 is away for 35.0 s, last heard 37.0 s ago: connection refused. Left: node 1"),
            "{message}"
        );
        lose(&mut told, 2, 36_000);
        let (outcome, message) = found(told.clone(), "controllers-heard");
        assert_eq!(outcome, Outcome::Failed, "{message}");
        assert!(
            message.contains("None is left beside it: node 1"),
            "{message}"
        );
        // A stream that broke a moment ago says nothing yet.
        lose(&mut told, 2, 1_000);
        assert_eq!(found(told, "controllers-heard").0, Outcome::Warning);
    }

    #[test]
    fn one_that_does_not_follow_the_store_is_named() {
        let mut told = three();
        told.controllers[1].revision -= 20;
        let (outcome, message) = found(told.clone(), "controllers-follow");
        assert_eq!(outcome, Outcome::Ok);
        assert!(
            message.contains("node 4 20 behind, with leader 9"),
            "{message}"
        );
        told.controllers[1].revision -= 2_000;
        let (outcome, message) = found(told.clone(), "controllers-follow");
        assert_eq!(outcome, Outcome::Warning);
        assert_eq!(message, "node 4 is 2020 revisions behind, with leader 9");
        told.controllers[2].leader = None;
        let (_, message) = found(told.clone(), "controllers-follow");
        assert!(
            message.contains("node 5 hears no leader of the store, at revision 48391"),
            "{message}"
        );
        // What one said before it was lost is told by controllers-heard alone.
        lose(&mut told, 1, 35_000);
        lose(&mut told, 2, 35_000);
        assert_eq!(found(told, "controllers-follow").0, Outcome::Ok);
    }

    #[test]
    fn a_speaker_that_is_away_or_missing_is_told() {
        let mut told = three();
        told.controllers[0].speaks = false;
        told.controllers[1].speaks = true;
        lose(&mut told, 1, 7_000);
        let (outcome, message) = found(told.clone(), "controllers-speaker");
        assert_eq!(outcome, Outcome::Warning);
        assert!(
            message.starts_with("node 4 at c4.example:15012 publishes and is away for 7.0 s"),
            "{message}"
        );
        told.controllers[1].speaks = false;
        assert_eq!(found(told, "controllers-speaker").0, Outcome::Failed);
    }

    #[test]
    fn a_kind_that_is_refused_is_named_with_the_api_servers_word() {
        let why = "httproutes.gateway.networking.k8s.io is forbidden: User \"system:serviceaccount:mesh:tradewind-controller\" cannot list resource \"httproutes\" (403)";
        let mut told = three();
        told.refused = vec![(
            "HTTPRoute.gateway.networking.k8s.io".to_owned(),
            why.to_owned(),
        )];
        let (outcome, message) = found(told, "kinds-listed");
        assert_eq!(outcome, Outcome::Failed);
        assert!(
            message.starts_with(&format!("HTTPRoute.gateway.networking.k8s.io: {why}")),
            "{message}"
        );
    }

    #[test]
    fn nothing_is_concluded_from_a_controller_that_does_not_answer() {
        for (asked, outcome) in [
            (None, Outcome::Skipped),
            (Some(Asked::Forbidden("no".to_owned())), Outcome::Warning),
            (Some(Asked::Silent("away".to_owned())), Outcome::Failed),
        ] {
            for check in CHECKS.iter().filter(|c| c.category == "controllers") {
                let (found, message) = of(asked.clone(), check.id);
                let expected = match check.id {
                    "controller-answers" => outcome,
                    _ => Outcome::Skipped,
                };
                assert_eq!(found, expected, "{}: {message}", check.id);
            }
        }
    }

    #[test]
    fn a_single_controller_is_no_less_well() {
        let mut told = three();
        told.controllers.clear();
        for check in CHECKS.iter().filter(|c| c.category == "controllers") {
            assert_eq!(found(told.clone(), check.id).0, Outcome::Ok, "{}", check.id);
        }
    }
}
