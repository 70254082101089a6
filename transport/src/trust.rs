//! Whom to believe: the one place where a peer's certificate is checked.
//!
//! Owns the compiled trust map of this process. A peer is accepted when its leaf is a SPIFFE workload certificate, its
//! issuer stands in the trust map as an accepted authority of the leaf's own trust domain, and that authority ends in a
//! root of the federation. Certificates that the peer sends beside its leaf are never used: the authorities are ours. So
//! removing an authority from the map revokes everything below it. Nothing may accept a peer by another way.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, LazyLock},
    time::Duration,
};

use arc_swap::ArcSwap;
use aws_lc_rs::digest;
use rustls::pki_types::{CertificateDer, SignatureVerificationAlgorithm, TrustAnchor, UnixTime};
use tokio::sync::watch;
use tradewind_api::{SpiffeId, TrustDomain, snapshot::Trust};
use webpki::EndEntityCert;

mod certificate;
mod refused;

pub use certificate::{AuthorityFacts, LeafFacts};
pub use refused::Refused;

/// The signatures accepted in chains. Ours are all ECDSA over P-256; P-384 is there for a root kept in hardware.
static CHAIN_SIGNATURES: &[&dyn SignatureVerificationAlgorithm] = &[
    webpki::aws_lc_rs::ECDSA_P256_SHA256,
    webpki::aws_lc_rs::ECDSA_P384_SHA384,
];

/// SHA-256.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    // Always 32 bytes; a shorter one would leave zeros, which match nothing.
    for (to, from) in out
        .iter_mut()
        .zip(digest::digest(&digest::SHA256, bytes).as_ref())
    {
        *to = *from;
    }
    out
}

/// Why a trust map was not taken. The former one stays in force.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TrustError {
    /// An empty set of roots would refuse every peer, and is never what a controller means.
    #[error("the trust map names no root")]
    NoRoot,
    /// None of the roots can be read.
    #[error("none of the {0} roots is a CA certificate")]
    NoUsableRoot(usize),
}

/// What the peer does in the handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Usage {
    /// It dialled us.
    Client,
    /// We dialled it.
    Server,
}

/// A peer that passed [`TrustMap::verify`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerIdentity {
    /// Its SPIFFE id.
    pub id: SpiffeId,
    /// SHA-256 of the authority certificate that signed it: with it, [`TrustMap::accepts`] sees a later revocation.
    pub authority_sha256: [u8; 32],
    /// End of its certificate, Unix seconds.
    pub not_after_unix_s: i64,
}

/// A certificate of the trust map that was left out, and why: it accepts nobody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// Its trust domain; `None` for a root.
    pub trust_domain: Option<TrustDomain>,
    /// SHA-256 of the certificate.
    pub sha256: [u8; 32],
    /// What is wrong with it.
    pub why: &'static str,
}

/// One trust domain's accepted authorities, as path building wants them, with their hashes in the same order.
#[derive(Default)]
struct Authorities {
    certificates: Vec<CertificateDer<'static>>,
    sha256: Vec<[u8; 32]>,
}

/// Roots and authorities, ready for checking. Immutable: a change is a new map.
#[derive(Default)]
pub struct TrustMap {
    anchors: Vec<TrustAnchor<'static>>,
    // In the order of `anchors`: webpki does not look at an anchor's dates. Unix seconds.
    anchor_validity: Vec<(i64, i64)>,
    authorities: HashMap<String, Authorities>,
    left_out: Vec<LeftOut>,
}

impl TrustMap {
    /// Reads every certificate once. A broken authority is left out rather than failing the map, so that one cluster's
    /// mistake cannot hold back another's revocation; see [`TrustMap::left_out`].
    pub fn compile(trust: &Trust) -> Result<Self, TrustError> {
        if trust.roots.is_empty() {
            return Err(TrustError::NoRoot);
        }
        let mut map = Self::default();
        for der in &trust.roots {
            map.add_root(der);
        }
        if map.anchors.is_empty() {
            return Err(TrustError::NoUsableRoot(trust.roots.len()));
        }
        for (domain, certificates) in &trust.authorities {
            for der in certificates {
                map.add_authority(domain, der);
            }
        }
        Ok(map)
    }

