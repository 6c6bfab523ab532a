//! Rows over one space of slots, as a log has them and as chunks are made of them.
//!
//! Invariants:
//!   * groups are only added; those that are gone stay until the segment is
//!   * the values at hand are those after the last row; every row leads back to those before it

use super::{AHEAD_MS_MAX, NO_STAMP};
use crate::bits::Bits;
use crate::group::SlotGroup;
use crate::log::{Journal, SegmentMark, TargetKey};
use crate::row::{self, GROUP, Marks, Scratch, Slots};
use crate::starts::{StartRun, Starts};
use series::Timestamp;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

#[derive(Clone, Debug)]
pub(crate) struct SegmentGroup {
    pub group: Arc<SlotGroup>,
    pub base: usize,
    pub(super) live: bool,
    /// It has been live in every row of the segment.
    pub(super) always_live: bool,
    /// The group's slots go on in the next segment: the markers at the end of this one are not needed.
    pub goes_on: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub at: Timestamp,
    /// Readers may see it once the log is visible up to here.
    pub(super) position: u64,
    pub bytes: Box<[u8]>,
}

/// Rows over one slot space. Groups are only added; those that are gone stay until the segment is.
#[derive(Debug, Default)]
pub struct Segment {
    pub(crate) placed: Vec<SegmentGroup>,
    /// Indices of the live groups, in the order in which values come.
    pub(super) order: Vec<usize>,
    /// The live groups are all there are, in the order of the slots, and none is stamped: values come as they lie here.
    pub(super) plain: bool,
    pub(crate) slots: Slots,
    /// Slots that take samples with timestamps of their own.
    stamped: Bits,
    /// With `log_only`, of all rows only the first and the last, without their bytes.
    pub(crate) rows: Vec<Row>,
    log_only: bool,
    /// Rows that are not in `rows` any more.
    dropped_rows: usize,
    /// Stamps that slots had when the segment began.
    pub(crate) carried: Vec<(u32, i64)>,
    /// The values of these samples, where the segment before is known; they are in no row of this one.
    pub(super) carried_values: Vec<f64>,
    /// When what the slots count began.
    pub(crate) starts: Starts,
    pub(super) mark: Option<SegmentMark>,
    /// How many of `placed` the log knows.
    logged: usize,
}

/// A segment that takes no more rows, shared with whoever puts it into chunks.
#[derive(Debug)]
pub struct Closed<S = Segment> {
    pub key: Arc<TargetKey>,
    pub segment: S,
    /// Set once its chunks can be read; from then on the rows are not.
    sealed: AtomicBool,
}

impl<S> Closed<S> {
    pub fn new(key: Arc<TargetKey>, segment: S) -> Closed<S> {
        Closed { key, segment, sealed: AtomicBool::new(false) }
    }

    /// The chunks of the segment can be read.
    pub fn mark_flushed(&self) {
        self.sealed.store(true, Ordering::Release);
    }

    pub fn is_flushed(&self) -> bool {
        self.sealed.load(Ordering::Acquire)
    }
}

impl Closed {
    /// Whether it has what the target's scrapes brought, row by row, and no samples with times of their own.
    pub(super) fn has_rows_of(&self, target: &Arc<TargetKey>) -> bool {
        Arc::ptr_eq(&self.key, target) && self.segment.slots.stamps.is_empty()
    }
}

impl Segment {
    /// An empty segment. With `log_only` it does not keep its rows.
    pub(super) fn new(log_only: bool) -> Segment {
        Segment { log_only, ..Segment::default() }
    }

