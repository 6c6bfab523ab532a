//! Follows a log, also while it is written: tells every sample of it once, in the order of the rows.
//!
//! Invariants:
//!   * a row is told only if every record of its segment before it was read: nothing is decoded against a wrong state
//!   * what was told up to a [`BatchOffset`] is told again by nobody who begins there
//!   * a series that goes on in another slot has no marker in between

use crate::bits::ones;
use crate::group::SlotGroup;
use crate::head::Segment;
use crate::histograms::read_row;
use crate::log::TargetKey;
use crate::log::frame::{FRAME_HEAD_BYTES, FileId, PARITY, frame_head, search_bytes, verify_frame};
use crate::log::logs_in;
use crate::log::record::{self, LoggedExemplars, Record};
use crate::log::writer::HEADER;
use crate::row::{self, Direction, GROUP, RowError};
use crate::starts::Starts;
use ahash::{AHashMap, AHashSet, RandomState};
use series::{Histogram, NO_START, STALE_NAN, Sample, Timestamp, is_stale};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes read at once.
const READ_BYTES: usize = 256 << 10;

/// A place between two batches of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BatchOffset {
    /// Of the file.
    pub sequence: u32,
    pub offset: u64,
}

/// One sample of a log.
pub struct TailSample<'a> {
    pub target: &'a Arc<TargetKey>,
    pub group: &'a Arc<SlotGroup>,
    pub slot: usize,
    /// Its value means nothing if there is a histogram.
    pub sample: Sample,
    /// When what it counts began, 0 if that is not known.
    pub start: i64,
    pub histogram: Option<&'a Histogram>,
    /// Time of the row that says it. No series has two samples in one.
    pub row: Timestamp,
    /// Everything before it was told before this sample.
    pub border: BatchOffset,
}

/// Takes what a log says, in its order.
pub trait LogSink {
    fn sample(&mut self, told: TailSample);

    /// Exemplars of samples that come behind them, most of them. Everything before the border was told before.
    fn exemplars(&mut self, _exemplars: LoggedExemplars, _border: BatchOffset) {}
}

/// Takes samples alone.
struct SamplesAlone<F>(F);

impl<F: FnMut(TailSample)> LogSink for SamplesAlone<F> {
    fn sample(&mut self, told: TailSample) {
        self.0(told);
    }
}

/// What became of a call of [`Tail::read`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TailStatus {
    /// There is more to read.
    More,
    /// The end of what is written.
    End,
}

/// How far a call of [`Tail::read_until`] goes at most.
#[derive(Clone, Copy, Debug)]
pub struct ReadLimit {
    /// Time of the last row. There is more behind it.
    pub row: Timestamp,
    /// The first border from which on nothing is read.
    pub border: Option<BatchOffset>,
}

impl ReadLimit {
    const NONE: ReadLimit = ReadLimit { row: Timestamp(i64::MAX), border: None };

    fn is_reached(self, border: BatchOffset) -> bool {
        self.border.is_some_and(|last| border >= last)
    }
}

/// What a tail could not tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TailLosses {
    /// Rows of segments that cannot be read.
    pub rows: u64,
    /// Bytes that are no frames.
    pub bytes: u64,
}

/// A reader of one log: the files of one writer of one start. A copy tells what the original has not told yet.
#[derive(Clone)]
pub struct Tail {
    folder: PathBuf,
    log: (u32, u16),
    /// Whether somebody still writes it.
    is_live: bool,
    from: BatchOffset,
    file: Option<(FileId, Arc<File>)>,
    /// The file behind it, once there is one.
    next: Option<u32>,
    /// Bytes of the file from `offset` on.
    bytes: Vec<u8>,
    offset: u64,
    border: BatchOffset,
    targets: AHashMap<u32, Arc<TargetKey>>,
    groups: AHashMap<u32, Arc<SlotGroup>>,
    segments: AHashMap<u32, TrackedSegment>,
    /// The last segment that has begun; their numbers rise.
    begun: u32,
    /// The segment of floats of each source.
    newest: AHashMap<u64, u32>,
    /// Segments of histograms, and that of each source.
    histograms: AHashMap<u32, TrackedHistograms>,
    newest_histograms: AHashMap<u64, u32>,
    ends: AHashMap<u64, Ends>,
    hasher: RandomState,
    untold: TailLosses,
    row_time: Timestamp,
    /// Whether the buffer begins with a row that was too late.
    is_stopped: bool,
    /// Whether rows behind the border were read.
    is_inside: bool,
}

