//! One API server with all objects, a controller that follows it, and streams as proxies have them. Owns the processes and the tasks, which end
//! with it.

use std::{net::IpAddr, path::Path, time::Duration};

use futures::future::try_join_all;
use tempfile::TempDir;
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tradewind_runtime::TaskSet;
use tradewind_tests::{
    addresses::Block,
    kubernetes::{Clusters, Wanted},
    process::{self, Process},
};

use super::{
    KubernetesArguments,
    api::{Api, Place},
    objects,
    told::{self, Pod, Told},
};
use crate::usage::{self, Usage};

/// The cluster.
const NAME: &str = "bench";
/// Addresses for 65,000 services.
const SERVICE_CIDR: &str = "10.112.0.0/16";
/// Longest until the API server has everything.
const FILL: Duration = Duration::from_secs(1_200);
/// Longest until the controller's proxies have it.
const KNOWN: Duration = Duration::from_secs(300);
/// Longest until the API server has a change, and until proxies have it then.
const CHANGE: Duration = Duration::from_secs(60);
/// The same of an API server that has just come back. Its own controllers list everything and look at every service before they come to what
/// changed meanwhile, which is no figure of ours.
const BACK: Duration = Duration::from_secs(600);
/// Until a controller that has told everything has done what it does behind that.
const SETTLE: Duration = Duration::from_secs(10);
/// Between two changes, so that each begins with everybody at rest.
const REST: Duration = Duration::from_millis(250);

/// The API server with its objects, and whoever watches them.
pub(super) struct Filled {
    clusters: Clusters,
    place: Place,
    api: Api,
    slices: watch::Receiver<Told>,
    tasks: TaskSet,
    /// How long it took, which is the API server's figure.
    pub(super) fill: Duration,
    /// Of one pod, as a list has it.
    pub(super) pod_bytes: usize,
}

/// Puts everything into a new API server.
pub(super) async fn fill(arguments: &KubernetesArguments) -> Result<Filled, String> {
    let wanted = Wanted {
        name: NAME.to_owned(),
        service_cidr: Some(SERVICE_CIDR.to_owned()),
        ..Wanted::default()
    };
    let clusters = Clusters::start("the benchmark", [wanted]).await;
    let clusters = clusters.ok_or("it needs testenv")?;
    let crds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/chart/tradewind/crds");
    let crds = crds.display().to_string();
    clusters.kubectl(NAME, &["apply", "-f", &crds]).await.good();
    let place = Place::of(&clusters, NAME).await?;
    let api = place.connect().await?;
    let started = Instant::now();
    for name in objects::namespaces() {
        let namespace = objects::namespace(&name);
        api.create("/api/v1/namespaces", &namespace).await?;
        let account = format!("/api/v1/namespaces/{name}/serviceaccounts/default");
        timeout(CHANGE, async {
            while api.get(&account).await.is_err() {
                sleep(REST).await;
            }
        })
        .await
        .map_err(|_| format!("the namespace {name} never got its service account"))?;
    }
    let (send, mut slices) = watch::channel(Told::default());
    let mut tasks = TaskSet::new();
    tasks.spawn("watch slices", told::slices(place.clone(), send));
    let inside = |service: usize, kind: &str| {
        let namespace = objects::namespace_of(service);
        format!("/api/v1/namespaces/{namespace}/{kind}")
    };
    let pods = (0..arguments.endpoints).map(|n| {
        let path = inside(objects::service_of(n, arguments.services), "pods");
        (path, objects::pod(n, arguments.services, NAME))
    });
    let made = api.create_all(pods);
    timeout(FILL, made).await.map_err(|_| {
        format!(
            "the API server took no {} pods in {FILL:?}",
            arguments.endpoints
        )
    })??;
    eprintln!(
        "{} pods after {:.0?}",
        arguments.endpoints,
        started.elapsed()
    );
    let services = (0..arguments.services).map(|n| (inside(n, "services"), objects::service(n)));
    let made = api.create_all(services);
    timeout(FILL, made)
        .await
        .map_err(|_| "the API server took the services too slowly")??;
    eprintln!(
        "{} services after {:.0?}",
        arguments.services,
        started.elapsed()
    );
    let all = slices.wait_for(|told| told.serving() == arguments.endpoints);
    timeout(FILL, all)
        .await
        .map_err(|_| "not all pods came to stand in slices as ready")?
        .map_err(|e| e.to_string())?;
    let fill = started.elapsed();
    eprintln!("all of them in slices after {fill:.0?}");
    let some = api.get("/api/v1/pods?limit=100").await?;
    Ok(Filled {
        clusters,
        place,
        api,
        slices,
        tasks,
        fill,
        pod_bytes: some.len() / arguments.endpoints.clamp(1, 100),
    })
}

/// A controller at work, and those who follow it.
pub(super) struct Following {
    filled: Filled,
    controller: Process,
    proxies: Vec<watch::Receiver<Told>>,
    endpoints: usize,
    _block: Block,
    _dir: TempDir,
}

