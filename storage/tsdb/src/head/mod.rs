//! One target's samples that are not in chunks yet, and its newest rows: newest values, and rows that lead back from them.
//!
//! `segment` has rows over a space of slots, `turn` begins and ends segments, `append` makes rows of scrapes and
//! `sparse` of samples that no scrape brings, `select` and `newest` read, `recall` takes over from the last run.
//!
//! Invariants:
//!   * rows are in order of time; a row at or before the newest one is refused
//!   * a segment begins with all slots stale, so its rows can be read from its beginning as well as from its end
//!   * a segment lies in one range of time, so that a block is made of whole segments
//!   * live groups have no two unstamped slots with the same labels; the caller saw to that
//!   * history is read backwards from the newest values, so dropping the oldest rows is forgetting their bytes
//!   * a series that moves to a slot of another group leaves a marker there at the time of its first sample here; a
//!     reader of the series takes the sample

mod append;
mod labels;
mod newest;
mod recall;
mod segment;
mod select;
mod sparse;
#[cfg(test)]
mod tests;
mod turn;

pub use append::AppendScratch;
pub(crate) use recall::ROWS_RECALLED;
pub use recall::{LastRows, Recalled, SameGroups};
pub use segment::{Closed, Segment};
pub use select::Rows;
pub use sparse::SparseSample;

use crate::group::SlotGroup;
use crate::log::TargetKey;
use ahash::{AHashMap, AHashSet, RandomState};
use series::{StartTimes, Timestamp};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

/// A sample may be ahead of its scrape by this much, as in Prometheus.
const AHEAD_MS_MAX: i64 = 10 * 60 * 1000;
/// The first sample of a stamped slot may be behind its scrape by this much.
const BEHIND_MS_MAX: i64 = 60 * 60 * 1000;
/// A segment with fewer dead slots than this is never worth a new one.
const DEAD_SLOTS_MIN: usize = 256;
/// So many of a target's newest rows stay in memory though they are in chunks: rates over the last minutes take a row for
/// what they would otherwise look up series by series.
const ROWS_IN_MEMORY: usize = 30;
/// The longest segment where the log alone is read. What is lost of a log costs what follows up to the next segment.
const LOG_ONLY_AGE_MS_MAX: i64 = 15 * 60 * 1000;
/// No sample yet.
pub(crate) const NO_STAMP: i64 = i64::MIN;

/// Whether a timestamp of its own is near enough to its scrape to begin a series.
pub fn within_bounds(scrape: Timestamp, stamp: i64) -> bool {
    stamp <= scrape.0.saturating_add(AHEAD_MS_MAX) && stamp >= scrape.0.saturating_sub(BEHIND_MS_MAX)
}

/// A row that cannot be appended: its time is not after the newest row's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("row at {} ms is not after the newest one at {} ms", .at.0, .newest.0)]
pub struct RowRejected {
    pub at: Timestamp,
    pub newest: Timestamp,
}

/// What became of the samples of a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Appended {
    pub samples: u64,
    /// Samples with own timestamps that were not taken: older than the slot's last one.
    pub out_of_order: u64,
    /// Those that were, within the window for late samples.
    pub late: u64,
    /// Same timestamp as the slot's last one, another value.
    pub duplicate: u64,
    /// Too far ahead or too old.
    pub out_of_bounds: u64,
}

/// How the series of a target changed with its groups.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Series that were not there before.
    pub added: u64,
}

/// When a segment is closed.
#[derive(Clone, Copy, Debug)]
pub struct SegmentLimits {
    /// Rows of a segment, and with it samples of a chunk.
    pub rows_max: usize,
    /// Length of a block: no segment lies in two.
    pub range_ms: i64,
    /// How far before its scrape a sample may be that is older than its slot's last one; 0 refuses all.
    pub late_ms: i64,
    /// Rows are dropped once the log has them, and closed segments with them: the log alone is read (agent mode). A segment
    /// then ends after `LOG_ONLY_AGE_MS_MAX` as well.
    pub log_only: bool,
}

impl Default for SegmentLimits {
    fn default() -> SegmentLimits {
        SegmentLimits { rows_max: 120, range_ms: 2 * 3600 * 1000, late_ms: 0, log_only: false }
    }
}

