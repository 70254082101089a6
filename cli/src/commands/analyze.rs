//! `tradewind analyze`: what is wrong or without effect in files of routes, before anybody acts on them.

use std::path::PathBuf;

use serde_json::json;
use tradewind_controller::source::{self, YamlModel};
use tradewind_policy::{Finding, Severity, World, compile, fields_as_markdown};

use super::Context;
use crate::{
    admin::{Admin, Where},
    exit::{Exit, Failure, Outcome},
    output::{Listing, Output},
    table::Table,
};

/// `tradewind analyze routes/ --live`
#[derive(Debug, clap::Args)]
pub struct Analyze {
    /// Files and directories of YAML or JSON
    #[arg(value_name = "PATH", required_unless_present = "fields")]
    paths: Vec<PathBuf>,
    /// Count the services that the running cluster knows as well as those of the files
    #[arg(long)]
    live: bool,
    /// Fail for warnings as well as for errors
    #[arg(long)]
    strict: bool,
    /// Print every kind and field that is understood, and what becomes of it, as Markdown
    #[arg(long, conflicts_with_all = ["paths", "live", "strict"])]
    fields: bool,
    #[command(flatten)]
    place: Where,
    #[command(flatten)]
    output: Output,
}

/// Says it.
pub async fn run(context: Context, args: Analyze) -> Outcome {
    if args.fields {
        context.printer.data(fields_as_markdown());
        return Ok(Exit::Good);
    }
    let model = source::read(&args.paths).map_err(|error| {
        Failure::usage(format!("cannot read {error}"))
            .hint("name files or directories of YAML, such as `tradewind analyze manifests/`")
    })?;
    let mut world = of_files(&model);
    if args.live {
        add_live(&mut world, &args.place).await?;
    }
    let policy = compile(&model.policy, &world);
    let mut table = Table::new(&["PLACE", "CODE", "SEVERITY", "OBJECT", "FIELD", "WHAT"]);
    for problem in &model.problems {
        let (place, text) = (problem.place.clone(), problem.text.clone());
        table.row([
            place,
            UNREAD.to_owned(),
            "error".to_owned(),
            "-".to_owned(),
            "-".to_owned(),
            text,
        ]);
    }
    for finding in &policy.findings {
        table.row(row(finding));
    }
    let count = |severity| {
        let of = policy
            .findings
            .iter()
            .filter(|f| f.code.severity() == severity);
        of.count()
    };
    let errors = count(Severity::Error) + model.problems.len();
    let warnings = count(Severity::Warning);
    Listing {
        schema: "tradewind.analyze/v1",
        json: json!({
            "objects": model.policy.len(),
            "services": policy.routes.len(),
            "errors": errors,
            "warnings": warnings,
            "unread": model.problems.iter().map(|p| json!({"place": p.place, "code": UNREAD, "text": p.text})).collect::<Vec<_>>(),
            "findings": policy.findings,
        }),
        table,
        names: policy.findings.iter().map(|f| f.code.as_str().to_owned()).collect(),
        empty: "nothing is wrong",
    }
    .show(context.printer, args.output);
    context.printer.say(format!(
        "{} objects with rules for {} services: {errors} errors, {warnings} warnings",
        model.policy.len(),
        policy.routes.len()
    ));
    for hint in hints(&policy.findings) {
        context.printer.say(hint);
    }
    let fails = errors > 0 || (args.strict && warnings > 0);
    Ok(if fails { Exit::Problems } else { Exit::Good })
}

/// The code of what could not be read at all, or is of no kind that is known.
const UNREAD: &str = "TW0200";

fn row(finding: &Finding) -> [String; 6] {
    let path = &finding.path;
    [
        finding.place.clone(),
        finding.code.as_str().to_owned(),
        finding.code.severity().as_str().to_owned(),
        finding.object.clone(),
        if path.is_empty() {
            "-".to_owned()
        } else {
            path.clone()
        },
        finding.text.clone(),
    ]
}

/// What to do, once for each code.
fn hints(findings: &[Finding]) -> Vec<String> {
    let mut codes: Vec<_> = findings.iter().map(|f| f.code).collect();
    codes.sort_unstable();
    codes.dedup();
    let hint = |code: tradewind_policy::Code| format!("hint: {}: {}", code.as_str(), code.hint());
    codes.into_iter().map(hint).collect()
}

fn of_files(model: &YamlModel) -> World {
    let mut world = World::default();
    for service in model.services.values() {
        let ports = service.ports.iter().map(|p| (p.name.clone(), p.port));
        world.services.insert(service.name.clone(), ports.collect());
    }
    world
}

async fn add_live(world: &mut World, place: &Where) -> Result<(), Failure> {
    let admin = Admin::connect(place).await?;
    for service in admin.services(false).await?.services {
        let Ok(name) = tradewind_api::ServiceName::new(&service.namespace, &service.name) else {
            continue;
        };
        let port =
            |p: tradewind_api::proto::v1::ServicePort| Some((p.name, u16::try_from(p.port).ok()?));
        let ports = service.ports.into_iter().filter_map(port).collect();
        world.services.entry(name).or_insert(ports);
    }
    Ok(())
}
