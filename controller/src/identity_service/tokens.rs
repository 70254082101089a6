//! One-time tokens by which workloads on hosts get their first certificate.
//!
//! Owns `workload-tokens.json`. A token's secret is stored as its hash alone. It is good for one certificate: the same
//! signing request may be sent again (its answer may have been lost), any other is refused.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde::{Deserialize, Serialize};
use tradewind_api::{
    id::{ClusterName, Domain},
    store::Blob,
};
use tradewind_ca::{IssueError, WorkloadToken};
use tradewind_runtime::files::{self, FileError};

use crate::attest::{TokenSays, Wanted};

/// What a token is good for that lets a further controller of this cluster in. No certificate is ever given for it: such a
/// controller has an authority of its own.
pub const NEW_CONTROLLER: &str = "/tradewind/controller/new";

/// Tokens kept at once.
const MAX_TOKENS: usize = 10_000;
/// Longest life of a token: it is meant to be used at once.
const MAX_LIFETIME_S: u64 = 7 * 24 * 3600;
/// A used or expired token is shown in lists for this long.
const KEEP_MS: u64 = 24 * 3_600_000;
/// Largest file, bytes: far above ten thousand records.
const MAX_FILE_BYTES: u64 = 16 << 20;

/// Why a token was not made, spent or taken back.
#[derive(Debug, thiserror::Error)]
pub enum TokensError {
    /// The file cannot be read or written.
    #[error("workload tokens: {0}")]
    File(#[from] FileError),
    /// The file is no list of tokens.
    #[error("workload tokens {path} cannot be read: {why}")]
    Content {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The path is no identity a token may be for.
    #[error(
        "a token is for /ns/<namespace>/sa/<account>, /tradewind/gateway/<name> or /tradewind/dns/<name>, not for {0:?}"
    )]
    Path(String),
    /// The lifetime is out of bounds.
    #[error("a token lives for 1 to {MAX_LIFETIME_S} s, not {0}")]
    Lifetime(u64),
    /// There are too many.
    #[error("there are {MAX_TOKENS} tokens already; revoke some")]
    TooMany,
    /// No randomness.
    #[error(transparent)]
    Mint(#[from] IssueError),
    /// It is not good.
    #[error("{0}")]
    Bad(String),
    /// No such token.
    #[error("there is no workload token {0}")]
    Unknown(String),
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Record {
    secret_sha256: Blob,
    path: String,
    expires_at_ms: u64,
    #[serde(default)]
    used: Option<Used>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Used {
    at_ms: u64,
    csr_sha256: Blob,
}

/// A token as lists show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenInfo {
    /// Its public id.
    pub id: String,
    /// The identity it is good for.
    pub path: String,
    /// When it ends, Unix ms.
    pub expires_at_ms: u64,
    /// `unused`, `used` or `expired`.
    pub state: &'static str,
}

struct Inner {
    path: PathBuf,
    cluster: ClusterName,
    domain: Domain,
    root_sha256: [u8; 32],
    tokens: Mutex<BTreeMap<String, Record>>,
}

/// The tokens of this cluster. Cheap to clone. Its calls write to disk: not for a thread that serves streams.
#[derive(Clone)]
pub struct WorkloadTokens(Arc<Inner>);

impl std::fmt::Debug for WorkloadTokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WorkloadTokens")
            .field("path", &self.0.path)
            .finish_non_exhaustive()
    }
}

