//! `tradewind proxy --capture` and `tradewind proxy capture`: how rules of the firewall are told what to capture, and setting
//! them without running a proxy.

use std::net::SocketAddr;

use tradewind_proxy::{
    ServeSpec,
    capture::{
        self, CaptureConfig, Cidr, INBOUND_PORT, Inbound, InboundPorts, OUTBOUND_PORT, Own, Plan,
        Rules, RulesError, Stage, Tool, Unknown,
    },
};

use super::Context;
use crate::exit::{Exit, Failure, Outcome};

/// Ports of the mesh's own processes, unless they were told others.
const MESH_PORTS: [u16; 3] = [15008, 15020, 15053];

/// What the rules are made from.
#[derive(Debug, clap::Args)]
pub struct RuleArgs {
    /// How the proxy's own connections are told from others: mark[:NUMBER] on its sockets (needs CAP_NET_ADMIN), or uid:NUMBER
    #[arg(
        long,
        env = "TRADEWIND_CAPTURE_OWN",
        value_name = "mark|uid",
        default_value_t
    )]
    capture_own: Own,
    /// What sets the rules: nft, iptables, or auto for whichever is installed
    #[arg(
        long,
        env = "TRADEWIND_CAPTURE_TOOL",
        value_name = "auto|nft|iptables",
        default_value_t
    )]
    capture_tool: Tool,
    /// Ports that are not captured, neither to them nor at them; repeatable
    #[arg(
        long,
        env = "TRADEWIND_CAPTURE_EXCLUDE_PORTS",
        value_name = "PORT",
        value_delimiter = ','
    )]
    capture_exclude_ports: Vec<u16>,
    /// Destinations that are not captured, such as 10.0.0.0/8; repeatable
    #[arg(
        long,
        env = "TRADEWIND_CAPTURE_EXCLUDE_CIDRS",
        value_name = "CIDR",
        value_delimiter = ','
    )]
    capture_exclude_cidrs: Vec<Cidr>,
    /// Users whose connections are not captured; repeatable
    #[arg(
        long,
        env = "TRADEWIND_CAPTURE_EXCLUDE_UIDS",
        value_name = "UID",
        value_delimiter = ','
    )]
    capture_exclude_uids: Vec<u32>,
    /// Where questions to name servers go instead: a `tradewind dns` that runs with --mark; at most one address a family
    #[arg(
        long,
        env = "TRADEWIND_CAPTURE_DNS",
        value_name = "IP:PORT",
        value_delimiter = ','
    )]
    capture_dns: Vec<SocketAddr>,
    /// At which ports plaintext callers are caught: served (those of --serve), all, none, or ports separated by commas
    #[arg(
        long,
        env = "TRADEWIND_CAPTURE_INBOUND_PORTS",
        value_name = "PORTS",
        default_value_t
    )]
    capture_inbound_ports: InboundPorts,
    /// Port on loopback where captured connections arrive
    #[arg(long, env = "TRADEWIND_CAPTURE_OUTBOUND_PORT", value_name = "PORT", default_value_t = OUTBOUND_PORT, value_parser = clap::value_parser!(u16).range(1..))]
    capture_outbound_port: u16,
    /// Port where captured plaintext callers arrive
    #[arg(long, env = "TRADEWIND_CAPTURE_INBOUND_PORT", value_name = "PORT", default_value_t = INBOUND_PORT, value_parser = clap::value_parser!(u16).range(1..))]
    capture_inbound_port: u16,
}

impl RuleArgs {
    fn config(self) -> CaptureConfig {
        CaptureConfig {
            own: self.capture_own,
            tool: self.capture_tool,
            inbound_ports: self.capture_inbound_ports,
            exclude_ports: self.capture_exclude_ports,
            exclude_cidrs: self.capture_exclude_cidrs,
            exclude_uids: self.capture_exclude_uids,
            dns: self.capture_dns,
            outbound_port: self.capture_outbound_port,
            inbound_port: self.capture_inbound_port,
            ..CaptureConfig::default()
        }
    }
}

