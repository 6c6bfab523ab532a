//! Arithmetic of samples: sums, means, quantiles, regression, and the labels of groups.

use crate::annotations::AnnotationSink;
use crate::eval::value::is_metadata;
use crate::syntax::ast::Aggregate;
use series::histogram::{Histogram, Incompatible, Reconciled, ResetHint};
use series::{Labels, Sample};

/// A number as Prometheus' texts show it.
pub(crate) fn float_text(value: f64) -> String {
    let mut text = String::new();
    // Writing into a string does not fail.
    let _ = series::format_float(value, &mut text);
    text
}

pub(crate) fn seconds(ms: i64) -> f64 {
    ms as f64 / 1000.0
}

/// Sums with a correction for what rounding loses (Neumaier, 1974).
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Sum {
    pub sum: f64,
    pub lost: f64,
}

impl Sum {
    #[inline]
    pub fn add(&mut self, value: f64) {
        let sum = self.sum + value;
        if sum.is_infinite() {
            self.lost = 0.0;
        } else if self.sum.abs() >= value.abs() {
            self.lost += (self.sum - sum) + value;
        } else {
            self.lost += (value - sum) + self.sum;
        }
        self.sum = sum;
    }

    pub fn get(self) -> f64 {
        if self.sum.is_infinite() { self.sum } else { self.sum + self.lost }
    }
}

pub(crate) fn sum(values: impl Iterator<Item = f64>) -> f64 {
    let mut sum = Sum::default();
    values.for_each(|value| sum.add(value));
    sum.get()
}

/// The mean, also where the sum passes what a float holds.
pub(crate) fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let mut mean = Mean::default();
    values.for_each(|value| mean.add(value));
    mean.get()
}

/// A sum for as long as it is finite, then a mean that moves.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Mean {
    sum: Sum,
    count: f64,
    moving: bool,
}

impl Mean {
    pub fn add(&mut self, value: f64) {
        self.count += 1.0;

        if !self.moving {
            let mut next = self.sum;
            next.add(value);
            if self.count == 1.0 || !next.sum.is_infinite() {
                self.sum = next;
                return;
            }
            self.moving = true;
            let before = self.count - 1.0;
            self.sum.sum /= before;
            self.sum.lost /= before;
        }
        let q = (self.count - 1.0) / self.count;
        let mut next = Sum { sum: q * self.sum.sum, lost: q * self.sum.lost };
        next.add(value / self.count);
        self.sum = next;
    }

    pub fn get(self) -> f64 {
        if self.moving { self.sum.get() } else { self.sum.sum / self.count + self.sum.lost / self.count }
    }
}

/// Population variance (Welford, with compensated sums).
pub(crate) fn variance(values: impl Iterator<Item = f64>) -> f64 {
    let (mut count, mut mean, mut squares) = (0.0, Sum::default(), Sum::default());
    for value in values {
        count += 1.0;
        let delta = value - mean.get();
        mean.add(delta / count);
        squares.add(delta * (value - mean.get()));
    }
    squares.get() / count
}

/// The order of two floats that are not NaN. Both zeros are equal.
pub(crate) fn by_value(one: f64, other: f64) -> std::cmp::Ordering {
    one.partial_cmp(&other).unwrap_or(std::cmp::Ordering::Equal)
}

/// The q-quantile, between neighbours in proportion. NaN is the smallest value.
pub(crate) fn quantile(q: f64, values: &mut [f64]) -> f64 {
    if values.is_empty() || q.is_nan() {
        return f64::NAN;
    }
    if q < 0.0 {
        return f64::NEG_INFINITY;
    }
    if q > 1.0 {
        return f64::INFINITY;
    }
    values.sort_unstable_by(|a, b| match (a.is_nan(), b.is_nan()) {
        (false, false) => a.total_cmp(b),
        (a, b) => b.cmp(&a),
    });
    let rank = q * (values.len() as f64 - 1.0);
    let lower = rank.floor().max(0.0);
    let upper = (lower + 1.0).min(values.len() as f64 - 1.0);
    let weight = rank - lower;
    values[lower as usize] * (1.0 - weight) + values[upper as usize] * weight
}

/// How much the change between the first and last sample of a window grows when it is extended to the window's ends. A
/// counter was never below zero: `zero_share` is its first value in relation to the change.
pub(crate) fn factor(
    first: i64,
    last: i64,
    count: usize,
    start: i64,
    end: i64,
    zero_share: Option<f64>,
    per_second: bool,
) -> f64 {
    let sampled = seconds(last - first);
    let between = sampled / (count - 1) as f64;
    let (mut before, mut behind) = (seconds(first - start), seconds(end - last));
    let threshold = between * 1.1;
    if before >= threshold {
        before = between / 2.0;
    }
    if let Some(share) = zero_share {
        before = before.min(sampled * share);
    }
    if behind >= threshold {
        behind = between / 2.0;
    }
    let mut factor = (sampled + before + behind) / sampled;
    if per_second {
        factor /= seconds(end - start);
    }
    factor
}

