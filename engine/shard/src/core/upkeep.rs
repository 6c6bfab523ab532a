//! What goes on beside scrapes: the log, closed segments, rows of the last run, what nobody uses any more.

use super::{Core, LOG_EVERY, wall_ms};
use crate::head_owner::IndexedHead;
use crate::ingest::Reader;
use crate::log::LogFiles;
use crate::status::MetadataSize;
use crate::time_slice::{CoreTask, TimeSlice};
use glommio::timer::Timer;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tsdb::log::Writer;
use tsdb::{Flushable, Recalled, SameGroups, Store};

/// How often segments that are in chunks are dropped and unused templates forgotten.
pub(super) const UPKEEP_EVERY: Duration = Duration::from_secs(5);

/// What heads hold.
#[derive(Default)]
pub(super) struct HeadSums {
    /// Series that are not stale, and all that have a place.
    pub series: u64,
    pub slots: u64,
    /// Series that came since this was last asked.
    pub added: u64,
    pub bytes: u64,
}

impl Core {
    /// Hands what was appended to the kernel, and syncs it.
    pub(super) async fn keep_log(self: Rc<Self>) {
        let Some(folder) = self.log_folder.clone() else {
            self.log_ended.set(true);
            return;
        };
        let mut files = LogFiles::new(folder);
        let mut failing = false;
        while self.log_turn.next().await.is_some() {
            let now_ms = self.now_us() / 1000;
            self.journal.borrow_mut().set_now(now_ms);
            files.carry_out(&self.journal, now_ms, false).await;
            if !files.sync_us.is_empty() {
                let _ = self.stats.borrow_mut().log_sync_us.add(&files.sync_us);
                files.sync_us.reset();
            }
            self.acknowledge();
            let journal = self.journal.borrow();
            let error = journal.writer().and_then(|writer| writer.failing());
            if error.is_some() != failing {
                failing = error.is_some();
                match error {
                    Some(error) => {
                        tracing::error!(core = self.index, error, "the log cannot be written; samples wait in memory")
                    }
                    None => tracing::info!(core = self.index, "the log is written again"),
                }
            }
        }
        files.carry_out(&self.journal, self.now_us() / 1000, true).await;
        self.acknowledge();
        self.log_ended.set(true);
    }

    /// Gives heads the newest rows of the last run, after a start.
    async fn recall(&self, store: &Store) {
        let mut same = SameGroups::default();
        let mut taken = 0;
        let slice = self.slice(CoreTask::Maintenance);
        for scraper in self.all_scrapers() {
            let id = scraper.holder.id;
            if let Some(rows) = store.take_last_rows(id) {
                let mut head = scraper.holder.head.borrow_mut();
                match head.recall(rows, &mut same) {
                    Recalled::Taken => taken += 1,
                    Recalled::Refused => {}
                    Recalled::TooEarly(rows) => store.return_last_rows(id, rows),
                }
                self.note_rows(&scraper.holder, &head);
            }
            slice.step().await;
        }
        if taken > 0 {
            tracing::info!(core = self.index, targets = taken, "newest rows of the last run are in memory again");
        }
    }

    /// Everything that is not in chunks yet: closed segments, and copies of open ones.
    pub(super) async fn unflushed(&self) -> Vec<Arc<dyn Flushable>> {
        let mut all: Vec<Arc<dyn Flushable>> = Vec::new();
        let ended = self.ended.borrow().clone();
        let slice = self.slice(CoreTask::Maintenance);
        for holder in self.all_holders().into_iter().chain(ended) {
            let segments = holder.head.borrow().unflushed();
            all.extend(segments.into_iter().map(|segment| segment as Arc<dyn Flushable>));
            slice.step().await;
        }
        for holder in self.histogram_holders() {
            let segments = holder.head.borrow().unflushed();
            all.extend(segments.into_iter().map(|segment| segment as Arc<dyn Flushable>));
        }
        all
    }

