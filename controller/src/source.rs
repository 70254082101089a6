//! Where a cluster's own services come from, beside the proxies that register: a directory of Kubernetes YAML, or an API server.
//!
//! [`SourceModel`] is what a source says. [`yaml`] turns the text of one file into objects and problems, purely; [`directory`] owns the files' last good
//! content and the task that looks at them; [`kubernetes`] follows an API server. Broken input must never take away what was good before.

pub mod directory;
pub mod kubernetes;
mod model;
pub mod yaml;
mod yaml_lines;
mod yaml_objects;

pub use directory::{Manifests, read};
pub use model::{Asked, Problem, RefusedKind, SourceEndpoint, SourceModel, SourceService};
