//! The newest part of the log in files of one size that were filled with zeros beforehand: one write and one fdatasync an
//! append, which change no file's length and no directory. That is the least that a durable append can cost.
//!
//! It owns the segments and knows where each entry in them lies. Truncation and purge are records, too: what counts is
//! the order of the records. It never writes a record before the one before it is durable, never holds up readers
//! while it waits for the disk, and never reuses a segment of which an entry is still in use or a reader still reads.

mod places;
mod record;
mod segment;

use std::{
    io,
    ops::Range,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use openraft::CommittedLeaderId;
use places::{Place, Places};
use record::{HEADER, Kind, PREFIX};
use segment::{Segment, Segments, Spares};

use super::{EngineError, frame};
use crate::types::{Entry, LogId};

/// One segment, bytes. Small enough to fill with zeros in some milliseconds, large enough to change it seldom. In tests
/// little more than the largest entry, so that segments change often.
const SEGMENT_BYTES: usize = if cfg!(test) { 5 } else { 16 } * 256 * 1024;
/// Memory kept for making records, bytes; a larger one is given back after use.
const SCRATCH_BYTES: usize = 256 * 1024;

// The largest entry fits a segment.
const _: () = assert!(HEADER + PREFIX + frame::MAX_ENTRY < SEGMENT_BYTES);

#[derive(Debug)]
pub(super) struct Journal {
    /// Held by the one thread that writes, also while it waits for the disk.
    writer: Mutex<Writer>,
    /// What readers look at; held for moments only.
    view: Mutex<View>,
    spares: Spares,
}

#[derive(Debug)]
struct Writer {
    /// Where the next record goes in the newest segment.
    at: usize,
    scratch: Vec<u8>,
}

#[derive(Debug)]
struct View {
    segments: Segments,
    places: Places,
    /// The last entry here, or what was last before nothing was left here.
    last: Option<LogId>,
    purged: Option<LogId>,
}

/// The oldest segment and what of it is still in use, for whoever moves it elsewhere.
#[derive(Debug)]
pub(super) struct Oldest {
    segment: Arc<Segment>,
    first: u64,
    places: Vec<Place>,
}

impl Oldest {
    /// Every entry in use with its frame's bytes, read one by one.
    pub(super) fn frames(&self) -> impl Iterator<Item = io::Result<(u64, Vec<u8>)>> {
        let read = |(index, place): (u64, &Place)| Ok((index, self.segment.read(*place)?));
        (self.first..).zip(&self.places).map(read)
    }
}

/// One entry's place, to be read without holding the journal.
#[derive(Debug)]
pub(super) struct Found {
    index: u64,
    segment: Arc<Segment>,
    place: Place,
}

impl Found {
    pub(super) fn read(&self) -> Result<Entry, EngineError> {
        frame::decode(self.index, &self.segment.read(self.place)?)
    }
}

impl Journal {
    /// Opens the journal in `dir`. `last` and `purged` are what the log below it holds; `truncate` is told what must be
    /// gone there as well.
    pub(super) fn open(
        dir: &Path,
        (last, purged): (Option<LogId>, Option<LogId>),
        truncate: impl FnMut(u64) -> Result<(), EngineError>,
    ) -> Result<Self, EngineError> {
        let (segments, spares) = segment::open(dir)?;
        let mut view = View {
            segments,
            places: Places::after(last.map(|l| l.index)),
            last,
            purged,
        };
        let at = view.replay(truncate)?;
        let writer = Writer {
            at,
            scratch: Vec::new(),
        };
        Ok(Self {
            writer: Mutex::new(writer),
            view: Mutex::new(view),
            spares,
        })
    }

    fn view(&self) -> MutexGuard<'_, View> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes entries, durably. Gives the size of each.
    pub(super) fn append(&self, entries: &[Entry]) -> Result<Vec<usize>, EngineError> {
        let mut writer = self.writer();
        let mut sizes = Vec::with_capacity(entries.len());
        let mut rest = entries;
        while !rest.is_empty() {
            let some = self.append_some(&mut writer, rest)?;
            if some.is_empty() {
                self.rotate(&mut writer)?;
            }
            rest = rest.get(some.len()..).unwrap_or_default();
            sizes.extend(some);
        }
        Ok(sizes)
    }

    /// As many as the newest segment has room for, in one record; none of them when not even one fits.
    fn append_some(
        &self,
        writer: &mut Writer,
        entries: &[Entry],
    ) -> Result<Vec<usize>, EngineError> {
        let Some(segment) = self.view().segments.newest() else {
            return Ok(Vec::new());
        };
        let mut record = writer.record();
        let mut places = Vec::with_capacity(entries.len());
        for entry in entries {
            let before = record.len();
            record.extend_from_slice(&[0; PREFIX]);
            frame::encode_into(entry, &mut record)?;
            let length = record.len() - before - PREFIX;
            if writer.at + record::size(record.len() - HEADER) > SEGMENT_BYTES {
                record.truncate(before);
                break;
            }
            record::set_length(&mut record, before, length);
            places.push(Place::new(
                segment.number,
                writer.at + before + PREFIX,
                length,
            ));
        }
        if places.is_empty() {
            writer.scratch = record;
            return Ok(Vec::new());
        }
        writer.write(&segment, record, Kind::Entries)?;
        let sizes = places.iter().map(Place::length).collect();
        let written = entries.get(..places.len()).unwrap_or_default();
        let mut view = self.view();
        if let [first, .., last] | [first @ last] = written {
            view.places.extend(first.log_id.index, places);
            view.last = Some(last.log_id);
        }
        Ok(sizes)
    }

    /// Seals the newest segment, so that everything here can be moved.
    #[cfg(test)]
    pub(super) fn seal(&self) -> Result<(), EngineError> {
        self.rotate(&mut self.writer())
    }

    /// Begins the next segment.
    fn rotate(&self, writer: &mut Writer) -> Result<(), EngineError> {
        let number = self.view().segments.next();
        let segment = self.spares.take(number)?;
        self.view().segments.push(segment);
        writer.at = 0;
        Ok(())
    }

    fn write_numbers(
        &self,
        writer: &mut Writer,
        kind: Kind,
        numbers: &[u64],
    ) -> Result<(), EngineError> {
        let room = record::size(size_of_val(numbers));
        if self.view().segments.newest().is_none() || writer.at + room > SEGMENT_BYTES {
            self.rotate(writer)?;
        }
        let segment = self.view().segments.newest().ok_or_else(no_segment)?;
        let mut record = writer.record();
        for number in numbers {
            record.extend_from_slice(&number.to_be_bytes());
        }
        writer.write(&segment, record, kind)
    }

    /// Removes every entry from `index` on, durably.
    pub(super) fn truncate_from(&self, index: u64) -> Result<(), EngineError> {
        let mut writer = self.writer();
        self.write_numbers(&mut writer, Kind::Truncated, &[index])?;
        let mut view = self.view();
        view.places.truncate_from(index);
        view.last = view.read_last()?;
        Ok(())
    }

    /// Removes every entry up to `upto`, durably.
    pub(super) fn purge_to(&self, upto: LogId) -> Result<(), EngineError> {
        let mut writer = self.writer();
        let leader = upto.leader_id;
        let numbers = [leader.term, leader.node_id, upto.index];
        self.write_numbers(&mut writer, Kind::Purged, &numbers)?;
        self.view().purge_to(upto);
        Ok(())
    }

    /// Up to where the log was purged.
    pub(super) fn purged(&self) -> Option<LogId> {
        self.view().purged
    }

    /// The last entry, if any lies here.
    pub(super) fn last(&self) -> Option<LogId> {
        let view = self.view();
        view.last.filter(|_| !view.places.is_empty())
    }

    /// The index of the first entry here; of the next one, where none is.
    pub(super) fn first(&self) -> u64 {
        self.view().places.range().start
    }

    /// Where the entries of `range` that lie here are, as many as `max_bytes` hold, at least one.
    pub(super) fn find(&self, range: &Range<u64>, max_bytes: usize) -> Vec<Found> {
        let view = self.view();
        let mut found: Vec<Found> = Vec::new();
        let mut bytes = 0_usize;
        for (index, place) in view.places.within(range) {
            bytes = bytes.saturating_add(place.length());
            if bytes > max_bytes && !found.is_empty() {
                break;
            }
            let Some(segment) = view.segments.by_number(place.segment) else {
                break;
            };
            found.push(Found {
                index,
                segment,
                place,
            });
        }
        found
    }

    /// How many segments there are, the one that is written included.
    pub(super) fn segments(&self) -> usize {
        self.view().segments.len()
    }

    /// The oldest segment, unless it is the one that is written.
    pub(super) fn oldest(&self) -> Option<Oldest> {
        let view = self.view();
        let segment = view.segments.oldest_sealed()?;
        Some(Oldest {
            first: view.places.range().start,
            places: view.places.leading(segment.number),
            segment,
        })
    }

    /// True when nothing in the oldest segment is in use.
    pub(super) fn oldest_is_unused(&self) -> bool {
        let view = self.view();
        let oldest = view.segments.oldest_sealed();
        oldest.is_some_and(|s| !view.places.begin_in(s.number))
    }

    /// Lets go of the oldest segment: what of it is in use lies below, durably.
    pub(super) fn release(&self, oldest: Oldest) -> Result<(), EngineError> {
        let mut view = self.view();
        view.places.release(oldest.segment.number);
        view.segments.pop_oldest();
        drop(view);
        Ok(self.spares.put(oldest.segment)?)
    }

    /// Bytes of all segments, also those that wait for their next use.
    pub(super) fn size_on_disk(&self) -> u64 {
        let count = self.view().segments.len() + self.spares.count();
        (count * SEGMENT_BYTES) as u64
    }
}

impl Writer {
    /// Room for a record's header, behind which its body goes.
    fn record(&mut self) -> Vec<u8> {
        let mut record = std::mem::take(&mut self.scratch);
        record.clear();
        record.resize(HEADER, 0);
        record
    }

    /// Seals `record` and writes it to `segment`, which has room for it.
    fn write(
        &mut self,
        segment: &Segment,
        mut record: Vec<u8>,
        kind: Kind,
    ) -> Result<(), EngineError> {
        record::seal(&mut record, kind, segment.number);
        segment.write_sync(&record, self.at)?;
        self.at += record.len();
        record.clear();
        record.shrink_to(SCRATCH_BYTES);
        self.scratch = record;
        Ok(())
    }
}

impl View {
    fn corrupt(&self, what: String) -> EngineError {
        let index = self.places.range().end;
        EngineError::Corrupt { index, what }
    }

    /// Takes in what the segments hold; gives where the next record of the newest one goes.
    fn replay(
        &mut self,
        mut truncate: impl FnMut(u64) -> Result<(), EngineError>,
    ) -> Result<usize, EngineError> {
        if let Some(number) = self.segments.missing() {
            return Err(self.corrupt(format!("segment {number} of the journal is missing")));
        }
        let mut at = 0;
        let mut begins_behind_a_gap = None;
        for segment in self.segments.all() {
            let bytes = segment.read_whole()?;
            let gap = &mut begins_behind_a_gap;
            at = self.replay_one(segment.number, &bytes, (&mut truncate, gap))?;
            let rest = bytes.get(at..).unwrap_or_default();
            if record::any_in(rest, segment.number) {
                let what = "a record of the journal before it is damaged".to_owned();
                return Err(self.corrupt(what));
            }
            // What a power cut left of an unfinished write must not show through a later one, and what was cut short has no
            // room: then the next record begins another segment. Nothing is changed here, whoever refuses it may look at it.
            if bytes.len() < SEGMENT_BYTES || rest.iter().any(|b| *b != 0) {
                at = SEGMENT_BYTES;
            }
        }
        if let Some((end, first)) = begins_behind_a_gap {
            // What lay below is gone there, and the mark that it was purged with it: the record of the purge is here, behind entries
            // that it left. Where it is not, entries are missing.
            let purged = self.purged.is_some_and(|p| p.index + 1 >= first);
            if !purged {
                let what = format!("the journal goes on with log entry {first}");
                return Err(EngineError::Corrupt { index: end, what });
            }
        }
        self.last = self.read_last()?;
        if let Some(purged) = self.purged {
            // What a crash brought back of segments that were let go.
            self.purge_to(purged);
        }
        Ok(at)
    }

    fn replay_one(
        &mut self,
        segment: u64,
        bytes: &[u8],
        (truncate, gap): (
            &mut impl FnMut(u64) -> Result<(), EngineError>,
            &mut Option<(u64, u64)>,
        ),
    ) -> Result<usize, EngineError> {
        let mut at = 0;
        let record = |at| record::parse(bytes.get(at..)?, segment);
        while let Some(found) = record(at) {
            match (found.kind, found.numbers()) {
                (Kind::Entries, _) => {
                    self.replay_entries((segment, at + HEADER), found.body, gap)?;
                }
                (Kind::Truncated, [Some(index), ..]) => {
                    truncate(index)?;
                    self.places.truncate_from(index);
                }
                (Kind::Purged, [Some(term), Some(node), Some(index)]) => {
                    self.purge_to(LogId::new(CommittedLeaderId::new(term, node), index));
                }
                (Kind::Truncated | Kind::Purged, _) => {
                    return Err(self.corrupt("the journal's record of its removal is short".into()));
                }
            }
            at += found.length;
        }
        Ok(at)
    }

    fn replay_entries(
        &mut self,
        (segment, start): (u64, usize),
        body: &[u8],
        gap: &mut Option<(u64, u64)>,
    ) -> Result<(), EngineError> {
        for found in record::entries(body) {
            let framed =
                found.and_then(|(at, framed)| Some((at, frame::index(framed)?, framed.len())));
            let Some((at, index, length)) = framed else {
                return Err(self.corrupt("its record in the journal is cut short".to_owned()));
            };
            let next = self.places.range().end;
            // The first one here may lie below as well: it was moved there, and a crash kept it here.
            let begins = self.places.is_empty();
            if begins && index > next && gap.is_none() {
                *gap = Some((next, index));
            } else if index != next && !(begins && index < next) {
                return Err(self.corrupt(format!("the journal goes on with log entry {index}")));
            }
            let place = Place::new(segment, start + at, length);
            self.places.extend(index, vec![place]);
        }
        Ok(())
    }

    /// The log id of the last entry here.
    fn read_last(&self) -> Result<Option<LogId>, EngineError> {
        let Some((index, place)) = self.places.last() else {
            return Ok(None);
        };
        let segment = self.segments.by_number(place.segment);
        let framed = segment.ok_or_else(no_segment)?.read(place)?;
        Ok(Some(frame::decode(index, &framed)?.log_id))
    }

    fn purge_to(&mut self, upto: LogId) {
        self.places.purge_to(upto.index);
        self.purged = self.purged.max(Some(upto));
    }
}

fn no_segment() -> EngineError {
    EngineError::Io(io::Error::other("a segment of the journal is not there"))
}
