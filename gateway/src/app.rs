//! The gateway's life: build (bind everything), run (serve, announce), drain. Owns the control side; data threads own
//! the connections. The control thread must never carry traffic.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::watch;
use tradewind_api::id::is_subdomain;
use tradewind_runtime::{
    admin::{AdminBound, AdminServer, AdminState},
    clock::SharedClock,
    drain, listen,
    metrics::MetricsRegistry,
    ready::{Blocker, Readiness},
    rng::Rng,
    task::TaskSet,
    telemetry::LogHandle,
    workers::{self, Workers},
};
use tradewind_transport::control::{Control, ControlConfig};

use crate::{
    announce::{Announcement, announce},
    circles::Circles,
    config::GatewayConfig,
    error::GatewayError,
    limits::{Limits, Sizes},
    metrics::GatewayMetrics,
    names::NameTable,
    probe::{self, Prober, facts::Peers},
    serve::{Serving, serve},
    socket,
};

/// How often a drain counts what is left, for its last word.
const LOOK: Duration = Duration::from_millis(100);

/// The gateway role.
#[derive(Clone, Copy, Debug)]
pub struct Gateway;

impl Gateway {
    /// Checks the configuration and binds every address. Must be called inside a tokio runtime.
    pub fn build(
        config: GatewayConfig,
        clock: SharedClock,
        rng: Rng,
        log: Option<LogHandle>,
    ) -> Result<Bound, GatewayError> {
        check(&config)?;
        let threads = match config.threads {
            0 => workers::default_count(),
            n => n,
        };
        let listeners =
            listen::bind_tcp_group(config.listen, threads).map_err(|e| e.flag("--listen"))?;
        for listener in &listeners {
            socket::listens(listener);
        }
        let local = match listeners.first().map(std::net::TcpListener::local_addr) {
            Some(Ok(local)) => local,
            Some(Err(source)) => {
                return Err(GatewayError::Io {
                    action: "read the bound address",
                    source,
                });
            }
            None => config.listen,
        };
        let admin = AdminServer::bind(config.admin_listen).map_err(|e| e.flag("--admin-listen"))?;
        let readiness = Readiness::new();
        Ok(Bound {
            config,
            clock,
            rng,
            log,
            metrics: MetricsRegistry::new(),
            starting: readiness.blocker("listeners"),
            readiness,
            listeners,
            local,
            admin,
        })
    }
}

fn check(config: &GatewayConfig) -> Result<(), GatewayError> {
    let bad = |field, reason: String| Err(GatewayError::Config { field, reason });
    if !is_subdomain(&config.name) {
        return bad(
            "name",
            format!(
                "{:?} is no name of lower-case letters, digits, '-' and single dots",
                config.name
            ),
        );
    }
    if !host_port(&config.controller_backend) {
        return bad(
            "controller_backend",
            format!("{:?} is no host:port", config.controller_backend),
        );
    }
    match &config.advertise {
        Some(address) if !host_port(address) => bad(
            "advertise",
            format!("{address:?} is no host:port that other clusters can dial"),
        ),
        None if config.listen.ip().is_unspecified() => bad(
            "advertise",
            format!(
                "{} is no address that other clusters can dial; say which one is",
                config.listen
            ),
        ),
        _ => Ok(()),
    }
}

fn host_port(s: &str) -> bool {
    s.rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|p| p != 0))
}

/// A gateway with every address bound that serves nobody yet.
#[derive(Debug)]
pub struct Bound {
    config: GatewayConfig,
    clock: SharedClock,
    rng: Rng,
    log: Option<LogHandle>,
    metrics: MetricsRegistry,
    readiness: Readiness,
    starting: Blocker,
    listeners: Vec<std::net::TcpListener>,
    local: SocketAddr,
    admin: AdminBound,
}

impl Bound {
    /// Where other clusters reach it.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Where its admin pages are.
    pub fn admin_addr(&self) -> SocketAddr {
        self.admin.local_addr()
    }

    /// What keeps it from being ready.
    pub fn readiness(&self) -> Readiness {
        self.readiness.clone()
    }

