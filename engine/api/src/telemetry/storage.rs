//! Metrics of logs, chunks and blocks.

use crate::metrics_writer::{MetricsWriter, SUMMARY_QUANTILES};
use hdrhistogram::Histogram;
use shard::CoreStats;
use std::time::{SystemTime, UNIX_EPOCH};
use tsdb::StoreStats;

pub(super) fn storage(writer: &mut MetricsWriter, store: &tsdb::Store, cores: &[CoreStats], started_at: SystemTime) {
    let (bounds, head) = (store.bounds(), store.head_bounds());
    let crashes = store.crashes();
    starts(writer, store.safe_mode().is_some(), crashes);
    let (options, log_sequence) = (store.options().clone(), store.log_sequence());
    let store = store.stats();
    let sum = |of: fn(&CoreStats) -> u64| cores.iter().map(of).sum::<u64>() as f64;
    let lowest = bounds.map_or(0.0, |(oldest, _)| oldest as f64);
    writer.gauge("prometheus_tsdb_head_series", "Series with a sample in the last scrape.", sum(|core| core.series));
    let help = "Series that came into memory.";
    writer.counter("prometheus_tsdb_head_series_created_total", help, sum(|core| core.series_created));
    let help = "Series that are no more in memory: their lines have vanished, or their targets.";
    writer.counter("prometheus_tsdb_head_series_removed_total", help, sum(|core| core.series_removed));
    let appended = [
        ("float", sum(|core| core.samples_appended - core.histograms_appended)),
        ("histogram", sum(|core| core.histograms_appended)),
    ];
    writer.by("prometheus_tsdb_head_samples_appended_total", "counter", "Samples taken.", "type", appended);
    let name = "prometheus_tsdb_head_out_of_order_samples_appended_total";
    writer.by(name, "counter", "Late samples that were taken.", "type", [("float", sum(|core| core.late))]);
    let refused = [("float", sum(|core| core.out_of_order))];
    let name = "prometheus_tsdb_out_of_order_samples_total";
    writer.by(name, "counter", "Samples refused because their series has a newer one.", "type", refused);
    let refused = [("float", sum(|core| core.out_of_bounds))];
    let name = "prometheus_tsdb_out_of_bound_samples_total";
    writer.by(name, "counter", "Samples refused because their time is too far off.", "type", refused);
    let help = "Seconds of the oldest sample in chunks or blocks.";
    writer.gauge("prometheus_tsdb_lowest_timestamp_seconds", help, (lowest / 1000.0).trunc());
    let limit = (options.retention_ms / 1000) as f64;
    writer.gauge("prometheus_tsdb_retention_limit_seconds", "How long samples are kept; 0 is for ever.", limit);
    let limit = options.retention_bytes as f64;
    writer.gauge("prometheus_tsdb_retention_limit_bytes", "How many bytes are kept; 0 is no limit.", limit);
    writer.gauge(
        "prometheus_tsdb_clean_start",
        "Whether the last run ended in order.",
        f64::from(u8::from(crashes == 0)),
    );
    let help = "Blocks that could not be opened since the start.";
    writer.counter("prometheus_tsdb_reloads_failures_total", help, store.blocks_bad as f64);
    writer.gauge("prometheus_tsdb_lowest_timestamp", "Milliseconds of the oldest sample in chunks or blocks.", lowest);
    let now = series::clock::now_ms();
    let has_series = cores.iter().any(|core| core.series > 0);
    let newest = if has_series { now } else { head.map_or(0, |(_, newest)| newest) };
    // What no chunk file has was scraped since the start, or is the newest of the last run.
    let started = started_at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64);
    let oldest = head.map_or(started.min(newest), |(oldest, _)| oldest);
    for (name, text, ms) in [("min", "oldest", oldest), ("max", "newest", newest)] {
        let help = format!("Milliseconds of the {text} sample that is in no block, to some seconds.");
        writer.gauge(&format!("prometheus_tsdb_head_{name}_time"), &help, ms as f64);
        let help = format!("Seconds of the {text} sample that is in no block.");
        writer.gauge(&format!("prometheus_tsdb_head_{name}_time_seconds"), &help, (ms / 1000) as f64);
    }
    writer.gauge("prometheus_tsdb_blocks_loaded", "Blocks that are open.", store.blocks as f64);
    writer.gauge("ringscrape_tsdb_blocks_bad", "Blocks that cannot be opened.", store.blocks_bad as f64);
    writer.gauge("prometheus_tsdb_storage_blocks_bytes", "Bytes of blocks.", store.blocks_bytes as f64);
    writer.gauge("prometheus_tsdb_wal_storage_size_bytes", "Bytes of logs.", store.log_bytes as f64);
    writer.gauge(
        "prometheus_tsdb_head_chunks_storage_size_bytes",
        "Bytes of chunks in no block.",
        store.head_bytes as f64,
    );
    let compactions = (store.cuts + store.compactions) as f64;
    writer.counter("prometheus_tsdb_compactions_total", "Blocks cut and compacted.", compactions);
    let failed = (store.cut_failures + store.compaction_failures) as f64;
    writer.counter("prometheus_tsdb_compactions_failed_total", "Cuts and compactions that failed.", failed);
    let help = "Blocks removed for their age.";
    writer.counter("prometheus_tsdb_time_retentions_total", help, store.age_deletions as f64);
    let help = "Blocks removed because all took too much room.";
    writer.counter("prometheus_tsdb_size_retentions_total", help, store.size_deletions as f64);
    let changes = 1 + store.cuts + store.compactions + store.age_deletions + store.size_deletions;
    writer.counter("prometheus_tsdb_reloads_total", "Changes of the list of blocks.", changes as f64);
    compaction_durations(writer, &store.compaction_durations);
    truncations(writer, &store);
    let created = store.chunks_written as f64 + sum(|core| core.series_created);
    let help =
        "Chunks that began: the first one of each series, and one more for each that was written to a chunk file.";
    writer.counter("prometheus_tsdb_head_chunks_created_total", help, created);
    let help = "Chunks that left memory and chunk files: a block has them, or their series are gone.";
    let removed = store.chunks_removed as f64 + sum(|core| core.series_removed);
    writer.counter("prometheus_tsdb_head_chunks_removed_total", help, removed);
    let help = "Chunks written to chunk files.";
    writer.counter("prometheus_tsdb_mmap_chunks_total", help, store.chunks_written as f64);
    let help = "Damages met in chunk files.";
    writer.counter("prometheus_tsdb_mmap_chunk_corruptions_total", help, store.chunk_corruptions as f64);
    let chunks = store.head_chunks as f64 + sum(|core| core.series);
    let help = "Chunks that are in no block: those of chunk files, and the open one of each series.";
    writer.gauge("prometheus_tsdb_head_chunks", help, chunks);
    let help = "Seconds that the replay of the last run's logs took.";
    writer.gauge("prometheus_tsdb_data_replay_duration_seconds", help, store.replay.duration_ms as f64 / 1000.0);
    let help = "Number of the newest file of the logs.";
    writer.gauge("prometheus_tsdb_wal_segment_current", help, log_sequence as f64);
    writer.counter(
        "prometheus_tsdb_wal_corruptions_total",
        "Damages met in logs, chunks and blocks.",
        store.damages as f64,
    );
    logs(writer, cores);
    writer.counter("ringscrape_segments_sealed_total", "Segments put into chunks.", store.segments_sealed as f64);
    writer.gauge("ringscrape_segments_waiting", "Closed segments not in chunks yet.", store.segments_waiting as f64);
    writer.counter(
        "ringscrape_segments_lost_total",
        "Segments given up while the disk failed.",
        store.segments_lost as f64,
    );
    let written = [("chunks", store.chunk_bytes_written as f64), ("blocks", store.block_bytes_written as f64)];
    let help = "Bytes of chunks and of blocks that were written; those of logs are ringscrape_log_bytes_total.";
    writer.by("ringscrape_tsdb_written_bytes_total", "counter", help, "kind", written);
    writer.gauge("ringscrape_block_cut_seconds", "Time that the last cut of a block took.", store.last_cut_seconds);
    writer.gauge(
        "prometheus_ready",
        "Whether everything stored can be asked for.",
        f64::from(u8::from(store.replay.done)),
    );
}

