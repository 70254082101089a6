//! Applying one command. A refused command changes nothing but the catalog's revision and time.

use std::{collections::BTreeMap, collections::BTreeSet, sync::Arc};

use tradewind_api::{
    ClusterName, Domain, EndpointId, ServiceName,
    model::ClusterState,
    store::{
        Blob, ClusterRecord, Command, EndpointSummary, Export, Outcome, Refusal, Stamped,
        TokenRecord,
    },
};

use super::{Catalog, limits, seals};

/// What a command that was not refused did.
pub(super) enum Did {
    Nothing,
    Changed,
    Joined(u64),
}

impl Catalog {
    /// Applies `stamped`, which stands at `revision` in the log. Deterministic.
    pub fn apply(&mut self, revision: u64, stamped: &Stamped) -> Outcome {
        self.revision = revision;
        self.at_ms = self.at_ms.max(stamped.at_ms);
        let known = self.has_shape_of(stamped);
        let changed = limits::check_actor(stamped.actor.as_ref())
            .and_then(|()| self.change(&stamped.proposer, &stamped.command));
        let outcome = match changed {
            Ok(Did::Nothing) => Outcome::Done {
                revision,
                changed: false,
            },
            Ok(Did::Changed) => Outcome::Done {
                revision,
                changed: true,
            },
            Ok(Did::Joined(node_id)) => Outcome::Joined { revision, node_id },
            Err(refusal) => Outcome::Refused(refusal),
        };
        if !matches!(outcome, Outcome::Refused(_)) {
            self.raise_level();
        }
        self.note(stamped, &outcome, known);
        debug_assert_eq!(self.validate(), Ok(()), "after {stamped:?}");
        outcome
    }

    /// True when `stamped` puts an export that is there already and differs in endpoints at most.
    fn has_shape_of(&self, stamped: &Stamped) -> bool {
        let Command::PutExport(new) = &stamped.command else {
            return false;
        };
        self.export(&new.service, &stamped.proposer)
            .is_some_and(|old| {
                (old.created_at_ms, old.kind, &old.ports)
                    == (new.created_at_ms, new.kind, &new.ports)
            })
    }

    fn change(&mut self, proposer: &ClusterName, command: &Command) -> Result<Did, Refusal> {
        if let Command::Found {
            domain,
            root,
            cluster,
        } = command
        {
            return self.found(domain, root, cluster);
        }
        if !self.is_founded() {
            return Err(Refusal::NotFounded);
        }
        if self.member(proposer).is_none() {
            return Err(Refusal::NotMember(proposer.clone()));
        }
        // A state that level 1 wrote names no level.
        if command.level() > self.level.max(1) {
            return Err(Refusal::NotYet {
                needs: command.level(),
                has: self.level,
            });
        }
        match command {
            // Handled above; a second founding is refused there.
            Command::Found { .. } => Ok(Did::Nothing),
            Command::Join { token_id, cluster } => self.join(token_id, cluster),
            Command::Announce {
                gateways,
                version,
                level,
            } => self.announce(proposer, gateways, version, *level),
            Command::RenewLease => self.renew_lease(proposer),
            Command::SetDraining { cluster, draining } => self.set_draining(cluster, *draining),
            Command::Leave => self.leave(proposer),
            Command::PutExport(export) => self.put_export(proposer, export),
            Command::PatchExport {
                service,
                upsert,
                remove,
            } => self.patch_export(proposer, service, upsert, remove),
            Command::RemoveExport(service) => self.remove_export(proposer, service),
            Command::PutToken(token) => self.put_token(token),
            Command::RevokeToken(id) => self.revoke_token(id),
            Command::SetVoting { node, voting } => self.set_voting(*node, *voting),
            Command::RemoveNode { node } => self.remove_node(*node),
            Command::AddNode { replaces } => self.add_node(proposer, *replaces),
            Command::AttestExports { digest, count } => self.attest(proposer, digest, *count),
            Command::PutNodeKey { node, public } => self.put_node_key(proposer, *node, public),
            Command::PutSealKey {
                number,
                public,
                boxes,
                alone,
            } => {
                let put = seals::Put {
                    number: *number,
                    public,
                    boxes,
                    alone: *alone,
                };
                self.put_seal_key(proposer, &put)
            }
            Command::NoteTransfer { to } => self.note_transfer(*to),
            Command::AddController { controller } => self.add_controller(proposer, controller),
            Command::PutController {
                node,
                address,
                level,
            } => self.put_controller(proposer, *node, address, *level),
            Command::Speak { node } => self.speak(proposer, *node),
        }
    }

