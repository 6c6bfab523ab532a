//! One source's native histograms that are not in chunks yet: rows beside those of its floats (decision 025).
//!
//! Histograms come out of rows of scrapes, at a low rate: a row holds what came together, each sample with its series
//! and its time, and nothing is derived from the row before.
//!
//! Invariants:
//!   * a segment lies in one range of time by its rows, has at most [`SAMPLES_MAX`] samples of a series and little more
//!     than [`SEGMENT_BYTES_MAX`] bytes
//!   * what is read may overlap between segments; the reader puts it in order

mod bytes;
mod labels;
mod segment;
#[cfg(test)]
mod tests;

pub use segment::{HistogramSample, HistogramSegment, Timed, in_order};
pub(crate) use segment::{read_entry, read_row};

use crate::group::{GroupBuilder, SlotGroup};
use crate::head::{Closed, SegmentLimits};
use crate::log::{Journal, TargetKey};
use ahash::AHashMap;
use series::NO_START;
use series::{Labels, StartTimes, Timestamp};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

/// Samples of one series after which a segment is closed: as many as a chunk has.
const SAMPLES_MAX: usize = 120;
/// Bytes of rows after which a segment is closed.
const SEGMENT_BYTES_MAX: usize = 1 << 20;
/// A row is about as long at most, if it has more than one sample; what a sample and a bucket of it may take.
const ROW_BYTES_MAX: usize = 256 << 10;
const SAMPLE_BYTES: usize = 64;
const BUCKET_BYTES_MAX: usize = 20;
/// Series of a group.
const GROUP_SLOTS_MAX: usize = 64;
/// A group that the open segment does not have.
const NOT_PLACED: u32 = u32::MAX;

/// A source's histograms.
#[derive(Debug)]
pub struct HistogramHead {
    key: Arc<TargetKey>,
    limits: SegmentLimits,
    /// Groups, and where each begins in the open segment.
    groups: Vec<(Arc<SlotGroup>, u32)>,
    /// Group and slot of each series.
    series: Vec<(u32, u32)>,
    /// How many of them [`HistogramHead::take_added`] has told.
    series_told: usize,
    open: HistogramSegment,
    /// Closed segments, oldest first, until they are in chunks.
    closed: VecDeque<Arc<Closed<HistogramSegment>>>,
    /// How many of the last of them nobody has taken yet.
    closed_not_taken: usize,
    newest: Option<i64>,
    /// Another number whenever the groups of the segments may be others.
    version: u64,
}

impl HistogramHead {
    pub fn new(key: TargetKey, limits: SegmentLimits) -> HistogramHead {
        HistogramHead {
            key: Arc::new(key),
            limits,
            groups: Vec::new(),
            series: Vec::new(),
            series_told: 0,
            open: HistogramSegment::new(limits.log_only),
            closed: VecDeque::new(),
            closed_not_taken: 0,
            newest: None,
            version: 0,
        }
    }

    /// Time of the newest sample that ever came.
    pub fn newest_at(&self) -> Option<i64> {
        self.newest
    }

    /// How many series have a place.
    pub fn series(&self) -> usize {
        self.series.len()
    }

    /// How many series came since the last time that this was asked.
    pub fn take_added(&mut self) -> u64 {
        let told = std::mem::replace(&mut self.series_told, self.series.len());
        self.series.len().saturating_sub(told) as u64
    }

    pub fn groups(&self) -> impl Iterator<Item = &Arc<SlotGroup>> {
        self.groups.iter().map(|(group, _)| group)
    }

