//! The pairs that are compared: a proxy beside the caller and one beside the application, mutual TLS 1.3 and HTTP/2 between
//! them, each with one thread. Owns the processes and ends them when it is dropped.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{
    process::Child,
    time::{Instant, sleep},
};

use super::{certificates::Certificates, known, load::Client};
use crate::programs::{Programs, System, free_address, spawn};

/// How long a pair may take until it serves.
const START_DEADLINE: Duration = Duration::from_secs(30);
/// Between two questions whether it does.
const PAUSE: Duration = Duration::from_millis(50);
const SERVICE: &str = "bench/echo:80";

/// What all pairs are told.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) programs: Programs,
    /// The `tradewind` program.
    pub(super) tradewind: PathBuf,
    pub(super) dir: PathBuf,
    pub(super) certificates: Certificates,
    /// The core of the proxies, and of what is not measured.
    pub(super) cores: (usize, usize),
    pub(super) app: SocketAddr,
}

/// A pair that serves.
#[derive(Debug)]
pub(super) struct Running {
    /// Where callers connect.
    pub(super) address: SocketAddr,
    /// The proxies: the caller's, then the application's. None where there is no proxy.
    pub(super) pids: Vec<u32>,
    _children: Vec<Child>,
}

/// A file of settings for a program that takes one.
fn file(dir: &Path, name: &str, text: &str) -> Result<String, String> {
    let path = dir.join(name);
    std::fs::write(&path, text).map_err(|e| format!("{}: {e}", path.display()))?;
    Ok(path.display().to_string())
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|w| (*w).to_owned()).collect()
}

impl Told {
    /// Starts a pair and waits until it serves.
    pub(super) async fn start(&self, system: System) -> Result<Running, String> {
        self.start_knowing(system, 0).await
    }

    /// The same, whose caller's proxy knows so many services beside the one that is called.
    pub(super) async fn start_knowing(
        &self,
        system: System,
        known: u32,
    ) -> Result<Running, String> {
        let running = match system {
            System::Direct => Running {
                address: self.app,
                pids: Vec::new(),
                _children: Vec::new(),
            },
            System::Tradewind => self.tradewind(known).await?,
            System::Envoy => self.pair(system, "json", known, &Self::envoy)?,
            System::Haproxy => self.pair(system, "cfg", known, &Self::haproxy)?,
            System::HaproxySplice | System::Nginx => {
                return Err(format!("{} makes no pair", system.name()));
            }
        };
        let serves = async || Client::connect(running.address).await?.exchange().await;
        self.until(system.name(), serves).await?;
        Ok(running)
    }

    async fn until(
        &self,
        what: &str,
        mut done: impl AsyncFnMut() -> Result<(), String>,
    ) -> Result<(), String> {
        let until = Instant::now() + START_DEADLINE;
        while let Err(error) = done().await {
            if Instant::now() > until {
                return Err(format!(
                    "{what} does not serve: {error}; its logs are in {}",
                    self.dir.display()
                ));
            }
            sleep(PAUSE).await;
        }
        Ok(())
    }

    /// Two processes that read one file each.
    fn pair(
        &self,
        system: System,
        ending: &str,
        known: u32,
        text: &dyn Fn(&Self, Part) -> String,
    ) -> Result<Running, String> {
        let (address, between) = (free_address()?, free_address()?);
        let program = self.programs.of(system)?;
        let (mut pids, mut children) = (Vec::new(), Vec::new());
        for (side, listen, to) in [
            (Side::Caller, address, between),
            (Side::Application, between, self.app),
        ] {
            let name = format!("{}-{side:?}", system.name());
            let known = if side == Side::Caller { known } else { 0 };
            let part = Part {
                side,
                listen,
                to,
                known,
            };
            let text = text(self, part);
            let path = file(&self.dir, &format!("{name}.{ending}"), &text)?;
            let arguments = match system {
                System::Envoy => words(&[
                    "-c",
                    &path,
                    "--concurrency",
                    "1",
                    "-l",
                    "error",
                    "--disable-hot-restart",
                ]),
                _ => words(&["-db", "-f", &path]),
            };
            let log = self.dir.join(format!("{name}.log"));
            let (child, pid) = spawn(self.cores.0, &program, &arguments, &log)?;
            pids.push(pid);
            children.push(child);
        }
        Ok(Running {
            address,
            pids,
            _children: children,
        })
    }