    /// Its metrics.
    pub fn metrics(&self) -> MetricsRegistry {
        self.metrics.clone()
    }

    /// What other clusters are told to dial.
    pub fn advertised(&self) -> String {
        self.config
            .advertise
            .clone()
            .unwrap_or_else(|| self.local.to_string())
    }

    /// Serves until `drain` is triggered and the drain is over: that takes at most `announce_grace` + `drain_deadline`,
    /// or as long as the trigger's own deadline, whichever is shorter.
    pub async fn run(mut self, drain: drain::Watch) -> Result<(), GatewayError> {
        let mut tasks = TaskSet::new();
        let control = Control::start(
            ControlConfig {
                controller: self.config.controller.clone(),
                role: "gateway",
                node_name: self.config.name.clone(),
                identity_path: Some(format!("/tradewind/gateway/{}", self.config.name)),
                proof: self.config.proof.clone(),
                zone: None,
                state_dir: self.config.state_dir.clone(),
                mark: None,
            },
            Arc::clone(&self.clock),
            self.rng.fork(),
            &self.metrics,
            &self.readiness,
            &mut tasks,
        )
        .await?;
        self.run_with(control, tasks, drain).await
    }

    /// As [`Bound::run`], over a link to the controller that somebody else has started.
    pub async fn run_with(
        mut self,
        control: Control,
        mut tasks: TaskSet,
        mut drain: drain::Watch,
    ) -> Result<(), GatewayError> {
        let limits = Limits::new(Sizes::here(self.config.max_connections));
        let metrics = GatewayMetrics::new(&self.metrics, &limits);
        let (trigger, watch) = drain::channel();
        let (stop_admin, admin_watch) = drain::channel();
        let (draining, drains) = watch::channel(false);

        let clock = Arc::clone(&self.clock);
        let (prober, peers) = Prober::new(control.snapshot.clone(), clock, self.rng.fork());
        probe::meters::register(&self.metrics, peers.clone());
        tasks.spawn("probe", prober.run());
        let what = Announcement {
            name: self.config.name.clone(),
            address: self.advertised(),
            peers: peers.clone(),
            clock: Arc::clone(&self.clock),
        };
        tracing::info!(listen = %self.local, advertise = %what.address, admin = %self.admin.local_addr(), "gateway starts");
        tasks.spawn(
            "announce",
            announce(
                control.clone(),
                what,
                drains,
                metrics.clone(),
                self.rng.fork(),
            ),
        );
        let state = self.admin_state(&control, &limits, peers);
        let serving = Serving {
            snapshot: control.snapshot.clone(),
            names: Arc::new(NameTable::new(self.config.pass_on)),
            circles: Circles::default(),
            metrics,
            limits,
            controller_backend: self.config.controller_backend.as_str().into(),
            clock: Arc::clone(&self.clock),
        };
        let data = self.start_workers(&serving, watch)?;
        tasks.spawn("admin", self.admin.run(state, admin_watch));
        drop(self.starting);

        let mut joined = std::pin::pin!(data.join());
        tokio::select! {
            () = drain.triggered() => {}
            ended = &mut joined => {
                return Err(GatewayError::Worker(ended.err().map_or_else(
                    || "a worker thread ended early".to_owned(), |e| e.to_string())));
            }
        }
        tracing::info!("gateway drains");
        let _not_ready = self.readiness.blocker("draining");
        draining.send_replace(true);
        let deadline = self.config.drain_deadline;
        let graceful = async {
            tokio::time::sleep(self.config.announce_grace).await;
            let mut left = serving.limits.active();
            let mut finished = std::pin::pin!(trigger.drain(deadline));
            let mut look = tokio::time::interval(LOOK);
            loop {
                tokio::select! {
                    finished = &mut finished => return (finished, left),
                    _ = look.tick() => left = serving.limits.active(),
                }
            }
        };
        let (finished, left) = tokio::select! {
            ended = graceful => ended,
            // Dropping the trigger forces what is left.
            () = drain.forced() => (false, serving.limits.active()),
        };
        if !finished {
            tracing::warn!(
                connections = left,
                "the drain deadline passed; connections are cut"
            );
        }
        let ended = joined.await;
        drop(stop_admin);
        tasks.abort_all().await;
        ended.map_err(|e| GatewayError::Worker(e.to_string()))
    }

