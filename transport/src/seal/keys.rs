//! The keys behind sealed names: a cluster's seal key, the key that one cluster calls another with, and the box in which
//! a cluster's controllers hand each other a seal key through the store.
//!
//! Every cluster publishes X25519 keys; two clusters agree on the rest without a word. A private key is made here and
//! leaves in a box alone; it is wiped when dropped and never shown.

use std::fmt;

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    agreement::{PrivateKey, UnparsedPublicKey, X25519, agree},
    hkdf,
    rand::{SecureRandom, SystemRandom},
};
use tradewind_api::{ClusterName, Domain};
use zeroize::Zeroizing;

use super::{BadKey, KeyId, Minter, Opener, Pair};

/// Bytes of a key of either kind, private or public.
pub const KEY_BYTES: usize = 32;
/// Bytes of a box: a public key made for it alone, a sealed private key, a tag.
pub const BOX_BYTES: usize = KEY_BYTES + KEY_BYTES + 16;

/// HKDF's salt: two uses of one agreement are told apart by what follows, this tells them from everything else.
const EXTRACT: &[u8] = b"tradewind seal 1";
/// What the key of a pair is derived for.
const FOR_PAIR: &[u8] = b"tradewind seal pair 1";
/// What the key of a box is derived for.
const FOR_BOX: &[u8] = b"tradewind seal box 1";
/// Out of one agreement: the sealing key, the salts' key, the id.
const PAIR_BYTES: usize = KEY_BYTES + KEY_BYTES + 4;
/// A box's key is used for this one box, so any nonce will do.
const BOX_NONCE: [u8; NONCE_LEN] = [0; NONCE_LEN];

/// A length that HKDF can be asked for.
struct Length(usize);

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

/// An X25519 key.
#[derive(Clone)]
pub struct SealKey {
    private: Zeroizing<[u8; KEY_BYTES]>,
    public: [u8; KEY_BYTES],
}

impl fmt::Debug for SealKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealKey({:02x?}..)", self.public.first_chunk::<4>())
    }
}

impl SealKey {
    /// Makes a new key.
    pub fn generate() -> Result<Self, BadKey> {
        let mut private = Zeroizing::new([0; KEY_BYTES]);
        SystemRandom::new()
            .fill(&mut *private)
            .map_err(|_| BadKey)?;
        Self::from_private(private)
    }

    /// The key with this private part.
    pub fn from_private(private: Zeroizing<[u8; KEY_BYTES]>) -> Result<Self, BadKey> {
        let key = PrivateKey::from_private_key(&X25519, &*private).map_err(|_| BadKey)?;
        let public = key.compute_public_key().map_err(|_| BadKey)?;
        let public = public.as_ref().try_into().map_err(|_| BadKey)?;
        Ok(Self { private, public })
    }

    /// What everybody may know.
    pub const fn public(&self) -> &[u8; KEY_BYTES] {
        &self.public
    }

    /// What nobody else may know. For the file and the box that keep it.
    pub const fn private(&self) -> &Zeroizing<[u8; KEY_BYTES]> {
        &self.private
    }

    /// HKDF over the agreement with `peer`. A peer's point that agrees with everybody is refused.
    fn derive(&self, peer: &[u8; KEY_BYTES], info: &[&[u8]], out: &mut [u8]) -> Result<(), BadKey> {
        let own = PrivateKey::from_private_key(&X25519, &*self.private).map_err(|_| BadKey)?;
        agree(
            &own,
            UnparsedPublicKey::new(&X25519, peer),
            BadKey,
            |shared| {
                let prk = hkdf::Salt::new(hkdf::HKDF_SHA256, EXTRACT).extract(shared);
                let okm = prk.expand(info, Length(out.len())).map_err(|_| BadKey)?;
                okm.fill(out).map_err(|_| BadKey)
            },
        )
    }

    /// The key for the names that the owner of this key mints, as `pair`'s caller.
    pub fn minting(&self, pair: &Pair<'_>, target: &[u8; KEY_BYTES]) -> Result<PairKey, BadKey> {
        self.pair_key(pair, target, &self.public, target)
    }

    /// The key for the names that the owner of this key opens, as `pair`'s target.
    pub fn opening(&self, pair: &Pair<'_>, caller: &[u8; KEY_BYTES]) -> Result<PairKey, BadKey> {
        self.pair_key(pair, caller, caller, &self.public)
    }

    fn pair_key(
        &self,
        pair: &Pair<'_>,
        peer: &[u8; KEY_BYTES],
        caller: &[u8; KEY_BYTES],
        target: &[u8; KEY_BYTES],
    ) -> Result<PairKey, BadKey> {
        let mut bytes = Zeroizing::new([0; PAIR_BYTES]);
        let bound = pair.bound(FOR_PAIR);
        self.derive(peer, &[&bound, caller, target], &mut *bytes)?;
        let (secret, rest) = bytes.split_first_chunk().ok_or(BadKey)?;
        let (salt, id) = rest.split_first_chunk().ok_or(BadKey)?;
        let id = id.first_chunk().copied().ok_or(BadKey)?;
        Ok(PairKey {
            id: KeyId(u32::from_be_bytes(id)),
            secret: Zeroizing::new(*secret),
            salt: Zeroizing::new(*salt),
        })
    }

