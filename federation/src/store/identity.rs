//! Whose store a directory is: one small framed file, written once when the directory is made.

use std::path::Path;

use serde::{Deserialize, Serialize};
use tradewind_api::{ClusterName, NodeId};
use tradewind_runtime::files::{self, FileError};

use super::StoreConfig;
use crate::{
    error::StoreError,
    medium::{HIGH_WATER, VOTE},
};

/// Whose store a directory is.
#[derive(Debug, Serialize, Deserialize)]
struct Identity {
    node_id: NodeId,
    cluster: ClusterName,
}

const IDENTITY: &str = "identity";
const MAGIC: [u8; 4] = *b"TWID";
const VERSION: u16 = 1;

/// Who it says it is; `None` where nobody ever wrote it.
pub(crate) fn read(dir: &Path) -> Result<Option<(NodeId, ClusterName)>, FileError> {
    let path = dir.join(IDENTITY);
    let Some((_, payload)) = files::read_framed(&path, MAGIC, VERSION)? else {
        return Ok(None);
    };
    let found: Identity = serde_json::from_slice(&payload)
        .map_err(|e| FileError::corrupt(&path, format!("it names no node: {e}")))?;
    Ok(Some((found.node_id, found.cluster)))
}

/// Makes it `node_id`'s.
pub(crate) fn write(dir: &Path, node_id: NodeId, cluster: &ClusterName) -> Result<(), FileError> {
    let path = dir.join(IDENTITY);
    let identity = Identity {
        node_id,
        cluster: cluster.clone(),
    };
    let payload = serde_json::to_vec(&identity)
        .map_err(|e| FileError::corrupt(&path, format!("it cannot be written down: {e}")))?;
    files::write_framed(&path, MAGIC, VERSION, &payload, 0o600)
}

/// Takes a new directory, or checks that it is this node's.
pub(super) fn check(dir: &Path, config: &StoreConfig) -> Result<(), StoreError> {
    let Some((found, cluster)) = read(dir)? else {
        // Made before anything else is: where there is more, it was lost.
        if [VOTE, HIGH_WATER]
            .iter()
            .any(|file| dir.join(file).exists())
        {
            return Err(StoreError::Corrupt {
                path: dir.join(IDENTITY),
                what: "it is missing although the directory holds a store".to_owned(),
            });
        }
        return Ok(write(dir, config.node_id, &config.cluster)?);
    };
    if found != config.node_id || cluster != config.cluster {
        return Err(StoreError::WrongNode {
            path: dir.to_owned(),
            found,
            cluster,
            expected: config.node_id,
        });
    }
    Ok(())
}
