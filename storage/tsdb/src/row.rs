//! The bytes of a row: what one scrape changed against the one before. Format: docs/format/row.md.
//!
//! Rows are reversible. From the values after a row follow the values before it, and the other way round; `undo` and
//! `redo` are the same walk with the signs exchanged.
//!
//! Invariants:
//!   * decoding bytes that are no row is an error or gives wrong values, but never panics or reads outside
//!   * a reader of one slot skips all other groups of 64 by their lengths

use crate::bits::{Bits, ones};
use crate::bytes::{Reader, put_varint, unzigzag, zigzag};
use std::ops::Range;

/// Slots per group.
pub const GROUP: usize = 64;
/// The row has stale flips.
const FLIPS: u8 = 1;
/// The row has samples with their own timestamps, one by one: read, no longer written.
const STAMPS: u8 = 2;
/// The row has samples with their own timestamps, in runs of slots whose stamps move on alike.
const STAMP_RUNS: u8 = 4;
/// A group with more changes than this has a mask instead of a list of places.
const PLACES_MAX: u32 = 7;
const MASK: u8 = 0xff;

/// Bytes that are not a row of these slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("row is damaged: {0}")]
pub struct RowError(pub &'static str);

const SHORT: RowError = RowError(crate::bytes::SHORT);

impl From<&'static str> for RowError {
    fn from(reason: &'static str) -> RowError {
        RowError(reason)
    }
}

/// Which way a row is walked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the values behind the row to those before it.
    Undo,
    /// From the values before the row to those behind it.
    Redo,
}

/// A value as an integer, if it is one that a difference restores bit for bit.
#[inline]
fn exact_integer(value: f64) -> Option<i64> {
    let integer = value as i64;
    (value.abs() <= series::EXACT_INTEGER_MAX && (integer as f64).to_bits() == value.to_bits()).then_some(integer)
}

#[inline]
fn put_change(old: f64, new: f64, out: &mut Vec<u8>) {
    if let (Some(old), Some(new)) = (exact_integer(old), exact_integer(new)) {
        // The differences of exact integers have 54 bits; two more are free for sign and mark.
        put_varint(zigzag(new - old) << 1, out);
        return;
    }
    let xor = old.to_bits() ^ new.to_bits();
    debug_assert_ne!(xor, 0);
    let trailing = (xor.trailing_zeros() / 8) as usize;
    let length = 8 - trailing - (xor.leading_zeros() / 8) as usize;
    out.push(1 | (trailing as u8) << 1 | (length as u8 - 1) << 4);
    out.extend_from_slice(&(xor >> (8 * trailing)).to_le_bytes()[..length]);
}

/// Buffers of [`encode`], used again for every row of a core.
#[derive(Debug, Default)]
pub struct Scratch {
    pub row: Vec<u8>,
    payload: Vec<u8>,
}

/// What a row says beside values.
#[derive(Clone, Copy, Debug, Default)]
pub struct Marks<'a> {
    /// Slots whose stale flag changes.
    pub flips: &'a [u64],
    /// Slots that have a sample with its own timestamp, ascending.
    pub stamped: &'a [StampRun],
}

/// Slots that follow each other and have samples with their own timestamps, which differ from the slots' last ones by the
/// same. A federation stamps each line, and most lines of an edge move on by its interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StampRun {
    pub slot: u32,
    pub count: u32,
    pub difference: i64,
}

impl StampRun {
    /// Adds a slot to the last of the runs, or as a new one.
    #[inline]
    pub fn push(slot: u32, difference: i64, runs: &mut Vec<StampRun>) {
        match runs.last_mut() {
            Some(last) if last.difference == difference && last.slot + last.count == slot => last.count += 1,
            _ => runs.push(StampRun { slot, count: 1, difference }),
        }
    }

    pub fn slots(&self) -> Range<usize> {
        self.slot as usize..(self.slot + self.count) as usize
    }
}

