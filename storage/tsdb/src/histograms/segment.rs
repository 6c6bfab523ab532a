//! Rows of histograms over one space of slots, as a log has them and as chunks are made of them.
//!
//! Invariants:
//!   * each sample has its own time; rows are in the order in which they came
//!   * a row that is here decodes: what a log gave was looked at

use super::bytes;
use crate::bytes::{Reader, put_varint, unzigzag, zigzag};
use crate::encoded::{EncodedPart, Parts};
use crate::group::SlotGroup;
use crate::log::{Journal, SegmentMark, TargetKey};
use crate::starts::{StartCursor, StartRun, Starts};
use ahash::AHashMap;
use blocks::{Chunk, ChunkRef, histogram};
use series::{Histogram, StartTimes, Timestamp};
use std::rc::Rc;
use std::sync::Arc;

#[derive(Clone, Debug)]
struct Row {
    at: Timestamp,
    /// Readers may see it once the log is visible up to here.
    position: u64,
    bytes: Box<[u8]>,
}

/// A sample for a row.
#[derive(Clone, Debug)]
pub struct HistogramSample {
    /// Number of its series, or its slot.
    pub series: u32,
    pub at: i64,
    /// When what it counts began, 0 if that is not known.
    pub start: i64,
    pub histogram: Arc<Histogram>,
}

/// Samples of one series, in order of time.
pub type Timed = Vec<(i64, Arc<Histogram>)>;

/// Rows of histograms. Groups are only added.
#[derive(Debug, Default)]
pub struct HistogramSegment {
    /// Groups, and where their slots begin.
    pub(crate) placed: Vec<(Arc<SlotGroup>, u32)>,
    slots: u32,
    /// With `log_only`, of all rows only the first and the last, without their bytes.
    rows: Vec<Row>,
    log_only: bool,
    row_bytes: usize,
    /// Most samples that a slot has.
    samples_of_slot: Vec<u16>,
    /// When what the slots count began; of one row a slot has one start time.
    starts: Starts,
    mark: Option<SegmentMark>,
    /// How many of `placed` the log knows.
    logged: usize,
}

/// Puts samples into a row; their slots are those of the segment.
fn put_row(at: Timestamp, samples: &[HistogramSample]) -> Vec<u8> {
    let (mut out, mut one) = (Vec::new(), Vec::new());
    put_varint(samples.len() as u64, &mut out);
    for HistogramSample { series: slot, at: stamp, histogram, .. } in samples {
        one.clear();
        bytes::put(histogram, &mut one);
        put_varint(u64::from(*slot), &mut out);
        put_varint(zigzag(stamp.wrapping_sub(at.0)), &mut out);
        put_varint(one.len() as u64, &mut out);
        out.extend_from_slice(&one);
    }
    out
}

/// Slot, time and bytes of each sample of a row.
fn open_row(at: Timestamp, row: &[u8], mut sample: impl FnMut(u32, i64, &[u8])) -> Result<(), &'static str> {
    let mut reader = Reader::new(row);
    for _ in 0..reader.count()? {
        let (slot, stamp) = (reader.number()?, at.0.wrapping_add(unzigzag(reader.varint()?)));
        let length = reader.count()?;
        sample(slot, stamp, reader.take(length)?);
    }
    Ok(())
}

/// Slot, time and histogram of each sample of a row, as a log has it.
pub(crate) fn read_row(
    at: Timestamp,
    row: &[u8],
    mut sample: impl FnMut(u32, i64, &Histogram),
) -> Result<(), &'static str> {
    let mut broken = None;
    open_row(at, row, |slot, stamp, one| match bytes::read(one) {
        Ok(histogram) => sample(slot, stamp, &histogram),
        Err(error) => broken = Some(error),
    })?;
    broken.map_or(Ok(()), Err)
}

