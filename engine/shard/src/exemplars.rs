//! Exemplars of one shard: the newest that came, of all its series together.
//!
//! Only control code passes here: an exemplar whose text is that of the scrape before never comes this far.
//!
//! Invariants:
//!   * at most `max` exemplars; the oldest that came makes way, whoever's it is
//!   * exemplars of a series follow each other in time: what is older than its newest is refused and counted

use ahash::AHashMap;
use exposition::Exemplar;
use series::{Labels, Matcher, Timestamp};
use std::collections::VecDeque;

/// Most characters of all names and values of an exemplar's labels, as OpenMetrics says.
const LABEL_CHARS_MAX: usize = 128;

/// Exemplars with times in `[from, to]` of series that satisfy one of `selectors`, each a list of matchers that must all
/// hold.
#[derive(Clone, Debug)]
pub struct ExemplarsRequest {
    pub selectors: Vec<Vec<Matcher>>,
    pub from: Timestamp,
    pub to: Timestamp,
}

/// An exemplar that is stored.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredExemplar {
    pub labels: Labels,
    pub value: f64,
    pub timestamp: Timestamp,
}

struct Entry {
    series: Labels,
    exemplar: StoredExemplar,
}

/// The newest exemplar of a series, and how many of them are in the ring.
struct Newest {
    count: usize,
    exemplar: StoredExemplar,
    has_time: bool,
}

/// Counters and gauges of a shard's exemplars.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExemplarStats {
    pub max: u64,
    pub appended: u64,
    pub out_of_order: u64,
    pub stored: u64,
    pub series: u64,
    /// Of the oldest that is stored.
    pub oldest: Option<Timestamp>,
}

/// The ring of a shard.
#[derive(Default)]
pub(crate) struct ExemplarRing {
    max: usize,
    entries: VecDeque<Entry>,
    newest: AHashMap<Labels, Newest>,
    appended: u64,
    out_of_order: u64,
}

impl ExemplarRing {
    /// Whether exemplars are stored at all.
    pub fn is_on(&self) -> bool {
        self.max > 0
    }

    /// Sets how many are stored; the newest stay.
    pub fn resize(&mut self, max: usize) {
        self.max = max;
        while self.entries.len() > max {
            self.drop_oldest();
        }
        if self.entries.capacity() > max.saturating_mul(2) {
            self.entries.shrink_to_fit();
        }
    }

    /// Adds the exemplar of a sample of `series` at `at`, unless it is the one that the series had last. False if it is
    /// rejected.
    pub fn append(&mut self, series: Labels, exemplar: Exemplar, at: Timestamp) -> bool {
        let chars = |text: &str| text.chars().count();
        let all: usize = exemplar.labels.iter().map(|(name, value)| chars(name) + chars(value)).sum();
        if !self.is_on() || all > LABEL_CHARS_MAX {
            return false;
        }
        let has_time = exemplar.timestamp.is_some();
        let new = StoredExemplar {
            labels: Labels::from_sorted(exemplar.labels.iter().filter(|(_, value)| !value.is_empty())),
            value: exemplar.value,
            timestamp: exemplar.timestamp.map_or(at, Timestamp),
        };
        if let Some(newest) = self.newest.get(&series) {
            let old = &newest.exemplar;
            let is_same_time = old.timestamp == new.timestamp || !has_time && !newest.has_time;
            if is_same_time && old.value == new.value && old.labels == new.labels {
                return true;
            }
            let order = new.timestamp.cmp(&old.timestamp);
            let order = order.then(new.value.total_cmp(&old.value));
            if order.then_with(|| new.labels.cmp(&old.labels)).is_lt() {
                self.out_of_order += 1;
                return false;
            }
        }
        if self.entries.len() == self.max {
            self.drop_oldest();
        }
        match self.newest.get_mut(&series) {
            Some(newest) => *newest = Newest { count: newest.count + 1, exemplar: new.clone(), has_time },
            None => {
                self.newest.insert(series.clone(), Newest { count: 1, exemplar: new.clone(), has_time });
            }
        }
        self.entries.push_back(Entry { series, exemplar: new });
        self.appended += 1;
        true
    }

    fn drop_oldest(&mut self) {
        let Some(entry) = self.entries.pop_front() else { return };
        if let Some(newest) = self.newest.get_mut(&entry.series) {
            newest.count -= 1;
            if newest.count == 0 {
                self.newest.remove(&entry.series);
            }
        }
    }

