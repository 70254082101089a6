//! `trust.json`: whom a controller believes after its next start, until its store knows as much as it did when it ended.
//!
//! It says of which revision it is. A store that was cut off from power may open somewhat behind, and would believe a
//! cluster again that was revoked in between. It never counts for a store of another node id: recovering, restoring and
//! rejoining give a new one, and start another count of revisions.

use serde::{Deserialize, Serialize};
use tradewind_api::{NodeId, snapshot::Trust};

use super::{DataDir, DataDirError, read_bounded, write_json};

pub(super) const TRUST_FILE: &str = "trust.json";

/// The content of `trust.json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptTrust {
    /// Whom to believe.
    #[serde(flatten)]
    pub trust: Trust,
    /// What it is newer than: any catalog below this revision. 0 where nothing was noted.
    #[serde(default)]
    pub revision: u64,
    /// Of which node's store the revision is.
    #[serde(default)]
    node_id: NodeId,
}

impl KeptTrust {
    /// Any catalog is newer than this.
    pub fn of_no_revision(trust: Trust) -> Self {
        Self {
            trust,
            ..Self::default()
        }
    }
}

impl DataDir {
    /// Whom to believe while the store is empty, or behind it.
    pub fn trust(&self) -> Result<Option<KeptTrust>, DataDirError> {
        let file = self.path().join(TRUST_FILE);
        let Some(bytes) = read_bounded(&file)? else {
            return Ok(None);
        };
        let kept: KeptTrust =
            serde_json::from_slice(&bytes).map_err(|why| DataDirError::Corrupt {
                path: file,
                why: why.to_string(),
            })?;
        let same = kept.node_id == self.node().node_id;
        Ok(Some(KeptTrust {
            revision: if same { kept.revision } else { 0 },
            ..kept
        }))
    }

    /// Writes whom to believe after the next start, as the store says at `revision`; 0 where it does not say.
    pub fn save_trust(&self, trust: &Trust, revision: u64) -> Result<(), DataDirError> {
        let kept = KeptTrust {
            trust: trust.clone(),
            revision,
            node_id: self.node().node_id,
        };
        write_json(&self.path().join(TRUST_FILE), &kept)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::datadir::tests::made;

    #[test]
    fn a_revision_counts_for_the_store_that_it_is_of() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("data");
        made(&path);
        let mut dir = DataDir::open(&path).unwrap();
        assert_eq!(dir.trust().unwrap().unwrap().revision, 0, "as it was made");
        dir.save_trust(&Trust::default(), 70).unwrap();
        assert_eq!(dir.trust().unwrap().unwrap().revision, 70);
        let room = dir.room().unwrap();
        fs::create_dir(room).unwrap();
        dir.replace_store("store.kept", 9).unwrap();
        assert_eq!(dir.trust().unwrap().unwrap().revision, 0);
    }

    #[test]
    fn a_file_of_before_is_read() {
        let old = serde_json::to_vec(&Trust::default()).unwrap();
        let kept: KeptTrust = serde_json::from_slice(&old).unwrap();
        assert_eq!(kept, KeptTrust::default());
        let new = serde_json::to_vec(&kept).unwrap();
        let trust: Trust = serde_json::from_slice(&new).unwrap();
        assert_eq!(trust, Trust::default(), "the version before reads it, too");
    }
}
