//! The joiner: passes one layer after the other and says which one stopped it.
//!
//! Everything before the `Join` call is a check and changes nothing, here or there. The data directory is filled at the
//! very end; until then only its emptiness and its lock are taken.

use std::collections::BTreeMap;

use tokio::net::{TcpStream, lookup_host};
use tokio_rustls::client::TlsStream;
use tonic::{Code, transport::Channel};
use tradewind_api::{
    ClusterName, Network,
    proto::v1::{self, JoinRequest, JoinResponse, federation_client::FederationClient},
    snapshot::Trust,
};
use tradewind_ca::{authority::AuthorityKey, token::JoinToken};
use tradewind_runtime::{Rng, SharedClock};

use super::{
    JoinError, JoinLayer, JoinOptions, JoinStep, Joined,
    dial::{Pin, RESOLVE_DEADLINE, client, connect, handshake, refused, resolve, timed},
    way_back,
};
use crate::{
    VERSION, answer,
    datadir::{self, KnownCluster, NodeFile, Staging},
    init::check_gateways,
    raft_net::within,
};

/// How often the last step is tried when its answer was lost. The member answers the same request the same way.
const JOIN_TRIES: u32 = 3;

/// Enters a federation. `progress` hears of every layer that was passed.
pub async fn join(
    options: JoinOptions,
    clock: SharedClock,
    rng: Rng,
    progress: impl FnMut(&JoinStep) + Send,
) -> Result<Joined, JoinError> {
    tracing::debug!(
        at_unix_ms = clock.unix_ms(),
        address = options.address,
        "joining"
    );
    let mut answering = None;
    let joined = attempt(options, rng, progress, &mut answering).await;
    if let Some(answering) = answering {
        answering.stop().await;
    }
    joined
}

/// Hears of every layer passed.
type Passed<'a> = &'a mut (dyn FnMut(JoinLayer, String) + Send);

pub(super) fn local(message: &dyn std::fmt::Display, hint: impl Into<String>) -> JoinError {
    JoinError::new(JoinLayer::Local, message, hint)
}

async fn attempt(
    options: JoinOptions,
    mut rng: Rng,
    mut progress: impl FnMut(&JoinStep) + Send,
    answering: &mut Option<way_back::Answering>,
) -> Result<Joined, JoinError> {
    let passed: Passed<'_> = &mut |layer, detail| progress(&JoinStep { layer, detail });
    let mut nonce = vec![0; way_back::NONCE_BYTES];
    rng.bytes(&mut nonce);
    let (gateways, network) = prepare(&options)?;
    if !options.skip_way_back {
        *answering = Some(listen(&options.bind_addresses, &gateways, &nonce).await?);
    }
    let dir = options.data_dir.display();
    passed(
        JoinLayer::Local,
        format!("data directory {dir} can be used"),
    );

    let (token, mut client) = reach(&options, passed).await?;
    let mut request = JoinRequest {
        token: options.token.trim().to_owned(),
        cluster: options.cluster.to_string(),
        region: options.region.to_string(),
        network: network.to_string(),
        gateways: gateways.clone(),
        version: VERSION.to_owned(),
        way_back_nonce: nonce,
        authority_csr_der: Vec::new(),
        level: u32::from(tradewind_api::store::LEVEL),
        witness: options.witness,
    };
    check(
        &mut client,
        &request,
        (&token, options.skip_way_back),
        passed,
    )
    .await?;
    let mut joined = Joined {
        cluster: options.cluster.clone(),
        domain: token.domain.clone(),
        through: token.cluster.clone(),
        node_id: None,
        members: Vec::new(),
        data_dir: options.data_dir.clone(),
    };
    if options.dry_run {
        return Ok(joined);
    }

    let staging = Staging::begin(&options.data_dir).map_err(|e| local(&e, e.hint()))?;
    let key_error = |e: &dyn std::fmt::Display| JoinError::new(JoinLayer::Sign, e, "try again");
    let key = AuthorityKey::generate(&options.cluster, &token.domain).map_err(|e| key_error(&e))?;
    request.authority_csr_der = key.csr_der().map_err(|e| key_error(&e))?;
    let response = ask_to_join(&mut client, &request).await?;
    passed(
        JoinLayer::Sign,
        format!("admitted as node {}", response.node_id),
    );

    let written = write(staging, &options, &token, network, gateways, &key, response);
    let node = written.map_err(|message| not_written(&options, message))?;
    passed(JoinLayer::Write, format!("wrote {dir}"));
    joined.node_id = Some(node.node_id);
    joined.members = node.known_clusters.into_keys().collect();
    Ok(joined)
}

