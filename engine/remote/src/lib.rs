//! What remote write and remote read say on the wire: messages, their compression, their bounds. Knows no HTTP and no
//! storage. Format: docs/format/remote.md.
//!
//! Invariants:
//!   * bytes of others are an error or a message, never a panic; memory is bounded before anything is unpacked

mod build;
mod histogram;
mod read;
mod wire;
mod write;

pub use build::WriteBuilder;
pub use read::{Frames, Query, ReadRequest, ResponseType, SeriesAnswer, decode_read, encode_samples};
pub use write::{Incoming, IncomingMetadata, Message, WriteLimits, WriteRequest, decode_write};

/// Why a message cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("snappy: {0}")]
    Compression(String),
    #[error("the body unpacks to {bytes} bytes, more than {bytes_max} are not taken")]
    TooLarge { bytes: usize, bytes_max: usize },
    #[error("more than {max} {what} in one request are not taken")]
    TooMany { what: &'static str, max: usize },
    #[error("protobuf: {0}")]
    Message(&'static str),
}

/// Unpacks a snappy block, whose length is checked before room for it is made.
pub fn unpack(body: &[u8], bytes_max: usize) -> Result<Vec<u8>, DecodeError> {
    let failed = |error: snap::Error| DecodeError::Compression(error.to_string());
    let bytes = snap::raw::decompress_len(body).map_err(failed)?;
    if bytes > bytes_max {
        return Err(DecodeError::TooLarge { bytes, bytes_max });
    }
    snap::raw::Decoder::new().decompress_vec(body).map_err(failed)
}

/// Packs a snappy block.
pub fn pack(bytes: &[u8]) -> Vec<u8> {
    snap::raw::Encoder::new().compress_vec(bytes).expect("a message of ours stays below 4 GiB")
}
