//! The task that keeps this cluster's seal keys in the store and the ring up to date. Owns the private keys; decides
//! nothing that is not in the module above.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::{sync::watch, time::Instant};
use tradewind_api::{
    ClusterName, NodeId, seal,
    store::{Blob, Command, Outcome, SealRecord},
};
use tradewind_federation::{Catalog, Store};
use tradewind_runtime::{Backoff, Rng, drain};
use tradewind_transport::seal::keys::SealKey;

use super::{Deriver, Held, Ring, Wanted, put, wanted};

/// How often time alone is looked at: keys ripen over hours and rotate once a day.
const TICK: Duration = Duration::from_secs(5);
/// The same while some cluster's first key ripens: until it does nobody can call that cluster.
const FIRST_TICK: Duration = Duration::from_millis(50);
/// How long the other controllers of a cluster have to make a box for one that cannot open the newest key.
const BOXES_WITHIN: Duration = Duration::from_secs(60);
/// First wait after a write that was not taken.
const AGAIN_MIN: Duration = Duration::from_millis(200);
/// Longest such wait: a store that writes again is told within it.
const AGAIN_MAX: Duration = Duration::from_secs(10);

/// See the module.
pub(crate) struct SealKeeper {
    store: Store,
    own: ClusterName,
    node: NodeId,
    held: Held,
    deriver: Deriver,
    rings: watch::Sender<Arc<Ring>>,
    backoff: Backoff,
    rng: Rng,
    /// What the last ring came from.
    seen: Option<Seen>,
    /// Since when the newest key cannot be opened here.
    closed_since: Option<Instant>,
    not_before: Instant,
    /// What was put last stands at this revision; before that is here, nothing can be said of what is missing.
    put_at: u64,
    /// The newest leader's stamp, and when it came by this node's clock.
    stamp: (u64, Instant),
    told: Option<String>,
}

/// Everything a ring depends on beside the private keys.
struct Seen {
    seals: Arc<BTreeMap<ClusterName, Arc<SealRecord>>>,
    phase: seal::Phase,
    in_use: Vec<Option<u64>>,
}

impl Seen {
    fn of(catalog: &Catalog, at_ms: u64) -> Self {
        let in_use = |r: &Arc<SealRecord>| seal::in_use(r, at_ms).map(|k| k.number);
        Self {
            seals: Arc::clone(&catalog.seals),
            phase: seal::phase(catalog.level, catalog.level_since_ms, at_ms),
            in_use: catalog.seals.values().map(in_use).collect(),
        }
    }

    /// True while a cluster's first key is not used yet.
    fn ripens(&self) -> bool {
        let mut all = self.seals.values().zip(&self.in_use);
        all.any(|(record, used)| used.is_none() && !record.keys.is_empty())
    }

    fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.seals, &other.seals)
            && self.phase == other.phase
            && self.in_use == other.in_use
    }
}

impl SealKeeper {
    pub(crate) fn new(
        store: Store,
        own: ClusterName,
        node: NodeId,
        node_key: SealKey,
        rng: Rng,
    ) -> (Self, watch::Receiver<Arc<Ring>>) {
        let (rings, ring) = watch::channel(Arc::new(Ring::default()));
        let keeper = Self {
            store,
            own,
            node,
            held: Held::new(node_key),
            deriver: Deriver::default(),
            rings,
            backoff: Backoff::new(AGAIN_MIN, AGAIN_MAX),
            rng,
            seen: None,
            closed_since: None,
            not_before: Instant::now(),
            put_at: 0,
            stamp: (0, Instant::now()),
            told: None,
        };
        (keeper, ring)
    }

