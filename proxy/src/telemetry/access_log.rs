//! Where the access log's lines go: a bounded queue, and one thread that writes them to a file or to standard output. It alone
//! waits for the disk.
//!
//! The file is opened anew when it was renamed or removed, so that rotation needs no signal. What cannot be written is dropped and
//! counted, and said once; a line that was cut short is ended before the next one.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::{
        fd::AsFd as _,
        unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _},
    },
    path::{Path, PathBuf},
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
};

use prometheus_client::metrics::counter::Counter;
use tokio::sync::oneshot;

use super::{
    AccessLogFilter, AccessLogTarget, line,
    metrics::{Lost, TelemetryMetrics},
    record::Ended,
};

/// Records that wait for the disk: a fifth of a second of twenty thousand requests. At worst, each with its longest texts and
/// failed attempts, some 48 MiB.
pub(super) const QUEUE: usize = 4096;
/// Bytes that are gathered for one call: few calls under load, and without it every line goes at once.
const BATCH_BYTES: usize = 64 << 10;
/// Who may read it: paths and addresses are not for everybody.
const MODE: u32 = 0o640;

/// Why an access log cannot be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    /// It would wait for a reader.
    #[error("it is a pipe; use - and a pipe of the shell's, or a file")]
    Pipe,
    /// The system refuses it.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Where lines go.
#[derive(Debug)]
pub(super) enum Sink {
    /// Without a buffer between: it is known of each byte whether it was taken.
    Stdout(File),
    File {
        path: PathBuf,
        file: File,
        /// Device and number of the open file.
        id: (u64, u64),
    },
}

fn open(path: &Path) -> Result<(File, (u64, u64)), OpenError> {
    if path.metadata().is_ok_and(|m| m.file_type().is_fifo()) {
        return Err(OpenError::Pipe);
    }
    let file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(MODE)
        .open(path)?;
    let opened = file.metadata()?;
    Ok((file, (opened.dev(), opened.ino())))
}

impl Sink {
    pub(super) fn open(target: &AccessLogTarget) -> Result<Self, (PathBuf, OpenError)> {
        match target {
            AccessLogTarget::Stdout => match io::stdout().as_fd().try_clone_to_owned() {
                Ok(descriptor) => Ok(Self::Stdout(descriptor.into())),
                Err(error) => Err(("standard output".into(), error.into())),
            },
            AccessLogTarget::File(path) => match open(path) {
                Ok((file, id)) => Ok(Self::File {
                    path: path.clone(),
                    file,
                    id,
                }),
                Err(error) => Err((path.clone(), error)),
            },
        }
    }

    /// Follows the path, if another file or none is there now.
    fn follow(&mut self) -> Result<(), OpenError> {
        let Self::File { path, file, id } = self else {
            return Ok(());
        };
        let there = path.metadata().map(|m| (m.dev(), m.ino()));
        if there.is_ok_and(|there| there == *id) {
            return Ok(());
        }
        (*file, *id) = open(path)?;
        tracing::info!(path = %path.display(), "access log opened anew");
        Ok(())
    }

    fn name(&self) -> String {
        match self {
            Self::Stdout(_) => "standard output".to_owned(),
            Self::File { path, .. } => path.display().to_string(),
        }
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Stdout(file) | Self::File { file, .. } => file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The queue's end for data threads.
#[derive(Clone, Debug)]
pub(super) struct Lines {
    queue: SyncSender<Option<Arc<Ended>>>,
    filter: AccessLogFilter,
    lost: Counter,
}

impl Lines {
    /// Whether this one gets a line.
    pub(super) fn wants(&self, ended: &Ended) -> bool {
        match self.filter {
            AccessLogFilter::All => true,
            AccessLogFilter::Errors => !ended.is_plain(),
        }
    }

    /// Hands one over, or drops it.
    pub(super) fn push(&self, ended: Arc<Ended>) {
        if self.queue.try_send(Some(ended)).is_err() {
            self.lost.inc();
        }
    }
}

/// The thread.
#[derive(Debug)]
pub(crate) struct AccessLog {
    queue: SyncSender<Option<Arc<Ended>>>,
    ended: oneshot::Receiver<()>,
}

impl AccessLog {
    /// Has written what is in the queue. A disk that hangs is left to itself by whoever waits for this.
    pub(super) async fn close(self) {
        let queue = self.queue;
        // The queue may be full, and then this waits for a place in it.
        drop(tradewind_runtime::task::spawn_blocking(move || {
            drop(queue.send(None));
        }));
        // An error is a thread that has ended.
        drop(self.ended.await);
    }
}

/// Starts the thread.
pub(super) fn start(
    sink: Sink,
    filter: AccessLogFilter,
    metrics: TelemetryMetrics,
) -> io::Result<(Lines, AccessLog)> {
    let (queue, records) = sync_channel(QUEUE);
    let (ending, ended) = oneshot::channel();
    let lines = Lines {
        queue: queue.clone(),
        filter,
        lost: metrics.lines_counter(Lost::queue_full),
    };
    metrics.log.set(1);
    let mut writer = Writer {
        sink,
        metrics,
        torn: false,
        writable: true,
    };
    // Whoever joins it would wait for a disk that hangs: its end is told instead.
    drop(
        thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || {
                writer.run(&records);
                drop(ending);
            })?,
    );
    Ok((lines, AccessLog { queue, ended }))
}

struct Writer<S> {
    sink: S,
    metrics: TelemetryMetrics,
    /// The last line was not written to its end.
    torn: bool,
    /// The last batch was written.
    writable: bool,
}

impl Writer<Sink> {
    fn run(&mut self, records: &Receiver<Option<Arc<Ended>>>) {
        let mut batch = Vec::new();
        while let Ok(Some(first)) = records.recv() {
            batch.clear();
            line::write(&first, &mut batch);
            drop(first);
            let mut last = false;
            while batch.len() < BATCH_BYTES {
                match records.try_recv() {
                    Ok(Some(ended)) => line::write(&ended, &mut batch),
                    Ok(None) => {
                        last = true;
                        break;
                    }
                    Err(_) => break,
                }
            }
            let followed = self.sink.follow().map_err(|error| match error {
                OpenError::Io(error) => error,
                OpenError::Pipe => io::Error::other(OpenError::Pipe),
            });
            match followed {
                Ok(()) => self.write(&batch),
                Err(error) => self.failed(&error, &batch),
            }
            if last {
                return;
            }
        }
    }

