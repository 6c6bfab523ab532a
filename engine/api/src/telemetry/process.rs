//! Metrics of the process, its build and its configuration.

use crate::metrics_writer::MetricsWriter;
use crate::state::State;
use std::time::{SystemTime, UNIX_EPOCH};

/// The version of Prometheus whose behaviour this build follows, in the form that clients of Prometheus compare.
pub(crate) const FOLLOWED_VERSION: &str = concat!("3.14.0+ringscrape.", env!("CARGO_PKG_VERSION"));

pub(super) fn configuration(writer: &mut MetricsWriter, state: &State) {
    let running = state.running();
    let good = if running.refused.is_none() { 1.0 } else { 0.0 };
    writer.gauge("prometheus_config_last_reload_successful", "Whether the last configuration was taken over.", good);
    let loaded = running.loaded_at.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
    let name = "prometheus_config_last_reload_success_timestamp_seconds";
    writer.gauge(name, "When a configuration was last taken over.", loaded);
    let help = "Version of Prometheus that this program follows, with its own behind the plus sign. Always 1.";
    writer.family("prometheus_build_info", "gauge", help);
    let labels = [
        ("branch", ""),
        ("goarch", goarch()),
        ("goos", std::env::consts::OS),
        ("goversion", ""),
        ("revision", ""),
        ("tags", ""),
        ("version", FOLLOWED_VERSION),
    ];
    writer.line("prometheus_build_info", &labels, 1.0);
    writer.by(
        "ringscrape_build_info",
        "gauge",
        "Version of this program.",
        "version",
        [(env!("CARGO_PKG_VERSION"), 1.0)],
    );
}

/// Go's name of the processor.
fn goarch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// CPU time and memory of this process.
pub(crate) struct ProcessUsage {
    pub cpu_seconds: f64,
    pub resident_bytes: f64,
}

/// Reads them from `/proc`, which answers from memory.
pub(crate) fn process_usage() -> ProcessUsage {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    usage_of(&stat)
}

/// Linux counts CPU time for programs in hundredths of a second, memory in pages of 4 KiB.
fn usage_of(stat: &str) -> ProcessUsage {
    let field = stat_fields(stat);
    ProcessUsage { cpu_seconds: (field(11) + field(12)) / 100.0, resident_bytes: field(21) * 4096.0 }
}

/// The fields behind the command, which may hold spaces and is in parentheses.
fn stat_fields(stat: &str) -> impl Fn(usize) -> f64 + '_ {
    let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
    move |at| fields.get(at).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0)
}

/// What the kernel says of this process.
#[derive(Debug, Default)]
pub(super) struct ProcessStats {
    cpu_seconds: f64,
    resident_bytes: f64,
    virtual_bytes: f64,
    virtual_bytes_max: f64,
    open_files: f64,
    open_files_max: f64,
    received_bytes: f64,
    sent_bytes: f64,
}

impl ProcessStats {
    /// Reads them from `/proc`. Blocks: with many open files for milliseconds.
    pub fn read() -> ProcessStats {
        let read = |name: &str| std::fs::read_to_string(format!("/proc/self/{name}")).unwrap_or_default();
        let stat = read("stat");
        let (field, usage) = (stat_fields(&stat), usage_of(&stat));
        let limits = read("limits");
        let limit = |name: &str| {
            let line = limits.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("");
            line.split_whitespace().next().and_then(|soft| soft.parse().ok())
        };
        let (received_bytes, sent_bytes) = network_bytes(&read("net/netstat"));
        ProcessStats {
            cpu_seconds: usage.cpu_seconds,
            resident_bytes: usage.resident_bytes,
            virtual_bytes: field(20),
            // "unlimited" is the largest number, as in Prometheus.
            virtual_bytes_max: limit("Max address space").unwrap_or(u64::MAX as f64),
            open_files: std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count) as f64,
            open_files_max: limit("Max open files").unwrap_or(0.0),
            received_bytes,
            sent_bytes,
        }
    }
}

/// Received and sent bytes of the network namespace: `InOctets` and `OutOctets` of `IpExt`.
fn network_bytes(netstat: &str) -> (f64, f64) {
    let mut lines = netstat.lines().filter_map(|line| line.strip_prefix("IpExt: "));
    let (Some(names), Some(values)) = (lines.next(), lines.next()) else { return (0.0, 0.0) };
    let of = |wanted: &str| {
        let at = names.split_whitespace().position(|name| name == wanted)?;
        values.split_whitespace().nth(at)?.parse().ok()
    };
    (of("InOctets").unwrap_or(0.0), of("OutOctets").unwrap_or(0.0))
}

pub(super) fn process(writer: &mut MetricsWriter, state: &State, stats: &ProcessStats) {
    writer.counter("process_cpu_seconds_total", "CPU time of the process.", stats.cpu_seconds);
    writer.gauge("process_resident_memory_bytes", "Memory in RAM.", stats.resident_bytes);
    writer.gauge("process_virtual_memory_bytes", "Address space.", stats.virtual_bytes);
    writer.gauge("process_virtual_memory_max_bytes", "Limit of the address space.", stats.virtual_bytes_max);
    writer.gauge("process_open_fds", "Open files and sockets.", stats.open_files);
    writer.gauge("process_max_fds", "Most files and sockets that may be open.", stats.open_files_max);
    let help = "Bytes that the network namespace of the process received.";
    writer.counter("process_network_receive_bytes_total", help, stats.received_bytes);
    let help = "Bytes that the network namespace of the process sent.";
    writer.counter("process_network_transmit_bytes_total", help, stats.sent_bytes);
    let started = state.started_at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    writer.gauge("process_start_time_seconds", "When the process started.", started);
    let uptime = SystemTime::now().duration_since(state.started_at).unwrap_or_default().as_secs_f64();
    writer.gauge("ringscrape_uptime_seconds", "How long it has been running.", uptime);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn network_bytes_are_found_by_name() {
        let netstat = "TcpExt: A B\nTcpExt: 1 2\nIpExt: InNoRoutes InOctets OutOctets\nIpExt: 0 17 4\n";
        assert_eq!(network_bytes(netstat), (17.0, 4.0));
        assert_eq!(network_bytes(""), (0.0, 0.0));
    }

    #[test]
    fn a_process_has_files_and_memory() {
        let stats = ProcessStats::read();
        assert!(stats.open_files >= 3.0 && stats.open_files_max >= stats.open_files, "{stats:?}");
        assert!(stats.resident_bytes > 1e5 && stats.virtual_bytes_max >= stats.virtual_bytes, "{stats:?}");
    }
}