struct TrackedSegment {
    key: Arc<TargetKey>,
    segment: Segment,
    step: u32,
    /// File in which it began.
    began: u32,
}

impl Clone for TrackedSegment {
    fn clone(&self) -> TrackedSegment {
        let TrackedSegment { key, segment, step, began } = self;
        TrackedSegment { key: key.clone(), segment: segment.read_copy(), step: *step, began: *began }
    }
}

/// A segment of histograms: each sample of its rows stands for itself, so only the slots are tracked.
#[derive(Clone)]
struct TrackedHistograms {
    key: Arc<TargetKey>,
    /// Groups, and where their slots begin.
    groups: Vec<(Arc<SlotGroup>, u32)>,
    slots: u32,
    starts: Starts,
    step: u32,
    /// File in which it began.
    began: u32,
}

impl TrackedHistograms {
    fn add(&mut self, groups: Vec<Arc<SlotGroup>>) {
        for group in groups {
            let base = self.slots;
            self.slots = self.slots.saturating_add(group.len() as u32);
            self.groups.push((group, base));
        }
    }

    fn at(&self, place: u32) -> Option<(&Arc<SlotGroup>, u32)> {
        let next = self.groups.partition_point(|(_, base)| *base <= place);
        let (group, base) = self.groups.get(next.checked_sub(1)?)?;
        Some((group, place - base)).filter(|(group, slot)| (*slot as usize) < group.len())
    }
}

/// Series of a source that have ended, as far as a row of the same time says nothing else.
#[derive(Clone)]
struct Ends {
    key: Arc<TargetKey>,
    at: Timestamp,
    slots: Vec<(Arc<SlotGroup>, u32, u64)>,
}

impl Tail {
    /// Tells what is behind `from`; the file of `first` and those behind it are read for what it needs to know.
    pub fn new(folder: &Path, log: (u32, u16), is_live: bool, first: u32, from: BatchOffset) -> Tail {
        Tail {
            folder: folder.to_owned(),
            log,
            is_live,
            from,
            file: None,
            next: None,
            bytes: Vec::new(),
            offset: 0,
            border: BatchOffset { sequence: first, offset: 0 },
            targets: AHashMap::new(),
            groups: AHashMap::new(),
            segments: AHashMap::new(),
            begun: 0,
            newest: AHashMap::new(),
            histograms: AHashMap::new(),
            newest_histograms: AHashMap::new(),
            ends: AHashMap::new(),
            hasher: RandomState::new(),
            untold: TailLosses::default(),
            row_time: Timestamp(i64::MIN),
            is_stopped: false,
            is_inside: false,
        }
    }

    /// Where it stands: everything before this was told.
    pub fn border(&self) -> BatchOffset {
        self.border.max(self.from)
    }

    /// Whether nothing behind [`Tail::border`] was told: who begins there is told nothing again.
    pub fn is_at_border(&self) -> bool {
        !self.is_inside
    }

    pub fn losses(&self) -> TailLosses {
        self.untold
    }

    /// The first file that whoever goes on from here has to read.
    pub fn first_needed(&self) -> u32 {
        let began = self.segments.values().map(|following| following.began);
        let began = began.chain(self.histograms.values().map(|tracked| tracked.began));
        began.chain([self.border.sequence]).min().unwrap_or(self.border.sequence)
    }

    /// No segment that began before a file gets rows any more, and all of them were read.
    pub fn forget_before(&mut self, sequence: u32) {
        self.segments.retain(|_, following| following.began >= sequence);
        self.histograms.retain(|_, tracked| tracked.began >= sequence);
        let Tail { segments, newest, histograms, newest_histograms, .. } = self;
        newest.retain(|_, segment| segments.contains_key(segment));
        newest_histograms.retain(|_, segment| histograms.contains_key(segment));
    }

