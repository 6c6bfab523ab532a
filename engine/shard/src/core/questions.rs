//! Commands to a core, and the queries among them.
//!
//! Invariants:
//!   * a query gives way to others after a millisecond, and ends when nobody waits for its answer any more
//!   * no command waits for one of another lane

use super::{Core, pause, spawn, wall_us};
use crate::exemplars::{ExemplarsRequest, StoredExemplar};
use crate::head_owner::IndexedHead;
use crate::ingest::MetadataCache;
use crate::message::{
    Cardinality, Command, InstantAnswer, InstantRequest, LimitError, MetadataRequest, RangeAnswer, RangeRequest,
    ReduceAnswer, ReduceRequest, TargetMetadata, instant_sample_bytes, piece_bytes,
};
use crate::reduce::Reducing;
use crate::select::Matching;
use crate::status::{CoreStats, LogStats, TargetStatus};
use crate::sys;
use crate::time_slice::CoreTask;
use ahash::AHashMap;
use glommio::TaskQueueHandle;
use glommio::sync::Semaphore;
use glommio::timer::Timer;
use promql::budget::Charge;
use series::Labels;
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use targets::TargetDiff;
use tokio::sync::oneshot;
use tsdb::{Elsewhere, SeriesPart, SlotGroup};

/// Slots that are counted between two looks at the clock.
const SLOTS_PER_STEP: usize = 64;
/// How long the end of the process waits for the last write and sync.
const LOG_PATIENCE: Duration = Duration::from_secs(8);

/// Queries that a core works at in turns. More wait, in the order in which they came.
const QUERIES_AT_ONCE_MAX: u64 = 32;
/// Queries that may wait; then the core takes no more commands until some are done.
const QUERIES_WAITING_MAX: usize = 1024;
/// Changes of the set of targets that may wait for the one at hand.
const TARGET_CHANGES_WAITING_MAX: usize = 64;

/// The task queues of lanes.
pub(super) struct LaneQueues {
    pub pushes: TaskQueueHandle,
    pub queries: TaskQueueHandle,
    pub targets: TaskQueueHandle,
}

/// Where commands wait for others of their kind, and for no others.
pub(super) struct Lanes {
    queries: Rc<Semaphore>,
    queries_there: Cell<usize>,
    target_changes: flume::Sender<TargetChange>,
}

/// A change of the set of targets, carried out one after the other.
struct TargetChange {
    diff: TargetDiff,
    reply: oneshot::Sender<()>,
}

impl Core {
    /// Carries commands out. Each kind has a lane: queries run side by side and share the time of the core, changes of the
    /// set of targets come one after the other, and pushed series wait for neither. Who asked may have gone; then the
    /// answer is thrown away.
    pub(super) async fn answer(self: Rc<Self>, commands: flume::Receiver<Command>, lanes: LaneQueues) {
        let (target_changes, changes) = flume::bounded(TARGET_CHANGES_WAITING_MAX);
        spawn(self.clone().change_targets(changes), lanes.targets);
        let lanes_of_commands = Lanes {
            queries: Rc::new(Semaphore::new(QUERIES_AT_ONCE_MAX)),
            queries_there: Cell::new(0),
            target_changes,
        };
        let lanes_of_commands = Rc::new(lanes_of_commands);
        while let Ok(command) = commands.recv_async().await {
            self.clone().dispatch(command, &lanes_of_commands, &lanes).await;
        }
    }

    async fn dispatch(self: Rc<Self>, command: Command, waiting: &Rc<Lanes>, queues: &LaneQueues) {
        match command {
            Command::Apply(diff, reply) => {
                // The receiver lives as long as the core.
                let _ = waiting.target_changes.send_async(TargetChange { diff, reply }).await;
            }
            Command::Federate(request, elsewhere, talk) => {
                let queue = self.federations;
                spawn(self.federate(request, elsewhere, talk), queue);
            }
            Command::WriteRows(request, reply) => self.write_rows(&request, reply),
            Command::Receive(request, reply) => spawn(self.receive(request, reply), queues.pushes),
            Command::Stats(reply) => {
                let _ = reply.send(Box::new(self.stats()));
            }
            Command::AppendExemplars(exemplars, reply) => {
                spawn(self.append_received_exemplars(exemplars, reply), queues.pushes);
            }
            Command::ResizeExemplars(max, reply) => {
                self.exemplars.borrow_mut().resize(max);
                let _ = reply.send(());
            }
            Command::Statuses(reply) => spawn(self.statuses(reply), queues.queries),
            Command::Shutdown(reply) => spawn(self.shut_down(reply), queues.targets),
            query => {
                while waiting.queries_there.get() >= QUERIES_WAITING_MAX {
                    pause().await;
                }
                waiting.queries_there.set(waiting.queries_there.get() + 1);
                let waiting = waiting.clone();
                let task = async move {
                    let permit = waiting.queries.acquire_permit(1).await.expect("never closed");
                    self.answer_query(query).await;
                    drop(permit);
                    waiting.queries_there.set(waiting.queries_there.get() - 1);
                };
                spawn(task, queues.queries);
            }
        }
    }