impl HistogramSegment {
    /// An empty segment. With `log_only` it does not keep its rows.
    pub(super) fn new(log_only: bool) -> HistogramSegment {
        HistogramSegment { log_only, ..HistogramSegment::default() }
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Times of the first and the last row.
    pub fn range(&self) -> Option<(Timestamp, Timestamp)> {
        Some((self.rows.first()?.at, self.rows.last()?.at))
    }

    /// Whether readers may see any row.
    pub(super) fn is_visible(&self, visible: u64) -> bool {
        self.rows.first().is_some_and(|row| row.position <= visible)
    }

    pub fn rows(&self) -> usize {
        self.rows.len()
    }

    pub(super) fn row_bytes(&self) -> usize {
        self.row_bytes
    }

    /// Samples of the slot that has most.
    pub(super) fn samples_of_a_slot(&self) -> usize {
        self.samples_of_slot.iter().copied().max().unwrap_or(0).into()
    }

    pub(super) fn mark(&self) -> Option<&SegmentMark> {
        self.mark.as_ref()
    }

    /// The same rows, which no log knows.
    pub(super) fn copy(&self) -> HistogramSegment {
        HistogramSegment {
            placed: self.placed.clone(),
            slots: self.slots,
            rows: self.rows.clone(),
            log_only: self.log_only,
            row_bytes: self.row_bytes,
            samples_of_slot: self.samples_of_slot.clone(),
            starts: self.starts.clone(),
            mark: None,
            logged: 0,
        }
    }

    /// Adds a group's slots; gives the first.
    pub(crate) fn add(&mut self, group: Arc<SlotGroup>) -> u32 {
        let base = self.slots;
        self.slots += group.len() as u32;
        self.samples_of_slot.resize(self.slots as usize, 0);
        self.placed.push((group, base));
        base
    }

    /// Logs what the log does not know yet of the segment, then a row, and keeps it.
    pub(super) fn append(
        &mut self,
        key: &TargetKey,
        at: Timestamp,
        samples: &[HistogramSample],
        journal: &mut Journal,
    ) {
        let row = put_row(at, samples);
        let fresh = self.placed[self.logged..].iter().map(|(group, _)| group);
        let mark = match &mut self.mark {
            Some(mark) => {
                if self.logged < self.placed.len() {
                    journal.place(mark, fresh);
                }
                mark
            }
            None => self.mark.insert(journal.begin_histograms(key, fresh)),
        };
        self.logged = self.placed.len();
        for sample in samples {
            let slot = sample.series as usize;
            self.samples_of_slot[slot] = self.samples_of_slot[slot].saturating_add(1);
            self.starts.set(slot, sample.start);
        }
        let mut times: AHashMap<usize, i64> = AHashMap::new();
        if self.starts.is_pending() {
            times.extend(samples.iter().rev().map(|sample| (sample.series as usize, sample.at)));
        }
        let time = |slot: usize| times.get(&slot).copied().unwrap_or(at.0);
        journal.starts(mark, &self.starts.take_pending(self.rows.len(), !self.log_only, time));
        let position = journal.row(mark, at, &row);
        self.keep(at, position, row);
    }

    fn keep(&mut self, at: Timestamp, position: u64, row: Vec<u8>) {
        self.row_bytes += row.len() + size_of::<Row>();
        if self.log_only {
            self.rows.truncate(1);
        }
        let bytes = if self.log_only { Box::default() } else { row.into() };
        self.rows.push(Row { at, position, bytes });
    }

    /// Start times as a log has them before a row; false if they do not fit.
    pub(crate) fn restore_starts(&mut self, row: (usize, i64), runs: &[StartRun]) -> bool {
        self.starts.restore(runs, row, self.slots as usize)
    }

    /// A row as a log has it; false if it does not fit.
    pub(crate) fn restore_row(&mut self, at: Timestamp, row: &[u8]) -> bool {
        let mut fits = self.rows.last().is_none_or(|row| row.at < at);
        let slots = self.slots;
        let opened = open_row(at, row, |slot, _, sample| fits &= slot < slots && bytes::read(sample).is_ok());
        if fits && opened.is_ok() {
            self.keep(at, 0, row.to_vec());
            return true;
        }
        false
    }

    /// Samples in `[from, to]` of the slots that `wanted` has, by slot, as far as rows up to `visible` tell.
    fn read(
        &self,
        from: i64,
        to: i64,
        visible: u64,
        wanted: impl FnMut(u32) -> bool,
        mut sample: impl FnMut(u32, i64, Histogram),
    ) {
        self.read_rows(from, to, visible, wanted, |_, slot, at, histogram| sample(slot, at, histogram));
    }

    /// The same, with the number of the row.
    fn read_rows(
        &self,
        from: i64,
        to: i64,
        visible: u64,
        mut wanted: impl FnMut(u32) -> bool,
        mut sample: impl FnMut(usize, u32, i64, Histogram),
    ) {
        for (number, row) in self.rows.iter().enumerate().filter(|(_, row)| row.position <= visible) {
            let each = |slot, stamp, one: &[u8]| {
                if stamp >= from && stamp <= to && wanted(slot) {
                    sample(number, slot, stamp, bytes::read(one).expect("a row that is kept decodes"));
                }
            };
            open_row(row.at, &row.bytes, each).expect("a row that is kept opens");
        }
    }

    /// Samples of matching slots, see [`super::HistogramHead::range`].
    pub(super) fn select(
        &self,
        from: Timestamp,
        to: Timestamp,
        visible: u64,
        matching: &mut impl FnMut(&Arc<SlotGroup>) -> Rc<[u32]>,
        found: &mut impl FnMut(&Arc<SlotGroup>, u32, Timed),
    ) {
        let mut places: AHashMap<u32, (usize, u32)> = AHashMap::new();
        for (place, (group, base)) in self.placed.iter().enumerate() {
            places.extend(matching(group).iter().map(|slot| (base + slot, (place, *slot))));
        }
        if places.is_empty() {
            return;
        }
        let mut read: AHashMap<u32, Timed> = AHashMap::new();
        let wanted = |slot| places.contains_key(&slot);
        self.read(from.0, to.0, visible, wanted, |slot, stamp, histogram| {
            read.entry(slot).or_default().push((stamp, Arc::new(histogram)));
        });
        for (slot, mut samples) in read {
            in_order(&mut samples);
            let (place, slot) = places[&slot];
            found(&self.placed[place].0, slot, samples);
        }
    }

    /// Start times of matching slots.
    pub(super) fn starts(
        &self,
        matching: &mut impl FnMut(&Arc<SlotGroup>) -> Rc<[u32]>,
        found: &mut impl FnMut(&Arc<SlotGroup>, u32, StartTimes),
    ) {
        let Some((first, _)) = self.range() else { return };
        for (group, base) in &self.placed {
            let slots = matching(group);
            for (slot, times) in self.starts.times_of_slots(slots.iter().map(|slot| base + slot), first.0) {
                found(group, slot - base, times);
            }
        }
    }

    /// Puts the rows into chunks, each sample into the range of its own time. Of two samples at one time the first stays, a
    /// marker gives way.
    pub(crate) fn encode(&self, range_ms: i64) -> Vec<EncodedPart> {
        let mut of_slots: Vec<Vec<StartedHistogram>> = Vec::new();
        of_slots.resize_with(self.slots as usize, Vec::new);
        let by_slot = self.starts.by_slot();
        let mut parts = Parts::new(range_ms);
        let wanted = |_| true;
        self.read_rows(i64::MIN, i64::MAX, u64::MAX, wanted, |row, slot, at, histogram| {
            parts.note(at);
            // A few changes at most.
            let changes = by_slot.get(&slot).map_or(&[][..], Vec::as_slice);
            let start = StartCursor::new(changes).at(row);
            of_slots[slot as usize].push(StartedHistogram { at, start, histogram });
        });
        for mut samples in of_slots {
            series::order::dedupe(&mut samples);
            let starts: Vec<i64> = samples.iter().map(|sample| sample.start).collect();
            let mut starts = if by_slot.is_empty() { &[][..] } else { &starts[..] };
            let samples: Timed = samples.into_iter().map(|one| (one.at, Arc::new(one.histogram))).collect();
            let mut rest = &samples[..];
            for part in &mut parts.parts {
                let here = rest.partition_point(|(at, _)| at.saturating_sub(part.range) < range_ms);
                let (of_part, later) = rest.split_at(here);
                rest = later;
                let (of_starts, later) = starts.split_at(here.min(starts.len()));
                starts = later;
                part.samples += of_part.len() as u64;
                if !of_part.is_empty() {
                    put_entry(&histogram::encode(of_part, of_starts), part.first, &mut part.entries);
                }
                part.ends.push(u32::try_from(part.entries.len()).expect("a segment's chunks stay below 4 GiB"));
            }
        }
        parts.finish()
    }

    /// Bytes on the heap, groups not counted.
    pub fn heap_bytes(&self) -> usize {
        self.row_bytes
            + self.samples_of_slot.capacity() * 2
            + self.starts.heap_bytes()
            + self.placed.capacity() * size_of::<(Arc<SlotGroup>, u32)>()
    }
}

/// A sample on its way into a chunk.
struct StartedHistogram {
    at: i64,
    start: i64,
    histogram: Histogram,
}

impl series::order::Timed for StartedHistogram {
    fn time_ms(&self) -> i64 {
        self.at
    }

