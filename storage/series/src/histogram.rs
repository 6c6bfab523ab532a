//! Native histograms: sparse buckets of exponential or custom width, and their arithmetic.
//!
//! Counts are floats, as queries need them; an integer histogram has whole counts. Only populated buckets are stored, so
//! two histograms of the same content are equal, whatever their encoding was.
//!
//! Source: the native histogram specification of Prometheus.
//!
//! Invariants:
//!   * buckets are sorted by index, each index once, no count is zero
//!   * custom buckets have no negative side and no zero bucket

use crate::float::format_float;
use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

/// Schema number of histograms with custom buckets.
pub const CUSTOM_SCHEMA: i32 = -53;
/// Lowest resolution of an exponential schema. Each bucket is wider than the one before by the factor 2^(2^-schema).
pub const SCHEMA_MIN: i32 = -4;
/// Highest resolution of an exponential schema.
pub const SCHEMA_MAX: i32 = 8;

/// Whether a counter was reset between the previous sample and this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum ResetHint {
    /// Has to be detected from the values.
    #[default]
    Unknown,
    /// It was reset.
    Reset,
    /// It was not reset.
    NotReset,
    /// A gauge, for which resets have no meaning.
    Gauge,
}

/// A populated bucket.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BucketCount {
    /// Position in the schema; the bucket's upper bound follows from it.
    pub index: i32,
    /// Number of observations.
    pub count: f64,
}

/// A native histogram.
#[derive(Clone, Debug, PartialEq)]
pub struct Histogram {
    /// Whether the counter was reset before this sample.
    pub hint: ResetHint,
    /// Resolution, [`SCHEMA_MIN`] to [`SCHEMA_MAX`], or [`CUSTOM_SCHEMA`].
    pub schema: i32,
    /// Width of the zero bucket to both sides.
    pub zero_threshold: f64,
    /// Number of observations in the zero bucket.
    pub zero_count: f64,
    /// Number of all observations.
    pub count: f64,
    /// Sum of all observations.
    pub sum: f64,
    /// Buckets above zero, or all custom buckets.
    pub positive: Vec<BucketCount>,
    /// Buckets below zero; their bounds are those of `positive`, negated.
    pub negative: Vec<BucketCount>,
    /// Upper bounds of custom buckets; the last bucket ends at infinity.
    pub custom_values: Arc<[f64]>,
}

/// A bucket with its bounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bucket {
    /// Lower bound.
    pub lower: f64,
    /// Upper bound.
    pub upper: f64,
    /// Whether `lower` itself is in the bucket.
    pub lower_inclusive: bool,
    /// Whether `upper` itself is in the bucket.
    pub upper_inclusive: bool,
    /// Number of observations.
    pub count: f64,
}

/// Side effects of an addition or subtraction, which queries report as annotations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reconciled {
    /// One operand has the hint of a reset, the other that of none.
    pub resets_collide: bool,
    /// Custom bounds differed and were reduced to their common ones.
    pub custom_bounds: bool,
}

/// Error of arithmetic between exponential and custom buckets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Incompatible;

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram {
            hint: ResetHint::Unknown,
            schema: 0,
            zero_threshold: 0.0,
            zero_count: 0.0,
            count: 0.0,
            sum: 0.0,
            positive: Vec::new(),
            negative: Vec::new(),
            custom_values: Arc::from([]),
        }
    }
}

/// Returns the bucket of schema `to` that contains bucket `index` of the finer schema `from`.
fn coarser_index(index: i32, from: i32, to: i32) -> i32 {
    (index.wrapping_sub(1) >> (from - to)).wrapping_add(1)
}

/// Returns the upper bound of an exponential bucket.
fn exponential_bound(index: i32, schema: i32) -> f64 {
    if schema < 0 {
        let exponent = i64::from(index) << -schema;
        if exponent == 1024 {
            // The last bucket below infinity.
            return f64::MAX;
        }
        return f64::exp2(exponent as f64);
    }
    let steps = 1i32 << schema;
    let (fraction, exponent) = (index.rem_euclid(steps), i64::from(index.div_euclid(steps)));
    if fraction == 0 && exponent == 1024 {
        return f64::MAX;
    }
    f64::exp2(f64::from(fraction) / f64::from(steps)) * f64::exp2(exponent as f64)
}

