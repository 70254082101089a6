//! What all roles share: logs, signals, and the graceful end. The first SIGTERM or SIGINT drains, the second forces.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use tradewind_api::id::is_subdomain;
use tradewind_runtime::{
    LogFormat, LogHandle, Readiness, TaskSet, dirs, drain, signal::Signals, telemetry,
};
use tradewind_transport::control::{ControllerAddr, Proof};

use super::in_pod::InPod;
use crate::{
    admin::{DEFAULT_DATA_DIR, socket_in},
    duration,
    exit::{Exit, Failure, Outcome},
};

/// The configuration file. Read before everything else, see `config_file`.
#[derive(Debug, clap::Args)]
pub struct ConfigFile {
    /// YAML file whose fields are this command's flags; a flag goes before its environment variable, that before the file
    #[arg(long, env = "TRADEWIND_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// How a role logs.
#[derive(Debug, clap::Args)]
pub struct LogArgs {
    /// What is logged: a level, or target=level pairs separated by commas
    #[arg(
        long,
        env = "TRADEWIND_LOG",
        value_name = "FILTER",
        default_value = "info"
    )]
    pub log: String,
    /// How log lines look: text or json
    #[arg(
        long,
        env = "TRADEWIND_LOG_FORMAT",
        value_name = "FORMAT",
        default_value = "text"
    )]
    pub log_format: LogFormat,
}

impl LogArgs {
    /// Starts the logs.
    pub fn start(&self) -> Result<LogHandle, Failure> {
        telemetry::init(self.log_format, &filter(&self.log))
            .map_err(|e| Failure::of(Exit::Usage, &e))
    }
}

/// The filter told, with libraries quiet unless the filter speaks of them: what an operator must know of a peer or an API server that is
/// away stands in our own lines, once, and in `status`.
fn filter(told: &str) -> String {
    let mut filter = told.to_owned();
    for (library, quiet) in [
        ("openraft", "openraft=error,openraft::replication=off"),
        ("kube_", "kube_client=off,kube_runtime=off"),
    ] {
        if !told.contains(library) {
            filter.push(',');
            filter.push_str(quiet);
        }
    }
    filter
}

/// What proxy, gateway and DNS server have in common.
#[derive(Debug, clap::Args)]
pub struct Common {
    #[command(flatten)]
    pub file: ConfigFile,
    /// Its name, unique in its cluster [default: made from the address it listens on]
    #[arg(long, env = "TRADEWIND_NAME", value_name = "NAME")]
    pub name: Option<String>,
    /// Its controller: unix:/path/to/controller.sock or host:port
    #[arg(long, env = "TRADEWIND_CONTROLLER", value_name = "ADDRESS")]
    pub controller: Option<ControllerAddr>,
    /// The controller's data directory on this host: short for --controller unix:<DIR>/controller.sock
    #[arg(long, env = "TRADEWIND_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// One-time token; not needed over the controller's unix socket
    #[arg(
        long,
        env = "TRADEWIND_TOKEN",
        value_name = "TOKEN",
        hide_env_values = true
    )]
    pub token: Option<String>,
    #[command(flatten)]
    pub in_pod: InPod,
    /// Address of its health, metrics and debug pages
    #[arg(
        long,
        env = "TRADEWIND_ADMIN_LISTEN",
        value_name = "IP:PORT",
        default_value = "127.0.0.1:15020"
    )]
    pub admin_listen: SocketAddr,
    /// Where its last good snapshot is kept [default: <data-dir>/state/<name> with --data-dir, else memory only]
    #[arg(long, env = "TRADEWIND_STATE_DIR", value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    #[command(flatten)]
    pub logs: LogArgs,
}

impl Common {
    /// Where its controller is.
    pub fn controller(&self) -> ControllerAddr {
        self.controller.clone().unwrap_or_else(|| {
            let dir = self
                .data_dir
                .clone()
                .unwrap_or_else(|| DEFAULT_DATA_DIR.into());
            ControllerAddr::Unix(socket_in(&dir))
        })
    }

    /// What proves it.
    pub fn proof(&self) -> Proof {
        match (self.in_pod.account(), &self.token) {
            (Some(account), _) => Proof::ServiceAccount(account),
            (None, Some(token)) => Proof::Token(token.clone()),
            (None, None) => Proof::None,
        }
    }

