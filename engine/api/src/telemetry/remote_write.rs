//! Metrics of remote write, under Prometheus' names.

use crate::metrics_writer::MetricsWriter;
use crate::state::State;
use ::remote_write::{BUCKETS, EndpointStats, KindStats, Stats};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

type Value = fn(&EndpointStats) -> f64;

fn count(counter: &AtomicU64) -> f64 {
    counter.load(Ordering::Relaxed) as f64
}

fn seconds(milliseconds: &AtomicI64) -> f64 {
    milliseconds.load(Ordering::Relaxed) as f64 / 1000.0
}

/// Families with one line for each endpoint.
const FAMILIES: [(&str, &str, &str, Value); 21] = [
    ("prometheus_remote_storage_bytes_total", "counter", "Compressed bytes of requests that were accepted.", |one| {
        count(&one.stats.bytes_sent)
    }),
    ("prometheus_remote_storage_metadata_total", "counter", "Entries of metadata that were accepted.", |one| {
        count(&one.stats.metadata_sent)
    }),
    ("prometheus_remote_storage_metadata_failed_total", "counter", "Entries of metadata that were lost.", |one| {
        count(&one.stats.metadata_failed)
    }),
    (
        "prometheus_remote_storage_metadata_retried_total",
        "counter",
        "Entries of metadata that were sent again.",
        |one| count(&one.stats.metadata_retried),
    ),
    (
        "prometheus_remote_storage_metadata_bytes_total",
        "counter",
        "Compressed bytes of metadata that was accepted.",
        |one| count(&one.stats.metadata_bytes_sent),
    ),
    ("prometheus_remote_storage_enqueue_retries_total", "counter", "Always 0: the log is the queue.", |_| 0.0),
    ("prometheus_remote_storage_shards", "gauge", "Requests in flight.", |one| count(&one.stats.in_flight)),
    (
        "prometheus_remote_storage_shards_desired",
        "gauge",
        "Requests in flight, and one more than their limit while batches wait.",
        |one| one.shards_desired() as f64,
    ),
    ("prometheus_remote_storage_shards_max", "gauge", "The largest number of requests in flight.", |one| {
        one.shards_max as f64
    }),
    ("prometheus_remote_storage_shards_min", "gauge", "min_shards of queue_config.", |one| one.shards_min as f64),
    ("prometheus_remote_storage_shard_capacity", "gauge", "capacity of queue_config.", |one| one.capacity as f64),
    ("prometheus_remote_storage_max_samples_per_send", "gauge", "The largest number of samples in a request.", |one| {
        one.samples_per_send_max as f64
    }),
    (
        "prometheus_remote_storage_queue_highest_timestamp_seconds",
        "gauge",
        "Newest timestamp that the log has for the endpoint.",
        |one| one.stats.highest_ms() as f64 / 1000.0,
    ),
    (
        "prometheus_remote_storage_queue_highest_sent_timestamp_seconds",
        "gauge",
        "Newest timestamp that was accepted.",
        |one| seconds(&one.stats.newest_sent_ms),
    ),
    (
        "ringscrape_remote_storage_rows_lost_total",
        "counter",
        "Scrapes that could not be read from the log, or were removed with it.",
        |one| count(&one.stats.rows_lost),
    ),
    (
        "ringscrape_remote_storage_files_lost_total",
        "counter",
        "Log files that were removed before they were acknowledged.",
        |one| count(&one.stats.files_lost),
    ),
    (
        "ringscrape_remote_storage_log_bytes_lost_total",
        "counter",
        "Bytes of log files that were removed before they were acknowledged.",
        |one| count(&one.stats.log_bytes_lost),
    ),
    ("ringscrape_remote_storage_lag_bytes", "gauge", "Bytes of the log that are not acknowledged.", |one| {
        count(&one.stats.lag_bytes)
    }),
    (
        "ringscrape_remote_storage_lag_seconds",
        "gauge",
        "How far the newest accepted timestamp is behind the log.",
        |one| one.stats.lag().map_or(f64::NAN, |lag| lag.as_secs_f64()),
    ),
    (
        "ringscrape_remote_storage_equal_endpoints",
        "gauge",
        "Endpoints, this one included, for which the log is read and requests are made once.",
        |one| count(&one.stats.same_batches),
    ),
    ("ringscrape_remote_storage_accepted_requests_total", "counter", "Requests that were accepted.", |one| {
        count(&one.stats.accepted)
    }),
];