    /// A copy for another reader of the log.
    pub(crate) fn read_copy(&self) -> Segment {
        Segment { logged: self.logged, ..self.copy() }
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Time of the first and the last row.
    pub fn range(&self) -> Option<(Timestamp, Timestamp)> {
        Some((self.rows.first()?.at, self.rows.last()?.at))
    }

    /// How many rows there are.
    pub fn rows(&self) -> usize {
        self.rows.len() + self.dropped_rows
    }

    fn push(&mut self, at: Timestamp, position: u64, bytes: &[u8]) {
        if !self.log_only {
            self.rows.push(Row { at, position, bytes: bytes.into() });
            return;
        }
        let bytes = Box::default();
        match self.rows.len() {
            2 => {
                self.rows[1] = Row { at, position, bytes };
                self.dropped_rows += 1;
            }
            _ => self.rows.push(Row { at, position, bytes }),
        }
    }

    /// Slots of the segment, live or not.
    pub fn slots(&self) -> usize {
        self.slots.values.len()
    }

    /// The same rows, which no log knows.
    pub(super) fn copy(&self) -> Segment {
        Segment {
            placed: self.placed.clone(),
            order: self.order.clone(),
            plain: self.plain,
            slots: self.slots.clone(),
            stamped: self.stamped.clone(),
            rows: self.rows.clone(),
            log_only: self.log_only,
            dropped_rows: self.dropped_rows,
            carried: self.carried.clone(),
            carried_values: self.carried_values.clone(),
            starts: self.starts.clone(),
            mark: None,
            logged: 0,
        }
    }

    /// Whether all samples have the times of their rows.
    pub(crate) fn is_unstamped(&self) -> bool {
        self.slots.stamps.is_empty()
    }

    /// Whether a slot's series goes on in the next segment.
    pub(crate) fn goes_on(&self, slot: usize) -> bool {
        let place = self.placed.partition_point(|placed| placed.base <= slot) - 1;
        self.placed[place].goes_on
    }

    /// Start times as a log has them before a row; false if they do not fit. Samples with times of their own are taken to have
    /// that of the row until their chunks are made.
    pub(crate) fn restore_starts(&mut self, row: (usize, i64), runs: &[StartRun]) -> bool {
        let slots = self.slots();
        self.starts.restore(runs, row, slots)
    }

    /// Stamps as a log has them, of slots that are there.
    pub(crate) fn restore_stamps(&mut self, stamps: &[(u32, i64)]) {
        for (slot, stamp) in stamps {
            if let Some(place) = self.slots.stamps.get_mut(*slot as usize) {
                *place = *stamp;
            }
        }
        self.carried = stamps.to_vec();
    }

    /// Brings the newest values of a restored segment forward over its rows; those that do not decode are dropped.
    pub(super) fn forward_to_end(&mut self) {
        loop {
            self.slots.values.fill(0.0);
            (0..self.slots.values.len()).for_each(|slot| self.slots.stale.set(slot));
            self.slots.stamps.fill(NO_STAMP);
            for (slot, stamp) in &self.carried {
                self.slots.stamps[*slot as usize] = *stamp;
            }
            let Segment { rows, slots, .. } = &mut *self;
            let fits = |row: &&Row| row::walk(&row.bytes, slots, row::Direction::Redo).is_ok();
            let readable = rows.iter().take_while(fits).count();
            if readable == rows.len() {
                return;
            }
            // What a row has done before it turned out not to decode is undone by another try without it.
            rows.truncate(readable);
        }
    }

    /// A row as a log has it; false if it does not fit.
    pub(crate) fn restore_row(&mut self, at: Timestamp, bytes: &[u8]) -> bool {
        let fits = self.rows.last().is_none_or(|row| row.at < at);
        if fits {
            self.rows.push(Row { at, position: 0, bytes: bytes.into() });
        }
        fits
    }

    pub(crate) fn add(&mut self, group: Arc<SlotGroup>) -> usize {
        let base = self.slots.values.len();
        let end = base + group.len();
        self.slots.values.resize(end, 0.0);
        for slot in base..end {
            self.slots.stale.set(slot);
        }
        if group.any_stamped() && self.slots.stamps.is_empty() {
            self.slots.stamps = vec![NO_STAMP; base];
        }
        if group.any_stamped() || !self.slots.stamps.is_empty() {
            self.slots.stamps.resize(end, NO_STAMP);
        }
        (0..group.len()).filter(|slot| group.is_stamped(*slot)).for_each(|slot| self.stamped.set(base + slot));
        let always_live = self.rows.is_empty();
        self.placed.push(SegmentGroup { group, base, live: true, always_live, goes_on: false });
        self.placed.len() - 1
    }

    pub(super) fn settle(&mut self) {
        self.placed.iter_mut().for_each(|placed| placed.live = false);
        for at in &self.order {
            self.placed[*at].live = true;
        }
        self.plain = self.slots.stamps.is_empty() && self.order.iter().copied().eq(0..self.placed.len());
    }

    /// Groups that are not live now have not been so always.
    pub(super) fn note_dead(&mut self) {
        self.placed.iter_mut().for_each(|placed| placed.always_live &= placed.live);
    }

    pub(super) fn live(&self) -> impl Iterator<Item = &SegmentGroup> {
        self.order.iter().map(|at| &self.placed[*at])
    }

    pub(super) fn dead_slots(&self) -> usize {
        self.placed.iter().filter(|placed| !placed.live).map(|placed| placed.group.len()).sum()
    }

    /// Bytes on the heap, groups not counted.
    pub fn heap_bytes(&self) -> usize {
        let rows: usize = self.rows.iter().map(|row| row.bytes.len()).sum();
        rows + self.rows.capacity() * size_of::<Row>()
            + self.placed.capacity() * size_of::<SegmentGroup>()
            + self.carried.capacity() * size_of::<(u32, i64)>()
            + self.carried_values.capacity() * 8
            + self.order.capacity() * size_of::<usize>()
            + self.slots.values.capacity() * 8
            + self.slots.stamps.capacity() * 8
            + (self.slots.stale.0.capacity() + self.stamped.0.capacity()) * 8
            + self.starts.heap_bytes()
    }

    /// No sample is after this: that of the last row, or what a sample with a time of its own may be ahead of it.
    pub(super) fn newest_possible(&self) -> Option<Timestamp> {
        let (_, last) = self.range()?;
        Some(if self.slots.stamps.is_empty() { last } else { last.plus_ms(AHEAD_MS_MAX) })
    }

    /// Forgets all but the last rows; gives the time of the last one that is gone.
    pub(super) fn keep_last(&mut self, rows: usize) -> Option<Timestamp> {
        let gone = self.rows.len().checked_sub(rows).filter(|gone| *gone > 0)?;
        let until = self.rows[gone - 1].at;
        self.rows.drain(..gone);
        self.starts.forget_rows(gone);
        self.rows.shrink_to_fit();
        Some(until)
    }

    /// Whether the slots of both belong to the same series.
    pub(super) fn same_layout(&self, other: &Segment) -> bool {
        self.placed.len() == other.placed.len()
            && self.placed.iter().zip(&other.placed).all(|(one, other)| Arc::ptr_eq(&one.group, &other.group))
    }

    /// Whether all slots that take no values any more have ended. They do with the row behind a change of groups; series with
    /// their own times need not at all.
    pub(super) fn dead_have_ended(&self) -> bool {
        let has_ended = |placed: &SegmentGroup| {
            (placed.base..placed.base + placed.group.len()).all(|slot| self.slots.stale.get(slot))
        };
        self.order.len() == self.placed.len()
            || self.slots.stamps.is_empty() && self.placed.iter().filter(|placed| !placed.live).all(has_ended)
    }

    /// The group of a slot, and its place there.
    pub(crate) fn at(&self, slot: usize) -> Option<(&SegmentGroup, usize)> {
        let placed = self.placed.get(self.placed.partition_point(|placed| placed.base <= slot).checked_sub(1)?)?;
        Some((placed, slot - placed.base)).filter(|(placed, slot)| *slot < placed.group.len())
    }

    pub(crate) fn is_stamped(&self, slot: usize) -> bool {
        self.stamped.get(slot)
    }

    /// Which slots of a word of 64 are stamped.
    pub(super) fn stamped_word(&self, word: usize) -> u64 {
        self.stamped.0.get(word).copied().unwrap_or(0)
    }

    /// Ends every slot that is not stamped, in a last row, if there is one whose group does not go on. (A slot that is
    /// not stale has a sample in every row, so those that go on have to end here as well.)
    pub(super) fn end_at(
        &mut self,
        at: Timestamp,
        goes_on: impl Fn(&Arc<SlotGroup>) -> bool,
        journal: &mut Journal,
        scratch: &mut Scratch,
    ) {
        let mut flips = vec![0u64; self.slots.values.len().div_ceil(GROUP)];
        let mut any = false;
        for placed in &self.placed {
            let ends = !goes_on(&placed.group);
            for slot in 0..placed.group.len() {
                let at = placed.base + slot;
                if !placed.group.is_stamped(slot) && !self.slots.stale.get(at) {
                    flips[at / GROUP] |= 1 << (at % GROUP);
                    any |= ends;
                }
            }
        }
        if !any {
            return;
        }
        for placed in &mut self.placed {
            placed.goes_on = goes_on(&placed.group);
        }
        row::encode(&self.slots.values, &self.slots.values, Marks { flips: &flips, stamped: &[] }, scratch);
        self.slots.stale.0.iter_mut().zip(&flips).for_each(|(word, flips)| *word ^= flips);
        if let Some(mark) = &mut self.mark {
            let position = journal.row(mark, at, &scratch.row);
            self.push(at, position, &scratch.row);
        }
    }

    /// Logs what the log does not know yet of the segment, then the row.
    pub(super) fn log_row(&mut self, key: &TargetKey, at: Timestamp, bytes: &[u8], journal: &mut Journal) {
        let fresh = self.placed[self.logged..].iter().map(|placed| &placed.group);
        let mark = match &mut self.mark {
            Some(mark) => {
                if self.logged < self.placed.len() {
                    journal.place(mark, fresh);
                }
                mark
            }
            None => self.mark.insert(journal.begin(key, fresh, &self.carried)),
        };
        self.logged = self.placed.len();
        let row = self.rows.len() + self.dropped_rows;
        let (stamped, stamps) = (&self.stamped, &self.slots.stamps);
        let time = |slot: usize| if stamped.get(slot) { stamps[slot] } else { at.0 };
        journal.starts(mark, &self.starts.take_pending(row, !self.log_only, time));
        let position = journal.row(mark, at, bytes);
        self.push(at, position, bytes);
    }
}
