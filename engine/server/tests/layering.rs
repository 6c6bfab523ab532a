//! The map in ARCHITECTURE.md holds: a crate depends only on crates of a lower level.

use std::collections::BTreeMap;
use std::path::Path;

/// Crate, its folder, its level. A new crate gets its line here and in ARCHITECTURE.md.
const LEVELS: &[(&str, &str, u32)] = &[
    ("series", "storage/series", 0),
    ("blocks", "storage/blocks", 1),
    ("exposition", "engine/exposition", 1),
    ("promql", "engine/promql", 1),
    ("relabel", "engine/relabel", 1),
    ("template", "engine/template", 1),
    ("remote", "engine/remote", 2),
    ("tsdb", "storage/tsdb", 2),
    ("config", "engine/config", 2),
    ("client", "engine/client", 3),
    ("fleet", "engine/fleet", 3),
    ("targets", "engine/targets", 4),
    ("notifier", "engine/notifier", 5),
    ("remote_write", "engine/remote_write", 5),
    ("shard", "engine/shard", 5),
    ("rules", "engine/rules", 6),
    ("api", "engine/api", 7),
    ("server", "engine/server", 8),
];

/// Names in the `[dependencies]`, `[dev-dependencies]` and `[build-dependencies]` tables of a manifest.
fn dependencies(manifest: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut within = false;
    for line in manifest.lines() {
        if let Some(table) = line.trim().strip_prefix('[') {
            within = table.ends_with("dependencies]");
        } else if within && let Some((name, _)) = line.split_once('=') {
            names.push(name.trim().trim_end_matches(".workspace").to_owned());
        }
    }
    names
}

fn violations(levels: &[(&str, &str, u32)], read: impl Fn(&str) -> String) -> Vec<String> {
    let level_of: BTreeMap<_, _> = levels.iter().map(|(name, _, level)| (*name, *level)).collect();
    let mut found = Vec::new();
    for (name, folder, level) in levels {
        for dependency in dependencies(&read(folder)) {
            if level_of.get(dependency.as_str()).is_some_and(|other| other >= level) {
                found.push(format!("{name} (level {level}) depends on {dependency}"));
            }
        }
    }
    found
}

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

fn manifest(folder: &str) -> String {
    std::fs::read_to_string(root().join(folder).join("Cargo.toml")).unwrap()
}

#[test]
fn crates_depend_only_on_lower_levels() {
    assert_eq!(violations(LEVELS, manifest), Vec::<String>::new());
}

#[test]
fn harness_knows_the_product_only_as_a_program() {
    let known = dependencies(&manifest("bench-harness"));
    assert!(!known.is_empty());
    assert!(!known.iter().any(|name| LEVELS.iter().any(|(crate_name, ..)| crate_name == name)), "{known:?}");
}

#[test]
fn every_crate_of_the_workspace_has_a_level() {
    let workspace = std::fs::read_to_string(root().join("Cargo.toml")).unwrap();
    for folder in ["storage/", "engine/"] {
        for line in workspace.lines().filter(|line| line.trim().starts_with(&format!("\"{folder}"))) {
            let member = line.trim().trim_matches(['"', ',']);
            assert!(LEVELS.iter().any(|(_, folder, _)| *folder == member), "{member} has no level");
        }
    }
}

#[test]
fn upward_dependency_is_found() {
    let manifest = |folder: &str| match folder {
        "a" => "[dependencies]\nb.workspace = true\n".to_owned(),
        _ => "[dev-dependencies]\nserde = \"1\"\n".to_owned(),
    };
    let found = violations(&[("a", "a", 1), ("b", "b", 2)], manifest);
    assert_eq!(found, ["a (level 1) depends on b"]);
}
