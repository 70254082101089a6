//! The journal's files: how they are made, named, found again, reused and let go. It interprets nothing in them.

use std::{
    collections::VecDeque,
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

use super::{SEGMENT_BYTES, places::Place};

/// Segments kept for reuse, so that a full one costs a rename and not the filling of a new one.
const SPARES: usize = 2;
/// What a segment's file is called behind its number.
const USED: &str = "segment";
/// The same for one that is being made or waits for its next use.
const SPARE: &str = "spare";
/// Written at a time when a segment is filled with zeros: one page. The page cache keeps what came in one write in one
/// piece, and later writes all of that piece out again for each record in it.
const ZEROS: [u8; 4096] = [0; 4096];

#[derive(Debug)]
pub(super) struct Segment {
    pub(super) number: u64,
    file: File,
}

impl Segment {
    /// Writes over what was there and waits until it is durable.
    pub(super) fn write_sync(&self, bytes: &[u8], at: usize) -> io::Result<()> {
        self.file.write_all_at(bytes, at as u64)?;
        self.file.sync_data()
    }

    pub(super) fn read(&self, place: Place) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; place.length()];
        self.file
            .read_exact_at(&mut bytes, u64::from(place.offset))?;
        Ok(bytes)
    }

    /// All of it; less where the file was cut.
    pub(super) fn read_whole(&self) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; SEGMENT_BYTES];
        let mut read = 0;
        while let Some(rest) = bytes.get_mut(read..).filter(|rest| !rest.is_empty()) {
            match self.file.read_at(rest, read as u64) {
                Ok(0) => break,
                Ok(n) => read += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        bytes.truncate(read);
        // For the same reason as with `ZEROS`: what was read ahead lies in large pieces. A hint, as good as it is.
        let forget = PosixFadviseAdvice::POSIX_FADV_DONTNEED;
        let _hinted = posix_fadvise(&self.file, 0, 0, forget);
        Ok(bytes)
    }
}

fn fill(file: &File) -> io::Result<()> {
    let mut starts = (0..SEGMENT_BYTES).step_by(ZEROS.len());
    starts.try_for_each(|at| file.write_all_at(&ZEROS, at as u64))
}

/// Finds the segments in `dir`, making it if it is missing. Unfinished and spare ones are removed.
pub(super) fn open(dir: &Path) -> io::Result<(Segments, Spares)> {
    if !dir.is_dir() {
        fs::create_dir(dir)?;
        if let Some(parent) = dir.parent() {
            sync_dir(parent)?;
        }
    }
    let mut all = Vec::new();
    for file in fs::read_dir(dir)? {
        let path = file?.path();
        if path.extension().is_some_and(|e| e == SPARE) {
            fs::remove_file(&path)?;
        } else if let Some(number) = number_of(&path) {
            let file = OpenOptions::new().read(true).write(true).open(&path)?;
            all.push(Arc::new(Segment { number, file }));
        }
    }
    all.sort_by_key(|s| s.number);
    let segments = Segments {
        next: all.last().map_or(1, |s| s.number + 1),
        all: all.into(),
    };
    let spares = Spares {
        dir: dir.to_owned(),
        files: Mutex::default(),
    };
    Ok((segments, spares))
}

/// Those in use, oldest first.
#[derive(Debug)]
pub(super) struct Segments {
    all: VecDeque<Arc<Segment>>,
    next: u64,
}

impl Segments {
    pub(super) fn all(&self) -> Vec<Arc<Segment>> {
        self.all.iter().map(Arc::clone).collect()
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    /// The number that the next one has.
    pub(super) const fn next(&self) -> u64 {
        self.next
    }

    pub(super) fn push(&mut self, segment: Segment) {
        self.next = segment.number + 1;
        self.all.push_back(Arc::new(segment));
    }

    /// The first number that is missing between the oldest and the newest.
    pub(super) fn missing(&self) -> Option<u64> {
        let first = self.all.front()?.number;
        let mut expected = (first..).zip(&self.all);
        let gap = expected.find(|(number, segment)| segment.number != *number);
        gap.map(|(number, _)| number)
    }

    /// The one that is written.
    pub(super) fn newest(&self) -> Option<Arc<Segment>> {
        self.all.back().map(Arc::clone)
    }

    /// The oldest one, unless it is the one that is written.
    pub(super) fn oldest_sealed(&self) -> Option<Arc<Segment>> {
        let oldest = self.all.front().filter(|_| self.all.len() > 1);
        oldest.map(Arc::clone)
    }

    pub(super) fn pop_oldest(&mut self) {
        self.all.pop_front();
    }

    pub(super) fn by_number(&self, number: u64) -> Option<Arc<Segment>> {
        let nth = number.checked_sub(self.all.front()?.number)?;
        self.all.get(usize::try_from(nth).ok()?).map(Arc::clone)
    }
}

/// Makes segments, of those that were let go where it can.
#[derive(Debug)]
pub(super) struct Spares {
    dir: PathBuf,
    files: Mutex<Vec<(PathBuf, File)>>,
}

impl Spares {
    fn files(&self) -> MutexGuard<'_, Vec<(PathBuf, File)>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn count(&self) -> usize {
        self.files().len()
    }

    /// A segment in which nothing is a record of its. It and its name are durable.
    pub(super) fn take(&self, number: u64) -> io::Result<Segment> {
        let spare = self.files().pop();
        let (path, file) = match spare {
            Some(spare) => spare,
            None => self.make(number)?,
        };
        fs::rename(&path, self.path(number, USED))?;
        sync_dir(&self.dir)?;
        Ok(Segment { number, file })
    }

    fn make(&self, number: u64) -> io::Result<(PathBuf, File)> {
        let path = self.path(number, SPARE);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path)?;
        let made = fill(&file).and_then(|()| file.sync_all());
        match made {
            Ok(()) => Ok((path, file)),
            Err(error) => {
                // What it took of a disk that is full is given back; the next start would remove it as well.
                drop(fs::remove_file(&path));
                Err(error)
            }
        }
    }

    /// Takes a segment out of use: kept for its next one, or removed where there are enough or somebody still reads it.
    pub(super) fn put(&self, segment: Arc<Segment>) -> io::Result<()> {
        let number = segment.number;
        let used = self.path(number, USED);
        match Arc::try_unwrap(segment) {
            Ok(segment) if self.count() < SPARES => {
                // Its name goes at once: what lies in it must not be taken for the log at the next start.
                let spare = self.path(number, SPARE);
                fs::rename(used, &spare)?;
                self.files().push((spare, segment.file));
            }
            Ok(_) | Err(_) => fs::remove_file(used)?,
        }
        // In order: a segment that a crash brings back must not lack the one after it.
        sync_dir(&self.dir)
    }

    fn path(&self, number: u64, extension: &str) -> PathBuf {
        self.dir.join(format!("{number:020}.{extension}"))
    }
}

fn number_of(path: &Path) -> Option<u64> {
    let named = path.extension()? == USED;
    let stem = path.file_stem()?.to_str()?;
    named.then(|| stem.parse().ok()).flatten()
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}
