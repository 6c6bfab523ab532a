//! Rows of scrapes: every live slot gets a value, or ends.

use super::{AHEAD_MS_MAX, Appended, BEHIND_MS_MAX, NO_STAMP, NotedStarts, RowRejected, Segment, TargetHead};
use crate::bits::Bits;
use crate::group::SlotGroup;
use crate::log::Journal;
use crate::row::{self, GROUP, Marks, Scratch, StampRun};
use ahash::AHashSet;
use series::NO_START;
use series::Timestamp;
use std::sync::Arc;

/// Buffers that a core uses again for every append.
#[derive(Debug, Default)]
pub struct AppendScratch {
    pub(super) encode: Scratch,
    pub(super) values: Vec<f64>,
    pub(super) flips: Vec<u64>,
    pub(super) stamped: Vec<StampRun>,
    /// Slot, time and value of samples older than their slot's last one.
    pub(super) late: Vec<(u32, i64, f64)>,
}

impl AppendScratch {
    /// Forgets what the last row said beside its values.
    fn clear(&mut self) {
        self.flips.clear();
        self.stamped.clear();
        self.late.clear();
    }
}

impl TargetHead {
    /// Appends one scrape: a value for each slot of the live groups in their order, and a timestamp for each stamped
    /// one. With `mark_stamped`, stamped slots of groups that are gone end with a marker like all others.
    pub fn append(
        &mut self,
        at: Timestamp,
        values: &[f64],
        stamps: &[i64],
        mark_stamped: bool,
        journal: &mut Journal,
        scratch: &mut AppendScratch,
    ) -> Result<Appended, RowRejected> {
        self.check_time(at)?;
        self.turn(at, journal);
        if self.newest.is_none() {
            self.groups_at_first = self.open.placed.len();
        }
        let mut appended = Appended::default();
        let segment = &mut self.open;
        scratch.clear();
        if segment.plain {
            assert_eq!(values.len(), segment.slots.values.len(), "a value for every slot");
            // All slots are live: those that were stale come back.
            if segment.slots.stale.0.iter().any(|word| *word != 0) {
                scratch.flips.extend_from_slice(&segment.slots.stale.0);
            }
            appended.samples = values.len() as u64;
            scratch.values.clear();
            scratch.values.extend_from_slice(values);
        } else {
            appended = segment.lay_out(at, values, stamps, mark_stamped, self.limits.late_ms, scratch);
        }
        self.push_row(at, journal, scratch);
        Ok(appended)
    }

    /// Appends a scrape that failed: the first `kept` live groups take values, all other slots end. Stamped slots end
    /// only with `mark_stamped`.
    pub fn append_failed(
        &mut self,
        at: Timestamp,
        kept: usize,
        values: &[f64],
        mark_stamped: bool,
        journal: &mut Journal,
        scratch: &mut AppendScratch,
    ) -> Result<Appended, RowRejected> {
        self.check_time(at)?;
        self.turn(at, journal);
        let order = std::mem::take(&mut self.open.order);
        let all_live: Vec<bool> = self.open.placed.iter().map(|placed| placed.live).collect();
        self.open.order = order[..kept.min(order.len())].to_vec();
        self.open.settle();
        scratch.clear();
        let appended = self.open.lay_out(at, values, &[], mark_stamped, 0, scratch);
        self.push_row(at, journal, scratch);
        self.open.order = order;
        self.open.placed.iter_mut().zip(all_live).for_each(|(placed, live)| placed.live = live);
        self.open.settle();
        Ok(appended)
    }

    /// Ends every series: the target is gone.
    pub fn end(
        &mut self,
        at: Timestamp,
        mark_stamped: bool,
        journal: &mut Journal,
        scratch: &mut AppendScratch,
    ) -> Result<(), RowRejected> {
        self.append_failed(at, 0, &[], mark_stamped, journal, scratch).map(|_| ())
    }

    pub(super) fn check_time(&self, at: Timestamp) -> Result<(), RowRejected> {
        match self.newest {
            Some(newest) if at <= newest => Err(RowRejected { at, newest }),
            _ => Ok(()),
        }
    }

    pub(super) fn push_row(&mut self, at: Timestamp, journal: &mut Journal, scratch: &mut AppendScratch) {
        let mut left = None;
        if let Some(mut owing) = self.owing.take() {
            let live: AHashSet<*const SlotGroup> = self.groups().map(Arc::as_ptr).collect();
            owing.end_at(at, |group| live.contains(&Arc::as_ptr(group)), journal, &mut scratch.encode);
            self.layout += 1;
            left = Some(owing);
        }
        let AppendScratch { encode, values, flips, stamped, .. } = scratch;
        let segment = &mut self.open;
        if let Some(noted) = self.noted_starts.take() {
            segment.set_starts(&noted);
        }
        row::encode(&segment.slots.values, values, Marks { flips, stamped }, encode);
        segment.slots.values.copy_from_slice(values);
        for (word, flips) in segment.slots.stale.0.iter_mut().zip(flips.iter()) {
            *word ^= flips;
        }
        for run in stamped.iter() {
            for stamp in &mut segment.slots.stamps[run.slots()] {
                *stamp = stamp.wrapping_add(run.difference);
            }
        }
        segment.log_row(&self.key, at, &encode.row, journal);
        if let Some(left) = left {
            // Series with their own times do not end with their segment: some may be there alone.
            self.whole_since = self.whole_since.max(left.newest_left_behind(segment));
            self.close(left);
        }
        self.newest = Some(at);
        self.whole_since.get_or_insert(at);
        if !scratch.late.is_empty() {
            self.push_late(at, journal, scratch);
        }
    }
}

