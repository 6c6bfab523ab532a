//! Newest values alone, slot by slot, for readers that come back many times and keep nothing in between.
//!
//! Invariants:
//!   * a place is good for one layout: who comes back compares [`TargetHead::layout`] first
//!   * what a row says that is not visible yet is not told

use super::segment::SegmentGroup;
use super::{Elsewhere, NO_STAMP, Segment, TargetHead};
use crate::group::SlotGroup;
use crate::row::{self, OneSlot, RowError};
use ahash::AHashMap;
use series::{Sample, Timestamp};
use std::sync::Arc;

/// A target with more slots is not taken back over rows that are not visible yet: a row is read anew for each slot.
const SLOTS_TAKEN_BACK_MAX: usize = 4096;

impl Segment {
    /// The newest sample or marker of a slot, without looking at rows.
    pub(super) fn newest(&self, placed: &SegmentGroup, slot: usize) -> Option<Sample> {
        let row = self.rows.last()?;
        let at = placed.base + slot;
        let value = self.slots.values[at];
        if placed.group.is_stamped(slot) {
            let stamp = self.slots.stamps[at];
            let value = self.carried_value(at, stamp).unwrap_or(value);
            return (stamp != NO_STAMP && !self.slots.stale.get(at))
                .then_some(Sample { timestamp: Timestamp(stamp), value });
        }
        (!self.slots.stale.get(at)).then_some(Sample { timestamp: row.at, value })
    }

    /// The value of the sample that a slot had when the segment began, if this is still its newest.
    pub(super) fn carried_value(&self, slot: usize, stamp: i64) -> Option<f64> {
        // At a hub all slots but the first few are carried, so most lie as far from the end in both lists.
        let guess = self.carried.len().checked_sub(self.slots.values.len() - slot);
        let at = match guess.filter(|at| self.carried[*at].0 as usize == slot) {
            Some(at) => at,
            None => self.carried.binary_search_by_key(&(slot as u32), |(slot, _)| *slot).ok()?,
        };
        (self.carried[at].1 == stamp).then(|| self.carried_values.get(at).copied())?
    }

    /// Newest values of what `fresh` carries, which has the groups `order` of this segment.
    pub(super) fn values_of(&self, order: &[usize], fresh: &Segment) -> Vec<f64> {
        let value = |(slot, stamp): &(u32, i64)| {
            let place = fresh.placed.partition_point(|placed| placed.base <= *slot as usize) - 1;
            let at = self.placed[order[place]].base + *slot as usize - fresh.placed[place].base;
            self.carried_value(at, *stamp).unwrap_or(self.slots.values[at])
        };
        fresh.carried.iter().map(value).collect()
    }

    /// Time of the newest sample that a series with own times has here and not in the segment that comes next.
    pub(super) fn newest_left_behind(&self, next: &Segment) -> Option<Timestamp> {
        if self.slots.stamps.is_empty() {
            return None;
        }
        let places: AHashMap<_, _> = next.placed.iter().map(|to| (Arc::as_ptr(&to.group), to.base)).collect();
        let mut newest = None;
        for placed in self.placed.iter().filter(|placed| placed.group.any_stamped()) {
            let goes_on = places.get(&Arc::as_ptr(&placed.group));
            for slot in (0..placed.group.len()).filter(|slot| placed.group.is_stamped(*slot)) {
                let at = placed.base + slot;
                let alive = !self.slots.stale.get(at) && self.slots.stamps[at] != NO_STAMP;
                if alive && goes_on.is_none_or(|base| next.slots.stale.get(base + slot)) {
                    newest = newest.max(Some(Timestamp(self.slots.stamps[at])));
                }
            }
        }
        newest
    }
}

impl TargetHead {
    /// The segment with the newest values.
    fn current(&self) -> &Segment {
        self.owing.as_ref().unwrap_or(&self.open)
    }

    /// Another number whenever groups or their places change.
    pub fn layout(&self) -> u64 {
        self.layout
    }

    /// All groups with newest values in the order of their places, and whether each takes more. A series may be in
    /// several; it is alive in one, unless it has own times.
    pub fn newest_groups(&self) -> impl Iterator<Item = (&Arc<SlotGroup>, bool)> {
        self.current().placed.iter().map(|placed| (&placed.group, placed.live))
    }

