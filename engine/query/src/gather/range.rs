//! Samples of a range of time.

use super::merge::{SeriesMap, weight};
use super::{Gathered, Gatherer, Hint, PieceMeter, storage_error};
use crate::error::QueryError;
use crate::task::QueryTask;
use promql::budget::Charge;
use series::{Matcher, Timestamp};
use shard::{Command, LimitError, RangeRequest};
use std::sync::Arc;

/// Bounds of what is read at once, beside the budget; 0 is no limit.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ReadBounds {
    /// More samples are an error.
    pub samples_max: usize,
    /// More bytes are too large for a batch.
    pub bytes_max: u64,
    /// Whether start times are wanted.
    pub wants_starts: bool,
}

impl Gatherer {
    /// Samples of matching series in `[from, to]` from memory, chunks and blocks, sorted by labels. None if they are more
    /// bytes than `bounds` allows.
    pub async fn range(
        &self,
        task: &QueryTask,
        matchers: Vec<Matcher>,
        (from, to): (Timestamp, Timestamp),
        bounds: ReadBounds,
    ) -> Result<Option<Gathered>, QueryError> {
        let (selectors, budget) = (vec![matchers], task.budget.clone());
        let samples_max = bounds.samples_max;
        let bytes_max = self.bytes_of_a_core(bounds.bytes_max);
        let request = Arc::new(RangeRequest {
            selectors,
            from,
            to,
            samples_max,
            bytes_max,
            wants_starts: bounds.wants_starts,
            budget,
        });
        let (asked, store) = (request.clone(), self.store.clone());
        let command = move |_, reply| Command::Range(asked.clone(), reply);
        self.read(task, (from, Hint::Unused), command, move |replies, later| {
            let max = if samples_max == 0 { usize::MAX } else { samples_max };
            let mut charge = Charge::empty(&request.budget);
            let mut all = SeriesMap::new(request.wants_starts);
            let mut samples = 0;
            for reply in replies {
                let reply = match reply {
                    Err(LimitError::Bytes) => return Ok(None),
                    reply => reply?,
                };
                charge.merge(reply.charge);
                for mut piece in reply.pieces {
                    if let Some(store) = &store {
                        store.hide(&mut piece);
                    }
                    samples += weight(&piece);
                    all.add(piece);
                }
                if samples > max {
                    return Err(QueryError::TooManySamples);
                }
            }
            if let Some(store) = later.store {
                let mut meter = PieceMeter::new(request.budget.meter(), bounds.bytes_max);
                let take = |piece| {
                    samples += weight(&piece);
                    if samples > max {
                        return meter.fail(QueryError::TooManySamples);
                    }
                    let fits = meter.add(&piece);
                    all.add_stored(piece);
                    fits
                };
                store.select(&request.selectors, from, to, |_| false, later.stop, take).map_err(storage_error)?;
                match meter.finish()? {
                    Some(more) => charge.merge(more),
                    None => return Ok(None),
                }
            }
            request.budget.check()?;
            Ok(Some(Gathered { series: all.into_sorted(), charge }))
        })
        .await
    }
}
