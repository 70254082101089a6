//! A cluster's authority key, from its making until it has a certificate.
//!
//! Owns the key. It is made in the cluster that uses it and goes nowhere but into `authority.key` (mode 0600).

use std::path::Path;

use tradewind_api::{ClusterName, Domain, TrustDomain};

use crate::{
    issuer::{IssueError, Issuer},
    key::CaKey,
    mint,
    stored::{self, Pair, StoredError},
};

const KEY_FILE: &str = "authority.key";
const CERTIFICATE_FILE: &str = "authority.pem";

/// The key of one cluster's authority.
#[derive(Debug)]
pub struct AuthorityKey {
    pub(crate) key: CaKey,
    pub(crate) trust_domain: TrustDomain,
}

impl AuthorityKey {
    /// Makes a new key.
    pub fn generate(cluster: &ClusterName, domain: &Domain) -> Result<Self, IssueError> {
        Ok(Self {
            key: CaKey::generate().map_err(IssueError::Sign)?,
            trust_domain: domain.trust_domain(cluster),
        })
    }

    /// Whose it is.
    pub const fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// A PKCS#10 request, DER, for [`crate::Root::sign_authority`].
    pub fn csr_der(&self) -> Result<Vec<u8>, IssueError> {
        mint::authority_request(&self.key, &self.trust_domain)
    }

    /// Writes `authority.key` (mode 0600) and `authority.pem` (authority and root) into `dir`, durably.
    pub fn save(
        &self,
        dir: &Path,
        authority_der: &[u8],
        root_der: &[u8],
    ) -> Result<(), StoredError> {
        stored::write_key(&dir.join(KEY_FILE), &self.key)?;
        stored::write_certificates(&dir.join(CERTIFICATE_FILE), &[authority_der, root_der])
    }

    /// Reads what [`AuthorityKey::save`] wrote, ready to issue. `None`: there is no authority here.
    pub fn load(dir: &Path) -> Result<Option<Issuer>, StoredError> {
        let (key_path, path) = (dir.join(KEY_FILE), dir.join(CERTIFICATE_FILE));
        let Some(Pair { key, chain }) = stored::read_pair(&key_path, &path)? else {
            return Ok(None);
        };
        let [authority_der, root_der] = chain.as_slice() else {
            let what = "expected two certificates, the authority and the root";
            return Err(StoredError::certificate(&path, what));
        };
        let (named, _) = stored::ca_validity(&path, authority_der, &key)?;
        let Some(trust_domain) = named else {
            return Err(StoredError::certificate(&path, "it names no trust domain"));
        };
        let key = Self { key, trust_domain };
        Issuer::new(key, authority_der.clone(), root_der.clone())
            .map(Some)
            .map_err(|e| StoredError::certificate(&path, &e.to_string()))
    }
}