    /// Runs until the drain.
    pub(crate) async fn run(mut self, mut drain: drain::Observer) {
        let mut catalogs = self.store.watch();
        loop {
            let catalog = Arc::clone(&catalogs.borrow_and_update());
            self.look(&catalog);
            tokio::select! {
                biased;
                () = drain.triggered() => return,
                () = self.tell(&catalog) => {}
            }
            let ripens = self.seen.as_ref().is_some_and(Seen::ripens);
            let tick = if ripens { FIRST_TICK } else { TICK };
            let wait = self.not_before.saturating_duration_since(Instant::now());
            let wait = if wait.is_zero() { tick } else { wait.min(tick) };
            tokio::select! {
                biased;
                () = drain.triggered() => return,
                changed = catalogs.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Opens new boxes and derives the ring anew when anything that it depends on changed.
    fn look(&mut self, catalog: &Catalog) {
        let none = SealRecord::default();
        let record = catalog.seals_of(&self.own).map_or(&none, |r| r);
        let learnt = self.held.learn(&catalog.domain, &self.own, record);
        let at_ms = self.leaders_time(catalog);
        let seen = Seen::of(catalog, at_ms);
        if !learnt && self.seen.as_ref().is_some_and(|s| s.is(&seen)) {
            return;
        }
        let ring = self.deriver.ring(catalog, at_ms, &self.own, &self.held);
        self.rings.send_replace(Arc::new(ring));
        self.seen = Some(seen);
    }

    /// The leaders' time now: their newest stamp, and what has passed since it came. No clock is set against another.
    fn leaders_time(&mut self, catalog: &Catalog) -> u64 {
        let now = Instant::now();
        if self.stamp.0 != catalog.at_ms {
            self.stamp = (catalog.at_ms, now);
        }
        let passed = now.saturating_duration_since(self.stamp.1).as_millis();
        let passed = u64::try_from(passed).unwrap_or(u64::MAX);
        self.stamp.0.saturating_add(passed)
    }

    /// Tells the store one thing, if there is one to tell and it is time.
    async fn tell(&mut self, catalog: &Catalog) {
        let newest = catalog.seals_of(&self.own).and_then(|r| r.keys.last());
        let closed = newest.is_some_and(|k| !self.held.keys.contains_key(&k.number));
        let now = Instant::now();
        let since = closed.then(|| *self.closed_since.get_or_insert(now));
        self.closed_since = since;
        let abandoned = since.is_some_and(|at| now.saturating_duration_since(at) > BOXES_WITHIN);
        let waits = now < self.not_before || catalog.revision < self.put_at;
        if waits || !self.store.status().can_write {
            return;
        }
        let Some(wanted) = wanted(catalog, &self.own, self.node, &self.held, abandoned) else {
            self.backoff.reset();
            return;
        };
        if let Err(why) = self.put(catalog, &wanted).await {
            self.not_before = Instant::now() + self.backoff.next(&mut self.rng);
            if self.told.as_ref() != Some(&why) {
                tracing::warn!(?wanted, %why, "a key for sealed names was not published; trying again");
                self.told = Some(why);
            }
        } else {
            self.told = None;
        }
    }

    async fn put(&mut self, catalog: &Catalog, wanted: &Wanted) -> Result<(), String> {
        let command = match wanted {
            Wanted::NodeKey => Command::PutNodeKey {
                node: self.node,
                public: Blob(self.held.node_key.public().to_vec()),
            },
            Wanted::Boxes { number } => {
                let key = self.held.keys.get(number).ok_or("it is gone")?;
                put(catalog, &self.own, *number, key, false).map_err(|e| e.to_string())?
            }
            Wanted::NextKey { number, alone } => {
                let key = SealKey::generate().map_err(|e| e.to_string())?;
                let command =
                    put(catalog, &self.own, *number, &key, *alone).map_err(|e| e.to_string())?;
                tracing::info!(number, alone, "publishing a new key for sealed names");
                command
            }
        };
        // The private part is in the box for this very controller: when the command is applied, it opens it again.
        match self.store.propose(&self.own, command).await {
            Ok(Outcome::Done { revision, .. } | Outcome::Joined { revision, .. }) => {
                self.put_at = revision;
                Ok(())
            }
            Ok(Outcome::Refused(refusal)) => Err(refusal.to_string()),
            Err(error) => Err(error.to_string()),
        }
    }
}
