//! Samples of a range of time.

use super::merge::{SeriesMap, weight};
use super::{Gatherer, Hint, storage_error};
use crate::error::QueryError;
use promql::SelectedSeries;
use shard::{Command, LimitError, RangeRequest};
use std::sync::Arc;

impl Gatherer {
    /// Samples of matching series from memory, chunks and blocks, sorted by labels.
    pub async fn range(&self, request: RangeRequest) -> Result<Vec<SelectedSeries>, QueryError> {
        let request = Arc::new(request);
        let (asked, store) = (request.clone(), self.store.clone());
        let command = move |_, reply| Command::Range(asked.clone(), reply);
        self.read((request.from, Hint::Unused), command, move |replies, later| {
            let max = if request.samples_max == 0 { usize::MAX } else { request.samples_max };
            let mut all = SeriesMap::default();
            let mut samples = 0;
            for reply in replies {
                for mut piece in reply? {
                    if let Some(store) = &store {
                        store.hide(&mut piece);
                    }
                    samples += weight(&piece);
                    all.add(piece);
                    if samples > max {
                        return Err(LimitError::Samples.into());
                    }
                }
            }
            let Some(store) = later.store else { return Ok(all.into_sorted()) };
            let (selectors, from, to) = (&request.selectors, request.from, request.to);
            if request.labels_only {
                let add = |labels, at| all.add_labels(labels, at);
                store.select_labels(selectors, from, to, later.stop, add).map_err(storage_error)?;
                return Ok(all.into_sorted());
            }
            let take = |piece| {
                samples += weight(&piece);
                all.add(piece);
                samples <= max
            };
            store.select(selectors, from, to, |_| false, later.stop, take).map_err(storage_error)?;
            if samples > max { Err(LimitError::Samples.into()) } else { Ok(all.into_sorted()) }
        })
        .await
    }
}
