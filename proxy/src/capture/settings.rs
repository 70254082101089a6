//! What a capture is told, and how its flags are written. Nothing here reads the environment.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use crate::config::InvalidSpec;

/// Where captured connections of applications arrive: Istio's number, which people recognise.
pub const OUTBOUND_PORT: u16 = 15001;
/// Where captured plaintext callers arrive: likewise.
pub const INBOUND_PORT: u16 = 15006;
/// The mark of this process's sockets: none of the bits that kube-proxy (0x4000, 0x8000), Cilium (0x0f00) and Calico or
/// Tailscale (the upper half) use.
pub const DEFAULT_MARK: u32 = 0x2077;
/// Most entries of one exclusion list: a rule set that nobody can read any more is a mistake.
pub(super) const MAX_LISTED: usize = 1024;

/// How the rules tell this process's own connections from its application's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Own {
    /// By a mark on its sockets; setting one needs `CAP_NET_ADMIN`.
    Mark(u32),
    /// By the user it runs as, which no application may then share.
    Uid(u32),
}

impl Default for Own {
    fn default() -> Self {
        Self::Mark(DEFAULT_MARK)
    }
}

impl Own {
    /// The mark that its sockets must carry.
    pub const fn mark(self) -> Option<u32> {
        match self {
            Self::Mark(mark) => Some(mark),
            Self::Uid(_) => None,
        }
    }
}

impl FromStr for Own {
    type Err = InvalidSpec;

    /// `mark`, `mark:<number>` or `uid:<number>`.
    fn from_str(s: &str) -> Result<Self, InvalidSpec> {
        let bad = || InvalidSpec::new(s, "expected mark, mark:0x2077 or uid:1337");
        let number = |text: &str| match text.strip_prefix("0x") {
            Some(hex) => u32::from_str_radix(hex, 16).map_err(|_| bad()),
            None => text.parse().map_err(|_| bad()),
        };
        match s.split_once(':') {
            None if s == "mark" => Ok(Self::default()),
            Some(("mark", text)) => match number(text)? {
                0 => Err(InvalidSpec::new(s, "0 is what every unmarked socket has")),
                mark => Ok(Self::Mark(mark)),
            },
            Some(("uid", text)) => Ok(Self::Uid(number(text)?)),
            _ => Err(bad()),
        }
    }
}

impl fmt::Display for Own {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mark(mark) => write!(f, "mark:{mark:#x}"),
            Self::Uid(uid) => write!(f, "uid:{uid}"),
        }
    }
}

/// An enum whose words are its flag's values.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $word:literal),+ $(,)? } default $default:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name {
            $($(#[$vdoc])* $variant),+
        }

        impl Default for $name {
            fn default() -> Self {
                Self::$default
            }
        }

        impl $name {
            /// As the flag says it.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word),+
                }
            }
        }

        impl FromStr for $name {
            type Err = InvalidSpec;

            fn from_str(s: &str) -> Result<Self, InvalidSpec> {
                match s {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(InvalidSpec::new(s, concat!("expected one of:", $(" ", $word),+))),
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

words! {
    /// Who sets the rules.
    Rules {
        /// The proxy, while it runs.
        Managed = "managed",
        /// Somebody else: an init step, or the host's own configuration.
        External = "external",
    } default Managed
}

words! {
    /// What sets the rules.
    Tool {
        /// `nft` where it is installed, else `iptables`.
        Auto = "auto",
        /// nftables.
        Nft = "nft",
        /// `iptables-restore` and `ip6tables-restore`.
        Iptables = "iptables",
    } default Auto
}

words! {
    /// What becomes of a captured connection whose destination is no service.
    Unknown {
        /// It goes on to where it was meant to go.
        Pass = "pass",
        /// It is reset.
        Refuse = "refuse",
    } default Pass
}

words! {
    /// What becomes of a caller that does not come through a proxy.
    Inbound {
        /// It reaches the application, and is counted.
        Permissive = "permissive",
        /// It is reset, and counted.
        Strict = "strict",
    } default Permissive
}

/// Which ports of this host are guarded against plaintext callers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum InboundPorts {
    /// Those of the applications that the proxy serves.
    #[default]
    Served,
    /// All but the mesh's own, SSH's and those excluded.
    All,
    /// These.
    Only(Vec<u16>),
}

impl FromStr for InboundPorts {
    type Err = InvalidSpec;

    /// `served`, `all`, `none`, or ports separated by commas.
    fn from_str(s: &str) -> Result<Self, InvalidSpec> {
        match s {
            "served" => Ok(Self::Served),
            "all" => Ok(Self::All),
            "none" => Ok(Self::Only(Vec::new())),
            list => list
                .split(',')
                .map(|port| port.trim().parse().ok().filter(|port| *port != 0))
                .collect::<Option<Vec<u16>>>()
                .map(Self::Only)
                .ok_or_else(|| {
                    InvalidSpec::new(s, "expected served, all, none, or ports such as 8080,8443")
                }),
        }
    }
}

impl fmt::Display for InboundPorts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Served => f.write_str("served"),
            Self::All => f.write_str("all"),
            Self::Only(ports) if ports.is_empty() => f.write_str("none"),
            Self::Only(ports) => {
                let ports: Vec<_> = ports.iter().map(u16::to_string).collect();
                f.write_str(&ports.join(","))
            }
        }
    }
}