    fn add_root(&mut self, der: &[u8]) {
        let certificate = CertificateDer::from(der);
        let facts = AuthorityFacts::parse(der).map_err(|refused| refused.as_str());
        let anchor = webpki::anchor_from_trusted_cert(&certificate)
            .map(|a| a.to_owned())
            .map_err(|_| "not a certificate");
        match facts.and_then(|f| anchor.map(|a| (f, a))) {
            Ok((facts, anchor)) => {
                self.anchors.push(anchor);
                self.anchor_validity
                    .push((facts.not_before_unix_s, facts.not_after_unix_s));
            }
            Err(why) => self.left_out.push(LeftOut {
                trust_domain: None,
                sha256: sha256(der),
                why,
            }),
        }
    }

    fn add_authority(&mut self, domain: &TrustDomain, der: &[u8]) {
        let named = AuthorityFacts::parse(der)
            .map_err(|refused| refused.as_str())
            .and_then(|facts| match facts.trust_domain {
                Some(named) if named == *domain => Ok(()),
                Some(_) => Err("its URI SAN names another trust domain"),
                None => Err("it has no single URI SAN that names a trust domain"),
            });
        let sha256 = sha256(der);
        match named {
            Ok(()) => {
                let entry = self.authorities.entry(domain.as_str().to_owned());
                let entry = entry.or_default();
                entry.certificates.push(CertificateDer::from(der.to_vec()));
                entry.sha256.push(sha256);
            }
            Err(why) => self.left_out.push(LeftOut {
                trust_domain: Some(domain.clone()),
                sha256,
                why,
            }),
        }
    }

    /// Certificates that were given but accept nobody.
    pub fn left_out(&self) -> &[LeftOut] {
        &self.left_out
    }

    /// True while nothing was ever set: nobody is accepted.
    pub fn is_empty(&self) -> bool {
        self.anchors.is_empty()
    }

    /// The whole check: what the X.509-SVID standard asks of a validator, and that the trust map accepts the authority.
    pub fn verify(
        &self,
        leaf_der: &[u8],
        now_unix_s: u64,
        usage: Usage,
    ) -> Result<PeerIdentity, Refused> {
        let facts = LeafFacts::parse(leaf_der)?;
        let ours = self
            .authorities
            .get(facts.id.trust_domain_str())
            .ok_or(Refused::UnknownTrustDomain)?;
        let der = CertificateDer::from(leaf_der);
        let leaf = EndEntityCert::try_from(&der).map_err(|_| Refused::Malformed)?;
        let usage = match usage {
            Usage::Client => webpki::KeyUsage::client_auth(),
            Usage::Server => webpki::KeyUsage::server_auth(),
        };
        let path = leaf
            .verify_for_usage(
                CHAIN_SIGNATURES,
                &self.anchors,
                &ours.certificates,
                UnixTime::since_unix_epoch(Duration::from_secs(now_unix_s)),
                usage,
                None,
                None,
            )
            .map_err(|e| Refused::from_path(&e))?;
        // Exactly one authority between leaf and root: a root that signs leaves is outside of the trust map.
        let mut between = path.intermediate_certificates();
        let (Some(authority), None) = (between.next(), between.next()) else {
            return Err(Refused::UnknownAuthority);
        };
        let authority = authority.der();
        let position = ours.certificates.iter().position(|c| *c == authority);
        let authority_sha256 = position
            .and_then(|at| ours.sha256.get(at))
            .ok_or(Refused::UnknownAuthority)?;
        self.root_in_force(path.anchor(), now_unix_s)?;
        Ok(PeerIdentity {
            id: facts.id,
            authority_sha256: *authority_sha256,
            not_after_unix_s: facts.not_after_unix_s,
        })
    }

