//! Label sets of matched series, in order and in bounded memory.
//!
//! The order is by metric name, then by label set. Series of one name are gathered [`WINDOW_SERIES`] at a time: those that
//! come next in order, found in one pass over all of the name.

use super::MatchedGroup;
use ahash::AHashMap;
use series::Labels;
use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BinaryHeap};

/// Label sets that are held at once: some 25 MB. A name with more series costs a pass over them for so many.
pub const WINDOW_SERIES: usize = 100_000;
/// Slots that are put under their names in a step.
const SLOTS_PER_STEP: usize = 1024;
/// Series that are compared, or put in order, in a step.
const SERIES_PER_STEP: usize = 1024;

/// Selected slots with one metric name: matched group and slot.
type SlotsOfName = Vec<(u32, u32)>;

/// Lists the label sets of what a search found.
pub struct SeriesListing {
    matched: Vec<MatchedGroup>,
    /// Label sets of the owners, as they were when the search ended.
    owners: AHashMap<u32, Labels>,
    /// Where the next slot to put under its name is.
    next: (usize, usize),
    names: BTreeMap<Box<str>, SlotsOfName>,
    name: Option<Name>,
    window: usize,
}

/// The name whose series are listed.
#[derive(Default)]
struct Name {
    slots: SlotsOfName,
    /// Where the pass is: slot, and how many of its owners were compared.
    at: (usize, u64),
    /// Series up to this one are listed.
    listed: Option<Labels>,
    /// Series behind `listed` in sorted runs, and how many they are. Once they are too many, those behind `bound` are left
    /// to the next pass.
    runs: Vec<Vec<Labels>>,
    found: usize,
    bound: Option<Labels>,
    /// While runs are put in order.
    merge: Option<Merge>,
    is_pass_over: bool,
}

/// Sorted runs on their way to one.
struct Merge {
    runs: Vec<std::vec::IntoIter<Labels>>,
    /// The next of each run, and the run's number.
    next: BinaryHeap<Reverse<(Labels, usize)>>,
    /// In order, each once.
    merged: Vec<Labels>,
}

impl Merge {
    fn new(runs: Vec<Vec<Labels>>) -> Merge {
        let mut runs: Vec<_> = runs.into_iter().map(Vec::into_iter).collect();
        let first = |(number, run): (usize, &mut std::vec::IntoIter<Labels>)| Some(Reverse((run.next()?, number)));
        let next = runs.iter_mut().enumerate().filter_map(first).collect();
        Merge { runs, next, merged: Vec::new() }
    }

    /// Merges some more. False once more than `wanted` are in order, or all of them.
    fn step(&mut self, wanted: usize) -> bool {
        for _ in 0..SERIES_PER_STEP {
            if self.merged.len() > wanted {
                return false;
            }
            let Some(Reverse((labels, number))) = self.next.pop() else { return false };
            self.next.extend(self.runs[number].next().map(|next| Reverse((next, number))));
            if self.merged.last() != Some(&labels) {
                self.merged.push(labels);
            }
        }
        true
    }
}

impl SeriesListing {
    /// `limit` is how many label sets are wanted at most.
    pub fn new(matched: Vec<MatchedGroup>, owners: AHashMap<u32, Labels>, limit: usize) -> SeriesListing {
        let window = limit.clamp(1, WINDOW_SERIES);
        SeriesListing { matched, owners, next: (0, 0), names: BTreeMap::new(), name: None, window }
    }

    /// Works a little more; appends label sets to `batch` whenever some are next in order. False once all are listed.
    pub fn step(&mut self, batch: &mut Vec<Labels>) -> bool {
        if self.next.0 < self.matched.len() {
            self.put_under_names();
            return true;
        }
        let Some(name) = &mut self.name else {
            let Some((_, slots)) = self.names.pop_first() else { return false };
            self.name = Some(Name { slots, ..Name::default() });
            return true;
        };
        let Some(merge) = &mut name.merge else {
            name.is_pass_over = !name.compare(&self.matched, &self.owners);
            if name.is_pass_over || name.found >= 2 * self.window {
                name.merge = Some(Merge::new(std::mem::take(&mut name.runs)));
            }
            return true;
        };
        if merge.step(self.window) {
            return true;
        }
        let mut merged = name.merge.take().map(|merge| merge.merged).unwrap_or_default();
        if merged.len() > self.window {
            merged.truncate(self.window);
            name.bound = merged.last().cloned();
        }
        if !name.is_pass_over {
            (name.found, name.runs) = (merged.len(), vec![merged]);
            return true;
        }
        name.listed = merged.last().cloned().or(name.listed.take());
        batch.append(&mut merged);
        if name.bound.take().is_none() {
            self.name = None;
        } else {
            (name.at, name.found, name.is_pass_over) = ((0, 0), 0, false);
        }
        true
    }

    fn put_under_names(&mut self) {
        let (at, skip) = self.next;
        let matched = &self.matched[at];
        let slots: Vec<usize> = matched.slots().skip(skip).take(SLOTS_PER_STEP).collect();
        let count = slots.len();
        // Slots that follow each other mostly have one name.
        for run in slots.chunk_by(|one, next| matched.group.metric_name(*one) == matched.group.metric_name(*next)) {
            let name = matched.group.metric_name(run[0]);
            let places = run.iter().map(|slot| (at as u32, *slot as u32));
            match self.names.get_mut(name) {
                Some(slots) => slots.extend(places),
                None => drop(self.names.insert(name.into(), places.collect())),
            }
        }
        self.next = if count < SLOTS_PER_STEP { (at + 1, 0) } else { (at, skip + count) };
    }
}

/// Whether a label set comes after a mark; `unmarked` if there is none.
fn is_behind<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>, mark: Option<&'a Labels>, unmarked: bool) -> bool {
    mark.map_or(unmarked, |mark| pairs.cmp(mark.iter()) == Ordering::Greater)
}

impl Name {
    /// Compares some more series, of which those that are wanted become a run. False once the pass is over.
    fn compare(&mut self, matched: &[MatchedGroup], owners: &AHashMap<u32, Labels>) -> bool {
        let mut fresh = Vec::new();
        let more = self.collect(matched, owners, &mut fresh);
        fresh.sort_unstable();
        self.found += fresh.len();
        if !fresh.is_empty() {
            self.runs.push(fresh);
        }
        more
    }

    fn collect(&mut self, matched: &[MatchedGroup], owners: &AHashMap<u32, Labels>, fresh: &mut Vec<Labels>) -> bool {
        let mut left = SERIES_PER_STEP;
        while left > 0 {
            let Some((group, slot)) = self.slots.get(self.at.0).copied() else { return false };
            let MatchedGroup { group, owners: ids, .. } = &matched[group as usize];
            let rest = ids.len() - self.at.1;
            let first = ids.select(self.at.1 as u32);
            let count = rest.min(left as u64);
            for id in first.into_iter().flat_map(|first| ids.range(first..)).take(count as usize) {
                let Some(target) = owners.get(&id) else { continue };
                let pairs = || group.series_pairs(slot as usize, target);
                if !is_behind(pairs(), self.listed.as_ref(), true) || is_behind(pairs(), self.bound.as_ref(), false) {
                    continue;
                }
                fresh.push(Labels::from_sorted(pairs()));
            }
            left -= count as usize;
            self.at.1 += count;
            if self.at.1 >= ids.len() {
                self.at = (self.at.0 + 1, 0);
            }
            if count == 0 {
                left -= 1;
            }
        }
        true
    }
}
