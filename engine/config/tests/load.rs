//! What loads and what is refused, and where: one line per case.

use config::{Config, Env, load, parse_config};
use std::path::{Path, PathBuf};

fn env() -> Env {
    Env::from_pairs([("HALL", "north"), ("REPLICA", "a$b")])
}

fn load_text(text: &str) -> Result<Config, String> {
    parse_config(Path::new("p.yml"), text, &env()).map_err(|errors| errors.to_string())
}

/// `want`: what the effective YAML has, each part on its own.
#[track_caller]
fn check_good(text: &str, want: &[&str]) {
    let yaml = load_text(text).unwrap_or_else(|errors| panic!("refused:\n{errors}")).to_yaml();
    for part in want {
        assert!(yaml.contains(part), "no {part:?} in\n{yaml}");
    }
}

/// `want`: place, path and words of each error: `2:5 global.x: words | more words`; without path for the whole file.
#[track_caller]
fn check_bad(text: &str, want: &[&str]) {
    let errors = match load_text(text) {
        Ok(config) => panic!("loaded:\n{}", config.to_yaml()),
        Err(errors) => errors,
    };
    let lines: Vec<&str> = errors.lines().collect();
    assert_eq!(lines.len(), want.len(), "{errors}");
    for (line, want) in lines.iter().zip(want) {
        let (place, words) = want.split_once(' ').expect("a place and words");
        let (path, words) = words.split_once(": ").map_or(("", words), |(path, words)| (path, words));
        let colon = if path.is_empty() { "" } else { ": " };
        assert!(line.starts_with(&format!("p.yml:{place}: {path}{colon}")), "{line}\nwant {place} {path}");
        for part in words.split(" | ") {
            assert!(line.contains(part), "{line}\nwant {part}");
        }
    }
}

/// A job with these lines, from line 3 of the file on, in column 5.
fn job(lines: &str) -> String {
    format!("scrape_configs:\n  - job_name: x\n    {}\n", lines.replace('\n', "\n    "))
}

#[test]
fn nothing_is_a_valid_configuration() {
    for text in
        ["", "\n", "# nothing\n", "---\n", "{}", "global:\n", "global: {}\n", "scrape_configs:\n", "global: {}\n---\n"]
    {
        check_good(text, &["scrape_interval: 1m\n", "scrape_timeout: 10s\n", "evaluation_interval: 1m\n"]);
    }
}

#[test]
fn jobs_inherit_what_they_do_not_say() {
    let text = "global: {scrape_interval: 30s, scrape_timeout: 20s, sample_limit: 7, body_size_limit: 1KB, \
                extra_scrape_metrics: yes}\nscrape_configs:\n- {job_name: a}\n- {job_name: b, scrape_interval: 15s, \
                sample_limit: 3}\n- {job_name: c, scrape_interval: 0s, sample_limit: 0, extra_scrape_metrics: false}\n";
    let config = load_text(text).expect("a good file");
    let seconds: Vec<_> =
        config.scrape_configs.iter().map(|j| (j.scrape_interval.as_secs(), j.scrape_timeout.as_secs())).collect();
    assert_eq!(seconds, [(30, 20), (15, 15), (30, 20)]);
    let limits: Vec<_> = config.scrape_configs.iter().map(|j| (j.sample_limit, j.body_size_limit)).collect();
    assert_eq!(limits, [(7, 1024), (3, 1024), (7, 1024)]);
    let extra: Vec<_> = config.scrape_configs.iter().map(|j| j.extra_scrape_metrics).collect();
    assert_eq!(extra, [true, true, false]);
}

#[test]
fn default_timeout_is_not_longer_than_the_interval() {
    check_good("global: {scrape_interval: 5s}", &["scrape_interval: 5s\n  scrape_timeout: 5s\n"]);
    check_good(&job("scrape_interval: 2s"), &["  scrape_interval: 2s\n  scrape_timeout: 2s\n"]);
}

