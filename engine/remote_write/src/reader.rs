//! From the logs to batches, for one endpoint or for several that get the same ones. A reader runs on a thread of its own, and
//! waits when its endpoints do.
//!
//! Every endpoint begins with a reader of its own. Once it has read all there is, it hands its endpoint over to one that
//! makes equal batches (`hosts`), and ends; an endpoint that lags behind the others, is stopped, or needs another format
//! gets a reader of its own again (`output`), which begins where the batches for it end.
//!
//! Invariants:
//!   * logs of an earlier start are read to their end before those of a later one: no sample overtakes an older one
//!   * logs of one start are read together in the order of their rows' times
//!   * a batch ends where a log of an earlier start ends, so what a crash may repeat is not in one request with what is new
//!   * endpoints change their reader between two batches of each log: no sample is left out, and none comes twice

use crate::batch::BatchBuilder;
use crate::cursor::{LogId, LogPosition, SendCursor};
use crate::hosts::{Guest, Hosts, Offer, Role};
use series::Timestamp;
use series::clock::now_ms;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, sync_channel};
use std::time::{Duration, Instant};
use tsdb::log::{LoggedExemplars, Logs, RetainedLogs};
use tsdb::log_reader::{BatchOffset, LogSink, ReadLimit, Tail, TailSample, TailStatus};

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
/// Rounds in which a reader that has read all there is gets to the end again, or to where another one stands.
const CATCH_UP_ROUNDS_MAX: usize = 64;
/// How long a host waits for a guest to get to where it stands, and how long a guest waits for an offer.
const GUEST_WITHIN: Duration = Duration::from_millis(500);
const OFFER_WITHIN: Duration = Duration::from_secs(1);
/// Pause between two attempts to hand endpoints over.
const VISIT_EVERY: Duration = Duration::from_secs(2);
/// How long an endpoint that was separated from others goes alone at least.
const ALONE_FOR: Duration = Duration::from_secs(10);
/// Number of the next reader.
static READERS: AtomicU64 = AtomicU64::new(1);

/// Where a reader begins.
#[derive(Clone)]
pub struct Start {
    pub logs: RetainedLogs,
    /// Number of this start of the process.
    pub boot: u32,
    /// Whether what is in the logs of this start already is skipped.
    pub skip: bool,
}

pub struct Reader {
    number: u64,
    start: Start,
    tails: BTreeMap<LogId, TailedLog>,
    looked: Option<Instant>,
    /// Files that writers had then. Of files that they had removed all rows were written, and are read at the next end of
    /// the log.
    in_use: Logs,
    batches: BatchBuilder,
    hosts: Arc<Hosts>,
    /// Those who want to hand their endpoints over, while this is a host.
    guests: Option<Receiver<Guest>>,
    /// Before this time it does not look for a host.
    alone_until: Instant,
    /// Whether it looked for logs since nothing is appended to them any more.
    ends_with_logs: bool,
}

#[derive(Clone)]
struct TailedLog {
    tail: Tail,
    /// It is read to its end before anything is sent.
    skips: bool,
}

/// Takes what a log says for the batches.
struct Sink<'b> {
    batches: &'b mut BatchBuilder,
    log: LogId,
    skips: bool,
}

impl LogSink for Sink<'_> {
    fn sample(&mut self, told: TailSample) {
        if !self.skips {
            self.batches.add(self.log, &told);
        }
    }

    fn exemplars(&mut self, exemplars: LoggedExemplars, border: BatchOffset) {
        if !self.skips {
            self.batches.add_exemplars(self.log, exemplars, border);
        }
    }
}

/// Where a reader with this cursor stands in a log; nothing if it is through with it.
fn border_in(cursor: &SendCursor, log: LogId) -> Option<BatchOffset> {
    cursor.position(log).map(|position| position.border)
}

impl Reader {
    pub fn new(start: Start, batches: BatchBuilder, hosts: Arc<Hosts>) -> Reader {
        Reader {
            number: READERS.fetch_add(1, Ordering::Relaxed),
            start,
            tails: BTreeMap::new(),
            looked: None,
            in_use: Logs::new(),
            batches,
            hosts,
            guests: None,
            alone_until: Instant::now(),
            ends_with_logs: false,
        }
    }

    /// Reads on a thread of its own until all endpoints are stopped or with another reader, or the logs end for good.
    pub fn spawn(self) -> io::Result<()> {
        std::thread::Builder::new().name("remote-write".into()).spawn(move || self.run()).map(drop)
    }

