//! A data folder as the rest of the program sees it: a facade over four owners and their threads.
//!
//! [`DataDir`] has the lock and the number of the start, [`LogKeeper`] the files of rows, [`ChunkStore`] what is encoded and
//! in no block, [`BlockKeeper`] the blocks. Each can be driven without the others above it.
//!
//! The folder holds `lock`; `log/` with the cores' logs; `head/` with chunks; one folder per block; `deletions`;
//! `quarantine/` with damaged logs; `remote-write/` with links to logs that others still have to read; and an empty `wal/`,
//! without which promtool does not open a data folder.
//!
//! Invariants:
//!   * samples are readable somewhere at any time: what publishes them does so before what held them lets go
//!   * nothing is deleted before what replaces it is durable
//!   * damage never stops the start: what is damaged is reported, set aside, and the rest serves
//!   * the threads end when the last handles on the store and on its flush queue are gone, or after [`Store::stop`]

use crate::block_keeper::{BlockKeeper, BlockOverview, BlockSettings, RetentionOverview};
use crate::chunks::{Batch, ChunkStore, FlushQueue, Flushable, StoredSegments, start_flush_thread};
use crate::data_dir::{DataDir, OpenError, io_error};
use crate::deletions::Deletions;
use crate::head::{Elsewhere, LastRows};
use crate::log::{Logs, Options as LogOptions, RetainedLogs, TargetKey};
use crate::log_keeper::{LogKeeper, OldExemplars, ReplaySink, ReplayState};
use crate::log_reader::Restored;
use crate::os::{lower_priority, now_ms};
use crate::safe_mode::SafeMode;
use blocks::{Block, BlockError, Meta};
use series::{Matcher, Timestamp};
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, SyncSender};
use std::time::Duration;

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
    /// Whether the logs of the last run are kept, in [`Store::retained_logs`], before they are replayed and removed.
    pub keep_logs: bool,
    /// Whether blocks are uploaded: those that [`Store::set_uploaded`] does not name yet are not compacted.
    pub uploads_blocks: bool,
    /// Whether the head that Prometheus left in the folder is imported before logs are replayed.
    pub import_prometheus_head: bool,
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
            uploads_blocks: false,
            import_prometheus_head: false,
        }
    }
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
    pub head_chunks: u64,
    pub blocks: u64,
    /// Blocks that could not be opened or compacted.
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
    /// Compactions of blocks whose times overlapped.
    pub overlapping_compactions: u64,
    /// How often it was looked whether blocks are to be cut, compacted or removed.
    pub maintenance_runs: u64,
    /// How often chunk files were removed because a block has what is in them, and how long that took.
    pub truncations: u64,
    pub truncations_seconds: f64,
    /// How often files of the logs were removed, how often that failed, and how long it took.
    pub log_truncations: u64,
    pub log_truncation_failures: u64,
    pub log_truncations_seconds: f64,
    /// Chunks written since the start, and those that left because a block has them.
    pub chunks_written: u64,
    pub chunks_removed: u64,
    /// Damages met in chunk files.
    pub chunk_corruptions: u64,
    /// Blocks removed for their age, and because all took too much room.
    pub age_deletions: u64,
    pub size_deletions: u64,
    /// How long blocks took to write: bounds in seconds with how many lie at or below them, how many there are, their sum.
    pub compaction_durations: (Vec<(f64, u64)>, u64, f64),
    /// Damages met in logs, chunks and blocks.
    pub damages: u64,
    pub last_cut_seconds: f64,
    /// Bytes of chunks and of blocks that were written since the start.
    pub chunk_bytes_written: u64,
    pub block_bytes_written: u64,
}

/// An open data folder.
pub struct Store {
    options: StoreOptions,
    pub(crate) dir: Arc<DataDir>,
    pub(crate) logs: Arc<LogKeeper>,
    pub(crate) chunks: Arc<ChunkStore>,
    pub(crate) blocks: Arc<BlockKeeper>,
    pub(crate) deletions: Arc<Deletions>,
    flush_queue: FlushQueue,
    /// The maintenance thread ends when it is gone.
    maintenance: SyncSender<()>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("folder", &self.options.folder).finish_non_exhaustive()
    }
}

