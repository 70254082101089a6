//! A runtime of one thread for one part of a process. Tasks that hand work to each other all the time do so without waking
//! another core, and what else the process computes does not come between them: a part with deadlines keeps its own.
//!
//! It owns its thread, and everything that was started on it ends with it.

use std::future::Future;
use std::io;

use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinError;

use crate::task;

/// One thread and its tasks. Dropping it ends them where they wait next, without waiting for that.
#[derive(Debug)]
pub struct Lane(Option<Runtime>);

impl Lane {
    /// Starts the thread, called `name`.
    pub fn start(name: &'static str) -> io::Result<Self> {
        let mut builder = Builder::new_multi_thread();
        let runtime = builder.worker_threads(1).thread_name(name).enable_all();
        runtime.build().map(|runtime| Self(Some(runtime)))
    }

    /// Runs `future` there; all tasks that it starts stay there. An error when it panicked.
    pub async fn run<F>(&self, name: &'static str, future: F) -> Result<F::Output, JoinError>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let running = {
            let _here = self.0.as_ref().map(Runtime::enter);
            task::spawn(name, future)
        };
        running.await
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            // The plain way waits for what blocks, which no task may.
            runtime.shutdown_background();
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn what_starts_on_a_lane_stays_there_and_ends_with_it() {
        let lane = Lane::start("own-lane").unwrap();
        let name = || std::thread::current().name().map(str::to_owned);
        let (held, ended) = oneshot::channel::<()>();
        let names = lane.run("outer", async move {
            let inner = task::spawn("inner", async move { name() });
            drop(task::spawn("for ever", async move {
                let _held = held;
                std::future::pending::<()>().await;
            }));
            (name(), inner.await.unwrap())
        });
        let (outer, inner) = names.await.unwrap();
        assert_eq!(outer.as_deref(), Some("own-lane"));
        assert_eq!(inner, outer);
        drop(lane);
        ended.await.unwrap_err();
    }
}
