//! The dashboards: those of the script that makes them, with queries that can be read over metrics that exist.

mod support;

use serde_json::Value;
use std::collections::BTreeSet;
use std::process::Command;
use support::{Ringscrape, config, encode, free, job, root, until};

/// Every panel of every dashboard: file, title, expression.
fn queries() -> Vec<(String, String, String)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(root().join("configs/dashboards")).unwrap() {
        let path = entry.unwrap().path();
        let file = path.file_name().unwrap().to_string_lossy().into_owned();
        let board: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        for panel in board["panels"].as_array().unwrap() {
            for target in panel["targets"].as_array().into_iter().flatten() {
                let text = |value: &Value| value.as_str().unwrap().to_owned();
                found.push((file.clone(), text(&panel["title"]), text(&target["expr"])));
            }
        }
    }
    found
}

#[test]
fn dashboards_are_those_of_the_script() {
    let folder = tempfile::tempdir().unwrap();
    let made = Command::new("python3").arg(root().join("scripts/dashboards")).arg(folder.path()).status().unwrap();
    assert!(made.success());
    let names = |folder: &std::path::Path| {
        let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
        entries.collect::<BTreeSet<_>>()
    };
    let kept = root().join("configs/dashboards");
    assert_eq!(names(folder.path()), names(&kept));
    for name in names(&kept) {
        let (made, kept) = (folder.path().join(&name), kept.join(&name));
        assert!(std::fs::read(made).unwrap() == std::fs::read(kept).unwrap(), "{name:?}: run scripts/dashboards");
    }
}

/// Names of the metrics in a tree of `parse_query`.
fn metrics(tree: &Value, found: &mut BTreeSet<String>) {
    match tree {
        Value::Object(fields) => {
            if matches!(fields.get("type").and_then(Value::as_str), Some("vectorSelector" | "matrixSelector")) {
                found.extend(fields.get("name").and_then(Value::as_str).map(str::to_owned));
            }
            fields.values().for_each(|value| metrics(value, found));
        }
        Value::Array(items) => items.iter().for_each(|item| metrics(item, found)),
        _ => {}
    }
}

/// The server scrapes itself and answers the queries of all panels, as Grafana sends them.
#[test]
fn every_panel_can_be_drawn() {
    let documented = std::fs::read_to_string(root().join("docs/metrics.md")).unwrap();
    let exists = |name: &str| {
        let family = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
        name == "up" || [name, family].iter().any(|name| documented.contains(&format!("| `{name}` |")))
    };
    let own = free("127.0.0.1");
    let text = config(&[job("ringscrape", &[own], "")]);
    let server = Ringscrape::start(&text, &[&format!("--web.listen-address={own}")]);
    until("it has scraped itself", || server.value("up"));
    let all = queries();
    assert!(all.len() > 60, "{}", all.len());
    for (file, title, expr) in all {
        let expr = expr.replace("$job", "ringscrape").replace("$instance", ".*").replace("$__rate_interval", "1m");
        let tree = server.api(&format!("/api/v1/parse_query?query={}", encode(&expr)));
        let mut names = BTreeSet::new();
        metrics(&tree, &mut names);
        assert!(!names.is_empty(), "{file}: {title}: {expr}");
        names.iter().for_each(|name| assert!(exists(name), "{file}: {title}: there is no metric {name}"));
        let answer = server.get(&format!("/api/v1/query?query={}", encode(&expr)));
        assert_eq!(answer.status, 200, "{file}: {title}: {}", answer.body);
    }
}
