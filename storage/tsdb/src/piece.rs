//! Samples that a read finds.

use crate::histograms::Timed;
use series::{Labels, Sample, Timestamp, Value};

/// What a select found of one series; there may be more pieces of it.
#[derive(Clone, Debug)]
pub struct Piece {
    pub labels: Labels,
    pub samples: Vec<Sample>,
    pub histograms: Timed,
}

impl Piece {
    pub fn new(labels: Labels) -> Piece {
        Piece { labels, samples: Vec::new(), histograms: Vec::new() }
    }

    pub fn push(&mut self, at: i64, value: Value) {
        match value {
            Value::Float(value) => self.samples.push(Sample { timestamp: Timestamp(at), value }),
            Value::Histogram(histogram) => self.histograms.push((at, histogram)),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.samples.is_empty() && self.histograms.is_empty()
    }
}
