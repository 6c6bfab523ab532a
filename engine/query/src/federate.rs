//! The side of a federation that asks: chooses owners, and merges what the cores write into one text, name by name.
//!
//! Invariants:
//!   * nothing is read from the cores that is not asked for: who takes no pieces stops the cores after two each
//!   * dropping a [`Federation`] ends the request on every core

use crate::error::QueryError;
use crate::gather::instant::newest_of;
use crate::gather::merge::Newest;
use crate::gather::range::ReadBounds;
use crate::gather::{Gatherer, storage_error};
use crate::task::QueryTask;
use ahash::{AHashMap, AHashSet};
use promql::budget::CancelOnDrop;
use series::{Histogram, Labels, METRIC_NAME, Sample, Timestamp};
use shard::federate::{
    Claim, ClaimState, FederateChannel, FederateCommand, FederateReply, FederateRequest, FederateSummary,
    LEFTOVERS_MAX, Lines, Owner, Owners, PIECE_BYTES, PIECES_WAITING_MAX, write_line,
};
use shard::{ANSWER_TIMEOUT, Command, InstantSample, ShardError};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use tsdb::{Elsewhere, Store};

/// Samples that are read for a federation whose lookback has deletions.
const SAMPLES_MAX: usize = 50_000_000;

/// Why a stream ended before its end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("core {core} stopped in the middle of a federation")]
pub struct StreamError {
    pub core: usize,
}

/// A native histogram that is the newest sample of its series.
#[derive(Clone, Debug)]
pub struct FederatedHistogram {
    pub labels: Labels,
    pub timestamp: Timestamp,
    pub histogram: Arc<Histogram>,
}

/// A request under way.
pub struct Federation {
    request: Arc<FederateRequest>,
    task: QueryTask,
    /// Cancels what is read for it when it is dropped.
    cancel: Option<CancelOnDrop>,
    cores: Vec<Core>,
    leftovers: std::vec::IntoIter<InstantSample>,
    waiting: Option<InstantSample>,
    name: Option<Arc<str>>,
    series: u64,
    begun: FederateSummary,
    after: Timestamp,
    store: Option<Arc<Store>>,
    gatherer: Gatherer,
    /// Samples of the lookback were deleted: newest values on the cores do not know that.
    with_deletions: Option<Gatherer>,
}

struct Core {
    told: flume::Receiver<FederateReply>,
    go: flume::Sender<FederateCommand>,
    lines: Lines,
    /// The next name of `lines`, and where its text begins.
    at: usize,
    start: usize,
    ended: bool,
}

impl Core {
    async fn next(&self, core: usize) -> Result<FederateReply, ShardError> {
        match tokio::time::timeout(ANSWER_TIMEOUT, self.told.recv_async()).await {
            Err(_) => Err(ShardError::Timeout { core }),
            Ok(Err(_)) => Err(ShardError::Stopped { core }),
            Ok(Ok(told)) => Ok(told),
        }
    }

    fn name(&self) -> Option<&Arc<str>> {
        self.lines.names.get(self.at).map(|(name, _)| name)
    }
}

