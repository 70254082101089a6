//! The rules of delta ADS, one by one, with the standard's messages.

use std::sync::Arc;

use proptest::prelude::*;
use tradewind_api::{
    id::{ClusterName, Domain, Revision, ServiceName},
    model::{Cluster, ClusterState, Service, ServiceKind},
    proto::rpc,
    snapshot::{Snapshot, Trust},
};

use super::*;

fn service(name: &str, exported_by: &[&str]) -> (ServiceName, Arc<Service>) {
    let name: ServiceName = name.parse().unwrap();
    let service = Service {
        name: name.clone(),
        kind: ServiceKind::ClusterSetIp,
        clusterset_ips: vec![],
        cluster_ips: Vec::new(),
        ports: vec![],
        exported_by: exported_by
            .iter()
            .map(|c| ClusterName::new(c).unwrap())
            .collect(),
        endpoints: vec![],
        seals: vec![],
    };
    (name, Arc::new(service))
}

fn cluster(name: &str) -> (ClusterName, Arc<Cluster>) {
    let cluster = Cluster {
        name: ClusterName::new(name).unwrap(),
        region: "us-west".parse().unwrap(),
        network: name.parse().unwrap(),
        state: ClusterState::Active,
        gateways: vec![],
        lease_expired: false,
        sealed_only: false,
        controllers: BTreeMap::new(),
        round_trip_us: None,
        local: true,
    };
    (cluster.name.clone(), Arc::new(cluster))
}

fn snapshot(revision: u64, services: &[(&str, &[&str])], clusters: &[&str]) -> Arc<Snapshot> {
    Arc::new(Snapshot {
        revision: Revision(revision),
        services: services.iter().map(|(n, e)| service(n, e)).collect(),
        clusters: clusters.iter().map(|c| cluster(c)).collect(),
        trust: Arc::new(Trust {
            domain: Domain::default(),
            roots: [vec![1]].into(),
            ..Trust::default()
        }),
        ..Snapshot::default()
    })
}

fn encode(snapshot: &Arc<Snapshot>) -> Encoded {
    Encoded::default().next(snapshot)
}

fn subscribe(url: &str, names: &[&str]) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: url.into(),
        resource_names_subscribe: names.iter().map(ToString::to_string).collect(),
        ..Default::default()
    }
}

fn unsubscribe(url: &str, names: &[&str]) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: url.into(),
        resource_names_unsubscribe: names.iter().map(ToString::to_string).collect(),
        ..Default::default()
    }
}

fn ack(stream: &mut Stream, response: &DeltaDiscoveryResponse) {
    let request = DeltaDiscoveryRequest {
        type_url: response.type_url.clone(),
        response_nonce: response.nonce.clone(),
        ..Default::default()
    };
    assert_eq!(stream.hear(request), Ok(Heard::Noted));
}

fn names(response: &DeltaDiscoveryResponse) -> Vec<&str> {
    response.resources.iter().map(|r| r.name.as_str()).collect()
}

// A client that holds everything of `encoded`.
fn synced(encoded: &Encoded) -> Stream {
    let mut stream = Stream::new();
    for url in [SERVICE_TYPE, CLUSTER_TYPE, TRUST_TYPE] {
        stream.hear(subscribe(url, &["*"])).unwrap();
    }
    for _ in 0..3 {
        let response = stream.next(encoded).unwrap();
        ack(&mut stream, &response);
    }
    assert_eq!(stream.next(encoded), None);
    stream
}

#[test]
fn first_answers_come_in_order_even_where_there_is_nothing() {
    let encoded = encode(&snapshot(7, &[], &["west"]));
    let mut stream = Stream::new();
    for url in [SERVICE_TYPE, CLUSTER_TYPE, TRUST_TYPE] {
        stream.hear(subscribe(url, &["*"])).unwrap();
    }
    let urls: Vec<_> = std::iter::from_fn(|| stream.next(&encoded))
        .map(|r| (r.type_url, r.resources.len(), r.system_version_info))
        .collect();
    let expected = [(TRUST_TYPE, 1), (CLUSTER_TYPE, 1), (SERVICE_TYPE, 0)];
    assert_eq!(
        urls,
        expected.map(|(url, n)| (url.to_owned(), n, "7".to_owned()))
    );
}

