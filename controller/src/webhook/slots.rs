//! When the webhook's CA changes: there is one that signs, and late in its life a next one that is believed but does not sign yet.
//! Pure.

/// When a CA holds, Unix seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Life {
    pub(super) from_unix_s: u64,
    pub(super) until_unix_s: u64,
}

/// What is to be done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing.
    Keep,
    /// A next one is to be made, and believed.
    MakeNext,
    /// The next one signs from now on; the other one goes.
    Promote,
    /// Both are over, or there is none: a new one signs at once.
    Renew,
}

/// The step that is due. `next_is_published`: the API server was seen to believe the next one.
pub(super) fn step(
    signing: Option<Life>,
    next: Option<Life>,
    next_is_published: bool,
    now_unix_s: u64,
) -> Step {
    let holds = |life: Life| now_unix_s < life.until_unix_s;
    let next = next.filter(|life| holds(*life));
    let Some(signing) = signing.filter(|life| holds(*life)) else {
        // What is over cannot sign, whoever believes in the other one.
        return if next.is_some() {
            Step::Promote
        } else {
            Step::Renew
        };
    };
    let half = signing.from_unix_s
        + (signing.until_unix_s - signing.from_unix_s.min(signing.until_unix_s)) / 2;
    match next {
        None if now_unix_s >= half => Step::MakeNext,
        Some(_) if next_is_published => Step::Promote,
        None | Some(_) => Step::Keep,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn life(from_unix_s: u64, until_unix_s: u64) -> Option<Life> {
        Some(Life {
            from_unix_s,
            until_unix_s,
        })
    }

    #[test]
    fn the_next_one_signs_only_once_it_is_believed() {
        assert_eq!(step(None, None, false, 5), Step::Renew);
        assert_eq!(step(life(0, 100), None, false, 49), Step::Keep);
        assert_eq!(step(life(0, 100), None, false, 50), Step::MakeNext);
        assert_eq!(step(life(0, 100), life(50, 150), false, 99), Step::Keep);
        assert_eq!(step(life(0, 100), life(50, 150), true, 51), Step::Promote);
    }

    #[test]
    fn what_is_over_signs_no_more() {
        assert_eq!(step(life(0, 100), life(50, 150), false, 100), Step::Promote);
        assert_eq!(step(life(0, 100), life(20, 90), true, 100), Step::Renew);
        assert_eq!(step(life(0, 100), life(20, 40), true, 60), Step::MakeNext);
        assert_eq!(step(life(100, 0), None, false, 50), Step::Renew);
    }
}
