//! Metrics of targets and scrapes, and of the cores that do them.

use crate::metrics_writer::{BOUNDS_BESIDE_SUMMARIES, MetricsWriter};
use crate::state::State;
use hdrhistogram::Histogram;
use shard::{CoreStats, MetadataSize};
use std::collections::BTreeMap;

fn total(stats: &[CoreStats], of: fn(&CoreStats) -> u64) -> f64 {
    stats.iter().map(of).sum::<u64>() as f64
}

pub(super) fn scraping(writer: &mut MetricsWriter, state: &State, stats: &[CoreStats]) {
    let set = state.target_set();
    let pools = || set.pools.iter().map(|pool| (pool.job.job_name.as_str(), pool));
    writer.gauge("prometheus_target_scrape_pools", "Jobs in force.", set.pools.len() as f64);
    writer.by(
        "prometheus_target_scrape_pool_targets",
        "gauge",
        "Targets of a job.",
        "scrape_job",
        pools().map(|(job, pool)| (job, pool.active.len() as f64)),
    );
    writer.by(
        "prometheus_target_scrape_pool_target_limit",
        "gauge",
        "target_limit of a job, 0 if it has none.",
        "scrape_job",
        pools().map(|(job, pool)| (job, pool.job.target_limit as f64)),
    );
    writer.by(
        "ringscrape_targets_failed",
        "gauge",
        "Discovered targets of a job that cannot be scraped.",
        "scrape_job",
        pools().map(|(job, pool)| (job, pool.failed.len() as f64)),
    );
    writer.by(
        "ringscrape_targets_dropped",
        "gauge",
        "Discovered targets of a job that relabelling dropped.",
        "scrape_job",
        pools().map(|(job, pool)| (job, pool.dropped_count as f64)),
    );
    metadata_caches(writer, pools().map(|(job, _)| job), stats);
    syncs(writer, state);
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
            "prometheus_target_scrapes_exceeded_native_histogram_bucket_limit_total",
            "Scrapes refused because of native_histogram_bucket_limit.",
            |core| core.exceeded_bucket_limit,
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
        (
            "prometheus_target_scrapes_exemplar_out_of_order_total",
            "Exemplars not taken because the series has a newer one.",
            |core| core.exemplars.out_of_order,
        ),
        ("prometheus_tsdb_exemplar_exemplars_appended_total", "Exemplars that were stored.", |core| {
            core.exemplars.appended
        }),
        (
            "prometheus_tsdb_exemplar_out_of_order_exemplars_total",
            "Always 0: exemplars of scrapes that are out of order are counted as those of the scrapes.",
            |_| 0,
        ),
        ("ringscrape_scrapes_total", "Scrapes, good and bad.", |core| core.scrapes),
        ("ringscrape_samples_scraped_total", "Samples that targets exposed.", |core| core.samples_scraped),
        ("ringscrape_samples_appended_total", "Samples taken, report series included.", |core| core.samples_appended),
        ("ringscrape_scrape_body_bytes_total", "Bytes of bodies, unpacked.", |core| core.body_bytes),
        ("ringscrape_scrape_wire_bytes_total", "Bytes of bodies as they came over the wire.", |core| core.wire_bytes),
        ("ringscrape_connections_opened_total", "Connections opened to targets.", |core| core.connections_opened),
    ] {
        writer.counter(name, help, total(stats, of));
    }
    for (name, help, of) in [
        (
            "prometheus_tsdb_exemplar_exemplars_in_storage",
            "Exemplars that are stored.",
            (|core| core.exemplars.stored) as fn(&CoreStats) -> u64,
        ),
        ("prometheus_tsdb_exemplar_series_with_exemplars_in_storage", "Series with stored exemplars.", |core| {
            core.exemplars.series
        }),
        (
            "prometheus_tsdb_exemplar_max_exemplars",
            "Exemplars that may be stored, 0 without --enable-feature=exemplar-storage.",
            |core| core.exemplars.max,
        ),
    ] {
        writer.gauge(name, help, total(stats, of));
    }
    let oldest = stats.iter().filter_map(|core| core.exemplars.oldest).min();
    writer.gauge(
        "prometheus_tsdb_exemplar_last_exemplars_timestamp_seconds",
        "Time of the oldest exemplar that is stored.",
        oldest.map_or(0.0, |oldest| oldest.0 as f64 / 1000.0),
    );
    writer.by(
        "ringscrape_scans_total",
        "counter",
        "Bodies read: warm ones had only known lines.",
        "kind",
        [("warm", total(stats, |core| core.scans_warm)), ("cold", total(stats, |core| core.scans_cold))],
    );
    writer.by(
        "ringscrape_tls_handshakes_total",
        "counter",
        "TLS handshakes with targets: full ones, and those that went on from an earlier session.",
        "kind",
        [
            ("full", total(stats, |core| core.handshakes_full)),
            ("resumed", total(stats, |core| core.handshakes_resumed)),
        ],
    );
    let mut failed = BTreeMap::new();
    let mut missed = BTreeMap::new();
    for core in stats {
        core.scrapes_failed.iter().for_each(|(reason, count)| *failed.entry(reason.as_str()).or_insert(0) += count);
        core.missed.iter().for_each(|(reason, count)| *missed.entry(reason.as_str()).or_insert(0) += count);
    }
    let name = "ringscrape_scrapes_failed_total";
    writer.by(
        name,
        "counter",
        "Failed scrapes by the step that failed.",
        "reason",
        failed.iter().map(|(k, v)| (k, *v as f64)),
    );
    let name = "ringscrape_missed_scrapes_total";
    writer.by(
        name,
        "counter",
        "Ticks that passed without a scrape.",
        "reason",
        missed.iter().map(|(k, v)| (k, *v as f64)),
    );
    interval_lengths(writer, stats);
    writer.histogram(
        "ringscrape_scrape_lateness_seconds",
        "Time between the moment a scrape was due and its start.",
        stats.iter().map(|core| &core.lateness_us),
    );
    writer.histogram(
        "ringscrape_scrape_duration_seconds",
        "Time a scrape took, connect to last sample stored.",
        stats.iter().map(|core| &core.duration_us),
    );
}

