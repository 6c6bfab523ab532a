//! One target's samples of the last minutes: newest values, and rows that lead back from them.
//!
//! Invariants:
//!   * rows are in order of time; a row at or before the newest one is refused
//!   * live groups have no two unstamped slots with the same labels; the caller saw to that
//!   * history is read backwards from the newest values, so dropping the oldest rows is forgetting their bytes
//!   * a series that moves to a slot of another group leaves a marker there at the time of its first sample here; a
//!     reader of the series takes the sample

use crate::bits::{Bits, ones};
use crate::group::SlotGroup;
use crate::row::{self, GROUP, Marks, OneSlot, RowError, Scratch, Slots};
use ahash::{AHashMap, AHashSet, RandomState};
use series::{Labels, Matcher, STALE_NAN, Sample, Timestamp};
use std::collections::VecDeque;
use std::rc::Rc;

/// A sample may be ahead of its scrape by this much, as in Prometheus.
const AHEAD_MS_MAX: i64 = 10 * 60 * 1000;
/// The first sample of a stamped slot may be behind its scrape by this much.
const BEHIND_MS_MAX: i64 = 60 * 60 * 1000;
/// A segment with fewer dead slots than this is never worth a new one.
const DEAD_SLOTS_MIN: usize = 256;
/// No sample yet.
const NO_STAMP: i64 = i64::MIN;

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

/// A group in a segment's slot space.
#[derive(Debug)]
struct Placed {
    group: Rc<SlotGroup>,
    base: usize,
    live: bool,
}

#[derive(Debug)]
struct Row {
    at: Timestamp,
    bytes: Box<[u8]>,
}

/// Rows over one slot space. Groups are only added; those that are gone stay until the segment is.
#[derive(Debug, Default)]
struct Segment {
    placed: Vec<Placed>,
    /// Indices of the live groups, in the order in which values come.
    order: Vec<usize>,
    /// The live groups are all there are, in the order of the slots, and none is stamped: values come as they lie here.
    plain: bool,
    slots: Slots,
    rows: VecDeque<Row>,
}

/// Buffers that a core uses again for every append.
#[derive(Debug, Default)]
pub struct AppendScratch {
    encode: Scratch,
    values: Vec<f64>,
    flips: Vec<u64>,
    stamped: Vec<(u32, i64)>,
}

/// One target's samples.
#[derive(Debug, Default)]
pub struct TargetHead {
    /// Closed segments, oldest first.
    closed: VecDeque<Segment>,
    open: Segment,
    newest: Option<Timestamp>,
}