    async fn answer_query(self: Rc<Self>, query: Command) {
        match query {
            Command::Instant(request, elsewhere, reply) => {
                let answer = self.instant(&request, elsewhere, || reply.is_closed()).await;
                let _ = reply.send(answer);
            }
            Command::Range(request, reply) => {
                let answer = self.range(&request, || reply.is_closed()).await;
                let _ = reply.send(answer);
            }
            Command::Labels(request, reply) => {
                let answer = self.labels(&request, || reply.is_closed()).await;
                let _ = reply.send(answer);
            }
            Command::Reduce(requests, elsewhere, reply) => {
                let answers = self.reduce(&requests, elsewhere, || reply.is_closed()).await;
                let _ = reply.send(answers);
            }
            Command::Unflushed(reply) => {
                let _ = reply.send(self.unflushed().await);
            }
            Command::Metadata(request, reply) => {
                let answer = self.metadata(&request, || reply.is_closed()).await;
                let _ = reply.send(answer);
            }
            Command::Exemplars(request, reply) => {
                let answer = self.select_exemplars(&request, || reply.is_closed()).await;
                let _ = reply.send(answer);
            }
            Command::Cardinality(reply) => {
                let answer = self.cardinality(|| reply.is_closed()).await;
                let _ = reply.send(Box::new(answer));
            }
            other => unreachable!("{other:?} has a lane of its own"),
        }
    }

    async fn statuses(self: Rc<Self>, reply: oneshot::Sender<Vec<TargetStatus>>) {
        self.shown().await;
        let slice = self.slice(CoreTask::Labels);
        let mut statuses = Vec::new();
        for scraper in self.all_scrapers() {
            statuses.push(scraper.status.borrow().clone());
            slice.step().await;
        }
        let _ = reply.send(statuses);
    }

    async fn change_targets(self: Rc<Self>, changes: flume::Receiver<TargetChange>) {
        while let Ok(TargetChange { diff, reply }) = changes.recv_async().await {
            self.apply(diff).await;
            let _ = reply.send(());
        }
    }

    async fn shut_down(self: Rc<Self>, reply: oneshot::Sender<()>) {
        self.stopping.set(true);
        self.all_scrapers().iter().for_each(|scraper| scraper.signal.stop());
        let patience = Instant::now() + LOG_PATIENCE;
        self.write_last_layouts().await;
        while !self.log_ended.get() && Instant::now() < patience {
            Timer::new(Duration::from_millis(5)).await;
        }
        let _ = reply.send(());
    }

    /// Newest samples of what matches; nothing once the asker has `gone`.
    async fn instant(
        &self,
        request: &InstantRequest,
        elsewhere: Elsewhere,
        gone: impl Fn() -> bool,
    ) -> Result<InstantAnswer, LimitError> {
        let slice = self.slice(CoreTask::Query);
        let selectors = request.selectors.iter().map(Vec::as_slice);
        let Some(candidates) = self.candidates(selectors, &slice, &gone).await else {
            return Ok(InstantAnswer::default());
        };
        let after = request.at.plus_ms(-(request.lookback.as_millis() as i64));
        let mut matching = Matching::new(&request.selectors, &candidates.groups);
        let mut answer = InstantAnswer::default();
        let (mut meter, mut bytes) = (request.budget.meter(), 0);
        for head in &candidates.heads {
            let visible = self.journal.borrow().visible();
            let before = (answer.samples.len(), answer.partial.len(), answer.histograms.len());
            match head {
                IndexedHead::Floats(holder) if request.histograms_only && holder.histograms.is_none() => {}
                IndexedHead::Floats(holder) => {
                    matching.instant(holder, after, request.at, visible, elsewhere, &mut answer);
                }
                IndexedHead::Histograms(holder) => {
                    matching.newest_histograms(holder, after, request.at, visible, &mut answer.histograms);
                }
            }
            let samples = answer.samples[before.0..].iter().chain(&answer.partial[before.1..]);
            let histograms = answer.histograms[before.2..].iter().map(piece_bytes).sum::<u64>();
            let more = samples.map(instant_sample_bytes).sum::<u64>() + histograms;
            bytes += more;
            if request.bytes_max > 0 && bytes > request.bytes_max {
                return Err(LimitError::Bytes);
            }
            meter.add(0, more)?;
            if slice.step().await && gone() {
                return Ok(InstantAnswer::default());
            }
        }
        answer.charge = Some(meter.into_charge()?);
        Ok(answer)
    }

