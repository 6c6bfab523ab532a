//! How many series each target had, by what old logs say of segments; no row is read.

use crate::log::frame::{FileId, frames, mend};
use crate::log::record::{self, Record};
use ahash::AHashMap;

/// The files of one log, read in order.
#[derive(Default)]
pub struct Survey {
    /// Slots of the log's groups.
    groups: AHashMap<u32, u64>,
    targets: AHashMap<u32, u64>,
    /// Of each segment its target, and its slots so far.
    segments: AHashMap<u32, (u64, u64)>,
}

impl Survey {
    /// Reads a file's bytes; what makes no sense is left to the replay to tell.
    pub fn take(&mut self, file: FileId, mut bytes: Vec<u8>) {
        let damages = mend(file, &mut bytes);
        for frame in frames(file, &bytes, &damages) {
            let slots = |groups: &[u32]| groups.iter().filter_map(|group| self.groups.get(group)).sum::<u64>();
            match record::read(frame.kind, frame.payload) {
                // Sources of samples that no scrape brings have no job.
                Ok(Record::Target { target, id, labels }) if labels.get("job").is_some() => {
                    self.targets.insert(target, id);
                }
                Ok(Record::Group { group, slots }) => {
                    self.groups.insert(group, slots.len() as u64);
                }
                Ok(Record::Begin { segment, target, groups, .. }) => {
                    if let Some(id) = self.targets.get(&target) {
                        self.segments.insert(segment, (*id, slots(&groups)));
                    }
                }
                Ok(Record::Place { segment, groups, .. }) => {
                    let more = slots(&groups);
                    if let Some((_, slots)) = self.segments.get_mut(&segment) {
                        *slots += more;
                    }
                }
                _ => {}
            }
        }
    }

    /// The most series that each target had in one segment.
    pub fn finish(self, series: &mut AHashMap<u64, u64>) {
        for (id, slots) in self.segments.into_values() {
            let most = series.entry(id).or_default();
            *most = (*most).max(slots);
        }
    }
}
