//! The DNS server's life: build (bind everything), run (serve), drain. It runs on the caller's runtime: its answers are
//! computed in microseconds, so it needs no threads of its own.

use std::{net::SocketAddr, sync::Arc};

use tokio::net::{TcpListener, UdpSocket};
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
};
use tradewind_transport::{
    control::{Control, ControlConfig, ControllerAddr},
    marked,
};

use crate::{
    config::DnsConfig,
    error::DnsError,
    forward::Forwarder,
    metrics::DnsMetrics,
    serve::{Serving, tcp, udp},
};

/// How often a free port is looked for that both UDP and TCP can have.
const PORT_TRIES: usize = 16;

/// The DNS role.
#[derive(Clone, Copy, Debug)]
pub struct Dns;

impl Dns {
    /// Checks the configuration and binds every address. Must be called inside a tokio runtime.
    pub fn build(
        config: DnsConfig,
        clock: SharedClock,
        rng: Rng,
        log: Option<LogHandle>,
    ) -> Result<Bound, DnsError> {
        if !is_subdomain(&config.name) {
            return Err(DnsError::Config {
                field: "name",
                reason: format!(
                    "{:?} is no name of lower-case letters, digits, '-' and single dots",
                    config.name
                ),
            });
        }
        let (udp, tcp) = bind(config.listen)?;
        let local = tcp.local_addr().map_err(|source| DnsError::Io {
            action: "read the bound address",
            source,
        })?;
        if let Some(mark) = config.mark {
            may_mark(mark)?;
        }
        let forwarder = Forwarder::new(&config.upstreams, local, config.mark)?;
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
            udp,
            tcp,
            local,
            forwarder,
            admin,
        })
    }
}

/// Without its mark this server's questions would come back to it: found out before it answers anybody.
fn may_mark(mark: u32) -> Result<(), DnsError> {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    match marked::socket(any, marked::Type::DGRAM, marked::Protocol::UDP, mark) {
        Ok(_) => Ok(()),
        Err(error) => Err(DnsError::Config {
            field: "mark",
            reason: format!(
                "sockets cannot be marked ({error})\nhint: marking needs CAP_NET_ADMIN: run as root, or give the capability"
            ),
        }),
    }
}

/// Both protocols on one port.
fn bind(address: SocketAddr) -> Result<(UdpSocket, TcpListener), DnsError> {
    let mut tries = PORT_TRIES;
    loop {
        let tcp = listen::bind_tcp(address, false).map_err(|e| e.flag("--listen"))?;
        let local = tcp.local_addr().map_err(|source| DnsError::Io {
            action: "read the bound address",
            source,
        })?;
        match listen::bind_udp(local, false) {
            Ok(udp) => return Ok((udp, tcp)),
            // A port that the kernel chose for TCP may be taken for UDP.
            Err(_) if address.port() == 0 && tries > 0 => tries -= 1,
            Err(error) => return Err(error.flag("--listen").into()),
        }
    }
}

/// A DNS server with every address bound that answers nobody yet.
#[derive(Debug)]
pub struct Bound {
    config: DnsConfig,
    clock: SharedClock,
    rng: Rng,
    log: Option<LogHandle>,
    metrics: MetricsRegistry,
    readiness: Readiness,
    starting: Blocker,
    udp: UdpSocket,
    tcp: TcpListener,
    local: SocketAddr,
    forwarder: Forwarder,
    admin: AdminBound,
}

impl Bound {
    /// Where it answers, by UDP and TCP.
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

    /// Answers until `drain` is triggered and what was under way is answered, at most `drain_deadline` later.
    pub async fn run(mut self, drain: drain::Watch) -> Result<(), DnsError> {
        let mut tasks = TaskSet::new();
        // Over the unix socket nobody needs a certificate; over TCP the controller knows a caller by it alone.
        let identity_path = match self.config.controller {
            ControllerAddr::Unix(_) => None,
            ControllerAddr::Tcp(_) | ControllerAddr::OneOf(_) => {
                Some(format!("/tradewind/dns/{}", self.config.name))
            }
        };
        let control = Control::start(
            ControlConfig {
                controller: self.config.controller.clone(),
                role: "dns",
                node_name: self.config.name.clone(),
                identity_path,
                proof: self.config.proof.clone(),
                zone: None,
                state_dir: self.config.state_dir.clone(),
                mark: self.config.mark,
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
    ) -> Result<(), DnsError> {
        let metrics = DnsMetrics::new(&self.metrics);
        let state = self.admin_state(&control);
        let (trigger, watch) = drain::channel();
        let (stop_admin, admin_watch) = drain::channel();
        tracing::info!(listen = %self.local, admin = %self.admin.local_addr(), forwards = self.forwarder.has_upstream(), "DNS server starts");
        let serving = Serving::new(control.snapshot.clone(), self.forwarder, metrics);
        tasks.spawn("udp", udp(self.udp, serving.clone(), watch.clone()));
        tasks.spawn("tcp", tcp(self.tcp, serving, self.rng.fork(), watch));
        tasks.spawn("admin", self.admin.run(state, admin_watch));
        drop(self.starting);

        drain.triggered().await;
        tracing::info!("DNS server drains");
        let _not_ready = self.readiness.blocker("draining");
        let finished = tokio::select! {
            finished = trigger.drain(self.config.drain_deadline) => finished,
            () = drain.forced() => false,
        };
        if !finished {
            tracing::warn!("the drain deadline passed; questions under way go unanswered");
        }
        drop(stop_admin);
        tasks.abort_all().await;
        Ok(())
    }

    fn admin_state(&self, control: &Control) -> AdminState {
        let config = serde_json::json!({
            "name": self.config.name,
            "controller": self.config.controller.to_string(),
            "listen": self.local.to_string(),
            "upstreams": format!("{:?}", self.config.upstreams),
            "forwards": self.forwarder.has_upstream(),
        });
        let control = control.clone();
        AdminState {
            readiness: self.readiness.clone(),
            metrics: self.metrics.clone(),
            log: self.log.clone(),
            settings: Vec::new(),
            config: Arc::new(move || config.clone()),
            state: Arc::new(move || state(&control)),
        }
    }
}

fn state(control: &Control) -> serde_json::Value {
    let snapshot = Arc::clone(&control.snapshot.borrow());
    let status = control.status.borrow().clone();
    let services: Vec<_> = snapshot
        .services
        .values()
        .filter(|s| !s.exported_by.is_empty())
        .map(|s| {
            serde_json::json!({
                "name": format!("{}.{}.svc.clusterset.local", s.name.name(), s.name.namespace),
                "addresses": s.clusterset_ips.iter().map(ToString::to_string).collect::<Vec<_>>(),
            })
        })
        .collect();
    serde_json::json!({
        "revision": snapshot.revision.0,
        "controller_connected": status.connected,
        "snapshot_changed_at_unix_ms": status.changed_at_unix_ms,
        "snapshot_from_disk": status.from_disk,
        "names": services,
    })
}