/// One target's samples.
#[derive(Debug)]
pub struct TargetHead {
    key: Arc<TargetKey>,
    limits: SegmentLimits,
    /// Rows after which the open segment is closed.
    rows_max: usize,
    /// The same for one that begins together with those of other targets: from half as many to half as many again, so that
    /// they are not closed together, and what is in memory is about the same at all times.
    rows_max_staggered: usize,
    /// Closed segments, oldest first, until they are in chunks; of some of those the last rows.
    closed: VecDeque<Arc<Closed>>,
    /// How many of the last of them nobody has taken yet.
    closed_not_taken: usize,
    /// A segment whose vanished series end with the next row.
    owing: Option<Segment>,
    open: Segment,
    /// Samples that came late, in rows of their own: stamps there go forth and back.
    late: Segment,
    newest: Option<Timestamp>,
    /// Groups that there were at the first row, if that was a scrape's: no series came later.
    groups_at_first: usize,
    /// The newest values tell everything about the time after this.
    whole_since: Option<Timestamp>,
    /// The newest sample that may be in chunks and no more in memory.
    sealed_until: Option<Timestamp>,
    /// Another number whenever groups or their places change.
    layout: u64,
    /// Series that came since [`TargetHead::take_added`].
    added: u64,
    /// Start times for the row that comes.
    noted_starts: Option<NotedStarts>,
}

/// Where samples of the time that is asked about may be, beside the heads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Elsewhere {
    /// Nowhere: whatever there is, is in memory.
    Nothing,
    /// In chunk files, whose parts are told apart by target: a head that has everything is answer enough.
    Chunks,
    /// In blocks, which know no targets: they repeat what a head has, and have what a head leaves out.
    Blocks,
}

/// Start times of slots from the next row on.
#[derive(Clone, Debug, Default)]
pub struct NotedStarts {
    /// Which of the live groups in their order, the slot, and its start time.
    pub slots: Vec<(u32, u32, i64)>,
    /// Whether all other slots have none.
    pub is_whole: bool,
}

impl TargetHead {
    /// An empty head. `stagger` is any number that differs between targets.
    pub fn new(key: TargetKey, limits: SegmentLimits, stagger: u64) -> TargetHead {
        let more = (stagger % limits.rows_max.max(1) as u64) as usize;
        let rows_max_staggered = (limits.rows_max / 2 + more).max(1);
        TargetHead {
            key: Arc::new(key),
            limits,
            rows_max: rows_max_staggered,
            rows_max_staggered,
            closed: VecDeque::new(),
            closed_not_taken: 0,
            owing: None,
            open: Segment::new(limits.log_only),
            late: Segment::new(limits.log_only),
            newest: None,
            groups_at_first: 0,
            whole_since: None,
            sealed_until: None,
            layout: 0,
            added: 0,
            noted_starts: None,
        }
    }

    /// Says when what slots count began, as the row that comes next has it.
    pub fn note_starts(&mut self, starts: NotedStarts) {
        self.noted_starts = Some(starts);
    }

    /// What a head without rows cannot know: from then on no sample of its series is anywhere but here.
    pub fn nothing_elsewhere_since(&mut self, since: Timestamp) {
        assert!(self.newest.is_none(), "rows came before");
        self.whole_since = Some(since);
    }

    /// Time of the newest row.
    pub fn newest_at(&self) -> Option<Timestamp> {
        self.newest
    }

    /// Times of the oldest and the newest row that is not in chunks.
    pub fn bounds(&self) -> Option<(Timestamp, Timestamp)> {
        let oldest = self.segments().find_map(Segment::range)?.0;
        Some((oldest, self.newest?))
    }

    /// The live groups, in the order in which [`TargetHead::append`] takes values.
    pub fn groups(&self) -> impl Iterator<Item = &Arc<SlotGroup>> {
        self.open.live().map(|placed| &placed.group)
    }

    /// The groups of all samples that are not in chunks; one may come more than once.
    pub fn groups_in_memory(&self) -> impl Iterator<Item = &Arc<SlotGroup>> {
        self.segments().flat_map(|segment| &segment.placed).map(|placed| &placed.group)
    }

