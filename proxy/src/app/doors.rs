//! The listeners of a capture, from their binding to the rules that lead to them.
//!
//! Owns them until the data threads take them. Rules are set only when somebody serves.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    os::unix::fs::MetadataExt as _,
    sync::Arc,
};

use arc_swap::ArcSwap;
use socket2::{Protocol, SockRef, Type};
use tokio::sync::watch;
use tradewind_api::snapshot::Snapshot;
use tradewind_runtime::{listen, metrics::MetricsRegistry, task::TaskSet};
use tradewind_transport::marked;

use crate::{
    capture::{
        CaptureConfig, Keeper, Own, Plan, Rules, has_ipv6, inbound::Guard, index::Index,
        metrics::CaptureMetrics,
    },
    config::ProxyConfig,
    error::ProxyError,
    outbound::captured::Captured,
};

/// The port that DNS servers of ours listen at, unless told otherwise: never caught where all inbound ports are.
const DNS_PORT: u16 = 15053;

/// A capture with every address bound.
#[derive(Debug)]
pub(super) struct Doors {
    config: CaptureConfig,
    plan: Plan,
    outbound: Vec<Vec<TcpListener>>,
    inbound: Vec<Vec<TcpListener>>,
}

/// One thread's share.
#[derive(Debug, Default)]
pub(super) struct Share {
    pub(super) outbound: Vec<TcpListener>,
    pub(super) inbound: Vec<TcpListener>,
}

/// What all threads decide by.
#[derive(Clone, Debug)]
pub(super) struct Deciding {
    pub(super) captured: Captured,
    pub(super) guard: Guard,
}

impl Doors {
    /// Binds them, `threads` sockets each.
    pub(super) fn bind(
        all: &ProxyConfig,
        config: &CaptureConfig,
        threads: usize,
    ) -> Result<Self, ProxyError> {
        config
            .check()
            .map_err(|(field, reason)| ProxyError::Config { field, reason })?;
        is_told_apart(config)?;
        let ipv6 = has_ipv6();
        let served: Vec<u16> = all.serves.iter().filter_map(|s| s.app_port()).collect();
        let mesh = [all.hbone_listen.port(), all.admin_listen.port(), DNS_PORT];
        let plan = Plan::new(config, &served, &mesh, ipv6);
        let bind = |address: SocketAddr, flag| {
            listen::bind_tcp_group(address, threads).map_err(|e| e.flag(flag))
        };
        let flag = "--capture-outbound-port";
        let mut outbound = vec![bind(
            (Ipv4Addr::LOCALHOST, config.outbound_port).into(),
            flag,
        )?];
        if ipv6 {
            outbound.push(bind(
                (Ipv6Addr::LOCALHOST, config.outbound_port).into(),
                flag,
            )?);
        }
        let mut inbound = Vec::new();
        if plan.guards() {
            let flag = "--capture-inbound-port";
            let mut both = false;
            if ipv6 {
                let group = bind((Ipv6Addr::UNSPECIFIED, config.inbound_port).into(), flag)?;
                let first = group.first().map(|l| SockRef::from(l).only_v6());
                both = matches!(first, Some(Ok(false)));
                inbound.push(group);
            }
            if !both {
                inbound.push(bind(
                    (Ipv4Addr::UNSPECIFIED, config.inbound_port).into(),
                    flag,
                )?);
            }
        }
        Ok(Self {
            config: config.clone(),
            plan,
            outbound,
            inbound,
        })
    }

    /// The next thread's share.
    pub(super) fn share(&mut self) -> Share {
        let one = |all: &mut Vec<Vec<TcpListener>>| all.iter_mut().filter_map(Vec::pop).collect();
        Share {
            outbound: one(&mut self.outbound),
            inbound: one(&mut self.inbound),
        }
    }

    /// What threads decide by; the index of services follows the snapshots from a task in `tasks`.
    pub(super) fn deciding(
        &self,
        snapshots: watch::Receiver<Arc<Snapshot>>,
        metrics: &MetricsRegistry,
        tasks: &mut TaskSet,
    ) -> Deciding {
        let metrics = CaptureMetrics::register(metrics);
        // Whole before the first connection comes.
        let first = Index::new(Arc::clone(&snapshots.borrow()));
        let index = Arc::new(ArcSwap::from_pointee(first));
        tasks.spawn("capture index", follow(snapshots, Arc::clone(&index)));
        let mark = self.config.own.mark();
        Deciding {
            captured: Captured {
                index,
                unknown: self.config.unknown,
                mark,
                metrics: metrics.clone(),
            },
            guard: Guard {
                inbound: self.config.inbound,
                mark,
                metrics,
            },
        }
    }

    /// Sets the rules, unless somebody else does.
    pub(super) async fn lead(&self) -> Result<Option<Keeper>, ProxyError> {
        let CaptureConfig {
            rules,
            inbound,
            tool,
            ..
        } = self.config;
        if rules == Rules::External {
            tracing::info!("capture rules are left to whoever sets them");
            return Ok(None);
        }
        let keeper = Keeper::set(self.plan.clone(), inbound, tool).await?;
        Ok(Some(keeper))
    }

    /// As the admin pages show it.
    pub(super) fn json(&self) -> serde_json::Value {
        let c = &self.config;
        let cidrs: Vec<_> = c.exclude_cidrs.iter().map(ToString::to_string).collect();
        let dns: Vec<_> = c.dns.iter().map(ToString::to_string).collect();
        serde_json::json!({
            "own": c.own.to_string(),
            "rules": c.rules.as_str(),
            "tool": c.tool.as_str(),
            "unknown": c.unknown.as_str(),
            "inbound": c.inbound.as_str(),
            "inbound_ports": c.inbound_ports.to_string(),
            "outbound_port": c.outbound_port,
            "inbound_port": c.inbound_port,
            "ipv6": self.plan.ipv6(),
            "exclude_ports": c.exclude_ports,
            "exclude_cidrs": cidrs,
            "exclude_uids": c.exclude_uids,
            "dns": dns,
        })
    }
}

/// A process that is not told from its applications would capture itself, again and again: found out before anything else is
/// done.
fn is_told_apart(config: &CaptureConfig) -> Result<(), ProxyError> {
    let bad = |reason| {
        let field = "capture-own";
        Err(ProxyError::Config { field, reason })
    };
    let mark = match config.own {
        Own::Mark(mark) => mark,
        Own::Uid(uid) => {
            let own = std::fs::metadata("/proc/self").map(|m| m.uid());
            return match own {
                Ok(own) if own == uid => Ok(()),
                Ok(own) => bad(format!(
                    "this process runs as user {own}, not as {uid}: its own connections would be captured, without end\n\
                     hint: run it as that user, or say --capture-own uid:{own}, here and where the rules are set"
                )),
                Err(e) => bad(format!(
                    "the user of this process is not to be found out: {e}"
                )),
            };
        }
    };
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    match marked::socket(any, Type::STREAM, Protocol::TCP, mark) {
        Ok(_) => Ok(()),
        Err(error) => bad(format!(
            "its sockets cannot be marked ({error})\nhint: marking needs CAP_NET_ADMIN: run as root, or give the capability\n\
             hint: or run the proxy as a user of its own, and say --capture-own uid:<number>"
        )),
    }
}

async fn follow(mut snapshots: watch::Receiver<Arc<Snapshot>>, index: Arc<ArcSwap<Index>>) {
    while snapshots.changed().await.is_ok() {
        let snapshot = Arc::clone(&snapshots.borrow_and_update());
        index.store(Arc::new(Index::new(snapshot)));
    }
}
