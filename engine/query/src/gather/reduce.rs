//! Aggregations that the shards carry out.

use super::merge::in_order;
use super::{Gatherer, Hint, Later, PieceMeter, storage_error};
use crate::error::QueryError;
use crate::task::QueryTask;
use ahash::{AHashMap, AHashSet};
use promql::PartialAggregate;
use promql::budget::Charge;
use series::{Labels, Sample, Timestamp};
use shard::{Command, LimitError, ReduceAnswer, ReduceRequest, SeriesHashes};
use std::sync::Arc;
use tsdb::SeriesPart;

/// The outcome of one aggregation, with the charge for it; None if it needs whole series.
pub(crate) type Reduced = Result<Option<(PartialAggregate, Charge)>, QueryError>;

impl Gatherer {
    /// Carries aggregations out where the samples are; those over the same time read them together. An aggregation that
    /// yields None needs whole series: the caller then selects these.
    pub async fn reduce(&self, task: &QueryTask, requests: Vec<ReduceRequest>) -> Result<Vec<Reduced>, QueryError> {
        let Some(from) = requests.iter().map(|request| request.from).min() else { return Ok(Vec::new()) };
        let to = requests.iter().map(|request| request.to).max().unwrap_or(from);
        if self.has_deletions(from, to) {
            // The shards know nothing of deletions.
            return Ok(requests.iter().map(|_| Ok(None)).collect());
        }
        let requests: Arc<[ReduceRequest]> = requests.into();
        let asked = requests.clone();
        let command = move |elsewhere, reply| Command::Reduce(asked.clone(), elsewhere, reply);
        self.read(task, (from, Hint::Used), command, move |replies, later| {
            let mut of_shards: Vec<_> = replies.into_iter().map(Vec::into_iter).collect();
            let of_request = |request| {
                let replies = of_shards.iter_mut().filter_map(Iterator::next).collect();
                joined(request, replies, &later)
            };
            Ok(requests.iter().map(of_request).collect())
        })
        .await
    }
}

/// Joins what the shards and the store hold for one request.
fn joined(request: &ReduceRequest, replies: Vec<Result<ReduceAnswer, LimitError>>, later: &Later) -> Reduced {
    let mut all = PartialAggregate::new(request.reduction.clone());
    let (mut whole, mut identities) = (AHashSet::new(), AHashSet::new());
    let (mut pieces, mut pieces_identities) = (Vec::new(), AHashSet::new());
    let mut of_sources = SeriesHashes::default();
    let mut charge = Charge::empty(&request.budget);
    for reply in replies {
        let mut reply = reply?;
        charge.merge(reply.charge);
        if reply.refused || !reply.identities.iter().all(|identity| identities.insert(*identity)) {
            return Ok(None);
        }
        if !of_sources.add_all(&reply.series) {
            return Ok(None);
        }
        all.merge(reply.partial);
        whole.extend(reply.whole);
        pieces.append(&mut reply.pieces);
        pieces_identities.extend(reply.pieces_identities);
    }
    if pieces_identities.iter().any(|identity| identities.contains(identity)) {
        return Ok(None);
    }
    let store = later.store.filter(|store| super::holds(store, request.from));
    if pieces.is_empty() && store.is_none() {
        return Ok(all.is_final().then_some((all, charge)));
    }
    let mut meter = PieceMeter::new(request.budget.meter(), 0);
    let mut series: AHashMap<Labels, Vec<Sample>> = AHashMap::new();
    let mut any_histograms = false;
    let mut take = |mut piece: SeriesPart| {
        any_histograms |= !piece.histograms.is_empty();
        series.entry(piece.labels).or_default().append(&mut piece.samples);
        !any_histograms
    };
    let fits = pieces.into_iter().all(&mut take);
    if let (Some(store), true) = (store, fits) {
        let (from, to): (Timestamp, Timestamp) = (request.from, request.to);
        let skip = |target| whole.contains(&target);
        let take = |piece: SeriesPart| meter.add(&piece) && take(piece);
        store.select(&request.selectors, from, to, skip, later.stop, take).map_err(storage_error)?;
    }
    meter.finish()?.into_iter().for_each(|more| charge.merge(more));
    request.budget.check()?;
    if any_histograms {
        // These are aggregated as whole series.
        return Ok(None);
    }
    let mut names = AHashSet::new();
    for (labels, mut samples) in series {
        if of_sources.may_have(&labels) {
            return Ok(None);
        }
        if request.reduction.names_vanish() && !names.insert(promql::nameless(&labels)) {
            return Ok(None);
        }
        in_order(&mut samples);
        if !request.reduction.is_newest() {
            samples.retain(|sample| !series::is_stale(sample.value));
        }
        if !samples.is_empty() {
            let place = all.place(&labels);
            all.add_series(place, &samples);
        }
    }
    Ok(all.is_final().then_some((all, charge)))
}
