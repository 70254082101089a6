//! Tokens: what an operator hands to a cluster that joins, or to a workload on a host, so that each can prove itself once
//! and know whom it talks to.
//!
//! Owns a secret while it lives, and wipes it. The secret is shown by `Display` alone, because that is what a token is
//! for; the receiving side stores only its hash. A token that cannot be read is never repeated in an error.

use std::{fmt, marker::PhantomData, str::FromStr};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use data_encoding::{BASE64URL_NOPAD, HEXLOWER, HEXLOWER_PERMISSIVE};
use serde::{Deserialize, Serialize};
use tradewind_api::{ClusterName, Domain};
use tradewind_transport::trust::sha256;
use zeroize::{Zeroize, Zeroizing};

use crate::{issuer::IssueError, mint::random};

/// 256 bits: a guess is hopeless, so a plain hash is enough to store.
const SECRET_BYTES: usize = 32;

/// Longest token read. A domain has 128 characters at most, so ours stay below 600.
const MAX_TOKEN_BYTES: usize = 2048;

/// Longest token id.
const MAX_ID_BYTES: usize = 32;

/// Why a token was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Something else was pasted.
    #[error("this is not a {expected} token: those start with \"{prefix}\"{hint}")]
    Prefix {
        /// What was wanted.
        expected: &'static str,
        /// How those start.
        prefix: &'static str,
        /// What it may be instead.
        hint: &'static str,
    },
    /// Cut, or changed on the way.
    #[error("the {kind} token is damaged ({what}); copy it again, whole")]
    Damaged {
        /// What was wanted.
        kind: &'static str,
        /// What is wrong.
        what: &'static str,
    },
}

mod sealed {
    pub trait Sealed {}
}

/// What a token is for.
pub trait Purpose: sealed::Sealed {
    /// How its text starts; the digit is the form's version.
    const PREFIX: &'static str;
    /// Its name in messages.
    const NAME: &'static str;
}

/// Lets a cluster join.
#[derive(Debug)]
pub enum Join {}
/// Lets a workload on a host have its first certificate.
#[derive(Debug)]
pub enum Workload {}

impl sealed::Sealed for Join {}
impl sealed::Sealed for Workload {}
impl Purpose for Join {
    const PREFIX: &'static str = "tw1.";
    const NAME: &'static str = "join";
}
impl Purpose for Workload {
    const PREFIX: &'static str = "tww1.";
    const NAME: &'static str = "workload";
}

/// A token that lets a cluster join the federation.
pub type JoinToken = Token<Join>;
/// A token that lets a workload on a host have its first certificate.
pub type WorkloadToken = Token<Workload>;

/// A one-time secret, with what its bearer must know to reach the right controller and no other.
pub struct Token<P> {
    /// Public id, under which the hash is stored.
    pub id: String,
    /// SHA-256 of the root certificate that the controller's chain must end in.
    pub root_sha256: [u8; 32],
    /// The cluster whose controller the bearer talks to.
    pub cluster: ClusterName,
    /// The federation's domain.
    pub domain: Domain,
    secret: Zeroizing<[u8; SECRET_BYTES]>,
    purpose: PhantomData<P>,
}

/// The text's content. Short keys: people copy this.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    i: String,
    s: String,
    r: String,
    c: ClusterName,
    d: Domain,
}

impl Drop for Body {
    fn drop(&mut self) {
        self.s.zeroize();
    }
}

impl<P: Purpose> Token<P> {
    /// Makes a new one, with the hash to store in place of the secret.
    pub fn mint(
        cluster: &ClusterName,
        domain: &Domain,
        root_sha256: [u8; 32],
    ) -> Result<(Self, [u8; 32]), IssueError> {
        let token = Self {
            id: HEXLOWER.encode(&random::<5>()?),
            root_sha256,
            cluster: cluster.clone(),
            domain: domain.clone(),
            secret: Zeroizing::new(random()?),
            purpose: PhantomData,
        };
        let hash = token.hash_secret();
        Ok((token, hash))
    }

    /// SHA-256 of the secret.
    pub fn hash_secret(&self) -> [u8; 32] {
        sha256(&*self.secret)
    }

    /// True when `stored_sha256` is this secret's hash, in a time that does not depend on where they differ.
    pub fn matches(&self, stored_sha256: &[u8]) -> bool {
        verify_slices_are_equal(&self.hash_secret(), stored_sha256).is_ok()
    }
}

