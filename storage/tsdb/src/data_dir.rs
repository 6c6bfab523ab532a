//! The data folder: its lock, its boot number, how earlier runs ended, and the folder for damaged files.
//!
//! It is opened first and closed last: every thread of the store holds it, so nobody else gets the lock before the last of
//! them has ended. It knows nothing of samples.

use crate::crash_history::CrashHistory;
use crate::file_names::parse_chunk_file;
use crate::log::{Logs, logs_in};
use crate::os::now_ms;
use crate::safe_mode::{self, SafeMode};
use std::fs::{File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const LOG: &str = "log";
const CHUNKS: &str = "head";
const QUARANTINE: &str = "quarantine";
/// Links to logs that others still have to read.
const RETAINED_LOGS: &str = "remote-write";

/// Why a data folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("data folder {folder} is held by {owner}; stop that process or use another folder")]
    Held { folder: PathBuf, owner: String },
    #[error("data folder {path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error(
        "data folder {folder} holds chunks and blocks of a server, which agent mode cannot keep; use another --storage.agent.path"
    )]
    OfServer { folder: PathBuf },
}

/// An open and locked data folder.
#[derive(Debug)]
pub(crate) struct DataDir {
    folder: PathBuf,
    boot: u32,
    crash_history: Option<CrashHistory>,
    safe_mode: Option<SafeMode>,
    safe_mode_over: AtomicBool,
    opened: Instant,
    stop: AtomicBool,
    _lock: File,
}

/// Makes an error of a path.
pub(crate) fn io_error(path: &Path) -> impl FnOnce(io::Error) -> OpenError + use<> {
    let path = path.to_owned();
    move |source| OpenError::Io { path, source }
}

impl DataDir {
    /// Locks the folder, counts this start, and finds out how the runs before have ended; gives the logs that they left.
    /// After three crashes within `safe_mode_window` there is safe mode; zero: never, and crashes are not counted.
    pub fn open(folder: &Path, safe_mode_window: Duration) -> Result<(DataDir, Logs), OpenError> {
        for name in ["", LOG, CHUNKS] {
            let path = folder.join(name);
            std::fs::create_dir_all(&path).map_err(io_error(&path))?;
        }
        // promtool alone wants it.
        if let Err(error) = std::fs::create_dir_all(folder.join("wal")) {
            tracing::warn!(%error, "the folder wal cannot be made; promtool will not open the data folder");
        }
        DataDir::lock(folder, safe_mode_window)
    }

    /// The same for a folder that has logs and neither chunks nor blocks.
    pub fn open_for_logs(folder: &Path, safe_mode_window: Duration) -> Result<(DataDir, Logs), OpenError> {
        if folder.join(CHUNKS).exists() {
            return Err(OpenError::OfServer { folder: folder.to_owned() });
        }
        for name in ["", LOG] {
            let path = folder.join(name);
            std::fs::create_dir_all(&path).map_err(io_error(&path))?;
        }
        DataDir::lock(folder, safe_mode_window)
    }

