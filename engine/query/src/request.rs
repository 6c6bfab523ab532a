//! Requests to the service, and their answers.

use crate::admission::Origin;
use promql::budget::Charge;
use promql::{PlanOptions, QueryResult, SelectedSeries, StepGrid};
use series::{Labels, Matcher, Timestamp};
use std::sync::Arc;
use std::time::Duration;

/// What holds for one query.
#[derive(Clone, Debug)]
pub struct QueryOptions {
    pub plan: PlanOptions,
    /// Longest time, the wait for a place included.
    pub timeout: Duration,
    pub origin: Origin,
    /// For the log of queries.
    pub caller: Option<Arc<Caller>>,
}

/// The answer to a query.
#[derive(Debug)]
pub struct QueryAnswer {
    /// The charge in it is for the memory of the answer, until it has been written.
    pub evaluated: QueryResult,
    /// The times of the answer.
    pub grid: StepGrid,
    pub timings: Timings,
}

impl QueryAnswer {
    /// What it took.
    pub fn cost(&self) -> QueryCost {
        let QueryResult { samples, samples_peak, .. } = self.evaluated;
        QueryCost { timings: self.timings, samples, samples_peak }
    }
}

/// How long the parts of a query took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Timings {
    /// Waiting for a place.
    pub queued: Duration,
    /// Reading what the plan selects.
    pub selected: Duration,
    pub total: Duration,
}

/// Who sent a query, as the log of queries names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// `httpRequest` or `ruleGroup`.
    pub kind: &'static str,
    pub fields: Vec<(&'static str, String)>,
}

/// What a query with an answer took.
#[derive(Clone, Copy, Debug)]
pub struct QueryCost {
    pub timings: Timings,
    pub samples: usize,
    pub samples_peak: usize,
}

/// Series with samples in `[from, to]` that satisfy one of the selectors.
#[derive(Clone, Debug)]
pub struct LabelRequest {
    /// Each a list of matchers that must all hold; none at all means every series.
    pub selectors: Vec<Vec<Matcher>>,
    pub from: Timestamp,
    pub to: Timestamp,
    /// Most entries of the answer; 0 is no limit.
    pub limit: usize,
}

/// Names of labels, or values of one, sorted.
#[derive(Debug)]
pub struct LabelTexts {
    pub texts: Vec<Arc<str>>,
    /// Whether the limit left some out.
    pub is_truncated: bool,
    /// For the memory of the answer, until it has been written.
    pub charge: Charge,
}

/// Label sets of series, sorted.
#[derive(Debug)]
pub struct SeriesLabels {
    pub sets: Vec<Labels>,
    /// Whether the limit left some out.
    pub is_truncated: bool,
    /// For the memory of the answer, until it has been written.
    pub charge: Charge,
}

/// Samples in `[from, to]`, staleness markers included, of series that satisfy all matchers.
#[derive(Clone, Debug)]
pub struct SelectRequest {
    pub matchers: Vec<Matcher>,
    pub from: Timestamp,
    pub to: Timestamp,
    /// Most samples of the answer, beside what memory bounds; 0 is no limit.
    pub samples_max: usize,
}

/// Series as they are stored, sorted by labels.
#[derive(Debug)]
pub struct RawSeries {
    pub series: Vec<SelectedSeries>,
    /// For the memory of the answer, until it has been written.
    pub charge: Charge,
}
