//! A CA for one server's DNS names, apart from everything that proves identities: the API server believes it when it calls the
//! admission webhook.
//!
//! Owns a key of its own. The cluster's authority must not sign these names, since it signs inside of its trust domain and nothing
//! else, and whoever is believed to be the webhook puts containers into pods: were the federation's root in the API server's bundle,
//! every other cluster's authority could be it. The names that this CA may sign are written into its certificate.

use std::{fmt, path::Path};

use rcgen::{
    CertificateParams, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, Issuer as Signer, KeyPair,
    KeyUsagePurpose, NameConstraints, PKCS_ECDSA_P256_SHA256, SanType,
};
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};
use zeroize::Zeroizing;

use crate::{
    issuer::IssueError,
    key::CaKey,
    mint::{self, Validity},
    stored::{self, Pair, StoredError},
};

/// How long such a CA lives, in seconds: 90 days. The next one is believed long before it signs.
pub const SERVING_CA_LIFETIME_S: u64 = 90 * 24 * 3600;
/// How long a certificate below it lives, in seconds: a day.
pub const SERVING_LIFETIME_S: u64 = 24 * 3600;

/// A CA for the names of one server.
pub struct ServingAuthority {
    key: CaKey,
    der: Vec<u8>,
    validity: Validity,
}

/// A server's certificate with its key.
pub struct Serving {
    /// DER: the certificate. The CA is in the caller's bundle.
    pub certificate_der: Vec<u8>,
    /// PKCS#8, DER; wiped when dropped.
    pub key_der: Zeroizing<Vec<u8>>,
    /// Start of validity, Unix seconds.
    pub not_before_unix_s: u64,
    /// End of validity, Unix seconds; never after the CA's.
    pub not_after_unix_s: u64,
}

impl ServingAuthority {
    /// Makes one that may sign `names`, DNS names, and nothing else.
    pub fn generate(names: &[String], now_unix_ms: u64) -> Result<Self, IssueError> {
        let key = CaKey::generate().map_err(IssueError::Sign)?;
        let validity = Validity::within(None, now_unix_ms, SERVING_CA_LIFETIME_S)?;
        let of = names.first().map_or("", String::as_str);
        let name = mint::ca_name("Tradewind webhook", of)?;
        let mut params = mint::ca_params(name, validity, 0, None)?;
        let permitted = names.iter().cloned().map(GeneralSubtree::DnsName);
        params.name_constraints = Some(NameConstraints {
            permitted_subtrees: permitted.collect(),
            excluded_subtrees: Vec::new(),
        });
        let certificate = params.self_signed(key.pair()).map_err(IssueError::Sign)?;
        Ok(Self {
            der: certificate.der().to_vec(),
            key,
            validity,
        })
    }

    /// Its certificate, DER.
    pub fn certificate_der(&self) -> &[u8] {
        &self.der
    }

    /// Start of its validity, Unix seconds.
    pub const fn not_before_unix_s(&self) -> u64 {
        self.validity.not_before_unix_s
    }

    /// End of its validity, Unix seconds.
    pub const fn not_after_unix_s(&self) -> u64 {
        self.validity.not_after_unix_s
    }

    /// Whether its certificate lets it sign all of `names`, as they were told this time.
    pub fn may_sign(&self, names: &[String]) -> bool {
        let Ok((_, certificate)) = X509Certificate::from_der(&self.der) else {
            return false;
        };
        let Ok(Some(constraints)) = certificate.name_constraints() else {
            return false;
        };
        let permitted = constraints.value.permitted_subtrees.as_deref();
        let permitted = permitted.unwrap_or_default();
        names.iter().all(|name| {
            permitted
                .iter()
                .any(|subtree| matches!(subtree.base, GeneralName::DNSName(found) if found == name))
        })
    }

    /// A new key with a certificate for `names`.
    pub fn issue(&self, names: &[String], now_unix_ms: u64) -> Result<Serving, IssueError> {
        let validity = Validity::within(Some(self.validity), now_unix_ms, SERVING_LIFETIME_S)?;
        let params = serving_params(names, validity)?;
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(IssueError::Sign)?;
        let der = CertificateDer::from(self.der.as_slice());
        let signer = Signer::from_ca_cert_der(&der, self.key.pair()).map_err(IssueError::Sign)?;
        let certificate = params.signed_by(&key, &signer).map_err(IssueError::Sign)?;
        Ok(Serving {
            certificate_der: certificate.der().to_vec(),
            key_der: Zeroizing::new(key.serialize_der()),
            not_before_unix_s: validity.not_before_unix_s,
            not_after_unix_s: validity.not_after_unix_s,
        })
    }

