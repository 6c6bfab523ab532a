//! Aggregations that are carried out where the samples are.
//!
//! `sum by (x) (rate(y[5m]))` needs of each series only what it adds to its group. A [`Pushdown`] goes to the owners of
//! the series; each fills a [`PartialAggregate`] of its own, and the partials are merged.
//!
//! Samples of one target share their times, so the windows of all its series are found once, and a rate is a few plain
//! loops over rows of values.

use crate::annotations::AnnotationCollector;
use crate::eval::math::{self, Sum, factor, group_labels};
use crate::eval::value::{ABSENT, Column, is_absent, without_name};
use crate::eval::window::{COUNTER_SUFFIXES, NOT_A_COUNTER, Window};
use crate::plan::grid::StepGrid;
use crate::plan::pushdown::{Function, Pushdown, SeriesInput};
use crate::syntax::ast::{AggregateOp, RangeModifier};
use ahash::AHashMap;
use series::{Labels, STALE_NAN, Sample, Timestamp};
use std::collections::BTreeSet;
use std::sync::Arc;

impl Function {
    /// Of the floats of a window; there is at least one.
    fn of(self, window: &Window) -> Option<f64> {
        match self {
            Function::Rate => window.extrapolated_floats(true, true),
            Function::Increase => window.extrapolated_floats(true, false),
            Function::Delta => window.extrapolated_floats(false, false),
            Function::Irate => window.instant_change_floats(true),
            Function::Idelta => window.instant_change_floats(false),
            Function::Sum => Some(math::sum(window.values())),
            Function::Avg => Some(math::mean(window.values())),
            Function::Min => Some(window.extreme(|value, best| value < best)),
            Function::Max => Some(window.extreme(|value, best| value > best)),
            Function::Count => Some(window.floats.len() as f64),
            Function::Present => Some(1.0),
            Function::Changes => Some(window.changes()),
            Function::Resets => Some(window.resets()),
        }
    }
}

/// What some of the series add to each group.
#[derive(Debug)]
pub struct PartialAggregate {
    pushdown: Arc<Pushdown>,
    group_indexes: AHashMap<Labels, u32>,
    groups: Vec<Labels>,
    /// Bytes of the groups' labels.
    label_bytes: usize,
    totals: Totals,
    samples: usize,
    /// Names of series in each group that are not those of counters.
    no_counters: BTreeSet<(u32, String)>,
    scratch: Scratch,
}

/// What came together so far.
#[derive(Debug)]
struct Totals {
    op: AggregateOp,
    /// Times of each group.
    steps: usize,
    /// For each group and time: a sum, or the best value.
    values: Vec<Sum>,
    counts: Vec<f64>,
}

impl Totals {
    /// Adds the values of series of one group that are there; returns how many are.
    fn add_all(&mut self, group: u32, i: usize, values: &[f64]) -> usize {
        let there = || values.iter().copied().filter(|value| !is_absent(*value));
        if matches!(self.op, AggregateOp::Count | AggregateOp::Group) {
            let count = there().count();
            self.counts[group as usize * self.steps + i] += count as f64;
            return count;
        }
        let mut count = 0;
        for value in there() {
            self.add(group, i, value);
            count += 1;
        }
        count
    }

    #[inline]
    fn add(&mut self, group: u32, i: usize, value: f64) {
        let at = group as usize * self.steps + i;
        let (best, count) = (&mut self.values[at], &mut self.counts[at]);
        match self.op {
            AggregateOp::Sum | AggregateOp::Avg => best.add(value),
            AggregateOp::Min | AggregateOp::Max => {
                let largest = self.op == AggregateOp::Max;
                let better = if largest { value > best.sum } else { value < best.sum };
                if *count == 0.0 || better || best.sum.is_nan() {
                    best.sum = value;
                }
            }
            _ => {}
        }
        *count += 1.0;
    }
}

#[derive(Debug, Default)]
struct Scratch {
    samples: Vec<Sample>,
    resets: Vec<f64>,
    gaps: Vec<bool>,
}

