//! Chunks of floats and of native histograms, and blocks that Prometheus opens.
//!
//! Plain blocking file I/O, for threads that may block. Format: docs/format/block.md.

mod bits;
mod chunk;
mod compact;
pub mod file;
pub mod histogram;
mod meta;
mod reader;
mod tombstones;
mod writer;
pub mod xor;

pub use chunk::{Chunk, ChunkRef, encode};
pub use compact::{Merged, compact, merge_chunks, plan};
pub use meta::{Compaction, Meta, Parent, Stats};
pub use reader::{Block, Found};
pub use writer::{BlockWriter, DELETED, UNFINISHED, remove, remove_leftovers};

use std::fmt;
use std::path::{Path, PathBuf};

const INDEX_MAGIC: u32 = 0xbaaa_d700;
const CHUNKS_MAGIC: u32 = 0x85bd_40dd;
const TOMBSTONES_MAGIC: u32 = 0x0130_ba30;

/// A file of a block that cannot be used, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockError {
    pub file: PathBuf,
    pub offset: u64,
    pub reason: String,
}

impl BlockError {
    fn new(file: &Path, offset: u64, reason: impl Into<String>) -> BlockError {
        BlockError { file: file.to_owned(), offset, reason: reason.into() }
    }
}

impl fmt::Display for BlockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at byte {}: {}", self.file.display(), self.offset, self.reason)
    }
}

impl std::error::Error for BlockError {}

fn put_uvarint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// A cursor over bytes of a file.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], &'static str> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or("it ends early")?;
        self.0 = rest;
        Ok(taken)
    }

    fn u32(&mut self) -> Result<u32, &'static str> {
        Ok(u32::from_be_bytes(self.take(4)?.try_into().expect("four bytes")))
    }

    fn u64(&mut self) -> Result<u64, &'static str> {
        Ok(u64::from_be_bytes(self.take(8)?.try_into().expect("eight bytes")))
    }

    fn uvarint(&mut self) -> Result<u64, &'static str> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err("a number is too long")
    }

    fn varint(&mut self) -> Result<i64, &'static str> {
        let value = self.uvarint()?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    /// A count of things of at least one byte each.
    fn count(&mut self) -> Result<usize, &'static str> {
        let count = self.uvarint()?;
        if count > self.0.len() as u64 { Err("a count is too large") } else { Ok(count as usize) }
    }

    fn text(&mut self) -> Result<&'a str, &'static str> {
        let length = self.count()?;
        std::str::from_utf8(self.take(length)?).map_err(|_| "a text is not UTF-8")
    }
}
