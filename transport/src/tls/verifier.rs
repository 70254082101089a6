//! rustls' verifier traits over [`crate::trust`]: which checks run at which moment of a handshake.
//!
//! Owns no rule: whom to believe is decided by `TrustMap::verify` alone, with rustls' own idea of the time.

use std::{collections::BTreeSet, fmt};

use rustls::{
    DigitallySignedStruct, DistinguishedName, Error, PeerIncompatible, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use tradewind_api::{ClusterName, Domain, TrustDomain, snapshot::Trust};

use super::{ClientAuth, Expect, Quiet, provider, to_rustls};
use crate::trust::{LeafFacts, Refused, TrustCell, TrustMap, Usage, sha256};

/// Certificates beside the leaf that a pinned dialler looks at: authority and root, and one more of each in a rotation.
const MAX_PINNED_CHAIN: usize = 4;

/// Implements what both verifier traits share. TLS 1.2 is never offered; its signatures are refused all the same.
macro_rules! signatures {
    () => {
        fn verify_tls12_signature(
            &self,
            _message: &[u8],
            _certificate: &CertificateDer<'_>,
            _signed: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Err(Error::PeerIncompatible(PeerIncompatible::Tls12NotOffered))
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signed: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls13_signature(message, certificate, signed, &self.algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.algorithms.supported_schemes()
        }
    };
}

/// Checks a server that we dialled.
pub(super) struct ServerVerifier {
    trust: TrustCell,
    expect: Expect,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerVerifier {
    pub(super) fn new(trust: &TrustCell, expect: Expect) -> Self {
        Self {
            trust: trust.clone(),
            expect,
            algorithms: provider().signature_verification_algorithms,
        }
    }
}

impl fmt::Debug for ServerVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Quiet("ServerVerifier", &self.expect).fmt(f)
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        _sent: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        check(&self.trust.load(), &self.expect, leaf, now)
            .map(|()| ServerCertVerified::assertion())
            .map_err(to_rustls)
    }

    signatures!();
}

fn check(
    trust: &TrustMap,
    expect: &Expect,
    leaf: &CertificateDer<'_>,
    now: UnixTime,
) -> Result<(), Refused> {
    let peer = trust.verify(leaf, now.as_secs(), Usage::Server)?;
    if expect.admits(&peer.id) {
        Ok(())
    } else {
        Err(Refused::UnexpectedIdentity)
    }
}

/// Checks a client that dialled us. Who may do what is decided later, by its identity.
pub(super) struct ClientVerifier {
    trust: TrustCell,
    client_auth: ClientAuth,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ClientVerifier {
    pub(super) fn new(trust: &TrustCell, client_auth: ClientAuth) -> Self {
        Self {
            trust: trust.clone(),
            client_auth,
            algorithms: provider().signature_verification_algorithms,
        }
    }
}

impl fmt::Debug for ClientVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Quiet("ClientVerifier", &self.client_auth).fmt(f)
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.client_auth == ClientAuth::Required
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        _sent: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.trust
            .load()
            .verify(leaf, now.as_secs(), Usage::Client)
            .map(|_| ClientCertVerified::assertion())
            .map_err(to_rustls)
    }

    signatures!();
}

/// The domain of the federation that a certificate's identity is of.
pub(super) fn domain_of(leaf: &CertificateDer<'_>) -> Result<Domain, Refused> {
    let id = LeafFacts::parse(leaf)?.id;
    id.trust_domain_str()
        .split_once('.')
        .and_then(|(_, domain)| Domain::new(domain).ok())
        .ok_or(Refused::UnexpectedIdentity)
}

/// Checks a server by the hashes of its roots alone: for the one call that a cluster or workload makes before it knows more.
pub(super) struct PinnedVerifier {
    roots_sha256: BTreeSet<[u8; 32]>,
    /// None is the domain that the server's own certificate names: a root signs for one federation alone.
    domain: Option<Domain>,
    cluster: ClusterName,
    algorithms: WebPkiSupportedAlgorithms,
}

impl PinnedVerifier {
    pub(super) fn new(
        roots_sha256: BTreeSet<[u8; 32]>,
        domain: Option<Domain>,
        cluster: &ClusterName,
    ) -> Self {
        Self {
            roots_sha256,
            domain,
            cluster: cluster.clone(),
            algorithms: provider().signature_verification_algorithms,
        }
    }

    /// The trust domain of the cluster that is meant.
    fn expected(&self, leaf: &CertificateDer<'_>) -> Result<(Domain, TrustDomain), Refused> {
        let domain = match &self.domain {
            Some(domain) => domain.clone(),
            None => domain_of(leaf)?,
        };
        let expected = domain.trust_domain(&self.cluster);
        Ok((domain, expected))
    }

    /// The pinned roots, and what the server sent beside it as that cluster's authorities: the ordinary check then demands
    /// that the root signed one of them, that it names the cluster, and that it signed the leaf.
    fn trust(
        &self,
        sent: &[CertificateDer<'_>],
        (domain, expected): (Domain, TrustDomain),
    ) -> Result<TrustMap, Refused> {
        let mut roots = BTreeSet::new();
        let mut authorities = BTreeSet::new();
        for certificate in sent.iter().take(MAX_PINNED_CHAIN) {
            if self.roots_sha256.contains(&sha256(certificate)) {
                roots.insert(certificate.to_vec());
            } else {
                authorities.insert(certificate.to_vec());
            }
        }
        let trust = Trust {
            domain,
            roots,
            authorities: [(expected, authorities)].into(),
        };
        TrustMap::compile(&trust).map_err(|_| Refused::WrongRoot)
    }
}

impl fmt::Debug for PinnedVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Quiet("PinnedVerifier", &self.cluster).fmt(f)
    }
}

impl ServerCertVerifier for PinnedVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        sent: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.expected(leaf)
            .and_then(|expected| {
                let expect = Expect::ControllerOf(expected.1.clone());
                check(&self.trust(sent, expected)?, &expect, leaf, now)
            })
            .map(|()| ServerCertVerified::assertion())
            .map_err(to_rustls)
    }

    signatures!();
}
