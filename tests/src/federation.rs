//! Federations of real processes: `init`, `join`, controllers, gateways, workloads and callers, each as a user would start
//! them. Owns the processes, the addresses and the directory.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Command;

use crate::{
    Workload,
    addresses::Block,
    http,
    namespaces::Namespaces,
    process::{self, Output, Process, tradewind},
    wait::{USUAL, until},
};

/// One cluster's processes.
#[derive(Debug)]
pub struct Cluster {
    /// Its name.
    pub name: String,
    /// Its data directory.
    pub data_dir: PathBuf,
    /// Its number in the federation: the third part of its addresses.
    pub number: u8,
    /// Its controller, while it runs.
    pub controller: Option<Process>,
    /// Its gateway, while it runs.
    pub gateway: Option<Process>,
}

/// A whole federation.
#[derive(Debug)]
pub struct Federation {
    /// Its clusters, the founder first.
    pub clusters: Vec<Cluster>,
    /// Its addresses.
    pub block: Block,
    /// A network namespace for each cluster, where it was asked for.
    pub namespaces: Option<Namespaces>,
    /// Addresses that get a namespace of their own when their cluster is added: its number, and their last part.
    pub pods: BTreeSet<(usize, u8)>,
    /// Flags that every controller starts with.
    pub controller_flags: Vec<String>,
    /// A kubeconfig with a context for each cluster, if controllers take their services from API servers.
    pub kubeconfig: Option<PathBuf>,
    dir: TempDir,
}

/// The three regions of the main story.
pub const THREE: [(&str, &str); 3] = [
    ("west", "us-west"),
    ("central", "us-central"),
    ("east", "eu-west"),
];
/// Two of them.
pub const TWO: [(&str, &str); 2] = [("west", "us-west"), ("east", "eu-west")];
/// One alone.
pub const ONE: [(&str, &str); 1] = [("west", "us-west")];

/// The controller's port.
pub const CONTROLLER: u16 = 15012;
/// The gateway's port.
pub const GATEWAY: u16 = 15443;
/// The proxy's HBONE port.
pub const HBONE: u16 = 15008;
/// Every role's admin port.
pub const ADMIN: u16 = 15020;
/// The DNS server's port.
pub const DNS: u16 = 15053;

/// Addresses end in these: the controller, the gateway, the DNS server; workloads follow from 10, callers from 100.
pub mod host {
    /// The controller.
    pub const CONTROLLER: u8 = 1;
    /// The gateway.
    pub const GATEWAY: u8 = 2;
    /// The DNS server.
    pub const DNS: u8 = 3;
    /// Another gateway.
    pub const SECOND_GATEWAY: u8 = 4;
    /// Before the first workload.
    pub const WORKLOADS: u8 = 10;
    /// The first caller.
    pub const CALLERS: u8 = 100;
    /// As many gateways as a cluster has in any test.
    pub const GATEWAYS: [u8; 4] = [GATEWAY, SECOND_GATEWAY, 5, 6];
    /// What a cluster has in a network namespace: controller, DNS server, gateways, two workloads, two callers.
    pub const ALL: [u8; 10] = [
        CONTROLLER,
        DNS,
        GATEWAY,
        SECOND_GATEWAY,
        5,
        6,
        11,
        12,
        100,
        101,
    ];
}

impl Federation {
    /// Founds it with the first of `clusters` and joins the others; returns when every one of them is well.
    pub async fn start(clusters: &[(&str, &str)]) -> Self {
        let mut federation = Self::empty();
        for (name, region) in clusters {
            federation.add(name, region).await;
        }
        for number in 0..federation.clusters.len() {
            federation.is_well(number).await;
        }
        federation
    }

    /// No cluster yet; each will have a network namespace of its own. For a test that runs in one itself.
    pub fn in_namespaces() -> Self {
        Self {
            block: Block::routable(),
            namespaces: Some(Namespaces::default()),
            ..Self::empty()
        }
    }

    /// Founds it in namespaces between which nothing passes but connections to the gateways' port, and joins the others
    /// through it; returns when every one of them is well. For a test that runs in a namespace itself.
    pub async fn closed(clusters: &[(&str, &str)]) -> Self {
        let mut federation = Self::in_namespaces();
        federation.router().only(GATEWAY).await;
        for (name, region) in clusters {
            federation.add(name, region).await;
        }
        for number in 0..federation.clusters.len() {
            federation.is_well(number).await;
        }
        federation
    }

    /// The same of west and east, with so many workloads of a service in the east, which alone exports it.
    pub async fn closed_serving(service: &str, workloads: u8) -> (Self, Vec<Workload>) {
        let federation = Self::closed(&TWO).await;
        let mut serving = Vec::new();
        for n in 1..=workloads {
            serving.push(federation.workload(1, n, service).await);
        }
        let name = service.split(':').next().unwrap_or_default();
        federation.export(1, name).await;
        federation.sees(0, name, workloads.into()).await;
        (federation, serving)
    }

    /// The router between its namespaces.
    pub fn router(&self) -> &Namespaces {
        self.namespaces.as_ref().expect("namespaces")
    }

