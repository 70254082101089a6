//! Calls that leave the cluster through its own gateways only.

use serde_json::{Value, json};
use tokio::net::TcpListener;
use tradewind_runtime::clock;

use super::*;
use crate::config::Exit;

/// Announces these as west's own gateways.
fn own_gateways(world: &World, gateways: &[SocketAddr]) {
    world.change(|s| {
        let west = s.clusters.get_mut(&cluster("west")).unwrap();
        std::sync::Arc::make_mut(west).gateways =
            gateways.iter().map(ToString::to_string).collect();
    });
}

/// A gateway that refuses everybody as one does that reaches none of the other cluster's.
async fn cut_off() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(spawn_local("cut_off", async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut hello = [0; 4096];
            drop(stream.read(&mut hello).await);
            drop(stream.write_all(&[21, 3, 3, 0, 2, 2, 111]).await);
        }
    }));
    address
}

fn endpoint(state: &Value) -> &Value {
    &state["services"][0]["endpoints"][0]
}

fn way_to_east(state: &Value) -> &Value {
    let all = state["clusters"].as_array().unwrap();
    &all.iter().find(|c| c["cluster"] == "east").unwrap()["way"]
}

#[tokio::test]
async fn calls_leave_through_the_own_gateways_and_pass_a_dead_one_by() {
    on_one_thread(async {
        let world = World::new();
        let east = Peer::start(&world, "e", "east").await;
        world.endpoint("e", "east", east.address);
        // East's own door is where nobody may go, and so is the endpoint, though its address is known.
        let door = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = door.local_addr().unwrap();
        world.behind("e", &[address]);
        world.change_service(|s| s.endpoints[0].address = Some(address.to_string()));
        let (first, first_task) = gateway(east.address).await;
        let (second, _s) = gateway(east.address).await;
        let dead = nowhere().await;
        own_gateways(&world, &[dead, first]);
        let proxy = world.proxy_with(clock::system(), Exit::Gateway).await;
        let mut client = Client::connect(proxy.address).await;
        for _ in 0..5 {
            assert_eq!(client.get().await, (StatusCode::OK, "e".into()));
        }
        let state = proxy.outbound.state_json();
        assert_eq!(state["exit"], "gateway");
        assert_eq!(endpoint(&state)["way"]["kind"], "own gateways");
        assert_eq!(endpoint(&state)["way"]["taken"], json!([first.to_string()]));

        // The first leaves, and is left before it goes.
        own_gateways(&world, &[dead, second]);
        assert_eq!(client.get().await, (StatusCode::OK, "e".into()));
        let state = proxy.outbound.state_json();
        assert_eq!(
            endpoint(&state)["way"]["taken"],
            json!([second.to_string()])
        );
        first_task.abort();
        assert_eq!(client.get().await, (StatusCode::OK, "e".into()));
        let went = tokio::time::timeout(Duration::from_millis(1), door.accept()).await;
        assert!(went.is_err(), "somebody went to the other cluster's door");
    })
    .await;
}

#[tokio::test]
async fn a_broken_way_out_is_booked_on_the_way_and_not_on_the_endpoint() {
    on_one_thread(async {
        let refusing = cut_off().await;
        for gateways in [vec![nowhere().await], vec![refusing], vec![]] {
            let world = World::new();
            let east = Peer::start(&world, "e", "east").await;
            world.endpoint("e", "east", east.address);
            world.behind("e", &[east.address]);
            own_gateways(&world, &gateways);
            let proxy = world.proxy_with(clock::system(), Exit::Gateway).await;
            let mut client = Client::connect(proxy.address).await;
            let answer = client.send("GET", Bytes::new()).await;
            assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
            answer.into_body().collect().await.unwrap();
            let state = proxy.outbound.state_json();
            assert_ne!(*way_to_east(&state), json!("closed"), "{state:#}");
            assert_eq!(endpoint(&state)["detector"], "closed", "{state:#}");
            assert_eq!(east.seen.get(), 0);
            // The way is mended: nobody has to sit out a punishment.
            let (mended, _m) = gateway(east.address).await;
            own_gateways(&world, &[mended]);
            until("the call goes through again", || {
                proxy.outbound.state_json()["sessions"] != 0
            })
            .await;
            assert_eq!(client.get().await, (StatusCode::OK, "e".into()));
        }
    })
    .await;
}
