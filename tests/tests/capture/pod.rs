//! The applications' network namespace, the proxy in it that captures, and what an application there can do.

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
    process::Stdio,
};

use hickory_proto::rr::{RData, RecordType};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    process::{Child, Command},
    time::timeout,
};
use tradewind_tests::{
    Federation, Output, Process, Workload,
    dns::{self, Asking, Over},
    federation::{ADMIN, HBONE},
    metrics,
    namespaces::skipped,
    process, tradewind,
    wait::USUAL,
};

use super::{OUTBOUND, OWN, OWN_V6, POD, ROUTER, ROUTER_V6, SERVICE, WEST};

/// The applications' namespace beside a federation of west, its cluster, and east, which serves.
pub(super) struct Pod {
    pub(super) federation: Federation,
    _workloads: Vec<Workload>,
    pub(super) own: IpAddr,
    pub(super) router: IpAddr,
    pub(super) admin: SocketAddr,
}

impl Pod {
    /// None where the kernel has no address translation.
    pub(super) async fn new() -> Option<Self> {
        let (mut federation, workloads) = Federation::closed_serving(SERVICE, 1).await;
        federation.router().cut(&[].into()).await;
        let Federation {
            namespaces, block, ..
        } = &mut federation;
        let namespaces = namespaces.as_mut().expect("namespaces");
        namespaces.add(block, &[OWN]).await;
        let (own, router) = (block.ip(2, OWN), block.ip(2, ROUTER));
        let pod = Self {
            admin: (own, ADMIN).into(),
            own,
            router,
            federation,
            _workloads: workloads,
        };
        let near = format!("ip -6 addr add {ROUTER_V6}/64 dev cluster{POD} nodad");
        let mut sh = Command::new("sh");
        sh.args(["-c", &format!("PATH=$PATH:/usr/sbin:/sbin; {near}")]);
        process::finish(sh).await.good();
        pod.sh(&format!(
            "ip -6 addr add {OWN_V6}/64 dev eth0 nodad && ip -6 route add default via {ROUTER_V6}"
        ))
        .await
        .good();
        let probe = "nft 'add table inet probe; add chain inet probe c { type nat hook output priority -100; }' \
                     && nft 'add rule inet probe c tcp dport 1 redirect to :2' && nft delete table inet probe";
        let probed = pod.sh(probe).await;
        if probed.code != 0 {
            skipped(&format!("transparent capture: {}", probed.stderr.trim()));
            return None;
        }
        Some(pod)
    }

    pub(super) fn program(&self, program: &str) -> Command {
        self.federation.router().command(POD, Path::new(program))
    }

    pub(super) async fn run(&self, program: &str, args: &[&str]) -> Output {
        let mut command = self.program(program);
        command.args(args);
        process::finish(command).await
    }

    pub(super) async fn sh(&self, script: &str) -> Output {
        let script = format!("PATH=$PATH:/usr/sbin:/sbin; {script}");
        self.run("sh", &["-c", &script]).await
    }

    pub(super) async fn tradewind(&self, args: &[&str]) -> Output {
        self.run(tradewind().to_str().expect("a plain path"), args)
            .await
    }

    pub(super) fn start(&self, more: &[&str]) -> Process {
        let hbone = SocketAddr::new(self.own, HBONE).to_string();
        let (admin, dir) = (self.admin.to_string(), self.federation.data_dir(WEST));
        let args = [
            "proxy",
            "--name",
            "pod",
            "--data-dir",
            &dir,
            "--identity",
            "shop/web",
            "--hbone-listen",
            &hbone,
            "--admin-listen",
            &admin,
            "--threads",
            "2",
            "--drain-deadline",
            "5s",
            "--capture",
        ];
        let command = self.federation.router().command(POD, &tradewind());
        Process::start_behind(
            "pod",
            self.federation.dir(),
            command,
            &[&args, more].concat(),
            &[],
        )
    }

    pub(super) async fn ready(&self) {
        self.federation.ready(self.admin).await;
    }

    pub(super) async fn proxy(&self, more: &[&str]) -> Process {
        let proxy = self.start(more);
        self.ready().await;
        proxy
    }

    /// What an application gets that calls as it always did.
    pub(super) async fn curl(&self, args: &[&str]) -> Output {
        let always = ["-sS", "-g", "--max-time", "10"];
        self.run("curl", &[&always, args].concat()).await
    }

