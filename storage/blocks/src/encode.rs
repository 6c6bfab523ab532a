//! Chunks of samples that may be of several kinds, and back.

use crate::chunk::{Chunk, ChunkRef, XOR};
use crate::error::ChunkError;
use crate::{histogram, xor};
use series::{Histogram, STALE_NAN, Value};
use std::sync::Arc;

/// Samples of a chunk that is written anew.
pub(crate) const SAMPLES_MAX: usize = 120;

impl Chunk {
    /// Reads all samples, in order.
    pub fn decode(&self, sample: impl FnMut(i64, Value)) -> Result<(), ChunkError> {
        let Chunk { min, max, encoding, ref bytes, .. } = *self;
        ChunkRef { min, max, encoding, bytes }.decode(sample)
    }
}

impl ChunkRef<'_> {
    /// Reads all samples, in order.
    pub fn decode(&self, mut sample: impl FnMut(i64, Value)) -> Result<(), ChunkError> {
        match self.encoding {
            XOR => xor::decode(self.bytes, |at, value| sample(at, Value::Float(value))),
            encoding => histogram::decode(encoding, self.bytes, |at, histogram| {
                sample(at, Value::Histogram(Arc::new(histogram)));
            }),
        }
    }
}

/// Chunks of samples of one series in order of time. A marker behind a histogram is one of a histogram, so that it needs
/// no chunk of its own.
pub fn encode(samples: &[(i64, Value)]) -> Vec<Chunk> {
    let mut chunks = Vec::new();
    let mut histograms: Vec<(i64, Arc<Histogram>)> = Vec::new();
    let mut floats: Vec<(i64, f64)> = Vec::new();
    for (at, value) in samples {
        match value {
            Value::Float(_) if value.is_stale() && !histograms.is_empty() => {
                histograms.push((*at, Arc::new(Histogram { sum: STALE_NAN, ..Histogram::default() })));
            }
            Value::Float(value) => {
                chunks.append(&mut histogram::encode(&histograms));
                histograms.clear();
                floats.push((*at, *value));
            }
            Value::Histogram(histogram) => {
                chunks.extend(floats.chunks(SAMPLES_MAX).map(encode_floats));
                floats.clear();
                histograms.push((*at, histogram.clone()));
            }
        }
    }
    chunks.append(&mut histogram::encode(&histograms));
    chunks.extend(floats.chunks(SAMPLES_MAX).map(encode_floats));
    chunks
}

fn encode_floats(samples: &[(i64, f64)]) -> Chunk {
    let (mut encoder, mut bytes) = (xor::Encoder::default(), Vec::new());
    samples.iter().for_each(|(at, value)| encoder.push(*at, *value, &mut bytes));
    encoder.finish(0, &mut bytes);
    Chunk::new(samples[0].0, samples[samples.len() - 1].0, XOR, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_take_turns() {
        let histogram = |count: f64| Value::Histogram(Arc::new(Histogram { count, ..Histogram::default() }));
        let (float, stale) = (Value::Float(1.0), Value::Float(STALE_NAN));
        let values = [&float, &stale, &histogram(1.0), &histogram(2.0), &stale, &float, &histogram(3.0)];
        let samples: Vec<(i64, Value)> = (0..).zip(values.map(Clone::clone)).collect();
        let chunks = encode(&samples);
        let kinds: Vec<(u8, u16)> = chunks.iter().map(|chunk| (chunk.encoding, chunk.samples())).collect();
        assert_eq!(kinds, [(XOR, 2), (histogram::HISTOGRAM, 3), (XOR, 1), (histogram::HISTOGRAM, 1)]);
        let mut read = Vec::new();
        chunks.iter().for_each(|chunk| chunk.decode(|at, value| read.push((at, value.is_stale()))).unwrap());
        assert_eq!(read, samples.iter().map(|(at, value)| (*at, value.is_stale())).collect::<Vec<_>>());
    }
}
