//! The endpoints that get the batches of one reader.
//!
//! A batch goes to all of them; its body is there once. The reader waits only while none of them has room, so that an endpoint
//! that is slow or away does not hold up the others: its batches are kept for it meanwhile, until it lags behind the others for
//! [`LAGS_FOR`] or by [`BACKLOG_BYTES_MAX`]. Then it gets a reader of its own, see `reader`.
//!
//! Invariant: an endpoint gets the batches in their order, and none is left out.

use crate::in_flight::Batch;
use crate::metadata::MetadataSnapshot;
use crate::protocol::{Format, Protocol};
use crate::stats::Stats;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

/// How long an endpoint may have batches waiting while others have none: a slow response is no reason to read for it alone.
const LAGS_FOR: Duration = Duration::from_secs(2);
/// Bytes of batches that wait for an endpoint. A window that is being sent may exceed it.
const BACKLOG_BYTES_MAX: usize = 16 << 20;
/// How often to look for room while several endpoints have none.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// What a reader still reads for an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadUntil {
    /// It is not stopped.
    Forever,
    /// To the end of the logs, to which nothing is appended any more.
    EndOfLogs,
    /// Nothing more.
    Now,
}

/// Tells a reader to stop. Its value only rises.
#[derive(Debug, Default)]
pub struct StopSignal(AtomicU8);

impl StopSignal {
    pub fn set(&self, until: ReadUntil) {
        self.0.fetch_max(until as u8, Ordering::Relaxed);
    }

    pub fn get(&self) -> ReadUntil {
        match self.0.load(Ordering::Relaxed) {
            0 => ReadUntil::Forever,
            1 => ReadUntil::EndOfLogs,
            _ => ReadUntil::Now,
        }
    }
}

/// An endpoint, as its reader sees it.
pub struct Output {
    batches: mpsc::Sender<Arc<Batch>>,
    /// Batches that its sender has no room for yet.
    backlog: VecDeque<Arc<Batch>>,
    backlog_bytes: usize,
    /// Since when it has had some, from a moment on at which others had none.
    lags_since: Option<Instant>,
    is_closed: bool,
    stop: Arc<StopSignal>,
    stats: Arc<Stats>,
    protocol: Arc<Protocol>,
    metadata: Arc<MetadataSnapshot>,
}

impl Output {
    /// `stop` is set once the endpoint gets no more than what it says.
    pub fn new(
        batches: mpsc::Sender<Arc<Batch>>,
        stop: Arc<StopSignal>,
        stats: Arc<Stats>,
        protocol: Arc<Protocol>,
        metadata: Arc<MetadataSnapshot>,
    ) -> Output {
        let (backlog, backlog_bytes, lags_since, is_closed) = (VecDeque::new(), 0, None, false);
        Output { batches, backlog, backlog_bytes, lags_since, is_closed, stop, stats, protocol, metadata }
    }

    fn is_stopped(&self) -> bool {
        self.stop.get() == ReadUntil::Now
    }

    fn add(&mut self, batch: Arc<Batch>) {
        self.stats.add(|kind| &kind.pending, batch.counts);
        self.backlog_bytes += batch.body.len();
        self.backlog.push_back(batch);
    }

    /// Sends as many batches as there is room for; with `waits` at least one.
    fn send(&mut self, mut waits: bool) {
        while let Some(batch) = self.backlog.pop_front() {
            let bytes = batch.body.len();
            let sent = match std::mem::take(&mut waits) {
                true => self.batches.blocking_send(batch).map_err(|error| TrySendError::Closed(error.0)),
                false => self.batches.try_send(batch),
            };
            match sent {
                Ok(()) => self.backlog_bytes -= bytes,
                Err(TrySendError::Full(batch)) => {
                    self.backlog.push_front(batch);
                    return;
                }
                Err(TrySendError::Closed(_)) => {
                    // The endpoint has been stopped, and takes no more.
                    self.backlog.clear();
                    (self.is_closed, self.backlog_bytes) = (true, 0);
                }
            }
        }
    }
}

/// How long endpoints are waited for.
#[derive(Clone, Copy)]
pub struct Patience {
    /// See [`LAGS_FOR`].
    pub lags_for: Duration,
    /// Whether the reader waits while no endpoint has room. Only a simulation does not.
    pub waits: bool,
}

impl Default for Patience {
    fn default() -> Patience {
        Patience { lags_for: LAGS_FOR, waits: true }
    }
}

/// All endpoints of a reader.
pub struct Outputs {
    all: Vec<Output>,
    patience: Patience,
    /// The format of the first one, also when it has gone.
    format: Format,
}

impl Outputs {
    pub fn new(first: Output, patience: Patience) -> Outputs {
        let format = first.protocol.format();
        let outputs = Outputs { all: vec![first], patience, format };
        outputs.note_count();
        outputs
    }

    pub fn len(&self) -> usize {
        self.all.len()
    }

    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// The format of new batches: that of the first endpoint.
    pub fn format(&self) -> Format {
        self.all.first().map_or(self.format, |first| first.protocol.format())
    }

    pub fn stats(&self) -> impl Iterator<Item = &Stats> {
        self.all.iter().map(|output| &*output.stats)
    }

    pub fn metadata(&self) -> Option<Arc<MetadataSnapshot>> {
        self.all.first().map(|first| first.metadata.clone())
    }

    /// Whether every endpoint has been stopped.
    pub fn is_stopped(&self) -> bool {
        self.all.iter().all(Output::is_stopped)
    }

    /// Whether no endpoint gets more than what the logs have now.
    pub fn end_with_logs(&self) -> bool {
        self.all.iter().all(|output| output.stop.get() != ReadUntil::Forever)
    }

