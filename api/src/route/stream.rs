//! Rules for streams of bytes: connections to a service whose bytes are no HTTP. They say to whom a stream goes, and nothing
//! else: nothing of it is read but the server name that a TLS client asks for.
//!
//! Whoever asks them does so once, before anything of the stream was sent; a stream that is open keeps what it has.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{BackendRef, Origin};
use crate::{id::Namespace, traffic::Labels};

/// The rules for streams to one service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Streams {
    /// For callers of these namespaces, before what holds for everybody.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub of_callers: BTreeMap<Namespace, Arc<StreamTable>>,
    /// For all others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub of_all: Option<Arc<StreamTable>>,
}

impl Streams {
    /// What holds for a caller in this namespace; none where a stream goes to the service itself.
    pub fn for_caller(&self, namespace: &Namespace) -> Option<&Arc<StreamTable>> {
        self.of_callers.get(namespace).or(self.of_all.as_ref())
    }

    /// Whether nothing is said for anybody.
    pub fn is_empty(&self) -> bool {
        self.of_callers.is_empty() && self.of_all.is_none()
    }
}

/// Rules in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StreamTable {
    /// The first that matches decides.
    pub rules: Vec<StreamRule>,
    /// Where none does.
    pub otherwise: StreamOtherwise,
}

/// What becomes of a stream that no rule matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StreamOtherwise {
    /// It is closed if there is a rule for its port, whatever else that wants; on to the service if not (Gateway API: a route that is
    /// attached to a port says all of that port, and nothing of the others).
    Closed,
    /// On to the service as if there were no rules (Istio).
    Service,
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StreamRule {
    /// Where it stands.
    pub origin: Origin,
    /// For which streams.
    pub when: StreamMatch,
    /// Who takes them: one of these, by weight. Where the weights sum to nothing they are closed.
    pub to: Vec<StreamBackend>,
}

/// What a stream must be like; everything that is set must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StreamMatch {
    /// The service's port that was called.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The server name that its TLS client asks for is one of these, in lower case: a whole name, `*.` and the end of one (of whatever number of
    /// labels more), or `*` for any. Nothing is any stream, also one that asks for no name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sni: Vec<String>,
    /// The caller's namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub caller_namespace: Option<Namespace>,
    /// Labels that the caller must have.
    #[serde(skip_serializing_if = "Labels::is_empty")]
    pub caller_labels: Labels,
}

/// Where a share of streams goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StreamBackend {
    /// To whom. The share of one that is broken is closed.
    pub to: BackendRef,
    /// In relation to the others.
    pub weight: u32,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::Routes;

    #[test]
    fn rules_for_streams_travel_beside_the_others_and_take_no_room_where_there_are_none() {
        let none = serde_json::to_string(&Routes::default()).unwrap();
        assert_eq!(none, r#"{"of_callers":{},"of_all":null}"#);
        let text = r#"{"of_callers":{},"of_all":null,"streams":{"of_all":{"rules":[{"origin":{"kind":"TLSRoute","object":"shop/db","rule":"rules[0]","cluster":null},"when":{"port":5432,"sni":["*.example.com"]},"to":[{"to":{"service":{"service":"shop/v1","port":null,"subset":null}},"weight":1}]}],"otherwise":"closed"}}}"#;
        let routes: Routes = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&routes).unwrap(), text);
        let (shop, front) = (
            Namespace::new("shop").unwrap(),
            Namespace::new("front").unwrap(),
        );
        let mut streams = routes.streams;
        let own = StreamTable {
            rules: Vec::new(),
            otherwise: StreamOtherwise::Service,
        };
        streams.of_callers.insert(front.clone(), Arc::new(own));
        let otherwise = |namespace| streams.for_caller(namespace).unwrap().otherwise;
        assert_eq!(otherwise(&shop), StreamOtherwise::Closed);
        assert_eq!(otherwise(&front), StreamOtherwise::Service);
        // A condition that is not understood must not be left out.
        let newer = text.replace("\"port\":5432", "\"prot\":5432");
        assert!(serde_json::from_str::<Routes>(&newer).is_err());
    }
}
