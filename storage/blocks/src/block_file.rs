//! A file of a block, read in pieces through the page cache: nothing of it stays on the heap.

use crate::codec::ByteCursor;
use crate::error::{BlockError, Fault};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

/// Bytes that a sequential reader takes from the page cache at a time.
const PIECE_BYTES: usize = 64 << 10;
/// Longest value that is parsed: labels of remote write are shorter.
const VALUE_BYTES_MAX: usize = 32 << 20;
/// Bytes that a window reads where nothing tells that the next read is near.
const WINDOW_BYTES_MIN: usize = 1 << 10;

#[derive(Debug)]
pub(crate) struct BlockFile {
    pub path: PathBuf,
    file: File,
    pub length: u64,
}

impl BlockFile {
    pub fn open(path: PathBuf) -> Result<BlockFile, BlockError> {
        let opened = File::open(&path).and_then(|file| Ok((file.metadata()?.len(), file)));
        let (length, file) = opened.map_err(|error| BlockError::io(&path, 0, &error))?;
        Ok(BlockFile { path, file, length })
    }

    pub fn bad(&self, offset: u64, reason: impl Into<String>) -> BlockError {
        BlockError::new(&self.path, offset, reason)
    }

    pub fn fault(&self, offset: u64, fault: Fault) -> BlockError {
        BlockError { file: self.path.clone(), offset, fault }
    }

    /// Fails if the file has fewer than `length` bytes from `offset` on.
    fn check_span(&self, offset: u64, length: u64) -> Result<(), BlockError> {
        if offset.checked_add(length).is_none_or(|end| end > self.length) {
            return Err(self.fault(offset, Fault::Short { want: length, got: self.length.saturating_sub(offset) }));
        }
        Ok(())
    }

    /// Reads exactly `bytes.len()` bytes.
    pub fn read_into(&self, offset: u64, bytes: &mut [u8]) -> Result<(), BlockError> {
        self.check_span(offset, bytes.len() as u64)?;
        self.file.read_exact_at(bytes, offset).map_err(|error| BlockError::io(&self.path, offset, &error))
    }

    pub fn read<const N: usize>(&self, offset: u64) -> Result<[u8; N], BlockError> {
        let mut bytes = [0; N];
        self.read_into(offset, &mut bytes)?;
        Ok(bytes)
    }

    /// A section of an index: its length before it, its checksum behind it.
    pub fn section(&self, offset: u64) -> Result<SectionReader<'_>, BlockError> {
        let length = u64::from(u32::from_be_bytes(self.read(offset)?));
        self.check_span(offset, length.saturating_add(8))?;
        Ok(SectionReader::new(self, offset + 4, offset + 4 + length, true))
    }

    /// Bytes without checksum, to the end of the span.
    pub fn span(&self, from: u64, to: u64) -> Result<SectionReader<'_>, BlockError> {
        self.check_span(from, to.saturating_sub(from))?;
        Ok(SectionReader::new(self, from, to, false))
    }
}

/// Reads a span of a file from front to back, in pieces, and sums it up on the way.
pub(crate) struct SectionReader<'a> {
    file: &'a BlockFile,
    /// Where the bytes behind those in `bytes` are.
    next: u64,
    end: u64,
    bytes: Vec<u8>,
    position: usize,
    sum: u32,
    has_checksum: bool,
    /// Bytes of the next piece: few at first, as most readers of a span want its beginning only.
    piece_bytes: usize,
}