impl Segment {
    /// Takes the start times that slots have from the next row on.
    fn set_starts(&mut self, noted: &NotedStarts) {
        let place = |group: u32, slot: u32| {
            let placed = &self.placed[*self.order.get(group as usize)?];
            Some(placed.base + slot as usize).filter(|_| (slot as usize) < placed.group.len())
        };
        let slots = noted.slots.iter().filter_map(|(group, slot, start)| Some((place(*group, *slot)?, *start)));
        let slots: Vec<(usize, i64)> = slots.collect();
        if noted.is_whole && self.starts.any() {
            let has_one: AHashSet<usize> = slots.iter().map(|(slot, _)| *slot).collect();
            for slot in (0..self.slots.values.len()).filter(|slot| !has_one.contains(slot)) {
                self.starts.set(slot, NO_START);
            }
        }
        slots.into_iter().for_each(|(slot, start)| self.starts.set(slot, start));
    }

    /// Spreads values over the slot space, and finds which slots come back, end, or have a sample of their own time.
    fn lay_out(
        &mut self,
        at: Timestamp,
        values: &[f64],
        stamps: &[i64],
        mark_stamped: bool,
        late_ms: i64,
        scratch: &mut AppendScratch,
    ) -> Appended {
        let mut appended = Appended::default();
        scratch.values.clear();
        scratch.values.extend_from_slice(&self.slots.values);
        let mut alive = Bits(vec![0; self.slots.values.len().div_ceil(GROUP)]);
        let (mut value_at, mut stamp_at) = (0, 0);
        let ahead_max = at.0.saturating_add(AHEAD_MS_MAX);
        for placed in self.order.iter().map(|place| &self.placed[*place]) {
            let values = &values[value_at..value_at + placed.group.len()];
            value_at += values.len();
            if !placed.group.any_stamped() {
                scratch.values[placed.base..placed.base + values.len()].copy_from_slice(values);
                appended.samples += values.len() as u64;
                alive.set_all(placed.base..placed.base + values.len());
                continue;
            }
            alive.set_all(placed.base..placed.base + values.len());
            for (i, value) in values.iter().enumerate() {
                let slot = placed.base + i;
                if !placed.group.is_stamped(i) {
                    scratch.values[slot] = *value;
                    appended.samples += 1;
                    continue;
                }
                let (stamp, last) = (stamps[stamp_at], self.slots.stamps[slot]);
                stamp_at += 1;
                let too_old = last == NO_STAMP && stamp < at.0.saturating_sub(BEHIND_MS_MAX);
                if stamp > last && stamp <= ahead_max && !too_old {
                    scratch.values[slot] = *value;
                    StampRun::push(slot as u32, stamp.wrapping_sub(last), &mut scratch.stamped);
                    appended.samples += 1;
                    continue;
                }
                if stamp > ahead_max || too_old || stamp == NO_STAMP {
                    appended.out_of_bounds += 1;
                } else if stamp < last && stamp >= at.0.saturating_sub(late_ms) {
                    scratch.late.push((slot as u32, stamp, *value));
                    appended.late += 1;
                    appended.samples += 1;
                } else if stamp < last {
                    appended.out_of_order += 1;
                } else if value.to_bits()
                    != self.carried_value(slot, stamp).unwrap_or(self.slots.values[slot]).to_bits()
                {
                    appended.duplicate += 1;
                }
                if last == NO_STAMP {
                    // It has never had a sample, so there is nothing to be alive.
                    alive.clear(slot);
                }
            }
        }
        assert_eq!(
            (value_at, stamp_at),
            (values.len(), stamps.len()),
            "a value for every slot, a stamp for every stamped one"
        );
        // Rows list stamped slots in ascending order; live groups may come in another.
        scratch.stamped.sort_unstable_by_key(|run| run.slot);
        for (word, alive) in alive.0.iter().enumerate() {
            let stale = self.slots.stale.0[word];
            let mut ends = !stale & !alive;
            if !mark_stamped {
                ends &= !self.stamped_word(word);
            }
            let exists = match self.slots.values.len() - word * GROUP {
                count if count < GROUP => (1 << count) - 1,
                _ => u64::MAX,
            };
            scratch.flips.push((stale & alive | ends) & exists);
        }
        appended
    }
}
