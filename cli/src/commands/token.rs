//! `tradewind token create|list|revoke`: who may join, and which workload may take which identity.

use std::time::Duration;

use serde_json::json;
use tradewind_api::{ClusterName, proto::v1};
use tradewind_controller::identity_service::tokens::NEW_CONTROLLER;
use tradewind_runtime::clock;

use super::{Context, list::Freshness};
use crate::{
    admin::{Admin, Where},
    duration,
    exit::{Exit, Failure, Outcome},
    output::{Format, Listing, Output, document},
    table::{self, Table},
};

/// `tradewind token …`
#[derive(Debug, clap::Subcommand)]
pub enum Token {
    /// Makes a single-use token and prints it
    Create(Create),
    /// Lists tokens, never their secrets
    #[command(visible_alias = "ls")]
    List(List),
    /// Takes a token back before it is used
    Revoke(Revoke),
}

/// `tradewind token create`
#[derive(Debug, clap::Args)]
pub struct Create {
    #[command(flatten)]
    place: Where,
    /// Only a cluster of this name may join with it
    #[arg(long, value_name = "NAME")]
    cluster: Option<ClusterName>,
    /// How long it is good for
    #[arg(long, value_name = "DURATION", default_value = "15m", value_parser = duration::parse)]
    lifetime: Duration,
    /// Make a token for a further controller of this cluster instead: `tradewind add-controller` takes it
    #[arg(long, conflicts_with_all = ["cluster", "workload"])]
    controller: bool,
    /// Make a token for a workload, gateway or DNS server instead: the identity it may take, such as /ns/shop/sa/payments
    #[arg(long, value_name = "PATH", conflicts_with = "cluster")]
    workload: Option<String>,
    #[command(flatten)]
    output: Output,
}

/// `tradewind token list`
#[derive(Debug, clap::Args)]
pub struct List {
    #[command(flatten)]
    fresh: Freshness,
    #[command(flatten)]
    place: Where,
    #[command(flatten)]
    output: Output,
}

/// `tradewind token revoke`
#[derive(Debug, clap::Args)]
pub struct Revoke {
    /// The token's id, as `tradewind token list` shows it
    id: String,
    #[command(flatten)]
    place: Where,
}

/// Runs it.
pub async fn run(context: Context, command: Token) -> Outcome {
    match command {
        Token::Create(args) => create(context, args).await,
        Token::List(args) => list(context, args).await,
        Token::Revoke(args) => revoke(context, args).await,
    }
}

async fn create(context: Context, args: Create) -> Outcome {
    let workload = args
        .workload
        .map(|text| super::identity_path(&text))
        .transpose()?;
    let workload = if args.controller {
        Some(NEW_CONTROLLER.to_owned())
    } else {
        workload
    };
    let request = v1::CreateTokenRequest {
        cluster: args.cluster.map(|c| c.to_string()).unwrap_or_default(),
        lifetime_s: args.lifetime.as_secs(),
        workload_path: workload.clone().unwrap_or_default(),
    };
    if request.lifetime_s == 0 {
        return Err(Failure::usage("a token's lifetime must be at least 1s"));
    }
    let admin = Admin::connect(&args.place).await?;
    let made = admin
        .call(request, async |mut c, r| c.create_token(r).await)
        .await?;
    let printer = context.printer;
    match args.output.format {
        Format::Json => printer.json(&document(
            "tradewind.token/v1",
            json!({
                "id": made.id,
                "token": made.token,
                "expires_at_unix_ms": made.expires_at_unix_ms,
                "join_address": made.join_address,
                "workload": workload,
            }),
        )),
        Format::Name | Format::Table => printer.data(&made.token),
    }
    printer.say(format_args!(
        "single use, good for {}",
        table::left(left_ms(made.expires_at_unix_ms))
    ));
    match workload {
        Some(path) if path == NEW_CONTROLLER => printer.say(format_args!(
            "use it on the new host: tradewind add-controller {} --token <token> --advertise <host:port> --data-dir <dir>",
            made.join_address
        )),
        Some(path) => printer.say(format_args!("use it: tradewind proxy --identity {path} --token <token> …")),
        None => printer.say(format_args!(
            "use it: tradewind join {} --token <token> --cluster <name> --region <region> --data-dir <dir>",
            made.join_address
        )),
    }
    printer.say(format_args!(
        "take it back: tradewind token revoke {}",
        made.id
    ));
    Ok(Exit::Good)
}

async fn list(context: Context, args: List) -> Outcome {
    let admin = Admin::connect(&args.place).await?;
    let request = v1::ListRequest {
        consistent: args.fresh.consistent,
    };
    let found = admin
        .call(request, async |mut c, r| c.list_tokens(r).await)
        .await?;
    let mut table = Table::new(&["ID", "FOR", "STATE", ">EXPIRES IN"]);
    for token in &found.tokens {
        let good_for = match (token.workload_path.as_str(), token.cluster.as_str()) {
            ("", "") => "any cluster".to_owned(),
            ("", cluster) => format!("cluster {cluster}"),
            (NEW_CONTROLLER, _) => "a controller".to_owned(),
            (path, _) => path.to_owned(),
        };
        let left = match left_ms(token.expires_at_unix_ms) {
            0 => "-".to_owned(),
            ms => table::left(ms),
        };
        table.row([token.id.clone(), good_for, token.state.clone(), left]);
    }
    let json = |t: &v1::TokenStatus| {
        json!({
            "id": t.id,
            "cluster": t.cluster,
            "workload": t.workload_path,
            "state": t.state,
            "expires_at_unix_ms": t.expires_at_unix_ms,
        })
    };
    Listing {
        schema: "tradewind.tokens/v1",
        json: json!({ "revision": found.revision, "age_ms": found.age_ms, "tokens": found.tokens.iter().map(json).collect::<Vec<_>>() }),
        table,
        names: found.tokens.iter().map(|t| t.id.clone()).collect(),
        empty: "no tokens; make one with `tradewind token create`",
    }
    .show(context.printer, args.output);
    args.fresh.tell(context.printer, found.age_ms);
    Ok(Exit::Good)
}

async fn revoke(context: Context, args: Revoke) -> Outcome {
    let admin = Admin::connect(&args.place).await?;
    let request = v1::RevokeTokenRequest {
        id: args.id.clone(),
    };
    let answer = admin
        .call(request, async |mut c, r| c.revoke_token(r).await)
        .await?;
    if answer.changed {
        context
            .printer
            .done(format_args!("token {} is good for nothing now", args.id));
        Ok(Exit::Good)
    } else {
        Err(
            Failure::problem(format!("there is no unused token {}", args.id))
                .hint("`tradewind token list` shows them"),
        )
    }
}

fn left_ms(expires_at_unix_ms: u64) -> u64 {
    expires_at_unix_ms.saturating_sub(clock::system().unix_ms())
}
