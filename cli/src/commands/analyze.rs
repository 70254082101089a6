//! `tradewind analyze`: what is wrong or without effect in files of routes, before anybody acts on them; in what a running
//! cluster has; or in that with the files, and what they would change.

mod compare;
mod live;

use std::{borrow::Borrow, path::PathBuf, sync::Arc};

use serde_json::{Value, json};
use tradewind_controller::source::{self, Problem, SourceModel};
use tradewind_policy::{
    Finding, Object, RouteStatus, Severity, World, compile, fields_as_markdown,
};

use super::Context;
use crate::{
    admin::Where,
    exit::{Exit, Failure, Outcome},
    output::{Listing, Output},
    table::{Table, or_dash},
};
use compare::{Change, compare};
use live::Live;

/// `tradewind analyze routes/ --live`
#[derive(Debug, clap::Args)]
pub struct Analyze {
    /// Files and directories of YAML or JSON
    #[arg(value_name = "PATH", required_unless_present_any = ["fields", "live"])]
    paths: Vec<PathBuf>,
    /// Judge what the running cluster has; with files, what it would have with them, and what they change
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
    let files = source::read(&args.paths).map_err(|error| {
        Failure::usage(format!("cannot read {error}"))
            .hint("name files or directories of YAML, such as `tradewind analyze manifests/`")
    })?;
    let judged = if args.live {
        let live = Live::ask(&args.place).await?;
        if args.paths.is_empty() {
            Judged::new(&live.objects, &live.world, live.problems)
        } else {
            let unread = live.problems.len();
            if unread > 0 {
                context.printer.warn(format_args!(
                    "{unread} things in the controller's own files are not read and not counted here; `tradewind analyze --live` lists them"
                ));
            }
            Judged::with_files(&live, files)
        }
    } else {
        Judged::new(&files.policy, &of_files(&files), files.problems)
    };
    judged.listing().show(context.printer, args.output);
    context.printer.say(judged.summary());
    for hint in judged.hints() {
        context.printer.say(hint);
    }
    let fails = judged.errors() > 0 || (args.strict && judged.count(Severity::Warning) > 0);
    Ok(if fails { Exit::Problems } else { Exit::Good })
}

/// The code of what could not be read at all, or is of no kind that is known.
const UNREAD: &str = "TW0200";

/// What was found, and in how much.
#[derive(Debug)]
struct Judged {
    objects: usize,
    services: usize,
    unread: Vec<Problem>,
    findings: Vec<Finding>,
    /// What Gateway API's routes are told of themselves.
    statuses: Vec<Arc<RouteStatus>>,
    /// What becomes of each finding, and behind them those that would be gone; none where nothing was compared.
    marked: Option<Vec<(Change, Finding)>>,
}

impl Judged {
    fn new(objects: &[impl Borrow<Object>], world: &World, unread: Vec<Problem>) -> Self {
        let policy = compile(objects, world);
        Self {
            objects: objects.len(),
            services: policy.routes.len(),
            unread,
            findings: policy.findings,
            statuses: policy.statuses,
            marked: None,
        }
    }

    /// What the cluster would have with the files, against what it has. What its controller cannot read now stays apart: it says nothing
    /// of the files.
    fn with_files(live: &Live, files: SourceModel) -> Self {
        let before = compile(&live.objects, &live.world).findings;
        let (objects, world) = live.with(&files);
        let judged = Self::new(&objects, &world, files.problems);
        Self {
            marked: Some(compare(&before, judged.findings.clone())),
            ..judged
        }
    }

    fn count(&self, severity: Severity) -> usize {
        let of = self.findings.iter();
        of.filter(|f| f.code.severity() == severity).count()
    }

    fn errors(&self) -> usize {
        self.count(Severity::Error) + self.unread.len()
    }

    fn of(&self, change: Change) -> impl Iterator<Item = &Finding> {
        let marked = self.marked.iter().flatten();
        let of = marked.filter(move |(c, _)| *c == change);
        of.map(|(_, finding)| finding)
    }

    fn summary(&self) -> String {
        let changes = self.marked.as_ref().map(|_| {
            let [new, gone] = [Change::New, Change::Gone].map(|c| self.of(c).count());
            format!("; with the files {new} are new, and {gone} gone")
        });
        format!(
            "{} objects with rules for {} services: {} errors, {} warnings{}",
            self.objects,
            self.services,
            self.errors(),
            self.count(Severity::Warning),
            changes.unwrap_or_default()
        )
    }

    /// What to do, once for each code.
    fn hints(&self) -> Vec<String> {
        let mut codes: Vec<_> = self.findings.iter().map(|f| f.code).collect();
        codes.sort_unstable();
        codes.dedup();
        let hint =
            |code: tradewind_policy::Code| format!("hint: {}: {}", code.as_str(), code.hint());
        codes.into_iter().map(hint).collect()
    }

    fn listing(&self) -> Listing {
        let unread = self.unread.iter();
        let mut json = json!({
            "objects": self.objects,
            "services": self.services,
            "errors": self.errors(),
            "warnings": self.count(Severity::Warning),
            "unread": unread.map(|p| json!({"place": p.place, "code": UNREAD, "text": p.text})).collect::<Vec<_>>(),
            "findings": self.findings_json(),
            "statuses": self.statuses.iter().map(|s| json!(**s)).collect::<Vec<_>>(),
        });
        if let (Some(_), Some(fields)) = (&self.marked, json.as_object_mut()) {
            let gone: Vec<_> = self.of(Change::Gone).collect();
            fields.insert("gone".to_owned(), json!(gone));
        }
        let codes = self.findings.iter().map(|f| f.code.as_str().to_owned());
        Listing {
            schema: "tradewind.analyze/v1",
            json,
            table: self.table(),
            names: codes.collect(),
            empty: "nothing is wrong",
        }
    }