    /// Its name, from what it listens on when none was told.
    pub fn name(&self, listen: SocketAddr) -> Result<String, Failure> {
        let name = self.name.clone().unwrap_or_else(|| default_name(listen));
        if is_subdomain(&name) {
            return Ok(name);
        }
        Err(Failure::usage(format!("name {name:?} is not valid"))
            .hint("expected lower-case letters, digits, '-' and single dots, at most 253; set it with --name"))
    }

    /// Where its last good snapshot goes.
    pub fn state_dir(&self, name: &str) -> Option<PathBuf> {
        let beside = || {
            let all = self.data_dir.as_ref()?.join("state");
            // What cannot be made here is explained where the directory below it cannot be made.
            let _ = dirs::ensure_dir(&all, 0o700);
            Some(all.join(name))
        };
        self.state_dir.clone().or_else(beside)
    }
}

/// How long a role may take to stop.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct DrainArgs {
    /// How long requests and connections may go on after the order to stop
    #[arg(long, env = "TRADEWIND_DRAIN_DEADLINE", value_name = "DURATION", default_value = "30s", value_parser = duration::parse)]
    pub drain_deadline: Duration,
}

fn default_name(listen: SocketAddr) -> String {
    let host = if listen.ip().is_unspecified() {
        nix::unistd::gethostname()
            .ok()
            .and_then(|name| name.into_string().ok())
            .unwrap_or_default()
    } else {
        listen.ip().to_string()
    };
    let label = |c: char| match c.to_ascii_lowercase() {
        c if c.is_ascii_alphanumeric() => c,
        _ => '-',
    };
    let host: String = host.chars().map(label).take(50).collect();
    format!("{}-{}", host.trim_matches('-'), listen.port())
        .trim_matches('-')
        .to_owned()
}

/// What a role still does after its deadline: tell the controller, close files.
const AFTER_DEADLINE: Duration = Duration::from_secs(5);

/// As many open files as the system allows: every connection is one or two, and the usual soft limit is for shells.
fn raise_descriptor_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::warn!(%error, "the limit of open files stays as it was");
    }
}

/// Runs a role until it ends by itself, or a signal asks it to.
pub async fn serve<E, F>(
    role: &'static str,
    mut signals: Signals,
    readiness: Readiness,
    deadline: Duration,
    run: impl FnOnce(drain::Watch) -> F,
) -> Outcome
where
    E: std::error::Error + 'static,
    F: Future<Output = Result<(), E>>,
{
    raise_descriptor_limit();
    let (trigger, watch) = drain::channel();
    let mut tasks = TaskSet::new();
    tasks.spawn("announce readiness", async move {
        readiness.wait_ready().await;
        tracing::info!(role, "ready");
    });
    let mut run = Box::pin(run(watch));
    let ended = |result: Result<(), E>| match result {
        Ok(()) => {
            tracing::info!(role, "stopped");
            Ok(Exit::Good)
        }
        Err(e) => Err(Failure::of(Exit::Problems, &e)),
    };
    let signal = tokio::select! {
        biased;
        result = &mut run => return ended(result),
        signal = signals.next() => signal,
    };
    let limit = deadline + AFTER_DEADLINE;
    tracing::info!(
        role,
        signal,
        deadline_ms = deadline.as_millis(),
        "stopping; a second signal forces it"
    );
    let mut drain = Box::pin(trigger.drain(limit));
    let finished = tokio::select! {
        biased;
        result = &mut run => return ended(result),
        finished = &mut drain => finished,
        signal = signals.next() => {
            tracing::warn!(role, signal, "forced to stop");
            return Err(Failure::problem(format!("the {role} was forced to stop by a second {signal}")));
        }
    };
    if finished {
        // Every piece of work is done; what remains is the role's own last step.
        return match tokio::time::timeout(AFTER_DEADLINE, run).await {
            Ok(result) => ended(result),
            Err(_) => Ok(Exit::Good),
        };
    }
    tracing::warn!(role, "the drain deadline passed; open connections were cut");
    Ok(Exit::Good)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_names_are_labels() {
        for address in [
            "127.1.0.11:15008",
            "[::1]:15443",
            "0.0.0.0:15053",
            "[fe80::1]:1",
        ] {
            let name = default_name(address.parse().unwrap());
            assert!(is_subdomain(&name), "{address} gives {name}");
        }
        assert_eq!(
            default_name("127.1.0.11:15008".parse().unwrap()),
            "127-1-0-11-15008"
        );
    }
}