    fn found(
        &mut self,
        domain: &Domain,
        root: &Blob,
        cluster: &ClusterRecord,
    ) -> Result<Did, Refusal> {
        if self.is_founded() {
            return Err(Refusal::AlreadyFounded(self.domain.clone()));
        }
        limits::at_most("a root certificate", root.0.len(), limits::MAX_CERTIFICATE)?;
        limits::check_cluster(cluster)?;
        let mut record = self.admitted(cluster);
        record.nodes.clone_from(&cluster.nodes);
        self.next_node_id = record.nodes.last().map_or(1, |last| last.saturating_add(1));
        self.domain = domain.clone();
        self.founder = Some(record.name.clone());
        // Founded there, it never stood anywhere else.
        self.level = record.level.min(tradewind_api::store::LEVEL);
        Arc::make_mut(&mut self.roots).insert(root.clone());
        Arc::make_mut(&mut self.clusters).insert(record.name.clone(), record);
        Ok(Did::Changed)
    }

    fn join(&mut self, token_id: &str, cluster: &ClusterRecord) -> Result<Did, Refusal> {
        let token = self.tokens.get(token_id).ok_or(Refusal::UnknownToken)?;
        if let Some((by, _)) = &token.used {
            return Err(Refusal::TokenUsed(by.clone()));
        }
        if self.at_ms >= token.expires_at_ms {
            let ago_s = (self.at_ms - token.expires_at_ms) / 1000;
            return Err(Refusal::TokenExpired(ago_s));
        }
        if let Some(bound) = &token.cluster
            && *bound != cluster.name
        {
            return Err(Refusal::TokenForOther(bound.clone()));
        }
        if self.member(&cluster.name).is_some() {
            return Err(Refusal::NameTaken(cluster.name.clone()));
        }
        if cluster.level < self.level {
            return Err(Refusal::TooOld {
                cluster: cluster.name.clone(),
                has: cluster.level,
                needs: self.level,
            });
        }
        limits::check_cluster(cluster)?;
        limits::at_most(
            "clusters of the federation",
            self.members().count() + 1,
            limits::MAX_CLUSTERS,
        )?;
        let node_id = self.next_node_id;
        self.next_node_id = node_id.saturating_add(1);
        let mut record = self.admitted(cluster);
        record.nodes.insert(node_id);
        let used = Some((record.name.clone(), self.at_ms));
        if let Some(token) = Arc::make_mut(&mut self.tokens).get_mut(token_id) {
            token.used = used;
        }
        Arc::make_mut(&mut self.clusters).insert(record.name.clone(), record);
        Ok(Did::Joined(node_id))
    }

    /// The record of a new member: what it says of itself, with what only the store may say.
    fn admitted(&self, cluster: &ClusterRecord) -> ClusterRecord {
        ClusterRecord {
            gateways: sorted(&cluster.gateways),
            state: ClusterState::Active,
            nodes: BTreeSet::new(),
            joined_at_ms: self.at_ms,
            lease_at_ms: self.at_ms,
            ..cluster.clone()
        }
    }

    fn announce(
        &mut self,
        proposer: &ClusterName,
        gateways: &[String],
        version: &str,
        level: u16,
    ) -> Result<Did, Refusal> {
        limits::check_facts(gateways, version)?;
        if level < self.level {
            return Err(Refusal::TooOld {
                cluster: proposer.clone(),
                has: level,
                needs: self.level,
            });
        }
        let gateways = sorted(gateways);
        let same = self
            .member(proposer)
            .is_some_and(|c| c.gateways == gateways && c.version == version && c.level == level);
        if same {
            return Ok(Did::Nothing);
        }
        self.edit(proposer, |c| {
            c.gateways = gateways;
            version.clone_into(&mut c.version);
            c.level = level;
        })
    }

