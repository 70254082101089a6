//! openraft's state machine: the catalog in memory, rebuilt from the newest snapshot and the log. It owns the only
//! mutable catalog and publishes a copy after every batch.

use std::{path::PathBuf, sync::Arc};

use openraft::{
    AnyError, EntryPayload, OptionalSend, RaftSnapshotBuilder, StorageIOError,
    storage::RaftStateMachine,
};
use tokio::sync::watch;
use tradewind_runtime::files::FileError;

use crate::{
    catalog::Catalog,
    snapshot::{Content, SnapshotDir, State},
    types::{
        Entry, LogId, Outcomes, Snapshot, SnapshotMeta, StorageError, StoredMembership, TypeConfig,
    },
};

#[derive(Debug)]
pub(crate) struct Machine {
    state: State,
    snapshots: SnapshotDir,
    published: watch::Sender<Arc<Catalog>>,
}

impl Machine {
    pub(crate) fn new(
        state: Option<State>,
        snapshots: SnapshotDir,
    ) -> (Self, watch::Receiver<Arc<Catalog>>) {
        let state = state.unwrap_or_default();
        let (published, catalog) = watch::channel(Arc::new(state.catalog.clone()));
        let this = Self {
            state,
            snapshots,
            published,
        };
        (this, catalog)
    }

    fn publish(&self) {
        self.published
            .send_replace(Arc::new(self.state.catalog.clone()));
    }
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), StorageError> {
        Ok((self.state.applied, self.state.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Outcomes>, StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut all = Vec::new();
        for entry in entries {
            let id = entry.log_id;
            let catalog = &mut self.state.catalog;
            let outcomes = match &entry.payload {
                EntryPayload::Blank => Vec::new(),
                EntryPayload::Normal(batch) => {
                    let each = batch.commands.iter();
                    each.map(|c| catalog.apply(id.index, c)).collect()
                }
                EntryPayload::Membership(membership) => {
                    self.state.membership = StoredMembership::new(Some(id), membership.clone());
                    Vec::new()
                }
            };
            catalog.revision = id.index;
            self.state.applied = Some(id);
            all.push(outcomes);
        }
        self.publish();
        Ok(all)
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder {
            state: self.state.clone(),
            snapshots: self.snapshots.clone(),
        }
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Content>, StorageError> {
        // Asked for only where openraft moves snapshots itself; ours arrive whole.
        Ok(Box::new(Content::file(self.snapshots.receiving())))
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: Box<Content>,
    ) -> Result<(), StorageError> {
        let snapshots = self.snapshots.clone();
        let expected = meta.last_log_id;
        let installing = self.snapshots.hands();
        let installing = installing.run(move || -> Result<State, FileError> {
            let state = snapshot.state(expected)?;
            snapshots.write(&state)?;
            Ok(state)
        });
        self.state = installing
            .await
            .map_err(|e| failed(Some(meta), &e))?
            .map_err(|e| failed(Some(meta), &e))?;
        self.publish();
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, StorageError> {
        let Some((meta, path)) = self.snapshots.current() else {
            return Ok(None);
        };
        Ok(Some(whole(meta, path)))
    }
}

/// Writes one state as a snapshot, while the machine goes on.
#[derive(Debug)]
pub(crate) struct Builder {
    state: State,
    snapshots: SnapshotDir,
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    async fn build_snapshot(&mut self) -> Result<Snapshot, StorageError> {
        let (state, snapshots) = (self.state.clone(), self.snapshots.clone());
        let building = self.snapshots.hands();
        let building = building.run(move || snapshots.write(&state));
        let meta = self.state.meta();
        let (meta, path) = building
            .await
            .map_err(|e| failed(Some(&meta), &e))?
            .map_err(|e| failed(Some(&meta), &e))?;
        Ok(whole(meta, path))
    }
}

fn whole(meta: SnapshotMeta, path: PathBuf) -> Snapshot {
    Snapshot {
        meta,
        snapshot: Box::new(Content::file(path)),
    }
}

fn failed(meta: Option<&SnapshotMeta>, error: &(impl std::error::Error + 'static)) -> StorageError {
    let signature = meta.map(SnapshotMeta::signature);
    StorageIOError::read_snapshot(signature, AnyError::new(error)).into()
}
