//! Setting and removing the rules, by the tools that are there. Each run is bounded, and whatever goes wrong is said with what
//! to do about it.
//!
//! Owns nothing but the processes it starts. It must never leave one of them behind, nor touch a table or chain that is not ours.

use std::{
    io,
    net::{Ipv6Addr, SocketAddr},
    path::PathBuf,
    process::Stdio,
    time::Duration,
};

use tokio::{io::AsyncWriteExt as _, process::Command, time::timeout};

use super::{
    plan::{CHAINS, Family, Plan, Stage},
    settings::{CaptureConfig, Tool},
};

/// Longest that one run may take: it is milliseconds, and iptables waits up to five seconds for its lock.
const LIMIT: Duration = Duration::from_secs(10);
/// How long iptables waits for others that change rules, in seconds.
const LOCK_WAIT: &str = "5";
/// Where the tools are when `PATH` does not lead there, as it does not for users other than root.
const ELSEWHERE: [&str; 2] = ["/usr/sbin", "/sbin"];
/// Most that is repeated of what a tool said.
const MAX_SAID: usize = 500;

/// Why the rules are not as they should be.
#[derive(Debug, thiserror::Error)]
pub enum RulesError {
    /// None of the tools that would do is installed.
    #[error(
        "the rules of a capture need {tools}, which is not installed\nhint: install the package nftables, or iptables, of your distribution\n\
         hint: where rules are set by somebody else, say --capture-rules external"
    )]
    Missing {
        /// Which.
        tools: &'static str,
    },
    /// It may not.
    #[error(
        "{tool} may not change rules here: {said}\nhint: it needs CAP_NET_ADMIN in this network namespace: run as root, or give the capability\n\
         hint: or set them in an init step by `tradewind proxy capture --apply`, and run the proxy with --capture-rules external"
    )]
    Denied {
        /// Which tool.
        tool: String,
        /// What it said.
        said: String,
    },
    /// The kernel, or the tool, does not take them.
    #[error(
        "{tool} does not take the rules: {said}\nhint: `tradewind proxy capture --print` shows them; --capture-tool takes another tool"
    )]
    Refused {
        /// Which tool.
        tool: String,
        /// What it said.
        said: String,
    },
    /// It hangs.
    #[error("{tool} took over {} s\nhint: does another process hold the lock of the rules?", LIMIT.as_secs())]
    Late {
        /// Which tool.
        tool: String,
    },
    /// It could not be run.
    #[error("failed to run {tool}: {source}")]
    Io {
        /// Which tool.
        tool: String,
        /// The cause.
        source: io::Error,
    },
}

impl RulesError {
    const fn is_missing(&self) -> bool {
        matches!(self, Self::Missing { .. })
    }
}

/// Whether this network namespace has IPv6 on loopback: else nobody could listen for what is captured of it.
pub fn has_ipv6() -> bool {
    std::net::TcpListener::bind(SocketAddr::from((Ipv6Addr::LOCALHOST, 0))).is_ok()
}

/// What would set the rules here.
pub async fn chosen(tool: Tool) -> Result<Tool, RulesError> {
    match tool {
        Tool::Nft | Tool::Iptables => Ok(tool),
        Tool::Auto => match run("nft", &["--version"], None).await {
            Err(e) if e.is_missing() => run("iptables-restore", &["--version"], None)
                .await
                .map(|_| Tool::Iptables)
                .map_err(|e| match e {
                    RulesError::Missing { .. } => RulesError::Missing {
                        tools: "nft or iptables-restore",
                    },
                    other => other,
                }),
            Err(e) => Err(e),
            Ok(_) => Ok(Tool::Nft),
        },
    }
}

/// What `tool` would be told, as text.
pub fn text(plan: &Plan, tool: Tool) -> String {
    match tool {
        Tool::Auto | Tool::Nft => plan.nft(Stage::Capture),
        Tool::Iptables => {
            let v4 = plan.iptables(Family::V4, Stage::Capture, [false; 2]);
            let v6 = plan.iptables(Family::V6, Stage::Capture, [false; 2]);
            match plan.ipv6() {
                true => {
                    format!("# iptables-restore --noflush\n{v4}# ip6tables-restore --noflush\n{v6}")
                }
                false => format!("# iptables-restore --noflush\n{v4}"),
            }
        }
    }
}

/// Makes the rules what `stage` says, whatever there is of ours, and says what did it.
pub async fn apply(plan: &Plan, stage: Stage, tool: Tool) -> Result<Tool, RulesError> {
    let tool = chosen(tool).await?;
    if tool == Tool::Iptables {
        by_iptables(plan, Family::V4, stage).await?;
        if plan.ipv6() {
            by_iptables(plan, Family::V6, stage).await?;
        }
    } else {
        run("nft", &["-f", "-"], Some(plan.nft(stage))).await?;
    }
    Ok(tool)
}

