//! From the rows of a closed segment to XOR chunks, one per slot.
//!
//! Invariant: 64 slots at a time are turned from rows into steps, the samples at which a value becomes another, so the
//! working set stays in the nearest caches, and what is kept beside rows and chunks is a cursor for each row and at most
//! one time for each slot. A slot that does not change costs next to nothing.

use crate::bytes::{put_varint, zigzag};
use crate::encoded::{EncodedPart, EncodedSegment, Parts, TIMES_OF_ITS_OWN, TIMES_OF_SEGMENT, range_of};
use crate::head::{NO_STAMP, Segment};
use crate::row::{self, GROUP, Groups, RowError, Stamps};
use crate::starts::StartCursor;
use blocks::xor::{Encoder, Times, XOR, encode_steps};
use blocks::xor2::{self, XOR2};
use series::order::Timed;
use series::{NO_START, STALE_NAN};
use std::iter::Peekable;
use std::ops::Range;
use std::vec::IntoIter;

/// One row under the cursors that go over it, 64 slots at a time.
struct RowCursor<'a> {
    groups: Groups<'a>,
    flips: Peekable<IntoIter<(usize, u64)>>,
    stamps: Stamps<'a>,
    /// What the next slots with their own times are, as far as they were read.
    run: Option<(Range<usize>, i64)>,
}

