//! What the API server told last, as a file: a controller that starts while it is away serves what was known before.
//!
//! Owns the file's format. It is a copy that may be lost: one that cannot be read is as good as none, and said.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tradewind_kubernetes::{
    Key, Objects,
    objects::{Change, Export, Object, Pod, Rule, Service, Slice},
};
use tradewind_runtime::{
    drain,
    files::{self, FileError},
    task,
};

/// Its name in the data directory.
pub const FILE: &str = "kubernetes.objects";
const MAGIC: [u8; 4] = *b"TWKO";
const VERSION: u16 = 1;
/// Least time between two writes: a rolling update is some of them and not hundreds.
const SPACING: Duration = Duration::from_secs(1);
/// The same for each object: all are written each time, and where there are many some always change.
const SPACING_EACH: Duration = Duration::from_micros(250);

/// How long after a change what is known is written: a process that is killed in the meantime forgets as much.
pub fn spacing(objects: &Objects) -> Duration {
    let all = objects.services.len() + objects.slices.len() + objects.pods.len();
    SPACING + SPACING_EACH * u32::try_from(all).unwrap_or(u32::MAX)
}

/// The objects that the model is made from. What the mesh itself keeps in the API server is not among them: what is to be written there is
/// concluded from what is there now.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Kept {
    /// Whose they are: the API server's address.
    pub server: String,
    /// When they were known to be so, Unix ms.
    pub at_ms: u64,
    services: Vec<(Key, Arc<Service>)>,
    slices: Vec<(Key, Arc<Slice>)>,
    pods: Vec<(Key, Arc<Pod>)>,
    #[serde(default)]
    bare: BTreeSet<Key>,
    exports: Vec<(Key, Arc<Export>)>,
    rules: Vec<(Key, Arc<Rule>)>,
}

impl Kept {
    /// Of all objects as they are.
    pub fn of(objects: &Objects, server: &str, at_ms: u64) -> Self {
        let services = objects.services.iter();
        let slices = objects.slices.iter();
        let pods = objects.pods.iter();
        let exports = objects.exports.iter();
        let rules = objects.rules.iter();
        Self {
            server: server.to_owned(),
            at_ms,
            services: services
                .map(|(n, o)| (Key::from(n), Arc::clone(o)))
                .collect(),
            slices: slices.map(|(k, o)| (k.clone(), Arc::clone(o))).collect(),
            pods: pods.map(|(k, o)| (k.clone(), Arc::clone(o))).collect(),
            bare: objects.bare.clone(),
            exports: exports
                .map(|(n, o)| (Key::from(n), Arc::clone(o)))
                .collect(),
            rules: rules
                .map(|((_, k), o)| (k.clone(), Arc::clone(o)))
                .collect(),
        }
    }

    /// As changes. They make nothing listed: whatever is not in the first complete list of its kind goes then.
    pub fn changes(&self) -> impl Iterator<Item = Change> + '_ {
        let services = self.services.iter();
        let slices = self.slices.iter();
        let pods = self.pods.iter();
        let exports = self.exports.iter();
        let rules = self.rules.iter();
        let all = services.map(|(k, o)| (k, Object::Service((**o).clone())));
        let all = all.chain(slices.map(|(k, o)| (k, Object::Slice((**o).clone()))));
        let all = all.chain(pods.map(|(k, o)| (k, Object::Pod((**o).clone()))));
        let all = all.chain(self.bare.iter().map(|k| (k, Object::Bare)));
        let all = all.chain(exports.map(|(k, o)| (k, Object::Export((**o).clone()))));
        let all = all.chain(rules.map(|(k, o)| (k, Object::Rule(Arc::clone(o)))));
        all.map(|(key, object)| Change::Set(key.clone(), object))
    }
}

/// What was kept of this API server; none where there is nothing of it, or nothing that can be read. Blocks.
pub fn read(path: &Path, server: &str) -> Option<Kept> {
    match parse(path) {
        Ok(kept) => kept.filter(|kept| kept.server == server),
        Err(error) => {
            tracing::warn!(%error, "what the API server told before is not known: until it answers this cluster has no services");
            None
        }
    }
}

fn parse(path: &Path) -> Result<Option<Kept>, FileError> {
    let Some((_, json)) = files::read_framed(path, MAGIC, VERSION)? else {
        return Ok(None);
    };
    let kept = serde_json::from_slice(&json);
    kept.map(Some)
        .map_err(|e| FileError::corrupt(path, e.to_string()))
}

fn write(path: &Path, kept: &Kept) -> Result<(), String> {
    let json = serde_json::to_vec(kept).map_err(|e| e.to_string())?;
    files::write_framed(path, MAGIC, VERSION, &json, 0o600).map_err(|e| e.to_string())
}

/// Where the source hands over what is to be kept.
pub type Handed = watch::Sender<Option<Arc<Kept>>>;

/// Writes what is handed over, until nobody hands over any more. The process ends after the last of it, or at the drain's deadline.
pub async fn write_all(
    path: PathBuf,
    mut handed: watch::Receiver<Option<Arc<Kept>>>,
    until: drain::Watch,
) {
    let mut told = false;
    while handed.changed().await.is_ok() {
        let Some(kept) = handed.borrow_and_update().clone() else {
            continue;
        };
        let target = path.clone();
        let written = task::spawn_blocking(move || write(&target, &kept)).await;
        let written = written.map_err(|e| e.to_string()).flatten();
        if let Err(why) = &written
            && !told
        {
            tracing::warn!(path = %path.display(), %why, "what the API server told is not kept: a controller that starts while it is away would wait for it");
        }
        told = written.is_err();
    }
    drop(until);
}

#[cfg(test)]
mod tests;