fn put_stamp_runs(runs: &[StampRun], out: &mut Vec<u8>) {
    put_varint(runs.len() as u64, out);
    let mut end = 0;
    for StampRun { slot, count, difference } in runs {
        put_varint(u64::from(slot - end) << 1 | u64::from(*count > 1), out);
        if *count > 1 {
            put_varint(u64::from(*count), out);
        }
        put_varint(zigzag(*difference), out);
        end = slot + count;
    }
}

/// Writes the row that leads from `old` to `new` into `scratch.row`. Both have as many values.
pub fn encode(old: &[f64], new: &[f64], marks: Marks, scratch: &mut Scratch) {
    assert_eq!(old.len(), new.len());
    let Scratch { row, payload } = scratch;
    row.clear();
    payload.clear();
    let has_flips = marks.flips.iter().any(|word| *word != 0);
    let flags = if has_flips { FLIPS } else { 0 } | if marks.stamped.is_empty() { 0 } else { STAMP_RUNS };
    row.push(flags);
    put_varint(old.len().div_ceil(GROUP) as u64, row);
    for (old, new) in old.chunks(GROUP).zip(new.chunks(GROUP)) {
        let mut mask = 0u64;
        for (i, (old, new)) in old.iter().zip(new).enumerate() {
            mask |= u64::from(old.to_bits() != new.to_bits()) << i;
        }
        let start = payload.len();
        if mask != 0 {
            if mask.count_ones() <= PLACES_MAX {
                payload.push(mask.count_ones() as u8);
                payload.extend(ones(mask).map(|place| place as u8));
            } else {
                payload.push(MASK);
                payload.extend_from_slice(&mask.to_le_bytes());
            }
            let mut rest = mask;
            while rest != 0 {
                let place = rest.trailing_zeros() as usize;
                rest &= rest - 1;
                put_change(old[place], new[place], payload);
            }
        }
        put_varint((payload.len() - start) as u64, row);
    }
    row.extend_from_slice(payload);
    if has_flips {
        put_varint(marks.flips.iter().filter(|word| **word != 0).count() as u64, row);
        for (group, word) in marks.flips.iter().enumerate().filter(|(_, word)| **word != 0) {
            put_varint(group as u64, row);
            row.extend_from_slice(&word.to_le_bytes());
        }
    }
    if !marks.stamped.is_empty() {
        put_stamp_runs(marks.stamped, row);
    }
}

/// A row's bytes under a cursor.
impl Reader<'_> {
    /// The value on the other side of a change.
    fn change(&mut self, value: f64, direction: Direction) -> Result<f64, RowError> {
        let first = *self.rest().first().ok_or(SHORT)?;
        if first & 1 == 0 {
            let difference = unzigzag(self.varint()? >> 1);
            let integer = value as i64;
            let other = match direction {
                Direction::Undo => integer.wrapping_sub(difference),
                Direction::Redo => integer.wrapping_add(difference),
            };
            return Ok(other as f64);
        }
        self.byte()?;
        let trailing = usize::from(first >> 1 & 7);
        let length = usize::from(first >> 4 & 7) + 1;
        if trailing + length > 8 {
            return Err(RowError("a change is wider than a value"));
        }
        let mut bytes = [0; 8];
        bytes[..length].copy_from_slice(self.take(length)?);
        Ok(f64::from_bits(value.to_bits() ^ u64::from_le_bytes(bytes) << (8 * trailing)))
    }

    /// Which slots of a group change.
    fn mask(&mut self) -> Result<u64, RowError> {
        let count = self.byte()?;
        if count == MASK {
            return Ok(self.word()?);
        }
        let mut mask = 0;
        for place in self.take(usize::from(count))? {
            if usize::from(*place) >= GROUP {
                return Err(RowError("a place is outside its group"));
            }
            mask |= 1 << place;
        }
        Ok(mask)
    }
}

/// A row's sections, found without decoding them.
struct Sections<'a> {
    lengths: Reader<'a>,
    groups: usize,
    payload: &'a [u8],
    flags: u8,
    marks: Reader<'a>,
}

fn skip_flips(sections: &mut Sections) -> Result<(), RowError> {
    if sections.flags & FLIPS != 0 {
        for _ in 0..sections.marks.varint()? {
            sections.marks.varint()?;
            sections.marks.word()?;
        }
    }
    Ok(())
}

