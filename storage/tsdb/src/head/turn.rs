//! Where segments begin and end, and what becomes of those that have ended.

use super::append::AppendScratch;
use super::{Closed, LOG_ONLY_AGE_MS_MAX, NO_STAMP, ROWS_IN_MEMORY, Segment, TargetHead};
use crate::group::SlotGroup;
use crate::log::{FileId, Journal, TargetKey};
use crate::row::{self, Marks, StampRun};
use series::Timestamp;
use std::sync::Arc;

/// Late samples are a segment of their own, which must not be taken for the one beside it.
fn late_key(key: &TargetKey) -> TargetKey {
    TargetKey { id: !key.id, labels: key.labels.clone() }
}

impl TargetHead {
    /// Goes on in a segment that has only the live groups. Their series continue: the first row there is a whole one.
    /// Series of other groups that have not ended yet end in the old segment, in a row that comes with the next.
    pub(super) fn start_segment(&mut self) {
        let live: Vec<Arc<SlotGroup>> = self.groups().cloned().collect();
        let mut fresh = Segment::new(self.limits.log_only);
        for group in live {
            let at = fresh.add(group);
            fresh.order.push(at);
        }
        fresh.settle();
        // The last stamps go along, or a repeated sample would be taken for a new one.
        for (from, to) in self.open.order.iter().zip(&fresh.order) {
            let (from, to) = (&self.open.placed[*from], &fresh.placed[*to]);
            if from.group.any_stamped() {
                let stamps = &self.open.slots.stamps[from.base..from.base + from.group.len()];
                fresh.slots.stamps[to.base..to.base + to.group.len()].copy_from_slice(stamps);
            }
        }
        let stamps = fresh.slots.stamps.iter().enumerate();
        fresh.carried =
            stamps.filter(|(_, stamp)| **stamp != NO_STAMP).map(|(slot, stamp)| (slot as u32, *stamp)).collect();
        if self.open.starts.any() {
            for (from, to) in self.open.order.iter().zip(&fresh.order) {
                let (from, to) = (&self.open.placed[*from], &fresh.placed[*to]);
                for slot in 0..from.group.len() {
                    fresh.starts.set(to.base + slot, self.open.starts.of(from.base + slot));
                }
            }
        }
        fresh.carried_values = self.open.values_of(&self.open.order, &fresh);
        self.layout += 1;
        self.rows_max = self.limits.rows_max;
        let old = std::mem::replace(&mut self.open, fresh);
        if old.rows.is_empty() {
            return;
        }
        // The row that comes may be of a failed scrape, which ends everything.
        assert!(self.owing.is_none(), "a row came between two segments");
        self.owing = Some(old);
    }

    pub(super) fn close(&mut self, mut segment: Segment) {
        if self.limits.log_only {
            return;
        }
        segment.rows.shrink_to_fit();
        self.closed.push_back(Arc::new(Closed::new(self.key.clone(), segment)));
        self.closed_not_taken += 1;
    }

    pub(super) fn close_late(&mut self) {
        let mut late = std::mem::replace(&mut self.late, Segment::new(self.limits.log_only));
        if !late.rows.is_empty() && !self.limits.log_only {
            late.rows.shrink_to_fit();
            self.closed.push_back(Arc::new(Closed::new(Arc::new(late_key(&self.key)), late)));
            self.closed_not_taken += 1;
        }
    }

    /// Puts late samples into a row of their own segment.
    pub(super) fn push_late(&mut self, at: Timestamp, journal: &mut Journal, scratch: &mut AppendScratch) {
        let range = |at: Timestamp| at.0.div_euclid(self.limits.range_ms);
        let continues = self.late.mark.as_ref().is_none_or(|mark| journal.continues(mark));
        let full = self.late.rows() >= self.limits.rows_max || !continues;
        if full || self.late.range().is_some_and(|(first, _)| range(first) != range(at)) {
            self.close_late();
        }
        let AppendScratch { encode, values, stamped, late, .. } = scratch;
        let mut samples = Vec::with_capacity(late.len());
        for (slot, stamp, value) in late.iter() {
            let place = self.open.placed.partition_point(|placed| placed.base <= *slot as usize) - 1;
            let (group, base) = (&self.open.placed[place].group, self.open.placed[place].base);
            let known = self.late.placed.iter().position(|placed| Arc::ptr_eq(&placed.group, group));
            let place = known.unwrap_or_else(|| self.late.add(group.clone()));
            samples.push((self.late.placed[place].base + *slot as usize - base, *stamp, *value));
        }
        samples.sort_unstable_by_key(|(slot, _, _)| *slot);
        values.clear();
        values.extend_from_slice(&self.late.slots.values);
        stamped.clear();
        for (slot, stamp, value) in samples {
            values[slot] = value;
            StampRun::push(slot as u32, stamp.wrapping_sub(self.late.slots.stamps[slot]), stamped);
            self.late.slots.stamps[slot] = stamp;
        }
        row::encode(&self.late.slots.values, values, Marks { flips: &[], stamped }, encode);
        self.late.slots.values.copy_from_slice(values);
        self.late.log_row(&late_key(&self.key), at, &encode.row, journal);
    }