#[test]
fn values_are_read_as_go_reads_them() {
    check_good(&job("honor_labels: on\nhonor_timestamps: No"), &["honor_labels: true\n", "honor_timestamps: false\n"]);
    check_good("scrape_configs: [{job_name: 12}]", &["job_name: \"12\"\n"]);
    check_good(&job("sample_limit: 0x10"), &["sample_limit: 16\n"]);
    check_good(&job("sample_limit: 1_000"), &["sample_limit: 1000\n"]);
    check_good(&job("sample_limit: 1e3"), &["sample_limit: 1000\n"]);
    check_good(&job("body_size_limit: 0"), &["job_name: x\n"]);
    check_good(&job("static_configs: [{targets: [a:1], labels: {c: 1, b: true}}]"), &["b: \"true\"\n", "c: \"1\"\n"]);
    check_good(&job("metrics_path:\nsample_limit: ~"), &["metrics_path: /metrics\n"]);
    check_good(&job("scrape_interval: \"1h30m\""), &["scrape_interval: 1h30m\n"]);
}

#[test]
fn anchors_aliases_and_merge_keys() {
    let text = "scrape_configs:\n- &a {job_name: a, params: &p {q: [x]}, sample_limit: 5}\n- {<<: *a, job_name: b}\n\
                - {job_name: c, params: {<<: [*p, {q: [y], r: [z]}]}}\n";
    let config = load_text(text).expect("a good file");
    let limits: Vec<_> = config.scrape_configs.iter().map(|j| (j.job_name.as_str(), j.sample_limit)).collect();
    assert_eq!(limits, [("a", 5), ("b", 5), ("c", 0)]);
    let pair = |name: &str, value: &str| (name.to_owned(), vec![value.to_owned()]);
    assert_eq!(config.scrape_configs[1].params, [pair("q", "x")]);
    assert_eq!(config.scrape_configs[2].params, [pair("q", "x"), pair("r", "z")]);
}

#[test]
fn variables_are_replaced_in_external_labels_only() {
    let text = "global: {external_labels: {a: '${HALL}-$HALL', b: '$NONE', c: '5$$', d: $REPLICA, e: '$ ${} ${x', f: $1}}\n\
                scrape_configs: [{job_name: $HALL}]";
    let config = load_text(text).expect("a good file");
    let labels: Vec<_> = config.global.external_labels.iter().filter(|(_, value)| !value.is_empty()).collect();
    assert_eq!(labels, [("a", "north-north"), ("c", "5$"), ("d", "a$b"), ("e", "$  x")]);
    assert_eq!(config.scrape_configs[0].job_name, "$HALL");
}

#[test]
fn protocols_and_names_follow_the_job() {
    let native = "scrape_native_histograms: true\nmetric_name_validation_scheme: legacy";
    check_good(
        &job(native),
        &[
            "scrape_protocols:\n  - PrometheusProto\n  - OpenMetricsText1.0.0\n",
            "metric_name_escaping_scheme: underscores\n",
        ],
    );
    check_good(&job("{}").replace("{}", ""), &["scrape_protocols:\n  - OpenMetricsText1.0.0\n", "allow-utf-8\n"]);
    let dotted = "relabel_configs: [{target_label: a.b, replacement: x}]";
    check_good(&job(dotted), &["target_label: a.b\n"]);
    check_bad(
        &job(&format!("{dotted}\nmetric_name_validation_scheme: legacy")),
        &["3:38 scrape_configs[0].relabel_configs[0].target_label: a.b"],
    );
    // The scheme of one job does not reach the next one.
    let two = "scrape_configs:\n- job_name: x\n  metric_name_validation_scheme: legacy\n- job_name: y\n";
    check_good(&format!("{two}  {dotted}\n"), &["target_label: a.b\n"]);
}

#[test]
fn urls_as_targets_need_relabelling() {
    check_bad(
        &job("static_configs: [{targets: ['a:1', 'http://b/x']}]"),
        &["3:40 scrape_configs[0].static_configs[0].targets[1]: is not a valid hostname"],
    );
    check_good(
        &job("static_configs: [{targets: ['http://b/x']}]\nrelabel_configs: [{regex: a, action: labeldrop}]"),
        &["http://b/x"],
    );
}

