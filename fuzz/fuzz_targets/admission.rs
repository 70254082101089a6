//! What an API server, or somebody who poses as one, sends to the webhook: never a panic, the same answer twice, and a pod that has
//! its proxy is left alone.
//!
//! The input is a review as it stands, or, where it begins with `@`, the YAML of a pod inside of a good review.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};
use tradewind_kubernetes::injection::{Answer, Decision, Settings, answer, decide};

fn review(pod: &Value) -> String {
    let request = json!({
        "uid": "1", "operation": "CREATE", "namespace": "shop", "object": pod,
        "kind": { "group": "", "version": "v1", "kind": "Pod" },
    });
    json!({ "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request }).to_string()
}

fn ask(body: &[u8], settings: &Settings) -> Option<Answer> {
    answer(body, settings).ok()
}

fuzz_target!(|bytes: &[u8]| {
    let settings = Settings::new("registry.example/tradewind:1", "tradewind.west");
    let Some(text) = bytes.strip_prefix(b"@") else {
        assert_eq!(ask(bytes, &settings), ask(bytes, &settings));
        return;
    };
    let Some(pod) = std::str::from_utf8(text).ok().and_then(|text| serde_saphyr::from_str::<Value>(text).ok()) else {
        return;
    };
    let body = review(&pod);
    let first = ask(body.as_bytes(), &settings);
    assert!(first.is_some());
    assert_eq!(first, ask(body.as_bytes(), &settings));
    if let Decision::Inject { patch, .. } = decide(&pod, &settings) {
        let patch: json_patch::Patch = serde_json::from_value(json!(patch)).expect("a patch");
        let mut made = pod.clone();
        json_patch::patch(&mut made, &patch).expect("a patch that can be applied");
        assert!(matches!(decide(&made, &settings), Decision::Leave(_)));
    }
});
