//! Questions that are not ours, asked of the upstream servers, with a bounded cache in between.
//! It must never ask an upstream for a name below our zone.

use std::{net::SocketAddr, time::Duration};

use hickory_proto::{
    op::{Message, Query, ResponseCode},
    rr::Record,
};
use hickory_resolver::{
    Resolver,
    config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig},
    net::{DnsError as Negative, NetError},
};

use crate::{config::Upstreams, error::DnsError, respond::Outcome, socket::Sockets};

/// Answers kept; about 1 kB each at most, so a few MiB.
const CACHE_ENTRIES: u64 = 4096;
/// How long one upstream may take for one attempt; clients themselves give up after 5 s.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(2);
/// Attempts in all, over all upstreams.
const ATTEMPTS: usize = 2;

/// The way to the upstream servers; none when there are no upstreams.
#[derive(Clone, Debug)]
pub(crate) struct Forwarder(Option<Resolver<Sockets>>);

impl Forwarder {
    /// `ours` is where this server listens: asking itself would be a loop. Questions go out under `mark`, where there is one.
    pub(crate) fn new(
        upstreams: &Upstreams,
        ours: SocketAddr,
        mark: Option<u32>,
    ) -> Result<Self, DnsError> {
        let failed = |upstream: &str, reason: String| DnsError::Upstream {
            upstream: upstream.to_owned(),
            reason,
        };
        let config = match upstreams {
            Upstreams::System => match hickory_resolver::system_conf::read_system_conf() {
                Ok((config, _)) => config,
                Err(error) => return Err(failed("/etc/resolv.conf", error.to_string())),
            },
            Upstreams::Servers(servers) => {
                let mut config = ResolverConfig::default();
                for server in servers {
                    config.add_name_server(name_server(*server));
                }
                config
            }
        };
        let (_, _, servers) = config.into_parts();
        let servers: Vec<_> = servers.into_iter().filter(|s| !is_ours(s, ours)).collect();
        if servers.is_empty() {
            return Ok(Self(None));
        }
        // Neither domain nor search list: the client has applied its own.
        let config = ResolverConfig::from_parts(None, Vec::new(), servers);
        let mut builder = Resolver::builder_with_config(config, Sockets::new(mark));
        let options = builder.options_mut();
        options.timeout = ATTEMPT_TIMEOUT;
        options.attempts = ATTEMPTS;
        options.cache_size = CACHE_ENTRIES;
        options.use_hosts_file = ResolveHosts::Never;
        options.preserve_intermediates = true;
        options.edns0 = true;
        let resolver = builder
            .build()
            .map_err(|e| failed("the upstream servers", e.to_string()))?;
        Ok(Self(Some(resolver)))
    }

    /// True when there is anybody to ask.
    pub(crate) fn has_upstream(&self) -> bool {
        self.0.is_some()
    }

    /// Completes `response` with what an upstream says of `query`.
    pub(crate) async fn complete(&self, query: &Query, response: &mut Message) -> Outcome {
        let Some(resolver) = &self.0 else {
            response.metadata.response_code = ResponseCode::ServFail;
            return Outcome::NoUpstream;
        };
        let mut name = query.name().clone();
        name.set_fqdn(true);
        match resolver.lookup(name, query.query_type()).await {
            Ok(found) => {
                response.add_answers(found.answers().iter().cloned());
                response.add_authorities(found.authorities().iter().cloned());
                Outcome::Forwarded
            }
            Err(NetError::Dns(Negative::NoRecordsFound(none))) => {
                response.metadata.response_code = none.response_code;
                match (none.soa, none.authorities) {
                    (Some(soa), _) => {
                        response.add_authority(soa.into_record_of_rdata());
                    }
                    (None, Some(authorities)) => {
                        response.add_authorities(authorities.iter().cloned::<Record>());
                    }
                    (None, None) => {}
                }
                Outcome::Forwarded
            }
            Err(NetError::Dns(Negative::ResponseCode(code))) => {
                response.metadata.response_code = code;
                Outcome::Forwarded
            }
            Err(error) => {
                tracing::debug!(name = %query.name(), %error, "no upstream answered");
                response.metadata.response_code = ResponseCode::ServFail;
                Outcome::UpstreamFailed
            }
        }
    }
}

fn name_server(address: SocketAddr) -> NameServerConfig {
    let mut connections = vec![ConnectionConfig::udp(), ConnectionConfig::tcp()];
    for connection in &mut connections {
        connection.port = address.port();
    }
    NameServerConfig::new(address.ip(), true, connections)
}

fn is_ours(server: &NameServerConfig, ours: SocketAddr) -> bool {
    let same_ip = server.ip == ours.ip() || (ours.ip().is_unspecified() && server.ip.is_loopback());
    same_ip && server.connections.iter().any(|c| c.port == ours.port())
}
