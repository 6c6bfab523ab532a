//! Chunks of samples that may be of several kinds, and back.

use crate::chunk::{Chunk, ChunkRef, XOR, XOR2};
use crate::error::ChunkError;
use crate::start_times::NO_START;
use crate::{histogram, xor, xor2};
use series::{Histogram, STALE_NAN, Value};
use std::sync::Arc;

/// Samples of a chunk that is written anew.
pub(crate) const SAMPLES_MAX: usize = 120;

impl Chunk {
    fn as_ref(&self) -> ChunkRef<'_> {
        let Chunk { min, max, encoding, ref bytes, .. } = *self;
        ChunkRef { min, max, encoding, bytes }
    }

    /// Reads all samples, in order.
    pub fn decode(&self, sample: impl FnMut(i64, Value)) -> Result<(), ChunkError> {
        self.as_ref().decode(sample)
    }

    /// Reads all samples, in order: start time, [`NO_START`] if there is none, time and value.
    pub fn decode_with_starts(&self, sample: impl FnMut(i64, i64, Value)) -> Result<(), ChunkError> {
        self.as_ref().decode_with_starts(sample)
    }
}

impl ChunkRef<'_> {
    /// Reads all samples, in order.
    pub fn decode(&self, mut sample: impl FnMut(i64, Value)) -> Result<(), ChunkError> {
        match self.encoding {
            XOR => xor::decode(self.bytes, |at, value| sample(at, Value::Float(value))),
            _ => self.decode_with_starts(|_, at, value| sample(at, value)),
        }
    }

    /// Reads all samples, in order: start time, [`NO_START`] if there is none, time and value.
    pub fn decode_with_starts(&self, mut sample: impl FnMut(i64, i64, Value)) -> Result<(), ChunkError> {
        match self.encoding {
            XOR => xor::decode(self.bytes, |at, value| sample(NO_START, at, Value::Float(value))),
            XOR2 => xor2::decode(self.bytes, |start, at, value| sample(start, at, Value::Float(value))),
            encoding => histogram::decode(encoding, self.bytes, |start, at, histogram| {
                sample(start, at, Value::Histogram(Arc::new(histogram)));
            }),
        }
    }
}

/// Chunks of samples of one series in order of time. A marker behind a histogram is one of a histogram, so that it needs
/// no chunk of its own.
pub fn encode(samples: &[(i64, Value)]) -> Vec<Chunk> {
    encode_with_starts(samples, &[])
}

/// The same with a start time for each sample, [`NO_START`] for those without; or with none for all of them. Chunks are of
/// encodings with start times where one of their samples has one.
pub fn encode_with_starts(samples: &[(i64, Value)], starts: &[i64]) -> Vec<Chunk> {
    let mut chunks = Vec::new();
    // Runs of one kind, with the numbers of their samples.
    let mut histograms: Vec<(i64, Arc<Histogram>)> = Vec::new();
    let mut floats: Vec<(i64, f64)> = Vec::new();
    let starts_of = |end: usize, count: usize| starts.get(end - count..end).unwrap_or(&[]);
    for (number, (at, value)) in samples.iter().enumerate() {
        match value {
            Value::Float(_) if value.is_stale() && !histograms.is_empty() => {
                histograms.push((*at, Arc::new(Histogram { sum: STALE_NAN, ..Histogram::default() })));
            }
            Value::Float(value) => {
                chunks.append(&mut histogram::encode(&histograms, starts_of(number, histograms.len())));
                histograms.clear();
                floats.push((*at, *value));
            }
            Value::Histogram(histogram) => {
                encode_floats(&floats, starts_of(number, floats.len()), &mut chunks);
                floats.clear();
                histograms.push((*at, histogram.clone()));
            }
        }
    }
    chunks.append(&mut histogram::encode(&histograms, starts_of(samples.len(), histograms.len())));
    encode_floats(&floats, starts_of(samples.len(), floats.len()), &mut chunks);
    chunks
}

fn encode_floats(samples: &[(i64, f64)], starts: &[i64], chunks: &mut Vec<Chunk>) {
    for (number, samples) in samples.chunks(SAMPLES_MAX).enumerate() {
        let from = number * SAMPLES_MAX;
        let starts = starts.get(from..from + samples.len()).unwrap_or(&[]);
        chunks.push(encode_float_chunk(samples, starts));
    }
}

/// One chunk of at least one sample.
fn encode_float_chunk(samples: &[(i64, f64)], starts: &[i64]) -> Chunk {
    let mut bytes = Vec::new();
    let has_starts = starts.iter().any(|start| *start != NO_START);
    if has_starts {
        let mut encoder = xor2::Encoder::default();
        samples.iter().zip(starts).for_each(|((at, value), start)| encoder.push(*start, *at, *value, &mut bytes));
        encoder.finish(0, &mut bytes);
    } else {
        let mut encoder = xor::Encoder::default();
        samples.iter().for_each(|(at, value)| encoder.push(*at, *value, &mut bytes));
        encoder.finish(0, &mut bytes);
    }
    let encoding = if has_starts { XOR2 } else { XOR };
    Chunk::new(samples[0].0, samples[samples.len() - 1].0, encoding, bytes)
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

    #[test]
    fn start_times_come_back_whatever_the_samples_are() {
        let histogram = |count: f64| Value::Histogram(Histogram { count, ..Histogram::default() }.into());
        let mut samples: Vec<(i64, Value)> = Vec::new();
        let mut starts = Vec::new();
        for i in 0..600 {
            let value = match i / 150 {
                0 | 2 => Value::Float(f64::from(i)),
                _ if i % 149 == 0 => Value::Float(STALE_NAN),
                _ => histogram(f64::from(i)),
            };
            samples.push((i64::from(i) * 1000, value));
            starts.push([NO_START, 5, 5, i64::from(i) * 1000 - 3][i as usize / 40 % 4]);
        }
        let read = |chunks: &[Chunk]| {
            let mut read = Vec::new();
            for chunk in chunks {
                let before = read.len();
                chunk.decode_with_starts(|start, at, value| read.push((start, at, value.is_stale()))).unwrap();
                assert_eq!(read.len() - before, usize::from(chunk.samples()));
                assert_eq!(chunk.is_float(), matches!(chunk.encoding, XOR | XOR2));
            }
            read
        };
        let want = |starts: &[i64]| {
            let all = samples.iter().zip(starts).map(|((at, value), start)| (*start, *at, value.is_stale()));
            all.collect::<Vec<_>>()
        };
        assert_eq!(read(&encode_with_starts(&samples, &starts)), want(&starts));
        let none = vec![NO_START; samples.len()];
        assert_eq!(read(&encode(&samples)), want(&none));
        assert_eq!(encode_with_starts(&samples, &none), encode(&samples));
    }
}
