//! Configurations in the shape that Prometheus' operator writes them: made from a seed, loaded, linted and loaded again from
//! what the effective configuration shows.

use config::{Config, Env};
use std::fmt::Write;

/// Number of configurations; each has some of all kinds of jobs.
const CONFIGS: u64 = 500;
/// Every so often comes a large one, with so many jobs.
const LARGE_EVERY: u64 = 250;
const LARGE_JOBS: u64 = 100;

/// A stream of numbers that depends on nothing but its seed.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }

    fn is_one_of(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }

    fn pick(&mut self, words: &[&'static str]) -> &'static str {
        words[self.below(words.len() as u64) as usize]
    }
}

const NAMES: &[&str] = &["web", "api", "kube-state-metrics", "node-exporter", "db.main", "coredns", "grafana"];
const NAMESPACES: &[&str] = &["monitoring", "default", "kube-system", "team-a"];

/// A rule: its fields as the operator orders them.
fn rule(out: &mut String, fields: &[(&str, &str)]) {
    for (i, (name, value)) in fields.iter().enumerate() {
        let dash = if i == 0 { "- " } else { "  " };
        match *name {
            "source_labels" => {
                let _ = writeln!(out, "  {dash}source_labels:");
                for label in value.split(' ') {
                    let _ = writeln!(out, "    - {label}");
                }
            }
            _ => {
                let _ = writeln!(out, "  {dash}{name}: {value}");
            }
        }
    }
}

/// Limits, protocols and how to speak to the targets: what all kinds of monitors have.
fn endpoint(numbers: &mut Numbers, out: &mut String) {
    let mut line = |is_there: bool, text: &str| {
        if is_there {
            let _ = writeln!(out, "  {text}");
        }
    };
    line(numbers.is_one_of(2), "honor_labels: true");
    line(numbers.is_one_of(3), "honor_timestamps: false");
    line(numbers.is_one_of(6), "track_timestamps_staleness: true");
    line(numbers.is_one_of(2), "scrape_interval: 30s\n  scrape_timeout: 10s");
    line(numbers.is_one_of(2), "metrics_path: /metrics/cadvisor");
    line(numbers.is_one_of(4), "params:\n    collect[]:\n    - cpu\n    - meminfo\n    module: [http_2xx]");
    line(numbers.is_one_of(2), "scheme: https");
    line(numbers.is_one_of(4), "enable_http2: false");
    line(numbers.is_one_of(4), "follow_redirects: false");
    line(numbers.is_one_of(5), "enable_compression: false");
    line(numbers.is_one_of(8), "proxy_url: http://proxy.example:3128\n  no_proxy: .svc,.cluster.local");
    line(numbers.is_one_of(8), "scrape_protocols:\n  - OpenMetricsText1.0.0\n  - PrometheusText0.0.4");
    line(numbers.is_one_of(6), "fallback_scrape_protocol: PrometheusText0.0.4");
    line(numbers.is_one_of(6), "scrape_native_histograms: true\n  native_histogram_bucket_limit: 160");
    line(numbers.is_one_of(6), "native_histogram_min_bucket_factor: 1.1");
    line(numbers.is_one_of(6), "convert_classic_histograms_to_nhcb: true");
    line(numbers.is_one_of(3), "sample_limit: 50000\n  target_limit: 1000");
    line(numbers.is_one_of(5), "label_limit: 64\n  label_name_length_limit: 512\n  label_value_length_limit: 2048");
    line(numbers.is_one_of(5), "keep_dropped_targets: 100");
    line(numbers.is_one_of(5), "body_size_limit: 100MB");
    let auth = match numbers.below(5) {
        0 => {
            "authorization:\n    type: Bearer\n    credentials_file: /var/run/secrets/kubernetes.io/serviceaccount/token"
        }
        1 => "bearer_token_file: /var/run/secrets/kubernetes.io/serviceaccount/token",
        2 => "basic_auth:\n    username: u\n    password_file: /etc/prometheus/certs/password",
        3 => {
            "oauth2:\n    client_id: c\n    client_secret_file: /etc/prometheus/certs/secret\n    \
             token_url: https://idp.example/token\n    scopes:\n    - metrics\n    endpoint_params:\n      a: b"
        }
        _ => "",
    };
    line(!auth.is_empty(), auth);
    let tls = "tls_config:\n    insecure_skip_verify: false\n    ca_file: /etc/prometheus/certs/ca\n    \
               cert_file: /etc/prometheus/certs/cert\n    key_file: /etc/prometheus/certs/key\n    server_name: web.svc";
    line(numbers.is_one_of(3), tls);
}

/// Which objects a monitor selects.
fn select(numbers: &mut Numbers, out: &mut String, object: &str) {
    for _ in 0..=numbers.below(3) {
        let label = numbers.pick(&["app", "app_kubernetes_io_name", "tier"]);
        let labels =
            format!("__meta_kubernetes_{object}_label_{label} __meta_kubernetes_{object}_labelpresent_{label}");
        let regex = numbers.pick(&["(web);true", "(a|b|c.d);true", "(?:);true"]);
        rule(out, &[("action", "keep"), ("source_labels", &labels), ("regex", regex)]);
    }
    if numbers.is_one_of(3) {
        let present = format!("__meta_kubernetes_{object}_labelpresent_canary");
        rule(out, &[("action", "drop"), ("source_labels", &present), ("regex", "\"true\"")]);
    }
}

/// What the operator appends to the rules of each monitor: rules of the user, and how targets are divided among shards.
fn relabel_end(numbers: &mut Numbers, out: &mut String) {
    for _ in 0..numbers.below(4) {
        let fields: &[(&str, &str)] = match numbers.below(6) {
            0 => &[("action", "labelmap"), ("regex", "__meta_kubernetes_pod_label_(.+)")],
            1 => &[
                ("source_labels", "__meta_kubernetes_pod_node_name"),
                ("separator", ";"),
                ("target_label", "nodename"),
                ("regex", "^(.*)$"),
                ("replacement", "$1"),
                ("action", "replace"),
            ],
            2 => &[("action", "labeldrop"), ("regex", "__meta_kubernetes_pod_annotation_.*")],
            3 => &[
                ("source_labels", "__address__"),
                ("action", "replace"),
                ("regex", r"([^:]+)(?::\d+)?"),
                ("replacement", "${1}:9100"),
                ("target_label", "__address__"),
            ],
            4 => &[
                ("source_labels", "__meta_kubernetes_namespace"),
                ("action", "uppercase"),
                ("target_label", "NAMESPACE"),
            ],
            _ => &[("source_labels", "namespace pod"), ("action", "dropequal"), ("target_label", "skip")],
        };
        rule(out, fields);
    }
    let shards = numbers.pick(&["1", "3"]);
    rule(
        out,
        &[
            ("source_labels", "__address__ __tmp_hash"),
            ("target_label", "__tmp_hash"),
            ("regex", "(.+);"),
            ("replacement", "$1"),
            ("action", "replace"),
        ],
    );
    rule(
        out,
        &[("source_labels", "__tmp_hash"), ("target_label", "__tmp_hash"), ("modulus", shards), ("action", "hashmod")],
    );
    rule(
        out,
        &[("source_labels", "__tmp_hash __tmp_disable_sharding"), ("regex", "$(SHARD);|.+;.+"), ("action", "keep")],
    );
    if numbers.is_one_of(2) {
        let _ = writeln!(out, "  metric_relabel_configs:");
        rule(
            out,
            &[
                ("source_labels", "__name__"),
                ("regex", "(container_(network_tcp_usage_total|tasks_state)|go_.*)"),
                ("action", "drop"),
            ],
        );
        rule(out, &[("target_label", "namespace"), ("replacement", "team-a")]);
    }
}

fn kubernetes(numbers: &mut Numbers, out: &mut String, role: &str) {
    let _ = writeln!(out, "  kubernetes_sd_configs:\n  - role: {role}");
    if numbers.is_one_of(2) {
        let (one, other) = (numbers.pick(NAMESPACES), numbers.pick(NAMESPACES));
        let _ =
            writeln!(out, "    namespaces:\n      own_namespace: false\n      names:\n      - {one}\n      - {other}");
    }
    if numbers.is_one_of(3) {
        let _ = writeln!(out, "    attach_metadata:\n      node: true");
    }
    if numbers.is_one_of(3) {
        let _ = writeln!(out, "    selectors:\n    - role: {role}\n      label: app in (web,api),tier!=canary");
    }
    if numbers.is_one_of(6) {
        let _ = writeln!(
            out,
            "    api_server: https://k8s.example:6443\n    tls_config:\n      ca_file: /etc/prometheus/certs/k8s"
        );
    }
}

fn service_monitor(numbers: &mut Numbers, out: &mut String, name: &str) {
    let role = numbers.pick(&["endpoints", "endpointslice"]);
    let kind = if role == "endpoints" { "endpoint" } else { "endpointslice" };
    let _ = writeln!(out, "- job_name: serviceMonitor/{name}");
    kubernetes(numbers, out, role);
    endpoint(numbers, out);
    let _ = writeln!(out, "  relabel_configs:");
    rule(out, &[("source_labels", "job"), ("target_label", "__tmp_prometheus_job_name")]);
    select(numbers, out, "service");
    let port = format!("__meta_kubernetes_{kind}_port_name");
    rule(out, &[("action", "keep"), ("source_labels", &port), ("regex", "https-metrics")]);
    let target = format!("__meta_kubernetes_{kind}_address_target_kind __meta_kubernetes_{kind}_address_target_name");
    for (regex, label) in [("Node;(.*)", "node"), ("Pod;(.*)", "pod")] {
        rule(
            out,
            &[
                ("source_labels", &target),
                ("separator", ";"),
                ("regex", regex),
                ("replacement", "${1}"),
                ("target_label", label),
            ],
        );
    }
    for (source, label) in [
        ("namespace", "namespace"),
        ("service_name", "service"),
        ("pod_name", "pod"),
        ("pod_container_name", "container"),
    ] {
        rule(out, &[("source_labels", &format!("__meta_kubernetes_{source}")), ("target_label", label)]);
    }
    rule(out, &[("source_labels", "__meta_kubernetes_pod_phase"), ("regex", "(Failed|Succeeded)"), ("action", "drop")]);
    rule(out, &[("source_labels", "__meta_kubernetes_service_name"), ("target_label", "job"), ("replacement", "${1}")]);
    rule(
        out,
        &[
            ("source_labels", "__meta_kubernetes_service_label_jobLabel"),
            ("target_label", "job"),
            ("regex", "(.+)"),
            ("replacement", "${1}"),
        ],
    );
    rule(out, &[("target_label", "endpoint"), ("replacement", "https-metrics")]);
    relabel_end(numbers, out);
}

fn pod_monitor(numbers: &mut Numbers, out: &mut String, name: &str) {
    let _ = writeln!(out, "- job_name: podMonitor/{name}");
    kubernetes(numbers, out, "pod");
    endpoint(numbers, out);
    let _ = writeln!(out, "  relabel_configs:");
    rule(out, &[("source_labels", "job"), ("target_label", "__tmp_prometheus_job_name")]);
    rule(out, &[("source_labels", "__meta_kubernetes_pod_phase"), ("regex", "(Failed|Succeeded)"), ("action", "drop")]);
    select(numbers, out, "pod");
    rule(
        out,
        &[("action", "keep"), ("source_labels", "__meta_kubernetes_pod_container_port_number"), ("regex", "8080")],
    );
    rule(out, &[("target_label", "job"), ("replacement", name)]);
    rule(out, &[("target_label", "endpoint"), ("replacement", "\"8080\"")]);
    relabel_end(numbers, out);
}

fn probe(numbers: &mut Numbers, out: &mut String, name: &str) {
    let _ = writeln!(out, "- job_name: probe/{name}");
    endpoint(numbers, out);
    if numbers.is_one_of(2) {
        let _ = writeln!(
            out,
            "  static_configs:\n  - targets:\n    - https://a.example\n    - b.example:443\n    labels:\n      namespace: n\n      empty: \"\""
        );
        let _ = writeln!(out, "  relabel_configs:");
        rule(out, &[("source_labels", "__address__"), ("target_label", "__param_target")]);
    } else {
        kubernetes(numbers, out, "ingress");
        let _ = writeln!(out, "  relabel_configs:");
        let parts = "__meta_kubernetes_ingress_scheme __address__ __meta_kubernetes_ingress_path";
        rule(
            out,
            &[
                ("source_labels", parts),
                ("separator", ";"),
                ("regex", "(.+);(.+);(.+)"),
                ("target_label", "__param_target"),
                ("replacement", "${1}://${2}${3}"),
                ("action", "replace"),
            ],
        );
    }
    rule(out, &[("source_labels", "__param_target"), ("target_label", "instance")]);
    rule(out, &[("target_label", "__address__"), ("replacement", "blackbox.monitoring.svc:9115")]);
    relabel_end(numbers, out);
}

fn scrape_config(numbers: &mut Numbers, out: &mut String, name: &str) {
    let _ = writeln!(out, "- job_name: scrapeConfig/{name}");
    let section = numbers.pick(&[
        "file_sd_configs:\n  - files:\n    - /etc/sd/*.json\n    refresh_interval: 1m",
        "http_sd_configs:\n  - url: http://sd.example/targets?a=b\n    authorization:\n      credentials_file: /t",
        "dns_sd_configs:\n  - names:\n    - a.example\n    type: A\n    port: 9100",
        "consul_sd_configs:\n  - server: consul:8500\n    services: [a]\n    tags: [b]\n    node_meta: {c: d}\n    allow_stale: true",
        "ec2_sd_configs:\n  - region: eu-west-1\n    role_arn: arn\n    filters:\n    - name: tag:Name\n      values: [web]",
        "azure_sd_configs:\n  - subscription_id: s\n    authentication_method: ManagedIdentity",
        "gce_sd_configs:\n  - project: p\n    zone: z\n    filter: labels.a=b",
        "openstack_sd_configs:\n  - role: instance\n    region: r\n    identity_endpoint: http://k/v3",
        "digitalocean_sd_configs:\n  - authorization:\n      credentials_file: /t",
        "kuma_sd_configs:\n  - server: http://kuma:5676",
        "eureka_sd_configs:\n  - server: http://eureka:8761/eureka",
        "docker_sd_configs:\n  - host: unix:///var/run/docker.sock\n    filters:\n    - name: label\n      values: [a=b]",
        "linode_sd_configs:\n  - region: eu\n    tag_separator: ;",
        "hetzner_sd_configs:\n  - role: hcloud\n    label_selector: a=b",
        "nomad_sd_configs:\n  - server: http://nomad:4646",
        "dockerswarm_sd_configs:\n  - host: tcp://swarm:2375\n    role: nodes",
        "puppetdb_sd_configs:\n  - url: https://puppetdb\n    query: 'resources { type = \"Package\" }'",
        "lightsail_sd_configs:\n  - region: eu-west-1\n    access_key: a",
        "ionos_sd_configs:\n  - datacenter_id: d",
    ]);
    let _ = writeln!(out, "  {section}");
    endpoint(numbers, out);
    let _ = writeln!(out, "  relabel_configs:");
    rule(out, &[("source_labels", "job"), ("target_label", "__tmp_prometheus_job_name")]);
    relabel_end(numbers, out);
}

fn configuration(seed: u64) -> String {
    let mut numbers = Numbers(seed);
    let mut out = "global:\n  scrape_interval: 30s\n  scrape_timeout: 10s\n  external_labels:\n    prometheus: monitoring/k8s\n    \
                   prometheus_replica: $(POD_NAME)\n  evaluation_interval: 30s\n"
        .to_owned();
    let mut more = |text: &str| {
        if numbers.is_one_of(2) {
            out.push_str(text);
        }
    };
    more("  scrape_protocols:\n  - PrometheusProto\n  - OpenMetricsText1.0.0\n  - PrometheusText0.0.4\n");
    more("runtime:\n  gogc: 75\n");
    more("rule_files:\n- /etc/prometheus/rules/prometheus-k8s-rulefiles-0/*.yaml\n");
    more("storage:\n  tsdb:\n    out_of_order_time_window: 10m\n    retention:\n      time: 15d\n      size: 10GB\n");
    more(
        "alerting:\n  alert_relabel_configs:\n  - action: labeldrop\n    regex: prometheus_replica\n  alertmanagers:\n  \
         - path_prefix: /\n    scheme: http\n    kubernetes_sd_configs:\n    - role: endpoints\n      namespaces:\n        \
         names:\n        - monitoring\n    api_version: v2\n    relabel_configs:\n    - action: keep\n      source_labels:\n      \
         - __meta_kubernetes_service_name\n      regex: alertmanager-main\n",
    );
    more(
        "remote_write:\n- url: https://store.example/api/v1/push\n  name: long-term\n  remote_timeout: 30s\n  headers:\n    \
         X-Scope-OrgID: a\n  write_relabel_configs:\n  - source_labels: [__name__]\n    regex: up\n    action: keep\n  \
         queue_config:\n    capacity: 10000\n    max_shards: 50\n  metadata_config:\n    send: true\n",
    );
    out.push_str("scrape_configs:\n");
    let jobs = if seed.is_multiple_of(LARGE_EVERY) { LARGE_JOBS } else { 1 + numbers.below(4) };
    for number in 0..jobs {
        let name = format!("{}/{}/{number}", numbers.pick(NAMESPACES), numbers.pick(NAMES));
        match numbers.below(8) {
            0..4 => service_monitor(&mut numbers, &mut out, &name),
            4 | 5 => pod_monitor(&mut numbers, &mut out, &name),
            6 => probe(&mut numbers, &mut out, &name),
            _ => scrape_config(&mut numbers, &mut out, &name),
        }
    }
    out
}

fn load(text: &str) -> Result<Config, String> {
    config::parse_config("prometheus.yml".as_ref(), text, &Env::process()).map_err(|errors| errors.to_string())
}

#[test]
fn what_the_operator_writes_is_read_and_shown_as_it_is() {
    let (mut jobs, mut rules) = (0, 0);
    for seed in 0..CONFIGS {
        let text = configuration(seed);
        let config = load(&text).unwrap_or_else(|errors| panic!("{seed}: {errors}\n{text}"));
        // The section of Go's runtime is read and has no meaning here.
        assert!(config.unsupported_settings().iter().all(|name| *name == "runtime"), "{seed}");
        assert_eq!(config.lint(), [""; 0], "{seed}");
        assert_eq!(config.scrape_configs.len(), text.matches("- job_name: ").count(), "{seed}");
        let shown = config.to_yaml();
        let again = load(&shown).unwrap_or_else(|errors| panic!("{seed}: {errors}\n{shown}"));
        assert_eq!(again.to_yaml(), shown, "{seed}");
        // A rule without an action is shown with that which it has, so the first and the second differ in that.
        if seed % 10 == 1 {
            assert!(load(&shown).unwrap() == again, "{seed}");
        }
        jobs += config.scrape_configs.len();
        rules += config.scrape_configs.iter().map(|job| job.relabel_configs.rules().len()).sum::<usize>();
    }
    assert!(jobs > 1_200 && rules > 14_000, "{jobs} jobs and {rules} rules");
}

#[test]
fn a_mistake_in_one_of_many_jobs_is_found() {
    let text = configuration(LARGE_EVERY);
    let line = text.lines().count() + 1;
    let broken =
        format!("{text}- job_name: serviceMonitor/x/y/0\n  relabel_configs:\n  - action: keep\n    regex: (\n");
    let error = load(&broken).expect_err("an expression that is not closed");
    let place = format!("prometheus.yml:{}:12: scrape_configs[{LARGE_JOBS}].relabel_configs[0].regex: ", line + 3);
    assert!(error.contains(&place), "{error}");
    let twice = format!("{text}{}", &text[text.find("- job_name: ").unwrap()..]);
    let error = load(&twice).expect_err("names of jobs are unique");
    assert!(error.contains("found multiple scrape configs with job name"), "{error}");
}

/// Writes the configurations into the folder of `RINGSCRAPE_WRITE_CONFIGS`, so that other programs can check them.
#[test]
fn configurations_are_written_for_other_programs() {
    let Some(folder) = std::env::var_os("RINGSCRAPE_WRITE_CONFIGS") else { return };
    for seed in 0..CONFIGS {
        let path = std::path::Path::new(&folder).join(format!("operator-{seed}.yml"));
        std::fs::write(path, configuration(seed)).unwrap();
    }
}
