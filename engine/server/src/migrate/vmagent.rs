//! vmagent: its flags become flags of agent mode and sections of the configuration.
//!
//! vmagent keeps in flags what Prometheus has in the configuration, so there has to be another prometheus.yml: the one that
//! vmagent reads, with a section `remote_write` behind it.

use super::Verdict::{Different, Missing, Refused, Same};
use super::{Note, Plan, Report, Setup, examine_config, source};
use crate::cli::Cli;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// Where the logs go, and the configuration that is written, unless --write says otherwise.
const DATA_FOLDER: &str = "/var/lib/ringscrape";
const CONFIG_FILE: &str = "/etc/ringscrape/prometheus.yml";
/// vmagent's own bound of a payload.
const SCRAPE_SIZE_MAX: &str = "16MB";

const PUSH: &str = "takes no samples in this protocol; remote write and OTLP are taken (--web.enable-remote-write-receiver, --web.enable-otlp-receiver)";
const WEB_CONFIG: &str = "write a file for --web.config.file (Prometheus' format; `ringscrape check web-config FILE`)";
const FLEET: &str =
    "write a section `fleet` (docs/fleet.md): members come and go without a restart of the others; targets move once";
const AGGREGATION: &str =
    "nothing is aggregated before it is sent; recording rules of a server do that (without --agent)";
const ALWAYS: &str = "always so";
const NO_NEED: &str = "there is no need for it";

