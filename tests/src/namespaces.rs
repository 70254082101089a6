//! Network namespaces: one around the whole test, and inside it one for each cluster, and for each pod that is to have one, joined
//! by a router whose firewall cuts any direction between any two, silences or resets single addresses, or lets one port through
//! and counts the rest. Owns the processes that hold them open, and the network between clusters where there is one.
//!
//! Never touches the network of the host: everything happens inside of the namespace that [`enter`] makes.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::{OsStr, OsString},
    fs::File,
    io::Write as _,
    net::{IpAddr, SocketAddr},
    path::Path,
    process::Stdio,
    time::Duration,
};

use nix::sched::{CloneFlags, setns};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
    process::{Child, Command},
    time::timeout,
};

use crate::{Block, wan::Wan};

/// Set for the run inside of the namespace: to the name of the one outside, so that nobody who sets it by hand makes a test
/// take the host's network for its own.
const INSIDE: &str = "TRADEWIND_TEST_NAMESPACE";
/// The kernel's name of the network namespace that this process is in.
const HERE: &str = "/proc/self/ns/net";
/// The router's only table.
const TABLE: &str = "between";
/// How its only chain begins.
const FORWARD: &str = " chain forward {\n  type filter hook forward priority 0;\n";
/// What the namespace is prepared by. Users other than root often lack the directories of these tools.
const PREPARE: &str =
    "PATH=$PATH:/usr/sbin:/sbin && ip link set lo up && echo 1 > /proc/sys/net/ipv4/ip_forward";
/// What has to work inside, beside that.
const PROBE: &str = "ip link add probe type veth peer name other && nft list ruleset";
/// The name of a cluster's only network interface.
const INTERFACE: &str = "eth0";
/// The last part of the router's address in each cluster's network.
const ROUTER: u8 = 254;
/// How long a connection may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// Setting up takes a moment; what takes longer hangs.
const LIMIT: Duration = Duration::from_secs(20);

/// Where a test finds itself.
#[derive(Debug)]
pub enum Entered {
    /// In a namespace of its own: do the work.
    Inside,
    /// The work was done by this same test in a process inside of one.
    Ran,
    /// Not possible here: why, and what to install.
    Missing(String),
}

