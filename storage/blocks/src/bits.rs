//! Bits of a chunk, highest first, and the numbers that are packed in them.

use crate::error::{ChunkError, UNEXPECTED_END};

const SHORT: ChunkError = ChunkError(UNEXPECTED_END);

/// No window of significant bits yet.
const NO_WINDOW: u32 = 0xff;

/// Bits that do not fill a word yet, in the lowest places.
#[derive(Clone, Copy, Debug, Default)]
pub struct BitWriter {
    rest: u64,
    rest_bits: u32,
}

impl BitWriter {
    /// Appends the lowest `count` bits, 64 at most.
    #[inline]
    pub fn put(&mut self, bits: u64, count: u32, out: &mut Vec<u8>) {
        let bits = if count < 64 { bits & ((1 << count) - 1) } else { bits };
        // Fewer than 64 rest.
        let room = 64 - self.rest_bits;
        if count < room {
            self.rest = self.rest << count | bits;
            self.rest_bits += count;
            return;
        }
        let over = count - room;
        let word = if room < 64 { self.rest << room | bits >> over } else { bits };
        out.extend_from_slice(&word.to_be_bytes());
        self.rest = bits & ((1 << over) - 1);
        self.rest_bits = over;
    }

    #[inline]
    pub fn put_zeros(&mut self, mut count: usize, out: &mut Vec<u8>) {
        while count > 64 {
            self.put(0, 64, out);
            count -= 64;
        }
        self.put(0, count as u32, out);
    }

    /// Seven bits in each byte, the lowest first.
    pub fn put_varint(&mut self, mut value: u64, out: &mut Vec<u8>) {
        while value >= 0x80 {
            self.put(value & 0x7f | 0x80, 8, out);
            value >>= 7;
        }
        self.put(value, 8, out);
    }

    /// Fills the last byte with zeros.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        if self.rest_bits > 0 {
            let word = self.rest << (64 - self.rest_bits);
            out.extend_from_slice(&word.to_be_bytes()[..self.rest_bits.div_ceil(8) as usize]);
        }
        *self = BitWriter::default();
    }
}

/// The window of bits in which neighbouring floats of one column differ.
#[derive(Clone, Copy, Debug)]
pub struct XorWindow {
    leading: u32,
    trailing: u32,
}

impl Default for XorWindow {
    fn default() -> XorWindow {
        XorWindow { leading: NO_WINDOW, trailing: 0 }
    }
}

impl XorWindow {
    /// Writes what differs between a value and the one before it.
    #[inline]
    pub fn put(&mut self, xor: u64, bits: &mut BitWriter, out: &mut Vec<u8>) {
        if xor == 0 {
            bits.put(0, 1, out);
            return;
        }
        self.put_changed(xor, [(0b10, 2), (0b11, 2)], bits, out);
    }

    /// Writes a difference that is not zero, behind a prefix (bits and how many) for the window before, or for a new one.
    #[inline]
    pub fn put_changed(&mut self, xor: u64, [same, new]: [(u64, u32); 2], bits: &mut BitWriter, out: &mut Vec<u8>) {
        let (leading, trailing) = (xor.leading_zeros().min(31), xor.trailing_zeros());
        if self.leading != NO_WINDOW && leading >= self.leading && trailing >= self.trailing {
            bits.put(same.0, same.1, out);
            bits.put(xor >> self.trailing, 64 - self.leading - self.trailing, out);
            return;
        }
        (self.leading, self.trailing) = (leading, trailing);
        let significant = 64 - leading - trailing;
        // 64 significant bits are written as 0.
        let window = u64::from(leading) << 6 | u64::from(significant & 63);
        bits.put(new.0 << 11 | window, new.1 + 11, out);
        bits.put(xor >> trailing, significant, out);
    }

    #[inline]
    pub fn take(&mut self, bits: &mut Bits) -> Result<u64, ChunkError> {
        if !bits.bit()? {
            return Ok(0);
        }
        let is_new = bits.bit()?;
        self.take_changed(is_new, bits)
    }

    /// Reads a difference in a new window, or in the one before.
    #[inline]
    pub fn take_changed(&mut self, is_new: bool, bits: &mut Bits) -> Result<u64, ChunkError> {
        if is_new {
            self.leading = bits.take(5)? as u32;
            let significant = match bits.take(6)? as u32 {
                0 => 64,
                significant => significant,
            };
            let trailing = 64u32.checked_sub(self.leading + significant);
            self.trailing = trailing.ok_or(ChunkError("a value is wider than 64 bits"))?;
        } else if self.leading == NO_WINDOW {
            self.leading = 0;
        }
        Ok(bits.take((64 - self.leading - self.trailing) as usize)? << self.trailing)
    }
}

#[derive(Debug)]
pub struct Bits<'a> {
    bytes: &'a [u8],
    /// Bits that were taken.
    at: usize,
}

