//! The send cursor of an endpoint, on disk: how far the endpoint has acknowledged the logs.
//!
//! Invariant: a cursor names only positions before which every sample was acknowledged or counted as lost.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;
use tsdb::log_reader::BatchOffset;

/// A log: the start of the process that wrote it, and which of its writers.
pub type LogId = (u32, u16);

/// A position in a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogPosition {
    /// Everything before it was acknowledged.
    pub border: BatchOffset,
    /// The first file that a reader which continues there needs.
    pub first: u32,
}

impl LogPosition {
    /// The beginning of a log.
    pub const START: LogPosition = LogPosition { border: BatchOffset { sequence: 1, offset: 0 }, first: 1 };
    /// After the end of a log that is not written any more.
    pub const END: LogPosition =
        LogPosition { border: BatchOffset { sequence: u32::MAX, offset: u64::MAX }, first: u32::MAX };
}

/// How far an endpoint has acknowledged each log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SendCursor {
    /// The first start of the process whose logs are not all acknowledged.
    pub boot: u32,
    /// Positions in logs since then; a log that is not here has not been begun.
    pub positions: BTreeMap<LogId, LogPosition>,
}

impl SendCursor {
    /// All logs from a start on.
    pub fn new(boot: u32) -> SendCursor {
        SendCursor { boot, positions: BTreeMap::new() }
    }

    /// Where reading of a log continues; nothing if all of it was acknowledged.
    pub fn position(&self, log: LogId) -> Option<LogPosition> {
        let position = self.positions.get(&log).copied().unwrap_or(LogPosition::START);
        (log.0 >= self.boot && position != LogPosition::END).then_some(position)
    }

    /// Drops the logs of earlier starts than this, which were acknowledged.
    pub fn move_to(&mut self, boot: u32) {
        self.boot = self.boot.max(boot);
        self.positions.retain(|log, _| log.0 >= boot);
    }
}

#[derive(Serialize, Deserialize)]
struct SavedCursor {
    /// Name of the endpoint, for people who read the file.
    endpoint: String,
    first_start: u32,
    logs: Vec<SavedPosition>,
}

#[derive(Serialize, Deserialize)]
struct SavedPosition {
    start: u32,
    writer: u16,
    file: u32,
    offset: u64,
    first_file: u32,
}

/// Replaces the saved cursor; with `sync` so that it survives a power cut.
pub fn save(path: &Path, endpoint: &str, cursor: &SendCursor, sync: bool) -> io::Result<()> {
    let position = |(log, position): (&LogId, &LogPosition)| SavedPosition {
        start: log.0,
        writer: log.1,
        file: position.border.sequence,
        offset: position.border.offset,
        first_file: position.first,
    };
    let logs = cursor.positions.iter().map(position).collect();
    let written = SavedCursor { endpoint: endpoint.to_owned(), first_start: cursor.boot, logs };
    let fresh = path.with_extension("new");
    let mut file = std::fs::File::create(&fresh)?;
    file.write_all(&serde_json::to_vec(&written)?)?;
    if sync {
        file.sync_all()?;
    }
    std::fs::rename(&fresh, path)
}

/// The saved cursor, if there is one.
pub fn load(path: &Path) -> io::Result<Option<SendCursor>> {
    let bytes = match std::fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        bytes => bytes?,
    };
    let written: SavedCursor = serde_json::from_slice(&bytes)?;
    let position = |position: SavedPosition| {
        let border = BatchOffset { sequence: position.file, offset: position.offset };
        ((position.start, position.writer), LogPosition { border, first: position.first_file })
    };
    Ok(Some(SendCursor { boot: written.first_start, positions: written.logs.into_iter().map(position).collect() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_come_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        assert_eq!(load(&path).unwrap(), None);
        for offset in [0, 7, u64::MAX] {
            let position = LogPosition { border: BatchOffset { sequence: 9, offset }, first: 3 };
            let cursor =
                SendCursor { boot: 1, positions: BTreeMap::from([((1, 2), position), ((4, 0), LogPosition::END)]) };
            save(&path, "e", &cursor, offset == 7).unwrap();
            assert_eq!(load(&path).unwrap(), Some(cursor));
        }
        std::fs::write(&path, "{\"endpoint\":1}").unwrap();
        assert!(load(&path).is_err());
    }

    #[test]
    fn logs_that_are_done_have_no_place() {
        let position = LogPosition { border: BatchOffset { sequence: 2, offset: 7 }, first: 2 };
        let positions = BTreeMap::from([((3, 0), LogPosition::END), ((3, 1), position)]);
        let mut cursor = SendCursor { boot: 3, positions };
        let of = |cursor: &SendCursor| [(2, 0), (3, 0), (3, 1), (3, 2), (4, 0)].map(|log| cursor.position(log));
        assert_eq!(of(&cursor), [None, None, Some(position), Some(LogPosition::START), Some(LogPosition::START)]);
        cursor.move_to(4);
        assert_eq!(of(&cursor), [None, None, None, None, Some(LogPosition::START)]);
    }
}
