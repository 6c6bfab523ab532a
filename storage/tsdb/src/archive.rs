//! Chunks that are in no block yet: files of one range of time each, and what is in them.
//!
//! One thread writes; any thread reads. Files are frames like the log's, each segment's chunks behind the frame that
//! describes them. Format: docs/format/head.md.
//!
//! Invariants:
//!   * a file says everything about its samples: targets, groups, chunks
//!   * a segment counts as kept when [`Archive::sync`] has returned after its [`Archive::append`]
//!   * a damaged chunk costs its own samples; it is told with file and offset

use crate::bytes::{Reader, unzigzag};
use crate::group::SlotGroup;
use crate::head::{Closed, Segment};
use crate::histograms::{self, HistogramSegment, Timed};
use crate::log::TargetKey;
use crate::log::frame::{FRAME_HEAD_BYTES, FileId, frame_head, put_frame, search_bytes, verify_frame};
use crate::log::record::{self, ChunksHead, Record};
use crate::log::writer::{HEADER, HEADER_V1};
use crate::matching::Matching;
use crate::seal::{Sealed, seal};
use ahash::{AHashMap, AHashSet};
use blocks::xor::{self, ChunkError};
use blocks::{Chunk, ChunkRef};
use series::{Labels, Matcher, Sample, Timestamp, Value};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};

/// Writer number of chunk files in their checksums: no log has it.
const WRITER: u16 = u16::MAX;
/// A definition that is read back is at most this long.
const PAYLOAD_BYTES_MAX: usize = 256 << 20;
/// Bytes that are looked through for the frame after a damage.
const SEARCH_BYTES_MAX: u64 = 64 << 20;
/// Slots from which on a segment's table is read in one piece.
const TABLE_AT_ONCE: usize = 8;
/// Bytes between the chunks of two slots that are rather read than left out: copying them takes as long as one more call.
const GAP_BYTES_MAX: u64 = 4 << 10;
/// Bytes of chunks that are read at once.
const SPAN_BYTES_MAX: u64 = 256 << 10;

/// A segment's chunks in a file.
#[derive(Clone, Debug)]
struct Kept {
    target: u32,
    groups: Box<[u32]>,
    /// Where the table begins, how many slots it has, and the bytes of table and chunks.
    offset: u64,
    slots: u32,
    bytes: u64,
    /// Entries hold several chunks, of histograms.
    histograms: bool,
    first: i64,
    last: i64,
    first_row: i64,
}

#[derive(Default)]
struct Index {
    targets: Vec<TargetKey>,
    groups: Vec<Arc<SlotGroup>>,
    entries: Vec<Kept>,
    samples: u64,
}

/// One file of chunks.
pub struct ChunkFile {
    path: PathBuf,
    file: File,
    index: RwLock<Index>,
}

/// What the writing thread keeps of the file that it writes.
struct Open {
    id: FileId,
    file: Arc<ChunkFile>,
    offset: u64,
    synced: bool,
    targets: AHashMap<u64, u32>,
    /// By address; the reference keeps the address from being used again.
    groups: AHashMap<usize, (u32, Arc<SlotGroup>)>,
}

/// What was found wrong while opening or reading.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub file: PathBuf,
    pub offset: u64,
    pub reason: String,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} at byte {}: {}", self.file.display(), self.offset, self.reason)
    }
}

/// All chunks that are in no block.
pub struct Archive {
    folder: PathBuf,
    boot: u32,
    range_ms: i64,
    ranges: RwLock<BTreeMap<i64, Vec<Arc<ChunkFile>>>>,
    writing: Mutex<Writing>,
    findings: AtomicU64,
}

#[derive(Default)]
struct Writing {
    open: BTreeMap<i64, Open>,
    sequence: u32,
    buffer: Vec<u8>,
}

/// What a select found of one series; there may be more pieces of it.
#[derive(Clone, Debug)]
pub struct Piece {
    pub labels: Labels,
    pub samples: Vec<Sample>,
    pub histograms: Timed,
}

impl Piece {
    pub fn new(labels: Labels) -> Piece {
        Piece { labels, samples: Vec::new(), histograms: Vec::new() }
    }

