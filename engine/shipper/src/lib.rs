//! Uploads finished blocks to object storage, as Thanos' sidecar does (decision 084).
//!
//! A thread of low priority looks for blocks that were not uploaded yet, oldest first, each half minute. Until a block is uploaded
//! the store does not join it with others ([`tsdb::Store::set_uploaded`]): Thanos wants blocks as they were cut.
//!
//! Invariants:
//!   * `meta.json` is the last object of a block, and is put only if it is not there: a block is never seen half
//!   * an object that is there with its size is not uploaded again, so an interrupted upload goes on
//!   * nothing in the bucket is removed, and nothing is written below a `meta.json`
//!   * one part of a file is in memory at a time

mod bucket;
mod connector;
mod plan;
mod upload;
mod uploaded;

pub use bucket::Bucket;
pub use plan::{Held, Verdict};
pub use upload::{Shipped, UploadError};

use crate::plan::verdict;
use crate::uploaded::UploadedBlocks;
use blocks::Block;
use config::{Config, ObjectStorage};
use series::Labels;
use series::clock::now_ms;
use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tsdb::Store;

/// How often to look for blocks, as Thanos' sidecar does.
const SYNC_EVERY: Duration = Duration::from_secs(30);
/// How long the end waits for an upload to stop.
const STOP_WITHIN: Duration = Duration::from_secs(5);

/// Where blocks go and under which labels.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    pub storage: ObjectStorage,
    pub labels: Labels,
}

impl Settings {
    /// What a configuration asks for.
    pub fn of(config: &Config) -> Option<Settings> {
        let storage = config.object_storage.clone()?;
        Some(Settings { storage, labels: config.global.external_labels.clone() })
    }
}

/// Counters since the start, and what is shown to people.
#[derive(Debug, Default)]
pub struct ShipperStats {
    pub syncs: AtomicU64,
    pub sync_failures: AtomicU64,
    pub uploads: AtomicU64,
    pub upload_failures: AtomicU64,
    /// Blocks that could not be read.
    pub corrupted_blocks: AtomicU64,
    pub bytes_uploaded: AtomicU64,
    /// Blocks that are to be uploaded.
    pub waiting: AtomicU64,
    /// Blocks that are not uploaded because they overlap one that is.
    pub overlapping: AtomicU64,
    /// End of the newest uploaded block; milliseconds, 0 before the first one.
    pub uploaded_until_ms: AtomicI64,
    pub last_upload_ms: AtomicI64,
    last_error: Mutex<Option<String>>,
}

impl ShipperStats {
    /// Why the last round failed.
    pub fn last_error(&self) -> Option<String> {
        self.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_last_error(&self, error: Option<String>) -> Option<String> {
        std::mem::replace(&mut *self.last_error.lock().unwrap_or_else(PoisonError::into_inner), error)
    }
}

/// What the shipper does, for those who look.
#[derive(Clone, Debug)]
pub struct ShipperStatus {
    /// Kind and name of the bucket.
    pub bucket: String,
    pub stats: Arc<ShipperStats>,
}

/// The shipper of a server. Cloning copies a pointer.
#[derive(Clone)]
pub struct Shipper(Option<Arc<Inner>>);

struct Inner {
    store: Arc<Store>,
    stats: Arc<ShipperStats>,
    settings: watch::Sender<Option<Arc<Settings>>>,
    stop: watch::Sender<bool>,
    /// Closed once the thread has ended.
    ended: watch::Receiver<()>,
}

impl Shipper {
    /// Ships nothing: there are no blocks.
    pub fn none() -> Shipper {
        Shipper(None)
    }

    /// Starts the thread. Nothing is uploaded before [`Shipper::reload`].
    ///
    /// # Errors
    /// If there can be no more threads.
    pub fn start(store: Arc<Store>) -> std::io::Result<Shipper> {
        let (settings, receiver) = watch::channel(None);
        let (stop, stopped) = watch::channel(false);
        let (running, ended) = watch::channel(());
        let stats = Arc::new(ShipperStats::default());
        let worker = Worker { store: store.clone(), stats: stats.clone(), settings: receiver, stopped };
        std::thread::Builder::new().name("shipper".into()).spawn(move || {
            tsdb::lower_priority();
            worker.run();
            drop(running);
        })?;
        Ok(Shipper(Some(Arc::new(Inner { store, stats, settings, stop, ended }))))
    }

