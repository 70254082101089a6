//! Whole Kubernetes control planes for tests: `testenv` (`tests/kubernetes/testenv`) runs etcd, kube-apiserver and
//! kube-controller-manager as they are released, and stands in for kubelets alone. It can run pods, too: their containers are processes in
//! a network namespace for each pod, kube-proxy leads to services, and CoreDNS answers their names.
//!
//! Owns that one process and its directory: a drop closes its stdin, upon which it ends all that it started, and waits for
//! it. Where the program was not built, whoever asks is told why and says that it skips.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Stdio},
    sync::mpsc as std_mpsc,
    time::Duration,
};

use serde::Deserialize;
use serde_json::json;
use tempfile::TempDir;
use tokio::{process::Command, sync::mpsc, time::timeout};

use crate::{
    namespaces::skipped,
    process::{self, Output},
};

/// Longest until all clusters answer. Alone it takes seconds; beside a compiler, on two cores, a minute.
const START_LIMIT: Duration = Duration::from_secs(240);
/// Longest until a command is answered; the slowest starts an API server.
const COMMAND_LIMIT: Duration = Duration::from_secs(120);
/// Longest until everything is gone after stdin closed.
const END_LIMIT: Duration = Duration::from_secs(30);
/// Answers in flight; there is one per command.
const ANSWERS: usize = 4;

/// Where the program is: `TRADEWIND_TESTENV`, else where `cargo xtask test` builds it. An error says how to get it; an empty
/// variable says that nobody wants it.
pub fn program() -> Result<PathBuf, String> {
    if let Some(path) = std::env::var_os("TRADEWIND_TESTENV") {
        if path.is_empty() {
            return Err("left out by --no-kubernetes".to_owned());
        }
        let path = PathBuf::from(path);
        assert!(
            path.is_file(),
            "TRADEWIND_TESTENV names {}, which is no file",
            path.display()
        );
        return Ok(path);
    }
    let exe = std::env::current_exe().expect("this test's own path");
    let target = exe.ancestors().find(|p| p.join("CACHEDIR.TAG").is_file());
    let built = target.map(|target| target.join("testenv").join("testenv"));
    built.filter(|path| path.is_file()).ok_or_else(|| {
        "testenv was not built: `cargo xtask test` does, with Go, unless told --no-kubernetes"
            .to_owned()
    })
}

/// How one cluster differs from what `testenv` would choose.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Its name, and its context's.
    pub name: String,
    /// Its nodes' region; its name by default.
    pub region: Option<String>,
    /// Where its services' addresses come from.
    pub service_cidr: Option<String>,
    /// Where its nodes' and pods' addresses come from.
    pub pod_cidr: Option<String>,
    /// The address of this machine at which its API server listens; a loopback one by default.
    pub address: Option<String>,
}

impl From<&str> for Wanted {
    fn from(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            ..Self::default()
        }
    }
}

/// What runs of pods, where any do: see [`Clusters::start_running`].
#[derive(Clone, Debug, Default)]
pub struct Running {
    /// The program that stands for an image, whatever its tag.
    pub programs: Vec<(String, PathBuf)>,
    /// The one TCP port that is open between clusters.
    pub between_port: Option<u16>,
}

/// A cluster that answers.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cluster {
    /// Its name, and its context's.
    pub name: String,
    /// The API server's URL.
    pub server: String,
    /// A kubeconfig of an administrator, with this one context.
    pub kubeconfig: PathBuf,
    /// Where its services' addresses come from.
    #[serde(rename = "serviceCIDR")]
    pub service_cidr: String,
    /// Where its nodes' and pods' addresses come from.
    #[serde(rename = "podCIDR")]
    pub pod_cidr: String,
    /// The processes that serve it.
    pub processes: Vec<u32>,
}

#[derive(Debug, Deserialize)]
struct Ready {
    clusters: Vec<Cluster>,
    kubeconfig: PathBuf,
}

#[derive(Debug, Deserialize)]
struct Answer {
    ok: bool,
    #[serde(default)]
    error: String,
    #[serde(default)]
    processes: Vec<u32>,
}

/// Clusters that run until this is dropped.
#[derive(Debug)]
pub struct Clusters {
    program: PathBuf,
    dir: TempDir,
    clusters: Vec<Cluster>,
    kubeconfig: PathBuf,
    child: Child,
    stdin: Option<ChildStdin>,
    lines: mpsc::Receiver<String>,
    /// Closes when the program closed its stdout, which is when it ended.
    ended: std_mpsc::Receiver<()>,
}

