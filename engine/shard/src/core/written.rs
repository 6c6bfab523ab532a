//! Samples that no scrape brings: taken, acknowledged, and their histograms kept up.

use super::upkeep::HeadSums;
use super::{Core, wall_ms};
use crate::head_owner::{HistogramOwner, IndexedHead};
use crate::status::CoreStats;
use crate::time_slice::CoreTask;
use crate::written::{
    EndedOwners, Head, PushStore, ReceiveOutcome, ReceiveRequest, Receiving, Refusal, WriteError, WriteOutcome,
    WriteRowsRequest,
};
use std::rc::Rc;
use tokio::sync::oneshot;
use tsdb::AppendScratch;
use tsdb::log::{Journal, Writer};

impl Core {
    /// Writes a rule group's row.
    pub(super) fn write_rows(
        &self,
        request: &WriteRowsRequest,
        reply: oneshot::Sender<Result<WriteOutcome, WriteError>>,
    ) {
        self.take(reply, |written, journal, scratch, stats| {
            let outcome = written.rows(request, wall_ms(), journal, scratch, |head| self.hand_over_of(head));
            stats.samples_appended += outcome.samples;
            stats.out_of_order += outcome.out_of_order;
            outcome
        });
    }

    /// Takes what somebody writes to us, a piece at a time. Others, also other writers, get their turn in between.
    pub(super) async fn receive(
        self: Rc<Self>,
        request: ReceiveRequest,
        reply: oneshot::Sender<Result<ReceiveOutcome, WriteError>>,
    ) {
        // What is refused comes again: keeping it as well would fill memory for as long as the disk fails.
        let failing = self.journal.borrow().writer().and_then(|writer| writer.failing().map(str::to_owned));
        if let Some(error) = failing {
            drop(reply.send(Err(WriteError::Log(error))));
            return;
        }
        let slice = self.slice(CoreTask::Push);
        let mut receiving = Receiving::new(request);
        while !self.stopping.get() {
            let more = {
                let mut journal = self.journal.borrow_mut();
                let scratch = &mut self.append.borrow_mut().0;
                let mut written = self.written.borrow_mut();
                let appended = |head: Head| self.hand_over_of(head);
                written.receive(&mut receiving, wall_ms(), &mut journal, scratch, appended)
            };
            if !more {
                break;
            }
            slice.step().await;
        }
        self.take(reply, |_, _, _, stats| {
            let outcome = receiving.outcome;
            stats.samples_appended += outcome.samples + outcome.histograms;
            stats.histograms_appended += outcome.histograms;
            stats.late += outcome.late;
            stats.out_of_order += outcome.count(Refusal::OutOfOrder) + outcome.count(Refusal::TooOld);
            stats.out_of_bounds += outcome.count(Refusal::OutOfBounds);
            stats.duplicate_timestamp += outcome.count(Refusal::Duplicate);
            outcome
        });
    }

    /// Has samples put away by `put`; who brought them is answered once the log has them.
    fn take<T: 'static>(
        &self,
        reply: oneshot::Sender<Result<T, WriteError>>,
        put: impl FnOnce(&mut PushStore, &mut Journal, &mut AppendScratch, &mut CoreStats) -> T,
    ) {
        if self.stopping.get() {
            drop(reply.send(Err(WriteError::Stopping)));
            return;
        }
        let mut journal = self.journal.borrow_mut();
        let scratch = &mut self.append.borrow_mut().0;
        let outcome = put(&mut self.written.borrow_mut(), &mut journal, scratch, &mut self.stats.borrow_mut());
        let position = journal.writer().map_or(0, Writer::appended);
        let answer = Box::new(move |kept: Result<(), WriteError>| drop(reply.send(kept.map(|()| outcome))));
        self.acknowledgements.borrow_mut().wait(position, answer);
        drop(journal);
        if self.log_folder.is_none() {
            self.acknowledge();
        }
    }

    /// Answers the writers whose samples the log has; while it cannot be written, all of them.
    pub(super) fn acknowledge(&self) {
        let journal = self.journal.borrow();
        let failing = journal.writer().and_then(Writer::failing).map(str::to_owned);
        let visible = journal.visible();
        drop(journal);
        self.acknowledgements.borrow_mut().answer(visible, failing.as_deref());
    }

    pub(super) fn hand_over_of(&self, head: Head) {
        match head {
            Head::Floats(holder, head) => {
                self.hand_over(head);
                self.note_rows(holder, head);
            }
            Head::Histograms(holder, head) => {
                if let Some(queue) = &self.flush_queue {
                    head.take_closed(|closed| queue.flush(closed));
                }
                self.note_histograms(holder, head);
            }
        }
    }

    /// Who has histograms, the ended ones too.
    pub(super) fn histogram_holders(&self) -> Vec<Rc<HistogramOwner>> {
        let ended = self.ended_histograms.borrow();
        self.written.borrow().histogram_holders().chain(ended.iter().cloned()).collect()
    }

    /// Gives what waits in heads of histograms to the thread that puts it into chunks.
    pub(super) fn close_histograms(&self, which: impl Fn(&HistogramOwner) -> bool) {
        for holder in self.histogram_holders().into_iter().filter(|holder| which(holder)) {
            let mut head = holder.head.borrow_mut();
            head.close();
            self.hand_over_of(Head::Histograms(&holder, &mut head));
        }
    }

    /// Closes what nobody adds to and drops what is in chunks; gives how many series and bytes there are.
    pub(super) fn keep_up_histograms(&self) -> HeadSums {
        let now_ms = wall_ms();
        self.close_histograms(|holder| holder.is_idle(now_ms));
        let mut sums = HeadSums::default();
        for holder in self.histogram_holders() {
            let mut head = holder.head.borrow_mut();
            if let Some(queue) = &self.flush_queue {
                head.take_all_closed(|closed| queue.flush(closed));
            }
            head.drop_flushed();
            self.note_histograms(&holder, &head);
            sums.series += head.series() as u64;
            sums.slots += head.series() as u64;
            sums.added += head.take_added();
            sums.bytes += head.heap_bytes() as u64;
        }
        self.ended_histograms.borrow_mut().retain(|ended| {
            let mut head = ended.head.borrow_mut();
            sums.added += head.take_added();
            let stays = head.drop_flushed();
            drop(head);
            if !stays {
                self.label_index.remove(&IndexedHead::Histograms(ended.clone()));
            }
            stays
        });
        sums
    }

    /// No more rows come to these.
    pub(super) fn end_holders(&self, gone: EndedOwners) {
        for holder in gone.histograms {
            let mut head = holder.head.borrow_mut();
            head.close();
            self.hand_over_of(Head::Histograms(&holder, &mut head));
            drop(head);
            self.ended_histograms.borrow_mut().push(holder);
        }
        for holder in gone.holders {
            let mut head = holder.head.borrow_mut();
            head.close_all();
            self.hand_over(&mut head);
            self.note_rows(&holder, &head);
            drop(head);
            self.ended.borrow_mut().push(holder);
        }
    }
}
