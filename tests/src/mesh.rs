//! A mesh on lab clusters, installed as people install it: the chart's objects by `tradewind install`, the first cluster founding the
//! federation and the others joining it from outside, one port open between them. Owns the clusters.

use std::{path::PathBuf, time::Duration};

use serde_json::Value;

use crate::{
    kubernetes::{Clusters, Running},
    process::{self, Output},
    tradewind,
    wait::until,
};

/// Anything that pods must first start for, on busy cores with reserve.
pub const SOON: Duration = Duration::from_secs(180);
/// The port of the nodes at which each cluster's gateways are reached from outside: the only one that is open.
pub const PORT: u16 = 31_443;
/// The namespace of what is installed.
pub const SYSTEM: &str = "tradewind-system";

/// Clusters, and what is done to them.
#[derive(Debug)]
pub struct Mesh {
    /// The clusters.
    pub clusters: Clusters,
}

impl Mesh {
    /// Starts clusters, with nothing in them; `programs` stand for images beside `tradewind`'s own;
    /// `between_port` is the only one open between clusters, where they are not one network. `None`, and a word on stderr that
    /// `test` is skipped, where that is not possible.
    pub async fn start(
        test: &str,
        clusters: &[&str],
        programs: impl IntoIterator<Item = (&str, PathBuf)>,
        between_port: Option<u16>,
    ) -> Option<Self> {
        let programs = programs.into_iter().map(|(i, p)| (i.to_owned(), p));
        let own = ("tradewind".to_owned(), tradewind());
        let running = Running {
            programs: std::iter::once(own).chain(programs).collect(),
            between_port,
        };
        let clusters = Clusters::start_running(test, clusters.iter().copied(), &running).await?;
        Some(Self { clusters })
    }

    /// Where a cluster's nodes are reached at the gateways' port: the first address of its pods' range.
    fn door(&self, cluster: &str) -> String {
        let range = &self.clusters.cluster(cluster).pod_cidr;
        let network = range
            .split_once('/')
            .and_then(|(first, _)| first.strip_suffix('0'));
        let network = network.expect("a range of IPv4 that begins with 0");
        format!("{network}1:{PORT}")
    }

    /// A command about a cluster, as an operator runs it: from outside, with the kubeconfig alone.
    pub async fn outside(&self, cluster: &str, args: &[&str]) -> Output {
        let kubeconfig = self.clusters.kubeconfig().to_string_lossy();
        let there = ["--kubeconfig", &kubeconfig, "--context", cluster];
        process::run(&[args, &there].concat()).await
    }

    /// Installs a cluster with one of everything; `more` are further values of the chart.
    pub async fn install(&self, cluster: &str, region: &str, more: &[&str]) {
        let values = [
            format!("cluster.name={cluster}"),
            format!("cluster.region={region}"),
            format!("cluster.gateways={}", self.door(cluster)),
            "image.tag=test".to_owned(),
            "gateway.replicas=1".to_owned(),
            "dns.replicas=1".to_owned(),
            "gateway.service.type=NodePort".to_owned(),
            format!("gateway.service.nodePort={PORT}"),
        ];
        let mut args = vec!["install", "--apply"];
        for value in values
            .iter()
            .map(String::as_str)
            .chain(more.iter().copied())
        {
            args.extend(["--set", value]);
        }
        self.outside(cluster, &args).await.good();
    }

    /// Has an installed cluster join the federation of another one, by somebody who has a kubeconfig for both and nothing else.
    pub async fn join(&self, cluster: &str, founder: &str) {
        let join = ["join", "--context", founder, "-o", "json", "--wait", "45s"];
        until(&format!("{cluster} to join"), SOON, async || {
            let joined = self.outside(cluster, &join).await;
            match joined.code {
                0 => Ok(()),
                4 => Err(joined.stderr),
                _ => Err(joined.good().stderr),
            }
        })
        .await;
    }

    /// Waits until a cluster's controller says that all is well.
    pub async fn is_well(&self, cluster: &str) {
        until(&format!("{cluster} to be well"), SOON, async || {
            let status = self.outside(cluster, &["status"]).await;
            match status.code {
                0 => Ok(()),
                _ => Err(format!("{}{}", status.stdout, status.stderr)),
            }
        })
        .await;
    }

    /// Applies a manifest, once the webhook lets it in.
    pub async fn apply(&self, cluster: &str, text: &str) {
        until("the manifest to be taken", SOON, async || {
            let applied = self.clusters.apply(cluster, text).await;
            match applied.code {
                0 => Ok(()),
                // The webhook's pod may have just begun.
                _ => Err(applied.stderr),
            }
        })
        .await;
    }

    /// kubectl, which has to succeed.
    pub async fn kubectl(&self, cluster: &str, args: &[&str]) -> Output {
        self.clusters.kubectl(cluster, args).await.good()
    }

    /// An object of a namespace.
    pub async fn get(&self, cluster: &str, namespace: &str, kind: &str, name: &str) -> Value {
        let get = ["get", kind, name, "-n", namespace, "-o", "json"];
        self.kubectl(cluster, &get).await.json()
    }

    /// Waits until the pods of a Deployment are the new ones, and ready.
    pub async fn rolled_out(&self, cluster: &str, namespace: &str, deployment: &str) {
        let name = format!("deployment/{deployment}");
        let args = ["rollout", "status", &name, "-n", namespace, "--timeout=1s"];
        until(&format!("{cluster}: {name}"), SOON, async || {
            let output = self.clusters.kubectl(cluster, &args).await;
            match output.code {
                0 => Ok(()),
                _ => Err(format!("{}{}", output.stdout, output.stderr)),
            }
        })
        .await;
    }
}