/// The data directory can be used and the addresses make sense.
fn prepare(options: &JoinOptions) -> Result<(Vec<String>, Network), JoinError> {
    Staging::check(&options.data_dir).map_err(|e| local(&e, e.hint()))?;
    let gateways = check_gateways(&options.gateway_addresses).map_err(|e| {
        local(
            &e,
            "write --gateway as host:port, such as 203.0.113.7:15443",
        )
    })?;
    if gateways.is_empty() {
        let hint = "give --gateway host:port: the other clusters reach this one through it";
        return Err(local(&"no gateway address was given", hint));
    }
    let network = match &options.network {
        Some(network) => network.clone(),
        None => Network::new(options.cluster.as_str())
            .map_err(|e| local(&e, "choose another --cluster"))?,
    };
    Ok((gateways, network))
}

/// From the token's text to a proven connection.
async fn reach(
    options: &JoinOptions,
    passed: Passed<'_>,
) -> Result<(JoinToken, FederationClient<Channel>), JoinError> {
    let token: JoinToken = options.token.parse().map_err(|e| {
        let hint = "make a new one with `tradewind token create` in a member cluster";
        JoinError::new(JoinLayer::Token, e, hint)
    })?;
    let (id, host, domain) = (&token.id, &token.cluster, &token.domain);
    passed(
        JoinLayer::Token,
        format!("token {id} of cluster {host} in {domain}"),
    );
    let addresses = resolve(&options.address).await?;
    passed(
        JoinLayer::Resolve,
        format!("{} has {} address(es)", options.address, addresses.len()),
    );
    let tcp = connect(&options.address, &addresses).await?;
    passed(
        JoinLayer::Connect,
        format!("reached a gateway at {}", options.address),
    );
    let tls = tls(tcp, &token).await?;
    passed(
        JoinLayer::Tls,
        format!("the controller of {host} proved the root that the token names"),
    );
    let client = client(tls, addresses, Pin::of(&token));
    Ok((token, client))
}

/// The member's yes, and the way back. Changes nothing.
async fn check(
    client: &mut FederationClient<Channel>,
    request: &JoinRequest,
    (token, skip_way_back): (&JoinToken, bool),
    passed: Passed<'_>,
) -> Result<(), JoinError> {
    let checked = timed(client.join_check(request.clone()))
        .await
        .map_err(|s| refused(JoinLayer::Admission, &s))?;
    passed(
        JoinLayer::Admission,
        format!("{} would admit {}", token.cluster, request.cluster),
    );
    if skip_way_back {
        let gateways = request.gateways.join(", ");
        passed(
            JoinLayer::WayBack,
            format!(
                "not checked: `tradewind status` says whether others reach {gateways} once a gateway runs"
            ),
        );
        return Ok(());
    }
    if checked.way_back_ok {
        let gateways = request.gateways.join(", ");
        passed(
            JoinLayer::WayBack,
            format!("{} reached {gateways}", token.cluster),
        );
        return Ok(());
    }
    let (layer, why) = (&checked.way_back_layer, &checked.way_back_error);
    let hint = match layer.as_str() {
        "resolve" => "give --gateway a name that the other clusters can resolve, or an IP address",
        "answer" => "something else listens there; see where --gateway leads",
        _ => {
            "open the firewall towards --gateway; where it is translated, say what to bind with --bind"
        }
    };
    Err(JoinError::new(
        JoinLayer::WayBack,
        format!("{layer} failed: {why}"),
        hint,
    ))
}

fn not_written(options: &JoinOptions, message: String) -> JoinError {
    let (cluster, dir) = (&options.cluster, options.data_dir.display());
    let hint = format!(
        "the federation already counts {cluster} as a member, but its key was not saved: make {dir} writable and join under another name with a new token; {cluster} will show as unreachable"
    );
    JoinError {
        admitted: true,
        ..JoinError::new(JoinLayer::Write, message, hint)
    }
}

async fn tls(tcp: TcpStream, token: &JoinToken) -> Result<TlsStream<TcpStream>, JoinError> {
    let hint = format!(
        "see that this is a gateway of {}, that its controller runs, and that the token is of this federation",
        token.cluster
    );
    handshake(tcp, &Pin::of(token)).await.map_err(|e| {
        JoinError::new(
            JoinLayer::Tls,
            format!(
                "no trusted controller of {} answers there: {e}",
                token.cluster
            ),
            hint,
        )
    })
}

