//! What a chunk file holds: targets, slot groups, and an entry for the chunks of each segment.

use crate::group::SlotGroup;
use crate::label_index::{LabelIndex, MatchedGroup, OwnerSet, Search};
use crate::log::TargetKey;
use ahash::AHashMap;
use series::{Labels, Matcher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

/// A segment's chunks in a file.
#[derive(Clone, Debug)]
pub struct ChunkIndexEntry {
    pub target: u32,
    pub groups: Box<[u32]>,
    /// Where the table begins, how many slots it has, and the bytes of table and chunks.
    pub offset: u64,
    pub slots: u32,
    pub bytes: u64,
    pub samples: u64,
    /// Entries hold several chunks, of histograms.
    pub histograms: bool,
    pub first: i64,
    pub last: i64,
    pub first_row: i64,
}

#[derive(Default)]
pub struct Index {
    pub targets: Vec<TargetKey>,
    pub groups: Vec<Arc<SlotGroup>>,
    pub entries: Vec<ChunkIndexEntry>,
    /// For each target the numbers of its entries.
    entries_of: Vec<Vec<u32>>,
    pub samples: u64,
    /// Slots of all entries.
    pub chunks: u64,
    /// Targets and groups of all entries by label; the number of a target is that of its owner. What only entries have that
    /// were forgotten stays in it.
    pub labels: LabelIndex<()>,
}

impl Index {
    pub fn add_target(&mut self, key: TargetKey) {
        let owner = self.labels.add(key.labels.clone(), ());
        assert_eq!(owner as usize, self.targets.len(), "targets of a file are only added");
        self.targets.push(key);
        self.entries_of.push(Vec::new());
    }

    pub fn add_entry(&mut self, entry: ChunkIndexEntry) {
        self.labels.add_groups(entry.target, entry.groups.iter().map(|number| &self.groups[*number as usize]));
        self.entries_of[entry.target as usize].push(self.entries.len() as u32);
        self.chunks += u64::from(entry.slots);
        self.entries.push(entry);
    }

    /// Removes the entry at an offset of the file.
    pub fn forget_entry(&mut self, offset: u64) {
        self.entries.retain(|entry| entry.offset != offset);
        self.entries_of.iter_mut().for_each(Vec::clear);
        for (number, entry) in self.entries.iter().enumerate() {
            self.entries_of[entry.target as usize].push(number as u32);
        }
    }

    /// Finds the targets and entries that overlap `[from, to]` and may have a slot that one of the selectors selects.
    /// Targets with `skip` are left out.
    pub fn select(
        &self,
        selectors: &[Vec<Matcher>],
        (from, to): (i64, i64),
        skip: &impl Fn(u64) -> bool,
        stop: &AtomicBool,
    ) -> Selection {
        let mut by_group: AHashMap<usize, Vec<MatchedGroup>> = AHashMap::new();
        let mut owners = OwnerSet::new();
        for matchers in selectors {
            let mut search = Search::new(matchers);
            let mut found = |matched: MatchedGroup| {
                owners |= &matched.owners;
                by_group.entry(Arc::as_ptr(&matched.group).addr()).or_default().push(matched);
            };
            while !stop.load(Ordering::Relaxed) && search.step(&self.labels, &mut found) {}
        }
        let entry_of = |number: &u32| {
            let entry = &self.entries[*number as usize];
            let has_matched = || entry.groups.iter().any(|group| by_group.contains_key(&self.address(*group)));
            (entry.first <= to && entry.last >= from && has_matched()).then(|| SelectedEntry {
                groups: entry.groups.iter().map(|group| self.groups[*group as usize].clone()).collect(),
                entry: entry.clone(),
            })
        };
        let target_of = |number: u32| {
            let key = &self.targets[number as usize];
            let entries: Vec<SelectedEntry> = match skip(key.id) {
                true => Vec::new(),
                false => self.entries_of[number as usize].iter().filter_map(entry_of).collect(),
            };
            (!entries.is_empty()).then(|| SelectedTarget { labels: key.labels.clone(), entries })
        };
        let targets = owners.iter().filter_map(target_of).collect();
        Selection { targets, by_group }
    }

    fn address(&self, group: u32) -> usize {
        Arc::as_ptr(&self.groups[group as usize]).addr()
    }
}

/// What a select found in a file.
pub struct Selection {
    /// Ascending by their numbers.
    pub targets: Vec<SelectedTarget>,
    /// Selected slots by the addresses of their groups, which the entries keep alive.
    by_group: AHashMap<usize, Vec<MatchedGroup>>,
}

pub struct SelectedTarget {
    pub labels: Labels,
    pub entries: Vec<SelectedEntry>,
}

pub struct SelectedEntry {
    pub entry: ChunkIndexEntry,
    pub groups: Box<[Arc<SlotGroup>]>,
}

/// A slot that is wanted of an entry.
pub struct SelectedSlot {
    /// Which of the entry's groups has it, and where.
    pub group: u32,
    pub slot: u32,
    /// Its number among all slots of the entry.
    pub in_entry: u32,
}

impl Selection {
    /// The selected slots of an entry, ascending.
    pub fn slots_of(&self, selected: &SelectedEntry) -> Vec<SelectedSlot> {
        let (mut slots, mut base) = (Vec::new(), 0);
        for (number, group) in selected.groups.iter().enumerate() {
            let matched = self.by_group.get(&Arc::as_ptr(group).addr()).into_iter().flatten();
            let (begin, mut selectors) = (slots.len(), 0);
            for matched in matched.filter(|matched| matched.owners.contains(selected.entry.target)) {
                selectors += 1;
                slots.extend(matched.slots().map(|slot| SelectedSlot {
                    group: number as u32,
                    slot: slot as u32,
                    in_entry: base + slot as u32,
                }));
            }
            if selectors > 1 {
                slots[begin..].sort_unstable_by_key(|slot| slot.slot);
                slots.dedup_by_key(|slot| slot.in_entry);
            }
            base += group.len() as u32;
        }
        slots
    }
}

/// Times of the oldest and the newest sample of a file: two numbers that are read without waiting for anyone.
#[derive(Debug)]
pub struct TimeBounds {
    first: AtomicI64,
    last: AtomicI64,
}

impl Default for TimeBounds {
    fn default() -> TimeBounds {
        TimeBounds { first: AtomicI64::new(i64::MAX), last: AtomicI64::new(i64::MIN) }
    }
}

impl TimeBounds {
    pub fn of(entries: &[ChunkIndexEntry]) -> TimeBounds {
        let bounds = TimeBounds::default();
        bounds.add(entries);
        bounds
    }

    pub fn add(&self, entries: &[ChunkIndexEntry]) {
        for entry in entries {
            self.first.fetch_min(entry.first, Ordering::Relaxed);
            self.last.fetch_max(entry.last, Ordering::Relaxed);
        }
    }

    /// Not before what was added, and perhaps wider: an entry that is forgotten leaves them as they are.
    pub fn get(&self) -> Option<(i64, i64)> {
        let (first, last) = (self.first.load(Ordering::Relaxed), self.last.load(Ordering::Relaxed));
        (first <= last).then_some((first, last))
    }
}
