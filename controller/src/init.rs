//! Founding a federation: the root, the first authority, the first node and the first entry of the store.
//!
//! Owns nothing afterwards: all of it lies in the data directory. It must never touch a directory that holds a cluster,
//! and never leave a half-made one.

use std::{collections::BTreeSet, path::PathBuf, sync::Arc, time::Duration};

use tradewind_api::{
    ClusterName, Domain, InvalidName, Network, NodeId, Region,
    model::ClusterState,
    snapshot::Trust,
    store::{Blob, ClusterRecord, Command, Outcome, Refusal, TokenRecord},
};
use tradewind_ca::{authority::AuthorityKey, root::Root, token::JoinToken};
use tradewind_federation::{Budget, ProposeError, Store, StoreConfig, Timing};
use tradewind_runtime::{MetricsRegistry, Rng, SharedClock};

use crate::{
    datadir::{DataDirError, NodeFile, Staging, VERSION},
    raft_net::NoPeers,
};

/// How long a join token is good for unless told: long enough to walk to another terminal.
pub const DEFAULT_TOKEN_LIFETIME: Duration = Duration::from_secs(15 * 60);
/// The first controller's node id.
const FIRST_NODE: NodeId = 1;
/// How long the store may take to write its first entry; it is one fsync on a healthy disk.
const FOUND_DEADLINE: Duration = Duration::from_secs(30);
/// More gateways than a cluster has; the store refuses more.
pub const MAX_GATEWAYS: usize = 16;

/// What `tradewind init` is told.
#[derive(Clone, Debug)]
pub struct InitOptions {
    /// The founding cluster.
    pub cluster: ClusterName,
    /// Its region.
    pub region: Region,
    /// Its network; its own name when not told.
    pub network: Option<Network>,
    /// The federation's domain.
    pub domain: Domain,
    /// Where to put it; absent or empty.
    pub data_dir: PathBuf,
    /// `host:port` under which others will dial this cluster's gateways.
    pub gateway_addresses: Vec<String>,
    /// How long the first join token is good for.
    pub token_lifetime: Duration,
}

/// A founded federation.
#[derive(Clone, Debug)]
pub struct Initialised {
    /// The founding cluster.
    pub cluster: ClusterName,
    /// The federation's domain.
    pub domain: Domain,
    /// Where it lies.
    pub data_dir: PathBuf,
    /// The first controller's node id.
    pub node_id: NodeId,
    /// A join token, as `tradewind join --token` takes it. Shown once and stored only as a hash.
    pub token: String,
    /// That token's public id.
    pub token_id: String,
    /// When it expires, Unix ms.
    pub token_expires_at_ms: u64,
    /// `host:port` to join through; none when no gateway address was given.
    pub join_address: Option<String>,
    /// The command to run in the next cluster.
    pub join_command: String,
}

/// Why nothing was founded. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// The directory cannot be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// A gateway address is not one.
    #[error(transparent)]
    Gateway(#[from] InvalidGateway),
    /// The cluster's name makes no valid node name.
    #[error(transparent)]
    Name(#[from] InvalidName),
    /// A key or certificate could not be made.
    #[error("cannot make the {what}: {why}")]
    Ca {
        /// Which.
        what: &'static str,
        /// What went wrong.
        why: String,
    },
    /// The store could not be made.
    #[error("cannot make the store: {0}")]
    Store(String),
    /// The store would not take its first entries.
    #[error("the new store refused its first entry: {0}")]
    Refused(Refusal),
}

impl InitError {
    /// What the operator can do about it.
    pub fn hint(&self) -> String {
        match self {
            Self::DataDir(error) => error.hint(),
            Self::Gateway(_) => "write --gateway as host:port, such as 203.0.113.7:15443".into(),
            Self::Name(_) => "use lower-case letters, digits and '-'".into(),
            Self::Ca { .. } | Self::Store(_) | Self::Refused(_) => {
                "see that the disk of --data-dir is healthy and not full, then run it again".into()
            }
        }
    }
}

/// A gateway address that is not `host:port`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidGateway {
    /// Not of that form.
    #[error("gateway address {0:?} is not valid: expected host:port")]
    Form(String),
    /// Too many of them.
    #[error("{0} gateway addresses are more than the {MAX_GATEWAYS} a cluster may announce")]
    TooMany(usize),
}