/// Runs the test `name` again in a network namespace of its own, at most for `limit`, unless this is that run. `show`:
/// its output goes to stderr as it comes, else it is shown when it fails.
pub async fn enter(name: &str, limit: Duration, show: bool) -> Entered {
    if is_inside() {
        return Entered::Inside;
    }
    let args = [name, "--exact", "--include-ignored", "--nocapture"];
    let mut command = match again(&args).await {
        Ok(command) => command,
        Err(why) => return Entered::Missing(why),
    };
    command.stdin(Stdio::null());
    // Never to stdout: there, the lines of a test runner inside of a test would be counted as its own.
    if show {
        command.stdout(Stdio::from(std::io::stderr()));
        let status = timeout(limit, command.status()).await;
        let status = status.unwrap_or_else(|_| panic!("{name} took over {limit:?}"));
        assert!(status.expect("unshare runs").success(), "{name} failed");
    } else {
        let output = timeout(limit, command.output()).await;
        let output = output.unwrap_or_else(|_| panic!("{name} took over {limit:?}"));
        let output = output.expect("unshare runs");
        assert!(
            output.status.success(),
            "{}\n{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Entered::Ran
}

/// Whether this process is one that [`again`] has started.
pub fn is_inside() -> bool {
    let Some(outside) = std::env::var_os(INSIDE) else {
        return false;
    };
    assert!(
        differs(&outside, &here()),
        "{INSIDE} is not for setting by hand"
    );
    true
}

/// This same program with other words, in a network namespace of its own; or why that is not possible here, and what to
/// install.
pub async fn again(args: &[&str]) -> Result<Command, String> {
    if let Err(why) = probe().await {
        return Err(format!(
            "{why} (needs root or user namespaces, and Debian's nftables, iproute2 and util-linux)"
        ));
    }
    let mut command = unshared("exec \"$@\"");
    command
        .arg("sh")
        .arg(std::env::current_exe().expect("this program's own path"))
        .args(args)
        .env(INSIDE, here())
        .kill_on_drop(true);
    Ok(command)
}

/// Does `work` in a namespace of its own, at most for `limit`; `show` is as in [`enter`]. Where that is not possible, stderr
/// says that the test was skipped.
pub async fn inside<W: Future<Output = ()>>(
    name: &str,
    limit: Duration,
    show: bool,
    work: impl FnOnce() -> W,
) {
    match enter(name, limit, show).await {
        Entered::Inside => Box::pin(work()).await,
        Entered::Ran => {}
        Entered::Missing(why) => skipped(&format!("{name}: {why}")),
    }
}

/// The same of work that needs a network between clusters.
pub async fn inside_with_wan<W: Future<Output = ()>>(
    name: &str,
    limit: Duration,
    work: impl FnOnce() -> W,
) {
    match Wan::is_possible() {
        Ok(()) => inside(name, limit, false, work).await,
        Err(why) => skipped(&format!("{name}: {why}")),
    }
}

/// Says on stderr what was not done.
pub fn skipped(what: &str) {
    // Not by the macro: the test runner would keep that to itself.
    let said = writeln!(std::io::stderr(), "SKIPPED: {what}");
    said.expect("stderr takes a line");
}

fn here() -> OsString {
    let name = std::fs::read_link(HERE).expect("a kernel with network namespaces");
    name.into_os_string()
}

/// Whether `outside` is the name of a network namespace other than this one.
fn differs(outside: &OsStr, here: &OsStr) -> bool {
    outside.to_string_lossy().starts_with("net:[") && outside != here
}

fn unshared(script: &str) -> Command {
    let mut command = Command::new("unshare");
    if !nix::unistd::geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    // Whatever ends this process ends what is inside.
    command.args(["--net", "--kill-child=SIGKILL", "--", "sh", "-c"]);
    command.arg(format!("{PREPARE} && {script}"));
    command
}

async fn probe() -> Result<(), String> {
    let mut command = unshared(PROBE);
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = timeout(LIMIT, command.output()).await;
    let output = output.map_err(|_| format!("unshare took over {LIMIT:?}"))?;
    let output = output.map_err(|e| format!("unshare does not run: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(said.trim().replace('\n', "; "))
}

/// What the firewall does to all that goes to an address, and comes from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Harm {
    /// It is dropped, and nobody is told.
    Silent,
    /// Every TCP connection is reset at its next packet, and every new one refused.
    Reset,
}

/// One namespace for each cluster, and for each of its pods that has one.
#[derive(Debug, Default)]
pub struct Namespaces {
    clusters: Vec<Child>,
    networks: Vec<String>,
    pods: BTreeMap<(usize, u8), Child>,
    wan: Option<Wan>,
}

impl Namespaces {
    /// From now on packets between clusters go over `wan`.
    pub fn set_wan(&mut self, wan: Wan) {
        assert!(self.clusters.is_empty(), "the network comes first");
        self.wan = Some(wan);
    }

    /// The network between the clusters.
    pub fn wan(&self) -> &Wan {
        self.wan.as_ref().expect("a network between the clusters")
    }

    /// Makes the next cluster's namespace, with these of its addresses.
    pub async fn add(&mut self, block: &Block, hosts: &[u8]) {
        let number = self.clusters.len();
        let cluster = u8::try_from(number).expect("few clusters");
        let (holder, pid) = hold().await;
        self.clusters.push(holder);

        let router = block.ip(cluster, ROUTER);
        let outside = format!("cluster{number}");
        sh(&format!(
            "ip link add {outside} type veth peer name {INTERFACE} netns {pid} && \
             ip addr add {router}/24 dev {outside} && ip link set {outside} up"
        ))
        .await;
        let own: Vec<String> = hosts
            .iter()
            .map(|host| {
                let address = block.ip(cluster, *host);
                format!("ip addr add {address}/24 dev {INTERFACE}")
            })
            .collect();
        sh(&format!(
            "nsenter --net=/proc/{pid}/ns/net -- sh -c 'ip link set lo up && {} && \
             ip link set {INTERFACE} up && ip route add default via {router}'",
            own.join(" && ")
        ))
        .await;
        self.networks.push(format!("{}/24", block.ip(cluster, 0)));
        if let Some(wan) = &self.wan {
            wan.leave_alone(number).await;
        }
    }

    /// Makes a namespace for one address of a cluster, which is not one of the cluster's own namespace. Whatever runs at that
    /// address from now on runs in it (see [`Namespaces::command_at`]).
    pub async fn add_pod(&mut self, block: &Block, number: usize, host: u8) {
        let cluster = u8::try_from(number).expect("few clusters");
        let (holder, pid) = hold().await;
        let (own, router) = (block.ip(cluster, host), block.ip(cluster, ROUTER));
        let outside = format!("pod{number}x{host}");
        sh(&format!(
            "ip link add {outside} type veth peer name {INTERFACE} netns {pid} && \
             ip link set {outside} up && ip route add {own}/32 dev {outside} && \
             nsenter --net=/proc/{pid}/ns/net -- sh -c 'ip link set lo up && ip addr add {own}/32 dev {INTERFACE} && \
             ip link set {INTERFACE} up && ip route add {router} dev {INTERFACE} && ip route add default via {router}' && \
             nsenter --net=/proc/{}/ns/net -- ip route add {own}/32 via {router}",
            id(&self.clusters[number])
        ))
        .await;
        self.pods.insert((number, host), holder);
    }

    /// `program` in a cluster's namespace: it takes the place of `nsenter`, process id and all.
    pub fn command(&self, number: usize, program: &Path) -> Command {
        in_namespace(&self.clusters[number], program)
    }

    /// The same where that address of the cluster is: in the pod's namespace where it has one.
    pub fn command_at(&self, number: usize, host: u8, program: &Path) -> Command {
        let pod = self.pods.get(&(number, host));
        in_namespace(pod.unwrap_or(&self.clusters[number]), program)
    }

    /// What `work` gives on a thread in the namespace where that address of the cluster is: a socket that it makes stays there.
    pub fn in_its<T: Send>(&self, number: usize, host: u8, work: impl FnOnce() -> T + Send) -> T {
        let pod = self.pods.get(&(number, host));
        let path = format!("/proc/{}/ns/net", id(pod.unwrap_or(&self.clusters[number])));
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let namespace = File::open(path).expect("the namespace");
                setns(namespace, CloneFlags::CLONE_NEWNET).expect("leave to enter it");
                work()
            });
            thread.join().expect("the work does not panic")
        })
    }

    /// From now on this is done to these addresses, and nothing to all others.
    pub async fn harm(&self, harms: &BTreeMap<IpAddr, Harm>) {
        let mut rules = String::from(FORWARD);
        for (ip, harm) in harms {
            let what = match harm {
                Harm::Silent => "drop",
                Harm::Reset => "meta l4proto tcp reject with tcp reset",
            };
            for way in ["saddr", "daddr"] {
                rules.push_str(&format!("  ip {way} {ip} {what}\n"));
            }
        }
        rules.push_str(" }\n");
        nft(&rules).await;
    }

    /// From now on nothing passes in these directions (from, to), and everything else does.
    pub async fn cut(&self, directions: &BTreeSet<(usize, usize)>) {
        let mut rules = String::from(FORWARD);
        for (from, to) in directions {
            let (from, to) = (&self.networks[*from], &self.networks[*to]);
            rules.push_str(&format!("  ip saddr {from} ip daddr {to} drop\n"));
        }
        rules.push_str(" }\n");
        nft(&rules).await;
    }

    /// From now on connections to this TCP port pass between clusters, and nothing else does: not a packet, of whatever
    /// protocol. What is dropped is counted, from 0.
    pub async fn only(&self, port: u16) {
        // Without connection tracking, which not every kernel has: an answer comes from the port and opens nothing.
        nft(&format!(
            " counter dropped {{ }}\n chain forward {{\n  \
             type filter hook forward priority 0; policy drop;\n  \
             tcp dport {port} accept\n  \
             tcp sport {port} tcp flags & (syn | ack) != syn accept\n  \
             counter name \"dropped\"\n }}\n"
        ))
        .await;
    }

    /// Packets that [`Namespaces::only`] has dropped.
    pub async fn dropped(&self) -> u64 {
        let said = sh(&format!("nft list counter ip {TABLE} dropped")).await;
        let mut words = said.split_ascii_whitespace();
        words.find(|w| *w == "packets");
        let packets = words.next().and_then(|n| n.parse().ok());
        packets.unwrap_or_else(|| panic!("nft counts no packets: {said}"))
    }

    /// Whether a TCP connection from a cluster's namespace comes about within a second.
    pub async fn connects(&self, from: usize, to: SocketAddr) -> bool {
        let script = format!("exec 3<>/dev/tcp/{}/{}", to.ip(), to.port());
        let mut command = self.command(from, Path::new("timeout"));
        command
            .args(["1", "bash", "-c", &script])
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let output = timeout(LIMIT, command.output()).await.expect("it ends");
        let output = output.expect("nsenter runs");
        match output.status.code() {
            Some(0) => true,
            // Refused, or out of time.
            Some(1 | 124) => false,
            _ => panic!("no attempt to connect to {to}: {output:?}"),
        }
    }
}

