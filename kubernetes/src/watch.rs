//! Watchers: one task a kind, each telling what changed, in order, into one bounded channel.
//!
//! A kind whose CustomResourceDefinition is not there counts as listed and empty, and is looked for again. An API server that is away
//! takes nothing back: what was told stands until a complete list says otherwise.

use std::{fmt::Debug, pin::pin, sync::Arc, time::Duration};

use futures::{Stream, StreamExt as _};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Resource,
    api::{ApiResource, DynamicObject},
    core::GroupVersionKind,
    core::PartialObjectMeta,
    runtime::{WatchStreamExt as _, utils::Backoff, watcher, watcher::Event},
};
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, watch};
use tradewind_runtime::{SharedClock, TaskSet, drain};

use crate::{
    client::Client,
    managed::{self, OWNED_LABEL, OWNER},
    objects::{Change, Key, Kind, Object},
    wire::{self, Wire, WireExport, WireNamespace, WirePod, WireService, WireSlice},
};

/// Changes that may wait to be taken; watchers stand still beyond, and the API server keeps what they did not read.
pub const QUEUE: usize = 1_024;
/// Objects asked for at once when a kind is listed: what Kubernetes' own clients ask for.
const PAGE: u32 = 500;
/// How often a kind that is not there is looked for: installing Gateway API or Istio is nothing that somebody waits for in seconds.
const ABSENT: Duration = Duration::from_secs(15);
/// How often the API server is asked whether it is there.
const PROBE: Duration = Duration::from_secs(5);
/// How long it may take to say so.
const PROBE_DEADLINE: Duration = Duration::from_secs(3);
/// Pods that have a proxy carry this label.
pub const PROXY_LABEL: &str = "tradewind.io/proxy";
/// First and longest wait before a watch that broke off is begun again. Short, so that kinds are in step again soon after an API server
/// came back; a controller has some thirty watches, which an API server does not feel.
const WAIT: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(3));
/// Slices that somebody makes for imported services: they are not a Service's own endpoints.
const IMPORTED_LABEL: &str = "multicluster.kubernetes.io/service-name";

/// A kind, and where it is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Served {
    /// Its API group.
    pub group: &'static str,
    /// Versions that are understood, best first.
    pub versions: &'static [&'static str],
    /// The kind.
    pub kind: &'static str,
    /// In paths.
    pub plural: &'static str,
}

impl Served {
    /// What its objects are told as, if they are rules.
    pub fn rule(&self) -> Kind {
        Kind::Rule(format!("{}.{}", self.kind, self.group))
    }
}

/// How the API server is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contact {
    /// When it last answered, Unix ms; none before the first answer.
    pub answered_ms: Option<u64>,
    /// Why it did not, the last time it was asked.
    pub trouble: Option<String>,
}

/// Starts all watchers. They run until the drain.
pub fn start(
    client: &Client,
    rules: Vec<Served>,
    out: &mpsc::Sender<Change>,
    tasks: &mut TaskSet,
    drain: &drain::Watch,
) {
    let simple = || watcher::Config::default().page_size(PAGE);
    let task = Task {
        client: client.clone(),
        out: out.clone(),
    };
    let typed = |kind, config| (task.clone(), kind, config, drain.observer());
    let (t, kind, config, d) = typed(Kind::Namespace, simple());
    tasks.spawn("watch namespaces", t.all::<WireNamespace>(kind, config, d));
    let (t, kind, config, d) = typed(Kind::Service, simple());
    tasks.spawn("watch services", t.all::<WireService>(kind, config, d));
    let own = format!("{},!{IMPORTED_LABEL}", wire::SERVICE_LABEL);
    let (t, kind, config, d) = typed(Kind::Slice, simple().labels(&own));
    tasks.spawn("watch endpoint slices", t.all::<WireSlice>(kind, config, d));
    let (t, kind, config, d) = typed(Kind::Pod, simple().labels(PROXY_LABEL));
    tasks.spawn("watch pods", t.all::<WirePod>(kind, config, d));
    let bare = simple().labels(&format!("!{PROXY_LABEL}"));
    tasks.spawn(
        "watch other pods",
        task.clone().bare(bare, drain.observer()),
    );
    let exports = Served {
        group: "multicluster.x-k8s.io",
        versions: &["v1beta1"],
        kind: "ServiceExport",
        plural: "serviceexports",
    };
    tasks.spawn(
        "watch exports",
        task.clone().exports(exports, drain.observer()),
    );
    for rule in rules {
        let kind = rule.rule();
        tasks.spawn(
            "watch rules",
            task.clone().dynamic(rule, kind, simple(), drain.observer()),
        );
    }
    for resource in managed::Resource::ALL {
        let mut config = simple().labels(&format!("{OWNED_LABEL}={OWNER}"));
        if let Some(name) = resource.only_name() {
            config = config.fields(&format!("metadata.name={name}"));
        }
        let owned = task.clone().dynamic(
            resource.served(),
            Kind::Owned(resource),
            config,
            drain.observer(),
        );
        tasks.spawn("watch what is owned", owned);
    }
}