    /// Writes `NAME.key` (mode 0600) and `NAME.pem` into `dir`, durably.
    pub fn save(&self, dir: &Path, name: &str) -> Result<(), StoredError> {
        stored::write_key(&dir.join(format!("{name}.key")), &self.key)?;
        stored::write_certificates(&dir.join(format!("{name}.pem")), &[&self.der])
    }

    /// Reads what [`ServingAuthority::save`] wrote. `None`: there is none here.
    pub fn load(dir: &Path, name: &str) -> Result<Option<Self>, StoredError> {
        let (key_path, path) = (
            dir.join(format!("{name}.key")),
            dir.join(format!("{name}.pem")),
        );
        let Some(Pair { key, chain }) = stored::read_pair(&key_path, &path)? else {
            return Ok(None);
        };
        let [der] = chain.as_slice() else {
            return Err(StoredError::certificate(&path, "expected one certificate"));
        };
        let validity = stored::ca_validity(&path, der, &key)?.1;
        Ok(Some(Self {
            der: der.clone(),
            key,
            validity,
        }))
    }
}

fn serving_params(names: &[String], validity: Validity) -> Result<CertificateParams, IssueError> {
    let mut params = mint::params(validity)?;
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let san = |name: &String| name.as_str().try_into().map(SanType::DnsName);
    let names: Result<Vec<SanType>, _> = names.iter().map(san).collect();
    params.subject_alt_names = names.map_err(IssueError::Sign)?;
    Ok(params)
}

impl fmt::Debug for ServingAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServingAuthority")
            .field("validity", &self.validity)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Serving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Serving")
            .field("not_after_unix_s", &self.not_after_unix_s)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
    use std::time::Duration;

    use super::*;

    const NOW_MS: u64 = 1_800_000_000_000;

    fn names() -> Vec<String> {
        vec!["tradewind-controller.tradewind-system.svc".to_owned()]
    }

    fn checks(ca: &ServingAuthority, served: &Serving, name: &str, at_ms: u64) -> bool {
        let ca = CertificateDer::from(ca.certificate_der());
        let anchor = webpki::anchor_from_trusted_cert(&ca).unwrap();
        let der = CertificateDer::from(served.certificate_der.as_slice());
        let leaf = webpki::EndEntityCert::try_from(&der).unwrap();
        let at = UnixTime::since_unix_epoch(Duration::from_millis(at_ms));
        leaf.verify_for_usage(
            webpki::ALL_VERIFICATION_ALGS,
            &[anchor],
            &[],
            at,
            webpki::KeyUsage::server_auth(),
            None,
            None,
        )
        .is_ok()
            && leaf
                .verify_is_valid_for_subject_name(&ServerName::try_from(name.to_owned()).unwrap())
                .is_ok()
    }

    #[test]
    fn it_serves_its_names_and_no_others() {
        let ca = ServingAuthority::generate(&names(), NOW_MS).unwrap();
        let served = ca.issue(&names(), NOW_MS).unwrap();
        assert!(checks(&ca, &served, &names()[0], NOW_MS));
        assert!(!checks(&ca, &served, "elsewhere.svc", NOW_MS));
        assert!(!checks(
            &ca,
            &served,
            &names()[0],
            NOW_MS + SERVING_LIFETIME_S * 1000 + 1000
        ));
        let other = ServingAuthority::generate(&names(), NOW_MS).unwrap();
        assert!(!checks(&other, &served, &names()[0], NOW_MS));
        // What it may sign stands in its own certificate.
        assert!(ca.may_sign(&names()));
        let both = [names(), vec!["evil.example".to_owned()]].concat();
        assert!(!ca.may_sign(&both));
        let foreign = ca.issue(&["evil.example".to_owned()], NOW_MS).unwrap();
        assert!(!checks(&ca, &foreign, "evil.example", NOW_MS));
    }

    #[test]
    fn it_outlives_what_it_signs_and_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        assert!(
            ServingAuthority::load(dir.path(), "webhook")
                .unwrap()
                .is_none()
        );
        let ca = ServingAuthority::generate(&names(), NOW_MS).unwrap();
        ca.save(dir.path(), "webhook").unwrap();
        let again = ServingAuthority::load(dir.path(), "webhook")
            .unwrap()
            .unwrap();
        assert_eq!(again.certificate_der(), ca.certificate_der());
        let late = (ca.not_after_unix_s() - 10) * 1000;
        let served = again.issue(&names(), late).unwrap();
        assert_eq!(served.not_after_unix_s, ca.not_after_unix_s());
        assert!(checks(&ca, &served, &names()[0], late));
        assert!(
            again
                .issue(&names(), (ca.not_after_unix_s() + 1) * 1000)
                .is_err()
        );
    }
}
