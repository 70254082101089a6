//! What a proxy is told when it starts, and how its flags are written. Nothing here reads the environment.

use std::{
    fmt,
    net::{Ipv6Addr, SocketAddr},
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

use tradewind_api::{ServicePortRef, Zone, model::AppProtocol};
use tradewind_transport::control::{ControllerAddr, Proof};

use crate::{capture::CaptureConfig, labels::Labels, telemetry::TelemetryConfig};

/// One outbound listener: what connects here reaches that service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenSpec {
    /// Where the application connects to. Port 0 picks a free one.
    pub addr: SocketAddr,
    /// What it reaches.
    pub target: ServicePortRef,
}

/// How a proxy finds out whether its application works.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum HealthCheck {
    /// Not at all: healthy while the proxy lives.
    None,
    /// A TCP connection is accepted.
    #[default]
    Tcp,
    /// `GET <path>` answers 2xx.
    Http(String),
}

/// One service port that this proxy fronts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServeSpec {
    /// The service and port, as callers name them.
    pub target: ServicePortRef,
    /// `host:port` of the application.
    pub app: String,
    /// What the application speaks.
    pub protocol: AppProtocol,
    /// How its health is found out.
    pub check: HealthCheck,
    /// Relative capacity, 1 to 65535.
    pub weight: u32,
}

/// How calls leave the cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Exit {
    /// Straight to the other clusters' gateways, or to their endpoints where the network is one.
    #[default]
    Direct,
    /// Through this cluster's own gateways, which pass them on, and by no other way.
    Gateway,
}

impl Exit {
    /// As the flag says it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Gateway => "gateway",
        }
    }
}

impl FromStr for Exit {
    type Err = InvalidSpec;

    fn from_str(s: &str) -> Result<Self, InvalidSpec> {
        match s {
            "direct" => Ok(Self::Direct),
            "gateway" => Ok(Self::Gateway),
            _ => Err(InvalidSpec::new(s, "expected direct or gateway")),
        }
    }
}

/// Everything a proxy is told.
#[derive(Clone, Debug)]
pub struct ProxyConfig {
    /// Its name, unique within its cluster; a pod's will do.
    pub name: String,
    /// Where its own cluster's controller is.
    pub controller: ControllerAddr,
    /// The identity asked for, without the trust domain, such as `/ns/shop/sa/payments`; none takes what the controller maps the caller to.
    pub identity_path: Option<String>,
    /// What proves it, where the controller's unix socket does not.
    pub proof: Proof,
    /// Outbound listeners.
    pub listeners: Vec<ListenSpec>,
    /// What it fronts.
    pub serves: Vec<ServeSpec>,
    /// It fronts what its controller says that Kubernetes has at its advertised address instead, and registers nothing.
    pub kubernetes: bool,
    /// Whether, and how, applications' own connections are captured.
    pub capture: Option<CaptureConfig>,
    /// The inbound HBONE address (15008). Port 0 picks a free one.
    pub hbone_listen: SocketAddr,
    /// `host:port` at which gateways and other proxies reach `hbone_listen`, where it differs; in Kubernetes `ip:port`.
    pub advertise: Option<String>,
    /// Metrics, readiness and debug pages.
    pub admin_listen: SocketAddr,
    /// Data threads; 0 means one a core.
    pub threads: usize,
    /// The zone it runs in.
    pub zone: Option<Zone>,
    /// What its workload is labelled with: rules may be for some of a service's callers.
    pub labels: Labels,
    /// How calls leave the cluster.
    pub exit: Exit,
    /// Where the last good snapshot is kept; none keeps it in memory only.
    pub state_dir: Option<PathBuf>,
    /// Its traces and its access log.
    pub telemetry: TelemetryConfig,
    /// How long requests and connections may go on after the order to stop.
    pub drain_deadline: Duration,
    /// How long it goes on serving after it told the controller that it leaves, so that callers move away first.
    pub leave_grace: Duration,
}

impl ProxyConfig {
    /// A configuration with the documented defaults around what has none.
    pub fn new(name: impl Into<String>, controller: ControllerAddr) -> Self {
        Self {
            name: name.into(),
            controller,
            identity_path: None,
            proof: Proof::None,
            listeners: Vec::new(),
            serves: Vec::new(),
            kubernetes: false,
            capture: None,
            hbone_listen: SocketAddr::from(([0, 0, 0, 0], 15008)),
            advertise: None,
            admin_listen: SocketAddr::from(([127, 0, 0, 1], 15020)),
            threads: 0,
            zone: None,
            labels: Labels::default(),
            exit: Exit::Direct,
            state_dir: None,
            telemetry: TelemetryConfig::default(),
            drain_deadline: Duration::from_secs(30),
            leave_grace: Duration::from_secs(1),
        }
    }
}

