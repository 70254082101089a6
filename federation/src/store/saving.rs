//! The whole state as a file, for whoever keeps it elsewhere.

use std::time::Duration;

use super::Store;
use crate::{
    error::ProposeError,
    types::{Metrics, Snapshot},
};

/// How long a snapshot of this node may take to be written.
const SAVE_DEADLINE: Duration = Duration::from_secs(60);

/// A snapshot file, open for reading; it stays readable when its name is gone.
#[derive(Debug)]
pub struct Saved {
    /// The revision it holds.
    pub revision: u64,
    /// Its content.
    pub file: tokio::fs::File,
}

impl Store {
    /// Everything this node has applied by now, as a snapshot file. Ask [`Store::linearizable`] first where it must hold
    /// what others have written.
    pub async fn save(&self) -> Result<Saved, ProposeError> {
        let raft = &self.inner.core.raft;
        let stopped = |e: &dyn std::fmt::Display| ProposeError::Stopped(e.to_string());
        let Some(applied) = self.status().applied else {
            return Err(ProposeError::Rejected("this node holds nothing yet".into()));
        };
        raft.trigger().snapshot().await.map_err(|e| stopped(&e))?;
        let reached = |m: &Metrics| m.snapshot.is_some_and(|s| s.index >= applied);
        let wait = raft.wait(Some(SAVE_DEADLINE));
        let waited = wait.metrics(reached, "a snapshot to save").await;
        waited.map_err(|_late| ProposeError::Timeout {
            after: SAVE_DEADLINE,
        })?;
        let newest: Option<Snapshot> = raft.get_snapshot().await.map_err(|e| stopped(&e))?;
        let Some(newest) = newest else {
            return Err(ProposeError::Rejected("this node has no snapshot".into()));
        };
        let unread = |e: &dyn std::fmt::Display| {
            ProposeError::Rejected(format!("this node's snapshot cannot be read: {e}"))
        };
        let Some(path) = newest.snapshot.path() else {
            return Err(unread(&"it was not written yet"));
        };
        let file = tokio::fs::File::open(path).await.map_err(|e| unread(&e))?;
        Ok(Saved {
            revision: newest.meta.last_log_id.map_or(0, |id| id.index),
            file,
        })
    }
}
