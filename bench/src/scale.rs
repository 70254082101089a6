//! What a large federation costs: a catalog built by real commands, and what its state, its snapshot and one changed
//! endpoint take. Everything is measured in this process; the times on the way between nodes are added up from it, and
//! simulated by `cargo xtask sim --scale`.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use openraft::{CommittedLeaderId, Entry, EntryPayload, LogId, Vote, raft::AppendEntriesRequest};
use serde::Serialize;
use tokio::time::Instant;
use tradewind_api::{
    ClusterName, Domain, EndpointId, ServiceName, Zone,
    model::{AppProtocol, Health, ServiceKind, ServicePort},
    store::{Blob, Command, EndpointSummary, Export, Outcome, Stamped, TokenRecord},
};
use tradewind_federation::{Batch, Catalog, TypeConfig, codec};
use tradewind_runtime::files;

use crate::{node::record, report::Spread, usage};

/// How often a short thing is done, for its median.
const REPEATS: u32 = 25;
/// A snapshot file's marks, as the store's own.
const MAGIC: [u8; 4] = *b"TWSN";
const VERSION: u16 = 1;

/// How large.
#[derive(Debug, clap::Args)]
pub(crate) struct ScaleArguments {
    /// Where the snapshot is written: on the disk that is to be measured.
    #[arg(long)]
    dir: PathBuf,
    /// Clusters.
    #[arg(long, default_value_t = 100)]
    clusters: usize,
    /// Services that one cluster exports.
    #[arg(long, default_value_t = 1_000)]
    exports: usize,
    /// Endpoints of one export.
    #[arg(long, default_value_t = 10)]
    endpoints: usize,
    /// Different services in the federation; each is exported by several clusters.
    #[arg(long, default_value_t = 20_000)]
    services: usize,
    /// Data instead of text.
    #[arg(long)]
    json: bool,
}

/// What was found.
#[derive(Debug, Serialize)]
struct Found {
    schema: &'static str,
    clusters: usize,
    services: usize,
    exports: usize,
    endpoints: usize,
    /// To build it, by applying one command after another.
    build_s: f64,
    /// Resident memory that the state takes.
    state_bytes: u64,
    snapshot_bytes: u64,
    snapshot_write_s: f64,
    snapshot_read_s: f64,
    /// One endpoint's change: the command in the log, and the message to one follower.
    entry_bytes: usize,
    message_bytes: usize,
    encode_us: Spread,
    decode_us: Spread,
    /// Applied while nobody holds the state before it, and while somebody does, as always in a running store.
    apply_alone_us: Spread,
    apply_published_us: Spread,
    new_service_us: Spread,
}

/// Measures and gives what to print.
pub(crate) fn run(arguments: &ScaleArguments) -> Result<String, String> {
    let found = measure(arguments)?;
    if arguments.json {
        return serde_json::to_string_pretty(&found).map_err(|e| e.to_string());
    }
    Ok(text(&found))
}

fn measure(arguments: &ScaleArguments) -> Result<Found, String> {
    let before = usage::resident()?;
    let started = Instant::now();
    let mut catalog = build(arguments)?;
    let build_s = started.elapsed().as_secs_f64();
    let state_bytes = usage::resident()?.saturating_sub(before);
    eprintln!("built in {build_s:.1} s");
    let (snapshot_bytes, snapshot_write_s, snapshot_read_s) = snapshot(arguments, &catalog)?;
    eprintln!("snapshot written and read");
    let change = change(arguments, 0)?;
    let batch = Batch {
        commands: Arc::new(vec![change]),
    };
    let entry_bytes = codec::encode(&batch, "a batch").map_err(|e| e.to_string())?;
    let message = message(batch);
    let frame = codec::encode(&message, "entries").map_err(|e| e.to_string())?;
    let encode_us = timed(|_| codec::encode(&message, "entries").is_ok())?;
    let decode_us =
        timed(|_| codec::decode::<AppendEntriesRequest<TypeConfig>>(&frame, "entries").is_ok())?;
    let apply = |catalog: &mut Catalog, command: &Stamped| {
        let revision = catalog.revision + 1;
        matches!(
            catalog.apply(revision, command),
            Outcome::Done { changed: true, .. }
        )
    };
    let mut changes = Vec::new();
    let mut offers = Vec::new();
    for round in 0..REPEATS * 2 {
        changes.push(self::change(arguments, round)?);
        offers.push(offer(arguments, 0, &format!("new/s{round}"), 1)?);
    }
    let mut changes = changes.iter();
    let mut next = || changes.next().ok_or("too few changes");
    let apply_alone_us = timed(|_| next().is_ok_and(|c| apply(&mut catalog, c)))?;
    let apply_published_us = timed(|_| {
        let published = catalog.clone();
        let applied = next().is_ok_and(|c| apply(&mut catalog, c));
        drop(published);
        applied
    })?;
    let mut offers = offers.iter();
    let new_service_us = timed(|_| {
        let published = catalog.clone();
        let applied = offers.next().is_some_and(|c| apply(&mut catalog, c));
        drop(published);
        applied
    })?;
    Ok(Found {
        schema: "tradewind.bench.scale/v1",
        clusters: arguments.clusters,
        services: arguments.services,
        exports: arguments.clusters * arguments.exports,
        endpoints: arguments.clusters * arguments.exports * arguments.endpoints,
        build_s,
        state_bytes,
        snapshot_bytes,
        snapshot_write_s,
        snapshot_read_s,
        entry_bytes: entry_bytes.len(),
        message_bytes: frame.len(),
        encode_us,
        decode_us,
        apply_alone_us,
        apply_published_us,
        new_service_us,
    })
}

