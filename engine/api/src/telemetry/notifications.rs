//! Metrics of alerts on their way to Alertmanagers, under Prometheus' names.

use crate::metrics_writer::{BOUNDS_BESIDE_SUMMARIES, MetricsWriter, SUMMARY_QUANTILES};
use crate::state::State;
use hdrhistogram::Histogram;
use notifier::AlertmanagerStats;
use std::collections::BTreeMap;

pub(super) fn notifications(writer: &mut MetricsWriter, state: &State) {
    let stats = state.parts.notifier.stats();
    // Two entries of the configuration may lead to the same Alertmanager.
    let mut by_url: BTreeMap<&str, Vec<&AlertmanagerStats>> = BTreeMap::new();
    for one in &stats.alertmanagers {
        by_url.entry(&one.url).or_default().push(one);
    }
    let known = stats.alertmanagers.len() as f64;
    writer.gauge("prometheus_notifications_alertmanagers_discovered", "Alertmanagers that get alerts.", known);
    let capacity = stats.queue_capacity as f64;
    writer.gauge("prometheus_notifications_queue_capacity", "Alerts that may wait for one Alertmanager.", capacity);
    for (name, kind, help, of) in [
        (
            "prometheus_notifications_queue_length",
            "gauge",
            "Alerts that wait.",
            (|one| one.queue_length as u64) as fn(&AlertmanagerStats) -> u64,
        ),
        ("prometheus_notifications_sent_total", "counter", "Alerts that were accepted.", |one| one.counts.sent),
        ("prometheus_notifications_errors_total", "counter", "Alerts in requests that failed.", |one| {
            one.counts.errors
        }),
        (
            "prometheus_notifications_dropped_total",
            "counter",
            "Alerts pushed out of a full queue or given up.",
            |one| one.counts.dropped,
        ),
        (
            "ringscrape_notifications_replaced_total",
            "counter",
            "Alerts that waited when a newer state of the same came.",
            |one| one.counts.replaced,
        ),
    ] {
        let sums = by_url.iter().map(|(url, all)| (*url, all.iter().map(|one| of(one)).sum::<u64>() as f64));
        writer.by(name, kind, help, "alertmanager", sums);
    }
    let mut latencies: Vec<(&str, Histogram<u64>)> = Vec::new();
    for (url, all) in &by_url {
        let mut latency = Histogram::new_from(&all[0].latency_us);
        for one in all {
            // They have the same bounds.
            let _ = latency.add(&one.latency_us);
        }
        latencies.push((url, latency));
    }
    let help = "Time of requests that were accepted.";
    let name = "prometheus_notifications_latency_seconds";
    writer.family(name, "summary", help);
    for (url, latency) in &latencies {
        writer.summary_lines(name, &[("alertmanager", url)], &SUMMARY_QUANTILES, latency);
    }
    let name = "prometheus_notifications_latency_histogram_seconds";
    writer.family(name, "histogram", help);
    for (url, latency) in &latencies {
        let labels = [("alertmanager", *url)];
        writer.histogram_lines(name, &labels, &BOUNDS_BESIDE_SUMMARIES, std::iter::once(latency));
    }
}
