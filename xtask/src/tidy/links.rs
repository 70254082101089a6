//! Relative links in Markdown lead to files that exist, and their anchors to headings that exist.

use std::collections::BTreeMap;

use super::{Finding, TextFile};

pub(crate) fn check(files: &[TextFile], exists: &dyn Fn(&str) -> bool) -> Vec<Finding> {
    let pages: BTreeMap<&str, &TextFile> = files
        .iter()
        .filter(|file| file.path.ends_with(".md"))
        .map(|file| (file.path.as_str(), file))
        .collect();
    let mut findings = Vec::new();
    for page in pages.values() {
        for (index, line) in prose(&page.text) {
            for target in targets(&line) {
                if let Some(what) = broken(page, target, &pages, exists) {
                    findings.push(Finding::at(page, index, what));
                }
            }
        }
    }
    findings
}

fn broken(
    page: &TextFile,
    target: &str,
    pages: &BTreeMap<&str, &TextFile>,
    exists: &dyn Fn(&str) -> bool,
) -> Option<String> {
    if target.contains("://") || target.starts_with("mailto:") {
        return None;
    }
    let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
    let path = if path.is_empty() {
        page.path.clone()
    } else {
        resolve(&page.path, path)?
    };
    if !exists(&path) {
        return Some(format!("the link {target} leads nowhere"));
    }
    let missing = !anchor.is_empty()
        && pages.get(path.as_str()).is_some_and(|page| {
            prose(&page.text)
                .iter()
                .all(|(_, line)| heading_anchor(line).as_deref() != Some(anchor))
        });
    missing.then(|| format!("the link {target} names no heading of {path}"))
}

/// `target` as seen from the directory of `from`. `None` when it leaves the tree: nothing to check there.
fn resolve(from: &str, target: &str) -> Option<String> {
    let mut parts: Vec<&str> = if target.starts_with('/') {
        Vec::new()
    } else {
        from.rsplit_once('/')
            .map_or(Vec::new(), |(directory, _)| directory.split('/').collect())
    };
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            name => parts.push(name),
        }
    }
    Some(parts.join("/"))
}

/// The lines outside of code blocks, without inline code.
fn prose(text: &str) -> Vec<(usize, String)> {
    let mut fenced = false;
    let mut lines = Vec::new();
    for (index, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if !fenced {
            lines.push((index, line.to_owned()));
        }
    }
    lines
}

fn targets(line: &str) -> Vec<&str> {
    let mut found = Vec::new();
    for (piece_index, piece) in line.split('`').enumerate() {
        // Link texts may hold code, so only a link whose target is outside of it counts.
        if piece_index % 2 == 0 {
            for (at, _) in piece.match_indices("](") {
                let rest = piece.get(at + 2..).unwrap_or_default();
                let target = rest.split(')').next().unwrap_or_default();
                let target = target.split_whitespace().next().unwrap_or_default();
                if !target.is_empty() {
                    found.push(target);
                }
            }
        }
    }
    found
}

/// The anchor that hosting sites give a heading.
fn heading_anchor(line: &str) -> Option<String> {
    let title = line
        .strip_prefix('#')?
        .trim_start_matches('#')
        .strip_prefix(' ')?
        .trim();
    let mut anchor = String::new();
    for c in title.chars().flat_map(char::to_lowercase) {
        match c {
            ' ' => anchor.push('-'),
            '-' | '_' => anchor.push(c),
            c if c.is_alphanumeric() => anchor.push(c),
            _ => {}
        }
    }
    Some(anchor)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::fixture::file;

    fn findings(text: &str) -> Vec<Finding> {
        let files = [
            file("docs/a.md", text),
            file("README.md", "# Try it: by hand\n"),
            file("docs/b.md", ""),
        ];
        let paths: Vec<String> = files.iter().map(|file| file.path.clone()).collect();
        check(&files, &|path| {
            paths.iter().any(|known| known == path || path == "docs")
        })
    }

    #[test]
    fn good_links_pass() {
        let text = "# Here\n[x](b.md) [y](../README.md#try-it-by-hand) [z](#here) [w](https://a.example/x)\n\
                    [`code`](b.md) `[not](a-link.md)`\n```\n[not](a-link.md)\n```\n[up](../docs)";
        assert_eq!(findings(text), []);
    }

    #[test]
    fn broken_links_are_found() {
        for bad in [
            "[x](c.md)",
            "[x](../README.md#gone)",
            "[x](#gone)",
            "[`x`](gone/d.rs)",
        ] {
            assert_eq!(findings(bad).len(), 1, "{bad}");
        }
    }
}