fn sections(row: &[u8]) -> Result<Sections<'_>, RowError> {
    let mut reader = Reader::new(row);
    let flags = reader.byte()?;
    let groups = reader.varint()? as usize;
    // Each group has a length of at least one byte, so a lying count ends here and allocates nothing.
    if groups > reader.rest().len() {
        return Err(SHORT);
    }
    let lengths = Reader::new(reader.rest());
    let mut payload_bytes = 0usize;
    for _ in 0..groups {
        payload_bytes = payload_bytes.checked_add(reader.varint()? as usize).ok_or(SHORT)?;
    }
    let payload = reader.take(payload_bytes)?;
    Ok(Sections { lengths, groups, payload, flags, marks: reader })
}

/// The state of all slots of a segment, on one side of a row.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Slots {
    pub values: Vec<f64>,
    pub stale: Bits,
    /// Timestamp of the last sample of stamped slots; empty where no slot is stamped.
    pub stamps: Vec<i64>,
}

/// Takes all slots over a row.
pub fn walk(row: &[u8], slots: &mut Slots, direction: Direction) -> Result<(), RowError> {
    walk_groups(row, slots, direction, |_| true)
}

/// Marks the groups that hold any of these slots, for [`walk_wanted`].
pub fn mark_groups(slots: &[usize], groups: &mut Vec<bool>) {
    groups.clear();
    groups.resize(slots.iter().max().map_or(0, |last| last / GROUP + 1), false);
    slots.iter().for_each(|slot| groups[*slot / GROUP] = true);
}

/// The same, but only the values of marked groups follow: the others mean nothing afterwards.
pub fn walk_wanted(row: &[u8], slots: &mut Slots, direction: Direction, groups: &[bool]) -> Result<(), RowError> {
    walk_groups(row, slots, direction, |group| groups.get(group) == Some(&true))
}

#[inline]
fn walk_groups(
    row: &[u8],
    slots: &mut Slots,
    direction: Direction,
    wanted: impl Fn(usize) -> bool,
) -> Result<(), RowError> {
    let mut sections = sections(row)?;
    let mut payload = Reader::new(sections.payload);
    for group in 0..sections.groups {
        let length = sections.lengths.varint()? as usize;
        if length == 0 {
            continue;
        }
        let mut changes = Reader::new(payload.take(length)?);
        if !wanted(group) {
            continue;
        }
        for place in ones(changes.mask()?) {
            let value = slots.values.get_mut(group * GROUP + place).ok_or(RowError("a slot does not exist"))?;
            *value = changes.change(*value, direction)?;
        }
    }
    let mut marks = sections.marks;
    if sections.flags & FLIPS != 0 {
        for _ in 0..marks.varint()? {
            let group = marks.varint()? as usize;
            let word = marks.word()?;
            *slots.stale.0.get_mut(group).ok_or(RowError("a slot does not exist"))? ^= word;
        }
    }
    let mut stamps = Stamps::read(sections.flags, marks)?;
    while let Some((run, difference)) = stamps.next_run()? {
        for stamp in slots.stamps.get_mut(run).ok_or(RowError("a slot does not exist"))? {
            *stamp = match direction {
                Direction::Undo => stamp.wrapping_sub(difference),
                Direction::Redo => stamp.wrapping_add(difference),
            };
        }
    }
    Ok(())
}

/// A row that is read group after group, from the first.
pub struct Groups<'a> {
    lengths: Reader<'a>,
    payload: Reader<'a>,
    left: usize,
}

/// What a row says beside values: flips by group, and stamped slots with the difference of their stamps.
pub struct Notes<'a> {
    pub flips: Vec<(usize, u64)>,
    pub stamps: Stamps<'a>,
}

/// Slots with samples of their own time, read run by run, in ascending order. A run is as long as its bytes say, whether
/// such slots exist or not.
#[derive(Clone, Copy)]
pub struct Stamps<'a> {
    entries: Reader<'a>,
    left: u64,
    /// From where the next gap counts.
    from: usize,
    in_runs: bool,
}

