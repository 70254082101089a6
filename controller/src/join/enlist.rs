//! A further controller of a cluster: what the newcomer does. As in a join, nothing is changed anywhere before the one that
//! is asked has proven itself, and the data directory is filled at the very end.

use std::path::PathBuf;

use tradewind_api::{
    ClusterName, Network, NodeId, Region,
    proto::v1::{AddControllerRequest, AddControllerResponse},
    snapshot::Trust,
    store::LEVEL,
};
use tradewind_ca::{authority::AuthorityKey, token::WorkloadToken};
use tradewind_transport::trust::sha256;

use super::{
    JoinError, JoinLayer, JoinStep,
    client::{Pin, client, connect, handshake, local, others, refused, resolve, timed},
};
use crate::{
    VERSION,
    datadir::{self, NodeFile, Staging},
    registry::state::check_address,
};

/// What `tradewind add-controller` is told.
#[derive(Clone, Debug)]
pub struct EnlistOptions {
    /// `host:port` of a controller that the cluster has, the one that made the token.
    pub address: String,
    /// The token's text.
    pub token: String,
    /// `host:port` at which the cluster's own processes will dial the new controller.
    pub advertise: String,
    /// Where to put it; absent or empty.
    pub data_dir: PathBuf,
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
    let token: WorkloadToken = options.token.parse().map_err(|e| {
        let hint =
            "make one with `tradewind token create --controller` at the controller that is there";
        JoinError::new(JoinLayer::Token, e, hint)
    })?;
    let cluster = token.cluster.clone();
    passed(
        JoinLayer::Token,
        format!(
            "token {} of cluster {cluster} in {}",
            token.id, token.domain
        ),
    );
    let addresses = resolve(&options.address).await?;
    let tcp = connect(&options.address, &addresses).await?;
    passed(JoinLayer::Connect, format!("reached {}", options.address));
    let pin = || Pin {
        root_sha256: token.root_sha256,
        cluster: token.cluster.clone(),
        domain: token.domain.clone(),
    };
    let tls = handshake(tcp, &pin()).await.map_err(|e| {
        JoinError::new(
            JoinLayer::Tls,
            format!("no trusted controller of {cluster} answers there: {e}"),
            "see that this is the controller's own --listen address and that the token is of this cluster",
        )
    })?;
    passed(
        JoinLayer::Tls,
        format!("the controller of {cluster} proved the root that the token names"),
    );
    let staging = Staging::begin(&options.data_dir).map_err(|e| local(&e, e.hint()))?;
    let key_error = |e: &dyn std::fmt::Display| JoinError::new(JoinLayer::Sign, e, "try again");
    let key = AuthorityKey::generate(&cluster, &token.domain).map_err(|e| key_error(&e))?;
    let request = AddControllerRequest {
        token: options.token.trim().to_owned(),
        authority_csr_der: key.csr_der().map_err(|e| key_error(&e))?,
        address: options.advertise.clone(),
        version: VERSION.to_owned(),
        level: u32::from(LEVEL),
    };
    let mut client = client(tls, addresses, pin());
    let answer = timed(client.add_controller(request)).await;
    let response = answer.map_err(|status| refused(JoinLayer::Sign, &status))?;
    let node_id = response.node_id;
    passed(JoinLayer::Sign, format!("let in as node {node_id}"));
    write(staging, &options, &token, &key, response).map_err(|message| JoinError {
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
    token: &WorkloadToken,
    key: &AuthorityKey,
    response: AddControllerResponse,
) -> Result<(), String> {
    let answer = |e: &dyn std::fmt::Display| format!("the controller's answer: {e}");
    let trust: Trust = response
        .trust
        .unwrap_or_default()
        .try_into()
        .map_err(|e| answer(&e))?;
    let root = trust
        .roots
        .iter()
        .find(|root| sha256(root) == token.root_sha256)
        .ok_or("the controller's answer lacks the root that the token names")?;
    key.save(staging.path(), &response.authority_der, root)
        .map_err(|e| e.to_string())?;
    let node = NodeFile {
        version: datadir::VERSION,
        cluster: token.cluster.clone(),
        region: Region::new(&response.region).map_err(|e| answer(&e))?,
        network: Network::new(&response.network).map_err(|e| answer(&e))?,
        domain: token.domain.clone(),
        node_id: response.node_id,
        founder: ClusterName::new(&response.founder).map_err(|e| answer(&e))?,
        gateways: response.gateways,
        known_clusters: others(response.clusters, &token.cluster)?,
        // Nothing may be concluded from what its store does not hold yet.
        replicated: true,
        left: false,
        witness: false,
        address: Some(options.advertise.clone()),
        siblings: response.controllers.into_iter().collect(),
    };
    staging.commit(&node, &trust).map_err(|e| e.to_string())
}
