//! Rows that give only some of a target's slots: what rules and remote writers bring.
//!
//! Invariants:
//!   * an unstamped slot without a sample ends with the row; a stamped one stays as it is
//!   * a stamped slot's samples come in order; who calls has checked that
//!   * a series that ends just where a segment does gets its marker in the next segment

use super::segment::Row;
use super::select::SLOTS_ALONE_MAX;
use super::{Appended, NO_STAMP, RowRejected, Segment, TargetHead};
use crate::bits::Bits;
use crate::group::SlotGroup;
use crate::head::AppendScratch;
use crate::log::Journal;
use crate::row::{self, GROUP, RowError, StampRun};
use series::{STALE_NAN, Sample, Timestamp};
use std::rc::Rc;
use std::sync::Arc;

/// A sample for a slot of a live group.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SparseSample {
    /// Which of the live groups, in their order.
    pub group: u32,
    pub slot: u32,
    /// The sample's own time; an unstamped slot has that of the row.
    pub stamp: i64,
    pub value: f64,
    /// When what it counts began, 0 if that is not known.
    pub start: i64,
}

impl TargetHead {
    /// Whether no series is there that a row could end.
    pub fn all_ended(&self) -> bool {
        self.owing.is_none() && self.live_series() == 0
    }

    /// Appends a row of these samples, each of another slot. `late` are samples of stamped slots that are older than
    /// what the slot has; they go beside the row.
    pub fn append_sparse(
        &mut self,
        at: Timestamp,
        given: &[SparseSample],
        late: &[SparseSample],
        journal: &mut Journal,
        scratch: &mut AppendScratch,
    ) -> Result<Appended, RowRejected> {
        self.check_time(at)?;
        self.turn(at, journal);
        let segment = &mut self.open;
        for sample in given {
            let placed = &segment.placed[segment.order[sample.group as usize]];
            segment.starts.set(placed.base + sample.slot as usize, sample.start);
        }
        let segment = &self.open;
        let place = |given: &SparseSample| {
            let placed = &segment.placed[segment.order[given.group as usize]];
            (placed.base + given.slot as usize, placed.group.is_stamped(given.slot as usize))
        };
        scratch.values.clear();
        scratch.values.extend_from_slice(&segment.slots.values);
        scratch.flips.clear();
        scratch.stamped.clear();
        scratch.late.clear();
        let mut alive = Bits(vec![0; segment.slots.values.len().div_ceil(GROUP)]);
        for sample in given {
            let (slot, stamped) = place(sample);
            scratch.values[slot] = sample.value;
            alive.set(slot);
            if stamped {
                let difference = sample.stamp.wrapping_sub(segment.slots.stamps[slot]);
                StampRun::push(slot as u32, difference, &mut scratch.stamped);
            }
        }
        scratch.stamped.sort_unstable_by_key(|run| run.slot);
        scratch.late.extend(late.iter().map(|sample| (place(sample).0 as u32, sample.stamp, sample.value)));
        if let Some(owing) = &self.owing {
            // What lived in the segment that ends and is not in this row: here it has a marker for a sample.
            for slot in segment.ended_with(owing).filter(|slot| !alive.get(*slot)).collect::<Vec<_>>() {
                scratch.values[slot] = STALE_NAN;
                alive.set(slot);
            }
        }
        for (word, alive) in alive.0.iter().enumerate() {
            let stale = segment.slots.stale.0[word];
            let ends = !stale & !alive & !segment.stamped_word(word);
            scratch.flips.push((stale & alive | ends) & exists(segment.slots.values.len() - word * GROUP));
        }
        self.push_row(at, journal, scratch);
        let (samples, late) = ((given.len() + late.len()) as u64, late.len() as u64);
        Ok(Appended { samples, late, ..Appended::default() })
    }
}

/// The bits of a word that stand for slots, when so many are left.
fn exists(left: usize) -> u64 {
    if left < GROUP { (1 << left) - 1 } else { u64::MAX }
}

fn row_bits(word: u64, left: usize) -> impl Iterator<Item = usize> {
    crate::bits::ones(word & exists(left))
}

