//! The log keeper: files of rows. It replays what earlier runs left, removes files that nobody needs, and holds the newest
//! rows of the last run for the heads.
//!
//! It does not know what a chunk is: rows go to a [`ReplaySink`].
//!
//! Invariants:
//!   * a log is removed when all it holds is durable elsewhere, or moved to quarantine if any of it is damaged; one with
//!     exemplars when the shards have written these to their logs
//!   * a segment that the sink had before a crash is not given to it again
//!   * of each log that is being replayed one file is in memory, then one segment, and the newest rows of its targets; in safe
//!     mode it is one log at a time, and no such rows

use crate::data_dir::DataDir;
use crate::head::LastRows;
use crate::log::{FileId, LoggedExemplars, Logs, RetainedLogs, TargetKey, exemplars_of, logs_in};
use crate::log_reader::{Recovered, Replay, Replayed, Restored, replay_file};
use ahash::AHashMap;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Logs that are replayed at once.
const AT_ONCE_MAX: usize = 16;
/// Segments after which what was replayed is synced, and can be read.
const SYNC_SEGMENTS: u32 = 4096;
/// How old rows may be that heads still take, and how long these have to take them: behind it nobody asks for them as the
/// newest.
const LAST_ROWS_AGE_MAX: Duration = Duration::from_mins(5);

/// How far the replay of old logs has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReplayState {
    pub files: u64,
    pub files_done: u64,
    pub bytes: u64,
    pub rows: u64,
    pub samples: u64,
    pub rows_lost: u64,
    /// How long it took, once it is done.
    pub duration_ms: u64,
    pub done: bool,
}

/// Of records of exemplars, in the order of a log.
type Payloads = Vec<Box<[u8]>>;

/// Exemplars of a log of the last run. Its files stay until a shard has written these to its own log.
#[derive(Debug)]
pub struct OldExemplars {
    /// Number of the shard that wrote them.
    pub writer: u16,
    payloads: Payloads,
    pub files: Vec<FileId>,
}

impl OldExemplars {
    /// In the order of the log.
    pub fn read(&self) -> impl Iterator<Item = LoggedExemplars> {
        self.payloads.iter().filter_map(|payload| exemplars_of(payload))
    }
}

/// Takes what logs hold.
pub(crate) trait ReplaySink: Sync {
    /// What is taken together.
    type Batch: Copy;

    fn begin(&self) -> Self::Batch;
    /// Takes a segment unless it has it; gives the number of samples that were new.
    fn take(&self, key: &TargetKey, segment: &Restored) -> io::Result<u64>;
    /// Time of the last sample that it had of a target before.
    fn newest(&self, target: u64) -> Option<i64>;
    /// Makes what was taken since the beginning of the batch durable, or says that it is not.
    fn sync(&self, batch: Self::Batch) -> io::Result<()>;
}

/// The logs of a data folder.
pub(crate) struct LogKeeper {
    dir: Arc<DataDir>,
    replay: Mutex<ReplayState>,
    /// By target.
    last_rows: Mutex<AHashMap<u64, LastRows>>,
    old_exemplars: Mutex<Vec<OldExemplars>>,
    /// Logs that could not be replayed yet.
    failed: Mutex<Logs>,
    damages: AtomicU64,
    removals: Mutex<LogRemovals>,
}

/// How files that no head needs any more were removed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LogRemovals {
    /// How often some were.
    pub count: u64,
    /// How often that failed for one of them.
    pub failures: u64,
    pub time: Duration,
}

impl LogKeeper {
    pub fn new(dir: Arc<DataDir>, logs: &Logs) -> LogKeeper {
        let files = logs.values().map(Vec::len).sum::<usize>() as u64;
        LogKeeper {
            dir,
            replay: Mutex::new(ReplayState { files, ..ReplayState::default() }),
            last_rows: Mutex::default(),
            old_exemplars: Mutex::default(),
            failed: Mutex::default(),
            damages: AtomicU64::new(0),
            removals: Mutex::default(),
        }
    }

    /// Links to logs, for those who read them later than the heads need them.
    pub fn retained(&self) -> RetainedLogs {
        RetainedLogs::new(self.dir.log_folder(), self.dir.retained_logs_folder())
    }

    pub fn replay(&self) -> ReplayState {
        *self.replay.lock().expect("no panic while held")
    }

    /// Logs found to be damaged.
    pub fn damages(&self) -> u64 {
        self.damages.load(Ordering::Relaxed)
    }

    /// The files that there are.
    pub fn files(&self) -> io::Result<Vec<FileId>> {
        Ok(logs_in(&self.dir.log_folder())?.into_values().flatten().collect())
    }

