//! The log of queries, `query_log_file`.

mod support;

use serde_json::{Value, json};
use std::path::Path;
use support::{FakeTarget, Ringscrape, config, encode, job, until};

fn config_with_log(target: &FakeTarget, log: &Path) -> String {
    let jobs = config(&[job("j", &[target.address], "")]);
    let log = log.display();
    format!("global: {{query_log_file: '{log}', evaluation_interval: 1s}}\nrule_files: ['rules.yml']\n{jobs}")
}

/// The lines of a log whose expression contains `expr`.
fn lines(file: &Path, expr: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let all = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    all.filter(|line| line["params"]["query"].as_str().unwrap().contains(expr)).collect()
}

const RULES: &str = "groups:\n- name: g\n  rules: [{record: a:sum, expr: sum(a)}]\n";

#[test]
fn queries_are_logged_as_prometheus_logs_them() {
    let target = FakeTarget::saying("a 1\n");
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("rules.yml"), RULES).unwrap();
    let log = folder.path().join("queries.log");
    std::fs::write(folder.path().join("prometheus.yml"), config_with_log(&target, &log)).unwrap();
    let server = Ringscrape::start_in(folder, &[]);
    server.until_ready();
    server.get("/api/v1/query?query=a%2B1&time=1700000000.5");
    server.get("/api/v1/query_range?query=a%2B2&start=1700000000&end=1700000090&step=30");
    server.get(&format!(
        "/api/v1/query?query={}",
        encode("(vector(1) or label_replace(vector(3), \"x\", \"y\", \"\", \"\")) * on() vector(1)")
    ));
    let instant = until("the instant query is logged", || lines(&log, "a+1").pop());
    assert_eq!(
        instant["params"],
        json!({"query": "a+1", "start": "2023-11-14T22:13:20.500Z", "end": "2023-11-14T22:13:20.500Z", "step": 0})
    );
    assert_eq!(instant["httpRequest"], json!({"clientIP": "127.0.0.1", "method": "GET", "path": "/api/v1/query"}));
    assert_eq!((&instant["level"], &instant["msg"]), (&json!("INFO"), &json!("promql query logged")));
    assert!(instant["stats"]["timings"]["execTotalTime"].as_f64().unwrap() > 0.0, "{instant}");
    assert!(instant["stats"]["samples"]["totalQueryableSamples"].is_u64(), "{instant}");
    let range = until("the range query is logged", || lines(&log, "a+2").pop());
    let end = json!("2023-11-14T22:14:50.000Z");
    assert_eq!((&range["params"]["end"], &range["params"]["step"]), (&end, &json!(30)));
    let failed = until("the failed query is logged", || lines(&log, "vector(3)").pop());
    assert!(failed["error"].as_str().unwrap().contains("many-to-one"), "{failed}");
    assert!(failed["stats"].is_null(), "{failed}");
    let rule = until("the rule is logged", || lines(&log, "sum(a)").pop());
    assert_eq!(rule["ruleGroup"]["name"], "g");
    assert!(rule["ruleGroup"]["file"].as_str().unwrap().ends_with("rules.yml"), "{rule}");
    assert_eq!(server.metric("prometheus_engine_query_log_enabled"), Some(1.0));
    assert_eq!(server.metric("prometheus_engine_query_log_failures_total"), Some(0.0));

    // Moved away and reloaded, as logrotate does.
    let old = log.with_extension("old");
    std::fs::rename(&log, &old).unwrap();
    assert_eq!(server.post("/-/reload").status, 403, "by signal only");
    server.signal(1);
    until("a new file is begun", || lines(&log, "sum(a)").pop());
}

/// A pipe that nobody reads holds up neither the start nor a query.
#[test]
fn a_pipe_as_log_costs_its_lines_only() {
    let target = FakeTarget::saying("a 1\n");
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("rules.yml"), RULES).unwrap();
    let log = folder.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&log).status().unwrap().success());
    std::fs::write(folder.path().join("prometheus.yml"), config_with_log(&target, &log)).unwrap();
    let server = Ringscrape::start_in(folder, &[]);
    server.until_ready();
    assert_eq!(server.get("/api/v1/query?query=1").status, 200);
    until("lost lines are counted", || {
        server.metric("prometheus_engine_query_log_failures_total").filter(|lost| *lost > 0.0)
    });
    assert!(server.log().contains("the log of queries cannot be opened"), "{}", server.log());
}
