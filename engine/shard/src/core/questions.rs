//! Questions to a core: what they ask of its targets, a few of them per turn.
//!
//! Invariant: a question gives way to scrapes, and ends when nobody waits for its answer any more.

use super::{Core, TARGETS_PER_TURN, pause, spawn, wall_us};
use crate::ingest::MetadataCache;
use crate::message::{
    Cardinality, Command, InstantAnswer, InstantRequest, LabelsAnswer, LabelsRequest, LabelsWanted, LimitError,
    MetadataRequest, Older, RangeAnswer, RangeRequest, ReduceAnswer, ReduceRequest, TargetMetadata,
    instant_sample_bytes, piece_bytes,
};
use crate::reduce::Reducing;
use crate::select::Matching;
use crate::status::{CoreStats, LogStats};
use crate::sys;
use crate::written::Holder;
use ahash::AHashMap;
use glommio::timer::Timer;
use promql::budget::Charge;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tsdb::{Piece, SlotGroup};

/// How long the end of the process waits for the last write and sync.
const LOG_PATIENCE: Duration = Duration::from_secs(8);

impl Core {
    /// Answers commands in order. Who asked may have gone; then the answer is thrown away.
    pub(super) async fn answer(self: Rc<Self>, commands: flume::Receiver<Command>) {
        while let Ok(command) = commands.recv_async().await {
            match command {
                Command::Apply(diff, reply) => {
                    self.apply(diff);
                    let _ = reply.send(());
                }
                Command::Statuses(reply) => {
                    self.shown().await;
                    let statuses = self.all_scrapers().iter().map(|scraper| scraper.status.borrow().clone()).collect();
                    let _ = reply.send(statuses);
                }
                Command::Instant(request, older, reply) => {
                    let answer = self.instant(&request, older, || reply.is_closed()).await;
                    let _ = reply.send(answer);
                }
                Command::Federate(request, older, talk) => {
                    spawn(self.clone().federate(request, older, talk), self.federations);
                }
                Command::Range(request, reply) => {
                    let answer = self.range(&request, || reply.is_closed()).await;
                    let _ = reply.send(answer);
                }
                Command::Labels(request, reply) => {
                    let answer = self.labels(&request, || reply.is_closed()).await;
                    let _ = reply.send(answer);
                }
                Command::Reduce(requests, older, reply) => {
                    let answers = self.reduce(&requests, older, || reply.is_closed()).await;
                    let _ = reply.send(answers);
                }
                Command::WriteRows(request, reply) => self.write_rows(&request, reply),
                Command::Receive(request, reply) => self.receive(&request, reply),
                Command::Unflushed(reply) => {
                    let _ = reply.send(self.unflushed().await);
                }
                Command::Metadata(request, reply) => {
                    let _ = reply.send(self.metadata(&request).await);
                }
                Command::Stats(reply) => {
                    let _ = reply.send(Box::new(self.stats()));
                }
                Command::Cardinality(reply) => {
                    let _ = reply.send(Box::new(self.cardinality().await));
                }
                Command::Shutdown(reply) => {
                    self.stopping.set(true);
                    self.all_scrapers().iter().for_each(|scraper| scraper.signal.stop());
                    let patience = Instant::now() + LOG_PATIENCE;
                    while !self.log_ended.get() && Instant::now() < patience {
                        Timer::new(Duration::from_millis(5)).await;
                    }
                    let _ = reply.send(());
                }
            }
        }
    }

    /// Reads everybody who takes samples, and those who are gone and not in chunks yet. False once the asker has `gone`.
    async fn each_holder(
        &self,
        mut read: impl FnMut(&Holder) -> Result<(), LimitError>,
        gone: impl Fn() -> bool,
    ) -> Result<bool, LimitError> {
        for (i, holder) in self.all_holders().into_iter().enumerate() {
            read(&holder)?;
            if i % TARGETS_PER_TURN == 0 {
                pause().await;
                if gone() {
                    return Ok(false);
                }
            }
        }
        self.ended.borrow().iter().try_for_each(|ended| read(ended))?;
        Ok(true)
    }

    /// Newest samples of what matches; nothing once the asker has `gone`.
    async fn instant(
        &self,
        request: &InstantRequest,
        older: Older,
        gone: impl Fn() -> bool,
    ) -> Result<InstantAnswer, LimitError> {
        let after = request.at.plus_ms(-(request.lookback.as_millis() as i64));
        let mut matching = Matching::new(&request.selectors);
        let mut answer = InstantAnswer::default();
        let mut meter = request.budget.meter();
        let read = |holder: &Holder| {
            let visible = self.journal.borrow().visible();
            let (samples, partial) = (answer.samples.len(), answer.partial.len());
            matching.instant(holder, after, request.at, visible, older, &mut answer);
            let new = answer.samples[samples..].iter().chain(&answer.partial[partial..]);
            Ok(meter.add(0, new.map(instant_sample_bytes).sum())?)
        };
        if !self.each_holder(read, gone).await? {
            return Ok(InstantAnswer::default());
        }
        let visible = self.journal.borrow().visible();
        for holder in self.histogram_holders() {
            matching.newest_histograms(&holder, after, request.at, visible, &mut answer.histograms);
        }
        meter.add(0, answer.histograms.iter().map(piece_bytes).sum())?;
        answer.charge = Some(meter.into_charge()?);
        Ok(answer)
    }

