//! Metrics of the logs in agent mode, with the names of Prometheus' agent.

use super::storage;
use crate::metrics_writer::MetricsWriter;
use shard::CoreStats;
use tsdb::AgentStore;

/// Bytes of logs that are written or still to be sent.
pub(crate) fn log_bytes(agent: &AgentStore) -> u64 {
    agent.log_bytes().unwrap_or_default()
}

pub(super) fn agent(writer: &mut MetricsWriter, agent: &AgentStore, cores: &[CoreStats]) {
    let sum = |of: fn(&CoreStats) -> u64| cores.iter().map(of).sum::<u64>() as f64;
    storage::starts(writer, agent.safe_mode().is_some(), agent.crashes());
    let is_clean = f64::from(u8::from(agent.crashes() == 0));
    writer.gauge("prometheus_agent_clean_start", "Whether the last run ended in order.", is_clean);
    let help = "Series with a sample in the last scrape.";
    writer.gauge("prometheus_agent_active_series", help, sum(|core| core.series));
    let appended = [
        ("float", sum(|core| core.samples_appended - core.histograms_appended)),
        ("histogram", sum(|core| core.histograms_appended)),
    ];
    writer.by("prometheus_agent_samples_appended_total", "counter", "Samples taken.", "type", appended);
    let help = "Samples refused because their series has a newer one.";
    writer.counter("prometheus_agent_out_of_order_samples_total", help, sum(|core| core.out_of_order));
    writer.gauge("prometheus_tsdb_wal_storage_size_bytes", "Bytes of logs.", log_bytes(agent) as f64);
    storage::logs(writer, cores);
}
