//! What is sent by remote write: its part of `/metrics`, under Prometheus' names, and of the page `/status`.

use crate::metrics::Page;
use crate::state::State;
use maud::{Markup, html};
use remote_write::{BUCKETS, EndpointStats, Stats};
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

pub fn metrics(page: &mut Page, state: &State) {
    let endpoints = state.parts.remote_write.stats();
    let labels = |one: &EndpointStats| [("remote_name", one.name.clone()), ("url", one.url.clone())];
    let mut family = |name: &str, kind: &str, help: &str, of: &dyn Fn(&EndpointStats) -> f64| {
        page.family(name, kind, help);
        for one in &endpoints {
            let labels = labels(one);
            let labels: Vec<(&str, &str)> = labels.iter().map(|(name, value)| (*name, value.as_str())).collect();
            page.line(name, &labels, of(one));
        }
    };
    for (name, kind, help, of) in COUNTERS {
        family(name, kind, help, &|one| of(&one.stats).load(Ordering::Relaxed) as f64);
    }
    let name = "prometheus_remote_storage_shards_max";
    family(name, "gauge", "Most requests under way at once.", &|one| one.shards_max as f64);
    let name = "prometheus_remote_storage_queue_highest_sent_timestamp_seconds";
    let newest = |one: &EndpointStats| one.stats.newest_sent_ms.load(Ordering::Relaxed) as f64 / 1000.0;
    family(name, "gauge", "Newest time of a sample that was taken.", &newest);
    let name = "prometheus_remote_storage_queue_highest_timestamp_seconds";
    let newest = |one: &EndpointStats| one.stats.newest_read_ms.load(Ordering::Relaxed) as f64 / 1000.0;
    family(name, "gauge", "Newest time of a sample that was read from the log.", &newest);

    let name = "prometheus_remote_storage_samples_dropped_total";
    page.family(name, "counter", "Samples that are not sent, by reason.");
    for one in &endpoints {
        let stats = &one.stats;
        let reasons = [
            ("dropped_series", &stats.dropped_by_rules),
            ("too_old", &stats.dropped_too_old),
            ("native_histograms", &stats.histograms_left_out),
        ];
        for (reason, count) in reasons {
            let labels = [("remote_name", &*one.name), ("url", &*one.url), ("reason", reason)];
            page.line(name, &labels, count.load(Ordering::Relaxed) as f64);
        }
    }
    let name = "prometheus_remote_storage_sent_batch_duration_seconds";
    page.family(name, "histogram", "Time of requests.");
    for one in &endpoints {
        let (counts, sum) = one.stats.requests();
        let bounds = BUCKETS.iter().map(ToString::to_string).chain(["+Inf".to_owned()]);
        for (bound, count) in bounds.zip(&counts) {
            let labels = [("remote_name", &*one.name), ("url", &*one.url), ("le", &*bound)];
            page.line(&format!("{name}_bucket"), &labels, *count as f64);
        }
        let labels = [("remote_name", &*one.name), ("url", &*one.url)];
        page.line(&format!("{name}_sum"), &labels, sum);
        page.line(&format!("{name}_count"), &labels, counts.last().copied().unwrap_or(0) as f64);
    }
}

/// Every endpoint, with what waits for it and why.
pub fn section(state: &State) -> Markup {
    let endpoints = state.parts.remote_write.stats();
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let behind = |stats: &Stats| {
        let newest = stats.newest_sent_ms.load(Ordering::Relaxed);
        let behind = stats.newest_read_ms.load(Ordering::Relaxed) - newest;
        if newest == 0 { "nothing was taken yet".to_owned() } else { format!("{:.1} s", behind as f64 / 1000.0) }
    };
    let error = |stats: &Stats| stats.last_error.lock().expect("no panic while held").clone().unwrap_or_default();
    html! {
        @if !endpoints.is_empty() {
            h2 { "Remote write" }
            div.scroll { table {
                thead { tr {
                    th { "Name" } th { "URL" } th { "Behind" } th { "Pending" } th { "Sent" } th { "Refused" } th { "Left out" } th { "Last error" }
                } }
                tbody {
                    @for EndpointStats { name, url, stats, .. } in &endpoints { tr {
                        td { (name) } td { (url) } td { (behind(stats)) } td { (count(&stats.pending)) }
                        td { (count(&stats.sent)) } td { (count(&stats.failed)) }
                        td { (count(&stats.dropped_by_rules) + count(&stats.dropped_too_old) + count(&stats.histograms_left_out)) }
                        td { (error(stats)) }
                    } }
                }
            } }
        }
    }
}
