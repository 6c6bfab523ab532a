//! The block keeper: blocks are cut from the chunk store, compacted, retired, marked when they are bad; snapshots; the
//! part of deletions that lies in blocks. `plan` decides what to do next, this module carries it out.
//!
//! Invariants:
//!   * one thread writes blocks at a time
//!   * a block is open before what it replaces is removed
//!   * what fails is left alone for the rest of the round and does not keep the rest from going on

mod head_compaction;
mod overview;
mod plan;
mod transfer;

pub use overview::{BlockOverview, RetentionOverview};
pub(crate) use plan::BlockSettings;

use crate::chunks::{ChunkFile, ChunkStore, Flushable};
use crate::data_dir::DataDir;
use crate::deletions::{Deletion, Deletions};
use crate::log_keeper::LogKeeper;
use crate::os::now_ms;
use ahash::AHashMap;
use blocks::{Block, BlockError, Meta};
use head_compaction::compact_head;
use plan::{Action, BlockState, RangeState, plan};
use series::Matcher;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, Instant};

/// Series written before the thread lets others run.
const YIELD_SERIES: u32 = 256;
/// First and longest wait after a failure to write blocks; it doubles in between.
const RETRY_MS_MIN: i64 = 30_000;
const RETRY_MS_MAX: i64 = 600_000;
const RETRY_DOUBLINGS_MAX: u32 = 5;

/// Counters of blocks, since the start.
#[derive(Debug, Default)]
pub(crate) struct BlockStats {
    pub head_compactions: AtomicU64,
    pub head_compaction_failures: AtomicU64,
    pub compactions: AtomicU64,
    pub compaction_failures: AtomicU64,
    /// Compactions of blocks whose times overlapped.
    pub overlapping_compactions: AtomicU64,
    /// How often it was looked whether there is anything to do.
    pub maintenance_runs: AtomicU64,
    /// How often and for how long chunk files were removed because a block has what is in them.
    pub truncations: AtomicU64,
    pub truncations_us: AtomicU64,
    pub age_deletions: AtomicU64,
    pub size_deletions: AtomicU64,
    pub durations: CompactionDurations,
    pub damages: AtomicU64,
    /// Of blocks made of chunks and of others.
    pub bytes_written: AtomicU64,
    pub last_head_compaction_ms: AtomicU64,
}

/// How long it took to write blocks.
#[derive(Debug, Default)]
pub(crate) struct CompactionDurations {
    /// By the bound below which they lie, 2^n seconds; the last ones are above all bounds.
    counts: [AtomicU64; COMPACTION_BOUNDS + 1],
    sum_ms: AtomicU64,
}

/// Bounds of [`CompactionDurations`]: 1, 2, 4 … 8192 seconds, as in Prometheus.
const COMPACTION_BOUNDS: usize = 14;

impl CompactionDurations {
    fn record(&self, duration: Duration) {
        let bound = (0..COMPACTION_BOUNDS).find(|n| duration.as_secs_f64() <= (1u64 << n) as f64);
        add(&self.counts[bound.unwrap_or(COMPACTION_BOUNDS)], 1);
        add(&self.sum_ms, duration.as_millis() as u64);
    }

    /// The bounds in seconds with how many lie at or below them, then how many there are, then their sum in seconds.
    pub fn cumulative(&self) -> (Vec<(f64, u64)>, u64, f64) {
        let mut count = 0;
        let mut buckets: Vec<(f64, u64)> = Vec::new();
        for (n, counter) in self.counts.iter().enumerate() {
            count += counter.load(Ordering::Relaxed);
            buckets.push(((1u64 << n) as f64, count));
        }
        buckets.truncate(COMPACTION_BOUNDS);
        (buckets, count, self.sum_ms.load(Ordering::Relaxed) as f64 / 1000.0)
    }
}

fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}

/// The blocks of a data folder.
pub(crate) struct BlockKeeper {
    dir: Arc<DataDir>,
    chunks: Arc<ChunkStore>,
    logs: Arc<LogKeeper>,
    deletions: Arc<Deletions>,
    settings: BlockSettings,
    /// By their beginning.
    blocks: RwLock<Vec<Arc<Block>>>,
    bad: RwLock<Vec<BlockError>>,
    /// Blocks that need not be uploaded any more; nothing if blocks are not uploaded at all. Others are not compacted.
    uploaded: RwLock<Option<BTreeSet<String>>>,
    /// One writer of blocks at a time.
    writing: Mutex<Waits>,
    pub stats: BlockStats,
}