/// Removes all that is ours, whichever tool it was set with.
pub async fn remove(tool: Tool) -> Result<(), RulesError> {
    let plan = Plan::new(&CaptureConfig::default(), &[], &[], true);
    if tool != Tool::Auto {
        return apply(&plan, Stage::Gone, tool).await.map(drop);
    }
    let mut missing = 0;
    let nft = run("nft", &["-f", "-"], Some(plan.nft(Stage::Gone))).await;
    for done in [
        nft,
        by_iptables(&plan, Family::V4, Stage::Gone).await,
        by_iptables(&plan, Family::V6, Stage::Gone).await,
    ] {
        match done {
            Ok(_) => {}
            Err(e) if e.is_missing() => missing += 1,
            Err(e) => return Err(e),
        }
    }
    if missing == 3 {
        let tools = "nft or iptables-restore";
        return Err(RulesError::Missing { tools });
    }
    Ok(())
}

async fn by_iptables(plan: &Plan, family: Family, stage: Stage) -> Result<bool, RulesError> {
    let (tool, restore) = match family {
        Family::V4 => ("iptables", "iptables-restore"),
        Family::V6 => ("ip6tables", "ip6tables-restore"),
    };
    let mut hooked = [false; 2];
    for (hooked, chain) in hooked.iter_mut().zip(CHAINS) {
        let check = [
            "-w", LOCK_WAIT, "-t", "nat", "-C", chain.hook, "-j", chain.name,
        ];
        // Also where there is no such chain: then it is not hooked in.
        *hooked = match run(tool, &check, None).await {
            Ok(_) => true,
            Err(RulesError::Refused { .. }) => false,
            Err(e) => return Err(e),
        };
    }
    if stage == Stage::Gone && hooked == [false; 2] {
        // Nothing of ours: and iptables would leave tables behind that nobody asked for.
        return Ok(true);
    }
    let input = plan.iptables(family, stage, hooked);
    run(restore, &["-w", LOCK_WAIT, "--noflush"], Some(input)).await
}

/// The paths that a tool may have, the most likely first.
pub(super) fn places(tool: &str) -> impl Iterator<Item = PathBuf> {
    let elsewhere = ELSEWHERE.map(|dir| PathBuf::from(dir).join(tool));
    std::iter::once(PathBuf::from(tool)).chain(elsewhere)
}

/// Whether nothing that can be run is there.
pub(super) fn is_absent(error: &io::Error) -> bool {
    // A file that nobody may execute is as good as none.
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied
    )
}

async fn run(tool: &'static str, args: &[&str], input: Option<String>) -> Result<bool, RulesError> {
    for place in places(tool) {
        let mut command = Command::new(place);
        let spawned = command
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn();
        let mut child = match spawned {
            Ok(child) => child,
            Err(e) if is_absent(&e) => continue,
            Err(source) => {
                let tool = tool.to_owned();
                return Err(RulesError::Io { tool, source });
            }
        };
        let stdin = child.stdin.take();
        let feed = async {
            if let (Some(mut stdin), Some(input)) = (stdin, input) {
                // One that ends before it has read all says why itself.
                drop(stdin.write_all(input.as_bytes()).await);
            }
        };
        let whole = async { tokio::join!(child.wait_with_output(), feed).0 };
        let output = match timeout(LIMIT, whole).await {
            Ok(Ok(output)) => output,
            Ok(Err(source)) => {
                let tool = tool.to_owned();
                return Err(RulesError::Io { tool, source });
            }
            Err(_) => {
                return Err(RulesError::Late {
                    tool: tool.to_owned(),
                });
            }
        };
        if output.status.success() {
            return Ok(true);
        }
        return Err(failed(tool, &String::from_utf8_lossy(&output.stderr)));
    }
    Err(RulesError::Missing { tools: tool })
}

fn failed(tool: &str, said: &str) -> RulesError {
    let tool = tool.to_owned();
    let lines: Vec<_> = said
        .lines()
        .map(str::trim)
        .filter(|l| !l.is_empty())
        .collect();
    let said: String = lines.join("; ").chars().take(MAX_SAID).collect();
    let denied = [
        "Operation not permitted",
        "Permission denied",
        "must be root",
    ];
    if denied.iter().any(|words| said.contains(words)) {
        RulesError::Denied { tool, said }
    } else {
        RulesError::Refused { tool, said }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_missing_is_named_with_what_to_do() {
        let error = run("tradewind-no-such-tool", &[], None).await.unwrap_err();
        assert!(error.is_missing());
        let said = error.to_string();
        for words in [
            "tradewind-no-such-tool, which is not installed",
            "hint: ",
            "nftables",
        ] {
            assert!(said.contains(words), "{said}");
        }
    }

    #[test]
    fn a_tool_that_may_not_is_told_from_one_that_cannot() {
        let denied = failed("nft", "netlink: Error: cache\nOperation not permitted\n");
        assert!(matches!(denied, RulesError::Denied { .. }), "{denied}");
        assert!(denied.to_string().contains("CAP_NET_ADMIN"), "{denied}");
        let refused = failed("nft", "syntax error");
        assert!(matches!(refused, RulesError::Refused { .. }), "{refused}");
        let long = failed("nft", &"x".repeat(10_000));
        assert!(long.to_string().len() < 1000);
    }
}
