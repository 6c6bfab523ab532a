//! What Prometheus' files need beside `series::codec`.

pub(crate) use series::codec::{ByteCursor, UNEXPECTED_END, put_text, put_uvarint, put_varint, unzigzag, zigzag};

/// Reads of a [`ByteCursor`] that only the files of Prometheus need.
pub(crate) trait CursorExt<'a> {
    /// Reads the number of items that follow, each of at least `bytes_each` bytes.
    fn count_of(&mut self, bytes_each: usize) -> Result<usize, &'static str>;
    /// Reads bytes with their length before them.
    fn bytes(&mut self) -> Result<&'a [u8], &'static str>;
    /// Reads the bits of a float.
    fn f64(&mut self) -> Result<f64, &'static str>;
}

impl<'a> CursorExt<'a> for ByteCursor<'a> {
    fn count_of(&mut self, bytes_each: usize) -> Result<usize, &'static str> {
        let count = self.uvarint()?;
        if count > (self.rest().len() / bytes_each) as u64 { Err(UNEXPECTED_END) } else { Ok(count as usize) }
    }

    fn bytes(&mut self) -> Result<&'a [u8], &'static str> {
        let length = self.count()?;
        self.take(length)
    }

    fn f64(&mut self) -> Result<f64, &'static str> {
        self.u64_be().map(f64::from_bits)
    }
}
