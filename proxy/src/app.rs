//! The proxy's life: build (bind everything), run (serve, register, check), drain. Owns the control side; data threads
//! own the connections. The control thread must never carry traffic.

mod doors;
mod front;
mod pages;
mod threads;

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, atomic::AtomicUsize},
};

use tokio::sync::watch;
use tradewind_api::{ServicePortRef, id::is_subdomain};
use tradewind_runtime::{
    admin::{AdminBound, AdminServer},
    clock::SharedClock,
    drain, listen,
    metrics::MetricsRegistry,
    ready::{Blocker, Readiness},
    rng::Rng,
    task::TaskSet,
    telemetry::LogHandle,
    workers,
};
use tradewind_transport::control::{Control, ControlConfig};

use doors::Doors;

use crate::{
    capture::{InboundPorts, Keeper},
    config::{ProxyConfig, advertised},
    error::ProxyError,
    inbound::{self, InboundContext, InboundMetrics},
    outbound::{StandardMetrics, StateCell},
    telemetry::{self, Telemetry, Teller},
};

/// The proxy role.
#[derive(Clone, Copy, Debug)]
pub struct Proxy;

impl Proxy {
    /// Checks the configuration and binds every address. Must be called inside a tokio runtime.
    pub fn build(
        mut config: ProxyConfig,
        clock: SharedClock,
        rng: Rng,
        log: Option<LogHandle>,
    ) -> Result<Bound, ProxyError> {
        if let Some(told) = &config.advertise {
            let address = advertised(told).map_err(|e| ProxyError::Config {
                field: "advertise",
                reason: e.to_string(),
            })?;
            config.advertise = Some(address);
        }
        check(&config)?;
        listen_in_pod(&mut config);
        let threads = match config.threads {
            0 => workers::default_count(),
            n => n,
        };
        let mut inbound = Vec::new();
        if config.kubernetes || !config.serves.is_empty() {
            inbound = listen::bind_tcp_group(config.hbone_listen, threads)
                .map_err(|e| e.flag("--hbone-listen"))?;
        }
        let hbone = match inbound.first() {
            Some(listener) => Some(local_addr(listener)?),
            None => None,
        };
        let mut outbound = Vec::new();
        for spec in &config.listeners {
            let group =
                listen::bind_tcp_group(spec.addr, threads).map_err(|e| e.flag("--listen"))?;
            let local = match group.first() {
                Some(listener) => local_addr(listener)?,
                None => spec.addr,
            };
            outbound.push(OutboundGroup {
                local,
                target: spec.target.clone(),
                listeners: group,
            });
        }
        let capture = config.capture.as_ref();
        let doors = capture
            .map(|c| Doors::bind(&config, c, threads))
            .transpose()?;
        let access_log = telemetry::open(&config.telemetry).map_err(|(path, error)| {
            let reason = format!("{} cannot be opened: {error}", path.display());
            let field = "access-log";
            ProxyError::Config { field, reason }
        })?;
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
            threads,
            inbound,
            hbone,
            outbound,
            doors,
            access_log,
            admin,
        })
    }
}

fn local_addr(listener: &std::net::TcpListener) -> Result<SocketAddr, ProxyError> {
    listener.local_addr().map_err(|source| ProxyError::Io {
        action: "read the bound address",
        source,
    })
}

fn check(config: &ProxyConfig) -> Result<(), ProxyError> {
    let bad = |field, reason: String| Err(ProxyError::Config { field, reason });
    if !is_subdomain(&config.name) {
        let reason = format!(
            "{:?} is not valid: expected at most 253 lower-case letters, digits, '-' and '.', as in a pod's name",
            config.name
        );
        return bad("name", reason);
    }
    let fronts = config.kubernetes || !config.serves.is_empty();
    if !fronts && config.listeners.is_empty() && config.capture.is_none() {
        return bad(
            "listen",
            "none of --listen, --serve, --kubernetes and --capture is given: there is nothing to do".into(),
        );
    }
    if config.kubernetes {
        in_kubernetes(config)?;
    }
    for (i, serve) in config.serves.iter().enumerate() {
        if config
            .serves
            .iter()
            .take(i)
            .any(|s| s.target == serve.target)
        {
            return bad("serve", format!("{} is given twice", serve.target));
        }
    }
    let unspecified = config.hbone_listen.ip().is_unspecified();
    if config.advertise.is_none() && unspecified && fronts {
        return bad(
            "advertise",
            format!(
                "{} is no address that others can dial; say which one is",
                config.hbone_listen
            ),
        );
    }
    Ok(())
}