#[test]
fn only_what_changed_is_sent_and_the_removed_goes_last() {
    let one = snapshot(
        1,
        &[("shop/a", &["west"]), ("shop/b", &["west"])],
        &["west", "east"],
    );
    let mut stream = synced(&encode(&one));
    let two = snapshot(
        2,
        &[("shop/b", &["east", "west"]), ("shop/c", &["west"])],
        &["west", "north"],
    );
    let two = encode(&two);
    let clusters = stream.next(&two).unwrap();
    assert_eq!(
        (clusters.type_url.as_str(), names(&clusters)),
        (CLUSTER_TYPE, vec!["north"])
    );
    assert!(clusters.removed_resources.is_empty(), "east goes later");
    let services = stream.next(&two).unwrap();
    assert_eq!(names(&services), ["shop/b", "shop/c"]);
    assert_eq!(stream.next(&two), None, "removals wait for the answers");
    ack(&mut stream, &clusters);
    assert_eq!(stream.next(&two), None);
    ack(&mut stream, &services);
    let gone = stream.next(&two).unwrap();
    assert_eq!(
        (gone.type_url.as_str(), &gone.removed_resources[..]),
        (SERVICE_TYPE, &["shop/a".to_owned()][..])
    );
    ack(&mut stream, &gone);
    let gone = stream.next(&two).unwrap();
    assert_eq!(
        (gone.type_url.as_str(), &gone.removed_resources[..]),
        (CLUSTER_TYPE, &["east".to_owned()][..])
    );
    ack(&mut stream, &gone);
    assert_eq!(stream.next(&two), None);
}

#[test]
fn a_slow_client_gets_the_newest_state_only() {
    let mut stream = synced(&encode(&snapshot(1, &[("shop/a", &["west"])], &["west"])));
    let two = encode(&snapshot(2, &[("shop/a", &["east"])], &["west"]));
    let first = stream.next(&two).unwrap();
    for revision in 3..9 {
        let passing = encode(&snapshot(
            revision,
            &[("shop/a", &["east", "north"])],
            &["west"],
        ));
        assert_eq!(
            stream.next(&passing),
            None,
            "the first was not answered yet"
        );
    }
    let last = encode(&snapshot(9, &[("shop/a", &["south"])], &["west"]));
    ack(&mut stream, &first);
    let second = stream.next(&last).unwrap();
    assert_eq!(
        (second.system_version_info.as_str(), names(&second)),
        ("9", vec!["shop/a"])
    );
}

#[test]
fn a_reconnect_is_sent_the_difference_and_told_what_vanished() {
    let one = encode(&snapshot(
        1,
        &[("shop/a", &["west"]), ("shop/b", &["west"])],
        &["west"],
    ));
    let held = one
        .entries(SERVICE_TYPE)
        .iter()
        .map(|(n, e)| (n.to_string(), e.version.to_string()))
        .collect();
    let two = encode(&snapshot(
        2,
        &[("shop/a", &["west"]), ("shop/c", &["west"])],
        &["west"],
    ));
    let mut stream = Stream::new();
    let mut request = subscribe(SERVICE_TYPE, &["*"]);
    request.initial_resource_versions = held;
    stream.hear(request).unwrap();
    let changed = stream.next(&two).unwrap();
    assert_eq!(names(&changed), ["shop/c"], "shop/a is held already");
    ack(&mut stream, &changed);
    assert_eq!(stream.next(&two).unwrap().removed_resources, ["shop/b"]);
}

