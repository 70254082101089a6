//! Who may have which identity. Pure: evidence and rules in, an identity or a refusal out.
//!
//! Owns nothing. It never grants a controller's identity: those are made by the controller itself at init and join, so
//! that no caller, however local, can speak for the cluster.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use serde::Deserialize;
use tonic::Status;
use tradewind_api::id::{SpiffeId, TrustDomain, is_label};

use crate::server::{Access, Caller};

/// Most users in the mapping: one per system account of a large host, generously.
const MAX_USERS: usize = 10_000;
/// Largest mapping file, bytes.
const MAX_FILE_BYTES: u64 = 4 << 20;

/// Users of this host and the identities their processes may ask for over the unix socket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostIdentities {
    by_uid: BTreeMap<u32, BTreeSet<String>>,
}

/// Why a mapping was refused.
#[derive(Debug, thiserror::Error)]
pub enum HostIdentitiesError {
    /// The file is there and cannot be read.
    #[error("host identities {path} cannot be read: {cause}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        cause: std::io::Error,
    },
    /// It is no such mapping.
    #[error("host identities are not valid: {0}")]
    Syntax(String),
    /// A path in it is no workload's.
    #[error(
        "host identities: user {uid} is mapped to {path:?}, expected /ns/<namespace>/sa/<account>"
    )]
    Identity {
        /// The user.
        uid: u32,
        /// What stood there.
        path: String,
    },
    /// There is too much of it.
    #[error("host identities name more than {MAX_USERS} users")]
    TooMany,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    identities: Vec<FileEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileEntry {
    uid: u32,
    paths: BTreeSet<String>,
}

impl HostIdentities {
    /// Reads the mapping file; one that is missing maps nobody.
    pub fn load(path: &Path) -> Result<Self, HostIdentitiesError> {
        let read = |cause| HostIdentitiesError::Read {
            path: path.to_owned(),
            cause,
        };
        match std::fs::metadata(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self::default());
            }
            Err(error) => return Err(read(error)),
            Ok(meta) if meta.len() > MAX_FILE_BYTES => return Err(HostIdentitiesError::TooMany),
            Ok(_) => {}
        }
        Self::parse(&std::fs::read_to_string(path).map_err(read)?)
    }

    /// Reads the mapping's text: `identities: [{uid: 1001, paths: [/ns/shop/sa/payments]}]`.
    pub fn parse(yaml: &str) -> Result<Self, HostIdentitiesError> {
        let file: File =
            serde_saphyr::from_str(yaml).map_err(|e| HostIdentitiesError::Syntax(e.to_string()))?;
        if file.identities.len() > MAX_USERS {
            return Err(HostIdentitiesError::TooMany);
        }
        let mut by_uid = BTreeMap::<u32, BTreeSet<String>>::new();
        for entry in file.identities {
            for path in entry.paths {
                if !matches!(
                    Wanted::parse(&path),
                    Some(Wanted::Workload | Wanted::Gateway | Wanted::Dns)
                ) {
                    return Err(HostIdentitiesError::Identity {
                        uid: entry.uid,
                        path,
                    });
                }
                by_uid.entry(entry.uid).or_default().insert(path);
            }
        }
        Ok(Self { by_uid })
    }

    /// True for a user with an identity.
    pub fn knows(&self, uid: u32) -> bool {
        self.by_uid.contains_key(&uid)
    }

    /// True if processes of `uid` may have the identity `path`.
    pub fn allows(&self, uid: u32, path: &str) -> bool {
        self.by_uid
            .get(&uid)
            .is_some_and(|paths| paths.contains(path))
    }
}

/// The kinds of identity a caller can ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// `/ns/<namespace>/sa/<account>`.
    Workload,
    /// `/tradewind/gateway/<name>`.
    Gateway,
    /// `/tradewind/dns/<name>`.
    Dns,
    /// `/tradewind/operator/<name>`.
    Operator,
    /// `/tradewind/controller/<name>`: known, and never granted.
    Controller,
}

