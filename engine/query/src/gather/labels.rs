//! Names, values and label sets of series.

use super::{Gatherer, Hint, storage_error};
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
        let add = |all: &mut GatheredLabels<Arc<str>>, text: &str, limit| {
            if all.entries.contains(text) { Ok(()) } else { all.add(Arc::from(text), text.len() + TEXT_BYTES, limit) }
        };
        let of_labels =
            move |all: &mut GatheredLabels<Arc<str>>, wanted: &LabelsWanted, labels: &Labels, limit| match wanted {
                LabelsWanted::Names => labels.iter().try_for_each(|(name, _)| add(all, name, limit)),
                LabelsWanted::Values(name) => labels.get(name).map_or(Ok(()), |value| add(all, value, limit)),
                LabelsWanted::Series => Ok(()),
            };
        self.labels(task, request, wanted, move |all, wanted, reply, limit| {
            for text in reply.texts {
                let bytes = text.len() + TEXT_BYTES;
                all.add(text, bytes, limit)?;
            }
            reply.series.iter().try_for_each(|labels| of_labels(all, wanted, labels, limit))
        })
        .await
    }

    /// Label sets of matching series, sorted; at most `limit` of them.
    pub async fn label_sets(
        &self,
        task: &QueryTask,
        request: LabelRequest,
    ) -> Result<GatheredLabels<Labels>, QueryError> {
        self.labels(task, request, LabelsWanted::Series, |all, _, reply, limit| {
            for labels in reply.series {
                let bytes = labels.bytes() + TEXT_BYTES;
                all.add(labels, bytes, limit)?;
            }
            Ok(())
        })
        .await
    }

    /// Asks the shards, then chunks and blocks; `add` takes over what each knows. What comes from the store are label sets.
    async fn labels<T: Ord + Send + 'static>(
        &self,
        task: &QueryTask,
        request: LabelRequest,
        wanted: LabelsWanted,
        add: impl Fn(&mut GatheredLabels<T>, &LabelsWanted, LabelsPart, usize) -> Result<(), QueryError> + Send + 'static,
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
                add(&mut all, &request.wanted, LabelsPart { texts: reply.texts, series: reply.series }, limit)?;
            }
            if let Some(store) = later.store {
                let every = [Vec::new()];
                let selectors = if request.selectors.is_empty() { &every[..] } else { &request.selectors };
                let mut failure = None;
                let found = |labels: Labels, _| {
                    if failure.is_none() {
                        let known = LabelsPart { texts: Vec::new(), series: vec![labels] };
                        failure = add(&mut all, &request.wanted, known, limit).err();
                    }
                    if failure.is_some() {
                        request.budget.cancel();
                    }
                };
                store.select_labels(selectors, from, to, later.stop, found).map_err(storage_error)?;
                if let Some(failure) = failure {
                    return Err(failure);
                }
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