#[test]
fn structure_is_strict() {
    check_bad("scrape_configs:\n  job_name: x\n", &["2:3 scrape_configs: into a list of jobs"]);
    check_bad("- a\n", &["1:1 cannot unmarshal !!seq"]);
    check_bad(
        "global:\n  scrape_intervall: 1m\n",
        &["2:3 global.scrape_intervall: not found | did you mean scrape_interval?"],
    );
    check_bad(
        "fleets: 1\nglobal: 5\n",
        &["1:1 fleets: field fleets not found", "2:9 global: cannot unmarshal !!int into global"],
    );
    check_bad("global: {}\nglobal: {}\n", &["2:1 already set in map"]);
    check_bad("scrape_configs:\n-\n", &["2:2 scrape_configs[0]: empty or null scrape config section"]);
    check_good("rule_files:\n- a\n- ~\n", &["/a\n"]);
    check_bad(
        &job("sample_limit: many"),
        &["3:19 scrape_configs[0].sample_limit: cannot unmarshal !!str `many` into uint"],
    );
    check_bad(&job("sample_limit: -1"), &["3:19 scrape_configs[0].sample_limit: !!int `-1`"]);
    check_bad(&job("sample_limit: '5'"), &["3:19 scrape_configs[0].sample_limit: !!str `5`"]);
    check_bad(&job("honor_labels: maybe"), &["3:19 scrape_configs[0].honor_labels: into bool"]);
    check_bad(&job("metrics_path: [a]"), &["3:19 scrape_configs[0].metrics_path: cannot unmarshal !!seq into string"]);
    check_bad(&job("params: [a]"), &["3:13 scrape_configs[0].params: !!seq | name: value"]);
    check_bad("global: {}\n---\nglobal: {}\n", &["3:1 second document"]);
    check_bad("a: [\n", &["2:1 not YAML"]);
    check_bad("a: *b\n", &["1:4 not YAML"]);
    check_bad("a: &a [*a]\n", &["1:8 holds the alias itself"]);
    check_bad("a: {<<: 5}\n", &["1:9 map merge requires map"]);
    let bomb: String =
        (1..12).map(|n| format!("k{n}: &k{n} [{}]\n", vec![format!("*k{}", n - 1); 9].join(","))).collect();
    let errors = load_text(&format!("k0: &k0 x\n{bomb}")).expect_err("a bomb");
    assert!(errors.contains("excessive aliasing"), "{errors}");
    for well in ["[".repeat(200), "- ".repeat(200), "- ".repeat(20_000), "{a: ".repeat(200)] {
        let errors = load_text(&well).expect_err("a well");
        assert!(errors.contains("levels of nesting"), "{errors}");
    }
    assert!(load_text(&"[".repeat(100_000)).is_err());
}

