//! Persistent sessions (GEP-1619): requests of one client go back to the endpoint that answered its first one.
//!
//! The session is a token that the client carries; no proxy keeps one. What stands in the token, and when it holds, is
//! `tradewind_transport::route::persistence`.

use aws_lc_rs::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

use super::Origin;

/// How requests of a rule are kept with one endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Persistence {
    /// What carries the token.
    pub by: Carrier,
    /// A session ends so long after it began, ms; none is never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub absolute_ms: Option<u64>,
    /// A session ends so long after its last answer, ms; none is never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_ms: Option<u64>,
}

/// What carries a session's token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Carrier {
    /// A cookie.
    Cookie {
        /// Its name.
        name: String,
        /// Its `Path`.
        path: String,
        /// Clients keep it until [`Persistence::absolute_ms`] is over, and not only until they are closed.
        permanent: bool,
    },
    /// A header field of this name, in lower case: the client sends back what it found in a response.
    Header(String),
}

impl Persistence {
    /// The name of the cookie or header field where a rule says none: the same in every cluster and for as long as the rule stands
    /// where it does, and another one for every other rule.
    pub fn usual_name(rule: &Origin) -> String {
        let hash = digest(&SHA256, rule.place().as_bytes());
        let short = hash.as_ref().get(..8).unwrap_or_default();
        format!("session-{}", data_encoding::HEXLOWER.encode(short))
    }
}

impl Origin {
    /// Which rule it is, wherever it was read: the same in the cluster that wrote it and in those that it is published to.
    pub fn place(&self) -> String {
        format!("{}\n{}\n{}", self.kind.as_str(), self.object, self.rule)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Kind;
    use super::*;

    #[test]
    fn the_usual_name_is_the_rules_own_in_every_cluster() {
        let rule = |object: &str, rule: &str| Origin {
            kind: Kind::HttpRoute,
            object: object.parse().unwrap(),
            rule: rule.to_owned(),
            cluster: None,
        };
        let name = Persistence::usual_name(&rule("shop/cart", "rules[0]"));
        // It never changes: clients have it.
        assert_eq!(name, "session-187f62b1de5522db");
        let elsewhere = Origin {
            cluster: Some("east".parse().unwrap()),
            ..rule("shop/cart", "rules[0]")
        };
        assert_eq!(Persistence::usual_name(&elsewhere), name);
        for other in [
            rule("shop/cart", "rules[1]"),
            rule("shop/tills", "rules[0]"),
        ] {
            assert_ne!(Persistence::usual_name(&other), name);
        }
    }

    #[test]
    fn it_travels_whole_and_nothing_unknown_with_it() {
        let whole = Persistence {
            by: Carrier::Cookie {
                name: "cart".to_owned(),
                path: "/".to_owned(),
                permanent: true,
            },
            absolute_ms: Some(1),
            idle_ms: Some(2),
        };
        let json = serde_json::to_value(&whole).unwrap();
        assert_eq!(
            serde_json::from_value::<Persistence>(json.clone()).unwrap(),
            whole
        );
        let mut more = json;
        more["secure"] = true.into();
        assert!(serde_json::from_value::<Persistence>(more).is_err());
    }
}
