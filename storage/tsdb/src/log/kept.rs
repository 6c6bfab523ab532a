//! Logs for those who read them later than the heads need them: hard links in a folder of their own. The writers of the
//! logs and their removal know nothing of it.

use crate::log::frame::FileId;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

/// The files of logs in their order, by start and writer.
pub type Logs = BTreeMap<(u32, u16), Vec<FileId>>;

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