    fn run(mut self) {
        loop {
            self.batches.outputs.wait_for_capacity();
            if self.batches.outputs.is_stopped() {
                break;
            }
            match self.step() {
                Ok(TailStatus::End) => break,
                Ok(TailStatus::More) => {}
                Err(error) => {
                    tracing::error!(%error, "reading the logs for remote write failed; it is tried again");
                    std::thread::sleep(AGAIN_AFTER);
                }
            }
        }
        self.hosts.leave(self.number);
        self.batches.finish();
        self.batches.outputs.wait_for_all();
    }

    /// Reads for a while. Returns the end once nothing follows any more.
    fn step(&mut self) -> io::Result<TailStatus> {
        // Before the round: what is appended until then is read in it.
        let is_last = self.batches.outputs.end_with_logs();
        if is_last && !std::mem::replace(&mut self.ends_with_logs, true) {
            self.looked = None;
        }
        let has_old = self.has_old_logs();
        let reached = self.round()?;
        for alone in self.split() {
            if let Err(error) = alone.spawn() {
                tracing::error!(%error, "starting a thread failed; an endpoint of remote write stops until the next reload");
            }
        }
        if reached == TailStatus::End && is_last && !has_old {
            return Ok(TailStatus::End);
        }
        if reached == TailStatus::End && !is_last {
            self.meet()?;
            if !self.batches.outputs.is_empty() {
                std::thread::sleep(POLL);
            }
        }
        Ok(TailStatus::More)
    }

    /// Whether there are logs of earlier starts that are not read to their end.
    fn has_old_logs(&self) -> bool {
        self.tails.keys().any(|(boot, _)| *boot != self.start.boot)
    }

    /// Readers for the endpoints that have to go on without the others. They begin where this one stands.
    pub fn split(&mut self) -> Vec<Reader> {
        if !self.batches.outputs.must_split() {
            return Vec::new();
        }
        self.batches.finish();
        let (settings, cursor) = (self.batches.settings().clone(), self.batches.cursor.clone());
        let alone = self.batches.outputs.split().into_iter().map(|outputs| {
            let batches = BatchBuilder::new(settings.clone(), cursor.clone(), outputs);
            Reader {
                tails: self.tails.clone(),
                looked: self.looked,
                in_use: self.in_use.clone(),
                alone_until: Instant::now() + ALONE_FOR,
                ..Reader::new(self.start.clone(), batches, self.hosts.clone())
            }
        });
        alone.collect()
    }

    /// Hands the endpoints over to a reader that makes equal batches, or takes those of others. Everything there is has been
    /// read.
    fn meet(&mut self) -> io::Result<()> {
        let outputs = &self.batches.outputs;
        let is_alone = outputs.is_empty() || outputs.has_backlog() || Instant::now() < self.alone_until;
        if is_alone || self.has_old_logs() {
            return Ok(());
        }
        match self.hosts.role(self.number, self.batches.settings(), outputs.format(), &mut self.guests) {
            Role::Host => {
                while let Some(guest) = self.guests.as_ref().and_then(|guests| guests.try_recv().ok()) {
                    self.host(&guest)?;
                }
                Ok(())
            }
            Role::Guest(host) => self.visit(&host),
        }
    }

    fn host(&mut self, guest: &Guest) -> io::Result<()> {
        if !self.catch_up()? {
            return Ok(());
        }
        let (to, outputs) = sync_channel(0);
        let offer = Offer { cursor: self.batches.cursor.clone(), outputs: to };
        if guest.offers.try_send(offer).is_ok()
            && let Ok(outputs) = outputs.recv_timeout(GUEST_WITHIN)
        {
            self.batches.outputs.join(outputs);
        }
        Ok(())
    }

    /// Takes the endpoints of another reader, without threads.
    #[cfg(test)]
    pub fn take_over(&mut self, guest: &mut Reader) -> io::Result<bool> {
        if guest.batches.outputs.has_backlog() || !self.catch_up()? || !guest.go_to(&self.batches.cursor)? {
            return Ok(false);
        }
        self.batches.outputs.join(guest.batches.outputs.take().expect("it has an endpoint"));
        Ok(true)
    }

    /// Whether an endpoint has room for more, as a thread would wait for it.
    #[cfg(test)]
    pub fn has_capacity(&mut self) -> bool {
        self.batches.outputs.has_capacity()
    }

    /// Reads as far as any other reader has got until now, and sends what that gives. Returns whether it stands at a border of
    /// each log then, so that the cursor says where.
    fn catch_up(&mut self) -> io::Result<bool> {
        self.looked = None;
        for _ in 0..CATCH_UP_ROUNDS_MAX {
            if self.round()? == TailStatus::End {
                self.batches.finish();
                return Ok(self.tails.values().all(|tailed| tailed.tail.is_at_border()));
            }
        }
        Ok(false)
    }