    /// Samples in memory of what matches; nothing once the asker has `gone`.
    async fn range(&self, request: &RangeRequest, gone: impl Fn() -> bool) -> Result<RangeAnswer, LimitError> {
        let nothing = || RangeAnswer { pieces: Vec::new(), charge: Charge::empty(&request.budget) };
        let slice = self.slice(CoreTask::Query);
        let selectors = request.selectors.iter().map(Vec::as_slice);
        let Some(candidates) = self.candidates(selectors, &slice, &gone).await else { return Ok(nothing()) };
        let mut matching = Matching::new(&request.selectors, &candidates.groups);
        let mut meter = request.budget.meter();
        let mut pieces: Vec<SeriesPart> = Vec::new();
        let (mut samples, mut bytes) = (0, 0);
        let (from, to) = (request.from, request.to);
        for head in &candidates.heads {
            let visible = self.journal.borrow().visible();
            let before = pieces.len();
            samples += match head {
                IndexedHead::Floats(holder) => matching.range(holder, from, to, visible, &mut pieces),
                IndexedHead::Histograms(holder) => matching.histograms(holder, from, to, visible, &mut pieces),
            };
            match head {
                _ if !request.wants_starts || pieces.len() == before => {}
                IndexedHead::Floats(holder) => matching.starts(holder, &mut pieces),
                IndexedHead::Histograms(holder) => matching.histogram_starts(holder, &mut pieces),
            }
            let more = pieces[before..].iter().map(piece_bytes).sum();
            bytes += more;
            if request.bytes_max > 0 && bytes > request.bytes_max {
                return Err(LimitError::Bytes);
            }
            meter.add(0, more)?;
            if request.samples_max > 0 && samples > request.samples_max {
                return Err(LimitError::Samples);
            }
            if slice.step().await && gone() {
                return Ok(nothing());
            }
        }
        Ok(RangeAnswer { pieces, charge: meter.into_charge()? })
    }

    /// Aggregates what matches; incomplete once the asker has `gone`, or when every request is beyond its limit.
    async fn reduce(
        &self,
        requests: &[ReduceRequest],
        elsewhere: Elsewhere,
        gone: impl Fn() -> bool,
    ) -> Vec<Result<ReduceAnswer, LimitError>> {
        let slice = self.slice(CoreTask::Query);
        let selectors = requests.iter().flat_map(|request| &request.selectors).map(Vec::as_slice);
        let candidates = self.candidates(selectors, &slice, &gone).await.unwrap_or_default();
        let mut reducing = Reducing::new(requests, elsewhere, &candidates.groups);
        for head in &candidates.heads {
            let visible = self.journal.borrow().visible();
            match head {
                IndexedHead::Floats(holder) if holder.is_scraped() => reducing.target(holder, visible),
                IndexedHead::Floats(holder) => reducing.source(holder, visible),
                IndexedHead::Histograms(holder) => reducing.histograms(holder),
            }
            if slice.step().await && (gone() || reducing.is_lost()) {
                break;
            }
        }
        reducing.finish()
    }

