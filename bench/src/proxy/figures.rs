//! What is measured of a pair, and what Tradewind's is meant to reach. Pure.

use super::load::Kind;
use crate::{
    compare::{Figure, Goal, Table},
    programs::System,
    window::Window,
};

const CPU: Figure = Figure::cost("saturated: CPU s per 100,000 requests");
const RATE: Figure = Figure::rate("saturated: requests/s");
const PACED_CPU: Figure = Figure::cost("at the fixed rate: CPU s per 100,000 requests");
const P50: Figure = Figure::cost("at the fixed rate: p50 us");
const P99: Figure = Figure::cost("at the fixed rate: p99 us");
const P999: Figure = Figure::cost("at the fixed rate: p99.9 us");
const CONNECTION_CPU: Figure = Figure::cost("new client connection: CPU us");
const CONNECTION_RATE: Figure = Figure::rate("new client connections/s");
const DOWN_CPU: Figure = Figure::cost("bulk down: CPU s/GB");
const DOWN_RATE: Figure = Figure::rate("bulk down: GB/s per core");
const UP_CPU: Figure = Figure::cost("bulk up: CPU s/GB");
const UP_RATE: Figure = Figure::rate("bulk up: GB/s per core");
pub(super) const IDLE: Figure = Figure::cost("memory of one proxy, idle: MB");
pub(super) const HUNDRED: Figure = Figure::cost("memory of one proxy, 100 busy connections: MB");
pub(super) const THOUSAND: Figure = Figure::cost("memory of one proxy, 1,000 busy connections: MB");

pub(super) const KNOWN: [(u32, Figure); 2] = [
    (
        1_000,
        Figure::cost("memory of the caller's proxy for each of 1,000 known services: KB"),
    ),
    (
        10_000,
        Figure::cost("memory of the caller's proxy for each of 10,000 known services: KB"),
    ),
];

/// What the pair is meant to reach.
pub(super) const GOALS: [Goal; 9] = [
    Goal::Ratio(CPU, System::Envoy, 0.53),
    Goal::Ratio(PACED_CPU, System::Envoy, 0.45),
    Goal::Ratio(P99, System::Envoy, 0.25),
    Goal::Added(P99, System::Envoy, 0.25),
    Goal::Ratio(DOWN_CPU, System::Envoy, 0.8),
    Goal::Ratio(UP_CPU, System::Envoy, 0.8),
    Goal::Ratio(CONNECTION_CPU, System::Envoy, 0.75),
    Goal::Most(IDLE, 15.0),
    Goal::Most(THOUSAND, 25.0),
];

/// Adds one window's figures.
pub(super) fn add(table: &mut Table, system: System, kind: Kind, window: &Window) {
    let each_us = window.cpu_us_per_unit();
    let mut cost = |figure, value| {
        // What no proxy costs is nothing, and nothing divides.
        if system != System::Direct {
            table.put(figure, system, value);
        }
    };
    match kind {
        // Microseconds each are a tenth of the seconds of 100,000.
        Kind::Requests => cost(CPU, each_us / 10.0),
        Kind::Paced(_) => cost(PACED_CPU, each_us / 10.0),
        Kind::Connections => cost(CONNECTION_CPU, each_us),
        Kind::BulkDown => cost(DOWN_CPU, each_us * 1e3),
        Kind::BulkUp => cost(UP_CPU, each_us * 1e3),
    }
    match kind {
        Kind::Requests => table.put(RATE, system, window.rate()),
        Kind::Connections => table.put(CONNECTION_RATE, system, window.rate()),
        Kind::BulkDown | Kind::BulkUp if system == System::Direct => {}
        Kind::BulkDown => table.put(DOWN_RATE, system, 1.0 / (each_us * 1e3)),
        Kind::BulkUp => table.put(UP_RATE, system, 1.0 / (each_us * 1e3)),
        Kind::Paced(_) => {
            for (figure, share) in [(P50, 0.5), (P99, 0.99), (P999, 0.999)] {
                table.put(figure, system, window.quantile_us(share));
            }
        }
    }
}
