//! Getting and keeping a certificate: a key made here, a signing request, renewal at half life.
//!
//! Owns the task that writes the `SvidCell`. The old certificate stays in force until a new one is installed or it
//! ends; a failure is retried with backoff for as long as the process lives.

use std::{sync::Arc, time::Duration};

use tonic::transport::Channel;
use tradewind_api::{
    id::{ClusterName, Region},
    proto::v1::{SignRequest, SignResponse, identity_client::IdentityClient},
    snapshot::Trust,
};
use tradewind_runtime::{backoff::Backoff, rng::Rng};

use super::{
    ControllerAddr, ServiceAccountError, link,
    renew::renew_at_unix_s,
    sealed,
    session::{Checked, Shared},
};
use crate::{keys::WorkloadKey, svid::Svid};

/// First wait after a refused or failed request.
const RETRY_MIN: Duration = Duration::from_millis(100);
/// Longest wait: a controller that comes back is used within seconds, and a crowd asks at most this often.
const RETRY_MAX: Duration = Duration::from_secs(5);
/// A signing request's deadline: signing takes a millisecond, a busy controller some more.
const SIGN_DEADLINE: Duration = Duration::from_secs(10);
/// Longest sleep before the wall clock is read again: it may be set while we sleep.
const CLOCK_CHECK: Duration = Duration::from_secs(30);

/// Why there is no new certificate.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// Nothing came of our own part.
    #[error("the key or its signing request could not be made: {0}")]
    Key(String),
    /// The controller said no.
    #[error("the controller refused: {0}")]
    Refused(String),
    /// Nobody said anything.
    #[error("no controller answered: {0}")]
    Away(String),
    /// What came is no certificate of ours.
    #[error("the answer cannot be used: {0}")]
    Answer(String),
    /// Nothing is left that proves us.
    #[error("the certificate has ended and there is no token to ask for another")]
    NoProof,
    /// The service account's token or the roots beside it are of no use.
    #[error(transparent)]
    ServiceAccount(#[from] ServiceAccountError),
}

// One key and its signing request; kept over retries, so that a token spent by a request whose answer was lost is
// honoured when the same request is sent again.
pub(super) struct Pending {
    key: WorkloadKey,
    csr_der: Vec<u8>,
}

impl Pending {
    /// With a key that nobody had before.
    pub(super) fn new() -> Result<Self, SignError> {
        let key = WorkloadKey::generate().map_err(|e| SignError::Key(e.to_string()))?;
        let csr_der = key.csr_der().map_err(|e| SignError::Key(e.to_string()))?;
        Ok(Self { key, csr_der })
    }

    /// Asks for the certificate, showing what proves us.
    pub(super) async fn ask(&self, path: &str, shown: Shown) -> Result<Signed, SignError> {
        let request = SignRequest {
            csr_der: self.csr_der.clone(),
            path: path.to_owned(),
            token: shown.token,
            service_account_token: shown.service_account_token,
        };
        let mut client = IdentityClient::new(shown.channel);
        let answer = tokio::time::timeout(SIGN_DEADLINE, client.sign(request))
            .await
            .map_err(|_| SignError::Away("no answer within 10 s".to_owned()))?
            .map_err(refused)?
            .into_inner();
        Signed::read(&self.key, path, answer)
    }
}

/// A controller's answer, as far as it can be judged without knowing the federation.
pub(super) struct Signed {
    pub(super) svid: Svid,
    pub(super) trust: Trust,
    cluster: ClusterName,
    region: Region,
    chain_der: Vec<Vec<u8>>,
}

impl Signed {
    fn read(key: &WorkloadKey, path: &str, answer: SignResponse) -> Result<Self, SignError> {
        let bad = |e: &dyn std::fmt::Display| SignError::Answer(e.to_string());
        let cluster = ClusterName::new(&answer.cluster).map_err(|e| bad(&e))?;
        let region = Region::new(&answer.region).map_err(|e| bad(&e))?;
        let svid = Svid::new(key, &answer.chain_der).map_err(|e| bad(&e))?;
        if svid.id.path() != path {
            return Err(SignError::Answer(format!(
                "it is for {}, not for {path}",
                svid.id
            )));
        }
        let trust = answer
            .trust
            .ok_or_else(|| SignError::Answer("it carries no trust map".to_owned()))
            .and_then(|t| Trust::try_from(t).map_err(|e| bad(&e)))?;
        Ok(Self {
            svid,
            trust,
            cluster,
            region,
            chain_der: answer.chain_der,
        })
    }
}

