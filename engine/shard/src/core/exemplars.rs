//! Exemplars of scrapes and of those who write to us: into the ring and the log, and back after a start.

use super::{Core, natives_source, wall_ms};
use crate::exemplars::{Appended, StoredExemplar};
use crate::ingest::Reader;
use crate::payload::Scraped;
use crate::time_slice::{CoreTask, TimeSlice};
use crate::written::{AHEAD_MS_MAX, received_source_id, source_id};
use exposition::{Exemplar, Readings};
use series::{Labels, Timestamp};
use std::rc::Rc;
use targets::Target;
use tokio::sync::oneshot;
use tsdb::Store;
use tsdb::log::{FileId, LoggedExemplar, TargetKey};
use tsdb::within_bounds;

/// Exemplars of one scrape that are stored, all in one turn.
const EXEMPLARS_PER_SCRAPE_MAX: usize = 10_000;
/// Exemplars that are stored before others get their turn.
const EXEMPLARS_PER_PIECE: usize = 256;

impl Core {
    /// Stores the exemplars of a scrape that are others than those of the scrape before. Its row comes next.
    pub(super) fn append_exemplars(
        &self,
        target: &Target,
        reader: &Reader,
        scraped: &mut Scraped,
        readings: &Readings,
        at: Timestamp,
    ) {
        if !self.exemplars.borrow().is_on() {
            return;
        }
        let mut left = EXEMPLARS_PER_SCRAPE_MAX;
        let natives = std::mem::take(&mut scraped.natives.exemplars);
        if !natives.is_empty() {
            let mut new = Vec::new();
            for (series, mut exemplars) in natives {
                exemplars.truncate(left);
                left -= exemplars.len();
                exemplars.sort_by_key(|exemplar| exemplar.timestamp);
                new.extend(exemplars.into_iter().map(|exemplar| (series.clone(), exemplar, at)));
            }
            let key = TargetKey { id: source_id(&natives_source(target.id)), labels: Labels::empty() };
            self.append_exemplars_of(&key, new.into_iter());
        }
        if !readings.exemplars.iter().any(|exemplar| exemplar.is_new) {
            return;
        }
        let body = scraped.lines();
        // Values and stamps of the payload are in the order of its slots; exemplars too.
        let mut new = readings.exemplars.iter().filter(|exemplar| exemplar.is_new).take(left).peekable();
        let mut stamps = readings.stamps.iter();
        let (mut value, mut found) = (0, Vec::new());
        for group in reader.groups().iter().skip(1) {
            if !group.any_stamped() && new.peek().is_none_or(|next| next.value as usize >= value + group.len()) {
                value += group.len();
                continue;
            }
            for slot in 0..group.len() {
                let stamp = if group.is_stamped(slot) { stamps.next().map(|stamp| Timestamp(*stamp)) } else { None };
                if let Some(reading) = new.next_if(|next| next.value as usize == value)
                    && stamp.is_none_or(|stamp| within_bounds(at, stamp.0))
                    && let Some(exemplar) = exposition::exemplar(&body[reading.text.clone()])
                {
                    found.push((group.labels(slot), exemplar, stamp.unwrap_or(at)));
                }
                value += 1;
            }
        }
        let key = TargetKey { id: target.id.0, labels: target.labels.clone() };
        self.append_exemplars_of(&key, found.into_iter());
    }

    /// Stores exemplars of a source, with the labels of their series that the source does not have, and when they came.
    /// Returns how many are accepted: those that are stored, also from before.
    fn append_exemplars_of(
        &self,
        key: &TargetKey,
        exemplars: impl Iterator<Item = (Labels, Exemplar, Timestamp)>,
    ) -> u64 {
        let mut ring = self.exemplars.borrow_mut();
        let (mut accepted, mut new) = (0, Vec::new());
        for (own, exemplar, at) in exemplars {
            match ring.append(series_labels(&own, &key.labels), exemplar, at) {
                Appended::New(StoredExemplar { labels, value, timestamp }) => {
                    accepted += 1;
                    new.push(LoggedExemplar { series: own, labels, value, timestamp });
                }
                Appended::Same => accepted += 1,
                Appended::Rejected => {}
            }
        }
        if !new.is_empty() {
            let file = self.journal.borrow_mut().exemplars(key, false, &new);
            // Without a store nothing is replayed, so no file has to stay.
            if let (Some(file), Some(_)) = (file, &self.store) {
                ring.logged(new.len(), &file);
            }
        }
        accepted
    }

