//! One watch over all of its attempts: what its events tell, when it is tried again, and what is told of a kind that the API server refuses.
//!
//! Owns how long the watch has been broken off. What it told before stands meanwhile.

use std::{fmt::Display, pin::pin, sync::Arc, time::Duration};

use futures::{Stream, StreamExt as _};
use kube::runtime::{watcher, watcher::Event};
use tokio::{
    sync::{Notify, mpsc, watch},
    time::Instant,
};

use crate::objects::{Change, Key, Kind, Object};

/// First and longest wait before a watch that broke off is begun again. Short, so that kinds are in step again soon after an API server
/// came back; a controller has some thirty watches, which an API server does not feel.
const WAIT: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(3));
/// How long a kind is refused before that is told. An API server that starts refuses what it serves a second later.
const REFUSED: Duration = Duration::from_secs(5);
/// What the API server answers whoever asks too often, and while it fills its own caches.
const TOO_MANY_REQUESTS: u16 = 429;
/// What it answers whoever asks for what it has forgotten.
const EXPIRED: u16 = 410;

/// What watches and whoever looks whether the API server is there tell each other: that one broke off, and that it answers again. Clones
/// tell the same ones.
#[derive(Clone, Debug, Default)]
pub struct Pulse {
    broke: Arc<Notify>,
    /// Counts returns.
    answers: watch::Sender<u64>,
}

impl Pulse {
    /// The API server answers again: watches need not wait for their time.
    pub(super) fn answers(&self) {
        self.answers.send_modify(|returns| *returns += 1);
    }

    /// Returns when a watch broke off.
    pub(super) async fn broke(&self) {
        self.broke.notified().await;
    }
}

/// Waits between attempts, each up to twice as long as the one before.
struct Waits {
    next: Duration,
}

impl Default for Waits {
    fn default() -> Self {
        Self { next: WAIT.0 }
    }
}

impl Waits {
    fn next(&mut self) -> Duration {
        let wait = self.next;
        self.next = wait.saturating_mul(2).min(WAIT.1);
        wait
    }
}

/// Why an attempt failed.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Why {
    /// Nobody answered, or somebody who has no time.
    Away,
    /// The API server no longer has what lies between: the kind is listed anew.
    Expired,
    /// It was answered, and not with objects.
    Refused(String),
}

impl Why {
    fn of(error: &kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self::of_status(status.code, &status.message),
            kube::Error::SerdeError(_) | kube::Error::FromUtf8(_) => {
                Self::Refused(error.to_string())
            }
            _ => Self::Away,
        }
    }

    fn of_watcher(error: &watcher::Error) -> Self {
        match error {
            watcher::Error::InitialListFailed(cause)
            | watcher::Error::WatchStartFailed(cause)
            | watcher::Error::WatchFailed(cause) => Self::of(cause),
            watcher::Error::WatchError(status) => Self::of_status(status.code, &status.message),
            watcher::Error::NoResourceVersion => Self::Refused(error.to_string()),
        }
    }

    fn of_status(code: u16, message: &str) -> Self {
        match code {
            TOO_MANY_REQUESTS => Self::Away,
            EXPIRED => Self::Expired,
            code => Self::Refused(format!("{message} ({code})")),
        }
    }
}

/// What comes after an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Another one that lists the kind.
    Anew,
    /// Nothing: nobody listens any more.
    Nothing,
}

/// See the module.
pub(super) struct Attempts<'a> {
    out: &'a mpsc::Sender<Change>,
    kind: &'a Kind,
    broke: Arc<Notify>,
    answers: watch::Receiver<u64>,
    waits: Waits,
    /// An outage is told once and not at each attempt.
    broken: bool,
    /// Since when there was no other answer.
    refused: Option<Instant>,
    /// The refusal that was told.
    told: Option<String>,
    /// When a list was begun anew without a wait.
    relisted: Option<Instant>,
}

impl<'a> Attempts<'a> {
    pub(super) fn new(out: &'a mpsc::Sender<Change>, kind: &'a Kind, pulse: &Pulse) -> Self {
        Self {
            out,
            kind,
            broke: Arc::clone(&pulse.broke),
            answers: pulse.answers.subscribe(),
            waits: Waits::default(),
            broken: false,
            refused: None,
            told: None,
            relisted: None,
        }
    }