/// Adds `sign * other` to `buckets`, bucket by bucket.
fn merge(buckets: &mut Vec<BucketCount>, other: &[BucketCount], sign: f64) {
    let mut merged = Vec::with_capacity(buckets.len() + other.len());
    let (mut left, mut right) = (buckets.iter().peekable(), other.iter().peekable());
    loop {
        let next = match (left.peek(), right.peek()) {
            (None, None) => break,
            (Some(l), Some(r)) if l.index == r.index => {
                let next = BucketCount { index: l.index, count: l.count + sign * r.count };
                left.next();
                right.next();
                next
            }
            (Some(l), Some(r)) if l.index > r.index => {
                let next = BucketCount { index: r.index, count: sign * r.count };
                right.next();
                next
            }
            (Some(l), _) => {
                let next = **l;
                left.next();
                next
            }
            (None, Some(r)) => {
                let next = BucketCount { index: r.index, count: sign * r.count };
                right.next();
                next
            }
        };
        if next.count != 0.0 {
            merged.push(next);
        }
    }
    *buckets = merged;
}

/// Applies a monotonic function to the indexes and adds the counts of equal ones.
fn reindexed(buckets: &[BucketCount], of: impl Fn(i32) -> i32) -> Vec<BucketCount> {
    let mut out: Vec<BucketCount> = Vec::with_capacity(buckets.len());
    for bucket in buckets {
        let index = of(bucket.index);
        match out.last_mut() {
            Some(last) if last.index == index => last.count += bucket.count,
            _ => out.push(BucketCount { index, count: bucket.count }),
        }
    }
    out.retain(|bucket| bucket.count != 0.0);
    out
}

fn same_bounds(one: &[f64], other: &[f64]) -> bool {
    one.len() == other.len() && one.iter().zip(other).all(|(a, b)| a == b)
}

impl Histogram {
    /// Returns whether the buckets have custom bounds.
    pub fn is_custom(&self) -> bool {
        self.schema == CUSTOM_SCHEMA
    }

    /// Removes buckets without observations.
    pub fn compact(&mut self) {
        self.positive.retain(|bucket| bucket.count != 0.0);
        self.negative.retain(|bucket| bucket.count != 0.0);
    }

    /// Returns whether everything but the hint is equal. Two sums that are NaN count as equal.
    pub fn same_as(&self, other: &Histogram) -> bool {
        let same = |a: f64, b: f64| a == b || (a.is_nan() && b.is_nan());
        let buckets = |a: &[BucketCount], b: &[BucketCount]| a == b;
        self.schema == other.schema
            && same(self.count, other.count)
            && same(self.sum, other.sum)
            && (self.is_custom()
                || (self.zero_threshold == other.zero_threshold && self.zero_count == other.zero_count))
            && same_bounds(&self.custom_values, &other.custom_values)
            && buckets(&self.positive, &other.positive)
            && buckets(&self.negative, &other.negative)
    }

    fn bound(&self, index: i32) -> f64 {
        if !self.is_custom() {
            return exponential_bound(index, self.schema);
        }
        match usize::try_from(index) {
            Err(_) => f64::NEG_INFINITY,
            Ok(index) => self.custom_values.get(index).copied().unwrap_or(f64::INFINITY),
        }
    }

    fn positive_bucket(&self, bucket: BucketCount) -> Bucket {
        let (lower, upper) = (self.bound(bucket.index.wrapping_sub(1)), self.bound(bucket.index));
        // The first custom bucket has no lower bound.
        let lower_inclusive = self.is_custom() && bucket.index == 0;
        Bucket { lower, upper, lower_inclusive, upper_inclusive: true, count: bucket.count }
    }

    fn negative_bucket(&self, bucket: BucketCount) -> Bucket {
        let (lower, upper) = (-self.bound(bucket.index), -self.bound(bucket.index.wrapping_sub(1)));
        Bucket { lower, upper, lower_inclusive: true, upper_inclusive: false, count: bucket.count }
    }

