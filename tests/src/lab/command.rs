//! What may be typed in a lab: the words and what they mean. Pure.

use std::{collections::BTreeMap, fmt::Write as _, time::Duration};

use crate::wan::line::Shape;

/// The words with what they do.
const WORDS: [(&str, &str); 17] = [
    (
        "show",
        "the clusters, their pods, and the lines between them",
    ),
    (
        "call [payments|ledger] [N]",
        "N calls (1) through the caller's proxy: who answered, after how long",
    ),
    (
        "run CLUSTER COMMAND ...",
        "a command in a cluster's namespace, such as: run west tradewind status",
    ),
    ("sh CLUSTER", "a shell there; its `exit` leads back"),
    (
        "delay A B TIME [both]",
        "how long a packet from A to B takes, and from B to A with `both`: delay west east 200ms",
    ),
    ("jitter A B TIME [both]", "up to so much longer"),
    (
        "loss A B PERCENT [both]",
        "the part of the packets that is lost: loss west east 5%",
    ),
    (
        "rate A B BANDWIDTH [both]",
        "rate west east 10mbit; `none` for no limit",
    ),
    (
        "cut A B [both]",
        "nothing from A arrives at B, and nobody is told",
    ),
    (
        "heal",
        "every line and every pod as it was at the beginning",
    ),
    (
        "kill POD",
        "SIGKILL to a pod's application and proxy: kill west/1",
    ),
    ("silence POD", "nothing comes back from it"),
    ("reset POD", "every connection with it is reset"),
    (
        "slow POD TIME",
        "its application waits so long before it answers; 0ms for as before",
    ),
    ("start", "what was killed"),
    ("help", "this"),
    ("quit", "the end of everything that the lab has started"),
];

/// What was asked for. Names are not looked up yet.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// The words.
    Help,
    /// What there is.
    Show,
    /// Calls of a service: of the one that is elsewhere, or of the one that is everywhere.
    Call {
        /// The first.
        elsewhere: bool,
        /// How many.
        count: u32,
    },
    /// A program in a cluster's namespace, with its words; a shell where there are none.
    Run {
        /// The cluster.
        cluster: String,
        /// The words.
        words: Vec<String>,
    },
    /// A change of a line.
    Line {
        /// From this cluster.
        from: String,
        /// To that one.
        to: String,
        /// And back.
        both: bool,
        /// The change.
        change: Change,
    },
    /// Everything as it was.
    Heal,
    /// Something is done to a pod.
    Pod {
        /// Its name.
        name: String,
        /// What.
        deed: Deed,
    },
    /// Start what was killed.
    Start,
    /// The end.
    Quit,
}

/// How a line changes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Change {
    /// Its delay.
    Delay(Duration),
    /// Its jitter.
    Jitter(Duration),
    /// The part that is lost.
    Loss(f64),
    /// Its bandwidth.
    Rate(Option<u64>),
    /// It is cut.
    Cut,
}

impl Change {
    /// Makes it.
    pub const fn apply(self, shape: &mut Shape) {
        match self {
            Self::Delay(delay) => shape.delay = delay,
            Self::Jitter(jitter) => shape.jitter = jitter,
            Self::Loss(loss) => shape.loss = loss,
            Self::Rate(rate) => shape.rate_bit_s = rate,
            Self::Cut => shape.cut = true,
        }
    }
}

/// What is done to a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    /// SIGKILL.
    Kill,
    /// Nothing comes back.
    Silence,
    /// Connections are reset.
    Reset,
    /// Its application waits.
    Slow(Duration),
}

/// The words, for people.
pub fn help() -> String {
    let mut text = String::new();
    for (words, what) in WORDS {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "  {words:28} {what}");
    }
    text
}

/// Reads a line; none where it says nothing.
pub fn parse(line: &str) -> Result<Option<Command>, String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let pod = |name: &str, deed| Command::Pod {
        name: name.to_owned(),
        deed,
    };
    Ok(Some(match words.as_slice() {
        [] => return Ok(None),
        ["help" | "?"] => Command::Help,
        ["show"] => Command::Show,
        ["heal"] => Command::Heal,
        ["start"] => Command::Start,
        ["quit" | "exit"] => Command::Quit,
        ["call", rest @ ..] => call(rest)?,
        ["sh", cluster] => Command::Run {
            cluster: (*cluster).to_owned(),
            words: Vec::new(),
        },
        ["run", cluster, program @ ..] if !program.is_empty() => Command::Run {
            cluster: (*cluster).to_owned(),
            words: program.iter().map(|w| (*w).to_owned()).collect(),
        },
        ["kill", name] => pod(name, Deed::Kill),
        ["silence", name] => pod(name, Deed::Silence),
        ["reset", name] => pod(name, Deed::Reset),
        ["slow", name, time] => pod(name, Deed::Slow(duration(time)?)),
        [word, from, to, rest @ ..] => {
            let (rest, both) = match rest {
                [rest @ .., "both"] => (rest, true),
                rest => (rest, false),
            };
            Command::Line {
                from: (*from).to_owned(),
                to: (*to).to_owned(),
                both,
                change: change(word, rest).ok_or_else(|| unknown(line))??,
            }
        }
        _ => return Err(unknown(line)),
    }))
}

fn unknown(line: &str) -> String {
    let first = line.split_whitespace().next().unwrap_or_default();
    let form = WORDS
        .iter()
        .find(|(form, _)| form.split(' ').next() == Some(first));
    match form {
        Some((form, _)) => format!("it goes: {form}"),
        None => format!("no such word: {first}; `help` lists them"),
    }
}

