//! Whom the API server believes when it calls the webhook: the `caBundle` of a MutatingWebhookConfiguration.
//!
//! Each controller has a CA of its own for its webhook, and only adds and ages out: it never takes another replica's certificate
//! away that is still good. So several controllers may write the same object, and none locks out another.

use data_encoding::BASE64;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};

use crate::Client;

/// Most certificates of one bundle: three controllers with an old and a new one each, and room for those of pods that are gone.
pub const MAX_CERTIFICATES: usize = 16;
/// How often a change that met another one is tried again.
const ATTEMPTS: usize = 5;
/// Longest bundle that is read, in bytes: what is longer was not written by us and is replaced.
const MAX_BUNDLE_BYTES: usize = 256 << 10;
const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";

/// Why the bundle was not written. Ask again later: the webhook serves all the same.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// It is not installed, or not any more.
    #[error(
        "there is no MutatingWebhookConfiguration {0}: is the chart installed, with injection?"
    )]
    Absent(String),
    /// The API server does not answer, or refuses: see the RBAC of the chart.
    #[error("the caBundle of {name} cannot be {what}: {source}")]
    Api {
        /// The configuration.
        name: String,
        /// `read` or `written`.
        what: &'static str,
        /// What the API server said.
        source: kube::Error,
    },
    /// Somebody else changes it all the time.
    #[error("the caBundle of {0} changes whenever it is written")]
    Contended(String),
}

/// The patch (RFC 6902) that makes `ours` believed in all webhooks of a configuration, or nothing where they are. Of the others'
/// certificates those stay for which `keep` says so. Every operation is guarded by a test: who changed the object in between wins.
pub fn desired_ca_bundle_patch(
    configuration: &Value,
    ours: &[Vec<u8>],
    keep: &dyn Fn(&[u8]) -> bool,
) -> Option<Vec<Value>> {
    let webhooks = configuration.get("webhooks")?.as_array()?;
    let mut patch = Vec::new();
    for (at, webhook) in webhooks.iter().enumerate() {
        let Some(client) = webhook.get("clientConfig") else {
            continue;
        };
        let now = client
            .get("caBundle")
            .and_then(Value::as_str)
            .unwrap_or_default();
        let desired = BASE64.encode(desired_bundle(now, ours, keep).as_bytes());
        if desired != now {
            patch.push(json!({
                "op": "add",
                "path": format!("/webhooks/{at}/clientConfig/caBundle"),
                "value": desired,
            }));
        }
    }
    if patch.is_empty() {
        return None;
    }
    let version = configuration.pointer("/metadata/resourceVersion")?;
    let guard = json!({ "op": "test", "path": "/metadata/resourceVersion", "value": version });
    patch.insert(0, guard);
    Some(patch)
}

/// What stays, in its order, then ours that are missing: were ours put first, two controllers would change the order back and forth.
fn desired_bundle(now_base64: &str, ours: &[Vec<u8>], keep: &dyn Fn(&[u8]) -> bool) -> String {
    let mut all: Vec<Vec<u8>> = Vec::new();
    for der in certificates(now_base64) {
        if !all.contains(&der) && (ours.contains(&der) || keep(&der)) {
            all.push(der);
        }
    }
    for der in ours {
        if !all.contains(der) {
            all.push(der.clone());
        }
    }
    // The oldest of the others go first.
    while all.len() > MAX_CERTIFICATES {
        let Some(oldest) = all.iter().position(|der| !ours.contains(der)) else {
            break;
        };
        all.remove(oldest);
    }
    all.iter().map(|der| pem(der)).collect()
}

/// The certificates of a bundle, DER. What is none is left out.
fn certificates(bundle_base64: &str) -> Vec<Vec<u8>> {
    if bundle_base64.len() > MAX_BUNDLE_BYTES {
        return Vec::new();
    }
    let Ok(bytes) = BASE64.decode(bundle_base64.as_bytes()) else {
        return Vec::new();
    };
    let text = String::from_utf8_lossy(&bytes);
    let blocks = text.split(BEGIN).skip(1);
    let bodies = blocks.filter_map(|block| block.split_once(END).map(|(body, _)| body));
    bodies
        .filter_map(|body| {
            let body: String = body.split_whitespace().collect();
            BASE64.decode(body.as_bytes()).ok()
        })
        .collect()
}

/// One certificate as PEM.
pub fn pem(der: &[u8]) -> String {
    let mut text = format!("{BEGIN}\n");
    for (at, c) in BASE64.encode(der).chars().enumerate() {
        if at > 0 && at % 64 == 0 {
            text.push('\n');
        }
        text.push(c);
    }
    text.push('\n');
    text.push_str(END);
    text.push('\n');
    text
}

