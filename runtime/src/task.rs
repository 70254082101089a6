//! The only place that starts tasks: each one has a name, appears in the count of live tasks, and is owned, either by
//! the handle that is returned or by a [`TaskSet`] that aborts what it owns when it is dropped.
//!
//! A task that panics is logged with its name; it never takes the process or its siblings down by itself.

use std::collections::HashMap;
use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::FutureExt as _;
use tokio::task::{Id, JoinError, JoinHandle, JoinSet};
use tracing::Instrument as _;

/// Tasks started here and not yet ended, in the whole process.
static ALIVE: AtomicUsize = AtomicUsize::new(0);

/// How many tasks live in this process.
#[must_use]
pub fn alive() -> usize {
    ALIVE.load(Ordering::Relaxed)
}

struct AliveGuard;

impl AliveGuard {
    fn new() -> Self {
        ALIVE.fetch_add(1, Ordering::Relaxed);
        Self
    }
}

impl Drop for AliveGuard {
    fn drop(&mut self) {
        ALIVE.fetch_sub(1, Ordering::Relaxed);
    }
}

fn named<F: Future>(name: &'static str, future: F) -> impl Future<Output = F::Output> {
    let guard = AliveGuard::new();
    // Not an async block: that would keep room for the future twice, in every task.
    let guarded = future.map(move |output| {
        drop(guard);
        output
    });
    guarded.instrument(tracing::debug_span!("task", name))
}

/// Starts a task on the current runtime. The caller owns it through the handle; dropping the handle detaches it, so
/// keep it or use a [`TaskSet`].
#[expect(
    clippy::disallowed_methods,
    reason = "this is the helper the ban points to"
)]
pub fn spawn<F>(name: &'static str, future: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    tokio::spawn(named(name, future))
}

/// Starts a task on the current thread's `LocalSet` (see [`crate::workers`]); it need not be `Send`.
#[expect(
    clippy::disallowed_methods,
    reason = "this is the helper the ban points to"
)]
pub fn spawn_local<F>(name: &'static str, future: F) -> JoinHandle<F::Output>
where
    F: Future + 'static,
    F::Output: 'static,
{
    tokio::task::spawn_local(named(name, future))
}

/// Runs blocking work (disk, name resolution) on the runtime's blocking threads.
pub fn spawn_blocking<T, F>(work: F) -> JoinHandle<T>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    tokio::task::spawn_blocking(work)
}

/// Tasks with one owner. Dropping the set aborts them all; ended ones are reaped as new ones come.
#[derive(Debug, Default)]
pub struct TaskSet {
    tasks: JoinSet<()>,
    names: HashMap<Id, &'static str>,
}

impl TaskSet {
    /// An empty set.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Starts a task on the current runtime, owned by this set.
    pub fn spawn<F>(&mut self, name: &'static str, future: F)
    where
        F: Future + Send + 'static,
    {
        self.reap();
        let task = named(name, future);
        let handle = self.tasks.spawn(async move { drop(task.await) });
        self.names.insert(handle.id(), name);
    }

    /// Starts a task on the current thread's `LocalSet`, owned by this set.
    pub fn spawn_local<F>(&mut self, name: &'static str, future: F)
    where
        F: Future + 'static,
    {
        self.reap();
        let task = named(name, future);
        let handle = self.tasks.spawn_local(async move { drop(task.await) });
        self.names.insert(handle.id(), name);
    }

    /// How many tasks have not ended yet.
    pub fn len(&mut self) -> usize {
        self.reap();
        self.tasks.len()
    }

    /// Whether every task has ended.
    pub fn is_empty(&mut self) -> bool {
        self.len() == 0
    }

    /// Waits for the next task to end and says which; `None` when there is none left.
    pub async fn join_next(&mut self) -> Option<&'static str> {
        let ended = self.tasks.join_next_with_id().await?;
        Some(self.ended(ended))
    }

    /// Waits until every task has ended.
    pub async fn join_all(&mut self) {
        while self.join_next().await.is_some() {}
    }

    /// Waits for every task up to `deadline`, then aborts what is left. True when none had to be aborted.
    pub async fn shutdown(&mut self, deadline: Duration) -> bool {
        if tokio::time::timeout(deadline, self.join_all())
            .await
            .is_ok()
        {
            return true;
        }
        self.abort_all().await;
        false
    }

    /// Aborts every task and waits until they are gone.
    pub async fn abort_all(&mut self) {
        self.tasks.abort_all();
        self.join_all().await;
    }

    fn reap(&mut self) {
        while let Some(ended) = self.tasks.try_join_next_with_id() {
            self.ended(ended);
        }
    }

    fn ended(&mut self, ended: Result<(Id, ()), JoinError>) -> &'static str {
        let (id, failure) = match ended {
            Ok((id, ())) => (id, None),
            Err(error) => (error.id(), Some(error)),
        };
        let name = self.names.remove(&id).unwrap_or("unnamed");
        if let Some(error) = failure.filter(JoinError::is_panic) {
            tracing::error!(task = name, %error, "a task panicked");
        }
        name
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;
    use std::sync::Arc;

    use tokio::sync::Notify;
    use tokio::task::LocalSet;

    use super::*;

    #[tokio::test]
    async fn dropping_the_set_ends_its_tasks() {
        let held = Arc::new(());
        let mut set = TaskSet::new();
        for _ in 0..3 {
            let held = Arc::clone(&held);
            set.spawn("holder", async move {
                std::future::pending::<()>().await;
                drop(held);
            });
        }
        assert_eq!(set.len(), 3);
        assert_eq!(Arc::strong_count(&held), 4);
        drop(set);
        while Arc::strong_count(&held) > 1 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_panic_ends_one_task_and_is_named() {
        let gate = Arc::new(Notify::new());
        let mut set = TaskSet::new();
        let waits = Arc::clone(&gate);
        set.spawn("steady", async move { waits.notified().await });
        set.spawn("doomed", async { panic!("expected by this test") });
        assert_eq!(set.join_next().await, Some("doomed"));
        assert_eq!(set.len(), 1);
        gate.notify_one();
        set.join_all().await;
        assert!(set.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn shutdown_aborts_what_does_not_end() {
        let mut set = TaskSet::new();
        set.spawn("quick", async {});
        assert!(set.shutdown(Duration::from_secs(1)).await);
        set.spawn("stuck", std::future::pending::<()>());
        assert!(!set.shutdown(Duration::from_secs(1)).await);
        assert!(set.is_empty());
    }

    #[tokio::test]
    async fn local_tasks_may_hold_what_is_not_send() {
        LocalSet::new()
            .run_until(async {
                let local = Rc::new(5);
                let copy = Rc::clone(&local);
                assert_eq!(
                    spawn_local("adds", async move { *copy + 1 }).await.unwrap(),
                    6
                );
                let mut set = TaskSet::new();
                set.spawn_local("holds", async move { drop(local) });
                assert_eq!(set.join_next().await, Some("holds"));
            })
            .await;
    }
}
