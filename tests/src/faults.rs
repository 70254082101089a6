//! A federation of real processes under faults, with clients that write all the time and know what must be true of each of
//! their writes. Owns the federation, its clients and what was measured.
//!
//! Faults come one after another from a seed. After each, every controller must take writes again and catch up; now and then
//! the clients pause and all lists are compared with all histories.

mod ask;
mod lane;
mod listing;
mod plan;
mod report;
mod watcher;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    path::PathBuf,
    sync::{Arc, PoisonError},
    time::Duration,
};

use futures::future::join_all;
use tokio::{sync::Mutex, time::Instant};
use tradewind_runtime::{TaskSet, clock};

use crate::{
    Federation,
    wait::{USUAL, until},
};
use lane::{Lane, Successes};
use listing::Listing;
use plan::{Deeds, Fault};
use report::{Measured, Report};
use watcher::Seen;

/// Names and regions.
const CLUSTERS: [(&str, &str); 5] = [
    ("west", "us-west"),
    ("central", "us-central"),
    ("east", "eu-west"),
    ("north", "eu-north"),
    ("south", "ap-south"),
];
/// Lanes at each controller; the first also drains and exports.
const LANES: usize = 2;
/// Between two calls of a lane: constant, and yet nobody is busy with nothing else.
const PAUSE: Duration = Duration::from_millis(30);
/// After a fault's end every controller writes again within this, and everybody has caught up within it again.
const RECOVERS: Duration = Duration::from_secs(20);
/// Letters by which the ends of calls are told apart when they are counted.
const SHOWN: usize = 56;
/// Everything there is to offer.
const MANIFEST: &str = "\
apiVersion: v1
kind: Service
metadata: {name: ledger, namespace: shop}
spec:
  ports:
  - {name: http, port: 80, protocol: TCP}
";

/// What to run.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Clusters, up to five.
    pub clusters: usize,
    /// Faults.
    pub faults: usize,
    /// The dice.
    pub seed: u64,
    /// Faults are short, and lists are compared at the end alone.
    pub brief: bool,
    /// Compare lists with histories after so many faults.
    pub rest_every: usize,
    /// Say on stderr what happens.
    pub progress: bool,
}

type Lanes = Vec<Arc<Mutex<Lane>>>;

/// A run. See the module.
pub struct Campaign {
    plan: Plan,
    federation: Federation,
    seen: Arc<Seen>,
    lanes: Lanes,
    successes: Vec<Successes>,
    probes: Lanes,
    tasks: TaskSet,
    report: Report,
    log: String,
}

impl std::fmt::Debug for Campaign {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Campaign")
            .field("plan", &self.plan)
            .finish_non_exhaustive()
    }
}

/// Runs it all; panics with the evidence when anything is wrong.
pub async fn run(plan: Plan) -> String {
    let began = Instant::now();
    let mut campaign = Campaign::start(plan).await;
    let (mut rng, mut deck) = (fastrand::Rng::with_seed(plan.seed), Vec::new());
    for number in 0..plan.faults {
        let fault = Fault::draw(&mut rng, number, &mut deck, plan.clusters, plan.brief);
        campaign.one(number, &fault).await;
        if (number + 1) % plan.rest_every == 0 {
            campaign.rest().await;
        }
    }
    campaign.rest().await;
    campaign.finish(began.elapsed()).await
}

impl Campaign {
    async fn start(plan: Plan) -> Self {
        let mut federation = Federation::in_namespaces();
        let manifests = federation.dir().join("manifests");
        std::fs::create_dir(&manifests).expect("a new directory");
        std::fs::write(manifests.join("ledger.yaml"), MANIFEST).expect("a new file");
        let manifests = manifests.to_str().expect("a plain path").to_owned();
        federation.controller_flags = vec!["--manifests".to_owned(), manifests];
        for (name, region) in CLUSTERS.iter().take(plan.clusters) {
            federation.add(name, region).await;
        }
        let seen = Arc::new(Seen::default());
        let mut campaign = Self {
            plan,
            federation,
            seen,
            lanes: Vec::new(),
            successes: Vec::new(),
            probes: Vec::new(),
            tasks: TaskSet::new(),
            report: Report {
                seed: plan.seed,
                clusters: plan.clusters,
                ..Report::default()
            },
            log: String::new(),
        };
        campaign.all_vote().await;
        campaign.send_clients();
        campaign.say("the federation is up");
        campaign
    }

    fn socket(&self, number: usize) -> PathBuf {
        self.federation.clusters[number]
            .data_dir
            .join("controller.sock")
    }