/// What a controller used in a while.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub(super) struct Used {
    pub(super) wall_s: f64,
    pub(super) cpu_s: f64,
    pub(super) peak_rss: u64,
    /// At its end.
    pub(super) rss: u64,
    pub(super) disk_written: u64,
}

/// Starts a controller; what it took until every proxy had everything.
pub(super) async fn follow(
    mut filled: Filled,
    arguments: &KubernetesArguments,
) -> Result<(Following, Used), String> {
    std::fs::create_dir_all(&arguments.dir)
        .map_err(|e| format!("{}: {e}", arguments.dir.display()))?;
    let dir = tempfile::tempdir_in(&arguments.dir)
        .map_err(|e| format!("{}: {e}", arguments.dir.display()))?;
    let data = dir.path().join("data");
    let data_text = data.display().to_string();
    let block = Block::take();
    let gateway = block.addr(0, 2, 15443).to_string();
    let words = [
        "--region",
        "here",
        "--data-dir",
        &data_text,
        "--gateway",
        &gateway,
    ];
    process::run(&[&["init", "--cluster", NAME], words.as_slice()].concat())
        .await
        .good();
    let mut proxies = Vec::new();
    for n in 0..arguments.proxies.max(1) {
        let (send, told) = watch::channel(Told::default());
        let socket = data.join("controller.sock");
        let one = told::proxy(socket, format!("proxy-{n}"), send);
        filled.tasks.spawn("follow the controller", one);
        proxies.push(told);
    }
    let kubeconfig = filled.clusters.kubeconfig().display().to_string();
    let listen = block.addr(0, 1, 15012).to_string();
    let admin = block.addr(0, 1, 15020).to_string();
    let words = [
        "controller",
        "--data-dir",
        &data_text,
        "--listen",
        &listen,
        "--admin-listen",
        &admin,
        "--kubernetes",
        "--kubeconfig",
        &kubeconfig,
        "--context",
        NAME,
    ];
    let started = Instant::now();
    let controller = Process::start("controller", dir.path(), &words);
    let mut following = Following {
        filled,
        controller,
        proxies,
        endpoints: arguments.endpoints,
        _block: block,
        _dir: dir,
    };
    let before = Usage::default();
    let (services, endpoints) = (arguments.services, arguments.endpoints);
    let known = following.all(|told| told.services() >= services && told.serving() == endpoints);
    timeout(KNOWN, known).await.map_err(|_| {
        let of = |told: &watch::Receiver<Told>| {
            let told = told.borrow();
            format!(
                "{} endpoints of {} services",
                told.serving(),
                told.services()
            )
        };
        let seen: Vec<_> = following.proxies.iter().map(of).collect();
        format!(
            "proxies knew {seen:?} after {KNOWN:?}: {}",
            following.controller.tail()
        )
    })??;
    let used = following.used(before, started)?;
    sleep(SETTLE).await;
    Ok((following, used))
}

/// Changes, measured.
#[derive(Default)]
pub(super) struct Changes {
    /// From the own watch to each proxy.
    pub(super) each: Vec<Duration>,
    /// To the last of them.
    pub(super) last: Vec<Duration>,
    /// Pushed to a proxy, of all changes.
    pub(super) responses: u64,
    pub(super) bytes: u64,
}

/// After the API server was away.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub(super) struct Returned {
    pub(super) away_s: f64,
    /// From the API server's being ready to a change's being with all proxies.
    pub(super) in_sync_s: f64,
    /// Of it, from the change's being in the own watch.
    pub(super) behind_watch_s: f64,
    /// Endpoints that a proxy lost meanwhile, or had told to be unhealthy.
    pub(super) taken_away: u64,
    /// Responses that each proxy got, the change's included.
    pub(super) responses: u64,
    pub(super) used: Used,
}

impl Following {
    fn pid(&self) -> Result<u32, String> {
        let ended = || format!("the controller ended: {}", self.controller.tail());
        self.controller.id().ok_or_else(ended)
    }

    pub(super) fn now(&self) -> Result<Usage, String> {
        Usage::of(self.pid()?)
    }

    pub(super) fn used(&self, before: Usage, since: Instant) -> Result<Used, String> {
        let now = self.now()?;
        Ok(Used {
            wall_s: since.elapsed().as_secs_f64(),
            cpu_s: now.cpu_s - before.cpu_s,
            peak_rss: now.peak_rss,
            rss: usage::rss(self.pid()?)?,
            disk_written: now.disk_written - before.disk_written,
        })
    }

    async fn all(&mut self, is: impl Fn(&Told) -> bool + Copy) -> Result<(), String> {
        let waiting = self.proxies.iter_mut().map(async |told| {
            let seen = told.wait_for(is).await;
            seen.map(drop).map_err(|e| e.to_string())
        });
        try_join_all(waiting).await.map(drop)
    }

