//! `/metrics`: ringscrape's own, under Prometheus' names where operators alert on them.

use crate::federation_stats::FederationStats;
use crate::state::State;
use crate::{alerting, remote_write, rule_groups};
use axum::extract;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use exposition::{Escaping, write_sample};
use hdrhistogram::Histogram;
use query::stats::Slice;
use shard::CoreStats;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// Upper bounds of the histograms, in seconds.
const BOUNDS_SECONDS: [f64; 14] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

pub async fn metrics(state: extract::State<State>) -> Response {
    let stats = match state.parts.shards.stats().await {
        Ok(stats) => stats,
        Err(error) => return (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")).into_response(),
    };
    let mut page = Page::default();
    scrape_manager(&mut page, &state, &stats);
    configuration(&mut page, &state);
    alerting::metrics(&mut page, &state);
    remote_write::metrics(&mut page, &state);
    federation(&mut page, &state.federations);
    queries(&mut page, &state);
    fleet(&mut page, &state);
    cores(&mut page, &stats);
    rule_groups::metrics(&mut page, &state);
    if let Some(store) = state.parts.shards.store() {
        storage(&mut page, &store.stats(), store.bounds(), &stats);
        let safe_mode = f64::from(u8::from(store.safe_mode().is_some()));
        page.gauge("ringscrape_safe_mode", "Whether targets are held back after crashes.", safe_mode);
        let crashes = store.crashes() as f64;
        page.gauge("ringscrape_crashes", "Ends without order shortly before this start.", crashes);
    }
    process(&mut page, &state);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], page.0).into_response()
}

/// Of the query service; names and labels are Prometheus' where it has them.
fn queries(page: &mut Page, state: &State) {
    let (service, stats) = (&state.parts.query, state.parts.query.stats());
    let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed) as f64;
    page.gauge("prometheus_engine_queries", "Queries that wait or run.", stats.active_count() as f64);
    let concurrency = service.settings().concurrency as f64;
    page.gauge("prometheus_engine_queries_concurrent_max", "Queries that may run at once.", concurrency);
    let name = "prometheus_engine_query_duration_seconds";
    page.family(name, "summary", "Times of the parts of queries.");
    for slice in Slice::ALL {
        let (times, label) = (stats.times(slice), ("slice", slice.as_str()));
        for quantile in [0.5, 0.9, 0.99] {
            let seconds = match times.len() {
                0 => f64::NAN,
                _ => times.value_at_quantile(quantile) as f64 / 1e6,
            };
            page.line(name, &[("quantile", &quantile.to_string()), label], seconds);
        }
        page.line(&format!("{name}_sum"), &[label], times.mean() * times.len() as f64 / 1e6);
        page.line(&format!("{name}_count"), &[label], times.len() as f64);
    }
    page.gauge("prometheus_engine_query_log_enabled", "Whether queries are logged.", 0.0);
    page.counter("prometheus_engine_query_log_failures_total", "Queries that could not be logged.", 0.0);
    let help = "Samples that queries looked at, those of windows at each step.";
    page.counter("prometheus_engine_query_samples_total", help, of(&stats.samples));
    let memory = service.memory();
    page.gauge("ringscrape_query_memory_bytes", "Memory that queries hold.", memory.bytes() as f64);
    let help = "Most memory that queries held at once.";
    page.gauge("ringscrape_query_memory_peak_bytes", help, memory.bytes_peak() as f64);
    let help = "Memory that all queries together may hold.";
    page.gauge("ringscrape_query_memory_max_bytes", help, memory.bytes_max() as f64);
    let help = "Queries that ended without an answer, by reason.";
    let reasons = [
        ("canceled", of(&stats.canceled)),
        ("limit", of(&stats.limits)),
        ("panic", of(&stats.panics)),
        ("timeout", of(&stats.timeouts)),
    ];
    page.by("ringscrape_queries_failed_total", "counter", help, "reason", reasons);
}

fn federation(page: &mut Page, counters: &FederationStats) {
    let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed) as f64;
    page.gauge("ringscrape_federations_in_flight", "Federations under way.", of(&counters.in_flight));
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
    page.by("ringscrape_federations_total", "counter", help, "outcome", outcomes);
    page.counter("ringscrape_federation_series_total", "Lines of all answers.", of(&counters.series));
    let help = "Bytes of all answers before compression.";
    page.counter("ringscrape_federation_bytes_total", help, of(&counters.bytes));
    let failed = of(&counters.failed) + of(&counters.cut);
    page.counter("prometheus_web_federation_errors_total", "Federations that failed.", failed);
}