    pub fn has_backlog(&self) -> bool {
        self.all.iter().any(|output| !output.backlog.is_empty())
    }

    /// Gives a batch to every endpoint. Waits while none of them has room for more.
    pub fn hand(&mut self, batch: Batch) {
        let batch = Arc::new(batch);
        self.all.iter_mut().for_each(|output| output.add(batch.clone()));
        self.wait_for_capacity();
    }

    /// Waits until an endpoint has no batches waiting, or there is none any more.
    pub fn wait_for_capacity(&mut self) {
        loop {
            if self.has_capacity() || !self.patience.waits {
                return;
            }
            match &mut self.all[..] {
                [alone] => alone.send(true),
                _ => std::thread::sleep(LOOK_AGAIN),
            }
        }
    }

    /// Sends what there is room for. Returns whether an endpoint has no batches waiting then, or there is none any more.
    pub fn has_capacity(&mut self) -> bool {
        self.send();
        self.all.is_empty() || self.all.iter().any(|output| output.backlog.is_empty())
    }

    /// Waits until no endpoint has batches waiting.
    pub fn wait_for_all(&mut self) {
        for output in &mut self.all {
            while !output.backlog.is_empty() {
                output.send(true);
            }
        }
        self.send();
    }

    /// Sends what there is room for, and drops endpoints that are gone.
    fn send(&mut self) {
        self.format = self.format();
        self.all.iter_mut().for_each(|output| output.send(false));
        let before = self.all.len();
        self.all.retain(|output| !output.is_closed);
        if self.all.len() != before {
            self.note_count();
        }
        let some_have_none = self.all.iter().any(|output| output.backlog.is_empty());
        for output in &mut self.all {
            // Until it has caught up: for a moment between two batches all of them may have some.
            if output.backlog.is_empty() {
                output.lags_since = None;
            } else if some_have_none {
                output.lags_since.get_or_insert_with(Instant::now);
            }
        }
    }

    /// Whether some have to go on without the others.
    pub fn must_split(&self) -> bool {
        self.all.len() > 1 && self.all.iter().any(|output| self.goes_alone(output))
    }

    /// Takes out those that have to go on without the others.
    pub fn split(&mut self) -> Vec<Outputs> {
        let mut alone = Vec::new();
        while let Some(place) = self.all.iter().position(|output| self.goes_alone(output)).filter(|_| self.len() > 1) {
            alone.push(Outputs::new(self.all.remove(place), self.patience));
        }
        self.note_count();
        alone
    }

    /// It is stopped, lags behind, or needs another format.
    fn goes_alone(&self, output: &Output) -> bool {
        let lags_for = output.lags_since.map_or(Duration::ZERO, |since| since.elapsed());
        let is_too_much = output.backlog_bytes > BACKLOG_BYTES_MAX;
        let lags = output.lags_since.is_some() && (lags_for >= self.patience.lags_for || is_too_much);
        lags || output.is_stopped() || output.protocol.format() != self.format()
    }

    /// Takes all of them out, for another reader.
    pub fn take(&mut self) -> Option<Outputs> {
        self.format = self.format();
        let (all, patience, format) = (std::mem::take(&mut self.all), self.patience, self.format);
        (!all.is_empty()).then_some(Outputs { all, patience, format })
    }

    /// Adds the endpoints of another reader.
    pub fn join(&mut self, others: Outputs) {
        self.all.extend(others.all);
        self.note_count();
    }

    fn note_count(&self) {
        self.stats().for_each(|stats| stats.same_batches.store(self.all.len() as u64, Ordering::Relaxed));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cursor::SendCursor;
    use crate::protocol::Compression;
    use remote::{Counts, Message};

    fn batch() -> Batch {
        Batch {
            body: bytes::Bytes::from_static(b"body"),
            format: Format { message: Message::V1, compression: Compression::Snappy },
            counts: Counts { samples: 1, ..Counts::default() },
            range_ms: (0, 0),
            sources: Vec::new(),
            runs: Vec::new(),
            cursor: SendCursor::new(1),
        }
    }

    fn output() -> (Output, mpsc::Receiver<Arc<Batch>>) {
        let (to, batches) = mpsc::channel(2);
        let protocol = Arc::new(Protocol::new(Message::V1));
        (Output::new(to, Arc::default(), Arc::default(), protocol, Arc::default()), batches)
    }

    #[test]
    fn one_that_lags_goes_alone_though_the_others_fall_behind_for_a_moment_with_each_burst() {
        let patience = Patience { lags_for: Duration::from_millis(20), waits: false };
        let ((fast, mut taken), (slow, mut waiting)) = (output(), output());
        let mut outputs = Outputs::new(fast, patience);
        outputs.join(Outputs::new(slow, patience));
        let (mut handed, begun) = (0, Instant::now());
        while !outputs.must_split() {
            assert!(begun.elapsed() < Duration::from_secs(20), "it never goes alone");
            for _ in 0..3 {
                outputs.hand(batch());
                handed += 1;
            }
            assert!(!outputs.must_split() || begun.elapsed() >= patience.lags_for);
            while taken.try_recv().is_ok() {
                outputs.has_capacity();
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let mut alone = outputs.split();
        assert_eq!((alone.len(), outputs.len(), alone[0].len()), (1, 1, 1));
        assert!(!outputs.has_backlog() && alone[0].has_backlog());
        // It gets what it has not taken yet, each once.
        let mut arrived = 0;
        while alone[0].has_backlog() {
            while waiting.try_recv().is_ok() {
                arrived += 1;
            }
            alone[0].has_capacity();
        }
        while waiting.try_recv().is_ok() {
            arrived += 1;
        }
        assert_eq!(arrived, handed);
    }
}
