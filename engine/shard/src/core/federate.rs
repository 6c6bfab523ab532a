//! A core's part of a federation.

use super::Core;
use crate::federate::index::Index;
use crate::federate::lines::{Cursor, LineWriter, Source};
use crate::federate::{
    CLAIMS_PER_PIECE, Claim, ClaimState, FederateChannel, FederateCommand, FederateReply, FederateRequest,
    FederateSummary, LEFTOVERS_MAX, Lines, Owners, PIECE_BYTES,
};
use crate::head_owner::HeadOwner;
use crate::status::InstantSample;
use crate::time_slice::{CoreTask, TimeSlice};
use ahash::AHashSet;
use glommio::timer::Timer;
use series::Timestamp;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tsdb::Elsewhere;

/// How often and how long it waits for a row to become visible.
const SETTLE_EVERY: Duration = Duration::from_millis(5);
const SETTLE_TIMES_MAX: u32 = 200;
/// Slots claimed in one step.
const SLOTS_PER_STEP: u32 = 256;

/// Room for a piece, with its last line.
const LINES_BYTES: usize = PIECE_BYTES + 2048;

/// The other end has gone.
struct AskerLeft;

impl<T> From<flume::SendError<T>> for AskerLeft {
    fn from(_: flume::SendError<T>) -> AskerLeft {
        AskerLeft
    }
}

impl From<flume::RecvError> for AskerLeft {
    fn from(_: flume::RecvError) -> AskerLeft {
        AskerLeft
    }
}

/// One federation on this core.
struct Work<'a> {
    core: &'a Core,
    request: &'a FederateRequest,
    elsewhere: Elsewhere,
    talk: &'a FederateChannel,
    index: Index<'a>,
    holders: Vec<Rc<HeadOwner>>,
    turns: TimeSlice<'a>,
}

impl Core {
    /// Carries a federation out, until it is done or nobody reads it any more.
    pub(super) async fn federate(
        self: Rc<Self>,
        request: Arc<FederateRequest>,
        elsewhere: Elsewhere,
        talk: FederateChannel,
    ) {
        let mut work = Work {
            core: &self,
            request: &request,
            elsewhere,
            talk: &talk,
            index: Index::new(&request),
            holders: self.all_holders(),
            turns: self.slice(CoreTask::Federation),
        };
        // Who has gone needs no answer.
        let _ = work.run().await;
    }
}

