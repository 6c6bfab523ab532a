//! Chunks that Prometheus' head has mapped from disk (`chunks_head`).
//!
//! A file has a head of 8 bytes, then chunks: series, first and last time (8 bytes each), encoding, length, data, CRC-32C of
//! all of it. The rest of a file that was being written is zeros.

use crate::block_file::{BlockFile, Window};
use crate::chunk::Chunk;
use crate::codec::ByteCursor;
use crate::error::{BlockError, Fault};
use std::path::PathBuf;

const MAGIC: u32 = 0x0130_bc91;
const VERSION: u32 = 1;
const HEADER_BYTES: u64 = 8;
/// Bytes of a chunk before its length.
const FIXED_BYTES: usize = 25;
/// Longest chunk that is read.
const CHUNK_BYTES_MAX: u64 = 16 << 20;
/// In the byte of the encoding: the samples came out of order.
const OUT_OF_ORDER: u8 = 0x80;

/// A chunk, and where its data is.
#[derive(Clone, Copy, Debug)]
pub struct MappedChunk {
    /// Of the series.
    pub reference: u64,
    pub min: i64,
    pub max: i64,
    pub encoding: u8,
    pub is_out_of_order: bool,
    pub offset: u32,
    pub length: u32,
}

/// A file of chunks.
#[derive(Debug)]
pub struct MappedFile(BlockFile);

impl MappedFile {
    /// # Errors
    /// If it cannot be read or is no such file.
    pub fn open(path: PathBuf) -> Result<MappedFile, BlockError> {
        let file = BlockFile::open(path)?;
        let head: [u8; 5] = file.read(0)?;
        let magic = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
        if magic != MAGIC {
            return Err(file.fault(0, Fault::Magic { want: MAGIC, got: magic }));
        }
        if u32::from(head[4]) != VERSION {
            return Err(file.fault(4, Fault::Version { want: VERSION, got: u32::from(head[4]) }));
        }
        Ok(MappedFile(file))
    }

    /// Gives every chunk whose checksum fits.
    ///
    /// # Errors
    /// Where it cannot go on: two chunks that follow each other are damaged, or the file ends within one.
    pub fn read(
        &self,
        mut chunk: impl FnMut(MappedChunk),
        mut damage: impl FnMut(BlockError),
    ) -> Result<(), BlockError> {
        let file = &self.0;
        let mut window = Window::default();
        let mut at = HEADER_BYTES;
        let mut was_bad = false;
        while at < file.length {
            let bytes = window.get(file, at, FIXED_BYTES + 10)?;
            if bytes.iter().take(FIXED_BYTES).all(|byte| *byte == 0) {
                break;
            }
            let mut cursor = ByteCursor::new(bytes);
            let read = |cursor: &mut ByteCursor<'_>| {
                let (reference, min, max) = (cursor.u64_be()?, cursor.u64_be()? as i64, cursor.u64_be()? as i64);
                Ok::<_, &'static str>((reference, min, max, cursor.byte()?, cursor.uvarint()?))
            };
            let (reference, min, max, encoding, length) = read(&mut cursor).map_err(|reason| file.bad(at, reason))?;
            if length > CHUNK_BYTES_MAX {
                return Err(file.bad(at, format!("a chunk of {length} bytes")));
            }
            let head = bytes.len() - cursor.rest().len();
            let whole = head + length as usize + 4;
            let bytes = window.get(file, at, whole)?;
            if bytes.len() < whole {
                return Err(file.fault(at, Fault::Short { want: whole as u64, got: bytes.len() as u64 }));
            }
            let (summed, sum) = bytes[..whole].split_at(whole - 4);
            let (want, got) = (u32::from_be_bytes(sum.try_into().expect("four bytes")), crc32c::crc32c(summed));
            if want == got {
                let offset = u32::try_from(at + head as u64).map_err(|_| file.bad(at, "the file is too long"))?;
                let is_out_of_order = encoding & OUT_OF_ORDER != 0;
                let encoding = encoding & !OUT_OF_ORDER;
                chunk(MappedChunk { reference, min, max, encoding, is_out_of_order, offset, length: length as u32 });
                was_bad = false;
            } else {
                let error = file.fault(at, Fault::Checksum { want, got });
                // Its length may be what is damaged.
                if was_bad {
                    return Err(error);
                }
                damage(error);
                was_bad = true;
            }
            at += whole as u64;
        }
        Ok(())
    }

    /// The data of a chunk, whose checksum was looked at before.
    pub fn chunk(&self, mapped: &MappedChunk) -> Result<Chunk, BlockError> {
        let mut bytes = vec![0; mapped.length as usize];
        self.0.read_into(u64::from(mapped.offset), &mut bytes)?;
        Ok(Chunk::new(mapped.min, mapped.max, mapped.encoding, bytes))
    }
}

