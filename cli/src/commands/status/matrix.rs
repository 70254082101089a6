//! Who reaches whom, as each cluster's controller and gateways say for themselves: a table while it fits a screen, the broken links beyond, and a line
//! that counts them. Pure.

use serde_json::{Value, json};
use tradewind_api::proto::v1::{ReachRow, Reached};

use crate::{
    table::{Table, age},
    view::round_trip,
};

/// Most clusters whose whole table is shown: more columns fit no screen.
const MAX_SHOWN: usize = 12;
/// A row that is older than this speaks of the past: its links count as unknown. Rows come every few seconds, and in the
/// largest federations every fifty.
const OLD_MS: u64 = 120_000;

/// One way from a cluster to another.
#[derive(Clone, Copy)]
struct Link<'a> {
    from: &'a str,
    to: &'a str,
    seen: Option<&'a Reached>,
}

impl Link<'_> {
    fn up(&self) -> Option<bool> {
        self.seen.and_then(|s| s.reachable)
    }

    /// For anybody.
    fn is_broken(&self) -> bool {
        let apart = self.seen.is_some_and(|s| s.gateways_reaching < s.gateways);
        self.up() == Some(false) || apart
    }

    /// `12 ms`, `no, 35 s`, `?`: the controller's word. Where the cluster's gateways see something else, they are named:
    /// `12 ms, 1 of 2 gw`, `no (gw 12 ms), 35 s`.
    fn cell(&self) -> String {
        let Some(seen) = self.seen else {
            return "?".to_owned();
        };
        let gateways = gateways(seen);
        match self.up() {
            Some(true) => {
                let trip = seen.round_trip_us.map(round_trip);
                let trip = trip.unwrap_or_else(|| "yes".to_owned());
                let (reaching, all) = (seen.gateways_reaching, seen.gateways);
                if reaching < all {
                    return format!("{trip}, {reaching} of {all} gw");
                }
                trip
            }
            Some(false) => match gateways {
                Some(gateways) => format!("no (gw {gateways}), {}", age(seen.age_ms)),
                None => format!("no, {}", age(seen.age_ms)),
            },
            None => gateways.map_or_else(|| "?".to_owned(), |g| format!("? (gw {g})")),
        }
    }
}

/// What a cluster's gateways see, where any of them reaches the other one: `12 ms`, `12 ms, 1 of 2`.
fn gateways(seen: &Reached) -> Option<String> {
    let (reaching, all) = (seen.gateways_reaching, seen.gateways);
    if reaching == 0 {
        return None;
    }
    let trip = seen.gateway_round_trip_us.map(round_trip);
    let trip = trip.unwrap_or_else(|| "yes".to_owned());
    Some(if reaching < all {
        format!("{trip}, {reaching} of {all}")
    } else {
        trip
    })
}

/// Whether what a cluster said is of now.
fn is_fresh(row: &ReachRow) -> bool {
    row.told_age_ms.is_some_and(|age_ms| age_ms <= OLD_MS)
}

fn links(rows: &[ReachRow]) -> impl Iterator<Item = Link<'_>> {
    rows.iter().flat_map(move |row| {
        let others = rows.iter().filter(move |r| r.cluster != row.cluster);
        others.map(move |other| Link {
            from: &row.cluster,
            to: &other.cluster,
            seen: row
                .reached
                .iter()
                .find(|s| s.cluster == other.cluster && is_fresh(row)),
        })
    })
}

/// `links     5 of 6 up, round trip min 1.8 ms / avg 14 ms / max 31 ms`
fn summary(rows: &[ReachRow]) -> String {
    let (mut all, mut up, mut down) = (0_u64, 0_u64, 0_u64);
    let mut trips = Vec::new();
    for link in links(rows) {
        all += 1;
        match link.up() {
            Some(true) => up += 1,
            Some(false) => down += 1,
            None => {}
        }
        let up = link.seen.filter(|_| link.up() == Some(true));
        trips.extend(up.and_then(|s| s.round_trip_us));
    }
    let mut text = format!("links     {up} of {all} up");
    if down > 0 {
        text.push_str(&format!(", {down} down"));
    }
    if up + down < all {
        text.push_str(&format!(", {} unknown", all - up - down));
    }
    let count = u64::try_from(trips.len()).unwrap_or(u64::MAX);
    if let (Some(min), Some(max)) = (trips.iter().min(), trips.iter().max())
        && let Some(avg) = trips.iter().sum::<u64>().checked_div(count)
    {
        let [min, avg, max] = [*min, avg, *max].map(round_trip);
        text.push_str(&format!(", round trip min {min} / avg {avg} / max {max}"));
    }
    text
}

/// What a person is shown; nothing for a cluster alone.
pub fn lines(rows: &[ReachRow]) -> Vec<String> {
    if rows.len() < 2 {
        return Vec::new();
    }
    let mut shown = vec![summary(rows)];
    if rows.len() <= MAX_SHOWN {
        shown.push(table(rows).render());
    } else {
        let down = links(rows).filter(Link::is_broken);
        shown.extend(down.map(|l| format!("  {} -> {}  {}", l.from, l.to, l.cell())));
    }
    shown
}

