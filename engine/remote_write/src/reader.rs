//! One endpoint's reader: from the logs to batches. It runs on a thread of its own, and waits when the endpoint does.
//!
//! Invariants:
//!   * logs of an earlier start are read to their end before those of a later one: no sample overtakes an older one
//!   * logs of one start are read together in the order of their rows' times
//!   * a batch ends where a log of an earlier start ends, so what a crash may repeat is not in one request with what is new

use crate::batch::BatchBuilder;
use crate::cursor::{LogId, LogPosition};
use series::Timestamp;
use series::clock::now_ms;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tsdb::log::{KeptLogs, Logs};
use tsdb::log_reader::{Reached, Tail};

/// How often to look for more at the end of a log.
const POLL: Duration = Duration::from_millis(100);
/// How often to look for more logs.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Reads of logs, of some hundred kilobytes each, before the deadline of the open batch is looked at.
const READS_PER_ROUND: usize = 16;
/// How far a log may be read beyond the row time of the one that is furthest behind: less than the shortest scrape interval, so
/// that two rows of a target that moved do not change places.
const AHEAD_MS_MAX: i64 = 500;
/// Wait after a log could not be read.
const AGAIN_AFTER: Duration = Duration::from_secs(5);

/// Where a reader begins.
pub struct Start {
    pub logs: KeptLogs,
    /// Number of this start of the process.
    pub boot: u32,
    /// Whether what is in the logs of this start already is skipped.
    pub skip: bool,
}

pub struct Reader {
    start: Start,
    tails: BTreeMap<LogId, TailedLog>,
    looked: Option<Instant>,
    /// Files that writers had then. Of files that they had removed all rows were written, and are read at the next end of
    /// the log.
    in_use: Logs,
    batches: BatchBuilder,
    stop: Arc<AtomicBool>,
}

struct TailedLog {
    tail: Tail,
    /// It is read to its end before anything is sent.
    skips: bool,
}

impl Reader {
    pub fn new(start: Start, batches: BatchBuilder, stop: Arc<AtomicBool>) -> Reader {
        Reader { start, tails: BTreeMap::new(), looked: None, in_use: Logs::new(), batches, stop }
    }

    /// Reads until it is stopped.
    pub fn run(mut self) {
        while !self.stop.load(Ordering::Relaxed) {
            match self.round() {
                Ok(Reached::More) => {}
                Ok(Reached::End) => std::thread::sleep(POLL),
                Err(error) => {
                    tracing::error!(%error, "reading the logs for remote write failed; it is tried again");
                    std::thread::sleep(AGAIN_AFTER);
                }
            }
        }
        self.batches.finish();
    }

    /// The next round looks for new logs.
    #[cfg(test)]
    pub fn look_again(&mut self) {
        self.looked = None;
    }

    /// Reads for a while.
    pub fn round(&mut self) -> io::Result<Reached> {
        if self.looked.is_none_or(|looked| looked.elapsed() >= LOOK_EVERY) {
            self.look()?;
            self.looked = Some(Instant::now());
        }
        self.batches.set_now(now_ms());
        let oldest = self.tails.keys().next().map(|(boot, _)| *boot);
        let mut unread: Vec<LogId> = self.tails.keys().copied().filter(|(boot, _)| Some(*boot) == oldest).collect();
        let mut failed = None;
        // The log that is furthest behind goes first, and not far beyond the next one: a target that moved between cores has
        // older rows in one log and newer ones in another.
        for _ in 0..READS_PER_ROUND {
            unread.sort_unstable_by_key(|log| self.tails.get(log).map(|tailed| tailed.tail.row_time()));
            let Some(log) = unread.first().copied() else { break };
            let next = unread.get(1).and_then(|log| self.tails.get(log)).map(|tailed| tailed.tail.row_time());
            let last = next.map_or(Timestamp(i64::MAX), |next| {
                let own = self.tails[&log].tail.row_time();
                next.max(own).plus_ms(AHEAD_MS_MAX)
            });
            match self.read(log, last) {
                Ok(Reached::More) => {}
                Ok(Reached::End) => {
                    unread.swap_remove(0);
                }
                // The others go on.
                Err(error) => {
                    failed = Some(error);
                    unread.swap_remove(0);
                }
            }
        }
        if unread.is_empty() {
            self.batches.flush_window();
        }
        self.batches.finish_if_late();
        let reached = if unread.is_empty() { Reached::End } else { Reached::More };
        failed.map_or(Ok(reached), Err)
    }

    /// Finds logs that are new.
    fn look(&mut self) -> io::Result<()> {
        let Start { logs, boot, skip } = &mut self.start;
        for log in logs.files()?.into_keys() {
            let Some(position) = self.batches.cursor.position(log).filter(|_| !self.tails.contains_key(&log)) else {
                continue;
            };
            let is_live = log.0 == *boot;
            let tail = Tail::new(logs.folder(), log, is_live, position.first, position.border);
            self.tails.insert(log, TailedLog { tail, skips: is_live && *skip });
            self.batches.cursor.positions.insert(log, position);
        }
        self.in_use = logs.in_use()?;
        // Logs that begin from now on are told from their beginning.
        *skip = false;
        Ok(())
    }

    /// Reads a log for a while, up to a row time.
    fn read(&mut self, log: LogId, last: Timestamp) -> io::Result<Reached> {
        let Some(TailedLog { tail, skips }) = self.tails.get_mut(&log) else { return Ok(Reached::End) };
        let batches = &mut self.batches;
        let untold = tail.untold();
        let reached = tail.read_until(last, |told| {
            if !*skips {
                batches.add(log, &told);
            }
        })?;
        if !*skips {
            batches.stats.add_losses(untold, tail.untold());
        }
        batches.cursor.positions.insert(log, LogPosition { border: tail.border(), first: tail.first_needed() });
        if reached == Reached::End {
            *skips = false;
            if log.0 != self.start.boot {
                self.tails.remove(&log);
                batches.cursor.positions.insert(log, LogPosition::END);
                batches.cursor.move_to(self.tails.keys().next().map_or(self.start.boot, |(boot, _)| *boot));
                batches.finish();
            } else if let Some(first) = self.in_use.remove(&log).and_then(|files| files.first().copied()) {
                tail.forget_before(first.sequence);
            }
        }
        Ok(reached)
    }
}
