//! Local rate limits: which hold for what is served here, their buckets, and what a request is told that is refused.
//!
//! One task of the process finds out what holds, from the snapshot, the workload's namespace and labels and what is served. Data threads read that and
//! share the buckets, which are one number each. Where nothing holds a request costs one look at whether that has changed.

mod bucket;
mod field;
mod follow;

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use http::{
    HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header::CONTENT_TYPE,
};
use tokio::{sync::watch, time::Instant};
use tradewind_api::{
    Namespace, ServiceName, ServicePortRef,
    limit::{HeaderEdit, Limits, LocalLimit, LocalLimits, TokenBucket, in_force},
    route::{MILLION, Millionths},
    traffic::Labels,
};

use super::{Served, Thread, body::ResponseBody, caller::Caller, stream::own};
use crate::{serving::Serving, standard::is_grpc};
use bucket::Bucket;
use field::Field;
pub(crate) use follow::{Workload, start};

/// What a request is told, and its access log, as Envoy says it.
const LIMITED: &str = "local_rate_limited";
/// That it is a limit which speaks, and not the application.
const RATE_LIMITED: HeaderName = HeaderName::from_static("x-envoy-ratelimited");
/// As many as there may be, as there are, and the seconds until there are more (draft-polli-ratelimit-headers-03).
const LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
const REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
const RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
/// gRPC's RESOURCE_EXHAUSTED.
const RESOURCE_EXHAUSTED: u16 = 8;

/// What tells limits apart: the object, the limit's place in it, and the application before which it stands.
type Key = (ServiceName, usize, String);

/// One limit before one application.
#[derive(Debug)]
pub(crate) struct Live {
    limit: LocalLimit,
    bucket: Arc<Bucket>,
    status: StatusCode,
    answer: Vec<Field>,
    passed: Vec<Field>,
}

impl Live {
    /// Takes over what is in the bucket of the one before it, where that is the same bucket.
    fn new(limit: &LocalLimit, of: TokenBucket, before: Option<&Arc<Self>>, now: Instant) -> Self {
        let same = before.filter(|b| b.bucket.of == of);
        let fields = |edits: &[HeaderEdit]| edits.iter().filter_map(Field::of).collect();
        Self {
            limit: limit.clone(),
            bucket: same.map_or_else(|| Bucket::new(of, now).into(), |b| Arc::clone(&b.bucket)),
            status: StatusCode::from_u16(limit.answer.status)
                .unwrap_or(StatusCode::TOO_MANY_REQUESTS),
            answer: fields(&limit.answer.headers),
            passed: fields(&limit.passed_headers),
        }
    }

    fn answer(&self, grpc: bool) -> Response<ResponseBody> {
        let mut response = own(self.status, None, LIMITED);
        if grpc {
            *response.status_mut() = StatusCode::OK;
            *response.body_mut() = ResponseBody::text("");
        }
        let fields = response.headers_mut();
        let kind = if grpc {
            "application/grpc"
        } else {
            "text/plain"
        };
        fields.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        if grpc {
            let exhausted = self.limit.answer.resource_exhausted;
            let code = if exhausted {
                RESOURCE_EXHAUSTED
            } else {
                grpc_status(self.status)
            };
            fields.insert(GRPC_STATUS, code.into());
            fields.insert(GRPC_MESSAGE, HeaderValue::from_static(LIMITED));
        }
        fields.insert(RATE_LIMITED, HeaderValue::from_static("true"));
        self.answer.iter().for_each(|field| field.put(fields));
        response
    }
}

/// What gRPC makes of a status (its document "HTTP to gRPC Status Code Mapping").
const fn grpc_status(status: StatusCode) -> u16 {
    match status.as_u16() {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502 | 503 | 504 => 14,
        _ => 2,
    }
}

/// What holds now.
#[derive(Debug, Default)]
pub(crate) struct Held {
    /// By what is served; nothing that has none.
    of: HashMap<ServicePortRef, Arc<[Arc<Live>]>>,
    all: BTreeMap<Key, Arc<Live>>,
}

impl Held {
    /// What holds for `serves`, taking over what stays the same.
    fn next<L: AsRef<LocalLimits>>(
        &self,
        limits: &Limits<L>,
        serves: &[Serving],
        (namespace, labels): (&Namespace, &Labels),
        now: Instant,
    ) -> Self {
        let mut next = Self::default();
        for serving in serves.iter().filter(|_| !limits.is_empty()) {
            let port = serving
                .app
                .rsplit_once(':')
                .and_then(|(_, p)| p.parse().ok());
            let ports = (serving.target.port, port);
            let mut of_this = Vec::new();
            for (object, index, limit) in in_force(limits, (namespace, labels), ports) {
                let Some(bucket) = limit.bucket else { continue };
                let key = (object.clone(), index, serving.app.clone());
                let before = self.all.get(&key);
                let live = next.all.entry(key).or_insert_with(|| match before {
                    Some(same) if same.limit == *limit => Arc::clone(same),
                    _ => Live::new(limit, bucket, before, now).into(),
                });
                of_this.push(Arc::clone(live));
            }
            if !of_this.is_empty() {
                next.of.insert(serving.target.clone(), of_this.into());
            }
        }
        next
    }

