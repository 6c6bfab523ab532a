//! What the imitated exporters expose: names, labels and the shape of each value.
//!
//! The node-like catalogue is a 16-core machine with a few disks and interfaces; the application-like one is a JVM
//! service with request histograms and a long tail of per-endpoint families.

use crate::payload::{Catalogue, Family, FloatStyle, Shape, Unit};
use crate::rng::Rng;

/// Samples of the application-like payload unless told otherwise: about 117 kB of text.
pub const APP_SAMPLES: usize = 1_360;
/// Samples of the huge payload.
pub const HUGE_SAMPLES: usize = 50_000;

const METHODS: [&str; 4] = ["GET", "POST", "PUT", "DELETE"];
const STATUSES: [&str; 4] = ["200", "404", "409", "500"];
const URIS: [&str; 8] =
    ["/orders", "/orders/{id}", "/customers", "/customers/{id}", "/basket", "/search", "/login", "/**"];
const LATENCY_BOUNDS: [&str; 14] =
    ["0.005", "0.01", "0.025", "0.05", "0.075", "0.1", "0.25", "0.5", "0.75", "1.0", "2.5", "5.0", "10.0", "+Inf"];

/// Gathers families; values come from the seed.
struct Builder {
    families: Vec<Family>,
    rng: Rng,
}

impl Builder {
    fn new(seed: u64) -> Self {
        Self { families: Vec::new(), rng: Rng::new(seed) }
    }

    fn family(&mut self, name: &str, help: &str, kind: &'static str, units: Vec<Unit>) {
        self.families.push(Family { name: name.into(), help: help.into(), kind, units });
    }

    /// Most counters of real targets stand at zero or move slowly; a few are large.
    fn counter(&mut self) -> Shape {
        let digits = self.rng.between(2, 9) as u32;
        let start = self.rng.between(0, 10u64.pow(digits)) as f64;
        Shape::Counter { start, step: self.rng.between(1, 2 + 10u64.pow(digits / 2)) as f64 }
    }

    fn seconds(&mut self) -> Shape {
        let start = self.rng.between(0, 9_000_000) as f64 / 100.0;
        Shape::Counter { start, step: self.rng.between(1, 1_500) as f64 / 100.0 }
    }

    fn gauge(&mut self, low: u64, high: u64) -> Shape {
        let base = self.rng.between(low, high) as f64;
        Shape::Gauge { base, swing: (base / 50.0).max(10.0).round() }
    }

    fn counters(&mut self, name: &str, help: &str, labels: &[String]) {
        let units = labels.iter().map(|l| Unit::new(l.clone(), self.counter())).collect();
        self.family(name, help, "counter", units);
    }

    fn seconds_totals(&mut self, name: &str, help: &str, labels: &[String]) {
        let units = labels.iter().map(|l| Unit::new(l.clone(), self.seconds())).collect();
        self.family(name, help, "counter", units);
    }

    fn gauges(&mut self, name: &str, help: &str, labels: &[String], low: u64, high: u64) {
        let units = labels.iter().map(|l| Unit::new(l.clone(), self.gauge(low, high))).collect();
        self.family(name, help, "gauge", units);
    }

    fn fixed(&mut self, name: &str, help: &str, labels: &[String], value: f64) {
        let units = labels.iter().map(|l| Unit::new(l.clone(), Shape::Fixed(value))).collect();
        self.family(name, help, "gauge", units);
    }

    fn samples(&self) -> usize {
        self.families.iter().flat_map(|f| &f.units).map(Unit::samples).sum()
    }
}

/// One label with each of the values.
fn label(name: &str, values: &[&str]) -> Vec<String> {
    values.iter().map(|value| format!("{name}=\"{value}\"")).collect()
}

fn numbered(name: &str, count: usize) -> Vec<String> {
    (0..count).map(|n| format!("{name}=\"{n}\"")).collect()
}

/// Every pair of an outer and an inner label set.
fn cross(outer: &[String], inner: &[String]) -> Vec<String> {
    outer.iter().flat_map(|o| inner.iter().map(move |i| format!("{o},{i}"))).collect()
}