impl BlockKeeper {
    /// Opens the folder's blocks, and removes what an interrupted run left of others.
    pub fn open(
        dir: Arc<DataDir>,
        chunks: Arc<ChunkStore>,
        logs: Arc<LogKeeper>,
        deletions: Arc<Deletions>,
        settings: BlockSettings,
    ) -> io::Result<BlockKeeper> {
        blocks::remove_leftovers(dir.folder())?;
        let (blocks, bad) = open_blocks(dir.folder())?;
        for error in &bad {
            tracing::error!(%error, "a block cannot be opened; the others serve");
        }
        let stats = BlockStats { damages: AtomicU64::new(bad.len() as u64), ..BlockStats::default() };
        let (blocks, bad) = (RwLock::new(blocks), RwLock::new(bad));
        let (uploaded, writing) = (RwLock::default(), Mutex::default());
        Ok(BlockKeeper { dir, chunks, logs, deletions, settings, blocks, bad, uploaded, writing, stats })
    }

    /// All open blocks, by their beginning.
    pub fn open_blocks(&self) -> Vec<Arc<Block>> {
        self.blocks.read().expect("no panic while held").clone()
    }

    /// What is wrong with blocks: those that cannot be opened, and faults of others.
    pub fn bad_blocks(&self) -> Vec<BlockError> {
        let mut bad = self.bad.read().expect("no panic while held").clone();
        bad.extend(self.open_blocks().iter().flat_map(|block| block.faults().first));
        bad
    }

    /// Notes which blocks need not be uploaded any more; nothing if none has to be.
    pub fn set_uploaded(&self, uploaded: Option<BTreeSet<String>>) {
        *self.uploaded.write().expect("no panic while held") = uploaded;
    }

    fn awaits_upload(&self, meta: &Meta) -> bool {
        let uploaded = self.uploaded.read().expect("no panic while held");
        let is_done = |uploaded: &BTreeSet<String>| meta.is_joined() || uploaded.contains(&meta.ulid);
        !meta.compaction.failed && uploaded.as_ref().is_some_and(|uploaded| !is_done(uploaded))
    }

    /// Writes a block anew, without what was deleted of it.
    pub fn rewrite(&self, ulid: &str) -> Result<(), BlockError> {
        let _writing = self.writing.lock().expect("no panic while held");
        let chosen: Vec<Arc<Block>> =
            self.open_blocks().into_iter().filter(|block| block.meta().ulid == ulid).collect();
        if chosen.is_empty() { Ok(()) } else { self.compact(&chosen) }
    }

    /// How many cannot be opened.
    pub fn unopened(&self) -> usize {
        self.bad.read().expect("no panic while held").len()
    }

    /// Faults of open blocks, since they were opened.
    pub fn faults(&self) -> u64 {
        self.open_blocks().iter().map(|block| block.faults().count).sum()
    }

    /// Does all that is to be done at the time.
    pub fn run_maintenance(&self, now: i64) {
        let mut waits = self.writing.lock().expect("no panic while held");
        add(&self.stats.maintenance_runs, 1);
        while !self.dir.is_stopping() {
            let Some(action) = self.next_action(now, &waits) else { break };
            match action {
                Action::Remove { ulid, for_age } => {
                    add(if for_age { &self.stats.age_deletions } else { &self.stats.size_deletions }, 1);
                    self.remove_beyond_retention(&ulid);
                }
                Action::CompactHead(range) => match self.compact_range(range) {
                    Ok(()) => waits.done(range, now + self.settings.late_ms()),
                    Err(error) => {
                        add(&self.stats.head_compaction_failures, 1);
                        waits.failed(Some(range), now);
                        tracing::error!(%error, range, "a block cannot be made of chunks; they stay");
                    }
                },
                Action::Compact(ulids) => {
                    let chosen = |block: &Arc<Block>| ulids.contains(&block.meta().ulid);
                    let chosen: Vec<Arc<Block>> = self.open_blocks().into_iter().filter(chosen).collect();
                    if let Err(error) = self.compact(&chosen) {
                        add(&self.stats.compaction_failures, 1);
                        if !self.mark_failed(&chosen, &error) {
                            waits.failed(None, now);
                        }
                        tracing::error!(%error, "blocks cannot be compacted; they stay as they are");
                    }
                }
            }
        }
        let oldest = self.chunks.bounds().map(|(oldest, _)| oldest);
        let forgotten =
            self.logs.files().and_then(|logs| self.deletions.forget(now, self.settings.block_ms, oldest, &logs));
        if let Err(error) = forgotten {
            tracing::error!(%error, "deletions stay in their file");
        }
    }

