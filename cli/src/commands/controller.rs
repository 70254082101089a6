//! `tradewind controller`: a cluster's control plane.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use tradewind_controller::{Controller as Role, ControllerConfig, webhook::WebhookConfig};
use tradewind_runtime::{Rng, clock, signal::Signals};

use super::role::{self, ConfigFile, LogArgs};
use crate::{
    admin::DEFAULT_DATA_DIR,
    duration,
    exit::{Exit, Failure, Outcome},
};

/// `tradewind controller`
#[derive(Debug, clap::Args)]
pub struct Controller {
    #[command(flatten)]
    file: ConfigFile,
    /// The data directory that `init` or `join` filled
    #[arg(long, env = "TRADEWIND_DATA_DIR", value_name = "DIR", default_value = DEFAULT_DATA_DIR)]
    data_dir: PathBuf,
    /// Address for proxies, gateways and, through the gateway, other controllers
    #[arg(
        long,
        env = "TRADEWIND_LISTEN",
        value_name = "IP:PORT",
        default_value = "127.0.0.1:15012"
    )]
    listen: SocketAddr,
    /// host:port of that address as this cluster's own gateways, proxies and other controllers dial it; needed where the cluster has several controllers
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
    /// Directory of Kubernetes YAML (Service, EndpointSlice, ServiceExport) to watch
    #[arg(long, env = "TRADEWIND_MANIFESTS", value_name = "DIR")]
    manifests: Option<PathBuf>,
    /// Take Services, ServiceExports and rules from the cluster's API server
    #[arg(long, env = "TRADEWIND_KUBERNETES", conflicts_with = "manifests")]
    kubernetes: bool,
    /// The kubeconfig that leads to it [default: the Pod's own account, else as kubectl finds it]
    #[arg(
        long,
        env = "TRADEWIND_KUBECONFIG",
        value_name = "FILE",
        requires = "kubernetes"
    )]
    kubeconfig: Option<PathBuf>,
    /// The kubeconfig's context [default: its current one]
    #[arg(
        long,
        env = "TRADEWIND_CONTEXT",
        value_name = "NAME",
        requires = "kubernetes"
    )]
    context: Option<String>,
    /// Certify workloads on hosts outside of Kubernetes too, by one-time tokens; a certificate is then renewed by itself, without a
    /// service account's token
    #[arg(long, env = "TRADEWIND_HOST_WORKLOADS", requires = "kubernetes")]
    host_workloads: bool,
    /// Address at which the API server asks about new pods, by HTTPS; without, pods get no proxy
    #[arg(long, env = "TRADEWIND_WEBHOOK_LISTEN", value_name = "IP:PORT")]
    webhook_listen: Option<SocketAddr>,
    /// DNS name by which the API server calls it; repeatable
    #[arg(
        long,
        env = "TRADEWIND_WEBHOOK_NAME",
        value_name = "NAME",
        value_delimiter = ','
    )]
    webhook_name: Vec<String>,
    /// YAML file that says what pods are given; it is followed
    #[arg(long, env = "TRADEWIND_INJECTION_FILE", value_name = "FILE")]
    injection_file: Option<PathBuf>,
    /// Unix socket for this host [default: controller.sock in the data directory]
    #[arg(long, env = "TRADEWIND_SOCKET", value_name = "PATH")]
    socket: Option<PathBuf>,
    /// How long calls in flight may go on after the order to stop
    #[arg(long, env = "TRADEWIND_DRAIN_DEADLINE", value_name = "DURATION", default_value = "5s", value_parser = duration::parse)]
    drain_deadline: Duration,
    #[command(flatten)]
    logs: LogArgs,
}

impl Controller {
    /// The webhook that was asked for. A file may set flags as well, which clap's own requirements do not see.
    fn webhook(&self) -> Result<Option<WebhookConfig>, Failure> {
        let lacking = |flag: &str| {
            Failure::usage(format!("--webhook-listen needs {flag}"))
                .hint("the API server asks by a name, over HTTPS, and the answer is made from the injection's settings")
        };
        let Some(listen) = self.webhook_listen else {
            if self.injection_file.is_some() || !self.webhook_name.is_empty() {
                return Err(Failure::usage(
                    "--webhook-name and --injection-file are of no use without --webhook-listen",
                ));
            }
            return Ok(None);
        };
        if !self.kubernetes {
            return Err(lacking("--kubernetes"));
        }
        if self.webhook_name.is_empty() {
            return Err(lacking("--webhook-name"));
        }
        let settings = self.injection_file.clone();
        Ok(Some(WebhookConfig {
            listen,
            settings: settings.ok_or_else(|| lacking("--injection-file"))?,
            names: self.webhook_name.clone(),
        }))
    }
}

/// Runs it.
pub async fn run(args: Controller) -> Outcome {
    let webhook = args.webhook()?;
    let log = args.logs.start()?;
    let signals = Signals::install().map_err(|e| Failure::of(Exit::Problems, &e))?;
    let config = ControllerConfig {
        data_dir: args.data_dir,
        listen: args.listen,
        advertise: args.advertise,
        admin_listen: args.admin_listen,
        manifests: args.manifests,
        kubernetes: args.kubernetes.then_some(tradewind_kubernetes::Place {
            kubeconfig: args.kubeconfig,
            context: args.context,
        }),
        host_workloads: args.host_workloads,
        webhook,
        socket: args.socket,
        drain_deadline: args.drain_deadline,
        witness: false,
    };
    let bound = Role::build(config, clock::system(), Rng::from_entropy(), Some(log))
        .await
        .map_err(|e| Failure::of(Exit::Problems, &e).hint(e.hint()))?;
    tracing::info!(listen = %bound.listen_addr(), admin = %bound.admin_addr(), socket = %bound.socket_path().display(), "controller listens");
    if let Some(webhook) = bound.webhook_addr() {
        tracing::info!(listen = %webhook, "webhook listens");
    }
    let readiness = bound.readiness();
    role::serve(
        "controller",
        signals,
        readiness,
        args.drain_deadline,
        |watch| bound.run(watch),
    )
    .await
}