/// Flags that need no place of their own in flags or configuration, by name or by the start of names that end with `*`.
const FLAGS: &[Note] = &[
    ("promscrape.config.strictParse", Different, "a configuration is always read strictly"),
    ("promscrape.config.dryRun", Different, "`ringscrape check config --agent FILE`"),
    ("dryRun", Different, "`ringscrape check config --agent FILE`"),
    ("promscrape.cluster.*", Missing, FLEET),
    ("promscrape.suppressScrapeErrors*", Different, "scrape errors are on the pages and in metrics, not in the log"),
    ("promscrape.suppressDuplicateScrapeTargetErrors", Different, "two equal targets are one target"),
    ("promscrape.noStaleMarkers", Different, "staleness markers are always sent"),
    ("promscrape.streamParse", Same, "payloads are never held as parsed samples"),
    ("promscrape.minResponseSizeForStreamParse", Same, NO_NEED),
    (
        "promscrape.seriesLimitPerTarget",
        Missing,
        "set sample_limit in the configuration: the whole scrape fails beyond it",
    ),
    (
        "promscrape.dropOriginalLabels",
        Different,
        "labels before relabelling are kept for the pages; keep_dropped_targets bounds those of dropped targets",
    ),
    ("promscrape.maxDroppedTargets", Different, "set keep_dropped_targets in the section global"),
    ("promscrape.maxResponseHeadersSize", Different, "1 MiB"),
    ("promscrape.disableCompression", Different, "set enable_compression: false for each job"),
    ("promscrape.disableKeepAlive", Different, "connections are kept"),
    ("promscrape.*SDCheckInterval", Different, "set refresh_interval of the discovery in the configuration"),
    ("promscrape.discovery.*", Different, "bounds of discovery are fixed (docs/compatibility.md)"),
    ("promscrape.consul.waitTime", Different, "fixed"),
    ("promscrape.kubernetes.*", Different, NO_NEED),
    ("remoteWrite.showURL", Different, "endpoints are shown without their secrets"),
    ("remoteWrite.forceVMProto", Same, "an endpoint is asked for it"),
    ("remoteWrite.forcePromProto", Different, "an endpoint that takes zstd gets zstd; others get snappy"),
    ("remoteWrite.vmProtoCompressLevel", Different, "fixed"),
    ("remoteWrite.keepDanglingQueues", Different, "logs stay as long as --storage.agent.retention.max-time says"),
    ("remoteWrite.inmemoryQueues", Same, "fresh samples are sent from memory of the page cache"),
    ("remoteWrite.disableOnDiskQueue", Missing, "samples go through the log, always"),
    (
        "remoteWrite.dropSamplesOnOverload",
        Different,
        "the oldest logs are given up beyond --storage.agent.retention.max-time and .size",
    ),
    ("remoteWrite.maxBlockSize", Different, "requests are bounded by max_samples_per_send"),
    ("remoteWrite.rateLimit", Missing, "bound the number of requests at once with max_shards"),
    ("remoteWrite.maxHourlySeries", Missing, "set sample_limit of jobs"),
    ("remoteWrite.maxDailySeries", Missing, "set sample_limit of jobs"),
    ("remoteWrite.roundDigits", Missing, "write round_digits into remote_write"),
    ("remoteWrite.significantFigures", Missing, "write significant_figures into remote_write"),
    (
        "remoteWrite.shardByURL*",
        Missing,
        "write a section sharding into remote_write; series go to other endpoints than before",
    ),
    ("remoteWrite.streamAggr.*", Missing, AGGREGATION),
    ("remoteWrite.mdx.*", Missing, ""),
    ("remoteWrite.obfuscateLabels", Missing, "use write_relabel_configs"),
    ("remoteWrite.multitenantURL", Missing, "name the tenant in the URL of an endpoint"),
    ("enableMultitenantHandlers", Missing, "name the tenant in the URL of an endpoint"),
    ("remoteWrite.aws.*", Missing, "write a section sigv4 into remote_write"),
    ("streamAggr.*", Missing, AGGREGATION),
    ("usePromCompatibleNaming", Missing, "set metric_name_escaping_scheme in the configuration"),
    ("enableMetadata", Different, "metadata_config of remote_write decides; on by default"),
    ("tls", Missing, WEB_CONFIG),
    ("tlsCertFile", Missing, WEB_CONFIG),
    ("tlsKeyFile", Missing, WEB_CONFIG),
    ("tlsMinVersion", Missing, WEB_CONFIG),
    ("tlsCipherSuites", Missing, WEB_CONFIG),
    ("mtls*", Missing, WEB_CONFIG),
    ("httpAuth.*", Missing, WEB_CONFIG),
    ("configAuthKey", Different, WEB_CONFIG),
    ("reloadAuthKey", Different, WEB_CONFIG),
    ("flagsAuthKey", Different, WEB_CONFIG),
    ("metricsAuthKey", Different, WEB_CONFIG),
    ("pprofAuthKey", Different, "there are no profiles by HTTP"),
    ("pushmetrics.*", Missing, "scrape /metrics of ringscrape instead"),
    ("httpListenAddr.useProxyProtocol", Missing, "put a proxy before it that speaks plain HTTP"),
    ("http.*", Different, "fixed; --web.read-timeout bounds requests"),
    ("graphite*", Missing, PUSH),
    ("influx*", Missing, PUSH),
    ("opentsdb*", Missing, PUSH),
    ("datadog.*", Missing, PUSH),
    ("newrelic.*", Missing, PUSH),
    ("zabbixconnector.*", Missing, PUSH),
    ("csvTrimTimestamp", Missing, PUSH),
    ("import.*", Missing, PUSH),
    ("opentelemetry.*", Different, "section `otlp` of the configuration decides"),
    ("maxConcurrentInserts", Different, "fixed: 16 requests at once"),
    ("insert.maxQueueDuration", Different, "fixed"),
    ("maxInsertRequestSize", Different, "fixed: 32 MiB"),
    ("maxIngestionRate", Missing, "bound requests at the sender"),
    ("maxLabels*", Missing, "set label_limit and its like in the configuration"),
    ("maxLabelNameLen", Missing, "set label_name_length_limit in the configuration"),
    ("maxLabelValueLen", Missing, "set label_value_length_limit in the configuration"),
    ("sortLabels", Same, ALWAYS),
    ("memory.*", Different, "memory follows the number of series; there are no caches to be bounded"),
    ("blockcache.*", Different, NO_NEED),
    ("fs.*", Different, NO_NEED),
    ("internStringMaxLen", Different, NO_NEED),
    ("internStringCacheExpireDuration", Different, NO_NEED),
    ("enableTCP6", Same, ALWAYS),
    ("envflag.*", Different, "flags come from the command line and from @file"),
    ("secret.flags", Different, "secrets are in the configuration, and never shown"),
    ("filestream.disableFadvise", Different, NO_NEED),
    ("loggerOutput", Different, "the log goes to stderr"),
    ("loggerTimezone", Different, "times are UTC"),
    ("loggerDisableTimestamps", Different, "every line has a time"),
    ("loggerErrorsPerSecondLimit", Different, NO_NEED),
    ("loggerWarnsPerSecondLimit", Different, NO_NEED),
    ("loggerMaxArgLen", Different, NO_NEED),
    ("loggerJSONFields", Different, "the keys are those of Prometheus"),
    ("license*", Different, NO_NEED),
    ("version", Different, "`ringscrape --version`"),
];

