//! From the rows of a closed segment to XOR chunks, one per slot.
//!
//! Invariant: 64 slots at a time are turned from rows into steps, the samples at which a value becomes another, so the
//! working set stays in the nearest caches, and what is kept beside rows and chunks is a cursor for each row and at most
//! one time for each slot. A slot that does not change costs next to nothing.

use crate::bytes::{put_varint, zigzag};
use crate::head::{NO_STAMP, Segment};
use crate::row::{self, GROUP, Groups, RowError, Stamps};
use blocks::xor::{Encoder, Times, encode_steps};
use series::STALE_NAN;
use std::iter::Peekable;
use std::ops::Range;
use std::vec::IntoIter;

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

/// One row under the cursors that go over it, 64 slots at a time.
struct Track<'a> {
    groups: Groups<'a>,
    flips: Peekable<IntoIter<(usize, u64)>>,
    stamps: Stamps<'a>,
    /// What the next slots with their own times are, as far as they were read.
    run: Option<(Range<usize>, i64)>,
}

impl<'a> Track<'a> {
    fn open(row: &'a [u8]) -> Result<Track<'a>, RowError> {
        let (groups, notes) = row::open(row)?;
        Ok(Track { groups, flips: notes.flips.into_iter().peekable(), stamps: notes.stamps, run: None })
    }

    /// The flips of a group; those before it are over.
    fn flips_of(&mut self, group: usize) -> u64 {
        let mut all = 0;
        while let Some((at, flips)) = self.flips.next_if(|(at, _)| *at <= group) {
            all ^= if at == group { flips } else { 0 };
        }
        all
    }

    /// Tells of each slot before `end` that has a sample of its own time, and how far its time moves on.
    fn stamps_before(&mut self, end: usize, mut told: impl FnMut(usize, i64)) -> Result<(), RowError> {
        loop {
            let Some((run, difference)) = &mut self.run else {
                self.run = self.stamps.next_run()?;
                if self.run.is_none() {
                    return Ok(());
                }
                continue;
            };
            for slot in run.start..run.end.min(end) {
                told(slot, *difference);
            }
            run.start = run.start.max(run.end.min(end));
            if run.start < run.end {
                return Ok(());
            }
            self.run = None;
        }
    }
}

/// Puts a segment's rows into chunks. Rows that do not decode end it early.
pub fn seal(segment: &Segment) -> Sealed {
    let count = segment.slots();
    let mut sealed = Sealed::default();
    let mut tracks = Vec::with_capacity(segment.rows.len());
    let times: Vec<i64> = segment.rows.iter().map(|row| row.at.0).collect();
    sealed.first = times.first().copied().unwrap_or(0);
    sealed.last = times.last().copied().unwrap_or(0);
    let mut bounds = StampBounds::new(segment);
    for row in &segment.rows {
        match bounds.take(&row.bytes).and_then(|()| Track::open(&row.bytes)) {
            Ok(track) => tracks.push(track),
            Err(error) => {
                sealed.unread = Some((segment.rows.len() - tracks.len(), error));
                break;
            }
        }
    }
    (sealed.first, sealed.last) = (sealed.first.min(bounds.first), sealed.last.max(bounds.last));
    let mut readable = tracks.len();
    let mut even = Times::new(&times[..readable]);
    let mut steps: Vec<Vec<(u32, f64)>> = vec![Vec::new(); GROUP];
    let mut column: Vec<f64> = Vec::new();
    let mut stamped: Vec<Vec<(usize, i64)>> = vec![Vec::new(); GROUP];
    let mut carried = segment.carried.iter().peekable();
    let mut samples: Vec<(i64, f64)> = Vec::new();
    let mut stale_at = Vec::new();
    let mut chunk = Vec::new();
    for (group, base) in (0..count).step_by(GROUP).enumerate() {
        let width = GROUP.min(count - base);
        let mut values = [0.0f64; GROUP];
        let mut last = [NO_STAMP; GROUP];
        while let Some((slot, stamp)) = carried.next_if(|(slot, _)| (*slot as usize) < base + width) {
            if let Some(last) = (*slot as usize).checked_sub(base).and_then(|slot| last.get_mut(slot)) {
                *last = *stamp;
            }
        }
        stamped.iter_mut().for_each(Vec::clear);
        steps.iter_mut().for_each(Vec::clear);
        stale_at.clear();
        let (mut stale, mut ever_stale) = (u64::MAX, 0);
        for (at, track) in tracks[..readable].iter_mut().enumerate() {
            let moved = track.stamps_before(base + width, |slot, difference| {
                let stamp = &mut last[slot - base];
                *stamp = stamp.wrapping_add(difference);
                stamped[slot - base].push((at, *stamp));
            });
            let changed = |slot: usize, value| steps[slot].push((at as u32, value));
            if let Err(error) = moved.and_then(|()| track.groups.redo_next(&mut values[..width], changed)) {
                sealed.unread = Some((segment.rows.len() - at, error));
                readable = at;
                even = Times::new(&times[..readable]);
                break;
            }
            stale ^= track.flips_of(group);
            stale_at.push(stale);
            ever_stale |= stale;
        }
        for slot in 0..width {
            let said = steps[slot].partition_point(|(row, _)| (*row as usize) < readable);
            let steps = &steps[slot][..said];
            chunk.clear();
            let is_stamped = bounds.any() && segment.is_stamped(base + slot);
            if !is_stamped && ever_stale >> slot & 1 == 0 {
                encode_steps(&even, steps, &mut chunk);
                let (min, max) = (times.first().copied().unwrap_or(0), times[..readable].last().copied().unwrap_or(0));
                sealed.add(min, max, readable as u64, &chunk);
                continue;
            }
            expand(steps, readable, &mut column);
            let mut encoder = Encoder::default();
            let (mut min, mut max) = (i64::MAX, i64::MIN);
            let mut push = |at: i64, value: f64, chunk: &mut Vec<u8>| {
                (min, max) = (min.min(at), at);
                encoder.push(at, value, chunk);
            };
            if is_stamped {
                let said = stamped[slot].iter().filter(|(row, _)| *row < readable);
                samples.clear();
                samples.extend(said.map(|(row, at)| (*at, column[*row])));
                samples.extend(markers(&stale_at, slot, &times));
                series::order::dedupe(&mut samples);
                samples.iter().for_each(|(at, value)| push(*at, *value, &mut chunk));
            } else {
                let ends_here = |row: usize| row + 1 == times.len() && segment.goes_on(base + slot);
                let mut was_stale = true;
                for (row, (at, value)) in times.iter().zip(&column).enumerate() {
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
            encoder.finish(0, &mut chunk);
            sealed.add(min, max, u64::from(samples), &chunk);
        }
    }
    sealed
}

impl Sealed {
    /// Adds the next slot's chunk, if it has samples.
    fn add(&mut self, min: i64, max: i64, samples: u64, chunk: &[u8]) {
        if samples > 0 {
            let start = self.entries.len();
            self.entries.extend_from_slice(&[0; 4]);
            put_varint(zigzag(min.wrapping_sub(self.first)), &mut self.entries);
            put_varint(zigzag(self.last.wrapping_sub(max)), &mut self.entries);
            self.entries.extend_from_slice(chunk);
            let sum = crc32c::crc32c(&self.entries[start + 4..]);
            self.entries[start..start + 4].copy_from_slice(&sum.to_le_bytes());
            self.samples += samples;
        }
        self.ends.push(u32::try_from(self.entries.len()).expect("a segment's chunks stay below 4 GiB"));
    }
}

/// A value for each of so many rows.
fn expand(steps: &[(u32, f64)], rows: usize, column: &mut Vec<f64>) {
    column.clear();
    let mut value = 0.0;
    for (row, step) in steps {
        column.resize(*row as usize, value);
        value = *step;
    }
    column.resize(rows, value);
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

/// The earliest and the latest of samples with times of their own, found before anything is written: every entry tells
/// its distance from them.
struct StampBounds {
    /// The last time of each slot; empty where no slot is stamped.
    stamps: Vec<i64>,
    first: i64,
    last: i64,
}

impl StampBounds {
    fn new(segment: &Segment) -> StampBounds {
        let any = segment.placed.iter().any(|placed| placed.group.any_stamped());
        let mut stamps = vec![NO_STAMP; if any { segment.slots() } else { 0 }];
        for (slot, carried) in &segment.carried {
            if let Some(stamp) = stamps.get_mut(*slot as usize) {
                *stamp = *carried;
            }
        }
        StampBounds { stamps, first: i64::MAX, last: i64::MIN }
    }

    fn any(&self) -> bool {
        !self.stamps.is_empty()
    }

    fn take(&mut self, row: &[u8]) -> Result<(), RowError> {
        if !self.any() {
            return Ok(());
        }
        let mut moved = row::stamps(row)?;
        while let Some((run, difference)) = moved.next_run()? {
            for stamp in self.stamps.get_mut(run).ok_or(RowError("a slot does not exist"))? {
                *stamp = stamp.wrapping_add(difference);
                (self.first, self.last) = (self.first.min(*stamp), self.last.max(*stamp));
            }
        }
        Ok(())
    }
}
