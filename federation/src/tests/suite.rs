//! openraft's own storage suite, on files and on the simulated disk.

use std::sync::Arc;

use openraft::testing::{StoreBuilder, Suite};
use tradewind_runtime::Rng;

use crate::{
    history::History,
    log_store::LogStore,
    machine::Machine,
    medium::{Files, Medium},
    meters::Meters,
    simulation::SimMedium,
    snapshot::SnapshotDir,
    types::{StorageError, TypeConfig},
};

enum Builder {
    Files,
    Simulated,
}

impl StoreBuilder<TypeConfig, LogStore, Machine, tempfile::TempDir> for Builder {
    async fn build(&self) -> Result<(tempfile::TempDir, LogStore, Machine), StorageError> {
        let dir = tempfile::tempdir().unwrap();
        let medium: Arc<dyn Medium> = match self {
            Self::Files => Arc::new(Files::new(dir.path())),
            Self::Simulated => Arc::new(SimMedium::new(dir.path().to_owned(), Rng::seeded(1))),
        };
        let opened = LogStore::open_on(medium, Meters::default()).await;
        let (log, _writer) = opened.unwrap();
        let snapshots = dir.path().join("snapshots");
        let (snapshots, state) = SnapshotDir::open(&snapshots, log.purged()).unwrap();
        let (machine, _catalog) = Machine::new(
            state,
            snapshots.with_hands(log.hands()),
            History::default(),
            Meters::default(),
            2,
        );
        Ok((dir, log, machine))
    }
}

#[test]
fn openrafts_storage_suite_passes() {
    Suite::test_all(Builder::Files).unwrap();
}

#[test]
fn openrafts_storage_suite_passes_on_the_simulated_disk() {
    Suite::test_all(Builder::Simulated).unwrap();
}
