//! Errors of this crate: bytes of a chunk, and files of a block, that cannot be used.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// Bytes that are no chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("chunk is damaged: {0}")]
pub struct ChunkError(pub &'static str);

pub(crate) use crate::codec::UNEXPECTED_END;

/// A file of a block, or of Prometheus' head, that cannot be used: which, where, and what was wanted there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockError {
    pub file: PathBuf,
    /// Bytes from the start of the file.
    pub offset: u64,
    pub fault: Fault,
}

/// What is wrong with the bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("{message}")]
    Io { kind: io::ErrorKind, message: String },
    #[error("{want} bytes wanted, the file has {got}")]
    Short { want: u64, got: u64 },
    #[error("the checksum does not fit: want {want:08x}, got {got:08x}")]
    Checksum { want: u32, got: u32 },
    #[error("magic number {want:08x} wanted, got {got:08x}")]
    Magic { want: u32, got: u32 },
    #[error("version {want} wanted, got {got}")]
    Version { want: u32, got: u32 },
    #[error("{0}")]
    Invalid(String),
}

impl BlockError {
    pub(crate) fn new(file: &Path, offset: u64, reason: impl Into<String>) -> BlockError {
        BlockError { file: file.to_owned(), offset, fault: Fault::Invalid(reason.into()) }
    }

    pub(crate) fn io(file: &Path, offset: u64, error: &io::Error) -> BlockError {
        let fault = Fault::Io { kind: error.kind(), message: error.to_string() };
        BlockError { file: file.to_owned(), offset, fault }
    }

    /// An error of the system at a folder or file.
    pub fn from_io(file: &Path, error: &io::Error) -> BlockError {
        BlockError::io(file, 0, error)
    }

    /// Whether the device, not the content, is at fault: another attempt may succeed.
    pub fn is_io(&self) -> bool {
        matches!(self.fault, Fault::Io { .. })
    }
}

impl fmt::Display for BlockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at byte {}: {}", self.file.display(), self.offset, self.fault)
    }
}

impl std::error::Error for BlockError {}
