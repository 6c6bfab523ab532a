//! Rows that are collected while an endpoint catches up, so that a series goes out with several samples instead of once for
//! each: a sixth of the bytes and of the work.
//!
//! Invariants:
//!   * a window has at most [`SAMPLES_MAX`] samples, and at most [`ROWS_MAX`] rows of a source
//!   * a series is in a window at most once: its source gets no other groups while the window is open
//!   * what comes out is in the order of the groups' first rows, and of a series in the order of time

use ahash::AHashMap;
use std::sync::Arc;
use tsdb::SlotGroup;
use tsdb::log::TargetKey;

/// 16 bytes each: 64 MiB for an endpoint, for as long as it catches up.
const SAMPLES_MAX: usize = 4 << 20;
/// More rows in one entry save nothing more.
const ROWS_MAX: usize = 64;

struct Entry {
    slot: u32,
    /// Place of its time.
    time: u32,
    value: f64,
}

/// The samples of a group of a source.
struct GroupSamples {
    target: Arc<TargetKey>,
    group: Arc<SlotGroup>,
    source: u64,
    times: Vec<i64>,
    entries: Vec<Entry>,
}

/// A source in a window.
struct SourceRows {
    /// Time of the last row.
    row: i64,
    rows: usize,
}

/// Rows of several sources.
#[derive(Default)]
pub struct Window {
    groups: Vec<GroupSamples>,
    by_group: AHashMap<(u64, usize), usize>,
    sources: AHashMap<u64, SourceRows>,
    /// The group of the last sample.
    last: Option<usize>,
    samples: usize,
}

/// One series with its samples.
pub struct WindowSeries<'a> {
    pub target: &'a Arc<TargetKey>,
    pub group: &'a Arc<SlotGroup>,
    pub slot: usize,
    pub source: u64,
    /// In the order of time.
    pub samples: &'a [(i64, f64)],
}

/// A sample for a window.
pub struct WindowSample<'a> {
    pub target: &'a Arc<TargetKey>,
    pub group: &'a Arc<SlotGroup>,
    pub slot: usize,
    pub source: u64,
    /// Time of its row.
    pub row: i64,
    pub at: i64,
    pub value: f64,
}

impl Window {
    pub fn is_empty(&self) -> bool {
        self.samples == 0
    }

    /// Adds a sample. Returns false if the window has to be emptied first.
    pub fn add(&mut self, sample: &WindowSample) -> bool {
        let address = Arc::as_ptr(sample.group).addr();
        let is_last = |place: &usize| {
            let last = &self.groups[*place];
            last.source == sample.source && Arc::as_ptr(&last.group).addr() == address
        };
        let known = self.last.filter(is_last).or_else(|| self.by_group.get(&(sample.source, address)).copied());
        let of_source = self.sources.get_mut(&sample.source);
        let is_new_row = of_source.as_ref().is_none_or(|rows| rows.row != sample.row);
        let is_full = self.samples >= SAMPLES_MAX;
        let has_rows_enough = is_new_row && of_source.as_ref().is_some_and(|rows| rows.rows >= ROWS_MAX);
        // Its series may have been in another group before.
        let has_other_groups = known.is_none() && of_source.as_ref().is_some_and(|rows| rows.rows > 1 || is_new_row);
        if is_full || has_rows_enough || has_other_groups {
            return false;
        }
        match of_source {
            Some(rows) if is_new_row => (rows.row, rows.rows) = (sample.row, rows.rows + 1),
            Some(_) => {}
            None => drop(self.sources.insert(sample.source, SourceRows { row: sample.row, rows: 1 })),
        }
        let place = known.unwrap_or_else(|| self.add_group(sample, address));
        self.last = Some(place);
        let samples = &mut self.groups[place];
        if samples.times.last() != Some(&sample.at) {
            samples.times.push(sample.at);
        }
        let time = samples.times.len() as u32 - 1;
        samples.entries.push(Entry { slot: sample.slot as u32, time, value: sample.value });
        self.samples += 1;
        true
    }

    fn add_group(&mut self, sample: &WindowSample, address: usize) -> usize {
        self.groups.push(GroupSamples {
            target: sample.target.clone(),
            group: sample.group.clone(),
            source: sample.source,
            times: Vec::new(),
            entries: Vec::new(),
        });
        self.by_group.insert((sample.source, address), self.groups.len() - 1);
        self.groups.len() - 1
    }

