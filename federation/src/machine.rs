//! openraft's state machine: the catalog in memory, rebuilt from the newest snapshot and the log. It owns the only
//! mutable catalog and publishes a copy after every batch.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use openraft::{
    AnyError, EntryPayload, OptionalSend, RaftSnapshotBuilder, StorageIOError,
    storage::RaftStateMachine,
};
use tokio::sync::watch;
use tradewind_api::store::{Command, Outcome, Refusal};
use tradewind_runtime::files::FileError;

use crate::{
    catalog::Catalog,
    differing::Differing,
    history::History,
    meters::Meters,
    snapshot::{Content, SnapshotDir, State},
    types::{
        Batch, Entry, LogId, Outcomes, Snapshot, SnapshotMeta, StorageError, StoredMembership,
        TypeConfig,
    },
};

#[derive(Debug)]
pub(crate) struct Machine {
    state: State,
    snapshots: SnapshotDir,
    published: watch::Sender<Arc<Catalog>>,
    history: History,
    meters: Meters,
    differing: Differing,
    /// The newest level of commands that this node takes.
    level: u16,
    #[cfg(feature = "testing")]
    damage: Damage,
}

/// An export to damage before the next entry is applied, without a word to anybody.
#[cfg(feature = "testing")]
pub(crate) type Damage =
    Arc<std::sync::Mutex<Option<(tradewind_api::ServiceName, tradewind_api::ClusterName)>>>;

#[cfg(feature = "testing")]
impl Machine {
    pub(crate) fn damage(&self) -> Damage {
        Arc::clone(&self.damage)
    }

    fn do_damage(&mut self) {
        let mut slot = self
            .damage
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let Some((service, cluster)) = slot.take() else {
            return;
        };
        let exports = &mut self.state.catalog.exports;
        let Some(mut by) = exports.get(&service).cloned() else {
            return;
        };
        if let Some(export) = Arc::make_mut(&mut by).get_mut(&cluster) {
            Arc::make_mut(export).endpoints.clear();
        }
        exports.insert(service, by);
    }
}

impl Machine {
    pub(crate) fn new(
        state: Option<State>,
        snapshots: SnapshotDir,
        history: History,
        meters: Meters,
        level: u16,
    ) -> (Self, watch::Receiver<Arc<Catalog>>) {
        let state = state.unwrap_or_default();
        history.start_at(state.catalog.revision);
        let (published, catalog) = watch::channel(Arc::new(state.catalog.clone()));
        let this = Self {
            state,
            snapshots,
            published,
            history,
            meters,
            level,
            differing: Differing::default(),
            #[cfg(feature = "testing")]
            damage: Damage::default(),
        };
        (this, catalog)
    }

    /// Whose exports the copy here does not hold rightly.
    pub(crate) fn differing(&self) -> Differing {
        self.differing.clone()
    }

    /// An entry of a level above this node's own must not be there, and must not be skipped either.
    fn above_own_level(&self, entry: &Entry) -> Option<u16> {
        let EntryPayload::Normal(batch) = &entry.payload else {
            return None;
        };
        let needs = batch.commands.iter().map(|c| c.command.level()).max();
        needs.filter(|needs| *needs > self.level)
    }

    /// Applies the commands of one entry and tells the watchers what they changed.
    fn apply_batch(&mut self, revision: u64, batch: &Batch) -> Outcomes {
        #[cfg(feature = "testing")]
        self.do_damage();
        let catalog = &mut self.state.catalog;
        let mut before = BTreeMap::new();
        let mut outcomes = Outcomes::with_capacity(batch.commands.len());
        for stamped in batch.commands.iter() {
            for key in catalog.touched(&stamped.proposer, &stamped.command) {
                let value = catalog.value(&key);
                before.entry(key).or_insert(value);
            }
            let outcome = catalog.apply(revision, stamped);
            if let Command::AttestExports { .. } = &stamped.command {
                let differs = matches!(&outcome, Outcome::Refused(Refusal::DigestMismatch { .. }));
                self.differing.attested(&stamped.proposer, !differs);
                self.differing.keep(|c| catalog.member(c).is_some());
            }
            if let Outcome::Refused(refusal @ Refusal::DigestMismatch { .. }) = &outcome {
                // Every node judges its own copy: on a follower nobody else would say it.
                self.meters.mismatches.inc();
                tracing::error!(revision, %refusal, "this copy of the store is not what its owner says");
            }
            outcomes.push(outcome);
        }
        self.history.push(revision, catalog.differences(before));
        outcomes
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
            if let Some(needs) = self.above_own_level(&entry) {
                let error = AnyError::error(format!(
                    "the entry needs level {needs}, this version knows {}: upgrade it",
                    self.level
                ));
                return Err(StorageIOError::apply(id, error).into());
            }
            let outcomes = match &entry.payload {
                EntryPayload::Blank => Vec::new(),
                EntryPayload::Normal(batch) => self.apply_batch(id.index, batch),
                EntryPayload::Membership(membership) => {
                    self.state.membership = StoredMembership::new(Some(id), membership.clone());
                    Vec::new()
                }
            };
            self.state.catalog.revision = id.index;
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
        self.history.start_at(self.state.catalog.revision);
        self.differing.keep(|_| false);
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
