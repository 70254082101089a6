//! The certificate this process presents, and the cell that every TLS configuration reads it from.
//!
//! Owns the current certificate and key. It must never hold a certificate whose key is another one, and never serve a
//! certificate that is not a SPIFFE workload certificate.

use std::{fmt, sync::Arc};

use arc_swap::ArcSwapOption;
use rustls::{
    SignatureScheme,
    client::ResolvesClientCert,
    pki_types::CertificateDer,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio::sync::watch;
use tradewind_api::SpiffeId;

use crate::{
    keys::WorkloadKey,
    trust::{LeafFacts, Refused},
};

/// Longest chain served: leaf, authority, root, and one more while authorities rotate.
const MAX_CHAIN: usize = 4;

/// Why a signed chain was not taken.
#[derive(Debug, thiserror::Error)]
pub enum SvidError {
    /// Nothing, or far too much.
    #[error("the chain has {0} certificates, expected 1 to {MAX_CHAIN}")]
    ChainLength(usize),
    /// The leaf breaks a rule every peer would refuse it for.
    #[error("the leaf is not a workload certificate: {0}")]
    Leaf(#[from] Refused),
    /// The leaf carries another public key, or the key cannot be used.
    #[error("the leaf does not fit the private key: {0}")]
    Key(rustls::Error),
}

/// One certificate with its chain and key.
pub struct Svid {
    /// Whom it names.
    pub id: SpiffeId,
    /// Start of validity, Unix seconds.
    pub not_before_unix_s: i64,
    /// End of validity, Unix seconds.
    pub not_after_unix_s: i64,
    /// As rustls presents it: leaf, authority, root.
    pub certified: Arc<CertifiedKey>,
}

impl Svid {
    /// Takes what a signer returned, after checking that it names one workload and belongs to `key`.
    pub fn new(key: &WorkloadKey, chain_der: &[Vec<u8>]) -> Result<Self, SvidError> {
        let leaf = match chain_der {
            [leaf, ..] if chain_der.len() <= MAX_CHAIN => leaf,
            _ => return Err(SvidError::ChainLength(chain_der.len())),
        };
        let facts = LeafFacts::parse(leaf)?;
        let chain = chain_der
            .iter()
            .map(|der| CertificateDer::from(der.clone()));
        let certified = CertifiedKey::new(chain.collect(), key.signer().map_err(SvidError::Key)?);
        certified.keys_match().map_err(SvidError::Key)?;
        Ok(Self {
            id: facts.id,
            not_before_unix_s: facts.not_before_unix_s,
            not_after_unix_s: facts.not_after_unix_s,
            certified: Arc::new(certified),
        })
    }
}

impl fmt::Debug for Svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Svid")
            .field("id", &self.id)
            .field("not_before_unix_s", &self.not_before_unix_s)
            .field("not_after_unix_s", &self.not_after_unix_s)
            .finish_non_exhaustive()
    }
}

/// Where every TLS configuration of a process finds the current certificate. Cloning shares it.
#[derive(Clone)]
pub struct SvidCell(Arc<Inner>);

struct Inner {
    current: ArcSwapOption<Svid>,
    changed: watch::Sender<Option<Arc<Svid>>>,
}

impl SvidCell {
    /// A cell that holds none yet: handshakes that need one fail until [`SvidCell::set`].
    pub fn empty() -> Self {
        Self(Arc::new(Inner {
            current: ArcSwapOption::empty(),
            changed: watch::Sender::new(None),
        }))
    }

    /// Serves `svid` in every handshake that starts from now on.
    pub fn set(&self, svid: Svid) {
        let svid = Arc::new(svid);
        self.0.current.store(Some(Arc::clone(&svid)));
        self.0.changed.send_replace(Some(svid));
    }

    /// What is served now.
    pub fn current(&self) -> Option<Arc<Svid>> {
        self.0.current.load_full()
    }

    /// Follows changes.
    pub fn watch(&self) -> watch::Receiver<Option<Arc<Svid>>> {
        self.0.changed.subscribe()
    }

    fn certified(&self) -> Option<Arc<CertifiedKey>> {
        let current = self.0.current.load();
        current.as_ref().map(|svid| Arc::clone(&svid.certified))
    }
}

impl Default for SvidCell {
    fn default() -> Self {
        Self::empty()
    }
}

impl fmt::Debug for SvidCell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SvidCell").field(&self.current()).finish()
    }
}

impl ResolvesServerCert for SvidCell {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.certified()
    }
}

impl ResolvesClientCert for SvidCell {
    fn resolve(
        &self,
        _root_hints: &[&[u8]],
        _schemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        self.certified()
    }

    // Always true: rustls asks once, when the configuration is made, and the certificate may come later.
    fn has_certs(&self) -> bool {
        true
    }
}
