//! One target's samples that are not in chunks yet: newest values, and rows that lead back from them.
//!
//! Invariants:
//!   * rows are in order of time; a row at or before the newest one is refused
//!   * a segment begins with all slots stale, so its rows can be read from its beginning as well as from its end
//!   * a segment lies in one range of time, so that a block is made of whole segments
//!   * live groups have no two unstamped slots with the same labels; the caller saw to that
//!   * history is read backwards from the newest values, so dropping the oldest rows is forgetting their bytes
//!   * a series that moves to a slot of another group leaves a marker there at the time of its first sample here; a
//!     reader of the series takes the sample

mod newest;

use crate::bits::{Bits, ones};
use crate::group::SlotGroup;
use crate::log::{Journal, SegmentMark, TargetKey};
use crate::row::{self, GROUP, Marks, OneSlot, RowError, Scratch, Slots};
use ahash::{AHashMap, AHashSet, RandomState};
use series::{Labels, STALE_NAN, Sample, Timestamp};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

mod sparse;

pub use sparse::Given;

/// A sample may be ahead of its scrape by this much, as in Prometheus.
const AHEAD_MS_MAX: i64 = 10 * 60 * 1000;
/// The first sample of a stamped slot may be behind its scrape by this much.
const BEHIND_MS_MAX: i64 = 60 * 60 * 1000;
/// A segment with fewer dead slots than this is never worth a new one.
const DEAD_SLOTS_MIN: usize = 256;
/// No sample yet.
pub(crate) const NO_STAMP: i64 = i64::MIN;
/// Slots of a segment up to which each is followed back by itself; more are walked back together.
const SLOTS_ALONE_MAX: usize = 16;

/// Whether a timestamp of its own is near enough to its scrape to begin a series.
pub fn within_bounds(scrape: Timestamp, stamp: i64) -> bool {
    stamp <= scrape.0.saturating_add(AHEAD_MS_MAX) && stamp >= scrape.0.saturating_sub(BEHIND_MS_MAX)
}

/// A row that cannot be appended: its time is not after the newest row's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("row at {} ms is not after the newest one at {} ms", .at.0, .newest.0)]
pub struct RowRejected {
    pub at: Timestamp,
    pub newest: Timestamp,
}

/// What became of the samples of a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Appended {
    pub samples: u64,
    /// Samples with own timestamps that were not taken: older than the slot's last one.
    pub out_of_order: u64,
    /// Those that were, within the window for late samples.
    pub late: u64,
    /// Same timestamp as the slot's last one, another value.
    pub duplicate: u64,
    /// Too far ahead or too old.
    pub out_of_bounds: u64,
}

/// How the series of a target changed with its groups.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Series that were not there before.
    pub added: u64,
}

/// When a segment is closed.
#[derive(Clone, Copy, Debug)]
pub struct SegmentLimits {
    /// Rows of a segment, and with it samples of a chunk.
    pub rows_max: usize,
    /// Length of a block: no segment lies in two.
    pub range_ms: i64,
    /// How far before its scrape a sample may be that is older than its slot's last one; 0 refuses all.
    pub late_ms: i64,
}

impl Default for SegmentLimits {
    fn default() -> SegmentLimits {
        SegmentLimits { rows_max: 120, range_ms: 2 * 3600 * 1000, late_ms: 0 }
    }
}

/// A group in a segment's slot space.
#[derive(Debug)]
pub(crate) struct Placed {
    pub group: Arc<SlotGroup>,
    pub base: usize,
    live: bool,
    /// The group's slots go on in the next segment: the markers at the end of this one are not needed.
    pub goes_on: bool,
}

#[derive(Debug)]
pub(crate) struct Row {
    pub at: Timestamp,
    /// Readers may see it once the log is visible up to here.
    position: u64,
    pub bytes: Box<[u8]>,
}

/// Rows over one slot space. Groups are only added; those that are gone stay until the segment is.
#[derive(Debug, Default)]
pub struct Segment {
    pub(crate) placed: Vec<Placed>,
    /// Indices of the live groups, in the order in which values come.
    order: Vec<usize>,
    /// The live groups are all there are, in the order of the slots, and none is stamped: values come as they lie here.
    plain: bool,
    slots: Slots,
    pub(crate) rows: Vec<Row>,
    /// Stamps that slots had when the segment began.
    pub(crate) carried: Vec<(u32, i64)>,
    /// The values of these samples, where the segment before is known; they are in no row of this one.
    carried_values: Vec<f64>,
    mark: Option<SegmentMark>,
    /// How many of `placed` the log knows.
    logged: usize,
}

/// A segment that takes no more rows, shared with whoever puts it into chunks.
#[derive(Debug)]
pub struct Closed {
    pub key: Arc<TargetKey>,
    pub segment: Segment,
    /// Set once its chunks can be read; from then on the rows are not.
    sealed: AtomicBool,
}

impl Closed {
    pub fn new(key: Arc<TargetKey>, segment: Segment) -> Closed {
        Closed { key, segment, sealed: AtomicBool::new(false) }
    }

    /// The chunks of the segment can be read.
    pub fn set_sealed(&self) {
        self.sealed.store(true, Ordering::Release);
    }

    pub fn is_sealed(&self) -> bool {
        self.sealed.load(Ordering::Acquire)
    }
}

/// Buffers that a core uses again for every append.
#[derive(Debug, Default)]
pub struct AppendScratch {
    encode: Scratch,
    values: Vec<f64>,
    flips: Vec<u64>,
    stamped: Vec<(u32, i64)>,
    /// Slot, time and value of samples older than their slot's last one.
    late: Vec<(u32, i64, f64)>,
}

/// Late samples are a segment of their own, which must not be taken for the one beside it.
fn late_key(key: &TargetKey) -> TargetKey {
    TargetKey { id: !key.id, labels: key.labels.clone() }
}

/// One target's samples.
#[derive(Debug)]
pub struct TargetHead {
    key: Arc<TargetKey>,
    limits: SegmentLimits,
    /// Rows after which the open segment is closed: fewer for the first one, so that targets that began together are
    /// not closed together.
    rows_max: usize,
    /// Closed segments, oldest first, until they are in chunks.
    closed: VecDeque<Arc<Closed>>,
    /// A segment whose vanished series end with the next row.
    owing: Option<Segment>,
    open: Segment,
    /// Samples that came late, in rows of their own: stamps there go forth and back.
    late: Segment,
    newest: Option<Timestamp>,
    /// The newest values tell everything about the time after this.
    whole_since: Option<Timestamp>,
    /// The newest sample that may be in chunks and no more in memory.
    sealed_until: Option<Timestamp>,
    /// Another number whenever groups or their places change.
    layout: u64,
}

