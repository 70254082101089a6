//! The API server of this cluster as a source: its watchers' changes into the local model's terms.
//!
//! Owns all that is known of its objects and what was made of each. [`model`] decides, purely; the task here takes changes as they come and
//! tells of them together. While the API server is away what was known last stands, over a restart, too ([`kept`]).

mod complete;
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
use complete::{Complete, Look};
use kept::{Handed, Kept};
pub use model::{Exported, Model, View};

/// Least time between two steps: a rolling update of a large service is a few of them and not hundreds. The first change is told at once.
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

/// All that is known, and whom it is told.
struct Source {
    objects: Objects,
    model: Model,
    complete: Complete,
    /// What was wrong with what was kept, and that it is told. Nothing once all was listed.
    before: Vec<Problem>,
    told: Told,
}

impl Source {
    fn new(told: Told) -> Self {
        let rules = rule_kinds().iter().map(Served::rule).collect();
        Self {
            objects: Objects::default(),
            model: Model::default(),
            complete: Complete::of(rules),
            before: Vec::new(),
            told,
        }
    }

    /// Tells what was kept, as it was.
    fn remember(&mut self, kept: &Kept) {
        let mut touched = Touched::default();
        let mut changes = kept.changes().collect();
        take(&mut self.objects, &mut changes, &mut touched);
        self.model.update(&self.objects, &touched);
        let mut before = self.model.told();
        before.problems.push(Problem {
            place: "the API server".to_owned(),
            text: format!(
                "was not read whole since this controller started: services, endpoints and rules are those of {}; calls go on by them; this controller's log says what is in the way",
                write::moment(kept.at_ms)
            ),
        });
        self.before.clone_from(&before.problems);
        self.told.model.send_replace(Arc::new(before));
    }

    /// Tells what was made of all objects, once enough of them were listed.
    fn step(&mut self, touched: &Touched) -> Look {
        self.model.update(&self.objects, touched);
        let look = self.complete.look(&self.objects, Instant::now());
        if look != Look::Complete {
            self.tell_refused();
            return look;
        }
        let unheard = self.complete.unheard(&self.objects);
        if !unheard.is_empty() {
            let refused = unheard.into_iter();
            let mut changes = refused.map(|(k, why)| Change::Refused(k, why)).collect();
            let mut touched = Touched::default();
            take(&mut self.objects, &mut changes, &mut touched);
            self.model.update(&self.objects, &touched);
        }
        self.told.model.send_replace(Arc::new(self.model.told()));
        self.tell_view();
        look
    }

    /// What was told stands; which kinds cannot be listed is added.
    fn tell_refused(&self) {
        self.told.model.send_if_modified(|current| {
            let refused = self.model.refused();
            let told = refused.iter().map(Problem::from);
            let problems: Vec<_> = self.before.iter().cloned().chain(told).collect();
            let new = problems != current.problems;
            if new {
                let current = Arc::make_mut(current);
                current.problems = problems;
                current.refused = refused.to_vec();
            }
            new
        });
    }

    fn tell_view(&self) {
        let written = Resource::ALL.map(Kind::Owned);
        if !written.iter().all(|kind| self.objects.has_listed(kind)) {
            return;
        }
        let view = self.model.view(&self.objects);
        self.told.view.send_if_modified(|current| {
            let new = **current != view;
            if new {
                *current = Arc::new(view);
            }
            new
        });
    }
}

/// Takes changes until the drain.
pub async fn run(
    mut changes: mpsc::Receiver<Change>,
    told: Told,
    mut memory: Memory,
    mut drain: drain::Observer,
) {
    let mut source = Source::new(told);
    if let Some(kept) = memory.before.take() {
        source.remember(&kept);
    }
    let (mut keep_at, mut look_at) = (None, None);
    let mut next_step = Instant::now();
    let mut batch = Vec::new();
    loop {
        let now = Instant::now();
        let (keep_due, look_due) = (keep_at.unwrap_or(now), look_at.unwrap_or(now));
        let mut touched = Touched::default();
        let looks = tokio::select! {
            biased;
            () = drain.triggered() => break,
            () = tokio::time::sleep_until(keep_due), if keep_at.is_some() => {
                memory.keep(&source.objects);
                keep_at = None;
                continue;
            }
            () = tokio::time::sleep_until(look_due), if look_at.is_some() => true,
            taken = changes.recv_many(&mut batch, BATCH) => {
                if taken == 0 {
                    break;
                }
                take(&mut source.objects, &mut batch, &mut touched);
                false
            }
        };
        // What comes soon after a step is told together.
        while let Ok(taken) =
            tokio::time::timeout_at(next_step, changes.recv_many(&mut batch, BATCH)).await
            && taken > 0
        {
            take(&mut source.objects, &mut batch, &mut touched);
            if Instant::now() >= next_step {
                break;
            }
        }
        if touched.is_empty() && !looks {
            continue;
        }
        let look = source.step(&touched);
        next_step = Instant::now() + SPACING;
        look_at = match look {
            Look::Waiting(until) => until,
            Look::Complete => {
                keep_at.get_or_insert_with(|| Instant::now() + kept::spacing(&source.objects));
                None
            }
        };
    }
    if keep_at.is_some() {
        memory.keep(&source.objects);
    }
}

fn take(objects: &mut Objects, batch: &mut Vec<Change>, touched: &mut Touched) {
    for change in batch.drain(..) {
        let one = objects.take(change);
        touched.services.extend(one.services);
        touched.others |= one.others;
    }
}
