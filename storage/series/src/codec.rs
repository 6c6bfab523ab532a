//! Variable-length integers and a cursor that checks every read.
//!
//! The encodings are LEB128 for unsigned numbers (as Go's `binary.Uvarint` and protobuf have it), zigzag before it for
//! signed ones, and text with its length in front. File formats and wire messages share this module; each states its own
//! byte order by the method it calls.
//!
//! Bytes come from disk or from a peer: every read is bounded by what is left, and nothing panics.

/// Why a read past the last byte fails.
pub const UNEXPECTED_END: &str = "unexpected end of data";

/// Why a variable-length integer of more than 64 bits is refused.
pub const VARINT_TOO_LONG: &str = "variable-length integer is longer than 64 bits";

/// Why text that is not UTF-8 is refused.
pub const NOT_UTF8: &str = "text is not valid UTF-8";

/// Longest encoding of a `u64` by [`put_uvarint`], in bytes.
pub const UVARINT_BYTES_MAX: usize = 10;

/// Appends `value` as LEB128.
pub fn put_uvarint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends `value` as zigzag and LEB128.
pub fn put_varint(value: i64, out: &mut Vec<u8>) {
    put_uvarint(zigzag(value), out);
}

/// Appends `text` with its length in bytes before it.
pub fn put_text(text: &str, out: &mut Vec<u8>) {
    put_uvarint(text.len() as u64, out);
    out.extend_from_slice(text.as_bytes());
}

/// Returns how many bytes [`put_uvarint`] appends for `value`: 1 to [`UVARINT_BYTES_MAX`].
pub fn uvarint_bytes(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

/// Maps a signed number to an unsigned one so that small magnitudes stay small: 0, -1, 1, -2 become 0, 1, 2, 3.
#[inline]
pub fn zigzag(value: i64) -> u64 {
    (value << 1 ^ value >> 63) as u64
}

/// Reverses [`zigzag`].
#[inline]
pub fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

/// A cursor over bytes from memory, disk or network. An error leaves the cursor at an unspecified position.
#[derive(Clone, Copy, Debug)]
pub struct ByteCursor<'a>(&'a [u8]);

impl<'a> ByteCursor<'a> {
    /// Returns a cursor at the start of `bytes`.
    pub fn new(bytes: &'a [u8]) -> ByteCursor<'a> {
        ByteCursor(bytes)
    }

    /// Returns the bytes that have not been read.
    pub fn rest(&self) -> &'a [u8] {
        self.0
    }

