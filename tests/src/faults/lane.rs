//! A client that writes and reads at one controller, one call after another, and knows of each of its writes what must be
//! true of it. Owns that knowledge and the history of its calls.
//!
//! Each lane writes under names of its own, so that whatever a list shows under them is its doing alone.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::time::Instant;
use tradewind_api::proto::v1::{
    CreateTokenRequest, DrainRequest, ExportRequest, ListTokensResponse, RevokeTokenRequest,
};
use tradewind_runtime::{SharedClock, clock};

use super::{
    ask::{Failed, ask},
    listing::{self, Listing},
    watcher::Seen,
};

/// Tokens a lane keeps; beyond, it revokes. All lanes together stay far below the store's bound.
const KEPT: usize = 12;
/// Tokens outlive the test.
const LIFETIME_S: u64 = 24 * 3600;
/// The service that every cluster has, and exports or not.
pub const SERVICE: &str = "shop/ledger";

/// When writes of one lane succeeded.
pub type Successes = Arc<Mutex<Vec<Instant>>>;

/// One call.
#[derive(Clone, Debug)]
pub struct Op {
    /// When it began, Unix ms.
    pub began_ms: u64,
    /// How long it took, ms.
    pub took_ms: u128,
    /// What was asked.
    pub what: String,
    /// What came of it.
    pub end: String,
}

/// What is known of a token that may stand.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    /// Nobody knows whether it was made.
    Maybe,
    /// Acknowledged, or seen in a list.
    Stands(String),
    /// Nobody knows whether it was revoked. Without its id once it was not found: then it is not asked for again.
    MaybeGone(Option<String>),
}

/// A value that one lane alone sets.
#[derive(Clone, Debug, Default)]
struct Register {
    acknowledged: bool,
    maybe: BTreeSet<bool>,
}

impl Register {
    fn set(&mut self, value: bool, end: &Result<(), Failed>) {
        match end {
            Ok(()) => self.acknowledged = value,
            Err(Failed::Refused(_)) => {}
            Err(Failed::Unknown(_)) => {
                self.maybe.insert(value);
            }
        }
    }

    fn may_be(&self, value: bool) -> bool {
        self.acknowledged == value || self.maybe.contains(&value)
    }

    fn settle(&mut self, value: bool) {
        self.acknowledged = value;
        self.maybe.clear();
    }
}

/// See the module.
pub struct Lane {
    /// Its name, and the start of all names it writes under.
    pub name: String,
    /// The cluster whose controller it asks.
    pub cluster: String,
    /// What was found wrong.
    pub violations: Vec<String>,
    /// All its calls.
    pub history: Vec<Op>,
    /// When its writes succeeded. Shared, since a lane that waits for an answer cannot be looked at.
    pub successes: Successes,
    socket: PathBuf,
    clock: SharedClock,
    rng: fastrand::Rng,
    next: u64,
    tokens: BTreeMap<String, Token>,
    toggles: bool,
    draining: Register,
    exported: Register,
    seen: Arc<Seen>,
}

