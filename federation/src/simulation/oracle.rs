//! Sees everything and checks at every tick what must hold: that logs match, that what one node applied at an index every
//! node applies there, that the catalogs are what a replay of the committed log gives, and what each command may do. It
//! changes nothing.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use openraft::{EntryPayload, ServerState};
use tokio::sync::watch;
use tradewind_api::{
    ClusterName, NodeId, ServiceName,
    store::{Command, Export, Outcome, Stamped},
};

use super::{medium::Appended, world::World};
use crate::{
    Catalog, Store,
    types::{LogId, Metrics},
};

/// An entry as it first became durable anywhere.
#[derive(Debug)]
struct Seen {
    after: Option<LogId>,
    sum: u32,
    commands: Vec<Stamped>,
}

/// What is followed of one running node.
#[derive(Debug)]
struct Followed {
    boot: u64,
    catalog: watch::Receiver<Arc<Catalog>>,
    metrics: watch::Receiver<Metrics>,
    revision: u64,
    applied: Option<LogId>,
    leads: Option<u64>,
}

#[derive(Debug, Default)]
pub(crate) struct Oracle {
    entries: BTreeMap<LogId, Seen>,
    /// What was applied at each index, on whichever node came first.
    applied: BTreeMap<u64, LogId>,
    /// What the committed log gives, replayed here, at each index.
    replayed: BTreeMap<u64, Catalog>,
    last_replayed: Option<u64>,
    nodes: BTreeMap<ClusterName, Followed>,
    /// Catalogs shown by nodes and not yet compared.
    shown: VecDeque<(ClusterName, Arc<Catalog>)>,
    members: BTreeSet<ClusterName>,
    nodes_given: BTreeSet<NodeId>,
    /// Who led in each term. openraft's leaders are of a term and a node, so that a term may have several one after
    /// another; what they wrote is told apart by both.
    leaders: BTreeMap<u64, BTreeSet<NodeId>>,
    broken: Option<String>,
}

impl Oracle {
    /// The newest catalog that is certainly committed.
    pub(crate) fn newest(&self) -> Option<&Catalog> {
        self.replayed.get(&self.last_replayed?)
    }

    /// Terms that were led, committed entries, and terms with more than one leader.
    pub(crate) fn counts(&self) -> (usize, usize, usize) {
        let shared = self.leaders.values().filter(|l| l.len() > 1).count();
        (self.leaders.len(), self.replayed.len(), shared)
    }

    /// Looks at everything that changed since the last tick.
    pub(crate) fn tick(&mut self, world: &mut World) {
        let mut changes = Vec::new();
        for (cluster, place) in &world.places {
            if let Some(seat) = &place.seat {
                for appended in seat.medium.take_appended() {
                    self.see(cluster, appended);
                }
            }
            match &place.store {
                Some(store) => changes.extend(self.follow(cluster, place.boots, store)),
                None => drop(self.nodes.remove(cluster)),
            }
        }
        for line in changes {
            world.note(format_args!("{line}"));
        }
        self.replay();
        self.compare();
        if let Some(why) = self.broken.take() {
            world.fail(why);
        }
    }

    fn fail(&mut self, why: String) {
        self.broken.get_or_insert(why);
    }

    /// Log matching: the same log id stands for the same entry after the same entry, wherever it is appended.
    fn see(&mut self, cluster: &ClusterName, appended: Appended) {
        let id = appended.entry.log_id;
        let framed = serde_json::to_vec(&appended.entry).unwrap_or_default();
        let sum = crc32c::crc32c(&framed);
        if let Some(seen) = self.entries.get(&id) {
            if seen.sum != sum || seen.after != appended.after {
                self.fail(format!(
                    "logs do not match: {cluster} has another entry {id}, or after another: {:?} and not {:?}",
                    appended.after, seen.after
                ));
            }
            return;
        }
        let commands = match appended.entry.payload {
            EntryPayload::Normal(batch) => batch.commands.to_vec(),
            EntryPayload::Blank | EntryPayload::Membership(_) => Vec::new(),
        };
        let seen = Seen {
            after: appended.after,
            sum,
            commands,
        };
        self.entries.insert(id, seen);
    }

