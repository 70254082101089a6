//! `tradewind witness`: a voter without a cluster, for federations of two clusters. Joins at its first start, then runs.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use tradewind_api::{ClusterName, Region};
use tradewind_controller::{
    Controller as Role, ControllerConfig, DataDir, JoinOptions, JoinStep, join,
};
use tradewind_runtime::{Rng, clock, signal::Signals};

use super::{
    Context,
    init::data_dir_exit,
    join::failure,
    role::{self, ConfigFile, LogArgs},
};
use crate::{
    admin::DEFAULT_DATA_DIR,
    duration,
    exit::{Exit, Failure, Outcome},
    printer::Printer,
};

/// `tradewind witness`
#[derive(Debug, clap::Args)]
pub struct Witness {
    #[command(flatten)]
    file: ConfigFile,
    /// Its directory; where it holds nothing yet, the witness joins first
    #[arg(long, env = "TRADEWIND_DATA_DIR", value_name = "DIR", default_value = DEFAULT_DATA_DIR)]
    data_dir: PathBuf,
    /// To join: host:port of any member's gateway
    #[arg(long, env = "TRADEWIND_JOIN", value_name = "ADDRESS")]
    join: Option<String>,
    /// To join: the token that a member made with `tradewind token create`
    #[arg(
        long,
        env = "TRADEWIND_TOKEN",
        value_name = "TOKEN",
        hide_env_values = true
    )]
    token: Option<String>,
    /// To join: its name among the clusters
    #[arg(
        long,
        env = "TRADEWIND_NAME",
        value_name = "NAME",
        default_value = "witness"
    )]
    name: ClusterName,
    /// To join: the region it is in, best one that holds no cluster
    #[arg(long, env = "TRADEWIND_REGION", value_name = "NAME")]
    region: Option<Region>,
    /// The one address that the clusters' controllers reach it at
    #[arg(
        long,
        env = "TRADEWIND_LISTEN",
        value_name = "IP:PORT",
        default_value = "0.0.0.0:15443"
    )]
    listen: SocketAddr,
    /// To join: host:port that the clusters dial, where it differs from --listen
    #[arg(long, env = "TRADEWIND_ADVERTISE", value_name = "HOST:PORT")]
    advertise: Option<String>,
    /// Address of its health, metrics and debug pages
    #[arg(
        long,
        env = "TRADEWIND_ADMIN_LISTEN",
        value_name = "IP:PORT",
        default_value = "127.0.0.1:15020"
    )]
    admin_listen: SocketAddr,
    /// Unix socket for this host [default: controller.sock in the data directory]
    #[arg(long, env = "TRADEWIND_SOCKET", value_name = "PATH")]
    socket: Option<PathBuf>,
    /// How long calls in flight may go on after the order to stop
    #[arg(long, env = "TRADEWIND_DRAIN_DEADLINE", value_name = "DURATION", default_value = "5s", value_parser = duration::parse)]
    drain_deadline: Duration,
    #[command(flatten)]
    logs: LogArgs,
}

/// Joins, if it has not yet, and runs.
pub async fn run(context: Context, args: Witness) -> Outcome {
    let log = args.logs.start()?;
    let known = DataDir::read_node(&args.data_dir)
        .map_err(|e| Failure::of(data_dir_exit(&e), &e).hint(e.hint()))?;
    if known.is_none() {
        enter(context.printer, &args).await?;
    }
    let signals = Signals::install().map_err(|e| Failure::of(Exit::Problems, &e))?;
    let config = ControllerConfig {
        listen: args.listen,
        advertise: None,
        admin_listen: args.admin_listen,
        manifests: None,
        kubernetes: None,
        host_workloads: false,
        webhook: None,
        socket: args.socket,
        drain_deadline: args.drain_deadline,
        witness: true,
        data_dir: args.data_dir,
    };
    let bound = Role::build(config, clock::system(), Rng::from_entropy(), Some(log))
        .await
        .map_err(|e| Failure::of(Exit::Problems, &e).hint(e.hint()))?;
    tracing::info!(listen = %bound.listen_addr(), admin = %bound.admin_addr(), socket = %bound.socket_path().display(), "witness listens");
    let readiness = bound.readiness();
    role::serve(
        "witness",
        signals,
        readiness,
        args.drain_deadline,
        |watch| bound.run(watch),
    )
    .await
}

async fn enter(printer: Printer, args: &Witness) -> Result<(), Failure> {
    let dir = args.data_dir.display();
    let (Some(address), Some(token), Some(region)) = (&args.join, &args.token, &args.region) else {
        return Err(Failure::usage(format!(
            "{dir} holds no witness yet, and not all is told that joining needs"
        ))
        .hint("give --join <a member's gateway>, --token <from `tradewind token create`> and --region <name>")
        .hint("name its directory with --data-dir where it joined already"));
    };
    let advertised = args
        .advertise
        .clone()
        .or_else(|| super::reachable(args.listen))
        .unwrap_or_else(|| args.listen.to_string());
    printer.title(format_args!(
        "joining {} as a witness through {address}",
        args.name
    ));
    let options = JoinOptions {
        address: address.clone(),
        token: token.clone(),
        cluster: args.name.clone(),
        region: region.clone(),
        network: None,
        data_dir: args.data_dir.clone(),
        gateway_addresses: vec![advertised],
        bind_addresses: vec![args.listen.to_string()],
        skip_way_back: false,
        witness: true,
        dry_run: false,
    };
    let progress = |step: &JoinStep| {
        printer.done(format_args!("{:<10} {}", step.layer.as_str(), step.detail));
    };
    let joined = join(options, clock::system(), Rng::from_entropy(), progress)
        .await
        .map_err(|e| failure(&e))?;
    printer.say(format_args!(
        "{} votes in {} now",
        joined.cluster, joined.domain
    ));
    Ok(())
}
