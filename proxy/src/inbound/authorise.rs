//! Who may reach what: a pure function of the snapshot, the caller's verified identity and the target.
//! It must never let a foreign caller reach a service that the local cluster does not export.

use tradewind_api::{
    EndpointId, ServicePortRef, SpiffeId, TrustDomain,
    model::{Endpoint, Service},
    snapshot::Snapshot,
};

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

/// Whether a request for the endpoint of this id is not for the one at the advertised address `here`. An id that is not known is no
/// reason to turn anybody away: whoever calls may have heard of it before this proxy.
pub(crate) fn is_anothers(
    snapshot: &Snapshot,
    target: &ServicePortRef,
    id: &[u8],
    here: &str,
) -> bool {
    let Some((local, service)) = snapshot.local().zip(snapshot.services.get(&target.service))
    else {
        return false;
    };
    let named = |e: &&Endpoint| e.cluster == local.name && e.id.as_str().as_bytes() == id;
    let named = service.endpoints.iter().find(named);
    named.is_some_and(|e| e.address.as_deref().is_some_and(|address| address != here))
}

/// Which of a service's endpoints is the one at the advertised address `here`; none where that is not known of one alone.
pub(crate) fn endpoint_at<'a>(
    snapshot: &Snapshot,
    service: &'a Service,
    port: u16,
    here: &str,
) -> Option<&'a EndpointId> {
    let local = snapshot.local()?;
    let at = |e: &&Endpoint| {
        e.cluster == local.name && e.address.as_deref() == Some(here) && e.ports.contains(&port)
    };
    let mut found = service.endpoints.iter().filter(at);
    let first = found.next()?;
    found.next().is_none().then_some(&first.id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    #[test]
    fn a_proxy_knows_which_endpoint_it_is_where_one_alone_is_at_its_address() {
        let mut s = fixture::snapshot(&[("shop/payments", true, 80)]);
        fixture::change(&mut s, "shop/payments", |s| {
            for (id, cluster, at) in [
                ("one", "west", "10.0.0.1:15008"),
                ("other", "west", "10.0.0.2:15008"),
                ("third", "west", "10.0.0.2:15008"),
                ("far", "east", "10.0.0.4:15008"),
            ] {
                s.endpoints
                    .push(fixture::endpoint(id, cluster, at, &[(80, 8080)]));
            }
        });
        let service = &s.services[&"shop/payments".parse().unwrap()];
        let at = |port, here| endpoint_at(&s, service, port, here).map(EndpointId::as_str);
        assert_eq!(at(80, "10.0.0.1:15008"), Some("one"));
        assert_eq!(at(81, "10.0.0.1:15008"), None, "it has no such port");
        assert_eq!(at(80, "10.0.0.2:15008"), None, "it may be either");
        assert_eq!(at(80, "10.0.0.3:15008"), None);
        assert_eq!(at(80, "10.0.0.4:15008"), None, "another cluster's");
        let nothing = Snapshot::default();
        assert_eq!(endpoint_at(&nothing, service, 80, "10.0.0.1:15008"), None);
    }

    #[test]
    fn a_request_for_an_endpoint_that_is_known_to_be_elsewhere_is_not_for_this_one() {
        let mut s = fixture::snapshot(&[("shop/payments", true, 80)]);
        fixture::change(&mut s, "shop/payments", |s| {
            for (id, cluster, at) in [
                ("here", "west", "10.0.0.1:15008"),
                ("there", "west", "10.0.0.2:15008"),
                ("far", "east", "10.0.0.2:15008"),
            ] {
                s.endpoints
                    .push(fixture::endpoint(id, cluster, at, &[(80, 8080)]));
            }
        });
        let target = "shop/payments:80".parse().unwrap();
        let anothers = |id: &str| is_anothers(&s, &target, id.as_bytes(), "10.0.0.1:15008");
        assert!(anothers("there"));
        for ours in ["here", "far", "unknown", ""] {
            assert!(!anothers(ours), "{ours}");
        }
        let other = "shop/other:80".parse().unwrap();
        assert!(!is_anothers(&s, &other, b"there", "10.0.0.1:15008"));
        assert!(!is_anothers(&Snapshot::default(), &target, b"there", ""));
    }

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
