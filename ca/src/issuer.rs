//! Workload certificates, signed by a cluster's authority.
//!
//! Owns the authority's key and certificate. It must never sign a name outside of its own trust domain, nor anything that
//! outlives the authority. Whether the asker may have the name is the caller's decision.

use std::{fmt, path::Path};

use rcgen::Issuer as Signer;
use rustls_pki_types::CertificateDer;
use tradewind_api::{SpiffeId, TrustDomain};
use tradewind_transport::trust::AuthorityFacts;

use crate::{
    authority::AuthorityKey,
    mint::{self, Validity},
    stored::StoredError,
};

/// What a workload certificate lives unless said otherwise: one day.
pub const DEFAULT_LIFETIME_S: u64 = 24 * 3600;

/// Why nothing was signed.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// The asker's fault.
    #[error("the signing request has {0} bytes, far more than any of ours")]
    RequestTooLong(usize),
    /// The asker's fault: unreadable, or not signed by the key it names.
    #[error("the signing request is not valid: {0}")]
    Request(rcgen::Error),
    /// The asker's fault.
    #[error("the signing request's key is not an ECDSA P-256 key")]
    KeyKind,
    /// The asker's fault: each cluster signs for itself.
    #[error("{id} is not below {trust_domain}, this authority's trust domain")]
    OtherTrustDomain {
        /// What was asked for.
        id: SpiffeId,
        /// What this authority signs.
        trust_domain: TrustDomain,
    },
    /// The caller's fault.
    #[error("a certificate must live for at least one second")]
    NoLifetime,
    /// Ours: it should have been renewed.
    #[error("the issuing certificate ended at {0} (Unix seconds)")]
    IssuerExpired(u64),
    /// Ours: a clock is wrong.
    #[error("the issuing certificate begins only at {0} (Unix seconds); is the clock right?")]
    IssuerNotYetValid(u64),
    /// Ours: certificate and key do not belong together, or it is no authority.
    #[error("the authority's certificate cannot be used: {0}")]
    Authority(&'static str),
    /// Ours.
    #[error("the system gives no randomness")]
    Randomness,
    /// Ours.
    #[error("sign: {0}")]
    Sign(rcgen::Error),
}

impl IssueError {
    /// True when asking again with the same request cannot succeed.
    pub const fn is_askers_fault(&self) -> bool {
        matches!(
            self,
            Self::RequestTooLong(_)
                | Self::Request(_)
                | Self::KeyKind
                | Self::OtherTrustDomain { .. }
        )
    }
}

/// A signed certificate with its chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issued {
    /// DER: leaf, authority, root. The root is served too, for callers that know only its hash.
    pub chain_der: Vec<Vec<u8>>,
    /// Start of validity, Unix seconds.
    pub not_before_unix_s: i64,
    /// End of validity, Unix seconds; never after the authority's.
    pub not_after_unix_s: i64,
}

/// A cluster's authority, ready to sign.
pub struct Issuer {
    key: AuthorityKey,
    authority_der: Vec<u8>,
    root_der: Vec<u8>,
    validity: Validity,
}

impl Issuer {
    /// Joins a key with the certificate that the root signed for it.
    pub fn new(
        key: AuthorityKey,
        authority_der: Vec<u8>,
        root_der: Vec<u8>,
    ) -> Result<Self, IssueError> {
        let bad = IssueError::Authority;
        let facts =
            AuthorityFacts::parse(&authority_der).map_err(|_| bad("it is not a CA certificate"))?;
        if facts.public_key_der != key.key.public_der() {
            return Err(bad("it is for another key"));
        }
        if facts.trust_domain.as_ref() != Some(&key.trust_domain) {
            return Err(bad("it names another trust domain"));
        }
        if AuthorityFacts::parse(&root_der).is_err() {
            return Err(bad("the root beside it is not a CA certificate"));
        }
        Ok(Self {
            validity: Validity {
                not_before_unix_s: facts.not_before_unix_s.try_into().unwrap_or(0),
                not_after_unix_s: facts.not_after_unix_s.try_into().unwrap_or(0),
            },
            key,
            authority_der,
            root_der,
        })
    }

    /// The trust domain it signs for.
    pub const fn trust_domain(&self) -> &TrustDomain {
        &self.key.trust_domain
    }

    /// The authority's certificate, DER.
    pub fn authority_der(&self) -> &[u8] {
        &self.authority_der
    }

    /// The root's certificate, DER.
    pub fn root_der(&self) -> &[u8] {
        &self.root_der
    }

    /// End of the authority's validity, Unix seconds.
    pub const fn not_after_unix_s(&self) -> u64 {
        self.validity.not_after_unix_s
    }

    /// Writes key and certificates into `dir`; see [`AuthorityKey::save`].
    pub fn save(&self, dir: &Path) -> Result<(), StoredError> {
        self.key.save(dir, &self.authority_der, &self.root_der)
    }

    /// Reads what [`Issuer::save`] wrote; see [`AuthorityKey::load`].
    pub fn load(dir: &Path) -> Result<Option<Self>, StoredError> {
        AuthorityKey::load(dir)
    }

    /// Signs a certificate for `id`, over the key of the request. Everything else that the request wishes for is ignored.
    pub fn issue(
        &self,
        csr_der: &[u8],
        id: &SpiffeId,
        now_unix_ms: u64,
        lifetime_s: u64,
    ) -> Result<Issued, IssueError> {
        if id.trust_domain_str() != self.key.trust_domain.as_str() {
            return Err(IssueError::OtherTrustDomain {
                id: id.clone(),
                trust_domain: self.key.trust_domain.clone(),
            });
        }
        let request = mint::request(csr_der)?;
        let validity = Validity::within(Some(self.validity), now_unix_ms, lifetime_s)?;
        let params = mint::leaf_params(id.as_str(), validity)?;
        let der = CertificateDer::from(self.authority_der.as_slice());
        let signer =
            Signer::from_ca_cert_der(&der, self.key.key.pair()).map_err(IssueError::Sign)?;
        let leaf = params
            .signed_by(&request.public_key, &signer)
            .map_err(IssueError::Sign)?;
        let seconds = |unix_s: u64| i64::try_from(unix_s).unwrap_or(i64::MAX);
        Ok(Issued {
            chain_der: vec![
                leaf.der().to_vec(),
                self.authority_der.clone(),
                self.root_der.clone(),
            ],
            not_before_unix_s: seconds(validity.not_before_unix_s),
            not_after_unix_s: seconds(validity.not_after_unix_s),
        })
    }
}

impl fmt::Debug for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issuer")
            .field("trust_domain", &self.key.trust_domain)
            .field("validity", &self.validity)
            .finish_non_exhaustive()
    }
}