    /// How many slots take values.
    pub fn live_slots(&self) -> usize {
        self.open.live().map(|placed| placed.group.len()).sum()
    }

    /// How many series are there now: live slots that are not stale.
    pub fn live_series(&self) -> usize {
        let stale: usize = self.open.slots.stale.0.iter().map(|word| word.count_ones() as usize).sum();
        self.open.slots.values.len() - stale
    }

    /// From now on these groups take values, in this order. A group that was there keeps its slots and their history;
    /// slots of groups that are gone end with the next row.
    pub fn replace(&mut self, groups: &[Arc<SlotGroup>]) -> Change {
        let address = |group: &Arc<SlotGroup>| Arc::as_ptr(group);
        let mut places: AHashMap<*const SlotGroup, usize> =
            self.open.order.iter().map(|place| (address(&self.open.placed[*place].group), *place)).collect();
        let after: AHashSet<*const SlotGroup> = groups.iter().map(address).collect();
        let new: AHashSet<*const SlotGroup> = after.iter().copied().filter(|at| !places.contains_key(at)).collect();
        let is_new = |group: &&Arc<SlotGroup>| new.contains(&address(group));
        let gone = || self.groups().filter(|group| !after.contains(&address(group)));
        let mut added: u64 = groups.iter().filter(is_new).map(|group| group.len() as u64).sum();
        if added > 0 && gone().next().is_some() {
            // Series that were in a group that goes are not new.
            let hasher = RandomState::new();
            let hashes = |group: &Arc<SlotGroup>| {
                (0..group.len()).map(|slot| group.slot_hash(slot, &hasher)).collect::<Vec<u64>>()
            };
            let known: AHashSet<u64> = gone().flat_map(hashes).collect();
            added -= groups.iter().filter(is_new).flat_map(hashes).filter(|hash| known.contains(hash)).count() as u64;
        }

        // A dead group that comes back takes its old slots again.
        if !new.is_empty() {
            let dead = self.open.placed.iter().enumerate().filter(|(_, placed)| is_new(&&placed.group));
            places.extend(dead.map(|(at, placed)| (address(&placed.group), at)));
        }
        let place = |group| places.remove(&address(group)).unwrap_or_else(|| self.open.add(Arc::clone(group)));
        let places = groups.iter().map(place).collect();
        self.layout += 1;
        self.open.order = places;
        self.open.settle();
        self.open.note_dead();
        if self.open.dead_slots() > self.live_slots().max(DEAD_SLOTS_MIN) {
            self.start_segment();
        }
        self.added += added;
        Change { added }
    }

    /// How many series came since the last time that this was asked.
    pub fn take_added(&mut self) -> u64 {
        std::mem::take(&mut self.added)
    }

    /// Those that are not in chunks.
    fn segments(&self) -> impl Iterator<Item = &Segment> {
        let closed = self.closed.iter().filter(|closed| !closed.is_flushed()).map(|closed| &closed.segment);
        closed.chain(&self.owing).chain([&self.open, &self.late])
    }

    /// Start times of matching slots in what is not in chunks, segment by segment, with the times of the samples from which on
    /// slots have them. Late samples have none.
    pub fn starts(
        &self,
        mut matching: impl FnMut(&Arc<SlotGroup>) -> Rc<[u32]>,
        mut found: impl FnMut(&Arc<SlotGroup>, u32, StartTimes),
    ) {
        for segment in self.segments() {
            let Some((first, _)) = segment.range() else { continue };
            for placed in &segment.placed {
                let slots = matching(&placed.group);
                let wanted = slots.iter().map(|slot| placed.base as u32 + slot);
                for (slot, times) in segment.starts.times_of_slots(wanted, first.0) {
                    found(&placed.group, slot - placed.base as u32, times);
                }
            }
        }
    }

    /// Bytes on the heap, groups not counted.
    pub fn heap_bytes(&self) -> usize {
        let closed = self.closed.iter().map(|closed| &closed.segment);
        closed.chain(&self.owing).chain([&self.open, &self.late]).map(Segment::heap_bytes).sum()
    }
}