/// Only of a member of a fleet.
fn fleet(page: &mut Page, state: &State) {
    let status = state.parts.fleet.status();
    if status.member.is_none() {
        return;
    }
    let set = state.target_set();
    let sum = |of: fn(&targets::Pool) -> usize| set.pools.iter().map(|pool| of(pool)).sum::<usize>() as f64;
    let members = status.division.as_ref().map_or(0, |division| division.view.members().len());
    let listed = status.division.as_ref().is_some_and(|division| division.me.is_some());
    let unreachable = status.peers.values().filter(|peer| peer.is_err()).count();
    let errors = status.findings.iter().filter(|finding| finding.is_error()).count();
    let warnings = status.findings.len() - errors;
    page.gauge("ringscrape_fleet_members", "Members in the list.", members as f64);
    page.gauge("ringscrape_fleet_listed", "Whether this member is in the list.", f64::from(u8::from(listed)));
    page.gauge("ringscrape_fleet_members_unreachable", "Other members that did not answer.", unreachable as f64);
    page.gauge("ringscrape_fleet_members_split", "Other members with another list.", status.split.len() as f64);
    page.gauge("ringscrape_fleet_list_problems", "What is wrong with the list.", status.problems.len() as f64);
    page.gauge("ringscrape_fleet_check_errors", "Members that cannot be told apart.", errors as f64);
    page.gauge("ringscrape_fleet_check_warnings", "Members without external labels.", warnings as f64);
    page.gauge("ringscrape_fleet_targets_leaving", "Targets on their way to others.", sum(|pool| pool.leaving.len()));
    page.gauge("ringscrape_fleet_targets_others", "Targets of other members.", sum(|pool| pool.others_count));
    page.counter("ringscrape_fleet_changes_total", "Lists that divide anew.", status.changes_total as f64);
    let handed_over = status.handed_over_total as f64;
    page.counter("ringscrape_fleet_handed_over_total", "Targets let go to owners that scrape them.", handed_over);
    let expired = status.expired_total as f64;
    page.counter("ringscrape_fleet_handover_expired_total", "Targets let go at the deadline.", expired);
}