/// Waits between tries to watch, each up to twice as long as the one before.
struct Waits {
    next: Duration,
}

impl Default for Waits {
    fn default() -> Self {
        Self { next: WAIT.0 }
    }
}

impl Iterator for Waits {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let wait = self.next;
        self.next = wait.saturating_mul(2).min(WAIT.1);
        Some(wait)
    }
}

impl Backoff for Waits {
    fn reset(&mut self) {
        *self = Self::default();
    }
}

#[derive(Clone)]
struct Task {
    client: Client,
    out: mpsc::Sender<Change>,
}

impl Task {
    async fn all<K>(self, kind: Kind, config: watcher::Config, mut drain: drain::Observer)
    where
        K: Wire + Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
    {
        let api = Api::<K>::all(self.client.kube.clone());
        let stream = watcher(api, config).backoff(Waits::default());
        let read = |object: K| Some((wire::key(object.meta())?, object.object()));
        tokio::select! {
            biased;
            () = drain.triggered() => {}
            _ended = follow(&self.out, &kind, stream, read) => {}
        }
    }

    /// Names of Pods without a proxy: nothing else of them is asked for.
    async fn bare(self, config: watcher::Config, mut drain: drain::Observer) {
        let api = Api::<PartialObjectMeta<Pod>>::all(self.client.kube.clone());
        let stream = watcher(api, config).backoff(Waits::default());
        let read = |object: PartialObjectMeta<Pod>| {
            Some((wire::key(&object.metadata)?, Some(Object::Bare)))
        };
        tokio::select! {
            biased;
            () = drain.triggered() => {}
            _ended = follow(&self.out, &Kind::Bare, stream, read) => {}
        }
    }

    async fn exports(self, exports: Served, mut drain: drain::Observer) {
        let work = async {
            loop {
                let Some(_version) = self.version(&exports, &Kind::Export).await else {
                    return;
                };
                let api = Api::<WireExport>::all(self.client.kube.clone());
                let config = watcher::Config::default().page_size(PAGE);
                let stream = until_absent(watcher(api, config)).backoff(Waits::default());
                let read = |object: WireExport| {
                    Some((wire::key(Resource::meta(&object))?, object.object()))
                };
                if follow(&self.out, &Kind::Export, stream, read)
                    .await
                    .is_none()
                {
                    return;
                }
            }
        };
        tokio::select! {
            biased;
            () = drain.triggered() => {}
            () = work => {}
        }
    }

    /// Rules, and what is owned.
    async fn dynamic(
        self,
        served: Served,
        kind: Kind,
        config: watcher::Config,
        mut drain: drain::Observer,
    ) {
        let work = async {
            loop {
                let Some(version) = self.version(&served, &kind).await else {
                    return;
                };
                let gvk = GroupVersionKind::gvk(served.group, version, served.kind);
                let resource = ApiResource::from_gvk_with_plural(&gvk, served.plural);
                let api = Api::<DynamicObject>::all_with(self.client.kube.clone(), &resource);
                let stream = until_absent(watcher(api, config.clone())).backoff(Waits::default());
                let read = |mut object: DynamicObject| {
                    let key = wire::key(&object.metadata)?;
                    // Items of a list do not say of what kind they are.
                    object.types = Some(kube::core::TypeMeta {
                        api_version: resource.api_version.clone(),
                        kind: resource.kind.clone(),
                    });
                    let value = serde_json::to_value(object).ok()?;
                    let object = match &kind {
                        Kind::Owned(resource) => {
                            Object::Owned(*resource, Arc::new(wire::owned(value)))
                        }
                        _ => Object::Rule(Arc::new(wire::rule(value))),
                    };
                    Some((key, Some(object)))
                };
                if follow(&self.out, &kind, stream, read).await.is_none() {
                    return;
                }
            }
        };
        tokio::select! {
            biased;
            () = drain.triggered() => {}
            () = work => {}
        }
    }

