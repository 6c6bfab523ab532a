//! Rows that are collected while an endpoint catches up, so that a series goes out with several samples instead of once for
//! each: a sixth of the bytes and of the work.
//!
//! Invariants:
//!   * a window has at most [`SAMPLES_MAX`] samples, and at most [`ROWS_MAX`] rows of a source
//!   * a series comes out of a window at most once: its source gets no other groups while the window is open, and samples of
//!     a series that moved between the slots of these are joined
//!   * what comes out is in the order of the groups' first rows, and of a series in the order of time

use ahash::{AHashMap, RandomState};
use series::{NO_START, StartTimes, sort_starts};
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
    /// Of slots that have start times: where those change.
    starts: AHashMap<u32, StartTimes>,
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
    pub starts: &'a [(i64, i64)],
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
    /// When what it counts began, 0 if that is not known.
    pub start: i64,
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
        let slot = sample.slot as u32;
        samples.entries.push(Entry { slot, time, value: sample.value });
        if sample.start != NO_START || samples.starts.contains_key(&slot) {
            // Markers have none, which need not be said.
            let is_marker = series::is_stale(sample.value);
            let starts = samples.starts.entry(slot).or_default();
            if !is_marker && starts.last().is_none_or(|(at, last)| *last != sample.start || sample.at < *at) {
                starts.push((sample.at, sample.start));
            }
        }
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
            starts: AHashMap::new(),
        });
        self.by_group.insert((sample.source, address), self.groups.len() - 1);
        self.groups.len() - 1
    }

    /// Empties the window, series by series.
    pub fn drain(&mut self, mut each: impl FnMut(WindowSeries)) {
        let Window { groups, sources, .. } = std::mem::take(self);
        let mut moved = MovedSeries::find(&groups, &sources);
        let (mut ends, mut sorted) = (Vec::new(), Vec::new());
        for (number, of_group) in groups.into_iter().enumerate() {
            let GroupSamples { target, group, source, times, entries, starts: starts_of_slots } = &of_group;
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
                let mut samples = &mut sorted[start..end];
                start = end;
                let of_slot = starts_of_slots.get(&(slot as u32));
                let mut starts = of_slot.map_or(&[][..], Vec::as_slice);
                let mut sorted_starts;
                if let Some((of_series, starts_of_series)) = moved.of(number, slot) {
                    (samples, starts) = (of_series, starts_of_series);
                }
                if !starts.is_sorted_by_key(|(at, _)| *at) {
                    sorted_starts = starts.to_vec();
                    sort_starts(&mut sorted_starts);
                    starts = &sorted_starts;
                }
                if samples.is_empty() {
                    continue;
                }
                // Late samples come in rows of their own.
                if !samples.is_sorted_by_key(|(at, _)| *at) {
                    samples.sort_by_key(|(at, _)| *at);
                }
                each(WindowSeries { target, group, slot, source: *source, samples, starts });
            }
        }
    }
}

/// Series of which several slots of a source have samples: those that have moved from one slot to another.
#[derive(Default)]
struct MovedSeries {
    /// By group and slot.
    series: AHashMap<(usize, usize), usize>,
    /// For each of them all its samples, until its first slot comes out.
    samples: Vec<Vec<(i64, f64)>>,
    /// Their start times.
    starts: Vec<StartTimes>,
    /// Those that are coming out.
    current: (Vec<(i64, f64)>, StartTimes),
}

impl MovedSeries {
    fn find(groups: &[GroupSamples], sources: &AHashMap<u64, SourceRows>) -> MovedSeries {
        let (mut moved, hasher) = (MovedSeries::default(), RandomState::new());
        let (mut counts, mut slots_of) = (Vec::new(), AHashMap::<(u64, u64), Vec<(usize, usize)>>::new());
        for (number, GroupSamples { group, source, entries, .. }) in groups.iter().enumerate() {
            // A slot that has a sample in each row shares its series with no other.
            let rows = sources.get(source).map_or(0, |rows| rows.rows);
            if entries.len() == rows * group.len() {
                continue;
            }
            counts.clear();
            counts.resize(group.len(), 0usize);
            entries.iter().for_each(|entry| counts[entry.slot as usize] += 1);
            for slot in (0..group.len()).filter(|slot| (1..rows).contains(&counts[*slot])) {
                slots_of.entry((*source, group.slot_hash(slot, &hasher))).or_default().push((number, slot));
            }
        }
        for slots in slots_of.into_values().filter(|slots| slots.len() > 1) {
            moved.series.extend(slots.into_iter().map(|slot| (slot, moved.samples.len())));
            moved.samples.push(Vec::new());
            moved.starts.push(StartTimes::new());
        }
        if moved.series.is_empty() {
            return moved;
        }
        for (number, GroupSamples { times, entries, starts, .. }) in groups.iter().enumerate() {
            for (slot, of_slot) in starts {
                if let Some(series) = moved.series.get(&(number, *slot as usize)) {
                    moved.starts[*series].extend_from_slice(of_slot);
                }
            }
            for Entry { slot, time, value } in entries {
                if let Some(series) = moved.series.get(&(number, *slot as usize)) {
                    moved.samples[*series].push((times[*time as usize], *value));
                }
            }
        }
        moved
    }

