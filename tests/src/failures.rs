//! The failure matrix: one fault after the other under constant load in a lab, and for each what the caller noticed. Owns the lab
//! and the load.
//!
//! Three regions, one of them the caller's. Faults of pods happen to all endpoints, or one, of a service that is local; faults of
//! clusters and gateways to the nearer of the two clusters that a service is offered by elsewhere.

mod fault;
pub mod measure;
mod report;

use std::{collections::BTreeMap, net::IpAddr, path::Path, time::Duration};

use futures::future::join_all;
use tokio::time::{Instant, sleep};

use crate::{
    federation::{GATEWAY, THREE, host},
    lab::{Lab, Plan, app},
    load::open::{Open, Rates, Record},
    namespaces::Harm,
    wait::{USUAL, until},
};
pub use fault::{ALL, Fault};
use measure::{Measured, Times};
pub use report::{Report, Row};

/// The caller's cluster, and the one that is the first choice elsewhere.
const WEST: usize = 0;
const CENTRAL: usize = 1;
/// Local pods; pods of each other cluster.
const PODS: [u8; 3] = [3, 2, 1];
/// A slow application's time for an answer.
const SLOW_MS: u64 = 1_000;
/// What flaps is bad for so long, and then well for so long.
const FLAP: Duration = Duration::from_secs(1);
/// How often a load is looked at while something is awaited.
const LOOK: Duration = Duration::from_millis(250);
/// A fault is measured so often at most, where this machine stood still each time.
const TRIES: u32 = 3;
/// A load goes on for so long after all is whole: what happens late is seen, too.
const AFTER: Duration = Duration::from_secs(1);

/// What to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// The faults.
    pub faults: Vec<Fault>,
    /// Requests.
    pub rates: Rates,
    /// How long all is well before a fault.
    pub warm: Duration,
    /// How long it lasts.
    pub hold: Duration,
    /// How long the tier may take to be whole again.
    pub watch: Duration,
    /// Between regions.
    pub round_trip: Duration,
    /// The network's dice.
    pub seed: u64,
    /// Say on stderr what happens.
    pub progress: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            faults: ALL.to_vec(),
            rates: Rates {
                gets: 200,
                posts: 50,
            },
            warm: Duration::from_secs(5),
            hold: Duration::from_secs(8),
            watch: Duration::from_secs(60),
            round_trip: Duration::from_millis(60),
            seed: 1,
            progress: true,
        }
    }
}

/// Runs it all, with `program` as the applications (see [`Plan`]).
pub async fn run(program: &Path, options: &Options) -> Report {
    let plan = Plan {
        clusters: THREE.to_vec(),
        pods: PODS.to_vec(),
        two_gateways: Some(CENTRAL),
        delay: options.round_trip / 2,
        seed: options.seed,
        program: program.to_owned(),
    };
    let lab = Lab::start(plan).await;
    let gateways = [host::GATEWAY, host::SECOND_GATEWAY];
    lab.federation.announced(CENTRAL, WEST, &gateways).await;
    let mut matrix = Matrix {
        lab,
        options: options.clone(),
        next_id: 0,
    };
    matrix.say("the lab is up");
    let mut rows = Vec::new();
    for fault in &options.faults {
        rows.push(matrix.row(*fault).await);
    }
    Report {
        seed: options.seed,
        round_trip: options.round_trip,
        rates: (options.rates.gets, options.rates.posts),
        hold: options.hold,
        rows,
    }
}

struct Matrix {
    lab: Lab,
    options: Options,
    next_id: u64,
}

impl Matrix {
    fn say(&self, what: &str) {
        if self.options.progress {
            eprintln!("{what}");
        }
    }

    /// Measures one fault, and again where the machine stood still meanwhile. What failed is not measured away.
    async fn row(&mut self, fault: Fault) -> Row {
        let mut tries = 1;
        loop {
            let measured = self.one(fault).await;
            let row = Row { fault, measured };
            self.say(&format!("{fault}: {:?}", row.measured));
            if tries == TRIES || !row.is_disturbed() {
                return row;
            }
            tries += 1;
            self.say("once more: this machine stood still");
        }
    }

    async fn one(&mut self, fault: Fault) -> Measured {
        // What one fault taught them, such as who fails often, is no part of the next.
        self.lab.new_callers().await;
        let door = self.lab.doors[usize::from(!fault.is_local())];
        let load = Open::start(door, self.options.rates, self.next_id);
        let members = self.members(fault);
        let well = self.settle(&load, members).await;
        sleep(self.options.warm).await;

        let injected = load.now();
        self.inject(fault).await;
        self.hold(fault).await;
        let healed = load.now();
        self.heal(fault).await;

        let before = measure::shares(&load.records(), well, injected);
        let limit = Instant::now() + self.options.watch;
        let is_whole = |records: &[Record]| measure::whole(records, &before, healed).is_some();
        while Instant::now() < limit && !is_whole(&load.records()) {
            sleep(LOOK).await;
        }
        sleep(AFTER).await;
        let records = load.finish().await;
        self.next_id += records.len() as u64;
        let taken = (0..self.lab.pods.len()).flat_map(|place| self.lab.taken(place));
        let taken: Vec<u64> = taken.collect();
        self.restored().await;
        let times = Times {
            well,
            injected,
            healed,
        };
        measure::measure(&records, &taken, times)
    }

    /// How many endpoints are the first choice.
    fn members(&self, fault: Fault) -> usize {
        let cluster = if fault.is_local() { WEST } else { CENTRAL };
        usize::from(PODS[cluster])
    }

