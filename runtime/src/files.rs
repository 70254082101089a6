//! Files that are whole or absent: written aside, synced, then renamed into place. Framed files carry magic, version,
//! length and a CRC32C, so a torn, foreign or rotten file is told from a good one before anybody parses it.
//!
//! Everything here blocks; in async code call it through `task::spawn_blocking` unless it is start-up.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use thiserror::Error;

/// Largest framed payload, in bytes: far above any snapshot of ours, far below what would exhaust memory.
pub const MAX_PAYLOAD_BYTES: u64 = 512 * 1024 * 1024;

/// magic 4, version 2, reserved 2, payload length 8, CRC32C 4 (over what precedes it and the payload).
const HEADER_BYTES: usize = 20;

/// How much of the header the checksum covers.
const CHECKED_HEADER_BYTES: usize = 16;

/// Distinguishes temporary files of one process.
static NEXT_TEMPORARY: AtomicU64 = AtomicU64::new(0);

/// A file that could not be read or written.
#[derive(Debug, Error)]
pub enum FileError {
    /// The file, or the directory it should be in, does not exist.
    #[error("{path}: does not exist", path = path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// The process may not.
    #[error("{path}: no permission to {action} it", path = path.display())]
    Permission {
        /// The file.
        path: PathBuf,
        /// `read` or `write`.
        action: &'static str,
    },
    /// The content is not what was written.
    #[error(
        "{path}: corrupt ({what}); restore it from a backup, or move it away to start without it",
        path = path.display()
    )]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        what: String,
    },
    /// Written by a newer Tradewind.
    #[error("{path}: has format version {found}, this program reads up to {supported}; use a newer one", path = path.display())]
    TooNew {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u16,
        /// The newest version this program reads.
        supported: u16,
    },
    /// More than a framed file may carry.
    #[error("{path}: {bytes} bytes are more than the {MAX_PAYLOAD_BYTES} a file may carry", path = path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// How many bytes it has or should get.
        bytes: u64,
    },
    /// Anything else the kernel says: a full or read-only disk, a directory in the way.
    #[error("{path}: cannot {action} it: {source}{}", advice(source), path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// `read` or `write`.
        action: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

impl FileError {
    fn io(path: &Path, action: &'static str, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::NotFound => Self::Missing { path },
            io::ErrorKind::PermissionDenied => Self::Permission { path, action },
            _ => Self::Io {
                path,
                action,
                source,
            },
        }
    }

    /// A file whose content made no sense to the caller after its frame was found good.
    #[must_use]
    pub fn corrupt(path: &Path, what: impl Into<String>) -> Self {
        Self::Corrupt {
            path: path.to_owned(),
            what: what.into(),
        }
    }

    /// The file in question.
    #[must_use]
    pub fn path(&self) -> &Path {
        match self {
            Self::Missing { path }
            | Self::Permission { path, .. }
            | Self::Corrupt { path, .. }
            | Self::TooNew { path, .. }
            | Self::TooLarge { path, .. }
            | Self::Io { path, .. } => path,
        }
    }

    /// Whether the content is damaged, as opposed to absent or out of reach.
    #[must_use]
    pub fn is_corrupt(&self) -> bool {
        matches!(self, Self::Corrupt { .. })
    }
}

/// What helps where the disk itself refuses, to be put behind the error's own text; empty for any other error.
#[must_use]
pub fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "; free space on its disk",
        io::ErrorKind::ReadOnlyFilesystem => {
            "; its file system is read-only: the kernel's log may say why; mount it writable again"
        }
        _ => "",
    }
}

/// Replaces the file at `path` by `bytes`: after a crash it holds the old content or the new, durably the new once this
/// returns. The file has exactly the permission bits `mode`.
pub fn atomic_write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), FileError> {
    write_parts(path, &[bytes], mode)
}

