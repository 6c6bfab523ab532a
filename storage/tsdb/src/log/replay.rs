//! From log files back to segments.
//!
//! Invariants:
//!   * a row is taken only if every record of its segment before it was: nothing is decoded against a wrong state
//!   * a record that is read twice counts once
//!   * reading a file never fails as a whole; what it could not give is counted and told

use crate::group::SlotGroup;
use crate::head::Segment;
use crate::histograms::HistogramSegment;
use crate::log::frame::{Damage, FileId, frames, mend};
use crate::log::journal::TargetKey;
use crate::log::record::{self, Record};
use crate::log::writer::{HEADER, HEADER_V1};
use ahash::AHashMap;
use series::Timestamp;
use std::sync::Arc;

/// A share of a log's segments: by their numbers, so that all parts together are the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    pub number: u32,
    pub of: u32,
}

impl Default for Part {
    fn default() -> Part {
        Part { number: 0, of: 1 }
    }
}

impl Part {
    fn has(self, segment: u32) -> bool {
        segment % self.of == self.number
    }
}

/// The files of one log, read in order.
#[derive(Default)]
pub struct Replay {
    part: Part,
    targets: AHashMap<u32, TargetKey>,
    groups: AHashMap<u32, Arc<SlotGroup>>,
    segments: AHashMap<u32, Partial>,
    /// Rows of segments whose beginning was not read.
    orphans: AHashMap<u32, u64>,
    before: Before,
}

/// What is known of the files before those that are read. A file is deleted once every segment that begins in it is in
/// chunks; rows of such segments in later files are not lost, they are not needed.
#[derive(Default)]
enum Before {
    /// Nothing was read yet.
    #[default]
    Unread,
    /// None was deleted, or the beginning is damaged: whatever has no beginning is lost.
    Whole,
    /// Some were deleted, and no segment has begun since.
    Deleted,
    /// Some were deleted; this segment is the first that has begun since, and their numbers rise.
    DeletedUpTo(u32),
}

impl Before {
    fn had(&self, segment: u32) -> bool {
        match self {
            Before::Unread | Before::Whole => false,
            Before::Deleted => true,
            Before::DeletedUpTo(first) => segment < *first,
        }
    }
}

/// What the files hold, with whose it is.
#[derive(Default)]
pub struct Recovered {
    pub segments: Vec<(TargetKey, Segment)>,
    pub histograms: Vec<(TargetKey, HistogramSegment)>,
    /// Records of segments that cannot be read because one before them was lost.
    pub lost: u64,
}

struct Partial {
    key: TargetKey,
    rows: Rows,
    /// The last record taken, and the last that was seen.
    step: u32,
    seen: u32,
}

enum Rows {
    Floats(Segment),
    Histograms(HistogramSegment),
}

impl Rows {
    fn add(&mut self, group: Arc<SlotGroup>) {
        match self {
            Rows::Floats(segment) => drop(segment.add(group)),
            Rows::Histograms(segment) => drop(segment.add(group)),
        }
    }

    fn restore_row(&mut self, at: Timestamp, row: &[u8]) -> bool {
        match self {
            Rows::Floats(segment) => segment.restore_row(at, row),
            Rows::Histograms(segment) => segment.restore_row(at, row),
        }
    }
}

/// What became of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replayed {
    pub damages: Vec<Damage>,
    pub rows: u64,
    /// Records that make no sense, with offset and reason; the first few.
    pub senseless: Vec<(u64, &'static str)>,
}

impl Replayed {
    /// Whether the file holds bytes that somebody may want to look at.
    pub fn is_damaged(&self) -> bool {
        !self.senseless.is_empty() || self.damages.iter().any(|damage| !damage.tail)
    }
}

/// Records that make no sense and are told one by one.
const SENSELESS_TOLD_MAX: usize = 16;

/// Reads a file's bytes.
pub fn replay_file(file: FileId, mut bytes: Vec<u8>, replay: &mut Replay) -> Replayed {
    let mut replayed = Replayed { damages: mend(file, &mut bytes), ..Replayed::default() };
    let damages = std::mem::take(&mut replayed.damages);
    let damaged = damages.iter().any(|damage| !damage.restored);
    replay.before = match std::mem::take(&mut replay.before) {
        Before::Unread if file.sequence > 1 && !damaged => Before::Deleted,
        Before::Unread | Before::Deleted if damaged || file.sequence == 1 => Before::Whole,
        before => before,
    };
    for frame in frames(file, &bytes, &damages) {
        let taken = match frame.kind {
            HEADER if frame.payload == HEADER_V1 => Ok(()),
            HEADER => Err("the log is of a newer version"),
            kind => record::read(kind, frame.payload).and_then(|record| replay.take(record, &mut replayed)),
        };
        if let Err(reason) = taken
            && replayed.senseless.len() < SENSELESS_TOLD_MAX
        {
            replayed.senseless.push((frame.offset, reason));
        }
    }
    replayed.damages = damages;
    replayed
}

