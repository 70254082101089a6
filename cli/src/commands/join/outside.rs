//! `tradewind join --context MEMBER --context NEW`: from outside, with the rights of whoever runs it at both API servers. Neither cluster
//! learns how to speak with the other's API server.

use std::{path::PathBuf, time::Duration};

use serde_json::json;
use tokio::time::Instant;
use tradewind_api::proto::v1;
use tradewind_kubernetes::{
    Place,
    install::{NAMESPACE, cluster::Cluster},
};

use super::super::{Context, install::cluster_failure};
use crate::{
    admin::{Admin, Outside},
    duration,
    exit::{Exit, Failure, Outcome},
    output::{Format, Output, document},
    printer::Printer,
    view,
};

/// How long the token is good for: NEW's controller takes it within seconds of its start, after its image was fetched.
const TOKEN_SECONDS: u64 = 900;
/// How often both are asked while the one joins.
const POLL: Duration = Duration::from_secs(1);

/// The flags.
#[derive(Clone, Debug, clap::Args)]
pub struct Between {
    /// From outside, for clusters in Kubernetes: first the context of a member, then that of the cluster that joins
    #[arg(id = "contexts", long = "context", value_name = "NAME")]
    contexts: Vec<String>,
    /// With --context: the kubeconfig [default: the files of KUBECONFIG, or ~/.kube/config]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// With --context: the namespace that Tradewind is installed in, in both
    #[arg(long, env = "TRADEWIND_NAMESPACE", value_name = "NAME", default_value = NAMESPACE)]
    namespace: tradewind_api::Namespace,
    /// With --context: how long to wait until the two reach each other
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = duration::parse)]
    wait: Duration,
}

/// What is to be done.
struct Plan {
    new: Outside,
    /// The member's name, and at which of its gateways it is reached.
    through: String,
    gateways: Vec<String>,
    /// The name of the cluster that joins.
    cluster: String,
    domain: String,
    /// It is a member already, so that nothing is left but to wait.
    is_member: bool,
}

/// Joins.
pub async fn run(context: Context, args: Between, dry_run: bool, output: Output) -> Outcome {
    let printer = context.printer;
    let [member, new] = args.contexts.as_slice() else {
        return Err(
            Failure::usage("a join from outside is between two clusters")
                .hint("tradewind join --context MEMBER --context NEW"),
        );
    };
    let outside = |name: &String| Outside {
        api: Place {
            kubeconfig: args.kubeconfig.clone(),
            context: Some(name.clone()),
        },
        namespace: args.namespace.to_string(),
    };
    let (member, new) = (outside(member), outside(new));
    let admin = Admin::through(&member).await?;
    let kubernetes = Cluster::of(&new.api).await;
    let kubernetes = kubernetes.map_err(|e| cluster_failure(&e))?;
    let plan = plan(&admin.status().await?, &kubernetes, new).await?;
    tell(printer, &plan);
    if dry_run {
        printer.say("nothing was changed (--dry-run)");
    } else {
        if !plan.is_member {
            introduce(printer, &plan, &admin, &kubernetes).await?;
        }
        wait(printer, &plan, &admin, args.wait).await?;
        let withdrawn = kubernetes.withdraw_offer(&plan.new.namespace).await;
        withdrawn.map_err(|e| cluster_failure(&e))?;
        printer.done(format_args!("{} has joined {}", plan.cluster, plan.domain));
        printer.say(format_args!(
            "see it: tradewind status --context {}",
            plan.new.name()
        ));
    }
    match output.format {
        Format::Json => printer.json(&document(
            "tradewind.join-outside/v1",
            json!({
                "cluster": plan.cluster,
                "domain": plan.domain,
                "through": plan.through,
                "gateways": plan.gateways,
                "was_member": plan.is_member,
                "dry_run": dry_run,
            }),
        )),
        Format::Name | Format::Table => printer.data(&plan.cluster),
    }
    Ok(Exit::Good)
}

