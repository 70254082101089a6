//! Sums the closing lines of many test binaries up into one. Pure.

use std::fmt;

/// The counts of the test runner's closing line, in its order.
const COUNTS: [&str; 5] = ["passed", "failed", "ignored", "measured", "filtered out"];

/// What all test binaries said together.
#[derive(Debug, Default)]
pub(crate) struct Summary {
    binaries: usize,
    counts: [u64; COUNTS.len()],
    seconds: f64,
    bad_binaries: usize,
    failing: Vec<String>,
}

impl Summary {
    /// Takes one line of the test run's output into account.
    pub(crate) fn read(&mut self, line: &str) {
        if let Some(name) = line
            .strip_prefix("test ")
            .and_then(|l| l.strip_suffix(" ... FAILED"))
        {
            self.failing.push(name.to_owned());
        }
        let Some(rest) = line.strip_prefix("test result: ") else {
            return;
        };
        let Some((verdict, rest)) = rest.split_once(". ") else {
            return;
        };
        self.binaries += 1;
        self.bad_binaries += usize::from(verdict != "ok");
        for part in rest.split("; ") {
            let (number, what) = part.split_once(' ').unwrap_or((part, ""));
            let known = COUNTS.iter().position(|name| *name == what);
            if let Some(sum) = known.and_then(|index| self.counts.get_mut(index)) {
                *sum += number.parse::<u64>().unwrap_or(0);
            }
        }
        if let Some((_, time)) = rest.split_once("finished in ") {
            self.seconds += time.trim_end_matches('s').parse::<f64>().unwrap_or(0.0);
        }
    }

    /// How many test binaries reported.
    pub(crate) fn binaries(&self) -> usize {
        self.binaries
    }

    /// Whether tests ran and none failed.
    pub(crate) fn is_good(&self) -> bool {
        self.binaries > 0 && self.bad_binaries == 0
    }

    /// The tests that failed, in the order in which they did.
    pub(crate) fn failing(&self) -> &[String] {
        &self.failing
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.is_good() { "ok" } else { "FAILED" };
        write!(f, "test result: {verdict}. ")?;
        for (name, count) in COUNTS.iter().zip(self.counts) {
            write!(f, "{count} {name}; ")?;
        }
        write!(f, "finished in {:.2}s", self.seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summed(lines: &[&str]) -> Summary {
        let mut summary = Summary::default();
        for line in lines {
            summary.read(line);
        }
        summary
    }

    #[test]
    fn sums_binaries_up() {
        let summary = summed(&[
            "running 2 tests",
            "test a ... ok",
            "test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 3 filtered out; finished in 0.12s",
            "test result: ok. 40 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.50s",
        ]);
        assert!(summary.is_good());
        assert_eq!(
            summary.to_string(),
            "test result: ok. 42 passed; 0 failed; 1 ignored; 0 measured; 3 filtered out; finished in 1.62s"
        );
    }

    #[test]
    fn one_failure_fails_the_sum_and_is_named() {
        let summary = summed(&[
            "test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.12s",
            "test drain::forces ... FAILED",
            "test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.10s",
        ]);
        assert!(!summary.is_good());
        assert_eq!(summary.failing(), ["drain::forces"]);
        assert!(
            summary
                .to_string()
                .starts_with("test result: FAILED. 3 passed; 1 failed;")
        );
    }

    #[test]
    fn nothing_is_not_good() {
        assert!(!summed(&["error: could not compile"]).is_good());
    }
}