    pub fn push(&mut self, at: i64, value: Value) {
        match value {
            Value::Float(value) => self.samples.push(Sample { timestamp: Timestamp(at), value }),
            Value::Histogram(histogram) => self.histograms.push((at, histogram)),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.samples.is_empty() && self.histograms.is_empty()
    }
}

/// A closed segment on its way into chunks.
pub trait ToSeal: Send + Sync {
    /// Has the archive write its chunks, see [`Archive::append`].
    fn append_to(&self, archive: &Archive) -> io::Result<Option<String>>;
    /// The chunks can be read.
    fn set_sealed(&self);
    fn heap_bytes(&self) -> usize;
}

impl ToSeal for Closed<Segment> {
    fn append_to(&self, archive: &Archive) -> io::Result<Option<String>> {
        archive.append(&self.key, &self.segment)
    }

    fn set_sealed(&self) {
        Closed::set_sealed(self);
    }

    fn heap_bytes(&self) -> usize {
        self.segment.heap_bytes()
    }
}

impl ToSeal for Closed<HistogramSegment> {
    fn append_to(&self, archive: &Archive) -> io::Result<Option<String>> {
        archive.append_histograms(&self.key, &self.segment).map(|()| None)
    }

    fn set_sealed(&self) {
        Closed::set_sealed(self);
    }

    fn heap_bytes(&self) -> usize {
        self.segment.heap_bytes()
    }
}

/// What is written of a segment.
struct Parts<'a> {
    groups: Vec<&'a Arc<SlotGroup>>,
    first_row: i64,
    sealed: Sealed,
    histograms: bool,
}

fn range_of(name: &str) -> Option<(i64, FileId)> {
    let mut parts = name.strip_suffix(".chunks")?.rsplitn(3, '-');
    let sequence = parts.next()?.parse().ok()?;
    let boot = parts.next()?.parse().ok()?;
    Some((parts.next()?.parse().ok()?, FileId { boot, writer: WRITER, sequence }))
}

