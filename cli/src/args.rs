//! The command line, as clap reads it. Holds nothing but the shape.

use clap::{Parser, Subcommand, builder::FalseyValueParser};

use crate::{
    commands::{
        add_controller, analyze, app, audit, check, controller, demo, dns, drain, explain, export,
        gateway, init, install, join, list, plan, proxy, routes, status, store, token, version,
        witness,
    },
    exit::EXIT_CODES,
};

/// Joins clusters, on Kubernetes or on plain hosts, into one mesh.
#[derive(Debug, Parser)]
#[command(name = "tradewind", version, after_help = EXIT_CODES, max_term_width = 110, arg_required_else_help = true)]
pub struct Cli {
    /// Print data and errors only
    #[arg(short, long, global = true, env = "TRADEWIND_QUIET", value_parser = FalseyValueParser::new())]
    pub quiet: bool,
    /// Die when this process, the parent, does: for programs that start roles as their children
    #[arg(
        long,
        global = true,
        env = "TRADEWIND_PARENT_PID",
        value_name = "PID",
        hide = true
    )]
    pub parent_pid: Option<i32>,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Every command.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Found a federation with this cluster as its first member
    Init(init::Init),
    /// Make this cluster a member of a federation
    Join(join::Join),
    /// Make this host a further controller of a cluster
    AddController(add_controller::AddController),
    /// Run a cluster's control plane
    Controller(controller::Controller),
    /// Run a cluster's east-west gateway
    Gateway(gateway::Gateway),
    /// Run the local proxy beside a workload
    Proxy(Box<proxy::Proxy>),
    /// Run a voter without a cluster, for a federation of two
    Witness(witness::Witness),
    /// Run the DNS server
    Dns(dns::Dns),
    /// Make, list and revoke tokens
    #[command(subcommand)]
    Token(token::Token),
    /// Offer a service of this cluster to the federation
    Export(export::Export),
    /// Take that offer back
    Unexport(export::Export),
    /// List the member clusters
    Clusters(list::List),
    /// List the services this cluster knows
    Services(list::List),
    /// List one service's endpoints
    Endpoints(list::Endpoints),
    /// Say what rules hold for calls to each service, and whose they are
    Routes(routes::Show),
    /// Say where a call would go, and of each endpoint why it takes calls or does not
    Explain(explain::Explain),
    /// Say where calls would go without some clusters, and what would break
    Plan(plan::Plan),
    /// Say what is wrong or without effect in files of routes, or in a running cluster's
    Analyze(analyze::Analyze),
    /// Print the manifests of a Kubernetes cluster, or apply them
    Install(install::Install),
    /// Take Tradewind out of a Kubernetes cluster
    Uninstall(install::Uninstall),
    /// Say whether a Kubernetes cluster can take Tradewind, and whether a cluster and its controllers are well
    Check(check::Check),
    /// Show whether the federation is well, or wait until it is
    Status(status::Status),
    /// Look after the federation store
    #[command(subcommand)]
    Store(store::Store),
    /// Show who changed what, when
    Audit(audit::Audit),
    /// Take a cluster out of service
    Drain(drain::Drain),
    /// Bring a drained cluster back
    Undrain(drain::Drain),
    /// End this cluster's membership
    Leave(drain::Leave),
    /// Lose a region under load, on this machine, and watch no call fail
    Demo(demo::Demo),
    /// The demo's application
    #[command(hide = true)]
    DemoApp(app::App),
    /// Print the version
    Version(version::Version),
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_flag_of_a_role_has_its_variable() {
        for role in ["controller", "gateway", "proxy", "dns", "witness"] {
            let command = Cli::command();
            let command = command.find_subcommand(role).unwrap();
            for arg in command.get_arguments().filter(|arg| arg.get_id() != "help") {
                let long = arg.get_long().unwrap();
                let variable = format!("TRADEWIND_{}", long.replace('-', "_").to_uppercase());
                let told = arg
                    .get_env()
                    .unwrap_or_else(|| panic!("--{long} of {role} has no variable"));
                assert_eq!(told, variable.as_str(), "--{long} of {role}");
            }
        }
    }

    #[test]
    fn every_command_says_what_it_does() {
        for command in Cli::command()
            .get_subcommands()
            .filter(|c| !c.is_hide_set())
        {
            assert!(command.get_about().is_some(), "{}", command.get_name());
        }
    }
}
