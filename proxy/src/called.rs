//! What a client asked for by the name or address that it used: a service's port, and of which clusters.

use std::{fmt, ops::Deref};

use tradewind_api::id::ServicePortRef;

/// Which clusters' endpoints a service is asked of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Scope {
    /// Whoever serves it: those of the own cluster whether it exports the service or not.
    #[default]
    Everybody,
    /// Those of clusters that export it, as its name and address in the clusterset mean (KEP-1645: who has no export has another service
    /// of the same name).
    Exporters,
}

/// A service's port as a client has called it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Called {
    pub(crate) to: ServicePortRef,
    pub(crate) scope: Scope,
}

impl Called {
    /// By its name or address in the clusterset.
    pub(crate) const fn in_clusterset(to: ServicePortRef) -> Self {
        let scope = Scope::Exporters;
        Self { to, scope }
    }
}

impl From<ServicePortRef> for Called {
    fn from(to: ServicePortRef) -> Self {
        let scope = Scope::Everybody;
        Self { to, scope }
    }
}

impl fmt::Display for Called {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to.fmt(f)
    }
}

impl Deref for Called {
    type Target = ServicePortRef;

    fn deref(&self) -> &ServicePortRef {
        &self.to
    }
}
