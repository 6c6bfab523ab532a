//! Samples that a read finds.

use crate::histograms::Timed;
use blocks::{ChunkError, ChunkRef, may_have_starts};
use series::{Labels, NO_START, Sample, StartTimes, Timestamp, Value};

/// What a select found of one series; there may be more pieces of it.
#[derive(Clone, Debug)]
pub struct SeriesPart {
    pub labels: Labels,
    pub samples: Vec<Sample>,
    pub histograms: Timed,
    /// Start times of the samples, as far as they have any; perhaps without the samples.
    pub starts: StartTimes,
}

impl SeriesPart {
    pub fn new(labels: Labels) -> SeriesPart {
        SeriesPart { labels, samples: Vec::new(), histograms: Vec::new(), starts: StartTimes::new() }
    }

    pub fn push(&mut self, at: i64, value: Value) {
        match value {
            Value::Float(value) => self.samples.push(Sample { timestamp: Timestamp(at), value }),
            Value::Histogram(histogram) => self.histograms.push((at, histogram)),
        }
    }

    /// Adds the samples of a chunk that lie in `[from, to]`, with their start times.
    pub(crate) fn add_chunk(&mut self, chunk: ChunkRef, (from, to): (i64, i64)) -> Result<(), ChunkError> {
        if !may_have_starts(chunk.encoding) && self.starts.is_empty() {
            return chunk.decode(|at, value| {
                if at >= from && at <= to {
                    self.push(at, value);
                }
            });
        }
        let mut last = None;
        chunk.decode_with_starts(|start, at, value| {
            if at >= from && at <= to {
                self.push_started(at, value, start, &mut last);
            }
        })
    }

    /// Adds a sample of a chunk with its start time; `last` is that of the sample before.
    pub(crate) fn push_started(&mut self, at: i64, value: Value, start: i64, last: &mut Option<i64>) {
        if *last != Some(start) && (start != NO_START || !self.starts.is_empty()) {
            self.starts.push((at, start));
        }
        *last = Some(start);
        self.push(at, value);
    }

    pub fn is_empty(&self) -> bool {
        self.samples.is_empty() && self.histograms.is_empty()
    }
}