    /// Gives places to series; they are numbered on from [`HistogramHead::series`].
    pub fn add<'a>(&mut self, labels: impl IntoIterator<Item = &'a Labels>) {
        let mut labels = labels.into_iter().peekable();
        while labels.peek().is_some() {
            let mut builder = GroupBuilder::default();
            let group = self.groups.len() as u32;
            for (slot, labels) in labels.by_ref().take(GROUP_SLOTS_MAX).enumerate() {
                builder.push(labels, true);
                self.series.push((group, slot as u32));
            }
            self.groups.push((Arc::new(builder.build()), NOT_PLACED));
        }
    }

    /// Keeps only these series, which get the numbers of their places in the list.
    pub fn keep(&mut self, series: &[u32]) {
        let of_series = |series: &u32| {
            let (group, slot) = self.series[*series as usize];
            self.groups[group as usize].0.labels(slot as usize)
        };
        let labels: Vec<Labels> = series.iter().map(of_series).collect();
        self.groups.clear();
        self.series.clear();
        self.add(&labels);
    }

    /// Appends samples of series, by number, each with its time; of one series they may be several. Many become
    /// several rows.
    pub fn append(&mut self, samples: &[HistogramSample], journal: &mut Journal) {
        let mut rest = samples;
        while !rest.is_empty() {
            let mut bytes = 0;
            // A series has one start time in a row.
            let mut starts: AHashMap<u32, i64> = AHashMap::new();
            let has_starts = rest.iter().any(|sample| sample.start != NO_START);
            let fits = |sample: &&HistogramSample| {
                let buckets = sample.histogram.positive.len() + sample.histogram.negative.len();
                bytes += SAMPLE_BYTES + BUCKET_BYTES_MAX * buckets;
                bytes <= ROW_BYTES_MAX
                    && (!has_starts || *starts.entry(sample.series).or_insert(sample.start) == sample.start)
            };
            let (row, behind) = rest.split_at(rest.iter().take_while(fits).count().max(1));
            self.append_row(row, journal);
            rest = behind;
        }
    }

    fn append_row(&mut self, samples: &[HistogramSample], journal: &mut Journal) {
        let Some(newest) = samples.iter().map(|sample| sample.at).max() else { return };
        let mut at = Timestamp(newest);
        self.turn(at, journal);
        if let Some((_, last)) = self.open.range() {
            at = at.max(last.plus_ms(1));
        }
        let mut row = Vec::with_capacity(samples.len());
        for sample in samples {
            let (group, slot) = self.series[sample.series as usize];
            let (group, base) = &mut self.groups[group as usize];
            if *base == NOT_PLACED {
                *base = self.open.add(group.clone());
                self.version += 1;
            }
            row.push(HistogramSample { series: *base + slot, ..sample.clone() });
        }
        self.open.append(&self.key, at, &row, journal);
        self.newest = self.newest.max(Some(newest));
    }

    /// Begins another segment where a row at `at` has to.
    fn turn(&mut self, at: Timestamp, journal: &Journal) {
        let Some((first, _)) = self.open.range() else { return };
        let range = |at: Timestamp| at.0.div_euclid(self.limits.range_ms);
        let continues = self.open.mark().is_none_or(|mark| journal.continues(mark));
        let full = self.open.samples_of_a_slot() >= SAMPLES_MAX || self.open.row_bytes() >= SEGMENT_BYTES_MAX;
        if full || range(first) != range(at) || !continues {
            self.close();
        }
    }

    /// Closes the open segment, so that it can be put into chunks.
    pub fn close(&mut self) {
        let segment = std::mem::replace(&mut self.open, HistogramSegment::new(self.limits.log_only));
        self.groups.iter_mut().for_each(|(_, base)| *base = NOT_PLACED);
        if !segment.is_empty() && !self.limits.log_only {
            self.closed.push_back(Arc::new(Closed::new(self.key.clone(), segment)));
            self.closed_not_taken += 1;
        }
    }

    /// Segments that were closed since this was last called, for somebody to put them into chunks.
    pub fn take_closed(&mut self, taken: impl FnMut(Arc<Closed<HistogramSegment>>)) {
        let fresh = std::mem::take(&mut self.closed_not_taken).min(self.closed.len());
        self.closed.range(self.closed.len() - fresh..).cloned().for_each(taken);
    }

    /// All closed segments that nobody puts into chunks, those that somebody has given up included. Looks at each.
    pub fn take_all_closed(&mut self, taken: impl FnMut(Arc<Closed<HistogramSegment>>)) {
        self.closed_not_taken = 0;
        let left = self.closed.iter().filter(|closed| Arc::strong_count(closed) == 1 && !closed.is_flushed());
        left.cloned().for_each(taken);
    }

    /// Forgets what is in chunks. True while there is anything else.
    pub fn drop_flushed(&mut self) -> bool {
        let before = self.closed.len();
        self.closed.retain(|closed| !closed.is_flushed());
        self.version += u64::from(self.closed.len() < before);
        !self.open.is_empty() || !self.closed.is_empty()
    }

    /// All that is not in chunks, closed segments and a copy of the open one: for a snapshot.
    pub fn unflushed(&self) -> Vec<Arc<Closed<HistogramSegment>>> {
        let closed = self.closed.iter().filter(|closed| !closed.is_flushed()).cloned();
        let open = Some(&self.open).filter(|open| !open.is_empty());
        closed.chain(open.map(|open| Arc::new(Closed::new(self.key.clone(), open.copy())))).collect()
    }

    /// Takes over a closed segment, of a log for example.
    pub fn adopt(&mut self, segment: HistogramSegment) {
        self.version += 1;
        self.closed.push_back(Arc::new(Closed::new(self.key.clone(), segment)));
        self.closed_not_taken += 1;
    }

    fn segments(&self) -> impl Iterator<Item = &HistogramSegment> {
        let closed = self.closed.iter().filter(|closed| !closed.is_flushed()).map(|closed| &closed.segment);
        closed.chain([&self.open])
    }

    /// Times of the oldest and the newest row that is not in chunks.
    pub fn bounds(&self) -> Option<(Timestamp, Timestamp)> {
        let ranges = self.segments().filter_map(HistogramSegment::range);
        ranges.reduce(|all, one| (all.0.min(one.0), all.1.max(one.1)))
    }

    /// Whether a matching series may have samples at or after `from`, in memory or in chunks.
    pub fn touches(&self, from: Timestamp, mut matching: impl FnMut(&Arc<SlotGroup>) -> Rc<[u32]>) -> bool {
        self.newest.is_some_and(|newest| newest >= from.0) && self.groups().any(|group| !matching(group).is_empty())
    }

    /// Samples of matching series in `[from, to]`, markers included, as far as rows up to `visible` tell: for every
    /// segment and slot that has any, in order of time. A series may be in several.
    pub fn range(
        &self,
        from: Timestamp,
        to: Timestamp,
        visible: u64,
        mut matching: impl FnMut(&Arc<SlotGroup>) -> Rc<[u32]>,
        mut found: impl FnMut(&Arc<SlotGroup>, u32, Timed),
    ) {
        self.segments().for_each(|segment| segment.select(from, to, visible, &mut matching, &mut found));
    }

    /// Start times of matching series, segment by segment, with the times of the samples from which on they have them.
    pub fn starts(
        &self,
        mut matching: impl FnMut(&Arc<SlotGroup>) -> Rc<[u32]>,
        mut found: impl FnMut(&Arc<SlotGroup>, u32, StartTimes),
    ) {
        self.segments().for_each(|segment| segment.starts(&mut matching, &mut found));
    }

    /// Bytes on the heap, groups not counted.
    pub fn heap_bytes(&self) -> usize {
        self.segments().map(HistogramSegment::heap_bytes).sum::<usize>() + self.series.capacity() * 8
    }
}