impl<'a> Stamps<'a> {
    fn read(flags: u8, mut marks: Reader<'a>) -> Result<Stamps<'a>, RowError> {
        let left = if flags & (STAMPS | STAMP_RUNS) == 0 { 0 } else { marks.varint()? };
        Ok(Stamps { entries: marks, left, from: 0, in_runs: flags & STAMP_RUNS != 0 })
    }

    /// The next slots whose stamps differ from their last ones by the same.
    pub fn next_run(&mut self) -> Result<Option<(Range<usize>, i64)>, RowError> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        let head = self.entries.varint()?;
        let (gap, length) = match (self.in_runs, head & 1) {
            (false, _) => (head, 1),
            (true, 0) => (head >> 1, 1),
            (true, _) => (head >> 1, self.entries.varint()?),
        };
        let start = self.from.checked_add(gap as usize).ok_or(SHORT)?;
        let end = start.checked_add(length as usize).ok_or(SHORT)?;
        // One by one, a gap counts from the last slot, not from behind it.
        self.from = if self.in_runs { end } else { start };
        Ok(Some((start..end, unzigzag(self.entries.varint()?))))
    }
}

/// The slots of a row with samples of their own time.
pub fn stamps(row: &[u8]) -> Result<Stamps<'_>, RowError> {
    let mut sections = sections(row)?;
    skip_flips(&mut sections)?;
    Stamps::read(sections.flags, sections.marks)
}

/// A row's groups and its notes.
pub fn open(row: &[u8]) -> Result<(Groups<'_>, Notes<'_>), RowError> {
    let sections = sections(row)?;
    let mut flips = Vec::new();
    let mut marks = sections.marks;
    if sections.flags & FLIPS != 0 {
        for _ in 0..marks.count()? {
            flips.push((marks.number()?, marks.word()?));
        }
    }
    let notes = Notes { flips, stamps: Stamps::read(sections.flags, marks)? };
    let payload = Reader::new(sections.payload);
    Ok((Groups { lengths: sections.lengths, payload, left: sections.groups }, notes))
}

impl Groups<'_> {
    /// Takes the values of the next group over the row, and tells of those that change.
    #[inline]
    pub fn redo_next(&mut self, values: &mut [f64], mut changed: impl FnMut(usize, f64)) -> Result<(), RowError> {
        if self.left == 0 {
            return Ok(());
        }
        self.left -= 1;
        let length = self.lengths.varint()? as usize;
        if length == 0 {
            return Ok(());
        }
        let mut changes = Reader::new(self.payload.take(length)?);
        for place in ones(changes.mask()?) {
            let value = values.get_mut(place).ok_or(RowError("a slot does not exist"))?;
            *value = changes.change(*value, Direction::Redo)?;
            changed(place, *value);
        }
        Ok(())
    }
}

/// One slot, on one side of a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OneSlot {
    pub value: f64,
    pub stale: bool,
    pub stamp: i64,
}

/// What a row says of one slot beside its value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SlotChange {
    pub flipped: bool,
    pub stamped: bool,
}

