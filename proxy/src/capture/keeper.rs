//! The rules of a running proxy: set once it can serve, let go when it drains, removed when it ends.
//!
//! Owns what is set. Dropped before its time (a second signal, an error) it still has them removed: a dead listener would
//! refuse all that its host's applications do.

use std::{io::Write as _, process::Stdio};

use super::{
    apply::{self, RulesError},
    plan::{Family, Plan, Stage},
    settings::{Inbound, Tool},
};

/// Holds the rules in place.
#[derive(Debug)]
pub(crate) struct Keeper {
    plan: Plan,
    inbound: Inbound,
    /// What they were set with; none when there are none of ours.
    set: Option<Tool>,
}

impl Keeper {
    /// Sets them.
    pub(crate) async fn set(plan: Plan, inbound: Inbound, tool: Tool) -> Result<Self, RulesError> {
        let tool = apply::apply(&plan, Stage::Capture, tool).await?;
        tracing::info!(
            tool = tool.as_str(),
            ipv6 = plan.ipv6(),
            "capture rules are set"
        );
        Ok(Self {
            plan,
            inbound,
            set: Some(tool),
        })
    }

    /// From now on new connections go their own way: this proxy takes none any more, and one that is refused is worse than one
    /// that misses the mesh. Open ones stay as they are. Callers that were to be refused still are.
    pub(crate) async fn release(&self) {
        let Some(tool) = self.set else { return };
        let guard = self.inbound == Inbound::Strict;
        match apply::apply(&self.plan, Stage::Release { guard }, tool).await {
            Ok(_) => tracing::info!("new connections are captured no longer"),
            Err(error) => {
                tracing::warn!(%error, "capture rules are still there while this proxy drains")
            }
        }
    }

    /// Removes them.
    pub(crate) async fn remove(mut self) {
        let Some(tool) = self.set.take() else { return };
        match apply::apply(&self.plan, Stage::Gone, tool).await {
            Ok(_) => tracing::info!("capture rules are removed"),
            Err(error) => {
                tracing::error!(%error, "capture rules are left behind; `tradewind proxy capture --remove` removes them");
            }
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        let gone = |family| self.plan.iptables(family, Stage::Gone, [true; 2]);
        match self.set.take() {
            None => {}
            Some(Tool::Auto | Tool::Nft) => start("nft", &["-f", "-"], &self.plan.nft(Stage::Gone)),
            Some(Tool::Iptables) => {
                let args = ["-w", "5", "--noflush"];
                start("iptables-restore", &args, &gone(Family::V4));
                if self.plan.ipv6() {
                    start("ip6tables-restore", &args, &gone(Family::V6));
                }
            }
        }
    }
}

/// Starts a tool that finishes by itself, also when this process has ended.
fn start(tool: &str, args: &[&str], input: &str) {
    for place in apply::places(tool) {
        let spawned = std::process::Command::new(place)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        match spawned {
            Ok(mut child) => {
                // A few lines fit into the pipe: this does not wait.
                let fed = child
                    .stdin
                    .take()
                    .map(|mut s| s.write_all(input.as_bytes()));
                if let Some(Err(error)) = fed {
                    tracing::warn!(%error, tool, "capture rules may be left behind");
                }
                return;
            }
            Err(e) if apply::is_absent(&e) => {}
            Err(error) => {
                tracing::warn!(%error, tool, "capture rules are left behind");
                return;
            }
        }
    }
}