    /// No cluster yet.
    pub fn empty() -> Self {
        let dir = tempfile::Builder::new()
            .prefix("tradewind-test-")
            .tempdir()
            .expect("a directory");
        Self {
            clusters: Vec::new(),
            block: Block::take(),
            namespaces: None,
            pods: BTreeSet::new(),
            controller_flags: Vec::new(),
            kubeconfig: None,
            dir,
        }
    }

    /// The directory that everything is below.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Leaves the directory where it is when this is dropped: for evidence.
    pub fn keep_dir(&mut self) -> &Path {
        self.dir.disable_cleanup(true);
        self.dir.path()
    }

    /// Where others reach a cluster.
    pub fn gateway_addr(&self, number: usize) -> SocketAddr {
        self.addr(number, host::GATEWAY, GATEWAY)
    }

    /// An address of a cluster.
    pub fn addr(&self, number: usize, host: u8, port: u16) -> SocketAddr {
        self.block
            .addr(u8::try_from(number).expect("few clusters"), host, port)
    }

    /// Adds a cluster by `init`, if it is the first, else by token and `join`, and starts its controller and gateway.
    pub async fn add(&mut self, name: &str, region: &str) {
        if let Some(namespaces) = &mut self.namespaces {
            let number = self.clusters.len();
            let own = host::ALL
                .iter()
                .filter(|h| !self.pods.contains(&(number, **h)));
            let own: Vec<u8> = own.copied().collect();
            namespaces.add(&self.block, &own).await;
            for (_, host) in self.pods.iter().filter(|(cluster, _)| *cluster == number) {
                namespaces.add_pod(&self.block, number, *host).await;
            }
        }
        let number = self.clusters.len();
        let data_dir = self.dir().join(name);
        let dir = data_dir.to_str().expect("a plain path").to_owned();
        let gateway = self.gateway_addr(number).to_string();
        if number == 0 {
            let args = [
                "init",
                "--cluster",
                name,
                "--region",
                region,
                "--data-dir",
                &dir,
                "--gateway",
                &gateway,
            ];
            process::run(&args).await.good();
            self.begin(name, data_dir).await;
        } else {
            let token = self.token(&[]).await;
            self.add_with(name, region, &token).await;
        }
    }

    /// Adds a cluster that joins with this token, and starts its controller and gateway.
    pub async fn add_with(&mut self, name: &str, region: &str, token: &str) {
        self.join(name, region, token).await.good();
        self.begin(name, self.dir().join(name)).await;
    }

    async fn begin(&mut self, name: &str, data_dir: PathBuf) {
        let number = self.clusters.len();
        self.clusters.push(Cluster {
            name: name.to_owned(),
            data_dir,
            number: u8::try_from(number).expect("few clusters"),
            controller: None,
            gateway: None,
        });
        self.start_controller(number);
        self.start_gateway(number);
        self.ready(self.addr(number, host::CONTROLLER, ADMIN)).await;
        self.ready(self.addr(number, host::GATEWAY, ADMIN)).await;
    }

    /// A join token from the founder.
    pub async fn token(&self, more: &[&str]) -> String {
        let args = [&["token", "create"], more].concat();
        self.cli(0, &args).await.good().stdout.trim().to_owned()
    }

    /// `tradewind join` for the next cluster, into `<dir>/<name>`, through the founder.
    pub async fn join(&self, name: &str, region: &str, token: &str) -> Output {
        let data_dir = self.dir().join(name);
        let dir = data_dir.to_str().expect("a plain path");
        let through = self.gateway_addr(0).to_string();
        let number = self.clusters.len();
        let own = self.gateway_addr(number).to_string();
        let args = [
            "join",
            &through,
            "--token",
            token,
            "--cluster",
            name,
            "--region",
            region,
            "--data-dir",
            dir,
            "--gateway",
            &own,
        ];
        let mut command = self.binary(number);
        command.args(args);
        process::finish(command).await
    }

    /// Starts, or starts again, a controller.
    pub fn start_controller(&mut self, number: usize) {
        self.start_controller_with(number, &[]);
    }

    /// The same with more flags.
    pub fn start_controller_with(&mut self, number: usize, more: &[&str]) {
        let listen = self.addr(number, host::CONTROLLER, CONTROLLER).to_string();
        let admin = self.addr(number, host::CONTROLLER, ADMIN).to_string();
        let dir = self.data_dir(number);
        let args = [
            "controller",
            "--data-dir",
            &dir,
            "--listen",
            &listen,
            "--admin-listen",
            &admin,
        ];
        let common = self.controller_flags.iter().map(String::as_str);
        let kubeconfig = self
            .kubeconfig
            .as_ref()
            .map(|path| path.display().to_string());
        let context = self.clusters[number].name.clone();
        let kubernetes = kubeconfig
            .as_deref()
            .map(|path| ["--kubernetes", "--kubeconfig", path, "--context", &context]);
        let args: Vec<&str> = args
            .into_iter()
            .chain(common)
            .chain(kubernetes.into_iter().flatten())
            .chain(more.iter().copied())
            .collect();
        let process = self.process(number, "controller", &args);
        self.clusters[number].controller = Some(process);
    }