impl Gatherer {
    /// Asks every core for what matches; the answer tells how much that is, and becomes a text when it is begun.
    pub async fn federate(&self, task: QueryTask, request: FederateRequest) -> Result<Federation, QueryError> {
        let request = Arc::new(request);
        let now = Timestamp(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64));
        let after = now.plus_ms(-(request.lookback.as_millis() as i64));
        let mut elsewhere = self.elsewhere(after.plus_ms(1));
        let mut federation = loop {
            let federation = self.request_summaries(&task, &request, elsewhere, after).await?;
            let by_now = self.elsewhere(after.plus_ms(1));
            if by_now <= elsewhere {
                break federation;
            }
            // Chunks came meanwhile.
            elsewhere = by_now;
        };
        federation.cancel = Some(task.budget.cancel_on_drop());
        Ok(federation)
    }

    async fn request_summaries(
        &self,
        task: &QueryTask,
        request: &Arc<FederateRequest>,
        elsewhere: Elsewhere,
        after: Timestamp,
    ) -> Result<Federation, QueryError> {
        let mut cores = Vec::new();
        for core in 0..self.shards.count() {
            let (told_to, told) = flume::bounded(PIECES_WAITING_MAX);
            let (go, go_from) = flume::bounded(1);
            let talk = FederateChannel { told: told_to, go: go_from };
            self.shards.send(core, Command::Federate(request.clone(), elsewhere, talk)).await?;
            cores.push(Core { told, go, lines: Lines::default(), at: 0, start: 0, ended: false });
        }
        let mut all = FederateSummary::default();
        for (i, core) in cores.iter().enumerate() {
            let FederateReply::Begun(begun) = core.next(i).await? else {
                return Err(ShardError::Stopped { core: i }.into());
            };
            all.add(*begun);
        }
        Ok(Federation {
            request: request.clone(),
            task: task.clone(),
            cancel: None,
            cores,
            leftovers: Vec::new().into_iter(),
            waiting: None,
            name: None,
            series: 0,
            begun: all,
            after,
            store: self.store.clone(),
            gatherer: self.clone(),
            with_deletions: Some(self.clone()).filter(|_| self.has_deletions(after.plus_ms(1), Timestamp(i64::MAX))),
        })
    }

    /// The newest samples that a federation gives, read from all samples of its lookback.
    async fn federated_of_range(
        &self,
        task: &QueryTask,
        request: &FederateRequest,
        after: Timestamp,
    ) -> Result<Vec<InstantSample>, QueryError> {
        let range = (after.plus_ms(1), Timestamp(i64::MAX));
        let sample = |series: promql::SelectedSeries| {
            let Sample { timestamp, value } = *series.samples.last()?;
            Some(InstantSample { labels: series.labels, timestamp, value })
        };
        let mut samples: Vec<InstantSample> = Vec::new();
        for matchers in &request.selectors {
            let bounds = ReadBounds { samples_max: SAMPLES_MAX, ..ReadBounds::default() };
            let Some(gathered) = self.range(task, matchers.clone(), range, bounds).await? else { continue };
            let all = gathered.series.into_iter().filter(|series| is_wanted(request, &series.labels));
            samples.extend(all.filter_map(newest_of).filter_map(sample));
        }
        samples.sort_by(by_name);
        samples.dedup_by(|second, first| second.labels == first.labels);
        Ok(samples)
    }
}

/// Whether a series may be served.
fn is_wanted(request: &FederateRequest, labels: &Labels) -> bool {
    let fits = |all: &Vec<series::Matcher>| all.iter().all(|one| one.matches_labels(labels));
    let is_allowed = request.allow.is_empty() || request.allow.iter().any(fits);
    is_allowed && !request.deny.iter().any(fits) && !labels.metric_name().is_empty()
}

impl Federation {
    /// The request.
    pub fn request(&self) -> &FederateRequest {
        &self.request
    }

    /// Native histograms among what matches, sorted by labels: the text has floats alone.
    pub async fn histograms(&self) -> Result<Vec<FederatedHistogram>, QueryError> {
        let (at, lookback) = (self.after.plus_ms(self.request.lookback.as_millis() as i64), self.request.lookback);
        let mut found: BTreeMap<Labels, (i64, Arc<Histogram>)> = BTreeMap::new();
        for matchers in &self.request.selectors {
            let gathered = self.gatherer.instant_histograms(&self.task, matchers, at, lookback).await?;
            for series in gathered.into_iter().flat_map(|gathered| gathered.series) {
                let float_at = series.samples.last().map(|sample| sample.timestamp.0);
                let newest = series
                    .histograms
                    .into_iter()
                    .next_back()
                    .filter(|(at, _)| float_at.is_none_or(|float| *at > float));
                if let Some(newest) = newest.filter(|_| is_wanted(&self.request, &series.labels)) {
                    found.insert(series.labels, newest);
                }
            }
        }
        let histogram = |(labels, (at, histogram))| FederatedHistogram { labels, timestamp: Timestamp(at), histogram };
        Ok(found.into_iter().map(histogram).collect())
    }

    /// What matches.
    pub fn begun(&self) -> &FederateSummary {
        &self.begun
    }

    /// How many lines were given so far.
    pub fn series(&self) -> u64 {
        self.series
    }

