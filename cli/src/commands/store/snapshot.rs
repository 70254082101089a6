//! `tradewind store snapshot save`, `inspect` and `restore`: the whole store in one file.

use std::{
    fs::{self, File, OpenOptions},
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::json;
use tradewind_api::{ClusterName, proto::v1};
use tradewind_controller::offline::Inspected;
use tradewind_runtime::clock;

use super::{super::Context, offline};
use crate::{
    admin::{Admin, Where},
    exit::{Exit, Failure, Outcome},
    output::{Format, Output, document},
    table::{age, count},
};

/// Longest that a whole snapshot may take on its way over a socket of this host.
const SAVE_DEADLINE: Duration = Duration::from_secs(120);

/// `tradewind store snapshot …`
#[derive(Debug, clap::Subcommand)]
pub enum Snapshot {
    /// Save the store's whole state in a file
    Save(Save),
    /// Check a snapshot file and show what it holds; needs no controller
    Inspect(Inspect),
    /// Make a stopped controller's store hold exactly what a snapshot file holds
    Restore(offline::Restore),
}

/// `tradewind store snapshot save FILE`
#[derive(Debug, clap::Args)]
pub struct Save {
    /// Where to; replaced if it is there
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Take what this controller holds, though there may be newer: works without a leader
    #[arg(long)]
    stale: bool,
    #[command(flatten)]
    place: Where,
    #[command(flatten)]
    output: Output,
}

/// `tradewind store snapshot inspect FILE`
#[derive(Debug, clap::Args)]
pub struct Inspect {
    /// The file
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    output: Output,
}

/// Runs one.
pub async fn run(context: Context, command: Snapshot) -> Outcome {
    match command {
        Snapshot::Save(args) => save(context, args).await,
        Snapshot::Inspect(args) => inspect(context, &args),
        Snapshot::Restore(args) => offline::restore(context, args).await,
    }
}

/// A file in the making, beside where it will be. Dropped before it is put in place, it is gone.
struct Temporary {
    path: PathBuf,
    file: File,
}

impl Temporary {
    fn beside(target: &Path) -> Result<Self, Failure> {
        let mut name = target.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}.part", std::process::id()));
        let path = target.with_file_name(name);
        let mut options = OpenOptions::new();
        let options = options.write(true).create(true).truncate(true).mode(0o600);
        let file = options.open(&path).map_err(|e| cannot(target, &e))?;
        Ok(Self { path, file })
    }

    fn put(self, target: &Path) -> Result<(), Failure> {
        let put = || {
            self.file.sync_all()?;
            fs::rename(&self.path, target)?;
            let dir = target.parent().filter(|p| !p.as_os_str().is_empty());
            File::open(dir.unwrap_or_else(|| Path::new(".")))?.sync_all()
        };
        put().map_err(|e| cannot(target, &e))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // Gone already once it was put in place.
        let _ = fs::remove_file(&self.path);
    }
}

fn cannot(file: &Path, error: &std::io::Error) -> Failure {
    Failure::problem(format!("{} cannot be written: {error}", file.display()))
}

async fn save(context: Context, args: Save) -> Outcome {
    let admin = Admin::connect(&args.place).await?;
    let mut temporary = Temporary::beside(&args.file)?;
    let request = v1::SnapshotRequest { stale: args.stale };
    let receiving = async {
        let mut chunks = admin
            .stream(request, async |mut c, r| c.save_snapshot(r).await)
            .await?;
        while let Some(chunk) = chunks.message().await? {
            let written = temporary.file.write_all(&chunk.data);
            written.map_err(|e| cannot(&args.file, &e))?;
        }
        Ok::<(), Failure>(())
    };
    let received = tokio::time::timeout(SAVE_DEADLINE, receiving).await;
    received.unwrap_or_else(|_late| {
        let s = SAVE_DEADLINE.as_secs();
        Err(Failure::new(
            Exit::TimedOut,
            format!("the snapshot did not end within {s} s"),
        ))
    })?;
    // What came is looked at before it takes the place of anything: a cut stream is no snapshot.
    let found = Inspected::read(&temporary.path).map_err(|e| offline::failure(&e))?;
    temporary.put(&args.file)?;
    let (summary, sha256) = (found.summary(), hex(&found.sha256));
    let printer = context.printer;
    printer.done(format_args!(
        "saved revision {} in {} ({} bytes, sha256 {sha256})",
        count(summary.revision),
        args.file.display(),
        count(found.facts.bytes)
    ));
    printer.say(format_args!(
        "look at it: tradewind store snapshot inspect {}",
        args.file.display()
    ));
    match args.output.format {
        Format::Json => printer.json(&document(
            "tradewind.store-snapshot-saved/v1",
            json!({
                "file": args.file,
                "revision": summary.revision,
                "term": summary.term,
                "bytes": found.facts.bytes,
                "sha256": sha256,
            }),
        )),
        Format::Name => printer.data(args.file.display()),
        Format::Table => {}
    }
    Ok(Exit::Good)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn inspect(context: Context, args: &Inspect) -> Outcome {
    let found = Inspected::read(&args.file).map_err(|e| offline::failure(&e))?;
    let (summary, catalog) = (found.summary(), found.catalog());
    let members: Vec<&ClusterName> = catalog.members().map(|c| &c.name).collect();
    let exports: usize = catalog.exports.values().map(|by| by.len()).sum();
    let endpoints: usize = catalog
        .exports
        .values()
        .flat_map(|by| by.values())
        .map(|e| e.endpoints.len())
        .sum();
    let printer = context.printer;
    let sha256 = hex(&found.sha256);
    match args.output.format {
        Format::Json => printer.json(&document(
            "tradewind.store-snapshot/v1",
            json!({
                "file": args.file,
                "format": found.facts.format,
                "bytes": found.facts.bytes,
                "sha256": sha256,
                "revision": summary.revision,
                "term": summary.term,
                "at_unix_ms": summary.at_ms,
                "domain": catalog.domain,
                "founder": catalog.founder,
                "level": catalog.level,
                "clusters": members,
                "services": catalog.exports.len(),
                "exports": exports,
                "endpoints": endpoints,
                "tokens": catalog.tokens.len(),
                "voters": summary.voters,
                "nodes": summary.nodes,
            }),
        )),
        Format::Name => printer.data(args.file.display()),
        Format::Table => {
            let ago = clock::system().unix_ms().saturating_sub(summary.at_ms);
            let names: Vec<&str> = members.iter().map(|m| m.as_str()).collect();
            let voters: Vec<String> = summary.voters.iter().map(ToString::to_string).collect();
            let line = |name: &str, text: String| printer.data(format_args!("{name:<11}{text}"));
            line("file", args.file.display().to_string());
            line("format", found.facts.format.to_string());
            line(
                "revision",
                format!(
                    "{}, term {}, {} old",
                    count(summary.revision),
                    summary.term,
                    age(ago)
                ),
            );
            line("domain", catalog.domain.to_string());
            line(
                "clusters",
                format!("{} ({})", names.len(), names.join(", ")),
            );
            line(
                "exports",
                format!(
                    "{exports} of {} services, {endpoints} endpoints",
                    catalog.exports.len()
                ),
            );
            line("tokens", catalog.tokens.len().to_string());
            line("voters", voters.join(", "));
            line("bytes", count(found.facts.bytes));
            line("sha256", sha256);
        }
    }
    Ok(Exit::Good)
}
