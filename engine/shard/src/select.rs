//! Selects over the heads of a core.

use crate::head_owner::{HeadOwner, HistogramOwner, IndexEntry};
use crate::message::InstantAnswer;
use crate::status::InstantSample;
use ahash::AHashSet;
use series::{Labels, Matcher, Timestamp};
use std::rc::Rc;
use std::sync::Arc;
use tsdb::{Elsewhere, SeriesPart, SlotGroup};

/// The only groups with slots that match, by address, as a search of the index found them.
#[derive(Default)]
pub struct CandidateGroups(pub AHashSet<usize>);

impl CandidateGroups {
    /// The groups to look at in a head; None for all of them, where it has got other groups since the search.
    pub fn of(&self, entry: &IndexEntry, version: (u64, usize)) -> Option<&AHashSet<usize>> {
        entry.is_current(version).then_some(&self.0)
    }
}

/// What a request wants of each target, found by groups of slots.
pub struct Matching<'a> {
    slots: tsdb::Matching<'a>,
    candidates: &'a CandidateGroups,
}

impl<'a> Matching<'a> {
    pub fn new(selectors: &'a [Vec<Matcher>], candidates: &'a CandidateGroups) -> Matching<'a> {
        Matching { slots: tsdb::Matching::new(selectors), candidates }
    }

    /// The matching slots of each group of a head, by its owner's labels and place in the index.
    pub fn slots_of<'s>(
        &'s mut self,
        owner: &'s Labels,
        entry: &IndexEntry,
        version: (u64, usize),
    ) -> impl FnMut(&Arc<SlotGroup>) -> Rc<[u32]> + use<'s, 'a> {
        self.slots.of_candidates(owner, self.candidates.of(entry, version))
    }

    /// Adds the newest samples of a target in `(after, at]`, as far as they are visible.
    pub fn instant(
        &mut self,
        holder: &HeadOwner,
        after: Timestamp,
        at: Timestamp,
        visible: u64,
        elsewhere: Elsewhere,
        answer: &mut InstantAnswer,
    ) {
        let (head, target) = (holder.head.borrow(), &holder.labels);
        let mut samples = Vec::new();
        let found = |group: &Arc<SlotGroup>, slot: u32, sample: series::Sample| {
            let labels = group.series_labels(slot as usize, target);
            samples.push(InstantSample { labels, timestamp: sample.timestamp, value: sample.value });
        };
        if let Some(histograms) = &holder.histograms
            && histograms.head.borrow().touches(after.plus_ms(1), self.slots.of_target(target))
        {
            // A series may have become one of histograms, or one of floats: then its markers count too.
            drop(head);
            return self.newest_of_range(holder, after, at, visible, answer);
        }
        // Rows in memory were written by this process: one that does not decode is our own mistake.
        let matching = self.slots_of(target, &holder.index, head.rows_version());
        let whole = head.instant(after, at, visible, elsewhere, matching, found);
        if whole.expect("rows of this process decode") {
            // A series that brings its own times may bring its own markers, and have samples in another head.
            answer.partial.extend(samples.extract_if(.., |sample| series::is_stale(sample.value)));
            answer.samples.append(&mut samples);
            answer.whole.push(holder.id);
        } else {
            answer.partial.append(&mut samples);
        }
    }

    /// The same of a source with histograms, markers included.
    fn newest_of_range(
        &mut self,
        holder: &HeadOwner,
        after: Timestamp,
        at: Timestamp,
        visible: u64,
        answer: &mut InstantAnswer,
    ) {
        let mut pieces = Vec::new();
        self.range(holder, after.plus_ms(1), at, visible, &mut pieces);
        for SeriesPart { labels, samples, .. } in pieces {
            if let Some(series::Sample { timestamp, value }) = series::order::newest(samples) {
                answer.partial.push(InstantSample { labels, timestamp, value });
            }
        }
    }

    /// Adds histograms of a source in `[from, to]`, markers included, as far as they are visible. Gives how many samples
    /// they count as.
    pub fn histograms(
        &mut self,
        holder: &HistogramOwner,
        from: Timestamp,
        to: Timestamp,
        visible: u64,
        pieces: &mut Vec<SeriesPart>,
    ) -> usize {
        let (head, target) = (holder.head.borrow(), &holder.labels);
        let mut size = 0;
        let matching = self.slots_of(target, &holder.index, head.rows_version());
        head.range(from, to, visible, matching, |group, slot, histograms| {
            size += histograms.iter().map(|(_, histogram)| promql::histogram_size(histogram)).sum::<usize>();
            let labels = group.series_labels(slot as usize, target);
            pieces.push(SeriesPart { histograms, ..SeriesPart::new(labels) });
        });
        size
    }

    /// Adds the newest histogram of each series of a source in `(after, at]`.
    pub fn newest_histograms(
        &mut self,
        holder: &HistogramOwner,
        after: Timestamp,
        at: Timestamp,
        visible: u64,
        pieces: &mut Vec<SeriesPart>,
    ) {
        let before = pieces.len();
        self.histograms(holder, after.plus_ms(1), at, visible, pieces);
        for piece in &mut pieces[before..] {
            piece.histograms.drain(..piece.histograms.len() - 1);
        }
    }

    /// Adds the start times of what [`Matching::range`] finds, in pieces without samples.
    pub fn starts(&mut self, holder: &HeadOwner, pieces: &mut Vec<SeriesPart>) {
        let (head, target) = (holder.head.borrow(), &holder.labels);
        let matching = self.slots_of(target, &holder.index, head.rows_version());
        head.starts(matching, |group, slot, starts| {
            pieces.push(SeriesPart { starts, ..SeriesPart::new(group.series_labels(slot as usize, target)) });
        });
    }

    /// The same of histograms.
    pub fn histogram_starts(&mut self, holder: &HistogramOwner, pieces: &mut Vec<SeriesPart>) {
        let (head, target) = (holder.head.borrow(), &holder.labels);
        let matching = self.slots_of(target, &holder.index, head.rows_version());
        head.starts(matching, |group, slot, starts| {
            pieces.push(SeriesPart { starts, ..SeriesPart::new(group.series_labels(slot as usize, target)) });
        });
    }

    /// Whether any series in memory matches, found without remembering anything: sources that no scrape brings have
    /// groups of their own.
    pub fn any(&self, holder: &HeadOwner) -> bool {
        let head = holder.head.borrow();
        let matches = |group: &Arc<SlotGroup>| {
            self.slots.selectors().iter().any(|matchers| group.any_matches(matchers, &holder.labels))
        };
        head.groups_in_memory().any(matches)
    }

    /// Whether a source may have histograms of matching series from `from` on.
    pub fn touches(&mut self, holder: &HistogramOwner, from: Timestamp) -> bool {
        holder.head.borrow().touches(from, self.slots.of_target(&holder.labels))
    }

    /// Adds the samples of a target in `[from, to]`, as far as they are visible.
    pub fn range(
        &mut self,
        holder: &HeadOwner,
        from: Timestamp,
        to: Timestamp,
        visible: u64,
        pieces: &mut Vec<SeriesPart>,
    ) -> usize {
        let (head, target) = (holder.head.borrow(), &holder.labels);
        let before = pieces.len();
        let found = |group: &Arc<SlotGroup>, slot: u32, samples: &[series::Sample]| {
            let labels = group.series_labels(slot as usize, target);
            pieces.push(SeriesPart { samples: samples.to_vec(), ..SeriesPart::new(labels) });
        };
        let matching = self.slots_of(target, &holder.index, head.rows_version());
        head.range(from, to, visible, matching, found).expect("rows of this process decode");
        pieces[before..].iter().map(|piece| piece.samples.len()).sum()
    }
}
