//! Who may reach what: a pure function of the snapshot, the caller's verified identity and the target.
//! It must never let a foreign caller reach a service that the local cluster does not export.

use tradewind_api::{ServicePortRef, SpiffeId, TrustDomain, snapshot::Snapshot};

/// Why a stream was refused by policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Denied {
    /// The caller is of another cluster, and this one does not export the service or port.
    NotExported,
    /// The caller is of another cluster, and no snapshot says yet what is exported.
    NotReady,
}

impl Denied {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::NotExported => "not_exported",
            Self::NotReady => "not_ready",
        }
    }
}

/// Whose permission a stream lives by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// A caller of our own cluster: every service is open to it.
    Member,
    /// A caller of another cluster: it may stay as long as the export does.
    Foreign,
}

/// Decides. `ours` is our own trust domain.
pub(crate) fn authorise(
    snapshot: &Snapshot,
    ours: &TrustDomain,
    caller: &SpiffeId,
    target: &ServicePortRef,
) -> Result<Standing, Denied> {
    if caller.trust_domain_str() == ours.as_str() {
        return Ok(Standing::Member);
    }
    if snapshot.local().is_none() {
        return Err(Denied::NotReady);
    }
    if snapshot.exported_here(target).is_some() {
        Ok(Standing::Foreign)
    } else {
        Err(Denied::NotExported)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    #[test]
    fn foreigners_reach_what_is_exported_and_members_reach_all() {
        let ours = TrustDomain::new("west.mesh.internal").unwrap();
        let member: SpiffeId = "spiffe://west.mesh.internal/ns/a/sa/b".parse().unwrap();
        let foreign: SpiffeId = "spiffe://east.mesh.internal/ns/a/sa/b".parse().unwrap();
        let s = fixture::snapshot(&[("shop/payments", true, 80), ("shop/secret", false, 80)]);
        let ask = |who, target: &str| authorise(&s, &ours, who, &target.parse().unwrap());
        assert_eq!(ask(&member, "shop/secret:80"), Ok(Standing::Member));
        assert_eq!(ask(&foreign, "shop/payments:80"), Ok(Standing::Foreign));
        assert_eq!(ask(&foreign, "shop/payments:81"), Err(Denied::NotExported));
        assert_eq!(ask(&foreign, "shop/secret:80"), Err(Denied::NotExported));
        let empty = Snapshot::default();
        let t = "shop/payments:80".parse().unwrap();
        assert_eq!(
            authorise(&empty, &ours, &foreign, &t),
            Err(Denied::NotReady)
        );
        assert_eq!(authorise(&empty, &ours, &member, &t), Ok(Standing::Member));
    }

    #[test]
    fn an_export_by_others_alone_opens_nothing_here() {
        let ours = TrustDomain::new("west.mesh.internal").unwrap();
        let foreign: SpiffeId = "spiffe://east.mesh.internal/ns/a/sa/b".parse().unwrap();
        let mut s = fixture::snapshot(&[("shop/payments", true, 80)]);
        fixture::export_only_from(&mut s, "shop/payments", "east");
        let t = "shop/payments:80".parse().unwrap();
        assert_eq!(authorise(&s, &ours, &foreign, &t), Err(Denied::NotExported));
    }
}