#[test]
fn names_are_sent_again_when_asked_for_again_and_the_unknown_are_removed() {
    let encoded = encode(&snapshot(1, &[("shop/a", &["west"])], &["west"]));
    let mut stream = Stream::new();
    stream
        .hear(subscribe(SERVICE_TYPE, &["shop/a", "shop/nobody"]))
        .unwrap();
    let first = stream.next(&encoded).unwrap();
    assert_eq!(
        (names(&first), &first.removed_resources[..]),
        (vec!["shop/a"], &["shop/nobody".to_owned()][..])
    );
    ack(&mut stream, &first);
    assert_eq!(stream.next(&encoded), None);
    stream.hear(subscribe(SERVICE_TYPE, &["shop/a"])).unwrap();
    let again = stream.next(&encoded).unwrap();
    assert_eq!(names(&again), ["shop/a"]);
    ack(&mut stream, &again);
    let appeared = encode(&snapshot(
        2,
        &[
            ("shop/a", &["west"]),
            ("shop/nobody", &["west"]),
            ("shop/x", &["west"]),
        ],
        &["west"],
    ));
    assert_eq!(
        names(&stream.next(&appeared).unwrap()),
        ["shop/nobody"],
        "the subscription stands; shop/x was not asked for"
    );
}

#[test]
fn the_wildcard_comes_and_goes_without_touching_names() {
    let encoded = encode(&snapshot(
        1,
        &[("shop/a", &["west"]), ("shop/b", &["west"])],
        &["west"],
    ));
    let mut stream = Stream::new();
    // The legacy wildcard: a first request that names nothing.
    stream.hear(subscribe(SERVICE_TYPE, &[])).unwrap();
    let all = stream.next(&encoded).unwrap();
    assert_eq!(all.resources.len(), 2);
    ack(&mut stream, &all);
    stream.hear(subscribe(SERVICE_TYPE, &["shop/a"])).unwrap();
    let named = stream.next(&encoded).unwrap();
    ack(&mut stream, &named);
    // Still covered by the wildcard: the client is told so.
    stream
        .hear(unsubscribe(SERVICE_TYPE, &["shop/a", "shop/gone"]))
        .unwrap();
    let covered = stream.next(&encoded).unwrap();
    assert_eq!(
        (names(&covered), &covered.removed_resources[..]),
        (vec!["shop/a"], &["shop/gone".to_owned()][..])
    );
    ack(&mut stream, &covered);
    stream.hear(subscribe(SERVICE_TYPE, &["shop/b"])).unwrap();
    let named = stream.next(&encoded).unwrap();
    ack(&mut stream, &named);
    stream
        .hear(unsubscribe(SERVICE_TYPE, &["*", "never/held"]))
        .unwrap();
    assert_eq!(stream.next(&encoded), None);
    let changed = encode(&snapshot(
        2,
        &[("shop/a", &["east"]), ("shop/b", &["east"])],
        &["west"],
    ));
    assert_eq!(names(&stream.next(&changed).unwrap()), ["shop/b"]);
}

#[test]
fn a_client_may_subscribe_to_nothing_first() {
    let encoded = encode(&snapshot(1, &[("shop/a", &["west"])], &["west"]));
    let mut stream = Stream::new();
    let mut request = subscribe(SERVICE_TYPE, &["*"]);
    request.resource_names_unsubscribe = vec!["*".into()];
    stream.hear(request).unwrap();
    assert_eq!(stream.next(&encoded), None);
    stream.hear(subscribe(SERVICE_TYPE, &["shop/a"])).unwrap();
    assert_eq!(names(&stream.next(&encoded).unwrap()), ["shop/a"]);
}

#[test]
fn the_wildcard_asked_for_again_sends_everything_again() {
    let encoded = encode(&snapshot(1, &[("shop/a", &["west"])], &["west"]));
    let mut stream = synced(&encoded);
    stream.hear(subscribe(SERVICE_TYPE, &["*"])).unwrap();
    assert_eq!(names(&stream.next(&encoded).unwrap()), ["shop/a"]);
}

#[test]
fn a_stale_nonce_changes_subscriptions_and_acknowledges_nothing() {
    let encoded = encode(&snapshot(
        1,
        &[("shop/a", &["west"]), ("shop/b", &["west"])],
        &["west"],
    ));
    let mut stream = Stream::new();
    stream.hear(subscribe(SERVICE_TYPE, &["shop/a"])).unwrap();
    let first = stream.next(&encoded).unwrap();
    let mut stale = subscribe(SERVICE_TYPE, &["shop/b"]);
    stale.response_nonce = "of another time".into();
    stream.hear(stale).unwrap();
    assert_eq!(
        stream.next(&encoded),
        None,
        "the first is still outstanding"
    );
    ack(&mut stream, &first);
    assert_eq!(names(&stream.next(&encoded).unwrap()), ["shop/b"]);
}