    /// Reads on for some hundred kilobytes, and tells the samples.
    pub fn read(&mut self, told: impl FnMut(TailSample)) -> io::Result<TailStatus> {
        self.read_until(ReadLimit::NONE, &mut SamplesAlone(told))
    }

    /// Time of the last row that was read, or of the one that [`Tail::read_until`] stopped at.
    pub fn row_time(&self) -> Timestamp {
        self.row_time
    }

    /// The same with exemplars, but not beyond a limit; there is more then.
    pub fn read_until(&mut self, limit: ReadLimit, told: &mut impl LogSink) -> io::Result<TailStatus> {
        if self.is_at_border() && limit.is_reached(self.border()) {
            return Ok(TailStatus::More);
        }
        if self.is_stopped {
            self.is_stopped = false;
            self.take_frames(limit, told);
            if self.is_stopped || (self.is_at_border() && limit.is_reached(self.border())) {
                return Ok(TailStatus::More);
            }
        }
        if self.file.is_none() && !self.open(self.border.sequence)? {
            return Ok(TailStatus::End);
        }
        let (id, file) = self.file.as_ref().expect("opened above");
        let id = *id;
        let before = self.bytes.len();
        self.bytes.resize(before + READ_BYTES, 0);
        let read = file.read_at(&mut self.bytes[before..], self.offset + before as u64);
        self.bytes.truncate(before + *read.as_ref().unwrap_or(&0));
        let count = read?;
        self.take_frames(limit, told);
        if count > 0 || self.is_stopped {
            return Ok(TailStatus::More);
        }
        if self.next.is_none() {
            self.next = self.first_from(id.sequence + 1)?;
            if self.next.is_some() {
                // Once more: from now on nothing is added to this file.
                return Ok(TailStatus::More);
            }
        }
        let is_over = self.next.is_some() || !self.is_live;
        if is_over && !self.bytes.is_empty() {
            // What a crash leaves at the end, or damage.
            let found = search_bytes(id, self.offset, &self.bytes);
            let skipped = found.map_or(self.bytes.len(), |found| (found - self.offset) as usize);
            self.untold.bytes += skipped as u64;
            self.bytes.drain(..skipped);
            self.offset += skipped as u64;
            return Ok(TailStatus::More);
        }
        let Some(next) = self.next.take() else {
            if is_over {
                self.emit_stale_markers(told);
            }
            return Ok(TailStatus::End);
        };
        self.open(next)?;
        Ok(TailStatus::More)
    }

    /// Opens the first file from a sequence on; false if there is none yet.
    fn open(&mut self, sequence: u32) -> io::Result<bool> {
        let Some(sequence) = self.first_from(sequence)? else { return Ok(false) };
        let id = FileId { boot: self.log.0, writer: self.log.1, sequence };
        self.file = Some((id, Arc::new(File::open(self.folder.join(id.to_string()))?)));
        self.bytes.clear();
        self.offset = 0;
        self.border = BatchOffset { sequence, offset: 0 };
        self.is_inside = false;
        // Every file defines the groups that it needs; those in use stay the same. Copies of this reader have them as well.
        let placed = self.segments.values().flat_map(|following| &following.segment.placed).map(|placed| &placed.group);
        let tracked = self.histograms.values().flat_map(|tracked| &tracked.groups).map(|(group, _)| group);
        let used: AHashSet<*const SlotGroup> = placed.chain(tracked).map(Arc::as_ptr).collect();
        self.groups.retain(|_, group| used.contains(&Arc::as_ptr(group)));
        Ok(true)
    }

    /// The first file of the log from a sequence on.
    fn first_from(&self, sequence: u32) -> io::Result<Option<u32>> {
        let files = logs_in(&self.folder)?.remove(&self.log).unwrap_or_default();
        Ok(files.into_iter().map(|id| id.sequence).find(|other| *other >= sequence))
    }

