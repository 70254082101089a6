//! What runs where: names, regions and loopback addresses of the demo. Pure, but for the check that the ports are free.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};

use crate::exit::Failure;

/// The clusters, in the order in which they join.
pub const CLUSTERS: [Place; 3] = [
    Place {
        name: "west",
        region: "us-west",
        octet: 1,
    },
    Place {
        name: "central",
        region: "us-central",
        octet: 2,
    },
    Place {
        name: "east",
        region: "eu-west",
        octet: 3,
    },
];

/// The cluster whose callers the demo watches.
pub const WEST: Place = CLUSTERS[0];
/// The second choice of those callers.
pub const CENTRAL: Place = CLUSTERS[1];
/// The third choice.
pub const EAST: Place = CLUSTERS[2];

/// Payments workloads in each cluster.
pub const WORKLOADS: u8 = 2;

/// One cluster of the demo.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its name.
    pub name: &'static str,
    /// Its region.
    pub region: &'static str,
    octet: u8,
}

impl Place {
    fn address(self, host: u8, port: u16) -> SocketAddr {
        (Ipv4Addr::new(127, self.octet, 0, host), port).into()
    }
    /// The controller's port for the mesh.
    pub fn controller(self) -> SocketAddr {
        self.address(1, 15012)
    }
    /// The controller's admin pages.
    pub fn controller_admin(self) -> SocketAddr {
        self.address(1, 15020)
    }
    /// The gateway.
    pub fn gateway(self) -> SocketAddr {
        self.address(1, 15443)
    }
    /// The gateway's admin pages.
    pub fn gateway_admin(self) -> SocketAddr {
        self.address(2, 15020)
    }
    /// The DNS server.
    pub fn dns(self) -> SocketAddr {
        self.address(1, 15053)
    }
    /// The DNS server's admin pages.
    pub fn dns_admin(self) -> SocketAddr {
        self.address(3, 15020)
    }
    /// The application beside workload `n`, from 1.
    pub fn app(self, n: u8) -> SocketAddr {
        self.address(10 + n, 8080)
    }
    /// Workload `n`'s proxy, as other proxies and the gateway reach it.
    pub fn hbone(self, n: u8) -> SocketAddr {
        self.address(10 + n, 15008)
    }
    /// Workload `n`'s proxy's admin pages.
    pub fn hbone_admin(self, n: u8) -> SocketAddr {
        self.address(10 + n, 15020)
    }
    /// Caller `n`'s proxy, where programs call.
    pub fn caller(self, n: u8) -> SocketAddr {
        self.address(20 + n, 9090)
    }
    /// Caller `n`'s proxy, as others would reach it.
    pub fn caller_hbone(self, n: u8) -> SocketAddr {
        self.address(20 + n, 15008)
    }
    /// Caller `n`'s proxy's admin pages.
    pub fn caller_admin(self, n: u8) -> SocketAddr {
        self.address(20 + n, 15020)
    }
    /// Its place in [`CLUSTERS`].
    pub fn index(self) -> usize {
        CLUSTERS.iter().position(|c| *c == self).unwrap_or_default()
    }
}

/// The workload that offers a service exported later.
pub const LATE_WORKLOAD: u8 = 3;
/// The caller of that service.
pub const LATE_CALLER: u8 = 2;

/// Every address that something will listen on.
fn addresses(place: Place) -> Vec<(SocketAddr, &'static str)> {
    let mut all = vec![
        (place.controller(), "controller"),
        (place.controller_admin(), "controller's admin pages"),
        (place.gateway(), "gateway"),
        (place.gateway_admin(), "gateway's admin pages"),
    ];
    for n in 1..=LATE_WORKLOAD {
        all.push((place.app(n), "application"));
        all.push((place.hbone(n), "proxy"));
        all.push((place.hbone_admin(n), "proxy's admin pages"));
    }
    for n in 1..=LATE_CALLER {
        all.push((place.caller(n), "caller's proxy"));
        all.push((place.caller_hbone(n), "caller's proxy"));
        all.push((place.caller_admin(n), "caller's proxy's admin pages"));
    }
    if place == WEST {
        all.push((place.dns(), "DNS server"));
        all.push((place.dns_admin(), "DNS server's admin pages"));
    }
    all
}

/// Says which port is in use before anything is started.
pub fn check_ports() -> Result<(), Failure> {
    for place in CLUSTERS {
        for (address, what) in addresses(place) {
            let udp = address == WEST.dns();
            let bound = TcpListener::bind(address).map(drop).and_then(|()| {
                if udp {
                    UdpSocket::bind(address).map(drop)
                } else {
                    Ok(())
                }
            });
            if let Err(e) = bound {
                return Err(busy(address, place, what, &e));
            }
        }
    }
    Ok(())
}

fn busy(address: SocketAddr, place: Place, what: &str, e: &std::io::Error) -> Failure {
    let IpAddr::V4(ip) = address.ip() else {
        return Failure::problem(format!("cannot listen on {address}: {e}"));
    };
    let failure = Failure::problem(format!(
        "{address} is needed for the {what} of {} and cannot be listened on: {e}",
        place.name
    ));
    match e.kind() {
        std::io::ErrorKind::AddrInUse => failure
            .hint(format!("see who has it: ss -ltnp 'src {ip} or src 0.0.0.0' | grep {}", address.port()))
            .hint("another demo may be running; end it first"),
        std::io::ErrorKind::AddrNotAvailable => failure.hint(
            "the demo needs the whole of 127.0.0.0/8 on the loopback interface, as Linux has it by default",
        ),
        _ => failure,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_things_share_an_address() {
        let mut seen = std::collections::BTreeSet::new();
        for place in CLUSTERS {
            for (address, what) in addresses(place) {
                assert!(seen.insert(address), "{address} twice, for {what}");
            }
        }
    }
}
