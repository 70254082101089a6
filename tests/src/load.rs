//! Loads as a caller would make them, with everything that happened to each request: GETs at a constant rate, and POSTs one
//! after the other; in [`open`], both, whatever happens to those before. Owns its connections.

pub mod open;

use std::{net::SocketAddr, time::Duration};

use ::http::Request;
use bytes::Bytes;
use http_body_util::Full;
use tokio::{
    sync::watch,
    task::{JoinHandle, JoinSet},
    time::Instant,
};

use crate::http::{self, Client, LIMIT};

/// One request's fate.
#[derive(Clone, Debug)]
pub struct Shot {
    /// When it was due.
    pub at: Instant,
    /// How long it took.
    pub took: Duration,
    /// Who served, or what went wrong.
    pub result: Result<String, String>,
}

/// A running load.
#[derive(Debug)]
pub struct Load {
    stop: watch::Sender<bool>,
    task: JoinHandle<Vec<Shot>>,
    seen: watch::Receiver<Option<Result<String, String>>>,
}

/// Keep-alive connections a load uses.
const CONNECTIONS: u32 = 4;

impl Load {
    /// Starts `per_second` GETs.
    pub fn start(address: SocketAddr, per_second: u32) -> Self {
        let (stop, stopped) = watch::channel(false);
        let (tell, seen) = watch::channel(None);
        let task = tradewind_runtime::task::spawn("load", async move {
            let mut lanes = JoinSet::new();
            for lane in 0..CONNECTIONS {
                lanes.spawn(one_lane(
                    address,
                    per_second,
                    lane,
                    stopped.clone(),
                    tell.clone(),
                ));
            }
            let mut all: Vec<Shot> = lanes.join_all().await.into_iter().flatten().collect();
            all.sort_by_key(|s| s.at);
            all
        });
        Self { stop, task, seen }
    }

    /// Waits until the last `n` answers in a row came from `whom`.
    pub async fn settles(&mut self, whom: &str, n: usize, limit: Duration) {
        self.in_a_row(&format!("from {whom}"), |who| who.contains(whom), n, limit)
            .await;
    }

    /// Waits until the last `n` answers in a row came from anybody but `whom`.
    pub async fn leaves(&mut self, whom: &str, n: usize, limit: Duration) {
        self.in_a_row(
            &format!("not from {whom}"),
            |who| !who.contains(whom),
            n,
            limit,
        )
        .await;
    }

    async fn in_a_row(
        &mut self,
        what: &str,
        like: impl Fn(&str) -> bool,
        n: usize,
        limit: Duration,
    ) {
        let mut in_a_row = 0;
        let mut last = None;
        let settled = tokio::time::timeout(limit, async {
            while in_a_row < n {
                self.seen.changed().await.expect("the load runs");
                last.clone_from(&self.seen.borrow_and_update());
                match &last {
                    Some(Ok(who)) if like(who) => in_a_row += 1,
                    _ => in_a_row = 0,
                }
            }
        });
        assert!(
            settled.await.is_ok(),
            "waited {limit:?} for {n} answers in a row {what}; last {last:?}"
        );
    }

    /// Ends it and gives all that happened.
    pub async fn finish(self) -> Vec<Shot> {
        self.stop.send_replace(true);
        self.task.await.expect("the load")
    }
}

async fn one_lane(
    address: SocketAddr,
    per_second: u32,
    lane: u32,
    stopped: watch::Receiver<bool>,
    tell: watch::Sender<Option<Result<String, String>>>,
) -> Vec<Shot> {
    let every = Duration::from_secs(1) * CONNECTIONS / per_second;
    let mut due = Instant::now() + every * lane / CONNECTIONS;
    let mut client = None;
    let mut shots = Vec::new();
    while !*stopped.borrow() {
        tokio::time::sleep_until(due).await;
        let result = tokio::time::timeout(LIMIT, async {
            let mut c = match client.take() {
                Some(c) => c,
                None => Client::open(address).await?,
            };
            let answer = c.ask(http::get_request("/")).await?.ok()?;
            client = Some(c);
            Ok(answer.text())
        });
        let result = result.await.unwrap_or_else(|_| Err("no answer".to_owned()));
        tell.send_replace(Some(result.clone()));
        shots.push(Shot {
            at: due,
            took: due.elapsed(),
            result,
        });
        due += every;
    }
    shots
}

/// POSTs, one after the other on one connection. What is no GET is never sent twice once it may have been processed: it
/// shows every request that was cut.
#[derive(Debug)]
pub struct Posts {
    stop: watch::Sender<bool>,
    task: JoinHandle<(usize, Vec<http::Error>)>,
}

impl Posts {
    /// Starts them.
    pub fn start(address: SocketAddr) -> Self {
        let (stop, stopped) = watch::channel(false);
        let task = tradewind_runtime::task::spawn("posts", async move {
            let (mut sent, mut failed, mut client) = (0, Vec::new(), None);
            while !*stopped.borrow() {
                let post = post(address, client.take());
                match tokio::time::timeout(LIMIT, post).await {
                    Ok(Ok(c)) => client = Some(c),
                    Ok(Err(why)) => failed.push(why),
                    Err(_) => failed.push("no answer".to_owned()),
                }
                sent += 1;
            }
            (sent, failed)
        });
        Self { stop, task }
    }

    /// Ends them; panics when any failed.
    pub async fn none_failed(self) {
        self.stop.send_replace(true);
        let (sent, failed) = self.task.await.expect("the posts");
        let count = failed.len();
        assert!(
            failed.is_empty(),
            "{count} of {sent} POSTs failed: {failed:?}"
        );
        assert!(sent > 0, "no POST was made");
    }
}

type PostClient = Client<Full<Bytes>>;

async fn post(address: SocketAddr, client: Option<PostClient>) -> Result<PostClient, http::Error> {
    let mut client = match client {
        Some(client) => client,
        None => Client::open(address).await?,
    };
    let request = Request::post("/")
        .header("host", "payments")
        .body(Full::from("once"))
        .map_err(|e| e.to_string())?;
    client.ask(request).await?.ok()?;
    Ok(client)
}

/// Panics when anything failed, with the first few.
#[track_caller]
pub fn none_failed(shots: &[Shot]) {
    let failed: Vec<_> = shots
        .iter()
        .filter_map(|s| s.result.as_ref().err().map(|e| (s.at, e)))
        .collect();
    let shown: Vec<_> = failed.iter().take(5).collect();
    assert!(
        failed.is_empty(),
        "{} of {} failed: {shown:?}",
        failed.len(),
        shots.len()
    );
    assert!(!shots.is_empty(), "the load made no request");
}
