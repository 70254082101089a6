//! The caller: GETs at a constant rate over keep-alive connections, each on its own schedule whatever became of the others
//! (open loop), measured from when it was due, so that a caller that is held up counts as slow.
//!
//! Owns its connections and its record. It retries nothing: a call that fails is a failed call.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::{FutureExt as _, StreamExt as _, stream::FuturesUnordered};
use tokio::{sync::watch, time::Instant};
use tradewind_runtime::TaskSet;

use super::{
    plan::CLUSTERS,
    tally::{Sample, Served},
};
use crate::http::Connection;

/// Longest wait for one answer, from when it was due.
const CALL_DEADLINE: Duration = Duration::from_secs(5);
/// Connections that are kept open from the start; more are opened only while all are busy.
const WARM_CONNECTIONS: usize = 8;
/// Calls under way at once: the whole of `CALL_DEADLINE` at the highest rate. One more counts as failed.
const MAX_IN_FLIGHT: usize = 25_000;
/// Calls remembered: an hour at the default rate. Later ones are not recorded.
const MAX_SAMPLES: usize = 1_000_000;
/// Different errors remembered, with their counts.
const MAX_ERRORS: usize = 20;

/// A timer wakes up to two milliseconds late. A call that starts no later than that is measured from its start, so that the
/// timer's grain is not taken for latency; one that starts later was held up, and is measured from when it was due.
const TIMER_GRAIN: Duration = Duration::from_millis(2);

/// What became of every call.
#[derive(Debug)]
pub struct Record {
    epoch: Instant,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    samples: Vec<Sample>,
    errors: BTreeMap<String, u64>,
}

impl Record {
    /// An empty one that counts time from `epoch`.
    pub fn new(epoch: Instant) -> Self {
        Self {
            epoch,
            inner: Mutex::default(),
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Microseconds since the epoch.
    pub fn us(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.epoch).as_micros()).unwrap_or(u64::MAX)
    }

    /// Microseconds since the epoch, now.
    pub fn now_us(&self) -> u64 {
        self.us(Instant::now())
    }

    /// Every call so far.
    pub fn samples(&self) -> Vec<Sample> {
        self.inner().samples.clone()
    }

    /// Looks at the calls so far without copying them.
    pub fn look<T>(&self, look: impl FnOnce(&[Sample]) -> T) -> T {
        look(&self.inner().samples)
    }

    /// The different errors so far, with their counts.
    pub fn errors(&self) -> BTreeMap<String, u64> {
        self.inner().errors.clone()
    }

    fn add(&self, due: Instant, result: Result<usize, String>) {
        let (due_us, done_us) = (self.us(due), self.now_us());
        let mut inner = self.inner();
        let served = match result {
            Ok(cluster) => Served::By(cluster),
            Err(why) => {
                if inner.errors.len() < MAX_ERRORS || inner.errors.contains_key(&why) {
                    *inner.errors.entry(why).or_default() += 1;
                }
                Served::Failed
            }
        };
        if inner.samples.len() < MAX_SAMPLES {
            inner.samples.push(Sample {
                due_us,
                done_us,
                served,
            });
        }
    }
}

/// A running load. Dropping it ends it at once.
#[derive(Debug)]
pub struct Load {
    stop: watch::Sender<bool>,
    tasks: TaskSet,
}

impl Load {
    /// Starts calling `address` `rate` times a second.
    pub fn start(address: SocketAddr, rate: u32, record: Arc<Record>) -> Self {
        let (stop, stopped) = watch::channel(false);
        let mut tasks = TaskSet::new();
        tasks.spawn("demo load", generate(address, rate, record, stopped));
        Self { stop, tasks }
    }

    /// Ends it and waits for the calls under way, which takes at most one call's deadline.
    pub async fn finish(mut self) {
        self.stop.send_replace(true);
        self.tasks.join_all().await;
    }
}

async fn generate(
    address: SocketAddr,
    rate: u32,
    record: Arc<Record>,
    mut stopped: watch::Receiver<bool>,
) {
    let pool = Pool {
        address,
        idle: Mutex::default(),
    };
    pool.warm().await;
    let period = Duration::from_secs(1) / rate.max(1);
    let start = Instant::now();
    let mut calls = FuturesUnordered::new();
    let mut number: u32 = 0;
    let mut next = start;
    let mut stop = Box::pin(stopped.wait_for(|stop| *stop).map(drop));
    loop {
        tokio::select! {
            biased;
            () = &mut stop => break,
            () = tokio::time::sleep_until(next) => {
                if calls.len() < MAX_IN_FLIGHT {
                    let now = Instant::now();
                    let due = if now.saturating_duration_since(next) <= TIMER_GRAIN { now } else { next };
                    calls.push(call(&pool, due, &record));
                } else {
                    record.add(next, Err("too many calls under way".to_owned()));
                }
                number = number.saturating_add(1);
                next = start + period * number;
            }
            Some(()) = calls.next() => {}
        }
    }
    while calls.next().await.is_some() {}
}

async fn call(pool: &Pool, due: Instant, record: &Record) {
    let result = match tokio::time::timeout_at(due + CALL_DEADLINE, pool.get()).await {
        Ok(result) => result,
        Err(_) => Err(format!("no answer within {} s", CALL_DEADLINE.as_secs())),
    };
    record.add(due, result);
}

struct Pool {
    address: SocketAddr,
    idle: Mutex<Vec<Connection>>,
}

impl Pool {
    fn idle(&self) -> MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn warm(&self) {
        for _ in 0..WARM_CONNECTIONS {
            if let Ok(connection) = Connection::open(self.address).await {
                self.idle().push(connection);
            }
        }
    }

    /// One call, on an idle connection if there is one.
    async fn get(&self) -> Result<usize, String> {
        loop {
            let idle = self.idle().pop();
            let (mut connection, reused) = match idle {
                Some(connection) if !connection.is_open() => continue,
                Some(connection) => (connection, true),
                None => (
                    Connection::open(self.address).await.map_err(|e| e.why)?,
                    false,
                ),
            };
            match connection
                .get("payments.shop.svc.clusterset.local", "/")
                .await
            {
                Ok(answer) => {
                    self.idle().push(connection);
                    return server(answer.status, &answer.body);
                }
                // The proxy had closed it while it was idle; nothing was sent.
                Err(e) if e.unsent && reused => {}
                Err(e) => return Err(e.why),
            }
        }
    }
}

/// Which cluster an answer came from: its body reads `payments from west/1`.
fn server(status: u16, body: &str) -> Result<usize, String> {
    let from = body
        .split_once(" from ")
        .and_then(|(_, from)| from.split('/').next());
    let cluster = CLUSTERS.iter().position(|c| Some(c.name) == from);
    match (status, cluster) {
        (200, Some(cluster)) => Ok(cluster),
        (200, None) => Err("an answer that no workload of the demo gives".to_owned()),
        (status, _) => {
            let said: String = body
                .lines()
                .next()
                .unwrap_or_default()
                .chars()
                .take(100)
                .collect();
            Err(format!("status {status}: {said}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_name_their_cluster() {
        assert_eq!(server(200, "payments from west/1"), Ok(0));
        assert_eq!(server(200, "payments from east/2"), Ok(2));
        assert!(server(200, "hello").is_err());
        assert!(
            server(503, "payments from west/1")
                .unwrap_err()
                .contains("503")
        );
    }
}
