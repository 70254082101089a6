//! `tradewind dns`: answers names of the clusterset, forwards the rest.

use std::net::SocketAddr;

use tradewind_dns::{Dns as Role, DnsConfig, Upstreams};
use tradewind_runtime::{Rng, clock, signal::Signals};

use super::role::{self, Common};
use crate::exit::{Exit, Failure, Outcome};

/// `tradewind dns`
#[derive(Debug, clap::Args)]
pub struct Dns {
    #[command(flatten)]
    common: Common,
    /// UDP and TCP address
    #[arg(
        long,
        env = "TRADEWIND_LISTEN",
        value_name = "IP:PORT",
        default_value = "127.0.0.1:15053"
    )]
    listen: SocketAddr,
    /// Server for every other name; repeatable [default: those of /etc/resolv.conf]
    #[arg(
        long,
        env = "TRADEWIND_UPSTREAM",
        value_name = "IP:PORT",
        value_delimiter = ','
    )]
    upstream: Vec<SocketAddr>,
    /// Forward nothing: every other name is answered SERVFAIL
    #[arg(long, env = "TRADEWIND_NO_FORWARDING", value_parser = clap::builder::FalseyValueParser::new(), conflicts_with = "upstream")]
    no_forwarding: bool,
    /// Firewall mark of its own sockets, as --capture-own of a proxy that captures questions to name servers; needs CAP_NET_ADMIN
    #[arg(long, env = "TRADEWIND_MARK", value_name = "mark[:NUMBER]", num_args = 0..=1, default_missing_value = "mark")]
    mark: Option<Own>,
}

/// Runs it.
pub async fn run(args: Dns) -> Outcome {
    let log = args.common.logs.start()?;
    let signals = Signals::install().map_err(|e| Failure::of(Exit::Problems, &e))?;
    let name = args.common.name(args.listen)?;
    let mut config = DnsConfig::new(&name, args.common.controller());
    config.token = args.common.token.clone();
    config.state_dir = args.common.state_dir(&name);
    config.admin_listen = args.common.admin_listen;
    config.listen = args.listen;
    config.upstreams = match (args.no_forwarding, args.upstream) {
        (true, _) => Upstreams::Servers(Vec::new()),
        (false, servers) if servers.is_empty() => Upstreams::System,
        (false, servers) => Upstreams::Servers(servers),
    };
    let deadline = config.drain_deadline;
    let bound = Role::build(config, clock::system(), Rng::from_entropy(), Some(log))
        .map_err(|e| Failure::of(Exit::Problems, &e))?;
    tracing::info!(name, listen = %bound.local_addr(), admin = %bound.admin_addr(), "dns listens");
    let readiness = bound.readiness();
    role::serve("dns", signals, readiness, deadline, |watch| {
        bound.run(watch)
    })
    .await
}