    fn follow(&mut self, cluster: &ClusterName, boot: u64, store: &Store) -> Vec<String> {
        let fresh = || Followed {
            boot,
            catalog: store.watch(),
            metrics: store.raft_metrics(),
            revision: 0,
            applied: None,
            leads: None,
        };
        let mut followed = self.nodes.remove(cluster).unwrap_or_else(fresh);
        if followed.boot != boot {
            followed = fresh();
        }
        let mut lines = Vec::new();
        if followed.revision == 0 || followed.catalog.has_changed().unwrap_or(false) {
            let catalog = Arc::clone(&followed.catalog.borrow_and_update());
            if catalog.revision < followed.revision {
                self.fail(format!(
                    "{cluster} went back from revision {} to {}",
                    followed.revision, catalog.revision
                ));
            }
            if catalog.revision != followed.revision {
                lines.push(format!("{cluster} shows revision {}", catalog.revision));
                followed.revision = catalog.revision;
                self.shown.push_back((cluster.clone(), catalog));
            }
        }
        if followed.applied.is_none() || followed.metrics.has_changed().unwrap_or(false) {
            let metrics = followed.metrics.borrow_and_update().clone();
            lines.extend(self.follow_metrics(cluster, &mut followed, &metrics, store));
        }
        self.nodes.insert(cluster.clone(), followed);
        lines
    }

    fn follow_metrics(
        &mut self,
        cluster: &ClusterName,
        followed: &mut Followed,
        metrics: &Metrics,
        store: &Store,
    ) -> Option<String> {
        if let Err(stopped) = &metrics.running_state {
            self.fail(format!("the store of {cluster} stopped: {stopped}"));
        }
        let applied = metrics.last_applied;
        if applied < followed.applied {
            self.fail(format!(
                "{cluster} applied {:?} after {:?}",
                applied, followed.applied
            ));
        }
        if let Some(applied) = applied.filter(|_| applied > followed.applied) {
            self.commit(cluster, applied);
        }
        let mut line = None;
        if applied != followed.applied {
            let membership = metrics.membership_config.membership();
            line = Some(format!(
                "{cluster} applied {applied:?}, voters {:?}, learners {:?}",
                membership.get_joint_config(),
                membership.learner_ids().collect::<Vec<_>>()
            ));
        }
        followed.applied = applied;
        let leads = metrics.state == ServerState::Leader;
        let term = leads.then_some(metrics.current_term);
        if term != followed.leads {
            followed.leads = term;
            line = Some(format!("{cluster} leads: {term:?}, {}", metrics.vote));
            if let Some(term) = term {
                self.leaders.entry(term).or_default().insert(metrics.id);
                self.check_leader(cluster, metrics, store);
            }
        }
        line
    }

    /// Leader completeness: who leads holds everything that was committed under the leaders before it.
    fn check_leader(&mut self, cluster: &ClusterName, metrics: &Metrics, store: &Store) {
        if metrics.vote.leader_id.voted_for() != Some(metrics.id) {
            self.fail(format!("{cluster} leads by a vote for another"));
        }
        let before = |id: &&LogId| {
            let leader = &id.leader_id;
            (leader.term, leader.node_id) <= (metrics.vote.leader_id.term, metrics.id)
        };
        let committed = self.applied.values().rev().find(before).copied();
        let last = store.last_log();
        if committed > last {
            self.fail(format!(
                "{cluster} leads with a log that ends at {last:?}, but {committed:?} was committed before"
            ));
        }
    }

    /// State machine safety: what is applied at an index is the same everywhere. The entries before it are known by what
    /// each was appended after.
    fn commit(&mut self, cluster: &ClusterName, applied: LogId) {
        let mut at = Some(applied);
        while let Some(id) = at {
            match self.applied.get(&id.index) {
                Some(known) if *known == id => return,
                Some(known) => {
                    let why = format!(
                        "{cluster} applied {id} where another node applied {known}, on the way to {applied}"
                    );
                    return self.fail(why);
                }
                None => drop(self.applied.insert(id.index, id)),
            }
            let Some(seen) = self.entries.get(&id) else {
                // The very first entry is openraft's own.
                if id.index > 0 {
                    self.fail(format!("{cluster} applied {id}, which no disk holds"));
                }
                return;
            };
            at = seen.after;
        }
    }

