//! The webhook's CA and the certificate that it serves with.
//!
//! Owns `webhook.key`, `webhook.pem` and the same of `webhook-next` in the data directory, so that a controller that is started anew
//! is believed at once. The served key lives in memory alone, a day long, and is renewed at half life.

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
use rustls::{
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio::sync::watch;
use tradewind_ca::{IssueError, Serving, ServingAuthority, StoredError, renew_at_unix_s};

use super::{
    Shared,
    slots::{self, Life, Step},
};

const SIGNING: &str = "webhook";
const NEXT: &str = "webhook-next";
/// How often it is asked whether something is due. The least that has to be renewed lives a day.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// Why there are no certificates.
#[derive(Debug, thiserror::Error)]
pub enum CertificatesError {
    /// Nothing could be signed.
    #[error("the webhook's certificate cannot be made: {0}")]
    Issue(#[from] IssueError),
    /// The files.
    #[error("the webhook's CA: {0}")]
    Stored(#[from] StoredError),
    /// rustls does not take the key.
    #[error("the webhook's key cannot be used: {0}")]
    Key(rustls::Error),
}

/// See the module.
#[derive(Debug)]
pub(super) struct Certificates {
    dir: PathBuf,
    names: Vec<String>,
    slots: Mutex<Slots>,
    served: Arc<Served>,
    believed: watch::Sender<Vec<Vec<u8>>>,
    next_is_published: Arc<AtomicBool>,
}

#[derive(Debug)]
struct Slots {
    signing: Option<ServingAuthority>,
    next: Option<ServingAuthority>,
    renew_at_unix_s: u64,
    until_unix_s: u64,
}

/// The certificate that handshakes get.
#[derive(Debug, Default)]
pub(super) struct Served(ArcSwapOption<CertifiedKey>);

impl ResolvesServerCert for Served {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.load_full()
    }
}

/// What the API server must believe, for whoever tells it.
#[derive(Clone, Debug)]
pub struct Bundle {
    believed: watch::Receiver<Vec<Vec<u8>>>,
    next_is_published: Arc<AtomicBool>,
}

impl Bundle {
    /// The certificates, DER: the one that signs, and the next one if there is one.
    pub fn certificates(&self) -> Vec<Vec<u8>> {
        self.believed.borrow().clone()
    }

    /// Returns when they changed since the last time; false when the webhook is gone.
    pub async fn changed(&mut self) -> bool {
        self.believed.changed().await.is_ok()
    }

    /// Says that the API server believes `certificates`. If those are all, the next one may sign.
    pub fn published(&self, certificates: &[Vec<u8>]) {
        let all = self.believed.borrow();
        let whole = all.iter().all(|der| certificates.contains(der));
        self.next_is_published
            .store(whole && all.len() > 1, Ordering::Release);
    }
}

impl Certificates {
    /// Reads the CA, or makes one, and a certificate below it. One that may not sign these names is as good as none.
    pub(super) fn open(
        dir: PathBuf,
        names: Vec<String>,
        now_unix_ms: u64,
    ) -> Result<Self, CertificatesError> {
        let may_sign = |ca: &ServingAuthority| ca.may_sign(&names);
        let slots = Slots {
            signing: ServingAuthority::load(&dir, SIGNING)?.filter(may_sign),
            next: ServingAuthority::load(&dir, NEXT)?.filter(may_sign),
            renew_at_unix_s: 0,
            until_unix_s: 0,
        };
        let this = Self {
            dir,
            names,
            slots: Mutex::new(slots),
            served: Arc::default(),
            believed: watch::Sender::new(Vec::new()),
            next_is_published: Arc::default(),
        };
        this.tend(now_unix_ms, 0.5)?;
        Ok(this)
    }

    /// For the TLS configuration.
    pub(super) fn resolver(&self) -> Arc<Served> {
        Arc::clone(&self.served)
    }

    pub(super) fn bundle(&self) -> Bundle {
        Bundle {
            believed: self.believed.subscribe(),
            next_is_published: Arc::clone(&self.next_is_published),
        }
    }

    /// End of what is served, Unix seconds.
    pub(super) fn until_unix_s(&self) -> u64 {
        self.lock().until_unix_s
    }

    /// Does what is due. `jitter` is in 0..1.
    pub(super) fn tend(&self, now_unix_ms: u64, jitter: f64) -> Result<(), CertificatesError> {
        let now_unix_s = now_unix_ms / 1000;
        let mut slots = self.lock();
        let published = self.next_is_published.load(Ordering::Acquire);
        let step = slots::step(
            slots.signing.as_ref().map(life),
            slots.next.as_ref().map(life),
            published,
            now_unix_s,
        );
        match step {
            Step::Keep => {}
            Step::MakeNext => {
                slots.next = Some(self.make(NEXT, now_unix_ms)?);
                tracing::info!("the webhook's next CA was made");
            }
            Step::Promote => self.promote(&mut slots)?,
            Step::Renew => {
                slots.signing = Some(self.make(SIGNING, now_unix_ms)?);
                slots.next = None;
                slots.renew_at_unix_s = 0;
            }
        }
        if now_unix_s >= slots.renew_at_unix_s {
            self.renew(&mut slots, now_unix_ms, jitter)?;
        }
        let believed: Vec<Vec<u8>> = slots
            .signing
            .iter()
            .chain(&slots.next)
            .map(|ca| ca.certificate_der().to_vec())
            .collect();
        drop(slots);
        self.believed.send_if_modified(|now| {
            let changed = *now != believed;
            if changed {
                *now = believed;
                self.next_is_published.store(false, Ordering::Release);
            }
            changed
        });
        Ok(())
    }

    fn make(&self, name: &str, now_unix_ms: u64) -> Result<ServingAuthority, CertificatesError> {
        let ca = ServingAuthority::generate(&self.names, now_unix_ms)?;
        ca.save(&self.dir, name)?;
        Ok(ca)
    }

    /// The next one is written over the one that signed before its own files go: after a crash in between it is both, which does no
    /// harm.
    fn promote(&self, slots: &mut Slots) -> Result<(), CertificatesError> {
        if let Some(next) = slots.next.take() {
            next.save(&self.dir, SIGNING)?;
            for ending in ["key", "pem"] {
                let path = self.dir.join(format!("{NEXT}.{ending}"));
                if let Err(error) = std::fs::remove_file(&path) {
                    tracing::warn!(%error, path = %path.display(), "cannot be removed");
                }
            }
            slots.signing = Some(next);
            slots.renew_at_unix_s = 0;
            tracing::info!("the webhook's next CA signs from now on");
        }
        Ok(())
    }

    fn renew(
        &self,
        slots: &mut Slots,
        now_unix_ms: u64,
        jitter: f64,
    ) -> Result<(), CertificatesError> {
        let Some(signing) = &slots.signing else {
            return Ok(());
        };
        let served = signing.issue(&self.names, now_unix_ms)?;
        let (from, until) = (served.not_before_unix_s, served.not_after_unix_s);
        self.served.0.store(Some(Arc::new(certified(&served)?)));
        let seconds = |unix_s: u64| i64::try_from(unix_s).unwrap_or(i64::MAX);
        let at = renew_at_unix_s(seconds(from), seconds(until), jitter);
        slots.renew_at_unix_s = u64::try_from(at).unwrap_or(until);
        slots.until_unix_s = until;
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn life(ca: &ServingAuthority) -> Life {
    Life {
        from_unix_s: ca.not_before_unix_s(),
        until_unix_s: ca.not_after_unix_s(),
    }
}

fn certified(served: &Serving) -> Result<CertifiedKey, CertificatesError> {
    let provider: Arc<CryptoProvider> = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(served.key_der.to_vec()));
    let chain = vec![CertificateDer::from(served.certificate_der.clone())];
    CertifiedKey::from_der(chain, key, &provider).map_err(CertificatesError::Key)
}

/// Does what is due, for ever. What fails is tried again, with what was good before.
pub(super) async fn keep(shared: Arc<Shared>, jitter: f64) {
    loop {
        if let Err(error) = shared.certificates.tend(shared.clock.unix_ms(), jitter) {
            tracing::warn!(%error, "the webhook goes on with the certificate that it has");
        }
        shared.meters.expires(shared.certificates.until_unix_s());
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
