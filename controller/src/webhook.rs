//! The admission webhook: where the API server asks what becomes of a pod that is to be made (15017, HTTPS).
//!
//! Owns its listener, its certificates and its settings; what is answered is decided by `tradewind_kubernetes::injection`, which is
//! pure. It asks nobody while it answers, neither the store nor the API server, so that pods can be made whatever else is away. It
//! must never believe a client: it serves anybody, says what anybody may know, and bounds what anybody may send.

mod certificates;
mod meters;
mod publish;
mod server;
mod settings;
mod slots;

#[cfg(test)]
mod tests;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use arc_swap::ArcSwap;
use tokio::net::TcpListener;
use tradewind_kubernetes::injection::Settings;
use tradewind_runtime::{
    clock::SharedClock, drain, listen, metrics::MetricsRegistry, rng::Rng, task::TaskSet,
};

pub use certificates::{Bundle, CertificatesError};
pub use publish::keep_published;
pub use settings::SettingsError;

use certificates::Certificates;
use meters::Meters;

/// Where it listens unless told otherwise: Istio's number, which people recognise.
pub const DEFAULT_PORT: u16 = 15017;

/// What a webhook is told.
#[derive(Clone, Debug)]
pub struct WebhookConfig {
    /// Where it listens; port 0 picks a free one.
    pub listen: SocketAddr,
    /// The file with the injection's settings (YAML). It is read again when it changes.
    pub settings: PathBuf,
    /// DNS names that the API server calls it by, such as `tradewind-webhook.tradewind-system.svc`.
    pub names: Vec<String>,
}

/// Why there is no webhook.
#[derive(Debug, thiserror::Error)]
pub enum WebhookError {
    /// The address.
    #[error(transparent)]
    Listen(#[from] listen::BindError),
    /// The settings.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// Its certificates.
    #[error(transparent)]
    Certificates(#[from] CertificatesError),
}

impl WebhookError {
    /// What the operator can do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Listen(_) => "stop what listens there, or choose another with --webhook-listen",
            Self::Settings(_) => {
                "correct the file, or name another with --injection-file; the chart makes it from its values `injection.*`"
            }
            Self::Certificates(_) => {
                "see that every --webhook-name is a DNS name, and that webhook*.key and webhook*.pem in the data directory are whole; without them new ones are made"
            }
        }
    }
}

/// A webhook that listens and does not serve yet.
#[derive(Debug)]
pub struct Webhook {
    listener: TcpListener,
    address: SocketAddr,
    shared: Arc<Shared>,
    settings_file: PathBuf,
    rng: Rng,
}

/// What its tasks share.
#[derive(Debug)]
struct Shared {
    settings: ArcSwap<Settings>,
    certificates: Certificates,
    meters: Meters,
    clock: SharedClock,
}

impl Webhook {
    /// Reads the settings, opens the listener, and makes or reads the certificates: its CA is kept in the controller's data directory.
    pub fn bind(
        config: WebhookConfig,
        data_dir: &Path,
        clock: SharedClock,
        rng: Rng,
        metrics: &MetricsRegistry,
    ) -> Result<Self, WebhookError> {
        let settings = settings::read(&config.settings)?;
        let listener =
            listen::bind_tcp(config.listen, false).map_err(|e| e.flag("--webhook-listen"))?;
        let certificates = Certificates::open(data_dir.to_owned(), config.names, clock.unix_ms())?;
        let address = listener.local_addr().unwrap_or(config.listen);
        Ok(Self {
            listener,
            address,
            shared: Arc::new(Shared {
                settings: ArcSwap::from_pointee(settings),
                certificates,
                meters: Meters::register(metrics),
                clock,
            }),
            settings_file: config.settings,
            rng,
        })
    }

    /// Where it listens, with the real port.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// The certificates that the API server must believe, as they change: for [`keep_published`]. A new one signs nothing before it
    /// was published.
    pub fn bundle(&self) -> Bundle {
        self.shared.certificates.bundle()
    }

    /// Serves until the drain is over.
    pub async fn run(self, drain: drain::Watch) {
        let mut tasks = TaskSet::new();
        let mut rng = self.rng;
        tasks.spawn(
            "webhook-certificates",
            certificates::keep(Arc::clone(&self.shared), rng.unit()),
        );
        tasks.spawn(
            "webhook-settings",
            settings::follow(Arc::clone(&self.shared), self.settings_file),
        );
        server::serve(self.listener, self.shared, drain, &mut rng).await;
        tasks.abort_all().await;
    }
}

/// Whether a certificate that somebody else put into the bundle is to stay there: it is a CA that is not over.
pub fn is_still_good(der: &[u8], now_unix_s: u64) -> bool {
    let facts = tradewind_transport::trust::AuthorityFacts::parse(der);
    facts.is_ok_and(|facts| u64::try_from(facts.not_after_unix_s).unwrap_or(0) > now_unix_s)
}
