//! The figures of a run: a table for people, JSON for scripts, and which goals are met. Owns every round's figure; medians
//! and ratios are computed when it is shown.

use std::{collections::BTreeMap, fmt, path::Path};

use serde::Serialize;

use super::{
    load::{Kind, Window},
    plot,
    proxies::System,
};
use crate::report::Spread;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Figure {
    BulkDownCpu,
    BulkDownRate,
    BulkUpCpu,
    BulkUpRate,
    ConnectionCpu,
    ConnectionRate,
    MessageCpu,
    MessageRate,
    PacedCpu,
    PacedP50,
    PacedP99,
    IdleRss,
    BusyRss,
    BytesPerConnection,
}

impl Figure {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::BulkDownCpu => "bulk down: CPU s/GB",
            Self::BulkDownRate => "bulk down: GB/s",
            Self::BulkUpCpu => "bulk up: CPU s/GB",
            Self::BulkUpRate => "bulk up: GB/s",
            Self::ConnectionCpu => "new connection: CPU us",
            Self::ConnectionRate => "new connections/s",
            Self::MessageCpu => "small round trip: CPU us",
            Self::MessageRate => "small round trips/s",
            Self::PacedCpu => "at the fixed rate: CPU us a round trip",
            Self::PacedP50 => "at the fixed rate: p50 us",
            Self::PacedP99 => "at the fixed rate: p99 us",
            Self::IdleRss => "memory, no connections: MiB",
            Self::BusyRss => "memory, idle connections: MiB",
            Self::BytesPerConnection => "memory, each idle connection: bytes",
        }
    }

    /// Whether more is better.
    pub(super) const fn is_rate(self) -> bool {
        matches!(
            self,
            Self::BulkDownRate | Self::BulkUpRate | Self::ConnectionRate | Self::MessageRate
        )
    }
}

/// At most so much of a peer's figure.
struct Goal {
    figure: Figure,
    peer: System,
    most: f64,
}

/// What the gateway is meant to reach.
const GOALS: [Goal; 6] = [
    goal(Figure::BulkDownCpu, System::Envoy, 0.5),
    goal(Figure::BulkDownCpu, System::HaproxySplice, 1.05),
    goal(Figure::BulkUpCpu, System::Envoy, 0.5),
    goal(Figure::BulkUpCpu, System::HaproxySplice, 1.05),
    goal(Figure::MessageCpu, System::Nginx, 1.0),
    goal(Figure::ConnectionCpu, System::Nginx, 1.05),
];

/// Most bytes of an idle connection.
const MOST_IDLE_BYTES: f64 = 3072.0;

const fn goal(figure: Figure, peer: System, most: f64) -> Goal {
    Goal { figure, peer, most }
}

/// All figures.
#[derive(Debug, Default)]
pub(super) struct Table {
    pub(super) setting: Vec<String>,
    pub(super) systems: Vec<System>,
    rounds: BTreeMap<Figure, BTreeMap<System, Vec<f64>>>,
}

impl Table {
    pub(super) fn put(&mut self, figure: Figure, system: System, value: f64) {
        let rounds = self.rounds.entry(figure).or_default();
        rounds.entry(system).or_default().push(value);
    }

    /// One window's figures.
    pub(super) fn add(&mut self, system: System, kind: Kind, window: &Window) {
        let gb = |per_unit: f64| per_unit / 1e9;
        // Microseconds a byte are 1000 seconds a gigabyte.
        let s_per_gb = window.cpu_us_per_unit() * 1e3;
        let each = window.cpu_us_per_unit();
        match kind {
            Kind::BulkDown => {
                self.put(Figure::BulkDownCpu, system, s_per_gb);
                self.put(Figure::BulkDownRate, system, gb(window.rate()));
            }
            Kind::BulkUp => {
                self.put(Figure::BulkUpCpu, system, s_per_gb);
                self.put(Figure::BulkUpRate, system, gb(window.rate()));
            }
            Kind::Connections => {
                self.put(Figure::ConnectionCpu, system, each);
                self.put(Figure::ConnectionRate, system, window.rate());
            }
            Kind::Messages => {
                self.put(Figure::MessageCpu, system, each);
                self.put(Figure::MessageRate, system, window.rate());
            }
            Kind::Paced(_) => {
                self.put(Figure::PacedCpu, system, each);
                self.put(Figure::PacedP50, system, window.quantile_us(0.5));
                self.put(Figure::PacedP99, system, window.quantile_us(0.99));
            }
        }
    }

    pub(super) fn figures(&self) -> impl Iterator<Item = Figure> {
        self.rounds.keys().copied()
    }

