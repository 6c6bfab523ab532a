//! Metrics of discovery.

use crate::metrics_writer::MetricsWriter;
use crate::state::State;
use std::time::UNIX_EPOCH;

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
    writer.family(name, "summary", "Time that attempts to get a list of targets took.");
    for ((job, mechanism), stats) in &found.refreshes {
        let labels = [("config", job.as_str()), ("mechanism", *mechanism)];
        writer.line(&format!("{name}_sum"), &labels, stats.time.as_secs_f64());
        writer.line(&format!("{name}_count"), &labels, stats.attempts as f64);
    }
    let file_errors = found.failures_total.get("file").copied().unwrap_or(0);
    writer.counter(
        "prometheus_sd_file_read_errors_total",
        "Failed attempts to read a target file.",
        file_errors as f64,
    );
    let failures = |mechanism| found.failures_total.get(mechanism).copied().unwrap_or(0) as f64;
    let attempts = |mechanism| found.attempts.get(mechanism).copied().unwrap_or_default();
    writer.counter("prometheus_sd_http_failures_total", "Failed refreshes of HTTP discovery.", failures("http"));
    writer.counter("prometheus_sd_dns_lookups_total", "DNS look-ups.", attempts("dns").0 as f64);
    writer.counter("prometheus_sd_dns_lookup_failures_total", "Failed DNS look-ups.", failures("dns"));
    writer.counter("prometheus_sd_consul_rpc_failures_total", "Failed calls of Consul.", failures("consul"));
    writer.family(
        "prometheus_sd_consul_rpc_duration_seconds",
        "summary",
        "Time that calls of Consul took, waiting included.",
    );
    writer.line("prometheus_sd_consul_rpc_duration_seconds_sum", &[], attempts("consul").1.as_secs_f64());
    writer.line("prometheus_sd_consul_rpc_duration_seconds_count", &[], attempts("consul").0 as f64);
    writer.counter("prometheus_sd_kubernetes_failures_total", "Failed lists and watches.", failures("kubernetes"));
    writer.counter("prometheus_sd_nomad_failures_total", "Failed refreshes of Nomad.", failures("nomad"));
    writer.counter("prometheus_sd_linode_failures_total", "Failed refreshes of Linode.", failures("linode"));
    writer.counter("prometheus_sd_azure_failures_total", "Failed refreshes of Azure.", failures("azure"));
    writer.counter("prometheus_sd_kuma_fetch_failures_total", "Failed polls of Kuma.", failures("kuma"));
    let zookeeper = failures("serverset") + failures("nerve");
    writer.counter("prometheus_treecache_zookeeper_failures_total", "Sessions of ZooKeeper that failed.", zookeeper);
    writer.family("prometheus_sd_kubernetes_events_total", "counter", "News of Kubernetes' objects.");
    for ((event, role), count) in &found.kubernetes_events {
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
