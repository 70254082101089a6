//! The telling side: one stream for each of the others, with what changed since its last message.

use std::{
    collections::{BTreeMap, BTreeSet},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use futures::Stream;
use tonic::{Request, Response, Status};
use tradewind_api::{
    ClusterName,
    proto::v1::{
        ExportWord, FollowRequest, FollowResponse, GatewayHello, ProxyRef, RegisterRequest,
        siblings_server::{Siblings, SiblingsServer},
    },
};
use tradewind_federation::Store;
use tradewind_runtime::drain;

use crate::{
    exports::{Commands, Exports},
    raft_net::vitals,
    registry::{
        RegistryHub,
        state::{FirstHand, ProxyKey},
    },
    server::{Access, caller},
};

/// Least time between two looks at what changed: a burst of registrations is told together.
const SPACING: Duration = Duration::from_millis(50);
/// How often the others hear that this one is there, and that all whom it named still are.
pub(super) const ALIVE_EVERY: Duration = Duration::from_secs(2);
/// Registrations in one message: some hundred bytes each, well below what a message may have.
const MAX_REGISTRATIONS: usize = 4_000;
/// Words on exports in one message, likewise.
const MAX_WORDS: usize = 5_000;

/// See the module. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct SiblingsService {
    hub: RegistryHub,
    exports: Exports,
    store: Store,
    own: ClusterName,
    access: Access,
    drain: drain::Observer,
}

impl SiblingsService {
    pub(crate) fn new(
        hub: RegistryHub,
        exports: Exports,
        (store, own): (Store, ClusterName),
        access: Access,
        drain: drain::Observer,
    ) -> Self {
        Self {
            hub,
            exports,
            store,
            own,
            access,
            drain,
        }
    }

    /// As a tonic service.
    pub(crate) fn into_service(self) -> SiblingsServer<Self> {
        SiblingsServer::new(self)
    }
}

/// What one stream has told.
struct Session {
    service: SiblingsService,
    told: FirstHand,
    words: Arc<Commands>,
    departed: u64,
    waiting: Vec<FollowResponse>,
    began: bool,
    whole: bool,
}

impl Session {
    /// The next message: what changed, or at the least that this controller is there.
    async fn next(&mut self) -> Option<FollowResponse> {
        if let Some(next) = self.waiting.pop() {
            return Some(self.stamped(next));
        }
        let mut registered = self.service.hub.watch();
        let mut intents = self.service.exports.watch();
        let alive = tokio::time::sleep(ALIVE_EVERY);
        tokio::pin!(alive);
        loop {
            registered.mark_unchanged();
            intents.mark_unchanged();
            self.look();
            if let Some(next) = self.waiting.pop() {
                return Some(self.stamped(next));
            }
            tokio::select! {
                biased;
                () = self.service.drain.triggered() => return None,
                () = &mut alive => return Some(self.stamped(FollowResponse::default())),
                changed = registered.changed() => changed.ok()?,
                changed = intents.changed() => changed.ok()?,
            }
            tokio::time::sleep(SPACING).await;
        }
    }

    fn stamped(&mut self, mut response: FollowResponse) -> FollowResponse {
        let catalog = self.service.store.catalog();
        response.revision = catalog.revision;
        response.speaker = catalog.speaker_of(&self.service.own).unwrap_or_default();
        response.vitals = Some(vitals(self.service.store.vitals()));
        // The last message of what there was at the beginning.
        response.whole = self.began && !self.whole && self.waiting.is_empty();
        self.whole |= response.whole;
        response
    }

    /// Puts what changed since the last look into messages.
    fn look(&mut self) {
        let now = self.service.hub.first_hand();
        let words = self.service.exports.commands();
        let mut responses = changes(&self.told, &now, self.departed);
        if !Arc::ptr_eq(&words, &self.words) {
            responses.extend(news(&self.words, &words));
        }
        if !self.began && responses.is_empty() {
            responses.push(FollowResponse::default());
        }
        self.began = true;
        self.departed = now.departed.last().map_or(self.departed, |(n, _)| *n);
        (self.told, self.words) = (now, words);
        // Taken from the end.
        responses.reverse();
        self.waiting = responses;
    }
}