    /// Exemplars of matching series, in the order in which they came. Returns where to go on, if there are more: it looks at a bounded number
    /// of them at a time, and the ring may move meanwhile.
    pub fn select(
        &self,
        request: &ExemplarsRequest,
        from: usize,
        found: &mut Vec<(Labels, StoredExemplar)>,
    ) -> Option<usize> {
        let (start, end) = (request.from, request.to);
        let until = (from + ENTRIES_PER_STEP).min(self.entries.len());
        for entry in self.entries.range(from.min(until)..until) {
            let at = entry.exemplar.timestamp;
            let matches = || {
                let mut selectors = request.selectors.iter();
                selectors.any(|matchers| matchers.iter().all(|matcher| matcher.matches_labels(&entry.series)))
            };
            if start <= at && at <= end && matches() {
                found.push((entry.series.clone(), entry.exemplar.clone()));
            }
        }
        (until < self.entries.len()).then_some(until)
    }

    pub fn stats(&self) -> ExemplarStats {
        ExemplarStats {
            max: self.max as u64,
            appended: self.appended,
            out_of_order: self.out_of_order,
            stored: self.entries.len() as u64,
            series: self.newest.len() as u64,
            oldest: self.entries.front().map(|entry| entry.exemplar.timestamp),
        }
    }
}

/// Entries that a question looks at before others get their turn.
const ENTRIES_PER_STEP: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    fn series(name: &str) -> Labels {
        Labels::from_pairs([("__name__", name)])
    }

    fn exemplar(trace: &str, value: f64, timestamp: Option<i64>) -> Exemplar {
        Exemplar { labels: Labels::from_pairs([("trace_id", trace)]), value, timestamp }
    }

    /// What is stored, as `series trace value@time`.
    fn stored(ring: &ExemplarRing) -> Vec<String> {
        let show = |entry: &Entry| {
            let StoredExemplar { labels, value, timestamp } = &entry.exemplar;
            let trace = labels.get("trace_id").unwrap_or_default();
            format!("{} {trace} {value}@{}", entry.series.metric_name(), timestamp.0)
        };
        ring.entries.iter().map(show).collect()
    }

    fn ring(max: usize) -> ExemplarRing {
        let mut ring = ExemplarRing::default();
        ring.resize(max);
        ring
    }

    #[test]
    fn oldest_that_came_makes_way() {
        let mut ring = ring(2);
        for (name, trace) in [("a", "1"), ("b", "2"), ("c", "3")] {
            ring.append(series(name), exemplar(trace, 1.0, None), Timestamp(5));
        }
        assert_eq!(stored(&ring), ["b 2 1@5", "c 3 1@5"]);
        let stats = ring.stats();
        assert_eq!((stats.stored, stats.series, stats.appended, stats.oldest), (2, 2, 3, Some(Timestamp(5))));
        ring.resize(1);
        assert_eq!(stored(&ring), ["c 3 1@5"]);
        ring.resize(0);
        ring.append(series("a"), exemplar("4", 1.0, None), Timestamp(6));
        assert_eq!(ring.stats(), ExemplarStats { appended: 3, ..ExemplarStats::default() });
        assert!(ring.newest.is_empty());
    }

    #[test]
    fn only_what_is_newer_than_the_newest_of_its_series_is_taken() {
        let mut ring = ring(100);
        let mut add = |trace: &str, value: f64, time: Option<i64>, at: i64| {
            ring.append(series("a"), exemplar(trace, value, time), Timestamp(at));
            (ring.entries.len(), ring.out_of_order)
        };
        assert_eq!(add("1", 1.0, Some(10), 100), (1, 0));
        assert_eq!(add("1", 1.0, Some(10), 200), (1, 0), "the same");
        assert_eq!(add("2", 1.0, Some(5), 200), (1, 1), "older");
        assert_eq!(add("3", 0.5, Some(10), 200), (1, 2), "same time, less");
        assert_eq!(add("4", 2.0, Some(10), 200), (2, 2));
        assert_eq!(add("5", 2.0, None, 300), (3, 2));
        assert_eq!(add("5", 2.0, None, 400), (3, 2), "without time it is the same as long as it stands there");
        assert_eq!(add("6", f64::NAN, None, 500), (4, 2));
        assert_eq!(add("6", f64::NAN, None, 600), (5, 2), "NaN is never the same");
    }

    #[test]
    fn long_labels_are_refused_and_empty_ones_are_none() {
        let mut ring = ring(10);
        ring.append(series("a"), exemplar(&"é".repeat(120), 1.0, None), Timestamp(1));
        ring.append(series("a"), exemplar(&"v".repeat(121), 1.0, None), Timestamp(2));
        assert_eq!(ring.entries.len(), 1);
        ring.append(series("b"), exemplar("", 1.0, None), Timestamp(3));
        assert_eq!(ring.entries[1].exemplar.labels, Labels::empty());
    }
}
