//! `tradewind join`: make this cluster a member of a federation, showing each layer as it is passed.

mod outside;

use clap::{ArgMatches, FromArgMatches, error::ErrorKind, parser::ValueSource};
use serde_json::json;
use tradewind_controller::{JoinError, JoinLayer, JoinOptions};
use tradewind_runtime::{Rng, clock};

use super::{Context, init::Member};
use crate::{
    exit::{Exit, Failure, Outcome},
    output::{Format, Output, document},
};

/// `tradewind join`
#[derive(Debug)]
pub enum Join {
    /// By the cluster itself, at its own data directory.
    Here(Box<Here>),
    /// From outside, between two clusters in Kubernetes.
    Between(outside::Between, bool, Output),
}

impl clap::Args for Join {
    fn augment_args(command: clap::Command) -> clap::Command {
        let command = outside::Between::augment_args(Here::augment_args(command));
        // From outside, the one that joins is known by its installation.
        ["cluster", "region"]
            .into_iter()
            .fold(command, |command, name| {
                command.mut_arg(name, |arg| {
                    arg.required(false).required_unless_present("contexts")
                })
            })
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Join {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        if !matches.contains_id("contexts") {
            return Here::from_arg_matches(matches).map(|here| Self::Here(Box::new(here)));
        }
        let told = |id: &clap::Id| matches.value_source(id.as_str());
        let mut given = matches.ids().filter(|id| {
            told(id) == Some(ValueSource::CommandLine) && ONLY_HERE.contains(&id.as_str())
        });
        if let Some(id) = given.next() {
            let flag = id.as_str().replace('_', "-");
            return Err(clap::Error::raw(
                ErrorKind::ArgumentConflict,
                format!(
                    "{flag} is nothing to a join from outside: with --context the clusters' installations say it\n"
                ),
            ));
        }
        Ok(Self::Between(
            outside::Between::from_arg_matches(matches)?,
            matches.get_flag("dry_run"),
            Output::from_arg_matches(matches)?,
        ))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// What a join from outside has no use for.
const ONLY_HERE: [&str; 11] = [
    "member_address",
    "token",
    "cluster",
    "region",
    "network",
    "data_dir",
    "gateway",
    "if_needed",
    "address",
    "bind",
    "skip_way_back",
];

/// The flags of a join at the cluster's own data directory.
#[derive(Debug, clap::Args)]
pub struct Here {
    /// host:port of any member's gateway
    #[arg(env = "TRADEWIND_JOIN_ADDRESS", value_name = "ADDRESS")]
    member_address: Option<String>,
    /// The token that a member made with `tradewind token create`
    #[arg(
        long,
        env = "TRADEWIND_TOKEN",
        value_name = "TOKEN",
        hide_env_values = true
    )]
    token: Option<String>,
    #[command(flatten)]
    member: Member,
    /// host:port to bind for the way-back check, where it differs from --gateway (NAT, a load balancer)
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',')]
    bind: Vec<String>,
    /// Join without having seen that others reach --gateway: for a cluster whose gateways come up after it joined
    #[arg(long, conflicts_with = "bind")]
    skip_way_back: bool,
    /// Check everything, change nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    output: Output,
}

/// Joins.
pub async fn run(context: Context, args: Join) -> Outcome {
    match args {
        Join::Here(args) => here(context, *args).await,
        Join::Between(args, dry_run, output) => outside::run(context, args, dry_run, output).await,
    }
}

