//! A log id in a small file of its own that is overwritten in place: two slots of one sector each, written in turn, so
//! that a torn write leaves the older one. Used for the high-water mark (synced) and for the last commit (not synced).

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use openraft::CommittedLeaderId;
use tradewind_runtime::files::FileError;

use crate::{medium::Mark, types::LogId};

/// One sector: disks write it whole or not at all.
const SLOT: usize = 512;
const MAGIC: [u8; 4] = *b"TWMK";
const VERSION: u8 = 1;

#[derive(Debug)]
pub(crate) struct MarkFile {
    path: PathBuf,
    file: File,
    sequence: u64,
}

impl MarkFile {
    /// True where no mark was ever written, or somebody removed it.
    pub(crate) fn is_missing(path: &Path) -> bool {
        path.metadata().map_or(true, |found| found.len() == 0)
    }

    /// Opens the file, making an empty one with no mark if it is missing. Says what it holds.
    pub(crate) fn open(path: &Path) -> Result<(Self, Option<LogId>), FileError> {
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::PermissionDenied => FileError::Permission {
                path: path.to_owned(),
                action: "write",
            },
            _ => FileError::Io {
                path: path.to_owned(),
                action: "open",
                source: error,
            },
        };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(failed)?;
        let mut bytes = [0; 2 * SLOT];
        let length = read_up_to(&file, &mut bytes).map_err(failed)?;
        let slots = bytes.get(..length).unwrap_or_default().chunks(SLOT);
        let newest = slots
            .filter_map(parse)
            .max_by_key(|(sequence, _)| *sequence);
        let mut this = Self {
            path: path.to_owned(),
            file,
            sequence: 0,
        };
        match newest {
            Some((sequence, mark)) => {
                this.sequence = sequence;
                Ok((this, mark))
            }
            None if length == 0 => {
                // Both slots at once: from here on writes never change the file's length.
                this.write(None, false).map_err(failed)?;
                this.write(None, true).map_err(failed)?;
                if let Some(dir) = path.parent() {
                    File::open(dir).and_then(|d| d.sync_all()).map_err(failed)?;
                }
                Ok((this, None))
            }
            None => Err(FileError::corrupt(
                path,
                "neither of its two slots is whole",
            )),
        }
    }
}

impl Mark for MarkFile {
    /// Overwrites the older slot.
    fn write(&mut self, mark: Option<LogId>, sync: bool) -> io::Result<()> {
        let sequence = self.sequence + 1;
        let mut slot = Vec::with_capacity(SLOT);
        slot.extend_from_slice(&MAGIC);
        slot.push(VERSION);
        slot.push(u8::from(mark.is_some()));
        slot.extend_from_slice(&sequence.to_be_bytes());
        let (term, node, index) = mark.map_or((0, 0, 0), |m| {
            (m.leader_id.term, m.leader_id.node_id, m.index)
        });
        for number in [term, node, index] {
            slot.extend_from_slice(&number.to_be_bytes());
        }
        slot.extend_from_slice(&crc32c::crc32c(&slot).to_be_bytes());
        slot.resize(SLOT, 0);
        let offset = if sequence.is_multiple_of(2) {
            SLOT as u64
        } else {
            0
        };
        self.file.write_all_at(&slot, offset)?;
        if sync {
            self.file.sync_data()?;
        }
        self.sequence = sequence;
        Ok(())
    }

    fn path(&self) -> &Path {
        &self.path
    }
}

fn read_up_to(file: &File, bytes: &mut [u8]) -> io::Result<usize> {
    let mut done = 0;
    while let Some(rest) = bytes.get_mut(done..).filter(|r| !r.is_empty()) {
        match file.read_at(rest, done as u64)? {
            0 => break,
            n => done += n,
        }
    }
    Ok(done)
}

fn parse(slot: &[u8]) -> Option<(u64, Option<LogId>)> {
    let rest = slot.strip_prefix(MAGIC.as_slice())?;
    let (version, rest) = rest.split_first()?;
    let (present, rest) = rest.split_first()?;
    let (sequence, rest) = rest.split_first_chunk::<8>()?;
    let (term, rest) = rest.split_first_chunk::<8>()?;
    let (node, rest) = rest.split_first_chunk::<8>()?;
    let (index, rest) = rest.split_first_chunk::<8>()?;
    let (crc, _) = rest.split_first_chunk::<4>()?;
    let covered = slot.get(..MAGIC.len() + 2 + 8 * 4)?;
    if *version != VERSION || crc32c::crc32c(covered) != u32::from_be_bytes(*crc) {
        return None;
    }
    let leader = CommittedLeaderId::new(u64::from_be_bytes(*term), u64::from_be_bytes(*node));
    let mark = (*present == 1).then(|| LogId::new(leader, u64::from_be_bytes(*index)));
    Some((u64::from_be_bytes(*sequence), mark))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(index: u64) -> LogId {
        LogId::new(CommittedLeaderId::new(2, 1), index)
    }

    #[test]
    fn the_newest_whole_slot_counts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mark");
        assert!(MarkFile::is_missing(&path));
        let (mut file, mark) = MarkFile::open(&path).unwrap();
        assert!(mark.is_none() && !MarkFile::is_missing(&path));
        for index in 1..=5 {
            file.write(Some(id(index)), true).unwrap();
        }
        let (mut file, mark) = MarkFile::open(&path).unwrap();
        assert_eq!(mark, Some(id(5)));
        file.write(Some(id(6)), true).unwrap();
        // Tear the slot that holds 6: 5 is still there.
        let slot = if file.sequence.is_multiple_of(2) {
            SLOT as u64
        } else {
            0
        };
        file.file.write_all_at(&[0xff; 40], slot).unwrap();
        assert_eq!(MarkFile::open(&path).unwrap().1, Some(id(5)));
        file.file.write_all_at(&[0xff; 2 * SLOT], 0).unwrap();
        assert!(MarkFile::open(&path).unwrap_err().is_corrupt());
    }
}