impl<P: Purpose> FromStr for Token<P> {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let text = text.trim();
        let damaged = |what| TokenError::Damaged {
            kind: P::NAME,
            what,
        };
        if text.len() > MAX_TOKEN_BYTES {
            return Err(damaged("it is too long"));
        }
        let encoded = text.strip_prefix(P::PREFIX).ok_or_else(|| {
            let hint = if text.starts_with(Join::PREFIX) {
                "; this is one for joining a cluster"
            } else if text.starts_with(Workload::PREFIX) {
                "; this is one for a workload"
            } else {
                ""
            };
            TokenError::Prefix {
                expected: P::NAME,
                prefix: P::PREFIX,
                hint,
            }
        })?;
        let json = BASE64URL_NOPAD
            .decode(encoded.as_bytes())
            .map(Zeroizing::new)
            .map_err(|_| damaged("it is not base64url"))?;
        let body: Body =
            serde_json::from_slice(&json).map_err(|_| damaged("its content is not a token's"))?;
        let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
        if body.i.is_empty() || body.i.len() > MAX_ID_BYTES || !body.i.bytes().all(plain) {
            return Err(damaged("its id is not valid"));
        }
        let secret = BASE64URL_NOPAD
            .decode(body.s.as_bytes())
            .map(Zeroizing::new)
            .map_err(|_| damaged("its secret is not base64url"))?;
        let secret: [u8; SECRET_BYTES] = secret
            .as_slice()
            .try_into()
            .map_err(|_| damaged("its secret has another length"))?;
        let root = HEXLOWER_PERMISSIVE.decode(body.r.as_bytes()).ok();
        let root_sha256 = root
            .and_then(|root| root.try_into().ok())
            .ok_or_else(|| damaged("its root hash is not valid"))?;
        Ok(Self {
            id: body.i.clone(),
            root_sha256,
            cluster: body.c.clone(),
            domain: body.d.clone(),
            secret: Zeroizing::new(secret),
            purpose: PhantomData,
        })
    }
}

/// The whole token, secret included.
impl<P: Purpose> fmt::Display for Token<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let body = Body {
            i: self.id.clone(),
            s: BASE64URL_NOPAD.encode(&*self.secret),
            r: HEXLOWER.encode(&self.root_sha256),
            c: self.cluster.clone(),
            d: self.domain.clone(),
        };
        let json = Zeroizing::new(serde_json::to_vec(&body).map_err(|_| fmt::Error)?);
        let encoded = Zeroizing::new(BASE64URL_NOPAD.encode(&json));
        write!(f, "{}{}", P::PREFIX, &*encoded)
    }
}

impl<P> fmt::Debug for Token<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token")
            .field("id", &self.id)
            .field("cluster", &self.cluster)
            .field("domain", &self.domain)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn join() -> (JoinToken, [u8; 32]) {
        let west = ClusterName::new("west").unwrap();
        JoinToken::mint(&west, &Domain::default(), [7; 32]).unwrap()
    }

    #[test]
    fn a_token_reads_back_and_matches_its_hash_alone() {
        let (token, hash) = join();
        let text = token.to_string();
        assert!(text.starts_with("tw1."));
        let back: JoinToken = format!(" {text}\n").parse().unwrap();
        assert_eq!((&back.id, back.root_sha256), (&token.id, [7; 32]));
        assert_eq!(back.cluster.as_str(), "west");
        assert!(back.matches(&hash));
        assert!(!back.matches(&[0; 32]));
        assert!(!back.matches(&hash[..31]));
        assert!(!join().0.matches(&hash), "secrets differ");
    }

    #[test]
    fn the_secret_is_not_in_debug_nor_in_errors() {
        let (token, _) = join();
        let secret = BASE64URL_NOPAD.encode(&*token.secret);
        assert!(!format!("{token:?}").contains(&secret));
        let mut text = token.to_string();
        text.pop();
        text.push('!');
        let error = text.parse::<JoinToken>().unwrap_err();
        assert!(matches!(error, TokenError::Damaged { kind: "join", .. }));
        assert!(!error.to_string().contains(text.get(4..40).unwrap()));
    }

    #[test]
    fn another_kind_is_named() {
        let text = join().0.to_string();
        let error = text.parse::<WorkloadToken>().unwrap_err().to_string();
        assert!(
            error.contains("\"tww1.\"") && error.contains("joining a cluster"),
            "{error}"
        );
        let error = "hello".parse::<JoinToken>().unwrap_err().to_string();
        assert_eq!(error, "this is not a join token: those start with \"tw1.\"");
    }

    #[test]
    fn the_bearer_reads_what_is_printed() {
        // Transport reads the text for itself, as it cannot depend on this crate: both must mean the same form.
        let west = ClusterName::new("west").unwrap();
        let (token, _) = WorkloadToken::mint(&west, &Domain::default(), [9; 32]).unwrap();
        let text = token.to_string();
        let read = tradewind_transport::control::BootstrapToken::parse(&text).unwrap();
        assert_eq!((read.root_sha256, &read.cluster), ([9; 32], &west));
        assert_eq!(read.secret_text(), text);
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in "(tw1\\.|tww1\\.)?[A-Za-z0-9_-]{0,300}") {
            let _ = text.parse::<JoinToken>();
            let _ = text.parse::<WorkloadToken>();
        }

        #[test]
        fn a_cut_token_is_refused(cut in 0usize..200) {
            let text = join().0.to_string();
            let cut = cut.min(text.len() - 1);
            prop_assert!(text.get(..cut).unwrap().parse::<JoinToken>().is_err());
        }
    }
}