fn no_labels() -> Vec<String> {
    vec![String::new()]
}

/// About 1,300 samples, as a node exporter on a 16-core machine.
pub fn node(seed: u64) -> Catalogue {
    let mut b = Builder::new(seed);
    go_runtime(&mut b);
    let cpus = numbered("cpu", 16);
    let modes = label("mode", &["idle", "iowait", "irq", "nice", "softirq", "steal", "system", "user"]);
    b.seconds_totals("node_cpu_seconds_total", "Seconds the CPUs spent in each mode.", &cross(&cpus, &modes));
    let guest = cross(&cpus, &label("mode", &["nice", "user"]));
    b.seconds_totals("node_cpu_guest_seconds_total", "Seconds the CPUs spent in guests (VMs) for each mode.", &guest);
    for name in ["frequency_hertz", "frequency_max_hertz", "frequency_min_hertz"] {
        let help = format!("CPU core {} in hertz.", name.replace('_', " "));
        b.gauges(&format!("node_cpu_{name}"), &help, &cpus, 800_000_000, 3_900_000_000);
    }
    for name in ["processed", "dropped", "times_squeezed", "flow_limit_count", "received_rps"] {
        b.counters(&format!("node_softnet_{name}_total"), &format!("Softnet {name} per CPU."), &cpus);
    }
    for name in ["running_seconds_total", "waiting_seconds_total", "timeslices_total"] {
        b.seconds_totals(&format!("node_schedstat_{name}"), &format!("Scheduler {name} per CPU."), &cpus);
    }

    let disks = label("device", &["nvme0n1", "nvme1n1", "sda", "sdb", "dm-0", "dm-1"]);
    for name in [
        "reads_completed",
        "reads_merged",
        "read_bytes",
        "writes_completed",
        "writes_merged",
        "written_bytes",
        "discards_completed",
        "discards_merged",
        "discarded_sectors",
        "flush_requests",
    ] {
        let help = format!("The total number of {} of the device.", name.replace('_', " "));
        b.counters(&format!("node_disk_{name}_total"), &help, &disks);
    }
    for name in ["read_time", "write_time", "io_time", "io_time_weighted", "discard_time", "flush_requests_time"] {
        let help = format!("Total seconds spent on {}.", name.replace('_', " "));
        b.seconds_totals(&format!("node_disk_{name}_seconds_total"), &help, &disks);
    }
    b.gauges("node_disk_io_now", "The number of I/Os currently in progress.", &disks, 0, 20);

    let mounts: Vec<String> = [("/dev/nvme0n1p1", "/"), ("/dev/nvme0n1p2", "/boot"), ("/dev/dm-0", "/var/lib/data")]
        .iter()
        .map(|(device, mount)| format!("device=\"{device}\",fstype=\"ext4\",mountpoint=\"{mount}\""))
        .chain(
            ["/run", "/run/lock", "/tmp", "/run/user/1000"]
                .iter()
                .map(|mount| format!("device=\"tmpfs\",fstype=\"tmpfs\",mountpoint=\"{mount}\"")),
        )
        .collect();
    for name in ["avail_bytes", "free_bytes", "size_bytes", "files", "files_free"] {
        let help = format!("Filesystem {}.", name.replace('_', " "));
        b.gauges(&format!("node_filesystem_{name}"), &help, &mounts, 100_000, 900_000_000_000);
    }
    b.fixed("node_filesystem_readonly", "Filesystem read-only status.", &mounts, 0.0);
    b.fixed("node_filesystem_device_error", "Whether an error occurred while getting statistics.", &mounts, 0.0);

    let links = label("device", &["lo", "eth0", "eth1", "docker0", "br-5d1c", "veth01a2", "veth93fe", "wg0"]);
    for way in ["receive", "transmit"] {
        for name in ["bytes", "packets", "errs", "drop", "fifo", "compressed"] {
            let help = format!("Network device statistic {way}_{name}.");
            b.counters(&format!("node_network_{way}_{name}_total"), &help, &links);
        }
    }
    for name in ["carrier_changes_total", "carrier_up_changes_total", "carrier_down_changes_total"] {
        b.counters(&format!("node_network_{name}"), &format!("Network device property {name}."), &links);
    }
    for name in ["receive_frame", "receive_multicast", "receive_nohandler", "transmit_colls", "transmit_carrier"] {
        b.counters(&format!("node_network_{name}_total"), &format!("Network device statistic {name}."), &links);
    }
    for (name, value) in [
        ("up", 1.0),
        ("mtu_bytes", 1500.0),
        ("flags", 4099.0),
        ("iface_id", 3.0),
        ("protocol_type", 1.0),
        ("carrier", 1.0),
        ("dormant", 0.0),
        ("speed_bytes", 1.25e9),
        ("transmit_queue_length", 1000.0),
        ("iface_link", 2.0),
        ("iface_link_mode", 0.0),
        ("net_dev_group", 0.0),
        ("address_assign_type", 3.0),
        ("device_id", 0.0),
    ] {
        b.fixed(&format!("node_network_{name}"), &format!("Network device property: {name}."), &links, value);
    }
    for name in ["core_throttles_total", "package_throttles_total"] {
        b.counters(&format!("node_cpu_{name}"), "Number of times this CPU core has been throttled.", &cpus);
    }
    for name in ["TCP_alloc", "TCP_inuse", "TCP_mem", "TCP_orphan", "TCP_tw", "UDP_inuse", "UDP_mem", "sockets_used"] {
        let help = format!("Number of {name} sockets in state.");
        b.gauges(&format!("node_sockstat_{name}"), &help, &no_labels(), 0, 400);
    }
    for name in ["offset_seconds", "maxerror_seconds", "estimated_error_seconds", "frequency_adjustment_ratio"] {
        b.gauges(&format!("node_timex_{name}"), "Time state of the kernel.", &no_labels(), 0, 2);
    }

    for name in [
        "MemTotal",
        "MemFree",
        "MemAvailable",
        "Buffers",
        "Cached",
        "SwapCached",
        "Active",
        "Inactive",
        "Active_anon",
        "Inactive_anon",
        "Active_file",
        "Inactive_file",
        "Unevictable",
        "Mlocked",
        "SwapTotal",
        "SwapFree",
        "Dirty",
        "Writeback",
        "AnonPages",
        "Mapped",
        "Shmem",
        "KReclaimable",
        "Slab",
        "SReclaimable",
        "SUnreclaim",
        "KernelStack",
        "PageTables",
        "Bounce",
        "WritebackTmp",
        "CommitLimit",
        "Committed_AS",
        "VmallocTotal",
        "VmallocUsed",
        "Percpu",
        "AnonHugePages",
        "ShmemHugePages",
        "FileHugePages",
        "Hugepagesize",
        "Hugetlb",
        "DirectMap4k",
        "DirectMap2M",
    ] {
        let help = format!("Memory information field {name}_bytes.");
        b.gauges(&format!("node_memory_{name}_bytes"), &help, &no_labels(), 4_096, 60_000_000_000);
    }
    for (protocol, names) in [
        ("Tcp", ["ActiveOpens", "PassiveOpens", "InSegs", "OutSegs", "RetransSegs", "InErrs"]),
        ("Udp", ["InDatagrams", "OutDatagrams", "InErrors", "NoPorts", "RcvbufErrors", "SndbufErrors"]),
        ("TcpExt", ["ListenDrops", "ListenOverflows", "SyncookiesSent", "TCPTimeouts", "TCPSynRetrans", "TCPOFOQueue"]),
        ("Ip6", ["InOctets", "OutOctets", "InReceives", "OutRequests", "InDiscards", "OutDiscards"]),
    ] {
        for name in names {
            let help = format!("Statistic {protocol}{name}.");
            b.counters(&format!("node_netstat_{protocol}_{name}"), &help, &no_labels());
        }
    }
    for name in ["pgfault", "pgmajfault", "pgpgin", "pgpgout", "pswpin", "pswpout", "oom_kill"] {
        let help = format!("/proc/vmstat information field {name}.");
        b.counters(&format!("node_vmstat_{name}"), &help, &no_labels());
    }
    for name in ["cpu_waiting", "io_stalled", "io_waiting", "memory_stalled", "memory_waiting"] {
        let help = format!("Total time in seconds of pressure: {name}.");
        b.seconds_totals(&format!("node_pressure_{name}_seconds_total"), &help, &no_labels());
    }
    for name in ["node_context_switches_total", "node_intr_total", "node_forks_total"] {
        b.counters(name, "Total number since boot.", &no_labels());
    }
    for name in ["node_load1", "node_load5", "node_load15", "node_procs_running", "node_procs_blocked"] {
        b.gauges(name, "Load and run queue.", &no_labels(), 1, 30);
    }
    let states = label("state", &["activating", "active", "deactivating", "failed", "inactive"]);
    let services: Vec<String> = (0..56).map(|n| format!("name=\"service-{n:02}.service\"")).collect();
    b.fixed("node_systemd_unit_state", "Systemd unit", &cross(&services, &states), 0.0);
    let collectors = label(
        "collector",
        &[
            "arp",
            "bcache",
            "bonding",
            "btrfs",
            "conntrack",
            "cpu",
            "cpufreq",
            "diskstats",
            "dmi",
            "edac",
            "entropy",
            "filefd",
            "filesystem",
            "hwmon",
            "infiniband",
            "ipvs",
            "loadavg",
            "mdadm",
            "meminfo",
            "netclass",
            "netdev",
            "netstat",
            "nfs",
            "nvme",
            "os",
            "pressure",
            "rapl",
            "schedstat",
            "sockstat",
            "softnet",
            "stat",
            "systemd",
            "textfile",
            "thermal_zone",
            "time",
            "timex",
            "udp_queues",
            "uname",
            "vmstat",
            "xfs",
            "zfs",
        ],
    );
    let durations = collectors.iter().map(|l| {
        let base = b.rng.between(1, 900) as f64 / 100.0;
        Unit::new(l.clone(), Shape::Gauge { base, swing: 5.0 })
    });
    let durations = durations.collect();
    b.family("node_scrape_collector_duration_seconds", "Duration of a collector scrape.", "gauge", durations);
    b.fixed("node_scrape_collector_success", "Whether a collector succeeded.", &collectors, 1.0);
    let uname =
        "domainname=\"(none)\",machine=\"x86_64\",nodename=\"node\",release=\"6.1.0-18-amd64\",sysname=\"Linux\"";
    b.fixed(
        "node_uname_info",
        "Labeled system information as provided by the uname system call.",
        &[uname.into()],
        1.0,
    );
    b.fixed("node_boot_time_seconds", "Node boot time, in unixtime.", &no_labels(), 1_760_000_000.0);
    Catalogue { families: b.families, floats: FloatStyle::Go }
}

