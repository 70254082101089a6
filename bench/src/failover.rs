//! How long a system takes no writes when its leader is killed: from the signal to the first write that a survivor
//! acknowledges. Writes are started at both survivors every few milliseconds, so that neither's retry pause counts.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::Mutex,
    time::{Instant, sleep},
};
use tradewind_runtime::TaskSet;

use crate::trio::Trio;

/// Between two attempts at one survivor: the figure's resolution.
const EVERY: Duration = Duration::from_millis(10);
/// How long one attempt may take.
const ATTEMPT: Duration = Duration::from_secs(5);
/// When nobody answered by then, nobody will.
const DEADLINE: Duration = Duration::from_secs(30);

/// Kills the leader once, takes the time, and brings the node back.
pub(crate) async fn measure(trio: &mut Trio) -> Result<Duration, String> {
    let leader = trio.leader().await?;
    let mut survivors = Vec::new();
    for place in (0..trio.len()).filter(|p| *p != leader) {
        let mut client = trio.client(place, ATTEMPT)?;
        client
            .put("failover", "before")
            .await
            .map_err(|e| format!("{} takes no write before the kill: {e}", trio.system.name()))?;
        survivors.push(client);
    }
    let killed = trio.kill(leader).await?;
    let first: Arc<Mutex<Option<Instant>>> = Arc::default();
    let mut attempts = TaskSet::new();
    let answered = loop {
        if let Some(at) = *first.lock().await {
            break at;
        }
        if killed.elapsed() > DEADLINE {
            return Err(format!("{} found no new leader", trio.system.name()));
        }
        for client in &survivors {
            let (mut client, first) = (client.clone(), Arc::clone(&first));
            attempts.spawn("bench-attempt", async move {
                if client.put("failover", "after").await.is_ok() {
                    first.lock().await.get_or_insert_with(Instant::now);
                }
            });
        }
        sleep(EVERY).await;
    };
    attempts.abort_all().await;
    trio.spawn(leader)?;
    trio.wait(leader, "takes writes", async |client| {
        client.put("failover", "again").await.is_ok()
    })
    .await?;
    Ok(answered.saturating_duration_since(killed))
}