#[test]
fn a_rejection_is_reported_and_the_same_is_not_sent_again() {
    let mut stream = synced(&encode(&snapshot(1, &[("shop/a", &["west"])], &["west"])));
    let two = encode(&snapshot(2, &[("shop/a", &["east"])], &["west"]));
    let sent = stream.next(&two).unwrap();
    let nack = DeltaDiscoveryRequest {
        type_url: SERVICE_TYPE.into(),
        response_nonce: sent.nonce,
        error_detail: Some(rpc::Status {
            code: 3,
            message: "shop/a: no".into(),
            details: vec![],
        }),
        ..Default::default()
    };
    let heard = stream.hear(nack).unwrap();
    assert_eq!(
        heard,
        Heard::Nack {
            type_url: SERVICE_TYPE.into(),
            message: "shop/a: no".into()
        }
    );
    assert_eq!(stream.next(&two), None);
    let three = encode(&snapshot(3, &[("shop/a", &["south"])], &["west"]));
    assert_eq!(names(&stream.next(&three).unwrap()), ["shop/a"]);
}

#[test]
fn unknown_types_are_answered_with_nothing_and_bounded() {
    let encoded = encode(&snapshot(1, &[], &["west"]));
    let mut stream = Stream::new();
    stream
        .hear(subscribe("type.googleapis.com/other", &["x"]))
        .unwrap();
    assert_eq!(stream.next(&encoded).unwrap().removed_resources, ["x"]);
    let excess = (0..MAX_TYPES)
        .map(|i| stream.hear(subscribe(&format!("t{i}"), &["*"])))
        .find_map(Result::err);
    assert!(excess.unwrap().to_string().contains("types"));
    let long = "x".repeat(MAX_NAME_BYTES + 1);
    assert!(stream.hear(subscribe("t0", &[&long])).is_err());
}

#[test]
fn unchanged_resources_are_encoded_once() {
    let one = snapshot(1, &[("shop/a", &["west"])], &["west"]);
    let first = encode(&one);
    let mut changed = (*one).clone();
    changed.revision = Revision(2);
    let (name, value) = service("shop/b", &["west"]);
    changed.services.insert(name, value);
    let second = first.next(&Arc::new(changed));
    let entry = |e: &Encoded| Arc::clone(&e.entries(SERVICE_TYPE)["shop/a"]);
    assert!(Arc::ptr_eq(&entry(&first), &entry(&second)));
    assert_eq!(second.entries(SERVICE_TYPE).len(), 2);
}

/// Of all types, in a lineage of encodings as a controller has it: some of them are never looked at, and some streams come late.
#[derive(Clone, Debug)]
enum Step {
    /// These services, by name and exporters, and so many clusters.
    Changed(Vec<(usize, usize)>, usize),
    Subscribe(usize, bool, usize),
    Unsubscribe(usize, bool, usize),
    /// The client is given so many responses, and answers those.
    Reads(usize, usize),
    /// Another client that holds what this one was told comes instead.
    Reconnects,
}

fn step() -> impl Strategy<Value = Step> {
    let services = proptest::collection::vec((0usize..5, 0usize..3), 0..5);
    prop_oneof![
        4 => (services, 0usize..3).prop_map(|(s, c)| Step::Changed(s, c)),
        1 => (0usize..3, any::<bool>(), 0usize..5).prop_map(|(t, all, n)| Step::Subscribe(t, all, n)),
        1 => (0usize..3, any::<bool>(), 0usize..5).prop_map(|(t, all, n)| Step::Unsubscribe(t, all, n)),
        4 => (0usize..4, 0usize..4).prop_map(|(r, a)| Step::Reads(r, a)),
        1 => Just(Step::Reconnects),
    ]
}

