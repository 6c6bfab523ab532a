//! XOR2 chunks: floats with the start times of their samples, bit for bit as Prometheus writes them.
//!
//! One prefix says whether the step of the times is the one before, and whether the value is. A staleness marker has a prefix of
//! its own and leaves alone what the next value is compared with. Format: docs/format/block.md, and Prometheus' page on chunks.

use crate::bits::{BitWriter, Bits, XorWindow};
pub use crate::chunk::XOR2;
use crate::codec::{unzigzag, zigzag};
pub use crate::error::ChunkError;
use crate::error::UNEXPECTED_END;
use crate::start_times::{StartReader, StartWriter};
use series::{STALE_NAN, is_stale};

/// Widths of a change of the step that follows `110` and `1110`, so that it ends with a byte that began with the prefix.
const CHANGE_BITS: [u32; 2] = [13, 20];

/// Writes one chunk after the other, each into a buffer of its caller.
#[derive(Debug, Default)]
pub struct Encoder {
    count: u16,
    at: i64,
    delta: u64,
    /// The last value that is no marker.
    value: u64,
    window: XorWindow,
    starts: StartWriter,
    bits: BitWriter,
}

impl Encoder {
    /// Appends a sample, whose time is not before the last one's, and its start time, 0 if there is none. A chunk holds 65,535
    /// at most.
    #[inline]
    pub fn push(&mut self, start: i64, at: i64, value: f64, out: &mut Vec<u8>) {
        let before = if self.count == 0 { at } else { self.at };
        match self.count {
            0 => {
                // Samples and start times, known at the end.
                out.extend_from_slice(&[0, 0, 0]);
                self.bits.put_varint(zigzag(at), out);
                self.bits.put(value.to_bits(), 64, out);
            }
            1 => {
                self.delta = at.wrapping_sub(self.at) as u64;
                self.bits.put_varint(self.delta, out);
                self.put_value(value, out);
            }
            _ => {
                let delta = at.wrapping_sub(self.at) as u64;
                let change = delta.wrapping_sub(self.delta) as i64;
                self.delta = delta;
                self.put_joint(change, value, out);
            }
        }
        self.starts.put(self.count, before, start, &mut self.bits, out);
        self.at = at;
        if !is_stale(value) {
            self.value = value.to_bits();
        }
        self.count += 1;
    }

    fn put_joint(&mut self, change: i64, value: f64, out: &mut Vec<u8>) {
        let xor = value.to_bits() ^ self.value;
        if change == 0 {
            match (is_stale(value), xor) {
                (true, _) => self.bits.put(0b11111, 5, out),
                (_, 0) => self.bits.put(0, 1, out),
                _ => self.window.put_changed(xor, [(0b100, 3), (0b101, 3)], &mut self.bits, out),
            }
            return;
        }
        let fits = |width: u32| (-(1i64 << (width - 1))..1 << (width - 1)).contains(&change);
        let [short, long] = CHANGE_BITS;
        let (prefix, width) = match () {
            () if fits(short) => ((0b110, 3), short),
            () if fits(long) => ((0b1110, 4), long),
            () => ((0b11110, 5), 64),
        };
        self.bits.put(prefix.0, prefix.1, out);
        self.bits.put(change as u64, width, out);
        self.put_value(value, out);
    }

    fn put_value(&mut self, value: f64, out: &mut Vec<u8>) {
        let xor = value.to_bits() ^ self.value;
        match (is_stale(value), xor) {
            (true, _) => self.bits.put(0b111, 3, out),
            (_, 0) => self.bits.put(0, 1, out),
            _ => self.window.put_changed(xor, [(0b10, 2), (0b110, 3)], &mut self.bits, out),
        }
    }

    /// Ends the chunk that begins at `from` in `out`; the encoder is ready for the next.
    pub fn finish(&mut self, from: usize, out: &mut Vec<u8>) {
        self.bits.finish(out);
        if self.count > 0 {
            out[from..from + 2].copy_from_slice(&self.count.to_be_bytes());
            out[from + 2] = self.starts.head();
        }
        *self = Encoder::default();
    }
}

