//! The parts that certificates are made of: serial numbers, names, dates, extensions.
//!
//! Owns nothing. Time comes in as an argument; randomness comes from the cryptographic library, because serial numbers
//! must not be guessable.

use std::time::Duration;

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use data_encoding::HEXLOWER;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData,
    SanType, SerialNumber, date_time_ymd,
};
use rustls_pki_types::CertificateSigningRequestDer;
use tradewind_api::TrustDomain;

use crate::{issuer::IssueError, key::CaKey};

/// How far certificates reach back, so that a peer whose clock is a little late takes them at once.
pub(crate) const BACKDATE_S: u64 = 60;

/// Longest signing request looked at: ours have less than 400 bytes.
const MAX_REQUEST_BYTES: usize = 8 << 10;

/// A P-256 public key: 0x04, x, y.
const P256_POINT_BYTES: usize = 65;

/// Latest time that a certificate of ours may end at: the year 9999 is where DER dates end.
const MAX_UNIX_S: u64 = 253_402_300_799;

/// When a certificate holds, Unix seconds, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Validity {
    pub(crate) not_before_unix_s: u64,
    pub(crate) not_after_unix_s: u64,
}

impl Validity {
    /// `lifetime_s` from now, a little backdated, and never beyond the issuer's own (INV-8).
    pub(crate) fn within(
        issuer: Option<Self>,
        now_unix_ms: u64,
        lifetime_s: u64,
    ) -> Result<Self, IssueError> {
        let now = now_unix_ms / 1000;
        let issuer = issuer.unwrap_or(Self {
            not_before_unix_s: 0,
            not_after_unix_s: MAX_UNIX_S,
        });
        if now >= issuer.not_after_unix_s {
            return Err(IssueError::IssuerExpired(issuer.not_after_unix_s));
        }
        if now.saturating_add(BACKDATE_S) < issuer.not_before_unix_s {
            return Err(IssueError::IssuerNotYetValid(issuer.not_before_unix_s));
        }
        if lifetime_s == 0 {
            return Err(IssueError::NoLifetime);
        }
        Ok(Self {
            not_before_unix_s: now.saturating_sub(BACKDATE_S).max(issuer.not_before_unix_s),
            not_after_unix_s: now.saturating_add(lifetime_s).min(issuer.not_after_unix_s),
        })
    }
}

/// `N` random bytes.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], IssueError> {
    let mut bytes = [0; N];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| IssueError::Randomness)?;
    Ok(bytes)
}

/// A CA's subject. Unique, because path building by name goes wrong among CAs of one name.
pub(crate) fn ca_name(what: &str, of: &str) -> Result<DistinguishedName, IssueError> {
    let unique = HEXLOWER.encode(&random::<8>()?);
    // X.520's bound on a common name is 64 characters; the unique part must not be what is cut.
    let room = 64_usize.saturating_sub(what.len() + unique.len() + 2);
    let of: String = of.chars().take(room).collect();
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, format!("{what} {of} {unique}"));
    Ok(name)
}

pub(crate) fn params(validity: Validity) -> Result<CertificateParams, IssueError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let at = |unix_s: u64| date_time_ymd(1970, 1, 1) + Duration::from_secs(unix_s);
    params.not_before = at(validity.not_before_unix_s.min(MAX_UNIX_S));
    params.not_after = at(validity.not_after_unix_s.min(MAX_UNIX_S));
    let mut serial = random::<20>()?;
    if let Some(first) = serial.first_mut() {
        // Positive, and never shorter than 20 bytes.
        *first = (*first & 0x7f) | 0x40;
    }
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

/// A CA certificate; `path_length` counts the CAs that may follow below it.
pub(crate) fn ca_params(
    name: DistinguishedName,
    validity: Validity,
    path_length: u8,
    trust_domain: Option<&TrustDomain>,
) -> Result<CertificateParams, IssueError> {
    let mut params = params(validity)?;
    params.distinguished_name = name;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(path_length));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    if let Some(domain) = trust_domain {
        params.subject_alt_names = vec![uri(&format!("spiffe://{domain}"))?];
    }
    Ok(params)
}

/// A workload certificate: it names its SPIFFE id and nothing else.
pub(crate) fn leaf_params(id: &str, validity: Validity) -> Result<CertificateParams, IssueError> {
    let mut params = params(validity)?;
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params.subject_alt_names = vec![uri(id)?];
    Ok(params)
}

fn uri(text: &str) -> Result<SanType, IssueError> {
    text.try_into().map(SanType::URI).map_err(IssueError::Sign)
}

/// Reads a request and checks that the asker holds its key. What else the request wishes for is ignored.
pub(crate) fn request(csr_der: &[u8]) -> Result<CertificateSigningRequestParams, IssueError> {
    if csr_der.len() > MAX_REQUEST_BYTES {
        return Err(IssueError::RequestTooLong(csr_der.len()));
    }
    let der = CertificateSigningRequestDer::from(csr_der);
    let request = CertificateSigningRequestParams::from_der(&der).map_err(IssueError::Request)?;
    let key = &request.public_key;
    let point = key.der_bytes();
    // The request's algorithm is that of its signature; the point's length tells P-256 from P-384.
    if key.algorithm() != &PKCS_ECDSA_P256_SHA256
        || point.len() != P256_POINT_BYTES
        || point.first() != Some(&4)
    {
        return Err(IssueError::KeyKind);
    }
    Ok(request)
}

/// The request of a cluster for its authority. It says whose it is for whoever signs by hand; the signer decides.
pub(crate) fn authority_request(
    key: &CaKey,
    trust_domain: &TrustDomain,
) -> Result<Vec<u8>, IssueError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![uri(&format!("spiffe://{trust_domain}"))?];
    let csr = params.serialize_request(key.pair());
    Ok(csr.map_err(IssueError::Sign)?.der().to_vec())
}
