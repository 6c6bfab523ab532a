//! Chunks of floats and of native histograms, and blocks that Prometheus opens.
//!
//! Plain blocking file I/O, for threads that may block. Format: docs/format/block.md.

mod bits;
mod block_file;
mod builder;
mod chunk;
mod codec;
mod compact;
mod encode;
mod error;
pub mod file;
pub mod head;
pub mod histogram;
mod index;
mod merge;
mod meta;
mod reader;
mod start_times;
mod tombstones;
mod verify;
mod writer;
pub mod xor;
pub mod xor2;

pub use builder::{BlockBuilder, BuilderOptions, CHUNK_BYTES_MAX, ChunkSource, NoChunks, SeriesNumber};
pub use chunk::{Chunk, ChunkRef, LinkedFile, LinkedPlace, may_have_starts};
pub use compact::{compact, plan};
pub use encode::{encode, encode_with_starts};
pub use error::{BlockError, ChunkError, Fault};
pub use merge::{Merged, merge_chunks};
pub use meta::{Compaction, Meta, Parent, Stats};
pub use reader::{Block, BlockReader, Faults, SeriesEntry};
pub use verify::{BlockCheck, Repaired, repair};
pub use writer::{BlockWriter, DELETED, UNFINISHED, put_chunk_frame, read_chunk_frame, remove, remove_leftovers};

const INDEX_MAGIC: u32 = 0xbaaa_d700;
const CHUNKS_MAGIC: u32 = 0x85bd_40dd;
const CHUNKS_VERSION: u8 = 1;
/// What every chunk file of a block begins with.
pub const CHUNK_FILE_HEADER: [u8; 8] = {
    let [a, b, c, d] = CHUNKS_MAGIC.to_be_bytes();
    [a, b, c, d, CHUNKS_VERSION, 0, 0, 0]
};
const TOMBSTONES_MAGIC: u32 = 0x0130_ba30;