proptest! {
    // What a stream says that compares only what changed is what it says when it compares everything each time.
    #[test]
    fn comparing_what_changed_is_comparing_everything(
        steps in proptest::collection::vec(step(), 1..60)
    ) {
        const NAMES: [&str; 5] = ["s/a", "s/b", "s/c", "s/d", "s/e"];
        const BY: [&[&str]; 3] = [&["west"], &["east"], &["east", "west"]];
        const CLUSTERS: [&str; 3] = ["west", "east", "north"];
        const TYPES: [&str; 3] = [SERVICE_TYPE, CLUSTER_TYPE, TRUST_TYPE];
        let mut last = snapshot(0, &[], &["west"]);
        let mut encoded = encode(&last);
        let (mut quick, mut thorough) = (Stream::new(), Stream::new());
        let mut waiting = Vec::new();
        for (revision, step) in steps.into_iter().enumerate() {
            let both = |quick: &mut Stream, thorough: &mut Stream, request: DeltaDiscoveryRequest| {
                assert_eq!(quick.hear(request.clone()), thorough.hear(request));
            };
            let named = |all, n: usize| if all { WILDCARD } else { NAMES[n] };
            match step {
                Step::Changed(services, clusters) => {
                    let services: BTreeMap<&str, &[&str]> =
                        services.iter().map(|(n, e)| (NAMES[*n], BY[*e])).collect();
                    let services: Vec<_> = services.into_iter().collect();
                    let mut now = Snapshot::clone(&snapshot(revision as u64, &services, &CLUSTERS[..=clusters]));
                    // What is the same keeps its allocation.
                    for (name, service) in now.services.iter_mut() {
                        if let Some(known) = last.services.get(name).filter(|k| *k == service) {
                            *service = Arc::clone(known);
                        }
                    }
                    last = Arc::new(now);
                    encoded = encoded.next(&last);
                }
                Step::Subscribe(t, all, n) => {
                    both(&mut quick, &mut thorough, subscribe(TYPES[t], &[named(all, n)]));
                }
                Step::Unsubscribe(t, all, n) => {
                    both(&mut quick, &mut thorough, unsubscribe(TYPES[t], &[named(all, n)]));
                }
                Step::Reads(responses, answers) => {
                    for _ in 0..responses {
                        thorough.types.values_mut().for_each(|t| t.compared = None);
                        let said = thorough.next(&encoded);
                        prop_assert_eq!(quick.next(&encoded), said.clone());
                        waiting.extend(said);
                    }
                    for response in waiting.drain(..answers.min(waiting.len())) {
                        ack(&mut quick, &response);
                        ack(&mut thorough, &response);
                    }
                }
                Step::Reconnects => {
                    waiting.clear();
                    let held: Vec<_> = quick.types.iter().map(|(url, t)| (url.clone(), t.held.clone())).collect();
                    (quick, thorough) = (Stream::new(), Stream::new());
                    for (url, held) in held {
                        let mut request = subscribe(&url, &[WILDCARD]);
                        let held = held.into_iter().map(|(n, v)| (n.to_string(), v.to_string()));
                        request.initial_resource_versions = held.collect();
                        both(&mut quick, &mut thorough, request);
                    }
                }
            }
        }
    }
}

#[test]
fn what_is_too_much_for_one_response_is_told_in_several_and_the_last_says_so() {
    let all: &[(&str, &[&str])] = &[
        ("shop/a", &["west"]),
        ("shop/b", &["west"]),
        ("shop/c", &["west"]),
    ];
    let encoded = encode(&snapshot(1, all, &["west"]));
    let start = || {
        let mut stream = Stream {
            most: 1,
            ..Stream::new()
        };
        stream.hear(subscribe(SERVICE_TYPE, &["*"])).unwrap();
        stream
    };
    let mut stream = start();
    for (name, version) in [("shop/a", ""), ("shop/b", ""), ("shop/c", "1")] {
        let response = stream.next(&encoded).unwrap();
        assert_eq!(names(&response), [name]);
        assert_eq!(response.system_version_info, version);
        assert_eq!(stream.next(&encoded), None, "one at a time");
        ack(&mut stream, &response);
    }
    assert_eq!(stream.next(&encoded), None);

    // What was to follow is gone: that is said, or the client would wait for it.
    let mut stream = start();
    let response = stream.next(&encoded).unwrap();
    assert_eq!(response.system_version_info, "");
    ack(&mut stream, &response);
    let encoded = encoded.next(&snapshot(2, &all[..1], &["west"]));
    let response = stream.next(&encoded).unwrap();
    assert!(response.resources.is_empty() && response.removed_resources.is_empty());
    assert_eq!(response.system_version_info, "2");
    ack(&mut stream, &response);
    assert_eq!(stream.next(&encoded), None);
}

