//! The requests that a batch becomes: first one with all of it, then parts, where the receiver does not take it whole.
//! A plain state machine: nothing here waits or sends.
//!
//! An endpoint that is away answers no request at all, so its batches stay whole and are tried for as long as the log is
//! kept. One that takes other requests but never this one cannot digest something in it: the batch is halved until what is
//! bad is alone, and that is given up. Otherwise it would hold its series back for ever, and in the end the endpoint.
//!
//! Invariants:
//!   * a part is given up only if other requests were accepted between its attempts, or other parts of its batch before them
//!   * a batch makes at most [`PARTS_MAX`] parts without such evidence, and at most [`REFUSED_SPLITS_MAX`] splits
//!     because of samples that are refused

use crate::protocol::Format;
use bytes::Bytes;
use remote::Counts;
use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

/// Attempts of a part, between which others were accepted, before it is halved.
const STRIKES_BEFORE_SPLIT: u32 = 3;
/// Such attempts of a part of one value before it is given up, and how long it is tried at least.
const STRIKES_BEFORE_LOSS: u32 = 10;
const LOSS_AFTER: Duration = Duration::from_secs(30);
/// How long a value is tried that nothing follows, because it is of the only target, once other parts of its batch were
/// accepted.
const LOSS_ALONE_AFTER: Duration = Duration::from_mins(5);
/// Attempts before a part is halved without evidence: only then may a single target's batch show what in it is good.
const ATTEMPTS_BEFORE_SPLIT: u32 = 10;
/// Attempts at the first of parts in order before another one is tried.
const ATTEMPTS_IN_ORDER: u32 = 20;
/// BatchParts of a batch without evidence that it is to blame.
const PARTS_MAX: usize = 16;
/// Splits of a batch because some of its samples are refused: enough to find one bad value among 2,000 six times.
const REFUSED_SPLITS_MAX: u32 = 64;

/// A request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchPart {
    /// Compressed.
    pub body: Bytes,
    pub format: Format,
    pub counts: Counts,
    /// Timestamp of its oldest and its newest value.
    pub range_ms: (i64, i64),
    /// Which values of its batch it has, or more.
    pub values: Range<u64>,
    /// Attempts before this one.
    pub attempts: u32,
    /// Those of them that failed without the receiver asking for time.
    failures: u32,
    /// Those of them since the one before which others were accepted.
    strikes: u32,
    /// Accepted requests of the endpoint at the last failure.
    accepted_before: u64,
    /// How long it has been tried.
    tried_for: Duration,
}

impl BatchPart {
    /// A part with these values of its batch.
    pub fn new(body: Bytes, format: Format, counts: Counts, range_ms: (i64, i64), values: Range<u64>) -> BatchPart {
        let (attempts, failures, strikes, accepted_before, tried_for) = (0, 0, 0, u64::MAX, Duration::ZERO);
        BatchPart { body, format, counts, range_ms, values, attempts, failures, strikes, accepted_before, tried_for }
    }

    /// The values of its halves. Where values were left out since, nobody knows which, so both have all.
    pub fn halves(&self) -> [Range<u64>; 2] {
        let Range { start, end } = self.values;
        let middle = start + self.counts.total() / 2;
        if end - start == self.counts.total() { [start..middle, middle..end] } else { [start..end, start..end] }
    }
}

/// What is to be done with a part that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// It is back in the queue.
    Again,
    /// The caller halves it and puts the halves back with [`BatchParts::put_back`].
    Split(BatchPart),
    /// It is lost.
    Lost(BatchPart),
}

/// The parts of a batch that are left.
#[derive(Debug)]
pub struct BatchParts {
    queue: VecDeque<BatchPart>,
    /// Whether a series may be in several parts, so that they have to go in order.
    in_order: bool,
    /// Whether one was accepted.
    any_accepted: bool,
    refused_splits: u32,
}

impl BatchParts {
    pub fn new(whole: BatchPart, in_order: bool) -> BatchParts {
        BatchParts { queue: VecDeque::from([whole]), in_order, any_accepted: false, refused_splits: 0 }
    }

    /// The next one to send.
    pub fn next(&mut self) -> Option<BatchPart> {
        self.queue.pop_front()
    }

    /// Which values of the batch are left, or more.
    pub fn values_left(&self) -> Vec<Range<u64>> {
        self.queue.iter().map(|part| part.values.clone()).collect()
    }

