//! A Kubernetes service account's token, as the kubelet projects it into a Pod, and the federation's roots beside it.
//!
//! Owns no state: both files are read again for each request, since the kubelet replaces them while the Pod runs. What the token says of
//! itself is believed by nobody here: it names the cluster that its bearer wants to speak with, which has to prove that it is that one.

use std::{
    collections::BTreeSet,
    fmt,
    path::{Path, PathBuf},
};

use data_encoding::BASE64URL_NOPAD;
use rustls::pki_types::{CertificateDer, pem::PemObject};
use serde::Deserialize;
use tradewind_api::id::ClusterName;
use zeroize::Zeroizing;

use crate::trust::sha256;

/// Longest token, bytes. Kubernetes' own have about one KiB.
pub const MAX_TOKEN_BYTES: usize = 16 << 10;
/// Largest file of roots: a root has under one KiB, and there are two at most while one takes the other's place.
const MAX_ROOTS_BYTES: u64 = 64 << 10;
/// What the audience of a token for a cluster's controller begins with; its cluster's name follows.
pub const AUDIENCE_PREFIX: &str = "tradewind.";

/// Where a Pod finds its proof, and whom it is to believe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceAccount {
    /// The projected token, for the audience `tradewind.<cluster>`.
    pub token_file: PathBuf,
    /// The federation's roots, PEM.
    pub root_file: PathBuf,
}

/// Why a service account's token is of no use. The token itself is never shown.
#[derive(Debug, thiserror::Error)]
pub enum ServiceAccountError {
    /// A file cannot be read.
    #[error("{what} {path} cannot be read: {cause}", path = path.display())]
    Read {
        /// Which of the two.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// What the system said.
        cause: std::io::Error,
    },
    /// A file is larger than any good one.
    #[error("{what} {path} is too large to be one", path = path.display())]
    TooLarge {
        /// Which of the two.
        what: &'static str,
        /// Where.
        path: PathBuf,
    },
    /// It is no token of a service account.
    #[error("the service account's token is not valid: {0}")]
    Token(#[from] InvalidClaims),
    /// It is meant for somebody else.
    #[error(
        "the service account's token is for {audiences:?}: expected one audience tradewind.<cluster>"
    )]
    Audience {
        /// For whom.
        audiences: Vec<String>,
    },
    /// There is no root in the file.
    #[error("the file of roots {path} holds no certificate", path = path.display())]
    NoRoot {
        /// Where.
        path: PathBuf,
    },
}

/// Why a text is no service account's token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidClaims(&'static str);

/// What a token says of itself. Nobody has looked at its signature: only the API server can say whether it is true.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    /// Whom it is for.
    pub audiences: Vec<String>,
    /// The account's namespace.
    pub namespace: String,
    /// The account.
    pub account: String,
    /// When it ends, Unix seconds.
    pub expires_at_unix_s: u64,
}

#[derive(Deserialize)]
struct Body {
    aud: OneOrMany,
    sub: String,
    exp: u64,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

/// What the subject of every service account begins with; namespace and account follow, parted by a colon.
const SUBJECT_PREFIX: &str = "system:serviceaccount:";

impl Claims {
    /// Reads the claims of a JSON web token, without looking at its signature.
    pub fn unverified(token: &str) -> Result<Self, InvalidClaims> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(InvalidClaims("it is too long"));
        }
        let mut parts = token.split('.');
        let (Some(_), Some(body), Some(_), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(InvalidClaims("it does not have three parts"));
        };
        let json = BASE64URL_NOPAD
            .decode(body.as_bytes())
            .map_err(|_| InvalidClaims("its claims are no base64"))?;
        let body: Body = serde_json::from_slice(&json).map_err(|_| {
            InvalidClaims("its claims lack an audience, a subject or an end, or are no JSON")
        })?;
        let (namespace, account) = body
            .sub
            .strip_prefix(SUBJECT_PREFIX)
            .and_then(|rest| rest.split_once(':'))
            .filter(|(namespace, account)| !namespace.is_empty() && !account.is_empty())
            .ok_or(InvalidClaims("its subject is no service account"))?;
        Ok(Self {
            namespace: namespace.to_owned(),
            account: account.to_owned(),
            expires_at_unix_s: body.exp,
            audiences: match body.aud {
                OneOrMany::One(audience) => vec![audience],
                OneOrMany::Many(all) => all,
            },
        })
    }
}

/// What a Pod has to show, and to whom.
pub struct Shown {
    /// The token.
    pub token: Zeroizing<String>,
    /// Whose controller it is for.
    pub cluster: ClusterName,
    /// What the roots hash to (SHA-256).
    pub roots: BTreeSet<[u8; 32]>,
}

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shown")
            .field("cluster", &self.cluster)
            .finish_non_exhaustive()
    }
}

