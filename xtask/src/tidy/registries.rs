//! The tree must build for anybody: no host name of a package registry or mirror in it, and a lock file that knows the
//! public index alone.

use super::{Finding, TextFile};

/// The one source that a lock file may name.
const PUBLIC_INDEX: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// Host names and settings, split so that this file does not find itself.
const FORBIDDEN: [&str; 8] = [
    concat!("crates", ".io/"),
    concat!("index.crates", ".io"),
    concat!("static.crates", ".io"),
    concat!("registry.npm", "js.org"),
    concat!("py", "pi.org"),
    concat!("proxy.go", "lang.org"),
    concat!("sparse", "+http"),
    concat!("replace", "-with"),
];

pub(crate) fn check(files: &[TextFile]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in files {
        let lock = file.path.ends_with("Cargo.lock");
        for (index, line) in file.text.lines().enumerate() {
            if lock {
                if let Some(source) = line.strip_prefix("source = ")
                    && source.trim_matches('"') != PUBLIC_INDEX
                {
                    let what =
                        format!("a dependency from elsewhere than the public index: {source}");
                    findings.push(Finding::at(file, index, what));
                }
                continue;
            }
            for forbidden in FORBIDDEN {
                if line.contains(forbidden) {
                    let what = format!("the name of a package registry: {forbidden}");
                    findings.push(Finding::at(file, index, what));
                }
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::fixture::file;

    #[test]
    fn mirrors_are_found_and_the_public_lock_passes() {
        let lock = format!("[[package]]\nname = \"a\"\nsource = \"{PUBLIC_INDEX}\"\n");
        assert_eq!(check(&[file("Cargo.lock", &lock)]), []);
        let mirror = "source = \"registry+https://mirror.example/index\"\n";
        assert_eq!(check(&[file("Cargo.lock", mirror)]).len(), 1);
        let git = "source = \"git+https://example.com/a\"\n";
        assert_eq!(check(&[file("fuzz/Cargo.lock", git)]).len(), 1);
        let setting = format!("[source.x]\n{} = 'y'\n", FORBIDDEN[7]);
        assert_eq!(
            check(&[file(".cargo/config.toml", &setting)])[0].place,
            ".cargo/config.toml:2"
        );
    }
}