    /// Stores exemplars that somebody writes to us, by the labels of their source. Others get their turn in between.
    pub(super) async fn append_received_exemplars(
        self: Rc<Self>,
        sources: Vec<(Labels, Vec<(Labels, Exemplar)>)>,
        reply: oneshot::Sender<u64>,
    ) {
        let slice = self.slice(CoreTask::Push);
        let mut accepted = 0;
        for (labels, exemplars) in sources {
            let key = TargetKey { id: received_source_id(&labels), labels };
            let mut exemplars = exemplars.into_iter().peekable();
            while exemplars.peek().is_some() {
                let now_ms = wall_ms();
                let is_early =
                    |exemplar: &Exemplar| exemplar.timestamp.is_some_and(|at| at > now_ms.saturating_add(AHEAD_MS_MAX));
                let piece = exemplars.by_ref().take(EXEMPLARS_PER_PIECE);
                let piece = piece.filter(|(_, exemplar)| !is_early(exemplar));
                accepted +=
                    self.append_exemplars_of(&key, piece.map(|(own, exemplar)| (own, exemplar, Timestamp(now_ms))));
                slice.step().await;
            }
        }
        let _ = reply.send(accepted);
    }

    /// Copies exemplars out of log files that nobody else needs, and takes back those of the last run.
    pub(super) async fn keep_up_exemplars(&self, slice: &TimeSlice<'_>) {
        let Some(store) = &self.store else { return };
        let old = self.take_old_exemplars(store, slice).await;
        let files = self.exemplars.borrow().files_to_leave();
        if !files.is_empty() {
            let key = TargetKey { id: 0, labels: Labels::empty() };
            let mut next = Some(0);
            while let Some(from) = next {
                next = self
                    .exemplars
                    .borrow_mut()
                    .copy_from(&files, from, |exemplars| self.journal.borrow_mut().exemplars(&key, true, exemplars));
                slice.step().await;
            }
        }
        let (appended, durable) =
            self.journal.borrow().writer().map_or((0, 0), |writer| (writer.appended(), writer.durable()));
        let mut old_logs = self.old_logs.borrow_mut();
        if !old.is_empty() {
            old_logs.push((appended, old));
        }
        let removable: Vec<_> = old_logs.extract_if(.., |(position, _)| *position <= durable).collect();
        if let (Some(queue), false) = (&self.flush_queue, removable.is_empty()) {
            queue.remove_logs(removable.into_iter().flat_map(|(_, files)| files).collect());
        }
    }

    /// Puts exemplars of the last run into the ring. Gives the files that have them until they are in a file of this one.
    async fn take_old_exemplars(&self, store: &Store, slice: &TimeSlice<'_>) -> Vec<FileId> {
        // Before the ring has its size it would take none.
        if !store.has_old_exemplars() || !self.exemplars.borrow().is_sized() {
            return Vec::new();
        }
        let count = self.cores;
        let (mut files, mut found) = (Vec::new(), Vec::new());
        for old in store.take_old_exemplars(|writer| usize::from(writer) % count == self.index) {
            for logged in old.read() {
                for LoggedExemplar { series, labels, value, timestamp } in logged.exemplars {
                    let series = series_labels(&series, &logged.labels);
                    found.push((series, StoredExemplar { labels, value, timestamp }));
                }
                slice.step().await;
            }
            files.extend(old.files);
        }
        self.exemplars.borrow_mut().restore(found);
        files
    }
}

/// Labels of a series, as those of a slot: an empty one hides that of the source.
fn series_labels(own: &Labels, source: &Labels) -> Labels {
    let merged = own.merged(source);
    Labels::from_sorted(merged.iter().filter(|(_, value)| !value.is_empty()))
}