impl Segment {
    /// Unstamped slots of live groups that were alive at the end of an earlier segment.
    fn ended_with(&self, earlier: &Segment) -> impl Iterator<Item = usize> {
        self.placed.iter().flat_map(move |placed| {
            let same = earlier.placed.iter().find(|other| Arc::ptr_eq(&other.group, &placed.group));
            same.into_iter().flat_map(move |other| {
                let lived =
                    |slot: &usize| !placed.group.is_stamped(*slot) && !earlier.slots.stale.get(other.base + slot);
                (0..placed.group.len()).filter(lived).map(|slot| placed.base + slot)
            })
        })
    }

    /// Samples of matching slots of a segment with stamped ones, see [`TargetHead::range`].
    pub(super) fn range_of_stamped(
        &self,
        from: Timestamp,
        to: Timestamp,
        visible: u64,
        matching: &mut impl FnMut(&Arc<SlotGroup>) -> Rc<[u32]>,
        found: &mut impl FnMut(&Arc<SlotGroup>, u32, &[Sample]),
    ) -> Result<(), RowError> {
        let mut wanted: Vec<(usize, u32)> = Vec::new();
        for (at, placed) in self.placed.iter().enumerate() {
            wanted.extend(matching(&placed.group).iter().map(|slot| (at, *slot)));
        }
        let mut read: Vec<Vec<Sample>> = vec![Vec::new(); wanted.len()];
        if wanted.len() <= SLOTS_ALONE_MAX {
            for ((at, slot), out) in wanted.iter().zip(&mut read) {
                self.samples(*at, *slot, from, to, visible, out)?;
            }
        } else {
            let slots: Vec<usize> = wanted.iter().map(|(at, slot)| self.placed[*at].base + *slot as usize).collect();
            self.samples_of_many_stamped(&slots, from, to, visible, &mut read)?;
        }
        for ((at, slot), samples) in wanted.iter().zip(&read).filter(|(_, samples)| !samples.is_empty()) {
            found(&self.placed[*at].group, *slot, samples);
        }
        Ok(())
    }

    /// Like [`Segment::samples`] for many slots, in one walk over the rows.
    fn samples_of_many_stamped(
        &self,
        slots: &[usize],
        from: Timestamp,
        to: Timestamp,
        visible: u64,
        out: &mut [Vec<Sample>],
    ) -> Result<(), RowError> {
        let mut state = self.slots.clone();
        let mut wanted = vec![u32::MAX; self.slots.values.len()];
        for (i, slot) in slots.iter().enumerate() {
            wanted[*slot] = i as u32;
        }
        let unstamped: Vec<usize> = (0..slots.len()).filter(|i| !self.is_stamped(slots[*i])).collect();
        let within = |at: Timestamp| at >= from && at <= to;
        for Row { at, position, bytes } in self.rows.iter().rev() {
            if *position <= visible {
                let (_, row::Notes { flips, mut stamps }) = row::open(bytes)?;
                if within(*at) {
                    for (word, flips) in flips {
                        for place in row_bits(flips, self.slots.values.len().saturating_sub(word * GROUP)) {
                            let slot = word * GROUP + place;
                            if state.stale.get(slot) && wanted[slot] != u32::MAX {
                                out[wanted[slot] as usize].push(Sample { timestamp: *at, value: STALE_NAN });
                            }
                        }
                    }
                    for i in unstamped.iter().filter(|i| !state.stale.get(slots[**i])) {
                        out[*i].push(Sample { timestamp: *at, value: state.values[slots[*i]] });
                    }
                }
                while let Some((run, _)) = stamps.next_run()? {
                    for (slot, place) in wanted.iter().enumerate().take(run.end).skip(run.start) {
                        let stamp = state.stamps.get(slot).copied().unwrap_or(NO_STAMP);
                        if *place != u32::MAX && within(Timestamp(stamp)) {
                            out[*place as usize]
                                .push(Sample { timestamp: Timestamp(stamp), value: state.values[slot] });
                        }
                    }
                }
            }
            row::walk(bytes, &mut state, row::Direction::Undo)?;
        }
        Ok(())
    }
}
