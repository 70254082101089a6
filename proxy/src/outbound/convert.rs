//! Between what an application speaks and what travels: request and response heads, hop by hop fields taken out.
//!
//! Pure. RFC 9110 section 7.6.1 says what belongs to one hop; everything else passes unchanged, tracing and request ids
//! among it.

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, Version,
    header::{
        CONNECTION, CONTENT_LENGTH, EXPECT, HOST, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE,
        TRANSFER_ENCODING, UPGRADE,
    },
    uri::{Authority, PathAndQuery, Scheme},
};
use tradewind_api::id::ServicePortRef;
use tradewind_transport::hbone::headers;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// Names that one `Connection` field may list. More is abuse, and the rest stays.
const MAX_LISTED: usize = 32;

/// Why a request cannot be passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadRequest {
    /// The host field is no authority.
    #[error("the Host field is not a host, or stands there twice")]
    Host,
    /// `CONNECT` belongs to forward proxies; this listener stands for one service.
    #[error("CONNECT is not served here: this listener is for one service")]
    Connect,
}

impl BadRequest {
    /// What the client is answered.
    pub(super) const fn status(self) -> StatusCode {
        match self {
            Self::Host => StatusCode::BAD_REQUEST,
            Self::Connect => StatusCode::METHOD_NOT_ALLOWED,
        }
    }
}

/// The protocol that the client wants to change to, if it asks for one that must be tunnelled.
pub(super) fn upgrade_wanted<B>(request: &Request<B>) -> Option<HeaderValue> {
    if request.version() != Version::HTTP_11 || !lists(request.headers(), CONNECTION, "upgrade") {
        return None;
    }
    let to = request.headers().get(UPGRADE)?;
    // A change to clear-text HTTP/2 may be ignored (RFC 9110 section 7.8), and the request then stands for itself.
    (!to.as_bytes().eq_ignore_ascii_case(b"h2c")).then(|| to.clone())
}

fn lists(fields: &HeaderMap, name: HeaderName, token: &str) -> bool {
    fields
        .get_all(name)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .any(|t| t.trim().eq_ignore_ascii_case(token))
}

/// Takes out what belongs to one hop.
pub(super) fn strip_hop_by_hop(fields: &mut HeaderMap) {
    let listed: Vec<HeaderName> = fields
        .get_all(CONNECTION)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .filter_map(|t| t.trim().parse().ok())
        .take(MAX_LISTED)
        .collect();
    let trailers = lists(fields, TE, "trailers");
    for name in listed {
        // A field that frames the message is not the client's to hide.
        if name != CONTENT_LENGTH && name != HOST {
            fields.remove(name);
        }
    }
    for name in [
        CONNECTION,
        KEEP_ALIVE,
        PROXY_CONNECTION,
        TRANSFER_ENCODING,
        UPGRADE,
        TE,
        HTTP2_SETTINGS,
    ] {
        fields.remove(name);
    }
    if trailers {
        fields.insert(TE, HeaderValue::from_static("trailers"));
    }
}

/// The authority a request is for: as the client wrote it, or the service's own name.
fn authority(
    parts: &http::request::Parts,
    target: &ServicePortRef,
) -> Result<Authority, BadRequest> {
    if let Some(authority) = parts.uri.authority() {
        return Ok(authority.clone());
    }
    let mut hosts = parts.headers.get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (Some(host), None) if !host.is_empty() => {
            Authority::try_from(host.as_bytes()).map_err(|_| BadRequest::Host)
        }
        // HTTP/1.0 need not say.
        (None, _) | (Some(_), None) => {
            Authority::try_from(headers::connect_authority(target)).map_err(|_| BadRequest::Host)
        }
        (Some(_), Some(_)) => Err(BadRequest::Host),
    }
}

/// The head that travels, from the one that the application sent. The service's name is still to be added.
pub(super) fn outgoing(
    parts: &mut http::request::Parts,
    target: &ServicePortRef,
) -> Result<Request<()>, BadRequest> {
    if parts.method == Method::CONNECT {
        return Err(BadRequest::Connect);
    }
    let authority = authority(parts, target)?;
    let mut fields = std::mem::take(&mut parts.headers);
    strip_hop_by_hop(&mut fields);
    for name in headers::INTERNAL {
        fields.remove(name);
    }
    // The client's wait for "100 Continue" ends at this proxy, which answers it.
    for name in [HOST, EXPECT, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION] {
        fields.remove(name);
    }
    fields.insert(headers::VERSION, headers::version_value(parts.version));
    let mut uri = http::uri::Parts::default();
    uri.scheme = Some(Scheme::HTTP);
    uri.authority = Some(authority);
    uri.path_and_query = Some(
        parts
            .uri
            .path_and_query()
            .cloned()
            .unwrap_or_else(|| PathAndQuery::from_static("/")),
    );
    let mut head = Request::new(());
    *head.method_mut() = parts.method.clone();
    *head.uri_mut() = Uri::from_parts(uri).map_err(|_| BadRequest::Host)?;
    *head.version_mut() = Version::HTTP_2;
    *head.headers_mut() = fields;
    Ok(head)
}

