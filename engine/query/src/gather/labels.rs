//! Names, values and label sets of series.

use super::{Gatherer, Hint};
use crate::error::QueryError;
use crate::service::LabelRequest;
use crate::task::QueryTask;
use promql::budget::Charge;
use series::Labels;
use shard::{Command, LabelsRequest, LabelsWanted};
use std::collections::BTreeSet;
use std::sync::Arc;

/// A text costs its bytes, a counted pointer and a place in a tree.
const TEXT_BYTES: usize = 64;

/// The entries of an answer, the charge for them, and whether a limit left entries out.
pub(crate) struct GatheredLabels<T> {
    pub entries: BTreeSet<T>,
    pub charge: Charge,
    pub is_truncated: bool,
}

impl<T: Ord> GatheredLabels<T> {
    fn add(&mut self, entry: T, bytes: usize, limit: usize) -> Result<(), QueryError> {
        if self.entries.insert(entry) {
            self.charge.grow(0, bytes as u64)?;
            // The charge of what leaves stays: it is that of one entry.
            if self.entries.len() > limit {
                self.entries.pop_last();
                self.is_truncated = true;
            }
        }
        Ok(())
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
        self.labels(task, request, wanted, |all, reply, limit| {
            for text in reply.texts {
                let bytes = text.len() + TEXT_BYTES;
                all.add(text, bytes, limit)?;
            }
            Ok(())
        })
        .await
    }

    /// Label sets of matching series, sorted; at most `limit` of them.
    pub async fn label_sets(
        &self,
        task: &QueryTask,
        request: LabelRequest,
    ) -> Result<GatheredLabels<Labels>, QueryError> {
        self.labels(task, request, LabelsWanted::Series, |all, reply, limit| {
            for labels in reply.series {
                let bytes = labels.bytes() + TEXT_BYTES;
                all.add(labels, bytes, limit)?;
            }
            Ok(())
        })
        .await
    }

    /// Asks the shards, then chunks and blocks; `add` takes over what each knows.
    async fn labels<T: Ord + Send + 'static>(
        &self,
        task: &QueryTask,
        request: LabelRequest,
        wanted: LabelsWanted,
        add: impl Fn(&mut GatheredLabels<T>, LabelsPart, usize) -> Result<(), QueryError> + Send + 'static,
    ) -> Result<GatheredLabels<T>, QueryError> {
        let LabelRequest { selectors, from, to, limit } = request;
        let budget = task.budget.clone();
        let request = Arc::new(LabelsRequest { selectors, from, to, wanted, limit, budget });
        let limit = if limit == 0 { usize::MAX } else { limit };
        let asked = request.clone();
        let command = move |_, reply| Command::Labels(asked.clone(), reply);
        self.read(task, (from, Hint::Unused), command, move |replies, later| {
            let charge = Charge::empty(&request.budget);
            let mut all = GatheredLabels { entries: BTreeSet::new(), charge, is_truncated: false };
            for reply in replies {
                let reply = reply?;
                all.is_truncated |= reply.is_truncated;
                add(&mut all, LabelsPart { texts: reply.texts, series: reply.series }, limit)?;
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
                add(&mut all, known, limit)?;
            }
            request.budget.check()?;
            Ok(all)
        })
        .await
    }
}

/// What one place knows.
struct LabelsPart {
    texts: Vec<Arc<str>>,
    series: Vec<Labels>,
}
