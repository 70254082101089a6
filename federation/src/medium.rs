//! What a node's log, vote and marks lie on, and who does the work that waits for it. In production these are files, a
//! thread that writes and the runtime's blocking threads; in simulations memory that forgets at a crash what was not
//! synced, and tasks of the node's own runtime, so that one seed decides the order of everything. It interprets nothing.

use std::{
    fmt::Debug,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    thread::JoinHandle,
    time::Duration,
};

use tokio::task::JoinError;
use tradewind_runtime::{
    files::{self, FileError},
    task,
};

use crate::{
    engine::{Engine, EngineError, Layered},
    marks::MarkFile,
    types::{LogId, Vote},
};

pub(crate) const VOTE: &str = "vote";
pub(crate) const LOG: &str = "log";
pub(crate) const HIGH_WATER: &str = "high-water";
pub(crate) const COMMITTED: &str = "committed";

const VOTE_MAGIC: [u8; 4] = *b"TWVT";
const VOTE_VERSION: u16 = 1;

/// Where one node's durable state lies. Everything here blocks.
pub(crate) trait Medium: Debug + Send + Sync + 'static {
    /// What errors name.
    fn dir(&self) -> &Path;
    fn open_log(&self) -> Result<Arc<dyn Engine>, EngineError>;
    /// True where no mark was ever written, or somebody removed it.
    fn lacks_mark(&self, name: &'static str) -> bool;
    /// Opens a mark, making an empty one if it is missing. Says what it holds.
    fn open_mark(&self, name: &'static str) -> Result<OpenedMark, FileError>;
    fn read_vote(&self) -> Result<Option<Vote>, FileError>;
    /// Durable when it returns.
    fn write_vote(&self, vote: &Vote) -> Result<(), FileError>;
    fn hands(&self) -> Hands;
}

/// A log id that is overwritten in place.
pub(crate) trait Mark: Debug + Send + 'static {
    /// `sync` waits until it is durable.
    fn write(&mut self, mark: Option<LogId>, sync: bool) -> io::Result<()>;
    /// What errors name.
    fn path(&self) -> &Path;
}

/// A mark and what it holds.
pub(crate) type OpenedMark = (Box<dyn Mark>, Option<LogId>);

/// Files in one directory.
#[derive(Debug)]
pub(crate) struct Files {
    dir: PathBuf,
}

impl Files {
    pub(crate) fn new(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
        }
    }
}

impl Medium for Files {
    fn dir(&self) -> &Path {
        &self.dir
    }

    fn open_log(&self) -> Result<Arc<dyn Engine>, EngineError> {
        let engine = Layered::open(&self.dir.join(LOG))?;
        Ok(Arc::new(engine))
    }

    fn lacks_mark(&self, name: &'static str) -> bool {
        MarkFile::is_missing(&self.dir.join(name))
    }

    fn open_mark(&self, name: &'static str) -> Result<OpenedMark, FileError> {
        let (file, holds) = MarkFile::open(&self.dir.join(name))?;
        Ok((Box::new(file), holds))
    }

    fn read_vote(&self) -> Result<Option<Vote>, FileError> {
        let path = self.dir.join(VOTE);
        let Some((_, payload)) = files::read_framed(&path, VOTE_MAGIC, VOTE_VERSION)? else {
            return Ok(None);
        };
        let vote = serde_json::from_slice(&payload)
            .map_err(|e| FileError::corrupt(&path, format!("it does not hold a vote: {e}")))?;
        Ok(Some(vote))
    }

    fn write_vote(&self, vote: &Vote) -> Result<(), FileError> {
        let path = self.dir.join(VOTE);
        let payload = serde_json::to_vec(vote)
            .map_err(|e| FileError::corrupt(&path, format!("it cannot be written down: {e}")))?;
        files::write_framed(&path, VOTE_MAGIC, VOTE_VERSION, &payload, 0o600)
    }

    fn hands(&self) -> Hands {
        Hands::Threads
    }
}

/// How long a simulated medium takes.
#[cfg(any(test, feature = "simulation"))]
#[async_trait::async_trait]
pub(crate) trait Pace: Debug + Send + Sync + 'static {
    /// Before something is read or a snapshot written.
    async fn pause(&self);
    /// Between a write and its becoming durable.
    async fn settle(&self);
    /// Whether a write is acknowledged before it is durable: the planted bug, which every simulation must be able to find.
    fn lies(&self) -> bool {
        false
    }
}

/// Who does what blocks.
#[derive(Clone, Debug, Default)]
pub(crate) enum Hands {
    /// Threads that may block.
    #[default]
    Threads,
    /// The node's own runtime, so that nothing happens outside of a simulation's time.
    #[cfg(any(test, feature = "simulation"))]
    Tasks(Arc<dyn Pace>),
}

impl Hands {
    /// Runs `work`, which may block. It fails only where `work` panics.
    pub(crate) async fn run<T, F>(&self, work: F) -> Result<T, JoinError>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        match self {
            Self::Threads => task::spawn_blocking(work).await,
            #[cfg(any(test, feature = "simulation"))]
            Self::Tasks(pace) => {
                pace.pause().await;
                Ok(work())
            }
        }
    }
}

/// Between two looks whether the writing thread has ended.
const LOOK: Duration = Duration::from_millis(20);

/// Whoever writes the log.
#[derive(Debug)]
pub(crate) enum Writer {
    Thread(JoinHandle<()>),
    #[cfg(any(test, feature = "simulation"))]
    Task(tokio::task::JoinHandle<()>),
}

impl Writer {
    /// Waits for its end; false when it panicked.
    pub(crate) async fn ended(self) -> bool {
        match self {
            Self::Thread(thread) => {
                // Joined only once it has ended: nothing ends the wait for a thread, not even the runtime's end.
                while !thread.is_finished() {
                    tokio::time::sleep(LOOK).await;
                }
                thread.join().is_ok()
            }
            #[cfg(any(test, feature = "simulation"))]
            Self::Task(task) => task.await.is_ok(),
        }
    }
}
