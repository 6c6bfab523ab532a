//! What heads tell the log: segments, groups and rows by number, each defined in the file that uses it.

use crate::group::SlotGroup;
use crate::log::frame::FileId;
use crate::log::record::{self, LoggedExemplar};
use crate::log::writer::{FileToken, Writer};
use crate::starts::StartRun;
use ahash::AHashMap;
use series::{Labels, Timestamp};
use std::sync::{Arc, Weak};

/// Who a segment belongs to, on disk and across restarts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetKey {
    pub id: u64,
    /// Labels that the target puts on its samples.
    pub labels: Labels,
}

/// A segment's place in the log; keeps the file in which it began.
#[derive(Debug)]
pub struct SegmentMark {
    number: u32,
    epoch: u32,
    steps: u32,
    file: FileToken,
}

impl SegmentMark {
    /// The file in which the segment began.
    pub fn file(&self) -> FileId {
        *self.file
    }
}

/// Definitions that the groups' map may hold before it is swept.
const GROUPS_SWEPT_MIN: usize = 1024;

/// One core's log, as its heads see it.
pub struct Journal {
    writer: Option<Writer>,
    now_ms: u64,
    segments: u32,
    numbers: u32,
    /// By address: number of each group, the file that has its definition, and what keeps the address from being used
    /// again.
    groups: AHashMap<usize, (u32, u32, Weak<SlotGroup>)>,
    groups_swept: usize,
    payload: Vec<u8>,
}

impl Journal {
    pub fn new(writer: Writer) -> Journal {
        Journal { writer: Some(writer), ..Journal::off() }
    }

    /// A log that keeps nothing, for heads that live in memory alone.
    pub fn off() -> Journal {
        Journal {
            writer: None,
            now_ms: 0,
            segments: 0,
            numbers: 0,
            groups: AHashMap::new(),
            groups_swept: GROUPS_SWEPT_MIN,
            payload: Vec::new(),
        }
    }

    /// The clock by which files grow old; monotonic.
    pub fn set_now(&mut self, now_ms: u64) {
        self.now_ms = now_ms;
        if let Some(writer) = &mut self.writer {
            writer.tick(now_ms);
        }
    }

    pub fn writer(&self) -> Option<&Writer> {
        self.writer.as_ref()
    }

    pub fn writer_mut(&mut self) -> Option<&mut Writer> {
        self.writer.as_mut()
    }

    /// Position up to which readers may look.
    pub fn visible(&self) -> u64 {
        self.writer.as_ref().map_or(u64::MAX, Writer::visible)
    }

    /// Whether a segment can go on: what it builds on was not given up.
    pub fn continues(&self, mark: &SegmentMark) -> bool {
        self.writer.as_ref().is_none_or(|writer| writer.epoch() == mark.epoch)
    }

