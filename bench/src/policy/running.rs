//! One cluster on loopback: a controller that reads a directory, and proxies that are asked all the time what their rule says.
//! Owns the processes, which end with it.

use std::{fs::File, net::SocketAddr, path::PathBuf, process::Stdio, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::{Request, client::conn::http1::SendRequest};
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpStream,
    process::{Child, Command},
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use super::{PATIENCE, PolicyArguments, objects};
use crate::usage;

/// Between two looks at a proxy: the resolution of what is measured. More often, and looking is most of what is done.
const LOOK: Duration = Duration::from_millis(5);
/// Between two changes, so that each begins with everybody at rest.
const REST: Duration = Duration::from_millis(250);
/// How long memory may take to settle.
const SETTLE: Duration = Duration::from_secs(2);

/// What was measured.
pub(super) struct Measured {
    pub(super) start: Duration,
    pub(super) controller_rss: u64,
    pub(super) proxy_rss: u64,
    pub(super) proxy_rss_before: u64,
    /// Of each change, how long each proxy took.
    pub(super) changes: Vec<Vec<Duration>>,
}

struct Cluster {
    program: PathBuf,
    dir: PathBuf,
}

impl Cluster {
    fn start(&self, name: &str, words: &[String]) -> Result<Child, String> {
        let log = self.dir.join(format!("{name}.log"));
        let log = File::create(&log).map_err(|e| format!("{}: {e}", log.display()))?;
        Command::new(&self.program)
            .args(words)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .map_err(|e| format!("{}: {e}", self.program.display()))
    }

    fn data(&self) -> String {
        self.dir.join("data").display().to_string()
    }

    fn manifests(&self) -> PathBuf {
        self.dir.join("manifests")
    }

    async fn init(&self) -> Result<(), String> {
        let words = ["init", "--cluster", "bench", "--region", "here"];
        let words = words.map(str::to_owned).into_iter();
        let more = ["--data-dir".to_owned(), self.data()];
        let gateway = ["--gateway".to_owned(), "127.0.77.1:15443".to_owned()];
        let words: Vec<_> = words.chain(more).chain(gateway).collect();
        let done = self.start("init", &words)?.wait().await;
        match done {
            Ok(status) if status.success() => Ok(()),
            other => Err(format!(
                "tradewind init: {other:?}, see {}",
                self.dir.join("init.log").display()
            )),
        }
    }

    fn controller(&self) -> Result<Child, String> {
        let manifests = self.manifests().display().to_string();
        let words = [
            "controller",
            "--data-dir",
            &self.data(),
            "--listen",
            "127.0.77.2:15012",
            "--admin-listen",
            "127.0.77.2:15020",
            "--manifests",
            &manifests,
        ];
        self.start("controller", &words.map(str::to_owned))
    }

    fn proxy(&self, n: usize) -> Result<(Child, SocketAddr), String> {
        let ip = format!("127.0.78.{}", n + 1);
        let listen = format!("{ip}:9090={}:80", objects::CHANGING);
        let name = format!("proxy-{n}");
        let words = [
            "proxy",
            "--name",
            &name,
            "--data-dir",
            &self.data(),
            "--identity",
            "bench/caller",
            "--listen",
            &listen,
            "--hbone-listen",
            &format!("{ip}:15008"),
            "--admin-listen",
            &format!("{ip}:15020"),
            "--threads",
            "1",
        ];
        let child = self.start(&name, &words.map(str::to_owned))?;
        let address = format!("{ip}:9090").parse().map_err(|e| format!("{e}"))?;
        Ok((child, address))
    }
}

/// Starts everything, changes one rule again and again, and says what it took.
pub(super) async fn measure(arguments: &PolicyArguments) -> Result<Measured, String> {
    let dir = tempfile::tempdir_in(&arguments.dir)
        .or_else(|_| {
            std::fs::create_dir_all(&arguments.dir)?;
            tempfile::tempdir_in(&arguments.dir)
        })
        .map_err(|e| format!("{}: {e}", arguments.dir.display()))?;
    let beside = std::env::current_exe().map_err(|e| e.to_string())?;
    let cluster = Cluster {
        program: arguments
            .tradewind
            .clone()
            .unwrap_or_else(|| beside.with_file_name("tradewind")),
        dir: dir.path().to_owned(),
    };
    let manifests = cluster.manifests();
    std::fs::create_dir_all(&manifests).map_err(|e| e.to_string())?;
    objects::write_services(&manifests, arguments.services)?;
    objects::write_changing(&manifests, 0)?;
    cluster.init().await?;
    let mut controller = cluster.controller()?;
    let mut proxies = Vec::new();
    let mut addresses = Vec::new();
    for n in 0..arguments.proxies {
        let (proxy, address) = cluster.proxy(n)?;
        proxies.push(proxy);
        addresses.push(address);
    }
    all_say(&addresses, 0, Instant::now()).await?;
    sleep(SETTLE).await;
    let proxy_rss_before = median_rss(&proxies)?;
    eprintln!(
        "{} proxies know {} services",
        proxies.len(),
        arguments.services
    );

    // The rules come; with them a controller that starts anew, as after an upgrade.
    let pid = controller.id().ok_or("the controller ended")?;
    controller
        .kill()
        .await
        .map_err(|e| format!("controller {pid}: {e}"))?;
    objects::write_policies(&manifests, arguments.routes, arguments.services)?;
    objects::write_changing(&manifests, 1)?;
    let started = Instant::now();
    let controller = cluster.controller()?;
    all_say(&addresses, 1, started).await?;
    let start = started.elapsed();
    eprintln!("they act on the rules after {:.1} s", start.as_secs_f64());
    sleep(SETTLE).await;
    let mut changes = Vec::new();
    for version in 2..arguments.changes + 2 {
        sleep(REST).await;
        let changed = Instant::now();
        objects::write_changing(&manifests, version)?;
        changes.push(all_say(&addresses, version, changed).await?);
    }
    let controller_rss = usage::rss(controller.id().ok_or("the controller ended")?)?;
    let proxy_rss = median_rss(&proxies)?;
    drop(proxies);
    Ok(Measured {
        start,
        controller_rss,
        proxy_rss,
        proxy_rss_before,
        changes,
    })
}

fn median_rss(proxies: &[Child]) -> Result<u64, String> {
    let mut all = Vec::new();
    for proxy in proxies {
        all.push(usage::rss(proxy.id().ok_or("a proxy ended")?)?);
    }
    all.sort_unstable();
    all.get(all.len() / 2).copied().ok_or("no proxy".to_owned())
}

/// Waits until every proxy answers with that version; how long each took since.
async fn all_say(
    addresses: &[SocketAddr],
    version: usize,
    since: Instant,
) -> Result<Vec<Duration>, String> {
    let mut asking = JoinSet::new();
    for address in addresses.iter().copied() {
        asking.spawn(async move {
            let wanted = format!("version {version}.");
            let said = timeout(PATIENCE, until_says(address, &wanted)).await;
            said.map_err(|_| format!("{address} never said {wanted:?}"))?;
            Ok::<_, String>(since.elapsed())
        });
    }
    let mut times = Vec::new();
    while let Some(done) = asking.join_next().await {
        times.push(done.map_err(|e| e.to_string())??);
    }
    Ok(times)
}

async fn until_says(address: SocketAddr, wanted: &str) {
    let mut client = None;
    loop {
        if client.is_none() {
            client = connect(address).await;
        }
        if let Some(sender) = &mut client {
            match ask(sender).await {
                Some(text) if text == wanted => return,
                Some(_) => {}
                None => client = None,
            }
        }
        sleep(LOOK).await;
    }
}

async fn connect(address: SocketAddr) -> Option<SendRequest<Empty<Bytes>>> {
    let stream = TcpStream::connect(address).await.ok()?;
    stream.set_nodelay(true).ok()?;
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (sender, connection) = handshake.ok()?;
    drop(tradewind_runtime::task::spawn(
        "bench connection",
        async move {
            drop(connection.await);
        },
    ));
    Some(sender)
}

async fn ask(sender: &mut SendRequest<Empty<Bytes>>) -> Option<String> {
    sender.ready().await.ok()?;
    let request = Request::get("/").header("host", "changing.bench");
    let response = sender.send_request(request.body(Empty::new()).ok()?).await;
    let body = response.ok()?.into_body().collect().await.ok()?;
    String::from_utf8(body.to_bytes().to_vec()).ok()
}
