//! What the admin pages show of a controller: its settings and its state.

use std::sync::{Arc, PoisonError};

use serde_json::json;
use tradewind_runtime::{AdminState, LogHandle, Readiness};

use super::{Parts, Wired};
use crate::config::ControllerConfig;

impl Parts {
    /// The pages, without the listener that serves them.
    pub(in crate::app) fn admin_state(
        &self,
        config: &ControllerConfig,
        readiness: Readiness,
        log: Option<LogHandle>,
        wired: &Wired,
    ) -> AdminState {
        let shown = json!({
            "data_dir": config.data_dir,
            "listen": config.listen,
            "admin_listen": config.admin_listen,
            "manifests": config.manifests,
            "kubernetes": config.kubernetes.as_ref().map(|p| json!({"kubeconfig": p.kubeconfig, "context": p.context})),
            "webhook": config.webhook.as_ref().map(|w| json!({"listen": w.listen, "names": w.names, "injection_file": w.settings})),
            "socket": config.socket_path(),
            "node": self.data_dir.lock().unwrap_or_else(PoisonError::into_inner).node(),
        });
        let (store, snapshots, sources) = (
            self.store.clone(),
            wired.snapshots.clone(),
            wired.sources.clone(),
        );
        let api_server = self.kubernetes.as_ref().map(|c| c.server().to_owned());
        let registered = self.registry.watch();
        AdminState {
            readiness,
            metrics: self.metrics.clone(),
            log,
            settings: Vec::new(),
            config: Arc::new(move || shown.clone()),
            state: Arc::new(move || {
                json!({
                    "store": store.status(),
                    "registered": **registered.borrow(),
                    "problems": sources.yaml.borrow().problems,
                    "api_server": api_server.as_ref().map(|server| {
                        let contact = sources.contact.borrow();
                        json!({"server": server, "answered_ms": contact.answered_ms, "trouble": contact.trouble})
                    }),
                    "snapshot": **snapshots.borrow(),
                })
            }),
        }
    }
}