    /// Returns all populated buckets, from the lowest to the highest.
    pub fn buckets(&self) -> impl DoubleEndedIterator<Item = Bucket> + '_ {
        // As in Prometheus, a zero bucket of a negative count is no bucket here.
        let zero = (self.zero_count > 0.0 && !self.is_custom()).then(|| self.zero_bucket());
        let negative = self.negative.iter().rev().map(|bucket| self.negative_bucket(*bucket));
        let positive = self.positive.iter().map(|bucket| self.positive_bucket(*bucket));
        negative.chain(zero).chain(positive)
    }

    fn zero_bucket(&self) -> Bucket {
        Bucket {
            lower: -self.zero_threshold,
            upper: self.zero_threshold,
            lower_inclusive: true,
            upper_inclusive: true,
            count: self.zero_count,
        }
    }

    /// Returns `bucket` with its bounds restricted to one side of zero, if it is the zero bucket and other buckets exist on
    /// that side only.
    pub fn one_sided(&self, mut bucket: Bucket) -> Bucket {
        if !self.is_custom() && bucket.lower < 0.0 && bucket.upper > 0.0 {
            if self.negative.is_empty() && !self.positive.is_empty() {
                bucket.lower = 0.0;
            } else if self.positive.is_empty() && !self.negative.is_empty() {
                bucket.upper = 0.0;
            }
        }
        bucket
    }

    /// Multiplies all counts and the sum. After a negative factor the histogram is a gauge.
    pub fn scale(&mut self, factor: f64) {
        self.zero_count *= factor;
        self.count *= factor;
        self.sum *= factor;
        for bucket in self.positive.iter_mut().chain(&mut self.negative) {
            bucket.count *= factor;
        }
        self.compact();
        if factor < 0.0 {
            self.hint = ResetHint::Gauge;
        }
    }

    /// Divides all counts and the sum. A division by zero removes all buckets.
    pub fn divide(&mut self, divisor: f64) {
        self.zero_count /= divisor;
        self.count /= divisor;
        self.sum /= divisor;
        if divisor == 0.0 {
            self.positive.clear();
            self.negative.clear();
        }
        for bucket in self.positive.iter_mut().chain(&mut self.negative) {
            bucket.count /= divisor;
        }
        self.compact();
        if divisor < 0.0 {
            self.hint = ResetHint::Gauge;
        }
    }

    /// Lowers the resolution to `schema`.
    ///
    /// # Panics
    /// If `schema` is a higher resolution, or the buckets are custom.
    pub fn reduce(&mut self, schema: i32) {
        assert!(!self.is_custom() && schema <= self.schema, "reduce() only lowers the resolution");
        let from = self.schema;
        if schema == from {
            return;
        }
        self.positive = reindexed(&self.positive, |index| coarser_index(index, from, schema));
        self.negative = reindexed(&self.negative, |index| coarser_index(index, from, schema));
        self.schema = schema;
    }

    /// Widens the zero bucket to at least `threshold`, and to the end of a populated bucket that `threshold` would split.
    fn widen_zero(&mut self, threshold: f64) {
        if threshold <= self.zero_threshold {
            return;
        }
        let mut threshold = threshold;
        'widen: loop {
            let mut count = self.zero_count;
            for buckets in [&self.positive, &self.negative] {
                for bucket in buckets.iter() {
                    let (lower, upper) = (self.bound(bucket.index.wrapping_sub(1)), self.bound(bucket.index));
                    if lower >= threshold {
                        break;
                    }
                    if upper > threshold {
                        threshold = upper;
                        continue 'widen;
                    }
                    count += bucket.count;
                }
            }
            self.zero_count = count;
            break;
        }
        let schema = self.schema;
        let outside = |bucket: &BucketCount| exponential_bound(bucket.index.wrapping_sub(1), schema) >= threshold;
        self.positive.retain(outside);
        self.negative.retain(outside);
        self.zero_threshold = threshold;
    }

    fn rebound(&mut self, bounds: &Arc<[f64]>) {
        let old = Arc::clone(&self.custom_values);
        self.positive = reindexed(&self.positive, |index| {
            let upper = usize::try_from(index).ok().and_then(|index| old.get(index)).copied().unwrap_or(f64::INFINITY);
            bounds.iter().position(|bound| *bound >= upper).unwrap_or(bounds.len()) as i32
        });
        self.custom_values = Arc::clone(bounds);
    }

    fn combine(&mut self, other: &Histogram, sign: f64) -> Result<Reconciled, Incompatible> {
        if self.is_custom() != other.is_custom() {
            return Err(Incompatible);
        }
        let mut done = Reconciled { resets_collide: self.join_hints(other.hint), ..Reconciled::default() };
        self.count += sign * other.count;
        self.sum += sign * other.sum;
        if self.is_custom() {
            if same_bounds(&self.custom_values, &other.custom_values) {
                merge(&mut self.positive, &other.positive, sign);
                return Ok(done);
            }
            done.custom_bounds = true;
            let common: Arc<[f64]> =
                self.custom_values.iter().copied().filter(|bound| other.custom_values.contains(bound)).collect();
            let mut other = other.clone();
            other.rebound(&common);
            self.rebound(&common);
            merge(&mut self.positive, &other.positive, sign);
            return Ok(done);
        }
        let mut other = std::borrow::Cow::Borrowed(other);
        while self.zero_threshold != other.zero_threshold {
            if self.zero_threshold < other.zero_threshold {
                self.widen_zero(other.zero_threshold);
            } else {
                other.to_mut().widen_zero(self.zero_threshold);
            }
        }
        self.zero_count += sign * other.zero_count;
        match self.schema.cmp(&other.schema) {
            Ordering::Greater => self.reduce(other.schema),
            Ordering::Less => other.to_mut().reduce(self.schema),
            Ordering::Equal => {}
        }
        merge(&mut self.positive, &other.positive, sign);
        merge(&mut self.negative, &other.negative, sign);
        Ok(done)
    }

    /// Adds `other` bucket by bucket, at the coarser resolution of the two.
    pub fn add(&mut self, other: &Histogram) -> Result<Reconciled, Incompatible> {
        self.combine(other, 1.0)
    }

    /// Subtracts `other` bucket by bucket, at the coarser resolution of the two. The caller sets the hint.
    pub fn sub(&mut self, other: &Histogram) -> Result<Reconciled, Incompatible> {
        self.combine(other, -1.0)
    }

    /// Sets the hint of a sum. Returns whether one operand was reset and the other was not.
    fn join_hints(&mut self, other: ResetHint) -> bool {
        use ResetHint::*;
        match (self.hint, other) {
            (one, other) if one == other => {}
            (Gauge, _) => {}
            (_, Gauge) => self.hint = Gauge,
            (Unknown, _) => {}
            (_, Unknown) => self.hint = Unknown,
            _ => {
                self.hint = Unknown;
                return true;
            }
        }
        false
    }

    /// Returns whether the counter was reset between `before` and this sample.
    pub fn is_reset_after(&self, before: &Histogram) -> bool {
        match self.hint {
            ResetHint::Reset => return true,
            ResetHint::NotReset | ResetHint::Gauge => return false,
            ResetHint::Unknown => {}
        }
        self.detect_reset(before)
    }

    /// Does the same without regard to the hint.
    pub fn detect_reset(&self, before: &Histogram) -> bool {
        if self.count < before.count || self.is_custom() != before.is_custom() {
            return true;
        }
        let falls = |now: &[BucketCount], before: &[BucketCount]| {
            let mut now = now.iter().peekable();
            before.iter().any(|old| {
                while now.peek().is_some_and(|bucket| bucket.index < old.index) {
                    now.next();
                }
                let count = now.peek().filter(|bucket| bucket.index == old.index).map_or(0.0, |bucket| bucket.count);
                count < old.count
            })
        };
        if self.is_custom() {
            if same_bounds(&self.custom_values, &before.custom_values) {
                return falls(&self.positive, &before.positive);
            }
            let common: Arc<[f64]> =
                self.custom_values.iter().copied().filter(|bound| before.custom_values.contains(bound)).collect();
            let (mut now, mut before) = (self.clone(), before.clone());
            now.rebound(&common);
            before.rebound(&common);
            return falls(&now.positive, &before.positive);
        }
        if self.schema > before.schema || self.zero_threshold < before.zero_threshold {
            return true;
        }
        let mut before = std::borrow::Cow::Borrowed(before);
        if before.zero_threshold < self.zero_threshold {
            before.to_mut().widen_zero(self.zero_threshold);
            if before.zero_threshold != self.zero_threshold {
                // Its zero bucket would split a populated bucket.
                return true;
            }
        }
        if self.zero_count < before.zero_count {
            return true;
        }
        if before.schema > self.schema {
            before.to_mut().reduce(self.schema);
        }
        falls(&self.positive, &before.positive) || falls(&self.negative, &before.negative)
    }

    /// Returns the histogram without the observations above (`upper`) or below `at`, estimated within the bucket that
    /// contains `at`.
    pub fn trimmed(&self, at: f64, upper: bool) -> Histogram {
        let keeps_all = if upper { at == f64::INFINITY } else { at == f64::NEG_INFINITY };
        if keeps_all {
            return self.clone();
        }
        let (mut count, mut sum, mut changed) = (0.0, 0.0, false);
        // Returns what remains of a bucket's count, and adds it to `count` and `sum`.
        let mut part = |bucket: Bucket, is_zero: bool| -> f64 {
            let custom = self.is_custom();
            let (lower, high) = (bucket.lower, bucket.upper);
            if bucket.count == 0.0 {
                return 0.0;
            }
            let (kept, from, to);
            if upper {
                if high <= at {
                    (kept, from, to) = (bucket.count, lower, high);
                } else if lower >= at && !(custom && lower == f64::NEG_INFINITY) || high == f64::INFINITY {
                    (kept, from, to) = (0.0, lower, high);
                } else if lower == f64::NEG_INFINITY && high <= 0.0 {
                    // The bucket has no lower bound.
                    (kept, from, to) = (if at == f64::NEG_INFINITY { 0.0 } else { bucket.count }, at, at);
                } else if lower == f64::NEG_INFINITY {
                    (kept, from, to) = (bucket.count * (at / high).max(0.0), 0.0, at);
                } else {
                    (kept, from, to) = (bucket.count * fraction_below(bucket, at, custom || is_zero), lower, at);
                }
            } else if lower >= at {
                (kept, from, to) = (bucket.count, lower, high);
            } else if high <= at || lower == f64::NEG_INFINITY && (high <= 0.0 || at < 0.0) {
                (kept, from, to) = (0.0, lower, high);
            } else if high == f64::INFINITY {
                (kept, from, to) =
                    (if at == f64::INFINITY || lower == f64::NEG_INFINITY { 0.0 } else { bucket.count }, at, at);
            } else if lower == f64::NEG_INFINITY {
                (kept, from, to) = (bucket.count * (1.0 - at / high), at, high);
            } else {
                let below = fraction_below(bucket, at, custom || is_zero);
                (kept, from, to) = (bucket.count * (1.0 - below), at, high);
            }
            if kept != bucket.count {
                changed = true;
            }
            if kept != 0.0 {
                count += kept;
                sum += kept * representative(from, to, custom || is_zero);
            }
            kept
        };
        let mut out = self.clone();
        for bucket in &mut out.negative {
            bucket.count = part(self.negative_bucket(*bucket), false);
        }
        if !self.is_custom() && self.zero_count != 0.0 {
            out.zero_count = part(self.one_sided(self.zero_bucket()), true);
        }
        for bucket in &mut out.positive {
            bucket.count = part(self.positive_bucket(*bucket), false);
        }
        out.compact();
        if changed {
            (out.count, out.sum) = (count, sum);
        }
        out
    }
}