impl Clusters {
    /// Starts clusters, by names or with more wishes, and returns when workloads may be applied. `None`, and a word on
    /// stderr that `test` is skipped, where the program is not there.
    pub async fn start<W: Into<Wanted>>(
        test: &str,
        wanted: impl IntoIterator<Item = W>,
    ) -> Option<Self> {
        match program() {
            Ok(program) => Some(Self::start_by(program, wanted, &Running::default()).await),
            Err(why) => {
                skipped(&format!("{test}: {why}"));
                None
            }
        }
    }

    /// The same with pods that run, as processes in network namespaces, and with kube-proxy and CoreDNS. Only for root, and in a network
    /// namespace of the test's own: see [`crate::namespaces::inside`].
    pub async fn start_running<W: Into<Wanted>>(
        test: &str,
        wanted: impl IntoIterator<Item = W>,
        running: &Running,
    ) -> Option<Self> {
        let program = program().and_then(|program| match nix::unistd::geteuid().is_root() {
            true => Ok(program),
            false => Err("pods run as users of their own, so this needs root".to_owned()),
        });
        match program {
            Ok(program) => Some(Self::start_by(program, wanted, running).await),
            Err(why) => {
                skipped(&format!("{test}: {why}"));
                None
            }
        }
    }

    async fn start_by<W: Into<Wanted>>(
        program: PathBuf,
        wanted: impl IntoIterator<Item = W>,
        running: &Running,
    ) -> Self {
        let wanted: Vec<Wanted> = wanted.into_iter().map(Into::into).collect();
        // Not below the target directory: sockets lie in it, and their paths have to be short.
        let dir = tempfile::Builder::new().prefix("tw-k8s").tempdir();
        let dir = dir.expect("a temporary directory");
        let log = std::fs::File::create(dir.path().join("testenv.log")).expect("a log file");
        let mut child = std::process::Command::new(&program)
            .args(arguments(dir.path(), &wanted, running))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|e| panic!("{} does not start: {e}", program.display()));
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().expect("a pipe");
        let (lines, ended) = read(stdout);
        let mut started = Self {
            program,
            dir,
            clusters: Vec::new(),
            kubeconfig: PathBuf::new(),
            child,
            stdin,
            lines,
            ended,
        };
        let line = started.line(START_LIMIT, "clusters").await;
        let ready: Ready = serde_json::from_str(&line).expect("a ready line");
        started.clusters = ready.clusters;
        started.kubeconfig = ready.kubeconfig;
        started
    }

    /// The program's process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// All clusters, in the order in which they were asked for.
    pub fn all(&self) -> &[Cluster] {
        &self.clusters
    }

    /// The cluster of a name.
    #[track_caller]
    pub fn cluster(&self, name: &str) -> &Cluster {
        let found = self.clusters.iter().find(|c| c.name == name);
        found.unwrap_or_else(|| panic!("no cluster {name}"))
    }

    /// An administrator's kubeconfig with a context per cluster, the first being current.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// Where the servers' logs are, in a directory per cluster, and where a test may put files.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Kills the API server of a cluster, as a lost machine would, with its controllers. Its objects stay.
    pub async fn stop_api(&mut self, name: &str) {
        self.command("stop-api", name).await;
    }

    /// Starts it again at the same address, and returns when it is ready.
    pub async fn start_api(&mut self, name: &str) {
        let processes = self.command("start-api", name).await;
        for cluster in self.clusters.iter_mut().filter(|c| c.name == name) {
            cluster.processes.clone_from(&processes);
        }
    }

    /// Runs kubectl, of the servers' own version, with a cluster's context.
    pub async fn kubectl(&self, name: &str, args: &[&str]) -> Output {
        let mut command = Command::new(&self.program);
        command
            .arg("kubectl")
            .arg("--kubeconfig")
            .arg(&self.kubeconfig)
            .args(["--context", name])
            .args(args)
            // Its cache of what servers offer.
            .env("HOME", self.dir.path())
            .env("KUBECACHEDIR", self.dir.path().join("kubectl-cache"))
            .env("KUBECTL_KUBERC", "false");
        process::finish(command).await
    }

    /// Applies a manifest to a cluster.
    pub async fn apply(&self, name: &str, manifest: &str) -> Output {
        let file = tempfile::NamedTempFile::new_in(self.dir.path()).expect("a file");
        std::fs::write(file.path(), manifest).expect("a written file");
        let path = file.path().to_string_lossy().into_owned();
        self.kubectl(name, &["apply", "-f", &path]).await
    }

    /// The process that holds the network of a pod that runs, `namespace/name`; none while there is no such pod.
    pub async fn pod(&mut self, cluster: &str, pod: &str) -> Option<u32> {
        let line = json!({"command": "pod", "cluster": cluster, "pod": pod});
        let answer = self.ask(&line).await;
        answer.processes.first().copied().filter(|_| answer.ok)
    }

    /// Ends a pod that runs as the death of its machine would: the API server hears nothing, and nothing starts again.
    pub async fn kill_pod(&mut self, cluster: &str, pod: &str) {
        let line = json!({"command": "kill-pod", "cluster": cluster, "pod": pod});
        let answer = self.ask(&line).await;
        assert!(answer.ok, "kill-pod {cluster} {pod}: {}", answer.error);
    }

    /// Where what a pod's containers say is, and its `etc`: the directory of the pod of this name that runs now.
    pub fn pod_dir(&self, cluster: &str, namespace: &str, name: &str) -> Option<PathBuf> {
        let begin = format!("{namespace}_{name}_");
        let all = std::fs::read_dir(self.dir().join(cluster).join("pods")).ok()?;
        let mut found: Vec<_> = all
            .filter_map(Result::ok)
            .filter(|entry| entry.file_name().to_string_lossy().starts_with(&begin))
            .map(|entry| entry.path())
            .collect();
        found.sort_by_key(|path| path.metadata().and_then(|m| m.modified()).ok());
        found.pop()
    }

    async fn command(&mut self, command: &str, cluster: &str) -> Vec<u32> {
        let answer = self
            .ask(&json!({"command": command, "cluster": cluster}))
            .await;
        assert!(answer.ok, "{command} {cluster}: {}", answer.error);
        answer.processes
    }

    async fn ask(&mut self, line: &serde_json::Value) -> Answer {
        let stdin = self.stdin.as_mut().expect("open until dropped");
        writeln!(stdin, "{line}").unwrap_or_else(|e| panic!("testenv ended: {e}\n{}", self.log()));
        let answer = self.line(COMMAND_LIMIT, &line.to_string()).await;
        serde_json::from_str(&answer).expect("an answer")
    }

    async fn line(&mut self, limit: Duration, what: &str) -> String {
        match timeout(limit, self.lines.recv()).await {
            Ok(Some(line)) => line,
            Ok(None) => panic!("testenv ended instead of {what}\n{}", self.log()),
            Err(_) => panic!("no answer to {what} in {limit:?}\n{}", self.log()),
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("testenv.log")).unwrap_or_default()
    }
}