impl<'a> SectionReader<'a> {
    fn new(file: &'a BlockFile, start: u64, end: u64, has_checksum: bool) -> SectionReader<'a> {
        let piece_bytes = if has_checksum { PIECE_BYTES } else { PIECE_BYTES / 32 };
        SectionReader { file, next: start, end, bytes: Vec::new(), position: 0, sum: 0, has_checksum, piece_bytes }
    }

    /// Where the next byte is in the file.
    pub fn offset(&self) -> u64 {
        self.next - (self.bytes.len() - self.position) as u64
    }

    pub fn is_at_end(&self) -> bool {
        self.offset() == self.end
    }

    /// Bytes that are left.
    pub fn rest(&self) -> u64 {
        self.end - self.offset()
    }

    fn has_more(&self) -> bool {
        self.next < self.end
    }

    /// Adds a piece to what is buffered.
    fn read_piece(&mut self) -> Result<(), BlockError> {
        self.bytes.drain(..self.position);
        self.position = 0;
        let start = self.bytes.len();
        let length = (self.end - self.next).min(self.piece_bytes as u64) as usize;
        self.piece_bytes = (self.piece_bytes * 2).min(PIECE_BYTES);
        self.bytes.resize(start + length, 0);
        self.file.read_into(self.next, &mut self.bytes[start..])?;
        if self.has_checksum {
            self.sum = crc32c::crc32c_append(self.sum, &self.bytes[start..]);
        }
        self.next += length as u64;
        Ok(())
    }

    /// Parses one value. `parse` is called again with more bytes if the buffered ones end within the value.
    pub fn parse<T>(
        &mut self,
        mut parse: impl FnMut(&mut ByteCursor<'_>) -> Result<T, &'static str>,
    ) -> Result<T, BlockError> {
        loop {
            let cursor_bytes = self.bytes.len() - self.position;
            let mut cursor = ByteCursor::new(&self.bytes[self.position..]);
            match parse(&mut cursor) {
                Ok(value) => {
                    self.position = self.bytes.len() - cursor.rest().len();
                    return Ok(value);
                }
                Err(_) if self.has_more() && cursor_bytes <= VALUE_BYTES_MAX => self.read_piece()?,
                Err(reason) => return Err(self.file.bad(self.offset(), reason)),
            }
        }
    }

    /// The bytes that are buffered, read anew if there are none; empty at the end.
    pub fn piece(&mut self) -> Result<&[u8], BlockError> {
        if self.position == self.bytes.len() && self.has_more() {
            self.read_piece()?;
        }
        Ok(&self.bytes[self.position..])
    }

    pub fn consume(&mut self, bytes: usize) {
        self.position += bytes;
        debug_assert!(self.position <= self.bytes.len());
    }

    /// Reads what is left and compares the checksum.
    pub fn finish(mut self) -> Result<(), BlockError> {
        while self.has_more() {
            self.position = self.bytes.len();
            self.read_piece()?;
        }
        let want = u32::from_be_bytes(self.file.read(self.end)?);
        match self.sum == want {
            true => Ok(()),
            false => Err(self.file.fault(self.end, Fault::Checksum { want, got: self.sum })),
        }
    }
}

/// A part of a file that was read last: what lies near is served from it. It grows while reads go forward.
#[derive(Debug, Default)]
pub(crate) struct Window {
    start: u64,
    bytes: Vec<u8>,
    ahead: usize,
}

impl Window {
    /// At least `length` bytes from `offset` on, or all that the file has from there.
    pub fn get(&mut self, file: &BlockFile, offset: u64, length: usize) -> Result<&[u8], BlockError> {
        let end = self.start + self.bytes.len() as u64;
        let wanted_end = offset.saturating_add(length as u64).min(file.length);
        if offset >= file.length {
            return Err(file.fault(offset, Fault::Short { want: length as u64, got: 0 }));
        }
        if offset < self.start || wanted_end > end {
            let is_near = offset >= self.start && offset <= end.saturating_add(PIECE_BYTES as u64) && end > 0;
            self.ahead = if is_near { (self.ahead * 2).min(PIECE_BYTES) } else { WINDOW_BYTES_MIN };
            self.ahead = self.ahead.max(WINDOW_BYTES_MIN);
            let wanted = (self.ahead.max(length) as u64).min(file.length - offset) as usize;
            self.bytes.clear();
            self.bytes.resize(wanted, 0);
            self.start = offset;
            if let Err(error) = file.read_into(offset, &mut self.bytes) {
                self.bytes.clear();
                return Err(error);
            }
        }
        Ok(&self.bytes[(offset - self.start) as usize..])
    }
}
