//! `tradewind store promote`, `demote`, `remove` and `transfer`: who votes and who leads. Each waits until it is so.

use std::time::Duration;

use tokio::time::Instant;
use tradewind_api::proto::v1;

use super::super::Context;
use super::peers;
use crate::{
    admin::{Admin, Where},
    duration,
    exit::{Exit, Failure, Outcome},
    printer::Printer,
    suggest, table,
};

/// How often a waiting command looks again.
const POLL: Duration = Duration::from_millis(200);

/// How far to go.
#[derive(Debug, clap::Args)]
pub struct Manner {
    /// Show what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Wait until it is so, at most this long
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration::parse)]
    wait: Duration,
    #[command(flatten)]
    place: Where,
}

/// `tradewind store promote east`
#[derive(Debug, clap::Args)]
pub struct Vote {
    /// A node's number, or a cluster that has one node
    #[arg(value_name = "NODE|CLUSTER")]
    node: String,
    /// Leave it to the leader again
    #[arg(long)]
    auto: bool,
    #[command(flatten)]
    manner: Manner,
}

/// `tradewind store remove 3`
#[derive(Debug, clap::Args)]
pub struct Remove {
    /// A node's number, or a cluster that has one node
    #[arg(value_name = "NODE|CLUSTER")]
    node: String,
    /// Do it: the node's id is gone for good
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    manner: Manner,
}

/// `tradewind store transfer`
#[derive(Debug, clap::Args)]
pub struct Transfer {
    /// To which voter: a node's number, or a cluster that has one node [default: the one that trails least]
    #[arg(long, value_name = "NODE|CLUSTER")]
    to: Option<String>,
    #[command(flatten)]
    manner: Manner,
}

type Seen = v1::StorePeersResponse;

/// The node that is meant.
fn find<'a>(seen: &'a Seen, text: &str) -> Result<&'a v1::StorePeer, Failure> {
    if let Ok(id) = text.parse::<u64>()
        && let Some(found) = seen.peers.iter().find(|p| p.node_id == id)
    {
        return Ok(found);
    }
    let of: Vec<&v1::StorePeer> = seen.peers.iter().filter(|p| p.cluster == text).collect();
    match of.as_slice() {
        [one] => Ok(one),
        [] => {
            let failure = Failure::problem(format!("the store has no node {text}"))
                .hint("`tradewind store peers` lists the nodes");
            let names = seen.peers.iter().map(|p| p.cluster.as_str());
            Err(match suggest::nearest(text, names) {
                Some(near) => failure.hint(format!("did you mean `{near}`?")),
                None => failure,
            })
        }
        several => {
            let ids: Vec<String> = several.iter().map(|p| p.node_id.to_string()).collect();
            let ids = ids.join(", ");
            Err(
                Failure::usage(format!("cluster {text} has the nodes {ids}"))
                    .hint("name one of them by its number"),
            )
        }
    }
}

fn named(peer: &v1::StorePeer) -> String {
    format!("node {} ({})", peer.node_id, peer.cluster)
}

/// Waits until `unmet` has nothing to say of what is seen.
async fn wait(
    printer: Printer,
    admin: &Admin,
    limit: Duration,
    unmet: impl Fn(&Seen) -> Option<String>,
) -> Result<Seen, Failure> {
    let start = Instant::now();
    let mut said = String::new();
    loop {
        let missing = match peers::ask(admin, false).await {
            Ok(seen) => match unmet(&seen) {
                None => return Ok(seen),
                Some(missing) => missing,
            },
            Err(failure) if failure.exit == Exit::Unreachable => failure.what,
            Err(failure) => return Err(failure),
        };
        if start.elapsed() >= limit {
            let s = limit.as_secs_f32().ceil();
            return Err(Failure::new(
                Exit::TimedOut,
                format!("waited {s} s; still unmet: {missing}"),
            )
            .hint("the change was asked for and may still come: `tradewind store peers`"));
        }
        if missing != said {
            let spent = start.elapsed().as_secs();
            let s = limit.as_secs();
            printer.say(format_args!("waiting  {spent:>3} / {s} s   {missing}"));
            said = missing;
        }
        tokio::time::sleep(POLL.min(limit)).await;
    }
}