    fn spread(&self, figure: Figure, system: System) -> Option<Spread> {
        let rounds = self.rounds.get(&figure)?.get(&system)?;
        Some(Spread::of(rounds.clone()))
    }

    /// Ours by a peer's, of the medians.
    pub(super) fn ratio(&self, figure: Figure, peer: System) -> Option<f64> {
        let ours = self.spread(figure, System::Tradewind)?.median;
        Some(ours / self.spread(figure, peer)?.median)
    }

    /// Writes the plot and the data into `dir`.
    pub(super) fn write(&self, dir: &Path) -> Result<(), String> {
        let json = serde_json::to_string_pretty(self).map_err(|e| e.to_string())?;
        for (name, text) in [("gateway.svg", plot::svg(self)), ("gateway.json", json)] {
            let path = dir.join(name);
            std::fs::write(&path, text).map_err(|e| format!("{}: {e}", path.display()))?;
        }
        Ok(())
    }

    fn goals(&self) -> Vec<String> {
        let word = |met| if met { "met" } else { "MISSED" };
        let mut lines: Vec<String> = GOALS
            .iter()
            .filter_map(|g| {
                let ratio = self.ratio(g.figure, g.peer)?;
                let (figure, peer) = (g.figure.name(), g.peer.name());
                let met = word(ratio <= g.most);
                Some(format!(
                    "{met:<6}  {figure}: {ratio:.2} of {peer}'s, at most {:.2}",
                    g.most
                ))
            })
            .collect();
        if let Some(each) = self.spread(Figure::BytesPerConnection, System::Tradewind) {
            let met = word(each.median <= MOST_IDLE_BYTES);
            lines.push(format!(
                "{met:<6}  {}: {:.0}, at most {MOST_IDLE_BYTES}",
                Figure::BytesPerConnection.name(),
                each.median
            ));
        }
        lines
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.setting {
            writeln!(f, "{line}")?;
        }
        writeln!(
            f,
            "\nmedian (min..max), and Tradewind's median by the peer's\n"
        )?;
        write!(f, "{:<40}", "")?;
        for system in &self.systems {
            write!(f, " {:>30}", system.name())?;
        }
        writeln!(f)?;
        for figure in self.figures() {
            write!(f, "{:<40}", figure.name())?;
            for system in &self.systems {
                let cell = self.spread(figure, *system).map(|s| s.to_string());
                let mut cell = cell.unwrap_or_default();
                if let Some(ratio) = self.ratio(figure, *system)
                    && *system != System::Tradewind
                {
                    cell = format!("{cell} {ratio:>5.2}");
                }
                write!(f, " {cell:>30}")?;
            }
            writeln!(f)?;
        }
        writeln!(f, "\ngoals")?;
        for line in self.goals() {
            writeln!(f, "{line}")?;
        }
        Ok(())
    }
}

impl Serialize for Table {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Cell {
            system: System,
            #[serde(flatten)]
            spread: Spread,
            rounds: Vec<f64>,
        }
        #[derive(Serialize)]
        struct Row {
            what: &'static str,
            systems: Vec<Cell>,
        }
        #[derive(Serialize)]
        struct Whole<'a> {
            schema: &'static str,
            setting: &'a [String],
            rows: Vec<Row>,
            goals: Vec<String>,
        }
        let cell = |(system, rounds): (&System, &Vec<f64>)| Cell {
            system: *system,
            spread: Spread::of(rounds.clone()),
            rounds: rounds.clone(),
        };
        let rows = self.rounds.iter().map(|(figure, systems)| Row {
            what: figure.name(),
            systems: systems.iter().map(cell).collect(),
        });
        Whole {
            schema: "tradewind.bench.gateway/v1",
            setting: &self.setting,
            rows: rows.collect(),
            goals: self.goals(),
        }
        .serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goals_are_judged_by_ratios_of_medians() {
        let mut table = Table {
            systems: vec![System::Tradewind, System::Nginx],
            ..Table::default()
        };
        for value in [9.0, 10.0, 30.0] {
            table.put(Figure::MessageCpu, System::Tradewind, value);
        }
        table.put(Figure::MessageCpu, System::Nginx, 9.5);
        table.put(Figure::BytesPerConnection, System::Tradewind, 3000.0);
        let goals = table.goals();
        assert!(goals[0].starts_with("MISSED  small round trip: CPU us: 1.05 of nginx's"));
        assert!(goals[1].starts_with("met "), "{goals:?}");
        assert_eq!(goals.len(), 2, "what was not measured is not judged");
        assert!(table.to_string().contains("10.00 (9.00..30.00)"));
        assert!(plot::svg(&table).contains("1.05"));
    }
}
