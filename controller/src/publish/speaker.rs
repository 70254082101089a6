//! Which of a cluster's controllers publishes for it. The store says who, so that no two do for long; this is what one of
//! them makes of that, and of not hearing from the store.

use std::time::Duration;

use tokio::time::Instant;
use tradewind_api::{
    ClusterName, NodeId,
    store::{CONTROLLERS, Command, SPEAKER_MS, Speaker},
};
use tradewind_federation::Catalog;

use crate::siblings::Heard;

/// See [`SPEAKER_MS`].
const SPEAKER: Duration = Duration::from_millis(SPEAKER_MS);

/// How it stands with this controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// Its cluster has no other one, or is no member yet.
    Alone,
    /// The store says that it speaks.
    Speaks,
    /// Another one speaks.
    Listens,
    /// Nobody was heard to speak for so long that it asks to.
    Asks,
}

/// What one controller remembers of it.
#[derive(Debug)]
pub(super) struct Floor {
    me: NodeId,
    /// When the store last took this one's word that it speaks.
    confirmed: Option<Instant>,
    /// The newest sign of life of whoever speaks, and when it came.
    seen: (Option<Speaker>, Instant),
}

impl Floor {
    pub(super) const fn new(me: NodeId, now: Instant) -> Self {
        Self {
            me,
            confirmed: None,
            seen: (None, now),
        }
    }

    /// Looks at what the store says now, and at whom else this one was told of: its copy of the store may be older than the others.
    pub(super) fn look(
        &mut self,
        (catalog, heard): (&Catalog, &Heard),
        own: &ClusterName,
        now: Instant,
    ) -> Standing {
        let said = catalog.controllers_of(own).and_then(|c| c.speaker);
        if said != self.seen.0 {
            self.seen = (said, now);
        }
        let several = catalog.member(own).is_some_and(|c| c.nodes.len() > 1);
        if heard.is_empty() && (!several || catalog.level < CONTROLLERS) {
            return Standing::Alone;
        }
        if catalog.speaker_of(own) == Some(self.me) {
            return Standing::Speaks;
        }
        if now.saturating_duration_since(self.seen.1) >= SPEAKER {
            Standing::Asks
        } else {
            Standing::Listens
        }
    }

    /// The sign of life to write.
    pub(super) const fn sign(&self, standing: Standing) -> Command {
        match standing {
            Standing::Alone | Standing::Listens => Command::RenewLease,
            Standing::Speaks | Standing::Asks => Command::Speak { node: self.me },
        }
    }

    /// The store took a sign of life, and says this since.
    pub(super) fn written(&mut self, catalog: &Catalog, own: &ClusterName, now: Instant) {
        if catalog.speaker_of(own) == Some(self.me) {
            self.confirmed = Some(now);
        }
    }

    /// Whether this controller speaks now. While the store takes no writes nobody can take its place there, so it goes on
    /// as long as each of the others says so too; without either it cannot know, and is silent.
    pub(super) fn speaks(&self, standing: Standing, heard: &Heard, now: Instant) -> bool {
        match standing {
            Standing::Alone => true,
            Standing::Listens | Standing::Asks => false,
            Standing::Speaks => {
                let fresh = self
                    .confirmed
                    .is_some_and(|at| now.saturating_duration_since(at) < SPEAKER);
                let agreed =
                    !heard.is_empty() && heard.values().all(|s| s.up && s.speaker == self.me);
                fresh || agreed
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tradewind_api::store::{ControllerRecord, ControllersRecord, LEVEL};

    use super::*;
    use crate::{publish::tests::founded, siblings::Sibling};

    fn west() -> ClusterName {
        ClusterName::new("west").unwrap()
    }

    /// West with two controllers, of which one speaks and last did at a time.
    fn catalog(node: NodeId, at_ms: u64) -> Catalog {
        let mut catalog = founded();
        let clusters = Arc::make_mut(&mut catalog.clusters);
        clusters.get_mut(&west()).unwrap().nodes = [1, 2].into();
        let controller = |n: NodeId| ControllerRecord {
            address: format!("c{n}:1"),
            level: LEVEL,
            authority: None,
        };
        let record = ControllersRecord {
            nodes: [(1, controller(1)), (2, controller(2))].into(),
            speaker: Some(Speaker { node, at_ms }),
            ..ControllersRecord::default()
        };
        Arc::make_mut(&mut catalog.controllers).insert(west(), Arc::new(record));
        catalog
    }

    fn heard(up: bool, speaker: NodeId) -> Heard {
        let sibling = Sibling {
            up,
            speaker,
            ..Sibling::default()
        };
        [(2, sibling)].into()
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_not_sure_to_speak_is_silent() {
        let start = Instant::now();
        let mut floor = Floor::new(1, start);
        let standing = floor.look((&founded(), &Heard::new()), &west(), start);
        assert_eq!(standing, Standing::Alone);
        // A copy of the store from before the other one came.
        let behind = floor.look((&founded(), &heard(false, 0)), &west(), start);
        assert_ne!(behind, Standing::Alone);
        assert!(!floor.speaks(behind, &heard(false, 0), start));
        assert!(floor.speaks(standing, &Heard::new(), start));

        // What the own copy says after a start may be old.
        let mine = catalog(1, 10);
        let standing = floor.look((&mine, &Heard::new()), &west(), start);
        assert_eq!(standing, Standing::Speaks);
        assert!(!floor.speaks(standing, &heard(false, 0), start));
        assert!(
            !floor.speaks(standing, &heard(true, 2), start),
            "another does"
        );
        assert!(floor.speaks(standing, &heard(true, 1), start));
        floor.written(&mine, &west(), start);
        assert!(floor.speaks(standing, &heard(false, 0), start));
        // The store takes no writes: as long as the other one agrees.
        let late = start + SPEAKER;
        assert!(floor.speaks(standing, &heard(true, 1), late));
        assert!(!floor.speaks(standing, &heard(false, 1), late));
        assert!(!floor.speaks(standing, &Heard::new(), late));
    }

    #[tokio::test(start_paused = true)]
    async fn the_other_one_asks_after_silence_and_not_before() {
        let start = Instant::now();
        let mut floor = Floor::new(2, start);
        let look = |floor: &mut Floor, at_ms, after| {
            floor.look(
                (&catalog(1, at_ms), &heard(true, 1)),
                &west(),
                start + after,
            )
        };
        assert_eq!(look(&mut floor, 10, Duration::ZERO), Standing::Listens);
        let nearly = SPEAKER.saturating_sub(Duration::from_millis(1));
        assert_eq!(look(&mut floor, 10, nearly), Standing::Listens);
        assert_eq!(look(&mut floor, 20, nearly), Standing::Listens);
        assert_eq!(look(&mut floor, 20, SPEAKER), Standing::Listens, "it spoke");
        let asks = look(&mut floor, 20, nearly + SPEAKER);
        assert_eq!(asks, Standing::Asks);
        assert_eq!(floor.sign(asks), Command::Speak { node: 2 });
        assert!(!floor.speaks(asks, &heard(true, 2), start), "it only asks");
    }
}
