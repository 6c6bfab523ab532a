//! Rates that look at start times of samples, as Prometheus has them with `use-start-timestamps`.

use crate::annotations::{AnnotationSink, for_metric};
use crate::eval::math::{factor, seconds};
use crate::eval::value::Point;
use crate::eval::window::Window;
use series::{NO_START, start_of};
use std::sync::Arc;

const OVERLAP: &str = "sample has start time that overlaps with previous sample timestamp";

/// Whether a counter began anew between two samples, given the time and the start time of each.
fn is_reset((before, start_before): (i64, i64), (at, start): (i64, i64)) -> bool {
    // One that begins with its own sample is not known.
    if start == NO_START || start >= at || start < before {
        return false;
    }
    // One that begins with the sample before is a delta, unless nothing is known of that one.
    start > before || start_before < before && start_before != NO_START
}

impl Window<'_> {
    /// Whether the sample at a time says that it began to count behind the sample before it.
    pub fn begins_between(&self, before: i64, at: i64) -> bool {
        !self.starts.is_empty() && is_reset((before, self.start_at(before)), (at, self.start_at(at)))
    }

    fn start_at(&self, at: i64) -> i64 {
        start_of(self.starts, at)
    }

    /// Warns of a sample that says it began before the sample before it, which says something else.
    fn check_overlap(&self, times: impl Iterator<Item = i64> + Clone, sink: &AnnotationSink) {
        let overlaps = |(before, at): (i64, i64)| {
            let start = self.start_at(at);
            start != NO_START && start < before && start != self.start_at(before)
        };
        if times.clone().zip(times.skip(1)).any(overlaps) {
            sink.warn(format!("{OVERLAP}{}", for_metric(self.labels.metric_name())));
        }
    }

    /// Rate or increase of a counter. One that began within the window counts from zero there, also if it has one sample.
    pub fn extrapolated_with_starts(&self, per_second: bool, sink: &AnnotationSink) -> Option<Point> {
        let (first, last, count) = match (self.floats, self.histograms) {
            ([first, ..], []) => (first.timestamp.0, self.floats[self.floats.len() - 1].timestamp.0, self.floats.len()),
            ([], [first, ..]) => (first.0, self.histograms[self.histograms.len() - 1].0, self.histograms.len()),
            _ => return None,
        };
        let start = self.start_at(first);
        let began = (start != NO_START && start > self.start && start < first).then_some(start);
        if count == 1 && began.is_none() {
            return None;
        }
        match self.histograms {
            [] => self.check_overlap(self.floats.iter().map(|sample| sample.timestamp.0), sink),
            histograms => self.check_overlap(histograms.iter().map(|(at, _)| *at), sink),
        }
        let mut change = match self.histograms {
            [] => Point::Float(self.change_of_floats()),
            [(_, only)] => Point::Histogram(only.clone()),
            _ => Point::Histogram(Arc::new(self.histogram_change(true, sink)?)),
        };
        if began.is_some() {
            match &mut change {
                Point::Float(change) => *change += self.floats[0].value,
                Point::Histogram(change) if count > 1 => match Arc::make_mut(change).add(&self.histograms[0].1) {
                    Ok(done) if done.custom_bounds => {
                        sink.info("mismatched custom buckets were reconciled during addition");
                    }
                    Ok(_) => {}
                    Err(_) => {
                        let text = "vector contains a mix of histograms with exponential and custom buckets schemas";
                        sink.warn(format!("{text}{}", for_metric(self.labels.metric_name())));
                        return None;
                    }
                },
                Point::Histogram(_) => {}
            }
        }
        let factor = match began {
            Some(start) => self.factor_since(start, (first, last, count), per_second),
            None => {
                let (counted, of_first) = match &change {
                    Point::Float(change) => (*change, self.floats[0].value),
                    Point::Histogram(change) => (change.count, self.histograms[0].1.count),
                };
                let zero_share = (counted > 0.0 && of_first >= 0.0).then(|| of_first / counted);
                factor(first, last, count, self.start, self.end, zero_share, per_second)
            }
        };
        Some(match change {
            Point::Float(change) => Point::Float(change * factor),
            Point::Histogram(mut change) => {
                Arc::make_mut(&mut change).scale(factor);
                Point::Histogram(change)
            }
        })
    }

    fn change_of_floats(&self) -> f64 {
        let mut change = self.floats[self.floats.len() - 1].value - self.floats[0].value;
        for pair in self.floats.windows(2) {
            if pair[1].value < pair[0].value || self.begins_between(pair[0].timestamp.0, pair[1].timestamp.0) {
                change += pair[0].value;
            }
        }
        change
    }

    /// By what the change since a start within the window is multiplied: it is not extended towards the window's start.
    fn factor_since(&self, start: i64, (first, last, count): (i64, i64, usize), per_second: bool) -> f64 {
        let between = if count > 1 { seconds(last - first) / (count - 1) as f64 } else { 0.0 };
        let (sampled, mut behind) = (seconds(last - start), seconds(self.end - last));
        if behind >= between * 1.1 {
            behind = between / 2.0;
        }
        let factor = (sampled + behind) / sampled;
        if per_second { factor / seconds(self.end - self.start) } else { factor }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_begins_anew_where_its_samples_say_so() {
        // Before, its start, now, its start.
        for (before, start_before, at, start, want) in [
            (10, 0, 20, 0, false),
            (10, 5, 20, 5, false),
            (10, 5, 20, 15, true),
            (10, 0, 20, 15, true),
            (10, 5, 20, 20, false),
            (10, 5, 20, 25, false),
            (10, 5, 20, 10, true),
            (10, 0, 20, 10, false),
            (10, 10, 20, 10, false),
            (10, 15, 20, 10, false),
        ] {
            assert_eq!(is_reset((before, start_before), (at, start)), want, "{before} {start_before} {at} {start}");
        }
    }
}
