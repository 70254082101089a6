//! A leader or a peer is lost: writes go on soon, and what was known stays.

use tradewind_api::proto::v1::ClusterStatus;

use crate::world::*;

/// Three controllers; the one that leads the store goes. The other two elect, write, and the third catches up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn losing_the_leader_stops_nothing_for_long() {
    let tmp = tempfile::tempdir().unwrap();
    let names = ["west", "central", "east"];
    let at: Vec<String> = names.iter().map(|_| free_address()).collect();
    let mut token = found(&tmp, "west", &at[0]).await.unwrap();
    let mut nodes = vec![Some(Node::start(&tmp, "west", &at[0]).await)];
    for (cluster, gateway) in names.iter().zip(&at).skip(1) {
        enter(joining(&tmp, cluster, &at[0], &token, gateway))
            .await
            .0
            .unwrap();
        nodes.push(Some(Node::start(&tmp, cluster, gateway).await));
        token = nodes[0].as_ref().unwrap().token("", 0).await.1;
    }
    for (cluster, node) in names.iter().zip(&nodes) {
        manifest(&tmp, cluster, "payments.yaml", PAYMENTS);
        until(|| async {
            let status = node.as_ref().unwrap().status().await;
            let store = node.as_ref().unwrap().store_peers().await;
            // Not while the third is half in: then none of the two others may be lost.
            (store.spare == Some(1) && !store.changing && status.services == 1)
                .then_some(())
                .ok_or_else(|| format!("{status:?}, {store:?}"))
        })
        .await;
    }
    let status = nodes[0].as_ref().unwrap().status().await;
    let leader = status
        .peers
        .iter()
        .find(|p| p.leader)
        .unwrap()
        .cluster
        .clone();
    let lost = names.iter().position(|n| *n == leader).unwrap();
    nodes[lost].take().unwrap().stop().await;

    let left: Vec<usize> = (0..3).filter(|i| *i != lost).collect();
    let (writer, reader) = (
        nodes[left[0]].as_ref().unwrap(),
        nodes[left[1]].as_ref().unwrap(),
    );
    until(|| async {
        writer
            .export("shop/payments")
            .await
            .map(drop)
            .map_err(|e| e.to_string())
    })
    .await;
    until(|| async {
        let (exporters, _) = reader.exporters("shop/payments").await;
        (exporters == [names[left[0]]])
            .then_some(())
            .ok_or_else(|| format!("{exporters:?}"))
    })
    .await;
    let back = Node::start(&tmp, names[lost], &at[lost]).await;
    until(|| async {
        let (exporters, _) = back.exporters("shop/payments").await;
        (exporters == [names[left[0]]])
            .then_some(())
            .ok_or_else(|| format!("{exporters:?}"))
    })
    .await;
    back.stop().await;
    for node in nodes.into_iter().flatten() {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_dies_shows_in_its_facts_and_not_in_our_readiness() {
    let tmp = tempfile::tempdir().unwrap();
    let (at_west, at_east) = (free_address(), free_address());
    let token = found(&tmp, "west", &at_west).await.unwrap();
    let west = Node::start(&tmp, "west", &at_west).await;
    let joining = joining(&tmp, "east", &at_west, &token, &at_east);
    enter(joining).await.0.unwrap();
    let facts = |of: &'static str| {
        let west = &west;
        async move {
            let clusters = west.clusters().await.clusters;
            let named = |c: &&ClusterStatus| c.cluster.as_ref().is_some_and(|c| c.name == of);
            clusters.iter().find(named).and_then(|c| c.facts.clone())
        }
    };
    // A member that was never there: nothing is claimed but that it does not answer.
    until(|| async {
        let seen = facts("east").await;
        let told = seen.as_ref().is_some_and(|f| {
            f.reachable == Some(false) && !f.stream_up && f.error_layer == "connect"
        });
        told.then_some(()).ok_or_else(|| format!("{seen:?}"))
    })
    .await;
    assert_eq!(facts("west").await, None, "one's own cluster is no other");

    let east = Node::start(&tmp, "east", &at_east).await;
    until(|| async {
        let seen = facts("east").await;
        let well = seen.as_ref().is_some_and(|f| {
            f.reachable == Some(true) && f.stream_up && !f.data_stale && f.gateway == at_east
        });
        well.then_some(()).ok_or_else(|| format!("{seen:?}"))
    })
    .await;
    east.stop().await;
    until(|| async {
        let seen = facts("east").await;
        let told = seen.as_ref().is_some_and(|f| {
            f.reachable == Some(false) && !f.stream_up && f.round_trip_us.is_some()
        });
        told.then_some(()).ok_or_else(|| format!("{seen:?}"))
    })
    .await;
    assert!(west.readiness.is_ready(), "{:?}", west.readiness.pending());
    let problems = west.status().await.problems;
    let told = |p: &String| p.starts_with("cluster east is unreachable for ");
    assert!(problems.iter().any(told), "{problems:?}");
    west.stop().await;
}