    pub(super) fn renew_lease(&mut self, proposer: &ClusterName) -> Result<Did, Refusal> {
        let now_ms = self.at_ms;
        self.end_retired(proposer);
        self.edit(proposer, |c| c.lease_at_ms = now_ms)
    }

    fn set_draining(&mut self, cluster: &ClusterName, draining: bool) -> Result<Did, Refusal> {
        let wanted = if draining {
            ClusterState::Draining
        } else {
            ClusterState::Active
        };
        let state = self.member(cluster).map(|c| c.state);
        match state {
            None => return Err(Refusal::NotMember(cluster.clone())),
            Some(state) if state == wanted => return Ok(Did::Nothing),
            Some(_) => {}
        }
        let another_serves = self
            .members()
            .any(|c| c.name != *cluster && c.state == ClusterState::Active && !c.witness);
        if draining && !another_serves {
            return Err(Refusal::LastActive(cluster.clone()));
        }
        self.edit(cluster, |c| c.state = wanted)
    }

    fn leave(&mut self, proposer: &ClusterName) -> Result<Did, Refusal> {
        let others = self.members().any(|c| c.name != *proposer);
        if others && self.founder.as_ref() == Some(proposer) {
            return Err(Refusal::HoldsRoot(proposer.clone()));
        }
        let nodes = self.member(proposer).map(|c| c.nodes.clone());
        for node in nodes.unwrap_or_default() {
            self.forget_voting(node);
        }
        let services: Vec<ServiceName> = self
            .exports_of(proposer)
            .map(|e| e.service.clone())
            .collect();
        for service in &services {
            self.withdraw(proposer, service);
        }
        self.forget_seals(proposer);
        self.forget_controllers(proposer);
        let now_ms = self.at_ms;
        self.edit(proposer, |c| {
            c.state = ClusterState::Left;
            c.gateways.clear();
            c.nodes.clear();
            c.authorities.clear();
            c.lease_at_ms = now_ms;
        })?;
        self.forget_oldest_left();
        Ok(Did::Changed)
    }

    fn forget_oldest_left(&mut self) {
        let left: Vec<_> = self
            .clusters
            .values()
            .filter(|c| c.state == ClusterState::Left)
            .collect();
        if left.len() <= limits::MAX_LEFT_CLUSTERS {
            return;
        }
        let oldest = left
            .iter()
            .min_by(|a, b| (a.lease_at_ms, &a.name).cmp(&(b.lease_at_ms, &b.name)))
            .map(|c| c.name.clone());
        if let Some(oldest) = oldest {
            Arc::make_mut(&mut self.clusters).remove(&oldest);
        }
    }

    fn put_export(&mut self, proposer: &ClusterName, export: &Export) -> Result<Did, Refusal> {
        limits::check_export(export)?;
        if self.member(proposer).is_some_and(|c| c.witness) {
            return Err(Refusal::IsWitness(proposer.clone()));
        }
        let known = self.export(&export.service, proposer);
        if known.is_some_and(|e| **e == *export) {
            return Ok(Did::Nothing);
        }
        if let Some(rules) = &export.rules {
            let others = self
                .exports_of(proposer)
                .filter(|e| e.service != export.service)
                .filter_map(|e| Some(e.rules.as_ref()?.json.len()));
            limits::at_most(
                "rules of one cluster's exports",
                others.sum::<usize>() + rules.json.len(),
                limits::MAX_RULES_BYTES_PER_CLUSTER,
            )?;
        }
        if known.is_none() {
            let count = self.export_counts.get(proposer).copied().unwrap_or(0);
            limits::at_most(
                "services exported by one cluster",
                count as usize + 1,
                limits::MAX_EXPORTS_PER_CLUSTER,
            )?;
            self.take_address(&export.service)?;
            *Arc::make_mut(&mut self.export_counts)
                .entry(proposer.clone())
                .or_default() += 1;
        }
        self.set_export(proposer, Arc::new(export.clone()));
        Ok(Did::Changed)
    }