    fn visit(&mut self, host: &Sender<Guest>) -> io::Result<()> {
        let (offers, offer) = sync_channel(1);
        // A host that has ended is forgotten after a while.
        if host.send(Guest { offers }).is_err() {
            return Ok(());
        }
        self.alone_until = Instant::now() + VISIT_EVERY;
        let Ok(Offer { cursor, outputs: to }) = offer.recv_timeout(OFFER_WITHIN) else { return Ok(()) };
        if self.go_to(&cursor)?
            && let Some(outputs) = self.batches.outputs.take()
            && let Err(refused) = to.send(outputs)
        {
            self.batches.outputs.join(refused.0);
        }
        Ok(())
    }

    /// Reads up to where another reader stands, and sends what that gives. Returns whether it is there, and not further.
    fn go_to(&mut self, cursor: &SendCursor) -> io::Result<bool> {
        self.look()?;
        for _ in 0..CATCH_UP_ROUNDS_MAX {
            if self.advance(Some(cursor))? == TailStatus::End {
                break;
            }
        }
        self.batches.finish();
        let stands_there = |log: &LogId| {
            let tail = self.tails.get(log).map(|tailed| &tailed.tail);
            tail.is_some_and(|tail| tail.is_at_border() && Some(tail.border()) == border_in(cursor, *log))
        };
        Ok(self.tails.keys().chain(cursor.positions.keys()).all(stands_there))
    }

    /// The next round looks for new logs.
    #[cfg(test)]
    pub fn look_again(&mut self) {
        self.looked = None;
    }

    /// Reads for a while.
    pub fn round(&mut self) -> io::Result<TailStatus> {
        if self.looked.is_none_or(|looked| looked.elapsed() >= LOOK_EVERY) {
            self.look()?;
            self.looked = Some(Instant::now());
        }
        let reached = self.advance(None);
        if matches!(reached, Ok(TailStatus::End)) {
            self.batches.flush_window();
        }
        self.batches.finish_if_late();
        reached
    }

    /// Reads for a while, at most to a position.
    fn advance(&mut self, to: Option<&SendCursor>) -> io::Result<TailStatus> {
        self.batches.set_now(now_ms());
        let oldest = self.tails.keys().next().map(|(boot, _)| *boot);
        let border = |log: LogId| to.and_then(|to| border_in(to, log));
        let is_there = |tailed: &TailedLog, log: LogId| {
            tailed.tail.is_at_border() && border(log).is_some_and(|border| tailed.tail.border() >= border)
        };
        let is_unread =
            |(log, tailed): (&LogId, &TailedLog)| (Some(log.0) == oldest && !is_there(tailed, *log)).then_some(*log);
        let mut unread: Vec<LogId> = self.tails.iter().filter_map(is_unread).collect();
        let mut failed = None;
        // The log that is furthest behind goes first, and not far beyond the next one: a target that moved between cores has
        // older rows in one log and newer ones in another.
        for _ in 0..READS_PER_ROUND {
            unread.sort_unstable_by_key(|log| self.tails.get(log).map(|tailed| tailed.tail.row_time()));
            let Some(log) = unread.first().copied() else { break };
            let next = unread.get(1).and_then(|log| self.tails.get(log)).map(|tailed| tailed.tail.row_time());
            let row = next.map_or(Timestamp(i64::MAX), |next| {
                let own = self.tails[&log].tail.row_time();
                next.max(own).plus_ms(AHEAD_MS_MAX)
            });
            match self.read(log, ReadLimit { row, border: border(log) }) {
                Ok(TailStatus::More) if self.tails.get(&log).is_some_and(|tailed| !is_there(tailed, log)) => {}
                Ok(_) => {
                    unread.swap_remove(0);
                }
                // The others go on.
                Err(error) => {
                    failed = Some(error);
                    unread.swap_remove(0);
                }
            }
        }
        let reached = if unread.is_empty() { TailStatus::End } else { TailStatus::More };
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

    /// Reads a log for a while, up to a limit.
    fn read(&mut self, log: LogId, limit: ReadLimit) -> io::Result<TailStatus> {
        let Some(TailedLog { tail, skips }) = self.tails.get_mut(&log) else { return Ok(TailStatus::End) };
        let batches = &mut self.batches;
        let untold = tail.losses();
        let reached = tail.read_until(limit, &mut Sink { batches, log, skips: *skips })?;
        if !*skips {
            batches.outputs.stats().for_each(|stats| stats.add_losses(untold, tail.losses()));
        }
        batches.cursor.positions.insert(log, LogPosition { border: tail.border(), first: tail.first_needed() });
        if reached == TailStatus::End {
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