/// A block of addresses. What lies beyond the prefix is zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cidr {
    network: IpAddr,
    prefix: u8,
}

impl Cidr {
    /// The block of `prefix` bits that `address` is in; none where the family has not so many.
    pub fn new(address: IpAddr, prefix: u8) -> Option<Self> {
        let network = match address {
            IpAddr::V4(v4) if prefix <= 32 => {
                let keep = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
                IpAddr::V4((v4.to_bits() & keep).into())
            }
            IpAddr::V6(v6) if prefix <= 128 => {
                let keep = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
                IpAddr::V6((v6.to_bits() & keep).into())
            }
            IpAddr::V4(_) | IpAddr::V6(_) => return None,
        };
        Some(Self { network, prefix })
    }

    /// Whether every address of `other` is in this one.
    pub fn contains(&self, other: &Self) -> bool {
        self.prefix <= other.prefix
            && Self::new(other.network, self.prefix).is_some_and(|at| at.network == self.network)
    }

    /// Whether it is a block of IPv4 addresses.
    pub const fn is_ipv4(&self) -> bool {
        self.network.is_ipv4()
    }
}

impl FromStr for Cidr {
    type Err = InvalidSpec;

    /// `10.0.0.0/8`, `fd00::/8`, or one address.
    fn from_str(s: &str) -> Result<Self, InvalidSpec> {
        let bad = || InvalidSpec::new(s, "expected addresses such as 10.0.0.0/8 or fd00::/8");
        let (address, prefix) = match s.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix.parse().map_err(|_| bad())?)),
            None => (s, None),
        };
        let address: IpAddr = address.parse().map_err(|_| bad())?;
        let whole = if address.is_ipv4() { 32 } else { 128 };
        Self::new(address, prefix.unwrap_or(whole)).ok_or_else(bad)
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

/// Everything a capture is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaptureConfig {
    /// Whose connections are never captured.
    pub own: Own,
    /// Who sets the rules.
    pub rules: Rules,
    /// What sets them.
    pub tool: Tool,
    /// What becomes of connections to nobody known.
    pub unknown: Unknown,
    /// What becomes of plaintext callers.
    pub inbound: Inbound,
    /// At which ports they are caught.
    pub inbound_ports: InboundPorts,
    /// Ports that are left alone, in both directions.
    pub exclude_ports: Vec<u16>,
    /// Destinations that are left alone.
    pub exclude_cidrs: Vec<Cidr>,
    /// Users whose connections are left alone.
    pub exclude_uids: Vec<u32>,
    /// Where questions to name servers go instead: at most one address a family.
    pub dns: Vec<SocketAddr>,
    /// Where captured outbound connections arrive, on loopback.
    pub outbound_port: u16,
    /// Where captured callers arrive.
    pub inbound_port: u16,
}

impl Default for CaptureConfig {
    fn default() -> Self {
        Self {
            own: Own::default(),
            rules: Rules::default(),
            tool: Tool::default(),
            unknown: Unknown::default(),
            inbound: Inbound::default(),
            inbound_ports: InboundPorts::default(),
            exclude_ports: Vec::new(),
            exclude_cidrs: Vec::new(),
            exclude_uids: Vec::new(),
            dns: Vec::new(),
            outbound_port: OUTBOUND_PORT,
            inbound_port: INBOUND_PORT,
        }
    }
}