#[test]
fn jobs_are_checked() {
    check_bad("scrape_configs:\n- scrape_interval: 1s\n", &["2:3 scrape_configs[0].job_name: job_name is empty"]);
    check_bad(
        "scrape_configs:\n- job_name: a\n- job_name: a\n",
        &["3:13 scrape_configs[1].job_name: found multiple scrape configs with job name \"a\" | p.yml:2 | rename"],
    );
    check_bad(
        &job("scrape_interval: 15s\nscrape_timeout: 20s"),
        &[
            "4:21 scrape_configs[0].scrape_timeout: scrape timeout greater than scrape interval | 20s is longer than the \
           scrape_interval 15s; lower the timeout or raise the interval",
        ],
    );
    check_bad(
        "global: {scrape_interval: 15s}\nscrape_configs: [{job_name: a, scrape_timeout: 16s}]",
        &["2:48 scrape_configs[0].scrape_timeout: greater"],
    );
    check_bad(
        "global: {scrape_timeout: 2m}",
        &["1:26 global.scrape_timeout: global scrape timeout greater than scrape interval"],
    );
    check_bad(
        &job("scrape_interval: 15"),
        &["3:22 scrape_configs[0].scrape_interval: not a valid duration string: \"15\""],
    );
    check_bad(&job("scrape_interval: 1s1m"), &["3:22 scrape_configs[0].scrape_interval: not a valid duration"]);
    check_bad(&job("scrape_interval: ''"), &["3:22 scrape_configs[0].scrape_interval: empty duration string"]);
    check_bad(&job("scrape_interval: 300y"), &["3:22 scrape_configs[0].scrape_interval: out of range"]);
    check_bad(&job("body_size_limit: 100"), &["3:22 scrape_configs[0].body_size_limit: units"]);
    check_bad(&job("scrape_protocols: []"), &["3:23 scrape_configs[0].scrape_protocols: cannot be empty"]);
    check_bad(
        &job("scrape_protocols: [PrometheusProto, PrometheusProto]"),
        &["3:23 scrape_configs[0].scrape_protocols: duplicated protocol"],
    );
    check_bad(
        &job("scrape_protocols: [prometheusproto]"),
        &["3:24 scrape_configs[0].scrape_protocols[0]: unknown value \"prometheusproto\"; use one of PrometheusProto"],
    );
    check_bad(&job("fallback_scrape_protocol: x"), &["3:31 scrape_configs[0].fallback_scrape_protocol: unknown value"]);
    check_bad(&job("scheme: ftp"), &["3:13 scrape_configs[0].scheme: http or https"]);
    check_bad(
        &job("metric_name_validation_scheme: legacy\nmetric_name_escaping_scheme: allow-utf-8"),
        &["4:34 scrape_configs[0].metric_name_escaping_scheme: utf8 metric names requested"],
    );
    check_bad("global: {external_labels: {'': x}}", &["1:28 global.external_labels: \"\" is not a valid label name"]);
    check_bad(
        "global: {external_labels: {a-b: x}, metric_name_validation_scheme: legacy}",
        &["1:28 global.external_labels: \"a-b\" is not a valid label name"],
    );
}

#[test]
fn relabelling_is_checked() {
    let rule = |fields: &str| job(&format!("relabel_configs:\n- {fields}"));
    check_bad(&rule("{regex: '('}"), &["4:15 scrape_configs[0].relabel_configs[0].regex: regex"]);
    check_bad(&rule("{action: kep}"), &["4:16 scrape_configs[0].relabel_configs[0].action: unknown relabel action"]);
    check_bad(
        &rule("{action: hashmod, target_label: a}"),
        &["4:7 scrape_configs[0].relabel_configs[0].modulus: modulus"],
    );
    check_bad(
        &rule("{sources: [a]}"),
        &[
            "4:7 scrape_configs[0].relabel_configs[0].target_label: target_label",
            "4:8 scrape_configs[0].relabel_configs[0].sources: not found in relabel_config",
        ],
    );
    check_good(&rule("{regex: , action: drop}"), &["regex: \"\"\n"]);
}

#[test]
fn clients_are_checked() {
    check_bad(
        &job("basic_auth: {username: a}\nauthorization: {credentials: b}"),
        &["4:20 scrape_configs[0].authorization: at most one of basic_auth"],
    );
    check_bad(
        &job("basic_auth: {username: a}\nbearer_token: b"),
        &["4:19 scrape_configs[0].bearer_token: at most one of"],
    );
    check_good(&job("bearer_token: b"), &["authorization:\n    type: Bearer\n    credentials: <secret>\n"]);
    check_bad(
        &job("basic_auth: {password: a, password_file: b}"),
        &["3:46 scrape_configs[0].basic_auth.password_file: at most one"],
    );
    check_bad(
        &job("authorization: {type: Basic}"),
        &["3:27 scrape_configs[0].authorization.type: cannot be set to \"basic\""],
    );
    check_bad(&job("tls_config: {cert_file: a}"), &["3:29 scrape_configs[0].tls_config.cert_file: exactly one of key"]);
    check_bad(
        &job("tls_config: {min_version: TLS13, max_version: TLS12}"),
        &["3:51 scrape_configs[0].tls_config.max_version: min_version"],
    );
    check_bad(
        &job("oauth2: {client_id: a}"),
        &["3:13 scrape_configs[0].oauth2.token_url: token_url must be configured"],
    );
    check_bad(&job("no_proxy: a"), &["3:15 scrape_configs[0].no_proxy: proxy_url must also be configured"]);
    check_bad(&job("proxy_url: 'nowhere'"), &["3:16 scrape_configs[0].proxy_url: not a URL"]);
    check_bad(
        &job("http_headers: {Host: {values: [a]}}"),
        &["3:19 scrape_configs[0].http_headers: setting header \"Host\" is not allowed"],
    );
}

