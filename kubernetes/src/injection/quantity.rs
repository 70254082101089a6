//! Amounts of CPU and memory as Kubernetes writes them: `250m`, `1.5`, `64Mi`, `1e3`.

use std::{cmp::Ordering, fmt, str::FromStr};

/// Longest text that is an amount: more is a mistake.
const MAX_LEN: usize = 64;

/// Suffixes and what they multiply by.
const SUFFIXES: [(&str, f64); 16] = [
    ("n", 1e-9),
    ("u", 1e-6),
    ("m", 1e-3),
    ("", 1.0),
    ("k", 1e3),
    ("M", 1e6),
    ("G", 1e9),
    ("T", 1e12),
    ("P", 1e15),
    ("E", 1e18),
    ("Ki", 1024.0),
    ("Mi", 1_048_576.0),
    ("Gi", 1_073_741_824.0),
    ("Ti", 1_099_511_627_776.0),
    ("Pi", 1_125_899_906_842_624.0),
    ("Ei", 1_152_921_504_606_846_976.0),
];

/// An amount, in the words of whoever wrote it.
#[derive(Clone, Debug)]
pub struct Quantity {
    text: String,
    // Only compared: the last digits of a very exact one may be lost.
    value: f64,
}

/// Not an amount.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected an amount such as 250m, 0.5, 64Mi or 1Gi")]
pub struct NotAQuantity;

impl FromStr for Quantity {
    type Err = NotAQuantity;

    fn from_str(s: &str) -> Result<Self, NotAQuantity> {
        if s.len() > MAX_LEN {
            return Err(NotAQuantity);
        }
        let end = s
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(s.len());
        let (digits, suffix) = s.split_at_checked(end).ok_or(NotAQuantity)?;
        let number: f64 = digits
            .chars()
            .any(|c| c.is_ascii_digit())
            .then(|| digits.parse().ok())
            .flatten()
            .ok_or(NotAQuantity)?;
        let factor = match SUFFIXES.iter().find(|(known, _)| *known == suffix) {
            Some((_, factor)) => *factor,
            None => exponent(suffix).ok_or(NotAQuantity)?,
        };
        let value = number * factor;
        if !value.is_finite() {
            return Err(NotAQuantity);
        }
        Ok(Self {
            text: s.to_owned(),
            value,
        })
    }
}

/// `e3`, `E-2`.
fn exponent(suffix: &str) -> Option<f64> {
    let power = suffix.strip_prefix(['e', 'E'])?;
    let power: i32 = power.parse().ok()?;
    (-18..=18).contains(&power).then(|| 10_f64.powi(power))
}

impl Quantity {
    /// The greater of two, in its own words; the first of equal ones.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        if other > self { other } else { self }
    }

    /// The smaller of two, in its own words; the first of equal ones.
    #[must_use]
    pub fn min(self, other: Self) -> Self {
        if other < self { other } else { self }
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.partial_cmp(other) == Some(Ordering::Equal)
    }
}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        self.value.partial_cmp(&other.value)
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_and_compared() {
        let of = |s: &str| s.parse::<Quantity>().unwrap();
        assert!(of("250m") < of("0.5"));
        assert_eq!(of("1024Mi"), of("1Gi"));
        assert_eq!(of("1e3"), of("1k"));
        assert_eq!(of("1E"), of("1E18"));
        assert_eq!(of("64Mi").max(of("1Gi")).to_string(), "1Gi");
        assert_eq!(of("64Mi").min(of("1Gi")).to_string(), "64Mi");
    }

    #[test]
    fn what_is_none_is_refused() {
        for bad in [
            "", "lots", "-1", "1 Gi", "1gi", ".", "1..2", "1e99", "Mi", "1e", "٣",
        ] {
            assert!(bad.parse::<Quantity>().is_err(), "{bad}");
        }
        assert!("1".repeat(65).parse::<Quantity>().is_err());
    }
}
