//! What a proxy is told of its traces and its access log, and how the flags are written.

use std::{fmt, path::PathBuf, str::FromStr};

use http::uri::{Authority, Scheme, Uri};
use tradewind_transport::trace_context::Ratio;

use crate::config::InvalidSpec;

/// OTLP's port for gRPC.
const OTLP_PORT: u16 = 4317;

/// Where spans go: `http://host[:port]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtlpEndpoint {
    address: String,
    uri: Uri,
}

impl OtlpEndpoint {
    /// `host:port`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// What requests are addressed to: whatever stands before a collector may go by it.
    pub(super) const fn uri(&self) -> &Uri {
        &self.uri
    }
}

impl fmt::Display for OtlpEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}", self.address)
    }
}

impl FromStr for OtlpEndpoint {
    type Err = InvalidSpec;

    fn from_str(s: &str) -> Result<Self, InvalidSpec> {
        const EXPECTED: &str = "expected http://<host>[:<port>], a collector's gRPC address, such as http://127.0.0.1:4317";
        let bad = |why: &str| InvalidSpec::new(s, format!("{why}; {EXPECTED}"));
        let uri: Uri = s.parse().map_err(|_| bad("it is no URL"))?;
        if uri.scheme() == Some(&Scheme::HTTPS) {
            return Err(bad(
                "https is not spoken here: use a collector beside the proxy, which may",
            ));
        }
        if uri.scheme() != Some(&Scheme::HTTP) {
            return Err(bad("it has no scheme"));
        }
        if uri.path() != "/" || uri.query().is_some() {
            return Err(bad("gRPC has no path of its own"));
        }
        let authority = uri.authority().map(Authority::as_str).unwrap_or_default();
        let host = uri.host().unwrap_or_default();
        if host.is_empty() || authority.contains('@') || uri.port_u16() == Some(0) {
            return Err(bad("it names no host and port"));
        }
        let port = uri.port_u16().unwrap_or(OTLP_PORT);
        Ok(Self {
            address: format!("{host}:{port}"),
            uri,
        })
    }
}

/// Where access-log lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessLogTarget {
    /// Standard output.
    Stdout,
    /// A file, made where there is none and appended to.
    File(PathBuf),
}

impl FromStr for AccessLogTarget {
    type Err = InvalidSpec;

    /// `-` or a path.
    fn from_str(s: &str) -> Result<Self, InvalidSpec> {
        match s {
            "" => Err(InvalidSpec::new(
                s,
                "expected - for standard output, or a file's path",
            )),
            "-" => Ok(Self::Stdout),
            path => Ok(Self::File(path.into())),
        }
    }
}

impl fmt::Display for AccessLogTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stdout => f.write_str("-"),
            Self::File(path) => path.display().fmt(f),
        }
    }
}

/// Which requests and connections get a line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AccessLogFilter {
    /// All of them.
    #[default]
    All,
    /// Those that did not end well, or not at the first attempt.
    Errors,
}

impl AccessLogFilter {
    /// As the flag says it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Errors => "errors",
        }
    }
}

impl FromStr for AccessLogFilter {
    type Err = InvalidSpec;

    fn from_str(s: &str) -> Result<Self, InvalidSpec> {
        match s {
            "all" => Ok(Self::All),
            "errors" => Ok(Self::Errors),
            _ => Err(InvalidSpec::new(s, "expected all or errors")),
        }
    }
}

/// All of it; by default nothing is told.
#[derive(Clone, Debug, Default)]
pub struct TelemetryConfig {
    /// Where spans go.
    pub otlp: Option<OtlpEndpoint>,
    /// Which part of the traces that begin here is sampled. Without one and without a collector no trace begins here.
    pub sampling: Option<Ratio>,
    /// Where access-log lines go.
    pub access_log: Option<AccessLogTarget>,
    /// Which ones.
    pub access_log_filter: AccessLogFilter,
}

impl TelemetryConfig {
    /// The ratio that the process starts with; `None` where it leaves traces alone.
    pub(crate) fn begin(&self) -> Option<Ratio> {
        self.sampling
            .or_else(|| self.otlp.as_ref().map(|_| Ratio::DEFAULT))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_read_and_bad_ones_say_what_is_wrong() {
        for (text, address) in [
            ("http://127.0.0.1:4317", "127.0.0.1:4317"),
            (
                "http://otel-collector.observability",
                "otel-collector.observability:4317",
            ),
            ("http://[::1]:1/", "[::1]:1"),
        ] {
            let endpoint: OtlpEndpoint = text.parse().unwrap();
            assert_eq!(endpoint.address(), address);
            let again: OtlpEndpoint = endpoint.to_string().parse().unwrap();
            assert_eq!(again.address(), address);
        }
        for (text, word) in [
            ("127.0.0.1:4317", "scheme"),
            ("https://collector:4317", "https"),
            ("http://collector:4317/v1/traces", "path"),
            ("http://:4317", ""),
            ("http://a b", "URL"),
            ("", "URL"),
        ] {
            let error = text.parse::<OtlpEndpoint>().unwrap_err().to_string();
            assert!(
                error.contains(word) && error.contains("expected http://"),
                "{error}"
            );
        }
    }

    #[test]
    fn targets_and_filters_are_read() {
        assert_eq!("-".parse(), Ok(AccessLogTarget::Stdout));
        assert_eq!(
            "/var/log/a.log".parse(),
            Ok(AccessLogTarget::File("/var/log/a.log".into()))
        );
        assert!("".parse::<AccessLogTarget>().is_err());
        assert_eq!("errors".parse(), Ok(AccessLogFilter::Errors));
        let error = "5xx".parse::<AccessLogFilter>().unwrap_err().to_string();
        assert!(error.contains("all or errors"), "{error}");
    }

    #[test]
    fn traces_begin_where_somebody_asked_for_them() {
        let mut config = TelemetryConfig::default();
        assert_eq!(config.begin(), None);
        config.otlp = Some("http://127.0.0.1".parse().unwrap());
        assert_eq!(config.begin(), Some(Ratio::DEFAULT));
        config.sampling = Ratio::new(1.0);
        assert_eq!(config.begin(), Ratio::new(1.0));
    }
}