impl Store {
    /// Opens the folder, which nobody else may hold, and begins to replay what the last run left in its logs.
    pub fn open(options: StoreOptions) -> Result<Arc<Store>, OpenError> {
        let folder = options.folder.clone();
        let (dir, old_logs) = DataDir::open(&folder, options.safe_mode_window)?;
        let dir = Arc::new(dir);
        let logs = Arc::new(LogKeeper::new(dir.clone(), &old_logs));
        if options.keep_logs {
            let retained = logs.retained();
            if let Err(error) = retained.link() {
                tracing::error!(folder = %retained.folder().display(), %error, "logs of the last run cannot be kept");
            }
        }
        let head = dir.chunks_folder();
        let (chunks, corruptions) = ChunkStore::open(&head, dir.boot(), options.block_ms).map_err(io_error(&head))?;
        let chunks = Arc::new(chunks);
        for corruption in &corruptions {
            tracing::error!(%corruption, "damaged chunks; what can be read of the file serves");
        }
        let (deletions, outcome) = Deletions::open(&folder, &logs.files().unwrap_or_default());
        if let Err(error) = outcome {
            tracing::error!(%error, "the list of deletions cannot be read; what it hid may be seen again");
            chunks.count_corruption();
            if let Err(error) = dir.quarantine(deletions.path()) {
                tracing::error!(%error, "the damaged list of deletions could not be set aside");
            }
        }
        let deletions = Arc::new(deletions);
        let settings = BlockSettings {
            block_ms: options.block_ms,
            block_ms_max: options.block_ms_max,
            retention_ms: options.retention_ms,
            retention_bytes: options.retention_bytes,
        };
        let blocks = BlockKeeper::open(dir.clone(), chunks.clone(), logs.clone(), deletions.clone(), settings);
        let blocks = Arc::new(blocks.map_err(io_error(&folder))?);
        blocks.set_uploaded(options.uploads_blocks.then(BTreeSet::new));
        let flush_queue = start_flush_thread(dir.clone(), logs.clone(), chunks.clone(), options.waiting_bytes_max)
            .map_err(io_error(&folder))?;
        let import = options.import_prometheus_head.then(|| blocks.clone());
        start_replay_thread(&dir, &logs, &chunks, old_logs, import).map_err(io_error(&folder))?;
        let maintenance = start_maintenance_thread(&dir, &logs, &chunks, &blocks, options.upkeep_every);
        let maintenance = maintenance.map_err(io_error(&folder))?;
        Ok(Arc::new(Store { options, dir, logs, chunks, blocks, deletions, flush_queue, maintenance }))
    }

    /// Number of this start: part of the names of its logs.
    pub fn boot(&self) -> u32 {
        self.dir.boot()
    }

    pub fn options(&self) -> &StoreOptions {
        &self.options
    }

    pub fn folder(&self) -> &Path {
        self.dir.folder()
    }

    /// Where the logs are.
    pub fn log_folder(&self) -> PathBuf {
        self.dir.log_folder()
    }

    /// Logs that others still have to read.
    pub fn retained_logs(&self) -> RetainedLogs {
        self.logs.retained()
    }

    /// Where closed segments and unused log files go.
    pub fn flush_queue(&self) -> FlushQueue {
        self.flush_queue.clone()
    }

    pub fn replay(&self) -> ReplayState {
        self.logs.replay()
    }

    /// What holds in safe mode, while it lasts.
    pub fn safe_mode(&self) -> Option<&SafeMode> {
        self.dir.safe_mode()
    }

    /// How many crashes this start found within the window.
    pub fn crashes(&self) -> usize {
        self.dir.crashes()
    }

    /// The process ends in order: the next start finds no crash.
    pub fn record_clean_shutdown(&self) {
        self.dir.record_clean_shutdown();
    }

    /// Ends the threads soon: for the end of the process.
    pub fn stop(&self) {
        self.dir.stop();
        let _ = self.maintenance.try_send(());
    }

    /// Whether all threads have ended.
    pub fn has_stopped(&self) -> bool {
        // The store, the three other owners.
        Arc::strong_count(&self.dir) <= 3
    }

    /// The newest rows that the last run had of a target. They are there for a few minutes after a start.
    pub fn take_last_rows(&self, id: u64) -> Option<LastRows> {
        self.logs.take_last_rows(id)
    }

    /// Puts back what a head could not take yet.
    pub fn return_last_rows(&self, id: u64, rows: LastRows) {
        self.logs.return_last_rows(id, rows);
    }

    /// Whether any are there, when all logs have been replayed.
    pub fn has_last_rows(&self) -> bool {
        self.logs.has_last_rows()
    }

    /// Whether a log of the last run had exemplars that no shard has taken.
    pub fn has_old_exemplars(&self) -> bool {
        self.logs.has_old_exemplars()
    }

    /// Takes the exemplars of some logs of the last run, by the number of who wrote these. Who takes them has their files
    /// removed, see [`FlushQueue::remove_logs`], once they are in its own log.
    pub fn take_old_exemplars(&self, is_wanted: impl Fn(u16) -> bool) -> Vec<OldExemplars> {
        self.logs.take_old_exemplars(is_wanted)
    }

