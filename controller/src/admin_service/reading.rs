//! How fresh a list is: at once with its age, or after everything that was written before it was asked for.

use std::time::Duration;

use tonic::{Code, Status};

use super::AdminService;
use crate::answer::{self, refuse};

/// How long a consistent list waits for this controller to work through what the store has told it.
const COMPILE_WAIT: Duration = Duration::from_secs(2);

impl AdminService {
    /// Waits, if the list has to be `consistent`, and says how old what is known now may be, ms.
    pub(super) async fn read(&self, consistent: bool) -> Result<u64, Status> {
        if !consistent {
            return Ok(self.0.store.status().leader_age_ms.unwrap_or(u64::MAX));
        }
        let read = self.0.store.linearizable().await;
        let revision = read.map_err(|e| answer::propose(&e))?.revision;
        let mut snapshots = self.0.snapshots.clone();
        let caught_up = snapshots.wait_for(|s| s.revision.0 >= revision);
        match tokio::time::timeout(COMPILE_WAIT, caught_up).await {
            Ok(Ok(_)) => Ok(0),
            Ok(Err(_)) | Err(_) => Err(refuse(
                Code::DeadlineExceeded,
                format!("this controller has not worked through revision {revision} yet"),
                "try again, or list without --consistent",
            )),
        }
    }
}