    /// Takes the whole frames of the buffer up to a limit.
    fn take_frames(&mut self, limit: ReadLimit, told: &mut impl LogSink) {
        let Some((id, _)) = self.file else { return };
        let taken = self.frames(id, limit, told);
        self.bytes.drain(..taken);
        self.offset += taken as u64;
    }

    /// Takes the frames; gives how many bytes they are.
    fn frames(&mut self, file: FileId, limit: ReadLimit, told: &mut impl LogSink) -> usize {
        let bytes = std::mem::take(&mut self.bytes);
        let mut at = 0;
        while let Some(head) = bytes[at..].first_chunk::<FRAME_HEAD_BYTES>() {
            let Some((kind, length)) = frame_head(head) else { break };
            let Some(payload) = bytes[at + FRAME_HEAD_BYTES..].get(..length) else { break };
            if !verify_frame(file, self.offset + at as u64, head, payload) {
                break;
            }
            let record = if matches!(kind, HEADER | PARITY) { None } else { record::read(kind, payload).ok() };
            if let Some(Record::Row { at: row_time, .. }) = &record {
                self.row_time = *row_time;
                if *row_time > limit.row {
                    self.is_stopped = true;
                    // Rows of other logs may be read before this one, but not before the end of a series that is older.
                    let row_time = *row_time;
                    self.emit_ends_before(row_time, told);
                    break;
                }
            }
            at += FRAME_HEAD_BYTES + length;
            match kind {
                PARITY => {
                    self.emit_stale_markers(told);
                    self.border = BatchOffset { sequence: file.sequence, offset: self.offset + at as u64 };
                    self.is_inside = false;
                    if limit.is_reached(self.border()) {
                        break;
                    }
                }
                // What makes no sense is told by the replay.
                _ => drop(record.map(|record| self.take(record, told))),
            }
        }
        self.bytes = bytes;
        at
    }

    fn is_new(&self) -> bool {
        self.border >= self.from
    }

    fn take(&mut self, record: Record, told: &mut impl LogSink) {
        match record {
            Record::Target { target, id, labels } => {
                self.targets.insert(target, Arc::new(TargetKey { id, labels }));
            }
            Record::Group { group, slots } => {
                let known = self.groups.get(&group).is_some_and(|known| **known == slots);
                if !known {
                    self.groups.insert(group, Arc::new(slots));
                }
            }
            Record::Begin { segment, target, groups, stamps } => {
                let key = self.targets.remove(&target);
                // What was not durable when a file was given up is in the next one again.
                if self.has_begun(segment) {
                    return;
                }
                self.begun = segment;
                let (Some(key), Some(groups)) = (key, self.groups_of(&groups)) else { return };
                let mut following =
                    TrackedSegment { key, segment: Segment::default(), step: 0, began: self.border.sequence };
                for group in groups {
                    following.segment.add(group);
                }
                following.segment.restore_stamps(&stamps);
                // The one before it has had its last row.
                let before = self.newest.insert(following.key.id, segment);
                before.and_then(|before| self.segments.remove(&before));
                self.segments.insert(segment, following);
            }
            Record::BeginHistograms { segment, target, groups } => {
                let key = self.targets.remove(&target);
                if self.has_begun(segment) {
                    return;
                }
                self.begun = segment;
                let (Some(key), Some(groups)) = (key, self.groups_of(&groups)) else { return };
                let mut tracked = TrackedHistograms {
                    key,
                    groups: Vec::new(),
                    slots: 0,
                    starts: Starts::default(),
                    step: 0,
                    began: self.border.sequence,
                };
                tracked.add(groups);
                let before = self.newest_histograms.insert(tracked.key.id, segment);
                before.and_then(|before| self.histograms.remove(&before));
                self.histograms.insert(segment, tracked);
            }
            Record::Place { segment, step, groups } => {
                let Some(groups) = self.groups_of(&groups) else { return };
                if let Some(following) = self.segments.get_mut(&segment) {
                    if step == following.step + 1 {
                        following.step = step;
                        for group in groups {
                            following.segment.add(group);
                        }
                    }
                } else if let Some(tracked) = self.histograms.get_mut(&segment)
                    && step == tracked.step + 1
                {
                    tracked.step = step;
                    tracked.add(groups);
                }
            }
            Record::Starts { segment, step, runs } => {
                if let Some(following) = self.segments.get_mut(&segment).filter(|following| step == following.step + 1)
                {
                    let slots = following.segment.slots();
                    following.segment.starts.follow(&runs, slots);
                } else if let Some(tracked) = self.histograms.get_mut(&segment)
                    && step == tracked.step + 1
                {
                    tracked.starts.follow(&runs, tracked.slots as usize);
                }
            }
            Record::Row { segment, step, at, row } => {
                self.is_inside = true;
                self.row(segment, step, at, row, told);
            }
            Record::Exemplars(exemplars) => {
                if self.is_new() && !exemplars.is_copy {
                    self.is_inside = true;
                    told.exemplars(exemplars, self.border);
                }
            }
            Record::Chunks(_) => {}
        }
    }

