//! XOR chunks: Gorilla's compression of timestamps and values, bit for bit as Prometheus writes it.
//!
//! Source: Pelkonen et al., "Gorilla: a fast, scalable, in-memory time series database", VLDB 2015, with the widths of
//! Prometheus. Format: docs/format/block.md.

use crate::bits::{BitWriter, Bits, XorWindow};
pub use crate::chunk::XOR;
use crate::codec::{unzigzag, zigzag};
pub use crate::error::ChunkError;
use crate::error::UNEXPECTED_END;
use std::ops::Range;

/// Writes one chunk after the other, each into a buffer of its caller.
#[derive(Debug, Default)]
pub struct Encoder {
    count: u16,
    at: i64,
    delta: u64,
    value: u64,
    window: XorWindow,
    bits: BitWriter,
}

impl Encoder {
    /// How many samples the chunk has.
    pub fn count(&self) -> u16 {
        self.count
    }

    /// Time of the last sample.
    pub fn last_at(&self) -> i64 {
        self.at
    }

    /// Appends a sample, whose time is not before the last one's. A chunk holds 65,535 at most.
    #[inline]
    pub fn push(&mut self, at: i64, value: f64, out: &mut Vec<u8>) {
        let bits = value.to_bits();
        match self.count {
            0 => {
                out.extend_from_slice(&[0, 0]);
                self.bits.put_varint(zigzag(at), out);
                self.bits.put(bits, 64, out);
            }
            1 => {
                self.delta = at.wrapping_sub(self.at) as u64;
                self.bits.put_varint(self.delta, out);
                self.put_value(bits, out);
            }
            _ => {
                let delta = at.wrapping_sub(self.at) as u64;
                let change = delta.wrapping_sub(self.delta) as i64;
                self.delta = delta;
                put_change(change, &mut self.bits, out);
                self.put_value(bits, out);
            }
        }
        self.at = at;
        self.value = bits;
        self.count += 1;
    }

    #[inline]
    fn put_value(&mut self, bits: u64, out: &mut Vec<u8>) {
        self.window.put(bits ^ self.value, &mut self.bits, out);
    }

    /// Ends the chunk that begins at `start` in `out`; the encoder is ready for the next.
    pub fn finish(&mut self, start: usize, out: &mut Vec<u8>) {
        self.bits.finish(out);
        if self.count > 0 {
            out[start..start + 2].copy_from_slice(&self.count.to_be_bytes());
        }
        *self = Encoder::default();
    }
}

/// How the distance of two times changes.
#[inline]
fn put_change(change: i64, bits: &mut BitWriter, out: &mut Vec<u8>) {
    let fits = |width: u32| -((1i64 << (width - 1)) - 1) <= change && change <= 1 << (width - 1);
    if change == 0 {
        bits.put(0, 1, out);
    } else if fits(14) {
        bits.put(0b10, 2, out);
        bits.put(change as u64, 14, out);
    } else if fits(17) {
        bits.put(0b110, 3, out);
        bits.put(change as u64, 17, out);
    } else if fits(20) {
        bits.put(0b1110, 4, out);
        bits.put(change as u64, 20, out);
    } else {
        bits.put(0b1111, 4, out);
        bits.put(change as u64, 64, out);
    }
}

/// Times of samples, for all the chunks that have them in common.
#[derive(Debug, Default)]
pub struct Times {
    first: i64,
    /// Of the second sample from the first.
    delta: u64,
    /// How each sample's distance from the one before differs from that one's; of the first two it is 0.
    changes: Vec<i64>,
    /// How many samples before this one are at another distance than the one before them.
    uneven: Vec<u32>,
}

impl Times {
    /// Ascending times, 65,535 at most.
    pub fn new(times: &[i64]) -> Times {
        let delta = |at: usize| times[at].wrapping_sub(times[at - 1]);
        let change = |at: usize| if at < 2 { 0 } else { delta(at).wrapping_sub(delta(at - 1)) };
        let changes: Vec<i64> = (0..times.len()).map(change).collect();
        let mut uneven = vec![0];
        for change in &changes {
            uneven.push(uneven[uneven.len() - 1] + u32::from(*change != 0));
        }
        let first = times.first().copied().unwrap_or(0);
        Times { first, delta: if times.len() > 1 { delta(1) as u64 } else { 0 }, changes, uneven }
    }

