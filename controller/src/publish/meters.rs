//! What the publisher counts.

use prometheus_client::metrics::counter::Counter;
use tradewind_api::store::Command;
use tradewind_runtime::MetricsRegistry;

/// Counters of one publisher.
#[derive(Clone, Debug, Default)]
pub(super) struct Meters {
    pub(super) rounds: Counter,
    pub(super) commands: Counter,
    pub(super) endpoint_changes: Counter,
    pub(super) attests: Counter,
    pub(super) mismatches: Counter,
    pub(super) repairs: Counter,
}

impl Meters {
    pub(super) fn register(registry: &MetricsRegistry) -> Self {
        let m = Self::default();
        let all = [
            (
                "tradewind_publish_rounds",
                "rounds of changes of exports that were proposed",
                &m.rounds,
            ),
            (
                "tradewind_publish_commands",
                "changes of exports that were proposed",
                &m.commands,
            ),
            (
                "tradewind_publish_endpoint_changes",
                "endpoints that those changes held",
                &m.endpoint_changes,
            ),
            (
                "tradewind_publish_attests",
                "digests of the own exports that the store compared with its copy",
                &m.attests,
            ),
            (
                "tradewind_publish_digest_mismatches",
                "digests of the own exports that the store's copy did not match",
                &m.mismatches,
            ),
            (
                "tradewind_publish_digest_repairs",
                "times all exports were published again for that",
                &m.repairs,
            ),
        ];
        registry.register(|r| {
            for (name, help, counter) in all {
                r.register(name, help, counter.clone());
            }
        });
        m
    }

    pub(super) fn round(&self, commands: &[Command]) {
        self.rounds.inc();
        let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        self.commands.inc_by(count(commands.len()));
        let changes = commands.iter().map(endpoints_in).sum();
        self.endpoint_changes.inc_by(count(changes));
    }
}

fn endpoints_in(command: &Command) -> usize {
    match command {
        Command::PutExport(export) => export.endpoints.len(),
        Command::PatchExport { upsert, remove, .. } => upsert.len() + remove.len(),
        _ => 0,
    }
}
