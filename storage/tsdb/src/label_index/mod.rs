//! Index of series by structure: which label sets of owners and which slot groups there are, and which belong together.
//!
//! An *owner* is whatever joins its labels to the slots of groups: a target, a source of pushed series, a target of a
//! chunk file. A series is one slot of one of the owner's groups. The index never lists series: ten million series of
//! ten thousand alike targets are a few groups and ten thousand label sets. `search` finds what matchers select, `labels`
//! and `listing` turn that into label names, label values and label sets.
//!
//! Useful for: label queries, and for finding the owners that a select has to visit. Not for: samples and their times.
//!
//! Invariants:
//!   * a group is in the index exactly as long as an owner has it
//!   * the number of an owner or group that is removed is not used again while the index is pinned, so a search that
//!     lets others run in between never takes one owner for another

mod coverage;
mod id_set;
mod labels;
mod listing;
mod search;
#[cfg(test)]
mod tests;

pub use coverage::{Coverage, TimeFilter};
pub use labels::{NameCollector, SortedValues, ValueCollector};
pub use listing::{SeriesListing, WINDOW_SERIES};
pub use search::{MatchedGroup, Search};

use crate::group::SlotGroup;
use ahash::AHashMap;
use id_set::IdSet;
use roaring::RoaringBitmap;
use series::{Labels, METRIC_NAME};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Numbers of owners.
pub use roaring::RoaringBitmap as OwnerSet;

/// Number of an owner in its index.
pub type OwnerId = u32;

/// Owners and groups by their labels.
#[derive(Debug)]
pub struct LabelIndex<T> {
    owners: Numbered<Owner<T>>,
    /// All owners that have a group.
    filled_owners: RoaringBitmap,
    groups: Numbered<IndexedGroup>,
    /// Numbers of the groups by address; the index keeps each group alive, so that no address is used again.
    group_numbers: AHashMap<usize, u32>,
    /// Groups by the metric names of their slots.
    metric_names: BTreeMap<Box<str>, IdSet>,
    /// Groups by the label names of their slots.
    slot_labels: BTreeMap<Box<str>, SlotLabel>,
    /// Owners by their labels.
    owner_labels: BTreeMap<Box<str>, OwnerLabel>,
    pins: u32,
}

/// An owner and what it is to the user of the index.
#[derive(Debug)]
pub struct Owner<T> {
    pub labels: Labels,
    pub payload: T,
    /// Numbers of its groups, ascending.
    groups: Box<[u32]>,
}

#[derive(Debug)]
struct IndexedGroup {
    group: Arc<SlotGroup>,
    owners: IdSet,
}

/// Groups with slots that have a label of one name.
#[derive(Debug, Default)]
struct SlotLabel {
    /// With a value.
    filled: IdSet,
    /// With the empty value, which hides the owner's label.
    emptied: IdSet,
}

impl SlotLabel {
    fn has(&self, group: u32) -> bool {
        self.filled.contains(group) || self.emptied.contains(group)
    }
}

/// Owners with a label of one name.
#[derive(Debug, Default)]
struct OwnerLabel {
    owners: IdSet,
    values: BTreeMap<Box<str>, IdSet>,
}

/// Items with numbers that are used again, but not while the index is pinned.
#[derive(Debug)]
struct Numbered<I> {
    items: Vec<Option<I>>,
    free: Vec<u32>,
    freed_while_pinned: Vec<u32>,
}

impl<I> Default for Numbered<I> {
    fn default() -> Numbered<I> {
        Numbered { items: Vec::new(), free: Vec::new(), freed_while_pinned: Vec::new() }
    }
}

impl<I> Numbered<I> {
    fn add(&mut self, item: I) -> u32 {
        match self.free.pop() {
            Some(number) => {
                self.items[number as usize] = Some(item);
                number
            }
            None => {
                self.items.push(Some(item));
                u32::try_from(self.items.len() - 1).expect("fewer than 4 billion owners and groups")
            }
        }
    }

    fn remove(&mut self, number: u32, pinned: bool) -> Option<I> {
        let item = self.items.get_mut(number as usize)?.take()?;
        if pinned { &mut self.freed_while_pinned } else { &mut self.free }.push(number);
        Some(item)
    }

    fn get(&self, number: u32) -> Option<&I> {
        self.items.get(number as usize)?.as_ref()
    }

    fn len(&self) -> usize {
        self.items.len() - self.free.len() - self.freed_while_pinned.len()
    }
}