#[test]
fn discovery_is_checked() {
    let path = |rest: &str| format!("scrape_configs[0].{rest}");
    let bad = |section: &str, want: &str| check_bad(&job(section), &[want]);
    bad(
        "file_sd_configs: [{files: []}]",
        &format!("3:31 {} at least one path name", path("file_sd_configs[0].files:")),
    );
    bad(
        "file_sd_configs: [{files: [a.txt]}]",
        &format!("3:31 {} not valid for file discovery", path("file_sd_configs[0].files:")),
    );
    bad("file_sd_configs: [{files: ['*/a.yml']}]", &format!("3:31 {} not valid", path("file_sd_configs[0].files:")));
    bad("http_sd_configs: [{}]", &format!("3:23 {} URL is missing", path("http_sd_configs[0].url:")));
    bad("http_sd_configs: [{url: 'ftp://a/'}]", &format!("3:29 {} 'http' or 'https'", path("http_sd_configs[0].url:")));
    bad(
        "dns_sd_configs: [{names: [a], type: A}]",
        &format!("3:22 {} a port is required", path("dns_sd_configs[0].port:")),
    );
    bad("kubernetes_sd_configs: [{}]", &format!("3:29 {} role missing", path("kubernetes_sd_configs[0].role:")));
    bad(
        "kubernetes_sd_configs: [{role: node, selectors: [{role: pod}]}]",
        &format!("3:53 {} supports only node", path("kubernetes_sd_configs[0].selectors:")),
    );
    bad("docker_sd_configs: [{}]", &format!("3:25 {} host missing", path("docker_sd_configs[0].host:")));
    bad(
        "consul_sd_configs: [{token: a, basic_auth: {username: b}}]",
        &format!("3:33 {} at most one", path("consul_sd_configs[0].token:")),
    );
    bad("nomad_sd_configs: [{server: ''}]", &format!("3:33 {} requires a server", path("nomad_sd_configs[0].server:")));
    bad(
        "gce_sd_configs: [{project: a, zone: b, sone: c}]",
        &format!("3:44 {} did you mean zone?", path("gce_sd_configs[0].sone:")),
    );
    bad("nomads_sd_configs: []", &format!("3:5 {} did you mean nomad_sd_configs?", path("nomads_sd_configs:")));
    bad("nomad_sd_configs: [~]", &format!("3:24 {} null", path("nomad_sd_configs[0]:")));
}

