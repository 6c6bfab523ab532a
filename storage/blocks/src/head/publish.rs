//! How blocks that were made of Prometheus' head, and the files that they were made of, change places.
//!
//! `prometheus-import/` holds `parts/`, `blocks/` and, when all blocks are durable, `complete`, which names the folder that
//! the read files are moved to. From then on a start carries on; before, it begins anew.

use crate::error::BlockError;
use crate::file::{sync_folder, write_synced};
use std::io;
use std::path::{Path, PathBuf};

/// Folder for blocks under construction.
pub const WORK_DIR: &str = "prometheus-import";
/// Folder for files of Prometheus' head that were taken.
pub const IMPORTED_DIR: &str = "prometheus-head";
const COMPLETE: &str = "complete";
const BLOCKS: &str = "blocks";
const PARTS: &str = "parts";

fn failed(path: &Path) -> impl FnOnce(io::Error) -> BlockError {
    move |error| BlockError::io(path, 0, &error)
}

fn exists(path: &Path) -> Result<bool, BlockError> {
    path.try_exists().map_err(failed(path))
}

/// Whether a folder belongs to Prometheus' head.
pub fn is_of_head(name: &str) -> bool {
    matches!(name, "wal" | "wbl" | "chunks_head") || name.starts_with("chunk_snapshot.")
}

/// The folders of one import.
pub struct Work {
    folder: PathBuf,
    work: PathBuf,
}

impl Work {
    pub fn new(folder: &Path) -> Work {
        Work { folder: folder.to_owned(), work: folder.join(WORK_DIR) }
    }

    pub fn blocks(&self) -> PathBuf {
        self.work.join(BLOCKS)
    }

    pub fn parts(&self) -> PathBuf {
        self.work.join(PARTS)
    }

    /// Carries on what an interrupted run had completed, removes what it had not.
    pub fn recover(&self) -> Result<(), BlockError> {
        let complete = self.work.join(COMPLETE);
        if exists(&complete)? {
            let target = std::fs::read_to_string(&complete).map_err(failed(&complete))?;
            return self.publish(&PathBuf::from(target.trim()));
        }
        self.remove()
    }

    /// Empty folders for a new run.
    pub fn begin(&self) -> Result<(), BlockError> {
        self.remove()?;
        for path in [self.blocks(), self.parts()] {
            std::fs::create_dir_all(&path).map_err(failed(&path))?;
        }
        Ok(())
    }

    pub fn remove(&self) -> Result<(), BlockError> {
        match std::fs::remove_dir_all(&self.work) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(&self.work)(error)),
            _ => Ok(()),
        }
    }

    /// Says that all blocks are there, and publishes them.
    pub fn complete(&self) -> Result<(), BlockError> {
        let imported = self.folder.join(IMPORTED_DIR);
        let mut number = 1;
        while exists(&imported.join(format!("{number:06}")))? {
            number += 1;
        }
        let target = Path::new(IMPORTED_DIR).join(format!("{number:06}"));
        let blocks = self.blocks();
        sync_folder(&blocks).map_err(failed(&blocks))?;
        let complete = self.work.join(COMPLETE);
        let temporary = self.work.join("complete.tmp");
        write_synced(&temporary, target.to_string_lossy().as_bytes()).map_err(failed(&temporary))?;
        sync_folder(&self.work).map_err(failed(&self.work))?;
        sync_folder(&self.folder).map_err(failed(&self.folder))?;
        std::fs::rename(&temporary, &complete).map_err(failed(&complete))?;
        sync_folder(&self.work).map_err(failed(&self.work))?;
        self.publish(&target)
    }

    /// Every step may have been done before.
    fn publish(&self, target: &Path) -> Result<(), BlockError> {
        let blocks = self.blocks();
        for entry in std::fs::read_dir(&blocks).map_err(failed(&blocks))? {
            let entry = entry.map_err(failed(&blocks))?;
            let place = self.folder.join(entry.file_name());
            std::fs::rename(entry.path(), &place).map_err(failed(&place))?;
        }
        sync_folder(&self.folder).map_err(failed(&self.folder))?;
        let target = self.folder.join(target);
        std::fs::create_dir_all(&target).map_err(failed(&target))?;
        for entry in std::fs::read_dir(&self.folder).map_err(failed(&self.folder))? {
            let entry = entry.map_err(failed(&self.folder))?;
            let place = target.join(entry.file_name());
            // A folder that was moved may be there again, empty.
            if is_of_head(&entry.file_name().to_string_lossy()) && !exists(&place)? {
                std::fs::rename(entry.path(), &place).map_err(failed(&place))?;
            }
        }
        // promtool opens no folder without it.
        let wal = self.folder.join("wal");
        std::fs::create_dir_all(&wal).map_err(failed(&wal))?;
        sync_folder(&target).map_err(failed(&target))?;
        let imported = self.folder.join(IMPORTED_DIR);
        sync_folder(&imported).map_err(failed(&imported))?;
        sync_folder(&self.folder).map_err(failed(&self.folder))?;
        self.remove()
    }
}