/// Reads all samples of an XOR2 chunk in order: start time, 0 if there is none, time and value.
pub fn decode(chunk: &[u8], mut sample: impl FnMut(i64, i64, f64)) -> Result<(), ChunkError> {
    let (head, bytes) = chunk.split_first_chunk::<2>().ok_or(ChunkError(UNEXPECTED_END))?;
    let count = u16::from_be_bytes(*head);
    if count == 0 {
        return Ok(());
    }
    let (starts, bytes) = bytes.split_first().ok_or(ChunkError(UNEXPECTED_END))?;
    let (mut starts, mut bits) = (StartReader::new(*starts), Bits::new(bytes));
    let (mut at, mut delta, mut base) = (0i64, 0u64, 0u64);
    let mut window = XorWindow::default();
    for number in 0..count {
        let mut before = at;
        let xor = match number {
            0 => {
                at = unzigzag(bits.varint()?);
                before = at;
                Some(bits.take(64)?).filter(|value| !is_stale(f64::from_bits(*value)))
            }
            1 => {
                delta = bits.varint()?;
                take_value(&mut window, &mut bits)?
            }
            _ => {
                let (change, xor) = take_joint(&mut window, &mut bits)?;
                delta = delta.wrapping_add(change as u64);
                xor
            }
        };
        if number > 0 {
            at = at.wrapping_add(delta as i64);
        }
        base ^= xor.unwrap_or(0);
        let start = starts.take(number, before, &mut bits)?;
        sample(start, at, if xor.is_some() { f64::from_bits(base) } else { STALE_NAN });
    }
    Ok(())
}

/// What a value differs by from the last one that is no marker; None for a marker.
fn take_value(window: &mut XorWindow, bits: &mut Bits) -> Result<Option<u64>, ChunkError> {
    if !bits.bit()? {
        return Ok(Some(0));
    }
    if !bits.bit()? {
        return window.take_changed(false, bits).map(Some);
    }
    match bits.bit()? {
        false => window.take_changed(true, bits).map(Some),
        true => Ok(None),
    }
}