/// Makes a peer's response fit for the application.
pub(super) fn incoming<B>(response: &mut Response<B>, served_by: &HeaderValue) {
    let fields = response.headers_mut();
    // What the other proxy had to say in place of the application is for the caller to read.
    for name in headers::INTERNAL
        .into_iter()
        .filter(|n| *n != headers::ERROR)
    {
        fields.remove(name);
    }
    strip_hop_by_hop(fields);
    fields.insert(headers::SERVED_BY, served_by.clone());
}

/// True for methods that may be sent twice (RFC 9110 section 9.2.2).
pub(super) fn is_idempotent(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target() -> ServicePortRef {
        "shop/payments:80".parse().unwrap()
    }

    fn parts(request: http::request::Builder) -> http::request::Parts {
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn hop_by_hop_fields_stay_on_their_hop() {
        let mut p = parts(
            Request::get("/a?b=c")
                .header("host", "shop.example:9090")
                .header("connection", "keep-alive, X-Secret, content-length")
                .header("keep-alive", "timeout=5")
                .header("x-secret", "1")
                .header("content-length", "3")
                .header("te", "trailers, deflate")
                .header("transfer-encoding", "chunked")
                .header("tradewind-unprocessed", "forged")
                .header("x-request-id", "42")
                .header("traceparent", "00-a-b-01"),
        );
        let head = outgoing(&mut p, &target()).unwrap();
        assert_eq!(head.uri().to_string(), "http://shop.example:9090/a?b=c");
        let names: Vec<_> = head.headers().keys().map(HeaderName::as_str).collect();
        for gone in [
            "connection",
            "keep-alive",
            "x-secret",
            "transfer-encoding",
            "host",
            "tradewind-unprocessed",
        ] {
            assert!(!names.contains(&gone), "{gone}");
        }
        for kept in ["content-length", "x-request-id", "traceparent", "te"] {
            assert!(names.contains(&kept), "{kept}");
        }
        assert_eq!(head.headers()["te"], "trailers");
        assert_eq!(head.headers()["tradewind-version"], "HTTP/1.1");
    }

    #[test]
    fn a_request_without_a_host_is_for_the_service() {
        let mut p = parts(Request::get("/").version(Version::HTTP_10));
        let head = outgoing(&mut p, &target()).unwrap();
        assert_eq!(
            head.uri().host(),
            Some("payments.shop.svc.clusterset.local")
        );
        let mut twice = parts(Request::get("/").header("host", "a").header("host", "b"));
        assert_eq!(
            outgoing(&mut twice, &target()).unwrap_err(),
            BadRequest::Host
        );
        let mut bad = parts(Request::get("/").header("host", "a b"));
        assert_eq!(outgoing(&mut bad, &target()).unwrap_err(), BadRequest::Host);
    }

    #[test]
    fn upgrades_are_told_from_their_look_alikes() {
        let ask = |c: &'static str, u: &'static str| {
            upgrade_wanted(
                &Request::get("/")
                    .header("connection", c)
                    .header("upgrade", u)
                    .body(())
                    .unwrap(),
            )
        };
        assert!(ask("keep-alive, Upgrade", "websocket").is_some());
        assert!(ask("keep-alive", "websocket").is_none());
        assert!(ask("upgrade", "h2c").is_none());
    }

    #[test]
    fn responses_lose_what_is_internal_and_tell_who_served() {
        let mut r = Response::builder()
            .header("tradewind-unprocessed", "x")
            .header("connection", "close")
            .header("grpc-status", "0")
            .body(())
            .unwrap();
        incoming(&mut r, &HeaderValue::from_static("west/abc"));
        assert_eq!(r.headers()["tradewind-served-by"], "west/abc");
        assert_eq!(r.headers().len(), 2);
    }
}
