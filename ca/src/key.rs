//! A CA's private key in memory, and its form on disk.
//!
//! Owns the key and wipes it when dropped. It must never be shown; the only way out is the PEM text for a file of mode
//! 0600.

use std::fmt;

use data_encoding::BASE64;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData};
use rustls_pki_types::{PrivatePkcs8KeyDer, pem::PemObject};
use zeroize::{Zeroize, Zeroizing};

const BEGIN: &str = "-----BEGIN PRIVATE KEY-----\n";
const END: &str = "-----END PRIVATE KEY-----\n";
/// RFC 7468.
const PEM_LINE: usize = 64;

/// An ECDSA P-256 key that signs certificates.
pub(crate) struct CaKey(KeyPair);

impl CaKey {
    pub(crate) fn generate() -> Result<Self, rcgen::Error> {
        KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map(Self)
    }

    pub(crate) const fn pair(&self) -> &KeyPair {
        &self.0
    }

    /// SubjectPublicKeyInfo, DER.
    pub(crate) fn public_der(&self) -> Vec<u8> {
        self.0.subject_public_key_info()
    }

    /// PKCS#8 as PEM. Each buffer it passes through is wiped.
    pub(crate) fn to_pem(&self) -> Zeroizing<String> {
        let text = Zeroizing::new(BASE64.encode(self.0.serialized_der()));
        // The whole room at once: a string that grows leaves copies behind.
        let lines = text.len() / PEM_LINE + 1;
        let mut pem = Zeroizing::new(String::with_capacity(
            BEGIN.len() + text.len() + lines + END.len(),
        ));
        pem.push_str(BEGIN);
        for (at, c) in text.chars().enumerate() {
            if at > 0 && at % PEM_LINE == 0 {
                pem.push('\n');
            }
            pem.push(c);
        }
        pem.push('\n');
        pem.push_str(END);
        pem
    }

    /// Reads [`CaKey::to_pem`] back. The error says what is wrong, never what stands there.
    pub(crate) fn from_pem(pem: &[u8]) -> Result<Self, &'static str> {
        let mut der = PrivatePkcs8KeyDer::from_pem_slice(pem)
            .map_err(|_| "it holds no PKCS#8 private key in PEM")?;
        let pair = KeyPair::from_pkcs8_der_and_sign_algo(&der, &PKCS_ECDSA_P256_SHA256);
        der.zeroize();
        pair.map(Self)
            .map_err(|_| "its key is not an ECDSA P-256 key")
    }
}

impl Drop for CaKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for CaKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CaKey(..)")
    }
}