async fn here(context: Context, args: Here) -> Outcome {
    let printer = context.printer;
    if args.member.is_done()? {
        let cluster = &args.member.cluster;
        let dir = args.member.data_dir.display();
        printer.done(format_args!("cluster {cluster} is in {dir} already"));
        return Ok(Exit::Good);
    }
    let (Some(address), Some(token)) = (args.member_address, args.token) else {
        return Err(Failure::usage("a join needs the address of a member's gateway and a token")
            .hint("make a token in a member cluster: `tradewind token create` prints the whole command")
            .hint("in Kubernetes both are in the Secret tradewind-join, under the keys address and token"));
    };
    let gateways = args.member.gateways();
    printer.title(format_args!(
        "joining {} through {address}",
        args.member.cluster
    ));
    let options = JoinOptions {
        address,
        token,
        cluster: args.member.cluster,
        region: args.member.region,
        network: args.member.network,
        data_dir: args.member.data_dir,
        gateway_addresses: gateways.clone(),
        bind_addresses: args.bind,
        skip_way_back: args.skip_way_back,
        witness: false,
        dry_run: args.dry_run,
    };
    let progress = |step: &tradewind_controller::JoinStep| {
        printer.done(format_args!("{:<10} {}", step.layer.as_str(), step.detail));
    };
    let joined =
        tradewind_controller::join(options, clock::system(), Rng::from_entropy(), progress)
            .await
            .map_err(|e| failure(&e))?;
    let dir = joined.data_dir.display();
    let members: Vec<String> = joined.members.iter().map(ToString::to_string).collect();
    if args.dry_run {
        printer.say("everything is as it must be; nothing was changed (--dry-run)");
    } else {
        printer.say(format_args!(
            "{} is a member of {} now",
            joined.cluster, joined.domain
        ));
        printer.say("start this cluster:");
        printer.say(format_args!("  tradewind controller --data-dir {dir}"));
        printer.say(format_args!(
            "  tradewind gateway --data-dir {dir} --advertise {}",
            gateways.join(",")
        ));
        printer.say(format_args!("  tradewind status --data-dir {dir} --wait"));
    }
    match args.output.format {
        Format::Json => printer.json(&document(
            "tradewind.join/v1",
            json!({
                "cluster": joined.cluster,
                "domain": joined.domain,
                "through": joined.through,
                "node_id": joined.node_id,
                "members": members,
                "data_dir": joined.data_dir,
                "dry_run": args.dry_run,
            }),
        )),
        Format::Name | Format::Table => printer.data(&joined.cluster),
    }
    Ok(Exit::Good)
}

/// How a join that failed is told.
pub fn failure(error: &JoinError) -> Failure {
    let exit = match error.layer {
        JoinLayer::Token | JoinLayer::Admission | JoinLayer::Sign => Exit::Refused,
        JoinLayer::Resolve | JoinLayer::Connect | JoinLayer::Tls | JoinLayer::WayBack => {
            Exit::Unreachable
        }
        JoinLayer::Local | JoinLayer::Write => Exit::Problems,
    };
    let what = format!(
        "failed to join, in the layer `{}`: {}",
        error.layer.as_str(),
        error.message
    );
    let failure = Failure::new(exit, what);
    let failure = if error.hint.is_empty() {
        failure
    } else {
        failure.hint(&error.hint)
    };
    if error.admitted {
        failure.hint("the federation counts this cluster as a member already: see `tradewind clusters` there")
    } else {
        failure.hint("nothing was changed, here or there")
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        join: Join,
    }

    fn parse(line: &str) -> Result<Join, String> {
        let all = std::iter::once("join").chain(line.split_whitespace());
        let parsed = Cli::try_parse_from(all);
        parsed.map(|cli| cli.join).map_err(|e| e.to_string())
    }

    #[test]
    fn contexts_stand_for_all_that_an_installation_says() {
        let parsed = parse("--context west --context central --dry-run -o json").unwrap();
        let Join::Between(_, dry_run, output) = parsed else {
            panic!("not from outside");
        };
        assert!(dry_run);
        assert_eq!(output.format, Format::Json);
        let parsed = parse("a:1 --token t --cluster c --region r").unwrap();
        assert!(matches!(parsed, Join::Here(_)));
        for (bad, says) in [
            ("a:1 --token t --region r", "--cluster"),
            ("a:1 --token t --cluster c", "--region"),
            ("--context w --context c --cluster c", "cluster"),
            ("--context w --context c --skip-way-back", "skip-way-back"),
        ] {
            let said = parse(bad).unwrap_err();
            assert!(said.contains(says), "{bad}: {said}");
        }
    }
}
