//! The sealed part of a gateway's name: which service and port a connection is for, readable by the target cluster's
//! gateways alone. One label of 63 characters that says neither service nor caller to anybody else.
//!
//! Pure: the same content, key and expiry always give the same label, so that every controller of a cluster mints the
//! same names. Labels come from strangers; reading one never panics, and nothing of it is believed before it opened.
//! `docs/sealed-names.md` explains the format, `transport/vectors/sealed-names.json` shows it byte by byte.

pub mod keys;

use std::{fmt, sync::LazyLock};

use aws_lc_rs::{
    aead::{AES_256_GCM_SIV, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    digest, hmac,
};
use data_encoding::{BASE32_NOPAD, BASE32_NOPAD_NOCASE, Encoding};
use tradewind_api::{ClusterName, Domain, ServiceName};

/// Bytes of a seal: key id, sealed content, tag.
pub const SEAL_BYTES: usize = ID_BYTES + CONTENT_BYTES + TAG_BYTES;
/// Characters of its label: all that DNS allows one.
pub const LABEL_CHARS: usize = 63;
/// When the 32-bit clock of expiries starts: 2025-01-01T00:00:00Z in Unix seconds. It ends in 2161.
pub const EPOCH_UNIX_S: u64 = 1_735_689_600;

/// Bytes of a key's id: they stand in clear, so that a gateway tries one key and not all.
const ID_BYTES: usize = 4;
/// Service id 8, port 2, expiry 4, salt 5.
const CONTENT_BYTES: usize = 19;
/// The salt: what makes seals of the same content differ between keys and expiries beyond what the cipher mixes in.
const SALT_BYTES: usize = 5;
/// AES-GCM-SIV's tag.
const TAG_BYTES: usize = 16;
/// One nonce for all: AES-GCM-SIV stands it, and a seal has no room for another. All that it then reveals is whether two
/// seals are of the same content, which is what a name that many connections share says anyway.
const NONCE: [u8; NONCE_LEN] = [0; NONCE_LEN];
/// The first bytes of what a seal is bound to. A change of format changes them.
const PURPOSE: &[u8] = b"tradewind seal 1";

const _: () = assert!((SEAL_BYTES * 8).div_ceil(5) == LABEL_CHARS);

/// Lower case, as names are written; read in any case.
static ENCODING: LazyLock<Encoding> = LazyLock::new(|| {
    let mut spec = BASE32_NOPAD.specification();
    spec.symbols = "abcdefghijklmnopqrstuvwxyz234567".into();
    // A constant specification: what is tested once never fails.
    spec.encoding().unwrap_or(BASE32_NOPAD)
});

/// Which key a seal was made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId(pub u32);

/// A service in eight bytes: the beginning of the SHA-256 of `namespace/name`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceId(pub u64);

impl ServiceId {
    /// The id of a service.
    pub fn of(service: &ServiceName) -> Self {
        let hash = digest::digest(&digest::SHA256, service.to_string().as_bytes());
        let first = hash.as_ref().first_chunk().copied().unwrap_or_default();
        Self(u64::from_be_bytes(first))
    }
}

/// Whose seals: everything that a key and a seal are bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pair<'a> {
    /// The federation's domain.
    pub domain: &'a Domain,
    /// The cluster that calls.
    pub caller: &'a ClusterName,
    /// The cluster that is called.
    pub target: &'a ClusterName,
}

impl Pair<'_> {
    /// Each part behind its length, so that no two pairs run together.
    fn bound(&self, purpose: &[u8]) -> Vec<u8> {
        let mut bytes = purpose.to_vec();
        for part in [
            self.domain.as_str(),
            self.caller.as_str(),
            self.target.as_str(),
        ] {
            // Names end at 253 characters.
            bytes.push(u8::try_from(part.len()).unwrap_or(u8::MAX));
            bytes.extend_from_slice(part.as_bytes());
        }
        bytes
    }
}

/// What a seal says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Content {
    /// The service.
    pub service: ServiceId,
    /// Its port.
    pub port: u16,
    /// Until when it is good, Unix seconds.
    pub expires_unix_s: u64,
}

/// A label, read but not opened. Whoever sent it may have made it up.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Seal([u8; SEAL_BYTES]);

impl Seal {
    /// Reads a label in either case. There is one way only to write a seal.
    pub fn parse(label: &str) -> Option<Self> {
        if label.len() != LABEL_CHARS {
            return None;
        }
        let mut bytes = [0; SEAL_BYTES];
        // The encoding checks that the three bits at the end are zero.
        let written = BASE32_NOPAD_NOCASE
            .decode_mut(label.as_bytes(), &mut bytes)
            .ok()?;
        (written == SEAL_BYTES).then_some(Self(bytes))
    }

    /// As it stands in a name.
    pub fn label(&self) -> String {
        ENCODING.encode(&self.0)
    }

    /// The key that it claims to be made with.
    pub fn key_id(&self) -> KeyId {
        KeyId(u32::from_be_bytes(
            self.0.first_chunk().copied().unwrap_or_default(),
        ))
    }
}

impl fmt::Debug for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Seal({:08x}..)", self.key_id().0)
    }
}