/// Flags that the plan itself puts somewhere.
const PLACED: [&str; 40] = [
    "promscrape.config",
    "promscrape.configCheckInterval",
    "promscrape.maxScrapeSize",
    "httpListenAddr",
    "http.pathPrefix",
    "loggerLevel",
    "loggerFormat",
    "remoteWrite.url",
    "remoteWrite.tmpDataPath",
    "remoteWrite.maxDiskUsagePerURL",
    "remoteWrite.label",
    "remoteWrite.relabelConfig",
    "remoteWrite.urlRelabelConfig",
    "remoteWrite.basicAuth.username",
    "remoteWrite.basicAuth.usernameFile",
    "remoteWrite.basicAuth.password",
    "remoteWrite.basicAuth.passwordFile",
    "remoteWrite.bearerToken",
    "remoteWrite.bearerTokenFile",
    "remoteWrite.oauth2.clientID",
    "remoteWrite.oauth2.clientSecret",
    "remoteWrite.oauth2.clientSecretFile",
    "remoteWrite.oauth2.tokenUrl",
    "remoteWrite.oauth2.scopes",
    "remoteWrite.oauth2.endpointParams",
    "remoteWrite.tlsCAFile",
    "remoteWrite.tlsCertFile",
    "remoteWrite.tlsKeyFile",
    "remoteWrite.tlsServerName",
    "remoteWrite.tlsInsecureSkipVerify",
    "remoteWrite.headers",
    "remoteWrite.proxyURL",
    "remoteWrite.sendTimeout",
    "remoteWrite.retryMinInterval",
    "remoteWrite.retryMaxTime",
    "remoteWrite.retryMaxInterval",
    "remoteWrite.queues",
    "remoteWrite.maxRowsPerBlock",
    "remoteWrite.flushInterval",
    "remoteWrite.tlsHandshakeTimeout",
];

/// Flags without a value.
const SWITCHES: [&str; 26] = [
    "promscrape.config.strictParse",
    "promscrape.config.dryRun",
    "dryRun",
    "promscrape.suppressScrapeErrors",
    "promscrape.suppressDuplicateScrapeTargetErrors",
    "promscrape.noStaleMarkers",
    "promscrape.streamParse",
    "promscrape.dropOriginalLabels",
    "promscrape.disableCompression",
    "promscrape.disableKeepAlive",
    "remoteWrite.showURL",
    "remoteWrite.forceVMProto",
    "remoteWrite.forcePromProto",
    "remoteWrite.keepDanglingQueues",
    "remoteWrite.disableOnDiskQueue",
    "remoteWrite.dropSamplesOnOverload",
    "remoteWrite.shardByURL",
    "remoteWrite.tlsInsecureSkipVerify",
    "remoteWrite.streamAggr.keepInput",
    "enableMultitenantHandlers",
    "usePromCompatibleNaming",
    "enableMetadata",
    "tls",
    "sortLabels",
    "enableTCP6",
    "envflag.enable",
];

