//! Samples of a time, read back from the newest values over rows.

use super::segment::Row;
use super::{Elsewhere, NO_STAMP, Segment, TargetHead};
use crate::group::SlotGroup;
use crate::row::{self, OneSlot, RowError};
use ahash::{AHashMap, RandomState};
use series::{Labels, STALE_NAN, Sample, Timestamp};
use std::rc::Rc;
use std::sync::Arc;

/// Slots of a segment up to which each is followed back by itself; more are walked back together.
pub(super) const SLOTS_ALONE_MAX: usize = 16;

/// Samples of series of one target, which share their times. To be used again for the next target.
#[derive(Debug, Default)]
pub struct Rows {
    /// How many columns there are: one for each matching slot, group by group. A series that has been in slots of several
    /// groups has its samples in one of their columns, and none in the others.
    pub width: usize,
    /// Milliseconds, in order. Two may be the same: the first row says then what ends there, and has no values.
    pub times: Vec<i64>,
    /// For each time a row of values, with a marker where a series has none.
    pub values: Vec<f64>,
    /// Slots of a segment, and their columns where they do not follow each other.
    slots: Vec<usize>,
    columns: Vec<usize>,
    /// What `slots` was made of, if segments had the same groups: targets that come one after the other are often alike.
    layout: Vec<(usize, Rc<[u32]>)>,
    /// Where the columns of each group begin, and which those of its slots are.
    places: AHashMap<*const SlotGroup, GroupColumns>,
    /// In how many segments each has been live all the time.
    always_live: AHashMap<*const SlotGroup, usize>,
    /// Columns of series that may be in several groups.
    moved: AHashMap<u64, usize>,
    hasher: RandomState,
    state: row::Slots,
    /// Groups of 64 that have any of the slots: the others are not read.
    groups: Vec<bool>,
}

/// Columns of a group.
#[derive(Debug)]
struct GroupColumns {
    slots: Rc<[u32]>,
    columns: Columns,
}

#[derive(Debug)]
enum Columns {
    /// They follow each other from there on.
    From(usize),
    Each(Vec<usize>),
}

impl Rows {
    fn clear(&mut self) {
        self.width = 0;
        self.times.clear();
        self.values.clear();
    }

    /// Gives columns to the matching slots of groups that all segments have in the same places.
    fn place_alike(&mut self, groups: impl Iterator<Item = (usize, Rc<[u32]>)>) {
        let (mut same, mut count) = (true, 0);
        for (base, slots) in groups {
            let before = self.layout.get(count);
            same &= before.is_some_and(|(at, before)| *at == base && Rc::ptr_eq(before, &slots));
            if !same {
                self.layout.truncate(count);
                self.layout.push((base, slots));
            }
            count += 1;
        }
        if !same || count == 0 || count < self.layout.len() {
            self.layout.truncate(count);
            self.slots.clear();
            for (base, slots) in &self.layout {
                self.slots.extend(slots.iter().map(|slot| base + *slot as usize));
            }
            row::mark_groups(&self.slots, &mut self.groups);
        }
        self.width = self.slots.len();
    }

    /// Gives columns to the matching slots of segments whose groups are not the same.
    fn place_all(&mut self, segments: &[&Segment], mut matching: impl FnMut(&Arc<SlotGroup>) -> Rc<[u32]>) {
        self.places.clear();
        self.always_live.clear();
        self.moved.clear();
        // `slots` is made anew for each segment.
        self.layout.clear();
        self.slots.clear();
        for placed in segments.iter().flat_map(|segment| &segment.placed) {
            *self.always_live.entry(Arc::as_ptr(&placed.group)).or_default() += usize::from(placed.always_live);
        }
        for placed in segments.iter().flat_map(|segment| &segment.placed) {
            if !self.places.contains_key(&Arc::as_ptr(&placed.group)) {
                let slots = matching(&placed.group);
                // Live groups have no series twice.
                let alone = self.always_live.get(&Arc::as_ptr(&placed.group)) == Some(&segments.len());
                self.place(&placed.group, slots, alone);
            }
        }
    }

