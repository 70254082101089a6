//! The log on disk, behind a trait small enough to swap the engine below it.
//!
//! An engine keeps framed entries by index and one mark: up to where the log was purged. `append_sync` returns only when
//! the entries would survive a power cut. Engines are called from one thread for writing (`disk`), from any for reading;
//! they know nothing of votes, snapshots or commands.

pub(crate) mod frame;
mod journal;
mod layered;
mod sled_engine;

use std::{fmt::Debug, io, ops::Range};

pub(crate) use layered::Layered;
use tradewind_runtime::files::advice;

use crate::types::{Entry, LogId};

/// Why the log could not be read or written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EngineError {
    /// The engine failed.
    #[error("the log engine failed: {}{}", .0, sled_advice(.0))]
    Sled(#[from] sled::Error),
    /// The disk failed.
    #[error("the log's file: {}{}", .0, advice(.0))]
    Io(#[from] io::Error),
    /// An entry is not what was written.
    #[error("log entry {index} is corrupt: {what}")]
    Corrupt {
        /// Which.
        index: u64,
        /// What does not fit.
        what: String,
    },
    /// An entry was written by a newer version.
    #[error("log entry {index} has format version {got}, this build reads up to {known}")]
    Version {
        /// Which.
        index: u64,
        /// What it has.
        got: u8,
        /// What this build knows.
        known: u8,
    },
    /// Too large for an entry.
    #[error("log entry {index} has {bytes} bytes, at most {limit} are allowed")]
    TooLarge {
        /// Which.
        index: u64,
        /// Its size.
        bytes: usize,
        /// The bound.
        limit: usize,
    },
    /// An earlier write failed; nothing after it may be written.
    #[error("the log stopped after an earlier failure: {0}")]
    Stopped(String),
}

impl EngineError {
    /// True while somebody else holds the log's lock, or held it a moment ago.
    pub(crate) fn is_locked(&self) -> bool {
        matches!(self, Self::Sled(sled::Error::Io(e))
            if e.kind() == io::ErrorKind::WouldBlock || e.to_string().contains("acquire lock"))
    }

    /// The disk's own refusal, if that is what failed.
    pub(crate) fn io(&self) -> Option<&io::Error> {
        match self {
            Self::Sled(sled::Error::Io(error)) | Self::Io(error) => Some(error),
            Self::Sled(_)
            | Self::Corrupt { .. }
            | Self::Version { .. }
            | Self::TooLarge { .. }
            | Self::Stopped(_) => None,
        }
    }
}

fn sled_advice(error: &sled::Error) -> &'static str {
    match error {
        sled::Error::Io(error) => advice(error),
        _ => "",
    }
}

/// A log engine. Indices are contiguous from the purge mark on; holes are a defect of the caller.
pub(crate) trait Engine: Debug + Send + Sync + 'static {
    /// Entries of `range` in order, as many as `max_bytes` hold, at least one if there is any, without holes.
    fn read_range(&self, range: Range<u64>, max_bytes: usize) -> Result<Vec<Entry>, EngineError>;
    /// Writes entries and makes them durable. Gives each one's size on disk, bytes.
    fn append_sync(&self, entries: &[Entry]) -> Result<Vec<usize>, EngineError>;
    /// Removes every entry from `index` on, durably.
    fn truncate_from(&self, index: u64) -> Result<(), EngineError>;
    /// Removes every entry up to `upto` and remembers it. Need not be durable at once: what is purged lies in a snapshot.
    fn purge_to(&self, upto: LogId) -> Result<(), EngineError>;
    /// Up to where the log was purged.
    fn purged(&self) -> Result<Option<LogId>, EngineError>;
    /// The last entry's id, else the purge mark.
    fn last(&self) -> Result<Option<LogId>, EngineError>;
    /// Bytes on disk.
    fn size_on_disk(&self) -> u64;
}