    pub fn len(&self) -> usize {
        self.changes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    #[inline]
    fn put(&self, at: usize, bits: &mut BitWriter, out: &mut Vec<u8>) {
        match at {
            1 => bits.put_varint(self.delta, out),
            at => put_change(self.changes[at], bits, out),
        }
    }

    /// Samples whose values are that of the one before.
    #[inline]
    fn put_unchanged(&self, mut samples: Range<usize>, bits: &mut BitWriter, out: &mut Vec<u8>) {
        if samples.start == 1 && !samples.is_empty() {
            bits.put_varint(self.delta, out);
            bits.put(0, 1, out);
            samples.start = 2;
        }
        if samples.is_empty() {
            return;
        }
        if self.uneven[samples.start] == self.uneven[samples.end] {
            bits.put_zeros(2 * samples.len(), out);
            return;
        }
        for at in samples {
            put_change(self.changes[at], bits, out);
            bits.put(0, 1, out);
        }
    }
}

/// Writes a chunk that has a sample at each of the times. `steps` are the samples at which the value becomes another, in
/// order; before the first it is 0.
pub fn encode_steps(times: &Times, steps: &[(u32, f64)], out: &mut Vec<u8>) {
    let count = u16::try_from(times.len()).expect("a chunk holds 65,535 samples at most");
    out.extend_from_slice(&count.to_be_bytes());
    if count == 0 {
        return;
    }
    let (mut bits, mut window) = (BitWriter::default(), XorWindow::default());
    let (mut value, steps) = match steps.split_first() {
        Some(((0, first), rest)) => (first.to_bits(), rest),
        _ => (0, steps),
    };
    bits.put_varint(zigzag(times.first), out);
    bits.put(value, 64, out);
    let mut done = 1;
    for (at, step) in steps {
        let at = *at as usize;
        times.put_unchanged(done..at, &mut bits, out);
        times.put(at, &mut bits, out);
        window.put(step.to_bits() ^ value, &mut bits, out);
        value = step.to_bits();
        done = at + 1;
    }
    times.put_unchanged(done..times.len(), &mut bits, out);
    bits.finish(out);
}

/// Reads all samples of an XOR chunk, in order.
pub fn decode(chunk: &[u8], mut sample: impl FnMut(i64, f64)) -> Result<(), ChunkError> {
    let (head, bytes) = chunk.split_first_chunk::<2>().ok_or(ChunkError(UNEXPECTED_END))?;
    let count = u16::from_be_bytes(*head);
    let mut bits = Bits::new(bytes);
    let (mut at, mut delta, mut value) = (0i64, 0u64, 0u64);
    let mut window = XorWindow::default();
    for i in 0..count {
        if i == 0 {
            at = unzigzag(bits.varint()?);
            value = bits.take(64)?;
            sample(at, f64::from_bits(value));
            continue;
        }
        if i == 1 {
            delta = bits.varint()?;
        } else if bits.bit()? {
            let width = if !bits.bit()? {
                14
            } else if !bits.bit()? {
                17
            } else if !bits.bit()? {
                20
            } else {
                64
            };
            let mut change = bits.take(width)?;
            if width < 64 && change > 1 << (width - 1) {
                change = change.wrapping_sub(1 << width);
            }
            delta = delta.wrapping_add(change);
        }
        at = at.wrapping_add(delta as i64);
        value ^= window.take(&mut bits)?;
        sample(at, f64::from_bits(value));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random(seed: u64) -> impl FnMut(u64) -> u64 {
        let mut state = seed;
        move |below| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) % below
        }
    }

    fn encode(samples: &[(i64, f64)]) -> Vec<u8> {
        let (mut encoder, mut out) = (Encoder::default(), Vec::new());
        samples.iter().for_each(|(at, value)| encoder.push(*at, *value, &mut out));
        encoder.finish(0, &mut out);
        out
    }

