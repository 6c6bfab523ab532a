//! A data folder: its lock, its logs, its chunks, its blocks, and the threads that move samples from one to the next.
//!
//! The folder holds `lock`; `log/` with the cores' logs; `head/` with chunks; one folder per block; `deletions`;
//! `quarantine/` with damaged logs; `remote-write/` with links to logs that others still have to read; and an empty `wal/`,
//! without which promtool does not open a data folder.
//!
//! Invariants:
//!   * samples are readable somewhere at any time: what publishes them does so before what held them lets go
//!   * nothing is deleted before what replaces it is durable
//!   * damage never stops the start: what is damaged is told, set aside, and the rest serves

mod replay;

use crate::archive::{Archive, Piece, ToSeal};
use crate::cut::cut;
use crate::deletions::{Deletion, Deletions};
use crate::head::LastRows;
use crate::log::{FileId, KeptLogs, Options as LogOptions, logs_in};
use crate::safe_mode::{self, SafeMode};
use crate::starts::Starts;
use ahash::AHashMap;
use blocks::{Block, BlockError, Meta};
use series::{Labels, Matcher, Timestamp};
use std::collections::VecDeque;
use std::fs::{File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, RwLock, mpsc};
use std::time::{Duration, Instant};

/// How a data folder is kept.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    pub folder: PathBuf,
    /// Length of the blocks that are cut, and of the longest that they are compacted to.
    pub block_ms: i64,
    pub block_ms_max: i64,
    /// Samples older than this may be removed; 0 keeps all.
    pub retention_ms: i64,
    /// Bytes beyond which the oldest blocks are removed; 0 is no limit.
    pub retention_bytes: u64,
    /// How late a sample with a timestamp of its own may come; 0 refuses all that are not in order.
    pub late_ms: i64,
    pub log: LogOptions,
    /// Closed segments that may wait in memory when their chunks cannot be written.
    pub waiting_bytes_max: usize,
    /// How often to look for ranges to cut, blocks to join and blocks to remove.
    pub upkeep_every: Duration,
    /// After three crashes within this time the folder is opened in safe mode, for as long. Zero: never, and crashes are
    /// not counted.
    pub safe_mode_window: Duration,
    /// Whether the logs of the last run are kept, in [`Store::kept_logs`], before they are replayed and removed.
    pub keep_logs: bool,
}

impl StoreOptions {
    /// Prometheus' defaults for a folder.
    pub fn new(folder: impl Into<PathBuf>) -> StoreOptions {
        StoreOptions {
            folder: folder.into(),
            block_ms: 2 * 3600 * 1000,
            block_ms_max: 36 * 3600 * 1000,
            retention_ms: 15 * 24 * 3600 * 1000,
            retention_bytes: 0,
            late_ms: 0,
            log: LogOptions::default(),
            waiting_bytes_max: 1 << 30,
            upkeep_every: Duration::from_secs(30),
            safe_mode_window: Duration::ZERO,
            keep_logs: false,
        }
    }
}

/// Why a data folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("data folder {folder} is held by {owner}; stop that process or use another --storage.tsdb.path")]
    Held { folder: PathBuf, owner: String },
    #[error("data folder {path}: {source}")]
    Io { path: PathBuf, source: io::Error },
}

/// How far the replay of old logs has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReplayState {
    pub files: u64,
    pub files_done: u64,
    pub bytes: u64,
    pub rows: u64,
    pub samples: u64,
    pub rows_lost: u64,
    pub done: bool,
}

/// Counters of a store, since the start.
#[derive(Clone, Debug, Default)]
pub struct StoreStats {
    pub replay: ReplayState,
    /// Bytes of logs, of chunks that are in no block, and of blocks.
    pub log_bytes: u64,
    pub head_bytes: u64,
    pub blocks_bytes: u64,
    pub head_samples: u64,
    pub blocks: u64,
    /// Blocks that could not be opened.
    pub blocks_bad: u64,
    pub segments_sealed: u64,
    pub segments_waiting: u64,
    /// Segments given up because their chunks could not be written for too long.
    pub segments_lost: u64,
    pub seal_failures: u64,
    pub cuts: u64,
    pub cut_failures: u64,
    pub compactions: u64,
    pub compaction_failures: u64,
    pub retention_deletions: u64,
    /// Damages met in logs, chunks and blocks.
    pub damages: u64,
    pub seal_cpu_seconds: f64,
    pub last_cut_seconds: f64,
}

