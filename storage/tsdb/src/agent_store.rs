//! A data folder in agent mode: logs, for those who send them on, and nothing else.
//!
//! The folder holds `lock`, `boot`, `starts`, `log/` with the cores' logs, and `remote-write/` with links to those that are
//! still to be sent. What an earlier run left in `log/` is linked and removed: nobody replays it (decision 061).
//!
//! Invariants:
//!   * a log of an earlier run leaves `log/` only once it is linked, if anything is to be sent
//!   * the folder of a server is refused: its logs hold samples that are in no chunk yet
//!   * the thread ends when the last handle on the store is gone, or after [`AgentStore::stop`]

use crate::data_dir::{DataDir, OpenError, io_error};
use crate::log::{FileId, Logs, Options as LogOptions, RetainedLogs};
use crate::log_keeper::LogKeeper;
use crate::os::lower_priority;
use crate::safe_mode::SafeMode;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::Duration;

/// How often the thread looks whether safe mode is over.
const MAINTENANCE_EVERY: Duration = Duration::from_secs(1);

/// How a data folder is kept in agent mode.
#[derive(Clone, Debug)]
pub struct AgentOptions {
    pub folder: PathBuf,
    /// How late a sample with a timestamp of its own may come; 0 refuses all that are not in order.
    pub late_ms: i64,
    pub log: LogOptions,
    /// After three crashes within this time the folder is opened in safe mode, for as long. Zero: never.
    pub safe_mode_window: Duration,
    /// Whether anything is to be sent: then the logs of earlier runs are kept.
    pub keep_logs: bool,
}

/// An open data folder in agent mode.
pub struct AgentStore {
    options: AgentOptions,
    dir: Arc<DataDir>,
    logs: Arc<LogKeeper>,
    /// Log files that no head needs any more, for the thread that removes them.
    unused: Sender<Vec<FileId>>,
}

impl std::fmt::Debug for AgentStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AgentStore").field("folder", &self.options.folder).finish_non_exhaustive()
    }
}

impl AgentStore {
    /// Opens the folder, which nobody else may hold.
    ///
    /// # Errors
    /// If it cannot be made, locked or read, or is that of a server.
    pub fn open(options: AgentOptions) -> Result<Arc<AgentStore>, OpenError> {
        let folder = options.folder.clone();
        let (dir, old_logs) = DataDir::open_for_logs(&folder, options.safe_mode_window)?;
        let dir = Arc::new(dir);
        let logs = Arc::new(LogKeeper::new(dir.clone(), &Logs::new()));
        let retained = logs.retained();
        match if options.keep_logs { retained.link() } else { Ok(()) } {
            Ok(()) => logs.remove(&old_logs.into_values().flatten().collect::<Vec<_>>()),
            Err(error) => {
                tracing::error!(folder = %retained.folder().display(), %error, "logs of the last run cannot be linked; the next start tries again");
            }
        }
        let (unused, removed) = mpsc::channel::<Vec<FileId>>();
        let (of_thread, keeper) = (dir.clone(), logs.clone());
        let work = move || {
            lower_priority();
            while !of_thread.is_stopping() {
                match removed.recv_timeout(MAINTENANCE_EVERY) {
                    Ok(files) => keeper.remove(&files),
                    Err(RecvTimeoutError::Timeout) => of_thread.end_safe_mode_if_due(),
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            }
        };
        std::thread::Builder::new().name("logs".into()).spawn(work).map_err(io_error(&folder))?;
        Ok(Arc::new(AgentStore { options, dir, logs, unused }))
    }

    /// Number of this start: part of the names of its logs.
    pub fn boot(&self) -> u32 {
        self.dir.boot()
    }

    pub fn options(&self) -> &AgentOptions {
        &self.options
    }

    pub fn folder(&self) -> &Path {
        self.dir.folder()
    }

    /// Where the logs are written.
    pub fn log_folder(&self) -> PathBuf {
        self.dir.log_folder()
    }

    /// Logs that are still to be sent.
    pub fn retained_logs(&self) -> RetainedLogs {
        self.logs.retained()
    }

    /// Bytes of the logs that are written and of those that are still to be sent, each file once.
    pub fn log_bytes(&self) -> io::Result<u64> {
        self.logs.retained().bytes()
    }

    /// Has log files removed that no head needs any more.
    pub fn remove_logs(&self, files: Vec<FileId>) {
        // Without the thread the process is ending, and the next start removes them.
        let _ = self.unused.send(files);
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

    /// Ends the thread soon: for the end of the process.
    pub fn stop(&self) {
        self.dir.stop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(folder: &Path, keep_logs: bool) -> AgentOptions {
        AgentOptions {
            folder: folder.to_owned(),
            late_ms: 0,
            log: LogOptions::default(),
            safe_mode_window: Duration::ZERO,
            keep_logs,
        }
    }

    #[test]
    fn logs_of_earlier_runs_are_linked_and_leave_the_folder_of_logs() {
        for keep_logs in [true, false] {
            let folder = tempfile::tempdir().unwrap();
            drop(AgentStore::open(options(folder.path(), keep_logs)).unwrap());
            let name = FileId { boot: 1, writer: 0, sequence: 1 }.to_string();
            std::fs::write(folder.path().join("log").join(&name), b"rows").unwrap();
            let open = || AgentStore::open(options(folder.path(), keep_logs));
            // The thread of the last run has to let go of the lock.
            let store =
                (0..200).find_map(|_| open().ok().or_else(|| (std::thread::sleep(Duration::from_millis(10)), None).1));
            let store = store.unwrap();
            assert_eq!(store.boot(), 2);
            assert!(!folder.path().join("log").join(&name).exists());
            assert_eq!(folder.path().join("remote-write").join(&name).exists(), keep_logs);
            assert_eq!(store.log_bytes().unwrap(), if keep_logs { 4 } else { 0 });
        }
    }

    #[test]
    fn the_folder_of_a_server_is_refused_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("head")).unwrap();
        let error = AgentStore::open(options(folder.path(), true)).unwrap_err();
        assert!(error.to_string().contains("--storage.agent.path"), "{error}");
        assert!(!folder.path().join("log").exists());
    }
}
