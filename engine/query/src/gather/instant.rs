//! Newest samples.

use super::merge::Newest;
use super::range::ReadBounds;
use super::{Gathered, Gatherer, Hint, PieceMeter, storage_error};
use crate::error::QueryError;
use crate::task::QueryTask;
use ahash::AHashSet;
use promql::SelectedSeries;
use promql::budget::Charge;
use series::{Matcher, Sample, Timestamp, Value, is_stale};
use shard::{Command, InstantRequest, InstantSample, LimitError};
use std::sync::Arc;
use std::time::Duration;

impl Gatherer {
    /// The newest sample in `(at - lookback, at]` of every matching series, sorted by labels. A series that has both floats
    /// and histograms comes with the newest of each: the evaluation takes the newer. None if they are more than `bytes_max`.
    pub async fn instant(
        &self,
        task: &QueryTask,
        matchers: &[Matcher],
        at: Timestamp,
        lookback: Duration,
        bytes_max: u64,
    ) -> Result<Option<Gathered>, QueryError> {
        self.newest(task, matchers, (at, lookback), bytes_max, false).await
    }

    /// The newest sample in `(at - lookback, at]` of every matching series where it is a histogram, sorted by labels. Other
    /// series may come with floats.
    pub async fn instant_histograms(
        &self,
        task: &QueryTask,
        matchers: &[Matcher],
        at: Timestamp,
        lookback: Duration,
    ) -> Result<Option<Gathered>, QueryError> {
        self.newest(task, matchers, (at, lookback), 0, true).await
    }

    async fn newest(
        &self,
        task: &QueryTask,
        matchers: &[Matcher],
        (at, lookback): (Timestamp, Duration),
        bytes_max: u64,
        histograms_only: bool,
    ) -> Result<Option<Gathered>, QueryError> {
        let budget = task.budget.clone();
        let after = at.plus_ms(-(lookback.as_millis() as i64));
        if self.has_deletions(after.plus_ms(1), at) {
            // What was deleted may hide older samples behind it: all samples of the lookback are read.
            let bounds = ReadBounds { bytes_max, ..ReadBounds::default() };
            let gathered = self.range(task, matchers.to_vec(), (after.plus_ms(1), at), bounds).await?;
            return Ok(gathered.map(|mut gathered| {
                gathered.series = gathered.series.into_iter().filter_map(newest_of).collect();
                gathered
            }));
        }
        let of_a_core = self.bytes_of_a_core(bytes_max);
        let selectors = vec![matchers.to_vec()];
        let request =
            Arc::new(InstantRequest { selectors, histograms_only, at, lookback, bytes_max: of_a_core, budget });
        let asked = request.clone();
        let command = move |elsewhere, reply| Command::Instant(asked.clone(), elsewhere, reply);
        self.read(task, (after.plus_ms(1), Hint::Used), command, move |replies, later| {
            let mut charge = Charge::empty(&request.budget);
            let mut samples = Vec::new();
            let mut newest = Newest::default();
            let mut whole = AHashSet::new();
            for reply in replies {
                let mut reply = match reply {
                    Err(LimitError::Bytes) => return Ok(None),
                    reply => reply?,
                };
                reply.charge.into_iter().for_each(|more| charge.merge(more));
                samples.append(&mut reply.samples);
                reply.partial.into_iter().for_each(|sample| newest.take(sample));
                reply.histograms.into_iter().for_each(|piece| newest.take_piece(piece));
                whole.extend(reply.whole);
            }
            if let Some(store) = later.store {
                let mut meter = PieceMeter::new(request.budget.meter(), bytes_max);
                let skip = |target| whole.contains(&target);
                let take = |piece: tsdb::SeriesPart| {
                    if histograms_only && piece.histograms.is_empty() && !newest.has(&piece.labels) {
                        return true;
                    }
                    let fits = meter.add(&piece);
                    newest.take_piece(piece);
                    fits
                };
                let (from, to) = (after.plus_ms(1), request.at);
                store.select(&request.selectors, from, to, skip, later.stop, take).map_err(storage_error)?;
                match meter.finish()? {
                    Some(more) => charge.merge(more),
                    None => return Ok(None),
                }
            }
            request.budget.check()?;
            if newest.any_ended() {
                samples.retain(|sample| !newest.ended_after(&sample.labels, sample.timestamp));
            }
            let mut histograms = Vec::new();
            for (labels, timestamp, value) in newest.into_values() {
                match value {
                    Value::Float(value) => samples.push(InstantSample { labels, timestamp, value }),
                    Value::Histogram(histogram) => histograms.push(SelectedSeries {
                        labels,
                        samples: Vec::new(),
                        histograms: vec![(timestamp.0, histogram)],
                        starts: Vec::new(),
                    }),
                }
            }
            Ok(Some(Gathered { series: joined(samples, histograms), charge }))
        })
        .await
    }
}

/// A series with its newest samples alone; None if it has ended.
pub(crate) fn newest_of(mut series: SelectedSeries) -> Option<SelectedSeries> {
    let float = series.samples.pop();
    let histogram = series.histograms.pop();
    let float_ended = float.is_some_and(|sample| is_stale(sample.value));
    let histogram_ended = histogram.as_ref().is_some_and(|(_, histogram)| is_stale(histogram.sum));
    let (float_at, histogram_at) = (float.map(|sample| sample.timestamp.0), histogram.as_ref().map(|(at, _)| *at));
    if float_ended && float_at >= histogram_at || histogram_ended && histogram_at >= float_at {
        return None;
    }
    series.samples = float.into_iter().filter(|_| !float_ended).collect();
    series.histograms = histogram.into_iter().filter(|_| !histogram_ended).collect();
    (!series.samples.is_empty() || !series.histograms.is_empty()).then_some(series)
}

/// Two targets may yield the same labels: the newer sample stays.
fn joined(mut samples: Vec<InstantSample>, histograms: Vec<SelectedSeries>) -> Vec<SelectedSeries> {
    samples.sort_unstable_by(|one, other| one.labels.cmp(&other.labels).then(other.timestamp.cmp(&one.timestamp)));
    samples.dedup_by(|later, kept| later.labels == kept.labels);
    let of_floats = samples.into_iter().map(|sample| SelectedSeries {
        labels: sample.labels,
        samples: vec![Sample { timestamp: sample.timestamp, value: sample.value }],
        histograms: Vec::new(),
        starts: Vec::new(),
    });
    let mut series: Vec<SelectedSeries> = of_floats.collect();
    if !histograms.is_empty() {
        series.extend(histograms);
        series.sort_by(|one, other| one.labels.cmp(&other.labels));
        series.dedup_by(|second, first| {
            let same = second.labels == first.labels;
            if same {
                first.histograms.append(&mut second.histograms);
            }
            same
        });
    }
    series
}