impl Archive {
    /// Opens the folder; what is damaged is left out and told.
    pub fn open(folder: &Path, boot: u32, range_ms: i64) -> io::Result<(Archive, Vec<Finding>)> {
        std::fs::create_dir_all(folder)?;
        let mut findings = Vec::new();
        let mut ranges: BTreeMap<i64, Vec<Arc<ChunkFile>>> = BTreeMap::new();
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            let Some((range, id)) = range_of(&name) else { continue };
            let file = ChunkFile::open(path, id, &mut findings)?;
            ranges.entry(range).or_default().push(Arc::new(file));
        }
        let archive = Archive {
            folder: folder.to_owned(),
            boot,
            range_ms,
            ranges: RwLock::new(ranges),
            writing: Mutex::default(),
            findings: AtomicU64::new(findings.len() as u64),
        };
        Ok((archive, findings))
    }

    pub fn range_of(&self, at: i64) -> i64 {
        at.div_euclid(self.range_ms) * self.range_ms
    }

    /// Damages met so far.
    pub fn findings(&self) -> u64 {
        self.findings.load(Ordering::Relaxed)
    }

    /// The segments that are kept, by target: times of their first row and their last sample. A log that still has such a
    /// first row has nothing new.
    pub fn kept(&self) -> AHashMap<u64, Vec<(i64, i64)>> {
        let mut kept: AHashMap<u64, Vec<(i64, i64)>> = AHashMap::new();
        for file in self.ranges.read().expect("no panic while held").values().flatten() {
            let index = file.index.read().expect("no panic while held");
            for entry in &index.entries {
                let id = index.targets[entry.target as usize].id;
                kept.entry(id).or_default().push((entry.first_row, entry.last));
            }
        }
        kept
    }

    /// Writes a segment's chunks. They can be read at once, and are durable after the next [`Archive::sync`].
    /// Gives the rows that could not be read and why.
    pub fn append(&self, key: &TargetKey, segment: &Segment) -> io::Result<Option<String>> {
        let Some((first_row, _)) = segment.range() else { return Ok(None) };
        let sealed = seal(segment);
        let unread = sealed.unread.map(|(rows, error)| format!("{rows} rows of {}: {error}", key.labels));
        let groups = segment.placed.iter().map(|placed| &placed.group).collect();
        self.append_parts(key, Parts { groups, first_row: first_row.0, sealed, histograms: false })?;
        Ok(unread)
    }

    /// The same of a segment of histograms.
    pub fn append_histograms(&self, key: &TargetKey, segment: &HistogramSegment) -> io::Result<()> {
        let Some((first_row, _)) = segment.range() else { return Ok(()) };
        let groups = segment.placed.iter().map(|(group, _)| group).collect();
        self.append_parts(key, Parts { groups, first_row: first_row.0, sealed: segment.seal(), histograms: true })
    }

    fn append_parts(&self, key: &TargetKey, parts: Parts) -> io::Result<()> {
        if parts.sealed.samples == 0 {
            return Ok(());
        }
        let range = self.range_of(parts.first_row);
        let mut writing = self.writing.lock().expect("no panic while held");
        let Writing { open, sequence, buffer } = &mut *writing;
        let file = match open.entry(range) {
            Entry::Occupied(file) => file.into_mut(),
            Entry::Vacant(place) => {
                *sequence += 1;
                let id = FileId { boot: self.boot, writer: WRITER, sequence: *sequence };
                let path = self.folder.join(format!("{range}-{}-{}.chunks", id.boot, id.sequence));
                let file = File::options().read(true).write(true).create_new(true).open(&path)?;
                blocks::file::sync_folder(&self.folder)?;
                let file = Arc::new(ChunkFile { path, file, index: RwLock::default() });
                self.ranges.write().expect("no panic while held").entry(range).or_default().push(file.clone());
                let (targets, groups) = (AHashMap::new(), AHashMap::new());
                place.insert(Open { id, file, offset: 0, synced: true, targets, groups })
            }
        };
        let outcome = file.append(key, parts, buffer);
        if outcome.is_err() {
            // What was written in part is cut off by the next start; nothing more goes there.
            open.remove(&range);
        }
        outcome
    }

    /// Makes everything appended durable.
    pub fn sync(&self) -> io::Result<()> {
        let mut writing = self.writing.lock().expect("no panic while held");
        let mut failed = Ok(());
        writing.open.retain(|_, open| {
            if open.synced {
                return true;
            }
            let outcome = open.file.file.sync_data();
            open.synced = outcome.is_ok();
            match outcome {
                Ok(()) => true,
                Err(error) => {
                    failed = Err(error);
                    false
                }
            }
        });
        failed
    }

    /// Ranges that have files, oldest first.
    pub fn ranges(&self) -> Vec<i64> {
        self.ranges.read().expect("no panic while held").keys().copied().collect()
    }

    /// The files of a range, which take nothing more.
    pub fn close_range(&self, range: i64) -> Vec<Arc<ChunkFile>> {
        self.writing.lock().expect("no panic while held").open.remove(&range);
        self.ranges.read().expect("no panic while held").get(&range).cloned().unwrap_or_default()
    }

    /// Removes files whose samples are in a block.
    pub fn remove(&self, range: i64, files: &[Arc<ChunkFile>]) -> io::Result<()> {
        let mut ranges = self.ranges.write().expect("no panic while held");
        if let Some(kept) = ranges.get_mut(&range) {
            kept.retain(|file| !files.iter().any(|gone| Arc::ptr_eq(file, gone)));
            if kept.is_empty() {
                ranges.remove(&range);
            }
        }
        drop(ranges);
        files.iter().try_for_each(|file| std::fs::remove_file(&file.path))
    }

    /// Samples of matching series in `[from, to]`, markers included, in pieces. Targets with `skip` are left out.
    pub fn select(
        &self,
        matchers: &[Vec<Matcher>],
        from: Timestamp,
        to: Timestamp,
        skip: impl Fn(u64) -> bool,
        stop: &AtomicBool,
        mut found: impl FnMut(Piece) -> bool,
    ) {
        let files: Vec<Arc<ChunkFile>> =
            self.ranges.read().expect("no panic while held").values().flatten().cloned().collect();
        for file in files {
            if !file.select(matchers, from.0, to.0, &skip, stop, &self.findings, &mut found) {
                return;
            }
        }
    }

    /// Series with an entry that overlaps `[from, to]`, each perhaps several times.
    pub fn select_labels(
        &self,
        selectors: &[Vec<Matcher>],
        from: Timestamp,
        to: Timestamp,
        stop: &AtomicBool,
        found: &mut impl FnMut(Labels, Timestamp),
    ) {
        let files: Vec<Arc<ChunkFile>> =
            self.ranges.read().expect("no panic while held").values().flatten().cloned().collect();
        for file in files {
            let index = file.index.read().expect("no panic while held");
            let mut matching = Matching::new(selectors);
            // A target's group once, however many segments have it.
            let mut seen: AHashSet<(u32, u32)> = AHashSet::new();
            for entry in index.entries.iter().filter(|entry| entry.first <= to.0 && entry.last >= from.0) {
                let target = &index.targets[entry.target as usize].labels;
                for number in entry.groups.iter().filter(|number| seen.insert((entry.target, **number))) {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let group = &index.groups[*number as usize];
                    for slot in matching.of_target(target)(group).iter() {
                        found(group.series_labels(*slot as usize, target), Timestamp(entry.last.min(to.0)));
                    }
                }
            }
        }
    }

    /// How many samples and bytes there are.
    pub fn size(&self) -> (u64, u64) {
        let ranges = self.ranges.read().expect("no panic while held");
        let size = |file: &Arc<ChunkFile>| {
            let bytes = file.file.metadata().map_or(0, |metadata| metadata.len());
            (file.index.read().expect("no panic while held").samples, bytes)
        };
        ranges.values().flatten().map(size).fold((0, 0), |all, one| (all.0 + one.0, all.1 + one.1))
    }

    /// Times of the oldest and the newest sample.
    pub fn bounds(&self) -> Option<(i64, i64)> {
        let ranges = self.ranges.read().expect("no panic while held");
        ranges
            .values()
            .flatten()
            .filter_map(|file| file.bounds())
            .reduce(|all, one| (all.0.min(one.0), all.1.max(one.1)))
    }
}

