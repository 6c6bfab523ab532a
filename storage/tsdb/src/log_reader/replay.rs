//! From log files back to segments.
//!
//! In two passes, so that memory does not grow with the logs: the first goes through every file and notes where the rows
//! of each segment lie, the second brings back one segment at a time.
//!
//! Invariants:
//!   * a row is taken only if every record of its segment before it was: nothing is decoded against a wrong state
//!   * a record that is read twice counts once
//!   * reading a file never fails as a whole; what it could not give is counted and told

use crate::group::SlotGroup;
use crate::head::{ROWS_RECALLED, Segment};
use crate::histograms::HistogramSegment;
use crate::log::TargetKey;
use crate::log::frame::{Damage, FRAME_HEAD_BYTES, FileId, Frame, frames, mend, verify_frame};
use crate::log::record::{self, Record};
use crate::log::writer::{HEADER, HEADER_V1};
use crate::starts::StartRun;
use ahash::AHashMap;
use series::Timestamp;
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::vec;

/// The files of one log, read in order.
#[derive(Default)]
pub struct Replay {
    files: Vec<FileId>,
    /// Rows that only the parity gave back: the file does not have them.
    mended: Vec<Box<[u8]>>,
    targets: AHashMap<u32, TargetKey>,
    groups: AHashMap<u32, Arc<SlotGroup>>,
    segments: AHashMap<u32, Partial>,
    /// Rows of segments whose beginning was not read.
    orphans: AHashMap<u32, u64>,
    before: Before,
    exemplars: ReplayedExemplars,
}

/// Bytes of records of exemplars that are taken from one log, the newest ones: several times the usual number of them.
const EXEMPLARS_BYTES_MAX: usize = 128 << 20;

/// Payloads of records of exemplars, in the order of the log.
#[derive(Default)]
struct ReplayedExemplars {
    payloads: VecDeque<Box<[u8]>>,
    bytes: usize,
}

impl ReplayedExemplars {
    fn push(&mut self, payload: &[u8]) {
        self.bytes += payload.len();
        self.payloads.push_back(payload.into());
        while self.bytes > EXEMPLARS_BYTES_MAX
            && let Some(oldest) = self.payloads.pop_front()
        {
            self.bytes -= oldest.len();
        }
    }
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

/// What the files hold, with whose it is: segments in the order in which they began.
pub struct Recovered {
    files: Vec<FileId>,
    mended: Vec<Box<[u8]>>,
    segments: vec::IntoIter<Partial>,
    frame: Vec<u8>,
    /// Records of segments that cannot be read because one before them was lost.
    pub lost: u64,
}

/// A segment as its rows say it is.
pub enum Restored {
    Floats(Segment),
    Histograms(HistogramSegment),
}

impl Restored {
    /// Time of the first and the last row.
    pub fn range(&self) -> Option<(Timestamp, Timestamp)> {
        match self {
            Restored::Floats(segment) => segment.range(),
            Restored::Histograms(segment) => segment.range(),
        }
    }
}

/// What a segment has of the newest rows of its target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Last {
    /// How many rows at its end.
    pub rows: usize,
    /// From then on the target's segments have had the same groups.
    pub whole_since: Timestamp,
}

struct Partial {
    key: TargetKey,
    histograms: bool,
    groups: Vec<Arc<SlotGroup>>,
    stamps: Vec<(u32, i64)>,
    rows: Vec<RowLocation>,
    /// Start times, before the rows with these numbers.
    starts: Vec<(u32, Box<[StartRun]>)>,
    /// The last record taken, and the last that was seen.
    step: u32,
    seen: u32,
    last: Option<Last>,
}

/// Where the frame of a row lies.
struct RowLocation {
    at: Timestamp,
    offset: u64,
    file: u32,
    /// Of the payload.
    bytes: u32,
}

/// Instead of a file: the row is the mended one with the offset as its number.
const MENDED: u32 = u32::MAX;

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
const SENSELESS_LISTED_MAX: usize = 16;

/// Goes through a file's bytes, and mends them where it can.
pub fn replay_file(file: FileId, bytes: &mut [u8], replay: &mut Replay) -> Replayed {
    let mut replayed = Replayed::default();
    let damages = mend(file, bytes);
    replay.files.push(file);
    let damaged = damages.iter().any(|damage| !damage.restored);
    replay.before = match std::mem::take(&mut replay.before) {
        Before::Unread if file.sequence > 1 && !damaged => Before::Deleted,
        Before::Unread | Before::Deleted if damaged || file.sequence == 1 => Before::Whole,
        before => before,
    };
    for frame in frames(file, bytes, &damages) {
        let taken = match frame.kind {
            HEADER if frame.payload == HEADER_V1 => Ok(()),
            HEADER => Err("the log is of a newer version"),
            kind => record::read(kind, frame.payload)
                .and_then(|record| replay.take(record, &frame, &damages, &mut replayed.rows)),
        };
        if let Err(reason) = taken
            && replayed.senseless.len() < SENSELESS_LISTED_MAX
        {
            replayed.senseless.push((frame.offset, reason));
        }
    }
    // Every file defines the groups that it needs.
    replay.groups.retain(|_, group| Arc::strong_count(group) > 1);
    replayed.damages = damages;
    replayed
}

