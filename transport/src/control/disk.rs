//! The last good snapshot on disk, for a start at which no controller answers.
//!
//! What is written is all of it, as JSON, and with many services that costs a process more than everything else that a change brings. So
//! it is not written with each change: what lies there is for another day, and may be a minute old. Whom to believe may not.

use std::{path::PathBuf, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until},
};
use tradewind_api::snapshot::{Snapshot, Trust};
use tradewind_runtime::{files, rng::Rng, task};

use super::session::Shared;

/// The snapshot's file in the state directory.
pub(super) const FILE: &str = "snapshot.json";
const MAGIC: [u8; 4] = *b"TWSN";
/// Version of the file: a framed JSON of [`Saved`].
const VERSION: u16 = 1;
/// Shortest time between two writes.
const INTERVAL: Duration = Duration::from_secs(1);
/// A burst of changes is over when nothing changed for this long, and it is written all the same when it is so old that it does not end.
/// Both up to twice as long, so that not all proxies of a machine write at once what came to all of them at once.
const PATIENCE: Patience = Patience {
    quiet: Duration::from_secs(1),
    latest: Duration::from_secs(30),
};

/// How long a burst is waited for.
#[derive(Clone, Copy, Debug)]
struct Patience {
    quiet: Duration,
    latest: Duration,
}

impl Patience {
    fn stretched(self, rng: &mut Rng) -> Self {
        let by = 1.0 + rng.unit();
        Self {
            quiet: self.quiet.mul_f64(by),
            latest: self.latest.mul_f64(by),
        }
    }
}

/// The snapshot as it lies on disk.
#[derive(Serialize, Deserialize)]
pub(super) struct Saved<S> {
    /// When it was put in force, Unix ms: its age after a restart starts here.
    pub(super) since_unix_ms: u64,
    pub(super) snapshot: S,
}

/// What an earlier run left; `None` where there is nothing.
pub(super) async fn read(path: PathBuf) -> Result<Option<Saved<Snapshot>>, String> {
    task::spawn_blocking(move || {
        let framed = files::read_framed(&path, MAGIC, VERSION);
        let Some((_, payload)) = framed.map_err(|e| e.to_string())? else {
            return Ok(None);
        };
        serde_json::from_slice(&payload)
            .map(Some)
            .map_err(|e| e.to_string())
    })
    .await
    .map_err(|e| e.to_string())?
}

/// Writes the snapshot again and again, for as long as the process lives.
pub(super) async fn keep(shared: Arc<Shared>, path: PathBuf, mut rng: Rng) {
    let mut changes = shared.snapshot.subscribe();
    // What is in force now came from the file.
    changes.mark_unchanged();
    let mut kept = None;
    while changes.changed().await.is_ok() {
        let patience = PATIENCE.stretched(&mut rng);
        burst(&mut changes, kept.as_ref(), patience).await;
        let snapshot = changes.borrow_and_update().clone();
        kept = Some(Arc::clone(&snapshot.trust));
        let since_unix_ms = shared.status.borrow().changed_at_unix_ms;
        let target = path.clone();
        let written = task::spawn_blocking(move || {
            let saved = Saved {
                since_unix_ms,
                snapshot: &*snapshot,
            };
            let json = serde_json::to_vec(&saved).map_err(|e| e.to_string())?;
            files::write_framed(&target, MAGIC, VERSION, &json, 0o600).map_err(|e| e.to_string())
        })
        .await
        .map_err(|e| e.to_string())
        .and_then(|r| r);
        if let Err(why) = written {
            // Nothing is kept, so the next change is written at once.
            kept = None;
            shared.meters.cache_errors.inc();
            tracing::warn!(path = %path.display(), %why, "the snapshot was not written to disk");
        }
        sleep(INTERVAL).await;
    }
}

/// Waits for the end of a burst of changes, the first of which has come. Not at all where nothing was written yet, and no longer once
/// others are believed than those that are on disk.
async fn burst(
    changes: &mut watch::Receiver<Arc<Snapshot>>,
    kept: Option<&Arc<Trust>>,
    patience: Patience,
) {
    let latest = Instant::now() + patience.latest;
    loop {
        let trust = Arc::clone(&changes.borrow_and_update().trust);
        if kept.is_none_or(|kept| *kept != trust) {
            return;
        }
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            () = sleep(patience.quiet) => return,
            () = sleep_until(latest) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends what `then` makes of the snapshot every 300 ms, and says after how long the burst was over.
    async fn took(kept: bool, changes: u32, then: impl Fn(u32, &mut Snapshot)) -> Duration {
        let first = Snapshot::default();
        let trust = kept.then(|| Arc::clone(&first.trust));
        let (sender, mut receiver) = watch::channel(Arc::new(first));
        let start = Instant::now();
        let sending = async {
            for number in 0..changes {
                sleep(Duration::from_millis(300)).await;
                sender.send_modify(|s| then(number, Arc::make_mut(s)));
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = sending => unreachable!(),
            () = burst(&mut receiver, trust.as_ref(), PATIENCE) => start.elapsed(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_is_written_once_and_whom_to_believe_at_once() {
        let other = |n: u32, s: &mut Snapshot| s.revision.0 = u64::from(n) + 1;
        let ms = Duration::from_millis;
        assert_eq!(took(false, 3, other).await, ms(0), "nothing is there yet");
        assert_eq!(took(true, 0, other).await, ms(1_000));
        assert_eq!(took(true, 3, other).await, ms(1_900));
        assert_eq!(took(true, 1_000, other).await, ms(30_000));
        let revoked = |n: u32, s: &mut Snapshot| {
            if n == 4 {
                Arc::make_mut(&mut s.trust).roots.insert(vec![1]);
            }
        };
        assert_eq!(took(true, 1_000, revoked).await, ms(1_500));
    }
}
