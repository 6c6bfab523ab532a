//! Reading: chunks, then blocks, in this order, because samples are published to the later before they leave the earlier.
//! Deletions are applied here, once.

use crate::chunks::ChunkStore;
use crate::deletions::Deletion;
use crate::series_part::SeriesPart;
use crate::store::Store;
use blocks::{Block, BlockError};
use series::{Labels, Matcher, Timestamp};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

impl Store {
    /// Samples in chunks and blocks of series that satisfy one of the selectors, in `[from, to]`, markers included, in
    /// pieces; several may be of one series and hold the same sample. `skip` names targets whose chunks in the head are
    /// not wanted. `found` says whether it wants more.
    pub fn select(
        &self,
        selectors: &[Vec<Matcher>],
        from: Timestamp,
        to: Timestamp,
        skip: impl Fn(u64) -> bool,
        stop: &AtomicBool,
        found: impl FnMut(SeriesPart) -> bool,
    ) -> Result<(), BlockError> {
        // The chunks are read before the list of blocks is taken, in `select`.
        let sources = (&*self.chunks, || self.blocks.open_blocks(), &*self.deletions.all());
        select(sources, selectors, (from, to), skip, stop, found)
    }

    /// Label names of matching series in chunks and blocks that overlap the range.
    pub fn label_names(
        &self,
        selectors: &[Vec<Matcher>],
        range: (Timestamp, Timestamp),
        stop: &AtomicBool,
    ) -> BTreeSet<Box<str>> {
        let mut all = self.chunks.label_names(selectors, range, stop);
        for block in overlapping(self.blocks.open_blocks(), range.0, range.1) {
            for matchers in selectors.iter().take_while(|_| !stop.load(Ordering::Relaxed)) {
                match block.label_names(matchers) {
                    Ok(names) => all.extend(names.into_iter().map(String::into_boxed_str)),
                    Err(error) => block.add_fault(&error),
                }
            }
        }
        all
    }

    /// Values of a label of matching series in chunks and blocks that overlap the range; of each file and block the first
    /// `limit` in order at most.
    pub fn label_values(
        &self,
        name: &str,
        selectors: &[Vec<Matcher>],
        range: (Timestamp, Timestamp),
        limit: usize,
        stop: &AtomicBool,
    ) -> BTreeSet<Box<str>> {
        let mut all = self.chunks.label_values(name, selectors, range, limit, stop);
        for block in overlapping(self.blocks.open_blocks(), range.0, range.1) {
            for matchers in selectors {
                let mut count = 0;
                let found = block.label_values(name, matchers, |value| {
                    if !all.contains(value) {
                        all.insert(value.into());
                    }
                    count += 1;
                    count < limit && !stop.load(Ordering::Relaxed)
                });
                if let Err(error) = found {
                    block.add_fault(&error);
                }
            }
        }
        all
    }

    /// Appends the label sets of matching series with chunks that overlap the range, some of them several times. Of a chunk
    /// file those that come first in the order of [`crate::label_index::SeriesListing`] if there are more than `limit`.
    pub fn label_sets(
        &self,
        selectors: &[Vec<Matcher>],
        range: (Timestamp, Timestamp),
        limit: usize,
        stop: &AtomicBool,
        all: &mut Vec<Labels>,
    ) {
        for mut listing in self.chunks.label_sets(selectors, range, limit, stop) {
            let mut found = Vec::new();
            while found.len() < limit && !stop.load(Ordering::Relaxed) && listing.step(&mut found) {}
            all.append(&mut found);
        }
        for block in overlapping(self.blocks.open_blocks(), range.0, range.1) {
            block.select(selectors, range.0.0, range.1.0, |_, series| {
                all.push(series.labels);
                !stop.load(Ordering::Relaxed)
            });
        }
    }

    /// Like [`Store::select`], of what is in chunks and in no block.
    pub fn head_select(
        &self,
        selectors: &[Vec<Matcher>],
        from: Timestamp,
        to: Timestamp,
        stop: &AtomicBool,
        found: impl FnMut(SeriesPart) -> bool,
    ) {
        self.chunks.select(selectors, from, to, |_| false, stop, found);
    }

    /// Hides what was deleted from samples that are in memory.
    pub fn hide(&self, piece: &mut SeriesPart) {
        apply_deletions(&self.deletions.all(), piece);
    }

    /// Whether anything in memory is to be hidden.
    pub fn hides(&self) -> bool {
        !self.deletions.all().is_empty()
    }

    /// Whether anything in `[from, to]` is to be hidden.
    pub fn hides_within(&self, from: Timestamp, to: Timestamp) -> bool {
        self.deletions.all().iter().any(|deletion| deletion.from <= to.0 && deletion.to >= from.0)
    }
}

/// See [`Store::select`]. The list of blocks is taken after the chunks are read: what leaves them is in a block by then.
pub(crate) fn select(
    (chunks, blocks, deletions): (&ChunkStore, impl FnOnce() -> Vec<Arc<Block>>, &[Deletion]),
    selectors: &[Vec<Matcher>],
    (from, to): (Timestamp, Timestamp),
    skip: impl Fn(u64) -> bool,
    stop: &AtomicBool,
    mut found: impl FnMut(SeriesPart) -> bool,
) -> Result<(), BlockError> {
    let mut more = true;
    chunks.select(selectors, from, to, skip, stop, |mut piece| {
        apply_deletions(deletions, &mut piece);
        more = piece.is_empty() || found(piece);
        more
    });
    for block in overlapping(blocks(), from, to) {
        if !more || stop.load(Ordering::Relaxed) {
            break;
        }
        block.select(selectors, from.0, to.0, |reader, entry| {
            let mut piece = SeriesPart::new(entry.labels.clone());
            let mut last = None;
            reader.readable_samples(&entry, from.0, to.0, |start, at, value| {
                piece.push_started(at, value, start, &mut last);
            });
            more = piece.is_empty() || found(piece);
            more && !stop.load(Ordering::Relaxed)
        });
    }
    Ok(())
}

fn overlapping(blocks: Vec<Arc<Block>>, from: Timestamp, to: Timestamp) -> impl Iterator<Item = Arc<Block>> {
    blocks.into_iter().filter(move |block| block.meta().min_time <= to.0 && block.meta().max_time > from.0)
}

pub(crate) fn apply_deletions(deletions: &[Deletion], piece: &mut SeriesPart) {
    for (from, to) in deletions.iter().filter_map(|deletion| deletion.range_of(&piece.labels)) {
        piece.samples.retain(|sample| sample.timestamp.0 < from || sample.timestamp.0 > to);
        piece.histograms.retain(|(at, _)| *at < from || *at > to);
    }
}