impl WorkloadTokens {
    /// Reads the tokens in `data_dir`. They belong to `cluster`, below the root with this hash.
    pub fn open(
        data_dir: &Path,
        cluster: ClusterName,
        domain: Domain,
        root_sha256: [u8; 32],
    ) -> Result<Self, TokensError> {
        let path = data_dir.join("workload-tokens.json");
        let content = |why: String| TokensError::Content {
            path: path.clone(),
            why,
        };
        let tokens = match std::fs::metadata(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(content(error.to_string())),
            Ok(meta) if meta.len() > MAX_FILE_BYTES => {
                return Err(content("it is too large".to_owned()));
            }
            Ok(_) => {
                let text = std::fs::read(&path).map_err(|e| content(e.to_string()))?;
                serde_json::from_slice(&text).map_err(|e| content(e.to_string()))?
            }
        };
        let tokens = Mutex::new(tokens);
        Ok(Self(Arc::new(Inner {
            path,
            cluster,
            domain,
            root_sha256,
            tokens,
        })))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Record>> {
        self.0.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // Puts `new` on disk, then in force.
    fn commit(
        &self,
        mut tokens: MutexGuard<'_, BTreeMap<String, Record>>,
        new: BTreeMap<String, Record>,
    ) -> Result<(), TokensError> {
        let json = serde_json::to_vec_pretty(&new).map_err(|e| TokensError::Content {
            path: self.0.path.clone(),
            why: e.to_string(),
        })?;
        files::atomic_write(&self.0.path, &json, 0o600)?;
        *tokens = new;
        Ok(())
    }

    /// Makes a token for the identity `path`.
    pub fn create(
        &self,
        path: &str,
        lifetime_s: u64,
        now_ms: u64,
    ) -> Result<(WorkloadToken, TokenInfo), TokensError> {
        let usual = matches!(
            Wanted::parse(path),
            Some(Wanted::Workload | Wanted::Gateway | Wanted::Dns)
        );
        if !usual && path != NEW_CONTROLLER {
            return Err(TokensError::Path(path.chars().take(80).collect()));
        }
        if lifetime_s == 0 || lifetime_s > MAX_LIFETIME_S {
            return Err(TokensError::Lifetime(lifetime_s));
        }
        let (token, secret_sha256) =
            WorkloadToken::mint(&self.0.cluster, &self.0.domain, self.0.root_sha256)?;
        let record = Record {
            secret_sha256: Blob(secret_sha256.to_vec()),
            path: path.to_owned(),
            expires_at_ms: now_ms.saturating_add(lifetime_s * 1000),
            used: None,
        };
        let info = info(&token.id, &record, now_ms);
        let tokens = self.lock();
        let mut new = tokens.clone();
        new.retain(|_, r| now_ms < ended_at(r).saturating_add(KEEP_MS));
        if new.len() >= MAX_TOKENS {
            return Err(TokensError::TooMany);
        }
        new.insert(token.id.clone(), record);
        self.commit(tokens, new)?;
        Ok((token, info))
    }

    /// All tokens that are good, and those that ended lately.
    pub fn list(&self, now_ms: u64) -> Vec<TokenInfo> {
        self.lock()
            .iter()
            .filter(|(_, r)| now_ms < ended_at(r).saturating_add(KEEP_MS))
            .map(|(id, r)| info(id, r, now_ms))
            .collect()
    }

    /// Takes a token back.
    pub fn revoke(&self, id: &str) -> Result<(), TokensError> {
        let tokens = self.lock();
        let mut new = tokens.clone();
        if new.remove(id).is_none() {
            return Err(TokensError::Unknown(id.chars().take(80).collect()));
        }
        self.commit(tokens, new)
    }

    /// What a token's text is good for now, with this signing request. Changes nothing.
    pub fn look(&self, text: &str, csr_sha256: &[u8; 32], now_ms: u64) -> TokenSays {
        let token: WorkloadToken = match text.parse() {
            Ok(token) => token,
            Err(error) => return TokenSays::Bad(error.to_string()),
        };
        match check(&self.lock(), &token, csr_sha256, now_ms) {
            Ok(record) => TokenSays::GoodFor(record.path.clone()),
            Err(why) => TokenSays::Bad(why),
        }
    }

    /// Spends a token on this signing request. Once it returns the spending is on disk.
    pub fn spend(&self, text: &str, csr_sha256: &[u8; 32], now_ms: u64) -> Result<(), TokensError> {
        let token: WorkloadToken = text
            .parse()
            .map_err(|e: tradewind_ca::TokenError| TokensError::Bad(e.to_string()))?;
        let tokens = self.lock();
        let record = check(&tokens, &token, csr_sha256, now_ms).map_err(TokensError::Bad)?;
        if record.used.is_some() {
            return Ok(());
        }
        let mut new = tokens.clone();
        if let Some(record) = new.get_mut(&token.id) {
            record.used = Some(Used {
                at_ms: now_ms,
                csr_sha256: Blob(csr_sha256.to_vec()),
            });
        }
        self.commit(tokens, new)
    }
}

fn ended_at(record: &Record) -> u64 {
    record
        .used
        .as_ref()
        .map_or(record.expires_at_ms, |used| used.at_ms)
}

fn info(id: &str, record: &Record, now_ms: u64) -> TokenInfo {
    let state = if record.used.is_some() {
        "used"
    } else if now_ms >= record.expires_at_ms {
        "expired"
    } else {
        "unused"
    };
    TokenInfo {
        id: id.to_owned(),
        path: record.path.clone(),
        expires_at_ms: record.expires_at_ms,
        state,
    }
}

fn check<'a>(
    tokens: &'a BTreeMap<String, Record>,
    token: &WorkloadToken,
    csr_sha256: &[u8; 32],
    now_ms: u64,
) -> Result<&'a Record, String> {
    // An unknown id and a wrong secret read the same: the ids are no secret, but which exist is nobody's business.
    let record = tokens
        .get(&token.id)
        .filter(|r| token.matches(&r.secret_sha256.0))
        .ok_or_else(|| {
            "the workload token is not known here; it may have been revoked".to_owned()
        })?;
    if now_ms >= record.expires_at_ms {
        let late_s = (now_ms - record.expires_at_ms) / 1000;
        return Err(format!("the workload token expired {late_s} s ago"));
    }
    match &record.used {
        Some(used) if used.csr_sha256.0 != csr_sha256 => {
            Err("the workload token was used already".to_owned())
        }
        Some(_) | None => Ok(record),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_000_000_000;

    fn open(dir: &Path) -> WorkloadTokens {
        let west = ClusterName::new("west").unwrap();
        WorkloadTokens::open(dir, west, Domain::default(), [7; 32]).unwrap()
    }

    #[test]
    fn a_token_is_spent_once_and_stays_spent_over_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let tokens = open(dir.path());
        let (token, made) = tokens.create("/ns/shop/sa/payments", 900, NOW).unwrap();
        assert_eq!(made.state, "unused");
        let text = token.to_string();
        assert_eq!(
            tokens.look(&text, &[1; 32], NOW),
            TokenSays::GoodFor("/ns/shop/sa/payments".into())
        );
        tokens.spend(&text, &[1; 32], NOW).unwrap();
        let again = open(dir.path());
        assert_eq!(again.list(NOW)[0].state, "used");
        assert!(
            again.spend(&text, &[2; 32], NOW).is_err(),
            "another request"
        );
        assert!(
            again.spend(&text, &[1; 32], NOW).is_ok(),
            "the same request, whose answer was lost"
        );
        let stored = std::fs::read_to_string(dir.path().join("workload-tokens.json")).unwrap();
        assert!(!stored.contains(&text));
    }

    #[test]
    fn expired_revoked_and_foreign_tokens_are_refused_in_words() {
        let dir = tempfile::tempdir().unwrap();
        let tokens = open(dir.path());
        let (token, _) = tokens.create("/ns/shop/sa/payments", 10, NOW).unwrap();
        let text = token.to_string();
        let late = tokens.look(&text, &[1; 32], NOW + 12_000);
        assert_eq!(
            late,
            TokenSays::Bad("the workload token expired 2 s ago".into())
        );
        tokens.revoke(&token.id).unwrap();
        assert!(tokens.revoke(&token.id).is_err());
        assert!(matches!(
            tokens.look(&text, &[1; 32], NOW),
            TokenSays::Bad(_)
        ));
        assert!(matches!(
            tokens.look("tw1.x", &[1; 32], NOW),
            TokenSays::Bad(_)
        ));
        assert!(tokens.create("/tradewind/controller/x", 10, NOW).is_err());
        assert!(tokens.create(NEW_CONTROLLER, 10, NOW).is_ok());
        assert!(tokens.create("/ns/shop/sa/a", 0, NOW).is_err());
    }
}