impl Wanted {
    /// The kind of `path`, if it is an identity's.
    pub fn parse(path: &str) -> Option<Self> {
        let parts: Vec<&str> = path.strip_prefix('/')?.splitn(5, '/').collect();
        match parts.as_slice() {
            ["ns", ns, "sa", account] if is_label(ns) && is_label(account) => Some(Self::Workload),
            ["tradewind", kind, name] if is_label(name) => match *kind {
                "gateway" => Some(Self::Gateway),
                "dns" => Some(Self::Dns),
                "operator" => Some(Self::Operator),
                "controller" => Some(Self::Controller),
                _ => None,
            },
            _ => None,
        }
    }
}

/// What a one-time token said when it was looked at. Looking does not spend it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenSays {
    /// The request carried none.
    Absent,
    /// It is good for this path.
    GoodFor(String),
    /// It is not good, and why.
    Bad(String),
}

/// Why an identity was not granted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// Nothing proves who asks.
    #[error(
        "nothing proves who asks: use the controller's unix socket, a one-time token or a current certificate"
    )]
    NoEvidence,
    /// The token is not good.
    #[error("{0}")]
    Token(String),
    /// The evidence is good for something else.
    #[error("{who} may not have the identity {path}")]
    Identity {
        /// Who asks.
        who: String,
        /// What for.
        path: String,
    },
    /// Nobody is given it.
    #[error("the identity {path} is never given on request")]
    Never {
        /// What was asked for.
        path: String,
    },
}

impl From<Denied> for Status {
    fn from(denied: Denied) -> Self {
        let text = denied.to_string();
        match denied {
            Denied::NoEvidence | Denied::Token(_) => Self::unauthenticated(text),
            Denied::Identity { .. } | Denied::Never { .. } => Self::permission_denied(text),
        }
    }
}

/// What made the grant, and so what has to be done with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// The unix socket's peer credentials.
    PeerCredentials,
    /// A current certificate for the same identity.
    Certificate,
    /// A token, which is to be spent.
    Token,
}

/// Decides whether `caller` may have the identity `path`.
pub fn attest(
    access: &Access,
    caller: &Caller,
    token: &TokenSays,
    path: &str,
) -> Result<Evidence, Denied> {
    let elsewhere = |who: String| Denied::Identity {
        who,
        path: path.to_owned(),
    };
    match Wanted::parse(path) {
        None | Some(Wanted::Controller) => {
            return Err(Denied::Never {
                path: path.to_owned(),
            });
        }
        // An operator's certificate acts from afar; only who sits at this host as the operator can have one made.
        Some(Wanted::Operator) => {
            return match caller {
                Caller::Local { uid } if access.is_operator(caller) => {
                    tracing::debug!(uid, path, "operator identity granted");
                    Ok(Evidence::PeerCredentials)
                }
                Caller::Local { uid } => Err(elsewhere(format!("user {uid}"))),
                Caller::Peer(_) if holds(access, caller, path) => Ok(Evidence::Certificate),
                Caller::Peer(peer) => Err(elsewhere(peer.id.to_string())),
                Caller::Anonymous => Err(Denied::NoEvidence),
            };
        }
        Some(Wanted::Workload | Wanted::Gateway | Wanted::Dns) => {}
    }
    if holds(access, caller, path) {
        return Ok(Evidence::Certificate);
    }
    if let Caller::Local { uid } = caller
        && (access.is_operator(caller) || access.hosts().allows(*uid, path))
    {
        return Ok(Evidence::PeerCredentials);
    }
    match token {
        TokenSays::GoodFor(good) if good == path => return Ok(Evidence::Token),
        TokenSays::GoodFor(good) => {
            return Err(elsewhere(format!("the bearer of a token for {good}")));
        }
        TokenSays::Bad(why) => return Err(Denied::Token(why.clone())),
        TokenSays::Absent => {}
    }
    Err(match caller {
        Caller::Local { uid } => elsewhere(format!("user {uid}")),
        Caller::Peer(peer) => elsewhere(peer.id.to_string()),
        Caller::Anonymous => Denied::NoEvidence,
    })
}

