//! Registrations under every turn of a proxy's life.

use proptest::prelude::*;
use tradewind_api::{proto::v1, traffic::Labels};

use super::*;

const S1: StreamId = StreamId(1);
const S2: StreamId = StreamId(2);

fn west() -> ClusterName {
    ClusterName::new("west").unwrap()
}

fn id(account: &str) -> SpiffeId {
    format!("spiffe://west.mesh.internal/ns/shop/sa/{account}")
        .parse()
        .unwrap()
}

fn wire(service: &str, address: &str) -> v1::Registration {
    v1::Registration {
        service: service.into(),
        port: 80,
        hbone_address: address.into(),
        health: v1::Health::Healthy.into(),
        ..Default::default()
    }
}

fn registered(stream: StreamId, proxy: &str, account: &str, addresses: &[&str]) -> Event {
    let identity = id(account);
    let fronted = addresses
        .iter()
        .map(|a| Fronted::check(wire("shop/payments", a), &identity, &Labels::new()).unwrap())
        .collect();
    Event::Registered {
        stream,
        proxy: proxy.into(),
        identity,
        fronted,
    }
}

fn healths(state: &RegistryState) -> Vec<Health> {
    state.view().workloads.values().map(|e| e.health).collect()
}

const A: &str = "127.0.0.1:15008";
const B: &str = "127.0.0.2:15008";

#[test]
fn a_broken_stream_turns_unknown_after_its_grace_and_is_never_deleted() {
    let mut state = RegistryState::new(west());
    let ids = state
        .apply(registered(S1, "p", "payments", &[A]), 0)
        .unwrap();
    assert_eq!(
        ids,
        [EndpointId::derive(
            &west(),
            &"shop/payments".parse().unwrap(),
            80,
            A
        )]
    );
    state.apply(Event::StreamEnded(S1), 1_000).unwrap();
    let view = state.view();
    assert_eq!(
        (view.connected_proxies, view.workloads[&ids[0]].connected),
        (0, false)
    );
    state.apply(Event::Tick, 1_000 + GRACE_MS - 1).unwrap();
    assert_eq!(healths(&state), [Health::Healthy], "within the grace");
    state.apply(Event::Tick, 1_000 + GRACE_MS).unwrap();
    assert_eq!(healths(&state), [Health::Unknown]);
    state.apply(Event::Tick, FORGET_MS - 1).unwrap();
    assert_eq!(healths(&state), [Health::Unknown], "unknown is not dead");
    state.apply(Event::Tick, FORGET_MS).unwrap();
    assert!(state.view().workloads.is_empty(), "a day is enough");
}

#[test]
fn a_reconnect_within_the_grace_is_not_seen_and_the_old_streams_end_does_not_count() {
    let mut state = RegistryState::new(west());
    state
        .apply(registered(S1, "p", "payments", &[A]), 0)
        .unwrap();
    state
        .apply(registered(S2, "p", "payments", &[A]), 100)
        .unwrap();
    state.apply(Event::StreamEnded(S1), 200).unwrap();
    state.apply(Event::Tick, 10_000).unwrap();
    assert_eq!(healths(&state), [Health::Healthy]);
    assert_eq!(state.view().connected_proxies, 1);
}

#[test]
fn leaving_deletes_at_once_and_a_message_replaces_all_before_it() {
    let mut state = RegistryState::new(west());
    state
        .apply(registered(S1, "p", "payments", &[A, B]), 0)
        .unwrap();
    state
        .apply(registered(S1, "p", "payments", &[B]), 1)
        .unwrap();
    assert_eq!(
        state
            .view()
            .workloads
            .values()
            .map(|e| e.address.as_str())
            .collect::<Vec<_>>(),
        [B]
    );
    state
        .apply(
            Event::Left {
                proxy: "p".into(),
                identity: id("payments"),
            },
            2,
        )
        .unwrap();
    assert_eq!(state.view(), Registered::default());
    state.validate().unwrap();
}

#[test]
fn an_open_stream_that_says_nothing_is_silent() {
    let mut state = RegistryState::new(west());
    state
        .apply(registered(S1, "p", "payments", &[A]), 0)
        .unwrap();
    let before = state.changes();
    state
        .apply(registered(S1, "p", "payments", &[A]), SILENCE_MS - 1)
        .unwrap();
    assert_eq!(state.changes(), before, "a sign of life is no change");
    state.apply(Event::Tick, SILENCE_MS).unwrap();
    assert_eq!(healths(&state), [Health::Healthy]);
    state.apply(Event::Tick, 2 * SILENCE_MS).unwrap();
    assert_eq!(healths(&state), [Health::Unknown]);
    state
        .apply(registered(S1, "p", "payments", &[A]), 2 * SILENCE_MS + 1)
        .unwrap();
    assert_eq!(healths(&state), [Health::Healthy]);
}

