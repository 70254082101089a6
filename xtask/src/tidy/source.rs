//! Rules for single Rust files: a header, a size, no unfinished work, small mains, no unsafe code where none belongs.

use super::{Config, Finding, Limits, TextFile};

/// Marks of unfinished work, split so that this file does not find itself.
const UNFINISHED: [&str; 3] = [
    concat!("to", "do!("),
    concat!("unimple", "mented!("),
    concat!("FIX", "ME"),
];

const FORBID_UNSAFE: &str = "#![forbid(unsafe_code)]";

pub(crate) fn check(config: &Config, files: &[TextFile]) -> Vec<Finding> {
    files
        .iter()
        .filter(|file| file.is_rust())
        .flat_map(|file| check_file(config, file))
        .collect()
}

fn check_file(config: &Config, file: &TextFile) -> Vec<Finding> {
    let mut findings = Vec::new();
    if !file.text.starts_with("//!") {
        findings.push(Finding::at(
            file,
            0,
            "a file begins with a //! header that says what it is for",
        ));
    }
    let lines = file.text.lines().count();
    if lines > config.limits.file {
        let what = format!(
            "{lines} lines, the most is {}; split it",
            config.limits.file
        );
        findings.push(Finding::new(&file.path, what));
    }
    if file.path.ends_with("src/main.rs") && lines > config.limits.main {
        let what = format!(
            "{lines} lines, the most for a main is {}",
            config.limits.main
        );
        findings.push(Finding::new(&file.path, what));
    }
    for (index, line) in file.text.lines().enumerate() {
        for mark in UNFINISHED {
            if line.contains(mark) {
                let mark = mark.trim_end_matches('(');
                findings.push(Finding::at(file, index, format!("unfinished work: {mark}")));
            }
        }
    }
    if let Some(crate_name) = file.path.strip_suffix("/src/lib.rs")
        && !config.may_be_unsafe.iter().any(|name| name == crate_name)
        && !file.text.contains(FORBID_UNSAFE)
    {
        findings.push(Finding::new(
            &file.path,
            format!("{FORBID_UNSAFE} is missing"),
        ));
    }
    findings
}

/// Files that are longer before their tests than they should be.
pub(crate) fn long_files(limits: &Limits, files: &[TextFile]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in files
        .iter()
        .filter(|file| file.is_rust() && !file.is_test())
    {
        let lines = file.before_tests().lines().count();
        if lines > limits.file_before_tests {
            let most = limits.file_before_tests;
            let what = format!("{lines} lines before its tests, should be at most {most}");
            findings.push(Finding::new(&file.path, what));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::fixture::file;

    fn config() -> Config {
        toml::from_str(
            "pure = []\nmay_be_unsafe = ['transport']\n[imports]\nroles = []\nallowed = {}\n\
             [limits]\nfile = 800\nfile_before_tests = 500\nmain = 120\n",
        )
        .unwrap()
    }

    fn found(path: &str, text: &str) -> Vec<String> {
        check(&config(), &[file(path, text)])
            .into_iter()
            .map(|finding| finding.what)
            .collect()
    }

    #[test]
    fn a_good_file_passes() {
        let text = "//! What for.\n\n#![forbid(unsafe_code)]\n";
        assert_eq!(found("api/src/lib.rs", text), Vec::<String>::new());
        assert_eq!(
            found("transport/src/lib.rs", "//! What for.\n"),
            Vec::<String>::new()
        );
    }

    #[test]
    fn each_rule_finds_its_violation() {
        assert!(found("a/src/b.rs", "fn f() {}\n")[0].contains("header"));
        assert!(found("a/src/lib.rs", "//! x\n")[0].contains("forbid"));
        let unfinished = format!("//! x\nfn f() {{ {}) }}\n", UNFINISHED[0]);
        assert!(found("a/src/b.rs", &unfinished)[0].contains("unfinished"));
        let long = format!("//! x\n{}", "fn f() {}\n".repeat(800));
        assert!(found("a/src/b.rs", &long)[0].contains("801 lines"));
        let main = format!("//! x\n{}", "fn f() {}\n".repeat(120));
        assert!(found("a/src/main.rs", &main)[0].contains("121 lines"));
    }

    #[test]
    fn tests_do_not_count_for_the_length_that_warns() {
        let code = "fn f() {}\n".repeat(499);
        let tests = "    fn t() {}\n".repeat(100);
        let good = file(
            "a/src/b.rs",
            &format!("//! x\n{code}\n#[cfg(test)]\nmod tests {{\n{tests}}}\n"),
        );
        let bad = file("a/src/b.rs", &format!("//! x\n{code}fn g() {{}}\n"));
        assert_eq!(long_files(&config().limits, &[good]), []);
        assert_eq!(long_files(&config().limits, &[bad]).len(), 1);
    }
}
