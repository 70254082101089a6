//! Whom each cluster reaches, as its own controller says: the rows of the federation's matrix. Pure.
//!
//! A row is what a controller saw itself and what its cluster's gateways told it, each for itself, handed on with its answer to a ping and never further: nobody speaks for
//! another. An old row is shown with its age and concludes nothing.

use std::{sync::Arc, time::Duration};

use tradewind_api::{ClusterName, proto::v1};

use super::Reach;
use crate::registry::Reports;

/// Cells of a row that are taken from another controller: more clusters than a federation has, and a bound all the same.
const MAX_CELLS: usize = 4_096;
/// How old another's row may be for each cluster there is, before it is asked for anew: rows grow with the clusters, and so
/// does what all of them weigh. Up to forty clusters a row comes with every ping; a thousand cost half a MB a second.
const AGE_PER_CLUSTER: Duration = Duration::from_millis(50);

/// Whether one cluster reaches another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sight {
    /// The other one.
    pub cluster: ClusterName,
    /// None before it is known.
    pub reachable: Option<bool>,
    /// Smoothed, µs.
    pub round_trip_us: Option<u64>,
    /// How long ago it last answered when the row was told, or for how long it had not, ms.
    pub age_ms: u64,
    /// Its gateways that know whether they reach the other cluster.
    pub gateways: u32,
    /// Those of them that do.
    pub gateways_reaching: u32,
    /// The least round trip of those, smoothed, µs.
    pub gateway_round_trip_us: Option<u64>,
}

/// What a cluster said of whom it reaches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// When it said so, Unix ms by this node's clock.
    pub told_at_ms: u64,
    /// By name.
    pub sights: Arc<Vec<Sight>>,
}

/// This cluster's own row: the controller's own pings, and beside them what its gateways say together.
pub fn own(reach: &Reach, reports: &Reports, now_ms: u64) -> Vec<v1::Reached> {
    let micros = |d: Duration| u64::try_from(d.as_micros()).unwrap_or(u64::MAX);
    let cell = |(name, seen): (&ClusterName, &Arc<super::ClusterReach>)| {
        let gateways = reports.together(name, now_ms);
        v1::Reached {
            cluster: name.to_string(),
            reachable: seen.reachable,
            round_trip_us: seen.round_trip.map(micros),
            age_ms: now_ms.saturating_sub(match (seen.reachable, seen.answered_at_ms) {
                (Some(true), Some(at_ms)) => at_ms,
                _ => seen.reach_since_ms,
            }),
            gateways: gateways.knowing,
            gateways_reaching: gateways.reaching,
            gateway_round_trip_us: gateways.round_trip_us,
        }
    };
    reach.clusters.iter().map(cell).collect()
}

/// Reads a row that another controller sent. What is no cluster's name is left out.
pub fn read(cells: Vec<v1::Reached>) -> Vec<Sight> {
    let sight = |cell: v1::Reached| {
        Some(Sight {
            cluster: ClusterName::new(&cell.cluster).ok()?,
            reachable: cell.reachable,
            round_trip_us: cell.round_trip_us,
            age_ms: cell.age_ms,
            gateways: cell.gateways,
            gateways_reaching: cell.gateways_reaching.min(cell.gateways),
            gateway_round_trip_us: cell.gateway_round_trip_us,
        })
    };
    cells
        .into_iter()
        .take(MAX_CELLS)
        .filter_map(sight)
        .collect()
}

/// Whether it is time to ask a cluster for its row.
pub fn is_due(reach: &Reach, cluster: &ClusterName, now_ms: u64) -> bool {
    let count = u64::try_from(reach.clusters.len()).unwrap_or(u64::MAX);
    let per = u64::try_from(AGE_PER_CLUSTER.as_millis()).unwrap_or(u64::MAX);
    let told = |row: &Row| now_ms.saturating_sub(row.told_at_ms) >= count.saturating_mul(per);
    let seen = reach.clusters.get(cluster);
    seen.is_some_and(|c| c.row.as_ref().is_none_or(told))
}

