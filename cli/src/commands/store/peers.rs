//! `tradewind store peers`: every node of the store as one controller knows it, also without a leader.

use serde_json::{Value, json};
use tradewind_api::proto::v1;

use super::super::Context;
use crate::{
    admin::{Admin, Where},
    exit::{Exit, Outcome},
    output::{Format, Listing, Output},
    table::{Table, age, count, or_dash},
};

/// `tradewind store peers`
#[derive(Debug, clap::Args)]
pub struct Peers {
    /// Show what this controller knows, with ages, though it hears no leader
    #[arg(long)]
    stale: bool,
    #[command(flatten)]
    place: Where,
    #[command(flatten)]
    output: Output,
}

/// Shows them.
pub async fn run(context: Context, args: Peers) -> Outcome {
    let admin = Admin::connect(&args.place).await?;
    let found = ask(&admin, args.stale).await?;
    let printer = context.printer;
    let listing = Listing {
        schema: "tradewind.store-peers/v1",
        json: json(&found),
        table: table(&found),
        names: found.peers.iter().map(|p| p.node_id.to_string()).collect(),
        empty: "this controller knows of no node; see `tradewind status`",
    };
    listing.show(printer, args.output);
    if args.output.format == Format::Table {
        printer.data(verdict(&found));
        if found.leader.is_none() {
            let heard = match found.leader_age_ms {
                Some(ms) => format!("no leader heard of for {}", age(ms)),
                None => "no leader was ever heard of".to_owned(),
            };
            printer.warn(format_args!(
                "{heard}; term {}, revision {}",
                found.term,
                count(found.revision)
            ));
        }
    }
    Ok(Exit::Good)
}

/// Asks for them.
pub async fn ask(
    admin: &Admin,
    stale: bool,
) -> Result<v1::StorePeersResponse, crate::exit::Failure> {
    let request = v1::StorePeersRequest { stale };
    admin
        .store(request, async |mut c, r| c.peers(r).await)
        .await
}

fn known(value: Option<u64>) -> String {
    value.map_or_else(|| "-".to_owned(), count)
}

/// Microseconds as people read them.
fn micros(us: u64) -> String {
    match us {
        0..10_000 => format!("{}.{} ms", us / 1_000, us % 1_000 / 100),
        _ => format!("{} ms", us / 1_000),
    }
}

fn table(found: &v1::StorePeersResponse) -> Table {
    let wished = found.peers.iter().any(|p| p.voting != "auto");
    let mut columns = vec!["", ">NODE", "CLUSTER", "REGION", "ROLE"];
    if wished {
        columns.push("VOTING");
    }
    columns.extend([
        ">TERM",
        ">LAST LOG",
        ">APPLIED",
        ">TRAILS",
        ">FSYNC p99",
        ">ANSWERED",
    ]);
    let mut table = Table::new(&columns);
    for peer in &found.peers {
        let mut row = vec![
            if peer.this_node { "*" } else { "" }.to_owned(),
            peer.node_id.to_string(),
            or_dash(peer.cluster.clone()),
            or_dash(peer.region.clone()),
            role(peer),
        ];
        if wished {
            row.push(peer.voting.clone());
        }
        row.extend([
            known(peer.term),
            known(peer.last_log),
            known(peer.applied),
            known(peer.trails),
            peer.fsync_p99_us.map_or_else(|| "-".to_owned(), micros),
            match (peer.this_node, peer.answered_ms) {
                (true, _) => "-".to_owned(),
                (false, Some(ms)) => age(ms),
                (false, None) => "never".to_owned(),
            },
        ]);
        table.row(row);
    }
    table
}

fn role(peer: &v1::StorePeer) -> String {
    if peer.witness {
        format!("{} (witness)", peer.role)
    } else {
        peer.role.clone()
    }
}

/// What the voters can bear, in a line.
pub fn verdict(found: &v1::StorePeersResponse) -> String {
    let bears = bears(found);
    if found.changing {
        return format!("{bears}; its voters are being changed, which takes a moment");
    }
    bears
}

fn bears(found: &v1::StorePeersResponse) -> String {
    let plural = |n: u32| if n == 1 { "voter" } else { "voters" };
    match found.spare {
        Some(0) => "can lose no voter and still write".to_owned(),
        Some(n) => format!("can lose {n} more {} and still write", plural(n)),
        None => {
            let missing = found.majority.saturating_sub(found.answering);
            format!(
                "cannot write: {} of {} voters answer, {missing} more must",
                found.answering, found.voters
            )
        }
    }
}

fn json(found: &v1::StorePeersResponse) -> Value {
    let peer = |p: &v1::StorePeer| {
        json!({
            "node_id": p.node_id,
            "cluster": p.cluster,
            "region": p.region,
            "role": p.role,
            "voting": p.voting,
            "this_node": p.this_node,
            "witness": p.witness,
            "term": p.term,
            "last_log": p.last_log,
            "applied": p.applied,
            "trails": p.trails,
            "fsync_p99_us": p.fsync_p99_us,
            "answered_ms": p.answered_ms,
            "answers": p.answers,
        })
    };
    json!({
        "revision": found.revision,
        "term": found.term,
        "leader": found.leader,
        "leader_age_ms": found.leader_age_ms,
        "can_write": found.can_write,
        "level": found.level,
        "voters": found.voters,
        "majority": found.majority,
        "answering": found.answering,
        "can_lose": found.spare,
        "changing": found.changing,
        "peers": found.peers.iter().map(peer).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(voters: u32, answering: u32) -> v1::StorePeersResponse {
        let majority = voters / 2 + 1;
        v1::StorePeersResponse {
            voters,
            majority,
            answering,
            spare: answering.checked_sub(majority),
            ..v1::StorePeersResponse::default()
        }
    }

    #[test]
    fn the_verdict_says_what_may_be_lost_or_what_is_missing() {
        for (voters, answering, said) in [
            (3, 3, "can lose 1 more voter and still write"),
            (5, 5, "can lose 2 more voters and still write"),
            (3, 2, "can lose no voter and still write"),
            (1, 1, "can lose no voter and still write"),
            (3, 1, "cannot write: 1 of 3 voters answer, 1 more must"),
            (5, 1, "cannot write: 1 of 5 voters answer, 2 more must"),
        ] {
            assert_eq!(verdict(&found(voters, answering)), said);
        }
        let half = v1::StorePeersResponse {
            changing: true,
            ..found(2, 2)
        };
        let said = verdict(&half);
        assert!(said.starts_with("can lose no voter"), "{said}");
        assert!(said.ends_with("which takes a moment"), "{said}");
    }

    #[test]
    fn the_table_shows_wishes_only_where_there_are_any() {
        let peer = v1::StorePeer {
            node_id: 2,
            cluster: "east".into(),
            region: "eu-west".into(),
            role: "voter".into(),
            voting: "auto".into(),
            last_log: Some(48_391),
            trails: Some(14),
            fsync_p99_us: Some(1_250),
            answered_ms: Some(340),
            ..v1::StorePeer::default()
        };
        let mut all = found(3, 3);
        all.peers = vec![peer.clone()];
        let text = table(&all).render();
        assert!(!text.contains("VOTING"), "{text}");
        for part in ["48,391", "14", "1.2 ms", "340 ms", "eu-west"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let wished = v1::StorePeer {
            voting: "never".into(),
            answered_ms: None,
            fsync_p99_us: Some(142_000),
            ..peer
        };
        all.peers = vec![wished];
        let text = table(&all).render();
        for part in ["VOTING", "never", "142 ms"] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}