    /// Ships to where a configuration says, from the next round on.
    pub fn reload(&self, config: &Config) {
        let Some(inner) = &self.0 else { return };
        let new = Settings::of(config).map(Arc::new);
        inner.settings.send_if_modified(|settings| {
            let changes = settings.as_deref() != new.as_deref();
            if changes {
                if new.is_none() {
                    inner.store.set_uploaded(None);
                }
                *settings = new;
            }
            changes
        });
    }

    /// None if blocks are not uploaded.
    pub fn status(&self) -> Option<ShipperStatus> {
        let inner = self.0.as_ref()?;
        let settings = inner.settings.borrow().clone()?;
        Some(ShipperStatus { bucket: bucket::shown(&settings.storage), stats: inner.stats.clone() })
    }

    /// Ends the thread. An upload that is interrupted goes on after the next start.
    pub async fn shutdown(&self) {
        let Some(inner) = &self.0 else { return };
        inner.stop.send_replace(true);
        let mut ended = inner.ended.clone();
        let end = async { while ended.changed().await.is_ok() {} };
        let _ = tokio::time::timeout(STOP_WITHIN, end).await;
    }
}

/// The thread's part.
struct Worker {
    store: Arc<Store>,
    stats: Arc<ShipperStats>,
    settings: watch::Receiver<Option<Arc<Settings>>>,
    stopped: watch::Receiver<bool>,
}

impl Worker {
    fn run(mut self) {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => {
                tracing::error!(%error, "blocks are not uploaded: no runtime");
                return;
            }
        };
        let mut stopped = self.stopped.clone();
        runtime.block_on(async {
            tokio::select! {
                () = self.ship_for_ever() => {}
                _ = stopped.wait_for(|stopped| *stopped) => {}
            }
        });
    }

    async fn ship_for_ever(&mut self) {
        let block = Duration::from_millis(u64::try_from(self.store.options().block_ms).unwrap_or(u64::MAX));
        let every = SYNC_EVERY.min(block / 4);
        loop {
            let settings = self.settings.borrow_and_update().clone();
            if let Some(settings) = settings {
                self.round(&settings).await;
            }
            tokio::select! {
                changed = self.settings.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(every) => {}
            }
        }
    }

    async fn round(&self, settings: &Settings) {
        self.stats.syncs.fetch_add(1, Ordering::Relaxed);
        let outcome = match Bucket::new(&settings.storage) {
            Ok(bucket) => ship_all(&self.store, &bucket, settings, false, &self.stats, |_, _| ()).await,
            Err(error) => Err(error),
        };
        let error = outcome.err();
        self.stats.sync_failures.fetch_add(u64::from(error.is_some()), Ordering::Relaxed);
        let before = self.stats.set_last_error(error.clone());
        match error {
            // Once, until it succeeds again: the status has the newest one.
            Some(error) if before.is_none() => {
                tracing::error!(error, "blocks could not be uploaded; it is tried again");
            }
            None if before.is_some() => tracing::info!("blocks are uploaded again"),
            _ => {}
        }
    }
}