/// How the step of the times changes, and the value.
fn take_joint(window: &mut XorWindow, bits: &mut Bits) -> Result<(i64, Option<u64>), ChunkError> {
    if !bits.bit()? {
        return Ok((0, Some(0)));
    }
    if !bits.bit()? {
        let is_new = bits.bit()?;
        return Ok((0, Some(window.take_changed(is_new, bits)?)));
    }
    for width in CHANGE_BITS {
        if !bits.bit()? {
            let change = (bits.take(width as usize)? << (64 - width)) as i64 >> (64 - width);
            return Ok((change, take_value(window, bits)?));
        }
    }
    match bits.bit()? {
        false => Ok((bits.take(64)? as i64, take_value(window, bits)?)),
        true => Ok((0, None)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Sample = (i64, i64, f64);

    fn random(seed: u64) -> impl FnMut(u64) -> u64 {
        let mut state = seed;
        move |below| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) % below
        }
    }

    fn encode(samples: &[Sample]) -> Vec<u8> {
        let (mut encoder, mut out) = (Encoder::default(), Vec::new());
        samples.iter().for_each(|(start, at, value)| encoder.push(*start, *at, *value, &mut out));
        encoder.finish(0, &mut out);
        out
    }

    #[track_caller]
    fn check(samples: &[Sample]) {
        let mut read = Vec::new();
        decode(&encode(samples), |start, at, value| read.push((start, at, value.to_bits()))).unwrap();
        assert_eq!(read, samples.iter().map(|(start, at, value)| (*start, *at, value.to_bits())).collect::<Vec<_>>());
    }

    /// Samples of any kind: `starts` says how start times go on.
    fn samples(next: &mut impl FnMut(u64) -> u64, starts: u64) -> Vec<Sample> {
        let mut at = [0, -5, 1_700_000_000_000][next(3) as usize];
        let (mut value, mut start) = (0.0, [0, 1_600_000_000_000][next(2) as usize]);
        (0..1 + next(300))
            .map(|_| {
                let steps = [5000, 5000, 5001, 1, next(1 << 30) as i64 * 4, next(200_000) as i64];
                at += steps[next(6) as usize];
                value = match next(7) {
                    0 => f64::from_bits(next(1 << 31) << 33 | next(1 << 31)),
                    1 => [f64::NAN, f64::INFINITY, -0.0, STALE_NAN][next(4) as usize],
                    2 => value + next(1000) as f64,
                    3 => STALE_NAN,
                    4 => next(1000) as f64 / 64.0,
                    _ => value,
                };
                start = match (starts, next(40)) {
                    (1, 0) | (2, _) => at - next(100_000) as i64,
                    (3, _) => at - 7,
                    (1, 1) => 0,
                    _ => start,
                };
                (start, at, value)
            })
            .collect()
    }

    #[test]
    fn samples_and_their_start_times_come_back() {
        let mut next = random(1);
        for round in 0..800 {
            check(&samples(&mut next, round % 4));
        }
        check(&[(i64::MAX, i64::MIN, 1.0), (i64::MIN, i64::MAX, 2.0), (0, i64::MAX, 2.0)]);
        check(&[(0, 5, STALE_NAN), (0, 6, STALE_NAN), (0, 7, 1.0)]);
        assert_eq!(decode(&[0, 0], |_, _, _| panic!("no sample")), Ok(()));
    }

    /// Bits as Prometheus' page on chunks has them.
    #[test]
    fn bits_are_those_of_the_format() {
        #[track_caller]
        fn bits(samples: &[Sample], head: u8, want: &str) {
            let chunk = encode(samples);
            assert_eq!((chunk[1] as usize, chunk[2]), (samples.len(), head));
            let text: String = chunk[3..].iter().map(|byte| format!("{byte:08b}")).collect();
            let want: String = want.chars().filter(|bit| *bit != ' ').collect();
            assert!(text.starts_with(&want) && text.len() < want.len() + 8, "{text}\n{want}");
        }
        let one = "0011 1111 1111 0000 0000 0000 0000 0000 0000 0000 0000 0000 0000 0000 0000 0000";
        // The first sample's time as varint, and its value; then the step as varint, and the value alone.
        let two = format!("0000 0000 {one} 0000 0101 0");
        // The same again; a marker; another step and a marker; another value.
        let rest = "0 11111 110 0000 0000 0000 1 111 10 1 00000 001100 0111 1111 1111";
        let samples = [(0, 0, 1.0), (0, 5, 1.0), (0, 10, 1.0), (0, 15, STALE_NAN), (0, 21, STALE_NAN), (0, 27, 2.0)];
        let rest = rest.replace("00000 001100 0111 1111 1111", "00001 001011 111 1111 1111");
        bits(&samples, 0, &format!("{two} {rest}"));
        // Start times: of the first as varint of what it lies before it, of the third as that from the time of the second.
        let starts = [(-3, 0, 1.0), (-3, 5, 1.0), (6, 10, 1.0), (11, 15, 1.0)];
        bits(&starts, 0x82, &format!("0000 0000 {one} 0000 0110 0000 0101 0 0 10 111 0 0"));
    }

    #[test]
    fn constant_samples_and_starts_cost_a_bit() {
        let constant: Vec<_> = (0..120).map(|i| (900, 1_000 + i * 15_000, 1.0)).collect();
        assert_eq!(encode(&constant).len(), 3 + 2 + 8 + 2 + 2 + (1 + 118usize).div_ceil(8));
    }

    #[test]
    fn damaged_chunks_are_errors_or_samples() {
        let mut next = random(2);
        let mut refused = 0;
        for round in 0..300 {
            let good = encode(&samples(&mut next, round % 4));
            for _ in 0..100 {
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
                refused += usize::from(decode(&chunk, |_, _, _| count += 1).is_err());
                assert!(count <= 65_535);
            }
        }
        assert!(refused > 1000, "{refused}");
        assert_eq!(decode(&[], |_, _, _| ()), Err(ChunkError(UNEXPECTED_END)));
        assert_eq!(decode(&[0, 1], |_, _, _| ()), Err(ChunkError(UNEXPECTED_END)));
    }
}
