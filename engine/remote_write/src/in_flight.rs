//! The batches of an endpoint that are not answered yet. A plain state machine: nothing here waits or sends.
//!
//! Invariants:
//!   * of a source there are samples of one row in flight: no sample overtakes an older one of its series
//!   * the cursor moves over a batch once that and all before it are complete

use crate::cursor::SendCursor;
use crate::protocol::Format;
use ahash::AHashMap;
use bytes::Bytes;
use remote::Counts;
use std::collections::VecDeque;

/// Samples to be sent together.
#[derive(Debug)]
pub struct Batch {
    /// The compressed request.
    pub body: Bytes,
    pub format: Format,
    pub counts: Counts,
    /// Timestamps of the oldest and the newest value.
    pub range_ms: (i64, i64),
    /// Whose samples they are, each once, and of which row if it is one: a row has no series twice, so its parts may be in
    /// flight together.
    pub sources: Vec<(u64, Option<i64>)>,
    /// Where everything before and in the batch ends.
    pub cursor: SendCursor,
}

impl Batch {
    /// Whether a series may be in it twice.
    pub fn has_several_rows(&self) -> bool {
        self.sources.iter().any(|(_, row)| row.is_none())
    }
}

/// Batches behind one that is not complete, at most.
const BATCHES_MAX: usize = 1000;

/// Which batches are in flight.
#[derive(Debug, Default)]
pub struct InFlight {
    /// In how many batches a source is, and of which row.
    busy: AHashMap<u64, (usize, Option<i64>)>,
    /// Oldest first: whether it is complete, and where it ends.
    batches: VecDeque<(bool, SendCursor)>,
    /// Number of the oldest.
    first: u64,
}

impl InFlight {
    /// Whether a batch may be sent now.
    pub fn may_start(&self, batch: &Batch) -> bool {
        let is_free = |(source, row): &(u64, Option<i64>)| {
            self.busy.get(source).is_none_or(|(_, busy)| row.is_some() && row == busy)
        };
        self.batches.len() < BATCHES_MAX && batch.sources.iter().all(is_free)
    }

    /// Adds a batch and returns its number.
    pub fn start(&mut self, batch: &Batch) -> u64 {
        for (source, row) in &batch.sources {
            self.busy.entry(*source).or_insert((0, *row)).0 += 1;
        }
        self.batches.push_back((false, batch.cursor.clone()));
        self.first + self.batches.len() as u64 - 1
    }

    /// Notes that every sample of a batch was acknowledged or lost. Returns where everything complete ends, if that moved.
    pub fn complete(&mut self, number: u64, batch: &Batch) -> Option<SendCursor> {
        for (source, _) in &batch.sources {
            if let Some((batches, _)) = self.busy.get_mut(source) {
                *batches -= 1;
                if *batches == 0 {
                    self.busy.remove(source);
                }
            }
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

    fn batch(end: u32, sources: &[(u64, Option<i64>)]) -> Batch {
        let format = Format { message: remote::Message::V1, compression: crate::protocol::Compression::Snappy };
        let counts = Counts { samples: 1, ..Counts::default() };
        Batch {
            body: Bytes::new(),
            format,
            counts,
            range_ms: (0, 0),
            sources: sources.to_vec(),
            cursor: SendCursor::new(end),
        }
    }

    fn end(cursor: Option<SendCursor>) -> Option<u32> {
        cursor.map(|cursor| cursor.boot)
    }

    #[test]
    fn cursor_moves_over_what_is_complete_in_order() {
        let mut flight = InFlight::default();
        let [one, two, three] = [(1, 1), (2, 3), (3, 4)].map(|(end, source)| batch(end, &[(source, Some(7))]));
        let numbers = [&one, &two, &three].map(|batch| flight.start(batch));
        assert_eq!(numbers, [0, 1, 2]);
        assert_eq!(end(flight.complete(1, &two)), None);
        assert_eq!(end(flight.complete(0, &one)), Some(2));
        let four = batch(4, &[(1, None)]);
        assert_eq!(flight.start(&four), 3);
        assert_eq!(end(flight.complete(3, &four)), None);
        assert_eq!(end(flight.complete(2, &three)), Some(4));
    }

    #[test]
    fn rows_of_a_source_follow_each_other() {
        let mut flight = InFlight::default();
        let (first, second) = (batch(1, &[(1, Some(5)), (2, None)]), batch(2, &[(1, Some(5))]));
        let check = |flight: &InFlight, source: u64, row, want| {
            assert_eq!(flight.may_start(&batch(9, &[(source, row)])), want, "{source} {row:?}");
        };
        let numbers = [flight.start(&first), flight.start(&second)];
        check(&flight, 1, Some(5), true);
        check(&flight, 1, Some(6), false);
        check(&flight, 1, None, false);
        check(&flight, 2, Some(5), false);
        check(&flight, 2, None, false);
        check(&flight, 3, None, true);
        flight.complete(numbers[0], &first);
        check(&flight, 1, Some(6), false);
        check(&flight, 2, None, true);
        flight.complete(numbers[1], &second);
        check(&flight, 1, Some(6), true);
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
                        sources.push((source as u64, (!has_several).then_some(*row)));
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
                            assert!(busy.is_none_or(|(_, busy)| busy == row && row.is_some()), "seed {seed}");
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
}
