//! Start times of a payload's series, for the head of its target.

use super::Reader;
use tsdb::NotedStarts;

impl Reader {
    /// What series have other start times than when this was asked last; None if none has.
    pub(crate) fn take_starts(&mut self) -> Option<NotedStarts> {
        let is_whole = std::mem::take(&mut self.has_other_starts);
        if !is_whole && !self.starts.iter().any(|start| start.is_new) {
            return None;
        }
        let new = self.starts.iter().filter(|start| is_whole || start.is_new);
        let slots = new.flat_map(|start| start.slots.iter().map(|slot| (*slot, start.at_ms())));
        let slots = self.places_of(slots.collect());
        self.starts.iter_mut().for_each(|start| start.is_new = false);
        Some(NotedStarts { slots, is_whole })
    }

    /// For slots of the payload with their start times: which of the groups it is, and the slot there.
    pub(crate) fn places_of(&self, mut slots: Vec<(u32, i64)>) -> Vec<(u32, u32, i64)> {
        slots.sort_unstable();
        let payload = self.shape.iter().map(|known| known.0.slots.len() as u32).filter(|slots| *slots > 0);
        // The report series come first.
        let mut groups = (1..).zip(payload);
        let (mut group, mut base, mut end) = (0, 0, 0);
        let mut places = Vec::with_capacity(slots.len());
        for (slot, start) in slots {
            while slot >= end {
                let Some((next, count)) = groups.next() else { return places };
                (group, base, end) = (next, end, end + count);
            }
            places.push((group, slot - base, start));
        }
        places
    }
}
