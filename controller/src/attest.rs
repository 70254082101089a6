//! Who may have which identity. Pure: evidence and rules in, an identity or a refusal out.
//!
//! Owns nothing. It never grants a controller's identity: those are made by the controller itself at init and join, so
//! that no caller, however local, can speak for the cluster.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::Deserialize;
use tonic::Status;
use tradewind_api::id::{SpiffeId, TrustDomain, is_label, is_subdomain};
use tradewind_kubernetes::token_review::Account;

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
            ["ns", ns, "sa", account] if is_label(ns) && is_subdomain(account) => {
                Some(Self::Workload)
            }
            ["tradewind", kind, name] if is_subdomain(name) => match *kind {
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

/// What the API server said of a service account's token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccountSays {
    /// The request carried none.
    Absent,
    /// The request carried none, where every identity is a service account's.
    Missing,
    /// It is this account's, in the cluster whose own processes run in the namespace `system`.
    Is {
        /// Whose.
        account: Account,
        /// Tradewind's own namespace.
        system: Arc<str>,
    },
    /// It is not good, and why.
    Bad(String),
    /// Nobody can say now: the API server is away.
    Unknown(String),
    /// Nobody was asked: too many ask.
    Busy(String),
}

/// The service accounts of our own processes, in our own namespace, and what each may be.
const GATEWAY_ACCOUNT: &str = "tradewind-gateway";
const DNS_ACCOUNT: &str = "tradewind-dns";
const OPERATOR_ACCOUNT: &str = "tradewind-operator";
/// The operator that a service account is: the API server does not tell who had the token made.
const KUBERNETES_OPERATOR: &str = "/tradewind/operator/kubernetes";

/// True if the identity `path` is this account's. A gateway or DNS server is called as its Pod is, so that none speaks for another.
fn belongs(account: &Account, system: &str, path: &str) -> bool {
    let own = |name: &str| account.namespace == system && account.name == name;
    let pod = |kind: &str| {
        let pod = account.pod.as_deref().unwrap_or_default();
        !pod.is_empty() && path == format!("/tradewind/{kind}/{pod}")
    };
    path == format!("/ns/{}/sa/{}", account.namespace, account.name)
        || own(GATEWAY_ACCOUNT) && pod("gateway")
        || own(DNS_ACCOUNT) && pod("dns")
        || own(OPERATOR_ACCOUNT) && path == KUBERNETES_OPERATOR
}

/// Everything that a request shows beside its connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// A one-time token.
    pub token: TokenSays,
    /// A service account's.
    pub account: AccountSays,
}

/// Why an identity was not granted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// Nothing proves who asks.
    #[error(
        "nothing proves who asks: use the controller's unix socket, a one-time token, a service account's token or a current certificate"
    )]
    NoEvidence,
    /// What is shown is not enough here.
    #[error(
        "identities of this cluster are its service accounts': a token of one is to be shown each time (--identity-token-file); for workloads on hosts outside of Kubernetes its controller needs --host-workloads"
    )]
    NoAccount,
    /// The token is not good.
    #[error("{0}")]
    Token(String),
    /// Nobody can say whether the evidence is good.
    #[error("{0}")]
    Unknown(String),
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
            Denied::NoEvidence | Denied::NoAccount | Denied::Token(_) => {
                Self::unauthenticated(text)
            }
            Denied::Unknown(_) => Self::unavailable(text),
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
    /// A service account's token, by the API server's word.
    ServiceAccount,
}