    fn is(&self, other: &Self) -> bool {
        let all = || self.of.iter();
        let is_there = |(target, ours): (&ServicePortRef, &Arc<[Arc<Live>]>)| {
            let theirs = other.of.get(target);
            theirs.is_some_and(|theirs| {
                theirs.len() == ours.len()
                    && ours.iter().zip(&**theirs).all(|(a, b)| Arc::ptr_eq(a, b))
            })
        };
        self.of.len() == other.of.len() && all().all(is_there)
    }

    /// To look at: each limit before each application, and what is left in it.
    pub(crate) fn json(&self, now: Instant) -> serde_json::Value {
        let row = |((object, index, app), live): (&Key, &Arc<Live>)| {
            let of = live.bucket.of;
            serde_json::json!({
                "object": object.to_string(),
                "limit": index,
                "application": app,
                "max_tokens": of.max_tokens,
                "tokens_per_fill": of.tokens_per_fill,
                "fill_interval_ms": of.fill_interval_ms,
                "per_connection": live.limit.per_connection,
                "enforced_percent": f64::from(live.limit.enforced) / f64::from(MILLION / 100),
                "left": (!live.limit.per_connection).then(|| live.bucket.left(now)),
            })
        };
        self.all.iter().map(row).collect()
    }
}

/// What holds, as one thread reads it.
#[derive(Debug)]
pub(super) struct LimitsHere {
    told: RefCell<watch::Receiver<Arc<Held>>>,
    held: RefCell<Arc<Held>>,
}

impl LimitsHere {
    pub(super) fn new(told: &watch::Receiver<Arc<Held>>) -> Self {
        let mut told = told.clone();
        let held = Arc::clone(&told.borrow_and_update());
        Self {
            told: told.into(),
            held: held.into(),
        }
    }

    fn of(&self, target: &ServicePortRef) -> Option<Arc<[Arc<Live>]>> {
        if self.told.borrow().has_changed().unwrap_or(false) {
            let newer = Arc::clone(&self.told.borrow_mut().borrow_and_update());
            self.held.replace(newer);
        }
        let held = self.held.borrow();
        if held.of.is_empty() {
            return None;
        }
        held.of.get(target).map(Arc::clone)
    }
}

/// The buckets of one caller's connection, each beside the one that it takes the place of.
pub(super) type OfConnection = RefCell<Vec<(Arc<Bucket>, Arc<Bucket>)>>;

fn of_connection(own: &OfConnection, shared: &Arc<Bucket>, now: Instant) -> Arc<Bucket> {
    let mut all = own.borrow_mut();
    if let Some((_, bucket)) = all.iter().find(|(of, _)| Arc::ptr_eq(of, shared)) {
        return Arc::clone(bucket);
    }
    // Those of limits that are over: nobody else has them any more.
    all.retain(|(of, _)| Arc::strong_count(of) > 1);
    let bucket = Arc::new(Bucket::new(shared.of, now));
    all.push((Arc::clone(shared), Arc::clone(&bucket)));
    bucket
}

/// What a response says of what is left.
#[derive(Clone, Copy, Debug)]
pub(super) struct Told {
    most: u32,
    left: u32,
    until_fill_ms: u64,
}

impl Told {
    pub(super) fn put(self, into: &mut HeaderMap) {
        into.insert(LIMIT, self.most.into());
        into.insert(REMAINING, self.left.into());
        into.insert(RESET, self.until_fill_ms.div_ceil(1000).into());
    }
}

/// Asks every limit that holds for a request, which may get header fields by it. The response that it gets instead of the
/// application's, or what that is to say.
pub(super) fn ask<B>(
    thread: &Thread,
    caller: &Caller,
    served: &Served,
    request: &mut Request<B>,
) -> Result<Option<Told>, Box<Response<ResponseBody>>> {
    let Some(limits) = thread.limits.of(&served.target) else {
        return Ok(None);
    };
    let now = thread.clock.now();
    let hits = |share: Millionths| {
        share >= MILLION
            || share > 0 && thread.rng.borrow_mut().below(MILLION.into()) < share.into()
    };
    let mut told: Option<Told> = None;
    for live in &*limits {
        if !hits(live.limit.enabled) {
            continue;
        }
        let taken = if live.limit.per_connection {
            of_connection(&caller.buckets, &live.bucket, now).take(now)
        } else {
            live.bucket.take(now)
        };
        if live.limit.tells && told.is_none_or(|t| taken.left <= t.left) {
            told = Some(Told {
                most: live.bucket.of.max_tokens,
                left: taken.left,
                until_fill_ms: taken.until_fill_ms,
            });
        }
        if taken.had_one {
            continue;
        }
        if hits(live.limit.enforced) {
            served.metrics.limited.inc();
            let mut response = live.answer(is_grpc(request.headers()));
            if let Some(told) = told {
                told.put(response.headers_mut());
            }
            return Err(Box::new(response));
        }
        served.metrics.over_limit.inc();
        let fields = request.headers_mut();
        live.passed.iter().for_each(|field| field.put(fields));
    }
    Ok(told)
}
