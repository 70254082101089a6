//! From settings to rules, as text that `nft -f` and `iptables-restore` read. Pure.
//!
//! Everything is in one table (nftables) or in two chains of the table `nat` (iptables), replaced as a whole: whoever sets the
//! same rules twice has them once, and no packet meets half of them.

use std::{
    fmt::{self, Display, Write as _},
    net::SocketAddr,
};

use super::settings::{CaptureConfig, Cidr, InboundPorts, Own};

/// The table of nftables. It is ours alone: what else is in it goes with it.
pub const TABLE: &str = "tradewind";
/// The chains of iptables.
pub const CHAINS: [Chain; 2] = [
    Chain {
        name: "TRADEWIND_OUTPUT",
        hook: "OUTPUT",
    },
    Chain {
        name: "TRADEWIND_INBOUND",
        hook: "PREROUTING",
    },
];
/// Ports that one `multiport` match of iptables takes.
const MULTIPORT: usize = 15;
/// Never caught where all inbound ports are: whoever cannot reach a machine cannot mend it.
const SSH: u16 = 22;
/// What questions to name servers are sent to.
const DOMAIN: u16 = 53;

/// A chain of iptables, and the built-in one that leads to it.
#[derive(Clone, Copy, Debug)]
pub struct Chain {
    /// Its name.
    pub name: &'static str,
    /// Where it is hooked in.
    pub hook: &'static str,
}

/// How much of the rules there is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// All of them.
    Capture,
    /// None that catches a new connection outbound, nor inbound unless `guard`. What is left keeps the kernel's connection tracking
    /// at work: with the last rule that needs it the open connections would be translated no more, and break.
    Release {
        /// Plaintext callers are still caught: they would reach what was closed to them.
        guard: bool,
    },
    /// Nothing at all.
    Gone,
}

/// A family of addresses, for iptables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// `iptables`.
    V4,
    /// `ip6tables`.
    V6,
}

impl Family {
    const fn is_ipv4(self) -> bool {
        matches!(self, Self::V4)
    }
}

/// What the rules are made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    own: Own,
    ipv6: bool,
    outbound_port: u16,
    inbound_port: u16,
    inbound: Caught,
    exclude_ports: Vec<u16>,
    exclude_cidrs: Vec<Cidr>,
    exclude_uids: Vec<u32>,
    dns: Vec<SocketAddr>,
}

/// At which ports callers are caught.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Caught {
    At(Vec<u16>),
    AllBut(Vec<u16>),
}

impl Plan {
    /// For these settings: `served` are the applications' ports, `mesh` those that this host's own processes listen at. Without
    /// `ipv6` connections of that family are left alone.
    pub fn new(config: &CaptureConfig, served: &[u16], mesh: &[u16], ipv6: bool) -> Self {
        let sorted = |mut ports: Vec<u16>| {
            ports.sort_unstable();
            ports.dedup();
            ports
        };
        let exclude_ports = sorted(config.exclude_ports.clone());
        let own = [config.outbound_port, config.inbound_port];
        let at = |ports: &[u16]| {
            let kept = |port: &u16| !exclude_ports.contains(port) && !own.contains(port);
            Caught::At(sorted(ports.iter().copied().filter(kept).collect()))
        };
        let inbound = match &config.inbound_ports {
            InboundPorts::Served => at(served),
            InboundPorts::Only(ports) => at(ports),
            InboundPorts::All => {
                let mesh = mesh.iter().chain(&own).chain(&exclude_ports);
                Caught::AllBut(sorted(mesh.copied().chain([SSH]).collect()))
            }
        };
        let mut exclude_uids = config.exclude_uids.clone();
        exclude_uids.sort_unstable();
        exclude_uids.dedup();
        Self {
            own: config.own,
            ipv6,
            outbound_port: config.outbound_port,
            inbound_port: config.inbound_port,
            inbound,
            exclude_ports,
            exclude_cidrs: outermost(&config.exclude_cidrs),
            exclude_uids,
            dns: config.dns.clone(),
        }
    }

    /// Whether connections by IPv6 are captured, too.
    pub const fn ipv6(&self) -> bool {
        self.ipv6
    }

    /// Whether any caller can be caught.
    pub fn guards(&self) -> bool {
        self.inbound != Caught::At(Vec::new())
    }

    fn dns(&self, v4: bool) -> Option<SocketAddr> {
        self.dns.iter().copied().find(|a| a.is_ipv4() == v4)
    }