impl Open {
    fn append(&mut self, key: &TargetKey, parts: Parts, buffer: &mut Vec<u8>) -> io::Result<()> {
        let Parts { groups: of_segment, first_row, sealed, histograms } = parts;
        buffer.clear();
        let mut payload = Vec::new();
        let mut put = |buffer: &mut Vec<u8>, write: &dyn Fn(&mut Vec<u8>) -> u8| {
            payload.clear();
            let kind = write(&mut payload);
            put_frame(self.id, self.offset, kind, &payload, buffer);
        };
        if self.offset == 0 {
            put(buffer, &|out| {
                out.extend_from_slice(HEADER_V1);
                HEADER
            });
        }
        let mut index = self.file.index.write().expect("no panic while held");
        let known = self.targets.get(&key.id).copied();
        let target = known.unwrap_or(index.targets.len() as u32);
        if known.is_none() {
            put(buffer, &|out| record::target(target, key.id, &key.labels, out));
        }
        let mut groups = Vec::with_capacity(of_segment.len());
        let mut fresh: Vec<Arc<SlotGroup>> = Vec::new();
        for group in of_segment {
            let number = match self.groups.get(&Arc::as_ptr(group).addr()) {
                Some((number, _)) => *number,
                None => {
                    let number = (index.groups.len() + fresh.len()) as u32;
                    put(buffer, &|out| record::group(number, group, out));
                    self.groups.insert(Arc::as_ptr(group).addr(), (number, group.clone()));
                    fresh.push(group.clone());
                    number
                }
            };
            groups.push(number);
        }
        let table_bytes = sealed.ends.len() * 4 + 4;
        let head = ChunksHead {
            histograms,
            target,
            groups: groups.clone(),
            first: sealed.first,
            last: sealed.last,
            first_row,
            samples: sealed.samples,
            bytes: (table_bytes + sealed.entries.len()) as u64,
        };
        put(buffer, &|out| record::chunks(&head, out));
        let offset = self.offset + buffer.len() as u64;
        let table_at = buffer.len();
        sealed.ends.iter().for_each(|end| buffer.extend_from_slice(&end.to_le_bytes()));
        let sum = crc32c::crc32c(&buffer[table_at..]);
        buffer.extend_from_slice(&sum.to_le_bytes());
        buffer.extend_from_slice(&sealed.entries);
        self.file.file.write_all_at(buffer, self.offset)?;
        self.offset += buffer.len() as u64;
        self.synced = false;
        if known.is_none() {
            self.targets.insert(key.id, target);
            index.targets.push(key.clone());
        }
        index.groups.append(&mut fresh);
        index.samples += sealed.samples;
        index.entries.push(Kept {
            target,
            groups: groups.into(),
            offset,
            slots: sealed.ends.len() as u32,
            bytes: head.bytes,
            histograms,
            first: sealed.first,
            last: sealed.last,
            first_row,
        });
        Ok(())
    }
}

