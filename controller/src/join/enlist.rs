//! A further controller of a cluster: what the newcomer does. As in a join, nothing is changed anywhere before the one that
//! is asked has proven itself, and the data directory is filled at the very end.

use std::{fmt, path::PathBuf};

use tradewind_api::{
    ClusterName, Domain, Network, NodeId, Region,
    proto::v1::{AddControllerRequest, AddControllerResponse},
    snapshot::Trust,
    store::LEVEL,
};
use tradewind_ca::{authority::AuthorityKey, token::WorkloadToken};
use tradewind_transport::control::service_account::ServiceAccount;
use zeroize::Zeroizing;

use super::{
    JoinError, JoinLayer, JoinStep,
    client::{local, others},
    dial::{Pin, Roots, client, connect, handshake, refused, resolve, timed},
};
use crate::{
    VERSION,
    datadir::{self, NodeFile, Staging},
    registry::state::check_address,
};

/// What vouches for a further controller.
#[derive(Clone)]
pub enum Voucher {
    /// The text of a one-time token, as a controller of the cluster made it.
    Token(Zeroizing<String>),
    /// The Pod's service account, by the word of the cluster's API server, and the federation's roots beside it.
    ServiceAccount(ServiceAccount),
}

impl fmt::Debug for Voucher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Token(_) => f.write_str("Token"),
            Self::ServiceAccount(account) => {
                f.debug_tuple("ServiceAccount").field(account).finish()
            }
        }
    }
}

/// What `tradewind add-controller` is told.
#[derive(Clone, Debug)]
pub struct EnlistOptions {
    /// `host:port` of a controller that the cluster has; where a token vouches, of the one that made it.
    pub address: String,
    /// Why it should be let in.
    pub voucher: Voucher,
    /// `host:port` at which the cluster's own processes will dial the new controller.
    pub advertise: String,
    /// Where to put it; absent or empty.
    pub data_dir: PathBuf,
}

/// What is shown, and to whom.
struct Shown {
    pin: Pin,
    token: Zeroizing<String>,
    service_account_token: Zeroizing<String>,
    said: String,
}

impl Voucher {
    /// A one-time token's text.
    pub fn token(text: String) -> Self {
        Self::Token(Zeroizing::new(text))
    }

    fn show(&self) -> Result<Shown, JoinError> {
        match self {
            Self::Token(text) => {
                let token: WorkloadToken = text.parse().map_err(|e| {
                    let hint = "make one with `tradewind token create --controller` at the controller that is there";
                    JoinError::new(JoinLayer::Token, e, hint)
                })?;
                Ok(Shown {
                    said: format!(
                        "token {} of cluster {} in {}",
                        token.id, token.cluster, token.domain
                    ),
                    pin: Pin {
                        cluster: token.cluster.clone(),
                        roots: Roots::Token {
                            sha256: token.root_sha256,
                            domain: token.domain,
                        },
                    },
                    token: Zeroizing::new(text.trim().to_owned()),
                    service_account_token: Zeroizing::default(),
                })
            }
            Self::ServiceAccount(account) => {
                let shown = account.read().map_err(|e| {
                    let hint = "the Pod needs a projected token for the audience tradewind.<cluster>, and the ConfigMap tradewind-root";
                    JoinError::new(JoinLayer::Token, e, hint)
                })?;
                Ok(Shown {
                    said: format!(
                        "a service account's token for the controller of {}",
                        shown.cluster
                    ),
                    pin: Pin {
                        cluster: shown.cluster,
                        roots: Roots::AnyOf(shown.roots),
                    },
                    token: Zeroizing::default(),
                    service_account_token: shown.token,
                })
            }
        }
    }
}

/// A controller that was let in.
#[derive(Clone, Debug)]
pub struct Enlisted {
    /// Its cluster.
    pub cluster: ClusterName,
    /// Its node of the store.
    pub node_id: NodeId,
    /// Where it lies.
    pub data_dir: PathBuf,
}

