//! Functions of the samples in a window of time.

use crate::annotations::{AnnotationSink, for_metric};
use crate::eval::math::{HistogramSum, factor, mean, seconds, sum};
use crate::eval::value::Point;
use crate::syntax::ast::RangeModifier;
use series::histogram::{Histogram, ResetHint};
use series::{Labels, Sample};
use std::sync::Arc;

/// Suffixes of names that counters have.
pub(crate) const COUNTER_SUFFIXES: [&str; 4] = ["_total", "_sum", "_count", "_bucket"];

pub(crate) const NOT_A_COUNTER: &str = "metric might not be a counter, name does not end in _total/_sum/_count/_bucket";

/// Samples in `(start, end]`, or as far around as the modifier reaches; at least one.
pub(crate) struct Window<'a> {
    pub labels: &'a Labels,
    pub floats: &'a [Sample],
    pub histograms: &'a [(i64, Arc<Histogram>)],
    /// Start times of the series' samples, if they are to be looked at.
    pub starts: &'a [(i64, i64)],
    pub start: i64,
    pub end: i64,
    pub modifier: RangeModifier,
}

impl<'a> Window<'a> {
    pub fn values(&self) -> impl Iterator<Item = f64> + Clone + 'a {
        self.floats.iter().map(|sample| sample.value)
    }

    fn name(&self) -> &str {
        self.labels.metric_name()
    }

    fn mixed(&self, sink: &AnnotationSink) {
        sink.warn(format!("encountered a mix of histograms and floats{}", for_metric(self.name())));
    }

    /// For functions that know floats only.
    pub fn floats_only(&self, sink: &AnnotationSink) -> Option<&'a [Sample]> {
        if self.floats.is_empty() {
            return None;
        }
        if !self.histograms.is_empty() {
            sink.info(format!(
                "ignored histograms in a range containing both floats and histograms{}",
                for_metric(self.name())
            ));
        }
        Some(self.floats)
    }

    /// All samples in order of time.
    fn both(&self) -> impl Iterator<Item = (i64, Point)> + '_ {
        let (mut floats, mut histograms) = (self.floats.iter().peekable(), self.histograms.iter().peekable());
        std::iter::from_fn(move || {
            let float_first = match (floats.peek(), histograms.peek()) {
                (Some(float), Some((time, _))) => float.timestamp.0 <= *time,
                (float, _) => float.is_some(),
            };
            if float_first {
                floats.next().map(|float| (float.timestamp.0, Point::Float(float.value)))
            } else {
                histograms.next().map(|(time, histogram)| (*time, Point::Histogram(Arc::clone(histogram))))
            }
        })
    }

    pub fn first(&self) -> (i64, Point) {
        self.both().next().expect("a window has a sample")
    }

    pub fn last(&self) -> (i64, Point) {
        let float = self.floats.last().map(|sample| (sample.timestamp.0, Point::Float(sample.value)));
        let histogram =
            self.histograms.last().map(|(time, histogram)| (*time, Point::Histogram(Arc::clone(histogram))));
        match (float, histogram) {
            (Some(float), Some(histogram)) => {
                if float.0 > histogram.0 {
                    float
                } else {
                    histogram
                }
            }
            (float, histogram) => float.or(histogram).expect("a window has a sample"),
        }
    }

    pub fn count(&self) -> usize {
        self.floats.len() + self.histograms.len()
    }

    /// Rate, increase and delta: the change between first and last sample, extended towards the ends of the window as far
    /// as Prometheus does.
    pub fn extrapolated(&self, counter: bool, per_second: bool, sink: &AnnotationSink) -> Option<Point> {
        if !self.floats.is_empty() && !self.histograms.is_empty() {
            self.mixed(sink);
            return None;
        }
        if self.modifier != RangeModifier::Plain {
            return self.extended(counter, per_second, sink);
        }
        if counter && !self.starts.is_empty() {
            return self.extrapolated_with_starts(per_second, sink);
        }
        if self.histograms.is_empty() {
            return self.extrapolated_floats(counter, per_second).map(Point::Float);
        }
        let (first, last) = match self.histograms {
            [first, .., last] => (first, last),
            _ => return None,
        };
        let mut change = self.histogram_change(counter, sink)?;
        let zero_share = (change.count > 0.0 && first.1.count >= 0.0).then(|| first.1.count / change.count);
        let zero_share = zero_share.filter(|_| counter);
        let factor = factor(first.0, last.0, self.histograms.len(), self.start, self.end, zero_share, per_second);
        change.scale(factor);
        Some(Point::Histogram(Arc::new(change)))
    }

    /// The change from edge to edge of an anchored or smoothed window.
    fn extended(&self, counter: bool, per_second: bool, sink: &AnnotationSink) -> Option<Point> {
        let range = seconds(self.end - self.start);
        if self.histograms.is_empty() {
            let change = self.extended_floats(counter)?;
            return Some(Point::Float(if per_second { change / range } else { change }));
        }
        let mut change = self.extended_histograms(counter, sink)?;
        if per_second {
            change.divide(range);
        }
        Some(Point::Histogram(Arc::new(change)))
    }

    #[inline]
    pub fn extrapolated_floats(&self, counter: bool, per_second: bool) -> Option<f64> {
        let [first, .., last] = self.floats else { return None };
        let mut change = last.value - first.value;
        if counter {
            let mut before = first.value;
            for sample in &self.floats[1..] {
                if sample.value < before {
                    change += before;
                }
                before = sample.value;
            }
        }
        let zero_share = (counter && change > 0.0 && first.value >= 0.0).then(|| first.value / change);
        let (first, last, count) = (first.timestamp.0, last.timestamp.0, self.floats.len());
        Some(change * factor(first, last, count, self.start, self.end, zero_share, per_second))
    }

    pub(super) fn histogram_change(&self, counter: bool, sink: &AnnotationSink) -> Option<Histogram> {
        let all = self.histograms;
        let name = self.name();
        let not_counter = || sink.warn(format!("this native histogram metric is not a counter: {name:?}"));
        let mixed_schemas = || {
            let text = "vector contains a mix of histograms with exponential and custom buckets schemas";
            sink.warn(format!("{text}{}", for_metric(name)));
        };
        let last = &all[all.len() - 1].1;
        let mut before = Arc::clone(&all[0].1);
        if counter && (before.hint == ResetHint::Gauge || last.hint == ResetHint::Gauge) {
            not_counter();
        }
        // After a reset between the first two, what the first one's buckets were does not matter.
        let second = &all[1].1;
        if counter && (second.is_reset_after(&before) || self.begins_between(all[0].0, all[1].0)) {
            let custom_values = Arc::clone(&second.custom_values);
            before = Arc::new(Histogram { schema: second.schema, custom_values, ..Histogram::default() });
        }
        let custom = before.is_custom();
        if last.is_custom() != custom {
            mixed_schemas();
            return None;
        }
        let mut schema = before.schema.min(last.schema);
        for (_, now) in &all[1..all.len() - 1] {
            if !counter {
                continue;
            }
            if now.hint == ResetHint::Gauge {
                not_counter();
            }
            if now.is_custom() != custom {
                mixed_schemas();
                return None;
            }
            schema = schema.min(now.schema);
        }
        let mut change = (**last).clone();
        if !custom {
            change.reduce(schema);
        }
        let mut rebounded = match change.sub(&before) {
            Ok(done) => done.custom_bounds,
            Err(_) => {
                mixed_schemas();
                return None;
            }
        };
        if counter {
            for (i, (at, now)) in all.iter().enumerate().skip(1) {
                if now.is_reset_after(&before) || self.begins_between(all[i - 1].0, *at) {
                    match change.add(&before) {
                        Ok(done) => rebounded |= done.custom_bounds,
                        Err(_) => {
                            mixed_schemas();
                            return None;
                        }
                    }
                }
                before = Arc::clone(now);
            }
        } else if all[0].1.hint != ResetHint::Gauge || last.hint != ResetHint::Gauge {
            sink.warn(format!("this native histogram metric is not a gauge: {name:?}"));
        }
        if rebounded {
            sink.info("mismatched custom buckets were reconciled during subtraction");
        }
        change.hint = ResetHint::Gauge;
        Some(change)
    }

    /// Between the last two floats.
    pub fn instant_change_floats(&self, counter: bool) -> Option<f64> {
        let [.., before, last] = self.floats else { return None };
        let time = last.timestamp.0 - before.timestamp.0;
        if time == 0 {
            return None;
        }
        let change = if counter && last.value < before.value { last.value } else { last.value - before.value };
        Some(if counter { change / seconds(time) } else { change })
    }

    /// The smallest or largest float; NaN only if there is nothing else.
    pub fn extreme(&self, better: impl Fn(f64, f64) -> bool) -> f64 {
        let pick = |best: f64, value: f64| if better(value, best) || best.is_nan() { value } else { best };
        self.values().reduce(pick).unwrap_or(f64::NAN)
    }

    /// Between the last two samples.
    pub fn instant_change(&self, counter: bool, sink: &AnnotationSink) -> Option<Point> {
        let tail = |count: usize| count.saturating_sub(2);
        let near = Window {
            floats: &self.floats[tail(self.floats.len())..],
            histograms: &self.histograms[tail(self.histograms.len())..],
            ..*self
        };
        let all: Vec<(i64, Point)> = near.both().collect();
        let [.., before, last] = &all[..] else { return None };
        let time = last.0 - before.0;
        if time == 0 {
            return None;
        }
        let begins = counter && self.begins_between(before.0, last.0);
        match (&before.1, &last.1) {
            (Point::Float(_), Point::Float(value)) if begins => Some(Point::Float(value / seconds(time))),
            (Point::Float(_), Point::Float(_)) => near.instant_change_floats(counter).map(Point::Float),
            (Point::Histogram(before), Point::Histogram(last)) => {
                let name = self.name();
                let gauges = (before.hint == ResetHint::Gauge, last.hint == ResetHint::Gauge);
                if counter && (gauges.0 || gauges.1) {
                    sink.warn(format!("this native histogram metric is not a counter: {name:?}"));
                }
                if !(counter || gauges.0 && gauges.1) {
                    sink.warn(format!("this native histogram metric is not a gauge: {name:?}"));
                }
                let mut change = (**last).clone();
                if !counter || !(begins || last.is_reset_after(before)) {
                    match change.sub(before) {
                        Ok(done) if done.custom_bounds => {
                            sink.info("mismatched custom buckets were reconciled during subtraction");
                        }
                        Ok(_) => {}
                        Err(_) => {
                            let text =
                                "vector contains a mix of histograms with exponential and custom buckets schemas";
                            sink.warn(format!("{text}{}", for_metric(name)));
                            return None;
                        }
                    }
                }
                change.hint = ResetHint::Gauge;
                if counter {
                    change.scale(1.0 / seconds(time));
                }
                Some(Point::Histogram(Arc::new(change)))
            }
            _ => {
                self.mixed(sink);
                None
            }
        }
    }

    /// Sum or mean of floats or of histograms.
    pub fn total(&self, as_mean: bool, sink: &AnnotationSink) -> Option<Point> {
        if !self.floats.is_empty() && !self.histograms.is_empty() {
            self.mixed(sink);
            return None;
        }
        if self.histograms.is_empty() {
            return Some(Point::Float(if as_mean { mean(self.values()) } else { sum(self.values()) }));
        }
        let mut total = HistogramSum::new(&self.histograms[0].1, as_mean);
        for (_, histogram) in &self.histograms[1..] {
            total.add(histogram);
        }
        match total.finish(sink) {
            None => {
                let text = "vector contains a mix of histograms with exponential and custom buckets schemas";
                sink.warn(format!("{text}{}", for_metric(self.name())));
                None
            }
            Some(histogram) => Some(Point::Histogram(Arc::new(histogram))),
        }
    }

    pub fn changes(&self) -> f64 {
        let mut before: Option<Point> = None;
        let mut changes = 0;
        for (_, point) in self.both() {
            let differs = match (&before, &point) {
                (None, _) => false,
                (Some(Point::Float(a)), Point::Float(b)) => a != b && !(a.is_nan() && b.is_nan()),
                (Some(Point::Histogram(a)), Point::Histogram(b)) => !a.same_as(b),
                _ => true,
            };
            changes += usize::from(differs);
            before = Some(point);
        }
        changes as f64
    }

    pub fn resets(&self) -> f64 {
        let mut before: Option<(i64, Point)> = None;
        let mut resets = 0;
        for (at, point) in self.both() {
            let reset = match (&before, &point) {
                (None, _) => false,
                (Some((before, _)), _) if self.begins_between(*before, at) => true,
                (Some((_, Point::Float(a))), Point::Float(b)) => b < a,
                (Some((_, Point::Histogram(a))), Point::Histogram(b)) => {
                    (a.hint == ResetHint::Gauge) != (b.hint == ResetHint::Gauge) || b.detect_reset(a)
                }
                _ => true,
            };
            resets += usize::from(reset);
            before = Some((at, point));
        }
        resets as f64
    }
}