    /// A part was accepted.
    pub fn accepted(&mut self) {
        self.any_accepted = true;
    }

    /// Puts the parts of a part where it was if order matters, and behind the others if not: then a search for bad values
    /// goes level by level, and a bound on it costs few good ones.
    pub fn put_back(&mut self, parts: impl DoubleEndedIterator<Item = BatchPart>) {
        match self.in_order {
            true => parts.rev().for_each(|part| self.queue.push_front(part)),
            false => self.queue.extend(parts),
        }
    }

    /// A part failed in a way that may pass. `accepted` counts the requests that the endpoint has accepted so far; there is
    /// none if the receiver asked for time, which says nothing against the part. `took` is the time of the attempt with the
    /// pause behind it.
    pub fn failed(&mut self, mut part: BatchPart, accepted: Option<u64>, took: Duration) -> Next {
        part.attempts += 1;
        if let Some(accepted) = accepted {
            part.failures += 1;
            part.tried_for += took;
            part.strikes += u32::from(accepted > part.accepted_before);
            part.accepted_before = accepted;
        }
        if part.counts.total() <= 1 {
            let is_overtaken = part.strikes >= STRIKES_BEFORE_LOSS && part.tried_for >= LOSS_AFTER;
            if is_overtaken || (self.any_accepted && part.tried_for >= LOSS_ALONE_AFTER) {
                return Next::Lost(part);
            }
        } else {
            let is_suspect = part.failures >= ATTEMPTS_BEFORE_SPLIT && self.queue.len() + 2 <= PARTS_MAX;
            if part.strikes >= STRIKES_BEFORE_SPLIT || is_suspect {
                return Next::Split(part);
            }
        }
        match self.in_order && part.failures < ATTEMPTS_IN_ORDER {
            true => self.queue.push_front(part),
            false => self.queue.push_back(part),
        }
        Next::Again
    }

