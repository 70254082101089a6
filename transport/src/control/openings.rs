//! What opens sealed names, kept over a restart of a gateway, so that one that starts while no controller answers does not
//! turn everybody away.
//!
//! Owns `openings.sealed` in the state directory. As with an identity, the key that opens it lives in the kernel's keyring
//! alone. Where there is no keyring the file is readable by its owner alone and holds the keys as they are: they end
//! within days, they let nobody in whom the workload does not let in, and without them a gateway serves no one.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use aws_lc_rs::{
    aead::NONCE_LEN,
    rand::{SecureRandom, SystemRandom},
};
use data_encoding::{BASE64, HEXLOWER};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tradewind_api::{
    ClusterName,
    seal::OpeningKey,
    snapshot::{Openings, Snapshot},
};
use tradewind_runtime::{files, task};
use zeroize::{Zeroize, Zeroizing};

use super::{
    keyring::{self, SECRET_BYTES},
    sealed::{SealError, open_text, seal_text},
    session::Shared,
};
use crate::trust::sha256;

/// The file in the state directory.
const FILE: &str = "openings.sealed";
/// Its magic.
const MAGIC: [u8; 4] = *b"TWOP";
/// Its version: [`SEALED`] or [`PLAIN`], then the JSON of [`Saved`].
const VERSION: u16 = 1;
/// First byte of a file whose rest opens with the key in the keyring.
const SEALED: u8 = 1;
/// First byte of a file that only its mode protects.
const PLAIN: u8 = 0;
/// Bound into the seal, so that it opens as nothing else.
const PURPOSE: &[u8] = b"tradewind openings 1";
/// How long the keyring keeps the key, seconds: no opening key is of use for longer.
const KEPT_S: u32 = 3 * 24 * 3600;

#[derive(Serialize, Deserialize)]
struct Key {
    id: u32,
    secret: String,
}

impl Drop for Key {
    fn drop(&mut self) {
        self.secret.zeroize();
    }
}

#[derive(Serialize, Deserialize)]
struct Saved(BTreeMap<ClusterName, Vec<Key>>);

impl From<&Openings> for Saved {
    fn from(openings: &Openings) -> Self {
        let key = |k: &OpeningKey| Key {
            id: k.id,
            secret: BASE64.encode(&k.secret),
        };
        let of = |(c, keys): (&ClusterName, &Arc<Vec<OpeningKey>>)| {
            (c.clone(), keys.iter().map(key).collect())
        };
        Self(openings.iter().map(of).collect())
    }
}

impl Saved {
    fn openings(&self) -> Option<Openings> {
        let key = |k: &Key| {
            let secret = Zeroizing::new(BASE64.decode(k.secret.as_bytes()).ok()?);
            Some(OpeningKey {
                id: k.id,
                secret: secret.as_slice().try_into().ok()?,
            })
        };
        let of = |(c, keys): (&ClusterName, &Vec<Key>)| {
            let keys: Option<Vec<_>> = keys.iter().map(key).collect();
            Some((c.clone(), Arc::new(keys?)))
        };
        self.0.iter().map(of).collect()
    }
}

fn description(dir: &Path) -> String {
    let digest = sha256(dir.display().to_string().as_bytes());
    format!(
        "tradewind:openings:{}",
        HEXLOWER.encode(digest.get(..16).unwrap_or_default())
    )
}

/// What an earlier run kept; nothing where it does not open.
pub(super) async fn load(shared: &Shared, dir: &Path) -> Openings {
    let (file, about) = (dir.join(FILE), description(dir));
    let target = file.clone();
    match task::spawn_blocking(move || read(&target, &about)).await {
        Ok(Ok(openings)) => openings,
        Ok(Err(error)) => {
            shared.meters.cache_errors.inc();
            tracing::warn!(path = %file.display(), %error, "the keys of sealed names on disk are ignored; until a controller answers, callers are refused");
            Openings::new()
        }
        Err(_) => Openings::new(),
    }
}