/// Decides whether `caller` may have the identity `path`.
pub fn attest(
    access: &Access,
    caller: &Caller,
    shown: &Shown,
    path: &str,
) -> Result<Evidence, Denied> {
    let elsewhere = |who: String| Denied::Identity {
        who,
        path: path.to_owned(),
    };
    let wanted = match Wanted::parse(path) {
        None | Some(Wanted::Controller) => {
            return Err(Denied::Never {
                path: path.to_owned(),
            });
        }
        Some(wanted) => wanted,
    };
    // A service account's word stands above the certificate that it got before: whose account is gone gets no other one.
    match &shown.account {
        AccountSays::Is { account, system } if belongs(account, system, path) => {
            return Ok(Evidence::ServiceAccount);
        }
        AccountSays::Is { account, .. } => {
            let (namespace, name) = (&account.namespace, &account.name);
            let pod = account.pod.as_deref().unwrap_or("no Pod");
            return Err(elsewhere(format!(
                "the service account {namespace}/{name} of {pod}"
            )));
        }
        AccountSays::Bad(why) => return Err(Denied::Token(why.clone())),
        // A crowd is easily made, so it excuses nobody.
        AccountSays::Busy(why) => return Err(Denied::Unknown(why.clone())),
        // An API server that is away harms nobody who is known already.
        AccountSays::Unknown(why) if !holds(access, caller, path) => {
            return Err(Denied::Unknown(why.clone()));
        }
        // Who took a certificate from a process could keep it alive for ever. Who sits at the controller's own host shows more.
        AccountSays::Missing if !matches!(caller, Caller::Local { .. }) => {
            return Err(Denied::NoAccount);
        }
        AccountSays::Unknown(_) | AccountSays::Absent | AccountSays::Missing => {}
    }
    if holds(access, caller, path) {
        return Ok(Evidence::Certificate);
    }
    // An operator's certificate acts from afar; only who sits at this host as the operator can have one made.
    let local = wanted != Wanted::Operator;
    if let Caller::Local { uid } = caller
        && (access.is_operator(caller) || local && access.hosts().allows(*uid, path))
    {
        tracing::debug!(uid, path, "identity granted by peer credentials");
        return Ok(Evidence::PeerCredentials);
    }
    match &shown.token {
        TokenSays::GoodFor(good) if good == path && local => return Ok(Evidence::Token),
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

    const NOTHING: Shown = Shown {
        token: TokenSays::Absent,
        account: AccountSays::Absent,
    };

    fn ask(uid: u32, path: &str) -> Result<Evidence, Denied> {
        attest(&access(), &Caller::Local { uid }, &NOTHING, path)
    }

    fn shows(token: TokenSays) -> Shown {
        Shown { token, ..NOTHING }
    }

    fn account(namespace: &str, name: &str, pod: Option<&str>) -> Shown {
        Shown {
            account: AccountSays::Is {
                account: Account {
                    namespace: namespace.into(),
                    name: name.into(),
                    pod: pod.map(str::to_owned),
                },
                system: "tradewind-system".into(),
            },
            ..NOTHING
        }
    }

    #[test]
    fn a_service_account_is_itself_and_ours_are_what_their_pods_are() {
        let system = "tradewind-system";
        let pod = Some("gw-1");
        for (shown, path, good) in [
            (account("shop", "payments", None), PAYMENTS, true),
            (
                account("shop", "pay.ments", None),
                "/ns/shop/sa/pay.ments",
                true,
            ),
            (account("shop", "orders", None), PAYMENTS, false),
            (account("bank", "payments", None), PAYMENTS, false),
            (
                account(system, "tradewind-gateway", pod),
                "/tradewind/gateway/gw-1",
                true,
            ),
            (
                account(system, "tradewind-gateway", pod),
                "/tradewind/gateway/gw-2",
                false,
            ),
            (
                account(system, "tradewind-gateway", pod),
                "/tradewind/dns/gw-1",
                false,
            ),
            (
                account(system, "tradewind-gateway", None),
                "/tradewind/gateway/gw-1",
                false,
            ),
            (
                account("shop", "tradewind-gateway", pod),
                "/tradewind/gateway/gw-1",
                false,
            ),
            (
                account(system, "tradewind-dns", pod),
                "/tradewind/dns/gw-1",
                true,
            ),
            (
                account(system, "tradewind-operator", None),
                KUBERNETES_OPERATOR,
                true,
            ),
            (
                account(system, "tradewind-operator", None),
                "/tradewind/operator/me",
                false,
            ),
            (
                account("shop", "tradewind-operator", None),
                KUBERNETES_OPERATOR,
                false,
            ),
            (
                account(system, "tradewind-controller", pod),
                "/tradewind/controller/gw-1",
                false,
            ),
        ] {
            let got = attest(&access(), &Caller::Anonymous, &shown, path);
            assert_eq!(
                got == Ok(Evidence::ServiceAccount),
                good,
                "{path}: {shown:?}"
            );
        }
    }

    #[test]
    fn where_identities_are_service_accounts_a_one_time_token_is_not_enough() {
        let shown = |account| Shown {
            token: TokenSays::GoodFor(PAYMENTS.into()),
            account,
        };
        let ask = |caller, account| attest(&access(), &caller, &shown(account), PAYMENTS);
        assert_eq!(
            ask(Caller::Anonymous, AccountSays::Absent),
            Ok(Evidence::Token)
        );
        assert_eq!(
            ask(Caller::Anonymous, AccountSays::Missing),
            Err(Denied::NoAccount)
        );
        assert_eq!(
            ask(Caller::Local { uid: 1001 }, AccountSays::Missing),
            Ok(Evidence::PeerCredentials)
        );
        assert_eq!(
            Status::from(Denied::NoAccount).code(),
            tonic::Code::Unauthenticated
        );
    }

    #[test]
    fn an_api_server_that_is_away_or_refuses_is_told_apart() {
        let ask = |account| {
            let shown = Shown { account, ..NOTHING };
            attest(&access(), &Caller::Anonymous, &shown, PAYMENTS)
        };
        assert!(matches!(
            ask(AccountSays::Unknown("away".into())),
            Err(Denied::Unknown(_))
        ));
        assert!(matches!(
            ask(AccountSays::Busy("a crowd".into())),
            Err(Denied::Unknown(_))
        ));
        assert!(matches!(
            ask(AccountSays::Bad("expired".into())),
            Err(Denied::Token(_))
        ));
        let status = |d: Denied| Status::from(d).code();
        assert_eq!(
            status(Denied::Unknown("x".into())),
            tonic::Code::Unavailable
        );
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
        let says = shows(TokenSays::GoodFor(PAYMENTS.into()));
        let ask = |path| attest(&access(), &Caller::Anonymous, &says, path);
        assert_eq!(ask(PAYMENTS), Ok(Evidence::Token));
        assert!(matches!(
            ask("/ns/shop/sa/orders"),
            Err(Denied::Identity { .. })
        ));
        assert_eq!(
            attest(&access(), &Caller::Anonymous, &NOTHING, PAYMENTS),
            Err(Denied::NoEvidence)
        );
        let bad = shows(TokenSays::Bad("expired".into()));
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