/// Sees to it that `ours` are believed. True if something was written.
pub async fn publish(
    client: &Client,
    name: &str,
    ours: &[Vec<u8>],
    keep: &(dyn Fn(&[u8]) -> bool + Send + Sync),
) -> Result<bool, BundleError> {
    let api: Api<MutatingWebhookConfiguration> = Api::all(client.kube.clone());
    let failed = |what: &'static str| {
        move |source: kube::Error| BundleError::Api {
            name: name.to_owned(),
            what,
            source,
        }
    };
    for _ in 0..ATTEMPTS {
        let Some(found) = api.get_opt(name).await.map_err(failed("read"))? else {
            return Err(BundleError::Absent(name.to_owned()));
        };
        let found =
            serde_json::to_value(found).map_err(|e| failed("read")(kube::Error::SerdeError(e)))?;
        let Some(patch) = desired_ca_bundle_patch(&found, ours, keep) else {
            return Ok(false);
        };
        let patch = serde_json::from_value(Value::Array(patch))
            .map_err(|e| failed("written")(kube::Error::SerdeError(e)))?;
        let params = PatchParams::default();
        match api.patch(name, &params, &Patch::<()>::Json(patch)).await {
            Ok(_) => return Ok(true),
            Err(error) if lost_the_race(&error) => {}
            Err(error) => return Err(failed("written")(error)),
        }
    }
    Err(BundleError::Contended(name.to_owned()))
}

/// A test of the patch failed (422), or the object changed while it was applied (409).
fn lost_the_race(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 422 || status.code == 409)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configuration(bundle: Option<&str>) -> Value {
        let mut client = json!({ "service": { "name": "tradewind-controller" } });
        if let Some(bundle) = bundle {
            client["caBundle"] = json!(bundle);
        }
        json!({ "metadata": { "resourceVersion": "7" }, "webhooks": [{ "name": "a", "clientConfig": client }] })
    }

    fn bundle_of(patch: &[Value]) -> String {
        patch[1]["value"].as_str().unwrap().to_owned()
    }

    #[test]
    fn ours_is_added_and_then_left_alone() {
        let ours = vec![b"one".to_vec()];
        let patch = desired_ca_bundle_patch(&configuration(None), &ours, &|_| true).unwrap();
        assert_eq!(patch[0]["op"], "test");
        assert_eq!(patch[0]["value"], "7");
        let bundle = bundle_of(&patch);
        assert_eq!(certificates(&bundle), ours);
        let again = configuration(Some(&bundle));
        assert_eq!(desired_ca_bundle_patch(&again, &ours, &|_| true), None);
    }

    #[test]
    fn another_replicas_certificate_stays_until_it_is_over() {
        let theirs = BASE64.encode(pem(b"theirs").as_bytes());
        let ours = vec![b"ours".to_vec()];
        let found = configuration(Some(&theirs));
        let patch = desired_ca_bundle_patch(&found, &ours, &|_| true).unwrap();
        let both = [b"theirs".to_vec(), b"ours".to_vec()];
        assert_eq!(certificates(&bundle_of(&patch)), both);
        let over = desired_ca_bundle_patch(&found, &ours, &|der| der != b"theirs").unwrap();
        assert_eq!(certificates(&bundle_of(&over)), ours);
    }

    #[test]
    fn two_replicas_that_take_turns_settle() {
        let (a, b) = (vec![b"a".to_vec()], vec![b"b".to_vec()]);
        let mut found = configuration(None);
        let mut changes = 0;
        for ours in [&a, &b, &a, &b, &a, &b] {
            if let Some(patch) = desired_ca_bundle_patch(&found, ours, &|_| true) {
                found = configuration(Some(&bundle_of(&patch)));
                changes += 1;
            }
        }
        assert_eq!(changes, 2, "they must not undo each other's order for ever");
    }

    #[test]
    fn what_is_no_bundle_is_replaced_and_bounds_hold() {
        let ours = vec![b"ours".to_vec()];
        for rubbish in ["!!", "AAAA", &"A".repeat(MAX_BUNDLE_BYTES + 4)] {
            let patch =
                desired_ca_bundle_patch(&configuration(Some(rubbish)), &ours, &|_| true).unwrap();
            assert_eq!(certificates(&bundle_of(&patch)), ours);
        }
        let many: String = (0..40).map(|n| pem(format!("{n}").as_bytes())).collect();
        let many = BASE64.encode(many.as_bytes());
        let patch = desired_ca_bundle_patch(&configuration(Some(&many)), &ours, &|_| true).unwrap();
        assert_eq!(certificates(&bundle_of(&patch)).len(), MAX_CERTIFICATES);
    }

    #[test]
    fn a_configuration_without_webhooks_is_left_alone() {
        for odd in [json!({}), json!([]), json!({ "webhooks": [{}] }), json!(7)] {
            assert_eq!(
                desired_ca_bundle_patch(&odd, &[b"a".to_vec()], &|_| true),
                None
            );
        }
    }
}
