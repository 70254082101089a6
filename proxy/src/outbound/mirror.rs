//! Copies of requests, whose answers nobody hears. A copy never delays the call that it is of: it takes what the call's own body has been
//! read of, has a place to wait for no more than so much, and breaks off where that is full.
//!
//! Owns what waits for each copy, and the count of all of this thread.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Uri, uri::Authority};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use tokio::{sync::Notify, time::sleep};
use tradewind_api::{
    id::ServicePortRef,
    route::{Action, BackendRef},
};
use tradewind_transport::{hbone::headers, route::falls};

use super::{
    Outbound,
    attempts::{AppBody, Attempts},
    detach,
    metrics::Mirrored,
    route::{Callee, CalleeKey, InFlight},
    taker::says,
};
use crate::{called::Scope, telemetry::Notes};

/// Copies under way on a thread. Two thousand a second, answered within half a second, are as many.
const MAX_COPIES: usize = 1_024;
/// Bytes that wait for one copy: what an upload sends while a session with another continent is made.
const MAX_WAITING: usize = 1 << 20;
/// Bytes that wait for all copies of a thread, so that slow ones together take no more than a busy proxy has anyhow.
const MAX_WAITING_ALL: usize = 16 << 20;
/// How long a copy may take after the call's own body has ended, where the rule gives the call no time; Envoy's usual time for a request.
const PATIENCE: Duration = Duration::from_secs(15);
/// What a copy's host ends in, as Envoy has it, so that whoever is asked can tell.
const SUFFIX: &str = "-shadow";

/// One thread's copies.
#[derive(Debug, Default)]
pub(super) struct Mirrors {
    copies: Cell<usize>,
    waiting: Cell<usize>,
}

/// The application's body, with those who get a copy of it.
#[derive(Debug)]
pub(super) struct Tee<B> {
    body: B,
    copies: Vec<Rc<Queue>>,
}

impl<B> Tee<B> {
    /// For nobody yet.
    pub(super) const fn new(body: B) -> Self {
        Self {
            body,
            copies: Vec::new(),
        }
    }
}

impl<B: Body<Data = Bytes>> Tee<B> {
    /// One more copy, of all that is read from now on. None where there are too many.
    fn copy(&mut self, all: &Rc<Mirrors>) -> Option<Copy> {
        if all.copies.get() >= MAX_COPIES {
            return None;
        }
        all.copies.set(all.copies.get() + 1);
        let queue = Rc::new(Queue {
            frames: RefCell::default(),
            waiting: Cell::new(0),
            state: Cell::new(State::Open),
            reader: RefCell::default(),
            ended: Notify::new(),
            all: Rc::clone(all),
        });
        if self.body.is_end_stream() {
            queue.end(State::Ended);
        }
        self.copies.push(Rc::clone(&queue));
        Some(Copy(queue))
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Tee<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.get_mut();
        let polled = ready!(Pin::new(&mut this.body).poll_frame(cx));
        if !this.copies.is_empty() {
            for copy in &this.copies {
                match &polled {
                    Some(Ok(frame)) => copy.push(frame),
                    Some(Err(_)) => copy.end(State::Broken),
                    None => copy.end(State::Ended),
                }
                if this.body.is_end_stream() {
                    copy.end(State::Ended);
                }
            }
        }
        Poll::Ready(polled)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<B> Drop for Tee<B> {
    fn drop(&mut self) {
        for copy in &self.copies {
            copy.end(State::Broken);
        }
    }
}

/// Where a copy's body stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// More may come.
    Open,
    /// All of it came.
    Ended,
    /// The rest will not come, or was too much.
    Broken,
}

/// What a frame takes while it waits: an upload in single bytes takes more than its bytes.
fn cost(frame: &Frame<Bytes>) -> usize {
    size_of_val(frame) + frame.data_ref().map_or(0, Bytes::len)
}

/// What was read and not copied yet.
#[derive(Debug)]
struct Queue {
    frames: RefCell<VecDeque<Frame<Bytes>>>,
    waiting: Cell<usize>,
    state: Cell<State>,
    reader: RefCell<Option<Waker>>,
    /// Told when it is open no more.
    ended: Notify,
    all: Rc<Mirrors>,
}

impl Queue {
    fn push(&self, frame: &Frame<Bytes>) {
        if self.state.get() != State::Open {
            return;
        }
        let copy = if let Some(data) = frame.data_ref() {
            Frame::data(data.clone())
        } else if let Some(trailers) = frame.trailers_ref() {
            Frame::trailers(trailers.clone())
        } else {
            return;
        };
        let bytes = cost(&copy);
        let (own, all) = (self.waiting.get() + bytes, self.all.waiting.get() + bytes);
        if own > MAX_WAITING || all > MAX_WAITING_ALL {
            self.end(State::Broken);
            return;
        }
        self.waiting.set(own);
        self.all.waiting.set(all);
        self.frames.borrow_mut().push_back(copy);
        self.wake();
    }

