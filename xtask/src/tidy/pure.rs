//! Files that decide must not reach for a runtime, a socket, the disk or the clock: what they need is an argument.

use super::{Finding, TextFile};

/// What gives I/O, time or randomness away. `tokio::time::Instant` as a type of an argument is fine.
const FORBIDDEN: [&str; 15] = [
    "tokio::",
    "tokio_util::",
    "tokio_stream::",
    "hyper::",
    "hyper_util::",
    "tonic::",
    "h2::",
    "socket2::",
    "std::fs",
    "std::process",
    "std::os::",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "::now()",
];

/// An argument's type, not a clock.
const ALLOWED: &str = "tokio::time::Instant";

pub(crate) fn check(pure: &[String], files: &[TextFile]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for entry in pure {
        let covers = |path: &str| {
            if entry.ends_with('/') {
                path.starts_with(entry.as_str())
            } else {
                path == entry
            }
        };
        let mut covered = files
            .iter()
            .filter(|file| file.is_rust() && covers(&file.path))
            .peekable();
        if covered.peek().is_none() {
            let what = format!("{entry} is listed as pure but does not exist");
            findings.push(Finding::new("tidy.toml", what));
        }
        for file in covered {
            findings.extend(check_file(file));
        }
    }
    findings
}

fn check_file(file: &TextFile) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (index, line) in file.before_tests().lines().enumerate() {
        let code = line.split("//").next().unwrap_or(line).replace(ALLOWED, "");
        for forbidden in FORBIDDEN {
            if mentions(&code, forbidden) {
                let what = format!("a pure file must not use {}", forbidden.trim_matches(':'));
                findings.push(Finding::at(file, index, what));
            }
        }
    }
    findings
}

/// Whether `code` has `word`, not as the end of a longer name.
fn mentions(code: &str, word: &str) -> bool {
    code.match_indices(word).any(|(at, _)| {
        let before = code.get(..at).and_then(|head| head.chars().next_back());
        word.starts_with(':') || !before.is_some_and(|c| c.is_alphanumeric() || c == '_')
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::fixture::file;

    fn findings(text: &str) -> Vec<Finding> {
        check(&["a/src/b.rs".to_owned()], &[file("a/src/b.rs", text)])
    }

    #[test]
    fn io_and_clocks_are_found() {
        for bad in [
            "use tokio::net::UnixStream;",
            "use std::net::{IpAddr, TcpStream};",
            "let now = Instant::now();",
            "let now = clock.now();\nlet t = std::fs::read(p);",
            "use hyper::Request;",
        ] {
            assert!(!findings(bad).is_empty(), "{bad}");
        }
        assert_eq!(findings("fn f() {}\nlet t = SystemTime::now();").len(), 1);
    }

    #[test]
    fn arguments_comments_and_tests_are_fine() {
        let good = "//! Like tokio::spawn.\nuse tokio::time::Instant;\nuse std::net::IpAddr;\n\
                    fn f(now: Instant) {} // hyper::x\n\n#[cfg(test)]\nmod tests {\n    use tokio::net;\n}\n";
        assert_eq!(findings(good), []);
    }

    #[test]
    fn a_listed_file_must_exist_and_a_directory_covers_its_files() {
        assert_eq!(check(&["gone.rs".to_owned()], &[]).len(), 1);
        let files = [file("a/src/b/c.rs", "use tonic::Status;")];
        assert_eq!(
            check(&["a/src/b/".to_owned()], &files)[0].place,
            "a/src/b/c.rs:1"
        );
    }
}
