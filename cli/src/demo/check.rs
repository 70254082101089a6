//! Waiting for what can be observed, with a limit, and with an eye on the children meanwhile.

use std::{net::SocketAddr, time::Duration};

use tokio::time::Instant;

use super::process::Processes;
use crate::exit::{Exit, Failure};
use crate::http;

/// Pause between two looks: short beside everything that is waited for.
const POLL: Duration = Duration::from_millis(50);
/// How long one look may take.
const LOOK_DEADLINE: Duration = Duration::from_secs(3);

/// Waits until `look` finds nothing unmet; returns how long that took.
pub async fn until(
    processes: &mut Processes,
    what: &str,
    limit: Duration,
    mut look: impl AsyncFnMut() -> Result<(), String>,
) -> Result<Duration, Failure> {
    let start = Instant::now();
    loop {
        let unmet = match tokio::time::timeout(LOOK_DEADLINE, look()).await {
            Ok(Ok(())) => return Ok(start.elapsed()),
            Ok(Err(unmet)) => unmet,
            Err(_) => "no answer".to_owned(),
        };
        processes.check()?;
        if start.elapsed() >= limit {
            return Err(Failure::new(
                Exit::TimedOut,
                format!("waited {} s for {what}: {unmet}", limit.as_secs()),
            ));
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Whether a role says that it is ready, else what it waits for.
pub async fn ready(admin: SocketAddr) -> Result<(), String> {
    match http::get(admin, "/readyz").await {
        Ok(answer) if answer.status == 200 => Ok(()),
        Ok(answer) => Err(answer.body),
        Err(e) => Err(e.why),
    }
}
