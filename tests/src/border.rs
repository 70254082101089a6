//! Two clusters, one service in the east, and one caller in the west, whose every call crosses the border: for tests of what
//! is carried. Owns the federation; the application belongs to the test.

use std::net::SocketAddr;

use crate::{Federation, Process, Workload, federation::TWO};

/// The caller's cluster.
pub const WEST: usize = 0;
/// The service's cluster.
pub const EAST: usize = 1;
/// The service.
pub const SERVICE: &str = "shop/payments";

/// The clusters, while the service still wants its application.
#[derive(Debug)]
pub struct Before {
    /// The clusters.
    pub federation: Federation,
    /// Where the application is to listen.
    pub app: SocketAddr,
}

/// The same with the application behind its proxy, exported, and the caller's proxy beside it.
#[derive(Debug)]
pub struct Border {
    /// The clusters.
    pub federation: Federation,
    /// The proxy beside the application.
    pub workload: Workload,
    /// Where the caller's proxy takes calls for the service.
    pub address: SocketAddr,
    _caller: Process,
}

impl Before {
    /// Starts the clusters.
    pub async fn start() -> Self {
        let federation = Federation::start(&TWO).await;
        let app = federation.addr(EAST, 11, 8080);
        Self { federation, app }
    }

    /// For an application that listens by now, or soon; `more` goes behind its address in `--serve`.
    pub async fn open(self, more: &str) -> Border {
        self.open_with(more, &[]).await
    }

    /// The same; `flags` are for the proxy beside the application.
    pub async fn open_with(self, more: &str, flags: &[&str]) -> Border {
        let Self { federation, app } = self;
        let port = format!("{SERVICE}:80");
        let spec = format!("{port}={app}{more}");
        let workload = federation.serve(EAST, 1, &spec, flags).await;
        federation.export(EAST, SERVICE).await;
        federation.sees(WEST, SERVICE, 1).await;
        let (caller, address) = federation.caller(WEST, 0, &port).await;
        Border {
            federation,
            workload,
            address,
            _caller: caller,
        }
    }
}