impl ServiceAccount {
    /// Reads both files as they are now.
    pub fn read(&self) -> Result<Shown, ServiceAccountError> {
        let limit = u64::try_from(MAX_TOKEN_BYTES).unwrap_or(u64::MAX);
        let text = Zeroizing::new(read(
            "the service account's token",
            &self.token_file,
            limit,
        )?);
        let text = String::from_utf8_lossy(&text);
        let token = Zeroizing::new(text.trim().to_owned());
        let claims = Claims::unverified(&token)?;
        let cluster = cluster_of(&claims.audiences).ok_or(ServiceAccountError::Audience {
            audiences: claims.audiences,
        })?;
        let pem = read("the file of roots", &self.root_file, MAX_ROOTS_BYTES)?;
        let roots = roots_in(&pem);
        if roots.is_empty() {
            return Err(ServiceAccountError::NoRoot {
                path: self.root_file.clone(),
            });
        }
        Ok(Shown {
            token,
            cluster,
            roots,
        })
    }
}

/// What the certificates in a PEM text hash to.
pub(super) fn roots_in(pem: &[u8]) -> BTreeSet<[u8; 32]> {
    CertificateDer::pem_slice_iter(pem)
        .filter_map(Result::ok)
        .map(|der| sha256(&der))
        .collect()
}

/// The one cluster that the audiences name. A token that is good in two would let each of them speak for the bearer in the other.
fn cluster_of(audiences: &[String]) -> Option<ClusterName> {
    match audiences {
        [one] => ClusterName::new(one.strip_prefix(AUDIENCE_PREFIX)?).ok(),
        _ => None,
    }
}

fn read(what: &'static str, path: &Path, limit: u64) -> Result<Vec<u8>, ServiceAccountError> {
    let bad = |cause| ServiceAccountError::Read {
        what,
        path: path.to_owned(),
        cause,
    };
    let length = std::fs::metadata(path).map_err(bad)?.len();
    if length > limit {
        return Err(ServiceAccountError::TooLarge {
            what,
            path: path.to_owned(),
        });
    }
    std::fs::read(path).map_err(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(json: &str) -> String {
        format!("e30.{}.c2ln", BASE64URL_NOPAD.encode(json.as_bytes()))
    }

    const GOOD: &str = r#"{"aud":["tradewind.west"],"sub":"system:serviceaccount:shop:payments","exp":1900000000}"#;

    #[test]
    fn a_token_says_whose_it_is_and_whom_it_is_for() {
        for json in [
            GOOD,
            r#"{"aud":"tradewind.west","exp":1900000000,"sub":"system:serviceaccount:shop:payments","x":1}"#,
        ] {
            let claims = Claims::unverified(&token(json)).unwrap();
            assert_eq!(
                (claims.namespace.as_str(), claims.account.as_str()),
                ("shop", "payments")
            );
            assert_eq!(cluster_of(&claims.audiences).unwrap().as_str(), "west");
            assert_eq!(claims.expires_at_unix_s, 1_900_000_000);
        }
    }

    #[test]
    fn other_texts_are_refused_in_words() {
        for (bad, word) in [
            ("", "three parts"),
            ("a.b", "three parts"),
            ("a.b.c.d", "three parts"),
            ("a.%.c", "base64"),
            (&token("[]"), "JSON"),
            (
                &token(r#"{"aud":"a","exp":1,"sub":"system:node:n"}"#),
                "service account",
            ),
            (
                &token(r#"{"aud":"a","exp":1,"sub":"system:serviceaccount:shop:"}"#),
                "service account",
            ),
            (&"x".repeat(MAX_TOKEN_BYTES + 1), "too long"),
        ] {
            let error = Claims::unverified(bad).unwrap_err().to_string();
            assert!(error.contains(word), "{bad:.40}: {error}");
        }
    }

    #[test]
    fn it_is_for_one_cluster_or_for_none() {
        let of = |all: &[&str]| {
            let all: Vec<_> = all.iter().map(|s| (*s).to_owned()).collect();
            cluster_of(&all).map(|c| c.to_string())
        };
        assert_eq!(of(&["tradewind.west"]).as_deref(), Some("west"));
        for bad in [
            &[] as &[&str],
            &["https://kubernetes.default.svc"],
            &["tradewind.west", "tradewind.east"],
            &["tradewind.west", "https://kubernetes.default.svc"],
            &["tradewind."],
            &["tradewind.West"],
        ] {
            assert_eq!(of(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn files_are_read_anew_and_what_is_wrong_with_them_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let account = ServiceAccount {
            token_file: dir.path().join("token"),
            root_file: dir.path().join("root.pem"),
        };
        let why = || {
            account
                .read()
                .err()
                .map(|e| e.to_string())
                .unwrap_or_default()
        };
        assert!(why().contains("token"), "{}", why());
        std::fs::write(&account.token_file, token(GOOD) + "\n").unwrap();
        assert!(why().contains("root.pem"), "{}", why());
        std::fs::write(&account.root_file, "nothing").unwrap();
        assert!(why().contains("holds no certificate"), "{}", why());
        std::fs::write(
            &account.root_file,
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        )
        .unwrap();
        let shown = account.read().unwrap();
        assert_eq!(shown.token.as_str(), token(GOOD));
        assert_eq!(shown.roots, [sha256(&[0, 0, 0])].into());
        let foreign = GOOD.replace("tradewind.west", "vault");
        std::fs::write(&account.token_file, token(&foreign)).unwrap();
        assert!(why().contains("vault"), "{}", why());
    }
}
