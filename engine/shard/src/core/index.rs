//! The label index of a core: kept up as heads get rows of other groups, and searched by everything that selects.
//!
//! A head whose groups may be others than the index has is put on a list at once, and brought up to date before the next
//! search, or by maintenance.
//!
//! Invariants:
//!   * whatever has rows in memory is in the index or on the list; in agent mode nothing has, and nothing is selected
//!   * a search pins the index, so that it may let others run in between

use super::Core;
use crate::head_owner::{HeadOwner, HistogramOwner, IndexedHead};
use crate::select::CandidateGroups;
use crate::time_slice::{CoreTask, SLICE_MAX, TimeSlice};
use ahash::AHashSet;
use series::{Labels, Matcher};
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use tsdb::label_index::{LabelIndex, MatchedGroup, OwnerSet, Search};

/// The index and what has to be brought up to date in it.
#[derive(Default)]
pub(super) struct CoreIndex {
    pub labels: RefCell<LabelIndex<IndexedHead>>,
    stale: RefCell<Vec<IndexedHead>>,
}

/// Keeps numbers of the index from being used again while it lives.
pub(super) struct IndexPin<'a>(&'a CoreIndex);

impl Drop for IndexPin<'_> {
    fn drop(&mut self) {
        self.0.labels.borrow_mut().unpin();
    }
}

/// What a select has to read: heads with matching series, and the groups that have matching slots.
#[derive(Default)]
pub(super) struct Candidates {
    pub heads: Vec<IndexedHead>,
    pub groups: CandidateGroups,
}

impl CoreIndex {
    /// Lists a head if the index may not have its groups.
    pub fn note(&self, head: IndexedHead, version: (u64, usize)) {
        let entry = head.entry();
        if !entry.is_current(version) && !entry.is_removed.get() && !entry.is_listed.replace(true) {
            self.stale.borrow_mut().push(head);
        }
    }

    /// Takes a head out that has no rows any more and gets none.
    pub fn remove(&self, head: &IndexedHead) {
        head.entry().is_removed.set(true);
        if let Some(owner) = head.entry().owner.take() {
            self.labels.borrow_mut().remove(owner);
        }
    }

    fn update(&self, head: IndexedHead) {
        let entry = head.entry();
        entry.is_listed.set(false);
        if entry.is_removed.get() {
            return;
        }
        let mut labels = self.labels.borrow_mut();
        let mut owner_of = |labels_of_head: &Labels| {
            let owner = entry.owner.get().unwrap_or_else(|| labels.add(labels_of_head.clone(), head.clone()));
            entry.owner.set(Some(owner));
            owner
        };
        match &head {
            IndexedHead::Floats(holder) => {
                let (owner, rows) = (owner_of(&holder.labels), holder.head.borrow());
                entry.version.set(Some(rows.rows_version()));
                labels.set_groups(owner, rows.groups_with_rows());
            }
            IndexedHead::Histograms(holder) => {
                let (owner, rows) = (owner_of(&holder.labels), holder.head.borrow());
                entry.version.set(Some(rows.rows_version()));
                labels.set_groups(owner, rows.groups_with_rows());
            }
        }
    }

    /// Brings everything up to date that is listed now.
    pub async fn bring_up_to_date(&self, slice: &TimeSlice<'_>) {
        // Those that are listed meanwhile are for the next time: the list need not ever be empty.
        let listed = self.stale.borrow().len();
        for _ in 0..listed {
            let Some(head) = self.stale.borrow_mut().pop() else { return };
            self.update(head);
            slice.step().await;
        }
    }

    pub fn pin(&self) -> IndexPin<'_> {
        self.labels.borrow_mut().pin();
        IndexPin(self)
    }

    /// Finds the groups and owners that satisfy one of the selectors; `found` is called between steps. False if nobody
    /// wants the answer any more.
    pub async fn search(
        &self,
        selectors: impl Iterator<Item = &[Matcher]>,
        slice: &TimeSlice<'_>,
        gone: &impl Fn() -> bool,
        mut found: impl AsyncFnMut(MatchedGroup),
    ) -> bool {
        let mut matched = Vec::new();
        for matchers in selectors {
            let mut search = Search::new(matchers);
            while search.step(&self.labels.borrow(), &mut |one| matched.push(one)) {
                if slice.step().await && gone() {
                    return false;
                }
                for one in matched.drain(..) {
                    found(one).await;
                }
            }
        }
        true
    }
}

impl Core {
    /// Tells the index of a head that got rows.
    pub(super) fn note_rows(&self, holder: &Rc<HeadOwner>, head: &tsdb::TargetHead) {
        if self.limits.log_only {
            return;
        }
        let version = head.rows_version();
        if !holder.index.is_current(version) {
            self.label_index.note(IndexedHead::Floats(holder.clone()), version);
        }
    }

    /// Tells it of a head of histograms.
    pub(super) fn note_histograms(&self, holder: &Rc<HistogramOwner>, head: &tsdb::HistogramHead) {
        if self.limits.log_only {
            return;
        }
        let version = head.rows_version();
        if !holder.index.is_current(version) {
            self.label_index.note(IndexedHead::Histograms(holder.clone()), version);
        }
    }

    /// Finds the heads that have matching series. None if nobody wants the answer any more.
    pub(super) async fn candidates(
        &self,
        selectors: impl Iterator<Item = &[Matcher]>,
        slice: &TimeSlice<'_>,
        gone: &impl Fn() -> bool,
    ) -> Option<Candidates> {
        self.label_index.bring_up_to_date(slice).await;
        let _pin = self.label_index.pin();
        let (mut owners, mut groups) = (OwnerSet::new(), AHashSet::new());
        let each = async |matched: MatchedGroup| {
            groups.insert(Arc::as_ptr(&matched.group).addr());
            owners |= matched.owners;
        };
        if !self.label_index.search(selectors, slice, gone, each).await {
            return None;
        }
        let labels = self.label_index.labels.borrow();
        let heads = owners.iter().filter_map(|id| labels.owner(id)).map(|owner| owner.payload.clone()).collect();
        Some(Candidates { heads, groups: CandidateGroups(groups) })
    }

    /// The time of a task that begins now.
    pub(super) fn slice(&self, task: CoreTask) -> TimeSlice<'_> {
        TimeSlice::begin(&self.task_times, task, SLICE_MAX)
    }
}
