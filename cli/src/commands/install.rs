//! `tradewind install` and `tradewind uninstall`: the manifests of a Kubernetes cluster, printed, applied, or taken out again.

use std::{fs, path::PathBuf, time::Duration};

use tokio::time::Instant;
use tradewind_kubernetes::{
    Place,
    install::{
        self, DEFAULT_VALUES, Manifest, NAMESPACE, RenderError, Values, ValuesError,
        cluster::{Cluster, ClusterError, Installed, Sort},
    },
};

use super::Context;
use crate::{
    exit::{Exit, Failure, Outcome},
    printer::Printer,
};

#[cfg(test)]
mod tests;

/// Longest file of values, in bytes: the defaults have 4 KiB.
const MAX_VALUES_BYTES: u64 = 1 << 20;

/// How long a controller may take to end: four times what its manifest gives it.
const CONTROLLER_END: Duration = Duration::from_secs(120);
/// How often it is looked for meanwhile.
const POLL: Duration = Duration::from_millis(500);

/// Which Kubernetes cluster, and where in it.
#[derive(Debug, clap::Args)]
pub struct Target {
    /// The kubeconfig [default: the files of KUBECONFIG, or ~/.kube/config]
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig [default: the current one]
    #[arg(long, env = "TRADEWIND_CONTEXT", value_name = "NAME")]
    pub context: Option<String>,
    /// Namespace of everything that has one
    #[arg(long, env = "TRADEWIND_NAMESPACE", value_name = "NAME", default_value = NAMESPACE)]
    pub namespace: tradewind_api::Namespace,
}

impl Target {
    /// Its API server.
    pub async fn cluster(&self) -> Result<Cluster, Failure> {
        let place = Place {
            kubeconfig: self.kubeconfig.clone(),
            context: self.context.clone(),
        };
        Cluster::of(&place).await.map_err(|e| cluster_failure(&e))
    }
}

/// `tradewind install`
#[derive(Debug, clap::Args)]
pub struct Install {
    #[command(flatten)]
    target: Target,
    /// YAML file with values over the defaults; repeatable, the last one goes first
    #[arg(short = 'f', long = "values", value_name = "FILE")]
    values: Vec<PathBuf>,
    /// One value over the files', such as cluster.name=west; repeatable
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Apply it, instead of printing it
    #[arg(long)]
    apply: bool,
    /// With --apply: have the API server check it, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Print every value with its default, and what it is for
    #[arg(long, conflicts_with_all = ["apply", "values", "set"])]
    show_values: bool,
}

/// Prints or applies the manifests.
pub async fn run(context: Context, args: Install) -> Outcome {
    let printer = context.printer;
    if args.show_values {
        printer.data(DEFAULT_VALUES.trim_end());
        return Ok(Exit::Good);
    }
    let values = read_values(&args.values, &args.set)?;
    let namespace = args.target.namespace.as_str();
    let manifests = install::render(&values, namespace).map_err(|e| render_failure(&e))?;
    if !args.apply {
        printer.data(install::to_text(&manifests).trim_end());
        printer.say(format_args!(
            "{} objects; apply them with --apply, or with `kubectl apply --server-side -f -`",
            manifests.len()
        ));
        return Ok(Exit::Good);
    }
    let cluster = args.target.cluster().await?;
    let name = values.text("cluster.name").unwrap_or_default();
    printer.title(format_args!(
        "installing cluster {name} into {namespace} of {}",
        cluster.url
    ));
    let there = in_namespace(&cluster, &manifests).await?;
    for manifest in &manifests {
        let id = manifest.id();
        if args.dry_run && !there && manifest.object.pointer("/metadata/namespace").is_some() {
            printer.say(format_args!(
                "        {id} cannot be checked before there is the namespace"
            ));
            continue;
        }
        cluster.apply(manifest, args.dry_run).await.map_err(|e| {
            cluster_failure(&e)
                .hint("what was applied before stays; the same command goes on from there")
        })?;
        printer.done(id);
    }
    let left_over = cluster.left_over(namespace, &manifests).await;
    for object in left_over.map_err(|e| cluster_failure(&e))? {
        let removed = cluster.remove(&object, args.dry_run).await;
        removed.map_err(|e| cluster_failure(&e))?;
        printer.say(format_args!(
            "  -     {}: no part of it any more",
            object.id()
        ));
    }
    if args.dry_run {
        printer.say("nothing was changed (--dry-run)");
    } else {
        printer.say("see whether it is well: tradewind check");
        printer.say("give pods of a namespace a proxy: kubectl label namespace NAME tradewind.io/injection=enabled");
        printer.say("reverse with: tradewind uninstall");
    }
    Ok(Exit::Good)
}

/// Whether the namespace is there, so that what goes into it can be checked.
async fn in_namespace(cluster: &Cluster, manifests: &[Manifest]) -> Result<bool, Failure> {
    let Some(namespace) = manifests.first() else {
        return Ok(false);
    };
    let found = cluster.find(namespace).await;
    Ok(found.map_err(|e| cluster_failure(&e))?.is_some())
}