    /// Those that there are, or would be, with what becomes of them.
    fn findings_json(&self) -> Vec<Value> {
        let Some(marked) = &self.marked else {
            return self.findings.iter().map(|f| json!(f)).collect();
        };
        let there = marked.iter().filter(|(c, _)| *c != Change::Gone);
        let with = |(change, finding): &(Change, Finding)| {
            let mut json = json!(finding);
            if let Some(fields) = json.as_object_mut() {
                fields.insert("change".to_owned(), change.as_str().into());
            }
            json
        };
        there.map(with).collect()
    }

    fn table(&self) -> Table {
        const COLUMNS: [&str; 7] = [
            "CHANGE", "PLACE", "CODE", "SEVERITY", "OBJECT", "FIELD", "WHAT",
        ];
        // Where nothing was compared nothing changes.
        let skipped = usize::from(self.marked.is_none());
        let mut table = Table::new(COLUMNS.get(skipped..).unwrap_or_default());
        let mut row = |change: &str, cells: [String; 6]| {
            let all = std::iter::once(change.to_owned()).chain(cells);
            table.row(all.skip(skipped));
        };
        for problem in &self.unread {
            let Problem { place, text } = problem.clone();
            let [code, error, none] = [UNREAD, "error", "-"].map(str::to_owned);
            row("-", [place, code, error, none.clone(), none, text]);
        }
        match &self.marked {
            None => self.findings.iter().for_each(|f| row("", cells(f))),
            Some(marked) => {
                for (change, finding) in marked {
                    row(change.as_str(), cells(finding));
                }
            }
        }
        table
    }
}

fn cells(finding: &Finding) -> [String; 6] {
    [
        finding.place.clone(),
        finding.code.as_str().to_owned(),
        finding.code.severity().as_str().to_owned(),
        finding.object.clone(),
        or_dash(finding.path.clone()),
        finding.text.clone(),
    ]
}

fn of_files(model: &SourceModel) -> World {
    let mut world = World::default();
    for service in model.services.values() {
        let ports = service.ports.iter().map(|p| (p.name.clone(), p.port));
        world.services.insert(service.name.clone(), ports.collect());
    }
    world
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(service: &str, backend: &str, place: &str) -> Object {
        let value = json!({
            "apiVersion": "split.smi-spec.io/v1alpha4", "kind": "TrafficSplit",
            "metadata": {"name": "a", "namespace": "shop"},
            "spec": {"service": service, "backends": [{"service": backend, "weight": 1}]},
        });
        Object::new(place, value).unwrap()
    }

    fn live(backend: &str) -> Live {
        let cart: tradewind_api::ServiceName = "shop/cart".parse().unwrap();
        Live {
            objects: vec![split("cart", backend, "live.yaml:1")],
            world: World::of([(&cart, &[80][..])]),
            ..Live::default()
        }
    }

    fn files(backend: &str) -> SourceModel {
        SourceModel {
            policy: Arc::new(vec![Arc::new(split("cart", backend, "f.yaml:1"))]),
            ..SourceModel::default()
        }
    }

    #[test]
    fn findings_are_marked_where_files_meet_a_cluster_and_not_elsewhere() {
        let alone = Judged::new(&live("gone").objects, &live("gone").world, Vec::new());
        assert_eq!(alone.errors(), 1);
        let shown = alone.listing();
        assert!(shown.table.render().starts_with("PLACE        CODE"));
        assert!(shown.json.get("gone").is_none());
        assert!(shown.json["findings"][0].get("change").is_none());
        assert!(!alone.summary().contains("new"));

        let worse = Judged::with_files(&live("cart"), files("gone"));
        let shown = worse.listing();
        assert_eq!(
            (worse.errors(), shown.json["findings"][0]["change"].as_str()),
            (1, Some("new"))
        );
        assert!(
            shown.table.render().contains("\nnew     f.yaml:1"),
            "{}",
            shown.table.render()
        );
        assert!(
            worse
                .summary()
                .ends_with("; with the files 1 are new, and 0 gone")
        );

        let mended = Judged::with_files(&live("gone"), files("cart"));
        let shown = mended.listing();
        assert_eq!((mended.errors(), mended.hints().len()), (0, 0));
        assert_eq!(shown.json["findings"], json!([]));
        assert_eq!(shown.json["gone"][0]["place"], "live.yaml:1");
        assert!(shown.table.render().contains("\ngone    live.yaml:1"));

        let same = Judged::with_files(&live("gone"), files("gone")).listing();
        assert_eq!(same.json["findings"][0]["change"], "as it was");
    }

    #[test]
    fn routes_are_shown_what_they_would_be_told() {
        let value = json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
            "metadata": {"name": "r", "namespace": "shop"},
            "spec": {
                "parentRefs": [{"group": "", "kind": "Service", "name": "cart"}],
                "rules": [{"backendRefs": [{"name": "gone", "port": 80}]}],
            },
        });
        let route = Object::new("f.yaml:1", value).unwrap();
        let shown = Judged::new(&[route], &live("cart").world, Vec::new()).listing();
        let told = &shown.json["statuses"][0];
        assert_eq!(told["name"], "r");
        let conditions = &told["parents"][0]["conditions"];
        assert_eq!(conditions[0]["reason"], "Accepted");
        assert_eq!(conditions[1]["reason"], "BackendNotFound");
        let split = Judged::new(&live("cart").objects, &live("cart").world, Vec::new());
        assert_eq!(split.listing().json["statuses"], json!([]));
    }
}