    fn cidrs(&self, v4: bool) -> Vec<Cidr> {
        let all = self.exclude_cidrs.iter().copied();
        all.filter(|c| c.is_ipv4() == v4).collect()
    }

    /// The input of `nft -f -`: one transaction.
    pub fn nft(&self, stage: Stage) -> String {
        let mut s = String::new();
        // Made first, so that there is one to delete.
        say(&mut s, 0, format_args!("table inet {TABLE}"));
        say(&mut s, 0, format_args!("delete table inet {TABLE}"));
        if stage == Stage::Gone {
            return s;
        }
        say(&mut s, 0, format_args!("table inet {TABLE} {{"));
        say(&mut s, 1, "chain outbound {");
        say(
            &mut s,
            2,
            "type nat hook output priority -100; policy accept;",
        );
        if stage == Stage::Capture {
            self.nft_outbound(&mut s);
        } else {
            say(&mut s, 2, "ct state established accept");
        }
        say(&mut s, 1, "}");
        say(&mut s, 1, "chain inbound {");
        say(
            &mut s,
            2,
            "type nat hook prerouting priority -100; policy accept;",
        );
        if stage != (Stage::Release { guard: false }) {
            self.nft_inbound(&mut s);
        }
        say(&mut s, 1, "}");
        say(&mut s, 0, "}");
        s
    }

    fn nft_outbound(&self, s: &mut String) {
        if !self.ipv6 {
            say(s, 2, "meta nfproto ipv6 return");
        }
        match self.own {
            Own::Mark(mark) => say(s, 2, format_args!("meta mark {mark:#x} return")),
            Own::Uid(uid) => say(s, 2, format_args!("meta skuid {uid} return")),
        }
        if !self.exclude_uids.is_empty() {
            let uids = list(&self.exclude_uids);
            say(s, 2, format_args!("meta skuid {{ {uids} }} return"));
        }
        if !self.exclude_ports.is_empty() {
            let ports = list(&self.exclude_ports);
            say(
                s,
                2,
                format_args!("meta l4proto {{ tcp, udp }} th dport {{ {ports} }} return"),
            );
        }
        for (family, v4) in [("ip", true), ("ip6", false)] {
            let cidrs = self.cidrs(v4);
            if !cidrs.is_empty() {
                let cidrs = list(&cidrs);
                say(s, 2, format_args!("{family} daddr {{ {cidrs} }} return"));
            }
        }
        for (family, number, v4) in [("ip", "ipv4", true), ("ip6", "ipv6", false)] {
            let Some(dns) = self.dns(v4) else { continue };
            for protocol in ["udp", "tcp"] {
                say(
                    s,
                    2,
                    format_args!(
                        "meta nfproto {number} {protocol} dport {DOMAIN} dnat {family} to {dns}"
                    ),
                );
            }
        }
        say(s, 2, "oifname \"lo\" return");
        say(
            s,
            2,
            format_args!("meta l4proto tcp redirect to :{}", self.outbound_port),
        );
    }

    fn nft_inbound(&self, s: &mut String) {
        let (but, ports) = match &self.inbound {
            Caught::At(ports) => ("", ports),
            Caught::AllBut(ports) => ("!= ", ports),
        };
        if ports.is_empty() {
            return;
        }
        if !self.ipv6 {
            say(s, 2, "meta nfproto ipv6 return");
        }
        say(s, 2, "iifname \"lo\" return");
        let (ports, to) = (list(ports), self.inbound_port);
        // What is only routed through this host is none of its callers.
        say(
            s,
            2,
            format_args!("fib daddr type local tcp dport {but}{{ {ports} }} redirect to :{to}"),
        );
    }

    /// The input of `iptables-restore --noflush` or `ip6tables-restore --noflush`: one transaction. `hooked` says for each of
    /// [`CHAINS`] whether its hook is there already.
    pub fn iptables(&self, family: Family, stage: Stage, hooked: [bool; 2]) -> String {
        let v4 = family.is_ipv4();
        // The line that names a chain empties it, too.
        let mut s = String::from("*nat\n");
        for chain in CHAINS {
            say(&mut s, 0, format_args!(":{} - [0:0]", chain.name));
        }
        if stage == Stage::Capture {
            self.iptables_outbound(&mut s, v4);
        } else if stage != Stage::Gone {
            let [Chain { name, .. }, _] = CHAINS;
            let tracked = "-m conntrack --ctstate ESTABLISHED";
            say(&mut s, 0, format_args!("-A {name} {tracked} -j RETURN"));
        }
        if stage != Stage::Gone && stage != (Stage::Release { guard: false }) {
            self.iptables_inbound(&mut s);
        }
        for (Chain { name, hook }, hooked) in CHAINS.into_iter().zip(hooked) {
            match (stage == Stage::Gone, hooked) {
                (true, true) => say(&mut s, 0, format_args!("-D {hook} -j {name}")),
                (false, false) => say(&mut s, 0, format_args!("-I {hook} -j {name}")),
                (true, false) | (false, true) => {}
            }
        }
        if stage == Stage::Gone {
            for chain in CHAINS {
                say(&mut s, 0, format_args!("-X {}", chain.name));
            }
        }
        say(&mut s, 0, "COMMIT");
        s
    }

