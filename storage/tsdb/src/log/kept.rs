//! Logs for those who read them later than the heads need them: hard links in a folder of their own. The writers of the
//! logs and their removal know nothing of it.

use crate::log::frame::FileId;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

/// A folder of links to logs.
#[derive(Clone, Debug)]
pub struct KeptLogs {
    logs: PathBuf,
    folder: PathBuf,
}

impl KeptLogs {
    /// Links of what is in `logs` go to `folder`.
    pub fn new(logs: impl Into<PathBuf>, folder: impl Into<PathBuf>) -> KeptLogs {
        KeptLogs { logs: logs.into(), folder: folder.into() }
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Keeps every log that there is. A log that has gone meanwhile is no error.
    pub fn link(&self) -> io::Result<()> {
        std::fs::create_dir_all(&self.folder)?;
        for id in names(&self.logs)? {
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

    /// The files of each log, by start and writer, in order.
    pub fn files(&self) -> io::Result<BTreeMap<(u32, u16), Vec<FileId>>> {
        let mut files: BTreeMap<(u32, u16), Vec<FileId>> = BTreeMap::new();
        names(&self.folder)?.into_iter().for_each(|id| files.entry((id.boot, id.writer)).or_default().push(id));
        files.values_mut().for_each(|files| files.sort_unstable());
        Ok(files)
    }

    /// The first file of a log that its writer still needs, if it has any.
    pub fn first_in_use(&self, log: (u32, u16)) -> io::Result<Option<u32>> {
        let of_log = names(&self.logs)?.into_iter().filter(|id| (id.boot, id.writer) == log);
        Ok(of_log.map(|id| id.sequence).min())
    }

    /// Lets go of a file.
    pub fn remove(&self, file: FileId) -> io::Result<()> {
        match std::fs::remove_file(self.folder.join(file.to_string())) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

fn names(folder: &Path) -> io::Result<Vec<FileId>> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found = Vec::new();
    for entry in entries {
        found.extend(entry?.file_name().to_str().and_then(FileId::parse));
    }
    // Who reads them goes from one to the next: none may be there before the one before it.
    found.sort_unstable();
    Ok(found)
}
