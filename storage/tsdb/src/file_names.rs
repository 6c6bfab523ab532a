//! Names of chunk files.

use crate::log::FileId;

/// Writer number of chunk files in their checksums: no log has it.
pub(crate) const CHUNK_WRITER: u16 = u16::MAX;

/// Name of the chunk file of a range.
pub(crate) fn chunk_file(range: i64, id: FileId) -> String {
    format!("{range}-{}-{}.chunks", id.boot, id.sequence)
}

/// Range and id of the chunk file with this name.
pub(crate) fn parse_chunk_file(name: &str) -> Option<(i64, FileId)> {
    let mut parts = name.strip_suffix(".chunks")?.rsplitn(3, '-');
    let sequence = parts.next()?.parse().ok()?;
    let boot = parts.next()?.parse().ok()?;
    Some((parts.next()?.parse().ok()?, FileId { boot, writer: CHUNK_WRITER, sequence }))
}
