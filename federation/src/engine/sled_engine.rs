//! The log in sled, made sound: sled's flush does not fsync on Linux, so every append is followed by fdatasync on our own
//! handle of sled's file, and values stay small enough never to leave that file.
//!
//! One tree: `m` holds the purge mark, `e<index><part>` the entries, cut into parts.

use std::{
    fs::{self, File},
    io,
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::mpsc,
    thread,
    time::Duration,
};

use sled::{Batch, Db};

use super::{EngineError, frame};
use crate::types::{Entry, LogId};

/// One value, bytes. sled moves any page larger than a quarter of a segment (128 KiB) to a file of its own that it never
/// fsyncs, and a page holds up to 16 values and those that came before it was split.
const PART: usize = 4 * 1024;
/// Entries removed at a time, so that a long purge never blocks appends for long.
const PURGE_BATCH: u64 = 500;
/// sled's own default is 1 GiB; a log whose tail is cached above needs little.
const CACHE_BYTES: u64 = 64 * 1024 * 1024;
/// How often sled writes what nobody waits for (purges).
const FLUSH_EVERY_MS: u64 = 200;
/// How long closing may take; a healthy disk needs less than `FLUSH_EVERY_MS`.
const CLOSE_DEADLINE: Duration = Duration::from_secs(5);

const MARK: &[u8] = b"m";
const ENTRY: u8 = b'e';

#[derive(Debug)]
pub(super) struct SledEngine {
    /// Taken only when this is dropped.
    db: Option<Db>,
    /// Our own handle of `<path>/db`, for fdatasync.
    file: File,
}

impl SledEngine {
    /// Opens or makes the log in `path`. The caller retries while the last owner's lock lingers.
    pub(super) fn open(path: &Path) -> Result<Self, EngineError> {
        let config = sled::Config::new()
            .path(path)
            .cache_capacity(CACHE_BYTES)
            .flush_every_ms(Some(FLUSH_EVERY_MS))
            .use_compression(false);
        remove_unfinished(path)?;
        // sled panics on some kinds of damage; a damaged disk is an error to report, not a crash.
        let opened = catch_unwind(AssertUnwindSafe(|| config.open()));
        let db = opened
            .map_err(|_panic| EngineError::Stopped("sled could not read its files".to_owned()))??;
        let file = File::open(path.join("db"))?;
        File::open(path)?.sync_all()?;
        Ok(Self { db: Some(db), file })
    }

    fn db(&self) -> Result<&Db, EngineError> {
        let closed = || EngineError::Stopped("it is closed".to_owned());
        self.db.as_ref().ok_or_else(closed)
    }

    pub(super) fn sync(&self) -> Result<(), EngineError> {
        self.db()?.flush()?;
        self.file.sync_data()?;
        Ok(())
    }

    /// The index of the last entry present.
    fn last_index(&self) -> Result<Option<u64>, EngineError> {
        let last = self.db()?.scan_prefix([ENTRY]).keys().next_back();
        Ok(last.transpose()?.and_then(|key| index_of(&key)))
    }

    fn read_one(&self, index: u64) -> Result<Option<Vec<u8>>, EngineError> {
        let mut whole = Vec::new();
        for part in self.db()?.scan_prefix(prefix(index)).values() {
            let part = part?;
            if whole.len() + part.len() > frame::MAX_ENTRY {
                return Err(EngineError::Corrupt {
                    index,
                    what: "it is larger than any entry".to_owned(),
                });
            }
            whole.extend_from_slice(&part);
        }
        Ok((!whole.is_empty()).then_some(whole))
    }

    fn remove(&self, range: Range<u64>) -> Result<(), EngineError> {
        let mut batch = Batch::default();
        for key in self
            .db()?
            .range(prefix(range.start)..prefix(range.end))
            .keys()
        {
            batch.remove(key?);
        }
        Ok(self.db()?.apply_batch(batch)?)
    }
}

/// sled panics when its last sync fails, and waits without end for a thread of its own that hangs or died. Neither may
/// reach whoever lets go of the store.
impl Drop for SledEngine {
    fn drop(&mut self) {
        let Some(db) = self.db.take() else {
            return;
        };
        let (done, closed) = mpsc::sync_channel(1);
        let closing = thread::Builder::new()
            .name("store-log-close".to_owned())
            .spawn(move || {
                let clean = catch_unwind(AssertUnwindSafe(|| drop(db))).is_ok();
                if done.send(clean).is_err() {
                    tracing::info!("the store's log has closed after all");
                }
            });
        if closing.is_err() || closed.recv_timeout(CLOSE_DEADLINE) != Ok(true) {
            tracing::warn!("the store's log did not close cleanly");
        }
    }
}