    /// Empties the window, series by series.
    pub fn drain(&mut self, mut each: impl FnMut(WindowSeries)) {
        let Window { groups, .. } = std::mem::take(self);
        let (mut ends, mut sorted) = (Vec::new(), Vec::new());
        for of_group in groups {
            let GroupSamples { target, group, source, times, entries } = &of_group;
            // By slot: first how many each has, then each behind the others of its slot.
            ends.clear();
            ends.resize(group.len() + 1, 0usize);
            entries.iter().for_each(|entry| ends[entry.slot as usize + 1] += 1);
            (0..group.len()).for_each(|slot| ends[slot + 1] += ends[slot]);
            sorted.clear();
            sorted.resize(entries.len(), (0i64, 0f64));
            for entry in entries {
                let place = &mut ends[entry.slot as usize];
                sorted[*place] = (times[entry.time as usize], entry.value);
                *place += 1;
            }
            let mut start = 0;
            // Each end is that of its slot now.
            for (slot, end) in ends[..group.len()].iter().copied().enumerate() {
                let samples = &mut sorted[start..end];
                start = end;
                if samples.is_empty() {
                    continue;
                }
                // Late samples come in rows of their own.
                if !samples.is_sorted_by_key(|(at, _)| *at) {
                    samples.sort_by_key(|(at, _)| *at);
                }
                each(WindowSeries { target, group, slot, source: *source, samples });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use series::Labels;
    use std::collections::BTreeMap;
    use tsdb::GroupBuilder;

    fn group(slots: usize) -> Arc<SlotGroup> {
        let mut builder = GroupBuilder::default();
        (0..slots).for_each(|slot| builder.push(&Labels::from_pairs([("__name__", format!("m{slot}"))]), false));
        Arc::new(builder.build())
    }

    fn target(id: u64) -> Arc<TargetKey> {
        Arc::new(TargetKey { id, labels: Labels::empty() })
    }

    #[test]
    fn a_series_comes_out_once_with_its_samples_in_order() {
        let (groups, targets) = ([group(3), group(5)], [target(0), target(1)]);
        let mut window = Window::default();
        let mut want: BTreeMap<(u64, usize, usize), Vec<(i64, f64)>> = BTreeMap::new();
        for row in 0..20i64 {
            for (source, target) in targets.iter().enumerate() {
                for (number, group) in groups.iter().enumerate() {
                    for slot in (0..group.len()).filter(|slot| (*slot as i64 + row) % 4 > 0) {
                        // One row is late.
                        let at = if row == 7 { 3 } else { row * 10 };
                        let value = (row * 100 + slot as i64) as f64;
                        let source = source as u64;
                        assert!(window.add(&WindowSample { target, group, slot, source, row, at, value }));
                        want.entry((source, number, slot)).or_default().push((at, value));
                    }
                }
            }
        }
        want.values_mut().for_each(|samples| samples.sort_by_key(|(at, _)| *at));
        let mut found = BTreeMap::new();
        window.drain(|series| {
            let number = groups.iter().position(|group| Arc::ptr_eq(group, series.group)).unwrap();
            let before = found.insert((series.source, number, series.slot), series.samples.to_vec());
            assert_eq!(before, None);
        });
        assert_eq!(found, want);
        assert!(window.is_empty());
    }

    #[test]
    fn other_groups_and_too_many_rows_end_a_window() {
        let (one, other, target) = (group(2), group(2), target(0));
        let mut window = Window::default();
        let mut add = |group: &Arc<SlotGroup>, slot: usize, source: u64, row: i64| {
            window.add(&WindowSample { target: &target, group, slot, source, row, at: row, value: 0.0 })
        };
        assert!(add(&one, 0, 1, 1) && add(&other, 0, 1, 1), "a row may have several groups");
        assert!(add(&one, 0, 1, 2) && add(&other, 1, 1, 2));
        let fresh = group(1);
        assert!(!add(&fresh, 0, 1, 2), "the first row had no such group");
        assert!(!add(&fresh, 0, 1, 3));
        assert!(add(&fresh, 0, 2, 3), "another source has it from its first row on");
        for row in 4..=ROWS_MAX as i64 + 1 {
            assert!(add(&one, 0, 1, row));
        }
        assert!(!add(&one, 0, 1, ROWS_MAX as i64 + 2));
    }
}
