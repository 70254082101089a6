//! The identity kept over a restart, so that a process that starts while no controller answers can still prove itself.
//!
//! Key and chain lie in the state directory sealed with AES-256-GCM; the key that opens them lives in the kernel's
//! keyring alone and ends with the certificate. A stolen disk or backup is worth nothing. Where there is no keyring,
//! there is no such cache.

use std::path::Path;

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    rand::{SecureRandom, SystemRandom},
};
use data_encoding::{BASE64, HEXLOWER};
use serde::{Deserialize, Serialize};
use tradewind_api::id::{ClusterName, Region};
use tradewind_runtime::{files, task};
use zeroize::{Zeroize, Zeroizing};

use super::{
    keyring::{self, SECRET_BYTES},
    session::Shared,
};
use crate::{keys::WorkloadKey, svid::Svid, trust::sha256};

/// The file in the state directory.
const FILE: &str = "identity.sealed";
/// Its magic.
const MAGIC: [u8; 4] = *b"TWID";
/// Its version: nonce, then the sealed JSON of [`Content`].
const VERSION: u16 = 1;
/// Bound into the seal, so that it opens as nothing else.
const PURPOSE: &[u8] = b"tradewind identity 1";
/// A certificate that ends within this is not worth starting with.
const MIN_LEFT_S: i64 = 10;

#[derive(Serialize, Deserialize)]
struct Content {
    key: String,
    chain: Vec<String>,
    cluster: ClusterName,
    region: Region,
}

impl Drop for Content {
    fn drop(&mut self) {
        self.key.zeroize();
    }
}

/// Why there is nothing sealed.
#[derive(Debug, thiserror::Error)]
pub(super) enum SealError {
    #[error("the kernel keyring cannot be used: {0}")]
    Keyring(std::io::Error),
    #[error("{0}")]
    File(String),
    #[error("it does not open with the key in the keyring, or holds something else")]
    Content,
    #[error("the system gives no randomness")]
    Randomness,
}

fn description(dir: &Path, path: &str) -> String {
    let whose = format!("{}\n{path}", dir.display());
    let digest = sha256(whose.as_bytes());
    format!(
        "tradewind:identity:{}",
        HEXLOWER.encode(digest.get(..16).unwrap_or_default())
    )
}

fn cipher(secret: &[u8; SECRET_BYTES]) -> Result<LessSafeKey, SealError> {
    UnboundKey::new(&AES_256_GCM, secret)
        .map(LessSafeKey::new)
        .map_err(|_| SealError::Content)
}

// Nonce and sealed text.
fn seal(
    secret: &[u8; SECRET_BYTES],
    nonce: [u8; NONCE_LEN],
    content: &Content,
) -> Result<Vec<u8>, SealError> {
    let text = serde_json::to_vec(content).map_err(|_| SealError::Content)?;
    seal_text(secret, nonce, PURPOSE, text)
}

/// Seals any text, bound to what it is for: nonce and sealed text.
pub(super) fn seal_text(
    secret: &[u8; SECRET_BYTES],
    nonce: [u8; NONCE_LEN],
    purpose: &[u8],
    mut text: Vec<u8>,
) -> Result<Vec<u8>, SealError> {
    cipher(secret)?
        .seal_in_place_append_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(purpose),
            &mut text,
        )
        .map_err(|_| SealError::Content)?;
    let mut sealed = nonce.to_vec();
    sealed.append(&mut text);
    Ok(sealed)
}

fn open(secret: &[u8; SECRET_BYTES], sealed: &[u8]) -> Result<Content, SealError> {
    let clear = open_text(secret, PURPOSE, sealed)?;
    serde_json::from_slice(&clear).map_err(|_| SealError::Content)
}

/// Opens what [`seal_text`] gave.
pub(super) fn open_text(
    secret: &[u8; SECRET_BYTES],
    purpose: &[u8],
    sealed: &[u8],
) -> Result<Zeroizing<Vec<u8>>, SealError> {
    let (nonce, text) = sealed
        .split_first_chunk::<NONCE_LEN>()
        .ok_or(SealError::Content)?;
    let mut text = Zeroizing::new(text.to_vec());
    let nonce = Nonce::assume_unique_for_key(*nonce);
    let length = cipher(secret)?
        .open_in_place(nonce, Aad::from(purpose), &mut text)
        .map_err(|_| SealError::Content)?
        .len();
    text.truncate(length);
    Ok(text)
}

/// Takes up the identity that an earlier run sealed, if it is there and still good.
pub(super) async fn load(shared: &Shared, dir: &Path) {
    let Some(wanted) = shared.config.identity_path.clone() else {
        return;
    };
    let file = dir.join(FILE);
    let about = description(dir, &wanted);
    let target = file.clone();
    let read = task::spawn_blocking(move || read(&target, &about)).await;
    let content = match read {
        Ok(Ok(Some(content))) => content,
        Ok(Ok(None)) => return,
        Ok(Err(error)) => return off(shared, &file, &error),
        Err(_) => return,
    };
    let Some(svid) = identity(&content) else {
        return off(shared, &file, &SealError::Content);
    };
    let left_s = svid.not_after_unix_s.saturating_sub(shared.now_unix_s());
    if left_s < MIN_LEFT_S || svid.id.path() != wanted {
        tracing::info!(identity = %svid.id, left_s, "the sealed identity has ended or is another; asking for a new one");
        return;
    }
    tracing::info!(identity = %svid.id, left_s, "the sealed identity of an earlier run is taken up");
    shared.svid.set(svid);
    shared.belongs_to(content.cluster.clone(), content.region.clone());
    shared.release_certificate();
}

