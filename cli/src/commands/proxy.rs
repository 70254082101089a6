//! `tradewind proxy`: the local proxy beside a workload.

use std::net::SocketAddr;

use tradewind_api::Zone;
use tradewind_proxy::{
    Exit as Way, ListenSpec, Proxy as Role, ProxyConfig, ProxyError, ServeSpec,
    labels::{Label, labels},
};
use tradewind_runtime::{Rng, clock, signal::Signals};

use super::{
    Context,
    proxy_capture::{self, Also, CaptureArgs},
    proxy_telemetry::TelemetryArgs,
    role::{self, Common, DrainArgs},
};
use crate::exit::{Exit, Failure, Outcome};

/// `tradewind proxy`
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Proxy {
    #[command(subcommand)]
    also: Option<Also>,
    #[command(flatten)]
    common: Common,
    /// The workload's identity, as namespace/account or a whole path (/ns/shop/sa/payments)
    #[arg(long, env = "TRADEWIND_IDENTITY", value_name = "NAMESPACE/ACCOUNT")]
    identity: Option<String>,
    /// Where the application calls a service: IP:PORT=NAMESPACE/NAME:PORT; repeatable
    #[arg(
        long,
        env = "TRADEWIND_LISTEN",
        value_name = "SPEC",
        value_delimiter = ';'
    )]
    listen: Vec<ListenSpec>,
    /// What the application offers: NAMESPACE/NAME:PORT=HOST:PORT[,check=http:/healthz][,protocol=http1|http2|tcp][,weight=100]; repeatable
    #[arg(
        long,
        env = "TRADEWIND_SERVE",
        value_name = "SPEC",
        value_delimiter = ';'
    )]
    serve: Vec<ServeSpec>,
    /// It runs in a pod: it serves what the Services that select the pod say, at the address of --advertise, and registers nothing
    #[arg(long, env = "TRADEWIND_KUBERNETES", value_parser = clap::builder::FalseyValueParser::new())]
    kubernetes: bool,
    /// Address that gateways and other proxies reach it at
    #[arg(
        long,
        env = "TRADEWIND_HBONE_LISTEN",
        value_name = "IP:PORT",
        default_value = "0.0.0.0:15008"
    )]
    hbone_listen: SocketAddr,
    /// host:port of that address as others dial it, where it differs; in Kubernetes $(POD_IP):15008
    #[arg(long, env = "TRADEWIND_ADVERTISE", value_name = "HOST:PORT")]
    advertise: Option<String>,
    /// Data threads; 0 means one a core
    #[arg(long, env = "TRADEWIND_THREADS", value_name = "N", default_value_t = 0)]
    threads: usize,
    /// The zone it runs in; none where it is empty
    #[arg(long, env = "TRADEWIND_ZONE", value_name = "NAME")]
    zone: Option<String>,
    /// What the workload is labelled with, KEY=VALUE: rules may be for such callers alone (sourceLabels), limits for such workloads; repeatable
    #[arg(
        long = "label",
        env = "TRADEWIND_LABEL",
        value_name = "KEY=VALUE",
        value_delimiter = ';'
    )]
    labels: Vec<Label>,
    /// How calls leave the cluster: direct, to the other clusters' gateways; or gateway, through its own cluster's (which need --pass-on)
    #[arg(
        long,
        env = "TRADEWIND_EXIT",
        value_name = "direct|gateway",
        default_value = "direct"
    )]
    exit: Way,
    #[command(flatten)]
    capture: CaptureArgs,
    #[command(flatten)]
    telemetry: TelemetryArgs,
    #[command(flatten)]
    drain: DrainArgs,
}

/// Runs it.
pub async fn run(context: Context, args: Proxy) -> Outcome {
    if let Some(also) = args.also {
        return proxy_capture::run(context, also).await;
    }
    let log = args.common.logs.start()?;
    let signals = Signals::install().map_err(|e| Failure::of(Exit::Problems, &e))?;
    let capture = args.capture.config();
    let serves = args.kubernetes || !args.serve.is_empty();
    if args.listen.is_empty() && !serves && capture.is_none() {
        return Err(Failure::usage(
            "a proxy needs something to do: at least one --listen or --serve, --kubernetes or --capture",
        )
        .hint("to call a service: --listen 127.0.0.1:9090=shop/payments:80")
        .hint("to offer one: --serve shop/payments:80=127.0.0.1:8080")
        .hint("in a pod: --kubernetes --capture"));
    }
    let name = args.common.name(args.hbone_listen)?;
    let mut config = ProxyConfig::new(&name, args.common.controller());
    config.identity_path = args
        .identity
        .as_deref()
        .map(super::identity_path)
        .transpose()?;
    config.proof = args.common.proof();
    config.state_dir = args.common.state_dir(&name);
    config.admin_listen = args.common.admin_listen;
    config.listeners = args.listen;
    config.serves = args.serve;
    config.kubernetes = args.kubernetes;
    config.capture = capture;
    config.hbone_listen = args.hbone_listen;
    config.advertise = args
        .advertise
        .or_else(|| super::reachable(args.hbone_listen));
    config.threads = args.threads;
    config.zone = zone(args.zone.as_deref())?;
    config.labels = labels(args.labels);
    config.exit = args.exit;
    config.telemetry = args.telemetry.config();
    config.drain_deadline = args.drain.drain_deadline;
    let deadline = config.leave_grace + config.drain_deadline;
    let bound = Role::build(config, clock::system(), Rng::from_entropy(), Some(log))
        .map_err(|e| failure(&e))?;
    tracing::info!(name, hbone = ?bound.hbone_addr(), admin = %bound.admin_addr(), "proxy listens");
    let readiness = bound.readiness();
    role::serve("proxy", signals, readiness, deadline, |watch| {
        bound.run(watch)
    })
    .await
}

/// A Pod whose node has no zone is told an empty one.
fn zone(text: Option<&str>) -> Result<Option<Zone>, Failure> {
    let named = text.filter(|text| !text.is_empty());
    let zone = named.map(Zone::new).transpose();
    zone.map_err(|e| Failure::of(Exit::Usage, &e).hint("set it with --zone"))
}

fn failure(e: &ProxyError) -> Failure {
    match e {
        ProxyError::Config { field, .. } => Failure::of(Exit::Usage, e).hint(format!(
            "set it with --{field}; `tradewind proxy --help` says how"
        )),
        _ => Failure::of(Exit::Problems, e),
    }
}