impl ChunkFile {
    /// Reads a file's frames, without the chunks behind them.
    fn open(path: PathBuf, id: FileId, findings: &mut Vec<Finding>) -> io::Result<ChunkFile> {
        let file = File::open(&path)?;
        let length = file.metadata()?.len();
        let mut index = Index::default();
        let mut numbers: (AHashMap<u32, u32>, AHashMap<u32, u32>) = Default::default();
        let mut finding = |offset, reason: String| findings.push(Finding { file: path.clone(), offset, reason });
        let mut at = 0;
        while at < length {
            match read_frame(&file, id, at, length) {
                Some((kind, payload)) => {
                    let behind = at + (FRAME_HEAD_BYTES + payload.len()) as u64;
                    let taken = match kind {
                        HEADER if payload == HEADER_V1 => Ok(0),
                        HEADER => Err("chunks of a newer version"),
                        kind => record::read(kind, &payload)
                            .and_then(|record| take(record, behind, length, &mut index, &mut numbers)),
                    };
                    at = behind + taken.unwrap_or(0);
                    if let Err(reason) = taken {
                        finding(behind, reason.to_owned());
                    }
                }
                None => {
                    let window = (length - at).min(SEARCH_BYTES_MAX) as usize;
                    let mut bytes = vec![0; window];
                    file.read_exact_at(&mut bytes, at)?;
                    match search_bytes(id, at, &bytes) {
                        Some(next) => {
                            finding(at, format!("{} bytes are damaged", next - at));
                            at = next;
                        }
                        None => {
                            finding(at, format!("the last {} bytes are torn or damaged", length - at));
                            break;
                        }
                    }
                }
            }
        }
        Ok(ChunkFile { path, file, index: RwLock::new(index) })
    }

    fn bounds(&self) -> Option<(i64, i64)> {
        let index = self.index.read().expect("no panic while held");
        let bounds = index.entries.iter().map(|entry| (entry.first, entry.last));
        bounds.reduce(|all, one| (all.0.min(one.0), all.1.max(one.1)))
    }

    /// False when the taker wants no more.
    #[expect(clippy::too_many_arguments, reason = "the arguments of a select, handed on")]
    fn select(
        &self,
        selectors: &[Vec<Matcher>],
        from: i64,
        to: i64,
        skip: &impl Fn(u64) -> bool,
        stop: &AtomicBool,
        findings: &AtomicU64,
        found: &mut impl FnMut(Piece) -> bool,
    ) -> bool {
        // Entries are few and small; the lock is not held while chunks are read.
        let (entries, targets, groups) = {
            let index = self.index.read().expect("no panic while held");
            let mut entries: Vec<Kept> = index
                .entries
                .iter()
                .filter(|entry| {
                    let id = index.targets[entry.target as usize].id;
                    entry.first <= to && entry.last >= from && !skip(id)
                })
                .cloned()
                .collect();
            if entries.is_empty() {
                return true;
            }
            entries.sort_by_key(|entry| entry.target);
            (entries, index.targets.clone(), index.groups.clone())
        };
        let mut matching = Matching::new(selectors);
        for of_target in entries.chunk_by(|one, other| one.target == other.target) {
            let target = &targets[of_target[0].target as usize].labels;
            let mut pieces: AHashMap<(u32, u32), Piece> = AHashMap::new();
            let mut matching = matching.of_target(target);
            for entry in of_target {
                if stop.load(Ordering::Relaxed) {
                    return false;
                }
                let (mut series, mut slots) = (Vec::new(), Vec::new());
                let mut base = 0;
                for number in &entry.groups {
                    let group = &groups[*number as usize];
                    for slot in matching(group).iter() {
                        series.push((*number, *slot));
                        slots.push(base + slot);
                    }
                    base += group.len() as u32;
                }
                let damaged = self.read_slots(entry, &slots, |at, chunk| {
                    if chunk.min > to || chunk.max < from {
                        return Ok(());
                    }
                    let (number, slot) = series[at];
                    let piece = pieces
                        .entry((number, slot))
                        .or_insert_with(|| Piece::new(groups[number as usize].series_labels(slot as usize, target)));
                    chunk.decode(|at, value| {
                        if at >= from && at <= to {
                            piece.push(at, value);
                        }
                    })
                });
                findings.fetch_add(damaged.len() as u64, Ordering::Relaxed);
            }
            if !pieces.into_values().all(|piece| piece.is_empty() || found(piece)) {
                return false;
            }
        }
        true
    }