async fn plan(
    status: &v1::StatusResponse,
    kubernetes: &Cluster,
    new: Outside,
) -> Result<Plan, Failure> {
    let found = kubernetes.installation(&new.namespace).await;
    let found = found.map_err(|e| cluster_failure(&e))?.ok_or_else(|| {
        Failure::problem(format!(
            "Tradewind is not installed in {} of {}",
            new.namespace,
            new.name()
        ))
        .hint(format!(
            "tradewind install --context {} --set cluster.found=false --set cluster.name=NAME … --apply",
            new.name()
        ))
    })?;
    let through = status.cluster.clone();
    if found.cluster == through {
        return Err(Failure::usage(format!(
            "both contexts lead to clusters of the name {through}: names are unique in a federation"
        ))
        .hint("name the member's context first, then that of the cluster that joins"));
    }
    let named = |wanted: &str| {
        let all = status.clusters.iter();
        all.filter_map(|c| c.cluster.as_ref())
            .find(|c| c.name == wanted)
    };
    let is_member = named(&found.cluster).is_some_and(|c| view::cluster_state(c) != "left");
    if found.founds && !is_member {
        return Err(Failure::new(
            Exit::Refused,
            format!(
                "{} was installed as the founder of a federation of its own",
                found.cluster
            ),
        )
        .hint("install it with --set cluster.found=false; a cluster that has founded one needs an empty volume to join another"));
    }
    let gateways = named(&through).map_or_else(Vec::new, |c| c.gateways.clone());
    Ok(Plan {
        new,
        through,
        gateways,
        cluster: found.cluster,
        domain: status.domain.clone(),
        is_member,
    })
}

fn tell(printer: Printer, plan: &Plan) {
    let (cluster, through) = (&plan.cluster, &plan.through);
    printer.title(format_args!("joining {cluster} through {through}"));
    if plan.is_member {
        printer.say(format_args!("  - {cluster} is a member already"));
    } else {
        let (namespace, new) = (&plan.new.namespace, plan.new.name());
        printer.say(format_args!(
            "  - {through} makes a token that lets {cluster} alone in, once"
        ));
        printer.say(format_args!(
            "  - the Secret tradewind-join in {namespace} of {new} holds it, until {cluster} has joined"
        ));
        printer.say(format_args!(
            "  - {cluster}'s controller starts and dials {through}'s gateways: {}",
            plan.gateways.join(", ")
        ));
    }
    printer.say("  - each is asked until it reaches the other");
}

async fn introduce(
    printer: Printer,
    plan: &Plan,
    admin: &Admin,
    kubernetes: &Cluster,
) -> Result<(), Failure> {
    let request = v1::CreateTokenRequest {
        cluster: plan.cluster.clone(),
        lifetime_s: TOKEN_SECONDS,
        ..v1::CreateTokenRequest::default()
    };
    let made = admin
        .call(request, async |mut c, r| c.create_token(r).await)
        .await?;
    printer.done(format_args!("{} made the token {}", plan.through, made.id));
    let again = |e| cluster_failure(&e).hint("the same command begins anew");
    let namespace = &plan.new.namespace;
    let offered = kubernetes.offer(namespace, &made.join_address, &made.token);
    offered.await.map_err(again)?;
    printer.done(format_args!("Secret/tradewind-join in {namespace}"));
    for pod in kubernetes.start_waiting(namespace).await.map_err(again)? {
        printer.done(format_args!("Pod/{pod} starts anew"));
    }
    Ok(())
}

async fn wait(
    printer: Printer,
    plan: &Plan,
    admin: &Admin,
    limit: Duration,
) -> Result<(), Failure> {
    let start = Instant::now();
    let mut said = String::new();
    let mut connected = None;
    loop {
        let unmet = match ask(&mut connected, plan, admin).await {
            Ok((there, here)) => unmet(plan, &there, &here),
            Err(failure) if matches!(failure.exit, Exit::Unreachable | Exit::TimedOut) => {
                Some(failure.what)
            }
            Err(failure) => return Err(failure),
        };
        let Some(unmet) = unmet else { return Ok(()) };
        if start.elapsed() >= limit {
            let (new, namespace) = (plan.new.name(), &plan.new.namespace);
            let waited = limit.as_secs_f32().ceil();
            return Err(Failure::new(
                Exit::TimedOut,
                format!("waited {waited} s for {}; still unmet: {unmet}", plan.cluster),
            )
            .hint(format!(
                "what its controller says: kubectl --context {new} logs -n {namespace} tradewind-controller-0 --all-containers"
            ))
            .hint("the same command goes on from there"));
        }
        if unmet != said {
            let spent = start.elapsed().as_secs();
            let limit = limit.as_secs();
            printer.say(format_args!("waiting  {spent:>3} / {limit} s   {unmet}"));
            said = unmet;
        }
        tokio::time::sleep(POLL.min(limit)).await;
    }
}

