//! Timestamps, sample values and staleness markers.

use crate::{Histogram, Labels};
use std::sync::Arc;

/// Milliseconds since the Unix epoch.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// Earlier than every other timestamp.
    pub const MIN: Timestamp = Timestamp(i64::MIN);

    /// Returns seconds with a fraction, as the HTTP API writes them.
    pub fn as_seconds(self) -> f64 {
        self.0 as f64 / 1000.0
    }

    /// Returns this time moved by `ms` milliseconds; saturates at the ends of the range.
    pub fn plus_ms(self, ms: i64) -> Timestamp {
        Timestamp(self.0.saturating_add(ms))
    }
}

/// A float at one time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// When it was observed.
    pub timestamp: Timestamp,
    /// What was observed; [`STALE_NAN`] ends the series.
    pub value: f64,
}

/// The value of a sample of either kind.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A number.
    Float(f64),
    /// A native histogram.
    Histogram(Arc<Histogram>),
}

impl Value {
    /// Returns whether it is a staleness marker. A histogram is one by its sum.
    pub fn is_stale(&self) -> bool {
        is_stale(match self {
            Value::Float(value) => *value,
            Value::Histogram(histogram) => histogram.sum,
        })
    }
}

/// A label set and its samples of both kinds, each in order of time. Readers may return several for one series.
#[derive(Clone, Debug, PartialEq)]
pub struct SeriesData {
    /// The labels of the series, the metric name included.
    pub labels: Labels,
    /// Samples that are floats.
    pub samples: Vec<Sample>,
    /// Samples that are native histograms, with their Unix time in milliseconds.
    pub histograms: Vec<(i64, Arc<Histogram>)>,
}

impl SeriesData {
    /// Returns a series without samples.
    pub fn new(labels: Labels) -> SeriesData {
        SeriesData { labels, samples: Vec::new(), histograms: Vec::new() }
    }

    /// Appends a sample at a Unix time in milliseconds.
    pub fn push(&mut self, time_ms: i64, value: Value) {
        match value {
            Value::Float(value) => self.samples.push(Sample { timestamp: Timestamp(time_ms), value }),
            Value::Histogram(histogram) => self.histograms.push((time_ms, histogram)),
        }
    }

    /// Returns whether there are no samples of either kind.
    pub fn is_empty(&self) -> bool {
        self.samples.is_empty() && self.histograms.is_empty()
    }
}

/// The NaN that marks the end of a series. It is compared by its bits.
pub const STALE_NAN: f64 = f64::from_bits(0x7ff0_0000_0000_0002);

/// Returns whether `value` is [`STALE_NAN`].
pub fn is_stale(value: f64) -> bool {
    value.to_bits() == STALE_NAN.to_bits()
}
