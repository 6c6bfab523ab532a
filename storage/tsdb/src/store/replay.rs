//! Old logs into chunks, at a start, and the newest rows of each target back to its head.
//!
//! Invariants:
//!   * a log is removed when all it holds is in chunks and durable, or set aside if any of it is damaged
//!   * a segment that was put into chunks before a crash is not put there again
//!   * of each log that is being replayed one file is in memory, then one segment, and the newest rows of its targets; in safe
//!     mode it is one log at a time, and no such rows

use super::{QUARANTINE, Store, add, now_ms};
use crate::head::LastRows;
use crate::log::{FileId, Replay, Restored, replay_file};
use ahash::AHashMap;
use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Logs that are replayed at once.
const AT_ONCE_MAX: usize = 16;
/// How old rows may be that heads still take, and how long these have to take them: behind it nobody asks for them as the
/// newest.
const LAST_ROWS_AGE_MAX: Duration = Duration::from_mins(5);

/// Times of the first row and the last sample of the segments in chunks, by target.
type Kept = AHashMap<u64, Vec<(i64, i64)>>;

impl Store {
    /// Puts what old logs hold into chunks, several logs at a time, and removes the logs.
    pub(super) fn replay_all(&self, logs: BTreeMap<(u32, u16), Vec<FileId>>) {
        let begun = Instant::now();
        let kept = self.archive.kept();
        let queue = Mutex::new(logs.into_iter().collect::<VecDeque<_>>());
        let at_once = std::thread::available_parallelism().map_or(1, usize::from).min(AT_ONCE_MAX);
        let workers = if self.safe_mode.is_some() { 1 } else { at_once };
        std::thread::scope(|scope| {
            for _ in 0..workers {
                scope.spawn(|| {
                    loop {
                        let next = queue.lock().expect("no panic while held").pop_front();
                        let Some((_, files)) = next else { return };
                        if let Err(error) = self.replay_log(&files, &kept) {
                            add(&self.counters.damages, 1);
                            tracing::error!(first = %files[0], %error, "a log stays for the next start");
                        }
                    }
                });
            }
        });
        let mut state = self.replay.lock().expect("no panic while held");
        state.done = true;
        if state.files > 0 {
            let seconds = begun.elapsed().as_secs_f64();
            tracing::info!(
                files = state.files,
                samples = state.samples,
                rows_lost = state.rows_lost,
                seconds,
                "logs of the last run replayed"
            );
        }
    }

    fn replay_log(&self, files: &[FileId], kept: &Kept) -> io::Result<()> {
        let damaged = self.put_into_chunks(files, kept)?;
        for file in files {
            let path = self.log_folder().join(file.to_string());
            if damaged.contains(file) {
                let aside = self.options.folder.join(QUARANTINE);
                std::fs::create_dir_all(&aside)?;
                std::fs::rename(&path, aside.join(file.to_string()))?;
                tracing::error!(file = %file, "the damaged log is set aside in {QUARANTINE}/");
            } else {
                std::fs::remove_file(&path)?;
            }
        }
        Ok(())
    }