    /// Hands this key's private part to a controller in a box that only its node key opens.
    pub fn boxed(
        &self,
        to: &BoxedFor<'_>,
        node_key: &[u8; KEY_BYTES],
    ) -> Result<[u8; BOX_BYTES], BadKey> {
        self.boxed_with(&Self::generate()?, to, node_key)
    }

    /// The same with the box's own key given. It must never be used twice.
    fn boxed_with(
        &self,
        once: &Self,
        to: &BoxedFor<'_>,
        node_key: &[u8; KEY_BYTES],
    ) -> Result<[u8; BOX_BYTES], BadKey> {
        let cipher = once.box_cipher(to, node_key, &once.public, node_key)?;
        let mut text = Zeroizing::new(*self.private);
        let tag = cipher
            .seal_in_place_separate_tag(
                Nonce::assume_unique_for_key(BOX_NONCE),
                Aad::from(&self.public),
                &mut *text,
            )
            .map_err(|_| BadKey)?;
        let mut all = [0; BOX_BYTES];
        let parts = once.public.iter().chain(text.iter()).chain(tag.as_ref());
        for (byte, from) in all.iter_mut().zip(parts) {
            *byte = *from;
        }
        Ok(all)
    }

    /// Opens a box with this node key. `public` is what stands beside it in the store: a box with another key in it does
    /// not open.
    pub fn unboxed(
        &self,
        to: &BoxedFor<'_>,
        public: &[u8; KEY_BYTES],
        boxed: &[u8],
    ) -> Result<Self, BadKey> {
        let boxed: &[u8; BOX_BYTES] = boxed.try_into().map_err(|_| BadKey)?;
        let (once, sealed) = boxed.split_first_chunk::<KEY_BYTES>().ok_or(BadKey)?;
        let cipher = self.box_cipher(to, once, once, &self.public)?;
        let mut text = Zeroizing::new([0; BOX_BYTES - KEY_BYTES]);
        text.copy_from_slice(sealed);
        let clear = cipher
            .open_in_place(
                Nonce::assume_unique_for_key(BOX_NONCE),
                Aad::from(public),
                &mut *text,
            )
            .map_err(|_| BadKey)?;
        let private = clear.try_into().map_err(|_| BadKey)?;
        let key = Self::from_private(Zeroizing::new(private))?;
        if key.public == *public {
            Ok(key)
        } else {
            Err(BadKey)
        }
    }

    fn box_cipher(
        &self,
        to: &BoxedFor<'_>,
        peer: &[u8; KEY_BYTES],
        once: &[u8; KEY_BYTES],
        node_key: &[u8; KEY_BYTES],
    ) -> Result<LessSafeKey, BadKey> {
        // One cluster stands for both sides: a box never leaves it.
        let pair = Pair {
            domain: to.domain,
            caller: to.cluster,
            target: to.cluster,
        };
        let bound = pair.bound(FOR_BOX);
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        self.derive(peer, &[&bound, once, node_key], &mut *key)?;
        UnboundKey::new(&AES_256_GCM, &*key)
            .map(LessSafeKey::new)
            .map_err(|_| BadKey)
    }
}

/// Whose boxes. A node may come back under another id, so a box knows its key alone.
#[derive(Clone, Copy, Debug)]
pub struct BoxedFor<'a> {
    /// The federation's domain.
    pub domain: &'a Domain,
    /// The cluster whose seal key is in it, and whose controller opens it.
    pub cluster: &'a ClusterName,
}

/// What two clusters agree on for one direction and one key of each.
pub struct PairKey {
    id: KeyId,
    secret: Zeroizing<[u8; KEY_BYTES]>,
    salt: Zeroizing<[u8; KEY_BYTES]>,
}

impl fmt::Debug for PairKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PairKey({:08x})", self.id.0)
    }
}

impl PairKey {
    /// Its id.
    pub const fn id(&self) -> KeyId {
        self.id
    }

    /// What opens the pair's names. For gateways.
    pub const fn secret(&self) -> &Zeroizing<[u8; KEY_BYTES]> {
        &self.secret
    }

    /// The minter under this key.
    pub fn minter(&self, pair: &Pair<'_>) -> Result<Minter, BadKey> {
        Minter::new(pair, self.id, &self.secret, &self.salt)
    }

    /// The opener under this key.
    pub fn opener(&self, pair: &Pair<'_>) -> Result<Opener, BadKey> {
        Opener::new(pair, self.id, &self.secret)
    }
}

#[cfg(test)]
mod tests;
