//! Zero samples at the times at which series began, where the server is started with the feature for it (decision 081).

use super::{Core, Scraper, wall_ms};
use crate::ingest::Reader;
use crate::natives::NativeRows;
use crate::written::{Head, PushedSeries, ReceiveRequest, Receiving, zero_like};
use series::{Labels, Sample, StartTimes, Timestamp, Value};
use std::sync::Arc;
use targets::Target;
use tsdb::{AppendScratch, TargetHead};

/// Zero samples of one scrape, all in one turn. Those beyond it are left out.
const ZEROS_PER_SCRAPE_MAX: usize = 20_000;

impl Core {
    /// Stores a zero for each series of a scrape that began after the scrape before, and within half a block's range. The row
    /// of the scrape comes next: the log has samples of a series in the order of time.
    pub(super) fn append_zeros(
        &self,
        (scraper, head): (&Scraper, &TargetHead),
        target: &Target,
        (reader, natives): (&Reader, &NativeRows),
        at: Timestamp,
        scratch: &mut AppendScratch,
    ) {
        if !self.features.injects_zeros || reader.starts().is_empty() && natives.starts.is_empty() {
            return;
        }
        let Some(after) = self.zeros_after(scraper, head, at) else { return };
        let is_new = |start: i64| after < start && start < at.0;
        let floats = zeros_of_floats(reader, is_new);
        let histograms = zeros_of_histograms(natives, is_new);
        // Under the labels of the rows that have the samples: remote write keeps the order of what has the same.
        let sources = [(target.labels.clone(), floats), (Labels::empty(), histograms)];
        let sources: Vec<_> = sources.into_iter().filter(|(_, series)| !series.is_empty()).collect();
        if sources.is_empty() {
            return;
        }
        let mut receiving = Receiving::new(ReceiveRequest { sources });
        let (mut written, mut journal) = (self.written.borrow_mut(), self.journal.borrow_mut());
        let mut appended = |head: Head| self.hand_over_of(head);
        while written.receive(&mut receiving, wall_ms(), &mut journal, scratch, &mut appended) {}
    }

    /// The time that a series of the target has to have begun after, so that it may have no sample that is newer. None if
    /// that is not known.
    fn zeros_after(&self, scraper: &Scraper, head: &TargetHead, at: Timestamp) -> Option<i64> {
        let after = match head.newest_at() {
            Some(newest) => newest,
            None => self.newest_elsewhere(scraper.holder.id)?,
        };
        // An agent knows nothing of what was before it began.
        let began = self.agent.as_ref().map(|_| wall_ms() - self.started.elapsed().as_millis() as i64);
        let oldest = at.0.saturating_sub(self.written.borrow().old_ms());
        Some(after.0.max(oldest).max(began.unwrap_or(i64::MIN)))
    }
}

fn zeros_of_floats(reader: &Reader, is_new: impl Fn(i64) -> bool) -> Vec<PushedSeries> {
    let new = reader.starts().iter().filter(|start| is_new(start.at_ms()));
    let slots = new.flat_map(|start| start.slots.iter().map(|slot| (*slot, start.at_ms())));
    let slots = reader.places_of(slots.take(ZEROS_PER_SCRAPE_MAX).collect());
    let groups = reader.groups();
    let mut zeros = Vec::with_capacity(slots.len());
    for (group, slot, start) in slots {
        let (group, slot) = (group as usize, slot as usize);
        // One that brings its own time may have had that before.
        if !groups[group].is_stamped(slot) {
            let samples = vec![Sample { timestamp: Timestamp(start), value: 0.0 }];
            zeros.push(PushedSeries {
                labels: groups[group].labels(slot),
                samples,
                histograms: Vec::new(),
                start: None,
                starts: StartTimes::new(),
            });
        }
    }
    zeros
}

fn zeros_of_histograms(natives: &NativeRows, is_new: impl Fn(i64) -> bool) -> Vec<PushedSeries> {
    let has_own_time = |row: usize| natives.stamps.get(row).is_some_and(Option::is_some);
    let new = natives.starts.iter().filter(|(row, start)| is_new(*start) && !has_own_time(*row));
    let new = new.take(ZEROS_PER_SCRAPE_MAX);
    let zero = |(row, start): &(usize, i64)| {
        let (labels, value) = natives.rows.get(*row)?;
        let Value::Histogram(histogram) = value else { return None };
        let histograms = vec![(*start, Arc::new(zero_like(histogram)))];
        Some(PushedSeries {
            labels: labels.clone(),
            samples: Vec::new(),
            histograms,
            start: None,
            starts: StartTimes::new(),
        })
    };
    new.filter_map(zero).collect()
}