/// Uploads the blocks of a store that are to be, oldest first, up to the first failure. `with_joined` uploads those that were made
/// of several, too. `report` is told of each block that was looked at.
///
/// # Errors
/// Why a block could not be uploaded.
pub async fn ship_all(
    store: &Store,
    bucket: &Bucket,
    settings: &Settings,
    with_joined: bool,
    stats: &ShipperStats,
    mut report: impl FnMut(&Block, &Verdict),
) -> Result<(), String> {
    let folder = store.options().folder.clone();
    let mut uploaded = UploadedBlocks::read(&folder)?;
    upload::remove_staged(&folder);
    let mut outcome = Ok(());
    loop {
        let mut blocks = store.open_blocks();
        blocks.sort_by_key(|block| (block.meta().min_time, block.meta().ulid.clone()));
        uploaded.retain(blocks.iter().map(|block| block.meta()));
        let metas: Vec<&blocks::Meta> = blocks.iter().map(|block| block.meta()).collect();
        let allow_overlaps = settings.storage.allow_overlaps;
        let verdicts: Vec<Verdict> =
            metas.iter().map(|meta| verdict(meta, &metas, &uploaded, with_joined, allow_overlaps)).collect();
        note(stats, &metas, &verdicts);
        let settled = metas.iter().zip(&verdicts).filter(|(_, verdict)| **verdict != Verdict::Upload);
        store.set_uploaded(Some(settled.map(|(meta, _)| meta.ulid.clone()).collect()));
        let next = blocks.iter().zip(&verdicts).find(|(_, verdict)| **verdict == Verdict::Upload);
        let Some((block, _)) = next.filter(|_| outcome.is_ok()) else {
            blocks.iter().zip(&verdicts).for_each(|(block, verdict)| report(block, verdict));
            uploaded.save(&folder)?;
            return outcome;
        };
        if block.tombstones() > 0 {
            // What was deleted would come back.
            if let Err(error) = store.rewrite_block(&block.meta().ulid) {
                stats.upload_failures.fetch_add(1, Ordering::Relaxed);
                outcome = Err(format!("{}: writing it without what was deleted: {error}", block.meta().ulid));
            }
            continue;
        }
        outcome = ship_one(bucket, block, settings, with_joined, &folder, &mut uploaded, stats).await;
    }
}

async fn ship_one(
    bucket: &Bucket,
    block: &Block,
    settings: &Settings,
    with_joined: bool,
    folder: &std::path::Path,
    uploaded: &mut UploadedBlocks,
    stats: &ShipperStats,
) -> Result<(), String> {
    let ulid = block.meta().ulid.clone();
    match upload::upload(bucket, block, &settings.labels, with_joined, folder).await {
        Ok(Shipped::Uploaded { bytes }) => {
            stats.uploads.fetch_add(1, Ordering::Relaxed);
            stats.bytes_uploaded.fetch_add(bytes, Ordering::Relaxed);
            stats.last_upload_ms.store(now_ms(), Ordering::Relaxed);
            tracing::info!(ulid, bytes, "block uploaded");
            uploaded.add(&ulid);
        }
        Ok(Shipped::WasThere) => {
            tracing::info!(ulid, "block is in the bucket already");
            uploaded.add(&ulid);
        }
        Ok(Shipped::PartsAreThere) => {
            tracing::warn!(ulid, "a block that it was made of is in the bucket already: it is left out");
            uploaded.add(&ulid);
        }
        Err(error) => {
            let counter = match error {
                UploadError::Block(_) => &stats.corrupted_blocks,
                UploadError::Bucket(_) => &stats.upload_failures,
            };
            counter.fetch_add(1, Ordering::Relaxed);
            return Err(error.to_string());
        }
    }
    uploaded.save(folder)
}

fn note(stats: &ShipperStats, metas: &[&blocks::Meta], verdicts: &[Verdict]) {
    let count = |which: &dyn Fn(&Verdict) -> bool| verdicts.iter().filter(|verdict| which(verdict)).count() as u64;
    stats.waiting.store(count(&|verdict| *verdict == Verdict::Upload), Ordering::Relaxed);
    stats.overlapping.store(count(&|verdict| *verdict == Verdict::Held(Held::Overlaps)), Ordering::Relaxed);
    let done = metas.iter().zip(verdicts).filter(|(_, verdict)| **verdict == Verdict::Done);
    let until = done.map(|(meta, _)| meta.max_time).max().unwrap_or(0);
    stats.uploaded_until_ms.fetch_max(until, Ordering::Relaxed);
}

/// The file in which it is noted what was uploaded, in a data folder.
pub fn uploaded_file(folder: &std::path::Path) -> PathBuf {
    folder.join(uploaded::FILE)
}