fn is_voter(peer: &v1::StorePeer) -> bool {
    matches!(peer.role.as_str(), "voter" | "leader")
}

/// Lets a node vote.
pub async fn promote(context: Context, args: Vote) -> Outcome {
    vote(context, args, "preferred").await
}

/// Lets a node listen.
pub async fn demote(context: Context, args: Vote) -> Outcome {
    vote(context, args, "never").await
}

async fn vote(context: Context, args: Vote, wish: &str) -> Outcome {
    let (printer, manner) = (context.printer, args.manner);
    let admin = Admin::connect(&manner.place).await?;
    let seen = peers::ask(&admin, false).await?;
    let peer = find(&seen, &args.node)?;
    let (name, id, before) = (named(peer), peer.node_id, peer.voting.clone());
    let wish = if args.auto { "auto" } else { wish };
    printer.title(format_args!("plan for {name}"));
    printer.say(format_args!(
        "  ~ {} with the wish {before}  ->  {}",
        peer.role,
        match wish {
            "preferred" => "votes before others",
            "never" => "only listens",
            _ => "as the leader chooses",
        }
    ));
    if manner.dry_run {
        printer.say("nothing was changed (--dry-run)");
        return Ok(Exit::Good);
    }
    let request = v1::SetVotingRequest {
        node_id: id,
        voting: wish.to_owned(),
    };
    let done = admin
        .store(request, async |mut c, r| c.set_voting(r).await)
        .await?;
    let unmet = |seen: &Seen| {
        let Some(peer) = seen.peers.iter().find(|p| p.node_id == id) else {
            return Some(format!("{name} is no node of the store any more"));
        };
        let met = match wish {
            "preferred" => is_voter(peer),
            "never" => !is_voter(peer),
            _ => true,
        };
        let trails = peer.trails.map_or(String::new(), |t| {
            format!(", {} entries behind", table::count(t))
        });
        (!met).then(|| format!("{name} is still a {}{trails}", peer.role))
    };
    let seen = wait(printer, &admin, manner.wait, unmet).await?;
    let role = seen.peers.iter().find(|p| p.node_id == id);
    let role = role.map_or("gone", |p| p.role.as_str());
    if done.changed {
        let revision = table::count(done.revision);
        printer.done(format_args!("{name} is a {role} (revision {revision})"));
    } else {
        printer.say(format_args!("that was so before: {name} is a {role}"));
    }
    printer.say(peers::verdict(&seen));
    let reverse = match before.as_str() {
        "preferred" => format!("promote {id}"),
        "never" => format!("demote {id}"),
        _ => format!("promote {id} --auto"),
    };
    printer.say(format_args!("reverse with: tradewind store {reverse}"));
    Ok(Exit::Good)
}

