//! How the control plane talks to the cores: bounded commands in, answers out.
//!
//! Invariants:
//!   * a command queue holds at most [`COMMANDS_MAX`]; a sender waits when it is full
//!   * a core that does not answer within [`ANSWER_TIMEOUT`] is an error that names the core, never a silent gap

use crate::federate::{FederateRequest, Talk};
use crate::status::{CoreStats, InstantSample, Metadata, TargetStatus};
use crate::written::{self, NotKept, ReceiveOutcome, ReceiveRequest, Received, WriteOutcome, WriteRowsRequest};
use ahash::{AHashMap, AHashSet};
use promql::{Partial, Reduction};
use series::histogram::ResetHint;
use series::{Labels, Matcher, Sample, Timestamp, Value};
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use targets::{TargetDiff, TargetId};
use tokio::sync::oneshot;
use tsdb::{Piece, Store, Timed};

/// Commands waiting for one core.
pub const COMMANDS_MAX: usize = 256;

/// How long the control plane waits for a core's answer.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// What a core can be asked.
#[derive(Debug)]
pub enum Command {
    /// Change the set of targets; answered once the change is live.
    Apply(TargetDiff, oneshot::Sender<()>),
    /// State of every target, in no particular order.
    Statuses(oneshot::Sender<Vec<TargetStatus>>),
    /// Newest values of matching series, in no particular order.
    Instant(Arc<InstantRequest>, Older, oneshot::Sender<Result<InstantAnswer, LimitError>>),
    /// Newest values of matching series, as text.
    Federate(Arc<FederateRequest>, Older, Talk),
    /// Samples of matching series that are not in chunks yet.
    Range(Arc<RangeRequest>, oneshot::Sender<Result<Vec<Piece>, LimitError>>),
    /// Aggregate matching series, for all of these requests in one go; answered as they are asked.
    Reduce(Arc<[ReduceRequest]>, Older, oneshot::Sender<Vec<Result<ReduceAnswer, LimitError>>>),
    /// Take a row that no scrape brings; answered once the log has it.
    WriteRows(Arc<WriteRowsRequest>, oneshot::Sender<Result<WriteOutcome, NotKept>>),
    /// Take samples that somebody writes to us; answered once the log has them.
    Receive(ReceiveRequest, oneshot::Sender<Result<ReceiveOutcome, NotKept>>),
    /// Begin another segment with each target's next scrape, so that everything scraped so far gets into chunks.
    Seal(oneshot::Sender<()>),
    /// Metadata per target.
    Metadata(Arc<MetadataRequest>, oneshot::Sender<Vec<TargetMetadata>>),
    Stats(oneshot::Sender<Box<CoreStats>>),
    /// How many live series have which label.
    Cardinality(oneshot::Sender<Box<Cardinality>>),
    /// End all scrapes and leave; answered when the core owns nothing any more.
    Shutdown(oneshot::Sender<()>),
}

/// What chunks and blocks hold of the time that a question is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Older {
    Perhaps,
    /// Whatever there is, is in memory.
    Nothing,
}

/// Newest samples of the union of `selectors` (each a list of matchers that must all hold) in
/// `(at - lookback, at]`; series that are stale there are left out.
#[derive(Clone, Debug)]
pub struct InstantRequest {
    pub selectors: Vec<Vec<Matcher>>,
    pub at: Timestamp,
    pub lookback: Duration,
    /// Most series one core may answer with; 0 is no limit.
    pub series_max: usize,
}

/// What a core knows of newest samples.
#[derive(Debug, Default)]
pub struct InstantAnswer {
    /// Of targets about which there is nothing else to know.
    pub samples: Vec<InstantSample>,
    /// Of the others, staleness markers included: chunks may know more.
    pub partial: Vec<InstantSample>,
    /// Newest histograms, markers included.
    pub histograms: Vec<Piece>,
    /// Ids of the targets behind `samples`.
    pub whole: Vec<u64>,
}