/// Why the value of a flag was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{value:?} is not valid: {reason}")]
pub struct InvalidSpec {
    /// What stood there.
    pub value: String,
    /// What is wrong and what was expected.
    pub reason: String,
}

impl InvalidSpec {
    pub(crate) fn new(value: &str, reason: impl Into<String>) -> Self {
        Self {
            value: value.chars().take(200).collect(),
            reason: reason.into(),
        }
    }
}

impl FromStr for ListenSpec {
    type Err = InvalidSpec;

    /// `<ip>:<port>=<namespace>/<service>:<port>`.
    fn from_str(s: &str) -> Result<Self, InvalidSpec> {
        const EXPECTED: &str =
            "expected <ip>:<port>=<service>:<port>, such as 127.0.0.1:9090=shop/payments:80";
        let (addr, target) = s
            .split_once('=')
            .ok_or_else(|| InvalidSpec::new(s, EXPECTED))?;
        Ok(Self {
            addr: addr
                .parse()
                .map_err(|_| InvalidSpec::new(s, format!("{addr:?} is no address; {EXPECTED}")))?,
            target: target
                .parse()
                .map_err(|e| InvalidSpec::new(s, format!("{e}")))?,
        })
    }
}

impl fmt::Display for ListenSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.addr, self.target)
    }
}

impl FromStr for HealthCheck {
    type Err = InvalidSpec;

    /// `none`, `tcp` or `http:/path`.
    fn from_str(s: &str) -> Result<Self, InvalidSpec> {
        match (s, s.strip_prefix("http:")) {
            ("none", _) => Ok(Self::None),
            ("tcp", _) => Ok(Self::Tcp),
            (_, Some(path))
                if path.starts_with('/')
                    && path.len() <= MAX_CHECK_PATH
                    && path.bytes().all(|b| b.is_ascii_graphic()) =>
            {
                Ok(Self::Http(path.to_owned()))
            }
            _ => Err(InvalidSpec::new(
                s,
                "expected none, tcp or http:/path, such as http:/healthz",
            )),
        }
    }
}

/// Longest health check path in bytes: it travels in a request line that every HTTP server takes.
const MAX_CHECK_PATH: usize = 1024;

impl fmt::Display for HealthCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Tcp => f.write_str("tcp"),
            Self::Http(path) => write!(f, "http:{path}"),
        }
    }
}

impl FromStr for ServeSpec {
    type Err = InvalidSpec;

    /// `<namespace>/<service>:<port>=<host>:<port>[,check=…][,protocol=…][,weight=…]`.
    fn from_str(s: &str) -> Result<Self, InvalidSpec> {
        const EXPECTED: &str = "expected <service>:<port>=<host>:<port>[,check=http:/path][,protocol=http1|http2|tcp][,weight=100], such as shop/payments:80=127.0.0.1:8080";
        let (target, rest) = s
            .split_once('=')
            .ok_or_else(|| InvalidSpec::new(s, EXPECTED))?;
        let mut parts = rest.split(',');
        let app = parts.next().unwrap_or_default();
        if !is_host_port(app) {
            return Err(InvalidSpec::new(
                s,
                format!("{app:?} is no host:port; {EXPECTED}"),
            ));
        }
        let mut spec = Self {
            target: target
                .parse()
                .map_err(|e| InvalidSpec::new(s, format!("{e}")))?,
            app: app.to_owned(),
            protocol: AppProtocol::Detect,
            check: HealthCheck::Tcp,
            weight: 100,
        };
        for part in parts {
            match part.split_once('=') {
                Some(("check", v)) => spec.check = v.parse()?,
                Some(("protocol", v)) => {
                    spec.protocol = match v {
                        "detect" => AppProtocol::Detect,
                        "http1" => AppProtocol::Http1,
                        "http2" => AppProtocol::Http2,
                        "tcp" => AppProtocol::Tcp,
                        _ => {
                            return Err(InvalidSpec::new(
                                s,
                                format!("protocol {v:?} is none of detect, http1, http2, tcp"),
                            ));
                        }
                    }
                }
                Some(("weight", v)) => {
                    spec.weight = v
                        .parse()
                        .ok()
                        .filter(|w| (1..=65_535).contains(w))
                        .ok_or_else(|| {
                            InvalidSpec::new(s, format!("weight {v:?} is not 1 to 65535"))
                        })?;
                }
                _ => {
                    return Err(InvalidSpec::new(
                        s,
                        format!("{part:?} is unknown; {EXPECTED}"),
                    ));
                }
            }
        }
        Ok(spec)
    }
}

