//! Transparent capture: rules of the firewall that turn an application's own connections to this proxy, and the listeners that
//! find out where each of them was meant to go.
//!
//! Owns the rules while the proxy runs. It must never capture the proxy's own connections, nor leave half a rule set behind.

mod apply;
pub(crate) mod inbound;
pub mod index;
mod keeper;
pub(crate) mod metrics;
pub(crate) mod original;
mod plan;
mod settings;

pub use apply::{RulesError, apply, chosen, has_ipv6, remove, text};
pub(crate) use keeper::Keeper;
pub use plan::{CHAINS, Family, Plan, Stage, TABLE};
pub use settings::{
    CaptureConfig, Cidr, DEFAULT_MARK, INBOUND_PORT, Inbound, InboundPorts, OUTBOUND_PORT, Own,
    Rules, Tool, Unknown,
};
