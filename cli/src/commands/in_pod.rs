//! How a process in a Pod proves who it is: the same two files wherever something is proved to a controller.

use std::path::PathBuf;

use tradewind_transport::control::ServiceAccount;

/// The flags. Beside them the command has its own `--token`, which is the other way.
#[derive(Clone, Debug, clap::Args)]
pub struct InPod {
    /// In a Pod: the projected token of its service account, for the audience tradewind.<cluster>
    #[arg(
        long,
        env = "TRADEWIND_IDENTITY_TOKEN_FILE",
        value_name = "FILE",
        requires = "root_file",
        conflicts_with = "token"
    )]
    pub identity_token_file: Option<PathBuf>,
    /// In a Pod: the federation's roots (PEM), as the ConfigMap tradewind-root has them
    #[arg(
        long,
        env = "TRADEWIND_ROOT_FILE",
        value_name = "FILE",
        requires = "identity_token_file"
    )]
    pub root_file: Option<PathBuf>,
}

impl InPod {
    /// What proves it, if it is in one.
    pub fn account(&self) -> Option<ServiceAccount> {
        Some(ServiceAccount {
            token_file: self.identity_token_file.clone()?,
            root_file: self.root_file.clone()?,
        })
    }
}
