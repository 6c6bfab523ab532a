//! What agent mode refuses of a configuration.

use config::{Env, load, load_for_agent};

#[track_caller]
fn check(text: &str, want: Option<&str>) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("prometheus.yml");
    std::fs::write(&file, text).unwrap();
    load(&file, &Env::default()).expect("good for a server");
    let found = load_for_agent(&file, &Env::default()).err().map(|errors| errors.to_string());
    let want = want.map(|want| format!("{}:{want}", file.display()));
    assert_eq!(found, want, "{text}");
}

#[test]
fn sections_of_a_server_are_refused_where_they_stand() {
    check("scrape_configs: []\n", None);
    check("alerting: {}\nrule_files: []\nremote_read: []\n", None);
    check("storage: {tsdb: {out_of_order_time_window: 5m}}\nglobal: {evaluation_interval: 1m}\n", None);
    check("remote_write: [{url: 'http://h/write'}]\n", None);
    check("rule_files: [a.yml]\n", Some("1:1: field rule_files is not allowed in agent mode"));
    check(
        "scrape_configs: []\nremote_read: [{url: 'http://h/read'}]\n",
        Some("2:1: field remote_read is not allowed in agent mode"),
    );
    check(
        "global: {external_labels: {a: b}}\nobject_storage: {type: FILESYSTEM, config: {directory: d}}\n",
        Some("2:1: field object_storage is not allowed in agent mode"),
    );
    check(
        "alerting: {alertmanagers: [{static_configs: [{targets: ['h:1']}]}]}\n",
        Some("1:1: field alerting is not allowed in agent mode"),
    );
    check(
        "alerting: {alert_relabel_configs: [{regex: a, action: labeldrop}]}\n",
        Some("1:1: field alerting is not allowed in agent mode"),
    );
}