/// Fields of vmagent's configuration that Prometheus does not have.
const FIELDS: &[(&str, &str)] = &[
    ("series_limit", "remove it; sample_limit fails the whole scrape beyond it"),
    ("scrape_align_interval", "remove it; phases are fixed to the wall clock"),
    ("scrape_offset", "remove it; phases are fixed to the wall clock"),
    ("stream_parse", "remove it; there is no need for it"),
    ("no_stale_markers", "remove it; staleness markers are always sent"),
    ("max_scrape_size", "write body_size_limit"),
    ("headers", "write http_headers: {NAME: {values: [VALUE]}}"),
    ("proxy_headers", "write proxy_connect_header"),
    ("disable_compression", "write enable_compression: false"),
    ("disable_keepalive", "remove it"),
    ("relabel_debug", "remove it; the page of a target shows its relabelling"),
    ("metric_relabel_debug", "remove it"),
    ("label_limit_per_target", "write label_limit"),
    ("if", "write source_labels and regex of a rule `keep` or `drop`"),
    ("action", "write the rule with the actions of Prometheus"),
];

/// Flags by name, each with its values in order.
type Flags = BTreeMap<String, Vec<String>>;

pub fn plan(setup: &Setup) -> Plan {
    let mut report = Report::default();
    let flags = match read_flags(&setup.source.arguments) {
        Ok(flags) => flags,
        Err(error) => {
            report.add(Refused, &error, "");
            Flags::new()
        }
    };
    for name in flags.keys() {
        add_note(&mut report, name);
    }
    let one = |name: &str| flags.get(name).and_then(|values| values.last()).filter(|value| !value.is_empty());
    let data_folder = PathBuf::from(DATA_FOLDER);
    let written = setup.folder.as_ref().map(|folder| std::path::absolute(folder).unwrap_or_else(|_| folder.clone()));
    let config_file = written.map_or_else(|| PathBuf::from(CONFIG_FILE), |folder| folder.join("prometheus.yml"));
    let mut arguments = vec![
        "--agent".to_owned(),
        format!("--config.file={}", config_file.display()),
        format!("--storage.agent.path={}", data_folder.display()),
        format!("--web.listen-address={}", one("httpListenAddr").map_or(":8429", String::as_str)),
    ];
    report.add(Same, "-httpListenAddr", "--web.listen-address");
    if let Some(prefix) = one("http.pathPrefix") {
        arguments.push(format!("--web.route-prefix={prefix}"));
    }
    if let Some(level) = one("loggerLevel") {
        let level = level.to_ascii_lowercase();
        let known = ["info", "warn", "error"].contains(&level.as_str());
        arguments.push(format!("--log.level={}", if known { level.as_str() } else { "error" }));
    }
    if one("loggerFormat").is_some_and(|format| format == "json") {
        arguments.push("--log.format=json".to_owned());
    }
    if let Some(interval) =
        one("promscrape.configCheckInterval").filter(|interval| *interval != "0" && *interval != "0s")
    {
        arguments.push("--config.auto-reload".to_owned());
        arguments.push(format!("--config.auto-reload-interval={interval}"));
    }
    if let Some(size) = one("remoteWrite.maxDiskUsagePerURL").filter(|size| *size != "0") {
        match bytes(size) {
            Some(bytes) => {
                let count =
                    flags.get("remoteWrite.url").map_or(1, |urls| urls.iter().flat_map(|urls| split(urls)).count())
                        as u64;
                arguments.push(format!("--storage.agent.retention.size={}B", bytes.saturating_mul(count)));
                report.add(
                    Different,
                    "-remoteWrite.maxDiskUsagePerURL",
                    "--storage.agent.retention.size bounds the logs for all endpoints together",
                );
            }
            None => report.add(Refused, &format!("-remoteWrite.maxDiskUsagePerURL={size}"), "is no size"),
        }
    }
    report.add(
        Different,
        "-remoteWrite.tmpDataPath",
        &format!("logs are in {DATA_FOLDER}; what waits in vmagent's queues is not taken: stop scraping by vmagent, and end it once vmagent_remotewrite_pending_data_bytes is 0"),
    );
    report.add(Different, "`up` and its like", "vmagent's scrape_response_size_bytes, scrape_series_current and so on have Prometheus' names, with extra_scrape_metrics");
    let old = config_path(setup, &flags);
    let config = config(setup, &flags, old.as_deref(), &mut report);
    examine(old.as_deref(), &config, &arguments, &mut report);
    if let Some(old) = &old {
        note_relative_paths(old, &config_file, &config, &mut report);
    }
    let steps = steps(setup, &config_file);
    Plan { report, arguments, config: Some(config), data_folder, steps }
}

