//! Several systems side by side: a table for people, JSON for scripts, a plot, and which goals are met. Owns every round's
//! figure; medians and ratios are computed when it is shown.

use std::{collections::BTreeMap, fmt, path::Path};

use serde::Serialize;

mod plot;

use crate::{programs::System, report::Spread};

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Figure {
    /// With its unit.
    pub(crate) name: &'static str,
    /// Whether more is better.
    pub(crate) is_rate: bool,
}

impl Figure {
    /// Of which less is better.
    pub(crate) const fn cost(name: &'static str) -> Self {
        Self {
            name,
            is_rate: false,
        }
    }

    /// Of which more is better.
    pub(crate) const fn rate(name: &'static str) -> Self {
        Self {
            name,
            is_rate: true,
        }
    }
}

/// What Tradewind is meant to reach.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Goal {
    /// At most so much of a peer's figure.
    Ratio(Figure, System, f64),
    /// The same of what each adds to no proxy at all.
    Added(Figure, System, f64),
    /// At most so much.
    Most(Figure, f64),
}

/// All figures.
#[derive(Debug)]
pub(crate) struct Table {
    /// Such as `gateway`: in the schema's and the files' names.
    pub(crate) what: &'static str,
    pub(crate) goals: &'static [Goal],
    pub(crate) setting: Vec<String>,
    pub(crate) systems: Vec<System>,
    /// In the order in which they were first measured.
    rounds: Vec<(Figure, BTreeMap<System, Vec<f64>>)>,
}

impl Table {
    pub(crate) const fn new(what: &'static str, goals: &'static [Goal]) -> Self {
        Self {
            what,
            goals,
            setting: Vec::new(),
            systems: Vec::new(),
            rounds: Vec::new(),
        }
    }

    pub(crate) fn put(&mut self, figure: Figure, system: System, value: f64) {
        let known = self.rounds.iter_mut().find(|(f, _)| *f == figure);
        match known {
            Some((_, systems)) => systems.entry(system).or_default().push(value),
            None => {
                let systems = BTreeMap::from([(system, vec![value])]);
                self.rounds.push((figure, systems));
            }
        }
    }

    pub(crate) fn figures(&self) -> impl Iterator<Item = Figure> {
        self.rounds.iter().map(|(figure, _)| *figure)
    }

    fn spread(&self, figure: Figure, system: System) -> Option<Spread> {
        let (_, systems) = self.rounds.iter().find(|(f, _)| *f == figure)?;
        let rounds = systems.get(&system)?;
        Some(Spread::of(rounds.clone()))
    }

    /// Ours by a peer's, of the medians.
    pub(crate) fn ratio(&self, figure: Figure, peer: System) -> Option<f64> {
        let ours = self.spread(figure, System::Tradewind)?.median;
        Some(ours / self.spread(figure, peer)?.median)
    }

    /// Writes the plot and the data into `dir`.
    pub(crate) fn write(&self, dir: &Path) -> Result<(), String> {
        let json = serde_json::to_string_pretty(self).map_err(|e| e.to_string())?;
        for (ending, text) in [("svg", plot::svg(self)), ("json", json)] {
            let path = dir.join(format!("{}.{ending}", self.what));
            std::fs::write(&path, text).map_err(|e| format!("{}: {e}", path.display()))?;
        }
        Ok(())
    }

    /// Ours by a peer's, each without what no proxy takes.
    fn added(&self, figure: Figure, peer: System) -> Option<f64> {
        let median = |system| Some(self.spread(figure, system)?.median);
        let direct = median(System::Direct)?;
        Some((median(System::Tradewind)? - direct) / (median(peer)? - direct))
    }

    fn judged(&self, goal: Goal) -> Option<(Figure, f64, f64, String)> {
        Some(match goal {
            Goal::Ratio(figure, peer, most) => {
                let of = format!(" of {}'s", peer.name());
                (figure, self.ratio(figure, peer)?, most, of)
            }
            Goal::Added(figure, peer, most) => {
                let of = format!(" of what {} adds to a direct call", peer.name());
                (figure, self.added(figure, peer)?, most, of)
            }
            Goal::Most(figure, most) => {
                let ours = self.spread(figure, System::Tradewind)?.median;
                (figure, ours, most, String::new())
            }
        })
    }

    fn goals(&self) -> Vec<String> {
        let judged = self.goals.iter().filter_map(|g| self.judged(*g));
        judged
            .map(|(figure, is, most, of)| {
                let met = if is <= most { "met" } else { "MISSED" };
                let digits = if most >= 100.0 { 0 } else { 2 };
                let name = figure.name;
                format!("{met:<6}  {name}: {is:.digits$}{of}, at most {most:.digits$}")
            })
            .collect()
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
        let width = self.rounds.iter().map(|(f, _)| f.name.len()).max();
        let width = width.unwrap_or(0);
        write!(f, "{:<width$}", "")?;
        for system in &self.systems {
            write!(f, " {:>30}", system.name())?;
        }
        writeln!(f)?;
        for figure in self.figures() {
            write!(f, "{:<width$}", figure.name)?;
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
            schema: String,
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
            what: figure.name,
            systems: systems.iter().map(cell).collect(),
        });
        Whole {
            schema: format!("tradewind.bench.{}/v1", self.what),
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

    const COST: Figure = Figure::cost("round trip: us");
    const BYTES: Figure = Figure::cost("idle: bytes");
    const ABSENT: Figure = Figure::cost("not measured");
    const GOALS: [Goal; 4] = [
        Goal::Ratio(COST, System::Nginx, 1.0),
        Goal::Added(COST, System::Nginx, 1.0),
        Goal::Most(BYTES, 3072.0),
        Goal::Most(ABSENT, 1.0),
    ];

    #[test]
    fn goals_are_judged_by_ratios_of_medians() {
        let mut table = Table::new("test", &GOALS);
        table.systems = vec![System::Tradewind, System::Nginx];
        for value in [9.0, 10.0, 30.0] {
            table.put(COST, System::Tradewind, value);
        }
        table.put(COST, System::Nginx, 9.5);
        table.put(COST, System::Direct, 9.0);
        table.put(BYTES, System::Tradewind, 3000.0);
        let goals = table.goals();
        assert_eq!(
            goals,
            [
                "MISSED  round trip: us: 1.05 of nginx's, at most 1.00",
                "MISSED  round trip: us: 2.00 of what nginx adds to a direct call, at most 1.00",
                "met     idle: bytes: 3000, at most 3072",
            ],
            "what was not measured is not judged"
        );
        assert!(table.to_string().contains("10.00 (9.00..30.00)"));
        assert!(plot::svg(&table).contains("1.05"));
    }
}