    fn next_action(&self, now: i64, waits: &Waits) -> Option<Action> {
        let blocks = self.open_blocks();
        let state = |block| {
            let block: &Arc<Block> = block;
            let awaits_upload = self.awaits_upload(block.meta());
            BlockState { meta: block.meta(), tombstones: block.tombstones(), bytes: block.bytes(), awaits_upload }
        };
        let states: Vec<BlockState> = blocks.iter().map(state).collect();
        let ranges = self.chunks.ranges().into_iter();
        let ranges: Vec<RangeState> =
            ranges.map(|start| RangeState { start, not_before: waits.of_range(start) }).collect();
        plan(now, &states, &ranges, self.other_bytes(), &self.settings, waits.compaction <= now)
    }

    /// Makes blocks of the chunk files of a range, one for each range that their samples lie in (which is one, unless the
    /// files were written with another length of ranges), and removes the files.
    fn compact_range(&self, range: i64) -> io::Result<()> {
        let begun = Instant::now();
        let files = self.chunks.close_range(range)?;
        for start in self.chunks.starts(&files) {
            let bounds = (start, start.saturating_add(self.settings.block_ms));
            if let Some(block) = self.compact_files(&files, bounds)? {
                tracing::info!(
                    ulid = block.meta().ulid,
                    series = block.meta().stats.num_series,
                    samples = block.meta().stats.num_samples,
                    seconds = begun.elapsed().as_secs_f64(),
                    "block made of chunks"
                );
                self.count_written(&block);
                self.publish(&[], Some(block));
            }
        }
        add(&self.stats.head_compactions, 1);
        self.stats.durations.record(begun.elapsed());
        self.stats.last_head_compaction_ms.store(begun.elapsed().as_millis() as u64, Ordering::Relaxed);
        let begun = Instant::now();
        if let Err(error) = self.chunks.remove(range, &files) {
            tracing::error!(%error, "chunks that are in a block stay");
        }
        add(&self.stats.truncations, 1);
        add(&self.stats.truncations_us, begun.elapsed().as_micros() as u64);
        Ok(())
    }

    fn compact_files(&self, files: &[Arc<ChunkFile>], bounds: (i64, i64)) -> io::Result<Option<Block>> {
        let (folder, ulid, deletions) = (self.dir.folder(), new_ulid(), self.deletions.all());
        let mut series = 0;
        // A block that stays as it is, or that others read in ranges of an object store, has its chunks in order at once.
        let is_joined_later = self.settings.block_ms_max > self.settings.block_ms;
        let may_link = is_joined_later && self.uploaded.read().expect("no panic while held").is_none();
        let report = compact_head(folder, &ulid, files, bounds, &deletions, may_link, || yield_now(&mut series))?;
        add(&self.stats.damages, report.corruptions.len() as u64);
        for corruption in &report.corruptions {
            tracing::error!(%corruption, "left out of a block");
        }
        report.meta.map(|meta| Block::open(&folder.join(meta.ulid))).transpose().map_err(io::Error::other)
    }

    /// Marks the block that kept others from being compacted; false if it was none of them.
    fn mark_failed(&self, chosen: &[Arc<Block>], error: &BlockError) -> bool {
        let Some(block) = chosen.iter().find(|block| error.file.starts_with(block.folder())) else { return false };
        let ulid = &block.meta().ulid;
        let marked = block.mark_failed().map_err(|error| error.to_string());
        match marked.and_then(|()| Block::open(block.folder()).map_err(|error| error.to_string())) {
            Ok(marked) => {
                tracing::error!(ulid, "the block is damaged: it is marked and left alone");
                self.publish(std::slice::from_ref(block), Some(marked));
                true
            }
            Err(error) => {
                tracing::error!(ulid, error, "a damaged block could not be marked");
                false
            }
        }
    }

    /// Puts a block in the place of others.
    fn publish(&self, replaced: &[Arc<Block>], block: Option<Block>) {
        let mut blocks = self.blocks.write().expect("no panic while held");
        blocks.retain(|block| !replaced.iter().any(|gone| Arc::ptr_eq(block, gone)));
        blocks.extend(block.map(Arc::new));
        blocks.sort_by_key(|block| block.meta().min_time);
    }

