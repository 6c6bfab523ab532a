//! Joins what several places hold of one series.

use ahash::AHashMap;
use promql::SelectedSeries;
use series::histogram::ResetHint;
use series::{Labels, NO_START, Sample, StartTimes, Timestamp, Value, sort_starts};
use shard::InstantSample;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use tsdb::{SeriesPart, Timed};

/// Floats and histograms by series, in no order.
#[derive(Default)]
pub(crate) struct SeriesMap {
    series: AHashMap<Labels, FoundSeries>,
    /// Whether start times are wanted.
    wants_starts: bool,
}

#[derive(Default)]
struct FoundSeries {
    samples: Vec<Sample>,
    histograms: Timed,
    starts: StartTimes,
}

impl SeriesMap {
    pub fn new(wants_starts: bool) -> SeriesMap {
        SeriesMap { series: AHashMap::new(), wants_starts }
    }

    pub fn add(&mut self, mut piece: SeriesPart) {
        let found = self.series.entry(piece.labels).or_default();
        if self.wants_starts {
            found.starts.append(&mut piece.starts);
        }
        found.samples.append(&mut piece.samples);
        found.histograms.append(&mut piece.histograms);
    }

    /// The same of chunks and blocks: samples before their first start time have none. (Of a head, start times come in pieces
    /// of their own.)
    pub fn add_stored(&mut self, mut piece: SeriesPart) {
        let float = piece.samples.first().map(|sample| sample.timestamp.0);
        let first = [float, piece.histograms.first().map(|(at, _)| *at)].into_iter().flatten().min();
        if let Some(first) = first.filter(|_| self.wants_starts)
            && piece.starts.first().is_none_or(|(from, _)| first < *from)
        {
            piece.starts.insert(0, (first, NO_START));
        }
        self.add(piece);
    }

    /// The series that have a sample, sorted by labels; the samples of each in order of time, no two of one kind at one
    /// time.
    pub fn into_sorted(self) -> Vec<SelectedSeries> {
        let series = self.series.into_iter().map(|(labels, found)| {
            let FoundSeries { mut samples, mut histograms, mut starts } = found;
            in_order(&mut samples);
            histograms_in_order(&mut histograms);
            sort_starts(&mut starts);
            starts.dedup_by_key(|(_, start)| *start);
            if starts.iter().all(|(_, start)| *start == NO_START) {
                starts = StartTimes::new();
            }
            SelectedSeries { labels, samples, histograms, starts }
        });
        let mut all: Vec<SelectedSeries> =
            series.filter(|series| !series.samples.is_empty() || !series.histograms.is_empty()).collect();
        all.sort_unstable_by(|one, other| one.labels.cmp(&other.labels));
        all
    }
}

/// What a piece counts as against the limit of samples.
pub(crate) fn weight(piece: &SeriesPart) -> usize {
    let histograms = piece.histograms.iter().map(|(_, histogram)| promql::histogram_size(histogram));
    piece.samples.len() + histograms.sum::<usize>()
}

/// Sorts by time. A histogram's hint about the one before it is kept only where the order was right already.
fn histograms_in_order(histograms: &mut Timed) {
    if histograms.is_sorted_by(|one, next| one.0 < next.0) {
        return;
    }
    tsdb::in_order(histograms);
    for (_, histogram) in histograms {
        if histogram.hint == ResetHint::NotReset {
            Arc::make_mut(histogram).hint = ResetHint::Unknown;
        }
    }
}

/// Sorts by time. Of several samples at one time the first stays, and a marker gives way to a sample.
pub(crate) fn in_order(samples: &mut Vec<Sample>) {
    series::order::dedupe(samples);
}

/// The newest sample of each series; at one time a marker gives way to a sample.
#[derive(Default)]
pub(crate) struct Newest(AHashMap<Labels, (Timestamp, Value)>);

impl Newest {
    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn has(&self, series: &Labels) -> bool {
        self.0.contains_key(series)
    }

    pub fn take(&mut self, sample: InstantSample) {
        self.take_value(sample.labels, sample.timestamp, Value::Float(sample.value));
    }

    fn take_value(&mut self, labels: Labels, at: Timestamp, value: Value) {
        match self.0.entry(labels) {
            Entry::Vacant(entry) => drop(entry.insert((at, value))),
            Entry::Occupied(mut best) => {
                let instead = at == best.get().0 && best.get().1.is_stale();
                if at > best.get().0 || instead {
                    best.insert((at, value));
                }
            }
        }
    }

    pub fn take_piece(&mut self, piece: SeriesPart) {
        if let Some((at, histogram)) = series::order::newest(piece.histograms) {
            self.take_value(piece.labels.clone(), Timestamp(at), Value::Histogram(histogram));
        }
        if let Some(Sample { timestamp, value }) = series::order::newest(piece.samples) {
            self.take_value(piece.labels, timestamp, Value::Float(value));
        }
    }

    /// Whether the newest sample of any series is a marker.
    pub fn any_ended(&self) -> bool {
        self.0.values().any(|(_, value)| value.is_stale())
    }

    /// Whether a series has ended after this time.
    pub fn ended_after(&self, series: &Labels, at: Timestamp) -> bool {
        self.0.get(series).is_some_and(|(ended, value)| value.is_stale() && *ended > at)
    }

    /// Series whose newest sample is no marker.
    pub fn into_values(self) -> impl Iterator<Item = (Labels, Timestamp, Value)> {
        let alive = self.0.into_iter().filter(|(_, (_, value))| !value.is_stale());
        alive.map(|(labels, (timestamp, value))| (labels, timestamp, value))
    }

    /// Series whose newest sample is a float.
    pub fn into_floats(self) -> impl Iterator<Item = InstantSample> {
        self.into_values().filter_map(|(labels, timestamp, value)| match value {
            Value::Float(value) => Some(InstantSample { labels, timestamp, value }),
            Value::Histogram(_) => None,
        })
    }
}