#[derive(Default)]
struct Counters {
    segments_sealed: AtomicU64,
    segments_waiting: AtomicU64,
    segments_lost: AtomicU64,
    seal_failures: AtomicU64,
    cuts: AtomicU64,
    cut_failures: AtomicU64,
    compactions: AtomicU64,
    compaction_failures: AtomicU64,
    retention_deletions: AtomicU64,
    damages: AtomicU64,
    last_cut_ms: AtomicU64,
}

fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}

/// What the thread that seals is told.
pub enum Job {
    Seal(Arc<dyn ToSeal>),
    /// Log files that nobody needs any more.
    Remove(Vec<FileId>),
}

/// An open data folder. Its threads run until the last handle is gone.
pub struct Store {
    options: StoreOptions,
    boot: u32,
    archive: Archive,
    blocks: RwLock<Vec<Arc<Block>>>,
    blocks_bad: RwLock<Vec<BlockError>>,
    deletions: RwLock<Deletions>,
    replay: Mutex<ReplayState>,
    /// By target.
    last_rows: Mutex<AHashMap<u64, LastRows>>,
    counters: Counters,
    jobs: mpsc::Sender<Job>,
    /// One writer of blocks at a time.
    upkeep: Mutex<()>,
    upkeep_wanted: (Mutex<bool>, Condvar),
    stop: AtomicBool,
    starts: Option<Starts>,
    safe_mode: Option<SafeMode>,
    safe_mode_over: AtomicBool,
    opened: Instant,
    _lock: File,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("folder", &self.options.folder).finish_non_exhaustive()
    }
}

const LOG: &str = "log";
const HEAD: &str = "head";
const QUARANTINE: &str = "quarantine";
/// Links to logs that others still have to read.
const KEPT_LOGS: &str = "remote-write";
/// Segments that are sealed before they are synced.
const BATCH_MAX: usize = 256;
/// How long the thread that seals collects before it syncs.
const BATCH_WAIT: Duration = Duration::from_millis(200);
const RETRY_WAIT: Duration = Duration::from_secs(1);
/// The part of a range that late samples have before the range is cut.
const LATE_PARTS: i64 = 2;
/// Each level of compaction is this many times as long as the one before.
const LEVEL_FACTOR: i64 = 3;
/// Series written before the thread lets others run.
const BREATHE_SERIES: u32 = 256;

