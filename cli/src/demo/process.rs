//! The demo's children: started from this very binary, each with its own log, ended by their ids.
//!
//! Owns all of them. A child is tied to this process by the kernel (unless it is to stay), so none outlives a crash.

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::process::{Child, Command};

use crate::exit::{Exit, Failure};

/// How long a command of ours may take: a join signs, replicates and waits for the store.
const COMMAND_DEADLINE: Duration = Duration::from_secs(30);
/// How much of a log is shown when its process ends by itself.
const LOG_LINES: usize = 5;
/// How much of a log's end is read for that, in bytes.
const LOG_TAIL: u64 = 16 * 1024;

/// Every running child by name.
#[derive(Debug)]
pub struct Processes {
    exe: PathBuf,
    dir: PathBuf,
    keep: bool,
    children: BTreeMap<String, Child>,
}

impl Processes {
    /// None yet. With `keep` they are not tied to this process.
    pub fn new(dir: PathBuf, keep: bool) -> Result<Self, Failure> {
        let exe = std::env::current_exe().map_err(|e| {
            Failure::problem(format!("failed to find this program's own file: {e}"))
        })?;
        let processes = Self {
            exe,
            dir,
            keep,
            children: BTreeMap::new(),
        };
        std::fs::create_dir_all(processes.logs()).map_err(|e| {
            Failure::problem(format!(
                "failed to make {}: {e}",
                processes.logs().display()
            ))
        })?;
        Ok(processes)
    }

    /// Where everything is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where the logs are.
    pub fn logs(&self) -> PathBuf {
        self.dir.join("logs")
    }

    fn log_of(&self, name: &str) -> PathBuf {
        self.logs().join(format!("{}.log", name.replace('/', "-")))
    }

    /// Starts one, named `<cluster>/<what>`.
    pub fn spawn(&mut self, name: &str, args: &[String]) -> Result<(), Failure> {
        let failed = |what: &str, e: std::io::Error| {
            Failure::problem(format!("failed to {what} for {name}: {e}"))
        };
        let path = self.log_of(name);
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .map_err(|e| failed("open a log", e))?;
        let also = log.try_clone().map_err(|e| failed("open a log", e))?;
        let mut command = self.command(args);
        command
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(also)
            // Ctrl-C reaches the demo alone, which then ends its children.
            .process_group(0)
            .kill_on_drop(!self.keep);
        if !self.keep {
            command.env("TRADEWIND_PARENT_PID", std::process::id().to_string());
        }
        let child = command.spawn().map_err(|e| failed("start a process", e))?;
        self.children.insert(name.to_owned(), child);
        Ok(())
    }

    fn command(&self, args: &[String]) -> Command {
        let mut command = Command::new(&self.exe);
        command.args(args);
        // Whatever the caller's shell says about Tradewind is not meant for these.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("TRADEWIND_") {
                command.env_remove(name);
            }
        }
        command
    }

    /// Runs a command to its end and returns what it printed.
    pub async fn run(&self, args: &[String]) -> Result<String, Failure> {
        let shown = format!("tradewind {}", args.first().map_or("", String::as_str));
        let mut command = self.command(args);
        command.stdin(Stdio::null()).kill_on_drop(true);
        let output = tokio::time::timeout(COMMAND_DEADLINE, command.output())
            .await
            .map_err(|_| {
                Failure::new(
                    Exit::TimedOut,
                    format!(
                        "`{shown}` took longer than {} s",
                        COMMAND_DEADLINE.as_secs()
                    ),
                )
            })?
            .map_err(|e| Failure::problem(format!("failed to run `{shown}`: {e}")))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
        }
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        let said = said
            .find("error: ")
            .and_then(|at| said.get(at + 7..))
            .unwrap_or(&said);
        Err(Failure::problem(format!(
            "`{shown}` failed ({}): {said}",
            output.status
        )))
    }

    /// Kills every child whose name starts with `prefix`, at once, and returns how many.
    pub async fn kill(&mut self, prefix: &str) -> usize {
        let names: Vec<String> = self
            .children
            .keys()
            .filter(|name| name.starts_with(prefix))
            .cloned()
            .collect();
        for child in names.iter().filter_map(|name| self.children.get(name)) {
            signal(child, Signal::SIGKILL);
        }
        for name in &names {
            if let Some(mut child) = self.children.remove(name) {
                // Killed or dead before: either way it is gone.
                let _ = child.wait().await;
            }
        }
        names.len()
    }

    /// Kills all.
    pub async fn kill_all(&mut self) {
        self.kill("").await;
    }

    /// A failure when a child ended that nobody killed.
    pub fn check(&mut self) -> Result<(), Failure> {
        let mut dead = None;
        for (name, child) in &mut self.children {
            if let Ok(Some(status)) = child.try_wait() {
                dead = Some((name.clone(), status));
                break;
            }
        }
        let Some((name, status)) = dead else {
            return Ok(());
        };
        self.children.remove(&name);
        let log = self.log_of(&name);
        let mut failure = Failure::problem(format!("{name} ended by itself ({status})"));
        failure.causes = tail(&log);
        Err(failure.hint(format!("its log is {}", log.display())))
    }

    /// Resident memory of each child in KiB.
    pub fn resident_kib(&self) -> BTreeMap<String, u64> {
        let resident = |child: &Child| {
            let status = std::fs::read_to_string(format!("/proc/{}/status", child.id()?)).ok()?;
            let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
            line.split_whitespace().nth(1)?.parse().ok()
        };
        self.children
            .iter()
            .filter_map(|(name, child)| Some((name.clone(), resident(child)?)))
            .collect()
    }

    /// Leaves all of them running and writes their ids down.
    pub fn leave(&mut self) -> Result<(), Failure> {
        let ids: Vec<String> = self
            .children
            .values()
            .filter_map(Child::id)
            .map(|id| id.to_string())
            .collect();
        let path = self.dir.join("pids");
        std::fs::write(&path, ids.join("\n") + "\n")
            .map_err(|e| Failure::problem(format!("failed to write {}: {e}", path.display())))?;
        self.children.clear();
        Ok(())
    }
}

fn signal(child: &Child, signal: Signal) {
    let pid = child.id().and_then(|id| i32::try_from(id).ok());
    if let Some(pid) = pid {
        // It may be dead already, which is what is wanted.
        let _ = kill(Pid::from_raw(pid), signal);
    }
}

/// The last lines of a log.
fn tail(path: &Path) -> Vec<String> {
    use std::io::{Read as _, Seek as _, SeekFrom};
    let read = || -> std::io::Result<String> {
        let mut file = File::open(path)?;
        let len = file.metadata()?.len();
        file.seek(SeekFrom::Start(len.saturating_sub(LOG_TAIL)))?;
        let mut bytes = Vec::new();
        file.take(LOG_TAIL).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = read().unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines
        .iter()
        .rev()
        .take(LOG_LINES)
        .rev()
        .map(|line| (*line).to_owned())
        .collect()
}