impl ServeSpec {
    /// The port that the application listens at.
    pub fn app_port(&self) -> Option<u16> {
        self.app.rsplit_once(':')?.1.parse().ok()
    }
}

/// An advertised `host:port` as the mesh writes it. An IPv6 address may stand without brackets, as `$(POD_IP):15008` makes it, where
/// that can mean nothing else.
pub(crate) fn advertised(s: &str) -> Result<String, InvalidSpec> {
    let bad = || {
        InvalidSpec::new(
            s,
            "expected host:port that others can dial; an IPv6 address goes in brackets",
        )
    };
    if let Ok(address) = s.parse::<SocketAddr>() {
        return (address.port() != 0)
            .then(|| address.to_string())
            .ok_or_else(bad);
    }
    let (host, port) = s.rsplit_once(':').ok_or_else(bad)?;
    if !is_host_port(s) {
        return Err(bad());
    }
    match host.parse::<Ipv6Addr>() {
        // Else the port could be the address's last part.
        Ok(ip) if s.parse::<Ipv6Addr>().is_err() => Ok(format!("[{ip}]:{port}")),
        Err(_) if !host.contains([':', '[', ']']) => Ok(s.to_owned()),
        Ok(_) | Err(_) => Err(bad()),
    }
}

fn is_host_port(s: &str) -> bool {
    s.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty()
            && !host.contains(['/', ' ', '='])
            && port.parse::<u16>().is_ok_and(|p| p != 0)
    })
}

impl fmt::Display for ServeSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={},check={}", self.target, self.app, self.check)?;
        match self.protocol {
            AppProtocol::Detect => {}
            AppProtocol::Http1 => f.write_str(",protocol=http1")?,
            AppProtocol::Http2 => f.write_str(",protocol=http2")?,
            AppProtocol::Tcp => f.write_str(",protocol=tcp")?,
        }
        write!(f, ",weight={}", self.weight)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serve_specs_parse_and_print() {
        let s: ServeSpec =
            "shop/payments:80=127.0.0.1:8080,check=http:/healthz,protocol=http2,weight=50"
                .parse()
                .unwrap();
        assert_eq!(s.check, HealthCheck::Http("/healthz".into()));
        assert_eq!((s.protocol, s.weight), (AppProtocol::Http2, 50));
        assert_eq!(s.to_string().parse::<ServeSpec>().unwrap(), s);
        let s: ServeSpec = "shop/payments:80=[::1]:8080".parse().unwrap();
        assert_eq!((s.check, s.weight), (HealthCheck::Tcp, 100));
    }

    #[test]
    fn advertised_addresses_have_one_form() {
        for (told, form) in [
            ("10.0.0.1:15008", "10.0.0.1:15008"),
            ("host.example:1", "host.example:1"),
            ("[::1]:15008", "[::1]:15008"),
            ("[fd00:0:0::1]:15008", "[fd00::1]:15008"),
            ("fd00::1:15008", "[fd00::1]:15008"),
            ("fd00:1:2:3:4:5:6:7:80", "[fd00:1:2:3:4:5:6:7]:80"),
        ] {
            assert_eq!(advertised(told).as_deref(), Ok(form), "{told}");
        }
        for bad in [
            // Either a port or the address's end.
            "fd00::1:1500",
            "fd00::1",
            "10.0.0.1",
            "10.0.0.1:0",
            "[::1]:0",
            "fd00::1:0",
            ":15008",
            "[host]:15008",
            "a:b:15008",
            "a b:15008",
        ] {
            assert!(advertised(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn bad_specs_name_what_is_wrong() {
        for (bad, word) in [
            ("shop/payments:80", "expected"),
            ("shop/payments=127.0.0.1:1", "service port"),
            ("shop/payments:80=127.0.0.1", "host:port"),
            ("shop/payments:80=127.0.0.1:0", "host:port"),
            ("shop/payments:80=127.0.0.1:1,weight=0", "weight"),
            ("shop/payments:80=127.0.0.1:1,protocol=spdy", "protocol"),
            (
                "shop/payments:80=127.0.0.1:1,check=ftp",
                "none, tcp or http",
            ),
            ("shop/payments:80=127.0.0.1:1,colour=red", "unknown"),
        ] {
            let e = bad.parse::<ServeSpec>().unwrap_err().to_string();
            assert!(e.contains(word), "{bad}: {e}");
        }
        assert!(
            "localhost:1=shop/payments:80"
                .parse::<ListenSpec>()
                .is_err()
        );
        assert!(
            "127.0.0.1:9090=shop/payments:80"
                .parse::<ListenSpec>()
                .is_ok()
        );
    }
}