fn storage(page: &mut Page, store: &tsdb::StoreStats, bounds: Option<(i64, i64)>, cores: &[CoreStats]) {
    let sum = |of: fn(&CoreStats) -> u64| cores.iter().map(of).sum::<u64>() as f64;
    let lowest = bounds.map_or(0.0, |(oldest, _)| oldest as f64);
    page.gauge("prometheus_tsdb_head_series", "Series with a sample in the last scrape.", sum(|core| core.series));
    page.counter("prometheus_tsdb_head_samples_appended_total", "Samples taken.", sum(|core| core.samples_appended));
    let late = sum(|core| core.late);
    page.counter("prometheus_tsdb_head_out_of_order_samples_appended_total", "Late samples that were taken.", late);
    page.gauge("prometheus_tsdb_lowest_timestamp", "Milliseconds of the oldest sample in chunks or blocks.", lowest);
    page.gauge("prometheus_tsdb_blocks_loaded", "Blocks that are open.", store.blocks as f64);
    page.gauge("ringscrape_tsdb_blocks_bad", "Blocks that cannot be opened.", store.blocks_bad as f64);
    page.gauge("prometheus_tsdb_storage_blocks_bytes", "Bytes of blocks.", store.blocks_bytes as f64);
    page.gauge("prometheus_tsdb_wal_storage_size_bytes", "Bytes of logs.", store.log_bytes as f64);
    page.gauge(
        "prometheus_tsdb_head_chunks_storage_size_bytes",
        "Bytes of chunks in no block.",
        store.head_bytes as f64,
    );
    let compactions = (store.cuts + store.compactions) as f64;
    page.counter("prometheus_tsdb_compactions_total", "Blocks cut and compacted.", compactions);
    let failed = (store.cut_failures + store.compaction_failures) as f64;
    page.counter("prometheus_tsdb_compactions_failed_total", "Cuts and compactions that failed.", failed);
    let retired = store.retention_deletions as f64;
    page.counter("prometheus_tsdb_time_retentions_total", "Blocks removed for age or size.", retired);
    page.counter(
        "prometheus_tsdb_wal_corruptions_total",
        "Damages met in logs, chunks and blocks.",
        store.damages as f64,
    );
    let failures = sum(|core| core.log.failures);
    page.counter("prometheus_tsdb_wal_writes_failed_total", "Failed operations of the logs.", failures);
    page.counter("ringscrape_log_bytes_total", "Bytes written to the logs.", sum(|core| core.log.bytes_written));
    page.counter("ringscrape_log_syncs_total", "Syncs of the logs.", sum(|core| core.log.syncs));
    let behind = sum(|core| core.log.records_behind);
    page.gauge("ringscrape_log_records_behind", "Records that a power cut would cost now.", behind);
    let discarded = sum(|core| core.log.discarded);
    page.counter("ringscrape_log_records_discarded_total", "Records given up while the disk failed.", discarded);
    let failing = cores.iter().filter(|core| core.log.failing.is_some()).count() as f64;
    page.gauge("ringscrape_log_failing", "Cores whose log cannot be written now.", failing);
    page.counter("ringscrape_segments_sealed_total", "Segments put into chunks.", store.segments_sealed as f64);
    page.gauge("ringscrape_segments_waiting", "Closed segments not in chunks yet.", store.segments_waiting as f64);
    page.counter(
        "ringscrape_segments_lost_total",
        "Segments given up while the disk failed.",
        store.segments_lost as f64,
    );
    page.gauge("ringscrape_block_cut_seconds", "Time that the last cut of a block took.", store.last_cut_seconds);
    page.gauge(
        "prometheus_ready",
        "Whether everything stored can be asked for.",
        f64::from(u8::from(store.replay.done)),
    );
}

/// Quantiles of Prometheus' summaries.
pub const SUMMARY_QUANTILES: [&str; 3] = ["0.5", "0.9", "0.99"];

/// The text so far.
#[derive(Default)]
pub struct Page(String);

impl Page {
    /// Begins a family.
    pub fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    pub fn line(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        write_sample(name, labels.iter().copied(), value, None, Escaping::Underscores, &mut self.0);
    }

    pub fn counter(&mut self, name: &str, help: &str, value: f64) {
        self.family(name, "counter", help);
        self.line(name, &[], value);
    }

    pub fn gauge(&mut self, name: &str, help: &str, value: f64) {
        self.family(name, "gauge", help);
        self.line(name, &[], value);
    }

    /// A family with one line per value of a label.
    pub fn by<K: AsRef<str>>(
        &mut self,
        name: &str,
        kind: &str,
        help: &str,
        label: &str,
        values: impl IntoIterator<Item = (K, f64)>,
    ) {
        self.family(name, kind, help);
        for (key, value) in values {
            self.line(name, &[(label, key.as_ref())], value);
        }
    }

    /// Microseconds as a summary in seconds.
    pub fn summary(&mut self, name: &str, help: &str, quantiles: &[f64], histogram: &Histogram<u64>) {
        self.family(name, "summary", help);
        for quantile in quantiles {
            let value = match histogram.len() {
                0 => f64::NAN,
                _ => histogram.value_at_quantile(*quantile) as f64 / 1e6,
            };
            self.line(name, &[("quantile", &quantile.to_string())], value);
        }
        let sum = histogram.mean() * histogram.len() as f64 / 1e6;
        self.line(&format!("{name}_sum"), &[], if histogram.is_empty() { 0.0 } else { sum });
        self.line(&format!("{name}_count"), &[], histogram.len() as f64);
    }

    /// Microseconds of all cores as a histogram in seconds.
    fn histogram<'a>(&mut self, name: &str, help: &str, histograms: impl Iterator<Item = &'a Histogram<u64>> + Clone) {
        self.family(name, "histogram", help);
        let bucket = format!("{name}_bucket");
        let below = |us: u64| histograms.clone().map(|histogram| histogram.count_between(0, us)).sum::<u64>();
        for bound in BOUNDS_SECONDS {
            self.line(&bucket, &[("le", &bound.to_string())], below((bound * 1e6) as u64) as f64);
        }
        let count: u64 = histograms.clone().map(Histogram::len).sum();
        self.line(&bucket, &[("le", "+Inf")], count as f64);
        let sum: f64 = histograms.map(|histogram| histogram.mean() * histogram.len() as f64 / 1e6).sum();
        self.line(&format!("{name}_sum"), &[], sum);
        self.line(&format!("{name}_count"), &[], count as f64);
    }
}

