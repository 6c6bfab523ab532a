//! The batches of an endpoint that are not answered yet. A plain state machine: nothing here waits or sends.
//!
//! Invariants:
//!   * of a source there are samples of one row, or of one window, in flight: no sample overtakes an older one of its series
//!   * the cursor moves over a batch once that and all before it are complete

use crate::cursor::SendCursor;
use crate::protocol::Format;
use ahash::{AHashMap, AHashSet};
use bytes::Bytes;
use remote::Counts;
use std::collections::VecDeque;
use std::ops::Range;

/// Which rows of a source are in a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rows {
    /// One, by its time: it has no series twice.
    One(i64),
    /// Those of a window, by its number: it has no series twice either, but several samples of it together.
    Window(u64),
    /// Others.
    Several,
}

impl Rows {
    /// Whether batches with these rows of a source have no series in common, so that they may be in flight together.
    fn may_go_with(self, other: Rows) -> bool {
        self == other && self != Rows::Several
    }
}

/// Samples to be sent together.
#[derive(Debug)]
pub struct Batch {
    /// The compressed request.
    pub body: Bytes,
    pub format: Format,
    pub counts: Counts,
    /// Timestamps of the oldest and the newest value.
    pub range_ms: (i64, i64),
    /// Whose samples they are, each once, and of which rows.
    pub sources: Vec<(u64, Rows)>,
    /// Where the values of a source begin, in the order of values; a source may have several places.
    pub runs: Vec<(u64, u64)>,
    /// Where everything before and in the batch ends.
    pub cursor: SendCursor,
}

impl Batch {
    /// Whether it may have several samples of a series.
    pub fn has_several_rows(&self) -> bool {
        self.sources.iter().any(|(_, rows)| !matches!(rows, Rows::One(_)))
    }

    /// Sources that have a value in one of these ranges.
    pub fn sources_in(&self, ranges: &[Range<u64>]) -> AHashSet<u64> {
        let ends = self.runs.iter().skip(1).map(|(first, _)| *first).chain([u64::MAX]);
        let runs = self.runs.iter().zip(ends);
        let is_in = |first: u64, end: u64| ranges.iter().any(|range| range.start < end && first < range.end);
        runs.filter(|((first, _), end)| is_in(*first, *end)).map(|((_, source), _)| *source).collect()
    }
}

/// Batches behind one that is not complete, at most.
const BATCHES_MAX: usize = 1000;

/// Which batches are in flight.
#[derive(Debug, Default)]
pub struct InFlight {
    /// In how many batches a source is, and with which rows.
    busy: AHashMap<u64, (usize, Rows)>,
    /// Sources of batches that are not complete whose own samples are.
    released: AHashMap<u64, Vec<u64>>,
    /// Oldest first: whether it is complete, and where it ends.
    batches: VecDeque<(bool, SendCursor)>,
    /// Number of the oldest.
    first: u64,
}

impl InFlight {
    /// Whether a batch may be sent now.
    pub fn may_start(&self, batch: &Batch) -> bool {
        let is_free =
            |(source, rows): &(u64, Rows)| self.busy.get(source).is_none_or(|(_, busy)| rows.may_go_with(*busy));
        self.batches.len() < BATCHES_MAX && batch.sources.iter().all(is_free)
    }

    /// Adds a batch and returns its number.
    pub fn start(&mut self, batch: &Batch) -> u64 {
        for (source, rows) in &batch.sources {
            self.busy.entry(*source).or_insert((0, *rows)).0 += 1;
        }
        self.batches.push_back((false, batch.cursor.clone()));
        self.first + self.batches.len() as u64 - 1
    }

    /// Notes that every sample that a batch has of these sources was acknowledged or lost: others need not wait for the rest of
    /// it. Each source of a batch is released once at most.
    pub fn release(&mut self, number: u64, sources: &[u64]) {
        let place = number.checked_sub(self.first).and_then(|place| usize::try_from(place).ok());
        if place.and_then(|place| self.batches.get(place)).is_none_or(|(is_complete, _)| *is_complete) {
            return;
        }
        sources.iter().for_each(|source| self.free(*source));
        self.released.entry(number).or_default().extend_from_slice(sources);
    }

    fn free(&mut self, source: u64) {
        if let Some((batches, _)) = self.busy.get_mut(&source) {
            *batches -= 1;
            if *batches == 0 {
                self.busy.remove(&source);
            }
        }
    }