impl PartialAggregate {
    pub fn new(pushdown: Arc<Pushdown>) -> PartialAggregate {
        let (op, steps) = (pushdown.aggregate.op, pushdown.grid.count);
        PartialAggregate {
            pushdown,
            group_indexes: AHashMap::new(),
            groups: Vec::new(),
            label_bytes: 0,
            totals: Totals { op, steps, values: Vec::new(), counts: Vec::new() },
            samples: 0,
            no_counters: BTreeSet::new(),
            scratch: Scratch::default(),
        }
    }

    /// The group of a series; it has to have samples.
    pub fn group(&mut self, labels: &Labels) -> u32 {
        let group = self.group_of(group_labels(labels, &self.pushdown.aggregate));
        if self.pushdown.reset_corrected() {
            let name = labels.metric_name();
            if !name.is_empty() && !COUNTER_SUFFIXES.iter().any(|suffix| name.ends_with(suffix)) {
                self.no_counters.insert((group, name.to_owned()));
            }
        }
        group
    }

    fn group_of(&mut self, key: Labels) -> u32 {
        let (groups, totals) = (&mut self.groups, &mut self.totals);
        *self.group_indexes.entry(key).or_insert_with_key(|key| {
            groups.push(key.clone());
            // The label set, and its places in the list and in the map.
            self.label_bytes += key.bytes() + 2 * size_of::<Labels>() + size_of::<u64>();
            totals.values.resize(groups.len() * totals.steps, Sum::default());
            totals.counts.resize(groups.len() * totals.steps, 0.0);
            groups.len() as u32 - 1
        })
    }

    /// [`PartialAggregate::group`] by its name of before.
    pub fn place(&mut self, labels: &Labels) -> u32 {
        self.group(labels)
    }

    /// Whether all series are of the same group.
    pub fn has_one_group(&self) -> bool {
        let Pushdown { aggregate, .. } = &*self.pushdown;
        !aggregate.without && aggregate.labels.is_empty() && !self.pushdown.reset_corrected()
    }

    /// Bytes of memory that the sums take.
    pub fn bytes(&self) -> u64 {
        let Totals { values, counts, .. } = &self.totals;
        (values.capacity() * size_of::<Sum>() + counts.capacity() * size_of::<f64>() + self.label_bytes) as u64
    }

    /// Number of groups.
    pub(crate) fn groups(&self) -> usize {
        self.groups.len()
    }

    /// Samples that were scanned so far.
    pub fn samples(&self) -> usize {
        self.samples
    }

    /// Takes series of one target: their groups, the times of the target's rows in order, and a row of values for each
    /// time. A staleness marker means that there is no value.
    pub fn add_rows(&mut self, slot_groups: &[u32], times: &[i64], values: &[f64]) {
        let width = slot_groups.len();
        assert_eq!(values.len(), width * times.len(), "a value for every series and time");
        match self.pushdown.inner {
            SeriesInput::Newest => self.add_newest(slot_groups, times, values),
            SeriesInput::Over(Function::Rate | Function::Increase | Function::Delta) => {
                self.add_rates(slot_groups, times, values)
            }
            SeriesInput::Over(_) => {
                for (slot, group) in slot_groups.iter().enumerate() {
                    self.add_slot(*group, slot, width, times, values);
                }
            }
        }
    }

    fn add_slot(&mut self, group: u32, slot: usize, width: usize, times: &[i64], values: &[f64]) {
        let mut samples = std::mem::take(&mut self.scratch.samples);
        samples.clear();
        let column = values.iter().skip(slot).step_by(width);
        let there = times.iter().zip(column).filter(|(_, value)| !is_absent(**value));
        samples.extend(there.map(|(time, value)| Sample { timestamp: Timestamp(*time), value: *value }));
        self.add_series(group, &samples);
        self.scratch.samples = samples;
    }

