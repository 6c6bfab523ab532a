//! What a chunk file holds: targets, slot groups, and an entry for the chunks of each segment.

use crate::group::SlotGroup;
use crate::label_index::LabelIndex;
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
    /// Targets and groups of all entries by label; the number of a target is that of its owner. What only entries have that
    /// were forgotten stays in it.
    pub labels: LabelIndex<()>,
}

impl Index {
    pub fn add_target(&mut self, key: TargetKey) {
        let owner = self.labels.add(key.labels.clone(), ());
        assert_eq!(owner as usize, self.targets.len(), "targets of a file are only added");
        self.targets.push(key);
    }

    pub fn add_entry(&mut self, entry: ChunkIndexEntry) {
        self.labels.add_groups(entry.target, entry.groups.iter().map(|number| &self.groups[*number as usize]));
        self.entries.push(entry);
    }

    /// Times of the oldest and the newest sample.
    pub fn bounds(&self) -> Option<(i64, i64)> {
        let bounds = self.entries.iter().map(|entry| (entry.first, entry.last));
        bounds.reduce(|all, one| (all.0.min(one.0), all.1.max(one.1)))
    }
}