    /// Notes that every sample of a batch was acknowledged or lost. Returns where everything complete ends, if that moved.
    pub fn complete(&mut self, number: u64, batch: &Batch) -> Option<SendCursor> {
        let released = self.released.remove(&number).unwrap_or_default();
        for (source, _) in batch.sources.iter().filter(|(source, _)| !released.contains(source)) {
            self.free(*source);
        }
        if let Some(batch) = self.batches.get_mut((number - self.first) as usize) {
            batch.0 = true;
        }
        let mut reached = None;
        while self.batches.front().is_some_and(|(is_complete, _)| *is_complete) {
            reached = self.batches.pop_front().map(|(_, cursor)| cursor);
            self.first += 1;
        }
        reached
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(end: u32, sources: &[(u64, Rows)]) -> Batch {
        let format = Format { message: remote::Message::V1, compression: crate::protocol::Compression::Snappy };
        let counts = Counts { samples: 1, ..Counts::default() };
        Batch {
            body: Bytes::new(),
            format,
            counts,
            range_ms: (0, 0),
            sources: sources.to_vec(),
            runs: sources.iter().enumerate().map(|(at, (source, _))| (at as u64 * 10, *source)).collect(),
            cursor: SendCursor::new(end),
        }
    }

    fn end(cursor: Option<SendCursor>) -> Option<u32> {
        cursor.map(|cursor| cursor.boot)
    }

    #[test]
    fn cursor_moves_over_what_is_complete_in_order() {
        let mut flight = InFlight::default();
        let [one, two, three] = [(1, 1), (2, 3), (3, 4)].map(|(end, source)| batch(end, &[(source, Rows::One(7))]));
        let numbers = [&one, &two, &three].map(|batch| flight.start(batch));
        assert_eq!(numbers, [0, 1, 2]);
        assert_eq!(end(flight.complete(1, &two)), None);
        assert_eq!(end(flight.complete(0, &one)), Some(2));
        let four = batch(4, &[(1, Rows::Several)]);
        assert_eq!(flight.start(&four), 3);
        assert_eq!(end(flight.complete(3, &four)), None);
        assert_eq!(end(flight.complete(2, &three)), Some(4));
    }

    #[test]
    fn rows_of_a_source_follow_each_other() {
        let mut flight = InFlight::default();
        let (first, second) = (batch(1, &[(1, Rows::One(5)), (2, Rows::Several)]), batch(2, &[(1, Rows::One(5))]));
        let check = |flight: &InFlight, source: u64, rows, want| {
            assert_eq!(flight.may_start(&batch(9, &[(source, rows)])), want, "{source} {rows:?}");
        };
        let numbers = [flight.start(&first), flight.start(&second)];
        check(&flight, 1, Rows::One(5), true);
        check(&flight, 1, Rows::One(6), false);
        check(&flight, 1, Rows::Several, false);
        check(&flight, 2, Rows::One(5), false);
        check(&flight, 2, Rows::Several, false);
        check(&flight, 3, Rows::Several, true);
        flight.complete(numbers[0], &first);
        check(&flight, 1, Rows::One(6), false);
        check(&flight, 2, Rows::Several, true);
        flight.complete(numbers[1], &second);
        check(&flight, 1, Rows::One(6), true);
    }

    fn random(seed: u64) -> impl FnMut(usize) -> usize {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        move |below| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) as usize % below
        }
    }

    /// Batches with samples of several sources start as soon as they may, and are complete in any order.
    #[test]
    fn no_row_overtakes_another_and_the_cursor_ends_a_complete_prefix() {
        for seed in 0..300 {
            let mut next = random(seed);
            let mut rows = [0i64; 4];
            let mut batches = Vec::new();
            for end in 1..=80 {
                let mut sources = Vec::new();
                for (source, row) in rows.iter_mut().enumerate() {
                    if next(2) == 0 {
                        // A batch begins with the row that the one before ended in, or with a new one; or it has several.
                        *row += next(2) as i64;
                        let has_several = next(6) == 0;
                        let rows = match (has_several, next(3)) {
                            (true, _) => Rows::Several,
                            (false, 0) => Rows::Window(*row as u64),
                            (false, _) => Rows::One(*row),
                        };
                        sources.push((source as u64, rows));
                        *row += i64::from(has_several);
                    }
                }
                batches.push(batch(end, &sources));
            }
            let (mut in_flight, mut started, mut complete) = (InFlight::default(), 0, 0);
            let mut open: Vec<(u64, usize)> = Vec::new();
            let (mut is_complete, mut cursor) = (vec![false; batches.len()], 0);
            while complete < batches.len() {
                if started < batches.len() && in_flight.may_start(&batches[started]) && next(3) > 0 {
                    for (source, row) in &batches[started].sources {
                        for (_, other) in &open {
                            let busy = batches[*other].sources.iter().find(|(busy, _)| busy == source);
                            assert!(busy.is_none_or(|(_, busy)| busy == row && *row != Rows::Several), "seed {seed}");
                        }
                    }
                    open.push((in_flight.start(&batches[started]), started));
                    started += 1;
                } else if !open.is_empty() {
                    let (number, which) = open.swap_remove(next(open.len()));
                    is_complete[which] = true;
                    complete += 1;
                    if let Some(reached) = in_flight.complete(number, &batches[which]) {
                        cursor = reached.boot as usize;
                    }
                    let prefix = is_complete.iter().take_while(|is_complete| **is_complete).count();
                    assert_eq!(cursor, prefix, "seed {seed}");
                }
                assert!(!open.is_empty() || complete == batches.len() || in_flight.may_start(&batches[started]));
            }
        }
    }

    #[test]
    fn sources_whose_samples_are_through_are_free_before_their_batch_is() {
        let mut flight = InFlight::default();
        let first = batch(1, &[(1, Rows::One(5)), (2, Rows::Several), (3, Rows::One(5))]);
        let number = flight.start(&first);
        // What is left are values of the second source, and of the third from its fifth on.
        let waiting = first.sources_in(&[12..14, 25..26]);
        assert_eq!(waiting, AHashSet::from_iter([2, 3]));
        flight.release(number, &[1]);
        let check = |flight: &InFlight, source: u64, want| {
            assert_eq!(flight.may_start(&batch(9, &[(source, Rows::One(6))])), want, "{source}");
        };
        [(1, true), (2, false), (3, false)].into_iter().for_each(|(source, want)| check(&flight, source, want));
        let next = batch(2, &[(1, Rows::One(6))]);
        let second = flight.start(&next);
        // The end of the first batch does not free it a second time.
        assert_eq!(end(flight.complete(number, &first)), Some(1));
        check(&flight, 1, true);
        assert!(!flight.may_start(&batch(9, &[(1, Rows::One(7))])));
        flight.release(number, &[1]);
        assert!(!flight.may_start(&batch(9, &[(1, Rows::One(7))])), "a batch that is complete releases nothing");
        assert_eq!(end(flight.complete(second, &next)), Some(2));
    }
}
