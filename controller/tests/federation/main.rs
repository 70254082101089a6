//! Controllers in one process, from `init` over `join` to an export that the others see. Each controller's own listener
//! stands in for its gateway: the server name does not matter to it.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::too_many_lines,
    reason = "the helpers of a test fail the test, and a test tells one story from its beginning to its end"
)]

mod losing;
mod refusals;
mod world;

use tradewind_api::proto::v1::{Empty, ExportRequest};
use tradewind_controller::{DataDir, DataDirError, JoinLayer};

use world::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clusters_join_and_see_each_others_exports() {
    let tmp = tempfile::tempdir().unwrap();
    let (at_west, at_east, at_south) = (free_address(), free_address(), free_address());
    let token = found(&tmp, "west", &at_west).await.unwrap();
    let west = Node::start(&tmp, "west", &at_west).await;
    manifest(&tmp, "west", "payments.yaml", PAYMENTS);

    // A dry run passes every check and changes nothing.
    let mut trial = joining(&tmp, "east", &at_west, &token, &at_east);
    trial.dry_run = true;
    let (joined, passed) = enter(trial).await;
    assert_eq!(joined.unwrap().node_id, None);
    assert_eq!(passed.last(), Some(&JoinLayer::WayBack));
    assert!(!tmp.path().join("east").exists());
    assert_eq!(west.clusters().await.clusters.len(), 1);

    let (joined, passed) = enter(joining(&tmp, "east", &at_west, &token, &at_east)).await;
    let joined = joined.unwrap();
    assert_eq!(
        (joined.node_id, joined.members),
        (Some(2), vec![name("west")])
    );
    assert_eq!(passed.last(), Some(&JoinLayer::Write));
    let east = Node::start(&tmp, "east", &at_east).await;
    until(|| async {
        let status = east.status().await;
        let voters = status.peers.iter().filter(|p| p.voter).count();
        (voters == 2 && status.clusters.len() == 2)
            .then_some(())
            .ok_or_else(|| format!("{status:?}"))
    })
    .await;

    until(|| async {
        west.export("shop/payments")
            .await
            .map(drop)
            .map_err(|e| e.to_string())
    })
    .await;
    assert!(
        !west.export("shop/payments").await.unwrap(),
        "exported already"
    );
    until(|| async {
        let (exporters, addresses) = east.exporters("shop/payments").await;
        (exporters == ["west"] && addresses == [""])
            .then_some(())
            .ok_or_else(|| format!("{exporters:?} {addresses:?}"))
    })
    .await;

    // A token made in east leads through east, whose controller hands the join on to the founder's.
    let (_, token) = east.token("south", 0).await;
    let (joined, _) = enter(joining(&tmp, "south", &at_east, &token, &at_south)).await;
    assert_eq!(joined.unwrap().node_id, Some(3));
    let south = Node::start(&tmp, "south", &at_south).await;
    until(|| async {
        let (exporters, _) = south.exporters("shop/payments").await;
        (exporters == ["west"])
            .then_some(())
            .ok_or_else(|| format!("{exporters:?}"))
    })
    .await;

    // By file, from the other side.
    manifest(
        &tmp,
        "south",
        "payments.yaml",
        &format!(
            "{PAYMENTS}---\napiVersion: multicluster.x-k8s.io/v1beta1\nkind: ServiceExport\nmetadata: {{name: payments, namespace: shop}}\n"
        ),
    );
    until(|| async {
        let (exporters, addresses) = west.exporters("shop/payments").await;
        let local = addresses.iter().filter(|a| !a.is_empty()).count();
        (exporters == ["south", "west"] && addresses.len() == 2 && local == 1)
            .then_some(())
            .ok_or_else(|| format!("{exporters:?} {addresses:?}"))
    })
    .await;

    // South leaves: its process ends, its directory is history, its export is gone.
    south.admin().await.leave(Empty {}).await.unwrap();
    tokio::time::timeout(PATIENCE, south.running)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    assert!(matches!(
        DataDir::open(&south.dir),
        Err(DataDirError::Left { .. })
    ));
    until(|| async {
        let (exporters, _) = east.exporters("shop/payments").await;
        (exporters == ["west"])
            .then_some(())
            .ok_or_else(|| format!("{exporters:?}"))
    })
    .await;

    // Both restart and know everything at once; east without anybody else.
    west.stop().await;
    east.stop().await;
    let east = Node::start(&tmp, "east", &at_east).await;
    assert_eq!(east.exporters("shop/payments").await.0, ["west"]);
    until(|| async {
        let problems = east.status().await.problems;
        let seen = problems.iter().any(|p| p.contains("takes no writes"));
        seen.then_some(()).ok_or_else(|| format!("{problems:?}"))
    })
    .await;
    assert_eq!(east.exporters("shop/payments").await.0, ["west"]);
    let west = Node::start(&tmp, "west", &at_west).await;
    let unexport = || async {
        let request = ExportRequest {
            service: "shop/payments".into(),
        };
        west.admin()
            .await
            .unexport(request)
            .await
            .map(drop)
            .map_err(|e| e.to_string())
    };
    until(unexport).await;
    until(|| async {
        let (exporters, _) = east.exporters("shop/payments").await;
        exporters
            .is_empty()
            .then_some(())
            .ok_or_else(|| format!("{exporters:?}"))
    })
    .await;
    east.stop().await;
    west.stop().await;
}