    fn has_begun(&self, segment: u32) -> bool {
        segment <= self.begun
    }

    fn groups_of(&self, numbers: &[u32]) -> Option<Vec<Arc<SlotGroup>>> {
        numbers.iter().map(|number| self.groups.get(number).cloned()).collect()
    }

    fn row(&mut self, number: u32, step: u32, at: Timestamp, row: &[u8], told: &mut impl LogSink) {
        let is_new = self.is_new();
        let Some(mut following) = self.segments.remove(&number) else {
            match self.histograms.remove(&number) {
                Some(tracked) => self.histogram_row(number, tracked, (step, at, row), told),
                // Those of a segment that was over already are there twice.
                None => self.untold.rows += u64::from(is_new && !self.has_begun(number)),
            }
            return;
        };
        if step <= following.step {
            // It was read before.
            self.segments.insert(number, following);
            return;
        }
        let fits = step == following.step + 1;
        if !fits || following.take(row).is_err() {
            // Whatever follows would be decoded against a wrong state.
            self.untold.rows += u64::from(is_new);
            return;
        }
        following.step = step;
        if is_new && self.emit(&following, at, row, told).is_err() {
            self.untold.rows += 1;
        }
        self.segments.insert(number, following);
    }

    /// Tells what a row of histograms says. A segment whose row does not fit is not followed any more.
    fn histogram_row(
        &mut self,
        number: u32,
        mut tracked: TrackedHistograms,
        (step, at, row): (u32, Timestamp, &[u8]),
        told: &mut impl LogSink,
    ) {
        let (is_new, border) = (self.is_new(), self.border);
        if step > tracked.step {
            let mut fits = step == tracked.step + 1;
            let TrackedHistograms { key, .. } = &tracked;
            let read = read_row(at, row, |place, stamp, histogram| {
                let Some((group, slot)) = tracked.at(place) else {
                    fits = false;
                    return;
                };
                if is_new {
                    let sample = Sample { timestamp: Timestamp(stamp), value: histogram.sum };
                    told.sample(TailSample {
                        target: key,
                        group,
                        slot: slot as usize,
                        sample,
                        start: start_of(sample, tracked.starts.of(place as usize)),
                        histogram: Some(histogram),
                        row: at,
                        border,
                    });
                }
            });
            if !fits || read.is_err() {
                self.untold.rows += u64::from(is_new);
                return;
            }
            tracked.step = step;
        }
        self.histograms.insert(number, tracked);
    }

