//! Which of our crates may import which, as `tidy.toml` says after the design, checked against every `Cargo.toml`.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::{Finding, TextFile};

/// The allowed edges, by directory name of the crate.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rules {
    /// Crate to what it may import of ours.
    allowed: BTreeMap<String, BTreeSet<String>>,
    /// Processes: none of them may import another one, not even in its tests.
    roles: BTreeSet<String>,
}

pub(crate) fn check(rules: &Rules, files: &[TextFile]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let manifests: BTreeMap<&str, &TextFile> = files
        .iter()
        .filter_map(|file| Some((file.path.strip_suffix("/Cargo.toml")?, file)))
        .filter(|(name, _)| !name.contains('/') && *name != "fuzz")
        .collect();
    let mut packages = BTreeMap::new();
    let mut parsed = Vec::new();
    for (directory, file) in manifests {
        match file.text.parse::<toml::Table>() {
            Ok(manifest) => {
                if let Some(name) = package_name(&manifest) {
                    packages.insert(name.to_owned(), directory);
                }
                parsed.push((directory, file, manifest));
            }
            Err(error) => findings.push(Finding::new(&file.path, error.to_string())),
        }
    }
    for (directory, file, manifest) in &parsed {
        let Some(allowed) = rules.allowed.get(*directory) else {
            let what = "this crate has no line in tidy.toml [imports.allowed]";
            findings.push(Finding::new(&file.path, what));
            continue;
        };
        for (section, name) in dependencies(manifest) {
            let Some(imported) = packages.get(name.as_str()).copied() else {
                continue;
            };
            let between_roles = rules.roles.contains(*directory) && rules.roles.contains(imported);
            let permitted = match section {
                "dev-dependencies" => !between_roles,
                _ => allowed.contains(imported),
            };
            if !permitted {
                let what = format!("{directory} must not import {imported} ([{section}] {name})");
                findings.push(Finding::new(&file.path, what));
            }
        }
    }
    findings
}

fn package_name(manifest: &toml::Table) -> Option<&str> {
    manifest.get("package")?.get("name")?.as_str()
}

/// Section and package name of every dependency, in target tables too; renames are seen through.
fn dependencies(manifest: &toml::Table) -> Vec<(&'static str, String)> {
    let mut found = Vec::new();
    let targets = manifest.get("target").and_then(toml::Value::as_table);
    let tables = targets
        .into_iter()
        .flat_map(toml::Table::values)
        .filter_map(toml::Value::as_table);
    for table in tables.chain([manifest]) {
        for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
            let Some(entries) = table.get(section).and_then(toml::Value::as_table) else {
                continue;
            };
            for (key, entry) in entries {
                let renamed = entry.get("package").and_then(toml::Value::as_str);
                found.push((section, renamed.unwrap_or(key).to_owned()));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::fixture::file;

    fn rules() -> Rules {
        toml::from_str(
            "roles = ['gateway', 'proxy']\n[allowed]\napi = []\ngateway = ['api']\nproxy = ['api']\n",
        )
        .unwrap()
    }

    fn tree(gateway: &str) -> Vec<TextFile> {
        vec![
            file("api/Cargo.toml", "[package]\nname = 'tradewind-api'\n"),
            file("proxy/Cargo.toml", "[package]\nname = 'tradewind-proxy'\n"),
            file("gateway/Cargo.toml", gateway),
        ]
    }

    #[test]
    fn an_allowed_import_passes() {
        let files = tree(
            "[package]\nname = 'tradewind-gateway'\n[dependencies]\ntradewind-api.workspace = true\nserde = '1'",
        );
        assert_eq!(check(&rules(), &files), []);
    }

    #[test]
    fn a_forbidden_import_is_found_however_it_is_written() {
        for dependency in [
            "[dependencies]\ntradewind-proxy.workspace = true",
            "[dependencies]\nother = { package = 'tradewind-proxy', path = '../proxy' }",
            "[dev-dependencies]\ntradewind-proxy.workspace = true",
            "[build-dependencies]\ntradewind-proxy.workspace = true",
            "[target.'cfg(unix)'.dependencies]\ntradewind-proxy.workspace = true",
        ] {
            let files = tree(&format!(
                "[package]\nname = 'tradewind-gateway'\n{dependency}"
            ));
            let findings = check(&rules(), &files);
            assert_eq!(findings.len(), 1, "{dependency}");
            assert!(
                findings[0].what.contains("gateway must not import proxy"),
                "{dependency}"
            );
        }
    }

    #[test]
    fn a_crate_without_a_rule_is_found() {
        let files = vec![file("stray/Cargo.toml", "[package]\nname = 'stray'\n")];
        assert_eq!(check(&rules(), &files).len(), 1);
    }
}
