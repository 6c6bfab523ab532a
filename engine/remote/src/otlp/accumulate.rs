//! Adds up deltas, so that their series count from the first point that was seen on.
//!
//! The sums are in memory only: after a restart a series begins anew, which is a reset of a counter. As in the collector's processor,
//! a series that gets no points for five minutes is forgotten.
//!
//! Invariants:
//!   * at most [`STREAMS_MAX`] series are remembered; points of others are rejected and counted
//!   * a point that is not newer than the one before it changes nothing and is rejected

use super::translate::OtlpTranslation;
use ahash::AHashMap;
use series::{Histogram, Labels, is_stale};
use std::sync::Arc;

/// Series whose sums are remembered.
const STREAMS_MAX: usize = 500_000;
/// How long a series is remembered without points.
const STALE_AFTER_MS: i64 = 300_000;
/// How often those that are to be forgotten are looked for.
const SWEEP_EVERY_MS: i64 = 60_000;

enum Sum {
    Float(f64),
    Histogram(Box<Histogram>),
}

struct Stream {
    sum: Sum,
    /// Time of the newest point.
    newest_ms: i64,
    seen_ms: i64,
}

/// The sums of all series that come as deltas.
#[derive(Default)]
pub struct DeltaSums {
    streams: AHashMap<Labels, Stream>,
    swept_ms: i64,
}

impl std::fmt::Debug for DeltaSums {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DeltaSums").field("streams", &self.streams.len()).finish_non_exhaustive()
    }
}

impl DeltaSums {
    /// Replaces the deltas of a translation by sums.
    pub fn apply(&mut self, translation: &mut OtlpTranslation, now_ms: i64) {
        if now_ms >= self.swept_ms + SWEEP_EVERY_MS {
            self.swept_ms = now_ms;
            self.streams.retain(|_, stream| now_ms - stream.seen_ms < STALE_AFTER_MS);
        }
        let (mut old, mut too_many) = (0, 0);
        for place in &translation.deltas {
            let series = &mut translation.series[*place];
            let is_known = self.streams.contains_key(&series.labels);
            if !is_known && self.streams.len() >= STREAMS_MAX {
                too_many += series.samples.len() + series.histograms.len();
                series.samples.clear();
                series.histograms.clear();
                continue;
            }
            let labels = &series.labels;
            series.samples.retain_mut(|sample| {
                let added =
                    self.add(labels, sample.timestamp.0, now_ms, Sum::Float(sample.value), is_stale(sample.value));
                match added {
                    Some(Sum::Float(sum)) => sample.value = *sum,
                    Some(Sum::Histogram(_)) | None => old += 1,
                }
                added.is_some()
            });
            series.histograms.retain_mut(|(at, histogram)| {
                let given = Sum::Histogram(Box::new((**histogram).clone()));
                let added = self.add(labels, *at, now_ms, given, is_stale(histogram.sum));
                match added {
                    Some(Sum::Histogram(sum)) => *histogram = Arc::new((**sum).clone()),
                    Some(Sum::Float(_)) | None => old += 1,
                }
                added.is_some()
            });
        }
        for (points, reason) in [
            (old, "points that are not newer than the last one"),
            (too_many, "more series of deltas than are remembered"),
        ] {
            if points > 0 {
                translation.rejected_points += points as u64;
                translation.reasons.push(format!("{points} {reason}"));
            }
        }
    }

    /// The sum of a series with one more point; none if that is not newer.
    fn add(&mut self, labels: &Labels, at: i64, now_ms: i64, given: Sum, ends: bool) -> Option<&Sum> {
        let stream = match self.streams.entry(labels.clone()) {
            std::collections::hash_map::Entry::Vacant(entry) => {
                return Some(&entry.insert(Stream { sum: given, newest_ms: at, seen_ms: now_ms }).sum);
            }
            std::collections::hash_map::Entry::Occupied(entry) => entry.into_mut(),
        };
        stream.seen_ms = now_ms;
        if at <= stream.newest_ms {
            return None;
        }
        stream.newest_ms = at;
        let was_ended = match &stream.sum {
            Sum::Float(sum) => is_stale(*sum),
            Sum::Histogram(sum) => is_stale(sum.sum),
        };
        match (&mut stream.sum, given) {
            // A marker stands for itself, and what comes behind it begins anew.
            (sum, given) if ends || was_ended => *sum = given,
            (Sum::Float(sum), Sum::Float(more)) => *sum += more,
            (Sum::Histogram(sum), Sum::Histogram(more)) => {
                // Other bounds than before are another histogram: it begins anew.
                let before = sum.clone();
                if sum.add(&more).is_err() {
                    *sum = more;
                } else {
                    sum.hint = before.hint;
                }
            }
            (sum, given) => *sum = given,
        }
        Some(&stream.sum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::write::Incoming;
    use series::histogram::BucketCount;
    use series::{STALE_NAN, Sample, Timestamp};

    fn apply(sums: &mut DeltaSums, samples: &[(i64, f64)], now_ms: i64) -> (Vec<(i64, f64)>, u64) {
        let sample = |(at, value): &(i64, f64)| Sample { timestamp: Timestamp(*at), value: *value };
        let labels = Labels::from_pairs([("__name__", "a")]);
        let series = Incoming {
            labels,
            samples: samples.iter().map(sample).collect(),
            histograms: Vec::new(),
            starts: Vec::new(),
        };
        let mut translation = OtlpTranslation { series: vec![series], deltas: vec![0], ..OtlpTranslation::default() };
        sums.apply(&mut translation, now_ms);
        let found = translation.series[0].samples.iter().map(|sample| (sample.timestamp.0, sample.value)).collect();
        (found, translation.rejected_points)
    }

    #[test]
    fn deltas_add_up_until_they_are_forgotten() {
        let mut sums = DeltaSums::default();
        assert_eq!(apply(&mut sums, &[(1, 2.0), (2, 3.0)], 0), (vec![(1, 2.0), (2, 5.0)], 0));
        assert_eq!(apply(&mut sums, &[(2, 9.0), (3, 1.0)], 1_000), (vec![(3, 6.0)], 1));
        let (ended, _) = apply(&mut sums, &[(4, STALE_NAN)], 2_000);
        assert!(is_stale(ended[0].1));
        assert_eq!(apply(&mut sums, &[(5, 1.0)], 3_000).0, [(5, 1.0)]);
        assert_eq!(apply(&mut sums, &[(6, 1.0)], 200_000).0, [(6, 2.0)]);
        assert_eq!(apply(&mut sums, &[(7, 1.0)], 600_000).0, [(7, 1.0)]);
    }

    #[test]
    fn histograms_add_up_bucket_by_bucket() {
        let mut sums = DeltaSums::default();
        let mut counts = Vec::new();
        for at in 1..4 {
            let buckets = vec![BucketCount { index: 1, count: 2.0 }];
            let histogram = Histogram { count: 2.0, sum: 1.5, positive: buckets, ..Histogram::default() };
            let labels = Labels::from_pairs([("__name__", "h")]);
            let series = Incoming {
                labels,
                samples: Vec::new(),
                histograms: vec![(at, Arc::new(histogram))],
                starts: Vec::new(),
            };
            let mut translation =
                OtlpTranslation { series: vec![series], deltas: vec![0], ..OtlpTranslation::default() };
            sums.apply(&mut translation, 0);
            let (_, sum) = &translation.series[0].histograms[0];
            counts.push((sum.count, sum.sum, sum.positive[0].count));
        }
        assert_eq!(counts, [(2.0, 1.5, 2.0), (4.0, 3.0, 4.0), (6.0, 4.5, 6.0)]);
    }
}
