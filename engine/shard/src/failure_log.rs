//! The logs of failed scrapes, `scrape_failure_log_file`: one line of JSON for each, as Prometheus writes it.
//!
//! A thread writes, so that no core waits for a disk. Jobs may share a file. Lines that it cannot take are counted and lost.

use series::{Rfc3339, Timestamp};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

/// Lines that wait to be written.
const LINES_WAITING_MAX: usize = 4096;
/// `O_NONBLOCK` of Linux, so that a pipe that nobody reads holds nothing up.
const NONBLOCK: i32 = 0o4000;
/// Shortest time between two warnings of lost lines.
const WARN_EVERY: Duration = Duration::from_secs(60);

enum Entry {
    /// All files from now on, opened anew.
    Files(BTreeSet<PathBuf>),
    Line(PathBuf, Vec<u8>),
}

/// Where failed scrapes are logged.
#[derive(Clone, Debug)]
pub struct FailureLog {
    entries: SyncSender<Entry>,
    lost: Arc<AtomicU64>,
}

impl FailureLog {
    /// Starts the thread that writes.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start() -> io::Result<FailureLog> {
        let (entries, waiting) = sync_channel(LINES_WAITING_MAX);
        let lost = Arc::new(AtomicU64::new(0));
        let count = lost.clone();
        std::thread::Builder::new().name("scrape-failures".into()).spawn(move || write(&waiting, &count))?;
        Ok(FailureLog { entries, lost })
    }

    /// Opens the files of a configuration anew, also those that are the same: they may have been moved away.
    pub fn reopen(&self, config: &config::Config) {
        let files = config.scrape_configs.iter().filter_map(|job| job.scrape_failure_log_file.clone());
        self.send(Entry::Files(files.collect()));
    }

    /// Adds a line to a file that the configuration names.
    pub(crate) fn record(&self, file: &Path, at: Timestamp, job: &str, url: &str, error: &str) {
        self.send(Entry::Line(file.to_owned(), line(at, job, url, error)));
    }

    fn send(&self, entry: Entry) {
        if self.entries.try_send(entry).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn line(at: Timestamp, job: &str, url: &str, error: &str) -> Vec<u8> {
    let ms = at.0.rem_euclid(1000);
    let second = Rfc3339(Timestamp(at.0 - ms)).to_string();
    let text = |text: &str| serde_json::Value::from(text);
    let mut line = format!(
        "{{\"time\":\"{}.{ms:03}Z\",\"level\":\"ERROR\",\"msg\":{},\"job_name\":{},\"target\":{}}}",
        second.trim_end_matches('Z'),
        text(error),
        text(job),
        text(url)
    )
    .into_bytes();
    line.push(b'\n');
    line
}

fn write(entries: &Receiver<Entry>, lost: &AtomicU64) {
    let mut files: BTreeMap<PathBuf, Option<File>> = BTreeMap::new();
    let mut warned: Option<(Instant, u64)> = None;
    for entry in entries {
        match entry {
            Entry::Files(paths) => files = paths.into_iter().map(|path| (path.clone(), open(&path))).collect(),
            Entry::Line(path, line) => {
                let written = files.get_mut(&path).and_then(Option::as_mut).map(|file| file.write_all(&line));
                if !matches!(written, Some(Ok(()))) {
                    lost.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        let count = lost.load(Ordering::Relaxed);
        let (at, told) = warned.map_or((None, 0), |(at, told)| (Some(at), told));
        if count > told && at.is_none_or(|at| at.elapsed() >= WARN_EVERY) {
            tracing::warn!(
                lines = count - told,
                "lines of scrape_failure_log_file were lost: a file that cannot be written, or too many at once"
            );
            warned = Some((Instant::now(), count));
        }
    }
}

fn open(path: &Path) -> Option<File> {
    let opened = OpenOptions::new().append(true).create(true).custom_flags(NONBLOCK).open(path);
    if let Err(error) = &opened {
        tracing::error!(file = %path.display(), %error, "scrape_failure_log_file cannot be opened");
    }
    opened.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_json_with_the_keys_of_slog() {
        let line = line(Timestamp(1_709_210_096_070), "a\"b", "http://x/", "Get \"http://x/\": refused\n");
        let json: serde_json::Value = serde_json::from_slice(&line).unwrap();
        assert_eq!(json["time"], "2024-02-29T12:34:56.070Z");
        assert_eq!(
            (&json["level"], &json["job_name"], &json["target"]),
            (&"ERROR".into(), &"a\"b".into(), &"http://x/".into())
        );
        assert_eq!(json["msg"], "Get \"http://x/\": refused\n");
        assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1, "one line");
    }
}