impl<'a> RowCursor<'a> {
    fn open(row: &'a [u8]) -> Result<RowCursor<'a>, RowError> {
        let (groups, notes) = row::open(row)?;
        Ok(RowCursor { groups, flips: notes.flips.into_iter().peekable(), stamps: notes.stamps, run: None })
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

/// Puts a segment's rows into chunks, by ranges of `range_ms`. Rows that do not decode end it early.
pub fn encode_segment(segment: &Segment, range_ms: i64) -> EncodedSegment {
    let count = segment.slots();
    let mut unread = None;
    let mut cursors = Vec::with_capacity(segment.rows.len());
    let times: Vec<i64> = segment.rows.iter().map(|row| row.at.0).collect();
    let mut parts = Parts::new(range_ms);
    let starts = segment.starts.by_slot();
    let mut stamps = StampReader::new(segment);
    for row in &segment.rows {
        match stamps.read(&row.bytes, &mut parts).and_then(|()| RowCursor::open(&row.bytes)) {
            Ok(cursor) => cursors.push(cursor),
            Err(error) => {
                unread = Some((segment.rows.len() - cursors.len(), error));
                break;
            }
        }
    }
    times.iter().for_each(|at| parts.note(*at));
    let is_stamped = |slot: usize| stamps.any() && segment.is_stamped(slot);
    let mut readable = cursors.len();
    let mut even = Times::new(&times[..readable]);
    // What all rows of an unstamped slot go to, if it is one part.
    let part_of_rows = parts.parts.iter().position(|part| {
        let is_in = |at: &i64| range_of(*at, range_ms) == part.range;
        times.first().is_some_and(is_in) && times.last().is_some_and(is_in)
    });
    let mut steps: Vec<Vec<(u32, f64)>> = vec![Vec::new(); GROUP];
    let mut column: Vec<f64> = Vec::new();
    let mut stamped: Vec<Vec<(usize, i64)>> = vec![Vec::new(); GROUP];
    let mut carried = segment.carried.iter().peekable();
    let mut samples: Vec<StartedSample> = Vec::new();
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
        for (at, cursor) in cursors[..readable].iter_mut().enumerate() {
            let moved = cursor.stamps_before(base + width, |slot, difference| {
                let stamp = &mut last[slot - base];
                *stamp = stamp.wrapping_add(difference);
                stamped[slot - base].push((at, *stamp));
            });
            let changed = |slot: usize, value| steps[slot].push((at as u32, value));
            if let Err(error) = moved.and_then(|()| cursor.groups.redo_next(&mut values[..width], changed)) {
                unread = Some((segment.rows.len() - at, error));
                readable = at;
                even = Times::new(&times[..readable]);
                break;
            }
            stale ^= cursor.flips_of(group);
            stale_at.push(stale);
            ever_stale |= stale;
        }
        for slot in 0..width {
            let count = steps[slot].partition_point(|(row, _)| (*row as usize) < readable);
            let steps = &steps[slot][..count];
            let is_stamped = is_stamped(base + slot);
            let of_slot = starts.get(&((base + slot) as u32));
            if let (false, 0, Some(place), None) = (is_stamped, ever_stale >> slot & 1, part_of_rows, of_slot) {
                chunk.clear();
                encode_steps(&even, steps, &mut chunk);
                let (min, max) = (times.first().copied().unwrap_or(0), times[..readable].last().copied().unwrap_or(0));
                for (at, part) in parts.parts.iter_mut().enumerate() {
                    let count = if at == place { readable as u64 } else { 0 };
                    part.add(min, max, count, XOR, &chunk);
                }
                continue;
            }
            expand(steps, readable, &mut column);
            samples.clear();
            let mut starts = StartCursor::new(of_slot.map_or(&[], Vec::as_slice));
            if is_stamped {
                let of_rows = stamped[slot].iter().filter(|(row, _)| *row < readable);
                let started =
                    |(row, at): &(usize, i64)| StartedSample { at: *at, value: column[*row], start: starts.at(*row) };
                samples.extend(of_rows.map(started));
                samples.extend(markers(&stale_at, slot, &times).map(|at| StartedSample::marker(at, NO_START)));
                series::order::dedupe(&mut samples);
            } else {
                let ends_here = |row: usize| row + 1 == times.len() && segment.goes_on(base + slot);
                let mut was_stale = true;
                for (row, (at, value)) in times.iter().zip(&column).enumerate() {
                    let stale = stale_at[row] >> slot & 1 == 1;
                    let start = starts.at(row);
                    if !stale {
                        samples.push(StartedSample { at: *at, value: *value, start });
                    } else if !was_stale && !ends_here(row) {
                        samples.push(StartedSample::marker(*at, start));
                    }
                    was_stale = stale;
                }
            }
            let mut rest = &samples[..];
            for part in &mut parts.parts {
                let (of_part, later) =
                    rest.split_at(rest.partition_point(|sample| sample.at.saturating_sub(part.range) < range_ms));
                rest = later;
                part.add_samples(of_part, &mut chunk);
            }
        }
    }
    EncodedSegment { parts: parts.finish(), unread }
}

/// A sample on its way into a chunk.
#[derive(Clone, Copy, Debug)]
struct StartedSample {
    at: i64,
    value: f64,
    start: i64,
}

impl StartedSample {
    fn marker(at: i64, start: i64) -> StartedSample {
        StartedSample { at, value: STALE_NAN, start }
    }
}

impl Timed for StartedSample {
    fn time_ms(&self) -> i64 {
        self.at
    }

    fn is_stale(&self) -> bool {
        series::is_stale(self.value)
    }
}

impl EncodedPart {
    /// Adds the next slot's samples, if there are any.
    fn add_samples(&mut self, samples: &[StartedSample], chunk: &mut Vec<u8>) {
        chunk.clear();
        let has_starts = samples.iter().any(|sample| sample.start != NO_START);
        if has_starts {
            let mut encoder = xor2::Encoder::default();
            samples.iter().for_each(|one| encoder.push(one.start, one.at, one.value, chunk));
            encoder.finish(0, chunk);
        } else {
            let mut encoder = Encoder::default();
            samples.iter().for_each(|one| encoder.push(one.at, one.value, chunk));
            encoder.finish(0, chunk);
        }
        let (min, max) = (samples.first().map_or(0, |first| first.at), samples.last().map_or(0, |last| last.at));
        let encoding = if has_starts { XOR2 } else { XOR };
        self.add(min, max, samples.len() as u64, encoding, chunk);
    }

    /// Adds the next slot's chunk, if it has samples.
    fn add(&mut self, min: i64, max: i64, samples: u64, encoding: u8, chunk: &[u8]) {
        if samples > 0 {
            if (min, max) == (self.first, self.last) {
                self.entries.push(TIMES_OF_SEGMENT);
            } else {
                self.entries.push(TIMES_OF_ITS_OWN);
                let start = self.entries.len();
                put_varint(zigzag(min.wrapping_sub(self.first)), &mut self.entries);
                put_varint(zigzag(self.last.wrapping_sub(max)), &mut self.entries);
                let sum = crc32c::crc32c(&self.entries[start..]);
                self.entries.extend_from_slice(&sum.to_le_bytes());
            }
            blocks::put_chunk_frame(encoding, chunk, &mut self.entries);
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
fn markers<'a>(stale_at: &'a [u64], slot: usize, times: &'a [i64]) -> impl Iterator<Item = i64> + 'a {
    let mut was_stale = true;
    times.iter().zip(stale_at).filter_map(move |(at, stale)| {
        let stale = stale >> slot & 1 == 1;
        let ends = stale && !was_stale;
        was_stale = stale;
        ends.then_some(*at)
    })
}

/// Reads the times of samples with times of their own, row by row.
struct StampReader {
    /// The last time of each slot; empty where no slot is stamped.
    stamps: Vec<i64>,
}

impl StampReader {
    fn new(segment: &Segment) -> StampReader {
        let any = segment.placed.iter().any(|placed| placed.group.any_stamped());
        let mut stamps = vec![NO_STAMP; if any { segment.slots() } else { 0 }];
        for (slot, carried) in &segment.carried {
            if let Some(stamp) = stamps.get_mut(*slot as usize) {
                *stamp = *carried;
            }
        }
        StampReader { stamps }
    }

    fn any(&self) -> bool {
        !self.stamps.is_empty()
    }

    /// Notes the times of a row's samples in the parts.
    fn read(&mut self, row: &[u8], parts: &mut Parts) -> Result<(), RowError> {
        if !self.any() {
            return Ok(());
        }
        let mut moved = row::stamps(row)?;
        while let Some((run, difference)) = moved.next_run()? {
            for stamp in self.stamps.get_mut(run).ok_or(RowError("a slot does not exist"))? {
                *stamp = stamp.wrapping_add(difference);
                parts.note(*stamp);
            }
        }
        Ok(())
    }
}
