//! Metrics of the query service.

use crate::metrics_writer::MetricsWriter;
use crate::state::State;
use query::stats::Slice;
use std::sync::atomic::{AtomicU64, Ordering};

/// Of the query service; names and labels are Prometheus' where it has them.
pub(super) fn queries(writer: &mut MetricsWriter, state: &State) {
    let log = &state.parts.query_log;
    let (service, stats) = (&state.parts.query, state.parts.query.stats());
    let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed) as f64;
    writer.gauge("prometheus_engine_queries", "Queries that wait or run.", stats.active_count() as f64);
    let concurrency = service.settings().concurrency as f64;
    writer.gauge("prometheus_engine_queries_concurrent_max", "Queries that may run at once.", concurrency);
    let slices = Slice::ALL.map(|slice| (("slice", slice.as_str()), stats.times(slice)));
    let name = "prometheus_engine_query_duration_seconds";
    writer.family(name, "summary", "Times of the parts of queries.");
    for (label, times) in &slices {
        for quantile in [0.5, 0.9, 0.99] {
            let seconds = match times.len() {
                0 => f64::NAN,
                _ => times.value_at_quantile(quantile) as f64 / 1e6,
            };
            writer.line(name, &[("quantile", &quantile.to_string()), *label], seconds);
        }
        writer.line(&format!("{name}_sum"), &[*label], times.mean() * times.len() as f64 / 1e6);
        writer.line(&format!("{name}_count"), &[*label], times.len() as f64);
    }
    let name = "prometheus_engine_query_duration_histogram_seconds";
    writer.family(name, "histogram", "Times of the parts of queries.");
    for (label, times) in &slices {
        for (bound, micros) in [("0.01", 10_000), ("0.1", 100_000), ("1", 1_000_000), ("10", 10_000_000)] {
            let count = times.count_between(0, micros) as f64;
            writer.line(&format!("{name}_bucket"), &[*label, ("le", bound)], count);
        }
        writer.line(&format!("{name}_bucket"), &[*label, ("le", "+Inf")], times.len() as f64);
        writer.line(&format!("{name}_sum"), &[*label], times.mean() * times.len() as f64 / 1e6);
        writer.line(&format!("{name}_count"), &[*label], times.len() as f64);
    }
    writer.gauge("prometheus_engine_query_log_enabled", "Whether queries are logged.", log.is_open() as u8 as f64);
    writer.counter(
        "prometheus_engine_query_log_failures_total",
        "Queries that could not be logged.",
        log.failures() as f64,
    );
    let help = "Samples that queries looked at, those of windows at each step.";
    writer.counter("prometheus_engine_query_samples_total", help, of(&stats.samples));
    let memory = service.memory();
    writer.gauge("ringscrape_query_memory_bytes", "Memory that queries hold.", memory.bytes() as f64);
    let help = "Most memory that queries held at once.";
    writer.gauge("ringscrape_query_memory_peak_bytes", help, memory.bytes_peak() as f64);
    let help = "Memory that all queries together may hold.";
    writer.gauge("ringscrape_query_memory_max_bytes", help, memory.bytes_max() as f64);
    let help = "Queries that ended without an answer, by reason.";
    let reasons = [
        ("canceled", of(&stats.canceled)),
        ("limit", of(&stats.limits)),
        ("panic", of(&stats.panics)),
        ("timeout", of(&stats.timeouts)),
    ];
    writer.by("ringscrape_queries_failed_total", "counter", help, "reason", reasons);
}
