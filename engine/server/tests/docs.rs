//! The manual: links lead somewhere, every page is in the book, alerts have runbooks, claims have tests.

mod support;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use support::root;

/// Files below a folder whose names end so. What git ignores is left out.
fn files(folder: &Path, end: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let Ok(entries) = std::fs::read_dir(folder) else { return found };
    for entry in entries.map(Result::unwrap) {
        let path = entry.path();
        let name = entry.file_name().into_string().unwrap();
        if entry.file_type().unwrap().is_dir() {
            if !["target", ".git", "node_modules", "vendor", "data"].contains(&name.as_str()) {
                found.extend(files(&path, end));
            }
        } else if name.ends_with(end) {
            found.push(path);
        }
    }
    found
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Targets of the links of a text in Markdown, outside of code.
fn links(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut within_code = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            within_code = !within_code;
        }
        if within_code || line.starts_with("    ") {
            continue;
        }
        // Code within a line has no links.
        let plain: String = line.split('`').step_by(2).collect::<Vec<_>>().join("``");
        for part in plain.split("](").skip(1) {
            let end = part.find(')').unwrap_or(part.len());
            found.push(part[..end].to_owned());
        }
    }
    found
}

/// The anchors of a page: its headings as GitHub and mdBook make them.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = text.lines().filter(|line| line.starts_with('#')).map(|line| line.trim_start_matches('#').trim());
    let anchor = |heading: &str| {
        let kept = heading
            .to_lowercase()
            .chars()
            .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
            .collect::<String>();
        kept.replace(' ', "-")
    };
    headings.map(anchor).collect()
}

#[test]
fn links_lead_somewhere() {
    let mut broken = Vec::new();
    let mut count = 0;
    for page in files(root(), ".md") {
        let text = read(&page);
        for link in links(&text) {
            if link.contains("://") || link.starts_with("mailto:") {
                continue;
            }
            count += 1;
            let (path, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let target = if path.is_empty() { page.clone() } else { page.parent().unwrap().join(path) };
            let exists = target.exists();
            let has_anchor =
                anchor.is_empty() || exists && target.is_file() && anchors(&read(&target)).contains(anchor);
            if !exists || !has_anchor {
                broken.push(format!("{}: {link}", page.strip_prefix(root()).unwrap().display()));
            }
        }
    }
    assert!(count > 50, "links are found at all: {count}");
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn every_page_is_in_the_book() {
    let docs = root().join("docs");
    let book: BTreeSet<PathBuf> = links(&read(&docs.join("SUMMARY.md"))).iter().map(|link| docs.join(link)).collect();
    let pages = std::fs::read_dir(&docs).unwrap().map(|entry| entry.unwrap().path());
    let missing: Vec<PathBuf> = pages
        .filter(|page| page.extension().is_some_and(|extension| extension == "md") && !page.ends_with("SUMMARY.md"))
        .filter(|page| !book.contains(page))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn every_alert_has_a_runbook() {
    let runbooks = anchors(&read(&root().join("docs/runbooks.md")));
    let mut alerts = BTreeSet::new();
    for file in ["guardrails.yml", "operations.yml"] {
        let text = read(&root().join("configs/rules").join(file));
        for rule in text.split("- alert: ").skip(1) {
            let name = rule.lines().next().unwrap().trim().to_lowercase();
            assert!(rule.contains(&format!("runbook: docs/runbooks.md#{name}\n")), "{file}: {name} names its runbook");
            assert!(runbooks.contains(&name), "{name} has a section in docs/runbooks.md");
            alerts.insert(name);
        }
    }
    assert!(alerts.len() >= 28);
    let unknown: Vec<&String> = runbooks.iter().filter(|name| *name != "runbooks" && !alerts.contains(*name)).collect();
    assert!(unknown.is_empty(), "sections without an alert: {unknown:?}");
}

/// Every name in the second column of a table of docs/security.md is a test.
#[test]
fn every_claim_has_its_test() {
    let mut sources = String::new();
    for folder in ["engine", "storage"] {
        files(&root().join(folder), ".rs").iter().for_each(|file| sources.push_str(&read(file)));
    }
    let text = read(&root().join("docs/security.md"));
    let mut count = 0;
    for row in text.lines().filter(|line| line.starts_with("| ") && line.matches(" | ").count() == 1) {
        let column = row.rsplit(" | ").next().unwrap();
        for name in column.split('`').skip(1).step_by(2) {
            if name.len() < 16 || !name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_') {
                continue;
            }
            assert!(sources.contains(&format!("fn {name}(")), "docs/security.md names {name}, which is no test");
            count += 1;
        }
    }
    assert!(count > 30, "claims are found at all: {count}");
}