/// How long `work` takes, microseconds, done again and again; it says whether it did something.
fn timed(mut work: impl FnMut(u32) -> bool) -> Result<Spread, String> {
    let mut times = Vec::new();
    for round in 0..REPEATS {
        let started = Instant::now();
        let did = work(round);
        times.push(started.elapsed().as_secs_f64() * 1_000_000.0);
        if !did {
            return Err("a step that was to be timed did nothing".to_owned());
        }
    }
    Ok(Spread::of(times))
}

fn build(arguments: &ScaleArguments) -> Result<Catalog, String> {
    let mut catalog = Catalog::default();
    let mut apply = |proposer: &ClusterName, command: Command| -> Result<(), String> {
        let stamped = stamped(proposer, command);
        match catalog.apply(catalog.revision + 1, &stamped) {
            Outcome::Refused(refusal) => Err(refusal.to_string()),
            Outcome::Done { .. } | Outcome::Joined { .. } => Ok(()),
        }
    };
    let founder = cluster(0)?;
    let mut founding = record(&founder)?;
    founding.nodes.insert(1);
    let found = Command::Found {
        domain: Domain::default(),
        root: Blob(vec![0; 400]),
        cluster: founding,
    };
    apply(&founder, found)?;
    for number in 1..arguments.clusters {
        let token_id = format!("t{number}");
        let put = Command::PutToken(TokenRecord {
            id: token_id.clone(),
            secret_sha256: Blob(vec![0; 32]),
            cluster: None,
            expires_at_ms: u64::MAX,
            used: None,
        });
        apply(&founder, put)?;
        let mut joining = record(&cluster(number)?)?;
        // The size of a true one.
        joining.authorities = BTreeSet::from([Blob(vec![0; 500])]);
        let join = Command::Join {
            token_id: token_id.clone(),
            cluster: joining,
        };
        apply(&founder, join)?;
        // Spent; room for the next.
        apply(&founder, Command::RevokeToken(token_id))?;
    }
    for number in 0..arguments.clusters {
        let name = cluster(number)?;
        for export in 0..arguments.exports {
            let service = service(arguments, number, export);
            let offer = offer(arguments, number, &service, arguments.endpoints)?;
            apply(&name, offer.command)?;
        }
        if number % 10 == 9 {
            eprintln!("{} clusters", number + 1);
        }
    }
    Ok(catalog)
}

fn stamped(proposer: &ClusterName, command: Command) -> Stamped {
    Stamped {
        proposer: proposer.clone(),
        at_ms: 1_700_000_000_000,
        command,
        actor: None,
    }
}

fn cluster(number: usize) -> Result<ClusterName, String> {
    ClusterName::new(&format!("cluster-{number:04}")).map_err(|e| e.to_string())
}

/// The names go round, so that each service has several exporters.
fn service(arguments: &ScaleArguments, cluster: usize, export: usize) -> String {
    let number = (cluster * arguments.exports + export) % arguments.services.max(1);
    format!("team-{:03}/service-{number:05}", number % 200)
}

fn endpoint_id(cluster: usize, number: usize) -> Result<EndpointId, String> {
    // As long as a pod's generated name.
    EndpointId::new(&format!("service-7d9c5b8f4-{cluster:03}x{number:02}"))
        .map_err(|e| e.to_string())
}

fn endpoint(weight: u32) -> Result<EndpointSummary, String> {
    Ok(EndpointSummary {
        zone: Some(Zone::new("eu-central-1a").map_err(|e| e.to_string())?),
        weight,
        health: Health::Healthy,
        account: "/ns/team-001/sa/service".to_owned(),
        hostname: None,
        labels: tradewind_api::traffic::Labels::new(),
        address: None,
        ports: vec![8080],
    })
}