    /// Gives the matching slots of a group their columns; `alone` says that no other group may have one of its series.
    fn place(&mut self, group: &Arc<SlotGroup>, slots: Rc<[u32]>, alone: bool) {
        let first = self.width;
        self.width += slots.len();
        let columns = match alone {
            true => Columns::From(first),
            false => {
                let hash = |slot: &u32| group.slot_hash(*slot as usize, &self.hasher);
                let columns = slots.iter().enumerate();
                let column = |(i, slot)| *self.moved.entry(hash(slot)).or_insert(first + i);
                Columns::Each(columns.map(column).collect())
            }
        };
        self.places.insert(Arc::as_ptr(group), GroupColumns { slots, columns });
    }

    /// The slots of a segment that have columns, and these.
    fn find(&mut self, segment: &Segment) {
        self.slots.clear();
        self.columns.clear();
        for placed in &segment.placed {
            let Some(GroupColumns { slots, columns }) = self.places.get(&Arc::as_ptr(&placed.group)) else { continue };
            self.slots.extend(slots.iter().map(|slot| placed.base + *slot as usize));
            match columns {
                Columns::From(first) => self.columns.extend(*first..first + slots.len()),
                Columns::Each(columns) => self.columns.extend_from_slice(columns),
            }
        }
        row::mark_groups(&self.slots, &mut self.groups);
    }
}

impl Segment {
    /// Samples of a slot in `[from, to]`, newest first, markers included.
    pub(super) fn samples(
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
    pub(super) fn samples_of_many(
        &self,
        slots: &[usize],
        from: Timestamp,
        to: Timestamp,
        visible: u64,
        out: &mut [Vec<Sample>],
    ) -> Result<(), RowError> {
        let mut state = self.slots.clone();
        let mut stale = Vec::with_capacity(slots.len());
        let mut groups = Vec::new();
        row::mark_groups(slots, &mut groups);
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
            row::walk_wanted(&row.bytes, &mut state, row::Direction::Undo, &groups)?;
            for ((slot, stale), out) in slots.iter().zip(&stale).zip(&mut *out) {
                if *stale && !state.stale.get(*slot) {
                    out.push(Sample { timestamp: row.at, value: STALE_NAN });
                }
            }
        }
        Ok(())
    }
}

impl Segment {
    /// Values of matching unstamped slots as they were with a row.
    fn instant(
        &self,
        row: usize,
        mut matching: impl FnMut(&Arc<SlotGroup>) -> Rc<[u32]>,
        mut found: impl FnMut(&Arc<SlotGroup>, u32, Sample),
    ) -> Result<(), RowError> {
        let wanted: Vec<Rc<[u32]>> = self.placed.iter().map(|placed| matching(&placed.group)).collect();
        let wanted = || self.placed.iter().zip(&wanted);
        let timestamp = self.rows[row].at;
        let slots: Vec<usize> =
            wanted().flat_map(|(placed, slots)| slots.iter().map(|slot| placed.base + *slot as usize)).collect();
        let mut groups = Vec::new();
        row::mark_groups(&slots, &mut groups);
        let mut state = self.slots.clone();
        for later in self.rows[row + 1..].iter().rev() {
            row::walk_wanted(&later.bytes, &mut state, row::Direction::Undo, &groups)?;
        }
        for (placed, slots) in wanted() {
            for slot in slots.iter() {
                let at = placed.base + *slot as usize;
                if !state.stale.get(at) {
                    found(&placed.group, *slot, Sample { timestamp, value: state.values[at] });
                }
            }
        }
        Ok(())
    }
}