    /// Samples in memory of what matches; nothing once the asker has `gone`.
    async fn range(&self, request: &RangeRequest, gone: impl Fn() -> bool) -> Result<RangeAnswer, LimitError> {
        let mut matching = Matching::new(&request.selectors);
        let mut meter = request.budget.meter();
        let mut pieces: Vec<Piece> = Vec::new();
        let mut samples = 0;
        let read = |holder: &Holder| {
            let visible = self.journal.borrow().visible();
            let before = pieces.len();
            samples += matching.range(holder, request.from, request.to, visible, &mut pieces);
            if request.labels_only {
                samples -= pieces[before..].iter_mut().map(|piece| piece.samples.drain(1..).len()).sum::<usize>();
            }
            meter.add(0, pieces[before..].iter().map(piece_bytes).sum())?;
            match request.samples_max {
                max if max > 0 && samples > max => Err(LimitError::Samples),
                _ => Ok(()),
            }
        };
        if !self.each_holder(read, gone).await? {
            return Ok(RangeAnswer { pieces: Vec::new(), charge: Charge::empty(&request.budget) });
        }
        let visible = self.journal.borrow().visible();
        for holder in self.histogram_holders() {
            let before = pieces.len();
            samples += matching.histograms(&holder, request.from, request.to, visible, &mut pieces);
            if request.labels_only {
                pieces[before..].iter_mut().for_each(|piece| piece.histograms.truncate(1));
            } else if request.samples_max > 0 && samples > request.samples_max {
                return Err(LimitError::Samples);
            }
            meter.add(0, pieces[before..].iter().map(piece_bytes).sum())?;
        }
        Ok(RangeAnswer { pieces, charge: meter.into_charge()? })
    }

    /// Labels of what matches in memory; nothing once the asker has `gone`.
    async fn labels(&self, request: &LabelsRequest, gone: impl Fn() -> bool) -> Result<LabelsAnswer, LimitError> {
        let mut selectors = request.selectors.clone();
        if selectors.is_empty() {
            selectors.push(Vec::new());
        }
        let (from, to) = (request.from, request.to);
        let budget = request.budget.clone();
        let range = RangeRequest { selectors, from, to, samples_max: 0, labels_only: true, budget };
        let RangeAnswer { pieces, charge } = self.range(&range, gone).await?;
        let sets = pieces.into_iter().map(|piece| piece.labels);
        let limit = if request.limit == 0 { usize::MAX } else { request.limit };
        let mut answer = LabelsAnswer { charge: Some(charge), ..LabelsAnswer::default() };
        let mut texts: BTreeSet<Arc<str>> = BTreeSet::new();
        match &request.wanted {
            LabelsWanted::Series => answer.series = sets.collect(),
            LabelsWanted::Names => {
                sets.for_each(|labels| texts.extend(labels.iter().map(|(name, _)| Arc::from(name))));
            }
            LabelsWanted::Values(name) => texts.extend(sets.filter_map(|labels| labels.get(name).map(Arc::from))),
        }
        answer.is_truncated = texts.len() > limit || answer.series.len() > limit;
        answer.series.truncate(limit);
        answer.texts = texts.into_iter().take(limit).collect();
        Ok(answer)
    }

    /// Aggregates what matches; incomplete once the asker has `gone`, or when every request is beyond its limit.
    async fn reduce(
        &self,
        requests: &[ReduceRequest],
        older: Older,
        gone: impl Fn() -> bool,
    ) -> Vec<Result<ReduceAnswer, LimitError>> {
        let mut reducing = Reducing::new(requests, older);
        let targets_per_turn = (TARGETS_PER_TURN / requests.len().max(1)).max(1);
        for (i, scraper) in self.all_scrapers().into_iter().enumerate() {
            let visible = self.journal.borrow().visible();
            reducing.target(&scraper.holder, visible);
            if i % targets_per_turn == 0 {
                pause().await;
                if gone() || reducing.is_lost() {
                    return reducing.finish();
                }
            }
        }
        let written: Vec<Rc<Holder>> = self.written.borrow().holders().collect();
        for holder in written.iter().chain(self.ended.borrow().iter()) {
            let visible = self.journal.borrow().visible();
            reducing.in_pieces(holder, visible);
        }
        self.histogram_holders().iter().for_each(|holder| reducing.histograms(holder));
        reducing.finish()
    }

    async fn metadata(&self, request: &MetadataRequest) -> Vec<TargetMetadata> {
        let mut seen = MetadataCache::default();
        let mut found = Vec::new();
        for scraper in self.all_scrapers() {
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

    /// Live series by label: a group's once for all targets that have it.
    async fn cardinality(&self) -> Cardinality {
        let now = wall_us() as i64 / 1000;
        let mut all = Cardinality { min_time: now, max_time: i64::MIN, ..Cardinality::default() };
        let mut of_groups: AHashMap<*const SlotGroup, (Arc<SlotGroup>, u64)> = AHashMap::new();
        for holder in self.all_holders() {
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
        for (oldest, newest) in self.histogram_holders().iter().filter_map(|holder| holder.head.borrow().bounds()) {
            all.min_time = all.min_time.min(oldest.0);
            all.max_time = all.max_time.max(newest.0);
        }
        for (group, targets) in of_groups.into_values() {
            for slot in 0..group.len() {
                for (name, value) in group.label_pairs(slot).filter(|(_, value)| !value.is_empty()) {
                    *all.pairs.entry((name.to_owned(), value.to_owned())).or_default() += targets;
                }
            }
            pause().await;
        }
        all
    }

    fn stats(&self) -> CoreStats {
        let mut stats = self.stats.borrow().clone();
        stats.targets = self.by_id.borrow().len() as u64;
        stats.cpu_seconds = sys::thread_cpu_seconds();
        stats.stall_max = self.pulse.stall_max();
        if let Some(writer) = self.journal.borrow().writer() {
            stats.log = LogStats {
                bytes_written: writer.bytes_written(),
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
