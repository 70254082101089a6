//! The list of all fields of all kinds, as the documentation has it.

use crate::{
    fields::{Standing, paths},
    finding::Code,
    kinds::Known,
};

const HEAD: &str = "# Traffic policy: kinds and their fields

A controller reads these objects from its `--manifests` directory and gives its cluster's proxies the rules for calls to each service; what is wrong or without effect stands in `tradewind status`.
`tradewind analyze` says the same of files before anybody acts on them, `tradewind analyze --live` of what a running cluster has, and both together what the files would change. `tradewind routes` shows what holds. Rules hold for HTTP/1, HTTP/2, gRPC and WebSocket calls of callers with a proxy in this cluster, wherever the backends are,
and those of TCPRoute, TLSRoute and VirtualService's `tcp` and `tls` for their connections whose bytes are no HTTP. A proxy keeps its rules while no controller answers.

DestinationRules say how a service's endpoints are called: how one is picked, how much is asked at once, when one is left alone, which are near, and which of them are a subset that a
VirtualService may name. A request for a subset that no rule for its caller defines, or that no endpoint is in, is answered with 503.

What a rule answers itself carries `tradewind-error`: `no-rule` (404: there are rules, and none for this request), `no-backend` (500), `fault`, `timeout` (504), `unknown-subset` and `no-endpoint` (503: a subset that nobody defines, or that nobody is in), `overflow` (503: a traffic policy allows no more at once).
gRPC callers get the status that stands for it: UNIMPLEMENTED for `no-rule`, DEADLINE_EXCEEDED for `timeout`, else UNAVAILABLE. A connection whose bytes are no HTTP is closed instead.

What objects of a service's own namespace say for everybody is published with the service's export, and holds for callers in every cluster (its producer's rules; of several exporters the oldest export's). Another cluster's own rules go before it, but allow
no more than it does, where all of the producer's rules state a bound: time, time of a try, tries; and of its traffic policy connections, pending and active requests, retries, time to connect and ejection for answers. `tradewind routes` shows whose rules hold.

Rules for streams say to whom a connection goes, once, before anything of it was sent; connections that are open keep what they have. Whether a connection is HTTP is found in its first bytes, unless its
service's port says what it is, so a request is never subject to a rule for streams. A TLSRoute's `hostnames` and a VirtualService's `sniHosts` are the server name that the client's TLS asks for: `*.` stands for one
or more labels, and a client that asks for none, or speaks no TLS, meets none of them. A caller's proxy waits for the client's first bytes only where rules for the port that was called ask for a name, and then for 200 ms; whoever has said
nothing by then may be waiting for the server, and meets what asks for no name; where that leads nowhere it is reset after ten seconds more of silence. GEP-1294 advises meshes
to read nothing into a route's `hostnames` until that is specified; a TLSRoute has nothing else to match by, so here its names are what they are at a gateway.

A stream that meets no rule goes on to the service that was called, but for the Gateway API: once a TCPRoute or TLSRoute is for a port, or for all, a connection to it that none of them takes is closed. A connection
to a backend that is none, or of a rule whose weights sum to nothing, is closed too. The client sees a reset, and the proxy counts it among the tunnels that failed and writes down `no-rule` or `no-backend`.

