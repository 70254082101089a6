//! The admission API's envelope (`admission.k8s.io/v1`): a review comes in with a question, and goes back with the answer.
//!
//! A question that is none of ours is answered with yes and no change: the webhook must never stop what it was asked about by a
//! configuration that selects too much.

use data_encoding::BASE64;
use serde_json::{Map, Value, json};

use super::{Decision, decide, settings::Settings};

/// Longest warning in characters: the API server cuts what exceeds 256, and 4096 for all of an answer.
const MAX_WARNING: usize = 256;
/// Most warnings of one answer.
const MAX_WARNINGS: usize = 12;

/// The bytes are no review that can be answered; the sender gets 400 with these words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is no AdmissionReview of admission.k8s.io/v1: {0}")]
pub struct Unreadable(String);

/// What was answered, for metrics and logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The pod gets a proxy.
    Injected,
    /// The pod stays as it is: the reason, as [`super::Why::as_str`] says it.
    Left(&'static str),
    /// The pod is refused.
    Denied,
    /// It was not about a new pod.
    Foreign,
}

/// An answer, ready to be sent.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The review to send back.
    pub review: Value,
    /// What it says.
    pub kind: Kind,
    /// `namespace/name` of the pod, for the log; of a pod without a name yet, what its name will begin with.
    pub pod: String,
}

/// Answers a review about a pod.
pub fn answer(body: &[u8], settings: &Settings) -> Result<Answer, Unreadable> {
    let review: Value =
        serde_json::from_slice(body).map_err(|e| Unreadable(format!("it is no JSON: {e}")))?;
    let text = |key: &str| review.get(key).and_then(Value::as_str).unwrap_or_default();
    let (version, kind) = (text("apiVersion"), text("kind"));
    if (version, kind) != ("admission.k8s.io/v1", "AdmissionReview") {
        let short = |text: &str| text.chars().take(60).collect::<String>();
        let (version, kind) = (short(version), short(kind));
        return Err(Unreadable(format!("it is {kind:?} of {version:?}")));
    }
    let request = review
        .get("request")
        .and_then(Value::as_object)
        .ok_or_else(|| Unreadable("it has no request".to_owned()))?;
    let uid = request
        .get("uid")
        .and_then(Value::as_str)
        .ok_or_else(|| Unreadable("its request has no uid".to_owned()))?;
    let Some(pod) = new_pod(request) else {
        return Ok(Answer {
            review: reply(uid, true, Map::new()),
            kind: Kind::Foreign,
            pod: String::new(),
        });
    };
    let (allowed, rest, kind) = told(decide(pod, settings));
    Ok(Answer {
        review: reply(uid, allowed, rest),
        kind,
        pod: name_of(request, pod),
    })
}

/// The pod, if one is to be made. Subresources and other kinds are nothing to us.
fn new_pod(request: &Map<String, Value>) -> Option<&Value> {
    let kind = request.get("kind")?;
    let is = |value: Option<&Value>, text: &str| value.and_then(Value::as_str) == Some(text);
    let whole = request
        .get("subResource")
        .and_then(Value::as_str)
        .is_none_or(str::is_empty);
    let a_pod = is(kind.get("group"), "") && is(kind.get("kind"), "Pod");
    let made = is(request.get("operation"), "CREATE");
    (whole && a_pod && made).then_some(request.get("object")?)
}

fn told(decision: Decision) -> (bool, Map<String, Value>, Kind) {
    let mut rest = Map::new();
    let warn = |rest: &mut Map<String, Value>, warnings: Vec<String>| {
        if !warnings.is_empty() {
            let short = |text: String| text.chars().take(MAX_WARNING).collect::<String>();
            let warnings: Vec<String> =
                warnings.into_iter().take(MAX_WARNINGS).map(short).collect();
            rest.insert("warnings".to_owned(), json!(warnings));
        }
    };
    match decision {
        Decision::Inject { patch, warnings } => {
            let patch = json!(patch).to_string();
            rest.insert("patchType".to_owned(), json!("JSONPatch"));
            rest.insert("patch".to_owned(), json!(BASE64.encode(patch.as_bytes())));
            warn(&mut rest, warnings);
            (true, rest, Kind::Injected)
        }
        Decision::Leave(why) => {
            warn(&mut rest, why.warning().into_iter().collect());
            (true, rest, Kind::Left(why.as_str()))
        }
        Decision::Deny(reasons) => {
            let message = reasons.join("; ");
            let status = json!({ "code": 422, "reason": "Invalid", "message": message });
            rest.insert("status".to_owned(), status);
            (false, rest, Kind::Denied)
        }
    }
}

fn reply(uid: &str, allowed: bool, rest: Map<String, Value>) -> Value {
    let mut response = Map::new();
    response.insert("uid".to_owned(), json!(uid));
    response.insert("allowed".to_owned(), json!(allowed));
    response.extend(rest);
    json!({ "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response })
}

fn name_of(request: &Map<String, Value>, pod: &Value) -> String {
    let namespace = request.get("namespace").and_then(Value::as_str);
    let metadata = pod.get("metadata");
    let of = |key: &str| {
        let text = metadata.and_then(|m| m.get(key)).and_then(Value::as_str);
        text.filter(|text| !text.is_empty())
    };
    let name = of("name").or_else(|| of("generateName")).unwrap_or("?");
    let short = |text: &str| text.chars().take(253).collect::<String>();
    format!("{}/{}", short(namespace.unwrap_or("?")), short(name))
}