// True if the caller proves the very identity it asks for.
fn holds(access: &Access, caller: &Caller, path: &str) -> bool {
    access
        .trusted(caller)
        .is_some_and(|peer| is(&peer.id, access.own_trust_domain(), path))
}

fn is(id: &SpiffeId, domain: &TrustDomain, path: &str) -> bool {
    id.trust_domain_str() == domain.as_str() && id.path() == path
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tradewind_api::id::{ClusterName, Domain};
    use tradewind_transport::trust::TrustCell;

    use super::*;

    const PAYMENTS: &str = "/ns/shop/sa/payments";

    fn access() -> Access {
        let hosts =
            HostIdentities::parse("identities:\n- uid: 1001\n  paths: [/ns/shop/sa/payments]\n");
        Access::new(
            &ClusterName::new("west").unwrap(),
            &Domain::default(),
            TrustCell::empty(),
            Arc::new(hosts.unwrap()),
            500,
        )
    }

    fn ask(uid: u32, path: &str) -> Result<Evidence, Denied> {
        attest(&access(), &Caller::Local { uid }, &TokenSays::Absent, path)
    }

    #[test]
    fn the_operator_and_mapped_users_get_what_is_theirs() {
        for uid in [0, 500, 1001] {
            assert_eq!(ask(uid, PAYMENTS), Ok(Evidence::PeerCredentials), "{uid}");
        }
        assert!(ask(500, "/tradewind/gateway/gw-1").is_ok());
        assert!(ask(1001, "/ns/shop/sa/orders").is_err());
        assert!(ask(1001, "/tradewind/operator/me").is_err());
        assert!(ask(1002, PAYMENTS).is_err());
    }

    #[test]
    fn nobody_gets_a_controllers_identity_or_a_nonsense_one() {
        for path in [
            "/tradewind/controller/c",
            "",
            "/",
            "ns/shop/sa/a",
            "/ns/shop/sa/a/b",
            "/ns/Shop/sa/a",
            "/x/y",
        ] {
            let denied = ask(0, path).unwrap_err();
            assert!(matches!(denied, Denied::Never { .. }), "{path}: {denied}");
        }
    }

    #[test]
    fn a_token_is_good_for_its_path_alone() {
        let says = TokenSays::GoodFor(PAYMENTS.into());
        let ask = |path| attest(&access(), &Caller::Anonymous, &says, path);
        assert_eq!(ask(PAYMENTS), Ok(Evidence::Token));
        assert!(matches!(
            ask("/ns/shop/sa/orders"),
            Err(Denied::Identity { .. })
        ));
        assert_eq!(
            attest(&access(), &Caller::Anonymous, &TokenSays::Absent, PAYMENTS),
            Err(Denied::NoEvidence)
        );
        let bad = TokenSays::Bad("expired".into());
        assert_eq!(
            attest(&access(), &Caller::Anonymous, &bad, PAYMENTS),
            Err(Denied::Token("expired".into()))
        );
    }

    #[test]
    fn a_broken_mapping_is_refused() {
        for bad in [
            "identities: 5",
            "identities:\n- uid: 1\n  path: [/ns/a/sa/b]\n",
            "identities:\n- uid: 1\n  paths: [/tradewind/controller/x]\n",
            "identities:\n- uid: 1\n  paths: [/ns/a]\n",
        ] {
            assert!(HostIdentities::parse(bad).is_err(), "{bad}");
        }
        assert_eq!(
            HostIdentities::load(Path::new("/nowhere/at/all")).unwrap(),
            HostIdentities::default()
        );
    }
}
