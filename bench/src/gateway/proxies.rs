//! How each proxy is told to pass TLS on by its server name, with one thread and no access log. Owns the processes and
//! ends them when it is dropped.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use tokio::{
    process::Child,
    time::{Instant, sleep},
};

use super::load::Caller;
use crate::programs::{Programs, System, free_address, spawn};

/// How long a process may take until it serves.
const START_DEADLINE: Duration = Duration::from_secs(20);
/// Between two questions whether it does.
const PAUSE: Duration = Duration::from_millis(20);

/// What all proxies are told.
#[derive(Clone, Debug)]
pub(super) struct Told {
    pub(super) programs: Programs,
    pub(super) dir: PathBuf,
    pub(super) core: usize,
    pub(super) name: String,
    pub(super) backend: SocketAddr,
    /// Connections each must be able to hold.
    pub(super) connections: usize,
}

/// A process that serves.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) address: SocketAddr,
    pub(super) pid: u32,
    _child: Child,
}

impl Told {
    /// Starts one and waits until it serves.
    pub(super) async fn start(&self, system: System, caller: &Caller) -> Result<Running, String> {
        let address = free_address()?;
        let arguments = self.arguments(system, address)?;
        let program = self.programs.of(system)?;
        let log = self
            .dir
            .join(format!("{}.log", system.name().replace(' ', "-")));
        let (mut child, pid) = spawn(self.core, &program, &arguments, &log)?;
        let until = Instant::now() + START_DEADLINE;
        while let Err(error) = caller.probe(address).await {
            let ended = child.try_wait().map_err(|e| e.to_string())?;
            if ended.is_some() || Instant::now() > until {
                let said = std::fs::read_to_string(&log).unwrap_or_default();
                return Err(format!("{} does not serve: {error}\n{said}", system.name()));
            }
            sleep(PAUSE).await;
        }
        Ok(Running {
            address,
            pid,
            _child: child,
        })
    }

    fn arguments(&self, system: System, listen: SocketAddr) -> Result<Vec<String>, String> {
        let file = |name: &str, text: String| {
            let path = self.dir.join(name);
            std::fs::write(&path, text).map_err(|e| format!("{}: {e}", path.display()))?;
            Ok::<_, String>(path.display().to_string())
        };
        let words = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect();
        Ok(match system {
            System::Direct => return Err("nothing to start".to_owned()),
            System::Tradewind => words(&[
                "gateway-proxy",
                "--listen",
                &listen.to_string(),
                "--backend",
                &self.backend.to_string(),
                "--connections",
                &self.connections.to_string(),
            ]),
            System::Envoy => {
                let path = file("envoy.json", self.envoy(listen))?;
                words(&[
                    "-c",
                    &path,
                    "--concurrency",
                    "1",
                    "-l",
                    "error",
                    "--disable-hot-restart",
                ])
            }
            System::Haproxy => {
                words(&["-db", "-f", &file("haproxy.cfg", self.haproxy(listen, ""))?])
            }
            System::HaproxySplice => {
                let splice = "    option splice-request\n    option splice-response\n";
                words(&[
                    "-db",
                    "-f",
                    &file("haproxy-splice.cfg", self.haproxy(listen, splice))?,
                ])
            }
            System::Nginx => {
                let path = file("nginx.conf", self.nginx(listen))?;
                words(&["-c", &path, "-p", &self.dir.display().to_string()])
            }
        })
    }

    fn envoy(&self, listen: SocketAddr) -> String {
        let address = |a: SocketAddr| serde_json::json!({"socket_address": {"address": a.ip().to_string(), "port_value": a.port()}});
        let proxy = serde_json::json!({
            "name": "envoy.filters.network.tcp_proxy",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
                "stat_prefix": "t", "cluster": "backend",
            },
        });
        let inspector = serde_json::json!({
            "name": "envoy.filters.listener.tls_inspector",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector",
            },
        });
        let most = u32::try_from(self.connections * 2).unwrap_or(u32::MAX);
        serde_json::json!({"static_resources": {
            "listeners": [{
                "address": address(listen),
                "listener_filters": [inspector],
                "filter_chains": [{
                    "filter_chain_match": {"server_names": [self.name]}, "filters": [proxy],
                }],
            }],
            "clusters": [{
                "name": "backend", "type": "STATIC", "connect_timeout": "5s",
                "circuit_breakers": {"thresholds": [{
                    "max_connections": most, "max_pending_requests": most, "max_requests": most,
                }]},
                "load_assignment": {"cluster_name": "backend", "endpoints": [{
                    "lb_endpoints": [{"endpoint": {"address": address(self.backend)}}],
                }]},
            }],
        }})
        .to_string()
    }

    fn haproxy(&self, listen: SocketAddr, splice: &str) -> String {
        let Self {
            name,
            backend,
            connections,
            ..
        } = self;
        format!(
            "global\n    nbthread 1\n    maxconn {connections}\n    maxpipes 128\n\
             defaults\n    mode tcp\n    timeout connect 5s\n    timeout client 1h\n    timeout server 1h\n{splice}\
             frontend f\n    bind {listen} backlog 4096\n    tcp-request inspect-delay 5s\n    \
             tcp-request content accept if {{ req.ssl_hello_type 1 }}\n    use_backend b if {{ req.ssl_sni -i {name} }}\n\
             backend b\n    server s {backend}\n"
        )
    }

    fn nginx(&self, listen: SocketAddr) -> String {
        let module = self.programs.nginx_stream();
        let load = if module.exists() {
            format!("load_module {};\n", module.display())
        } else {
            String::new()
        };
        let Self {
            name, backend, dir, ..
        } = self;
        let (dir, most) = (dir.display(), self.connections * 2 + 64);
        format!(
            "{load}daemon off;\nmaster_process off;\nworker_processes 1;\npid {dir}/nginx.pid;\nerror_log {dir}/nginx-error.log error;\n\
             events {{ worker_connections {most}; }}\n\
             stream {{\n    map_hash_bucket_size 256;\n    map $ssl_preread_server_name $to {{ {name} backend; }}\n    \
             upstream backend {{ server {backend}; }}\n    \
             server {{ listen {listen} backlog=4096; ssl_preread on; proxy_pass $to; proxy_timeout 1h; }}\n}}\n"
        )
    }
}