impl CaptureConfig {
    /// What makes these settings unusable together, with the flag's name.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        let lists = [
            ("capture-exclude-ports", self.exclude_ports.len()),
            ("capture-exclude-cidrs", self.exclude_cidrs.len()),
            ("capture-exclude-uids", self.exclude_uids.len()),
        ];
        if let Some((flag, count)) = lists.iter().find(|(_, count)| *count > MAX_LISTED) {
            return Err((
                flag,
                format!("{count} entries, at most {MAX_LISTED} are taken"),
            ));
        }
        let of = |v4: bool| self.dns.iter().filter(|a| a.is_ipv4() == v4).count();
        if of(true) > 1 || of(false) > 1 {
            let why = "at most one IPv4 and one IPv6 address can answer".to_owned();
            return Err(("capture-dns", why));
        }
        if let Some(wild) = self
            .dns
            .iter()
            .find(|a| a.ip().is_unspecified() || a.port() == 0)
        {
            let why = format!("{wild} is no address that questions can be sent to");
            return Err(("capture-dns", why));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_parse_and_print() {
        for text in ["mark:0x2077", "mark:0x1", "uid:1337"] {
            assert_eq!(text.parse::<Own>().unwrap().to_string(), text);
        }
        assert_eq!("mark".parse::<Own>().unwrap(), Own::Mark(DEFAULT_MARK));
        assert_eq!("mark:16".parse::<Own>().unwrap(), Own::Mark(16));
        for text in ["served", "all", "none", "80,8080"] {
            assert_eq!(text.parse::<InboundPorts>().unwrap().to_string(), text);
        }
        assert_eq!("refuse".parse::<Unknown>().unwrap(), Unknown::Refuse);
        assert_eq!("strict".parse::<Inbound>().unwrap(), Inbound::Strict);
        assert_eq!("iptables".parse::<Tool>().unwrap(), Tool::Iptables);
        assert_eq!("external".parse::<Rules>().unwrap(), Rules::External);
    }

    #[test]
    fn bad_flags_say_what_was_expected() {
        for bad in [
            "",
            "uid",
            "uid:x",
            "mark:",
            "mark:0",
            "mark:0xfffffffff",
            "gid:1",
        ] {
            assert!(bad.parse::<Own>().is_err(), "{bad}");
        }
        for bad in ["", "0", "80,", "80,x", "70000"] {
            assert!(bad.parse::<InboundPorts>().is_err(), "{bad}");
        }
        let said = "loose".parse::<Inbound>().unwrap_err().to_string();
        assert!(said.contains("permissive strict"), "{said}");
    }

    #[test]
    fn blocks_of_addresses() {
        let cidr = |s: &str| s.parse::<Cidr>().unwrap();
        assert_eq!(cidr("10.1.2.3/8").to_string(), "10.0.0.0/8");
        assert_eq!(cidr("10.1.2.3").to_string(), "10.1.2.3/32");
        assert_eq!(cidr("fd00::1/8").to_string(), "fd00::/8");
        assert_eq!(cidr("0.0.0.0/0").to_string(), "0.0.0.0/0");
        assert_eq!(cidr("::/0").to_string(), "::/0");
        assert!(cidr("10.0.0.0/8").contains(&cidr("10.200.0.0/16")));
        assert!(cidr("10.0.0.0/8").contains(&cidr("10.0.0.0/8")));
        assert!(!cidr("10.200.0.0/16").contains(&cidr("10.0.0.0/8")));
        assert!(!cidr("0.0.0.0/0").contains(&cidr("::/0")));
        for bad in [
            "",
            "10.0.0.0/33",
            "fd00::/129",
            "10.0.0/8",
            "x/8",
            "10.0.0.0/-1",
        ] {
            assert!(bad.parse::<Cidr>().is_err(), "{bad}");
        }
    }

    #[test]
    fn what_cannot_work_together_is_named() {
        let check = |change: &dyn Fn(&mut CaptureConfig)| {
            let mut config = CaptureConfig::default();
            change(&mut config);
            config.check().map_err(|(flag, _)| flag)
        };
        assert_eq!(check(&|_| {}), Ok(()));
        let two = ["127.0.0.1:53".parse().unwrap(), "[::1]:53".parse().unwrap()];
        assert_eq!(check(&|c| c.dns = two.to_vec()), Ok(()));
        let twice = vec![two[0]; 2];
        assert_eq!(check(&|c| c.dns = twice.clone()), Err("capture-dns"));
        let wild = vec!["0.0.0.0:53".parse().unwrap()];
        assert_eq!(check(&|c| c.dns = wild.clone()), Err("capture-dns"));
        let many = vec![1; MAX_LISTED + 1];
        assert_eq!(
            check(&|c| c.exclude_uids = many.clone()),
            Err("capture-exclude-uids")
        );
    }
}