impl Drop for Clusters {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- testenv\n{}", self.log());
            eprintln!(
                "the servers' and pods' logs stay in {}",
                self.dir.path().display()
            );
            self.dir.disable_cleanup(true);
        }
        drop(self.stdin.take());
        if self.ended.recv_timeout(END_LIMIT) == Err(std_mpsc::RecvTimeoutError::Timeout) {
            eprintln!("testenv still runs {END_LIMIT:?} after its stdin closed");
            // Its children ask the kernel to be killed with it.
            drop(self.child.kill());
        }
        drop(self.child.wait());
    }
}

fn arguments(dir: &Path, wanted: &[Wanted], running: &Running) -> Vec<String> {
    let names: Vec<_> = wanted.iter().map(|w| w.name.as_str()).collect();
    let mut words = vec!["serve".to_owned(), "--clusters".to_owned(), names.join(",")];
    words.push("--dir".to_owned());
    words.push(dir.to_string_lossy().into_owned());
    for one in wanted {
        for (flag, value) in [
            ("--region", &one.region),
            ("--service-cidr", &one.service_cidr),
            ("--pod-cidr", &one.pod_cidr),
            ("--address", &one.address),
        ] {
            if let Some(value) = value {
                words.push(flag.to_owned());
                words.push(format!("{}={value}", one.name));
            }
        }
    }
    for (image, program) in &running.programs {
        words.push("--program".to_owned());
        words.push(format!("{image}={}", program.display()));
    }
    if let Some(port) = running.between_port {
        words.push(format!("--between-port={port}"));
    }
    words
}

/// Lines as they come, by a thread of its own: a drop has to wait for the end without a runtime.
fn read(stdout: ChildStdout) -> (mpsc::Receiver<String>, std_mpsc::Receiver<()>) {
    let (send, lines) = mpsc::channel(ANSWERS);
    let (ending, ended) = std_mpsc::sync_channel::<()>(1);
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if send.blocking_send(line).is_err() {
                break;
            }
        }
        drop(ending);
    });
    (lines, ended)
}