    /// Makes one block of several.
    fn compact(&self, chosen: &[Arc<Block>]) -> Result<(), BlockError> {
        let begun = Instant::now();
        let (folder, ulid) = (self.dir.folder(), new_ulid());
        let parts: Vec<&Block> = chosen.iter().map(|block| &**block).collect();
        let mut series = 0;
        let meta = blocks::compact(folder, &ulid, &parts, self.dir.stop_flag(), || yield_now(&mut series))?;
        if meta.is_none() && self.dir.is_stopping() {
            return Ok(());
        }
        let whole = meta.map(|meta| Block::open(&folder.join(meta.ulid))).transpose()?;
        whole.iter().for_each(|block| self.count_written(block));
        self.publish(chosen, whole);
        add(&self.stats.compactions, 1);
        let spans = || chosen.iter().map(|block| (block.meta().min_time, block.meta().max_time));
        let overlap = spans().zip(spans().skip(1)).any(|(one, next)| next.0 < one.1);
        add(&self.stats.overlapping_compactions, u64::from(overlap));
        self.stats.durations.record(begun.elapsed());
        for gone in chosen {
            if let Err(error) = blocks::remove(gone.folder()) {
                tracing::error!(%error, ulid = gone.meta().ulid, "a block that was compacted stays");
            }
        }
        Ok(())
    }

    fn remove_beyond_retention(&self, ulid: &str) {
        let gone: Vec<Arc<Block>> = self.open_blocks().into_iter().filter(|block| block.meta().ulid == ulid).collect();
        self.publish(&gone, None);
        for block in gone {
            tracing::info!(ulid, "block is beyond the retention and removed");
            if self.awaits_upload(block.meta()) {
                tracing::error!(ulid, "a block that was not uploaded yet is beyond the retention and lost");
            }
            if let Err(error) = blocks::remove(block.folder()) {
                tracing::error!(%error, ulid, "a block beyond the retention stays");
            }
        }
    }

    /// Deletes samples in `[from, to]` of matching series, up to `now`. A block that cannot be read does not keep the others
    /// from losing theirs.
    pub fn delete(&self, matchers: &[Matcher], from: i64, to: i64, now: i64) -> Result<(), String> {
        let to = to.min(now);
        if from > to {
            return Ok(());
        }
        let _writing = self.writing.lock().expect("no panic while held");
        let logs = self.logs.files().map_err(|error| format!("listing the logs: {error}"))?;
        let deletion = Deletion { matchers: matchers.to_vec(), from, to };
        self.deletions.add(deletion, logs).map_err(|error| format!("writing the deletion: {error}"))?;
        let touches = |block: &&Arc<Block>| block.meta().min_time <= to && block.meta().max_time > from;
        let mut outcome = Ok(());
        for block in self.open_blocks().iter().filter(touches) {
            outcome = outcome.and(block.delete(matchers, from, to).map_err(|error| error.to_string()));
        }
        outcome
    }

    /// Writes blocks with deletions anew, without what was deleted.
    pub fn clean_tombstones(&self) -> Result<(), String> {
        let _writing = self.writing.lock().expect("no panic while held");
        let worn: Vec<Arc<Block>> = self.open_blocks().into_iter().filter(|block| block.tombstones() > 0).collect();
        worn.iter().try_for_each(|block| self.compact(std::slice::from_ref(block)).map_err(|error| error.to_string()))
    }

    /// Puts blocks with everything that is in blocks and, with `memory`, in chunks and in these segments into
    /// `snapshots/<name>`; gives the name.
    pub fn snapshot(&self, memory: Option<Vec<Arc<dyn Flushable>>>) -> Result<String, String> {
        let _writing = self.writing.lock().expect("no panic while held");
        let ulid = new_ulid();
        let name = format!("{}-{}", now_ms(), &ulid[18..]);
        let folder = self.dir.folder().join("snapshots").join(&name);
        match self.snapshot_into(&folder, memory) {
            Ok(()) => Ok(name),
            Err(error) => {
                // Half a snapshot is none.
                let _ = std::fs::remove_dir_all(&folder);
                Err(format!("{}: {error}", folder.display()))
            }
        }
    }

