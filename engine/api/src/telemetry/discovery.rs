//! Metrics of discovery.

use crate::metrics_writer::MetricsWriter;
use crate::state::State;
use std::time::UNIX_EPOCH;
use targets::{Attempts, BOUNDS_SECONDS};

/// Discovery of targets, in the label that tells it from that of Alertmanagers.
const SCRAPE: &str = "scrape";

pub(super) fn discovery(writer: &mut MetricsWriter, state: &State) {
    let found = state.parts.targets.stats();
    let name = "prometheus_sd_discovered_targets";
    writer.family(name, "gauge", "Addresses that discovery has found for a job.");
    for (job, count) in &found.discovered_targets {
        writer.line(name, &[("config", job), ("name", SCRAPE)], *count as f64);
    }
    let name = "prometheus_sd_refresh_failures_total";
    writer.family(name, "counter", "Failed attempts to get a list of targets.");
    for ((job, mechanism), stats) in &found.refreshes {
        writer.line(name, &[("config", job), ("mechanism", mechanism)], stats.failures as f64);
    }
    let name = "prometheus_sd_refresh_duration_seconds";
    writer.family(name, "summary", "Time that attempts to get a list of targets took; quantiles of the latest 64.");
    for ((job, mechanism), stats) in &found.refreshes {
        summary(writer, name, &[("config", job), ("mechanism", mechanism)], &stats.attempts);
    }
    let name = "prometheus_sd_refresh_duration_histogram_seconds";
    writer.family(name, "histogram", "The same by mechanism.");
    for (mechanism, attempts) in found.attempts.iter().filter(|(_, attempts)| attempts.count > 0) {
        histogram(writer, name, mechanism, attempts);
    }
    let name = "prometheus_sd_failed_configs";
    let help = "Sections of discovery that have settings which cannot work.";
    writer.by(name, "gauge", help, "name", [(SCRAPE, found.failed_sources as f64)]);
    let file_errors = found.failures_total.get("file").copied().unwrap_or(0);
    writer.counter(
        "prometheus_sd_file_read_errors_total",
        "Failed attempts to read a target file.",
        file_errors as f64,
    );
    let name = "prometheus_sd_file_mtime_seconds";
    writer.family(name, "gauge", "When a target file in use was modified.");
    for (file, at) in &found.files_modified {
        let at = at.duration_since(UNIX_EPOCH).unwrap_or_default();
        writer.line(name, &[("filename", file)], at.as_secs_f64());
    }
    let name = "prometheus_sd_file_scan_duration_seconds";
    writer.family(name, "summary", "Time that reading the target files of a section took.");
    summary(writer, name, &[], found.attempts.get("file").unwrap_or(&Attempts::default()));
    let name = "prometheus_sd_file_watcher_errors_total";
    writer.counter(name, "Errors of the watch of target files.", found.watch_errors_total as f64);
    let failures = |mechanism| found.failures_total.get(mechanism).copied().unwrap_or(0) as f64;
    let lookups = found.attempts.get("dns").map_or(0, |attempts| attempts.count);
    writer.counter("prometheus_sd_http_failures_total", "Failed refreshes of HTTP discovery.", failures("http"));
    writer.counter("prometheus_sd_dns_lookups_total", "DNS look-ups.", lookups as f64);
    writer.counter("prometheus_sd_dns_lookup_failures_total", "Failed DNS look-ups.", failures("dns"));
    writer.counter("prometheus_sd_consul_rpc_failures_total", "Failed calls of Consul.", failures("consul"));
    writer.family(
        "prometheus_sd_consul_rpc_duration_seconds",
        "summary",
        "Time that calls of Consul took, waiting included.",
    );
    for call in ["service", "services"] {
        let labels = [("call", call), ("endpoint", "catalog")];
        let calls = found.calls.get(call).cloned().unwrap_or_default();
        summary(writer, "prometheus_sd_consul_rpc_duration_seconds", &labels, &calls);
    }
    writer.counter("prometheus_sd_kubernetes_failures_total", "Failed lists and watches.", failures("kubernetes"));
    writer.counter("prometheus_sd_nomad_failures_total", "Failed refreshes of Nomad.", failures("nomad"));
    writer.counter("prometheus_sd_linode_failures_total", "Failed refreshes of Linode.", failures("linode"));
    writer.counter("prometheus_sd_azure_failures_total", "Failed refreshes of Azure.", failures("azure"));
    let hits = found.cache_hits_total.get("azure").copied().unwrap_or(0) as f64;
    writer.counter("prometheus_sd_azure_cache_hit_total", "Interfaces of Azure that were known.", hits);
    writer.counter("prometheus_sd_kuma_fetch_failures_total", "Failed polls of Kuma.", failures("kuma"));
    let skipped = found.unchanged_total.get("kuma").copied().unwrap_or(0) as f64;
    writer.counter("prometheus_sd_kuma_fetch_skipped_updates_total", "Polls of Kuma without news.", skipped);
    let name = "prometheus_sd_kuma_fetch_duration_seconds";
    writer.family(name, "summary", "Time that polls of Kuma took.");
    summary(writer, name, &[], found.attempts.get("kuma").unwrap_or(&Attempts::default()));
    let zookeeper = failures("serverset") + failures("nerve");
    writer.counter("prometheus_treecache_zookeeper_failures_total", "Sessions of ZooKeeper that failed.", zookeeper);
    writer.family("prometheus_sd_kubernetes_events_total", "counter", "News of Kubernetes' objects.");
    let mut events = found.kubernetes_events.clone();
    for role in ["endpoints", "endpointslice", "ingress", "node", "pod", "service"] {
        for event in ["add", "delete", "update"] {
            events.entry((event, role)).or_default();
        }
    }
    for ((event, role), count) in &events {
        let labels = [("event", *event), ("role", *role)];
        writer.line("prometheus_sd_kubernetes_events_total", &labels, *count as f64);
    }
    let of_scrapes = |count: u64| [(SCRAPE, count as f64)];
    let help = "Target lists received from discovery.";
    let name = "prometheus_sd_received_updates_total";
    writer.by(name, "counter", help, "name", of_scrapes(found.received_updates_total));
    let help = "Times that targets were built anew.";
    writer.by("prometheus_sd_updates_total", "counter", help, "name", of_scrapes(found.updates_total));
    let updated = found.last_update.and_then(|at| at.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
    let name = "prometheus_sd_last_update_timestamp_seconds";
    writer.family(name, "gauge", "When targets were last built anew.");
    for job in found.discovered_targets.keys() {
        writer.line(name, &[("config", job), ("name", SCRAPE)], updated.as_secs_f64());
    }
}

/// Quantiles, sum and count of attempts.
fn summary(writer: &mut MetricsWriter, name: &str, labels: &[(&str, &str)], attempts: &Attempts) {
    for share in [0.5, 0.9, 0.99] {
        let text = share.to_string();
        let mut labels = labels.to_vec();
        labels.push(("quantile", &text));
        writer.line(name, &labels, attempts.quantile(share));
    }
    writer.line(&format!("{name}_sum"), labels, attempts.time.as_secs_f64());
    writer.line(&format!("{name}_count"), labels, attempts.count as f64);
}

fn histogram(writer: &mut MetricsWriter, name: &str, mechanism: &str, attempts: &Attempts) {
    let bucket = format!("{name}_bucket");
    for (bound, count) in BOUNDS_SECONDS.iter().zip(attempts.within) {
        writer.line(&bucket, &[("mechanism", mechanism), ("le", &bound.to_string())], count as f64);
    }
    let labels = [("mechanism", mechanism)];
    writer.line(&bucket, &[("mechanism", mechanism), ("le", "+Inf")], attempts.count as f64);
    writer.line(&format!("{name}_sum"), &labels, attempts.time.as_secs_f64());
    writer.line(&format!("{name}_count"), &labels, attempts.count as f64);
}