/// What `work` gives on a thread in the network that a process is in: a socket that it makes stays there.
pub async fn from_its<T: Send + 'static>(
    process: u32,
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> std::io::Result<T> {
    assert_inside();
    let entered = move || {
        let namespace = File::open(format!("/proc/{process}/ns/net"))?;
        // Of this thread alone, which ends with it.
        setns(namespace, CloneFlags::CLONE_NEWNET)?;
        work()
    };
    let (tell, told) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || tell.send(entered()));
    told.await.map_err(std::io::Error::other)?
}

/// A TCP connection from the network that a process is in.
pub async fn connect_from(process: u32, to: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = from_its(process, move || {
        let stream = std::net::TcpStream::connect_timeout(&to, CONNECT_LIMIT)?;
        stream.set_nonblocking(true)?;
        Ok(stream)
    });
    TcpStream::from_std(stream.await?)
}

/// A new namespace, with the process that holds it open, and its id.
async fn hold() -> (Child, u32) {
    assert_inside();
    // It lives as long as its standard input: it cannot outlive this process.
    let mut holder = Command::new("unshare")
        .args(["--net", "--", "sh", "-c", "echo up; exec cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("unshare runs");
    let mut up = String::new();
    let said = BufReader::new(holder.stdout.take().expect("a pipe"))
        .read_line(&mut up)
        .await;
    assert_eq!(said.expect("a line"), 3, "unshare made no namespace");
    let pid = id(&holder);
    (holder, pid)
}

fn id(holder: &Child) -> u32 {
    holder.id().expect("it runs")
}

fn in_namespace(holder: &Child, program: &Path) -> Command {
    let mut command = Command::new("nsenter");
    command
        .arg(format!("--net=/proc/{}/ns/net", id(holder)))
        .arg("--")
        .arg(program);
    command
}

/// What changes a network must find itself in one of its own.
fn assert_inside() {
    let outside = std::env::var_os(INSIDE).unwrap_or_default();
    assert!(
        differs(&outside, &here()),
        "outside of the test's own namespace"
    );
}

/// Replaces the router's table by one of these rules.
async fn nft(rules: &str) {
    assert_inside();
    // Made first, so that there is one to delete; all of it is one transaction.
    let rules =
        format!("table ip {TABLE}\ndelete table ip {TABLE}\ntable ip {TABLE} {{\n{rules}}}\n");
    let mut nft = Command::new("sh")
        .args(["-c", "PATH=$PATH:/usr/sbin:/sbin exec nft -f -"])
        .stdin(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("sh runs");
    let mut input = nft.stdin.take().expect("a pipe");
    input.write_all(rules.as_bytes()).await.expect("nft reads");
    drop(input);
    let status = timeout(LIMIT, nft.wait()).await.expect("nft ends");
    assert!(status.expect("a status").success(), "nft refused\n{rules}");
}

/// Runs a script in the router's namespace, and gives what it says.
pub(crate) async fn sh(script: &str) -> String {
    assert_inside();
    let mut command = Command::new("sh");
    command
        .args(["-c", &format!("PATH=$PATH:/usr/sbin:/sbin; {script}")])
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = timeout(LIMIT, command.output()).await;
    let output = output.expect("it ends").expect("sh runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}: {said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_but_another_namespace_is_taken_for_the_outside() {
        let here = here();
        for wrong in ["", "1", "net", here.to_str().unwrap()] {
            assert!(!differs(wrong.as_ref(), &here), "{wrong:?}");
        }
        assert!(differs("net:[1]".as_ref(), &here));
    }
}
