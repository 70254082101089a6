//! Tells the API server which certificates to believe, and sees to it that it goes on doing so.

use std::time::Duration;

use tradewind_kubernetes::{Client, injection::bundle};
use tradewind_runtime::{backoff::Backoff, clock::SharedClock, rng::Rng};

use super::{Bundle, is_still_good};

/// How often the configuration is looked at without a reason: somebody may have installed it anew, without a bundle.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// The first wait after a failure, and the longest.
const WAIT: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// Keeps the `caBundle` of the MutatingWebhookConfiguration `name` as it must be. Ends when the webhook is gone. An API server that is
/// away is asked again; until then it believes what it was told last.
pub async fn keep_published(
    mut bundle: Bundle,
    client: Client,
    name: String,
    clock: SharedClock,
    mut rng: Rng,
) {
    let mut backoff = Backoff::new(WAIT.0, WAIT.1);
    let mut told = String::new();
    loop {
        let ours = bundle.certificates();
        let now_unix_s = clock.unix_s();
        let keep = move |der: &[u8]| is_still_good(der, now_unix_s);
        let wait = match bundle::publish(&client, &name, &ours, &keep).await {
            Ok(written) => {
                bundle.published(&ours);
                if written {
                    tracing::info!(
                        name,
                        "the API server was told which certificates to believe"
                    );
                }
                told.clear();
                backoff = Backoff::new(WAIT.0, WAIT.1);
                LOOK_EVERY
            }
            Err(error) => {
                let text = error.to_string();
                if text != told {
                    tracing::warn!(%error, "pods cannot be given a proxy until the API server knows the webhook's certificate");
                    told = text;
                }
                backoff.next(&mut rng)
            }
        };
        tokio::select! {
            biased;
            alive = bundle.changed() => if !alive { return },
            () = tokio::time::sleep(wait) => {}
        }
    }
}