/// The flags of a proxy that captures.
#[derive(Debug, clap::Args)]
pub struct CaptureArgs {
    /// Capture what applications of this network namespace dial, by rules of the firewall
    #[arg(long, env = "TRADEWIND_CAPTURE", value_parser = clap::builder::FalseyValueParser::new())]
    capture: bool,
    /// Who sets the rules: managed, the proxy while it runs; or external, such as `tradewind proxy capture --apply` before it
    #[arg(
        long,
        env = "TRADEWIND_CAPTURE_RULES",
        value_name = "managed|external",
        default_value_t
    )]
    capture_rules: Rules,
    /// What becomes of captured connections to nobody known: pass, to where they were going, or refuse
    #[arg(
        long,
        env = "TRADEWIND_UNKNOWN",
        value_name = "pass|refuse",
        default_value_t
    )]
    unknown: Unknown,
    /// What becomes of callers without a proxy: permissive, they are let through and counted; or strict, refused and counted
    #[arg(
        long,
        env = "TRADEWIND_INBOUND",
        value_name = "permissive|strict",
        default_value_t
    )]
    inbound: Inbound,
    #[command(flatten)]
    rules: RuleArgs,
}

impl CaptureArgs {
    /// The settings, if there is to be a capture.
    pub fn config(self) -> Option<CaptureConfig> {
        self.capture.then(|| CaptureConfig {
            rules: self.capture_rules,
            unknown: self.unknown,
            inbound: self.inbound,
            ..self.rules.config()
        })
    }
}

/// What is done besides running a proxy.
#[derive(Debug, clap::Subcommand)]
pub enum Also {
    /// Show, set or remove the rules of a capture, and exit
    Capture(Capture),
}

/// `tradewind proxy capture`
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("what").required(true).args(["print", "apply", "remove"]))]
pub struct Capture {
    /// Show what would be set here, and change nothing
    #[arg(long)]
    print: bool,
    /// Set the rules, in place of whichever there are of ours: for an init step
    #[arg(long)]
    apply: bool,
    /// Remove the rules, if there are any
    #[arg(long)]
    remove: bool,
    /// What the proxy will be told to serve: callers are caught at the applications' ports; repeatable
    #[arg(
        long,
        env = "TRADEWIND_SERVE",
        value_name = "SPEC",
        value_delimiter = ';'
    )]
    serve: Vec<ServeSpec>,
    #[command(flatten)]
    rules: RuleArgs,
}

/// Does it.
pub async fn run(context: Context, also: Also) -> Outcome {
    let Also::Capture(args) = also;
    let tool = args.rules.capture_tool;
    if args.remove {
        capture::remove(tool).await.map_err(|e| failure(&e))?;
        context.printer.done("capture rules are removed");
        return Ok(Exit::Good);
    }
    let config = args.rules.config();
    config.check().map_err(|(flag, why)| {
        Failure::usage(format!("--{flag} is not usable: {why}"))
            .hint("`tradewind help proxy capture` shows every flag")
    })?;
    let served: Vec<u16> = args.serve.iter().filter_map(ServeSpec::app_port).collect();
    let plan = Plan::new(&config, &served, &MESH_PORTS, capture::has_ipv6());
    if args.print {
        // Where nothing is installed the rules can be read all the same.
        let tool = capture::chosen(tool).await.unwrap_or(tool);
        context.printer.data(capture::text(&plan, tool).trim_end());
        return Ok(Exit::Good);
    }
    let tool = capture::apply(&plan, Stage::Capture, tool)
        .await
        .map_err(|e| failure(&e))?;
    context
        .printer
        .done(format_args!("capture rules are set, by {tool}"));
    context
        .printer
        .say("remove them with: tradewind proxy capture --remove");
    Ok(Exit::Good)
}

fn failure(error: &RulesError) -> Failure {
    Failure::of(Exit::Problems, error)
}
