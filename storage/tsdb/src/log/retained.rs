//! Logs for those who read them later than the heads need them: hard links in a folder of their own. The writers of the
//! logs and their removal know nothing of it.

use crate::log::frame::{FRAME_HEAD_BYTES, FileId, frame_head};
use crate::log::record;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Bytes that are read at once where rows are counted.
const COUNT_BUFFER_BYTES: usize = 64 << 10;

/// The files of logs in their order, by start and writer.
pub type Logs = BTreeMap<(u32, u16), Vec<FileId>>;

/// A folder of links to logs.
#[derive(Clone, Debug)]
pub struct RetainedLogs {
    logs: PathBuf,
    folder: PathBuf,
}

impl RetainedLogs {
    /// Links of what is in `logs` go to `folder`.
    pub fn new(logs: impl Into<PathBuf>, folder: impl Into<PathBuf>) -> RetainedLogs {
        RetainedLogs { logs: logs.into(), folder: folder.into() }
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Keeps every log that there is. A log that has gone meanwhile is no error.
    pub fn link(&self) -> io::Result<()> {
        std::fs::create_dir_all(&self.folder)?;
        // In order: who reads them goes from one to the next, and none may be there before the one before it.
        for id in logs_in(&self.logs)?.into_values().flatten() {
            let name = id.to_string();
            match std::fs::hard_link(self.logs.join(&name), self.folder.join(&name)) {
                Err(error) if !matches!(error.kind(), io::ErrorKind::AlreadyExists | io::ErrorKind::NotFound) => {
                    return Err(error);
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The files that are kept.
    pub fn files(&self) -> io::Result<Logs> {
        logs_in(&self.folder)
    }

    /// The files that their writers, or a replay, still have.
    pub fn in_use(&self) -> io::Result<Logs> {
        logs_in(&self.logs)
    }

    /// Bytes of the files that are kept and of those that are in use, each once.
    pub fn bytes(&self) -> io::Result<u64> {
        let (files, in_use) = (self.files()?, self.in_use()?);
        let mut paths: BTreeMap<FileId, &Path> = BTreeMap::new();
        paths.extend(in_use.into_values().flatten().map(|file| (file, &*self.logs)));
        paths.extend(files.into_values().flatten().map(|file| (file, &*self.folder)));
        let bytes =
            |(file, folder): (FileId, &Path)| folder.join(file.to_string()).metadata().map_or(0, |data| data.len());
        Ok(paths.into_iter().map(bytes).sum())
    }

    /// How many bytes a file has, and how long ago it was written last.
    pub fn size_and_age(&self, file: FileId) -> io::Result<(u64, Duration)> {
        let data = self.folder.join(file.to_string()).metadata()?;
        let age = SystemTime::now().duration_since(data.modified()?).unwrap_or_default();
        Ok((data.len(), age))
    }

    /// How many rows a file has from an offset on: what is lost with it. Bytes that are no frames end the count.
    pub fn count_rows(&self, file: FileId, from: u64) -> io::Result<u64> {
        let file = File::open(self.folder.join(file.to_string()))?;
        let length = file.metadata()?.len();
        let mut head = [0; FRAME_HEAD_BYTES];
        let (mut at, mut rows) = (from, 0);
        let mut reader = BufReader::with_capacity(COUNT_BUFFER_BYTES, file);
        reader.seek(SeekFrom::Start(from))?;
        while at + FRAME_HEAD_BYTES as u64 <= length {
            reader.read_exact(&mut head)?;
            let Some((kind, length)) = frame_head(&head) else { break };
            rows += u64::from(record::is_row(kind));
            reader.seek_relative(length as i64)?;
            at += (FRAME_HEAD_BYTES + length) as u64;
        }
        Ok(rows)
    }

    /// Lets go of a file.
    pub fn remove(&self, file: FileId) -> io::Result<()> {
        match std::fs::remove_file(self.folder.join(file.to_string())) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// The files of each log in a folder, which need not be there.
pub(crate) fn logs_in(folder: &Path) -> io::Result<Logs> {
    let mut logs = Logs::new();
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(logs),
        entries => entries?,
    };
    for entry in entries {
        if let Some(id) = FileId::parse(&entry?.file_name().to_string_lossy()) {
            logs.entry((id.boot, id.writer)).or_default().push(id);
        }
    }
    logs.values_mut().for_each(|files| files.sort_unstable());
    Ok(logs)
}
