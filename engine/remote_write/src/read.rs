//! One endpoint's reader: from the logs to batches. It runs on a thread of its own, and waits when the endpoint does.
//!
//! Invariants:
//!   * logs of an earlier start are read to their end before those of a later one: no sample overtakes an older one
//!   * a batch's cursor is a place before which every sample is in the batch or in one before it

use crate::cursor::{Cursor, LogId, Place};
use crate::flight::Batch;
use crate::labels::Outward;
use crate::stats::Stats;
use ahash::AHashMap;
use config::{RemoteWrite, WriteMessage};
use remote::{Message, WriteBuilder};
use series::Labels;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::mpsc;
use tsdb::log::{Border, KeptLogs, Logs, Reached, Tail, TargetKey, Told};

/// How often to look for more at the end of a log.
const POLL: Duration = Duration::from_millis(100);
/// How often to look for more logs.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Wait after a log could not be read.
const AGAIN_AFTER: Duration = Duration::from_secs(5);

/// What a reader is told at its start.
pub struct Start {
    pub logs: KeptLogs,
    /// Number of this start of the process.
    pub boot: u32,
    /// Whether what is in the logs of this start already is of no interest.
    pub skip: bool,
}

pub struct Reader {
    start: Start,
    tails: BTreeMap<LogId, Following>,
    looked: Option<Instant>,
    /// What writers had then: of what they had let go, all rows were written, and are read at the next end of the log.
    in_use: Logs,
    outbox: Outbox,
    stop: Arc<AtomicBool>,
}

struct Following {
    tail: Tail,
    /// It is read to its end before anything is told.
    skips: bool,
}

/// Batches while they are made.
pub struct Outbox {
    outward: Outward,
    /// The last target, what its samples are told apart by, and the labels that it gives.
    given: Option<(Arc<TargetKey>, u64, Labels)>,
    builder: WriteBuilder,
    samples_max: usize,
    deadline: Duration,
    age_max: Duration,
    batches: mpsc::Sender<Batch>,
    stats: Arc<Stats>,
    /// Where everything that is in batches, or in this one, ends.
    cursor: Cursor,
    sources: AHashMap<u64, Option<i64>>,
    newest_ms: i64,
    begun: Option<Instant>,
    /// When the last batch was cut, and where it ended.
    cut_at: Instant,
    cut_cursor: Cursor,
}

impl Reader {
    pub fn new(start: Start, outbox: Outbox, stop: Arc<AtomicBool>) -> Reader {
        Reader { start, tails: BTreeMap::new(), looked: None, in_use: Logs::new(), outbox, stop }
    }

    /// Reads until it is stopped.
    pub fn run(mut self) {
        while !self.stop.load(Ordering::Relaxed) {
            match self.round() {
                Ok(Reached::More) => {}
                Ok(Reached::End) => std::thread::sleep(POLL),
                Err(error) => {
                    tracing::error!(%error, "remote write cannot read the logs; it is tried again");
                    std::thread::sleep(AGAIN_AFTER);
                }
            }
        }
        self.outbox.cut();
    }

    fn round(&mut self) -> io::Result<Reached> {
        if self.looked.is_none_or(|looked| looked.elapsed() >= LOOK_EVERY) {
            self.look()?;
            self.looked = Some(Instant::now());
        }
        let mut all = Reached::End;
        let oldest = self.tails.keys().next().map(|(boot, _)| *boot);
        let logs: Vec<LogId> = self.tails.keys().copied().filter(|(boot, _)| Some(*boot) == oldest).collect();
        let mut failed = None;
        for log in logs {
            match self.read(log) {
                Ok(Reached::More) => all = Reached::More,
                Ok(Reached::End) => {}
                // The others go on.
                Err(error) => failed = Some(error),
            }
        }
        self.outbox.cut_if_late();
        failed.map_or(Ok(all), Err)
    }

    /// Finds logs that are new.
    fn look(&mut self) -> io::Result<()> {
        let Start { logs, boot, skip } = &mut self.start;
        for log in logs.files()?.into_keys() {
            let Some(place) = self.outbox.cursor.place(log).filter(|_| !self.tails.contains_key(&log)) else {
                continue;
            };
            let is_live = log.0 == *boot;
            let tail = Tail::new(logs.folder(), log, is_live, place.first, place.border);
            self.tails.insert(log, Following { tail, skips: is_live && *skip });
            self.outbox.cursor.places.insert(log, place);
        }
        self.in_use = logs.in_use()?;
        // Logs that begin from now on are told from their beginning.
        *skip = false;
        Ok(())
    }