A rule with `sessionPersistence` (GEP-1619) keeps a client with the endpoint that answered it first, in whichever cluster, before weights (also where its backend's is 0 by now), tiers and a DestinationRule's `consistentHash`, which finds the first endpoint alone. The session ends when that endpoint is gone, fails,
is ejected, or is of none of the rule's backends any more, and after `absoluteTimeout` and `idleTimeout`; the call that finds this out goes where one without a session does, and its answer begins another one. An endpoint that drains keeps its sessions. Where a retry, or a try that took too long, has another endpoint
answer, the session stays. It is a token in a cookie or a header, which any proxy of any cluster can read; it holds no address, leads to the rule's own backends alone, and is not signed: a client can make it last, and gains nothing else by changing it. Rules do not share sessions, so each needs a name of its own (TW0232); where it
says none it is made of the route's name and the rule's, or the rule's place, and is another one when that changes. Cookies are `HttpOnly` and `SameSite=Strict`, for the path `/` unless `cookie.path` says another, and not `Secure`: applications call their own proxy by http. Both ways of writing it are read, that of
releases up to 1.6 and the newer `cookie` and `header`. Rules are published with their sessions; `tradewind explain --header 'cookie: …'` says where a token leads, or why it does not hold.

Retries that a rule asks for come out of the same budget as all others: a fifth of the calls to a service, or what a DestinationRule's `retryBudget` says.

Every field of every kind that is read is either acted on or reported, by its path. `[]` stands for a list's items, `{}` for a map's.

Rules hold for a service and its callers. Where several objects have rules for the same ones, Gateway API's go before Istio's and those before SMI's. Gateway API's
routes are one list, by the precedence that it states; of the others one object holds: one that names the service before one that means it by a `*`, then the oldest, then by
namespace and name. Rules for callers of one namespace (a Gateway API route in another namespace than its parent's, a VirtualService with `exportTo`) go before those for
everybody. What does not hold is reported. Rules for streams are a list of their own, by the same order: of Gateway API's routes a whole server name goes before one with a star, of those the longer goes first, and
routes without names, every TCPRoute among them, come last; in a VirtualService all of `tls` goes before `tcp`. A service may have its rules for requests from one API and those for streams from another.

A VirtualService's rule may be made of those of another one, its `delegate`, which has no hosts, no gateways and rules of `http` alone, and is exported to the namespace of the one that names it (the root). A request must meet both: each match of the delegate's
rule is put together with each of the root's that it does not contradict (one that asks for less, such as a shorter prefix, contradicts it, and so does every expression beside another text), and a rule with a match that contradicts all of them is left out. What becomes of a request is what the
delegate's rule says, and where that is silent what the root's does; short names of services mean those of the namespace of whoever wrote them. A rule whose delegate is missing is left out, and its requests meet the next one. A delegate does not delegate.

Gateway API's routes have a `status` of each parent that is a Service or a ServiceImport (`tradewind analyze -o json` shows it), by the API's conditions: `Accepted`, `ResolvedRefs`, `PartiallyInvalid`. A rule with a value that is none is left out whole, and its requests meet the next
rule; one with a filter that is not served, or with URLRewrite beside RequestRedirect, answers 500, so that nothing passes by what it guards. A route whose rules are all left out is not accepted, and it is as if there were none. A backend that cannot be called keeps its share, and the route
is accepted. `Pending` is never said, since what is told was read; `UnsupportedProtocol` neither, since every protocol is carried.

Of DestinationRules one holds for a service and a caller, as a whole. One in the service's namespace is for the callers of the namespaces in `exportTo`, or for everybody; one in another namespace is for
callers of its own namespace alone, and goes before it. Of those in one namespace, one that names the service goes before one that means it by a `*` (and a longer pattern before a shorter), then
one with a `workloadSelector`, which is for callers of its own namespace with these labels, before one for all, then one for callers of one namespace before one for everybody, then the oldest.
Several of one namespace for the same host and the same callers are one: the `trafficPolicy` of the oldest that has one, and the subsets of all, where of two with one name the older's holds. Settings of a port in
`portLevelSettings` take the place of all others of that port; a subset's sections each take the place of the rule's, and its settings of a port that of everything.

A Service and a ServiceImport of one name are the same service: it is the same in every cluster, and calls prefer what is near.

Of EnvoyFilters those patches are acted on that limit how many requests a workload takes, as Istio documents local rate limits: `envoy.filters.http.local_ratelimit` before the application (`HTTP_FILTER`, `INSERT_BEFORE`), and what it does for a
route (`HTTP_ROUTE`, `MERGE`; the name `inbound|http|80` is the service's port 80, and without a name it is for all ports). `portNumber` is the service's port, or the one where the application listens. Every other patch is reported as a whole, and so is one with a condition
that is not understood. Objects are for workloads of their namespace with these labels, and those in `istio-system` for workloads of every namespace; they are read by the workloads' own cluster, and hold for callers of all clusters.
`tradewind explain` and `tradewind routes` of that cluster show which hold at a service's endpoints.

The callee's proxy holds the limit, behind the caller's mutual TLS and authorisation and before the application: a bucket for each port where the application listens, shared by all of the proxy's threads. It is full at first and is filled at whole intervals
from then on. A request without a token is answered with 429 (or `status`), `local_rate_limited` and `x-envoy-ratelimited: true`; a gRPC call with UNAVAILABLE or, where `rate_limited_as_resource_exhausted` says so, RESOURCE_EXHAUSTED. The caller's proxy passes that on: it is
no failure of the endpoint and is not tried elsewhere, unless a rule says so of its status. All limits that are for a workload hold; one for a route takes the place of them all there, and of several the last by namespace and name holds. What stays the same when something else changes
keeps what is in its bucket. Only HTTP requests are counted: neither streams, nor upgraded connections such as WebSockets, nor calls that come without the mesh.

";

/// All of it, as `docs/policy-fields.md` is.
pub fn fields_as_markdown() -> String {
    let mut out = HEAD.to_owned();
    for kind in Known::ALL {
        let versions = kind.versions().join(", ");
        out.push_str(&format!(
            "## {}\n\n`{}`: {versions}\n\n| field of `spec` | |\n|---|---|\n",
            kind.kind(),
            kind.group()
        ));
        for (path, standing) in paths(kind.fields()) {
            let is = match standing {
                Standing::Honoured => "honoured",
                Standing::Reported(instead) => &format!("reported: {instead}"),
                Standing::Inert => "changes nothing, and is not meant to",
            };
            out.push_str(&format!("| `{path}` | {is} |\n"));
        }
        out.push('\n');
    }
    out.push_str("## Findings\n\n| code | severity | what to do |\n|---|---|---|\n");
    for code in Code::ALL {
        let (word, severity) = (code.as_str(), code.severity().as_str());
        out.push_str(&format!("| {word} | {severity} | {} |\n", code.hint()));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documentation_lists_every_field() {
        let written = include_str!("../../docs/policy-fields.md");
        let now = fields_as_markdown();
        if written != now {
            let at = std::env::temp_dir().join("policy-fields.md");
            std::fs::write(&at, &now).unwrap();
            panic!(
                "docs/policy-fields.md is not what the code says; copy {} there",
                at.display()
            );
        }
    }
}
