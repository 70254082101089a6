//! One thread's sessions: at most a few per endpoint, shared by all requests, dialled once however many wait.
//!
//! Owns the sessions and the dials under way. It never chooses an endpoint; whoever does learns through a callback when a
//! session ended for another reason than order.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    fmt,
    rc::{Rc, Weak},
    sync::Arc,
    time::Duration,
};

use futures::{
    FutureExt,
    future::{LocalBoxFuture, Shared},
};
use rustls::ClientConfig;
use tokio::{sync::oneshot, time::Instant};
use tradewind_api::id::{EndpointId, SpiffeId};
use tradewind_runtime::{clock::SharedClock, task};

use super::{
    dial::{self, Destination, DialError, Fault},
    session::{Closed, Session},
};
use crate::{
    svid::{Svid, SvidCell},
    tls::{self, Expect},
    trust::{TrustCell, Usage},
};

/// Sessions per endpoint and thread; more are opened only while the others are full of streams.
const MAX_SESSIONS: usize = 4;
/// TLS configurations kept, one per identity. More identities than this are not called by one workload at a time.
const MAX_CONFIGS: usize = 1024;

/// Called when a session ended.
pub type OnClosed = Box<dyn Fn(&EndpointId, &Closed)>;

/// What a pool works with.
#[derive(Clone, Debug)]
pub struct PoolConfig {
    /// Our certificate.
    pub svid: SvidCell,
    /// Whom to believe.
    pub trust: TrustCell,
    /// The time, for certificates.
    pub clock: SharedClock,
}

type Dialling = Shared<LocalBoxFuture<'static, dial::Shared<Session>>>;

#[derive(Default)]
struct Entry {
    sessions: Vec<Session>,
    dialling: Option<Dialling>,
}

struct Inner {
    config: PoolConfig,
    mark: Cell<Option<u32>>,
    entries: RefCell<BTreeMap<EndpointId, Entry>>,
    tls: RefCell<BTreeMap<SpiffeId, Arc<ClientConfig>>>,
    on_closed: RefCell<Option<OnClosed>>,
}

/// A thread's sessions. Cloning shares them.
#[derive(Clone)]
pub struct Pool(Rc<Inner>);

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("endpoints", &self.0.entries.borrow().len())
            .finish_non_exhaustive()
    }
}

impl Pool {
    /// An empty pool for the current thread.
    pub fn new(config: PoolConfig) -> Self {
        Self(Rc::new(Inner {
            config,
            mark: Cell::new(None),
            entries: RefCell::default(),
            tls: RefCell::default(),
            on_closed: RefCell::new(None),
        }))
    }

    /// Has the sockets that are dialled from now on carry this firewall mark.
    pub fn set_mark(&self, mark: Option<u32>) {
        self.0.mark.set(mark);
    }

    /// Has `f` called whenever a session ended.
    pub fn on_closed(&self, f: OnClosed) {
        *self.0.on_closed.borrow_mut() = Some(f);
    }

    /// A session with `to`: one that exists, or the outcome of the one dial that is under way or starts now.
    pub async fn session(&self, to: &Destination) -> Result<Session, Rc<DialError>> {
        match self.existing(to) {
            Some(session) => Ok(session),
            None => self.dial(to).await,
        }
    }

    /// A usable session with `to`, if there is one with room. Where our certificate was renewed since, its successor is
    /// dialled in the background.
    pub fn existing(&self, to: &Destination) -> Option<Session> {
        let mut entries = self.0.entries.borrow_mut();
        let entry = entries.get_mut(&to.endpoint)?;
        entry.sessions.retain(|s| {
            let keep = s.is_usable() && s.peer().id == to.identity;
            if !keep {
                s.retire();
            }
            keep
        });
        let best = entry.sessions.iter().min_by_key(|s| s.streams())?.clone();
        if best.is_full() && entry.sessions.len() < MAX_SESSIONS {
            return None;
        }
        let current = self.0.config.svid.current();
        if !same(current.as_ref(), best.svid()) && entry.dialling.is_none() {
            drop(self.start_dial(entry, to));
        }
        Some(best)
    }

    /// Dials, or joins the dial that is under way. The dial goes on when its callers have gone: the next one needs it too.
    pub async fn dial(&self, to: &Destination) -> Result<Session, Rc<DialError>> {
        let dialling = {
            let mut entries = self.0.entries.borrow_mut();
            let entry = entries.entry(to.endpoint.clone()).or_default();
            entry
                .dialling
                .clone()
                .unwrap_or_else(|| self.start_dial(entry, to))
        };
        dialling.await
    }

    fn start_dial(&self, entry: &mut Entry, to: &Destination) -> Dialling {
        let (tx, rx) = oneshot::channel();
        let inner = Rc::clone(&self.0);
        let destination = to.clone();
        drop(task::spawn_local("hbone_dial", async move {
            let outcome = establish(&inner, &destination).await.map_err(Rc::new);
            inner.dialled(&destination.endpoint, &outcome);
            drop(tx.send(outcome));
        }));
        let dialling = rx
            .map(|r| {
                r.unwrap_or_else(|_| {
                    Err(Rc::new(DialError::undialled(
                        Fault::Endpoint,
                        "the dial was cut short",
                    )))
                })
            })
            .boxed_local()
            .shared();
        entry.dialling = Some(dialling.clone());
        dialling
    }

    /// Retires the sessions that `keep`, asked for the endpoint and the address that was dialled, does not hold on to: the
    /// endpoint is gone, or the gateway between is leaving. Requests under way finish.
    pub fn retain(&self, keep: impl Fn(&EndpointId, &str) -> bool) {
        self.0.entries.borrow_mut().retain(|id, entry| {
            entry.sessions.retain(|session| {
                let kept = keep(id, session.via());
                if !kept {
                    session.retire();
                }
                kept
            });
            !entry.sessions.is_empty() || entry.dialling.is_some()
        });
    }

