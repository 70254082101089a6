//! What is measured of a gateway, and what it is meant to reach. Pure.

use super::load::Kind;
use crate::{
    compare::{Figure, Goal, Table},
    programs::System,
    window::Window,
};

const BULK_DOWN_CPU: Figure = Figure::cost("bulk down: CPU s/GB");
const BULK_DOWN_RATE: Figure = Figure::rate("bulk down: GB/s");
const BULK_UP_CPU: Figure = Figure::cost("bulk up: CPU s/GB");
const BULK_UP_RATE: Figure = Figure::rate("bulk up: GB/s");
const CONNECTION_CPU: Figure = Figure::cost("new connection: CPU us");
const CONNECTION_RATE: Figure = Figure::rate("new connections/s");
const MESSAGE_CPU: Figure = Figure::cost("small round trip: CPU us");
const MESSAGE_RATE: Figure = Figure::rate("small round trips/s");
const PACED_CPU: Figure = Figure::cost("at the fixed rate: CPU us a round trip");
const PACED_P50: Figure = Figure::cost("at the fixed rate: p50 us");
const PACED_P99: Figure = Figure::cost("at the fixed rate: p99 us");
pub(super) const IDLE_RSS: Figure = Figure::cost("memory, no connections: MiB");
pub(super) const BUSY_RSS: Figure = Figure::cost("memory, idle connections: MiB");
pub(super) const BYTES_PER_CONNECTION: Figure = Figure::cost("memory, each idle connection: bytes");

/// What the gateway is meant to reach.
pub(super) const GOALS: [Goal; 7] = [
    Goal::Ratio(BULK_DOWN_CPU, System::Envoy, 0.5),
    Goal::Ratio(BULK_DOWN_CPU, System::HaproxySplice, 1.05),
    Goal::Ratio(BULK_UP_CPU, System::Envoy, 0.5),
    Goal::Ratio(BULK_UP_CPU, System::HaproxySplice, 1.05),
    Goal::Ratio(MESSAGE_CPU, System::Nginx, 1.0),
    Goal::Ratio(CONNECTION_CPU, System::Nginx, 1.05),
    Goal::Most(BYTES_PER_CONNECTION, 3072.0),
];

/// Adds one window's figures.
pub(super) fn add(table: &mut Table, system: System, kind: Kind, window: &Window) {
    let gb = |per_unit: f64| per_unit / 1e9;
    // Microseconds a byte are 1000 seconds a gigabyte.
    let s_per_gb = window.cpu_us_per_unit() * 1e3;
    let each = window.cpu_us_per_unit();
    match kind {
        Kind::BulkDown => {
            table.put(BULK_DOWN_CPU, system, s_per_gb);
            table.put(BULK_DOWN_RATE, system, gb(window.rate()));
        }
        Kind::BulkUp => {
            table.put(BULK_UP_CPU, system, s_per_gb);
            table.put(BULK_UP_RATE, system, gb(window.rate()));
        }
        Kind::Connections => {
            table.put(CONNECTION_CPU, system, each);
            table.put(CONNECTION_RATE, system, window.rate());
        }
        Kind::Messages => {
            table.put(MESSAGE_CPU, system, each);
            table.put(MESSAGE_RATE, system, window.rate());
        }
        Kind::Paced(_) => {
            table.put(PACED_CPU, system, each);
            table.put(PACED_P50, system, window.quantile_us(0.5));
            table.put(PACED_P99, system, window.quantile_us(0.99));
        }
    }
}
