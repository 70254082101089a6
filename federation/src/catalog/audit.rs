//! Who changed what when: the newest changes that people asked for, kept with the catalog so that every member tells the
//! same story. Pure. What happens by itself (signs of life, endpoints that come and go) is not in it.

use std::{collections::BTreeMap, sync::Arc};

use tradewind_api::{
    ClusterName,
    store::{AuditEntry, Command, Outcome, Stamped, Voting},
};

use super::Catalog;

/// Entries kept: months of what operators do, some 200 KiB.
pub const MAX_AUDIT: usize = 1_000;
/// The level from which on the log of changes is kept; below it not every member would.
const SINCE_LEVEL: u16 = 2;

impl Catalog {
    /// Notes `stamped`, which had `outcome`, if it is a change that somebody asked for. `known` says whether the export it
    /// puts was there before in the same shape.
    pub(super) fn note(&mut self, stamped: &Stamped, outcome: &Outcome, known: bool) {
        let changed = match outcome {
            Outcome::Done { changed, .. } => *changed,
            Outcome::Joined { .. } => true,
            Outcome::Refused(_) => false,
        };
        if !changed || self.level < SINCE_LEVEL {
            return;
        }
        let Some((action, subject)) = describe(&stamped.command, known) else {
            return;
        };
        let subject = match outcome {
            Outcome::Joined { node_id, .. } => format!("{subject}, node {node_id}"),
            Outcome::Done { .. } | Outcome::Refused(_) => subject,
        };
        let subject = if subject.is_empty() {
            stamped.proposer.to_string()
        } else {
            subject
        };
        let entry = AuditEntry {
            revision: self.revision,
            at_ms: self.at_ms,
            proposer: stamped.proposer.clone(),
            actor: stamped.actor.clone(),
            action: action.to_owned(),
            subject,
        };
        let audit = Arc::make_mut(&mut self.audit);
        audit.push_back(Arc::new(entry));
        if audit.len() > MAX_AUDIT
            && let Some(oldest) = most_frequent_oldest(audit.iter().map(|e| &e.proposer))
        {
            audit.remove(oldest);
        }
    }
}

/// Where the oldest entry of the busiest cluster stands: one that changes things in a loop pushes out its own story, not
/// the others'.
fn most_frequent_oldest<'a>(
    proposers: impl Iterator<Item = &'a ClusterName> + Clone,
) -> Option<usize> {
    let mut counts: BTreeMap<&ClusterName, usize> = BTreeMap::new();
    for proposer in proposers.clone() {
        *counts.entry(proposer).or_default() += 1;
    }
    let busiest = counts.into_iter().max_by_key(|(_, count)| *count)?.0;
    proposers.into_iter().position(|p| p == busiest)
}

fn describe(command: &Command, known: bool) -> Option<(&'static str, String)> {
    Some(match command {
        Command::Found { domain, .. } => ("found", domain.to_string()),
        Command::Join { cluster, .. } if cluster.witness => {
            ("join-witness", cluster.name.to_string())
        }
        Command::Join { cluster, .. } => ("join", cluster.name.to_string()),
        Command::SetDraining { cluster, draining } => {
            let action = if *draining { "drain" } else { "undrain" };
            (action, cluster.to_string())
        }
        Command::Leave => ("leave", String::new()),
        Command::PutExport(export) if !known => ("export", export.service.to_string()),
        Command::RemoveExport(service) => ("unexport", service.to_string()),
        Command::PutToken(token) => ("create-token", token.id.clone()),
        Command::RevokeToken(id) => ("revoke-token", id.clone()),
        Command::SetVoting { node, voting } => {
            let action = match voting {
                Voting::Auto => "vote-auto",
                Voting::Preferred => "promote",
                Voting::Never => "demote",
            };
            (action, format!("node {node}"))
        }
        Command::RemoveNode { node } => ("remove-node", format!("node {node}")),
        Command::AddController { .. } => ("add-controller", String::new()),
        Command::AddNode { replaces: None } => ("add-node", String::new()),
        Command::AddNode {
            replaces: Some(old),
        } => ("replace-node", format!("node {old}")),
        Command::NoteTransfer { to } => ("transfer-lead", format!("node {to}")),
        Command::PutExport(_)
        | Command::Announce { .. }
        | Command::RenewLease
        | Command::PatchExport { .. }
        | Command::AttestExports { .. }
        | Command::PutNodeKey { .. }
        | Command::PutSealKey { .. }
        | Command::PutController { .. }
        | Command::Speak { .. } => return None,
    })
}