fn total(stats: &[CoreStats], of: fn(&CoreStats) -> u64) -> f64 {
    stats.iter().map(of).sum::<u64>() as f64
}

fn scrape_manager(page: &mut Page, state: &State, stats: &[CoreStats]) {
    let set = state.target_set();
    let pools = || set.pools.iter().map(|pool| (pool.job.job_name.as_str(), pool));
    page.gauge("prometheus_target_scrape_pools", "Jobs in force.", set.pools.len() as f64);
    page.by(
        "prometheus_target_scrape_pool_targets",
        "gauge",
        "Targets of a job.",
        "scrape_job",
        pools().map(|(job, pool)| (job, pool.active.len() as f64)),
    );
    page.by(
        "prometheus_target_scrape_pool_target_limit",
        "gauge",
        "target_limit of a job, 0 if it has none.",
        "scrape_job",
        pools().map(|(job, pool)| (job, pool.job.target_limit as f64)),
    );
    page.by(
        "ringscrape_targets_failed",
        "gauge",
        "Discovered targets of a job that cannot be scraped.",
        "scrape_job",
        pools().map(|(job, pool)| (job, pool.failed.len() as f64)),
    );
    page.by(
        "ringscrape_targets_dropped",
        "gauge",
        "Discovered targets of a job that relabelling dropped.",
        "scrape_job",
        pools().map(|(job, pool)| (job, pool.dropped_count as f64)),
    );
    for (name, help, of) in [
        (
            "prometheus_target_scrapes_exceeded_sample_limit_total",
            "Scrapes refused because of sample_limit.",
            (|core| core.exceeded_sample_limit) as fn(&CoreStats) -> u64,
        ),
        (
            "prometheus_target_scrapes_exceeded_body_size_limit_total",
            "Scrapes refused because of body_size_limit.",
            |core| core.exceeded_body_size_limit,
        ),
        (
            "prometheus_target_scrape_pool_exceeded_label_limits_total",
            "Scrapes refused because of a label limit.",
            |core| core.exceeded_label_limits,
        ),
        (
            "prometheus_target_scrapes_sample_duplicate_timestamp_total",
            "Samples not taken because the series has one of that time.",
            |core| core.duplicate_timestamp,
        ),
        (
            "prometheus_target_scrapes_sample_out_of_order_total",
            "Samples not taken because the series has a newer one.",
            |core| core.out_of_order,
        ),
        (
            "prometheus_target_scrapes_sample_out_of_bounds_total",
            "Samples not taken because their time is too far off.",
            |core| core.out_of_bounds,
        ),
        ("ringscrape_scrapes_total", "Scrapes, good and bad.", |core| core.scrapes),
        ("ringscrape_samples_scraped_total", "Samples that targets exposed.", |core| core.samples_scraped),
        ("ringscrape_samples_appended_total", "Samples taken, report series included.", |core| core.samples_appended),
        ("ringscrape_scrape_body_bytes_total", "Bytes of bodies, unpacked.", |core| core.body_bytes),
        ("ringscrape_scrape_wire_bytes_total", "Bytes of bodies as they came over the wire.", |core| core.wire_bytes),
        ("ringscrape_connections_opened_total", "Connections opened to targets.", |core| core.connections_opened),
    ] {
        page.counter(name, help, total(stats, of));
    }
    page.by(
        "ringscrape_scans_total",
        "counter",
        "Bodies read: warm ones had only known lines.",
        "kind",
        [("warm", total(stats, |core| core.scans_warm)), ("cold", total(stats, |core| core.scans_cold))],
    );
    page.by(
        "ringscrape_tls_handshakes_total",
        "counter",
        "TLS handshakes with targets: full ones, and those that went on from an earlier session.",
        "kind",
        [
            ("full", total(stats, |core| core.handshakes_full)),
            ("resumed", total(stats, |core| core.handshakes_resumed)),
        ],
    );
    let mut failed = std::collections::BTreeMap::new();
    let mut missed = std::collections::BTreeMap::new();
    for core in stats {
        core.scrapes_failed.iter().for_each(|(reason, count)| *failed.entry(reason.as_str()).or_insert(0) += count);
        core.missed.iter().for_each(|(reason, count)| *missed.entry(reason.as_str()).or_insert(0) += count);
    }
    let name = "ringscrape_scrapes_failed_total";
    page.by(
        name,
        "counter",
        "Failed scrapes by the step that failed.",
        "reason",
        failed.iter().map(|(k, v)| (k, *v as f64)),
    );
    let name = "ringscrape_missed_scrapes_total";
    page.by(
        name,
        "counter",
        "Ticks that passed without a scrape.",
        "reason",
        missed.iter().map(|(k, v)| (k, *v as f64)),
    );
    interval_lengths(page, stats);
    page.histogram(
        "ringscrape_scrape_lateness_seconds",
        "Time between the moment a scrape was due and its start.",
        stats.iter().map(|core| &core.lateness_us),
    );
    page.histogram(
        "ringscrape_scrape_duration_seconds",
        "Time a scrape took, connect to last sample stored.",
        stats.iter().map(|core| &core.duration_us),
    );
    let found = state.parts.targets.stats();
    page.by(
        "prometheus_sd_discovered_targets",
        "gauge",
        "Addresses that discovery has found for a job.",
        "config",
        found.discovered_targets.iter().map(|(job, count)| (job, *count as f64)),
    );
    page.by(
        "prometheus_sd_refresh_failures_total",
        "counter",
        "Failed attempts to read a target list.",
        "mechanism",
        found.failures_total.iter().map(|(mechanism, count)| (mechanism, *count as f64)),
    );
    let file_errors = found.failures_total.get("file").copied().unwrap_or(0);
    page.counter("prometheus_sd_file_read_errors_total", "Failed attempts to read a target file.", file_errors as f64);
    page.family("prometheus_sd_refresh_duration_seconds", "summary", "Time that attempts to get a target list took.");
    for (mechanism, (count, time)) in &found.attempts {
        let labels = [("mechanism", *mechanism)];
        page.line("prometheus_sd_refresh_duration_seconds_sum", &labels, time.as_secs_f64());
        page.line("prometheus_sd_refresh_duration_seconds_count", &labels, *count as f64);
    }
    let failures = |mechanism| found.failures_total.get(mechanism).copied().unwrap_or(0) as f64;
    let attempts = |mechanism| found.attempts.get(mechanism).copied().unwrap_or_default();
    page.counter("prometheus_sd_http_failures_total", "Failed refreshes of HTTP discovery.", failures("http"));
    page.counter("prometheus_sd_dns_lookups_total", "DNS look-ups.", attempts("dns").0 as f64);
    page.counter("prometheus_sd_dns_lookup_failures_total", "Failed DNS look-ups.", failures("dns"));
    page.counter("prometheus_sd_consul_rpc_failures_total", "Failed calls of Consul.", failures("consul"));
    page.family(
        "prometheus_sd_consul_rpc_duration_seconds",
        "summary",
        "Time that calls of Consul took, waiting included.",
    );
    page.line("prometheus_sd_consul_rpc_duration_seconds_sum", &[], attempts("consul").1.as_secs_f64());
    page.line("prometheus_sd_consul_rpc_duration_seconds_count", &[], attempts("consul").0 as f64);
    page.counter("prometheus_sd_kubernetes_failures_total", "Failed lists and watches.", failures("kubernetes"));
    page.family("prometheus_sd_kubernetes_events_total", "counter", "News of Kubernetes' objects.");
    for ((event, role), count) in &found.kubernetes_events {
        let labels = [("event", *event), ("role", *role)];
        page.line("prometheus_sd_kubernetes_events_total", &labels, *count as f64);
    }
    let received = found.received_updates_total as f64;
    page.counter("prometheus_sd_received_updates_total", "Target lists received from discovery.", received);
    page.counter("prometheus_sd_updates_total", "Times that targets were built anew.", found.updates_total as f64);
}

