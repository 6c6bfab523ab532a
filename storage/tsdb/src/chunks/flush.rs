//! The flush thread: closed segments are encoded, appended to chunk files and synced; unused log files are removed.
//!
//! Invariants:
//!   * the queue holds at most `bytes_max` bytes of segments: beyond, the oldest are dropped and counted, also while a
//!     system call of the thread hangs
//!   * a segment leaves memory when its chunks are synced, or when it is dropped
//!   * the thread ends when the last [`FlushQueue`] is gone, or when it is told to

use super::{AppendReport, ChunkStore, StoredSegments};
use crate::data_dir::DataDir;
use crate::head::{Closed, Segment};
use crate::histograms::HistogramSegment;
use crate::log::FileId;
use crate::log_keeper::LogKeeper;
use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, SyncSender};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Segments that are appended before they are synced.
const BATCH_MAX: usize = 256;
/// How long the thread collects before it syncs.
const BATCH_WAIT: Duration = Duration::from_millis(200);
/// Wait after a failure.
const RETRY_WAIT: Duration = Duration::from_secs(1);

/// A closed segment on its way into chunks.
pub trait Flushable: std::fmt::Debug + Send + Sync {
    /// Has the store write its chunks, but for parts that are among those `kept`; see [`ChunkStore::append`].
    fn append_to(&self, chunks: &ChunkStore, kept: Option<&StoredSegments>) -> io::Result<AppendReport>;
    /// The chunks can be read.
    fn mark_flushed(&self);
    fn heap_bytes(&self) -> usize;
}

impl Flushable for Closed<Segment> {
    fn append_to(&self, chunks: &ChunkStore, kept: Option<&StoredSegments>) -> io::Result<AppendReport> {
        let first = self.segment.range().map_or(0, |(first, _)| first.0);
        chunks.append(&self.key, &self.segment, |range| kept.is_some_and(|kept| kept.has(self.key.id, first, range)))
    }

    fn mark_flushed(&self) {
        Closed::mark_flushed(self);
    }

    fn heap_bytes(&self) -> usize {
        self.segment.heap_bytes()
    }
}

impl Flushable for Closed<HistogramSegment> {
    fn append_to(&self, chunks: &ChunkStore, kept: Option<&StoredSegments>) -> io::Result<AppendReport> {
        let first = self.segment.range().map_or(0, |(first, _)| first.0);
        let has = |range| kept.is_some_and(|kept| kept.has(self.key.id, first, range));
        chunks.append_histograms(&self.key, &self.segment, has)
    }

    fn mark_flushed(&self) {
        Closed::mark_flushed(self);
    }

    fn heap_bytes(&self) -> usize {
        self.segment.heap_bytes()
    }
}

/// Counters of the flush thread, since the start.
#[derive(Debug, Default)]
pub struct FlushStats {
    pub flushed: AtomicU64,
    /// Dropped because they could not be written for too long.
    pub dropped: AtomicU64,
    pub failures: AtomicU64,
    pub undecodable: AtomicU64,
}

/// What waits, and what the thread is at.
#[derive(Default)]
struct FlushBacklog {
    segments: VecDeque<Arc<dyn Flushable>>,
    /// Of `segments` and of those that the thread is at.
    bytes: usize,
    count: usize,
    logs: Vec<FileId>,
}

struct Shared {
    waiting: Mutex<FlushBacklog>,
    bytes_max: usize,
    stats: FlushStats,
}