    #[track_caller]
    fn check(samples: &[(i64, f64)]) {
        let mut read = Vec::new();
        decode(&encode(samples), |at, value| read.push((at, value.to_bits()))).unwrap();
        assert_eq!(read, samples.iter().map(|(at, value)| (*at, value.to_bits())).collect::<Vec<_>>());
    }

    #[test]
    fn samples_come_back() {
        let mut next = random(1);
        for round in 0..500 {
            let mut at = [0, -5, i64::MAX / 2, 1_700_000_000_000][round % 4];
            let mut value = 0.0;
            let samples: Vec<(i64, f64)> = (0..1 + next(300))
                .map(|_| {
                    at += [5000, 5000, 5001, 1, next(1 << 30) as i64 * 4, next(200_000) as i64][next(6) as usize];
                    value = match next(6) {
                        0 => f64::from_bits(next(1 << 31) << 33 | next(1 << 31)),
                        1 => [f64::NAN, f64::INFINITY, -0.0, series::STALE_NAN][next(4) as usize],
                        2 => value + next(1000) as f64,
                        3 => next(1000) as f64 / 64.0,
                        _ => value,
                    };
                    (at, value)
                })
                .collect();
            check(&samples);
        }
        check(&[(i64::MIN, 1.0), (i64::MAX, 2.0), (i64::MAX, 2.0)]);
        assert_eq!(decode(&[0, 0], |_, _| panic!("no sample")), Ok(()));
    }

    /// Chunks of steps are those that the encoder makes of the samples one by one.
    #[test]
    fn steps_are_the_samples_that_they_stand_for() {
        let mut next = random(3);
        for round in 0..3000 {
            let count = next(200) as usize;
            let even = next(3) > 0;
            let mut at = [0, -5, 1_700_000_000_000][round % 3];
            let times: Vec<i64> = (0..count)
                .map(|_| {
                    at += if even && next(40) > 0 {
                        5000
                    } else {
                        [4999, 5000, 1, next(1 << 22) as i64][next(4) as usize]
                    };
                    at
                })
                .collect();
            let (share, mut value) = (next(100), 0.0f64);
            let mut steps = Vec::new();
            let mut samples = Vec::new();
            for (row, at) in times.iter().enumerate() {
                let other = [value + next(50) as f64, f64::from_bits(next(1 << 31) << 32 | next(1 << 31)), -0.0];
                let other = other[next(3) as usize];
                if next(100) < share && other.to_bits() != value.to_bits() {
                    value = other;
                    steps.push((row as u32, value));
                }
                samples.push((*at, value));
            }
            let mut out = Vec::new();
            encode_steps(&Times::new(&times), &steps, &mut out);
            assert_eq!(out, if samples.is_empty() { vec![0, 0] } else { encode(&samples) }, "round {round}");
        }
    }

    /// Made with Prometheus' own encoder: two bits for a sample that does not change.
    #[test]
    fn constant_samples_cost_two_bits() {
        let samples: Vec<_> = (0..120).map(|i| (1_000 + i * 15_000, 1.0)).collect();
        assert_eq!(encode(&samples).len(), 2 + 2 + 8 + 2 + (1 + 118 * 2usize).div_ceil(8));
    }

    #[test]
    fn damaged_chunks_are_errors_or_samples() {
        let mut next = random(2);
        let samples: Vec<_> = (0..100).map(|i| (i * 1000 + next(50) as i64, next(1 << 40) as f64 / 3.0)).collect();
        let good = encode(&samples);
        let mut refused = 0;
        for _ in 0..30_000 {
            let mut chunk = good.clone();
            for _ in 0..1 + next(3) {
                let at = next(chunk.len() as u64) as usize;
                match next(3) {
                    0 => chunk[at] = next(256) as u8,
                    1 => chunk.truncate(at.max(1)),
                    _ => chunk.insert(at, next(256) as u8),
                }
            }
            let mut count = 0;
            refused += usize::from(decode(&chunk, |_, _| count += 1).is_err());
            assert!(count <= 65_535);
        }
        assert!(refused > 1000, "{refused}");
        assert_eq!(decode(&[], |_, _| ()), Err(ChunkError(UNEXPECTED_END)));
    }
}
