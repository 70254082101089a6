//! An open load: requests begin at a constant rate, however long others take, and everything that happened to each is kept. GETs
//! may be sent twice, POSTs may not, and each carries an id that the application notes. Owns its connections.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use ::http::{HeaderName, Method, Request};
use bytes::Bytes;
use http_body_util::Full;
use tokio::{task::JoinHandle, time::Instant};
use tradewind_runtime::{TaskSet, task};
use tradewind_transport::hbone::headers;

use crate::http::{Client, LIMIT};

/// Carries a request's id.
pub const ID: HeaderName = HeaderName::from_static("lab-id");
/// Requests under way at most: what a caller who waits for nobody has open when nothing is answered for several seconds.
const MOST: usize = 4_096;
/// A tick of the clock that requests are due by: shorter than the time between two of any load here.
const TICK: Duration = Duration::from_millis(1);

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Answered by this application.
    Served(String),
    /// Answered with another status than 200, and the proxy's reason, if it gave one.
    Refused {
        /// The status.
        status: u16,
        /// The proxy's reason.
        reason: String,
        /// The rest of what it said.
        text: String,
    },
    /// Not answered.
    Broken(String),
}

/// One request. Times are since the load's start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Whether it may not be sent twice.
    pub post: bool,
    /// Its id.
    pub id: u64,
    /// When it was due.
    pub due: Duration,
    /// When it was made: later than that where this machine stood still.
    pub made: Duration,
    /// When its end was known.
    pub ended: Duration,
    /// How it ended.
    pub outcome: Outcome,
}

/// What to send.
#[derive(Clone, Copy, Debug)]
pub struct Rates {
    /// Idempotent requests a second.
    pub gets: u32,
    /// Others.
    pub posts: u32,
}

type Idle = Arc<Mutex<Vec<Client<Full<Bytes>>>>>;

/// A running load.
#[derive(Debug)]
pub struct Open {
    began: Instant,
    stop: Arc<AtomicBool>,
    records: Arc<Mutex<Vec<Record>>>,
    task: JoinHandle<()>,
}

impl Open {
    /// Starts one. Ids count from `first_id`.
    pub fn start(address: SocketAddr, rates: Rates, first_id: u64) -> Self {
        let began = Instant::now();
        let stop = Arc::new(AtomicBool::new(false));
        let records = Arc::default();
        let shots = Shots {
            address,
            began,
            records: Arc::clone(&records),
            idle: Arc::default(),
            open: Arc::default(),
        };
        let task = task::spawn("open load", shots.all(rates, first_id, Arc::clone(&stop)));
        Self {
            began,
            stop,
            records,
            task,
        }
    }

    /// How long it has run.
    pub fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// What has ended so far, in the order in which it ended.
    pub fn records(&self) -> Vec<Record> {
        lock(&self.records).clone()
    }

    /// Ends it, and waits for those that are under way.
    pub async fn finish(self) -> Vec<Record> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.expect("the load");
        std::mem::take(&mut *lock(&self.records))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Clone)]
struct Shots {
    address: SocketAddr,
    began: Instant,
    records: Arc<Mutex<Vec<Record>>>,
    idle: Idle,
    open: Arc<AtomicUsize>,
}

impl Shots {
    async fn all(self, rates: Rates, first_id: u64, stop: Arc<AtomicBool>) {
        let mut under_way = TaskSet::new();
        let mut id = first_id;
        let mut sent = [0_u32; 2];
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        while !stop.load(Ordering::Relaxed) {
            ticks.tick().await;
            let now = self.began.elapsed();
            for (post, rate) in [(false, rates.gets), (true, rates.posts)] {
                let due = |sent: u32| Duration::from_secs(1) * sent / rate.max(1);
                let sent = &mut sent[usize::from(post)];
                while rate > 0 && due(*sent) <= now {
                    let shots = self.clone();
                    under_way.spawn("open load request", shots.one(post, id, due(*sent)));
                    *sent += 1;
                    id += 1;
                }
            }
        }
        under_way.join_all().await;
    }

    async fn one(self, post: bool, id: u64, due: Duration) {
        let made = self.began.elapsed();
        let outcome = if self.open.fetch_add(1, Ordering::Relaxed) < MOST {
            let asked = tokio::time::timeout(LIMIT, self.ask(post, id)).await;
            match asked {
                Ok(Ok(outcome)) => outcome,
                Ok(Err(why)) => Outcome::Broken(why),
                Err(_) => Outcome::Broken(format!("no answer in {LIMIT:?}")),
            }
        } else {
            Outcome::Broken(format!("{MOST} requests are under way already"))
        };
        self.open.fetch_sub(1, Ordering::Relaxed);
        lock(&self.records).push(Record {
            post,
            id,
            due,
            made,
            ended: self.began.elapsed(),
            outcome,
        });
    }

    async fn ask(&self, post: bool, id: u64) -> Result<Outcome, String> {
        let idle = || {
            let mut idle = lock(&self.idle);
            std::iter::from_fn(|| idle.pop()).find(Client::is_open)
        };
        let mut client = match idle() {
            Some(client) => client,
            None => Client::open(self.address).await?,
        };
        let (method, body) = if post {
            (Method::POST, Full::from("once"))
        } else {
            (Method::GET, Full::default())
        };
        let request = Request::builder()
            .method(method)
            .uri("/")
            .header("host", "lab")
            .header(ID, id)
            .body(body)
            .map_err(|e| e.to_string())?;
        let answer = client.ask(request).await?;
        lock(&self.idle).push(client);
        if answer.status == 200 {
            return Ok(Outcome::Served(answer.text()));
        }
        let reason = answer.headers.get(headers::ERROR);
        Ok(Outcome::Refused {
            status: answer.status,
            reason: reason.map_or_else(String::new, |r| {
                String::from_utf8_lossy(r.as_bytes()).into_owned()
            }),
            text: answer.text(),
        })
    }
}
