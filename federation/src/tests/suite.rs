//! openraft's own storage suite.

use openraft::testing::{StoreBuilder, Suite};

use crate::{
    history::History,
    log_store::LogStore,
    machine::Machine,
    meters::Meters,
    snapshot::SnapshotDir,
    types::{StorageError, TypeConfig},
};

struct Builder;

impl StoreBuilder<TypeConfig, LogStore, Machine, tempfile::TempDir> for Builder {
    async fn build(&self) -> Result<(tempfile::TempDir, LogStore, Machine), StorageError> {
        let dir = tempfile::tempdir().unwrap();
        let (log, _disk) = LogStore::open(dir.path(), Meters::default()).await.unwrap();
        let snapshots = dir.path().join("snapshots");
        let (snapshots, state) = SnapshotDir::open(&snapshots, log.purged()).unwrap();
        let (machine, _catalog) =
            Machine::new(state, snapshots, History::default(), Meters::default(), 2);
        Ok((dir, log, machine))
    }
}

#[test]
fn openrafts_storage_suite_passes() {
    Suite::test_all(Builder).unwrap();
}