    /// A fault before that would find another federation than the one meant.
    async fn all_vote(&self) {
        for number in 0..self.plan.clusters {
            let socket = self.socket(number);
            until("all clusters to vote", USUAL, || async {
                let status = listing::status(&socket)
                    .await
                    .map_err(|e| format!("{e:?}"))?;
                let voters = status.peers.iter().filter(|p| p.voter).count();
                let all = voters == self.plan.clusters;
                if all {
                    Ok(())
                } else {
                    Err(format!("{status:?}"))
                }
            })
            .await;
        }
    }

    fn send_clients(&mut self) {
        let mut watched = Vec::new();
        for number in 0..self.plan.clusters {
            let name = self.federation.clusters[number].name.clone();
            let dice = self.plan.seed;
            let seed = |n: usize| dice.wrapping_mul(1_000).wrapping_add(n as u64);
            let (seen, socket) = (Arc::clone(&self.seen), self.socket(number));
            let new = |lane: String, n: usize, toggles| {
                let seen = Arc::clone(&seen);
                Lane::new(lane, &name, socket.clone(), seed(n), toggles, seen)
            };
            for n in 0..LANES {
                let lane = new(format!("c{number}l{n}"), number * LANES + n, n == 0);
                self.successes.push(Arc::clone(&lane.successes));
                self.lanes.push(Arc::new(Mutex::new(lane)));
            }
            let probe = new(format!("c{number}p"), 100 + number, false);
            self.probes.push(Arc::new(Mutex::new(probe)));
            watched.push((name, socket));
        }
        watcher::watch(&self.seen, watched, &mut self.tasks);
        for lane in &self.lanes {
            let lane = Arc::clone(lane);
            self.tasks.spawn("faults client", async move {
                loop {
                    lane.lock().await.step().await;
                    tokio::time::sleep(PAUSE).await;
                }
            });
        }
    }

    /// The number of the cluster that leads, by the newest term that anybody knows.
    async fn leader(&self) -> usize {
        until("a leader", USUAL, || async {
            let sockets = (0..self.plan.clusters).map(|n| self.socket(n));
            let all = join_all(sockets.map(async |s| listing::status(&s).await)).await;
            let newest = all
                .into_iter()
                .flatten()
                .max_by_key(|s| s.term)
                .ok_or("nobody answers")?;
            let leader = newest
                .peers
                .iter()
                .find(|p| p.leader)
                .ok_or("nobody leads")?;
            let place = |c: &crate::Cluster| c.name == leader.cluster;
            self.federation
                .clusters
                .iter()
                .position(place)
                .ok_or("an unknown leader")
        })
        .await
    }

    async fn one(&mut self, number: usize, fault: &Fault) {
        let deeds = fault.deeds(self.leader().await);
        let lasts = fault.lasts;
        self.say(&format!(
            "fault {number}: {} for {lasts:?}: {deeds}",
            fault.kind
        ));
        let began = Instant::now();
        self.inject(&deeds).await;
        // The fault's own length, drawn by the dice.
        tokio::time::sleep_until(began + lasts).await;
        let silence = self.silence(&deeds, began);
        let healed = Instant::now();
        self.heal(&deeds).await;
        let writes_again = self.write_everywhere(healed).await;
        let converged = self.catch_up(healed).await;
        let said = format!(
            "no write elsewhere {silence:?}; after the end: writes {writes_again:?}, caught up {converged:?}"
        );
        self.say(&format!("fault {number}: {said}"));
        self.report.faults.push(Measured {
            kind: fault.kind,
            silence,
            writes_again,
            converged,
        });
        self.nobody_ended();
        self.judge().await;
    }

    async fn inject(&mut self, deeds: &Deeds) {
        for number in &deeds.kill_controllers {
            let cluster = &mut self.federation.clusters[*number];
            self.seen.restarted(&cluster.name);
            cluster
                .controller
                .as_mut()
                .expect("a controller")
                .kill()
                .await;
            cluster.controller = None;
        }
        for number in &deeds.kill_gateways {
            let cluster = &mut self.federation.clusters[*number];
            cluster.gateway.as_mut().expect("a gateway").kill().await;
            cluster.gateway = None;
        }
        self.pause(deeds, true);
        self.cut(&deeds.cuts).await;
    }

    async fn heal(&mut self, deeds: &Deeds) {
        self.cut(&BTreeSet::new()).await;
        self.pause(deeds, false);
        for number in &deeds.kill_controllers {
            self.federation.start_controller(*number);
            self.seen.restarted(&self.federation.clusters[*number].name);
        }
        for number in &deeds.kill_gateways {
            self.federation.start_gateway(*number);
        }
    }

