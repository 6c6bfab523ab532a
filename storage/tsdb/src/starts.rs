//! Start times of a segment's slots: when what their samples count began (decision 086).
//!
//! They change rarely, so a segment has the start of each slot as of its last row, and a list of changes by row. A segment whose
//! slots have none has neither.

use ahash::AHashMap;
use series::{NO_START, StartTimes};

/// Slots next to each other that get the same start time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StartRun {
    pub slot: u32,
    pub slots: u32,
    /// Milliseconds since 1970, 0 for none.
    pub start: i64,
}

/// From this row of its segment on, the samples of a slot have this start time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct StartChange {
    row: u32,
    slot: u32,
    start: i64,
    /// Time of the first sample that has it.
    at: i64,
}

/// Start times of the slots of a segment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Starts {
    /// As of the row that comes; slots behind its end have none.
    now: Vec<i64>,
    /// In the order of rows.
    changes: Vec<StartChange>,
    /// Slots that have another start from the row that comes on, and those starts.
    pending: Vec<(u32, i64)>,
}

impl Starts {
    /// The start time of a slot's next sample.
    #[inline]
    pub fn of(&self, slot: usize) -> i64 {
        self.now.get(slot).copied().unwrap_or(NO_START)
    }

    /// Whether a slot has or had one.
    pub fn any(&self) -> bool {
        !self.now.is_empty()
    }

    /// Says what it is from the row that comes on.
    #[inline]
    pub fn set(&mut self, slot: usize, start: i64) {
        if self.of(slot) == start {
            return;
        }
        if slot >= self.now.len() {
            self.now.resize(slot + 1, NO_START);
        }
        self.now[slot] = start;
        self.pending.push((slot as u32, start));
    }

    pub fn is_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// What is to be logged before the row with this number; it is kept as what changes with the row, unless nobody reads it.
    /// `at` says the time of the row's sample of a slot.
    pub fn take_pending(&mut self, row: usize, is_kept: bool, at: impl Fn(usize) -> i64) -> Vec<StartRun> {
        if self.pending.is_empty() {
            return Vec::new();
        }
        let mut pending = std::mem::take(&mut self.pending);
        // Of one slot the last one counts.
        pending.sort_by_key(|(slot, _)| *slot);
        pending.reverse();
        pending.dedup_by_key(|(slot, _)| *slot);
        pending.reverse();
        let mut runs: Vec<StartRun> = Vec::new();
        for (slot, start) in pending {
            match runs.last_mut() {
                Some(last) if last.slot + last.slots == slot && last.start == start => last.slots += 1,
                _ => runs.push(StartRun { slot, slots: 1, start }),
            }
            if is_kept {
                self.changes.push(StartChange { row: row as u32, slot, start, at: at(slot as usize) });
            }
        }
        runs
    }

    /// Takes what a log has before the row with this number, of this time. False if that names slots that do not exist.
    pub fn restore(&mut self, runs: &[StartRun], (row, at): (usize, i64), slots: usize) -> bool {
        for run in runs {
            let (from, end) = (run.slot as usize, run.slot as usize + run.slots as usize);
            if end > slots {
                return false;
            }
            for slot in from..end {
                self.set(slot, run.start);
            }
        }
        self.take_pending(row, true, |_| at);
        true
    }

    /// The same for who reads rows one after the other, and needs no earlier ones.
    pub fn follow(&mut self, runs: &[StartRun], slots: usize) -> bool {
        let fits = self.restore(runs, (0, 0), slots);
        self.changes.clear();
        fits
    }

    /// The changes of each slot that has any: row and start, in the order of rows.
    pub fn by_slot(&self) -> AHashMap<u32, Vec<(u32, i64)>> {
        let mut by_slot: AHashMap<u32, Vec<(u32, i64)>> = AHashMap::new();
        for StartChange { row, slot, start, .. } in &self.changes {
            by_slot.entry(*slot).or_default().push((*row, *start));
        }
        by_slot
    }

