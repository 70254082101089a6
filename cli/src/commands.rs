//! The commands, one idea a file, and what they share. Each takes its parsed arguments and a [`Context`] and returns
//! how it ended; none of them ends the process.

pub mod add_controller;
pub mod analyze;
pub mod app;
pub mod audit;
pub mod check;
pub mod controller;
pub mod demo;
pub mod dns;
pub mod drain;
pub mod explain;
pub mod export;
pub mod gateway;
mod in_pod;
pub mod init;
pub mod install;
pub mod join;
mod limits;
pub mod list;
pub mod plan;
pub mod proxy;
pub mod proxy_capture;
pub mod proxy_telemetry;
pub mod role;
pub mod routes;
pub mod status;
pub mod store;
pub mod token;
pub mod version;
pub mod witness;

use tradewind_api::{Namespace, ServiceName, id::is_subdomain};

use crate::{
    args::Command,
    exit::{Failure, Outcome},
    printer::Printer,
};

/// What every command gets.
#[derive(Clone, Copy, Debug)]
pub struct Context {
    /// Where it writes.
    pub printer: Printer,
}

/// Runs one command.
pub async fn run(command: Command, context: Context) -> Outcome {
    match command {
        Command::Init(args) => init::run(context, args).await,
        Command::Join(args) => join::run(context, args).await,
        Command::AddController(args) => add_controller::run(context, args).await,
        Command::Controller(args) => controller::run(args).await,
        Command::Gateway(args) => gateway::run(args).await,
        Command::Proxy(args) => proxy::run(context, *args).await,
        Command::Witness(args) => witness::run(context, args).await,
        Command::Dns(args) => dns::run(args).await,
        Command::Token(args) => token::run(context, args).await,
        Command::Export(args) => export::export(context, args).await,
        Command::Unexport(args) => export::unexport(context, args).await,
        Command::Clusters(args) => list::clusters(context, args).await,
        Command::Services(args) => list::services(context, args).await,
        Command::Endpoints(args) => list::endpoints(context, args).await,
        Command::Routes(args) => routes::run(context, args).await,
        Command::Explain(args) => explain::run(context, args).await,
        Command::Plan(args) => plan::run(context, args).await,
        Command::Analyze(args) => analyze::run(context, args).await,
        Command::Install(args) => install::run(context, args).await,
        Command::Uninstall(args) => install::uninstall(context, args).await,
        Command::Check(args) => check::run(context, args).await,
        Command::Status(args) => status::run(context, args).await,
        Command::Store(args) => store::run(context, args).await,
        Command::Audit(args) => audit::run(context, args).await,
        Command::Drain(args) => drain::drain(context, args, false).await,
        Command::Undrain(args) => drain::drain(context, args, true).await,
        Command::Leave(args) => drain::leave(context, args).await,
        Command::Demo(args) => demo::run(context, args).await,
        Command::DemoApp(args) => app::run(args).await,
        Command::Version(args) => version::run(context, args),
    }
}

/// The port that clusters dial each other at.
pub const GATEWAY_PORT: u16 = 15443;

/// `shop/payments` or `/ns/shop/sa/payments`, as a SPIFFE path.
pub fn identity_path(text: &str) -> Result<String, Failure> {
    let bad = || {
        Failure::usage(format!("identity {text:?} is not valid"))
            .hint("expected namespace/account, such as shop/payments, or a whole path, such as /ns/shop/sa/payments")
    };
    if let Some(rest) = text.strip_prefix('/') {
        let known = match rest.split('/').collect::<Vec<_>>().as_slice() {
            ["ns", namespace, "sa", account] => {
                Namespace::new(namespace).is_ok() && is_subdomain(account)
            }
            ["tradewind", "gateway" | "dns", name] => is_subdomain(name),
            _ => false,
        };
        return if known {
            Ok(text.to_owned())
        } else {
            Err(bad())
        };
    }
    let name: ServiceName = text.parse().map_err(|_| bad())?;
    Ok(format!("/ns/{}/sa/{}", name.namespace, name.name()))
}

/// The first address of this machine that others may reach; loopback when there is none.
pub fn own_address() -> std::net::IpAddr {
    let addresses = nix::ifaddrs::getifaddrs().into_iter().flatten();
    let usable = |storage: &nix::sys::socket::SockaddrStorage| {
        storage
            .as_sockaddr_in()
            .map(nix::sys::socket::SockaddrIn::ip)
            .filter(|ip| !ip.is_loopback())
    };
    addresses
        .filter_map(|interface| interface.address)
        .find_map(|address| usable(&address))
        .unwrap_or(std::net::Ipv4Addr::LOCALHOST)
        .into()
}

/// What others dial when a process listens on every address of this machine.
pub fn reachable(listen: std::net::SocketAddr) -> Option<String> {
    let everywhere = listen.ip().is_unspecified();
    everywhere.then(|| std::net::SocketAddr::new(own_address(), listen.port()).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_are_written_short_or_whole() {
        assert_eq!(
            identity_path("shop/payments").unwrap(),
            "/ns/shop/sa/payments"
        );
        assert_eq!(
            identity_path("/ns/shop/sa/payments").unwrap(),
            "/ns/shop/sa/payments"
        );
        assert_eq!(
            identity_path("/tradewind/gateway/gw-1").unwrap(),
            "/tradewind/gateway/gw-1"
        );
        for bad in [
            "shop",
            "/ns/shop",
            "shop/Payments",
            "/tradewind/controller/x",
            "",
        ] {
            assert!(identity_path(bad).is_err(), "{bad}");
        }
    }
}