fn go_runtime(b: &mut Builder) {
    let mut quantiles: Vec<Unit> = label("quantile", &["0", "0.25", "0.5", "0.75", "1"])
        .into_iter()
        .map(|l| Unit::new(l, Shape::Gauge { base: 0.01, swing: 1.0 }))
        .collect();
    let (sum, count) = (b.seconds(), b.counter());
    quantiles.push(Unit::suffixed("_sum", sum));
    quantiles.push(Unit::suffixed("_count", count));
    b.family("go_gc_duration_seconds", "A summary of the wall-time pause durations.", "summary", quantiles);
    b.gauges("go_goroutines", "Number of goroutines that currently exist.", &no_labels(), 8, 20);
    b.fixed("go_info", "Information about the Go environment.", &label("version", &["go1.25.3"]), 1.0);
    for name in ["alloc_bytes", "heap_alloc_bytes", "heap_idle_bytes", "heap_inuse_bytes", "heap_objects", "sys_bytes"]
    {
        let help = format!("Memory statistics: {}.", name.replace('_', " "));
        b.gauges(&format!("go_memstats_{name}"), &help, &no_labels(), 1_000, 20_000_000);
    }
    for name in ["mallocs_total", "frees_total", "alloc_bytes_total"] {
        b.counters(&format!("go_memstats_{name}"), "Memory statistics.", &no_labels());
    }
    b.seconds_totals("process_cpu_seconds_total", "Total user and system CPU time spent in seconds.", &no_labels());
    b.fixed(
        "process_start_time_seconds",
        "Start time of the process since unix epoch.",
        &no_labels(),
        1_760_000_123.45,
    );
    b.gauges("process_resident_memory_bytes", "Resident memory size in bytes.", &no_labels(), 9_000_000, 30_000_000);
    b.gauges("process_open_fds", "Number of open file descriptors.", &no_labels(), 8, 12);
}

