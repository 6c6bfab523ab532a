//! The chunk store: samples that are encoded and in no block yet, in files of one range of time each.
//!
//! One thread writes; any thread reads. Format: docs/format/head.md. `encode` makes chunks of a segment, `write` puts them
//! into a file, `file` reads them, `flush` is the thread that does it for closed segments.
//!
//! Invariants:
//!   * a file says everything about its samples: targets, groups, chunks
//!   * a segment is durable when [`ChunkStore::sync`] has returned after its [`ChunkStore::append`]
//!   * a damaged chunk costs its own samples; it is reported with file and offset

mod encode;
mod file;
mod flush;
mod index;
mod labels;
mod write;

pub use encode::encode_segment;
pub use file::{ChunkFile, Corruption};
pub(crate) use flush::start_flush_thread;
pub use flush::{FlushQueue, Flushable};

use crate::encoded::{EncodedPart, range_of};
use crate::file_names::{CHUNK_WRITER, parse_chunk_file};
use crate::group::SlotGroup;
use crate::head::Segment;
use crate::histograms::HistogramSegment;
use crate::log::TargetKey;
use crate::log::frame::FileId;
use crate::series_part::SeriesPart;
use ahash::AHashMap;
use series::{Matcher, Timestamp};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use write::{OpenChunkFile, SegmentChunks};

/// Ranges that the files of one range are divided into at most: only files of older versions have samples of others.
const STARTS_MAX: usize = 4096;

/// How much chunk files hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChunkSize {
    pub samples: u64,
    /// Slots of segments; those without samples are counted, too.
    pub chunks: u64,
    pub bytes: u64,
}

/// All chunks that are in no block.
pub struct ChunkStore {
    folder: PathBuf,
    boot: u32,
    range_ms: i64,
    ranges: RwLock<BTreeMap<i64, Vec<Arc<ChunkFile>>>>,
    writing: Mutex<Writing>,
    corruptions: AtomicU64,
    bytes_written: AtomicU64,
    chunks_written: AtomicU64,
    chunks_removed: AtomicU64,
}

#[derive(Default)]
struct Writing {
    open: BTreeMap<i64, OpenChunkFile>,
    sequence: u32,
    buffer: Vec<u8>,
    roll_backs: u64,
}

/// What is appended together: a roll-back meanwhile undoes it.
#[derive(Clone, Copy, Debug)]
pub struct Batch(u64);

/// What was written of a segment.
#[derive(Debug, Default)]
pub struct AppendReport {
    pub samples: u64,
    /// Rows that could not be decoded, and why.
    pub unread: Option<String>,
}

/// Segments that are in chunks, by target.
#[derive(Debug, Default)]
pub struct StoredSegments(AHashMap<u64, Vec<StoredSegment>>);

#[derive(Debug)]
struct StoredSegment {
    range: i64,
    first_row: i64,
    last: i64,
}

impl StoredSegments {
    /// Whether the part of a target's segment that lies in a range is here.
    pub fn has(&self, target: u64, first_row: i64, range: i64) -> bool {
        let is_it = |one: &StoredSegment| one.first_row == first_row && one.range == range;
        self.0.get(&target).is_some_and(|segments| segments.iter().any(is_it))
    }

    /// Time of a target's last sample.
    pub fn newest(&self, target: u64) -> Option<i64> {
        self.0.get(&target)?.iter().map(|segment| segment.last).max()
    }
}