    pub fn stats(&self) -> StoreStats {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (blocks, of_blocks, flushes) = (self.blocks.open_blocks(), &self.blocks.stats, self.flush_queue.stats());
        let in_chunks = self.chunks.size();
        let (chunks_written, chunks_removed) = self.chunks.chunks_written_and_removed();
        let removals = self.logs.removals();
        let damages =
            self.logs.damages() + self.chunks.corruptions() + count(&of_blocks.damages) + self.blocks.faults();
        StoreStats {
            replay: self.replay(),
            log_bytes: self.logs.bytes(),
            head_bytes: in_chunks.bytes,
            blocks_bytes: blocks.iter().map(|block| block.bytes()).sum(),
            head_samples: in_chunks.samples,
            head_chunks: in_chunks.chunks,
            blocks: blocks.len() as u64,
            blocks_bad: self.blocks.unopened() as u64
                + blocks.iter().filter(|block| block.meta().compaction.failed).count() as u64,
            segments_sealed: count(&flushes.flushed),
            segments_waiting: self.flush_queue.waiting() as u64,
            segments_lost: count(&flushes.dropped),
            seal_failures: count(&flushes.failures),
            cuts: count(&of_blocks.head_compactions),
            cut_failures: count(&of_blocks.head_compaction_failures),
            compactions: count(&of_blocks.compactions),
            compaction_failures: count(&of_blocks.compaction_failures),
            overlapping_compactions: count(&of_blocks.overlapping_compactions),
            maintenance_runs: count(&of_blocks.maintenance_runs),
            truncations: count(&of_blocks.truncations),
            truncations_seconds: count(&of_blocks.truncations_us) as f64 / 1e6,
            log_truncations: removals.count,
            log_truncation_failures: removals.failures,
            log_truncations_seconds: removals.time.as_secs_f64(),
            chunks_written,
            chunks_removed,
            chunk_corruptions: self.chunks.corruptions(),
            age_deletions: count(&of_blocks.age_deletions),
            size_deletions: count(&of_blocks.size_deletions),
            compaction_durations: of_blocks.durations.cumulative(),
            damages: damages + count(&flushes.undecodable),
            last_cut_seconds: count(&of_blocks.last_head_compaction_ms) as f64 / 1000.0,
            chunk_bytes_written: self.chunks.bytes_written(),
            block_bytes_written: self.blocks.bytes_written(),
        }
    }

    /// Number of the newest file of the logs. Lists their folder.
    pub fn log_sequence(&self) -> u64 {
        self.logs.newest_sequence()
    }

    /// What the blocks say of themselves, oldest first, and those that cannot be opened.
    pub fn block_metas(&self) -> (Vec<Meta>, Vec<BlockError>) {
        let metas = self.blocks.open_blocks().iter().map(|block| block.meta().clone()).collect();
        (metas, self.blocks.bad_blocks())
    }

    /// What operators see of the blocks, oldest first, and of what is removed next.
    pub fn blocks_overview(&self) -> (Vec<BlockOverview>, RetentionOverview) {
        (self.blocks.overview(), self.blocks.retention())
    }

    /// All open blocks, by their beginning.
    pub fn open_blocks(&self) -> Vec<Arc<Block>> {
        self.blocks.open_blocks()
    }

    /// Notes which blocks need not be uploaded any more: only those are compacted. None: no block has to be.
    pub fn set_uploaded(&self, uploaded: Option<BTreeSet<String>>) {
        self.blocks.set_uploaded(uploaded);
    }

    /// Writes a block anew, without what was deleted of it. It gets another ULID.
    ///
    /// # Errors
    /// If it cannot be read or written; it stays as it is.
    pub fn rewrite_block(&self, ulid: &str) -> Result<(), BlockError> {
        self.blocks.rewrite(ulid)
    }

    /// Times of the oldest and the newest sample in chunks and blocks.
    pub fn bounds(&self) -> Option<(i64, i64)> {
        // Chunks first: what leaves them is in a block by then.
        let of_chunks = self.chunks.bounds();
        let blocks = self.blocks.open_blocks();
        let of_blocks = blocks.iter().map(|block| (block.meta().min_time, block.meta().max_time - 1));
        of_blocks.chain(of_chunks).reduce(|all, one| (all.0.min(one.0), all.1.max(one.1)))
    }

    /// Where samples from `from` on may be that are not in memory, or not there alone.
    pub fn elsewhere(&self, from: Timestamp) -> Elsewhere {
        // Chunks first: what leaves them is in a block by then.
        let in_chunks = self.chunks.bounds().is_some_and(|(_, newest)| newest >= from.0) || !self.replay().done;
        match self.blocks.open_blocks().iter().any(|block| block.meta().max_time > from.0) {
            true => Elsewhere::Blocks,
            false if in_chunks => Elsewhere::Chunks,
            false => Elsewhere::Nothing,
        }
    }

    /// Times of the oldest and newest sample that is in chunks and in no block.
    pub fn head_bounds(&self) -> Option<(i64, i64)> {
        self.chunks.bounds()
    }

