//! From Prometheus' head to blocks.

use super::mapped::{MappedChunk, MappedFile};
use super::publish::Work;
use super::record::{RecordSink, Skipped, read_record};
use super::segment::{RecordReader, numbered_files};
use crate::Meta;
use crate::builder::{BlockBuilder, BuilderOptions, ChunkSource, SeriesNumber};
use crate::chunk::{Chunk, is_float};
use crate::error::BlockError;
use ahash::AHashMap;
use series::{Histogram, Labels};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Faults that a report lists; the others are counted.
const DAMAGES_MAX: usize = 64;
/// A block with this hint holds samples that came out of order: it does not cover its range.
const OUT_OF_ORDER_HINT: &str = "from-out-of-order";
const CHECKPOINT: &str = "checkpoint.";

/// How a head is imported.
#[derive(Clone, Debug)]
pub struct ImportOptions {
    /// Length of a block, in milliseconds.
    pub range_ms: i64,
    /// Memory for encoded samples.
    pub chunk_bytes_max: usize,
}

/// What was imported from a head, and what was not.
#[derive(Clone, Debug, Default)]
pub struct HeadImport {
    /// The blocks that were written, oldest first.
    pub blocks: Vec<Meta>,
    pub segments: u64,
    pub records: u64,
    /// Bytes of the files that were read.
    pub bytes: u64,
    pub series: u64,
    /// Samples from the logs, and chunks that were copied.
    pub samples: u64,
    pub mapped_chunks: u64,
    pub deletions: u64,
    /// Samples that a block of the folder or a copied chunk has already.
    pub samples_known: u64,
    /// Samples that are not newer than the one before: Prometheus passes them over too.
    pub samples_out_of_order: u64,
    /// Samples and chunks whose series is not in the log.
    pub samples_without_series: u64,
    pub exemplars: u64,
    pub metadata: u64,
    /// Histograms of unknown schema and records of unknown kind.
    pub unknown: u64,
    /// Bytes of a record that was not written to its end.
    pub torn_bytes: u64,
    /// The first faults.
    pub damages: Vec<BlockError>,
    pub damage_count: u64,
}

impl HeadImport {
    fn add_damage(&mut self, error: BlockError) {
        self.damage_count += 1;
        if self.damages.len() < DAMAGES_MAX {
            self.damages.push(error);
        }
    }
}

struct MappedChunks {
    files: Vec<MappedFile>,
    /// With the number of its file in `files`.
    chunks: Vec<(u32, MappedChunk)>,
}

impl ChunkSource for Arc<MappedChunks> {
    fn chunk(&self, place: u64) -> Result<Chunk, BlockError> {
        let (file, chunk) = &self.chunks[place as usize];
        self.files[*file as usize].chunk(chunk)
    }
}

/// Whether a data folder has a head of Prometheus with something in it.
pub fn has_head(folder: &Path) -> io::Result<bool> {
    if folder.join(super::WORK_DIR).exists() {
        return Ok(true);
    }
    let wal = folder.join("wal");
    let has_bytes = |files: Vec<(u64, PathBuf)>, least: u64| {
        files.iter().any(|(_, path)| path.metadata().is_ok_and(|metadata| metadata.len() > least))
    };
    Ok(has_bytes(numbered_files(&wal)?, 0)
        || newest_checkpoint(&wal)?.is_some()
        || has_bytes(numbered_files(&folder.join("wbl"))?, 0)
        // The head of a file without chunks.
        || has_bytes(numbered_files(&folder.join("chunks_head"))?, 8))
}

/// Number and folder of the newest checkpoint.
fn newest_checkpoint(wal: &Path) -> io::Result<Option<(u64, PathBuf)>> {
    let entries = match std::fs::read_dir(wal) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut newest = None;
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix(CHECKPOINT)?.parse::<u64>().ok());
        newest = newest.max(number.map(|number| (number, entry.path())));
    }
    Ok(newest)
}