fn add_note(report: &mut Report, name: &str) {
    if PLACED.contains(&name) {
        return;
    }
    let matches = |pattern: &str| match pattern.split_once('*') {
        Some((start, end)) => name.starts_with(start) && name.ends_with(end),
        None => name == pattern,
    };
    let subject = format!("-{name}");
    match FLAGS.iter().find(|(pattern, ..)| matches(pattern)) {
        Some((_, verdict, reason)) => report.add(*verdict, &subject, reason),
        None => report.add(Missing, &subject, "this flag is not known here"),
    }
}

/// Flags as Go's package `flag` reads them: `-name=value`, `-name value`, `-switch`, with one dash or two.
fn read_flags(arguments: &[String]) -> Result<Flags, String> {
    let mut flags = Flags::new();
    let mut arguments = arguments.iter().peekable();
    while let Some(argument) = arguments.next() {
        let Some(text) = argument.strip_prefix("--").or_else(|| argument.strip_prefix('-')) else {
            return Err(format!("{argument:?} is no flag"));
        };
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, value.to_owned()),
            None if SWITCHES.contains(&text) => (text, "true".to_owned()),
            None => match arguments.next_if(|next| !next.starts_with('-')) {
                Some(value) => (text, value.clone()),
                None => (text, "true".to_owned()),
            },
        };
        flags.entry(name.to_owned()).or_default().push(value);
    }
    Ok(flags)
}

/// The values of a flag that is an array: separated by commas outside of quotes.
fn split(text: &str) -> Vec<String> {
    let mut values = vec![String::new()];
    let mut quote = None;
    for character in text.chars() {
        match (quote, character) {
            (Some(open), character) if open == character => quote = None,
            // A quote within a value is a sign like any other.
            (None, '"' | '\'') if values.last().is_some_and(String::is_empty) => quote = Some(character),
            (None, ',') => values.push(String::new()),
            (_, character) => values.last_mut().expect("never empty").push(character),
        }
    }
    values
}

/// Bytes of `500MB`, `1GiB`, `1073741824`, as VictoriaMetrics reads them.
fn bytes(text: &str) -> Option<u64> {
    const UNITS: [(&str, f64); 9] = [
        ("KiB", 1024.0),
        ("MiB", 1_048_576.0),
        ("GiB", 1_073_741_824.0),
        ("TiB", 1_099_511_627_776.0),
        ("KB", 1e3),
        ("MB", 1e6),
        ("GB", 1e9),
        ("TB", 1e12),
        ("", 1.0),
    ];
    let (unit, factor) = UNITS.iter().find(|(unit, _)| text.ends_with(unit))?;
    let number: f64 = text[..text.len() - unit.len()].trim().parse().ok()?;
    (number >= 0.0 && number * factor < 9e18).then(|| (number * factor) as u64)
}

