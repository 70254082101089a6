//! `tradewind init`: found a federation with this cluster as its first member.

use std::{path::PathBuf, time::Duration};

use serde_json::json;
use tradewind_api::{ClusterName, Domain, Network, Region};
use tradewind_controller::{DataDir, DataDirError, InitError, InitOptions};
use tradewind_runtime::{MetricsRegistry, Rng, clock};

use super::{Context, GATEWAY_PORT};
use crate::{
    admin::DEFAULT_DATA_DIR,
    duration,
    exit::{Exit, Failure, Outcome},
    output::{Format, Output, document},
    table,
};

/// What a cluster says of itself, at `init` as at `join`.
#[derive(Debug, clap::Args)]
pub struct Member {
    /// This cluster's name
    #[arg(long, env = "TRADEWIND_CLUSTER", value_name = "NAME")]
    pub cluster: ClusterName,
    /// The region it is in, such as us-west
    #[arg(long, env = "TRADEWIND_REGION", value_name = "NAME")]
    pub region: Region,
    /// Its network, where it shares one with another cluster [default: its own name]
    #[arg(long, env = "TRADEWIND_NETWORK", value_name = "NAME")]
    pub network: Option<Network>,
    /// Where its state goes; must be absent or empty
    #[arg(long, env = "TRADEWIND_DATA_DIR", value_name = "DIR", default_value = DEFAULT_DATA_DIR)]
    pub data_dir: PathBuf,
    /// host:port at which other clusters reach its gateway; repeatable [default: this machine's first address, port 15443]
    #[arg(
        long,
        env = "TRADEWIND_GATEWAY",
        value_name = "HOST:PORT",
        value_delimiter = ','
    )]
    pub gateway: Vec<String>,
    /// Do nothing, and end well, where this cluster is in the directory already: for a step that runs at each start
    #[arg(long)]
    pub if_needed: bool,
    /// The address in the default of --gateway
    #[arg(long, value_name = "IP", conflicts_with = "gateway")]
    pub address: Option<std::net::IpAddr>,
}

impl Member {
    /// Whether nothing is left to be done. Another cluster in the directory is no reason to do nothing.
    pub fn is_done(&self) -> Result<bool, Failure> {
        if !self.if_needed {
            return Ok(false);
        }
        let node =
            DataDir::read_node(&self.data_dir).map_err(|e| Failure::of(data_dir_exit(&e), &e))?;
        Ok(node.is_some_and(|node| node.cluster == self.cluster && !node.left))
    }

    /// The gateway addresses told, or the one that is likely.
    pub fn gateways(&self) -> Vec<String> {
        if !self.gateway.is_empty() {
            return self.gateway.clone();
        }
        let ip = self.address.unwrap_or_else(super::own_address);
        vec![std::net::SocketAddr::new(ip, GATEWAY_PORT).to_string()]
    }
}

/// `tradewind init`
#[derive(Debug, clap::Args)]
pub struct Init {
    #[command(flatten)]
    member: Member,
    /// The federation's domain
    #[arg(
        long,
        env = "TRADEWIND_DOMAIN",
        value_name = "NAME",
        default_value = "mesh.internal"
    )]
    domain: Domain,
    /// How long the first join token is good for
    #[arg(long, value_name = "DURATION", default_value = "15m", value_parser = duration::parse)]
    token_lifetime: Duration,
    #[command(flatten)]
    output: Output,
}

/// Founds it.
pub async fn run(context: Context, args: Init) -> Outcome {
    if args.member.is_done()? {
        let cluster = &args.member.cluster;
        let dir = args.member.data_dir.display();
        context
            .printer
            .done(format_args!("cluster {cluster} is in {dir} already"));
        return Ok(Exit::Good);
    }
    let gateways = args.member.gateways();
    let options = InitOptions {
        cluster: args.member.cluster.clone(),
        region: args.member.region,
        network: args.member.network,
        domain: args.domain,
        data_dir: args.member.data_dir,
        gateway_addresses: gateways.clone(),
        token_lifetime: args.token_lifetime,
    };
    let made = tradewind_controller::init(
        options,
        clock::system(),
        Rng::from_entropy(),
        &MetricsRegistry::new(),
    )
    .await
    .map_err(|e| failure(&e))?;
    let dir = made.data_dir.display();
    let address = made
        .join_address
        .clone()
        .unwrap_or_else(|| "GATEWAY:15443".to_owned());
    let command = format!(
        "tradewind join {address} --token {} --cluster NAME --region REGION --data-dir DIR --gateway HOST:PORT",
        made.token
    );
    let printer = context.printer;
    printer.title(format_args!(
        "founded the federation {} with cluster {}",
        made.domain, made.cluster
    ));
    printer.done(format_args!(
        "root and authority are in {dir}; keep root.key safe, it is nowhere else"
    ));
    printer.say("");
    printer.say("start this cluster:");
    printer.say(format_args!("  tradewind controller --data-dir {dir}"));
    printer.say(format_args!(
        "  tradewind gateway --data-dir {dir} --advertise {}",
        gateways.join(",")
    ));
    let left = made
        .token_expires_at_ms
        .saturating_sub(clock::system().unix_ms());
    printer.say(format_args!(
        "then run the command below where the next cluster is, with its own name, region, directory and gateway in the \
         places in capitals (the token is good once, for {}):",
        table::left(left)
    ));
    match args.output.format {
        Format::Json => printer.json(&document(
            "tradewind.init/v1",
            json!({
                "cluster": made.cluster,
                "domain": made.domain,
                "node_id": made.node_id,
                "data_dir": made.data_dir,
                "gateways": gateways,
                "token": made.token,
                "token_id": made.token_id,
                "token_expires_at_unix_ms": made.token_expires_at_ms,
                "join_address": made.join_address,
                "join_command": command,
            }),
        )),
        Format::Name => printer.data(&made.token),
        Format::Table => printer.data(&command),
    }
    Ok(Exit::Good)
}

fn failure(error: &InitError) -> Failure {
    let exit = match error {
        InitError::DataDir(e) => data_dir_exit(e),
        InitError::Gateway(_) | InitError::Name(_) => Exit::Usage,
        InitError::Ca { .. } | InitError::Store(_) => Exit::Problems,
        InitError::Refused(_) => Exit::Refused,
    };
    Failure::of(exit, error).hint(error.hint())
}

/// The exit code for a data directory that cannot be used.
pub fn data_dir_exit(_: &DataDirError) -> Exit {
    Exit::Problems
}