impl Work<'_> {
    async fn run(&mut self) -> Result<(), AskerLeft> {
        let begun = self.begin().await;
        self.send_reply(FederateReply::Begun(Box::new(begun))).await?;
        let mut go = self.hear().await?;
        if let FederateCommand::Claim { identities, partial } = go {
            self.claim(&identities, partial).await?;
            go = self.hear().await?;
        }
        let FederateCommand::Write(owners) = go else { return Err(AskerLeft) };
        self.write(&owners).await?;
        self.send_reply(FederateReply::Done).await?;
        Ok(())
    }

    /// Hands something to the reader. Waiting for it is not work.
    async fn send_reply(&self, told: FederateReply) -> Result<(), AskerLeft> {
        self.talk.told.send_async(told).await?;
        self.turns.restart();
        Ok(())
    }

    async fn hear(&self) -> Result<FederateCommand, AskerLeft> {
        let go = self.talk.go.recv_async().await?;
        self.turns.restart();
        Ok(go)
    }

    fn after(&self) -> Timestamp {
        Timestamp(super::wall_us() as i64 / 1000).plus_ms(-(self.request.lookback.as_millis() as i64))
    }

    /// Finds the places of a target, unless they are known and still right. True if they are others than before.
    async fn place(&mut self, entry: u32, first: bool) -> bool {
        let holder = self.holders[entry as usize].clone();
        if self.index.entries[entry as usize].layout == Some(holder.head.borrow().layout()) {
            return false;
        }
        while !self.place_on(entry, &holder.head.borrow(), first) {
            self.turns.step().await;
        }
        true
    }

    fn place_on(&mut self, entry: u32, head: &tsdb::TargetHead, first: bool) -> bool {
        let visible = self.core.journal.borrow().visible();
        let whole = head.newest_is_whole(self.after(), self.elsewhere);
        self.index.place(entry, head, first, !(whole && head.dead_have_ended(visible)))
    }

    async fn begin(&mut self) -> FederateSummary {
        let mut begun = FederateSummary::default();
        for entry in 0..self.holders.len() as u32 {
            let holder = self.holders[entry as usize].clone();
            self.index.add(&holder.labels);
            self.place(entry, true).await;
            self.count(entry, &mut begun);
            self.turns.step().await;
        }
        begun.partial |= !self.core.ended.borrow().is_empty();
        begun.has_histograms = self.core.histogram_holders().iter().any(|holder| holder.head.borrow().series() > 0);
        if self.request.names {
            self.names(&mut begun).await;
        }
        self.index.begin();
        begun
    }

    /// Adds what matches of a target.
    fn count(&self, entry: u32, begun: &mut FederateSummary) {
        let holder = &self.holders[entry as usize];
        let head = holder.head.borrow();
        let places = &self.index.entries[entry as usize].places;
        begun.series_all += head.live_series() as u64;
        let mut series = 0;
        let groups: Vec<bool> = head.newest_groups().map(|(_, live)| live).collect();
        for (place, plan) in places {
            let plan = &self.index.plans[*plan as usize];
            begun.clashing |= plan.clashing;
            series += if groups[*place as usize] { plan.slots } else { 0 };
        }
        begun.series += series.min(head.live_series() as u64);
        let whole = head.newest_is_whole(self.after(), self.elsewhere);
        if whole {
            begun.whole.push(holder.id);
        }
        if !places.is_empty() {
            begun.partial |= !whole;
            begun.identities.push(self.request.identity(&holder.labels));
        }
    }

    /// Names of series that match, and of those that do not.
    async fn names(&mut self, begun: &mut FederateSummary) {
        let (mut names, mut others) = (AHashSet::new(), AHashSet::new());
        for plan in &self.index.plans {
            let mut matching = plan.all().iter().cloned().flatten().collect::<Vec<u32>>();
            matching.sort_unstable();
            let mut last = "";
            for slot in 0..plan.group.len() as u32 {
                let name = plan.group.metric_name(slot as usize);
                let fits = matching.binary_search(&slot).is_ok();
                if fits && !names.contains(name) {
                    names.insert(name.to_owned());
                } else if !fits && name != last && !others.contains(name) {
                    others.insert(name.to_owned());
                }
                last = name;
                if slot % SLOTS_PER_STEP == 0 {
                    self.turns.step().await;
                }
            }
        }
        begun.names_of_others = others.into_iter().filter(|name| !names.contains(name)).collect();
        begun.names = names.into_iter().collect();
    }

    /// Tells what it has of series that others may have, too.
    async fn claim(&mut self, identities: &[u64], partial: bool) -> Result<(), AskerLeft> {
        let mut claims = Vec::new();
        for entry in 0..self.holders.len() as u32 {
            let holder = self.holders[entry as usize].clone();
            let identity = self.request.identity(&holder.labels);
            let shared = identities.binary_search(&identity).is_ok();
            self.place(entry, false).await;
            let places = self.index.entries[entry as usize].places.clone();
            for (_, plan) in places {
                let runs = self.index.plans[plan as usize].all().to_vec();
                for slots in runs.into_iter().flat_map(|run| {
                    run.clone()
                        .step_by(SLOTS_PER_STEP as usize)
                        .map(move |first| first..run.end.min(first + SLOTS_PER_STEP))
                }) {
                    // The head may have changed during a turn of others: then the group may have another place.
                    self.place(entry, false).await;
                    if !self.claim_slots((entry, plan), shared, slots, &mut claims) {
                        break;
                    }
                    if claims.len() >= CLAIMS_PER_PIECE {
                        self.send_reply(FederateReply::Claims(std::mem::take(&mut claims))).await?;
                    }
                    self.turns.step().await;
                }
            }
            if partial {
                let found = self.newest_unflushed(&holder, None);
                self.leftovers(found).await?;
            }
        }
        if partial {
            let ended: Vec<_> = self.core.ended.borrow().clone();
            for holder in ended {
                let found = self.newest_unflushed(&holder, Some(&mut claims));
                self.leftovers(found).await?;
            }
        }
        if !claims.is_empty() {
            self.send_reply(FederateReply::Claims(claims)).await?;
        }
        self.send_reply(FederateReply::Done).await?;
        Ok(())
    }

    /// Claims slots of a plan of a target; false if there is nothing in the plan to claim.
    fn claim_slots(&self, (entry, plan): (u32, u32), shared: bool, slots: Range<u32>, claims: &mut Vec<Claim>) -> bool {
        let holder = &self.holders[entry as usize];
        let places = &self.index.entries[entry as usize].places;
        let Some((place, _)) = places.iter().find(|(_, other)| *other == plan).copied() else { return false };
        let head = holder.head.borrow();
        let whole = head.newest_is_whole(self.after(), self.elsewhere);
        if whole && !shared && !self.index.plans[plan as usize].clashing {
            return false;
        }
        let group = &self.index.plans[plan as usize].group;
        let source = self.source(&head, &holder.labels, entry);
        let ended_at = head.newest_at().map_or(i64::MIN, |at| at.0);
        for slot in slots {
            let (at, state) = match source.newest_or_marker(place, slot) {
                Some(marker) if series::is_stale(marker.value) => (marker.timestamp.0, ClaimState::EndedAt),
                Some(sample) => (sample.timestamp.0, ClaimState::Alive),
                None if whole => continue,
                None => (ended_at, ClaimState::Ended),
            };
            let hash = self.request.hash(group.series_pairs(slot as usize, &holder.labels));
            claims.push(Claim { hash, at, state, owner: entry });
        }
        true
    }

    /// Newest samples that are not among a head's newest values. Of a target that has ended, `ended` gets all series.
    fn newest_unflushed(&mut self, holder: &HeadOwner, ended: Option<&mut Vec<Claim>>) -> Vec<InstantSample> {
        let head = holder.head.borrow();
        let after = self.after();
        let mut found = Vec::new();
        if ended.is_none() && head.newest_is_whole(after, self.elsewhere) {
            return found;
        }
        let verdict = self.index.verdict(&holder.labels);
        let index = std::cell::RefCell::new(&mut self.index);
        let slots_of = |group: &Arc<tsdb::SlotGroup>| {
            let mut index = index.borrow_mut();
            let plan = index.plan_now(group, verdict);
            index.plans[plan as usize].all().iter().cloned().flatten().collect::<Vec<u32>>()
        };
        let newest = head.newest_at().filter(|at| *at > after);
        if let (Some(claims), Some(at)) = (ended, newest) {
            for group in head.closed_groups() {
                for slot in slots_of(group).into_iter().filter(|slot| !group.is_stamped(*slot as usize)) {
                    let hash = self.request.hash(group.series_pairs(slot as usize, &holder.labels));
                    claims.push(Claim { hash, at: at.0, state: ClaimState::Ended, owner: u32::MAX });
                }
            }
        }
        let visible = self.core.journal.borrow().visible();
        head.newest_unflushed(after, visible, slots_of, |group, slot, sample| {
            let labels = group.series_labels(slot as usize, &holder.labels);
            found.push(InstantSample { labels, timestamp: sample.timestamp, value: sample.value });
        });
        found.truncate(LEFTOVERS_MAX);
        found
    }

    async fn leftovers(&mut self, found: Vec<InstantSample>) -> Result<(), AskerLeft> {
        if !found.is_empty() {
            self.send_reply(FederateReply::Leftovers(found)).await?;
        }
        self.turns.step().await;
        Ok(())
    }

    fn source<'b>(&'b self, head: &'b tsdb::TargetHead, target: &'b series::Labels, entry: u32) -> Source<'b> {
        let visible = self.core.journal.borrow().visible();
        let after = self.after();
        Source { head, target, entry: &self.index.entries[entry as usize], owner: entry, after, visible }
    }

    /// Waits until the newest row of a target is visible, if its values cannot be told without.
    async fn settle(&self, holder: &HeadOwner) {
        for _ in 0..SETTLE_TIMES_MAX {
            let visible = self.core.journal.borrow().visible();
            if holder.head.borrow().newest_is_settled(visible) {
                return;
            }
            Timer::new(SETTLE_EVERY).await;
            self.turns.restart();
        }
    }

    fn write_slice(&self, writer: &LineWriter, entry: u32, name: &str, cursor: &mut Cursor, lines: &mut Lines) -> bool {
        let holder = &self.holders[entry as usize];
        let head = holder.head.borrow();
        writer.write(&self.source(&head, &holder.labels, entry), &self.index.plans, name, cursor, lines)
    }

    async fn write(&mut self, owners: &Owners) -> Result<(), AskerLeft> {
        let writer = LineWriter { core: self.core.index, request: self.request, owners };
        let mut lines = Lines::default();
        let mut entries = Vec::new();
        while let Some(name) = self.index.next_name(&mut entries) {
            if lines.text.capacity() == 0 {
                lines.text.reserve(LINES_BYTES);
            }
            lines.begin(&name);
            for entry in &entries {
                let holder = self.holders[*entry as usize].clone();
                let mut cursor = Cursor::new(self.index.name_number());
                loop {
                    self.settle(&holder).await;
                    let layout = Some(holder.head.borrow().layout());
                    if cursor.is_begun() && self.index.entries[*entry as usize].layout != layout {
                        let known = &self.index.entries[*entry as usize];
                        writer.moved(known, &self.index.plans, &holder.labels, &name, &mut cursor);
                    }
                    self.place(*entry, false).await;
                    let done = self.write_slice(&writer, *entry, &name, &mut cursor, &mut lines);
                    if lines.text.len() >= PIECE_BYTES {
                        lines.end();
                        let piece = std::mem::take(&mut lines);
                        self.send_reply(FederateReply::Lines(piece)).await?;
                        lines.text.reserve(LINES_BYTES);
                        lines.begin(&name);
                    }
                    if done {
                        break;
                    }
                    self.turns.step().await;
                }
                self.turns.step().await;
            }
            lines.end();
        }
        if !lines.text.is_empty() {
            self.send_reply(FederateReply::Lines(lines)).await?;
        }
        Ok(())
    }
}
