//! What a certificate says about itself, before anyone vouches for it.
//!
//! Owns nothing. Pure and bounded: a peer's bytes go in here first. It must not decide whom to trust.

use tradewind_api::{SpiffeId, TrustDomain};
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer};

use super::Refused;

/// Longest certificate looked at: ours are below 1 KiB, and a SPIFFE id may have 2 KiB.
const MAX_CERTIFICATE_BYTES: usize = 8 << 10;

/// A leaf that keeps every rule that can be seen on the leaf alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeafFacts {
    /// Its one URI name.
    pub id: SpiffeId,
    /// Start of validity, Unix seconds.
    pub not_before_unix_s: i64,
    /// End of validity, Unix seconds.
    pub not_after_unix_s: i64,
}

impl LeafFacts {
    /// X.509-SVID sections 2, 4 and 5.2 as far as the leaf goes: one SPIFFE id, no CA, a critical key usage with
    /// digitalSignature and no signing of certificates or lists, both TLS purposes if purposes are named.
    pub fn parse(der: &[u8]) -> Result<Self, Refused> {
        let certificate = read(der)?;
        let uris = Uris::of(&certificate)?;
        let id = match uris {
            Uris::None => return Err(Refused::NoSpiffeId),
            Uris::Many => return Err(Refused::ManyNames),
            Uris::One(text) => text.parse::<SpiffeId>(),
        };
        let constraints = certificate
            .basic_constraints()
            .map_err(|_| Refused::Malformed)?;
        if constraints.is_some_and(|c| c.value.ca) {
            return Err(Refused::MaySign);
        }
        let usage = certificate
            .key_usage()
            .map_err(|_| Refused::Malformed)?
            .ok_or(Refused::WrongKeyUsage)?;
        if usage.value.key_cert_sign() || usage.value.crl_sign() {
            return Err(Refused::MaySign);
        }
        if !usage.critical || !usage.value.digital_signature() {
            return Err(Refused::WrongKeyUsage);
        }
        let purposes = certificate
            .extended_key_usage()
            .map_err(|_| Refused::Malformed)?;
        if purposes.is_some_and(|p| !(p.value.server_auth && p.value.client_auth)) {
            return Err(Refused::WrongKeyUsage);
        }
        Ok(Self {
            id: id.map_err(|_| Refused::NoSpiffeId)?,
            not_before_unix_s: certificate.validity().not_before.timestamp(),
            not_after_unix_s: certificate.validity().not_after.timestamp(),
        })
    }
}

/// A certificate that may sign others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthorityFacts {
    /// The trust domain its one URI name stands for, if it has one: `spiffe://<trust domain>`, without a path.
    pub trust_domain: Option<TrustDomain>,
    /// Its SubjectPublicKeyInfo, DER.
    pub public_key_der: Vec<u8>,
    /// Start of validity, Unix seconds.
    pub not_before_unix_s: i64,
    /// End of validity, Unix seconds.
    pub not_after_unix_s: i64,
}

impl AuthorityFacts {
    /// A CA with the right to sign certificates. webpki looks at the first, not at the second.
    pub fn parse(der: &[u8]) -> Result<Self, Refused> {
        let certificate = read(der)?;
        let constraints = certificate
            .basic_constraints()
            .map_err(|_| Refused::Malformed)?;
        let usage = certificate.key_usage().map_err(|_| Refused::Malformed)?;
        let signs = usage.is_some_and(|u| u.value.key_cert_sign());
        if !constraints.is_some_and(|c| c.value.ca) || !signs {
            return Err(Refused::WrongKeyUsage);
        }
        let trust_domain = match Uris::of(&certificate)? {
            Uris::One(text) => text
                .strip_prefix("spiffe://")
                .and_then(|domain| TrustDomain::new(domain).ok()),
            Uris::None | Uris::Many => None,
        };
        Ok(Self {
            trust_domain,
            public_key_der: certificate.public_key().raw.to_vec(),
            not_before_unix_s: certificate.validity().not_before.timestamp(),
            not_after_unix_s: certificate.validity().not_after.timestamp(),
        })
    }
}

fn read(der: &[u8]) -> Result<X509Certificate<'_>, Refused> {
    if der.len() > MAX_CERTIFICATE_BYTES {
        return Err(Refused::Malformed);
    }
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        _ => Err(Refused::Malformed),
    }
}

/// The URI names of a certificate, as far as it matters.
enum Uris<'a> {
    None,
    One(&'a str),
    Many,
}

impl<'a> Uris<'a> {
    fn of(certificate: &'a X509Certificate<'_>) -> Result<Self, Refused> {
        let names = certificate
            .subject_alternative_name()
            .map_err(|_| Refused::Malformed)?;
        let mut found = Self::None;
        for name in names.iter().flat_map(|n| &n.value.general_names) {
            match (name, &found) {
                (GeneralName::URI(text), Self::None) => found = Self::One(text),
                (GeneralName::URI(_), _) => return Ok(Self::Many),
                // A name that cannot be read might be a second URI.
                (GeneralName::Invalid(..), _) => return Err(Refused::Malformed),
                _ => {}
            }
        }
        Ok(found)
    }
}
