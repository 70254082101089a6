//! Three processes of one system on this machine: starting, finding the leader, killing by id, starting again. It owns
//! the processes and ends them when it is dropped; their directories belong to the caller.

use std::{
    fs::File,
    net::TcpListener,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::{
    process::{Child, Command},
    time::{Instant, sleep},
};

use crate::{
    client::{Client, System},
    node::NODES,
    usage::{self, Usage},
};

/// How long processes may take until they serve. A million writes are read back within it.
const START_DEADLINE: Duration = Duration::from_secs(180);
/// One question while waiting for something to come about.
const ASK_DEADLINE: Duration = Duration::from_secs(2);
/// Between two such questions.
const PAUSE: Duration = Duration::from_millis(10);

/// One node.
#[derive(Debug)]
struct Node {
    dir: PathBuf,
    /// Where clients are served.
    address: String,
    arguments: Vec<String>,
    child: Option<Child>,
}

/// Three nodes.
#[derive(Debug)]
pub(crate) struct Trio {
    pub(crate) system: System,
    program: PathBuf,
    nodes: Vec<Node>,
}

impl Trio {
    /// Starts three nodes below `dir` and waits until every one of them takes writes.
    pub(crate) async fn start(system: System, program: &Path, dir: &Path) -> Result<Self, String> {
        let count = usize::try_from(NODES).unwrap_or(3);
        let clients = free_addresses(count * 2)?;
        let (clients, peers) = clients.split_at(count);
        let mut nodes = Vec::new();
        for (place, (client, peer)) in clients.iter().zip(peers).enumerate() {
            let dir = dir.join(format!("{}-{}", system.name(), place + 1));
            std::fs::create_dir(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
            let data = dir.join("data");
            let arguments = match system {
                System::Tradewind => own_arguments(place + 1, &data, client, clients),
                System::Etcd => etcd_arguments(place + 1, &data, client, peer, peers),
            };
            nodes.push(Node {
                dir,
                address: client.clone(),
                arguments,
                child: None,
            });
        }
        let mut this = Self {
            system,
            program: program.to_owned(),
            nodes,
        };
        for place in 0..count {
            this.spawn(place)?;
        }
        for place in 0..count {
            this.wait(place, "takes writes", async |client: &mut Client| {
                matches!(client.is_whole().await, Ok(true))
                    && client.put("ready", "yes").await.is_ok()
            })
            .await?;
        }
        Ok(this)
    }

    /// How many.
    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// A new connection to a node.
    pub(crate) fn client(&self, place: usize, deadline: Duration) -> Result<Client, String> {
        Client::new(self.system, &self.node(place)?.address, deadline)
    }

    /// The leader's place.
    pub(crate) async fn leader(&self) -> Result<usize, String> {
        let until = Instant::now() + START_DEADLINE;
        while Instant::now() < until {
            for place in 0..self.len() {
                let mut client = self.client(place, ASK_DEADLINE)?;
                if matches!(client.leads().await, Ok(true)) {
                    return Ok(place);
                }
            }
            sleep(PAUSE).await;
        }
        Err(format!("{} has no leader", self.system.name()))
    }

    /// Kills one node, as a crash does, and waits until it is gone. Gives when the signal was sent.
    pub(crate) async fn kill(&mut self, place: usize) -> Result<Instant, String> {
        let node = self.node_mut(place)?;
        let Some(mut child) = node.child.take() else {
            return Err(format!("node {place} does not run"));
        };
        let sent = Instant::now();
        child.start_kill().map_err(|e| e.to_string())?;
        child.wait().await.map_err(|e| e.to_string())?;
        Ok(sent)
    }

    /// Starts a node's process; it begins to serve later.
    pub(crate) fn spawn(&mut self, place: usize) -> Result<(), String> {
        let program = self.program.clone();
        let node = self.node_mut(place)?;
        let log = node.dir.join("log");
        let log = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .map_err(|e| format!("{}: {e}", log.display()))?;
        let mut command = Command::new(&program);
        let child = command
            .args(&node.arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(|e| e.to_string())?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .map_err(|e| format!("{}: {e}", program.display()))?;
        node.child = Some(child);
        Ok(())
    }

    /// Waits until `holds` of a node, asked again and again.
    pub(crate) async fn wait(
        &mut self,
        place: usize,
        what: &str,
        mut holds: impl AsyncFnMut(&mut Client) -> bool,
    ) -> Result<(), String> {
        let mut client = self.client(place, ASK_DEADLINE)?;
        let until = Instant::now() + START_DEADLINE;
        loop {
            if holds(&mut client).await {
                return Ok(());
            }
            let node = self.node_mut(place)?;
            let ended = node.child.as_mut().map(Child::try_wait);
            if let Some(Ok(Some(status))) = ended {
                let said = last_lines(&node.dir.join("log"));
                return Err(format!("node {} ended, {status}:\n{said}", place + 1));
            }
            if Instant::now() >= until {
                let name = self.system.name();
                return Err(format!("{name} {} in time: not {what}", place + 1));
            }
            sleep(PAUSE).await;
        }
    }

    /// What each running node used so far.
    pub(crate) fn usage(&self) -> Result<Vec<Usage>, String> {
        let running = self.nodes.iter().filter_map(|n| n.child.as_ref()?.id());
        running.map(Usage::of).collect()
    }

    /// Bytes on disk of each node.
    pub(crate) fn disk_use(&self) -> Result<Vec<u64>, String> {
        let dirs = self.nodes.iter().map(|n| n.dir.join("data"));
        dirs.map(|dir| usage::disk_use(&dir)).collect()
    }

    fn node(&self, place: usize) -> Result<&Node, String> {
        self.nodes
            .get(place)
            .ok_or_else(|| format!("there is no node {place}"))
    }

    fn node_mut(&mut self, place: usize) -> Result<&mut Node, String> {
        self.nodes
            .get_mut(place)
            .ok_or_else(|| format!("there is no node {place}"))
    }
}

fn own_arguments(number: usize, data: &Path, listen: &str, all: &[String]) -> Vec<String> {
    let mut arguments = vec!["node".to_owned()];
    for (name, value) in [
        ("--id", number.to_string()),
        ("--dir", data.display().to_string()),
        ("--listen", listen.to_owned()),
        ("--nodes", all.join(",")),
    ] {
        arguments.extend([name.to_owned(), value]);
    }
    arguments
}

/// Only names and addresses: whatever else, its defaults are.
fn etcd_arguments(
    number: usize,
    data: &Path,
    client: &str,
    peer: &str,
    peers: &[String],
) -> Vec<String> {
    let all: Vec<String> = (1..)
        .zip(peers)
        .map(|(n, peer): (usize, _)| format!("n{n}=http://{peer}"))
        .collect();
    let mut arguments = Vec::new();
    for (name, value) in [
        ("--name", format!("n{number}")),
        ("--data-dir", data.display().to_string()),
        ("--listen-client-urls", format!("http://{client}")),
        ("--advertise-client-urls", format!("http://{client}")),
        ("--listen-peer-urls", format!("http://{peer}")),
        ("--initial-advertise-peer-urls", format!("http://{peer}")),
        ("--initial-cluster", all.join(",")),
        ("--initial-cluster-state", "new".to_owned()),
    ] {
        arguments.extend([name.to_owned(), value]);
    }
    arguments
}

/// Loopback addresses that nobody listens on now.
fn free_addresses(count: usize) -> Result<Vec<String>, String> {
    let failed = |e: std::io::Error| format!("no free port: {e}");
    // All held at once, so that no two are the same.
    let mut held = Vec::new();
    for _ in 0..count {
        held.push(TcpListener::bind(("127.0.0.1", 0)).map_err(failed)?);
    }
    held.iter()
        .map(|l| l.local_addr().map(|a| a.to_string()).map_err(failed))
        .collect()
}

fn last_lines(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let skip = lines.len().saturating_sub(10);
    lines.into_iter().skip(skip).collect::<Vec<_>>().join("\n")
}
