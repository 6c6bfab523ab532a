//! Who the heads of a core belong to: targets, and sources of pushed series.

use series::Labels;
use series::Timestamp;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use tsdb::label_index::{Coverage, OwnerId};
use tsdb::log::TargetKey;
use tsdb::{HistogramHead, SegmentLimits, TargetHead};
use xxhash_rust::xxh64::xxh64;

/// Histograms that wait in memory for others are put into chunks after so long.
const HISTOGRAMS_IDLE_MS: i64 = 600_000;

/// The owner of a head.
pub struct HeadOwner {
    pub id: u64,
    /// Labels of all its series.
    pub labels: Labels,
    pub head: RefCell<TargetHead>,
    /// Histograms of the same series.
    pub histograms: Option<Rc<HistogramOwner>>,
    /// Whether the rows are those of scrapes that go on: a target, and it is still there.
    is_scraped: Cell<bool>,
    pub index: IndexEntry,
}

impl HeadOwner {
    /// Of a target.
    pub fn of_target(id: u64, labels: Labels, head: TargetHead) -> HeadOwner {
        let (head, index) = (RefCell::new(head), IndexEntry::default());
        HeadOwner { id, labels, head, histograms: None, is_scraped: Cell::new(true), index }
    }

    /// Of pushed series.
    pub fn of_pushed(id: u64, labels: Labels, head: TargetHead, histograms: Rc<HistogramOwner>) -> HeadOwner {
        let (head, index) = (RefCell::new(head), IndexEntry::default());
        HeadOwner { id, labels, head, histograms: Some(histograms), is_scraped: Cell::new(false), index }
    }

    pub fn is_scraped(&self) -> bool {
        self.is_scraped.get()
    }

    /// No more rows come.
    pub fn set_ended(&self) {
        self.is_scraped.set(false);
    }
}

/// The owner of histograms.
pub struct HistogramOwner {
    /// Labels of all series.
    pub labels: Labels,
    pub head: RefCell<HistogramHead>,
    /// When the last row came.
    seen_ms: Cell<i64>,
    pub index: IndexEntry,
}

impl HistogramOwner {
    pub fn new(id: u64, labels: Labels, limits: SegmentLimits) -> HistogramOwner {
        let key = TargetKey { id: xxh64(b"histograms", id), labels: labels.clone() };
        let (head, index) = (RefCell::new(HistogramHead::new(key, limits)), IndexEntry::default());
        HistogramOwner { labels, head, seen_ms: Cell::new(0), index }
    }

    pub fn note_row(&self, now_ms: i64) {
        self.seen_ms.set(now_ms);
    }

    /// Whether nothing has come for so long that what is here is put into chunks.
    pub fn is_idle(&self, now_ms: i64) -> bool {
        self.seen_ms.get() < now_ms.saturating_sub(HISTOGRAMS_IDLE_MS)
    }
}

/// A head in the label index of its core.
#[derive(Clone)]
pub enum IndexedHead {
    Floats(Rc<HeadOwner>),
    Histograms(Rc<HistogramOwner>),
}

/// What a head knows about its place in the index.
#[derive(Default)]
pub struct IndexEntry {
    pub owner: Cell<Option<OwnerId>>,
    /// Of the rows whose groups the index has.
    pub version: Cell<Option<(u64, usize)>>,
    /// Whether the head is on the list of those that have to be brought up to date.
    pub is_listed: Cell<bool>,
    /// The head is gone for good and must not come back.
    pub is_removed: Cell<bool>,
}

impl IndexEntry {
    /// Whether the index has the groups of these rows.
    pub fn is_current(&self, version: (u64, usize)) -> bool {
        self.version.get() == Some(version)
    }
}

impl IndexedHead {
    pub fn entry(&self) -> &IndexEntry {
        match self {
            IndexedHead::Floats(holder) => &holder.index,
            IndexedHead::Histograms(holder) => &holder.index,
        }
    }

    /// Which of its groups have rows in a range of time.
    pub fn coverage(&self, from: Timestamp, to: Timestamp, visible: u64) -> Coverage {
        match self {
            IndexedHead::Floats(holder) => holder.head.borrow().coverage(from, to, visible),
            IndexedHead::Histograms(holder) => holder.head.borrow().coverage(from, to, visible),
        }
    }
}
