//! HBONE: mTLS HTTP/2 sessions between proxies.
//!
//! A session is one TLS connection to one endpoint, dialled directly or through one of its cluster's gateways, and
//! carries plain h2 requests and `CONNECT` tunnels side by side. A pool holds a thread's sessions and lets many callers
//! share one dial. Nothing here chooses an endpoint or decides on a retry: errors say whether the peer can have seen the
//! request, callers draw the conclusion.

pub mod dial;
pub mod headers;
pub mod pool;
pub mod replay;
pub mod session;
pub mod tunnel;

pub use dial::{Destination, DialError, Fault, Path};
pub use pool::{Pool, PoolConfig};
pub use replay::{Attempt, Replay};
pub use session::{Closed, RecvBody, SendError, Session};
pub use tunnel::{Tunnel, TunnelError};