/// What cannot be together with `--kubernetes`.
fn in_kubernetes(config: &ProxyConfig) -> Result<(), ProxyError> {
    let bad = |field, reason: String| Err(ProxyError::Config { field, reason });
    if let Some(serve) = config.serves.first() {
        let reason = format!(
            "{serve} is given beside --kubernetes, by which the Services that select the pod say what it serves; give one of the two"
        );
        return bad("serve", reason);
    }
    if let Some(told) = &config.advertise
        && told.parse::<SocketAddr>().is_err()
    {
        let reason =
            format!("{told} is no ip:port: in Kubernetes it is the pod's, $(POD_IP):15008");
        return bad("advertise", reason);
    }
    let capture = config.capture.as_ref();
    if capture.is_some_and(|c| c.inbound_ports == InboundPorts::Served) {
        let reason = "what a pod serves changes while rules do not: beside --kubernetes say all, none or the ports";
        return bad("capture-inbound-ports", reason.into());
    }
    Ok(())
}

/// A pod without IPv4 is reached at every address that it has, whatever family a manifest for all pods speaks of.
fn listen_in_pod(config: &mut ProxyConfig) {
    let told = config.advertise.as_ref().and_then(|a| a.parse().ok());
    if !config.kubernetes || !told.is_some_and(|a: SocketAddr| a.is_ipv6()) {
        return;
    }
    for address in [&mut config.hbone_listen, &mut config.admin_listen] {
        if address.ip() == Ipv4Addr::UNSPECIFIED {
            // Of both families, where there are two.
            address.set_ip(Ipv6Addr::UNSPECIFIED.into());
        }
    }
}

#[derive(Debug)]
struct OutboundGroup {
    local: SocketAddr,
    target: ServicePortRef,
    listeners: Vec<std::net::TcpListener>,
}

/// A proxy with every address bound that serves nobody yet.
#[derive(Debug)]
pub struct Bound {
    config: ProxyConfig,
    clock: SharedClock,
    rng: Rng,
    log: Option<LogHandle>,
    metrics: MetricsRegistry,
    readiness: Readiness,
    starting: Blocker,
    threads: usize,
    inbound: Vec<std::net::TcpListener>,
    hbone: Option<SocketAddr>,
    outbound: Vec<OutboundGroup>,
    doors: Option<Doors>,
    access_log: Option<telemetry::Opened>,
    admin: AdminBound,
}

impl Bound {
    /// The inbound HBONE address; none when it serves nothing.
    pub fn hbone_addr(&self) -> Option<SocketAddr> {
        self.hbone
    }

    /// The outbound listeners' addresses, in the order of the configuration.
    pub fn listen_addrs(&self) -> Vec<SocketAddr> {
        self.outbound.iter().map(|g| g.local).collect()
    }