    /// Lets the cores write: from here on [`Federation::next`] gives the text.
    pub async fn begin(&mut self) -> Result<(), QueryError> {
        if let Some(gatherer) = self.with_deletions.take() {
            self.cores.clear();
            self.leftovers = gatherer.federated_of_range(&self.task, &self.request, self.after).await?.into_iter();
            self.waiting = self.leftovers.next();
            return Ok(());
        }
        let mut repeated = std::mem::take(&mut self.begun.identities);
        repeated.sort_unstable();
        let twice: AHashSet<u64> = repeated.windows(2).filter(|two| two[0] == two[1]).map(|two| two[0]).collect();
        let mut identities: Vec<u64> = twice.into_iter().collect();
        identities.sort_unstable();
        let after = self.after;
        let store = self.store.clone().filter(|store| store.bounds().is_some_and(|(_, newest)| newest > after.0));
        let mut owners = Owners::default();
        let partial = self.begun.partial || store.is_some();
        if partial || self.begun.clashing || !identities.is_empty() {
            let (claims, leftovers) = self.claims(identities, partial).await?;
            let (request, whole) = (self.request.clone(), std::mem::take(&mut self.begun.whole));
            let stopping = self.task.budget.cancel_flag();
            let chosen = self.task.on_thread(move || {
                let mut chosen = choose(claims);
                let mut newest = Newest::default();
                leftovers.into_iter().for_each(|sample| newest.take(sample));
                if let Some(store) = store {
                    let whole: AHashSet<u64> = whole.into_iter().collect();
                    let (from, to) = (after.plus_ms(1), Timestamp(i64::MAX));
                    let wanted = |piece: &tsdb::SeriesPart| {
                        let fits = |all: &Vec<series::Matcher>| all.iter().all(|one| one.matches_labels(&piece.labels));
                        (request.allow.is_empty() || request.allow.iter().any(fits)) && !request.deny.iter().any(fits)
                    };
                    let skip = |target| whole.contains(&target);
                    let take = |piece: tsdb::SeriesPart| {
                        let newest_at = piece.samples.iter().map(|sample| sample.timestamp.0).max();
                        let hash = request.hash(piece.labels.iter());
                        if newest_at.is_some_and(|at| chosen.beats(hash, at)) && wanted(&piece) {
                            newest.take_piece(piece);
                        }
                        newest.len() <= LEFTOVERS_MAX
                    };
                    let select = store.select(&request.selectors, from, to, skip, &stopping, take);
                    select.map_err(storage_error)?;
                }
                if newest.len() > LEFTOVERS_MAX {
                    return Err(storage_error(format!("more than {LEFTOVERS_MAX} series are in chunks alone")));
                }
                let mut leftovers = Vec::new();
                for sample in newest.into_floats().filter(|sample| !sample.labels.metric_name().is_empty()) {
                    let hash = request.hash(sample.labels.iter());
                    if chosen.beats(hash, sample.timestamp.0) {
                        chosen.owners.insert(hash, Owner::Merger);
                        leftovers.push(sample);
                    }
                }
                leftovers.sort_unstable_by(by_name);
                Ok((chosen.owners, leftovers))
            });
            let (chosen, leftovers) = chosen.await?;
            owners = chosen;
            self.leftovers = leftovers.into_iter();
            self.waiting = self.leftovers.next();
        }
        let owners = Arc::new(owners);
        for (core, one) in self.cores.iter().enumerate() {
            one.go.send(FederateCommand::Write(owners.clone())).map_err(|_| ShardError::Stopped { core })?;
        }
        Ok(())
    }

    async fn claims(
        &mut self,
        identities: Vec<u64>,
        partial: bool,
    ) -> Result<(Vec<(usize, Claim)>, Vec<InstantSample>), ShardError> {
        let go = FederateCommand::Claim { identities: Arc::new(identities), partial };
        for (core, one) in self.cores.iter().enumerate() {
            one.go.send(go.clone()).map_err(|_| ShardError::Stopped { core })?;
        }
        let (mut claims, mut leftovers) = (Vec::new(), Vec::new());
        for (core, one) in self.cores.iter().enumerate() {
            loop {
                match one.next(core).await? {
                    FederateReply::Claims(some) => claims.extend(some.into_iter().map(|claim| (core, claim))),
                    FederateReply::Leftovers(mut some) => leftovers.append(&mut some),
                    FederateReply::Done => break,
                    FederateReply::Begun(_) | FederateReply::Lines(_) => return Err(ShardError::Stopped { core }),
                }
            }
        }
        Ok((claims, leftovers))
    }