impl TargetHead {
    /// Newest samples of matching series at `at`, if they are after `after`, as far as rows up to `visible` tell.
    /// `matching` gives the matching slots of a group, so that the caller can remember them for many targets.
    ///
    /// True if that is all there is to say; series that are stale are left out then. Otherwise what is elsewhere may say
    /// more, and markers are found as well.
    pub fn instant(
        &self,
        after: Timestamp,
        at: Timestamp,
        visible: u64,
        elsewhere: Elsewhere,
        mut matching: impl FnMut(&Arc<SlotGroup>) -> Rc<[u32]>,
        mut found: impl FnMut(&Arc<SlotGroup>, u32, Sample),
    ) -> Result<bool, RowError> {
        let whole = self.newest_is_whole(after, elsewhere) && self.owing.is_none();
        if whole && self.newest_row_is_visible(at, visible) && self.open.dead_have_ended() {
            // The common case touches nothing but newest values.
            for placed in self.open.live() {
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
        if whole
            && self.open.slots.stamps.is_empty()
            && self.has_rows_only()
            && let Some((segment, row)) = self.newest_row_at(at, visible)
        {
            if segment.rows[row].at > after {
                segment.instant(row, matching, found)?;
            }
            return Ok(true);
        }
        // Several slots may hold parts of one series: the newest part speaks, a sample before a marker.
        let mut newest: AHashMap<Labels, (Sample, Arc<SlotGroup>, u32)> = AHashMap::new();
        self.range(after.plus_ms(1), at, visible, matching, |group, slot, samples| {
            // Samples of slots with own times come in the order in which they were pushed.
            let sample = match group.is_stamped(slot as usize) {
                true => series::order::newest(samples.iter().copied()),
                false => samples.first().copied(),
            };
            let Some(sample) = sample else { return };
            let entry = newest.entry(group.labels(slot as usize));
            let best = entry.or_insert_with(|| (sample, group.clone(), slot));
            let later = sample.timestamp > best.0.timestamp;
            let instead = sample.timestamp == best.0.timestamp && series::is_stale(best.0.value);
            if later || instead {
                *best = (sample, group.clone(), slot);
            }
        })?;
        for (sample, group, slot) in newest.into_values() {
            found(&group, slot, sample);
        }
        Ok(false)
    }

    /// Whether there is nothing but rows of scrapes, in the order of their times.
    fn has_rows_only(&self) -> bool {
        self.late.is_empty() && self.closed.iter().all(|closed| closed.has_rows_of(&self.key))
    }

    /// The newest row in memory up to `at` that can be seen: its segment, and its place there. What has no value in it has
    /// none at that time, as long as rows have all there is.
    fn newest_row_at(&self, at: Timestamp, visible: u64) -> Option<(&Segment, usize)> {
        let mut next: Option<&Segment> = None;
        for segment in [&self.open].into_iter().chain(self.closed.iter().rev().map(|closed| &closed.segment)) {
            let asked = segment.rows.iter().rposition(|row| row.position <= visible && row.at <= at);
            if let Some(asked) = asked {
                // The last row of a segment may say what ends with the first row of the next, and nothing else.
                let is_end = |next: &Segment| next.rows.first().is_some_and(|row| row.at == segment.rows[asked].at);
                return Some((segment, asked)).filter(|_| !next.is_some_and(is_end));
            }
            next = if segment.rows.is_empty() { next } else { Some(segment) };
        }
        None
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
                if slots.is_empty() {
                    continue;
                }
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
    /// samples that there are; false if what is elsewhere, or other slots, may say more.
    ///
    /// `matching` gives the matching slots of a group; it is asked once for each, in the order of the columns. Of the rows up
    /// to `newest_from` only the newest is wanted: one row says everything about its time.
    pub fn rows(
        &self,
        (from, to): (Timestamp, Timestamp),
        visible: u64,
        elsewhere: Elsewhere,
        newest_from: Option<Timestamp>,
        out: &mut Rows,
        mut matching: impl FnMut(&Arc<SlotGroup>) -> Rc<[u32]>,
    ) -> Result<bool, RowError> {
        out.clear();
        let (whole, nothing_older) = (self.is_whole_since(from, elsewhere), elsewhere == Elsewhere::Nothing);
        if self.owing.is_some() || !self.has_rows_only() {
            return Ok(false);
        }
        // Whatever is in chunks: nothing before this row is wanted.
        let first = newest_from.filter(|_| whole || nothing_older);
        let first = first.and_then(|first| self.newest_row_at(first.min(to), visible));
        let from = first.map_or(from, |(segment, row)| segment.rows[row].at.max(from));
        let asked = first.filter(|_| newest_from.is_some_and(|first| first >= to));
        let newest_only = asked.is_some();
        let open_alone = newest_only && self.newest_row_is_visible(to, visible) && self.open.dead_have_ended();
        // What is in chunks as well may still be in memory.
        let in_memory = newest_only || (whole && self.sealed_until.is_none_or(|until| until < from));
        if !(nothing_older || in_memory) {
            return Ok(false);
        }
        let within = |segment: &&Segment| segment.range().is_some_and(|(first, last)| first <= to && last >= from);
        let segments: Vec<&Segment> = match asked {
            Some((segment, _)) => vec![segment],
            None => self.closed.iter().map(|closed| &closed.segment).chain([&self.open]).filter(within).collect(),
        };
        if segments.iter().any(|segment| !segment.slots.stamps.is_empty()) {
            return Ok(false);
        }
        let Some(last) = segments.last() else { return Ok(true) };
        let always_live = || segments.iter().flat_map(|segment| &segment.placed).all(|placed| placed.always_live);
        let uniform = newest_only || (always_live() && segments.iter().all(|segment| segment.same_layout(last)));
        if uniform {
            // Whatever is dead has ended.
            let there = last.placed.iter().filter(|placed| placed.live || !open_alone);
            out.place_alike(there.map(|placed| (placed.base, matching(&placed.group))));
        } else {
            out.place_all(&segments, matching);
        }
        if out.width == 0 {
            return Ok(true);
        }
        let readable = |row: &&Row| row.position <= visible && row.at <= to && row.at >= from;
        let rows = segments.iter().flat_map(|segment| &segment.rows).filter(readable);
        let height = if newest_only { rows.count().min(1) } else { rows.count() };
        // Rows are undone from the newest on, so the matrix is filled from its end.
        out.times.resize(height, 0);
        out.values.resize(height * out.width, STALE_NAN);
        let mut left = height;
        'segments: for segment in segments.iter().rev() {
            if !uniform {
                out.find(segment);
            }
            let Rows { width, times, values, slots, columns, state, groups, .. } = &mut *out;
            // A copy, once there is a row to undo.
            let mut undone = false;
            for row in segment.rows.iter().rev() {
                if row.at < from || left == 0 {
                    break 'segments;
                }
                if readable(&row) {
                    left -= 1;
                    times[left] = row.at.0;
                    let out = &mut values[left * *width..(left + 1) * *width];
                    let state = if undone { &*state } else { &segment.slots };
                    if uniform {
                        for (out, slot) in out.iter_mut().zip(slots.iter()) {
                            *out = if state.stale.get(*slot) { STALE_NAN } else { state.values[*slot] };
                        }
                    } else {
                        for (column, slot) in
                            columns.iter().zip(slots.iter()).filter(|(_, slot)| !state.stale.get(**slot))
                        {
                            out[*column] = state.values[*slot];
                        }
                    }
                    if left == 0 {
                        break 'segments;
                    }
                }
                if !undone {
                    state.values.clone_from(&segment.slots.values);
                    state.stale.0.clone_from(&segment.slots.stale.0);
                    undone = true;
                }
                row::walk_wanted(&row.bytes, state, row::Direction::Undo, groups)?;
            }
        }
        Ok(true)
    }
}
