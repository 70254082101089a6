//! Where hyper's own tasks run: on the thread that owns the connection.

use hyper::rt::Executor;
use tradewind_runtime::task;

/// Spawns on the current thread's `LocalSet`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LocalExec;

impl<F> Executor<F> for LocalExec
where
    F: Future + 'static,
    F::Output: 'static,
{
    fn execute(&self, future: F) {
        // Detached: a stream's task ends with its connection.
        drop(task::spawn_local("h2", future));
    }
}
