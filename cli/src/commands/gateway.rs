//! `tradewind gateway`: a cluster's door to the others.

use std::net::SocketAddr;

use tradewind_gateway::{Gateway as Role, GatewayConfig, GatewayError};
use tradewind_runtime::{Rng, clock, signal::Signals};

use super::role::{self, Common, DrainArgs};
use crate::exit::{Exit, Failure, Outcome};

/// `tradewind gateway`
#[derive(Debug, clap::Args)]
pub struct Gateway {
    #[command(flatten)]
    common: Common,
    /// Address that other clusters reach it at
    #[arg(
        long,
        env = "TRADEWIND_LISTEN",
        value_name = "IP:PORT",
        default_value = "0.0.0.0:15443"
    )]
    listen: SocketAddr,
    /// host:port that other clusters dial, where it differs from --listen
    #[arg(long, env = "TRADEWIND_ADVERTISE", value_name = "HOST:PORT")]
    advertise: Option<String>,
    /// host:port of its own controller, for connections that name the controller
    #[arg(
        long,
        env = "TRADEWIND_CONTROLLER_BACKEND",
        value_name = "HOST:PORT",
        default_value = "127.0.0.1:15012"
    )]
    controller_backend: String,
    /// Data threads; 0 means one a core
    #[arg(long, env = "TRADEWIND_THREADS", value_name = "N", default_value_t = 0)]
    threads: usize,
    /// Most connections at once [default: what the file descriptor limit allows]
    #[arg(long, env = "TRADEWIND_MAX_CONNECTIONS", value_name = "N")]
    max_connections: Option<usize>,
    /// Pass the calls of its own cluster's proxies (--exit gateway) on to the other clusters' gateways
    #[arg(long, env = "TRADEWIND_PASS_ON", value_parser = clap::builder::FalseyValueParser::new())]
    pass_on: bool,
    #[command(flatten)]
    drain: DrainArgs,
}

/// Runs it.
pub async fn run(args: Gateway) -> Outcome {
    let log = args.common.logs.start()?;
    let signals = Signals::install().map_err(|e| Failure::of(Exit::Problems, &e))?;
    let name = args.common.name(args.listen)?;
    let mut config = GatewayConfig::new(&name, args.common.controller());
    config.proof = args.common.proof();
    config.state_dir = args.common.state_dir(&name);
    config.admin_listen = args.common.admin_listen;
    config.listen = args.listen;
    config.advertise = args.advertise.or_else(|| super::reachable(args.listen));
    config.controller_backend = args.controller_backend;
    config.threads = args.threads;
    config.max_connections = args.max_connections;
    config.pass_on = args.pass_on;
    config.drain_deadline = args.drain.drain_deadline;
    let deadline = config.announce_grace + config.drain_deadline;
    let bound = Role::build(config, clock::system(), Rng::from_entropy(), Some(log))
        .map_err(|e| failure(&e))?;
    tracing::info!(name, listen = %bound.local_addr(), admin = %bound.admin_addr(), advertised = bound.advertised(), "gateway listens");
    let readiness = bound.readiness();
    role::serve("gateway", signals, readiness, deadline, |watch| {
        bound.run(watch)
    })
    .await
}

fn failure(e: &GatewayError) -> Failure {
    let exit = if matches!(e, GatewayError::Config { .. }) {
        Exit::Usage
    } else {
        Exit::Problems
    };
    Failure::of(exit, e)
}