    /// A part is too large, or is refused because of some of its values.
    pub fn refused(&mut self, part: BatchPart) -> Next {
        if part.counts.total() <= 1 || self.refused_splits == REFUSED_SPLITS_MAX {
            return Next::Lost(part);
        }
        self.refused_splits += 1;
        Next::Split(part)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(values: Range<u64>) -> BatchPart {
        let counts = Counts { samples: values.end - values.start, ..Counts::default() };
        // Which values they are is in the times.
        let format = Format { message: remote::Message::V1, compression: crate::protocol::Compression::Snappy };
        BatchPart::new(Bytes::new(), format, counts, (values.start as i64, values.end as i64), values)
    }

    fn halves(part: &BatchPart) -> [BatchPart; 2] {
        let (first, end) = (part.range_ms.0 as u64, part.range_ms.1 as u64);
        let middle = first + part.counts.total() / 2;
        [self::part(first..middle), self::part(middle..end)]
    }

    /// What becomes of a batch, if a request with one of `bad` fails and `is_away` tells when all do. Gives attempts, and the
    /// values that arrived and that were lost.
    fn run(size: u64, bad: &[u64], in_order: bool, is_away: impl Fn(u32) -> bool) -> (u32, Vec<u64>, Vec<u64>) {
        let mut parts = BatchParts::new(part(0..size), in_order);
        let (mut accepted, mut attempts, mut arrived, mut lost) = (0, 0, Vec::new(), Vec::new());
        let values = |part: &BatchPart| part.range_ms.0 as u64..part.range_ms.1 as u64;
        while let Some(part) = parts.next() {
            attempts += 1;
            assert!(attempts < 100_000, "it does not end");
            let is_bad = bad.iter().any(|bad| values(&part).contains(bad));
            if !is_bad && !is_away(attempts) {
                accepted += 1;
                parts.accepted();
                arrived.extend(values(&part));
                continue;
            }
            match parts.failed(part, Some(accepted), Duration::from_secs(5)) {
                Next::Again => {}
                Next::Split(part) => parts.put_back(halves(&part).into_iter()),
                Next::Lost(part) => lost.extend(values(&part)),
            }
        }
        arrived.sort_unstable();
        lost.sort_unstable();
        (attempts, arrived, lost)
    }

    #[test]
    fn an_endpoint_that_is_away_loses_nothing() {
        for in_order in [false, true] {
            for away in [1, 9, 50, 1000, 20_000] {
                let (attempts, arrived, lost) = run(2000, &[], in_order, |attempt| attempt <= away);
                assert_eq!((arrived.len(), lost.len()), (2000, 0));
                assert!(attempts <= away + PARTS_MAX as u32, "{attempts} for {away}");
            }
        }
    }

    #[test]
    fn only_what_is_bad_is_lost() {
        for in_order in [false, true] {
            for bad in [&[0][..], &[1999], &[777], &[5, 6, 1500], &[0, 999, 1000, 1999]] {
                // Nothing else is sent, as with a single target, so that the good parts are the only evidence.
                let (attempts, arrived, lost) = run(2000, bad, in_order, |_| false);
                assert_eq!((arrived.len(), lost), (2000 - bad.len(), bad.to_vec()), "{in_order}");
                assert!(attempts < 1200, "{attempts}");
            }
        }
    }

    /// Random batches with random bad values, and outages in between: what is good arrives once, what is bad is lost.
    #[test]
    fn good_values_arrive_through_outages() {
        for seed in 0..200u64 {
            let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
            let mut next = |below: u64| {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                (state >> 33) % below
            };
            let size = 1 + next(3000);
            // One value alone could not be told from an outage.
            let mut bad: Vec<u64> = (0..next(4).min(size / 2)).map(|_| next(size)).collect();
            bad.sort_unstable();
            bad.dedup();
            let outages: Vec<(u32, u32)> = (0..next(3)).map(|_| (next(300) as u32, 1 + next(40) as u32)).collect();
            let is_away = |attempt| outages.iter().any(|(from, length)| (*from..from + length).contains(&attempt));
            let (_, arrived, lost) = run(size, &bad, next(2) == 0, is_away);
            let good: Vec<u64> = (0..size).filter(|value| !bad.contains(value)).collect();
            assert_eq!((arrived, lost), (good, bad), "seed {seed}");
        }
    }

    /// A good part in an outage is no bad one, though others were accepted before it.
    #[test]
    fn an_outage_after_others_were_accepted_is_no_evidence() {
        let mut parts = BatchParts::new(part(0..1), false);
        for attempt in 0..1000 {
            let part = parts.next().unwrap();
            let accepted = if attempt < 5 { attempt } else { 5 };
            assert_eq!(parts.failed(part, Some(accepted), Duration::from_secs(5)), Next::Again);
        }
        // One that others overtake is lost in the end.
        let lost = (0..100).find(|more| {
            let part = parts.next().unwrap();
            parts.failed(part, Some(6 + more), Duration::from_secs(5)) != Next::Again
        });
        assert_eq!(lost, Some(4));
    }

    /// A receiver that throttles is no reason to halve anything.
    #[test]
    fn a_pause_that_the_receiver_asks_for_is_no_evidence() {
        let mut parts = BatchParts::new(part(0..2000), false);
        for _ in 0..1000 {
            let part = parts.next().unwrap();
            assert_eq!(parts.failed(part, None, Duration::from_secs(60)), Next::Again);
        }
        assert_eq!(parts.next().unwrap().attempts, 1000);
    }

    #[test]
    fn refused_values_are_searched_for_within_a_bound() {
        let run = |bad: &dyn Fn(u64) -> bool| {
            let mut parts = BatchParts::new(part(0..2000), false);
            let (mut requests, mut lost) = (0, 0);
            while let Some(part) = parts.next() {
                requests += 1;
                if !(part.range_ms.0 as u64..part.range_ms.1 as u64).any(bad) {
                    continue;
                }
                match parts.refused(part) {
                    Next::Split(part) => parts.put_back(halves(&part).into_iter()),
                    Next::Lost(part) => lost += part.counts.total(),
                    Next::Again => unreachable!(),
                }
            }
            (requests, lost)
        };
        let (requests, lost) = run(&|value| value == 1234);
        assert!(requests <= 23 && lost == 1, "{requests} {lost}");
        // The rows before a crash come first.
        let (requests, lost) = run(&|value| value < 700);
        assert!(requests <= 129 && lost < 732, "{requests} {lost}");
        let (requests, lost) = run(&|_| true);
        assert_eq!((requests, lost), (2 * REFUSED_SPLITS_MAX + 1, 2000));
    }
}
