//! Outbound against peers from which nothing comes back, and all at once those that waited for one that is gone.

use std::{net::SocketAddr, time::Duration};

use http::StatusCode;
use tokio::{net::TcpListener, time::Instant};
use tradewind_runtime::task::spawn_local;

use super::{
    Client,
    peer::{Act, BlackHole, Peer},
    world::{World, on_one_thread, until},
};

#[tokio::test]
async fn a_silent_peer_is_found_out_and_its_requests_go_elsewhere() {
    on_one_thread(async {
        let world = World::new();
        let central = Peer::start(&world, "c", "central").await;
        let east = Peer::start(&world, "e", "east").await;
        let hole = BlackHole::start(central.address).await;
        world.endpoint("c", "central", hole.address);
        world.endpoint("e", "east", east.address);
        let proxy = world.proxy().await;
        let mut client = Client::connect(proxy.address).await;
        assert_eq!(client.get().await, (StatusCode::OK, "c".into()));
        hole.swallow();
        // Nothing answers, nothing is closed: only the keepalive can tell.
        let asked = Instant::now();
        assert_eq!(client.get().await, (StatusCode::OK, "e".into()));
        // The deadline for the answer to a ping, and not an interval of silence before it, nor two.
        let took = asked.elapsed();
        assert!((1_000..2_000).contains(&took.as_millis()), "{took:?}");
        let ejections = "tradewind_outbound_ejections_total{service=\"shop/payments:80\",cluster=\"central\",cause=\"keepalive\"}";
        assert_eq!(world.count(ejections), 1);
    })
    .await;
}

/// More than the budget would pay for: an endpoint that is gone costs none of them.
#[tokio::test]
async fn all_that_wait_for_one_that_is_gone_go_elsewhere() {
    on_one_thread(async {
        const CALLS: usize = 60;
        let world = World::new();
        let central = Peer::start(&world, "c", "central").await;
        let east = Peer::start(&world, "e", "east").await;
        world.endpoint("c", "central", central.address);
        world.endpoint("e", "east", east.address);
        central.then(std::iter::repeat_n(Act::EchoLater, CALLS));
        let proxy = world.proxy().await;
        let calls: Vec<_> = (0..CALLS)
            .map(|_| {
                let to = proxy.address;
                spawn_local("call", async move { Client::connect(to).await.get().await })
            })
            .collect();
        until("all calls to wait", || central.seen.get() == CALLS).await;
        central.kill().await;
        for call in calls {
            assert_eq!(call.await.unwrap(), (StatusCode::OK, "e".into()));
        }
        assert_eq!(
            world.count("tradewind_outbound_retries_over_budget_total"),
            0
        );
    })
    .await;
}

/// Two that fall silent one after the other: whoever waited for the first waits for the second too, and is answered for all that.
#[tokio::test]
async fn what_waited_for_two_that_fell_silent_is_answered_whatever_the_budget() {
    on_one_thread(async {
        const CALLS: usize = 80;
        let world = World::new();
        let (first, second) = (
            Peer::start(&world, "c", "west").await,
            Peer::start(&world, "d", "west").await,
        );
        let east = Peer::start(&world, "e", "east").await;
        let holes = [
            BlackHole::start(first.address).await,
            BlackHole::start(second.address).await,
        ];
        world.endpoint("c", "west", holes[0].address);
        world.endpoint("d", "west", holes[1].address);
        world.endpoint("e", "east", east.address);
        let proxy = world.proxy().await;
        let mut client = Client::connect(proxy.address).await;
        while first.connections.get() == 0 || second.connections.get() == 0 {
            assert_eq!(client.get().await.0, StatusCode::OK);
        }
        holes[0].swallow();
        let calls: Vec<_> = (0..CALLS)
            .map(|_| {
                let to = proxy.address;
                spawn_local("call", async move { Client::connect(to).await.get().await })
            })
            .collect();
        // Shortly before the first one's silence is noticed, so that its calls meet the second one's.
        tokio::time::sleep(Duration::from_millis(800)).await;
        holes[1].swallow();
        for call in calls {
            assert_eq!(call.await.unwrap().0, StatusCode::OK);
        }
        let silent = "tradewind_outbound_ejections_total{service=\"shop/payments:80\",cluster=\"west\",cause=\"keepalive\"}";
        assert_eq!(world.count(silent), 2);
    })
    .await;
}

/// An address where connections come about and nobody ever says a word.
async fn mute() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(spawn_local("mute", async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            held.push(stream);
        }
    }));
    address
}

#[tokio::test]
async fn a_call_waits_for_no_dial_into_a_black_hole_while_others_have_sessions() {
    on_one_thread(async {
        let world = World::new();
        let east = Peer::start(&world, "e", "east").await;
        world.endpoint("e", "east", east.address);
        let proxy = world.proxy().await;
        let mut client = Client::connect(proxy.address).await;
        assert_eq!(client.get().await, (StatusCode::OK, "e".into()));
        let (hole, ways) = (mute().await, [mute().await, mute().await]);
        world.endpoint("c", "central", hole);
        world.behind("c", &ways);
        let ejections = "tradewind_outbound_ejections_total{service=\"shop/payments:80\",cluster=\"central\",cause=\"connect\"}";
        let mut longest = Duration::ZERO;
        while world.count(ejections) == 0 {
            let asked = Instant::now();
            assert_eq!(client.get().await, (StatusCode::OK, "e".into()));
            longest = longest.max(asked.elapsed());
        }
        // The dial itself has two seconds for each gateway.
        assert!((500..1_500).contains(&longest.as_millis()), "{longest:?}");
        let asked = Instant::now();
        assert_eq!(client.get().await, (StatusCode::OK, "e".into()));
        assert!(asked.elapsed().as_millis() < 400, "{:?}", asked.elapsed());
    })
    .await;
}

#[tokio::test]
async fn after_silence_nobody_behind_the_same_way_is_asked_next() {
    on_one_thread(async {
        let world = World::new();
        let central = Peer::start(&world, "c", "central").await;
        let east = Peer::start(&world, "e", "east").await;
        let hole = BlackHole::start(central.address).await;
        world.endpoint("c", "central", central.address);
        world.endpoint("d", "central", central.address);
        world.endpoint("e", "east", east.address);
        world.behind("c", &[hole.address]);
        world.behind("d", &[hole.address]);
        let proxy = world.proxy().await;
        let mut client = Client::connect(proxy.address).await;
        while central.connections.get() < 2 {
            assert_eq!(client.get().await, (StatusCode::OK, "c".into()));
        }
        hole.swallow();
        let asked = Instant::now();
        assert_eq!(client.get().await, (StatusCode::OK, "e".into()));
        // One deadline and not two, one after the other.
        assert!(asked.elapsed().as_millis() < 1_900, "{:?}", asked.elapsed());
    })
    .await;
}
