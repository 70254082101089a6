//! Who calls, and the few roles that services ask for. Pure but for the trust map it reads.
//!
//! Every check that names a peer asks the trust map of this moment too: a certificate that was good at the handshake
//! may stand below an authority that has been removed since.

use std::sync::Arc;

use tonic::{Request, Status};
use tradewind_api::id::{ClusterName, Domain, TrustDomain};
use tradewind_transport::trust::{PeerIdentity, TrustCell};

use crate::attest::HostIdentities;

/// Who sent a request.
#[derive(Clone, Debug)]
pub enum Caller {
    /// Proven by a certificate.
    Peer(PeerIdentity),
    /// Over TLS without a certificate.
    Anonymous,
    /// Over the unix socket, as the kernel says.
    Local {
        /// The calling process's user id.
        uid: u32,
    },
}

/// Who sent `request`. Anonymous where the connection did not say.
pub fn caller<T>(request: &Request<T>) -> Caller {
    request
        .extensions()
        .get::<Caller>()
        .cloned()
        .unwrap_or(Caller::Anonymous)
}

/// What callers may do, as one cluster's controller sees it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Access {
    domain: Domain,
    own: TrustDomain,
    trust: TrustCell,
    hosts: Arc<HostIdentities>,
    owner_uid: u32,
}

impl Access {
    /// For the controller of `cluster`, run by the user `owner_uid`.
    pub fn new(
        cluster: &ClusterName,
        domain: &Domain,
        trust: TrustCell,
        hosts: Arc<HostIdentities>,
        owner_uid: u32,
    ) -> Self {
        Self {
            domain: domain.clone(),
            own: domain.trust_domain(cluster),
            trust,
            hosts,
            owner_uid,
        }
    }

    /// This cluster's trust domain.
    pub fn own_trust_domain(&self) -> &TrustDomain {
        &self.own
    }

    /// The users mapped to identities.
    pub fn hosts(&self) -> &HostIdentities {
        &self.hosts
    }

    /// The calling peer, if it is still trusted.
    pub fn trusted<'a>(&self, caller: &'a Caller) -> Option<&'a PeerIdentity> {
        match caller {
            Caller::Peer(peer) if self.trust.load().accepts(peer) => Some(peer),
            Caller::Peer(_) | Caller::Anonymous | Caller::Local { .. } => None,
        }
    }

    /// True for who runs this cluster: the user this controller runs as, root, or an operator's certificate.
    pub fn is_operator(&self, caller: &Caller) -> bool {
        match caller {
            Caller::Local { uid } => *uid == self.owner_uid || *uid == 0,
            Caller::Peer(_) => self.trusted(caller).is_some_and(|peer| {
                self.is_own(peer) && peer.id.path().starts_with("/tradewind/operator/")
            }),
            Caller::Anonymous => false,
        }
    }

    fn is_own(&self, peer: &PeerIdentity) -> bool {
        peer.id.trust_domain_str() == self.own.as_str()
    }

    /// The cluster whose controller calls; it must be a member now.
    pub fn require_controller_of_member(&self, caller: &Caller) -> Result<ClusterName, Status> {
        let peer = self.trusted(caller).ok_or_else(|| {
            Status::unauthenticated("a controller's certificate of a member cluster is needed")
        })?;
        if !peer.id.is_controller() {
            return Err(Status::permission_denied(format!(
                "{} is not a controller",
                peer.id
            )));
        }
        peer.id.trust_domain().cluster(&self.domain).ok_or_else(|| {
            Status::permission_denied(format!(
                "{} is not of the federation {}",
                peer.id, self.domain
            ))
        })
    }

    /// A process of this cluster: a peer in its trust domain, its operator, or a user mapped to an identity.
    pub fn require_own_cluster(&self, caller: &Caller) -> Result<(), Status> {
        if self.is_operator(caller) {
            return Ok(());
        }
        match caller {
            Caller::Local { uid } if self.hosts.knows(*uid) => Ok(()),
            Caller::Local { uid } => Err(Status::permission_denied(format!(
                "user {uid} is mapped to no identity in this cluster"
            ))),
            Caller::Anonymous => Err(Status::unauthenticated(
                "a certificate of this cluster is needed",
            )),
            Caller::Peer(_) => match self.trusted(caller) {
                Some(peer) if self.is_own(peer) => Ok(()),
                Some(peer) => Err(Status::permission_denied(format!(
                    "{} is not of the cluster {}",
                    peer.id, self.own
                ))),
                None => Err(Status::unauthenticated(
                    "the caller's authority is trusted no longer",
                )),
            },
        }
    }

    /// True for this cluster's gateway of that name: by its certificate, or a local user who may be it.
    pub fn is_gateway(&self, caller: &Caller, name: &str) -> bool {
        let path = format!("/tradewind/gateway/{name}");
        match caller {
            Caller::Local { uid } => self.is_operator(caller) || self.hosts.allows(*uid, &path),
            Caller::Peer(_) => self
                .trusted(caller)
                .is_some_and(|peer| self.is_own(peer) && peer.id.path() == path),
            Caller::Anonymous => false,
        }
    }

    /// This cluster's gateway of that name.
    pub fn require_gateway(&self, caller: &Caller, name: &str) -> Result<(), Status> {
        if self.is_gateway(caller, name) {
            return Ok(());
        }
        Err(Status::permission_denied(format!(
            "the caller is not the gateway {name} of this cluster"
        )))
    }

    /// Who runs this cluster.
    pub fn require_operator(&self, caller: &Caller) -> Result<(), Status> {
        if self.is_operator(caller) {
            return Ok(());
        }
        Err(Status::permission_denied(match caller {
            Caller::Local { uid } => format!(
                "user {uid} may not operate this controller: run as the user it runs as (uid {}) or as root",
                self.owner_uid
            ),
            Caller::Peer(peer) => format!("{} may not operate this controller", peer.id),
            Caller::Anonymous => {
                "use this controller's unix socket, or an operator's certificate".to_owned()
            }
        }))
    }
}