    pub(super) async fn get(&self, url: &str) -> String {
        self.curl(&["-f", url])
            .await
            .good()
            .stdout
            .trim()
            .to_owned()
    }

    pub(super) async fn fails(&self, args: &[&str]) {
        let said = self.curl(&[&["-f"], args].concat()).await;
        assert_ne!(said.code, 0, "{args:?}: {}", said.stdout);
    }

    pub(super) async fn count(&self, result: &str) -> f64 {
        let label = format!("result=\"{result}\"");
        let total = metrics::total(self.admin, OUTBOUND, &[&label]).await;
        total.expect("the proxy's metrics")
    }

    /// Whether a connection is captured on its way out of the mesh.
    pub(super) async fn passes(&self, call: impl Future<Output = ()>) -> bool {
        let before = self.count("passed").await;
        call.await;
        self.count("passed").await > before
    }

    pub(super) async fn rules(&self) -> String {
        self.sh("nft list ruleset").await.good().stdout
    }

    /// The service's addresses in the whole federation: one a family.
    pub(super) async fn addresses(&self, service: &str) -> Vec<String> {
        let services = self.federation.json(WEST, &["services"]).await;
        let all = services["services"].as_array().expect("services");
        let found = all
            .iter()
            .find(|s| s["service"] == service || s["name"] == service);
        let found = found.unwrap_or_else(|| panic!("no {service} in {services}"));
        let ips = found["clusterset_ips"].as_array().expect("addresses");
        ips.iter()
            .map(|ip| ip.as_str().unwrap().to_owned())
            .collect()
    }

    /// What a name server answers to an application that asks it.
    pub(super) async fn ask(
        &self,
        server: IpAddr,
        over: Over,
        name: &str,
        kind: RecordType,
    ) -> Vec<RData> {
        let namespaces = self.federation.router();
        let asking = namespaces.in_its(POD, OWN, || Asking::to((server, 53).into(), over));
        let asking = asking.unwrap_or_else(|e| panic!("{server} over {over:?}: {e}"));
        let answer = dns::ask_by(asking, name, kind).await;
        dns::data(&answer.unwrap_or_else(|e| panic!("{server} over {over:?}: {e}")))
    }

    /// A DNS server beside the applications, whose own questions are not captured.
    pub(super) async fn dns(&self, listen: &str, upstream: SocketAddr, admin: u16) -> Process {
        let (dir, upstream) = (self.federation.data_dir(WEST), upstream.to_string());
        let name = format!("pod-dns-{admin}");
        let admin = SocketAddr::new(self.own, admin);
        let at = admin.to_string();
        let args = [
            "dns",
            "--name",
            &name,
            "--data-dir",
            &dir,
            "--listen",
            listen,
            "--admin-listen",
            &at,
            "--upstream",
            &upstream,
            "--mark",
        ];
        let command = self.federation.router().command(POD, &tradewind());
        let dns = Process::start_behind(&name, self.federation.dir(), command, &args, &[]);
        self.federation.ready(admin).await;
        dns
    }

    /// A client that reads lines and says lines.
    pub(super) fn talk(&self, to: SocketAddr) -> Talk {
        // It ends with its input: nothing of it outlives this handle, and the far end sees it go.
        let script = format!(
            "exec 3<>/dev/tcp/{}/{}; cat <&3 & reader=$!; cat >&3; kill $reader",
            to.ip(),
            to.port()
        );
        let mut command = self.program("bash");
        let mut child = command
            .args(["-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("nsenter runs");
        let lines = BufReader::new(child.stdout.take().expect("a pipe"));
        Talk { child, lines }
    }
}

pub(super) struct Talk {
    pub(super) child: Child,
    pub(super) lines: BufReader<tokio::process::ChildStdout>,
}

impl Talk {
    pub(super) async fn hears(&mut self, line: &str) {
        let mut heard = String::new();
        let read = timeout(USUAL, self.lines.read_line(&mut heard)).await;
        read.unwrap_or_else(|_| panic!("{line:?} is not heard"))
            .expect("a line");
        assert_eq!(heard.trim_end(), line);
    }

    pub(super) async fn says(&mut self, line: &str) {
        let stdin = self.child.stdin.as_mut().expect("a pipe");
        stdin
            .write_all(format!("{line}\n").as_bytes())
            .await
            .expect("it reads");
    }
}