    fn pause(&self, deeds: &Deeds, pause: bool) {
        for number in &deeds.pause_controllers {
            let controller = &self.federation.clusters[*number].controller;
            controller.as_ref().expect("a controller").pause(pause);
        }
        for number in &deeds.pause_gateways {
            let gateway = &self.federation.clusters[*number].gateway;
            gateway.as_ref().expect("a gateway").pause(pause);
        }
    }

    async fn cut(&self, directions: &BTreeSet<(usize, usize)>) {
        let namespaces = self.federation.namespaces.as_ref();
        namespaces.expect("namespaces").cut(directions).await;
    }

    /// The longest time since `began` in which no lane of an untouched cluster wrote.
    fn silence(&self, deeds: &Deeds, began: Instant) -> Option<Duration> {
        let touched = deeds.touched(self.plan.clusters);
        let now = Instant::now();
        let mut longest = None;
        for number in (0..self.plan.clusters).filter(|n| !touched.contains(n)) {
            let mut writes = vec![began, now];
            for lane in &self.successes[number * LANES..(number + 1) * LANES] {
                let lane = lane.lock().unwrap_or_else(PoisonError::into_inner);
                writes.extend(lane.iter().filter(|at| **at > began && **at < now));
            }
            writes.sort();
            let gaps = writes.windows(2).map(|w| w[1].duration_since(w[0]));
            longest = longest.max(gaps.max());
        }
        longest
    }

    /// Writes at every controller at once; how long it took since `healed` until all had done it.
    async fn write_everywhere(&mut self, healed: Instant) -> Duration {
        let writes = self.probes.iter().map(async |probe| {
            let mut probe = probe.lock().await;
            let mut last = None;
            while healed.elapsed() < RECOVERS {
                match probe.create().await {
                    Ok(()) => {
                        let took = healed.elapsed();
                        probe.revoke().await;
                        return Ok(took);
                    }
                    Err(failed) => last = Some(failed),
                }
                tokio::time::sleep(PAUSE).await;
            }
            Err(format!("{}: {last:?}", probe.cluster))
        });
        match join_all(writes)
            .await
            .into_iter()
            .collect::<Result<Vec<_>, _>>()
        {
            Ok(all) => all.into_iter().max().unwrap_or_default(),
            Err(why) => {
                self.fail(&format!(
                    "no write {RECOVERS:?} after the fault's end at {why}"
                ))
                .await
            }
        }
    }

