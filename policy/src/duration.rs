//! Durations as both APIs write them: GEP-2257's (`1h`, `10s`, `500ms`, `1m30s`) and those of Go and protobuf (`1.5s`).

/// In ms. None for what is no duration; more than u64 holds is none either.
pub(crate) fn milliseconds(text: &str) -> Option<u64> {
    let mut rest = text;
    if rest == "0" {
        return Some(0);
    }
    // Thousandths of a ms, so that `us` add up before they are cut.
    let mut total: u64 = 0;
    let mut any = false;
    while !rest.is_empty() {
        let number_ends = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at_checked(number_ends)?;
        let unit_ends = after
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(after.len());
        let (unit, next) = after.split_at_checked(unit_ends)?;
        let scale: u64 = match unit {
            "h" => 3_600_000_000,
            "m" => 60_000_000,
            "s" => 1_000_000,
            "ms" => 1_000,
            "us" | "µs" => 1,
            _ => return None,
        };
        let (whole, part) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() && part.is_empty() {
            return None;
        }
        let mut value = scale.checked_mul(match whole {
            "" => 0,
            digits => digits.parse::<u64>().ok()?,
        })?;
        let mut digit_is = scale;
        for digit in part.bytes() {
            digit_is /= 10;
            value = value
                .checked_add(digit_is * u64::from(digit.checked_sub(b'0').filter(|d| *d < 10)?))?;
        }
        total = total.checked_add(value)?;
        any = true;
        rest = next;
    }
    any.then_some(total / 1_000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn both_apis_durations_are_read() {
        for (text, ms) in [
            ("0", Some(0)),
            ("0s", Some(0)),
            ("10s", Some(10_000)),
            ("1h2m3s4ms", Some(3_723_004)),
            ("1.5s", Some(1_500)),
            (".5s", Some(500)),
            ("0.000100s", Some(0)),
            ("900us", Some(0)),
            ("600us600us", Some(1)),
            ("", None),
            ("10", None),
            ("s", None),
            (".s", None),
            ("-1s", None),
            ("1d", None),
            ("1.2.3s", None),
            ("99999999999999999999h", None),
            ("9999999999999h", None),
        ] {
            assert_eq!(milliseconds(text), ms, "{text}");
        }
    }

    proptest! {
        #[test]
        fn nothing_panics(text in "\\PC{0,20}|[0-9.hmsu]{0,30}") {
            let _ms = milliseconds(&text);
        }

        #[test]
        fn whole_ones_come_back(h in 0u64..1000, m in 0u64..60, s in 0u64..60, ms in 0u64..1000) {
            let all = ((h * 60 + m) * 60 + s) * 1000 + ms;
            prop_assert_eq!(milliseconds(&format!("{h}h{m}m{s}s{ms}ms")), Some(all));
        }
    }
}
