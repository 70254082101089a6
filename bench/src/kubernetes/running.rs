//! One API server with all objects, a controller that follows it, and streams as proxies have them. Owns the processes and the tasks, which end
//! with it.

use std::{
    net::IpAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::future::try_join_all;
use tempfile::TempDir;
use tokio::{
    sync::watch,
    time::{Instant, sleep},
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
    progress::within,
    told::{self, Counts, Pod, Told},
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
/// Changes between two words on how many there were.
const SAID: usize = 25;
/// Between two changes, so that each begins with everybody at rest.
const REST: Duration = Duration::from_millis(250);

/// The API server with its objects, and whoever watches them.
pub(super) struct Filled {
    clusters: Clusters,
    place: Place,
    api: Arc<Api>,
    slices: watch::Receiver<Told>,
    tasks: TaskSet,
    /// How long it took, which is the API server's figure.
    pub(super) fill: Duration,
    /// Requests for it that were made again.
    pub(super) again: u64,
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
    let api = Arc::new(place.connect().await?);
    let started = Instant::now();
    for name in objects::namespaces() {
        let namespace = objects::namespace(&name);
        api.create("/api/v1/namespaces", &namespace).await?;
        let account = format!("/api/v1/namespaces/{name}/serviceaccounts/default");
        let missing = || format!("the namespace {name} has no service account");
        within(CHANGE, missing, async {
            while !api.has(&account).await {
                sleep(REST).await;
            }
            Ok(())
        })
        .await?;
    }
    let (send, mut slices) = watch::channel(Told::default());
    let mut tasks = TaskSet::new();
    tasks.spawn("watch slices", told::slices(place.clone(), send));
    let inside = |service: usize, kind: &str| {
        let namespace = objects::namespace_of(service);
        format!("/api/v1/namespaces/{namespace}/{kind}")
    };
    let (services, endpoints) = (arguments.services, arguments.endpoints);
    let pods = (0..endpoints).map(|n| {
        let path = inside(objects::service_of(n, services), "pods");
        (path, objects::pod(n, services, NAME))
    });
    make_all(&api, "pods", endpoints, pods).await?;
    let all = (0..services).map(|n| (inside(n, "services"), objects::service(n)));
    make_all(&api, "services", services, all).await?;
    let ready = slices.clone();
    let so_far = || {
        let known = ready.borrow();
        format!(
            "{} of {endpoints} pods stand in slices, {} as ready",
            known.addresses.len(),
            known.serving()
        )
    };
    within(FILL, so_far, async {
        let all = slices.wait_for(|told| told.serving() == endpoints).await;
        all.map(drop).map_err(|e| e.to_string())
    })
    .await?;
    let fill = started.elapsed();
    eprintln!("all of them in slices after {fill:.0?}");
    let some = api.get("/api/v1/pods?limit=100").await?;
    Ok(Filled {
        clusters,
        place,
        again: api.again(),
        api,
        slices,
        tasks,
        fill,
        pod_bytes: some.len() / endpoints.clamp(1, 100),
    })
}

async fn make_all(
    api: &Api,
    what: &str,
    count: usize,
    objects: impl Iterator<Item = (String, serde_json::Value)>,
) -> Result<(), String> {
    let (started, made) = (Instant::now(), AtomicUsize::new(0));
    let so_far = || {
        let made = made.load(Ordering::Relaxed);
        let again = api.again();
        format!("{made} of {count} {what} made, {again} requests made again")
    };
    within(FILL, so_far, api.create_all(objects, &made)).await?;
    eprintln!("{count} {what} after {:.0?}", started.elapsed());
    Ok(())
}

/// A controller at work, and those who follow it.
pub(super) struct Following {
    filled: Filled,
    controller: Process,
    proxies: Vec<watch::Receiver<Told>>,
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
        _block: block,
        _dir: dir,
    };
    let before = Usage::default();
    let (services, endpoints) = (arguments.services, arguments.endpoints);
    let seen = following.proxies.clone();
    let so_far = || {
        let of = |told: &watch::Receiver<Told>| {
            let told = told.borrow();
            format!("{}/{}", told.serving(), told.services())
        };
        let seen: Vec<_> = seen.iter().map(of).collect();
        format!(
            "proxies know {} of {endpoints} endpoints/{services} services",
            seen.join(", ")
        )
    };
    let known = following.all(|told| told.services() >= services && told.serving() == endpoints);
    let known = within(KNOWN, so_far, known).await;
    known.map_err(|e| format!("{e}; {}", following.controller.tail()))?;
    let used = following.used(before, started)?;
    sleep(SETTLE).await;
    Ok((following, used))
}

/// Changes, measured.
#[derive(Default)]
pub(super) struct Changes {
    /// From the write of a pod to the own watch: the API server's own part.
    pub(super) before: Vec<Duration>,
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
    /// Endpoints that a proxy lost meanwhile. This and the next ones are of the proxy that was told most.
    pub(super) taken_away: u64,
    /// Endpoints that became ready or unready there, but for the pod that was changed.
    pub(super) turned: u64,
    /// Services that were told anew, the pod's included.
    pub(super) services: u64,
    /// Responses, the change's included.
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
        let counts = first.borrow().counts;
        let (before, since) = (self.now()?, Instant::now());
        let mut changes = Changes::default();
        for (n, (ip, pod)) in (0..count).zip(pods.iter().flat_map(|p| [p, p])) {
            let serves = n % 2 == 1;
            let written = Instant::now();
            let (at, times) = self.change((*ip, pod), serves, CHANGE).await?;
            changes.before.push(at.saturating_duration_since(written));
            let after = times.iter().map(|t| t.saturating_duration_since(at));
            changes.last.extend(after.clone().max());
            changes.each.extend(after);
            if (n + 1) % SAID == 0 {
                eprintln!("  {} of {count} changes", n + 1);
            }
            sleep(REST).await;
        }
        let used = self.used(before, since)?;
        let told = first.borrow().counts.since(&counts);
        (changes.responses, changes.bytes) = (told.responses, told.bytes);
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
        let so_far =
            || format!("the API server's own controllers did not write into a slice {what}");
        let at = within(patience, so_far, written).await?;
        let seen = self.proxies.clone();
        let so_far = || {
            let told = seen.iter().filter(|p| told::is(&p.borrow(), ip, serves));
            let (told, all) = (told.count(), seen.len());
            format!("{told} of {all} proxies were told {what}, since it stands in a slice")
        };
        let proxies = self.proxies.iter_mut();
        let told = try_join_all(proxies.map(|p| told::until(p, ip, serves)));
        let times = within(CHANGE, so_far, told).await;
        let times = times.map_err(|e| format!("{e}; {}", self.controller.tail()))?;
        Ok((at, times))
    }

    /// The API server goes and comes back.
    pub(super) async fn returns(&mut self, away: Duration) -> Result<Returned, String> {
        let (ip, pod) = {
            let told = self.filled.slices.borrow();
            let first = told.pods.iter().next().ok_or("no pod")?;
            (*first.0, first.1.clone())
        };
        let before_told: Vec<_> = self.proxies.iter().map(|p| p.borrow().counts).collect();
        let pid = self.pid()?;
        usage::forget_peak(pid)?;
        let before = self.now()?;
        self.filled.clusters.stop_api(NAME).await;
        let stopped = Instant::now();
        eprintln!("the API server is away for {away:?}");
        sleep(away).await;
        self.filled.clusters.start_api(NAME).await;
        let ready = Instant::now();
        let away_s = (ready - stopped).as_secs_f64();
        eprintln!("it is back {away_s:.1} s after it went");
        self.filled.api = Arc::new(self.filled.place.connect().await?);
        let (at, times) = self.change((ip, &pod), false, BACK).await?;
        let last = times.iter().max().copied().ok_or("no proxy")?;
        sleep(SETTLE).await;
        let used = self.used(before, stopped)?;
        let told = self.proxies.iter().zip(&before_told);
        let told: Vec<Counts> = told.map(|(p, b)| p.borrow().counts.since(b)).collect();
        let most = |of: fn(&Counts) -> u64| told.iter().map(of).max().unwrap_or_default();
        Ok(Returned {
            away_s,
            in_sync_s: (last - ready).as_secs_f64(),
            behind_watch_s: last.saturating_duration_since(at).as_secs_f64(),
            taken_away: most(|c| c.taken_away),
            // One pod was changed.
            turned: most(|c| c.turned).saturating_sub(1),
            services: most(|c| c.services),
            responses: most(|c| c.responses),
            used,
        })
    }

    /// Ends everything that was started.
    pub(super) async fn end(mut self) {
        self.filled.tasks.abort_all().await;
        self.controller.stop(CHANGE).await;
    }
}
