//! `tradewind check`: whether a Kubernetes cluster can take Tradewind (`--pre`), or is well with it.

use serde_json::{Value, json};
use tokio::time::Instant;
use tradewind_kubernetes::check::{self, Finding, Outcome as Found};

use super::{
    Context,
    install::{Target, cluster_failure},
};
use crate::{
    exit::{Exit, Outcome},
    output::{Format, Output, document},
    printer::Printer,
};

/// `tradewind check`
#[derive(Debug, clap::Args)]
pub struct Check {
    #[command(flatten)]
    target: Target,
    /// Look whether it can be installed, instead of whether it is well
    #[arg(long)]
    pre: bool,
    #[command(flatten)]
    output: Output,
}

/// Looks, and says what it found.
pub async fn run(context: Context, args: Check) -> Outcome {
    let begun = Instant::now();
    let cluster = args.target.cluster().await?;
    let facts = check::gather::facts(&cluster, args.target.namespace.as_str(), args.pre)
        .await
        .map_err(|e| cluster_failure(&e))?;
    let findings = check::judge(&facts, args.pre);
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