impl Segment {
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
        self.rows.len()
    }

    /// Slots of the segment, live or not.
    pub fn slots(&self) -> usize {
        self.slots.values.len()
    }

    /// Whether a slot's series goes on in the next segment.
    pub(crate) fn goes_on(&self, slot: usize) -> bool {
        let place = self.placed.partition_point(|placed| placed.base <= slot) - 1;
        self.placed[place].goes_on
    }

    /// Stamps as a log has them.
    pub(crate) fn restore_stamps(&mut self, stamps: &[(u32, i64)]) -> Result<(), &'static str> {
        for (slot, stamp) in stamps {
            *self.slots.stamps.get_mut(*slot as usize).ok_or("a stamp of an unknown slot")? = *stamp;
        }
        self.carried = stamps.to_vec();
        Ok(())
    }

    /// Brings the newest values of a restored segment forward over its rows; those that do not decode are dropped.
    fn forward_to_end(&mut self) {
        self.slots.values.fill(0.0);
        (0..self.slots.values.len()).for_each(|slot| self.slots.stale.set(slot));
        let readable = self.rows.iter().take_while(|row| {
            let mut after = self.slots.clone();
            let fits = row::walk(&row.bytes, &mut after, row::Direction::Redo).is_ok();
            if fits {
                self.slots = after;
            }
            fits
        });
        let readable = readable.count();
        self.rows.truncate(readable);
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
        self.placed.push(Placed { group, base, live: true, goes_on: false });
        self.placed.len() - 1
    }

    fn settle(&mut self) {
        self.placed.iter_mut().for_each(|placed| placed.live = false);
        for at in &self.order {
            self.placed[*at].live = true;
        }
        self.plain = self.slots.stamps.is_empty() && self.order.iter().copied().eq(0..self.placed.len());
    }

    fn live(&self) -> impl Iterator<Item = &Placed> {
        self.order.iter().map(|at| &self.placed[*at])
    }

    fn dead_slots(&self) -> usize {
        self.placed.iter().filter(|placed| !placed.live).map(|placed| placed.group.len()).sum()
    }

    /// Samples of a slot in `[from, to]`, newest first, markers included.
    fn samples(
        &self,
        at: usize,
        slot: u32,
        from: Timestamp,
        to: Timestamp,
        visible: u64,
        out: &mut Vec<Sample>,
    ) -> Result<(), RowError> {
        let placed = &self.placed[at];
        let stamped = placed.group.is_stamped(slot as usize);
        let slot = placed.base + slot as usize;
        let stamp = self.slots.stamps.get(slot).copied().unwrap_or(NO_STAMP);
        let mut state = OneSlot { value: self.slots.values[slot], stale: self.slots.stale.get(slot), stamp };
        for row in self.rows.iter().rev() {
            if row.at < from && !stamped {
                break;
            }
            let behind = state;
            let said = row::undo_one(&row.bytes, slot, &mut state)?;
            if row.position > visible {
                continue;
            }
            if behind.stale && said.flipped && row.at >= from && row.at <= to {
                out.push(Sample { timestamp: row.at, value: STALE_NAN });
            }
            let sample = match stamped {
                true => said.stamped.then_some(Timestamp(behind.stamp)),
                false => (!behind.stale).then_some(row.at),
            };
            if let Some(timestamp) = sample.filter(|timestamp| *timestamp >= from && *timestamp <= to) {
                out.push(Sample { timestamp, value: behind.value });
            }
        }
        Ok(())
    }

    /// Samples of many unstamped slots in `[from, to]`, newest first, markers included.
    fn samples_of_many(
        &self,
        slots: &[usize],
        from: Timestamp,
        to: Timestamp,
        visible: u64,
        out: &mut [Vec<Sample>],
    ) -> Result<(), RowError> {
        let mut state = self.slots.clone();
        let mut stale = Vec::with_capacity(slots.len());
        for row in self.rows.iter().rev().take_while(|row| row.at >= from) {
            let wanted = row.position <= visible && row.at <= to;
            stale.clear();
            if wanted {
                for (slot, out) in slots.iter().zip(&mut *out) {
                    stale.push(state.stale.get(*slot));
                    if stale.last() == Some(&false) {
                        out.push(Sample { timestamp: row.at, value: state.values[*slot] });
                    }
                }
            }
            row::walk(&row.bytes, &mut state, row::Direction::Undo)?;
            for ((slot, stale), out) in slots.iter().zip(&stale).zip(&mut *out) {
                if *stale && !state.stale.get(*slot) {
                    out.push(Sample { timestamp: row.at, value: STALE_NAN });
                }
            }
        }
        Ok(())
    }

    /// The newest sample or marker of a slot, without looking at rows.
    fn newest(&self, placed: &Placed, slot: usize) -> Option<Sample> {
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

    /// Bytes on the heap, groups not counted.
    pub fn heap_bytes(&self) -> usize {
        let rows: usize = self.rows.iter().map(|row| row.bytes.len()).sum();
        rows + self.rows.capacity() * size_of::<Row>()
            + self.placed.capacity() * size_of::<Placed>()
            + self.carried.capacity() * size_of::<(u32, i64)>()
            + self.carried_values.capacity() * 8
            + self.order.capacity() * size_of::<usize>()
            + self.slots.values.capacity() * 8
            + self.slots.stamps.capacity() * 8
            + self.slots.stale.0.capacity() * 8
    }
}

impl TargetHead {
    /// An empty head. `stagger` is any number that differs between targets.
    pub fn new(key: TargetKey, limits: SegmentLimits, stagger: u64) -> TargetHead {
        let rows_max = limits.rows_max / 2 + (stagger % (limits.rows_max as u64 / 2 + 1)) as usize;
        TargetHead {
            key: Arc::new(key),
            limits,
            rows_max: rows_max.max(1),
            closed: VecDeque::new(),
            owing: None,
            open: Segment::default(),
            late: Segment::default(),
            newest: None,
            whole_since: None,
            sealed_until: None,
            layout: 0,
        }
    }

    /// Time of the newest row.
    pub fn newest_at(&self) -> Option<Timestamp> {
        self.newest
    }

    /// Times of the oldest and the newest row that is not in chunks.
    pub fn bounds(&self) -> Option<(Timestamp, Timestamp)> {
        let oldest = self.segments().find_map(Segment::range)?.0;
        Some((oldest, self.newest?))
    }

    /// The live groups, in the order in which [`TargetHead::append`] takes values.
    pub fn groups(&self) -> impl Iterator<Item = &Arc<SlotGroup>> {
        self.open.live().map(|placed| &placed.group)
    }

    /// How many slots take values.
    pub fn live_slots(&self) -> usize {
        self.open.live().map(|placed| placed.group.len()).sum()
    }

    /// How many series are there now: live slots that are not stale.
    pub fn live_series(&self) -> usize {
        let stale: usize = self.open.slots.stale.0.iter().map(|word| word.count_ones() as usize).sum();
        self.open.slots.values.len() - stale
    }

