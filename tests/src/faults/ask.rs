//! One call to a controller's admin service over its unix socket, sorted by what is known of it afterwards. Owns nothing:
//! every call has its own connection, so that a broken one never speaks for the next.

use std::{path::Path, time::Duration};

use hyper_util::rt::TokioIo;
use tokio::{net::UnixStream, time::timeout};
use tonic::{
    Code, Request, Response, Status,
    transport::{Channel, Endpoint},
};
use tradewind_api::proto::v1::admin_client::AdminClient;

/// Longest wait for an answer: above the store's own deadline of five seconds.
const LIMIT: Duration = Duration::from_secs(7);

/// A call that did not succeed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failed {
    /// It was certainly not carried out, and never will be.
    Refused(String),
    /// It may have been, or may still be.
    Unknown(String),
}

/// The service behind one call.
pub type Admin = AdminClient<Channel>;

/// Makes one call.
pub async fn ask<T, R, Fut>(
    socket: &Path,
    request: R,
    call: impl FnOnce(Admin, Request<R>) -> Fut,
) -> Result<T, Failed>
where
    Fut: Future<Output = Result<Response<T>, Status>>,
{
    let not_sent = |e: &dyn std::fmt::Display| Failed::Refused(format!("not sent: {e}"));
    let stream = UnixStream::connect(socket).await;
    let mut stream = Some(stream.map_err(|e| not_sent(&e))?);
    let connector = tower::service_fn(move |_| {
        let stream = stream.take().map(TokioIo::new);
        std::future::ready(stream.ok_or_else(|| std::io::Error::other("it was used")))
    });
    // Nobody resolves this name: the connector has the stream already.
    let endpoint = Endpoint::from_static("http://controller.local");
    let channel = endpoint.connect_with_connector(connector).await;
    let channel = channel.map_err(|e| not_sent(&e))?;
    let mut request = Request::new(request);
    request.set_timeout(LIMIT);
    match timeout(LIMIT, call(AdminClient::new(channel), request)).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(sort(&status)),
        Err(_) => Err(Failed::Unknown(format!("no answer in {LIMIT:?}"))),
    }
}

/// What an answer says of the write it answers. Codes alone do not tell; the first words of these sentences do.
fn sort(status: &Status) -> Failed {
    let said = status.message().lines().next().unwrap_or_default();
    let text = format!("{:?}: {said}", status.code());
    let certain = match status.code() {
        Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::FailedPrecondition
        | Code::ResourceExhausted => true,
        Code::Unavailable => said.starts_with("the store has had no leader"),
        Code::Internal => said.starts_with("the store's leader did not take the request"),
        _ => false,
    };
    if certain {
        Failed::Refused(text)
    } else {
        Failed::Unknown(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_says_so_was_certainly_not_done() {
        let refused =
            |code, text: &str| matches!(sort(&Status::new(code, text)), Failed::Refused(_));
        assert!(refused(
            Code::Unavailable,
            "the store has had no leader for 5.0 s: …"
        ));
        assert!(!refused(
            Code::Unavailable,
            "this node's store has stopped: …"
        ));
        assert!(!refused(
            Code::DeadlineExceeded,
            "no answer from the store's leader"
        ));
        assert!(refused(Code::NotFound, "there is no token x"));
        assert!(!refused(Code::Unknown, "transport error"));
    }
}