/// Returns the estimated share of a finite bucket's observations that is below `at`, a value within it.
fn fraction_below(bucket: Bucket, at: f64, linear: bool) -> f64 {
    if linear {
        return (at - bucket.lower) / (bucket.upper - bucket.lower);
    }
    let (lower, upper, at_log) = (bucket.lower.abs().log2(), bucket.upper.abs().log2(), at.abs().log2());
    if bucket.lower > 0.0 { (at_log - lower) / (upper - lower) } else { 1.0 - (at_log - upper) / (lower - upper) }
}

/// Returns the value that represents the observations between two bounds.
fn representative(from: f64, to: f64, linear: bool) -> f64 {
    if from == f64::NEG_INFINITY {
        return if to > 0.0 { to / 2.0 } else { to };
    }
    if to == f64::INFINITY {
        return from;
    }
    if linear {
        return f64::midpoint(from, to);
    }
    let middle = (from.abs() * to.abs()).sqrt();
    if from < 0.0 { -middle } else { middle }
}

impl fmt::Display for Histogram {
    /// Writes the form that PromQL puts into a label: `{count:4, sum:5, [-1,1]:2, (1,2]:2}`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{count:")?;
        format_float(self.count, f)?;
        f.write_str(", sum:")?;
        format_float(self.sum, f)?;
        // Every bucket that is not empty, a negative zero bucket among them.
        let negative = self.negative.iter().rev().map(|bucket| self.negative_bucket(*bucket));
        let zero = (self.zero_count != 0.0 && !self.is_custom()).then(|| self.zero_bucket());
        let positive = self.positive.iter().map(|bucket| self.positive_bucket(*bucket));
        for bucket in negative.chain(zero).chain(positive) {
            f.write_str(if bucket.lower_inclusive { ", [" } else { ", (" })?;
            format_float(bucket.lower, f)?;
            f.write_str(",")?;
            format_float(bucket.upper, f)?;
            f.write_str(if bucket.upper_inclusive { "]:" } else { "):" })?;
            format_float(bucket.count, f)?;
        }
        f.write_str("}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn buckets(counts: &[(i32, f64)]) -> Vec<BucketCount> {
        counts.iter().map(|(index, count)| BucketCount { index: *index, count: *count }).collect()
    }

