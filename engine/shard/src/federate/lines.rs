//! Lines of one name of one target, in slices.

use super::index::{Entry, Plan};
use super::{FederateRequest, Lines, Owner, Owners, PIECE_BYTES};
use ahash::{AHashMap, AHashSet};
use exposition::Line;
use series::{Labels, METRIC_NAME, Sample, Timestamp};
use std::sync::Arc;
use tsdb::{SlotGroup, TargetHead};

/// Slots that are written before others of the core get their turn.
const SLOTS_PER_SLICE: usize = 512;

/// How far the lines of a name of a target are written.
pub(crate) struct Cursor {
    /// The name's number.
    number: u64,
    /// Index into the entry's places, and into the matching slots of that place.
    place: usize,
    slot: usize,
    /// Series that were written before the places changed.
    done: AHashSet<u64>,
    /// Of a series with several slots here, the one with the newest sample.
    best: Option<AHashMap<u64, (i64, u32, u32)>>,
}

impl Cursor {
    pub fn new(number: u64) -> Cursor {
        Cursor { number, place: 0, slot: 0, done: AHashSet::new(), best: None }
    }

    /// Whether anything may have been written.
    pub fn is_begun(&self) -> bool {
        (self.place, self.slot) != (0, 0) || !self.done.is_empty()
    }
}

/// Writes for one core.
pub(crate) struct LineWriter<'a> {
    pub core: usize,
    pub request: &'a FederateRequest,
    pub owners: &'a Owners,
}

/// A target as it is now.
pub(crate) struct Source<'a> {
    pub head: &'a TargetHead,
    pub target: &'a Labels,
    pub entry: &'a Entry,
    pub owner: u32,
    pub after: Timestamp,
    pub visible: u64,
}

impl Source<'_> {
    pub fn newest(&self, place: u32, slot: u32) -> Option<Sample> {
        self.newest_or_marker(place, slot).filter(|sample| !series::is_stale(sample.value))
    }

    /// The same, or the marker of a series with own times. Rows in memory were written by this process: one that does not
    /// decode is our own mistake.
    pub fn newest_or_marker(&self, place: u32, slot: u32) -> Option<Sample> {
        let sample = self.head.newest_of(place as usize, slot as usize, self.after, self.visible);
        sample.expect("rows of this process decode")
    }
}