impl ChunkStore {
    /// Opens the folder; what is damaged is left out and told.
    pub fn open(folder: &Path, boot: u32, range_ms: i64) -> io::Result<(ChunkStore, Vec<Corruption>)> {
        std::fs::create_dir_all(folder)?;
        let mut corruptions = Vec::new();
        let mut ranges: BTreeMap<i64, Vec<Arc<ChunkFile>>> = BTreeMap::new();
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            let Some((range, id)) = parse_chunk_file(&name) else { continue };
            match ChunkFile::open(path.clone(), id, &mut corruptions) {
                Ok(file) => ranges.entry(range).or_default().push(Arc::new(file)),
                Err(error) => corruptions.push(Corruption { file: path, offset: 0, reason: error.to_string() }),
            }
        }
        let store = ChunkStore {
            folder: folder.to_owned(),
            boot,
            range_ms,
            ranges: RwLock::new(ranges),
            writing: Mutex::default(),
            corruptions: AtomicU64::new(corruptions.len() as u64),
            bytes_written: AtomicU64::new(0),
            chunks_written: AtomicU64::new(0),
            chunks_removed: AtomicU64::new(0),
        };
        Ok((store, corruptions))
    }

    pub fn range_of(&self, at: i64) -> i64 {
        range_of(at, self.range_ms)
    }

    /// Damages met so far.
    pub fn corruptions(&self) -> u64 {
        self.corruptions.load(Ordering::Relaxed)
    }

    pub(crate) fn count_corruption(&self) {
        self.corruptions.fetch_add(1, Ordering::Relaxed);
    }

    /// The segments that are here and durable. A log that still has one of them has nothing new.
    pub fn stored_segments(&self) -> StoredSegments {
        let mut kept = StoredSegments::default();
        for (range, files) in self.ranges.read().expect("no panic while held").iter() {
            for file in files {
                let index = file.index.read().expect("no panic while held");
                for entry in &index.entries {
                    let segments = kept.0.entry(index.targets[entry.target as usize].id).or_default();
                    segments.push(StoredSegment { range: *range, first_row: entry.first_row, last: entry.last });
                }
            }
        }
        kept
    }

    /// Whether the part of a target's segment that lies in a range can be read. What cannot be is forgotten: asked again,
    /// the answer is the same.
    pub fn verify(&self, range: i64, target: u64, first_row: i64) -> bool {
        let files = self.ranges.read().expect("no panic while held").get(&range).cloned().unwrap_or_default();
        let (mut good, mut bad) = (0, 0);
        for file in files {
            let (readable, forgotten) = file.forget_unreadable(target, first_row);
            good += readable;
            bad += forgotten;
        }
        self.corruptions.fetch_add(bad as u64, Ordering::Relaxed);
        good > 0
    }

    /// Begins to append. What is appended is readable and durable after [`ChunkStore::sync`] with the same batch.
    pub fn begin(&self) -> Batch {
        Batch(self.writing.lock().expect("no panic while held").roll_backs)
    }

    /// Writes the chunks of a segment, each sample into the range of its own time, unless `has` says of a range that its
    /// part is there. Gives the samples written. After an error nothing of the batch counts.
    pub fn append(&self, key: &TargetKey, segment: &Segment, has: impl Fn(i64) -> bool) -> io::Result<AppendReport> {
        let Some((first, last)) = segment.range() else { return Ok(AppendReport::default()) };
        let range = self.range_of(first.0);
        if range == self.range_of(last.0) && segment.is_unstamped() && has(range) {
            return Ok(AppendReport::default());
        }
        let encoded = encode_segment(segment, self.range_ms);
        let unread = encoded.unread.map(|(rows, error)| format!("{rows} rows of {}: {error}", key.labels));
        let groups: Vec<&Arc<SlotGroup>> = segment.placed.iter().map(|placed| &placed.group).collect();
        let samples = self.append_parts(key, first.0, &groups, &encoded.parts, false, has)?;
        Ok(AppendReport { samples, unread })
    }

    /// The same of a segment of histograms.
    pub fn append_histograms(
        &self,
        key: &TargetKey,
        segment: &HistogramSegment,
        has: impl Fn(i64) -> bool,
    ) -> io::Result<AppendReport> {
        let Some((first, _)) = segment.range() else { return Ok(AppendReport::default()) };
        let groups: Vec<&Arc<SlotGroup>> = segment.placed.iter().map(|(group, _)| group).collect();
        let samples = self.append_parts(key, first.0, &groups, &segment.encode(self.range_ms), true, has)?;
        Ok(AppendReport { samples, unread: None })
    }

    fn append_parts(
        &self,
        key: &TargetKey,
        first_row: i64,
        groups: &[&Arc<SlotGroup>],
        parts: &[EncodedPart],
        histograms: bool,
        has: impl Fn(i64) -> bool,
    ) -> io::Result<u64> {
        let mut samples = 0;
        for encoded in parts.iter().filter(|part| !has(part.range)) {
            let mut writing = self.writing.lock().expect("no panic while held");
            let chunks = SegmentChunks { groups, first_row, encoded, histograms };
            if let Err(error) = self.append_part(&mut writing, key, &chunks) {
                self.roll_back(&mut writing);
                return Err(error);
            }
            samples += encoded.samples;
        }
        Ok(samples)
    }

    fn append_part(&self, writing: &mut Writing, key: &TargetKey, chunks: &SegmentChunks) -> io::Result<()> {
        let Writing { open, sequence, buffer, .. } = writing;
        let range = chunks.encoded.range;
        let file = match open.entry(range) {
            Entry::Occupied(file) => file.into_mut(),
            Entry::Vacant(place) => {
                // A start whose number could not be written may find names taken: the next try has the next one.
                *sequence += 1;
                let id = FileId { boot: self.boot, writer: CHUNK_WRITER, sequence: *sequence };
                place.insert(OpenChunkFile::create(&self.folder, range, id)?)
            }
        };
        file.append(key, chunks, buffer)?;
        self.bytes_written.fetch_add(buffer.len() as u64, Ordering::Relaxed);
        self.chunks_written.fetch_add(chunks.encoded.ends.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    /// Bytes that were written since the start.
    pub fn bytes_written(&self) -> u64 {
        self.bytes_written.load(Ordering::Relaxed)
    }

    /// Chunks that were written since the start, and those that left with their files because a block has them.
    pub fn chunks_written_and_removed(&self) -> (u64, u64) {
        (self.chunks_written.load(Ordering::Relaxed), self.chunks_removed.load(Ordering::Relaxed))
    }

    /// Makes everything that was appended durable, and readable. An error says that nothing of the batch counts that was not
    /// synced before, or that others have failed meanwhile: it has to be appended again.
    pub fn sync(&self, batch: Batch) -> io::Result<()> {
        let mut writing = self.writing.lock().expect("no panic while held");
        if writing.roll_backs != batch.0 {
            return Err(io::Error::other("what was appended was undone, because another writer has failed"));
        }
        let dirty: Vec<i64> =
            writing.open.iter().filter(|(_, file)| file.is_dirty()).map(|(range, _)| *range).collect();
        dirty.into_iter().try_for_each(|range| self.sync_range(&mut writing, range))
    }

    fn sync_range(&self, writing: &mut Writing, range: i64) -> io::Result<()> {
        let Some(file) = writing.open.get_mut(&range) else { return Ok(()) };
        let is_new = file.is_empty();
        if let Err(error) = file.sync() {
            self.roll_back(writing);
            // After a failed sync nobody knows what the file has.
            if let Some(file) = writing.open.remove(&range) {
                self.abandon(file);
            }
            return Err(error);
        }
        let (is_full, file) = (file.is_full(), file.file.clone());
        if is_full {
            writing.open.remove(&range);
        }
        if is_new {
            self.ranges.write().expect("no panic while held").entry(range).or_default().push(file);
        }
        Ok(())
    }

    /// Undoes everything that is not durable.
    fn roll_back(&self, writing: &mut Writing) {
        writing.roll_backs += 1;
        let open = std::mem::take(&mut writing.open);
        for (range, mut file) in open {
            let usable = file.roll_back().is_ok() && !file.is_empty();
            if usable {
                writing.open.insert(range, file);
            } else {
                self.abandon(file);
            }
        }
    }

    /// Gives up writing a file, which is removed if it has nothing.
    fn abandon(&self, file: OpenChunkFile) {
        if file.is_empty()
            && let Err(error) = std::fs::remove_file(&file.file.path)
        {
            tracing::warn!(file = %file.file.path.display(), %error, "an empty chunk file could not be removed");
        }
    }

    /// Ranges that have files, oldest first.
    pub fn ranges(&self) -> Vec<i64> {
        self.ranges.read().expect("no panic while held").keys().copied().collect()
    }

    /// The files of a range, which take nothing more. All that is in them is durable.
    pub fn close_range(&self, range: i64) -> io::Result<Vec<Arc<ChunkFile>>> {
        let mut writing = self.writing.lock().expect("no panic while held");
        if writing.open.get(&range).is_some_and(OpenChunkFile::is_dirty) {
            self.sync_range(&mut writing, range)?;
        }
        writing.open.remove(&range);
        Ok(self.ranges.read().expect("no panic while held").get(&range).cloned().unwrap_or_default())
    }

    /// Beginnings of the ranges that samples of these files lie in.
    pub fn starts(&self, files: &[Arc<ChunkFile>]) -> Vec<i64> {
        let mut starts = BTreeSet::new();
        for file in files {
            let index = file.index.read().expect("no panic while held");
            for entry in &index.entries {
                let (mut start, last) = (self.range_of(entry.first), self.range_of(entry.last));
                while start <= last && starts.len() < STARTS_MAX {
                    starts.insert(start);
                    start = start.saturating_add(self.range_ms);
                }
            }
        }
        starts.into_iter().collect()
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
        let chunks: u64 = files.iter().map(|file| file.index.read().expect("no panic while held").chunks).sum();
        self.chunks_removed.fetch_add(chunks, Ordering::Relaxed);
        files.iter().try_for_each(|file| std::fs::remove_file(&file.path))
    }

    /// All files of now, so that no lock is held while they are read.
    fn files(&self) -> Vec<Arc<ChunkFile>> {
        self.ranges.read().expect("no panic while held").values().flatten().cloned().collect()
    }

    /// Samples of matching series in `[from, to]`, markers included, in pieces. Targets with `skip` are left out.
    pub fn select(
        &self,
        matchers: &[Vec<Matcher>],
        from: Timestamp,
        to: Timestamp,
        skip: impl Fn(u64) -> bool,
        stop: &AtomicBool,
        mut found: impl FnMut(SeriesPart) -> bool,
    ) {
        for file in self.files() {
            if !file.select(matchers, from.0, to.0, &skip, stop, &self.corruptions, &mut found) {
                return;
            }
        }
    }

    /// How many samples, chunks and bytes there are.
    pub fn size(&self) -> ChunkSize {
        let ranges = self.ranges.read().expect("no panic while held");
        let size = |file: &Arc<ChunkFile>| {
            let bytes = file.file.metadata().map_or(0, |metadata| metadata.len());
            let index = file.index.read().expect("no panic while held");
            ChunkSize { samples: index.samples, chunks: index.chunks, bytes }
        };
        ranges.values().flatten().map(size).fold(ChunkSize::default(), |all, one| ChunkSize {
            samples: all.samples + one.samples,
            chunks: all.chunks + one.chunks,
            bytes: all.bytes + one.bytes,
        })
    }

    /// Times of the oldest and the newest sample. Does not wait for who reads or writes a file.
    pub fn bounds(&self) -> Option<(i64, i64)> {
        let ranges = self.ranges.read().expect("no panic while held");
        let bounds = ranges.values().flatten().filter_map(|file| file.bounds.get());
        bounds.reduce(|all, one| (all.0.min(one.0), all.1.max(one.1)))
    }
}