impl Segment {
    fn add(&mut self, group: Rc<SlotGroup>) -> usize {
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
        self.placed.push(Placed { group, base, live: true });
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

    /// The place of a slot, if the segment has its group.
    fn slots_with(&self, matchers: &[Matcher], target: &Labels) -> Vec<(usize, u32)> {
        let mut found = Vec::new();
        for (at, placed) in self.placed.iter().enumerate() {
            found.extend(placed.group.matching(matchers, target).into_iter().map(|slot| (at, slot)));
        }
        found
    }

    /// Samples of a slot in `[from, to]`, newest first, markers included.
    fn samples(
        &self,
        at: usize,
        slot: u32,
        from: Timestamp,
        to: Timestamp,
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

    /// The newest sample or marker of a slot, without looking at rows.
    fn newest(&self, placed: &Placed, slot: usize) -> Option<Sample> {
        let row = self.rows.back()?;
        let at = placed.base + slot;
        let value = self.slots.values[at];
        if placed.group.is_stamped(slot) {
            let stamp = self.slots.stamps[at];
            return (stamp != NO_STAMP && !self.slots.stale.get(at))
                .then_some(Sample { timestamp: Timestamp(stamp), value });
        }
        (!self.slots.stale.get(at)).then_some(Sample { timestamp: row.at, value })
    }

    fn heap_bytes(&self) -> usize {
        let rows: usize = self.rows.iter().map(|row| row.bytes.len()).sum();
        rows + self.rows.capacity() * size_of::<Row>()
            + self.placed.capacity() * size_of::<Placed>()
            + self.order.capacity() * size_of::<usize>()
            + self.slots.values.capacity() * 8
            + self.slots.stamps.capacity() * 8
            + self.slots.stale.0.capacity() * 8
    }
}

impl TargetHead {
    /// Time of the newest row.
    pub fn newest_at(&self) -> Option<Timestamp> {
        self.newest
    }

    /// The live groups, in the order in which [`TargetHead::append`] takes values.
    pub fn groups(&self) -> impl Iterator<Item = &Rc<SlotGroup>> {
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
    pub fn replace(&mut self, groups: &[Rc<SlotGroup>]) -> Change {
        let address = |group: &Rc<SlotGroup>| Rc::as_ptr(group);
        let before: AHashSet<*const SlotGroup> = self.groups().map(address).collect();
        let after: AHashSet<*const SlotGroup> = groups.iter().map(address).collect();
        let new = || groups.iter().filter(|group| !before.contains(&address(group)));
        let gone = || self.groups().filter(|group| !after.contains(&address(group)));
        let mut added: u64 = new().map(|group| group.len() as u64).sum();
        if added > 0 && gone().next().is_some() {
            // Series that were in a group that goes are not new.
            let hasher = RandomState::new();
            let hashes = |group: &Rc<SlotGroup>| {
                (0..group.len()).map(|slot| group.slot_hash(slot, &hasher)).collect::<Vec<u64>>()
            };
            let known: AHashSet<u64> = gone().flat_map(hashes).collect();
            added -= new().flat_map(hashes).filter(|hash| known.contains(hash)).count() as u64;
        }

        // A dead group that comes back takes its old slots again.
        let mut known: AHashMap<*const SlotGroup, usize> =
            self.open.placed.iter().enumerate().map(|(at, placed)| (Rc::as_ptr(&placed.group), at)).collect();
        let mut places: Vec<usize> = Vec::with_capacity(groups.len());
        for group in groups {
            let place = known.remove(&address(group)).unwrap_or_else(|| self.open.add(group.clone()));
            places.push(place);
        }
        self.open.order = places;
        self.open.settle();
        if self.open.dead_slots() > self.live_slots().max(DEAD_SLOTS_MIN) {
            self.start_segment();
        }
        Change { added }
    }

    /// Closes the open segment and goes on in one that has only the live groups. Their series continue: the first row
    /// there is a whole one. Slots that are not live and have not ended yet end here, in a row that comes with the next.
    fn start_segment(&mut self) {
        let live: Vec<Rc<SlotGroup>> = self.groups().cloned().collect();
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
        self.closed.push_back(std::mem::replace(&mut self.open, fresh));
    }

    /// Appends one scrape: a value for each slot of the live groups in their order, and a timestamp for each stamped
    /// one. With `mark_stamped`, stamped slots of groups that are gone end with a marker like all others.
    pub fn append(
        &mut self,
        at: Timestamp,
        values: &[f64],
        stamps: &[i64],
        mark_stamped: bool,
        scratch: &mut AppendScratch,
    ) -> Result<Appended, RowRejected> {
        self.check_time(at)?;
        let mut appended = Appended::default();
        let segment = &mut self.open;
        scratch.flips.clear();
        scratch.stamped.clear();
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
            appended = segment.lay_out(at, values, stamps, mark_stamped, scratch);
        }
        self.push_row(at, scratch);
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
        scratch: &mut AppendScratch,
    ) -> Result<Appended, RowRejected> {
        self.check_time(at)?;
        let order = std::mem::take(&mut self.open.order);
        let all_live: Vec<bool> = self.open.placed.iter().map(|placed| placed.live).collect();
        self.open.order = order[..kept.min(order.len())].to_vec();
        self.open.settle();
        scratch.flips.clear();
        scratch.stamped.clear();
        let appended = self.open.lay_out(at, values, &[], mark_stamped, scratch);
        self.push_row(at, scratch);
        self.open.order = order;
        self.open.placed.iter_mut().zip(all_live).for_each(|(placed, live)| placed.live = live);
        self.open.settle();
        Ok(appended)
    }

    /// Ends every series: the target is gone.
    pub fn end(&mut self, at: Timestamp, mark_stamped: bool, scratch: &mut AppendScratch) -> Result<(), RowRejected> {
        self.append_failed(at, 0, &[], mark_stamped, scratch).map(|_| ())
    }

    fn check_time(&self, at: Timestamp) -> Result<(), RowRejected> {
        match self.newest {
            Some(newest) if at <= newest => Err(RowRejected { at, newest }),
            _ => Ok(()),
        }
    }

    fn push_row(&mut self, at: Timestamp, scratch: &mut AppendScratch) {
        // Markers of series that end with a closed segment were due with this row.
        if let Some(last) =
            self.closed.back_mut().filter(|last| last.rows.back().is_some_and(|row| Some(row.at) == self.newest))
        {
            last.end_at(at, &mut scratch.encode);
        }
        let AppendScratch { encode, values, flips, stamped } = scratch;
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
        segment.rows.push_back(Row { at, bytes: encode.row.as_slice().into() });
        self.newest = Some(at);
    }

    /// Drops rows before `before`, and segments that have none left. True while anything can still be read.
    pub fn trim(&mut self, before: Timestamp) -> bool {
        for segment in self.closed.iter_mut().chain([&mut self.open]) {
            while segment.rows.front().is_some_and(|row| row.at < before) {
                segment.rows.pop_front();
            }
        }
        self.closed.retain(|segment| !segment.rows.is_empty());
        if self.open.rows.capacity() > 2 * self.open.rows.len() + 64 {
            self.open.rows.shrink_to_fit();
        }
        !self.open.rows.is_empty() || !self.closed.is_empty()
    }

    /// Newest samples of matching series at `at`, if they are after `after`; series that are stale there are left out.
    /// `matching` gives the matching slots of a group, so that the caller can remember them for many targets.
    pub fn instant(
        &self,
        after: Timestamp,
        at: Timestamp,
        mut matching: impl FnMut(&Rc<SlotGroup>) -> Rc<[u32]>,
        mut found: impl FnMut(&Rc<SlotGroup>, u32, Sample),
    ) -> Result<(), RowError> {
        let newest_asked = self.newest.is_some_and(|newest| newest <= at);
        if newest_asked && self.closed.is_empty() && self.open.order.len() == self.open.placed.len() {
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
            return Ok(());
        }
        // Several slots may hold parts of one series: the newest part speaks, a sample before a marker.
        let mut newest: AHashMap<Labels, (Sample, Rc<SlotGroup>, u32)> = AHashMap::new();
        let from = after.plus_ms(1);
        let mut samples = Vec::new();
        for segment in self.closed.iter().chain([&self.open]) {
            for (i, placed) in segment.placed.iter().enumerate() {
                for slot in matching(&placed.group).iter() {
                    samples.clear();
                    segment.samples(i, *slot, from, at, &mut samples)?;
                    for sample in &samples {
                        let entry = newest.entry(placed.group.labels(*slot as usize));
                        let best = entry.or_insert_with(|| (*sample, placed.group.clone(), *slot));
                        let later = sample.timestamp > best.0.timestamp;
                        let instead = sample.timestamp == best.0.timestamp && series::is_stale(best.0.value);
                        if later || instead {
                            *best = (*sample, placed.group.clone(), *slot);
                        }
                    }
                }
            }
        }
        for (sample, group, slot) in newest.into_values() {
            if !series::is_stale(sample.value) {
                found(&group, slot, sample);
            }
        }
        Ok(())
    }

    /// All samples of matching series in `[from, to]`, by slot labels, oldest first, markers included.
    pub fn range(
        &self,
        matchers: &[Matcher],
        target: &Labels,
        from: Timestamp,
        to: Timestamp,
    ) -> Result<Vec<(Labels, Vec<Sample>)>, RowError> {
        let mut series: AHashMap<Labels, Vec<Sample>> = AHashMap::new();
        for segment in self.closed.iter().chain([&self.open]) {
            for (at, slot) in segment.slots_with(matchers, target) {
                let mut samples = Vec::new();
                segment.samples(at, slot, from, to, &mut samples)?;
                if !samples.is_empty() {
                    series.entry(segment.placed[at].group.labels(slot as usize)).or_default().append(&mut samples);
                }
            }
        }
        let mut series: Vec<_> = series.into_iter().collect();
        for (_, samples) in &mut series {
            // Of equal times the real sample comes first and stays.
            samples.sort_by_key(|sample| (sample.timestamp, series::is_stale(sample.value)));
            samples.dedup_by_key(|sample| sample.timestamp);
        }
        series.sort_by(|one, other| one.0.cmp(&other.0));
        Ok(series)
    }

    /// Bytes on the heap, groups not counted.
    pub fn heap_bytes(&self) -> usize {
        self.closed.iter().chain([&self.open]).map(Segment::heap_bytes).sum()
    }
}

impl Segment {
    /// Spreads values over the slot space, and finds which slots come back, end, or have a sample of their own time.
    fn lay_out(
        &mut self,
        at: Timestamp,
        values: &[f64],
        stamps: &[i64],
        mark_stamped: bool,
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
                } else if stamp < last {
                    appended.out_of_order += 1;
                } else if value.to_bits() != self.slots.values[slot].to_bits() {
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

    /// Ends every slot that is not stamped, in a last row.
    fn end_at(&mut self, at: Timestamp, scratch: &mut Scratch) {
        let mut flips: Vec<u64> = self.slots.stale.0.iter().map(|word| !word).collect();
        for (word, flips) in flips.iter_mut().enumerate() {
            for place in ones(*flips) {
                let slot = word * GROUP + place;
                if slot >= self.slots.values.len() || !self.slots.stamps.is_empty() && self.is_stamped(slot) {
                    *flips &= !(1 << place);
                }
            }
        }
        row::encode(&self.slots.values, &self.slots.values, Marks { flips: &flips, stamped: &[] }, scratch);
        self.slots.stale.0.iter_mut().zip(&flips).for_each(|(word, flips)| *word ^= flips);
        self.rows.push_back(Row { at, bytes: scratch.row.as_slice().into() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::group::GroupBuilder;
    use std::collections::BTreeMap;

    fn random(seed: u64) -> impl FnMut(u64) -> u64 {
        let mut state = seed;
        move |below| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) % below
        }
    }

    fn group(names: &[String], stamped: bool) -> Rc<SlotGroup> {
        let mut builder = GroupBuilder::default();
        for name in names {
            builder.push(&Labels::from_pairs([("__name__", name.as_str())]), stamped);
        }
        Rc::new(builder.build())
    }

    fn names(prefix: &str, count: usize) -> Vec<String> {
        (0..count).map(|i| format!("{prefix}{i}")).collect()
    }

    /// A target and the naive truth beside it.
    #[derive(Default)]
    struct Pair {
        head: TargetHead,
        scratch: AppendScratch,
        /// By metric name: timestamp to value bits, markers included.
        truth: BTreeMap<String, BTreeMap<i64, u64>>,
        /// Names that took a sample at the last row.
        alive: Vec<String>,
        added: u64,
    }

    impl Pair {
        fn replace(&mut self, groups: &[Rc<SlotGroup>]) {
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
            self.head.append(Timestamp(at), &values, &[], false, &mut self.scratch).unwrap();
            self.alive = alive;
        }

        fn fail(&mut self, at: i64) {
            self.mark(at, &[]);
            self.head.append_failed(Timestamp(at), 0, &[], false, &mut self.scratch).unwrap();
            self.alive.clear();
        }

        fn mark(&mut self, at: i64, alive: &[String]) {
            for name in self.alive.iter().filter(|name| !alive.contains(name)) {
                self.truth.get_mut(name).unwrap().insert(at, STALE_NAN.to_bits());
            }
        }

        #[track_caller]
        fn check(&self, from: i64, to: i64) {
            let read = self.head.range(&[], &Labels::empty(), Timestamp(from), Timestamp(to)).unwrap();
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
            assert_eq!(read, want, "range {from} to {to}");
            self.check_instant(from, to);
        }

        #[track_caller]
        fn check_instant(&self, after: i64, at: i64) {
            let mut read = BTreeMap::new();
            let matching = |group: &Rc<SlotGroup>| (0..group.len() as u32).collect::<Vec<_>>().into();
            let found = |group: &Rc<SlotGroup>, slot: u32, sample: Sample| {
                let name = group.labels(slot as usize).metric_name().to_owned();
                assert_eq!(read.insert(name, (sample.timestamp.0, sample.value.to_bits())), None);
            };
            self.head.instant(Timestamp(after), Timestamp(at), matching, found).unwrap();
            let newest =
                |samples: &BTreeMap<i64, u64>| samples.range(after + 1..=at).next_back().map(|(at, v)| (*at, *v));
            let want: BTreeMap<_, _> = self
                .truth
                .iter()
                .filter_map(|(name, samples)| Some((name.clone(), newest(samples)?)))
                .filter(|(_, (_, bits))| *bits != STALE_NAN.to_bits())
                .collect();
            assert_eq!(read, want, "instant {at} after {after}");
        }
    }

    #[test]
    fn histories_read_as_they_were_written() {
        let mut next = random(5);
        for seed in 0..60u64 {
            let mut pair = Pair::default();
            let pool: Vec<Rc<SlotGroup>> = (0..6)
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
            let before = next(at as u64) as i64;
            pair.head.trim(Timestamp(before));
            pair.check(before, at);
            assert!(pair.head.heap_bytes() > 0, "seed {seed}");
        }
    }

    #[test]
    fn added_series_are_counted_by_their_labels() {
        let (a, b) = (group(&names("m", 4), false), group(&names("m", 6), false));
        let mut pair = Pair::default();
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
        let mut pair = Pair::default();
        pair.replace(&[group(&names("m", 2), false)]);
        pair.append(10, || 1.0);
        let refused = pair.head.append(Timestamp(10), &[1.0, 1.0], &[], false, &mut pair.scratch);
        assert_eq!(refused, Err(RowRejected { at: Timestamp(10), newest: Timestamp(10) }));
    }

    #[test]
    fn failed_scrape_and_recovery_are_cheap() {
        let mut pair = Pair::default();
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
        let mut head = TargetHead::default();
        let mut scratch = AppendScratch::default();
        head.replace(&[group(&names("s", 1), true), group(&names("m", 1), false)]);
        let mut append = |head: &mut TargetHead, at: i64, value: f64, stamp: i64| {
            head.append(Timestamp(at), &[value, 1.0], &[stamp], false, &mut scratch).unwrap()
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
            let all = head.range(&[matcher], &Labels::empty(), Timestamp(0), Timestamp(i64::MAX)).unwrap();
            all.into_iter().flat_map(|(_, samples)| samples).map(|s| (s.timestamp.0, s.value)).collect::<Vec<_>>()
        };
        assert_eq!(read(&head, "s0"), [(now - 60_000, 1.0), (now - 50_000, 3.0)]);
        assert_eq!(read(&head, "m0").len(), 8);
        // Its line vanishes: no marker unless asked for.
        head.replace(&[group(&names("m", 1), false)]);
        head.append(Timestamp(now + 8), &[1.0], &[], false, &mut scratch).unwrap();
        assert_eq!(read(&head, "s0").len(), 2);
        head.append(Timestamp(now + 9), &[1.0], &[], true, &mut scratch).unwrap();
        let last = read(&head, "s0").pop().unwrap();
        assert!(last.0 == now + 9 && series::is_stale(last.1), "{last:?}");
    }

    /// The design's figures hold on the shapes they were found on; the bound is generous, the figure is printed.
    #[test]
    fn rows_are_about_a_byte_per_sample() {
        let mut next = random(8);
        for (what, changed, fraction) in [("application-like", 41, 0), ("node-like", 22, 50)] {
            let mut head = TargetHead::default();
            let mut scratch = AppendScratch::default();
            head.replace(&[group(&names("m", 1360), false)]);
            let mut values: Vec<f64> = (0..1360).map(|_| next(100_000) as f64).collect();
            head.append(Timestamp(1), &values, &[], false, &mut scratch).unwrap();
            let first = head.heap_bytes();
            for row in 0..60 {
                for value in &mut values {
                    if next(100) < changed {
                        *value += if next(100) < fraction { next(1000) as f64 / 64.0 } else { next(60) as f64 };
                    }
                }
                head.append(Timestamp(2 + row), &values, &[], false, &mut scratch).unwrap();
            }
            let bytes = (head.heap_bytes() - first) as f64 / 60.0 / 1360.0;
            println!("{what}: {bytes:.2} bytes per sample");
            assert!(bytes < 1.6, "{what}: {bytes:.2} bytes per sample");
        }
    }
}
