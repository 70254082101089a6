//! An authority and a certificate for each side of a pair, for the peers; Tradewind makes its own. Owns the files' names.

use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair,
};

use super::pairs::Side;

/// Where they lie.
#[derive(Debug)]
pub(super) struct Certificates(PathBuf);

fn text(e: impl std::fmt::Display) -> String {
    format!("no certificate: {e}")
}

fn params(name: &str) -> Result<CertificateParams, String> {
    let mut params = CertificateParams::new(vec![name.to_owned()]).map_err(text)?;
    let mut called = DistinguishedName::new();
    called.push(DnType::CommonName, name);
    params.distinguished_name = called;
    Ok(params)
}

impl Certificates {
    /// Makes them in `dir`.
    pub(super) fn make(dir: &Path) -> Result<Self, String> {
        let made = Self(dir.to_owned());
        let mut authority = params("bench authority")?;
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().map_err(text)?;
        let write = |path: String, pem: String| {
            std::fs::write(&path, pem).map_err(|e| format!("{path}: {e}"))
        };
        let own = authority.self_signed(&key).map_err(text)?;
        write(made.ca(), own.pem())?;
        let issuer = Issuer::new(authority, key);
        for side in [Side::Caller, Side::Application] {
            let mut params = params("echo.bench")?;
            params.extended_key_usages = vec![
                ExtendedKeyUsagePurpose::ServerAuth,
                ExtendedKeyUsagePurpose::ClientAuth,
            ];
            let key = KeyPair::generate().map_err(text)?;
            let signed = params.signed_by(&key, &issuer).map_err(text)?;
            write(made.pem(side), signed.pem() + &key.serialize_pem())?;
        }
        Ok(made)
    }

    /// The authority's certificate.
    pub(super) fn ca(&self) -> String {
        self.0.join("authority.pem").display().to_string()
    }

    /// A side's certificate and key.
    pub(super) fn pem(&self, side: Side) -> String {
        self.0.join(format!("{side:?}.pem")).display().to_string()
    }
}