    /// Waits until every controller has applied what any has applied now; how long it took since `healed`.
    async fn catch_up(&mut self, healed: Instant) -> Duration {
        let mut fence = 0;
        let end = Instant::now() + RECOVERS;
        loop {
            let sockets = (0..self.plan.clusters).map(|n| self.socket(n));
            let all = join_all(sockets.map(async |s| listing::clusters(&s).await)).await;
            let revisions: Vec<u64> = all.iter().flatten().map(|l| l.revision).collect();
            if fence == 0 {
                fence = revisions.iter().copied().max().unwrap_or_default();
            }
            if revisions.len() == self.plan.clusters && revisions.iter().all(|r| *r >= fence) {
                return healed.elapsed();
            }
            if Instant::now() > end {
                let why = format!("not all have caught up to {fence} in {RECOVERS:?}: {all:?}");
                self.fail(&why).await;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn nobody_ended(&mut self) {
        let mut ended = Vec::new();
        for cluster in &mut self.federation.clusters {
            for (role, process) in [
                ("controller", &mut cluster.controller),
                ("gateway", &mut cluster.gateway),
            ] {
                if let Some(code) = process.as_mut().and_then(crate::Process::ended) {
                    ended.push(format!(
                        "{}'s {role} ended by itself with code {code}",
                        cluster.name
                    ));
                }
            }
        }
        assert!(
            ended.is_empty(),
            "{ended:?} (in {})",
            self.federation.keep_dir().display()
        );
    }

    /// All lanes at rest: every controller's list is the same and agrees with every history.
    async fn rest(&mut self) {
        let began = Instant::now();
        let all: Lanes = self
            .lanes
            .iter()
            .chain(&self.probes)
            .map(Arc::clone)
            .collect();
        let mut lanes = join_all(all.iter().map(|l| l.lock())).await;
        let fence = self.revisions().await;
        let end = Instant::now() + RECOVERS;
        let listing = loop {
            match self.same_list(fence).await {
                Ok(list) if lanes.iter().all(|l| l.is_published(&list)) => break Ok(list),
                other if Instant::now() > end => {
                    break Err(match other {
                        Ok(list) => format!(
                            "exports were not published in {RECOVERS:?}: {:?}",
                            list.exported
                        ),
                        Err(why) => format!("lists differ at rest after {RECOVERS:?}: {why}"),
                    });
                }
                _ => tokio::time::sleep(PAUSE).await,
            }
        };
        let listing = match listing {
            Ok(listing) => listing,
            Err(why) => {
                drop(lanes);
                self.fail(&why).await
            }
        };
        for lane in &mut lanes {
            lane.settle(&listing);
        }
        drop(lanes);
        self.report.rests += 1;
        self.say(&format!(
            "at rest: {} tokens, all alike after {:?}",
            listing.tokens.len(),
            began.elapsed()
        ));
        self.judge().await;
    }

    async fn revisions(&self) -> u64 {
        let sockets = (0..self.plan.clusters).map(|n| self.socket(n));
        let all = join_all(sockets.map(async |s| listing::clusters(&s).await)).await;
        all.into_iter()
            .flatten()
            .map(|l| l.revision)
            .max()
            .unwrap_or_default()
    }

    async fn same_list(&self, fence: u64) -> Result<Listing, String> {
        let mut first: Option<Listing> = None;
        for number in 0..self.plan.clusters {
            let name = &self.federation.clusters[number].name;
            let whole = listing::whole(&self.socket(number)).await;
            let (revision, listing) = whole.map_err(|e| format!("{name}: {e:?}"))?;
            if revision < fence {
                return Err(format!(
                    "{name} is at revision {revision}, others at {fence}"
                ));
            }
            match &first {
                Some(other) if *other != listing => {
                    return Err(format!("{name}: {}", other.differences(&listing)));
                }
                _ => first = Some(listing),
            }
        }
        first.ok_or_else(|| "no controllers".to_owned())
    }

    /// Fails if anything that was seen so far cannot be.
    async fn judge(&mut self) {
        let mut wrong = self.seen.violations();
        for lane in self.lanes.iter().chain(&self.probes) {
            let lane = lane.lock().await;
            for violation in &lane.violations {
                wrong.push(violation.clone());
                wrong.extend(lane.calls_about(violation));
            }
        }
        if !wrong.is_empty() {
            self.fail(&format!(
                "the history is impossible:\n  {}",
                wrong.join("\n  ")
            ))
            .await;
        }
    }

    fn say(&mut self, what: &str) {
        let now_ms = clock::system().unix_ms();
        if self.plan.progress {
            eprintln!("{now_ms} {what}");
        }
        let _infallible = writeln!(self.log, "{now_ms} {what}");
    }

    /// Keeps all evidence and panics.
    async fn fail(&mut self, why: &str) -> ! {
        let seed = self.plan.seed;
        let dir = self.federation.keep_dir().to_owned();
        let mut history = self.log.clone();
        for lane in self.lanes.iter().chain(&self.probes) {
            let lane = lane.lock().await;
            for op in &lane.history {
                let _infallible = writeln!(history, "{} {op}", lane.name);
            }
        }
        std::fs::write(dir.join("history.log"), history).expect("a file of evidence");
        panic!(
            "seed {seed}: {why}\n{}\nlogs and history: {}",
            self.log,
            dir.display()
        );
    }

    async fn finish(mut self, took: Duration) -> String {
        let mut ends: BTreeMap<(String, String), usize> = BTreeMap::new();
        for lane in self.lanes.iter().chain(&self.probes) {
            for op in &lane.lock().await.history {
                let report = &mut self.report;
                match op.end.as_str() {
                    "ok" => report.ok += 1,
                    end if end.starts_with("refused (not sent") => report.not_sent += 1,
                    end if end.starts_with("refused") => report.refused += 1,
                    _ => report.unknown += 1,
                }
                let verb = op.what.split(' ').next().unwrap_or_default();
                let end: String = op.end.chars().take(SHOWN).collect();
                *ends.entry((verb.to_owned(), end)).or_default() += 1;
            }
        }
        for ((verb, end), count) in &ends {
            self.say(&format!("{count} x {verb}: {end}"));
        }
        let (terms, looks, stale) = self.seen.counts();
        for start in &stale {
            self.say(&format!("stale start: {start}"));
        }
        self.report.terms = terms;
        self.report.looks = looks;
        self.report.stale_starts = stale.len();
        self.report.took = took;
        self.tasks.abort_all().await;
        self.report.to_string()
    }
}
