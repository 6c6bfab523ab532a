//! The messages between the control plane and a core: commands with their requests, and the replies.
//!
//! Invariant: this module knows neither the queues that carry the messages nor who works on them.

use crate::exemplars::{ExemplarsRequest, StoredExemplar};
use crate::federate::{FederateChannel, FederateRequest};
use crate::status::{CoreStats, InstantSample, Metadata, TargetStatus};
use crate::written::{ReceiveOutcome, ReceiveRequest, WriteError, WriteOutcome, WriteRowsRequest};
use ahash::{AHashMap, AHashSet};
use exposition::Exemplar;
use promql::budget::{Budget, BudgetError, Charge};
use promql::{PartialAggregate, Pushdown};
use series::{Labels, Matcher, Sample, Timestamp};
use std::sync::Arc;
use std::time::Duration;
use targets::{TargetDiff, TargetId};
use tokio::sync::oneshot;
use tsdb::{Elsewhere, Flushable, SeriesPart};

/// What a core can be asked.
#[derive(Debug)]
pub enum Command {
    /// Change the set of targets; answered once the change is live.
    Apply(TargetDiff, oneshot::Sender<()>),
    /// State of every target, in no particular order.
    Statuses(oneshot::Sender<Vec<TargetStatus>>),
    /// Newest values of matching series, in no particular order.
    Instant(Arc<InstantRequest>, Elsewhere, oneshot::Sender<Result<InstantAnswer, LimitError>>),
    /// Newest values of matching series, as text.
    Federate(Arc<FederateRequest>, Elsewhere, FederateChannel),
    /// Samples of matching series that are not in chunks yet.
    Range(Arc<RangeRequest>, oneshot::Sender<Result<RangeAnswer, LimitError>>),
    /// Names, values or label sets of matching series, in memory.
    Labels(Arc<LabelsRequest>, oneshot::Sender<Result<LabelsAnswer, LimitError>>),
    /// Aggregate matching series, for all of these requests in one go; answered as they are asked.
    Reduce(Arc<[ReduceRequest]>, Elsewhere, oneshot::Sender<Vec<Result<ReduceAnswer, LimitError>>>),
    /// Take a row that no scrape brings; answered once the log has it.
    WriteRows(Arc<WriteRowsRequest>, oneshot::Sender<Result<WriteOutcome, WriteError>>),
    /// Take samples that somebody writes to us; answered once the log has them.
    Receive(ReceiveRequest, oneshot::Sender<Result<ReceiveOutcome, WriteError>>),
    /// Everything that is in memory and not in chunks yet: closed segments, and copies of open ones.
    Unflushed(oneshot::Sender<Vec<Arc<dyn Flushable>>>),
    /// Metadata per target.
    Metadata(Arc<MetadataRequest>, oneshot::Sender<Vec<TargetMetadata>>),
    Stats(oneshot::Sender<Box<CoreStats>>),
    /// Exemplars of matching series, with the labels of the series, in the order in which they came.
    Exemplars(Arc<ExemplarsRequest>, oneshot::Sender<Vec<(Labels, StoredExemplar)>>),
    /// Stores exemplars that were written to us: the labels of their source, and with each the other labels of its series;
    /// answered with how many were accepted.
    AppendExemplars(Vec<(Labels, Vec<(Labels, Exemplar)>)>, oneshot::Sender<u64>),
    /// How many exemplars to store; none is 0.
    ResizeExemplars(usize, oneshot::Sender<()>),
    /// How many live series have which label.
    Cardinality(oneshot::Sender<Box<Cardinality>>),
    /// End all scrapes and leave; answered when the core owns nothing any more.
    Shutdown(oneshot::Sender<()>),
}

/// Newest samples of the union of `selectors` (each a list of matchers that must all hold) in
/// `(at - lookback, at]`; series that are stale there are left out.
#[derive(Clone, Debug)]
pub struct InstantRequest {
    pub selectors: Vec<Vec<Matcher>>,
    /// Floats are of interest only where they may be newer than a histogram of their series.
    pub histograms_only: bool,
    pub at: Timestamp,
    pub lookback: Duration,
    /// Most bytes of the answer of a core, beside what the budget bounds; 0 is no limit.
    pub bytes_max: u64,
    pub budget: Budget,
}

/// What a core knows of newest samples.
#[derive(Debug, Default)]
pub struct InstantAnswer {
    /// Of targets about which there is nothing else to know.
    pub samples: Vec<InstantSample>,
    /// Of the others, staleness markers included: chunks may know more. And markers of the first: another head may have
    /// older samples of their series.
    pub partial: Vec<InstantSample>,
    /// Newest histograms, markers included.
    pub histograms: Vec<SeriesPart>,
    /// Ids of the targets behind `samples`.
    pub whole: Vec<u64>,
    /// For what is in this answer.
    pub charge: Option<Charge>,
}

