//! What a run of faults came to, in figures. Owns the measurements.

use std::{collections::BTreeMap, fmt, time::Duration};

use super::plan::Kind;

/// What one fault did.
#[derive(Clone, Debug)]
pub struct Measured {
    /// Which.
    pub kind: Kind,
    /// While it lasted: the longest time without a successful write at a controller that it did not touch; none where it
    /// touched all.
    pub silence: Option<Duration>,
    /// After its end: until every controller had carried out a new write.
    pub writes_again: Duration,
    /// After its end: until every controller had applied all that any had applied once all wrote again.
    pub converged: Duration,
}

/// A whole run.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The seed it can be repeated with.
    pub seed: u64,
    /// Clusters.
    pub clusters: usize,
    /// Each fault.
    pub faults: Vec<Measured>,
    /// Calls, by how they ended.
    pub ok: usize,
    /// Certainly not carried out.
    pub refused: usize,
    /// Nobody listened: the controller was down.
    pub not_sent: usize,
    /// Nobody knows.
    pub unknown: usize,
    /// Terms in which a leader was seen.
    pub terms: usize,
    /// Looks at a controller's status.
    pub looks: u64,
    /// Comparisons at rest.
    pub rests: usize,
    /// Controllers that, after a restart, showed less than they had acknowledged, for a while.
    pub stale_starts: usize,
    /// How long it took.
    pub took: Duration,
}

fn line(f: &mut fmt::Formatter<'_>, name: &str, faults: &[&Measured]) -> fmt::Result {
    let silence = spread(faults.iter().filter_map(|m| m.silence).collect());
    let writes = spread(faults.iter().map(|m| m.writes_again).collect());
    let converged = spread(faults.iter().map(|m| m.converged).collect());
    writeln!(
        f,
        "{name:26}{:>5}   {silence}   {writes}   {converged}",
        faults.len()
    )
}

/// Median, 99th percentile and largest, seconds.
fn spread(mut all: Vec<Duration>) -> String {
    all.sort();
    let Some(largest) = all.last() else {
        return format!("{:>6}{:>7}{:>7}", "-", "-", "-");
    };
    let at = |share: f64| {
        let place = (all.len() as f64 * share).ceil() as usize;
        all[place.saturating_sub(1)].as_secs_f64()
    };
    format!(
        "{:6.2}{:7.2}{:7.2}",
        at(0.5),
        at(0.99),
        largest.as_secs_f64()
    )
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} faults on {} clusters in {:.0} s, seed {}",
            self.faults.len(),
            self.clusters,
            self.took.as_secs_f64(),
            self.seed
        )?;
        writeln!(
            f,
            "calls: {} ok, {} refused, {} unknown, {} with nobody listening; {} comparisons at rest; {} looks, \
             {} terms with a leader; {} restarts showed less than was acknowledged, for a while",
            self.ok,
            self.refused,
            self.unknown,
            self.not_sent,
            self.rests,
            self.looks,
            self.terms,
            self.stale_starts
        )?;
        writeln!(f)?;
        writeln!(
            f,
            "{:34}   {:20}   {:20}   {:20}",
            "", "no write elsewhere,", "writes again after", "all caught up after"
        )?;
        let columns = format!("{:>6}{:>7}{:>7}", "p50", "p99", "max");
        writeln!(
            f,
            "{:26}count   {columns}   {columns}   {columns}",
            "fault (seconds)"
        )?;
        let mut kinds: BTreeMap<Kind, Vec<&Measured>> = BTreeMap::new();
        for measured in &self.faults {
            kinds.entry(measured.kind).or_default().push(measured);
        }
        for (kind, faults) in &kinds {
            line(f, &kind.to_string(), faults)?;
        }
        line(f, "all", &self.faults.iter().collect::<Vec<_>>())
    }
}
