//! Native histograms of exponential and of explicit buckets.

use super::data::{Buckets, ExponentialPoint, HistogramPoint};
use series::histogram::{BucketCount, CUSTOM_SCHEMA, ResetHint, SCHEMA_MAX, SCHEMA_MIN};
use series::{EXACT_INTEGER_MAX, Histogram, STALE_NAN};
use std::collections::BTreeMap;

/// Width of the zero bucket of points that say none.
const ZERO_THRESHOLD_DEFAULT: f64 = 1e-128;
/// Buckets of one histogram, as for remote write.
const BUCKETS_MAX: usize = 8192;

/// Populated buckets: those of OTLP, 2^`scale_down` of them in one. Their bounds are exclusive at the lower end, so the numbers are
/// one less than ours.
fn buckets(given: &Buckets, scale_down: i32) -> Result<Vec<BucketCount>, String> {
    if given.counts.len() > BUCKETS_MAX {
        return Err(format!("more than {BUCKETS_MAX} buckets are not taken"));
    }
    let mut counts: BTreeMap<i32, f64> = BTreeMap::new();
    for (i, count) in given.counts.iter().enumerate().filter(|(_, count)| **count > 0) {
        let number = i64::from(given.offset) + i as i64;
        // More than the bits of a number shift it to its sign.
        let index = (number >> scale_down.min(63)) + 1;
        let index = i32::try_from(index).map_err(|_| "a bucket is out of range".to_owned())?;
        *counts.entry(index).or_default() += *count as f64;
    }
    Ok(counts.into_iter().map(|(index, count)| BucketCount { index, count }).collect())
}

/// Why the counts do not fit each other, in Prometheus' words.
fn check(histogram: &Histogram) -> Result<(), String> {
    let buckets = histogram.positive.iter().chain(&histogram.negative);
    let observations = histogram.zero_count + buckets.map(|bucket| bucket.count).sum::<f64>();
    let count = histogram.count;
    if count > EXACT_INTEGER_MAX {
        return Err(format!("observation count is {count}: more than 2^53 are not kept exactly"));
    }
    let found = format!("{observations} observations found in buckets, but the Count field is {count}");
    if histogram.sum.is_nan() && observations > count {
        return Err(format!(
            "{found}: histogram's observation count should be at least the number of observations found in the buckets"
        ));
    }
    if !histogram.sum.is_nan() && observations != count {
        return Err(format!(
            "{found}: histogram's observation count should equal the number of observations found in the buckets (in \
             absence of NaN)"
        ));
    }
    Ok(())
}

/// A histogram that ends its series.
fn stale() -> Histogram {
    Histogram { sum: STALE_NAN, ..Histogram::default() }
}

/// A native histogram of an exponential one. A scale that is finer than ours is merged down.
pub fn exponential(point: &ExponentialPoint, hint: ResetHint) -> Result<Histogram, String> {
    if point.head.is_stale {
        return Ok(stale());
    }
    if point.scale < SCHEMA_MIN {
        return Err(format!(
            "cannot convert exponential to native histogram. Scale must be >= {SCHEMA_MIN}, was {}",
            point.scale
        ));
    }
    let scale_down = (point.scale - SCHEMA_MAX).max(0);
    let histogram = Histogram {
        hint,
        schema: point.scale.min(SCHEMA_MAX),
        zero_threshold: if point.zero_threshold > 0.0 { point.zero_threshold } else { ZERO_THRESHOLD_DEFAULT },
        zero_count: point.zero_count as f64,
        count: point.count as f64,
        sum: point.sum.unwrap_or(0.0),
        positive: buckets(&point.positive, scale_down)?,
        negative: buckets(&point.negative, scale_down)?,
        ..Histogram::default()
    };
    check(&histogram)?;
    Ok(histogram)
}

