//! The controller's own certificate: issued by its own authority, with a key that lives in this process alone.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tradewind_api::{InvalidName, NodeId, SpiffeId};
use tradewind_ca::{DEFAULT_LIFETIME_S, IssueError, Issuer, renew_at_unix_s};
use tradewind_runtime::{Rng, SharedClock, drain};
use tradewind_transport::{
    keys::{KeyError, WorkloadKey},
    svid::{Svid, SvidCell, SvidError},
};

use crate::local::Own;

/// How often the time is looked at: a clock that was set is noticed within this.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// Why no certificate was made.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// No key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// Not signed.
    #[error(transparent)]
    Issue(#[from] IssueError),
    /// Signed and unusable.
    #[error(transparent)]
    Svid(#[from] SvidError),
    /// Its name is none.
    #[error(transparent)]
    Name(#[from] InvalidName),
}

/// Makes certificates and renews them at half life.
#[derive(Clone, Debug)]
pub(crate) struct KeepCertificate {
    issuer: Arc<Issuer>,
    own: Own,
    node_id: NodeId,
    clock: SharedClock,
    rng: Arc<Mutex<Rng>>,
}

impl KeepCertificate {
    pub(crate) fn new(
        issuer: Arc<Issuer>,
        own: &Own,
        node_id: NodeId,
        clock: SharedClock,
        rng: Rng,
    ) -> Self {
        Self {
            issuer,
            own: own.clone(),
            node_id,
            clock,
            rng: Arc::new(Mutex::new(rng)),
        }
    }

    /// A new key with a new certificate.
    pub(crate) fn issue(&self) -> Result<Svid, CertificateError> {
        let domain = self.own.domain.trust_domain(&self.own.cluster);
        let path = format!(
            "/tradewind/controller/{}-{}",
            self.own.cluster, self.node_id
        );
        let id = SpiffeId::from_path(&domain, &path)?;
        let key = WorkloadKey::generate()?;
        let issued = self.issuer.issue(
            &key.csr_der()?,
            &id,
            self.clock.unix_ms(),
            DEFAULT_LIFETIME_S,
        )?;
        Ok(Svid::new(&key, &issued.chain_der)?)
    }

    fn renew_at(&self, svid: &SvidCell) -> i64 {
        let jitter = self
            .rng
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .unit();
        svid.current().map_or(0, |s| {
            renew_at_unix_s(s.not_before_unix_s, s.not_after_unix_s, jitter)
        })
    }

    /// Renews until the drain. A failure keeps the current certificate and is tried again.
    pub(super) async fn run(self, svid: SvidCell, mut drain: drain::Observer) {
        let mut renew_at = self.renew_at(&svid);
        loop {
            tokio::select! {
                biased;
                () = drain.triggered() => return,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            let now_unix_s = i64::try_from(self.clock.unix_ms() / 1000).unwrap_or(i64::MAX);
            if now_unix_s < renew_at {
                continue;
            }
            match self.issue() {
                Ok(renewed) => {
                    svid.set(renewed);
                    renew_at = self.renew_at(&svid);
                    tracing::info!("renewed this controller's certificate");
                }
                Err(error) => {
                    tracing::error!(%error, "this controller's certificate was not renewed")
                }
            }
        }
    }
}