    /// Segments that were closed since this was last called, for somebody to put them into chunks.
    pub fn take_closed(&mut self, taken: impl FnMut(Arc<Closed>)) {
        let fresh = std::mem::take(&mut self.closed_not_taken).min(self.closed.len());
        self.closed.range(self.closed.len() - fresh..).cloned().for_each(taken);
    }

    /// All closed segments that nobody puts into chunks, those that somebody has given up included. Looks at each.
    pub fn take_all_closed(&mut self, taken: impl FnMut(Arc<Closed>)) {
        self.closed_not_taken = 0;
        let left = self.closed.iter().filter(|closed| Arc::strong_count(closed) == 1 && !closed.is_flushed());
        left.cloned().for_each(taken);
    }

    /// All that is not in chunks, closed segments and copies of those that are open: for a snapshot.
    pub fn unflushed(&self) -> Vec<Arc<Closed>> {
        let mut all: Vec<Arc<Closed>> = self.closed.iter().filter(|closed| !closed.is_flushed()).cloned().collect();
        for segment in self.owing.iter().chain([&self.open]).filter(|segment| !segment.rows.is_empty()) {
            all.push(Arc::new(Closed::new(self.key.clone(), segment.copy())));
        }
        if !self.late.rows.is_empty() {
            all.push(Arc::new(Closed::new(Arc::new(late_key(&self.key)), self.late.copy())));
        }
        all
    }

    /// Takes over a closed segment, of a log for example.
    pub fn adopt(&mut self, mut segment: Segment) {
        segment.forward_to_end();
        // Rows do not say which groups were live.
        segment.placed.iter_mut().for_each(|placed| placed.always_live = false);
        self.close(segment);
    }

    /// Forgets what is in chunks, but for the newest rows. True while there is anything that is in none.
    pub fn drop_flushed(&mut self) -> bool {
        let TargetHead { key, closed, open, sealed_until, .. } = self;
        let mut newer = open.rows.len() + closed.iter().map(|closed| closed.segment.rows.len()).sum::<usize>();
        closed.retain_mut(|closed| {
            newer -= closed.segment.rows.len();
            if !closed.is_flushed() {
                return true;
            }
            let kept = if closed.has_rows_of(key) { ROWS_IN_MEMORY.saturating_sub(newer) } else { 0 };
            let dropped = match kept {
                0 => closed.segment.newest_possible(),
                // The flush thread may still hold a reference; then the segment is trimmed on the next pass.
                _ => Arc::get_mut(closed).and_then(|closed| {
                    // The log need not have what is in chunks.
                    closed.segment.mark = None;
                    closed.segment.keep_last(kept)
                }),
            };
            *sealed_until = dropped.max(*sealed_until);
            kept > 0
        });
        let open = self.owing.is_some() || !self.open.rows.is_empty() || !self.late.rows.is_empty();
        open || self.closed.iter().any(|closed| !closed.is_flushed())
    }

    /// Closes the open segment, so that it can be put into chunks: no more rows come.
    pub fn close_all(&mut self) {
        self.layout += 1;
        for segment in self.owing.take().into_iter().chain([std::mem::take(&mut self.open)]) {
            if !segment.rows.is_empty() {
                self.close(segment);
            }
        }
        self.close_late();
    }

    /// Gives up segments that need one of these log files: the late one now, the open one with the next row.
    pub fn turn_over_in(&mut self, files: &[FileId]) {
        let needs = |segment: &Segment| segment.mark.as_ref().is_some_and(|mark| files.contains(&mark.file()));
        if needs(&self.late) {
            self.close_late();
        }
        if needs(&self.open) {
            self.turn_over();
        }
    }

    /// The next row begins another segment, so that what was scraped until now gets into chunks.
    pub fn turn_over(&mut self) {
        self.rows_max = 0;
    }

    /// Begins another segment where the row at `at` has to.
    pub(super) fn turn(&mut self, at: Timestamp, journal: &Journal) {
        let Some((first, _)) = self.open.range() else { return };
        let range = |at: Timestamp| at.0.div_euclid(self.limits.range_ms);
        let continues = self.open.mark.as_ref().is_none_or(|mark| journal.continues(mark));
        // These come to all targets at once.
        let together = range(first) != range(at) || !continues || self.rows_max == 0;
        // In the same proportion as rows, so that not all targets begin a segment at once.
        let age_ms_max = LOG_ONLY_AGE_MS_MAX * self.rows_max as i64 / self.limits.rows_max.max(1) as i64;
        let is_old = self.limits.log_only && at.0 - first.0 >= age_ms_max;
        if together || is_old || self.open.rows() >= self.rows_max {
            self.start_segment();
        }
        if together {
            self.rows_max = self.rows_max_staggered;
        }
    }
}
