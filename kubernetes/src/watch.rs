//! Watchers: one task a kind, each telling what changed, in order, into one bounded channel.
//!
//! A kind whose CustomResourceDefinition is not there counts as listed and empty, and is looked for again; one that the API server refuses
//! to list is told as such. An API server that is away takes nothing back: what was told stands until a complete list says otherwise, and all
//! watches are begun again as soon as it answers.

mod attempts;

use std::{fmt::Debug, sync::Arc, time::Duration};

use futures::{Stream, StreamExt as _};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Resource,
    api::{ApiResource, DynamicObject},
    core::GroupVersionKind,
    core::PartialObjectMeta,
    runtime::{watcher, watcher::Event},
};
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, watch};
use tradewind_runtime::{SharedClock, TaskSet, drain};

use crate::{
    client::Client,
    managed::{self, OWNED_LABEL, OWNER},
    objects::{Change, Kind, Object},
    wire::{self, Wire, WireExport, WireNamespace, WirePod, WireService, WireSlice},
};

use attempts::{Attempts, Next};

pub use attempts::Pulse;

/// Changes that may wait to be taken; watchers stand still beyond, and the API server keeps what they did not read.
pub const QUEUE: usize = 1_024;
/// Objects asked for at once when a kind is listed: what Kubernetes' own clients ask for.
const PAGE: u32 = 500;
/// How often a kind that is not there is looked for: installing Gateway API or Istio is nothing that somebody waits for in seconds.
const ABSENT: Duration = Duration::from_secs(15);
/// How often the API server is asked whether it is there, and how often while it is not: watches wait for its answer.
const PROBE: Duration = Duration::from_secs(5);
const PROBE_AWAY: Duration = Duration::from_millis(250);
/// How long it may take to say so.
const PROBE_DEADLINE: Duration = Duration::from_secs(3);
/// Pods that have a proxy carry this label.
pub const PROXY_LABEL: &str = "tradewind.io/proxy";
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
    (out, pulse): (&mpsc::Sender<Change>, &Pulse),
    tasks: &mut TaskSet,
    drain: &drain::Watch,
) {
    let simple = || watcher::Config::default().page_size(PAGE);
    let task = Task {
        client: client.clone(),
        out: out.clone(),
        pulse: pulse.clone(),
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

#[derive(Clone)]
struct Task {
    client: Client,
    out: mpsc::Sender<Change>,
    pulse: Pulse,
}

impl Task {
    async fn all<K>(self, kind: Kind, config: watcher::Config, mut drain: drain::Observer)
    where
        K: Wire + Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
    {
        let api = Api::<K>::all(self.client.kube.clone());
        let read = |object: K| Some((wire::key(object.meta())?, object.object()));
        let work = async {
            let mut attempts = Attempts::new(&self.out, &kind, &self.pulse);
            let stream = || watcher(api.clone(), config.clone());
            while attempts.follow(stream(), read).await == Next::Anew {}
        };
        tokio::select! {
            biased;
            () = drain.triggered() => {}
            () = work => {}
        }
    }

    /// Names of Pods without a proxy: nothing else of them is asked for.
    async fn bare(self, config: watcher::Config, mut drain: drain::Observer) {
        let api = Api::<PartialObjectMeta<Pod>>::all(self.client.kube.clone());
        let read = |object: PartialObjectMeta<Pod>| {
            Some((wire::key(&object.metadata)?, Some(Object::Bare)))
        };
        let work = async {
            let mut attempts = Attempts::new(&self.out, &Kind::Bare, &self.pulse);
            let stream = || watcher(api.clone(), config.clone());
            while attempts.follow(stream(), read).await == Next::Anew {}
        };
        tokio::select! {
            biased;
            () = drain.triggered() => {}
            () = work => {}
        }
    }

    async fn exports(self, exports: Served, mut drain: drain::Observer) {
        let work = async {
            let mut attempts = Attempts::new(&self.out, &Kind::Export, &self.pulse);
            while self
                .version(&exports, &Kind::Export, &mut attempts)
                .await
                .is_some()
            {
                let api = Api::<WireExport>::all(self.client.kube.clone());
                let config = watcher::Config::default().page_size(PAGE);
                let stream = until_absent(watcher(api, config));
                let read = |object: WireExport| {
                    Some((wire::key(Resource::meta(&object))?, object.object()))
                };
                if attempts.follow(stream, read).await == Next::Nothing {
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
            let mut attempts = Attempts::new(&self.out, &kind, &self.pulse);
            while let Some(version) = self.version(&served, &kind, &mut attempts).await {
                let gvk = GroupVersionKind::gvk(served.group, version, served.kind);
                let resource = ApiResource::from_gvk_with_plural(&gvk, served.plural);
                let api = Api::<DynamicObject>::all_with(self.client.kube.clone(), &resource);
                let stream = until_absent(watcher(api, config.clone()));
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
                if attempts.follow(stream, read).await == Next::Nothing {
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
    async fn version(
        &self,
        rule: &Served,
        kind: &Kind,
        attempts: &mut Attempts<'_>,
    ) -> Option<&'static str> {
        let mut told = false;
        loop {
            match self.served(rule).await {
                Ok(Some(version)) => return Some(version),
                Ok(None) => {
                    attempts.goes_on();
                    if !std::mem::replace(&mut told, true) {
                        self.out.send(Change::Absent(kind.clone())).await.ok()?;
                    }
                    tokio::time::sleep(ABSENT).await;
                }
                Err(error) => {
                    if attempts.unanswered(&error).await == Next::Nothing {
                        return None;
                    }
                    told = false;
                }
            }
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

/// Asks the API server again and again whether it is there, and at once when a watch broke off: for people, and to say when watches that wait
/// may go on.
pub async fn probe(
    client: Client,
    clock: SharedClock,
    (out, pulse): (watch::Sender<Contact>, Pulse),
    mut drain: drain::Observer,
) {
    let mut away = false;
    loop {
        let asked = client.kube.apiserver_version();
        let answer = tokio::time::timeout(PROBE_DEADLINE, asked).await;
        let trouble = match answer {
            Ok(Ok(_)) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_late) => Some(format!("no answer within {} s", PROBE_DEADLINE.as_secs())),
        };
        let was_away = std::mem::replace(&mut away, trouble.is_some());
        if was_away && !away {
            pulse.answers();
        }
        out.send_modify(|contact| {
            if trouble.is_none() {
                contact.answered_ms = Some(clock.unix_ms());
            }
            contact.trouble = trouble;
        });
        tokio::select! {
            biased;
            () = drain.triggered() => return,
            () = tokio::time::sleep(if away { PROBE_AWAY } else { PROBE }) => {}
            () = pulse.broke(), if !away => {}
        }
    }
}
