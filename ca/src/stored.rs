//! CA keys and certificates as files.
//!
//! Owns their form: PKCS#8 and X.509 in PEM, keys with mode 0600. A key that others may read is not used, because it may
//! have been copied.

use std::{
    fs::File,
    io::{self, Read},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use data_encoding::BASE64;
use rustls_pki_types::{CertificateDer, pem::PemObject};
use tradewind_api::TrustDomain;
use tradewind_runtime::files::{self, FileError};
use tradewind_transport::trust::AuthorityFacts;
use zeroize::Zeroizing;

use crate::{key::CaKey, mint::Validity};

/// Longest file read: ours are below 2 KiB.
const MAX_FILE_BYTES: u64 = 64 << 10;

const KEY_MODE: u32 = 0o600;
const CERTIFICATE_MODE: u32 = 0o644;

/// Why keys or certificates could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoredError {
    /// Not written.
    #[error(transparent)]
    Write(#[from] FileError),
    /// Not read.
    #[error("read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others may have read it.
    #[error(
        "{} can be read by others (mode {mode:04o}); a CA key must have mode 0600. Make sure that nobody took it, then: chmod 600 {}",
        path.display(), path.display()
    )]
    KeyIsReadable {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Only one of two files that belong together.
    #[error("{} is there, but {} is missing; restore it, or remove both and start anew", present.display(), missing.display())]
    Half {
        /// The file that is there.
        present: PathBuf,
        /// The one that should be beside it.
        missing: PathBuf,
    },
    /// Damaged, or something else.
    #[error("{}: {what}", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: &'static str,
    },
    /// Damaged, or something else.
    #[error("{}: {what}", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
}

impl StoredError {
    pub(crate) fn certificate(path: &Path, what: &str) -> Self {
        Self::Certificate {
            path: path.to_owned(),
            what: what.to_owned(),
        }
    }
}

pub(crate) fn write_key(path: &Path, key: &CaKey) -> Result<(), StoredError> {
    Ok(files::atomic_write(
        path,
        key.to_pem().as_bytes(),
        KEY_MODE,
    )?)
}

pub(crate) fn write_certificates(path: &Path, chain: &[&[u8]]) -> Result<(), StoredError> {
    let mut pem = String::new();
    for der in chain {
        pem.push_str("-----BEGIN CERTIFICATE-----\n");
        for (at, c) in BASE64.encode(der).chars().enumerate() {
            if at > 0 && at % 64 == 0 {
                pem.push('\n');
            }
            pem.push(c);
        }
        pem.push_str("\n-----END CERTIFICATE-----\n");
    }
    Ok(files::atomic_write(path, pem.as_bytes(), CERTIFICATE_MODE)?)
}

/// A key with its certificates, DER.
pub(crate) struct Pair {
    pub(crate) key: CaKey,
    pub(crate) chain: Vec<Vec<u8>>,
}

/// Reads both files; `None` when neither is there.
pub(crate) fn read_pair(key_path: &Path, path: &Path) -> Result<Option<Pair>, StoredError> {
    let half = |present: &Path, missing: &Path| StoredError::Half {
        present: present.to_owned(),
        missing: missing.to_owned(),
    };
    match (read_key(key_path)?, read(path, false)?) {
        (None, None) => Ok(None),
        (Some(_), None) => Err(half(key_path, path)),
        (None, Some(_)) => Err(half(path, key_path)),
        (Some(key), Some(pem)) => {
            let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
            let chain = chain.map_err(|_| StoredError::certificate(path, "it is not valid PEM"))?;
            let chain = chain.iter().map(|der| der.to_vec()).collect();
            Ok(Some(Pair { key, chain }))
        }
    }
}

fn read_key(path: &Path) -> Result<Option<CaKey>, StoredError> {
    let Some(pem) = read(path, true)? else {
        return Ok(None);
    };
    let key = CaKey::from_pem(&pem).map_err(|what| StoredError::Key {
        path: path.to_owned(),
        what,
    })?;
    Ok(Some(key))
}

/// The file's bytes, wiped when dropped. The permissions are those of the opened file, not of what a path may become.
fn read(path: &Path, private: bool) -> Result<Option<Zeroizing<Vec<u8>>>, StoredError> {
    let failed = |source| StoredError::Read {
        path: path.to_owned(),
        source,
    };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(failed(e)),
    };
    let metadata = file.metadata().map_err(failed)?;
    let mode = metadata.permissions().mode() & 0o7777;
    if private && mode & 0o077 != 0 {
        return Err(StoredError::KeyIsReadable {
            path: path.to_owned(),
            mode,
        });
    }
    if metadata.len() > MAX_FILE_BYTES {
        let what = format!(
            "{} bytes are far more than a key or chain has",
            metadata.len()
        );
        return Err(StoredError::certificate(path, &what));
    }
    let room = usize::try_from(metadata.len()).unwrap_or(0) + 1;
    // The whole room at once: a buffer that grows leaves copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(room));
    file.take(MAX_FILE_BYTES)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    Ok(Some(bytes))
}

/// What a CA certificate says, after checking that it belongs to `key`.
pub(crate) fn ca_validity(
    path: &Path,
    der: &[u8],
    key: &CaKey,
) -> Result<(Option<TrustDomain>, Validity), StoredError> {
    let bad = |what| StoredError::certificate(path, what);
    let facts = AuthorityFacts::parse(der).map_err(|_| bad("it is not a CA certificate"))?;
    if facts.public_key_der != key.public_der() {
        return Err(bad("it is for another key than the one beside it"));
    }
    let validity = Validity {
        not_before_unix_s: facts.not_before_unix_s.try_into().unwrap_or(0),
        not_after_unix_s: facts.not_after_unix_s.try_into().unwrap_or(0),
    };
    Ok((facts.trust_domain, validity))
}