    fn start_workers(
        &mut self,
        serving: &Serving,
        watch: drain::Watch,
    ) -> Result<Workers, GatewayError> {
        let listeners = std::mem::take(&mut self.listeners);
        let count = listeners.len();
        // One seat a thread: its listener, its random numbers, its hold on the drain. Taken once, so none stays behind.
        let seats: Vec<_> = listeners
            .into_iter()
            .map(|listener| Some((listener, self.rng.fork(), watch.clone())))
            .collect();
        drop(watch);
        let seats = Mutex::new(seats);
        let serving = serving.clone();
        Workers::spawn("gateway", count, move |index| {
            let mut seats = seats.lock().unwrap_or_else(PoisonError::into_inner);
            let seat = seats.get_mut(index).and_then(Option::take);
            let serving = serving.clone();
            async move {
                let Some((listener, rng, watch)) = seat else {
                    return;
                };
                match tokio::net::TcpListener::from_std(listener) {
                    Ok(listener) => serve(listener, serving, rng, watch).await,
                    Err(error) => tracing::error!(%error, "a listener cannot be used"),
                }
            }
        })
        .map_err(|source| GatewayError::Io {
            action: "start a data thread",
            source,
        })
    }

    fn admin_state(
        &self,
        control: &Control,
        limits: &Arc<Limits>,
        peers: watch::Receiver<Arc<Peers>>,
    ) -> AdminState {
        let config = serde_json::json!({
            "name": self.config.name,
            "controller": self.config.controller.to_string(),
            "listen": self.local.to_string(),
            "advertise": self.advertised(),
            "controller_backend": self.config.controller_backend,
            "threads": self.listeners.len(),
            "pass_on": self.config.pass_on,
            "drain_deadline_ms": u64::try_from(self.config.drain_deadline.as_millis()).unwrap_or(u64::MAX),
        });
        let (control, limits) = (control.clone(), Arc::clone(limits));
        let clock = Arc::clone(&self.clock);
        AdminState {
            readiness: self.readiness.clone(),
            metrics: self.metrics.clone(),
            log: self.log.clone(),
            settings: Vec::new(),
            config: Arc::new(move || config.clone()),
            state: Arc::new(move || {
                let peers = Arc::clone(&peers.borrow());
                let mut page = state(&control, &limits);
                if let Some(page) = page.as_object_mut() {
                    let peers = probe::report::for_people(&peers, clock.unix_ms());
                    page.insert("peers".to_owned(), peers);
                }
                page
            }),
        }
    }
}

fn state(control: &Control, limits: &Limits) -> serde_json::Value {
    let snapshot = Arc::clone(&control.snapshot.borrow());
    let status = control.status.borrow().clone();
    let local = snapshot.local().map(|c| c.name.clone());
    let exported: Vec<_> = snapshot
        .services
        .values()
        .filter(|s| local.as_ref().is_some_and(|l| s.exported_by.contains(l)))
        .map(|s| {
            let endpoints = s
                .endpoints
                .iter()
                .filter(|e| Some(&e.cluster) == local.as_ref());
            serde_json::json!({
                "service": s.name.to_string(),
                "ports": s.ports.iter().map(|p| p.port).collect::<Vec<_>>(),
                "endpoints": endpoints.map(|e| serde_json::json!({
                    "id": e.id.to_string(), "address": e.address, "health": e.health.as_str(),
                })).collect::<Vec<_>>(),
            })
        })
        .collect();
    serde_json::json!({
        "cluster": local.map(|l| l.to_string()),
        "revision": snapshot.revision.0,
        "controller_connected": status.connected,
        "snapshot_changed_at_unix_ms": status.changed_at_unix_ms,
        "snapshot_from_disk": status.from_disk,
        "connections": limits.active(),
        "connections_limit": limits.max(),
        "places": limits.places(),
        "exported": exported,
    })
}
