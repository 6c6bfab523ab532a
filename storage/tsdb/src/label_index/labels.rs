//! Label names and label values of what a search found.

use super::{IdSet, LabelIndex, MatchedGroup, is_metric_name};
use crate::group::SlotGroup;
use ahash::AHashSet;
use roaring::RoaringBitmap;
use series::METRIC_NAME;
use std::collections::{BTreeMap, BTreeSet};
use std::iter::Peekable;
use std::ops::Bound;

/// Label names of matched series.
#[derive(Debug, Default)]
pub struct NameCollector {
    names: BTreeSet<Box<str>>,
    /// Groups all of whose slots match.
    whole: RoaringBitmap,
}

impl NameCollector {
    pub fn add<T>(&mut self, index: &LabelIndex<T>, matched: &MatchedGroup) {
        if matched.slots.is_none() {
            self.whole.insert(matched.number);
        } else {
            let mut before: Option<usize> = None;
            for slot in matched.slots() {
                let pairs =
                    |slot| matched.group.label_pairs(slot).filter(|(_, value): &(&str, &str)| !value.is_empty());
                let same = before.is_some_and(|before| pairs(before).map(|one| one.0).eq(pairs(slot).map(|one| one.0)));
                if !same {
                    pairs(slot).for_each(|(name, _)| self.insert(name));
                    before = Some(slot);
                }
            }
        }
        for (name, label) in &index.owner_labels {
            if !self.names.contains(&**name)
                && label.owners.meets(&matched.owners)
                && any_slot_lacks(index, matched, name)
            {
                self.names.insert(name.clone());
            }
        }
    }

    fn insert(&mut self, name: &str) {
        if !self.names.contains(name) {
            self.names.insert(name.into());
        }
    }

    /// The names, sorted, `limit` of them at most.
    pub fn finish<T>(mut self, index: &LabelIndex<T>, limit: usize) -> Vec<Box<str>> {
        for (name, label) in &index.slot_labels {
            if label.filled.meets(&self.whole) {
                self.insert(name);
            }
        }
        self.names.into_iter().take(limit).collect()
    }
}

/// Whether a selected slot leaves the owner's label of this name as it is.
fn any_slot_lacks<T>(index: &LabelIndex<T>, matched: &MatchedGroup, name: &str) -> bool {
    let lacks = |slot: usize| matched.group.label_pairs(slot).all(|(other, _)| other != name);
    index.slot_labels.get(name).is_none_or(|label| !label.has(matched.number)) || matched.slots().any(lacks)
}

/// Values of one label of matched series.
#[derive(Debug)]
pub struct ValueCollector {
    name: Box<str>,
    of_slots: AHashSet<Box<str>>,
    /// Groups all of whose slots match, where the label is that of the metric name.
    whole: RoaringBitmap,
    /// Owners whose own label is that of a matched series.
    owners: RoaringBitmap,
}

impl ValueCollector {
    pub fn new(name: &str) -> ValueCollector {
        let (of_slots, whole, owners) = Default::default();
        ValueCollector { name: name.into(), of_slots, whole, owners }
    }

    pub fn add<T>(&mut self, index: &LabelIndex<T>, matched: &MatchedGroup) {
        let ValueCollector { name, of_slots, whole, owners } = self;
        if index.owner_labels.contains_key(&**name) && any_slot_lacks(index, matched, name) {
            *owners |= &matched.owners;
        }
        if is_metric_name(name) && matched.slots.is_none() && !index.owner_labels.contains_key(&**name) {
            whole.insert(matched.number);
        } else if index.slot_labels.get(&**name).is_some_and(|label| label.filled.contains(matched.number)) {
            let mut before = "";
            for slot in matched.slots() {
                let value = value_of(&matched.group, slot, name);
                if value != before && !value.is_empty() && !of_slots.contains(value) {
                    of_slots.insert(value.into());
                }
                before = value;
            }
        }
    }

    /// The values, for them to be taken in order.
    pub fn finish(self) -> SortedValues {
        let mut of_slots: Vec<Box<str>> = self.of_slots.into_iter().collect();
        of_slots.sort_unstable();
        let of_slots = of_slots.into_iter().peekable();
        SortedValues { name: self.name, of_slots, whole: self.whole, owners: self.owners, after: None, visited: 0 }
    }
}

fn value_of<'g>(group: &'g SlotGroup, slot: usize, name: &str) -> &'g str {
    group.label_pairs(slot).find(|(other, _)| *other == name).map_or("", |(_, value)| value)
}

/// Values of a label in order, from slots and from owners.
pub struct SortedValues {
    name: Box<str>,
    of_slots: Peekable<std::vec::IntoIter<Box<str>>>,
    whole: RoaringBitmap,
    owners: RoaringBitmap,
    /// The last value of the trees of the index that was looked at.
    after: Option<Box<str>>,
    visited: usize,
}

impl SortedValues {
    /// Appends values in order until `batch` has `max`, or so many values of the index were looked at. False once there are
    /// no more.
    pub fn next_batch<T>(&mut self, index: &LabelIndex<T>, max: usize, batch: &mut Vec<Box<str>>) -> bool {
        const VALUES_PER_STEP: usize = 1024;
        let none = BTreeMap::new();
        // Only one of the trees has values of a label: the metric name is that of slots.
        let (tree, ids): (&BTreeMap<Box<str>, IdSet>, &RoaringBitmap) = match self.name == METRIC_NAME.into() {
            true if self.owners.is_empty() => (&index.metric_names, &self.whole),
            _ => (index.owner_labels.get(&self.name).map_or(&none, |label| &label.values), &self.owners),
        };
        self.visited = 0;
        let from = self.after.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let mut after = None;
        let mut ended = true;
        for (value, found) in tree.range::<str, _>((from, Bound::Unbounded)) {
            self.visited += 1;
            if self.visited > VALUES_PER_STEP || batch.len() >= max {
                ended = false;
                break;
            }
            while batch.len() < max
                && let Some(own) = self.of_slots.next_if(|own| own < value)
            {
                batch.push(own);
            }
            if batch.len() >= max {
                ended = false;
                break;
            }
            if found.meets(ids) {
                self.of_slots.next_if_eq(value);
                batch.push(value.clone());
            }
            after = Some(value.clone());
        }
        self.after = after.or(self.after.take());
        if !ended {
            return true;
        }
        while batch.len() < max
            && let Some(own) = self.of_slots.next()
        {
            batch.push(own);
        }
        self.of_slots.peek().is_some()
    }
}