    /// Waits until the last second's calls went to as many as are the first choice, and to each of them; says since when.
    async fn settle(&self, load: &Open, members: usize) -> Duration {
        until(
            "every endpoint of the first choice to serve",
            USUAL * 3,
            || async {
                let now = load.now();
                let from = now.saturating_sub(Duration::from_secs(1));
                let shares = measure::shares(&load.records(), from, now);
                let even = 1.0 / members as f64;
                let all =
                    shares.len() == members && shares.values().all(|share| *share > even / 2.0);
                if all { Ok(from) } else { Err(shares) }
            },
        )
        .await
    }

    fn address(&self, cluster: usize, host: u8) -> IpAddr {
        self.lab.federation.addr(cluster, host, GATEWAY).ip()
    }

    async fn harm(&self, addresses: impl IntoIterator<Item = IpAddr>, harm: Harm) {
        let harms: BTreeMap<_, _> = addresses.into_iter().map(|a| (a, harm)).collect();
        self.lab.federation.router().harm(&harms).await;
    }

    fn local_pods(&self) -> Vec<IpAddr> {
        let pods = 1..=PODS[WEST];
        pods.map(|n| self.address(WEST, host::WORKLOADS + n))
            .collect()
    }

    async fn inject(&mut self, fault: Fault) {
        match fault {
            Fault::Refused => self.lab.kill_pods(|p| p.cluster == WEST).await,
            Fault::Apps => self.lab.kill_apps(|p| p.cluster == WEST).await,
            Fault::Reset => self.harm(self.local_pods(), Harm::Reset).await,
            Fault::Silent => self.harm(self.local_pods(), Harm::Silent).await,
            Fault::Slow => self.tell_first(app::DELAY, SLOW_MS).await,
            Fault::OneBreaks => self.tell_first(app::BREAK, 1).await,
            Fault::OneSilent => {
                let one = self.address(WEST, host::WORKLOADS + 1);
                self.harm([one], Harm::Silent).await;
            }
            Fault::Flapping => {}
            Fault::ClusterGone => self.kill_cluster().await,
            Fault::ClusterSilent => self.cut(true, true),
            Fault::OneWayBack => self.cut(true, false),
            Fault::OneWayThere => self.cut(false, true),
            Fault::GatewayGone => {
                let gateway = self.lab.second_gateway.as_mut().expect("a second gateway");
                gateway.kill().await;
            }
            Fault::GatewaySilent => {
                let one = self.address(CENTRAL, host::SECOND_GATEWAY);
                self.harm([one], Harm::Silent).await;
            }
        }
    }

    async fn hold(&self, fault: Fault) {
        let end = Instant::now() + self.options.hold;
        while fault == Fault::Flapping && Instant::now() + FLAP < end {
            self.harm(self.local_pods(), Harm::Reset).await;
            sleep(FLAP).await;
            self.harm([], Harm::Reset).await;
            sleep(FLAP.min(end.saturating_duration_since(Instant::now()))).await;
        }
        tokio::time::sleep_until(end).await;
    }

    async fn heal(&mut self, fault: Fault) {
        match fault {
            Fault::Refused | Fault::Apps => self.lab.start_missing().await,
            Fault::Reset
            | Fault::Silent
            | Fault::OneSilent
            | Fault::Flapping
            | Fault::GatewaySilent => self.harm([], Harm::Silent).await,
            Fault::Slow => self.tell_first(app::DELAY, 0).await,
            Fault::OneBreaks => self.tell_first(app::BREAK, 0).await,
            Fault::ClusterSilent | Fault::OneWayBack | Fault::OneWayThere => self.cut(false, false),
            Fault::ClusterGone => {
                self.lab.federation.start_controller(CENTRAL);
                self.lab.federation.start_gateway(CENTRAL);
                self.start_second_gateway();
                self.lab.start_missing().await;
            }
            Fault::GatewayGone => self.start_second_gateway(),
        }
    }

    async fn tell_first(&self, path: &str, number: u64) {
        let told = self.lab.tell(&self.lab.pods[0], path, number).await;
        told.unwrap_or_else(|e| panic!("the application does not take {path}: {e}"));
    }

    fn start_second_gateway(&mut self) {
        let federation = &self.lab.federation;
        let again =
            federation.start_gateway_at(CENTRAL, host::SECOND_GATEWAY, "gateway-2", "5s", &[]);
        self.lab.second_gateway = Some(again);
    }

    async fn kill_cluster(&mut self) {
        let gateway = self.lab.second_gateway.as_mut().expect("a second gateway");
        let cluster = &mut self.lab.federation.clusters[CENTRAL];
        let own = [&mut cluster.controller, &mut cluster.gateway];
        let own = own.into_iter().flatten().chain([gateway]);
        join_all(own.map(crate::Process::kill)).await;
        self.lab.kill_pods(|p| p.cluster == CENTRAL).await;
    }

    /// Cuts what comes from the first choice elsewhere, and what goes there.
    fn cut(&self, from: bool, to: bool) {
        for other in (0..THREE.len()).filter(|c| *c != CENTRAL) {
            self.lab
                .wan()
                .change((CENTRAL, other), |line| line.cut = from);
            self.lab
                .wan()
                .change((other, CENTRAL), |line| line.cut = to);
        }
    }

    /// Waits until every cluster knows everything again, so that a fault finds what the first one found.
    async fn restored(&self) {
        let gateways = [host::GATEWAY, host::SECOND_GATEWAY];
        let federation = &self.lab.federation;
        federation.announced(CENTRAL, WEST, &gateways).await;
        self.lab.is_seen().await;
    }
}