/// Samples of the union of `selectors` in `[from, to]`, staleness markers included.
#[derive(Clone, Debug)]
pub struct RangeRequest {
    pub selectors: Vec<Vec<Matcher>>,
    pub from: Timestamp,
    pub to: Timestamp,
    /// Most samples of the whole answer; 0 is no limit.
    pub samples_max: usize,
    /// Only which series there are, not their samples: one stands for all, and a series whose samples in the range were
    /// deleted may be among them.
    pub labels_only: bool,
}

/// An aggregation over the series of a selector with samples in `[from, to]`.
#[derive(Debug)]
pub struct ReduceRequest {
    pub selectors: Vec<Vec<Matcher>>,
    pub from: Timestamp,
    pub to: Timestamp,
    pub reduction: Arc<Reduction>,
    /// Most samples that are loaded; 0 is no limit.
    pub samples_max: usize,
}

/// What a core makes of an aggregation.
#[derive(Debug)]
pub struct ReduceAnswer {
    /// Of targets about which there is nothing else to know.
    pub partial: Partial,
    /// Ids of these targets.
    pub whole: Vec<u64>,
    /// Samples of the other targets in memory.
    pub pieces: Vec<Piece>,
    /// Job and instance of every target in `partial`, hashed: two of the same may have series in common.
    pub identities: Vec<u64>,
    /// Those of the series in `pieces`, which may have them in common with a target in `partial`.
    pub pieces_identities: AHashSet<u64>,
    /// The aggregation has to be carried out over whole series.
    pub refused: bool,
    pub samples: usize,
}

/// A series of an answer: samples in order of time, no two at one time of one kind.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    pub labels: Labels,
    pub samples: Vec<Sample>,
    pub histograms: Timed,
}

/// Newest samples, in no particular order.
#[derive(Debug, Default)]
pub struct InstantFound {
    /// Two targets may yield the same labels.
    pub samples: Vec<InstantSample>,
    /// One histogram each; there may be an older sample of the series.
    pub histograms: Vec<Series>,
}

/// Live series by label.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cardinality {
    pub series: u64,
    /// Milliseconds of the oldest and the newest row in memory.
    pub min_time: i64,
    pub max_time: i64,
    /// Series by name and value of each of their labels.
    pub pairs: AHashMap<(String, String), u64>,
}

/// Which metadata is wanted.
#[derive(Clone, Debug, Default)]
pub struct MetadataRequest {
    /// Only this metric.
    pub metric: Option<String>,
    /// Only targets whose labels satisfy all of these.
    pub target_matchers: Vec<Matcher>,
    /// Most targets one core may answer with; 0 is no limit.
    pub targets_max: usize,
}

/// Metadata that one target exposes.
#[derive(Clone, Debug, PartialEq)]
pub struct TargetMetadata {
    pub target: TargetId,
    /// Shared between targets that expose the same.
    pub metrics: Vec<Arc<Metadata>>,
}

/// An answer would be larger than asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LimitError {
    #[error("more than {series_max} series match on one core; narrow the selector or raise the limit")]
    Series { series_max: usize },
    #[error("query processing would load too many samples into memory in query execution")]
    Samples,
}

