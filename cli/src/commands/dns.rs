//! `tradewind dns`: answers names of the clusterset, forwards the rest.

use std::net::SocketAddr;

use tradewind_dns::{Dns as Role, DnsConfig, DnsError, Upstreams};
use tradewind_proxy::{InvalidSpec, capture::Own};
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
    /// Firewall mark of its own sockets, for a host where a proxy with --capture-own mark captures questions to name servers; without
    /// a number it is that proxy's default. Needs CAP_NET_ADMIN
    #[arg(long, env = "TRADEWIND_MARK", value_name = "NUMBER", num_args = 0..=1, default_missing_value = "0x2077", value_parser = parse_mark)]
    mark: Option<u32>,
}

fn parse_mark(text: &str) -> Result<u32, InvalidSpec> {
    let own: Own = format!("mark:{text}").parse()?;
    Ok(own.mark().unwrap_or_default())
}

/// Runs it.
pub async fn run(args: Dns) -> Outcome {
    let log = args.common.logs.start()?;
    let signals = Signals::install().map_err(|e| Failure::of(Exit::Problems, &e))?;
    let name = args.common.name(args.listen)?;
    let mut config = DnsConfig::new(&name, args.common.controller());
    config.proof = args.common.proof();
    config.state_dir = args.common.state_dir(&name);
    config.admin_listen = args.common.admin_listen;
    config.listen = args.listen;
    config.mark = args.mark;
    config.upstreams = match (args.no_forwarding, args.upstream) {
        (true, _) => Upstreams::Servers(Vec::new()),
        (false, servers) if servers.is_empty() => Upstreams::System,
        (false, servers) => Upstreams::Servers(servers),
    };
    let deadline = config.drain_deadline;
    let bound = Role::build(config, clock::system(), Rng::from_entropy(), Some(log))
        .map_err(|e| failure(&e))?;
    tracing::info!(name, listen = %bound.local_addr(), admin = %bound.admin_addr(), "dns listens");
    let readiness = bound.readiness();
    role::serve("dns", signals, readiness, deadline, |watch| {
        bound.run(watch)
    })
    .await
}

fn failure(e: &DnsError) -> Failure {
    let exit = if matches!(e, DnsError::Config { .. }) {
        Exit::Usage
    } else {
        Exit::Problems
    };
    Failure::of(exit, e)
}

#[cfg(test)]
mod tests {
    use tradewind_proxy::capture::DEFAULT_MARK;

    use super::*;

    #[test]
    fn the_default_mark_is_the_proxys() {
        assert_eq!(parse_mark("0x2077").unwrap(), DEFAULT_MARK);
        assert!(parse_mark("0").is_err());
    }
}