/// What was let go because it is stored elsewhere.
fn truncations(writer: &mut MetricsWriter, store: &StoreStats) {
    let help = "Times that blocks were looked through for something to cut, to compact or to remove.";
    writer.counter("prometheus_tsdb_compactions_triggered_total", help, store.maintenance_runs as f64);
    let help = "Compactions of blocks whose times overlapped.";
    writer.counter("prometheus_tsdb_vertical_compactions_total", help, store.overlapping_compactions as f64);
    let help = "Times that chunk files were made a block and removed.";
    writer.counter("prometheus_tsdb_head_truncations_total", help, store.truncations as f64);
    let help = "Times that chunk files could not be made a block.";
    writer.counter("prometheus_tsdb_head_truncations_failed_total", help, store.cut_failures as f64);
    let help = "Seconds that it took to remove chunk files that are in a block.";
    times(writer, "prometheus_tsdb_head_gc_duration_seconds", help, store.truncations_seconds, store.truncations);
    let help = "Times that files of the logs were removed.";
    writer.counter("prometheus_tsdb_wal_truncations_total", help, store.log_truncations as f64);
    let help = "Times that files of the logs could not be removed.";
    writer.counter("prometheus_tsdb_wal_truncations_failed_total", help, store.log_truncation_failures as f64);
    let help = "Seconds that it took to remove files of the logs.";
    let (seconds, count) = (store.log_truncations_seconds, store.log_truncations);
    times(writer, "prometheus_tsdb_wal_truncate_duration_seconds", help, seconds, count);
}