    /// Number of the newest file that a core of this run or, before there is one, of the last run has written.
    pub fn newest_sequence(&self) -> u64 {
        let files = self.files().unwrap_or_default();
        files.iter().map(|file| (file.boot, file.sequence)).max().map_or(0, |(_, sequence)| u64::from(sequence))
    }

    pub fn bytes(&self) -> u64 {
        crate::os::folder_bytes(&self.dir.log_folder())
    }

    fn path(&self, file: FileId) -> PathBuf {
        self.dir.log_folder().join(file.to_string())
    }

    /// Removes files that no head needs any more.
    pub fn remove(&self, files: &[FileId]) {
        let (begun, mut failed) = (Instant::now(), false);
        for file in files {
            let path = self.path(*file);
            if let Err(error) = std::fs::remove_file(&path) {
                failed = true;
                tracing::warn!(file = %path.display(), %error, "an unused log file could not be removed");
            }
        }
        let mut removals = self.removals.lock().expect("no panic while held");
        removals.count += 1;
        removals.failures += u64::from(failed);
        removals.time += begun.elapsed();
    }

    /// How files were removed since the start.
    pub fn removals(&self) -> LogRemovals {
        *self.removals.lock().expect("no panic while held")
    }

    /// Gives what old logs hold to the sink, several logs at a time, and removes the logs.
    pub fn replay_all(&self, logs: Logs, sink: &impl ReplaySink) {
        let begun = Instant::now();
        let queue = Mutex::new(logs.into_iter().collect::<VecDeque<_>>());
        let at_once = std::thread::available_parallelism().map_or(1, usize::from).min(AT_ONCE_MAX);
        let workers = if self.dir.safe_mode().is_some() { 1 } else { at_once };
        std::thread::scope(|scope| {
            for _ in 0..workers {
                scope.spawn(|| {
                    loop {
                        let next = queue.lock().expect("no panic while held").pop_front();
                        let Some((log, files)) = next else { return };
                        if let Err(error) = self.replay_log(&files, sink) {
                            self.damages.fetch_add(1, Ordering::Relaxed);
                            tracing::error!(first = %files[0], %error, "a log could not be replayed; it is tried again");
                            self.failed.lock().expect("no panic while held").insert(log, files);
                        }
                    }
                });
            }
        });
        let mut state = self.replay.lock().expect("no panic while held");
        state.done = true;
        state.duration_ms = begun.elapsed().as_millis() as u64;
        let waiting: usize = self.failed.lock().expect("no panic while held").values().map(Vec::len).sum();
        if state.files > 0 {
            let seconds = begun.elapsed().as_secs_f64();
            tracing::info!(
                files = state.files - waiting as u64,
                files_to_try_again = waiting,
                samples = state.samples,
                rows_lost = state.rows_lost,
                seconds,
                "logs of the last run replayed"
            );
        }
    }

    /// Tries again to replay what could not be replayed.
    pub fn replay_failed<S: ReplaySink>(&self, sink: impl FnOnce() -> S) {
        let failed = std::mem::take(&mut *self.failed.lock().expect("no panic while held"));
        if !failed.is_empty() {
            self.replay_all(failed, &sink());
        }
    }

    fn replay_log(&self, files: &[FileId], sink: &impl ReplaySink) -> io::Result<()> {
        let (damaged, exemplars) = self.replay_into(files, sink)?;
        let (damaged, whole): (Vec<FileId>, Vec<FileId>) = files.iter().partition(|file| damaged.contains(file));
        for file in damaged {
            self.dir.quarantine(&self.path(file))?;
        }
        if exemplars.is_empty() {
            for file in whole {
                std::fs::remove_file(self.path(file))?;
            }
        } else {
            let old = OldExemplars { writer: files[0].writer, payloads: exemplars, files: whole };
            self.old_exemplars.lock().expect("no panic while held").push(old);
        }
        Ok(())
    }

    /// Gives what a log's files hold to the sink, durably; returns the files that are damaged, and the records of exemplars.
    fn replay_into(&self, files: &[FileId], sink: &impl ReplaySink) -> io::Result<(Vec<FileId>, Payloads)> {
        let mut replay = Replay::default();
        let mut open = AHashMap::new();
        let mut damaged = Vec::new();
        let mut bytes = Vec::new();
        for (i, file) in files.iter().enumerate() {
            bytes.clear();
            let mut opened = File::open(self.path(*file))?;
            opened.read_to_end(&mut bytes)?;
            open.insert(*file, opened);
            let replayed = replay_file(*file, &mut bytes, &mut replay);
            let mut state = self.replay.lock().expect("no panic while held");
            state.rows += replayed.rows;
            state.files_done += 1;
            state.bytes += bytes.len() as u64;
            drop(state);
            log_damages(*file, i + 1 == files.len(), &replayed);
            if replayed.is_damaged() {
                self.damages.fetch_add(1, Ordering::Relaxed);
                damaged.push(*file);
            }
        }
        drop(bytes);
        let read = |file, offset, bytes: &mut [u8]| File::read_exact_at(&open[&file], bytes, offset);
        let exemplars = replay.take_exemplars().collect();
        self.drain(replay.finish(), read, damaged.is_empty(), sink)?;
        Ok((damaged, exemplars))
    }

