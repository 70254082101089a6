//! An operator from afar: a certificate for as long as a command runs, got by a service account's token and kept in memory alone.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::io::{AsyncRead, AsyncWrite};
use tonic::transport::Channel;
use tradewind_api::id::{ClusterName, SpiffeId};

use super::{
    identity::{Pending, Shown, SignError},
    link::{self, Dialled},
    service_account::roots_in,
};
use crate::{svid::SvidCell, trust::TrustCell};

/// The identity of whoever shows a token of the account `tradewind-operator`: the API server does not tell who had it made.
const PATH: &str = "/tradewind/operator/kubernetes";

/// A certificate in memory, and whom to believe.
#[derive(Clone, Debug)]
pub struct Operator {
    svid: SvidCell,
    trust: TrustCell,
}

impl Operator {
    /// Has a new key certified over `stream`, which leads to the port of `cluster`'s controller. The token is shown once the other
    /// side has proven to be that, below one of the federation's roots.
    pub async fn certify<S>(
        stream: S,
        cluster: &ClusterName,
        roots_pem: &[u8],
        token: &str,
    ) -> Result<Self, SignError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let roots = roots_in(roots_pem);
        if roots.is_empty() {
            return Err(SignError::Answer(
                "among the federation's roots there is no certificate".to_owned(),
            ));
        }
        let shown = Shown {
            channel: link::rooted(once(stream), roots, cluster),
            token: String::new(),
            service_account_token: token.to_owned(),
        };
        let signed = Pending::new()?.ask(PATH, shown).await?;
        let trust = TrustCell::new(&signed.trust).map_err(|e| SignError::Answer(e.to_string()))?;
        let svid = SvidCell::empty();
        svid.set(signed.svid);
        Ok(Self { svid, trust })
    }

    /// Whom the certificate names.
    pub fn identity(&self) -> Option<SpiffeId> {
        self.svid.current().map(|svid| svid.id.clone())
    }

    /// A channel to the controller by mTLS, over what `dial` opens each time. The other side has to be a controller of the
    /// certificate's cluster.
    pub fn channel<D, S>(&self, dial: D) -> Channel
    where
        D: Fn() -> Dialled<S> + Clone + Send + Sync + 'static,
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        link::mutual(dial, self.svid.clone(), self.trust.clone())
    }
}

/// Leads over one stream, and nowhere when that was used.
fn once<S: Send + 'static>(stream: S) -> impl Fn() -> Dialled<S> + Clone + Send + Sync + 'static {
    let stream = Arc::new(Mutex::new(Some(stream)));
    move || {
        let taken = stream.lock().unwrap_or_else(PoisonError::into_inner).take();
        Box::pin(async move {
            taken.ok_or_else(|| {
                io::Error::new(io::ErrorKind::NotConnected, "the connection ended early")
            })
        })
    }
}