#[test]
fn another_identity_cannot_take_a_connected_proxys_endpoint() {
    let mut state = RegistryState::new(west());
    state
        .apply(registered(S1, "p", "payments", &[A]), 0)
        .unwrap();
    let refused = state
        .apply(registered(S2, "p", "thief", &[A]), 1)
        .unwrap_err();
    assert!(matches!(refused, Refused::Held { .. }), "{refused}");
    assert_eq!(
        state.view().workloads.values().next().unwrap().identity,
        id("payments")
    );
    state.apply(Event::StreamEnded(S1), 2).unwrap();
    state
        .apply(registered(S2, "q", "payments2", &[A]), 3)
        .unwrap();
    assert_eq!(state.view().workloads.values().next().unwrap().proxy, "q");
    state.validate().unwrap();
}

#[test]
fn bad_registrations_are_refused_by_field() {
    let identity = id("payments");
    let check = |change: fn(&mut v1::Registration)| {
        let mut r = wire("shop/payments", A);
        change(&mut r);
        Fronted::check(r, &identity, &Labels::new())
            .map(|_| ())
            .unwrap_err()
            .to_string()
    };
    assert!(check(|r| r.service = "payments".into()).starts_with("service"));
    assert!(check(|r| r.service = "other/payments".into()).contains("namespace"));
    assert!(check(|r| r.port = 0).starts_with("port"));
    assert!(check(|r| r.port = 70_000).starts_with("port"));
    for bad in ["", ":1", "host", "host:0", "a b:1", "h/x:1"] {
        let mut r = wire("shop/payments", A);
        r.hbone_address = bad.into();
        assert!(
            Fronted::check(r, &identity, &Labels::new()).is_err(),
            "{bad}"
        );
    }
    assert!(check(|r| r.zone = "Zone A".into()).starts_with("zone"));
    assert!(check(|r| r.hostname = "a.b".into()).starts_with("hostname"));
    let gateway: SpiffeId = "spiffe://west.mesh.internal/tradewind/gateway/gw"
        .parse()
        .unwrap();
    assert!(Fronted::check(wire("shop/payments", A), &gateway, &Labels::new()).is_err());
}

#[test]
fn bounds_hold_and_a_refusal_changes_nothing() {
    let mut state = RegistryState::new(west());
    state
        .apply(registered(S1, "p", "payments", &[A]), 0)
        .unwrap();
    let before = state.view();
    let many: Vec<String> = (0..=MAX_PER_PROXY)
        .map(|i| format!("10.0.{}.{}:1", i / 256, i % 256))
        .collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert!(matches!(
        state.apply(registered(S1, "p", "payments", &many), 1),
        Err(Refused::TooMuch { .. })
    ));
    assert!(matches!(
        state.apply(registered(S1, "p", "payments", &[B, B]), 1),
        Err(Refused::Twice { .. })
    ));
    assert_eq!(state.view(), before);
}

#[test]
fn what_was_saved_comes_back_with_time_to_reconnect() {
    let mut state = RegistryState::new(west());
    state
        .apply(registered(S1, "p", "payments", &[A]), 5)
        .unwrap();
    let hello = Event::GatewayHello {
        stream: S2,
        name: "gw".into(),
        address: "127.0.0.1:15443".into(),
        draining: false,
    };
    state.apply(hello, 5).unwrap();
    let json = serde_json::to_vec(&state.save()).unwrap();
    let mut again = RegistryState::restore(west(), serde_json::from_slice(&json).unwrap(), 1_000);
    assert_eq!(healths(&again), [Health::Healthy]);
    assert!(!again.view().gateways["gw"].connected);
    again.apply(Event::Tick, 1_000 + START_GRACE_MS).unwrap();
    assert_eq!(healths(&again), [Health::Unknown]);
    again.validate().unwrap();
}

proptest! {
    #[test]
    fn any_order_of_events_keeps_the_books(events in proptest::collection::vec((0u8..4, 0u64..4, 0usize..3, 0usize..4, 0u64..20_000), 0..60)) {
        let mut state = RegistryState::new(west());
        let mut now = 0;
        for (kind, stream, proxy, pick, passed) in events {
            now += passed;
            let (proxy, account) = [("p", "a"), ("q", "b"), ("p", "b")][proxy];
            let addresses: &[&str] = [&[A][..], &[B], &[A, B], &[]][pick];
            let event = match kind {
                0 | 1 => registered(StreamId(stream), proxy, account, addresses),
                2 => Event::Left { proxy: proxy.into(), identity: id(account) },
                _ => Event::StreamEnded(StreamId(stream)),
            };
            let before = (state.changes(), state.view());
            if state.apply(event, now).is_err() {
                prop_assert_eq!(before.0, state.changes());
            }
            prop_assert_eq!(state.validate(), Ok(()));
            drop(state.apply(Event::Tick, now));
            prop_assert_eq!(state.validate(), Ok(()));
            let mut after = state.view();
            if state.changes() == before.0 {
                for (id, e) in &mut after.workloads { e.last_seen_ms = before.1.workloads[id].last_seen_ms; }
                prop_assert_eq!(after, before.1, "a change that readers can see was not announced");
            }
        }
    }
}