/// A text of YAML, in quotes.
fn yaml(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// The file that vmagent reads, unless it is a URL.
fn config_path(setup: &Setup, flags: &Flags) -> Option<PathBuf> {
    let named = flags.get("promscrape.config").and_then(|values| values.last()).filter(|name| !name.contains("://"));
    setup.config_file.clone().or_else(|| named.map(|name| setup.path(name)))
}

/// The configuration that vmagent reads, and the section `remote_write` behind it.
fn config(setup: &Setup, flags: &Flags, file: Option<&Path>, report: &mut Report) -> String {
    let mut text = match (file, flags.get("promscrape.config").and_then(|values| values.last())) {
        (Some(file), _) => source::read_file(file).unwrap_or_else(|error| {
            report.add(Refused, &error.to_string(), "");
            String::new()
        }),
        (None, Some(url)) => {
            report.add(
                Refused,
                &format!("-promscrape.config={url}"),
                "a configuration is a file: fetch it, and give it with --config.file",
            );
            String::new()
        }
        (None, None) => {
            report.add(
                Different,
                "no -promscrape.config",
                "nothing is scraped; set a receiver such as --web.enable-remote-write-receiver",
            );
            String::new()
        }
    };
    if text.contains("%{") {
        report.add(
            Missing,
            "%{NAME} in the configuration",
            "variables are expanded in external_labels alone, as ${NAME}",
        );
    }
    if !text.contains("honor_timestamps") && !text.is_empty() {
        report.add(Different, "honor_timestamps", "true unless a job says otherwise; vmagent's is false");
    }
    if !text.contains("body_size_limit") && !text.is_empty() {
        let size = flags
            .get("promscrape.maxScrapeSize")
            .and_then(|values| values.last())
            .map_or(SCRAPE_SIZE_MAX, String::as_str);
        report.add(
            Different,
            "-promscrape.maxScrapeSize",
            &format!("vmagent takes payloads up to {size}, ringscrape up to 64 MiB; set body_size_limit"),
        );
    }
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    let urls: Vec<String> = flags.get("remoteWrite.url").into_iter().flatten().flat_map(|urls| split(urls)).collect();
    if urls.is_empty() {
        report.add(Refused, "no -remoteWrite.url", "an agent sends to at least one endpoint");
        return text;
    }
    text.push_str("\n# From the flags of vmagent.\nremote_write:\n");
    for (index, url) in urls.iter().enumerate() {
        endpoint(&mut text, &Endpoint { setup, flags, index }, url, report);
    }
    report.add(Same, "-remoteWrite.url and what belongs to it", &format!("{} entries of remote_write", urls.len()));
    text
}

/// The flags of one endpoint.
struct Endpoint<'a> {
    setup: &'a Setup,
    flags: &'a Flags,
    index: usize,
}

impl Endpoint<'_> {
    /// Its value of an array: a single value holds for all endpoints.
    fn get(&self, name: &str) -> Option<String> {
        let all: Vec<String> =
            self.flags.get(&format!("remoteWrite.{name}"))?.iter().flat_map(|text| split(text)).collect();
        let value = if all.len() == 1 { all.first() } else { all.get(self.index) };
        value.filter(|value| !value.is_empty()).cloned()
    }
}

/// Fields of `remote_write`, by the path in the configuration and the flag; a number of blanks is the depth.
const ENDPOINT_FIELDS: &[(&str, &[(&str, &str)])] = &[
    ("", &[("remote_timeout", "sendTimeout"), ("proxy_url", "proxyURL")]),
    (
        "basic_auth",
        &[
            ("username", "basicAuth.username"),
            ("username_file", "basicAuth.usernameFile"),
            ("password", "basicAuth.password"),
            ("password_file", "basicAuth.passwordFile"),
        ],
    ),
    ("authorization", &[("credentials", "bearerToken"), ("credentials_file", "bearerTokenFile")]),
    (
        "oauth2",
        &[
            ("client_id", "oauth2.clientID"),
            ("client_secret", "oauth2.clientSecret"),
            ("client_secret_file", "oauth2.clientSecretFile"),
            ("token_url", "oauth2.tokenUrl"),
        ],
    ),
    (
        "tls_config",
        &[
            ("ca_file", "tlsCAFile"),
            ("cert_file", "tlsCertFile"),
            ("key_file", "tlsKeyFile"),
            ("server_name", "tlsServerName"),
        ],
    ),
    ("queue_config", &[("min_backoff", "retryMinInterval"), ("batch_send_deadline", "flushInterval")]),
];

