//! What the benchmarks beside other proxies ask for alike: which, how long, on which cores, and where to. Owns nothing.

use std::{future::Future, path::PathBuf};

use tokio::task::LocalSet;

use crate::{
    compare::Table,
    programs::{Programs, System},
};

/// The flags that they share.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Comparison {
    /// Where the plot and the data are written
    #[arg(long)]
    pub(crate) dir: PathBuf,
    #[command(flatten)]
    pub(crate) programs: Programs,
    /// Rounds of each kind of load, alternated
    #[arg(long, default_value_t = 7)]
    pub(crate) rounds: usize,
    /// Rounds of memory, each with new processes
    #[arg(long, default_value_t = 3)]
    pub(crate) memory_rounds: usize,
    /// Seconds of one round
    #[arg(long, default_value_t = 2.0)]
    pub(crate) seconds: f64,
    /// Requests a second at the fixed rate
    #[arg(long, default_value_t = 4000)]
    pub(crate) rate: u32,
    /// The core of what is measured
    #[arg(long, default_value_t = 1)]
    pub(crate) proxy_core: usize,
    /// The core of everybody else
    #[arg(long, default_value_t = 0)]
    pub(crate) load_core: usize,
    /// Only these kinds of load, comma-separated; one that does not exist lists those that do
    #[arg(long, value_delimiter = ',')]
    pub(crate) only: Vec<String>,
    /// Only these besides Tradewind, comma-separated; one that does not exist lists those that do
    #[arg(long, value_delimiter = ',')]
    pub(crate) against: Vec<String>,
    /// Data instead of a table
    #[arg(long)]
    pub(crate) json: bool,
}

/// As it is written on the command line.
fn word(system: System) -> String {
    system.name().replace(' ', "-")
}

fn known(flag: &str, asked: &[String], known: &[String]) -> Result<(), String> {
    match asked.iter().find(|word| !known.contains(word)) {
        None => Ok(()),
        Some(word) => Err(format!(
            "{flag} {word}: there is no such thing; there are {}",
            known.join(", ")
        )),
    }
}

impl Comparison {
    /// Whether a kind of load is asked for.
    pub(crate) fn wants(&self, what: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|o| o == what)
    }

    /// Whether a system is asked for.
    pub(crate) fn compares(&self, system: System) -> bool {
        system == System::Tradewind
            || self.against.is_empty()
            || self.against.contains(&word(system))
    }

    /// Refuses what does not exist: it would be measured by nobody, without a word.
    pub(crate) fn check(&self, kinds: &[&str], systems: &[System]) -> Result<(), String> {
        let kinds: Vec<_> = kinds.iter().map(|kind| (*kind).to_owned()).collect();
        known("--only", &self.only, &kinds)?;
        let peers = systems.iter().filter(|s| **s != System::Tradewind);
        known(
            "--against",
            &self.against,
            &peers.map(|s| word(*s)).collect::<Vec<_>>(),
        )
    }

    /// Writes what `measure` gives to the folder, and says what to print. One thread makes all the load.
    pub(crate) async fn run<M: Future<Output = Result<Table, String>>>(
        self,
        measure: impl FnOnce() -> M + Send + 'static,
    ) -> Result<String, String> {
        let shown = tokio::task::spawn_blocking(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(|e| e.to_string())?;
            LocalSet::new().block_on(&runtime, async {
                tokio::select! {
                    table = measure() => {
                        let table = table?;
                        table.write(&self.dir)?;
                        if self.json {
                            return serde_json::to_string_pretty(&table).map_err(|e| e.to_string());
                        }
                        Ok(table.to_string())
                    }
                    signal = tradewind_runtime::signal::terminated() => Err(format!("ended by {signal}")),
                }
            })
        });
        shown.await.map_err(|e| e.to_string())?
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Whole {
        #[command(flatten)]
        comparison: Comparison,
    }

    fn asked(words: &[&str]) -> Comparison {
        let words = ["bench", "--dir", "x"].iter().chain(words);
        Whole::try_parse_from(words).unwrap().comparison
    }

    #[test]
    fn all_is_wanted_unless_something_is_named_and_what_does_not_exist_is_refused() {
        let (kinds, systems) = (
            ["paced", "memory"],
            [System::Tradewind, System::HaproxySplice, System::Envoy],
        );
        let all = asked(&[]);
        assert_eq!(all.check(&kinds, &systems), Ok(()));
        assert!(all.wants("paced") && all.compares(System::Envoy));
        let some = asked(&["--only", "paced", "--against", "haproxy-splice"]);
        assert_eq!(some.check(&kinds, &systems), Ok(()));
        assert!(some.wants("paced") && !some.wants("memory"));
        assert!(some.compares(System::Tradewind) && some.compares(System::HaproxySplice));
        assert!(!some.compares(System::Envoy));
        let error = asked(&["--only", "pace"])
            .check(&kinds, &systems)
            .unwrap_err();
        assert!(
            error.contains("pace:") && error.contains("paced, memory"),
            "{error}"
        );
        let error = asked(&["--against", "nginx"])
            .check(&kinds, &systems)
            .unwrap_err();
        assert!(error.contains("haproxy-splice, envoy"), "{error}");
    }
}