/// sled writes a snapshot of its page table when it opens, aside and then renamed. What a crash or a full disk left of
/// one it takes for the newest at the next start, and refuses the whole log for it. Nothing needs an unfinished one.
fn remove_unfinished(path: &Path) -> io::Result<()> {
    let files = match fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        files => files?,
    };
    for file in files {
        let file = file?;
        let name = file.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            fs::remove_file(file.path())?;
        }
    }
    Ok(())
}

fn prefix(index: u64) -> [u8; 9] {
    let mut key = [ENTRY; 9];
    if let Some(tail) = key.last_chunk_mut::<8>() {
        *tail = index.to_be_bytes();
    }
    key
}

fn index_of(key: &[u8]) -> Option<u64> {
    let (kind, rest) = key.split_first()?;
    let (index, _) = rest.split_first_chunk::<8>()?;
    (*kind == ENTRY).then(|| u64::from_be_bytes(*index))
}

impl SledEngine {
    /// Puts framed entries down; durable after the next `sync`.
    pub(super) fn put(&self, framed: &[(u64, Vec<u8>)]) -> Result<(), EngineError> {
        let mut batch = Batch::default();
        for (index, framed) in framed {
            for (number, part) in (0_u16..).zip(framed.chunks(PART)) {
                let mut key = prefix(*index).to_vec();
                key.extend_from_slice(&number.to_be_bytes());
                batch.insert(key, part);
            }
        }
        Ok(self.db()?.apply_batch(batch)?)
    }

    /// Entries of `range`, as [`super::Engine`] says, and how many bytes they have.
    pub(super) fn read_range(
        &self,
        range: Range<u64>,
        max_bytes: usize,
    ) -> Result<(Vec<Entry>, usize), EngineError> {
        let floor = self.purged()?.map_or(0, |p| p.index + 1);
        let from = prefix(range.start.max(floor));
        let first = self.db()?.range(from..prefix(range.end)).keys().next();
        let Some(first) = first.transpose()?.and_then(|key| index_of(&key)) else {
            return Ok((Vec::new(), 0));
        };
        let mut entries = Vec::new();
        let mut bytes = 0;
        for index in first..range.end {
            let Some(framed) = self.read_one(index)? else {
                break;
            };
            if bytes + framed.len() > max_bytes && !entries.is_empty() {
                break;
            }
            bytes += framed.len();
            entries.push(frame::decode(index, &framed)?);
        }
        Ok((entries, bytes))
    }

    pub(super) fn truncate_from(&self, index: u64) -> Result<(), EngineError> {
        // One atomic batch: a crash leaves all of them or none, never a hole.
        self.remove(index..u64::MAX)?;
        self.sync()
    }

    pub(super) fn purge_to(&self, upto: LogId) -> Result<(), EngineError> {
        let mark = serde_json::to_vec(&upto).map_err(|e| EngineError::Corrupt {
            index: upto.index,
            what: e.to_string(),
        })?;
        let mut framed = crc32c::crc32c(&mark).to_be_bytes().to_vec();
        framed.extend_from_slice(&mark);
        self.db()?.insert(MARK, framed)?;
        let first = self
            .db()?
            .scan_prefix([ENTRY])
            .keys()
            .next()
            .transpose()?
            .and_then(|key| index_of(&key));
        let Some(mut at) = first else {
            return Ok(());
        };
        let end = upto.index.saturating_add(1);
        while at < end {
            let next = at.saturating_add(PURGE_BATCH).min(end);
            self.remove(at..next)?;
            at = next;
        }
        Ok(())
    }

    pub(super) fn purged(&self) -> Result<Option<LogId>, EngineError> {
        let Some(framed) = self.db()?.get(MARK)? else {
            return Ok(None);
        };
        let corrupt = |what: &str| EngineError::Corrupt {
            index: 0,
            what: format!("the purge mark {what}"),
        };
        let (crc, mark) = framed
            .split_first_chunk::<4>()
            .ok_or_else(|| corrupt("is cut short"))?;
        if crc32c::crc32c(mark) != u32::from_be_bytes(*crc) {
            return Err(corrupt("has a wrong checksum"));
        }
        serde_json::from_slice(mark)
            .map(Some)
            .map_err(|_| corrupt("does not hold a log id"))
    }

    pub(super) fn last(&self) -> Result<Option<LogId>, EngineError> {
        let purged = self.purged()?;
        let Some(index) = self.last_index()? else {
            return Ok(purged);
        };
        if purged.is_some_and(|p| p.index >= index) {
            return Ok(purged);
        }
        match self.read_one(index)? {
            Some(framed) => Ok(Some(frame::decode(index, &framed)?.log_id)),
            None => Ok(purged),
        }
    }

    pub(super) fn size_on_disk(&self) -> u64 {
        self.db()
            .ok()
            .and_then(|db| db.size_on_disk().ok())
            .unwrap_or(0)
    }
}
