//! Persistent sessions of the application's clients (GEP-1619): which backend and endpoint a request's token leads to, and what the
//! response tells. What a token says is `tradewind_transport::route::persistence`; nothing is kept here.

use std::sync::Arc;

use http::HeaderMap;
use tradewind_transport::route::{CompiledRule, persistence::Brought};

use super::{Outbound, route::Target, rules::Backend};
use crate::called::Called;

impl Outbound {
    /// The backend that a request's persistent session is with, where its endpoint can be called.
    pub(super) fn held(
        &self,
        rule: &Arc<CompiledRule>,
        called: &Called,
        request: &HeaderMap,
    ) -> Option<Backend> {
        let persistence = rule.persistence.as_ref()?;
        let now_ms = self.balancer.clock().unix_ms();
        let Brought::Held(held) = persistence.ask(request, rule.backends(), now_ms) else {
            return None;
        };
        let mut backend = Backend::new(rule, held.backend, called).ok()?;
        if !self.balancer.keeps(backend.callee(), &held.endpoint) {
            return None;
        }
        backend.held = Some(held);
        Some(backend)
    }

    /// Gives the application's own client a persistent session with whoever answered, where the rule has some and the client brought none
    /// that can go on. One that can is renewed, or stays as it is.
    pub(super) fn persist(&self, backend: &Backend, target: &Target, response: &mut HeaderMap) {
        let (Some(persistence), Some(to)) = (&backend.rule.persistence, backend.told()) else {
            return;
        };
        let (now_ms, by) = (self.balancer.clock().unix_ms(), &target.endpoint.id);
        match &backend.held {
            Some(held) if held.endpoint == *by => {
                persistence.renew(&to.to, held, now_ms, response);
            }
            // Somebody else answered this once: a retry that the rule wants, or a try that took too long.
            Some(held) if self.balancer.keeps(backend.callee(), &held.endpoint) => {}
            // A backend without a weight takes no new sessions.
            Some(_) if to.weight == 0 => {}
            Some(_) | None => persistence.begin(&to.to, by, now_ms, response),
        }
    }
}