/// A summary without quantiles.
fn times(writer: &mut MetricsWriter, name: &str, help: &str, sum: f64, count: u64) {
    writer.family(name, "summary", help);
    writer.line(&format!("{name}_sum"), &[], sum);
    writer.line(&format!("{name}_count"), &[], count as f64);
}

/// How long it took to write blocks.
fn compaction_durations(writer: &mut MetricsWriter, durations: &(Vec<(f64, u64)>, u64, f64)) {
    let (buckets, count, sum) = durations;
    let name = "prometheus_tsdb_compaction_duration_seconds";
    writer.family(name, "histogram", "Seconds that it took to write blocks.");
    let bounds = buckets.iter().map(|(bound, count)| (bound.to_string(), *count));
    for (bound, count) in bounds.chain([("+Inf".to_owned(), *count)]) {
        writer.line(&format!("{name}_bucket"), &[("le", &bound)], count as f64);
    }
    writer.line(&format!("{name}_sum"), &[], *sum);
    writer.line(&format!("{name}_count"), &[], *count as f64);
}

/// How earlier runs have ended.
pub(super) fn starts(writer: &mut MetricsWriter, is_safe_mode: bool, crashes: usize) {
    let safe_mode = f64::from(u8::from(is_safe_mode));
    writer.gauge("ringscrape_safe_mode", "Whether targets are held back after crashes.", safe_mode);
    let help = "Unclean shutdowns within the crash window before this start.";
    writer.gauge("ringscrape_crashes", help, crashes as f64);
}

/// The logs of the cores.
pub(super) fn logs(writer: &mut MetricsWriter, cores: &[CoreStats]) {
    let sum = |of: fn(&CoreStats) -> u64| cores.iter().map(of).sum::<u64>() as f64;
    let failures = sum(|core| core.log.failures);
    writer.counter("prometheus_tsdb_wal_writes_failed_total", "Failed operations of the logs.", failures);
    writer.counter("ringscrape_log_bytes_total", "Bytes written to the logs.", sum(|core| core.log.bytes_written));
    let mut syncs = Histogram::new_with_bounds(1, 3_600_000_000, 2).expect("the bounds are constants");
    cores.iter().for_each(|core| syncs += &core.log_sync_us);
    let help = "Seconds that syncs of the logs took.";
    writer.summary("prometheus_tsdb_wal_fsync_duration_seconds", help, &SUMMARY_QUANTILES, &syncs);
    writer.counter("ringscrape_log_syncs_total", "Syncs of the logs.", sum(|core| core.log.syncs));
    let behind = sum(|core| core.log.records_behind);
    writer.gauge("ringscrape_log_records_behind", "Records that a power cut would cost now.", behind);
    let ages = cores.iter().enumerate().map(|(core, stats)| (core.to_string(), stats.log.behind_ms as f64 / 1000.0));
    let help = "How long the oldest record that a power cut would cost has waited to be synced.";
    writer.by("ringscrape_log_unsynced_seconds", "gauge", help, "core", ages);
    let discarded = sum(|core| core.log.discarded);
    writer.counter("ringscrape_log_records_discarded_total", "Records given up while the disk failed.", discarded);
    let failing = cores.iter().filter(|core| core.log.failing.is_some()).count() as f64;
    writer.gauge("ringscrape_log_failing", "Cores whose log cannot be written now.", failing);
}