    /// Deletes samples in `[from, to]` of matching series, up to `now`.
    pub fn delete(&self, matchers: &[Matcher], from: i64, to: i64, now: i64) -> Result<(), String> {
        self.blocks.delete(matchers, from, to, now)
    }

    /// Writes blocks with deletions anew, without what was deleted.
    pub fn clean_tombstones(&self) -> Result<(), String> {
        self.blocks.clean_tombstones()
    }

    /// Imports the head that Prometheus left in the folder, if there is one.
    ///
    /// # Errors
    /// If files could not be read or written; the folder is as before.
    pub fn import_prometheus_head(&self) -> Result<Option<blocks::head::HeadImport>, BlockError> {
        self.blocks.import_prometheus_head()
    }

    /// Makes blocks of all that is in chunks, as it is everything when the logs are replayed; returns them.
    ///
    /// # Errors
    /// If one of them could not be written; its chunks stay.
    pub fn export_to_blocks(&self) -> io::Result<Vec<Meta>> {
        self.blocks.export_to_blocks()
    }

    /// Puts blocks with everything that is in blocks and, with `memory`, in chunks and in these segments into
    /// `snapshots/<name>`; gives the name.
    pub fn snapshot(&self, memory: Option<Vec<Arc<dyn Flushable>>>) -> Result<String, String> {
        self.blocks.snapshot(memory)
    }
}

/// Puts old logs into chunks.
pub(crate) struct ReplayIntoChunks {
    chunks: Arc<ChunkStore>,
    /// What was in chunks before.
    before: StoredSegments,
}

impl ReplayIntoChunks {
    pub fn new(chunks: &Arc<ChunkStore>) -> ReplayIntoChunks {
        ReplayIntoChunks { before: chunks.stored_segments(), chunks: chunks.clone() }
    }
}

impl ReplaySink for ReplayIntoChunks {
    type Batch = Batch;

    fn begin(&self) -> Batch {
        self.chunks.begin()
    }

    fn take(&self, key: &TargetKey, segment: &Restored) -> io::Result<u64> {
        let first = segment.range().map_or(0, |(first, _)| first.0);
        let has = |range| self.before.has(key.id, first, range) && self.chunks.verify(range, key.id, first);
        let written = match segment {
            Restored::Floats(segment) => self.chunks.append(key, segment, has)?,
            Restored::Histograms(segment) => self.chunks.append_histograms(key, segment, has)?,
        };
        if let Some(unread) = written.unread {
            self.chunks.count_corruption();
            tracing::error!(unread, "rows of a log that do not decode are left out");
        }
        Ok(written.samples)
    }

    fn newest(&self, target: u64) -> Option<i64> {
        self.before.newest(target)
    }

    fn sync(&self, batch: Batch) -> io::Result<()> {
        self.chunks.sync(batch)
    }
}

fn start_replay_thread(
    dir: &Arc<DataDir>,
    logs: &Arc<LogKeeper>,
    chunks: &Arc<ChunkStore>,
    old_logs: Logs,
    import: Option<Arc<BlockKeeper>>,
) -> io::Result<()> {
    let (dir, logs, chunks) = (dir.clone(), logs.clone(), chunks.clone());
    let work = move || {
        // What Prometheus left first: the server is ready when both are done.
        if let Some(Err(error)) = import.map(|blocks| blocks.import_prometheus_head()) {
            tracing::error!(%error, "Prometheus' head could not be imported; the next start tries again");
        }
        logs.replay_all(old_logs, &ReplayIntoChunks::new(&chunks));
        drop(dir);
    };
    std::thread::Builder::new().name("replay".into()).spawn(work).map(drop)
}

/// Starts the thread that looks after blocks; it ends when the sender is gone.
fn start_maintenance_thread(
    dir: &Arc<DataDir>,
    logs: &Arc<LogKeeper>,
    chunks: &Arc<ChunkStore>,
    blocks: &Arc<BlockKeeper>,
    every: Duration,
) -> io::Result<SyncSender<()>> {
    let (sender, receiver) = mpsc::sync_channel(1);
    let (dir, logs, chunks, blocks) = (dir.clone(), logs.clone(), chunks.clone(), blocks.clone());
    let work = move || {
        lower_priority();
        loop {
            match receiver.recv_timeout(every) {
                Err(RecvTimeoutError::Disconnected) => return,
                _ if dir.is_stopping() => return,
                _ if !logs.replay().done => continue,
                _ => {}
            }
            dir.end_safe_mode_if_due();
            logs.drop_last_rows_if_old();
            blocks.run_maintenance(now_ms());
            logs.replay_failed(|| ReplayIntoChunks::new(&chunks));
        }
    };
    std::thread::Builder::new().name("blocks".into()).spawn(work)?;
    Ok(sender)
}
