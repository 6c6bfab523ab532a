//! Label names, label values and label sets of what is in memory, answered from the index.
//!
//! A group of slots and a label set of a target are looked at once, however many series they make. Rows are never read:
//! a group of a head counts as having samples in a range if one of its segments lies there.

use super::Core;
use crate::head_owner::IndexedHead;
use crate::message::{LabelsAnswer, LabelsRequest, LabelsWanted, LimitError};
use crate::time_slice::{CoreTask, TimeSlice};
use series::{Labels, Matcher, Timestamp};
use std::sync::Arc;
use tsdb::label_index::{LabelIndex, MatchedGroup, NameCollector, OwnerSet, SeriesListing, TimeFilter, ValueCollector};

/// Values, or label sets, that are put together between two looks at the clock.
const BATCH: usize = 256;
/// What an entry of an answer takes beside its text.
const ENTRY_BYTES: usize = 32;
/// Heads whose segments are looked at between two looks at the clock.
const HEADS_PER_STEP: usize = 256;

/// Finds out which heads have samples in the range of a request, each once.
struct HeadTimes<'c> {
    core: &'c Core,
    from: Timestamp,
    to: Timestamp,
    /// None if everything is in the range.
    filter: Option<TimeFilter>,
    seen: OwnerSet,
}

impl<'c> HeadTimes<'c> {
    fn new(core: &'c Core, from: Timestamp, to: Timestamp) -> HeadTimes<'c> {
        let is_everything = from.0 <= 0 && to.0 >= super::wall_ms();
        let filter = (!is_everything).then(TimeFilter::default);
        HeadTimes { core, from, to, filter, seen: OwnerSet::new() }
    }

    /// Takes out the owners without samples in the range. False if none is left.
    async fn apply(&mut self, matched: &mut MatchedGroup, slice: &TimeSlice<'_>) -> bool {
        let Some(filter) = &mut self.filter else { return true };
        let fresh: Vec<u32> = (&matched.owners - &self.seen).iter().collect();
        for owners in fresh.chunks(HEADS_PER_STEP) {
            {
                let visible = self.core.journal.borrow().visible();
                let index = self.core.label_index.labels.borrow();
                for (id, owner) in owners.iter().filter_map(|id| Some((*id, index.owner(*id)?))) {
                    filter.set(id, owner.payload.coverage(self.from, self.to, visible));
                }
            }
            slice.step().await;
        }
        self.seen |= &matched.owners;
        filter.apply(matched)
    }
}

impl Core {
    /// Answers a question about labels. What it has found so far, once nobody wants the answer any more.
    pub(super) async fn labels(
        &self,
        request: &LabelsRequest,
        gone: impl Fn() -> bool,
    ) -> Result<LabelsAnswer, LimitError> {
        let slice = self.slice(CoreTask::Labels);
        self.label_index.bring_up_to_date(&slice).await;
        let _pin = self.label_index.pin();
        let limit = if request.limit == 0 { usize::MAX } else { request.limit };
        match &request.wanted {
            LabelsWanted::Names => self.label_names(request, limit, &slice, &gone).await,
            LabelsWanted::Values(name) => self.label_values(name, request, limit, &slice, &gone).await,
            LabelsWanted::Series => self.label_sets(request, limit, &slice, &gone).await,
        }
    }

    /// Searches for the groups and owners that a request selects and that have samples in its range.
    async fn search_labels(
        &self,
        request: &LabelsRequest,
        slice: &TimeSlice<'_>,
        gone: &impl Fn() -> bool,
        mut found: impl FnMut(&LabelIndex<IndexedHead>, MatchedGroup),
    ) -> bool {
        let everything: &[Vec<Matcher>] = &[Vec::new()];
        let selectors = if request.selectors.is_empty() { everything } else { &request.selectors };
        let mut times = HeadTimes::new(self, request.from, request.to);
        let each = async |mut matched: MatchedGroup| {
            if times.apply(&mut matched, slice).await {
                found(&self.label_index.labels.borrow(), matched);
            }
        };
        self.label_index.search(selectors.iter().map(Vec::as_slice), slice, gone, each).await
    }

    async fn label_names(
        &self,
        request: &LabelsRequest,
        limit: usize,
        slice: &TimeSlice<'_>,
        gone: &impl Fn() -> bool,
    ) -> Result<LabelsAnswer, LimitError> {
        let mut names = NameCollector::default();
        self.search_labels(request, slice, gone, |index, matched| names.add(index, &matched)).await;
        let texts = names.finish(&self.label_index.labels.borrow(), limit.saturating_add(1));
        texts_answer(request, texts, limit)
    }

    async fn label_values(
        &self,
        name: &str,
        request: &LabelsRequest,
        limit: usize,
        slice: &TimeSlice<'_>,
        gone: &impl Fn() -> bool,
    ) -> Result<LabelsAnswer, LimitError> {
        let mut values = ValueCollector::new(name);
        self.search_labels(request, slice, gone, |index, matched| values.add(index, &matched)).await;
        let (mut values, mut texts) = (values.finish(), Vec::new());
        while texts.len() <= limit {
            let max = texts.len().saturating_add(BATCH).min(limit.saturating_add(1));
            let more = values.next_batch(&self.label_index.labels.borrow(), max, &mut texts);
            if !more || (slice.step().await && gone()) {
                break;
            }
        }
        texts_answer(request, texts, limit)
    }

    async fn label_sets(
        &self,
        request: &LabelsRequest,
        limit: usize,
        slice: &TimeSlice<'_>,
        gone: &impl Fn() -> bool,
    ) -> Result<LabelsAnswer, LimitError> {
        let (mut matched, mut owners) = (Vec::new(), OwnerSet::new());
        let collect = |_: &LabelIndex<IndexedHead>, one: MatchedGroup| {
            owners |= &one.owners;
            matched.push(one);
        };
        self.search_labels(request, slice, gone, collect).await;
        let labels = {
            let index = self.label_index.labels.borrow();
            owners.iter().filter_map(|id| Some((id, index.owner(id)?.labels.clone()))).collect()
        };
        let mut listing = SeriesListing::new(matched, labels, limit.saturating_add(1));
        let mut series: Vec<Labels> = Vec::new();
        let mut meter = request.budget.meter();
        let mut charged = 0;
        while series.len() <= limit && listing.step(&mut series) {
            meter.add(0, series[charged..].iter().map(|labels| (labels.bytes() + ENTRY_BYTES) as u64).sum())?;
            charged = series.len();
            if slice.step().await && gone() {
                break;
            }
        }
        let is_truncated = series.len() > limit;
        series.truncate(limit);
        Ok(LabelsAnswer { series, is_truncated, charge: Some(meter.into_charge()?), ..LabelsAnswer::default() })
    }
}

/// The answer of names or values of which there is one more than `limit` if the limit cuts any off.
fn texts_answer(request: &LabelsRequest, texts: Vec<Box<str>>, limit: usize) -> Result<LabelsAnswer, LimitError> {
    let is_truncated = texts.len() > limit;
    let texts: Vec<Arc<str>> = texts.into_iter().take(limit).map(Arc::from).collect();
    let mut meter = request.budget.meter();
    meter.add(0, texts.iter().map(|text| (text.len() + ENTRY_BYTES) as u64).sum())?;
    Ok(LabelsAnswer { texts, is_truncated, charge: Some(meter.into_charge()?), ..LabelsAnswer::default() })
}
