//! Through an API server to a controller: a token and a forwarded port from the one, a certificate from the other.

use std::io;

use tonic::transport::Channel;
use tradewind_api::ClusterName;
use tradewind_kubernetes::forward::{Cause, Forward, ForwardError};
use tradewind_transport::control::{Operator, SignError};

use super::Outside;
use crate::exit::{Exit, Failure};

/// A channel that dials anew, through the API server, whenever its connection ended.
pub(super) async fn channel(outside: &Outside) -> Result<Channel, Failure> {
    let forward = Forward::new(&outside.api, &outside.namespace).await;
    let forward = forward.map_err(|e| forward_failure(&e))?;
    let shown = forward.credentials().await;
    let shown = shown.map_err(|e| forward_failure(&e))?;
    let cluster = ClusterName::new(&shown.cluster).map_err(|e| {
        Failure::problem(format!(
            "the installation of {} has no valid cluster name: {e}",
            outside.name()
        ))
        .hint("install it anew with the name that it had: `tradewind install --set cluster.name=NAME`")
    })?;
    let stream = forward.open().await.map_err(|e| forward_failure(&e))?;
    let roots = shown.roots_pem.as_bytes();
    let operator = Operator::certify(stream, &cluster, roots, &shown.token).await;
    let operator = operator.map_err(|e| sign_failure(outside, &e))?;
    Ok(operator.channel(move || {
        let forward = forward.clone();
        Box::pin(async move { forward.open().await.map_err(io::Error::other) })
    }))
}

fn forward_failure(error: &ForwardError) -> Failure {
    let exit = match error {
        ForwardError::Place(_) => Exit::Usage,
        ForwardError::Step { cause, .. } => match cause {
            Cause::Forbidden | Cause::Unknown => Exit::Refused,
            Cause::Missing(_) | Cause::Refused(_) | Cause::Away(_) => Exit::Unreachable,
        },
    };
    Failure::new(exit, error).hint(error.hint())
}

fn sign_failure(outside: &Outside, error: &SignError) -> Failure {
    let exit = match error {
        SignError::Refused(_) => Exit::Refused,
        SignError::Away(_) => Exit::Unreachable,
        _ => Exit::Problems,
    };
    let name = outside.name();
    let what = format!("the controller of {name} gives no operator's certificate: {error}");
    Failure::new(exit, what).hint(format!(
        "its log says more: kubectl --context {name} logs -n {} -l app.kubernetes.io/name=tradewind-controller",
        outside.namespace
    ))
}