#[test]
fn other_sections_are_checked() {
    check_bad("remote_write: [{name: a}]", &["1:16 remote_write[0].url: url for remote_write is empty"]);
    check_bad(
        "remote_write: [{url: 'http://a/', name: n}, {url: 'http://b/', name: n}]",
        &["1:15 remote_write: found multiple remote write configs with job name \"n\""],
    );
    let group = |more: [&str; 2]| {
        let one = |at: usize| format!("{{url: 'http://{at}/', sharding: {{group: g{}}}}}", more[at]);
        format!("remote_write: [{}, {}]", one(0), one(1))
    };
    check_bad(
        &group([", replicas: 2", ""]),
        &["1:15 remote_write: endpoints of sharding group \"g\" have different settings"],
    );
    check_bad(
        &group([", replicas: 3"; 2]),
        &["1:15 remote_write: sharding group \"g\" has 3 replicas and 2 endpoints"],
    );
    check_bad(
        "remote_write: [{url: 'http://a/', sharding: {group: g, labels: [a], ignore_labels: [b]}}]",
        &["1:84 remote_write[0].sharding.ignore_labels: at most one of labels and ignore_labels"],
    );
    check_bad(
        "remote_write: [{url: 'http://a/', sharding: {}}]",
        &["1:45 remote_write[0].sharding.group: sharding without a group"],
    );
    check_bad(
        "remote_write: [{url: 'http://a/', headers: {Authorization: x}}]",
        &["1:44 remote_write[0].headers: setting header \"Authorization\""],
    );
    check_bad(
        "remote_write: [{url: 'http://a/', sigv4: {}, basic_auth: {username: a}}]",
        &["1:42 remote_write[0].sigv4: at most one of basic_auth"],
    );
    check_bad("remote_write: [{url: ''}]", &["1:22 remote_write[0].url: url for remote_write is empty"]);
    check_bad("remote_read: [{}]", &["1:15 remote_read[0].url: url for remote_read is empty"]);
    check_bad(
        "alerting: {alertmanagers: [{api_version: v1}]}",
        &["1:42 alerting.alertmanagers[0].api_version: use one of v2"],
    );
    check_bad("storage: {tsdb: {retention: {size: 5}}}", &["1:36 storage.tsdb.retention.size: units"]);
    check_bad("tracing: {sampling_fraction: 2, endpoint: a}", &["1:30 tracing.sampling_fraction: from 0 to 1"]);
    check_bad("tracing: {}", &["1:10 tracing.endpoint: endpoint must be set"]);
    check_bad("otlp: {ignore_resource_attributes: [a]}", &["1:36 otlp.ignore_resource_attributes: unless"]);
    check_bad("rule_files: ['a/*/b.yml']", &["1:13 rule_files: invalid rule file path"]);
    check_bad("runtime: {gogc: x}", &["1:17 runtime.gogc: into int"]);
    check_good(
        "remote_write: [{url: 'http://a/', enable_http2: true}]",
        &["enable_http2: true\n", "capacity: 10000\n"],
    );
    check_good(&job("dns_sd_configs: [{names: [a], type: aaaa, port: 1}]"), &["type: AAAA\n"]);
    check_good("storage: {tsdb: {retention: {time: 0s}}}", &["time: 0s\n"]);
}

#[test]
fn errors_are_collected_up_to_a_bound() {
    let lines: String = (0..50).map(|n| format!("x{n}: 1\n")).collect();
    let errors = load_text(&lines).expect_err("unknown fields");
    assert_eq!(errors.lines().count(), 20);
    let errors = load(Path::new("missing/p.yml"), &env()).expect_err("no file").to_string();
    assert!(errors.starts_with("missing/p.yml: cannot be opened"), "{errors}");
}

#[test]
fn text_that_is_not_utf8_has_a_place() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("p.yml");
    std::fs::write(&path, b"global: {}\n# \xff\n").expect("a file");
    let errors = load(&path, &env()).expect_err("no text");
    let places: Vec<_> = errors.iter().map(|error| (error.line, error.column)).collect();
    assert_eq!(places, [(2, 3)]);
}

/// Nobody writes into the pipe.
#[test]
fn pipes_among_the_files_are_refused_at_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let pipe = folder.path().join("p.yml");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().expect("mkfifo").success());
    let errors = config::load_rules(&pipe, config::NameScheme::Utf8).expect_err("a pipe").to_string();
    assert!(errors.contains("p.yml: is a pipe"), "{errors}");
    let errors = load_text(&format!("scrape_config_files: ['{}']", pipe.display())).expect_err("a pipe");
    assert!(errors.contains("p.yml: is a pipe"), "{errors}");
}