    /// The next piece of text; None at the end.
    pub async fn next(&mut self) -> Option<Result<String, StreamError>> {
        let mut text = String::with_capacity(PIECE_BYTES + PIECE_BYTES / 4);
        while text.len() < PIECE_BYTES {
            for (i, core) in self.cores.iter_mut().enumerate() {
                // A piece may have no lines; which name is next is known only when every core has told one.
                while !core.ended && core.name().is_none() {
                    (core.at, core.start) = (0, 0);
                    core.lines = match core.told.recv_async().await {
                        Ok(FederateReply::Lines(lines)) => lines,
                        Ok(FederateReply::Done) => {
                            core.ended = true;
                            Lines::default()
                        }
                        Ok(_) | Err(_) => return Some(Err(StreamError { core: i })),
                    };
                    self.series += core.lines.series;
                }
            }
            let name_of = |sample: &InstantSample| -> Arc<str> { sample.labels.metric_name().into() };
            let leftover = self.waiting.as_ref().map(name_of);
            let Some(name) = self.cores.iter().filter_map(Core::name).chain(&leftover).min().cloned() else { break };
            if self.name.as_ref() != Some(&name) {
                exposition::write_type(&name, "untyped", self.request.escaping, &mut text);
                self.name = Some(name.clone());
            }
            for core in self.cores.iter_mut().filter(|core| core.name() == Some(&name)) {
                let end = core.lines.names[core.at].1;
                text.push_str(&core.lines.text[core.start..end]);
                (core.at, core.start) = (core.at + 1, end);
            }
            while let Some(sample) = self.waiting.take_if(|sample| sample.labels.metric_name() == &*name) {
                let pairs = sample.labels.iter().filter(|(name, _)| *name != METRIC_NAME);
                let newest = Sample { timestamp: sample.timestamp, value: sample.value };
                write_line(&self.request, &name, pairs, newest, &mut text);
                self.series += 1;
                self.waiting = self.leftovers.next();
                if text.len() >= PIECE_BYTES {
                    break;
                }
            }
        }
        (!text.is_empty()).then_some(Ok(text))
    }
}

/// Names first, as the text has them.
fn by_name(one: &InstantSample, other: &InstantSample) -> std::cmp::Ordering {
    let names = one.labels.metric_name().cmp(other.labels.metric_name());
    names.then_with(|| one.labels.cmp(&other.labels))
}

/// What the claims come down to.
struct Chosen {
    owners: Owners,
    /// For every claimed series the time from which on a sample of chunks is newer.
    newest: AHashMap<u64, i64>,
}

impl Chosen {
    fn beats(&self, hash: u64, at: i64) -> bool {
        self.newest.get(&hash).is_none_or(|newest| at > *newest)
    }
}

