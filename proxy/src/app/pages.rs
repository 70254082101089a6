//! What the admin pages show of a proxy: its settings, and what it believes. No secrets.

use std::sync::{Arc, Mutex, PoisonError, atomic::Ordering};

use tradewind_runtime::admin::AdminState;
use tradewind_transport::control::Control;

use super::{Bound, Doors, front::FrontView};
use crate::{inbound::InboundContext, outbound::StateCell};

impl Bound {
    pub(super) fn admin_state(
        &self,
        control: &Control,
        inbound: &InboundContext,
        cells: &Arc<Mutex<Vec<StateCell>>>,
        front: FrontView,
    ) -> AdminState {
        let config = serde_json::json!({
            "name": self.config.name,
            "controller": self.config.controller.to_string(),
            "hbone_listen": self.hbone.map(|a| a.to_string()),
            "advertise": self.hbone.map(|_| self.advertised()),
            "listeners": self.outbound.iter().map(|g| format!("{}={}", g.local, g.target)).collect::<Vec<_>>(),
            "kubernetes": self.config.kubernetes,
            "serves": self.config.serves.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "capture": self.doors.as_ref().map(Doors::json),
            "threads": self.threads,
            "exit": self.config.exit.as_str(),
            "otlp_endpoint": self.config.telemetry.otlp.as_ref().map(ToString::to_string),
            "access_log": self.config.telemetry.access_log.as_ref().map(ToString::to_string),
            "access_log_filter": self.config.telemetry.access_log_filter.as_str(),
            "labels": *self.config.labels,
            "zone": self.config.zone.as_ref().map(ToString::to_string),
            "drain_deadline_ms": u64::try_from(self.config.drain_deadline.as_millis()).unwrap_or(u64::MAX),
        });
        let (kubernetes, serves) = (self.config.kubernetes, front.clone());
        let config = move || {
            let mut config = config.clone();
            if let Some(told) = config.get_mut("serves").filter(|_| kubernetes) {
                *told = serves.config();
            }
            config
        };
        let (control, cells) = (control.clone(), Arc::clone(cells));
        let connections = Arc::clone(&inbound.connections);
        let (limits, clock) = (inbound.limits.clone(), Arc::clone(&inbound.clock));
        let state = move || {
            let status = control.status.borrow().clone();
            let (serves, registered) = front.json();
            let threads: Vec<_> = cells
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .iter()
                .map(|c| serde_json::Value::clone(&c.load()))
                .collect();
            serde_json::json!({
                "identity": control.identity().map(|i| i.to_string()),
                "cluster": status.cluster.map(|c| c.to_string()),
                "revision": status.revision.0,
                "controller_connected": status.connected,
                "snapshot_changed_at_unix_ms": status.changed_at_unix_ms,
                "snapshot_from_disk": status.from_disk,
                "registered": registered,
                "serves": serves,
                "rate_limits": limits.borrow().json(clock.now()),
                "inbound_connections": connections.load(Ordering::Relaxed),
                "outbound_threads": threads,
            })
        };
        AdminState {
            readiness: self.readiness.clone(),
            metrics: self.metrics.clone(),
            log: self.log.clone(),
            settings: vec![inbound.standard.telemetry().setting()],
            config: Arc::new(config),
            state: Arc::new(state),
        }
    }
}