/// What the other controller says, by its stream.
const S9: StreamId = StreamId(9);

fn up(proxy: &str, account: &str, addresses: &[&str]) -> Relay {
    let Event::Registered {
        proxy,
        identity,
        fronted,
        ..
    } = registered(S9, proxy, account, addresses)
    else {
        panic!("a registration");
    };
    Relay::Up((identity, proxy), fronted)
}

fn relayed(state: &mut RegistryState, relay: Relay, now_ms: u64) {
    let stream = S9;
    state
        .apply(Event::Relayed { stream, relay }, now_ms)
        .unwrap();
    assert_eq!(state.validate(), Ok(()));
}

#[test]
fn what_another_controller_says_lives_as_long_as_its_stream_and_is_never_told_on() {
    let mut state = RegistryState::new(west());
    relayed(&mut state, up("p", "payments", &[A]), 0);
    assert_eq!(healths(&state), [Health::Healthy]);
    assert_eq!(state.first_hand(), FirstHand::default(), "hearsay");
    let key = || (id("payments"), "p".to_owned());
    // It said that it is gone there, and it may come here.
    relayed(&mut state, Relay::Lost(key()), 1_000);
    state
        .apply(Event::Tick, 1_000 + RELAY_GRACE_MS - 1)
        .unwrap();
    assert_eq!(healths(&state), [Health::Healthy]);
    state.apply(Event::Tick, 1_000 + RELAY_GRACE_MS).unwrap();
    assert_eq!(healths(&state), [Health::Unknown], "and not gone");
    relayed(&mut state, up("p", "payments", &[A]), 20_000);
    assert_eq!(healths(&state), [Health::Healthy]);
    // The whole controller is lost.
    state.apply(Event::RelayEnded(S9), 21_000).unwrap();
    state.apply(Event::Tick, 22_000).unwrap();
    assert_eq!(healths(&state), [Health::Healthy]);
    // One of its proxies comes here, and is told of from here on.
    state
        .apply(registered(S1, "p", "payments", &[A]), 23_000)
        .unwrap();
    let told = state.first_hand();
    assert_eq!(told.proxies.keys().collect::<Vec<_>>(), [&key()]);
}

#[test]
fn who_is_here_is_not_touched_by_what_another_has_not_noticed_yet() {
    let mut state = RegistryState::new(west());
    state
        .apply(registered(S1, "p", "payments", &[A]), 0)
        .unwrap();
    let key = || (id("payments"), "p".to_owned());
    for relay in [
        up("p", "payments", &[B]),
        Relay::Lost(key()),
        Relay::Left(key()),
        // Another one under the same address, which is connected here.
        Relay::Lost((id("payments"), "q".to_owned())),
    ] {
        let before = state.view();
        relayed(&mut state, relay, 0);
        assert_eq!(state.view(), before);
    }
    let stolen = Event::Relayed {
        stream: S9,
        relay: up("q", "payments", &[A]),
    };
    assert!(matches!(state.apply(stolen, 0), Err(Refused::Held { .. })));
    // It leaves here: the others are told, once it is known under which number.
    state
        .apply(
            Event::Left {
                proxy: "p".to_owned(),
                identity: id("payments"),
            },
            1,
        )
        .unwrap();
    assert_eq!(state.first_hand().departed, [(1, key())]);
    assert!(state.first_hand().proxies.is_empty());
    // What was saved says who was here.
    relayed(&mut state, up("q", "payments", &[B]), 2);
    let saved = serde_json::to_vec(&state.save()).unwrap();
    let restored = serde_json::from_slice(&saved).unwrap();
    let restored = RegistryState::restore(west(), restored, 3);
    assert_eq!(restored.first_hand(), FirstHand::default());
    assert_eq!(restored.view().workloads.len(), 1);
}

#[test]
fn gateways_of_another_controller_are_known_and_go_with_its_word() {
    let mut state = RegistryState::new(west());
    let heard = |address: &str| HeardGateway {
        address: address.to_owned(),
        draining: false,
    };
    let up = |address: &str| Relay::GatewayUp("gw".to_owned(), heard(address));
    relayed(&mut state, up("w:1"), 0);
    assert!(state.view().gateways["gw"].connected);
    relayed(&mut state, Relay::GatewayLost("gw".to_owned()), 1);
    assert!(!state.view().gateways["gw"].connected);
    let hello = Event::GatewayHello {
        stream: S1,
        name: "gw".to_owned(),
        address: "w:2".to_owned(),
        draining: false,
    };
    state.apply(hello, 2).unwrap();
    relayed(&mut state, up("w:1"), 3);
    assert_eq!(state.view().gateways["gw"].address, "w:2", "it is here");
    let told = state.first_hand().gateways;
    assert_eq!(told["gw"], heard("w:2"));
}
