//! Carries out on io_uring what a core's log wants: create, write, sync, close.
//!
//! glommio's buffered files only: its stream writer ignores short writes and ends the core after ENOSPC.
//!
//! Invariants:
//!   * one operation is in flight; its outcome, whatever it is, goes back to the log's policy
//!   * a file counts as created when its name in the folder is durable

use glommio::io::{BufferedFile, Directory, OpenOptions};
use hdrhistogram::Histogram;
use std::cell::RefCell;
use std::path::PathBuf;
use std::time::Instant;
use tsdb::log::{Action, FileId, Journal};

/// Readable by the group, as Prometheus' files are not by others.
const FILE_MODE: libc::mode_t = 0o640;

/// The files of a core's log.
pub struct LogFiles {
    folder: PathBuf,
    open: Option<(FileId, BufferedFile)>,
    /// How long syncs took, in microseconds.
    pub sync_us: Histogram<u64>,
}

impl LogFiles {
    pub fn new(folder: PathBuf) -> LogFiles {
        LogFiles { folder, open: None, sync_us: crate::status::histogram() }
    }

    /// Does all that is to be done now. With `finish`, everything is written and synced.
    pub async fn carry_out(&mut self, journal: &RefCell<Journal>, now_ms: u64, finish: bool) {
        loop {
            let action = journal.borrow_mut().writer_mut().and_then(|writer| writer.next(now_ms, finish));
            let Some(mut action) = action else { return };
            let outcome = self.perform(&mut action).await;
            if let Some(writer) = journal.borrow_mut().writer_mut() {
                writer.done(&action, outcome, now_ms);
            }
        }
    }

    async fn perform(&mut self, action: &mut Action) -> Result<usize, String> {
        let failed = |error: glommio::GlommioError<()>| error.to_string();
        match action {
            Action::Create(id) => {
                let path = self.folder.join(id.to_string());
                let mut options = OpenOptions::new();
                options.write(true).create_new(true).mode(FILE_MODE);
                let file = options.buffered_open(&path).await.map_err(failed)?;
                let folder = Directory::open(&self.folder).await.map_err(failed)?;
                let synced = folder.sync().await.map_err(failed);
                folder.close().await.map_err(failed)?;
                self.open = Some((*id, file));
                synced.map(|()| 0)
            }
            Action::Write { file: id, offset, bytes } => {
                // The ring takes the bytes with it; the policy keeps the records until they are durable.
                self.file(*id)?.write_at(std::mem::take(bytes), *offset).await.map_err(failed)
            }
            Action::Sync(id) => {
                let begun = Instant::now();
                self.file(*id)?.fdatasync().await.map_err(failed)?;
                self.sync_us.saturating_record(begun.elapsed().as_micros() as u64);
                Ok(0)
            }
            Action::Close(_) => match self.open.take() {
                Some((_, file)) => file.close().await.map_err(failed).map(|()| 0),
                None => Ok(0),
            },
        }
    }

    fn file(&self, id: FileId) -> Result<&BufferedFile, String> {
        let open = self.open.as_ref().filter(|(open, _)| *open == id);
        open.map(|(_, file)| file).ok_or_else(|| format!("{id} is not open"))
    }
}