fn offer(
    arguments: &ScaleArguments,
    number: usize,
    service: &str,
    endpoints: usize,
) -> Result<Stamped, String> {
    let service: ServiceName = service.parse().map_err(|e| format!("{service}: {e}"))?;
    let mut all = BTreeMap::new();
    for place in 0..endpoints.min(arguments.endpoints) {
        all.insert(endpoint_id(number, place)?, endpoint(100)?);
    }
    let export = Export {
        service,
        created_at_ms: 1_700_000_000_000,
        kind: ServiceKind::ClusterSetIp,
        ports: vec![ServicePort {
            name: "http".to_owned(),
            port: 8080,
            app_protocol: AppProtocol::Detect,
        }],
        endpoints: all,
        rules: None,
        spec: None,
    };
    Ok(stamped(&cluster(number)?, Command::PutExport(export)))
}

/// One endpoint of the first cluster changes its weight.
fn change(arguments: &ScaleArguments, round: u32) -> Result<Stamped, String> {
    let number = usize::try_from(round).unwrap_or(0) % arguments.exports;
    let name = service(arguments, 0, number);
    Ok(stamped(
        &cluster(0)?,
        Command::PatchExport {
            service: name.parse().map_err(|e| format!("{name}: {e}"))?,
            upsert: BTreeMap::from([(endpoint_id(0, 0)?, endpoint(101 + round)?)]),
            remove: BTreeSet::new(),
        },
    ))
}

fn message(batch: Batch) -> AppendEntriesRequest<TypeConfig> {
    let id = |index| LogId::new(CommittedLeaderId::new(12, 1), index);
    AppendEntriesRequest {
        vote: Vote::new_committed(12, 1),
        prev_log_id: Some(id(123_456)),
        entries: vec![Entry {
            log_id: id(123_457),
            payload: EntryPayload::Normal(batch),
        }],
        leader_commit: Some(id(123_456)),
    }
}

/// Bytes, seconds to write and seconds to read, the way the store's snapshots are written and read.
fn snapshot(arguments: &ScaleArguments, catalog: &Catalog) -> Result<(u64, f64, f64), String> {
    std::fs::create_dir_all(&arguments.dir).map_err(|e| e.to_string())?;
    let dir = tempfile::tempdir_in(&arguments.dir).map_err(|e| e.to_string())?;
    let path = dir.path().join("one.snapshot");
    let started = Instant::now();
    let payload = serde_json::to_vec(catalog).map_err(|e| e.to_string())?;
    files::write_framed(&path, MAGIC, VERSION, &payload, 0o600).map_err(|e| e.to_string())?;
    let write_s = started.elapsed().as_secs_f64();
    drop(payload);
    let bytes = std::fs::metadata(&path).map_err(|e| e.to_string())?.len();
    let started = Instant::now();
    let read = files::read_framed(&path, MAGIC, VERSION).map_err(|e| e.to_string())?;
    let (_, payload) = read.ok_or("the snapshot is gone")?;
    let found: Catalog = serde_json::from_slice(&payload).map_err(|e| e.to_string())?;
    found.validate().map_err(|e| e.to_string())?;
    let read_s = started.elapsed().as_secs_f64();
    if found != *catalog {
        return Err("the snapshot holds something else".to_owned());
    }
    Ok((bytes, write_s, read_s))
}

fn text(found: &Found) -> String {
    let mib = |bytes: u64| bytes as f64 / 1024.0 / 1024.0;
    let others = found.clusters.saturating_sub(1) as f64;
    let fan_out = Duration::from_secs_f64(found.encode_us.median * others / 1_000_000.0);
    [
        format!(
            "{} clusters, {} services, {} exports, {} endpoints",
            found.clusters, found.services, found.exports, found.endpoints
        ),
        format!("built by applying commands        {:.1} s", found.build_s),
        format!("state in memory                   {:.0} MiB", mib(found.state_bytes)),
        format!(
            "snapshot                          {:.0} MiB, written in {:.2} s, read in {:.2} s",
            mib(found.snapshot_bytes),
            found.snapshot_write_s,
            found.snapshot_read_s
        ),
        format!(
            "one endpoint's change             {} bytes in the log, {} in the message to one follower, {:.0} KiB to all",
            found.entry_bytes,
            found.message_bytes,
            found.message_bytes as f64 * others / 1024.0
        ),
        format!(
            "  to encode, to decode            {} us, {} us; for all followers {fan_out:.2?} of the leader",
            found.encode_us, found.decode_us
        ),
        format!("  to apply, state held by nobody  {} us", found.apply_alone_us),
        format!("  to apply, state published       {} us", found.apply_published_us),
        format!("a new service, state published    {} us", found.new_service_us),
    ]
    .join("\n")
}