    /// Nothing more comes. What broke off is of no use, so that nothing waits for it any more.
    fn end(&self, state: State) {
        if self.state.get() != State::Open {
            return;
        }
        self.state.set(state);
        self.ended.notify_one();
        if state == State::Broken {
            self.clear();
        }
        self.wake();
    }

    /// When nothing more comes. One may wait for it.
    async fn ended(&self) {
        while self.state.get() == State::Open {
            self.ended.notified().await;
        }
    }

    fn clear(&self) {
        self.frames.borrow_mut().clear();
        self.taken(self.waiting.get());
    }

    fn taken(&self, bytes: usize) {
        self.waiting.set(self.waiting.get().saturating_sub(bytes));
        let all = &self.all.waiting;
        all.set(all.get().saturating_sub(bytes));
    }

    fn wake(&self) {
        if let Some(reader) = self.reader.borrow_mut().take() {
            reader.wake();
        }
    }
}

/// A copy's body.
#[derive(Debug)]
struct Copy(Rc<Queue>);

/// Why a copy's body breaks off.
#[derive(Debug, thiserror::Error)]
#[error("the call's own body broke off, or was read faster than its copy was taken")]
struct BrokeOff;

impl Body for Copy {
    type Data = Bytes;
    type Error = BrokeOff;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokeOff>>> {
        let queue = &self.get_mut().0;
        if let Some(frame) = queue.frames.borrow_mut().pop_front() {
            queue.taken(cost(&frame));
            return Poll::Ready(Some(Ok(frame)));
        }
        match queue.state.get() {
            State::Ended => Poll::Ready(None),
            State::Broken => Poll::Ready(Some(Err(BrokeOff))),
            State::Open => {
                *queue.reader.borrow_mut() = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.state.get() == State::Ended && self.0.frames.borrow().is_empty()
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        self.0.end(State::Broken);
        self.0.clear();
        let copies = &self.0.all.copies;
        copies.set(copies.get().saturating_sub(1));
    }
}

impl Outbound {
    /// Sends the copies that a rule wants of a request, in tasks of their own. `head` is as the call's own backend gets it.
    pub(super) fn mirror(
        self: &Rc<Self>,
        action: &Action,
        called: &ServicePortRef,
        head: &Request<()>,
        body: &mut AppBody,
    ) {
        for mirror in &action.mirrors {
            let BackendRef::Service {
                service,
                port,
                subset,
            } = &mirror.to
            else {
                continue;
            };
            if !falls(mirror.share, self.balancer.random()) {
                continue;
            }
            let to = CalleeKey {
                service: ServicePortRef {
                    service: service.clone(),
                    port: port.unwrap_or(called.port),
                },
                scope: Scope::Everybody,
                subset: subset.clone(),
            };
            let Some(copy) = body.copy(&self.mirrors) else {
                self.metrics.mirrored(&to.service, Mirrored::dropped);
                continue;
            };
            let patience = action.timeouts.whole_ms.map(Duration::from_millis);
            let (own, head, queue) = (Rc::clone(self), shadow(head), Rc::clone(&copy.0));
            detach("outbound_mirror", async move {
                let too_late = async {
                    // A stream's copy goes on for as long as the stream.
                    queue.ended().await;
                    sleep(patience.unwrap_or(PATIENCE)).await;
                };
                let answered = tokio::select! {
                    answered = own.send_copy(to.callee(), head, copy) => answered,
                    () = too_late => false,
                };
                let outcome = if answered {
                    Mirrored::answered
                } else {
                    Mirrored::failed
                };
                own.metrics.mirrored(&to.service, outcome);
            });
        }
    }

    /// Sends one, once; only who is asked is looked for more often. True when it was answered to the end, whatever with.
    async fn send_copy(&self, to: Callee<'_>, mut head: Request<()>, copy: Copy) -> bool {
        let service = to.service;
        let Ok(mut route) = self.route(to).await else {
            return false;
        };
        let value = route.service_value.clone();
        head.headers_mut().insert(headers::SERVICE, value);
        let mut attempts = Attempts::new(None, None);
        let (session, target) = loop {
            let Some(picked) = self.next_target(&mut route, &mut attempts).await else {
                return false;
            };
            match self.session(&route, &picked.target).await {
                Ok(session) => break (session, picked.target),
                Err(failed) => self.note(&route, &picked.target, &mut attempts, &failed),
            }
        };
        let _in_flight = InFlight::new(&target.peer);
        let sent = self.balancer.now();
        let response = match session.request(head, copy).await {
            Ok(response) => response,
            Err(error) => {
                let failed = self.send_failed(&route, &target, &error);
                tracing::debug!(%service, endpoint = %target.endpoint.id, why = failed.why, "a copy was not answered");
                return false;
            }
        };
        let latency = self.balancer.now().saturating_sub(sent);
        let by = says(response.headers());
        let taker = self.taker(&route, &target, by.as_ref(), &mut Notes::default());
        self.balancer.answered(&taker.target, latency);
        let mut body = response.into_body();
        while let Some(frame) = body.frame().await {
            if frame.is_err() {
                return false;
            }
        }
        true
    }
}

/// A copy's head: its host ends in `-shadow`, before the port. One that cannot stays as it is.
fn shadow(head: &Request<()>) -> Request<()> {
    let mut head = head.clone();
    let marked = head.uri().authority().and_then(|authority| {
        let host = authority.host();
        let marked = match authority.port() {
            // An address in brackets has no such end.
            _ if host.starts_with('[') => return None,
            Some(port) => format!("{host}{SUFFIX}:{port}"),
            None => format!("{host}{SUFFIX}"),
        };
        Authority::try_from(marked).ok()
    });
    if let Some(marked) = marked {
        let mut parts = head.uri().clone().into_parts();
        parts.authority = Some(marked);
        if let Ok(uri) = Uri::from_parts(parts) {
            *head.uri_mut() = uri;
        }
    }
    head
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;
    use http_body_util::Full;

    use super::*;

    /// A body of these parts, whose end is known when it is asked for.
    struct Parts(VecDeque<Frame<Bytes>>);

    impl Body for Parts {
        type Data = Bytes;
        type Error = BrokeOff;

        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, BrokeOff>>> {
            Poll::Ready(self.get_mut().0.pop_front().map(Ok))
        }
    }

    async fn read<B: Body<Data = Bytes> + Unpin>(body: &mut B) -> Option<Result<Bytes, B::Error>> {
        let frame = body.frame().await?;
        Some(frame.map(|f| f.into_data().unwrap_or_default()))
    }

    #[tokio::test]
    async fn a_copy_gets_what_the_call_read_and_ends_with_it() {
        let all = Rc::new(Mirrors::default());
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", 3.into());
        let parts = [Frame::data("one".into()), Frame::trailers(trailers.clone())];
        let mut tee = Tee::new(Parts(parts.into()));
        let (mut a, mut b) = (tee.copy(&all).unwrap(), tee.copy(&all).unwrap());
        assert_eq!(read(&mut tee).await.unwrap().unwrap(), "one");
        assert_eq!(read(&mut a).await.unwrap().unwrap(), "one");
        let one = cost(&Frame::data("one".into()));
        assert!(one > "one".len());
        assert_eq!(all.waiting.get(), one, "b has not taken it");
        while tee.frame().await.is_some() {}
        assert_eq!(read(&mut b).await.unwrap().unwrap(), "one");
        for copy in [&mut a, &mut b] {
            let frame = copy.frame().await.unwrap().unwrap();
            assert_eq!(frame.trailers_ref(), Some(&trailers));
            assert!(copy.is_end_stream());
            assert!(copy.frame().await.is_none());
        }
        drop((a, b));
        assert_eq!((all.copies.get(), all.waiting.get()), (0, 0));
    }

    #[tokio::test]
    async fn a_copy_breaks_off_with_the_call_or_where_it_is_too_slow_and_the_call_goes_on() {
        let all = Rc::new(Mirrors::default());
        let mut tee = Tee::new(Parts(VecDeque::new()));
        let mut copy = tee.copy(&all).unwrap();
        assert!(!copy.is_end_stream());
        let now = std::future::ready(());
        tokio::select! {
            biased;
            () = copy.0.ended() => panic!("it goes on"),
            () = now => {}
        }
        drop(tee);
        copy.0.ended().await;
        assert!(read(&mut copy).await.unwrap().is_err(), "the call was cut");

        let part = Bytes::from(vec![0; MAX_WAITING / 4]);
        let parts = std::iter::repeat_with(|| Frame::data(part.clone()));
        let mut tee = Tee::new(Parts(parts.take(5).collect()));
        let (mut fast, mut slow) = (tee.copy(&all).unwrap(), tee.copy(&all).unwrap());
        for _ in 0..5 {
            assert_eq!(read(&mut tee).await.unwrap().unwrap(), part);
            assert_eq!(read(&mut fast).await.unwrap().unwrap(), part);
        }
        assert!(read(&mut slow).await.unwrap().is_err());
        assert_eq!(all.waiting.get(), 0, "nothing waits for what broke off");
    }

    #[tokio::test]
    async fn copies_are_as_many_as_there_are_places_and_of_no_body_they_end_at_once() {
        let all = Rc::new(Mirrors::default());
        let mut tee = Tee::new(Full::new(Bytes::new()));
        let copies: Vec<_> = (0..MAX_COPIES).map(|_| tee.copy(&all).unwrap()).collect();
        assert!(copies.iter().all(Body::is_end_stream));
        assert!(tee.copy(&all).is_none());
        drop(copies);
        assert!(tee.copy(&all).is_some());
    }

    #[test]
    fn a_copys_host_is_marked_before_its_port() {
        let of = |uri: &str| {
            let head = Request::builder().uri(uri).body(()).unwrap();
            shadow(&head).uri().to_string()
        };
        assert_eq!(
            of("http://cart.shop:80/a?b=c"),
            "http://cart.shop-shadow:80/a?b=c"
        );
        assert_eq!(of("http://cart/"), "http://cart-shadow/");
        assert_eq!(of("http://[::1]:80/"), "http://[::1]:80/", "no such host");
        assert_eq!(of("/a"), "/a");
    }
}
