//! Checks the structure of the code: crates by level (here), module cycles (`modules`), names (`words`).
//!
//! The map in ARCHITECTURE.md holds: a crate depends only on crates of a lower level.

mod modules;
mod source;
mod words;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

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
    ("shipper", "engine/shipper", 5),
    ("fetch", "engine/fetch", 5),
    ("shard", "engine/shard", 6),
    ("query", "engine/query", 7),
    ("rules", "engine/rules", 7),
    ("api", "engine/api", 8),
    ("server", "engine/server", 9),
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

/// Folders of all crates of the workspace, relative to the repository.
fn crate_folders() -> Vec<String> {
    let workspace = std::fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let members = workspace.split_once("members = [").expect("the workspace lists its members").1;
    let members = members.split_once(']').expect("the list ends").0;
    members.lines().filter_map(|line| Some(line.trim().strip_prefix('"')?.split_once('"')?.0.to_owned())).collect()
}

/// Files at which a crate begins: its library and its programs.
fn crate_roots(folder: &str) -> Vec<PathBuf> {
    let source = root().join(folder).join("src");
    let mut roots = vec![source.join("lib.rs"), source.join("main.rs")];
    for entry in std::fs::read_dir(&source).unwrap().map(Result::unwrap) {
        roots.push(entry.path().join("main.rs"));
    }
    if let Ok(programs) = std::fs::read_dir(source.join("bin")) {
        roots.extend(programs.map(|entry| entry.unwrap().path()));
    }
    roots.retain(|path| path.is_file());
    roots.sort();
    assert!(!roots.is_empty(), "{folder} has no crate root");
    roots
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
    for member in crate_folders() {
        let has_level = LEVELS.iter().any(|(_, folder, _)| *folder == member);
        assert!(has_level || ["bench-harness", "perf"].contains(&member.as_str()), "{member} has no level");
    }
}

/// The map stays true when files move.
#[test]
fn files_that_the_map_names_exist() {
    for page in ["ARCHITECTURE.md", "CONTRIBUTING.md", "vendor/README.md"] {
        let text = std::fs::read_to_string(root().join(page)).unwrap();
        let named = text.split('`').skip(1).step_by(2).filter(|name| name.contains('/') && name.ends_with(".rs"));
        let base = if page.starts_with("vendor") { "vendor/glommio" } else { "" };
        let missing: Vec<_> = named.filter(|name| !root().join(base).join(name).is_file()).collect();
        // The patch of glommio removes one file and says so.
        let missing: Vec<_> = missing.into_iter().filter(|name| *name != "src/sys/membarrier.rs").collect();
        assert!(missing.is_empty(), "{page} names files that do not exist: {missing:?}");
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