fn table(rows: &[ReachRow]) -> Table {
    let mut columns = vec!["FROM".to_owned()];
    columns.extend(rows.iter().map(|r| format!(">{}", r.cluster)));
    columns.push(">TOLD".to_owned());
    let columns: Vec<&str> = columns.iter().map(String::as_str).collect();
    let mut table = Table::new(&columns);
    for row in rows {
        let mut cells = vec![row.cluster.clone()];
        cells.extend(rows.iter().map(|to| {
            let found = links(rows).find(|l| l.from == row.cluster && l.to == to.cluster);
            found.map_or_else(|| "-".to_owned(), |l| l.cell())
        }));
        cells.push(match row.told_age_ms {
            None => "never".to_owned(),
            Some(0) => "now".to_owned(),
            Some(age_ms) => age(age_ms),
        });
        table.row(cells);
    }
    table
}

/// All of it.
pub fn json(rows: &[ReachRow]) -> Value {
    let cell = |s: &Reached| {
        json!({
            "to": s.cluster,
            "reachable": s.reachable,
            "round_trip_us": s.round_trip_us,
            "age_ms": s.age_ms,
            "gateways": s.gateways,
            "gateways_reaching": s.gateways_reaching,
            "gateway_round_trip_us": s.gateway_round_trip_us,
        })
    };
    let row = |r: &ReachRow| {
        json!({
            "from": r.cluster,
            "told_age_ms": r.told_age_ms,
            "reached": r.reached.iter().map(cell).collect::<Vec<_>>(),
        })
    };
    rows.iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(from: &str, told_age_ms: Option<u64>, cells: &[(&str, bool, u64)]) -> ReachRow {
        let cell = |(to, up, us): &(&str, bool, u64)| Reached {
            cluster: (*to).to_owned(),
            reachable: Some(*up),
            round_trip_us: Some(*us),
            age_ms: 35_000,
            ..Reached::default()
        };
        ReachRow {
            cluster: from.to_owned(),
            told_age_ms,
            reached: cells.iter().map(cell).collect(),
        }
    }

    #[test]
    fn a_matrix_shows_each_clusters_own_words_and_their_age() {
        let rows = [
            row(
                "east",
                Some(1_000),
                &[("south", true, 31_000), ("west", true, 9_000)],
            ),
            row("south", None, &[]),
            row(
                "west",
                Some(0),
                &[("east", true, 8_000), ("south", false, 1)],
            ),
        ];
        let shown = lines(&rows);
        assert_eq!(
            shown[0],
            "links     3 of 6 up, 1 down, 2 unknown, round trip min 8.0 ms / avg 16 ms / max 31 ms"
        );
        let expected = [
            "FROM     east  south      west   TOLD",
            "east        -  31 ms    9.0 ms    1 s",
            "south       ?      -         ?  never",
            "west   8.0 ms  no, 35 s      -    now",
        ];
        let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        let table: Vec<_> = shown[1].lines().map(words).collect();
        assert_eq!(table, expected.map(words));
        assert_eq!(json(&rows)[2]["reached"][1]["reachable"], false);
        assert!(lines(&rows[..1]).is_empty());
    }

    #[test]
    fn gateways_are_named_where_they_see_something_else() {
        let cell = |reachable, (reaching, gateways)| {
            let seen = Reached {
                cluster: "east".into(),
                reachable,
                round_trip_us: Some(15_000),
                age_ms: 35_000,
                gateways,
                gateways_reaching: reaching,
                gateway_round_trip_us: (reaching > 0).then_some(12_000),
            };
            let link = Link {
                from: "west",
                to: "east",
                seen: Some(&seen),
            };
            (link.cell(), link.is_broken())
        };
        for (reachable, gateways, shown, broken) in [
            (Some(true), (2, 2), "15 ms", false),
            (Some(true), (0, 0), "15 ms", false),
            (Some(true), (1, 2), "15 ms, 1 of 2 gw", true),
            (Some(true), (0, 2), "15 ms, 0 of 2 gw", true),
            (Some(false), (0, 2), "no, 35 s", true),
            (Some(false), (2, 2), "no (gw 12 ms), 35 s", true),
            (Some(false), (1, 2), "no (gw 12 ms, 1 of 2), 35 s", true),
            (None, (2, 2), "? (gw 12 ms)", false),
            (None, (0, 0), "?", false),
        ] {
            assert_eq!(cell(reachable, gateways), (shown.to_owned(), broken));
        }
    }

    #[test]
    fn what_was_said_long_ago_is_unknown_and_many_clusters_show_what_is_broken() {
        let names: Vec<_> = (0..20).map(|n| format!("c{n}")).collect();
        let rows: Vec<_> = names
            .iter()
            .map(|from| {
                let cell = |to: &'_ String| (to.clone(), !(from == "c3" && to == "c4"));
                let cells: Vec<_> = names.iter().filter(|to| *to != from).map(cell).collect();
                let cells: Vec<_> = cells
                    .iter()
                    .map(|(to, up)| (to.as_str(), *up, 1_000))
                    .collect();
                let told = if from == "c5" { OLD_MS + 1 } else { 2_000 };
                row(from, Some(told), &cells)
            })
            .collect();
        let shown = lines(&rows);
        assert!(
            shown[0].starts_with("links     360 of 380 up, 1 down, 19 unknown"),
            "{}",
            shown[0]
        );
        assert_eq!(shown[1..], ["  c3 -> c4  no, 35 s"]);
    }
}