    /// What it uses while nothing happens.
    pub(super) async fn idle(&self, long: Duration) -> Result<Used, String> {
        let (before, since) = (self.now()?, Instant::now());
        sleep(long).await;
        self.used(before, since)
    }

    /// Pods become unready and ready again, one after another.
    pub(super) async fn changes(&mut self, count: usize) -> Result<(Changes, Used), String> {
        let pods: Vec<(IpAddr, Pod)> = {
            let told = self.filled.slices.borrow();
            let step = (told.pods.len() / count.max(1)).max(1);
            let some = told.pods.iter().step_by(step);
            some.map(|(ip, pod)| (*ip, pod.clone())).collect()
        };
        let first = self.proxies.first().ok_or("no proxy")?.clone();
        let counted = |told: &Told| (told.responses, told.bytes);
        let (responses, bytes) = counted(&first.borrow());
        let (before, since) = (self.now()?, Instant::now());
        let mut changes = Changes::default();
        for (n, (ip, pod)) in (0..count).zip(pods.iter().flat_map(|p| [p, p])) {
            let serves = n % 2 == 1;
            let (at, times) = self.change((*ip, pod), serves, CHANGE).await?;
            let after = times.iter().map(|t| t.saturating_duration_since(at));
            changes.last.extend(after.clone().max());
            changes.each.extend(after);
            sleep(REST).await;
        }
        let used = self.used(before, since)?;
        let (now_responses, now_bytes) = counted(&first.borrow());
        changes.responses = now_responses - responses;
        changes.bytes = now_bytes - bytes;
        Ok((changes, used))
    }

    /// When the own watch, and each proxy, had it. `patience` is with the API server; proxies are waited for from then on.
    async fn change(
        &mut self,
        (ip, (namespace, pod)): (IpAddr, &Pod),
        serves: bool,
        patience: Duration,
    ) -> Result<(Instant, Vec<Instant>), String> {
        let path = format!("/api/v1/namespaces/{namespace}/pods/{pod}");
        let what = format!(
            "that {pod} at {ip} is {}ready",
            if serves { "" } else { "not " }
        );
        let written = async {
            let readiness = objects::readiness(serves);
            self.filled.api.patch(&path, &readiness).await?;
            told::until(&mut self.filled.slices, ip, serves).await
        };
        let written = timeout(patience, written).await;
        let at = written.map_err(|_| {
            format!("the API server's own controllers did not write into a slice {what}, for {patience:?}")
        })??;
        let proxies = self.proxies.iter_mut();
        let told = try_join_all(proxies.map(|p| told::until(p, ip, serves)));
        let told = timeout(CHANGE, told).await;
        let times = told.map_err(|_| {
            let lacking = self
                .proxies
                .iter()
                .filter(|p| !told::is(&p.borrow(), ip, serves));
            format!(
                "{} of {} proxies were not told {what}, {CHANGE:?} after it stood in a slice: {}",
                lacking.count(),
                self.proxies.len(),
                self.controller.tail()
            )
        })??;
        Ok((at, times))
    }

    /// The API server goes and comes back.
    pub(super) async fn returns(&mut self, away: Duration) -> Result<Returned, String> {
        let (ip, pod) = {
            let told = self.filled.slices.borrow();
            let first = told.pods.iter().next().ok_or("no pod")?;
            (*first.0, first.1.clone())
        };
        let first = self.proxies.first().ok_or("no proxy")?.clone();
        let responses = first.borrow().responses;
        let pid = self.pid()?;
        usage::forget_peak(pid)?;
        let before = self.now()?;
        self.filled.clusters.stop_api(NAME).await;
        let stopped = Instant::now();
        sleep(away).await;
        self.filled.clusters.start_api(NAME).await;
        let ready = Instant::now();
        let away_s = (ready - stopped).as_secs_f64();
        self.filled.api = self.filled.place.connect().await?;
        let unharmed = |told: &Told| told.serving();
        let least = self.proxies.iter().map(|p| unharmed(&p.borrow())).min();
        let lost = self.endpoints.saturating_sub(least.unwrap_or(0));
        let (at, times) = self.change((ip, &pod), false, BACK).await?;
        let last = times.iter().max().copied().ok_or("no proxy")?;
        sleep(SETTLE).await;
        let gone = self.proxies.iter().map(|p| p.borrow().taken_away).max();
        let used = self.used(before, stopped)?;
        Ok(Returned {
            away_s,
            in_sync_s: (last - ready).as_secs_f64(),
            behind_watch_s: last.saturating_duration_since(at).as_secs_f64(),
            taken_away: gone.unwrap_or(0) + lost as u64,
            responses: first.borrow().responses - responses,
            used,
        })
    }

    /// Ends everything that was started.
    pub(super) async fn end(mut self) {
        self.filled.tasks.abort_all().await;
        self.controller.stop(CHANGE).await;
    }
}