    fn add_newest(&mut self, slot_groups: &[u32], times: &[i64], values: &[f64]) {
        let PartialAggregate { pushdown, totals, .. } = self;
        let width = slot_groups.len();
        let mut next = 0;
        for (i, time) in pushdown.grid.times().enumerate() {
            let time = pushdown.at.unwrap_or(time) - pushdown.offset;
            while times.get(next).is_some_and(|at| *at <= time) {
                next += 1;
            }
            if next == 0 || times[next - 1] <= time - pushdown.back {
                continue;
            }
            let row = &values[(next - 1) * width..next * width];
            let mut from = 0;
            for run in slot_groups.chunk_by(|one, next| one == next) {
                self.samples += totals.add_all(run[0], i, &row[from..from + run.len()]);
                from += run.len();
            }
        }
    }

    /// Rates of series that have a finite value at every time; the others one by one.
    fn add_rates(&mut self, slot_groups: &[u32], times: &[i64], values: &[f64]) {
        let PartialAggregate { pushdown, totals, scratch, samples, .. } = self;
        let width = slot_groups.len();
        if times.is_empty() {
            return;
        }
        let Scratch { gaps, resets, .. } = scratch;
        gaps.clear();
        gaps.resize(width, false);
        for row in values.chunks_exact(width) {
            for (gap, value) in gaps.iter_mut().zip(row) {
                *gap |= is_absent(*value) || value.is_infinite();
            }
        }
        // What resets took away, up to each row.
        let counter = pushdown.reset_corrected();
        if counter {
            resets.clear();
            resets.resize(values.len(), 0.0);
            for row in 1..times.len() {
                let (before, now) = values[(row - 1) * width..(row + 1) * width].split_at(width);
                let (lost, losses) = resets[(row - 1) * width..(row + 1) * width].split_at_mut(width);
                for slot in 0..width {
                    losses[slot] = lost[slot] + if now[slot] < before[slot] { before[slot] } else { 0.0 };
                }
            }
        }
        let per_second = pushdown.inner == SeriesInput::Over(Function::Rate);
        let (mut from, mut to) = (0, 0);
        for (i, time) in pushdown.grid.times().enumerate() {
            let end = pushdown.at.unwrap_or(time) - pushdown.offset;
            let start = end - pushdown.back;
            while times.get(to).is_some_and(|at| *at <= end) {
                to += 1;
            }
            while from < to && times[from] <= start {
                from += 1;
            }
            if to - from < 2 {
                continue;
            }
            *samples += (to - from) * width;
            let (first, last) = (&values[from * width..(from + 1) * width], &values[(to - 1) * width..to * width]);
            let of = |zero_share| factor(times[from], times[to - 1], to - from, start, end, zero_share, per_second);
            // Most counters are far from zero: then the factor is the same for all.
            let plain = of(None);
            let sampled = times[to - 1] - times[from];
            for slot in 0..width {
                if gaps[slot] {
                    continue;
                }
                let mut change = last[slot] - first[slot];
                let mut factor = plain;
                if counter {
                    change += resets[(to - 1) * width + slot] - resets[from * width + slot];
                    let share = first[slot] / change;
                    if change > 0.0 && first[slot] >= 0.0 && share * (sampled as f64) < pushdown.back as f64 {
                        factor = of(Some(share));
                    }
                }
                totals.add(slot_groups[slot], i, change * factor);
            }
        }
        if gaps.contains(&true) {
            let gaps = std::mem::take(gaps);
            for slot in (0..width).filter(|slot| gaps[*slot]) {
                self.add_slot(slot_groups[slot], slot, width, times, values);
            }
            self.scratch.gaps = gaps;
        }
    }