/// Writes `payload` under a header with `magic`, `version` and a checksum, as [`atomic_write`] does.
pub fn write_framed(
    path: &Path,
    magic: [u8; 4],
    version: u16,
    payload: &[u8],
    mode: u32,
) -> Result<(), FileError> {
    let length = u64::try_from(payload.len()).unwrap_or(u64::MAX);
    if length > MAX_PAYLOAD_BYTES {
        return Err(FileError::TooLarge {
            path: path.to_owned(),
            bytes: length,
        });
    }
    let mut header = Vec::with_capacity(HEADER_BYTES);
    header.extend_from_slice(&magic);
    header.extend_from_slice(&version.to_be_bytes());
    header.extend_from_slice(&[0, 0]);
    header.extend_from_slice(&length.to_be_bytes());
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&header), payload);
    header.extend_from_slice(&checksum.to_be_bytes());
    write_parts(path, &[&header, payload], mode)
}

/// Reads what [`write_framed`] wrote: version and payload, or `None` where there is no file. A version above
/// `max_version` is refused.
pub fn read_framed(
    path: &Path,
    magic: [u8; 4],
    max_version: u16,
) -> Result<Option<(u16, Vec<u8>)>, FileError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(FileError::io(path, "read", error)),
    };
    let read = |error| FileError::io(path, "read", error);
    let size = file.metadata().map_err(read)?.len();
    let header_bytes = u64::try_from(HEADER_BYTES).unwrap_or(u64::MAX);
    if size > MAX_PAYLOAD_BYTES + header_bytes {
        return Err(FileError::TooLarge {
            path: path.to_owned(),
            bytes: size,
        });
    }
    let mut bytes = Vec::new();
    file.take(MAX_PAYLOAD_BYTES + header_bytes)
        .read_to_end(&mut bytes)
        .map_err(read)?;
    let (version, payload) =
        unframe(&bytes, magic).map_err(|what| FileError::corrupt(path, what))?;
    if version > max_version {
        let path = path.to_owned();
        return Err(FileError::TooNew {
            path,
            found: version,
            supported: max_version,
        });
    }
    Ok(Some((version, payload.to_vec())))
}

/// Takes a frame apart; says what does not fit.
fn unframe(bytes: &[u8], magic: [u8; 4]) -> Result<(u16, &[u8]), String> {
    let Some((header, payload)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
        return Err(format!("{} bytes, shorter than its header", bytes.len()));
    };
    let [
        m0,
        m1,
        m2,
        m3,
        v0,
        v1,
        _,
        _,
        l0,
        l1,
        l2,
        l3,
        l4,
        l5,
        l6,
        l7,
        c0,
        c1,
        c2,
        c3,
    ] = *header;
    if [m0, m1, m2, m3] != magic {
        let expected = String::from_utf8_lossy(&magic).into_owned();
        return Err(format!(
            "it does not begin with {expected:?}, so it is some other file"
        ));
    }
    let length = u64::from_be_bytes([l0, l1, l2, l3, l4, l5, l6, l7]);
    if usize::try_from(length) != Ok(payload.len()) {
        return Err(format!(
            "{} of {length} payload bytes are there",
            payload.len()
        ));
    }
    let checked = header
        .first_chunk::<CHECKED_HEADER_BYTES>()
        .map_or(0, |head| crc32c::crc32c(head));
    if crc32c::crc32c_append(checked, payload) != u32::from_be_bytes([c0, c1, c2, c3]) {
        return Err("its checksum does not match".to_owned());
    }
    Ok((u16::from_be_bytes([v0, v1]), payload))
}

fn write_parts(path: &Path, parts: &[&[u8]], mode: u32) -> Result<(), FileError> {
    let failed = |error| FileError::io(path, "write", error);
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(failed(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it names no file",
        )));
    };
    let parent = if parent.as_os_str().is_empty() {
        Path::new(".")
    } else {
        parent
    };
    let unique = NEXT_TEMPORARY.fetch_add(1, Ordering::Relaxed);
    let mut temporary_name = std::ffi::OsString::from(".");
    temporary_name.push(name);
    temporary_name.push(format!(".{}-{unique}.tmp", std::process::id()));
    let temporary = parent.join(temporary_name);

    let written = write_aside(&temporary, parts, mode).and_then(|()| fs::rename(&temporary, path));
    if let Err(error) = written {
        if let Err(left) = fs::remove_file(&temporary)
            && left.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %temporary.display(), error = %left, "a temporary file is left behind");
        }
        return Err(failed(error));
    }
    // The rename itself is durable only once the directory is.
    File::open(parent)
        .and_then(|directory| directory.sync_all())
        .map_err(failed)
}