    /// Whether the newest row is one of those up to `at` that can be seen.
    pub(super) fn newest_row_is_visible(&self, at: Timestamp, visible: u64) -> bool {
        self.open.rows.last().is_some_and(|row| row.position <= visible && row.at <= at)
    }

    /// Whether whatever takes no values any more has ended, as far as rows up to `visible` tell.
    pub fn dead_have_ended(&self, visible: u64) -> bool {
        self.owing.is_none() && self.newest_row_is_visible(Timestamp(i64::MAX), visible) && self.open.dead_have_ended()
    }

    /// Whether the newest values tell everything about the time after `after`; chunks may know more otherwise, and
    /// [`TargetHead::newest_unflushed`] does.
    pub fn newest_is_whole(&self, after: Timestamp, elsewhere: Elsewhere) -> bool {
        // Series that bring their own times do not end with their segment.
        let unstamped = || self.closed.iter().all(|closed| closed.segment.slots.stamps.is_empty());
        self.is_whole_since(after, elsewhere) || (elsewhere == Elsewhere::Nothing && unstamped())
    }

    /// Whether whatever is elsewhere of this target, after `after`, says nothing that the newest values do not.
    pub(super) fn is_whole_since(&self, after: Timestamp, elsewhere: Elsewhere) -> bool {
        elsewhere != Elsewhere::Blocks && self.whole_since.is_some_and(|since| since <= after)
    }

    /// Whether [`TargetHead::newest_of`] can answer as of now. If not, it can as soon as the newest row is visible.
    pub fn newest_is_settled(&self, visible: u64) -> bool {
        let segment = self.current();
        if segment.rows.last().is_none_or(|row| row.position <= visible) {
            return true;
        }
        let small = segment.slots.stamps.is_empty() && segment.slots.values.len() <= SLOTS_TAKEN_BACK_MAX;
        small && segment.rows[0].position <= visible
    }

    /// The newest sample of a slot of the group at a place, unless the slot's series has ended or the sample is not
    /// after `after`.
    #[inline]
    pub fn newest_of(
        &self,
        place: usize,
        slot: usize,
        after: Timestamp,
        visible: u64,
    ) -> Result<Option<Sample>, RowError> {
        let segment = self.current();
        let (Some(placed), Some(last)) = (segment.placed.get(place), segment.rows.last()) else { return Ok(None) };
        if last.position <= visible || !self.newest_is_settled(visible) {
            return Ok(segment.newest(placed, slot).filter(|sample| sample.timestamp > after));
        }
        let at = placed.base + slot;
        let (value, stale) = (segment.slots.values[at], segment.slots.stale.get(at));
        let mut state = OneSlot { value, stale, stamp: NO_STAMP };
        for row in segment.rows.iter().rev() {
            if row.position <= visible {
                let sample = Sample { timestamp: row.at, value: state.value };
                return Ok((!state.stale && row.at > after).then_some(sample));
            }
            row::undo_one(&row.bytes, at, &mut state)?;
        }
        Ok(None)
    }

    /// Newest samples after `after` of series with own times in closed segments that are not in chunks: they may be the
    /// newest of their series. `matching` gives the matching slots of a group.
    pub fn newest_unflushed(
        &self,
        after: Timestamp,
        visible: u64,
        mut matching: impl FnMut(&Arc<SlotGroup>) -> Vec<u32>,
        mut found: impl FnMut(&Arc<SlotGroup>, u32, Sample),
    ) {
        let unsealed = self.closed.iter().filter(|closed| !closed.is_flushed()).map(|closed| &closed.segment);
        let stamped = unsealed.filter(|segment| !segment.slots.stamps.is_empty());
        for segment in stamped.filter(|segment| segment.rows.last().is_some_and(|row| row.position <= visible)) {
            for placed in segment.placed.iter().filter(|placed| placed.group.any_stamped()) {
                for slot in matching(&placed.group) {
                    let newest = segment.newest(placed, slot as usize);
                    let newest = newest.filter(|sample| sample.timestamp > after);
                    if let (Some(sample), true) = (newest, placed.group.is_stamped(slot as usize)) {
                        found(&placed.group, slot, sample);
                    }
                }
            }
        }
    }

    /// The groups of closed segments that are not in chunks.
    pub fn closed_groups(&self) -> impl Iterator<Item = &Arc<SlotGroup>> {
        let unsealed = self.closed.iter().filter(|closed| !closed.is_flushed());
        unsealed.flat_map(|closed| &closed.segment.placed).map(|placed| &placed.group)
    }
}
