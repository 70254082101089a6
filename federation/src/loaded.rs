//! What a node finds on its disk when it starts: log, vote and marks, read once and held against each other. It refuses
//! what contradicts itself, and changes nothing but marks that were never made.

use std::path::Path;

use openraft::EntryPayload;

use crate::{
    disk::Written,
    engine::{Engine, EngineError},
    error::StoreError,
    flush::Sharing,
    log_store::damaged,
    medium::{COMMITTED, HIGH_WATER, LOG, Mark, Medium, VOTE},
    tail::Tail,
    types::LogId,
};

/// Entries checked at a time when the log is opened.
const CHECK: u64 = 256;

/// Everything on disk, read once and found consistent.
pub(crate) struct Loaded {
    pub(crate) written: Written,
    pub(crate) high_water: Box<dyn Mark>,
    pub(crate) committed: Box<dyn Mark>,
}

impl Loaded {
    pub(crate) fn read(medium: &dyn Medium, engine: &dyn Engine) -> Result<Self, StoreError> {
        let dir = medium.dir();
        let log_path = dir.join(LOG);
        let corrupt = |path: &Path, what: String| StoreError::Corrupt {
            path: path.to_owned(),
            what,
        };
        let broken = |e: EngineError| corrupt(&log_path, e.to_string());
        let purged = engine.purged().map_err(broken)?;
        let last = engine.last().map_err(broken)?;
        let vote = medium.read_vote().map_err(damaged)?;

        let log_found = last.is_some() || purged.is_some();
        if log_found && vote.is_none() {
            let what = "it is missing although the log holds entries".to_owned();
            return Err(corrupt(&dir.join(VOTE), what));
        }
        // Before it is made anew: the next start must find it missing, too.
        if log_found && medium.lacks_mark(HIGH_WATER) {
            let what = "it is missing or empty although the log holds entries".to_owned();
            return Err(corrupt(&dir.join(HIGH_WATER), what));
        }
        let (high_water, confirmed) = medium.open_mark(HIGH_WATER).map_err(damaged)?;
        let (committed_file, committed) = medium.open_mark(COMMITTED).map_err(damaged)?;
        // A vote is saved before anything of its term is written.
        let newest = last.max(confirmed).map_or(0, |id| id.leader_id.term);
        if let Some(vote) = vote
            && vote.leader_id().term < newest
        {
            let what = format!(
                "it is of term {}, but the log has reached term {newest}: the disk brought an older one back, and this node might vote twice",
                vote.leader_id().term
            );
            return Err(corrupt(&dir.join(VOTE), what));
        }
        if let Some(confirmed) = confirmed
            && last.is_none_or(|l| l.index < confirmed.index)
        {
            return Err(StoreError::FellBehind {
                path: dir.to_owned(),
                last: last.map(|l| l.index),
                confirmed: confirmed.index,
            });
        }
        let (sharing, settled) = check_entries(engine, purged, last, confirmed)
            .map_err(|what| corrupt(&log_path, what))?;
        let written = Written {
            purged,
            last,
            vote,
            // Never beyond the log: a commit that the log lost is the leader's to tell again.
            committed: committed
                .filter(|c| last.is_some_and(|l| l.index >= c.index))
                .max(settled),
            tail: Tail::default(),
            sharing,
            truncations: 0,
            busy_since: None,
            failed: None,
        };
        Ok(Self {
            written,
            high_water,
            committed: committed_file,
        })
    }
}

/// Reads the whole log once: every checksum, no hole, and where the mark points the entry that was confirmed. Gives the
/// memberships it holds, and which is the last but one: it was committed before the last was written, also where the note
/// of that is lost. What is applied up to there knows everybody whose vote the last membership needs.
fn check_entries(
    engine: &dyn Engine,
    purged: Option<LogId>,
    last: Option<LogId>,
    confirmed: Option<LogId>,
) -> Result<(Sharing, Option<LogId>), String> {
    let mut sharing = Sharing::default();
    let Some(last) = last else {
        return Ok((sharing, None));
    };
    let (mut before_last, mut last_membership) = (None, None);
    let mut next = purged.map_or(0, |p| p.index + 1);
    let mut before = purged;
    while next <= last.index {
        let end = next.saturating_add(CHECK).min(last.index + 1);
        let entries = engine
            .read_range(next..end, usize::MAX)
            .map_err(|e| e.to_string())?;
        let missing = || {
            format!(
                "log entry {next} is missing, the log goes on to {}",
                last.index
            )
        };
        if entries.first().is_none_or(|e| e.log_id.index != next) {
            return Err(missing());
        }
        sharing.read(&entries);
        for entry in entries {
            if before.is_some_and(|b| b.leader_id > entry.log_id.leader_id) {
                return Err(format!("the term goes back at log entry {next}"));
            }
            if let Some(confirmed) = confirmed.filter(|c| c.index == next && *c != entry.log_id) {
                return Err(format!(
                    "log entry {next} is of term {}, but this node confirmed one of term {} there: the disk lost acknowledged writes",
                    entry.log_id.leader_id.term, confirmed.leader_id.term
                ));
            }
            if matches!(entry.payload, EntryPayload::Membership(_)) {
                before_last = last_membership.replace(entry.log_id);
            }
            before = Some(entry.log_id);
            next += 1;
        }
    }
    Ok((sharing, before_last))
}