    /// Gives `take` the chunks of slots of an entry, one of floats at most or any number of histograms, with the place
    /// of the slot among `slots`, which ascend. What lies close together is read together. Gives why slots, or all of
    /// them, were not read.
    fn read_slots(
        &self,
        entry: &Kept,
        slots: &[u32],
        mut take: impl FnMut(usize, ChunkRef) -> Result<(), ChunkError>,
    ) -> Vec<String> {
        let places = match self.places(entry, slots) {
            Ok(places) => places,
            Err(reason) => return vec![reason],
        };
        let mut failed = Vec::new();
        let mut rest = &places[..];
        // Of a span that could not be read, every slot alone.
        let mut alone = 0usize;
        let mut bytes = Vec::new();
        while let Some(first) = rest.first() {
            let near = |pair: &[Place]| {
                pair[1].start - pair[0].end <= GAP_BYTES_MAX && pair[1].end - first.start <= SPAN_BYTES_MAX
            };
            let count = if alone > 0 { 1 } else { 1 + rest.windows(2).take_while(|pair| near(pair)).count() };
            alone = alone.saturating_sub(1);
            let (span, behind) = rest.split_at(count);
            bytes.resize((span[count - 1].end - first.start) as usize, 0);
            if let Err(error) = self.file.read_exact_at(&mut bytes, entry.offset + first.start) {
                if count > 1 {
                    alone = count;
                } else {
                    failed.push(error.to_string());
                    rest = behind;
                }
                continue;
            }
            rest = behind;
            for place in span {
                let of_slot = &bytes[(place.start - first.start) as usize..(place.end - first.start) as usize];
                if let Err(reason) = read_entry(of_slot, entry, |chunk| take(place.at, chunk)) {
                    failed.push(reason);
                }
            }
        }
        failed
    }

    /// Where the bytes of slots lie in an entry, of those that have any.
    fn places(&self, entry: &Kept, slots: &[u32]) -> Result<Vec<Place>, String> {
        let table_bytes = u64::from(entry.slots) * 4 + 4;
        let word = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().expect("four bytes"));
        let mut table = Vec::new();
        if slots.len() >= TABLE_AT_ONCE {
            table.resize(table_bytes as usize, 0);
            self.file.read_exact_at(&mut table, entry.offset).map_err(|error| error.to_string())?;
            let (ends, sum) = table.split_at(table_bytes as usize - 4);
            if crc32c::crc32c(ends) != word(sum) {
                return Err("the checksum of a table does not fit".into());
            }
        }
        let mut places = Vec::with_capacity(slots.len());
        for (at, slot) in slots.iter().enumerate() {
            // The end of the slot before, and its own.
            let from = u64::from(*slot).saturating_sub(1) * 4;
            let length = if *slot == 0 { 4 } else { 8 };
            let mut ends = [0; 8];
            if table.is_empty() {
                let read = self.file.read_exact_at(&mut ends[8 - length..], entry.offset + from);
                read.map_err(|error| error.to_string())?;
            } else {
                ends[8 - length..].copy_from_slice(&table[from as usize..][..length]);
            }
            let (start, end) = (u64::from(word(&ends[..4])), u64::from(word(&ends[4..])));
            if table_bytes + end > entry.bytes {
                return Err("a table reaches behind its chunks".into());
            }
            if start > end || places.last().is_some_and(|last: &Place| last.end > table_bytes + start) {
                return Err("a table is not ascending".into());
            }
            if start < end {
                places.push(Place { at, start: table_bytes + start, end: table_bytes + end });
            }
        }
        Ok(places)
    }

    /// What a block is made of: targets, groups, and for each target and group the places of its chunks.
    pub(crate) fn contents(&self) -> Contents {
        let index = self.index.read().expect("no panic while held");
        let mut places = Vec::new();
        for (number, entry) in index.entries.iter().enumerate() {
            let mut base = 0;
            for group in &entry.groups {
                places.push((entry.target, *group, number as u32, base));
                base += index.groups[*group as usize].len() as u32;
            }
        }
        Contents {
            targets: index.targets.iter().map(|key| key.labels.clone()).collect(),
            groups: index.groups.clone(),
            places,
        }
    }

    /// The chunks of a slot of an entry.
    pub(crate) fn chunks(&self, entry: u32, slot: u32) -> Result<Vec<Chunk>, Finding> {
        let entry = self.index.read().expect("no panic while held").entries[entry as usize].clone();
        let mut chunks = Vec::new();
        let failed = self.read_slots(&entry, &[slot], |_, chunk| {
            chunks.push(chunk.to_owned());
            Ok(())
        });
        match failed.into_iter().next() {
            Some(reason) => Err(Finding { file: self.path.clone(), offset: entry.offset, reason }),
            None => Ok(chunks),
        }
    }
}