    /// From now on these groups take values, in this order. A group that was there keeps its slots and their history;
    /// slots of groups that are gone end with the next row.
    pub fn replace(&mut self, groups: &[Arc<SlotGroup>]) -> Change {
        let address = |group: &Arc<SlotGroup>| Arc::as_ptr(group);
        let before: AHashSet<*const SlotGroup> = self.groups().map(address).collect();
        let after: AHashSet<*const SlotGroup> = groups.iter().map(address).collect();
        let new = || groups.iter().filter(|group| !before.contains(&address(group)));
        let gone = || self.groups().filter(|group| !after.contains(&address(group)));
        let mut added: u64 = new().map(|group| group.len() as u64).sum();
        if added > 0 && gone().next().is_some() {
            // Series that were in a group that goes are not new.
            let hasher = RandomState::new();
            let hashes = |group: &Arc<SlotGroup>| {
                (0..group.len()).map(|slot| group.slot_hash(slot, &hasher)).collect::<Vec<u64>>()
            };
            let known: AHashSet<u64> = gone().flat_map(hashes).collect();
            added -= new().flat_map(hashes).filter(|hash| known.contains(hash)).count() as u64;
        }

        // A dead group that comes back takes its old slots again.
        let mut known: AHashMap<*const SlotGroup, usize> =
            self.open.placed.iter().enumerate().map(|(at, placed)| (Arc::as_ptr(&placed.group), at)).collect();
        let mut places: Vec<usize> = Vec::with_capacity(groups.len());
        for group in groups {
            let place = known.remove(&address(group)).unwrap_or_else(|| self.open.add(group.clone()));
            places.push(place);
        }
        self.layout += 1;
        self.open.order = places;
        self.open.settle();
        if self.open.dead_slots() > self.live_slots().max(DEAD_SLOTS_MIN) {
            self.start_segment();
        }
        Change { added }
    }

    /// Goes on in a segment that has only the live groups. Their series continue: the first row there is a whole one.
    /// Series of other groups that have not ended yet end in the old segment, in a row that comes with the next.
    fn start_segment(&mut self) {
        let live: Vec<Arc<SlotGroup>> = self.groups().cloned().collect();
        let mut fresh = Segment::default();
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
        fresh.carried_values = self.open.values_of(&self.open.order, &fresh);
        self.layout += 1;
        let old = std::mem::replace(&mut self.open, fresh);
        if old.rows.is_empty() {
            return;
        }
        // The row that comes may be of a failed scrape, which ends everything.
        assert!(self.owing.is_none(), "a row came between two segments");
        self.owing = Some(old);
    }

    fn close(&mut self, mut segment: Segment) {
        segment.rows.shrink_to_fit();
        self.closed.push_back(Arc::new(Closed::new(self.key.clone(), segment)));
        self.rows_max = self.limits.rows_max;
    }

    fn close_late(&mut self) {
        let mut late = std::mem::take(&mut self.late);
        if !late.rows.is_empty() {
            late.rows.shrink_to_fit();
            self.closed.push_back(Arc::new(Closed::new(Arc::new(late_key(&self.key)), late)));
        }
    }

