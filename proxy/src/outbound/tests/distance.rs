//! Other clusters by their distance: as the snapshot tells it until it was measured here.

use std::sync::Arc;

use tradewind_api::id::ServicePortRef;

use super::*;
use crate::called::Called;

fn tell(world: &World, name: &str, round_trip_us: Option<u64>) {
    world.change(|s| {
        let told = s.clusters.get_mut(&cluster(name)).unwrap();
        let told = Arc::make_mut(told);
        // As near by its name as the other one.
        told.region = "ap-south".parse().unwrap();
        told.round_trip_us = round_trip_us;
    });
}

#[tokio::test]
async fn the_nearer_cluster_is_called_before_anybody_measured_here() {
    on_one_thread(async {
        let world = World::new();
        for (name, us) in [("central", 80_000), ("east", 9_000)] {
            tell(&world, name, Some(us));
        }
        let central = Peer::start(&world, "c", "central").await;
        let east = Peer::start(&world, "e", "east").await;
        world.endpoint("c", "central", central.address);
        world.endpoint("e", "east", east.address);
        let proxy = world.proxy().await;
        let mut client = Client::connect(proxy.address).await;
        for _ in 0..5 {
            assert_eq!(client.get().await, (StatusCode::OK, "e".into()));
        }
        tell(&world, "central", Some(2_000));
        for _ in 0..5 {
            assert_eq!(client.get().await, (StatusCode::OK, "c".into()));
        }
        assert_eq!((east.seen.get(), central.seen.get()), (5, 5));
    })
    .await;
}

#[tokio::test]
async fn what_was_measured_here_goes_before_what_is_told() {
    on_one_thread(async {
        let world = World::new();
        tell(&world, "east", Some(30_000));
        world.endpoint("e", "east", nowhere().await);
        world.behind("e", &[nowhere().await]);
        let proxy = world.proxy().await;
        let balancer = &proxy.outbound.balancer;
        let target = || {
            let service: ServicePortRef = world::SERVICE.parse().unwrap();
            let route = balancer.route((&Called::from(service)).into());
            route.unwrap().targets[0].clone()
        };
        assert_eq!(target().rtt_us(), Some(30_000));
        let link = target().link.clone().unwrap();
        link.measured(Duration::from_millis(12));
        assert_eq!(target().rtt_us(), Some(12_000));
        tell(&world, "east", None);
        assert_eq!(target().rtt_us(), Some(12_000));
    })
    .await;
}
