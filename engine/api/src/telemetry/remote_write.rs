//! Metrics of remote write, under Prometheus' names.

use crate::metrics_writer::MetricsWriter;
use crate::state::State;
use ::remote_write::{BUCKETS, EndpointStats, Stats};
use std::sync::atomic::{AtomicU64, Ordering};

type Counter = fn(&Stats) -> &AtomicU64;

const COUNTERS: [(&str, &str, &str, Counter); 9] = [
    ("prometheus_remote_storage_samples_total", "counter", "Samples that were taken.", |s| &s.sent),
    ("prometheus_remote_storage_samples_failed_total", "counter", "Samples that were refused for good.", |s| &s.failed),
    ("prometheus_remote_storage_samples_retried_total", "counter", "Samples sent again, once for each time.", |s| {
        &s.retried
    }),
    ("prometheus_remote_storage_samples_pending", "gauge", "Samples that are not acknowledged yet.", |s| &s.pending),
    ("prometheus_remote_storage_shards", "gauge", "Requests under way.", |s| &s.under_way),
    ("prometheus_remote_storage_bytes_total", "counter", "Packed bytes of what was taken.", |s| &s.bytes_sent),
    ("prometheus_remote_storage_metadata_total", "counter", "Entries of metadata that were taken.", |s| {
        &s.metadata_sent
    }),
    ("prometheus_remote_storage_metadata_failed_total", "counter", "Entries of metadata that were not taken.", |s| {
        &s.metadata_failed
    }),
    ("ringscrape_remote_storage_rows_lost_total", "counter", "Scrapes that the log cannot tell any more.", |s| {
        &s.rows_lost
    }),
];

pub(super) fn remote_write(writer: &mut MetricsWriter, state: &State) {
    let endpoints = state.parts.remote_write.stats();
    let labels = |one: &EndpointStats| [("remote_name", one.name.clone()), ("url", one.url.clone())];
    let mut family = |name: &str, kind: &str, help: &str, of: &dyn Fn(&EndpointStats) -> f64| {
        writer.family(name, kind, help);
        for one in &endpoints {
            let labels = labels(one);
            let labels: Vec<(&str, &str)> = labels.iter().map(|(name, value)| (*name, value.as_str())).collect();
            writer.line(name, &labels, of(one));
        }
    };
    for (name, kind, help, of) in COUNTERS {
        family(name, kind, help, &|one| of(&one.stats).load(Ordering::Relaxed) as f64);
    }
    let name = "prometheus_remote_storage_shards_max";
    family(name, "gauge", "Most requests under way at once.", &|one| one.shards_max as f64);
    let running = state.running();
    let queue = |one: &EndpointStats| {
        let all = &running.config.remote_write;
        let is_its = |settings: &&config::RemoteWrite| {
            settings.name == one.name || settings.url.as_ref().is_some_and(|url| client::shown(url) == one.url)
        };
        let settings = all.iter().find(is_its);
        settings.map(|settings| settings.queue_config.clone()).unwrap_or_default()
    };
    let name = "prometheus_remote_storage_shards_min";
    family(name, "gauge", "The setting min_shards.", &|one| queue(one).min_shards as f64);
    let name = "prometheus_remote_storage_shard_capacity";
    family(name, "gauge", "The setting capacity.", &|one| queue(one).capacity as f64);
    let name = "prometheus_remote_storage_max_samples_per_send";
    family(name, "gauge", "The setting max_samples_per_send.", &|one| queue(one).max_samples_per_send as f64);
    let desired = |one: &EndpointStats| {
        let pending = one.stats.pending.load(Ordering::Relaxed) as f64;
        (pending / queue(one).max_samples_per_send.max(1) as f64).ceil()
    };
    let help = "Requests that would hold everything that is not acknowledged.";
    family("prometheus_remote_storage_shards_desired", "gauge", help, &desired);
    let help = "Times that a queue was full. There is no queue here, samples wait in the log: always 0.";
    family("prometheus_remote_storage_enqueue_retries_total", "counter", help, &|_| 0.0);
    let name = "prometheus_remote_storage_queue_highest_sent_timestamp_seconds";
    let newest = |one: &EndpointStats| one.stats.newest_sent_ms.load(Ordering::Relaxed) as f64 / 1000.0;
    family(name, "gauge", "Newest time of a sample that was taken.", &newest);
    let name = "prometheus_remote_storage_queue_highest_timestamp_seconds";
    let newest = |one: &EndpointStats| one.stats.newest_read_ms.load(Ordering::Relaxed) as f64 / 1000.0;
    family(name, "gauge", "Newest time of a sample that was read from the log.", &newest);

    let name = "prometheus_remote_storage_samples_dropped_total";
    writer.family(name, "counter", "Samples that are not sent, by reason.");
    for one in &endpoints {
        let stats = &one.stats;
        let reasons = [
            ("dropped_series", &stats.dropped_by_rules),
            ("too_old", &stats.dropped_too_old),
            ("native_histograms", &stats.histograms_left_out),
        ];
        for (reason, count) in reasons {
            let labels = [("remote_name", &*one.name), ("url", &*one.url), ("reason", reason)];
            writer.line(name, &labels, count.load(Ordering::Relaxed) as f64);
        }
    }
    let newest_ms = endpoints.iter().map(|one| one.stats.newest_read_ms.load(Ordering::Relaxed)).max().unwrap_or(0);
    let help = "Newest time of a sample that was read from the log for any endpoint.";
    writer.gauge("prometheus_remote_storage_highest_timestamp_in_seconds", help, newest_ms as f64 / 1000.0);
    let name = "prometheus_remote_storage_sent_batch_duration_seconds";
    writer.family(name, "histogram", "Time of requests.");
    for one in &endpoints {
        let (counts, sum) = one.stats.requests();
        let bounds = BUCKETS.iter().map(ToString::to_string).chain(["+Inf".to_owned()]);
        for (bound, count) in bounds.zip(&counts) {
            let labels = [("remote_name", &*one.name), ("url", &*one.url), ("le", &*bound)];
            writer.line(&format!("{name}_bucket"), &labels, *count as f64);
        }
        let labels = [("remote_name", &*one.name), ("url", &*one.url)];
        writer.line(&format!("{name}_sum"), &labels, sum);
        writer.line(&format!("{name}_count"), &labels, counts.last().copied().unwrap_or(0) as f64);
    }
}