fn read(file: &Path, about: &str) -> Result<Option<Content>, SealError> {
    let framed =
        files::read_framed(file, MAGIC, VERSION).map_err(|e| SealError::File(e.to_string()))?;
    let Some((_, sealed)) = framed else {
        return Ok(None);
    };
    // After a reboot the key is gone and the file is waste.
    let Some(secret) = keyring::get(about).map_err(SealError::Keyring)? else {
        return Ok(None);
    };
    open(&secret, &sealed).map(Some)
}

fn identity(content: &Content) -> Option<Svid> {
    let der = Zeroizing::new(BASE64.decode(content.key.as_bytes()).ok()?);
    let chain: Result<Vec<_>, _> = content
        .chain
        .iter()
        .map(|c| BASE64.decode(c.as_bytes()))
        .collect();
    Svid::new(&WorkloadKey::from_pkcs8(&der).ok()?, &chain.ok()?).ok()
}

/// Seals the identity in force for the next run.
pub(super) async fn store(shared: &Shared, dir: &Path, key: &WorkloadKey, chain_der: &[Vec<u8>]) {
    let (Some(path), Some(svid)) = (
        shared.config.identity_path.as_deref(),
        shared.svid.current(),
    ) else {
        return;
    };
    let left_s = svid.not_after_unix_s.saturating_sub(shared.now_unix_s());
    let (Ok(lifetime_s), Some(cluster), Some(region)) =
        (u32::try_from(left_s), shared.cluster(), shared.region())
    else {
        return;
    };
    let content = Content {
        key: BASE64.encode(key.pkcs8_der()),
        chain: chain_der.iter().map(|der| BASE64.encode(der)).collect(),
        cluster,
        region,
    };
    let (file, about) = (dir.join(FILE), description(dir, path));
    let target = file.clone();
    match task::spawn_blocking(move || write(&target, &about, &content, lifetime_s)).await {
        Ok(Ok(())) => {
            shared.meters.seal_off.set(0);
        }
        Ok(Err(error)) => off(shared, &file, &error),
        Err(_) => {}
    }
}

fn write(file: &Path, about: &str, content: &Content, lifetime_s: u32) -> Result<(), SealError> {
    let random = SystemRandom::new();
    let mut secret = Zeroizing::new([0; SECRET_BYTES]);
    let mut nonce = [0; NONCE_LEN];
    random
        .fill(&mut *secret)
        .map_err(|_| SealError::Randomness)?;
    random.fill(&mut nonce).map_err(|_| SealError::Randomness)?;
    // A secret of its own for each seal: a nonce cannot repeat. The file of a crash in between just does not open.
    keyring::put(about, &secret, lifetime_s.max(1)).map_err(SealError::Keyring)?;
    let sealed = seal(&secret, nonce, content)?;
    files::write_framed(file, MAGIC, VERSION, &sealed, 0o600)
        .map_err(|e| SealError::File(e.to_string()))
}

fn off(shared: &Shared, file: &Path, error: &SealError) {
    let first = shared.meters.seal_off.set(1) == 0;
    if first {
        shared.meters.cache_errors.inc();
        tracing::info!(path = %file.display(), %error, "no identity is kept over a restart");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content() -> Content {
        Content {
            key: "c2VjcmV0".into(),
            chain: vec!["Y2VydA==".into()],
            cluster: ClusterName::new("west").unwrap(),
            region: Region::new("us-west").unwrap(),
        }
    }

    #[test]
    fn a_seal_opens_with_its_secret_alone() {
        let sealed = seal(&[1; 32], [2; NONCE_LEN], &content()).unwrap();
        assert_eq!(open(&[1; 32], &sealed).unwrap().key, "c2VjcmV0");
        assert!(!sealed.windows(8).any(|w| w == b"c2VjcmV0"));
        assert!(open(&[3; 32], &sealed).is_err());
        for i in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[i] ^= 1;
            assert!(open(&[1; 32], &changed).is_err(), "byte {i}");
            assert!(open(&[1; 32], &sealed[..i]).is_err(), "cut at {i}");
        }
    }

    #[test]
    fn a_key_survives_the_seal() {
        let key = WorkloadKey::generate().unwrap();
        let again = WorkloadKey::from_pkcs8(key.pkcs8_der()).unwrap();
        assert_eq!(again.pkcs8_der(), key.pkcs8_der());
        assert!(WorkloadKey::from_pkcs8(b"nothing").is_err());
    }
}
