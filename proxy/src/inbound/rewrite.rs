//! What changes in a request and a response on the last hop, between HTTP/2 on the wire and what the application speaks.
//! Pure. Nothing that belongs to the hop or to the mesh may reach the application or the caller.

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Uri, Version,
    header::{
        CONNECTION, CONTENT_LENGTH, COOKIE, HOST, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE,
        TRANSFER_ENCODING, UPGRADE,
    },
    request, response,
};
use tradewind_transport::hbone::headers;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// Why a request cannot be put in the application's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NoHost;

/// Turns a request off the wire into one for an application that speaks `version`.
pub(crate) fn request(parts: &mut request::Parts, version: Version) -> Result<(), NoHost> {
    let te = strip_hop(&mut parts.headers);
    if te {
        // Servers send trailers only to whom asks for them.
        parts
            .headers
            .insert(TE, HeaderValue::from_static("trailers"));
    }
    for name in &headers::INTERNAL {
        parts.headers.remove(name);
    }
    if version == Version::HTTP_2 {
        return for_http2(parts);
    }
    if te {
        parts
            .headers
            .insert(CONNECTION, HeaderValue::from_static("te"));
    }
    for_http1(parts)
}

fn for_http2(parts: &mut request::Parts) -> Result<(), NoHost> {
    parts.version = Version::HTTP_2;
    let host = parts.headers.remove(HOST);
    if parts.uri.authority().is_some() && parts.uri.scheme().is_some() {
        return Ok(());
    }
    let host = host.ok_or(NoHost)?;
    let mut uri = std::mem::take(&mut parts.uri).into_parts();
    uri.scheme = Some(http::uri::Scheme::HTTP);
    uri.authority = Some(host.as_bytes().try_into().map_err(|_| NoHost)?);
    uri.path_and_query
        .get_or_insert(http::uri::PathAndQuery::from_static("/"));
    parts.uri = Uri::from_parts(uri).map_err(|_| NoHost)?;
    Ok(())
}

fn for_http1(parts: &mut request::Parts) -> Result<(), NoHost> {
    parts.version = Version::HTTP_11;
    // HTTP/1 takes the host from its header; on the wire it is the authority, which wins where both are there.
    if let Some(authority) = parts.uri.authority() {
        let host = HeaderValue::from_str(authority.as_str()).map_err(|_| NoHost)?;
        parts.headers.insert(HOST, host);
    } else if !parts.headers.contains_key(HOST) {
        return Err(NoHost);
    }
    // `OPTIONS *` has neither path nor authority in the first line.
    let path = match parts.uri.path_and_query() {
        Some(path) if path.as_str() != "*" => Uri::from(path.clone()),
        _ if parts.method == Method::OPTIONS => Uri::from_static("*"),
        _ => Uri::from_static("/"),
    };
    parts.uri = path;
    join_cookies(&mut parts.headers);
    Ok(())
}

/// RFC 9113 section 8.2.3: HTTP/2 may split the cookie header, HTTP/1 has one.
fn join_cookies(headers: &mut HeaderMap) {
    let mut all = headers.get_all(COOKIE).iter();
    let (Some(first), Some(second)) = (all.next(), all.next()) else {
        return;
    };
    let mut joined = first.as_bytes().to_vec();
    for more in std::iter::once(second).chain(all) {
        joined.extend_from_slice(b"; ");
        joined.extend_from_slice(more.as_bytes());
    }
    if let Ok(joined) = HeaderValue::from_bytes(&joined) {
        headers.insert(COOKIE, joined);
    }
}

/// Turns an application's response into one for the wire.
pub(crate) fn response(parts: &mut response::Parts) {
    strip_hop(&mut parts.headers);
    for name in &headers::INTERNAL {
        parts.headers.remove(name);
    }
    parts.version = Version::HTTP_2;
}

/// Removes what is said between two neighbours only (RFC 9110 section 7.6.1). True when trailers were asked for.
fn strip_hop(headers: &mut HeaderMap) -> bool {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .filter_map(|n| HeaderName::try_from(n.trim()).ok())
        .collect();
    for name in named {
        headers.remove(name);
    }
    for name in [
        CONNECTION,
        KEEP_ALIVE,
        PROXY_CONNECTION,
        PROXY_AUTHENTICATE,
        PROXY_AUTHORIZATION,
        UPGRADE,
    ] {
        headers.remove(name);
    }
    if headers.remove(TRANSFER_ENCODING).is_some() {
        // Both together were a smuggling attempt or a mistake; the framing of the wire stands.
        headers.remove(CONTENT_LENGTH);
    }
    let te_trailers = headers
        .get(TE)
        .is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"trailers"));
    headers.remove(TE);
    te_trailers
}

/// True for a method that may be sent twice without harm (RFC 9110 section 9.2.2).
pub(crate) fn idempotent(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::PUT | Method::DELETE | Method::TRACE
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(build: request::Builder) -> request::Parts {
        build.body(()).unwrap().into_parts().0
    }

    #[test]
    fn http1_gets_a_host_a_path_and_one_cookie() {
        let mut p = parts(
            http::Request::get("http://payments.shop:80/a?b=c")
                .header("cookie", "a=1")
                .header("cookie", "b=2")
                .header("te", "trailers")
                .header("connection", "x-hop, close")
                .header("x-hop", "1")
                .header("tradewind-service", "shop/payments:80")
                .header("x-kept", "1"),
        );
        request(&mut p, Version::HTTP_11).unwrap();
        assert_eq!(p.uri, "/a?b=c");
        assert_eq!(p.headers[HOST], "payments.shop:80");
        assert_eq!(p.headers[COOKIE], "a=1; b=2");
        assert_eq!(p.version, Version::HTTP_11);
        let mut left: Vec<_> = p.headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["connection", "cookie", "host", "te", "x-kept"]);
        assert_eq!(p.headers[CONNECTION], "te");
    }

    #[test]
    fn http2_keeps_its_authority_and_te_trailers() {
        let mut p = parts(
            http::Request::post("http://payments.shop/a")
                .header("te", "trailers")
                .header("host", "x"),
        );
        request(&mut p, Version::HTTP_2).unwrap();
        assert_eq!(p.uri, "http://payments.shop/a");
        assert_eq!(p.headers[TE], "trailers");
        assert!(!p.headers.contains_key(HOST));
        let mut p = parts(http::Request::get("/a").header("host", "payments"));
        request(&mut p, Version::HTTP_2).unwrap();
        assert_eq!(p.uri, "http://payments/a");
    }

    #[test]
    fn a_request_for_nobody_is_refused_and_the_asterisk_form_survives() {
        assert_eq!(
            request(&mut parts(http::Request::get("/a")), Version::HTTP_11),
            Err(NoHost)
        );
        assert_eq!(
            request(&mut parts(http::Request::get("/a")), Version::HTTP_2),
            Err(NoHost)
        );
        let mut p = parts(http::Request::options("*").header("host", "x"));
        request(&mut p, Version::HTTP_11).unwrap();
        assert_eq!(p.uri, "*");
    }

    #[test]
    fn a_response_cannot_speak_for_the_mesh() {
        let r = http::Response::builder()
            .header("tradewind-unprocessed", "connect")
            .header("transfer-encoding", "chunked")
            .header("content-length", "3")
            .header("keep-alive", "timeout=5")
            .header("x-kept", "1")
            .body(())
            .unwrap();
        let (mut p, ()) = r.into_parts();
        response(&mut p);
        assert_eq!(p.headers.len(), 1);
        assert!(p.headers.contains_key("x-kept"));
    }
}
