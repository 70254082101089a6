//! The load generator: so many clients, each with one write under way, for so long or until so many are written. The
//! same code drives both systems. Every client goes round the nodes, write by write, so that they are loaded equally.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;
use tradewind_runtime::{Rng, TaskSet};

use crate::{client::Client, trio::Trio};

/// Bytes of a value.
pub(crate) const VALUE_BYTES: usize = 200;
/// Different keys: so many services a federation has.
const KEYS: u64 = 1_000;
/// Clients that share one connection to each node.
const CLIENTS_A_CONNECTION: usize = 16;
/// How long one write may take: longer than either system's own deadline.
const WRITE_DEADLINE: Duration = Duration::from_secs(10);

/// When the clients stop.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Until {
    /// After this time.
    Elapsed(Duration),
    /// After so many writes in all.
    Writes(u64),
}

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Loaded {
    /// Acknowledged writes.
    pub(crate) writes: u64,
    /// Writes that failed or gave no answer in time.
    pub(crate) errors: u64,
    /// One of them.
    pub(crate) error: Option<String>,
    /// How long it took.
    pub(crate) took: Duration,
    /// Each write's time, sorted.
    pub(crate) times: Vec<Duration>,
}

impl Loaded {
    /// Writes each second.
    pub(crate) fn rate(&self) -> f64 {
        self.writes as f64 / self.took.as_secs_f64()
    }

    /// The time within which this share of the writes was answered.
    pub(crate) fn quantile(&self, share: f64) -> Duration {
        let last = self.times.len().saturating_sub(1);
        let place = (last as f64 * share).round();
        // Below the length by construction.
        self.times.get(place as usize).copied().unwrap_or_default()
    }
}

struct Shared {
    left: AtomicU64,
    deadline: Option<Instant>,
    all: Mutex<Loaded>,
}

/// Runs `clients` clients against `trio`.
pub(crate) async fn run(trio: &Trio, clients: usize, until: Until) -> Result<Loaded, String> {
    let connections = clients.div_ceil(CLIENTS_A_CONNECTION);
    let mut lines = Vec::new();
    for _ in 0..connections {
        let mut line = Vec::new();
        for place in 0..trio.len() {
            let mut client = trio.client(place, WRITE_DEADLINE)?;
            // Connects before the time is taken.
            client.get("ready").await.map_err(|e| e.to_string())?;
            line.push(client);
        }
        lines.push(line);
    }
    let started = Instant::now();
    let shared = Arc::new(Shared {
        left: AtomicU64::new(match until {
            Until::Writes(count) => count,
            Until::Elapsed(_) => u64::MAX,
        }),
        deadline: match until {
            Until::Elapsed(time) => Some(started + time),
            Until::Writes(_) => None,
        },
        all: Mutex::default(),
    });
    let mut tasks = TaskSet::new();
    for (number, line) in lines.iter().cycle().take(clients).enumerate() {
        let writing = write(line.clone(), number, Arc::clone(&shared));
        tasks.spawn("bench-client", writing);
    }
    tasks.join_all().await;
    let took = started.elapsed();
    let mut all = std::mem::take(&mut *shared.all.lock().unwrap_or_else(PoisonError::into_inner));
    all.took = took;
    all.times.sort_unstable();
    Ok(all)
}

async fn write(mut nodes: Vec<Client>, number: usize, shared: Arc<Shared>) {
    let mut rng = Rng::from_entropy();
    let mut own = Loaded::default();
    let mut turn = number;
    while shared.deadline.is_none_or(|d| Instant::now() < d) {
        let taken = shared
            .left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
        if taken.is_err() {
            break;
        }
        let key = format!("k{}", rng.below(KEYS));
        let value = value(&mut rng);
        let place = turn % nodes.len();
        turn += 1;
        let Some(node) = nodes.get_mut(place) else {
            break;
        };
        let sent = Instant::now();
        match node.put(&key, &value).await {
            Ok(()) => {
                own.writes += 1;
                own.times.push(sent.elapsed());
            }
            Err(status) => {
                own.errors += 1;
                own.error = Some(status.to_string());
            }
        }
    }
    let mut all = shared.all.lock().unwrap_or_else(PoisonError::into_inner);
    all.writes += own.writes;
    all.errors += own.errors;
    all.error = all.error.take().or(own.error);
    all.times.append(&mut own.times);
}

/// Text that does not compress well, different every time.
fn value(rng: &mut Rng) -> String {
    let mut bytes = [0; VALUE_BYTES];
    rng.bytes(&mut bytes);
    // Letters, so that JSON writes each as one byte and etcd gets the very same.
    bytes.iter().map(|b| char::from(b'a' + b % 26)).collect()
}