    fn is_stale(&self) -> bool {
        series::is_stale(self.histogram.sum)
    }
}

/// Sorts samples by time. Of two at one time the first stays, a marker gives way.
pub fn in_order(samples: &mut Timed) {
    series::order::dedupe(samples);
}

/// A slot's entry in a file of chunks: checksum, then the chunks with their times, encodings and lengths.
fn put_entry(chunks: &[Chunk], first: i64, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    put_varint(chunks.len() as u64, out);
    for chunk in chunks {
        put_varint(zigzag(chunk.min.wrapping_sub(first)), out);
        put_varint(zigzag(chunk.max.wrapping_sub(chunk.min)), out);
        out.push(chunk.encoding);
        put_varint(chunk.bytes.len() as u64, out);
        out.extend_from_slice(&chunk.bytes);
    }
    let sum = crc32c::crc32c(&out[start + 4..]);
    out[start..start + 4].copy_from_slice(&sum.to_le_bytes());
}

/// Reads an entry behind its checksum.
pub(crate) fn read_entry(bytes: &[u8], first: i64) -> Result<Vec<ChunkRef<'_>>, &'static str> {
    let mut reader = Reader::new(bytes);
    (0..reader.count()?)
        .map(|_| {
            let min = first.wrapping_add(unzigzag(reader.varint()?));
            let max = min.wrapping_add(unzigzag(reader.varint()?));
            let encoding = reader.byte()?;
            let length = reader.count()?;
            Ok(ChunkRef { min, max, encoding, bytes: reader.take(length)? })
        })
        .collect()
}
