//! What is served on one thread, with the connections to each application and what is counted of it. Follows what the process serves:
//! what stays keeps its connections, what is gone takes no new stream, and streams under way hold theirs to their end.

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap},
    rc::Rc,
    sync::Arc,
};

use http::{HeaderName, HeaderValue, Method, Request, StatusCode};
use tokio::sync::{Notify, watch};
use tradewind_api::{
    ServicePortRef,
    model::{AppProtocol, Service},
    snapshot::Snapshot,
};
use tradewind_runtime::clock::SharedClock;
use tradewind_transport::hbone::headers;

use super::{
    AppRequest, InboundContext,
    authorise::endpoint_at,
    metrics::{InboundMetrics, ServiceMetrics},
    pool::AppPool,
};
use crate::serving::Serving;

/// What has an application looked at at once, by what it is served as.
pub(crate) type Checks = Arc<BTreeMap<ServicePortRef, Arc<Notify>>>;

/// One served service port.
#[derive(Debug)]
pub(super) struct Served {
    pub(super) target: ServicePortRef,
    pub(super) app: String,
    pub(super) mark: Option<u32>,
    pub(super) protocol: AppProtocol,
    pub(super) pool: Rc<AppPool<AppRequest>>,
    pub(super) metrics: ServiceMetrics,
    check_now: Option<Arc<Notify>>,
    /// Which endpoint this is, by what is known of the service.
    known_as: RefCell<Option<KnownAs>>,
}

/// What was found out of a service, and what it was found in.
#[derive(Debug)]
struct KnownAs {
    of: Arc<Service>,
    endpoint: Option<HeaderValue>,
}

impl Served {
    fn is(&self, serving: &Serving) -> bool {
        self.target == serving.target
            && self.app == serving.app
            && self.protocol == serving.protocol
    }

    /// The endpoint that this proxy is, at its advertised address, as a header says it; none while nobody has said so.
    pub(super) fn endpoint(&self, snapshot: &Snapshot, here: &str) -> Option<HeaderValue> {
        let service = snapshot.services.get(&self.target.service)?;
        let mut known = self.known_as.borrow_mut();
        if let Some(known) = known.as_ref().filter(|k| Arc::ptr_eq(&k.of, service)) {
            return known.endpoint.clone();
        }
        let endpoint = endpoint_at(snapshot, service, self.target.port, here);
        let endpoint = endpoint.map(headers::endpoint_value);
        *known = Some(KnownAs {
            of: Arc::clone(service),
            endpoint: endpoint.clone(),
        });
        endpoint
    }

    /// Has the application looked at, where this proxy checks its health.
    pub(super) fn check_now(&self) {
        if let Some(check) = &self.check_now {
            check.notify_one();
        }
    }
}

/// All that is served at one moment.
#[derive(Debug, Default)]
pub(super) struct Table {
    services: HashMap<ServicePortRef, Rc<Served>>,
    /// By the application's `host:port`, for callers that dial workloads instead of services.
    by_app: HashMap<String, Vec<Rc<Served>>>,
}

/// Why there is nothing for a request: status, what the caller is told, and how it is counted.
pub(super) type Unfound = (StatusCode, Option<(HeaderName, &'static str)>, &'static str);

impl Table {
    /// What the request is for. A `CONNECT` to an application's address may be for several services.
    pub(super) fn find<B>(&self, request: &Request<B>) -> Result<&[Rc<Served>], Unfound> {
        // The caller may know already what this proxy will learn of in a moment, or not know yet what it has forgotten.
        const NOT_SERVED: Unfound = (
            StatusCode::NOT_FOUND,
            Some((headers::UNPROCESSED, "not_served")),
            "not_served",
        );
        let target = if *request.method() == Method::CONNECT {
            let authority =
                request
                    .uri()
                    .authority()
                    .ok_or((StatusCode::BAD_REQUEST, None, "no_authority"))?;
            match headers::parse_connect_authority(authority.as_str()) {
                Some(target) => target,
                None => return self.at(authority.as_str()).ok_or(NOT_SERVED),
            }
        } else {
            let service = request.headers().get(headers::SERVICE);
            service.and_then(headers::parse_service).ok_or((
                StatusCode::BAD_REQUEST,
                None,
                "no_service",
            ))?
        };
        let served = self.service(&target).ok_or(NOT_SERVED)?;
        Ok(std::slice::from_ref(served))
    }

    /// Who serves this.
    pub(super) fn service(&self, target: &ServicePortRef) -> Option<&Rc<Served>> {
        self.services.get(target)
    }

    /// What the application there is served as.
    pub(super) fn at(&self, app: &str) -> Option<&[Rc<Served>]> {
        self.by_app.get(app).map(Vec::as_slice)
    }

    /// All of it.
    pub(super) fn all(&self) -> impl Iterator<Item = &Rc<Served>> {
        self.services.values()
    }
}

/// What one thread serves, as it changes.
#[derive(Debug)]
pub(super) struct ServedHere {
    serves: RefCell<watch::Receiver<Arc<[Serving]>>>,
    table: RefCell<Rc<Table>>,
    checks: Checks,
    mark: Option<u32>,
    metrics: InboundMetrics,
    clock: SharedClock,
}

impl ServedHere {
    pub(super) fn new(context: &InboundContext) -> Self {
        let mut serves = context.serves.clone();
        let first = Arc::clone(&serves.borrow_and_update());
        let here = Self {
            serves: RefCell::new(serves),
            table: RefCell::default(),
            checks: Arc::clone(&context.checks),
            mark: context.mark,
            metrics: context.metrics.clone(),
            clock: Arc::clone(&context.clock),
        };
        here.take_over(&first);
        here
    }

    /// What is served now.
    pub(super) fn now(&self) -> Rc<Table> {
        if self.serves.borrow().has_changed().unwrap_or(false) {
            let newer = Arc::clone(&self.serves.borrow_mut().borrow_and_update());
            self.take_over(&newer);
        }
        Rc::clone(&self.table.borrow())
    }

    fn take_over(&self, serves: &[Serving]) {
        let mut table = Table::default();
        for serving in serves {
            let before = self.table.borrow();
            let kept = before.service(&serving.target).filter(|s| s.is(serving));
            let served = kept.map_or_else(|| Rc::new(self.begin(serving)), Rc::clone);
            let by_app = table.by_app.entry(serving.app.clone()).or_default();
            by_app.push(Rc::clone(&served));
            table.services.insert(serving.target.clone(), served);
        }
        self.table.replace(Rc::new(table));
    }

    fn begin(&self, serving: &Serving) -> Served {
        let (app, mark) = (serving.app.clone(), self.mark);
        Served {
            target: serving.target.clone(),
            pool: AppPool::new(app.clone(), mark, Arc::clone(&self.clock)),
            app,
            mark,
            protocol: serving.protocol,
            metrics: self.metrics.service(&serving.target),
            known_as: RefCell::default(),
            check_now: self.checks.get(&serving.target).map(Arc::clone),
        }
    }
}