/// Exactly `samples` samples, as a JVM service with request histograms. The mix of kinds stays the same at any size.
pub fn app(samples: usize, seed: u64) -> Catalogue {
    let mut b = Builder::new(seed);
    jvm(&mut b, samples / 8);
    histograms(&mut b, samples * 3 / 10);
    let labels: Vec<String> =
        cross(&cross(&label("method", &METHODS[..2]), &label("status", &STATUSES[..2])), &label("uri", &URIS[..4]));
    // The long tail: one family per code path, each with the same few label sets.
    let mut family_index = 0;
    while b.samples() < samples {
        let room = samples - b.samples();
        let name = format!("http_server_requests_f{family_index:02}");
        let help = format!("Requests that took code path {family_index}.");
        b.counters(&name, &help, &labels[..labels.len().min(room)]);
        family_index += 1;
    }
    truncate(&mut b.families, samples);
    Catalogue { families: b.families, floats: FloatStyle::Java }
}

/// Twenty samples: what a script or a tiny service exposes.
pub fn small(seed: u64) -> Catalogue {
    let mut b = Builder::new(seed);
    b.counters("jobs_done_total", "Jobs finished.", &label("queue", &["mail", "export", "import", "index", "cleanup"]));
    b.gauges(
        "jobs_waiting",
        "Jobs waiting.",
        &label("queue", &["mail", "export", "import", "index", "cleanup"]),
        0,
        50,
    );
    b.seconds_totals("process_cpu_seconds_total", "Total user and system CPU time.", &no_labels());
    b.gauges("process_resident_memory_bytes", "Resident memory size in bytes.", &no_labels(), 1_000_000, 90_000_000);
    b.counters("requests_total", "Requests.", &cross(&label("method", &METHODS[..2]), &label("status", &STATUSES)));
    Catalogue { families: b.families, floats: FloatStyle::Go }
}

