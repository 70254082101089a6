//! Local rate limits that hold at a service's endpoints, as `explain` and `routes` show them.

use serde_json::{Value, json};
use tradewind_api::proto::v1::HeldLimit;

/// As documents have them.
pub(super) fn as_json(limits: &[HeldLimit]) -> Vec<Value> {
    let one = |limit: &HeldLimit| {
        json!({
            "origin": format!("EnvoyFilter {}", limit.object),
            "index": limit.index,
            "port": limit.port,
            "endpoints": limit.endpoints,
            "words": limit.words,
            "limit": serde_json::from_str::<Value>(&limit.json).unwrap_or_default(),
        })
    };
    limits.iter().map(one).collect()
}

/// The objects that say them, each once.
pub(super) fn objects(limits: &[HeldLimit]) -> Vec<String> {
    let name = |limit: &HeldLimit| format!("EnvoyFilter {}", limit.object);
    let mut objects: Vec<_> = limits.iter().map(name).collect();
    objects.sort_unstable();
    objects.dedup();
    objects
}

/// Of such a document, for people; none where there are none.
pub(super) fn lines(limits: &Value) -> Option<String> {
    let limits = limits.as_array().filter(|l| !l.is_empty())?;
    let mut lines = vec!["how many requests its endpoints in this cluster take".to_owned()];
    for limit in limits {
        let origin = limit["origin"].as_str().unwrap_or("?");
        let at = limit["endpoints"].as_array().into_iter().flatten();
        let at: Vec<_> = at.filter_map(Value::as_str).collect();
        let (port, at) = (&limit["port"], at.join(", "));
        lines.push(format!("  {origin}, port {port}, at {at}"));
        let words = limit["words"].as_array().into_iter().flatten();
        let words = words.filter_map(Value::as_str);
        lines.extend(words.map(|words| format!("    {words}")));
    }
    lines.push(String::new());
    Some(lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_told_with_where_they_hold() {
        let held = |port| HeldLimit {
            object: "shop/cart".to_owned(),
            index: 0,
            port,
            endpoints: vec!["one".to_owned(), "two".to_owned()],
            words: vec!["10 requests at once".to_owned(), "more".to_owned()],
            json: r#"{"enabled": 1}"#.to_owned(),
        };
        let held = [held(80), held(81)];
        let json = Value::from(as_json(&held));
        assert_eq!(json[0]["limit"]["enabled"], 1);
        let expected = "how many requests its endpoints in this cluster take
  EnvoyFilter shop/cart, port 80, at one, two
    10 requests at once
    more
  EnvoyFilter shop/cart, port 81, at one, two
    10 requests at once
    more
";
        assert_eq!(lines(&json).unwrap(), expected);
        assert_eq!(objects(&held), ["EnvoyFilter shop/cart"]);
        assert_eq!(lines(&Value::Array(Vec::new())), None);
    }
}