impl Store {
    /// Opens the folder, which nobody else may hold, and begins to replay what the last run left in its logs.
    pub fn open(options: StoreOptions) -> Result<Arc<Store>, OpenError> {
        let folder = options.folder.clone();
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| OpenError::Io { path, source }
        };
        for name in ["", LOG, HEAD, "wal"] {
            let path = folder.join(name);
            std::fs::create_dir_all(&path).map_err(failed(&path))?;
        }
        let lock = take_lock(&folder)?;
        let window = options.safe_mode_window;
        let starts = (!window.is_zero()).then(|| Starts::open(&folder, now_ms(), window)).transpose();
        let starts = starts.map_err(failed(&folder.join("starts")))?;
        blocks::remove_leftovers(&folder).map_err(failed(&folder))?;
        let logs = logs_in(&folder.join(LOG)).map_err(failed(&folder.join(LOG)))?;
        if options.keep_logs {
            let kept = KeptLogs::new(folder.join(LOG), folder.join(KEPT_LOGS));
            if let Err(error) = kept.link() {
                tracing::error!(folder = %kept.folder().display(), %error, "logs of the last run cannot be kept");
            }
        }
        let last_boot = logs.keys().map(|(boot, _)| *boot).max().unwrap_or(0);
        let safe_mode = starts.as_ref().filter(|starts| starts.is_safe_mode()).map(|starts| {
            let samples_max = safe_mode::samples_max(&folder.join(LOG), &logs);
            SafeMode { crashes: starts.crashes(), samples_max, lasts: window }
        });
        if let Some(safe_mode) = &safe_mode {
            tracing::error!("safe mode after {safe_mode}");
        }
        let boot = next_boot(&folder, last_boot).map_err(failed(&folder.join("boot")))?;
        let head = folder.join(HEAD);
        let (archive, findings) = Archive::open(&head, boot, options.block_ms).map_err(failed(&head))?;
        for finding in &findings {
            tracing::error!(%finding, "damaged chunks; what can be read of the file serves");
        }
        let (blocks, blocks_bad) = open_blocks(&folder).map_err(failed(&folder))?;
        for error in &blocks_bad {
            tracing::error!(%error, "a block cannot be opened; the others serve");
        }
        let deletions = Deletions::open(&folder).map_err(failed(&folder.join("deletions")))?;
        let (jobs, waiting) = mpsc::channel();
        let files = logs.values().map(Vec::len).sum::<usize>() as u64;
        let counters = Counters::default();
        add(&counters.damages, (findings.len() + blocks_bad.len()) as u64);
        let store = Arc::new(Store {
            options,
            boot,
            archive,
            blocks: RwLock::new(blocks),
            blocks_bad: RwLock::new(blocks_bad),
            deletions: RwLock::new(deletions),
            replay: Mutex::new(ReplayState { files, ..ReplayState::default() }),
            last_rows: Mutex::default(),
            counters,
            jobs,
            upkeep: Mutex::new(()),
            upkeep_wanted: (Mutex::new(false), Condvar::new()),
            stop: AtomicBool::new(false),
            starts,
            safe_mode,
            safe_mode_over: AtomicBool::new(false),
            opened: Instant::now(),
            _lock: lock,
        });
        let thread = |name: &str, work: Box<dyn FnOnce() + Send>| {
            std::thread::Builder::new().name(name.into()).spawn(work).map_err(failed(&folder))
        };
        let sealing = store.clone();
        thread("seal", Box::new(move || sealing.seal_forever(&waiting)))?;
        let replaying = store.clone();
        thread("replay", Box::new(move || replaying.replay_all(logs)))?;
        let keeping = store.clone();
        thread("blocks", Box::new(move || keeping.keep_up()))?;
        Ok(store)
    }

    /// Number of this start: part of the names of its logs.
    pub fn boot(&self) -> u32 {
        self.boot
    }

    pub fn options(&self) -> &StoreOptions {
        &self.options
    }

    /// Where the logs are.
    pub fn log_folder(&self) -> PathBuf {
        let folder = self.options.folder.join(LOG);
        // glommio opens folders by absolute names only.
        std::path::absolute(&folder).unwrap_or(folder)
    }

    /// Logs that others still have to read.
    pub fn kept_logs(&self) -> KeptLogs {
        KeptLogs::new(self.log_folder(), self.options.folder.join(KEPT_LOGS))
    }

    /// Where closed segments and unused log files go.
    pub fn jobs(&self) -> mpsc::Sender<Job> {
        self.jobs.clone()
    }

    pub fn replay(&self) -> ReplayState {
        *self.replay.lock().expect("no panic while held")
    }

    /// What holds in safe mode, while it lasts.
    pub fn safe_mode(&self) -> Option<&SafeMode> {
        self.safe_mode.as_ref().filter(|_| !self.safe_mode_over.load(Ordering::Relaxed))
    }

    /// How many crashes this start found within the window.
    pub fn crashes(&self) -> usize {
        self.starts.as_ref().map_or(0, Starts::crashes)
    }

    /// Safe mode ends when it has lasted and everything is replayed.
    fn end_safe_mode(&self) {
        let Some(safe_mode) = self.safe_mode().filter(|safe_mode| self.opened.elapsed() >= safe_mode.lasts) else {
            return;
        };
        self.safe_mode_over.store(true, Ordering::Relaxed);
        tracing::info!(seconds = safe_mode.lasts.as_secs(), "safe mode ends: no crash since the start");
        if let Some(Err(error)) = self.starts.as_ref().map(Starts::forgive) {
            tracing::warn!(%error, "the crashes before safe mode are not forgotten");
        }
    }

    /// The process ends in order: the next start finds no crash.
    pub fn ends_in_order(&self) {
        if let Some(Err(error)) = self.starts.as_ref().map(Starts::end) {
            tracing::warn!(%error, "the next start will take this end for a crash");
        }
    }

    /// Ends the threads soon: for the end of the process.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
        self.upkeep_wanted.1.notify_all();
    }

    fn stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    pub fn stats(&self) -> StoreStats {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let blocks = self.blocks.read().expect("no panic while held");
        let (head_samples, head_bytes) = self.archive.size();
        StoreStats {
            replay: self.replay(),
            log_bytes: folder_bytes(&self.log_folder()),
            head_bytes,
            blocks_bytes: blocks.iter().map(|block| block.bytes()).sum(),
            head_samples,
            blocks: blocks.len() as u64,
            blocks_bad: self.blocks_bad.read().expect("no panic while held").len() as u64,
            segments_sealed: count(&self.counters.segments_sealed),
            segments_waiting: count(&self.counters.segments_waiting),
            segments_lost: count(&self.counters.segments_lost),
            seal_failures: count(&self.counters.seal_failures),
            cuts: count(&self.counters.cuts),
            cut_failures: count(&self.counters.cut_failures),
            compactions: count(&self.counters.compactions),
            compaction_failures: count(&self.counters.compaction_failures),
            retention_deletions: count(&self.counters.retention_deletions),
            damages: count(&self.counters.damages) + self.archive.findings(),
            seal_cpu_seconds: 0.0,
            last_cut_seconds: count(&self.counters.last_cut_ms) as f64 / 1000.0,
        }
    }

    /// What the blocks say of themselves, oldest first, and those that cannot be opened.
    pub fn block_metas(&self) -> (Vec<Meta>, Vec<BlockError>) {
        let blocks = self.blocks.read().expect("no panic while held");
        let metas = blocks.iter().map(|block| block.meta().clone()).collect();
        (metas, self.blocks_bad.read().expect("no panic while held").clone())
    }

    /// Times of the oldest and the newest sample in chunks and blocks.
    pub fn bounds(&self) -> Option<(i64, i64)> {
        let blocks = self.blocks.read().expect("no panic while held");
        let of_blocks = blocks.iter().map(|block| (block.meta().min_time, block.meta().max_time - 1));
        of_blocks.chain(self.archive.bounds()).reduce(|all, one| (all.0.min(one.0), all.1.max(one.1)))
    }

    /// Times of the oldest and newest sample that is in chunks and in no block.
    pub fn head_bounds(&self) -> Option<(i64, i64)> {
        self.archive.bounds()
    }

    // --- reading --------------------------------------------------------------------------------------------------

    /// Samples in chunks and blocks of series that satisfy one of the selectors, in `[from, to]`, markers included, in
    /// pieces; several may be of one series and hold the same sample. `skip` names targets whose chunks in the head are
    /// not wanted. `found` says whether it wants more.
    pub fn select(
        &self,
        selectors: &[Vec<Matcher>],
        from: Timestamp,
        to: Timestamp,
        skip: impl Fn(u64) -> bool,
        stop: &AtomicBool,
        mut found: impl FnMut(Piece) -> bool,
    ) -> Result<(), BlockError> {
        // Chunks first: what leaves them is in a block by then.
        let deletions = self.deletions.read().expect("no panic while held").all().to_vec();
        let mut more = true;
        self.archive.select(selectors, from, to, skip, stop, |mut piece| {
            hide(&deletions, &mut piece);
            more = piece.is_empty() || found(piece);
            more
        });
        let blocks = self.blocks.read().expect("no panic while held").clone();
        let overlaps = |block: &&Arc<Block>| block.meta().min_time <= to.0 && block.meta().max_time > from.0;
        for block in blocks.iter().filter(overlaps) {
            let mut ids: Vec<u32> = Vec::new();
            for matchers in selectors {
                ids.append(&mut block.ids(matchers)?);
            }
            ids.sort_unstable();
            ids.dedup();
            for id in ids {
                if !more || stop.load(Ordering::Relaxed) {
                    return Ok(());
                }
                let Some(series) = block.series(id, from.0, to.0)? else { continue };
                let mut piece = Piece::new(series.labels.clone());
                block.samples(&series, from.0, to.0, |at, value| piece.push(at, value))?;
                if !piece.is_empty() {
                    more = found(piece);
                }
            }
        }
        Ok(())
    }

    /// Series that satisfy one of the selectors and have samples in `[from, to]` in chunks or blocks, each perhaps
    /// several times, with a time in the range; samples are not read.
    pub fn select_labels(
        &self,
        selectors: &[Vec<Matcher>],
        from: Timestamp,
        to: Timestamp,
        stop: &AtomicBool,
        mut found: impl FnMut(Labels, Timestamp),
    ) -> Result<(), BlockError> {
        self.archive.select_labels(selectors, from, to, stop, &mut found);
        let blocks = self.blocks.read().expect("no panic while held").clone();
        let overlaps = |block: &&Arc<Block>| block.meta().min_time <= to.0 && block.meta().max_time > from.0;
        for block in blocks.iter().filter(overlaps) {
            for matchers in selectors {
                for id in block.ids(matchers)? {
                    if stop.load(Ordering::Relaxed) {
                        return Ok(());
                    }
                    if let Some(series) = block.series(id, from.0, to.0)? {
                        found(series.labels, to);
                    }
                }
            }
        }
        Ok(())
    }

    /// Like [`Store::select`], of what is in chunks and in no block.
    pub fn head_select(
        &self,
        selectors: &[Vec<Matcher>],
        from: Timestamp,
        to: Timestamp,
        stop: &AtomicBool,
        found: impl FnMut(Piece) -> bool,
    ) {
        self.archive.select(selectors, from, to, |_| false, stop, found);
    }

    /// Hides what was deleted from samples that are in memory.
    pub fn hide(&self, piece: &mut Piece) {
        hide(self.deletions.read().expect("no panic while held").all(), piece);
    }

    /// Whether anything in memory is to be hidden.
    pub fn hides(&self) -> bool {
        !self.deletions.read().expect("no panic while held").all().is_empty()
    }

    // --- deleting and copying -------------------------------------------------------------------------------------

    /// Deletes samples in `[from, to]` of matching series, up to `now`.
    pub fn delete(&self, matchers: &[Matcher], from: i64, to: i64, now: i64) -> Result<(), String> {
        let to = to.min(now);
        if from > to {
            return Ok(());
        }
        let _upkeep = self.upkeep.lock().expect("no panic while held");
        let deletion = Deletion { matchers: matchers.to_vec(), from, to };
        let mut deletions = self.deletions.write().expect("no panic while held");
        deletions.add(deletion).map_err(|error| format!("writing the deletion: {error}"))?;
        drop(deletions);
        let blocks = self.blocks.read().expect("no panic while held").clone();
        for block in blocks.iter().filter(|block| block.meta().min_time <= to && block.meta().max_time > from) {
            block.delete(matchers, from, to).map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    /// Writes blocks with deletions anew, without what was deleted.
    pub fn clean_tombstones(&self) -> Result<(), String> {
        let _upkeep = self.upkeep.lock().expect("no panic while held");
        let worn: Vec<Arc<Block>> = {
            let blocks = self.blocks.read().expect("no panic while held");
            blocks.iter().filter(|block| block.tombstones() > 0).cloned().collect()
        };
        worn.iter().try_for_each(|block| self.compact(std::slice::from_ref(block)).map_err(|error| error.to_string()))
    }

    /// Puts blocks with everything that is in chunks and blocks into `snapshots/<name>`; gives the name.
    pub fn snapshot(&self, with_head: bool) -> Result<String, String> {
        let _upkeep = self.upkeep.lock().expect("no panic while held");
        let ulid = new_ulid();
        let name = format!("{}-{}", now_ms(), &ulid[18..]);
        let folder = self.options.folder.join("snapshots").join(&name);
        let failed = |error: io::Error| format!("{}: {error}", folder.display());
        std::fs::create_dir_all(&folder).map_err(failed)?;
        if with_head {
            for range in self.archive.ranges() {
                let files = self.archive.close_range(range);
                let deletions = self.deletions.read().expect("no panic while held").all().to_vec();
                let bounds = (range, range + self.options.block_ms);
                cut(&folder, &new_ulid(), &files, bounds, &deletions, || ()).map_err(failed)?;
            }
        }
        let blocks = self.blocks.read().expect("no panic while held").clone();
        for block in blocks {
            let target = folder.join(&block.meta().ulid);
            link_block(block.folder(), &target).map_err(failed)?;
        }
        blocks::file::sync_folder(&folder).map_err(failed)?;
        Ok(name)
    }

    // --- sealing --------------------------------------------------------------------------------------------------

    fn seal_forever(&self, waiting: &mpsc::Receiver<Job>) {
        be_nice();
        let mut batch: VecDeque<Arc<dyn ToSeal>> = VecDeque::new();
        while !self.stopping() {
            let mut removed = Vec::new();
            let collect_until = Instant::now() + BATCH_WAIT;
            loop {
                let wait = collect_until.saturating_duration_since(Instant::now());
                match waiting.recv_timeout(wait) {
                    Ok(Job::Seal(closed)) => batch.push_back(closed),
                    Ok(Job::Remove(files)) => removed.extend(files),
                    Err(mpsc::RecvTimeoutError::Timeout) => break,
                    Err(mpsc::RecvTimeoutError::Disconnected) => return,
                }
                if batch.len() >= BATCH_MAX {
                    break;
                }
            }
            for file in removed {
                let path = self.log_folder().join(file.to_string());
                if let Err(error) = std::fs::remove_file(&path) {
                    tracing::warn!(file = %path.display(), %error, "an unused log file stays");
                }
            }
            self.counters.segments_waiting.store(batch.len() as u64, Ordering::Relaxed);
            if let Err(error) = self.seal_batch(&mut batch) {
                add(&self.counters.seal_failures, 1);
                tracing::error!(%error, segments = batch.len(), "chunks cannot be written; samples wait in memory");
                self.shed(&mut batch);
                std::thread::sleep(RETRY_WAIT);
            }
        }
    }

    /// Writes and syncs the chunks of a batch; it is empty afterwards unless something failed.
    fn seal_batch(&self, batch: &mut VecDeque<Arc<dyn ToSeal>>) -> io::Result<()> {
        for closed in batch.iter() {
            if let Some(unread) = closed.append_to(&self.archive)? {
                add(&self.counters.damages, 1);
                tracing::error!(unread, "rows that do not decode are left out");
            }
        }
        if batch.is_empty() {
            return Ok(());
        }
        self.archive.sync()?;
        add(&self.counters.segments_sealed, batch.len() as u64);
        batch.drain(..).for_each(|closed| closed.set_sealed());
        self.counters.segments_waiting.store(0, Ordering::Relaxed);
        Ok(())
    }

    /// Gives up the oldest segments when too much waits.
    fn shed(&self, batch: &mut VecDeque<Arc<dyn ToSeal>>) {
        let mut bytes: usize = batch.iter().map(|closed| closed.heap_bytes()).sum();
        while bytes > self.options.waiting_bytes_max {
            let Some(closed) = batch.pop_front() else { break };
            bytes -= closed.heap_bytes();
            closed.set_sealed();
            add(&self.counters.segments_lost, 1);
        }
    }

    // --- blocks ---------------------------------------------------------------------------------------------------

    fn keep_up(&self) {
        be_nice();
        while !self.stopping() {
            {
                let (wanted, condition) = &self.upkeep_wanted;
                let guard = wanted.lock().expect("no panic while held");
                let (mut guard, _) =
                    condition.wait_timeout(guard, self.options.upkeep_every).expect("no panic while held");
                *guard = false;
            }
            if self.stopping() || !self.replay().done {
                continue;
            }
            self.end_safe_mode();
            self.drop_last_rows();
            let _upkeep = self.upkeep.lock().expect("no panic while held");
            self.cut_due(now_ms());
            self.compact_due();
            self.retire(now_ms());
        }
    }

    fn cut_due(&self, now: i64) {
        for range in self.archive.ranges() {
            let end = range + self.options.block_ms;
            if end + self.options.block_ms / LATE_PARTS > now || self.stopping() {
                continue;
            }
            let begun = Instant::now();
            let files = self.archive.close_range(range);
            let deletions = self.deletions.read().expect("no panic while held").all().to_vec();
            let mut series = 0u32;
            let written = cut(&self.options.folder, &new_ulid(), &files, (range, end), &deletions, || {
                series += 1;
                if series.is_multiple_of(BREATHE_SERIES) {
                    std::thread::yield_now();
                }
            });
            let opened = written.and_then(|written| {
                add(&self.counters.damages, written.findings.len() as u64);
                for finding in &written.findings {
                    tracing::error!(%finding, "left out of a block");
                }
                written
                    .meta
                    .map(|meta| Block::open(&self.options.folder.join(meta.ulid)))
                    .transpose()
                    .map_err(io::Error::other)
            });
            match opened {
                Ok(block) => {
                    if let Some(block) = block {
                        tracing::info!(
                            ulid = block.meta().ulid,
                            series = block.meta().stats.num_series,
                            samples = block.meta().stats.num_samples,
                            seconds = begun.elapsed().as_secs_f64(),
                            "block cut"
                        );
                        let mut blocks = self.blocks.write().expect("no panic while held");
                        blocks.push(Arc::new(block));
                        blocks.sort_by_key(|block| block.meta().min_time);
                    }
                    add(&self.counters.cuts, 1);
                    self.counters.last_cut_ms.store(begun.elapsed().as_millis() as u64, Ordering::Relaxed);
                    if let Err(error) = self.archive.remove(range, &files) {
                        tracing::error!(%error, "chunks that are in a block stay");
                    }
                }
                Err(error) => {
                    add(&self.counters.cut_failures, 1);
                    tracing::error!(%error, "a block cannot be cut; its chunks stay");
                    return;
                }
            }
        }
        if let Some((oldest, _)) = self.archive.bounds()
            && let Err(error) = self.deletions.write().expect("no panic while held").forget_before(oldest)
        {
            tracing::error!(%error, "deletions stay in their file");
        }
    }

    fn compact_due(&self) {
        let mut ranges = vec![self.options.block_ms];
        while ranges[ranges.len() - 1] * LEVEL_FACTOR <= self.options.block_ms_max {
            ranges.push(ranges[ranges.len() - 1] * LEVEL_FACTOR);
        }
        while !self.stopping() {
            let blocks = self.blocks.read().expect("no panic while held").clone();
            let metas: Vec<_> = blocks.iter().map(|block| (block.meta(), block.tombstones())).collect();
            let planned = blocks::plan(&metas, &ranges);
            let chosen: Vec<_> = blocks.iter().filter(|block| planned.contains(&block.meta().ulid)).cloned().collect();
            if chosen.is_empty() {
                return;
            }
            if let Err(error) = self.compact(&chosen) {
                add(&self.counters.compaction_failures, 1);
                tracing::error!(%error, "blocks cannot be compacted; they stay as they are");
                return;
            }
        }
    }

    fn compact(&self, chosen: &[Arc<Block>]) -> Result<(), BlockError> {
        let folder = &self.options.folder;
        let parts: Vec<&Block> = chosen.iter().map(|block| &**block).collect();
        let mut series = 0u32;
        let meta = blocks::compact(folder, &new_ulid(), &parts, &self.stop, || {
            series += 1;
            if series.is_multiple_of(BREATHE_SERIES) {
                std::thread::yield_now();
            }
        })?;
        if meta.is_none() && self.stopping() {
            return Ok(());
        }
        let whole = meta.map(|meta| Block::open(&folder.join(meta.ulid))).transpose()?;
        {
            let mut blocks = self.blocks.write().expect("no panic while held");
            blocks.retain(|block| !chosen.iter().any(|gone| Arc::ptr_eq(block, gone)));
            blocks.extend(whole.map(Arc::new));
            blocks.sort_by_key(|block| block.meta().min_time);
        }
        add(&self.counters.compactions, 1);
        for gone in chosen {
            if let Err(error) = blocks::remove(gone.folder()) {
                tracing::error!(%error, ulid = gone.meta().ulid, "a block that was compacted stays");
            }
        }
        Ok(())
    }

    /// Removes blocks that are too old or too much.
    fn retire(&self, now: i64) {
        let mut blocks = self.blocks.write().expect("no panic while held");
        let newest = blocks.iter().map(|block| block.meta().max_time).max().unwrap_or(now).min(now);
        let mut gone: Vec<Arc<Block>> = Vec::new();
        if self.options.retention_ms > 0 {
            let too_old = |block: &Arc<Block>| newest - block.meta().max_time > self.options.retention_ms;
            gone.extend(blocks.iter().filter(|block| too_old(block)).cloned());
            blocks.retain(|block| !too_old(block));
        }
        if self.options.retention_bytes > 0 {
            let (_, head_bytes) = self.archive.size();
            let mut bytes = head_bytes + folder_bytes(&self.log_folder());
            bytes += blocks.iter().map(|block| block.bytes()).sum::<u64>();
            while bytes > self.options.retention_bytes && !blocks.is_empty() {
                let oldest = blocks.remove(0);
                bytes -= oldest.bytes();
                gone.push(oldest);
            }
        }
        drop(blocks);
        for block in gone {
            add(&self.counters.retention_deletions, 1);
            tracing::info!(ulid = block.meta().ulid, "block is beyond the retention and removed");
            if let Err(error) = blocks::remove(block.folder()) {
                tracing::error!(%error, ulid = block.meta().ulid, "a block beyond the retention stays");
            }
        }
    }
}

fn hide(deletions: &[Deletion], piece: &mut Piece) {
    for (from, to) in deletions.iter().filter_map(|deletion| deletion.range_of(&piece.labels)) {
        piece.samples.retain(|sample| sample.timestamp.0 < from || sample.timestamp.0 > to);
        piece.histograms.retain(|(at, _)| *at < from || *at > to);
    }
}

/// A new ULID as text.
pub fn new_ulid() -> String {
    ulid::Ulid::new().to_string()
}

fn now_ms() -> i64 {
    series::clock::now_ms()
}

/// Lets scrapes and queries go first.
fn be_nice() {
    // Refused only where it does not matter.
    let _ = rustix::process::nice(10);
}

fn take_lock(folder: &Path) -> Result<File, OpenError> {
    let path = folder.join("lock");
    let failed = |source| OpenError::Io { path: path.clone(), source };
    let mut lock = File::options().read(true).write(true).create(true).truncate(false).open(&path).map_err(failed)?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let owner = std::fs::read_to_string(&path).unwrap_or_default();
            let owner = if owner.trim().is_empty() { "another process".to_owned() } else { owner.trim().to_owned() };
            return Err(OpenError::Held { folder: folder.to_owned(), owner });
        }
        Err(TryLockError::Error(error)) => return Err(failed(error)),
    }
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let owner = format!("process {} on {}\n", std::process::id(), host.trim());
    lock.set_len(0).and_then(|()| lock.write_all(owner.as_bytes())).map_err(failed)?;
    Ok(lock)
}

/// Counts the starts, durably, so that no two runs ever give a file the same name.
fn next_boot(folder: &Path, seen: u32) -> io::Result<u32> {
    let path = folder.join("boot");
    let last = std::fs::read_to_string(&path).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0);
    let boot = seen.max(last) + 1;
    blocks::file::replace(&path, format!("{boot}\n").as_bytes())?;
    Ok(boot)
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
        blocks::remove(block.folder())?;
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

fn folder_bytes(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.metadata().ok()).map(|metadata| metadata.len()).sum()
}
