//! What operators see of blocks: sizes, faults, and what retention removes next.

use super::{BlockKeeper, add};
use blocks::Meta;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::Ordering;

/// An open block.
#[derive(Clone, Debug)]
pub struct BlockOverview {
    pub meta: Meta,
    pub bytes: u64,
    /// Deletions that are not carried out yet.
    pub tombstones: u64,
    /// What was found to be damaged in it, first of all.
    pub fault: Option<String>,
    /// It is not joined with others before it is uploaded.
    pub awaits_upload: bool,
}

/// What is kept, and what goes next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RetentionOverview {
    /// 0: for ever.
    pub retention_ms: i64,
    /// 0: no limit.
    pub retention_bytes: u64,
    /// The block that goes next for its age, and the time of the newest block's end from which on it does.
    pub next_by_age: Option<(String, i64)>,
    /// The block that goes next because all take too much room.
    pub next_by_size: Option<String>,
}

impl BlockKeeper {
    /// All open blocks, by their beginning.
    pub fn overview(&self) -> Vec<BlockOverview> {
        let blocks = self.open_blocks();
        let overview = |block: &std::sync::Arc<blocks::Block>| BlockOverview {
            meta: block.meta().clone(),
            bytes: block.bytes(),
            tombstones: block.tombstones(),
            fault: block.faults().first.first().map(ToString::to_string),
            awaits_upload: self.awaits_upload(block.meta()),
        };
        blocks.iter().map(overview).collect()
    }

    pub fn retention(&self) -> RetentionOverview {
        let (blocks, settings) = (self.open_blocks(), &self.settings);
        let oldest = blocks.iter().min_by_key(|block| block.meta().max_time).filter(|_| settings.retention_ms > 0);
        let first = blocks.first().filter(|_| settings.retention_bytes > 0);
        RetentionOverview {
            retention_ms: settings.retention_ms,
            retention_bytes: settings.retention_bytes,
            next_by_age: oldest.map(|block| {
                let meta = block.meta();
                (meta.ulid.clone(), meta.max_time.saturating_add(settings.retention_ms))
            }),
            next_by_size: first.map(|block| block.meta().ulid.clone()),
        }
    }

    /// Bytes of blocks that were written since the start.
    pub fn bytes_written(&self) -> u64 {
        self.stats.bytes_written.load(Ordering::Relaxed)
    }

    /// Counts what was written for a new block, while the names of what it has taken over are still there.
    pub(super) fn count_written(&self, block: &blocks::Block) {
        let files = block.chunk_paths().into_iter().filter_map(|path| std::fs::metadata(path).ok());
        let taken_over: u64 = files.filter(|file| file.nlink() > 1).map(|file| file.len()).sum();
        add(&self.stats.bytes_written, block.bytes().saturating_sub(taken_over));
    }

    /// What counts against the limit beside blocks.
    pub(super) fn other_bytes(&self) -> u64 {
        self.chunks.size().bytes + self.logs.bytes()
    }
}