/// Prometheus' summary of the time between two scrape starts.
fn interval_lengths(page: &mut Page, stats: &[CoreStats]) {
    let name = "prometheus_target_interval_length_seconds";
    page.family(name, "summary", "Actual time between two scrapes of a target.");
    let mut lengths: std::collections::BTreeMap<u64, Histogram<u64>> = std::collections::BTreeMap::new();
    for (interval, histogram) in stats.iter().flat_map(|core| &core.interval_us) {
        let merged = lengths.entry(*interval).or_insert_with(|| Histogram::new_from(histogram));
        // Histograms of all cores have the same bounds.
        let _ = merged.add(histogram);
    }
    for (interval_ms, histogram) in &lengths {
        let interval = config::format_duration(std::time::Duration::from_millis(*interval_ms));
        for quantile in ["0.01", "0.05", "0.5", "0.9", "0.99"] {
            let at = quantile.parse().unwrap_or(0.5);
            let seconds = histogram.value_at_quantile(at) as f64 / 1e6;
            page.line(name, &[("interval", &interval), ("quantile", quantile)], seconds);
        }
        let sum = histogram.mean() * histogram.len() as f64 / 1e6;
        page.line(&format!("{name}_sum"), &[("interval", &interval)], sum);
        page.line(&format!("{name}_count"), &[("interval", &interval)], histogram.len() as f64);
    }
}