fn metadata_caches<'a>(writer: &mut MetricsWriter, jobs: impl Iterator<Item = &'a str>, stats: &'a [CoreStats]) {
    let mut jobs: BTreeMap<&str, MetadataSize> = jobs.map(|job| (job, MetadataSize::default())).collect();
    for (job, size) in stats.iter().flat_map(|core| &core.metadata) {
        *jobs.entry(job).or_default() += *size;
    }
    let of = |part: fn(&MetadataSize) -> u64| jobs.iter().map(move |(job, size)| (job, part(size) as f64));
    let help = "Metrics of a job's targets with a type, a unit or a help text.";
    let name = "prometheus_target_metadata_cache_entries";
    writer.by(name, "gauge", help, "scrape_job", of(|size| size.metrics));
    let help = "Bytes of the names, types, units and help texts of these.";
    writer.by("prometheus_target_metadata_cache_bytes", "gauge", help, "scrape_job", of(|size| size.bytes));
}

/// What making targets from lists took and refused, job by job.
fn syncs(writer: &mut MetricsWriter, state: &State) {
    let sd = state.parts.targets.stats();
    let help = "Jobs that came, with all configurations so far.";
    writer.counter("prometheus_target_scrape_pools_total", help, sd.pools_made_total as f64);
    let help = "Jobs that came and could not be set up: none, a bad configuration is refused as a whole.";
    writer.counter("prometheus_target_scrape_pools_failed_total", help, 0.0);
    let help = "Jobs whose settings a reload changed.";
    writer.counter("prometheus_target_scrape_pool_reloads_total", help, sd.pools_reloaded_total as f64);
    let help = "Jobs whose changed settings could not be taken: none, a bad configuration is refused as a whole.";
    writer.counter("prometheus_target_scrape_pool_reloads_failed_total", help, 0.0);
    let pools = sd.pools;
    let name = "prometheus_target_sync_length_seconds";
    writer.family(name, "summary", "Time that making a job's targets from its lists took.");
    for (job, stats) in &pools {
        writer.line(&format!("{name}_sum"), &[("scrape_job", job)], stats.sync_time.as_secs_f64());
        writer.line(&format!("{name}_count"), &[("scrape_job", job)], stats.syncs as f64);
    }
    let of_pools = |of: fn(&targets::PoolStats) -> u64| pools.iter().map(move |(job, stats)| (job, of(stats) as f64));
    let help = "Times that a job's targets were made from its lists.";
    let name = "prometheus_target_scrape_pool_sync_total";
    writer.by(name, "counter", help, "scrape_job", of_pools(|stats| stats.syncs));
    let help = "Entries of lists that could not become a target, counted each time.";
    writer.by(
        "prometheus_target_sync_failed_total",
        "counter",
        help,
        "scrape_job",
        of_pools(|stats| stats.failed_targets),
    );
    let exceeded: u64 = pools.values().map(|stats| stats.target_limit_exceeded).sum();
    let help = "Times that a job had more targets than its target_limit.";
    writer.counter("prometheus_target_scrape_pool_exceeded_target_limit_total", help, exceeded as f64);
}

