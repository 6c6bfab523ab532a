//! One core's samples: slots, rows, the head, and selects over them.
//!
//! A target's series are *slots*, kept in groups that targets share; a scrape is one *row* over all slots. Knows no
//! formats, no clock and no I/O: times and values are handed in.

mod bits;
mod group;
mod head;
mod row;

pub use group::{GroupBuilder, SlotGroup};
pub use head::{AppendScratch, Appended, Change, RowRejected, TargetHead, within_bounds};
pub use row::{Direction, RowError, Slots, walk as walk_row};
