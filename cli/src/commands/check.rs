//! `tradewind check`: whether a Kubernetes cluster can take Tradewind (`--pre`), or is well with it; and whether a host's controller is,
//! with the others of its cluster.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;
use tradewind_api::proto::v1;
use tradewind_kubernetes::{
    check::{
        self, Facts, Finding, Look, Outcome as Found,
        controllers::{Asked, Controller, Told},
    },
    install::cluster::Cluster,
};

use super::{Context, install::cluster_failure};
use crate::{
    admin::{Admin, Outside, Place, Where},
    exit::{Exit, Failure, Outcome},
    output::{Format, Output, document},
    printer::Printer,
};

/// How long a controller may take to answer through an API server: a few of its calls, and one that hangs is told.
const THROUGH_DEADLINE: Duration = Duration::from_secs(20);

/// `tradewind check`
#[derive(Debug, clap::Args)]
pub struct Check {
    #[command(flatten)]
    place: Where,
    /// Look whether it can be installed, instead of whether it is well
    #[arg(long)]
    pre: bool,
    #[command(flatten)]
    output: Output,
}

/// Looks, and says what it found.
pub async fn run(context: Context, args: Check) -> Outcome {
    let begun = Instant::now();
    let (facts, look) = match args.place.kubernetes_first() {
        Place::Outside(outside) => kubernetes(&outside, args.pre).await?,
        Place::Local { .. } if args.pre => {
            return Err(Failure::usage("--pre looks at a Kubernetes cluster")
                .hint("name it with --context, instead of a data directory or socket"));
        }
        Place::Local { socket, .. } => {
            let status = Admin::connect_to(&socket).await?.status().await?;
            let facts = Facts {
                controller: Some(Asked::Told(told(status))),
                ..Facts::default()
            };
            (facts, Look::Host)
        }
    };
    let findings = check::judge(&facts, look);
    let count = |wanted: Found| findings.iter().filter(|f| f.outcome == wanted).count();
    match args.output.format {
        Format::Json => context.printer.json(&as_json(&findings)),
        Format::Name => findings
            .iter()
            .filter(|f| f.outcome != Found::Ok)
            .for_each(|f| context.printer.data(f.check.id)),
        Format::Table => show(context.printer, &findings),
    }
    context.printer.say(format_args!(
        "{} failed, {} warnings, {} passed, {} skipped in {:.1} s",
        count(Found::Failed),
        count(Found::Warning),
        count(Found::Ok),
        count(Found::Skipped),
        begun.elapsed().as_secs_f64()
    ));
    let unreachable = matches!(facts.version, Some(Err(_)));
    Ok(match count(Found::Failed) {
        0 => Exit::Good,
        _ if unreachable => Exit::Unreachable,
        _ => Exit::Problems,
    })
}

/// What an API server says, and a controller behind it where one is ready.
async fn kubernetes(outside: &Outside, pre: bool) -> Result<(Facts, Look), Failure> {
    let cluster = Cluster::of(&outside.api).await;
    let cluster = cluster.map_err(|e| cluster_failure(&e))?;
    let facts = check::gather::facts(&cluster, &outside.namespace, pre).await;
    let mut facts = facts.map_err(|e| cluster_failure(&e))?;
    if pre {
        return Ok((facts, Look::Pre));
    }
    if facts.controller_is_ready() {
        facts.controller = Some(ask(outside).await);
    }
    Ok((facts, Look::Installed))
}

async fn ask(outside: &Outside) -> Asked {
    let status = async { Admin::through(outside).await?.status().await };
    match tokio::time::timeout(THROUGH_DEADLINE, status).await {
        Ok(Ok(status)) => Asked::Told(told(status)),
        Ok(Err(failure)) if failure.exit == Exit::Refused => Asked::Forbidden(in_words(&failure)),
        Ok(Err(failure)) => Asked::Silent(in_words(&failure)),
        Err(_) => Asked::Silent(format!("not within {} s", THROUGH_DEADLINE.as_secs())),
    }
}

fn in_words(failure: &Failure) -> String {
    let causes = failure.causes.iter().map(String::as_str);
    let all: Vec<&str> = std::iter::once(failure.what.as_str())
        .chain(causes)
        .collect();
    all.join(": ")
}

fn told(status: v1::StatusResponse) -> Told {
    let controller = |one: v1::ControllerStatus| Controller {
        node: one.node_id,
        address: one.address,
        asked: one.this_node,
        up: one.up,
        since_ms: one.age_ms,
        heard_ms: one.heard_age_ms,
        error: one.error,
        revision: one.revision,
        leader: one.leader,
        speaks: one.speaks,
    };
    let refused = status.refused_kinds.into_iter();
    Told {
        cluster: status.cluster,
        revision: status.revision,
        controllers: status.controllers.into_iter().map(controller).collect(),
        refused: refused.map(|r| (r.kind, r.why)).collect(),
    }
}

fn show(printer: Printer, findings: &[Finding]) {
    let width = findings.iter().map(|f| f.check.about.len()).max();
    let width = width.unwrap_or(0);
    let mut category = "";
    for finding in findings {
        let check = finding.check;
        if check.category != category {
            category = check.category;
            printer.data(category);
        }
        let word = match finding.outcome {
            Found::Ok => "ok",
            Found::Warning => "warn",
            Found::Failed => "FAIL",
            Found::Skipped => "-",
        };
        printer.data(format_args!(
            "  {word:<4}  {:<width$}  {}",
            check.about, finding.message
        ));
        if matches!(finding.outcome, Found::Warning | Found::Failed) {
            printer.data(format_args!(
                "        hint: {}; docs/checks.md#{}",
                check.hint, check.id
            ));
        }
    }
}

fn as_json(findings: &[Finding]) -> Value {
    let mut categories: Vec<(&str, Vec<Value>)> = Vec::new();
    for finding in findings {
        let check = finding.check;
        let one = json!({
            "id": check.id,
            "about": check.about,
            "result": finding.outcome.as_str(),
            "message": finding.message,
            "hint": check.hint,
            "docs": format!("docs/checks.md#{}", check.id),
        });
        match categories.last_mut() {
            Some((category, all)) if *category == check.category => all.push(one),
            _ => categories.push((check.category, vec![one])),
        }
    }
    let categories: Vec<Value> = categories
        .into_iter()
        .map(|(id, checks)| json!({ "id": id, "checks": checks }))
        .collect();
    let ok = !findings.iter().any(|f| f.outcome == Found::Failed);
    document(
        "tradewind.check/v1",
        json!({ "ok": ok, "categories": categories }),
    )
}