    async fn metadata(&self, request: &MetadataRequest, gone: impl Fn() -> bool) -> Vec<TargetMetadata> {
        let slice = self.slice(CoreTask::Labels);
        let mut seen = MetadataCache::default();
        let mut found = Vec::new();
        for scraper in self.all_scrapers() {
            if slice.step().await && gone() {
                break;
            }
            let target = scraper.target.borrow().clone();
            if !request.target_matchers.iter().all(|matcher| matcher.matches_labels(&target.labels)) {
                continue;
            }
            let mut metrics = match &*scraper.reader.borrow() {
                Some(reader) => reader.metadata(&mut seen),
                None => continue,
            };
            if let Some(wanted) = &request.metric {
                metrics.retain(|metadata| metadata.metric == *wanted);
            }
            found.push(TargetMetadata { target: target.id, metrics });
            if request.targets_max > 0 && found.len() >= request.targets_max {
                break;
            }
        }
        found
    }

    async fn select_exemplars(
        &self,
        request: &ExemplarsRequest,
        gone: impl Fn() -> bool,
    ) -> Vec<(Labels, StoredExemplar)> {
        // What is in the ring only would be gone with a kill.
        self.shown().await;
        let slice = self.slice(CoreTask::Query);
        let mut found = Vec::new();
        let mut from = 0;
        loop {
            let next = self.exemplars.borrow().select(request, from, &mut found);
            match next {
                Some(next) if !(slice.step().await && gone()) => from = next,
                _ => return found,
            }
        }
    }

    /// Live series by label: a group's once for all targets that have it.
    async fn cardinality(&self, gone: impl Fn() -> bool) -> Cardinality {
        let slice = self.slice(CoreTask::Labels);
        let now = wall_us() as i64 / 1000;
        let mut all = Cardinality { min_time: now, max_time: i64::MIN, ..Cardinality::default() };
        let mut of_groups: AHashMap<*const SlotGroup, (Arc<SlotGroup>, u64)> = AHashMap::new();
        for holder in self.all_holders() {
            if slice.step().await && gone() {
                return all;
            }
            let head = holder.head.borrow();
            let mut series = 0;
            for group in head.groups() {
                series += group.len() as u64;
                of_groups.entry(Arc::as_ptr(group)).or_insert_with(|| (group.clone(), 0)).1 += 1;
            }
            all.series += series;
            if let Some((oldest, newest)) = head.bounds() {
                all.min_time = all.min_time.min(oldest.0);
                all.max_time = all.max_time.max(newest.0);
            }
            for (name, value) in holder.labels.iter() {
                *all.pairs.entry((name.to_owned(), value.to_owned())).or_default() += series;
            }
        }
        for holder in self.histogram_holders() {
            if let Some((oldest, newest)) = holder.head.borrow().bounds() {
                all.min_time = all.min_time.min(oldest.0);
                all.max_time = all.max_time.max(newest.0);
            }
            slice.step().await;
        }
        // Texts are copied once for each pair, not for each slot that has it.
        let groups: Vec<(Arc<SlotGroup>, u64)> = of_groups.into_values().collect();
        let mut pairs: AHashMap<(&str, &str), u64> = AHashMap::new();
        for (group, targets) in &groups {
            for slot in 0..group.len() {
                for pair in group.label_pairs(slot).filter(|(_, value)| !value.is_empty()) {
                    *pairs.entry(pair).or_default() += targets;
                }
                if slot % SLOTS_PER_STEP == 0 && slice.step().await && gone() {
                    return all;
                }
            }
        }
        for ((name, value), series) in pairs {
            *all.pairs.entry((name.to_owned(), value.to_owned())).or_default() += series;
            slice.step().await;
        }
        all
    }

    fn stats(&self) -> CoreStats {
        let mut stats = self.stats.borrow().clone();
        stats.targets = self.by_id.borrow().len() as u64;
        stats.exemplars = self.exemplars.borrow().stats();
        stats.cpu_seconds = sys::thread_cpu_seconds();
        stats.stall_max = self.heartbeat.stall_max();
        stats.task_longest = self.task_times.longest().collect();
        if let Some(writer) = self.journal.borrow().writer() {
            stats.log = LogStats {
                bytes_written: writer.bytes_written(),
                behind_ms: writer.behind_ms(self.now_us() / 1000),
                syncs: writer.syncs(),
                records: writer.appended(),
                records_behind: writer.appended() - writer.durable().min(writer.appended()),
                failures: writer.failures(),
                discarded: writer.discarded(),
                failing: writer.failing().map(str::to_owned),
            };
        }
        stats
    }
}