    /// Starts a DNS server and returns its address.
    pub async fn start_dns(&self, number: usize, more: &[&str]) -> (Process, SocketAddr) {
        let listen = self.addr(number, host::DNS, DNS);
        let admin = self.addr(number, host::DNS, ADMIN);
        let (l, a, dir) = (listen.to_string(), admin.to_string(), self.data_dir(number));
        let args = [
            "dns",
            "--name",
            "dns",
            "--data-dir",
            &dir,
            "--listen",
            &l,
            "--admin-listen",
            &a,
        ];
        let process = self.process(number, "dns", &[&args, more].concat());
        self.ready(admin).await;
        (process, listen)
    }

    /// Any process of a cluster.
    pub fn process(&self, number: usize, name: &str, args: &[&str]) -> Process {
        self.start_behind(number, name, self.binary(number), args)
    }

    /// The same where that address of the cluster is: it may be a pod's.
    pub fn process_at(&self, number: usize, host: u8, name: &str, args: &[&str]) -> Process {
        self.program_at(number, host, name, &tradewind(), args)
    }

    /// The same of any program.
    pub fn program_at(
        &self,
        number: usize,
        host: u8,
        name: &str,
        program: &Path,
        args: &[&str],
    ) -> Process {
        let command = match &self.namespaces {
            Some(namespaces) => namespaces.command_at(number, host, program),
            None => Command::new(program),
        };
        self.start_behind(number, name, command, args)
    }

    fn start_behind(&self, number: usize, name: &str, command: Command, args: &[&str]) -> Process {
        let name = format!("{}-{name}", self.clusters[number].name);
        Process::start_behind(&name, self.dir(), command, args, &[])
    }

    /// The binary, where a cluster's processes run.
    fn binary(&self, number: usize) -> Command {
        self.program(number, &tradewind())
    }

    /// Any program, where a cluster's processes run.
    pub fn program(&self, number: usize, program: &Path) -> Command {
        match &self.namespaces {
            Some(namespaces) => namespaces.command(number, program),
            None => Command::new(program),
        }
    }

    /// A cluster's data directory as text.
    pub fn data_dir(&self, number: usize) -> String {
        self.clusters[number]
            .data_dir
            .to_str()
            .expect("a plain path")
            .to_owned()
    }

    /// A command of the command line, asked of one cluster's controller.
    pub async fn cli(&self, number: usize, args: &[&str]) -> Output {
        let mut command = Command::new(tradewind());
        command
            .args(args)
            .env("TRADEWIND_DATA_DIR", &self.clusters[number].data_dir);
        process::finish(command).await
    }

    /// The same, good, as JSON.
    pub async fn json(&self, number: usize, args: &[&str]) -> Value {
        self.cli(number, &[args, &["-o", "json"]].concat())
            .await
            .good()
            .json()
    }

    /// Exports a service, and waits until every live controller knows `endpoints` of it.
    pub async fn export(&self, number: usize, service: &str) {
        self.cli(number, &["export", service]).await.good();
    }

    /// Waits until the controller of `number` lists `count` endpoints of `service` as healthy.
    pub async fn sees(&self, number: usize, service: &str, count: usize) {
        until(
            &format!("{count} healthy endpoints of {service}"),
            USUAL,
            || async {
                let seen = self
                    .cli(number, &["endpoints", service, "-o", "json"])
                    .await;
                if seen.code != 0 {
                    return Err(seen.stderr);
                }
                let json = seen.json();
                let healthy = json["endpoints"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .filter(|e| e["health"] == "healthy")
                    .count();
                if healthy == count {
                    Ok(())
                } else {
                    Err(seen.stdout)
                }
            },
        )
        .await;
    }

    /// Waits until a cluster's status shows no problem.
    pub async fn is_well(&self, number: usize) {
        self.cli(number, &["status", "--wait", "30s"]).await.good();
    }

    /// Waits until a role says that it is ready.
    pub async fn ready(&self, admin: SocketAddr) {
        until(&format!("http://{admin}/readyz"), USUAL, || async {
            http::get(admin, "/readyz").await?.ok()
        })
        .await;
    }

    /// The number of the cluster whose controller leads the store, as cluster `ask` knows it.
    pub async fn leader(&self, ask: usize) -> Option<usize> {
        let seen = self.cli(ask, &["status", "-o", "json"]).await;
        let status: Value = serde_json::from_str(&seen.stdout).ok()?;
        let peers = status["peers"].as_array()?;
        let leader = peers.iter().find(|p| p["role"] == "leader")?["cluster"].as_str()?;
        self.clusters.iter().position(|c| c.name == leader)
    }

    /// SIGKILL to controller and gateway.
    pub async fn kill_cluster(&mut self, number: usize) {
        let cluster = &mut self.clusters[number];
        for process in [&mut cluster.controller, &mut cluster.gateway]
            .into_iter()
            .flatten()
        {
            process.kill().await;
        }
        cluster.controller = None;
        cluster.gateway = None;
    }
}

/// A limit for things that take seconds by design, such as an ejection's end.
pub const PATIENT: Duration = Duration::from_secs(60);
