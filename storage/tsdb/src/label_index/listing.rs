//! Label sets of matched series, in order and in bounded memory.
//!
//! The order is by metric name, then by label set. Series of one name are gathered [`WINDOW_SERIES`] at a time: those that
//! come next in order, found in one pass over all of the name.

use super::MatchedGroup;
use ahash::AHashMap;
use series::Labels;
use std::cmp::Ordering;
use std::collections::BTreeMap;

/// Label sets that are held at once: some 25 MB. A name with more series costs a pass over them for so many.
pub const WINDOW_SERIES: usize = 100_000;
/// Slots that are put under their names in a step.
const SLOTS_PER_STEP: usize = 1024;
/// Series that are compared in a step.
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
struct Name {
    slots: SlotsOfName,
    /// Where the pass is: slot, and how many of its owners were compared.
    at: (usize, u64),
    /// Series up to this one are listed.
    listed: Option<Labels>,
    /// The first in order behind `listed`, not sorted; once it is full, series from `bound` on are left to the next pass.
    found: Vec<Labels>,
    bound: Option<Labels>,
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
            self.name = Some(Name { slots, at: (0, 0), listed: None, found: Vec::new(), bound: None });
            return true;
        };
        if name.compare(&self.matched, &self.owners, self.window) {
            return true;
        }
        name.sort_and_trim(self.window);
        let more = name.bound.is_some();
        let Name { found, listed, bound, at, .. } = name;
        *listed = found.last().cloned().or(listed.take());
        batch.append(found);
        (*bound, *at) = (None, (0, 0));
        if !more {
            self.name = None;
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
    /// Compares some more series. False once the pass is over.
    fn compare(&mut self, matched: &[MatchedGroup], owners: &AHashMap<u32, Labels>, window: usize) -> bool {
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
                self.found.push(Labels::from_sorted(pairs()));
                if self.found.len() >= 2 * window {
                    self.sort_and_trim(window);
                }
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

    /// Keeps what is first in order, each label set once.
    fn sort_and_trim(&mut self, window: usize) {
        self.found.sort_unstable();
        self.found.dedup();
        if self.found.len() > window {
            self.found.truncate(window);
            self.bound = self.found.last().cloned();
        }
    }
}