    fn lock(folder: &Path, safe_mode_window: Duration) -> Result<(DataDir, Logs), OpenError> {
        let lock = take_lock(folder)?;
        let window = safe_mode_window;
        let crash_history = (!window.is_zero()).then(|| CrashHistory::open(folder, now_ms(), window));
        let logs = logs_in(&folder.join(LOG)).map_err(io_error(&folder.join(LOG)))?;
        let safe_mode = crash_history.as_ref().filter(|history| history.is_safe_mode()).map(|history| {
            let samples_max = safe_mode::samples_max(&folder.join(LOG), &logs);
            SafeMode { crashes: history.crashes(), samples_max, lasts: window }
        });
        if let Some(safe_mode) = &safe_mode {
            tracing::error!("safe mode after {safe_mode}");
        }
        let boot = next_boot(folder, &logs);
        let dir = DataDir {
            folder: folder.to_owned(),
            boot,
            crash_history,
            safe_mode,
            safe_mode_over: AtomicBool::new(false),
            opened: Instant::now(),
            stop: AtomicBool::new(false),
            _lock: lock,
        };
        Ok((dir, logs))
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Number of this start: part of the names of its logs.
    pub fn boot(&self) -> u32 {
        self.boot
    }

    pub fn log_folder(&self) -> PathBuf {
        let folder = self.folder.join(LOG);
        // Whoever opens it through io_uring needs an absolute name.
        std::path::absolute(&folder).unwrap_or(folder)
    }

    pub fn retained_logs_folder(&self) -> PathBuf {
        self.folder.join(RETAINED_LOGS)
    }

    pub fn chunks_folder(&self) -> PathBuf {
        self.folder.join(CHUNKS)
    }

    /// Moves a damaged file aside, for somebody to look at.
    pub fn quarantine(&self, path: &Path) -> io::Result<()> {
        let aside = self.folder.join(QUARANTINE);
        std::fs::create_dir_all(&aside)?;
        let name = path.file_name().unwrap_or(path.as_os_str());
        std::fs::rename(path, aside.join(name))?;
        tracing::error!(file = %path.display(), "the damaged file is set aside in {QUARANTINE}/");
        Ok(())
    }

    /// For how long it has been open.
    pub fn age(&self) -> Duration {
        self.opened.elapsed()
    }

    /// Has the threads end soon.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    pub fn is_stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Set when the threads are to end, for work that looks at it in between.
    pub fn stop_flag(&self) -> &AtomicBool {
        &self.stop
    }

    /// What holds in safe mode, while it lasts.
    pub fn safe_mode(&self) -> Option<&SafeMode> {
        self.safe_mode.as_ref().filter(|_| !self.safe_mode_over.load(Ordering::Relaxed))
    }

    /// How many crashes this start found within the window.
    pub fn crashes(&self) -> usize {
        self.crash_history.as_ref().map_or(0, CrashHistory::crashes)
    }

    /// Ends safe mode when it has lasted.
    pub fn end_safe_mode_if_due(&self) {
        let Some(safe_mode) = self.safe_mode().filter(|safe_mode| self.age() >= safe_mode.lasts) else { return };
        self.safe_mode_over.store(true, Ordering::Relaxed);
        tracing::info!(seconds = safe_mode.lasts.as_secs(), "safe mode ends: no crash since the start");
        if let Some(Err(error)) = self.crash_history.as_ref().map(CrashHistory::clear) {
            tracing::warn!(%error, "the crashes before safe mode could not be cleared");
        }
    }

    /// Records that the process ends in order: the next start finds no crash.
    pub fn record_clean_shutdown(&self) {
        if let Some(Err(error)) = self.crash_history.as_ref().map(CrashHistory::record_clean_shutdown) {
            tracing::warn!(%error, "clean shutdown could not be recorded; the next start will count this one as a crash");
        }
    }
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
    // The name is for people; a full disk does not keep the lock from holding.
    if let Err(error) = lock.set_len(0).and_then(|()| lock.write_all(owner.as_bytes())) {
        tracing::warn!(%error, "the lock file cannot say who holds it");
    }
    Ok(lock)
}

/// Counts the starts, durably, so that no two runs ever give a file the same name. Where that cannot be written, names that are
/// there tell which numbers are taken.
fn next_boot(folder: &Path, logs: &Logs) -> u32 {
    let path = folder.join("boot");
    let last = std::fs::read_to_string(&path).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0);
    let of_logs = logs.keys().map(|(boot, _)| *boot);
    let retained = logs_in(&folder.join(RETAINED_LOGS)).unwrap_or_default();
    let chunk_files = std::fs::read_dir(folder.join(CHUNKS)).into_iter().flatten().flatten();
    let of_chunks =
        chunk_files.filter_map(|entry| parse_chunk_file(&entry.file_name().to_string_lossy()).map(|(_, id)| id.boot));
    let seen = of_logs.chain(retained.keys().map(|(boot, _)| *boot)).chain(of_chunks).max().unwrap_or(0);
    let boot = seen.max(last).saturating_add(1);
    if let Err(error) = blocks::file::replace(&path, format!("{boot}\n").as_bytes()) {
        tracing::error!(%error, boot, "the number of this start cannot be written");
    }
    boot
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_takes_no_bytes_is_opened_and_numbers_are_not_given_twice() {
        let folder = tempfile::tempdir().unwrap();
        let window = Duration::from_secs(600);
        let (dir, _) = DataDir::open(folder.path(), window).unwrap();
        assert_eq!(dir.boot(), 1);
        drop(dir);
        // What replaces the files cannot be written any more.
        std::fs::create_dir_all(folder.path().join("boot.tmp/x")).unwrap();
        std::fs::create_dir_all(folder.path().join("starts.tmp/x")).unwrap();
        let open = || DataDir::open(folder.path(), window).unwrap().0.boot();
        assert_eq!(open(), 2);
        let log = crate::log::FileId { boot: 6, writer: 1, sequence: 3 };
        std::fs::write(folder.path().join(LOG).join(log.to_string()), b"").unwrap();
        assert_eq!(open(), 7);
        std::fs::write(folder.path().join(CHUNKS).join("7200000-8-1.chunks"), b"").unwrap();
        assert_eq!(open(), 9);
        std::fs::create_dir_all(folder.path().join(RETAINED_LOGS)).unwrap();
        let log = crate::log::FileId { boot: 11, ..log };
        std::fs::write(folder.path().join(RETAINED_LOGS).join(log.to_string()), b"").unwrap();
        assert_eq!(open(), 12);
    }
}
