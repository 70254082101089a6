//! The catalog's bounds and the checks of what a proposer wrote. Pure; changes nothing.

use tradewind_api::{
    store::{ClusterRecord, ControllerRecord, EndpointSummary, Export, Refusal, TokenRecord},
    traffic::are_labels,
};

/// Members at a time. The design's arithmetic ends at a thousand clusters.
pub const MAX_CLUSTERS: usize = 1_000;
/// Records of clusters that left, kept so that listings can say so; the oldest goes first.
pub const MAX_LEFT_CLUSTERS: usize = 1_000;
/// Services one cluster may export: a runaway publisher must not fill every member's memory.
pub const MAX_EXPORTS_PER_CLUSTER: usize = 10_000;
/// Endpoints of one export: what still fits one log entry.
pub const MAX_ENDPOINTS_PER_EXPORT: usize = 5_000;
/// Bytes of the rules of one export: a few hundred of them. Every member keeps them.
pub const MAX_RULES_BYTES: usize = 64 << 10;
/// Bytes of the rules of all exports of one cluster.
pub const MAX_RULES_BYTES_PER_CLUSTER: usize = 16 << 20;
/// Bytes of what one export passes on for imports, labels and annotations included: far above what people write, and every member keeps it.
pub const MAX_SPEC_BYTES: usize = 16 << 10;
/// Ports of one export; Kubernetes services rarely pass a dozen.
pub const MAX_PORTS_PER_EXPORT: usize = 256;
/// Exported services in the whole federation: below the 65,534 addresses of the clusterset's /16.
pub const MAX_SERVICES: usize = 50_000;
/// Addresses kept for services that nobody exports now; together with `MAX_SERVICES` below the /16's size.
pub const MAX_SPARE_ADDRESSES: usize = 10_000;
/// Controllers of one cluster, with one that is being replaced.
pub const MAX_NODES_PER_CLUSTER: usize = 4;
/// Join tokens that stand at a time, spent and unspent.
pub const MAX_TOKENS: usize = 1_000;
/// Gateways one cluster may announce.
pub const MAX_GATEWAYS_PER_CLUSTER: usize = 64;
/// Authorities of one cluster: current, next, and one being retired, with room.
pub const MAX_AUTHORITIES_PER_CLUSTER: usize = 8;
/// One certificate, bytes.
pub const MAX_CERTIFICATE: usize = 16 * 1024;
/// An X25519 key, bytes.
pub(super) const KEY_BYTES: usize = 32;
/// A private key in a box: a public key, the key, a tag.
pub(super) const BOX_BYTES: usize = 80;
/// Any free text in a command, bytes: longer than a host name with a port, or a SPIFFE path.
pub const MAX_TEXT: usize = 300;

const _: () = assert!(MAX_SERVICES + MAX_SPARE_ADDRESSES < 65_534);

pub(super) fn at_most(what: &str, got: usize, limit: usize) -> Result<(), Refusal> {
    if got <= limit {
        return Ok(());
    }
    Err(Refusal::TooMuch {
        what: what.to_owned(),
        limit: limit as u64,
    })
}

pub(super) fn invalid(what: &str, expected: &str) -> Refusal {
    Refusal::Invalid {
        what: what.to_owned(),
        expected: expected.to_owned(),
    }
}

fn text(what: &str, value: &str) -> Result<(), Refusal> {
    at_most(what, value.len(), MAX_TEXT)?;
    if value.chars().any(char::is_control) {
        return Err(invalid(what, "text without control characters"));
    }
    Ok(())
}

pub(super) fn check_facts(gateways: &[String], version: &str) -> Result<(), Refusal> {
    at_most(
        "gateways of one cluster",
        gateways.len(),
        MAX_GATEWAYS_PER_CLUSTER,
    )?;
    for g in gateways {
        text("a gateway's address", g)?;
    }
    text("a version", version)
}

pub(super) fn check_cluster(c: &ClusterRecord) -> Result<(), Refusal> {
    check_facts(&c.gateways, &c.version)?;
    at_most(
        "authorities of one cluster",
        c.authorities.len(),
        MAX_AUTHORITIES_PER_CLUSTER,
    )?;
    for a in &c.authorities {
        at_most("an authority's certificate", a.0.len(), MAX_CERTIFICATE)?;
    }
    Ok(())
}

pub(super) fn check_controller(c: &ControllerRecord) -> Result<(), Refusal> {
    text("a controller's address", &c.address)?;
    if c.address.is_empty() {
        return Err(invalid("a controller's address", "host:port"));
    }
    let authority = c.authority.as_ref().map_or(0, |a| a.0.len());
    at_most("an authority's certificate", authority, MAX_CERTIFICATE)
}

pub(super) fn check_endpoint(e: &EndpointSummary) -> Result<(), Refusal> {
    if e.weight > 65_535 {
        return Err(invalid("an endpoint's weight", "0 to 65535"));
    }
    at_most("ports of an endpoint", e.ports.len(), MAX_PORTS_PER_EXPORT)?;
    if !e.ports.is_sorted_by(|a, b| a < b) {
        return Err(invalid(
            "an endpoint's ports",
            "sorted by number, each once",
        ));
    }
    text("an endpoint's account", &e.account)?;
    for (what, value) in [
        ("an endpoint's hostname", &e.hostname),
        ("an endpoint's address", &e.address),
    ] {
        if let Some(value) = value {
            text(what, value)?;
        }
    }
    if !are_labels(&e.labels) {
        return Err(invalid(
            "an endpoint's labels",
            "at most 64, as Kubernetes has them",
        ));
    }
    Ok(())
}

pub(super) fn check_export(e: &Export) -> Result<(), Refusal> {
    at_most("ports of one export", e.ports.len(), MAX_PORTS_PER_EXPORT)?;
    at_most(
        "endpoints of one export",
        e.endpoints.len(),
        MAX_ENDPOINTS_PER_EXPORT,
    )?;
    if !e.ports.is_sorted_by(|a, b| a.port < b.port) {
        return Err(invalid("an export's ports", "sorted by number, each once"));
    }
    for p in &e.ports {
        text("a port's name", &p.name)?;
        if p.port == 0 {
            return Err(invalid("a port's number", "1 to 65535"));
        }
    }
    if let Some(rules) = &e.rules {
        at_most("rules of one export", rules.json.len(), MAX_RULES_BYTES)?;
    }
    if let Some(spec) = &e.spec {
        at_most(
            "ports of one export",
            spec.ports.len(),
            MAX_PORTS_PER_EXPORT,
        )?;
        at_most(
            "what one export passes on",
            spec.text_bytes(),
            MAX_SPEC_BYTES,
        )?;
        // A dual-stack Service has both.
        at_most("address families of one export", spec.ip_families.len(), 2)?;
    }
    e.endpoints.values().try_for_each(check_endpoint)
}

pub(super) fn check_actor(actor: Option<&String>) -> Result<(), Refusal> {
    actor.map_or(Ok(()), |actor| text("who asked", actor))
}

pub(super) fn check_token(t: &TokenRecord) -> Result<(), Refusal> {
    text("a token's id", &t.id)?;
    if t.secret_sha256.0.len() != 32 {
        return Err(invalid("a token's hash", "32 bytes of SHA-256"));
    }
    if t.used.is_some() {
        return Err(invalid("a new token", "one that was not used yet"));
    }
    Ok(())
}