/// Takes one slot back over a row.
pub fn undo_one(row: &[u8], slot: usize, state: &mut OneSlot) -> Result<SlotChange, RowError> {
    let mut sections = sections(row)?;
    let mut said = SlotChange::default();
    let mut skip = 0usize;
    let group = slot / GROUP;
    if group < sections.groups {
        for _ in 0..group {
            skip += sections.lengths.varint()? as usize;
        }
        let length = sections.lengths.varint()? as usize;
        if length > 0 {
            let mut changes = Reader::new(sections.payload.get(skip..).ok_or(SHORT)?.get(..length).ok_or(SHORT)?);
            let mask = changes.mask()?;
            if mask >> (slot % GROUP) & 1 == 1 {
                for _ in 0..(mask & ((1 << (slot % GROUP)) - 1)).count_ones() {
                    changes.change(0.0, Direction::Undo)?;
                }
                state.value = changes.change(state.value, Direction::Undo)?;
            }
        }
    }
    let mut marks = sections.marks;
    if sections.flags & FLIPS != 0 {
        for _ in 0..marks.varint()? {
            let at = marks.varint()? as usize;
            let word = marks.word()?;
            if at == group && word >> (slot % GROUP) & 1 == 1 {
                said.flipped = true;
                state.stale = !state.stale;
            }
        }
    }
    let mut stamps = Stamps::read(sections.flags, marks)?;
    while let Some((run, difference)) = stamps.next_run()? {
        if run.contains(&slot) {
            said.stamped = true;
            state.stamp = state.stamp.wrapping_sub(difference);
        }
    }
    Ok(said)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random(seed: u64) -> impl FnMut(u64) -> u64 {
        let mut state = seed;
        move |below| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) % below
        }
    }

    /// Values of every sort: small and large integers, decimals, infinities, NaN, both zeros.
    fn value(next: &mut impl FnMut(u64) -> u64) -> f64 {
        match next(8) {
            0 => next(100) as f64,
            1 => -(next(1_000_000) as f64),
            2 => next(1_000_000) as f64 / 1000.0,
            3 => f64::from_bits(next(u64::MAX >> 34) << 34 | next(1 << 30)),
            4 => [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.0, series::STALE_NAN][next(5) as usize],
            5 => 9_007_199_254_740_992.0 - next(3) as f64,
            6 => 1e18 + next(1000) as f64 * 1024.0,
            _ => 0.0,
        }
    }

    fn bits(slots: &Slots) -> (Vec<u64>, &Bits, &[i64]) {
        (slots.values.iter().map(|value| value.to_bits()).collect(), &slots.stale, &slots.stamps)
    }

    #[test]
    fn rows_lead_forth_and_back() {
        let mut next = random(3);
        let mut scratch = Scratch::default();
        for round in 0..400 {
            let count = next(300) as usize;
            let words = count.div_ceil(GROUP);
            let before = Slots {
                values: (0..count).map(|_| value(&mut next)).collect(),
                stale: Bits((0..words).map(|_| next(u64::MAX >> 33)).collect()),
                stamps: (0..count).map(|_| if next(3) == 0 { i64::MIN } else { next(1 << 40) as i64 }).collect(),
            };
            let mut after = before.clone();
            for slot in 0..count {
                if next(100) < round % 100 {
                    after.values[slot] = value(&mut next);
                }
            }
            let flips: Vec<u64> = (0..words).map(|_| if next(4) == 0 { next(1 << 30) } else { 0 }).collect();
            let mut stamped = Vec::new();
            for slot in 0..count {
                // Alone, or like its neighbours.
                let difference = if round % 2 == 0 { 15_000 } else { next(1 << 41) as i64 };
                if next(10) < round % 10 {
                    after.stamps[slot] = before.stamps[slot].wrapping_add(difference);
                    let difference = after.stamps[slot].wrapping_sub(before.stamps[slot]);
                    StampRun::push(slot as u32, difference, &mut stamped);
                }
            }
            after.stale.0.iter_mut().zip(&flips).for_each(|(word, flips)| *word ^= flips);
            encode(&before.values, &after.values, Marks { flips: &flips, stamped: &stamped }, &mut scratch);

            let mut walked = after.clone();
            walk(&scratch.row, &mut walked, Direction::Undo).unwrap();
            assert_eq!(bits(&walked), bits(&before), "round {round}");
            let mut some = after.clone();
            let wanted = |slot: &usize| slot / GROUP % 2 == round as usize % 2;
            let (slots, mut groups): (Vec<usize>, _) = ((0..count).filter(wanted).collect(), Vec::new());
            mark_groups(&slots, &mut groups);
            walk_wanted(&scratch.row, &mut some, Direction::Undo, &groups).unwrap();
            for slot in 0..count {
                let from = if wanted(&slot) { &before } else { &after };
                assert_eq!(some.values[slot].to_bits(), from.values[slot].to_bits(), "round {round} slot {slot}");
            }
            assert_eq!((&some.stale, &some.stamps), (&before.stale, &before.stamps));
            walk(&scratch.row, &mut walked, Direction::Redo).unwrap();
            assert_eq!(bits(&walked), bits(&after), "round {round}");
            for slot in 0..count {
                let at = |slots: &Slots| (slots.values[slot].to_bits(), slots.stale.get(slot), slots.stamps[slot]);
                let (_, stale, stamp) = at(&after);
                let mut one = OneSlot { value: after.values[slot], stale, stamp };
                let said = undo_one(&scratch.row, slot, &mut one).unwrap();
                assert_eq!((one.value.to_bits(), one.stale, one.stamp), at(&before), "round {round} slot {slot}");
                assert_eq!(said.stamped, stamped.iter().any(|run| run.slots().contains(&slot)));
                assert_eq!(said.flipped, flips[slot / 64] >> (slot % 64) & 1 == 1);
            }
        }
    }

    #[test]
    fn unchanged_row_costs_a_byte_per_group() {
        let values = vec![1.0; 640];
        let mut scratch = Scratch::default();
        encode(&values, &values, Marks::default(), &mut scratch);
        assert_eq!(scratch.row.len(), 2 + 10);
    }

    #[test]
    fn stamps_that_move_on_alike_cost_a_few_bytes() {
        let values = vec![1.0; 640];
        let mut scratch = Scratch::default();
        let mut stamped = Vec::new();
        (5..640).for_each(|slot| StampRun::push(slot, 15_000, &mut stamped));
        encode(&values, &values, Marks { flips: &[], stamped: &stamped }, &mut scratch);
        assert_eq!(scratch.row.len(), 2 + 10 + 1 + 1 + 2 + 3);
    }

    /// As it was written before there were runs.
    #[test]
    fn stamps_one_by_one_are_read() {
        let row = [STAMPS, 0, 2, 1, 10, 2, 9];
        let before = Slots { values: vec![0.0; 4], stale: Bits(vec![0]), stamps: vec![100; 4] };
        let mut slots = before.clone();
        walk(&row, &mut slots, Direction::Redo).unwrap();
        assert_eq!(slots.stamps, [100, 105, 100, 95]);
        assert_eq!(walk(&row[..6], &mut before.clone(), Direction::Redo), Err(SHORT));
        let beyond = [STAMPS, 0, 1, 4, 10];
        assert_eq!(walk(&beyond, &mut before.clone(), Direction::Redo), Err(RowError("a slot does not exist")));
    }

    #[test]
    fn damaged_rows_are_errors_or_values_and_never_panics() {
        let mut next = random(11);
        let mut scratch = Scratch::default();
        let old: Vec<f64> = (0..200).map(|_| value(&mut next)).collect();
        let new: Vec<f64> = old.iter().map(|old| if next(2) == 0 { *old } else { value(&mut next) }).collect();
        let flips = [next(1 << 30), 0, 7, 1];
        let run = |slot, count, difference| StampRun { slot, count, difference };
        let stamped = [run(3, 2, -5), run(150, 1, i64::MAX)];
        encode(&old, &new, Marks { flips: &flips, stamped: &stamped }, &mut scratch);
        let good = scratch.row.clone();
        let slots = Slots { values: new, stale: Bits(vec![0; 4]), stamps: vec![0; 200] };
        let mut refused = 0;
        for _ in 0..50_000 {
            let mut row = good.clone();
            for _ in 0..next(3) + 1 {
                let at = next(row.len() as u64) as usize;
                match next(3) {
                    0 => row[at] = next(256) as u8,
                    1 => row.truncate(at.max(1)),
                    _ => row.insert(at, next(256) as u8),
                }
            }
            refused += usize::from(walk(&row, &mut slots.clone(), Direction::Undo).is_err());
            let _ = undo_one(&row, next(250) as usize, &mut OneSlot { value: 1.0, stale: false, stamp: 0 });
        }
        assert!(refused > 1000, "{refused} refused");
        assert_eq!(walk(&[], &mut slots.clone(), Direction::Undo), Err(SHORT));
    }
}
