//! When a certificate is renewed. Pure.

/// Unix seconds at which a certificate valid from `not_before` to `not_after` is renewed: at half its life, up to a
/// tenth of it earlier or later by `jitter` (0 to 1), so that processes started together do not ask together.
pub(super) fn renew_at_unix_s(not_before: i64, not_after: i64, jitter: f64) -> i64 {
    let life = not_after.saturating_sub(not_before).max(0);
    // Thousandths keep the arithmetic in integers; a NaN counts as no jitter at all.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "clamped to 0..=1000 before the cast; a NaN becomes 0"
    )]
    let thousandths = (jitter.clamp(0.0, 1.0) * 1000.0) as i64;
    let share = 400_i64.saturating_add(thousandths / 5);
    not_before
        .saturating_add((life / 1000).saturating_mul(share))
        .saturating_add(life % 1000 / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewal_is_around_half_life_whatever_the_jitter() {
        let (from, to) = (1_000, 1_000 + 86_400);
        for (jitter, share) in [
            (0.0, 0.4),
            (0.5, 0.5),
            (1.0, 0.6),
            (f64::NAN, 0.4),
            (9.0, 0.6),
        ] {
            #[expect(clippy::cast_possible_truncation, reason = "a test's small number")]
            let expected = 1_000 + (86_400.0 * share) as i64;
            let at = renew_at_unix_s(from, to, jitter);
            assert!(
                (at - expected).abs() < 300,
                "{jitter}: {at} against {expected}"
            );
        }
    }

    #[test]
    fn nonsense_bounds_are_survived() {
        assert_eq!(renew_at_unix_s(10, 5, 0.5), 10);
        let at = renew_at_unix_s(i64::MIN, i64::MAX, 1.0);
        assert!(at > i64::MIN);
    }
}
