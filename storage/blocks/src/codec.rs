//! Numbers and texts as Prometheus' files hold them.

use crate::error::UNEXPECTED_END;

pub(crate) fn put_uvarint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub(crate) fn put_varint(value: i64, out: &mut Vec<u8>) {
    put_uvarint((value << 1 ^ value >> 63) as u64, out);
}

/// A cursor over bytes of a file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ByteCursor<'a>(&'a [u8]);

impl<'a> ByteCursor<'a> {
    pub fn new(bytes: &'a [u8]) -> ByteCursor<'a> {
        ByteCursor(bytes)
    }

    /// Bytes that were not read yet.
    pub fn rest(&self) -> &'a [u8] {
        self.0
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn take(&mut self, count: usize) -> Result<&'a [u8], &'static str> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(UNEXPECTED_END)?;
        self.0 = rest;
        Ok(taken)
    }

    pub fn u8(&mut self) -> Result<u8, &'static str> {
        Ok(self.take(1)?[0])
    }

    pub fn u32(&mut self) -> Result<u32, &'static str> {
        Ok(u32::from_be_bytes(self.take(4)?.try_into().expect("four bytes")))
    }

    pub fn u64(&mut self) -> Result<u64, &'static str> {
        Ok(u64::from_be_bytes(self.take(8)?.try_into().expect("eight bytes")))
    }

    pub fn f64(&mut self) -> Result<f64, &'static str> {
        self.u64().map(f64::from_bits)
    }

    #[inline]
    pub fn uvarint(&mut self) -> Result<u64, &'static str> {
        let mut value = 0u64;
        for (i, byte) in self.0.iter().take(10).enumerate() {
            value |= u64::from(byte & 0x7f) << (7 * i as u32);
            if *byte < 0x80 {
                self.0 = &self.0[i + 1..];
                return Ok(value);
            }
        }
        Err(if self.0.len() < 10 { UNEXPECTED_END } else { "a number is too long" })
    }

    #[inline]
    pub fn varint(&mut self) -> Result<i64, &'static str> {
        let value = self.uvarint()?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    /// A count of things of at least `bytes_each` bytes.
    pub fn count(&mut self, bytes_each: usize) -> Result<usize, &'static str> {
        let count = self.uvarint()?;
        if count > (self.0.len() / bytes_each) as u64 { Err("a count is too large") } else { Ok(count as usize) }
    }

    /// Bytes behind their length.
    pub fn bytes(&mut self) -> Result<&'a [u8], &'static str> {
        let length = self.uvarint()?;
        self.take(usize::try_from(length).map_err(|_| UNEXPECTED_END)?)
    }

    pub fn text(&mut self) -> Result<&'a str, &'static str> {
        std::str::from_utf8(self.bytes()?).map_err(|_| "a text is not UTF-8")
    }
}