impl fmt::Debug for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lane")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl Lane {
    /// A lane at the controller behind `socket`. `toggles`: it also drains and exports, as the only one of its cluster.
    pub fn new(
        name: String,
        cluster: &str,
        socket: PathBuf,
        seed: u64,
        toggles: bool,
        seen: Arc<Seen>,
    ) -> Self {
        Self {
            name,
            cluster: cluster.to_owned(),
            violations: Vec::new(),
            history: Vec::new(),
            successes: Successes::default(),
            socket,
            clock: clock::system(),
            rng: fastrand::Rng::with_seed(seed),
            next: 0,
            tokens: BTreeMap::new(),
            toggles,
            draining: Register::default(),
            exported: Register::default(),
            seen,
        }
    }

    /// One write, or a read, as the dice fall.
    pub async fn step(&mut self) {
        let stands = self
            .tokens
            .values()
            .filter(|t| matches!(t, Token::Stands(_)));
        let full = stands.count() >= KEPT;
        match self.rng.u8(0..100) {
            0..20 => self.read().await,
            20..26 if self.toggles => self.drain().await,
            26..34 if self.toggles => self.export().await,
            34..64 => self.revoke().await,
            _ if full => self.revoke().await,
            _ => drop(self.create().await),
        }
    }

    /// Makes a token; its outcome.
    pub async fn create(&mut self) -> Result<(), Failed> {
        let tag = format!("{}-{}", self.name, self.next);
        self.next += 1;
        let request = CreateTokenRequest {
            cluster: tag.clone(),
            lifetime_s: LIFETIME_S,
            workload_path: String::new(),
        };
        let begun = self.begin();
        let made = ask(&self.socket, request, async |mut c, r| {
            c.create_token(r).await
        })
        .await;
        let end = made.as_ref().map(|_| ()).map_err(Clone::clone);
        self.note(begun, format!("create {tag}"), &end);
        match made {
            Ok(made) => drop(self.tokens.insert(tag, Token::Stands(made.id))),
            Err(Failed::Unknown(_)) => drop(self.tokens.insert(tag, Token::Maybe)),
            Err(Failed::Refused(_)) => {}
        }
        end
    }

    /// Revokes one of its tokens, if there is any.
    pub async fn revoke(&mut self) {
        let known: Vec<_> = self
            .tokens
            .iter()
            .filter_map(|(tag, token)| match token {
                Token::Maybe | Token::MaybeGone(None) => None,
                Token::Stands(id) | Token::MaybeGone(Some(id)) => Some((tag.clone(), id.clone())),
            })
            .collect();
        let Some((tag, id)) = self.rng.choice(known) else {
            return;
        };
        let request = RevokeTokenRequest { id: id.clone() };
        let begun = self.begin();
        let end = ask(&self.socket, request, async |mut c, r| {
            c.revoke_token(r).await
        })
        .await;
        let end = end.map(|_| ());
        self.note(begun, format!("revoke {tag}"), &end);
        let stood = matches!(self.tokens.get(&tag), Some(Token::Stands(_)));
        match end {
            Ok(()) => drop(self.tokens.remove(&tag)),
            Err(Failed::Unknown(_)) => drop(self.tokens.insert(tag, Token::MaybeGone(Some(id)))),
            Err(Failed::Refused(why)) if why.starts_with("NotFound") => {
                if stood {
                    self.wrong(format!("{tag} stands and was not found: {why}"));
                } else {
                    self.tokens.insert(tag, Token::MaybeGone(None));
                }
            }
            Err(Failed::Refused(_)) => {}
        }
    }

    async fn drain(&mut self) {
        let value = !self.draining.acknowledged;
        let request = DrainRequest {
            cluster: self.cluster.clone(),
            undo: !value,
        };
        let begun = self.begin();
        let end = ask(&self.socket, request, async |mut c, r| c.drain(r).await).await;
        if let Ok(done) = &end {
            self.seen.acknowledged(&self.cluster, done.revision);
        }
        let end = end.map(|_| ());
        self.note(begun, format!("drain {value}"), &end);
        self.draining.set(value, &end);
    }

    async fn export(&mut self) {
        let value = !self.exported.acknowledged;
        let request = ExportRequest {
            service: SERVICE.to_owned(),
        };
        let begun = self.begin();
        let end = if value {
            ask(&self.socket, request, async |mut c, r| c.export(r).await).await
        } else {
            ask(&self.socket, request, async |mut c, r| c.unexport(r).await).await
        };
        let end = match end {
            // An earlier one, whose answer was lost, has done it.
            Err(Failed::Refused(why)) if !value && why.starts_with("NotFound") => Ok(()),
            end => end.map(|_| ()),
        };
        self.note(begun, format!("export {value}"), &end);
        self.exported.set(value, &end);
    }

    /// Reads its controller's list: all that was acknowledged there must be in it, across restarts too.
    async fn read(&mut self) {
        let begun = self.begin();
        let list = listing::tokens(&self.socket).await;
        let end = list.as_ref().map(|_| ()).map_err(Clone::clone);
        self.note(begun, "read".to_owned(), &end);
        // A read may fail as it likes while its controller is away.
        let Ok(ListTokensResponse { tokens, .. }) = list else {
            return;
        };
        let seen = tokens.into_iter().map(|t| (t.cluster, t.id)).collect();
        self.compare("a read", &seen);
    }

    /// What a list shows under this lane's names, against what it knows.
    fn compare(&mut self, place: &str, seen: &BTreeMap<String, String>) {
        let prefix = format!("{}-", self.name);
        let own = seen.iter().filter(|(tag, _)| tag.starts_with(&prefix));
        for (tag, id) in own {
            match self.tokens.get(tag) {
                Some(Token::Maybe) => {
                    self.tokens.insert(tag.clone(), Token::Stands(id.clone()));
                }
                Some(Token::Stands(_) | Token::MaybeGone(_)) => {}
                None => self.wrong(format!("{place} shows {tag}, which was refused or revoked")),
            }
        }
        let lost: Vec<_> = self
            .tokens
            .iter()
            .filter(|(tag, token)| matches!(token, Token::Stands(_)) && !seen.contains_key(*tag))
            .map(|(tag, _)| tag.clone())
            .collect();
        for tag in lost {
            self.wrong(format!("{place} lacks {tag}, which was acknowledged"));
        }
    }

    /// The same at rest, on all controllers, with the registers.
    pub fn settle(&mut self, listing: &Listing) {
        self.compare("the list at rest", &listing.tokens);
        if !self.toggles {
            return;
        }
        let draining = listing.draining.contains(&self.cluster);
        if !self.draining.may_be(draining) {
            self.wrong(format!("draining is {draining} at rest"));
        }
        self.draining.settle(draining);
        let exported = listing.exported.contains(&self.cluster);
        if !self.exported.may_be(exported) {
            self.wrong(format!("exported is {exported} at rest"));
        }
        self.exported.settle(exported);
    }

    /// True if the exports in `listing` are what this lane asked for: publishing them takes its time.
    pub fn is_published(&self, listing: &Listing) -> bool {
        !self.toggles
            || self
                .exported
                .may_be(listing.exported.contains(&self.cluster))
    }

    /// The calls that had to do with what `text` is about.
    pub fn calls_about(&self, text: &str) -> Vec<String> {
        let about = |op: &&Op| {
            let what = op.what.split(' ').nth(1).unwrap_or_default();
            text.split([' ', ',']).any(|word| word == what)
        };
        let calls = self.history.iter().filter(about);
        calls.map(|op| format!("    {} {op}", self.name)).collect()
    }

    fn begin(&self) -> (u64, Instant) {
        (self.clock.unix_ms(), Instant::now())
    }

    fn note(&mut self, begun: (u64, Instant), what: String, end: &Result<(), Failed>) {
        let write = what != "read";
        if write && end.is_ok() {
            let mut successes = self
                .successes
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            successes.push(Instant::now());
        }
        self.history.push(Op {
            began_ms: begun.0,
            took_ms: begun.1.elapsed().as_millis(),
            what,
            end: match end {
                Ok(()) => "ok".to_owned(),
                Err(Failed::Refused(why)) => format!("refused ({why})"),
                Err(Failed::Unknown(why)) => format!("unknown ({why})"),
            },
        });
    }

    fn wrong(&mut self, what: String) {
        let now_ms = self.clock.unix_ms();
        let whole = format!("{now_ms} at {}: lane {}: {what}", self.cluster, self.name);
        self.violations.push(whole);
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            began_ms,
            took_ms,
            what,
            end,
        } = self;
        write!(f, "{began_ms} +{took_ms} ms {what}: {end}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lane() -> Lane {
        let seen = Arc::new(Seen::default());
        let mut lane = Lane::new("c0l0".into(), "west", PathBuf::new(), 1, true, seen);
        let stands = Token::Stands("id".to_owned());
        lane.tokens.insert("c0l0-1".to_owned(), stands);
        lane.tokens.insert("c0l0-2".to_owned(), Token::Maybe);
        lane.tokens
            .insert("c0l0-3".to_owned(), Token::MaybeGone(None));
        lane
    }

    fn list(tags: &[&str]) -> BTreeMap<String, String> {
        tags.iter()
            .map(|t| ((*t).to_owned(), "id".to_owned()))
            .collect()
    }

    #[test]
    fn a_lost_write_and_one_that_was_refused_are_found() {
        let mut lane = lane();
        lane.compare("a read", &list(&["c0l0-1", "c9l9-7"]));
        lane.compare("a read", &list(&["c0l0-1", "c0l0-2", "c0l0-3"]));
        assert_eq!(lane.violations, Vec::<String>::new());
        // Once seen it stands.
        lane.compare("a read", &list(&["c0l0-1"]));
        assert!(lane.violations[0].contains("lacks c0l0-2"), "{lane:?}");
        lane.compare("a read", &list(&["c0l0-1", "c0l0-2", "c0l0-9"]));
        assert!(lane.violations[1].contains("shows c0l0-9"), "{lane:?}");
    }

    #[test]
    fn a_register_is_what_was_last_acknowledged_or_what_may_still_come() {
        let mut lane = lane();
        let at_rest = |draining: bool| Listing {
            tokens: list(&["c0l0-1"]),
            draining: draining.then(|| "west".to_owned()).into_iter().collect(),
            exported: BTreeSet::new(),
        };
        let unknown = Err(Failed::Unknown(String::new()));
        lane.draining.set(true, &unknown);
        lane.settle(&at_rest(true));
        lane.draining.set(false, &Ok(()));
        assert_eq!(lane.violations, Vec::<String>::new());
        lane.settle(&at_rest(true));
        assert!(lane.violations[0].contains("draining is true"));
    }

    #[test]
    fn a_call_is_found_by_its_name() {
        let mut lane = lane();
        let begun = lane.begin();
        lane.note(begun, "create c0l0-1".to_owned(), &Ok(()));
        assert_eq!(lane.calls_about("lacks c0l0-1, which").len(), 1);
        assert_eq!(lane.calls_about("lacks c0l0-11, which").len(), 0);
    }
}