/// Binds what the operator said, or else the advertised addresses themselves.
async fn listen(
    bind: &[String],
    advertised: &[String],
    nonce: &[u8],
) -> Result<way_back::Answering, JoinError> {
    let wanted = if bind.is_empty() { advertised } else { bind };
    let failed = |message: String| {
        JoinError::new(
            JoinLayer::Local,
            message,
            "the way back is checked on this address, before the gateway uses it: stop what listens there, or, where the advertised address is not this host's own, say what to bind with --bind",
        )
    };
    let mut sockets = Vec::new();
    for address in wanted {
        let mut found = within(RESOLVE_DEADLINE, lookup_host(address))
            .await
            .map_err(|e| failed(format!("cannot listen on {address}: {e}")))?;
        sockets.extend(found.next());
    }
    way_back::Answering::start(&sockets, nonce).map_err(|e| failed(e.to_string()))
}

/// The last step. A lost answer is asked for again: the same request gets the same answer, whether it was carried out
/// the first time or not.
async fn ask_to_join(
    client: &mut FederationClient<Channel>,
    request: &JoinRequest,
) -> Result<JoinResponse, JoinError> {
    let mut tries = 0;
    loop {
        tries += 1;
        let status = match timed(client.join(request.clone())).await {
            Ok(response) => return Ok(response),
            Err(status) => status,
        };
        let lost = matches!(
            status.code(),
            Code::Unavailable | Code::Unknown | Code::Cancelled | Code::DeadlineExceeded
        );
        // A complete sentence with a hint was written by the member: it has decided.
        let decided = answer::split(status.message()).1.is_some();
        if !lost || decided || tries >= JOIN_TRIES {
            let unknown = lost && !decided;
            let mut error = refused(JoinLayer::Sign, &status);
            if unknown {
                error.hint = format!(
                    "nobody knows whether {} was admitted; `tradewind clusters` in a member cluster tells. If it was, join under another name with a new token",
                    request.cluster
                );
            }
            return Err(error);
        }
    }
}

/// The clusters that an answer names, without `own`.
pub(super) fn others(
    clusters: Vec<v1::KnownCluster>,
    own: &ClusterName,
) -> Result<BTreeMap<ClusterName, KnownCluster>, String> {
    let mut others = BTreeMap::new();
    for cluster in clusters {
        let name =
            ClusterName::new(&cluster.name).map_err(|e| format!("the member's answer: {e}"))?;
        let known = KnownCluster {
            gateways: cluster.gateways,
            nodes: cluster.nodes.into_iter().collect(),
            by_node: cluster.by_node.into_iter().collect(),
        };
        if name != *own {
            others.insert(name, known);
        }
    }
    Ok(others)
}

fn write(
    staging: Staging,
    options: &JoinOptions,
    token: &JoinToken,
    network: Network,
    gateways: Vec<String>,
    key: &AuthorityKey,
    response: JoinResponse,
) -> Result<NodeFile, String> {
    let trust: Trust = response
        .trust
        .unwrap_or_default()
        .try_into()
        .map_err(|e| format!("the member's answer: {e}"))?;
    let root = trust
        .roots
        .iter()
        .find(|root| tradewind_transport::trust::sha256(root) == token.root_sha256)
        .ok_or("the member's answer lacks the root that the token names")?;
    key.save(staging.path(), &response.authority_der, root)
        .map_err(|e| e.to_string())?;
    let mut known_clusters = others(response.clusters, &options.cluster)?;
    // The gateway that let us in is known to work, whatever the member announced.
    let through = known_clusters.entry(token.cluster.clone()).or_default();
    if !through.gateways.contains(&options.address) {
        through.gateways.push(options.address.clone());
    }
    let founder =
        ClusterName::new(&response.founder).map_err(|e| format!("the member's answer: {e}"))?;
    let node = NodeFile {
        version: datadir::VERSION,
        cluster: options.cluster.clone(),
        region: options.region.clone(),
        network,
        domain: token.domain.clone(),
        node_id: response.node_id,
        founder,
        gateways,
        known_clusters,
        replicated: false,
        left: false,
        witness: options.witness,
        address: None,
        siblings: BTreeMap::new(),
    };
    staging.commit(&node, &trust).map_err(|e| e.to_string())?;
    Ok(node)
}