#[cfg(test)]
pub(super) mod testing {
    use super::*;
    use crate::codec::put_uvarint;

    /// A file as Prometheus writes it.
    pub fn file(chunks: &[(u64, Chunk, bool)]) -> Vec<u8> {
        let mut bytes = MAGIC.to_be_bytes().to_vec();
        bytes.extend_from_slice(&[VERSION as u8, 0, 0, 0]);
        for (reference, chunk, is_out_of_order) in chunks {
            let start = bytes.len();
            bytes.extend_from_slice(&reference.to_be_bytes());
            bytes.extend_from_slice(&chunk.min.to_be_bytes());
            bytes.extend_from_slice(&chunk.max.to_be_bytes());
            bytes.push(chunk.encoding | if *is_out_of_order { OUT_OF_ORDER } else { 0 });
            put_uvarint(chunk.bytes.len() as u64, &mut bytes);
            bytes.extend_from_slice(&chunk.bytes);
            let sum = crc32c::crc32c(&bytes[start..]);
            bytes.extend_from_slice(&sum.to_be_bytes());
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode::encode;
    use series::Value;

    fn chunk(from: i64) -> Chunk {
        let samples: Vec<_> = (0..50).map(|i| (from + i * 15_000, Value::Float(i as f64 / 3.0))).collect();
        encode(&samples).remove(0)
    }

    fn read(bytes: &[u8]) -> (Vec<(u64, i64, bool)>, usize) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("000001");
        std::fs::write(&path, bytes).unwrap();
        let Ok(file) = MappedFile::open(path) else { return (Vec::new(), 1) };
        let (mut found, mut bad) = (Vec::new(), 0);
        let ended = file.read(
            |one| {
                assert_eq!(file.chunk(&one).unwrap(), chunk(one.min));
                found.push((one.reference, one.min, one.is_out_of_order));
            },
            |_| bad += 1,
        );
        (found, bad + usize::from(ended.is_err()))
    }

    #[test]
    fn chunks_come_back_and_zeros_end_the_file() {
        let mut bytes = testing::file(&[(1, chunk(0), false), (7, chunk(-5), true), (1, chunk(1 << 40), false)]);
        bytes.resize(bytes.len() + 5000, 0);
        assert_eq!(read(&bytes), (vec![(1, 0, false), (7, -5, true), (1, 1 << 40, false)], 0));
    }

    #[test]
    fn damaged_chunks_are_passed_over() {
        let chunks: Vec<_> = (0..20).map(|i| (i, chunk(i as i64 * 1000), false)).collect();
        let good = testing::file(&chunks);
        let mut state = 3u64;
        let mut next = |below: usize| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) as usize % below
        };
        let mut whole = good.clone();
        // In the data of the second chunk.
        let at = 8 + (good.len() - 8) / 20 + 60;
        whole[at] ^= 4;
        let (found, bad) = read(&whole);
        assert_eq!((found.len(), bad), (19, 1));
        for _ in 0..2000 {
            let mut bytes = good.clone();
            let at = next(bytes.len());
            match next(3) {
                0 => bytes.truncate(at),
                1 => drop(bytes.remove(at)),
                _ => bytes[at] ^= 1 << next(8),
            }
            // What is given was compared above.
            read(&bytes);
        }
    }
}
