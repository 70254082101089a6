//! Envoy as a peer that speaks standard HBONE and knows nothing of ours: as the client beside a caller, and as the server
//! beside an application. Owns nothing but text.

use std::net::SocketAddr;

use serde_json::{Value, json};

use super::{Identity, envoy_address, envoy_cluster, envoy_tls, server_tls};

/// Whatever connects to `listen` is carried by a `CONNECT` to `authority` at `peer`, who must be `serves`.
pub fn client_config(
    listen: SocketAddr,
    peer: SocketAddr,
    authority: &str,
    files: &Identity,
    serves: &str,
) -> String {
    let filter = json!({
        "name": "envoy.filters.network.tcp_proxy",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
            "stat_prefix": "t", "cluster": "peer",
            "tunneling_config": {"hostname": authority},
        },
    });
    let listener =
        json!({"address": envoy_address(listen), "filter_chains": [{"filters": [filter]}]});
    let tls = envoy_tls(None, files, serves);
    whole(&listener, &envoy_cluster("peer", peer, Some(&tls)))
}

/// A `CONNECT` to anything at `listen`, by anybody whose certificate ends in the root, is carried to `app`.
pub fn server_config(listen: SocketAddr, app: SocketAddr, files: &Identity) -> String {
    let manager = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "t",
        "http2_protocol_options": {"allow_connect": true},
        "upgrade_configs": [{"upgrade_type": "CONNECT"}],
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [{
            "match": {"connect_matcher": {}},
            "route": {
                "cluster": "app",
                "upgrade_configs": [{"upgrade_type": "CONNECT", "connect_config": {}}],
            },
        }]}]},
        "http_filters": [{
            "name": "envoy.filters.http.router",
            "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
        }],
    });
    let listener = json!({
        "address": envoy_address(listen),
        "filter_chains": [{
            "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": server_tls(files)},
            "filters": [{
                "name": "envoy.filters.network.http_connection_manager", "typed_config": manager,
            }],
        }],
    });
    whole(&listener, &envoy_cluster("app", app, None))
}

fn whole(listener: &Value, cluster: &Value) -> String {
    json!({"static_resources": {"listeners": [listener], "clusters": [cluster]}}).to_string()
}
