//! How much each cluster may write, so that one in a crash loop cannot use up the store for the others. The leader keeps
//! one bucket of commands and one of bytes for each proposer. Pure: time is an argument.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;
use tradewind_api::{ClusterName, store::Command};

/// A cluster's share of the store.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Budget {
    /// Commands a second that it may go on writing for ever.
    pub commands_per_s: f64,
    /// Commands it may write at once after a quiet time: every export of a large cluster.
    pub command_burst: f64,
    /// Bytes a second.
    pub bytes_per_s: f64,
    /// Bytes at once.
    pub byte_burst: f64,
}

impl Default for Budget {
    /// Ten rounds of publishing a second with ten services each, which is far above what a healthy cluster does and a
    /// tenth of what three nodes on plain disks sustain.
    fn default() -> Self {
        Self {
            commands_per_s: 100.0,
            command_burst: 10_000.0,
            bytes_per_s: 512.0 * 1024.0,
            byte_burst: 64.0 * 1024.0 * 1024.0,
        }
    }
}

impl Budget {
    /// No bound but the store's own, for measurements of the store itself.
    pub const fn unlimited() -> Self {
        Self {
            commands_per_s: f64::INFINITY,
            command_burst: f64::INFINITY,
            bytes_per_s: f64::INFINITY,
            byte_burst: f64::INFINITY,
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    commands: f64,
    bytes: f64,
    at: Instant,
}

/// What each cluster has left. At most one bucket a member.
#[derive(Debug)]
pub(crate) struct Budgets {
    budget: Budget,
    buckets: BTreeMap<ClusterName, Bucket>,
}

impl Budgets {
    pub(crate) const fn new(budget: Budget) -> Self {
        Self {
            budget,
            buckets: BTreeMap::new(),
        }
    }

    /// Takes one command of `bytes` from the share of `cluster`, or says how long to wait for it.
    pub(crate) fn take(
        &mut self,
        cluster: &ClusterName,
        bytes: usize,
        now: Instant,
    ) -> Result<(), Duration> {
        let budget = self.budget;
        if budget.commands_per_s.is_infinite() {
            return Ok(());
        }
        let bucket = self.buckets.entry(cluster.clone()).or_insert(Bucket {
            commands: budget.command_burst,
            bytes: budget.byte_burst,
            at: now,
        });
        let passed_s = now.saturating_duration_since(bucket.at).as_secs_f64();
        bucket.at = now;
        bucket.commands =
            (bucket.commands + passed_s * budget.commands_per_s).min(budget.command_burst);
        bucket.bytes = (bucket.bytes + passed_s * budget.bytes_per_s).min(budget.byte_burst);
        // No command is larger than the burst: every one is taken some time.
        let bytes = u32::try_from(bytes).map_or(f64::from(u32::MAX), f64::from);
        let bytes = bytes.min(budget.byte_burst);
        let wait_s = ((1.0 - bucket.commands) / budget.commands_per_s)
            .max((bytes - bucket.bytes) / budget.bytes_per_s);
        if wait_s > 0.0 {
            return Err(Duration::from_secs_f64(wait_s.min(3_600.0)));
        }
        bucket.commands -= 1.0;
        bucket.bytes -= bytes;
        Ok(())
    }

    /// Forgets clusters that are no members.
    pub(crate) fn keep(&mut self, member: impl Fn(&ClusterName) -> bool) {
        self.buckets.retain(|cluster, _| member(cluster));
    }
}

/// What is always taken: signs of life, and what ends a cluster's use of the store.
pub(crate) const fn is_free(command: &Command) -> bool {
    matches!(
        command,
        Command::RenewLease | Command::Speak { .. } | Command::Leave | Command::AddNode { .. }
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::tests::name;

    fn small() -> Budgets {
        Budgets::new(Budget {
            commands_per_s: 10.0,
            command_burst: 20.0,
            bytes_per_s: 1_000.0,
            byte_burst: 5_000.0,
        })
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_gets_its_rate_and_others_are_not_touched() {
        let mut budgets = small();
        let start = Instant::now();
        let taken = |budgets: &mut Budgets, who: &str, at_ms: u64| {
            let at = start + Duration::from_millis(at_ms);
            budgets.take(&name(who), 10, at).is_ok()
        };
        let flood = (0..10_000).filter(|ms| taken(&mut budgets, "loop", *ms));
        let flood = flood.count();
        assert!((115..=121).contains(&flood), "20 at once and 10/s: {flood}");
        assert!(taken(&mut budgets, "quiet", 9_999));
        let last = start + Duration::from_millis(9_999);
        let waits = (0..2).map(|_| budgets.take(&name("loop"), 10, last));
        let wait = waits.filter_map(Result::err).next().unwrap();
        assert!(wait <= Duration::from_millis(100), "{wait:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_count_and_a_command_larger_than_the_burst_is_taken_some_time() {
        let mut budgets = small();
        let start = Instant::now();
        assert!(budgets.take(&name("a"), 4_000, start).is_ok());
        let wait = budgets.take(&name("a"), 3_000, start).unwrap_err();
        assert_eq!(wait, Duration::from_secs(2));
        assert!(budgets.take(&name("a"), 3_000, start + wait).is_ok());
        let later = start + Duration::from_secs(100);
        assert!(budgets.take(&name("a"), 1_000_000, later).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_no_member_is_forgotten() {
        let mut budgets = small();
        for who in ["a", "b"] {
            assert!(budgets.take(&name(who), 1, Instant::now()).is_ok());
        }
        budgets.keep(|c| *c == name("a"));
        assert_eq!(budgets.buckets.len(), 1);
    }
}