fn configuration(page: &mut Page, state: &State) {
    let running = state.running();
    let good = if running.refused.is_none() { 1.0 } else { 0.0 };
    page.gauge("prometheus_config_last_reload_successful", "Whether the last configuration was taken over.", good);
    let loaded = running.loaded_at.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
    let name = "prometheus_config_last_reload_success_timestamp_seconds";
    page.gauge(name, "When a configuration was last taken over.", loaded);
    page.by(
        "ringscrape_build_info",
        "gauge",
        "Version of this program.",
        "version",
        [(env!("CARGO_PKG_VERSION"), 1.0)],
    );
}

fn cores(page: &mut Page, stats: &[CoreStats]) {
    let mut per_core = |name: &str, kind: &str, help: &str, of: fn(&CoreStats) -> f64| {
        page.by(name, kind, help, "core", stats.iter().map(|core| (core.core.to_string(), of(core))));
    };
    per_core("ringscrape_core_cpu_seconds_total", "counter", "CPU time of a core's thread.", |core| core.cpu_seconds);
    per_core("ringscrape_core_targets", "gauge", "Targets of a core.", |core| core.targets as f64);
    per_core("ringscrape_core_series", "gauge", "Live series of a core.", |core| core.series as f64);
    per_core("ringscrape_core_templates", "gauge", "Runs of lines that a core knows.", |core| core.templates as f64);
    per_core("ringscrape_core_templates_bytes", "gauge", "Memory of these.", |core| core.templates_bytes as f64);
    per_core("ringscrape_core_head_bytes", "gauge", "Memory of rows and newest values.", |core| core.head_bytes as f64);
    let help = "Longest time that a core stood still.";
    per_core("ringscrape_core_stall_max_seconds", "gauge", help, |core| core.stall_max.as_secs_f64());
}

fn process(page: &mut Page, state: &State) {
    let read = |name: &str| std::fs::read_to_string(format!("/proc/self/{name}")).unwrap_or_default();
    let stat = read("stat");
    // The fields behind the command, which may hold spaces and is in parentheses.
    let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
    let field = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
    // Linux counts CPU time for programs in hundredths of a second, memory in pages of 4 KiB.
    page.counter("process_cpu_seconds_total", "CPU time of the process.", (field(11) + field(12)) / 100.0);
    page.gauge("process_resident_memory_bytes", "Memory in RAM.", field(21) * 4096.0);
    page.gauge("process_virtual_memory_bytes", "Address space.", field(20));
    let open = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    page.gauge("process_open_fds", "Open files and sockets.", open as f64);
    let limits = read("limits");
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap_or("");
    let max = line.split_whitespace().next().and_then(|soft| soft.parse().ok()).unwrap_or(0.0);
    page.gauge("process_max_fds", "Most files and sockets that may be open.", max);
    let started = state.started_at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    page.gauge("process_start_time_seconds", "When the process started.", started);
    let uptime = SystemTime::now().duration_since(state.started_at).unwrap_or_default().as_secs_f64();
    page.gauge("ringscrape_uptime_seconds", "How long it has been running.", uptime);
}
