//! The rule for several samples of one series at one time.
//!
//! Two targets, a pushed series and a scraped one, or two blocks may hold the same series. Every reader and every writer
//! of chunks follows one rule, so that the answer does not depend on where samples lie:
//!
//!   * samples are ordered by time
//!   * of samples at one time the first one stays; sources are read in the order shards, chunks, blocks
//!   * a staleness marker gives way to a sample, wherever the marker came from

use crate::{Histogram, Sample, Timestamp, Value, is_stale};
use std::sync::Arc;

/// A value at a time, of any kind of sample.
pub trait Timed {
    /// Returns the time in Unix milliseconds.
    fn time_ms(&self) -> i64;

    /// Returns whether the value is a staleness marker.
    fn is_stale(&self) -> bool;
}

impl Timed for Sample {
    fn time_ms(&self) -> i64 {
        self.timestamp.0
    }

    fn is_stale(&self) -> bool {
        is_stale(self.value)
    }
}

/// A value of a kind that has a staleness marker.
pub trait Stale {
    /// Returns whether the value is a staleness marker.
    fn is_stale(&self) -> bool;
}

impl Stale for f64 {
    fn is_stale(&self) -> bool {
        is_stale(*self)
    }
}

impl Stale for Histogram {
    fn is_stale(&self) -> bool {
        is_stale(self.sum)
    }
}

impl Stale for Arc<Histogram> {
    fn is_stale(&self) -> bool {
        is_stale(self.sum)
    }
}

impl Stale for Value {
    fn is_stale(&self) -> bool {
        Value::is_stale(self)
    }
}

impl<V: Stale> Timed for (i64, V) {
    fn time_ms(&self) -> i64 {
        self.0
    }

    fn is_stale(&self) -> bool {
        self.1.is_stale()
    }
}

impl<V: Stale> Timed for (Timestamp, V) {
    fn time_ms(&self) -> i64 {
        self.0.0
    }

    fn is_stale(&self) -> bool {
        self.1.is_stale()
    }
}

impl<T: Timed> Timed for &T {
    fn time_ms(&self) -> i64 {
        (*self).time_ms()
    }

    fn is_stale(&self) -> bool {
        (*self).is_stale()
    }
}

/// Sorts samples of one series by time and leaves one for each time. Cheap if they are in order already.
pub fn dedupe<T: Timed>(samples: &mut Vec<T>) {
    if samples.is_sorted_by(|one, next| one.time_ms() < next.time_ms()) {
        return;
    }
    // The sort is stable: among equals the first stays the first.
    samples.sort_by_key(|sample| (sample.time_ms(), sample.is_stale()));
    samples.dedup_by_key(|sample| sample.time_ms());
}

/// Returns whether `candidate`, which was read later, takes the place of `best` as the newest sample of its series.
pub fn replaces(candidate: &impl Timed, best: &impl Timed) -> bool {
    match candidate.time_ms().cmp(&best.time_ms()) {
        std::cmp::Ordering::Greater => true,
        std::cmp::Ordering::Equal => best.is_stale() && !candidate.is_stale(),
        std::cmp::Ordering::Less => false,
    }
}

/// Returns the newest of some samples of one series, which may be a staleness marker.
pub fn newest<T: Timed>(samples: impl IntoIterator<Item = T>) -> Option<T> {
    samples.into_iter().reduce(|best, candidate| if replaces(&candidate, &best) { candidate } else { best })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::STALE_NAN;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// The rule as a map: what is at a time stays, unless it is a marker and a sample comes.
    fn model(samples: &[(i64, f64)]) -> BTreeMap<i64, f64> {
        let mut by_time = BTreeMap::new();
        for (at, value) in samples {
            let kept = by_time.entry(*at).or_insert(*value);
            if is_stale(*kept) && !is_stale(*value) {
                *kept = *value;
            }
        }
        by_time
    }

    fn bits(samples: impl IntoIterator<Item = (i64, f64)>) -> Vec<(i64, u64)> {
        samples.into_iter().map(|(at, value)| (at, value.to_bits())).collect()
    }

    proptest! {
        #[test]
        fn one_sample_for_each_time_is_left(
            all in proptest::collection::vec((0i64..12, prop_oneof![Just(STALE_NAN), (0u32..100).prop_map(f64::from)]), 0..40),
            split in 0usize..40,
        ) {
            let mut deduped = all.clone();
            dedupe(&mut deduped);
            let want = bits(model(&all));
            prop_assert_eq!(bits(deduped.iter().copied()), want.clone());
            prop_assert_eq!(newest(all.iter().copied()).map(|one| bits([one])), want.last().map(|one| vec![*one]));

            // Merging parts that are in order already gives the same.
            let (mut early, mut late) = (all[..split.min(all.len())].to_vec(), all[split.min(all.len())..].to_vec());
            dedupe(&mut early);
            dedupe(&mut late);
            early.extend(late);
            dedupe(&mut early);
            prop_assert_eq!(bits(early), want);

            // The rule does not depend on the kind of the sample.
            let mut samples: Vec<Sample> =
                all.iter().map(|(at, value)| Sample { timestamp: Timestamp(*at), value: *value }).collect();
            dedupe(&mut samples);
            prop_assert_eq!(bits(samples.iter().map(|sample| (sample.timestamp.0, sample.value))), bits(deduped.clone()));
            let histogram = |value: f64| Arc::new(Histogram { sum: value, ..Histogram::default() });
            let mut histograms: Vec<_> = all.iter().map(|(at, value)| (Timestamp(*at), histogram(*value))).collect();
            dedupe(&mut histograms);
            prop_assert_eq!(bits(histograms.iter().map(|(at, one)| (at.0, one.sum))), bits(deduped));
        }
    }
}
