//! What users build on, written down: families of `/metrics`, fields of answers of the API, flags. A line of a file in
//! `golden/` that is no longer true is a defect or a change that CHANGELOG.md announces. New families, fields and flags pass:
//! an addition breaks nobody.
//!
//! `RINGSCRAPE_GOLDEN=write cargo test -p ringscrape-server --test golden` writes the files anew.

mod support;

use serde_json::Value;
use std::collections::BTreeSet;
use support::{FakeTarget, Ringscrape, encode, free, job, root, until};

const PAYLOAD: &str = "# HELP requests_total Requests so far.
# TYPE requests_total counter
requests_total{code=\"200\"} 3
requests_total{code=\"500\"} 0
# HELP temperature In degrees.
# TYPE temperature gauge
temperature 21.5
";

const RULES: &str = "groups:
- name: golden
  rules:
  - {record: 'code:requests:sum', expr: sum by (code) (requests_total), labels: {kind: own}}
  - {alert: Warm, expr: temperature > 20, labels: {severity: page}, annotations: {summary: '{{ $value }} degrees'}}
  - {alert: Cold, expr: temperature < 0, for: 5m, keep_firing_for: 1m}
";

/// A server with one target, rules, an Alertmanager and an endpoint of remote write that do not exist.
struct Example {
    server: Ringscrape,
    /// Serves for as long as the server runs.
    _target: FakeTarget,
}

impl Example {
    /// Returns once the target is scraped and the rules are evaluated.
    fn start() -> Example {
        let target = FakeTarget::saying(PAYLOAD);
        let nobody = free("127.0.0.1");
        let folder = tempfile::tempdir().unwrap();
        let config = format!(
            "global: {{evaluation_interval: 200ms, external_labels: {{region: eu}}}}\n\
             rule_files: [rules.yml]\n\
             alerting: {{alertmanagers: [{{static_configs: [{{targets: ['{nobody}']}}]}}]}}\n\
             remote_write: [{{url: 'http://{nobody}/write', name: nowhere}}]\n\
             scrape_configs:\n{}",
            job("web", &[target.address], "basic_auth: {username: u, password: geheim}")
        );
        std::fs::write(folder.path().join("prometheus.yml"), config).unwrap();
        std::fs::write(folder.path().join("rules.yml"), RULES).unwrap();
        let server = Ringscrape::start_in(folder, &[]);
        server.until_ready();
        let count = |query: &str| {
            let path = format!("/api/v1/query?query={}", encode(query));
            server.api(&path)["result"].as_array().map_or(0, Vec::len)
        };
        until("rules are evaluated", || (count("code:requests:sum") == 2 && count("ALERTS") == 1).then_some(()));
        let shows_alert = || server.get("/api/v1/rules").body.contains("\"activeAt\"");
        until("the alert is shown", || shows_alert().then_some(()));
        let refused = |name: &str| server.get("/metrics").body.lines().any(|line| line.starts_with(name));
        until("a notification failed", || refused("prometheus_notifications_errors_total").then_some(()));
        Example { server, _target: target }
    }
}

/// Checks that every line of a file of `golden/` is among `lines`, or writes the file.
#[track_caller]
fn check(name: &str, lines: &BTreeSet<String>) {
    let path = root().join("engine/server/tests/golden").join(name);
    if std::env::var_os("RINGSCRAPE_GOLDEN").is_some_and(|value| value == "write") {
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        std::fs::write(&path, text).unwrap();
        return;
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert!(!golden.is_empty(), "golden/{name} is empty");
    let missing: Vec<_> = golden.lines().filter(|line| !lines.contains(*line)).collect();
    assert!(
        missing.is_empty(),
        "golden/{name} has lines that are no longer true. If that is meant, announce it in CHANGELOG.md and write the file \
         anew (RINGSCRAPE_GOLDEN=write): {missing:#?}"
    );
}

/// Names and types. Texts of HELP may be improved, but each family has one.
#[test]
fn families_of_metrics() {
    let example = Example::start();
    let body = example.server.get("/metrics").body;
    let helped: BTreeSet<&str> = body
        .lines()
        .filter_map(|line| line.strip_prefix("# HELP ")?.split_once(' '))
        .filter(|(_, help)| !help.is_empty())
        .map(|(name, _)| name)
        .collect();
    let families: BTreeSet<String> =
        body.lines().filter_map(|line| line.strip_prefix("# TYPE ")).map(str::to_owned).collect();
    for family in &families {
        assert!(helped.contains(family.split(' ').next().unwrap()), "{family} has no help");
    }
    check("metrics.txt", &families);
}

/// Adds a line for each field of a value: its path and its type. Items of a list share a path.
fn add_fields(path: &str, value: &Value, lines: &mut BTreeSet<String>) {
    let kind = match value {
        Value::Object(fields) => {
            fields.iter().for_each(|(name, field)| add_fields(&format!("{path}.{name}"), field, lines));
            "object"
        }
        Value::Array(items) => {
            items.iter().for_each(|item| add_fields(&format!("{path}[]"), item, lines));
            "array"
        }
        Value::String(_) => "string",
        Value::Number(_) => "number",
        Value::Bool(_) => "bool",
        Value::Null => "null",
    };
    lines.insert(format!("{path}: {kind}"));
}

const REQUESTS: &[&str] = &[
    "/api/v1/targets",
    "/api/v1/targets?state=dropped",
    "/api/v1/targets/metadata",
    "/api/v1/targets/metadata?metric=temperature&limit=1",
    "/api/v1/targets/relabel_steps?scrapePool=web&labels=%7B%22a%22%3A%22b%22%7D",
    "/api/v1/scrape_pools",
    "/api/v1/scrape_pools/config?scrapePool=web",
    "/api/v1/metadata",
    "/api/v1/metadata?metric=requests_total",
    "/api/v1/rules",
    "/api/v1/rules?type=record",
    "/api/v1/rules?exclude_alerts=true&rule_name[]=Warm",
    "/api/v1/alerts",
    "/api/v1/alertmanagers",
    "/api/v1/labels",
    "/api/v1/labels?match[]=temperature",
    "/api/v1/label/code/values",
    "/api/v1/label/nothing/values",
    "/api/v1/series?match[]=requests_total",
    "/api/v1/status/config",
    "/api/v1/status/walreplay",
    "/api/v1/status/fleet",
    "/api/v1/status/runtimeinfo",
    "/api/v1/status/tsdb",
    "/api/v1/status/tsdb/blocks",
    "/api/v1/ringscrape/status/blocks",
    "/api/v1/status/buildinfo",
    "/api/v1/features",
    "/api/v1/query?query=vector(1)&time=5.123",
    "/api/v1/query?query=1%2F0&time=5",
    "/api/v1/query?query=%22text%22&time=5",
    "/api/v1/query?query=nothing&time=5",
    "/api/v1/query?query=nothing[5m]&time=5",
    "/api/v1/query?query=rate(nothing[5m])%20%2B%20quantile(2,vector(1))&time=5",
    "/api/v1/query_range?query=vector(1)&start=0&end=30&step=15",
    "/api/v1/query_range?query=time()&start=0&end=30&step=15s",
    "/api/v1/query_exemplars?query=nothing&start=0&end=1",
    "/api/v1/format_query?query=sum(rate(a[5m]))by(b)",
    "/api/v1/parse_query?query=sum(rate(a%7Bb%3D%22c%22%7D[5m]))by(b)",
    // Refusals.
    "/api/v1/query",
    "/api/v1/query?query=up%7B",
    "/api/v1/query?query=sum(1)",
    "/api/v1/query?query=up&time=x",
    "/api/v1/query?query=up&timeout=x",
    "/api/v1/query_range?query=up&start=5&end=4&step=1",
    "/api/v1/query_range?query=up&start=0&end=1&step=0",
    "/api/v1/query_range?query=up&start=0&end=11001&step=1",
    "/api/v1/series",
    "/api/v1/series?match[]=%7B%7D",
    "/api/v1/labels?start=x",
    "/api/v1/label/%00/values",
    "/api/v1/metadata?limit=x",
    "/api/v1/targets/metadata?match_target=%7B",
    "/api/v1/scrape_pools/config?scrapePool=none",
    "/api/v1/status/tsdb?limit=0",
    "/api/v1/rules?type=x",
    "/api/v1/nothing",
];

/// Status, kind of error, and fields with their types.
#[test]
fn answers_of_the_api() {
    let example = Example::start();
    let mut lines = BTreeSet::new();
    for path in REQUESTS {
        let answer = example.server.get(path);
        let json: Value = serde_json::from_str(&answer.body).unwrap_or_else(|error| {
            panic!("{path}: {error}: {}", answer.body);
        });
        lines.insert(format!("{path} {} {}", answer.status, json["errorType"].as_str().unwrap_or("")));
        add_fields(path, &json, &mut lines);
    }
    check("api.txt", &lines);
}

/// Names of flags.
#[test]
fn flags() {
    let example = Example::start();
    let flags = example.server.api("/api/v1/status/flags");
    check("flags.txt", &flags.as_object().unwrap().keys().cloned().collect());
}
