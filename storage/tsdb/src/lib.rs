//! One core's samples: slots, rows, the head, its log, and the chunks that rows become.
//!
//! A target's series are *slots*, kept in groups that targets share; a scrape is one *row* over all slots. Knows no
//! formats of exposition and no runtime: times, values and the outcomes of writes are handed in.

mod archive;
mod bits;
mod bytes;
mod cut;
mod deletions;
mod group;
mod head;
mod histograms;
pub mod log;
mod matching;
mod row;
mod safe_mode;
mod seal;
mod starts;
mod store;

pub use archive::{Archive, ChunkFile, Finding, Piece, ToSeal};
pub use group::{GroupBuilder, SlotGroup};
pub use head::{
    AppendScratch, Appended, Change, Closed, Given, LastRows, Recalled, RowRejected, Rows, SameGroups, Segment,
    SegmentLimits, TargetHead, within_bounds,
};
pub use histograms::{GivenHistogram, HistogramHead, HistogramSegment, Timed, in_order};
pub use matching::{Matching, slots_matching};
pub use row::{Direction, RowError, Slots, walk as walk_row};
pub use safe_mode::SafeMode;
pub use seal::{Sealed, seal};
pub use store::{Job, OpenError, ReplayState, Store, StoreOptions, StoreStats};
