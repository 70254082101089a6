//! The demo's results: a table or JSON on stdout, the verdict on stderr. Pure but for the printing.

use std::path::Path;

use serde_json::{Value, json};

use super::{
    phase::{Phase, Told},
    plan::{CLUSTERS, EAST, WEST},
    screen::millis,
    tally::Count,
};
use crate::{
    output::document,
    printer::Printer,
    table::{self, Table},
};

/// Shows the results.
pub fn show(printer: Printer, told: &Told, json: bool) {
    if json {
        printer.json(&document("tradewind.demo/v1", self::json(told)));
    } else {
        printer.data(table(told).render());
    }
    printer.say("");
    for (name, value) in &told.figures {
        printer.say(format_args!("  {name:<28} {value:>10}"));
    }
    for (error, times) in &told.errors {
        printer.say(format_args!("  callers saw, {times} times: {error}"));
    }
    for phase in &told.phases {
        for problem in &phase.problems {
            printer.warn(format_args!("phase {}: {problem}", phase.number));
        }
    }
    if told.ok() {
        printer.done("no call failed, and every phase was served by whom it should be");
    } else {
        printer.warn("the demo did not go as it must");
    }
}

fn table(told: &Told) -> Table {
    let mut table = Table::new(&[
        "PHASE",
        ">REQUESTS",
        ">FAILED",
        ">LONGEST GAP",
        ">P50",
        ">P99",
        "SERVED BY",
    ]);
    for phase in &told.phases {
        let count = &phase.count;
        table.row([
            format!("{} {}", phase.number, phase.title),
            table::count(count.requests),
            table::count(count.failed),
            millis(count.longest_gap_us),
            millis(count.p50_us),
            millis(count.p99_us),
            count.served_by(),
        ]);
    }
    table
}

fn json(told: &Told) -> Value {
    json!({
        "ok": told.ok(),
        "rate_per_s": told.rate,
        "phases": told.phases.iter().map(phase_json).collect::<Vec<_>>(),
        "figures": told.figures,
        "errors": told.errors,
    })
}

fn phase_json(phase: &Phase) -> Value {
    let count = &phase.count;
    json!({
        "phase": phase.number,
        "title": phase.title,
        "ok": phase.problems.is_empty() && count.failed == 0,
        "problems": phase.problems,
        "from_ms": phase.span.from_us / 1_000,
        "to_ms": phase.span.to_us / 1_000,
        "requests": count.requests,
        "failed": count.failed,
        "longest_gap_us": count.longest_gap_us,
        "p50_us": count.p50_us,
        "p99_us": count.p99_us,
        "served_by": by_json(count),
        "served_by_settled": by_json(&phase.settled),
    })
}

fn by_json(count: &Count) -> Value {
    let pairs = CLUSTERS
        .iter()
        .zip(&count.by)
        .map(|(c, n)| (c.name.to_owned(), json!(n)));
    Value::Object(pairs.collect())
}

/// Commands to try while everything is left running.
pub fn things_to_try(printer: Printer, dir: &Path) {
    let exe = std::env::current_exe()
        .map_or_else(|_| "tradewind".to_owned(), |exe| exe.display().to_string());
    let dir = dir.display();
    let west = format!("{dir}/{}", WEST.name);
    printer.say("");
    printer.title("everything is left running; try:");
    printer.say(format_args!("  curl http://{}/", WEST.caller(1)));
    printer.say(format_args!("  curl http://{}/", EAST.caller(1)));
    let dns = WEST.dns();
    printer.say(format_args!(
        "  dig @{} -p {} payments.shop.svc.clusterset.local",
        dns.ip(),
        dns.port()
    ));
    printer.say(format_args!(
        "  dig @{} -p {} _80._tcp.payments.shop.svc.clusterset.local SRV",
        dns.ip(),
        dns.port()
    ));
    for command in [
        "status",
        "clusters",
        "services",
        "endpoints shop/payments",
        "undrain east",
    ] {
        printer.say(format_args!("  {exe} {command} --data-dir {west}"));
    }
    printer.say(format_args!(
        "  curl http://{}/metrics",
        WEST.gateway_admin()
    ));
    printer.say(format_args!(
        "break something; {dir}/processes names every process:"
    ));
    printer.say(format_args!(
        "  kill -9 $(grep east/gateway {dir}/processes | cut -d' ' -f1)"
    ));
    printer.say("end it all with:");
    printer.say(format_args!("  kill $(cat {dir}/pids)"));
    printer.say(format_args!("  rm -r {dir}"));
}