    /// The best version that is served, once there is one; none when nobody listens any more.
    async fn version(&self, rule: &Served, kind: &Kind) -> Option<&'static str> {
        let mut told = false;
        loop {
            match self.served(rule).await {
                Ok(Some(version)) => return Some(version),
                Ok(None) if !told => {
                    told = true;
                    self.out.send(Change::Absent(kind.clone())).await.ok()?;
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::debug!(%kind, %error, "the API server did not say whether it serves this kind")
                }
            }
            tokio::time::sleep(if told { ABSENT } else { PROBE_DEADLINE }).await;
        }
    }

    async fn served(&self, kind: &Served) -> Result<Option<&'static str>, kube::Error> {
        // Asked for by name a group that is not there would be an error.
        let groups = self.client.kube.list_api_groups().await?.groups;
        let group = groups.into_iter().find(|g| g.name == kind.group);
        let offered: Vec<String> = match group {
            Some(group) => group.versions.into_iter().map(|v| v.version).collect(),
            None if kind.group.is_empty() => return Ok(kind.versions.first().copied()),
            None => return Ok(None),
        };
        for version in kind
            .versions
            .iter()
            .filter(|v| offered.iter().any(|o| o == *v))
        {
            let name = format!("{}/{version}", kind.group);
            let list = self.client.kube.list_api_group_resources(&name).await?;
            if list.resources.iter().any(|r| r.name == kind.plural) {
                return Ok(Some(version));
            }
        }
        Ok(None)
    }
}

/// Ends when the kind is no longer served, which a watcher alone would go on trying for ever.
fn until_absent<K: Send + 'static>(
    stream: impl Stream<Item = watcher::Result<Event<K>>> + Send,
) -> impl Stream<Item = watcher::Result<Event<K>>> + Send {
    stream.take_while(|event| {
        let gone = event.as_ref().err().is_some_and(is_absent);
        std::future::ready(!gone)
    })
}

fn is_absent(error: &watcher::Error) -> bool {
    let cause = match error {
        watcher::Error::InitialListFailed(cause)
        | watcher::Error::WatchStartFailed(cause)
        | watcher::Error::WatchFailed(cause) => cause,
        watcher::Error::WatchError(_) | watcher::Error::NoResourceVersion => return false,
    };
    matches!(cause, kube::Error::Api(status) if status.code == 404)
}

/// Tells of a stream's events until it ends; none when nobody listens any more. A list that is begun anew is told when it is complete.
async fn follow<K>(
    out: &mpsc::Sender<Change>,
    kind: &Kind,
    stream: impl Stream<Item = watcher::Result<Event<K>>>,
    read: impl Fn(K) -> Option<(Key, Option<Object>)>,
) -> Option<()> {
    let mut stream = pin!(stream);
    let mut listing = Vec::new();
    while let Some(event) = stream.next().await {
        let change = match event {
            Ok(Event::Init) => {
                listing.clear();
                None
            }
            Ok(Event::InitApply(object)) => {
                let known = read(object).and_then(|(key, object)| Some((key, object?)));
                listing.extend(known);
                None
            }
            Ok(Event::InitDone) => Some(Change::All(kind.clone(), std::mem::take(&mut listing))),
            Ok(Event::Apply(object)) => read(object).map(|(key, object)| match object {
                Some(object) => Change::Set(key, object),
                None => Change::Gone(kind.clone(), key),
            }),
            Ok(Event::Delete(object)) => {
                read(object).map(|(key, _)| Change::Gone(kind.clone(), key))
            }
            Err(error) => {
                tracing::warn!(%kind, %error, "a watch broke off; what it told stands");
                None
            }
        };
        if let Some(change) = change {
            out.send(change).await.ok()?;
        }
    }
    Some(())
}

/// Asks the API server again and again whether it is there, for people: nothing is decided by it.
pub async fn probe(
    client: Client,
    clock: SharedClock,
    out: watch::Sender<Contact>,
    mut drain: drain::Observer,
) {
    loop {
        let asked = client.kube.apiserver_version();
        let answer = tokio::time::timeout(PROBE_DEADLINE, asked).await;
        let trouble = match answer {
            Ok(Ok(_)) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_late) => Some(format!("no answer within {} s", PROBE_DEADLINE.as_secs())),
        };
        out.send_modify(|contact| {
            if trouble.is_none() {
                contact.answered_ms = Some(clock.unix_ms());
            }
            contact.trouble = trouble;
        });
        tokio::select! {
            biased;
            () = drain.triggered() => return,
            () = tokio::time::sleep(PROBE) => {}
        }
    }
}
