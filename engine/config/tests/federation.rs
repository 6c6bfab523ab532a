//! The section `federation`, and the mistakes that are warned of.

use std::path::{Path, PathBuf};

fn load(name: &str, yaml: &str) -> config::Config {
    config::parse_config(Path::new(name), yaml, &config::Env::process()).unwrap()
}

/// Each of `want` is in a warning of its own, and there are no others.
#[track_caller]
fn check(yaml: &str, want: &[&str]) {
    let warnings = load("prometheus.yml", yaml).lint();
    assert_eq!(warnings.len(), want.len(), "{yaml}: {warnings:#?}");
    for (warning, want) in warnings.iter().zip(want) {
        assert!(warning.contains(want), "{warning:?} does not say {want:?}");
    }
}

fn job(fields: &str) -> String {
    let good = [("honor_labels", "honor_labels: true"), ("params", "params: {'match[]': ['{__name__=~\"job:.*\"}']}")];
    let rest = good.iter().filter(|(name, _)| !fields.contains(name)).map(|(_, line)| format!("    {line}\n"));
    let rest: String = rest.collect();
    format!("scrape_configs:\n  - job_name: hub\n    metrics_path: /federate\n    {fields}\n{rest}")
}

#[test]
fn known_mistakes_are_warned_of() {
    check("", &[]);
    check("scrape_configs: [{job_name: plain}]", &[]);
    check(&job(""), &[]);
    check(&job("honor_labels: false"), &["exported_job"]);
    check(&job("params: {}"), &["without match[]"]);
    check(&job("honor_timestamps: false"), &["honor_timestamps"]);
    for all in ["{__name__=~\".+\"}", "{__name__!=\"\"}", "{job=~\".+\"}", "{__name__=~\"[a-zA-Z0-9_:]+\"}"] {
        check(&job(&format!("params: {{'match[]': ['{all}']}}")), &["asks for every series"]);
    }
    for some in ["{__name__=~\"job:.*\"}", "{job=\"a\"}", "up", "{severity=\"critical\"}", "{zone!=\"\"}"] {
        check(&job(&format!("params: {{'match[]': ['{some}']}}")), &[]);
    }
    check(&job("params: {'match[]': ['up{']}"), &["is refused"]);
    check(&job("scrape_interval: 30s"), &["every 30s, the evaluation_interval here is 1m"]);
    check("federation: {}", &["without global.external_labels"]);
    check("federation: {series_max: 1}\nglobal: {external_labels: {a: b}}", &[]);
}

#[test]
fn a_hub_is_compared_with_its_edges() {
    let hub = load("hub.yml", &(job("") + "global: {scrape_interval: 15s, evaluation_interval: 15s}\n"));
    let edge = load("edge.yml", "rule_files: [r.yml]\n");
    let warnings = hub.lint_with_edge(&edge);
    assert_eq!(warnings.len(), 2, "{warnings:#?}");
    assert!(warnings[0].contains("every 15s, the evaluation_interval in") && warnings[0].contains("edge.yml is 1m"));
    assert!(warnings[1].contains("no global.external_labels"));
    assert_eq!(edge.lint_with_edge(&hub), Vec::<String>::new());
    assert_eq!(hub.lint_with_edge(&hub), Vec::<String>::new());
}

#[test]
fn guards_are_read_and_printed() {
    let yaml = "federation: {allow: ['{a=~\"b.*\"}'], series_max: 7}\n";
    let config = load("prometheus.yml", yaml);
    let guards = config.federation.as_ref().unwrap();
    assert_eq!((guards.series_max, guards.concurrent_max, guards.refuse_catch_all), (7, 0, false));
    assert!(guards.allow[0].matchers[0].matches("bcd"));
    assert_eq!(load("prometheus.yml", &config.to_yaml()), config);
    let bad = config::parse_config("p.yml".as_ref(), "federation: {deny: ['{a=']}", &config::Env::process());
    assert!(bad.unwrap_err().to_string().contains("federation.deny[0]: not a selector"));
}

#[test]
fn examples_load_without_a_warning() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs/federation");
    let files: Vec<PathBuf> = ["edge-us-east.yml", "edge-ap-south.yml", "hub.yml"].map(|name| folder.join(name)).into();
    let load = |file: &PathBuf| config::load(file, &config::Env::process()).unwrap_or_else(|error| panic!("{error}"));
    let all: Vec<config::Config> = files.iter().map(load).collect();
    for (file, config) in files.iter().zip(&all) {
        assert_eq!(config.lint(), Vec::<String>::new(), "{}", file.display());
    }
    for hub in &all {
        for edge in &all {
            assert_eq!(hub.lint_with_edge(edge), Vec::<String>::new());
        }
    }
}
