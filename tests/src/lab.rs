//! A lab: clusters as groups of network namespaces with a wide area network between them, whole federations of real processes in
//! them, and an application in each pod. Owns all of it; whoever runs one does so in a namespace of its own.

pub mod app;
pub mod command;
pub mod play;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use futures::future::join_all;
use http::Request;
use http_body_util::Empty;

use crate::{
    Federation, Process, Workload,
    federation::host,
    http::{Client, Error},
    wait::{USUAL, until},
    wan::Wan,
};

/// The service that every cluster offers.
pub const EVERYWHERE: &str = "shop/payments";
/// The service that every cluster but the first offers.
pub const ELSEWHERE: &str = "shop/ledger";
/// The port of both.
const PORT: u16 = 80;
/// Where applications listen.
const APP: u16 = 8080;

/// What a lab consists of.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Names and regions of its clusters.
    pub clusters: Vec<(&'static str, &'static str)>,
    /// Pods in each of them.
    pub pods: Vec<u8>,
    /// The cluster that has a second gateway, if one has.
    pub two_gateways: Option<usize>,
    /// From one cluster to another.
    pub delay: Duration,
    /// For the network's dice.
    pub seed: u64,
    /// The program that is each pod's application when it is started with `app`.
    pub program: PathBuf,
}

/// A workload in a namespace of its own: an application and its proxy.
#[derive(Debug)]
pub struct Pod {
    /// Its cluster.
    pub cluster: usize,
    /// Its number there.
    pub n: u8,
    /// `cluster/number`: what the application answers.
    pub name: String,
    /// Its processes.
    pub workload: Option<Workload>,
}

/// A lab. See the module.
#[derive(Debug)]
pub struct Lab {
    /// Its federation.
    pub federation: Federation,
    /// Its pods.
    pub pods: Vec<Pod>,
    /// The second gateway of the cluster that has one.
    pub second_gateway: Option<Process>,
    /// Where the first cluster's caller calls the service that is everywhere, and the one that is elsewhere.
    pub doors: [SocketAddr; 2],
    plan: Plan,
    callers: Vec<Process>,
}

impl Lab {
    /// Makes it, and waits until every cluster sees every endpoint.
    pub async fn start(plan: Plan) -> Self {
        let mut federation = Federation::in_namespaces();
        let wan = Wan::open(&federation.block, plan.seed).await;
        let wan = wan.unwrap_or_else(|e| panic!("no network between clusters: {e}"));
        let count = plan.clusters.len();
        for (from, to) in (0..count).flat_map(|a| (0..count).map(move |b| (a, b))) {
            wan.change((from, to), |line| line.delay = plan.delay);
        }
        let namespaces = federation.namespaces.as_mut().expect("namespaces");
        namespaces.set_wan(wan);
        federation
            .pods
            .extend([(0, host::CALLERS), (0, host::CALLERS + 1)]);
        let all = plan.pods.iter().enumerate();
        let all = all.flat_map(|(cluster, count)| (1..=*count).map(move |n| (cluster, n)));
        let all: Vec<(usize, u8)> = all.collect();
        federation
            .pods
            .extend(all.iter().map(|(c, n)| (*c, host::WORKLOADS + n)));
        for (name, region) in &plan.clusters {
            federation.add(name, region).await;
        }
        let mut lab = Self {
            pods: all
                .into_iter()
                .map(|(cluster, n)| pod(&plan, cluster, n))
                .collect(),
            federation,
            second_gateway: None,
            doors: [([0, 0, 0, 0], 0).into(); 2],
            plan,
            callers: Vec::new(),
        };
        lab.fill().await;
        lab
    }

    async fn fill(&mut self) {
        if let Some(cluster) = self.plan.two_gateways {
            self.second_gateway = Some(self.federation.second_gateway(cluster, "5s").await);
        }
        for place in 0..self.pods.len() {
            self.start_pod(place).await;
        }
        for service in [EVERYWHERE, ELSEWHERE] {
            for cluster in self.offering(service) {
                self.federation.export(cluster, service).await;
            }
        }
        self.is_seen().await;
        self.new_callers().await;
    }

    /// Starts the callers, or others in their place, who know nothing of what was before.
    pub async fn new_callers(&mut self) {
        join_all(self.callers.iter_mut().map(Process::kill)).await;
        self.callers.clear();
        for (n, service) in [(0, EVERYWHERE), (1, ELSEWHERE)] {
            let service = format!("{service}:{PORT}");
            let (caller, door) = self.federation.caller(0, n, &service).await;
            self.callers.push(caller);
            self.doors[usize::from(n)] = door;
        }
    }

    /// Waits until every cluster sees every endpoint, healthy.
    pub async fn is_seen(&self) {
        let elsewhere = self.pods.iter().filter(|p| p.cluster > 0).count();
        for (service, count) in [(EVERYWHERE, self.pods.len()), (ELSEWHERE, elsewhere)] {
            for cluster in 0..self.federation.clusters.len() {
                self.federation.sees(cluster, service, count).await;
            }
        }
    }