    /// Returns whether every byte has been read.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Reads one byte.
    pub fn byte(&mut self) -> Result<u8, &'static str> {
        let (first, rest) = self.0.split_first().ok_or(UNEXPECTED_END)?;
        self.0 = rest;
        Ok(*first)
    }

    /// Reads `count` bytes.
    pub fn take(&mut self, count: usize) -> Result<&'a [u8], &'static str> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(UNEXPECTED_END)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], &'static str> {
        let (taken, rest) = self.0.split_first_chunk::<N>().ok_or(UNEXPECTED_END)?;
        self.0 = rest;
        Ok(*taken)
    }

    /// Reads four bytes, the least significant first.
    pub fn u32_le(&mut self) -> Result<u32, &'static str> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    /// Reads eight bytes, the least significant first.
    pub fn u64_le(&mut self) -> Result<u64, &'static str> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// Reads four bytes, the most significant first.
    pub fn u32_be(&mut self) -> Result<u32, &'static str> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    /// Reads eight bytes, the most significant first.
    pub fn u64_be(&mut self) -> Result<u64, &'static str> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    /// Reads what [`put_uvarint`] wrote. Bits beyond 64 are refused if there is an eleventh byte.
    pub fn uvarint(&mut self) -> Result<u64, &'static str> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(VARINT_TOO_LONG)
    }

    /// Reads what [`put_varint`] wrote.
    pub fn varint(&mut self) -> Result<i64, &'static str> {
        Ok(unzigzag(self.uvarint()?))
    }

    /// Reads a variable-length integer of a smaller type.
    pub fn number<T: TryFrom<u64>>(&mut self) -> Result<T, &'static str> {
        T::try_from(self.uvarint()?).map_err(|_| "number is too large for its field")
    }

    /// Reads the number of items that follow, each of at least one byte. A count larger than the rest is refused, so
    /// that it can size an allocation.
    pub fn count(&mut self) -> Result<usize, &'static str> {
        let count = self.uvarint()?;
        if count > self.0.len() as u64 { Err(UNEXPECTED_END) } else { Ok(count as usize) }
    }

    /// Reads what [`put_text`] wrote.
    pub fn text(&mut self) -> Result<&'a str, &'static str> {
        let length = self.count()?;
        std::str::from_utf8(self.take(length)?).map_err(|_| NOT_UTF8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NUMBERS: [u64; 9] = [0, 1, 127, 128, 16_383, 16_384, 1 << 32, 1 << 63, u64::MAX];

    #[test]
    fn numbers_survive_a_round_trip() {
        for number in NUMBERS {
            for number in [number, number.wrapping_sub(1), number ^ 0x5555] {
                let mut bytes = Vec::new();
                put_uvarint(number, &mut bytes);
                assert_eq!(bytes.len(), uvarint_bytes(number), "{number}");
                assert!(bytes.len() <= UVARINT_BYTES_MAX);
                put_varint(number as i64, &mut bytes);
                let mut cursor = ByteCursor::new(&bytes);
                assert_eq!((cursor.uvarint(), cursor.varint()), (Ok(number), Ok(number as i64)));
                assert!(cursor.is_empty());
            }
        }
    }

    #[test]
    fn small_magnitudes_stay_small() {
        for (signed, want) in [(0, 0), (-1, 1), (1, 2), (-2, 3), (i64::MAX, u64::MAX - 1), (i64::MIN, u64::MAX)] {
            assert_eq!((zigzag(signed), unzigzag(want)), (want, signed));
        }
    }

    #[test]
    fn every_cut_is_an_error() {
        let mut bytes = Vec::new();
        put_text("grün", &mut bytes);
        put_uvarint(1 << 40, &mut bytes);
        bytes.extend_from_slice(&0x0102_0304u32.to_be_bytes());
        bytes.extend_from_slice(&0x0102_0304u32.to_le_bytes());
        bytes.extend_from_slice(&7u64.to_be_bytes());
        bytes.extend_from_slice(&7u64.to_le_bytes());
        let read = |bytes: &[u8]| {
            let mut cursor = ByteCursor::new(bytes);
            assert_eq!((cursor.text()?, cursor.uvarint()?), ("grün", 1 << 40));
            assert_eq!((cursor.u32_be()?, cursor.u32_le()?), (0x0102_0304, 0x0102_0304));
            assert_eq!((cursor.u64_be()?, cursor.u64_le()?), (7, 7));
            Ok::<_, &'static str>(cursor.rest().len())
        };
        assert_eq!(read(&bytes), Ok(0));
        for length in 0..bytes.len() {
            assert_eq!(read(&bytes[..length]), Err(UNEXPECTED_END), "cut after {length} bytes");
        }
    }

    #[test]
    fn hostile_bytes_are_refused() {
        assert_eq!(ByteCursor::new(&[0x80; 11]).uvarint(), Err(VARINT_TOO_LONG));
        assert_eq!(ByteCursor::new(&[0xff, 0xff, 0xff, 0x7f]).count(), Err(UNEXPECTED_END));
        assert_eq!(ByteCursor::new(&[2, 0xff, 0xfe]).text(), Err(NOT_UTF8));
        assert!(ByteCursor::new(&[0x80, 2]).number::<u8>().is_err());
        assert_eq!(ByteCursor::new(&[3, 1, 2, 3]).count(), Ok(3));
    }
}