    fn patch_export(
        &mut self,
        proposer: &ClusterName,
        service: &ServiceName,
        upsert: &BTreeMap<EndpointId, EndpointSummary>,
        remove: &BTreeSet<EndpointId>,
    ) -> Result<Did, Refusal> {
        let known = self
            .export(service, proposer)
            .ok_or_else(|| Refusal::NotExported {
                cluster: proposer.clone(),
                service: service.clone(),
            })?;
        upsert.values().try_for_each(limits::check_endpoint)?;
        let mut export = (**known).clone();
        export.endpoints.retain(|id, _| !remove.contains(id));
        let added = upsert.iter().map(|(id, e)| (id.clone(), e.clone()));
        export.endpoints.extend(added);
        limits::at_most(
            "endpoints of one export",
            export.endpoints.len(),
            limits::MAX_ENDPOINTS_PER_EXPORT,
        )?;
        if export == **known {
            return Ok(Did::Nothing);
        }
        self.set_export(proposer, Arc::new(export));
        Ok(Did::Changed)
    }

    fn set_export(&mut self, proposer: &ClusterName, export: Arc<Export>) {
        let service = export.service.clone();
        let mut by = self.exports.get(&service).cloned().unwrap_or_default();
        Arc::make_mut(&mut by).insert(proposer.clone(), export);
        self.exports.insert(service, by);
    }

    fn remove_export(
        &mut self,
        proposer: &ClusterName,
        service: &ServiceName,
    ) -> Result<Did, Refusal> {
        if self.export(service, proposer).is_none() {
            return Err(Refusal::NotExported {
                cluster: proposer.clone(),
                service: service.clone(),
            });
        }
        self.withdraw(proposer, service);
        Ok(Did::Changed)
    }

    /// Takes one export out, and the service's address with the last of them.
    fn withdraw(&mut self, cluster: &ClusterName, service: &ServiceName) {
        let Some(mut by) = self.exports.get(service).cloned() else {
            return;
        };
        if Arc::make_mut(&mut by).remove(cluster).is_none() {
            return;
        }
        if by.is_empty() {
            self.exports.remove(service);
            self.release_address(service);
        } else {
            self.exports.insert(service.clone(), by);
        }
        let counts = Arc::make_mut(&mut self.export_counts);
        if let Some(count) = counts.get_mut(cluster) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                counts.remove(cluster);
            }
        }
    }

    fn put_token(&mut self, token: &TokenRecord) -> Result<Did, Refusal> {
        limits::check_token(token)?;
        match self.tokens.get(&token.id) {
            Some(known) if known == token => return Ok(Did::Nothing),
            Some(_) => {
                return Err(Refusal::Invalid {
                    what: "a token's id".to_owned(),
                    expected: "one that no other token has".to_owned(),
                });
            }
            None => {}
        }
        let now_ms = self.at_ms;
        let tokens = Arc::make_mut(&mut self.tokens);
        tokens.retain(|_, t| t.expires_at_ms > now_ms);
        limits::at_most("join tokens", tokens.len() + 1, limits::MAX_TOKENS)?;
        tokens.insert(token.id.clone(), token.clone());
        Ok(Did::Changed)
    }

    fn revoke_token(&mut self, id: &str) -> Result<Did, Refusal> {
        if !self.tokens.contains_key(id) {
            return Err(Refusal::UnknownToken);
        }
        Arc::make_mut(&mut self.tokens).remove(id);
        Ok(Did::Changed)
    }

    pub(super) fn edit(
        &mut self,
        cluster: &ClusterName,
        change: impl FnOnce(&mut ClusterRecord),
    ) -> Result<Did, Refusal> {
        let record = Arc::make_mut(&mut self.clusters)
            .get_mut(cluster)
            .ok_or_else(|| Refusal::NotMember(cluster.clone()))?;
        change(record);
        Ok(Did::Changed)
    }
}

fn sorted(gateways: &[String]) -> Vec<String> {
    let unique: BTreeSet<_> = gateways.iter().cloned().collect();
    unique.into_iter().collect()
}
