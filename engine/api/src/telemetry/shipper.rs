//! Metrics of uploaded blocks, under the names of Thanos' shipper.

use crate::metrics_writer::MetricsWriter;
use crate::state::State;
use std::sync::atomic::{AtomicU64, Ordering};

/// Nothing where blocks are not uploaded.
pub(super) fn shipper(writer: &mut MetricsWriter, state: &State) {
    let Some(status) = state.parts.shipper.status() else { return };
    let stats = &status.stats;
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed) as f64;
    let counters = [
        ("thanos_shipper_dir_syncs_total", "Rounds in which blocks were looked for.", &stats.syncs),
        ("thanos_shipper_dir_sync_failures_total", "Rounds that failed.", &stats.sync_failures),
        ("thanos_shipper_uploads_total", "Blocks that were uploaded.", &stats.uploads),
        ("thanos_shipper_upload_failures_total", "Blocks that could not be uploaded.", &stats.upload_failures),
        ("thanos_shipper_corrupted_blocks_total", "Blocks that could not be read.", &stats.corrupted_blocks),
        ("ringscrape_shipper_bytes_total", "Bytes of files that were uploaded.", &stats.bytes_uploaded),
    ];
    for (name, help, counter) in counters {
        writer.counter(name, help, count(counter));
    }
    writer.gauge("ringscrape_shipper_blocks_waiting", "Blocks that are to be uploaded.", count(&stats.waiting));
    let help = "Blocks that are not uploaded because they overlap one that is.";
    writer.gauge("ringscrape_shipper_blocks_overlapping", help, count(&stats.overlapping));
    let until = stats.uploaded_until_ms.load(Ordering::Relaxed) as f64 / 1000.0;
    let help = "End of the newest uploaded block; 0 before the first one.";
    writer.gauge("ringscrape_shipper_uploaded_until_timestamp_seconds", help, until);
}
