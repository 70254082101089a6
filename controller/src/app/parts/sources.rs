//! Starts whatever tells of this cluster's own services: a directory of manifests, or its API server.

use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tradewind_api::snapshot::Snapshot;
use tradewind_kubernetes::{Client, watch as watchers};
use tradewind_policy::RouteStatus;
use tradewind_runtime::{SharedClock, TaskSet, drain};

use super::{Parts, telling::Publishing};
use crate::{
    config::ControllerConfig,
    mcs::{self, route_status::RouteWriter},
    source::{
        Manifests, SourceModel,
        kubernetes::{self, Memory, Told, View, kept},
    },
};

/// What became of routes.
type Statuses = watch::Receiver<Arc<Vec<Arc<RouteStatus>>>>;

/// What the sources tell.
#[derive(Clone, Debug)]
pub(super) struct Sources {
    /// Services, exports and rules.
    pub(super) yaml: watch::Receiver<Arc<SourceModel>>,
    /// What of the API server's objects imports are made from; stays empty without one.
    pub(super) view: watch::Receiver<Arc<View>>,
    /// How the API server is; stays empty without one.
    pub(super) contact: watch::Receiver<watchers::Contact>,
}

/// Starts them.
pub(super) fn start(
    config: &ControllerConfig,
    client: Option<&Client>,
    clock: &SharedClock,
    tasks: &mut TaskSet,
    drain: &drain::Watch,
) -> Sources {
    let (model, yaml) = watch::channel(Arc::new(SourceModel::default()));
    let (view_tx, view) = watch::channel(Arc::new(View::default()));
    let (contact_tx, contact) = watch::channel(watchers::Contact::default());
    match (client, &config.manifests) {
        (Some(client), _) => {
            let (out, changes) = mpsc::channel(watchers::QUEUE);
            let pulse = watchers::Pulse::default();
            let to = (&out, &pulse);
            watchers::start(client, kubernetes::rule_kinds(), to, tasks, drain);
            let told = Told {
                model,
                view: view_tx,
            };
            let file = config.data_dir.join(kept::FILE);
            let (handed, to_keep) = watch::channel(None);
            let memory = Memory {
                before: kept::read(&file, client.server()),
                handed,
                server: client.server().to_owned(),
                clock: Arc::clone(clock),
            };
            tasks.spawn(
                "kubernetes",
                kubernetes::run(changes, told, memory, drain.observer()),
            );
            tasks.spawn(
                "keep objects",
                kept::write_all(file, to_keep, drain.clone()),
            );
            let probe = watchers::probe(
                client.clone(),
                Arc::clone(clock),
                (contact_tx, pulse),
                drain.observer(),
            );
            tasks.spawn("probe the API server", probe);
        }
        (None, Some(directory)) => {
            let manifests = Manifests::new(directory.clone());
            tasks.spawn("manifests", manifests.run(model, drain.observer()));
        }
        (None, None) => {
            model.send_replace(Arc::new(SourceModel {
                read: true,
                ..SourceModel::default()
            }));
        }
    }
    Sources {
        yaml,
        view,
        contact,
    }
}

impl Parts {
    /// Starts what tells the API server, where there is one: imports, slices and what exports are told, by the snapshot; and what became of
    /// its routes, by their statuses. Of a cluster's controllers the one that speaks for it does so.
    pub(super) fn tell_api_server(
        &mut self,
        sources: &Sources,
        (snapshots, statuses): (watch::Receiver<Arc<Snapshot>>, Statuses),
        publishing: &Publishing,
        tasks: &mut TaskSet,
        drain: &drain::Watch,
    ) {
        let Some(client) = self.kubernetes.clone() else {
            return;
        };
        let writer = mcs::Writer {
            own: self.own.clone(),
            client: client.clone(),
            view: sources.view.clone(),
            store: self.store.clone(),
            snapshots,
            troubles: publishing.problems.clone(),
            speaking: publishing.speaking.clone(),
            clock: Arc::clone(&self.clock),
        };
        tasks.spawn("imports", writer.run(drain.observer()));
        let writer = RouteWriter {
            client,
            view: sources.view.clone(),
            statuses,
            speaking: publishing.speaking.clone(),
            clock: Arc::clone(&self.clock),
            rng: self.rng.fork(),
        };
        tasks.spawn("tell routes", writer.run(drain.observer()));
    }
}