    /// Tells of a stream's events until it ends or is better begun anew. A list that is begun anew is told when it is complete.
    pub(super) async fn follow<K>(
        &mut self,
        stream: impl Stream<Item = watcher::Result<Event<K>>>,
        read: impl Fn(K) -> Option<(Key, Option<Object>)>,
    ) -> Next {
        let mut stream = pin!(stream);
        let mut listing = Vec::new();
        while let Some(event) = stream.next().await {
            let change = match event {
                // Said before anything was asked.
                Ok(Event::Init) => {
                    listing.clear();
                    continue;
                }
                Ok(Event::InitApply(object)) => {
                    let known = read(object).and_then(|(key, object)| Some((key, object?)));
                    listing.extend(known);
                    continue;
                }
                Ok(Event::InitDone) => {
                    Some(Change::All(self.kind.clone(), std::mem::take(&mut listing)))
                }
                Ok(Event::Apply(object)) => read(object).map(|(key, object)| match object {
                    Some(object) => Change::Set(key, object),
                    None => Change::Gone(self.kind.clone(), key),
                }),
                Ok(Event::Delete(object)) => {
                    read(object).map(|(key, _)| Change::Gone(self.kind.clone(), key))
                }
                Err(error) => match self.failed(&Why::of_watcher(&error), &error).await {
                    Some(next) => return next,
                    None => continue,
                },
            };
            self.goes_on();
            if let Some(change) = change
                && self.out.send(change).await.is_err()
            {
                return Next::Nothing;
            }
        }
        self.pause().await;
        Next::Anew
    }

    /// Takes a question that failed before there was a stream.
    pub(super) async fn unanswered(&mut self, error: &kube::Error) -> Next {
        self.failed(&Why::of(error), error)
            .await
            .unwrap_or(Next::Anew)
    }

    /// Takes an answer that tells of the kind.
    pub(super) fn goes_on(&mut self) {
        if std::mem::take(&mut self.broken) {
            tracing::info!(kind = %self.kind, "a watch goes on");
        }
        self.waits = Waits::default();
        self.refused = None;
        self.told = None;
    }

    /// Waits for the next attempt; none where the same stream makes it.
    async fn failed(&mut self, why: &Why, error: &(dyn Display + Sync)) -> Option<Next> {
        let kind = self.kind;
        if *why == Why::Expired && self.relisted.is_none_or(|at| at.elapsed() >= WAIT.1) {
            self.relisted = Some(Instant::now());
            tracing::debug!(%kind, %error, "a kind is listed anew");
            return None;
        }
        if std::mem::replace(&mut self.broken, true) {
            tracing::debug!(%kind, %error, "a watch is still broken off");
        } else {
            tracing::warn!(%kind, %error, "a watch broke off; what it told stands");
            self.broke.notify_one();
        }
        let next = match why {
            Why::Away | Why::Expired => {
                self.refused = None;
                None
            }
            Why::Refused(why) => self.is_refused(why).await,
        };
        if next != Some(Next::Nothing) {
            self.pause().await;
        }
        next
    }

    /// A refusal that lasts is told, and then lists are asked for: a watch that is let through again would say nothing until something happens.
    async fn is_refused(&mut self, why: &str) -> Option<Next> {
        let since = *self.refused.get_or_insert_with(Instant::now);
        if since.elapsed() < REFUSED {
            return None;
        }
        if self.told.as_deref() != Some(why) {
            let change = Change::Refused(self.kind.clone(), why.to_owned());
            if self.out.send(change).await.is_err() {
                return Some(Next::Nothing);
            }
            self.told = Some(why.to_owned());
        }
        Some(Next::Anew)
    }

    async fn pause(&mut self) {
        let wait = self.waits.next();
        tokio::select! {
            biased;
            Ok(()) = self.answers.changed() => self.waits = Waits::default(),
            () = tokio::time::sleep(wait) => {}
        }
    }
}