fn endpoint(out: &mut String, endpoint: &Endpoint, url: &str, report: &mut Report) {
    let _ = writeln!(out, "  - url: {}", yaml(url));
    for (section, fields) in ENDPOINT_FIELDS {
        let mut lines: Vec<String> = Vec::new();
        for (field, flag) in *fields {
            lines.extend(endpoint.get(flag).map(|value| format!("{field}: {}", yaml(&value))));
        }
        match *section {
            "oauth2" => {
                let scopes = endpoint.get("oauth2.scopes").map(|scopes| {
                    let scopes: Vec<String> = scopes.split(';').map(yaml).collect();
                    format!("scopes: [{}]", scopes.join(", "))
                });
                lines.extend(scopes);
                lines.extend(
                    endpoint.get("oauth2.endpointParams").map(|parameters| format!("endpoint_params: {parameters}")),
                );
            }
            "tls_config" if endpoint.get("tlsInsecureSkipVerify").is_some_and(|value| value == "true") => {
                lines.push("insecure_skip_verify: true".to_owned());
            }
            "queue_config" => {
                let back_off = endpoint.get("retryMaxInterval").or_else(|| endpoint.get("retryMaxTime"));
                lines.extend(back_off.map(|value| format!("max_backoff: {}", yaml(&value))));
                let numbers = [("max_shards", "queues"), ("max_samples_per_send", "maxRowsPerBlock")];
                for (field, flag) in numbers {
                    lines.extend(endpoint.get(flag).map(|value| format!("{field}: {value}")));
                }
            }
            _ => {}
        }
        if !section.is_empty() && !lines.is_empty() {
            let _ = writeln!(out, "    {section}:");
        }
        let blanks = if section.is_empty() { "    " } else { "      " };
        for line in lines {
            let _ = writeln!(out, "{blanks}{line}");
        }
    }
    if let Some(headers) = endpoint.get("headers") {
        out.push_str("    headers:\n");
        for (name, value) in headers.split("^^").filter_map(|header| header.split_once(':')) {
            let _ = writeln!(out, "      {}: {}", yaml(name.trim()), yaml(value.trim()));
        }
    }
    relabelling(out, endpoint, report);
}

/// Labels first, then the rules for all endpoints, then its own, as vmagent applies them.
fn relabelling(out: &mut String, endpoint: &Endpoint, report: &mut Report) {
    let mut rules = String::new();
    for label in endpoint.flags.get("remoteWrite.label").into_iter().flatten().flat_map(|labels| split(labels)) {
        if let Some((name, value)) = label.split_once('=') {
            // A dollar sign is that sign.
            let value = yaml(&value.replace('$', "$$"));
            let _ = writeln!(rules, "      - {{target_label: {}, replacement: {value}}}", yaml(name));
        }
    }
    let common = endpoint.flags.get("remoteWrite.relabelConfig").and_then(|files| files.last()).cloned();
    for file in common.into_iter().chain(endpoint.get("urlRelabelConfig")) {
        match source::read_file(&endpoint.setup.path(&file)) {
            Ok(text) => {
                for line in text.lines().filter(|line| *line != "---") {
                    let _ = writeln!(rules, "      {line}");
                }
            }
            Err(error) => report.add(Refused, &error.to_string(), ""),
        }
    }
    if !rules.is_empty() {
        out.push_str("    write_relabel_configs:\n");
        out.push_str(&rules);
    }
}