/// Relative paths are shown by their plain names, absolute ones as they are written.
#[test]
fn relative_paths_are_cleaned() {
    let top = "../".repeat(40);
    let text = format!("rule_files: ['../x/./a.yml', 'b//../c.yml', '/d/../e.yml', '{top}f.yml']");
    let config = load_text(&text).unwrap();
    let folder = std::env::current_dir().unwrap();
    let want = [folder.parent().unwrap().join("x/a.yml"), folder.join("c.yml"), "/d/../e.yml".into(), "/f.yml".into()];
    let shown = |paths: &[PathBuf]| paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>();
    assert_eq!(shown(&config.rule_files), shown(&want));
}

/// What Go's decoder accepts: a null text in a list or mapping is empty, numbers are texts, floats are truncated.
#[test]
fn nulls_and_numbers_are_read_as_go_reads_them() {
    check_good(
        &job("static_configs: [{targets: ['x:1'], labels: {a: null, b: 5, c: 1.50, d: true}}]"),
        &["b: \"5\"", "c: \"1.50\"", "d: \"true\""],
    );
    check_good("global: {external_labels: {a: null, b: ~, c: x}}", &["c: x"]);
    check_good(&job("params: {m: null, n: [null, 5]}"), &["- \"5\""]);
    check_good(&job("static_configs: [{targets: [null, 'x:1']}]"), &["- \"x:1\""]);
    check_good("remote_write: [{url: 'http://a/', headers: {a: null}}]", &["http://a/"]);
    // A null text is the empty text, and not the default.
    let rule = |fields: &str| job(&format!("relabel_configs: [{{source_labels: [a], target_label: b, {fields}}}]"));
    check_good(&rule("replacement: null, separator: ~"), &["replacement: \"\"", "separator: \"\""]);
    check_bad(
        &rule("action: null"),
        &["3:69 scrape_configs[0].relabel_configs[0].action: relabel action cannot be empty"],
    );
    check_good(
        &job("relabel_configs: [{source_labels: [a, null], target_label: b}]"),
        &["source_labels:\n    - a\n    - null\n"],
    );
    check_bad(
        &job("relabel_configs: [{source_labels: [a, ''], target_label: b}]"),
        &["3:43 scrape_configs[0].relabel_configs[0].source_labels[1]: \"\" is not a valid label name"],
    );
    check_good(
        &job("docker_sd_configs: [{host: 'unix:///a', filters: [null, {name: n, values: [null]}]}]"),
        &["- {}\n    - name: \"n\"\n"],
    );
    check_good("rule_files: [null, '', a.yml]", &["a.yml\n"]);
    check_good("scrape_config_files: [null, '']", &["global:"]);
    check_bad(&job("static_configs: [null]"), &["3:22 scrape_configs[0].static_configs[0]: null"]);
    let hashmod = |modulus: &str| {
        job(&format!("relabel_configs: [{{action: hashmod, modulus: {modulus}, target_label: x, source_labels: [a]}}]"))
    };
    for (modulus, want) in [
        ("18446744073709551615", "modulus: 18446744073709551615\n"),
        ("18446744073709551616", "modulus: 9223372036854775808\n"),
        ("1e3", "modulus: 1000\n"),
        ("2.5", "modulus: 2\n"),
    ] {
        check_good(&hashmod(modulus), &[want]);
    }
    check_bad(&job("sample_limit: 1e30"), &["3:19 scrape_configs[0].sample_limit: cannot unmarshal !!float `1e30`"]);
    check_good(&job("scheme: HTTPS"), &["scheme: HTTPS"]);
}

#[test]
fn binary_values_are_texts() {
    check_good(&job("static_configs: [{targets: [!!binary 'YToxMjM=']}]"), &["a:123"]);
    check_good(&job("static_configs:\n- targets:\n  - !!binary |\n    YTox\n    MjM=\n"), &["a:123"]);
    check_good(&job("scrape_interval: !!binary MTVz"), &["scrape_interval: 15s"]);
    check_good(&job("!!binary 'c2NyYXBlX2ludGVydmFs': 16s"), &["scrape_interval: 16s"]);
    for bad in ["YTox!!", "YToxMjM", "_-8=", "YTox MjM="] {
        check_bad(
            &job(&format!("static_configs: [{{targets: [!!binary '{bad}']}}]")),
            &["3:33 !!binary value contains invalid base64 data"],
        );
    }
    check_bad(&job("static_configs: [{targets: [!!binary /w==]}]"), &["3:33 !!binary value is no UTF-8"]);
    check_bad(&job("sample_limit: !!binary MTI="), &["3:19 scrape_configs[0].sample_limit: cannot unmarshal !!str"]);
}

