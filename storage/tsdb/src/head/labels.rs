//! Which groups a head has rows of, and of which time: what label questions are answered from.

use super::{AHEAD_MS_MAX, BEHIND_MS_MAX, Segment, TargetHead};
use crate::group::SlotGroup;
use crate::label_index::Coverage;
use series::Timestamp;
use std::sync::Arc;

impl TargetHead {
    /// Another value whenever [`TargetHead::groups_with_rows`] may give other groups.
    pub fn rows_version(&self) -> (u64, usize) {
        (self.layout, self.closed.len())
    }

    /// The groups of all rows in memory, those that are in chunks as well included; one may come more than once.
    pub fn groups_with_rows(&self) -> impl Iterator<Item = &Arc<SlotGroup>> {
        self.segments_with_rows().flat_map(|segment| &segment.placed).map(|placed| &placed.group)
    }

    fn segments_with_rows(&self) -> impl Iterator<Item = &Segment> {
        let closed = self.closed.iter().map(|closed| &closed.segment);
        closed.chain(&self.owing).chain([&self.open, &self.late]).filter(|segment| !segment.rows.is_empty())
    }

    /// Which of these groups have rows in `[from, to]`, as far as rows up to `visible` tell. A segment counts as a whole;
    /// one with timestamps of its own counts also for the times that they may be away from its rows.
    pub fn coverage(&self, from: Timestamp, to: Timestamp, visible: u64) -> Coverage {
        let behind_ms = BEHIND_MS_MAX.max(self.limits.late_ms).max(self.limits.range_ms / 2);
        let within = |segment: &Segment| {
            let (first, last) = segment.range()?;
            let (first, last) = match segment.slots.stamps.is_empty() {
                true => (first.0, last.0),
                false => (first.0.saturating_sub(behind_ms), last.0.saturating_add(AHEAD_MS_MAX)),
            };
            Some(first <= to.0 && last >= from.0 && segment.rows[0].position <= visible)
        };
        Coverage::of_parts(self.segments_with_rows().filter_map(|segment| {
            let groups = || segment.placed.iter().map(|placed| Arc::as_ptr(&placed.group).addr()).collect::<Vec<_>>();
            within(segment).map(|within| (within, groups))
        }))
    }
}
