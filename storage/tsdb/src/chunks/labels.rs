//! Label names, label values and label sets of what is in chunk files, found by each file's label index.
//!
//! A file's index is locked for reading meanwhile; only the thread that writes chunks waits for that.

use super::ChunkStore;
use super::file::ChunkFile;
use super::index::Index;
use crate::label_index::{MatchedGroup, NameCollector, OwnerSet, Search, SeriesListing, TimeFilter, ValueCollector};
use series::{Matcher, Timestamp};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

impl Index {
    /// Finds the groups and targets that satisfy one of the selectors and have an entry that overlaps `[from, to]`.
    fn search(
        &self,
        selectors: &[Vec<Matcher>],
        bounds: Option<(i64, i64)>,
        (from, to): (i64, i64),
        stop: &AtomicBool,
        mut found: impl FnMut(MatchedGroup),
    ) {
        let Some((first, last)) = bounds.filter(|(first, last)| *first <= to && *last >= from) else { return };
        let filter = (first < from || last > to).then(|| self.time_filter(from, to));
        for matchers in selectors {
            let mut search = Search::new(matchers);
            let mut each = |mut matched: MatchedGroup| {
                if filter.as_ref().is_none_or(|filter| filter.apply(&mut matched)) {
                    found(matched);
                }
            };
            while !stop.load(Ordering::Relaxed) && search.step(&self.labels, &mut each) {}
        }
    }

    fn time_filter(&self, from: i64, to: i64) -> TimeFilter {
        let mut filter = TimeFilter::default();
        for entry in self.entries.iter().filter(|entry| entry.first <= to && entry.last >= from) {
            let groups = entry.groups.iter().map(|number| Arc::as_ptr(&self.groups[*number as usize]).addr());
            filter.add_groups(entry.target, groups);
        }
        filter
    }
}

impl ChunkFile {
    fn with_index<R>(&self, read: impl FnOnce(&Index) -> R) -> R {
        read(&self.index.read().expect("no panic while held"))
    }
}

impl ChunkStore {
    /// Label names of matching series with chunks that overlap `[from, to]`.
    pub fn label_names(
        &self,
        selectors: &[Vec<Matcher>],
        (from, to): (Timestamp, Timestamp),
        stop: &AtomicBool,
    ) -> BTreeSet<Box<str>> {
        let mut all = BTreeSet::new();
        for file in self.files() {
            file.with_index(|index| {
                let mut names = NameCollector::default();
                index.search(selectors, file.bounds.get(), (from.0, to.0), stop, |matched| {
                    names.add(&index.labels, &matched)
                });
                all.extend(names.finish(&index.labels, usize::MAX));
            });
        }
        all
    }

    /// Values of a label of matching series with chunks that overlap `[from, to]`; of each file the first `limit` at most.
    pub fn label_values(
        &self,
        name: &str,
        selectors: &[Vec<Matcher>],
        (from, to): (Timestamp, Timestamp),
        limit: usize,
        stop: &AtomicBool,
    ) -> BTreeSet<Box<str>> {
        let mut all = BTreeSet::new();
        for file in self.files() {
            file.with_index(|index| {
                let mut values = ValueCollector::new(name);
                index.search(selectors, file.bounds.get(), (from.0, to.0), stop, |matched| {
                    values.add(&index.labels, &matched)
                });
                let (mut values, mut batch) = (values.finish(), Vec::new());
                while values.next_batch(&index.labels, limit, &mut batch) && batch.len() < limit {}
                all.extend(batch);
            });
        }
        all
    }

    /// Lists, for each file, the label sets of matching series with chunks that overlap `[from, to]`.
    pub fn label_sets(
        &self,
        selectors: &[Vec<Matcher>],
        (from, to): (Timestamp, Timestamp),
        limit: usize,
        stop: &AtomicBool,
    ) -> Vec<SeriesListing> {
        let listing = |file: &Arc<ChunkFile>| {
            file.with_index(|index| {
                let (mut matched, mut targets) = (Vec::new(), OwnerSet::new());
                index.search(selectors, file.bounds.get(), (from.0, to.0), stop, |one| {
                    targets |= &one.owners;
                    matched.push(one);
                });
                let labels = |target: u32| (target, index.targets[target as usize].labels.clone());
                SeriesListing::new(matched, targets.iter().map(labels).collect(), limit)
            })
        };
        self.files().iter().map(listing).collect()
    }
}