#[test]
fn a_stream_that_is_far_behind_compares_everything() {
    let one = snapshot(1, &[("shop/a", &["west"])], &["west"]);
    let mut encoded = encode(&one);
    let mut stream = synced(&encoded);
    let last = snapshot(2, &[("shop/b", &["west"])], &["west"]);
    let mark = encoded.mark().clone();
    encoded = encoded.next(&last);
    for revision in 3..100 {
        let mut same = Snapshot::clone(&last);
        same.revision = Revision(revision);
        assert_eq!(
            encoded.changed_since(&mark, SERVICE_TYPE).is_some(),
            revision < 35,
            "{revision}"
        );
        encoded = encoded.next(&Arc::new(same));
    }
    let response = stream.next(&encoded).unwrap();
    assert_eq!(names(&response), ["shop/b"]);
    ack(&mut stream, &response);
    let response = stream.next(&encoded).unwrap();
    assert_eq!(response.removed_resources, ["shop/a"]);
}

proptest! {
    // Whatever is subscribed and however snapshots follow each other, a client that answers ends up with exactly what
    // it subscribed to.
    #[test]
    fn an_answering_client_converges(
        most in prop_oneof![Just(1_usize), Just(MAX_RESPONSE_BYTES)],
        steps in proptest::collection::vec((0u8..6, 0usize..5, proptest::collection::vec((0usize..5, 0usize..3), 0..5)), 1..20)
    ) {
        const NAMES: [&str; 5] = ["s/a", "s/b", "s/c", "s/d", "s/e"];
        const BY: [&[&str]; 3] = [&["west"], &["east"], &["east", "west"]];
        let mut stream = Stream { most, ..Stream::new() };
        let (mut wildcard, mut named) = (true, BTreeSet::new());
        let mut client: BTreeMap<String, String> = BTreeMap::new();
        stream.hear(subscribe(SERVICE_TYPE, &["*"])).unwrap();
        for (revision, (action, pick, services)) in steps.into_iter().enumerate() {
            let name = NAMES[pick];
            match action {
                0 => { stream.hear(subscribe(SERVICE_TYPE, &["*"])).unwrap(); wildcard = true; }
                1 => {
                    stream.hear(unsubscribe(SERVICE_TYPE, &["*"])).unwrap();
                    wildcard = false;
                    client.retain(|n, _| named.contains(n.as_str()));
                }
                2 => { stream.hear(subscribe(SERVICE_TYPE, &[name])).unwrap(); named.insert(name); }
                3 => {
                    stream.hear(unsubscribe(SERVICE_TYPE, &[name])).unwrap();
                    named.remove(name);
                    client.remove(name);
                }
                _ => {}
            }
            let services: BTreeMap<&str, &[&str]> = services.iter().map(|(n, e)| (NAMES[*n], BY[*e])).collect();
            let services: Vec<_> = services.into_iter().collect();
            let encoded = encode(&snapshot(revision as u64, &services, &["west"]));
            let (mut rounds, mut partial) = (0, false);
            while let Some(response) = stream.next(&encoded) {
                rounds += 1;
                prop_assert!(rounds < 20, "never quiet");
                partial = response.system_version_info.is_empty();
                for r in &response.resources { client.insert(r.name.clone(), r.version.clone()); }
                for n in &response.removed_resources { client.remove(n); }
                ack(&mut stream, &response);
            }
            prop_assert!(!partial, "the rest never came");
            let expected: BTreeMap<String, String> = encoded.entries(SERVICE_TYPE).iter()
                .filter(|(n, _)| wildcard || named.contains(&***n))
                .map(|(n, e)| (n.to_string(), e.version.to_string())).collect();
            prop_assert_eq!(&client, &expected);
        }
    }
}
