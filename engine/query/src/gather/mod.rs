//! Reads samples and labels from where they are.
//!
//! Invariant: shards are read first, then chunk files, then blocks. Samples are published to the later place before they
//! leave the earlier one, so that a reader in this order misses none; what it meets twice it keeps once. Every read goes
//! through [`Gatherer::read`], which owns this order.

pub(crate) mod instant;
mod labels;
pub(crate) mod merge;
pub(crate) mod range;
pub(crate) mod reduce;

use crate::error::QueryError;
use crate::task::QueryTask;
use promql::SelectedSeries;
use promql::budget::{Charge, Meter};
use series::Timestamp;
use shard::message::piece_bytes;
use shard::{ANSWER_TIMEOUT, Command, ShardError, Shards};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use tokio::sync::oneshot;
use tsdb::{Elsewhere, SeriesPart, Store};

/// The deadline of a query ends the wait for its shards, not this: it only has to come later.
const AFTER_DEADLINE: Duration = Duration::from_secs(1);

/// Reads from the shards and the data folder. Cloning copies pointers.
#[derive(Clone)]
pub(crate) struct Gatherer {
    pub shards: Shards,
    pub store: Option<Arc<Store>>,
}

/// What the second half of a read may use.
pub(crate) struct Later<'a> {
    /// The data folder, if it holds anything from the start of the read on.
    pub store: Option<&'a Store>,
    /// Set when the query is cancelled.
    pub stop: &'a AtomicBool,
}

/// Series, and the charge for them.
#[derive(Debug)]
pub(crate) struct Gathered {
    pub series: Vec<SelectedSeries>,
    pub charge: Charge,
}

/// Whether the shards use the hint about what is elsewhere, and so have to be asked again if there is more by the end.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hint {
    Used,
    Unused,
}

impl Gatherer {
    pub fn new(shards: Shards) -> Gatherer {
        let store = shards.store().cloned();
        Gatherer { shards, store }
    }

    /// The share of each core of bytes that are bounded; 0 is no limit.
    fn bytes_of_a_core(&self, bytes_max: u64) -> u64 {
        bytes_max.div_ceil(self.shards.count().max(1) as u64)
    }

    /// Whether the logs of the last run have been read, so that answers are complete.
    pub fn is_ready(&self) -> bool {
        self.store.as_ref().is_none_or(|store| store.replay().done)
    }

    /// An error while old logs are being read: an answer would lack some of their samples.
    pub fn check_ready(&self) -> Result<(), QueryError> {
        match self.is_ready() {
            true => Ok(()),
            false => {
                Err(QueryError::Unavailable("the logs of the last run are being read; see status/walreplay".into()))
            }
        }
    }

    /// Whether samples in `[from, to]` were deleted that are still in memory or in chunks.
    pub fn has_deletions(&self, from: Timestamp, to: Timestamp) -> bool {
        self.store.as_ref().is_some_and(|store| store.hides_within(from, to))
    }

    /// Where samples from `from` on may be beside the heads.
    pub fn elsewhere(&self, from: Timestamp) -> Elsewhere {
        self.store.as_ref().map_or(Elsewhere::Nothing, |store| store.elsewhere(from))
    }

    /// Sends a command to every shard. Once all have replied, calls `finish` on a thread that may block, with the replies
    /// in the order of the shards, and with the store if that may hold samples from `from` on.
    ///
    /// If the shards use the hint, and there is more elsewhere at the end than they were told, all of it is done again: no
    /// sample falls between a head and its chunks, and none that came into a block meanwhile counts twice.
    pub async fn read<A: Send + 'static, T: Send + 'static>(
        &self,
        task: &QueryTask,
        (from, hint): (Timestamp, Hint),
        command: impl Fn(Elsewhere, oneshot::Sender<A>) -> Command,
        finish: impl Fn(Vec<A>, Later) -> Result<T, QueryError> + Send + Sync + 'static,
    ) -> Result<T, QueryError> {
        task.budget.check()?;
        let timeout = task.time_left(ANSWER_TIMEOUT) + AFTER_DEADLINE;
        let finish = Arc::new(finish);
        let mut elsewhere = self.elsewhere(from);
        loop {
            let replies = self.shards.request_all_within(timeout, |reply| command(elsewhere, reply)).await?;
            let (store, stop, finish) = (self.store.clone(), task.budget.cancel_flag(), finish.clone());
            let work = move || {
                // Chunks are looked at only now, after the shards.
                let store = store.as_deref().filter(|store| holds(store, from));
                finish(replies, Later { store, stop: &stop })
            };
            let answer = task.on_thread(work).await?;
            let by_now = self.elsewhere(from);
            if hint == Hint::Unused || by_now <= elsewhere {
                return Ok(answer);
            }
            elsewhere = by_now;
        }
    }
}

fn holds(store: &Store, from: Timestamp) -> bool {
    store.bounds().is_some_and(|(_, newest)| newest >= from.0)
}

pub(crate) fn storage_error(error: impl std::fmt::Display) -> QueryError {
    ShardError::Blocks(error.to_string()).into()
}

/// Charges what comes out of chunks and blocks, and remembers why it had to stop.
pub(crate) struct PieceMeter {
    meter: Meter,
    failure: Option<QueryError>,
    bytes: u64,
    bytes_max: u64,
}

impl PieceMeter {
    /// More bytes than `bytes_max` are too large; 0 is no limit.
    pub fn new(meter: Meter, bytes_max: u64) -> PieceMeter {
        PieceMeter { meter, failure: None, bytes: 0, bytes_max: if bytes_max == 0 { u64::MAX } else { bytes_max } }
    }

    /// Counts a piece; false if reading has to stop.
    pub fn add(&mut self, piece: &SeriesPart) -> bool {
        let bytes = piece_bytes(piece);
        self.bytes += bytes;
        if self.bytes > self.bytes_max {
            return false;
        }
        if let Err(error) = self.meter.add(0, bytes) {
            self.failure = Some(error.into());
        }
        self.failure.is_none()
    }

    /// Reading has to stop for another reason.
    pub fn fail(&mut self, error: QueryError) -> bool {
        self.failure = Some(error);
        false
    }

    /// The charge for all pieces; None if they are too large.
    pub fn finish(self) -> Result<Option<Charge>, QueryError> {
        match self.failure {
            Some(error) => Err(error),
            None if self.bytes > self.bytes_max => Ok(None),
            None => Ok(Some(self.meter.into_charge()?)),
        }
    }
}
