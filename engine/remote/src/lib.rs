//! What remote write, remote read and OTLP say on the wire: messages, their compression, their bounds. Knows no HTTP and no
//! storage. Format: docs/format/remote.md.
//!
//! Invariants:
//!   * bytes of others are an error or a message, never a panic; memory is bounded before anything is unpacked

mod build;
mod histogram;
pub mod otlp;
mod read;
mod rewrite;
mod symbols;
mod wire;
mod write;

pub use build::{Counts, ExemplarContent, SeriesContent, SeriesMetadata, WriteBuilder, put_label};
pub use histogram::{
    HistogramParts, check_histogram, encode_for_write as encode_histogram, encode_start as encode_histogram_start,
};
pub use read::{Frames, Query, ReadRequest, ResponseType, SeriesAnswer, decode_read, encode_samples};
pub use rewrite::{Part, Rewritten, rewrite};
pub use symbols::Symbol;
pub use write::{
    Incoming, IncomingExemplar, IncomingMetadata, Message, WriteLimits, WriteRequest, decode_write, family_of,
    kind_number,
};

use std::io::Read;

/// Largest window of a zstd frame: 8 MiB, which RFC 8878 asks decoders to support and all levels up to 19 stay within.
const ZSTD_WINDOW_LOG_MAX: u32 = 23;

/// Why a message cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("{0}")]
    Compression(String),
    #[error("zstd: {0}")]
    Zstd(String),
    #[error("the body unpacks to {bytes} bytes, more than {bytes_max} are not taken")]
    TooLarge { bytes: usize, bytes_max: usize },
    #[error("more than {max} {what} in one request are not taken")]
    TooMany { what: &'static str, max: usize },
    #[error("protobuf: {0}")]
    Message(&'static str),
    #[error("json: {0}")]
    Json(String),
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

/// Unpacks zstd frames. Neither the output nor the window of the decoder is larger than `bytes_max`.
pub fn unpack_zstd(body: &[u8], bytes_max: usize) -> Result<Vec<u8>, DecodeError> {
    let failed = |error: std::io::Error| DecodeError::Zstd(error.to_string());
    let mut decoder = zstd::stream::read::Decoder::with_buffer(body).map_err(failed)?;
    decoder.window_log_max(ZSTD_WINDOW_LOG_MAX).map_err(failed)?;
    let mut unpacked = Vec::new();
    // One byte more tells a body that is too large from one that just fits.
    let bytes = decoder.take(bytes_max as u64 + 1).read_to_end(&mut unpacked).map_err(failed)?;
    if bytes > bytes_max {
        return Err(DecodeError::TooLarge { bytes, bytes_max });
    }
    Ok(unpacked)
}

/// Packs a zstd frame with a level between -22 and 22; 0 is zstd's default.
pub fn pack_zstd(bytes: &[u8], level: i32) -> Vec<u8> {
    zstd::bulk::compress(bytes, level).expect("compressing into memory does not fail")
}

/// Packs a snappy block.
pub fn pack(bytes: &[u8]) -> Vec<u8> {
    snap::raw::Encoder::new().compress_vec(bytes).expect("a message of ours stays below 4 GiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zstd_is_unpacked_within_its_bound() {
        let text = b"a text that repeats, ".repeat(1000);
        let packed = pack_zstd(&text, 1);
        assert!(packed.len() < text.len() / 10);
        assert_eq!(unpack_zstd(&packed, text.len()).as_ref(), Ok(&text));
        let more = Err(DecodeError::TooLarge { bytes: text.len(), bytes_max: text.len() - 1 });
        assert_eq!(unpack_zstd(&packed, text.len() - 1), more);
        // A bomb stops at the bound.
        let bomb = pack_zstd(&vec![0; 64 << 20], 1);
        assert_eq!(unpack_zstd(&bomb, 1000), Err(DecodeError::TooLarge { bytes: 1001, bytes_max: 1000 }));
        let broken = [&b""[..], b"no frame", &packed[..packed.len() - 5], &pack(&text)];
        for bytes in broken {
            assert!(matches!(unpack_zstd(bytes, 1 << 20), Err(DecodeError::Zstd(_))), "{bytes:?}");
        }
    }
}
