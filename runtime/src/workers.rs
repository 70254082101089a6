//! Data-plane threads: each runs one single-threaded runtime, so a connection, its pools and its counters stay on one
//! core and need no locks. What a worker runs is built inside its thread and need not be `Send`.
//!
//! Workers own nothing that others read; they end when the future they were given ends.

use std::future::Future;
use std::io;
use std::num::NonZero;
use std::sync::Arc;
use std::thread::JoinHandle;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use thiserror::Error;
use tokio::runtime::Builder;
use tokio::sync::oneshot;
use tokio::task::LocalSet;

/// A worker thread panicked; the process should end, for its share of the traffic is gone.
#[derive(Debug, Error)]
#[error("worker thread {name} panicked")]
pub struct WorkerPanicked {
    /// The thread's name.
    pub name: String,
}

/// Running worker threads.
#[derive(Debug)]
#[must_use = "join the workers, or nobody notices when one dies"]
pub struct Workers {
    threads: Vec<Worker>,
}

#[derive(Debug)]
struct Worker {
    name: String,
    thread: JoinHandle<()>,
    /// Closed without a value when the thread panics.
    ended: oneshot::Receiver<()>,
}

/// As many workers as the machine gives this process cores.
#[must_use]
pub fn default_count() -> usize {
    std::thread::available_parallelism().map_or(1, NonZero::get)
}

/// Threads for the rest of a process of which one part has a [`crate::Lane`]: that one needs a core, too, and two threads
/// that take turns on one core wake each other for nothing.
#[must_use]
pub fn beside_a_lane() -> usize {
    default_count().saturating_sub(1).max(1)
}

impl Workers {
    /// Starts `count` threads (at least one) called `<name>-<index>` and runs on each what `run` builds for its index.
    pub fn spawn<R, F>(name: &str, count: usize, run: R) -> io::Result<Self>
    where
        R: Fn(usize) -> F + Send + Sync + 'static,
        F: Future + 'static,
    {
        let run = Arc::new(run);
        let mut threads = Vec::with_capacity(count.max(1));
        for index in 0..count.max(1) {
            let name = format!("{name}-{index}");
            let runtime = Builder::new_current_thread().enable_all().build()?;
            let run = Arc::clone(&run);
            let (ending, ended) = oneshot::channel();
            let thread = std::thread::Builder::new()
                .name(name.clone())
                .spawn(move || {
                    let local = LocalSet::new();
                    local.block_on(&runtime, async { drop(run(index).await) });
                    // Local tasks go first, they may use the runtime while they are dropped.
                    drop(local);
                    drop(runtime);
                    if ending.send(()).is_err() {
                        tracing::trace!(index, "nobody waits for this worker");
                    }
                })?;
            threads.push(Worker {
                name,
                thread,
                ended,
            });
        }
        Ok(Self { threads })
    }

    /// How many threads were started.
    #[must_use]
    pub fn count(&self) -> usize {
        self.threads.len()
    }

    /// Waits until every worker has ended; returns early when one panicked.
    pub async fn join(self) -> Result<(), WorkerPanicked> {
        let mut ending: FuturesUnordered<_> = self
            .threads
            .into_iter()
            .map(|worker| async move { (worker.ended.await, worker.name, worker.thread) })
            .collect();
        while let Some((ended, name, thread)) = ending.next().await {
            // The thread said that it is through, or it is unwinding: this wait is short.
            let joined = thread.join();
            if ended.is_err() || joined.is_err() {
                return Err(WorkerPanicked { name });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;
    use std::sync::Mutex;
    use std::time::Duration;

    use super::*;
    use crate::{drain, task};

    #[tokio::test]
    async fn each_worker_runs_on_its_own_named_thread_until_the_drain() {
        let (trigger, watch) = drain::channel();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let record = Arc::clone(&seen);
        // The closure gives its watch up to the workers: what it kept itself would hold the drain up.
        let watches = Mutex::new(vec![watch.clone(), watch.clone(), watch]);
        let workers = Workers::spawn("test-worker", 3, move |_index| {
            let mut watch = watches.lock().unwrap().pop().unwrap();
            let record = Arc::clone(&record);
            async move {
                let local = Rc::new(Cell::new(0));
                let copy = Rc::clone(&local);
                task::spawn_local("not send", async move { copy.set(7) })
                    .await
                    .unwrap();
                assert_eq!(local.get(), 7);
                record
                    .lock()
                    .unwrap()
                    .push(std::thread::current().name().unwrap().to_owned());
                watch.triggered().await;
            }
        })
        .unwrap();
        assert_eq!(workers.count(), 3);
        assert!(trigger.drain(Duration::from_secs(30)).await);
        workers.join().await.unwrap();
        let mut names = seen.lock().unwrap().clone();
        names.sort();
        assert_eq!(names, ["test-worker-0", "test-worker-1", "test-worker-2"]);
    }

    #[tokio::test]
    async fn a_panicking_worker_is_noticed_while_the_others_run() {
        let workers = Workers::spawn("panics", 2, |index| async move {
            assert_ne!(index, 1, "expected by this test");
            std::future::pending::<()>().await;
        })
        .unwrap();
        let error = workers.join().await.unwrap_err();
        assert_eq!(error.to_string(), "worker thread panics-1 panicked");
    }
}