/// A native histogram with custom buckets of one with explicit bounds.
pub fn custom(point: &HistogramPoint, hint: ResetHint) -> Result<Histogram, String> {
    if point.head.is_stale {
        return Ok(stale());
    }
    let bounds = &point.bounds;
    if bounds.iter().any(|bound| !bound.is_finite()) || bounds.windows(2).any(|pair| pair[0] >= pair[1]) {
        return Err("histogram custom bounds must be finite and in strictly increasing order".to_owned());
    }
    let is_empty = point.bucket_counts.is_empty();
    if bounds.len() > BUCKETS_MAX || !is_empty && point.bucket_counts.len() != bounds.len() + 1 {
        let counts = point.bucket_counts.len();
        return Err(format!("{} bounds do not fit {counts} buckets of a histogram", bounds.len()));
    }
    let populated = point.bucket_counts.iter().enumerate().filter(|(_, count)| **count > 0);
    let mut positive: Vec<BucketCount> =
        populated.map(|(index, count)| BucketCount { index: index as i32, count: *count as f64 }).collect();
    if is_empty && point.count > 0 {
        positive.push(BucketCount { index: bounds.len() as i32, count: point.count as f64 });
    }
    let histogram = Histogram {
        hint,
        schema: CUSTOM_SCHEMA,
        count: point.count as f64,
        sum: point.sum.unwrap_or(0.0),
        positive,
        custom_values: bounds.as_slice().into(),
        ..Histogram::default()
    };
    check(&histogram)?;
    Ok(histogram)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(scale: i32, offset: i32, counts: &[u64]) -> ExponentialPoint {
        ExponentialPoint {
            count: counts.iter().sum(),
            sum: Some(7.5),
            scale,
            positive: Buckets { offset, counts: counts.to_vec() },
            ..ExponentialPoint::default()
        }
    }

    #[track_caller]
    fn check_buckets(point: &ExponentialPoint, schema: i32, want: &[(i32, f64)]) {
        let found = exponential(point, ResetHint::Unknown).unwrap();
        let pairs: Vec<(i32, f64)> = found.positive.iter().map(|bucket| (bucket.index, bucket.count)).collect();
        assert_eq!((found.schema, pairs), (schema, want.to_vec()));
        assert_eq!(found.zero_threshold, 1e-128);
    }

    /// Values from Prometheus' own cases: numbers are one higher, and finer scales merge.
    #[test]
    fn exponential_buckets_are_ours_and_finer_ones_are_merged() {
        check_buckets(&point(1, 1, &[4, 3, 2, 1]), 1, &[(2, 4.0), (3, 3.0), (4, 2.0), (5, 1.0)]);
        check_buckets(&point(9, 1, &[4, 3, 2, 1]), 8, &[(1, 4.0), (2, 5.0), (3, 1.0)]);
        check_buckets(&point(10, 1, &[4, 3, 2, 1]), 8, &[(1, 9.0), (2, 1.0)]);
        check_buckets(&point(8, -2, &[1, 0, 0, 0, 5]), 8, &[(-1, 1.0), (3, 5.0)]);
        check_buckets(&point(100, -3, &[1, 2]), 8, &[(0, 3.0)]);
        let error = exponential(&point(-5, 0, &[1]), ResetHint::Unknown).unwrap_err();
        assert!(error.contains("Scale must be >= -4, was -5"), "{error}");
        let wrong = ExponentialPoint { count: 3, ..point(0, 0, &[1]) };
        assert!(exponential(&wrong, ResetHint::Unknown).unwrap_err().contains("1 observations found in buckets"));
        let far = point(0, i32::MAX, &[1, 1]);
        assert_eq!(exponential(&far, ResetHint::Unknown).unwrap_err(), "a bucket is out of range");
    }

    #[test]
    fn explicit_buckets_are_custom_ones() {
        let point = HistogramPoint {
            count: 6,
            sum: Some(10.0),
            bucket_counts: vec![0, 2, 4],
            bounds: vec![1.0, 5.0],
            ..HistogramPoint::default()
        };
        let found = custom(&point, ResetHint::Gauge).unwrap();
        assert_eq!(
            (found.schema, found.hint, &*found.custom_values),
            (CUSTOM_SCHEMA, ResetHint::Gauge, &[1.0, 5.0][..])
        );
        assert_eq!(found.positive, [(1, 2.0), (2, 4.0)].map(|(index, count)| BucketCount { index, count }));
        let wrong = HistogramPoint { bounds: vec![5.0, 1.0], ..point };
        assert!(custom(&wrong, ResetHint::Unknown).is_err());
    }
}
