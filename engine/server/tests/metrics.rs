//! What the program says of itself: docs/metrics.md lists every family, and dashboards find what they read.
//!
//! `RINGSCRAPE_WRITE_DOCS=1 cargo test -p ringscrape-server --test metrics` writes the list anew.

mod support;

use std::collections::BTreeMap;
use std::fmt::Write;
use support::{FakeTarget, Ringscrape, job, root, until};

const HEAD: &str = "# Metrics

Every family of `/metrics`, made from a running server by `engine/server/tests/metrics.rs` and checked there. Names that begin with `prometheus_`,
`process_`, `promhttp_` and `net_conntrack_` are Prometheus', with its labels; `thanos_` is Thanos'; `ringscrape_` is ours. Families of a fleet
and of a shipper are there where the configuration has the sections `fleet` and `object_storage`.

| family | type | meaning |
| --- | --- | --- |
";

/// Series that variables and panels of Prometheus' mixin and of widely used dashboards begin with, and labels that they
/// select or group by.
const READ_BY_DASHBOARDS: &[(&str, &[&str])] = &[
    ("prometheus_build_info", &["branch", "goarch", "goos", "goversion", "revision", "tags", "version"]),
    ("prometheus_config_last_reload_successful", &[]),
    ("prometheus_engine_queries", &[]),
    ("prometheus_engine_queries_concurrent_max", &[]),
    ("prometheus_engine_query_duration_seconds", &["quantile", "slice"]),
    ("prometheus_http_requests_total", &["code", "handler"]),
    ("prometheus_http_request_duration_seconds_bucket", &["handler", "le"]),
    ("prometheus_http_response_size_bytes_sum", &["handler"]),
    ("prometheus_notifications_alertmanagers_discovered", &[]),
    ("prometheus_notifications_queue_capacity", &[]),
    ("prometheus_remote_storage_samples_total", &["remote_name", "url"]),
    ("prometheus_remote_storage_samples_dropped_total", &["reason", "remote_name", "url"]),
    ("prometheus_remote_storage_shards_desired", &["remote_name", "url"]),
    ("prometheus_remote_storage_shards_max", &["remote_name", "url"]),
    ("prometheus_remote_storage_shards_min", &["remote_name", "url"]),
    ("prometheus_remote_storage_shard_capacity", &["remote_name", "url"]),
    ("prometheus_remote_storage_enqueue_retries_total", &["remote_name", "url"]),
    ("prometheus_remote_storage_samples_in_total", &[]),
    ("prometheus_rule_evaluations_total", &["rule_group"]),
    ("prometheus_rule_group_rules", &["rule_group"]),
    ("prometheus_rule_group_duration_seconds", &["quantile"]),
    ("prometheus_sd_consul_rpc_duration_seconds", &["call", "endpoint", "quantile"]),
    ("prometheus_sd_discovered_targets", &["config", "name"]),
    ("prometheus_sd_file_scan_duration_seconds", &["quantile"]),
    ("prometheus_sd_kubernetes_events_total", &["event", "role"]),
    ("prometheus_sd_refresh_duration_seconds", &["config", "mechanism", "quantile"]),
    ("prometheus_sd_refresh_failures_total", &["config", "mechanism"]),
    ("prometheus_target_interval_length_seconds", &["interval", "quantile"]),
    ("prometheus_target_sync_length_seconds_sum", &["scrape_job"]),
    ("prometheus_target_sync_failed_total", &["scrape_job"]),
    ("prometheus_target_scrape_pool_exceeded_target_limit_total", &[]),
    ("prometheus_target_scrape_pool_targets", &["scrape_job"]),
    ("prometheus_target_scrapes_sample_out_of_order_total", &[]),
    ("prometheus_tsdb_blocks_loaded", &[]),
    ("prometheus_tsdb_clean_start", &[]),
    ("prometheus_tsdb_compactions_failed_total", &[]),
    ("prometheus_tsdb_head_samples_appended_total", &["type"]),
    ("prometheus_target_metadata_cache_entries", &["scrape_job"]),
    ("prometheus_tsdb_head_series", &[]),
    ("prometheus_tsdb_head_series_created_total", &[]),
    ("prometheus_tsdb_head_series_removed_total", &[]),
    ("prometheus_tsdb_reloads_failures_total", &[]),
    ("process_cpu_seconds_total", &[]),
    ("process_network_receive_bytes_total", &[]),
    ("process_resident_memory_bytes", &[]),
    ("promhttp_metric_handler_requests_total", &["code"]),
    ("net_conntrack_listener_conn_accepted_total", &["listener_name"]),
];