fn read_values(files: &[PathBuf], set: &[String]) -> Result<Values, Failure> {
    let refused = |error: &ValuesError, of: &str| {
        Failure::usage(format!("{of}: {error}"))
            .hint("`tradewind install --show-values` lists every value")
    };
    let mut values = Values::default();
    for file in files {
        let path = file.display().to_string();
        let failed = |e: std::io::Error| Failure::usage(format!("{path} cannot be read: {e}"));
        if fs::metadata(file).map_err(failed)?.len() > MAX_VALUES_BYTES {
            return Err(Failure::usage(format!(
                "{path} is longer than values are ({MAX_VALUES_BYTES} bytes)"
            )));
        }
        let text = fs::read_to_string(file).map_err(failed)?;
        values.merge(&text).map_err(|e| refused(&e, &path))?;
    }
    for assignment in set {
        values.set(assignment).map_err(|e| refused(&e, "--set"))?;
    }
    Ok(values)
}

fn render_failure(error: &RenderError) -> Failure {
    Failure::of(Exit::Usage, error)
        .hint("set values with --set KEY=VALUE or -f FILE; `tradewind install --show-values` lists every one")
}

/// How an API server's refusal or silence is told.
pub fn cluster_failure(error: &ClusterError) -> Failure {
    if error.is_unreachable() {
        return Failure::of(Exit::Unreachable, error)
            .hint("`kubectl version` with the same --context must work");
    }
    match error {
        ClusterError::Place(_) => Failure::of(Exit::Usage, error)
            .hint("`kubectl config get-contexts` lists contexts; choose one with --context"),
        ClusterError::Object { .. } | ClusterError::UnknownKind(_) => {
            Failure::of(Exit::Refused, error)
        }
    }
}

/// `tradewind uninstall`
#[derive(Debug, clap::Args)]
pub struct Uninstall {
    #[command(flatten)]
    target: Target,
    /// Remove the CRDs as well, and with them every ServiceExport and ServiceImport of the cluster
    #[arg(long)]
    crds: bool,
    /// Remove the controller's volume as well, with the cluster's keys and the store; of the founder also the root key, which is nowhere else
    #[arg(long)]
    data: bool,
    /// Do it; without, only what would be done is said
    #[arg(long)]
    yes: bool,
    /// Say what would be done, and that this was wanted
    #[arg(long, conflicts_with = "yes")]
    dry_run: bool,
}

/// Takes everything out.
pub async fn uninstall(context: Context, args: Uninstall) -> Outcome {
    let printer = context.printer;
    let cluster = args.target.cluster().await?;
    let found = cluster
        .installed(args.target.namespace.as_str())
        .await
        .map_err(|e| cluster_failure(&e))?;
    let (go, stay) = plan(found, args.crds, args.data);
    if go.is_empty() {
        printer.say("nothing is installed");
    }
    printer.title(format_args!("removing from {}", cluster.url));
    if args.yes {
        remove(printer, &cluster, &args, &go).await?;
    } else {
        for object in &go {
            printer.say(format_args!("  -     {}", object.id()));
        }
    }
    for object in &stay {
        let flag = match object.sort {
            Sort::Crd => "--crds",
            Sort::Volume | Sort::Plain => "--data",
        };
        printer.say(format_args!("  stays {} ({flag})", object.id()));
    }
    if args.yes || go.is_empty() {
        printer.say("pods keep their proxy until they are made anew: kubectl rollout restart");
        return Ok(Exit::Good);
    }
    printer.say("nothing was changed");
    if args.dry_run {
        return Ok(Exit::Good);
    }
    Err(Failure::new(
        Exit::Refused,
        "uninstalling takes this cluster out of the mesh",
    )
    .hint("`tradewind leave` first, so that the federation knows")
    .hint("then repeat the command with --yes"))
}

/// First what runs, then, once it is gone, what it kept: it would write that anew, and may have written more since it was listed.
async fn remove(
    printer: Printer,
    cluster: &Cluster,
    args: &Uninstall,
    go: &[Installed],
) -> Result<(), Failure> {
    let again = |e| cluster_failure(&e).hint("the same command goes on from there");
    let namespace = args.target.namespace.as_str();
    for object in go.iter().filter(|object| object.runs()) {
        cluster.remove(object, false).await.map_err(again)?;
        printer.done(object.id());
    }
    let end = Instant::now() + CONTROLLER_END;
    loop {
        let running = cluster.controllers(namespace).await.map_err(again)?;
        let Some(first) = running.first() else { break };
        if Instant::now() >= end {
            return Err(Failure::problem(format!(
                "Pod/{first} in {namespace} is still there after {} s, and would write anew what is removed",
                CONTROLLER_END.as_secs()
            ))
            .hint(format!("see why: kubectl describe pod -n {namespace} {first}"))
            .hint("the same command goes on from there"));
        }
        tokio::time::sleep(POLL).await;
    }
    let found = cluster.installed(namespace).await.map_err(again)?;
    for object in plan(found, args.crds, args.data).0 {
        cluster.remove(&object, false).await.map_err(again)?;
        printer.done(object.id());
    }
    Ok(())
}

/// What goes and what stays. A namespace takes its volumes with it, so it stays while they are to stay.
fn plan(found: Vec<Installed>, crds: bool, data: bool) -> (Vec<Installed>, Vec<Installed>) {
    let keeps_volumes = !data && found.iter().any(|object| object.sort == Sort::Volume);
    found.into_iter().partition(|object| match object.sort {
        Sort::Crd => crds,
        Sort::Volume => data,
        Sort::Plain => !(object.is_namespace() && keeps_volumes),
    })
}
