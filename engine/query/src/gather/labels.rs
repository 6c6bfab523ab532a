//! Names, values and label sets of series.

use super::{Gatherer, Hint};
use crate::error::QueryError;
use crate::request::LabelRequest;
use crate::task::QueryTask;
use promql::budget::Charge;
use series::Labels;
use shard::{Command, LabelsRequest, LabelsWanted};
use std::collections::BTreeSet;
use std::sync::Arc;

/// What an entry costs beside its text: the pointer in the list, the counts, and what the allocator adds.
const TEXT_BYTES: usize = 64;

/// The entries of an answer, sorted, the charge for them, and whether a limit left entries out.
pub(crate) struct GatheredLabels<T> {
    pub entries: Vec<T>,
    pub charge: Charge,
    pub is_truncated: bool,
}

impl<T: Ord> GatheredLabels<T> {
    /// Adds what one place has.
    fn add(&mut self, mut part: Vec<T>, text_bytes: impl Fn(&T) -> usize) -> Result<(), QueryError> {
        let bytes: usize = part.iter().map(|entry| text_bytes(entry) + TEXT_BYTES).sum();
        self.charge.grow(0, bytes as u64)?;
        self.entries.append(&mut part);
        Ok(())
    }

    /// Sorts the entries, each once, and leaves out what is beyond the limit.
    fn finish(mut self, limit: usize) -> GatheredLabels<T> {
        // Each place gives sorted runs, which the stable sort merges.
        self.entries.sort();
        self.entries.dedup();
        self.is_truncated |= self.entries.len() > limit;
        self.entries.truncate(limit);
        self
    }
}

impl Gatherer {
    /// Names of labels, or values of one, of matching series: sorted, at most `limit` of them.
    pub async fn label_texts(
        &self,
        task: &QueryTask,
        request: LabelRequest,
        wanted: LabelsWanted,
    ) -> Result<GatheredLabels<Arc<str>>, QueryError> {
        self.labels(task, request, wanted, |all, part| all.add(part.texts, |text| text.len())).await
    }

    /// Label sets of matching series, sorted; at most `limit` of them.
    pub async fn label_sets(
        &self,
        task: &QueryTask,
        request: LabelRequest,
    ) -> Result<GatheredLabels<Labels>, QueryError> {
        self.labels(task, request, LabelsWanted::Series, |all, part| all.add(part.series, Labels::bytes)).await
    }

    /// Asks the shards, then chunks and blocks; `add` takes over what each knows.
    async fn labels<T: Ord + Send + 'static>(
        &self,
        task: &QueryTask,
        request: LabelRequest,
        wanted: LabelsWanted,
        add: impl Fn(&mut GatheredLabels<T>, LabelsPart) -> Result<(), QueryError> + Send + Sync + 'static,
    ) -> Result<GatheredLabels<T>, QueryError> {
        let LabelRequest { selectors, from, to, limit } = request;
        let budget = task.budget.clone();
        let request = Arc::new(LabelsRequest { selectors, from, to, wanted, limit, budget });
        let limit = if limit == 0 { usize::MAX } else { limit };
        let asked = request.clone();
        let command = move |_, reply| Command::Labels(asked.clone(), reply);
        self.read(task, (from, Hint::Unused), command, move |replies, later| {
            let charge = Charge::empty(&request.budget);
            let mut all = GatheredLabels { entries: Vec::new(), charge, is_truncated: false };
            for reply in replies {
                let reply = reply?;
                all.is_truncated |= reply.is_truncated;
                add(&mut all, LabelsPart { texts: reply.texts, series: reply.series })?;
            }
            if let Some(store) = later.store {
                let every = [Vec::new()];
                let selectors = if request.selectors.is_empty() { &every[..] } else { &request.selectors };
                let (range, max) = ((from, to), limit.saturating_add(1));
                let mut known = LabelsPart { texts: Vec::new(), series: Vec::new() };
                let texts = |found: BTreeSet<Box<str>>| found.into_iter().map(Arc::from).collect();
                match &request.wanted {
                    LabelsWanted::Names => known.texts = texts(store.label_names(selectors, range, later.stop)),
                    LabelsWanted::Values(name) => {
                        known.texts = texts(store.label_values(name, selectors, range, max, later.stop));
                    }
                    LabelsWanted::Series => store.label_sets(selectors, range, max, later.stop, &mut known.series),
                }
                add(&mut all, known)?;
            }
            request.budget.check()?;
            Ok(all.finish(limit))
        })
        .await
    }
}

/// What one place knows.
struct LabelsPart {
    texts: Vec<Arc<str>>,
    series: Vec<Labels>,
}