impl Replay {
    fn take(&mut self, record: Record, frame: &Frame, damages: &[Damage], rows: &mut u64) -> Result<(), &'static str> {
        match record {
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
            Record::Begin { segment, target, groups, stamps } => self.begin(segment, target, false, &groups, stamps)?,
            Record::BeginHistograms { segment, target, groups } => {
                self.begin(segment, target, true, &groups, Vec::new())?;
            }
            Record::Place { segment, step, groups } => {
                let partial = self.segments.get_mut(&segment).ok_or("groups for an unknown segment")?;
                if partial.is_next(step) && partial.add(&groups, &self.groups).is_ok() {
                    partial.step = step;
                }
            }
            Record::Row { segment, step, at, row } => match self.segments.get_mut(&segment) {
                Some(partial) => {
                    if partial.rows.len() >= usize::from(u16::MAX) {
                        return Err("a segment has more rows than a chunk may have samples");
                    }
                    if partial.is_next(step) && partial.rows.last().is_none_or(|last| last.at < at) {
                        let end = frame.offset + (FRAME_HEAD_BYTES + frame.payload.len()) as u64;
                        let next = damages.partition_point(|damage| damage.offset + damage.bytes <= frame.offset);
                        partial.rows.push(if damages.get(next).is_some_and(|damage| damage.offset < end) {
                            self.mended.push(row.into());
                            RowLocation { at, offset: self.mended.len() as u64 - 1, file: MENDED, bytes: 0 }
                        } else {
                            let (file, bytes) = (self.files.len() as u32 - 1, frame.payload.len() as u32);
                            RowLocation { at, offset: frame.offset, file, bytes }
                        });
                        partial.step = step;
                        *rows += 1;
                    }
                }
                None => *self.orphans.entry(segment).or_default() += 1,
            },
            Record::Starts { segment, step, runs } => {
                // Of a segment whose beginning was lost, or before a row that was read already.
                if let Some(partial) = self.segments.get_mut(&segment).filter(|partial| step == partial.step + 1) {
                    partial.starts.push((partial.rows.len() as u32, runs.into()));
                }
            }
            Record::Exemplars(_) => self.exemplars.push(frame.payload),
            Record::Chunks(_) => return Err("a record of another kind of file"),
        }
        Ok(())
    }

    /// The exemplars that the files have, as [`crate::log::exemplars_of`] reads them.
    pub fn take_exemplars(&mut self) -> impl Iterator<Item = Box<[u8]>> + use<> {
        std::mem::take(&mut self.exemplars).payloads.into_iter()
    }

    fn begin(
        &mut self,
        segment: u32,
        target: u32,
        histograms: bool,
        groups: &[u32],
        stamps: Vec<(u32, i64)>,
    ) -> Result<(), &'static str> {
        if let Before::Deleted = self.before {
            self.before = Before::DeletedUpTo(segment);
        }
        let key = self.targets.remove(&target).ok_or("a segment of an unknown target")?;
        // What was not durable when a file was given up is in the next one again.
        if self.segments.contains_key(&segment) {
            return Ok(());
        }
        let mut partial = Partial {
            key,
            histograms,
            groups: Vec::new(),
            stamps,
            rows: Vec::new(),
            starts: Vec::new(),
            step: 0,
            seen: 0,
            last: None,
        };
        partial.add(groups, &self.groups)?;
        let slots = if partial.is_stamped() { partial.groups.iter().map(|group| group.len()).sum() } else { 0 };
        if partial.stamps.iter().any(|(slot, _)| *slot as usize >= slots) {
            return Err("a stamp of an unknown slot");
        }
        self.segments.insert(segment, partial);
        Ok(())
    }

    /// What the files hold, to be read from them again.
    pub fn finish(self) -> Recovered {
        let is_lost = |segment: &u32| !self.segments.contains_key(segment) && !self.before.had(*segment);
        let orphans = self.orphans.iter().filter(|(segment, _)| is_lost(segment));
        let mut lost: u64 = orphans.map(|(_, count)| count).sum();
        lost += self.segments.values().map(|partial| u64::from(partial.seen - partial.step)).sum::<u64>();
        let mut all: Vec<(u32, Partial)> = self.segments.into_iter().collect();
        all.sort_unstable_by_key(|(number, _)| *number);
        let mut segments: Vec<Partial> =
            all.into_iter().map(|(_, partial)| partial).filter(|partial| !partial.rows.is_empty()).collect();
        mark_last(&mut segments);
        Recovered { files: self.files, mended: self.mended, segments: segments.into_iter(), frame: Vec::new(), lost }
    }
}