/// Runs until its task is aborted.
pub(super) async fn keep(shared: Arc<Shared>, path: String, mut rng: Rng) {
    let mut backoff = Backoff::new(RETRY_MIN, RETRY_MAX);
    let mut pending = None;
    let mut told = String::new();
    loop {
        if let Some(svid) = shared.svid.current() {
            let at = renew_at_unix_s(svid.not_before_unix_s, svid.not_after_unix_s, rng.unit());
            sleep_until(&shared, at).await;
        }
        // Failures below are retried here, so that a renewal in trouble is not put off to the next half life.
        loop {
            match sign(&shared, &path, &mut pending).await {
                Ok(()) => break,
                Err(error) => {
                    shared.meters.sign_failures.inc();
                    let text = error.to_string();
                    // The same trouble every few seconds is one event.
                    if text == told {
                        tracing::debug!(identity = %path, %error, "still no new certificate");
                    } else {
                        tracing::warn!(identity = %path, %error, "no new certificate; retrying");
                        told = text;
                    }
                    tokio::time::sleep(backoff.next(&mut rng)).await;
                }
            }
        }
        backoff.reset();
        told.clear();
    }
}

async fn sleep_until(shared: &Shared, unix_s: i64) {
    loop {
        let left_s = unix_s.saturating_sub(shared.now_unix_s());
        let Ok(left_s) = u64::try_from(left_s) else {
            return;
        };
        if left_s == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_secs(left_s).min(CLOCK_CHECK)).await;
    }
}

async fn sign(shared: &Shared, path: &str, pending: &mut Option<Pending>) -> Result<(), SignError> {
    let shown = proof(shared)?;
    let asked = match pending.take() {
        Some(p) => p,
        None => Pending::new()?,
    };
    let asked = pending.insert(asked);
    let signed = asked.ask(path, shown).await?;
    install(shared, &asked.key, signed).await?;
    *pending = None;
    Ok(())
}

/// A way to the controller, and what is shown there.
pub(super) struct Shown {
    pub(super) channel: Channel,
    pub(super) token: String,
    pub(super) service_account_token: String,
}

// What proves us: the unix socket's peer credentials or the certificate in force, else a token. A service account's is shown beside
// the certificate, too: whose account is gone gets no other one.
fn proof(shared: &Shared) -> Result<Shown, SignError> {
    let now = shared.now_unix_s();
    let certified = shared
        .svid
        .current()
        .is_some_and(|svid| svid.not_after_unix_s > now);
    // Where to, if neither side has a certificate that the other believes: then the controller has to prove itself by a pinned root.
    // Of several the next one each time: a one-time token is good where it was made alone.
    let places = shared.config.controller.places();
    let next = shared.turns.next(places.len());
    let stranger = match places.get(next) {
        Some(ControllerAddr::Tcp(address))
            if !certified && shared.config.controller.is_remote() =>
        {
            Some(link::tcp(address.clone(), shared.config.mark))
        }
        Some(_) | None => None,
    };
    let mut shown = Shown {
        channel: shared.channel.clone(),
        token: String::new(),
        service_account_token: String::new(),
    };
    match &shared.proof {
        Checked::ServiceAccount(account) => {
            let account = account.read()?;
            if let Some(dial) = stranger {
                shown.channel = link::rooted(dial, account.roots, &account.cluster);
            }
            shown.service_account_token.push_str(&account.token);
        }
        Checked::Token(token) => {
            if let Some(dial) = stranger {
                shown.channel = link::pinned(dial, token);
            }
            shown.token.push_str(token.secret_text());
        }
        Checked::None if stranger.is_some() => return Err(SignError::NoProof),
        Checked::None => {}
    }
    Ok(shown)
}

fn refused(status: tonic::Status) -> SignError {
    match status.code() {
        tonic::Code::Unavailable
        | tonic::Code::Unknown
        | tonic::Code::DeadlineExceeded
        | tonic::Code::Cancelled => SignError::Away(super::session::reason(&status)),
        _ => SignError::Refused(status.message().to_owned()),
    }
}

async fn install(shared: &Shared, key: &WorkloadKey, signed: Signed) -> Result<(), SignError> {
    let Signed {
        svid,
        trust,
        cluster,
        region,
        chain_der,
    } = signed;
    shared
        .first_trust(&trust)
        .map_err(|e| SignError::Answer(e.to_string()))?;
    tracing::info!(identity = %svid.id, not_after_unix_s = svid.not_after_unix_s, "certificate installed");
    shared.svid.set(svid);
    shared.belongs_to(cluster, region);
    shared.release_certificate();
    if let Some(dir) = &shared.config.state_dir {
        sealed::store(shared, dir, key, &chain_der).await;
    }
    Ok(())
}
