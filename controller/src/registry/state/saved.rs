//! The registrations as they lie on disk.

use serde::{Deserialize, Serialize};
use tradewind_api::id::SpiffeId;

use super::Fronted;

/// Everything registered, as far as a later run needs it.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Saved {
    pub(super) proxies: Vec<SavedProxy>,
    pub(super) gateways: Vec<SavedGateway>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SavedProxy {
    pub(super) identity: SpiffeId,
    pub(super) proxy: String,
    pub(super) fronted: Vec<Fronted>,
    pub(super) last_seen_ms: u64,
    #[serde(default = "first_hand")]
    pub(super) here: bool,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SavedGateway {
    pub(super) name: String,
    pub(super) address: String,
    pub(super) draining: bool,
    pub(super) last_seen_ms: u64,
    #[serde(default = "first_hand")]
    pub(super) here: bool,
}

/// What was saved before there were several controllers.
const fn first_hand() -> bool {
    true
}
