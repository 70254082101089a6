//! The header names that Tradewind's proxies exchange, and their values' forms.
//!
//! All are set and removed by proxies: one that arrives from an application is dropped before a request leaves, one that
//! arrives from a peer is dropped before a response is handed on. Values are checked where they are parsed, here.

use http::{HeaderName, HeaderValue, Version};
use tradewind_api::id::{EndpointId, ServicePortRef};

/// Request: `namespace/name:port`, the service that the request is for.
pub const SERVICE: HeaderName = HeaderName::from_static("tradewind-service");
/// Request, `CONNECT` included: the id of the endpoint that it is for, where no other one of the service may answer it. Response to a
/// caller of another cluster: the id of the endpoint that took it, where the callee's proxy knows it. A gateway does not see what it
/// carries, and takes another endpoint where it has never heard of the one that it is asked for: only the callee's proxy can tell.
pub const ENDPOINT: HeaderName = HeaderName::from_static("tradewind-endpoint");
/// Request: the version that the application spoke, `HTTP/1.0`, `HTTP/1.1` or `HTTP/2.0`.
pub const VERSION: HeaderName = HeaderName::from_static("tradewind-version");
/// Response: the request never reached the application, so it may be sent elsewhere whatever its method. The value is a
/// short reason.
pub const UNPROCESSED: HeaderName = HeaderName::from_static("tradewind-unprocessed");
/// Response to the calling application: `<cluster>/<endpoint id>` of who answered.
pub const SERVED_BY: HeaderName = HeaderName::from_static("tradewind-served-by");
/// Response: this answer was made by a proxy, the caller's or the callee's, and not by the application; the value is a
/// short reason.
pub const ERROR: HeaderName = HeaderName::from_static("tradewind-error");
/// The reason of a callee's proxy whose application took the request and then broke off: it may have processed it.
pub const APP_FAILED: &str = "app_failed";

/// The reason, in [`UNPROCESSED`], of a callee's proxy that is another endpoint than the one in [`ENDPOINT`].
pub const OTHER_ENDPOINT: &str = "other_endpoint";

/// Everything a proxy must not pass on from an application or to one.
pub const INTERNAL: [HeaderName; 6] = [SERVICE, ENDPOINT, VERSION, UNPROCESSED, SERVED_BY, ERROR];

/// Longest service value accepted: two labels of 63, a slash, a colon, five digits.
const MAX_SERVICE_LEN: usize = 63 + 1 + 63 + 1 + 5;

/// The service header's value for `target`.
#[expect(
    clippy::expect_used,
    reason = "labels, '/', ':' and digits are header characters"
)]
pub fn service_value(target: &ServicePortRef) -> HeaderValue {
    HeaderValue::try_from(target.to_string()).expect("labels and digits")
}

/// What a service header names; `None` for anything but a whole `namespace/name:port`.
pub fn parse_service(value: &HeaderValue) -> Option<ServicePortRef> {
    let text = value.to_str().ok()?;
    (text.len() <= MAX_SERVICE_LEN).then(|| text.parse().ok())?
}

/// The endpoint header's value for `id`.
#[expect(clippy::expect_used, reason = "a label is a header's value")]
pub fn endpoint_value(id: &EndpointId) -> HeaderValue {
    HeaderValue::from_str(id.as_str()).expect("a label")
}

/// What an endpoint header names; `None` for anything but an id.
pub fn parse_endpoint(value: &HeaderValue) -> Option<EndpointId> {
    EndpointId::new(value.to_str().ok()?).ok()
}

/// The version header's value for `version`.
pub fn version_value(version: Version) -> HeaderValue {
    HeaderValue::from_static(match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2.0",
        _ => "HTTP/1.1",
    })
}

/// The version that a version header names; `None` for any other text.
pub fn parse_version(value: &HeaderValue) -> Option<Version> {
    match value.as_bytes() {
        b"HTTP/1.0" => Some(Version::HTTP_10),
        b"HTTP/1.1" => Some(Version::HTTP_11),
        b"HTTP/2.0" => Some(Version::HTTP_2),
        _ => None,
    }
}

/// The authority of a `CONNECT` to a service: `<name>.<namespace>.svc.clusterset.local:<port>`.
pub fn connect_authority(target: &ServicePortRef) -> String {
    let service = &target.service;
    format!(
        "{}.{}.svc.clusterset.local:{}",
        service.name(),
        service.namespace,
        target.port
    )
}

/// The service that a `CONNECT` authority names, if it is one of ours. By the name inside of a cluster it is the same one:
/// that is how peers that are not ours know it.
pub fn parse_connect_authority(authority: &str) -> Option<ServicePortRef> {
    let (host, port) = authority.rsplit_once(':')?;
    let port: u16 = port.parse().ok().filter(|p| *p != 0)?;
    let (name, namespace) = host
        .strip_suffix(".svc.clusterset.local")
        .or_else(|| host.strip_suffix(".svc.cluster.local"))?
        .split_once('.')?;
    Some(ServicePortRef {
        service: tradewind_api::id::ServiceName::new(namespace, name).ok()?,
        port,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_and_authorities_come_back() {
        let target: ServicePortRef = "shop/payments:80".parse().unwrap();
        assert_eq!(parse_service(&service_value(&target)), Some(target.clone()));
        let authority = connect_authority(&target);
        assert_eq!(authority, "payments.shop.svc.clusterset.local:80");
        let inside = "payments.shop.svc.cluster.local:80";
        for name in [&*authority, inside] {
            assert_eq!(parse_connect_authority(name), Some(target.clone()));
        }
        for bad in [
            "payments.shop.svc.clusterset.local",
            "payments.shop.svc.clusterset.local:0",
            "payments.svc.clusterset.local:80",
            "a.b.c.svc.clusterset.local:80",
            "127.0.0.1:80",
            ":",
        ] {
            assert_eq!(parse_connect_authority(bad), None, "{bad}");
        }
    }

    #[test]
    fn endpoints_come_back() {
        let id = EndpointId::new("pay-1").unwrap();
        assert_eq!(parse_endpoint(&endpoint_value(&id)), Some(id));
        let long = "a".repeat(500);
        for bad in ["", "a b", "a/b", &long] {
            let value = HeaderValue::from_str(bad).unwrap();
            assert_eq!(parse_endpoint(&value), None, "{bad}");
        }
    }

    #[test]
    fn versions_come_back() {
        for v in [Version::HTTP_10, Version::HTTP_11, Version::HTTP_2] {
            assert_eq!(parse_version(&version_value(v)), Some(v));
        }
        assert_eq!(parse_version(&HeaderValue::from_static("HTTP/3")), None);
    }

    #[test]
    fn a_long_service_is_refused_unread() {
        let long = HeaderValue::try_from(format!("a/{}:80", "b".repeat(500))).unwrap();
        assert_eq!(parse_service(&long), None);
    }
}
