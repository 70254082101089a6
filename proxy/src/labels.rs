//! A workload's labels, as people give them. They choose among rules for its own calls, and subsets of a service by those of its endpoints; they prove
//! nothing.

use std::{str::FromStr, sync::Arc};

use tradewind_api::traffic::is_label;

/// Labels by their key.
pub type Labels = Arc<tradewind_api::traffic::Labels>;

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
        if !is_label(key, value) {
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