/// Takes a node out.
pub async fn remove(context: Context, args: Remove) -> Outcome {
    let (printer, manner) = (context.printer, args.manner);
    let admin = Admin::connect(&manner.place).await?;
    let seen = peers::ask(&admin, false).await?;
    let peer = find(&seen, &args.node)?;
    let (name, id) = (named(peer), peer.node_id);
    printer.title(format_args!("plan for {name}"));
    printer.say(format_args!(
        "  - a {} leaves the store; its id is never used again, its cluster stays a member",
        peer.role
    ));
    if peer.answers {
        printer.warn(format_args!(
            "{name} answers: its controller will be cut off from the store"
        ));
    }
    let voters = seen.voters - u32::from(is_voter(peer));
    let answering = seen.answering - u32::from(is_voter(peer) && peer.answers);
    printer.say(format_args!(
        "    afterwards {answering} of {voters} voters answer, {} are needed to write",
        voters / 2 + 1
    ));
    printer.say("reverse with: tradewind store rejoin, where that controller is");
    if answering <= voters / 2 {
        return Err(Failure::new(
            Exit::Refused,
            format!("without {name} no majority would be left, and writes would end"),
        )
        .hint("bring another voter back first; `tradewind store peers` shows who answers"));
    }
    if manner.dry_run {
        printer.say("nothing was changed (--dry-run)");
        return Ok(Exit::Good);
    }
    if !args.yes {
        printer.say("nothing was changed");
        return Err(Failure::new(Exit::Refused, "removing a node needs --yes")
            .hint("to go on, repeat the command with --yes"));
    }
    let request = v1::RemoveNodeRequest { node_id: id };
    let done = admin
        .store(request, async |mut c, r| c.remove_node(r).await)
        .await?;
    let unmet = |seen: &Seen| {
        let peer = seen.peers.iter().find(|p| p.node_id == id);
        peer.map(|p| format!("{name} is still a {}", p.role))
    };
    let seen = wait(printer, &admin, manner.wait, unmet).await?;
    printer.done(format_args!(
        "{name} is gone (revision {})",
        table::count(done.revision)
    ));
    printer.say(peers::verdict(&seen));
    Ok(Exit::Good)
}

/// Lets another lead.
pub async fn transfer(context: Context, args: Transfer) -> Outcome {
    let (printer, manner) = (context.printer, args.manner);
    let admin = Admin::connect(&manner.place).await?;
    let seen = peers::ask(&admin, false).await?;
    let to = match &args.to {
        Some(text) => Some(find(&seen, text)?),
        None => None,
    };
    let leads = seen.peers.iter().find(|p| Some(p.node_id) == seen.leader);
    let from = leads.map_or("nobody".to_owned(), named);
    let target = to.map_or("the voter that trails least".to_owned(), named);
    printer.title("plan for the store");
    printer.say(format_args!(
        "  ~ {from} leads  ->  {target} leads; writes wait for about a second"
    ));
    if manner.dry_run {
        printer.say("nothing was changed (--dry-run)");
        return Ok(Exit::Good);
    }
    let to = to.map(|p| p.node_id);
    if to.is_some() && to == seen.leader {
        printer.say("that was so before; nothing changed");
        return Ok(Exit::Good);
    }
    let request = v1::TransferRequest { to };
    let done = admin
        .store(request, async |mut c, r| c.transfer(r).await)
        .await?;
    let unmet = |seen: &Seen| match seen.leader {
        Some(leader) if leader == done.leader => None,
        Some(leader) => Some(format!("node {leader} leads")),
        None => Some("no leader is heard of".to_owned()),
    };
    let seen = wait(printer, &admin, manner.wait, unmet).await?;
    let leads = seen.peers.iter().find(|p| p.node_id == done.leader);
    let leads = leads.map_or_else(|| format!("node {}", done.leader), named);
    printer.done(format_args!("{leads} leads, term {}", seen.term));
    if let Some(before) = seen.peers.iter().find(|p| named(p) == from) {
        let id = before.node_id;
        printer.say(format_args!(
            "reverse with: tradewind store transfer --to {id}"
        ));
    }
    Ok(Exit::Good)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(node_id: u64, cluster: &str) -> v1::StorePeer {
        v1::StorePeer {
            node_id,
            cluster: cluster.into(),
            ..v1::StorePeer::default()
        }
    }

    #[test]
    fn nodes_are_named_by_number_or_by_cluster() {
        let seen = Seen {
            peers: vec![peer(1, "west"), peer(2, "east"), peer(7, "east")],
            ..Seen::default()
        };
        assert_eq!(find(&seen, "7").unwrap().node_id, 7);
        assert_eq!(find(&seen, "west").unwrap().node_id, 1);
        let several = find(&seen, "east").unwrap_err();
        assert!(several.what.contains("2, 7"), "{}", several.what);
        let none = find(&seen, "wset").unwrap_err();
        assert_eq!(none.exit, Exit::Problems);
        assert!(none.hints.iter().any(|h| h.contains("west")), "{none:?}");
        assert!(find(&seen, "8").is_err());
    }
}
