//! Loopback addresses for a test alone: blocks of 127.x.0.0/16, handed out through lock files so that test binaries may
//! run side by side. Owns the lock for as long as the test runs.

use std::{
    fs::{self, File},
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

/// First and last block: below are the demo's and people's own, above is what other programs like.
const BLOCKS: std::ops::RangeInclusive<u8> = 60..=230;

/// One test's addresses.
#[derive(Debug)]
pub struct Block {
    first: u8,
    octet: u8,
    _lock: File,
}

impl Block {
    /// Takes a free block of loopback addresses.
    pub fn take() -> Self {
        Self::take_in(127)
    }

    /// The same of addresses that can be routed between network namespaces.
    pub fn routable() -> Self {
        Self::take_in(10)
    }

    fn take_in(first: u8) -> Self {
        let dir = std::env::temp_dir().join("tradewind-test-blocks");
        fs::create_dir_all(&dir).expect("a directory for lock files");
        for octet in BLOCKS {
            let file = File::create(dir.join(octet.to_string())).expect("a lock file");
            if file.try_lock().is_ok() {
                return Self {
                    first,
                    octet,
                    _lock: file,
                };
            }
        }
        panic!(
            "all {} address blocks are in use by running tests",
            BLOCKS.count()
        );
    }

    /// What all its addresses begin with.
    pub const fn prefix(&self) -> [u8; 2] {
        [self.first, self.octet]
    }

    /// An address of a cluster.
    pub fn ip(&self, cluster: u8, host: u8) -> IpAddr {
        Ipv4Addr::new(self.first, self.octet, cluster, host).into()
    }

    /// The same with a port.
    pub fn addr(&self, cluster: u8, host: u8, port: u16) -> SocketAddr {
        (self.ip(cluster, host), port).into()
    }
}
