//! One core's samples: slots, rows, the head, its log, and the chunks that rows become.
//!
//! A target's series are *slots*, kept in groups that targets share; a scrape is one *row* over all slots. Knows no
//! formats of exposition and no runtime: times, values and the outcomes of writes are handed in.

mod agent_store;
mod bits;
mod block_keeper;
mod bytes;
mod chunks;
mod crash_history;
mod data_dir;
mod deletions;
mod encoded;
mod faults;
mod file_names;
mod group;
mod head;
mod histograms;
pub mod label_index;
pub mod log;
mod log_keeper;
pub mod log_reader;
mod matching;
mod os;
mod read;
mod row;
mod safe_mode;
mod series_part;
#[cfg(test)]
mod simulation;
mod starts;
mod store;

pub use agent_store::{AgentOptions, AgentStore};
pub use block_keeper::{BlockOverview, RetentionOverview, new_ulid};
pub use chunks::{ChunkFile, ChunkStore, Corruption, FlushQueue, Flushable, encode_segment};
pub use data_dir::OpenError;
pub use encoded::{EncodedPart, EncodedSegment};
pub use group::{GroupBuilder, SlotGroup};
pub use head::{
    AppendScratch, Appended, Change, Closed, Elsewhere, LastRows, NotedStarts, Recalled, RowRejected, Rows, SameGroups,
    Segment, SegmentLimits, SparseSample, TargetHead, within_bounds,
};
pub use histograms::{HistogramHead, HistogramSample, HistogramSegment, Timed, in_order};
pub use log_keeper::{OldExemplars, ReplayState};
pub use matching::{Matching, slots_matching};
pub use os::lower_priority;
pub use row::{Direction, RowError, Slots, walk as walk_row};
pub use safe_mode::SafeMode;
pub use series_part::SeriesPart;
pub use starts::StartRun;
pub use store::{Store, StoreOptions, StoreStats};
