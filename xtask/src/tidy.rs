//! House rules as a test: reads the tree once, lets each rule look at it, and reports everything found in one go.
//!
//! Rules are pure functions of the files' text and `tidy.toml`; only this file touches the disk.

mod imports;
mod links;
mod pure;
mod registries;
mod source;

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// Larger files are data, not text that a person wrote.
const MAX_TEXT_BYTES: u64 = 1024 * 1024;

/// Directories that hold what was generated or belongs to other tools.
const SKIPPED: [&str; 3] = ["target", ".git", "node_modules"];

/// `tidy.toml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    /// Files, and directories ending in a slash, whose code decides without clock, socket or disk.
    pure: Vec<String>,
    imports: imports::Rules,
    limits: Limits,
    /// Crates whose `lib.rs` may leave `unsafe_code` at the workspace's level.
    may_be_unsafe: Vec<String>,
}

/// Sizes, in lines.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Limits {
    /// A Rust file as a whole.
    file: usize,
    /// A Rust file before its tests, as a warning.
    file_before_tests: usize,
    /// A binary's `main.rs`.
    main: usize,
}

/// A file of the tree.
#[derive(Debug)]
pub(crate) struct TextFile {
    /// Relative to the root, with forward slashes.
    pub(crate) path: String,
    pub(crate) text: String,
}

impl TextFile {
    pub(crate) fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// The text before the file's own unit tests.
    pub(crate) fn before_tests(&self) -> &str {
        self.text
            .split("\n#[cfg(test)]\nmod ")
            .next()
            .unwrap_or(&self.text)
    }

    /// Tests and test harness: sizes and purity do not apply there.
    pub(crate) fn is_test(&self) -> bool {
        self.path.starts_with("tests/")
            || self.path.contains("/tests/")
            || self.path.ends_with("/tests.rs")
    }
}

/// One violation.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    /// `path` or `path:line`.
    pub(crate) place: String,
    pub(crate) what: String,
}

impl Finding {
    pub(crate) fn new(place: impl Into<String>, what: impl Into<String>) -> Self {
        Self {
            place: place.into(),
            what: what.into(),
        }
    }

    pub(crate) fn at(file: &TextFile, line_index: usize, what: impl Into<String>) -> Self {
        Self::new(format!("{}:{}", file.path, line_index + 1), what)
    }
}

/// What all rules found.
#[derive(Debug)]
pub(crate) struct Report {
    files: usize,
    errors: Vec<Finding>,
    warnings: Vec<Finding>,
}

impl Report {
    pub(crate) fn is_clean(&self) -> bool {
        self.errors.is_empty()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (severity, findings) in [("warning", &self.warnings), ("error", &self.errors)] {
            for finding in findings {
                writeln!(f, "{severity}: {}: {}", finding.place, finding.what)?;
            }
        }
        let (errors, warnings) = (self.errors.len(), self.warnings.len());
        write!(
            f,
            "tidy: {} files, {errors} errors, {warnings} warnings",
            self.files
        )
    }
}

/// Applies every rule to the tree below `root`.
pub(crate) fn run(root: &Path) -> Result<Report, String> {
    let text = fs::read_to_string(root.join("tidy.toml"))
        .map_err(|error| format!("cannot read tidy.toml: {error}"))?;
    let config: Config = toml::from_str(&text).map_err(|error| format!("tidy.toml: {error}"))?;
    let mut files = Vec::new();
    read_tree(root, root, &mut files).map_err(|error| format!("cannot read the tree: {error}"))?;
    files.sort_by(|a, b| a.path.cmp(&b.path));

    let mut errors = imports::check(&config.imports, &files);
    errors.extend(pure::check(&config.pure, &files));
    errors.extend(source::check(&config, &files));
    errors.extend(registries::check(&files));
    errors.extend(links::check(&files, &|path| root.join(path).exists()));
    let warnings = source::long_files(&config.limits, &files);
    Ok(Report {
        files: files.len(),
        errors,
        warnings,
    })
}

fn read_tree(root: &Path, directory: &Path, files: &mut Vec<TextFile>) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            let skipped = entry
                .file_name()
                .to_str()
                .is_some_and(|name| SKIPPED.contains(&name));
            if !skipped {
                read_tree(root, &entry.path(), files)?;
            }
        } else if kind.is_file()
            && entry.metadata()?.len() <= MAX_TEXT_BYTES
            && let Ok(text) = String::from_utf8(fs::read(entry.path())?)
        {
            files.push(TextFile {
                path: relative(root, &entry.path()),
                text,
            });
        }
    }
    Ok(())
}

fn relative(root: &Path, path: &Path) -> String {
    let path: PathBuf = path.strip_prefix(root).unwrap_or(path).to_owned();
    path.to_string_lossy().replace('\\', "/")
}

#[cfg(test)]
pub(crate) mod fixture {
    //! A file for the rules' tests.
    use super::TextFile;

    pub(crate) fn file(path: &str, text: &str) -> TextFile {
        TextFile {
            path: path.to_owned(),
            text: text.to_owned(),
        }
    }
}
