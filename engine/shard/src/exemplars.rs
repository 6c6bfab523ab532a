//! Exemplars of one shard: the newest that came, of all its series together.
//!
//! Only control code passes here: an exemplar whose text is that of the scrape before never comes this far.
//!
//! The log has every exemplar of the ring, so that a restart finds them again: the ring holds the files that have them. When
//! nobody else needs a file any more, its exemplars are copied to the newest file (decision 080).
//!
//! Invariants:
//!   * at most `max` exemplars; the oldest that came makes way, whoever's it is
//!   * exemplars of a series follow each other in time: what is older than its newest is refused and counted

use ahash::AHashMap;
use exposition::Exemplar;
use series::{Labels, Matcher, Timestamp};
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::Arc;
use tsdb::log::{FileToken, LoggedExemplar};

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
    /// The file of the log that has it; [`NO_FILE`] if none has.
    file: u32,
}

const NO_FILE: u32 = 0;

/// What becomes of an exemplar.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Appended {
    New(StoredExemplar),
    /// It is the one that the series had last.
    Same,
    Rejected,
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
    /// Whether somebody has said how many are stored.
    is_sized: bool,
    entries: VecDeque<Entry>,
    newest: AHashMap<Labels, Newest>,
    /// By number: files of the log, and how many of the entries each has.
    files: BTreeMap<u32, (FileToken, usize)>,
    appended: u64,
    out_of_order: u64,
}

impl ExemplarRing {
    /// Whether exemplars are stored at all.
    pub fn is_on(&self) -> bool {
        self.max > 0
    }

    /// Whether somebody has said how many are stored.
    pub fn is_sized(&self) -> bool {
        self.is_sized
    }

    /// Sets how many are stored; the newest stay.
    pub fn resize(&mut self, max: usize) {
        (self.max, self.is_sized) = (max, true);
        while self.entries.len() > max {
            self.drop_oldest();
        }
        if self.entries.capacity() > max.saturating_mul(2) {
            self.entries.shrink_to_fit();
        }
    }