/// All rows as they are shown: this cluster's, and of each other one what it said last, of clusters that are known.
pub fn matrix(
    reach: &Reach,
    reports: &Reports,
    local: &ClusterName,
    now_ms: u64,
) -> Vec<v1::ReachRow> {
    let known = |cluster: &ClusterName| cluster == local || reach.clusters.contains_key(cluster);
    let told = |(name, seen): (&ClusterName, &Arc<super::ClusterReach>)| {
        let sights = seen.row.iter().flat_map(|row| row.sights.iter());
        let cell = |s: &Sight| v1::Reached {
            cluster: s.cluster.to_string(),
            reachable: s.reachable,
            round_trip_us: s.round_trip_us,
            age_ms: s.age_ms,
            gateways: s.gateways,
            gateways_reaching: s.gateways_reaching,
            gateway_round_trip_us: s.gateway_round_trip_us,
        };
        v1::ReachRow {
            cluster: name.to_string(),
            told_age_ms: seen
                .row
                .as_ref()
                .map(|row| now_ms.saturating_sub(row.told_at_ms)),
            reached: sights.filter(|s| known(&s.cluster)).map(cell).collect(),
        }
    };
    let mut rows: Vec<v1::ReachRow> = reach.clusters.iter().map(told).collect();
    rows.push(v1::ReachRow {
        cluster: local.to_string(),
        told_age_ms: Some(0),
        reached: own(reach, reports, now_ms),
    });
    rows.sort_by(|a, b| a.cluster.cmp(&b.cluster));
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{reach::ClusterReach, registry::reports::tests::reports};

    fn name(name: &str) -> ClusterName {
        ClusterName::new(name).unwrap()
    }

    fn reach(row: Option<Row>) -> Reach {
        let east = ClusterReach {
            reachable: Some(true),
            answered_at_ms: Some(900),
            round_trip: Some(Duration::from_millis(12)),
            row,
            ..ClusterReach::default()
        };
        let south = ClusterReach {
            reachable: Some(false),
            reach_since_ms: 400,
            ..ClusterReach::default()
        };
        Reach {
            clusters: [
                (name("east"), Arc::new(east)),
                (name("south"), Arc::new(south)),
            ]
            .into(),
        }
    }

    #[test]
    fn each_row_is_what_its_own_cluster_says_and_a_silent_one_says_nothing() {
        let cell = |cluster: &str| v1::Reached {
            cluster: cluster.into(),
            reachable: Some(true),
            round_trip_us: Some(7),
            age_ms: 3,
            gateways: 2,
            gateways_reaching: 9,
            gateway_round_trip_us: Some(5),
        };
        let said = read(vec![
            cell("west"),
            cell("gone"),
            cell("no name"),
            cell("south"),
        ]);
        assert_eq!(said.len(), 3);
        let row = Row {
            told_at_ms: 950,
            sights: Arc::new(said),
        };
        let gateways = reports(&[(Some(true), 9), (Some(false), 1), (None, 1)], 900);
        let rows = matrix(&reach(Some(row)), &gateways, &name("west"), 1_000);
        let shown: Vec<_> = rows
            .iter()
            .map(|r| {
                let to = |c: &v1::Reached| (c.cluster.clone(), c.reachable, c.age_ms);
                let to: Vec<_> = r.reached.iter().map(to).collect();
                (r.cluster.as_str(), r.told_age_ms, to)
            })
            .collect();
        let to = |c: &str, up, age| (c.to_owned(), Some(up), age);
        assert_eq!(
            shown,
            [
                (
                    "east",
                    Some(50),
                    vec![to("west", true, 3), to("south", true, 3)]
                ),
                ("south", None, vec![]),
                (
                    "west",
                    Some(0),
                    vec![to("east", true, 100), to("south", false, 600)]
                ),
            ]
        );
        assert_eq!(rows[2].reached[0].round_trip_us, Some(12_000));
        let by_gateways = |cell: &v1::Reached| {
            let counts = (cell.gateways_reaching, cell.gateways);
            (counts, cell.gateway_round_trip_us)
        };
        assert_eq!(by_gateways(&rows[2].reached[0]), ((1, 2), Some(9_000)));
        assert_eq!(by_gateways(&rows[2].reached[1]), ((0, 0), None));
        assert_eq!(
            by_gateways(&rows[0].reached[0]),
            ((2, 2), Some(5)),
            "bounded"
        );
    }

    #[test]
    fn rows_are_asked_for_less_often_the_more_of_them_there_are() {
        let row = Row {
            told_at_ms: 1_000,
            sights: Arc::default(),
        };
        let two = reach(Some(row));
        assert!(!is_due(&two, &name("east"), 1_099) && is_due(&two, &name("east"), 1_100));
        assert!(is_due(&two, &name("south"), 0), "never told");
        assert!(!is_due(&two, &name("gone"), 9_999));
        let mut many = two;
        for n in 0..998 {
            let other = Arc::new(ClusterReach::default());
            many.clusters.insert(name(&format!("c{n}")), other);
        }
        assert!(!is_due(&many, &name("east"), 50_999) && is_due(&many, &name("east"), 51_000));
    }
}