impl LineWriter<'_> {
    /// Writes on; true when the target has no more lines of the name. Stops after a slice, or when the piece is full.
    pub fn write(&self, source: &Source, plans: &[Plan], name: &str, cursor: &mut Cursor, lines: &mut Lines) -> bool {
        if !self.owners.is_empty() && cursor.best.is_none() {
            cursor.best = Some(self.best_of_several(source, plans, name, cursor.number));
        }
        let mut left = SLOTS_PER_SLICE;
        while let Some((place, plan)) = source.entry.places.get(cursor.place).copied() {
            let plan = &plans[plan as usize];
            let slots = plan.of_name(name, cursor.number).iter().cloned().flatten();
            for slot in slots.skip(cursor.slot) {
                if left == 0 || lines.text.len() >= PIECE_BYTES {
                    return false;
                }
                left -= 1;
                cursor.slot += 1;
                let Some(sample) = source.newest(place, slot) else { continue };
                if (self.owners.is_empty() && cursor.done.is_empty())
                    || self.is_ours(source, &plan.group, (place, slot), cursor)
                {
                    self.line(name, &plan.group, slot, source.target, sample, &mut lines.text);
                    lines.series += 1;
                }
            }
            cursor.place += 1;
            cursor.slot = 0;
        }
        true
    }

    fn is_ours(&self, source: &Source, group: &SlotGroup, (place, slot): (u32, u32), cursor: &Cursor) -> bool {
        let hash = self.request.hash(group.series_pairs(slot as usize, source.target));
        let owned = self.owners.get(&hash).is_none_or(|owner| {
            let us = Owner::Target { core: self.core, owner: source.owner };
            let best = cursor.best.as_ref().and_then(|best| best.get(&hash));
            *owner == us && best.is_none_or(|(_, best_place, best_slot)| (*best_place, *best_slot) == (place, slot))
        });
        owned && !cursor.done.contains(&hash)
    }

    /// Where the newest samples are of series that are ours and in several slots.
    fn best_of_several(
        &self,
        source: &Source,
        plans: &[Plan],
        name: &str,
        number: u64,
    ) -> AHashMap<u64, (i64, u32, u32)> {
        let us = Owner::Target { core: self.core, owner: source.owner };
        let mut best: AHashMap<u64, (i64, u32, u32)> = AHashMap::new();
        for (place, plan) in &source.entry.places {
            let plan = &plans[*plan as usize];
            for slot in plan.of_name(name, number).iter().cloned().flatten() {
                let hash = self.request.hash(plan.group.series_pairs(slot as usize, source.target));
                if self.owners.get(&hash) == Some(&us)
                    && let Some(sample) = source.newest(*place, slot)
                {
                    let this = (sample.timestamp.0, *place, slot);
                    let known = best.entry(hash).or_insert(this);
                    if this.0 > known.0 {
                        *known = this;
                    }
                }
            }
        }
        best
    }

    /// The target's places are others now: what was written is remembered by its hash.
    pub fn moved(&self, entry: &Entry, plans: &[Plan], target: &Labels, name: &str, cursor: &mut Cursor) {
        for (i, (_, plan)) in entry.places.iter().enumerate().take(cursor.place + 1) {
            let plan = &plans[*plan as usize];
            let count = if i == cursor.place { cursor.slot } else { usize::MAX };
            for slot in plan.of_name(name, cursor.number).iter().cloned().flatten().take(count) {
                cursor.done.insert(self.request.hash(plan.group.series_pairs(slot as usize, target)));
            }
        }
        (cursor.place, cursor.slot, cursor.best) = (0, 0, None);
    }

    fn line(&self, name: &str, group: &SlotGroup, slot: u32, target: &Labels, sample: Sample, out: &mut String) {
        let pairs = group.series_pairs(slot as usize, target).filter(|(name, _)| *name != METRIC_NAME);
        write_line(self.request, name, pairs, sample, out);
    }
}

/// Writes a line: own labels, then the external ones that are missing.
pub fn write_line<'a>(
    request: &FederateRequest,
    name: &str,
    pairs: impl Iterator<Item = (&'a str, &'a str)> + Clone,
    sample: Sample,
    out: &mut String,
) {
    let mut line = Line::begin(name, request.escaping, out);
    // Both are sorted: one pass finds which external labels the series has.
    let mut external = request.external_labels.iter().enumerate().peekable();
    let mut present = 0u64;
    for (name, value) in pairs.clone() {
        line.label(name, value);
        while external.next_if(|(_, (external, _))| *external < name).is_some() {}
        if let Some((at, _)) = external.next_if(|(_, (external, _))| *external == name) {
            present |= 1u64.checked_shl(at as u32).unwrap_or(0);
        }
    }
    for (at, (name, value)) in request.external_labels.iter().enumerate() {
        let is_present = match 1u64.checked_shl(at as u32) {
            Some(bit) => present & bit != 0,
            None => pairs.clone().any(|(own, _)| own == name),
        };
        if !is_present {
            line.label(name, value);
        }
    }
    line.end(sample.value, Some(sample.timestamp.0));
}

impl Lines {
    /// Lines that follow are of this name.
    pub fn begin(&mut self, name: &Arc<str>) {
        if self.names.last().is_none_or(|(last, _)| last != name) {
            self.names.push((name.clone(), self.text.len()));
        }
    }

    /// The lines of the last name end here; a name without lines goes.
    pub fn end(&mut self) {
        let start = self.names.len().checked_sub(2).map_or(0, |before| self.names[before].1);
        match self.names.last_mut() {
            Some(last) if self.text.len() > start => last.1 = self.text.len(),
            Some(_) => drop(self.names.pop()),
            None => {}
        }
    }
}