/// Of several that have a series the one with the newest sample writes it; a series that has ended is nobody's.
fn choose(mut claims: Vec<(usize, Claim)>) -> Chosen {
    claims.sort_unstable_by_key(|(core, claim)| {
        (claim.hash, claim.state, std::cmp::Reverse(claim.at), *core, claim.owner)
    });
    let mut chosen = Chosen { owners: Owners::default(), newest: AHashMap::with_capacity(claims.len()) };
    for same in claims.chunk_by(|(_, one), (_, other)| one.hash == other.hash) {
        let (core, first) = same[0];
        let ended_at =
            same.iter().filter(|(_, claim)| claim.state == ClaimState::EndedAt).map(|(_, claim)| claim.at).max();
        chosen.newest.insert(first.hash, first.at.max(ended_at.unwrap_or(i64::MIN)));
        if ended_at.is_some_and(|at| at > first.at) {
            // None of the leftovers is newer: nobody writes it.
            chosen.owners.insert(first.hash, Owner::Merger);
        } else if same.iter().filter(|(_, claim)| claim.state == ClaimState::Alive).count() > 1 {
            chosen.owners.insert(first.hash, Owner::Target { core, owner: first.owner });
        }
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;
    use ahash::RandomState;
    use exposition::Escaping;
    use promql::budget::Budget;
    use std::time::Duration;

    fn lines(pairs: &[(&str, &str)]) -> Lines {
        let mut lines = Lines::default();
        for (name, text) in pairs {
            lines.begin(&Arc::from(*name));
            lines.text.push_str(text);
            lines.series += text.matches('\n').count() as u64;
            lines.end();
        }
        lines
    }

    /// Merges what these cores tell, with these leftovers.
    async fn merge(cores: Vec<Vec<Lines>>, leftovers: &[(&str, f64)]) -> (String, u64) {
        let mut federation = federation(Vec::new(), leftovers);
        for pieces in cores {
            let (told_to, told) = flume::unbounded();
            pieces.into_iter().for_each(|piece| told_to.send(FederateReply::Lines(piece)).unwrap());
            told_to.send(FederateReply::Done).unwrap();
            let (go, _) = flume::bounded(1);
            federation.cores.push(Core { told, go, lines: Lines::default(), at: 0, start: 0, ended: false });
        }
        let mut text = String::new();
        while let Some(piece) = federation.next().await {
            text.push_str(&piece.unwrap());
        }
        (text, federation.series())
    }

    fn federation(cores: Vec<Core>, leftovers: &[(&str, f64)]) -> Federation {
        let sample = |(name, value): &(&str, f64)| InstantSample {
            labels: Labels::from_pairs([(METRIC_NAME, *name), ("instance", "left")]),
            timestamp: Timestamp(9),
            value: *value,
        };
        let mut leftovers = leftovers.iter().map(sample).collect::<Vec<_>>().into_iter();
        let task = QueryTask::new("", Budget::unlimited(), Arc::default());
        Federation {
            cancel: None,
            task,
            request: Arc::new(FederateRequest {
                selectors: Vec::new(),
                allow: Vec::new(),
                deny: Vec::new(),
                lookback: Duration::from_secs(300),
                external_labels: Labels::from_pairs([("region", "eu")]),
                escaping: Escaping::Underscores,
                names: false,
                hashing: RandomState::new(),
            }),
            cores,
            waiting: leftovers.next(),
            leftovers,
            name: None,
            series: 0,
            begun: FederateSummary::default(),
            after: Timestamp(0),
            store: None,
            gatherer: Gatherer::new(shard::Shards::new(Vec::new(), None)),
            with_deletions: None,
        }
    }

    #[track_caller]
    fn check(cores: Vec<Vec<Lines>>, leftovers: &[(&str, f64)], want: &str) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let (text, series) = runtime.block_on(merge(cores, leftovers));
        assert_eq!(text, want);
        assert_eq!(series as usize, want.lines().filter(|line| !line.starts_with('#')).count());
    }

    #[test]
    fn names_come_in_order_and_once() {
        check(vec![], &[], "");
        check(vec![vec![], vec![lines(&[("b", "b 1\n")])]], &[], "# TYPE b untyped\nb 1\n");
        check(
            vec![
                vec![lines(&[("a", "a 1\n"), ("b", "b 1\n")]), lines(&[("b", "b 2\n"), ("d", "d 1\n")])],
                vec![lines(&[("b", "b 3\n"), ("c", "c 3\n")]), lines(&[("c", "c 4\n")])],
            ],
            &[("c", 5.0), ("e", 6.0)],
            "# TYPE a untyped\na 1\n# TYPE b untyped\nb 1\nb 3\nb 2\n# TYPE c untyped\nc 3\n\
             c{instance=\"left\",region=\"eu\"} 5 9\nc 4\n# TYPE d untyped\nd 1\n\
             # TYPE e untyped\ne{instance=\"left\",region=\"eu\"} 6 9\n",
        );
    }

    #[test]
    fn pieces_are_bounded_and_a_core_that_stops_is_an_error() {
        let long = "x".repeat(PIECE_BYTES);
        let (told_to, told) = flume::unbounded();
        for _ in 0..3 {
            told_to.send(FederateReply::Lines(lines(&[("a", &long)]))).unwrap();
        }
        drop(told_to);
        let (go, _) = flume::bounded(1);
        let core = Core { told, go, lines: Lines::default(), at: 0, start: 0, ended: false };
        let mut federation = federation(vec![core], &[]);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        for _ in 0..3 {
            let piece = runtime.block_on(federation.next()).unwrap().unwrap();
            assert!(piece.len() < PIECE_BYTES + 100, "{}", piece.len());
        }
        assert_eq!(runtime.block_on(federation.next()), Some(Err(StreamError { core: 0 })));
    }

    #[test]
    fn the_newest_owns_a_series() {
        let claim = |core, hash, at, ended: bool, owner| {
            let state = if ended { ClaimState::Ended } else { ClaimState::Alive };
            (core, Claim { hash, at, state, owner })
        };
        let marked = |at| (1, Claim { hash: 6, at, state: ClaimState::EndedAt, owner: 9 });
        let chosen = choose(vec![
            claim(0, 1, 10, false, 4),
            claim(1, 1, 12, false, 5),
            claim(0, 2, 10, false, 4),
            claim(1, 2, 99, true, 5),
            claim(1, 3, 50, true, 5),
            claim(1, 4, 50, false, 7),
            claim(0, 4, 50, false, 8),
            claim(0, 6, 50, false, 8),
            marked(51),
        ]);
        assert_eq!(chosen.owners.get(&6), Some(&Owner::Merger), "its end is newer than its sample elsewhere");
        assert!(!chosen.beats(6, 51) && chosen.beats(6, 52));
        assert!(choose(vec![claim(0, 6, 52, false, 8), marked(51)]).owners.is_empty());
        assert_eq!(chosen.owners.get(&1), Some(&Owner::Target { core: 1, owner: 5 }));
        assert_eq!(chosen.owners.get(&2), None, "a series that ended elsewhere has one owner");
        assert_eq!(chosen.owners.get(&4), Some(&Owner::Target { core: 0, owner: 8 }));
        assert!(!chosen.beats(1, 12) && chosen.beats(1, 13) && !chosen.beats(3, 50) && chosen.beats(5, 1));
    }
}