/// Turns the head of Prometheus' data folder into blocks in the same folder, and moves what was read into
/// [`super::IMPORTED_DIR`]. None if there is nothing to take, or it was told to `stop`; then the folder is as before.
///
/// # Errors
/// If files cannot be read or written at all; nothing is lost, and the next call begins anew.
pub fn import_head(
    folder: &Path,
    options: &ImportOptions,
    new_ulid: impl FnMut() -> String,
    stop: &AtomicBool,
) -> Result<Option<HeadImport>, BlockError> {
    let failed = |error: io::Error| BlockError::io(folder, 0, &error);
    let work = Work::new(folder);
    work.recover()?;
    if !has_head(folder).map_err(failed)? {
        return Ok(None);
    }
    work.begin()?;
    let mut report = HeadImport::default();
    let mapped = Arc::new(read_mapped(&folder.join("chunks_head"), &mut report)?);
    let mut head = Head::new(folder, options, &work, mapped, report).map_err(failed)?;
    if head.read_logs(folder, stop)? {
        let metas = head.builder.finish(&work.blocks(), new_ulid, stop)?;
        if !stop.load(Ordering::Relaxed) {
            let mut report = head.end(metas);
            report.series = head.builder.series_count() as u64;
            work.complete()?;
            return Ok(Some(report));
        }
    }
    work.remove()?;
    Ok(None)
}

fn read_mapped(folder: &Path, report: &mut HeadImport) -> Result<MappedChunks, BlockError> {
    let mut all = MappedChunks { files: Vec::new(), chunks: Vec::new() };
    let files = numbered_files(folder).map_err(|error| BlockError::io(folder, 0, &error))?;
    let last = files.len();
    for (i, (_, path)) in files.into_iter().enumerate() {
        let length = path.metadata().map_or(0, |metadata| metadata.len());
        // Prometheus makes the file before it writes its head.
        if length == 0 && i + 1 == last {
            continue;
        }
        report.bytes += length;
        let file = match MappedFile::open(path) {
            Ok(file) => file,
            Err(error) => {
                report.add_damage(error);
                continue;
            }
        };
        let number = all.files.len() as u32;
        let ended = file.read(|chunk| all.chunks.push((number, chunk)), |error| report.add_damage(error));
        if let Err(error) = ended {
            report.add_damage(error);
        }
        all.files.push(file);
    }
    Ok(all)
}

/// Where a series of the log is in its mapped chunks.
#[derive(Default)]
struct SeriesState {
    /// Times of its chunks that were mapped in order, ascending.
    mapped: Vec<(i64, i64)>,
    passed: usize,
    newest: Option<i64>,
}

impl SeriesState {
    /// Whether a mapped chunk has the time.
    fn is_mapped(&mut self, at: i64) -> bool {
        while self.mapped.get(self.passed).is_some_and(|(_, max)| *max < at) {
            self.passed += 1;
        }
        self.mapped.get(self.passed).is_some_and(|(min, _)| *min <= at)
    }
}

struct Head {
    builder: BlockBuilder<Arc<MappedChunks>>,
    mapped: Arc<MappedChunks>,
    /// Chunks of series whose record was not met yet.
    waiting: AHashMap<u64, Vec<u32>>,
    numbers: AHashMap<u64, SeriesNumber>,
    states: AHashMap<SeriesNumber, SeriesState>,
    /// Ranges of the folder's blocks, ascending, without overlap.
    covered: Vec<(i64, i64)>,
    is_out_of_order: bool,
    report: HeadImport,
    /// The first failure to write.
    failed: Option<BlockError>,
}