/// Adds histograms up, or means them; count and sum are exact where rounding would lose.
#[derive(Clone)]
pub(crate) struct HistogramSum {
    total: Histogram,
    count: f64,
    /// Of count and sum.
    exact: [Sum; 2],
    means: [Mean; 2],
    as_mean: bool,
    /// The total is a mean that moves, for the sum is more than a float holds.
    moving: bool,
    /// Samples after a reset, and samples after none.
    seen: [bool; 2],
    rebounded: bool,
    incompatible: bool,
}

fn overflows(histogram: &Histogram) -> bool {
    let buckets = histogram.positive.iter().chain(&histogram.negative).map(|bucket| bucket.count);
    buckets.chain([histogram.count, histogram.sum, histogram.zero_count]).any(f64::is_infinite)
}

impl HistogramSum {
    pub fn new(first: &Histogram, as_mean: bool) -> HistogramSum {
        let mut sum = HistogramSum {
            total: first.clone(),
            count: 1.0,
            exact: Default::default(),
            means: Default::default(),
            as_mean,
            moving: false,
            seen: [false; 2],
            rebounded: false,
            incompatible: false,
        };
        sum.watch(first);
        sum
    }

    fn watch(&mut self, histogram: &Histogram) {
        self.seen[0] |= histogram.hint == ResetHint::Reset;
        self.seen[1] |= histogram.hint == ResetHint::NotReset;
        for (i, value) in [histogram.count, histogram.sum].into_iter().enumerate() {
            if self.as_mean { self.means[i].add(value) } else { self.exact[i].add(value) }
        }
    }

    pub fn add(&mut self, other: &Histogram) {
        self.count += 1.0;
        self.watch(other);
        if !self.moving {
            let mut next = self.total.clone();
            let done = next.add(other);
            if !self.as_mean || !overflows(&next) {
                self.total = next;
                self.note(done);
                return;
            }
            self.moving = true;
            self.total.divide(self.count - 1.0);
        }
        let mut part = other.clone();
        part.divide(self.count);
        self.total.scale((self.count - 1.0) / self.count);
        let done = self.total.add(&part);
        self.note(done);
    }

    fn note(&mut self, done: Result<Reconciled, Incompatible>) {
        match done {
            Ok(done) => self.rebounded |= done.custom_bounds,
            Err(Incompatible) => self.incompatible = true,
        }
    }

    /// None if the histograms do not go together.
    pub fn finish(self, sink: &AnnotationSink) -> Option<Histogram> {
        if self.incompatible {
            return None;
        }
        if self.seen == [true; 2] {
            sink.warn("conflicting counter resets during histogram aggregation");
        }
        if self.rebounded {
            sink.info("mismatched custom buckets were reconciled during aggregation");
        }
        let mut total = self.total;
        if self.as_mean {
            if !self.moving {
                total.divide(self.count);
            }
            (total.count, total.sum) = (self.means[0].get(), self.means[1].get());
        } else {
            (total.count, total.sum) = (self.exact[0].get(), self.exact[1].get());
        }
        Some(total)
    }
}

/// Slope and value at `intercept_ms` of the line through the samples, by least squares.
pub(crate) fn regression(samples: &[Sample], intercept_ms: i64) -> Option<(f64, f64)> {
    if samples.len() < 2 {
        return None;
    }
    let first = samples[0].value;
    if samples.iter().all(|sample| sample.value == first) {
        return Some(if first.is_infinite() { (f64::NAN, f64::NAN) } else { (0.0, first) });
    }
    let n = samples.len() as f64;
    let (mut x, mut y, mut xy, mut xx) = (Sum::default(), Sum::default(), Sum::default(), Sum::default());
    for sample in samples {
        let at = seconds(sample.timestamp.0 - intercept_ms);
        x.add(at);
        y.add(sample.value);
        xy.add(at * sample.value);
        xx.add(at * at);
    }
    let (x, y, xy, xx) = (x.get(), y.get(), xy.get(), xx.get());
    let slope = (xy - x * y / n) / (xx - x * x / n);
    Some((slope, y / n - slope * x / n))
}

/// Holt's linear method: smoothed value at the last sample.
pub(crate) fn smoothed(samples: &[Sample], factor: f64, trend_factor: f64) -> Option<f64> {
    if samples.len() < 2 {
        return None;
    }
    let (mut before, mut now) = (0.0, samples[0].value);
    let mut trend = samples[1].value - samples[0].value;
    for (i, sample) in samples.iter().enumerate().skip(1) {
        if i > 1 {
            trend = trend_factor * (now - before) + (1.0 - trend_factor) * trend;
        }
        before = now;
        now = factor * sample.value + (1.0 - factor) * (before + trend);
    }
    Some(now)
}

/// The labels that an aggregation leaves of a series.
pub(crate) fn group_labels(labels: &Labels, aggregate: &Aggregate) -> Labels {
    let listed = |name: &str| aggregate.labels.iter().any(|label| label == name);
    if aggregate.without {
        Labels::from_sorted(labels.iter().filter(|(name, _)| !listed(name) && !is_metadata(name)))
    } else {
        Labels::from_sorted(labels.iter().filter(|(name, _)| listed(name)))
    }
}
