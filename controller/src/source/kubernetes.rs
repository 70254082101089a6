//! The API server of this cluster as a source: its watchers' changes into the local model's terms.
//!
//! Owns all that is known of its objects and what was made of each. [`model`] decides, purely; the task here takes changes as they come and
//! tells of them together. While the API server is away what was known last stands, over a restart, too ([`kept`]).

pub mod kept;
pub mod model;

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use tradewind_kubernetes::{
    Kind, Objects,
    managed::Resource,
    objects::{Change, Touched},
    watch::Served,
    write,
};
use tradewind_runtime::{SharedClock, drain};

use super::{Problem, SourceModel};
use kept::{Handed, Kept};
pub use model::{Exported, Model, View};

/// Changes that are taken together when they have come together: a rolling update of a large service is a few steps and not hundreds.
const SPACING: Duration = Duration::from_millis(20);
/// As long as the first lists have not come nothing is told, so more may be taken at a time.
const BATCH: usize = 4_096;

/// The kinds of rules that are watched: all that `policy` reads.
pub fn rule_kinds() -> Vec<Served> {
    let of = |kind: tradewind_policy::WatchedKind| Served {
        group: kind.group,
        versions: kind.versions,
        kind: kind.kind,
        plural: kind.plural,
    };
    tradewind_policy::watched_kinds()
        .into_iter()
        .map(of)
        .collect()
}

/// Where it tells what it knows.
#[derive(Debug)]
pub struct Told {
    /// Services, exports and rules.
    pub model: watch::Sender<Arc<SourceModel>>,
    /// What is exported and into which namespaces: for whoever writes imports.
    pub view: watch::Sender<Arc<View>>,
}

/// What outlives the process.
#[derive(Debug)]
pub struct Memory {
    /// What was kept of the API server, if anything.
    pub before: Option<Kept>,
    /// To whom it is handed what is to be kept.
    pub handed: Handed,
    /// The API server's address.
    pub server: String,
    /// Time.
    pub clock: SharedClock,
}

impl Memory {
    fn keep(&self, objects: &Objects) {
        let kept = Kept::of(objects, &self.server, self.clock.unix_ms());
        self.handed.send_replace(Some(Arc::new(kept)));
    }
}

/// Tells what was kept, as it was.
fn remember(kept: &Kept, objects: &mut Objects, model: &mut Model, told: &Told) {
    let mut touched = Touched::default();
    take(objects, &mut kept.changes().collect(), &mut touched);
    model.update(objects, &touched);
    let mut before = model.told();
    before.problems.push(Problem {
        place: "the API server".to_owned(),
        text: format!(
            "was not read whole since this controller started: services, endpoints and rules are those of {}; calls go on by them; this controller's log says what is in the way",
            write::moment(kept.at_ms)
        ),
    });
    told.model.send_replace(Arc::new(before));
}

/// Kinds that must be listed whole before anything is told.
fn awaited() -> Vec<Kind> {
    [
        Kind::Namespace,
        Kind::Service,
        Kind::Slice,
        Kind::Pod,
        Kind::Bare,
        Kind::Export,
    ]
    .into_iter()
    .chain(rule_kinds().iter().map(Served::rule))
    .collect()
}

/// Takes changes until the drain.
pub async fn run(
    mut changes: mpsc::Receiver<Change>,
    told: Told,
    mut memory: Memory,
    mut drain: drain::Observer,
) {
    let kinds = awaited();
    let (mut objects, mut model) = (Objects::default(), Model::default());
    if let Some(kept) = memory.before.take() {
        remember(&kept, &mut objects, &mut model, &told);
    }
    let mut read = false;
    let mut keep_at = None;
    let mut batch = Vec::new();
    loop {
        let due = keep_at.unwrap_or_else(Instant::now);
        let taken = tokio::select! {
            biased;
            () = drain.triggered() => 0,
            () = tokio::time::sleep_until(due), if keep_at.is_some() => {
                memory.keep(&objects);
                keep_at = None;
                continue;
            }
            taken = changes.recv_many(&mut batch, BATCH) => taken,
        };
        if taken == 0 {
            if keep_at.is_some() {
                memory.keep(&objects);
            }
            return;
        }
        let mut touched = Touched::default();
        take(&mut objects, &mut batch, &mut touched);
        let until = Instant::now() + SPACING;
        // What comes together is told together.
        while let Ok(Some(change)) = tokio::time::timeout_at(until, changes.recv()).await {
            batch.push(change);
            take(&mut objects, &mut batch, &mut touched);
        }
        if touched.is_empty() {
            continue;
        }
        model.update(&objects, &touched);
        read = read || kinds.iter().all(|kind| objects.has_listed(kind));
        if read {
            told.model.send_replace(Arc::new(model.told()));
            keep_at.get_or_insert_with(|| Instant::now() + kept::spacing(&objects));
        }
        let written = Resource::ALL.map(Kind::Owned);
        if read && written.iter().all(|kind| objects.has_listed(kind)) {
            let view = model.view(&objects);
            told.view.send_if_modified(|current| {
                let new = **current != view;
                if new {
                    *current = Arc::new(view);
                }
                new
            });
        }
    }
}

fn take(objects: &mut Objects, batch: &mut Vec<Change>, touched: &mut Touched) {
    for change in batch.drain(..) {
        let one = objects.take(change);
        touched.services.extend(one.services);
        touched.others |= one.others;
    }
}
