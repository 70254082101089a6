//! TLS configurations: 1.3 only, mutual by default, identity checked against the trust map and nothing else.
//!
//! Owns no state of its own: every configuration reads the certificate from a [`SvidCell`] and the trust from a
//! [`TrustCell`] at each handshake, so one configuration lasts as long as the process. It must never resume a session: a
//! revoked identity would live on in it.

use std::{collections::BTreeSet, fmt, io, sync::Arc};

use rustls::{
    AlertDescription, CertificateError, ClientConfig, ClientConnection, OtherError, ServerConfig,
    client::Resumption,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, ServerName},
};
use tradewind_api::{ClusterName, Domain, SpiffeId, TrustDomain};

use crate::{
    svid::SvidCell,
    trust::{PeerIdentity, Refused, TrustCell, Usage},
};

mod stream;
mod verifier;

pub use stream::{Cork, Stream};

use verifier::{ClientVerifier, PinnedVerifier, ServerVerifier};

/// The only application protocol spoken inside: HTTP/2.
pub const ALPN: &[u8] = b"h2";

/// Whom a dialler is ready to talk to. The peer is a member of the federation in every case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Any member.
    AnyMember,
    /// One of these, as the catalog knows them for a service.
    OneOf(Arc<BTreeSet<SpiffeId>>),
    /// A controller of this cluster.
    ControllerOf(TrustDomain),
    /// A controller of any cluster.
    AnyController,
}

impl Expect {
    /// True when `id` is one of those expected.
    pub fn admits(&self, id: &SpiffeId) -> bool {
        match self {
            Self::AnyMember => true,
            Self::OneOf(ids) => ids.contains(id),
            Self::ControllerOf(domain) => {
                id.is_controller() && id.trust_domain_str() == domain.as_str()
            }
            Self::AnyController => id.is_controller(),
        }
    }
}

/// Whether a server insists on a client certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    /// No certificate, no connection.
    Required,
    /// A caller without one is let in, as nobody. A bad one is refused all the same.
    Optional,
}

/// aws-lc-rs, the hybrid post-quantum key exchange first, AES before ChaCha20 (4 to 8 times dearer where there is AES).
fn provider() -> Arc<CryptoProvider> {
    use aws_lc_rs::{cipher_suite as suite, kx_group};
    Arc::new(CryptoProvider {
        cipher_suites: vec![
            suite::TLS13_AES_128_GCM_SHA256,
            suite::TLS13_AES_256_GCM_SHA384,
            suite::TLS13_CHACHA20_POLY1305_SHA256,
        ],
        kx_groups: vec![
            kx_group::X25519MLKEM768,
            kx_group::X25519,
            kx_group::SECP256R1,
        ],
        ..aws_lc_rs::default_provider()
    })
}

#[expect(
    clippy::expect_used,
    reason = "the provider above has TLS 1.3 suites and groups; every test makes a configuration"
)]
fn client_builder() -> rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier> {
    ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3 with our provider")
}

fn finish(mut config: ClientConfig) -> Arc<ClientConfig> {
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    Arc::new(config)
}

/// For dialling with our certificate.
pub fn client_config(svid: &SvidCell, trust: &TrustCell, expect: Expect) -> Arc<ClientConfig> {
    finish(
        client_builder()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(ServerVerifier::new(trust, expect)))
            .with_client_cert_resolver(Arc::new(svid.clone())),
    )
}

/// For dialling as nobody: only a controller's signing service answers such a caller.
pub fn anonymous_client_config(trust: &TrustCell, expect: Expect) -> Arc<ClientConfig> {
    finish(
        client_builder()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(ServerVerifier::new(trust, expect)))
            .with_no_client_auth(),
    )
}

/// For dialling as nobody with nothing but a root's hash, as a join token carries it: the server must be a controller of
/// `cluster`, its chain (leaf, authority, root) must hold, and the root it sends must hash to `root_sha256`.
pub fn pinned_client_config(
    root_sha256: [u8; 32],
    domain: &Domain,
    cluster: &ClusterName,
) -> Arc<ClientConfig> {
    pinned([root_sha256].into(), Some(domain.clone()), cluster)
}

/// The same with whole roots, which say nothing of the federation's domain: it is the one that the server's certificate names.
/// A root signs for one federation alone, so that a member of another is refused as well.
pub fn rooted_client_config(
    roots_sha256: BTreeSet<[u8; 32]>,
    cluster: &ClusterName,
) -> Arc<ClientConfig> {
    pinned(roots_sha256, None, cluster)
}

/// The domain of the federation that a server's certificate names, once a handshake by [`rooted_client_config`] has proven it.
pub fn proven_domain(leaf: &CertificateDer<'_>) -> Option<Domain> {
    verifier::domain_of(leaf).ok()
}

fn pinned(
    roots_sha256: BTreeSet<[u8; 32]>,
    domain: Option<Domain>,
    cluster: &ClusterName,
) -> Arc<ClientConfig> {
    let verifier = PinnedVerifier::new(roots_sha256, domain, cluster);
    finish(
        client_builder()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth(),
    )
}