    /// A whole cluster of the product: its controller, which is not measured, and two proxies of its workloads.
    async fn tradewind(&self, known: u32) -> Result<Running, String> {
        let data = tempfile::tempdir_in(&self.dir).map_err(|e| e.to_string())?;
        let data = data.keep().display().to_string();
        let (address, between, own) = (free_address()?, free_address()?, free_address()?);
        let gateway = free_address()?.to_string();
        let made = std::process::Command::new(&self.tradewind)
            .args(["init", "--cluster", "west", "--region", "here"])
            .args(["--data-dir", &data, "--gateway", &gateway])
            .output()
            .map_err(|e| format!("{}: {e}", self.tradewind.display()))?;
        if !made.status.success() {
            return Err(String::from_utf8_lossy(&made.stderr).into_owned());
        }
        let start = |name: &str, core: usize, arguments: &[&str]| -> Result<_, String> {
            let admin = free_address()?.to_string();
            let common = ["--data-dir", &data, "--admin-listen", &admin];
            let arguments = words(&[&[name], &common[..], arguments].concat());
            let log = self.dir.join(format!("tradewind-{name}-{admin}.log"));
            spawn(core, &self.tradewind, &arguments, &log)
        };
        let listen = free_address()?.to_string();
        let manifests = Path::new(&data).join("manifests");
        known::manifests(&manifests, known)?;
        let (controller, _) = start(
            "controller",
            self.cores.1,
            &[
                "--listen",
                &listen,
                "--manifests",
                &manifests.display().to_string(),
            ],
        )?;
        let knows = async || {
            let asked = std::process::Command::new(&self.tradewind)
                .args(["services", "--data-dir", &data, "-o", "name"])
                .output()
                .map_err(|e| e.to_string())?;
            let names = String::from_utf8_lossy(&asked.stdout).lines().count();
            match asked.status.success() {
                true if names >= known as usize => Ok(()),
                true => Err(format!("it knows {names} services")),
                false => Err(String::from_utf8_lossy(&asked.stderr).into_owned()),
            }
        };
        self.until("the controller", knows).await?;
        let serve = format!("{SERVICE}={},protocol=http1", self.app);
        let (serving, serves) = start(
            "proxy",
            self.cores.0,
            &[
                "--identity",
                "bench/echo",
                "--serve",
                &serve,
                "--hbone-listen",
                &between.to_string(),
                "--threads",
                "1",
            ],
        )?;
        let call = format!("{address}={SERVICE}");
        let (calling, calls) = start(
            "proxy",
            self.cores.0,
            &[
                "--identity",
                "bench/web",
                "--listen",
                &call,
                "--hbone-listen",
                &own.to_string(),
                "--threads",
                "1",
            ],
        )?;
        Ok(Running {
            address,
            pids: vec![calls, serves],
            _children: vec![calling, serving, controller],
        })
    }

    #[expect(
        clippy::indexing_slicing,
        reason = "fields are added to the objects made just above"
    )]
    fn envoy(&self, part: Part) -> String {
        let Part {
            side,
            listen,
            to,
            known,
        } = part;
        let address = |a: SocketAddr| json!({"socket_address": {"address": a.ip().to_string(), "port_value": a.port()}});
        let named = |name: &str, kind: &str, mut rest: Value| {
            if let Some(fields) = rest.as_object_mut() {
                fields.insert(
                    "@type".to_owned(),
                    json!(format!("type.googleapis.com/{kind}")),
                );
            }
            json!({"name": name, "typed_config": rest})
        };
        let (own, ca) = (self.certificates.pem(side), self.certificates.ca());
        let common = json!({
            "alpn_protocols": ["h2"],
            "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
            "tls_certificates": [{"certificate_chain": {"filename": own}, "private_key": {"filename": own}}],
            "validation_context": {"trusted_ca": {"filename": ca}},
        });
        let tls = "envoy.extensions.transport_sockets.tls.v3";
        let router = named(
            "envoy.filters.http.router",
            "envoy.extensions.filters.http.router.v3.Router",
            json!({}),
        );
        let manager = named(
            "envoy.filters.network.http_connection_manager",
            "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            json!({
                "stat_prefix": "h", "codec_type": "AUTO", "http_filters": [router],
                "route_config": {"virtual_hosts": [{
                    "name": "all", "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "to", "timeout": "0s"}}],
                }]},
            }),
        );
        let mut chain = json!({"filters": [manager]});
        let mut cluster = json!({
            "name": "to", "type": "STATIC", "connect_timeout": "5s",
            "circuit_breakers": {"thresholds": [{
                "max_connections": 1_000_000, "max_pending_requests": 1_000_000, "max_requests": 1_000_000,
            }]},
            "load_assignment": {"cluster_name": "to", "endpoints": [{
                "lb_endpoints": [{"endpoint": {"address": address(to)}}],
            }]},
        });
        match side {
            Side::Caller => {
                let upstream = format!("{tls}.UpstreamTlsContext");
                cluster["transport_socket"] = named(
                    "envoy.transport_sockets.tls",
                    &upstream,
                    json!({"common_tls_context": common}),
                );
                cluster["typed_extension_protocol_options"] = json!({
                    "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                        "explicit_http_config": {"http2_protocol_options": {}},
                    },
                });
            }
            Side::Application => {
                let downstream = format!("{tls}.DownstreamTlsContext");
                chain["transport_socket"] = named(
                    "envoy.transport_sockets.tls",
                    &downstream,
                    json!({"common_tls_context": common, "require_client_certificate": true}),
                );
            }
        }
        let mut clusters = known::envoy(&cluster, known);
        clusters.push(cluster);
        json!({"static_resources": {
            "listeners": [{"address": address(listen), "filter_chains": [chain]}],
            "clusters": clusters,
        }})
        .to_string()
    }

    fn haproxy(&self, part: Part) -> String {
        let Part {
            side,
            listen,
            to,
            known,
        } = part;
        let tls = format!(
            "ssl crt {} ca-file {} verify required alpn h2 ssl-min-ver TLSv1.3",
            self.certificates.pem(side),
            self.certificates.ca()
        );
        let (bind, server) = match side {
            Side::Caller => ("", tls.as_str()),
            Side::Application => (tls.as_str(), ""),
        };
        format!(
            "global\n    nbthread 1\n    maxconn 4000\n    tune.h2.max-concurrent-streams 1000\n\
             defaults\n    mode http\n    http-reuse always\n    timeout connect 5s\n    timeout client 1h\n    timeout server 1h\n\
             frontend f\n    bind {listen} {bind} backlog 4096\n    default_backend b\n\
             backend b\n    server s {to} {server}\n{}",
            known::haproxy(server, known)
        )
    }
}

/// What one of a pair is told.
#[derive(Clone, Copy, Debug)]
struct Part {
    side: Side,
    listen: SocketAddr,
    to: SocketAddr,
    /// Services that it knows beside the one that is called.
    known: u32,
}

/// Which of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Caller,
    Application,
}
