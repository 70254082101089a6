//! `tradewind plan --without east`: where calls would go without some clusters, against capacity, and what would break.

use serde_json::json;
use tradewind_api::{ClusterName, proto::v1};

use super::Context;
use crate::{
    admin::{Admin, Where},
    exit::{Exit, Outcome},
    output::{Format, Listing, Output},
    table::{Table, or_dash},
};

/// What `plan` says of each effect, worst first.
const EFFECTS: [(&str, &str); 5] = [
    ("fails", "nobody is left"),
    (
        "unfit",
        "only such are left that are failing, leaving or silent",
    ),
    ("overload", "more than 1.4 times the load for who is left"),
    ("moves", "others answer"),
    ("stays", "nothing changes"),
];

/// `tradewind plan --without east`
#[derive(Debug, clap::Args)]
pub struct Plan {
    /// A cluster that is taken to be lost; may be repeated
    #[arg(long, required = true, value_name = "CLUSTER")]
    without: Vec<ClusterName>,
    /// Show the calls that stay as they are, too
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    place: Where,
    #[command(flatten)]
    output: Output,
}

/// Says it.
pub async fn run(context: Context, args: Plan) -> Outcome {
    let admin = Admin::connect(&args.place).await?;
    let request = v1::PlanRequest {
        without: args.without.iter().map(ToString::to_string).collect(),
    };
    let mut found = admin
        .call(request, async |mut c, r| c.plan(r).await)
        .await?;
    found.calls.sort_by_key(|c| rank(&c.effect));
    let counts: Vec<_> = EFFECTS
        .iter()
        .map(|(word, says)| {
            let count = found.calls.iter().filter(|c| c.effect == *word).count();
            (*word, *says, count)
        })
        .collect();
    if args.output.format == Format::Table {
        context.printer.data(head(&found, &counts));
    }
    let breaks = found.calls.iter().any(|c| is_broken(&c.effect)) || !found.writes_then;
    let shown: Vec<_> = found
        .calls
        .iter()
        .filter(|c| args.all || c.effect != "stays")
        .collect();
    Listing {
        schema: "tradewind.plan/v1",
        table: table(&shown),
        names: shown.iter().map(|c| c.service.clone()).collect(),
        json: json!({
            "revision": found.revision,
            "without": args.without.iter().map(ClusterName::as_str).collect::<Vec<_>>(),
            "store": {
                "voters": found.voters,
                "voters_then": found.voters_then,
                "writes_then": found.writes_then,
            },
            "effects": counts.iter().map(|(word, _, n)| ((*word).to_owned(), json!(n))).collect::<serde_json::Map<_, _>>(),
            "calls": shown.iter().map(|c| json!({
                "service": c.service,
                "ports": c.ports,
                "from": c.from_cluster,
                "now": shares_json(&c.now),
                "then": shares_json(&c.then),
                "effect": c.effect,
                "load": c.load,
            })).collect::<Vec<_>>(),
        }),
        empty: "no call goes elsewhere",
    }
    .show(context.printer, args.output);
    Ok(if breaks { Exit::Problems } else { Exit::Good })
}

/// Worst first; a word that is not known here comes before all.
fn rank(effect: &str) -> usize {
    let at = EFFECTS.iter().position(|(word, _)| *word == effect);
    at.map_or(0, |i| i + 1)
}

fn is_broken(effect: &str) -> bool {
    !matches!(effect, "stays" | "moves")
}

fn shares_json(shares: &[v1::PlannedShare]) -> Vec<serde_json::Value> {
    let share = |s: &v1::PlannedShare| json!({"cluster": s.cluster, "share": s.share});
    shares.iter().map(share).collect()
}

/// What becomes of the store, and how many calls of each effect there are.
fn head(found: &v1::PlanResponse, counts: &[(&str, &str, usize)]) -> String {
    let writes = if found.writes_then {
        "writes go on"
    } else {
        "writes end, and what is known stays in force"
    };
    let mut lines = vec![format!(
        "store     {} of {} voters stay: {writes}",
        found.voters_then, found.voters
    )];
    for (word, says, count) in counts.iter().filter(|(.., n)| *n > 0) {
        lines.push(format!("{word:<9} {count}: {says}"));
    }
    lines.push(String::new());
    lines.join("\n")
}

fn table(calls: &[&v1::PlannedCalls]) -> Table {
    let mut table = Table::new(&["SERVICE", "CALLERS IN", "EFFECT", "NOW", "THEN", ">LOAD"]);
    for call in calls {
        let ports: Vec<_> = call.ports.iter().map(ToString::to_string).collect();
        table.row([
            format!("{}:{}", call.service, ports.join(",")),
            call.from_cluster.clone(),
            call.effect.clone(),
            shares(&call.now),
            shares(&call.then),
            or_dash(call.load.map(|l| format!("x{l:.2}")).unwrap_or_default()),
        ]);
    }
    table
}

fn shares(shares: &[v1::PlannedShare]) -> String {
    let share = |s: &v1::PlannedShare| format!("{} {:.0} %", s.cluster, s.share * 100.0);
    or_dash(shares.iter().map(share).collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_comes_first_with_shares_and_load() {
        let share = |cluster: &str, share| v1::PlannedShare {
            cluster: cluster.into(),
            share,
        };
        let call = v1::PlannedCalls {
            service: "shop/payments".into(),
            ports: vec![80, 81],
            from_cluster: "west".into(),
            now: vec![share("east", 1.0)],
            then: vec![share("central", 0.75), share("west", 0.25)],
            effect: "moves".into(),
            load: Some(1.25),
        };
        let lost = v1::PlannedCalls {
            then: Vec::new(),
            load: None,
            effect: "fails".into(),
            ..call.clone()
        };
        assert!(rank("fails") < rank("moves") && rank("new word") < rank("fails"));
        let shown = table(&[&lost, &call]).render();
        assert!(shown.contains("shop/payments:80,81"), "{shown}");
        assert!(shown.contains("central 75 %, west 25 %"), "{shown}");
        assert!(shown.contains("x1.25"), "{shown}");
        let found = v1::PlanResponse {
            voters: 3,
            voters_then: 1,
            ..Default::default()
        };
        let head = head(&found, &[("fails", "nobody is left", 1), ("stays", "", 0)]);
        assert!(head.contains("1 of 3 voters stay: writes end"), "{head}");
        assert!(head.contains("fails     1: nobody is left"), "{head}");
        assert!(!head.contains("\nstays"), "{head}");
        assert!(is_broken("overload") && !is_broken("moves"));
    }
}
