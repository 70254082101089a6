//! Rules for streams of bytes: to whom a connection goes whose bytes are no HTTP. The decision is `tradewind_transport::route::stream`;
//! here is what of it is this proxy's own: when the client's first bytes are waited for, and what they say.
//!
//! Owns nothing. A connection is asked for by the rules of when it began, once, before anything of it was sent.

use std::{io, sync::Arc};

use bytes::BytesMut;
use tokio::{
    io::AsyncReadExt as _,
    time::{Instant, timeout_at},
};
use tradewind_api::{
    Namespace,
    id::ServicePortRef,
    route::{BackendRef, StreamTable},
};
use tradewind_transport::{
    client_hello::{Hello, parse},
    prefixed::Prefixed,
    route::{
        Caller,
        stream::{self, StreamCall, StreamVerdict},
    },
};

use super::{Outbound, connection::Client, route::CalleeKey};
use crate::{
    called::{Called, Scope},
    labels::Labels,
};

/// The rules for one connection to a service.
#[derive(Debug)]
pub(super) struct StreamRules {
    called: Called,
    /// None where it goes on to the service that was called.
    asked: Option<Asked>,
}

#[derive(Debug)]
struct Asked {
    table: Arc<StreamTable>,
    namespace: Namespace,
    labels: Labels,
}

impl Asked {
    fn caller(&self) -> Caller<'_> {
        Caller {
            namespace: &self.namespace,
            labels: &self.labels,
        }
    }
}

/// Why a connection goes nowhere by the rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Nowhere {
    /// One word, as for requests.
    pub(super) reason: &'static str,
    pub(super) why: String,
}

impl Nowhere {
    fn no_backend(why: String) -> Self {
        Self {
            reason: "no-backend",
            why,
        }
    }
}

impl StreamRules {
    /// Whether what the client says first makes a difference.
    pub(super) fn ask_for_name(&self) -> bool {
        self.asked
            .as_ref()
            .is_some_and(|a| stream::asks_for_name(&a.table, self.called.port, a.caller()))
    }

    /// What they say of one whose client asks for that name.
    pub(super) fn decide(&self, sni: Option<&str>) -> StreamVerdict<'_> {
        let Some(asked) = &self.asked else {
            return StreamVerdict::Service;
        };
        let call = StreamCall {
            port: self.called.port,
            sni,
            caller: asked.caller(),
        };
        stream::decide(&asked.table, &call)
    }

    /// Whom that leads to, by a number that is drawn.
    pub(super) fn follow(
        &self,
        verdict: StreamVerdict<'_>,
        drawn: u64,
    ) -> Result<CalleeKey, Nowhere> {
        let rule = match verdict {
            StreamVerdict::Rule(rule) => rule,
            StreamVerdict::Service => {
                return Ok(CalleeKey {
                    service: self.called.to.clone(),
                    scope: self.called.scope,
                    subset: None,
                });
            }
            StreamVerdict::Closed => {
                return Err(Nowhere {
                    reason: "no-rule",
                    why: "there are rules for its port, and none of them is for this stream".into(),
                });
            }
        };
        let picked = stream::pick(&rule.to, drawn).and_then(|i| rule.to.get(i));
        match picked.map(|backend| &backend.to) {
            None => {
                let why = format!("{} has no backend with a weight", rule.origin);
                Err(Nowhere::no_backend(why))
            }
            Some(BackendRef::Broken(why)) => {
                Err(Nowhere::no_backend(format!("{}: {why}", rule.origin)))
            }
            Some(BackendRef::Service {
                service,
                port,
                subset,
            }) => Ok(CalleeKey {
                service: ServicePortRef {
                    service: service.clone(),
                    port: port.unwrap_or(self.called.port),
                },
                scope: Scope::Everybody,
                subset: subset.clone(),
            }),
        }
    }
}

impl Outbound {
    /// The rules for a connection that begins now.
    pub(super) fn stream_rules(&self, called: &Called) -> StreamRules {
        let asked = || {
            let routes = self.balancer.routes_of(&called.service)?;
            if routes.streams.is_empty() {
                return None;
            }
            let namespace = self.caller()?;
            let table = routes.streams.for_caller(&namespace)?;
            Some(Asked {
                table: Arc::clone(table),
                namespace,
                labels: Arc::clone(&self.labels),
            })
        };
        StreamRules {
            called: called.clone(),
            asked: asked(),
        }
    }
}

/// What a client's first bytes say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// It asks for this name.
    Name(String),
    /// It asks for none: it speaks no TLS, it ended, it took too long, or it says more than a hello may have.
    NoName,
    /// There were none in time.
    Silence,
}

impl Heard {
    /// The name that it asks for.
    pub(super) fn name(self) -> Option<String> {
        match self {
            Self::Name(name) => Some(name),
            Self::NoName | Self::Silence => None,
        }
    }
}

/// Reads on until it is known which name the client's TLS asks for, and at most until `deadline`. What was read is put back.
pub(super) async fn name_of(client: Client, deadline: Instant) -> io::Result<(Client, Heard)> {
    let (first, mut stream) = client.into_parts();
    let mut read = BytesMut::from(first);
    let heard = loop {
        match parse(&read) {
            Hello::Name(name) => break Heard::Name(name),
            Hello::NoName | Hello::NotTls | Hello::TooLarge => break Heard::NoName,
            Hello::Incomplete => {}
        }
        read.reserve(2 << 10);
        match timeout_at(deadline, stream.read_buf(&mut read)).await {
            Err(_) if read.is_empty() => break Heard::Silence,
            Err(_) | Ok(Ok(0)) => break Heard::NoName,
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return Err(error),
        }
    };
    Ok((Prefixed::new(read.freeze(), stream), heard))
}
