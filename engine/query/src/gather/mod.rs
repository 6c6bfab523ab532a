//! Reads samples and labels from where they are.
//!
//! Invariant: shards are read first, then chunk files, then blocks. Samples are published to the later place before they
//! leave the earlier one, so that a reader in this order misses none; what it meets twice it keeps once. Every read goes
//! through [`Gatherer::read`], which owns this order.

mod instant;
mod labels;
pub(crate) mod merge;
mod range;
mod reduce;

use crate::error::QueryError;
use series::Timestamp;
use shard::{Command, Older, ShardError, Shards};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::oneshot;
use tsdb::Store;

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
    /// Set when nobody waits for the answer any more.
    pub stop: &'a AtomicBool,
}

/// Sets a flag when the future that waits for an answer is dropped.
#[derive(Default)]
pub(crate) struct StopOnDrop(pub Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Whether the shards use the hint about older data, and so have to be asked again if it changed meanwhile.
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

    /// Whether chunks and blocks may hold samples from `from` on.
    pub fn older(&self, from: Timestamp) -> Older {
        match self.store.as_ref().is_some_and(|store| !store.replay().done || holds(store, from)) {
            true => Older::Perhaps,
            false => Older::Nothing,
        }
    }

    /// Sends a command to every shard. Once all have replied, calls `finish` on a thread that may block, with the replies
    /// in the order of the shards, and with the store if that may hold samples from `from` on.
    ///
    /// The command is repeated once if chunks came meanwhile and the shards use the hint, so that no sample falls between
    /// a head and its chunks.
    pub async fn read<A: Send + 'static, T: Send + 'static>(
        &self,
        (from, hint): (Timestamp, Hint),
        command: impl Fn(Older, oneshot::Sender<A>) -> Command,
        finish: impl FnOnce(Vec<A>, Later) -> Result<T, QueryError> + Send + 'static,
    ) -> Result<T, QueryError> {
        let older = self.older(from);
        let mut replies = self.shards.request_all(|reply| command(older, reply)).await?;
        if hint == Hint::Used && self.older(from) != older {
            replies = self.shards.request_all(|reply| command(Older::Perhaps, reply)).await?;
        }
        let store = self.store.clone();
        let stop = StopOnDrop::default();
        let stopping = stop.0.clone();
        let work = move || {
            // Chunks are looked at only now, after the shards.
            let store = store.as_deref().filter(|store| holds(store, from));
            finish(replies, Later { store, stop: &stopping })
        };
        tokio::task::spawn_blocking(work).await.map_err(|error| QueryError::Internal(error.to_string()))?
    }
}

fn holds(store: &Store, from: Timestamp) -> bool {
    store.bounds().is_some_and(|(_, newest)| newest >= from.0)
}

pub(crate) fn storage_error(error: impl std::fmt::Display) -> QueryError {
    ShardError::Blocks(error.to_string()).into()
}