/// Prometheus' summary and histogram of the time between two scrape starts.
fn interval_lengths(writer: &mut MetricsWriter, stats: &[CoreStats]) {
    let name = "prometheus_target_interval_length_seconds";
    writer.family(name, "summary", "Actual time between two scrapes of a target.");
    let mut lengths: BTreeMap<u64, Histogram<u64>> = BTreeMap::new();
    for (interval, histogram) in stats.iter().flat_map(|core| &core.interval_us) {
        let merged = lengths.entry(*interval).or_insert_with(|| Histogram::new_from(histogram));
        // Histograms of all cores have the same bounds.
        let _ = merged.add(histogram);
    }
    let by_interval: Vec<(String, Histogram<u64>)> = (lengths.into_iter())
        .map(|(ms, histogram)| (config::format_duration(std::time::Duration::from_millis(ms)), histogram))
        .collect();
    for (interval, histogram) in &by_interval {
        writer.summary_lines(name, &[("interval", interval)], &[0.01, 0.05, 0.5, 0.9, 0.99], histogram);
    }
    let name = "prometheus_target_interval_length_histogram_seconds";
    writer.family(name, "histogram", "Actual time between two scrapes of a target.");
    for (interval, histogram) in &by_interval {
        let labels = [("interval", interval.as_str())];
        writer.histogram_lines(name, &labels, &BOUNDS_BESIDE_SUMMARIES, std::iter::once(histogram));
    }
}

pub(super) fn cores(writer: &mut MetricsWriter, stats: &[CoreStats]) {
    let mut per_core = |name: &str, kind: &str, help: &str, of: fn(&CoreStats) -> f64| {
        writer.by(name, kind, help, "core", stats.iter().map(|core| (core.core.to_string(), of(core))));
    };
    per_core("ringscrape_core_cpu_seconds_total", "counter", "CPU time of a core's thread.", |core| core.cpu_seconds);
    per_core("ringscrape_core_targets", "gauge", "Targets of a core.", |core| core.targets as f64);
    per_core("ringscrape_core_series", "gauge", "Live series of a core.", |core| core.series as f64);
    per_core("ringscrape_core_templates", "gauge", "Runs of lines that a core knows.", |core| core.templates as f64);
    per_core("ringscrape_core_templates_bytes", "gauge", "Memory of these.", |core| core.templates_bytes as f64);
    per_core("ringscrape_core_head_bytes", "gauge", "Memory of rows and newest values.", |core| core.head_bytes as f64);
    let help = "Longest time that a core stood still.";
    per_core("ringscrape_core_stall_max_seconds", "gauge", help, |core| core.stall_max.as_secs_f64());
    let name = "ringscrape_core_task_seconds_max";
    writer.family(name, "gauge", "Longest time that work of a kind held a core without letting other work run.");
    for core in stats {
        for (task, longest) in &core.task_longest {
            let labels = [("core", &*core.core.to_string()), ("task", task.as_str())];
            writer.line(name, &labels, longest.as_secs_f64());
        }
    }
}