    /// Puts what a log's files hold into chunks, durably; gives the files that are damaged.
    fn put_into_chunks(&self, files: &[FileId], kept: &Kept) -> io::Result<Vec<FileId>> {
        let mut replay = Replay::default();
        let mut open = AHashMap::new();
        let mut damaged = Vec::new();
        let mut bytes = Vec::new();
        for (i, file) in files.iter().enumerate() {
            bytes.clear();
            let mut opened = File::open(self.log_folder().join(file.to_string()))?;
            opened.read_to_end(&mut bytes)?;
            open.insert(*file, opened);
            let replayed = replay_file(*file, &mut bytes, &mut replay);
            let mut state = self.replay.lock().expect("no panic while held");
            state.rows += replayed.rows;
            state.files_done += 1;
            state.bytes += bytes.len() as u64;
            drop(state);
            for damage in &replayed.damages {
                let at = (damage.offset, damage.bytes);
                match (damage.restored, damage.tail && i + 1 == files.len()) {
                    (true, _) => {
                        tracing::warn!(file = %file, offset = at.0, bytes = at.1, "damage in a log was mended")
                    }
                    (_, true) => tracing::warn!(file = %file, offset = at.0, bytes = at.1, "torn end of a log cut off"),
                    _ => {
                        tracing::error!(file = %file, offset = at.0, bytes = at.1, "damage in a log; the rest is kept")
                    }
                }
            }
            for (offset, reason) in &replayed.senseless {
                tracing::error!(file = %file, offset, reason, "a record of a log makes no sense");
            }
            if replayed.is_damaged() {
                add(&self.counters.damages, 1);
                damaged.push(*file);
            }
        }
        drop(bytes);
        let mut recovered = replay.finish();
        let holds_rows = damaged.is_empty() && self.safe_mode.is_none();
        let mut last_rows: AHashMap<u64, LastRows> = AHashMap::new();
        while let Some((key, restored, last)) =
            recovered.next(|file, offset, bytes| open[&file].read_exact_at(bytes, offset))?
        {
            let first = restored.range().map_or(0, |(first, _)| first.0);
            let is_kept = kept.get(&key.id).is_some_and(|kept| kept.iter().any(|(other, _)| *other == first));
            let samples = match &restored {
                _ if is_kept => 0,
                Restored::Floats(segment) => {
                    if let Some(unread) = self.archive.append(&key, segment)? {
                        add(&self.counters.damages, 1);
                        tracing::error!(unread, "rows of a log that do not decode are left out");
                    }
                    segment.slots() * segment.rows()
                }
                Restored::Histograms(segment) => {
                    self.archive.append_histograms(&key, segment)?;
                    segment.rows()
                }
            };
            self.replay.lock().expect("no panic while held").samples += samples as u64;
            if let (true, Some(last), Restored::Floats(segment)) = (holds_rows, last, restored) {
                let rows = last_rows.entry(key.id).or_insert_with(|| LastRows::new(last.whole_since));
                rows.push(segment, last.rows);
            }
        }
        self.replay.lock().expect("no panic while held").rows_lost += recovered.lost;
        self.archive.sync()?;
        if recovered.lost == 0 {
            self.hold_last_rows(last_rows, kept);
        }
        Ok(damaged)
    }

    /// Holds rows for heads that may take them, as far as they are young, and chunks know nothing that is newer: the end of
    /// a log may be torn off where its chunks are whole.
    fn hold_last_rows(&self, of_log: AHashMap<u64, LastRows>, kept: &Kept) {
        let oldest = now_ms() - LAST_ROWS_AGE_MAX.as_millis() as i64;
        let newest = |rows: &LastRows| rows.range().map_or(i64::MIN, |(_, newest)| newest.0);
        let mut held = self.last_rows.lock().expect("no panic while held");
        for (id, rows) in of_log {
            let in_chunks = kept.get(&id).into_iter().flatten().map(|(_, last)| *last).max().unwrap_or(i64::MIN);
            if newest(&rows) >= oldest.max(in_chunks) && held.get(&id).is_none_or(|held| newest(held) < newest(&rows)) {
                held.insert(id, rows);
            }
        }
    }

    /// The newest rows that the last run had of a target. They are there for a few minutes after a start.
    pub fn take_last_rows(&self, id: u64) -> Option<LastRows> {
        self.last_rows.lock().expect("no panic while held").remove(&id)
    }

    /// Puts back what a head could not take yet.
    pub fn give_back_last_rows(&self, id: u64, rows: LastRows) {
        self.last_rows.lock().expect("no panic while held").insert(id, rows);
    }

    /// Whether any are there, when all logs have been replayed.
    pub fn has_last_rows(&self) -> bool {
        self.replay().done && !self.last_rows.lock().expect("no panic while held").is_empty()
    }

    /// Drops what no head has taken in time.
    pub(super) fn drop_last_rows(&self) {
        if self.opened.elapsed() > LAST_ROWS_AGE_MAX {
            self.last_rows.lock().expect("no panic while held").clear();
        }
    }
}