    /// Adds the exemplar of a sample of `series` at `at`, unless it is the one that the series had last.
    pub fn append(&mut self, series: Labels, exemplar: Exemplar, at: Timestamp) -> Appended {
        let chars = |text: &str| text.chars().count();
        let all: usize = exemplar.labels.iter().map(|(name, value)| chars(name) + chars(value)).sum();
        if !self.is_on() || all > LABEL_CHARS_MAX {
            return Appended::Rejected;
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
                return Appended::Same;
            }
            let order = new.timestamp.cmp(&old.timestamp);
            let order = order.then(new.value.total_cmp(&old.value));
            if order.then_with(|| new.labels.cmp(&old.labels)).is_lt() {
                self.out_of_order += 1;
                return Appended::Rejected;
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
        self.entries.push_back(Entry { series, exemplar: new.clone(), file: NO_FILE });
        self.appended += 1;
        Appended::New(new)
    }

    /// The newest `count` entries are in this file of the log.
    pub fn logged(&mut self, count: usize, file: &FileToken) {
        let first = self.entries.len().saturating_sub(count);
        for at in first..self.entries.len() {
            self.set_file(at, Some(file));
        }
    }

    fn set_file(&mut self, at: usize, file: Option<&FileToken>) {
        let sequence = file.map_or(NO_FILE, |file| file.sequence);
        let before = std::mem::replace(&mut self.entries[at].file, sequence);
        if let Some(file) = file {
            self.files.entry(sequence).or_insert_with(|| (file.clone(), 0)).1 += 1;
        }
        self.release_file(before);
    }

    fn release_file(&mut self, sequence: u32) {
        if let Some((_, count)) = self.files.get_mut(&sequence) {
            *count -= 1;
            if *count == 0 {
                self.files.remove(&sequence);
            }
        }
    }

    /// Files that stay because of the ring alone, but for the newest; and whether there are entries that no file has.
    pub fn files_to_leave(&self) -> HashSet<u32> {
        let newest = self.files.keys().next_back().copied();
        // The ring and the log itself have one each.
        let is_alone = |file: &FileToken| Arc::strong_count(file) <= 2;
        let alone = self.files.iter().filter(|(sequence, (file, _))| Some(**sequence) != newest && is_alone(file));
        let has_unlogged = self.files.values().map(|(_, count)| count).sum::<usize>() < self.entries.len();
        alone.map(|(sequence, _)| *sequence).chain(has_unlogged.then_some(NO_FILE)).collect()
    }

    /// Copies some entries of these files to the log with `write`, which gives the file that has them then. Returns where to
    /// go on, if there are more: it looks at a bounded number of them at a time.
    pub fn copy_from(
        &mut self,
        files: &HashSet<u32>,
        from: usize,
        write: impl FnOnce(&[LoggedExemplar]) -> Option<FileToken>,
    ) -> Option<usize> {
        let until = (from + ENTRIES_PER_STEP).min(self.entries.len());
        let places: Vec<usize> = (from..until).filter(|at| files.contains(&self.entries[*at].file)).collect();
        let logged = |at: &usize| {
            let Entry { series, exemplar: StoredExemplar { labels, value, timestamp }, .. } = &self.entries[*at];
            LoggedExemplar { series: series.clone(), labels: labels.clone(), value: *value, timestamp: *timestamp }
        };
        let exemplars: Vec<LoggedExemplar> = places.iter().map(logged).collect();
        if !exemplars.is_empty()
            && let Some(file) = write(&exemplars)
        {
            places.into_iter().for_each(|at| self.set_file(at, Some(&file)));
        }
        (until < self.entries.len()).then_some(until)
    }

    /// Puts back what the last run had, before everything that has come since. As many as there is room for: the newest.
    pub fn restore(&mut self, mut exemplars: Vec<(Labels, StoredExemplar)>) {
        exemplars.sort_by(|(series, one), (other_series, other)| {
            let by_content = || series.cmp(other_series).then_with(|| one.labels.cmp(&other.labels));
            one.timestamp.cmp(&other.timestamp).then_with(by_content)
        });
        let key = |one: &StoredExemplar| (one.timestamp, one.value.to_bits());
        exemplars.dedup_by(|(series, one), (other_series, other)| {
            key(one) == key(other) && series == other_series && one.labels == other.labels
        });
        while self.entries.len() < self.max
            && let Some((series, exemplar)) = exemplars.pop()
        {
            match self.newest.get_mut(&series) {
                // The target still exposes it.
                Some(newest) if newest.exemplar == exemplar => continue,
                Some(newest) => newest.count += 1,
                None => {
                    let newest = Newest { count: 1, exemplar: exemplar.clone(), has_time: true };
                    self.newest.insert(series.clone(), newest);
                }
            }
            self.entries.push_front(Entry { series, exemplar, file: NO_FILE });
        }
    }

    fn drop_oldest(&mut self) {
        let Some(entry) = self.entries.pop_front() else { return };
        self.release_file(entry.file);
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

/// Entries that are looked at before others get their turn.
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

    fn file(sequence: u32) -> FileToken {
        Arc::new(tsdb::log::FileId { boot: 1, writer: 0, sequence })
    }

    /// Only the ring needs file 1 and, later, 2: what is left of it goes to the newest file, and its files are released.
    #[test]
    fn files_that_nobody_else_needs_are_left() {
        let mut ring = ring(4);
        let files: Vec<FileToken> = (1..=3).map(file).collect();
        for (i, token) in files.iter().enumerate() {
            for j in 0..2 {
                let name = format!("{i}{j}");
                assert!(matches!(
                    ring.append(series(&name), exemplar("t", 1.0, Some(5)), Timestamp(5)),
                    Appended::New(_)
                ));
            }
            ring.logged(2, token);
        }
        assert_eq!(Arc::strong_count(&files[0]), 1, "its entries made way");
        assert_eq!(ring.files_to_leave(), HashSet::from([2]), "nobody else has file 2");
        let segment = files[1].clone();
        assert_eq!(ring.files_to_leave(), HashSet::new());
        drop(segment);
        let mut copied = Vec::new();
        let next = ring.copy_from(&ring.files_to_leave(), 0, |exemplars| {
            copied.extend(exemplars.iter().map(|one| one.series.metric_name().to_owned()));
            Some(files[2].clone())
        });
        assert_eq!((next, copied), (None, vec!["10".to_owned(), "11".to_owned()]));
        assert_eq!(files.iter().map(Arc::strong_count).collect::<Vec<_>>(), [1, 1, 2]);
        assert_eq!(ring.files_to_leave(), HashSet::new());
        ring.append(series("x"), exemplar("t", 1.0, None), Timestamp(5));
        assert_eq!(ring.files_to_leave(), HashSet::from([NO_FILE]), "one that the log does not have");
        ring.resize(0);
        assert_eq!(files.iter().map(Arc::strong_count).collect::<Vec<_>>(), [1, 1, 1]);
    }

    #[test]
    fn what_the_last_run_had_comes_before_what_has_come_since() {
        let mut ring = ring(4);
        ring.append(series("a"), exemplar("3", 1.0, Some(30)), Timestamp(100));
        let stored = |name: &str, trace: &str, at: i64| {
            let labels = Labels::from_pairs([("trace_id", trace)]);
            (series(name), StoredExemplar { labels, value: 1.0, timestamp: Timestamp(at) })
        };
        // In any order, one of them twice, one still exposed, one too many.
        let old = [("b", "2", 20), ("a", "3", 30), ("a", "1", 10), ("b", "2", 20), ("b", "0", 5), ("c", "9", 1)];
        ring.restore(old.map(|(name, trace, at)| stored(name, trace, at)).into());
        assert_eq!(super::tests::stored(&ring), ["b 0 1@5", "a 1 1@10", "b 2 1@20", "a 3 1@30"]);
        assert_eq!(ring.append(series("b"), exemplar("1", 1.0, Some(15)), Timestamp(100)), Appended::Rejected);
        assert_eq!(ring.append(series("b"), exemplar("2", 1.0, Some(20)), Timestamp(100)), Appended::Same);
        ring.resize(1);
        assert_eq!((ring.stats().series, ring.newest.len()), (1, 1));
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