    /// What its own sockets carry, where a capture tells them by it.
    fn mark(&self) -> Option<u32> {
        self.config.capture.as_ref().and_then(|c| c.own.mark())
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

    /// What gateways and other proxies are told to dial.
    pub fn advertised(&self) -> String {
        let hbone = self.hbone.unwrap_or(self.config.hbone_listen);
        self.config
            .advertise
            .clone()
            .unwrap_or_else(|| hbone.to_string())
    }

    /// The pod's address, by which its controller knows it.
    fn pod_address(&self) -> Result<SocketAddr, ProxyError> {
        let told = self.advertised();
        told.parse().map_err(|e| ProxyError::Config {
            field: "advertise",
            reason: format!("{told} is no ip:port: {e}"),
        })
    }

    /// Serves until `drain` is triggered and the drain is over: that takes at most two seconds for the controller to hear
    /// of it, `leave_grace` and `drain_deadline`, or as long as the trigger's own deadline, whichever is shorter.
    pub async fn run(mut self, drain: drain::Watch) -> Result<(), ProxyError> {
        let mut tasks = TaskSet::new();
        let control = Control::start(
            ControlConfig {
                controller: self.config.controller.clone(),
                role: "proxy",
                node_name: self.config.name.clone(),
                identity_path: self.config.identity_path.clone(),
                proof: self.config.proof.clone(),
                zone: self.config.zone.clone(),
                state_dir: self.config.state_dir.clone(),
                mark: self.mark(),
            },
            Arc::clone(&self.clock),
            self.rng.fork(),
            &self.metrics,
            &self.readiness,
            &mut tasks,
        )
        .await?;
        let channel = control.channel();
        self.run_with(control, channel, tasks, drain).await
    }

    /// As [`Bound::run`], over a link to the controller that somebody else has started; `channel` is where it registers.
    pub async fn run_with(
        mut self,
        control: Control,
        channel: tonic::transport::Channel,
        mut tasks: TaskSet,
        mut drain: drain::Watch,
    ) -> Result<(), ProxyError> {
        let (trigger, watch) = drain::channel();
        let (stop_admin, admin_watch) = drain::channel();
        tracing::info!(hbone = ?self.hbone, listeners = self.outbound.len(), admin = %self.admin.local_addr(), "proxy starts");

        let front = self.start_front(&control, channel, &mut tasks)?;
        let (telling, told) = self.start_telemetry(&control, &mut tasks)?;
        let standard = StandardMetrics::register(&self.metrics, Arc::clone(&self.clock));
        let inbound = InboundContext {
            control: control.clone(),
            serves: front.serves.clone(),
            advertised: self.advertised().into(),
            checks: Arc::clone(&front.checks),
            limits: self.start_limits(&control, &front, &mut tasks)?,
            mark: self.mark(),
            metrics: InboundMetrics::new(&self.metrics),
            standard: standard.telling(telling),
            clock: Arc::clone(&self.clock),
            connections: Arc::new(AtomicUsize::new(0)),
        };
        let cells: Arc<Mutex<Vec<StateCell>>> = Arc::default();
        let admin = self.admin_state(&control, &inbound, &cells, front.view());
        let deciding = self
            .doors
            .as_ref()
            .map(|doors| doors.deciding(control.snapshot.clone(), &self.metrics, &mut tasks));
        let data = self.start_workers(&control, &inbound, &cells, deciding, watch)?;
        tasks.spawn("admin", self.admin.run(admin, admin_watch));
        let keeper = lead(self.doors.as_ref()).await?;
        drop(self.starting);

        let mut joined = std::pin::pin!(data.join());
        tokio::select! {
            () = drain.triggered() => {}
            ended = &mut joined => {
                return Err(ProxyError::Worker(ended.err().map_or_else(
                    || "a worker thread ended early".to_owned(), |e| e.to_string())));
            }
        }
        tracing::info!("proxy drains");
        let _not_ready = self.readiness.blocker("draining");
        let graceful = async {
            front.leave(self.config.leave_grace).await;
            if let Some(keeper) = &keeper {
                keeper.release().await;
            }
            trigger.drain(self.config.drain_deadline).await
        };
        let finished = tokio::select! {
            finished = graceful => finished,
            // Dropping the trigger forces what is left.
            () = drain.forced() => false,
        };
        if !finished {
            tracing::warn!("the drain deadline passed; what is under way is cut");
        }
        let ended = joined.await;
        if let Some(keeper) = keeper {
            keeper.remove().await;
        }
        told.close().await;
        drop(stop_admin);
        tasks.abort_all().await;
        ended.map_err(|e| ProxyError::Worker(e.to_string()))
    }

    /// What keeps the rate limits current.
    fn start_limits(
        &self,
        control: &Control,
        front: &front::Front,
        tasks: &mut TaskSet,
    ) -> Result<watch::Receiver<Arc<inbound::Held>>, ProxyError> {
        let kubernetes = self.config.kubernetes;
        let workload = inbound::Workload {
            labels: Arc::clone(&self.config.labels),
            at: kubernetes.then(|| self.pod_address()).transpose()?,
        };
        let (serves, clock) = (front.serves.clone(), Arc::clone(&self.clock));
        Ok(inbound::start_limits(
            control, serves, workload, clock, tasks,
        ))
    }

    /// The traces and the access log, as far as they are asked for.
    fn start_telemetry(
        &mut self,
        control: &Control,
        tasks: &mut TaskSet,
    ) -> Result<(Telemetry, telemetry::Running), ProxyError> {
        let teller = Teller {
            name: self.config.name.clone(),
            zone: self.config.zone.as_ref().map(ToString::to_string),
            svid: control.svid.clone(),
            mark: self.mark(),
        };
        Telemetry::start(
            &self.config.telemetry,
            (Arc::clone(&self.clock), self.rng.fork()),
            &self.metrics,
            self.access_log.take(),
            teller,
            tasks,
        )
        .map_err(|source| ProxyError::Io {
            action: "start the access log's thread",
            source,
        })
    }
}

async fn lead(doors: Option<&Doors>) -> Result<Option<Keeper>, ProxyError> {
    match doors {
        Some(doors) => doors.lead().await,
        None => Ok(None),
    }
}
