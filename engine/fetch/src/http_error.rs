//! What may be wrong with a response, in the words of Go's client.

use crate::Reason;

/// Longest head. Go's client has ten times as much, for each connection; this is for each target.
pub const HEAD_BYTES_MAX: usize = 1 << 20;
pub const TRAILER_BYTES_MAX: usize = 16 << 10;

/// What is wrong with a response. The texts are those of Go's client.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HttpError {
    /// The connection ended before the first byte.
    #[error("EOF")]
    Eof,
    #[error("unexpected EOF")]
    HeadCut,
    #[error("malformed HTTP response \"{0}\"")]
    NotHttp(String),
    #[error("malformed HTTP version \"{0}\"")]
    Version(String),
    #[error("malformed HTTP status code \"{0}\"")]
    StatusCode(String),
    /// The whole text.
    #[error("{0}")]
    Header(String),
    #[error("net/http: server response headers exceeded {HEAD_BYTES_MAX} bytes; aborted")]
    HeadTooLong,
    #[error("net/http: too many 1xx informational responses")]
    TooManyInterim,
    #[error("bad Content-Length \"{0}\"")]
    ContentLength(String),
    #[error("http: message cannot contain multiple Content-Length headers; got \"{0}\" and \"{1}\"")]
    ContentLengths(String, String),
    #[error("unsupported transfer encoding: \"{0}\"")]
    TransferEncoding(String),
    #[error("too many transfer encodings")]
    TransferEncodings,
    #[error("unexpected EOF")]
    BodyCut,
    #[error("invalid byte in chunk length")]
    ChunkLength,
    #[error("http chunk length too large")]
    ChunkTooLarge,
    #[error("chunked line ends with bare LF")]
    ChunkBareLf,
    #[error("malformed chunked encoding")]
    ChunkEnd,
    #[error("header line too long")]
    ChunkLineTooLong,
    #[error("chunked encoding contains too much non-data")]
    ChunkExcess,
    #[error("trailer exceeded {TRAILER_BYTES_MAX} bytes")]
    TrailerTooLong,
    /// The caller has the words: it knows whose limit it was.
    #[error("body size limit exceeded")]
    BodySize,
}

impl HttpError {
    pub fn reason(&self) -> Reason {
        use HttpError::*;
        match self {
            BodyCut | ChunkLength | ChunkTooLarge | ChunkBareLf | ChunkEnd | ChunkLineTooLong | ChunkExcess
            | TrailerTooLong => Reason::Body,
            BodySize => Reason::BodySize,
            _ => Reason::Protocol,
        }
    }
}

/// The first 100 bytes, printable.
pub(super) fn quoted(bytes: &[u8]) -> String {
    bytes[..bytes.len().min(100)].escape_ascii().to_string()
}
