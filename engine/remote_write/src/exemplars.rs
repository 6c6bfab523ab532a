//! Exemplars that wait for the samples of their series. A log has them before these, and a receiver gets both in one series:
//! 2.0 does not know a series without samples.
//!
//! Invariants:
//!   * each exemplar comes out once: with the next samples of its series, or without any after a while
//!   * a cursor stays before every exemplar that waits

use crate::cursor::{LogId, SendCursor};
use ahash::{AHashMap, RandomState};
use series::Labels;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tsdb::log::{LoggedExemplar, LoggedExemplars, TargetKey};
use tsdb::log_reader::BatchOffset;
use tsdb::{GroupBuilder, SlotGroup};

/// How long an exemplar waits.
const WAITS_FOR: Duration = Duration::from_secs(1);
/// Exemplars that wait at most: some megabytes.
const WAITING_MAX: usize = 20_000;

/// Exemplars of one series.
pub struct WaitingSeries {
    pub target: Arc<TargetKey>,
    /// Has the series in its only slot.
    pub group: Arc<SlotGroup>,
    pub exemplars: Vec<LoggedExemplar>,
}

#[derive(Default)]
pub struct WaitingExemplars {
    /// By source and labels.
    series: AHashMap<(u64, u64), Vec<WaitingSeries>>,
    count: usize,
    since: Option<Instant>,
    /// Of each log that some are from, where the first of them lies behind.
    borders: BTreeMap<LogId, BatchOffset>,
    hasher: RandomState,
}

impl WaitingExemplars {
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether they have to come out without samples.
    pub fn is_over(&self) -> bool {
        self.count >= WAITING_MAX || self.since.is_some_and(|since| since.elapsed() >= WAITS_FOR)
    }

    pub fn add(&mut self, log: LogId, logged: LoggedExemplars, border: BatchOffset) {
        let LoggedExemplars { source, labels, exemplars, .. } = logged;
        let target = Arc::new(TargetKey { id: source, labels });
        for exemplar in exemplars {
            let mut builder = GroupBuilder::default();
            builder.push(&exemplar.series, false);
            let group = Arc::new(builder.build());
            let of_hash = self.series.entry((source, group.slot_hash(0, &self.hasher))).or_default();
            self.count += 1;
            match of_hash.iter_mut().find(|one| is_series(one, &group, 0)) {
                Some(one) => one.exemplars.push(exemplar),
                None => of_hash.push(WaitingSeries { target: target.clone(), group, exemplars: vec![exemplar] }),
            }
            self.borders.entry(log).or_insert(border);
            self.since.get_or_insert_with(Instant::now);
        }
    }

    /// Those of a series.
    pub fn take(&mut self, source: u64, group: &SlotGroup, slot: usize) -> Vec<LoggedExemplar> {
        if self.is_empty() {
            return Vec::new();
        }
        let key = (source, group.slot_hash(slot, &self.hasher));
        let Some(of_hash) = self.series.get_mut(&key) else { return Vec::new() };
        let Some(at) = of_hash.iter().position(|one| is_series(one, group, slot)) else { return Vec::new() };
        let found = of_hash.swap_remove(at).exemplars;
        if of_hash.is_empty() {
            self.series.remove(&key);
        }
        self.count -= found.len();
        if self.is_empty() {
            self.take_all();
        }
        found
    }

    pub fn take_all(&mut self) -> Vec<WaitingSeries> {
        (self.count, self.since) = (0, None);
        self.borders.clear();
        std::mem::take(&mut self.series).into_values().flatten().collect()
    }

    /// Moves a cursor back so far that whoever begins there reads those that wait.
    pub fn hold_back(&self, cursor: &mut SendCursor) {
        for (log, border) in &self.borders {
            if let Some(position) = cursor.positions.get_mut(log) {
                position.border = position.border.min(*border);
                position.first = position.first.min(border.sequence);
            }
        }
    }
}

fn is_series(waiting: &WaitingSeries, group: &SlotGroup, slot: usize) -> bool {
    waiting.group.label_pairs(0).eq(group.label_pairs(slot))
}

/// As an exemplar of a request.
pub fn content(exemplar: &LoggedExemplar) -> remote::ExemplarContent<'_> {
    let LoggedExemplar { labels, value, timestamp, .. } = exemplar;
    let labels: &Labels = labels;
    remote::ExemplarContent { labels, value: *value, at: timestamp.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cursor::LogPosition;
    use series::Timestamp;

    fn exemplar(name: &str, value: f64) -> LoggedExemplar {
        let series = Labels::from_pairs([("__name__", name)]);
        LoggedExemplar { series, labels: Labels::empty(), value, timestamp: Timestamp(5) }
    }

    fn logged(source: u64, exemplars: Vec<LoggedExemplar>) -> LoggedExemplars {
        LoggedExemplars { source, labels: Labels::empty(), is_copy: false, exemplars }
    }

    #[test]
    fn exemplars_come_out_once_and_hold_the_cursor() {
        let mut waiting = WaitingExemplars::default();
        let (log, border) = ((1, 0), |offset| BatchOffset { sequence: 3, offset });
        let position = |offset| LogPosition { border: border(offset), first: 3 };
        let mut cursor = SendCursor::new(1);
        cursor.positions.insert(log, position(90));
        waiting.add(log, logged(7, vec![exemplar("a", 1.0), exemplar("b", 2.0), exemplar("a", 3.0)]), border(50));
        waiting.add(log, logged(8, vec![exemplar("a", 4.0)]), border(70));
        waiting.hold_back(&mut cursor);
        assert_eq!(cursor.positions[&log], position(50));
        let mut builder = GroupBuilder::default();
        ["x", "a", "b"].iter().for_each(|name| builder.push(&exemplar(name, 0.0).series, false));
        let group = builder.build();
        let mut take =
            |source, slot| waiting.take(source, &group, slot).iter().map(|exemplar| exemplar.value).collect::<Vec<_>>();
        assert_eq!(take(7, 0), Vec::<f64>::new());
        assert_eq!(take(7, 1), [1.0, 3.0]);
        assert_eq!(take(7, 1), Vec::<f64>::new());
        assert_eq!(take(8, 1), [4.0]);
        let left = waiting.take_all();
        assert_eq!(left.iter().map(|one| one.exemplars.len()).collect::<Vec<_>>(), [1]);
        assert!(waiting.is_empty() && !waiting.is_over());
        cursor.positions.insert(log, position(90));
        waiting.hold_back(&mut cursor);
        assert_eq!(cursor.positions[&log], position(90));
    }
}