    fn iptables_outbound(&self, s: &mut String, v4: bool) {
        let [Chain { name, .. }, _] = CHAINS;
        match self.own {
            Own::Mark(mark) => {
                say(
                    s,
                    0,
                    format_args!("-A {name} -m mark --mark {mark:#x} -j RETURN"),
                );
            }
            Own::Uid(uid) => {
                say(
                    s,
                    0,
                    format_args!("-A {name} -m owner --uid-owner {uid} -j RETURN"),
                );
            }
        }
        for uid in &self.exclude_uids {
            say(
                s,
                0,
                format_args!("-A {name} -m owner --uid-owner {uid} -j RETURN"),
            );
        }
        for ports in self.exclude_ports.chunks(MULTIPORT) {
            let ports = comma(ports);
            for protocol in ["tcp", "udp"] {
                say(
                    s,
                    0,
                    format_args!("-A {name} -p {protocol} -m multiport --dports {ports} -j RETURN"),
                );
            }
        }
        for cidr in self.cidrs(v4) {
            say(s, 0, format_args!("-A {name} -d {cidr} -j RETURN"));
        }
        if let Some(dns) = self.dns(v4) {
            for protocol in ["udp", "tcp"] {
                say(
                    s,
                    0,
                    format_args!(
                        "-A {name} -p {protocol} --dport {DOMAIN} -j DNAT --to-destination {dns}"
                    ),
                );
            }
        }
        say(s, 0, format_args!("-A {name} -o lo -j RETURN"));
        let to = self.outbound_port;
        say(
            s,
            0,
            format_args!("-A {name} -p tcp -j REDIRECT --to-ports {to}"),
        );
    }

    fn iptables_inbound(&self, s: &mut String) {
        if !self.guards() {
            return;
        }
        let [_, Chain { name, .. }] = CHAINS;
        let local = "-m addrtype --dst-type LOCAL";
        let to = self.inbound_port;
        say(s, 0, format_args!("-A {name} -i lo -j RETURN"));
        match &self.inbound {
            Caught::At(ports) => {
                for ports in ports.chunks(MULTIPORT) {
                    let ports = comma(ports);
                    say(
                        s,
                        0,
                        format_args!(
                            "-A {name} -p tcp {local} -m multiport --dports {ports} -j REDIRECT --to-ports {to}"
                        ),
                    );
                }
            }
            Caught::AllBut(ports) => {
                for ports in ports.chunks(MULTIPORT) {
                    let ports = comma(ports);
                    say(
                        s,
                        0,
                        format_args!("-A {name} -p tcp -m multiport --dports {ports} -j RETURN"),
                    );
                }
                say(
                    s,
                    0,
                    format_args!("-A {name} -p tcp {local} -j REDIRECT --to-ports {to}"),
                );
            }
        }
    }
}

/// Without those that lie in another: nftables takes no overlaps in one set.
fn outermost(cidrs: &[Cidr]) -> Vec<Cidr> {
    let mut kept: Vec<Cidr> = Vec::new();
    let mut sorted = cidrs.to_vec();
    // Wider ones come first where they begin together.
    sorted.sort_unstable();
    sorted.dedup();
    for cidr in sorted {
        if !kept.iter().any(|k| k.contains(&cidr)) {
            kept.push(cidr);
        }
    }
    kept
}

fn say(s: &mut String, depth: usize, line: impl Display) {
    let _: fmt::Result = writeln!(s, "{:depth$}{line}", "", depth = depth * 2);
}

fn list(items: &[impl ToString]) -> String {
    let items: Vec<_> = items.iter().map(ToString::to_string).collect();
    items.join(", ")
}

fn comma(ports: &[u16]) -> String {
    let ports: Vec<_> = ports.iter().map(u16::to_string).collect();
    ports.join(",")
}

#[cfg(test)]
mod tests;
