//! Blocks from samples of many series that come in any order.
//!
//! Samples are encoded as they come. When the chunks take more memory than they may, those of each range of time are
//! written as a *part*, a block of its own in a work folder; at the end the parts of a range are merged into its block.
//!
//! Invariants:
//!   * no chunk crosses the end of a range, and a block holds the samples of one range
//!   * of two samples of a series at one time the first stays, a marker gives way to a sample
//!   * memory: labels and about 200 bytes for each series, [`BuilderOptions::chunk_bytes_max`] of chunks, and what one
//!     writer of blocks needs

use crate::chunk::{Chunk, XOR};
use crate::compact::merge_blocks;
use crate::encode::{SAMPLES_MAX, encode};
use crate::error::{BlockError, ChunkError};
use crate::merge::{check_times, merge_chunks};
use crate::reader::Block;
use crate::writer::BlockWriter;
use crate::xor::Encoder;
use crate::{Compaction, Meta};
use ahash::AHashMap;
use series::{Histogram, Labels, STALE_NAN, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// How blocks are built.
#[derive(Clone, Debug)]
pub struct BuilderOptions {
    /// Where parts are written. It is not removed by the builder.
    pub work: PathBuf,
    /// Length of the ranges, in milliseconds.
    pub range_ms: i64,
    /// Bytes of encoded samples in memory from which on they are written as parts.
    pub chunk_bytes_max: usize,
}

/// Memory for chunks where nobody asks for another amount.
pub const CHUNK_BYTES_MAX: usize = 256 << 20;
/// What an open chunk of floats takes beside its bytes, and a bucket of a histogram that is not encoded yet.
const OPEN_BYTES: usize = 160;
const BUCKET_BYTES: usize = 16;

/// Number of a series in a builder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SeriesNumber(u32);

/// Gives chunks that a [`BlockBuilder`] does not hold in memory.
pub trait ChunkSource {
    /// # Errors
    /// If the chunk cannot be read.
    fn chunk(&self, place: u64) -> Result<Chunk, BlockError>;
}

/// A source without chunks.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoChunks;

impl ChunkSource for NoChunks {
    fn chunk(&self, place: u64) -> Result<Chunk, BlockError> {
        unreachable!("no chunk was added by its place: {place}")
    }
}

/// The chunk that samples are appended to.
enum OpenChunk {
    None,
    Floats { encoder: Encoder, bytes: Vec<u8>, first: i64 },
    Histograms(Vec<(i64, Value)>),
}

enum StoredChunk {
    Here(Chunk),
    /// First and last time, and the place that its source knows.
    Elsewhere(i64, i64, u64),
}

impl StoredChunk {
    fn bounds(&self) -> (i64, i64) {
        match self {
            StoredChunk::Here(chunk) => (chunk.min, chunk.max),
            StoredChunk::Elsewhere(min, max, _) => (*min, *max),
        }
    }
}

struct SeriesBuffer {
    labels: Labels,
    open: OpenChunk,
    chunks: Vec<StoredChunk>,
    deleted: Vec<(i64, i64)>,
    /// End of the range of the open chunk.
    range_end: i64,
    newest: i64,
    newest_is_histogram: bool,
}

/// Takes samples and writes blocks.
pub struct BlockBuilder<S: ChunkSource = NoChunks> {
    options: BuilderOptions,
    source: S,
    numbers: AHashMap<Labels, u32>,
    series: Vec<SeriesBuffer>,
    chunk_bytes: usize,
    /// Folders of the parts of each range.
    parts: BTreeMap<i64, Vec<PathBuf>>,
    /// Chunks of the source that could not be read.
    lost: Vec<BlockError>,
    samples: u64,
}

/// Start of the range that a time is in.
fn range_start(at: i64, range_ms: i64) -> i64 {
    at.div_euclid(range_ms).saturating_mul(range_ms)
}

impl<S: ChunkSource> BlockBuilder<S> {
    pub fn new(options: BuilderOptions, source: S) -> BlockBuilder<S> {
        assert!(options.range_ms > 0, "a range has a length");
        BlockBuilder {
            options,
            source,
            numbers: AHashMap::new(),
            series: Vec::new(),
            chunk_bytes: 0,
            parts: BTreeMap::new(),
            lost: Vec::new(),
            samples: 0,
        }
    }

    /// The number of a series, which is new if its labels are.
    pub fn series(&mut self, labels: Labels) -> SeriesNumber {
        let new = self.series.len() as u32;
        let number = *self.numbers.entry(labels.clone()).or_insert(new);
        if number == new {
            self.series.push(SeriesBuffer {
                labels,
                open: OpenChunk::None,
                chunks: Vec::new(),
                deleted: Vec::new(),
                range_end: i64::MIN,
                newest: i64::MIN,
                newest_is_histogram: false,
            });
        }
        SeriesNumber(number)
    }

    pub fn series_count(&self) -> usize {
        self.series.len()
    }

    /// Samples that were pushed.
    pub fn samples(&self) -> u64 {
        self.samples
    }

    /// Time of the series' newest sample; the smallest time if it has none.
    pub fn newest(&self, series: SeriesNumber) -> i64 {
        self.series[series.0 as usize].newest
    }

    /// Chunks of the source that could not be read when blocks were written.
    pub fn lost(&self) -> &[BlockError] {
        &self.lost
    }

    /// Adds a float. A marker behind a histogram becomes one of histograms.
    pub fn push_float(&mut self, series: SeriesNumber, at: i64, value: f64) -> Result<(), BlockError> {
        let one = &mut self.series[series.0 as usize];
        if one.newest_is_histogram && series::is_stale(value) {
            let marker = Histogram { sum: STALE_NAN, ..Histogram::default() };
            return self.push_histogram(series, at, Arc::new(marker));
        }
        let fits = match &one.open {
            OpenChunk::Floats { encoder, .. } => {
                usize::from(encoder.count()) < SAMPLES_MAX && at > encoder.last_at() && at < one.range_end
            }
            _ => false,
        };
        if !fits {
            self.chunk_bytes = self.chunk_bytes.saturating_add_signed(one.close());
            one.range_end = range_start(at, self.options.range_ms).saturating_add(self.options.range_ms);
            one.open = OpenChunk::Floats { encoder: Encoder::default(), bytes: Vec::new(), first: at };
            self.chunk_bytes += OPEN_BYTES;
        }
        let OpenChunk::Floats { encoder, bytes, .. } = &mut one.open else { unreachable!("opened above") };
        let before = bytes.len();
        encoder.push(at, value, bytes);
        self.chunk_bytes += bytes.len() - before;
        one.newest = one.newest.max(at);
        one.newest_is_histogram = false;
        self.samples += 1;
        self.spill_if_needed()
    }

    /// Adds a histogram.
    pub fn push_histogram(
        &mut self,
        series: SeriesNumber,
        at: i64,
        histogram: Arc<Histogram>,
    ) -> Result<(), BlockError> {
        let one = &mut self.series[series.0 as usize];
        let fits = match &one.open {
            OpenChunk::Histograms(samples) => {
                samples.len() < SAMPLES_MAX && samples.last().is_some_and(|(last, _)| at > *last) && at < one.range_end
            }
            _ => false,
        };
        if !fits {
            self.chunk_bytes = self.chunk_bytes.saturating_add_signed(one.close());
            one.range_end = range_start(at, self.options.range_ms).saturating_add(self.options.range_ms);
            one.open = OpenChunk::Histograms(Vec::new());
        }
        let OpenChunk::Histograms(samples) = &mut one.open else { unreachable!("opened above") };
        self.chunk_bytes += histogram_bytes(&histogram);
        samples.push((at, Value::Histogram(histogram)));
        one.newest = one.newest.max(at);
        one.newest_is_histogram = true;
        self.samples += 1;
        self.spill_if_needed()
    }

    /// Adds a chunk that the source gives when it is needed.
    pub fn push_chunk(&mut self, series: SeriesNumber, min: i64, max: i64, is_histogram: bool, place: u64) {
        let one = &mut self.series[series.0 as usize];
        one.chunks.push(StoredChunk::Elsewhere(min, max, place));
        if max > one.newest {
            one.newest = max;
            one.newest_is_histogram = is_histogram;
        }
    }

    /// Deletes a series' samples in `[from, to]`, also those that come later.
    pub fn delete(&mut self, series: SeriesNumber, from: i64, to: i64) {
        self.series[series.0 as usize].deleted.push((from, to));
    }

    /// Forgets what a series has so far; parts keep what they have.
    pub fn clear(&mut self, series: SeriesNumber) {
        let one = &mut self.series[series.0 as usize];
        (one.open, one.newest_is_histogram) = (OpenChunk::None, false);
        one.chunks.clear();
    }

    fn spill_if_needed(&mut self) -> Result<(), BlockError> {
        match self.chunk_bytes > self.options.chunk_bytes_max {
            true => self.spill(),
            false => Ok(()),
        }
    }

    /// Writes all that is in memory as parts.
    fn spill(&mut self) -> Result<(), BlockError> {
        for range in self.close_all() {
            let name = format!("{range}-{}", self.parts.get(&range).map_or(0, Vec::len));
            let work = self.options.work.clone();
            if self.write_range(range, &work, &name)?.is_some() {
                self.parts.entry(range).or_default().push(work.join(name));
            }
        }
        self.chunk_bytes = 0;
        for one in &mut self.series {
            // Those elsewhere take no memory to speak of, and were written with the others.
            one.chunks = Vec::new();
        }
        Ok(())
    }

    /// Ends all open chunks; gives the ranges that have chunks.
    fn close_all(&mut self) -> BTreeSet<i64> {
        let mut ranges = BTreeSet::new();
        for one in &mut self.series {
            one.close();
            for (min, max) in one.chunks.iter().map(StoredChunk::bounds) {
                let mut range = range_start(min, self.options.range_ms);
                // A chunk that says that it is longer is damaged.
                for _ in 0..RANGES_OF_A_CHUNK_MAX {
                    ranges.insert(range);
                    range = range.saturating_add(self.options.range_ms);
                    if range > max {
                        break;
                    }
                }
            }
        }
        ranges
    }

    /// Writes what is in memory of a range.
    fn write_range(&mut self, range: i64, parent: &Path, name: &str) -> Result<Option<Meta>, BlockError> {
        let failed = |error: std::io::Error| BlockError::io(&parent.join(name), 0, &error);
        let last = range.saturating_add(self.options.range_ms - 1);
        let overlaps = |chunk: &StoredChunk| chunk.bounds().0 <= last && chunk.bounds().1 >= range;
        let mut numbers: Vec<u32> = (0..self.series.len() as u32)
            .filter(|number| self.series[*number as usize].chunks.iter().any(overlaps))
            .collect();
        numbers
            .sort_unstable_by(|one, other| self.series[*one as usize].labels.cmp(&self.series[*other as usize].labels));
        let mut symbols: BTreeSet<String> = BTreeSet::new();
        for (label, value) in numbers.iter().flat_map(|number| self.series[*number as usize].labels.iter()) {
            for text in [label, value] {
                if !symbols.contains(text) {
                    symbols.insert(text.to_owned());
                }
            }
        }
        let mut writer = BlockWriter::new(parent, name, &symbols).map_err(failed)?;
        drop(symbols);
        let (mut min, mut max) = (i64::MAX, i64::MIN);
        for number in numbers {
            let merged = self.merged_chunks(number, range, last);
            let one = &self.series[number as usize];
            if let (Some(first), Some(last)) = (merged.first(), merged.last()) {
                (min, max) = (min.min(first.min), max.max(last.max));
                writer.add_series(&one.labels, &merged).map_err(failed)?;
            }
        }
        if writer.stats().num_series == 0 {
            return Ok(None);
        }
        let compaction = Compaction { level: 1, sources: vec![name.to_owned()], ..Compaction::default() };
        let meta = Meta { min_time: min, max_time: max + 1, compaction, ..Meta::default() };
        writer.finish(meta).map(Some).map_err(failed)
    }

    /// Chunks of a series in a range, without those that cannot be read.
    fn merged_chunks(&mut self, number: u32, range: i64, last: i64) -> Vec<Chunk> {
        let one = &self.series[number as usize];
        let mut deleted = one.deleted.clone();
        // What belongs into other ranges.
        deleted.extend([(i64::MIN, range.saturating_sub(1)), (last.saturating_add(1), i64::MAX)]);
        let mut lost = Vec::new();
        let mut chunks = |is_good: &dyn Fn(&Chunk) -> Result<(), ChunkError>| {
            let mut chunks: Vec<(Chunk, Vec<(i64, i64)>)> = Vec::new();
            lost.clear();
            for chunk in one.chunks.iter().filter(|chunk| chunk.bounds().0 <= last && chunk.bounds().1 >= range) {
                let chunk = match chunk {
                    StoredChunk::Here(chunk) => Ok(chunk.clone()),
                    StoredChunk::Elsewhere(.., place) => self.source.chunk(*place),
                };
                let named = |error: ChunkError| {
                    BlockError::new(&self.options.work, 0, format!("series {}: {error}", one.labels))
                };
                match chunk.and_then(|chunk| is_good(&chunk).map(|()| chunk).map_err(named)) {
                    Ok(chunk) => chunks.push((chunk, deleted.clone())),
                    Err(error) => lost.push(error),
                }
            }
            merge_chunks(chunks)
        };
        // A chunk of the source may be damaged; only then each is decoded.
        let merged = chunks(&|_| Ok(())).or_else(|_| chunks(&check_times)).expect("every chunk was decoded before");
        self.lost.append(&mut lost);
        merged
    }

    /// Writes the blocks of all ranges into `folder`, oldest first; `new_ulid` names them.
    ///
    /// # Errors
    /// If something cannot be written. Blocks that were written before stay.
    pub fn finish(
        &mut self,
        folder: &Path,
        mut new_ulid: impl FnMut() -> String,
        stop: &AtomicBool,
    ) -> Result<Vec<Meta>, BlockError> {
        let mut ranges = self.close_all();
        if !self.parts.is_empty() {
            self.spill()?;
            ranges.extend(self.parts.keys());
        }
        let mut metas = Vec::new();
        for range in ranges {
            let ulid = new_ulid();
            let Some(folders) = self.parts.get(&range) else {
                metas.extend(self.write_range(range, folder, &ulid)?);
                continue;
            };
            let parts = folders.iter().map(|folder| Block::open(folder)).collect::<Result<Vec<_>, _>>()?;
            self.delete_in_parts(&parts)?;
            let (min, max) = parts
                .iter()
                .map(|part| part.meta())
                .fold((i64::MAX, i64::MIN), |(min, max), meta| (min.min(meta.min_time), max.max(meta.max_time)));
            let compaction = Compaction { level: 1, sources: vec![ulid.clone()], ..Compaction::default() };
            let meta = Meta { min_time: min, max_time: max, compaction, ..Meta::default() };
            let parts: Vec<&Block> = parts.iter().collect();
            metas.extend(merge_blocks(folder, &ulid, &parts, meta, stop, || ())?);
            for folder in self.parts.remove(&range).unwrap_or_default() {
                crate::remove(&folder).map_err(|error| BlockError::io(&folder, 0, &error))?;
            }
        }
        Ok(metas)
    }

    /// Deletions that came when the samples were in a part.
    fn delete_in_parts(&self, parts: &[Block]) -> Result<(), BlockError> {
        for one in self.series.iter().filter(|one| !one.deleted.is_empty()) {
            for part in parts {
                for (from, to) in &one.deleted {
                    part.delete_series(&one.labels, *from, *to)?;
                }
            }
        }
        Ok(())
    }
}

/// Ranges that a chunk of another program may lie in.
const RANGES_OF_A_CHUNK_MAX: usize = 1000;

/// What a histogram takes that is not encoded yet.
fn histogram_bytes(histogram: &Histogram) -> usize {
    OPEN_BYTES + (histogram.positive.len() + histogram.negative.len() + histogram.custom_values.len()) * BUCKET_BYTES
}

impl SeriesBuffer {
    /// Ends the open chunk; gives the bytes by which what is in memory grew.
    fn close(&mut self) -> isize {
        match std::mem::replace(&mut self.open, OpenChunk::None) {
            OpenChunk::None => 0,
            OpenChunk::Floats { mut encoder, mut bytes, first } => {
                let before = bytes.len();
                let max = encoder.last_at();
                encoder.finish(0, &mut bytes);
                bytes.shrink_to_fit();
                let grown = bytes.len() as isize - before as isize;
                self.chunks.push(StoredChunk::Here(Chunk::new(first, max, XOR, bytes)));
                grown
            }
            OpenChunk::Histograms(samples) => {
                let histogram_bytes = |(_, value): &(i64, Value)| match value {
                    Value::Histogram(histogram) => histogram_bytes(histogram),
                    Value::Float(_) => 0,
                };
                let before: usize = samples.iter().map(histogram_bytes).sum();
                let encoded = encode(&samples);
                let after: usize = encoded.iter().map(|chunk| OPEN_BYTES + chunk.bytes.len()).sum();
                self.chunks.extend(encoded.into_iter().map(StoredChunk::Here));
                after as isize - before as isize
            }
        }
    }
}
