//! Anchored and smoothed selectors: samples around a window give it values at its edges.
//!
//! An anchored window begins with the value that the series has at its start, a smoothed one begins and ends on the lines
//! between the samples around its edges. Both look further back than the window, by the lookback; a smoothed one looks as
//! far ahead.

use crate::annotations::{AnnotationSink, for_metric};
use crate::eval::value::{Column, Point, SelectedSeries};
use crate::eval::window::Window;
use crate::plan::grid::StepGrid;
use crate::syntax::ast::RangeModifier;
use series::histogram::{Histogram, ResetHint};
use series::{Sample, is_stale};
use std::sync::Arc;

type TimedHistogram = (i64, Arc<Histogram>);

const ADDED: &str = "mismatched custom buckets were reconciled during addition";
const SUBTRACTED: &str = "mismatched custom buckets were reconciled during subtraction";

/// The samples after `from` and up to `to`.
pub(crate) fn between<T>(all: &[T], from: i64, to: i64, time: impl Fn(&T) -> i64) -> &[T] {
    let first = all.partition_point(|one| time(one) <= from);
    let end = all.partition_point(|one| time(one) <= to);
    &all[first..end.max(first)]
}

/// How far a window reaches with its modifier: after the first, up to the second.
pub(crate) fn reach(modifier: RangeModifier, start: i64, end: i64, lookback: i64) -> (i64, i64) {
    match modifier {
        RangeModifier::Plain => (start, end),
        RangeModifier::Anchored => (start.saturating_sub(lookback), end),
        RangeModifier::Smoothed => (start.saturating_sub(lookback), end.saturating_add(lookback)),
    }
}

/// The index of the last sample at or before `start`, or of the first one.
fn left_index(count: usize, start: i64, time: impl Fn(usize) -> i64) -> usize {
    (0..count - 1).take_while(|i| time(*i) <= start).count().saturating_sub(1)
}

/// The first sample and the last one that decide over a window; None if none lies within its reach as it has to.
fn decisive(window: &Window, count: usize, time: impl Fn(usize) -> i64) -> Option<(usize, usize)> {
    if count == 0 {
        return None;
    }
    let smoothed = window.modifier == RangeModifier::Smoothed;
    let first = left_index(count, window.start, &time);
    let last = if smoothed { (0..count - 1).take_while(|i| time(*i) < window.end).count() } else { count - 1 };
    let lies_beside = time(last) <= window.start || (smoothed && time(first) > window.end);
    (!lies_beside).then_some((first, last))
}

impl<'a> Window<'a> {
    /// An anchored window without the samples before the one that it begins with; None if it has none of its own.
    pub fn anchored(&self) -> Option<Window<'a>> {
        if self.modifier != RangeModifier::Anchored {
            return Some(Window { ..*self });
        }
        let floats = decisive(self, self.floats.len(), |i| self.floats[i].timestamp.0);
        let histograms = decisive(self, self.histograms.len(), |i| self.histograms[i].0);
        let floats = floats.map_or(&self.floats[..0], |(first, _)| &self.floats[first..]);
        let histograms = histograms.map_or(&self.histograms[..0], |(first, _)| &self.histograms[first..]);
        (!floats.is_empty() || !histograms.is_empty()).then_some(Window { floats, histograms, ..*self })
    }

    /// The change of a float from edge to edge.
    pub fn extended_floats(&self, counter: bool) -> Option<f64> {
        let all = self.floats;
        let time = |i: usize| all[i].timestamp.0;
        let (first, last) = decisive(self, all.len(), time)?;
        let smoothed = self.modifier == RangeModifier::Smoothed;
        let left = if smoothed && time(first) < self.start {
            on_line(&all[first], &all[first + 1], self.start, counter)
        } else {
            all[first].value
        };
        let right = if smoothed && last > 0 && time(last) > self.end {
            on_line(&all[last - 1], &all[last], self.end, counter)
        } else {
            all[last].value
        };
        let mut change = right - left;
        if counter {
            // Resets beside the edges are in the lines already.
            let from = first + usize::from(time(first) <= self.start);
            let to = last + usize::from(time(last) < self.end);
            let mut before = left;
            let inside = all.get(from..to).unwrap_or(&[]);
            for value in inside.iter().map(|sample| sample.value).chain([right]) {
                if value < before {
                    change += before;
                }
                before = value;
            }
        }
        Some(change)
    }

    /// The change of a histogram from edge to edge.
    pub fn extended_histograms(&self, counter: bool, sink: &AnnotationSink) -> Option<Histogram> {
        let all = self.histograms;
        let (first, last) = decisive(self, all.len(), |i| all[i].0)?;
        let name = self.labels.metric_name();
        let custom = all[first].1.is_custom();
        for (_, histogram) in &all[first..=last] {
            if histogram.is_custom() != custom {
                let text = "vector contains a mix of histograms with exponential and custom buckets schemas";
                sink.warn(format!("{text}{}", for_metric(name)));
                return None;
            }
            if counter && histogram.hint == ResetHint::Gauge {
                sink.warn(format!("this native histogram metric is not a counter: {name:?}"));
            }
        }
        let smoothed = self.modifier == RangeModifier::Smoothed;
        let from_line = smoothed && all[first].0 < self.start;
        let left = if from_line {
            histogram_on_line(&all[first], &all[first + 1], self.start, counter, sink)
        } else {
            (*all[first].1).clone()
        };
        let right = if smoothed && last > 0 && all[last].0 > self.end {
            histogram_on_line(&all[last - 1], &all[last], self.end, counter, sink)
        } else {
            (*all[last].1).clone()
        };
        if !counter && (left.hint != ResetHint::Gauge || right.hint != ResetHint::Gauge) {
            sink.warn(format!("this native histogram metric is not a gauge: {name:?}"));
        }
        let mut change = right.clone();
        subtract(&mut change, &left, sink);
        if counter {
            // The line at the start may have a reset in it already.
            let reset_at_start = from_line && all[first + 1].1.is_reset_after(&all[first].1);
            let mut from = first + 1;
            let mut before = &left;
            if reset_at_start {
                before = &all[first + 1].1;
                from += 1;
            }
            // The last sample is in `right`, with what it says of the one before.
            if from <= last {
                for now in all[from..last].iter().map(|(_, histogram)| &**histogram).chain([&right]) {
                    if now.is_reset_after(before) {
                        add(&mut change, before, sink);
                    }
                    before = now;
                }
            }
        }
        change.hint = ResetHint::Gauge;
        Some(change)
    }
}

