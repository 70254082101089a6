//! Why a peer was refused: a closed set, each with a label for metrics and a sentence for logs.
//!
//! Owns nothing. A variant is added only with its label; labels are never renamed.

/// Why a peer's certificate was not accepted. Always the peer's fault, or a revocation; never worth a retry at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refused {
    /// Not a certificate, or one that says the same thing twice.
    #[error("the certificate cannot be read")]
    Malformed,
    /// No URI SAN, or one that is no SPIFFE id.
    #[error("the certificate carries no SPIFFE id")]
    NoSpiffeId,
    /// A certificate must name one workload.
    #[error("the certificate carries more than one URI name")]
    ManyNames,
    /// A CA must not speak for a workload.
    #[error("the certificate is a CA's or may sign others")]
    MaySign,
    /// The certificate is not made for TLS signatures by both sides.
    #[error("the certificate's key usage does not fit")]
    WrongKeyUsage,
    /// No authority of that trust domain is accepted: never joined, or removed.
    #[error("no authority of the certificate's trust domain is accepted")]
    UnknownTrustDomain,
    /// Not signed by an accepted authority below one of our roots.
    #[error("the certificate's authority is not accepted")]
    UnknownAuthority,
    /// Past its end, or its authority's or root's.
    #[error("the certificate or its authority expired")]
    Expired,
    /// Before its beginning: a clock is wrong.
    #[error("the certificate is not valid yet")]
    NotYetValid,
    /// A true member, but not the one that was expected.
    #[error("the peer is not the one expected")]
    UnexpectedIdentity,
    /// Not the root that was pinned.
    #[error("the peer's root is not the pinned one")]
    WrongRoot,
}

impl Refused {
    /// Every reason, for registering metrics.
    pub const ALL: [Self; 11] = [
        Self::Malformed,
        Self::NoSpiffeId,
        Self::ManyNames,
        Self::MaySign,
        Self::WrongKeyUsage,
        Self::UnknownTrustDomain,
        Self::UnknownAuthority,
        Self::Expired,
        Self::NotYetValid,
        Self::UnexpectedIdentity,
        Self::WrongRoot,
    ];

    /// The metric label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::NoSpiffeId => "no_spiffe_id",
            Self::ManyNames => "many_names",
            Self::MaySign => "may_sign",
            Self::WrongKeyUsage => "wrong_key_usage",
            Self::UnknownTrustDomain => "unknown_trust_domain",
            Self::UnknownAuthority => "unknown_authority",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::UnexpectedIdentity => "unexpected_identity",
            Self::WrongRoot => "wrong_root",
        }
    }

    /// Path building's verdict in our words.
    pub(super) const fn from_path(error: &webpki::Error) -> Self {
        use webpki::Error as E;
        match error {
            E::CertExpired { .. } => Self::Expired,
            E::CertNotValidYet { .. } => Self::NotYetValid,
            E::CaUsedAsEndEntity => Self::MaySign,
            E::RequiredEkuNotFoundContext(_) | E::EmptyEkuExtension => Self::WrongKeyUsage,
            E::BadDer
            | E::BadDerTime
            | E::ExtensionValueInvalid
            | E::InvalidCertValidity
            | E::InvalidSerialNumber
            | E::MalformedExtensions
            | E::TrailingData(_)
            | E::UnsupportedCertVersion
            | E::UnsupportedCriticalExtension => Self::Malformed,
            // Everything else says that no accepted authority vouches for the leaf.
            _ => Self::UnknownAuthority,
        }
    }
}
