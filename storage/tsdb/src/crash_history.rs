//! How the runs before have ended: after three crashes in a short time the next start is in safe mode.
//!
//! The file `starts` is in the data folder while a process runs, and after one that did not end in order. It holds a line
//! for each crash that a start has noticed lately: milliseconds of that start.
//!
//! Invariants:
//!   * who opens holds the folder's lock
//!   * a file that cannot be read counts as one crash and no more: it alone never asks for safe mode

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

const FILE: &str = "starts";
/// Crashes within the window after which a start is in safe mode.
pub(crate) const CRASHES: usize = 3;
/// Crashes that are remembered, the newest.
const CRASHES_STORED_MAX: usize = 64;

/// The file of this start.
#[derive(Debug)]
pub(crate) struct CrashHistory {
    path: PathBuf,
    /// Times at which crashes were noticed within the window, this start included.
    crashes: Vec<i64>,
}

impl CrashHistory {
    /// Notes the start at `now`, and that the run before has crashed, if it has. What cannot be read counts as one crash; what
    /// cannot be written is not known to the next start.
    pub fn open(folder: &Path, now: i64, window: Duration) -> CrashHistory {
        let path = folder.join(FILE);
        let mut crashes: Vec<i64> = match std::fs::read(&path) {
            Ok(bytes) => {
                let text = String::from_utf8_lossy(&bytes);
                let before = text.lines().filter_map(|line| line.trim().parse::<i64>().ok());
                before.chain([now]).collect()
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => {
                tracing::error!(file = %path.display(), %error, "the list of crashes cannot be read");
                vec![now]
            }
        };
        // A clock that was set back leaves crashes in the future; they count as long as those of the past.
        crashes.retain(|at| u128::from(at.abs_diff(now)) <= window.as_millis());
        crashes.drain(..crashes.len().saturating_sub(CRASHES_STORED_MAX));
        let history = CrashHistory { path, crashes };
        if let Err(error) = history.write(&history.crashes) {
            tracing::error!(file = %history.path.display(), %error, "the list of crashes cannot be written");
        }
        history
    }

    /// How many crashes there were within the window.
    pub fn crashes(&self) -> usize {
        self.crashes.len()
    }

    /// Whether this start is in safe mode.
    pub fn is_safe_mode(&self) -> bool {
        self.crashes.len() >= CRASHES
    }

    /// The crashes are over: from now on it takes as many as in the beginning.
    pub fn clear(&self) -> io::Result<()> {
        self.write(&[])
    }

    /// The process ends in order.
    pub fn record_clean_shutdown(&self) -> io::Result<()> {
        match std::fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn write(&self, crashes: &[i64]) -> io::Result<()> {
        let lines: String = crashes.iter().map(|at| format!("{at}\n")).collect();
        blocks::file::replace(&self.path, lines.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_secs(600);

    /// What happens to a process, second by second, and whether it is then in safe mode.
    #[track_caller]
    fn check(what: &[(i64, &str)], safe_mode: bool) {
        let folder = tempfile::tempdir().unwrap();
        let mut last: Option<CrashHistory> = None;
        for (second, what) in what {
            let running = || last.as_ref().expect("it runs");
            match *what {
                "start" => last = Some(CrashHistory::open(folder.path(), second * 1000, WINDOW)),
                "end" => CrashHistory::record_clean_shutdown(running()).unwrap(),
                "clear" => CrashHistory::clear(running()).unwrap(),
                text => std::fs::write(folder.path().join(FILE), text).unwrap(),
            }
        }
        let last = last.expect("it was started");
        assert_eq!(last.is_safe_mode(), safe_mode, "{what:?}: {} crashes", last.crashes());
    }

    #[test]
    fn the_third_crash_asks_for_safe_mode() {
        check(&[(0, "start")], false);
        check(&[(0, "start"), (9000, "start"), (9060, "start")], false);
        check(&[(0, "start"), (9000, "start"), (9060, "start"), (9120, "start")], true);
        check(&[(0, "start"), (9000, "start"), (9060, "start"), (9120, "start"), (9180, "start")], true);
        check(&[(0, "start"), (9000, "start"), (9060, "start"), (9661, "start")], false);
    }

    #[test]
    fn an_end_in_order_and_forgiveness_begin_anew() {
        check(&[(0, "start"), (10, "start"), (20, "start"), (25, "end"), (30, "start")], false);
        check(&[(0, "start"), (10, "start"), (20, "start"), (30, "start"), (35, "clear"), (40, "start")], false);
    }

    #[test]
    fn a_file_of_anything_is_one_crash() {
        check(&[(0, "\u{0}\n-\nx"), (10, "start")], false);
        check(&[(0, ""), (10, "start"), (11, "start")], false);
        check(&[(0, "9000\n8000\n9223372036854775807\n-9223372036854775808\n"), (10, "start")], true);
    }
}
