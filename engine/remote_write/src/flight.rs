//! Which batches are under way. A plain state machine: nothing here waits or sends.
//!
//! Invariants:
//!   * of a source there are samples of one row at a time: no sample overtakes an older one of its series
//!   * the cursor moves over a batch once that and all before it are done

use crate::cursor::Cursor;
use ahash::AHashMap;
use std::collections::VecDeque;

/// Samples on their way, packed.
#[derive(Debug)]
pub struct Batch {
    pub body: Vec<u8>,
    pub samples: usize,
    /// The newest timestamp.
    pub newest_ms: i64,
    /// Whose samples they are, each once, and of which row if it is one: a row has no series twice, so its parts may be
    /// under way together.
    pub sources: Vec<(u64, Option<i64>)>,
    /// Where everything before and in the batch ends.
    pub cursor: Cursor,
}

/// Batches behind one that is not taken, at most.
const BATCHES_MAX: usize = 1000;

/// What is under way.
#[derive(Debug, Default)]
pub struct Flight {
    /// In how many batches a source is, and of which row.
    busy: AHashMap<u64, (usize, Option<i64>)>,
    /// Oldest first: whether it is done, and where it ends.
    batches: VecDeque<(bool, Cursor)>,
    /// Number of the oldest.
    first: u64,
}

impl Flight {
    /// Whether a batch may go now.
    pub fn may_go(&self, batch: &Batch) -> bool {
        let goes_along = |(source, row): &(u64, Option<i64>)| {
            self.busy.get(source).is_none_or(|(_, busy)| row.is_some() && row == busy)
        };
        self.batches.len() < BATCHES_MAX && batch.sources.iter().all(goes_along)
    }

    /// It goes; gives its number.
    pub fn go(&mut self, batch: &Batch) -> u64 {
        for (source, row) in &batch.sources {
            self.busy.entry(*source).or_insert((0, *row)).0 += 1;
        }
        self.batches.push_back((false, batch.cursor.clone()));
        self.first + self.batches.len() as u64 - 1
    }

    /// It is done, whatever became of it; gives where everything that is done ends, if that has moved.
    pub fn done(&mut self, number: u64, batch: &Batch) -> Option<Cursor> {
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
        while self.batches.front().is_some_and(|(done, _)| *done) {
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
        Batch { body: Vec::new(), samples: 1, newest_ms: 0, sources: sources.to_vec(), cursor: Cursor::new(end) }
    }

    fn end(cursor: Option<Cursor>) -> Option<u32> {
        cursor.map(|cursor| cursor.boot)
    }

    #[test]
    fn cursor_moves_over_what_is_done_in_order() {
        let mut flight = Flight::default();
        let [one, two, three] = [(1, 1), (2, 3), (3, 4)].map(|(end, source)| batch(end, &[(source, Some(7))]));
        let numbers = [&one, &two, &three].map(|batch| flight.go(batch));
        assert_eq!(numbers, [0, 1, 2]);
        assert_eq!(end(flight.done(1, &two)), None);
        assert_eq!(end(flight.done(0, &one)), Some(2));
        let four = batch(4, &[(1, None)]);
        assert_eq!(flight.go(&four), 3);
        assert_eq!(end(flight.done(3, &four)), None);
        assert_eq!(end(flight.done(2, &three)), Some(4));
    }

    #[test]
    fn rows_of_a_source_follow_each_other() {
        let mut flight = Flight::default();
        let (first, second) = (batch(1, &[(1, Some(5)), (2, None)]), batch(2, &[(1, Some(5))]));
        let check = |flight: &Flight, source: u64, row, want| {
            assert_eq!(flight.may_go(&batch(9, &[(source, row)])), want, "{source} {row:?}");
        };
        let numbers = [flight.go(&first), flight.go(&second)];
        check(&flight, 1, Some(5), true);
        check(&flight, 1, Some(6), false);
        check(&flight, 1, None, false);
        check(&flight, 2, Some(5), false);
        check(&flight, 2, None, false);
        check(&flight, 3, None, true);
        flight.done(numbers[0], &first);
        check(&flight, 1, Some(6), false);
        check(&flight, 2, None, true);
        flight.done(numbers[1], &second);
        check(&flight, 1, Some(6), true);
    }
}