    /// Gives segment by segment to the sink, and holds the newest rows if the log is `whole`.
    fn drain(
        &self,
        mut recovered: Recovered,
        mut read: impl FnMut(FileId, u64, &mut [u8]) -> io::Result<()>,
        whole: bool,
        sink: &impl ReplaySink,
    ) -> io::Result<()> {
        let holds_rows = whole && self.dir.safe_mode().is_none();
        let mut last_rows: AHashMap<u64, LastRows> = AHashMap::new();
        let (mut batch, mut segments) = (sink.begin(), 0u32);
        while let Some((key, restored, last)) = recovered.next(&mut read)? {
            let samples = sink.take(&key, &restored)?;
            self.replay.lock().expect("no panic while held").samples += samples;
            if let (true, Some(last), Restored::Floats(segment)) = (holds_rows, last, restored) {
                let rows = last_rows.entry(key.id).or_insert_with(|| LastRows::new(last.whole_since));
                rows.push(segment, last.rows);
            }
            segments += 1;
            if segments.is_multiple_of(SYNC_SEGMENTS) {
                sink.sync(batch)?;
                batch = sink.begin();
            }
        }
        self.replay.lock().expect("no panic while held").rows_lost += recovered.lost;
        sink.sync(batch)?;
        if recovered.lost == 0 {
            self.hold_last_rows(last_rows, sink);
        }
        Ok(())
    }

    /// Holds rows for heads that may take them, as far as they are young, and the sink had nothing that is newer: the end of
    /// a log may be torn off where its chunks are whole.
    fn hold_last_rows(&self, of_log: AHashMap<u64, LastRows>, sink: &impl ReplaySink) {
        let oldest = crate::os::now_ms() - LAST_ROWS_AGE_MAX.as_millis() as i64;
        let newest = |rows: &LastRows| rows.range().map_or(i64::MIN, |(_, newest)| newest.0);
        let mut held = self.last_rows.lock().expect("no panic while held");
        for (id, rows) in of_log {
            let in_sink = sink.newest(id).unwrap_or(i64::MIN);
            if newest(&rows) >= oldest.max(in_sink) && held.get(&id).is_none_or(|held| newest(held) < newest(&rows)) {
                held.insert(id, rows);
            }
        }
    }

    /// The newest rows that the last run had of a target. They are there for a few minutes after a start.
    pub fn take_last_rows(&self, id: u64) -> Option<LastRows> {
        self.last_rows.lock().expect("no panic while held").remove(&id)
    }

    /// Puts back what a head could not take yet.
    pub fn return_last_rows(&self, id: u64, rows: LastRows) {
        self.last_rows.lock().expect("no panic while held").insert(id, rows);
    }

    /// Whether any are there, when all logs have been replayed.
    pub fn has_last_rows(&self) -> bool {
        self.replay().done && !self.last_rows.lock().expect("no panic while held").is_empty()
    }

    /// Whether a log of the last run had exemplars that nobody has taken.
    pub fn has_old_exemplars(&self) -> bool {
        !self.old_exemplars.lock().expect("no panic while held").is_empty()
    }

    /// Takes the exemplars of some logs of the last run, by who wrote these.
    pub fn take_old_exemplars(&self, is_wanted: impl Fn(u16) -> bool) -> Vec<OldExemplars> {
        let mut old = self.old_exemplars.lock().expect("no panic while held");
        old.extract_if(.., |one| is_wanted(one.writer)).collect()
    }

    /// Drops what no head has taken in time.
    pub fn drop_last_rows_if_old(&self) {
        if self.dir.age() > LAST_ROWS_AGE_MAX {
            self.last_rows.lock().expect("no panic while held").clear();
        }
    }
}

fn log_damages(file: FileId, is_last: bool, replayed: &Replayed) {
    for damage in &replayed.damages {
        let (offset, bytes) = (damage.offset, damage.bytes);
        match (damage.restored, damage.tail && is_last) {
            (true, _) => tracing::warn!(file = %file, offset, bytes, "damage in a log was mended"),
            (_, true) => tracing::warn!(file = %file, offset, bytes, "torn end of a log cut off"),
            _ => tracing::error!(file = %file, offset, bytes, "damage in a log; the rest is kept"),
        }
    }
    for (offset, reason) in &replayed.senseless {
        tracing::error!(file = %file, offset, reason, "a record of a log makes no sense");
    }
}
