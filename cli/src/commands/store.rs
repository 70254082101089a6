//! `tradewind store …`: who holds the federation store and how well, who votes, its state in a file, and the way back after
//! a disaster. Holds the shape; the verbs are beside.

pub mod offline;
pub mod peers;
pub mod snapshot;
pub mod votes;
pub mod watch;

use super::Context;
use crate::exit::Outcome;

/// `tradewind store …`
#[derive(Debug, clap::Subcommand)]
pub enum Store {
    /// Show every node of the store, how far each trails, and how many may be lost
    Peers(peers::Peers),
    /// Let a node vote before others
    Promote(votes::Vote),
    /// Let a node only listen
    Demote(votes::Vote),
    /// Take a dead node out of the store for good
    Remove(votes::Remove),
    /// Let another voter lead
    Transfer(votes::Transfer),
    /// Save the store in a file, look into one, or restore one
    #[command(subcommand)]
    Snapshot(snapshot::Snapshot),
    /// Show every change of the store as it comes
    Watch(watch::Watch),
    /// Make a working federation of one survivor; its controller must be stopped
    Recover(offline::Offline),
    /// Bring back a node whose store is lost, under a new id; its controller must be stopped
    Rejoin(offline::Offline),
}

/// Runs one.
pub async fn run(context: Context, command: Store) -> Outcome {
    match command {
        Store::Peers(args) => peers::run(context, args).await,
        Store::Promote(args) => votes::promote(context, args).await,
        Store::Demote(args) => votes::demote(context, args).await,
        Store::Remove(args) => votes::remove(context, args).await,
        Store::Transfer(args) => votes::transfer(context, args).await,
        Store::Snapshot(command) => snapshot::run(context, command).await,
        Store::Watch(args) => watch::run(context, args).await,
        Store::Recover(args) => offline::recover(context, args).await,
        Store::Rejoin(args) => offline::rejoin(context, args).await,
    }
}
