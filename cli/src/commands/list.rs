//! `tradewind clusters`, `services` and `endpoints`: what one cluster knows of the federation.

use serde_json::json;
use tradewind_api::{ServiceName, proto::v1};

use super::Context;
use crate::{
    admin::{Admin, Where},
    exit::{Exit, Failure, Outcome},
    output::{Listing, Output},
    printer::Printer,
    suggest,
    table::{self, Table, or_dash},
    view,
};

/// A list older than this is called old: a leader is heard of several times a second.
const OLD_MS: u64 = 3_000;

/// How fresh a list has to be.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Freshness {
    /// Show everything that was written before this was asked; needs the store's leader
    #[arg(long)]
    pub consistent: bool,
}

impl Freshness {
    /// Warns of what may be old.
    pub fn tell(self, printer: Printer, age_ms: u64) {
        if age_ms == u64::MAX {
            printer.warn("this controller has heard of no leader of the store; this may be old");
        } else if age_ms > OLD_MS {
            let age = table::age(age_ms);
            printer.warn(format_args!(
                "this is what was known {age} ago: no leader has been heard of since"
            ));
        }
    }
}

/// A listing of everything.
#[derive(Debug, clap::Args)]
pub struct List {
    #[command(flatten)]
    fresh: Freshness,
    #[command(flatten)]
    place: Where,
    #[command(flatten)]
    output: Output,
}

/// `tradewind endpoints shop/payments`
#[derive(Debug, clap::Args)]
pub struct Endpoints {
    /// The service, as namespace/name
    #[arg(value_name = "NAMESPACE/NAME")]
    service: ServiceName,
    #[command(flatten)]
    fresh: Freshness,
    #[command(flatten)]
    place: Where,
    #[command(flatten)]
    output: Output,
}

/// The members.
pub async fn clusters(context: Context, args: List) -> Outcome {
    let found = Admin::connect(&args.place).await?;
    let found = found.clusters(args.fresh.consistent).await?;
    Listing {
        schema: "tradewind.clusters/v1",
        json: json!({
            "revision": found.revision,
            "age_ms": found.age_ms,
            "clusters": found.clusters.iter().map(view::cluster_json).collect::<Vec<_>>(),
        }),
        table: clusters_table(&found.clusters),
        names: found
            .clusters
            .iter()
            .filter_map(|c| c.cluster.as_ref())
            .map(|c| c.name.clone())
            .collect(),
        empty: "no clusters; found a federation with `tradewind init`",
    }
    .show(context.printer, args.output);
    args.fresh.tell(context.printer, found.age_ms);
    Ok(Exit::Good)
}

/// The members as a table.
pub fn clusters_table(clusters: &[v1::ClusterStatus]) -> Table {
    let mut table = Table::new(&[
        "",
        "CLUSTER",
        "REGION",
        "STATE",
        "GATEWAYS",
        ">EXPORTS",
        "STREAM",
        "FRESH",
        "REACHABLE",
        "VERSION",
    ]);
    for status in clusters {
        let cluster = status.cluster.clone().unwrap_or_default();
        table.row([
            if cluster.local {
                "*".to_owned()
            } else {
                String::new()
            },
            cluster.name.clone(),
            cluster.region.clone(),
            view::standing(status).to_owned(),
            or_dash(cluster.gateways.join(",")),
            table::count(status.exported_services.into()),
            view::stream(status.facts.as_ref()),
            view::fresh(status.facts.as_ref()),
            view::reach(status.facts.as_ref()),
            or_dash(status.version.clone()),
        ]);
    }
    table
}

/// The services.
pub async fn services(context: Context, args: List) -> Outcome {
    let found = Admin::connect(&args.place).await?;
    let found = found.services(args.fresh.consistent).await?;
    let mut table = Table::new(&[
        "SERVICE",
        "PORTS",
        ">HEALTHY",
        "EXPORTED BY",
        "CLUSTERSET IP",
    ]);
    for service in &found.services {
        table.row([
            view::service_name(service),
            or_dash(view::ports(service)),
            format!("{}/{}", view::healthy(service), service.endpoints.len()),
            or_dash(service.exported_by.join(",")),
            or_dash(service.clusterset_ips.join(",")),
        ]);
    }
    Listing {
        schema: "tradewind.services/v1",
        json: json!({
            "revision": found.revision,
            "age_ms": found.age_ms,
            "services": found.services.iter().map(view::service_json).collect::<Vec<_>>(),
        }),
        table,
        names: found.services.iter().map(view::service_name).collect(),
        empty: "no services; start one with `tradewind proxy --serve …`, offer it with `tradewind export`",
    }
    .show(context.printer, args.output);
    args.fresh.tell(context.printer, found.age_ms);
    Ok(Exit::Good)
}

/// One service's endpoints.
pub async fn endpoints(context: Context, args: Endpoints) -> Outcome {
    let admin = Admin::connect(&args.place).await?;
    let name = args.service.to_string();
    let found = match admin.endpoints(&name, args.fresh.consistent).await {
        Ok(found) => found,
        Err(failure) if failure.exit == Exit::Problems => {
            return Err(with_nearest(&admin, &name, failure).await);
        }
        Err(failure) => return Err(failure),
    };
    let service = found.service.clone().unwrap_or_default();
    let mut table = Table::new(&[
        "ENDPOINT", "CLUSTER", "REGION", "ZONE", "HEALTH", ">WEIGHT", "PORTS", "IDENTITY",
    ]);
    for endpoint in &service.endpoints {
        let ports: Vec<String> = endpoint.ports.iter().map(ToString::to_string).collect();
        table.row([
            endpoint.id.clone(),
            endpoint.cluster.clone(),
            endpoint.region.clone(),
            or_dash(endpoint.zone.clone()),
            view::health(endpoint).to_owned(),
            endpoint.weight.to_string(),
            or_dash(ports.join(",")),
            endpoint.identity.clone(),
        ]);
    }
    Listing {
        schema: "tradewind.endpoints/v1",
        json: json!({
            "revision": found.revision,
            "age_ms": found.age_ms,
            "service": view::service_json(&service),
            "endpoints": service.endpoints.iter().map(view::endpoint_json).collect::<Vec<_>>(),
        }),
        table,
        names: service.endpoints.iter().map(|e| e.id.clone()).collect(),
        empty: "no endpoints; start one with `tradewind proxy --serve …`",
    }
    .show(context.printer, args.output);
    args.fresh.tell(context.printer, found.age_ms);
    Ok(Exit::Good)
}

/// Adds the nearest name there is, unless the controller gave a hint itself.
async fn with_nearest(admin: &Admin, name: &str, failure: Failure) -> Failure {
    if !failure.hints.is_empty() {
        return failure;
    }
    let Ok(all) = admin.services(false).await else {
        return failure;
    };
    let names: Vec<String> = all.services.iter().map(view::service_name).collect();
    match suggest::nearest(name, names.iter().map(String::as_str)) {
        Some(near) => failure.hint(format!("did you mean `{near}`?")),
        None => failure.hint("`tradewind services` lists what there is"),
    }
}