    /// Retires everything: the connections end after their last stream.
    pub fn retire_all(&self) {
        self.retain(|_, _| false);
    }

    /// Sessions and streams open now.
    pub fn open(&self) -> (usize, usize) {
        let entries = self.0.entries.borrow();
        let sessions = || {
            entries
                .values()
                .flat_map(|e| &e.sessions)
                .filter(|s| s.is_usable())
        };
        (sessions().count(), sessions().map(Session::streams).sum())
    }

    /// What the open sessions with `endpoint` were dialled at, sorted.
    pub fn ways(&self, endpoint: &EndpointId) -> Vec<String> {
        let entries = self.0.entries.borrow();
        let sessions = entries.get(endpoint).into_iter().flat_map(|e| &e.sessions);
        let usable = sessions.filter(|s| s.is_usable());
        let mut ways: Vec<_> = usable.map(|s| s.via().to_owned()).collect();
        ways.sort();
        ways.dedup();
        ways
    }

    /// The last measured round trip to `endpoint`, if a session with it is open.
    pub fn rtt(&self, endpoint: &EndpointId) -> Option<Duration> {
        self.0
            .entries
            .borrow()
            .get(endpoint)?
            .sessions
            .iter()
            .map(Session::rtt)
            .min()
    }
}

fn same(a: Option<&Arc<Svid>>, b: Option<&Arc<Svid>>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => Arc::ptr_eq(a, b),
        (None, None) => true,
        _ => false,
    }
}

impl Inner {
    fn client_config(&self, identity: &SpiffeId) -> Arc<ClientConfig> {
        let mut configs = self.tls.borrow_mut();
        if let Some(config) = configs.get(identity) {
            return Arc::clone(config);
        }
        if configs.len() >= MAX_CONFIGS {
            configs.clear();
        }
        let expect = Expect::OneOf(Arc::new([identity.clone()].into()));
        let config = tls::client_config(&self.config.svid, &self.config.trust, expect);
        configs.insert(identity.clone(), Arc::clone(&config));
        config
    }

    /// Books a dial's outcome. Sessions made with an older certificate are left for the new one.
    fn dialled(&self, endpoint: &EndpointId, outcome: &dial::Shared<Session>) {
        let mut entries = self.entries.borrow_mut();
        let Some(entry) = entries.get_mut(endpoint) else {
            // Forgotten while it was dialled: whoever waits may use it, nobody else will find it.
            return;
        };
        entry.dialling = None;
        if let Ok(session) = outcome {
            let current = self.config.svid.current();
            if same(current.as_ref(), session.svid()) {
                entry.sessions.retain(|s| {
                    let keep = same(current.as_ref(), s.svid());
                    if !keep {
                        s.retire();
                    }
                    keep
                });
            }
            entry.sessions.push(session.clone());
        } else if entry.sessions.is_empty() {
            entries.remove(endpoint);
        }
    }

    fn closed(&self, endpoint: &EndpointId, why: &Closed) {
        if let Some(entry) = self.entries.borrow_mut().get_mut(endpoint) {
            entry.sessions.retain(Session::is_usable);
        }
        if let Some(f) = &*self.on_closed.borrow() {
            f(endpoint, why);
        }
    }
}

/// Why nobody would accept us now, if so: found out here, it is not booked on those who would refuse.
fn unfit(svid: Option<&Svid>, now_unix_ms: u64) -> Option<&'static str> {
    match svid {
        None => Some("this proxy has no certificate yet"),
        Some(s) if u64::try_from(s.not_after_unix_s).unwrap_or(0) <= now_unix_ms / 1000 => {
            Some("this proxy's own certificate has expired")
        }
        Some(_) => None,
    }
}

async fn establish(inner: &Rc<Inner>, to: &Destination) -> Result<Session, DialError> {
    let config = inner.client_config(&to.identity);
    // Before the handshake: a renewal during it makes the session look old, which is harmless; the reverse is not.
    let svid = inner.config.svid.current();
    let now_ms = inner.config.clock.unix_ms();
    if let Some(why) = unfit(svid.as_deref(), now_ms) {
        return Err(DialError::undialled(Fault::Ourselves, why));
    }
    let dialled = dial::dial(to, &config, inner.mark.get()).await?;
    let trust = inner.config.trust.watch();
    let Some(peer) = tls::peer_of(
        &dialled.leaf,
        &inner.config.trust,
        now_ms / 1000,
        Usage::Server,
    ) else {
        let why = "the peer was revoked during the handshake";
        return Err(DialError::undialled(Fault::Identity, why));
    };
    let mut driver = dialled.driver;
    let left_s = u64::try_from(peer.not_after_unix_s)
        .unwrap_or(0)
        .saturating_sub(now_ms / 1000);
    // A certificate that lasts for centuries would overflow the clock's scale; nothing lives that long.
    driver.until = Instant::now().checked_add(Duration::from_secs(left_s.min(MAX_LIFE_S)));
    let (pool, endpoint): (Weak<Inner>, _) = (Rc::downgrade(inner), to.endpoint.clone());
    Ok(Session::start(
        dialled.send,
        driver,
        peer,
        svid,
        dialled.via,
        trust,
        move |why| {
            if let Some(pool) = pool.upgrade() {
                pool.closed(&endpoint, &why);
            }
        },
    ))
}

/// Upper bound of a session's life, in seconds: ten years.
const MAX_LIFE_S: u64 = 10 * 365 * 86_400;
