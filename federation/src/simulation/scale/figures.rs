//! What was measured of a large federation, as text: spreads over all changes, what was sent for them, and what the
//! processor did. Everything but the processor's time is the same in every run of a seed; it computes and decides nothing.

use std::{fmt, fs, time::Duration};

use super::{
    SYNC, Wish,
    line::{Count, Kind, REGIONS, Tally},
};

/// One change.
#[derive(Debug)]
pub(super) struct Times {
    /// Of the proposer. The leader is in the first one.
    pub(super) region: usize,
    /// Until the proposer had its answer.
    pub(super) answered: Duration,
    /// Until each store showed it, in the order of the clusters.
    pub(super) held: Vec<Duration>,
}

impl Times {
    /// Until `share` of all stores show it, in hundredths.
    fn held_by(&self, share: usize) -> u64 {
        at_share(self.held.iter().copied().map(ms).collect(), share)
    }

    /// Until all stores of a region show it.
    fn held_in(&self, region: usize) -> u64 {
        let stores = self.held.iter().skip(region).step_by(REGIONS);
        stores.copied().map(ms).max().unwrap_or_default()
    }
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// The least of `all` that `share` hundredths of them do not exceed.
fn at_share(mut all: Vec<u64>, share: usize) -> u64 {
    all.sort_unstable();
    let rank = (all.len() * share).div_ceil(100);
    let at = rank.saturating_sub(1);
    all.get(at).copied().unwrap_or_default()
}

/// Processor time of this process's first thread, where everything runs.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cpu {
    ns: u64,
    simulated: Duration,
}

impl Cpu {
    /// So far. None where the kernel does not say.
    pub(super) fn now() -> Option<u64> {
        let text = fs::read_to_string("/proc/thread-self/schedstat").ok()?;
        text.split_whitespace().next()?.parse().ok()
    }

    pub(super) fn between([from, to]: [Option<u64>; 2], simulated: Duration) -> Option<Self> {
        let ns = to?.checked_sub(from?)?;
        Some(Self { ns, simulated })
    }

    fn ms_per_s(self) -> f64 {
        self.ns as f64 / 1_000_000.0 / self.simulated.as_secs_f64()
    }
}

/// What one run gave.
#[derive(Debug)]
pub struct Found {
    pub(super) wish: Wish,
    /// In each region.
    pub(super) voters: [usize; REGIONS],
    pub(super) changes: Vec<Times>,
    /// During all changes, the pauses between them included.
    pub(super) sent: Tally,
    pub(super) took: Duration,
    /// While nothing was written, and during all changes.
    pub(super) cpu: [Option<Cpu>; 2],
}

impl Found {
    pub(super) fn count(&self, kind: Kind) -> Count {
        self.sent.get(&kind).copied().unwrap_or_default()
    }

    #[cfg(test)]
    /// The longest that a change took until it was everywhere.
    pub(super) fn longest_ms(&self) -> u64 {
        let all = self.changes.iter().map(|c| c.held_by(100));
        all.max().unwrap_or_default()
    }

    fn row(
        &self,
        out: &mut fmt::Formatter<'_>,
        what: &str,
        of: impl Fn(&Times) -> Option<u64>,
    ) -> fmt::Result {
        let all: Vec<u64> = self.changes.iter().filter_map(of).collect();
        let [p50, p99, most] = [50, 99, 100].map(|share| at_share(all.clone(), share));
        writeln!(out, "{what:<44}{p50:>7}{p99:>7}{most:>7}")
    }

    /// A sum over everything that must be the same in the next run.
    fn sum(&self) -> u32 {
        let all = format!("{:?} {:?} {:?}", self.changes, self.sent, self.took);
        crc32c::crc32c(all.as_bytes())
    }

    /// What the processor did; every run differs.
    pub fn cpu(&self) -> String {
        let [Some(quiet), Some(busy)] = self.cpu else {
            return "the kernel does not tell this thread's processor time".to_owned();
        };
        let more = busy.ms_per_s() - quiet.ms_per_s();
        let change = more * self.took.as_secs_f64() / self.changes.len().max(1) as f64;
        format!(
            "processor, all nodes in one thread: {:.1} ms a simulated second while nothing is written, \
             {change:.2} ms more for each change: {:.0} us a node",
            quiet.ms_per_s(),
            change * 1_000.0 / self.wish.clusters.max(1) as f64
        )
    }
}

impl fmt::Display for Found {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let wish = &self.wish;
        let exports = wish.clusters * wish.exports;
        writeln!(
            out,
            "{} clusters of one node, voters in the {REGIONS} regions: {:?}; {exports} exports, {} endpoints\n\
             round trips: 2 ms in a region, 30, 70 and 150 ms between; the leader is in the region with 30 and 150\n\
             a disk's sync: {} ms; {} changes of one endpoint, one after another, from clusters drawn from seed {}\n",
            wish.clusters,
            self.voters,
            exports * wish.endpoints,
            SYNC.as_millis(),
            self.changes.len(),
            wish.seed,
        )?;
        writeln!(
            out,
            "{:<44}{:>7}{:>7}{:>7}",
            "simulated ms from the proposal until", "p50", "p99", "max"
        )?;
        self.row(out, "  the proposer is answered", |c| Some(ms(c.answered)))?;
        for (region, far) in ["the leader's region", "30 ms from it", "150 ms from it"]
            .iter()
            .enumerate()
        {
            let own = |c: &Times| (c.region == region).then(|| ms(c.answered));
            self.row(out, &format!("    one in {far}"), own)?;
        }
        self.row(out, "  half of the clusters hold it", |c| {
            Some(c.held_by(50))
        })?;
        self.row(out, "  all clusters hold it", |c| Some(c.held_by(100)))?;
        for (region, far) in ["the leader's region", "30 ms from it", "150 ms from it"]
            .iter()
            .enumerate()
        {
            self.row(out, &format!("    all in {far}"), |c| {
                Some(c.held_in(region))
            })?;
        }
        let each = |n: u64| n as f64 / self.changes.len().max(1) as f64;
        writeln!(
            out,
            "\nsent for each change, answers included: calls, bytes"
        )?;
        let mut total = Count::default();
        for (what, kind) in [
            ("entries", Kind::Entries),
            ("how far it is committed", Kind::Commit),
            ("the proposal", Kind::Proposal),
            ("of elections and snapshots", Kind::Other),
        ] {
            let Count { calls, bytes } = self.count(kind);
            total.calls += calls;
            total.bytes += bytes;
            writeln!(out, "  {what:<42}{:>8.1}{:>10.0}", each(calls), each(bytes))?;
        }
        writeln!(
            out,
            "  {:<42}{:>8.1}{:>10.0}",
            "in all",
            each(total.calls),
            each(total.bytes)
        )?;
        let heartbeats = self.count(Kind::Heartbeat);
        let each_s = |n: u64| n as f64 / self.took.as_secs_f64();
        writeln!(
            out,
            "beside them, heartbeats: {:.0} calls and {:.0} bytes a second",
            each_s(heartbeats.calls),
            each_s(heartbeats.bytes)
        )?;
        write!(out, "the sum of it all: {:08x}", self.sum())
    }
}
