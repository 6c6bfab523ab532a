//! How far an endpoint has got, on disk: what its last answers acknowledged.
//!
//! Invariant: a cursor names only places before which everything was acknowledged or given up for good.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;
use tsdb::log::Border;

/// A log: the start of the process that wrote it, and which of its writers.
pub type LogId = (u32, u16);

/// A place in a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Everything before it is done.
    pub border: Border,
    /// The first file that whoever goes on there has to read.
    pub first: u32,
}

impl Place {
    /// The beginning of a log.
    pub const START: Place = Place { border: Border { sequence: 1, offset: 0 }, first: 1 };
    /// Behind the end of a log to which nothing is added.
    pub const END: Place = Place { border: Border { sequence: u32::MAX, offset: u64::MAX }, first: u32::MAX };
}

/// How far an endpoint has got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// The first start of the process whose logs are not all done.
    pub boot: u32,
    /// Places in logs since then; one that is not here has not been begun.
    pub places: BTreeMap<LogId, Place>,
}

impl Cursor {
    /// All logs from a start on.
    pub fn new(boot: u32) -> Cursor {
        Cursor { boot, places: BTreeMap::new() }
    }

    /// Where a log is to be read from; nowhere if it is done.
    pub fn place(&self, log: LogId) -> Option<Place> {
        let place = self.places.get(&log).copied().unwrap_or(Place::START);
        (log.0 >= self.boot && place != Place::END).then_some(place)
    }

    /// Logs of earlier starts than this are done.
    pub fn move_to(&mut self, boot: u32) {
        self.boot = self.boot.max(boot);
        self.places.retain(|log, _| log.0 >= boot);
    }
}

#[derive(Serialize, Deserialize)]
struct Written {
    /// Whose it is, for whoever looks into the file.
    endpoint: String,
    first_start: u32,
    logs: Vec<WrittenPlace>,
}

#[derive(Serialize, Deserialize)]
struct WrittenPlace {
    start: u32,
    writer: u16,
    file: u32,
    offset: u64,
    first_file: u32,
}

/// Writes a cursor in place of the one before; with `sync`, so that it survives a power cut.
pub fn save(path: &Path, endpoint: &str, cursor: &Cursor, sync: bool) -> io::Result<()> {
    let place = |(log, place): (&LogId, &Place)| WrittenPlace {
        start: log.0,
        writer: log.1,
        file: place.border.sequence,
        offset: place.border.offset,
        first_file: place.first,
    };
    let logs = cursor.places.iter().map(place).collect();
    let written = Written { endpoint: endpoint.to_owned(), first_start: cursor.boot, logs };
    let fresh = path.with_extension("new");
    let mut file = std::fs::File::create(&fresh)?;
    file.write_all(&serde_json::to_vec(&written)?)?;
    if sync {
        file.sync_all()?;
    }
    std::fs::rename(&fresh, path)
}

/// The cursor that was written, if there is one.
pub fn load(path: &Path) -> io::Result<Option<Cursor>> {
    let bytes = match std::fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        bytes => bytes?,
    };
    let written: Written = serde_json::from_slice(&bytes)?;
    let place = |place: WrittenPlace| {
        let border = Border { sequence: place.file, offset: place.offset };
        ((place.start, place.writer), Place { border, first: place.first_file })
    };
    Ok(Some(Cursor { boot: written.first_start, places: written.logs.into_iter().map(place).collect() }))
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
            let place = Place { border: Border { sequence: 9, offset }, first: 3 };
            let cursor = Cursor { boot: 1, places: BTreeMap::from([((1, 2), place), ((4, 0), Place::END)]) };
            save(&path, "e", &cursor, offset == 7).unwrap();
            assert_eq!(load(&path).unwrap(), Some(cursor));
        }
        std::fs::write(&path, "{\"endpoint\":1}").unwrap();
        assert!(load(&path).is_err());
    }

    #[test]
    fn logs_that_are_done_have_no_place() {
        let place = Place { border: Border { sequence: 2, offset: 7 }, first: 2 };
        let places = BTreeMap::from([((3, 0), Place::END), ((3, 1), place)]);
        let mut cursor = Cursor { boot: 3, places };
        let of = |cursor: &Cursor| [(2, 0), (3, 0), (3, 1), (3, 2), (4, 0)].map(|log| cursor.place(log));
        assert_eq!(of(&cursor), [None, None, Some(place), Some(Place::START), Some(Place::START)]);
        cursor.move_to(4);
        assert_eq!(of(&cursor), [None, None, None, None, Some(Place::START)]);
    }
}
