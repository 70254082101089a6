//! What people write about traffic - Gateway API's routes, Istio's VirtualService and DestinationRule, SMI's TrafficSplit - into the
//! one model of `tradewind_api::route` and `traffic`, and the limits of EnvoyFilters into `limit`, and what is wrong or without effect in it.
//!
//! No I/O, no clock, no state: of (objects, services) and nothing else, so that a controller and `tradewind analyze` say the
//! same. Every field of every kind is either acted on or reported by its path.

#![forbid(unsafe_code)]

mod compile;
mod docs;
mod draft;
mod duration;
mod fields;
mod finding;
mod gateway_api;
mod hosts;
mod istio;
mod kinds;
mod lines;
mod object;
mod smi;
mod status;
mod tighten;
mod traffic;
mod values;
mod world;

pub use compile::{Compiled, Compiler, Edits, Policy, compile, is_known, statuses};
pub use docs::fields_as_markdown;
pub use finding::{Code, Finding, Severity};
pub use kinds::{WatchedKind, watched_kinds};
pub use lines::{Lines, Spot};
pub use object::Object;
pub use status::{
    CONTROLLER_NAME, Condition, ConditionKind, ParentReference, ParentStatus, Reason, RouteStatus,
};
pub use tighten::{producers, tighten};
pub use world::{Ports, World};