impl<T> Default for LabelIndex<T> {
    fn default() -> LabelIndex<T> {
        LabelIndex {
            owners: Numbered::default(),
            filled_owners: RoaringBitmap::new(),
            groups: Numbered::default(),
            group_numbers: AHashMap::new(),
            metric_names: BTreeMap::new(),
            slot_labels: BTreeMap::new(),
            owner_labels: BTreeMap::new(),
            pins: 0,
        }
    }
}

impl<T> LabelIndex<T> {
    /// Adds an owner without groups.
    pub fn add(&mut self, labels: Labels, payload: T) -> OwnerId {
        let id = self.owners.add(Owner { labels: labels.clone(), payload, groups: Box::default() });
        for (name, value) in labels.iter().filter(|(_, value)| !value.is_empty()) {
            let label = entry(&mut self.owner_labels, name);
            label.owners.insert(id);
            entry(&mut label.values, value).insert(id);
        }
        id
    }

    /// Sets the groups of an owner; a group may be given several times.
    pub fn set_groups<'g>(&mut self, owner: OwnerId, groups: impl IntoIterator<Item = &'g Arc<SlotGroup>>) {
        let mut new: Vec<u32> = groups.into_iter().map(|group| self.group_number(group)).collect();
        new.sort_unstable();
        new.dedup();
        let Some(entry) = self.owners.items.get_mut(owner as usize).and_then(Option::as_mut) else { return };
        let old = std::mem::replace(&mut entry.groups, new.clone().into());
        for group in new.iter().filter(|group| old.binary_search(group).is_err()) {
            self.groups.items[*group as usize].as_mut().expect("just found or added").owners.insert(owner);
        }
        for group in old.iter().filter(|group| new.binary_search(group).is_err()) {
            self.leave_group(owner, *group);
        }
        match new.is_empty() {
            true => self.filled_owners.remove(owner),
            false => self.filled_owners.insert(owner),
        };
    }

    /// Adds groups to those of an owner.
    pub fn add_groups<'g>(&mut self, owner: OwnerId, groups: impl IntoIterator<Item = &'g Arc<SlotGroup>>) {
        let Some(known) = self.owners.get(owner).map(|owner| owner.groups.clone()) else { return };
        let mut fresh: Vec<u32> = groups.into_iter().map(|group| self.group_number(group)).collect();
        fresh.retain(|group| known.binary_search(group).is_err());
        if fresh.is_empty() {
            return;
        }
        fresh.sort_unstable();
        fresh.dedup();
        for group in &fresh {
            self.groups.items[*group as usize].as_mut().expect("just found or added").owners.insert(owner);
        }
        fresh.extend_from_slice(&known);
        fresh.sort_unstable();
        self.owners.items[owner as usize].as_mut().expect("found above").groups = fresh.into();
        self.filled_owners.insert(owner);
    }

    /// Removes an owner.
    pub fn remove(&mut self, owner: OwnerId) -> Option<T> {
        self.set_groups(owner, []);
        let Owner { labels, payload, .. } = self.owners.remove(owner, self.pins > 0)?;
        for (name, value) in labels.iter().filter(|(_, value)| !value.is_empty()) {
            let label = self.owner_labels.get_mut(name).expect("added with the owner");
            label.owners.remove(owner);
            remove_from(&mut label.values, value, owner);
            if label.owners.is_empty() {
                self.owner_labels.remove(name);
            }
        }
        Some(payload)
    }

    /// Keeps numbers of what is removed from being used again, until [`LabelIndex::unpin`] was called as often.
    pub fn pin(&mut self) {
        self.pins += 1;
    }

    pub fn unpin(&mut self) {
        self.pins = self.pins.checked_sub(1).expect("pinned before");
        if self.pins == 0 {
            self.owners.free.append(&mut self.owners.freed_while_pinned);
            self.groups.free.append(&mut self.groups.freed_while_pinned);
        }
    }

    pub fn owner(&self, id: OwnerId) -> Option<&Owner<T>> {
        self.owners.get(id)
    }

    /// All owners that have a group.
    pub fn filled_owners(&self) -> &RoaringBitmap {
        &self.filled_owners
    }

    /// How many owners there are, with groups and without.
    pub fn owner_count(&self) -> usize {
        self.owners.len()
    }

    /// How many different groups there are.
    pub fn group_count(&self) -> usize {
        self.groups.len()
    }

    /// Groups with the numbers of their owners, in no particular order.
    pub fn groups(&self) -> impl Iterator<Item = (&Arc<SlotGroup>, u64)> {
        self.groups.items.iter().flatten().map(|entry| (&entry.group, entry.owners.len()))
    }

    /// The groups of an owner.
    pub fn groups_of(&self, id: OwnerId) -> impl Iterator<Item = &Arc<SlotGroup>> {
        let numbers = self.owner(id).map(|owner| &*owner.groups).unwrap_or_default();
        numbers.iter().filter_map(|number| self.groups.get(*number)).map(|entry| &entry.group)
    }

    /// Bytes on the heap, as far as they are easily counted; labels and groups belong to others.
    pub fn heap_bytes(&self) -> usize {
        const TREE_ENTRY_BYTES: usize = 64;
        let values: usize = self.owner_labels.values().map(|label| label.values.len()).sum();
        let trees = values + self.metric_names.len() + self.slot_labels.len() + self.owner_labels.len();
        let of_owners: usize = self.owners.items.iter().flatten().map(|owner| owner.groups.len() * 4).sum();
        trees * TREE_ENTRY_BYTES
            + of_owners
            + self.owners.items.capacity() * size_of::<Option<Owner<T>>>()
            + self.groups.items.capacity() * (size_of::<Option<IndexedGroup>>() + 24)
    }

    fn group_number(&mut self, group: &Arc<SlotGroup>) -> u32 {
        let address = Arc::as_ptr(group).addr();
        if let Some(number) = self.group_numbers.get(&address) {
            return *number;
        }
        let number = self.groups.add(IndexedGroup { group: group.clone(), owners: IdSet::default() });
        self.group_numbers.insert(address, number);
        each_slot_label(group, |name, value| {
            let label = entry(&mut self.slot_labels, name);
            if value.is_empty() { &mut label.emptied } else { &mut label.filled }.insert(number);
        });
        each_metric_name(group, |name| {
            entry(&mut self.metric_names, name).insert(number);
        });
        number
    }

    fn leave_group(&mut self, owner: OwnerId, number: u32) {
        let entry = self.groups.items[number as usize].as_mut().expect("an owner has it");
        entry.owners.remove(owner);
        if !entry.owners.is_empty() {
            return;
        }
        let IndexedGroup { group, .. } = self.groups.remove(number, self.pins > 0).expect("looked at above");
        self.group_numbers.remove(&Arc::as_ptr(&group).addr());
        each_slot_label(&group, |name, _| {
            if let Some(label) = self.slot_labels.get_mut(name) {
                label.filled.remove(number);
                label.emptied.remove(number);
                if label.filled.is_empty() && label.emptied.is_empty() {
                    self.slot_labels.remove(name);
                }
            }
        });
        each_metric_name(&group, |name| remove_from(&mut self.metric_names, name, number));
    }
}