    fn snapshot_into(&self, folder: &Path, memory: Option<Vec<Arc<dyn Flushable>>>) -> io::Result<()> {
        std::fs::create_dir_all(folder)?;
        // Blocks and chunk files as of one moment: what leaves the chunks afterwards is in them all the same.
        let blocks = self.open_blocks();
        if let Some(segments) = memory {
            self.snapshot_of_memory(folder, &segments)?;
        }
        for block in blocks {
            link_block(block.folder(), &folder.join(&block.meta().ulid))?;
        }
        blocks::file::sync_folder(folder)
    }

    /// Makes blocks of chunk files and segments in `folder`.
    fn snapshot_of_memory(&self, folder: &Path, segments: &[Arc<dyn Flushable>]) -> io::Result<()> {
        let temporary = folder.join(format!("chunks{}", blocks::UNFINISHED));
        let (of_segments, _) = ChunkStore::open(&temporary, self.dir.boot(), self.settings.block_ms)?;
        let batch = of_segments.begin();
        for segment in segments {
            segment.append_to(&of_segments, None)?;
        }
        of_segments.sync(batch)?;
        let mut files: BTreeMap<i64, Vec<Arc<ChunkFile>>> = BTreeMap::new();
        for range in self.chunks.ranges() {
            files.entry(range).or_default().extend(self.chunks.close_range(range)?);
        }
        for range in of_segments.ranges() {
            files.entry(range).or_default().extend(of_segments.close_range(range)?);
        }
        let deletions = self.deletions.all();
        for files in files.values() {
            for start in self.chunks.starts(files) {
                let bounds = (start, start.saturating_add(self.settings.block_ms));
                compact_head(folder, &new_ulid(), files, bounds, &deletions, false, || ())?;
            }
        }
        std::fs::remove_dir_all(&temporary)
    }
}

/// Work that waits: after a block was made of a range the next one collects late samples first, after a failure it is tried
/// again later and later.
#[derive(Default)]
struct Waits {
    ranges: AHashMap<i64, i64>,
    /// Compactions do not begin before this time.
    compaction: i64,
    failures: u32,
}

impl Waits {
    fn of_range(&self, range: i64) -> i64 {
        self.ranges.get(&range).copied().unwrap_or(i64::MIN)
    }

    fn done(&mut self, range: i64, not_before: i64) {
        self.failures = 0;
        // What has passed says nothing any more.
        let now = not_before;
        self.ranges.retain(|_, other| *other > now - RETRY_MS_MAX);
        self.ranges.insert(range, not_before);
    }

    /// Notes a failure, of a range or of a compaction.
    fn failed(&mut self, range: Option<i64>, now: i64) {
        let wait = (RETRY_MS_MIN << self.failures.min(RETRY_DOUBLINGS_MAX)).min(RETRY_MS_MAX);
        self.failures += 1;
        match range {
            Some(range) => drop(self.ranges.insert(range, now + wait)),
            None => self.compaction = now + wait,
        }
    }
}

/// Lets others run now and then.
fn yield_now(series: &mut u32) {
    *series += 1;
    if series.is_multiple_of(YIELD_SERIES) {
        std::thread::yield_now();
    }
}

/// A new ULID as text.
pub fn new_ulid() -> String {
    ulid::Ulid::new().to_string()
}

/// Opens every folder with the name of a block.
fn open_blocks(folder: &Path) -> io::Result<(Vec<Arc<Block>>, Vec<BlockError>)> {
    let (mut blocks, mut bad) = (Vec::new(), Vec::new());
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if ulid::Ulid::from_string(&entry.file_name().to_string_lossy()).is_err() || !entry.file_type()?.is_dir() {
            continue;
        }
        match Block::open(&entry.path()) {
            Ok(block) => blocks.push(Arc::new(block)),
            Err(error) => bad.push(error),
        }
    }
    // Blocks whose successor was published before they were removed.
    let parents: Vec<String> = blocks
        .iter()
        .flat_map(|block: &Arc<Block>| block.meta().compaction.parents.iter().map(|parent| parent.ulid.clone()))
        .collect();
    for block in blocks.iter().filter(|block| parents.contains(&block.meta().ulid)) {
        if let Err(error) = blocks::remove(block.folder()) {
            tracing::error!(%error, ulid = block.meta().ulid, "a block that was compacted stays");
        }
    }
    blocks.retain(|block| !parents.contains(&block.meta().ulid));
    blocks.sort_by_key(|block| block.meta().min_time);
    Ok((blocks, bad))
}

fn link_block(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            link_block(&entry.path(), &target)?;
        } else {
            std::fs::hard_link(entry.path(), target)?;
        }
    }
    blocks::file::sync_folder(to)
}