/// The ClientHello of a client that wants to hear nothing but what a gateway says to its server name. It goes out as it is,
/// outside of any session: nothing that is said to it is believed as an identity.
pub fn hello(
    config: &Arc<ClientConfig>,
    name: ServerName<'static>,
) -> Result<Vec<u8>, rustls::Error> {
    let mut client = ClientConnection::new(Arc::clone(config), name)?;
    let mut hello = Vec::new();
    // A vector takes all of it.
    client
        .write_tls(&mut hello)
        .map_err(|e| rustls::Error::General(e.to_string()))?;
    Ok(hello)
}

/// For listening.
#[expect(
    clippy::expect_used,
    reason = "the provider above has TLS 1.3 suites and groups; every test makes a configuration"
)]
pub fn server_config(
    svid: &SvidCell,
    trust: &TrustCell,
    client_auth: ClientAuth,
) -> Arc<ServerConfig> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3 with our provider")
        .with_client_cert_verifier(Arc::new(ClientVerifier::new(trust, client_auth)))
        .with_cert_resolver(Arc::new(svid.clone()));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Arc::new(config)
}

/// Who the peer of a finished handshake is, by the trust map of this moment. `None`: it sent no certificate, or it was
/// revoked since the handshake.
pub fn peer_of(
    certificates: &[CertificateDer<'_>],
    trust: &TrustCell,
    now_unix_s: u64,
    usage: Usage,
) -> Option<PeerIdentity> {
    let leaf = certificates.first()?;
    trust.load().verify(leaf, now_unix_s, usage).ok()
}

/// Our reason inside of a failed handshake's error, if we refused the peer (and not it us).
pub fn refused_in(error: &io::Error) -> Option<Refused> {
    let inner = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    let rustls::Error::InvalidCertificate(why) = inner else {
        return None;
    };
    match why {
        CertificateError::Other(OtherError(inner)) => inner.downcast_ref::<Refused>().copied(),
        CertificateError::BadEncoding => Some(Refused::Malformed),
        CertificateError::Expired => Some(Refused::Expired),
        CertificateError::NotValidYet => Some(Refused::NotYetValid),
        CertificateError::UnknownIssuer => Some(Refused::UnknownAuthority),
        CertificateError::ApplicationVerificationFailure => Some(Refused::UnexpectedIdentity),
        _ => None,
    }
}

/// Why a gateway did not pass a handshake on, if that is what ended it. Endpoints refuse callers later: in TLS 1.3 the
/// caller's handshake is over before they have seen its certificate.
pub fn gateway_refusal_in(error: &io::Error) -> Option<GatewayRefusal> {
    let inner = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    let rustls::Error::AlertReceived(alert) = inner else {
        return None;
    };
    match alert {
        AlertDescription::AccessDenied => Some(GatewayRefusal::Name),
        AlertDescription::CertificateExpired => Some(GatewayRefusal::Expired),
        AlertDescription::UnrecognisedName => Some(GatewayRefusal::Service),
        AlertDescription::CertificateUnobtainable => Some(GatewayRefusal::Unreached),
        _ => None,
    }
}

/// See [`gateway_refusal_in`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GatewayRefusal {
    /// It cannot open the name, or takes none in clear.
    #[error(
        "the gateway does not take this name: it was sealed with a key that the gateway has not got, or not at all, or \
         it is this cluster's own and runs without --pass-on; compare `tradewind status` in both clusters, and see docs/sealed-names.md"
    )]
    Name,
    /// The name was good once.
    #[error(
        "the gateway says that the name has expired: this cluster's controller has made no new one for a day; \
         see that it runs and that the clocks of both clusters are right"
    )]
    Expired,
    /// The name is good, and there is nothing behind it.
    #[error("the gateway's cluster does not export the service, or not this port")]
    Service,
    /// It was to pass the connection on, and reached none of the other cluster's gateways.
    #[error("this cluster's own gateway reaches no gateway of the endpoint's cluster")]
    Unreached,
}

/// The alert that a refused peer is told, and what [`refused_in`] reads back.
fn to_rustls(refused: Refused) -> rustls::Error {
    let why = match refused {
        Refused::Malformed => CertificateError::BadEncoding,
        Refused::Expired => CertificateError::Expired,
        Refused::NotYetValid => CertificateError::NotValidYet,
        Refused::UnknownAuthority => CertificateError::UnknownIssuer,
        Refused::UnexpectedIdentity => CertificateError::ApplicationVerificationFailure,
        Refused::NoSpiffeId
        | Refused::ManyNames
        | Refused::MaySign
        | Refused::WrongKeyUsage
        | Refused::UnknownTrustDomain
        | Refused::WrongRoot => CertificateError::Other(OtherError(Arc::new(refused))),
    };
    rustls::Error::InvalidCertificate(why)
}

/// Redacted: a configuration's verifier shows whom it expects, never a key.
struct Quiet<'a>(&'a str, &'a dyn fmt::Debug);

impl fmt::Debug for Quiet<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct(self.0)
            .field("expect", self.1)
            .finish_non_exhaustive()
    }
}