    /// The clusters that offer a service.
    fn offering(&self, service: &str) -> Vec<usize> {
        let first = usize::from(service == ELSEWHERE);
        (first..self.plan.pods.len())
            .filter(|c| self.plan.pods[*c] > 0)
            .collect()
    }

    /// Starts a pod's application and proxy, and waits until both are there.
    async fn start_pod(&mut self, place: usize) {
        let app = self.start_app(place).await;
        let (cluster, n) = (self.pods[place].cluster, self.pods[place].n);
        let address = self.app_address(place);
        let spec = |service: &str| format!("{service}:{PORT}={address},check=http:{}", app::CHECK);
        let elsewhere = spec(ELSEWHERE);
        let more: &[&str] = if cluster > 0 {
            &["--serve", &elsewhere]
        } else {
            &[]
        };
        let mut workload = self
            .federation
            .serve(cluster, n, &spec(EVERYWHERE), more)
            .await;
        workload.app = Some(app);
        self.pods[place].workload = Some(workload);
    }

    async fn start_app(&self, place: usize) -> Process {
        let Pod {
            cluster, n, name, ..
        } = &self.pods[place];
        let (listen, journal) = (self.app_address(place).to_string(), self.journal(place));
        let args = [
            "app",
            &listen,
            name,
            journal.to_str().expect("a plain path"),
        ];
        let (at, process) = (host::WORKLOADS + n, format!("app-{n}"));
        let app = self
            .federation
            .program_at(*cluster, at, &process, &self.plan.program, &args);
        until("the application to listen", USUAL, || {
            crate::http::get(self.app_address(place), app::CHECK)
        })
        .await;
        app
    }

    fn app_address(&self, place: usize) -> SocketAddr {
        let Pod { cluster, n, .. } = &self.pods[place];
        self.federation.addr(*cluster, host::WORKLOADS + n, APP)
    }

    /// SIGKILL to both processes of these pods, all at once.
    pub async fn kill_pods(&mut self, which: impl Fn(&Pod) -> bool) {
        let dying = self.pods.iter_mut().filter(|p| which(p));
        join_all(
            dying
                .filter_map(|p| p.workload.as_mut())
                .map(Workload::kill),
        )
        .await;
        for pod in self.pods.iter_mut().filter(|p| which(p)) {
            pod.workload = None;
        }
    }

    /// SIGKILL to the applications of these pods, all at once; their proxies live.
    pub async fn kill_apps(&mut self, which: impl Fn(&Pod) -> bool) {
        let dying = self
            .pods
            .iter_mut()
            .filter(|p| which(p))
            .filter_map(|p| p.workload.as_mut());
        join_all(dying.filter_map(|w| w.app.as_mut()).map(Process::kill)).await;
        for workload in self
            .pods
            .iter_mut()
            .filter(|p| which(p))
            .filter_map(|p| p.workload.as_mut())
        {
            workload.app = None;
        }
    }

    /// Starts what is not there of any pod.
    pub async fn start_missing(&mut self) {
        for place in 0..self.pods.len() {
            match &self.pods[place].workload {
                None => self.start_pod(place).await,
                Some(workload) if workload.app.is_none() => {
                    let app = self.start_app(place).await;
                    let workload = self.pods[place].workload.as_mut();
                    workload.expect("a proxy").app = Some(app);
                }
                Some(_) => {}
            }
        }
    }

    /// Has a pod's application change its manners: see [`app`].
    pub async fn tell(&self, pod: &Pod, path: &str, number: u64) -> Result<(), Error> {
        let address = self
            .federation
            .addr(pod.cluster, host::WORKLOADS + pod.n, APP);
        let request = Request::put(format!("{path}?{number}"))
            .header("host", "lab")
            .body(Empty::<Bytes>::new())
            .map_err(|e| e.to_string())?;
        Client::open(address)
            .await?
            .ask(request)
            .await?
            .ok()
            .map(drop)
    }

    /// Which requests that are no GETs a pod's application has taken, in order.
    pub fn taken(&self, place: usize) -> Vec<u64> {
        let text = std::fs::read_to_string(self.journal(place)).unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok()).collect()
    }

    fn journal(&self, place: usize) -> PathBuf {
        let Pod { cluster, n, .. } = &self.pods[place];
        self.dir().join(format!("journal-{cluster}-{n}"))
    }

    /// Where everything that it writes is.
    pub fn dir(&self) -> &Path {
        self.federation.dir()
    }

    /// The network between its clusters.
    pub fn wan(&self) -> &Wan {
        self.federation.router().wan()
    }

    /// The cluster that has a second gateway.
    pub const fn two_gateways(&self) -> Option<usize> {
        self.plan.two_gateways
    }
}

fn pod(plan: &Plan, cluster: usize, n: u8) -> Pod {
    let (name, _) = plan.clusters[cluster];
    Pod {
        cluster,
        n,
        name: format!("{name}/{n}"),
        workload: None,
    }
}
