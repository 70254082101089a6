//! Service accounts' tokens: what can be seen to be wrong with one is refused here, and the API server is asked about the rest.

use std::{sync::Arc, time::Duration};

use tokio::sync::Semaphore;
use tradewind_api::id::ClusterName;
use tradewind_kubernetes::{Client, token_review::ReviewError};
use tradewind_transport::control::service_account::{AUDIENCE_PREFIX, Claims};

use crate::attest::AccountSays;

/// Reviews under way at once: an API server does thousands a second, and a crowd that starts anew is through in a moment.
const MAX_REVIEWS: usize = 32;
/// How long a request waits for its turn. Who asks waits ten seconds, and a review may take five.
const TURN_DEADLINE: Duration = Duration::from_secs(4);

/// Asks the API server. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Accounts {
    client: Client,
    audience: Arc<str>,
    system: Arc<str>,
    turns: Arc<Semaphore>,
}

impl Accounts {
    /// For the controller of `cluster`; the service accounts of Tradewind's own processes are in the namespace `system`.
    pub fn new(client: Client, cluster: &ClusterName, system: &str) -> Self {
        Self {
            client,
            audience: format!("{AUDIENCE_PREFIX}{cluster}").into(),
            system: system.into(),
            turns: Arc::new(Semaphore::new(MAX_REVIEWS)),
        }
    }

    /// Whose the token is.
    pub async fn look(&self, token: &str, now_unix_s: u64) -> AccountSays {
        if let Err(why) = plausible(token, &self.audience, now_unix_s) {
            return AccountSays::Bad(why);
        }
        let Ok(Ok(_turn)) = tokio::time::timeout(TURN_DEADLINE, self.turns.acquire()).await else {
            return AccountSays::Busy(format!(
                "{MAX_REVIEWS} service accounts' tokens are under review already; try again"
            ));
        };
        match self.client.review_token(token, &self.audience).await {
            Ok(account) => AccountSays::Is {
                account,
                system: Arc::clone(&self.system),
            },
            Err(error @ ReviewError::Refused(_)) => AccountSays::Bad(error.to_string()),
            Err(error @ ReviewError::Away(_)) => AccountSays::Unknown(error.to_string()),
        }
    }
}

/// Whether a token may be good at all: strangers make the API server work for nothing else.
fn plausible(token: &str, audience: &str, now_unix_s: u64) -> Result<(), String> {
    let claims = Claims::unverified(token)
        .map_err(|e| format!("the service account's token is not valid: {e}"))?;
    if !claims.audiences.iter().any(|a| a == audience) {
        return Err(format!(
            "the service account's token is not for this cluster: expected the audience {audience}"
        ));
    }
    if claims.expires_at_unix_s <= now_unix_s {
        let late_s = now_unix_s - claims.expires_at_unix_s;
        return Err(format!(
            "the service account's token expired {late_s} s ago"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use data_encoding::BASE64URL_NOPAD;

    use super::*;

    #[test]
    fn what_cannot_be_good_is_refused_before_anybody_is_asked() {
        let token = |audience: &str, exp: u64| {
            let json = format!(
                r#"{{"aud":["{audience}"],"exp":{exp},"sub":"system:serviceaccount:shop:payments"}}"#
            );
            format!("e30.{}.c2ln", BASE64URL_NOPAD.encode(json.as_bytes()))
        };
        let look = |token: &str| plausible(token, "tradewind.west", 1000);
        assert_eq!(look(&token("tradewind.west", 1001)), Ok(()));
        for (bad, word) in [
            ("x".to_owned(), "not valid"),
            (token("tradewind.east", 1001), "tradewind.west"),
            (token("tradewind.west", 990), "10 s ago"),
        ] {
            let why = look(&bad).unwrap_err();
            assert!(why.contains(word), "{why}");
        }
    }
}