fn write_aside(temporary: &Path, parts: &[&[u8]], mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(temporary)?;
    // The umask may have taken bits away.
    file.set_permissions(Permissions::from_mode(mode))?;
    for part in parts {
        file.write_all(part)?;
    }
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAGIC: [u8; 4] = *b"TWxx";

    fn mode_of(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn replaces_whole_files_and_leaves_nothing_beside() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.json");
        atomic_write(&path, b"one", 0o600).unwrap();
        assert_eq!(mode_of(&path), 0o600);
        atomic_write(&path, b"two", 0o644).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(mode_of(&path), 0o644);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_failed_write_keeps_the_old_file_and_names_the_path() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("no").join("file");
        let error = atomic_write(&missing, b"x", 0o600).unwrap_err();
        assert!(matches!(error, FileError::Missing { .. }), "{error}");
        assert!(
            error
                .to_string()
                .starts_with(&missing.display().to_string())
        );

        let occupied = dir.path().join("dir");
        fs::create_dir(&occupied).unwrap();
        let error = atomic_write(&occupied, b"x", 0o600).unwrap_err();
        assert_eq!(error.path(), occupied);
        assert_eq!(
            fs::read_dir(dir.path()).unwrap().count(),
            1,
            "a temporary file is left"
        );
    }

    #[test]
    fn framed_files_come_back_and_absence_is_no_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        assert!(read_framed(&path, MAGIC, 1).unwrap().is_none());
        write_framed(&path, MAGIC, 1, b"payload", 0o600).unwrap();
        assert_eq!(
            read_framed(&path, MAGIC, 1).unwrap(),
            Some((1, b"payload".to_vec()))
        );
        write_framed(&path, MAGIC, 3, b"", 0o600).unwrap();
        assert_eq!(read_framed(&path, MAGIC, 3).unwrap(), Some((3, Vec::new())));
        let error = read_framed(&path, MAGIC, 2).unwrap_err();
        assert!(
            matches!(
                error,
                FileError::TooNew {
                    found: 3,
                    supported: 2,
                    ..
                }
            ),
            "{error}"
        );
        let error = read_framed(&path, *b"TWyy", 3).unwrap_err();
        assert!(error.to_string().contains("some other file"), "{error}");
        assert!(read_framed(dir.path(), MAGIC, 1).is_err());
    }

    #[test]
    fn every_truncation_and_every_flipped_bit_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        write_framed(&path, MAGIC, 1, b"precious", 0o600).unwrap();
        let whole = fs::read(&path).unwrap();
        for length in 0..whole.len() {
            fs::write(&path, &whole[..length]).unwrap();
            let error = read_framed(&path, MAGIC, 9).unwrap_err();
            assert!(error.is_corrupt(), "cut to {length}: {error}");
        }
        for bit in 0..whole.len() * 8 {
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            fs::write(&path, &flipped).unwrap();
            let error = read_framed(&path, MAGIC, u16::MAX).unwrap_err();
            assert!(error.is_corrupt(), "bit {bit}: {error}");
        }
        fs::write(&path, [whole.as_slice(), b"more"].concat()).unwrap();
        assert!(read_framed(&path, MAGIC, 1).unwrap_err().is_corrupt());
    }

    /// The layout on disk is a promise to later versions: this file must stay readable.
    #[test]
    fn golden_version_1_frame() {
        let golden = b"TWxx\0\x01\0\0\0\0\0\0\0\0\0\x02\x86\x3b\x42\x4fhi";
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        write_framed(&path, MAGIC, 1, b"hi", 0o600).unwrap();
        assert_eq!(
            fs::read(&path).unwrap().escape_ascii().to_string(),
            golden.escape_ascii().to_string()
        );
    }

    proptest! {
        #[test]
        fn foreign_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            prop_assert!(unframe(&bytes, MAGIC).is_err() || bytes.starts_with(&MAGIC));
        }
    }
}