/// What the cluster that joins says, and what the member does. A connection that answers is kept.
async fn ask(
    connected: &mut Option<Admin>,
    plan: &Plan,
    admin: &Admin,
) -> Result<(v1::StatusResponse, v1::StatusResponse), Failure> {
    let new = match connected.take() {
        Some(new) => new,
        None => Admin::through(&plan.new).await?,
    };
    let there = new.status().await?;
    *connected = Some(new);
    Ok((there, admin.status().await?))
}

/// What is still missing.
fn unmet(plan: &Plan, there: &v1::StatusResponse, here: &v1::StatusResponse) -> Option<String> {
    if there.domain != plan.domain {
        return Some(format!(
            "{} is in the federation {}, not in {}",
            plan.cluster, there.domain, plan.domain
        ));
    }
    let reaches = |status: &v1::StatusResponse, wanted: &str| {
        let mut all = status.clusters.iter();
        all.any(|one| {
            let is = one.cluster.as_ref().is_some_and(|c| c.name == wanted);
            is && one.facts.as_ref().and_then(|f| f.reachable) == Some(true)
        })
    };
    [
        (here, &plan.through, &plan.cluster),
        (there, &plan.cluster, &plan.through),
    ]
    .into_iter()
    .find(|(status, _, whom)| !reaches(status, whom))
    .map(|(_, who, whom)| format!("{who} does not reach {whom} yet"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(cluster: &str, others: &[(&str, Option<bool>)]) -> v1::StatusResponse {
        let other = |(name, reachable): &(&str, Option<bool>)| v1::ClusterStatus {
            cluster: Some(v1::Cluster {
                name: (*name).to_owned(),
                ..v1::Cluster::default()
            }),
            facts: Some(v1::ClusterFacts {
                reachable: *reachable,
                ..v1::ClusterFacts::default()
            }),
            ..v1::ClusterStatus::default()
        };
        v1::StatusResponse {
            cluster: cluster.to_owned(),
            domain: "mesh.internal".to_owned(),
            clusters: others.iter().map(other).collect(),
            ..v1::StatusResponse::default()
        }
    }

    #[test]
    fn it_has_joined_when_each_reaches_the_other() {
        let new = Outside {
            api: Place {
                kubeconfig: None,
                context: Some("central".to_owned()),
            },
            namespace: NAMESPACE.to_owned(),
        };
        let plan = Plan {
            new,
            through: "west".to_owned(),
            gateways: Vec::new(),
            cluster: "central".to_owned(),
            domain: "mesh.internal".to_owned(),
            is_member: false,
        };
        let here = status("west", &[("central", Some(true))]);
        let there = status("central", &[("east", Some(false)), ("west", Some(true))]);
        assert_eq!(unmet(&plan, &there, &here), None);
        for (there, here, says) in [
            (&there, &status("west", &[]), "west does not reach central"),
            (
                &there,
                &status("west", &[("central", None)]),
                "west does not reach central",
            ),
            (
                &status("central", &[("west", Some(false))]),
                &here,
                "central does not reach west",
            ),
        ] {
            let said = unmet(&plan, there, here).unwrap();
            assert!(said.starts_with(says), "{said}");
        }
        let mut elsewhere = there;
        elsewhere.domain = "other".to_owned();
        assert!(unmet(&plan, &elsewhere, &here).unwrap().contains("other"));
    }
}
