//! What the owners of a data folder ask of the system beside files.

use std::path::Path;

/// Unix milliseconds.
pub(crate) fn now_ms() -> i64 {
    series::clock::now_ms()
}

/// Lets scrapes and queries go first.
pub fn lower_priority() {
    // Refused only where it does not matter.
    let _ = rustix::process::nice(10);
}

/// Bytes of the files in a folder.
pub(crate) fn folder_bytes(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.metadata().ok()).map(|metadata| metadata.len()).sum()
}