    /// Begins a segment with these groups; `stamps` are those that slots bring along.
    pub fn begin<'a>(
        &mut self,
        key: &TargetKey,
        groups: impl Iterator<Item = &'a Arc<SlotGroup>>,
        stamps: &[(u32, i64)],
    ) -> SegmentMark {
        self.begin_with(key, groups, |number, groups, out| record::begin(number, number, groups, stamps, out))
    }

    /// Begins a segment whose rows hold histograms.
    pub fn begin_histograms<'a>(
        &mut self,
        key: &TargetKey,
        groups: impl Iterator<Item = &'a Arc<SlotGroup>>,
    ) -> SegmentMark {
        self.begin_with(key, groups, |number, groups, out| record::begin_histograms(number, number, groups, out))
    }

    fn begin_with<'a>(
        &mut self,
        key: &TargetKey,
        groups: impl Iterator<Item = &'a Arc<SlotGroup>>,
        begin: impl FnOnce(u32, &[u32], &mut Vec<u8>) -> u8,
    ) -> SegmentMark {
        self.segments = self.segments.wrapping_add(1);
        let number = self.segments;
        let file = match &mut self.writer {
            Some(writer) => writer.begin_segment(self.now_ms),
            None => {
                let none = FileId { boot: 0, writer: 0, sequence: 0 };
                return SegmentMark { number, epoch: 0, steps: 0, file: Arc::new(none) };
            }
        };
        // A target is defined with each of its segments: its labels are short, and a number of its own costs a map.
        self.append(|out| record::target(number, key.id, &key.labels, out));
        let groups = self.define(groups, file.sequence);
        self.append(|out| begin(number, &groups, out));
        let epoch = self.writer.as_ref().map_or(0, Writer::epoch);
        SegmentMark { number, epoch, steps: 0, file }
    }

    /// Numbers of groups, each defined in the file.
    fn define<'a>(&mut self, groups: impl Iterator<Item = &'a Arc<SlotGroup>>, sequence: u32) -> Vec<u32> {
        groups
            .map(|group| {
                let known = self.groups.get(&Arc::as_ptr(group).addr()).map(|(number, file, _)| (*number, *file));
                let number = known.map_or_else(
                    || {
                        self.numbers = self.numbers.wrapping_add(1);
                        self.numbers
                    },
                    |(number, _)| number,
                );
                if known.is_none_or(|(_, file)| file != sequence) {
                    self.append(|out| record::group(number, group, out));
                    self.groups.insert(Arc::as_ptr(group).addr(), (number, sequence, Arc::downgrade(group)));
                    if self.groups.len() > self.groups_swept {
                        self.groups.retain(|_, (_, _, group)| group.strong_count() > 0);
                        self.groups_swept = GROUPS_SWEPT_MIN.max(self.groups.len() * 2);
                    }
                }
                number
            })
            .collect()
    }

    /// More groups for a segment.
    pub fn place<'a>(&mut self, mark: &mut SegmentMark, groups: impl Iterator<Item = &'a Arc<SlotGroup>>) {
        let Some(writer) = &mut self.writer else { return };
        let sequence = writer.file(self.now_ms).sequence;
        let groups = self.define(groups, sequence);
        mark.steps += 1;
        let (number, step) = (mark.number, mark.steps);
        self.append(|out| record::place(number, step, &groups, out));
    }

    /// Start times that slots have from the next row on.
    pub(crate) fn starts(&mut self, mark: &SegmentMark, runs: &[StartRun]) {
        if self.writer.is_none() || runs.is_empty() {
            return;
        }
        let (number, step) = (mark.number, mark.steps + 1);
        self.append(|out| record::starts(number, step, runs, out));
    }

    /// A row of a segment; readable once the log is visible up to the position returned.
    pub fn row(&mut self, mark: &mut SegmentMark, at: Timestamp, row: &[u8]) -> u64 {
        if self.writer.is_none() {
            return 0;
        }
        mark.steps += 1;
        let (number, step) = (mark.number, mark.steps);
        self.append(|out| record::row(number, step, at, row, out))
    }

    /// Exemplars of a source's series, before the row of their samples; or copies of such. Gives the file that has them,
    /// for whoever needs it to stay.
    pub fn exemplars(&mut self, key: &TargetKey, is_copy: bool, mut exemplars: &[LoggedExemplar]) -> Option<FileToken> {
        let file = self.writer.as_mut()?.file(self.now_ms).clone();
        while !exemplars.is_empty() {
            let mut count = 0;
            self.append(|out| {
                let (kind, written) = record::exemplars((key.id, &key.labels, is_copy), exemplars, out);
                count = written;
                kind
            });
            exemplars = &exemplars[count..];
        }
        Some(file)
    }

    fn append(&mut self, write: impl FnOnce(&mut Vec<u8>) -> u8) -> u64 {
        self.payload.clear();
        let kind = write(&mut self.payload);
        self.writer.as_mut().map_or(0, |writer| writer.append(kind, &self.payload))
    }
}