/// Why a question to the cores has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    #[error("core {core} did not answer within {} s", ANSWER_TIMEOUT.as_secs())]
    Timeout { core: usize },
    #[error("core {core} has stopped")]
    Stopped { core: usize },
    #[error(transparent)]
    Limit(#[from] LimitError),
    #[error("reading blocks: {0}")]
    Blocks(String),
    #[error(transparent)]
    NotKept(#[from] NotKept),
}

/// The cores, as seen from the control plane. Cloning copies a pointer.
#[derive(Clone, Debug)]
pub struct Shards {
    queues: Arc<[flume::Sender<Command>]>,
    store: Option<Arc<Store>>,
}

impl Shards {
    /// A handle on cores that read these queues, and on the data folder that takes what they close.
    pub fn new(queues: Vec<flume::Sender<Command>>, store: Option<Arc<Store>>) -> Shards {
        Shards { queues: queues.into(), store }
    }

    /// The data folder.
    pub fn store(&self) -> Option<&Arc<Store>> {
        self.store.as_ref()
    }

    /// How many cores there are.
    pub fn count(&self) -> usize {
        self.queues.len()
    }

    /// Changes the targets of one core; returns once the change is live.
    pub async fn apply(&self, core: usize, diff: TargetDiff) -> Result<(), AskError> {
        self.ask(core, |reply| Command::Apply(diff, reply)).await
    }

    /// State of every target of every core, in no particular order.
    pub async fn statuses(&self) -> Result<Vec<TargetStatus>, AskError> {
        Ok(self.ask_all(Command::Statuses).await?.into_iter().flatten().collect())
    }

    /// What the store holds from `from` on.
    pub(crate) fn older(&self, from: Timestamp) -> Older {
        let nothing =
            |store: &Arc<Store>| store.replay().done && store.bounds().is_none_or(|(_, newest)| newest < from.0);
        if self.store.as_ref().is_none_or(nothing) { Older::Nothing } else { Older::Perhaps }
    }

    /// Asks every core with what the store holds; once more, if chunks came into it meanwhile.
    async fn ask_with_older<T>(
        &self,
        from: Timestamp,
        command: impl Fn(Older, oneshot::Sender<T>) -> Command,
    ) -> Result<Vec<T>, AskError> {
        let older = self.older(from);
        let answers = self.ask_all(|reply| command(older, reply)).await?;
        if self.older(from) == older {
            return Ok(answers);
        }
        self.ask_all(|reply| command(Older::Perhaps, reply)).await
    }

    /// Newest values of matching series.
    pub async fn instant(&self, request: InstantRequest) -> Result<InstantFound, AskError> {
        let request = Arc::new(request);
        let after = request.at.plus_ms(-(request.lookback.as_millis() as i64));
        let ask = |older, reply| Command::Instant(request.clone(), older, reply);
        let answers = self.ask_with_older(after.plus_ms(1), ask).await?;
        let mut found = InstantFound::default();
        let mut newest = Newest::default();
        let mut whole = AHashSet::new();
        for answer in answers {
            let mut answer = answer?;
            found.samples.append(&mut answer.samples);
            answer.partial.into_iter().for_each(|sample| newest.take(sample));
            answer.histograms.into_iter().for_each(|piece| newest.take_piece(piece));
            whole.extend(answer.whole);
        }
        let Some(store) = self.store.clone().filter(|store| store.bounds().is_some_and(|(_, newest)| newest > after.0))
        else {
            newest.finish_into(&mut found);
            return Ok(found);
        };
        let stop = StopOnDrop::default();
        let stopping = stop.0.clone();
        let older = tokio::task::spawn_blocking(move || {
            let select = store.select(
                &request.selectors,
                after.plus_ms(1),
                request.at,
                |target| whole.contains(&target),
                &stopping,
                |piece| {
                    newest.take_piece(piece);
                    true
                },
            );
            select.map(|()| newest).map_err(|error| AskError::Blocks(error.to_string()))
        });
        older.await.map_err(|error| AskError::Blocks(error.to_string()))??.finish_into(&mut found);
        Ok(found)
    }

    /// Samples of matching series from memory, chunks and blocks, sorted by labels.
    pub async fn range(&self, request: RangeRequest) -> Result<Vec<Series>, AskError> {
        let request = Arc::new(request);
        // What leaves a core is in chunks by then, and what leaves the chunks is in a block: nothing is missed.
        let answers = self.ask_all(|reply| Command::Range(request.clone(), reply)).await?;
        let mut all: AHashMap<Labels, Samples> = AHashMap::new();
        let taken = AtomicUsize::new(0);
        let take = |all: &mut AHashMap<Labels, Samples>, piece: Piece| {
            let size = weight(&piece);
            let taken = taken.fetch_add(size, Ordering::Relaxed) + size;
            add(all, piece);
            request.samples_max == 0 || taken <= request.samples_max
        };
        for answer in answers {
            for mut piece in answer? {
                if let Some(store) = &self.store {
                    store.hide(&mut piece);
                }
                if !take(&mut all, piece) {
                    return Err(LimitError::Samples.into());
                }
            }
        }
        let all = match self.store.clone() {
            None => all,
            Some(store) => {
                let stop = StopOnDrop::default();
                let stopping = stop.0.clone();
                let (request, mut all, mut count) = (request.clone(), all, taken.into_inner());
                let older = tokio::task::spawn_blocking(move || {
                    let max = if request.samples_max == 0 { usize::MAX } else { request.samples_max };
                    let (from, to) = (request.from, request.to);
                    if request.labels_only {
                        let found = store.select_labels(&request.selectors, from, to, &stopping, |labels, at| {
                            let one = || (vec![Sample { timestamp: at, value: 0.0 }], Vec::new());
                            all.entry(labels).or_insert_with(one);
                        });
                        return found.map(|()| all).map_err(|error| AskError::Blocks(error.to_string()));
                    }
                    let select = store.select(
                        &request.selectors,
                        from,
                        to,
                        |_| false,
                        &stopping,
                        |piece| {
                            count += weight(&piece);
                            add(&mut all, piece);
                            count <= max
                        },
                    );
                    match select {
                        Err(error) => Err(AskError::Blocks(error.to_string())),
                        Ok(()) if count > max => Err(LimitError::Samples.into()),
                        Ok(()) => Ok(all),
                    }
                });
                older.await.map_err(|error| AskError::Blocks(error.to_string()))??
            }
        };
        let mut all: Vec<Series> = all
            .into_iter()
            .map(|(labels, (mut samples, mut histograms))| {
                in_order(&mut samples);
                histograms_in_order(&mut histograms);
                Series { labels, samples, histograms }
            })
            .filter(|series| !series.samples.is_empty() || !series.histograms.is_empty())
            .collect();
        all.sort_unstable_by(|one, other| one.labels.cmp(&other.labels));
        Ok(all)
    }

    /// Carries aggregations out where the samples are; those over the same time read them together. None for one that
    /// needs whole series: then ask for these.
    pub async fn reduce(
        &self,
        requests: Vec<ReduceRequest>,
    ) -> Result<Vec<Result<Option<Partial>, AskError>>, AskError> {
        let Some(from) = requests.iter().map(|request| request.from).min() else { return Ok(Vec::new()) };
        if self.store.as_ref().is_some_and(|store| store.hides()) {
            return Ok(requests.iter().map(|_| Ok(None)).collect());
        }
        let requests: Arc<[ReduceRequest]> = requests.into();
        let ask = |older, reply| Command::Reduce(requests.clone(), older, reply);
        let answers = self.ask_with_older(from, ask).await?;
        let mut of_cores: Vec<_> = answers.into_iter().map(Vec::into_iter).collect();
        let mut all = Vec::with_capacity(requests.len());
        for at in 0..requests.len() {
            let answers = of_cores.iter_mut().filter_map(Iterator::next).collect();
            all.push(self.together(&requests, at, answers).await);
        }
        Ok(all)
    }

    /// What the cores and the chunks say to one of the requests.
    async fn together(
        &self,
        requests: &Arc<[ReduceRequest]>,
        at: usize,
        answers: Vec<Result<ReduceAnswer, LimitError>>,
    ) -> Result<Option<Partial>, AskError> {
        let request = &requests[at];
        let mut all = Partial::new(request.reduction.clone());
        let (mut whole, mut identities) = (AHashSet::new(), AHashSet::new());
        let (mut pieces, mut pieces_identities) = (Vec::new(), AHashSet::new());
        let mut samples = 0;
        for answer in answers {
            let mut answer = answer?;
            if answer.refused || !answer.identities.iter().all(|identity| identities.insert(*identity)) {
                return Ok(None);
            }
            samples += answer.samples;
            all.merge(answer.partial);
            whole.extend(answer.whole);
            pieces.append(&mut answer.pieces);
            pieces_identities.extend(answer.pieces_identities);
        }
        if pieces_identities.iter().any(|identity| identities.contains(identity)) {
            return Ok(None);
        }
        if request.samples_max > 0 && samples > request.samples_max {
            return Err(LimitError::Samples.into());
        }
        let newer = |store: &Arc<Store>| store.bounds().is_some_and(|(_, newest)| newest >= request.from.0);
        let store = self.store.clone().filter(newer);
        if pieces.is_empty() && store.is_none() {
            return Ok(all.is_final().then_some(all));
        }
        let stop = StopOnDrop::default();
        let stopping = stop.0.clone();
        let requests = requests.clone();
        let older = tokio::task::spawn_blocking(move || {
            let request = &requests[at];
            let mut series: AHashMap<Labels, Vec<Sample>> = AHashMap::new();
            let mut any_histograms = false;
            let mut take = |mut piece: Piece| {
                samples += piece.samples.len();
                any_histograms |= !piece.histograms.is_empty();
                series.entry(piece.labels).or_default().append(&mut piece.samples);
                !any_histograms && (request.samples_max == 0 || samples <= request.samples_max)
            };
            let fits = pieces.into_iter().all(&mut take);
            if let (Some(store), true) = (store, fits) {
                let (from, to) = (request.from, request.to);
                let select = store.select(&request.selectors, from, to, |id| whole.contains(&id), &stopping, take);
                select.map_err(|error| AskError::Blocks(error.to_string()))?;
            }
            if any_histograms {
                // These are aggregated as whole series.
                return Ok(None);
            }
            if request.samples_max > 0 && samples > request.samples_max {
                return Err(LimitError::Samples.into());
            }
            let mut names = AHashSet::new();
            for (labels, mut samples) in series {
                if request.reduction.names_vanish() && !names.insert(promql::nameless(&labels)) {
                    return Ok(None);
                }
                in_order(&mut samples);
                if !request.reduction.is_newest() {
                    samples.retain(|sample| !series::is_stale(sample.value));
                }
                if !samples.is_empty() {
                    let place = all.place(&labels);
                    all.add_series(place, &samples);
                }
            }
            Ok(all.is_final().then_some(all))
        });
        older.await.map_err(|error| AskError::Blocks(error.to_string()))?
    }

    /// Writes samples of one time that no scrape brings: what a rule group made. `source` names who brings them; its
    /// series that are not among `rows` end. Returns once the log has them and they can be asked for.
    pub async fn write_rows(
        &self,
        source: &str,
        at: Timestamp,
        rows: Vec<(Labels, Value)>,
    ) -> Result<WriteOutcome, AskError> {
        let core = (written::source_id(source) % self.count() as u64) as usize;
        let request = Arc::new(WriteRowsRequest { source: source.to_owned(), at, rows });
        Ok(self.ask(core, |reply| Command::WriteRows(request, reply)).await??)
    }

    /// Takes samples that somebody writes to us, each with its time. Returns once the log has what could be taken.
    pub async fn receive(&self, series: Vec<Received>) -> Result<ReceiveOutcome, AskError> {
        let mut of_cores: Vec<ReceiveRequest> = (0..self.count()).map(|_| ReceiveRequest::default()).collect();
        for (source, series) in written::source_of(series) {
            let core = (source.hash64() % self.count() as u64) as usize;
            of_cores[core].sources.push((source, series));
        }
        // All cores at once, and all are waited for: each waits for a write of its log.
        let mut asked = tokio::task::JoinSet::new();
        for (core, request) in of_cores.into_iter().enumerate().filter(|(_, request)| !request.sources.is_empty()) {
            let shards = self.clone();
            asked.spawn(async move { shards.ask(core, |reply| Command::Receive(request, reply)).await });
        }
        let mut all = ReceiveOutcome::default();
        let mut failed = None;
        while let Some(answer) = asked.join_next().await {
            match answer.expect("asking does not panic") {
                Ok(Ok(outcome)) => all.add(outcome),
                Ok(Err(error)) => failed = Some(error.into()),
                Err(error) => failed = Some(error),
            }
        }
        failed.map_or(Ok(all), Err)
    }

    /// Lets everything scraped so far get into chunks, for each target with its next scrape.
    pub async fn seal(&self) -> Result<(), AskError> {
        self.ask_all(Command::Seal).await?;
        Ok(())
    }

    /// Metadata of every target that satisfies the request.
    pub async fn metadata(&self, request: MetadataRequest) -> Result<Vec<TargetMetadata>, AskError> {
        let request = Arc::new(request);
        let answers = self.ask_all(|reply| Command::Metadata(request.clone(), reply)).await?;
        Ok(answers.into_iter().flatten().collect())
    }

    /// Counters of every core, in core order.
    pub async fn stats(&self) -> Result<Vec<CoreStats>, AskError> {
        Ok(self.ask_all(Command::Stats).await?.into_iter().map(|stats| *stats).collect())
    }

    /// Live series by label, over all cores.
    pub async fn cardinality(&self) -> Result<Cardinality, AskError> {
        let mut answers = self.ask_all(Command::Cardinality).await?.into_iter();
        let mut all = answers.next().map(|first| *first).unwrap_or_default();
        for one in answers {
            all.series += one.series;
            all.min_time = all.min_time.min(one.min_time);
            all.max_time = all.max_time.max(one.max_time);
            for (pair, series) in one.pairs {
                *all.pairs.entry(pair).or_default() += series;
            }
        }
        Ok(all)
    }

    /// Ends every core's work.
    pub async fn shutdown(&self) -> Result<(), AskError> {
        self.ask_all(Command::Shutdown).await.map(|_| ())
    }

    pub(crate) async fn tell(&self, core: usize, command: Command) -> Result<(), AskError> {
        let sent = tokio::time::timeout(ANSWER_TIMEOUT, self.queues[core].send_async(command));
        sent.await.map_err(|_| AskError::Timeout { core })?.map_err(|_| AskError::Stopped { core })
    }

    async fn ask<T>(&self, core: usize, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, AskError> {
        let (reply, answer) = oneshot::channel();
        let exchange = async {
            self.queues[core].send_async(command(reply)).await.map_err(|_| AskError::Stopped { core })?;
            answer.await.map_err(|_| AskError::Stopped { core })
        };
        tokio::time::timeout(ANSWER_TIMEOUT, exchange).await.map_err(|_| AskError::Timeout { core })?
    }

    /// Asks every core at once; answers come in core order.
    async fn ask_all<T>(&self, command: impl Fn(oneshot::Sender<T>) -> Command) -> Result<Vec<T>, AskError> {
        let mut answers = Vec::with_capacity(self.count());
        for (core, queue) in self.queues.iter().enumerate() {
            let (reply, answer) = oneshot::channel();
            let send = queue.send_async(command(reply));
            match tokio::time::timeout(ANSWER_TIMEOUT, send).await {
                Err(_) => return Err(AskError::Timeout { core }),
                Ok(Err(_)) => return Err(AskError::Stopped { core }),
                Ok(Ok(())) => answers.push(answer),
            }
        }
        let mut values = Vec::with_capacity(answers.len());
        for (core, answer) in answers.into_iter().enumerate() {
            match tokio::time::timeout(ANSWER_TIMEOUT, answer).await {
                Err(_) => return Err(AskError::Timeout { core }),
                Ok(Err(_)) => return Err(AskError::Stopped { core }),
                Ok(Ok(value)) => values.push(value),
            }
        }
        Ok(values)
    }
}

/// Tells a thread that nobody waits for it any more.
#[derive(Default)]
pub(crate) struct StopOnDrop(pub Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Floats and histograms of a series.
type Samples = (Vec<Sample>, Timed);

fn add(all: &mut AHashMap<Labels, Samples>, mut piece: Piece) {
    let (samples, histograms) = all.entry(piece.labels).or_default();
    samples.append(&mut piece.samples);
    histograms.append(&mut piece.histograms);
}

/// What a piece counts as against the limit of samples.
fn weight(piece: &Piece) -> usize {
    let histograms = piece.histograms.iter().map(|(_, histogram)| promql::histogram_size(histogram));
    piece.samples.len() + histograms.sum::<usize>()
}

/// Sorts by time. What a histogram says of the one before it holds only where that is the same in the end.
fn histograms_in_order(histograms: &mut Timed) {
    if histograms.is_sorted_by(|one, next| one.0 < next.0) {
        return;
    }
    tsdb::in_order(histograms);
    for (_, histogram) in histograms {
        if histogram.hint == ResetHint::NotReset {
            Arc::make_mut(histogram).hint = ResetHint::Unknown;
        }
    }
}

/// At one time a sample goes before a marker, and the first sample stays.
fn in_order(samples: &mut Vec<Sample>) {
    if samples.is_sorted_by(|one, other| one.timestamp < other.timestamp) {
        return;
    }
    samples.sort_by_key(|sample| (sample.timestamp, series::is_stale(sample.value)));
    samples.dedup_by_key(|sample| sample.timestamp);
}

/// The newest sample of each series; at one time a sample goes before a marker.
#[derive(Default)]
pub(crate) struct Newest(AHashMap<Labels, (Timestamp, Value)>);

impl Newest {
    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn take(&mut self, sample: InstantSample) {
        self.take_value(sample.labels, sample.timestamp, Value::Float(sample.value));
    }

    fn take_value(&mut self, labels: Labels, at: Timestamp, value: Value) {
        match self.0.entry(labels) {
            Entry::Vacant(place) => drop(place.insert((at, value))),
            Entry::Occupied(mut best) => {
                let instead = at == best.get().0 && best.get().1.is_stale();
                if at > best.get().0 || instead {
                    best.insert((at, value));
                }
            }
        }
    }

    pub fn take_piece(&mut self, piece: Piece) {
        let newest = piece.histograms.into_iter().max_by_key(|(at, one)| (*at, !series::is_stale(one.sum)));
        if let Some((at, histogram)) = newest {
            self.take_value(piece.labels.clone(), Timestamp(at), Value::Histogram(histogram));
        }
        let newest = piece.samples.iter().max_by_key(|sample| (sample.timestamp, !series::is_stale(sample.value)));
        if let Some(Sample { timestamp, value }) = newest.copied() {
            self.take_value(piece.labels, timestamp, Value::Float(value));
        }
    }

    /// Series whose newest sample is a float.
    pub fn finish(self) -> impl Iterator<Item = InstantSample> {
        let alive = self.0.into_iter().filter(|(_, (_, value))| !value.is_stale());
        alive.filter_map(|(labels, (timestamp, value))| match value {
            Value::Float(value) => Some(InstantSample { labels, timestamp, value }),
            Value::Histogram(_) => None,
        })
    }

    fn finish_into(self, found: &mut InstantFound) {
        for (labels, (timestamp, value)) in self.0.into_iter().filter(|(_, (_, value))| !value.is_stale()) {
            match value {
                Value::Float(value) => found.samples.push(InstantSample { labels, timestamp, value }),
                Value::Histogram(histogram) => {
                    let histograms = vec![(timestamp.0, histogram)];
                    found.histograms.push(Series { labels, samples: Vec::new(), histograms });
                }
            }
        }
    }
}
