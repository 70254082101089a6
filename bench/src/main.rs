//! Benchmarks against named peers, and the arithmetic of large federations with measured figures. `cargo xtask bench`
//! builds and starts it. Results go to standard output, progress to standard error. No product crate imports it.

#![forbid(unsafe_code)]
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command-line tool speaks there"
)]

mod client;
mod compare;
mod comparison;
mod failover;
mod gateway;
mod kubernetes;
mod load;
mod node;
mod peers;
mod policy;
mod programs;
mod proto;
mod proxy;
mod report;
mod scale;
mod store;
mod trio;
mod usage;
mod window;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tokio::runtime::Builder;
use tradewind_runtime::workers;

#[derive(Debug, Parser)]
#[command(name = "tradewind-bench", about = "Measures Tradewind")]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// The federation store against etcd.
    Store(store::StoreArguments),
    /// What a large federation costs.
    Scale(scale::ScaleArguments),
    /// What rules for many services cost, and how long a change of one takes to every proxy.
    Policy(policy::PolicyArguments),
    /// What a controller costs that follows an API server, and how long a change there takes to the proxies.
    Kubernetes(kubernetes::KubernetesArguments),
    /// The gateway against Envoy, HAProxy and nginx.
    Gateway(Box<gateway::GatewayArguments>),
    /// A pair of local proxies against pairs of Envoy and of HAProxy.
    Proxy(Box<proxy::ProxyArguments>),
    /// The application behind the pairs, as `proxy` starts it.
    #[command(hide = true)]
    ProxyApp(proxy::AppArguments),
    /// One node of the federation store, as `store` starts it.
    #[command(hide = true)]
    Node(node::NodeArguments),
    /// Tradewind's gateway, as `gateway` starts it.
    #[command(hide = true)]
    GatewayProxy(gateway::ProxyArguments),
    /// The server behind the proxies, as `gateway` starts it.
    #[command(hide = true)]
    GatewayBackend(gateway::BackendArguments),
}

fn main() -> ExitCode {
    let what = Arguments::parse().what;
    let mut builder = Builder::new_multi_thread();
    if let What::Node(_) = &what {
        // As a controller does it: the store has a thread of its own.
        builder.worker_threads(workers::beside_a_lane());
    }
    match builder.enable_all().build() {
        Ok(runtime) => runtime.block_on(run(what)),
        Err(error) => {
            eprintln!("error: no runtime: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(what: What) -> ExitCode {
    let done = match what {
        What::Store(arguments) => store::run(arguments).await,
        What::Scale(arguments) => scale::run(&arguments),
        What::Policy(arguments) => policy::run(arguments).await,
        What::Kubernetes(arguments) => kubernetes::run(arguments).await,
        What::Node(arguments) => node::run(arguments).await.map(|()| String::new()),
        What::Proxy(arguments) => proxy::run(*arguments).await,
        What::ProxyApp(arguments) => proxy::app(arguments).await.map(|()| String::new()),
        What::Gateway(arguments) => gateway::run(*arguments).await,
        What::GatewayProxy(arguments) => gateway::proxy(arguments).await.map(|()| String::new()),
        What::GatewayBackend(arguments) => {
            gateway::backend(arguments).await.map(|()| String::new())
        }
    };
    match done {
        Ok(text) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
