//! Metrics of `/federate`.

use crate::federation_stats::FederationStats;
use crate::metrics_writer::MetricsWriter;
use std::sync::atomic::{AtomicU64, Ordering};

pub(super) fn federation(writer: &mut MetricsWriter, counters: &FederationStats) {
    let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed) as f64;
    writer.gauge("ringscrape_federations_in_flight", "Federations under way.", of(&counters.in_flight));
    let outcomes = [
        ("served", of(&counters.served)),
        ("cut", of(&counters.cut)),
        ("failed", of(&counters.failed)),
        ("bad_selector", of(&counters.refused_selector)),
        ("series_max", of(&counters.refused_series)),
        ("catch_all", of(&counters.refused_catch_all)),
        ("concurrent_max", of(&counters.refused_concurrent)),
    ];
    let help = "Federations that are over, by what came of them.";
    writer.by("ringscrape_federations_total", "counter", help, "outcome", outcomes);
    writer.counter("ringscrape_federation_series_total", "Lines of all answers.", of(&counters.series));
    let help = "Bytes of all answers before compression.";
    writer.counter("ringscrape_federation_bytes_total", help, of(&counters.bytes));
    let failed = of(&counters.failed) + of(&counters.cut);
    writer.counter("prometheus_web_federation_errors_total", "Federations that failed.", failed);
}