/// Of one file, for a block.
pub(crate) struct Contents {
    pub targets: Vec<Labels>,
    pub groups: Vec<Arc<SlotGroup>>,
    /// Target, group, entry, first slot of the group in the entry.
    pub places: Vec<(u32, u32, u32, u32)>,
}

/// Where the chunks of a slot lie, from the beginning of the entry's table on.
struct Place {
    /// The slot's place among those that are wanted.
    at: usize,
    start: u64,
    end: u64,
}

fn read_entry(
    bytes: &[u8],
    entry: &Kept,
    mut take: impl FnMut(ChunkRef) -> Result<(), ChunkError>,
) -> Result<(), String> {
    let (sum, rest) = bytes.split_first_chunk::<4>().ok_or("an entry ends early")?;
    if crc32c::crc32c(rest) != u32::from_le_bytes(*sum) {
        return Err("the checksum of a chunk does not fit".into());
    }
    let mut take = |chunk| take(chunk).map_err(|error| error.to_string());
    if entry.histograms {
        return histograms::read_entry(rest, entry.first)?.into_iter().try_for_each(take);
    }
    let mut reader = Reader::new(rest);
    let min = entry.first.wrapping_add(unzigzag(reader.varint()?));
    let max = entry.last.wrapping_sub(unzigzag(reader.varint()?));
    take(ChunkRef { min, max, encoding: xor::XOR, bytes: reader.rest() })
}

fn read_frame(file: &File, id: FileId, at: u64, length: u64) -> Option<(u8, Vec<u8>)> {
    let mut head = [0; FRAME_HEAD_BYTES];
    file.read_exact_at(&mut head, at).ok()?;
    let (kind, payload_bytes) = frame_head(&head)?;
    let fits = payload_bytes <= PAYLOAD_BYTES_MAX && at + (FRAME_HEAD_BYTES + payload_bytes) as u64 <= length;
    if !fits {
        return None;
    }
    let mut payload = vec![0; payload_bytes];
    file.read_exact_at(&mut payload, at + FRAME_HEAD_BYTES as u64).ok()?;
    verify_frame(id, at, &head, &payload).then_some((kind, payload))
}

/// Takes a record into the index; gives the bytes behind it that belong to it.
fn take(
    record: Record,
    behind: u64,
    length: u64,
    index: &mut Index,
    numbers: &mut (AHashMap<u32, u32>, AHashMap<u32, u32>),
) -> Result<u64, &'static str> {
    match record {
        Record::Target { target, id, labels } => {
            numbers.0.insert(target, index.targets.len() as u32);
            index.targets.push(TargetKey { id, labels });
            Ok(0)
        }
        Record::Group { group, slots } => {
            numbers.1.insert(group, index.groups.len() as u32);
            index.groups.push(Arc::new(slots));
            Ok(0)
        }
        Record::Chunks(head) => {
            if behind.checked_add(head.bytes).is_none_or(|end| end > length) {
                return Err("chunks are torn off");
            }
            let target = *numbers.0.get(&head.target).ok_or("chunks of an unknown target")?;
            let groups = head.groups.iter().map(|group| numbers.1.get(group).copied()).collect::<Option<Box<[u32]>>>();
            let groups = groups.ok_or("chunks of an unknown group")?;
            let slots: usize = groups.iter().map(|group| index.groups[*group as usize].len()).sum();
            if head.bytes < slots as u64 * 4 + 4 {
                return Err("a table that does not fit its groups");
            }
            index.samples += head.samples;
            let ChunksHead { histograms, first, last, first_row, bytes, .. } = head;
            let (offset, slots) = (behind, slots as u32);
            index.entries.push(Kept { target, groups, offset, slots, bytes, histograms, first, last, first_row });
            Ok(bytes)
        }
        _ => Err("a record of another kind of file"),
    }
}