fn jvm(b: &mut Builder, samples_max: usize) {
    let pools = label(
        "area=\"heap\",id",
        &["G1 Eden Space", "G1 Survivor Space", "G1 Old Gen", "Metaspace", "CodeCache", "Compressed Class Space"],
    );
    for name in ["used", "committed", "max"] {
        let help = format!("The amount of memory {name} in bytes.");
        b.gauges(&format!("jvm_memory_{name}_bytes"), &help, &pools, 1_000_000, 4_000_000_000);
    }
    let states = label("state", &["runnable", "blocked", "waiting", "timed-waiting", "new", "terminated"]);
    b.gauges("jvm_threads_states_threads", "The current number of threads.", &states, 1, 200);
    let causes =
        label("action=\"end of minor GC\",cause", &["G1 Evacuation Pause", "Metadata GC Threshold", "System.gc()"]);
    b.counters("jvm_gc_pause_seconds_count", "Pauses of the collector.", &causes);
    b.seconds_totals("jvm_gc_pause_seconds_sum", "Time spent in pauses of the collector.", &causes);
    for name in ["live_threads", "daemon_threads", "peak_threads", "classes_loaded", "buffer_count"] {
        b.gauges(&format!("jvm_{name}"), "Current value.", &no_labels(), 10, 20_000);
    }
    for name in ["process_cpu_usage", "system_cpu_usage", "system_load_average_1m", "process_files_open_files"] {
        b.gauges(name, "Current value.", &no_labels(), 1, 300);
    }
    b.fixed("process_start_time_seconds", "Start time of the process since unix epoch.", &no_labels(), 1.76e9);
    let hikari = label("pool", &["orders", "customers", "audit", "search"]);
    for name in ["active", "idle", "pending", "max", "min"] {
        b.gauges(&format!("hikaricp_connections_{name}"), "Connections of the pool.", &hikari, 0, 40);
    }
    let levels = label("level", &["trace", "debug", "info", "warn", "error"]);
    b.counters("logback_events_total", "Number of log events that were enabled by the effective log level.", &levels);
    let caches: Vec<String> = (0..10).map(|n| format!("cache=\"cache-{n}\"")).collect();
    for name in ["gets", "puts", "evictions", "hits", "misses"] {
        b.counters(&format!("cache_{name}_total"), "Operations on the cache.", &caches);
    }
    truncate(&mut b.families, samples_max);
}

