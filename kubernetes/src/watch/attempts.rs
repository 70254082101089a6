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
            return Some(Next::Anew);
        }
        if std::mem::replace(&mut self.broken, true) {
            tracing::debug!(%kind, %error, "a watch is still broken off");
        } else {
            tracing::warn!(%kind, %error, "a watch broke off; what it told stands");
            self.broke.notify_one();
        }
        let next = match why {
            Why::Away => {
                self.refused = None;
                None
            }
            Why::Expired => {
                self.refused = None;
                Some(Next::Anew)
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

#[cfg(test)]
mod tests {
    use futures::stream;
    use kube::core::{Status, response::StatusSummary};

    use super::*;

    type Said = watcher::Result<Event<u16>>;

    fn status(code: u16) -> Box<Status> {
        Box::new(Status {
            status: Some(StatusSummary::Failure),
            code,
            message: "as it says".into(),
            metadata: None,
            reason: String::new(),
            details: None,
        })
    }

    /// Nobody is there.
    fn away() -> Said {
        let cause = kube::Error::Service("connection refused".into());
        Err(watcher::Error::WatchStartFailed(cause))
    }

    fn answer(code: u16) -> Said {
        Err(watcher::Error::InitialListFailed(kube::Error::Api(status(
            code,
        ))))
    }

    fn read(_: u16) -> Option<(Key, Option<Object>)> {
        None
    }

    /// What comes of a stream that says these, with when it came, and how it ended.
    async fn follow(pulse: &Pulse, said: Vec<Said>) -> (Vec<(Duration, Change)>, Next, Duration) {
        let (out, mut changes) = mpsc::channel(64);
        let since = Instant::now();
        let told = async move {
            let mut told = Vec::new();
            while let Some(change) = changes.recv().await {
                told.push((since.elapsed(), change));
            }
            told
        };
        let work = async move {
            let next = Attempts::new(&out, &Kind::Pod, pulse)
                .follow(stream::iter(said), read)
                .await;
            (next, since.elapsed())
        };
        let (told, (next, ended)) = tokio::join!(told, work);
        (told, next, ended)
    }

    fn times(told: &[(Duration, Change)]) -> Vec<u128> {
        told.iter().map(|(at, _)| at.as_millis()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn waits_grow_to_three_seconds_and_end_when_the_api_server_answers_again() {
        let said = || {
            let mut said: Vec<Said> = (0..6).map(|_| away()).collect();
            said.push(Ok(Event::InitDone));
            said
        };
        let pulse = Pulse::default();
        let (told, _, _) = follow(&pulse, said()).await;
        assert_eq!(times(&told), [250 + 500 + 1_000 + 2_000 + 3_000 + 3_000]);
        let answers = async {
            tokio::time::sleep(Duration::from_millis(1_800)).await;
            pulse.answers();
        };
        let ((told, _, _), ()) = tokio::join!(follow(&pulse, said()), answers);
        // The fifth attempt comes at once, and the waits after it begin as short as the first.
        assert_eq!(times(&told), [1_800 + 250 + 500]);
        // The first break told whoever looks after the API server.
        pulse.broke().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_kind_that_is_refused_for_five_seconds_is_told_once_and_listed_again() {
        let pulse = Pulse::default();
        let said = || (0..20).map(|_| answer(403)).collect::<Vec<_>>();
        let (told, next, _) = follow(&pulse, said()).await;
        let [(at, Change::Refused(Kind::Pod, why))] = &told[..] else {
            panic!("{told:?}");
        };
        // At the first attempt after five seconds.
        assert_eq!(at.as_millis(), 250 + 500 + 1_000 + 2_000 + 3_000);
        assert_eq!(why, "as it says (403)");
        assert_eq!(next, Next::Anew);

        let (out, mut changes) = mpsc::channel(64);
        let mut attempts = Attempts::new(&out, &Kind::Pod, &pulse);
        for _ in 0..5 {
            assert_eq!(
                attempts.follow(stream::iter(said()), read).await,
                Next::Anew
            );
        }
        assert!(matches!(changes.try_recv(), Ok(Change::Refused(..))));
        assert!(changes.try_recv().is_err(), "once");
        let good = vec![Ok(Event::Init), Ok(Event::InitDone)];
        attempts.follow(stream::iter(good), read).await;
        assert_eq!(changes.try_recv(), Ok(Change::All(Kind::Pod, Vec::new())));
    }

    #[tokio::test(start_paused = true)]
    async fn an_api_server_that_is_away_or_busy_refuses_nothing() {
        let pulse = Pulse::default();
        let said = (0..40).map(|n| if n % 2 == 0 { away() } else { answer(429) });
        let (told, next, ended) = follow(&pulse, said.collect()).await;
        assert!(told.is_empty(), "{told:?}");
        assert_eq!(next, Next::Anew);
        assert!(ended > Duration::from_secs(60));
    }

    #[tokio::test(start_paused = true)]
    async fn what_expired_is_listed_anew_at_once_and_not_again_and_again() {
        // As an event of a watch, and as the answer to whoever begins one.
        let event = || -> Said { Err(watcher::Error::WatchError(status(410))) };
        let begun = || -> Said {
            let cause = kube::Error::Api(status(410));
            Err(watcher::Error::WatchStartFailed(cause))
        };
        for expired in [&event as &dyn Fn() -> Said, &begun] {
            let pulse = Pulse::default();
            let (out, mut changes) = mpsc::channel(64);
            let mut attempts = Attempts::new(&out, &Kind::Pod, &pulse);
            let mut waited = Vec::new();
            for _ in 0..2 {
                let since = Instant::now();
                let said = vec![Ok(Event::Init), Ok(Event::InitDone), expired()];
                let next = attempts.follow(stream::iter(said), read).await;
                assert_eq!(next, Next::Anew);
                assert_eq!(changes.try_recv(), Ok(Change::All(Kind::Pod, Vec::new())));
                waited.push(since.elapsed().as_millis());
            }
            assert_eq!(waited, [0, 250]);
        }
    }
}