    /// Applies what is committed, command by command, and checks what each did.
    fn replay(&mut self) {
        loop {
            let next = self.last_replayed.map_or(0, |last| last + 1);
            let Some(id) = self.applied.get(&next) else {
                return;
            };
            let mut catalog = self.newest().cloned().unwrap_or_default();
            let commands = self.entries.get(id).map(|seen| seen.commands.clone());
            for stamped in commands.unwrap_or_default() {
                let before = catalog.clone();
                let outcome = catalog.apply(next, &stamped);
                self.check_step(&before, &stamped, &outcome, &catalog);
            }
            catalog.revision = next;
            if let Err(violation) = catalog.validate() {
                self.fail(format!("the catalog at {next} is not valid: {violation:?}"));
            }
            self.replayed.insert(next, catalog);
            self.last_replayed = Some(next);
        }
    }

    fn check_step(
        &mut self,
        before: &Catalog,
        stamped: &Stamped,
        outcome: &Outcome,
        after: &Catalog,
    ) {
        let proposer = &stamped.proposer;
        let refused = matches!(outcome, Outcome::Refused(_));
        for (exporter, service, now) in changed(before, after) {
            if exporter != *proposer || refused {
                self.fail(format!("{stamped:?} changed {service} of {exporter}"));
            }
            let withdraws = match &stamped.command {
                Command::RemoveExport(removed) => *removed == service,
                Command::Leave => true,
                _ => false,
            };
            if !now && !withdraws {
                self.fail(format!("{stamped:?} took {service} of {exporter} away"));
            }
        }
        match (&stamped.command, outcome) {
            (Command::Found { cluster, .. }, Outcome::Done { changed: true, .. }) => {
                self.members.insert(cluster.name.clone());
            }
            (Command::Join { cluster, .. }, Outcome::Joined { node_id, .. }) => {
                self.members.insert(cluster.name.clone());
                if !self.nodes_given.insert(*node_id) {
                    self.fail(format!("node id {node_id} was given twice"));
                }
            }
            (Command::Leave, Outcome::Done { .. }) => drop(self.members.remove(proposer)),
            _ => {}
        }
        let trusted: BTreeSet<_> = after.trust().authorities.into_keys().collect();
        let domains = self.members.iter().map(|c| after.domain.trust_domain(c));
        if trusted != domains.collect() {
            self.fail(format!(
                "after {stamped:?} these are trusted: {trusted:?}, and these are members: {:?}",
                self.members
            ));
        }
    }

    /// Every catalog that a node shows is the replayed one of its revision.
    fn compare(&mut self) {
        while let Some((cluster, shown)) = self.shown.pop_front() {
            if Some(shown.revision) > self.last_replayed {
                // Its node has not told yet which entry that was.
                self.shown.push_front((cluster, shown));
                return;
            }
            if self.replayed.get(&shown.revision) != Some(&*shown) {
                let revision = shown.revision;
                self.fail(format!(
                    "{cluster} shows another catalog at revision {revision} than the log gives"
                ));
            }
        }
    }
}

/// Exports that differ: whose, which, and whether it still is.
fn changed(before: &Catalog, after: &Catalog) -> Vec<(ClusterName, ServiceName, bool)> {
    let flat = |catalog: &Catalog| -> BTreeMap<(ServiceName, ClusterName), Arc<Export>> {
        let all = catalog.exports.iter().flat_map(|(service, by)| {
            let each = by.iter();
            each.map(|(cluster, e)| ((service.clone(), cluster.clone()), Arc::clone(e)))
        });
        all.collect()
    };
    let (old, new) = (flat(before), flat(after));
    let keys: BTreeSet<_> = old.keys().chain(new.keys()).collect();
    keys.into_iter()
        .filter(|key| old.get(*key) != new.get(*key))
        .map(|key| (key.1.clone(), key.0.clone(), new.contains_key(key)))
        .collect()
}