    fn root_in_force(&self, anchor: &TrustAnchor<'_>, now_unix_s: u64) -> Result<(), Refused> {
        let now = i64::try_from(now_unix_s).unwrap_or(i64::MAX);
        let validity = self
            .anchors
            .iter()
            .zip(&self.anchor_validity)
            .filter(|(a, _)| {
                a.subject == anchor.subject
                    && a.subject_public_key_info == anchor.subject_public_key_info
            });
        // The same root under two certificates, as in a renewal: one in force is enough.
        let mut refused = Refused::UnknownAuthority;
        for (_, (not_before, not_after)) in validity {
            if now < *not_before {
                refused = Refused::NotYetValid;
            } else if now > *not_after {
                refused = Refused::Expired;
            } else {
                return Ok(());
            }
        }
        Err(refused)
    }

    /// True while the authority that vouched for `peer` is still accepted. Does not look at the time: the owner of a
    /// connection compares [`PeerIdentity::not_after_unix_s`] itself.
    pub fn accepts(&self, peer: &PeerIdentity) -> bool {
        self.authorities
            .get(peer.id.trust_domain_str())
            .is_some_and(|ours| ours.sha256.contains(&peer.authority_sha256))
    }

    /// Trust domains with at least one accepted authority.
    pub fn trust_domains(&self) -> impl Iterator<Item = &str> {
        self.authorities.keys().map(String::as_str)
    }
}

impl fmt::Debug for TrustMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut domains: Vec<_> = self.trust_domains().collect();
        domains.sort_unstable();
        f.debug_struct("TrustMap")
            .field("roots", &self.anchors.len())
            .field("trust_domains", &domains)
            .field("left_out", &self.left_out)
            .finish_non_exhaustive()
    }
}

/// Where every verifier of a process finds the current map. Cloning shares it.
#[derive(Clone)]
pub struct TrustCell(Arc<CellInner>);

struct CellInner {
    current: ArcSwap<TrustMap>,
    changed: watch::Sender<Arc<TrustMap>>,
}

static NOBODY: LazyLock<Arc<TrustMap>> = LazyLock::new(|| Arc::new(TrustMap::default()));

impl TrustCell {
    /// Accepts nobody until [`TrustCell::set`].
    pub fn empty() -> Self {
        Self::holding(Arc::clone(&NOBODY))
    }

    /// Holds `trust` from the start.
    pub fn new(trust: &Trust) -> Result<Self, TrustError> {
        TrustMap::compile(trust).map(|map| Self::holding(Arc::new(map)))
    }

    pub(crate) fn holding(map: Arc<TrustMap>) -> Self {
        Self(Arc::new(CellInner {
            current: ArcSwap::new(Arc::clone(&map)),
            changed: watch::Sender::new(map),
        }))
    }

    /// Replaces the map: every check that starts from now on uses it, and watchers re-check what they hold. On an error
    /// the former map stays.
    pub fn set(&self, trust: &Trust) -> Result<(), TrustError> {
        let map = Arc::new(TrustMap::compile(trust)?);
        self.0.current.store(Arc::clone(&map));
        self.0.changed.send_replace(map);
        Ok(())
    }

    /// The current map.
    pub fn load(&self) -> Arc<TrustMap> {
        self.0.current.load_full()
    }

    /// Follows changes, so that live connections end when their peer is revoked.
    pub fn watch(&self) -> watch::Receiver<Arc<TrustMap>> {
        self.0.changed.subscribe()
    }
}

impl Default for TrustCell {
    fn default() -> Self {
        Self::empty()
    }
}

impl fmt::Debug for TrustCell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TrustCell").field(&self.load()).finish()
    }
}

#[cfg(test)]
mod tests;
