//! Native histograms as values: sparse buckets of exponential or custom width, and their arithmetic.
//!
//! Counts are floats, as queries need them; an integer histogram from the wire is one whose counts are whole. Only
//! populated buckets are held, so two histograms of the same content are equal however they were sent.
//!
//! Source: the native histogram specification of Prometheus.
//!
//! Invariants:
//!   * buckets are sorted by index, each index once, no count is zero
//!   * custom buckets have no negative side and no zero bucket

use crate::format_float;
use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

/// The schema of histograms with custom buckets.
pub const CUSTOM_SCHEMA: i32 = -53;
/// Exponential schemas: the width of a bucket is 2^(2^-schema).
pub const SCHEMA_MIN: i32 = -4;
pub const SCHEMA_MAX: i32 = 8;

/// What is known about the sample before this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum ResetHint {
    #[default]
    Unknown,
    Reset,
    NotReset,
    Gauge,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BucketCount {
    pub index: i32,
    pub count: f64,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Histogram {
    pub hint: ResetHint,
    pub schema: i32,
    pub zero_threshold: f64,
    pub zero_count: f64,
    pub count: f64,
    pub sum: f64,
    pub positive: Vec<BucketCount>,
    pub negative: Vec<BucketCount>,
    /// Upper bounds of custom buckets; the last bucket ends at infinity.
    pub custom_values: Arc<[f64]>,
}

/// A bucket with its bounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bucket {
    pub lower: f64,
    pub upper: f64,
    pub lower_inclusive: bool,
    pub upper_inclusive: bool,
    pub count: f64,
}

/// What an addition or subtraction had to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reconciled {
    /// One operand began after a reset, the other did not.
    pub resets_collide: bool,
    pub custom_bounds: bool,
}

/// Exponential and custom buckets do not mix.
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

/// The bucket of a coarser schema that contains bucket `index`.
fn coarser_index(index: i32, from: i32, to: i32) -> i32 {
    (index.wrapping_sub(1) >> (from - to)).wrapping_add(1)
}

/// The upper bound of an exponential bucket.
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

/// Applies a monotonic function to the indexes, adding up what falls together.
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
    pub fn is_custom(&self) -> bool {
        self.schema == CUSTOM_SCHEMA
    }

    /// Drops buckets without observations.
    pub fn compact(&mut self) {
        self.positive.retain(|bucket| bucket.count != 0.0);
        self.negative.retain(|bucket| bucket.count != 0.0);
    }

    /// Equal in everything but the hint; sums that are NaN are equal.
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
        // The first custom bucket takes in what lies below every bound.
        let lower_inclusive = self.is_custom() && bucket.index == 0;
        Bucket { lower, upper, lower_inclusive, upper_inclusive: true, count: bucket.count }
    }

    fn negative_bucket(&self, bucket: BucketCount) -> Bucket {
        let (lower, upper) = (-self.bound(bucket.index), -self.bound(bucket.index.wrapping_sub(1)));
        Bucket { lower, upper, lower_inclusive: true, upper_inclusive: false, count: bucket.count }
    }

    /// All populated buckets, from the lowest to the highest.
    pub fn buckets(&self) -> impl DoubleEndedIterator<Item = Bucket> + '_ {
        let zero = (self.zero_count != 0.0 && !self.is_custom()).then_some(Bucket {
            lower: -self.zero_threshold,
            upper: self.zero_threshold,
            lower_inclusive: true,
            upper_inclusive: true,
            count: self.zero_count,
        });
        let negative = self.negative.iter().rev().map(|bucket| self.negative_bucket(*bucket));
        let positive = self.positive.iter().map(|bucket| self.positive_bucket(*bucket));
        negative.chain(zero).chain(positive)
    }

    /// A zero bucket lies on one side if buckets exist on that side only.
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

    /// Multiplies all counts and the sum. A negative factor makes a gauge of it.
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

    /// Divides all counts and the sum; a division by zero leaves no buckets.
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

    /// Lowers the resolution.
    pub fn reduce(&mut self, schema: i32) {
        assert!(!self.is_custom() && schema <= self.schema, "resolution is only ever lowered");
        let from = self.schema;
        if schema == from {
            return;
        }
        self.positive = reindexed(&self.positive, |index| coarser_index(index, from, schema));
        self.negative = reindexed(&self.negative, |index| coarser_index(index, from, schema));
        self.schema = schema;
    }

    /// Widens the zero bucket to at least `threshold`, further if it would cut a populated bucket.
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

    /// Adds bucket by bucket, at the resolution of the coarser one.
    pub fn add(&mut self, other: &Histogram) -> Result<Reconciled, Incompatible> {
        self.combine(other, 1.0)
    }

    /// Subtracts bucket by bucket; the hint is the caller's to set.
    pub fn sub(&mut self, other: &Histogram) -> Result<Reconciled, Incompatible> {
        self.combine(other, -1.0)
    }

    /// The hint of a sum; true if a reset meets its contrary.
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

    /// Whether a counter was reset between `before` and this.
    pub fn is_reset_after(&self, before: &Histogram) -> bool {
        match self.hint {
            ResetHint::Reset => return true,
            ResetHint::NotReset | ResetHint::Gauge => return false,
            ResetHint::Unknown => {}
        }
        self.detect_reset(before)
    }

    /// The same, without regard to the hint.
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
                // Its zero bucket would have cut a populated bucket.
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

    /// Keeps the observations below (`upper`) or above a value, as well as buckets can tell.
    pub fn trimmed(&self, at: f64, upper: bool) -> Histogram {
        let keeps_all = if upper { at == f64::INFINITY } else { at == f64::NEG_INFINITY };
        if keeps_all {
            return self.clone();
        }
        let (mut count, mut sum, mut changed) = (0.0, 0.0, false);
        // What is kept of a bucket, and the value that stands for it.
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
                    // How far down it reaches is unknown.
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
            let zero = Bucket {
                lower: -self.zero_threshold,
                upper: self.zero_threshold,
                lower_inclusive: true,
                upper_inclusive: true,
                count: self.zero_count,
            };
            out.zero_count = part(self.one_sided(zero), true);
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

/// The share of a finite bucket that lies below a value within it.
fn fraction_below(bucket: Bucket, at: f64, linear: bool) -> f64 {
    if linear {
        return (at - bucket.lower) / (bucket.upper - bucket.lower);
    }
    let (lower, upper, at_log) = (bucket.lower.abs().log2(), bucket.upper.abs().log2(), at.abs().log2());
    if bucket.lower > 0.0 { (at_log - lower) / (upper - lower) } else { 1.0 - (at_log - upper) / (lower - upper) }
}

/// The value that stands for what lies between two bounds.
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
    /// As PromQL writes a histogram into a label: `{count:4, sum:5, [-1,1]:2, (1,2]:2}`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{count:")?;
        format_float(self.count, f)?;
        f.write_str(", sum:")?;
        format_float(self.sum, f)?;
        for bucket in self.buckets() {
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