/// Checks gateway addresses and puts them in order.
pub fn check_gateways(addresses: &[String]) -> Result<Vec<String>, InvalidGateway> {
    let mut checked = BTreeSet::new();
    for address in addresses {
        let bad = || InvalidGateway::Form(address.chars().take(80).collect());
        let (host, port) = address.rsplit_once(':').ok_or_else(bad)?;
        let host_ok = !host.is_empty()
            && host.len() <= 255
            && host.bytes().all(|c| {
                c.is_ascii_alphanumeric() || matches!(c, b'.' | b'-' | b'_' | b':' | b'[' | b']')
            });
        if !host_ok || port.parse::<u16>().ok().filter(|p| *p != 0).is_none() {
            return Err(bad());
        }
        checked.insert(address.clone());
    }
    if checked.len() > MAX_GATEWAYS {
        return Err(InvalidGateway::TooMany(checked.len()));
    }
    Ok(checked.into_iter().collect())
}

/// The line to run in the next cluster.
pub fn join_command(address: Option<&str>, token: &str, cluster: Option<&ClusterName>) -> String {
    format!(
        "tradewind join {} --token {token} --cluster {} --region <region> --gateway <host:port> --data-dir <dir>",
        address.unwrap_or("<gateway host:port>"),
        cluster.map_or("<name>", ClusterName::as_str),
    )
}

/// Founds a federation in an absent or empty directory.
pub async fn init(
    options: InitOptions,
    clock: SharedClock,
    rng: Rng,
    metrics: &MetricsRegistry,
) -> Result<Initialised, InitError> {
    let gateways = check_gateways(&options.gateway_addresses)?;
    let network = match options.network {
        Some(network) => network,
        None => Network::new(options.cluster.as_str())?,
    };
    let staging = Staging::begin(&options.data_dir)?;
    let now_ms = clock.unix_ms();
    let ca = |what: &'static str| {
        move |why: &dyn std::fmt::Display| InitError::Ca {
            what,
            why: why.to_string(),
        }
    };

    let root = Root::generate(&options.domain, now_ms).map_err(|e| ca("root")(&e))?;
    root.save(staging.path()).map_err(|e| ca("root")(&e))?;
    let key = AuthorityKey::generate(&options.cluster, &options.domain)
        .map_err(|e| ca("authority")(&e))?;
    let authority = key
        .csr_der()
        .and_then(|csr| root.sign_authority(&csr, &options.cluster, &options.domain, now_ms))
        .map_err(|e| ca("authority")(&e))?;
    key.save(staging.path(), &authority, root.cert_der())
        .map_err(|e| ca("authority")(&e))?;
    let (token, secret_sha256) = JoinToken::mint(&options.cluster, &options.domain, root.sha256())
        .map_err(|e| ca("join token")(&e))?;

    let node = NodeFile {
        version: VERSION,
        cluster: options.cluster.clone(),
        region: options.region.clone(),
        network: network.clone(),
        domain: options.domain.clone(),
        node_id: FIRST_NODE,
        founder: options.cluster.clone(),
        gateways: gateways.clone(),
        known_clusters: std::collections::BTreeMap::new(),
        replicated: true,
        left: false,
        witness: false,
        address: None,
        siblings: std::collections::BTreeMap::new(),
    };
    let record = ClusterRecord {
        name: options.cluster.clone(),
        region: options.region,
        network,
        gateways: gateways.clone(),
        state: ClusterState::Active,
        nodes: BTreeSet::from([FIRST_NODE]),
        authorities: BTreeSet::from([Blob(authority)]),
        version: crate::VERSION.to_owned(),
        joined_at_ms: now_ms,
        lease_at_ms: now_ms,
        level: tradewind_api::store::LEVEL,
        witness: false,
    };
    let expires_at_ms = now_ms.saturating_add(millis(options.token_lifetime));
    let found = Command::Found {
        domain: options.domain.clone(),
        root: Blob(root.cert_der().to_vec()),
        cluster: record,
    };
    let put = Command::PutToken(TokenRecord {
        id: token.id.clone(),
        secret_sha256: Blob(secret_sha256.to_vec()),
        cluster: None,
        expires_at_ms,
        used: None,
    });
    let trust = first_entries(&staging, &node, [found, put], (clock, rng, metrics)).await?;
    staging.commit(&node, &trust)?;

    let token_text = token.to_string();
    let join_address = gateways.first().cloned();
    Ok(Initialised {
        join_command: join_command(join_address.as_deref(), &token_text, None),
        cluster: options.cluster,
        domain: options.domain,
        data_dir: options.data_dir,
        node_id: FIRST_NODE,
        token: token_text,
        token_id: token.id.clone(),
        token_expires_at_ms: expires_at_ms,
        join_address,
    })
}

