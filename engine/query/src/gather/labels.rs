//! Label sets of series.

use super::Gatherer;
use crate::error::QueryError;
use series::{Labels, Matcher, Timestamp};
use shard::RangeRequest;

impl Gatherer {
    /// Label sets of series with samples in `[from, to]` that satisfy one of the selectors, sorted.
    pub async fn label_sets(
        &self,
        selectors: Vec<Vec<Matcher>>,
        (from, to): (Timestamp, Timestamp),
        samples_max: usize,
    ) -> Result<Vec<Labels>, QueryError> {
        let request = RangeRequest { selectors, from, to, samples_max, labels_only: true };
        Ok(self.range(request).await?.into_iter().map(|series| series.labels).collect())
    }
}
