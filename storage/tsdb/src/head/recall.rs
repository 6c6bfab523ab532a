//! The newest rows of the last run, for the head of the same target.
//!
//! Invariants:
//!   * what is here is in chunks as well: a head that does not take it has lost nothing
//!   * a head takes it only if it has had the same groups from its first row on: no series ended in between

use super::{Closed, Segment, TargetHead};
use crate::group::SlotGroup;
use ahash::AHashMap;
use series::Timestamp;
use std::sync::Arc;

/// Rows that come back at most: five minutes at an interval of fifteen seconds.
pub(crate) const ROWS_RECALLED: usize = 20;

/// The newest rows that the last run had of a target.
#[derive(Debug)]
pub struct LastRows {
    /// Oldest first; all have the same groups, without samples that bring their own times.
    segments: Vec<Segment>,
    /// From then on there was no series that has not one of their slots.
    whole_since: Timestamp,
}

/// What became of them.
#[derive(Debug)]
pub enum Recalled {
    /// They can be read where they are in memory.
    Taken,
    /// The head does not go on where they end.
    Refused,
    /// The head has no row yet to compare them with.
    TooEarly(LastRows),
}

/// Groups of the last run, and those of this one that have the same slots: targets that share them cost one comparison.
#[derive(Default)]
pub struct SameGroups(AHashMap<*const SlotGroup, [Arc<SlotGroup>; 2]>);

impl SameGroups {
    fn are(&mut self, old: &Arc<SlotGroup>, new: &Arc<SlotGroup>) -> bool {
        let known = self.0.get(&Arc::as_ptr(old)).is_some_and(|[_, same]| Arc::ptr_eq(same, new));
        if !known && old == new {
            // Kept alive, so that no address is used again.
            self.0.insert(Arc::as_ptr(old), [old.clone(), new.clone()]);
            return true;
        }
        known
    }
}

impl LastRows {
    pub(crate) fn new(whole_since: Timestamp) -> LastRows {
        LastRows { segments: Vec::new(), whole_since }
    }

    /// Adds the last rows of a segment that a log had, which is after those before.
    pub(crate) fn push(&mut self, mut segment: Segment, rows: usize) {
        segment.forward_to_end();
        segment.keep_last(rows);
        self.segments.push(segment);
    }

    /// Time of the oldest and the newest row.
    pub(crate) fn range(&self) -> Option<(Timestamp, Timestamp)> {
        let mut ranges = self.segments.iter().filter_map(Segment::range);
        let first = ranges.next()?;
        Some((first.0, ranges.next_back().unwrap_or(first).1))
    }
}

impl TargetHead {
    /// Takes the newest rows of the last run, so that questions about the last minutes need no chunks.
    pub fn recall(&mut self, last: LastRows, same: &mut SameGroups) -> Recalled {
        let Some((begins, _)) = self.open.range() else { return Recalled::TooEarly(last) };
        let TargetHead { key, open, closed, owing, whole_since, sealed_until, .. } = self;
        let Some((oldest, newest)) = last.range() else { return Recalled::Refused };
        let has_begun_so =
            closed.is_empty() && owing.is_none() && open.plain && open.placed.len() == self.groups_at_first;
        let mut fits = |segment: &Segment| {
            let mut pairs = segment.placed.iter().zip(&open.placed);
            segment.placed.len() == open.placed.len() && pairs.all(|(old, new)| same.are(&old.group, &new.group))
        };
        if !has_begun_so || newest >= begins || !last.segments.iter().all(&mut fits) {
            return Recalled::Refused;
        }
        *whole_since = Some(whole_since.map_or(last.whole_since, |since| since.min(last.whole_since)));
        *sealed_until = Some(oldest.plus_ms(-1)).max(*sealed_until);
        for mut segment in last.segments {
            for (old, new) in segment.placed.iter_mut().zip(&open.placed) {
                old.group = new.group.clone();
            }
            segment.order = (0..segment.placed.len()).collect();
            segment.settle();
            let segment = Closed::new(key.clone(), segment);
            segment.mark_flushed();
            closed.push_back(Arc::new(segment));
        }
        Recalled::Taken
    }
}
