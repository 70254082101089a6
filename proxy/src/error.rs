//! Why a proxy could not start or go on.

use tradewind_runtime::listen::BindError;
use tradewind_transport::control::ControlError;

use crate::capture::RulesError;

/// Why a proxy could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// A setting cannot work; the operator's to change.
    #[error("proxy setting {field} is not usable: {reason}")]
    Config {
        /// The setting.
        field: &'static str,
        /// What is wrong with it and what was expected.
        reason: String,
    },
    /// A port could not be bound.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The controller's side of it could not be set up.
    #[error("failed to set up the proxy's link to its controller: {0}")]
    Control(#[from] ControlError),
    /// The rules of a capture could not be set.
    #[error(transparent)]
    Rules(#[from] RulesError),
    /// A data thread died; its share of the traffic with it.
    #[error("proxy cannot go on: {0}")]
    Worker(String),
    /// The operating system refused something.
    #[error("failed to {action}: {source}")]
    Io {
        /// What was being done.
        action: &'static str,
        /// The cause.
        source: std::io::Error,
    },
}