impl Head {
    fn new(
        folder: &Path,
        options: &ImportOptions,
        work: &Work,
        mapped: Arc<MappedChunks>,
        report: HeadImport,
    ) -> io::Result<Head> {
        let mut waiting: AHashMap<u64, Vec<u32>> = AHashMap::new();
        for (place, (_, chunk)) in mapped.chunks.iter().enumerate() {
            waiting.entry(chunk.reference).or_default().push(place as u32);
        }
        let options =
            BuilderOptions { work: work.parts(), range_ms: options.range_ms, chunk_bytes_max: options.chunk_bytes_max };
        Ok(Head {
            builder: BlockBuilder::new(options, mapped.clone()),
            mapped,
            waiting,
            numbers: AHashMap::new(),
            states: AHashMap::new(),
            covered: covered(folder)?,
            is_out_of_order: false,
            report,
            failed: None,
        })
    }

    /// Whether a block of the folder has the time.
    fn is_covered(&self, at: i64) -> bool {
        let Some((_, end)) = self.covered.last() else { return false };
        at < *end && self.covered.iter().any(|(min, max)| at >= *min && at < *max)
    }

    /// Reads checkpoint, segments and the log of late samples; false if it was told to stop.
    fn read_logs(&mut self, folder: &Path, stop: &AtomicBool) -> Result<bool, BlockError> {
        let wal = folder.join("wal");
        let failed = |error: io::Error| BlockError::io(&wal, 0, &error);
        let mut paths = Vec::new();
        let mut first = 0;
        if let Some((number, checkpoint)) = newest_checkpoint(&wal).map_err(failed)? {
            let files = numbered_files(&checkpoint).map_err(|error| BlockError::io(&checkpoint, 0, &error))?;
            let count = files.len();
            paths.extend(files.into_iter().enumerate().map(|(i, (_, path))| (path, i + 1 == count)));
            first = number + 1;
        }
        let segments = numbered_files(&wal).map_err(failed)?;
        let segments: Vec<_> = segments.into_iter().filter(|(number, _)| *number >= first).collect();
        for (number, next) in segments.windows(2).map(|pair| (pair[0].0, pair[1].0)) {
            if next != number + 1 {
                let reason = format!("segment {:08} follows {number:08}; those between are missing", next);
                self.report.add_damage(BlockError::new(&wal, 0, reason));
            }
        }
        let count = segments.len();
        paths.extend(segments.into_iter().enumerate().map(|(i, (_, path))| (path, i + 1 == count)));
        let late = folder.join("wbl");
        let late_segments = numbered_files(&late).map_err(|error| BlockError::io(&late, 0, &error))?;
        let in_order = paths.len();
        let count = late_segments.len();
        paths.extend(late_segments.into_iter().enumerate().map(|(i, (_, path))| (path, i + 1 == count)));
        let mut reader = RecordReader::default();
        for (i, (path, is_last)) in paths.iter().enumerate() {
            self.is_out_of_order = i >= in_order;
            if stop.load(Ordering::Relaxed) {
                return Ok(false);
            }
            self.read_segment(&mut reader, path, *is_last);
            if let Some(error) = self.failed.take() {
                return Err(error);
            }
        }
        let without_series: u64 = self.waiting.values().map(|chunks| chunks.len() as u64).sum();
        self.report.samples_without_series += without_series;
        Ok(true)
    }

    fn read_segment(&mut self, reader: &mut RecordReader, path: &Path, is_last: bool) {
        self.report.segments += 1;
        self.report.bytes += path.metadata().map_or(0, |metadata| metadata.len());
        let mut damages = Vec::new();
        let mut damages_of_records = Vec::new();
        let read = reader.read_segment(
            path,
            is_last,
            |offset, record| {
                if let Err(reason) = read_record(record, self) {
                    damages_of_records.push(BlockError::new(path, offset, reason));
                }
            },
            |error| damages.push(error),
        );
        match read {
            Ok(end) => {
                self.report.records += end.records;
                self.report.torn_bytes += end.torn_bytes;
            }
            // Of a file that cannot be read to its end the rest is lost, the next one is not.
            Err(error) => damages.push(error),
        }
        damages.into_iter().chain(damages_of_records).for_each(|error| self.report.add_damage(error));
    }

