//! `/api/v1/ringscrape/status/blocks`: blocks with their sizes and faults, what retention removes next, what was written.

use crate::answer::{ApiError, ApiResult, Data};
use crate::state::State;
use crate::storage::store;
use axum::extract;
use serde::Serialize;
use tsdb::{BlockOverview, RetentionOverview, StoreStats};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct BlockEntry {
    ulid: String,
    min_time: i64,
    /// The first millisecond behind the block.
    max_time: i64,
    level: u32,
    bytes: u64,
    series: u64,
    samples: u64,
    chunks: u64,
    /// Deletions that are not carried out yet.
    tombstones: u64,
    /// It could not be compacted: it is served and left alone.
    is_marked: bool,
    awaits_upload: bool,
    /// Empty if nothing was found to be damaged.
    fault: String,
}

impl From<BlockOverview> for BlockEntry {
    fn from(block: BlockOverview) -> BlockEntry {
        let BlockOverview { meta, bytes, tombstones, fault, awaits_upload } = block;
        BlockEntry {
            min_time: meta.min_time,
            max_time: meta.max_time,
            level: meta.compaction.level,
            bytes,
            series: meta.stats.num_series,
            samples: meta.stats.num_samples,
            chunks: meta.stats.num_chunks,
            tombstones,
            is_marked: meta.compaction.failed,
            awaits_upload,
            fault: fault.unwrap_or_default(),
            ulid: meta.ulid,
        }
    }
}

/// A block that is removed for its age once the newest block ends at this time or later.
#[derive(Serialize)]
struct NextByAge {
    ulid: String,
    at: i64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Retention {
    /// Milliseconds; 0 is for ever.
    time: i64,
    /// 0 is no limit.
    bytes: u64,
    /// Of logs, chunks and blocks.
    used_bytes: u64,
    next_by_age: Option<NextByAge>,
    /// The ULID of the block that is removed when the limit is passed.
    next_by_size: Option<String>,
}

impl Retention {
    fn new(retention: RetentionOverview, stats: &StoreStats) -> Retention {
        Retention {
            time: retention.retention_ms,
            bytes: retention.retention_bytes,
            used_bytes: stats.log_bytes + stats.head_bytes + stats.blocks_bytes,
            next_by_age: retention.next_by_age.map(|(ulid, at)| NextByAge { ulid, at }),
            next_by_size: retention.next_by_size,
        }
    }
}

/// Since the start.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct WriteTotals {
    samples: u64,
    log_bytes: u64,
    chunk_bytes: u64,
    block_bytes: u64,
}

#[derive(Serialize)]
pub(crate) struct BlockList {
    blocks: Vec<BlockEntry>,
    retention: Retention,
    written: WriteTotals,
}

/// The blocks, oldest first.
pub(crate) async fn status(state: extract::State<State>) -> ApiResult<BlockList> {
    let cores = state.parts.shards.stats().await.map_err(ApiError::from)?;
    let store = store(&state)?.clone();
    // Sizes are asked of the folder.
    let work = move || (store.blocks_overview(), store.stats());
    let looked = tokio::task::spawn_blocking(work).await.map_err(|error| ApiError::internal(error.to_string()))?;
    let ((blocks, retention), stats) = looked;
    let written = WriteTotals {
        samples: cores.iter().map(|core| core.samples_appended).sum(),
        log_bytes: cores.iter().map(|core| core.log.bytes_written).sum(),
        chunk_bytes: stats.chunk_bytes_written,
        block_bytes: stats.block_bytes_written,
    };
    let blocks = blocks.into_iter().map(BlockEntry::from).collect();
    Ok(Data(BlockList { blocks, retention: Retention::new(retention, &stats), written }))
}