/// Adds histograms of one kind.
fn add(sum: &mut Histogram, other: &Histogram, sink: &AnnotationSink) {
    if sum.add(other).is_ok_and(|done| done.custom_bounds) {
        sink.info(ADDED);
    }
}

/// Subtracts histograms of one kind.
fn subtract(difference: &mut Histogram, other: &Histogram, sink: &AnnotationSink) {
    if difference.sub(other).is_ok_and(|done| done.custom_bounds) {
        sink.info(SUBTRACTED);
    }
}

/// The value at `time` on the line between two samples; a counter that was reset began again at zero.
fn on_line(before: &Sample, after: &Sample, time: i64, counter: bool) -> f64 {
    let base = if counter && after.value < before.value { 0.0 } else { before.value };
    let (from, to) = (before.timestamp.0, after.timestamp.0);
    base + (after.value - base) * (time - from) as f64 / (to - from) as f64
}

/// The same for histograms of one kind.
fn histogram_on_line(
    before: &TimedHistogram,
    after: &TimedHistogram,
    time: i64,
    counter: bool,
    sink: &AnnotationSink,
) -> Histogram {
    if time == before.0 {
        return (*before.1).clone();
    }
    let mut result = (*after.1).clone();
    if time == after.0 {
        return result;
    }
    let share = (time - before.0) as f64 / (after.0 - before.0) as f64;
    if counter && after.1.is_reset_after(&before.1) {
        result.scale(share);
        return result;
    }
    subtract(&mut result, &before.1, sink);
    result.scale(share);
    add(&mut result, &before.1, sink);
    result
}

/// Writes what a smoothed instant selector has at each time: the line between the samples around it, or the one before.
pub(crate) fn smooth(
    series: &SelectedSeries,
    grid: StepGrid,
    at: Option<i64>,
    offset: i64,
    lookback: i64,
    sink: &AnnotationSink,
    column: &mut Column,
) {
    for (i, time) in grid.times().enumerate() {
        let time = at.unwrap_or(time) - offset;
        let (from, to) = reach(RangeModifier::Smoothed, time, time, lookback);
        let floats = between(&series.samples, from, to, |sample| sample.timestamp.0);
        let histograms = between(&series.histograms, from, to, |(time, _)| *time);
        let point = match (floats.is_empty(), histograms.is_empty()) {
            (true, true) => None,
            (false, false) => {
                let name = series.labels.metric_name();
                sink.warn(format!("encountered a mix of histograms and floats{}", for_metric(name)));
                None
            }
            (false, true) => {
                let next = floats.partition_point(|sample| sample.timestamp.0 < time);
                let value = match (next.checked_sub(1).map(|i| &floats[i]), floats.get(next)) {
                    (_, Some(next)) if next.timestamp.0 == time => Some(next.value),
                    (Some(before), Some(next)) => Some(on_line(before, next, time, false)),
                    (before, _) => before.map(|before| before.value),
                };
                value.map(Point::Float)
            }
            (true, false) => {
                let next = histograms.partition_point(|(at, _)| *at < time);
                let histogram = match (next.checked_sub(1).map(|i| &histograms[i]), histograms.get(next)) {
                    (_, Some(next)) if next.0 == time => Some(next.1.clone()),
                    (Some(before), Some(next)) if before.1.is_custom() != next.1.is_custom() => {
                        let text = "vector contains a mix of histograms with exponential and custom buckets schemas";
                        sink.warn(format!("{text}{}", for_metric(series.labels.metric_name())));
                        None
                    }
                    (Some(before), Some(next)) => Some(Arc::new(histogram_on_line(before, next, time, false, sink))),
                    (before, _) => before.map(|before| before.1.clone()),
                };
                histogram.map(Point::Histogram)
            }
        };
        column.set(i, point);
    }
}

/// A smoothed selector knows no markers.
pub(crate) fn without_markers(series: &mut SelectedSeries) {
    series.samples.retain(|sample| !is_stale(sample.value));
    series.histograms.retain(|(_, histogram)| !is_stale(histogram.sum));
}