/// Opens the new store, writes the commands and closes it again.
async fn first_entries(
    staging: &Staging,
    node: &NodeFile,
    [found, put]: [Command; 2],
    (clock, rng, metrics): (SharedClock, Rng, &MetricsRegistry),
) -> Result<Trust, InitError> {
    let store_error = |e: &dyn std::fmt::Display| InitError::Store(e.to_string());
    let config = StoreConfig {
        data_dir: staging.store(),
        node_id: node.node_id,
        cluster: node.cluster.clone(),
        timing: Timing::default(),
        budget: Budget::default(),
        level: tradewind_api::store::LEVEL,
    };
    let store = Store::open(config, Arc::new(NoPeers), clock, rng, metrics)
        .await
        .map_err(|e| store_error(&e))?;
    let written = tokio::time::timeout(FOUND_DEADLINE, async {
        accepted(store.found(found).await)?;
        accepted(store.propose(&node.cluster, put).await)
    })
    .await;
    let trust = store.catalog().trust();
    store.shutdown().await;
    match written {
        Ok(written) => written.map(|()| trust),
        Err(_) => Err(InitError::Store(format!(
            "its first entry was not written within {} s",
            FOUND_DEADLINE.as_secs()
        ))),
    }
}

fn accepted(outcome: Result<Outcome, ProposeError>) -> Result<(), InitError> {
    match outcome {
        Ok(Outcome::Done { .. } | Outcome::Joined { .. }) => Ok(()),
        Ok(Outcome::Refused(refusal)) => Err(InitError::Refused(refusal)),
        Err(error) => Err(InitError::Store(error.to_string())),
    }
}

/// Whole milliseconds; a duration beyond all clocks is all of them.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gateways_are_host_and_port() {
        let given = [
            "b.example:2".to_owned(),
            "127.1.0.1:15443".into(),
            "[::1]:1".into(),
            "b.example:2".into(),
        ];
        assert_eq!(
            check_gateways(&given).unwrap(),
            ["127.1.0.1:15443", "[::1]:1", "b.example:2"]
        );
        for bad in [
            "",
            "host",
            "host:",
            "host:0",
            "host:65536",
            ":1",
            "http://host:1",
            "a b:1",
        ] {
            assert!(check_gateways(&[bad.to_owned()]).is_err(), "{bad:?}");
        }
        let many: Vec<_> = (1..=MAX_GATEWAYS + 1).map(|p| format!("h:{p}")).collect();
        assert!(matches!(
            check_gateways(&many),
            Err(InvalidGateway::TooMany(_))
        ));
    }
}