    /// Some of the lines could not be written.
    fn failed(&mut self, error: &io::Error, lines: &[u8]) {
        self.metrics.lines_lost(Lost::write_failed, count(lines));
        self.metrics.log.set(0);
        if std::mem::replace(&mut self.writable, false) {
            tracing::error!(log = %self.sink.name(), %error, "the access log cannot be written; calls go on, and its lines are dropped and counted");
        }
    }

    fn write(&mut self, batch: &[u8]) {
        let (written, error) = self.put(batch);
        self.metrics.lines.inc_by(count(written));
        let left = batch.get(written.len()..).unwrap_or_default();
        if let Some(error) = error {
            return self.failed(&error, left);
        }
        self.metrics.log.set(1);
        if !std::mem::replace(&mut self.writable, true) {
            tracing::info!(log = %self.sink.name(), "the access log can be written again");
        }
    }
}

fn count(lines: &[u8]) -> u64 {
    lines.iter().filter(|b| **b == b'\n').count() as u64
}

impl<S: Write> Writer<S> {
    /// Writes as much as goes, and says what of `batch` is there now and why not all.
    fn put<'b>(&mut self, batch: &'b [u8]) -> (&'b [u8], Option<io::Error>) {
        if self.torn {
            if let Err(error) = self.sink.write_all(b"\n") {
                return (&[], Some(error));
            }
            self.torn = false;
        }
        let mut done = 0;
        let error = loop {
            let left = batch.get(done..).unwrap_or_default();
            if left.is_empty() {
                break None;
            }
            match self.sink.write(left) {
                Ok(0) => break Some(io::ErrorKind::WriteZero.into()),
                Ok(n) => done += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => break Some(error),
            }
        };
        let written = batch.get(..done).unwrap_or_default();
        self.torn = written.last().is_some_and(|b| *b != b'\n');
        (written, error)
    }
}

/// A queue with room for one, that nobody reads from.
#[cfg(test)]
pub(super) fn unread(metrics: &TelemetryMetrics) -> (Lines, impl Sized + use<>) {
    let (queue, records) = sync_channel(1);
    let lines = Lines {
        queue,
        filter: AccessLogFilter::All,
        lost: metrics.lines_counter(Lost::queue_full),
    };
    (lines, records)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A disk that has room for so many bytes, and then gets more.
    struct Disk {
        written: Vec<u8>,
        room: usize,
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let n = bytes.len().min(self.room).min(7);
            if n == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.room -= n;
            self.written.extend_from_slice(&bytes[..n]);
            Ok(n)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    proptest! {
        #[test]
        fn a_disk_that_fills_up_tears_no_line_but_the_one_it_was_full_at(
            rooms in proptest::collection::vec(0usize..60, 1..20),
        ) {
            let mut writer = Writer {
                sink: Disk { written: Vec::new(), room: 0 },
                metrics: TelemetryMetrics::default(),
                torn: false,
                writable: true,
            };
            let mut counted = 0;
            for (n, room) in rooms.iter().enumerate() {
                writer.sink.room = *room;
                let batch = format!("<first {n}>\n<second {n}>\n");
                let (written, error) = writer.put(batch.as_bytes());
                counted += count(written);
                prop_assert_eq!(error.is_none(), written.len() == batch.len());
            }
            writer.sink.room = 100;
            let (written, error) = writer.put(b"<last>\n");
            prop_assert!(error.is_none());
            counted += count(written);
            let text = String::from_utf8(writer.sink.written).unwrap();
            let whole = text.lines().filter(|l| l.starts_with('<') && l.ends_with('>'));
            prop_assert!(whole.clone().all(|l| l.matches('<').count() == 1), "{}", text);
            // What was torn just before its end is whole and not counted.
            prop_assert!(whole.count() as u64 >= counted);
            prop_assert!(text.ends_with("\n<last>\n") || text == "<last>\n", "{}", text);
        }
    }
}
