//! Several controllers of one cluster. Each tells the others what it knows at first hand: who is connected to it, and what
//! operators said of exports there; so that each can serve all, and any of them can go on alone.
//!
//! Owns what is known of the others' streams. It decides nothing about registrations, which is `registry::state`'s, and
//! nothing about who speaks for the cluster, which is the store's. A sibling's absence takes nothing away.

mod follow;
mod serve;

use std::{collections::BTreeMap, sync::Arc};

use tokio::sync::watch;
use tradewind_api::NodeId;
use tradewind_federation::Vitals;

pub(crate) use follow::Followers;
pub(crate) use serve::SiblingsService;

/// What is known of another controller of this cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sibling {
    /// Where it is dialled.
    pub address: String,
    /// Its stream is up.
    pub up: bool,
    /// Since when that is so, Unix ms.
    pub since_ms: u64,
    /// When it was last heard, Unix ms; 0 before the first time.
    pub heard_ms: u64,
    /// Its store's revision then.
    pub revision: u64,
    /// Which node speaks for the cluster, as its store had it then; 0 where it knew none.
    pub speaker: NodeId,
    /// What its store said of itself then.
    pub vitals: Option<Vitals>,
    /// Why its stream is not up.
    pub error: String,
}

/// The other controllers of this cluster, by node.
pub type Heard = BTreeMap<NodeId, Sibling>;

/// What the rest of the controller reads.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The others.
    pub heard: watch::Receiver<Arc<Heard>>,
    /// True once each of them told everything, or enough time was given to them: before, nothing may be concluded from what
    /// is missing.
    pub complete: watch::Receiver<bool>,
}

impl Seen {
    /// Of one that has none.
    pub fn alone() -> Self {
        Self {
            heard: watch::channel(Arc::default()).1,
            complete: watch::channel(true).1,
        }
    }
}