impl Replay {
    /// Reads no segments but those of a part.
    pub fn of_part(part: Part) -> Replay {
        Replay { part, ..Replay::default() }
    }

    /// Forgets groups that no segment has: every file defines those that it needs.
    pub fn end_file(&mut self) {
        self.groups.retain(|_, group| Arc::strong_count(group) > 1);
    }

    fn take(&mut self, record: Record, replayed: &mut Replayed) -> Result<(), &'static str> {
        match record {
            Record::Begin { segment, .. }
            | Record::BeginHistograms { segment, .. }
            | Record::Place { segment, .. }
            | Record::Row { segment, .. }
                if !self.part.has(segment) => {}
            Record::Target { target, id, labels } => {
                self.targets.insert(target, TargetKey { id, labels });
            }
            Record::Group { group, slots } => {
                // The same group is defined once a file; segments that share it go on sharing.
                let known = self.groups.get(&group).is_some_and(|known| **known == slots);
                if !known {
                    self.groups.insert(group, Arc::new(slots));
                }
            }
            Record::Begin { segment, target, groups, stamps } => {
                self.begin(segment, target, Rows::Floats(Segment::default()), &groups)?;
                if let Some(Partial { rows: Rows::Floats(fresh), step: 0, .. }) = self.segments.get_mut(&segment)
                    && let Err(reason) = fresh.restore_stamps(&stamps)
                {
                    self.segments.remove(&segment);
                    return Err(reason);
                }
            }
            Record::BeginHistograms { segment, target, groups } => {
                self.begin(segment, target, Rows::Histograms(HistogramSegment::default()), &groups)?;
            }
            Record::Place { segment, step, groups } => {
                let mut partial = self.segments.remove(&segment).ok_or("groups for an unknown segment")?;
                if partial.is_next(step) && self.place(&mut partial.rows, &groups).is_ok() {
                    partial.step = step;
                }
                self.segments.insert(segment, partial);
            }
            Record::Row { segment, step, at, row } => match self.segments.get_mut(&segment) {
                Some(partial) => {
                    if partial.is_next(step) && partial.rows.restore_row(at, row) {
                        partial.step = step;
                        replayed.rows += 1;
                    }
                }
                None => *self.orphans.entry(segment).or_default() += 1,
            },
            Record::Chunks(_) => return Err("a record of another kind of file"),
        }
        Ok(())
    }

    fn begin(&mut self, segment: u32, target: u32, mut rows: Rows, groups: &[u32]) -> Result<(), &'static str> {
        if let Before::Deleted = self.before {
            self.before = Before::DeletedUpTo(segment);
        }
        let key = self.targets.remove(&target).ok_or("a segment of an unknown target")?;
        // What was not durable when a file was given up is in the next one again.
        if !self.segments.contains_key(&segment) {
            self.place(&mut rows, groups)?;
            self.segments.insert(segment, Partial { key, rows, step: 0, seen: 0 });
        }
        Ok(())
    }

    fn place(&self, rows: &mut Rows, groups: &[u32]) -> Result<(), &'static str> {
        for group in groups {
            rows.add(self.groups.get(group).ok_or("an unknown group")?.clone());
        }
        Ok(())
    }

    /// The segments that the files hold, in the order in which they began.
    pub fn finish(self) -> Recovered {
        let is_lost = |segment: &u32| !self.segments.contains_key(segment) && !self.before.had(*segment);
        let orphans = self.orphans.iter().filter(|(segment, _)| is_lost(segment));
        let mut recovered = Recovered { lost: orphans.map(|(_, count)| count).sum(), ..Recovered::default() };
        recovered.lost += self.segments.values().map(|partial| u64::from(partial.seen - partial.step)).sum::<u64>();
        let mut all: Vec<(u32, Partial)> = self.segments.into_iter().collect();
        all.sort_unstable_by_key(|(number, _)| *number);
        for (_, Partial { key, rows, .. }) in all {
            match rows {
                Rows::Floats(segment) if !segment.is_empty() => recovered.segments.push((key, segment)),
                Rows::Histograms(segment) if !segment.is_empty() => recovered.histograms.push((key, segment)),
                _ => {}
            }
        }
        recovered
    }
}

impl Partial {
    /// Whether the record follows what was read so far. One that was read before does not, nor one behind a loss; it
    /// may come again behind what was lost, in the next file.
    fn is_next(&mut self, step: u32) -> bool {
        self.seen = self.seen.max(step);
        step == self.step + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(before: Before, want: [bool; 3]) {
        assert_eq!([6, 7, 8].map(|segment| before.had(segment)), want);
    }

    #[test]
    fn only_what_began_in_deleted_files_is_not_missed() {
        check(Before::Unread, [false; 3]);
        check(Before::Whole, [false; 3]);
        check(Before::Deleted, [true; 3]);
        check(Before::DeletedUpTo(7), [true, false, false]);
    }
}