impl Recovered {
    /// The next segment, whose it is, and which of its rows are the newest of a target whose series do not bring their
    /// own times. `read` fills bytes from a file's offset on; they have to be those that were there before.
    pub fn next(
        &mut self,
        mut read: impl FnMut(FileId, u64, &mut [u8]) -> io::Result<()>,
    ) -> io::Result<Option<(TargetKey, Restored, Option<Last>)>> {
        let Some(partial) = self.segments.next() else { return Ok(None) };
        let mut restored = partial.empty();
        let mut starts = partial.starts.iter().peekable();
        for (done, place) in partial.rows.iter().enumerate() {
            let row = if place.file == MENDED {
                &*self.mended[place.offset as usize]
            } else {
                let file = self.files[place.file as usize];
                self.frame.resize(FRAME_HEAD_BYTES + place.bytes as usize, 0);
                read(file, place.offset, &mut self.frame)?;
                let (head, payload) = self.frame.split_first_chunk().expect("the head is part of it");
                let changed = || io::Error::other(format!("{file} has other bytes at {} than before", place.offset));
                if !verify_frame(file, place.offset, head, payload) {
                    return Err(changed());
                }
                match record::read(head[1], payload) {
                    Ok(Record::Row { row, .. }) => row,
                    _ => return Err(changed()),
                }
            };
            while let Some((_, runs)) = starts.next_if(|(row, _)| *row as usize == done) {
                // What does not fit is left out: samples count without it.
                match &mut restored {
                    Restored::Floats(segment) => segment.restore_starts((done, place.at.0), runs),
                    Restored::Histograms(segment) => segment.restore_starts((done, place.at.0), runs),
                };
            }
            let fits = match &mut restored {
                Restored::Floats(segment) => segment.restore_row(place.at, row),
                Restored::Histograms(segment) => segment.restore_row(place.at, row),
            };
            if !fits {
                self.lost += (partial.rows.len() - done) as u64;
                break;
            }
        }
        Ok(Some((partial.key, restored, partial.last)))
    }
}

/// Finds the newest rows of each target, as far back as its segments have the same groups.
fn mark_last(segments: &mut [Partial]) {
    let mut of_targets: AHashMap<u64, Vec<usize>> = AHashMap::new();
    for (at, partial) in segments.iter().enumerate().filter(|(_, partial)| !partial.histograms) {
        of_targets.entry(partial.key.id).or_default().push(at);
    }
    for mut places in of_targets.into_values() {
        let Some(newest) = places.last().map(|at| &segments[*at]).filter(|newest| !newest.is_stamped()) else {
            continue;
        };
        let other = places.iter().rposition(|at| segments[*at].groups != newest.groups);
        places.drain(..other.map_or(0, |other| other + 1));
        let whole_since = segments[places[0]].rows[0].at;
        let mut left = ROWS_RECALLED;
        for at in places.into_iter().rev() {
            let rows = segments[at].rows.len().min(left);
            if rows == 0 {
                break;
            }
            segments[at].last = Some(Last { rows, whole_since });
            left -= rows;
        }
    }
}

impl Partial {
    fn is_stamped(&self) -> bool {
        self.groups.iter().any(|group| group.any_stamped())
    }

    /// Takes groups by their numbers: all of them or none.
    fn add(&mut self, groups: &[u32], known: &AHashMap<u32, Arc<SlotGroup>>) -> Result<(), &'static str> {
        let before = self.groups.len();
        for group in groups {
            let Some(group) = known.get(group) else {
                self.groups.truncate(before);
                return Err("an unknown group");
            };
            self.groups.push(group.clone());
        }
        Ok(())
    }

    /// The segment before its first row.
    fn empty(&self) -> Restored {
        if self.histograms {
            let mut segment = HistogramSegment::default();
            for group in &self.groups {
                segment.add(group.clone());
            }
            return Restored::Histograms(segment);
        }
        let mut segment = Segment::default();
        for group in &self.groups {
            segment.add(group.clone());
        }
        segment.restore_stamps(&self.stamps);
        Restored::Floats(segment)
    }

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