    /// Puts late samples into a row of their own segment.
    fn push_late(&mut self, at: Timestamp, journal: &mut Journal, scratch: &mut AppendScratch) {
        let range = |at: Timestamp| at.0.div_euclid(self.limits.range_ms);
        let continues = self.late.mark.as_ref().is_none_or(|mark| journal.continues(mark));
        let full = self.late.rows.len() >= self.limits.rows_max || !continues;
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
            stamped.push((slot as u32, stamp.wrapping_sub(self.late.slots.stamps[slot])));
            self.late.slots.stamps[slot] = stamp;
        }
        row::encode(&self.late.slots.values, values, Marks { flips: &[], stamped }, encode);
        self.late.slots.values.copy_from_slice(values);
        self.late.log_row(&late_key(&self.key), at, &encode.row, journal);
    }

    /// Closed segments that nobody has put into chunks yet, for somebody to do it.
    pub fn take_closed(&mut self, taken: impl FnMut(Arc<Closed>)) {
        let fresh = self.closed.iter().filter(|closed| Arc::strong_count(closed) == 1 && !closed.is_sealed());
        fresh.cloned().for_each(taken);
    }

    /// Takes over a closed segment, of a log for example.
    pub fn adopt(&mut self, mut segment: Segment) {
        segment.forward_to_end();
        self.close(segment);
    }

    /// Forgets what is in chunks. True while there is anything else.
    pub fn drop_sealed(&mut self) -> bool {
        self.sealed_until = self.in_chunks_until();
        self.closed.retain(|closed| !closed.is_sealed());
        let open = self.owing.is_some() || !self.open.rows.is_empty() || !self.late.rows.is_empty();
        open || !self.closed.is_empty()
    }

    /// The newest sample that is read from chunks: those of segments that are sealed, dropped already or not.
    fn in_chunks_until(&self) -> Option<Timestamp> {
        let sealed = self.closed.iter().filter(|closed| closed.is_sealed());
        sealed.filter_map(|closed| closed.segment.newest_possible()).chain(self.sealed_until).max()
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

    /// The next row begins another segment, so that what was scraped until now gets into chunks.
    pub fn turn_over(&mut self) {
        self.rows_max = 0;
    }

    /// Begins another segment where the row at `at` has to.
    fn turn(&mut self, at: Timestamp, journal: &Journal) {
        let Some((first, _)) = self.open.range() else { return };
        let range = |at: Timestamp| at.0.div_euclid(self.limits.range_ms);
        let continues = self.open.mark.as_ref().is_none_or(|mark| journal.continues(mark));
        if self.open.rows.len() >= self.rows_max || range(first) != range(at) || !continues {
            self.start_segment();
        }
    }

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
        let mut appended = Appended::default();
        let segment = &mut self.open;
        scratch.flips.clear();
        scratch.stamped.clear();
        scratch.late.clear();
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
        scratch.flips.clear();
        scratch.stamped.clear();
        scratch.late.clear();
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

    fn check_time(&self, at: Timestamp) -> Result<(), RowRejected> {
        match self.newest {
            Some(newest) if at <= newest => Err(RowRejected { at, newest }),
            _ => Ok(()),
        }
    }

    fn push_row(&mut self, at: Timestamp, journal: &mut Journal, scratch: &mut AppendScratch) {
        let mut left = None;
        if let Some(mut owing) = self.owing.take() {
            let live: AHashSet<*const SlotGroup> = self.groups().map(Arc::as_ptr).collect();
            owing.end_at(at, |group| live.contains(&Arc::as_ptr(group)), journal, &mut scratch.encode);
            self.layout += 1;
            left = Some(owing);
        }
        let AppendScratch { encode, values, flips, stamped, .. } = scratch;
        let segment = &mut self.open;
        row::encode(&segment.slots.values, values, Marks { flips, stamped }, encode);
        segment.slots.values.copy_from_slice(values);
        for (word, flips) in segment.slots.stale.0.iter_mut().zip(flips.iter()) {
            *word ^= flips;
        }
        for (slot, difference) in stamped.iter() {
            let stamp = &mut segment.slots.stamps[*slot as usize];
            *stamp = stamp.wrapping_add(*difference);
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

    fn segments(&self) -> impl Iterator<Item = &Segment> {
        let closed = self.closed.iter().filter(|closed| !closed.is_sealed()).map(|closed| &closed.segment);
        closed.chain(&self.owing).chain([&self.open, &self.late])
    }

    /// Newest samples of matching series at `at`, if they are after `after`, as far as rows up to `visible` tell.
    /// `matching` gives the matching slots of a group, so that the caller can remember them for many targets.
    ///
    /// True if that is all there is to say; series that are stale are left out then. Otherwise what is in chunks may
    /// say more, and markers are found as well; unless `nothing_older` is in any.
    pub fn instant(
        &self,
        after: Timestamp,
        at: Timestamp,
        visible: u64,
        nothing_older: bool,
        mut matching: impl FnMut(&Arc<SlotGroup>) -> Rc<[u32]>,
        mut found: impl FnMut(&Arc<SlotGroup>, u32, Sample),
    ) -> Result<bool, RowError> {
        let newest_asked = self.newest.is_some_and(|newest| newest <= at);
        let newest_visible = self.open.rows.last().is_some_and(|row| row.position <= visible);
        let since = |since: Timestamp| since <= after;
        // Series that bring their own times do not end with their segment.
        let unstamped = || self.closed.iter().all(|closed| closed.segment.slots.stamps.is_empty());
        let whole = (self.whole_since.is_some_and(since) || (nothing_older && unstamped())) && self.owing.is_none();
        if whole && newest_asked && newest_visible && self.open.order.len() == self.open.placed.len() {
            // The common case touches nothing but newest values.
            for placed in &self.open.placed {
                for slot in matching(&placed.group).iter() {
                    if let Some(sample) = self.open.newest(placed, *slot as usize)
                        && sample.timestamp > after
                        && sample.timestamp <= at
                    {
                        found(&placed.group, *slot, sample);
                    }
                }
            }
            return Ok(true);
        }
        // Several slots may hold parts of one series: the newest part speaks, a sample before a marker.
        let mut newest: AHashMap<Labels, (Sample, Arc<SlotGroup>, u32)> = AHashMap::new();
        self.range(after.plus_ms(1), at, visible, matching, |group, slot, samples| {
            let Some(sample) = samples.first() else { return };
            let entry = newest.entry(group.labels(slot as usize));
            let best = entry.or_insert_with(|| (*sample, group.clone(), slot));
            let later = sample.timestamp > best.0.timestamp;
            let instead = sample.timestamp == best.0.timestamp && series::is_stale(best.0.value);
            if later || instead {
                *best = (*sample, group.clone(), slot);
            }
        })?;
        for (sample, group, slot) in newest.into_values() {
            found(&group, slot, sample);
        }
        Ok(false)
    }

    /// Samples of matching series in `[from, to]`, markers included, as far as rows up to `visible` tell: for every
    /// segment and slot that has any, newest first. A series may be in several.
    pub fn range(
        &self,
        from: Timestamp,
        to: Timestamp,
        visible: u64,
        mut matching: impl FnMut(&Arc<SlotGroup>) -> Rc<[u32]>,
        mut found: impl FnMut(&Arc<SlotGroup>, u32, &[Sample]),
    ) -> Result<(), RowError> {
        for segment in self.segments() {
            // Stamped samples may be behind or ahead of their rows.
            let stamped = !segment.slots.stamps.is_empty();
            let outside = segment.range().is_none_or(|(first, last)| first > to || last < from);
            if outside && !stamped {
                continue;
            }
            if stamped {
                segment.range_of_stamped(from, to, visible, &mut matching, &mut found)?;
                continue;
            }
            for (at, placed) in segment.placed.iter().enumerate() {
                let slots = matching(&placed.group);
                let mut read: Vec<Vec<Sample>> = vec![Vec::new(); slots.len()];
                if slots.len() <= SLOTS_ALONE_MAX {
                    for (slot, out) in slots.iter().zip(&mut read) {
                        segment.samples(at, *slot, from, to, visible, out)?;
                    }
                } else {
                    let slots: Vec<usize> = slots.iter().map(|slot| placed.base + *slot as usize).collect();
                    segment.samples_of_many(&slots, from, to, visible, &mut read)?;
                }
                for (slot, samples) in slots.iter().zip(&read).filter(|(_, samples)| !samples.is_empty()) {
                    found(&placed.group, *slot, samples);
                }
            }
        }
        Ok(())
    }

    /// Rows of values of matching series in `[from, to]`, as far as rows up to `visible` tell, if these are all the
    /// samples that there are; false if chunks or other slots may say more, unless `nothing_older` is in any chunk.
    ///
    /// `matching` gives the matching slots of a group and where each belongs, or None if it has no answer. With
    /// `newest_only` it is the newest row alone.
    pub fn rows(
        &self,
        (from, to): (Timestamp, Timestamp),
        visible: u64,
        nothing_older: bool,
        newest_only: bool,
        out: &mut Rows,
        mut matching: impl FnMut(&Arc<SlotGroup>) -> Option<Rc<[(u32, u32)]>>,
    ) -> Result<bool, RowError> {
        out.clear();
        let in_memory = self.whole_since.is_some_and(|since| since <= from)
            && self.in_chunks_until().is_none_or(|until| until < from);
        let complete = (nothing_older || in_memory) && self.owing.is_none() && self.late.is_empty();
        if !complete {
            return Ok(false);
        }
        let within = |segment: &&Segment| segment.range().is_some_and(|(first, last)| first <= to && last >= from);
        let unsealed = || self.closed.iter().filter(|closed| !closed.is_sealed());
        if unsealed().any(|closed| !Arc::ptr_eq(&closed.key, &self.key) && within(&&closed.segment)) {
            // Late samples.
            return Ok(false);
        }
        let closed = unsealed().map(|closed| &closed.segment);
        let segments: Vec<&Segment> = closed.chain([&self.open]).filter(within).collect();
        let Some(last) = segments.last() else { return Ok(true) };
        if segments.iter().any(|segment| !segment.same_layout(last) || !segment.slots.stamps.is_empty()) {
            return Ok(false);
        }
        let Rows { slots, places, times, values, state } = out;
        for placed in &last.placed {
            let Some(pairs) = matching(&placed.group) else { return Ok(false) };
            for (slot, place) in pairs.iter() {
                slots.push(placed.base + *slot as usize);
                places.push(*place);
            }
        }
        if slots.is_empty() {
            return Ok(true);
        }
        let width = slots.len();
        let readable = |row: &&Row| row.position <= visible && row.at <= to && row.at >= from;
        let rows = segments.iter().flat_map(|segment| &segment.rows).filter(readable);
        let height = if newest_only { rows.count().min(1) } else { rows.count() };
        // Rows are undone from the newest on, so the matrix is filled from its end.
        times.resize(height, 0);
        values.resize(height * width, STALE_NAN);
        let mut left = height;
        'segments: for segment in segments.iter().rev() {
            state.values.clone_from(&segment.slots.values);
            state.stale.0.clone_from(&segment.slots.stale.0);
            for row in segment.rows.iter().rev() {
                if row.at < from || left == 0 {
                    break 'segments;
                }
                if readable(&row) {
                    left -= 1;
                    times[left] = row.at.0;
                    let out = &mut values[left * width..(left + 1) * width];
                    for (out, slot) in out.iter_mut().zip(slots.iter()) {
                        *out = if state.stale.get(*slot) { STALE_NAN } else { state.values[*slot] };
                    }
                    if left == 0 {
                        break 'segments;
                    }
                }
                row::walk(&row.bytes, state, row::Direction::Undo)?;
            }
        }
        Ok(true)
    }

    /// Bytes on the heap, groups not counted.
    pub fn heap_bytes(&self) -> usize {
        self.segments().map(Segment::heap_bytes).sum()
    }
}

/// Samples of series of one target, which share their times. To be used again for the next target.
#[derive(Debug, Default)]
pub struct Rows {
    /// Where each series belongs.
    pub places: Vec<u32>,
    /// Milliseconds, in order.
    pub times: Vec<i64>,
    /// For each time a row of values, with a marker where a series has none.
    pub values: Vec<f64>,
    slots: Vec<usize>,
    state: row::Slots,
}

impl Rows {
    fn clear(&mut self) {
        self.places.clear();
        self.times.clear();
        self.values.clear();
        self.slots.clear();
    }
}

impl Segment {
    /// No sample is after this: that of the last row, or what a sample with a time of its own may be ahead of it.
    fn newest_possible(&self) -> Option<Timestamp> {
        let (_, last) = self.range()?;
        Some(if self.slots.stamps.is_empty() { last } else { last.plus_ms(AHEAD_MS_MAX) })
    }

    /// Whether the slots of both belong to the same series.
    fn same_layout(&self, other: &Segment) -> bool {
        self.order.len() == self.placed.len()
            && self.placed.len() == other.placed.len()
            && self.placed.iter().zip(&other.placed).all(|(one, other)| Arc::ptr_eq(&one.group, &other.group))
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
        for placed in self.order.iter().map(|place| &self.placed[*place]) {
            let values = &values[value_at..value_at + placed.group.len()];
            value_at += values.len();
            if !placed.group.any_stamped() {
                scratch.values[placed.base..placed.base + values.len()].copy_from_slice(values);
                appended.samples += values.len() as u64;
                (placed.base..placed.base + values.len()).for_each(|slot| alive.set(slot));
                continue;
            }
            for (i, value) in values.iter().enumerate() {
                let slot = placed.base + i;
                alive.set(slot);
                if !placed.group.is_stamped(i) {
                    scratch.values[slot] = *value;
                    appended.samples += 1;
                    continue;
                }
                let (stamp, last) = (stamps[stamp_at], self.slots.stamps[slot]);
                stamp_at += 1;
                let too_old = last == NO_STAMP && stamp < at.0.saturating_sub(BEHIND_MS_MAX);
                if stamp > at.0.saturating_add(AHEAD_MS_MAX) || too_old || stamp == NO_STAMP {
                    appended.out_of_bounds += 1;
                } else if stamp > last {
                    scratch.values[slot] = *value;
                    scratch.stamped.push((slot as u32, stamp.wrapping_sub(last)));
                    appended.samples += 1;
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
                if self.slots.stamps[slot] == NO_STAMP && scratch.stamped.last().map(|last| last.0) != Some(slot as u32)
                {
                    // It has never had a sample, so there is nothing to be alive.
                    alive.0[slot / GROUP] &= !(1 << (slot % GROUP));
                }
            }
        }
        assert_eq!(
            (value_at, stamp_at),
            (values.len(), stamps.len()),
            "a value for every slot, a stamp for every stamped one"
        );
        // Rows list stamped slots in ascending order; live groups may come in another.
        scratch.stamped.sort_unstable_by_key(|(slot, _)| *slot);
        for (word, alive) in alive.0.iter().enumerate() {
            let stale = self.slots.stale.0[word];
            let mut ends = !stale & !alive;
            if !mark_stamped && !self.slots.stamps.is_empty() {
                for place in ones(ends) {
                    let slot = word * GROUP + place;
                    if self.is_stamped(slot) {
                        ends &= !(1 << place);
                    }
                }
            }
            let exists = match self.slots.values.len() - word * GROUP {
                count if count < GROUP => (1 << count) - 1,
                _ => u64::MAX,
            };
            scratch.flips.push((stale & alive | ends) & exists);
        }
        appended
    }

    fn is_stamped(&self, slot: usize) -> bool {
        let place = self.placed.partition_point(|placed| placed.base <= slot) - 1;
        let placed = &self.placed[place];
        placed.group.is_stamped(slot - placed.base)
    }

    /// Ends every slot that is not stamped, in a last row, if there is one whose group does not go on. (A slot that is
    /// not stale has a sample in every row, so those that go on have to end here as well.)
    fn end_at(
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
            self.rows.push(Row { at, position, bytes: scratch.row.as_slice().into() });
        }
    }

    /// Logs what the log does not know yet of the segment, then the row, and keeps it.
    fn log_row(&mut self, key: &TargetKey, at: Timestamp, bytes: &[u8], journal: &mut Journal) {
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
        let position = journal.row(mark, at, bytes);
        self.rows.push(Row { at, position, bytes: bytes.into() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::group::GroupBuilder;
    use series::Matcher;
    use std::collections::BTreeMap;

    fn random(seed: u64) -> impl FnMut(u64) -> u64 {
        let mut state = seed;
        move |below| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) % below
        }
    }

    fn group(names: &[String], stamped: bool) -> Arc<SlotGroup> {
        let mut builder = GroupBuilder::default();
        for name in names {
            builder.push(&Labels::from_pairs([("__name__", name.as_str())]), stamped);
        }
        Arc::new(builder.build())
    }

    fn names(prefix: &str, count: usize) -> Vec<String> {
        (0..count).map(|i| format!("{prefix}{i}")).collect()
    }

    fn head() -> TargetHead {
        let key = TargetKey { id: 1, labels: Labels::empty() };
        TargetHead::new(key, SegmentLimits::default(), 60)
    }

    type Series = BTreeMap<Labels, Vec<Sample>>;

    /// All samples by slot labels, oldest first.
    fn range(head: &TargetHead, matchers: &[Matcher], from: i64, to: i64) -> Series {
        let mut all = Series::new();
        let matching = |group: &Arc<SlotGroup>| group.matching(matchers, &Labels::empty()).into();
        head.range(Timestamp(from), Timestamp(to), u64::MAX, matching, |group, slot, samples| {
            all.entry(group.labels(slot as usize)).or_default().extend_from_slice(samples);
        })
        .unwrap();
        for samples in all.values_mut() {
            // Of equal times the real sample comes first and stays.
            samples.sort_by_key(|sample| (sample.timestamp, series::is_stale(sample.value)));
            samples.dedup_by_key(|sample| sample.timestamp);
        }
        all
    }

    /// A target and the naive truth beside it.
    struct Pair {
        head: TargetHead,
        journal: Journal,
        scratch: AppendScratch,
        /// By metric name: timestamp to value bits, markers included.
        truth: BTreeMap<String, BTreeMap<i64, u64>>,
        /// Names that took a sample at the last row.
        alive: Vec<String>,
        added: u64,
        /// Checks that rows took part in.
        by_rows: std::cell::Cell<usize>,
    }

    impl Pair {
        fn new() -> Pair {
            Pair {
                head: head(),
                journal: Journal::off(),
                scratch: AppendScratch::default(),
                truth: BTreeMap::new(),
                alive: Vec::new(),
                added: 0,
                by_rows: std::cell::Cell::default(),
            }
        }

        fn replace(&mut self, groups: &[Arc<SlotGroup>]) {
            self.added += self.head.replace(groups).added;
        }

        fn append(&mut self, at: i64, mut value: impl FnMut() -> f64) {
            let mut values = Vec::new();
            let mut alive = Vec::new();
            for group in self.head.groups() {
                for slot in 0..group.len() {
                    let name = group.labels(slot).metric_name().to_owned();
                    let value = value();
                    values.push(value);
                    self.truth.entry(name.clone()).or_default().insert(at, value.to_bits());
                    alive.push(name);
                }
            }
            self.mark(at, &alive);
            self.head.append(Timestamp(at), &values, &[], false, &mut self.journal, &mut self.scratch).unwrap();
            self.alive = alive;
        }

        fn fail(&mut self, at: i64) {
            self.mark(at, &[]);
            self.head.append_failed(Timestamp(at), 0, &[], false, &mut self.journal, &mut self.scratch).unwrap();
            self.alive.clear();
        }

        fn mark(&mut self, at: i64, alive: &[String]) {
            for name in self.alive.iter().filter(|name| !alive.contains(name)) {
                self.truth.get_mut(name).unwrap().insert(at, STALE_NAN.to_bits());
            }
        }

        #[track_caller]
        fn check(&self, from: i64, to: i64) {
            let read = range(&self.head, &[], from, to);
            let read: BTreeMap<String, Vec<(i64, u64)>> = read
                .into_iter()
                .map(|(labels, samples)| {
                    let samples = samples.iter().map(|sample| (sample.timestamp.0, sample.value.to_bits())).collect();
                    (labels.metric_name().to_owned(), samples)
                })
                .collect();
            let want: BTreeMap<String, Vec<(i64, u64)>> = self
                .truth
                .iter()
                .map(|(name, samples)| {
                    (name.clone(), samples.range(from..=to).map(|(at, bits)| (*at, *bits)).collect())
                })
                .filter(|(_, samples): &(String, Vec<_>)| !samples.is_empty())
                .collect();
            let differ = want.iter().find(|(name, samples)| read.get(*name) != Some(samples));
            assert_eq!(differ.map(|(name, samples)| (name, samples, read.get(name))), None, "range {from} to {to}");
            assert_eq!(read.len(), want.len(), "range {from} to {to}");
            self.check_instant(from, to);
            self.by_rows.set(self.by_rows.get() + usize::from(self.check_rows(from, to)));
        }

        /// Rows, where the head says that they are everything.
        #[track_caller]
        fn check_rows(&self, from: i64, to: i64) -> bool {
            let (mut names, mut rows) = (Vec::new(), Rows::default());
            let mut ask = |newest_only: bool, rows: &mut Rows| {
                names.clear();
                let matching = |group: &Arc<SlotGroup>| {
                    let first = names.len() as u32;
                    names.extend((0..group.len()).map(|slot| group.labels(slot).metric_name().to_owned()));
                    Some((0..group.len() as u32).map(|slot| (slot, first + slot)).collect::<Vec<_>>().into())
                };
                let times = (Timestamp(from), Timestamp(to));
                self.head.rows(times, u64::MAX, false, newest_only, rows, matching).unwrap()
            };
            if !ask(false, &mut rows) {
                return false;
            }
            let all = std::mem::take(&mut rows);
            assert!(ask(true, &mut rows));
            let mut read: BTreeMap<String, Vec<(i64, u64)>> = BTreeMap::new();
            for (time, row) in all.times.iter().zip(all.values.chunks(all.places.len().max(1))) {
                for (place, value) in all.places.iter().zip(row).filter(|(_, value)| !series::is_stale(**value)) {
                    read.entry(names[*place as usize].clone()).or_default().push((*time, value.to_bits()));
                }
            }
            let real = |(_, bits): &(&i64, &u64)| **bits != STALE_NAN.to_bits();
            for (name, samples) in &self.truth {
                let want: Vec<_> = samples.range(from..=to).filter(real).map(|(at, bits)| (*at, *bits)).collect();
                assert_eq!(read.remove(name).unwrap_or_default(), want, "{name} in rows {from} to {to}");
            }
            assert!(read.is_empty());
            assert_eq!(rows.times.last(), all.times.last());
            let bits = |values: &[f64]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&rows.values), bits(&all.values[all.values.len() - rows.values.len()..]));
            true
        }

        #[track_caller]
        fn check_instant(&self, after: i64, at: i64) {
            let mut read = BTreeMap::new();
            let matching = |group: &Arc<SlotGroup>| (0..group.len() as u32).collect::<Vec<_>>().into();
            let mut stale = 0;
            let found = |group: &Arc<SlotGroup>, slot: u32, sample: Sample| {
                let name = group.labels(slot as usize).metric_name().to_owned();
                if series::is_stale(sample.value) {
                    stale += 1;
                    return;
                }
                assert_eq!(read.insert(name, (sample.timestamp.0, sample.value.to_bits())), None);
            };
            let whole = self.head.instant(Timestamp(after), Timestamp(at), u64::MAX, false, matching, found).unwrap();
            assert!(!whole || stale == 0);
            let newest =
                |samples: &BTreeMap<i64, u64>| samples.range(after + 1..=at).next_back().map(|(at, v)| (*at, *v));
            let want: BTreeMap<_, _> = self
                .truth
                .iter()
                .filter_map(|(name, samples)| Some((name.clone(), newest(samples)?)))
                .filter(|(_, (_, bits))| *bits != STALE_NAN.to_bits())
                .collect();
            assert_eq!(read, want, "instant {at} after {after}");
            if self.head.newest_is_whole(Timestamp(after), false) && self.head.newest_at() <= Some(Timestamp(at)) {
                let mut read = BTreeMap::new();
                for (place, (group, _)) in self.head.newest_groups().enumerate() {
                    for slot in 0..group.len() {
                        let newest = self.head.newest_of(place, slot, Timestamp(after), u64::MAX).unwrap();
                        let Some(sample) = newest else { continue };
                        let name = group.labels(slot).metric_name().to_owned();
                        assert_eq!(read.insert(name, (sample.timestamp.0, sample.value.to_bits())), None);
                    }
                }
                assert_eq!(read, want, "newest values {at} after {after}");
            }
        }
    }

    #[test]
    fn histories_read_as_they_were_written() {
        let mut next = random(5);
        let mut by_rows = 0;
        for seed in 0..60u64 {
            let mut pair = Pair::new();
            let pool: Vec<Arc<SlotGroup>> = (0..6)
                .map(|i| {
                    // Groups overlap in their names, so that series move between them.
                    let mut list = names("m", 5 + 13 * i);
                    list.drain(..i);
                    list.extend(names(&format!("own{i}_"), 30));
                    group(&list, false)
                })
                .collect();
            let mut at = 1_000;
            pair.replace(&[pool[0].clone()]);
            for _ in 0..60 {
                at += 1 + next(20_000) as i64;
                match next(12) {
                    0 => pair.fail(at),
                    1..3 => {
                        let one = next(6) as usize;
                        let mut groups = vec![pool[one].clone()];
                        if next(3) == 0 {
                            groups.insert(0, group(&names(&format!("fresh{at}_"), 40), false));
                        }
                        pair.replace(&groups);
                        pair.append(at, || next(50) as f64 / 4.0);
                    }
                    _ => pair.append(at, || if next(2) == 0 { 7.0 } else { next(1000) as f64 }),
                }
            }
            pair.check(0, at);
            for _ in 0..10 {
                let from = next(at as u64) as i64;
                pair.check(from, from + next(200_000) as i64);
            }
            pair.head.close_all();
            pair.check(0, at);
            assert!(pair.head.heap_bytes() > 0, "seed {seed}");
            by_rows += pair.by_rows.get();
        }
        assert!(by_rows > 0, "rows never were everything");
    }

    #[test]
    fn rows_are_everything_while_the_layout_holds() {
        let mut next = random(9);
        let mut pair = Pair::new();
        pair.replace(&[group(&names("a", 70), false), group(&names("b", 3), false)]);
        let mut at = 1_000;
        for i in 0..400 {
            at += 1 + next(2_000) as i64;
            if i > 0 && next(20) == 0 { pair.fail(at) } else { pair.append(at, || next(9) as f64) }
        }
        assert!(pair.head.segments().count() > 3, "segments were closed");
        for _ in 0..40 {
            let from = 3_001 + next(at as u64) as i64;
            pair.check(from, from + next(200_000) as i64);
        }
        assert_eq!(pair.by_rows.get(), 40);
    }

    #[test]
    fn rows_are_not_everything_once_some_are_in_chunks() {
        let mut pair = Pair::new();
        pair.replace(&[group(&names("a", 70), false)]);
        let last = 400 * 1_000;
        (1..=400).for_each(|i| pair.append(i * 1_000, || i as f64));
        let mut oldest = Vec::new();
        pair.head.take_closed(|closed| oldest.push(closed));
        let sealed = oldest.first().expect("segments were closed");
        let (first, until) = sealed.segment.range().map(|(first, last)| (first.0, last.0)).expect("rows");
        assert!(pair.check_rows(first, last) && pair.check_rows(until, until));
        sealed.set_sealed();
        // Whether the head has noticed yet, or not.
        for _ in 0..2 {
            assert!(!pair.check_rows(first, last) && !pair.check_rows(until, last) && !pair.check_rows(first, until));
            assert!(pair.check_rows(until + 1, last), "what came later is all there");
            pair.head.drop_sealed();
        }
    }

    #[test]
    fn added_series_are_counted_by_their_labels() {
        let (a, b) = (group(&names("m", 4), false), group(&names("m", 6), false));
        let mut pair = Pair::new();
        pair.replace(std::slice::from_ref(&a));
        assert_eq!(pair.added, 4);
        pair.append(10, || 1.0);
        pair.replace(&[b]);
        assert_eq!(pair.added, 6, "four of the six were there");
        pair.append(20, || 2.0);
        pair.check(0, 20);
        pair.replace(&[a]);
        assert_eq!(pair.added, 6);
        pair.append(30, || 3.0);
        pair.check(0, 30);
    }

    #[test]
    fn old_rows_are_refused() {
        let mut pair = Pair::new();
        pair.replace(&[group(&names("m", 2), false)]);
        pair.append(10, || 1.0);
        let refused = pair.head.append(Timestamp(10), &[1.0, 1.0], &[], false, &mut pair.journal, &mut pair.scratch);
        assert_eq!(refused, Err(RowRejected { at: Timestamp(10), newest: Timestamp(10) }));
    }

    #[test]
    fn failed_scrape_and_recovery_are_cheap() {
        let mut pair = Pair::new();
        pair.replace(&[group(&names("m", 1360), false)]);
        pair.append(10, || 123.456);
        let whole = pair.head.heap_bytes();
        pair.fail(20);
        pair.append(30, || 123.456);
        assert!(pair.head.heap_bytes() - whole < 600, "{} bytes for both", pair.head.heap_bytes() - whole);
        pair.check(0, 30);
    }

    #[test]
    fn stamped_slots_follow_the_rules() {
        let mut head = head();
        let mut scratch = AppendScratch::default();
        head.replace(&[group(&names("s", 1), true), group(&names("m", 1), false)]);
        let mut journal = Journal::off();
        let mut append = |head: &mut TargetHead, at: i64, value: f64, stamp: i64| {
            head.append(Timestamp(at), &[value, 1.0], &[stamp], false, &mut journal, &mut scratch).unwrap()
        };
        let base = Appended { samples: 1, ..Appended::default() };
        let now = 10_000_000;
        assert_eq!(append(&mut head, now, 1.0, i64::MAX), Appended { out_of_bounds: 1, ..base });
        assert_eq!(append(&mut head, now + 1, 1.0, i64::MIN), Appended { out_of_bounds: 1, ..base });
        assert_eq!(append(&mut head, now + 2, 1.0, now - BEHIND_MS_MAX - 1), Appended { out_of_bounds: 1, ..base });
        assert_eq!(append(&mut head, now + 3, 1.0, now - 60_000), Appended { samples: 2, ..base });
        assert_eq!(append(&mut head, now + 4, 1.0, now - 60_000), base);
        assert_eq!(append(&mut head, now + 5, 2.0, now - 60_000), Appended { duplicate: 1, ..base });
        assert_eq!(append(&mut head, now + 6, 2.0, now - 70_000), Appended { out_of_order: 1, ..base });
        assert_eq!(append(&mut head, now + 7, 3.0, now - 50_000), Appended { samples: 2, ..base });
        let read = |head: &TargetHead, name: &str| {
            let matcher = Matcher::new("__name__", series::MatchOp::Equal, name).unwrap();
            let all = range(head, &[matcher], 0, i64::MAX);
            all.into_values().flatten().map(|s| (s.timestamp.0, s.value)).collect::<Vec<_>>()
        };
        assert_eq!(read(&head, "s0"), [(now - 60_000, 1.0), (now - 50_000, 3.0)]);
        assert_eq!(read(&head, "m0").len(), 8);
        // Its line vanishes: no marker unless asked for.
        head.replace(&[group(&names("m", 1), false)]);
        head.append(Timestamp(now + 8), &[1.0], &[], false, &mut journal, &mut scratch).unwrap();
        assert_eq!(read(&head, "s0").len(), 2);
        head.append(Timestamp(now + 9), &[1.0], &[], true, &mut journal, &mut scratch).unwrap();
        let last = read(&head, "s0").pop().unwrap();
        assert!(last.0 == now + 9 && series::is_stale(last.1), "{last:?}");
    }

    #[test]
    fn stamped_samples_go_along_into_the_next_segment() {
        let key = TargetKey { id: 1, labels: Labels::empty() };
        let mut head = TargetHead::new(key, SegmentLimits { rows_max: 2, ..SegmentLimits::default() }, 0);
        let (mut journal, mut scratch) = (Journal::off(), AppendScratch::default());
        let groups = [group(&names("s", 2), true), group(&names("t", 1), true)];
        head.replace(&groups);
        let now = 10_000_000;
        // The first series has one sample, for ever; the second a new one each time; the third goes in between.
        for row in 0..9 {
            let at = now + row * 10;
            match row {
                5 => drop(head.replace(&groups[..1])),
                7 => {
                    head.append_failed(Timestamp(at), 0, &[], false, &mut journal, &mut scratch).unwrap();
                    continue;
                }
                _ => {}
            }
            let (values, stamps) = ([7.5, row as f64, 3.0], [now, at, at]);
            let count = if row < 5 { 3 } else { 2 };
            let appended =
                head.append(Timestamp(at), &values[..count], &stamps[..count], false, &mut journal, &mut scratch);
            assert_eq!(appended.unwrap().duplicate, 0, "row {row}");
            let newest = |slot| head.newest_of(0, slot, Timestamp(now - 1), u64::MAX).unwrap().unwrap();
            assert_eq!(newest(0), Sample { timestamp: Timestamp(now), value: 7.5 }, "row {row}");
            assert_eq!(newest(1), Sample { timestamp: Timestamp(at), value: row as f64 }, "row {row}");
            // What was left behind is newer than `now`, unless it is there as well.
            assert!(row < 6 || !head.newest_is_whole(Timestamp(now), false), "row {row}");
            assert!(head.newest_is_whole(Timestamp(now + 70), false), "row {row}");
        }
        let mut lingering = Vec::new();
        let all = |group: &Arc<SlotGroup>| (0..group.len() as u32).collect();
        head.lingering(Timestamp(now), u64::MAX, all, |group, slot, sample| {
            lingering.push((group.metric_name(slot as usize).to_owned(), sample.timestamp.0 - now));
        });
        assert!(lingering.contains(&("t0".to_owned(), 40)), "{lingering:?}");
    }

    #[test]
    fn late_samples_are_taken_within_the_window() {
        let key = TargetKey { id: 1, labels: Labels::empty() };
        let mut head = TargetHead::new(key, SegmentLimits { late_ms: 100_000, ..SegmentLimits::default() }, 60);
        let (mut journal, mut scratch) = (Journal::off(), AppendScratch::default());
        head.replace(&[group(&names("s", 3), true), group(&names("m", 70), false)]);
        let now = 10_000_000;
        let values: Vec<f64> = (0..73).map(f64::from).collect();
        let mut late = 0;
        for (row, behind) in [1_000, 50_000, 20_000, 99_000, 200_000, 30_000].into_iter().enumerate() {
            let at = now + row as i64 * 10;
            let stamps = [at - behind, at, at - 10];
            let appended = head.append(Timestamp(at), &values, &stamps, false, &mut journal, &mut scratch).unwrap();
            late += appended.late;
            assert_eq!(appended.out_of_order, u64::from(behind == 200_000), "{behind}");
        }
        assert_eq!(late, 4);
        let check = |head: &TargetHead| {
            let read = range(head, &[], 0, i64::MAX);
            let of = |name: &str| {
                let samples = read.iter().find(|(labels, _)| labels.metric_name() == name).unwrap().1;
                samples.iter().map(|sample| sample.timestamp.0 - now).collect::<Vec<_>>()
            };
            assert_eq!(of("s0"), [-98_970, -49_990, -29_950, -19_980, -1_000]);
            assert_eq!((of("s1").len(), of("s2").len(), of("m7").len()), (6, 6, 6));
        };
        check(&head);
        head.close_all();
        check(&head);
        // And as chunks, in order.
        let mut sealed = Vec::new();
        head.take_closed(|closed| sealed.push(crate::seal(&closed.segment)));
        assert_eq!(sealed.len(), 2);
        assert_eq!(sealed[1].samples, 4);
        assert_eq!((sealed[1].first, sealed[0].first), (now - 98_970, now - 1_000));
    }

    /// The design's figures hold on the shapes they were found on; the bound is generous, the figure is printed.
    #[test]
    fn rows_are_about_a_byte_per_sample() {
        let mut next = random(8);
        for (what, changed, fraction) in [("application-like", 41, 0), ("node-like", 22, 50)] {
            let mut head = head();
            let mut scratch = AppendScratch::default();
            head.replace(&[group(&names("m", 1360), false)]);
            let mut values: Vec<f64> = (0..1360).map(|_| next(100_000) as f64).collect();
            head.append(Timestamp(1), &values, &[], false, &mut Journal::off(), &mut scratch).unwrap();
            let first = head.heap_bytes();
            for row in 0..60 {
                for value in &mut values {
                    if next(100) < changed {
                        *value += if next(100) < fraction { next(1000) as f64 / 64.0 } else { next(60) as f64 };
                    }
                }
                head.append(Timestamp(2 + row), &values, &[], false, &mut Journal::off(), &mut scratch).unwrap();
            }
            let bytes = (head.heap_bytes() - first) as f64 / 60.0 / 1360.0;
            println!("{what}: {bytes:.2} bytes per sample");
            assert!(bytes < 1.6, "{what}: {bytes:.2} bytes per sample");
        }
    }
}
