//! Which groups a head of histograms has rows of, and of which time.

use super::{HistogramHead, HistogramSegment};
use crate::group::SlotGroup;
use crate::label_index::Coverage;
use series::Timestamp;
use std::sync::Arc;

impl HistogramHead {
    /// Another value whenever [`HistogramHead::groups_with_rows`] may give other groups.
    pub fn rows_version(&self) -> (u64, usize) {
        (self.version, self.closed.len())
    }

    fn segments_with_rows(&self) -> impl Iterator<Item = &HistogramSegment> {
        let closed = self.closed.iter().map(|closed| &closed.segment);
        closed.chain([&self.open]).filter(|segment| !segment.is_empty())
    }

    /// The groups of all rows in memory; one may come more than once.
    pub fn groups_with_rows(&self) -> impl Iterator<Item = &Arc<SlotGroup>> {
        self.segments_with_rows().flat_map(|segment| &segment.placed).map(|(group, _)| group)
    }

    /// Which of these groups have rows in `[from, to]`, as far as rows up to `visible` tell. A segment counts as a whole, from
    /// half a range before its first row on: samples have times of their own.
    pub fn coverage(&self, from: Timestamp, to: Timestamp, visible: u64) -> Coverage {
        let behind_ms = self.limits.late_ms.max(self.limits.range_ms / 2);
        Coverage::of_parts(self.segments_with_rows().filter_map(|segment| {
            let groups = || segment.placed.iter().map(|(group, _)| Arc::as_ptr(group).addr()).collect::<Vec<_>>();
            let (first, last) = segment.range()?;
            let within = first.0.saturating_sub(behind_ms) <= to.0 && last >= from && segment.is_visible(visible);
            Some((within, groups))
        }))
    }
}