/// Reads the new configuration as if it were in the place of the old one.
fn examine(old: Option<&Path>, config: &str, arguments: &[String], report: &mut Report) {
    let cli = match Cli::try_parse_args(std::iter::once("ringscrape".to_owned()).chain(arguments.iter().cloned())) {
        Ok(cli) => cli,
        Err(error) => return report.add(Refused, error.to_string().lines().next().unwrap_or_default(), ""),
    };
    let name = Path::new("prometheus.yml (the new one)");
    let loaded = config::parse_config(old.unwrap_or(name), config, &config::Env::process());
    examine_config(report, &cli.serve, old.unwrap_or(name), loaded, |error| {
        let field = error.path.rsplit('.').next().unwrap_or_default();
        FIELDS.iter().find(|(name, _)| *name == field).map_or("", |(_, hint)| hint)
    });
}

/// The folder that relative paths of the old configuration start from, if the new one lies elsewhere and has such paths.
fn note_relative_paths(old: &Path, new: &Path, config: &str, report: &mut Report) {
    let has_files = ["files:", "_file:", "scrape_config_files"].iter().any(|word| config.contains(word));
    if has_files && old.parent() != new.parent() {
        let folder = old.parent().unwrap_or(Path::new(".")).display();
        report.add(
            Different,
            "relative paths in the configuration",
            &format!("were relative to {folder}, and are to the folder of {}", new.display()),
        );
    }
}

fn steps(setup: &Setup, config_file: &Path) -> Vec<String> {
    let other = setup.unit_name().unwrap_or("vmagent.service");
    let mut steps = Vec::new();
    match &setup.folder {
        None => steps.push(
            "run this again with --write=FOLDER: it writes the unit file, the flags and the configuration".to_owned(),
        ),
        Some(folder) => steps.push(format!(
            "cp {}/ringscrape.service /etc/systemd/system/ && systemctl daemon-reload",
            folder.display()
        )),
    }
    steps.push(format!("ringscrape check config --agent {}", config_file.display()));
    steps.push(format!("install -d -o USER {DATA_FOLDER}   (USER as in the unit)"));
    steps.push(format!("systemctl disable --now {other}; systemctl enable --now ringscrape"));
    steps.push(format!("and back: systemctl disable --now ringscrape; systemctl enable --now {other}"));
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(list: &[&str]) -> Vec<String> {
        list.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn flags_are_read_as_go_reads_them() {
        let flags = read_flags(&strings(&[
            "-remoteWrite.url=http://a/",
            "--remoteWrite.url",
            "http://b/",
            "-promscrape.noStaleMarkers",
            "-dryRun",
            "-enableTCP6=false",
        ]))
        .unwrap();
        assert_eq!(flags["remoteWrite.url"], ["http://a/", "http://b/"]);
        assert_eq!(flags["promscrape.noStaleMarkers"], ["true"]);
        assert_eq!(flags["enableTCP6"], ["false"]);
        assert!(read_flags(&strings(&["x"])).is_err());
    }

    #[test]
    fn values_of_arrays_and_sizes() {
        assert_eq!(split("a,'b,c',\"d\""), ["a", "b,c", "d"]);
        assert_eq!(split("p\"1,p2"), ["p\"1", "p2"]);
        for (text, want) in
            [("1GiB", Some(1 << 30)), ("500MB", Some(500_000_000)), ("12", Some(12)), ("x", None), ("-1", None)]
        {
            assert_eq!(bytes(text), want, "{text}");
        }
    }

    #[test]
    fn every_flag_has_one_place() {
        for name in PLACED {
            let clash = FLAGS.iter().any(|(flag, ..)| *flag == name);
            assert!(!clash, "{name} is placed and noted");
        }
    }
}