fn reference((identity, proxy): &ProxyKey) -> ProxyRef {
    ProxyRef {
        proxy: proxy.clone(),
        identity: identity.to_string(),
    }
}

/// What to tell one that heard `before`, and graceful ends up to the one numbered `departed`.
fn changes(before: &FirstHand, now: &FirstHand, departed: u64) -> Vec<FollowResponse> {
    let mut responses = Vec::new();
    let mut last = FollowResponse::default();
    let gone: BTreeSet<&ProxyKey> = now
        .departed
        .iter()
        .filter(|(number, _)| *number > departed)
        .map(|(_, key)| key)
        .filter(|key| !now.proxies.contains_key(*key))
        .collect();
    last.proxies = gone
        .iter()
        .map(|(identity, proxy)| RegisterRequest {
            proxy: proxy.clone(),
            identity: identity.to_string(),
            leaving: true,
            ..RegisterRequest::default()
        })
        .collect();
    let lost = before.proxies.keys();
    let lost = lost.filter(|key| !now.proxies.contains_key(*key) && !gone.contains(key));
    last.lost = lost.map(reference).collect();
    let mut registrations = 0;
    for (key, fronted) in &now.proxies {
        if before.proxies.get(key) == Some(fronted) {
            continue;
        }
        if registrations + fronted.len() > MAX_REGISTRATIONS {
            responses.push(std::mem::take(&mut last));
            registrations = 0;
        }
        // One that fronts nothing takes its place in a message, too.
        registrations += fronted.len().max(1);
        let labels = fronted.first().map(|f| f.labels().clone());
        last.proxies.push(RegisterRequest {
            proxy: key.1.clone(),
            identity: key.0.to_string(),
            registrations: fronted.iter().map(|f| f.wire()).collect(),
            leaving: false,
            labels: labels.unwrap_or_default().into_iter().collect(),
        });
    }
    for (name, gateway) in &now.gateways {
        if before.gateways.get(name) != Some(gateway) {
            last.gateways.push(GatewayHello {
                name: name.clone(),
                advertised_address: gateway.address.clone(),
                draining: gateway.draining,
                peers: Vec::new(),
            });
        }
    }
    let lost = before.gateways.keys();
    let lost = lost.filter(|name| !now.gateways.contains_key(*name));
    last.lost_gateways = lost.cloned().collect();
    if last != FollowResponse::default() {
        responses.push(last);
    }
    responses
}

/// The words that are new.
fn news(before: &Commands, now: &Commands) -> Vec<FollowResponse> {
    let new: BTreeMap<_, _> = now
        .iter()
        .filter(|(service, word)| before.get(*service) != Some(*word))
        .collect();
    let words: Vec<ExportWord> = new
        .into_iter()
        .map(|(service, word)| ExportWord {
            service: service.to_string(),
            at_unix_ms: word.at_ms,
            created_at_unix_ms: word.created_at_ms,
        })
        .collect();
    let chunks = words.chunks(MAX_WORDS);
    chunks
        .map(|words| FollowResponse {
            words: words.to_vec(),
            ..FollowResponse::default()
        })
        .collect()
}

#[tonic::async_trait]
impl Siblings for SiblingsService {
    type FollowStream = Pin<Box<dyn Stream<Item = Result<FollowResponse, Status>> + Send>>;

    async fn follow(
        &self,
        request: Request<FollowRequest>,
    ) -> Result<Response<Self::FollowStream>, Status> {
        let cluster = self
            .access
            .require_controller_of_member(&caller(&request))?;
        if cluster != self.own {
            return Err(Status::permission_denied(format!(
                "this is told to controllers of {} alone",
                self.own
            )));
        }
        tracing::debug!(node = request.into_inner().node_id, "a controller follows");
        let session = Session {
            service: self.clone(),
            told: FirstHand::default(),
            words: Arc::default(),
            departed: 0,
            waiting: Vec::new(),
            began: false,
            whole: false,
        };
        let stream = futures::stream::unfold(session, |mut session| async move {
            let next = session.next().await?;
            Some((Ok(next), session))
        });
        Ok(Response::new(Box::pin(stream)))
    }
}