    /// Drops segments that are in chunks, and forgets templates that nobody uses and buffers that nobody needed.
    pub(super) async fn keep_up(self: Rc<Self>) {
        loop {
            Timer::new(UPKEEP_EVERY).await;
            if let Some(store) = self.store.as_ref().filter(|store| store.has_last_rows()) {
                self.recall(store).await;
            }
            let slice = self.slice(CoreTask::Maintenance);
            self.keep_up_exemplars(&slice).await;
            let sources = self.written.borrow().source_keys();
            for source in &sources {
                self.written.borrow_mut().tidy(source);
                slice.step().await;
            }
            let gone = self.written.borrow_mut().remove_idle(wall_ms());
            self.end_holders(gone);
            slice.step().await;
            let mut sums = self.keep_up_histograms();
            let pinned = self.journal.borrow().writer().map(Writer::pinned_by_few).unwrap_or_default();
            for holder in self.all_holders() {
                slice.step().await;
                let mut head = holder.head.borrow_mut();
                head.turn_over_in(&pinned);
                if let Some(queue) = &self.flush_queue {
                    head.take_all_closed(|closed| queue.flush(closed));
                }
                head.drop_flushed();
                sums.series += head.live_series() as u64;
                sums.slots += head.live_slots() as u64;
                sums.added += head.take_added();
                sums.bytes += head.heap_bytes() as u64;
                self.note_rows(&holder, &head);
            }
            self.keep_up_ended(&mut sums, &slice).await;
            let metadata = self.metadata_sizes(&slice).await;
            self.label_index.bring_up_to_date(&slice).await;
            sums.bytes += (self.written.borrow().heap_bytes() + self.label_index.labels.borrow().heap_bytes()) as u64;
            slice.step().await;
            let unused = self.journal.borrow_mut().writer_mut().map(Writer::take_unused).unwrap_or_default();
            match (&self.flush_queue, &self.agent) {
                _ if unused.is_empty() => {}
                (Some(queue), _) => queue.remove_logs(unused),
                (None, Some(agent)) => agent.remove_logs(unused),
                (None, None) => {}
            }
            self.fetcher.trim();
            let (templates, templates_bytes) = self.interner.borrow_mut().sweep();
            let mut stats = self.stats.borrow_mut();
            (stats.series, stats.head_bytes) = (sums.series, sums.bytes);
            stats.series_created += sums.added;
            stats.series_removed = stats.series_removed.max(stats.series_created.saturating_sub(sums.slots));
            stats.metadata = metadata;
            (stats.templates, stats.templates_bytes) = (templates, templates_bytes);
        }
    }

    async fn metadata_sizes(&self, slice: &TimeSlice<'_>) -> BTreeMap<String, MetadataSize> {
        let mut sizes: BTreeMap<String, MetadataSize> = BTreeMap::new();
        for scraper in self.all_scrapers() {
            slice.step().await;
            let size = scraper.reader.borrow().as_ref().map(Reader::metadata_size).unwrap_or_default();
            let target = scraper.target.borrow();
            match sizes.get_mut(&target.job.job_name) {
                Some(sum) => *sum += size,
                None => drop(sizes.insert(target.job.job_name.clone(), size)),
            }
        }
        sizes
    }

    /// Lets heads go that have ended and are in chunks, and adds up the others.
    async fn keep_up_ended(&self, sums: &mut HeadSums, slice: &TimeSlice<'_>) {
        let mut at = 0;
        loop {
            // Others may add to the list meanwhile, but only this task takes from it.
            let Some(ended) = self.ended.borrow().get(at).cloned() else { return };
            sums.added += ended.head.borrow_mut().take_added();
            let stays = ended.head.borrow_mut().drop_flushed();
            if stays {
                let head = ended.head.borrow();
                sums.bytes += head.heap_bytes() as u64;
                self.note_rows(&ended, &head);
                at += 1;
            } else {
                self.ended.borrow_mut().swap_remove(at);
                self.label_index.remove(&IndexedHead::Floats(ended));
            }
            slice.step().await;
        }
    }

    /// Waits until what was appended so far can be read: a status tells of no scrape whose samples cannot be seen. For
    /// a log that is not written it does not wait long.
    pub(super) async fn shown(&self) {
        let appended = self.journal.borrow().writer().map_or(0, Writer::appended);
        let patience = self.now_us() + 20 * LOG_EVERY.as_micros() as u64;
        while self.journal.borrow().visible() < appended && self.now_us() < patience && !self.stopping.get() {
            Timer::new(LOG_EVERY / 10).await;
        }
    }
}