#[test]
fn files_may_be_utf_16() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("prometheus.yml");
    let text = job("static_configs: [{targets: ['ä😀:1']}]");
    let units = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
    std::fs::write(&path, [&[0xff, 0xfe], &*units(&text)].concat()).unwrap();
    let config = config::load(&path, &Env::process()).unwrap();
    assert!(config.to_yaml().contains("ä😀:1"));
    std::fs::write(&path, units(&text)).unwrap();
    let error = config::load(&path, &Env::process()).unwrap_err().to_string();
    assert!(error.contains("this is not UTF-8"), "without a mark: {error}");
}

#[test]
fn control_characters_are_refused() {
    for bad in ["\u{1}", "\u{7f}", "\u{80}", "\u{fffe}"] {
        let text = job(&format!("static_configs: [{{targets: ['ä{bad}:1']}}]"));
        check_bad(&text, &["3:35 control characters are not allowed"]);
    }
    check_good(&job("static_configs: [{targets: [\"a\\x01:1\"]}]"), &["a"]);
}

#[test]
fn escapes_of_urls_are_checked() {
    check_good(&job("http_sd_configs: [{url: 'http://a/%7e?b=%zz'}]"), &["http://a/%7e?b=%zz"]);
    for bad in ["http://a/%zz", "http://a/%", "http://a/%4", "http://u:%zz@a/"] {
        let want = "3:29 scrape_configs[0].http_sd_configs[0].url: not a URL: invalid URL escape";
        check_bad(&job(&format!("http_sd_configs: [{{url: '{bad}'}}]")), &[want]);
    }
}

#[test]
fn patterns_are_checked_as_go_checks_them() {
    for good in ["a*b*.yml", "[a-z]*.yml", "[^a-z].yml", "a\\[.yml", "[\\]].yml"] {
        check_good(&format!("rule_files: ['{good}']"), &["rule_files:"]);
    }
    for bad in ["a[.yml", "[]a].yml", "[^]a].yml", "[-a].yml", "[a-].yml", "a\\"] {
        check_bad(&format!("rule_files: ['{bad}']"), &["1:13 rule_files: syntax error in pattern"]);
    }
    check_bad("rule_files: ['x/*/y.yml']", &["1:13 rule_files: invalid rule file path"]);
    check_good(&job("file_sd_configs: [{files: ['a*b*.yml']}]"), &["a*b*.yml"]);
    check_bad(
        &job("file_sd_configs: [{files: ['x/*/a.yml']}]"),
        &["3:31 scrape_configs[0].file_sd_configs[0].files: x/*/a.yml"],
    );
}

#[test]
fn queues_of_remote_write_that_cannot_work_are_refused() {
    let queue = |settings: &str| format!("remote_write:\n- url: http://a/\n  queue_config: {{{settings}}}\n");
    check_good(&queue("capacity: 10, max_samples_per_send: 500"), &["capacity: 10"]);
    for name in ["max_shards", "min_shards", "max_samples_per_send", "capacity"] {
        let text = queue(&format!("{name}: 0"));
        let errors = load_text(&text).expect_err("a queue of zero is refused");
        assert!(errors.contains(&format!("remote write queue {name} must be positive")), "{errors}");
    }
    for (settings, want) in [
        ("min_shards: 51", "min_shards must not be greater than max_shards"),
        ("min_backoff: 6s", "max_backoff must not be less than min_backoff"),
    ] {
        let errors = load_text(&queue(settings)).expect_err("contradictory settings are refused");
        assert!(errors.contains(&format!("remote write queue {want}")), "{errors}");
    }
}
