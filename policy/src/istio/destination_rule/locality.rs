//! DestinationRule's `localityLbSetting`: which endpoints are near. Localities are `region/zone`; what is smaller than a zone is not
//! known here.

use std::collections::{BTreeMap, BTreeSet};

use tradewind_api::{
    Region,
    id::is_label as is_name,
    traffic::{Distribute, Failover, Locality, LocalityPattern, PriorityLabel, is_label},
};

use super::types;
use crate::{
    finding::Code,
    object::{At, Report},
    values::count,
};

/// Labels of Istio's for what is not known here.
const UNKNOWN: [&str; 2] = ["topology.istio.io/subzone", "kubernetes.io/hostname"];

/// Its words for who is near; `regions` are those that there are.
pub(super) fn locality(
    doc: &types::LocalitySetting,
    regions: Option<&BTreeSet<String>>,
    at: &At,
    report: &mut Report<'_>,
) -> Locality {
    let there = [
        ("distribute", !doc.distribute.is_empty()),
        ("failover", !doc.failover.is_empty()),
        ("failoverPriority", !doc.failover_priority.is_empty()),
    ];
    let mut there = there
        .into_iter()
        .filter(|(_, is)| *is)
        .map(|(name, _)| name);
    let Some(first) = there.next() else {
        return match doc.enabled {
            Some(false) => Locality::Ignored,
            None | Some(true) => Locality::Nearest,
        };
    };
    if doc.enabled == Some(false) {
        let text = "it does not act while enabled is false";
        report.say(Code::IdleSetting, &at.field(first), text);
        return Locality::Ignored;
    }
    for more in there {
        let text =
            format!("one of distribute, failover and failoverPriority is expected; {first} holds");
        report.say(Code::InvalidValue, &at.field(more), text);
    }
    let reader = Reader { regions };
    let at = at.field(first);
    let found = match first {
        "distribute" => Locality::Distribute(reader.distribute(&doc.distribute, &at, report)),
        "failover" => Locality::Failover(reader.failover(&doc.failover, &at, report)),
        _ => Locality::Labels(priority(&doc.failover_priority, &at, report)),
    };
    match &found {
        Locality::Distribute(none) if none.is_empty() => Locality::Nearest,
        Locality::Failover(none) if none.is_empty() => Locality::Nearest,
        Locality::Labels(none) if none.is_empty() => Locality::Nearest,
        _ => found,
    }
}

struct Reader<'a> {
    regions: Option<&'a BTreeSet<String>>,
}

impl Reader<'_> {
    fn failover(
        &self,
        docs: &[types::Failover],
        at: &At,
        report: &mut Report<'_>,
    ) -> Vec<Failover> {
        let mut all = Vec::new();
        for (i, doc) in docs.iter().enumerate() {
            let at = at.index(i);
            let mut region = |name: &str, key: &str| {
                let at = at.field(key);
                let region = Region::new(name).ok();
                match &region {
                    Some(region) => self.look_for(region.as_str(), &at, report),
                    None => report.invalid(&at, name, "a region"),
                }
                region
            };
            let (from, to) = (region(&doc.from, "from"), region(&doc.to, "to"));
            match (from, to) {
                (Some(from), Some(to)) if from == to => {
                    let text = format!("callers of {from} are there already");
                    report.say(Code::IdleFailover, &at, text);
                }
                (Some(from), Some(to)) => all.push(Failover { from, to }),
                _ => {}
            }
        }
        all
    }

    fn distribute(
        &self,
        docs: &[types::Distribute],
        at: &At,
        report: &mut Report<'_>,
    ) -> Vec<Distribute> {
        let mut all = Vec::new();
        for (i, doc) in docs.iter().enumerate() {
            let at = at.index(i);
            let from = self.pattern(&doc.from, &at.field("from"), report);
            let at = at.field("to");
            let mut to: BTreeMap<LocalityPattern, u32> = BTreeMap::new();
            for (text, weight) in &doc.to {
                let at = at.field(text);
                let pattern = self.pattern(text, &at, report);
                let weight = count(Some(*weight), u32::MAX, &at, report);
                if let (Some(pattern), Some(weight)) = (pattern, weight) {
                    let sum = to.entry(pattern).or_default();
                    *sum = sum.saturating_add(weight);
                }
            }
            if to.values().all(|weight| *weight == 0) {
                report.say(Code::NoWeight, &at, "the weights sum to nothing");
                continue;
            }
            if let Some(from) = from {
                let to = to.into_iter().collect();
                all.push(Distribute { from, to });
            }
        }
        all
    }

    /// `*`, `region`, `region/*`, `region/zone`, `region/zone/*`.
    fn pattern(&self, text: &str, at: &At, report: &mut Report<'_>) -> Option<LocalityPattern> {
        let parts: Vec<&str> = text.split('/').collect();
        let named: Vec<&str> = parts.iter().copied().take_while(|p| *p != "*").collect();
        let is_ended = parts.len() <= 3 && parts.len() - named.len() <= 1;
        if !is_ended || !named.iter().all(|name| is_name(name)) {
            let expected = "a locality such as region, region/zone or region/*, or * for all";
            report.invalid(at, text, expected);
            return None;
        }
        if named.len() > 2 {
            let text = "is acted on for the zone as a whole: what is smaller is not known";
            report.say(Code::UnsupportedField, at, text);
        }
        let mut named = named.into_iter().map(str::to_owned);
        let (region, zone) = (named.next(), named.next());
        if let Some(region) = &region {
            self.look_for(region, at, report);
        }
        Some(LocalityPattern { region, zone })
    }

    /// Tells of a region that there is not.
    fn look_for(&self, region: &str, at: &At, report: &mut Report<'_>) {
        if self.regions.is_some_and(|all| !all.contains(region)) {
            let text = format!("nobody is in region {region}");
            report.say(Code::IdleFailover, at, text);
        }
    }
}

/// In order. One that is not known would end the comparison for everybody, so it is left out.
fn priority(list: &[String], at: &At, report: &mut Report<'_>) -> Vec<PriorityLabel> {
    let mut labels = Vec::new();
    for (i, text) in list.iter().enumerate() {
        let at = at.index(i);
        let (key, value) = match text.split_once('=') {
            Some((key, value)) => (key, Some(value)),
            None => (text.as_str(), None),
        };
        if !is_label(key, value.unwrap_or_default()) {
            report.invalid(&at, text, "a label's key, or key=value");
        } else if UNKNOWN.contains(&key) {
            let text =
                "is not acted on: it is left out, and the labels behind it follow those before it";
            report.say(Code::UnsupportedField, &at, text);
        } else {
            labels.push(PriorityLabel {
                key: key.to_owned(),
                value: value.map(str::to_owned),
            });
        }
    }
    labels
}