    /// Takes a series, samples in order of time.
    pub fn add_series(&mut self, group: u32, samples: &[Sample]) {
        match self.pushdown.inner {
            SeriesInput::Newest => {
                let times: Vec<i64> = samples.iter().map(|sample| sample.timestamp.0).collect();
                let values: Vec<f64> = samples.iter().map(|sample| sample.value).collect();
                self.add_newest(&[group], &times, &values);
            }
            SeriesInput::Over(function) => {
                let PartialAggregate { pushdown, totals, .. } = self;
                let labels = Labels::empty();
                let (mut from, mut to) = (0, 0);
                for (i, time) in pushdown.grid.times().enumerate() {
                    let end = pushdown.at.unwrap_or(time) - pushdown.offset;
                    let start = end - pushdown.back;
                    while samples.get(to).is_some_and(|sample| sample.timestamp.0 <= end) {
                        to += 1;
                    }
                    while from < to && samples[from].timestamp.0 <= start {
                        from += 1;
                    }
                    if from == to {
                        continue;
                    }
                    self.samples += to - from;
                    let floats = &samples[from..to];
                    let window = Window {
                        labels: &labels,
                        floats,
                        histograms: &[],
                        starts: &[],
                        start,
                        end,
                        modifier: RangeModifier::Plain,
                    };
                    if let Some(value) = function.of(&window) {
                        totals.add(group, i, value);
                    }
                }
            }
        }
    }

    /// The times for which it was made.
    pub(crate) fn grid(&self) -> StepGrid {
        self.pushdown.grid
    }

    /// Adds what another owner found.
    pub fn merge(&mut self, other: PartialAggregate) {
        assert!(Arc::ptr_eq(&self.pushdown, &other.pushdown), "partial aggregates of one pushdown");
        let count = self.totals.steps;
        self.samples += other.samples;
        for (theirs, labels) in other.groups.iter().enumerate() {
            let group = self.group_of(labels.clone());
            let (this, next) = (theirs as u32, theirs as u32 + 1);
            let names = other.no_counters.range((this, String::new())..(next, String::new()));
            self.no_counters.extend(names.map(|(_, name)| (group, name.clone())));
            let totals = &mut self.totals;
            for i in 0..count {
                let (value, found) = (other.totals.values[theirs * count + i], other.totals.counts[theirs * count + i]);
                if found == 0.0 {
                    continue;
                }
                let at = group as usize * count + i;
                let before = totals.counts[at];
                totals.add(group, i, value.sum);
                if matches!(totals.op, AggregateOp::Sum | AggregateOp::Avg) {
                    totals.values[at].add(value.lost);
                }
                totals.counts[at] = before + found;
            }
        }
    }

    /// The groups; None if a sum is more than a float holds and a mean has to be found another way.
    pub(crate) fn finish(&self, notes: &AnnotationCollector) -> Option<Vec<Column>> {
        let Totals { op, steps: count, values, counts } = &self.totals;
        let count = *count;
        let mut columns = Vec::with_capacity(self.groups.len());
        for (group, labels) in self.groups.iter().enumerate() {
            let mut column = Column::absent(labels.clone(), count);
            for i in 0..count {
                let (value, found) = (values[group * count + i], counts[group * count + i]);
                column.values[i] = match op {
                    _ if found == 0.0 => ABSENT,
                    AggregateOp::Sum => value.get(),
                    AggregateOp::Avg if value.sum.is_infinite() => return None,
                    AggregateOp::Avg => value.sum / found + value.lost / found,
                    AggregateOp::Count => found,
                    AggregateOp::Group => 1.0,
                    _ => value.sum,
                };
            }
            if !column.is_empty() {
                columns.push(column);
            }
        }
        // A rate needs two samples; a group without any has had none to warn of.
        let has_value = |group: u32| counts[group as usize * count..][..count].iter().any(|found| *found > 0.0);
        for (_, name) in self.no_counters.iter().filter(|(group, _)| has_value(*group)) {
            notes.info(self.pushdown.argument, format!("{NOT_A_COUNTER}: {name:?}"));
        }
        Some(columns)
    }

    /// Whether the sums can be trusted; see `finish`.
    pub fn is_final(&self) -> bool {
        self.finish(&AnnotationCollector::default()).is_some()
    }
}

/// The staleness marker: in rows it means that there is no value.
pub const NO_VALUE: f64 = STALE_NAN;

/// Returns the labels that are left when the name is dropped.
pub fn nameless(labels: &Labels) -> Labels {
    without_name(labels)
}
