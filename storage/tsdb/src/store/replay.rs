//! Old logs into chunks, at a start.
//!
//! Invariants:
//!   * a log is removed when all it holds is in chunks and durable, or set aside if any of it is damaged
//!   * a segment that was put into chunks before a crash is not put there again
//!   * in safe mode one log at a time is read, part by part

use super::{QUARANTINE, Store, add};
use crate::log::{FileId, Part, Recovered, Replay, replay_file};
use crate::safe_mode;
use ahash::AHashSet;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Mutex;
use std::time::Instant;

/// Logs that are replayed at once.
const AT_ONCE_MAX: usize = 16;

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

    fn replay_log(&self, files: &[FileId], kept: &AHashSet<(u64, i64)>) -> io::Result<()> {
        let mut damaged = Vec::new();
        if self.safe_mode.is_some() {
            let length = |file: &FileId| std::fs::metadata(self.log_folder().join(file.to_string())).map(|at| at.len());
            let bytes = files.iter().map(length).sum::<io::Result<u64>>()?;
            for part in safe_mode::parts(bytes) {
                self.replay_part(files, part, kept, &mut damaged)?;
            }
        } else {
            self.replay_part(files, Part::default(), kept, &mut damaged)?;
        }
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

    /// Puts a part of a log's segments into chunks. What is wrong with the files is told with the first part.
    fn replay_part(
        &self,
        files: &[FileId],
        part: Part,
        kept: &AHashSet<(u64, i64)>,
        damaged: &mut Vec<FileId>,
    ) -> io::Result<()> {
        let mut replay = Replay::of_part(part);
        for (i, file) in files.iter().enumerate() {
            let path = self.log_folder().join(file.to_string());
            let bytes = std::fs::read(&path)?;
            let length = bytes.len() as u64;
            let replayed = replay_file(*file, bytes, &mut replay);
            replay.end_file();
            let mut state = self.replay.lock().expect("no panic while held");
            state.rows += replayed.rows;
            if part.number > 0 {
                continue;
            }
            state.files_done += 1;
            state.bytes += length;
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
        let Recovered { segments, histograms, lost } = replay.finish();
        self.replay.lock().expect("no panic while held").rows_lost += lost;
        for (key, segment) in segments {
            let first = segment.range().map_or(0, |(first, _)| first.0);
            if kept.contains(&(key.id, first)) {
                continue;
            }
            let samples = segment.slots() * segment.rows();
            if let Some(unread) = self.archive.append(&key, &segment)? {
                add(&self.counters.damages, 1);
                tracing::error!(unread, "rows of a log that do not decode are left out");
            }
            self.replay.lock().expect("no panic while held").samples += samples as u64;
        }
        for (key, segment) in histograms {
            let first = segment.range().map_or(0, |(first, _)| first.0);
            if !kept.contains(&(key.id, first)) {
                self.archive.append_histograms(&key, &segment)?;
                self.replay.lock().expect("no panic while held").samples += segment.rows() as u64;
            }
        }
        self.archive.sync()
    }
}