    /// The start times of slots that `wanted` has, by slot: with the times of the samples from which on slots have them. A slot
    /// without one at its first sample, at `first`, is said to have none there.
    pub fn times_of_slots(&self, wanted: impl Iterator<Item = u32>, first: i64) -> Vec<(u32, StartTimes)> {
        let mut all: Vec<(u32, StartTimes)> = wanted.map(|slot| (slot, vec![(first, NO_START)])).collect();
        all.sort_unstable_by_key(|(slot, _)| *slot);
        for StartChange { row, slot, start, at } in &self.changes {
            if let Ok(place) = all.binary_search_by_key(slot, |(slot, _)| *slot) {
                let times = &mut all[place].1;
                if *row == 0 {
                    times.clear();
                }
                times.push((*at, *start));
            }
        }
        all
    }

    /// The first rows are gone.
    pub fn forget_rows(&mut self, gone: usize) {
        self.changes.iter_mut().for_each(|change| change.row = change.row.saturating_sub(gone as u32));
    }

    pub fn heap_bytes(&self) -> usize {
        self.now.capacity() * 8 + self.changes.capacity() * size_of::<StartChange>() + self.pending.capacity() * 16
    }
}

/// What a slot's changes make the start of a row; rows come in order.
#[derive(Clone, Debug)]
pub(crate) struct StartCursor<'a> {
    changes: &'a [(u32, i64)],
    start: i64,
}

impl<'a> StartCursor<'a> {
    pub fn new(changes: &'a [(u32, i64)]) -> StartCursor<'a> {
        StartCursor { changes, start: NO_START }
    }

    pub fn at(&mut self, row: usize) -> i64 {
        while let Some(((from, start), rest)) = self.changes.split_first()
            && *from as usize <= row
        {
            (self.start, self.changes) = (*start, rest);
        }
        self.start
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(slot: u32, slots: u32, start: i64) -> StartRun {
        StartRun { slot, slots, start }
    }

    #[test]
    fn changes_are_runs_of_slots() {
        let mut starts = Starts::default();
        assert!(!starts.any() && starts.take_pending(0, true, |_| 10).is_empty());
        for (slot, start) in [(5, 7), (3, 7), (4, 7), (9, 1), (9, 2), (0, 0)] {
            starts.set(slot, start);
        }
        assert_eq!(starts.take_pending(0, true, |_| 10), [run(3, 3, 7), run(9, 1, 2)]);
        starts.set(4, 7);
        assert_eq!(starts.take_pending(1, true, |_| 20), [], "the same again");
        starts.set(4, 8);
        starts.set(9, NO_START);
        assert_eq!(starts.take_pending(6, true, |slot| 60 + slot as i64), [run(4, 1, 8), run(9, 1, 0)]);
        assert_eq!([3, 4, 9, 99].map(|slot| starts.of(slot)), [7, 8, 0, 0]);
        let mut by_slot = starts.by_slot();
        assert_eq!(by_slot.remove(&4), Some(vec![(0, 7), (6, 8)]));
        assert_eq!(by_slot.remove(&9), Some(vec![(0, 2), (6, 0)]));
        let mut cursor = StartCursor::new(&[(0, 7), (6, 8)]);
        assert_eq!([0, 5, 6, 7].map(|row| cursor.at(row)), [7, 7, 8, 8]);
        let times = starts.times_of_slots([9, 1, 4].into_iter(), 5);
        assert_eq!(times, [(1, vec![(5, 0)]), (4, vec![(10, 7), (64, 8)]), (9, vec![(10, 2), (69, 0)])]);
        starts.forget_rows(4);
        assert_eq!(starts.by_slot()[&4], [(0, 7), (2, 8)]);
    }

    #[test]
    fn what_a_log_has_is_bounded_by_the_slots_that_there_are() {
        let mut starts = Starts::default();
        assert!(starts.restore(&[run(1, 2, 5)], (3, 30), 3));
        assert_eq!((starts.of(0), starts.of(1), starts.of(2)), (0, 5, 5));
        assert!(!starts.restore(&[run(1, 3, 5)], (3, 30), 3));
        assert!(!starts.restore(&[run(0, u32::MAX, 5)], (3, 30), 3));
        let mut follows = Starts::default();
        assert!(follows.follow(&[run(1, 2, 5)], 3));
        assert!(follows.by_slot().is_empty() && follows.of(2) == 5);
    }
}
