//! Chunks of one series from several sources, without overlap.

use crate::chunk::Chunk;
use crate::encode::encode_with_starts;
use crate::error::ChunkError;
use series::Value;
use series::order::Timed;

/// What came of merging chunks.
pub type Merged = Vec<Chunk>;

/// Chunks of one series without overlap, in order of time. Each comes with the ranges that are deleted from it; of two
/// samples at one time, the one that comes first stays, a marker gives way to a sample.
///
/// # Errors
/// If a chunk that has to be encoded anew does not decode, or has samples outside of its times.
pub fn merge_chunks(mut chunks: Vec<(Chunk, Vec<(i64, i64)>)>) -> Result<Merged, ChunkError> {
    chunks.sort_by_key(|(chunk, _)| chunk.min);
    let mut merged: Vec<Chunk> = Vec::with_capacity(chunks.len());
    let mut rest = chunks.into_iter().peekable();
    while let Some((chunk, deleted)) = rest.next() {
        let mut max = chunk.max;
        let mut group = vec![(chunk, deleted)];
        while let Some(next) = rest.next_if(|(next, _)| next.min <= max) {
            max = max.max(next.0.max);
            group.push(next);
        }
        let is_untouched = |(chunk, deleted): &(Chunk, Vec<(i64, i64)>)| {
            !deleted.iter().any(|(from, to)| chunk.min <= *to && chunk.max >= *from)
        };
        if let [only] = &group[..]
            && is_untouched(only)
        {
            if only.0.min > only.0.max {
                return Err(ChunkError("it ends before it begins"));
            }
            merged.extend(group.into_iter().map(|(chunk, _)| chunk));
            continue;
        }
        let mut samples: Vec<StartedSample> = Vec::new();
        for (chunk, deleted) in &group {
            let mut is_outside = false;
            chunk.decode_with_starts(|start, at, value| {
                is_outside |= at < chunk.min || at > chunk.max;
                if !deleted.iter().any(|(min, max)| at >= *min && at <= *max) {
                    samples.push(StartedSample { start, at, value });
                }
            })?;
            if is_outside {
                return Err(OUTSIDE);
            }
        }
        series::order::dedupe(&mut samples);
        let starts: Vec<i64> = samples.iter().map(|sample| sample.start).collect();
        let samples: Vec<(i64, Value)> = samples.into_iter().map(|sample| (sample.at, sample.value)).collect();
        merged.append(&mut encode_with_starts(&samples, &starts));
    }
    Ok(merged)
}

struct StartedSample {
    start: i64,
    at: i64,
    value: Value,
}

impl Timed for StartedSample {
    fn time_ms(&self) -> i64 {
        self.at
    }

    fn is_stale(&self) -> bool {
        self.value.is_stale()
    }
}

const OUTSIDE: ChunkError = ChunkError("it has samples outside of the times that the index has for it");

/// Checks that a chunk decodes, and that its samples ascend within its times.
pub(crate) fn check_times(chunk: &Chunk) -> Result<(), ChunkError> {
    let (mut last, mut is_sorted, mut is_outside) = (None, true, false);
    chunk.decode(|at, _| {
        is_sorted &= last < Some(at);
        is_outside |= at < chunk.min || at > chunk.max;
        last = Some(at);
    })?;
    match (is_sorted, is_outside) {
        (false, _) => Err(ChunkError("its samples are not in order of time")),
        (_, true) => Err(OUTSIDE),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode::encode;
    use crate::xor;
    use series::Histogram;

    fn chunk(samples: &[(i64, f64)]) -> Chunk {
        let samples: Vec<_> = samples.iter().map(|(at, value)| (*at, Value::Float(*value))).collect();
        encode(&samples).remove(0)
    }

    #[test]
    fn overlapping_chunks_are_merged_and_the_first_sample_stays() {
        let a = chunk(&[(1, 1.0), (3, 3.0), (5, series::STALE_NAN)]);
        let b = chunk(&[(3, 9.0), (4, 4.0), (5, 5.0)]);
        let c = chunk(&[(10, 10.0), (11, 11.0)]);
        let merged = merge_chunks(vec![(a, vec![]), (c.clone(), vec![(20, 30)]), (b, vec![(4, 4)])]).unwrap();
        let mut read = Vec::new();
        xor::decode(&merged[0].bytes, |at, value| read.push((at, value))).unwrap();
        assert_eq!(read, [(1, 1.0), (3, 3.0), (5, 5.0)]);
        assert_eq!(merged[1], c);
    }

    #[test]
    fn start_times_stay_with_their_samples() {
        let chunk = |samples: &[(i64, f64)], starts: &[i64]| {
            let samples: Vec<_> = samples.iter().map(|(at, value)| (*at, Value::Float(*value))).collect();
            (encode_with_starts(&samples, starts).remove(0), vec![])
        };
        let merged = merge_chunks(vec![
            chunk(&[(10, 1.0), (30, 3.0)], &[9, 9]),
            chunk(&[(20, 2.0), (30, 9.0)], &[]),
            chunk(&[(40, 4.0)], &[35]),
        ]);
        let mut read = Vec::new();
        for chunk in merged.unwrap() {
            chunk.decode_with_starts(|start, at, _| read.push((start, at))).unwrap();
        }
        assert_eq!(read, [(9, 10), (0, 20), (9, 30), (35, 40)]);
    }

    #[test]
    fn times_that_contradict_each_other_are_refused() {
        let good = chunk(&[(1, 1.0), (5, 5.0)]);
        assert_eq!(check_times(&good), Ok(()));
        let short = Chunk { max: 4, ..good.clone() };
        assert_eq!(check_times(&short), Err(OUTSIDE));
        assert_eq!(merge_chunks(vec![(short, vec![]), (chunk(&[(3, 3.0)]), vec![])]), Err(OUTSIDE));
        let backwards = Chunk { min: 5, max: 1, ..good };
        assert!(merge_chunks(vec![(backwards, vec![])]).is_err());
        assert!(check_times(&Chunk { max: 9, ..chunk(&[(5, 1.0), (5, 2.0)]) }).is_err());
    }

    #[test]
    fn histograms_are_merged_with_floats_and_each_other() {
        let histogram = |count: f64| Value::Histogram(Histogram { count, ..Histogram::default() }.into());
        let chunk = |samples: &[(i64, Value)]| (encode(samples).remove(0), vec![]);
        let merged = merge_chunks(vec![
            chunk(&[(1, histogram(1.0)), (5, histogram(5.0)), (9, histogram(9.0))]),
            chunk(&[(2, histogram(2.0)), (5, histogram(4.0))]),
            chunk(&[(6, Value::Float(6.0)), (9, Value::Float(series::STALE_NAN))]),
        ]);
        let mut read = Vec::new();
        for chunk in merged.unwrap() {
            let before = read.len();
            chunk.decode(|at, value| read.push((at, matches!(value, Value::Float(_))))).unwrap();
            assert_eq!((chunk.min, chunk.max), (read[before].0, read[read.len() - 1].0));
        }
        assert_eq!(read, [(1, false), (2, false), (5, false), (6, true), (9, false)]);
    }
}