    #[test]
    fn bounds_are_powers() {
        for (index, schema, want) in [
            (0, 0, 1.0),
            (1, 0, 2.0),
            (-1, 0, 0.5),
            (1, 1, std::f64::consts::SQRT_2),
            (1, -1, 4.0),
            (1024, 0, f64::MAX),
            (-1074, 0, 5e-324),
        ] {
            assert_eq!(exponential_bound(index, schema), want, "index {index} of schema {schema}");
        }
    }

    #[test]
    fn addition_takes_the_coarser_resolution_and_the_wider_zero_bucket() {
        let mut one =
            Histogram { schema: 1, count: 3.0, positive: buckets(&[(1, 1.0), (2, 2.0)]), ..Histogram::default() };
        let other = Histogram {
            count: 2.0,
            zero_threshold: 0.1,
            zero_count: 1.0,
            positive: buckets(&[(1, 1.0)]),
            ..Histogram::default()
        };
        assert_eq!(one.add(&other), Ok(Reconciled::default()));
        assert_eq!((one.schema, one.count, one.zero_threshold, one.zero_count), (0, 5.0, 0.1, 1.0));
        assert_eq!(one.positive, buckets(&[(1, 4.0)]));
        assert_eq!(one.to_string(), "{count:5, sum:0, [-0.1,0.1]:1, (1,2]:4}");
    }