fn call(rest: &[&str]) -> Result<Command, String> {
    let (elsewhere, rest) = match rest {
        ["payments", rest @ ..] => (false, rest),
        ["ledger", rest @ ..] => (true, rest),
        rest => (false, rest),
    };
    let count = match rest {
        [] => 1,
        [count] => count
            .parse()
            .ok()
            .filter(|n| (1..=1_000).contains(n))
            .ok_or("1 to 1000 calls")?,
        _ => return Err(unknown("call")),
    };
    Ok(Command::Call { elsewhere, count })
}

/// None where it is no change of a line, or has too few or too many words.
fn change(word: &str, rest: &[&str]) -> Option<Result<Change, String>> {
    Some(match (word, rest) {
        ("delay", [time]) => duration(time).map(Change::Delay),
        ("jitter", [time]) => duration(time).map(Change::Jitter),
        ("loss", [part]) => percent(part).map(Change::Loss),
        ("rate", ["none"]) => Ok(Change::Rate(None)),
        ("rate", [rate]) => bandwidth(rate).map(|r| Change::Rate(Some(r))),
        ("cut", []) => Ok(Change::Cut),
        _ => return None,
    })
}

/// A number with one of these units.
fn measured(text: &str, units: &BTreeMap<&str, f64>, what: &str) -> Result<f64, String> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number = number.parse::<f64>().ok();
    let value = number.zip(units.get(unit)).map(|(n, unit)| n * unit);
    value.ok_or_else(|| {
        let units: Vec<_> = units.keys().copied().collect();
        format!(
            "{text} is no {what}: a number and one of {}",
            units.join(", ")
        )
    })
}

fn duration(text: &str) -> Result<Duration, String> {
    const LONGEST_S: f64 = 60.0;
    let seconds = measured(text, &[("ms", 1e-3), ("s", 1.0)].into(), "time")?;
    if seconds > LONGEST_S {
        return Err(format!("{text}: at most {LONGEST_S} s"));
    }
    Ok(Duration::from_secs_f64(seconds))
}

fn percent(text: &str) -> Result<f64, String> {
    let part = measured(text, &[("%", 0.01)].into(), "percentage")?;
    if part > 1.0 {
        return Err(format!("{text} is more than all"));
    }
    Ok(part)
}

fn bandwidth(text: &str) -> Result<u64, String> {
    let units = [("kbit", 1e3), ("mbit", 1e6), ("gbit", 1e9)];
    let rate = measured(text, &units.into(), "bandwidth")?;
    Ok(rate as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> (bool, Change) {
        match parse(text) {
            Ok(Some(Command::Line {
                from,
                to,
                both,
                change,
            })) => {
                assert_eq!((from.as_str(), to.as_str()), ("west", "east"));
                (both, change)
            }
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn lines_change_as_they_are_told() {
        assert_eq!(
            line("delay west east 200ms"),
            (false, Change::Delay(Duration::from_millis(200)))
        );
        assert_eq!(
            line("jitter west east 1.5s both"),
            (true, Change::Jitter(Duration::from_millis(1_500)))
        );
        assert_eq!(line("loss west east 5%"), (false, Change::Loss(0.05)));
        assert_eq!(
            line("rate west east 10mbit both"),
            (true, Change::Rate(Some(10_000_000)))
        );
        assert_eq!(line("rate west east none"), (false, Change::Rate(None)));
        assert_eq!(line("cut west east"), (false, Change::Cut));
        let mut shape = Shape::default();
        Change::Cut.apply(&mut shape);
        assert!(shape.cut);
    }

    #[test]
    fn other_words_are_read_and_what_makes_no_sense_is_said() {
        assert_eq!(parse("  "), Ok(None));
        let call = |elsewhere, count| Ok(Some(Command::Call { elsewhere, count }));
        assert_eq!(parse("call"), call(false, 1));
        assert_eq!(parse("call ledger 20"), call(true, 20));
        let run = parse("run west tradewind status").unwrap().unwrap();
        let words = ["tradewind".to_owned(), "status".to_owned()].into();
        assert_eq!(
            run,
            Command::Run {
                cluster: "west".to_owned(),
                words
            }
        );
        let slow = Deed::Slow(Duration::from_secs(1));
        let name = "west/1".to_owned();
        assert_eq!(
            parse("slow west/1 1s"),
            Ok(Some(Command::Pod { name, deed: slow }))
        );
        for (bad, why) in [
            ("delay west east", "it goes: delay"),
            ("delay west east fast", "no time"),
            ("delay west east 2h", "no time"),
            ("delay west east 90s", "at most"),
            ("loss west east 101%", "more than all"),
            ("rate west east 10", "no bandwidth"),
            ("call ledger many", "calls"),
            ("explode", "no such word"),
            ("kill", "it goes: kill"),
        ] {
            let said = parse(bad).unwrap_err();
            assert!(said.contains(why), "{bad}: {said}");
        }
    }

    #[test]
    fn help_names_every_word_that_is_read() {
        let help = help();
        for word in [
            "show", "call", "run", "sh", "delay", "jitter", "loss", "rate", "cut", "heal", "kill",
            "silence", "reset", "slow", "start", "quit",
        ] {
            assert!(
                help.lines().any(|l| l.trim_start().starts_with(word)),
                "{word}"
            );
        }
    }
}