impl Shared {
    /// Drops the oldest segments until the rest fits; what the thread is at cannot be dropped.
    fn drop_oldest(&self, waiting: &mut FlushBacklog) {
        while waiting.bytes > self.bytes_max {
            let Some(oldest) = waiting.segments.pop_front() else { return };
            waiting.bytes -= oldest.heap_bytes();
            waiting.count -= 1;
            oldest.mark_flushed();
            self.stats.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Where closed segments and unused log files go. Cloning shares the queue.
#[derive(Clone)]
pub struct FlushQueue {
    shared: Arc<Shared>,
    wake: SyncSender<()>,
}

impl FlushQueue {
    /// Has a closed segment put into chunks.
    pub fn flush(&self, segment: Arc<dyn Flushable>) {
        let mut waiting = self.shared.waiting.lock().expect("no panic while held");
        waiting.bytes += segment.heap_bytes();
        waiting.count += 1;
        waiting.segments.push_back(segment);
        self.shared.drop_oldest(&mut waiting);
        drop(waiting);
        let _ = self.wake.try_send(());
    }

    /// Has log files removed that no head needs any more.
    pub fn remove_logs(&self, files: Vec<FileId>) {
        self.shared.waiting.lock().expect("no panic while held").logs.extend(files);
        let _ = self.wake.try_send(());
    }

    pub(crate) fn stats(&self) -> &FlushStats {
        &self.shared.stats
    }

    /// Segments that are not durable as chunks yet.
    pub(crate) fn waiting(&self) -> usize {
        self.shared.waiting.lock().expect("no panic while held").count
    }
}

/// Starts the thread; it ends when all handles on the queue are gone, and `dir` stays locked until then.
pub(crate) fn start_flush_thread(
    dir: Arc<DataDir>,
    logs: Arc<LogKeeper>,
    chunks: Arc<ChunkStore>,
    bytes_max: usize,
) -> io::Result<FlushQueue> {
    let (wake, woken) = mpsc::sync_channel(1);
    let shared = Arc::new(Shared { waiting: Mutex::default(), bytes_max, stats: FlushStats::default() });
    let thread = FlushThread { dir, logs, chunks, shared: shared.clone() };
    std::thread::Builder::new().name("seal".into()).spawn(move || thread.run(&woken))?;
    Ok(FlushQueue { shared, wake })
}

struct FlushThread {
    dir: Arc<DataDir>,
    logs: Arc<LogKeeper>,
    chunks: Arc<ChunkStore>,
    shared: Arc<Shared>,
}

impl FlushThread {
    fn run(self, woken: &mpsc::Receiver<()>) {
        crate::os::lower_priority();
        let mut has_failed = false;
        while !self.dir.is_stopping() {
            match woken.recv_timeout(BATCH_WAIT) {
                Ok(()) => {}
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => return,
            }
            // More may come soon: one sync for all of it.
            let until = Instant::now() + BATCH_WAIT;
            while self.has_little()
                && woken.recv_timeout(until.saturating_duration_since(Instant::now())).is_ok()
                && !self.dir.is_stopping()
            {}
            while !self.dir.is_stopping() && self.flush_some(&mut has_failed) {}
        }
    }

    fn has_little(&self) -> bool {
        self.shared.waiting.lock().expect("no panic while held").segments.len() < BATCH_MAX
    }

    /// Flushes a batch; false if there was none.
    fn flush_some(&self, has_failed: &mut bool) -> bool {
        let (batch, logs) = {
            let mut waiting = self.shared.waiting.lock().expect("no panic while held");
            let count = waiting.segments.len().min(BATCH_MAX);
            let batch: Vec<Arc<dyn Flushable>> = waiting.segments.drain(..count).collect();
            (batch, std::mem::take(&mut waiting.logs))
        };
        let any = !batch.is_empty() || !logs.is_empty();
        self.logs.remove(&logs);
        if let Err(error) = self.flush(&batch, *has_failed) {
            *has_failed = true;
            self.shared.stats.failures.fetch_add(1, Ordering::Relaxed);
            tracing::error!(%error, segments = batch.len(), "chunks cannot be written; samples wait in memory");
            let mut waiting = self.shared.waiting.lock().expect("no panic while held");
            batch.into_iter().rev().for_each(|segment| waiting.segments.push_front(segment));
            self.shared.drop_oldest(&mut waiting);
            drop(waiting);
            std::thread::sleep(RETRY_WAIT);
            return true;
        }
        *has_failed &= batch.is_empty();
        let mut waiting = self.shared.waiting.lock().expect("no panic while held");
        waiting.bytes -= batch.iter().map(|segment| segment.heap_bytes()).sum::<usize>();
        waiting.count -= batch.len();
        drop(waiting);
        self.shared.stats.flushed.fetch_add(batch.len() as u64, Ordering::Relaxed);
        batch.iter().for_each(|segment| segment.mark_flushed());
        any
    }

    /// Writes and syncs the chunks of a batch. After a failure some of it may be durable already.
    fn flush(&self, batch: &[Arc<dyn Flushable>], has_failed: bool) -> io::Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        let kept = has_failed.then(|| self.chunks.stored_segments());
        let begun = self.chunks.begin();
        for segment in batch {
            if let Some(unread) = segment.append_to(&self.chunks, kept.as_ref())?.unread {
                self.shared.stats.undecodable.fetch_add(1, Ordering::Relaxed);
                tracing::error!(unread, "rows that do not decode are left out");
            }
        }
        self.chunks.sync(begun)
    }
}
