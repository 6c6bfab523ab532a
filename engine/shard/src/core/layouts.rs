//! Layouts of payloads: told to readers at their first body, and kept for the next run.

use super::upkeep::UPKEEP_EVERY;
use super::{Core, micros, spawn};
use crate::ingest::Reader;
use crate::layouts::{LayoutCollector, LayoutFile, Remembered};
use crate::time_slice::CoreTask;
use glommio::timer::Timer;
use std::cell::{Cell, RefCell};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use targets::Target;
use tokio::sync::oneshot;

/// How often layouts are written at most.
const WRITE_EVERY: Duration = Duration::from_secs(300);
/// How long layouts of the last run are kept for targets that have not come, or had no good scrape, so far.
const REMEMBER_FOR: Duration = Duration::from_secs(600);
/// How long the end of the process waits for layouts to be written.
const END_PATIENCE: Duration = Duration::from_secs(2);

/// The layouts of a core.
pub(super) struct CoreLayouts {
    /// Where they are kept; None without a data folder.
    folder: Option<PathBuf>,
    remembered: RefCell<Option<Rc<Remembered>>>,
    /// Changes of shapes and of the set of targets so far.
    changes: Cell<u64>,
}

impl CoreLayouts {
    pub fn new(folder: Option<PathBuf>, files: Arc<[LayoutFile]>) -> CoreLayouts {
        let remembered = Remembered::new(files).map(Rc::new);
        CoreLayouts { folder, remembered: RefCell::new(remembered), changes: Cell::new(0) }
    }

    /// A shape is another one now, or a target has gone.
    pub fn note_change(&self) {
        self.changes.set(self.changes.get() + 1);
    }

    /// Gives the reader what its first body may look like.
    pub fn prepare(&self, reader: &mut Reader, target: &Target) {
        if reader.is_first()
            && let Some(remembered) = &*self.remembered.borrow()
        {
            remembered.apply_to(target.id, reader);
        }
    }
}

impl Core {
    /// Writes layouts once in a while: soon after a start, and then where something has changed. Forgets those of the last
    /// run.
    pub(super) async fn keep_layouts(self: Rc<Self>) {
        let layouts = &self.layouts;
        let (mut written, mut written_us, mut seen) = (0, None::<u64>, 0);
        while !self.stopping.get() {
            Timer::new(UPKEEP_EVERY).await;
            let now_us = self.now_us();
            if now_us >= micros(REMEMBER_FOR) {
                layouts.remembered.take();
            }
            let changes = layouts.changes.get();
            // Not in the middle of many changes.
            let is_quiet = std::mem::replace(&mut seen, changes) == changes;
            let since_us = now_us - written_us.unwrap_or(0);
            let is_due = written_us.is_none() || since_us >= micros(WRITE_EVERY);
            let is_overdue = since_us >= 2 * micros(WRITE_EVERY);
            if changes != written && (is_quiet && is_due || is_overdue) && !self.stopping.get() {
                self.clone().write_layouts().await;
                (written, written_us) = (changes, Some(now_us));
            }
        }
    }

    /// Writes the layouts of the targets. Returns when that is done.
    async fn write_layouts(self: Rc<Self>) {
        let Some(folder) = self.layouts.folder.clone() else { return };
        let slice = self.slice(CoreTask::Maintenance);
        let mut collector = LayoutCollector::default();
        for scraper in self.all_scrapers() {
            if let Some(reader) = &*scraper.reader.borrow() {
                collector.add(scraper.target.borrow().id, reader);
            }
            slice.step().await;
        }
        let gathered = collector.finish();
        let (core, cores) = (self.index, self.cores);
        let (done, wait) = oneshot::channel();
        let write = move || {
            if let Err(error) = gathered.write(&folder, core, cores) {
                tracing::warn!(core, %error, "layouts for the next run are not written; its first scrapes are parsed");
            }
            let _ = done.send(());
        };
        // A thread of its own: a disk that hangs holds nothing else up.
        if std::thread::Builder::new().name("layouts".into()).spawn(write).is_ok() {
            let _ = wait.await;
        }
    }

    /// Writes layouts at the end of the process; does not wait for long.
    pub(super) async fn write_last_layouts(self: &Rc<Self>) {
        let write = self.clone().write_layouts();
        futures_lite::future::or(write, async {
            Timer::new(END_PATIENCE).await;
        })
        .await;
    }

    pub(super) fn start_keeping_layouts(self: &Rc<Self>, queue: glommio::TaskQueueHandle) {
        if self.layouts.folder.is_some() {
            spawn(self.clone().keep_layouts(), queue);
        }
    }
}