    #[test]
    fn a_zero_bucket_never_cuts_a_bucket() {
        let mut one = Histogram { positive: buckets(&[(0, 2.0), (1, 1.0)]), ..Histogram::default() };
        one.widen_zero(0.75);
        assert_eq!((one.zero_threshold, one.zero_count), (1.0, 2.0));
        assert_eq!(one.positive, buckets(&[(1, 1.0)]));
    }

    #[test]
    fn custom_buckets_meet_at_their_common_bounds() {
        let custom = |values: &[f64], counts: &[(i32, f64)]| Histogram {
            schema: CUSTOM_SCHEMA,
            custom_values: values.into(),
            positive: buckets(counts),
            ..Histogram::default()
        };
        let mut one = custom(&[2.0, 4.0, 6.0], &[(0, 1.0), (1, 2.0), (2, 5.0), (3, 7.0)]);
        let other = custom(&[4.0, 8.0], &[(0, 1.0), (1, 1.0)]);
        assert!(one.add(&other).unwrap().custom_bounds);
        assert_eq!(*one.custom_values, [4.0]);
        assert_eq!(one.positive, buckets(&[(0, 4.0), (1, 13.0)]));
        assert_eq!(one.add(&Histogram::default()), Err(Incompatible));
    }

    #[test]
    fn resets_are_seen_in_any_bucket() {
        let before = Histogram { count: 3.0, positive: buckets(&[(1, 1.0), (3, 2.0)]), ..Histogram::default() };
        let mut now = Histogram { count: 9.0, positive: buckets(&[(1, 1.0), (3, 8.0)]), ..before.clone() };
        assert!(!now.is_reset_after(&before));
        now.positive[0].count = 0.5;
        assert!(now.is_reset_after(&before));
        now.hint = ResetHint::NotReset;
        assert!(!now.is_reset_after(&before));
        let finer = Histogram { schema: 1, count: 9.0, ..Histogram::default() };
        assert!(finer.detect_reset(&before));
    }
}
