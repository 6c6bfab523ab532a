//! From the rows of a closed segment to XOR chunks, one per slot.
//!
//! Invariant: 64 slots at a time are turned from rows into columns, so the working set stays in the nearest caches.

use crate::bytes::{put_varint, zigzag};
use crate::head::{NO_STAMP, Segment};
use crate::row::{self, GROUP, RowError};
use ahash::AHashMap;
use blocks::xor::Encoder;
use series::STALE_NAN;

/// The chunks of a segment.
#[derive(Debug, Default)]
pub struct Sealed {
    /// End of each slot's entry in `entries`; as many as slots.
    pub ends: Vec<u32>,
    /// For each slot with samples: checksum, distance of its first and last sample from `first` and `last`, chunk.
    pub entries: Vec<u8>,
    /// Times of the first and last sample.
    pub first: i64,
    pub last: i64,
    pub samples: u64,
    /// Rows at the end that could not be read, with the reason.
    pub unread: Option<(usize, RowError)>,
}

/// Puts a segment's rows into chunks. Rows that do not decode end it early.
pub fn seal(segment: &Segment) -> Sealed {
    let count = segment.slots();
    let mut sealed = Sealed::default();
    let mut opened = Vec::with_capacity(segment.rows.len());
    let mut notes = Vec::with_capacity(segment.rows.len());
    for row in &segment.rows {
        match row::open(&row.bytes) {
            Ok((groups, note)) => {
                opened.push(groups);
                notes.push(note);
            }
            Err(error) => {
                sealed.unread = Some((segment.rows.len() - opened.len(), error));
                break;
            }
        }
    }
    let times: Vec<i64> = segment.rows.iter().map(|row| row.at.0).collect();
    sealed.first = times.first().copied().unwrap_or(0);
    sealed.last = times.last().copied().unwrap_or(0);
    let stamps = stamps(segment, &notes);
    for stamp in stamps.values().flatten() {
        sealed.first = sealed.first.min(stamp.1);
        sealed.last = sealed.last.max(stamp.1);
    }
    let mut readable = opened.len();
    let stride = readable.max(1);
    let mut columns = vec![0.0f64; GROUP * stride];
    let mut chunk = Vec::new();
    for (group, base) in (0..count).step_by(GROUP).enumerate() {
        let width = GROUP.min(count - base);
        let mut values = [0.0f64; GROUP];
        for (at, groups) in opened[..readable].iter_mut().enumerate() {
            if let Err(error) = groups.redo_next(&mut values[..width]) {
                sealed.unread = Some((segment.rows.len() - at, error));
                readable = at;
                break;
            }
            for (slot, value) in values[..width].iter().enumerate() {
                columns[slot * stride + at] = *value;
            }
        }
        let mut stale_at = Vec::new();
        let mut stale = u64::MAX;
        let mut ever_stale = 0;
        for note in &notes[..readable] {
            let flips = note.flips.iter().filter(|(at, _)| *at == group).fold(0, |all, (_, flips)| all ^ flips);
            stale ^= flips;
            stale_at.push(stale);
            ever_stale |= stale;
        }
        for slot in 0..width {
            let column = &columns[slot * stride..slot * stride + readable];
            chunk.clear();
            let mut encoder = Encoder::default();
            let (mut min, mut max) = (i64::MAX, i64::MIN);
            let mut push = |at: i64, value: f64, chunk: &mut Vec<u8>| {
                (min, max) = (min.min(at), at);
                encoder.push(at, value, chunk);
            };
            if let Some(stamped) = stamps.get(&(base + slot)) {
                let said = stamped.iter().filter(|(row, _)| *row < readable).map(|(row, at)| (*at, column[*row]));
                let mut samples: Vec<(i64, f64)> = said.chain(markers(&stale_at, slot, &times)).collect();
                samples.sort_by_key(|(at, _)| *at);
                samples.dedup_by_key(|(at, _)| *at);
                samples.iter().for_each(|(at, value)| push(*at, *value, &mut chunk));
            } else if ever_stale >> slot & 1 == 0 {
                for (at, value) in times.iter().zip(column) {
                    push(*at, *value, &mut chunk);
                }
            } else {
                let ends_here = |row: usize| row + 1 == times.len() && segment.goes_on(base + slot);
                let mut was_stale = true;
                for (row, (at, value)) in times.iter().zip(column).enumerate() {
                    let stale = stale_at[row] >> slot & 1 == 1;
                    if !stale {
                        push(*at, *value, &mut chunk);
                    } else if !was_stale && !ends_here(row) {
                        push(*at, STALE_NAN, &mut chunk);
                    }
                    was_stale = stale;
                }
            }
            let samples = encoder.count();
            if samples > 0 {
                encoder.finish(0, &mut chunk);
                let start = sealed.entries.len();
                sealed.entries.extend_from_slice(&[0; 4]);
                put_varint(zigzag(min.wrapping_sub(sealed.first)), &mut sealed.entries);
                put_varint(zigzag(sealed.last.wrapping_sub(max)), &mut sealed.entries);
                sealed.entries.extend_from_slice(&chunk);
                let sum = crc32c::crc32c(&sealed.entries[start + 4..]);
                sealed.entries[start..start + 4].copy_from_slice(&sum.to_le_bytes());
                sealed.samples += u64::from(samples);
            }
            sealed.ends.push(u32::try_from(sealed.entries.len()).expect("a segment's chunks stay below 4 GiB"));
        }
    }
    sealed
}

/// The staleness markers of a slot.
fn markers<'a>(stale_at: &'a [u64], slot: usize, times: &'a [i64]) -> impl Iterator<Item = (i64, f64)> + 'a {
    let mut was_stale = true;
    times.iter().zip(stale_at).filter_map(move |(at, stale)| {
        let stale = stale >> slot & 1 == 1;
        let ends = stale && !was_stale;
        was_stale = stale;
        ends.then_some((*at, STALE_NAN))
    })
}

/// Samples with times of their own, by slot: row and time.
fn stamps(segment: &Segment, notes: &[row::Notes]) -> AHashMap<usize, Vec<(usize, i64)>> {
    let mut stamps: AHashMap<usize, Vec<(usize, i64)>> = AHashMap::new();
    for placed in segment.placed.iter().filter(|placed| placed.group.any_stamped()) {
        for slot in (0..placed.group.len()).filter(|slot| placed.group.is_stamped(*slot)) {
            stamps.insert(placed.base + slot, Vec::new());
        }
    }
    let mut last: AHashMap<usize, i64> = segment.carried.iter().map(|(slot, stamp)| (*slot as usize, *stamp)).collect();
    for (row, note) in notes.iter().enumerate() {
        for (slot, difference) in &note.stamped {
            let stamp = last.entry(*slot).or_insert(NO_STAMP);
            *stamp = stamp.wrapping_add(*difference);
            if let Some(of_slot) = stamps.get_mut(slot) {
                of_slot.push((row, *stamp));
            }
        }
    }
    stamps
}