    /// The series of a sample, if the sample is to be imported.
    fn admit(&mut self, reference: u64, at: i64) -> Option<SeriesNumber> {
        let Some(number) = self.numbers.get(&reference).copied() else {
            self.report.samples_without_series += 1;
            return None;
        };
        if self.is_out_of_order {
            return Some(number);
        }
        let state = self.states.entry(number).or_default();
        if state.newest.is_some_and(|newest| at <= newest) {
            self.report.samples_out_of_order += 1;
            return None;
        }
        state.newest = Some(at);
        if state.is_mapped(at) || self.is_covered(at) {
            self.report.samples_known += 1;
            return None;
        }
        self.report.samples += 1;
        Some(number)
    }

    fn note(&mut self, pushed: Result<(), BlockError>) {
        if let Err(error) = pushed {
            self.failed.get_or_insert(error);
        }
    }

    fn end(&mut self, blocks: Vec<Meta>) -> HeadImport {
        let mut report = std::mem::take(&mut self.report);
        self.builder.lost().iter().for_each(|error| report.add_damage(error.clone()));
        report.blocks = blocks;
        report
    }
}

impl RecordSink for Head {
    fn series(&mut self, reference: u64, labels: Labels) {
        let number = self.builder.series(labels);
        self.numbers.insert(reference, number);
        let Some(places) = self.waiting.remove(&reference) else { return };
        for place in places {
            let (_, chunk) = &self.mapped.chunks[place as usize];
            if chunk.min > chunk.max
                || (!chunk.is_out_of_order && self.is_covered(chunk.min) && self.is_covered(chunk.max))
            {
                continue;
            }
            if !chunk.is_out_of_order {
                self.states.entry(number).or_default().mapped.push((chunk.min, chunk.max));
            }
            self.report.mapped_chunks += 1;
            self.builder.push_chunk(number, chunk.min, chunk.max, !is_float(chunk.encoding), u64::from(place));
        }
        // A series may have had several numbers.
        if let Some(state) = self.states.get_mut(&number) {
            state.mapped.sort_unstable();
            state.passed = 0;
        }
    }

    fn float(&mut self, reference: u64, at: i64, value: f64) {
        if let Some(number) = self.admit(reference, at) {
            let pushed = self.builder.push_float(number, at, value);
            self.note(pushed);
        }
    }

    fn histogram(&mut self, reference: u64, at: i64, histogram: Histogram) {
        if let Some(number) = self.admit(reference, at) {
            let pushed = self.builder.push_histogram(number, at, Arc::new(histogram));
            self.note(pushed);
        }
    }

    fn deletion(&mut self, reference: u64, from: i64, to: i64) {
        let Some(number) = self.numbers.get(&reference).copied() else { return };
        self.report.deletions += 1;
        if (from, to) == (i64::MIN, i64::MAX) {
            // Prometheus took the series out of the head, into a block.
            self.builder.clear(number);
        } else {
            self.builder.delete(number, from, to);
        }
    }

    fn skip(&mut self, what: Skipped) {
        match what {
            Skipped::Exemplar => self.report.exemplars += 1,
            Skipped::Metadata => self.report.metadata += 1,
            Skipped::UnknownSchema | Skipped::UnknownRecord(_) => self.report.unknown += 1,
        }
    }
}

/// Ranges of the blocks in a folder, ascending, without overlap.
fn covered(folder: &Path) -> io::Result<Vec<(i64, i64)>> {
    let mut ranges = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.join("index").is_file()
            && let Ok(meta) = Meta::read(&path)
            && !meta.compaction.hints.iter().any(|hint| hint == OUT_OF_ORDER_HINT)
        {
            ranges.push((meta.min_time, meta.max_time));
        }
    }
    ranges.sort_unstable();
    ranges.dedup_by(|later, earlier| {
        let joins = later.0 <= earlier.1;
        if joins {
            earlier.1 = earlier.1.max(later.1);
        }
        joins
    });
    Ok(ranges)
}