fn read(file: &Path, about: &str) -> Result<Openings, SealError> {
    let framed =
        files::read_framed(file, MAGIC, VERSION).map_err(|e| SealError::File(e.to_string()))?;
    let Some((_, payload)) = framed else {
        return Ok(Openings::new());
    };
    let payload = Zeroizing::new(payload);
    let text = match payload.split_first() {
        Some((&SEALED, sealed)) => {
            let secret = keyring::get(about).map_err(SealError::Keyring)?;
            let secret = secret.ok_or(SealError::Content)?;
            open_text(&secret, PURPOSE, sealed)?
        }
        Some((&PLAIN, text)) => Zeroizing::new(text.to_vec()),
        Some(_) | None => return Err(SealError::Content),
    };
    let saved: Saved = serde_json::from_slice(&text).map_err(|_| SealError::Content)?;
    saved.openings().ok_or(SealError::Content)
}

/// Writes what is in force whenever it changes.
pub(super) async fn keep(
    shared: Arc<Shared>,
    dir: PathBuf,
    mut snapshots: watch::Receiver<Arc<Snapshot>>,
) {
    let (file, about) = (dir.join(FILE), description(&dir));
    let mut kept = snapshots.borrow_and_update().openings.clone();
    while snapshots.changed().await.is_ok() {
        let now = snapshots.borrow_and_update().openings.clone();
        if now == kept {
            continue;
        }
        kept.clone_from(&now);
        let (target, about) = (file.clone(), about.clone());
        let written = task::spawn_blocking(move || write(&target, &about, &now)).await;
        if let Ok(Err(error)) = written {
            shared.meters.cache_errors.inc();
            tracing::warn!(path = %file.display(), %error, "the keys of sealed names were not written to disk");
        }
    }
}

fn write(file: &Path, about: &str, openings: &Openings) -> Result<(), SealError> {
    let text = serde_json::to_vec(&Saved::from(openings)).map_err(|_| SealError::Content)?;
    let text = Zeroizing::new(text);
    let random = SystemRandom::new();
    let mut secret = Zeroizing::new([0; SECRET_BYTES]);
    let mut nonce = [0; NONCE_LEN];
    random
        .fill(&mut *secret)
        .and_then(|()| random.fill(&mut nonce))
        .map_err(|_| SealError::Randomness)?;
    let mut payload = Zeroizing::new(Vec::new());
    if keyring::put(about, &secret, KEPT_S).is_ok() {
        payload.push(SEALED);
        payload.extend(seal_text(&secret, nonce, PURPOSE, text.to_vec())?);
    } else {
        payload.push(PLAIN);
        payload.extend_from_slice(&text);
    }
    files::write_framed(file, MAGIC, VERSION, &payload, 0o600)
        .map_err(|e| SealError::File(e.to_string()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn openings() -> Openings {
        let key = OpeningKey {
            id: 9,
            secret: *b"0123456789abcdef0123456789abcdef",
        };
        let east = ClusterName::new("east").unwrap();
        [(east, Arc::new(vec![key]))].into()
    }

    #[test]
    fn they_come_back_from_a_file_that_nobody_else_reads() {
        let dir = std::env::temp_dir().join(format!("tradewind-openings-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let (file, about) = (dir.join(FILE), description(&dir));
        assert!(
            read(&file, &about).unwrap().is_empty(),
            "nothing was kept yet"
        );
        write(&file, &about, &openings()).unwrap();
        assert_eq!(read(&file, &about).unwrap(), openings());
        let mode = std::fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let payload = files::read_framed(&file, MAGIC, VERSION)
            .unwrap()
            .unwrap()
            .1;
        let sealed = keyring::get(&about).is_ok_and(|k| k.is_some());
        assert_eq!(payload[0], u8::from(sealed));
        let clear = BASE64.encode(b"0123456789abcdef0123456789abcdef");
        let shows = payload.windows(clear.len()).any(|w| w == clear.as_bytes());
        assert_eq!(shows, !sealed);
        std::fs::write(&file, b"nothing").unwrap();
        assert!(read(&file, &about).is_err());
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
