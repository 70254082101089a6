//! A workload's labels, as people give them. They choose among rules and prove nothing: what they say is for the workload's own calls.

use std::{collections::BTreeMap, str::FromStr, sync::Arc};

/// Labels by their key.
pub type Labels = Arc<BTreeMap<String, String>>;

/// Longest key: a prefix of 253 characters, a slash and a name of 63 (Kubernetes' rule).
const MAX_KEY: usize = 253 + 1 + 63;
/// Longest value (Kubernetes' rule).
const MAX_VALUE: usize = 63;

/// One of them: `app=web`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    /// Its key.
    pub key: String,
    /// Its value; may be empty.
    pub value: String,
}

impl FromStr for Label {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || format!("{text:?} is no label; expected KEY=VALUE, such as app=web");
        let (key, value) = text.split_once('=').ok_or_else(expected)?;
        let common = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        let is_key =
            !key.is_empty() && key.len() <= MAX_KEY && key.chars().all(|c| common(c) || c == '/');
        if !is_key || value.len() > MAX_VALUE || !value.chars().all(common) {
            return Err(expected());
        }
        Ok(Self {
            key: key.to_owned(),
            value: value.to_owned(),
        })
    }
}

/// All of them; of several with one key the last counts.
pub fn labels(all: Vec<Label>) -> Labels {
    Arc::new(all.into_iter().map(|l| (l.key, l.value)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_those_of_kubernetes() {
        let label = |text: &str| text.parse::<Label>().map(|l| (l.key, l.value));
        let pair = |k: &str, v: &str| Ok((k.to_owned(), v.to_owned()));
        assert_eq!(label("app=web"), pair("app", "web"));
        assert_eq!(label("a.io/app=v1.2_3"), pair("a.io/app", "v1.2_3"));
        assert_eq!(label("app="), pair("app", ""));
        for bad in [
            "app",
            "=web",
            "a b=c",
            "a=b c",
            "a=b=c",
            &format!("a={}", "x".repeat(64)),
        ] {
            assert!(label(bad).is_err(), "{bad}");
        }
        let two = labels(vec!["a=1".parse().unwrap(), "a=2".parse().unwrap()]);
        assert_eq!(two["a"], "2");
    }
}