type Kind = fn(&Stats) -> &KindStats;
const KINDS: [(&str, Kind); 3] = [
    ("samples", |stats| &stats.samples),
    ("histograms", |stats| &stats.histograms),
    ("exemplars", |stats| &stats.exemplars),
];

type OfKind = fn(&KindStats) -> &AtomicU64;
/// Families of samples, histograms and exemplars.
const KIND_FAMILIES: [(&str, &str, &str, OfKind); 4] = [
    ("total", "counter", "that were accepted.", |kind| &kind.sent),
    ("failed_total", "counter", "that were lost.", |kind| &kind.failed),
    ("retried_total", "counter", "that were sent again, once for each time.", |kind| &kind.retried),
    ("pending", "gauge", "in requests that are not answered.", |kind| &kind.pending),
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
    for (name, kind, help, of) in FAMILIES {
        family(name, kind, help, &of);
    }
    for (what, stats) in KINDS {
        for (rest, kind, help, of) in KIND_FAMILIES {
            let name = format!("prometheus_remote_storage_{what}_{rest}");
            family(&name, kind, &format!("{what} {help}"), &|one| count(of(stats(&one.stats))));
        }
    }
    let name = "prometheus_wal_watcher_current_segment";
    writer.family(
        name,
        "gauge",
        "The newest log file of which something was acknowledged, by its number within its log.",
    );
    for one in &endpoints {
        writer.line(name, &[("consumer", &one.name)], count(&one.stats.current_file));
    }
    by_reason(writer, &endpoints);
    request_times(writer, &endpoints);
    for (what, stats) in KINDS {
        let name = format!("prometheus_remote_storage_{what}_in_total");
        writer.family(&name, "counter", &format!("{what} that were read from the log."));
        // Each endpoint is read for; one that has begun late has read less.
        writer.line(&name, &[], endpoints.iter().map(|one| count(&stats(&one.stats).read)).fold(0.0, f64::max));
    }
    let name = "prometheus_remote_storage_highest_timestamp_in_seconds";
    writer.family(name, "gauge", "Newest timestamp that the log has.");
    let highest_ms = endpoints.iter().map(|one| one.stats.highest_ms()).max().unwrap_or(0);
    writer.line(name, &[], highest_ms as f64 / 1000.0);
    let name = "prometheus_remote_storage_string_interner_zero_reference_releases_total";
    writer.family(name, "counter", "Always 0: texts are not counted by references.");
    writer.line(name, &[], 0.0);
}

/// What is not sent, and what is lost.
fn by_reason(writer: &mut MetricsWriter, endpoints: &[EndpointStats]) {
    for (what, of) in KINDS {
        let name = format!("prometheus_remote_storage_{what}_dropped_total");
        writer.family(&name, "counter", &format!("{what} that are not sent, by reason."));
        for one in endpoints {
            let (kind, stats) = (of(&one.stats), &one.stats);
            let mut reasons = vec![
                ("dropped_series", count(&kind.dropped_by_rules)),
                ("too_old", count(&kind.dropped_too_old)),
                ("unintentionally_dropped_series", 0.0),
            ];
            if what == "histograms" {
                reasons.push(("nhcb_in_rw1_not_supported", count(&stats.custom_buckets_dropped)));
            }
            for (reason, count) in reasons {
                let labels = [("remote_name", &*one.name), ("url", &*one.url), ("reason", reason)];
                writer.line(&name, &labels, count);
            }
        }
    }
    let name = "ringscrape_remote_storage_lost_total";
    writer.family(name, "counter", "Samples, histograms and exemplars that were lost, by reason.");
    for one in endpoints {
        for (reason, count) in one.stats.losses() {
            let labels = [("remote_name", &*one.name), ("url", &*one.url), ("reason", reason)];
            writer.line(name, &labels, count as f64);
        }
    }
}

fn request_times(writer: &mut MetricsWriter, endpoints: &[EndpointStats]) {
    let name = "prometheus_remote_storage_sent_batch_duration_seconds";
    writer.family(name, "histogram", "Duration of requests.");
    for one in endpoints {
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

/// What others send to us.
pub(super) fn receivers(writer: &mut MetricsWriter, state: &State) {
    let rejected = count(&state.remote.otlp_rejected_points);
    writer.counter("ringscrape_otlp_rejected_points_total", "Points of OTLP that were not taken.", rejected);
}