/// Samples of the union of `selectors` in `[from, to]`, staleness markers included.
#[derive(Clone, Debug)]
pub struct RangeRequest {
    pub selectors: Vec<Vec<Matcher>>,
    pub from: Timestamp,
    pub to: Timestamp,
    /// Most samples of the whole answer, beside what the budget bounds; 0 is no limit.
    pub samples_max: usize,
    /// Most bytes of the answer of a core; 0 is no limit.
    pub bytes_max: u64,
    /// Whether start times of the samples are wanted: they come in pieces of their own.
    pub wants_starts: bool,
    pub budget: Budget,
}

/// Samples in memory; several pieces may be of one series.
#[derive(Debug)]
pub struct RangeAnswer {
    pub pieces: Vec<SeriesPart>,
    /// For `pieces`.
    pub charge: Charge,
}

/// A question about the labels of series that satisfy one of `selectors` and have rows in `[from, to]`.
#[derive(Clone, Debug)]
pub struct LabelsRequest {
    /// Each a list of matchers that must all hold; none at all means every series.
    pub selectors: Vec<Vec<Matcher>>,
    pub from: Timestamp,
    pub to: Timestamp,
    pub wanted: LabelsWanted,
    /// Most entries of the answer; 0 is no limit.
    pub limit: usize,
    pub budget: Budget,
}

/// What a question about labels asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LabelsWanted {
    /// Names of labels.
    Names,
    /// Values of the label of this name.
    Values(String),
    /// Label sets of series.
    Series,
}

/// The entries that one core knows; those that a limit cuts off are the last in order.
#[derive(Debug, Default)]
pub struct LabelsAnswer {
    /// Names or values, sorted, each once.
    pub texts: Vec<Arc<str>>,
    /// Label sets, each once, in the order of their metric names and then their own.
    pub series: Vec<Labels>,
    /// Whether the limit cut entries off.
    pub is_truncated: bool,
    /// For what is in this answer.
    pub charge: Option<Charge>,
}

/// An aggregation over the series of a selector with samples in `[from, to]`.
#[derive(Debug)]
pub struct ReduceRequest {
    pub selectors: Vec<Vec<Matcher>>,
    pub from: Timestamp,
    pub to: Timestamp,
    pub reduction: Arc<Pushdown>,
    pub budget: Budget,
}

/// What a core makes of an aggregation.
#[derive(Debug)]
pub struct ReduceAnswer {
    /// Of targets about which there is nothing else to know.
    pub partial: PartialAggregate,
    /// Ids of these targets.
    pub whole: Vec<u64>,
    /// Samples of the other targets in memory.
    pub pieces: Vec<SeriesPart>,
    /// Job and instance of every target in `partial`, hashed: two of the same may have series in common.
    pub identities: Vec<u64>,
    /// Those of the series in `pieces`, which may have them in common with a target in `partial`.
    pub pieces_identities: AHashSet<u64>,
    /// Hashes of the series of sources in `partial`: no two may be the same, nor may one be that of a piece.
    pub series: Vec<u64>,
    /// The aggregation has to be carried out over whole series.
    pub refused: bool,
    /// Samples that were looked at.
    pub samples: usize,
    /// For what is in this answer.
    pub charge: Charge,
}

/// Live series by label.
#[derive(Debug, Default)]
pub struct Cardinality {
    pub series: u64,
    /// Milliseconds of the oldest and the newest row in memory.
    pub min_time: i64,
    pub max_time: i64,
    /// Series by name and value of each of their labels.
    pub pairs: AHashMap<(String, String), u64>,
}

impl Cardinality {
    /// The series of several cores together. Takes as long as there are pairs.
    pub fn sum(of_cores: Vec<Cardinality>) -> Cardinality {
        let sum = |mut all: Cardinality, one: Cardinality| {
            all.series += one.series;
            all.min_time = all.min_time.min(one.min_time);
            all.max_time = all.max_time.max(one.max_time);
            for (pair, series) in one.pairs {
                *all.pairs.entry(pair).or_default() += series;
            }
            all
        };
        of_cores.into_iter().reduce(sum).unwrap_or_default()
    }
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

/// Why a core gives no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LimitError {
    /// More than the request's `samples_max`.
    #[error("query processing would load too many samples into memory in query execution")]
    Samples,
    /// More than the request's `bytes_max`: whoever asks has to ask for less at a time.
    #[error("the series are too large to be read at once")]
    Bytes,
    #[error(transparent)]
    Budget(#[from] BudgetError),
}

/// Bytes that a piece takes in memory.
pub fn piece_bytes(piece: &SeriesPart) -> u64 {
    let histograms = piece.histograms.iter().map(|(_, histogram)| promql::histogram_size(histogram));
    let samples = piece.samples.len() + histograms.sum::<usize>();
    (size_of::<SeriesPart>() + piece.labels.bytes() + (samples + piece.starts.len()) * size_of::<Sample>()) as u64
}

/// Bytes that a newest sample takes in memory.
pub fn instant_sample_bytes(sample: &InstantSample) -> u64 {
    (size_of::<InstantSample>() + sample.labels.bytes()) as u64
}
