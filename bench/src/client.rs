//! A client of either system: one write, one local read, and who leads. Both speak unary gRPC over h2 without TLS.

use std::time::Duration;

use tonic::{
    Status,
    transport::{Channel, Endpoint},
};

use crate::proto::{
    etcdserverpb::{self as etcd, kv_client::KvClient, maintenance_client::MaintenanceClient},
    tradewind::bench::v1::{self as ours, node_client::NodeClient},
};

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum System {
    /// The federation store.
    Tradewind,
    /// etcd with its default settings.
    Etcd,
}

impl System {
    /// Both, in the order they are measured.
    pub(crate) const BOTH: [Self; 2] = [Self::Tradewind, Self::Etcd];

    /// As it stands in the table.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Tradewind => "tradewind",
            Self::Etcd => "etcd",
        }
    }
}

/// One connection to one node. Clones share it.
#[derive(Clone, Debug)]
pub(crate) enum Client {
    Tradewind(NodeClient<Channel>),
    Etcd(KvClient<Channel>, MaintenanceClient<Channel>),
}

impl Client {
    /// A connection that is made when it is first used. `deadline` bounds every call.
    pub(crate) fn new(system: System, address: &str, deadline: Duration) -> Result<Self, String> {
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .map_err(|e| format!("{address} is no address: {e}"))?;
        let channel = endpoint.timeout(deadline).connect_lazy();
        Ok(match system {
            System::Tradewind => Self::Tradewind(NodeClient::new(channel)),
            System::Etcd => Self::Etcd(
                KvClient::new(channel.clone()),
                MaintenanceClient::new(channel),
            ),
        })
    }

    /// One write, acknowledged.
    pub(crate) async fn put(&mut self, key: &str, value: &str) -> Result<(), Status> {
        match self {
            Self::Tradewind(node) => {
                let request = ours::PutRequest {
                    key: key.to_owned(),
                    value: value.to_owned(),
                };
                node.put(request).await.map(drop)
            }
            Self::Etcd(kv, _) => {
                let request = etcd::PutRequest {
                    key: key.as_bytes().to_vec(),
                    value: value.as_bytes().to_vec(),
                };
                kv.put(request).await.map(drop)
            }
        }
    }

    /// What this node itself holds under `key`.
    pub(crate) async fn get(&mut self, key: &str) -> Result<Option<String>, Status> {
        match self {
            Self::Tradewind(node) => {
                let request = ours::GetRequest {
                    key: key.to_owned(),
                };
                let answer = node.get(request).await?.into_inner();
                Ok(answer.found.then_some(answer.value))
            }
            Self::Etcd(kv, _) => {
                let request = etcd::RangeRequest {
                    key: key.as_bytes().to_vec(),
                    serializable: true,
                };
                let answer = kv.range(request).await?.into_inner();
                let first = answer.kvs.into_iter().next();
                Ok(first.map(|kv| String::from_utf8_lossy(&kv.value).into_owned()))
            }
        }
    }

    /// Whether this node leads, in its own eyes.
    pub(crate) async fn leads(&mut self) -> Result<bool, Status> {
        match self {
            Self::Tradewind(node) => {
                let status = node.status(ours::StatusRequest {}).await?.into_inner();
                Ok(status.leads)
            }
            Self::Etcd(_, maintenance) => {
                let status = maintenance.status(etcd::StatusRequest {}).await?;
                let status = status.into_inner();
                let me = status.header.map_or(0, |h| h.member_id);
                Ok(me != 0 && status.leader == me)
            }
        }
    }

    /// Whether the three nodes are together; etcd's members are from the start.
    pub(crate) async fn is_whole(&mut self) -> Result<bool, Status> {
        match self {
            Self::Tradewind(node) => {
                let status = node.status(ours::StatusRequest {}).await?.into_inner();
                Ok(u64::from(status.voters) == crate::node::NODES)
            }
            Self::Etcd(..) => Ok(true),
        }
    }
}