fn entry<'m, V: Default>(map: &'m mut BTreeMap<Box<str>, V>, key: &str) -> &'m mut V {
    if !map.contains_key(key) {
        map.insert(key.into(), V::default());
    }
    map.get_mut(key).expect("inserted above")
}

fn remove_from(map: &mut BTreeMap<Box<str>, IdSet>, key: &str, id: u32) {
    if let Some(ids) = map.get_mut(key) {
        ids.remove(id);
        if ids.is_empty() {
            map.remove(key);
        }
    }
}

/// Calls `found` for the labels of the slots; not for all of slots that follow each other and have the same label names.
fn each_slot_label(group: &SlotGroup, mut found: impl FnMut(&str, &str)) {
    let mut before: Option<usize> = None;
    for slot in 0..group.len() {
        let same = before.is_some_and(|before| {
            let shape = |slot| group.label_pairs(slot).map(|(name, value): (&str, &str)| (name, value.is_empty()));
            shape(before).eq(shape(slot))
        });
        if !same {
            group.label_pairs(slot).for_each(|(name, value)| found(name, value));
            before = Some(slot);
        }
    }
}

/// Calls `found` for the metric names, once for slots that follow each other.
fn each_metric_name(group: &SlotGroup, mut found: impl FnMut(&str)) {
    let mut before = "";
    for slot in 0..group.len() {
        let name = group.metric_name(slot);
        if name != before && !name.is_empty() {
            found(name);
        }
        before = name;
    }
}

/// Whether a label name is that of the metric.
fn is_metric_name(name: &str) -> bool {
    name == METRIC_NAME
}
