//! What a chunk file holds: targets, slot groups, and an entry for the chunks of each segment.

use crate::group::SlotGroup;
use crate::log::TargetKey;
use std::sync::Arc;

/// A segment's chunks in a file.
#[derive(Clone, Debug)]
pub struct ChunkIndexEntry {
    pub target: u32,
    pub groups: Box<[u32]>,
    /// Where the table begins, how many slots it has, and the bytes of table and chunks.
    pub offset: u64,
    pub slots: u32,
    pub bytes: u64,
    /// Entries hold several chunks, of histograms.
    pub histograms: bool,
    pub first: i64,
    pub last: i64,
    pub first_row: i64,
}

#[derive(Default)]
pub struct Index {
    pub targets: Vec<TargetKey>,
    pub groups: Vec<Arc<SlotGroup>>,
    pub entries: Vec<ChunkIndexEntry>,
    pub samples: u64,
}