fn histograms(b: &mut Builder, samples_max: usize) {
    let mut units = Vec::new();
    let histograms = samples_max / (LATENCY_BOUNDS.len() + 2);
    for n in 0..histograms {
        let (method, status) = (METHODS[n % 4], STATUSES[n / 4 % 4]);
        let (uri, copy) = (URIS[n / 16 % 8], n / 128);
        let version = if copy == 0 { String::new() } else { format!("/v{copy}") };
        let labels = format!("method=\"{method}\",status=\"{status}\",uri=\"{version}{uri}\"");
        let busy = b.rng.between(1, 400);
        let counts = LATENCY_BOUNDS.iter().map(|_| b.rng.between(0, busy * 3)).collect();
        units.push(Unit::new(labels, Shape::Histogram { bounds: &LATENCY_BOUNDS, counts, step: busy }));
    }
    if !units.is_empty() {
        b.family("http_server_requests_seconds", "Duration of HTTP server request handling.", "histogram", units);
    }
}

/// Drops what is beyond `samples_max` samples; only families of single samples are cut in the middle.
fn truncate(families: &mut Vec<Family>, samples_max: usize) {
    let mut left = samples_max;
    for family in families.iter_mut() {
        if family.kind == "histogram" {
            left = left.saturating_sub(family.units.iter().map(Unit::samples).sum());
        } else {
            family.units.truncate(left);
            left -= family.units.len();
        }
    }
    families.retain(|family| !family.units.is_empty());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payload::{Motion, Payload};
    use std::collections::HashSet;

    /// Sizes of the rendered first variant, and no series twice.
    #[track_caller]
    fn check(
        catalogue: Catalogue,
        samples: std::ops::RangeInclusive<usize>,
        body_bytes: std::ops::RangeInclusive<usize>,
    ) {
        let motion = Motion {
            variants: 2,
            changing_percent: 40.0,
            churn_percent: 0.0,
            shuffled: false,
            openmetrics: false,
            seed: 1,
        };
        let payload = Payload::render(catalogue, &motion);
        assert!(samples.contains(&payload.samples), "{} samples", payload.samples);
        assert!(body_bytes.contains(&payload.body_bytes), "{} bytes of body", payload.body_bytes);
        let text = String::from_utf8(payload.variants[0].plain.clone()).unwrap();
        let body = text.split_once("\r\n\r\n").unwrap().1;
        let lines = body.lines().filter(|l| !l.starts_with('#'));
        let series: HashSet<&str> = lines.map(|l| l.rsplit_once(' ').unwrap().0).collect();
        assert_eq!(series.len(), payload.samples, "a series came twice");
    }

    #[test]
    fn node_is_a_node_exporter_in_size() {
        check(node(1), 1_250..=1_350, 80_000..=120_000);
    }

    #[test]
    fn app_has_the_samples_asked_for() {
        check(app(APP_SAMPLES, 1), 1_360..=1_360, 112_000..=122_000);
        check(app(1_000, 1), 1_000..=1_000, 80_000..=90_000);
        check(app(1, 1), 1..=1, 50..=500);
        check(app(20_000, 1), 20_000..=20_000, 1_500_000..=2_000_000);
    }

    #[test]
    fn small_is_small() {
        check(small(1), 20..=20, 500..=2_000);
    }
}