/// Why a seal does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unopened {
    /// It was made with another key, for another pair, or bent on its way.
    #[error("it does not open with this key")]
    Broken,
    /// It was good once.
    #[error("it expired {ago_s} s ago")]
    Expired {
        /// Seconds since then.
        ago_s: u64,
    },
}

/// The cryptographic library refused: a key of the wrong length or a point of no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the key cannot be used")]
pub struct BadKey;

/// Opens the seals of one key: what a gateway holds. The key's schedule is computed once.
pub struct Opener {
    id: KeyId,
    key: LessSafeKey,
    bound: Box<[u8]>,
}

impl fmt::Debug for Opener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Opener({:08x})", self.id.0)
    }
}

impl Opener {
    /// For the seals of `pair` under a key.
    pub fn new(pair: &Pair<'_>, id: KeyId, secret: &[u8; 32]) -> Result<Self, BadKey> {
        let key = UnboundKey::new(&AES_256_GCM_SIV, secret).map_err(|_| BadKey)?;
        Ok(Self {
            id,
            key: LessSafeKey::new(key),
            bound: pair.bound(PURPOSE).into(),
        })
    }

    /// The key's id.
    pub const fn id(&self) -> KeyId {
        self.id
    }

    /// Opens a seal at `now_unix_s`. Allocates nothing.
    pub fn open(&self, seal: &Seal, now_unix_s: u64) -> Result<Content, Unopened> {
        let (id, sealed) = seal
            .0
            .split_first_chunk::<ID_BYTES>()
            .ok_or(Unopened::Broken)?;
        if *id != self.id.0.to_be_bytes() {
            return Err(Unopened::Broken);
        }
        let mut text = [0; CONTENT_BYTES + TAG_BYTES];
        text.copy_from_slice(sealed);
        let nonce = Nonce::assume_unique_for_key(NONCE);
        let clear = self
            .key
            .open_in_place(nonce, Aad::from(&*self.bound), &mut text)
            .map_err(|_| Unopened::Broken)?;
        let content = read(clear).ok_or(Unopened::Broken)?;
        if content.expires_unix_s <= now_unix_s {
            let ago_s = now_unix_s.saturating_sub(content.expires_unix_s);
            return Err(Unopened::Expired { ago_s });
        }
        Ok(content)
    }
}

/// Makes the seals of one key: what a caller's controller holds.
pub struct Minter {
    opener: Opener,
    salt: hmac::Key,
}

impl fmt::Debug for Minter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Minter({:08x})", self.opener.id.0)
    }
}

impl Minter {
    /// For the seals of `pair` under a key. `salt` is the key that salts come from.
    pub fn new(
        pair: &Pair<'_>,
        id: KeyId,
        secret: &[u8; 32],
        salt: &[u8; 32],
    ) -> Result<Self, BadKey> {
        Ok(Self {
            opener: Opener::new(pair, id, secret)?,
            salt: hmac::Key::new(hmac::HMAC_SHA256, salt),
        })
    }

    /// The key's id.
    pub const fn id(&self) -> KeyId {
        self.opener.id
    }

    /// The seal of `content`. An expiry outside of the format's clock is moved into it.
    pub fn mint(&self, content: &Content) -> Result<Seal, BadKey> {
        let mut text = written(content);
        let salt = hmac::sign(
            &self.salt,
            text.get(..CONTENT_BYTES - SALT_BYTES).unwrap_or_default(),
        );
        for (byte, salt) in text
            .iter_mut()
            .skip(CONTENT_BYTES - SALT_BYTES)
            .zip(salt.as_ref())
        {
            *byte = *salt;
        }
        let tag = self
            .opener
            .key
            .seal_in_place_separate_tag(
                Nonce::assume_unique_for_key(NONCE),
                Aad::from(&*self.opener.bound),
                &mut text,
            )
            .map_err(|_| BadKey)?;
        let id = self.opener.id.0.to_be_bytes();
        let all = id.iter().chain(&text).chain(tag.as_ref());
        let mut seal = [0; SEAL_BYTES];
        for (byte, from) in seal.iter_mut().zip(all) {
            *byte = *from;
        }
        Ok(Seal(seal))
    }
}

/// Everything but the salt, which is still zero.
fn written(content: &Content) -> [u8; CONTENT_BYTES] {
    let expiry = content.expires_unix_s.saturating_sub(EPOCH_UNIX_S);
    let expiry = u32::try_from(expiry).unwrap_or(u32::MAX);
    let (service, port) = (content.service.0.to_be_bytes(), content.port.to_be_bytes());
    let (all, mut text) = (service.iter().chain(&port), [0; CONTENT_BYTES]);
    for (byte, from) in text.iter_mut().zip(all.chain(&expiry.to_be_bytes())) {
        *byte = *from;
    }
    text
}

fn read(clear: &[u8]) -> Option<Content> {
    let (service, rest) = clear.split_first_chunk()?;
    let (port, rest) = rest.split_first_chunk()?;
    let (expiry, _salt) = rest.split_first_chunk()?;
    Some(Content {
        service: ServiceId(u64::from_be_bytes(*service)),
        port: u16::from_be_bytes(*port),
        expires_unix_s: EPOCH_UNIX_S.saturating_add(u32::from_be_bytes(*expiry).into()),
    })
}

#[cfg(test)]
mod tests;
