//! Whose a service account's token is, by the word of the API server that issued it.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use kube::{Api, api::PostParams};

use crate::client::Client;

/// How long the API server may take: it verifies a signature and looks at two objects. Who asks waits ten seconds.
const DEADLINE: Duration = Duration::from_secs(5);
/// What a service account is called as a user; namespace and account follow, parted by a colon.
const USER_PREFIX: &str = "system:serviceaccount:";
/// Where a token that is bound to a Pod says to which.
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";

/// A service account that the API server vouches for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The Pod that the token is bound to, if it is: with the Pod the token ends.
    pub pod: Option<String>,
}

/// Why nobody is vouched for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReviewError {
    /// The token is good for nothing here.
    #[error("the API server does not take the service account's token: {0}")]
    Refused(String),
    /// There is no answer, or one that says nothing of the token.
    #[error("the API server did not review the service account's token: {0}")]
    Away(String),
}

impl Client {
    /// Asks whose `token` is. It must be meant for `audience` alone and in force: it is refused when its Pod or account is gone.
    pub async fn review_token(&self, token: &str, audience: &str) -> Result<Account, ReviewError> {
        let review = TokenReview {
            spec: TokenReviewSpec {
                audiences: Some(vec![audience.to_owned()]),
                token: Some(token.to_owned()),
            },
            ..TokenReview::default()
        };
        let api: Api<TokenReview> = Api::all(self.kube.clone());
        let post = PostParams::default();
        let answer = tokio::time::timeout(DEADLINE, api.create(&post, &review))
            .await
            .map_err(|_| ReviewError::Away(format!("no answer within {} s", DEADLINE.as_secs())))?
            .map_err(|e| ReviewError::Away(e.to_string()))?;
        account(&answer.status.unwrap_or_default(), audience)
    }
}

/// Reads the answer.
fn account(status: &TokenReviewStatus, audience: &str) -> Result<Account, ReviewError> {
    let refused = |why: &str| Err(ReviewError::Refused(why.to_owned()));
    if status.authenticated != Some(true) {
        return refused(
            status
                .error
                .as_deref()
                .unwrap_or("it is not in force, or not for this audience"),
        );
    }
    // An API server that knows no audiences would take a token for anybody.
    let named = status.audiences.as_deref().unwrap_or_default();
    if !named.iter().any(|a| a == audience) {
        return refused("it is not for this audience");
    }
    let user = status.user.as_ref();
    let name = user.and_then(|u| u.username.as_deref()).unwrap_or_default();
    let Some((namespace, name)) = name
        .strip_prefix(USER_PREFIX)
        .and_then(|rest| rest.split_once(':'))
    else {
        return refused("it is no service account's");
    };
    let pod = user
        .and_then(|u| u.extra.as_ref())
        .and_then(|extra: &BTreeMap<String, Vec<String>>| extra.get(POD_NAME))
        .and_then(|pods| pods.first());
    Ok(Account {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        pod: pod.cloned(),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(status: serde_json::Value) -> Result<Account, ReviewError> {
        account(&serde_json::from_value(status).unwrap(), "tradewind.west")
    }

    #[test]
    fn a_service_account_is_read_with_its_pod() {
        let status = json!({
            "authenticated": true,
            "audiences": ["tradewind.west"],
            "user": {
                "username": "system:serviceaccount:shop:payments",
                "extra": { "authentication.kubernetes.io/pod-name": ["payments-0"] },
            },
        });
        let expected = Account {
            namespace: "shop".into(),
            name: "payments".into(),
            pod: Some("payments-0".into()),
        };
        assert_eq!(read(status), Ok(expected));
    }

    #[test]
    fn everything_else_is_refused() {
        let user = json!({ "username": "system:serviceaccount:shop:payments" });
        for (status, word) in [
            (json!({}), "not in force"),
            (
                json!({ "authenticated": false, "error": "expired" }),
                "expired",
            ),
            (json!({ "authenticated": true, "user": user }), "audience"),
            (
                json!({ "authenticated": true, "audiences": ["vault"], "user": user }),
                "audience",
            ),
            (
                json!({ "authenticated": true, "audiences": ["tradewind.west"], "user": { "username": "admin" } }),
                "no service account",
            ),
            (
                json!({ "authenticated": true, "audiences": ["tradewind.west"] }),
                "no service account",
            ),
        ] {
            let error = read(status).unwrap_err();
            assert!(matches!(error, ReviewError::Refused(_)), "{error}");
            assert!(error.to_string().contains(word), "{error}");
        }
    }
}
