//! XOR chunks: Gorilla's compression of timestamps and values, bit for bit as Prometheus writes it.
//!
//! Source: Pelkonen et al., "Gorilla: a fast, scalable, in-memory time series database", VLDB 2015, with the widths of
//! Prometheus. Format: docs/format/block.md.

use crate::bits::{BitWriter, Bits, SHORT, XorWindow};

/// The encoding's number in a chunk.
pub const XOR: u8 = 1;

/// Bytes that are no chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("chunk is damaged: {0}")]
pub struct ChunkError(pub &'static str);

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

    #[inline]
    fn put(&mut self, bits: u64, count: u32, out: &mut Vec<u8>) {
        self.bits.put(bits, count, out);
    }

    fn put_varint(&mut self, mut value: u64, out: &mut Vec<u8>) {
        while value >= 0x80 {
            self.put(value & 0x7f | 0x80, 8, out);
            value >>= 7;
        }
        self.put(value, 8, out);
    }

    /// Appends a sample, whose time is not before the last one's. A chunk holds 65,535 at most.
    #[inline]
    pub fn push(&mut self, at: i64, value: f64, out: &mut Vec<u8>) {
        let bits = value.to_bits();
        match self.count {
            0 => {
                out.extend_from_slice(&[0, 0]);
                self.put_varint((at << 1 ^ at >> 63) as u64, out);
                self.put(bits, 64, out);
            }
            1 => {
                self.delta = at.wrapping_sub(self.at) as u64;
                self.put_varint(self.delta, out);
                self.put_value(bits, out);
            }
            _ => {
                let delta = at.wrapping_sub(self.at) as u64;
                let change = delta.wrapping_sub(self.delta) as i64;
                self.delta = delta;
                let fits = |bits: u32| -((1i64 << (bits - 1)) - 1) <= change && change <= 1 << (bits - 1);
                if change == 0 {
                    if bits == self.value {
                        self.put(0, 2, out);
                        self.at = at;
                        self.count += 1;
                        return;
                    }
                    self.put(0, 1, out);
                } else if fits(14) {
                    self.put(0b10, 2, out);
                    self.put(change as u64, 14, out);
                } else if fits(17) {
                    self.put(0b110, 3, out);
                    self.put(change as u64, 17, out);
                } else if fits(20) {
                    self.put(0b1110, 4, out);
                    self.put(change as u64, 20, out);
                } else {
                    self.put(0b1111, 4, out);
                    self.put(change as u64, 64, out);
                }
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

/// Reads all samples of an XOR chunk, in order.
pub fn decode(chunk: &[u8], mut sample: impl FnMut(i64, f64)) -> Result<(), ChunkError> {
    let (head, bytes) = chunk.split_first_chunk::<2>().ok_or(SHORT)?;
    let count = u16::from_be_bytes(*head);
    let mut bits = Bits::new(bytes);
    let (mut at, mut delta, mut value) = (0i64, 0u64, 0u64);
    let mut window = XorWindow::default();
    for i in 0..count {
        if i == 0 {
            let zigzag = bits.varint()?;
            at = (zigzag >> 1) as i64 ^ -((zigzag & 1) as i64);
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
        assert_eq!(decode(&[], |_, _| ()), Err(SHORT));
    }
}