/// A server with every section that has metrics of its own.
fn start() -> Ringscrape {
    let target = FakeTarget::saying("a 1\n");
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    file("rules.yml", "groups: [{name: g, interval: 1s, rules: [{record: r, expr: 'vector(1)'}]}]\n");
    file("targets.json", &format!("[{{\"targets\": [\"{}\"]}}]", target.address));
    file(
        "prometheus.yml",
        &format!(
            "fleet: {{member: one, static_configs: [{{targets: ['127.0.0.1:1'], labels: {{member: one}}}}]}}\n\
             rule_files: [rules.yml]\n\
             alerting: {{alertmanagers: [{{static_configs: [{{targets: ['127.0.0.1:9']}}]}}]}}\n\
             remote_write: [{{url: 'http://127.0.0.1:9/write', name: away}}]\n\
             global: {{external_labels: {{replica: a}}}}\n\
             object_storage: {{type: FILESYSTEM, config: {{directory: bucket}}}}\n\
             scrape_configs:\n{}  - job_name: files\n    file_sd_configs: [{{files: [targets.json]}}]\n",
            job("j", &[target.address], "")
        ),
    );
    let server = Ringscrape::start_in(folder, &["--web.enable-remote-write-receiver"]);
    server.until_ready();
    server
}

/// Family by name: type and help.
fn families(text: &str) -> BTreeMap<&str, (&str, &str)> {
    let mut families: BTreeMap<&str, (&str, &str)> = BTreeMap::new();
    for line in text.lines() {
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) {
            families.entry(name).or_default().1 = help;
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            families.entry(name).or_default().0 = kind;
        }
    }
    families
}

#[test]
fn the_list_of_metrics_is_that_of_the_program() {
    let server = start();
    let text = server.get("/metrics").body;
    let mut list = HEAD.to_owned();
    for (name, (kind, help)) in families(&text) {
        let _ = writeln!(list, "| `{name}` | {kind} | {} |", help.replace('|', "\\|"));
    }
    let path = root().join("docs/metrics.md");
    if std::env::var_os("RINGSCRAPE_WRITE_DOCS").is_some() {
        std::fs::write(&path, &list).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    let missing: Vec<&str> = list.lines().filter(|line| !written.lines().any(|other| other == *line)).collect();
    let extra: Vec<&str> = written.lines().filter(|line| !list.lines().any(|other| other == *line)).collect();
    assert!(
        written == list,
        "docs/metrics.md is not what the program shows; write it anew with RINGSCRAPE_WRITE_DOCS=1\nmissing: \
         {missing:#?}\nno longer there: {extra:#?}"
    );
}

#[test]
fn dashboards_find_what_they_read() {
    let server = start();
    until("a target was scraped twice", || {
        server.get("/metrics").body.contains("prometheus_target_interval_length_seconds_count").then_some(())
    });
    let text = server.get("/metrics").body;
    for (name, labels) in READ_BY_DASHBOARDS {
        let line = text
            .lines()
            .find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with('{') || rest.starts_with(' ')));
        let line = line.unwrap_or_else(|| panic!("{name} is missing"));
        let found: Vec<&str> = match line.split_once('{') {
            None => Vec::new(),
            Some((_, rest)) => {
                rest.rsplit_once('}').unwrap().0.split("\",").map(|label| label.split_once('=').unwrap().0).collect()
            }
        };
        let mut found = found;
        found.sort_unstable();
        assert_eq!(found, *labels, "{line}");
    }
    let names: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
    assert!(names.is_sorted(), "families are sorted by name");
}

#[test]
fn series_that_come_and_go_are_counted_and_metadata_measured() {
    let target =
        FakeTarget::saying("# HELP a Help.\n# TYPE a gauge\na 1\nb 1\n# TYPE c counter\nc{x=\"1\"} 1\nc{x=\"2\"} 1\n");
    let server = Ringscrape::start(&support::config(&[job("j", &[target.address], "")]), &[]);
    let name = |what: &str| format!("prometheus_tsdb_head_series_{what}_total");
    let counts = || Some((server.metric(&name("created"))?, server.metric(&name("removed"))?));
    let metadata = |what: &str| server.metric(&format!("prometheus_target_metadata_cache_{what}{{scrape_job=\"j\"}}"));
    // Five report series are among them.
    until("four series came", || (counts() == Some((9.0, 0.0))).then_some(()));
    assert_eq!(metadata("entries"), Some(2.0));
    assert_eq!(metadata("bytes"), Some(("agaugeHelp.".len() + "ccounter".len()) as f64));
    target.now_says("a 1\nd 1\n");
    until("three went, one came", || (counts() == Some((10.0, 3.0))).then_some(()));
    assert_eq!(metadata("entries"), Some(0.0));
}
