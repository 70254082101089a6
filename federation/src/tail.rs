//! The end of the log, decoded, in memory: what replication and apply read. Entries stand here as soon as they may be read,
//! which on a leader is before the disk has them. Pure; bounded by count and bytes.

use std::{collections::VecDeque, ops::Range};

use crate::types::{Entry, LogId};

/// Entries kept decoded in memory, for replication and apply; a follower further behind reads the disk.
const TAIL: usize = 1_024;
/// What they may take, bytes of their encoded form.
const TAIL_BYTES: usize = 16 * 1024 * 1024;
/// The newest entries, contiguous, each with its size in bytes.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    entries: VecDeque<(Entry, usize)>,
    bytes: usize,
}

impl Tail {
    /// Adds entries, or says what those take that were added before they were written.
    pub(crate) fn extend(&mut self, entries: impl Iterator<Item = (Entry, usize)>) {
        for (entry, bytes) in entries {
            if let Some(known) = self.place_of(entry.log_id) {
                let before = std::mem::replace(known, bytes);
                self.bytes = self.bytes.saturating_sub(before).saturating_add(bytes);
                self.shrink();
                continue;
            }
            let first = self.entries.front();
            if first.is_some_and(|(first, _)| entry.log_id < first.log_id) {
                // Written late: newer ones took its place meanwhile.
                continue;
            }
            let last = self.entries.back();
            if last.is_some_and(|(last, _)| last.log_id.index + 1 != entry.log_id.index) {
                *self = Self::default();
            }
            self.entries.push_back((entry, bytes));
            self.bytes += bytes;
            self.shrink();
        }
    }

    /// What the entry counts for, if it is here.
    fn place_of(&mut self, id: LogId) -> Option<&mut usize> {
        let first = self.entries.front()?.0.log_id.index;
        let nth = usize::try_from(id.index.checked_sub(first)?).ok()?;
        let found = self.entries.get_mut(nth).filter(|(e, _)| e.log_id == id);
        found.map(|(_, bytes)| bytes)
    }

    fn shrink(&mut self) {
        while self.entries.len() > TAIL || self.bytes > TAIL_BYTES {
            let dropped = self.entries.pop_front();
            self.bytes -= dropped.map_or(0, |(_, bytes)| bytes);
        }
    }

    pub(crate) fn truncate_from(&mut self, from: u64) {
        while self
            .entries
            .back()
            .is_some_and(|(e, _)| e.log_id.index >= from)
        {
            let dropped = self.entries.pop_back();
            self.bytes -= dropped.map_or(0, |(_, bytes)| bytes);
        }
    }

    pub(crate) fn purge_to(&mut self, upto: u64) {
        while self
            .entries
            .front()
            .is_some_and(|(e, _)| e.log_id.index <= upto)
        {
            let dropped = self.entries.pop_front();
            self.bytes -= dropped.map_or(0, |(_, bytes)| bytes);
        }
    }

    /// The entries of `range` as far as `max_bytes` hold, at least one, when its start is here.
    pub(crate) fn read(&self, range: &Range<u64>, max_bytes: usize) -> Option<Vec<Entry>> {
        let first = self.entries.front()?.0.log_id.index;
        let skip = usize::try_from(range.start.checked_sub(first)?).ok()?;
        let count = usize::try_from(range.end.saturating_sub(range.start)).unwrap_or(usize::MAX);
        let mut read = Vec::new();
        let mut total = 0_usize;
        for (entry, bytes) in self.entries.iter().skip(skip).take(count) {
            total = total.saturating_add(*bytes);
            if total > max_bytes && !read.is_empty() {
                break;
            }
            read.push(entry.clone());
        }
        (!read.is_empty()).then_some(read)
    }
}
