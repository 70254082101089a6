//! The text form of a workload's one-time token, as far as its bearer has to read it.
//!
//! The token tells its bearer whom to believe before there is a trust map: the hash of the federation's root. The
//! secret is only ever passed on, whole, to a controller that has proven to stand below that root.

use std::fmt;

use data_encoding::{BASE64URL_NOPAD, HEXLOWER_PERMISSIVE};
use serde::Deserialize;
use tradewind_api::id::{ClusterName, Domain, TrustDomain};
use zeroize::Zeroizing;

/// What every workload token starts with.
pub const PREFIX: &str = "tww1.";
/// A token's length, bytes: its fields are bounded, so a longer one is no token.
const MAX_LEN: usize = 4096;

/// A token's text, checked, with the fields its bearer needs.
#[derive(Clone)]
pub struct BootstrapToken {
    text: Zeroizing<String>,
    /// SHA-256 of the federation's root certificate.
    pub root_sha256: [u8; 32],
    /// The cluster it is good in.
    pub cluster: ClusterName,
    /// The federation's domain.
    pub domain: Domain,
}

/// Why a token's text was refused. The text itself is a secret and is not shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the workload token is not valid ({why}): expected the text that `tradewind token create --workload` printed"
)]
pub struct InvalidToken {
    why: &'static str,
}

// Of the token's content only what its bearer needs; `ca::token` has the whole.
#[derive(Deserialize)]
struct Fields {
    #[serde(rename = "r")]
    root_sha256: String,
    #[serde(rename = "c")]
    cluster: ClusterName,
    #[serde(rename = "d")]
    domain: Domain,
}

impl BootstrapToken {
    /// Checks the text and reads what its bearer needs.
    pub fn parse(text: &str) -> Result<Self, InvalidToken> {
        let bad = |why| InvalidToken { why };
        let text = text.trim();
        if text.len() > MAX_LEN {
            return Err(bad("it is too long"));
        }
        let body = text
            .strip_prefix(PREFIX)
            .ok_or_else(|| bad("it does not start with tww1."))?;
        let json = Zeroizing::new(
            BASE64URL_NOPAD
                .decode(body.as_bytes())
                .map_err(|_| bad("it is cut or mistyped"))?,
        );
        let fields: Fields =
            serde_json::from_slice(&json).map_err(|_| bad("its fields cannot be read"))?;
        let root_sha256 = HEXLOWER_PERMISSIVE
            .decode(fields.root_sha256.as_bytes())
            .ok()
            .and_then(|hash| hash.try_into().ok())
            .ok_or_else(|| bad("its root hash cannot be read"))?;
        Ok(Self {
            root_sha256,
            cluster: fields.cluster,
            domain: fields.domain,
            text: Zeroizing::new(text.to_owned()),
        })
    }

    /// The whole token, to be sent to a verified controller and nobody else.
    pub fn secret_text(&self) -> &str {
        &self.text
    }

    /// The trust domain of the cluster it is good in.
    pub fn trust_domain(&self) -> TrustDomain {
        self.domain.trust_domain(&self.cluster)
    }
}

impl fmt::Debug for BootstrapToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BootstrapToken")
            .field("cluster", &self.cluster)
            .field("domain", &self.domain)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(json: &str) -> String {
        format!("{PREFIX}{}", BASE64URL_NOPAD.encode(json.as_bytes()))
    }

    #[test]
    fn a_token_says_whom_to_believe() {
        let hash = "07".repeat(32);
        let token = BootstrapToken::parse(&text(&format!(
            r#"{{"i":"a","s":"s","r":"{hash}","c":"west","d":"mesh.internal"}}"#
        )))
        .unwrap();
        assert_eq!(token.root_sha256, [7; 32]);
        assert_eq!(token.trust_domain().as_str(), "west.mesh.internal");
        assert!(!format!("{token:?}").contains(token.secret_text()));
    }

    #[test]
    fn other_texts_are_refused_without_being_shown() {
        for bad in [
            "",
            "tw1.abc",
            "tww1.%%%",
            &text("{}"),
            &text(r#"{"r":"x","c":"west","d":"mesh.internal"}"#),
        ] {
            let error = BootstrapToken::parse(bad).unwrap_err().to_string();
            assert!(error.contains("expected the text"), "{error}");
        }
        assert!(BootstrapToken::parse(&"x".repeat(5000)).is_err());
    }
}
