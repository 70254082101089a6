//! The way to an API server: from a kubeconfig's context, or from inside of a Pod. Owns the client and its deadlines.

use std::{path::PathBuf, time::Duration};

use kube::{
    Config,
    config::{KubeConfigOptions, Kubeconfig},
};

/// How long a connection to the API server may take.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// How long one answer may be silent. Watches are asked for bookmarks and end by themselves in time, so this cuts dead connections only.
const READ_DEADLINE: Duration = Duration::from_secs(300);
/// How long one request may be written.
const WRITE_DEADLINE: Duration = Duration::from_secs(30);

/// Where the API server is found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The kubeconfig; none is what `KUBECONFIG` or the home directory names, or the Pod's own account inside of a cluster.
    pub kubeconfig: Option<PathBuf>,
    /// Its context; none is the current one.
    pub context: Option<String>,
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The kubeconfig cannot be used.
    #[error("the kubeconfig {place} cannot be used: {cause}")]
    Kubeconfig {
        /// Which.
        place: String,
        /// Why not.
        cause: String,
    },
    /// There is none, and this is no Pod.
    #[error(
        "no API server is known: neither a kubeconfig nor a Pod's service account was found ({0}); name one with --kubeconfig"
    )]
    Nowhere(String),
    /// The client could not be made of it.
    #[error("no client for the API server could be made: {0}")]
    Client(String),
}

/// A client of one API server. Clones share its connections.
#[derive(Clone)]
pub struct Client {
    pub(crate) kube: kube::Client,
    server: String,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Client({})", self.server)
    }
}

impl Client {
    /// Of this place. Connects to nothing yet.
    pub async fn new(place: &Place) -> Result<Self, ClientError> {
        Self::within(place, READ_DEADLINE).await
    }

    /// The same, for whoever watches nothing: an answer may be silent for this long.
    pub(crate) async fn within(place: &Place, silence: Duration) -> Result<Self, ClientError> {
        let mut config = config(place).await?;
        config.connect_timeout = Some(CONNECT_DEADLINE);
        config.read_timeout = Some(silence);
        config.write_timeout = Some(WRITE_DEADLINE);
        let server = config.cluster_url.to_string();
        let kube =
            kube::Client::try_from(config).map_err(|e| ClientError::Client(e.to_string()))?;
        Ok(Self { kube, server })
    }

    /// The namespace that is meant where none is named: the Pod's own, or the context's.
    pub fn namespace(&self) -> &str {
        self.kube.default_namespace()
    }

    /// Its address.
    pub fn server(&self) -> &str {
        &self.server
    }
}

async fn config(place: &Place) -> Result<Config, ClientError> {
    let options = KubeConfigOptions {
        context: place.context.clone(),
        ..KubeConfigOptions::default()
    };
    if let Some(path) = &place.kubeconfig {
        let bad = |cause: String| ClientError::Kubeconfig {
            place: path.display().to_string(),
            cause,
        };
        let read = Kubeconfig::read_from(path).map_err(|e| bad(e.to_string()))?;
        let config = Config::from_custom_kubeconfig(read, &options).await;
        return config.map_err(|e| bad(e.to_string()));
    }
    if let Some(context) = &place.context {
        let config = Config::from_kubeconfig(&options).await;
        return config.map_err(|e| ClientError::Kubeconfig {
            place: format!("(context {context})"),
            cause: e.to_string(),
        });
    }
    Config::infer()
        .await
        .map_err(|e| ClientError::Nowhere(e.to_string()))
}