impl<'a> Bits<'a> {
    pub fn new(bytes: &'a [u8]) -> Bits<'a> {
        Bits { bytes, at: 0 }
    }

    /// Bits that are left.
    pub fn left(&self) -> usize {
        self.bytes.len() * 8 - self.at
    }

    #[inline]
    pub fn take(&mut self, count: usize) -> Result<u64, ChunkError> {
        if self.at + count > self.bytes.len() * 8 {
            return Err(SHORT);
        }
        let (from, skipped) = (self.at / 8, self.at % 8);
        if let Some(word) = self.bytes.get(from..).and_then(|rest| rest.first_chunk::<8>())
            && (1..=64 - skipped).contains(&count)
        {
            self.at += count;
            return Ok(u64::from_be_bytes(*word) << skipped >> (64 - count));
        }
        let mut value = 0u64;
        let mut left = count;
        while left > 0 {
            let byte = u64::from(self.bytes[self.at / 8]);
            let here = (8 - self.at % 8).min(left);
            let bits = byte >> (8 - self.at % 8 - here) & ((1 << here) - 1);
            value = value << here | bits;
            self.at += here;
            left -= here;
        }
        Ok(value)
    }

    #[inline]
    pub fn bit(&mut self) -> Result<bool, ChunkError> {
        let byte = self.bytes.get(self.at / 8).ok_or(SHORT)?;
        let bit = byte >> (7 - self.at % 8) & 1 == 1;
        self.at += 1;
        Ok(bit)
    }

    /// A number of whole bytes, seven bits in each.
    pub fn varint(&mut self) -> Result<u64, ChunkError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.take(8)?;
            value |= (byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(ChunkError("a number is too long"))
    }

    /// How many bits the number has that follows: as many ones say so.
    fn width(&mut self) -> Result<usize, ChunkError> {
        for width in WIDTHS {
            if !self.bit()? {
                return Ok(width as usize);
            }
        }
        Ok(64)
    }

    /// A number as [`put_varbit_uint`] writes it.
    pub fn varbit_uint(&mut self) -> Result<u64, ChunkError> {
        let width = self.width()?;
        self.take(width)
    }

    /// A number as [`put_varbit_int`] writes it.
    pub fn varbit_int(&mut self) -> Result<i64, ChunkError> {
        let width = self.width()?;
        let bits = self.take(width)?;
        let is_negative = width > 0 && width < 64 && bits > 1 << (width - 1);
        Ok(if is_negative { bits.wrapping_sub(1 << width) } else { bits } as i64)
    }
}

/// Bits of a number behind no, one, … seven ones and a zero; eight ones are before 64 bits.
const WIDTHS: [u32; 8] = [0, 3, 6, 9, 12, 18, 25, 56];

fn put_width(place: usize, bits: &mut BitWriter, out: &mut Vec<u8>) {
    match place {
        8 => bits.put(0xff, 8, out),
        place => bits.put((1 << (place + 1)) - 2, place as u32 + 1, out),
    }
}

/// A number that is small as a rule.
pub fn put_varbit_uint(value: u64, bits: &mut BitWriter, out: &mut Vec<u8>) {
    let place = WIDTHS.iter().position(|width| value < 1 << width).unwrap_or(8);
    put_width(place, bits, out);
    bits.put(value, WIDTHS.get(place).copied().unwrap_or(64), out);
}

/// A number that is near zero as a rule. A width holds one more above zero than below it.
pub fn put_varbit_int(value: i64, bits: &mut BitWriter, out: &mut Vec<u8>) {
    let fits = |width: &u32| match width {
        0 => value == 0,
        width => -((1i64 << (width - 1)) - 1) <= value && value <= 1 << (width - 1),
    };
    let place = WIDTHS.iter().position(fits).unwrap_or(8);
    put_width(place, bits, out);
    bits.put(value as u64, WIDTHS.get(place).copied().unwrap_or(64), out);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back_in_as_many_bits_as_prometheus_uses() {
        // Values at both ends of each width, and the bits that Prometheus writes for them.
        let ints = [
            (0, 1),
            (4, 5),
            (-3, 5),
            (5, 9),
            (-31, 9),
            (32, 9),
            (33, 13),
            (256, 13),
            (-255, 13),
            (-2047, 17),
            (2048, 17),
            (2049, 24),
            (131_072, 24),
            (-131_071, 24),
            (131_073, 32),
            (16_777_216, 32),
            (16_777_217, 64),
            (1 << 55, 64),
            ((1 << 55) + 1, 72),
            (i64::MIN, 72),
            (i64::MAX, 72),
        ];
        for (value, want) in ints {
            let (mut bits, mut out) = (BitWriter::default(), Vec::new());
            put_varbit_int(value, &mut bits, &mut out);
            assert_eq!(out.len() * 8 + bits.rest_bits as usize, want, "{value}");
            bits.finish(&mut out);
            assert_eq!(Bits::new(&out).varbit_int(), Ok(value));
        }
        let uints = [(0, 1), (7, 5), (8, 9), (63, 9), (64, 13), (4095, 17), (4096, 24), ((1 << 25) - 1, 32)];
        for (value, want) in uints.into_iter().chain([((1 << 56) - 1, 64), (1 << 56, 72), (u64::MAX, 72)]) {
            let (mut bits, mut out) = (BitWriter::default(), Vec::new());
            put_varbit_uint(value, &mut bits, &mut out);
            assert_eq!(out.len() * 8 + bits.rest_bits as usize, want, "{value}");
            bits.finish(&mut out);
            assert_eq!(Bits::new(&out).varbit_uint(), Ok(value));
        }
    }
}
