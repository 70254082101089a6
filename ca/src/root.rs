//! The federation's root: it signs one authority per cluster and nothing else.
//!
//! Owns the root key. It lives in the founding cluster's data directory, never in the store and never on the wire.

use std::{fmt, path::Path};

use rcgen::Issuer as Signer;
use rustls_pki_types::CertificateDer;
use tradewind_api::{ClusterName, Domain};
use tradewind_transport::trust::sha256;

use crate::{
    issuer::IssueError,
    key::CaKey,
    mint::{self, Validity},
    stored::{self, Pair, StoredError},
};

/// Ten years: rotating a root needs every cluster.
pub const ROOT_LIFETIME_S: u64 = 3650 * 24 * 3600;

/// One year, or what is left of the root's life.
pub const AUTHORITY_LIFETIME_S: u64 = 365 * 24 * 3600;

const KEY_FILE: &str = "root.key";
const CERTIFICATE_FILE: &str = "root.pem";

/// The root certificate and its key.
pub struct Root {
    key: CaKey,
    der: Vec<u8>,
    validity: Validity,
}

impl Root {
    /// Makes a new root for `domain`.
    pub fn generate(domain: &Domain, now_unix_ms: u64) -> Result<Self, IssueError> {
        let key = CaKey::generate().map_err(IssueError::Sign)?;
        let validity = Validity::within(None, now_unix_ms, ROOT_LIFETIME_S)?;
        let name = mint::ca_name("Tradewind root", domain.as_str())?;
        let params = mint::ca_params(name, validity, 1, None)?;
        let certificate = params.self_signed(key.pair()).map_err(IssueError::Sign)?;
        Ok(Self {
            der: certificate.der().to_vec(),
            key,
            validity,
        })
    }

    /// The certificate, DER.
    pub fn cert_der(&self) -> &[u8] {
        &self.der
    }

    /// SHA-256 of the certificate, as join tokens carry it.
    pub fn sha256(&self) -> [u8; 32] {
        sha256(&self.der)
    }

    /// Signs a cluster's authority: CA, no CA below it, named `spiffe://<cluster>.<domain>`. The caller has checked that
    /// the asker is that cluster; the request's own wishes are ignored.
    pub fn sign_authority(
        &self,
        csr_der: &[u8],
        cluster: &ClusterName,
        domain: &Domain,
        now_unix_ms: u64,
    ) -> Result<Vec<u8>, IssueError> {
        let request = mint::request(csr_der)?;
        let validity = Validity::within(Some(self.validity), now_unix_ms, AUTHORITY_LIFETIME_S)?;
        let name = mint::ca_name("Tradewind authority", cluster.as_str())?;
        let trust_domain = domain.trust_domain(cluster);
        let params = mint::ca_params(name, validity, 0, Some(&trust_domain))?;
        let der = CertificateDer::from(self.der.as_slice());
        let signer = Signer::from_ca_cert_der(&der, self.key.pair()).map_err(IssueError::Sign)?;
        let certificate = params
            .signed_by(&request.public_key, &signer)
            .map_err(IssueError::Sign)?;
        Ok(certificate.der().to_vec())
    }

    /// Writes `root.key` (mode 0600) and `root.pem` into `dir`, durably.
    pub fn save(&self, dir: &Path) -> Result<(), StoredError> {
        stored::write_key(&dir.join(KEY_FILE), &self.key)?;
        stored::write_certificates(&dir.join(CERTIFICATE_FILE), &[&self.der])
    }

    /// Reads what [`Root::save`] wrote. `None`: there is no root here.
    pub fn load(dir: &Path) -> Result<Option<Self>, StoredError> {
        let (key_path, path) = (dir.join(KEY_FILE), dir.join(CERTIFICATE_FILE));
        let Some(Pair { key, chain }) = stored::read_pair(&key_path, &path)? else {
            return Ok(None);
        };
        let [der] = chain.as_slice() else {
            return Err(StoredError::certificate(&path, "expected one certificate"));
        };
        let validity = stored::ca_validity(&path, der, &key)?.1;
        Ok(Some(Self {
            key,
            der: der.clone(),
            validity,
        }))
    }
}

impl fmt::Debug for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Root")
            .field("validity", &self.validity)
            .finish_non_exhaustive()
    }
}
