//! Which batches are under way. A plain state machine: nothing here waits or sends.
//!
//! Invariants:
//!   * a source is in one batch at a time, and its batches go in their order: no sample overtakes an older one of its series
//!   * the cursor moves over a batch once that and all before it are done

use crate::cursor::Cursor;
use ahash::AHashSet;
use std::collections::VecDeque;

/// Samples on their way, packed.
#[derive(Debug)]
pub struct Batch {
    pub body: Vec<u8>,
    pub samples: usize,
    /// The newest timestamp.
    pub newest_ms: i64,
    /// Whose samples they are; each once.
    pub sources: Vec<u64>,
    /// Where everything before and in the batch ends.
    pub cursor: Cursor,
}

/// What is under way.
#[derive(Debug, Default)]
pub struct Flight {
    busy: AHashSet<u64>,
    /// Oldest first: whether it is done, and where it ends.
    batches: VecDeque<(bool, Cursor)>,
    /// Number of the oldest.
    first: u64,
}

impl Flight {
    /// Whether a batch may go now.
    pub fn may_go(&self, batch: &Batch) -> bool {
        !batch.sources.iter().any(|source| self.busy.contains(source))
    }

    /// It goes; gives its number.
    pub fn go(&mut self, batch: &Batch) -> u64 {
        self.busy.extend(&batch.sources);
        self.batches.push_back((false, batch.cursor.clone()));
        self.first + self.batches.len() as u64 - 1
    }

    /// It is done, whatever became of it; gives where everything that is done ends, if that has moved.
    pub fn done(&mut self, number: u64, sources: &[u64]) -> Option<Cursor> {
        for source in sources {
            self.busy.remove(source);
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
    fn batch(end: u32, sources: &[u64]) -> Batch {
        Batch { body: Vec::new(), samples: 1, newest_ms: 0, sources: sources.to_vec(), cursor: Cursor::new(end) }
    }

    fn end(cursor: Option<Cursor>) -> Option<u32> {
        cursor.map(|cursor| cursor.boot)
    }

    #[test]
    fn cursor_moves_over_what_is_done_in_order() {
        let mut flight = Flight::default();
        let batches = [batch(1, &[1, 2]), batch(2, &[3]), batch(3, &[4])];
        let numbers: Vec<u64> = batches.iter().map(|batch| flight.go(batch)).collect();
        assert_eq!(numbers, [0, 1, 2]);
        assert_eq!(end(flight.done(1, &[3])), None);
        assert_eq!(end(flight.done(0, &[1, 2])), Some(2));
        assert_eq!(flight.go(&batch(4, &[1])), 3);
        assert_eq!(end(flight.done(3, &[1])), None);
        assert_eq!(end(flight.done(2, &[4])), Some(4));
    }

    #[test]
    fn a_source_is_in_one_batch_at_a_time() {
        let mut flight = Flight::default();
        let first = batch(1, &[1, 2]);
        let number = flight.go(&first);
        assert!(!flight.may_go(&batch(2, &[2, 3])));
        assert!(flight.may_go(&batch(2, &[3])));
        flight.done(number, &first.sources);
        assert!(flight.may_go(&batch(2, &[2, 3])));
    }
}
