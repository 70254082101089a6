//! A workload's private key: made in the process that uses it, never written in clear, wiped when dropped.
//!
//! Owns the key. It must never be shown, serialised or sent: what leaves is a signing request.

use std::fmt;

use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::{
    crypto::aws_lc_rs::sign::any_ecdsa_type,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    sign::SigningKey,
};
use std::sync::Arc;
use zeroize::Zeroize;

/// Why a key could not be made or used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The cryptographic library refused; in practice, no randomness.
    #[error("make a P-256 key: {0}")]
    Generate(rcgen::Error),
    /// The signing request could not be built.
    #[error("make a certificate signing request: {0}")]
    Request(rcgen::Error),
}

/// An ECDSA P-256 key.
pub struct WorkloadKey {
    pair: KeyPair,
}

impl WorkloadKey {
    /// Makes a new key.
    pub fn generate() -> Result<Self, KeyError> {
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(KeyError::Generate)?;
        Ok(Self { pair })
    }

    /// A PKCS#10 request, DER. It names nobody: the signer decides the identity, the request only proves the key.
    pub fn csr_der(&self) -> Result<Vec<u8>, KeyError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let csr = params
            .serialize_request(&self.pair)
            .map_err(KeyError::Request)?;
        Ok(csr.der().to_vec())
    }

    /// The key as PKCS#8, to be sealed and never written in clear.
    pub(crate) fn pkcs8_der(&self) -> &[u8] {
        self.pair.serialized_der()
    }

    /// The key that [`WorkloadKey::pkcs8_der`] gave.
    pub(crate) fn from_pkcs8(der: &[u8]) -> Result<Self, KeyError> {
        let der = PrivatePkcs8KeyDer::from(der);
        KeyPair::from_pkcs8_der_and_sign_algo(&der, &PKCS_ECDSA_P256_SHA256)
            .map(|pair| Self { pair })
            .map_err(KeyError::Generate)
    }

    /// The key as rustls signs with it. The encoding is borrowed, not copied.
    pub(crate) fn signer(&self) -> Result<Arc<dyn SigningKey>, rustls::Error> {
        let der = PrivatePkcs8KeyDer::from(self.pair.serialized_der());
        any_ecdsa_type(&PrivateKeyDer::Pkcs8(der))
    }
}

impl Drop for WorkloadKey {
    fn drop(&mut self) {
        self.pair.zeroize();
    }
}

impl fmt::Debug for WorkloadKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WorkloadKey(..)")
    }
}