    /// Tells what a row says, which the segment has taken already.
    fn emit(
        &mut self,
        following: &TrackedSegment,
        at: Timestamp,
        row: &[u8],
        told: &mut impl LogSink,
    ) -> Result<(), RowError> {
        let TrackedSegment { key, segment, .. } = following;
        let (_, mut notes) = row::open(row)?;
        if self.ends.get(&key.id).is_some_and(|ends| ends.at != at) {
            self.emit_stale_markers_of(key.id, told);
        }
        let border = self.border;
        let slots = &segment.slots;
        for placed in &segment.placed {
            for slot in 0..placed.group.len() {
                let place = placed.base + slot;
                if !slots.stale.get(place) && !placed.group.is_stamped(slot) {
                    let sample = Sample { timestamp: at, value: slots.values[place] };
                    told.sample(TailSample {
                        target: key,
                        group: &placed.group,
                        slot,
                        sample,
                        start: start_of(sample, segment.starts.of(place)),
                        histogram: None,
                        row: at,
                        border,
                    });
                }
            }
        }
        while let Some((run, _)) = notes.stamps.next_run()? {
            for place in run {
                let (placed, slot) = segment.at(place).ok_or(RowError("a slot does not exist"))?;
                let sample = Sample { timestamp: Timestamp(slots.stamps[place]), value: slots.values[place] };
                told.sample(TailSample {
                    target: key,
                    group: &placed.group,
                    slot,
                    sample,
                    start: start_of(sample, segment.starts.of(place)),
                    histogram: None,
                    row: at,
                    border,
                });
            }
        }
        self.note_ends(following, at, &notes.flips);
        Ok(())
    }

    /// Remembers what ends with a row, and forgets what goes on in it elsewhere.
    fn note_ends(&mut self, following: &TrackedSegment, at: Timestamp, flips: &[(usize, u64)]) {
        let TrackedSegment { key, segment, .. } = following;
        let all = || flips.iter().flat_map(|(group, word)| ones(*word).map(move |place| group * GROUP + place));
        let hashed = |place: usize| {
            let (placed, slot) = segment.at(place)?;
            Some((placed.group.clone(), slot as u32, placed.group.slot_hash(slot, &self.hasher)))
        };
        let ended: Vec<_> = all().filter(|place| segment.slots.stale.get(*place)).filter_map(hashed).collect();
        if !ended.is_empty() {
            let ends = Ends { key: key.clone(), at, slots: Vec::new() };
            self.ends.entry(key.id).or_insert(ends).slots.extend(ended);
        }
        if self.ends.contains_key(&key.id) {
            let came = all().filter(|place| !segment.slots.stale.get(*place)).filter_map(hashed);
            let came: AHashSet<u64> = came.map(|(_, _, hash)| hash).collect();
            let ends = self.ends.get_mut(&key.id).expect("looked at above");
            ends.slots.retain(|(_, _, hash)| !came.contains(hash));
        }
    }

    fn emit_stale_markers(&mut self, told: &mut impl LogSink) {
        let ids: Vec<u64> = self.ends.keys().copied().collect();
        ids.into_iter().for_each(|id| self.emit_stale_markers_of(id, told));
    }

    /// What ends at a time has gone on elsewhere only in the row that follows it directly.
    fn emit_ends_before(&mut self, at: Timestamp, told: &mut impl LogSink) {
        let ended: Vec<u64> = self.ends.iter().filter(|(_, ends)| ends.at < at).map(|(id, _)| *id).collect();
        ended.into_iter().for_each(|id| self.emit_stale_markers_of(id, told));
    }

    fn emit_stale_markers_of(&mut self, id: u64, told: &mut impl LogSink) {
        let Some(Ends { key, at, slots }) = self.ends.remove(&id) else { return };
        let sample = Sample { timestamp: at, value: STALE_NAN };
        for (group, slot, _) in &slots {
            let (slot, border) = (*slot as usize, self.border);
            told.sample(TailSample {
                target: &key,
                group,
                slot,
                sample,
                start: NO_START,
                histogram: None,
                row: at,
                border,
            });
        }
    }
}

/// A staleness marker has no start time.
#[inline]
fn start_of(sample: Sample, start: i64) -> i64 {
    if start != NO_START && is_stale(sample.value) { NO_START } else { start }
}

impl TrackedSegment {
    fn take(&mut self, row: &[u8]) -> Result<(), RowError> {
        row::walk(row, &mut self.segment.slots, Direction::Redo)
    }
}