    /// All samples of a slot's series, once; none for its other slots. Nothing for a series that did not move.
    fn of(&mut self, group: usize, slot: usize) -> Option<SamplesAndStarts<'_>> {
        let series = self.series.get(&(group, slot))?;
        self.current = (std::mem::take(&mut self.samples[*series]), std::mem::take(&mut self.starts[*series]));
        let (samples, starts) = &mut self.current;
        Some((samples, starts))
    }
}

/// The samples of a series that moved, and its start times.
type SamplesAndStarts<'a> = (&'a mut [(i64, f64)], &'a [(i64, i64)]);

#[cfg(test)]
mod tests {
    use super::*;
    use series::Labels;
    use std::collections::BTreeMap;
    use tsdb::GroupBuilder;

    fn group(prefix: &str, slots: usize) -> Arc<SlotGroup> {
        let mut builder = GroupBuilder::default();
        (0..slots).for_each(|slot| builder.push(&Labels::from_pairs([("__name__", format!("{prefix}{slot}"))]), false));
        Arc::new(builder.build())
    }

    fn target(id: u64) -> Arc<TargetKey> {
        Arc::new(TargetKey { id, labels: Labels::empty() })
    }

    #[test]
    fn a_series_comes_out_once_with_its_samples_in_order() {
        let (groups, targets) = ([group("m", 3), group("n", 5)], [target(0), target(1)]);
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
                        assert!(window.add(&WindowSample { target, group, slot, source, row, at, value, start: 0 }));
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
    fn samples_of_a_series_that_moves_between_slots_come_out_together() {
        let named = |names: &[&str]| {
            let mut builder = GroupBuilder::default();
            names.iter().for_each(|name| builder.push(&Labels::from_pairs([("__name__", *name)]), false));
            Arc::new(builder.build())
        };
        let (one, other, target) = (named(&["a", "b"]), named(&["b", "c"]), target(0));
        let mut window = Window::default();
        let mut add = |group: &Arc<SlotGroup>, slot: usize, row: i64, value: f64| {
            assert!(window.add(&WindowSample {
                target: &target,
                group,
                slot,
                source: 7,
                row,
                at: row,
                value,
                start: 0
            }));
        };
        // The second group follows the first, of which a ends; then both are used in turn.
        (0..2).for_each(|slot| add(&other, slot, 1, 1.0));
        add(&one, 0, 1, -1.0);
        for row in 2..6 {
            let (now, before) = if row % 2 == 0 { (&one, &other) } else { (&other, &one) };
            (0..2).for_each(|slot| add(now, slot, row, row as f64));
            add(before, if row % 2 == 0 { 1 } else { 0 }, row, -1.0);
        }
        let mut found = BTreeMap::new();
        window.drain(|series| {
            let name = series.group.metric_name(series.slot).to_owned();
            assert_eq!(found.insert(name, series.samples.to_vec()), None);
        });
        let samples = |values: [f64; 5]| (1..).zip(values).collect::<Vec<(i64, f64)>>();
        let want =
            [("a", [-1.0, 2.0, -1.0, 4.0, -1.0]), ("b", [1.0, 2.0, 3.0, 4.0, 5.0]), ("c", [1.0, -1.0, 3.0, -1.0, 5.0])];
        assert_eq!(found, BTreeMap::from(want.map(|(name, values)| (name.to_owned(), samples(values)))));
    }

    #[test]
    fn other_groups_and_too_many_rows_end_a_window() {
        let (one, other, target) = (group("m", 2), group("n", 2), target(0));
        let mut window = Window::default();
        let mut add = |group: &Arc<SlotGroup>, slot: usize, source: u64, row: i64| {
            window.add(&WindowSample { target: &target, group, slot, source, row, at: row, value: 0.0, start: 0 })
        };
        assert!(add(&one, 0, 1, 1) && add(&other, 0, 1, 1), "a row may have several groups");
        assert!(add(&one, 0, 1, 2) && add(&other, 1, 1, 2));
        let fresh = group("o", 1);
        assert!(!add(&fresh, 0, 1, 2), "the first row had no such group");
        assert!(!add(&fresh, 0, 1, 3));
        assert!(add(&fresh, 0, 2, 3), "another source has it from its first row on");
        for row in 4..=ROWS_MAX as i64 + 1 {
            assert!(add(&one, 0, 1, row));
        }
        assert!(!add(&one, 0, 1, ROWS_MAX as i64 + 2));
    }
}