    fn read(&mut self, log: LogId) -> io::Result<Reached> {
        let Some(Following { tail, skips }) = self.tails.get_mut(&log) else { return Ok(Reached::End) };
        let outbox = &mut self.outbox;
        let untold = tail.untold();
        let reached = tail.read(|told| {
            if !*skips {
                outbox.take(log, &told);
            }
        })?;
        if !*skips {
            outbox.stats.add_untold(untold, tail.untold());
        }
        outbox.cursor.places.insert(log, Place { border: tail.border(), first: tail.first_needed() });
        if reached == Reached::End {
            *skips = false;
            if log.0 != self.start.boot {
                self.tails.remove(&log);
                outbox.cursor.places.insert(log, Place::END);
                outbox.cursor.move_to(self.tails.keys().next().map_or(self.start.boot, |(boot, _)| *boot));
                outbox.cut();
            } else if let Some(first) = self.in_use.remove(&log).and_then(|files| files.first().copied()) {
                tail.forget_before(first.sequence);
            }
        }
        Ok(reached)
    }
}

impl Outbox {
    /// Makes batches for an endpoint from where its cursor stands.
    pub fn new(
        settings: &RemoteWrite,
        outward: Outward,
        cursor: Cursor,
        batches: mpsc::Sender<Batch>,
        stats: Arc<Stats>,
    ) -> Outbox {
        let message = match settings.protobuf_message {
            WriteMessage::V1 => Message::V1,
            WriteMessage::V2 => Message::V2,
        };
        let queue = &settings.queue_config;
        Outbox {
            outward,
            given: None,
            builder: WriteBuilder::new(message),
            samples_max: queue.max_samples_per_send.max(1) as usize,
            deadline: queue.batch_send_deadline,
            age_max: queue.sample_age_limit,
            batches,
            stats,
            cut_cursor: cursor.clone(),
            cursor,
            sources: AHashMap::new(),
            newest_ms: i64::MIN,
            begun: None,
            cut_at: Instant::now(),
        }
    }

    fn take(&mut self, log: LogId, told: &Told) {
        let Told { target, group, slot, sample, row, border } = told;
        let at = sample.timestamp.0;
        self.stats.read(at);
        if !self.age_max.is_zero() && at < now_ms() - self.age_max.as_millis() as i64 {
            self.stats.dropped_too_old.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let (_, source, given) = match &self.given {
            Some(given) if Arc::ptr_eq(&given.0, target) => given,
            _ => {
                let given = self.outward.of_target(&target.labels);
                self.given.insert((Arc::clone(target), target.labels.hash64(), given))
            }
        };
        let labels = self.outward.of_slot(group, *slot, given);
        let samples = [(at, sample.value)];
        if self.outward.rules.is_empty() {
            self.builder.add(labels.iter().copied(), &samples);
        } else if let Some(labels) = self.outward.relabel(&labels) {
            self.builder.add(labels.iter(), &samples);
        } else {
            self.stats.dropped_by_rules.fetch_add(1, Ordering::Relaxed);
            return;
        }
        // By labels: late samples, and a target with another path, have other ids.
        let row = Some(row.0);
        let of_source = self.sources.entry(*source).or_insert(row);
        if *of_source != row {
            *of_source = None;
        }
        self.newest_ms = self.newest_ms.max(at);
        self.begun.get_or_insert_with(Instant::now);
        if self.builder.samples() >= self.samples_max {
            self.move_to(log, *border);
            self.cut();
        }
    }

    fn move_to(&mut self, log: LogId, border: Border) {
        if let Some(place) = self.cursor.places.get_mut(&log) {
            place.border = place.border.max(border);
        }
    }

    /// Cuts what has waited long enough; without samples, a batch that says how far the reader is.
    fn cut_if_late(&mut self) {
        let is_late = match self.begun {
            Some(begun) => begun.elapsed() >= self.deadline,
            None => self.cut_at.elapsed() >= LOOK_EVERY && self.cursor != self.cut_cursor,
        };
        if is_late {
            self.cut();
        }
    }

    /// Hands a batch over; waits while too many are under way.
    fn cut(&mut self) {
        let samples = self.builder.samples();
        let body = if samples > 0 { remote::pack(&self.builder.finish()) } else { Vec::new() };
        let batch = Batch {
            body,
            samples,
            newest_ms: self.newest_ms,
            sources: self.sources.drain().collect(),
            cursor: self.cursor.clone(),
        };
        self.begun = None;
        self.newest_ms = i64::MIN;
        (self.cut_at, self.cut_cursor) = (Instant::now(), self.cursor.clone());
        self.stats.pending.fetch_add(samples as u64, Ordering::Relaxed);
        // Nobody takes it once the endpoint has been stopped.
        let _ = self.batches.blocking_send(batch);
    }
}

pub fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}