/// Becomes a further controller of a cluster. `progress` hears of every layer that was passed.
pub async fn enlist(
    options: EnlistOptions,
    mut progress: impl FnMut(&JoinStep) + Send,
) -> Result<Enlisted, JoinError> {
    let mut passed = |layer, detail| progress(&JoinStep { layer, detail });
    Staging::check(&options.data_dir).map_err(|e| local(&e, e.hint()))?;
    check_address("address", &options.advertise)
        .map_err(|e| local(&e, "give --advertise host:port, as others reach this host"))?;
    let dir = options.data_dir.display();
    passed(
        JoinLayer::Local,
        format!("data directory {dir} can be used"),
    );
    let Shown {
        pin,
        token,
        service_account_token,
        said,
    } = options.voucher.show()?;
    let cluster = pin.cluster.clone();
    passed(JoinLayer::Token, said);
    let addresses = resolve(&options.address).await?;
    let tcp = connect(&options.address, &addresses).await?;
    passed(JoinLayer::Connect, format!("reached {}", options.address));
    let tls = handshake(tcp, &pin).await.map_err(|e| {
        JoinError::new(
            JoinLayer::Tls,
            format!("no trusted controller of {cluster} answers there: {e}"),
            "see that this is the controller's own --listen address and that the token and roots are of this cluster",
        )
    })?;
    let domain = pin.domain(&tls).ok_or_else(|| {
        JoinError::new(
            JoinLayer::Tls,
            "the controller's certificate names no federation",
            "upgrade it",
        )
    })?;
    passed(
        JoinLayer::Tls,
        format!("the controller of {cluster} proved a root that is believed"),
    );
    let staging = Staging::begin(&options.data_dir).map_err(|e| local(&e, e.hint()))?;
    let key_error = |e: &dyn fmt::Display| JoinError::new(JoinLayer::Sign, e, "try again");
    let key = AuthorityKey::generate(&cluster, &domain).map_err(|e| key_error(&e))?;
    let request = AddControllerRequest {
        token: token.to_string(),
        authority_csr_der: key.csr_der().map_err(|e| key_error(&e))?,
        address: options.advertise.clone(),
        version: VERSION.to_owned(),
        level: u32::from(LEVEL),
        service_account_token: service_account_token.to_string(),
    };
    let mut client = client(tls, addresses, pin.clone());
    let answer = timed(client.add_controller(request)).await;
    let response = answer.map_err(|status| refused(JoinLayer::Sign, &status))?;
    let node_id = response.node_id;
    passed(JoinLayer::Sign, format!("let in as node {node_id}"));
    write(staging, &options, (&pin, &domain), &key, response).map_err(|message| JoinError {
        admitted: true,
        ..JoinError::new(
            JoinLayer::Write,
            message,
            format!(
                "the cluster counts node {node_id} as its own already: take it out with `tradewind store remove {node_id} --yes`, then try again with a new token"
            ),
        )
    })?;
    passed(JoinLayer::Write, format!("wrote {dir}"));
    Ok(Enlisted {
        cluster,
        node_id,
        data_dir: options.data_dir,
    })
}

fn write(
    staging: Staging,
    options: &EnlistOptions,
    (pin, domain): (&Pin, &Domain),
    key: &AuthorityKey,
    response: AddControllerResponse,
) -> Result<(), String> {
    let answer = |e: &dyn fmt::Display| format!("the controller's answer: {e}");
    let trust: Trust = response
        .trust
        .unwrap_or_default()
        .try_into()
        .map_err(|e| answer(&e))?;
    let root = trust
        .roots
        .iter()
        .find(|root| pin.believes(root))
        .ok_or("the controller's answer lacks the root that is believed")?;
    key.save(staging.path(), &response.authority_der, root)
        .map_err(|e| e.to_string())?;
    let node = NodeFile {
        version: datadir::VERSION,
        cluster: pin.cluster.clone(),
        region: Region::new(&response.region).map_err(|e| answer(&e))?,
        network: Network::new(&response.network).map_err(|e| answer(&e))?,
        domain: domain.clone(),
        node_id: response.node_id,
        founder: ClusterName::new(&response.founder).map_err(|e| answer(&e))?,
        gateways: response.gateways,
        known_clusters: others(response.clusters, &pin.cluster)?,
        // Nothing may be concluded from what its store does not hold yet.
        replicated: true,
        left: false,
        witness: false,
        address: Some(options.advertise.clone()),
        siblings: response.controllers.into_iter().collect(),
    };
    staging.commit(&node, &trust).map_err(|e| e.to_string())
}
